"""From the stack to one tile of one day: bands interpolated in time, coarse cells found for every pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.cells import Window, cover, fractional_cells, nearest_cells, window_of
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.stack import EPOCH, LAST_DAY, Group, Stack
from mmnet_maps.variables import FINE_GROUPS, SEARCH_DAYS, VARIABLES

Float = NDArray[np.float32]
SmapResampling = Literal["nearest", "bilinear"]

_BORROW = 2
_PAD = _BORROW + 1  # bilinear sampling looks one cell further
_OFFSETS = sorted(
    ((i, j) for i in range(-_BORROW, _BORROW + 1) for j in range(-_BORROW, _BORROW + 1) if (i, j) != (0, 0)),
    key=lambda offset: (offset[0] ** 2 + offset[1] ** 2, offset),
)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a model needs of a stack: stored variables, and the days of its series."""

    snapshot: tuple[str, ...]
    series: tuple[str, ...]
    steps: int
    includes_day: bool

    @property
    def variables(self) -> tuple[str, ...]:
        """All of them, once each."""
        return tuple(dict.fromkeys((*self.snapshot, *self.series)))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The usual groups they belong to (see `variables`)."""
        return tuple(dict.fromkeys(VARIABLES[name].group for name in self.variables))

    def series_days(self, day: date) -> list[date]:
        """The days of the series of a map of `day`, oldest first."""
        last = day if self.includes_day else day - timedelta(days=1)
        return [last - timedelta(days=k) for k in reversed(range(self.steps))]

    def own_days(self, kind: str, day: date) -> list[date]:
        """The days for which a map of `day` takes a value of this kind."""
        series = self.series_days(day) if any(VARIABLES[name].group == kind for name in self.series) else []
        snapshot = [day] if any(VARIABLES[name].group == kind for name in self.snapshot) else []
        return sorted({*series, *snapshot})

    def days(self, kind: str, day: date) -> list[date]:
        """The days whose observations may enter a map of `day`: its own and the search window around them."""
        if kind == "static":
            return [day]
        reach = SEARCH_DAYS.get(kind, 0)
        own = self.own_days(kind, day)
        return [own[0] + timedelta(days=k) for k in range(-reach, (own[-1] - own[0]).days + reach + 1)]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Everything that a map of one tile and day is made from.

    Attributes
    ----------
    fine
        Snapshot variables on the tile's grid, (y, x): float32, NaN missing; land cover uint8, 0 missing.
    series
        Series variables on a window of their own lattice, (steps, row, col) float32, oldest first.
    cells
        Per coarse group the row and the column, in that window, of every pixel (y, x), int32.
    groups
        The coarse group of each series variable.
    ages
        Days from the map's day to the nearest observation, (y, x) float32, infinite where there is none, for
        ``optical`` and ``sar``.
    filled
        Share of the series' days without an observation of surface temperature, (y, x) float32; 0 where not used.
    borrowed
        Pixels (y, x) with a coarse value from a neighbouring cell.
    """

    fine: dict[str, NDArray[Any]]
    series: dict[str, Float]
    cells: dict[str, tuple[NDArray[np.int32], NDArray[np.int32]]]
    groups: dict[str, str]
    ages: dict[str, Float]
    filled: Float
    borrowed: NDArray[np.bool_]


def interpolate_days(
    read: Callable[[date], Float], observed: Sequence[date], day: date, reach: int
) -> tuple[Float, Float]:
    """Value on a day from the valid observations around it, pixel by pixel.

    Linear between the nearest valid observation on or before `day` and the nearest after it, both within `reach` days;
    where one side is missing the other is held.

    Parameters
    ----------
    read
        Gives the observation (y, x) of a day, NaN where missing.
    observed
        The days that have observations, in any order.
    day
        The day wanted.
    reach
        Search window in days.

    Returns
    -------
    value, age : ndarray (y, x)
        float32; NaN and infinity where there is no observation within reach. Age is in days, to the nearer observation.
    """
    near = [other for other in observed if abs((other - day).days) <= reach]
    before, gap_before = _nearest(read, sorted((d for d in near if d <= day), reverse=True), day)
    after, gap_after = _nearest(read, sorted(d for d in near if d > day), day)
    if before is None or after is None:
        held, gap = (before, gap_before) if after is None else (after, gap_after)
        if held is None:
            raise InputError(f"no observation within {reach} days of {day}")
        return held, gap
    with np.errstate(invalid="ignore"):
        value = before + (after - before) * (gap_before / (gap_before + gap_after))
    np.copyto(value, before, where=np.isnan(after))
    np.copyto(value, after, where=np.isnan(before))
    return value, np.minimum(gap_before, gap_after)


