"""What the figures share: the sheet with heading and source, the legend, colour bars, metrics as text, and the PNG."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps import __version__
from mmnet_maps.errors import InputError, OutputError, RequestError
from mmnet_maps.files import is_ours, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.floating]
Metrics = Mapping[str, float | None]
"""Values by the names of `evaluate.METRICS`; None where not defined."""

METRIC_NAMES = {"r": "R", "rmse": "RMSE", "bias": "bias", "ubrmse": "ubRMSE"}
UNIT = "m³/m³"
WIDTH = 10.0
"""Inches; 1600 pixels."""

NETWORK_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""One a network, in their order: those of Okabe and Ito, told apart with any colour vision."""
SMAP_COLOUR = "#8a8a8a"

INK, PALE, RULE = "#222222", "#555555", "#999999"
_DPI, _SIDE = 160, 0.15


def network_colours(names: Iterable[str]) -> dict[str, str]:
    """The colour of each network; ``smap`` is grey.

    Raises
    ------
    InputError
        There are more networks than colours.
    """
    found = dict.fromkeys(names, SMAP_COLOUR)
    networks = [name for name in found if name != "smap"]
    if len(networks) > len(NETWORK_COLOURS):
        raise InputError(f"{len(networks)} networks in one figure; expected {len(NETWORK_COLOURS)} at most")
    return found | dict(zip(networks, NETWORK_COLOURS, strict=False))


def check_picture(path: str | Path) -> None:
    """Refuse, before the work is done, what `write_figure` would refuse after it.

    Raises
    ------
    RequestError
        The name does not end in ``.png``.
    OutputError
        A file or folder of that name is there that this software did not make.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise RequestError(f"{path} is no name of a picture; expected one that ends in .png")
    if os.path.exists(path) and not is_ours(path):
        raise OutputError(f"{path} was not made by mmnet_maps and is never overwritten; move it away")


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all.

    Raises
    ------
    RequestError
        The name does not end in ``.png``.
    OutputError
        The file cannot be written, or one of that name is there that this software did not make.
    """
    check_picture(path)
    out = BytesIO()
    figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": f"mmnet_maps {__version__}"})
    write_whole(path, out.getvalue())
    return path


def sheet(body: float, title: str, source: str, *, width: float = WIDTH, legend: bool = False) -> Figure:
    """A figure with room for panels of a height in inches, its heading above, and the line of the source below."""
    from matplotlib.figure import Figure

    lines = textwrap.wrap(source, round((width - 2 * _SIDE) * 16.5))
    above, below = (0.66 if legend else 0.42), 0.2 + 0.13 * len(lines)
    height = above + body + below
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    figure.set_layout_engine(
        "compressed", rect=(0, below / height, 1, body / height), w_pad=0.06, h_pad=0.05, wspace=0.01, hspace=0.01
    )
    figure.text(
        _SIDE / width, 1 - 0.12 / height, title, fontsize=12, weight="bold", va="top", color=INK, parse_math=False
    )
    figure.text(
        _SIDE / width, 0.1 / height, "\n".join(lines), fontsize=7, va="bottom", color=PALE, linespacing=1.35,
        parse_math=False,
    )  # fmt: skip
    return figure


def legend(figure: Figure, *panels: Axes) -> None:
    """Put one legend for what the panels hold, between the heading and the panels."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    _place_legend(figure, list(found.values()), list(found))


def patch_legend(figure: Figure, colours: Mapping[str, str]) -> None:
    """The same for names with a colour each."""
    from matplotlib.patches import Patch

    _place_legend(figure, [Patch(facecolor=colour) for colour in colours.values()], list(colours))


def _place_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    width, height = figure.get_size_inches()
    legend = figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(_SIDE / width, 1 - 0.4 / height), ncols=len(labels),
        frameon=False, fontsize=8, borderaxespad=0, borderpad=0, handlelength=1.8, columnspacing=1.6, labelcolor=INK,
        markerscale=2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    legend.set_in_layout(False)


def colour_bar(figure: Figure, mappable: Any, label: str, *, extend: str = "neither") -> None:
    """One colour bar at the right of all panels."""
    from matplotlib.colors import LogNorm

    bar = figure.colorbar(mappable, ax=figure.axes, aspect=32, pad=0.015, fraction=0.04, extend=extend, extendfrac=0.03)
    bar.ax.tick_params(labelsize=7.5, length=2.5, width=0.5, colors=INK)
    bar.outline.set_linewidth(0.5)
    if isinstance(mappable.norm, LogNorm):
        bar.ax.yaxis.set_major_formatter("{x:.0f}")
    bar.set_label(label, fontsize=8.5, color=INK)


def head(axes: Axes, title: str, lines: Sequence[str]) -> None:
    """The name of a panel and small lines below it, above the axes, where they hide nothing."""
    axes.set_title(title, loc="left", fontsize=9, weight="bold", color=INK, pad=6 + 9.5 * len(lines), parse_math=False)
    axes.annotate(
        "\n".join(lines), (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", va="bottom",
        fontsize=7.5, color=PALE, linespacing=1.25, parse_math=False,
    )  # fmt: skip


def label_outer(grid: NDArray[Any], x: str, y: str) -> None:
    """Label the lowest panel that is shown of each column, and the leftmost of each row."""
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
    """Thin grey frame, small ticks."""
    axes.tick_params(labelsize=7.5, length=2.5, width=0.5, colors=INK)
    axes.spines[:].set(linewidth=0.5, color=RULE)


def metric_label(metric: str) -> str:
    """The metric with its unit, or the refusal of a name that is none."""
    if metric not in METRIC_NAMES:
        raise RequestError(f"there is no metric {metric!r}; expected one of {', '.join(METRIC_NAMES)}")
    return "R" if metric == "r" else f"{METRIC_NAMES[metric]} ({UNIT})"


def metric_number(value: float | None, metric: str) -> str:
    """A metric as text, R to two decimals, the others to three.

    >>> metric_number(-0.0123, "bias"), metric_number(-0.0002, "bias"), metric_number(None, "r")
    ('−0.012', '0.000', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{2 if metric == 'r' else 3}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def metric_texts(metrics: Metrics) -> list[str]:
    """Each metric with its name.

    >>> metric_texts({"r": 0.8216, "rmse": 0.0431})
    ['R 0.82', 'RMSE 0.043']
    """
    return [f"{name} {metric_number(metrics[key], key)}" for key, name in METRIC_NAMES.items() if key in metrics]
