"""The kinds of services, by the name of each in the YAML."""

from __future__ import annotations

from mmnet_maps.sources.open.config import ServiceConfig
from mmnet_maps.sources.open.service import Service
from mmnet_maps.sources.open.stac import StacService

KINDS = {"stac": StacService}


def make_service(name: str, config: ServiceConfig) -> Service:
    """Return the service that a YAML describes; it sends its first request when something is needed."""
    return KINDS[config.kind](name, config)
