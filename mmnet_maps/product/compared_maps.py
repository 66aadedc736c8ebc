"""Finished maps compared with a climatology as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import RequestError
from mmnet_maps.product.climatology import Climatology, Samples
from mmnet_maps.product.drought import FEW_YEARS
from mmnet_maps.product.layers import DROUGHT, LAYERS
from mmnet_maps.product.quality import FLAG_MASKS, NO_VALUE
from mmnet_maps.product.reader import Maps

if TYPE_CHECKING:
    from mmnet_maps.grid.lattice import Window

_BLOCK = 1024  # pixels along a side of what is compared at once
_NO_VALUE = np.uint16(sum(FLAG_MASKS[name] for name in NO_VALUE))

Compared = tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_]]


class ComparedMaps(Maps):
    """Maps with the layers `layers.DROUGHT`, whether or not their files have them, and the quality flag of these.

    Every pixel of a window is compared, whatever the step: for overviews of large areas, map the layers.

    Parameters
    ----------
    maps
        Maps of soil moisture.
    climatology
        The climatology; it is kept as an attribute.

    Raises
    ------
    RequestError
        When the maps are of another model, kind or grid than those of the climatology.
    InputError
        When it has too few years for one of the days.
    """

    def __init__(self, maps: Maps, climatology: Climatology) -> None:
        super().__init__(part for day in maps.days for part in maps.parts(day))
        if "soil_moisture" not in self.layers:
            raise RequestError(f"{maps.title} holds {', '.join(maps.layers)}; expected maps of soil_moisture")
        climatology.refuse_others(maps.recipe(), maps.synthetic)
        climatology.place(self.grid)
        for day in self.days:
            climatology.require(day)
        self.layers = tuple(name for name in LAYERS if name in (*self.layers, *DROUGHT))
        self.climatology = climatology
        self._compared = lru_cache(maxsize=2)(self._compare)

    def read(self, layer: str, day: date, window: Window, *, step: int = 1) -> NDArray[Any]:
        """Read a window of a layer on a day, as `Maps.read` does; a cell of several pixels has the flag of any."""
        found: NDArray[Any]
        if layer in DROUGHT:
            found = np.full([-(-(side.stop - side.start) // step) for side in window], np.nan, np.float32)
            for into, compared in self._blocks(day, window, step, found):
                into[:] = _means(compared[0][layer], step)
            return found
        found = super().read(layer, day, window, step=step)
        if layer == "quality":
            flag = np.uint16(FLAG_MASKS["short_climatology"])
            found &= ~flag
            if self.climatology.minimum_years < FEW_YEARS:  # otherwise no pixel has a percentile from fewer
                for into, (_, short) in self._blocks(day, window, step, found):
                    valued = into & _NO_VALUE == 0
                    into |= (_any(short, step) & valued) * flag
        return found

    def _blocks(
        self, day: date, window: Window, step: int, found: NDArray[Any]
    ) -> Iterator[tuple[NDArray[Any], Compared]]:
        """Yield parts of an array of cells, views, and what is compared there."""
        rows, cols = window
        cells = max(_BLOCK // step, 1)
        for top in range(0, found.shape[0], cells):
            for left in range(0, found.shape[1], cells):
                into = found[top : top + cells, left : left + cells]
                first, start = rows.start + top * step, cols.start + left * step
                box = (first, first + into.shape[0] * step, start, start + into.shape[1] * step)
                yield into, self._compared(day, box)

    def _compare(self, day: date, box: tuple[int, int, int, int]) -> Compared:
        """Compare the pixels of a box: first row, end of rows, first column, end of columns."""
        top, bottom, left, right = box
        moisture = super().read("soil_moisture", day, (slice(top, bottom), slice(left, right)))
        rows, cols = self.climatology.place(self.grid)
        window = slice(rows.start + top, rows.start + bottom), slice(cols.start + left, cols.start + right)
        samples = Samples(self.climatology, window)
        return samples.compare(LAYERS["soil_moisture"].pack(moisture), day)


def _any(flags: NDArray[np.bool_], step: int) -> NDArray[np.bool_]:
    """Return whether any pixel of each cell has a flag."""
    cells = flags.reshape(flags.shape[0] // step, step, -1, step)
    return np.asarray(cells.any(axis=(1, 3)))


def _means(values: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Return the mean over the valid pixels of each cell."""
    if step == 1:
        return values
    cells = values.reshape(values.shape[0] // step, step, -1, step)
    known = np.isfinite(cells)
    count = known.sum((1, 3))
    total = np.where(known, cells, 0).sum((1, 3), dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
