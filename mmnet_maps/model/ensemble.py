"""The networks of an engine: those of its checkpoints, and members drawn from them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmnet_maps.model.checkpoint import Checkpoint
from mmnet_maps.model.fused import Entry, SplitNetwork, split
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
    entry, columns
        The first layer of its checkpoint's networks, and the outputs that are its own: members have those of the
        network that they are drawn from.
    in_estimate
        True for a checkpoint's own networks: the estimate is the mean of these.
    member
        Its number among the networks of the standard deviation; None if it is not one of them.
    """

    split: SplitNetwork
    series_mean: Tensor
    series_std: Tensor
    entry: Entry
    columns: slice
    in_estimate: bool
    member: int | None


def split_networks(checkpoints: Sequence[Checkpoint], draws: int, like: Tensor) -> list[Network]:
    """Split the networks of each checkpoint and, after them, the members drawn from them in turn."""
    found = []
    numbers = itertools.count()
    own_are_members = len(checkpoints) > 1 and not draws
    for checkpoint in checkpoints:
        spec = checkpoint.spec
        networks = networks_of(checkpoint.network)
        own = [split(network, spec, like) for network in networks]
        common: dict[str, Any] = {
            "series_mean": torch.tensor(spec.series_mean, device=like.device),
            "series_std": torch.tensor([value or 1.0 for value in spec.series_std], device=like.device),
            "entry": (entry := Entry(own, spec, like)),
        }
        for one, columns in zip(own, entry.columns, strict=True):
            member = next(numbers) if own_are_members else None
            found.append(Network(split=one, columns=columns, in_estimate=True, member=member, **common))
        for k in range(draws):
            source = k % len(networks)
            drawn = split(draw_member(networks[source], checkpoint.seed(k)), spec, like)
            found.append(
                Network(split=drawn, columns=entry.columns[source], in_estimate=False, member=next(numbers), **common)
            )
    return found
