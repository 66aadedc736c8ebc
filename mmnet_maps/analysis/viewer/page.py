"""The page of the viewer: maps of a day, layers, a swipe against SMAP, and the series at a place."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from html import escape
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import panel as pn
from bokeh.events import RangesUpdate, Tap
from numpy.typing import NDArray
from pyproj import Transformer

from mmnet_maps.analysis.viewer.controls import Controls
from mmnet_maps.analysis.viewer.export import ShownMap, png
from mmnet_maps.analysis.viewer.panes import MapPanes, Rings, window_extent
from mmnet_maps.analysis.viewer.place_series import Series, describe_day, read_series, series_figure
from mmnet_maps.analysis.viewer.scale import MOISTURE
from mmnet_maps.analysis.viewer.selection import ALONE, DIFFERENCE, SIDE, SWIPE, LayerReader, PixelWindow, Selection
from mmnet_maps.errors import MMNetError, RequestError

if TYPE_CHECKING:
    from mmnet_maps.analysis.viewer.data import Viewable
    from mmnet_maps.stack.store import Stack


class Page:
    """The page of one visitor: connects the controls, the maps and what is read.

    Parameters
    ----------
    view
        The maps or the stack to show.
    stack
        Source of the rain at a clicked place, if there is one.
    outline
        Rings of x and y in the view's CRS, drawn over the maps.
    """

    def __init__(self, view: Viewable, *, stack: Stack | None = None, outline: Rings = ()) -> None:
        self.view, self.stack, self.outline = view, stack, outline
        self.reader = LayerReader(view)
        self.controls = Controls(self.reader)
        self.maps = MapPanes(self.reader, outline)
        self.series: Series | None = None
        self._to_lonlat = Transformer.from_crs(str(view.grid.crs), "EPSG:4326", always_xy=True)
        self._drawn: tuple[Selection, PixelWindow] | None = None
        self._layer_of_limits: str | None = None
        self._connect()
        self.change()

    def layout(self) -> Any:
        """Return the page as Panel serves it."""
        return self.controls.layout(self.maps, self.view, quality="quality" in self.reader.layers)

    # ---- callbacks ---------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        controls = self.controls
        for widget in (controls.day, controls.layer, controls.reference, controls.hidden, controls.arrangement):
            widget.param.watch(self._guarded(self.change), "value")
        controls.limits.param.watch(self._guarded(self.recolour), "value")
        controls.place.param.watch(self._guarded(self.find_place), "value")
        for factor, button in controls.zooms.items():
            button.on_click(self._guarded(partial(self.zoom, factor)))
        controls.save_png.callback = self.picture
        controls.save_csv.callback = self.table
        for plot in (self.maps.map, self.maps.smap):
            plot.on_event(RangesUpdate, self._guarded(self.refresh))
            plot.on_event(Tap, lambda event: self._guarded(partial(self.select, event.x, event.y))(event))

    def _guarded(self, action: Callable[[], None]) -> Callable[..., None]:
        """Wrap a callback so that its errors appear on the page."""

        def run() -> None:
            """Run the action and show its error, or hide the last one."""
            try:
                action()
            except MMNetError as error:
                self.controls.show_error(error)
            else:
                self.controls.message.visible = False

        def callback(*_: Any) -> None:
            document = pn.state.curdoc
            if document is not None and document.session_context is not None:
                document.add_next_tick_callback(run)  # widgets call back before the document is locked
            else:
                run()

        return callback

    def change(self) -> None:
        """Show another day, layer or arrangement."""
        selection = self.controls.selection
        self.scale = self.reader.scale(selection)
        self._arrange(selection)
        if self._layer_of_limits != selection.layer:
            self._layer_of_limits = selection.layer
            self.controls.reset_limits(*self.reader.limits(selection.layer))
        self.recolour()
        self.refresh()
        if self.series:
            self._show_series(self.series)

    def refresh(self) -> None:
        """Read and draw the visible part, unless it is what was drawn last."""
        self.maps.place_divider()
        selection, window = self.controls.selection, self.maps.visible()
        if (selection, window) == self._drawn:
            return
        reader = self.reader
        beside = reader.has_smap and selection.arrangement != ALONE
        self.maps.draw(
            window,
            self._encode(reader.values(selection, window)),
            quality=reader.read("quality", selection.day, window) if "quality" in reader.layers else None,
            smap=reader.read("smap", selection.day, window) if beside else None,
            swiped=selection.arrangement == SWIPE,
        )
        self._drawn = (selection, window)

    def recolour(self) -> None:
        """Draw in the present colours and limits; SMAP keeps those of soil moisture beside other layers."""
        controls, layer = self.controls, self.controls.layer.value
        low, high = controls.colour_limits
        mapped = self.scale.mapper_limits(low, high)
        self.maps.colours.update(palette=self.scale.palette, low=mapped[0], high=mapped[1])
        controls.limits.visible = self.scale.classes is None
        controls.legend.object = self.scale.legend(low, high)
        if self.reader.has_smap:
            own = layer != "soil_moisture"
            limits = self.reader.limits("soil_moisture") if own else (low, high)
            self.maps.smap_colours.update(low=limits[0], high=limits[1])
            self.maps.smap_heading.object = f"<b>SMAP, 9 km</b>{MOISTURE.legend(*limits) if own else ''}"

    def select(self, x: float, y: float) -> None:
        """Show the series at a place in the view's CRS.

        Raises
        ------
        RequestError
            The place is not on the map.
        """
        height, width = self.view.grid.shape
        across, down = ~self.view.grid.affine * (x, y)
        if not (0 <= down < height and 0 <= across < width):  # refuses NaN too
            raise RequestError("that place is not on the map; choose one within it")
        row, col = math.floor(down), math.floor(across)
        layer = "soil_moisture" if self.controls.layer.value == DIFFERENCE else self.controls.layer.value
        self.series = read_series(self.view, row, col, layer, self.stack)
        self.maps.mark(row, col)
        self.controls.save_csv.param.update(
            disabled=False,
            filename=f"series_{self.series.lon:.4f}_{self.series.lat:.4f}{'_synthetic' * self.view.synthetic}.csv",
        )
        self._show_series(self.series)

    def find_place(self) -> None:
        """Show the series at the longitude and latitude that were typed in.

        Raises
        ------
        RequestError
            The text is not a place on the map.
        """
        text = self.controls.place.value.strip()
        if not text:
            return
        try:
            lon, lat = (float(part) for part in text.split(","))
        except ValueError:
            raise RequestError(
                f"{text!r} is not a place; expected longitude,latitude: {self.controls.place.placeholder}"
            ) from None
        self.select(*self._to_lonlat.transform(lon, lat, direction="INVERSE"))

    def zoom(self, factor: float) -> None:
        """Scale the visible part about its centre; infinity shows the whole map."""
        self.maps.zoom(factor)
        self.refresh()

    def picture(self) -> BytesIO:
        """Return a PNG of the visible part, empty when it cannot be read."""
        selection, window = self.controls.selection, self.maps.visible(margin=0.0)
        mark = "_synthetic" * self.view.synthetic
        self.controls.save_png.filename = (
            f"{self.view.title}_{selection.day:%Y%m%d}{mark}_{selection.layer}.png".replace(" ", "_")
        )
        try:
            values = self._encode(self.reader.values(selection, window))
        except MMNetError as error:
            self.controls.show_error(error)
            return BytesIO()
        (x,), (y,), (width,), (height,) = window_extent(self.view.grid, window).values()
        return BytesIO(
            png(
                ShownMap(
                    values=values,
                    box=(x, y, x + width, y + height),
                    scale=self.scale,
                    limits=self.controls.colour_limits,
                    outline=self.outline,
                ),
                f"{self.view.title}, {selection.day_text}",
                synthetic=self.view.synthetic,
            )
        )

    def table(self) -> StringIO:
        """Return the series as CSV."""
        assert self.series is not None, "the button is enabled once there is a series"
        return StringIO(self.series.table().to_csv(index=False, float_format="%.6g", lineterminator="\n"))

    # ---- parts of the above ------------------------------------------------------------------------------------------

    def _arrange(self, selection: Selection) -> None:
        """Show the parts, headings and tooltips that go with a selection."""
        layer, swiped = self.reader.layer(selection.layer), selection.arrangement == SWIPE
        self.controls.reference.visible = selection.layer == DIFFERENCE
        self.maps.arrange(side=selection.arrangement == SIDE, swiped=swiped)
        self.maps.heading.object = f"<b>{'SMAP, 9 km | ' * swiped}{escape(layer.title)}</b>, {selection.day_text}"
        self.maps.describe(layer, self.scale, swiped=swiped)

    def _encode(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return values as they are drawn; classes that the overview did not show are added to the scale."""
        if self.scale.classes is not None and self.scale.edges is None:
            present = {int(value) for value in np.unique(values)}
            scale = self.reader.scale(self.controls.selection, present | set(self.scale.classes))
            if scale != self.scale:
                self.scale = scale
                self.recolour()
        return self.scale.encode(values)

    def _show_series(self, series: Series) -> None:
        day = self.controls.day.value
        text = escape(describe_day(series, day, self.reader.layers))
        self.controls.summary.object = f"<p><b>{series.lat:.4f}°, {series.lon:.4f}°</b> on {day}: {text}</p>"
        self.controls.series.objects = [series_figure(series, day)]
