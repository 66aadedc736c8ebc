"""SMAP consistency: how far the means of a map over the cells of SMAP's grid are from SMAP itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.files import read_json, refuse_foreign, write_whole
from mmnet_maps.grid.lattice import nearest_cells
from mmnet_maps.grid.tiles import tiles as cut
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.mosaic import finished_items, finished_tiles
from mmnet_maps.product.stac_item import fingerprint_of

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

    from mmnet_maps.stack.store import Stack

Float = NDArray[np.float64]
Sums = NDArray[np.int64]
"""Cells with a value, numbered along the rows of SMAP's lattice, their pixels and the sums of their packed values."""

LEAST_SHARE = 0.5
"""Cells of which a smaller share has a value are listed but not compared."""

_MARK = "mmnet:tiles"  # holds a hash of the tiles that were compared
_MOISTURE = LAYERS["soil_moisture"]
_DIGITS = {"longitude": 4, "latitude": 4, "soil_moisture": 5, "smap": 4, "share": 3}


@dataclass(frozen=True, kw_only=True, eq=False)
class SmapConsistency:
    """A map of one day against SMAP on SMAP's grid; for information, since MMNet does not conserve SMAP's means.

    Attributes
    ----------
    day
        The day of the map.
    row, col
        The cells of SMAP's lattice where the map has a value (cell,), row by row.
    longitude, latitude
        Their centres in degrees.
    soil_moisture
        Mean of the map over its pixels with a value whose centre lies in the cell, m³/m³.
    smap
        SMAP's own value in the cell on that day, m³/m³; NaN where there is none.
    share
        Share of the cell's area, 0 to 1, where the map has a value; to about 0.01, since pixels straddle its edges.
    n
        Number of cells compared: those with a SMAP value and a share of at least `LEAST_SHARE`.
    bias, rmse, ubrmse
        Of map minus SMAP over these cells, m³/m³: mean, root mean square, and standard deviation; None without any
        cell.
    r
        Pearson's correlation over these cells; None where undefined: fewer than two cells, or constant values.
    """

    day: date
    row: NDArray[np.intp]
    col: NDArray[np.intp]
    longitude: Float
    latitude: Float
    soil_moisture: Float
    smap: Float
    share: Float
    n: int
    bias: float | None
    rmse: float | None
    ubrmse: float | None
    r: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison for JSON, rounded, None for missing values; the cells column by column."""
        report: dict[str, Any] = {
            "day": self.day.isoformat(),
            "units": _MOISTURE.units,
            "least_share": LEAST_SHARE,
            "n": self.n,
        }
        for name, digits in (("bias", 5), ("rmse", 5), ("ubrmse", 5), ("r", 4)):
            value = getattr(self, name)
            report[name] = None if value is None else round(value, digits)
        report["cells"] = {"row": self.row.tolist(), "col": self.col.tolist()} | {
            name: [None if np.isnan(value) else round(value, digits) for value in getattr(self, name).tolist()]
            for name, digits in _DIGITS.items()
        }
        return report


def sum_cells(packed: NDArray[np.uint16], grid: GeoBox, stack: Stack) -> Sums:
    """Sum the pixels with a value of a map by cell of SMAP's grid.

    Parameters
    ----------
    packed
        Soil moisture on `grid`, as in the files.
    grid
        Grid of the map.
    stack
        The inputs, with SMAP on its own grid.

    Returns
    -------
    ndarray of int64 (3, cell)
        See `Sums`.
    """
    starts, cells = _runs(grid, stack.group_of("smap").lattice)
    values = packed.ravel()
    known = values != _MOISTURE.nodata
    counts = np.add.reduceat(known, starts, dtype=np.int64)
    totals = np.add.reduceat(np.where(known, values, 0), starts, dtype=np.int64)
    return _gather(np.stack([cells, counts, totals])[:, (cells >= 0) & (counts > 0)])


def compare_with_smap(stack: Stack, tiles: Iterable[tuple[GeoBox, Path | Sums]], day: date) -> SmapConsistency:
    """Average a map over the cells of SMAP's grid and compare it with SMAP.

    A pixel counts in the cell that holds its centre. Cells shared by several tiles are summed over them, so the result
    does not depend on how a map is cut. One tile is in memory at a time.

    Parameters
    ----------
    stack
        The inputs, with SMAP on its own grid.
    tiles
        Grid of each part of the map, and its ``soil_moisture`` file or what `sum_cells` returned for it; the parts do
        not overlap and lie on one grid.
    day
        The day of the map.

    Raises
    ------
    InputError
        A file cannot be read or is not on its grid, the parts are not on one grid, or the stack has no SMAP.
    """
    lattice = stack.group_of("smap").lattice
    first: GeoBox | None = None
    parts = [np.empty((3, 0), np.int64)]
    for geobox, part in tiles:
        first = first or geobox
        if (geobox.crs, geobox.affine.a) != (first.crs, first.affine.a):
            raise InputError(
                f"{part} has another CRS or resolution than the parts before it; compare one map at a time"
            )
        if isinstance(part, Path):
            parts += [sum_cells(packed, window, stack) for window, packed in _read(part, geobox)]
        else:
            parts.append(part)
    cells, count, total = _gather(np.concatenate(parts, axis=1))
    row, col = np.divmod(cells, lattice.shape.x)
    # Packed integers are summed and scaled last, so that the mean of equal values is exactly that value.
    mean = total / count * _MOISTURE.scale
    share = (
        np.zeros(0) if first is None else np.minimum(count * first.affine.a**2 / _areas(lattice, row, col, first), 1)
    )
    smap = _smap(stack, row, col, day)
    compared = (share >= LEAST_SHARE) & ~np.isnan(smap)
    longitude, latitude = _corners(lattice, row + 0.5, col + 0.5, "EPSG:4326")
    return SmapConsistency(
        day=day,
        row=row,
        col=col,
        longitude=longitude,
        latitude=latitude,
        soil_moisture=mean,
        smap=smap,
        share=share,
        **_statistics(mean[compared], smap[compared]),
    )


def day_consistency(
    folder: Path, day: date, stack: Stack, *, synthetic: bool, sums: Mapping[str, tuple[str, Sums]] | None = None
) -> dict[str, Any]:
    """Return the figures of `compare_with_smap`, for JSON, over the finished tiles in the folder of a day.

    They are kept, with all cells, as ``closure_{YYYYMMDD}[_synthetic].json`` beside the tiles, and read from there as
    long as the tiles are the same.

    Parameters
    ----------
    folder
        The folder of the day, with tiles and their items.
    day, synthetic
        Select the tiles in the folder.
    stack
        The inputs, with SMAP on its own grid.
    sums
        By tile, the fingerprint of a map and what `sum_cells` returned for it; tiles without are read from their files.

    Raises
    ------
    InputError
        See `compare_with_smap`.
    OutputError
        The file cannot be written, or one of that name was not made by this software.
    """
    path = folder / f"closure_{day:%Y%m%d}{'_synthetic' if synthetic else ''}.json"
    refuse_foreign(path, lambda file: _MARK in read_json(file))
    items = finished_items(folder, day, synthetic=synthetic)
    known = {tile: fingerprint_of(item) for tile, item in items.items()}
    fingerprint = hashlib.sha256(json.dumps(sorted(known.items())).encode()).hexdigest()
    report = read_json(path) if path.exists() else {}
    if report.get(_MARK) != fingerprint:
        summed = {tile: part for tile, (of, part) in (sums or {}).items() if known.get(tile) == of}
        tiles = finished_tiles(folder, day, synthetic=synthetic, layer=_MOISTURE.name)
        parts = ((geobox, summed.get(file.name[:6], file)) for geobox, file in tiles)
        report = {_MARK: fingerprint, **compare_with_smap(stack, parts, day).as_dict()}
        write_whole(path, json.dumps(report) + "\n")
    return {key: value for key, value in report.items() if key not in (_MARK, "cells")}


def _read(path: Path, geobox: GeoBox) -> Iterator[tuple[GeoBox, NDArray[np.uint16]]]:
    """Read a file in windows of at most one tile; yield each grid and its packed values."""
    import rasterio
    from rasterio.windows import Window

    from mmnet_maps.files import DRIVER_ERRORS, gdal

    try:
        with gdal(), rasterio.open(path) as data:
            if data.shape != tuple(geobox.shape) or not data.transform.almost_equals(geobox.affine):
                raise InputError(f"{path} is not on the expected grid; make the map again")
            for tile in cut(geobox):
                yield tile.geobox, data.read(1, window=Window.from_slices(tile.rows, tile.cols))
    except DRIVER_ERRORS as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}); make the map again") from error


@lru_cache(maxsize=1)  # of a tile, for all its days
def _runs(grid: GeoBox, lattice: GeoBox) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Find runs of pixels, row by row, in the same cell: the first pixel of each, and its cell, negative for none."""
    row, col = nearest_cells(grid, lattice)
    place = (row * np.int32(lattice.shape.x) + col).ravel()
    starts = np.flatnonzero(np.diff(place, prepend=-2))
    return starts, place[starts].astype(np.int64)


