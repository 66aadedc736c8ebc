"""The widgets of the viewer's page and how they are laid out; their callbacks are in `page`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import panel as pn
from pyproj import Transformer

from mmnet_maps.analysis.viewer.selection import ALONE, DIFFERENCE, SIDE, SWIPE, Selection
from mmnet_maps.product.quality import NO_VALUE, QUALITY_BITS

if TYPE_CHECKING:
    from mmnet_maps.analysis.viewer.data import Viewable
    from mmnet_maps.analysis.viewer.panes import MapPanes
    from mmnet_maps.analysis.viewer.selection import LayerReader

_NOT_HIDDEN = (*NO_VALUE, "synthetic")  # no value there, or all of it
_MESSAGE = {"background": "#f8d7da", "border-left": "5px solid #a52834", "padding": "6px 10px"}
_ROW: dict[str, Any] = {"sizing_mode": "stretch_width", "align_items": "flex-end", "gap": "4px 16px"}
_STRETCH = "stretch_width"


class Controls:
    """All widgets beside the maps: what is selected, messages, the legend and the series at a place.

    Parameters
    ----------
    reader
        The layers to select from.
    """

    def __init__(self, reader: LayerReader) -> None:
        view = reader.view
        days = {day.isoformat(): day for day in view.days}
        layers = {one.title: one.name for one in view.layers if not (reader.has_smap and one.name == "smap")}
        if "soil_moisture" in reader.layers and len(days) > 1:
            layers["Difference between two days"] = DIFFERENCE
        first = "soil_moisture" if "soil_moisture" in reader.layers else next(iter(layers.values()))
        self.day = pn.widgets.DiscretePlayer(
            label="Day", options=days, value=view.opening, interval=1200, loop_policy="loop", value_align="start",
            show_loop_controls=False, width=330,
        )  # fmt: skip
        self.layer = pn.widgets.Select(label="Layer", options=layers, value=first, width=230)
        self.reference = pn.widgets.Select(label="less the map of", options=days, value=view.days[0], width=130)
        self.arrangement = pn.widgets.RadioButtonGroup(
            label="Arrangement", options=[SIDE, SWIPE, ALONE], value=SIDE if reader.has_smap else ALONE,
            visible=reader.has_smap, width=260,
        )  # fmt: skip
        self.limits = pn.widgets.RangeSlider(label="Colours", start=0.0, end=1.0, step=0.01, width=230)
        flags = {name.replace("_", " "): name for name in QUALITY_BITS if name not in _NOT_HIDDEN}
        self.hidden = pn.widgets.CheckBoxGroup(label="Hide pixels", options=flags, inline=True)
        self.zooms = {
            factor: pn.widgets.Button(label=label, width=95)
            for label, factor in (("Zoom in", 0.5), ("Zoom out", 2.0), ("Whole map", math.inf))
        }
        self.place = pn.widgets.TextInput(
            label="Series at longitude,latitude", placeholder=_centre(view), width=200
        )  # fmt: skip
        self.save_png = pn.widgets.FileDownload(filename="map.png", label="PNG of this view", width=150)
        self.save_csv = pn.widgets.FileDownload(
            filename="series.csv", label="CSV of the series", width=150, disabled=True
        )  # fmt: skip
        self.message = pn.pane.HTML(visible=False, sizing_mode=_STRETCH, styles=_MESSAGE)
        self.legend = pn.pane.HTML(sizing_mode=_STRETCH)
        self.summary = pn.pane.HTML("<p>Click on the map for the days at that place.</p>", sizing_mode=_STRETCH)
        self.series = pn.Column(sizing_mode=_STRETCH)

    @property
    def selection(self) -> Selection:
        """The present selection."""
        return Selection(
            layer=self.layer.value,
            day=self.day.value,
            reference=self.reference.value,
            hidden=tuple(self.hidden.value),
            arrangement=self.arrangement.value,
        )

    @property
    def colour_limits(self) -> tuple[float, float]:
        """The limits of the colours, always apart."""
        low, high = self.limits.value
        return low, max(high, low + self.limits.step)

    def reset_limits(self, low: float, high: float) -> None:
        """Set the limits of the colours, and let them be moved by the span between them."""
        span = high - low
        self.limits.param.update(
            start=low - span if low < 0 else max(low - span, 0.0), end=high + span,
            step=10.0 ** math.floor(math.log10(span / 20)), value=(low, high),
        )  # fmt: skip

    def show_error(self, error: Exception) -> None:
        """Show an error as text, never as markup."""
        self.message.param.update(object=f"<span role='alert'>{escape(str(error))}</span>", visible=True)

    def layout(self, maps: MapPanes, view: Viewable, *, quality: bool) -> Any:
        """Lay out the whole page.

        Parameters
        ----------
        maps
            The maps in the middle.
        view
            Gives the title.
        quality
            Whether pixels can be hidden by quality.
        """
        place = pn.Column(
            self.summary, self.series, sizing_mode=_STRETCH, styles={"flex": "1 1 380px", "min-width": "280px"}
        )
        below: Sequence[Any] = ()
        if quality:
            below = [
                pn.Card(
                    self.hidden, title="Hide pixels by quality", collapsed=True, sizing_mode=_STRETCH, margin=(5, 10)
                )
            ]
        return pn.Column(
            _title(view),
            pn.FlexBox(self.day, self.layer, self.reference, self.arrangement, self.limits, **_ROW),
            self.message,
            self.legend,
            pn.FlexBox(
                maps.map_column, maps.smap_column, place, sizing_mode=_STRETCH, gap="8px 16px", align_items="flex-start"
            ),
            pn.FlexBox(*self.zooms.values(), self.place, self.save_png, self.save_csv, **_ROW),
            *below,
            sizing_mode=_STRETCH,
            styles={"font-family": "system-ui, sans-serif", "max-width": "1500px", "margin": "0 auto"},
        )


def _title(view: Viewable) -> Any:
    notice = (
        "<p style='background:#fff3cd;border-left:5px solid #b8860b;padding:6px 10px;margin:4px 0'>"
        "<b>Synthetic inputs: not an observation.</b></p>"
        if view.synthetic
        else ""
    )
    heading = f"<h1 style='font-size:20px;margin:4px 0'>{escape(view.title)}</h1>"
    return pn.pane.HTML(heading + notice, sizing_mode=_STRETCH)


def _centre(view: Viewable) -> str:
    """Return the centre of the map as text to type: longitude,latitude."""
    height, width = view.grid.shape
    transformer = Transformer.from_crs(str(view.grid.crs), "EPSG:4326", always_xy=True)
    lon, lat = transformer.transform(*(view.grid.affine * (width / 2, height / 2)))
    return f"{lon:.3f},{lat:.3f}"
