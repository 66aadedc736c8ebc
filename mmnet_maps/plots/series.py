"""Soil moisture over time at stations: observed, estimated, interval, SMAP and rain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.plots.canvas import UNIT, Floats, Metrics, legend, metric_texts, plain, sheet
from mmnet_maps.plots.colours import INK, PALE, SMAP_COLOUR, network_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RAIN_COLOUR, _RAIN_INK = "#6fa8d6", "#3f7cad"


@dataclass(frozen=True, kw_only=True)
class StationSeries:
    """Series at one station; absent days and NaN are gaps.

    Attributes
    ----------
    name
        The station.
    days
        datetime64[D], shape (n,), each once, in any order.
    observed
        m³/m³, shape (n,).
    estimates
        m³/m³, shape (n,), by network.
    band
        Lower and upper end of an interval about the first estimate, m³/m³, shape (n,) each.
    smap
        m³/m³, shape (n,).
    rain
        mm/day, shape (n,).
    metrics
        By network.
    """

    name: str
    days: NDArray[np.datetime64]
    observed: Floats
    estimates: Mapping[str, Floats]
    band: tuple[Floats, Floats] | None = None
    smap: Floats | None = None
    rain: Floats | None = None
    metrics: Mapping[str, Metrics] = field(default_factory=dict)


def series_figure(
    stations: Sequence[StationSeries],
    *,
    title: str,
    source: str,
    band_label: str = "90 % interval",
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Draw soil moisture over time at stations, one below the other, on one date axis (Fig. 5 to 7 of the paper).

    Rain hangs from the top on an axis of its own. Lines are broken where days or values are missing; a single day
    between gaps is a dot.

    Parameters
    ----------
    stations
        From top to bottom.
    title, source
        Heading and source line.
    band_label
        Name of the bands in the legend.
    colours
        By network; by default those of `network_colours`.

    Raises
    ------
    InputError
        When there is no station, or one has no day, a duplicate day, or values of another shape than its days.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    if not stations:
        raise InputError("no station to draw; give at least one")
    names = list(dict.fromkeys(name for station in stations for name in station.estimates))
    known = colours or network_colours(names)
    colours = {name: known[name] for name in names}
    days = [_daily(station) for station in stations]
    lines = max(len(station.metrics) for station in stations)
    figure = sheet((1.95 + 0.14 * lines) * len(stations) + 0.25, title, source, legend=True)
    rows = figure.subplots(len(stations), 1, squeeze=False, sharex=True)[:, 0]
    for axes, station, axis in zip(rows, stations, days, strict=True):
        _draw_series(axes, station, axis, colours, band_label)
    margin = np.timedelta64(1, "D")
    rows[0].set_xlim(min(axis[0] for axis in days) - margin, max(axis[-1] for axis in days) + margin)
    locator = AutoDateLocator(minticks=4, maxticks=12)
    rows[-1].xaxis.set_major_locator(locator)
    rows[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))
    legend(figure, *figure.axes)
    return figure


def _daily(station: StationSeries) -> NDArray[np.datetime64]:
    """Return every day from a station's first to its last."""
    days = np.asarray(station.days, "datetime64[D]")
    if not days.size:
        raise InputError(f"{station.name} has no day to draw; leave the station out")
    named = {"observed": station.observed, "smap": station.smap, "rain": station.rain, **station.estimates}
    named |= dict(zip(("lower end", "upper end"), station.band, strict=True)) if station.band else {}
    for name, values in named.items():
        if values is not None and np.shape(values) != days.shape:
            raise InputError(
                f"{station.name}: {name} has shape {np.shape(values)}, its days {days.shape}; expected the same"
            )
    values, counts = np.unique(days, return_counts=True)
    if counts.max() > 1:
        raise InputError(f"{station.name} has {values[counts.argmax()]} {counts.max()} times; expected each day once")
    return np.arange(values[0], values[-1] + np.timedelta64(1, "D"))


