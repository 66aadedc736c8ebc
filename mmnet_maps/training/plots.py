"""Figures of a model: the importance of its inputs, and the calibration of its standard deviations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mmnet_maps.plots.canvas import SOFTWARE, place_source, place_text, write_figure
from mmnet_maps.plots.colours import INK, KIND_COLOURS, RULE, dry_to_wet
from mmnet_maps.training.calibration import Calibration, Reliability
from mmnet_maps.training.explain import Importance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150
_GIVEN, _RECALIBRATED = KIND_COLOURS["snapshot"], KIND_COLOURS["series"]


def draw_importance(found: Importance, path: Path) -> None:
    """Draw the share of each variable, and of the series by variable and day, to a PNG, whole or not at all.

    Raises
    ------
    RequestError, OutputError
        See `canvas.write_figure`.
    """
    from matplotlib.patches import Patch

    rows = found["variables"]
    height = max(1.4 + 0.26 * len(rows), 4.6)
    note = (
        f"Expected gradients of {found['rows']} rows against {found['baselines']} others each; "
        "mean absolute value, columns of a variable summed first."
    )
    figure = _figure((12.5, height), f"Feature importance of {found['model']}", note)
    axes = _axes(figure, (0.105, 0.6 / height, 0.335, 1 - 1.4 / height), "Share of each variable, %")
    series = [row["name"] for row in rows if row["kind"] == "series"]
    share_bars(axes, {row["name"]: row["share"] for row in rows}, series, max(row["share"] for row in rows))
    axes.legend(
        handles=[Patch(color=colour, label=kind) for kind, colour in KIND_COLOURS.items()],
        loc="lower right", frameon=False, fontsize=8,
    )  # fmt: skip
    _draw_days(figure, found)
    write_figure(figure, path)


def _draw_days(figure: Figure, found: Importance) -> None:
    """Draw the share of each day of the series, and below it that of each variable on each day."""
    height = figure.get_size_inches()[1]
    base, middle = 0.6 / height, 0.6 / height + 0.42 * (1 - 1.4 / height)
    foot = middle + 0.55 / height
    title = "Share of each day of the series, all variables together, %"
    above = _axes(figure, (0.545, foot, 0.37, 1 - 0.8 / height - foot), title)
    below = _axes(figure, (0.545, base, 0.37, middle - base), "Each variable on each day, 0.001 m³/m³")
    days = [row["days_before"] for row in found["days"]]
    above.bar(range(len(days)), [row["share"] for row in found["days"]], 0.72, color=KIND_COLOURS["series"])
    matrix = 1000 * np.array(list(found["by_day"].values()))
    image = below.imshow(matrix, cmap=dry_to_wet(), vmin=0, aspect="auto")
    below.set_yticks(range(len(matrix)), list(found["by_day"]))
    below.set_xlabel("days before", fontsize=8, color=INK)
    step = -(-len(days) // 16)
    for axes in (above, below):
        axes.set_xlim(-0.5, len(days) - 0.5)
        axes.set_xticks(range(len(days) - 1, -1, -step), [str(days[k]) for k in range(len(days) - 1, -1, -step)])
    bar = figure.colorbar(image, cax=figure.add_axes((0.925, base, 0.009, middle - base)))
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=7, length=2, width=0.5, colors=INK)


def share_bars(axes: Axes, shares: Mapping[str, float | None], series: Collection[str], longest: float) -> None:
    """Draw the share of each variable as a bar with its number, from top to bottom.

    Parameters
    ----------
    axes
        The panel.
    shares
        Percent by variable; None where a network does not use it.
    series
        The variables that are series of days.
    longest
        The longest bar of all panels, in percent.
    """
    for place, (name, share) in enumerate(shares.items()):
        if share is not None:
            axes.barh(place, share, 0.72, color=KIND_COLOURS["series" if name in series else "snapshot"])
            axes.text(share + 0.015 * longest, place, f"{share:.1f}", va="center", fontsize=6.5, color=INK)
    axes.set_yticks(range(len(shares)), list(shares))
    axes.set(xlim=(0, longest * 1.18 or 1), ylim=(len(shares) - 0.4, -0.6))


def draw_reliability(found: Reliability, path: Path, *, model: str) -> None:
    """Draw coverage, PIT histogram, and error by spread to a PNG, whole or not at all.

    Raises
    ------
    RequestError, OutputError
        See `canvas.write_figure`.
    """
    note = (
        f"{found['samples']} samples of {found['stations']} stations, every station with the same weight; "
        "thin lines: perfectly calibrated."
    )
    figure = _figure((13.0, 4.9), f"Reliability of the standard deviations of {model}", note)
    left, middle, right = (
        _axes(figure, (x, 0.155, 0.26, 0.63), title)
        for x, title in (
            (0.05, "Observations within central intervals"),
            (0.385, "Position of observations in the distribution (PIT)"),
            (0.72, "Error by spread"),
        )
    )
    shown = (
        ("as given", _GIVEN, found["given"]),
        (f"× {found['std_factor']:.2f}", _RECALIBRATED, found["recalibrated"]),
    )
    largest = 0.0
    for label, colour, judged in shown:
        levels = [0, *(int(level) for level in judged["coverage"]), 100]
        left.plot(levels, [0, *judged["coverage"].values(), 100], "o-", color=colour, markersize=4, label=label)
        spread, error = ([row[key] for row in judged["spread_error"]] for key in ("spread", "error"))
        largest = max(largest, *spread, *error)
        right.plot(spread, error, "o-", color=colour, markersize=4, label=label)
    _identity(left, 100)
    _identity(right, 1.05 * largest)
    _draw_pit(middle, shown)
    _name(left, "nominal, %", "observed, %", "upper left")
    _name(middle, "probability of a drier value", "observations, %", "upper center")
    _name(right, "standard deviation, m³/m³", "root mean square error, m³/m³", "upper left")
    write_figure(figure, path)


def _draw_pit(axes: Axes, shown: tuple[tuple[str, str, Calibration], ...]) -> None:
    for label, colour, judged in shown:
        shares = judged["pit"]
        axes.stairs(shares, np.linspace(0, 1, len(shares) + 1), color=colour, linewidth=1.8, label=label)
    axes.axhline(100 / len(shares), color=RULE, linewidth=0.7)
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.margins(y=0.2)


def _identity(axes: Axes, end: float) -> None:
    axes.plot([0, end], [0, end], color=RULE, linewidth=0.7, zorder=1)
    axes.set(xlim=(0, end), ylim=(0, end))


def _name(axes: Axes, x: str, y: str, corner: Literal["upper left", "upper center"]) -> None:
    """Name the axes and put the legend in a corner."""
    axes.set_xlabel(x, fontsize=8, color=INK)
    axes.set_ylabel(y, fontsize=8, color=INK)
    axes.legend(frameon=False, fontsize=8, loc=corner)


def _figure(size: tuple[float, float], title: str, note: str) -> Figure:
    """Return a figure of a size in inches with its heading and the note at its foot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=_DPI, facecolor="white")
    left = 0.025 * size[0]
    place_text(figure, left, size[1] - 0.16, title, size=13, weight="bold", va="top")
    place_source(figure, left, 0.1, [f"{note} {SOFTWARE}."])
    return figure


def _axes(figure: Figure, place: tuple[float, float, float, float], title: str) -> Axes:
    axes = figure.add_axes(place)
    axes.set_title(title, loc="left", fontsize=9, weight="bold", color=INK)
    axes.tick_params(labelsize=8, length=2, width=0.5, colors=INK)
    axes.spines[:].set(linewidth=0.5, color=RULE)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
