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
_FAR = 10_000  # days
_OFFSETS = sorted(
    (
        (i, j)
        for i in range(-FILL_CELLS, FILL_CELLS + 1)
        for j in range(-FILL_CELLS, FILL_CELLS + 1)
        if (i, j) != (0, 0)
    ),
    key=lambda offset: (offset[0] ** 2 + offset[1] ** 2, offset),
)


def interpolate_series(packed: Packed, own: range, reach: int, variable: Variable) -> Float:
    """Interpolate many days at once, see `interpolate_days`, of cells whose observations are all in memory.

    Parameters
    ----------
    packed
        Observations (day, …) on consecutive days, as stored.
    own
        Days to interpolate, consecutive.
    reach
        Search window in days; with 0, every day stands for itself.
    variable
        The observed variable.

    Returns
    -------
    ndarray (own, …)
        float32, physical; NaN where there is no observation within reach.
    """
    if reach == 0:
        values: Float = variable.unpack(packed[own.start : own.stop])
        return values
    flipped = range(len(packed) - own.stop, len(packed) - own.start)
    befores, gaps_before = _last_seen(packed, own, variable.nodata)
    afters, gaps_after = (part[::-1] for part in _last_seen(packed[::-1], flipped, variable.nodata))
    values = np.empty(befores.shape, np.float32)
    # Day by day, so that intermediate results stay in the cache.
    for value, *sides in zip(values, befores, gaps_before, afters, gaps_after, strict=True):
        before, gap_before, after, gap_after = sides
        far_before, far_after = (_mask(gap > reach) for gap in (gap_before, gap_after))
        first = before ^ ((before ^ after) & far_before)
        second = after ^ ((before ^ after) & far_after)
        share = gap_before / np.maximum(gap_before + gap_after, 1, dtype=np.float32)
        value[...] = _mixed(first, second, share, variable)
        value.view(np.int32)[...] |= far_before & far_after  # all bits set are a NaN
    return values


def _last_seen(packed: Packed, own: range, nodata: int) -> tuple[Packed, NDArray[np.int16]]:
    """Return the last valid value on or before each day, packed, and the days since; a large number where none."""
    shape = (len(own), *packed.shape[1:])
    found, gaps = np.empty(shape, packed.dtype), np.empty(shape, np.int16)
    value, gap = np.full(shape[1:], nodata, packed.dtype), np.full(shape[1:], _FAR, np.int16)
    for day, observed in enumerate(packed[: own.stop]):
        missing = _mask(observed == nodata)
        value = observed ^ ((observed ^ value) & missing)
        gap += 1
        gap &= missing
        if day in own:
            found[day - own.start], gaps[day - own.start] = value, gap
    return found, gaps


def _mask(where: NDArray[np.bool_]) -> NDArray[np.int16]:
    """Return a mask with all bits set where true; choosing bit by bit is ten times as fast as `numpy.where`."""
    mask = where.astype(np.int16)
    return np.negative(mask, out=mask)


def _mixed(before: Packed, after: Packed, share: Float, variable: Variable) -> Float:
    """Return physical values between two packed ones, at a share of the way, which is overwritten."""
    first, value = before.astype(np.float32), after.astype(np.float32)
    variable.scaled(first), variable.scaled(value)
    value -= first
    value *= share
    value += first
    return value


def interpolate_days(
    read: Callable[[date, Window], Packed],
    observed: Sequence[date],
    day: date,
    reach: int,
    shape: tuple[int, int],
    variable: Variable,
) -> tuple[Float | Packed, NDArray[np.uint8]]:
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
        float32, physical, NaN where there is no observation within reach; packed, if all observations within reach lie
        on one side of the day.
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
        return sides[0]
    return _between_packed(*sides[0], *sides[1], variable)


