"""A stack in memory that holds the inputs of one pixel, read by the code that reads stacks on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.grid.lattice import Window
from mmnet_maps.stack.blocks import Group
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FINE_GROUPS, VARIABLES

Packed = dict[str, NDArray[np.integer]]

_BLOCK = 8  # cells of a coarse block: what is read around a pixel spans at most two of them
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
    def of(cls, parts: Iterable[tuple[Window, Sequence[date], Packed]], window: Window) -> Held:
        """Join values of some days, each in a window around the given one."""
        cut = [(days, _within(values, own, window)) for own, days, values in parts]
        first, last = min(days[0] for days, _ in cut), max(days[-1] for days, _ in cut)
        shape = ((last - first).days + 1, *(part.stop - part.start for part in window))
        names = cut[0][1]
        joined: Packed = {name: np.full(shape, VARIABLES[name].nodata, VARIABLES[name].dtype) for name in names}
        marks = np.zeros(shape[0], np.uint32)
        for days, values in cut:
            rows = [(day - first).days for day in days]
            marks[rows] = _EMPTY
            for name, found in values.items():
                joined[name][rows] = found
                valued = (found != VARIABLES[name].nodata).any(axis=(1, 2))
                marks[np.asarray(rows)[valued]] = _VALUED
        return cls(window=window, first=first, marks=marks, values=joined)


def _within(values: Packed, own: Window, window: Window) -> Packed:
    """Return the values of a window inside another one, which is theirs."""
    rows, cols = (slice(part.start - by.start, part.stop - by.start) for part, by in zip(window, own, strict=True))
    return {name: found[:, rows, cols] for name, found in values.items()}


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
        # Decoded blocks are kept whole: those of a stack on disk hold thousands of cells.
        self.groups = {
            name: group if group.kind in FINE_GROUPS else replace(group, block=_BLOCK)
            for name, group in self.groups.items()
        }
        self._held = held

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

    def _values(self, variable: str, window: Window, days: Sequence[date] | None) -> NDArray[np.integer]:
        """Return a window on consecutive days, or without a time axis; missing where nothing is held."""
        held, spec = self._held.get(self.group_of(variable).name), VARIABLES[variable]
        count = len(days) if days else 1
        values: NDArray[np.integer] = np.full(
            (count, *(part.stop - part.start for part in window)), spec.nodata, spec.dtype
        )
        if held is not None:
            start = (days[0] - held.first).days if days else 0
            there, here = [], []
            for wanted, known in zip(
                (slice(start, start + count), *window), (slice(0, len(held.marks)), *held.window), strict=True
            ):
                low = max(wanted.start, known.start)
                high = max(min(wanted.stop, known.stop), low)
                there.append(slice(low - known.start, high - known.start))
                here.append(slice(low - wanted.start, high - wanted.start))
            values[tuple(here)] = held.values[variable][tuple(there)]
        return values if days else values[0]
