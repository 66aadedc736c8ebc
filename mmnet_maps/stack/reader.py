"""From the stack to one tile, or some pixels of it: bands interpolated in time, series by distinct coarse cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.lattice import Window, cover, fractional_cells, nearest_cells, window_of
from mmnet_maps.stack.store import EPOCH, LAST_DAY, Group, Stack
from mmnet_maps.variables import FINE_GROUPS, SEARCH_DAYS, VARIABLES, Variable

Float = NDArray[np.float32]
Packed = NDArray[np.integer]
Picked = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Rows and columns of some pixels of a grid, (n,) each."""

SmapResampling = Literal["nearest", "bilinear"]

NEVER = np.uint8(255)
"""Age in days of what was never observed."""

_BORROW = 2
_STRIP = 64  # rows
_OBSERVATIONS = 48  # of 2 MB a tile: all that two successive days share
_PAD = _BORROW + 1  # bilinear sampling looks one cell further
_OFFSETS = sorted(
    ((i, j) for i in range(-_BORROW, _BORROW + 1) for j in range(-_BORROW, _BORROW + 1) if (i, j) != (0, 0)),
    key=lambda offset: (offset[0] ** 2 + offset[1] ** 2, offset),
)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a model needs of a stack: stored variables, and the days of its series.

    Without a value on one of the last ``valued`` days there is no estimate, None: of all; older ones may be empty.
    """

    snapshot: tuple[str, ...]
    series: tuple[str, ...]
    steps: int
    includes_day: bool
    valued: int | None = None

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

    def valued_days(self, kind: str, day: date) -> list[date]:
        """Those of its own days that need a value."""
        recent = {day, *self.series_days(day)[-(self.valued or self.steps) :]}
        return [own for own in self.own_days(kind, day) if own in recent]

    def days(self, kind: str, day: date) -> list[date]:
        """The days whose observations may enter a map of `day`: its own and the search window around them."""
        if kind == "static":
            return [day]
        reach = SEARCH_DAYS.get(kind, 0)
        own = self.own_days(kind, day)
        return [own[0] + timedelta(days=k) for k in range(-reach, (own[-1] - own[0]).days + reach + 1)]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a map of one tile and day is made from, apart from the series; of picked pixels (y, x) is (1, n).

    Attributes
    ----------
    day
        The day of the map.
    fine
        Variables on the tile's grid, (y, x): float32, NaN missing; of the static group as stored, int16, which is half
        the size; land cover uint8, 0 missing.
    ages
        Days to the nearest observation, (y, x) uint8, `NEVER` where there is none, for ``optical`` and ``sar``.
    borrowed
        Pixels (y, x) with a coarse value of `fine` from a neighbouring cell.
    series_gap_filled
        Pairs with a value of their series from a neighbouring cell, bool (pairs,).
    lst_filled
        Share of the series' days without an observation of surface temperature, float32 (pairs,); 0 where not used.
    surface_temperature
        K on the last day of the series, float32 (pairs,); None where not used.
    """

    day: date
    fine: dict[str, NDArray[Any]]
    ages: dict[str, NDArray[np.uint8]]
    gap_filled: NDArray[np.bool_]
    series_gap_filled: NDArray[np.bool_]
    lst_filled: Float
    surface_temperature: Float | None


@dataclass(frozen=True, kw_only=True)
class Block:
    """Everything that maps of one tile are made from; of picked pixels (y, x) is (1, n).

    Attributes
    ----------
    pair
        For every pixel (y, x) the distinct combination of coarse cells above it, which is its row of the series, int32;
        −1 off a lattice and where no map is wanted.
    series
        Series variables (pairs, days), float32, NaN missing, oldest day first.
    starts
        For each day of a map, in order, where its own series begins among these days.
    snapshots
        One a day, in order, each read when it is asked for.
    """

    series_id: NDArray[np.int32]
    series: dict[str, Float]
    starts: tuple[int, ...]
    snapshots: Iterator[Snapshot]


