"""What a stack holds: groups, days, sizes, provenance, how much of a variable there is on a day, and for which maps.

Commit marks tell what there is to read, so that empty parts of a stack, however large, cost nothing.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.warp import transform_bounds

from mmnet_maps.aoi import LONLAT, Area
from mmnet_maps.block import Needs, fine_window, uses
from mmnet_maps.cells import Window, cover
from mmnet_maps.grid import TILE_PIXELS, area_mask, conus_grid, holds_a_centre, target_grid, touched_tiles
from mmnet_maps.stack import EPOCH, Group, Stack
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
            box = contents.group.lattice[_cells(contents.group, _around(self.filled if fine else contents.filled))]
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


def _around(blocks: Mask) -> Window:
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
    marks = _marks_around(stack, scope, days, reach) if parts else {}
    corner = _around(scope.blocks) if parts else (slice(0, 0), slice(0, 0))
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


def _marks_around(stack: Stack, scope: Scope, days: Sequence[date], reach: int) -> dict[date, NDArray[np.uint8]]:
    """By day within reach, where there are any, the marks about the scope's blocks: 0, 1, or 2 for data."""
    group = scope.group
    window = _cells(group, _around(scope.blocks))
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
        near = [d for d, mark in marks.items() if (mark > 1).any() and _is_near(d, some, reach)]
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


def _is_near(day: date, days: Sequence[date], reach: int) -> bool:
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


@dataclass(frozen=True, kw_only=True)
class Lack:
    """Something that is not there, in one plain line, and the days that cannot be mapped for it."""

    what: str
    days: tuple[date, ...]
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """Whether a model can run on a stack.

    Attributes
    ----------
    days
        The days that were asked for.
    lacks
        What is not there; empty where every day can run.
    quality
        For each day that can run, per group the share of pixels (of coarse groups: cells) with a value, of the variable
        with the fewest, and the mean age of observations in days.
    rim
        Share of the fetched fine blocks that was left out, as coarse inputs were never fetched for them: blocks are
        whole, and reach beyond the area they were fetched for. 0 where an area was given.
    """

    days: tuple[date, ...]
    lacks: tuple[Lack, ...]
    quality: Mapping[date, Mapping[str, tuple[float, float]]]
    rim: float = 0.0

    @property
    def able(self) -> list[date]:
        """The days that can run."""
        unable = {day for lack in self.lacks for day in lack.days}
        return [day for day in self.days if day not in unable]


@dataclass(frozen=True, kw_only=True)
class _Reach:
    """The part of a stack that maps of an area read: blocks per group, and the pieces that they come from."""

    pieces: list[GeoBox]
    blocks: dict[str, Mask]
    rim: float = 0.0
    groups: dict[str, Group] = field(default_factory=dict)


def check(stack: Stack, needs: Needs, days: Sequence[date], area: Area | None = None) -> Check:
    """Whether maps of some days can be made from a stack: all that `block.require` and `block.require_values` ask.

    Parameters
    ----------
    stack
        An open stack.
    needs
        What the model needs.
    days
        The days of the maps.
    area
        The area to be mapped; by default all fine blocks that were ever fetched.

    Raises
    ------
    RequestError
        When a day is too near to the beginning of the time axis.
    InputError
        When the store is damaged, or does not reach over the area.
    """
    days = tuple(days)
    there = {name for group in stack.groups.values() for name in group.variables}
    absent = [name for name in needs.variables if name not in there]
    lacks = []
    if absent:
        what = f"the stack has no {', '.join(absent)}, which the model needs"
        lacks.append(Lack(what=what, days=days, remedy="sources"))
    known = replace(
        needs,
        snapshot=tuple(name for name in needs.snapshot if name in there),
        series=tuple(name for name in needs.series if name in there),
    )
    if set(known.kinds) <= {"static"}:
        return Check(days=days, lacks=tuple(lacks), quality={})
    reach = _reach(stack, known, days, area)
    if not reach.pieces:
        lacks.append(Lack(what="there is no place with both fine and coarse inputs", days=days, remedy="fetch"))
        return Check(days=days, lacks=tuple(lacks), quality={})
    for group in in_order(reach.groups.values()):
        lacks += _lacks(stack, known, days, group, reach.blocks[group.name])
    found = Check(days=days, lacks=tuple(lacks), quality={}, rim=reach.rim)
    return replace(found, quality=_quality(stack, known, found.able, reach, area))


