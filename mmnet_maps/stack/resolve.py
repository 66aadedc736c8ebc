"""Which inputs a map is made from, and bringing them into a stack."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from odc.geo.geobox import GeoBox

from mmnet_maps.grid.tiles import Tile, conus_grid, stack_lattice
from mmnet_maps.settings import MapSettings
from mmnet_maps.sources import open_source
from mmnet_maps.sources.earthengine.client import signed_in
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.reader import Needs, require, require_values
from mmnet_maps.stack.store import Stack


def open_inputs(
    settings: MapSettings, grid: GeoBox, pieces: Sequence[Tile], needs: Needs, days: Sequence[date], *, quiet: bool
) -> Path:
    """The stack that a map reads; where a source is asked for, the cache stack, filled with what the map needs.

    Where neither is, inputs come from Earth Engine when somebody is signed in to it, else from the demo world.

    Raises
    ------
    RequestError
        When the source is unknown or its description wrong.
    InputError
        When there is no stack at the path, it lacks something, or a source cannot give what is needed.
    """
    if settings.stack is not None:
        stack = Stack(settings.stack)
        for tile in pieces:
            require(stack, tile.geobox, needs, days)
    else:
        sources = open_source(settings.source or ("earthengine" if signed_in() else "demo"))
        target = stack_lattice(grid)
        path = cache_folder() / f"{'+'.join(one.name for one in sources)}-{_label(target)}.zarr"
        stack = fetch(path, sources, target, grid, pieces, needs, days, quiet=quiet)
    require_values(stack, grid, needs, days)
    return stack.path.absolute()


def cache_folder() -> Path:
    """Where fetched inputs are kept: ``$MMNET_CACHE``, else the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("MMNET_CACHE") or platformdirs.user_cache_dir("mmnet_maps"))


def _label(target: GeoBox) -> str:
    if target == conus_grid():
        return "conus-100m"
    return hashlib.sha256(f"{target.crs} {target.affine} {target.shape}".encode()).hexdigest()[:12]
