"""Positions of the points of a grid in a lattice: exact, and interpolated between control points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

SNAP = 1e-3
"""An edge within this share of a pixel of a line counts as on it: reprojection moves it by less."""

_STEP = 32
"""Width and height, in pixels, of the control cells within which positions are interpolated; even, so that knots lie on
pixel edges."""

_SAFETY = 4.0
"""Errors are measured at a few points per control cell and multiplied by this, as they may be larger between them."""


def pixel_centres(geobox: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the coordinates of the pixel centres: y from north to south, and x, in the units of the CRS.

    On grids with edges on multiples of the resolution, they are the same to the last bit in every window.
    """
    return (
        lines(geobox, np.arange(geobox.shape.y) + 0.5, axis=0),
        lines(geobox, np.arange(geobox.shape.x) + 0.5, axis=1),
    )


def origin(geobox: GeoBox) -> tuple[int | None, int | None]:
    """Return columns right of and rows above the origin of the CRS of the upper left corner; None if not whole."""
    a = geobox.affine
    parts = (a.c / a.a, a.f / -a.e)
    x, y = (round(part) if abs(part - round(part)) < SNAP else None for part in parts)
    return x, y


def lines(geobox: GeoBox, index: NDArray[np.floating], axis: int) -> NDArray[np.float64]:
    """Return coordinates along an axis at pixel positions counted from the upper left corner."""
    a = geobox.affine
    assert (a.b, a.d) == (0, 0), "grids are not rotated"
    col, row = origin(geobox)
    if axis == 1:
        values = (index + col) * a.a if col is not None else a.c + index * a.a
    else:
        values = (index - row) * a.e if row is not None else a.f + index * a.e
    return values.astype(np.float64, copy=False)