def interpolate_series(values: Float, own: NDArray[np.integer], reach: int) -> tuple[Float, Float]:
    """As `interpolate_days`, for many days at once of a field that is at hand as a whole.

    Parameters
    ----------
    values
        Observations (day, y, x), consecutive days, NaN where missing.
    own
        Which of the days are wanted, (k,).
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
    """Linear between two observations and the days to them; one that is missing leaves the other held."""
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
    """Value on a day from the valid observations around it, pixel by pixel.

    Linear between the nearest valid observation on or before `day` and the nearest after it, both within `reach` days;
    where one side is missing the other is held. Observations stay packed until the end, which is half the memory to go
    through.

    Parameters
    ----------
    read
        Gives a window of the observation of a day, packed; it is not changed.
    observed
        The days that have observations, in any order.
    day
        The day wanted.
    reach
        Search window in days, less than 255.
    shape
        Rows and columns.
    variable
        What is observed.

    Returns
    -------
    value : ndarray (y, x)
        float32, physical; NaN where there is no observation within reach.
    age : ndarray (y, x)
        Days to the nearer observation, uint8; `NEVER` where there is none.
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
    (before, gap_before), (after, gap_after) = sides[0], sides[-1]
    if before is after:
        return variable.unpack(before), gap_before
    value = np.empty(shape, np.float32)
    # Some rows at a time, so that what is computed on the way stays in the cache.
    for top in range(0, shape[0], _STRIP):
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
    """First valid value in the given order of days, packed, and its distance in days.

    Of each further day only the rows and columns with a pixel that is still missing are read.
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


def borrow(values: Float) -> tuple[Float, NDArray[np.bool_]]:
    """Fill missing cells from the nearest valid cell at most two cells away (coasts).

    Parameters
    ----------
    values
        (time, row, col) float32, NaN where missing.

    Returns
    -------
    filled : ndarray (time, row, col)
    borrowed : ndarray of bool (time, row, col)
        What was filled.
    """
    missing = np.isnan(values)
    if not missing.any():
        return values, missing
    filled = values.copy()
    around = np.pad(values, ((0, 0), (_BORROW, _BORROW), (_BORROW, _BORROW)), constant_values=np.nan)
    height, width = values.shape[1:]
    for i, j in _OFFSETS:
        shifted = around[:, _BORROW + i : _BORROW + i + height, _BORROW + j : _BORROW + j + width]
        np.copyto(filled, shifted, where=np.isnan(filled))
    lent: NDArray[np.bool_] = missing & ~np.isnan(filled)
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
    known = np.pad(~np.isnan(values), 1)
    padded = np.where(known, np.pad(values, 1), np.float32(0)).ravel()
    share = known.astype(np.float32).ravel()
    whole = bool(known[1:-1, 1:-1].all())
    sampled = np.empty(rows.shape, np.float32)
    # Some rows at a time, so that what is computed on the way stays in the cache.
    for part in np.array_split(np.arange(len(rows)), min(len(rows), max(1, rows.size // 65_536))):
        row, col = (np.nan_to_num(index[part], nan=-9.0) - 0.5 for index in (rows, cols))
        top, left = np.floor(row), np.floor(col)
        down, right = (row - top).astype(np.float32), (col - left).astype(np.float32)
        inner = bool(whole and top.min() >= 0 and left.min() >= 0 and top.max() < height - 1 and left.max() < width - 1)
        start = np.clip(top, -1, height - 1).astype(np.intp) * (width + 2) + width + 3
        start += np.clip(left, -1, width - 1).astype(np.intp)
        beyond = (top < -1) | (top >= height) | (left < -1) | (left >= width)
        total, weight = np.zeros(row.shape, np.float32), np.zeros(row.shape, np.float32)
        for step, portion in (
            (0, (1 - down) * (1 - right)),
            (1, (1 - down) * right),
            (width + 2, down * (1 - right)),
            (width + 3, down * right),
        ):
            total += padded[start + step] * portion
            if not inner:
                weight += share[start + step] * portion
        if not inner:
            with np.errstate(invalid="ignore", divide="ignore"):
                total /= weight
            total[(weight <= 0) | beyond] = np.nan
        sampled[part] = total
    return sampled


def uses(stack: Stack, grid: GeoBox, needs: Needs, day: date) -> list[tuple[Group, Window, list[date]]]:
    """The parts of a stack that a map of `grid` and `day` may read.

    Raises
    ------
    RequestError
        When the grid is not a window of the stack's lattice.
    InputError
        When the stack lacks a variable or does not reach over the area.
    """
    groups = _groups(stack, needs, day)
    return [(group, _window(group, grid, stack), _days(group, needs, day)) for group in groups]


def _groups(stack: Stack, needs: Needs, day: date) -> list[Group]:
    """The groups that maps of `day` and later may read; errors as `uses`, but for the area."""
    groups = {group.name: group for group in (stack.group_of(name) for name in needs.variables)}
    first = min(needs.own_days(group.kind, day)[0] for group in groups.values() if group.temporal)
    if first < EPOCH:
        raise RequestError(
            f"a map of {day} needs inputs from {first} on, stacks begin on {EPOCH}; choose a day "
            f"{(EPOCH - first).days} or more days later"
        )
    return list(groups.values())


def _days(group: Group, needs: Needs, day: date) -> list[date]:
    """The days of a group that a map of `day` may read."""
    return [other for other in needs.days(group.kind, day) if EPOCH <= other <= LAST_DAY]


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


def fetched_days(stack: Stack, grid: GeoBox, needs: Needs, days: Sequence[date]) -> list[date]:
    """Those of the days, in order, for which a stack holds what `require` asks for.

    Raises
    ------
    RequestError, InputError
        As `uses`.
    """
    kept = list(days)
    for group, window, _ in uses(stack, grid, needs, min(days)) if kept else []:
        own = {day: [day] if group.kind == "static" else needs.own_days(group.kind, day) for day in kept}
        wanted = sorted({other for others in own.values() for other in others})
        marks = (stack.marks(group, window, wanted) > 0).all(axis=(1, 2))
        there = {other for other, mark in zip(wanted, np.broadcast_to(marks, len(wanted)), strict=True) if mark}
        kept = [day for day in kept if there.issuperset(own[day])]
        if not kept:
            break
    return kept


def fetched_at(stack: Stack, grid: GeoBox, picked: Picked, needs: Needs, days: Sequence[date]) -> NDArray[np.bool_]:
    """For which days and single pixels a stack holds what `require` asks for.

    Parameters
    ----------
    stack
        An open stack.
    grid
        A window of its target lattice.
    picked
        The pixels.
    needs, days
        What the model needs, and the days of its maps, in order.

    Returns
    -------
    ndarray of bool (days, n)
        False as well where a pixel lies off the lattice of an input.

    Raises
    ------
    RequestError, InputError
        As `uses`, but for an area that the stack does not reach over.
    """
    there = np.ones((len(days), picked[0].size), bool)
    for group in _groups(stack, needs, days[0]):
        if group.kind in FINE_GROUPS:
            top, left = (part.start for part in fine_window(grid, stack))
            rows, cols, pad = picked[0] + top, picked[1] + left, 0
        else:
            rows, cols = (cells[picked] for cells in nearest_cells(grid, group.lattice))
            pad = _PAD
        on = rows >= 0
        there[:, ~on] = False
        if not on.any():
            break
        ends = [
            [np.clip(index[on] + by, 0, size - 1) for by in (-pad, pad)]
            for index, size in zip((rows, cols), group.lattice.shape, strict=True)
        ]
        window = slice(ends[0][0].min(), ends[0][1].max() + 1), slice(ends[1][0].min(), ends[1][1].max() + 1)
        top, left = (part.start for part in group.blocks(window))
        own = [needs.own_days(group.kind, day) if group.temporal else [days[0]] for day in days]
        wanted = sorted({other for others in own for other in others})
        marks = stack.marks(group, window, wanted) > 0
        fetched = np.all(
            [marks[:, row // group.block - top, col // group.block - left] for row in ends[0] for col in ends[1]],
            axis=0,
        )
        place = {other: k for k, other in enumerate(wanted)}
        for k, others in enumerate(own):
            there[k, on] &= fetched[[place[other] for other in others]].all(0)
    return there


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
            for own in needs.valued_days(group.kind, day):
                near = [other for other in around if not group.temporal or abs((other - own).days) <= reach]
                if (stack.marks(group, window, near) <= 1).all():
                    within = f" within {reach} days of {own}" if reach else f" on {own}" if group.temporal else ""
                    raise InputError(
                        f"the inputs hold no value of {', '.join(group.variables)}{within} in this area, so that "
                        f"nothing could be mapped for {day}; choose another day or area, or another source"
                    )


def read_block(
    stack: Stack,
    grid: GeoBox,
    needs: Needs,
    days: Sequence[date],
    *,
    smap_resampling: SmapResampling,
    wanted: NDArray[np.bool_] | None = None,
    picked: Picked | None = None,
) -> Block:
    """Read one tile, or some pixels of it, for maps of some days; what they share is read once.

    Parameters
    ----------
    stack
        An open stack.
    grid
        The tile, a window of the stack's target lattice.
    needs
        What the model needs.
    days
        The days of the maps, in order.
    smap_resampling
        ``nearest`` gives every pixel its SMAP cell's value, ``bilinear`` interpolates between cell centres.
    wanted
        Pixels (y, x) that are mapped; all where left out.
    picked
        The only pixels that are read, in place of `wanted`: values are those of the whole tile there, of shape (1, n).
    """
    parts = _parts(stack, grid, needs, days)
    observed = {name: _observed(stack, *part) for name, part in parts.items() if part[0].temporal}
    fields = {
        name: _read_field(stack, *parts[group.name], observed[group.name], name, needs, days)
        for name, group in ((name, stack.group_of(name)) for name in needs.variables)
        if group.kind not in FINE_GROUPS
    }
    series_id, places = _pairs(grid, {fields[name].group.name: fields[name] for name in needs.series}, wanted, picked)
    first, last = needs.series_days(days[0])[0], needs.series_days(days[-1])[-1]
    series = {name: fields[name].on(first, last, places[fields[name].group.name]) for name in needs.series}
    return Block(
        series_id=series_id,
        series={name: np.ascontiguousarray(values.T) for name, (values, _, _) in series.items()},
        starts=tuple((needs.series_days(day)[0] - first).days for day in days),
        snapshots=_snapshots(stack, grid, observed, fields, places, needs, days, smap_resampling, picked),
    )


def _taken(values: NDArray[Any], picked: Picked | None) -> NDArray[Any]:
    """What there is of a tile (y, x) for the pixels that are picked, (1, n)."""
    return values if picked is None else values[picked][None]


@dataclass(frozen=True, kw_only=True)
class _Field:
    """A coarse variable on consecutive days from `first` on, in a window of its lattice; arrays (time, row, col)."""

    group: Group
    window: Window
    first: date
    values: Float
    gaps: Float
    lent: NDArray[np.bool_]

    def on(self, first: date, last: date, places: NDArray[np.intp]) -> tuple[Float, Float, NDArray[np.bool_]]:
        """Values, gaps and what is borrowed, (days, places), from first to last day in some cells of the window."""
        days = slice((first - self.first).days, (last - self.first).days + 1)

        def cells(part: NDArray[Any]) -> NDArray[Any]:
            return part[days].reshape(-1, part[0].size)[:, places]

        return cells(self.values), cells(self.gaps), cells(self.lent)

    def to_pixels(
        self, grid: GeoBox, day: date, resampling: SmapResampling, picked: Picked | None
    ) -> tuple[Float, NDArray[np.bool_]]:
        """The day's value for every pixel, NaN off the lattice, and whether its cell's is borrowed."""
        today = (day - self.first).days
        values, lent = self.values[today], self.lent[today]
        top, left = self.window[0].start, self.window[1].start
        gap_filled = np.zeros(_shape(grid, picked), bool)
        if lent.any() or resampling == "nearest":
            rows, cols = (_taken(cells, picked) for cells in nearest_cells(grid, self.group.lattice))
            on_lattice = rows >= 0
            index = np.where(on_lattice, rows - top, 0), np.where(on_lattice, cols - left, 0)
            gap_filled = lent[index] & on_lattice if lent.any() else gap_filled
            if resampling == "nearest":
                return np.where(on_lattice, values[index], np.float32(np.nan)), gap_filled
        y, x = (_taken(cells, picked) for cells in fractional_cells(grid, self.group.lattice))
        sampled = bilinear(values, y - top, x - left)
        height, width = self.group.lattice.shape
        if not (y.min() >= 0 and x.min() >= 0 and y.max() < height and x.max() < width):
            sampled[~((y >= 0) & (x >= 0) & (y < height) & (x < width))] = np.nan
        return sampled, gap_filled


def _parts(
    stack: Stack, grid: GeoBox, needs: Needs, days: Sequence[date]
) -> dict[str, tuple[Group, Window, list[date]]]:
    """Per group of the stack the window and all days that maps of some days may read."""
    return {
        group.name: (group, window, sorted({other for day in days for other in _days(group, needs, day)}))
        for group, window, _ in uses(stack, grid, needs, days[0])
    }


def _read_field(
    stack: Stack,
    group: Group,
    window: Window,
    around: list[date],
    observed: set[date],
    name: str,
    needs: Needs,
    days: Sequence[date],
) -> _Field:
    """A coarse variable on the maps' own days, from what was observed around them."""
    held = stack.read_days(name, window, around[0], around[-1])
    held[[k for k in range(len(held)) if around[0] + timedelta(days=k) not in observed]] = np.nan
    first, last = needs.own_days(group.kind, days[0])[0], needs.own_days(group.kind, days[-1])[-1]
    own = np.arange((first - around[0]).days, (last - around[0]).days + 1)
    values, gaps = interpolate_series(held, own, SEARCH_DAYS.get(group.kind, 0))
    values, lent = borrow(values)
    return _Field(group=group, window=window, first=first, values=values, gaps=gaps, lent=lent)


