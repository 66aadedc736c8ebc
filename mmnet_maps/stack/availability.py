"""One answer to "is it all there?": the blocks of a stack that were fetched and that hold values, day by day."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import Window, nearest_cells
from mmnet_maps.stack.blocks import Group, Place, hide_blocks
from mmnet_maps.stack.needs import PAD, Needs, days_on_axis, fine_window, groups_of, uses
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FINE_GROUPS, SEARCH_DAYS

Mask = NDArray[np.bool_]

Picked = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Rows and columns of some pixels of a grid, (n,) each."""

_SPAN = 64  # days whose marks are read at once


class NotFetchedError(InputError):
    """Inputs of some maps were never fetched.

    Attributes
    ----------
    problem
        What is missing, without what to do.
    days
        Days of the maps, ascending.
    """

    problem: str
    days: tuple[date, ...]

    @classmethod
    def of(cls, problem: str, days: Iterable[date], command: str) -> NotFetchedError:
        """Make the error, with the command that fetches what is missing."""
        error = cls(f"{problem}; fetch it with: {command}")
        error.problem, error.days = problem, tuple(sorted(days))
        return error


@dataclass(frozen=True, kw_only=True, eq=False)
class Availability:
    """Fetched and valued blocks of a group, day by day.

    Attributes
    ----------
    group
        The group; one without a time axis is the same on every day.
    days
        Days that were looked up, ascending.
    blocks
        Rows and columns of the blocks.
    fetched
        Blocks whose data were fetched, (day, block_y, block_x).
    valued
        Blocks that hold a value of any variable, of the same shape.
    """

    group: Group
    days: tuple[date, ...]
    blocks: Window
    fetched: Mask
    valued: Mask

    @cached_property
    def complete(self) -> frozenset[date]:
        """Days on which every block was fetched."""
        return frozenset(day for day, fetched in zip(self.days, self.fetched, strict=True) if fetched.all())

    @cached_property
    def observed(self) -> tuple[date, ...]:
        """Days on which any block holds a value."""
        return tuple(day for day, valued in zip(self.days, self.valued, strict=True) if valued.any())

    def observed_in(self, place: Place) -> tuple[date, ...]:
        """Return the days on which a block holds a value."""
        valued = self.valued[:, place[0] - self.blocks[0].start, place[1] - self.blocks[1].start]
        return tuple(day for day, seen in zip(self.days, valued.tolist(), strict=True) if seen)

    @cached_property
    def row(self) -> dict[date, int]:
        """Index of each day."""
        return {day: k for k, day in enumerate(self.days)}

    def unfetched(self, needs: Needs, day: date) -> list[date]:
        """Return the days that a map of `day` uses and on which some block was never fetched."""
        return [own for own in needs.own_days(self.group.kind, day) if own not in self.complete]

    def empty(self, needs: Needs, day: date) -> list[date]:
        """Return the days on which a map of `day` needs a value and no block holds one within the search window."""
        reach = SEARCH_DAYS.get(self.group.kind, 0)
        return [own for own in needs.valued_days(self.group.kind, day) if not is_near(own, self.observed, reach)]

    def among(self, blocks: Mask) -> Availability:
        """Return the same with all blocks but some of the lattice left out: they count as fetched and as empty."""
        kept = blocks[self.blocks]
        return replace(self, fetched=self.fetched | ~kept, valued=self.valued & kept)

    def within(self, window: Window) -> Availability:
        """Return the same for the blocks of a smaller window of cells."""
        blocks = self.group.blocks(window)
        rows, cols = (
            slice(part.start - own.start, part.stop - own.start) for part, own in zip(blocks, self.blocks, strict=True)
        )
        return replace(self, blocks=blocks, fetched=self.fetched[:, rows, cols], valued=self.valued[:, rows, cols])

    def hide(self, values: NDArray[np.generic], window: Window, day: date | None, missing: float) -> None:
        """Set the values of a day in blocks that are not marked as valued to missing, in place.

        Parameters
        ----------
        values
            Values of `window` (y, x).
        window
            Cells of the group, among the blocks.
        day
            The day; one that was not looked up has no values. Any for a group without a time axis.
        missing
            The value that means missing.
        """
        row = self.row.get(day) if self.group.temporal and day else 0
        if row is None:
            values[...] = missing
        elif not (valued := self.valued[row]).all():
            rows, cols = (
                slice(part.start - own.start, part.stop - own.start)
                for part, own in zip(self.group.blocks(window), self.blocks, strict=True)
            )
            hide_blocks(self.group, values, window, valued[rows, cols], missing)


def is_near(day: date, days: Iterable[date], reach: int) -> bool:
    """Return whether a day lies within `reach` days of any of some others."""
    return any(abs((day - other).days) <= reach for other in days)


def look_up(stack: Stack, group: Group, window: Window, days: Iterable[date]) -> Availability:
    """Look up the blocks of a window of cells on some days; those off the time axis are left out.

    Raises
    ------
    InputError
        The marks of the stack are damaged.
    """
    wanted = days_on_axis(days)
    blocks = group.blocks(window)
    shape = (len(wanted), *(part.stop - part.start for part in blocks))
    fetched, valued = np.zeros(shape, bool), np.zeros(shape, bool)
    start = 0
    for span in cut_days(wanted) if group.temporal else [wanted]:
        marks = stack.marks(group, window, span)
        fetched[start : start + len(span)], valued[start : start + len(span)] = marks > 0, marks > 1
        start += len(span)
    return Availability(group=group, days=tuple(wanted), blocks=blocks, fetched=fetched, valued=valued)


