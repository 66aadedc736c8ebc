"""A picture of a table of samples: where the stations are, how wet each is, and its days."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmnet_maps.metrics import TARGET
from mmnet_maps.plots.canvas import check_picture, plain, watermark, write_figure
from mmnet_maps.plots.colours import FULL_RANGE, INK, SMAP_COLOUR, dry_to_wet
from mmnet_maps.training.splits import BORDERS
from mmnet_maps.training.table_check import SamplesCheck, StationCheck

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

MOST_STATIONS = 120
"""Of more stations those with most rows have a panel; the map shows all."""

_WIDTH, _DPI = 13.0, 130
_ACROSS = 6
_SIDE, _PANEL, _BETWEEN = 0.55, 1.05, 0.27  # inches
_QUIET = "#777777"


def draw_samples(found: SamplesCheck, path: str | Path) -> None:
    """Draw a map of the stations, coloured by mean soil moisture, and the days of each; the PNG appears whole or not.

    Stations are numbered from west to east. Grey is the SMAP input, where the table has it.

    Raises
    ------
    OutputError
        When the picture cannot be written, or a file of that name is there that this software did not make.
    """
    from matplotlib.figure import Figure

    path = Path(path)
    check_picture(path)
    stations = sorted(found.stations, key=lambda one: (one.lon, one.lat, one.station))
    number = {one.station: k for k, one in enumerate(stations, 1)}
    kept = sorted(stations, key=lambda one: -one.rows)[:MOST_STATIONS]
    shown = [one for one in stations if one in kept]
    colours = dry_to_wet()
    rows = math.ceil(len(shown) / _ACROSS)
    top = _map_height(stations) + 1.35
    height = top + rows * (_PANEL + _BETWEEN) + 0.75
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    _heading(figure, found, len(shown), height)
    _draw_map(figure, stations, number, colours, height)
    _draw_panels(figure, found, shown, number, colours, height - top)
    if found.about.get("synthetic"):
        watermark(figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[]), _WIDTH, height, largest=34.0)
    write_figure(figure, path)


def _bounds(stations: Sequence[StationCheck]) -> tuple[float, float, float, float]:
    """West, south, east, north around the stations, with room for their numbers."""
    lon, lat = [one.lon for one in stations], [one.lat for one in stations]
    room = max(0.04 * max(max(lon) - min(lon), max(lat) - min(lat)), 0.2)
    return min(lon) - room, min(lat) - room, max(lon) + room, max(lat) + room


def _map_size(stations: Sequence[StationCheck]) -> tuple[float, float]:
    """Inches, so that a kilometre is as long to the east as to the north in the middle of the map."""
    west, south, east, north = _bounds(stations)
    shape = (north - south) / ((east - west) * math.cos(math.radians((north + south) / 2)))
    width = _WIDTH - 2 * _SIDE - 1.1
    return (width, width * shape) if width * shape <= 6.0 else (6.0 / shape, 6.0)


def _map_height(stations: Sequence[StationCheck]) -> float:
    return _map_size(stations)[1]


def _heading(figure: Figure, found: SamplesCheck, shown: int, height: float) -> None:
    first, last = min(one.first for one in found.stations), max(one.last for one in found.stations)
    count = len(found.stations)
    more = f"; the {shown} with most rows have a panel" if shown < count else ""
    smap = ", grey: SMAP input" if "smap" in found.samples.table.column_names else ""
    x = _SIDE / _WIDTH
    figure.text(x, 1 - 0.34 / height, Path(found.samples.name).name, size=15, weight="bold", color=INK)
    figure.text(
        x,
        1 - 0.60 / height,
        f"{len(found.samples)} rows, {count} stations, {first} to {last}{more}. Observed soil moisture, m³/m³, "
        f"coloured by the station's mean{smap}.",
        size=9,
        color=_QUIET,
    )


def _draw_map(
    figure: Figure, stations: Sequence[StationCheck], number: dict[str, int], colours: Colormap, height: float
) -> None:
    from matplotlib.patheffects import withStroke

    wide, high = _map_size(stations)
    base = height - 0.8 - high
    axes = figure.add_axes((_SIDE / _WIDTH, base / height, wide / _WIDTH, high / height), label="map")
    west, south, east, north = _bounds(stations)
    axes.set(xlim=(west, east), ylim=(south, north))
    axes.set_facecolor("#f7f7f5")
    axes.grid(color="#e3e3df", linewidth=0.6)
    axes.set_axisbelow(True)
    for lon in BORDERS:
        if west < lon < east:
            axes.axvline(lon, color=_QUIET, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    points = axes.scatter(
        [one.lon for one in stations],
        [one.lat for one in stations],
        c=[one.mean for one in stations],
        cmap=colours,
        vmin=FULL_RANGE[0],
        vmax=FULL_RANGE[1],
        s=52,
        edgecolors=INK,
        linewidths=0.6,
        plotnonfinite=True,
        zorder=3,
    )
    for one in stations:
        axes.annotate(
            str(number[one.station]),
            (one.lon, one.lat),
            xytext=(4.5, 3.5),
            textcoords="offset points",
            size=7,
            color=INK,
            path_effects=[withStroke(linewidth=1.8, foreground="white")],
            zorder=4,
        )
    _degrees(axes)
    side = figure.add_axes(((_SIDE + wide + 0.2) / _WIDTH, base / height, 0.16 / _WIDTH, high / height))
    bar = figure.colorbar(points, cax=side, extend="max")
    bar.set_label("mean soil moisture, m³/m³", size=8, color=INK)
    bar.ax.tick_params(labelsize=7.5, length=2.5, width=0.5, colors=INK)
    bar.outline.set_linewidth(0.5)


def _degrees(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}° {'W' if value < 0 else 'E'}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}° {'N' if value >= 0 else 'S'}")
    plain(axes)


def _draw_panels(
    figure: Figure,
    found: SamplesCheck,
    shown: Sequence[StationCheck],
    number: dict[str, int],
    colours: Colormap,
    top: float,
) -> None:
    """One panel a station, rows of six; all share their axes."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    samples = found.samples
    height = figure.get_size_inches()[1]
    names = samples.table.column_names
    observed = samples.numbers(TARGET) if TARGET in names else np.full(len(samples), np.nan, np.float32)
    smap = samples.snapshot(["smap"])["smap"] if "smap" in names else None
    days = samples.date
    highest = max(float(np.nanmax(values, initial=0.1)) for values in (observed, smap) if values is not None)
    limit = min(1.0, highest * 1.05)
    span = days.min(), max(days.max(), days.min() + 1)
    step = (_WIDTH - 2 * _SIDE + 0.15) / _ACROSS
    for k, one in enumerate(shown):
        row, col = divmod(k, _ACROSS)
        base = top - (row + 1) * (_PANEL + _BETWEEN) + _BETWEEN / 2
        place = ((_SIDE + col * step) / _WIDTH, base / height, (step - 0.15) / _WIDTH, _PANEL / height)
        axes = figure.add_axes(place, label=one.station)
        rows = np.flatnonzero(samples.station == one.station)
        rows = rows[np.argsort(days[rows], kind="stable")]
        if smap is not None:
            axes.plot(*_broken_at_gaps(days[rows], smap[rows]), color=SMAP_COLOUR, linewidth=0.8, zorder=2.5)
        shade = colours(one.mean / FULL_RANGE[1]) if np.isfinite(one.mean) else _QUIET
        axes.plot(*_broken_at_gaps(days[rows], observed[rows]), color=INK, linewidth=0.7, zorder=3)
        axes.fill_between(*_broken_at_gaps(days[rows], observed[rows]), color=shade, linewidth=0, zorder=2, alpha=0.85)
        axes.set(xlim=span, ylim=(0, limit))
        name = f"{number[one.station]}  {one.station}"
        axes.set_title(name, size=7.5, color=INK, loc="left", pad=2.0)
        locator = AutoDateLocator(minticks=2, maxticks=5)
        axes.xaxis.set(major_locator=locator, major_formatter=ConciseDateFormatter(locator, show_offset=False))
        plain(axes)
        axes.tick_params(
            labelsize=6.5, labelleft=col == 0, labelbottom=k + _ACROSS >= len(shown), length=2.0, direction="in"
        )


def _broken_at_gaps(days: Any, values: Any) -> tuple[Any, Any]:
    """Days and values with a NaN after each day that no row follows on the next one, so that no line spans a gap."""
    after = np.flatnonzero(np.diff(days).astype(np.int64) > 1) + 1
    return np.insert(days, after, days[after - 1] + 1), np.insert(values, after, np.nan)
