"""Add finished maps to a climatology: tile by tile, day by day; what is there already is kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr.api.asynchronous

from mmnet_maps.errors import OutputError, RequestError
from mmnet_maps.files import (
    MARK as OURS,
)
from mmnet_maps.files import (
    file_lock,
    read_json,
    remove_leftovers,
    replace_file,
    staging_folder,
    write_errors,
    write_whole,
)
from mmnet_maps.grid.crs import crs_name
from mmnet_maps.grid.tiles import TILE_PIXELS, stack_lattice
from mmnet_maps.product.climatology import (
    BLOSC,
    DAYS,
    MARK,
    VALUES,
    VERSION,
    Climatology,
    checksum,
    chunk_file,
)
from mmnet_maps.product.drought import FEW_YEARS, WINDOW
from mmnet_maps.product.layers import LAYERS, array_attributes
from mmnet_maps.product.reader import Maps
from mmnet_maps.product.zarr_grid import COMPRESSOR, consolidate, create_coordinate, create_grid, run_to_end
from mmnet_maps.resources import cores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from odc.geo.geobox import GeoBox

    from mmnet_maps.grid.lattice import Window
    from mmnet_maps.product.reader import DayMap

log = logging.getLogger("mmnet_maps")

_LAYER = LAYERS[VALUES]


@dataclass(frozen=True, kw_only=True)
class Added:
    """The result of `add_maps`: the climatology, and the numbers of tiles and days written, and found as they are."""

    climatology: Climatology
    written: int
    kept: int


def add_maps(
    maps: Maps,
    out: str | Path,
    *,
    window: int | None = None,
    minimum_years: int | None = None,
    quiet: bool = False,
) -> Added:
    """Make a climatology of finished maps, or add maps to an existing one.

    Tiles and days with a map of the same fingerprint are kept, so that an interrupted run resumes; maps that were made
    again replace their earlier values. One tile for each core is in memory at a time.

    Parameters
    ----------
    maps
        Maps of one model and one grid.
    out
        Folder of the store.
    window, minimum_years
        See `drought.compare`; by default those of the store, or 15 and 5 for a new one.
    quiet
        No progress bar.

    Raises
    ------
    RequestError
        When the maps differ in what `stac_item.RECIPE` names, among each other or from the store.
    InputError
        When a map cannot be read, or `out` is no climatology.
    OutputError
        When the store cannot be written, or another process writes to it.
    """
    from tqdm import tqdm

    out = Path(out)
    if VALUES not in maps.layers:
        raise RequestError(f"{maps.title} holds {', '.join(maps.layers)}; expected maps of soil_moisture")
    recipe = maps.recipe()
    with write_errors(out, "maps that were added before are kept"), _lock(out):
        _prepare(out, maps, recipe, window, minimum_years)
        store = Climatology(out)
        _check(store, maps, recipe)
        written = kept = 0
        with (
            ThreadPoolExecutor(cores()) as pool,
            tqdm(total=len(maps.days), unit="day", desc=out.name, disable=quiet) as bar,
        ):
            for day in maps.days:
                done = _add_day(store, maps, day, pool)
                written, kept = written + done[0], kept + done[1]
                bar.update()
        if written:
            os.utime(out / "zarr.json")  # processes that hold the store open then read its marks again
    return Added(climatology=Climatology(out), written=written, kept=kept)


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Hold the lock beside a store."""
    from filelock import Timeout

    out.parent.mkdir(parents=True, exist_ok=True)
    held = file_lock(out.with_name(f".{out.name}.lock"))
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise OutputError(f"another process is writing to {out}; wait for it to end or give another --out") from None
    try:
        yield
    finally:
        held.release()


def _check(store: Climatology, maps: Maps, recipe: Mapping[str, str]) -> None:
    """Refuse maps that are not comparable with those of the store, or reach beyond its grid."""
    store.refuse_others(recipe, maps.synthetic)
    rows, cols = store.place(maps.grid)
    height, width = store.grid.shape
    if rows.start < 0 or cols.start < 0 or rows.stop > height or cols.stop > width:
        raise RequestError(
            f"maps of {maps.title} reach beyond the grid of {store.path}, which was made for another area in "
            f"{crs_name(store.grid.crs)}; give another --out"
        )


def _add_day(store: Climatology, maps: Maps, day: date, pool: ThreadPoolExecutor) -> tuple[int, int]:
    """Add the maps of a day; return the numbers of tiles written and kept."""
    marks = store.marks.get(day, np.zeros(_tile_shape(store.grid), np.uint64)).copy()
    sources: dict[tuple[int, int], list[DayMap]] = {}
    for part in maps.parts(day):
        for number in _tiles_under(store.place(part.grid)):
            sources.setdefault(number, []).append(part)
    wanted = {number: _source_mark(parts) for number, parts in sources.items()}
    waiting = {number: mark for number, mark in wanted.items() if not mark or int(marks[number]) >> 32 != mark}
    if waiting:
        _create_year(store.path, day.year, store.grid)
        sums = pool.map(partial(_write_tile, store, maps, day), waiting)
        for (number, mark), total in zip(waiting.items(), sums, strict=True):
            marks[number] = (mark or 1) << 32 | total
        replace_file(chunk_file(store.path, MARK, day), marks.astype("<u8").tobytes())
    return len(waiting), len(wanted) - len(waiting)


