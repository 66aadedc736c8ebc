"""Figures of an evaluation, after Xu et al. (2025): density scatter, series at stations, importance of the inputs.

Each ``…_figure`` returns a matplotlib figure, 1600 pixels wide or more, and `canvas.write_figure` puts it on the
disk. No model, no format of tables and no global state of matplotlib is involved. `station_figures` holds those of
metrics per station.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.plots.canvas import (
    INK,
    PALE,
    SMAP_COLOUR,
    UNIT,
    WIDTH,
    Floats,
    Metrics,
    colour_bar,
    head,
    label_outer,
    legend,
    metric_texts,
    network_colours,
    patch_legend,
    plain,
    sheet,
)
from mmnet_maps.product.qgis import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL = 0.01
_RAIN_COLOUR, _RAIN_INK = "#6fa8d6", "#3f7cad"
_SNAPSHOT_COLOUR, _SERIES_COLOUR = "#0072b2", "#e69f00"


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Estimates and observations of one network in one scenario.

    Attributes
    ----------
    estimate, observed
        m³/m³, shape (n,); rows where either is NaN are left out.
    median
        Metrics over stations, ``evaluate.report(...)["median"]``.
    stations
        Number of stations.
    """

    estimate: Floats
    observed: Floats
    median: Metrics = field(default_factory=dict)
    stations: int | None = None


@dataclass(frozen=True, kw_only=True)
class StationSeries:
    """What there is of one station over time; days that are absent, and NaN, are gaps.

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


def density_figure(panels: Mapping[str, Mapping[str, Pairs]], *, title: str, source: str) -> Figure:
    """Estimated over observed soil moisture as densities, on one colour scale (Fig. 3 of the paper).

    Counts are of cells of 0.01 m³/m³; the least-squares line is of the estimate on the observation.

    Parameters
    ----------
    panels
        By scenario (rows) and network (columns); a scenario may lack networks.
    title, source
        Heading, and the line that says where the values come from.

    Raises
    ------
    InputError
        There is no panel, or one without a row that has both values.
    """
    from matplotlib.colors import LogNorm

    networks = list(dict.fromkeys(name for row in panels.values() for name in row))
    if not networks:
        raise InputError("there is no panel to draw; give at least one scenario with one network")
    pairs = {
        (scenario, name): _paired(f"{scenario}, {name}", found)
        for scenario, row in panels.items()
        for name, found in row.items()
    }
    low = min(0.0, math.floor(min(values.min() for values in pairs.values()) * 20) / 20)
    high = max(0.1, math.ceil(max(values.max() for values in pairs.values()) * 20) / 20)
    edges = np.linspace(low, high, round((high - low) / _CELL) + 1)
    counts = {key: _counts(values.clip(low, high), edges) for key, values in pairs.items()}
    norm = LogNorm(1, max(10.0, *(count.max() for count in counts.values())))

    columns = len(networks)
    width = max(WIDTH, 1.9 * columns)
    size = min(5.5, (width - 1.6) / columns - 0.1)
    figure = sheet((size + 1.0) * len(panels) + 0.3, title, source, width=width, legend=True)
    grid = figure.subplots(len(panels), columns, squeeze=False, sharex=True, sharey=True)
    for row, (scenario, found) in zip(grid, panels.items(), strict=True):
        for axes, name in zip(row, networks, strict=True):
            if name not in found:
                axes.set_visible(False)
                continue
            mesh = _draw_density(axes, edges, counts[scenario, name], pairs[scenario, name], norm)
            head(axes, name, [scenario, *_pair_lines(pairs[scenario, name].shape[1], found[name])])
    label_outer(grid, f"observed ({UNIT})", f"estimated ({UNIT})")
    colour_bar(figure, mesh, f"station-days per ({_CELL:g} {UNIT})²")
    legend(figure, *grid.flat)
    return figure


def _paired(name: str, found: Pairs) -> NDArray[np.float64]:
    """Estimate and observation (2, n) of the rows that have both."""
    estimate, observed = (np.asarray(values, np.float64) for values in (found.estimate, found.observed))
    if estimate.ndim != 1 or estimate.shape != observed.shape:
        raise InputError(
            f"{name}: estimates of shape {estimate.shape}, observations of {observed.shape}; expected (n,)"
        )
    both = np.isfinite(estimate) & np.isfinite(observed)
    if not both.any():
        raise InputError(f"{name}: no row has both an estimate and an observation; leave the panel out")
    return np.stack([estimate[both], observed[both]])


def _counts(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pairs in each cell (estimate, observation)."""
    return np.histogram2d(values[0], values[1], bins=edges)[0]