def positions_in(
    geobox: GeoBox, lattice: GeoBox, rows: NDArray[np.floating], cols: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the positions in a lattice of points at pixel positions in a grid; NaN where the CRS has no such point."""
    x, y = lines(geobox, cols, axis=1), lines(geobox, rows, axis=0)
    if geobox.crs != lattice.crs:
        x, y = _transformer(str(geobox.crs), str(lattice.crs)).transform(x, y)
    a = lattice.affine
    found = (y - a.f) / a.e, (x - a.c) / a.a
    for part in found:
        part[~np.isfinite(part)] = np.nan
    return found


@lru_cache(maxsize=64)
def _transformer(source: str, target: str) -> Any:
    """Return the transformer between two CRSs; threads may share it (since pyproj 3.1)."""
    import pyproj

    return pyproj.Transformer.from_crs(source, target, always_xy=True)


@dataclass(frozen=True, kw_only=True)
class Control:
    """Exact positions in a lattice at the knots of a grid, between which positions are interpolated.

    PROJ transforms about five million positions per second, so it transforms a few knots only. The mapping between two
    CRSs is smooth, and the error of a parabola between knots, along either axis, is negligible. That is measured in
    every control cell, not assumed; where it does not hold (a CRS ends, the mapping jumps at the antimeridian, pixels
    are very wide), PROJ transforms every position in the control cell.

    Attributes
    ----------
    row_cells, row_shares, col_cells, col_shares
        See `_control`.
    knots
        Rows and columns in the lattice of the knots.
    trusted
        Control cells in which positions may be interpolated.
    """

    row_cells: NDArray[np.intp]
    row_shares: NDArray[np.floating]
    col_cells: NDArray[np.intp]
    col_shares: NDArray[np.floating]
    knots: tuple[NDArray[np.float64], NDArray[np.float64]]
    trusted: NDArray[np.bool_]

    @classmethod
    def of(cls, geobox: GeoBox, lattice: GeoBox, tolerance: float) -> Control:
        """Locate the knots; an interpolated position may be wrong by `tolerance`, in cells along either axis."""
        first_col, first_row = origin(geobox)
        row_cells, row_shares, row_knots, row_checks = _control(-(first_row or 0), geobox.shape.y)
        col_cells, col_shares, col_knots, col_checks = _control(first_col or 0, geobox.shape.x)
        knots = positions_in(geobox, lattice, *np.meshgrid(row_knots, col_knots, indexing="ij"))
        checks = positions_in(geobox, lattice, *np.meshgrid(row_checks, col_checks, indexing="ij"))
        return cls(
            row_cells=row_cells,
            row_shares=row_shares,
            col_cells=col_cells,
            col_shares=col_shares,
            knots=knots,
            trusted=_interpolates(knots[0], checks[0], tolerance) & _interpolates(knots[1], checks[1], tolerance),
        )

    def strips(self) -> Iterator[tuple[slice, list[NDArray[np.float64]], NDArray[np.bool_]]]:
        """Yield each strip of control cells.

        Yields
        ------
        strip : slice
            Rows of the grid.
        columns : list of ndarray (3, column)
            Rows and columns in the lattice of the three knots in each column of pixels.
        trusted : ndarray of bool (column,)
            Columns of pixels in which positions may be interpolated.
        """
        along = [_along(part, self.col_cells, self.col_shares) for part in self.knots]
        for strip in _runs(self.row_cells):
            cell = self.row_cells[strip.start]
            yield strip, [part[2 * cell : 2 * cell + 3] for part in along], self.trusted[cell, self.col_cells]


def _control(
    first: int, size: int
) -> tuple[NDArray[np.intp], NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Lay control cells along an axis of `size` pixels, the first of which is pixel `first` from the origin of the CRS.

    They begin at multiples of their size from the origin, so that interpolated values do not depend on the window.

    Returns
    -------
    cells, shares : ndarray, (pixel,)
        The control cell of each pixel, and the share of it, 0 to 1, that lies before the pixel's centre.
    knots, checks : ndarray
        Pixel positions: two knots per control cell, on its edge and in its middle, and one at the very end; two checks
        per control cell, at a quarter and three quarters of it, where the error of a parabola is about the largest.
    """
    before = first % _STEP
    cells, pixels = np.divmod(before + np.arange(size), _STEP)
    knots = np.arange(-(-(before + size) // _STEP) * 2 + 1) * (_STEP / 2) - before
    return cells, (pixels + 0.5) / _STEP, knots, knots[:-1] + _STEP / 4


def _runs(cells: NDArray[np.intp]) -> Iterator[slice]:
    """Yield the pixels of each control cell."""
    starts = np.flatnonzero(np.diff(cells, prepend=-1)).tolist()
    yield from (slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(cells)], strict=True))


def _along(knots: NDArray[np.float64], cells: NDArray[np.intp], shares: NDArray[np.floating]) -> NDArray[np.float64]:
    """Interpolate along the last axis at shares of control cells."""
    return at_share(
        shares,
        *(part[..., cells] for part in parabola(*(knots[..., k::2][..., : knots.shape[-1] // 2] for k in range(3)))),
    )


def parabola(
    start: NDArray[np.float64], middle: NDArray[np.float64], end: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the coefficients of parabolas through knots at 0, ½ and 1, that of the square first."""
    return 2 * start - 4 * middle + 2 * end, 4 * middle - 3 * start - end, start


def at_share(share: NDArray[np.floating], *parabola: NDArray[Any]) -> NDArray[Any]:
    """Evaluate parabolas, element by element, so that no value depends on its neighbours."""
    square, slope, start = parabola
    value: NDArray[Any] = square * share
    value += slope
    value *= share
    value += start
    return value


def _interpolates(knots: NDArray[np.float64], checks: NDArray[np.float64], tolerance: float) -> NDArray[np.bool_]:
    """Find the control cells (row, col) where interpolation between the knots meets all four checks; NaN meets none."""
    down, right = (np.arange(size) for size in checks.shape)
    across = _along(knots, right // 2, 0.25 + 0.5 * (right % 2))
    found = _along(across.T, down // 2, 0.25 + 0.5 * (down % 2)).T
    good = _SAFETY * np.abs(found - checks) <= tolerance
    met: NDArray[np.bool_] = np.all(good.reshape(len(down) // 2, 2, len(right) // 2, 2), axis=(1, 3))
    return met
