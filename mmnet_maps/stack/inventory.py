"""Inventory of a stack: groups, days, sizes, provenance, and the share of every variable that is present day by day.

Commit marks say which blocks to read, so that empty parts of a stack, however large, cost nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.warp import transform_bounds

from mmnet_maps.grid.area import Area
from mmnet_maps.grid.lattice import Window, cover
from mmnet_maps.grid.mask import area_mask, holds_a_centre
from mmnet_maps.grid.polygons import LONLAT
from mmnet_maps.grid.tiles import TILE_PIXELS, conus_grid, target_grid
from mmnet_maps.stack.availability import Availability, Mask, around_blocks, cut_days, is_near, look_up
from mmnet_maps.stack.blocks import Group
from mmnet_maps.stack.needs import fine_window
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FINE_GROUPS, FIRST_DAY, SEARCH_DAYS, VARIABLES

ORDER = ("terrain", "landcover", "soil", "optical", "sar", "smap", "lst", "weather")
"""Groups in the order in which they are shown; others follow."""

PERIOD = 31
"""Days of the table by default."""

_ROWS, _COLS = 512, 1024  # of the parts that are read at once: half a tile
_MOST_PARTS = 64  # beyond 32 tiles the table is made from parts spread evenly over the area
_DAYS = 32  # days whose ages are held at once
_FAR = 10_000  # days


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Blocks, days and size of one group.

    Attributes
    ----------
    group
        The group.
    fetched, filled
        Blocks (y, x) that were fetched for any day, and that hold data on any day.
    days_fetched, days
        Days on which any block was fetched, and on which any holds data; none without a time axis.
    size
        Bytes on disk.
    """

    group: Group
    fetched: Mask
    filled: Mask
    days_fetched: tuple[date, ...]
    days: tuple[date, ...]
    size: int


@dataclass(frozen=True, kw_only=True)
class DailyShares:
    """Shares of the pixels of a variable day by day, (days,), 0 to 1; the four add up to 1.

    Attributes
    ----------
    observed
        Pixels with a value of that day.
    interpolated
        Other pixels, with a value within the search window before or after.
    missing
        Pixels without either, in blocks that were fetched for that day.
    unfetched
        Pixels without either, in blocks that were never fetched for that day.
    age
        Mean days to the nearest observation over the pixels with a value, NaN where there are none.
    """

    observed: NDArray[np.float64]
    interpolated: NDArray[np.float64]
    missing: NDArray[np.float64]
    unfetched: NDArray[np.float64]
    age: NDArray[np.float64]

    @property
    def usable(self) -> NDArray[np.float64]:
        """Share of pixels that are observed or interpolated."""
        return self.observed + self.interpolated


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Cells of a group that are counted: some of its blocks, and in them all cells or those `inside` an area."""

    group: Group
    blocks: Mask
    inside: Callable[[Window], Mask] | None = None

    @cached_property
    def parts(self) -> list[Window]:
        """Windows of at most half a tile around the blocks, in order."""
        rows, cols = _ROWS // self.group.block, _COLS // self.group.block
        found = []
        for top in range(0, self.blocks.shape[0], rows):
            for left in range(0, self.blocks.shape[1], cols):
                here = np.argwhere(self.blocks[top : top + rows, left : left + cols])
                if here.size:
                    (i, j), (k, m) = here.min(0), here.max(0) + 1
                    found.append(self.group.cells((slice(top + i, top + k), slice(left + j, left + m))))
        return found

    def chosen(self) -> list[Window]:
        """Return the parts, or an evenly spread choice if there are very many."""
        if len(self.parts) <= _MOST_PARTS:
            return self.parts
        return [self.parts[k] for k in np.linspace(0, len(self.parts) - 1, _MOST_PARTS).round().astype(int)]

    def mask(self, window: Window) -> Mask:
        """Mark the cells of a window of whole blocks that are counted."""
        counted = _spread(self.blocks[self.group.blocks(window)], self.group, window)
        return counted & self.inside(window) if self.inside else counted


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Everything that `mmnet stack info` shows.

    Attributes
    ----------
    stack
        The stack.
    contents
        Contents of each group.
    days
        The days of the table, consecutive.
    table
        Shares of each variable on these days.
    scopes
        Cells of each group that the table counts.
    sampled
        Groups whose table was made from an evenly spread choice of parts.
    """

    stack: Stack
    contents: Mapping[str, Contents]
    days: tuple[date, ...]
    table: Mapping[str, DailyShares]
    scopes: Mapping[str, Scope]
    sampled: tuple[str, ...]

    @property
    def variables(self) -> list[str]:
        """All variables, group by group."""
        return [name for contents in self.contents.values() for name in contents.group.variables]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(contents.size for contents in self.contents.values())

    @cached_property
    def filled(self) -> Mask:
        """Blocks of the fine lattice that hold data of any fine group."""
        fine = [contents.filled for contents in self.contents.values() if contents.group.kind in FINE_GROUPS]
        return np.logical_or.reduce(fine) if fine else np.zeros((1, 1), bool)

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """West, south, east, north of the fine blocks with data, or else of the coarse ones; None if there are none."""
        filled = [contents for contents in self.contents.values() if contents.filled.any()]
        for contents in sorted(filled, key=lambda contents: contents.group.kind not in FINE_GROUPS):
            fine = contents.group.kind in FINE_GROUPS
            blocks = around_blocks(self.filled if fine else contents.filled)
            box = contents.group.lattice[contents.group.cells(blocks)]
            west, south, east, north = transform_bounds(str(box.crs), LONLAT, *box.boundingbox.bbox)
            return west, south, east, north
        return None

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """Rows and columns of the lattice's tiles that hold data of a fine group."""
        fine = [contents.group for contents in self.contents.values() if contents.group.kind in FINE_GROUPS]
        if not fine:
            return []
        places = np.argwhere(self.filled) // (TILE_PIXELS // fine[0].block)
        return sorted({(int(row), int(col)) for row, col in places})

    @property
    def tile_ids(self) -> list[str]:
        """Ids of these tiles, if the stack is on the default grid."""
        return [f"h{col:02d}v{row:02d}" for row, col in self.tiles] if self.stack.target == conus_grid() else []