def _between_packed(
    before: Packed, gap_before: NDArray[np.uint8], after: Packed, gap_after: NDArray[np.uint8], variable: Variable
) -> tuple[Float, NDArray[np.uint8]]:
    """Interpolate linearly between packed observations, given the days to them; hold one where the other is missing."""
    value = np.empty(before.shape, np.float32)
    # A few rows at a time, so that intermediate results stay in the cache.
    for top in range(0, len(value), _STRIP):
        rows = slice(top, top + _STRIP)
        no_before, no_after = _mask(before[rows] == variable.nodata), _mask(after[rows] == variable.nodata)
        difference = before[rows] ^ after[rows]
        one, other = before[rows] ^ (difference & no_before), after[rows] ^ (difference & no_after)
        first, total = gap_before[rows].astype(np.float32), gap_after[rows].astype(np.float32)
        total += first
        share = np.divide(first, total, out=first)
        share *= np.subtract(other, one, dtype=np.float32)
        share += one
        value[rows] = variable.scaled(share)
        no_before &= no_after
        value[rows].view(np.int32)[...] |= no_before  # all bits set are a NaN
    return value, np.minimum(gap_before, gap_after)


def _nearest(
    read: Callable[[date, Window], Packed], ordered: Sequence[date], day: date, whole: Window, nodata: int
) -> tuple[Packed, NDArray[np.uint8]]:
    """Return the first valid value in the given order of days, packed, and its distance in days.

    Of each further day only the rows and columns that still hold a missing pixel are read.
    """
    value = read(ordered[0], whole)
    missing = value == nodata
    gap = _age(abs((ordered[0] - day).days), missing)
    part = whole
    for other in ordered[1:]:
        rows, cols = np.flatnonzero(missing.any(1)), np.flatnonzero(missing.any(0))
        if not rows.size:
            break
        value = value.copy() if part is whole else value
        top, left = part[0].start, part[1].start
        part = slice(top + int(rows[0]), top + int(rows[-1]) + 1), slice(left + int(cols[0]), left + int(cols[-1]) + 1)
        here, found = value[part], read(other, part)
        here ^= (here ^ found) & _mask(here == nodata)
        missing = here == nodata
        # A gap found before is smaller, because the days are in order.
        np.minimum(gap[part], _age(abs((other - day).days), missing), out=gap[part])
    return value, gap


def _age(days: int, missing: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return an age in days for every pixel, `NEVER`, which has all bits set, where missing."""
    age = np.negative(missing.view(np.uint8))
    age |= np.uint8(days)
    return age


def fill_gaps(values: Float, cells: NDArray[np.intp], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill missing cells with the nearest valid cell at most two cells away (coasts), in place.

    Parameters
    ----------
    values
        (time, cell) float32, NaN where missing.
    cells
        The cells, counted along the rows of a window, ascending; others of the window have no values.
    shape
        Rows and columns of the window.

    Returns
    -------
    ndarray of bool (time, cell)
        Values that were filled.
    """
    filled = np.zeros(values.shape, bool)
    missing = np.isnan(values)
    time, cell = np.nonzero(missing)
    if not time.size:
        return filled
    # The window with a margin, so that each of its cells has all neighbours.
    width = shape[1] + 2 * FILL_CELLS
    row, col = np.divmod(cells, shape[1])
    place = (row + FILL_CELLS) * width + col + FILL_CELLS
    number = np.full((shape[0] + 2 * FILL_CELLS) * width, len(cells))
    number[place] = np.arange(len(cells))
    ever = np.append(~missing.all(axis=0), False)
    steps = [i * width + j for i, j in _OFFSETS]
    able = np.any([ever[number[place + step]] for step in steps], axis=0)
    time, cell = time[able[cell]], cell[able[cell]]
    known = np.append(values, np.full((len(values), 1), np.float32(np.nan)), axis=1)
    for step in steps:
        found = known[time, number[place[cell] + step]]
        valid = ~np.isnan(found)
        values[time[valid], cell[valid]] = found[valid]
        filled[time[valid], cell[valid]] = True
        time, cell = time[~valid], cell[~valid]
    return filled


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
