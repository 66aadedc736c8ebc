# ruff: noqa: F722  (shapes in annotations are not Python)
"""Columns in, soil moisture out: the same function as the plain networks, without doing anything twice.

The temporal Transformer is 96 % of MMNet's arithmetic, and the ~50 pixels under the same weather and temperature cells
share its input. Five steps make use of that:

1. every pixel knows its *pair*, the distinct combination of coarse cells above it (`block.pairs`);
2. `Engine.encode_series` runs the temporal encoder (`_Encoder`) once a pair, not once a pixel;
3. `_fold` puts every BatchNorm into its Linear, and `_split` cuts a layer that reads snapshot and series side by side
   in two, W [s; t] + b = W_s s + (W_t t + b), so that the second term is computed once a pair;
4. `Engine.predict` runs the rest, pixel by pixel, in blocks that stay in the cache, and adds the pair's term where it
   belongs; columns are unpacked and encoded there too, and one-hot columns are a row of a table (`_Entry`);
5. pixels without a pair - outside the area, water, off the inputs - are never looked at.

The modules of `network` are the readable reference; results differ from theirs by float32 rounding alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier, local
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import linear

from mmnet_maps.checkpoint import Checkpoint
from mmnet_maps.errors import RequestError
from mmnet_maps.features import (
    Feature,
    as_numbers,
    encode,
    encoded_columns,
    limits,
    onehot_table,
    unpacked,
    used_columns,
)
from mmnet_maps.network import MLP, MMNet, Transformer, draw_member
from mmnet_maps.spec import ModelSpec
from mmnet_maps.variables import LANDCOVER_CLASSES

if TYPE_CHECKING:
    from jaxtyping import Float, Int

T = TypeVar("T")

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_NORM_EPS = 1e-5  # of torch's LayerNorm
# Rows of a product of matrices: on a CPU its activations stay in the cache, a GPU is filled.
_ROWS = {"cpu": 4_096, "cuda": 262_144}
_PIXELS = {"cpu": 16_384, "cuda": 262_144}  # pixels that are gathered and encoded at once
_PAIRS = {"cpu": 256, "cuda": 8_192}  # attention takes 2 000 numbers a pair


class _Layer(NamedTuple):
    """A linear layer, or the scale and shift of a normalisation."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, module: Any) -> Self:
        return cls(module.weight, module.bias)

    def to(self, like: Tensor) -> _Layer:
        return _Layer(self.weight.to(like), self.bias.to(like))