def take_inventory(stack: Stack, days: Sequence[date] | None = None, area: Area | None = None) -> Inventory:
    """Take the inventory of a stack.

    Parameters
    ----------
    stack
        An open stack.
    days
        Days of the table, consecutive; by default the last `PERIOD` days up to the last one that has all inputs that
        must be of the day itself (SMAP, weather).
    area
        Area that the table counts; by default all blocks that were ever fetched.

    Raises
    ------
    InputError
        The store is damaged, or does not cover the area.
    """
    contents = {group.name: survey(stack, group) for group in in_order(stack.groups.values())}
    period = tuple(days or _period(list(contents.values())))
    scopes = {
        name: area_scope(stack, held.group, area) if area else Scope(group=held.group, blocks=held.fetched)
        for name, held in contents.items()
    }
    table = {}
    for scope in scopes.values():
        table.update(daily_shares(stack, scope, scope.group.variables, period))
    sampled = tuple(name for name, scope in scopes.items() if len(scope.parts) > _MOST_PARTS)
    return Inventory(stack=stack, contents=contents, days=period, table=table, scopes=scopes, sampled=sampled)


def in_order(groups: Iterable[Group]) -> list[Group]:
    """Sort groups as they are shown, see `ORDER`."""
    return sorted(groups, key=lambda group: ((*ORDER, group.kind).index(group.kind), group.name))


def survey(stack: Stack, group: Group) -> Contents:
    """Return the contents of a group, from its marks alone."""
    fetched, filled = np.zeros(group.shape, bool), np.zeros(group.shape, bool)
    days_fetched = _days_fetched(stack, group)
    days: list[date] = []
    for part in cut_days(days_fetched) if group.temporal else [[FIRST_DAY]]:  # to bound memory
        found = look_up(stack, group, group.cells((slice(0, group.shape[0]), slice(0, group.shape[1]))), part)
        fetched |= found.fetched.any(0)
        filled |= found.valued.any(0)
        days += found.observed
    return Contents(
        group=group,
        fetched=fetched,
        filled=filled,
        days_fetched=tuple(days_fetched),
        days=tuple(days) if group.temporal else (),
        size=_size(stack.path / group.name),
    )


def _days_fetched(stack: Stack, group: Group) -> list[date]:
    """List the days with any mark. Each has a chunk of its own, so the folder shows them without reading 25 years."""
    folder = stack.path / group.name / "fetched" / "c"
    if not group.temporal or not folder.is_dir():
        return []
    return [FIRST_DAY + timedelta(days=k) for k in sorted(int(name) for name in os.listdir(folder) if name.isdecimal())]


def _size(folder: Path) -> int:
    return sum((Path(where) / name).stat().st_size for where, _, names in os.walk(folder) for name in names)


def _period(contents: Sequence[Contents]) -> list[date]:
    temporal = [held for held in contents if held.group.temporal]
    strict = [set(held.days) for held in temporal if held.group.kind not in SEARCH_DAYS]
    days = set.intersection(*strict) if strict else set()
    days = days or {day for held in temporal for day in held.days}
    if not days:
        return []
    first = max(min(days), max(days) - timedelta(days=PERIOD - 1))
    return [first + timedelta(days=k) for k in range((max(days) - first).days + 1)]


def area_scope(stack: Stack, group: Group, area: Area) -> Scope:
    """Return the pixels of an area, or the cells of a coarse group that it touches."""
    grid = area_grid(stack, area)
    fine = group.kind in FINE_GROUPS
    window = fine_window(grid, stack) if fine else cover(grid, group.lattice)
    touched = not fine or not holds_a_centre(area, grid)
    blocks = np.zeros(group.shape, bool)
    blocks[group.blocks(window)] = True
    return Scope(group=group, blocks=blocks, inside=lambda part: area_mask(area, group.lattice[part], touched=touched))