def _draw_density(
    axes: Axes, edges: NDArray[np.float64], counts: NDArray[np.float64], values: NDArray[np.float64], norm: Any
) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    estimate, observed = values
    colours = LinearSegmentedColormap.from_list("light_to_dark", COLOURS)
    ends = edges[[0, -1]]
    mesh = axes.pcolormesh(edges, edges, np.ma.masked_equal(counts, 0), cmap=colours, norm=norm, rasterized=True)
    axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), label="1:1")
    if np.ptp(observed) > 1e-6:  # m³/m³: less is one value, but for rounding
        slope, offset = np.polyfit(observed, estimate, 1)
        x = np.array([observed.min(), observed.max()])
        axes.plot(x, slope * x + offset, color="#d55e00", linewidth=1.5, label="least squares")
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.set_xticks(np.arange(math.ceil(ends[0] * 5 - 1e-6), math.floor(ends[1] * 5 + 1e-6) + 1) / 5)
    axes.set_yticks(axes.get_xticks())
    plain(axes)
    return mesh


def _pair_lines(rows: int, found: Pairs) -> list[str]:
    stations = "" if found.stations is None else f", {found.stations} stations"
    if not found.median:
        return [f"n = {rows:,}{stations}".replace(",", " ", rows >= 1000)]
    texts = metric_texts(found.median)
    count = f"{rows:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return [f"n = {count}{stations}", "  ".join(texts[:2]), "  ".join(texts[2:])]


def series_figure(
    stations: Sequence[StationSeries], *, title: str, source: str, band_label: str = "90 % interval"
) -> Figure:
    """Soil moisture over time at stations, one below the other, on one axis of dates (Fig. 5 to 7 of the paper).

    Rain hangs from the top on an axis of its own. Lines are broken where days or values are missing; a single day
    between gaps is a dot.

    Parameters
    ----------
    stations
        From top to bottom.
    title, source
        Heading, and the line that says where the values come from.
    band_label
        What the bands are.

    Raises
    ------
    InputError
        There is no station, one has no day, a day twice, or values that do not fit its days.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    if not stations:
        raise InputError("there is no station to draw; give at least one")
    names = list(dict.fromkeys(name for station in stations for name in station.estimates))
    colours = network_colours(names)
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
    """Every day from a station's first to its last."""
    days = np.asarray(station.days, "datetime64[D]")
    if not days.size:
        raise InputError(f"{station.name} has no day to draw; leave it out")
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
    return np.arange(values[0], values[-1] + 1)


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
    """A line that gaps break; a value between two gaps, which no line would show, is a dot."""
    seen = np.isfinite(values)
    alone = np.flatnonzero(seen & ~np.append(False, seen[:-1]) & ~np.append(seen[1:], False))
    axes.plot(axis, values, color=colour, linewidth=1.2, label=label, **style)
    axes.plot(
        axis[alone], values[alone], color=colour, linestyle="none", marker=".", markersize=3, zorder=style["zorder"]
    )


def _draw_rain(axes: Axes, axis: NDArray[np.datetime64], rain: NDArray[np.float64]) -> None:
    """Bars in the upper quarter, on an axis that counts down."""
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


def importance_figure(
    panels: Mapping[str, Mapping[str, float]], series: Collection[str], *, title: str, source: str
) -> Figure:
    """Shares of the variables in a network's estimates as bars (Fig. 8 of the paper).

    Variables are in the same order in all panels, that of their mean share.

    Parameters
    ----------
    panels
        Percent by variable, by network or scenario; a variable that a network does not use is absent.
    series
        The variables that are series of days; the others are of the day itself.
    title, source
        Heading, and the line that says where the values come from.

    Raises
    ------
    InputError
        There is nothing to draw, or a share is negative or not a number.
    """
    names = list(dict.fromkeys(name for shares in panels.values() for name in shares))
    if not names:
        raise InputError("there is no variable to draw; give at least one panel with one share")
    for panel, shares in panels.items():
        for name, share in shares.items():
            if not (math.isfinite(share) and share >= 0):
                raise InputError(f"{panel}: the share of {name} is {share}; expected percent from 0")
    mean = {name: np.mean([shares.get(name, 0.0) for shares in panels.values()]) for name in names}
    names.sort(key=lambda name: -mean[name])
    longest = max(share for shares in panels.values() for share in shares.values())
    colours = {"of the day": _SNAPSHOT_COLOUR, "series of days": _SERIES_COLOUR}
    figure = sheet(0.19 * len(names) + 0.95, title, source, legend=True)
    for axes, (panel, shares) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True
    ):
        for place, name in enumerate(names):
            if name in shares:
                axes.barh(place, shares[name], 0.72, color=_SERIES_COLOUR if name in series else _SNAPSHOT_COLOUR)
                axes.text(
                    shares[name] + 0.015 * longest, place, f"{shares[name]:.1f}", va="center", fontsize=6.5, color=INK
                )
        axes.set_yticks(range(len(names)), names)
        axes.set(xlim=(0, longest * 1.18 or 1), ylim=(len(names) - 0.4, -0.6))
        plain(axes)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("share of the importance (%)", fontsize=8.5, color=INK)
        part = sum(share for name, share in shares.items() if name in series)
        head(axes, panel, [f"of the day {sum(shares.values()) - part:.0f} %, series {part:.0f} %"])
    patch_legend(figure, colours)
    return figure
