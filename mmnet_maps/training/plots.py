"""Pictures of feature importance and of the reliability of standard deviations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmnet_maps import __version__
from mmnet_maps.plots.canvas import write_figure
from mmnet_maps.plots.colours import INK, KIND_COLOURS, PALE, RULE, dry_to_wet
from mmnet_maps.training.calibration import Calibration, Reliability
from mmnet_maps.training.explain import Importance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150
_GIVEN, _RECALIBRATED = KIND_COLOURS["snapshot"], KIND_COLOURS["series"]


def draw_importance(found: Importance, path: Path) -> None:
    """Draw shares by variable, and the series by variable and day, to a PNG, which appears whole or not at all.

    Raises
    ------
    OutputError
        When it cannot be written, or a file of that name was not made by this software.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    count, names = len(found["variables"]), list(found["by_day"])
    height = max(1.4 + 0.26 * count, 4.6)
    figure = Figure(figsize=(12.5, height), dpi=_DPI, facecolor="white")
    axes = _axes(figure, (0.105, 0.6 / height, 0.335, 1 - 1.4 / height), "Share of each variable, %")
    shares = {row["name"]: row["share"] for row in found["variables"]}
    share_bars(
        axes, shares, {row["name"] for row in found["variables"] if row["kind"] == "series"}, max(shares.values())
    )
    axes.legend(
        handles=[Patch(color=colour, label=kind) for kind, colour in KIND_COLOURS.items()],
        loc="lower right",
        frameon=False,
        fontsize=8,
    )

    days = [row["days_before"] for row in found["days"]]
    matrix = 1000 * np.array([found["by_day"][name] for name in names])
    middle = 0.6 / height + 0.42 * (1 - 1.4 / height)
    above = _axes(
        figure,
        (0.545, middle + 0.55 / height, 0.37, 1 - 0.8 / height - middle - 0.55 / height),
        "Share of each day of the series, all variables together, %",
    )
    above.bar(range(len(days)), [row["share"] for row in found["days"]], 0.72, color=KIND_COLOURS["series"])
    below = _axes(
        figure,
        (0.545, 0.6 / height, 0.37, middle - 0.6 / height),
        "Each variable on each day, 0.001 m³/m³",
    )
    image = below.imshow(matrix, cmap=dry_to_wet(), vmin=0, aspect="auto")
    below.set_yticks(range(len(names)), names)
    below.set_xlabel("days before", fontsize=8, color=INK)
    for one in (above, below):
        one.set_xlim(-0.5, len(days) - 0.5)
        step = -(-len(days) // 16)
        one.set_xticks(range(len(days) - 1, -1, -step), [str(days[k]) for k in range(len(days) - 1, -1, -step)])
    bar = figure.colorbar(image, cax=figure.add_axes((0.925, 0.6 / height, 0.009, middle - 0.6 / height)))
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=7, length=2, width=0.5, colors=INK)
    note = (
        f"Expected gradients of {found['rows']} rows against {found['baselines']} others each; "
        "mean absolute value, columns of a variable summed first."
    )
    _finish(figure, path, f"Feature importance of {found['model']}", note)


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
    """Draw coverage, PIT histogram, and error by spread to a PNG, which appears whole or not at all.

    Raises
    ------
    OutputError
        As `draw_importance`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 4.9), dpi=_DPI, facecolor="white")
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
    _identity(left, 100)
    for label, colour, judged in shown:
        levels = [0, *(int(level) for level in judged["coverage"]), 100]
        left.plot(levels, [0, *judged["coverage"].values(), 100], "o-", color=colour, markersize=4, label=label)
    left.set_xlabel("nominal, %", fontsize=8, color=INK)
    left.set_ylabel("observed, %", fontsize=8, color=INK)
    _draw_pit(middle, shown)
    largest = 0.0
    for label, colour, judged in shown:
        spread, error = ([row[key] for row in judged["spread_error"]] for key in ("spread", "error"))
        largest = max(largest, *spread, *error)
        right.plot(spread, error, "o-", color=colour, markersize=4, label=label)
    _identity(right, 1.05 * largest)
    right.set_xlabel("standard deviation, m³/m³", fontsize=8, color=INK)
    right.set_ylabel("root mean square error, m³/m³", fontsize=8, color=INK)
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    middle.legend(frameon=False, fontsize=8, loc="upper center")
    note = (
        f"{found['samples']} samples of {found['stations']} stations, every station with the same weight; "
        "thin lines: perfectly calibrated."
    )
    _finish(figure, path, f"Reliability of the standard deviations of {model}", note)


def _draw_pit(axes: Axes, shown: tuple[tuple[str, str, Calibration], ...]) -> None:
    for label, colour, judged in shown:
        shares = judged["pit"]
        axes.stairs(shares, np.linspace(0, 1, len(shares) + 1), color=colour, linewidth=1.8, label=label)
    axes.axhline(100 / len(shares), color=RULE, linewidth=0.7)
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.margins(y=0.2)
    axes.set_xlabel("probability of a drier value", fontsize=8, color=INK)
    axes.set_ylabel("observations, %", fontsize=8, color=INK)


def _identity(axes: Axes, end: float) -> None:
    axes.plot([0, end], [0, end], color=RULE, linewidth=0.7)
    axes.set(xlim=(0, end), ylim=(0, end))


def _axes(figure: Figure, place: tuple[float, float, float, float], title: str) -> Axes:
    axes = figure.add_axes(place)
    axes.set_title(title, loc="left", fontsize=9, weight="bold", color=INK)
    axes.tick_params(labelsize=8, length=2, width=0.5, colors=INK)
    axes.spines[:].set(linewidth=0.5, color=RULE)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _finish(figure: Figure, path: Path, title: str, note: str) -> None:
    height = figure.get_size_inches()[1]
    figure.text(0.025, 1 - 0.16 / height, title, fontsize=13, weight="bold", va="top", color=INK)
    figure.text(0.025, 0.1 / height, f"{note} mmnet_maps {__version__}.", fontsize=7, color=PALE)
    write_figure(figure, path)
