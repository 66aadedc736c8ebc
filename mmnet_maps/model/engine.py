"""Columns in, soil moisture out: the same function as the plain networks, without computing anything twice.

The temporal branch is 98 % of MMNet's arithmetic, and about forty pixels below the same weather and temperature cells
share its input. Five steps make use of that:

1. every pixel has a *series cell*, the distinct combination of coarse cells above it (`reader.Block.series_id`);
2. `Engine.encode_series` runs the temporal encoder (`fused._Encoder`) once per series cell, not once per pixel, and
   where the model has several groups of series (`series_groups`), each branch once per cell of its own group;
3. `fused._fuse` puts every BatchNorm into its Linear, and `fused._split` divides a layer that reads snapshot and series
   side by side in two, W [s; t] + b = W_s s + (W_t t + b), so that the second term is computed once per series cell;
4. `Engine.predict` runs the other layers pixel by pixel, in blocks that stay in the cache, and adds the term of the
   pixel's series cell; columns are unpacked and encoded there too, and one-hot columns are a row of a table
   (`fused.Entry`);
5. pixels without a series cell - outside the area, water, off the inputs - are skipped.

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
from mmnet_maps.model.ensemble import Network, split_networks
from mmnet_maps.model.features import (
    Windows,
    as_numbers,
    by_column,
    encode,
    encoded_columns,
    fill_steps,
    step_means,
    unpack,
    used_columns,
)
from mmnet_maps.model.fused import SERIES_CELLS, scratch
from mmnet_maps.model.prediction import Prediction, StoppedError
from mmnet_maps.model.running import RunningPrediction
from mmnet_maps.model.runs import runs_of
from mmnet_maps.model.saved import check_ensemble, days_at_once
from mmnet_maps.model.training_range import TrainingRange
from mmnet_maps.variables import LANDCOVER_CLASSES

T = TypeVar("T")

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Rows of a matrix product: on a CPU its activations stay in the cache, on a GPU they keep all of it busy.
_ROWS = {"cpu": 4_096, "cuda": 262_144}
_MLP = 8  # times as many cells at once as in a Transformer, whose attention takes most of its memory
_VALUES = 30_000_000  # numbers in the terms of the networks of a day that run together
_PIXELS = {"cpu": 65_536, "cuda": 262_144}  # pixels that are gathered and encoded at once


@dataclass(frozen=True, kw_only=True)
class SeriesTerms:
    """The part of some networks that depends on the series alone, for one day's map, by series cell.

    Attributes
    ----------
    networks
        Numbers of the engine's networks.
    values
        For each of them, for each group of the series, a tensor (cells of the group, width), NaN where a value of the
        series is missing.
    outside
        For each group the series cells with a value outside the range seen in training, bool (cells,).
    """

    networks: range
    values: list[list[Tensor]]
    outside: list[Tensor]


class Engine:
    """Run one or several checkpoints, and members drawn from them, over many pixels that share few series.

    Parameters
    ----------
    checkpoints
        The model; several, which must have the same inputs, are an ensemble of all their networks.
    device
        ``auto``, ``cpu`` or ``cuda``; ``auto`` is CUDA where available.
    precision
        ``float32``, or ``bfloat16`` for matrix products, with about three digits.
    draws
        Members drawn from each checkpoint by Monte Carlo dropout (see `network.draw_member`): 0, or at least 2.
    threads
        Cores to use on a CPU (default: as many as torch would).
    pixels, series_cells
        Rows at a time; they change time and memory, not the result.

    Raises
    ------
    RequestError
        An option is unknown, CUDA is requested but unavailable, or the checkpoints have different inputs.
    """

    def __init__(
        self,
        *checkpoints: Checkpoint,
        device: str = "auto",
        precision: str = "float32",
        draws: int = 0,
        threads: int | None = None,
        pixels: int | None = None,
        series_cells: int | None = None,
    ) -> None:
        self.device = torch.device(_check_device(device))
        if precision not in PRECISIONS:
            raise RequestError(f"precision {precision!r} does not exist; use one of {', '.join(PRECISIONS)}")
        check_ensemble(checkpoints, draws)
        self.checkpoints = checkpoints
        self.spec = checkpoints[0].spec
        self.pixels = pixels or _PIXELS[self.device.type]
        self.series_cells = series_cells or SERIES_CELLS[self.device.type]
        self._like = torch.empty(0, device=self.device)
        with torch.inference_mode():
            self._networks = split_networks(checkpoints, draws, self._like.to(PRECISIONS[precision]))
        self._ranges = [TrainingRange(checkpoint.spec, self.device) for checkpoint in checkpoints]
        self._numeric = [feature for feature in self.spec.snapshot if feature.encoding != "onehot"]
        every = encoded_columns(self.spec.series)
        self._columns = [
            [every.index(column) for column in encoded_columns(features)] for features in self.spec.feature_groups
        ]
        self._mlp = [group.branch != "transformer" for group in self.spec.series_groups or ()] or [False]
        self._coded = len(self._numeric) < len(self.spec.snapshot)
        self._process = os.getpid()
        self._pool = _pool(threads or torch.get_num_threads()) if self.device.type == "cpu" else None
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @property
    def members(self) -> int:
        """Number of networks behind the standard deviation; 0 if there is none."""
        return sum(network.member is not None for network in self._networks)

    @property
    def days_at_once(self) -> int:
        """Number of days whose terms may be kept at once; at least one, for which see `encode_days`."""
        return days_at_once(len(self._networks), self.spec.d_model)

    def encode_days(
        self, series: Mapping[str, NDArray[np.float32]], starts: Sequence[int] = (0,), stop: Event | None = None
    ) -> list[Iterable[SeriesTerms]]:
        """Return the terms of each map for `predict`, in bounded memory; for parameters see `encode_series`.

        The terms of several maps, at most `days_at_once`, are computed now. Those of a single map are computed while
        `predict` uses them, for some networks at a time, so that memory does not grow with an ensemble.
        """
        if len(starts) > 1:
            return [[terms] for terms in self.encode_series(series, starts, stop=stop)]
        every = range(len(self._networks))
        cells = sum(len(series[used_columns(series, features)[0]]) for features in self.spec.feature_groups)
        most = max(1, _VALUES // max(1, cells * self.spec.d_model))
        groups = (every[first : first + most] for first in every[::most])
        return [(self.encode_series(series, starts, group, stop)[0] for group in groups)]

    @torch.inference_mode()
    def encode_series(
        self,
        series: Mapping[str, NDArray[np.float32]],
        starts: Sequence[int] = (0,),
        networks: range | None = None,
        stop: Event | None = None,
    ) -> list[SeriesTerms]:
        """Compute the part that depends on the series alone, once per series cell.

        Parameters
        ----------
        series
            By variable, (cells of its group, days) in physical units, oldest day first, NaN where missing.
        starts
            First day of the series of each map. Steps that several maps share are computed once.
        networks
            Numbers of the networks; all by default. Their terms take about 12 MB each for a tile and day.
        stop
            Once it is set, the computation ends with `StoppedError`.

        Returns
        -------
        list of SeriesTerms
            One for each map, in order; for `predict`.
        """
        networks = range(len(self._networks)) if networks is None else networks
        found = [SeriesTerms(networks=networks, values=[[] for _ in networks], outside=[]) for _ in starts]
        for group, features in enumerate(self.spec.feature_groups):
            used = {name: np.ascontiguousarray(series[name]) for name in used_columns(series, features)}
            count = len(next(iter(used.values())))

            def run(
                rows: slice, group: int = group, used: dict[str, NDArray[np.float32]] = used
            ) -> list[tuple[list[Tensor], Tensor]]:
                block = {name: self._to_device(values[rows]) for name, values in used.items()}
                return self._terms(group, block, starts, networks)

            blocks = self._each_block(run, max(count, 1), self.series_cells * (_MLP if self._mlp[group] else 1), stop)
            for terms, window in zip(found, zip(*blocks, strict=True), strict=True):
                for of_network, pieces in zip(
                    terms.values, zip(*(values for values, _ in window), strict=True), strict=True
                ):
                    of_network.append(torch.cat(pieces))
                terms.outside.append(torch.cat([outside for _, outside in window]))
        return found

    def _terms(
        self, group: int, block: Mapping[str, Tensor], starts: Sequence[int], networks: range
    ) -> list[tuple[list[Tensor], Tensor]]:
        """Return, for every map, a group's terms of some networks and its cells outside the range of any model."""
        windows, places = self._steps(starts)
        columns = self._columns[group]
        steps = {name: step_means(days, windows) for name, days in block.items()}
        x = _finite(encode(steps, self.spec.feature_groups[group])).permute(2, 1, 0)  # (steps, cells, columns)
        strange = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        for known in self._ranges:
            strange |= known.outside_series(x, columns)
        values, mean = [], None
        for network in (self._networks[k] for k in networks):
            if network.series_mean is not mean:  # members have that of their checkpoint
                mean = network.series_mean
                scaled = (x - mean[columns]) / network.series_std[columns]
                fill_steps(scaled.movedim(0, 1), windows)
            values.append(network.split.terms(group, scaled, places))
        outside = [strange[place].any(0) for place in places]
        return [(list(terms), part) for *terms, part in zip(*values, outside, strict=True)]

    def _steps(self, starts: Sequence[int]) -> tuple[Windows, list[slice | Tensor]]:
        """Return the distinct steps of all maps as windows of days, and the places of each map's steps among them."""
        if self.spec.step_days is None:
            last = max(starts) + self.spec.steps
            days = [(day, day + 1) for day in range(last)]
            return days, [slice(start, start + self.spec.steps) for start in starts]
        of_map = [[(start + first, start + stop) for first, stop in self.spec.windows] for start in starts]
        every = sorted(set().union(*of_map))
        number = {window: k for k, window in enumerate(every)}
        return every, [torch.tensor([number[window] for window in windows], device=self.device) for windows in of_map]

    def _each_block(self, run: Callable[[slice], T], rows: int, size: int, stop: Event | None) -> list[T]:
        """Return the results for every block of rows, in order; on a CPU each core runs blocks of its own.

        Cores that share every matrix product would wait for each other, even more so while tiles are read and written.
        """

        @torch.inference_mode()
        def inferring(block: slice) -> T:
            if stop is not None and stop.is_set():
                raise StoppedError
            return run(block)

        if os.getpid() != self._process:
            raise RequestError(
                "this process was forked from one in which the network had run, and has none of its threads; start "
                "processes by spawn, as Dask does"
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
        """Estimate the target of each pixel.

        Parameters
        ----------
        columns
            Stored variables or features by name, (n,) or one value for all: physical, float, NaN where missing; or
            packed as in a stack, int16. Land cover as NLCD codes, uint8, or class names.
        terms
            The terms of the map's day from `encode_series`, or groups of them from `encode_days`; every network once.
        series_id
            The row of `terms` for each pixel, (groups, n), or (n,) if it is the same in all groups; negative for
            pixels to skip.
        keep_members
            Return the members themselves as well.
        stop
            Once it is set, the computation ends with `StoppedError`.
        """
        spec, series_id = self.spec, np.broadcast_to(series_id, (len(self._columns), series_id.shape[-1]))
        rows = np.flatnonzero(series_id[0] >= 0)
        used = {name: columns[name] for name in used_columns(columns, spec.snapshot)}
        if spec.target.residual_of:
            used[spec.target.residual_of] = columns[spec.target.residual_of]
        running = RunningPrediction(
            rows.size,
            self.device,
            models=sum(network.in_estimate for network in self._networks),
            members=self.members,
            keep_members=keep_members,
        )

        def run(part: slice, group: SeriesTerms) -> None:
            """Add the output of a group of networks for some of the rows."""
            block, cells, runs = self._block(used, series_id, rows[part])
            codes = block["landcover"].long().expand_as(runs) if self._coded else None
            shape = (len(encoded_columns(self._numeric)), len(runs))
            x = _finite(encode(block, self._numeric, out=scratch("encoded", shape, self._like)))
            outside = [torch.index_select(of_group, 0, own) for of_group, own in zip(group.outside, cells, strict=True)]
            running.outside[part] |= torch.index_select(torch.stack(outside).any(0), 0, runs)
            for known in self._ranges:
                running.outside[part] |= known.outside_snapshot(x, codes)
            for network, values in self._outputs(x, codes, cells, runs, group):
                if spec.target.residual_of:
                    values += block[spec.target.residual_of]
                running.add(part, values, in_estimate=network.in_estimate, member=network.member)

        for group in [terms] if isinstance(terms, SeriesTerms) else terms:
            self._each_block(partial(run, group=group), rows.size, self.pixels, stop)
            del group  # before the next one is made
        return running.prediction(rows, series_id.shape[1], spec.target.std_factor)

    @torch.inference_mode()
    def predict_standardised(self, snapshot: NDArray[np.float32], series: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the first checkpoint on inputs that are encoded and standardised, each row with its own series.

        Parameters
        ----------
        snapshot, series
            float32 (n, columns) and (n, steps, columns).

        Returns
        -------
        ndarray, float32 (n,)
            The mean of its networks' outputs; the variable of a residual target is not added.
        """
        mean, std = np.array([self.spec.snapshot_mean, self.spec.snapshot_std], np.float32)
        encoded = snapshot * np.where(std == 0, np.float32(1), std) + mean
        columns = by_column(self.spec.snapshot)
        numeric = [k for k, feature in enumerate(columns) if feature.encoding != "onehot"]
        place = [k for k, feature in enumerate(columns) if feature.encoding == "onehot"]
        codes = None
        if place:
            classes = columns[place[0]].classes
            first = torch.tensor([LANDCOVER_CLASSES[label][0] for label in classes])
            codes = first[encoded[:, place].argmax(1)].to(self.device)
        entered = self._networks[0].entry(torch.from_numpy(encoded[:, numeric]).T.to(self.device), codes)
        scaled = torch.from_numpy(series).to(self.device).movedim(0, 1)
        every = [slice(0, self.spec.steps)]
        found = []
        for network in self._networks[: self.spec.networks]:
            terms = [network.split.terms(group, scaled[..., own], every)[0] for group, own in enumerate(self._columns)]
            found.append(network.split.target(entered[:, network.columns], torch.stack(terms).sum(0)))
        return torch.stack(found).mean(0).cpu().numpy()

    def _outputs(
        self, x: Tensor, codes: Tensor | None, cells: Tensor, runs: Tensor, group: SeriesTerms
    ) -> Iterator[tuple[Network, Tensor]]:
        """Yield every network of a group and its output, (n,); for `cells` and `runs` see `runs.runs_of`."""
        size, count, entry = _ROWS[self.device.type], len(runs), None
        for k, (term, *others) in zip(group.networks, group.values, strict=True):
            network, found = self._networks[k], torch.empty(count, device=self.device)
            if network.entry is not entry:  # networks and members have that of their checkpoint
                entry = network.entry
                entered = entry(x, codes)
            own_entered = entered[:, network.columns]
            shape = (cells.shape[1], term.shape[1])
            of_runs = torch.index_select(term, 0, cells[0], out=scratch("runs", shape, term))
            for other, own in zip(others, cells[1:], strict=True):
                of_runs += torch.index_select(other, 0, own, out=scratch("other", shape, term))
            for part in (slice(start, start + size) for start in range(0, count, size)):
                memory = scratch("term", (len(runs[part]), term.shape[1]), term)
                gathered = torch.index_select(of_runs, 0, runs[part], out=memory)
                found[part] = network.split.target(own_entered[part], gathered)
            yield network, found

    def _block(
        self, columns: Mapping[str, NDArray[Any]], series_id: NDArray[np.integer], rows: NDArray[np.intp]
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return columns and runs (`runs.runs_of`) of pixels on the device; a GPU copies while it computes."""
        pixels: slice | NDArray[np.intp] = rows
        if rows[-1] - rows[0] + 1 == rows.size:
            pixels = slice(rows[0], rows[-1] + 1)  # ten times as fast
        packed = [name for name, values in columns.items() if values.dtype == np.int16]
        steps = scratch("packed", (len(packed), rows.size), torch.empty(0, dtype=torch.int16)).numpy()
        for row, name in zip(steps, packed, strict=True):
            row[:] = columns[name] if columns[name].size == 1 else columns[name][pixels]
        others = {
            name: np.array(values if values.size == 1 else values[pixels])
            for name, values in columns.items()
            if name not in packed
        }
        if "landcover" in others:  # may be class names
            others["landcover"] = as_numbers("landcover", others["landcover"])
        parts = steps, *runs_of(np.stack([of_group[pixels] for of_group in series_id]))
        with torch.cuda.stream(self._copies):  # None on a CPU
            block = {name: self._to_device(values) for name, values in others.items()}
            of_stack, cells, runs = map(self._to_device, parts)
        if self._copies is not None:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_stream(self._copies)
            for tensor in (*block.values(), of_stack, cells, runs):
                tensor.record_stream(computing)
        physical = unpack(packed, of_stack, scratch("physical", (2, *of_stack.shape), self._like))
        return block | dict(zip(packed, physical, strict=True)), cells, runs

    def _to_device(self, values: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor if self._copies is None else tensor.pin_memory().to(self.device, non_blocking=True)


def _pool(threads: int) -> ThreadPoolExecutor:
    """Start threads that run torch on one core each; the number that torch uses elsewhere does not change."""
    before, ready = torch.get_num_threads(), Barrier(threads + 1)

    def start() -> None:
        torch.get_num_threads()  # the first call in a thread adopts the global number
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="mmnet-engine", initializer=start)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)
    return pool


def _finite(x: Tensor) -> Tensor:
    """Set infinities to NaN, in place: ReLU would turn one into a number."""
    return torch.nan_to_num_(x, nan=np.nan, posinf=np.nan, neginf=np.nan)


def _check_device(device: str) -> str:
    if device not in DEVICES:
        raise RequestError(f"device {device!r} does not exist; use one of {', '.join(DEVICES)}")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise RequestError("device 'cuda' is unavailable: torch finds no GPU; use --device cpu")
    return ("cuda" if available else "cpu") if device == "auto" else device
