"""The map in the viewer as PNG, with its colours, units, day and source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.plots.canvas import SOFTWARE, watermark
from mmnet_maps.plots.canvas import png as rendered
from mmnet_maps.plots.colours import INK, NODATA, PALE
from mmnet_maps.plots.maps import Box

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mmnet_maps.analysis.viewer.scale import Scale

_DPI, _HEIGHT = 150, 7.5


@dataclass(frozen=True, kw_only=True)
class ShownMap:
    """A map as the viewer shows it.

    Attributes
    ----------
    values
        (y, x), NaN where missing; positions in the scale of classes.
    box
        In the units of the map's CRS.
    scale, limits
        Colours, and the values at the two ends of a scale of numbers.
    outline
        Rings of x and y that are drawn over it.
    """

    values: NDArray[Any]
    box: Box
    scale: Scale
    limits: tuple[float, float]
    outline: Sequence[tuple[NDArray[Any], NDArray[Any]]]


def png(shown: ShownMap, title: str, *, synthetic: bool) -> bytes:
    """Return a map with its title and legend as PNG, marked as not an observation if its inputs are synthetic."""
    from matplotlib.figure import Figure

    left, bottom, right, top = shown.box
    width = min(max(_HEIGHT * (right - left) / (top - bottom), 4.0), 16.0)
    figure = Figure(figsize=(width + 1.6, _HEIGHT + 1.2), dpi=_DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    _draw(axes, shown)
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", parse_math=False)
    axes.set_xlabel(SOFTWARE, loc="left", fontsize=7, color=PALE)
    if synthetic:
        watermark(axes, min(width, _HEIGHT * (right - left) / (top - bottom)), _HEIGHT, largest=22.0)
    return rendered(figure)


def _draw(axes: Axes, shown: ShownMap) -> None:
    """Draw the values, the outline, and the colour bar or the legend of classes."""
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap
    from matplotlib.patches import Patch

    left, bottom, right, top = shown.box
    scale = shown.scale
    colours = list(scale.colours)
    classes = scale.classes is not None
    colormap = ListedColormap(colours) if classes else LinearSegmentedColormap.from_list("mmnet", colours)
    low, high = scale.mapper_limits(*shown.limits)
    image = axes.imshow(
        np.ma.masked_invalid(shown.values), extent=(left, right, bottom, top),
        cmap=colormap.with_extremes(bad=NODATA), vmin=low, vmax=high, interpolation="nearest",
    )  # fmt: skip
    for x, y in shown.outline:
        axes.plot(x, y, color=INK, linewidth=0.8)
    if classes:
        patches = [Patch(facecolor=colour, label=name) for colour, name in zip(colours, scale.names, strict=True)]
        axes.figure.legend(handles=patches, loc="outside lower left", fontsize=8, frameon=False, ncols=2)
    else:
        axes.figure.colorbar(image, ax=axes, label=scale.label, shrink=0.8, extend="both")
