"""Figures of metrics per station, after Xu et al. (2025): maps, and box plots by network and by class of station."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.plots.canvas import (
    WIDTH,
    Floats,
    colour_bar,
    head,
    label_outer,
    legend,
    metric_label,
    metric_number,
    patch_legend,
    plain,
    sheet,
)
from mmnet_maps.plots.colours import INK, RULE, beyond, network_colours
from mmnet_maps.plots.maps import label_degrees

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

FEWEST_FOR_BOX = 8
"""Fewer stations than this are drawn individually, not as a box."""

_COUNTED = 3  # boxes whose numbers of stations fit below them
_LAND = "#f1f0ec"
_VIEW = (-125.5, 24.3, -66.2, 49.9)
# The 48 states to a tenth of a degree: Natural Earth, 1:110m (public domain), thinned.
_OUTLINE = """
-122.8,49 -95.2,49 -95.2,49.4 -94.8,49.4 -94.6,48.8 -94.3,48.7 -91.6,48.1 -90.8,48.3 -89.3,48 -88.4,48.3 -84.9,46.9
-84.6,46.4 -84.1,46.5 -83.9,46.1 -83.5,46 -83.6,45.8 -82.6,45.3 -82.1,43.6 -83.1,42.1 -82.7,41.7 -78.9,42.9 -79.2,43.5
-78.7,43.6 -76.8,43.6 -74.9,45 -71.5,45 -71.4,45.3 -70.7,45.5 -70,46.7 -69.2,47.4 -68.9,47.2 -68.2,47.4 -67.8,47.1
-67.8,45.7 -67,44.8 -70.1,43.7 -70.8,42.9 -70.8,42.3 -70.5,41.8 -70.1,41.8 -70.2,42.1 -69.9,41.9 -70,41.6 -73.7,40.9
-72.2,41.1 -71.9,40.9 -73.3,40.6 -74,40.8 -74.3,40.5 -74,40.4 -74.2,39.7 -74.9,38.9 -75.5,39.5 -75.1,38.4 -75.9,37.2
-75.7,37.9 -76.2,38.3 -76.4,39.1 -76.5,38.7 -76.3,38.1 -77,38.2 -76.3,37.9 -76.3,37 -76,36.9 -75.7,35.6 -76.4,34.8
-77.4,34.5 -78.1,33.9 -79.1,33.5 -79.2,33.2 -80.3,32.5 -81.3,31.4 -81.5,30.7 -81.3,30 -80.1,26.9 -80.4,25.2 -81.2,25.2
-81.3,25.6 -81.7,25.9 -82.9,27.9 -82.6,28.6 -83.7,29.9 -84.1,30.1 -85.1,29.6 -86.4,30.4 -89.6,30.2 -89.2,29.3
-89.4,29.2 -89.8,29.3 -90.9,29.1 -91.6,29.7 -92.5,29.6 -93.2,29.8 -94.7,29.5 -97.1,27.8 -97.4,26.7 -97.1,25.9
-97.5,25.8 -99,26.4 -99.5,27.5 -101,29.4 -101.7,29.8 -102.5,29.8 -103.1,29 -103.9,29.3 -104.5,29.6 -105,30.6
-106.5,31.8 -108.2,31.8 -108.2,31.3 -111,31.3 -114.8,32.5 -114.7,32.7 -117.1,32.5 -117.3,33 -118.4,33.7 -118.5,34
-120.6,34.6 -120.7,35.2 -121.7,36.2 -122.5,37.8 -123.7,39 -123.9,39.8 -124.4,40.3 -124.2,42 -124.5,42.8 -124.1,43.7
-123.9,45.5 -124.1,46.9 -124.7,48.2 -124.6,48.4 -123.1,48 -122.6,47.1 -122.3,47.4
"""


def map_figure(
    lon: Floats, lat: Floats, values: Mapping[str, Floats], metric: str, *, title: str, source: str
) -> Figure:
    """Draw one metric of the stations on maps of CONUS, one per network, on one scale (supplement S1 of the paper).

    Parameters
    ----------
    lon, lat
        Degrees, shape (stations,).
    values
        The metric by network, shape (stations,) each; NaN, where it is not defined, is a ring.
    metric
        ``r``, ``rmse``, ``bias`` or ``ubrmse``.
    title, source
        Heading and source line.

    Raises
    ------
    InputError
        When there is nothing to draw, or shapes differ.
    RequestError
        When there is no such metric.
    """
    from matplotlib.patches import Polygon

    label = metric_label(metric)
    _check_values(values, np.shape(lon), metric)
    norm, colours, extend = _metric_scale(np.concatenate([np.ravel(found) for found in values.values()]), metric)
    columns = {1: 1, 2: 2, 3: 3, 4: 2}.get(len(values), 3)
    rows = -(-len(values) // columns)
    west, south, east, north = (
        min(_VIEW[0], float(np.min(lon)) - 1), min(_VIEW[1], float(np.min(lat)) - 1),
        max(_VIEW[2], float(np.max(lon)) + 1), max(_VIEW[3], float(np.max(lat)) + 1),
    )  # fmt: skip
    stretch = 1 / math.cos(math.radians((south + north) / 2))
    high = ((WIDTH - 1.1) / columns - 0.25) * (north - south) * stretch / (east - west)
    ringed = any(not np.isfinite(found).all() for found in values.values())
    figure = sheet((high + 0.6) * rows + 0.1, title, source, legend=ringed)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    outline = np.array([pair.split(",") for pair in _OUTLINE.split()], np.float64)
    for axes, (name, found) in zip(grid.flat, values.items(), strict=False):
        axes.add_patch(Polygon(outline, facecolor=_LAND, edgecolor=RULE, linewidth=0.6, zorder=0))
        found, seen = np.asarray(found, np.float64), np.isfinite(found)
        size = {1: 60, 2: 34}.get(columns, 22)
        axes.scatter(
            lon[~seen], lat[~seen], s=size, facecolor="none", edgecolor=INK, linewidth=0.7, label="not defined"
        )
        dots = axes.scatter(
            lon[seen], lat[seen], c=found[seen], s=size, cmap=colours, norm=norm, edgecolor=INK, linewidth=0.4
        )
        axes.set(xlim=(west, east), ylim=(south, north), aspect=stretch)
        _degrees(axes)
        head(axes, name, [f"median {metric_number(float(np.nanmedian(found)), metric)}, {seen.sum()} stations"])
    for axes in grid.flat[len(values) :]:
        axes.set_visible(False)
    label_outer(grid, "", "")
    colour_bar(figure, dots, label, extend=extend)
    if ringed:
        legend(figure, grid[0, 0])
    return figure


def _degrees(axes: Axes) -> None:
    from matplotlib.ticker import MultipleLocator

    axes.xaxis.set_major_locator(MultipleLocator(10))
    axes.yaxis.set_major_locator(MultipleLocator(5))
    label_degrees(axes)


def _metric_scale(values: NDArray[np.float64], metric: str) -> tuple[Any, Colormap, str]:
    """Return norm, colour map and pointed ends: the 2nd to the 98th percentile in round steps; the bias about zero."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    seen = values[np.isfinite(values)]
    step = 0.1 if metric == "r" else 0.02
    low, high = (float(value) for value in np.percentile(seen, [2, 98]))
    if metric == "bias":
        high = max(step, math.ceil(max(abs(low), abs(high)) / step - 1e-6) * step)
        low = -high
    else:
        low = math.floor(low / step + 1e-6) * step if metric == "r" else 0.0
        high = max(low + step, math.ceil(high / step - 1e-6) * step)
        high = min(high, 1.0) if metric == "r" else high
    colours = {"r": colormaps["viridis"], "bias": colormaps["RdBu"]}.get(metric, colormaps["magma_r"])
    return Normalize(low, high), colours, beyond([seen], (low, high), 1e-9)


