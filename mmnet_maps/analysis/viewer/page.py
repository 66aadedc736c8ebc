"""The page of the viewer: maps read as they are looked at, days, layers, a swipe against SMAP, a series at a click."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from datetime import date
from functools import lru_cache, partial
from html import escape
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import panel as pn
from bokeh.core.property.descriptors import UnsetValueError
from bokeh.events import RangesUpdate, Tap
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
from pyproj import CRS, Transformer

from mmnet_maps.analysis.viewer.export import png
from mmnet_maps.analysis.viewer.place_series import Series, number_format, read_series, series_figure
from mmnet_maps.errors import MMNetError, RequestError
from mmnet_maps.product.layers import QUALITY_BITS
from mmnet_maps.product.picture import nice_length, scale_range
from mmnet_maps.product.qgis import COLOURS, quality_colour, quality_label
from mmnet_maps.variables import LANDCOVER_CLASSES

if TYPE_CHECKING:
    from mmnet_maps.analysis.viewer.data import Viewable
    from mmnet_maps.stack.store import Stack

Rings = Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]

SIDE, SWIPE, ALONE = "Side by side", "Swipe", "One map"
DIFFERENCE = "difference"
_REASONS = ("outside_area", "unknown_land_cover", "input_missing")
_DRY_WET = ("#8c510a", "#bf812d", "#dfc27d", "#f6e8c3", "#f5f5f5", "#c7eae5", "#80cdc1", "#35978f", "#01665e")
_COVERS = ("#b8a26a", "#d9d47a", "#b5aca0", "#7fb9c9", "#3f7a4c", "#a5555a", "#c9a227", "#9fca6b")
_OTHER_COVER, _CLEAR, _PINK = "#7fb2dd", "rgba(0, 0, 0, 0)", "#c2185b"
_HELD = 12  # readings of a layer, each up to some MB
_WIDTH = 600  # pixels of a map on the page, until the browser has told
_MARGIN = 0.1  # read around what is seen, so that a small move shows something at once
_OVERVIEW = 400
_MESSAGE = {"background": "#f8d7da", "border-left": "5px solid #a52834", "padding": "6px 10px"}
_TALLEST = 70  # % of the window's height for a map

# Names of the flags that are set in a value of quality.
_SPELL = f"""
const found = {list(QUALITY_BITS)!r}.filter((name, bit) => (value >> bit) & 1);
return found.length ? found.join(", ").replaceAll("_", " ") : "no flag";
"""
# Left of the swipe SMAP lies over the map: nothing is asked of the server while it moves.
_CUT = """
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


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How values become colours: by limits, or one colour for each of some classes.

    Attributes
    ----------
    colours
        From low to high, or one a class.
    label
        What the values are, with units.
    classes, names
        Values, ascending, and what they are called; none for numbers.
    """

    colours: tuple[str, ...]
    label: str
    classes: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def coded(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """What is drawn: the values, or the positions of their classes; NaN where there is nothing."""
        if not self.classes:
            return values.astype(np.float32, copy=False)
        known = np.array(self.classes)
        place = np.searchsorted(known, values).clip(0, len(known) - 1)
        return np.where(known[place] == values, place, np.nan).astype(np.float32)


class Page:
    """The page as one visitor has it.

    Parameters
    ----------
    view
        What is looked at.
    stack
        Where the rain at a clicked place comes from, if there is any.
    outline
        Rings of x and y in the view's CRS, drawn over the maps.
    """

    def __init__(self, view: Viewable, *, stack: Stack | None = None, outline: Rings = ()) -> None:
        self.view, self.stack, self.outline = view, stack, outline
        self.named = {shown.name: shown for shown in view.shown}
        self.compared = "soil_moisture" in self.named and "smap" in self.named
        self.read = lru_cache(maxsize=_HELD)(self._read)
        self.series: Series | None = None
        self._shown: tuple[Any, ...] = ()
        self._lonlat = Transformer.from_crs(str(view.grid.crs), "EPSG:4326", always_xy=True)
        self._limits_of = lru_cache(maxsize=None)(self._first_limits)
        self._limited: str | None = None
        self._make_controls()
        self._make_maps()
        self.change()

    # ---- what it is made of ------------------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        days = {day.isoformat(): day for day in self.view.days}
        layers = {one.title: one.name for one in self.view.shown if not (self.compared and one.name == "smap")}
        if "soil_moisture" in self.named and len(days) > 1:
            layers["Difference between two days"] = DIFFERENCE
        self.day = pn.widgets.DiscretePlayer(
            label="Day", options=days, value=self.view.opening, interval=1200, loop_policy="loop", value_align="start",
            show_loop_controls=False, width=330,
        )  # fmt: skip
        first = "soil_moisture" if "soil_moisture" in self.named else next(iter(layers.values()))
        self.layer = pn.widgets.Select(label="Layer", options=layers, value=first, width=230)
        self.other = pn.widgets.Select(label="less the map of", options=days, value=self.view.days[0], width=130)
        self.arrangement = pn.widgets.RadioButtonGroup(
            label="Arrangement", options=[SIDE, SWIPE, ALONE], value=SIDE if self.compared else ALONE,
            visible=self.compared, width=260,
        )  # fmt: skip
        self.limits = pn.widgets.RangeSlider(label="Colours", start=0.0, end=1.0, step=0.01, width=230)
        flags = {name.replace("_", " "): name for name in QUALITY_BITS if name not in (*_REASONS, "synthetic")}
        self.hidden = pn.widgets.CheckBoxGroup(label="Hide pixels", options=flags, inline=True)
        self.swipe = pn.widgets.IntSlider(
            label="SMAP to the left of, % of the map", start=0, end=100, value=50, sizing_mode="stretch_width"
        )
        self.place = pn.widgets.TextInput(label="Series at longitude,latitude", placeholder=self._centre(), width=200)
        self.message = pn.pane.HTML(visible=False, sizing_mode="stretch_width", styles=_MESSAGE)
        self.key, self.heading, self.smap_heading, self.about = (
            pn.pane.HTML(sizing_mode="stretch_width") for _ in range(4)
        )
        self.about.object = "<p>Click on the map for the days at that place.</p>"
        self.below = pn.Column(sizing_mode="stretch_width")
        self.zooms = [
            pn.widgets.Button(label=name, width=95, on_click=self.told(partial(self.zoom, factor)))
            for name, factor in (("Zoom in", 0.5), ("Zoom out", 2.0), ("Whole map", math.inf))
        ]
        self.save_png = pn.widgets.FileDownload(
            callback=self.picture, filename="map.png", label="PNG of this view", width=150
        )
        self.save_csv = pn.widgets.FileDownload(
            callback=self.table, filename="series.csv", label="CSV of the series", width=150, disabled=True
        )
        for widget in (self.day, self.layer, self.other, self.hidden, self.arrangement):
            widget.param.watch(self.told(self.change), "value")
        self.limits.param.watch(self.told(self.recolour), "value")
        self.place.param.watch(self.told(self.typed), "value")

    def _make_maps(self) -> None:
        left, bottom, right, top = self.view.grid.boundingbox.bbox
        x, y = (left + right) / 2, (bottom + top) / 2
        height = 1.02 * max(top - bottom, (right - left) / 2.5)
        width = max(1.02 * (right - left), height / 1.6)
        self.whole = (x - width / 2, x + width / 2, y - height / 2, y + height / 2)
        self.aspect = width / height
        least = 8 * abs(self.view.grid.affine.a)
        self.x = Range1d(*self.whole[:2], min_interval=least)
        self.y = Range1d(*self.whole[2:], min_interval=least)
        self.colours, self.smap_colours = (
            LinearColorMapper(palette=_ramp(COLOURS), low=0, high=1, nan_color=_CLEAR) for _ in range(2)
        )
        nothing: dict[str, list[Any]] = {name: [] for name in _PLACE}
        self.source = ColumnDataSource(nothing | {"image": []} | ({"quality": []} if "quality" in self.named else {}))
        self.smap_source = ColumnDataSource(nothing | {"whole": [], "cut": []})
        self.clicked = ColumnDataSource({"x": [], "y": []})
        self.map, self.hover = self._figure("map", self.source, "image", self.colours)
        self.smap, smap_hover = self._figure("smap", self.smap_source, "whole", self.smap_colours)
        smap_hover.tooltips = [("SMAP", "@whole{0.000} m³/m³")]
        self.over = self.map.image("cut", color_mapper=self.smap_colours, source=self.smap_source, **_PLACE)
        self.line = Span(location=x, dimension="height", line_color="#222222", line_width=2)
        self.map.add_layout(self.line)
        self.swipe.jscallback(value=_CUT, args={"source": self.smap_source, "range": self.x, "line": self.line})
        for plot in (self.map, self.smap):
            for xs, ys in self.outline:
                plot.line(xs, ys, color="#222222", line_width=1.2)
            plot.scatter("x", "y", source=self.clicked, marker="cross", size=18, color=_PINK, line_width=3)
            plot.on_event(RangesUpdate, self.told(self.refresh))
            plot.on_event(Tap, lambda event: self.told(partial(self.select, event.x, event.y))(event))
        pane = {"flex": "1 1 300px", "min-width": "280px", "max-width": f"calc({_TALLEST}vh * {self.aspect:.4f})"}
        self.panes = [
            pn.Column(*parts, sizing_mode="stretch_width", styles=pane)
            for parts in (
                (self.heading, self.map, self.swipe),
                (self.smap_heading, self.smap),
            )
        ]

    def _figure(
        self, name: str, source: ColumnDataSource, column: str, colours: LinearColorMapper
    ) -> tuple[Any, HoverTool]:
        plot = figure(
            name=name, x_range=self.x, y_range=self.y, aspect_ratio=self.aspect, sizing_mode="scale_width",
            min_border=0, tools=[PanTool(), WheelZoomTool(), BoxZoomTool(match_aspect=True), ResetTool()],
            active_scroll="auto",
        )  # fmt: skip
        plot.axis.visible = plot.grid.visible = False
        plot.toolbar.logo = None
        plot.toolbar_inner = True
        crs = CRS.from_user_input(str(self.view.grid.crs))
        if crs.is_projected and crs.axis_info[0].unit_conversion_factor == 1.0:
            plot.add_layout(ScaleBar(range=self.x, unit="m", location="bottom_right", background_fill_alpha=0.7))
        image = plot.image(column, source=source, color_mapper=colours, **_PLACE)
        hover = HoverTool(renderers=[image], point_policy="follow_mouse")
        plot.add_tools(hover)
        return plot, hover

    def layout(self) -> Any:
        """All of it, as Panel serves it."""
        row = {"sizing_mode": "stretch_width", "align_items": "flex-end", "gap": "4px 16px"}
        synthetic = (
            "<p style='background:#fff3cd;border-left:5px solid #b8860b;padding:6px 10px;margin:4px 0'>"
            "<b>Synthetic inputs: not an observation.</b></p>"
            if self.view.synthetic
            else ""
        )
        title = pn.pane.HTML(
            f"<h1 style='font-size:20px;margin:4px 0'>{escape(self.view.title)}</h1>{synthetic}",
            sizing_mode="stretch_width",
        )
        asked = pn.Column(
            self.about, self.below, sizing_mode="stretch_width", styles={"flex": "1 1 380px", "min-width": "280px"}
        )
        hiding = pn.Card(
            self.hidden, title="Hide pixels by quality", collapsed=True, sizing_mode="stretch_width", margin=(5, 10)
        )
        return pn.Column(
            title,
            pn.FlexBox(self.day, self.layer, self.other, self.arrangement, self.limits, **row),
            self.message,
            self.key,
            pn.FlexBox(*self.panes, asked, sizing_mode="stretch_width", gap="8px 16px", align_items="flex-start"),
            pn.FlexBox(*self.zooms, self.place, self.save_png, self.save_csv, **row),
            *([hiding] if "quality" in self.named else []),
            sizing_mode="stretch_width",
            styles={"font-family": "system-ui, sans-serif", "max-width": "1500px", "margin": "0 auto"},
        )

    def told(self, act: Callable[[], None]) -> Callable[..., None]:
        """What answers an event by an act; what goes wrong is told on the page, in one line."""

        def run() -> None:
            try:
                act()
            except MMNetError as error:
                self._tell(error)
            else:
                self.message.visible = False

        def answer(*_: Any) -> None:
            document = pn.state.curdoc
            if document is not None and document.session_context is not None:
                document.add_next_tick_callback(run)  # when the document is locked: widgets tell of changes before
            else:
                run()

        return answer

    def _tell(self, error: MMNetError) -> None:
        self.message.param.update(object=f"<span role='alert'>{escape(str(error))}</span>", visible=True)

    # ---- what happens ------------------------------------------------------------------------------------------------

    def change(self) -> None:
        """Another day, layer or arrangement was chosen."""
        self.scale = self._scale()
        self._arrange()
        low, high = self._limits_of(self.layer.value)
        if self._limited != self.layer.value:
            self._limited = self.layer.value
            span = high - low
            self.limits.param.update(
                start=low - span if low < 0 else max(low - span, 0.0), end=high + span,
                step=10.0 ** math.floor(math.log10(span / 20)), value=(low, high),
            )  # fmt: skip
        self.recolour()
        self.refresh()
        if self.series:
            self._show_series()

    def refresh(self) -> None:
        """Read what is seen, unless it is what was read last."""
        self.line.location = self.x.start + (self.x.end - self.x.start) * self.swipe.value / 100
        seen = self._seen_now()
        chosen = (self.layer.value, self.day.value, self.other.value, tuple(self.hidden.value), self.arrangement.value)
        if (chosen, seen) == self._shown:
            return
        place = self._extent(seen)
        data = {"image": [_upward(self._coded(self._values(seen)))], **place}
        if "quality" in self.named:
            data["quality"] = [_upward(self.read("quality", self.day.value, seen))]
        if self.compared and self.arrangement.value != ALONE:
            smap = _upward(self.read("smap", self.day.value, seen))
            cut = np.full((1, 1), np.nan, np.float32)
            if self.arrangement.value == SWIPE:
                data["smap"] = [smap]  # for who points at it
                share = (self.line.location - place["x"][0]) / place["dw"][0]
                cut = smap.copy()
                cut[:, round(smap.shape[1] * min(max(share, 0.0), 1.0)) :] = np.nan
            self.smap_source.data = {"whole": [smap], "cut": [cut], **place}
        self.source.data = data
        self._shown = (chosen, seen)

    def recolour(self) -> None:
        """The limits of the colours were moved, or the layer is another."""
        low, high = self._ends()
        classes = bool(self.scale.classes)
        self.colours.update(
            palette=list(self.scale.colours) if classes else _ramp(self.scale.colours),
            low=-0.5 if classes else low,
            high=len(self.scale.colours) - 0.5 if classes else high,
        )
        if self.compared:
            if self.layer.value != "soil_moisture":
                low, high = self._limits_of("soil_moisture")
            self.smap_colours.update(low=low, high=high)
            own = _bar(Scale(colours=COLOURS, label="m³/m³"), low, high) if self.layer.value != "soil_moisture" else ""
            self.smap_heading.object = f"<b>SMAP, 9 km</b>{own}"
        self.limits.visible = not classes
        self.key.object = _classes(self.scale) if classes else _bar(self.scale, *self._ends())

    def select(self, x: float, y: float) -> None:
        """A place was clicked: its series is shown."""
        height, width = self.view.grid.shape
        across, down = ~self.view.grid.affine * (x, y)
        if not (0 <= down < height and 0 <= across < width):  # nor is what is not finite
            raise RequestError("that place is not on the map; choose one within it")
        col, row = math.floor(across), math.floor(down)
        layer = "soil_moisture" if self.layer.value == DIFFERENCE else self.layer.value
        self.series = read_series(self.view, row, col, layer, self.stack)
        middle = self.view.grid.affine * (col + 0.5, row + 0.5)
        self.clicked.data = {"x": [middle[0]], "y": [middle[1]]}
        self.save_csv.param.update(
            disabled=False,
            filename=f"series_{self.series.lon:.4f}_{self.series.lat:.4f}{'_synthetic' * self.view.synthetic}.csv",
        )
        self._show_series()

    def typed(self) -> None:
        """A place was typed in."""
        text = self.place.value.strip()
        if not text:
            return
        try:
            lon, lat = (float(part) for part in text.split(","))
        except ValueError:
            raise RequestError(f"{text!r} is not a place; expected longitude,latitude: {self._centre()}") from None
        self.select(*self._lonlat.transform(lon, lat, direction="INVERSE"))

    def zoom(self, factor: float) -> None:
        """Show a part of what is seen, more, or the whole (`math.inf`)."""
        if math.isinf(factor):
            x0, x1, y0, y1 = self.whole
        else:
            narrowest, widest = self.x.min_interval, 4 * (self.whole[1] - self.whole[0])
            factor = min(max(factor, narrowest / (self.x.end - self.x.start)), widest / (self.x.end - self.x.start))
            (x0, x1), (y0, y1) = (
                ((a + b - factor * (b - a)) / 2, (a + b + factor * (b - a)) / 2)
                for a, b in ((self.x.start, self.x.end), (self.y.start, self.y.end))
            )
        self.x.update(start=x0, end=x1)
        self.y.update(start=y0, end=y1)
        self.refresh()

    def picture(self) -> BytesIO:
        """A PNG of what is seen."""
        seen = self._seen_now(margin=0.0)
        (x,), (y,), (across,), (along,) = self._extent(seen).values()
        self.save_png.filename = (
            f"{self.view.title}_{self.day.value:%Y%m%d}{'_synthetic' * self.view.synthetic}_{self.layer.value}.png"
        ).replace(" ", "_")
        try:
            values = self._coded(self._values(seen))
        except MMNetError as error:
            self._tell(error)
            return BytesIO()
        return BytesIO(
            png(
                values,
                box=(x, y, x + across, y + along),
                colours=self.scale.colours,
                limits=self._ends(),
                title=f"{self.view.title}, {self._day_text()}",
                label=self.scale.label,
                names=self.scale.names if self.scale.classes else None,
                outline=self.outline,
                synthetic=self.view.synthetic,
            )
        )

    def table(self) -> StringIO:
        """The series as CSV."""
        assert self.series is not None, "the button is there once there is a series"
        return StringIO(self.series.table().to_csv(index=False, float_format="%.6g", lineterminator="\n"))

    # ---- how it is done ----------------------------------------------------------------------------------------------

    def _read(self, layer: str, day: date, seen: Seen) -> NDArray[Any]:
        window = (slice(seen.top, seen.bottom), slice(seen.left, seen.right))
        return self.view.read(layer, day, window, step=seen.step)

    def _values(self, seen: Seen) -> NDArray[Any]:
        """What is drawn of the chosen layer, day and flags, before it becomes colours."""
        day = self.day.value
        values: NDArray[Any]
        if self.layer.value == DIFFERENCE:
            values = self.read("soil_moisture", day, seen) - self.read("soil_moisture", self.other.value, seen)
        else:
            values = self.read(self.layer.value, day, seen)
        if self.hidden.value and not self.scale.classes:
            bits = sum(1 << QUALITY_BITS[name] for name in self.hidden.value)
            days = (day, self.other.value) if self.layer.value == DIFFERENCE else (day,)
            for one in days:
                values = np.where(self.read("quality", one, seen) & bits, np.float32(np.nan), values)
        return values

    def _seen_now(self, margin: float = _MARGIN) -> Seen:
        """The pixels that are seen and some around them, in steps of about a pixel of the screen."""
        height, width = self.view.grid.shape
        inverse = ~self.view.grid.affine
        left, top = inverse * (self.x.start, self.y.end)
        right, bottom = inverse * (self.x.end, self.y.start)
        try:
            on_screen = self.map.inner_width or _WIDTH
        except UnsetValueError:  # the browser has not told yet
            on_screen = _WIDTH
        step = 2 ** max(round(math.log2(max((right - left) / on_screen, 1e-9))), 0)
        across, along = margin * (right - left), margin * (bottom - top)

        def part(low: float, high: float, size: int) -> tuple[int, int]:
            first = min(max(math.floor(low / step), 0), (size - 1) // step)
            last = max(min(math.ceil(high / step), -(-size // step)), first + 1)
            return first * step, last * step

        top_bottom = part(top - along, bottom + along, height)
        return Seen(*top_bottom, *part(left - across, right + across, width), step)

    def _extent(self, seen: Seen) -> dict[str, list[float]]:
        """Where an image of these pixels lies."""
        affine = self.view.grid.affine
        x, y = affine * (seen.left, seen.bottom)
        across, along = affine.a * (seen.right - seen.left), -affine.e * (seen.bottom - seen.top)
        return {"x": [x], "y": [y], "dw": [across], "dh": [along]}

    def _overview(self) -> Seen:
        height, width = self.view.grid.shape
        step = 2 ** max(math.ceil(math.log2(max(height, width) / _OVERVIEW)), 0)
        return Seen(0, -(-height // step) * step, 0, -(-width // step) * step, step)

    def _first_limits(self, layer: str) -> tuple[float, float]:
        """Limits of the colours: of the middle 96 % on two of the days, one scale for all days."""
        days = dict.fromkeys((self.view.days[0], self.view.opening))
        if layer == DIFFERENCE:
            first, last = (self._read("soil_moisture", day, self._overview()) for day in days)
            found = np.abs(last - first)
            far = float(np.nanpercentile(found, 98)) if np.isfinite(found).any() else 0.0
            far = max(math.ceil(far * 50) / 50, 0.02)
            return -far, far
        if self.named[layer].flags:
            return 0.0, 1.0
        layers = ("soil_moisture", "smap") if self.compared and layer == "soil_moisture" else (layer,)
        values = [self._read(name, day, self._overview()) for day in days for name in layers]
        if self.named[layer].moisture:
            return scale_range(values)
        known = np.concatenate([part[np.isfinite(part)] for part in values])
        if not known.size:
            return 0.0, 1.0
        low, high = (float(part) for part in np.percentile(known, (2, 98)))
        return (low, high) if high > low else (low, low + max(abs(low), 1.0) / 10)

    def _coded(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """What is drawn of values; classes that the overview did not show are taken into the scale."""
        if self.scale.classes:
            seen = {int(value) for value in np.unique(values)}
            scale = self._scale(seen | set(self.scale.classes))
            if scale != self.scale:
                self.scale = scale
                self.recolour()
        return self.scale.coded(values)

    def _scale(self, also: Set[int] = frozenset()) -> Scale:
        """How the chosen layer becomes colours; its classes are those of the overview, and some others."""
        if self.layer.value == DIFFERENCE:
            return Scale(colours=_DRY_WET, label=f"Change from {self.other.value} to {self.day.value} (m³/m³)")
        shown = self.named[self.layer.value]
        if shown.flags:
            found = {int(value) for value in np.unique(self.read(shown.name, self.day.value, self._overview()))} | also
        if shown.name == "landcover":
            codes = {code: name for name, some in LANDCOVER_CLASSES.items() for code in some}
            colours = dict(zip(LANDCOVER_CLASSES, _COVERS, strict=True))
            there = sorted(found - {0})
            return Scale(
                colours=tuple(colours.get(codes.get(code, ""), _OTHER_COVER) for code in there),
                label=shown.title,
                classes=tuple(there),
                names=tuple(f"{codes.get(code, 'other')} (NLCD {code})" for code in there),
            )
        if shown.flags:
            there = sorted(found - {1 << QUALITY_BITS["outside_area"]})
            return Scale(
                colours=tuple(quality_colour(value)[0] for value in there),
                label=shown.title,
                classes=tuple(there),
                names=tuple(quality_label(value).partition(": ")[2] for value in there),
            )
        return Scale(colours=COLOURS, label=f"{shown.title}{f' ({shown.units})' if shown.units else ''}")

    def _arrange(self) -> None:
        """Show what goes with the chosen layer and arrangement."""
        difference = self.layer.value == DIFFERENCE
        self.other.visible = difference
        swiped = self.arrangement.value == SWIPE
        self.swipe.visible = self.over.visible = self.line.visible = swiped
        self.panes[1].visible = self.arrangement.value == SIDE
        shown = "Difference of soil moisture" if difference else self.named[self.layer.value].title
        self.heading.object = f"<b>{'SMAP, 9 km | ' * swiped}{escape(shown)}</b>, {self._day_text()}"
        unit = " m³/m³" if difference else f" {self.named[self.layer.value].units}"
        tips = [] if self.scale.classes else [(shown, f"@image{{{number_format(unit.strip())}}}{unit}")]
        self.hover.formatters = {}
        if "quality" in self.named:
            tips.append(("quality", "@quality{custom}"))
            self.hover.formatters = {"@quality": CustomJSHover(code=_SPELL)}
        elif self.scale.classes:
            tips.append((shown, "@image{custom}"))
            self.hover.formatters = {"@image": CustomJSHover(code=f"return {list(self.scale.names)!r}[value] ?? ''")}
        self.hover.tooltips = [*tips, *([("SMAP", "@smap{0.000} m³/m³")] if swiped else [])]

    def _day_text(self) -> str:
        day = self.day.value
        return f"{day} less {self.other.value}" if self.layer.value == DIFFERENCE else f"{day}"

    def _show_series(self) -> None:
        series = self.series
        assert series is not None
        at = series.days.index(self.day.value)
        words = []
        for name, values in series.values.items():
            value, title = values[at], self.named[name].title
            if name == "quality":
                words.append(f"quality: {quality_label(int(value)).partition(': ')[2]}")
            elif np.isfinite(value):
                words.append(
                    f"{title}: {value:.{len(number_format(self.named[name].units)) - 2}f} {self.named[name].units}"
                )
            else:
                words.append(f"{title}: no value")
        self.about.object = (
            f"<p><b>{series.lat:.4f}°, {series.lon:.4f}°</b> on {self.day.value}: {escape('; '.join(words))}</p>"
        )
        self.below.objects = [series_figure(series, self.day.value)]

    def _ends(self) -> tuple[float, float]:
        """The limits of the colours, which do not meet."""
        low, high = self.limits.value
        return low, max(high, low + self.limits.step)

    def _centre(self) -> str:
        """The middle of the map as one types it."""
        height, width = self.view.grid.shape
        lon, lat = self._lonlat.transform(*(self.view.grid.affine * (width / 2, height / 2)))
        return f"{lon:.3f},{lat:.3f}"


class Seen(NamedTuple):
    """Pixels of a view's grid, and how many along a side become one."""

    top: int
    bottom: int
    left: int
    right: int
    step: int


