"""What a stack holds: groups, days, sizes, provenance, how much of a variable there is on a day, and for which maps.

Commit marks tell what there is to read, so that empty parts of a stack, however large, cost nothing.
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

from mmnet_maps.grid.area import LONLAT, Area
from mmnet_maps.grid.lattice import Window, cover
from mmnet_maps.grid.mask import area_mask, holds_a_centre
from mmnet_maps.grid.tiles import TILE_PIXELS, conus_grid, target_grid
from mmnet_maps.stack.reader import fine_window
from mmnet_maps.stack.store import EPOCH, Group, Stack
from mmnet_maps.variables import FINE_GROUPS, SEARCH_DAYS, VARIABLES

Mask = NDArray[np.bool_]

ORDER = ("static", "optical", "sar", "smap", "lst", "weather")
"""Groups in the order in which people read them; others follow."""

PERIOD = 31
"""Days of the table where no period is asked for."""

_ROWS, _COLS = 512, 1024  # of the parts that are read at once; a row of inner chunks of half a tile
_MOST_PARTS = 64  # beyond 32 tiles the table is made from parts spread evenly over the area
_SPAN = 64  # days whose marks are read at once
_DAYS = 32  # days whose ages are held at once
_FAR = 10_000  # days
_SMALLEST = 16  # pixels


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What one group holds.

    Attributes
    ----------
    group
        The group.
    fetched, filled
        Blocks (y, x) that were ever fetched, and that hold data on any day.
    days_fetched, days
        Days that were ever fetched, and that hold data; none for ``static``.
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
class Availability:
    """Shares of the pixels of a variable day by day, (days,), 0 to 1; the four add up to 1.

    Attributes
    ----------
    observed
        With a value of that day.
    interpolated
        Without, but with one within the search window before or after.
    missing
        With neither, in blocks that were looked at on that day.
    unfetched
        With neither, in blocks that were never fetched for that day.
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
        """Observed or interpolated."""
        return self.observed + self.interpolated


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The cells of a group that are counted: some of its blocks, and in them all cells or those of `inside`."""

    group: Group
    blocks: Mask
    inside: Callable[[Window], Mask] | None = None

    @cached_property
    def parts(self) -> list[Window]:
        """Windows of at most half a tile around the blocks that are wanted, in order."""
        rows, cols = _ROWS // self.group.block, _COLS // self.group.block
        found = []
        for top in range(0, self.blocks.shape[0], rows):
            for left in range(0, self.blocks.shape[1], cols):
                here = np.argwhere(self.blocks[top : top + rows, left : left + cols])
                if here.size:
                    (i, j), (k, m) = here.min(0), here.max(0) + 1
                    found.append(_cells(self.group, (slice(top + i, top + k), slice(left + j, left + m))))
        return found

    def chosen(self) -> list[Window]:
        """The parts, or some spread evenly over them where there are very many."""
        if len(self.parts) <= _MOST_PARTS:
            return self.parts
        return [self.parts[k] for k in np.linspace(0, len(self.parts) - 1, _MOST_PARTS).round().astype(int)]

    def mask(self, window: Window) -> Mask:
        """Which cells of a window of whole blocks are counted."""
        wanted = _spread(self.blocks[self.group.blocks(window)], self.group, window)
        return wanted & self.inside(window) if self.inside else wanted


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """All that `mmnet stack info` tells.

    Attributes
    ----------
    stack
        The stack.
    contents
        Per group what it holds.
    days
        The days of the table, consecutive.
    table
        Per variable its availability on these days.
    scopes
        Per group the cells that the table is about.
    sampled
        Groups whose table was made from evenly spread parts, as there are so many.
    """

    stack: Stack
    contents: Mapping[str, Contents]
    days: tuple[date, ...]
    table: Mapping[str, Availability]
    scopes: Mapping[str, Scope]
    sampled: tuple[str, ...]

    @property
    def variables(self) -> list[str]:
        """All of them, group by group."""
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
        """West, south, east, north of the fine blocks, or else of the coarse ones, that hold data; None for none."""
        filled = [contents for contents in self.contents.values() if contents.filled.any()]
        for contents in sorted(filled, key=lambda contents: contents.group.kind not in FINE_GROUPS):
            fine = contents.group.kind in FINE_GROUPS
            box = contents.group.lattice[
                _cells(contents.group, around_blocks(self.filled if fine else contents.filled))
            ]
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
        """Their ids, where the stack is on the default grid."""
        return [f"h{col:02d}v{row:02d}" for row, col in self.tiles] if self.stack.target == conus_grid() else []


def take_inventory(stack: Stack, days: Sequence[date] | None = None, area: Area | None = None) -> Inventory:
    """Look through a stack.

    Parameters
    ----------
    stack
        An open stack.
    days
        Days of the table, consecutive; by default the last `PERIOD` days up to the last one that has all inputs that
        must be of the day itself (SMAP, weather).
    area
        What the table is about; by default all blocks that were ever fetched.

    Raises
    ------
    InputError
        When the store is damaged, or does not reach over the area.
    """
    contents = {group.name: survey(stack, group) for group in in_order(stack.groups.values())}
    period = tuple(days or _period(list(contents.values())))
    scopes = {
        name: area_scope(stack, held.group, area) if area else Scope(group=held.group, blocks=held.fetched)
        for name, held in contents.items()
    }
    table = {}
    for scope in scopes.values():
        table.update(availability(stack, scope, scope.group.variables, period))
    sampled = tuple(name for name, scope in scopes.items() if len(scope.parts) > _MOST_PARTS)
    return Inventory(stack=stack, contents=contents, days=period, table=table, scopes=scopes, sampled=sampled)


def in_order(groups: Iterable[Group]) -> list[Group]:
    """Groups as people read them."""
    return sorted(groups, key=lambda group: ((*ORDER, group.kind).index(group.kind), group.name))


def survey(stack: Stack, group: Group) -> Contents:
    """What a group holds, from its marks alone."""
    shape = tuple(-(-size // group.block) for size in group.lattice.shape)
    fetched, filled = np.zeros(shape, bool), np.zeros(shape, bool)
    there = _days_fetched(stack, group)
    days = []
    for spell in _spells(there) if group.temporal else [[]]:
        marks = stack.marks(group, _whole(group), spell)
        fetched |= (marks > 0).any(0)
        filled |= (marks > 1).any(0)
        days += [day for day, mark in zip(spell, marks, strict=False) if (mark > 1).any()]
    return Contents(
        group=group,
        fetched=fetched,
        filled=filled,
        days_fetched=tuple(there),
        days=tuple(days),
        size=_size(stack.path / group.name),
    )


def _days_fetched(stack: Stack, group: Group) -> list[date]:
    """The days with any mark. Each has a chunk of its own, so that a folder tells and 25 years need not be read."""
    folder = stack.path / group.name / "fetched" / "c"
    if not group.temporal or not folder.is_dir():
        return []
    return [EPOCH + timedelta(days=k) for k in sorted(int(name) for name in os.listdir(folder) if name.isdecimal())]


def _spells(days: Iterable[date]) -> Iterator[list[date]]:
    """Cut sorted days so that no piece spans more than `_SPAN` days."""
    spell: list[date] = []
    for day in days:
        if spell and (day - spell[0]).days >= _SPAN:
            yield spell
            spell = []
        spell.append(day)
    if spell:
        yield spell


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
    """The pixels of an area; of a coarse group the cells that it touches."""
    grid = area_grid(stack, area)
    fine = group.kind in FINE_GROUPS
    window = fine_window(grid, stack) if fine else cover(grid, group.lattice)
    touched = not fine or not holds_a_centre(area, grid)
    blocks = np.zeros([-(-size // group.block) for size in group.lattice.shape], bool)
    blocks[group.blocks(window)] = True
    return Scope(group=group, blocks=blocks, inside=lambda part: area_mask(area, group.lattice[part], touched=touched))


def area_grid(stack: Stack, area: Area) -> GeoBox:
    """The pixels of the stack's fine lattice that cover an area."""
    return target_grid(area, resolution=stack.target.affine.a, crs=str(stack.target.crs))