def _observed(stack: Stack, group: Group, window: Window, days: Sequence[date]) -> set[date]:
    """The days on which any block of the window holds data."""
    marks = stack.marks(group, window, days)
    return {day for day, mark in zip(days, marks, strict=True) if (mark > 1).any()}


def _pairs(
    grid: GeoBox, fields: Mapping[str, _Field], wanted: NDArray[np.bool_] | None, picked: Picked | None
) -> tuple[NDArray[np.int32], dict[str, NDArray[np.intp]]]:
    """Distinct combinations of cells: which one each pixel (y, x) has, −1 for none, and per group the cell of each.

    Cells are counted along the rows of the field's window.
    """
    shape = _shape(grid, picked)
    key = np.zeros(shape, np.int64)
    off = np.zeros(shape, bool) if wanted is None else ~wanted
    sizes = {name: field.values[0].shape for name, field in fields.items()}
    for name, field in fields.items():
        rows, cols = (_taken(cells, picked) for cells in nearest_cells(grid, field.group.lattice))
        off |= rows < 0
        key *= sizes[name][0] * sizes[name][1]
        key += (rows - field.window[0].start) * np.int64(sizes[name][1]) + (cols - field.window[1].start)
    key[off] = -1
    # Neighbours share cells, so there are far fewer runs of one key than pixels to be sorted.
    flat = key.ravel()
    runs = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    distinct, which = np.unique(flat[runs], return_inverse=True)
    none = int(distinct[0] == -1)
    series_id = np.repeat((which - none).astype(np.int32), np.diff(runs, append=flat.size)).reshape(shape)
    rest = distinct[none:]
    places = {}
    for name, (height, width) in reversed(sizes.items()):
        rest, places[name] = np.divmod(rest, height * width)
    return series_id, places