def cut_days(days: Iterable[date], most: int = _SPAN) -> Iterator[list[date]]:
    """Cut ascending days so that no part spans more than `most` days, by default 64, whose marks are read at once."""
    span: list[date] = []
    for day in days:
        if span and (day - span[0]).days >= most:
            yield span
            span = []
        span.append(day)
    if span:
        yield span


def blocks_of_grids(stack: Stack, grids: Iterable[GeoBox], needs: Needs, day: date) -> dict[str, tuple[Group, Mask]]:
    """Return, by name, the groups that maps of some grids read and their blocks (y, x); errors as `needs.uses`."""
    found: dict[str, tuple[Group, Mask]] = {}
    for grid in grids:
        for group, window, _ in uses(stack, grid, needs, [day]):
            found.setdefault(group.name, (group, np.zeros(group.shape, bool)))[1][group.blocks(window)] = True
    return found


def look_up_blocks(stack: Stack, group: Group, blocks: Mask, days: Iterable[date]) -> Availability:
    """Look up some blocks of a group, of which there is at least one; the others count as fetched and as empty."""
    return look_up(stack, group, group.cells(around_blocks(blocks)), days).among(blocks)


def around_blocks(blocks: Mask) -> Window:
    """Return the smallest window of blocks around those that are set, of which there is at least one."""
    rows, cols = np.flatnonzero(blocks.any(1)), np.flatnonzero(blocks.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


def _own_days(group: Group, needs: Needs, days: Iterable[date]) -> set[date]:
    return {own for day in days for own in needs.own_days(group.kind, day)}


def require(stack: Stack, grid: GeoBox, needs: Needs, days: Sequence[date]) -> None:
    """Check that every block that maps of a grid read was fetched on the maps' own days.

    Raises
    ------
    RequestError
        As `needs.uses`.
    NotFetchedError
        A variable or day is missing; the message names the first.
    """
    found = [
        look_up(stack, group, window, _own_days(group, needs, days))
        for group, window, _ in uses(stack, grid, needs, days)
    ]
    lost = [(day, one, missing[0]) for day in days for one in found if (missing := one.unfetched(needs, day))]
    if lost:
        maps = sorted({day for day, _, _ in lost})
        _, one, own = lost[0]
        span = str(maps[0]) if len(maps) == 1 else f"{len(maps)} days from {maps[0]} to {maps[-1]}"
        problem = f"the stack {stack.path} has no {one.group.name} {f'for {own} ' * one.group.temporal}in this area"
        raise NotFetchedError.of(
            f"{problem}, needed for the map of {span}", maps,
            f"mmnet stack --aoi … --start {maps[0]} --end {maps[-1]} --source … --model … --out {stack.path}",
        )  # fmt: skip


def require_values(stack: Stack, grid: GeoBox, needs: Needs, days: Sequence[date]) -> None:
    """Check that no map would be missing as a whole because an input was fetched and found empty everywhere.

    Raises
    ------
    RequestError
        As `needs.uses`.
    InputError
        A group has no value in the area; the message names the first one and the day.
    """
    found = [look_up(stack, *use) for use in uses(stack, grid, needs, days)]
    for day in days:
        for one in found:
            if empty := one.empty(needs, day):
                group, reach = one.group, SEARCH_DAYS.get(one.group.kind, 0)
                within = f" within {reach} days of {empty[0]}" if reach else f" on {empty[0]}" * group.temporal
                raise InputError(
                    f"the inputs hold no value of {', '.join(group.variables)}{within} in this area, so that nothing "
                    f"could be mapped for {day}; choose another day or area, or another source"
                )


def fetched_days(stack: Stack, grid: GeoBox, needs: Needs, days: Sequence[date]) -> list[date]:
    """Return the days, in order, whose maps pass `require`; errors as `needs.uses`."""
    kept = list(days)
    for group, window, _ in uses(stack, grid, needs, days) if kept else []:
        found = look_up(stack, group, window, _own_days(group, needs, kept))
        kept = [day for day in kept if not found.unfetched(needs, day)]
    return kept


def fetched_at(stack: Stack, grid: GeoBox, picked: Picked, needs: Needs, days: Sequence[date]) -> Mask:
    """Find the days on which a map of each single pixel passes `require`.

    Parameters
    ----------
    stack
        An open stack.
    grid
        A window of its fine lattice.
    picked
        The pixels.
    needs, days
        Needs of the model, and the days of its maps, in order.

    Returns
    -------
    ndarray of bool (days, n)
        False too where a pixel lies off the lattice of an input.

    Raises
    ------
    RequestError, InputError
        As `needs.uses`, but pixels that the stack does not cover are no error.
    """
    usable = np.ones((len(days), picked[0].size), bool)
    for group in groups_of(stack, needs, days[0]):
        if group.kind in FINE_GROUPS:
            top, left = (part.start for part in fine_window(grid, stack))
            rows, cols, pad = picked[0] + top, picked[1] + left, 0
        else:
            rows, cols = (cells[picked] for cells in nearest_cells(grid, group.lattice))
            pad = PAD
        on = rows >= 0
        usable[:, ~on] = False
        if not on.any():
            break
        ends = [
            [np.clip(index[on] + by, 0, size - 1) for by in (-pad, pad)]
            for index, size in zip((rows, cols), group.lattice.shape, strict=True)
        ]
        window = slice(ends[0][0].min(), ends[0][1].max() + 1), slice(ends[1][0].min(), ends[1][1].max() + 1)
        found = look_up(stack, group, window, _own_days(group, needs, days))
        top, left = (part.start for part in found.blocks)
        fetched = np.all(
            [found.fetched[:, i // group.block - top, j // group.block - left] for i in ends[0] for j in ends[1]],
            axis=0,
        )
        for k, day in enumerate(days):
            usable[k, on] &= fetched[[found.row[own] for own in needs.own_days(group.kind, day)]].all(0)
    return usable