def _reach(stack: Stack, needs: Needs, days: Sequence[date], area: Area | None) -> _Reach:
    if area:
        grid = area_grid(stack, area)
        pieces = [tile.geobox for tile in touched_tiles(area, grid)]
        return _reached(pieces, [uses(stack, piece, needs, days[0]) for piece in pieces])
    groups = {group.name: group for group in (stack.group_of(name) for name in needs.variables)}
    fetched = {name: survey(stack, group).fetched for name, group in groups.items()}
    fine = [name for name, group in groups.items() if group.kind in FINE_GROUPS]
    coarse = {name for name in groups if name not in fine and fetched[name].any()}
    ever = np.logical_or.reduce([fetched[name] for name in fine]) if fine else np.zeros((0, 0), bool)
    if not ever.any():
        return _reached([], [])
    kept: list[GeoBox] = []
    parts: list[list[tuple[Group, Window, list[date]]]] = []

    def go(window: Window, size: int) -> None:
        """Keep what is complete; cut the rest into quarters, down to pieces that matter no more."""
        here = ever[groups[fine[0]].blocks(window)]
        if not here.any():
            return
        used = uses(stack, stack.target[window], needs, days[0])
        found = [fetched[g.name][g.blocks(part)] for g, part, _ in used if g.name in coarse]
        if here.all() and all(there.all() for there in found):
            kept.append(stack.target[window])
            parts.append(used)
        elif size > _SMALLEST and all(there.any() for there in found):
            rows, cols = window
            for top in range(rows.start, rows.stop, size // 2):
                for left in range(cols.start, cols.stop, size // 2):
                    go((slice(top, top + size // 2), slice(left, left + size // 2)), size // 2)

    for row, col in sorted({(int(i), int(j)) for i, j in np.argwhere(ever) * groups[fine[0]].block // TILE_PIXELS}):
        top, left = row * TILE_PIXELS, col * TILE_PIXELS
        go((slice(top, top + TILE_PIXELS), slice(left, left + TILE_PIXELS)), TILE_PIXELS)
    pixels = int(ever.sum()) * groups[fine[0]].block ** 2
    rim = 1 - sum(piece.shape.x * piece.shape.y for piece in kept) / pixels
    return replace(_reached(kept, parts), rim=rim)


def _reached(pieces: list[GeoBox], used: list[list[tuple[Group, Window, list[date]]]]) -> _Reach:
    found = _Reach(pieces=pieces, blocks={})
    for part in used:
        for group, window, _ in part:
            found.groups[group.name] = group
            if group.name not in found.blocks:
                shape = [-(-size // group.block) for size in group.lattice.shape]
                found.blocks[group.name] = np.zeros(shape, bool)
            found.blocks[group.name][group.blocks(window)] = True
    return found


def _lacks(stack: Stack, needs: Needs, days: Sequence[date], group: Group, blocks: Mask) -> Iterator[Lack]:
    """What a group lacks in some blocks: days never fetched, and days without a value."""
    reach = SEARCH_DAYS.get(group.kind, 0)
    own = {day: [day] if not group.temporal else needs.own_days(group.kind, day) for day in days}
    wanted = sorted({day for many in own.values() for day in many})
    window = _around(blocks)
    here = blocks[window]
    marks = {
        day: mark[here] for day, mark in _marks_around(stack, Scope(group=group, blocks=blocks), wanted, reach).items()
    }
    unfetched = {day for day in wanted if day not in marks or not marks[day].all()}
    filled = [day for day, mark in marks.items() if (mark > 1).any()]
    empty = {day for day in wanted if day not in unfetched and not _is_near(day, filled, reach)}
    names = f"{group.name} ({', '.join(name for name in group.variables if name in needs.variables)})"
    if unfetched:
        affected = tuple(day for day in days if unfetched & set(own[day]))
        most = max(int((marks[day] == 0).sum()) if day in marks else int(here.sum()) for day in unfetched)
        extent = "" if most == here.sum() else f" in up to {most} of {int(here.sum())} blocks"
        when = f" for {spans(unfetched)}" if group.temporal else ""
        yield Lack(what=f"{names} was never fetched{when}{extent}", days=affected, remedy="fetch")
    if empty:
        affected = tuple(day for day in days if empty & set(own[day]))
        near = f" within {reach} days of" if reach else " on"
        when = f"{near} {spans(empty)}" if group.temporal else ""
        yield Lack(what=f"{names} holds no value{when}", days=affected, remedy="other days")


def _quality(
    stack: Stack, needs: Needs, days: Sequence[date], reach: _Reach, area: Area | None
) -> dict[date, dict[str, tuple[float, float]]]:
    quality: dict[date, dict[str, tuple[float, float]]] = {day: {} for day in days}
    for group in in_order(reach.groups.values()) if days else ():
        own = {day: [day] if not group.temporal else needs.own_days(group.kind, day) for day in days}
        wanted = sorted({day for many in own.values() for day in many})
        scope = area_scope(stack, group, area) if area else _pieces_scope(group, reach)
        names = [name for name in group.variables if name in needs.variables]
        found = availability(stack, scope, names, wanted).values()
        for day in days:
            index = [wanted.index(other) for other in own[day]]
            share = min(float(one.usable[index].mean()) for one in found)
            ages = [float(one.age[index].mean()) for one in found]
            quality[day][group.name] = (share, max(ages))
    return quality


def _pieces_scope(group: Group, reach: _Reach) -> Scope:
    """The cells under the pieces, without those that are only borrowed from."""
    blocks = np.zeros_like(reach.blocks[group.name])
    if group.kind in FINE_GROUPS:
        return Scope(group=group, blocks=reach.blocks[group.name])
    cells = np.zeros(group.lattice.shape, bool)
    for piece in reach.pieces:
        window = cover(piece, group.lattice)
        cells[window] = True
        blocks[group.blocks(window)] = True
    return Scope(group=group, blocks=blocks, inside=lambda part: cells[part])


def spans(days: Iterable[date]) -> str:
    """Days as people write them.

    >>> spans([date(2021, 8, 1), date(2021, 8, 2), date(2021, 8, 3), date(2021, 8, 7)])
    '2021-08-01 to 2021-08-03, 2021-08-07'
    """
    runs: list[list[date]] = []
    for day in sorted(days):
        if runs and (day - runs[-1][-1]).days == 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return ", ".join(texts if len(texts) <= 6 else [*texts[:4], f"… {len(texts) - 5} more …", texts[-1]])


def check_stack(path: str | Path, model: str | Path, dates: Any, aoi: str | None = None) -> tuple[str, bool]:
    """What `mmnet stack check` tells, and whether all days can run.

    Parameters
    ----------
    path, model
        The stack, and a checkpoint folder or the name of a packaged one.
    dates
        As `aoi.parse_days` takes them.
    aoi
        As `aoi.read_aoi` takes it; by default all that the stack has fine blocks for.

    Raises
    ------
    RequestError
        When the model, a date or the area is wrong.
    InputError
        When there is no stack, or it does not reach over the area.
    """
    from mmnet_maps.aoi import parse_days, read_aoi
    from mmnet_maps.checkpoint import load_checkpoint
    from mmnet_maps.job import needs_of

    stack, days = Stack(path), parse_days(dates)
    area = read_aoi(aoi) if aoi else None
    spec = load_checkpoint(model).spec
    needs = needs_of(spec)
    found = check(stack, needs, days, area)
    lines = [f"{spec.name} on {path}, {spans(days)}, {aoi or 'all that was fetched'}"]
    if found.rim:
        lines.append(f"left out: the rim, {_percent(found.rim)} of the fetched blocks, without coarse inputs")
    lines += [f"lacks  {lack.what}: no map of {spans(lack.days)}" for lack in found.lacks]
    for day in days:
        lines.append(f"{day}  {_verdict(found.quality[day]) if day in found.quality else 'cannot run'}")
    lines += _products(stack, needs, spec.inputs)
    lines.append(f"next: {_next(found, stack, str(model), aoi)}")
    return "\n".join(lines), not found.lacks


def _verdict(quality: Mapping[str, tuple[float, float]]) -> str:
    parts = []
    for name, (share, age) in quality.items():
        old = f" ({age:.1f} days old)" if age > 0 else ""
        parts.append(f"{name} {_percent(share)}{old}")
    return "can run: " + ", ".join(parts)


def _percent(share: float) -> str:
    """A share that is neither whole nor nothing is never shown as if it were."""
    return f"{min(max(round(share * 100), 1), 99)} %" if 0 < share < 1 else f"{share:.0%}".replace("%", " %")


def _products(stack: Stack, needs: Needs, trained: Mapping[str, str]) -> list[str]:
    """What the map command tells of the inputs: that they are synthetic, or other products than in training."""
    from mmnet_maps.features import INDICES

    mine = {name: stack.provenance[name] for name in needs.variables if name in stack.provenance}
    if any(entry.synthetic for entry in mine.values()):
        return ["SYNTHETIC INPUTS: maps will show an invented world, not observations"]
    found = []
    for name, product in trained.items():
        parts = INDICES[name].bands if name in INDICES else (name,)
        here = " and ".join(dict.fromkeys(mine[part].product for part in parts if part in mine))
        if here and here != product:
            found.append(f"{name}: {here} (trained on {product})")
    return [f"other products than in training: {'; '.join(found)}"] if found else []


def _next(found: Check, stack: Stack, model: str, aoi: str | None) -> str:
    """The command to type."""
    area, store = f"--aoi {shlex.quote(aoi)}" if aoi else "--aoi …", shlex.quote(str(stack.path))
    days = found.able if not found.lacks or not any(lack.remedy == "fetch" for lack in found.lacks) else []
    remedies = {lack.remedy for lack in found.lacks}
    if "sources" in remedies:
        return (
            f"build a stack from sources that have all: mmnet stack {area} --start {found.days[0]} "
            f"--end {found.days[-1]} --source … --out NEW.zarr"
        )
    if "fetch" in remedies:
        lacking = [day for lack in found.lacks if lack.remedy == "fetch" for day in lack.days]
        chosen = f" --model {shlex.quote(model)}"
        narrower = (
            "" if aoi or "blocks" not in "".join(lack.what for lack in found.lacks) else "; or check one area: --aoi"
        )
        return (
            f"mmnet stack {area} --start {min(lacking)} --end {max(lacking)} --source …{chosen} --out {store}{narrower}"
        )
    if not days:
        return "choose other days or another source: the inputs of these days hold no value in this area"
    runs = "".join(f" --date {text.replace(' to ', '/')}" for text in spans(days).split(", "))
    return f"mmnet map {area}{runs} --stack {store} --model {shlex.quote(model)}"
