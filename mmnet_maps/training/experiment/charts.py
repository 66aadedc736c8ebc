"""Figures of an evaluation, after Xu et al. (2025): density scatter and feature importance.

Each ``…_figure`` returns a matplotlib figure, 1600 pixels wide or more; `canvas.write_figure` writes it. No model, no
table format and no global state of matplotlib is involved. `station_charts` draws metrics per station.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.plots.canvas import (
    UNIT,
    WIDTH,
    Floats,
    Metrics,
    colour_bar,
    head,
    label_outer,
    legend,
    metric_texts,
    patch_legend,
    plain,
    sheet,
)
from mmnet_maps.plots.colours import INK, KIND_COLOURS, dry_to_wet
from mmnet_maps.training.plots import share_bars

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL = 0.01


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


def density_figure(panels: Mapping[str, Mapping[str, Pairs]], *, title: str, source: str) -> Figure:
    """Draw estimated against observed soil moisture as densities, on one colour scale (Fig. 3 of the paper).

    Densities are counts in cells of 0.01 m³/m³; the least-squares line regresses the estimate on the observation.

    Parameters
    ----------
    panels
        By scenario (rows) and network (columns); networks may be missing from a scenario.
    title, source
        Heading and source line.

    Raises
    ------
    InputError
        When there is no panel, or one without a row that has both values.
    """
    from matplotlib.colors import LogNorm

    networks = list(dict.fromkeys(name for row in panels.values() for name in row))
    if not networks:
        raise InputError("no panel to draw; give at least one scenario with one network")
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
    """Return estimate and observation (2, n) of the rows that have both."""
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
    """Count the pairs in each cell (estimate, observation)."""
    return np.histogram2d(values[0], values[1], bins=edges)[0]


def _draw_density(
    axes: Axes, edges: NDArray[np.float64], counts: NDArray[np.float64], values: NDArray[np.float64], norm: Any
) -> Any:
    estimate, observed = values
    ends = edges[[0, -1]]
    mesh = axes.pcolormesh(edges, edges, np.ma.masked_equal(counts, 0), cmap=dry_to_wet(), norm=norm, rasterized=True)
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


def importance_figure(
    panels: Mapping[str, Mapping[str, float]], series: Collection[str], *, title: str, source: str
) -> Figure:
    """Draw the shares of the variables in a network's estimates as bars (Fig. 8 of the paper).

    Variables are in the same order in all panels, that of their mean share.

    Parameters
    ----------
    panels
        Percent by variable, by network or scenario; a variable that a network does not use is absent.
    series
        The variables that are series of days; the others are of the day itself.
    title, source
        Heading and source line.

    Raises
    ------
    InputError
        When there is nothing to draw, or a share is negative or not a number.
    """
    names = list(dict.fromkeys(name for shares in panels.values() for name in shares))
    if not names:
        raise InputError("no variable to draw; give at least one panel with one share")
    for panel, shares in panels.items():
        for name, share in shares.items():
            if not (math.isfinite(share) and share >= 0):
                raise InputError(f"{panel}: the share of {name} is {share}; expected percent from 0")
    mean = {name: np.mean([shares.get(name, 0.0) for shares in panels.values()]) for name in names}
    names.sort(key=lambda name: -mean[name])
    longest = max(share for shares in panels.values() for share in shares.values())
    figure = sheet(0.19 * len(names) + 0.95, title, source, legend=True)
    for axes, (panel, shares) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True
    ):
        share_bars(axes, {name: shares.get(name) for name in names}, series, longest)
        plain(axes)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("share of the importance (%)", fontsize=8.5, color=INK)
        part = sum(share for name, share in shares.items() if name in series)
        head(axes, panel, [f"of the day {sum(shares.values()) - part:.0f} %, series {part:.0f} %"])
    patch_legend(figure, {"of the day": KIND_COLOURS["snapshot"], "series of days": KIND_COLOURS["series"]})
    return figure
