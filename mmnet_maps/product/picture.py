"""The picture of a map: SMAP beside 100 m soil moisture and a detail, one row a day, one colour scale."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.warp import reproject, transform_bounds
from rasterio.windows import Window, from_bounds

from mmnet_maps.files import refuse_foreign
from mmnet_maps.plots.canvas import SYNTHETIC, evenly, nice_length, watermark, write_figure
from mmnet_maps.plots.colours import INK, NODATA, PALE, RULE, beyond, dry_to_wet, scale_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from shapely.geometry.base import BaseGeometry

Box = tuple[float, float, float, float]
"""left, bottom, right, top in metres."""


_DPI = 170
_PIXELS = 1400
_NARROWEST, _WIDEST = 0.55, 8.0
_DETAIL_METRES = 15_000.0
_FRAME = "#c2185b"
_SIDE = 0.35


@dataclass(frozen=True, kw_only=True)
class DayPicture:
    """The COGs of one day by layer name; ``soil_moisture`` and ``smap`` are drawn."""

    day: date
    layers: dict[str, Path]


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """Values (y, x) in m³/m³ on the local grid, NaN where nodata, and their mean before they were brought to it."""

    values: NDArray[np.float32]
    box: Box
    mean: float


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Places of one day's panels in inches, from the lower left corner of the day's band."""

    smap: Box
    map: Box
    detail: Box | None
    size: tuple[float, float]


def draw(
    path: Path, days: Sequence[DayPicture], area: BaseGeometry, *, title: str, source: str, synthetic: bool
) -> None:
    """Draw the maps of some days to a PNG, which appears whole or not at all.

    Only overviews and small windows are read, whatever the size of the maps. The maps are shown in an equal-area
    projection about the area's centre, so that north is up there. The detail is a box of 15 km, or a third of a smaller
    area, where the first day shown varies most over distances of about a kilometre.

    Parameters
    ----------
    path
        The PNG.
    days
        In order; of more than six the first, the last and four evenly between are drawn.
    area
        The outline, in longitude and latitude.
    title, source
        Heading, and the line that says where the values come from.
    synthetic
        Whether to mark every panel as not an observation.

    Raises
    ------
    OutputError
        When the picture cannot be written, or a file of that name is there that this software did not make.
    """
    refuse_foreign(path)
    shown = evenly(days)
    crs, outline = _local(area)
    pixel = _pixel_metres(shown[0].layers["soil_moisture"])
    view = _view(outline.bounds, pixel)
    smap = [_panel(day.layers["smap"], crs, view) for day in shown]
    fine = [_panel(day.layers["soil_moisture"], crs, view) for day in shown]
    box = _detail_box(fine[0])
    detail = [_panel(day.layers["soil_moisture"], crs, box) for day in shown] if box else []
    limits = scale_range([panel.values for panel in (*smap, *fine)])

    layout = _lay_out((view[2] - view[0]) / (view[3] - view[1]), len(shown), box is not None)
    subset = f"{len(shown)} of {len(days)} days shown" if len(shown) < len(days) else ""
    figure, base = _sheet(layout, len(shown), title, subset, source + SYNTHETIC * synthetic)
    columns = [(smap, layout.smap, "SMAP, 9 km"), (fine, layout.map, f"MMNet, {pixel:.3g} m")]
    if box and layout.detail:
        columns.append((detail, layout.detail, f"Detail, {(box[2] - box[0]) / 1000:.2g} km"))
    for row, day in enumerate(shown):
        floor = base + (len(shown) - 1 - row) * layout.size[1]
        top = floor + layout.size[1] - 0.32
        _text(figure, _SIDE, top, f"{day.day.day} {day.day:%B %Y}", size=11, weight="bold")
        for panels, place, heading in columns:
            axes = _axes(figure, place, floor)
            _draw_panel(axes, panels[row], outline, heading, limits)
            if synthetic:
                watermark(axes, place[2], place[3])
            if box and panels is fine:
                _frame(axes, box)
            if panels is detail:
                axes.spines[:].set(linewidth=1.2, color=_FRAME)
            if row == len(shown) - 1 and panels is not smap:
                _scale_bar(axes, place, panels[row].box)
    _colour_bar(figure, limits, [panel.values for panel in (*smap, *fine)], base - 0.72)
    write_figure(figure, path)


