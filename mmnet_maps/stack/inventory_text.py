"""An inventory as text for the terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from odc.geo.geobox import GeoBox

from mmnet_maps.errors import bytes_text, counted
from mmnet_maps.files import write_whole
from mmnet_maps.stack.inventory import Contents, DailyShares, Inventory
from mmnet_maps.variables import SEARCH_DAYS, VARIABLES

LEGEND = (
    "# observed in half of the pixels or more   + in some   . interpolated only   (blank) missing   - never fetched"
)

_UNITS = {"m3 m-3": "m³/m³", "g cm-3": "g/cm³", "mm day-1": "mm/day", "kg kg-1": "kg/kg", "W m-2": "W/m²"}
_UNITS |= {"m s-1": "m/s", "degree": "°", "percent": "%", "1": ""}
_LINE, _ROOM_FOR_TILES = 90, 8


def format_inventory(found: Inventory) -> str:
    """Format an inventory: groups, variables, provenance, and one character per variable and day."""
    target = found.stack.target
    lines = [f"{found.stack.path}  {bytes_text(found.size)}, fine lattice {lattice_text(target)}"]
    if not all(held.group.verified for held in found.contents.values()):
        lines.append("no checksums: a stack of 2026-11 or before, whose data are not verified; build it again")
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
        f"{counted(int(found.filled.sum()), 'block')} in {counted(len(found.tiles), 'tile')}{named}"
    ]


def _group_lines(contents: Sequence[Contents]) -> list[str]:
    rows = [("group", "lattice", "days with data", "of fetched", "blocks with data", "of fetched", "on disk")]
    for held in contents:
        days, blocks = len(held.days), int(held.filled.sum())
        when = f"{days}, {held.days[0]} to {held.days[-1]}" if days else "0" if held.group.temporal else "no time axis"
        fetched = str(len(held.days_fetched)) if held.group.temporal else ""
        row = (
            held.group.name,
            lattice_text(held.group.lattice),
            when,
            fetched,
            str(blocks),
            str(int(held.fetched.sum())),
        )
        rows.append((*row, bytes_text(held.size)))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for held, line in zip(contents, lines[1:].copy(), strict=True):
        names = ", ".join(f"{name} {unit(name)}".rstrip() for name in held.group.variables)
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
    """Return one character per day, see `LEGEND`; without any value, `-` if most was never fetched."""
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


def unit(name: str) -> str:
    """Return the units of a variable for people."""
    return _UNITS.get(VARIABLES[name].units, VARIABLES[name].units)


def lattice_text(lattice: GeoBox) -> str:
    """Format a lattice: CRS, cell size, shape."""
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


def write_inventory(found: Inventory, path: Path) -> None:
    """Write an inventory as JSON, whole or not at all.

    Raises
    ------
    OutputError
        When the file cannot be written.
    """
    write_whole(path, json.dumps(as_json(found), indent=1) + "\n")


def as_json(found: Inventory) -> dict[str, Any]:
    """Return an inventory as JSON can hold it; shares are of the pixels of a variable, from 0 to 1."""
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
