"""Find the stack that a map reads, and fill the cache stack of a source."""

from __future__ import annotations

import hashlib
from pathlib import Path

from odc.geo.geobox import GeoBox

from mmnet_maps.grid.tiles import conus_grid
from mmnet_maps.resources import cache_folder
from mmnet_maps.settings import MapSettings
from mmnet_maps.sources import open_source
from mmnet_maps.sources.earthengine.client import signed_in
from mmnet_maps.stack.availability import NotFetchedError, require, require_values
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand
from mmnet_maps.stack.store import Stack


def open_inputs(settings: MapSettings, demand: Demand, *, quiet: bool) -> Path:
    """Find the stack that maps read; for a source it is its cache stack, filled with all inputs of the maps.

    Without a stack and a source, inputs come from Earth Engine if the user is signed in, otherwise from the demo world.

    Raises
    ------
    RequestError
        The source is unknown or its description wrong.
    InputError
        There is no stack at the path, an input is missing in it, or a source cannot give one.
    """
    if settings.stack is not None:
        stack = Stack(settings.stack)
        _require_all(stack, demand)
    else:
        sources = open_source(settings.source or ("earthengine" if signed_in() else "demo"))
        path = cache_folder() / f"{'+'.join(one.name for one in sources)}-{_label(demand.target)}.zarr"
        stack = fetch(path, sources, demand, quiet=quiet)
    require_values(stack, demand.grid, demand.needs, demand.days)
    return stack.path.absolute()


def _require_all(stack: Stack, demand: Demand) -> None:
    """Check all tiles by `availability.require`, so that the error gives the days of all of them."""
    errors: list[NotFetchedError] = []
    for tile in demand.tiles:
        try:
            require(stack, tile.geobox, demand.needs, demand.days)
        except NotFetchedError as error:
            errors.append(error)
    if errors:
        errors[0].days = tuple(sorted({day for error in errors for day in error.days}))
        raise errors[0]


def _label(target: GeoBox) -> str:
    if target == conus_grid():
        return "conus-100m"
    return hashlib.sha256(f"{target.crs} {target.affine} {target.shape}".encode()).hexdigest()[:12]
