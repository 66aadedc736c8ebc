"""The cells of coarse lattices that pixels lie in, and the distinct combinations of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.lattice import Window, fractional_cells, nearest_cells
from mmnet_maps.stack.availability import Picked
from mmnet_maps.stack.blocks import Group

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Pixels to read: all of a grid, or picked ones as a row."""

    grid: GeoBox
    picked: Picked | None

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of every field that is read."""
        return (self.grid.shape.y, self.grid.shape.x) if self.picked is None else (1, self.picked[0].size)

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values of these pixels, given those of the whole grid."""
        return values if self.picked is None else values[self.picked][None]

    def cells(self, lattice: GeoBox) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the row and column of the cell that each pixel lies in; −1 off the lattice."""
        rows, cols = nearest_cells(self.grid, lattice)
        return self.of(rows), self.of(cols)

    def positions(self, lattice: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the position of each pixel in cells of a lattice."""
        rows, cols = fractional_cells(self.grid, lattice)
        return self.of(rows), self.of(cols)


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Cells of a lattice that pixels lie in.

    Attributes
    ----------
    group, window
        A group of the stack, and the window of its lattice in which cells are counted along the rows.
    of_pixels
        The cell of each pixel (y, x), int32; −1 off the lattice.
    used
        The distinct cells of wanted pixels, ascending.
    rows
        The position in `used` of each pixel's cell (y, x), int32; −1 off the lattice and where not wanted.
    """

    group: Group
    window: Window
    of_pixels: NDArray[np.int32]
    used: NDArray[np.intp]
    rows: NDArray[np.int32]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the window."""
        height, width = (part.stop - part.start for part in self.window)
        return height, width

    def around(self, distance: int) -> NDArray[np.intp]:
        """Return the cells of the window at most so many rows and columns from those used, ascending."""
        near = np.zeros(self.shape, bool)
        near.ravel()[self.used] = True
        for plane in (near, near.T):
            alone = plane.copy()
            for k in range(1, distance + 1):
                plane[k:] |= alone[:-k]
                plane[:-k] |= alone[k:]
        return np.flatnonzero(near)

    def on_lattice(self, cells: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return cells of the window as cells of the whole lattice, counted along its rows."""
        row, col = np.divmod(cells, self.shape[1])
        found: NDArray[np.intp] = (row + self.window[0].start) * self.group.lattice.shape.x + col + self.window[1].start
        return found


def cells_below(pixels: Pixels, group: Group, window: Window, wanted: Mask | None) -> Cells:
    """Return the cells of a group's lattice that pixels lie in, which lie in `window`; `wanted` is by default all."""
    rows, cols = pixels.cells(group.lattice)
    width = window[1].stop - window[1].start
    of_pixels = rows * np.int32(width)
    of_pixels += cols
    of_pixels -= np.int32(window[0].start * width + window[1].start)
    if rows.min() < 0:
        of_pixels[rows < 0] = -1
    found, (used,) = _distinct([of_pixels], wanted)
    return Cells(group=group, window=window, of_pixels=of_pixels, used=used, rows=found)


def combinations(
    groups: Sequence[Sequence[Cells]],
) -> tuple[NDArray[np.int32], list[list[NDArray[np.intp]]]]:
    """Enumerate the distinct combinations of cells that pixels lie in, for each group of lattices.

    Returns
    -------
    rows : ndarray (group, y, x)
        The combination of each pixel, int32; −1 in all groups where the pixel is not wanted or off any lattice.
    places
        For each group and each of its lattices, the position in `Cells.used` of the cell of every combination.
    """
    every = {id(cells): cells for group in groups for cells in group}
    first, *others = (cells.rows < 0 for cells in every.values())
    alike = all(np.array_equal(first, off) for off in others)
    on = None if alike else ~np.any([first, *others], axis=0)
    rows, places = [], []
    for group in groups:
        if alike and len(group) == 1:
            rows.append(group[0].rows)
            places.append([np.arange(group[0].used.size)])
        else:
            found, of_group = _distinct([cells.rows for cells in group], on)
            rows.append(found)
            places.append(of_group)
    return np.stack(rows), places


def _distinct(
    keys: Sequence[NDArray[np.int32]], wanted: Mask | None
) -> tuple[NDArray[np.int32], list[NDArray[np.intp]]]:
    """Return numbers of the distinct combinations of keys (y, x), in ascending order.

    Returns
    -------
    numbers
        That of each pixel, int32; −1 where a key is negative or the pixel is not wanted.
    found
        For each key its value in every combination.
    """
    # Neighbours share cells, so there are far fewer runs of one combination than pixels.
    size = keys[0].size
    starts = np.zeros(size, bool)
    starts[:1] = True
    for flat in (part.ravel() for part in (*keys, wanted) if part is not None):
        starts[1:] |= flat[1:] != flat[:-1]
    runs = np.flatnonzero(starts)
    of_runs = [key.ravel()[runs] for key in keys]
    known = np.min(of_runs, axis=0) >= 0
    if wanted is not None:
        known &= wanted.ravel()[runs]
    sizes = [int(part.max(initial=0)) + 1 for part in of_runs]
    combined = np.ravel_multi_index([part[known] for part in of_runs], sizes)
    if len(keys) == 1:
        held = np.zeros(sizes[0], bool)
        held[combined] = True
        distinct, number = np.flatnonzero(held), (np.cumsum(held, dtype=np.int32) - 1)[combined]
    else:
        distinct, number = np.unique(combined, return_inverse=True)
    numbers = np.full(runs.size, -1, np.int32)
    numbers[known] = number
    lengths = np.diff(runs, append=size)
    return np.repeat(numbers, lengths).reshape(keys[0].shape), [*np.unravel_index(distinct, sizes)]
