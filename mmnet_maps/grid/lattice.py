"""From pixels to cells: windows of lattices, and the cell of a coarse lattice below each pixel of a grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.grid.crs import crs_name
from mmnet_maps.grid.positions import SNAP, Control, at_share, parabola, positions_in

Window = tuple[slice, slice]
"""Rows and columns of a grid."""

_CELL_TOLERANCE = 1e-4
"""An interpolated position may be wrong by this share of a cell: one metre on a lattice of 10 km."""

_NARROW = 256
"""In float32, positions of up to so many cells are rounded by less than `_CELL_TOLERANCE`."""

_DEGREE_TOLERANCE = 1e-6
"""An interpolated longitude or latitude may be wrong by this: 0.1 m, less than float32 resolves at these longitudes."""

_KEPT_PIXELS = 1024 * 1024
"""The cells of grids larger than a tile are not kept: a few of them would fill the memory."""


def window_of(geobox: GeoBox, parent: GeoBox) -> Window:
    """Return the rows and columns of `parent` that are `geobox`.

    Raises
    ------
    InputError
        `geobox` is not a window of `parent`.

    Examples
    --------
    >>> from mmnet_maps.grid.tiles import conus_grid
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
    return f"{geobox.affine.c:g}, {geobox.affine.f:g} ({crs_name(geobox.crs)}, cell {geobox.affine.a:g})"


@lru_cache(maxsize=64)  # for a tile and each group of a stack, again and again
def cover(geobox: GeoBox, lattice: GeoBox, pad: int = 0) -> Window:
    """Return the rows and columns of a lattice, in any CRS, that cover a grid.

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
        The grid lies outside the lattice.

    Examples
    --------
    >>> from mmnet_maps.grid.tiles import conus_grid
    >>> cover(conus_grid()[:10, :10], conus_grid(), pad=2)
    (slice(0, 12, None), slice(0, 12, None))
    """
    ny, nx = geobox.shape.y, geobox.shape.x
    rows = np.concatenate([np.zeros(nx + 1), np.full(nx + 1, ny), np.arange(ny + 1), np.arange(ny + 1)])
    cols = np.concatenate([np.arange(nx + 1), np.arange(nx + 1), np.zeros(ny + 1), np.full(ny + 1, nx)])
    y, x = positions_in(geobox, lattice, rows, cols)
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


