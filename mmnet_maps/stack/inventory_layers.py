"""The layers of a stack on one day, thinned out for a picture."""

from __future__ import annotations

from datetime import date

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.lattice import Window, cover, nearest_cells
from mmnet_maps.stack.availability import look_up
from mmnet_maps.stack.blocks import Group
from mmnet_maps.stack.interpolate import interpolate_days
from mmnet_maps.stack.inventory import Inventory, Scope
from mmnet_maps.variables import FINE_GROUPS, SEARCH_DAYS, VARIABLES

_PIXELS = 420


def shown_day(found: Inventory) -> date | None:
    """Return the last day of the table on which most variables have a value."""
    if not found.days:
        return None
    counts = np.sum([entry.usable > 0 for entry in found.table.values()], axis=0)
    return found.days[int(np.flatnonzero(counts == counts.max())[-1])]


def shown_grid(found: Inventory) -> tuple[GeoBox, int]:
    """Return the grid of the picture, on the fine lattice, and its step in pixels."""
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


def read_layer(found: Inventory, name: str, day: date | None, grid: GeoBox, step: int) -> NDArray[np.float32]:
    """Read values (y, x) on the thinned grid, NaN where missing; land cover as codes, NaN for 0."""
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
    """Read every `step`-th pixel of a fine layer, part by part."""
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
    """Read a variable on a day, as a map would use it, in some cells of a window."""
    stack, spec, reach = found.stack, VARIABLES[name], SEARCH_DAYS.get(group.kind, 0)
    if not group.temporal or day is None:
        values = stack.read(name, window)[picked].astype(np.float32)
        return np.where(values == 0, np.float32(np.nan), values) if spec.dtype == "uint8" else values
    near = [other for other in found.contents[group.name].days if abs((other - day).days) <= reach]
    marked = look_up(stack, group, window, near)
    if not marked.observed:
        shape = (len(range(part.stop - part.start)[step]) for part, step in zip(window, picked, strict=True))
        return np.full((*shape,), np.nan, np.float32)

    def read(other: date) -> NDArray[np.integer]:
        values = stack.read_packed(name, window, other)
        marked.hide(values, window, other, spec.nodata)
        return values[picked]

    return interpolate_days(read, marked.observed, day, reach, spec)[0]
