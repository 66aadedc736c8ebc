"""Finished maps read as one: folders of COGs with STAC items, single items and COGs, or a Zarr store."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import RequestError, counted
from mmnet_maps.grid.crs import crs_name
from mmnet_maps.product.cog_maps import map_of_file, maps_in_folder, maps_of_items, read_content
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.stac_item import fingerprint_of
from mmnet_maps.product.zarr_maps import maps_of_store

if TYPE_CHECKING:
    from mmnet_maps.grid.lattice import Window

__all__ = ["DayMap", "Maps", "open_maps"]

log = logging.getLogger(__name__)

Edges = NDArray[np.intp]


class DayMap(Protocol):
    """The map of one area or tile on one day."""

    @property
    def name(self) -> str:
        """Name of the area or tile."""

    @property
    def day(self) -> date:
        """Its day."""

    @property
    def grid(self) -> GeoBox:
        """Its pixels."""

    @property
    def synthetic(self) -> bool:
        """Whether an input was synthetic."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of its layers."""

    @property
    def tags(self) -> Mapping[str, str]:
        """How it was made: model, inputs, licences."""

    @property
    def recipe(self) -> Mapping[str, str]:
        """Properties that maps must share to be compared, as far as they are known, see `stac_item.RECIPE`."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines its values; empty where it is not known."""

    def read(self, layer: str, tops: Edges, lefts: Edges) -> NDArray[Any]:
        """Return a layer (y, x) on cells between these rows and columns of its pixels, as `Maps.read` does."""


