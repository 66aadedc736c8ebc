"""The picture of a table of samples: a map of the stations, coloured by wetness, and the days of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.metrics import TARGET
from mmnet_maps.plots.canvas import check_picture, place_text, plain, thin_bar, watermark, write_figure
from mmnet_maps.plots.colours import FULL_RANGE, INK, PALE, SMAP_COLOUR, dry_to_wet
from mmnet_maps.plots.maps import label_degrees
from mmnet_maps.training.splits import BORDERS
from mmnet_maps.training.table_check import SamplesCheck, StationCheck

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_STATIONS = 120
"""Of more stations those with most rows have a panel; the map shows all."""

_WIDTH, _DPI = 13.0, 130
_ACROSS = 6
_SIDE, _PANEL, _BETWEEN = 0.55, 1.05, 0.27  # inches
_STEP = (_WIDTH - 2 * _SIDE + 0.15) / _ACROSS


def draw_samples(found: SamplesCheck, path: str | Path) -> None:
    """Draw a map of the stations, coloured by mean soil moisture, and the days of each, to a PNG, whole or not at all.

    Stations are numbered from west to east. Grey is the SMAP input, where the table has it.

    Raises
    ------
    RequestError, OutputError
        See `canvas.write_figure`.
    """
    from matplotlib.figure import Figure

    path = Path(path)
    check_picture(path)
    stations = sorted(found.stations, key=lambda one: (one.lon, one.lat, one.station))
    number = {one.station: k for k, one in enumerate(stations, 1)}
    kept = sorted(stations, key=lambda one: -one.rows)[:MOST_STATIONS]
    shown = [one for one in stations if one in kept]
    size = _map_size(stations)
    top = size[1] + 1.35
    height = top + math.ceil(len(shown) / _ACROSS) * (_PANEL + _BETWEEN) + 0.75
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    _heading(figure, found, len(shown))
    panels = [_draw_map(figure, stations, number, size), *_draw_panels(figure, found, shown, number, height - top)]
    if found.about.get("synthetic"):
        for axes in panels:
            watermark(axes, *(size if axes is panels[0] else (_STEP - 0.15, _PANEL)))
    write_figure(figure, path)


def _bounds(stations: Sequence[StationCheck]) -> tuple[float, float, float, float]:
    """Return west, south, east, north around the stations, with room for their numbers."""
    lon, lat = [one.lon for one in stations], [one.lat for one in stations]
    room = max(0.04 * max(max(lon) - min(lon), max(lat) - min(lat)), 0.2)
    return min(lon) - room, min(lat) - room, max(lon) + room, max(lat) + room


def _map_size(stations: Sequence[StationCheck]) -> tuple[float, float]:
    """Return width and height in inches, so that a kilometre has the same length in both directions at the centre."""
    west, south, east, north = _bounds(stations)
    shape = (north - south) / ((east - west) * math.cos(math.radians((north + south) / 2)))
    width = _WIDTH - 2 * _SIDE - 1.1
    return (width, width * shape) if width * shape <= 6.0 else (6.0 / shape, 6.0)


def _heading(figure: Figure, found: SamplesCheck, shown: int) -> None:
    first, last = min(one.first for one in found.stations), max(one.last for one in found.stations)
    count = len(found.stations)
    more = f"; the {shown} with most rows have a panel" if shown < count else ""
    smap = ", grey: SMAP input" if "smap" in found.samples.table.column_names else ""
    top = figure.get_size_inches()[1]
    place_text(figure, _SIDE, top - 0.34, Path(found.samples.name).name, size=15, weight="bold")
    note = (
        f"{len(found.samples)} rows, {count} stations, {first} to {last}{more}. Observed soil moisture, m³/m³, "
        f"coloured by the station's mean{smap}."
    )
    place_text(figure, _SIDE, top - 0.60, note, size=9, color=PALE)


def _draw_map(
    figure: Figure, stations: Sequence[StationCheck], number: dict[str, int], size: tuple[float, float]
) -> Axes:
    """Draw the stations where they lie, numbered and coloured by their mean, and the colour bar."""
    wide, high = size
    height = figure.get_size_inches()[1]
    base = height - 0.8 - high
    axes = figure.add_axes((_SIDE / _WIDTH, base / height, wide / _WIDTH, high / height), label="map")
    west, south, east, north = _bounds(stations)
    axes.set(xlim=(west, east), ylim=(south, north), facecolor="#f7f7f5")
    axes.grid(color="#e3e3df", linewidth=0.6)
    axes.set_axisbelow(True)
    for lon in BORDERS:
        if west < lon < east:
            axes.axvline(lon, color=PALE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    low, most = FULL_RANGE
    points = axes.scatter(
        [one.lon for one in stations], [one.lat for one in stations], c=[one.mean for one in stations],
        cmap=dry_to_wet(), vmin=low, vmax=most, s=52, edgecolors=INK, linewidths=0.6, plotnonfinite=True, zorder=3,
    )  # fmt: skip
    _number_stations(axes, stations, number)
    label_degrees(axes)
    side = figure.add_axes(((_SIDE + wide + 0.2) / _WIDTH, base / height, 0.16 / _WIDTH, high / height))
    bar = figure.colorbar(points, cax=side, extend="max")
    bar.set_label("mean soil moisture, m³/m³", size=8, color=INK)
    thin_bar(bar)
    return axes


def _number_stations(axes: Axes, stations: Sequence[StationCheck], number: dict[str, int]) -> None:
    from matplotlib.patheffects import withStroke

    for one in stations:
        axes.annotate(
            str(number[one.station]), (one.lon, one.lat), xytext=(4.5, 3.5), textcoords="offset points", size=7,
            color=INK, path_effects=[withStroke(linewidth=1.8, foreground="white")], zorder=4,
        )  # fmt: skip


def _draw_panels(
    figure: Figure, found: SamplesCheck, shown: Sequence[StationCheck], number: dict[str, int], top: float
) -> list[Axes]:
    """Draw one panel per station in rows of six that share their axes."""
    samples = found.samples
    height = figure.get_size_inches()[1]
    names = samples.table.column_names
    observed = samples.numbers(TARGET) if TARGET in names else np.full(len(samples), np.nan, np.float32)
    smap = samples.snapshot(["smap"])["smap"] if "smap" in names else None
    highest = max(float(np.nanmax(values, initial=0.1)) for values in (observed, smap) if values is not None)
    days = samples.date
    span = days.min(), max(days.max(), days.min() + np.timedelta64(1, "D"))
    panels = []
    for k, one in enumerate(shown):
        row, col = divmod(k, _ACROSS)
        base = top - (row + 1) * (_PANEL + _BETWEEN) + _BETWEEN / 2
        place = ((_SIDE + col * _STEP) / _WIDTH, base / height, (_STEP - 0.15) / _WIDTH, _PANEL / height)
        axes = figure.add_axes(place, label=one.station)
        rows = np.flatnonzero(samples.station == one.station)
        rows = rows[np.argsort(days[rows], kind="stable")]
        _draw_days(axes, days[rows], observed[rows], None if smap is None else smap[rows], one.mean)
        axes.set(xlim=span, ylim=(0, min(1.0, highest * 1.05)))
        axes.set_title(f"{number[one.station]}  {one.station}", size=7.5, color=INK, loc="left", pad=2.0)
        axes.tick_params(
            labelsize=6.5, labelleft=col == 0, labelbottom=k + _ACROSS >= len(shown), length=2.0, direction="in"
        )
        panels.append(axes)
    return panels


def _draw_days(axes: Axes, days: NDArray[Any], observed: NDArray[Any], smap: NDArray[Any] | None, mean: float) -> None:
    """Draw the observations of a station, filled in the colour of their mean, and SMAP."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    if smap is not None:
        axes.plot(*_broken_at_gaps(days, smap), color=SMAP_COLOUR, linewidth=0.8, zorder=2.5)
    shade = dry_to_wet()(mean / FULL_RANGE[1]) if np.isfinite(mean) else PALE
    axes.plot(*_broken_at_gaps(days, observed), color=INK, linewidth=0.7, zorder=3)
    axes.fill_between(*_broken_at_gaps(days, observed), color=shade, linewidth=0, zorder=2, alpha=0.85)
    locator = AutoDateLocator(minticks=2, maxticks=5)
    axes.xaxis.set(major_locator=locator, major_formatter=ConciseDateFormatter(locator, show_offset=False))
    plain(axes)


def _broken_at_gaps(days: Any, values: Any) -> tuple[Any, Any]:
    """Return days and values with a NaN after each day before a gap, so that no line spans the gap."""
    after = np.flatnonzero(np.diff(days).astype(np.int64) > 1) + 1
    return np.insert(days, after, days[after - 1] + np.timedelta64(1, "D")), np.insert(values, after, np.nan)