def _nearest(read: Callable[[date], Float], ordered: Sequence[date], day: date) -> tuple[Any, Any]:
    """First valid value in the given order of days and its distance in days; None when there is no day."""
    value = gap = None
    for other in ordered:
        found = read(other)
        distance = np.float32(abs((other - day).days))
        if value is None or gap is None:
            value, gap = found.copy(), np.where(np.isnan(found), np.float32(np.inf), distance)
            continue
        empty = np.isnan(value)
        if not empty.any():
            break
        np.copyto(value, found, where=empty)
        gap[empty & ~np.isnan(found)] = distance
    return value, gap


def borrow(values: Float) -> tuple[Float, NDArray[np.bool_]]:
    """Fill missing cells from the nearest valid cell at most two cells away (coasts).

    Parameters
    ----------
    values
        (time, row, col) float32, NaN where missing.

    Returns
    -------
    filled : ndarray (time, row, col)
    borrowed : ndarray (row, col)
        Cells that were filled at any time.
    """
    missing = np.isnan(values)
    if not missing.any():
        return values, np.zeros(values.shape[1:], bool)
    filled = values.copy()
    around = np.pad(values, ((0, 0), (_BORROW, _BORROW), (_BORROW, _BORROW)), constant_values=np.nan)
    height, width = values.shape[1:]
    for i, j in _OFFSETS:
        shifted = around[:, _BORROW + i : _BORROW + i + height, _BORROW + j : _BORROW + j + width]
        np.copyto(filled, shifted, where=np.isnan(filled))
    lent: NDArray[np.bool_] = np.any(missing & ~np.isnan(filled), axis=0)
    return filled, lent


def bilinear(values: Float, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> Float:
    """Sample a coarse field between its cell centres.

    Missing corners, and those beyond the field, are left out and the weights renormalised.

    Parameters
    ----------
    values
        (row, col) float32.
    rows, cols
        Positions in cell units, cell centres at whole numbers plus one half, any shape.
    """
    height, width = values.shape
    rows, cols = np.nan_to_num(rows, nan=-9.0), np.nan_to_num(cols, nan=-9.0)
    top, left = np.floor(rows - 0.5).astype(np.intp), np.floor(cols - 0.5).astype(np.intp)
    down, right = rows - 0.5 - top, cols - 0.5 - left
    total, weight = np.zeros(rows.shape), np.zeros(rows.shape)
    for i, j, share in (
        (0, 0, (1 - down) * (1 - right)),
        (0, 1, (1 - down) * right),
        (1, 0, down * (1 - right)),
        (1, 1, down * right),
    ):
        row, col = top + i, left + j
        corner = values[np.clip(row, 0, height - 1), np.clip(col, 0, width - 1)]
        good = ~np.isnan(corner) & (row >= 0) & (row < height) & (col >= 0) & (col < width)
        total += np.where(good, corner, 0.0) * share
        weight += good * share
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight > 0, total / weight, np.nan).astype(np.float32)


def uses(stack: Stack, grid: GeoBox, needs: Needs, day: date) -> list[tuple[Group, Window, list[date]]]:
    """The parts of a stack that a map of `grid` and `day` may read.

    Raises
    ------
    RequestError
        When the grid is not a window of the stack's lattice.
    InputError
        When the stack lacks a variable or does not reach over the area.
    """
    groups = {group.name: group for group in (stack.group_of(name) for name in needs.variables)}
    first = min(needs.own_days(group.kind, day)[0] for group in groups.values() if group.temporal)
    if first < EPOCH:
        raise RequestError(
            f"a map of {day} needs inputs from {first} on, stacks begin on {EPOCH}; choose a day "
            f"{(EPOCH - first).days} or more days later"
        )
    found = []
    for group in groups.values():
        days = [other for other in needs.days(group.kind, day) if EPOCH <= other <= LAST_DAY]
        found.append((group, _window(group, grid, stack), days))
    return found