def _local(area: BaseGeometry) -> tuple[CRS, BaseGeometry]:
    """An equal-area projection about the area's centre, and the outline in it."""
    import shapely
    from pyproj import Transformer

    west, south, east, north = area.bounds
    text = f"+proj=laea +lat_0={(south + north) / 2:.6f} +lon_0={(west + east) / 2:.6f} +datum=WGS84 +units=m"
    transformer = Transformer.from_crs("OGC:CRS84", text, always_xy=True)
    dense = shapely.segmentize(area, max((east - west), (north - south)) / 50)
    outline: BaseGeometry = shapely.transform(
        dense, lambda points: np.column_stack(transformer.transform(points[:, 0], points[:, 1]))
    )
    return CRS.from_string(text), outline


def _pixel_metres(path: Path) -> float:
    with rasterio.open(path) as data:
        metres: float = data.res[1] * (111_320.0 if data.crs.is_geographic else data.crs.linear_units_factor[1])
        return metres


def _view(bounds: Box, pixel: float) -> Box:
    """What the panels show: the area with a margin that holds its border pixels, not too narrow for a heading."""
    left, bottom, right, top = bounds
    pad = max(0.015 * max(right - left, top - bottom), 1.5 * pixel)
    width, height = right - left + 2 * pad, top - bottom + 2 * pad
    width, height = max(width, _NARROWEST * height), max(height, width / _WIDEST)
    x, y = (left + right) / 2, (bottom + top) / 2
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _panel(path: Path, crs: CRS, box: Box) -> _Panel:
    """Read what a layer holds in a box, decimated to what can be seen, and bring it to the local grid."""
    left, bottom, right, top = box
    with rasterio.open(path) as data:
        bounds = transform_bounds(crs, data.crs, *box)
        (top_row, end_row), (first_col, end_col) = from_bounds(*bounds, data.transform).toranges()
        first = max(0, math.floor(first_col)), max(0, math.floor(top_row))
        last = min(data.width, math.ceil(end_col)), min(data.height, math.ceil(end_row))
        window = Window(*first, last[0] - first[0], last[1] - first[1])
        shrink = max(1.0, max(window.width, window.height) / _PIXELS)
        shape = (max(1, round(window.height / shrink)), max(1, round(window.width / shrink)))
        stored = data.read(1, window=window, out_shape=shape, masked=True, resampling=Resampling.average)
        values = stored.astype(np.float32).filled(np.nan) * np.float32(data.scales[0])
        transform = data.window_transform(window) * rasterio.Affine.scale(
            window.width / shape[1], window.height / shape[0]
        )
        source_crs = data.crs
    size = max(right - left, top - bottom) / _PIXELS
    height, width = (max(1, math.ceil((top - bottom) / size)), max(1, math.ceil((right - left) / size)))
    shown = np.full((height, width), np.nan, np.float32)
    reproject(
        values,
        shown,
        src_transform=transform,
        src_crs=source_crs,
        src_nodata=np.nan,
        dst_transform=from_origin(left, top, size, size),
        dst_crs=crs,
        dst_nodata=np.nan,
        resampling=Resampling.nearest,
    )
    mean = float(np.mean(values[np.isfinite(values)])) if np.isfinite(values).any() else math.nan
    return _Panel(values=shown, box=(left, top - height * size, left + width * size, top), mean=mean)


