"""The kinds of services, by the name of each in the YAML."""

from __future__ import annotations

from collections.abc import Callable

from mmnet_maps.sources.open.config import ServiceConfig
from mmnet_maps.sources.open.earthdata import EarthdataService
from mmnet_maps.sources.open.service import Service
from mmnet_maps.sources.open.stac import StacService
from mmnet_maps.sources.open.thredds import ThreddsService
from mmnet_maps.sources.open.tiles import TilesService
from mmnet_maps.sources.open.wcs import WcsService

KINDS: dict[str, Callable[[str, ServiceConfig], Service]] = {
    "stac": StacService,
    "thredds": ThreddsService,
    "earthdata": EarthdataService,
    "wcs": WcsService,
    "tiles": TilesService,
}


def make_service(name: str, config: ServiceConfig) -> Service:
    """Return the service that a YAML describes; it sends its first request when something is needed."""
    return KINDS[config.kind](name, config)
