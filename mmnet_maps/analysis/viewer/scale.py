"""Colour scales of the viewer: how values become colours, and the legend that explains them."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import date
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.plots.canvas import nice_length
from mmnet_maps.plots.colours import COLOURS, DROUGHT_COLOURS, DRY_WET, LAND_COVER
from mmnet_maps.product.drought import CLASSES
from mmnet_maps.product.layers import DROUGHT, LAYERS
from mmnet_maps.product.qgis import quality_colour, quality_label
from mmnet_maps.product.quality import FLAG_MASKS
from mmnet_maps.variables import LANDCOVER_CLASSES

if TYPE_CHECKING:
    from mmnet_maps.analysis.viewer.data import ViewLayer

CLEAR = "rgba(0, 0, 0, 0)"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The colours of a layer: a ramp between two limits, or one colour for each class.

    Attributes
    ----------
    colours
        From low to high, or one for each class.
    label
        Name of the values, with units.
    classes, names
        Values of the classes, ascending, and their names; None and empty for numbers.
    edges
        Highest numbers of all classes but the last, where numbers are shown as classes.
    """

    colours: tuple[str, ...]
    label: str
    classes: tuple[int, ...] | None = None
    names: tuple[str, ...] = ()
    edges: tuple[float, ...] | None = None

    @property
    def palette(self) -> list[str]:
        """Colours for bokeh's colour mapper."""
        if self.classes is None:
            return _ramp(self.colours)
        return list(self.colours) or [CLEAR]

    def mapper_limits(self, low: float, high: float) -> tuple[float, float]:
        """Return the limits of bokeh's colour mapper: those of numbers, or around the positions of the classes."""
        return (low, high) if self.classes is None else (-0.5, len(self.palette) - 0.5)

    def encode(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return numbers as they are, classes as their positions in the scale; NaN for other classes."""
        if self.classes is None:
            return values.astype(np.float32, copy=False)
        if self.edges is not None:
            return np.where(np.isnan(values), np.nan, np.searchsorted(self.edges, values)).astype(np.float32)
        if not self.classes:
            return np.full(values.shape, np.nan, np.float32)
        classes = np.array(self.classes)
        position = np.searchsorted(classes, values).clip(0, len(classes) - 1)
        return np.where(classes[position] == values, position, np.nan).astype(np.float32)

    def legend(self, low: float, high: float) -> str:
        """Return HTML: a colour bar with round numbers under it, or a box of colour and a name for each class."""
        return _colour_bar(self, low, high) if self.classes is None else _class_boxes(self)


MOISTURE = Scale(colours=COLOURS, label="m³/m³")


def layer_scale(layer: ViewLayer, found: Set[int] = frozenset()) -> Scale:
    """Return the scale of a layer.

    Parameters
    ----------
    layer
        The layer.
    found
        The classes to be shown, if it is categorical.
    """
    if layer.name == "landcover":
        cover = {code: name for name, codes in LANDCOVER_CLASSES.items() for code in codes}
        codes = sorted(found - {0})
        return Scale(
            colours=tuple(LAND_COVER[cover.get(code, "water, ice")] for code in codes),
            label=layer.title,
            classes=tuple(codes),
            names=tuple(f"{cover.get(code, 'other')} (NLCD {code})" for code in codes),
        )
    if layer.categorical:
        values = sorted(found - {FLAG_MASKS["outside_area"]})
        return Scale(
            colours=tuple(quality_colour(value)[0] for value in values),
            label=layer.title,
            classes=tuple(values),
            names=tuple(flag_names(value) for value in values),
        )
    if layer.name == "soil_moisture_percentile":
        return _drought_scale(layer)
    colours = DRY_WET if layer.name in DROUGHT else COLOURS
    return Scale(colours=colours, label=f"{layer.title}{f' ({layer.units})' if layer.units else ''}")


def _drought_scale(layer: ViewLayer) -> Scale:
    """Return the scale of percentiles: drought classes from the driest, in the colours of the U.S. Drought Monitor."""
    names = [*reversed(CLASSES)]
    return Scale(
        colours=(*(DROUGHT_COLOURS[name] for name in names), quality_colour(0)[0]),
        label=layer.title,
        classes=tuple(range(len(names) + 1)),
        names=(*(f"{name}: {CLASSES[name]:g} % and below" for name in names), "no drought"),
        edges=tuple(CLASSES[name] + LAYERS[layer.name].scale / 2 for name in names),
    )


def difference_scale(day: date, reference: date) -> Scale:
    """Return the scale of the change in soil moisture from a reference day to a day."""
    return Scale(colours=DRY_WET, label=f"Change from {reference} to {day} (m³/m³)")


def flag_names(quality: int) -> str:
    """Return the names of the flags that are set in a value of the quality layer."""
    return quality_label(quality).partition(": ")[2]


def _ramp(colours: Sequence[str]) -> list[str]:
    """Interpolate colours evenly to 256."""
    stops = np.array([list(bytes.fromhex(colour.removeprefix("#"))) for colour in colours], float)
    places = np.linspace(0, len(stops) - 1, 256)
    bands = [np.interp(places, np.arange(len(stops)), stops[:, band]).round().astype(int) for band in range(3)]
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in zip(*bands, strict=True)]


def _colour_bar(scale: Scale, low: float, high: float) -> str:
    step = nice_length((high - low) / 3)
    ticks = "".join(
        f"<span style='position:absolute;left:{100 * (tick - low) / (high - low):.2f}%;transform:translateX(-50%)'>"
        f"{tick:.10g}</span>"
        for tick in (number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1))
    )
    return (
        f"<div style='max-width:520px;margin:0 12px'>{escape(scale.label)}"
        "<div style='height:14px;border:1px solid #999;"
        f"background:linear-gradient(to right,{','.join(scale.colours)})'></div>"
        f"<div style='position:relative;height:16px;font-size:12px'>{ticks}</div></div>"
    )


def _class_boxes(scale: Scale) -> str:
    box = "display:inline-block;width:14px;height:14px;border:1px solid #999;vertical-align:-2px;margin-right:5px"
    return "".join(
        f"<span style='display:inline-block;margin:0 14px 2px 0'><span style='{box};background:{colour}'></span>"
        f"{escape(name)}</span>"
        for colour, name in dict.fromkeys(zip(scale.colours, scale.names, strict=True))
    )
