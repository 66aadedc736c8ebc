"""The picture of a map: SMAP beside 100 m soil moisture and a detail, a row per day, one colour scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.plots.canvas import (
    SYNTHETIC,
    check_picture,
    evenly,
    place_source,
    place_text,
    png,
    sheet,
    thin_bar,
    watermark,
    wrap_source,
    write_figure,
)
from mmnet_maps.plots.colours import INK, NODATA, PALE, RULE, beyond, dry_to_wet, scale_range
from mmnet_maps.plots.maps import Box, scale_bar
from mmnet_maps.product.picture_panels import (
    Cells,
    Panel,
    detail_box,
    in_cells,
    pixel_metres,
    read_panel,
    to_local,
    view_of,
)
from mmnet_maps.resources import cores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from shapely.geometry.base import BaseGeometry

_DPI = 170
_FRAME = "#c2185b"
_SIDE = 0.35


@dataclass(frozen=True, kw_only=True)
class DayPicture:
    """Files and values of one day that a picture shows.

    Attributes
    ----------
    day
        The day.
    layers
        The COGs by layer name; ``soil_moisture`` is drawn, and ``smap`` gives the pixels and the mean of SMAP.
    cells
        SMAP on its own grid, which is drawn as it is.
    """

    day: date
    layers: dict[str, Path]
    cells: Cells


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Places of one day's panels (left, bottom, width, height) in inches from the lower left corner of its row."""

    smap: Box
    map: Box
    detail: Box | None
    size: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class _Content:
    """The panels of all days, on one colour scale.

    Attributes
    ----------
    smap, map, detail
        A panel per day; no detail of a small area.
    view, box
        Boxes of the map and of the detail.
    outline
        The area in the local projection.
    pixel
        Height of a pixel of the map, m.
    limits
        Of the colour scale, m³/m³.
    """

    smap: list[Panel]
    map: list[Panel]
    detail: list[Panel]
    view: Box
    box: Box | None
    outline: BaseGeometry
    pixel: float
    limits: tuple[float, float]


def draw(
    path: Path, days: Sequence[DayPicture], area: BaseGeometry, *, title: str, source: str, synthetic: bool
) -> None:
    """Draw the maps of some days to a PNG, which appears whole or not at all.

    Only overviews and small windows are read, whatever the size of the maps. The maps are shown in an equal-area
    projection about the centre of the area, so that north is up there. The detail is a box of 15 km, or a third of a
    smaller area, where the first day varies most over distances of about a kilometre.

    Parameters
    ----------
    path
        The PNG.
    days
        In order; of more than six the first, the last and four evenly between are drawn.
    area
        The outline, in longitude and latitude.
    title, source
        Heading, and the line of sources.
    synthetic
        Whether to mark every panel as not an observation.

    Raises
    ------
    RequestError, OutputError
        See `canvas.write_figure`.
    """
    check_picture(path)
    shown = evenly(days)
    content = _read(shown, area)
    left, bottom, right, top = content.view
    layout = _lay_out((right - left) / (top - bottom), len(shown), content.box is not None)
    subset = f"{len(shown)} of {len(days)} days shown" if len(shown) < len(days) else ""
    figure, base = _sheet(layout, len(shown), title, subset, source + (SYNTHETIC if synthetic else ""))
    for row, day in enumerate(shown):
        floor = base + (len(shown) - 1 - row) * layout.size[1]
        text = f"{day.day.day} {day.day:%B %Y}"
        place_text(figure, _SIDE, floor + layout.size[1] - 0.32, text, size=11, weight="bold")
        _draw_day(figure, content, layout, row, floor, synthetic)
    _colour_bar(figure, content, base - 0.72)
    write_figure(figure, path)


def _read(shown: Sequence[DayPicture], area: BaseGeometry) -> _Content:
    """Read the panels of the days to be shown."""
    crs, outline = to_local(area)
    pixel = pixel_metres(shown[0].layers["soil_moisture"])
    view = view_of(outline.bounds, pixel)
    left, bottom, right, top = view
    across = math.ceil(_DPI * max(_lay_out((right - left) / (top - bottom), len(shown), True).map[2:]))
    paths = [day.layers[layer] for layer in ("smap", "soil_moisture") for day in shown]
    with ThreadPoolExecutor(cores()) as pool:
        panels = list(pool.map(lambda path: read_panel(path, crs, view, across), paths))
    smap = [in_cells(panel, day.cells, crs) for panel, day in zip(panels, shown, strict=False)]
    fine = panels[len(shown) :]
    box = detail_box(fine[0])
    return _Content(
        smap=smap,
        map=fine,
        detail=[read_panel(day.layers["soil_moisture"], crs, box, across) for day in shown] if box else [],
        view=view,
        box=box,
        outline=outline,
        pixel=pixel,
        limits=scale_range([panel.values for panel in (*smap, *fine)]),
    )


