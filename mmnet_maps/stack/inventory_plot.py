"""An inventory for people and programs: a table for the terminal, JSON, and a picture of the layers and the table."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps import __version__
from mmnet_maps.errors import OutputError
from mmnet_maps.files import is_ours, write_whole
from mmnet_maps.grid.lattice import Window, cover, nearest_cells
from mmnet_maps.product.picture import WATERMARK
from mmnet_maps.product.qgis import COLOURS
from mmnet_maps.stack.availability import look_up
from mmnet_maps.stack.interpolate import interpolate_days
from mmnet_maps.stack.inventory import Contents, DailyShares, Inventory, Scope
from mmnet_maps.stack.store import Group
from mmnet_maps.variables import FINE_GROUPS, SEARCH_DAYS, VARIABLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

LEGEND = (
    "# observed in half of the pixels or more   + in some   . interpolated only   (blank) missing   - never fetched"
)

CLASSES = {
    "observed": "#0b4f8a",
    "interpolated": "#f2b134",
    "missing": "#d5d5d5",
    "never fetched": "#ffffff",
}
"""Dark, bright, pale, white: told apart by lightness alone, so with any colour vision and in grey."""

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
    "smap": COLOURS,
    "pr": COLOURS,
    "sph": COLOURS,
    "lst": "inferno",
    "tmmx": "inferno",
    "tmmn": "inferno",
}
_UNITS = {"m3 m-3": "m³/m³", "g cm-3": "g/cm³", "mm day-1": "mm/day", "kg kg-1": "kg/kg", "W m-2": "W/m²"}
_UNITS |= {"m s-1": "m/s", "degree": "°", "percent": "%", "1": ""}
_DPI, _PIXELS, _LINE, _ROOM_FOR_TILES = 150, 420, 90, 8
_GREY, _INK, _PALE = "#d5d5d5", "#222222", "#555555"
_WIDTH, _SIDE, _ACROSS = 15.5, 0.35, 7


def format_inventory(found: Inventory) -> str:
    """The inventory as text: groups, variables, provenance, and one character a variable and day."""
    target = found.stack.target
    lines = [f"{found.stack.path}  {_bytes(found.size)}, fine lattice {_lattice(target)}"]
    if any(found.stack.provenance[name].synthetic for name in found.variables if name in found.stack.provenance):
        lines.append("SYNTHETIC INPUTS: not observations, see provenance")
    lines += ["", *_area_lines(found), "", *_group_lines(list(found.contents.values()))]
    lines += ["", "provenance", *_provenance_lines(found)]
    lines += ["", *_table_lines(found)]
    return "\n".join(lines)


def _area_lines(found: Inventory) -> list[str]:
    if found.bounds is None:
        return ["area with data: none"]
    west, south, east, north = found.bounds
    ids = found.tile_ids
    named = f": {', '.join(ids)}" if 0 < len(ids) <= _ROOM_FOR_TILES else f": {ids[0]} … {ids[-1]}" if ids else ""
    return [
        f"area with data: west {west:.3f}, south {south:.3f}, east {east:.3f}, north {north:.3f}; "
        f"{int(found.filled.sum())} blocks in {len(found.tiles)} tiles{named}"
    ]


def _group_lines(contents: Sequence[Contents]) -> list[str]:
    rows = [("group", "lattice", "days with data", "of fetched", "blocks with data", "of fetched", "on disk")]
    for held in contents:
        days, blocks = len(held.days), int(held.filled.sum())
        when = f"{days}, {held.days[0]} to {held.days[-1]}" if days else "0" if held.group.temporal else "no time axis"
        fetched = str(len(held.days_fetched)) if held.group.temporal else ""
        row = (held.group.name, _lattice(held.group.lattice), when, fetched, str(blocks), str(int(held.fetched.sum())))
        rows.append((*row, _bytes(held.size)))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for held, line in zip(contents, lines[1:].copy(), strict=True):
        names = ", ".join(f"{name} {_unit(name)}".rstrip() for name in held.group.variables)
        lines[lines.index(line)] = f"{line}\n    {names}"
    return lines


def _provenance_lines(found: Inventory) -> list[str]:
    entries: dict[Any, list[str]] = {}
    for name in found.variables:
        entries.setdefault(found.stack.provenance.get(name), []).append(name)
    lines = []
    for entry, names in entries.items():
        of = f"{entry.product}, version {entry.version}, {entry.licence}, from {entry.source}" if entry else "unknown"
        mark = ", SYNTHETIC" if entry and entry.synthetic else ""
        lines.append(f"  {of}{mark}: {', '.join(names)}")
    return lines


def _table_lines(found: Inventory) -> list[str]:
    days = found.days
    if not days:
        return ["no day holds data"]
    what = "the area" if any(scope.inside for scope in found.scopes.values()) else "the blocks that were ever fetched"
    note = f", of {', '.join(found.sampled)} in evenly spread parts" if found.sampled else ""
    lines = [f"availability over the pixels of {what}{note}"]
    width = max(map(len, found.variables))
    for start in range(0, len(days), _LINE):
        some = days[start : start + _LINE]
        labels = [str(day.day) if day.day in (1, 10, 20) or not k else "" for k, day in enumerate(some)]
        ruler = "".join(
            f"{label:1}" if label or not k or len(labels[k - 1]) < 2 else "" for k, label in enumerate(labels)
        )
        lines.append(f"{'':{width}}  {some[0]}{'' if len(some) == 1 else f' to {some[-1]}'}")
        lines.append(f"{'day of month':{width}}  {ruler}".rstrip() if ruler.strip() else "")
        for name in found.variables:
            marks = "".join(marks_of(found.table[name])[start : start + _LINE])
            lines.append(f"{name:{width}}  {marks}".rstrip())
    return [line for line in lines if line] + [LEGEND]


def marks_of(entry: DailyShares) -> list[str]:
    """One character a day, see `LEGEND`; where nothing is to be had, `-` if most was never fetched."""
    marks = []
    for observed, usable, missing, unfetched in zip(
        entry.observed, entry.usable, entry.missing, entry.unfetched, strict=True
    ):
        if observed > 0:
            marks.append("#" if observed >= 0.5 else "+")
        elif usable > 0:
            marks.append(".")
        else:
            marks.append("-" if unfetched > missing else " ")
    return marks


def _unit(name: str) -> str:
    return _UNITS.get(VARIABLES[name].units, VARIABLES[name].units)


def _lattice(lattice: GeoBox) -> str:
    return f"{_crs(lattice)}, {_cell(lattice)}, {lattice.shape.x} x {lattice.shape.y}"


def _crs(lattice: GeoBox) -> str:
    code = lattice.crs.to_epsg() if lattice.crs else None
    if code or not lattice.crs:
        return f"EPSG:{code}" if code else "no CRS"
    method = lattice.crs.proj.coordinate_operation
    return str(method.method_name if method else lattice.crs.proj.name)


def _cell(lattice: GeoBox) -> str:
    assert lattice.crs is not None
    return f"{lattice.affine.a:.4g} {'°' if lattice.crs.geographic else 'm'}"


def _bytes(count: float) -> str:
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 999.5 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.3g} {units[0]}"


def write_inventory(found: Inventory, path: Path) -> None:
    """Write all of an inventory as JSON, whole or not at all.

    Raises
    ------
    OutputError
        When the file cannot be written.
    """
    write_whole(path, json.dumps(as_json(found), indent=1) + "\n")


def as_json(found: Inventory) -> dict[str, Any]:
    """All of an inventory; shares are of the pixels of a variable, from 0 to 1."""
    stack = found.stack
    return {
        "stack": str(stack.path),
        "bytes": found.size,
        "lattice": _lattice_json(stack.target),
        "bounds": found.bounds,
        "blocks": int(found.filled.sum()),
        "tiles": len(found.tiles),
        "tile_ids": found.tile_ids,
        "groups": {name: _group_json(held) for name, held in found.contents.items()},
        "variables": {
            name: {
                "long_name": VARIABLES[name].long_name,
                "units": VARIABLES[name].units,
                "group": stack.group_of(name).name,
                "search_days": SEARCH_DAYS.get(stack.group_of(name).kind, 0),
                "provenance": asdict(stack.provenance[name]) if name in stack.provenance else None,
            }
            for name in found.variables
        },
        "availability": {
            "days": [str(day) for day in found.days],
            "parts": {name: [len(scope.chosen()), len(scope.parts)] for name, scope in found.scopes.items()},
            "shares": {
                name: {
                    "observed": entry.observed.round(6).tolist(),
                    "interpolated": entry.interpolated.round(6).tolist(),
                    "missing": entry.missing.round(6).tolist(),
                    "never_fetched": entry.unfetched.round(6).tolist(),
                }
                for name, entry in found.table.items()
            },
        },
    }


def _lattice_json(lattice: GeoBox) -> dict[str, Any]:
    return {
        "crs": _crs(lattice),
        "cell": abs(lattice.affine.a),
        "shape": [int(size) for size in lattice.shape],
        "bounds": list(lattice.boundingbox.bbox),
    }


def _group_json(held: Contents) -> dict[str, Any]:
    return {
        "lattice": _lattice_json(held.group.lattice),
        "block": held.group.block,
        "variables": list(held.group.variables),
        "bytes": held.size,
        "blocks_fetched": int(held.fetched.sum()),
        "blocks_with_data": int(held.filled.sum()),
        "days_fetched": [str(day) for day in held.days_fetched],
        "days_with_data": [str(day) for day in held.days],
    }


def draw_inventory(found: Inventory, path: Path) -> None:
    """Draw the layers of one day (`shown_day`), as a map takes them, and the table; the PNG appears whole or not.

    Fine layers are interpolated in time as in a map and thinned out to what can be shown.

    Raises
    ------
    OutputError
        When the picture cannot be written, or a file of that name is there that this software did not make.
    """
    from matplotlib.figure import Figure

    if path.exists() and not is_ours(path):
        raise OutputError(f"{path} was not made by mmnet_maps and is never overwritten; move it away")
    grid, step = _shown_grid(found)
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
            _draw_layer(axes, found, name, _layer(found, name, day, grid, step), (width, high))
    if found.days:
        _draw_table(figure, found, (1.35, 0.85, _WIDTH - 1.35 - 1.75, bars), height)
    out = BytesIO()
    figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": f"mmnet_maps {__version__}"})
    write_whole(path, out.getvalue())


def shown_day(found: Inventory) -> date | None:
    """The last of the days of the table on which most variables have a value."""
    if not found.days:
        return None
    counts = np.sum([entry.usable > 0 for entry in found.table.values()], axis=0)
    return found.days[int(np.flatnonzero(counts == counts.max())[-1])]


def _panel_rows(found: Inventory) -> list[list[str]]:
    """Variables by row of panels: groups follow each other, and none is torn where it fits into a row."""
    rows: list[list[str]] = []
    for held in found.contents.values():
        names = list(held.group.variables)
        if rows and len(rows[-1]) + len(names) <= _ACROSS:
            rows[-1] += names
        else:
            rows += [names[k : k + _ACROSS] for k in range(0, len(names), _ACROSS)]
    return rows


def _shown_grid(found: Inventory) -> tuple[GeoBox, int]:
    """What is shown, on the fine lattice, and thinned out how many times."""
    target = found.stack.target
    fine = [scope for scope in found.scopes.values() if scope.group.kind in FINE_GROUPS and scope.blocks.any()]
    coarse = [scope for scope in found.scopes.values() if scope.blocks.any()]
    windows = [window for scope in fine for window in scope.parts]
    if not fine:
        windows = [cover(scope.group.lattice[window], target) for scope in coarse[:1] for window in scope.parts]
    if not windows:
        windows = [(slice(0, 1), slice(0, 1))]
    rows = slice(min(w[0].start for w in windows), max(w[0].stop for w in windows))
    cols = slice(min(w[1].start for w in windows), max(w[1].stop for w in windows))
    step = max(1, -(-max(rows.stop - rows.start, cols.stop - cols.start) // _PIXELS))
    shape = (-(-(rows.stop - rows.start) // step), -(-(cols.stop - cols.start) // step))
    corner = target.affine * Affine.translation(cols.start, rows.start)
    return GeoBox(shape, corner * Affine.scale(step), target.crs), step


def _layer(found: Inventory, name: str, day: date | None, grid: GeoBox, step: int) -> NDArray[np.float32]:
    """Values (y, x) on the thinned grid, NaN where there are none; land cover as codes, NaN for 0."""
    group = found.stack.group_of(name)
    scope = found.scopes[group.name]
    if group.temporal and day is None:
        return np.full(grid.shape, np.nan, np.float32)
    if group.kind in FINE_GROUPS:
        return _thinned(found, name, scope, day, grid, step)
    canvas = np.full(grid.shape, np.nan, np.float32)
    window = cover(grid, group.lattice)
    whole = group.whole_blocks(window)
    rows, cols = nearest_cells(grid, group.lattice)
    values = _on(found, name, group, whole, day, (slice(0, None), slice(0, None)))
    on = rows >= 0
    canvas[on] = values[rows[on] - whole[0].start, cols[on] - whole[1].start]
    return canvas


def _thinned(
    found: Inventory, name: str, scope: Scope, day: date | None, grid: GeoBox, step: int
) -> NDArray[np.float32]:
    """Every so many pixels of a fine layer, read part by part."""
    canvas = np.full(grid.shape, np.nan, np.float32)
    target = found.stack.target
    top, left = (
        round((grid.affine.f - target.affine.f) / target.affine.e),
        round((grid.affine.c - target.affine.c) / target.affine.a),
    )
    for window in scope.parts:
        picked, places = [], []
        for part, first, size in zip(window, (top, left), grid.shape, strict=True):
            # The middle of each thinned pixel, where it lies in this part.
            index = np.arange(size) * step + first + step // 2
            inside = np.flatnonzero((index >= part.start) & (index < part.stop))
            places.append(slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0))
            picked.append(
                slice(int(index[inside[0]] - part.start), int(index[inside[-1]] - part.start) + 1, step)
                if inside.size
                else slice(0, 0)
            )
        if places[0].stop and places[1].stop:
            canvas[places[0], places[1]] = _on(found, name, scope.group, window, day, (picked[0], picked[1]))
    return canvas


def _on(
    found: Inventory, name: str, group: Group, window: Window, day: date | None, picked: Window
) -> NDArray[np.float32]:
    """A variable on a day, as a map would take it, in some cells of a window."""
    stack, spec, reach = found.stack, VARIABLES[name], SEARCH_DAYS.get(group.kind, 0)
    if not group.temporal or day is None:
        values = stack.read(name, window)[picked].astype(np.float32)
        return np.where(values == 0, np.float32(np.nan), values) if spec.dtype == "uint8" else values
    near = [other for other in found.contents[group.name].days if abs((other - day).days) <= reach]
    marked = look_up(stack, group, window, near)
    shape = (
        len(range(window[0].stop - window[0].start)[picked[0]]),
        len(range(window[1].stop - window[1].start)[picked[1]]),
    )
    if not marked.observed:
        return np.full(shape, np.nan, np.float32)

    def read(other: date, part: Window) -> NDArray[np.integer]:
        values = stack.read_packed(name, window, other)
        marked.hide(values, window, other, spec.nodata)
        return values[picked][part]

    return interpolate_days(read, marked.observed, day, reach, shape, spec)[0]


def _heading(figure: Figure, found: Inventory, day: date | None, height: float) -> None:
    products = dict.fromkeys(
        found.stack.provenance[name].product for name in found.variables if name in found.stack.provenance
    )
    title = found.stack.path.name + (f"  ·  {day.day} {day:%B %Y}" if day else "")
    figure.text(_SIDE / _WIDTH, 1 - 0.25 / height, title, fontsize=15, weight="bold", va="top", color=_INK)
    note = f"What a map of this day takes of the inputs; grey is missing. {'; '.join(products)}."
    if any(found.stack.provenance[name].synthetic for name in found.variables if name in found.stack.provenance):
        note += " SYNTHETIC INPUTS: NOT AN OBSERVATION."
    figure.text(
        _SIDE / _WIDTH,
        1 - 0.57 / height,
        "\n".join(textwrap.wrap(note, 190, max_lines=2, placeholder=" …")),
        fontsize=8,
        va="top",
        color=_PALE,
        linespacing=1.3,
    )
    where = f"{_bytes(found.size)}, {_lattice(found.stack.target)}. mmnet_maps {__version__}."
    figure.text(_SIDE / _WIDTH, 0.2 / height, where, fontsize=7, color=_PALE)


def _draw_layer(
    axes: Axes, found: Inventory, name: str, values: NDArray[np.float32], size: tuple[float, float]
) -> None:
    axes.set(xticks=[], yticks=[], facecolor=_GREY)
    axes.spines[:].set(linewidth=0.5, color="#999999")
    axes.set_title(name, loc="left", fontsize=8.5, weight="bold", color=_INK, pad=3)
    seen = np.isfinite(values)
    if not seen.any():
        axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center", va="center", fontsize=8, color=_PALE)
    elif name == "landcover":
        _draw_classes(axes, values)
    else:
        _draw_scale(axes, name, values, size)
    share = "" if seen.all() or not seen.any() else f"{seen.mean() * 100:.0f} %"
    axes.set_title(share, loc="right", fontsize=6.5, color=_PALE, pad=3)
    entry = found.stack.provenance.get(name)
    if entry and entry.synthetic and seen.any():
        _watermark(axes, size)


def _draw_scale(axes: Axes, name: str, values: NDArray[np.float32], size: tuple[float, float]) -> None:
    seen = values[np.isfinite(values)]
    low, high = (float(v) for v in np.percentile(seen, [2, 98]))
    if high - low < 4 * VARIABLES[name].scale:
        low, high = low - 2 * VARIABLES[name].scale, high + 2 * VARIABLES[name].scale
    image = axes.imshow(np.ma.masked_invalid(values), cmap=_colour_map(name), vmin=low, vmax=high, aspect="auto")
    side = axes.inset_axes((1 + 0.06 / size[0], 0.0, 0.07 / size[0], 1.0))
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}
    beyond = (bool(seen.min() < low), bool(seen.max() > high))
    bar = axes.figure.colorbar(image, cax=side, extend=extend.get(beyond, "neither"), extendfrac=0.03)
    from matplotlib.ticker import MaxNLocator

    bar.ax.yaxis.set_major_locator(MaxNLocator(4))
    bar.ax.tick_params(labelsize=6.5, length=2, width=0.5, colors=_INK, pad=1.5)
    bar.outline.set_linewidth(0.4)
    bar.ax.set_title(_unit(name), fontsize=6.5, color=_PALE, pad=5, loc="left")


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
        axes.text(1.12, y, label, transform=axes.transAxes, color=_INK, fontsize=6, va="center")


def _colour_map(name: str) -> Colormap:
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    scale = _SCALES.get(name, "viridis")
    return colormaps[scale] if isinstance(scale, str) else LinearSegmentedColormap.from_list("dry_to_wet", scale)


def _watermark(axes: Axes, size: tuple[float, float]) -> None:
    from matplotlib.patheffects import withStroke

    axes.text(
        0.5,
        0.5,
        WATERMARK,
        transform=axes.transAxes,
        ha="center",
        va="center",
        rotation=float(np.degrees(np.arctan2(size[1], size[0]))),
        fontsize=min(9.0, float(np.hypot(*size)) * 72 / 17),
        fontweight="bold",
        color=_INK,
        alpha=0.3,
        linespacing=1.2,
        clip_on=True,
        path_effects=[withStroke(linewidth=1.2, foreground="white", alpha=0.4)],
    )


def _draw_table(figure: Figure, found: Inventory, place: tuple[float, float, float, float], height: float) -> None:
    """Per variable and day a bar whose colours share its height as the pixels share the classes."""
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
    axes.tick_params(length=2, width=0.5, colors=_INK)
    axes.spines[:].set(linewidth=0.5, color="#999999")
    top = 0
    for held in found.contents.values():
        top += len(held.group.variables)
        axes.axhline(top, color="#777777", linewidth=0.5)
    axes.set_title(
        "What there is of each variable and day: the height of a colour is its share of the pixels",
        loc="left", fontsize=8.5, weight="bold", color=_INK, pad=5,
    )  # fmt: skip
    handles = [
        Patch(
            facecolor=colour,
            edgecolor="#999999",
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
    """Boxes of a day's width that stand on `tops` (y counts down)."""
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
            edgecolor="#999999" if hatched else "none",
            linewidth=0.2 if hatched else 0,
            hatch="////" if hatched else None,
        ),
        autolim=False,
    )


def _ticks(days: Sequence[date]) -> list[int]:
    """About ten days, evenly spread, the first among them."""
    return list(range(0, len(days), max(1, -(-len(days) // 10))))