def box_figure(values: Mapping[str, Mapping[str, Floats]], *, title: str, source: str) -> Figure:
    """Draw metrics of the stations by network as boxes, one panel per metric (supplement S2 of the paper).

    A box contains the middle half of the stations, its line is their median; whiskers end at the last station within
    1.5 times the box's length. Fewer than `FEWEST_FOR_BOX` stations are drawn as dots beside a line at their median.

    Parameters
    ----------
    values
        By network and metric, shape (stations,); NaN is left out.
    title, source
        Heading and source line.

    Raises
    ------
    InputError
        When there is nothing to draw.
    RequestError
        When there is no such metric.
    """
    metrics = list(dict.fromkeys(metric for found in values.values() for metric in found))
    labels = [metric_label(metric) for metric in metrics]
    if not metrics:
        raise InputError("no metric to draw; give at least one network with one metric")
    colours = network_colours(values)
    figure = sheet(3.4, title, source, legend=True)
    for axes, metric, label in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, labels, strict=True):
        counts = []
        for place, (name, found) in enumerate(values.items()):
            seen = _finite(found.get(metric, np.array([])))
            _draw_box(axes, place, seen, 0.6, colours[name])
            counts.append(seen.size)
        axes.set_xticks([(len(values) - 1) / 2], [f"n = {_counts(counts)}"])
        axes.set_xlim(-0.6, len(values) - 0.4)
        _value_axis(axes, metric, label)
    patch_legend(figure, colours)
    return figure


