# ruff: noqa: F722  (shapes in annotations are not Python)
"""MMNet and the four networks that its paper compares it with (Xu et al., 2025, e2025JH000639)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmnet_maps.model.sizes import Architecture, Branch, Sizes

if TYPE_CHECKING:
    from jaxtyping import Float


class GaussianDropout(nn.Module):
    """In training, multiply each value by noise of mean 1 and standard deviation p / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.std = p / (1 - p)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Multiply by noise in training; return the input otherwise."""
        if not self.training or self.std == 0:
            return x
        return x * (1 + self.std * torch.randn_like(x))


def _layers(*widths: int, dropout: float) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(), GaussianDropout(dropout)]
    return layers


def _encoder(inputs: int, d_model: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*_layers(inputs, d_model // 4, d_model // 2, d_model, dropout=dropout))


def _regression(d_model: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*_layers(d_model, d_model // 2, d_model // 4, dropout=dropout), nn.Linear(d_model // 4, 1))


class SeriesLayer(nn.Module):
    """Linear, BatchNorm over rows x steps, ReLU and Gaussian dropout, shared by all steps."""

    def __init__(self, before: int, after: int, dropout: float) -> None:
        super().__init__()
        self.lin = nn.Linear(before, after)
        self.bn = nn.BatchNorm1d(after)
        self.dropout = GaussianDropout(dropout)

    def forward(self, x: Float[Tensor, "n steps before"]) -> Float[Tensor, "n steps after"]:
        """Apply the layer to every step."""
        rows: Tensor = self.bn(self.lin(x.flatten(0, 1)))  # (n * steps, after)
        noisy: Tensor = self.dropout(torch.relu(rows))
        return noisy.reshape(*x.shape[:2], -1)  # (n, steps, after)


class PositionalTable(nn.Module):
    """Sinusoidal positions as the released code numbers them: the oldest step gets none, step k position k - 1.

    The table has steps + 1 rows: row 0 is zeros, row k holds position k - 1 (sine on even, cosine on odd columns), and
    step k, counted from 0, takes row k.
    """

    pe: Tensor

    def __init__(self, steps: int, d_model: int, base: float) -> None:
        super().__init__()
        # On the CPU even for a network on the meta device: arithmetic there loads torch's compiler, which takes 0.9 s.
        rates = torch.exp(torch.arange(0, d_model, 2, device="cpu") * (-math.log(base) / d_model))  # (d_model / 2,)
        angles = torch.arange(steps, device="cpu").unsqueeze(1) * rates  # (steps, d_model / 2)
        positions = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)  # (steps, d_model), interleaved
        self.register_buffer("pe", torch.cat([torch.zeros(1, d_model, device="cpu"), positions]))

    def forward(self, x: Float[Tensor, "n steps d_model"]) -> Float[Tensor, "n steps d_model"]:
        """Add the rows of the table."""
        return x + self.pe[: x.shape[1]]


class _SeriesNetwork(nn.Module):
    """The temporal branch: a shared MLP, positions, a Transformer encoder, and the mean over steps."""

    def __init__(self, sizes: Sizes, columns: int) -> None:
        super().__init__()
        d_model, dropout = sizes.d_model, sizes.dropout
        widths = (columns, d_model // 4, d_model // 2, d_model)
        self.encoder_d = nn.Sequential(*(SeriesLayer(a, b, dropout) for a, b in pairwise(widths)))
        self.inlayernorm = nn.LayerNorm(d_model)
        self.position_enc = PositionalTable(sizes.steps, d_model, sizes.positional_base)
        layer = nn.TransformerEncoderLayer(d_model, sizes.heads, sizes.feedforward, dropout, batch_first=True)
        self.transformerencoder = nn.TransformerEncoder(
            layer, sizes.layers, norm=nn.LayerNorm(d_model), enable_nested_tensor=False
        )

    def encode_series(self, x: Float[Tensor, "n steps series"]) -> Float[Tensor, "n d_model"]:
        """Return the temporal embedding of standardised series, oldest step first."""
        tokens = self.position_enc(self.inlayernorm(self.encoder_d(x)))  # (n, steps, d_model)
        encoded: Tensor = self.transformerencoder(tokens)
        return encoded.mean(dim=1)


class MMNet(_SeriesNetwork):
    """MMNet: snapshot and temporal branch side by side, fused late, then regression.

    Module names and shapes are those of the released code, so its state dicts load as they are. The output is linear
    and not clamped. Both inputs are standardised.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes, sizes.series)
        d_model, dropout = sizes.d_model, sizes.dropout
        self.encoder_s = _encoder(sizes.snapshot, d_model, dropout)
        self.fusion = nn.Sequential(*_layers(2 * d_model, d_model, dropout=dropout))
        self.decoder = _regression(d_model, dropout)

    def encode_snapshot(self, s: Float[Tensor, "n snapshot"]) -> Float[Tensor, "n d_model"]:
        """Return the embedding of the snapshot features."""
        encoded: Tensor = self.encoder_s(s)
        return encoded

    def fuse(self, e_s: Float[Tensor, "n d_model"], e_t: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        """Return the target from the two embeddings."""
        both = torch.cat([e_s, e_t], dim=1)  # (n, 2 * d_model)
        estimate: Tensor = self.decoder(self.fusion(both))  # (n, 1)
        return estimate.squeeze(1)

    def forward(self, s: Float[Tensor, "n snapshot"], x: Float[Tensor, "n steps series"]) -> Float[Tensor, " n"]:
        """Return the target, one value per row."""
        return self.fuse(self.encode_snapshot(s), self.encode_series(x))


class StepsMLP(nn.Module):
    """A small branch: an MLP over all steps of a group of series, normalised like the Transformer's embedding.

    Without the normalisation it extrapolates in hot deserts, which cost R at held-out stations there. Where steps of
    several days are missing, they are 0; an input of their own says so, or the average of a season would count as the
    rain of the last weeks.
    """

    def __init__(self, sizes: Sizes, columns: int, *, more: int = 0) -> None:
        super().__init__()
        self.history = [step for step, days in enumerate(sizes.step_days) if days > 1]
        widths = (sizes.steps * columns + bool(self.history) + more, sizes.d_model // 2, sizes.d_model)
        self.encoder = nn.Sequential(*_layers(*widths, dropout=sizes.dropout))
        self.norm = nn.LayerNorm(sizes.d_model)

    def inputs(self, x: Float[Tensor, "n steps series"]) -> Float[Tensor, "n inputs"]:
        """Return all steps of standardised series, oldest first, and the share of the steps of several days missing."""
        if not self.history:
            return x.flatten(1)
        missing = (x[:, self.history] == 0).all(2).to(x.dtype)  # (n, steps of several days)
        return torch.cat([x.flatten(1), missing.mean(1, keepdim=True)], dim=1)

    def encode_series(self, x: Float[Tensor, "n steps series"]) -> Float[Tensor, "n d_model"]:
        """Return the embedding of standardised series, oldest step first."""
        encoded: Tensor = self.norm(self.encoder(self.inputs(x)))
        return encoded


class WaterMLP(StepsMLP):
    """A `StepsMLP` that also reads the water left in six stores, from the smallest to the largest.

    Rain fills a store up to its capacity, and reference evapotranspiration empties it in proportion to what it holds.
    The stores are half full before the first step and have no weights: the balance of rain and evaporation over weeks,
    with its limits, is what an MLP hardly learns from the rain of single days.
    """

    CAPACITIES = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0)  # mm

    capacities: Tensor
    days: Tensor
    scales: Tensor

    def __init__(self, sizes: Sizes, columns: int) -> None:
        super().__init__(sizes, columns, more=len(self.CAPACITIES))
        constants = {"capacities": self.CAPACITIES, "days": sizes.step_days, "scales": sizes.series_scales[:2]}
        for name, values in constants.items():  # those of the specification: not among the weights
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32, device="cpu"), persistent=False)

    def inputs(self, x: Float[Tensor, "n steps series"]) -> Float[Tensor, "n inputs"]:
        """Return the inputs of a `StepsMLP`, and the share of each store that is full after the last step, -2 to 2."""
        means, stds = self.scales.T
        evaporation, rain = (x[..., :2] * stds + means).unbind(2)  # (n, steps) each; rain as ln(1 + mm)
        lost = evaporation.clamp(min=0) * self.days
        rain = rain.clamp(min=0).expm1() * self.days
        stored = 0.5 * self.capacities.expand(len(x), -1)  # (n, stores)
        for step in range(x.shape[1]):  # the loss is that of the new content, so that long steps are stable too
            filled = stored + rain[:, step, None]
            stored = torch.minimum(filled / (1 + lost[:, step, None] / self.capacities), self.capacities)
        return torch.cat([super().inputs(x), 4 * stored / self.capacities - 2], dim=1)