def _window(group: Group, grid: GeoBox, stack: Stack) -> Window:
    if group.kind in FINE_GROUPS:
        return fine_window(grid, stack)
    return cover(grid, group.lattice, pad=_PAD)


def fine_window(grid: GeoBox, stack: Stack) -> Window:
    """Rows and columns of the stack's target lattice that `grid` is.

    Raises
    ------
    RequestError
        When it is not a window of it.
    """
    target = stack.target
    if grid.crs != target.crs or abs(grid.affine.a - target.affine.a) > 1e-9:
        raise RequestError(
            f"the stack {stack.path} is on {target.crs} at {target.affine.a:g}, the map asks for {grid.crs} at "
            f"{grid.affine.a:g}; leave out --crs and --resolution, or build a stack with them"
        )
    return window_of(grid, target)


def require(stack: Stack, grid: GeoBox, needs: Needs, days: Sequence[date]) -> None:
    """Check that a stack holds what maps of `grid` on `days` need.

    Raises
    ------
    InputError
        Naming the first variable or day that lacks, and what to do.
    """
    for day in days:
        for group, window, _ in uses(stack, grid, needs, day):
            own = [day] if group.kind == "static" else needs.own_days(group.kind, day)
            there = (stack.marks(group, window, own) > 0).all(axis=(1, 2))
            if not there.all():
                lacking = own[int(np.argmin(there))]
                raise InputError(
                    f"the stack {stack.path} lacks {group.name} {f'for {lacking} ' if group.temporal else ''}in this "
                    f"area, needed for the map of {day}; fetch it with: mmnet stack --aoi … --start {day} "
                    f"--end {day} --source … --out {stack.path}"
                )


def require_values(stack: Stack, grid: GeoBox, needs: Needs, days: Sequence[date]) -> None:
    """Check that not the whole of a map would be missing because an input was looked at and found empty everywhere.

    Raises
    ------
    InputError
        Naming the first group and day without any value in the area.
    """
    for day in days:
        for group, window, around in uses(stack, grid, needs, day):
            reach = SEARCH_DAYS.get(group.kind, 0)
            for own in needs.own_days(group.kind, day):
                near = [other for other in around if not group.temporal or abs((other - own).days) <= reach]
                if (stack.marks(group, window, near) <= 1).all():
                    within = f" within {reach} days of {own}" if reach else f" on {own}" if group.temporal else ""
                    raise InputError(
                        f"the inputs hold no value of {', '.join(group.variables)}{within} in this area, so that "
                        f"nothing could be mapped for {day}; choose another day or area, or another source"
                    )


def read_block(stack: Stack, grid: GeoBox, needs: Needs, day: date, *, smap_resampling: SmapResampling) -> Block:
    """Read one tile of one day.

    Parameters
    ----------
    stack
        An open stack.
    grid
        The tile, a window of the stack's target lattice.
    needs
        What the model needs.
    day
        The day of the map.
    smap_resampling
        ``nearest`` gives every pixel its SMAP cell's value, ``bilinear`` interpolates between cell centres.
    """
    pieces = {group.name: (group, window, days) for group, window, days in uses(stack, grid, needs, day)}
    fine: dict[str, NDArray[Any]] = {}
    ages: dict[str, Float] = {}
    series: dict[str, Float] = {}
    cells: dict[str, tuple[NDArray[np.int32], NDArray[np.int32]]] = {}
    borrowed = np.zeros(grid.shape, bool)
    filled = np.zeros(grid.shape, np.float32)
    for group, window, days in pieces.values():
        if group.kind in FINE_GROUPS:
            _read_fine(stack, group, window, days, day, needs, fine, ages)
            continue
        cells[group.name] = index = _index(grid, group.lattice, window)
        for name in (name for name in needs.variables if name in group.variables):
            series_days = needs.series_days(day) if name in needs.series else []
            own = sorted({*series_days, *([day] if name in needs.snapshot else [])})
            values, gaps = _coarse(stack, group, window, name, own, days)
            values, lent = borrow(values)
            values = _with_beyond(values)
            borrowed |= _with_beyond(lent[None], False)[0][index]
            if group.kind == "lst":
                filled = _with_beyond((gaps > 0).mean(axis=0, dtype=np.float32)[None], 1.0)[0][index]
            if name in needs.series:
                series[name] = values[[own.index(other) for other in series_days]]
            if name in needs.snapshot:
                today = values[own.index(day)]
                fine[name] = _to_pixels(today, grid, group.lattice, window, index, smap_resampling)
    return Block(
        fine=fine,
        series=series,
        cells=cells,
        groups={name: stack.group_of(name).name for name in needs.series},
        ages=ages,
        filled=filled,
        borrowed=borrowed,
    )


