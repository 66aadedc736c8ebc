"""Plan a batch: its tiles, days and requests, and the newest day with all inputs."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from mmnet_maps.errors import InputError, RequestError, counted
from mmnet_maps.grid.area import Area, parse_days, read_aoi, transform_geometry
from mmnet_maps.grid.lattice import window_of
from mmnet_maps.grid.mask import holds_a_centre
from mmnet_maps.grid.polygons import LONLAT
from mmnet_maps.grid.tiles import (
    DEFAULT_CRS,
    DEFAULT_RESOLUTION,
    Tile,
    conus_tiles,
    grid_of_tiles,
    target_grid,
    touched_tiles,
)
from mmnet_maps.mapping.commands import place_options, quote
from mmnet_maps.mapping.request import Request, draft_request, log_notices
from mmnet_maps.mapping.usual import refuse_no_overlap
from mmnet_maps.resources import cores
from mmnet_maps.settings import MapOptions, MapSettings, settle
from mmnet_maps.stack.availability import blocks_of_grids, look_up_blocks
from mmnet_maps.stack.needs import Needs
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FIRST_DAY

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

log = logging.getLogger("mmnet_maps")

LATEST = "latest"
_YEAR, _AT_ONCE = 366, 32  # days looked up at once for the newest one with all inputs: in one group, and in all
_OLD = 31  # days after which the newest day is not what one expects of a daily product
_MEMORY = 2 << 30  # least memory of a worker where their number is not given, bytes


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A run with everything decided.

    Attributes
    ----------
    name
        Name of the report and of the Zarr store.
    root
        Output folder.
    requests
        One per tile, each with all days.
    days
        Days to map.
    grid, places
        The smallest window of the default grid with all tiles, and each tile's place in it by id.
    store
        The run's Zarr store; None where none is written.
    """

    name: str
    root: Path
    requests: tuple[Request, ...]
    days: tuple[date, ...]
    grid: GeoBox
    places: Mapping[str, Tile]
    store: Path | None

    @property
    def synthetic(self) -> bool:
        """Whether any input is synthetic."""
        return self.requests[0].synthetic


def plan_batch(
    aoi: Any,
    dates: Any,
    *,
    tiles: Sequence[str] | str | None = None,
    name: str | None = None,
    store: bool = True,
    **options: Unpack[MapOptions],
) -> Batch:
    """Decide everything about a run; nothing is computed or written.

    Parameters
    ----------
    aoi, tiles
        Either an area, whose tiles are mapped where they lie in it; or ids of whole tiles of the default grid, a list
        or text with commas, ``"conus"`` for all.
    dates
        See `lazy.downscale_product`; or ``"latest"``, the newest day for which the stack has every input.
    name
        Name of the report and of the Zarr store (default: the area's name, ``conus``, the only tile's id, or ``tiles-``
        and a hash of their ids).
    store
        Whether to write a Zarr store beside the COGs.
    **options
        See `lazy.downscale_product`; inputs come from a stack only, on the default grid.

    Raises
    ------
    RequestError
        The request is wrong.
    InputError
        There is no stack, or no day for ``latest``.
    """
    settings = _settle(options, place_options(aoi, tiles))
    if (aoi is None) == (tiles is None):
        raise RequestError("give either --aoi or --tiles, the area or the tiles of the default grid to map")
    assert settings.stack is not None, "refused by _settle"
    stack = Stack(settings.stack)  # refuses a missing one before tiles are laid out
    extent = _extent_of_area(read_aoi(aoi)) if tiles is None else _extent_of_tiles(tiles)
    name = name or extent.name
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RequestError(f"--name {name!r} cannot be part of a file name; expected letters, digits, -, _ and .")
    requests = _requests(settings, stack, extent, dates)
    requests[0].check_climatology(synthetic=requests[0].synthetic)
    if (climatology := requests[0].climatology) is not None:
        refuse_no_overlap(climatology, [tile.geobox for one in requests for tile in one.tiles])
    log_notices(requests[0])
    days, root = requests[0].days, requests[0].run.out
    mark = "_synthetic" if requests[0].synthetic else ""
    return Batch(
        name=name,
        root=root,
        requests=requests,
        days=days,
        grid=extent.grid,
        places={tile.id: tile for tile in extent.places},
        store=root / f"{name}_{days[0]:%Y%m%d}_{days[-1]:%Y%m%d}{mark}.zarr" if store else None,
    )


def _settle(options: MapOptions, place: str) -> MapSettings:
    """Settle the options of maps of a place, and refuse those that a batch cannot have."""
    settings = settle(options)
    if settings.stack is None:
        raise RequestError(
            f"a batch reads its inputs from a stack: give --stack STORE; fill one with: mmnet stack {place} "
            f"--start DAY --source earthengine --model {quote(settings.model[0])} --out STORE"
        )
    if (settings.resolution, settings.crs) != (DEFAULT_RESOLUTION, DEFAULT_CRS) or settings.members:
        raise RequestError(
            f"a batch maps the tiles of the default grid, {DEFAULT_RESOLUTION:g} m in {DEFAULT_CRS}, without members; "
            "leave resolution, crs and members out, or use mmnet map"
        )
    return settings


@dataclass(frozen=True, kw_only=True)
class _Extent:
    """The tiles of a batch and the mapped part of each.

    Attributes
    ----------
    name
        Default name of the run.
    grid, places
        The smallest window of the default grid with all tiles, and their places in it.
    parts, areas
        Grid of the mapped part of each tile, and the area of its request, by id.
    touched
        Whether the area is too small to hold a pixel centre.
    """

    name: str
    grid: GeoBox
    places: Sequence[Tile]
    parts: Mapping[str, GeoBox]
    areas: Mapping[str, Area]
    touched: bool