def area_grid(stack: Stack, area: Area) -> GeoBox:
    """Return the window of the stack's fine lattice that covers an area."""
    return target_grid(area, resolution=stack.target.affine.a, crs=str(stack.target.crs))


def _spread(blocks: Mask, group: Group, window: Window) -> Mask:
    """Repeat a mask of blocks for each of their cells in a window of whole blocks, clipped to the lattice."""
    rows, cols = (part.stop - part.start for part in window)
    return blocks.repeat(group.block, 0).repeat(group.block, 1)[:rows, :cols]


def daily_shares(stack: Stack, scope: Scope, variables: Sequence[str], days: Sequence[date]) -> dict[str, DailyShares]:
    """Count the shares of some variables of a group on some days, in order.

    Memory holds half a tile's days of one variable within the search window, whatever the size of the stack.
    """
    counts = {name: np.zeros((4, len(days)), np.int64) for name in variables}
    total = 0
    parts = scope.chosen() if days else []
    found = look_around(stack, scope.group, scope.blocks, days) if parts else None
    for window in parts:
        inside = scope.mask(window)
        if found is not None and inside.any():
            total += int(inside.sum())
            for name in variables:
                counts[name] += _count(stack, found.within(window), name, window, inside, days)
    return {name: _shares(count, total) for name, count in counts.items()}


def look_around(stack: Stack, group: Group, blocks: Mask, days: Iterable[date]) -> Availability:
    """Look up the window around some blocks, on all days within the search window of some days that have marks."""
    reach = SEARCH_DAYS.get(group.kind, 0)
    near = {day + timedelta(days=k) for day in days for k in range(-reach, reach + 1)}
    marked = [day for day in _days_fetched(stack, group) if day in near] if group.temporal else near
    return look_up(stack, group, group.cells(around_blocks(blocks)), marked)


def _count(
    stack: Stack, found: Availability, name: str, window: Window, inside: Mask, days: Sequence[date]
) -> NDArray[np.int64]:
    """Count by day the pixels observed, usable, and neither and never fetched, and add up the usable ones' ages."""
    group, reach = found.group, SEARCH_DAYS.get(found.group.kind, 0)
    counts = np.zeros((4, len(days)), np.int64)

    def read(day: date) -> Mask:
        values = stack.read_packed(name, window, day if group.temporal else None)
        found.hide(values, window, day, VARIABLES[name].nodata)
        seen: Mask = values[inside] != VARIABLES[name].nodata
        return seen

    held: dict[date, Mask] = {}
    for start in range(0, len(days), _DAYS):
        some = days[start : start + _DAYS] if group.temporal else days[:1]
        held = {day: held[day] if day in held else read(day) for day in found.observed if is_near(day, some, reach)}
        for k, age in enumerate(_ages(held, some, int(inside.sum())), start):
            usable = age <= reach
            unfetched = int(usable.size - np.count_nonzero(usable))
            row = found.row.get(days[k])
            if unfetched and row is not None:
                unfetched = int(np.count_nonzero(_spread(~found.fetched[row], group, window)[inside] & ~usable))
            counts[:, k] = (
                np.count_nonzero(age == 0),
                np.count_nonzero(usable),
                unfetched,
                np.multiply(age, usable, dtype=np.int16).sum(dtype=np.int64),
            )
        if not group.temporal:
            counts[:] = counts[:, :1]
            break
    return counts


def _ages(held: Mapping[date, Mask], days: Sequence[date], size: int) -> Iterator[NDArray[np.int16]]:
    """Yield for each day the days to the nearest observation, (size,), very many if there is none; `held` in order."""
    first = days[0]
    forward = _nearest(held, days, first, size, 1)
    backward = list(_nearest(dict(reversed(list(held.items()))), list(reversed(days)), first, size, -1))
    for before, after in zip(forward, reversed(backward), strict=True):
        yield np.minimum(before, after, out=before)


def _nearest(
    held: Mapping[date, Mask], days: Sequence[date], first: date, size: int, sign: int
) -> Iterator[NDArray[np.int16]]:
    """Yield the days to the last observation on or before each day (sign 1) or to the next on or after it (−1)."""
    last = np.full(size, -sign * _FAR, np.int16)
    waiting = list(held)
    for day in days:
        while waiting and sign * (day - waiting[0]).days >= 0:
            seen = waiting.pop(0)
            np.copyto(last, np.int16((seen - first).days), where=held[seen])
        yield np.abs(np.int16((day - first).days) - last)


def _shares(counts: NDArray[np.int64], total: int) -> DailyShares:
    observed, usable, unfetched, ages = counts
    if not total:
        zero = np.zeros(counts.shape[1])
        return DailyShares(observed=zero, interpolated=zero, missing=zero, unfetched=zero + 1, age=zero * np.nan)
    with np.errstate(invalid="ignore"):
        age = ages / usable
    return DailyShares(
        observed=observed / total,
        interpolated=(usable - observed) / total,
        missing=(total - usable - unfetched) / total,
        unfetched=unfetched / total,
        age=age,
    )