class Maps:
    """The maps of some days, on one grid that contains them all.

    Parameters
    ----------
    parts
        The maps, of one CRS and resolution; where two overlap on a day, the first with a value wins.

    Attributes
    ----------
    days, layers
        Ascending; in the order of `layers.LAYERS`.
    grid
        The smallest grid that contains all maps.
    synthetic
        Whether an input of any map was synthetic.

    Raises
    ------
    RequestError
        When the maps do not lie on one grid.
    """

    def __init__(self, parts: Iterable[DayMap]) -> None:
        self._by_day: dict[date, list[DayMap]] = {}
        for part in parts:
            self._by_day.setdefault(part.day, []).append(part)
        every = [part for mine in self._by_day.values() for part in mine]
        self.days = tuple(sorted(self._by_day))
        self.layers = tuple(name for name in LAYERS if any(name in part.layers for part in every))
        self.grid = _union(list(dict.fromkeys(part.grid for part in every)))
        self.synthetic = any(part.synthetic for part in every)
        self.names = tuple(dict.fromkeys(part.name for part in every))

    @cached_property
    def title(self) -> str:
        """Name of the only area or tile, or the number of several."""
        return self.names[0] if len(self.names) == 1 else f"{len(self.names)} areas or tiles"

    @cached_property
    def tags(self) -> dict[str, str]:
        """How the maps were made, as far as they agree: model, inputs, licences."""
        first, *others = [part.tags for mine in self._by_day.values() for part in mine]
        return {key: value for key, value in first.items() if all(one.get(key) == value for one in others)}

    def recipe(self) -> dict[str, str]:
        """Return what all maps have in common, see `DayMap.recipe`.

        Raises
        ------
        RequestError
            When two of them differ.
        """
        first: dict[str, DayMap] = {}
        for part in (part for day in self.days for part in self.parts(day)):
            for key, value in part.recipe.items():
                other = first.setdefault(key, part)
                if other.recipe[key] != value:
                    raise RequestError(
                        f"{other.name} on {other.day} and {part.name} on {part.day} differ in {key} "
                        f"({other.recipe[key][:12]} and {value[:12]}); percentiles need maps of one model and "
                        "kind: give only those"
                    )
        return {key: part.recipe[key] for key, part in first.items()}

    def parts(self, day: date) -> Sequence[DayMap]:
        """Return the maps of a day."""
        return self._by_day.get(day, [])

    def read(self, layer: str, day: date, window: Window, *, step: int = 1) -> NDArray[Any]:
        """Read a window of a layer on a day.

        Parameters
        ----------
        layer, day
            Of `layers` and `days`.
        window
            Rows and columns of `grid`; pixels beyond the grid are missing.
        step
            Pixels along a side of a cell; the window is extended to whole cells. A cell is the mean of its valid
            pixels (quality: one of them), from the overviews where the files have them. The edges of maps within the
            window are then accurate to about one step.

        Returns
        -------
        ndarray (y, x)
            Physical values, float32, NaN where missing; quality uint16, 1 (outside the area of interest) where missing.

        Raises
        ------
        InputError
            When a file cannot be read.
        """
        about = LAYERS[layer]
        rows, cols = window
        height, width = (-(-(side.stop - side.start) // step) for side in window)
        flags = about.nodata is None
        found = np.full((height, width), about.fill if flags else np.nan, np.uint16 if flags else np.float32)
        for part in self.parts(day):
            if layer not in part.layers:
                continue
            top, left = self._corner(part.grid)
            into_rows, tops = _overlap(rows.start - top, height, step, part.grid.shape.y)
            into_cols, lefts = _overlap(cols.start - left, width, step, part.grid.shape.x)
            target = found[into_rows, into_cols]
            if target.size:
                values = part.read(layer, tops, lefts)
                np.copyto(target, values, where=target == about.fill if flags else np.isnan(target))
        return found

    def _corner(self, grid: GeoBox) -> tuple[int, int]:
        """Return the first row and column of a map."""
        col, row = ~self.grid.affine * (grid.affine.c, grid.affine.f)
        return round(row), round(col)


def _overlap(start: int, count: int, step: int, size: int) -> tuple[slice, Edges]:
    """Find the cells that reach into a map along one side.

    Parameters
    ----------
    start
        First pixel of the first cell, counted from the first pixel of the map.
    count, step
        Number of cells, and pixels in each.
    size
        Pixels of the map.

    Returns
    -------
    slice
        These cells, possibly none.
    ndarray
        Pixels of the map at which they begin and end.

    Examples
    --------
    >>> _overlap(-2, 3, 3, 5)  # pixels -2 to 0, 1 to 3 and 4 to 6
    (slice(0, 3, None), array([0, 1, 4, 5]))
    """
    low, high = max(start, 0), min(start + count * step, size)
    if low >= high:
        return slice(0, 0), np.zeros(1, np.intp)
    into = slice((low - start) // step, -(-(high - start) // step))
    edges = start + step * np.arange(into.start, into.stop + 1)
    return into, edges.clip(0, size)


def _union(grids: list[GeoBox]) -> GeoBox:
    """Return the smallest grid that contains some grids, which may be off by a thousandth of a pixel.

    odc-geo's `geobox_union_conservative` allows 1e-8 of a pixel, less than other software keeps of an origin.
    """
    first = grids[0]
    a = first.affine
    corners = []
    for grid in grids:
        b = grid.affine
        col, row = ~a * (b.c, b.f)
        same = grid.crs == first.crs and np.allclose((a.a, a.b, a.d, a.e), (b.a, b.b, b.d, b.e), rtol=1e-9)
        if not same or abs(col - round(col)) > 1e-3 or abs(row - round(row)) > 1e-3:
            raise RequestError(
                f"maps of {crs_name(first.crs)} at {a.a:g} and of {crs_name(grid.crs)} at {b.a:g} do not lie on one "
                "grid; give maps of one grid at a time"
            )
        corners.append((round(row), round(col), round(row) + grid.shape.y, round(col) + grid.shape.x))
    top, left = np.min(corners, axis=0)[:2].tolist()
    bottom, right = np.max(corners, axis=0)[2:].tolist()
    return GeoBox((bottom - top, right - left), a * Affine.translation(left, top), first.crs)


def open_maps(paths: str | Path | Sequence[str | Path], *, start: date | None = None, end: date | None = None) -> Maps:
    """Open finished maps to be read as one.

    Parameters
    ----------
    paths
        Each an output folder of ``mmnet-map`` or ``mmnet batch``, the folder of a day in one, a STAC item, catalog or
        collection in those, a COG, or a Zarr store. Only local files are read, and only those within the folder: an
        item that points elsewhere is refused.
    start, end
        First and last day to open (default: all).

    Returns
    -------
    Maps
        Only the real maps where there are both real and synthetic ones, with a notice; so are maps of a day that
        overlap.

    Raises
    ------
    RequestError
        When there is no map, or the maps do not lie on one grid.
    InputError
        When a file cannot be read.

    Examples
    --------
    >>> maps = open_maps("maps")                                    # doctest: +SKIP
    >>> maps.read("soil_moisture", maps.days[0], (slice(0, 500), slice(0, 500)))  # doctest: +SKIP
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    days = _Days(start or date.min, end or date.max)
    found = [
        (one, path) for path in {os.path.realpath(path): path for path in given}.values() for one in _open(path, days)
    ]
    if not found:
        within = "" if start is None and end is None else f" of {start or 'any day'} to {end or 'any day'}"
        raise RequestError(
            f"no finished map{within} in {', '.join(map(str, given))}; expected the output folder of mmnet-map or "
            "mmnet batch, a STAC item, a COG or a Zarr store"
        )
    real = [(one, path) for one, path in found if not one.synthetic]
    if real and len(real) < len(found):
        beside = counted(len(real), "real one")
        log.warning("%s beside %s left out", counted(len(found) - len(real), "synthetic map"), beside)
        found = real
    maps = Maps(one for one, _ in found)
    _log_overlaps(found)
    return maps


def _log_overlaps(found: Sequence[tuple[DayMap, str | Path]]) -> None:
    """Name maps of one day that lie over each other, of which the first is read, as `Maps` does.

    Parameters
    ----------
    found
        Maps on one grid, and the path that each comes from.
    """
    import shapely

    number = {grid: k for k, grid in enumerate(dict.fromkeys(one.grid for one, _ in found))}
    # Neighbours share an edge, so the boxes are a little smaller than the maps.
    boxes = [shapely.box(*grid.boundingbox.bbox).buffer(-0.1 * abs(grid.affine.a)) for grid in number]
    near = shapely.STRtree(boxes).query(boxes, predicate="intersects").T.tolist()
    over = {one: {other for this, other in near if this == one} for one, _ in near}
    seen: dict[date, dict[int, list[tuple[DayMap, str | Path]]]] = {}
    days: dict[date, str] = {}
    for part, path in found:
        mine, place = seen.setdefault(part.day, {}), number[part.grid]
        below = [one for other in over[place] for one in mine.get(other, []) if set(one[0].layers) & set(part.layers)]
        if below:
            first, where = below[0]
            days.setdefault(part.day, f"{first.name} of {where} and {part.name} of {path}")
        mine.setdefault(place, []).append((part, path))
    if days:
        day = min(days)
        log.warning(
            "maps overlap on %s, on %s: %s; where both have a value, the first one is read: give only one of them",
            counted(len(days), "day"), day, days[day],
        )  # fmt: skip


@dataclass(frozen=True)
class _Days:
    first: date
    last: date

    def __contains__(self, day: object) -> bool:
        return isinstance(day, date) and self.first <= day <= self.last


def _open(given: str | Path, days: _Days) -> Iterable[DayMap]:
    if re.match(r"[a-z][a-z0-9+.-]+://", str(given), re.IGNORECASE):
        raise RequestError(f"{given} is an address; only files of this machine are read: download the maps first")
    path = Path(given)
    if not os.path.exists(path):  # also where its name is too long
        raise RequestError(f"{path} does not exist; give the output folder of mmnet-map or mmnet batch")
    if path.is_dir():
        return maps_of_store(path, days) if (path / "zarr.json").is_file() else maps_in_folder(path, days)
    if path.suffix == ".json":
        content = read_content(path)
        if fingerprint_of(content) is not None:
            return maps_of_items([path], path.parent, days)
        if content.get("type") in ("Collection", "Catalog"):
            return maps_in_folder(path.parent, days)
        raise RequestError(f"{path} is no STAC item, catalog or collection of mmnet_maps")
    if path.suffix in (".tif", ".tiff"):
        one = map_of_file(path)
        return [one] if one.day in days else []
    raise RequestError(f"{path} is neither a folder of maps, a STAC item, a COG nor a Zarr store")