def _tiles_under(window: Window) -> Iterator[tuple[int, int]]:
    """Yield row and column of the tiles under a window of the grid."""
    yield from product(*(range(part.start // TILE_PIXELS, -(-part.stop // TILE_PIXELS)) for part in window))


def _write_tile(store: Climatology, maps: Maps, day: date, number: tuple[int, int]) -> int:
    """Write the values of a tile, and return the checksum of its file."""
    rows, cols = (
        slice(start * TILE_PIXELS - moved.start, (start + 1) * TILE_PIXELS - moved.start)
        for start, moved in zip(number, store.place(maps.grid), strict=True)
    )
    values = _LAYER.pack(maps.read(VALUES, day, (rows, cols)))
    file = chunk_file(store.path, VALUES, day, *number)
    if (values == _LAYER.fill).all():
        file.unlink(missing_ok=True)
        return checksum(b"")
    content = BLOSC.encode(np.ascontiguousarray(values, "<u2"))
    replace_file(file, content)
    return checksum(content)


def _tile_shape(grid: GeoBox) -> tuple[int, int]:
    return grid.shape.y // TILE_PIXELS, grid.shape.x // TILE_PIXELS


def _source_mark(sources: Sequence[DayMap]) -> int:
    """Return 32 bits of the fingerprints of a tile's maps; 0 where one is not known."""
    if not all(part.fingerprint for part in sources):
        return 0
    digest = hashlib.sha256(" ".join(part.fingerprint for part in sources).encode()).hexdigest()
    return int(digest[:8], 16) or 1


# ---- metadata --------------------------------------------------------------------------------------------------------


def _prepare(out: Path, maps: Maps, recipe: Mapping[str, str], window: int | None, minimum_years: int | None) -> None:
    """Create the store, or change the definitions in its attributes."""
    if out.exists():
        old = Climatology(out)
        chosen = {
            "window": old.window if window is None else window,
            "minimum_years": old.minimum_years if minimum_years is None else minimum_years,
        }
        root = out / "zarr.json"
        content = read_json(root)
        content["attributes"] |= chosen
        write_whole(root, json.dumps(content, indent=2))
        return
    grid = stack_lattice(maps.grid)
    attributes = {
        VERSION: 1,
        OURS: "climatology",
        "title": "Surface soil moisture by year and day of the year",
        "window": WINDOW if window is None else window,
        "minimum_years": FEW_YEARS if minimum_years is None else minimum_years,
        "recipe": dict(recipe),
        "synthetic": maps.synthetic,
        "grid": {"crs": str(grid.crs), "transform": list(grid.affine)[:6], "shape": list(grid.shape)},
    }
    remove_leftovers(out.parent, f".{out.name}.*.partial")
    with staging_folder(out.parent, out.name) as staging:
        run_to_end(_create_root(staging / "store", attributes))
        os.rename(staging / "store", out)


async def _create_root(path: Path, attributes: Mapping[str, Any]) -> None:
    await zarr.api.asynchronous.create_group(store=path, zarr_format=3, attributes=dict(attributes))


def _create_year(out: Path, year: int, grid: GeoBox) -> None:
    """Create the group of a year with its metadata and coordinates, whole or not at all."""
    if (out / str(year)).exists():
        return
    remove_leftovers(out, f".{year}.*.partial")
    with staging_folder(out, str(year)) as staging:
        run_to_end(_create_group(staging / "store", grid))
        os.rename(staging / "store", out / str(year))


async def _create_group(path: Path, grid: GeoBox) -> None:
    root = await zarr.api.asynchronous.create_group(store=path, zarr_format=3, attributes={"Conventions": "CF-1.11"})
    days = np.arange(1, DAYS + 1, dtype=np.int32)
    about = {"long_name": "day of the year as in leap years: 60 is 29 February, 61 is 1 March", "units": "1"}
    await create_coordinate(root, "day", days, about)
    await create_grid(root, grid)
    packing = {"scale_factor": _LAYER.scale, "add_offset": 0.0, "_FillValue": _LAYER.fill}
    attributes = array_attributes(VALUES) | packing | {"coordinates": "spatial_ref"}
    del attributes["ancillary_variables"]
    await root.create_array(
        VALUES,
        shape=(DAYS, *grid.shape),
        chunks=(1, TILE_PIXELS, TILE_PIXELS),
        dtype="uint16",
        fill_value=_LAYER.fill,
        compressors=COMPRESSOR,
        dimension_names=("day", "y", "x"),
        attributes=attributes,
    )
    await root.create_array(
        MARK,
        shape=(DAYS, *_tile_shape(grid)),
        chunks=(1, *_tile_shape(grid)),
        dtype="uint64",
        fill_value=0,
        compressors=None,
        dimension_names=("day", "tile_y", "tile_x"),
        attributes={"long_name": "fingerprint and checksum of a map of a tile, 0 where nothing is", "units": "1"},
    )
    await consolidate(path)