_BRANCHES: dict[Branch, type[_SeriesNetwork] | type[StepsMLP]] = {
    "transformer": _SeriesNetwork,
    "mlp": StepsMLP,
    "water": WaterMLP,
}


class GroupedMMNet(nn.Module):
    """MMNet with a branch of its own for each group of series, fused late: a group is that of a source grid.

    The branch of a group can then be run once per cell of its own grid, instead of once per combination of cells.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        d_model, dropout = sizes.d_model, sizes.dropout
        self.columns = [columns for columns, _ in sizes.groups]
        branches, scales = [], sizes.series_scales
        for columns, kind in sizes.groups:
            branches.append(_BRANCHES[kind](replace(sizes, series_scales=scales[:columns]), columns))
            scales = scales[columns:]
        self.branches = nn.ModuleList(branches)
        self.encoder_s = _encoder(sizes.snapshot, d_model, dropout)
        self.fusion = nn.Sequential(*_layers((1 + len(branches)) * d_model, d_model, dropout=dropout))
        self.decoder = _regression(d_model, dropout)

    def forward(self, s: Float[Tensor, "n snapshot"], x: Float[Tensor, "n steps series"]) -> Float[Tensor, " n"]:
        """Return the target, one value per row."""
        embeddings = [self.encoder_s(s)]
        for branch, part in zip(self.branches, torch.split(x, self.columns, dim=2), strict=True):
            assert isinstance(branch, _SeriesNetwork | StepsMLP)
            embeddings.append(branch.encode_series(part))  # (n, d_model)
        estimate: Tensor = self.decoder(self.fusion(torch.cat(embeddings, dim=1)))  # (n, 1)
        return estimate.squeeze(1)


class MLP(nn.Module):
    """The paper's MLP: snapshot beside the last step of the series, or beside all steps (``full``)."""

    def __init__(self, sizes: Sizes, *, full: bool) -> None:
        super().__init__()
        self.full = full
        columns = sizes.snapshot + sizes.series * (sizes.steps if full else 1)
        self.encoder = _encoder(columns, sizes.d_model, sizes.dropout)
        self.decoder = _regression(sizes.d_model, sizes.dropout)

    def forward(self, s: Float[Tensor, "n snapshot"], x: Float[Tensor, "n steps series"]) -> Float[Tensor, " n"]:
        """Return the target, one value per row."""
        days = x.flatten(1) if self.full else x[:, -1]  # (n, steps * series) or (n, series)
        estimate: Tensor = self.decoder(self.encoder(torch.cat([s, days], dim=1)))  # (n, 1)
        return estimate.squeeze(1)


