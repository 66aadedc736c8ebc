"""Read what a visitor has selected: layer, day, hidden flags; and find limits and colours for it."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.analysis.viewer.data import ViewLayer
from mmnet_maps.analysis.viewer.scale import Scale, difference_scale, layer_scale
from mmnet_maps.plots.colours import scale_range
from mmnet_maps.product.layers import DROUGHT
from mmnet_maps.product.quality import FLAG_MASKS

if TYPE_CHECKING:
    from mmnet_maps.analysis.viewer.data import Viewable

SIDE, SWIPE, ALONE = "Side by side", "Swipe", "One map"
DIFFERENCE = "difference"
_DIFFERENCE_LAYER = ViewLayer(name=DIFFERENCE, title="Difference of soil moisture", units="m³/m³")
_CACHED = 12  # arrays of layers, each up to some MB
_OVERVIEW = 400  # pixels along the longer side of what limits and classes are found from


class PixelWindow(NamedTuple):
    """A window of a view's grid, read in steps of several pixels."""

    top: int
    bottom: int
    left: int
    right: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A visitor's selection.

    Attributes
    ----------
    layer
        Name of a layer, or `DIFFERENCE`.
    day, reference
        The day, and the day that is subtracted from it in a difference.
    hidden
        Names of quality flags whose pixels are hidden.
    arrangement
        `SIDE`, `SWIPE` or `ALONE`.
    """

    layer: str
    day: date
    reference: date
    hidden: tuple[str, ...]
    arrangement: str

    @property
    def days(self) -> tuple[date, ...]:
        """The days that are read."""
        return (self.day, self.reference) if self.layer == DIFFERENCE else (self.day,)

    @property
    def day_text(self) -> str:
        """The day, or the two days of a difference."""
        return " less ".join(map(str, self.days))


class LayerReader:
    """Values of a view as they are drawn, with a cache of what was read last.

    Parameters
    ----------
    view
        Maps or a stack.

    Attributes
    ----------
    layers
        The layers by name.
    has_smap
        Whether there is SMAP to compare soil moisture with.
    """

    def __init__(self, view: Viewable) -> None:
        self.view = view
        self.layers = {layer.name: layer for layer in view.layers}
        self.has_smap = "soil_moisture" in self.layers and "smap" in self.layers
        self.read = lru_cache(maxsize=_CACHED)(self._read)
        self.limits = lru_cache(maxsize=None)(self._limits)

    def _read(self, layer: str, day: date, window: PixelWindow) -> NDArray[Any]:
        rows, cols = slice(window.top, window.bottom), slice(window.left, window.right)
        return self.view.read(layer, day, (rows, cols), step=window.step)

    def layer(self, name: str) -> ViewLayer:
        """Return a layer, or the difference of two days, by its name."""
        return _DIFFERENCE_LAYER if name == DIFFERENCE else self.layers[name]

    def values(self, selection: Selection, window: PixelWindow) -> NDArray[Any]:
        """Return the selected values (y, x), NaN where their flags hide them; classes are never hidden."""
        name = "soil_moisture" if selection.layer == DIFFERENCE else selection.layer
        values: NDArray[Any] = self.read(name, selection.day, window)
        if selection.layer == DIFFERENCE:
            values = values - self.read(name, selection.reference, window)
        if selection.hidden and not self.layer(selection.layer).categorical:
            bits = sum(FLAG_MASKS[flag] for flag in selection.hidden)
            for day in selection.days:
                values = np.where(self.read("quality", day, window) & bits, np.float32(np.nan), values)
        return values

    def scale(self, selection: Selection, also: Set[int] = frozenset()) -> Scale:
        """Return the colour scale of a selection; its classes are those of the overview, and `also`."""
        if selection.layer == DIFFERENCE:
            return difference_scale(selection.day, selection.reference)
        layer = self.layers[selection.layer]
        if not layer.categorical:
            return layer_scale(layer)
        overview = self.read(layer.name, selection.day, self._overview())
        return layer_scale(layer, {int(value) for value in np.unique(overview)} | also)

    def _overview(self) -> PixelWindow:
        height, width = self.view.grid.shape
        step = 2 ** max(math.ceil(math.log2(max(height, width) / _OVERVIEW)), 0)
        return PixelWindow(0, -(-height // step) * step, 0, -(-width // step) * step, step)

    def _limits(self, name: str) -> tuple[float, float]:
        """Return limits for the colours of all days: of the middle 96 % of values on two of them."""
        days = dict.fromkeys((self.view.days[0], self.view.opening))
        if name == DIFFERENCE:
            first, last = (self._read("soil_moisture", day, self._overview()) for day in days)
            change = np.abs(last - first)
            most = float(np.nanpercentile(change, 98)) if np.isfinite(change).any() else 0.0
            most = max(math.ceil(most * 50) / 50, 0.02)
            return -most, most
        if self.layers[name].categorical:
            return 0.0, 1.0
        names = ("soil_moisture", "smap") if self.has_smap and name == "soil_moisture" else (name,)
        values = [self._read(one, day, self._overview()) for day in days for one in names]
        if self.layers[name].moisture:
            return scale_range(values)
        valid = np.concatenate([part[np.isfinite(part)] for part in values])
        if not valid.size:
            return 0.0, 1.0
        low, high = (float(part) for part in np.percentile(valid, (2, 98)))
        if name in DROUGHT:  # about zero
            low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
        return (low, high) if high > low else (low, low + max(abs(low), 1.0) / 10)
