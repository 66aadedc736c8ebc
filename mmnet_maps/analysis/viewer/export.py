"""A PNG of what the viewer shows: the map with its colours, units, day and source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps import __version__
from mmnet_maps.plots.canvas import png as rendered
from mmnet_maps.plots.canvas import watermark
from mmnet_maps.plots.colours import INK, NODATA, PALE


def png(
    values: NDArray[Any],
    *,
    box: tuple[float, float, float, float],
    colours: Sequence[str],
    limits: tuple[float, float],
    title: str,
    label: str,
    names: Sequence[str] | None,
    outline: Sequence[tuple[NDArray[Any], NDArray[Any]]],
    synthetic: bool,
) -> bytes:
    """Draw one map.

    Parameters
    ----------
    values
        (y, x), NaN where there is none; numbers of classes where `names` are given.
    box
        left, bottom, right, top in the units of the map's CRS.
    colours, limits
        From low to high, and the values of the two ends.
    title, label
        Above the map, and beside the colour bar.
    names
        What the classes are called, one for each colour.
    outline
        Rings of x and y that are drawn over it.
    synthetic
        Whether to mark it as not an observation.
    """
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    left, bottom, right, top = box
    height = 7.5
    width = min(max(height * (right - left) / (top - bottom), 4.0), 16.0)
    sheet = Figure(figsize=(width + 1.6, height + 1.2), dpi=150, facecolor="white", layout="constrained")
    axes = sheet.add_subplot()
    colormap = (
        ListedColormap(list(colours))
        if names is not None
        else LinearSegmentedColormap.from_list("mmnet", list(colours))
    )
    low, high = (-0.5, len(colours) - 0.5) if names is not None else limits
    image = axes.imshow(
        np.ma.masked_invalid(values),
        extent=(left, right, bottom, top),
        cmap=colormap.with_extremes(bad=NODATA),
        vmin=low,
        vmax=high,
        interpolation="nearest",
    )
    for x, y in outline:
        axes.plot(x, y, color=INK, linewidth=0.8)
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", parse_math=False)
    axes.set_xlabel(f"mmnet_maps {__version__}", loc="left", fontsize=7, color=PALE)
    if names is None:
        sheet.colorbar(image, ax=axes, label=label, shrink=0.8, extend="both")
    else:
        patches = [Patch(facecolor=colour, label=name) for colour, name in zip(colours, names, strict=True)]
        sheet.legend(handles=patches, loc="outside lower left", fontsize=8, frameon=False, ncols=2)
    if synthetic:
        watermark(axes, width, height, largest=22.0)
    return rendered(sheet)
