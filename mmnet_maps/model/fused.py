# ruff: noqa: F722  (shapes in annotations are not Python)
"""The networks in the form that the engine runs: fused, split in two, and without copies.

`split` turns a plain network into a `SplitNetwork`: `SplitNetwork.terms` is the part that depends on the series alone,
run once per series cell; `Entry` and `SplitNetwork.target` are the other part, run once per pixel. All work on blocks,
in memory that each thread uses again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from threading import local
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mmnet_maps.model.features import encoded_columns, onehot_table
from mmnet_maps.model.network import MLP, GroupedMMNet, MMNet, StepsMLP, Transformer
from mmnet_maps.model.spec import ModelSpec

if TYPE_CHECKING:
    from jaxtyping import Float, Int

SERIES_CELLS = {"cpu": 256, "cuda": 8_192}
"""Rows of the temporal encoder at a time, by device: its attention takes 2 000 numbers per row."""

_NORM_EPS = 1e-5  # as in torch's LayerNorm

_FLOORS = 64  # rows that are compared with a row of floors at a time: one by one takes 1.6 times as long


class _Layer(NamedTuple):
    """A linear layer, or the scale and shift of a normalisation."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, module: Any) -> Self:
        return cls(module.weight, module.bias)

    def to(self, like: Tensor) -> _Layer:
        return _Layer(self.weight.to(like), self.bias.to(like))