class Transformer(_SeriesNetwork):
    """The paper's Transformer: the series alone, or with the snapshot appended to every step (``full``)."""

    def __init__(self, sizes: Sizes, *, full: bool) -> None:
        super().__init__(sizes, sizes.series + sizes.snapshot if full else sizes.series)
        self.full = full
        self.decoder = _regression(sizes.d_model, sizes.dropout)

    def forward(self, s: Float[Tensor, "n snapshot"], x: Float[Tensor, "n steps series"]) -> Float[Tensor, " n"]:
        """Return the target, one value per row."""
        if self.full:
            every_step = s.unsqueeze(1).expand(-1, x.shape[1], -1)  # (n, steps, snapshot)
            x = torch.cat([every_step, x], dim=2)  # (n, steps, snapshot + series)
        estimate: Tensor = self.decoder(self.encode_series(x))  # (n, 1)
        return estimate.squeeze(1)


class Committee(nn.Module):
    """Networks of one architecture and size side by side: the estimate is their mean."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, s: Float[Tensor, "n snapshot"], x: Float[Tensor, "n steps series"]) -> Float[Tensor, " n"]:
        """Return the mean target, one value per row."""
        return torch.stack([network(s, x) for network in self.networks]).mean(0)


def networks_of(network: nn.Module) -> list[nn.Module]:
    """Return the networks of a committee; of another network, itself alone."""
    return [*network.networks] if isinstance(network, Committee) else [network]


def build(architecture: Architecture, sizes: Sizes) -> nn.Module:
    """Make an untrained network; every architecture is called as ``network(snapshot, series) -> (n,)``.

    Parameters
    ----------
    architecture
        ``mmnet``; ``mlp``: snapshot and the last step; ``mlp_full``: snapshot and all steps; ``transformer``: the
        series alone; ``transformer_full``: the snapshot appended to every step.
    sizes
        Sizes of inputs and layers; MMNet with groups of series has a branch for each. With several networks, they are
        a `Committee`.

    Examples
    --------
    >>> network = build("mmnet", Sizes(snapshot=28, series=8, steps=11))
    >>> sum(p.numel() for p in network.parameters())
    199681
    """
    if sizes.networks > 1:
        return Committee(build(architecture, replace(sizes, networks=1)) for _ in range(sizes.networks))
    if architecture == "mmnet":
        return GroupedMMNet(sizes) if sizes.groups else MMNet(sizes)
    kind = MLP if architecture.startswith("mlp") else Transformer
    return kind(sizes, full=architecture.endswith("_full"))


def draw_member(network: nn.Module, seed: int) -> nn.Module:
    """Draw a member of the Monte Carlo dropout ensemble of a network: a copy with one draw of the noise in its weights.

    In training every unit is multiplied by noise: Gaussian, or in the Transformer 0 or 1 / (1 - p). One draw per unit,
    for all rows and all steps, is a scale of weights (the shared masks of Gal & Ghahramani, 2016, Adv. Neural Inf.
    Process. Syst. 29), so a member is a plain network. Scaled are the weights that read the unit, so that the first
    layer of a chain is the same in all members; at the end of a chain, the layer that computes it. A Gaussian factor
    below 0, one in 30 000 at p = 0.2, counts as 0, because no scale before a ReLU can represent it. Attention
    probabilities get no noise.

    Parameters
    ----------
    network
        A network of any architecture in this module; it is not changed.
    seed
        The same seed gives the same member.

    Returns
    -------
    nn.Module
        In evaluation mode.
    """
    random = torch.Generator().manual_seed(seed)
    drawn = copy.deepcopy(network).eval()
    with torch.no_grad():
        for module in drawn.modules():
            if isinstance(module, nn.Sequential):
                kinds = (nn.Linear, nn.BatchNorm1d, GaussianDropout)
                parts = [part for part in module.modules() if isinstance(part, kinds)]
                for norm, dropout, after in zip_longest(parts, parts[1:], parts[2:]):
                    if isinstance(norm, nn.BatchNorm1d) and isinstance(dropout, GaussianDropout):
                        factor = 1 + dropout.std * torch.randn(norm.num_features, generator=random)
                        if isinstance(after, nn.Linear):
                            after.weight.mul_(factor.clamp(min=0))
                        else:
                            _scale(norm, factor)
            elif isinstance(module, nn.TransformerEncoderLayer):
                for linear, dropout in (
                    (module.self_attn.out_proj, module.dropout1),
                    (module.linear1, module.dropout),
                    (module.linear2, module.dropout2),
                ):
                    kept = torch.rand(linear.out_features, generator=random) >= dropout.p
                    _scale(linear, kept / (1 - dropout.p))
    return drawn


def _scale(layer: nn.Linear | nn.BatchNorm1d, factor: Tensor) -> None:
    """Multiply the outputs of a layer by factors of at least 0."""
    factor = factor.clamp(min=0)
    layer.weight.mul_(factor if layer.weight.ndim == 1 else factor[:, None])
    layer.bias.mul_(factor)
