"""The former place of `mmnet_maps.training.observations`, kept for scripts that import from it."""

from mmnet_maps.training.observations import read_observations

__all__ = ["read_observations"]
