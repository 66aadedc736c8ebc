"""Columns in, soil moisture out: the same function as the plain networks, without doing anything twice.

The temporal branch is 98 % of MMNet's arithmetic, and some forty pixels under the same weather and temperature cells
share its input. Five steps make use of that:

1. every pixel knows its *pair*, the distinct combination of coarse cells above it (`reader.Block.pair`);
2. `Engine.encode_series` runs the temporal encoder (`fused._Encoder`) once a pair, not once a pixel;
3. `fused._fold` puts every BatchNorm into its Linear, and `fused._split` cuts a layer that reads snapshot and series
   side by side in two, W [s; t] + b = W_s s + (W_t t + b), so that the second term is computed once a pair;
4. `Engine.predict` runs the rest, pixel by pixel, in blocks that stay in the cache, and adds the pair's term where it
   belongs; columns are unpacked and encoded there too, one-hot columns are a row of a table (`fused._Entry`);
5. pixels without a pair - outside the area, water, off the inputs - are never looked at.

The modules of `network` are the readable reference; results differ from theirs by float32 rounding alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Barrier, Event
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmnet_maps.errors import RequestError
from mmnet_maps.model.checkpoint import Checkpoint
from mmnet_maps.model.features import (
    Feature,
    Windows,
    as_numbers,
    encode,
    fill_steps,
    limits,
    onehot_table,
    step_means,
    unpacked,
    used_columns,
)
from mmnet_maps.model.fused import PAIRS, scratch, split
from mmnet_maps.model.network import draw_member
from mmnet_maps.variables import LANDCOVER_CLASSES

T = TypeVar("T")

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Rows of a product of matrices: on a CPU its activations stay in the cache, a GPU is filled.
_ROWS = {"cpu": 4_096, "cuda": 262_144}
_TERMS = 10  # networks times days whose terms are kept at once
_PIXELS = {"cpu": 16_384, "cuda": 262_144}  # pixels that are gathered and encoded at once


@dataclass(frozen=True, kw_only=True)
class SeriesTerms:
    """What some networks need to know of the series of one day's map, by pair.

    Attributes
    ----------
    networks
        Which of the engine's networks.
    values
        For each of them a tensor (pairs, width), NaN where a value of the series is missing.
    outside
        Pairs with a value outside the range seen in training, bool (pairs,).
    """

    networks: range
    values: list[Tensor]
    outside: Tensor


class StoppedError(Exception):
    """What was asked for is not wanted any more."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says of some pixels.

    Attributes
    ----------
    estimate
        float32 (n,) in the units of the target, not clipped; NaN where an input is missing or there is no pair.
    std
        Standard deviation over the members, likewise; None without members.
    members
        float32 (members, n), where asked for.
    outside
        Pixels with an input outside the range seen in training, bool (n,).
    """

    estimate: NDArray[np.float32]
    std: NDArray[np.float32] | None
    members: NDArray[np.float32] | None
    outside: NDArray[np.bool_]


class _Totals:
    """What the networks say, added up one after the other.

    The spread is the sum of squared deviations from the running mean (Welford, 1962, Technometrics 4).
    """

    def __init__(
        self, undisturbed: range, place: Mapping[int, int], rows: int, device: torch.device, *, keep: bool
    ) -> None:
        self._undisturbed, self._place, self._keep = undisturbed, place, keep and bool(place)
        self._estimate, self._mean, self._spread = torch.zeros((3, rows), device=device)
        self._kept = torch.empty((len(place) if self._keep else 0, rows), device=device)
        self.outside = torch.zeros(rows, dtype=torch.bool, device=device)

    def add(self, network: int, part: slice, values: Tensor) -> None:
        """Add a network's output for some of the rows; members come in their order."""
        if network in self._undisturbed:
            self._estimate[part] += values / len(self._undisturbed)
        if network in self._place:
            place = self._place[network]
            deviation = values - self._mean[part]
            self._mean[part] += deviation / (place + 1)
            self._spread[part] += deviation * (values - self._mean[part])
            if self._keep:
                self._kept[place, part] = values

    def prediction(self, rows: NDArray[np.intp], n: int, std_factor: float) -> Prediction:
        """All of it, in the places `rows` among n."""
        std = (self._spread / max(1, len(self._place) - 1)).sqrt() * std_factor
        return Prediction(
            estimate=_placed(self._estimate, rows, n, np.nan),
            std=_placed(std, rows, n, np.nan) if self._place else None,
            members=_placed(self._kept, rows, n, np.nan) if self._keep else None,
            outside=_placed(self.outside, rows, n, False),
        )


