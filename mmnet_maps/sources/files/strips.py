"""Rows of a block of the target grid, and the cells of a file that are read for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.lattice import Window, cover
from mmnet_maps.sources.files.alignment import empty, metres, reprojected
from mmnet_maps.variables import Variable


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Some rows of a block, whose values are those that the whole block has, bit by bit.

    GDAL approximates coordinates along each row of what it warps. So means on a row depend neither on other rows nor
    on cells far from it, which are not read, but on all columns of the block. Classes and interpolated values are
    computed on the whole block.

    Attributes
    ----------
    lattice, block, rows, variable
        The cells of the file, the block, its rows, and the variable.
    whole, cells
        Rows and columns of the cells below the block, and of those that are read.
    """

    lattice: GeoBox
    block: GeoBox
    rows: slice
    variable: Variable
    whole: Window
    cells: Window

    @classmethod
    def of(cls, lattice: GeoBox, block: GeoBox, rows: slice, variable: Variable, reach: int) -> Strip:
        """Locate rows on a lattice; values depend on `reach` cells around. InputError where they do not meet."""
        whole = cells = cover(block, lattice, pad=reach)
        if variable.aggregation != "mode" and metres(lattice) <= metres(block):
            near = cover(block[rows, :], lattice, pad=reach)
            below, beside = (
                slice(max(one.start - 1, every.start), min(one.stop + 1, every.stop))
                for one, every in zip(near, whole, strict=True)
            )
            cells = below, beside
        return cls(lattice=lattice, block=block, rows=rows, variable=variable, whole=whole, cells=cells)

    def reprojected(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values on the rows, (y, x), from those of the cells that are read."""
        below = self.lattice[self.whole]
        if self.cells == self.whole:
            return reprojected(values, below, self.block, self.variable)[self.rows]
        (top, left), (rows, cols) = (part.start for part in self.whole), self.cells
        every = empty(self.variable, below.shape.yx)
        every[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left] = values
        return reprojected(every, below, self.block[self.rows, :], self.variable)
