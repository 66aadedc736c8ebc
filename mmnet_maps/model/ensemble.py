"""The networks of an engine: those of its checkpoints, and members drawn from them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmnet_maps.model.checkpoint import Checkpoint
from mmnet_maps.model.features import by_column
from mmnet_maps.model.fused import SplitNetwork, split
from mmnet_maps.model.network import draw_member, networks_of


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of the engine: one of a checkpoint's own, or a member drawn from it.

    Attributes
    ----------
    split
        The network in the form that the engine runs.
    series_mean, series_std
        Scales of its encoded series.
    snapshot_scales
        Mean and standard deviation of its encoded numeric snapshot columns, (columns, 1) each.
    source
        Number of the checkpoint's own network that it is or is drawn from, whose first layer it shares.
    in_estimate
        True for a checkpoint's own networks: the estimate is the mean of these.
    member
        Its number among the networks of the standard deviation; None if it is not one of them.
    """

    split: SplitNetwork
    series_mean: Tensor
    series_std: Tensor
    snapshot_scales: tuple[Tensor, Tensor]
    source: int
    in_estimate: bool
    member: int | None


def split_networks(checkpoints: Sequence[Checkpoint], draws: int, like: Tensor) -> list[Network]:
    """Split the networks of each checkpoint and, after them, the members drawn from them in turn."""
    found = []
    numbers = itertools.count()
    own_are_members = len(checkpoints) > 1 and not draws
    for checkpoint in checkpoints:
        spec = checkpoint.spec
        numeric = [k for k, feature in enumerate(by_column(spec.snapshot)) if feature.encoding != "onehot"]
        means, stds = (torch.tensor(values)[numeric, None] for values in (spec.snapshot_mean, spec.snapshot_std))
        scales: dict[str, Any] = {
            "snapshot_scales": (means.to(like.device), stds.where(stds != 0, 1.0).to(like.device)),
            "series_mean": torch.tensor(spec.series_mean, device=like.device),
            "series_std": torch.tensor([value or 1.0 for value in spec.series_std], device=like.device),
        }
        networks = networks_of(checkpoint.network)
        for k, network in enumerate(networks):
            member = next(numbers) if own_are_members else None
            own = split(network, spec, like)
            found.append(Network(split=own, **scales, source=k, in_estimate=True, member=member))
        for k in range(draws):
            source = k % len(networks)
            drawn = split(draw_member(networks[source], checkpoint.seed(k)), spec, like)
            found.append(Network(split=drawn, **scales, source=source, in_estimate=False, member=next(numbers)))
    return found
