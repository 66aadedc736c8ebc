"""Interpolation in time, gap filling from neighbouring cells, and bilinear sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import Window
from mmnet_maps.variables import Variable

Float = NDArray[np.float32]
Packed = NDArray[np.integer]

NEVER = np.uint8(255)
"""Age in days of a pixel that was never observed."""

FILL_CELLS = 2
"""Distance in cells over which gaps are filled, along rows and columns."""

_STRIP = 64  # rows
_OFFSETS = sorted(
    (
        (i, j)
        for i in range(-FILL_CELLS, FILL_CELLS + 1)
        for j in range(-FILL_CELLS, FILL_CELLS + 1)
        if (i, j) != (0, 0)
    ),
    key=lambda offset: (offset[0] ** 2 + offset[1] ** 2, offset),
)


def interpolate_series(values: Float, own: NDArray[np.integer], reach: int) -> tuple[Float, Float]:
    """Interpolate many days at once, see `interpolate_days`, of a field that is in memory as a whole.

    Parameters
    ----------
    values
        Observations (day, y, x), consecutive days, NaN where missing.
    own
        Index of each day to interpolate, (k,).
    reach
        Search window in days.

    Returns
    -------
    value, age : ndarray (k, y, x)
        float32; NaN and infinity where there is no observation within reach.
    """
    if reach == 0:
        return values[own], np.where(np.isnan(values[own]), np.float32(np.inf), np.float32(0))
    count = len(values)
    day = np.arange(count, dtype=np.int16)[:, None, None]
    missing = np.isnan(values)
    last = np.maximum.accumulate(np.where(missing, np.int16(-2 * count), day), axis=0)[own]
    following = np.minimum.accumulate(np.where(missing, np.int16(3 * count), day)[::-1], axis=0)[::-1]
    following = np.concatenate([following[1:], np.full_like(following[:1], 3 * count)])[own]
    sides = []
    for index, gap in ((last, day[own] - last), (following, following - day[own])):
        value = np.take_along_axis(values, np.clip(index, 0, count - 1), axis=0)
        near = gap <= reach
        sides.append((np.where(near, value, np.nan), np.where(near, gap, np.inf).astype(np.float32)))
    return _between(*sides[0], *sides[1])


def _between(before: Float, gap_before: Float, after: Float, gap_after: Float) -> tuple[Float, Float]:
    """Interpolate linearly between two observations, given the days to them; where one is missing, hold the other."""
    with np.errstate(invalid="ignore"):
        value = after - before
        value *= gap_before / (gap_before + gap_after)
        value += before
    np.copyto(value, before, where=np.isnan(after))
    np.copyto(value, after, where=np.isnan(before))
    return value, np.minimum(gap_before, gap_after)


def interpolate_days(
    read: Callable[[date, Window], Packed],
    observed: Sequence[date],
    day: date,
    reach: int,
    shape: tuple[int, int],
    variable: Variable,
) -> tuple[Float, NDArray[np.uint8]]:
    """Interpolate a day from the valid observations around it, pixel by pixel.

    Linear between the nearest valid observation on or before `day` and the nearest after it, both within `reach` days;
    where one of them is missing, the other is held. Observations stay packed until the end, which halves the memory
    traffic.

    Parameters
    ----------
    read
        Returns a window of one day's observation, packed; it is not changed.
    observed
        Days that have observations, in any order.
    day
        Day to interpolate.
    reach
        Search window in days, less than 255.
    shape
        Rows and columns.
    variable
        The observed variable.

    Returns
    -------
    value : ndarray (y, x)
        float32, physical; NaN where there is no observation within reach.
    age : ndarray (y, x)
        Days to the nearer observation, uint8; `NEVER` where there is none.

    Raises
    ------
    InputError
        No day within reach has observations.
    """
    near = [other for other in observed if abs((other - day).days) <= reach]
    whole = slice(0, shape[0]), slice(0, shape[1])
    sides = [
        _nearest(read, ordered, day, whole, variable.nodata)
        for ordered in (sorted((d for d in near if d <= day), reverse=True), sorted(d for d in near if d > day))
        if ordered
    ]
    if not sides:
        raise InputError(f"no observation within {reach} days of {day}")
    if len(sides) == 1:
        return variable.unpack(sides[0][0]), sides[0][1]
    return _between_packed(*sides[0], *sides[1], variable)


def _between_packed(
    before: Packed, gap_before: NDArray[np.uint8], after: Packed, gap_after: NDArray[np.uint8], variable: Variable
) -> tuple[Float, NDArray[np.uint8]]:
    """Interpolate as `_between` does, from packed values, which are overwritten."""
    value = np.empty(before.shape, np.float32)
    # A few rows at a time, so that intermediate results stay in the cache.
    for top in range(0, len(value), _STRIP):
        rows = slice(top, top + _STRIP)
        one, other = before[rows], after[rows]
        np.copyto(one, other, where=one == variable.nodata)
        np.copyto(other, one, where=other == variable.nodata)
        first = gap_before[rows].astype(np.float32)
        share = first / (first + gap_after[rows])
        share *= np.subtract(other, one, dtype=np.float32)
        share += one
        value[rows] = variable.scaled(share)
        value[rows][one == variable.nodata] = np.nan
    return value, np.minimum(gap_before, gap_after)


def _nearest(
    read: Callable[[date, Window], Packed], ordered: Sequence[date], day: date, whole: Window, nodata: int
) -> tuple[Packed, NDArray[np.uint8]]:
    """Return the first valid value in the given order of days, packed, and its distance in days.

    Of each further day only the rows and columns that still hold a missing pixel are read.
    """
    value = read(ordered[0], whole).copy()
    empty = value == nodata
    gap = np.where(empty, NEVER, np.uint8(abs((ordered[0] - day).days)))
    part = whole
    for other in ordered[1:]:
        rows, cols = np.flatnonzero(empty.any(1)), np.flatnonzero(empty.any(0))
        if not rows.size:
            break
        top, left = part[0].start, part[1].start
        part = slice(top + rows[0], top + rows[-1] + 1), slice(left + cols[0], left + cols[-1] + 1)
        found, here = read(other, part), value[part]
        missing = here == nodata
        np.copyto(here, found, where=missing)
        empty = here == nodata
        np.copyto(gap[part], np.uint8(abs((other - day).days)), where=missing & ~empty)
    return value, gap


def fill_gaps(values: Float) -> tuple[Float, NDArray[np.bool_]]:
    """Fill missing cells with the nearest valid cell at most two cells away (coasts).

    Parameters
    ----------
    values
        (time, row, col) float32, NaN where missing.

    Returns
    -------
    filled : ndarray (time, row, col)
    gap_filled : ndarray of bool (time, row, col)
        Cells that were filled.
    """
    missing = np.isnan(values)
    if not missing.any():
        return values, missing
    filled = values.copy()
    around = np.pad(values, ((0, 0), (FILL_CELLS, FILL_CELLS), (FILL_CELLS, FILL_CELLS)), constant_values=np.nan)
    height, width = values.shape[1:]
    for i, j in _OFFSETS:
        top, left = FILL_CELLS + i, FILL_CELLS + j
        np.copyto(filled, around[:, top : top + height, left : left + width], where=np.isnan(filled))
    gap_filled: NDArray[np.bool_] = missing & ~np.isnan(filled)
    return filled, gap_filled


def bilinear(values: Float, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> Float:
    """Sample a coarse field between its cell centres.

    Corners that are missing or lie beyond the field are left out and the weights of the others renormalised.

    Parameters
    ----------
    values
        (row, col) float32.
    rows, cols
        Positions in cell units, cell centres at whole numbers plus one half, any shape.

    Returns
    -------
    ndarray
        float32; NaN where all four corners are missing. A value depends on its position and corners alone, not on the
        positions sampled with it.
    """
    height, width = values.shape
    known = np.pad(~np.isnan(values), 1)
    padded = np.where(known, np.pad(values, 1), np.float32(0)).ravel()
    share = known.astype(np.float32).ravel()
    whole = bool(known[1:-1, 1:-1].all())
    sampled = np.empty(rows.shape, np.float32)
    # A few rows at a time, so that intermediate results stay in the cache.
    for part in np.array_split(np.arange(len(rows)), min(len(rows), max(1, rows.size // 65_536))):
        row, col = (np.nan_to_num(index[part], nan=-9.0) - 0.5 for index in (rows, cols))
        top, left = np.floor(row), np.floor(col)
        down, right = (row - top).astype(np.float32), (col - left).astype(np.float32)
        inner = bool(whole and top.min() >= 0 and left.min() >= 0 and top.max() < height - 1 and left.max() < width - 1)
        start = np.clip(top, -1, height - 1).astype(np.intp) * (width + 2) + width + 3
        start += np.clip(left, -1, width - 1).astype(np.intp)
        total, weight, corners = (np.zeros(row.shape, np.float32) for _ in range(3))
        for step, portion in (
            (0, (1 - down) * (1 - right)),
            (1, (1 - down) * right),
            (width + 2, down * (1 - right)),
            (width + 3, down * right),
        ):
            total += padded[start + step] * portion
            if not inner:
                weight += share[start + step] * portion
                corners += share[start + step]
        if not inner:
            # Rounded weights of four corners do not add up to 1: dividing by them would depend on the window.
            with np.errstate(invalid="ignore", divide="ignore"):
                np.divide(total, weight, out=total, where=corners < 4)
            total[(top < -1) | (top >= height) | (left < -1) | (left >= width)] = np.nan
        sampled[part] = total
    return sampled