def _fuse(linear_: Any, norm: Any) -> _Layer:
    """Fuse a Linear and the BatchNorm after it into one linear layer."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return _Layer(linear_.weight * scale[:, None], (linear_.bias - norm.running_mean) * scale + norm.bias)


def _fused_layers(chain: nn.Sequential) -> list[_Layer]:
    """Return the fused layers of a chain of Linear, BatchNorm, ReLU and dropout, which may end in a Linear alone."""
    modules = [module for module in chain if isinstance(module, nn.Linear | nn.BatchNorm1d)]
    layers = zip(modules[::2], modules[1::2], strict=False)
    fused = [_fuse(a, b) for a, b in layers if isinstance(a, nn.Linear) and isinstance(b, nn.BatchNorm1d)]
    return fused + ([_Layer.of(modules[-1])] if isinstance(modules[-1], nn.Linear) else [])


def _split(layer: _Layer, first: int) -> tuple[_Layer, _Layer]:
    """Split W [s; t] + b into W_s s, over the first columns, and W_t t + b."""
    weight, bias = layer
    return _Layer(weight[:, :first], torch.zeros_like(bias)), _Layer(weight[:, first:], bias)


class _Scratch(local):
    """Memory that a thread uses again: the system clears fresh memory first, which takes as long as a matrix product.

    The previous content of a slot is lost; slots are named so that none is overwritten while it is still needed.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[Any, ...], Tensor] = {}
        self._views: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, slot: str, shape: Sequence[int], like: Tensor) -> Tensor:
        key = (slot, like.dtype, like.device)
        view = self._views.get(key)
        if view is not None and view.shape == shape:  # mostly: one block is as long as the last
            return view
        size = math.prod(shape)
        if key not in self._held or self._held[key].numel() < size:
            self._held[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        self._views[key] = self._held[key][:size].view(*shape)
        return self._views[key]


scratch = _Scratch()


class Entry:
    """The snapshot's first layer, of some networks of one kind: numeric columns times a matrix, plus a row of a table.

    The scales of standardised columns are part of both. The table holds, for each land cover code, the bias plus the
    contribution of the one-hot columns; NaN where the model has no such class.

    Attributes
    ----------
    columns
        The outputs of each network.
    """

    def __init__(self, networks: Sequence[SplitNetwork], spec: ModelSpec, like: Tensor) -> None:
        layers = [network.entry for network in networks]
        ends = [0, *accumulate(len(layer.bias) for layer in layers)]
        self.columns = [slice(*pair) for pair in pairwise(ends)]
        mean = torch.tensor(spec.snapshot_mean, dtype=torch.float64)
        std = torch.tensor([value or 1.0 for value in spec.snapshot_std], dtype=torch.float64)
        weight = torch.cat([layer.weight for layer in layers]) / std
        table = torch.cat([layer.bias for layer in layers]).expand(256, -1)
        numeric: list[int] = []
        place = 0
        for feature in spec.snapshot:
            columns = range(place, place := place + len(feature.columns))
            if feature.encoding == "onehot":
                table = table + (onehot_table(feature) - mean[[*columns]]) @ weight[:, [*columns]].T
            else:
                numeric += columns
        full = like.float()  # numbers that are centred alone need more than three digits
        self._mean, self._table = mean[numeric, None].to(full), table.to(full)
        self._weight = weight[:, numeric].T.contiguous().to(full)
        self._activate, self._like = networks[0].entry_is_activated, like

    def __call__(self, x: Float[Tensor, "columns n"], codes: Int[Tensor, " n"] | None) -> Float[Tensor, "n out"]:
        """Return the layer, from encoded numeric columns and land cover codes.

        It stays until the thread calls this or another one again.
        """
        entered = scratch("entered", (x.shape[1], self._weight.shape[1]), self._weight)
        if codes is None:
            entered.copy_(self._table[:1].expand_as(entered))
        else:
            torch.index_select(self._table, 0, codes, out=entered)
        entered.addmm_(torch.sub(x, self._mean, out=scratch("centred", x.shape, x)).T, self._weight)
        return (torch.relu_(entered) if self._activate else entered).to(self._like)


class _Chain:
    """Layers with ReLU, one after the other, without a bias to add: relu(W x + b) = max(W x, -b) + b.

    The last term is left to the next layer, whose bias absorbs it, and after the last layer to the caller: the output
    of the chain is too small by `rest`, a constant per column.
    """

    def __init__(self, name: str, layers: Sequence[_Layer], like: Tensor) -> None:
        self.name = name
        self.steps: list[tuple[Tensor, Tensor]] = []  # weights, and the floors of some rows one after the other
        self.rest = torch.zeros(layers[0].weight.shape[1], dtype=torch.float64)
        for weight, bias in layers:
            floor = -(bias + weight @ self.rest).to(like)
            self.rest = -floor.double().cpu()  # rounded like the floor, so that an inactive unit is exactly 0
            self.steps.append((weight.T.contiguous().to(like), floor.repeat(_FLOORS)))

    def __call__(self, x: Float[Tensor, "n into"]) -> Float[Tensor, "n out"]:
        x = x.to(self.steps[0][0])
        for k, (weight, floors) in enumerate(self.steps):
            n, width = x.shape[0], weight.shape[1]
            x = torch.mm(x, weight, out=scratch(f"{self.name} {k}", (n, width), x))
            rows = x if n % _FLOORS else x.view(n // _FLOORS, _FLOORS * width)
            torch.maximum(rows, floors[: rows.shape[1]], out=rows)
        return x


def _add_product(x: Float[Tensor, "n out"], a: Float[Tensor, "n into"], layer: _Layer) -> Float[Tensor, "n out"]:
    """Add the output of a layer for `a` to `x`, in place; the sum stays in the precision of `x`."""
    x.add_(layer.bias)
    weight = layer.weight.T
    return x.addmm_(a, weight) if x.dtype == weight.dtype else x.add_(torch.mm(a.to(weight), weight))


def _normalise(x: Float[Tensor, "n d_model"], norm: _Layer) -> Float[Tensor, "n d_model"]:
    """Apply layer normalisation, in place."""
    x.sub_(x.mean(-1, keepdim=True))
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    x.mul_(scale.square_().div_(x.shape[-1]).add_(_NORM_EPS).rsqrt_())
    return torch.addcmul(norm.bias, x, norm.weight, out=x)


class _Regression:
    """The decoder: from an embedding to the target; its last product is always in float32."""

    def __init__(self, decoder: nn.Sequential, like: Tensor) -> None:
        *layers, last = _fused_layers(decoder)
        self.chain = _Chain("decoder", layers, like)
        self.last = _Layer(last.weight[0], last.bias + last.weight @ self.chain.rest).to(like.float())

    def __call__(self, x: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        return torch.mv(self.chain(x).float(), self.last.weight).add_(self.last.bias)


class _Attention:
    """One layer of the Transformer. In bfloat16 the inputs and outputs of products are rounded, but no other sum."""

    def __init__(self, layer: nn.TransformerEncoderLayer, like: Tensor) -> None:
        attention = layer.self_attn
        self.heads = attention.num_heads
        scale = torch.ones(3, attention.embed_dim, dtype=torch.float64)
        scale[0] /= (attention.embed_dim // self.heads) ** 0.5  # the scale of the queries, moved into their weights
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
        """Apply attention and feedforward, each added to its input and normalised, in place."""
        mixed = self._mix(*qkv.view(3, self.heads, len(qkv) // 3 // self.heads, *qkv.shape[1:]))
        _normalise(_add_product(x, mixed.T, self.out), self.norm1)
        return _normalise(_add_product(x, self.up(x), self.down), self.norm2)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "d_model tokens"]:
        """Return softmax(q k) v of every head; q, k, v are (heads, width, steps, n)."""
        heads, width, steps, n = q.shape
        score = torch.mul(q[:, 0, :, None], k[:, 0, None], out=scratch("score", (heads, steps, steps, n), q))
        for d in range(1, width):
            score.addcmul_(q[:, d, :, None], k[:, d, None])
        share = torch.softmax(score, 2, out=scratch("share", score.shape, q))
        mixed = torch.mul(share[:, None, :, 0], v[:, :, None, 0], out=scratch("mixed", q.shape, q))
        for step in range(1, steps):
            mixed.addcmul_(share[:, None, :, step], v[:, :, None, step])
        return mixed.flatten(0, 1).flatten(1)


class _Encoder:
    """The temporal branch: a shared MLP, positions, the Transformer, the mean over steps.

    Tokens are (step, row, feature): a step is contiguous in memory, so positions and means need no copies. The product
    returns queries, keys and values in the other order, (feature, step, row): attention over few steps with narrow
    heads is then plain arithmetic along the rows, five times faster than a product of tiny matrices.
    """

    def __init__(self, network: Any, like: Tensor) -> None:
        transformer = network.transformerencoder
        assert isinstance(transformer.norm, nn.LayerNorm)
        self.entry, *layers = (_fuse(layer.lin, layer.bn) for layer in network.encoder_d)
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
        self, entered: Float[Tensor, "every n width"], places: Sequence[slice | Tensor] = (slice(None),)
    ) -> list[Float[Tensor, "n d_model"]]:
        """Return the embedding of each map's series from the output of `entry` for every step.

        `places` are the steps of each map. Values that do not depend on the place of a step in a series, which are the
        tokens and their queries, keys and values without the positions' share, are computed once for all maps.
        """
        x = self.chain(torch.relu(entered).flatten(0, 1)).float().add_(self.rest)
        tokens = _normalise(x, self.norm).view(*entered.shape[:2], x.shape[1])  # (every, n, d_model)
        first, *others = self.attention
        weight = first.qkv.weight
        rows = tokens.flatten(0, 1).to(weight)
        product = torch.mm(weight, rows.T, out=scratch("product", (len(weight), len(rows)), rows))
        product = product.view(len(weight), *tokens.shape[:2])  # queries, keys and values of every step
        found = []
        for place in places:
            part, own = product[:, place], tokens[place]
            qkv = torch.add(part, self.qkv_of_positions, out=scratch("qkv", part.shape, x))
            y = torch.add(own, self.positions, out=scratch("step", own.shape, x))
            y = first(y.flatten(0, 1), qkv)
            for layer in others:
                weight = layer.qkv.weight
                qkv = torch.mm(weight, y.to(weight).T).view_as(qkv).float() + layer.qkv.bias.float()[:, None, None]
                y = layer(y, qkv)
            found.append(_normalise(y, self.final).view(self.steps, entered.shape[1], y.shape[1]).mean(0))
        return found


class _StepsMLP:
    """A branch of a linear layer over all steps, a chain and a normalisation."""

    def __init__(self, network: StepsMLP, like: Tensor) -> None:
        self.entry, *layers = _fused_layers(network.encoder)
        self.chain, full = _Chain("steps", layers, like), like.float()
        self.inputs = copy.deepcopy(network).to(full).inputs
        self.rest, self.norm = self.chain.rest.to(full), _Layer.of(network.norm).to(full)

    def __call__(self, entered: Float[Tensor, "n width"]) -> Float[Tensor, "n d_model"]:
        """Return the embedding from the output of `entry`."""
        return _normalise(self.chain(torch.relu_(entered)).float().add_(self.rest), self.norm)


class _Branch:
    """A group's branch and its columns of the fusion layer: their product is the group's share of the term."""

    def __init__(self, network: nn.Module, fusion: _Layer, like: Tensor) -> None:
        self.encoder = _StepsMLP(network, like) if isinstance(network, StepsMLP) else _Encoder(network, like)
        self.entry, self.fusion = self.encoder.entry.to(like.float()), fusion.to(like)

    def terms(self, series: Tensor, places: Sequence[slice | Tensor]) -> list[Tensor]:
        """Return the group's share of each map's term from its standardised series (every, n, columns)."""
        embeddings: Iterable[Tensor]
        if isinstance(self.encoder, _Encoder):
            embeddings = self.encoder(linear(series, *self.entry), places)
        else:
            rows = (self.encoder.inputs(series[place].movedim(0, 1)) for place in places)  # (n, inputs) each
            embeddings = (self.encoder(linear(row, *self.entry)) for row in rows)  # each in the memory of the last
        return [linear(e.to(self.fusion.weight), *self.fusion) for e in embeddings]


class SplitNetwork(Protocol):
    """A network in two parts: one depends on the series alone, the other on the snapshot too.

    Attributes
    ----------
    entry
        The snapshot's part of the first layer, which `Entry` runs; it is the same for all members drawn from a network.
    entry_is_activated
        Whether ReLU follows before anything is added.
    """

    entry: _Layer
    entry_is_activated: bool

    def terms(
        self, group: int, series: Float[Tensor, "every n columns"], places: Sequence[slice | Tensor]
    ) -> list[Float[Tensor, "n width"]]:
        """Return the part that depends on a group of the series alone; `places` are the steps of each map."""

    def target(self, entered: Float[Tensor, "n entered"], term: Float[Tensor, "n width"]) -> Float[Tensor, " n"]:
        """Return the target from the first layer and each pixel's terms, added up, which are overwritten."""


class _MMNet:
    """Branches fused late: the fusion layer's sum over the embeddings of all groups of series is the term."""

    entry_is_activated = True

    def __init__(self, network: MMNet | GroupedMMNet, spec: ModelSpec, like: Tensor) -> None:
        entry, *layers = _fused_layers(network.encoder_s)
        (fusion,) = _fused_layers(network.fusion)
        of_snapshot, *of_groups = torch.split(fusion.weight, spec.d_model, dim=1)
        self.entry, self.chain = entry, _Chain("snapshot", layers, like)
        self.of_snapshot, self.regression = of_snapshot.T.contiguous().to(like), _Regression(network.decoder, like)
        bias = fusion.bias + of_snapshot @ self.chain.rest
        self.branches = []
        branches = network.branches if isinstance(network, GroupedMMNet) else [network]
        for branch, weight in zip(branches, of_groups, strict=True):
            self.branches.append(_Branch(branch, _Layer(weight, bias), like))
            bias = torch.zeros_like(bias)  # it counts once

    def terms(self, group: int, series: Tensor, places: Sequence[slice | Tensor]) -> list[Tensor]:
        return self.branches[group].terms(series, places)

    def target(self, entered: Tensor, term: Tensor) -> Tensor:
        return self.regression(torch.relu_(term.addmm_(self.chain(entered), self.of_snapshot)))


class _MLP:
    """Snapshot and series side by side from the first layer on: the layer's sum over the series is the term."""

    entry_is_activated = False

    def __init__(self, network: MLP, spec: ModelSpec, like: Tensor) -> None:
        entry, *layers = _fused_layers(network.encoder)
        self.entry, of_series = _split(entry, len(encoded_columns(spec.snapshot)))
        self.full, self.of_series = network.full, of_series.to(like.float())
        self.chain = _Chain("snapshot", layers, like)
        self.regression = _Regression(network.decoder, like)
        self.rest = self.chain.rest.to(like)

    def terms(self, group: int, series: Tensor, places: Sequence[slice | Tensor]) -> list[Tensor]:
        own = [series[place] for place in places]  # (steps, n, columns) each
        rows = [steps.movedim(0, 1).flatten(1) if self.full else steps[-1] for steps in own]
        return [linear(row, *self.of_series).to(self.rest) for row in rows]

    def target(self, entered: Tensor, term: Tensor) -> Tensor:
        return self.regression(self.chain(torch.relu_(term.add_(entered))).add_(self.rest))


class _Transformer:
    """The series alone: the term is the target."""

    entry_is_activated = False

    def __init__(self, network: Transformer, spec: ModelSpec, like: Tensor) -> None:
        self.encoder = _Encoder(network, like)
        self.series_entry, self.regression = self.encoder.entry.to(like.float()), _Regression(network.decoder, like)
        columns = len(encoded_columns(spec.snapshot))
        self.entry = _Layer(*(torch.zeros(shape, dtype=torch.float64) for shape in ((0, columns), (0,))))

    def terms(self, group: int, series: Tensor, places: Sequence[slice | Tensor]) -> list[Tensor]:
        return [self.regression(e)[:, None] for e in self.encoder(linear(series, *self.series_entry), places)]

    def target(self, entered: Tensor, term: Tensor) -> Tensor:
        return term[:, 0]


class _FullTransformer:
    """The snapshot at every step, so that the encoder runs once per pixel; only its first layer has a term."""

    entry_is_activated = False

    def __init__(self, network: Transformer, spec: ModelSpec, like: Tensor) -> None:
        self.encoder = _Encoder(network, like)
        self.entry, of_series = _split(self.encoder.entry, len(encoded_columns(spec.snapshot)))
        self.of_series, self.like = of_series.to(like.float()), like
        self.regression = _Regression(network.decoder, like)

    def terms(self, group: int, series: Tensor, places: Sequence[slice | Tensor]) -> list[Tensor]:
        entered = linear(series, *self.of_series).to(self.like).movedim(0, 1)  # (n, every, width)
        return [entered[:, place].flatten(1) for place in places]

    def target(self, entered: Tensor, term: Tensor) -> Tensor:
        of_steps = term.view(len(term), self.encoder.steps, entered.shape[1]).movedim(1, 0) + entered
        parts = torch.split(of_steps, SERIES_CELLS[term.device.type], dim=1)
        return torch.cat([self.regression(self.encoder(part)[0]) for part in parts])


def split(network: nn.Module, spec: ModelSpec, like: Tensor) -> SplitNetwork:
    """Return a network in the form that the engine runs; products of weights are formed in float64, then rounded."""
    exact = copy.deepcopy(network).double().cpu()
    if isinstance(exact, MMNet | GroupedMMNet):
        return _MMNet(exact, spec, like)
    if isinstance(exact, MLP):
        return _MLP(exact, spec, like)
    assert isinstance(exact, Transformer)
    return (_FullTransformer if exact.full else _Transformer)(exact, spec, like)
