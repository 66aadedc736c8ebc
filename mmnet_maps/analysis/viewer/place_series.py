"""The daily series at a clicked pixel: its values, figure and table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.models import ColumnDataSource, DatetimeTickFormatter, HoverTool, LinearAxis, NumeralTickFormatter, Range1d
from bokeh.plotting import figure
from numpy.typing import NDArray
from pyproj import Transformer

from mmnet_maps.analysis.viewer.data import ViewedStack, number_format
from mmnet_maps.analysis.viewer.scale import flag_names

if TYPE_CHECKING:
    import pandas as pd

    from mmnet_maps.analysis.viewer.data import Viewable, ViewLayer
    from mmnet_maps.stack.store import Stack

_NINETY = 1.6449  # half the width of the central 90 % of a normal distribution, in standard deviations
_ESTIMATE, _SMAP, _RAIN = "#0072b2", "#d55e00", "#6fa8d6"


@dataclass(frozen=True, kw_only=True)
class Series:
    """Daily values of one pixel.

    Attributes
    ----------
    lon, lat
        Centre of the pixel, degrees.
    days
        The days, ascending.
    main
        The layer that is drawn; its name is a key of `values`.
    values
        Arrays (day,) by layer: float32, NaN where there is none; quality uint16.
    rain
        mm/day (day,), NaN where there is none; None without a stack.
    synthetic, synthetic_rain
        Whether the values, and the rain, come from synthetic inputs.
    """

    lon: float
    lat: float
    days: tuple[date, ...]
    main: ViewLayer
    values: Mapping[str, NDArray[Any]]
    rain: NDArray[np.float32] | None
    synthetic: bool
    synthetic_rain: bool

    def table(self) -> pd.DataFrame:
        """Return one row per day: ``date, lon, lat``, the layers, the flags in words, and rain where there is any."""
        import pandas as pd

        columns: dict[str, Any] = {"date": [day.isoformat() for day in self.days], "lon": self.lon, "lat": self.lat}
        columns |= dict(self.values)
        if "quality" in self.values:
            columns["flags"] = self.flags()
        if self.rain is not None:
            columns["precipitation"] = self.rain
        columns["synthetic"] = self.synthetic or (self.rain is not None and self.synthetic_rain)
        return pd.DataFrame(columns)

    def flags(self) -> list[str]:
        """Return the names of each day's quality flags."""
        return [flag_names(int(value)) for value in self.values["quality"]]


def read_series(view: Viewable, row: int, col: int, layer: str, stack: Stack | None) -> Series:
    """Read the series of one pixel.

    Parameters
    ----------
    view
        Of maps all layers are read, of a stack the selected layer.
    row, col
        The pixel in the view's grid.
    layer
        The layer selected on the page.
    stack
        Source of the rain, if there is one.
    """
    x, y = view.grid.affine * (col + 0.5, row + 0.5)
    lon, lat = Transformer.from_crs(str(view.grid.crs), "EPSG:4326", always_xy=True).transform(x, y)
    here = (slice(row, row + 1), slice(col, col + 1))
    layers = {one.name: one for one in view.layers}
    of_stack = isinstance(view, ViewedStack)
    main = "soil_moisture" if "soil_moisture" in layers and not of_stack else layer
    days = tuple(view.days)
    values = {
        name: np.array([view.read(name, day, here)[0, 0] for day in days]) for name in ([main] if of_stack else layers)
    }
    return Series(
        lon=round(lon, 5),
        lat=round(lat, 5),
        days=days,
        main=layers[main],
        values=values,
        rain=_rain(stack, x, y, str(view.grid.crs), days) if stack is not None else None,
        synthetic=view.synthetic,
        synthetic_rain=stack is not None and "pr" in stack.provenance and stack.provenance["pr"].synthetic,
    )


def _rain(stack: Stack, x: float, y: float, crs: str, days: tuple[date, ...]) -> NDArray[np.float32] | None:
    """Return precipitation of the weather cell at a place, mm/day; None where the stack has none."""
    if not any("pr" in group.variables for group in stack.groups.values()):
        return None
    lattice = stack.group_of("pr").lattice
    across, along = Transformer.from_crs(crs, str(lattice.crs), always_xy=True).transform(x, y)
    col, row = (int(np.floor(part)) for part in ~lattice.affine * (across, along))
    if not (0 <= row < lattice.shape.y and 0 <= col < lattice.shape.x):
        return None
    span = stack.read_days("pr", (slice(row, row + 1), slice(col, col + 1)), days[0], days[-1])[:, 0, 0]
    return span[[(day - days[0]).days for day in days]]


