"""The picture of an inventory: the layers of one day, and the availability of every variable and day."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmnet_maps import __version__
from mmnet_maps.plots.canvas import SYNTHETIC, check_picture, watermark, write_figure
from mmnet_maps.plots.colours import INK, PALE, RULE, dry_to_wet
from mmnet_maps.stack.inventory import Inventory
from mmnet_maps.stack.inventory_layers import read_layer, shown_day, shown_grid
from mmnet_maps.stack.inventory_text import bytes_text, lattice_text, unit
from mmnet_maps.variables import VARIABLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


CLASSES = {
    "observed": "#0b4f8a",
    "interpolated": "#f2b134",
    "missing": "#d5d5d5",
    "never fetched": "#ffffff",
}
"""Dark, bright, pale, white: distinguishable by lightness alone, so with any colour vision and in grey."""

_LAND = (
    ("water, ice", (11, 12), "#4b71a8"),
    ("developed", (21, 22, 23, 24), "#c8393b"),
    ("barren", (31,), "#b0a89b"),
    ("forest", (41, 42, 43), "#2f6b38"),
    ("shrubland", (51, 52), "#cbb77a"),
    ("grassland", (71, 72), "#e9e5b4"),
    ("pasture", (81,), "#dcd53e"),
    ("cropland", (82,), "#a8692c"),
    ("wetland", (90, 95), "#74a9b5"),
)
_SCALES = {
    "elevation": "cividis",
    "slope": "magma",
    "aspect": "twilight",
    "lst": "inferno",
    "tmmx": "inferno",
    "tmmn": "inferno",
}
_DPI, _PIXELS = 150, 420
_GREY = "#d5d5d5"
_WIDTH, _SIDE, _ACROSS = 15.5, 0.35, 7


def draw_inventory(found: Inventory, path: Path) -> None:
    """Draw the layers of one day (`shown_day`), as a map uses them, and the table; the PNG appears whole or not.

    Fine layers are interpolated in time as in a map and thinned out to what can be shown.

    Raises
    ------
    OutputError
        When the picture cannot be written, or a file of that name was not made by this software.
    """
    from matplotlib.figure import Figure

    check_picture(path)
    grid, step = shown_grid(found)
    day = shown_day(found)
    aspect = grid.shape.x / grid.shape.y
    column = (_WIDTH - 2 * _SIDE) / _ACROSS
    across = column - 0.7
    high = min(across / aspect, 2.6)
    row = high + 0.42
    rows = _panel_rows(found)
    bars = 0.17 * len(found.variables)
    table = bars + 0.95 if found.days else 0.0
    height = 1.0 + len(rows) * row + table + 0.5
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    _heading(figure, found, day, height)
    for k, names in enumerate(rows):
        base = height - 1.0 - (k + 1) * row + 0.1
        for j, name in enumerate(names):
            width = min(across, high * aspect)
            axes = figure.add_axes(
                ((_SIDE + j * column) / _WIDTH, base / height, width / _WIDTH, high / height), label=name
            )
            _draw_layer(axes, found, name, read_layer(found, name, day, grid, step), (width, high))
    if found.days:
        _draw_table(figure, found, (1.35, 0.85, _WIDTH - 1.35 - 1.75, bars), height)
    write_figure(figure, path)


def _panel_rows(found: Inventory) -> list[list[str]]:
    """Return the variables by row of panels: groups follow each other, unbroken where they fit into a row."""
    rows: list[list[str]] = []
    for held in found.contents.values():
        names = list(held.group.variables)
        if rows and len(rows[-1]) + len(names) <= _ACROSS:
            rows[-1] += names
        else:
            rows += [names[k : k + _ACROSS] for k in range(0, len(names), _ACROSS)]
    return rows


def _heading(figure: Figure, found: Inventory, day: date | None, height: float) -> None:
    products = dict.fromkeys(
        found.stack.provenance[name].product for name in found.variables if name in found.stack.provenance
    )
    title = found.stack.path.name + (f"  ·  {day.day} {day:%B %Y}" if day else "")
    figure.text(_SIDE / _WIDTH, 1 - 0.25 / height, title, fontsize=15, weight="bold", va="top", color=INK)
    note = f"Inputs of a map of this day; grey is missing. {'; '.join(products)}."
    if any(found.stack.provenance[name].synthetic for name in found.variables if name in found.stack.provenance):
        note += SYNTHETIC
    figure.text(
        _SIDE / _WIDTH,
        1 - 0.57 / height,
        "\n".join(textwrap.wrap(note, 190, max_lines=2, placeholder=" …")),
        fontsize=8,
        va="top",
        color=PALE,
        linespacing=1.3,
    )
    where = f"{bytes_text(found.size)}, {lattice_text(found.stack.target)}. mmnet_maps {__version__}."
    figure.text(_SIDE / _WIDTH, 0.2 / height, where, fontsize=7, color=PALE)


def _draw_layer(
    axes: Axes, found: Inventory, name: str, values: NDArray[np.float32], size: tuple[float, float]
) -> None:
    axes.set(xticks=[], yticks=[], facecolor=_GREY)
    axes.spines[:].set(linewidth=0.5, color=RULE)
    axes.set_title(name, loc="left", fontsize=8.5, weight="bold", color=INK, pad=3)
    seen = np.isfinite(values)
    if not seen.any():
        axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center", va="center", fontsize=8, color=PALE)
    elif name == "landcover":
        _draw_classes(axes, values)
    else:
        _draw_scale(axes, name, values, size)
    share = "" if seen.all() or not seen.any() else f"{seen.mean() * 100:.0f} %"
    axes.set_title(share, loc="right", fontsize=6.5, color=PALE, pad=3)
    entry = found.stack.provenance.get(name)
    if entry and entry.synthetic and seen.any():
        watermark(axes, *size, largest=9.0)


def _draw_scale(axes: Axes, name: str, values: NDArray[np.float32], size: tuple[float, float]) -> None:
    seen = values[np.isfinite(values)]
    low, high = (float(v) for v in np.percentile(seen, [2, 98]))
    if high - low < 4 * VARIABLES[name].scale:
        low, high = low - 2 * VARIABLES[name].scale, high + 2 * VARIABLES[name].scale
    colours = dry_to_wet() if name in ("smap", "pr", "sph") else _SCALES.get(name, "viridis")
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=low, vmax=high, aspect="auto")
    side = axes.inset_axes((1 + 0.06 / size[0], 0.0, 0.07 / size[0], 1.0))
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}
    beyond = (bool(seen.min() < low), bool(seen.max() > high))
    bar = axes.figure.colorbar(image, cax=side, extend=extend.get(beyond, "neither"), extendfrac=0.03)
    from matplotlib.ticker import MaxNLocator

    bar.ax.yaxis.set_major_locator(MaxNLocator(4))
    bar.ax.tick_params(labelsize=6.5, length=2, width=0.5, colors=INK, pad=1.5)
    bar.outline.set_linewidth(0.4)
    bar.ax.set_title(unit(name), fontsize=6.5, color=PALE, pad=5, loc="left")


def _draw_classes(axes: Axes, values: NDArray[np.float32]) -> None:
    from matplotlib.colors import to_rgb

    picture = np.ones((*values.shape, 3)) * to_rgb(_GREY)
    there = []
    for label, codes, colour in _LAND:
        mine = np.isin(values, codes)
        if mine.any():
            picture[mine] = to_rgb(colour)
            there.append((label, colour))
    axes.imshow(picture, aspect="auto")
    for k, (label, colour) in enumerate(there):
        y = 1 - (k + 0.5) * 0.105
        axes.text(1.04, y, "■", transform=axes.transAxes, color=colour, fontsize=7, va="center")
        axes.text(1.12, y, label, transform=axes.transAxes, color=INK, fontsize=6, va="center")


def _draw_table(figure: Figure, found: Inventory, place: tuple[float, float, float, float], height: float) -> None:
    """Draw one bar per variable and day whose colours have the shares of the classes among the pixels."""
    from matplotlib.patches import Patch

    x, y, across, up = place
    axes = figure.add_axes((x / _WIDTH, y / height, across / _WIDTH, up / height), label="availability")
    count, days = len(found.variables), len(found.days)
    lower = np.zeros((count, days))
    rows = np.arange(count)[:, None] + 0.94
    for (label, colour), shares in zip(CLASSES.items(), _stacked(found), strict=True):
        _bars(axes, rows - 0.88 * lower, 0.88 * shares, colour, hatched=label == "never fetched")
        lower += shares
    axes.set(xlim=(0, days), ylim=(count, 0))
    axes.set_yticks(np.arange(count) + 0.5, found.variables, fontsize=7)
    ticks = _ticks(found.days)
    axes.set_xticks([k + 0.5 for k in ticks], [f"{found.days[k].day} {found.days[k]:%b %Y}" for k in ticks], fontsize=7)
    axes.tick_params(length=2, width=0.5, colors=INK)
    axes.spines[:].set(linewidth=0.5, color=RULE)
    top = 0
    for held in found.contents.values():
        top += len(held.group.variables)
        axes.axhline(top, color="#777777", linewidth=0.5)
    axes.set_title(
        "Availability of each variable and day: the height of a colour is its share of the pixels",
        loc="left", fontsize=8.5, weight="bold", color=INK, pad=5,
    )  # fmt: skip
    handles = [
        Patch(
            facecolor=colour,
            edgecolor=RULE,
            linewidth=0.5,
            label=label,
            hatch="////" if label == "never fetched" else None,
        )
        for label, colour in CLASSES.items()
    ]
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=7.5, borderaxespad=0
    )


def _stacked(found: Inventory) -> Iterator[NDArray[np.float64]]:
    entries = [found.table[name] for name in found.variables]
    for field in ("observed", "interpolated", "missing", "unfetched"):
        yield np.stack([getattr(entry, field) for entry in entries])


def _bars(axes: Axes, tops: NDArray[np.float64], heights: NDArray[np.float64], colour: str, *, hatched: bool) -> None:
    """Draw boxes one day wide that stand on `tops` (y points down)."""
    from matplotlib.collections import PolyCollection

    rows, cols = np.nonzero(heights > 0)
    low, high = tops[rows, cols], (tops - heights)[rows, cols]
    gap = 0.04 if tops.shape[1] <= 120 else 0.0
    left, right = cols + gap, cols + 1 - gap
    corners = np.stack([[left, low], [left, high], [right, high], [right, low]]).transpose(2, 0, 1)
    axes.add_collection(
        PolyCollection(
            list(corners),
            facecolor=colour,
            edgecolor=RULE if hatched else "none",
            linewidth=0.2 if hatched else 0,
            hatch="////" if hatched else None,
        ),
        autolim=False,
    )


def _ticks(days: Sequence[date]) -> list[int]:
    """Return about ten days, evenly spaced, beginning with the first."""
    return list(range(0, len(days), max(1, -(-len(days) // 10))))
