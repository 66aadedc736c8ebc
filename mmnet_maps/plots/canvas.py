"""The canvas of every figure: sheet with heading and source line, legend, colour bar, watermark, and the PNG."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmnet_maps import __version__
from mmnet_maps.errors import RequestError
from mmnet_maps.files import refuse_foreign, write_whole
from mmnet_maps.plots.colours import INK, PALE, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.floating]
Metrics = Mapping[str, float | None]
"""Values by the names of `metrics.METRICS`; None where not defined."""

METRIC_NAMES = {"r": "R", "rmse": "RMSE", "bias": "bias", "ubrmse": "ubRMSE"}
UNIT = "m³/m³"
WIDTH = 10.0
"""Inches; 1600 pixels."""

WATERMARK = "SYNTHETIC INPUTS\nNOT AN OBSERVATION"
SOFTWARE = f"mmnet_maps {__version__}"
SYNTHETIC = " SYNTHETIC INPUTS: NOT AN OBSERVATION."
"""The end of a source line of synthetic inputs."""

_DPI, _SIDE, _MOST_DAYS = 160, 0.15, 6
_T = TypeVar("_T")


def check_picture(path: str | Path | None) -> None:
    """Refuse, before the work is done, what `write_figure` would refuse after it; None for no picture.

    Raises
    ------
    RequestError
        When the name does not end in ``.png``.
    OutputError
        When a file or folder of that name was not made by this software.
    """
    if path is None:
        return
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise RequestError(f"{path} is not the name of a picture; expected one that ends in .png")
    refuse_foreign(path)


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all.

    Raises
    ------
    RequestError
        When the name does not end in ``.png``.
    OutputError
        When the file cannot be written, or a file of that name was not made by this software.
    """
    check_picture(path)
    write_whole(path, png(figure))
    return path


def png(figure: Figure) -> bytes:
    """Render a figure as PNG at its own resolution; the metadata name this software.

    Letters that matplotlib's font does not have, such as those of a Chinese name, become boxes.
    """
    out = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from|Matplotlib currently does not support")
        figure.savefig(
            out, format="png", dpi="figure", metadata={"Software": SOFTWARE}, pil_kwargs={"compress_level": 4}
        )  # a few per cent larger than by the default level, in half the time
    return out.getvalue()


def evenly(items: Sequence[_T], most: int = _MOST_DAYS) -> list[_T]:
    """Choose at most so many items: the first, the last, and evenly spaced ones between.

    >>> evenly(range(1, 12))
    [1, 3, 5, 7, 9, 11]
    """
    if len(items) <= most:
        return list(items)
    return [items[round(index)] for index in np.linspace(0, len(items) - 1, most)]


def nice_length(longest: float) -> float:
    """Return the greatest of 1, 2 or 5 times a power of ten that does not exceed `longest`.

    >>> nice_length(37.0), nice_length(0.8)
    (20.0, 0.5)
    """
    power = 10.0 ** math.floor(math.log10(longest) + 1e-9)
    return max(step * power for step in (1.0, 2.0, 5.0) if step * power <= longest * (1 + 1e-9))


def watermark(axes: Axes, width: float, height: float, *, largest: float = 15.0) -> None:
    """Write across a panel that it shows synthetic inputs, legible on light and dark, without hiding the panel.

    Parameters
    ----------
    axes
        The panel.
    width, height
        Its size in inches, which decides direction and size of the words.
    largest
        Largest font size.
    """
    from matplotlib.patheffects import withStroke

    tall, wide = height > 2.2 * width, width > 4 * height
    along = height if tall else width if wide else math.hypot(width, min(width, height) * 0.5)
    axes.text(
        0.5, 0.5, WATERMARK.replace("\n", " · ") if wide else WATERMARK, transform=axes.transAxes, ha="center",
        va="center", rotation=90 if tall else 0 if wide else math.degrees(math.atan2(min(width, height) * 0.5, width)),
        fontsize=min(largest, along * 72 / (28 if wide else 15)), fontweight="bold", color=INK, alpha=0.3,
        linespacing=1.3, clip_on=True, zorder=10,
        path_effects=[withStroke(linewidth=1.6, foreground="white", alpha=0.4)],
    )  # fmt: skip


def sheet(body: float, title: str, source: str, *, width: float = WIDTH, legend: bool = False) -> Figure:
    """Make a figure for panels of a height in inches, with its heading above and the source line below."""
    from matplotlib.figure import Figure

    lines = wrap_source(source, width - 2 * _SIDE)
    above, below = (0.66 if legend else 0.42), 0.2 + 0.13 * len(lines)
    height = above + body + below
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    figure.set_layout_engine(
        "compressed", rect=(0, below / height, 1, body / height), w_pad=0.06, h_pad=0.05, wspace=0.01, hspace=0.01
    )
    place_text(figure, _SIDE, height - 0.12, title, size=12, weight="bold", va="top")
    place_source(figure, _SIDE, 0.1, lines)
    return figure


