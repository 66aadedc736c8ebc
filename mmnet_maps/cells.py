"""From pixels to cells: windows of lattices, and the cell of a coarse lattice under every pixel of a grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from threading import get_ident
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.aoi import LONLAT
from mmnet_maps.errors import InputError

Window = tuple[slice, slice]
"""Rows and columns of a grid."""

SNAP = 1e-3
"""Within this share of a pixel an edge lies on a line: reprojection moves by less."""

_BLOCK_ROWS = 256


def window_of(geobox: GeoBox, parent: GeoBox) -> Window:
    """Rows and columns of `parent` that are `geobox`.

    Raises
    ------
    InputError
        When `geobox` is not a window of `parent`.

    Examples
    --------
    >>> from mmnet_maps.grid import conus_grid
    >>> window_of(conus_grid()[5:8, 40:50], conus_grid())
    (slice(5, 8, None), slice(40, 50, None))
    """
    a, b = geobox.affine, parent.affine
    same = geobox.crs == parent.crs and math.isclose(a.a, b.a, rel_tol=1e-9) and math.isclose(a.e, b.e, rel_tol=1e-9)
    col, row = (a.c - b.c) / b.a, (a.f - b.f) / b.e
    left, upper = round(col), round(row)
    inside = 0 <= left <= parent.shape.x - geobox.shape.x and 0 <= upper <= parent.shape.y - geobox.shape.y
    if not (same and inside and max(abs(col - left), abs(row - upper)) < SNAP):
        raise InputError(
            f"a window of {geobox.shape.y} × {geobox.shape.x} cells at {_place(geobox)} is not part of the grid of "
            f"{parent.shape.y} × {parent.shape.x} cells at {_place(parent)}; use the same CRS and resolution, inside it"
        )
    return slice(upper, upper + geobox.shape.y), slice(left, left + geobox.shape.x)


def _place(geobox: GeoBox) -> str:
    return f"{geobox.affine.c:g}, {geobox.affine.f:g} ({geobox.crs}, cell {geobox.affine.a:g})"


def cover(geobox: GeoBox, lattice: GeoBox, pad: int = 0) -> Window:
    """Rows and columns of a lattice, in any CRS, that cover a grid.

    Parameters
    ----------
    geobox
        The grid to cover.
    lattice
        The lattice of cells; the window is clipped to it.
    pad
        Cells added on every side.

    Raises
    ------
    InputError
        When the grid lies outside the lattice.

    Examples
    --------
    >>> from mmnet_maps.grid import conus_grid
    >>> cover(conus_grid()[:10, :10], conus_grid(), pad=2)
    (slice(0, 12, None), slice(0, 12, None))
    """
    ny, nx = geobox.shape.y, geobox.shape.x
    rows = np.concatenate([np.zeros(nx + 1), np.full(nx + 1, ny), np.arange(ny + 1), np.arange(ny + 1)])
    cols = np.concatenate([np.arange(nx + 1), np.arange(nx + 1), np.zeros(ny + 1), np.full(ny + 1, nx)])
    y, x = _positions(geobox, lattice, rows, cols)
    windows = []
    for edges, size in ((y, lattice.shape.y), (x, lattice.shape.x)):
        known = edges[np.isfinite(edges)]
        low = math.floor(known.min() + SNAP) - pad if known.size else size
        high = math.ceil(known.max() - SNAP) + pad if known.size else 0
        windows.append(slice(max(low, 0), min(max(high, low + 1), size)))
    if any(window.start >= window.stop for window in windows):
        raise InputError(
            f"the grid at {_place(geobox)} lies outside the inputs' grid at {_place(lattice)}; use inputs that cover it"
        )
    return windows[0], windows[1]


def pixel_centres(geobox: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates of the pixel centres: y from north to south and x, in the units of the CRS.

    On grids with edges on multiples of the resolution they do not depend, to the last bit, on the window.
    """
    return (
        lines(geobox, np.arange(geobox.shape.y) + 0.5, axis=0),
        lines(geobox, np.arange(geobox.shape.x) + 0.5, axis=1),
    )


def origin(geobox: GeoBox) -> tuple[int | None, int | None]:
    """Columns and rows from the origin of the CRS to the upper left corner (rows count up); None where not whole."""
    a = geobox.affine
    parts = (a.c / a.a, a.f / -a.e)
    x, y = (round(part) if abs(part - round(part)) < SNAP else None for part in parts)
    return x, y


def lines(geobox: GeoBox, index: NDArray[np.floating], axis: int) -> NDArray[np.float64]:
    """Coordinates along an axis at pixel positions counted from the upper left corner."""
    a = geobox.affine
    assert (a.b, a.d) == (0, 0), "grids are not rotated"
    col, row = origin(geobox)
    if axis == 1:
        values = (index + col) * a.a if col is not None else a.c + index * a.a
    else:
        values = (index - row) * a.e if row is not None else a.f + index * a.e
    return values.astype(np.float64, copy=False)


