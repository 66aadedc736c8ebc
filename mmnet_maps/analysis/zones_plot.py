"""The picture of zonal statistics: the zones of some days in the colours of the maps."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.analysis.zone_io import Zones, moved
from mmnet_maps.plots.canvas import SOFTWARE, SYNTHETIC, UNIT, WIDTH, colour_bar, evenly, sheet, watermark, write_figure
from mmnet_maps.plots.colours import DROUGHT_COLOURS, DRY_WET, INK, NODATA, RULE, beyond, dry_to_wet, scale_range
from mmnet_maps.plots.maps import Box, local_projection, scale_bar
from mmnet_maps.product.drought import CLASSES
from mmnet_maps.product.layers import DROUGHT, LAYERS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

_HIGHEST = 6.2


def draw_zones(table: pd.DataFrame, zones: Zones, path: str | Path, *, layer: str, title: str, synthetic: bool) -> Path:
    """Draw the zones coloured by the mean of a layer, one panel per day, to a PNG, whole or not at all.

    The zones are shown in an equal-area projection about their centre, so that north is up there. Of more than six days
    the first, the last and four evenly between are drawn.

    Parameters
    ----------
    table, zones
        See `zones.zonal_statistics`.
    path
        The PNG.
    layer
        Name of the layer.
    title
        Title of the maps, for the line of sources.
    synthetic
        Whether to mark every panel as not an observation.

    Raises
    ------
    OutputError, RequestError
        See `canvas.write_figure`.
    """
    days = [stamp.date() for stamp in table["date"].drop_duplicates().dt.to_pydatetime()]
    shown = evenly(days)
    means = table["mean"].to_numpy().reshape(len(zones.ids), len(days))[:, [days.index(day) for day in shown]]
    paths, box = _outlines(zones)
    mappable, unit, extend = _colours(layer, means)

    subset = f", {len(shown)} of {len(days)} days" if len(shown) < len(days) else ""
    source = (
        f"Mean of {LAYERS[layer].long_name}, of each zone; grey: no value. {len(zones.ids)} zones: {zones.name}. "
        f"Maps: {title}. {SOFTWARE}.{SYNTHETIC if synthetic else ''}"
    )
    rows, columns, size = _lay_out(len(shown), (box[2] - box[0]) / (box[3] - box[1]))
    figure = sheet(rows * (size[1] + 0.3), f"Soil moisture of {zones.name}{subset}", source)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for axes, day, values in zip(panels, shown, means.T, strict=False):
        _panel(axes, day, paths, mappable.to_rgba(np.ma.masked_invalid(values)), box)
        if synthetic:
            watermark(axes, *size, largest=20.0)
    scale_bar(panels[(rows - 1) * columns], box[2] - box[0])
    colour_bar(figure, mappable, unit, extend=extend)
    return write_figure(figure, Path(path))


def _colours(layer: str, means: NDArray[Any]) -> tuple[ScalarMappable, str, str]:
    """Return the colours of a layer, its unit, and the ends at which values lie beyond the colours."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap, Normalize

    if layer == "soil_moisture_percentile":
        colours = ListedColormap([*(DROUGHT_COLOURS[name] for name in reversed(CLASSES)), "#dcebd5"])
        norm = BoundaryNorm([0.0, *sorted(CLASSES.values()), 100.0], colours.N)
        return ScalarMappable(norm, colours.with_extremes(bad=NODATA)), "percentile", "neither"
    if layer in DROUGHT:
        most = float(np.nanmax(np.abs(means), initial=0.01))
        diverging = LinearSegmentedColormap.from_list("dry_wet", DRY_WET).with_extremes(bad=NODATA)
        return ScalarMappable(Normalize(-most, most), diverging), UNIT if layer == DROUGHT[0] else "", "neither"
    limits = scale_range([means])
    mappable = ScalarMappable(Normalize(*limits), dry_to_wet().with_extremes(bad=NODATA))
    return mappable, UNIT, beyond([means], limits)


def _outlines(zones: Zones) -> tuple[list[Any], Box]:
    """Return the zones as paths in a projection about their centre, and the box around them, in metres."""
    import shapely
    from matplotlib.path import Path as Curve

    lonlat = zones.to_crs("OGC:CRS84")
    shapes = moved(lonlat, "OGC:CRS84", local_projection(shapely.total_bounds(lonlat).tolist()))
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
    """Return the outer ring and those of the holes, turned the other way, so that they stay holes when filled."""
    import shapely

    turned = shapely.normalize(polygon)
    return [turned.exterior, *turned.interiors]


def _lay_out(count: int, aspect: float) -> tuple[int, int, tuple[float, float]]:
    """Return rows and columns of panels of an aspect (width / height), and the size of one in inches."""
    columns = min(count, 3 if aspect <= 1.8 else 2 if aspect <= 4 else 1)
    high = min((WIDTH - 1.0) / columns / aspect, _HIGHEST)
    return math.ceil(count / columns), columns, (high * aspect, high)


def _panel(axes: Axes, day: date, paths: list[Any], colours: NDArray[Any], box: Box) -> None:
    from matplotlib.collections import PathCollection

    axes.add_collection(
        PathCollection(paths, facecolors=colours, edgecolors=INK, linewidths=0.4 if len(paths) < 500 else 0.1)
    )
    axes.set(xlim=(box[0], box[2]), ylim=(box[1], box[3]), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set(linewidth=0.5, color=RULE)
    axes.set_title(f"{day.day} {day:%B %Y}", loc="left", fontsize=9, weight="bold", color=INK, pad=4)
