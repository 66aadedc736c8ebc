"""The daily series at a pixel that was clicked: its values, the figure of it, and its CSV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.models import DatetimeTickFormatter, HoverTool, LinearAxis, NumeralTickFormatter, Range1d
from bokeh.plotting import figure
from numpy.typing import NDArray
from pyproj import Transformer

from mmnet_maps.analysis.viewer.data import ViewedStack
from mmnet_maps.product.qgis import quality_label

if TYPE_CHECKING:
    import pandas as pd

    from mmnet_maps.analysis.viewer.data import Viewable
    from mmnet_maps.stack.store import Stack

_NINETY = 1.6449  # of the normal distribution: half the width of its central 90 %, in standard deviations
_INK, _SMAP, _RAIN = "#0072b2", "#d55e00", "#6fa8d6"


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values of one pixel day by day.

    Attributes
    ----------
    lon, lat
        Centre of the pixel, degrees.
    title, units
        Of `main`.
    main
        The layer that the series is of; its name is a key of `values`.
    values
        Per layer an array (day,): float32, NaN where there is none; quality uint16.
    rain
        mm/day, (day,), NaN where there is none; None without a stack.
    synthetic, synthetic_rain
        Whether the values, and the rain, are not observations.
    """

    lon: float
    lat: float
    days: tuple[date, ...]
    title: str
    units: str
    main: str
    values: Mapping[str, NDArray[Any]]
    rain: NDArray[np.float32] | None
    synthetic: bool
    synthetic_rain: bool

    def table(self) -> pd.DataFrame:
        """One row a day: ``date, lon, lat``, the layers, the flags in words, and rain where there is any."""
        import pandas as pd

        columns: dict[str, Any] = {"date": [day.isoformat() for day in self.days], "lon": self.lon, "lat": self.lat}
        columns |= dict(self.values)
        if "quality" in self.values:
            columns["flags"] = [quality_label(int(value)).partition(": ")[2] for value in self.values["quality"]]
        if self.rain is not None:
            columns["precipitation"] = self.rain
        columns["synthetic"] = self.synthetic or (self.rain is not None and self.synthetic_rain)
        return pd.DataFrame(columns)


def read_series(view: Viewable, row: int, col: int, layer: str, stack: Stack | None) -> Series:
    """The series of the pixel at a row and column of a view's grid.

    Parameters
    ----------
    view
        What is looked at; of maps all layers are read, of a stack the chosen layer.
    row, col
        The pixel.
    layer
        The layer chosen on the page.
    stack
        Where rain comes from, if there is any.
    """
    x, y = view.grid.affine * (col + 0.5, row + 0.5)
    lon, lat = Transformer.from_crs(str(view.grid.crs), "EPSG:4326", always_xy=True).transform(x, y)
    here = (slice(row, row + 1), slice(col, col + 1))
    named = {shown.name: shown for shown in view.shown}
    of_stack = isinstance(view, ViewedStack)
    main = "soil_moisture" if "soil_moisture" in named and not of_stack else layer
    read = [main] if of_stack else list(named)
    days = tuple(view.days)
    values = {name: np.array([view.read(name, day, here)[0, 0] for day in days]) for name in read}
    return Series(
        lon=round(lon, 5),
        lat=round(lat, 5),
        days=days,
        title=named[main].title,
        units=named[main].units,
        main=main,
        values=values,
        rain=_rain(stack, x, y, str(view.grid.crs), days) if stack is not None else None,
        synthetic=view.synthetic,
        synthetic_rain=stack is not None and "pr" in stack.provenance and stack.provenance["pr"].synthetic,
    )


def _rain(stack: Stack, x: float, y: float, crs: str, days: tuple[date, ...]) -> NDArray[np.float32] | None:
    """Precipitation of the cell that holds a place, mm/day; None where the stack has none there."""
    if not any("pr" in group.variables for group in stack.groups.values()):
        return None
    lattice = stack.group_of("pr").lattice
    across, along = Transformer.from_crs(crs, str(lattice.crs), always_xy=True).transform(x, y)
    col, row = (int(np.floor(part)) for part in ~lattice.affine * (across, along))
    if not (0 <= row < lattice.shape.y and 0 <= col < lattice.shape.x):
        return None
    span = stack.read_days("pr", (slice(row, row + 1), slice(col, col + 1)), days[0], days[-1])[:, 0, 0]
    return span[[(day - days[0]).days for day in days]]