def _draw_series(
    axes: Axes, station: StationSeries, axis: NDArray[np.datetime64], colours: Mapping[str, str], band_label: str
) -> None:
    places = (np.asarray(station.days, "datetime64[D]") - axis[0]).astype(int)

    def on_axis(values: Floats) -> NDArray[np.float64]:
        filled = np.full(axis.size, np.nan)
        filled[places] = values
        return filled

    size = 5.0 if axis.size <= 200 else 2.6
    axes.plot(
        axis, on_axis(station.observed), color=INK, linestyle="none", marker=".", markersize=size,
        markeredgewidth=0, label="observed" if np.isfinite(station.observed).any() else None, zorder=3,
    )  # fmt: skip
    if station.smap is not None:
        _line(axes, axis, on_axis(station.smap), "SMAP", SMAP_COLOUR, linestyle=(0, (4, 1.5)), zorder=2)
    for name, values in station.estimates.items():
        _line(axes, axis, on_axis(values), name, colours[name], zorder=4)
    if station.band:
        colour = colours[next(iter(station.estimates))] if station.estimates else SMAP_COLOUR
        low, high = map(on_axis, station.band)
        axes.fill_between(axis, low, high, color=colour, alpha=0.22, linewidth=0, label=band_label, zorder=1)
    floor, top = min(0.0, axes.get_ylim()[0]), axes.get_ylim()[1]
    axes.set_ylim(floor, top)
    if station.rain is not None and np.nansum(station.rain) > 0:
        axes.set_yticks([tick for tick in axes.get_yticks() if floor <= tick <= top])
        axes.set_ylim(top=floor + (top - floor) / 0.72)
        _draw_rain(axes, axis, on_axis(station.rain))
    plain(axes)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_ylabel(f"soil moisture ({UNIT})", fontsize=8.5, color=INK)
    axes.set_title(station.name, loc="left", fontsize=9, weight="bold", color=INK, pad=4, parse_math=False)
    for line, (name, metrics) in enumerate(reversed(list(station.metrics.items()))):
        text = "   ".join([*metric_texts(metrics), UNIT])
        axes.annotate(
            f"{name}   {text}" if len(colours) > 1 else text, (1, 1), (0, 4 + 10 * line), xycoords="axes fraction",
            textcoords="offset points", ha="right", fontsize=7.5,
            color=colours.get(name, PALE) if len(colours) > 1 else PALE, parse_math=False,
        )  # fmt: skip


def _line(
    axes: Axes, axis: NDArray[np.datetime64], values: NDArray[np.float64], label: str, colour: str, **style: Any
) -> None:
    """Draw a line that breaks at gaps; a value between two gaps, which no line would show, is a dot."""
    seen = np.isfinite(values)
    alone = np.flatnonzero(seen & ~np.append(False, seen[:-1]) & ~np.append(seen[1:], False))
    axes.plot(axis, values, color=colour, linewidth=1.2, label=label, **style)
    axes.plot(
        axis[alone], values[alone], color=colour, linestyle="none", marker=".", markersize=3, zorder=style["zorder"]
    )


def _draw_rain(axes: Axes, axis: NDArray[np.datetime64], rain: NDArray[np.float64]) -> None:
    """Draw bars in the upper quarter, on an axis that points down."""
    from matplotlib.ticker import MaxNLocator

    most = float(np.nanmax(rain))
    twin = axes.twinx()
    wet = rain > 0
    twin.bar(axis[wet], rain[wet], width=1.0, color=_RAIN_COLOUR, linewidth=0, label="rain")
    twin.set_ylim(most / 0.25, 0)
    twin.set_yticks([tick for tick in MaxNLocator(2, steps=[1, 2, 5, 10]).tick_values(0, most) if tick <= most * 1.05])
    plain(twin)
    twin.tick_params(colors=_RAIN_INK)
    twin.set_ylabel("rain (mm/day)", fontsize=7.5, color=_RAIN_INK, loc="top")
    axes.set_zorder(twin.get_zorder() + 1)
    axes.patch.set_visible(False)