def _gather(parts: Sums) -> Sums:
    """Add up parts of the same cell; cells ascend."""
    cells, where = np.unique(parts[0], return_inverse=True)
    sums = np.zeros((3, cells.size), np.int64)
    sums[0] = cells
    for values, total in zip(parts[1:], sums[1:], strict=True):
        np.add.at(total, where, values)
    return sums


def _areas(lattice: GeoBox, row: NDArray[np.intp], col: NDArray[np.intp], grid: GeoBox) -> Float:
    """Return the area of cells in square units of a map's CRS, with straight edges."""
    x, y = np.stack(
        [_corners(lattice, row + down, col + right, grid.crs) for down, right in ((0, 0), (0, 1), (1, 1), (1, 0))],
        axis=1,
    )
    area: Float = np.abs((x * np.roll(y, -1, axis=0) - np.roll(x, -1, axis=0) * y).sum(axis=0)) / 2
    return area


def _corners(lattice: GeoBox, row: NDArray[Any], col: NDArray[Any], crs: Any) -> tuple[Float, Float]:
    """Return x and y in a CRS of positions in a lattice."""
    from pyproj import Transformer

    a = lattice.affine
    mover = Transformer.from_crs(str(lattice.crs), str(crs), always_xy=True)
    x, y = mover.transform(a.c + a.a * col, a.f + a.e * row)
    return np.asarray(x), np.asarray(y)


def _smap(stack: Stack, row: NDArray[np.intp], col: NDArray[np.intp], day: date) -> Float:
    if not row.size:
        return np.zeros(0)
    top, left = int(row.min()), int(col.min())
    values = stack.read("smap", (slice(top, int(row.max()) + 1), slice(left, int(col.max()) + 1)), day)
    found: Float = values[row - top, col - left].astype(np.float64)
    return found


def _statistics(mapped: Float, smap: Float) -> dict[str, Any]:
    if not mapped.size:
        return {"n": 0, "bias": None, "rmse": None, "ubrmse": None, "r": None}
    off = mapped - smap
    varies = np.ptp(mapped) > 0 and np.ptp(smap) > 0
    return {
        "n": int(off.size),
        "bias": float(off.mean()),
        "rmse": float(np.sqrt((off**2).mean())),
        "ubrmse": float(off.std()),
        "r": float(np.corrcoef(mapped, smap)[0, 1]) if varies else None,
    }
