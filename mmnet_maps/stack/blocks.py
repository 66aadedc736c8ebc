"""Groups of a stack, their blocks, and places on the time axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import RequestError
from mmnet_maps.grid.lattice import Window, lonlat
from mmnet_maps.variables import FIRST_DAY, LAST_DAY, STATIC_GROUPS, VARIABLES

Place = tuple[int, int]
"""Row and column of a block."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group of a stack: its lattice, block size in cells, variables, and whether its blocks have checksums."""

    name: str
    lattice: GeoBox
    block: int
    variables: tuple[str, ...]
    verified: bool = False

    @property
    def kind(self) -> str:
        """Usual group of its variables (see `variables`); not `name` where a product has a grid of its own.

        In a stack of 2026-11 and before, terrain, land cover and soil are one group, whose kind is that of the first.
        """
        return VARIABLES[self.variables[0]].group

    @property
    def temporal(self) -> bool:
        """True if the group has a time axis."""
        return self.kind not in STATIC_GROUPS

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-self.lattice.shape.y // self.block), -(-self.lattice.shape.x // self.block)

    def blocks(self, window: Window) -> Window:
        """Return the blocks that a window of cells touches."""
        rows, cols = window
        return (
            slice(rows.start // self.block, -(-rows.stop // self.block)),
            slice(cols.start // self.block, -(-cols.stop // self.block)),
        )

    def whole_blocks(self, window: Window) -> Window:
        """Return the window rounded out to whole blocks, clipped to the lattice."""
        return self.cells(self.blocks(window))

    def cells(self, blocks: Window) -> Window:
        """Return the cells of a window of blocks, clipped to the lattice."""
        height, width = self.lattice.shape
        rows, cols = blocks
        return (
            slice(rows.start * self.block, min(rows.stop * self.block, height)),
            slice(cols.start * self.block, min(cols.stop * self.block, width)),
        )

    def cells_of(self, place: Place) -> Window:
        """Return the cells of a block, clipped to the lattice."""
        row, col = place
        return self.cells((slice(row, row + 1), slice(col, col + 1)))

    def cut(self, window: Window) -> Iterator[tuple[Place, Window, Window]]:
        """Cut a window of cells into blocks.

        Yields
        ------
        place
            Row and column of a block.
        inner, outer
            The part of the block in the window: its cells counted from the block's corner and from the window's.
        """
        rows, cols = (_pieces(part, self.block) for part in window)
        for (i, inner_rows, outer_rows), (j, inner_cols, outer_cols) in product(rows, cols):
            yield (i, j), (inner_rows, inner_cols), (outer_rows, outer_cols)

    def centre(self, row: int, col: int) -> tuple[float, float]:
        """Return longitude and latitude of the middle of a block, degrees."""
        rows, cols = self.cells_of((row, col))
        # A lattice is not indexed by the integers of numpy.
        middle = self.lattice[int(rows.start + rows.stop) // 2, int(cols.start + cols.stop) // 2]
        longitude, latitude = lonlat(middle)
        return float(longitude[0, 0]), float(latitude[0, 0])


def _pieces(part: slice, block: int) -> list[tuple[int, slice, slice]]:
    """Cut a run of cells by the edges of blocks; return each block with its piece, from both corners."""
    found = []
    for k in range(part.start // block, -(-part.stop // block)):
        start, stop = max(part.start, k * block), min(part.stop, (k + 1) * block)
        found.append((k, slice(start - k * block, stop - k * block), slice(start - part.start, stop - part.start)))
    return found


def hide_blocks(group: Group, values: NDArray[Any], window: Window, valued: NDArray[np.bool_], missing: float) -> None:
    """Set cells of blocks that are not marked as valued to missing, in place.

    Parameters
    ----------
    group
        The group.
    values
        Values of `window` (y, x).
    window
        Cells of the group.
    valued
        For each block that the window touches, whether it holds a value by its mark.
    missing
        The value that means missing.
    """
    rows, cols = window
    top, left = (part.start for part in group.blocks(window))
    for i, j in np.add(np.argwhere(~valued), (top, left)):
        values[
            max(i * group.block - rows.start, 0) : (i + 1) * group.block - rows.start,
            max(j * group.block - cols.start, 0) : (j + 1) * group.block - cols.start,
        ] = missing


def day_index(day: date) -> int:
    """Return the position of a day on the time axis.

    Raises
    ------
    RequestError
        The day lies before or after the axis.
    """
    if not FIRST_DAY <= day <= LAST_DAY:
        raise RequestError(f"day {day} is off the stack's time axis, {FIRST_DAY} to {LAST_DAY}; choose a day within it")
    return (day - FIRST_DAY).days