class _Model:
    """A checkpoint on a device: its network, members drawn from it, and how its inputs are scaled."""

    def __init__(self, checkpoint: Checkpoint, draws: int, like: Tensor) -> None:
        spec = checkpoint.spec
        networks = [checkpoint.network, *(draw_member(checkpoint.network, checkpoint.seed(k)) for k in range(draws))]
        self.networks = [split(network, spec, like) for network in networks]
        self.mean = torch.tensor(spec.series_mean, device=like.device)
        self.std = torch.tensor([value or 1.0 for value in spec.series_std], device=like.device)
        self.series_limits = spec.series_range and [end.to(like.device) for end in limits(spec.series_range)]
        self.limits: list[Tensor] | None = None
        if spec.snapshot_range is not None:
            ends = limits(spec.snapshot_range)
            numeric = [k for k, feature in enumerate(_by_column(spec.snapshot)) if feature.encoding != "onehot"]
            self.limits = [end[numeric, None].to(like.device) for end in ends]
            self.codes_outside = self._codes_outside(spec.snapshot, *ends).to(like.device)

    @staticmethod
    def _codes_outside(features: Sequence[Feature], low: Tensor, high: Tensor) -> Tensor:
        """Land cover codes whose one-hot columns lie outside what was seen in training, bool (256,)."""
        found = torch.zeros(256, dtype=torch.bool)
        columns = _by_column(features)
        for feature in (feature for feature in features if feature.encoding == "onehot"):
            place = [k for k, owner in enumerate(columns) if owner is feature]
            table = onehot_table(feature)
            found |= ((table < low[place]) | (table > high[place])).any(1)
        return found

    def outside(self, x: Tensor, codes: Tensor | None) -> Tensor | None:
        """Pixels with an encoded input outside the range seen in training; None where the model knows none."""
        if self.limits is None:
            return None
        low, high = self.limits
        found = ((x < low) | (x > high)).any(0)
        return found if codes is None else found | self.codes_outside[codes]


def _by_column(features: Sequence[Feature]) -> list[Feature]:
    """The feature that each encoded column belongs to."""
    return [feature for feature in features for _ in feature.columns]