def _snapshots(
    stack: Stack,
    grid: GeoBox,
    observed: Mapping[str, set[date]],
    fields: Mapping[str, _Field],
    places: Mapping[str, NDArray[np.intp]],
    needs: Needs,
    days: Sequence[date],
    resampling: SmapResampling,
    picked: Picked | None,
) -> Iterator[Snapshot]:
    """The days one after the other; an observation that several of them need is read once."""
    window, shape = fine_window(grid, stack), _shape(grid, picked)
    fine = {name: stack.group_of(name) for name in needs.snapshot if name not in fields}
    static = {
        name: _taken(stack.read_packed(name, window), picked) for name, group in fine.items() if not group.temporal
    }
    whole = lru_cache(_OBSERVATIONS if picked is None else None)(
        lambda name, day: _taken(stack.read_packed(name, window, day), picked)
    )

    def observation(name: str, day: date, part: Window) -> Packed:
        if picked is not None:
            return whole(name, day)[part]
        rows, cols = (slice(one.start + by.start, one.stop + by.start) for one, by in zip(part, window, strict=True))
        return whole(name, day) if (rows, cols) == window else stack.read_packed(name, (rows, cols), day)

    for day in days:
        found: dict[str, NDArray[Any]] = dict(static)
        ages: dict[str, NDArray[np.uint8]] = {}
        for name, group in fine.items():
            if group.temporal:
                found[name], age = _on(name, partial(observation, name), observed[group.name], day, shape)
                ages[group.kind] = np.maximum(ages[group.kind], age) if group.kind in ages else age
        gap_filled = np.zeros(shape, bool)
        for name in (name for name in needs.snapshot if name in fields):
            found[name], lent = fields[name].to_pixels(grid, day, resampling, picked)
            gap_filled |= lent
        own = needs.series_days(day)
        seen = {name: fields[name].on(own[0], own[-1], places[fields[name].group.name]) for name in needs.series}
        count = len(next(iter(places.values())))
        yield Snapshot(
            day=day,
            fine=found,
            ages=ages,
            gap_filled=gap_filled,
            series_gap_filled=np.any([lent.any(0) for _, _, lent in seen.values()], axis=0),
            lst_filled=(seen["lst"][1] > 0).mean(0, dtype=np.float32) if "lst" in seen else np.zeros(count, np.float32),
            surface_temperature=seen["lst"][0][-1] if "lst" in seen else None,
        )


def _shape(grid: GeoBox, picked: Picked | None) -> tuple[int, int]:
    """Of what is read of each variable and day."""
    return (grid.shape.y, grid.shape.x) if picked is None else (1, picked[0].size)


def _on(
    name: str, read: Callable[[date, Window], Packed], observed: Iterable[date], day: date, shape: tuple[int, int]
) -> tuple[Float, NDArray[np.uint8]]:
    """A fine variable on a day, and the age of its observation."""
    variable = VARIABLES[name]
    reach = SEARCH_DAYS[variable.group]
    near = [other for other in observed if abs((other - day).days) <= reach]
    if not near:
        return np.full(shape, np.nan, np.float32), np.full(shape, NEVER)
    return interpolate_days(read, near, day, reach, shape, variable)