_PLACE = {"x": "x", "y": "y", "dw": "dw", "dh": "dh"}


def _ramp(colours: Sequence[str]) -> list[str]:
    """Colours between colours, evenly: 256 of them."""
    stops = np.array([list(bytes.fromhex(colour.removeprefix("#"))) for colour in colours], float)
    places = np.linspace(0, len(stops) - 1, 256)
    parts = [np.interp(places, np.arange(len(stops)), stops[:, band]).round().astype(int) for band in range(3)]
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in zip(*parts, strict=True)]


def _upward(values: NDArray[Any]) -> NDArray[Any]:
    """Rows from south to north, as bokeh has them."""
    return np.ascontiguousarray(values[::-1])


def _bar(scale: Scale, low: float, high: float) -> str:
    """A bar of colours with round numbers under it."""
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


def _classes(scale: Scale) -> str:
    """A box of colour and a name for each class."""
    box = "display:inline-block;width:14px;height:14px;border:1px solid #999;vertical-align:-2px;margin-right:5px"
    return "".join(
        f"<span style='display:inline-block;margin:0 14px 2px 0'><span style='{box};background:{colour}'></span>"
        f"{escape(name)}</span>"
        for colour, name in dict.fromkeys(zip(scale.colours, scale.names, strict=True))
    )