def number_format(units: str) -> str:
    """How bokeh writes numbers of some units: humidity in kg/kg has its first digits after the third."""
    return "0.00000" if units == "kg/kg" else "0.000"


def series_figure(series: Series, shown: date) -> Any:
    """A bokeh figure: values by day, the central 90 % of the estimate, SMAP, and rain from above.

    Parameters
    ----------
    series
        What is drawn.
    shown
        The day of the map, which is marked.
    """
    days = np.array(series.days, "datetime64[ms]")
    values = series.values[series.main].astype(float)
    plot = figure(
        x_axis_type="datetime",
        height=300,
        sizing_mode="stretch_width",
        tools="pan,xwheel_zoom,box_zoom,reset",
        active_drag=None,
        x_range=Range1d(days[0] - np.timedelta64(1, "D"), days[-1] + np.timedelta64(1, "D")),
        y_axis_label=f"{series.title}{f' ({series.units})' if series.units else ''}",
        title=f"Latitude {series.lat:.4f}°, longitude {series.lon:.4f}°",
        name="series",
    )
    plot.toolbar.logo = None
    data: dict[str, Any] = {"day": days, "value": values}
    if series.rain is not None:
        rain = series.rain.astype(float)
        most = float(np.nan_to_num(rain).max(initial=0))
        plot.extra_y_ranges = {"rain": Range1d(max(10.0, 3 * most), 0)}
        named = "rain, synthetic" if series.synthetic_rain else "rain"
        plot.add_layout(LinearAxis(y_range_name="rain", axis_label=f"{named} (mm/day)"), "right")
        bars = {"x": days, "top": rain, "width": 0.7 * 86_400_000, "color": _RAIN, "legend_label": named}
        plot.vbar(**bars, y_range_name="rain")
    if "soil_moisture_std" in series.values:
        half = _NINETY * series.values["soil_moisture_std"]
        data |= {"low": np.maximum(values - half, 0), "high": values + half, "std": series.values["soil_moisture_std"]}
        plot.varea("day", "low", "high", source=data, color=_INK, alpha=0.18, legend_label="90 % interval")
    if "smap" in series.values and series.main == "soil_moisture":
        plot.line(days, series.values["smap"].astype(float), color=_SMAP, line_dash="dashed", legend_label="SMAP, 9 km")
    source = {name: data[name] for name in data}
    if "quality" in series.values:
        source["flags"] = [quality_label(int(value)).partition(": ")[2] for value in series.values["quality"]]
    plot.line("day", "value", source=source, color=_INK, line_width=2, legend_label=series.title)
    dots = plot.scatter("day", "value", source=source, color=_INK, size=6)
    tips = [("day", "@day{%F}"), (series.title, f"@value{{{number_format(series.units)}}} {series.units}")]
    tips += [("standard deviation", "@std{0.000}")] if "std" in source else []
    tips += [("quality", "@flags")] if "flags" in source else []
    plot.add_tools(HoverTool(renderers=[dots], tooltips=tips, formatters={"@day": "datetime"}))
    if series.units == "m³/m³":
        drawn = [data.get("high", values), values, *([series.values["smap"]] if "smap" in series.values else [])]
        top = max((float(part[np.isfinite(part)].max()) for part in drawn if np.isfinite(part).any()), default=0.1)
        plot.y_range = Range1d(0, 1.2 * max(top, 0.1))
    here = np.flatnonzero(np.array(series.days) == shown)
    if here.size and np.isfinite(values[here[0]]):
        plot.scatter(days[here], values[here], size=13, line_color="black", line_width=2, fill_color=None)
    plot.xaxis.formatter = DatetimeTickFormatter(days="%d %b", months="%b %Y", hours="%d %b", years="%Y")
    if series.units == "m³/m³":
        plot.yaxis[0].formatter = NumeralTickFormatter(format="0.00")
    plot.legend.orientation = "horizontal"
    plot.legend.ncols = 2
    plot.legend.background_fill_alpha = 0.6
    plot.legend.label_text_font_size = "9pt"
    plot.legend.border_line_color = None
    plot.add_layout(plot.legend[0], "below")
    return plot