def _detail_box(panel: _Panel) -> Box | None:
    """Where a map varies most within about a kilometre; None for areas too small to need a detail."""
    from scipy.ndimage import uniform_filter

    left, bottom, right, top = panel.box
    rows, cols = panel.values.shape
    size = (right - left) / cols
    side = min(_DETAIL_METRES, max(right - left, top - bottom) / 3)
    count = round(side / size)
    if side < 2_000 or count > min(rows, cols):
        return None
    valid = np.isfinite(panel.values)
    weight = valid.astype(np.float64)
    values = np.where(valid, panel.values, 0.0).astype(np.float64)
    near = max(3, round(1_000 / size))
    around = uniform_filter(values, near) / np.maximum(uniform_filter(weight, near), 1e-9)
    rough = _window_sums(np.where(valid, (values - around) ** 2, 0.0), count)
    share = _window_sums(weight, count) / count**2
    enough = share >= min(0.95, share.max())
    row, col = np.unravel_index(np.argmax(np.where(enough, rough, -1.0)), rough.shape)
    x, y = left + float(col) * size, top - float(row) * size
    return x, y - count * size, x + count * size, y


def _window_sums(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Sums of all windows of count × count, by their upper left pixel."""
    sums = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    found: NDArray[np.float64] = (
        sums[count:, count:] - sums[:-count, count:] - sums[count:, :-count] + sums[:-count, :-count]
    )
    return found


def _lay_out(aspect: float, rows: int, detail: bool) -> _Layout:
    """Places for maps of an aspect (width / height): side by side, or one above the other where they are wide."""
    gap, head, side = 0.3, 0.7, _SIDE
    if aspect <= 1.6:
        height = min({1: 5.0, 2: 4.6}.get(rows, 3.4), 10.5 / (2 * aspect + detail))
        column = height * aspect
        square = min(height, max(column, 0.75 * height))
        places = [(side + index * (column + gap), 0.0, column, height) for index in range(2)]
        zoom = (side + 2 * (column + gap), height - square, square, square)
        width = 2 * side + 2 * column + gap + (gap + square if detail else 0)
        block = height
    else:
        column = min(7.2, (3.6 if rows <= 2 else 2.4) * aspect)
        height = column / aspect
        block = 2 * height + 0.4
        places = [(side, height + 0.4, column, height), (side, 0.0, column, height)]
        square = min(max(block, 2.1), 3.6)
        block = max(block, square)
        places = [(x, y + block - 2 * height - 0.4, w, h) for x, y, w, h in places]
        zoom = (side + column + gap, block - square, square, square)
        width = 2 * side + column + (gap + square if detail else 0)
    return _Layout(smap=places[0], map=places[1], detail=zoom if detail else None, size=(max(width, 6.4), block + head))


def _sheet(layout: _Layout, rows: int, title: str, subset: str, source: str) -> tuple[Figure, float]:
    """Make the figure with its heading and source line; and where, in inches, the lowest row stands."""
    from matplotlib.figure import Figure

    lines = textwrap.wrap(source, round((layout.size[0] - 2 * _SIDE) * 16.5))
    base = 1.25 + 0.14 * len(lines)
    height = base + rows * layout.size[1] + 0.85
    figure = Figure(figsize=(layout.size[0], height), dpi=_DPI, facecolor="white")
    _text(figure, _SIDE, height - 0.3, title, size=14, weight="bold", va="top")
    subtitle = "Surface soil moisture, 0–5 cm" + (f"  ·  {subset}" if subset else "")
    _text(figure, _SIDE, height - 0.6, subtitle, size=10, color=PALE, va="top")
    _text(figure, _SIDE, 0.22, "\n".join(lines), size=7, color=PALE, va="bottom", linespacing=1.35)
    return figure, base


def _axes(figure: Figure, place: Box, base: float) -> Axes:
    width, height = figure.get_size_inches()
    x, y, across, up = place
    axes = figure.add_axes((x / width, (base + y) / height, across / width, up / height))
    axes.set(xticks=[], yticks=[], anchor="NW")
    axes.spines[:].set(linewidth=0.5, color=RULE)
    return axes


def _draw_panel(axes: Axes, panel: _Panel, outline: BaseGeometry, heading: str, limits: tuple[float, float]) -> None:
    left, bottom, right, top = panel.box
    _fill(axes, outline)
    axes.imshow(
        np.ma.masked_invalid(panel.values),
        cmap=dry_to_wet(),
        vmin=limits[0],
        vmax=limits[1],
        extent=(left, right, bottom, top),
        interpolation="antialiased",
        zorder=1,
    )
    _outline(axes, outline)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    mean = "no data" if math.isnan(panel.mean) else f"mean {panel.mean:.3f}"
    axes.set_title(heading, loc="left", fontsize=8.5, color=INK, pad=4)
    axes.set_title(mean, loc="right", fontsize=7.5, color=PALE, pad=4)


def _rings(outline: BaseGeometry) -> list[list[NDArray[np.float64]]]:
    """Per polygon its rings, the outer one first."""
    polygons = getattr(outline, "geoms", [outline])
    return [[np.asarray(ring.coords)[:, :2] for ring in (part.exterior, *part.interiors)] for part in polygons]


def _path(outline: BaseGeometry) -> Any:
    from matplotlib.path import Path as Curve

    return Curve.make_compound_path(*(Curve(ring, closed=True) for rings in _rings(outline) for ring in rings))


def _fill(axes: Axes, outline: BaseGeometry) -> None:
    """Grey under the map, so that what is nodata inside the area shows and what is outside stays white."""
    from matplotlib.patches import PathPatch

    axes.add_patch(PathPatch(_path(outline), facecolor=NODATA, edgecolor="none", zorder=0))


def _outline(axes: Axes, outline: BaseGeometry) -> None:
    from matplotlib.patches import PathPatch

    axes.add_patch(PathPatch(_path(outline), facecolor="none", edgecolor=INK, linewidth=0.8, zorder=2))


def _frame(axes: Axes, box: Box) -> None:
    from matplotlib.patches import Rectangle

    left, bottom, right, top = box
    for colour, width in (("white", 2.4), (_FRAME, 1.2)):
        axes.add_patch(
            Rectangle(
                (left, bottom), right - left, top - bottom, fill=False, edgecolor=colour, linewidth=width, zorder=4
            )
        )


def _scale_bar(axes: Axes, place: Box, box: Box) -> None:
    """A bar of a round length under a panel."""
    length = nice_length((box[2] - box[0]) * 0.35)
    share, thick = length / (box[2] - box[0]), 0.035 / place[3]
    y = -0.16 / place[3]
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.plot(
        [0, share], [y, y], transform=axes.transAxes, color=INK, linewidth=2, clip_on=False, solid_capstyle="butt"
    )
    axes.text(
        share + 0.08 / place[2], y - thick / 4, label, transform=axes.transAxes, fontsize=7.5, va="center", color=INK
    )


def _colour_bar(figure: Figure, limits: tuple[float, float], values: Sequence[NDArray[np.float32]], y: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches()
    long = min(3.6, width * 0.5)
    axes = figure.add_axes((_SIDE / width, y / height, long / width, 0.14 / height))
    bar = figure.colorbar(
        ScalarMappable(Normalize(*limits), dry_to_wet()),
        cax=axes,
        orientation="horizontal",
        extend=beyond(values, limits),
    )
    step = 0.05 if limits[1] - limits[0] <= 0.3 + 1e-9 else 0.1
    ticks = np.arange(math.ceil(limits[0] / step - 1e-6), math.floor(limits[1] / step + 1e-6) + 1) * step
    bar.set_ticks(ticks.round(2).tolist())
    bar.ax.tick_params(labelsize=7.5, length=2.5, width=0.5, colors=INK)
    bar.outline.set_linewidth(0.5)
    figure.text((_SIDE + long + 0.12) / width, (y + 0.07) / height, "m³/m³", fontsize=8.5, va="center", color=INK)
    x = _SIDE + long + 0.8
    figure.add_artist(
        Rectangle((x / width, y / height), 0.2 / width, 0.14 / height, transform=figure.transFigure, facecolor=NODATA)
    )
    figure.text((x + 0.28) / width, (y + 0.07) / height, "no data", fontsize=7.5, va="center", color=INK)


def _text(figure: Figure, x: float, y: float, text: str, *, size: float, **style: Any) -> None:
    """Text at a place in inches."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, fontsize=size, **{"color": INK, **style})
