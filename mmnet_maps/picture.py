"""The map as people publish it: the coarse input beside the 100 m product and a closer look, on one colour scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps import __version__
from mmnet_maps.aoi import LONLAT, transform_geometry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from shapely.geometry.base import BaseGeometry

COLOURS = "YlGnBu"
"""Light yellow where dry to dark blue where wet: lightness falls evenly, so colour-blind readers see the order."""

MOST_DAYS = 6
WATERMARK = "SYNTHETIC INPUTS\nNOT AN OBSERVATION"

_PIXELS = 1100  # a panel is read at no more than this, from the overviews
_PANEL = 4.3  # inches
_ZOOM = 15e3  # metres
_LAND, _INK, _FRAME = "#e4e2dd", "#222222", "#c8102e"


@dataclass(frozen=True, kw_only=True)
class DayPicture:
    """One row of the picture: a day and its GeoTIFFs ``soil_moisture`` and ``smap``."""

    day: date
    layers: dict[str, Path]


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """Values (y, x), NaN where missing, and their extent (left, right, bottom, top) in units of the CRS."""

    values: NDArray[np.float32]
    extent: tuple[float, float, float, float]


def draw(
    path: Path, days: Sequence[DayPicture], area: BaseGeometry, *, title: str, source: str, synthetic: bool
) -> None:
    """Draw SMAP, the soil moisture map and a closer look for each day, and save the PNG.

    Parameters
    ----------
    path
        The file to write.
    days
        In order; of more than `MOST_DAYS` the first, the last and evenly spaced ones between are shown.
    area
        Outline in longitude and latitude.
    title, source
        Heading, and the line that says where the map comes from.
    synthetic
        Whether any input is synthetic; the picture then says so across every panel.
    """
    shown = _choose(days)
    maps = [[_read(day.layers[name]) for name in ("smap", "soil_moisture")] for day in shown]
    crs, metre, pixel = _ground(shown[0].layers["soil_moisture"])
    frame = closest_look(maps[-1][1], _ZOOM * metre)
    rows = [(*pair, _read(day.layers["soil_moisture"], frame)) for day, pair in zip(shown, maps, strict=True)]
    low, high = colour_range([panel.values for row in rows for panel in row])
    outline = transform_geometry(area, LONLAT, crs)

    figure, grid = _figure(len(rows), maps[0][1].extent)
    headings = ("SMAP, 9 km", f"Soil moisture, {pixel:.3g} m", f"Closer look, {_ZOOM / 1000:g} km")
    for k, row in enumerate(rows):
        for j, panel in enumerate(row):
            axes = figure.add_subplot(grid[k, j])
            _show(axes, panel, low, high)
            _draw_outline(axes, outline)
            axes.set_xlim(*panel.extent[:2])
            axes.set_ylim(*panel.extent[2:])
            if k == 0:
                axes.set_title(headings[j], fontsize=10.5, color=_INK, pad=8)
            if j == 0:
                axes.set_ylabel(f"{shown[k].day:%-d %B %Y}", fontsize=11, color=_INK, labelpad=10)
            if j == 1:
                _draw_frame(axes, frame)
            if j == 2:
                for spine in axes.spines.values():
                    spine.set(visible=True, color=_FRAME, linewidth=1.4)
            _draw_note(axes, panel, synthetic)
    _draw_scale_bar(figure.axes[-2], rows[-1][1].extent, metre)
    _draw_colour_bar(figure, low, high)
    _draw_text(figure, title, source, synthetic)
    figure.savefig(path, format="png", dpi=160, metadata={"Software": f"mmnet_maps {__version__}"})


def colour_range(panels: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    """Ends of the colour scale: the middle 96 % of all values, on multiples of 0.05, at least 0.1 apart.

    Examples
    --------
    >>> colour_range([np.linspace(0.08, 0.33, 100, dtype=np.float32)])
    (0.05, 0.35)
    >>> colour_range([np.full((2, 2), np.nan, np.float32)])
    (0.0, 0.5)
    """
    values = np.concatenate([panel[np.isfinite(panel)] for panel in panels])
    if values.size == 0:
        return 0.0, 0.5
    low, high = np.percentile(values, [2, 98])
    first, last = math.floor(low / 0.05 + 1e-6), math.ceil(high / 0.05 - 1e-6)
    return round(first * 0.05, 2), round(max(last, first + 2) * 0.05, 2)


def closest_look(panel: _Panel, size: float) -> tuple[float, float, float, float]:
    """The square of `size` CRS units (left, right, bottom, top) with most going on where nearly all is mapped."""
    from scipy.ndimage import uniform_filter

    left, right, _, top = panel.extent
    height, width = panel.values.shape
    cell = (right - left) / width
    pixels = max(3, min(round(size / cell), height, width))
    known = np.isfinite(panel.values).astype(float)
    values = np.nan_to_num(panel.values.astype(float))
    share = uniform_filter(known, pixels, mode="constant")
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = uniform_filter(values, pixels, mode="constant") / share
        variance = uniform_filter(values * values, pixels, mode="constant") / share - mean * mean
    score = np.where(share >= min(0.97, share.max() - 1e-9), variance, -1.0)
    row, col = np.unravel_index(int(np.argmax(score)), score.shape)
    x, y = left + (col + 0.5) * cell, top - (row + 0.5) * cell
    half = pixels * cell / 2
    return x - half, x + half, y - half, y + half


def _choose(days: Sequence[DayPicture]) -> list[DayPicture]:
    if len(days) <= MOST_DAYS:
        return list(days)
    return [days[round(k * (len(days) - 1) / (MOST_DAYS - 1))] for k in range(MOST_DAYS)]


def _read(path: Path, frame: tuple[float, float, float, float] | None = None) -> _Panel:
    """Values of a GeoTIFF, or of a part of it, at no more than `_PIXELS` a side."""
    import rasterio
    from rasterio.windows import Window, from_bounds

    with rasterio.open(path) as data:
        window = Window(0, 0, data.width, data.height)
        if frame:
            left, right, bottom, top = frame
            asked = from_bounds(left, bottom, right, top, data.transform)
            window = asked.round_offsets().round_lengths().intersection(window)
        factor = max(1.0, max(window.height, window.width) / _PIXELS)
        shape = max(1, round(window.height / factor)), max(1, round(window.width / factor))
        values = data.read(1, window=window, out_shape=shape, masked=True)
        left, bottom, right, top = data.window_bounds(window)
        return _Panel(
            values=np.ma.filled(values.astype(np.float32) * np.float32(data.scales[0]), np.nan),
            extent=(left, right, bottom, top),
        )


def _ground(path: Path) -> tuple[str, float, float]:
    """The CRS of a GeoTIFF, what a metre is in it (in degrees: along a parallel in the middle), and the pixel in m."""
    import rasterio

    with rasterio.open(path) as data:
        if data.crs.is_projected:
            metre = 1 / data.crs.linear_units_factor[1]
        else:
            middle = math.radians((data.bounds.bottom + data.bounds.top) / 2)
            metre = 1 / (111_320 * math.cos(middle))
        return data.crs.to_wkt(), metre, data.res[0] / metre


def _figure(rows: int, extent: tuple[float, float, float, float]) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    left, right, bottom, top = extent
    high = min(max(_PANEL * (top - bottom) / (right - left), 2.2), 6.5)
    head, foot = 0.85, 1.45
    total = head + foot + rows * high + (rows - 1) * 0.25
    figure = Figure(figsize=(3 * _PANEL + 1.1, total), facecolor="white")
    grid = figure.add_gridspec(
        rows, 3, left=0.055, right=0.985, top=1 - head / total, bottom=foot / total, wspace=0.06, hspace=0.25 / high
    )
    return figure, grid


def _show(axes: Axes, panel: _Panel, low: float, high: float) -> None:
    axes.set_facecolor("white")
    axes.imshow(panel.values, cmap=COLOURS, vmin=low, vmax=high, extent=panel.extent, interpolation="nearest")
    axes.set(xticks=[], yticks=[], aspect="equal", anchor="C")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_outline(axes: Axes, outline: BaseGeometry) -> None:
    import shapely
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Line

    for polygon in shapely.get_parts(outline):
        rings = [polygon.exterior, *polygon.interiors]
        line = Line.make_compound_path(*(Line(np.asarray(ring.coords)[:, :2], closed=True) for ring in rings))
        axes.add_patch(PathPatch(line, facecolor=_LAND, edgecolor="none", zorder=-1))
        axes.add_patch(PathPatch(line, facecolor="none", edgecolor=_INK, linewidth=0.8))


def _draw_frame(axes: Axes, frame: tuple[float, float, float, float]) -> None:
    from matplotlib.patches import Rectangle

    left, right, bottom, top = frame
    axes.add_patch(
        Rectangle((left, bottom), right - left, top - bottom, facecolor="none", edgecolor=_FRAME, linewidth=1.4)
    )


def _draw_note(axes: Axes, panel: _Panel, synthetic: bool) -> None:
    from matplotlib.patheffects import withStroke

    known = panel.values[np.isfinite(panel.values)]
    mean = f"mean {known.mean():.3f} m³/m³" if known.size else "nothing mapped"
    halo = withStroke(linewidth=2.2, foreground="white")
    where = axes.transAxes
    axes.text(
        0.985, 0.015, mean, ha="right", va="bottom", fontsize=8.5, color=_INK, transform=where, path_effects=[halo]
    )
    if synthetic:
        thin = withStroke(linewidth=0.9, foreground="white", alpha=0.55)
        style = {"fontsize": 14, "rotation": 24, "alpha": 0.45, "weight": "bold", "linespacing": 1.3}
        mark = axes.text(0.5, 0.5, WATERMARK, ha="center", va="center", color=_INK, transform=where, fontdict=style)
        mark.set_path_effects([thin])


def _draw_scale_bar(axes: Axes, extent: tuple[float, float, float, float], metre: float) -> None:
    """A bar under the panel, where it hides nothing."""
    left, right, _, _ = extent
    length = nice_length((right - left) / metre / 4)
    middle = (left + right) / 2
    ends = [middle - length * metre / 2, middle + length * metre / 2]
    below = axes.get_xaxis_transform()
    axes.plot(ends, [-0.035, -0.035], color=_INK, linewidth=2.4, solid_capstyle="butt", transform=below, clip_on=False)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.text(middle, -0.045, text, ha="center", va="top", fontsize=8.5, color=_INK, transform=below)


def nice_length(most: float) -> float:
    """The longest of 1, 2, 5, 10, … that is no more than `most`.

    Examples
    --------
    >>> [nice_length(most) for most in (27_000, 999, 5)]
    [20000.0, 500.0, 5.0]
    """
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1.0, 2.0, 5.0) if step * power <= most)


def _draw_colour_bar(figure: Figure, low: float, high: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    height = figure.get_figheight()
    axes = figure.add_axes((0.3, 0.76 / height, 0.4, 0.14 / height))
    bar = figure.colorbar(
        ScalarMappable(Normalize(low, high), COLOURS), cax=axes, orientation="horizontal", extend="both"
    )
    bar.outline.set_visible(False)
    bar.set_ticks(np.arange(low, high + 1e-9, 0.05).tolist())
    bar.ax.tick_params(labelsize=8.5, length=2.5, color=_INK)
    bar.set_label("Surface soil moisture, 0-5 cm (m³/m³); grey: water, or not mapped", fontsize=9.5, color=_INK)


def _draw_text(figure: Figure, title: str, source: str, synthetic: bool) -> None:
    height = figure.get_figheight()
    figure.text(0.055, 1 - 0.3 / height, title, fontsize=15, weight="bold", va="center", color=_INK)
    line = f"SYNTHETIC INPUTS, not an observation. {source}" if synthetic else source
    figure.text(0.055, 0.14 / height, line, fontsize=7.5, va="center", color="#555555")
