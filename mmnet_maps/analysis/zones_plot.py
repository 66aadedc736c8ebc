"""The picture of zonal statistics: the zones of some days in the colours of the maps."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps import __version__
from mmnet_maps.analysis.zone_io import Zones, moved
from mmnet_maps.plots.canvas import (
    SYNTHETIC,
    UNIT,
    WIDTH,
    colour_bar,
    evenly,
    nice_length,
    sheet,
    watermark,
    write_figure,
)
from mmnet_maps.plots.colours import INK, PALE, RULE, beyond, dry_to_wet, scale_range
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.picture import Box

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_HIGHEST = 6.5


def draw_zones(table: pd.DataFrame, zones: Zones, path: str | Path, *, layer: str, title: str, synthetic: bool) -> Path:
    """Draw the zones coloured by the mean of a layer, a panel a day; the PNG appears whole or not at all.

    The zones are shown in an equal-area projection about their centre, so that north is up there. Of more than six days
    the first, the last and four evenly between are drawn.

    Parameters
    ----------
    table, zones
        As `zones.zonal_statistics` gives them.
    path
        The PNG.
    layer
        What the statistics are of.
    title
        What the maps are of.
    synthetic
        Whether to mark every panel as not an observation.

    Raises
    ------
    OutputError, RequestError
        The picture cannot be written, or is not to be a PNG.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    days = [stamp.date() for stamp in table["date"].drop_duplicates().dt.to_pydatetime()]
    shown = evenly(days)
    means = table["mean"].to_numpy().reshape(len(zones.ids), len(days))[:, [days.index(day) for day in shown]]
    paths, box = _outlines(zones)
    limits = scale_range([means])
    mappable = ScalarMappable(Normalize(*limits), dry_to_wet())

    subset = f", {len(shown)} of {len(days)} days" if len(shown) < len(days) else ""
    source = (
        f"Mean of {LAYERS[layer].long_name}, of each zone; grey: no value. {len(zones.ids)} zones: {zones.name}. "
        f"Maps: {title}. mmnet_maps {__version__}.{SYNTHETIC * synthetic}"
    )
    rows, columns, height = _lay_out(len(shown), (box[2] - box[0]) / (box[3] - box[1]))
    figure = sheet(height, f"Soil moisture of {zones.name}{subset}", source)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    across = min((WIDTH - 1.0) / columns, (height / rows - 0.3) * (box[2] - box[0]) / (box[3] - box[1]))
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for axes, day, values in zip(panels, shown, means.T, strict=False):
        _panel(axes, day, paths, mappable.to_rgba(np.ma.masked_invalid(values)), box)
        if synthetic:
            watermark(axes, across, across * (box[3] - box[1]) / (box[2] - box[0]), largest=20.0)
    _scale_bar(panels[(rows - 1) * columns], box)
    colour_bar(figure, mappable, UNIT, extend=beyond([means], limits))
    return write_figure(figure, Path(path))


def _outlines(zones: Zones) -> tuple[list[Any], Box]:
    """The zones as paths in a projection about their centre, m; left, bottom, right, top around them."""
    import shapely
    from matplotlib.path import Path as Curve

    lonlat = zones.to_crs("OGC:CRS84")
    west, south, east, north = shapely.total_bounds(lonlat)
    local = f"+proj=laea +lat_0={(south + north) / 2:.6f} +lon_0={(west + east) / 2:.6f} +datum=WGS84 +units=m"
    shapes = moved(lonlat, "OGC:CRS84", local)
    paths = []
    for shape in shapes:
        rings = [
            Curve(np.asarray(ring.coords), closed=True) for part in shapely.get_parts(shape) for ring in _rings(part)
        ]
        paths.append(Curve.make_compound_path(*rings))
    left, bottom, right, top = shapely.total_bounds(shapes).tolist()
    pad = 0.02 * max(right - left, top - bottom)
    return paths, (left - pad, bottom - pad, right + pad, top + pad)


def _rings(polygon: Any) -> list[Any]:
    """The outer ring and those of the holes, turned the other way, so that they stay holes when filled."""
    import shapely

    turned = shapely.normalize(polygon)
    return [turned.exterior, *turned.interiors]


def _lay_out(count: int, aspect: float) -> tuple[int, int, float]:
    """Rows and columns of panels of an aspect (width / height), and their height altogether in inches."""
    columns = min(count, 3 if aspect <= 1.8 else 2 if aspect <= 4 else 1)
    rows = math.ceil(count / columns)
    return rows, columns, rows * min((WIDTH - 1.0) / columns / aspect + 0.3, _HIGHEST)


def _panel(axes: Axes, day: date, paths: list[Any], colours: NDArray[Any], box: Box) -> None:
    from matplotlib.collections import PathCollection

    axes.add_collection(
        PathCollection(paths, facecolors=colours, edgecolors=INK, linewidths=0.4 if len(paths) < 500 else 0.1)
    )
    axes.set(xlim=(box[0], box[2]), ylim=(box[1], box[3]), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set(linewidth=0.5, color=RULE)
    axes.set_title(f"{day.day} {day:%B %Y}", loc="left", fontsize=9, weight="bold", color=INK, pad=4)


def _scale_bar(axes: Axes, box: Box) -> None:
    """A bar of a round length under a panel."""
    from matplotlib.transforms import ScaledTranslation

    length = nice_length((box[2] - box[0]) * 0.35)
    share = length / (box[2] - box[0])
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    below = axes.transAxes + ScaledTranslation(0, -9 / 72, axes.figure.dpi_scale_trans)
    axes.plot([0, share], [0, 0], transform=below, color=INK, linewidth=2, clip_on=False, solid_capstyle="butt")
    axes.annotate(
        label, (share, 0), (5, -9), xycoords="axes fraction", textcoords="offset points", va="center", fontsize=7.5,
        color=PALE,
    )  # fmt: skip