def _whole(group: Group) -> Window:
    return slice(0, group.lattice.shape[0]), slice(0, group.lattice.shape[1])


def around_blocks(blocks: Mask) -> Window:
    """The blocks around those that are set, of which there is one at least."""
    rows, cols = np.flatnonzero(blocks.any(1)), np.flatnonzero(blocks.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


def _cells(group: Group, blocks: Window) -> Window:
    """The cells of some blocks."""
    rows, cols = (slice(int(part.start) * group.block, int(part.stop) * group.block) for part in blocks)
    return group.whole_blocks((rows, cols))


def _spread(blocks: Mask, group: Group, window: Window) -> Mask:
    """What holds for blocks, for each of their cells; `window` is clipped to the lattice."""
    rows, cols = (part.stop - part.start for part in window)
    return blocks.repeat(group.block, 0).repeat(group.block, 1)[:rows, :cols]


def availability(stack: Stack, scope: Scope, variables: Sequence[str], days: Sequence[date]) -> dict[str, Availability]:
    """Count how much of some variables of a group there is on some days, in order.

    Held at once are half a tile's days of one variable within the search window, whatever the size of the stack.
    """
    group, reach = scope.group, SEARCH_DAYS.get(scope.group.kind, 0)
    counts = {name: np.zeros((4, len(days)), np.int64) for name in variables}
    total = 0
    parts = scope.chosen() if days else []
    marks = marks_around(stack, scope, days, reach) if parts else {}
    corner = around_blocks(scope.blocks) if parts else (slice(0, 0), slice(0, 0))
    for window in parts:
        inside = scope.mask(window)
        if not inside.any():
            continue
        total += int(inside.sum())
        rows, cols = (slice(p.start - c.start, p.stop - c.start) for p, c in zip(group.blocks(window), corner))  # noqa: B905
        here = {day: mark[rows, cols] for day, mark in marks.items()}
        for name in variables:
            counts[name] += _count(stack, group, name, window, inside, here, days, reach)
    return {name: _shares(found, total) for name, found in counts.items()}


def marks_around(stack: Stack, scope: Scope, days: Sequence[date], reach: int) -> dict[date, NDArray[np.uint8]]:
    """By day within reach, where there are any, the marks about the scope's blocks: 0, 1, or 2 for data."""
    group = scope.group
    window = _cells(group, around_blocks(scope.blocks))
    if not group.temporal:
        mark = np.minimum(stack.marks(group, window, [])[0], 2).astype(np.uint8)
        return dict.fromkeys(days, mark)
    near = {day + timedelta(days=k) for day in days for k in range(-reach, reach + 1)}
    found = {}
    for spell in _spells(day for day in _days_fetched(stack, group) if day in near):
        for day, mark in zip(spell, stack.marks(group, window, spell), strict=True):
            found[day] = np.minimum(mark, 2).astype(np.uint8)
    return found


def _count(
    stack: Stack,
    group: Group,
    name: str,
    window: Window,
    inside: Mask,
    marks: Mapping[date, NDArray[np.uint8]],
    days: Sequence[date],
    reach: int,
) -> NDArray[np.int64]:
    """(4, days): pixels observed, usable, neither and never fetched, and the sum of the usable ones' ages."""
    counts = np.zeros((4, len(days)), np.int64)

    def read(day: date) -> Mask:
        there: Mask = stack.read_packed(name, window, day if group.temporal else None) != VARIABLES[name].nodata
        if (marks[day] <= 1).any():  # what a killed write left has no mark and does not count
            there &= _spread(marks[day] > 1, group, window)
        return there[inside]

    held: dict[date, Mask] = {}
    for start in range(0, len(days), _DAYS):
        some = days[start : start + _DAYS] if group.temporal else days[:1]
        near = [d for d, mark in marks.items() if (mark > 1).any() and is_near(d, some, reach)]
        held = {day: held[day] if day in held else read(day) for day in sorted(near)}
        for k, age in enumerate(_ages(held, some, int(inside.sum())), start):
            usable = age <= reach
            without = int(usable.size - np.count_nonzero(usable))
            mark = marks.get(days[k])
            unfetched = without if mark is None else 0
            if without and mark is not None and not mark.all():
                unfetched = int(np.count_nonzero(_spread(mark == 0, group, window)[inside] & ~usable))
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


def is_near(day: date, days: Sequence[date], reach: int) -> bool:
    """Whether a day lies within `reach` days of any of some others."""
    return any(abs((day - other).days) <= reach for other in days)


def _ages(held: Mapping[date, Mask], days: Sequence[date], size: int) -> Iterator[NDArray[np.int16]]:
    """Day by day the days to the nearest observation, (size,), very many where there is none; `held` in order."""
    first = days[0]
    forward = _nearest(held, days, first, size, 1)
    backward = list(_nearest(dict(reversed(list(held.items()))), list(reversed(days)), first, size, -1))
    for before, after in zip(forward, reversed(backward), strict=True):
        yield np.minimum(before, after, out=before)


def _nearest(
    held: Mapping[date, Mask], days: Sequence[date], first: date, size: int, sign: int
) -> Iterator[NDArray[np.int16]]:
    """Days to the last observation on or before (sign 1), or to the next on or after (−1), for days in that order."""
    last = np.full(size, -sign * _FAR, np.int16)
    waiting = list(held)
    for day in days:
        while waiting and sign * (day - waiting[0]).days >= 0:
            seen = waiting.pop(0)
            np.copyto(last, np.int16((seen - first).days), where=held[seen])
        yield np.abs(np.int16((day - first).days) - last)


def _shares(counts: NDArray[np.int64], total: int) -> Availability:
    observed, usable, unfetched, ages = counts
    if not total:
        zero = np.zeros(counts.shape[1])
        return Availability(observed=zero, interpolated=zero, missing=zero, unfetched=zero + 1, age=zero * np.nan)
    with np.errstate(invalid="ignore"):
        age = ages / usable
    return Availability(
        observed=observed / total,
        interpolated=(usable - observed) / total,
        missing=(total - usable - unfetched) / total,
        unfetched=unfetched / total,
        age=age,
    )