def place_text(figure: Figure, x: float, y: float, text: str, *, size: float, **style: Any) -> None:
    """Write text at a place in inches from the lower left corner."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, fontsize=size, **{"color": INK, "parse_math": False, **style})


def wrap_source(source: str, width: float) -> list[str]:
    """Wrap the source line, which is in 7 points, to a width in inches."""
    return textwrap.wrap(source, round(width * 16.5))


def place_source(figure: Figure, x: float, y: float, lines: Sequence[str]) -> None:
    """Write the lines of the source at the foot of a figure, upwards from a place in inches."""
    place_text(figure, x, y, "\n".join(lines), size=7, color=PALE, va="bottom", linespacing=1.35)


def legend(figure: Figure, *panels: Axes) -> None:
    """Add one legend for the contents of all panels, between the heading and the panels."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    _place_legend(figure, list(found.values()), list(found))


def patch_legend(figure: Figure, colours: Mapping[str, str]) -> None:
    """Add a legend for names with one colour each, between the heading and the panels."""
    from matplotlib.patches import Patch

    _place_legend(figure, [Patch(facecolor=colour) for colour in colours.values()], list(colours))


def _place_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    width, height = figure.get_size_inches()
    legend = figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(_SIDE / width, 1 - 0.4 / height), ncols=len(labels),
        frameon=False, fontsize=8, borderaxespad=0, borderpad=0, handlelength=1.6, columnspacing=1.3, labelcolor=INK,
        markerscale=2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    legend.set_in_layout(False)


def colour_bar(figure: Figure, mappable: Any, label: str, *, extend: str = "neither") -> None:
    """Add one colour bar at the right of all panels."""
    from matplotlib.colors import LogNorm

    bar = figure.colorbar(mappable, ax=figure.axes, aspect=32, pad=0.015, fraction=0.04, extend=extend, extendfrac=0.03)
    thin_bar(bar)
    if isinstance(mappable.norm, LogNorm):
        bar.ax.yaxis.set_major_formatter("{x:.0f}")
    bar.set_label(label, fontsize=8.5, color=INK)


def thin_bar(bar: Any) -> None:
    """Give a colour bar a thin frame and small ticks."""
    bar.ax.tick_params(labelsize=7.5, length=2.5, width=0.5, colors=INK)
    bar.outline.set_linewidth(0.5)


def head(axes: Axes, title: str, lines: Sequence[str]) -> None:
    """Write the name of a panel and small lines below it, above the axes, where they hide nothing."""
    axes.set_title(title, loc="left", fontsize=9, weight="bold", color=INK, pad=6 + 9.5 * len(lines), parse_math=False)
    axes.annotate(
        "\n".join(lines), (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", va="bottom",
        fontsize=7.5, color=PALE, linespacing=1.25, parse_math=False,
    )  # fmt: skip


def label_outer(grid: NDArray[Any], x: str, y: str) -> None:
    """Label the lowest visible panel of each column, and the leftmost of each row."""
    for column in grid.T:
        low = [axes for axes in column if axes.get_visible()][-1:]
        for axes in low:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(x, fontsize=8.5, color=INK)
    for row in grid:
        left = [axes for axes in row if axes.get_visible()][:1]
        for axes in left:
            axes.tick_params(labelleft=True)
            axes.set_ylabel(y, fontsize=8.5, color=INK)


def plain(axes: Axes) -> None:
    """Give axes a thin grey frame and small ticks."""
    axes.tick_params(labelsize=7.5, length=2.5, width=0.5, colors=INK)
    axes.spines[:].set(linewidth=0.5, color=RULE)


def metric_label(metric: str) -> str:
    """Return the name of a metric with its unit.

    Raises
    ------
    RequestError
        When there is no such metric.
    """
    if metric not in METRIC_NAMES:
        raise RequestError(f"unknown metric {metric!r}; expected one of {', '.join(METRIC_NAMES)}")
    return "R" if metric == "r" else f"{METRIC_NAMES[metric]} ({UNIT})"


def metric_number(value: float | None, metric: str) -> str:
    """Format a metric, R to two decimals, the others to three.

    >>> metric_number(-0.0123, "bias"), metric_number(-0.0002, "bias"), metric_number(None, "r")
    ('−0.012', '0.000', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{2 if metric == 'r' else 3}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def metric_texts(metrics: Metrics) -> list[str]:
    """Format each metric with its name.

    >>> metric_texts({"r": 0.8216, "rmse": 0.0431})
    ['R 0.82', 'RMSE 0.043']
    """
    return [f"{name} {metric_number(metrics[key], key)}" for key, name in METRIC_NAMES.items() if key in metrics]