def grouped_box_figure(
    values: Mapping[str, Floats],
    groups: Mapping[str, NDArray[np.str_]],
    metric: str,
    *,
    title: str,
    source: str,
    order: Mapping[str, Sequence[str]] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Draw one metric of the stations by class as boxes, one panel per category (supplement S8 of the paper).

    Boxes are those of `box_figure`, with the networks of a class side by side.

    Parameters
    ----------
    values
        The metric by network, shape (stations,) each; NaN is left out.
    groups
        The class of each station by category (land cover, soil texture, …), shape (stations,); ``""`` is left out.
    metric
        ``r``, ``rmse``, ``bias`` or ``ubrmse``.
    title, source
        Heading and source line.
    order
        Classes of a category in drawing order; classes without a station are omitted, others follow by size.
    colours
        By network; by default those of `network_colours`.

    Raises
    ------
    InputError
        When there is nothing to draw, or shapes differ.
    RequestError
        When there is no such metric.
    """
    label = metric_label(metric)
    shape = np.shape(next(iter(values.values()), ()))
    _check_values(values, shape, metric)
    for category, classes in groups.items():
        if np.shape(classes) != shape:
            raise InputError(
                f"{category}: classes of shape {np.shape(classes)}, {metric} of {shape}; expected the same"
            )
    if not groups:
        raise InputError("no category to group by; give at least one")
    figure = sheet(2.25 * len(groups) + 0.1, title, source, legend=len(values) > 1)
    known = colours or network_colours(values)
    colours = {name: known[name] for name in values}
    for axes, (category, classes) in zip(
        figure.subplots(len(groups), 1, squeeze=False)[:, 0], groups.items(), strict=True
    ):
        names = _classes(classes, (order or {}).get(category, ()))
        _draw_classes(axes, values, classes, names, colours)
        axes.set_title(category, loc="left", fontsize=9, weight="bold", color=INK, pad=4)
        _value_axis(axes, metric, label)
    if len(values) > 1:
        patch_legend(figure, colours)
    return figure


def _draw_classes(
    axes: Axes,
    values: Mapping[str, Floats],
    classes: NDArray[np.str_],
    names: Sequence[str],
    colours: Mapping[str, str],
) -> None:
    """Draw the boxes of every class, the networks side by side, with the number of stations below."""
    width, ticks = 0.7 / len(values), []
    for place, name in enumerate(names):
        counts = []
        for number, (network, found) in enumerate(values.items()):
            seen = _finite(np.asarray(found)[classes == name])
            offset = (number - (len(values) - 1) / 2) * width
            _draw_box(axes, place + offset, seen, 0.8 * width, colours[network])
            counts.append(seen.size)
        ticks.append("\n".join([*textwrap.wrap(name, max(9, 90 // len(names))), f"n = {_counts(counts)}"]))
    axes.set_xticks(range(len(names)), ticks)
    axes.set_xlim(-0.6, max(len(names), 5) - 0.4)


def _counts(counts: Sequence[int]) -> str:
    """Format the number of stations of each box, once if it is the same for all; of many boxes their range."""
    if len(set(counts)) > 1 and len(counts) > _COUNTED:
        return f"{min(counts)}–{max(counts)}"
    return ", ".join(map(str, counts if len(set(counts)) > 1 else counts[:1]))


def _classes(found: NDArray[np.str_], order: Sequence[str]) -> list[str]:
    """Return the existing classes: those of `order` first, then the others by number of stations."""
    counts = Counter(str(name) for name in found if name)
    others = sorted(counts.keys() - set(order), key=lambda name: (-counts[name], name))
    return [name for name in order if name in counts] + others


def _draw_box(axes: Axes, place: float, values: NDArray[np.float64], width: float, colour: str) -> None:
    if values.size >= FEWEST_FOR_BOX:
        axes.boxplot(
            [values], positions=[place], widths=width, manage_ticks=False, patch_artist=True,
            boxprops={"facecolor": (colour, 0.75), "edgecolor": INK, "linewidth": 0.7},
            medianprops={"color": INK, "linewidth": 1.6},
            whiskerprops={"color": INK, "linewidth": 0.7}, capprops={"color": INK, "linewidth": 0.7},
            flierprops={"marker": "o", "markersize": 2.5, "markerfacecolor": "none", "markeredgewidth": 0.5,
                        "markeredgecolor": INK},
        )  # fmt: skip
    elif values.size:
        axes.plot(np.full(values.size, place), values, "o", color=colour, markersize=3.2, alpha=0.8, markeredgewidth=0)
        axes.hlines(np.median(values), place - 0.35 * width, place + 0.35 * width, color=INK, linewidth=1.6, zorder=1.9)


def _value_axis(axes: Axes, metric: str, label: str) -> None:
    plain(axes)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(label, fontsize=8.5, color=INK)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    axes.set_axisbelow(True)
    if metric == "bias":
        axes.axhline(0, color=RULE, linewidth=0.8, zorder=0.5)
    elif metric != "r":
        axes.set_ylim(bottom=0)


def _check_values(values: Mapping[str, Floats], shape: tuple[int, ...], metric: str) -> None:
    if not any(np.isfinite(found).any() for found in values.values()):
        raise InputError(f"no station has a value of {metric}; give at least one network with one value")
    for name, found in values.items():
        if np.shape(found) != shape or len(shape) != 1:
            raise InputError(f"{name}: {metric} of shape {np.shape(found)}, stations of {shape}; expected the same")


def _finite(values: Floats) -> NDArray[np.float64]:
    found = np.asarray(values, np.float64)
    return found[np.isfinite(found)]
