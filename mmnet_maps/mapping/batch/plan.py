"""What a batch would do: its tiles, days and jobs, and what they would take."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.area import LONLAT, Area, parse_days, read_aoi, transform_geometry
from mmnet_maps.grid.lattice import window_of
from mmnet_maps.grid.mask import holds_a_centre
from mmnet_maps.grid.tiles import (
    DEFAULT_CRS,
    DEFAULT_RESOLUTION,
    Tile,
    conus_tiles,
    grid_of_tiles,
    target_grid,
    touched_tiles,
)
from mmnet_maps.mapping.batch.report import item_path
from mmnet_maps.mapping.pipeline import write_days
from mmnet_maps.mapping.request import Request, describe, draft_request, log_notices
from mmnet_maps.settings import MapOptions, settle
from mmnet_maps.stack.availability import blocks_of_grids, look_up, look_up_blocks, require, require_values
from mmnet_maps.stack.needs import Needs, Use, uses
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import VARIABLES

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

LATEST = "latest"
_BACK, _AT_ONCE = 366, 32  # days that are searched for the newest one with all inputs, and looked up at once
_TRIES = 20  # tiles of which one can be measured
_MEMORY = 2 << 30  # bytes that a worker is given at least, where their number is not said


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A run with everything decided.

    Attributes
    ----------
    name
        What the report and the Zarr store are named after.
    root
        Output folder.
    jobs
        One a tile, each with all days.
    days
        Days to map.
    grid, places
        The smallest window of the default grid with all tiles, and each tile's place in it by id.
    store
        The run's Zarr store; None where none is written.
    """

    name: str
    root: Path
    jobs: tuple[Request, ...]
    days: tuple[date, ...]
    grid: GeoBox
    places: Mapping[str, Tile]
    store: Path | None

    @property
    def synthetic(self) -> bool:
        """Whether any input is synthetic."""
        return self.jobs[0].synthetic


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
        Either an area, whose tiles are mapped as far as they lie in it; or ids of whole tiles of the default grid, text
        split at commas, ``"conus"`` for all.
    dates
        As `lazy.downscale_product`, or ``"latest"``: the newest day for which the stack has every input.
    name
        What the report and the Zarr store are named after (default: the area's name, ``conus``, the only tile's id, or
        ``tiles-`` and a hash of their ids).
    store
        Whether a Zarr store is written beside the COGs.
    **options
        As `lazy.downscale_product`; inputs come from a stack alone, on the default grid.

    Raises
    ------
    RequestError
        When the request is wrong.
    InputError
        When there is no stack, or ``latest`` finds no day.
    """
    settings = settle(options)
    if settings.stack is None:
        raise RequestError(
            "a batch reads its inputs from a stack: give --stack STORE; fill one with: mmnet stack --tiles … --source "
            "… --out STORE"
        )
    if (settings.resolution, settings.crs) != (DEFAULT_RESOLUTION, DEFAULT_CRS) or settings.members:
        raise RequestError(
            f"a batch maps the tiles of the default grid, {DEFAULT_RESOLUTION:g} m in {DEFAULT_CRS}, without members; "
            "leave resolution, crs and members out, or use mmnet map"
        )
    if (aoi is None) == (tiles is None):
        raise RequestError("give either --aoi or --tiles, the area or the tiles of the default grid to map")
    stack = Stack(settings.stack)
    if tiles is None:
        area = read_aoi(aoi)
        whole = target_grid(area)
        parts = {tile.id: tile.geobox for tile in touched_tiles(area, whole)}
        grid, places = grid_of_tiles([*parts])
        touched = not holds_a_centre(area, whole)
        areas = {tile.id: replace(area, name=tile.id) for tile in places}
        name = name or area.name
    else:
        ids = [text.strip() for text in (tiles.split(",") if isinstance(tiles, str) else tiles)]
        grid, places = grid_of_tiles(ids)
        parts = {tile.id: tile.geobox for tile in places}
        touched = False
        areas = {tile.id: _whole(tile) for tile in places}
        name = name or _name([tile.id for tile in places])
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RequestError(f"--name {name!r} cannot be part of a file name: expected letters, digits, -, _ and .")
    first = draft_request(settings, areas[places[0].id], places[0].geobox, (), ())
    days = _days(dates, stack, [*parts.values()], first.needs)
    jobs = tuple(
        replace(
            first,
            recipe=replace(first.recipe, area=areas[tile.id], grid=tile.geobox),
            tiles=(_piece(parts[tile.id], tile),),
            days=days,
            stack=stack.path.absolute(),
            touched=touched,
            run=replace(first.run, out=Path(settings.out).absolute()),
        )
        for tile in places
    )
    log_notices(jobs[0])
    root = Path(settings.out).absolute()
    mark = "_synthetic" if jobs[0].synthetic else ""
    return Batch(
        name=name,
        root=root,
        jobs=jobs,
        days=days,
        grid=grid,
        places={tile.id: tile for tile in places},
        store=root / f"{name}_{days[0]:%Y%m%d}_{days[-1]:%Y%m%d}{mark}.zarr" if store else None,
    )


def _name(ids: Sequence[str]) -> str:
    """What a run of some tiles is called where nobody says: other tiles, another name."""
    if set(ids) == set(conus_tiles()):
        return "conus"
    return ids[0] if len(ids) == 1 else f"tiles-{hashlib.sha256(','.join(sorted(ids)).encode()).hexdigest()[:6]}"


def _piece(part: GeoBox, tile: Tile) -> Tile:
    """The part of a tile that an area takes up, as a piece of the tile's own grid."""
    rows, cols = window_of(part, tile.geobox)
    return Tile(id=tile.id, rows=rows, cols=cols, geobox=part)


