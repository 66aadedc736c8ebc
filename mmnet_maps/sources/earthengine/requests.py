"""Requests for pixels: planned within the limits of Earth Engine, and split where one is too large."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from math import ceil

import numpy as np
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.lattice import Window
from mmnet_maps.sources.base import Cost
from mmnet_maps.sources.earthengine.client import REQUEST_BYTES
from mmnet_maps.sources.earthengine.config import SMALLEST_SIDE, Selection
from mmnet_maps.sources.earthengine.price import eecu_hours

_BANDS = 1024
"""Bands of one request."""

_IMAGES = 1024
"""Images of one request: each is opened, whatever the size of the window."""


@dataclass(frozen=True, kw_only=True)
class PixelRequest:
    """One request: a selection on some days, in a window of a grid.

    Attributes
    ----------
    selection, days
        The variables, and the days of each.
    grid
        The whole grid that is read.
    window
        Rows and columns of the grid that this request holds.
    """

    selection: Selection
    days: tuple[date, ...]
    grid: GeoBox
    window: Window

    @property
    def geobox(self) -> GeoBox:
        """The grid of the request."""
        return self.grid[self.window]

    @property
    def bands(self) -> dict[str, str]:
        """Its bands, in order, and the type of each."""
        return self.selection.band_types(self.days)

    @property
    def label(self) -> str:
        """The product and the first day, for messages."""
        return f"{self.selection.label}, {self.days[0]}"

    @property
    def smallest(self) -> bool:
        """True where it is not split any further."""
        return len(self.days) == 1 and max(self.geobox.shape) <= SMALLEST_SIDE

    def split(self) -> Iterator[PixelRequest]:
        """Split it: several days in halves, a single day in quarters."""
        if len(self.days) > 1:
            middle = len(self.days) // 2
            for days in (self.days[:middle], self.days[middle:]):
                yield replace(self, days=days)
            return
        for part in _windows(self.window, ceil(max(self.geobox.shape) / 2)):
            yield replace(self, window=part)

    def cost(self) -> Cost:
        """Return its cost."""
        values = self.geobox.shape.x * self.geobox.shape.y * len(self.bands)
        received = _header_bytes(self.bands) + values * self.selection.dtype.itemsize
        hours = eecu_hours(self.selection, self.geobox, values)
        return Cost(requests=1, bytes=received, values=values, eecu_hours=hours)


def planned(selection: Selection, geobox: GeoBox, days: tuple[date, ...], side: int) -> Iterator[PixelRequest]:
    """Plan the requests for a selection on some days in a window.

    Parameters
    ----------
    selection
        The variables.
    geobox
        The window, without the selection's margin.
    days
        The days, none of which is known to be empty.
    side
        Largest side, in pixels, of a request for a fine product.

    Yields
    ------
    PixelRequest
        Fine products: at most `side` pixels a side, and several days only where the window is small, because area means
        cost Earth Engine time. Coarse products: the whole window, as many days as fit in `client.REQUEST_BYTES`.
    """
    if not days:
        return
    grid, names = selection.grid(geobox), len(selection.variables)
    most = REQUEST_BYTES // (names * (selection.dtype.itemsize + 1))  # a byte of mask for each value
    budget = side**2 if selection.fine else most
    side = (side if selection.fine else max(grid.shape)) + 2 * selection.margin
    while side > SMALLEST_SIDE and side**2 > most:
        side = ceil(side / 2)
    pixels = min(side, grid.shape.x) * min(side, grid.shape.y)
    fields = selection.product.fields
    images = 1 if fields == 1 else 2 * fields  # a day needs `fields` and may have twice as many
    at_once = max(1, min(_BANDS // names, _IMAGES // images, budget // pixels))
    for start in range(0, len(days), at_once):
        for window in _windows((slice(0, grid.shape.y), slice(0, grid.shape.x)), side):
            yield PixelRequest(selection=selection, days=days[start : start + at_once], grid=grid, window=window)


def _windows(whole: Window, side: int) -> Iterator[Window]:
    """Split a window into windows of at most `side` pixels a side."""
    rows, cols = whole
    for top in range(rows.start, rows.stop, side):
        for left in range(cols.start, cols.stop, side):
            yield slice(top, min(top + side, rows.stop)), slice(left, min(left + side, cols.stop))


def _header_bytes(bands: Mapping[str, str]) -> int:
    """Return the size of an answer's NumPy header."""
    answer = io.BytesIO()
    np.save(answer, np.empty(0, list(bands.items())))
    return answer.getbuffer().nbytes
