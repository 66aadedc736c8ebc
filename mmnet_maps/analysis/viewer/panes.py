"""The map of the viewer and SMAP beside it: two figures that move together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import panel as pn
from bokeh.core.property.descriptors import UnsetValueError
from bokeh.models import (
    BoxZoomTool,
    ColumnDataSource,
    CustomJSHover,
    HoverTool,
    LinearColorMapper,
    PanTool,
    Range1d,
    ResetTool,
    ScaleBar,
    Span,
    WheelZoomTool,
)
from bokeh.plotting import figure
from numpy.typing import NDArray
from pyproj import CRS

from mmnet_maps.analysis.viewer.data import number_format
from mmnet_maps.analysis.viewer.scale import CLEAR, MOISTURE
from mmnet_maps.analysis.viewer.selection import PixelWindow
from mmnet_maps.product.quality import QUALITY_BITS

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

    from mmnet_maps.analysis.viewer.data import ViewLayer
    from mmnet_maps.analysis.viewer.scale import Scale
    from mmnet_maps.analysis.viewer.selection import LayerReader

Rings = Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]

_MARKER = "#c2185b"
_LINE = "#222222"
_WIDTH = 600  # pixels of a map on the page, until the browser reports it
_MARGIN = 0.1  # read around the visible part, so that a small move shows something at once
_TALLEST = 70  # % of the window's height for a map
_EXTENT = {"x": "x", "y": "y", "dw": "dw", "dh": "dh"}

_FLAG_NAMES_JS = f"""
const found = {list(QUALITY_BITS)!r}.filter((name, bit) => (value >> bit) & 1);
return found.length ? found.join(", ").replaceAll("_", " ") : "no flag";
"""
# SMAP covers the map left of the divider. The browser does this alone, without the server, while the divider moves.
_DIVIDER_JS = """
const whole = source.data.whole[0], [height, width] = whole.shape;
const at = range.start + (range.end - range.start) * cb_obj.value / 100;
const share = (at - source.data.x[0]) / source.data.dw[0];
const kept = Math.round(width * Math.min(Math.max(share, 0), 1));
const cut = new whole.constructor(whole.length, whole.shape);
cut.set(whole);
for (let row = 0; row < height; row++) cut.fill(NaN, row * width + kept, (row + 1) * width);
source.data.cut = [cut];
source.change.emit();
line.location = at;
"""


class MapPanes:
    """The map, and SMAP beside it or over it up to a divider.

    Parameters
    ----------
    reader
        The layers, of which the names and the grid are used.
    outline
        Rings of x and y in the view's CRS, drawn over the maps.

    Attributes
    ----------
    x, y
        Ranges that both figures share: the visible part.
    source, smap_source
        The arrays that are drawn, rows from the south as bokeh has them.
    """

    def __init__(self, reader: LayerReader, outline: Rings) -> None:
        self.grid, self._has_quality = reader.view.grid, "quality" in reader.layers
        self._frame()
        self.colours, self.smap_colours = (
            LinearColorMapper(palette=MOISTURE.palette, low=0, high=1, nan_color=CLEAR) for _ in range(2)
        )
        empty: dict[str, list[Any]] = {name: [] for name in _EXTENT}
        self.source = ColumnDataSource(empty | {"image": []} | ({"quality": []} if self._has_quality else {}))
        self.smap_source = ColumnDataSource(empty | {"whole": [], "cut": []})
        self.clicked = ColumnDataSource({"x": [], "y": []})
        self.map, self._hover = self._figure("map", self.source, "image", self.colours)
        self.smap, smap_hover = self._figure("smap", self.smap_source, "whole", self.smap_colours)
        smap_hover.tooltips = [("SMAP", "@whole{0.000} m³/m³")]
        self.smap_over_map = self.map.image(
            "cut", color_mapper=self.smap_colours, source=self.smap_source, **_EXTENT
        )  # fmt: skip
        self.divider = Span(
            location=(self.x.start + self.x.end) / 2, dimension="height", line_color=_LINE, line_width=2
        )
        self.map.add_layout(self.divider)
        for plot in (self.map, self.smap):
            for xs, ys in outline:
                plot.line(xs, ys, color=_LINE, line_width=1.2)
            plot.scatter("x", "y", source=self.clicked, marker="cross", size=18, color=_MARKER, line_width=3)
        self.swipe = pn.widgets.IntSlider(
            label="SMAP to the left of, % of the map", start=0, end=100, value=50, sizing_mode="stretch_width"
        )
        self.swipe.jscallback(
            value=_DIVIDER_JS, args={"source": self.smap_source, "range": self.x, "line": self.divider}
        )  # fmt: skip
        self.heading, self.smap_heading = (pn.pane.HTML(sizing_mode="stretch_width") for _ in range(2))
        style = {"flex": "1 1 300px", "min-width": "280px", "max-width": f"calc({_TALLEST}vh * {self._aspect:.4f})"}
        self.map_column, self.smap_column = (
            pn.Column(*parts, sizing_mode="stretch_width", styles=style)
            for parts in ((self.heading, self.map, self.swipe), (self.smap_heading, self.smap))
        )

    def _frame(self) -> None:
        """Set the ranges around the grid, neither very wide nor very high."""
        left, bottom, right, top = self.grid.boundingbox.bbox
        x, y = (left + right) / 2, (bottom + top) / 2
        height = 1.02 * max(top - bottom, (right - left) / 2.5)
        width = max(1.02 * (right - left), height / 1.6)
        self._home = (x - width / 2, x + width / 2, y - height / 2, y + height / 2)
        self._aspect = width / height
        smallest = 8 * abs(self.grid.affine.a)
        self.x = Range1d(*self._home[:2], min_interval=smallest)
        self.y = Range1d(*self._home[2:], min_interval=smallest)

    def _figure(
        self, name: str, source: ColumnDataSource, column: str, colours: LinearColorMapper
    ) -> tuple[Any, HoverTool]:
        plot = figure(
            name=name, x_range=self.x, y_range=self.y, aspect_ratio=self._aspect, sizing_mode="scale_width",
            min_border=0, tools=[PanTool(), WheelZoomTool(), BoxZoomTool(match_aspect=True), ResetTool()],
            active_scroll="auto",
        )  # fmt: skip
        plot.axis.visible = plot.grid.visible = False
        plot.toolbar.logo = None
        plot.toolbar_inner = True
        crs = CRS.from_user_input(str(self.grid.crs))
        if crs.is_projected and crs.axis_info[0].unit_conversion_factor == 1.0:
            plot.add_layout(ScaleBar(range=self.x, unit="m", location="bottom_right", background_fill_alpha=0.7))
        image = plot.image(column, source=source, color_mapper=colours, **_EXTENT)
        hover = HoverTool(renderers=[image], point_policy="follow_mouse")
        plot.add_tools(hover)
        return plot, hover

    def arrange(self, *, side: bool, swiped: bool) -> None:
        """Show SMAP beside the map, over it up to the divider, or not at all."""
        self.swipe.visible = self.smap_over_map.visible = self.divider.visible = swiped
        self.smap_column.visible = side

    def describe(self, layer: ViewLayer, scale: Scale, *, swiped: bool) -> None:
        """Set what is shown of the pixel under the pointer."""
        tips, formatters = [], {}
        if scale.classes is None:
            tips.append((layer.title, f"@image{{{number_format(layer.units)}}} {layer.units}"))
        if self._has_quality:
            tips.append(("quality", "@quality{custom}"))
            formatters["@quality"] = CustomJSHover(code=_FLAG_NAMES_JS)
        if scale.classes is not None and not (self._has_quality and scale.edges is None):
            tips.append((layer.title, "@image{custom}"))
            formatters["@image"] = CustomJSHover(code=f"return {list(scale.names)!r}[value] ?? ''")
        self._hover.formatters = formatters
        self._hover.tooltips = [*tips, *([("SMAP", "@smap{0.000} m³/m³")] if swiped else [])]

    def draw(
        self,
        window: PixelWindow,
        image: NDArray[np.float32],
        *,
        quality: NDArray[np.uint16] | None,
        smap: NDArray[np.float32] | None,
        swiped: bool,
    ) -> None:
        """Draw arrays (y, x) of a window.

        Parameters
        ----------
        window
            Their place in the grid.
        image
            Values or positions of classes.
        quality
            Flags, for the tooltip, where the view has them.
        smap
            SMAP, where it is shown.
        swiped
            Whether SMAP lies over the map up to the divider.
        """
        extent = window_extent(self.grid, window)
        data = {"image": [_from_south(image)], **extent}
        if quality is not None:
            data["quality"] = [_from_south(quality)]
        if smap is not None:
            whole = _from_south(smap)
            cut = np.full((1, 1), np.nan, np.float32)
            if swiped:
                data["smap"] = [whole]  # for the tooltip
                share = (self.divider.location - extent["x"][0]) / extent["dw"][0]
                cut = whole.copy()
                cut[:, round(whole.shape[1] * min(max(share, 0.0), 1.0)) :] = np.nan
            self.smap_source.data = {"whole": [whole], "cut": [cut], **extent}
        self.source.data = data

    def place_divider(self) -> None:
        """Move the divider to where the slider says, in the visible part."""
        self.divider.location = self.x.start + (self.x.end - self.x.start) * self.swipe.value / 100

    def mark(self, row: int, col: int) -> None:
        """Mark the centre of a pixel."""
        x, y = self.grid.affine * (col + 0.5, row + 0.5)
        self.clicked.data = {"x": [x], "y": [y]}

    def zoom(self, factor: float) -> None:
        """Scale the visible part about its centre, within bounds; infinity shows the whole map."""
        if math.isinf(factor):
            x0, x1, y0, y1 = self._home
        else:
            width, widest = self.x.end - self.x.start, 4 * (self._home[1] - self._home[0])
            factor = min(max(factor, self.x.min_interval / width), widest / width)
            (x0, x1), (y0, y1) = (
                ((a + b - factor * (b - a)) / 2, (a + b + factor * (b - a)) / 2)
                for a, b in ((self.x.start, self.x.end), (self.y.start, self.y.end))
            )
        self.x.update(start=x0, end=x1)
        self.y.update(start=y0, end=y1)

    def visible(self, margin: float = _MARGIN) -> PixelWindow:
        """Return the window of the visible pixels and a margin, in steps of about a pixel of the screen."""
        height, width = self.grid.shape
        inverse = ~self.grid.affine
        left, top = inverse * (self.x.start, self.y.end)
        right, bottom = inverse * (self.x.end, self.y.start)
        try:
            screen = self.map.inner_width or _WIDTH
        except UnsetValueError:  # the browser has not reported it yet
            screen = _WIDTH
        step = 2 ** max(round(math.log2(max((right - left) / screen, 1e-9))), 0)
        across, down = margin * (right - left), margin * (bottom - top)
        return PixelWindow(
            *_steps(top - down, bottom + down, height, step), *_steps(left - across, right + across, width, step), step
        )


def window_extent(grid: GeoBox, window: PixelWindow) -> dict[str, list[float]]:
    """Return lower left corner, width and height of a window in the grid's CRS, as bokeh's images have them."""
    x, y = grid.affine * (window.left, window.bottom)
    width, height = grid.affine.a * (window.right - window.left), -grid.affine.e * (window.bottom - window.top)
    return {"x": [x], "y": [y], "dw": [width], "dh": [height]}


def _steps(low: float, high: float, size: int, step: int) -> tuple[int, int]:
    """Return the whole steps of an axis of some size that hold low to high; one at least."""
    first = min(max(math.floor(low / step), 0), (size - 1) // step)
    last = max(min(math.ceil(high / step), -(-size // step)), first + 1)
    return first * step, last * step


def _from_south(values: NDArray[Any]) -> NDArray[Any]:
    """Turn rows from north to south into rows from south to north."""
    return np.ascontiguousarray(values[::-1])