def _fold(linear_: Any, norm: Any) -> _Layer:
    """BatchNorm after Linear as one linear layer."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return _Layer(linear_.weight * scale[:, None], (linear_.bias - norm.running_mean) * scale + norm.bias)


def _folded(chain: nn.Sequential) -> list[_Layer]:
    """The layers of a chain of Linear, BatchNorm, ReLU and dropout, which may end in a Linear alone."""
    modules = [module for module in chain if isinstance(module, nn.Linear | nn.BatchNorm1d)]
    pairs = zip(modules[::2], modules[1::2], strict=False)
    folded = [_fold(a, b) for a, b in pairs if isinstance(a, nn.Linear) and isinstance(b, nn.BatchNorm1d)]
    return folded + ([_Layer.of(modules[-1])] if isinstance(modules[-1], nn.Linear) else [])


def _split(layer: _Layer, first: int) -> tuple[_Layer, _Layer]:
    """W [s; t] + b as W_s s, of the first columns, and W_t t + b."""
    weight, bias = layer
    return _Layer(weight[:, :first], torch.zeros_like(bias)), _Layer(weight[:, first:], bias)


class _Scratch(local):
    """Memory that a thread uses over and over: the system clears fresh memory first, which takes as long as a product.

    What a slot held before is lost; slots are named so that nothing is asked for while it is still needed.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, slot: str, shape: Sequence[int], like: Tensor) -> Tensor:
        size, key = math.prod(shape), (slot, like.dtype, like.device)
        if key not in self._held or self._held[key].numel() < size:
            self._held[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return self._held[key][:size].view(*shape)


_scratch = _Scratch()


class _Entry:
    """The first layer of the snapshot: standardised numeric columns times a matrix, plus a row of a table.

    The table holds, for each land cover code, the bias and what the one-hot columns add to it; NaN where the model has
    no such class.
    """

    def __init__(self, layer: _Layer, spec: ModelSpec, like: Tensor) -> None:
        mean = torch.tensor(spec.snapshot_mean, dtype=torch.float64)
        std = torch.tensor([value or 1.0 for value in spec.snapshot_std], dtype=torch.float64)
        table = layer.bias.expand(256, -1)
        numeric: list[int] = []
        place = 0
        for feature in spec.snapshot:
            columns = range(place, place := place + len(feature.columns))
            if feature.encoding == "onehot":
                scaled = (onehot_table(feature) - mean[[*columns]]) / std[[*columns]]  # (256, classes)
                table = table + scaled @ layer.weight[:, [*columns]].T
            else:
                numeric += columns
        self.weight, self.table = layer.weight[:, numeric].to(like), table.to(like)
        self.mean, self.std = (part[numeric, None].float().to(like.device) for part in (mean, std))

    def __call__(self, x: Float[Tensor, "columns n"], codes: Int[Tensor, " n"] | None) -> Float[Tensor, "n out"]:
        """Before activation, from encoded numeric columns and land cover codes."""
        scaled = torch.sub(x, self.mean, out=_scratch("scaled", x.shape, x)).div_(self.std).to(self.weight)
        entered = _scratch("entered", (x.shape[1], len(self.weight)), scaled)
        if codes is None:
            entered.copy_(self.table[:1].expand_as(entered))
        else:
            torch.index_select(self.table, 0, codes, out=entered)
        return entered.addmm_(scaled.T, self.weight.T)


class _Chain:
    """Layers with ReLU, one after the other, without a bias to add: relu(W x + b) = max(W x, -b) + b.

    The last term is left to the next layer, whose bias takes it in, and after the last layer to the caller: what the
    chain returns is too small by `rest`, a constant of each column.
    """

    def __init__(self, name: str, layers: Sequence[_Layer], like: Tensor) -> None:
        self.name = name
        self.steps: list[tuple[Tensor, Tensor]] = []
        self.rest = torch.zeros(layers[0].weight.shape[1], dtype=torch.float64)
        for weight, bias in layers:
            floor = -(bias + weight @ self.rest).to(like)
            self.rest = -floor.double().cpu()  # as rounded, so that a unit at rest is exactly 0
            self.steps.append((weight.T.contiguous().to(like), floor))

    def __call__(self, x: Float[Tensor, "n into"]) -> Float[Tensor, "n out"]:
        x = x.to(self.steps[0][0])
        for k, (weight, floor) in enumerate(self.steps):
            x = torch.mm(x, weight, out=_scratch(f"{self.name} {k}", (len(x), len(floor)), x))
            torch.maximum(x, floor, out=x)
        return x


def _add_product(x: Float[Tensor, "n out"], a: Float[Tensor, "n into"], layer: _Layer) -> Float[Tensor, "n out"]:
    """Add what a layer makes of `a` to `x`, in place; the sum stays in the precision of `x`."""
    x.add_(layer.bias)
    weight = layer.weight.T
    return x.addmm_(a, weight) if x.dtype == weight.dtype else x.add_(torch.mm(a.to(weight), weight))


def _normalise(x: Float[Tensor, "n d_model"], norm: _Layer) -> Float[Tensor, "n d_model"]:
    """Layer normalisation, in place."""
    x.sub_(x.mean(-1, keepdim=True))
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    x.mul_(scale.square_().div_(x.shape[-1]).add_(_NORM_EPS).rsqrt_())
    return torch.addcmul(norm.bias, x, norm.weight, out=x)


class _Regression:
    """The decoder: from an embedding to the target; its last product is always in float32."""

    def __init__(self, decoder: nn.Sequential, like: Tensor) -> None:
        *layers, last = _folded(decoder)
        self.chain = _Chain("decoder", layers, like)
        self.last = _Layer(last.weight, last.bias + last.weight @ self.chain.rest).to(like.float())

    def __call__(self, x: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        return linear(self.chain(x).float(), *self.last)[:, 0]


class _Attention:
    """One layer of the Transformer. Only the factors of products are ever rounded to bfloat16, not the sums."""

    def __init__(self, layer: nn.TransformerEncoderLayer, like: Tensor) -> None:
        attention = layer.self_attn
        self.heads = attention.num_heads
        scale = torch.ones(3, attention.embed_dim, dtype=torch.float64)
        scale[0] /= (attention.embed_dim // self.heads) ** 0.5  # of the queries, put into their weights
        qkv = _Layer(attention.in_proj_weight * scale.view(-1, 1), attention.in_proj_bias * scale.view(-1))
        down = _Layer.of(layer.linear2)
        full = like.float()
        self.qkv = qkv.to(like)
        self.out = _Layer(attention.out_proj.weight.to(like), attention.out_proj.bias.to(full))
        self.up = _Chain("feedforward", [_Layer.of(layer.linear1)], like)
        self.down = _Layer(down.weight.to(like), (down.bias + down.weight @ self.up.rest).to(full))
        self.norm1, self.norm2 = (_Layer.of(part).to(full) for part in (layer.norm1, layer.norm2))

    def __call__(
        self, x: Float[Tensor, "tokens d_model"], qkv: Float[Tensor, "three_d_model steps n"]
    ) -> Float[Tensor, "tokens d_model"]:
        """Attention and feedforward, each added to its input and normalised, in place."""
        mixed = self._mix(*qkv.view(3, self.heads, len(qkv) // 3 // self.heads, *qkv.shape[1:]))
        _normalise(_add_product(x, mixed.T, self.out), self.norm1)
        return _normalise(_add_product(x, self.up(x), self.down), self.norm2)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "d_model tokens"]:
        """softmax(q k) v of every head; q, k, v are (heads, width, steps, n)."""
        heads, width, steps, n = q.shape
        score = torch.mul(q[:, 0, :, None], k[:, 0, None], out=_scratch("score", (heads, steps, steps, n), q))
        for d in range(1, width):
            score.addcmul_(q[:, d, :, None], k[:, d, None])
        share = torch.softmax(score, 2, out=_scratch("share", score.shape, q))
        mixed = torch.mul(share[:, None, :, 0], v[:, :, None, 0], out=_scratch("mixed", q.shape, q))
        for step in range(1, steps):
            mixed.addcmul_(share[:, None, :, step], v[:, :, None, step])
        return mixed.flatten(0, 1).flatten(1)


class _Encoder:
    """The temporal branch: a shared MLP, positions, the Transformer, the mean over steps.

    Tokens are (step, row, feature): a step is one piece of memory, so positions and means need no copies. Queries, keys
    and values come out of their product the other way round, (feature, step, row): attention over few steps with narrow
    heads is then plain arithmetic along the rows, five times faster than a product of tiny matrices.
    """

    def __init__(self, network: MMNet | Transformer, like: Tensor) -> None:
        transformer = network.transformerencoder
        assert isinstance(transformer.norm, nn.LayerNorm)
        self.entry, *layers = (_fold(layer.lin, layer.bn) for layer in network.encoder_d)
        self.chain = _Chain("tokens", layers, like)
        full = like.float()
        self.rest = self.chain.rest.to(full)
        self.norm = _Layer.of(network.inlayernorm).to(full)
        self.steps = len(network.position_enc.pe) - 1
        positions = network.position_enc.pe[: self.steps]  # (steps, d_model)
        self.positions = positions.to(full)[:, None]
        self.attention = [_Attention(layer, like) for layer in transformer.layers]
        first = _Layer(*(part.to(positions) for part in self.attention[0].qkv))
        self.qkv_of_positions = linear(positions, *first).T[:, :, None].to(full)  # (3 d_model, steps, 1)
        self.final = _Layer.of(transformer.norm).to(full)

    def __call__(
        self, entered: Float[Tensor, "days n width"], starts: Sequence[int] = (0,)
    ) -> list[Float[Tensor, "n d_model"]]:
        """Embedding of the windows that begin at `starts`, from what `entry` makes of consecutive days.

        What does not depend on the place of a day in its window, the tokens and their queries, keys and values but for
        the positions' share, is computed once for all windows.
        """
        x = self.chain(torch.relu(entered).flatten(0, 1)).float().add_(self.rest)
        tokens = _normalise(x, self.norm).view(*entered.shape[:2], x.shape[1])  # (days, n, d_model)
        first, *others = self.attention
        weight = first.qkv.weight
        rows = tokens.flatten(0, 1).to(weight)
        product = torch.mm(weight, rows.T, out=_scratch("product", (len(weight), len(rows)), rows))
        product = product.view(len(weight), *tokens.shape[:2])  # queries, keys and values of every day
        found = []
        for start in starts:
            window = slice(start, start + self.steps)
            part = product[:, window]
            qkv = torch.add(part, self.qkv_of_positions, out=_scratch("qkv", part.shape, x))
            y = torch.add(tokens[window], self.positions, out=_scratch("day", tokens[window].shape, x))
            y = first(y.flatten(0, 1), qkv)
            for layer in others:
                weight = layer.qkv.weight
                qkv = torch.mm(weight, y.to(weight).T).view_as(qkv) + layer.qkv.bias[:, None, None]
                y = layer(y, qkv)
            found.append(_normalise(y, self.final).view(self.steps, entered.shape[1], y.shape[1]).mean(0))
        return found


class _Network(Protocol):
    """A network cut in two: what depends on the series alone, and the rest."""

    def terms(self, series: Float[Tensor, "days n columns"], starts: Sequence[int]) -> list[Float[Tensor, "n width"]]:
        """For the windows of the model's steps that begin at `starts` what the rest needs to know of them."""

    def target(
        self, x: Float[Tensor, "columns n"], codes: Int[Tensor, " n"] | None, term: Float[Tensor, "n width"]
    ) -> Float[Tensor, " n"]:
        """The target from the encoded snapshot and each pixel's term, which is used up."""


class _MMNet:
    """Two branches fused late: the fusion layer's sum over the temporal embedding is the term."""

    def __init__(self, network: MMNet, spec: ModelSpec, like: Tensor) -> None:
        entry, *layers = _folded(network.encoder_s)
        (fusion,) = _folded(network.fusion)
        of_snapshot, of_series = _split(fusion, spec.d_model)
        self.encoder = _Encoder(network, like)
        self.series_entry = self.encoder.entry.to(like.float())
        self.entry, self.chain = _Entry(entry, spec, like), _Chain("snapshot", layers, like)
        self.of_series = _Layer(of_series.weight, of_series.bias + of_snapshot.weight @ self.chain.rest).to(like)
        self.of_snapshot, self.regression = (
            of_snapshot.weight.T.contiguous().to(like),
            _Regression(network.decoder, like),
        )

    def terms(self, series: Tensor, starts: Sequence[int]) -> list[Tensor]:
        embeddings = self.encoder(linear(series, *self.series_entry), starts)
        return [linear(e.to(self.of_snapshot), *self.of_series) for e in embeddings]

    def target(self, x: Tensor, codes: Tensor | None, term: Tensor) -> Tensor:
        e = self.chain(torch.relu_(self.entry(x, codes)))
        return self.regression(torch.relu_(term.addmm_(e, self.of_snapshot)))


class _MLP:
    """Snapshot and series side by side from the first layer on: its sum over the series is the term."""

    def __init__(self, network: MLP, spec: ModelSpec, like: Tensor) -> None:
        entry, *layers = _folded(network.encoder)
        of_snapshot, of_series = _split(entry, len(encoded_columns(spec.snapshot)))
        self.steps, self.full, self.of_series = spec.steps, network.full, of_series.to(like.float())
        self.entry, self.chain = _Entry(of_snapshot, spec, like), _Chain("snapshot", layers, like)
        self.regression = _Regression(network.decoder, like)
        self.rest = self.chain.rest.to(like)

    def terms(self, series: Tensor, starts: Sequence[int]) -> list[Tensor]:
        windows = [series[start : start + self.steps] for start in starts]  # (steps, n, columns) each
        rows = [window.movedim(0, 1).flatten(1) if self.full else window[-1] for window in windows]
        return [linear(row, *self.of_series).to(self.entry.weight) for row in rows]

    def target(self, x: Tensor, codes: Tensor | None, term: Tensor) -> Tensor:
        return self.regression(self.chain(torch.relu_(term.add_(self.entry(x, codes)))).add_(self.rest))


class _Transformer:
    """The series alone: the term is the target."""

    def __init__(self, network: Transformer, spec: ModelSpec, like: Tensor) -> None:
        self.encoder = _Encoder(network, like)
        self.series_entry, self.regression = self.encoder.entry.to(like.float()), _Regression(network.decoder, like)

    def terms(self, series: Tensor, starts: Sequence[int]) -> list[Tensor]:
        return [self.regression(e)[:, None] for e in self.encoder(linear(series, *self.series_entry), starts)]

    def target(self, x: Tensor, codes: Tensor | None, term: Tensor) -> Tensor:
        return term[:, 0]


class _FullTransformer:
    """The snapshot at every step, so that the encoder runs once a pixel; only its first layer has a term."""

    def __init__(self, network: Transformer, spec: ModelSpec, like: Tensor) -> None:
        self.encoder = _Encoder(network, like)
        of_snapshot, of_series = _split(self.encoder.entry, len(encoded_columns(spec.snapshot)))
        self.entry, self.of_series = _Entry(of_snapshot, spec, like), of_series.to(like.float())
        self.regression = _Regression(network.decoder, like)

    def terms(self, series: Tensor, starts: Sequence[int]) -> list[Tensor]:
        entered = linear(series, *self.of_series).to(self.entry.weight).movedim(0, 1)  # (n, days, width)
        return [entered[:, start : start + self.encoder.steps].flatten(1) for start in starts]

    def target(self, x: Tensor, codes: Tensor | None, term: Tensor) -> Tensor:
        entered = term.view(len(term), self.encoder.steps, term.shape[1] // self.encoder.steps).movedim(
            1, 0
        ) + self.entry(x, codes)
        parts = torch.split(entered, _PAIRS[entered.device.type], dim=1)
        return torch.cat([self.regression(self.encoder(part)[0]) for part in parts])


def _cut(network: nn.Module, spec: ModelSpec, like: Tensor) -> _Network:
    """A network in the form that the engine runs; products of weights are formed in float64, then rounded."""
    exact = copy.deepcopy(network).double().cpu()
    if isinstance(exact, MMNet):
        return _MMNet(exact, spec, like)
    if isinstance(exact, MLP):
        return _MLP(exact, spec, like)
    assert isinstance(exact, Transformer)
    return (_FullTransformer if exact.full else _Transformer)(exact, spec, like)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the networks need to know of the series of one day's map, by pair.

    Attributes
    ----------
    values
        For every network a tensor (pairs, width), NaN where a value of the series is missing.
    outside
        Pairs with a value outside the range seen in training, bool (pairs,).
    """

    values: list[Tensor]
    outside: Tensor


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


class _Model:
    """A checkpoint on a device: its network, members drawn from it, and how its inputs are scaled."""

    def __init__(self, checkpoint: Checkpoint, draws: int, like: Tensor) -> None:
        spec = checkpoint.spec
        networks = [checkpoint.network, *(draw_member(checkpoint.network, checkpoint.seed(k)) for k in range(draws))]
        self.networks = [_cut(network, spec, like) for network in networks]
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
            raise RequestError(f"{draws} members have no spread; ask for 0 or for at least 2, such as 20.")
        for other in checkpoints[1:]:
            _check_alike(checkpoints[0], other)
        self.checkpoints = checkpoints
        self.spec = checkpoints[0].spec
        self.pixels, self.pairs = pixels or _PIXELS[self.device.type], pairs or _PAIRS[self.device.type]
        like = torch.empty(0, dtype=PRECISIONS[precision], device=self.device)
        with torch.inference_mode():
            self._models = [_Model(checkpoint, draws, like) for checkpoint in checkpoints]
        self._like = like
        size = 1 + draws
        self._means = [k * size for k in range(len(checkpoints))]
        self._members = [k for k in range(size * len(checkpoints)) if k not in self._means] if draws else self._means
        self._numeric = [feature for feature in self.spec.snapshot if feature.encoding != "onehot"]
        self._coded = len(self._numeric) < len(self.spec.snapshot)
        self._pool = _pool(threads or torch.get_num_threads()) if self.device.type == "cpu" else None
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @property
    def networks(self) -> int:
        """How many networks are run for a pixel."""
        return sum(len(model.networks) for model in self._models)

    @property
    def members(self) -> int:
        """How many networks the standard deviation is taken over; 0 where there is none."""
        return len(self._members) if len(self._members) > 1 else 0

    @torch.inference_mode()
    def encode_series(self, series: Mapping[str, NDArray[np.float32]], starts: Sequence[int] = (0,)) -> list[Terms]:
        """Run what depends on the series alone, once a pair.

        Parameters
        ----------
        series
            By variable, (pairs, days) in physical units, oldest day first, NaN where missing.
        starts
            Where, among the days, the series of each map begins: of several maps what their days share is computed
            once.

        Returns
        -------
        list of Terms
            One for each map, in order; for `predict`.
        """
        used = {name: np.ascontiguousarray(series[name]) for name in used_columns(series, self.spec.series)}
        count = len(next(iter(used.values())))
        blocks = self._each_block(
            lambda rows: self._terms({name: self._to_device(values[rows]) for name, values in used.items()}, starts),
            max(count, 1),
            self.pairs,
        )
        return [
            Terms(
                values=[torch.cat(pieces) for pieces in zip(*(values for values, _ in window), strict=True)],
                outside=torch.cat([outside for _, outside in window]),
            )
            for window in zip(*blocks, strict=True)
        ]

    def _terms(self, block: Mapping[str, Tensor], starts: Sequence[int]) -> list[tuple[list[Tensor], Tensor]]:
        """For every map the terms of all networks, and which pairs lie outside the training range."""
        x = _finite(encode(block, self.spec.series)).permute(2, 1, 0)  # (days, pairs, columns)
        strange = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        values: list[list[Tensor]] = []
        for model in self._models:
            if model.series_limits:
                low, high = model.series_limits
                strange |= ((x < low) | (x > high)).any(2)
            scaled = (x - model.mean) / model.std
            values += [network.terms(scaled, starts) for network in model.networks]
        outside = [strange[start : start + self.spec.steps].any(0) for start in starts]
        return [(list(terms), part) for *terms, part in zip(*values, outside, strict=True)]

    def _each_block(self, run: Callable[[slice], T], rows: int, size: int) -> list[T]:
        """Results for every block of rows, in order; on a CPU each core runs blocks of its own.

        Cores that share every product of matrices would wait for each other, all the more where tiles are read and
        written at the same time.
        """
        blocks = [slice(start, start + size) for start in range(0, rows, size)]
        inferring = torch.inference_mode()(run)
        return [inferring(block) for block in blocks] if self._pool is None else [*self._pool.map(inferring, blocks)]

    @torch.inference_mode()
    def predict(
        self,
        columns: Mapping[str, NDArray[Any]],
        terms: Terms,
        pair: NDArray[np.integer],
        *,
        keep_members: bool = False,
    ) -> Prediction:
        """The target for each pixel.

        Parameters
        ----------
        columns
            Stored variables or features by name, (n,) or one value for all: physical, float, NaN where missing; or
            packed as in a stack, int16. Land cover as NLCD codes, uint8, or class names.
        terms
            From `encode_series`, of the map's day.
        pair
            For each pixel its row of `terms`, (n,); negative where it is not wanted.
        keep_members
            Return the members themselves as well.
        """
        spec, rows = self.spec, np.flatnonzero(pair >= 0)
        used = {name: columns[name] for name in used_columns(columns, spec.snapshot)}
        if spec.target.residual_of:
            used[spec.target.residual_of] = columns[spec.target.residual_of]
        estimate, std = (torch.empty(rows.size, device=self.device) for _ in range(2))
        outside = torch.empty(rows.size, dtype=torch.bool, device=self.device)
        kept = torch.empty((self.members if keep_members else 0, rows.size), device=self.device)

        def run(part: slice) -> None:
            block, which = self._block(used, pair, rows[part])
            codes = block["landcover"].long() if self._coded else None
            x = _finite(encode({name: unpacked(name, values) for name, values in block.items()}, self._numeric))
            x = x.expand(-1, which.numel())
            values = self._values(x, codes, which, terms)
            if spec.target.residual_of:
                values += unpacked(spec.target.residual_of, block[spec.target.residual_of])
            torch.mean(values[self._means], 0, out=estimate[part])
            outside[part] = self._outside(x, codes) | terms.outside[which]
            if self.members:
                torch.std(values[self._members], 0, out=std[part])
                kept[:, part] = values[self._members] if keep_members else values[:0]

        self._each_block(run, rows.size, self.pixels)
        std *= spec.target.std_factor
        return Prediction(
            estimate=_placed(estimate, rows, pair.size, np.nan),
            std=_placed(std, rows, pair.size, np.nan) if self.members else None,
            members=_placed(kept, rows, pair.size, np.nan) if keep_members and self.members else None,
            outside=_placed(outside, rows, pair.size, False),
        )

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
        return network.target(x, codes, network.terms(scaled, (0,))[0]).cpu().numpy()

    def _values(self, x: Tensor, codes: Tensor | None, which: Tensor, terms: Terms) -> Tensor:
        """The output of every network, (networks, n)."""
        networks = [network for model in self._models for network in model.networks]
        found = torch.empty((len(networks), len(which)), device=self.device)
        for start in range(0, len(which), _ROWS[self.device.type]):
            part = slice(start, start + _ROWS[self.device.type])
            rows, inputs = which[part], (x[:, part], None if codes is None else codes[part])
            for out, network, term in zip(found, networks, terms.values, strict=True):
                gathered = _scratch("term", (len(rows), term.shape[1]), term)
                out[part] = network.target(*inputs, torch.index_select(term, 0, rows, out=gathered))
        return found

    def _outside(self, x: Tensor, codes: Tensor | None) -> Tensor:
        found = [model.outside(x, codes) for model in self._models]
        known = [part for part in found if part is not None]
        return torch.stack(known).any(0) if known else torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)

    def _block(
        self, columns: Mapping[str, NDArray[Any]], pair: NDArray[np.integer], rows: NDArray[np.intp]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The columns and pairs of some pixels, on the device; a GPU copies them while it still computes the last."""
        taken = {name: values if values.size == 1 else values[rows] for name, values in columns.items()}
        if "landcover" in taken:  # maybe class names
            taken["landcover"] = as_numbers("landcover", taken["landcover"])
        if self._copies is None:
            return {name: self._to_device(values) for name, values in taken.items()}, self._to_device(pair[rows])
        with torch.cuda.stream(self._copies):
            block = {name: self._to_device(values) for name, values in taken.items()}
            which = self._to_device(pair[rows])
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
    for what in ("snapshot", "series", "steps", "includes_day", "target"):
        if getattr(first.spec, what) != getattr(other.spec, what):
            raise RequestError(
                f"The models {first.spec.name!r} and {other.spec.name!r} differ in {what!r} of model.json; "
                "an ensemble is made of models with the same inputs and target."
            )