def _whole(tile: Tile) -> Area:
    """An area that holds all pixels of a tile; rounded, so that its hash does not change with a version of PROJ."""
    import shapely

    box = shapely.segmentize(shapely.box(*tile.geobox.boundingbox.bbox).buffer(50, join_style="mitre"), 2000)
    edge = shapely.get_coordinates(transform_geometry(box, DEFAULT_CRS, LONLAT))
    return Area(name=tile.id, geometry=shapely.Polygon(np.round(edge, 6)))


def _days(dates: Any, stack: Stack, pieces: Sequence[GeoBox], needs: Needs) -> tuple[date, ...]:
    given = [dates] if isinstance(dates, str | date) else list(dates)
    if LATEST not in given:
        return parse_days(dates)
    found = (newest_day(stack, pieces, needs, datetime.now(UTC).date()),)
    others = [day for day in given if day != LATEST]
    return tuple(sorted({*found, *(parse_days(others) if others else ())}))


def newest_day(stack: Stack, pieces: Sequence[GeoBox], needs: Needs, today: date) -> date:
    """The newest day, not after today, for which a stack has every input of maps of some tiles.

    Every block of the tiles was fetched for all days that the map takes values for, and each input has a value
    somewhere, within the reach of interpolation.

    Raises
    ------
    InputError
        When there is none within a year.
    """
    blocks = blocks_of_grids(stack, pieces, needs, today)
    for start in range(0, _BACK, _AT_ONCE):
        days = [today - timedelta(days=k) for k in range(start, min(start + _AT_ONCE, _BACK))]
        found = [
            look_up_blocks(stack, group, mask, [read for day in days for read in needs.days(group.kind, day)])
            for group, mask in blocks.values()
        ]
        for day in days:
            if not any(one.unfetched(needs, day) or one.empty(needs, day) for one in found):
                return day
    raise InputError(
        f"the stack {stack.path} has no day up to {today} with every input for these tiles; see which are missing "
        f"with: mmnet stack check {stack.path} --date …"
    )