class Engine:
    """Runs one or several checkpoints, and members drawn from them, over many pixels that share few series.

    Parameters
    ----------
    checkpoints
        The model; several, which must take the same inputs, are an ensemble.
    device
        ``auto``, ``cpu`` or ``cuda``; ``auto`` takes CUDA where there is one.
    precision
        ``float32``, or ``bfloat16`` for the products of matrices, with about three digits.
    draws
        Members drawn from each checkpoint by Monte Carlo dropout (see `network.draw_member`): 0, or at least 2.
    threads
        Cores to use on a CPU (default: as many as torch would).
    pixels, pairs
        Rows at a time; a matter of time and memory, not of the result.

    Raises
    ------
    RequestError
        When an option is unknown, CUDA is asked for and absent, or the checkpoints take different inputs.
    """

    def __init__(
        self,
        *checkpoints: Checkpoint,
        device: str = "auto",
        precision: str = "float32",
        draws: int = 0,
        threads: int | None = None,
        pixels: int | None = None,
        pairs: int | None = None,
    ) -> None:
        self.device = torch.device(_check_device(device))
        if precision not in PRECISIONS:
            raise RequestError(f"There is no precision {precision!r}; use one of {', '.join(PRECISIONS)}.")
        if draws < 0 or draws == 1:
            raise RequestError(f"An uncertainty needs at least 2 members, such as 20, or 0 for none, not {draws}.")
        for k, other in enumerate(checkpoints):
            _check_alike(checkpoints[0], other)
            if other.sha256 in {one.sha256 for one in checkpoints[:k]}:
                raise RequestError(f"The model {other.spec.name!r} is given twice; an ensemble is of different models.")
        self.checkpoints = checkpoints
        self.spec = checkpoints[0].spec
        self.pixels, self.pairs = pixels or _PIXELS[self.device.type], pairs or PAIRS[self.device.type]
        like = torch.empty(0, dtype=PRECISIONS[precision], device=self.device)
        with torch.inference_mode():
            self._models = [_Model(checkpoint, draws, like) for checkpoint in checkpoints]
        self._networks = [(model, network) for model in self._models for network in model.networks]
        size = 1 + draws
        self._undisturbed = range(0, len(self._networks), size)
        drawn = [k for k in range(len(self._networks)) if k not in self._undisturbed] if draws else self._undisturbed
        self._place = {network: place for place, network in enumerate(drawn)} if len(drawn) > 1 else {}
        self._numeric = [feature for feature in self.spec.snapshot if feature.encoding != "onehot"]
        self._coded = len(self._numeric) < len(self.spec.snapshot)
        self._process = os.getpid()
        self._pool = _pool(threads or torch.get_num_threads()) if self.device.type == "cpu" else None
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @property
    def members(self) -> int:
        """How many networks the standard deviation is taken over; 0 where there is none."""
        return len(self._place)

    @property
    def days_at_once(self) -> int:
        """For how many days terms may be kept at once; for one of a large ensemble, a group of networks at a time."""
        return max(1, _TERMS // len(self._networks))

    def encode_in_groups(
        self, series: Mapping[str, NDArray[np.float32]], starts: Sequence[int] = (0,), stop: Event | None = None
    ) -> Iterator[list[SeriesTerms]]:
        """As `encode_series`, for ten networks at a time, so that memory does not grow with an ensemble.

        Of at most `days_at_once` days; when there are several there is one group.
        """
        every = range(len(self._networks))
        for first in every[::_TERMS]:
            yield self.encode_series(series, starts, every[first : first + _TERMS], stop)

    @torch.inference_mode()
    def encode_series(
        self,
        series: Mapping[str, NDArray[np.float32]],
        starts: Sequence[int] = (0,),
        networks: range | None = None,
        stop: Event | None = None,
    ) -> list[SeriesTerms]:
        """Run what depends on the series alone, once a pair.

        Parameters
        ----------
        series
            By variable, (pairs, days) in physical units, oldest day first, NaN where missing.
        starts
            Where, among the days, the series of each map begins: of several maps what their days share is computed
            once.
        networks
            Which networks; all where left out. Their terms take some 12 MB each for a tile and day.
        stop
            Once it is set, what is under way ends with `StoppedError`.

        Returns
        -------
        list of Terms
            One for each map, in order; for `predict`.
        """
        networks = range(len(self._networks)) if networks is None else networks
        used = {name: np.ascontiguousarray(series[name]) for name in used_columns(series, self.spec.series)}
        count = len(next(iter(used.values())))

        def run(rows: slice) -> list[tuple[list[Tensor], Tensor]]:
            return self._terms({name: self._to_device(values[rows]) for name, values in used.items()}, starts, networks)

        blocks = self._each_block(run, max(count, 1), self.pairs, stop)
        return [
            SeriesTerms(
                networks=networks,
                values=[torch.cat(pieces) for pieces in zip(*(values for values, _ in window), strict=True)],
                outside=torch.cat([outside for _, outside in window]),
            )
            for window in zip(*blocks, strict=True)
        ]

    def _terms(
        self, block: Mapping[str, Tensor], starts: Sequence[int], networks: range
    ) -> list[tuple[list[Tensor], Tensor]]:
        """For every map the terms of some networks, and which pairs lie outside the training range of any model."""
        windows, places = self._steps(starts)
        steps = {name: step_means(days, windows) for name, days in block.items()}
        x = _finite(encode(steps, self.spec.series)).permute(2, 1, 0)  # (steps, pairs, columns)
        strange = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        for model in self._models:
            if model.series_limits:
                low, high = model.series_limits
                strange |= ((x < low) | (x > high)).any(2)
        values = []
        for model, network in (self._networks[k] for k in networks):
            scaled = (x - model.mean) / model.std
            fill_steps(scaled.movedim(0, 1), windows)
            values.append(network.terms(scaled, places))
        outside = [strange[place].any(0) for place in places]
        return [(list(terms), part) for *terms, part in zip(*values, outside, strict=True)]

    def _steps(self, starts: Sequence[int]) -> tuple[Windows, list[slice | Tensor]]:
        """The steps of all maps, each once, as windows of days, and where those of each map are among them."""
        if self.spec.step_days is None:
            last = max(starts) + self.spec.steps
            days = [(day, day + 1) for day in range(last)]
            return days, [slice(start, start + self.spec.steps) for start in starts]
        of_map = [[(start + first, start + stop) for first, stop in self.spec.windows] for start in starts]
        every = sorted(set().union(*of_map))
        number = {window: k for k, window in enumerate(every)}
        return every, [torch.tensor([number[window] for window in windows], device=self.device) for windows in of_map]

    def _each_block(self, run: Callable[[slice], T], rows: int, size: int, stop: Event | None) -> list[T]:
        """Results for every block of rows, in order; on a CPU each core runs blocks of its own.

        Cores that share every product of matrices would wait for each other, all the more where tiles are read and
        written at the same time.
        """

        @torch.inference_mode()
        def inferring(block: slice) -> T:
            if stop is not None and stop.is_set():
                raise StoppedError
            return run(block)

        if os.getpid() != self._process:
            raise RequestError(
                "This process was forked from one in which the network had run, whose threads are not here; start "
                "processes by spawn, as Dask does."
            )
        blocks = [slice(start, start + size) for start in range(0, rows, size)]
        return [inferring(block) for block in blocks] if self._pool is None else [*self._pool.map(inferring, blocks)]

    @torch.inference_mode()
    def predict(
        self,
        columns: Mapping[str, NDArray[Any]],
        terms: SeriesTerms | Iterable[SeriesTerms],
        series_id: NDArray[np.integer],
        *,
        keep_members: bool = False,
        stop: Event | None = None,
    ) -> Prediction:
        """The target for each pixel.

        Parameters
        ----------
        columns
            Stored variables or features by name, (n,) or one value for all: physical, float, NaN where missing; or
            packed as in a stack, int16. Land cover as NLCD codes, uint8, or class names.
        terms
            From `encode_series`, of the map's day; or one after the other of groups of networks, all in all each once.
        pair
            For each pixel its row of `terms`, (n,); negative where it is not wanted.
        keep_members
            Return the members themselves as well.
        stop
            Once it is set, what is under way ends with `StoppedError`.
        """
        spec, rows = self.spec, np.flatnonzero(series_id >= 0)
        used = {name: columns[name] for name in used_columns(columns, spec.snapshot)}
        if spec.target.residual_of:
            used[spec.target.residual_of] = columns[spec.target.residual_of]
        totals = _Totals(self._undisturbed, self._place, rows.size, self.device, keep=keep_members)

        def run(part: slice, group: SeriesTerms) -> None:
            """Add what a group of networks makes of some of the rows."""
            block, which = self._block(used, series_id, rows[part])
            codes = block["landcover"].long().expand_as(which) if self._coded else None
            x = _finite(encode({name: unpacked(name, values) for name, values in block.items()}, self._numeric))
            x = x.expand(-1, which.numel())
            totals.outside[part] |= self._outside(x, codes) | group.outside[which]
            for k, values in self._outputs(x, codes, which, group):
                if spec.target.residual_of:
                    values += unpacked(spec.target.residual_of, block[spec.target.residual_of])
                totals.add(k, part, values)

        for group in [terms] if isinstance(terms, SeriesTerms) else terms:
            self._each_block(partial(run, group=group), rows.size, self.pixels, stop)
            del group  # before the next one is made
        return totals.prediction(rows, series_id.size, spec.target.std_factor)

    @torch.inference_mode()
    def predict_standardised(self, snapshot: NDArray[np.float32], series: NDArray[np.float32]) -> NDArray[np.float32]:
        """The first network's output for inputs that are encoded and standardised, each row with its own series.

        Parameters
        ----------
        snapshot, series
            float32 (n, columns) and (n, steps, columns).

        Returns
        -------
        ndarray, float32 (n,)
            Without what the target may be a residual of.
        """
        model = self._models[0]
        columns = _by_column(self.spec.snapshot)
        numeric = [k for k, feature in enumerate(columns) if feature.encoding != "onehot"]
        place = [k for k, feature in enumerate(columns) if feature.encoding == "onehot"]
        mean, std = (torch.tensor(values) for values in (self.spec.snapshot_mean, self.spec.snapshot_std))
        encoded = torch.from_numpy(snapshot) * torch.where(std == 0, 1, std) + mean
        codes = None
        if place:
            classes = columns[place[0]].classes
            first = torch.tensor([LANDCOVER_CLASSES[label][0] for label in classes])
            codes = first[encoded[:, place].argmax(1)].to(self.device)
        scaled = torch.from_numpy(series).to(self.device).movedim(0, 1)
        network = model.networks[0]
        x = encoded[:, numeric].T.to(self.device)
        return network.target(x, codes, network.terms(scaled, [slice(0, self.spec.steps)])[0]).cpu().numpy()

    def _outputs(
        self, x: Tensor, codes: Tensor | None, which: Tensor, group: SeriesTerms
    ) -> Iterator[tuple[int, Tensor]]:
        """The number of every network of a group and its output, (n,)."""
        size = _ROWS[self.device.type]
        for k, term in zip(group.networks, group.values, strict=True):
            found = torch.empty(len(which), device=self.device)
            for part in (slice(start, start + size) for start in range(0, len(which), size)):
                rows = which[part]
                gathered = torch.index_select(term, 0, rows, out=scratch("term", (len(rows), term.shape[1]), term))
                found[part] = self._networks[k][1].target(x[:, part], None if codes is None else codes[part], gathered)
            yield k, found

    def _outside(self, x: Tensor, codes: Tensor | None) -> Tensor:
        found = [model.outside(x, codes) for model in self._models]
        known = [part for part in found if part is not None]
        return torch.stack(known).any(0) if known else torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)

    def _block(
        self, columns: Mapping[str, NDArray[Any]], series_id: NDArray[np.integer], rows: NDArray[np.intp]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The columns and pairs of some pixels, on the device; a GPU copies them while it still computes the last."""
        taken = {name: values if values.size == 1 else values[rows] for name, values in columns.items()}
        if "landcover" in taken:  # maybe class names
            taken["landcover"] = as_numbers("landcover", taken["landcover"])
        if self._copies is None:
            return {name: self._to_device(values) for name, values in taken.items()}, self._to_device(series_id[rows])
        with torch.cuda.stream(self._copies):
            block = {name: self._to_device(values) for name, values in taken.items()}
            which = self._to_device(series_id[rows])
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._copies)
        for tensor in (*block.values(), which):
            tensor.record_stream(computing)
        return block, which

    def _to_device(self, values: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor if self._copies is None else tensor.pin_memory().to(self.device, non_blocking=True)


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that run torch on one core each; how many torch uses elsewhere stays as it is."""
    before, ready = torch.get_num_threads(), Barrier(threads + 1)

    def start() -> None:
        torch.get_num_threads()  # the first call in a thread takes over the number that is set for all
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="mmnet-engine", initializer=start)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)
    return pool