def _read_fine(
    stack: Stack,
    group: Group,
    window: Window,
    days: Sequence[date],
    day: date,
    needs: Needs,
    fine: dict[str, NDArray[Any]],
    ages: dict[str, Float],
) -> None:
    """Add a fine group's variables to `fine` and the age of the oldest of them to `ages`."""
    names = [name for name in needs.snapshot if name in group.variables]
    if group.kind == "static":
        fine.update({name: stack.read(name, window) for name in names})
        return
    observed = _observed(stack, group, window, days)
    shape = (window[0].stop - window[0].start, window[1].stop - window[1].start)
    for name in names:
        if observed:
            read = partial(stack.read, name, window)
            value, age = interpolate_days(read, observed, day, SEARCH_DAYS[group.kind])
        else:
            value, age = np.full(shape, np.nan, np.float32), np.full(shape, np.inf, np.float32)
        fine[name] = value
        ages[group.kind] = np.maximum(ages[group.kind], age) if group.kind in ages else age


def _observed(stack: Stack, group: Group, window: Window, days: Sequence[date]) -> list[date]:
    """The days on which any block of the window holds data."""
    marks = stack.marks(group, window, days)
    return [day for day, mark in zip(days, marks, strict=True) if (mark > 1).any()]


def _coarse(
    stack: Stack, group: Group, window: Window, name: str, own: Sequence[date], days: Sequence[date]
) -> tuple[Float, Float]:
    """Values (time, row, col) of a coarse variable on its own days and, where filled in time, the days' gaps."""
    reach = SEARCH_DAYS.get(group.kind, 0)
    observed = set(_observed(stack, group, window, days))
    held: Mapping[date, Float] = {d: stack.read(name, window, d) for d in observed}
    shape = (window[0].stop - window[0].start, window[1].stop - window[1].start)
    values, gaps = np.full((len(own), *shape), np.nan, np.float32), np.full((len(own), *shape), np.inf, np.float32)
    for k, day in enumerate(own):
        if any(abs((other - day).days) <= reach for other in observed):
            values[k], gaps[k] = interpolate_days(held.__getitem__, sorted(observed), day, reach)
    return values, gaps


def _index(grid: GeoBox, lattice: GeoBox, window: Window) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Row and column, within the window, of every pixel's cell; off the lattice the last row and column of all."""
    rows, cols = nearest_cells(grid, lattice)
    height, width = window[0].stop - window[0].start, window[1].stop - window[1].start
    off = (rows < 0) | (cols < 0)
    return (
        np.where(off, height, rows - window[0].start).astype(np.int32),
        np.where(off, width, cols - window[1].start).astype(np.int32),
    )


def _with_beyond(values: NDArray[Any], fill: float = np.nan) -> NDArray[Any]:
    """The fields (…, row, col) with one more row and column: what pixels off the lattice have."""
    return np.pad(values, ((0, 0), (0, 1), (0, 1)), constant_values=fill)


def _to_pixels(
    values: Float,
    grid: GeoBox,
    lattice: GeoBox,
    window: Window,
    index: tuple[NDArray[np.int32], NDArray[np.int32]],
    resampling: SmapResampling,
) -> Float:
    if resampling == "nearest":
        return values[index]
    rows, cols = fractional_cells(grid, lattice)
    sampled = bilinear(values, rows - window[0].start, cols - window[1].start)
    sampled[index[0] == values.shape[0] - 1] = np.nan
    return sampled
