"""Coarse variables on consecutive days in the cells below some pixels, interpolated in time and gap-filled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.stack.bilinear import Bilinear
from mmnet_maps.stack.cells import Cells, Pixels
from mmnet_maps.stack.interpolate import FILL_CELLS, Float, Packed, fill_gaps, interpolate_series
from mmnet_maps.stack.needs import Needs, Use
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import SEARCH_DAYS, VARIABLES

SmapResampling = Literal["nearest", "bilinear"]

OnDay = Callable[[date], tuple[Float, NDArray[np.bool_]]]
"""Returns a day's value of every pixel, NaN off the lattice, and whether its cell is gap-filled."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A coarse variable on consecutive days from `first` on.

    Attributes
    ----------
    cells
        The cells below the pixels.
    first
        The first day.
    kept
        Cells of the window that were read, ascending: those below wanted pixels and what their values depend on, or
        all of the window.
    values
        (day, kept) float32, NaN missing; of cells beside those below pixels not all gaps may be filled.
    observed, gap_filled
        Whether a value was observed on the day itself, and whether it comes from a neighbouring cell, (day, kept).
    """

    cells: Cells
    first: date
    kept: NDArray[np.intp]
    values: Float
    observed: NDArray[np.bool_]
    gap_filled: NDArray[np.bool_]

    def days(self, first: date, last: date) -> slice:
        """Return the rows of some days."""
        return slice((first - self.first).days, (last - self.first).days + 1)

    def places(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the columns of cells, given by their position in `Cells.used`."""
        return np.searchsorted(self.kept, self.cells.used[places])

    def borrowed(self) -> NDArray[np.intp]:
        """Return the cells below pixels that are gap-filled on any day, counted along the rows of the lattice."""
        filled = np.any(self.gap_filled, axis=0, keepdims=True)[0, np.searchsorted(self.kept, self.cells.used)]
        return self.cells.on_lattice(self.cells.used[filled])

    def to_pixels(
        self, pixels: Pixels, resampling: SmapResampling
    ) -> Callable[[date], tuple[Float, NDArray[np.bool_]]]:
        """Locate pixels once, for all days."""
        assert self.kept.size == np.prod(self.cells.shape), "the whole window was read"
        cells, lattice = self.cells, self.cells.group.lattice
        between = (
            None
            if resampling == "nearest"
            else Bilinear(*pixels.positions(lattice), cells.window, (lattice.shape.y, lattice.shape.x))
        )

        def on(day: date) -> tuple[Float, NDArray[np.bool_]]:
            """Return the values of a day at the pixels, and which of them were gap-filled."""
            today = (day - self.first).days
            values, filled = self.values[today], self.gap_filled[today]
            gap_filled = np.zeros(pixels.shape, bool)
            if filled.any():
                gap_filled = np.append(filled, False)[cells.of_pixels]
            if between is not None:
                return between.sample(values.reshape(cells.shape)), gap_filled
            return np.append(values, np.float32(np.nan))[cells.of_pixels], gap_filled

        return on


def read_field(
    stack: Stack, use: Use, marks: NDArray[np.uint32], cells: Cells, name: str, needs: Needs, days: Sequence[date]
) -> Field:
    """Read a coarse variable and interpolate it on the maps' own days.

    Parameters
    ----------
    stack, use
        The stack, and the window and days of the variable's group that the maps use.
    marks
        Commit marks of the blocks of the window on every day from the first to the last of `use`, 0 on days between
        that are not used.
    cells
        The cells below the pixels.
    name, needs, days
        The variable, needs of the model, and days of the maps.
    """
    kind, start = use.group.kind, use.days[0]
    every = np.arange(np.prod(cells.shape))
    kept = every if name in needs.snapshot else cells.around(FILL_CELLS)
    packed = _read_cells(stack, use, marks, name, kept)
    first, last = needs.own_days(kind, days[0])[0], needs.own_days(kind, days[-1])[-1]
    own = range((first - start).days, (last - start).days + 1)
    values = interpolate_series(packed, own, SEARCH_DAYS.get(kind, 0), VARIABLES[name])
    return Field(
        cells=cells,
        first=first,
        kept=kept,
        values=values,
        observed=packed[own.start : own.stop] != VARIABLES[name].nodata,
        gap_filled=fill_gaps(values, kept, cells.shape),
    )


def _read_cells(stack: Stack, use: Use, marks: NDArray[np.uint32], name: str, kept: NDArray[np.intp]) -> Packed:
    """Read some cells of the window on all days, (day, cell), as stored; missing in blocks not marked as valued."""
    group, (window_rows, window_cols) = use.group, use.window
    blocks = group.blocks(use.window)
    row, col = np.divmod(kept, window_cols.stop - window_cols.start)
    row, col = row + window_rows.start, col + window_cols.start
    block_row, block_col = row // group.block, col // group.block
    values = np.empty((len(marks), kept.size), VARIABLES[name].dtype)
    number = (block_row - blocks[0].start) * (blocks[1].stop - blocks[1].start) + (block_col - blocks[1].start)
    for k in np.flatnonzero(np.bincount(number)).tolist():
        i, j = divmod(k, blocks[1].stop - blocks[1].start)
        here = np.flatnonzero(number == k)
        place = blocks[0].start + i, blocks[1].start + j
        block = stack.kept_blocks.read(group, name, place, use.days[0], marks[:, i, j])
        values[:, here] = block[:, row[here] - place[0] * group.block, col[here] - place[1] * group.block]
    return values


def marks_of(stack: Stack, use: Use) -> NDArray[np.uint32]:
    """Return the commit marks of the blocks of a window, from the first to the last day of `use`; 0 on unused days."""
    found = stack.marks(use.group, use.window, use.days)
    marks = np.zeros(((use.days[-1] - use.days[0]).days + 1, *found.shape[1:]), np.uint32)
    marks[[(day - use.days[0]).days for day in use.days]] = found
    return marks