def _lay_out(aspect: float, rows: int, detail: bool) -> _Layout:
    """Place maps of an aspect (width / height) side by side, or one above the other where they are wide."""
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
    """Return the figure with its heading and sources, and the height in inches at which the lowest row stands."""
    from matplotlib.figure import Figure

    lines = wrap_source(source, layout.size[0] - 2 * _SIDE)
    base = 1.25 + 0.14 * len(lines)
    height = base + rows * layout.size[1] + 0.85
    figure = Figure(figsize=(layout.size[0], height), dpi=_DPI, facecolor="white")
    place_text(figure, _SIDE, height - 0.3, title, size=14, weight="bold", va="top")
    subtitle = "Surface soil moisture, 0–5 cm" + (f"  ·  {subset}" if subset else "")
    place_text(figure, _SIDE, height - 0.6, subtitle, size=10, color=PALE, va="top")
    place_source(figure, _SIDE, 0.22, lines)
    return figure, base


def _draw_day(figure: Figure, content: _Content, layout: _Layout, row: int, floor: float, synthetic: bool) -> None:
    """Draw the panels of one day, with scale bars below the last day."""
    columns = [(content.smap[row], layout.smap, "SMAP, 9 km")]
    columns.append((content.map[row], layout.map, f"MMNet, {content.pixel:.3g} m"))
    if content.box and layout.detail:
        left, _, right, _ = content.box
        columns.append((content.detail[row], layout.detail, f"Detail, {(right - left) / 1000:.2g} km"))
    for number, (panel, place, heading) in enumerate(columns):
        axes = _axes(figure, place, floor)
        _draw_panel(axes, panel, content, heading)
        if synthetic:
            watermark(axes, *place[2:])
        if number == 1 and content.box:
            _draw_frame(axes, content.box)
        if number == 2:
            axes.spines[:].set(linewidth=1.2, color=_FRAME)
        if number and row == len(content.map) - 1:
            scale_bar(axes, panel.box[2] - panel.box[0])


def _axes(figure: Figure, place: Box, base: float) -> Axes:
    width, height = figure.get_size_inches()
    x, y, across, up = place
    axes = figure.add_axes((x / width, (base + y) / height, across / width, up / height))
    axes.set(xticks=[], yticks=[], anchor="NW")
    axes.spines[:].set(linewidth=0.5, color=RULE)
    return axes


def _draw_panel(axes: Axes, panel: Panel, content: _Content, heading: str) -> None:
    """Draw the values inside the outline of the area, grey where it has none, white outside."""
    from matplotlib.patches import PathPatch

    left, bottom, right, top = panel.box
    low, high = content.limits
    path = _path(content.outline)
    axes.add_patch(PathPatch(path, facecolor=NODATA, edgecolor="none", zorder=0))
    axes.imshow(
        np.ma.masked_invalid(panel.values), cmap=dry_to_wet(), vmin=low, vmax=high, extent=(left, right, bottom, top),
        interpolation="nearest", zorder=1,
    )  # fmt: skip  # panels have the paper's resolution
    axes.add_patch(PathPatch(path, facecolor="none", edgecolor=INK, linewidth=0.8, zorder=2))
    axes.set(xlim=(left, right), ylim=(bottom, top))
    mean = "no data" if math.isnan(panel.mean) else f"mean {panel.mean:.3f}"
    axes.set_title(heading, loc="left", fontsize=8.5, color=INK, pad=4)
    axes.set_title(mean, loc="right", fontsize=7.5, color=PALE, pad=4)


def _rings(outline: BaseGeometry) -> list[list[NDArray[np.float64]]]:
    """Return the rings of each polygon, the outer one first."""
    polygons = getattr(outline, "geoms", [outline])
    return [[np.asarray(ring.coords)[:, :2] for ring in (part.exterior, *part.interiors)] for part in polygons]


def _path(outline: BaseGeometry) -> Any:
    from matplotlib.path import Path as Curve

    return Curve.make_compound_path(*(Curve(ring, closed=True) for rings in _rings(outline) for ring in rings))


def _draw_frame(axes: Axes, box: Box) -> None:
    """Mark the box of the detail on the map."""
    from matplotlib.patches import Rectangle

    left, bottom, right, top = box
    for colour, width in (("white", 2.4), (_FRAME, 1.2)):
        axes.add_patch(
            Rectangle(
                (left, bottom), right - left, top - bottom, fill=False, edgecolor=colour, linewidth=width, zorder=4
            )
        )


def _colour_bar(figure: Figure, content: _Content, y: float) -> None:
    """Draw the colour bar and the key of missing values at a height in inches."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches()
    low, high = content.limits
    values = np.concatenate([panel.values.ravel() for panel in (*content.smap, *content.map)])
    long = min(3.6, width * 0.5)
    bar = figure.colorbar(
        ScalarMappable(Normalize(low, high), dry_to_wet()),
        cax=figure.add_axes((_SIDE / width, y / height, long / width, 0.14 / height)),
        orientation="horizontal",
        extend=beyond([values], content.limits),
    )
    step = 0.05 if high - low <= 0.3 + 1e-9 else 0.1
    ticks = np.arange(math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6) + 1) * step
    bar.set_ticks(ticks.round(2).tolist())
    thin_bar(bar)
    place_text(figure, _SIDE + long + 0.12, y + 0.07, "m³/m³", size=8.5, va="center")
    x = _SIDE + long + 0.8
    figure.add_artist(
        Rectangle((x / width, y / height), 0.2 / width, 0.14 / height, transform=figure.transFigure, facecolor=NODATA)
    )
    place_text(figure, x + 0.28, y + 0.07, "no data", size=7.5, va="center")


def import_matplotlib() -> None:
    """Import what a picture needs, which takes half a second."""
    png(sheet(1.0, "title", "source"))