def describe_day(series: Series, day: date, layers: Mapping[str, ViewLayer]) -> str:
    """Return the values of a day as text: each layer by its title, with units."""
    at = series.days.index(day)
    phrases = []
    for name, values in series.values.items():
        layer, value = layers[name], values[at]
        if name == "quality":
            text = f"quality: {flag_names(int(value))}"
        elif np.isfinite(value):
            decimals = len(number_format(layer.units)) - len("0.")
            text = f"{layer.title}: {value:.{decimals}f} {layer.units}"
        else:
            text = f"{layer.title}: no value"
        phrases.append(text)
    return "; ".join(phrases)


def series_figure(series: Series, day: date) -> Any:
    """Draw a series with bokeh: daily values, the central 90 % of the estimate, SMAP, and rain from above.

    Parameters
    ----------
    series
        The series.
    day
        The day of the map, which is marked.
    """
    main, days = series.main, np.array(series.days, "datetime64[ms]")
    plot = figure(
        x_axis_type="datetime",
        height=300,
        sizing_mode="stretch_width",
        tools="pan,xwheel_zoom,box_zoom,reset",
        active_drag=None,
        x_range=Range1d(days[0] - np.timedelta64(1, "D"), days[-1] + np.timedelta64(1, "D")),
        y_axis_label=f"{main.title}{f' ({main.units})' if main.units else ''}",
        title=f"Latitude {series.lat:.4f}°, longitude {series.lon:.4f}°",
        name="series",
    )
    if series.rain is not None:
        _draw_rain(plot, days, series.rain.astype(float), "rain, synthetic" if series.synthetic_rain else "rain")
    highest = _draw_values(plot, days, series)
    values = series.values[main.name].astype(float)
    shown = np.array(series.days) == day
    if np.isfinite(values[shown]).any():
        plot.scatter(days[shown], values[shown], size=13, line_color="black", line_width=2, fill_color=None)
    if main.units == "m³/m³":
        plot.y_range = Range1d(0, 1.2 * max(highest, 0.1))
        plot.yaxis[0].formatter = NumeralTickFormatter(format="0.00")
    plot.xaxis.formatter = DatetimeTickFormatter(days="%d %b", months="%b %Y", hours="%d %b", years="%Y")
    plot.toolbar.logo = None
    plot.legend.update(
        orientation="horizontal",
        ncols=2,
        background_fill_alpha=0.6,
        label_text_font_size="9pt",
        border_line_color=None,
    )
    plot.add_layout(plot.legend[0], "below")
    return plot


def _draw_rain(plot: Any, days: NDArray[np.datetime64], rain: NDArray[np.float64], label: str) -> None:
    """Draw bars of rain that hang from the top, on an axis of their own."""
    most = float(np.nan_to_num(rain).max(initial=0))
    plot.extra_y_ranges = {"rain": Range1d(max(10.0, 3 * most), 0)}
    plot.add_layout(LinearAxis(y_range_name="rain", axis_label=f"{label} (mm/day)"), "right")
    width = 0.7 * 86_400_000  # of a day, ms
    plot.vbar(x=days, top=rain, width=width, color=_RAIN, legend_label=label, y_range_name="rain")


def _draw_values(plot: Any, days: NDArray[np.datetime64], series: Series) -> float:
    """Draw the interval, SMAP, and the values with tooltips; return the highest value drawn."""
    main = series.main
    values = series.values[main.name].astype(float)
    data: dict[str, Any] = {"day": days, "value": values}
    tips = [("day", "@day{%F}"), (main.title, f"@value{{{number_format(main.units)}}} {main.units}")]
    drawn = [values]
    if "soil_moisture_std" in series.values:
        std = series.values["soil_moisture_std"]
        data |= {"low": np.maximum(values - _NINETY * std, 0), "high": values + _NINETY * std, "std": std}
        tips.append(("standard deviation", "@std{0.000}"))
        drawn.append(data["high"])
    if "quality" in series.values:
        data["flags"] = series.flags()
        tips.append(("quality", "@flags"))
    source = ColumnDataSource(data)
    if "std" in data:
        plot.varea("day", "low", "high", source=source, color=_ESTIMATE, alpha=0.18, legend_label="90 % interval")
    if "smap" in series.values:
        drawn.append(series.values["smap"].astype(float))
        if main.name == "soil_moisture":
            plot.line(days, drawn[-1], color=_SMAP, line_dash="dashed", legend_label="SMAP, 9 km")
    plot.line("day", "value", source=source, color=_ESTIMATE, line_width=2, legend_label=main.title)
    dots = plot.scatter("day", "value", source=source, color=_ESTIMATE, size=6)
    plot.add_tools(HoverTool(renderers=[dots], tooltips=tips, formatters={"@day": "datetime"}))
    valid = np.concatenate([part[np.isfinite(part)] for part in drawn])
    return float(valid.max(initial=0))