def _extent_of_area(area: Area) -> _Extent:
    whole = target_grid(area)
    parts = {tile.id: tile.geobox for tile in touched_tiles(area, whole)}
    grid, places = grid_of_tiles([*parts])
    return _Extent(
        name=area.name,
        grid=grid,
        places=places,
        parts=parts,
        areas={tile.id: replace(area, name=tile.id) for tile in places},
        touched=not holds_a_centre(area, whole),
    )


def _extent_of_tiles(tiles: Sequence[str] | str) -> _Extent:
    ids = [text.strip() for text in (tiles.split(",") if isinstance(tiles, str) else tiles)]
    grid, places = grid_of_tiles(ids)
    return _Extent(
        name=_name([tile.id for tile in places]),
        grid=grid,
        places=places,
        parts={tile.id: tile.geobox for tile in places},
        areas={area.name: area for area in _areas_of_tiles(places)},
        touched=False,
    )


def _requests(settings: MapSettings, stack: Stack, extent: _Extent, dates: Any) -> tuple[Request, ...]:
    """Return one request per tile, of the part of it that is mapped."""
    out = Path(settings.out).absolute()
    tile = extent.places[0]
    first = draft_request(settings, extent.areas[tile.id], tile.geobox, (), ())
    days = _days(dates, stack, [*extent.parts.values()], first.needs)
    return tuple(
        replace(
            first,
            recipe=replace(first.recipe, area=extent.areas[tile.id], grid=tile.geobox),
            tiles=(_part_of_tile(extent.parts[tile.id], tile),),
            days=days,
            stack=stack.path.absolute(),
            touched=extent.touched,
            run=replace(first.run, out=out),
        )
        for tile in extent.places
    )


def _name(ids: Sequence[str]) -> str:
    """Return the default name of a run of some tiles, which differs between sets of tiles."""
    if set(ids) == set(conus_tiles()):
        return "conus"
    return ids[0] if len(ids) == 1 else f"tiles-{hashlib.sha256(','.join(sorted(ids)).encode()).hexdigest()[:6]}"


def _part_of_tile(part: GeoBox, tile: Tile) -> Tile:
    """Return a part of a tile by its rows and columns in the tile's own grid."""
    rows, cols = window_of(part, tile.geobox)
    return Tile(id=tile.id, rows=rows, cols=cols, geobox=part)


def _areas_of_tiles(tiles: Sequence[Tile]) -> list[Area]:
    """Return an area around all pixels of each tile, rounded so that its hash does not depend on PROJ's version."""
    import shapely

    boxes = [shapely.box(*tile.geobox.boundingbox.bbox).buffer(50, join_style="mitre") for tile in tiles]
    moved = transform_geometry(shapely.segmentize(shapely.GeometryCollection(boxes), 2000), DEFAULT_CRS, LONLAT)
    edges = [np.round(shapely.get_coordinates(box), 6) for box in shapely.get_parts(moved)]
    return [Area(name=tile.id, geometry=shapely.Polygon(edge)) for tile, edge in zip(tiles, edges, strict=True)]


def _days(dates: Any, stack: Stack, grids: Sequence[GeoBox], needs: Needs) -> tuple[date, ...]:
    """Return the requested days, ascending, with ``latest`` resolved."""
    given = [dates] if isinstance(dates, str | date) else list(dates)
    if LATEST not in given:
        return parse_days(dates)
    today = datetime.now(UTC).date()
    found = (newest_day(stack, grids, needs, today),)
    if (age := (today - found[0]).days) > _OLD:
        log.warning(
            "latest is %s, %s ago: the newest day with all inputs in %s", found[0], counted(age, "day"), stack.path
        )
    others = [day for day in given if day != LATEST]
    return tuple(sorted({*found, *(parse_days(others) if others else ())}))


def newest_day(stack: Stack, grids: Sequence[GeoBox], needs: Needs, today: date) -> date:
    """Return the newest day up to `today` for which a stack has every input of maps on some grids.

    All blocks under the grids were fetched for all days that a map reads, and each input has a value somewhere, within
    the search window of interpolation.

    Raises
    ------
    InputError
        There is none; the message names the newest day of each input.
    """
    blocks = [*blocks_of_grids(stack, grids, needs, today).values()]
    since = [today - timedelta(days=k) for k in range((today - FIRST_DAY).days + 1)]
    smallest = min((one for one in blocks if one[0].temporal), key=lambda one: one[1].sum())
    for first in range(0, len(since), _YEAR):
        year = since[first : first + _YEAR]
        fetched = look_up_blocks(
            stack, *smallest, [read for day in year for read in needs.own_days(smallest[0].kind, day)]
        )
        likely = [day for day in year if not fetched.unfetched(needs, day)]
        for start in range(0, len(likely), _AT_ONCE):
            days = likely[start : start + _AT_ONCE]
            found = [
                look_up_blocks(stack, group, mask, [read for day in days for read in needs.days(group.kind, day)])
                for group, mask in blocks
            ]
            for day in days:
                if not any(one.unfetched(needs, day) or one.empty(needs, day) for one in found):
                    return day
    ends = {group: max(look_up_blocks(stack, group, mask, since).complete, default=None) for group, mask in blocks}
    known = ", ".join(f"{group.name} {end or 'none'}" for group, end in ends.items() if group.temporal or not end)
    raise InputError(
        f"no day up to {today} has every input for whole tiles; the newest day of each: {known}; fetch more, map a "
        f"stack of an area with --aoi, or see: mmnet stack check {stack.path} --date DAY"
    )


def default_workers() -> int:
    """Return one worker per core, fewer where there is less than 2 GiB of memory for each."""
    from distributed.system import MEMORY_LIMIT

    return max(1, min(cores(), MEMORY_LIMIT // _MEMORY))