def _positions(
    geobox: GeoBox, lattice: GeoBox, rows: NDArray[np.floating], cols: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions in a lattice of the points at given pixel positions in a grid; NaN where the CRS has none."""
    x, y = lines(geobox, cols, axis=1), lines(geobox, rows, axis=0)
    if geobox.crs != lattice.crs:
        x, y = _mover(geobox.crs, lattice.crs).transform(x, y)
    a = lattice.affine
    found = (y - a.f) / a.e, (x - a.c) / a.a
    for part in found:
        part[~np.isfinite(part)] = np.nan
    return found


def _mover(source: Any, target: Any) -> Any:
    return _mover_of_thread(str(source), str(target), get_ident())


@lru_cache(maxsize=64)
def _mover_of_thread(source: str, target: str, thread: int) -> Any:
    """One transformer a thread: PROJ objects must not be shared."""
    import pyproj

    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def fractional_cells(geobox: GeoBox, lattice: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the pixel centres of a grid lie in a lattice, exactly, pixel by pixel.

    Parameters
    ----------
    geobox
        The grid.
    lattice
        A lattice of cells in any CRS.

    Returns
    -------
    rows, cols : ndarray of float64, (y, x)
        Positions in cells from the lattice's upper left corner: cell k spans k to k + 1 and has its centre at
        k + 0.5. Not clipped to the lattice; NaN where its CRS has no such point. Values do not depend on the window.

    Examples
    --------
    >>> from mmnet_maps.grid import conus_grid
    >>> rows, cols = fractional_cells(conus_grid()[2:3, 7:9], conus_grid())
    >>> rows.tolist(), cols.tolist()
    ([[2.5, 2.5]], [[7.5, 8.5]])
    """
    rows, cols = np.empty(geobox.shape), np.empty(geobox.shape)
    for start, y, x in _centre_blocks(geobox):
        rows[start : start + len(y)], cols[start : start + len(y)] = _positions(geobox, lattice, y, x)
    return rows, cols


def _centre_blocks(geobox: GeoBox) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """Blocks of rows: the first row, and the pixel positions of the centres as two (y, x) arrays."""
    cols = np.arange(geobox.shape.x) + 0.5
    for start in range(0, geobox.shape.y, _BLOCK_ROWS):
        rows = np.arange(start, min(start + _BLOCK_ROWS, geobox.shape.y)) + 0.5
        y, x = np.meshgrid(rows, cols, indexing="ij")
        yield start, y, x


def nearest_cells(geobox: GeoBox, lattice: GeoBox) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The cell of a lattice that holds the centre of each pixel.

    Parameters
    ----------
    geobox
        The grid.
    lattice
        A lattice of cells in any CRS.

    Returns
    -------
    row, col : ndarray of int32, (y, x)
        −1 in both where the centre lies in no cell. Values do not depend on the window.

    Examples
    --------
    >>> from mmnet_maps.grid import conus_grid
    >>> row, col = nearest_cells(conus_grid()[2:3, 7:9], conus_grid())
    >>> row.tolist(), col.tolist()
    ([[2, 2]], [[7, 8]])
    """
    row, col = np.empty(geobox.shape, np.int32), np.empty(geobox.shape, np.int32)
    for start, y, x in _centre_blocks(geobox):
        down, right = (np.floor(part) for part in _positions(geobox, lattice, y, x))
        inside = (down >= 0) & (down < lattice.shape.y) & (right >= 0) & (right < lattice.shape.x)
        block = slice(start, start + len(y))
        row[block] = np.where(inside, down, -1)
        col[block] = np.where(inside, right, -1)
    return row, col


def lonlat(geobox: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Longitude and latitude (EPSG:4326, degrees) of the pixel centres, each float32 (y, x).

    Examples
    --------
    >>> from mmnet_maps.grid import tile_geobox
    >>> lon, lat = lonlat(tile_geobox("h06v03")[:1, :1])
    >>> round(float(lon[0, 0]), 2), round(float(lat[0, 0]), 2)
    (-120.6, 47.56)
    """
    lon, lat = np.empty(geobox.shape, np.float32), np.empty(geobox.shape, np.float32)
    for start, rows, cols in _centre_blocks(geobox):
        x, y = lines(geobox, cols, axis=1), lines(geobox, rows, axis=0)
        block = slice(start, start + len(rows))
        lon[block], lat[block] = _mover(geobox.crs, LONLAT).transform(x, y)
    return lon, lat
