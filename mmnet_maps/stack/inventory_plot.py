"""The picture of an inventory: the layers of one day, and the availability of each variable on each day."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import bytes_text
from mmnet_maps.plots.canvas import (
    SOFTWARE,
    SYNTHETIC,
    check_picture,
    place_source,
    place_text,
    watermark,
    write_figure,
)
from mmnet_maps.plots.colours import INK, LAND_COVER, NODATA, PALE, RULE, beyond, dry_to_wet
from mmnet_maps.stack.inventory import Inventory
from mmnet_maps.stack.inventory_layers import read_layer, shown_day, shown_grid
from mmnet_maps.stack.inventory_text import lattice_text, unit
from mmnet_maps.variables import LANDCOVER_CLASSES, VARIABLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

CLASSES = {
    "observed": "#0b4f8a",
    "interpolated": "#f2b134",
    "missing": NODATA,
    "never fetched": "#ffffff",
}
"""Dark, bright, pale, white: distinguishable by lightness alone, so with any colour vision and in grey."""

_SCALES = {
    "elevation": "cividis",
    "slope": "magma",
    "aspect": "twilight",
    "lst": "inferno",
    "tmmx": "inferno",
    "tmmn": "inferno",
}
_MOISTURE = ("smap", "pr", "sph")
_COVER = LANDCOVER_CLASSES | {"water, ice": (11, 12)}
_DPI = 150
_WIDTH, _SIDE, _ACROSS = 15.5, 0.35, 7
_COLUMN = (_WIDTH - 2 * _SIDE) / _ACROSS


def draw_inventory(found: Inventory, path: Path) -> None:
    """Draw the layers of one day (`shown_day`), as a map reads them, and the availability, to a PNG, whole or not.

    Fine layers are interpolated in time as in a map and thinned to what can be seen.

    Raises
    ------
    RequestError, OutputError
        See `canvas.write_figure`.
    """
    from matplotlib.figure import Figure

    check_picture(path)
    grid, step = shown_grid(found)
    day = shown_day(found)
    aspect = grid.shape.x / grid.shape.y
    high = min((_COLUMN - 0.7) / aspect, 2.6)
    size = (min(_COLUMN - 0.7, high * aspect), high)
    rows = _panel_rows(found)
    bars = 0.17 * len(found.variables)
    height = 1.0 + len(rows) * (high + 0.42) + (bars + 0.95 if found.days else 0.0) + 0.5
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    _heading(figure, found, day)
    for k, names in enumerate(rows):
        base = height - 1.0 - (k + 1) * (high + 0.42) + 0.1
        for j, name in enumerate(names):
            axes = _axes(figure, name, (_SIDE + j * _COLUMN, base, *size))
            _draw_layer(axes, found, name, read_layer(found, name, day, grid, step), size)
    if found.days:
        _draw_table(_axes(figure, "availability", (1.35, 0.85, _WIDTH - 1.35 - 1.75, bars)), found)
    write_figure(figure, path)


def _panel_rows(found: Inventory) -> list[list[str]]:
    """Return the variables of each row of panels; a group that fits into a row is not broken."""
    rows: list[list[str]] = []
    for held in found.contents.values():
        names = list(held.group.variables)
        if rows and len(rows[-1]) + len(names) <= _ACROSS:
            rows[-1] += names
        else:
            rows += [names[k : k + _ACROSS] for k in range(0, len(names), _ACROSS)]
    return rows


def _heading(figure: Figure, found: Inventory, day: date | None) -> None:
    provenance = [found.stack.provenance[name] for name in found.variables if name in found.stack.provenance]
    products = "; ".join(dict.fromkeys(entry.product for entry in provenance))
    top = figure.get_size_inches()[1]
    title = found.stack.path.name + (f"  ·  {day.day} {day:%B %Y}" if day else "")
    place_text(figure, _SIDE, top - 0.25, title, size=15, weight="bold", va="top")
    note = f"Inputs as a map of this day reads them; grey is missing. {products}."
    if any(entry.synthetic for entry in provenance):
        note += SYNTHETIC
    lines = textwrap.wrap(note, 190, max_lines=2, placeholder=" …")
    place_text(figure, _SIDE, top - 0.57, "\n".join(lines), size=8, va="top", color=PALE, linespacing=1.3)
    size = f"{bytes_text(found.size)}, {lattice_text(found.stack.target)}. {SOFTWARE}."
    place_source(figure, _SIDE, 0.2, [size])


def _axes(figure: Figure, label: str, place: tuple[float, float, float, float]) -> Axes:
    """Add axes at left, bottom, width and height in inches."""
    height = figure.get_size_inches()[1]
    x, y, across, up = place
    axes = figure.add_axes((x / _WIDTH, y / height, across / _WIDTH, up / height), label=label)
    axes.spines[:].set(linewidth=0.5, color=RULE)
    return axes


def _draw_layer(
    axes: Axes, found: Inventory, name: str, values: NDArray[np.float32], size: tuple[float, float]
) -> None:
    axes.set(xticks=[], yticks=[], facecolor=NODATA)
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
        watermark(axes, *size)


def _draw_scale(axes: Axes, name: str, values: NDArray[np.float32], size: tuple[float, float]) -> None:
    """Draw numbers from their 2nd to their 98th percentile, with a colour bar at the right."""
    from matplotlib.ticker import MaxNLocator

    seen = values[np.isfinite(values)]
    low, high = (float(v) for v in np.percentile(seen, [2, 98]))
    if high - low < 4 * VARIABLES[name].scale:
        low, high = low - 2 * VARIABLES[name].scale, high + 2 * VARIABLES[name].scale
    image = axes.imshow(np.ma.masked_invalid(values), cmap=_colour_map(name), vmin=low, vmax=high, aspect="auto")
    side = axes.inset_axes((1 + 0.06 / size[0], 0.0, 0.07 / size[0], 1.0))
    bar = axes.figure.colorbar(image, cax=side, extend=beyond([seen], (low, high), 0.0), extendfrac=0.03)
    bar.ax.yaxis.set_major_locator(MaxNLocator(4))
    bar.ax.tick_params(labelsize=6.5, length=2, width=0.5, colors=INK, pad=1.5)
    bar.outline.set_linewidth(0.4)
    bar.ax.set_title(unit(name), fontsize=6.5, color=PALE, pad=5, loc="left")


def _draw_classes(axes: Axes, values: NDArray[np.float32]) -> None:
    """Draw the classes of land cover, with those that occur named at the right."""
    from matplotlib.colors import to_rgb

    picture = np.ones((*values.shape, 3)) * to_rgb(NODATA)
    shown = [name for name, codes in _COVER.items() if np.isin(values, codes).any()]
    for k, name in enumerate(shown):
        picture[np.isin(values, _COVER[name])] = to_rgb(LAND_COVER[name])
        y = 1 - (k + 0.5) * 0.105
        axes.text(1.04, y, "■", transform=axes.transAxes, color=LAND_COVER[name], fontsize=7, va="center")
        axes.text(1.12, y, name, transform=axes.transAxes, color=INK, fontsize=6, va="center")
    axes.imshow(picture, aspect="auto")


def _colour_map(name: str) -> Colormap:
    from matplotlib import colormaps

    return dry_to_wet() if name in _MOISTURE else colormaps[_SCALES.get(name, "viridis")]


def _draw_table(axes: Axes, found: Inventory) -> None:
    """Draw a bar per variable and day, divided into the classes by their shares of the pixels."""
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
    top = 0
    for held in found.contents.values():
        top += len(held.group.variables)
        axes.axhline(top, color="#777777", linewidth=0.5)
    axes.set_title(
        "Availability of each variable and day: the height of a colour is its share of the pixels",
        loc="left", fontsize=8.5, weight="bold", color=INK, pad=5,
    )  # fmt: skip
    _table_legend(axes)


def _table_legend(axes: Axes) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(
            facecolor=colour, edgecolor=RULE, linewidth=0.5, label=label,
            hatch="////" if label == "never fetched" else None,
        )
        for label, colour in CLASSES.items()
    ]  # fmt: skip
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=7.5, borderaxespad=0
    )


def _stacked(found: Inventory) -> Iterator[NDArray[np.float64]]:
    entries = [found.table[name] for name in found.variables]
    for field in ("observed", "interpolated", "missing", "unfetched"):
        yield np.stack([getattr(entry, field) for entry in entries])


def _bars(axes: Axes, tops: NDArray[np.float64], heights: NDArray[np.float64], colour: str, *, hatched: bool) -> None:
    """Draw boxes of a day's width that stand on `tops`; y increases downwards."""
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
    """Return the positions of about ten days, evenly spread from the first."""
    return list(range(0, len(days), max(1, -(-len(days) // 10))))
