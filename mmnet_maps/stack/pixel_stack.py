"""A stack in memory that holds the inputs of one pixel, read by the code that reads stacks on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.grid.lattice import Window
from mmnet_maps.stack.blocks import Group, Place
from mmnet_maps.stack.store import Stack
from mmnet_maps.stack.verified import VerifiedValues
from mmnet_maps.variables import FINE_GROUPS, VARIABLES

Packed = dict[str, NDArray[np.integer]]

_BLOCK = 8  # cells a side: those read around a pixel lie in four blocks at most
_EMPTY, _VALUED = 1, 2


@dataclass(frozen=True, kw_only=True)
class Held:
    """Packed values of a group in a window.

    Attributes
    ----------
    window
        Rows and columns of the group's lattice.
    first
        The first day.
    marks
        For each day from the first on, 0 where it was not fetched, 1 where it has no value, 2 where it has one.
    values
        Of each variable, (day, y, x), as stored; without a time axis there is one day.
    """

    window: Window
    first: date
    marks: NDArray[np.uint32]
    values: Packed

    @classmethod
    def of(cls, group: Group, window: Window, parts: Iterable[tuple[Sequence[date], Packed]]) -> Held:
        """Join values of some days in a window, and round that out to whole blocks."""
        cut = list(parts)
        first, last = min(days[0] for days, _ in cut), max(days[-1] for days, _ in cut)
        whole = in_small_blocks(group).whole_blocks(window)
        shape = ((last - first).days + 1, *(part.stop - part.start for part in whole))
        rows, cols = _relative(window, whole)
        values = {name: np.full(shape, VARIABLES[name].nodata, VARIABLES[name].dtype) for name in cut[0][1]}
        marks = np.zeros(shape[0], np.uint32)
        for days, found in cut:
            at = np.array([(day - first).days for day in days])
            marks[at] = _EMPTY
            for name, own in found.items():
                values[name][at, rows, cols] = own
                marks[at[(own != VARIABLES[name].nodata).any(axis=(1, 2))]] = _VALUED
        return cls(window=whole, first=first, marks=marks, values=values)


def _relative(window: Window, outer: Window) -> Window:
    """Return the place of a window in one around it."""
    rows, cols = (slice(part.start - by.start, part.stop - by.start) for part, by in zip(window, outer, strict=True))
    return rows, cols


class _HeldValues(VerifiedValues):
    """Values that are held in memory, by group."""

    def __init__(self, held: Mapping[str, Held]) -> None:
        self._held = held

    def block(self, group: Group, variable: str, place: Place, day: date | None) -> NDArray[np.integer] | None:
        """Return a block of a variable, not to be changed; None where nothing is held."""
        held = self._held.get(group.name)
        if held is None:
            return None
        row = (day - held.first).days if day else 0
        rows, cols = _relative(group.cells_of(place), held.window)
        _, height, width = held.values[variable].shape
        inside = rows.start >= 0 and rows.stop <= height and cols.start >= 0 and cols.stop <= width
        return held.values[variable][row, rows, cols] if inside and 0 <= row < len(held.marks) else None


class PixelStack(Stack):
    """The inputs of one pixel in memory, as a stack.

    Parameters
    ----------
    template
        An empty stack with the groups and provenance.
    held
        Values by group name: of a fine group the pixel, of a coarse one its cell and those around it.
    """

    def __init__(self, template: Stack, held: Mapping[str, Held]) -> None:
        super().__init__(template.path)
        self.groups = {name: in_small_blocks(group) for name, group in self.groups.items()}
        self._held, self._values = held, _HeldValues(held)

    def marks(self, group: Group, window: Window, days: Sequence[date]) -> NDArray[np.uint32]:
        """Return the marks of the blocks in a window, as `Stack.marks`: the same for all blocks."""
        held, blocks = self._held.get(group.name), tuple(part.stop - part.start for part in group.blocks(window))
        marks = np.zeros(len(days) if group.temporal else 1, np.uint32)
        if held is not None and group.temporal:
            rows = np.array([(day - held.first).days for day in days], np.intp)
            on = (rows >= 0) & (rows < len(held.marks))
            marks[on] = held.marks[rows[on]]
        elif held is not None:
            marks[:] = held.marks
        return np.broadcast_to(marks[:, None, None], (len(marks), *blocks)).copy()


def in_small_blocks(group: Group) -> Group:
    """Return a group with blocks of few cells: blocks are decoded and kept whole."""
    return replace(group, block=1 if group.kind in FINE_GROUPS else _BLOCK, verified=False)