def dry_run(batch: Batch, *, workers: int | None = None) -> str:
    """What a run would do, and what it would take by a measured probe; nothing is written to the output folder.

    The probe maps the tile that has the most pixels to map of those that can be, on the first days that share their
    series, with the cores that one of the workers would have.
    """
    stack = Stack(batch.jobs[0].stack)
    total, count = len(batch.jobs) * len(batch.days), min(workers or default_workers(), len(batch.jobs))
    there = sum(
        item_path(batch.root, job.area.name, day, batch.synthetic).exists() for job in batch.jobs for day in batch.days
    )
    jobs = sorted(batch.jobs, key=_pixels, reverse=True)
    pixels = sum(map(_pixels, jobs)) * len(batch.days)
    lines = [
        f"{total} maps: {len(jobs)} tiles on {len(batch.days)} days, {batch.days[0]} to {batch.days[-1]}, "
        f"{pixels / 1e6:.1f} million pixels",
        f"from {stack.path} to {batch.root}, model {describe(jobs[0])['model']}",
        f"{there} are there already, {total - there} are not; those that are there are made anew only where something "
        "they depend on has changed",
    ]
    days = jobs[0].day_batches(batch.days)[0]
    for job in jobs[:_TRIES]:
        with suppress(InputError):
            run = replace(job.run, threads=job.run.threads or max(1, cores() // count))
            seconds, written, read = _probe(replace(job, run=run), stack, days)
            left = pixels * (total - there) / total / (_pixels(job) * len(days))
            made = f"{job.area.name} on {len(days)} day{'s' * (len(days) > 1)}"
            return "\n".join(
                [
                    *lines,
                    f"measured on {made}: {seconds:.1f} s, {read / 1e6:.0f} MB read (in memory), "
                    f"{written / 1e6:.1f} MB written",
                    f"that is {read * left / 1e9:.1f} GB to read, {written * left / 1e9:.2f} GB to write as COGs"
                    f"{', about twice that as Zarr' * (batch.store is not None)}, and about "
                    f"{_duration(seconds * left / count / 3600)} with {count} worker{'s' * (count > 1)} as quick as "
                    "this one",
                ]
            )
    return "\n".join(
        [*lines, f"nothing could be measured: {min(len(jobs), _TRIES)} tiles lack inputs; see mmnet stack check"]
    )


def _pixels(job: Request) -> int:
    """Pixels that a job may map, those outside the area among them."""
    (piece,) = job.tiles
    return int(np.prod(piece.geobox.shape))


def _duration(hours: float) -> str:
    """A time for people.

    >>> _duration(0.004), _duration(0.4), _duration(30)
    ('14 s', '24 min', '30.0 h')
    """
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:.1f} h"


def _probe(job: Request, stack: Stack, days: tuple[date, ...]) -> tuple[float, int, int]:
    """Seconds, bytes written and bytes read for one tile on some days, in a folder that is thrown away."""
    (piece,) = job.tiles
    require(stack, piece.geobox, job.needs, days)
    require_values(stack, piece.geobox, job.needs, days)
    _ = job.engine
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mmnet-probe-") as folder:
        probe = replace(job, days=days, run=replace(job.run, out=Path(folder)))
        made = write_days(probe, days, quiet=True, pictures=False)
        seconds = time.perf_counter() - started
        written = sum(path.stat().st_size for product in made.values() for path in product.layers.values())
    return seconds, written, sum(_bytes_read(stack, use) for use in uses(stack, piece.geobox, job.needs, days))


def _bytes_read(stack: Stack, use: Use) -> int:
    """Return the bytes of the blocks of a window that hold values, over all days and variables, packed."""
    filled = int(look_up(stack, *use).valued[: None if use.group.temporal else 1].sum())
    return filled * use.group.block**2 * sum(np.dtype(VARIABLES[name].dtype).itemsize for name in use.group.variables)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """One a core, fewer where there is not 2 GiB of memory for each."""
    from distributed.system import MEMORY_LIMIT

    return max(1, min(cores(), MEMORY_LIMIT // _MEMORY))