def corner_cells(geobox: GeoBox, lattice: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Locate the pixel corners of a grid in a lattice, exactly.

    Returns
    -------
    rows, cols : ndarray of float64, (y + 1, x + 1)
        As of `fractional_cells`.
    """
    height, width = geobox.shape
    rows, cols = np.meshgrid(np.arange(height + 1.0), np.arange(width + 1.0), indexing="ij")
    y, x = positions_in(geobox, lattice, rows.ravel(), cols.ravel())
    return y.reshape(rows.shape), x.reshape(rows.shape)


def _strips(
    geobox: GeoBox, lattice: GeoBox, tolerance: float
) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.float64]]]:
    """Locate the pixel centres of a grid in a lattice, strip by strip; the parameters are those of `Control.of`.

    Yields
    ------
    strip : slice
        Rows of the grid.
    rows, cols : ndarray of float64
        Positions as in `fractional_cells`. In the lattice's own CRS, where nothing is interpolated, they are a column
        and a row that broadcast to the strip.
    """
    row_centres, col_centres = np.arange(geobox.shape.y) + 0.5, np.arange(geobox.shape.x) + 0.5
    if geobox.crs == lattice.crs:
        yield slice(0, geobox.shape.y), *positions_in(geobox, lattice, row_centres[:, None], col_centres[None])
        return
    control = Control.of(geobox, lattice, tolerance)
    for strip, columns, trusted in control.strips():
        y, x = (at_share(control.row_shares[strip, None], *parabola(*knots)) for knots in columns)
        if not trusted.all():
            i, j = np.nonzero(np.broadcast_to(~trusted, y.shape))
            y[i, j], x[i, j] = positions_in(geobox, lattice, row_centres[strip][i], col_centres[j])
        yield strip, y, x


def fractional_cells(geobox: GeoBox, lattice: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Locate the pixel centres of a grid in a lattice, to within 10⁻⁴ of a cell.

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
        k + 0.5. Not clipped to the lattice; NaN where its CRS has no such point. On grids with edges on multiples of
        the resolution, they are the same to the last bit in every window. Read-only, because they may be shared.

    Examples
    --------
    >>> from mmnet_maps.grid.tiles import conus_grid
    >>> rows, cols = fractional_cells(conus_grid()[2:3, 7:9], conus_grid())
    >>> rows.tolist(), cols.tolist()
    ([[2.5, 2.5]], [[7.5, 8.5]])
    """
    return (_kept_fractional if _is_kept(geobox) else _fractional)(geobox, lattice)


def _is_kept(geobox: GeoBox) -> bool:
    return geobox.shape.y * geobox.shape.x <= _KEPT_PIXELS


def _fractional(geobox: GeoBox, lattice: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows, cols = np.empty(geobox.shape), np.empty(geobox.shape)
    for strip, y, x in _strips(geobox, lattice, _CELL_TOLERANCE):
        rows[strip], cols[strip] = y, x
    return _read_only(rows), _read_only(cols)


# Every day of a map needs the same tiles. A tile takes 16 MB: 64 MB at most. That is enough for the four tiles that a
# small area may touch and the one lattice that is sampled between its cells, SMAP's; a larger area locates its tiles
# again, which costs little beside reading and mapping them.
_kept_fractional = lru_cache(maxsize=4)(_fractional)


def _read_only(array: Any) -> Any:
    array.setflags(write=False)
    return array


def nearest_cells(geobox: GeoBox, lattice: GeoBox) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Find the cell of a lattice that holds the centre of each pixel.

    Parameters
    ----------
    geobox
        The grid.
    lattice
        A lattice of cells in any CRS.

    Returns
    -------
    row, col : ndarray of int32, (y, x)
        −1 in both where the centre lies in no cell. The cells are those that PROJ gives pixel by pixel; they do not
        depend on the window. Read-only, because they may be shared.

    Examples
    --------
    >>> from mmnet_maps.grid.tiles import conus_grid
    >>> row, col = nearest_cells(conus_grid()[2:3, 7:9], conus_grid())
    >>> row.tolist(), col.tolist()
    ([[2, 2]], [[7, 8]])
    """
    return (_kept_nearest if _is_kept(geobox) else _nearest)(geobox, lattice)


def _nearest(geobox: GeoBox, lattice: GeoBox) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    row_centres, col_centres = np.arange(geobox.shape.y) + 0.5, np.arange(geobox.shape.x) + 0.5
    if geobox.crs == lattice.crs:
        cells = _whole(*positions_in(geobox, lattice, row_centres[:, None], col_centres[None]))
    else:
        *cells, unsure = _interpolated_cells(Control.of(geobox, lattice, _CELL_TOLERANCE))
        i, j = np.divmod(np.flatnonzero(unsure), geobox.shape.x)
        cells[0][i, j], cells[1][i, j] = _whole(*positions_in(geobox, lattice, row_centres[i], col_centres[j]))
    if any(part.min() < 0 or part.max() >= size for part, size in zip(cells, lattice.shape, strict=True)):
        inside = [(part >= 0) & (part < size) for part, size in zip(cells, lattice.shape, strict=True)]
        cells = [np.where(inside[0] & inside[1], part, np.int32(-1)) for part in cells]
    row, col = (_read_only(np.broadcast_to(part, geobox.shape)) for part in cells)
    return row, col


def _whole(*positions: NDArray[np.float64]) -> list[NDArray[np.int32]]:
    """Return the cells of positions; −1 where there is no position or none that a lattice has."""
    return [np.where((part >= 0) & (part < 2**31), np.floor(part), -1).astype(np.int32) for part in positions]


def _interpolated_cells(control: Control) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Return row and column of the cell of each pixel, and which are unsure: those within the error of a cell's edge.

    Positions are counted from near the strip and in float32, which is half as long, where that adds less to the error
    than interpolation does.
    """
    shape = control.row_cells.size, control.col_cells.size
    cells = np.empty(shape, np.int32), np.empty(shape, np.int32)
    unsure = np.empty(shape, bool)
    for strip, columns, trusted in control.strips():
        share = control.row_shares[strip, None]
        farthest: NDArray[Any] | None = None  # from the middle of a cell
        for found, knots in zip(cells, columns, strict=True):
            if not trusted.all():
                knots = np.where(trusted, knots, knots[:, trusted].mean() if trusted.any() else 0)
            first = np.floor(knots.min()) - 1
            precision = np.float32 if knots.max() - first < _NARROW else np.float64
            curves = (part.astype(precision) for part in parabola(*(knots - first)))
            position = at_share(share.astype(precision), *curves)
            cell = np.floor(position)
            found[strip] = cell
            found[strip] += np.int32(first)
            position -= cell
            position -= precision(0.5)
            np.abs(position, out=position)
            farthest = position if farthest is None else np.maximum(farthest, position)
        assert farthest is not None
        np.greater_equal(farthest, 0.5 - 2 * _CELL_TOLERANCE, out=unsure[strip])
        unsure[strip] |= ~trusted
    return *cells, unsure


# A tile takes 8 MB here, and there are three coarse lattices: 96 MB at most.
_kept_nearest = lru_cache(maxsize=12)(_nearest)


def lonlat(geobox: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return longitude and latitude (EPSG:4326, degrees) of the pixel centres, float32 (y, x); NaN where undefined.

    Before they are rounded to float32, they are accurate to 10⁻⁶ degrees.

    Examples
    --------
    >>> from mmnet_maps.grid.tiles import tile_geobox
    >>> lon, lat = lonlat(tile_geobox("h06v03")[:1, :1])
    >>> round(float(lon[0, 0]), 2), round(float(lat[0, 0]), 2)
    (-120.6, 47.56)
    """
    lon, lat = np.empty(geobox.shape, np.float32), np.empty(geobox.shape, np.float32)
    degrees = GeoBox((1, 1), Affine.identity(), "EPSG:4326")
    for strip, y, x in _strips(geobox, degrees, _DEGREE_TOLERANCE):
        lon[strip], lat[strip] = x, y
    return lon, lat
