"""The class of the largest area below each pixel, by exact areas: GDAL's mode differs between its versions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.lattice import corner_cells, nearest_cells

_TIE = 1e-6
"""Areas that differ by less than this share of a pixel count as equal."""

_MANY = 24**2
"""With more cells below a pixel, whole cells are counted by their centres: exact areas would take an hour a tile."""


def largest_class(codes: NDArray[np.uint8], lattice: GeoBox, geobox: GeoBox) -> NDArray[np.uint8]:
    """Return the class that covers most of each pixel.

    Pixels are quadrilaterals between their reprojected corners; the area of each cell below them is exact. Where cells
    are much finer than pixels, below 4 m for pixels of 100 m, whole cells are counted by their centres. Of classes with
    equal areas the lowest code is returned.

    Parameters
    ----------
    codes
        Classes on the lattice, (y, x), 0 where missing: missing cells do not count.
    lattice, geobox
        The lattice, in any CRS, and the grid.

    Returns
    -------
    ndarray of uint8 (y, x)
        On the grid; 0 where a pixel covers no cell with a class.

    Examples
    --------
    >>> from affine import Affine
    >>> cells = GeoBox((1, 4), Affine(30, 0, 0, 0, -30, 0), "EPSG:5070")
    >>> pixels = GeoBox((1, 2), Affine(60, 0, 0, 0, -30, 0), "EPSG:5070")
    >>> largest_class(np.array([[41, 0, 52, 21]], np.uint8), cells, pixels)
    array([[41, 21]], dtype=uint8)
    """
    rows, cols = corner_cells(geobox, lattice)
    classes = np.union1d(codes, 0)
    many = (np.abs(np.diff(rows, axis=0)[:, :-1] * np.diff(cols, axis=1)[:-1]) > _MANY).mean() > 0.5
    pixels, found, areas = _by_centres(codes, lattice, geobox) if many else _by_areas(codes, rows, cols)
    keys = pixels * classes.size + np.searchsorted(classes, found)
    size = geobox.shape.y * geobox.shape.x
    totals = np.bincount(keys.ravel(), areas.ravel(), size * classes.size).reshape(size, classes.size)
    shares = np.rint(totals / np.maximum(totals.sum(axis=1), np.finfo(float).tiny)[:, None] / _TIE)
    shares[:, 0] = 0
    best = classes[shares.argmax(axis=1)]
    return np.where(shares.max(axis=1) > 0, best, 0).astype(np.uint8).reshape(geobox.shape)


def _by_centres(codes: NDArray[np.uint8], lattice: GeoBox, geobox: GeoBox) -> tuple[NDArray[Any], ...]:
    """Return the pixel, the class and the area of each cell whose centre lies in a pixel."""
    rows, cols = nearest_cells(lattice, geobox)
    inside = (rows >= 0) & (rows < geobox.shape.y) & (cols >= 0) & (cols < geobox.shape.x)
    pixels = rows[inside].astype(np.intp) * geobox.shape.x + cols[inside]
    return pixels, codes[inside], np.ones(pixels.shape)


def _by_areas(
    codes: NDArray[np.uint8], rows: NDArray[np.float64], cols: NDArray[np.float64]
) -> tuple[NDArray[Any], ...]:
    """Return the pixel, the class and the area of each cell below a pixel, (row, column, pixel); 0 beside the cells."""
    top, left, areas = _areas(_corners(rows), _corners(cols))
    row = top + np.arange(areas.shape[0])[:, None, None]
    col = left + np.arange(areas.shape[1])[:, None]
    height, width = codes.shape
    inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    found = np.where(inside, codes[np.clip(row, 0, height - 1), np.clip(col, 0, width - 1)], 0)
    return np.broadcast_to(np.arange(areas.shape[2]), areas.shape), found, areas


def _corners(lines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a coordinate of the four corners of each pixel, in order around it, (corner, pixel)."""
    ring = (lines[:-1, :-1], lines[:-1, 1:], lines[1:, 1:], lines[1:, :-1])
    return np.stack([corner.ravel() for corner in ring])


def _areas(
    rows: NDArray[np.float64], cols: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return the area of each cell below each pixel.

    By Green's theorem, the area of a polygon left of a column line u within a band of rows is the integral of
    min(column, u) over the rows, along its edges within the band; between two lines lies the difference.

    Parameters
    ----------
    rows, cols
        Corners in cells of the lattice, (corner, pixel); NaN where the lattice's CRS has no such point.

    Returns
    -------
    top, left : ndarray (pixel)
        First row and column of the cells.
    areas : ndarray (row, column, pixel)
        In cells; 0 of pixels without a place.
    """
    lost = ~np.isfinite(rows + cols).all(axis=0)
    rows, cols = np.where(lost, 0, rows), np.where(lost, 0, cols)
    top, left = np.floor(rows.min(axis=0)), np.floor(cols.min(axis=0))
    rows, cols = rows - top, cols - left
    shape = max(int(np.ceil(rows.max())), 1), max(int(np.ceil(cols.max())), 1)
    integrals = np.zeros((shape[0], shape[1] + 1, rows.shape[1]))
    for start, end in ((0, 1), (1, 2), (2, 3), (3, 0)):
        edge = rows[start], rows[end], cols[start], cols[end]
        for band in range(shape[0]):
            _integrate(integrals[band], band, *edge)
    areas = np.abs(np.diff(integrals, axis=1))
    areas[..., lost] = 0
    return top.astype(np.intp), left.astype(np.intp), areas


def _integrate(integrals: NDArray[np.float64], band: int, y0: Any, y1: Any, x0: Any, x1: Any) -> None:
    """Add ∫ min(x, u) dy along straight edges within a band of rows, for each column line u, in place."""
    low, high = np.clip(y0, band, band + 1), np.clip(y1, band, band + 1)
    slope = (x1 - x0) / np.where(y0 == y1, 1, y1 - y0)
    one, other = x0 + (low - y0) * slope, x0 + (high - y0) * slope
    left, right = np.minimum(one, other), np.maximum(one, other)
    width, middle = right - left, (left + right) / 2
    for u, integral in enumerate(integrals):
        # The share of the edge right of u, and by how much its middle lies right of it.
        beyond = np.where(width > 0, (right - np.clip(u, left, right)) / np.where(width > 0, width, 1), left > u)
        excess = (np.maximum(right - u, 0) + np.maximum(left - u, 0)) / 2
        integral += (high - low) * (middle - beyond * excess)