def _finite(x: Tensor) -> Tensor:
    """NaN for infinities, in place: ReLU would make a number of one."""
    return torch.nan_to_num_(x, nan=np.nan, posinf=np.nan, neginf=np.nan)


def _placed(values: Tensor, rows: NDArray[np.intp], n: int, fill: Any) -> NDArray[Any]:
    """Values (…, rows) in their places among n, `fill` elsewhere."""
    found = values.cpu().numpy()
    if len(rows) == n:
        return found
    full = np.full((*found.shape[:-1], n), fill, found.dtype)
    full[..., rows] = found
    return full


def _check_device(device: str) -> str:
    if device not in DEVICES:
        raise RequestError(f"There is no device {device!r}; use one of {', '.join(DEVICES)}.")
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise RequestError("Device 'cuda' is asked for, but torch finds no GPU; use --device cpu.")
    return ("cuda" if there else "cpu") if device == "auto" else device


def _check_alike(first: Checkpoint, other: Checkpoint) -> None:
    for what in ("snapshot", "series", "steps", "includes_day", "step_days", "target"):
        if getattr(first.spec, what) != getattr(other.spec, what):
            raise RequestError(
                f"The models {first.spec.name!r} and {other.spec.name!r} differ in {what!r} of model.json; "
                "an ensemble is made of models with the same inputs and target."
            )
