"""Read one tile of a stack, or some pixels of it: bands interpolated in time, series by distinct coarse cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.lattice import Window, fractional_cells, nearest_cells
from mmnet_maps.stack.availability import Availability, Picked, look_up
from mmnet_maps.stack.blocks import Group
from mmnet_maps.stack.interpolate import (
    NEVER,
    Float,
    Packed,
    bilinear,
    fill_gaps,
    interpolate_days,
    interpolate_series,
)
from mmnet_maps.stack.needs import Needs, Use, fine_window, uses
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FINE_GROUPS, SEARCH_DAYS, VARIABLES

SmapResampling = Literal["nearest", "bilinear"]

_OBSERVATIONS = 48  # of 2 MB a tile: all that two successive days share


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Inputs of a map of one tile and day other than the series; of picked pixels (y, x) is (1, n).

    Attributes
    ----------
    day
        The day of the map.
    fine
        Variables on the tile's grid, (y, x): float32, NaN missing; of the static group as stored, int16, which is half
        the size; land cover uint8, 0 missing.
    ages
        Days to the nearest observation, (y, x) uint8, `interpolate.NEVER` where there is none, for ``optical`` and
        ``sar``.
    gap_filled
        Pixels (y, x) with a coarse value of `fine` from a neighbouring cell.
    series_gap_filled
        For each group of the series its cells with a value from a neighbouring cell, bool (cells,).
    lst_filled
        Share of the series' days without an observation of surface temperature, float32 (cells,) of its group; None
        where not used.
    surface_temperature
        K on the last day of the series, likewise.
    """

    day: date
    fine: dict[str, NDArray[Any]]
    ages: dict[str, NDArray[np.uint8]]
    gap_filled: NDArray[np.bool_]
    series_gap_filled: tuple[NDArray[np.bool_], ...]
    lst_filled: Float | None
    surface_temperature: Float | None


@dataclass(frozen=True, kw_only=True)
class Block:
    """Inputs of maps of one tile; of picked pixels (y, x) is (1, n).

    Attributes
    ----------
    groups
        Variables of the series by group, as `needs.Needs.series_groups`.
    series_id
        For each group the series cell of every pixel, (group, y, x) int32: the distinct combination of coarse cells of
        the group's variables that it lies in, and its row of their series; −1 in all groups off a lattice and where no
        map is wanted.
    series
        Series variables (cells of the group, days), float32, NaN missing, oldest day first.
    starts
        For each day of a map, in order, the index of the first day of its own series.
    snapshots
        One per day, in order, each read when the iterator reaches it.
    cells, borrowed
        For each coarse variable, the cells of its lattice that the pixels lie in, counted along its rows, and those of
        them that have a value from a neighbouring cell on any of the days.
    """

    groups: tuple[tuple[str, ...], ...]
    series_id: NDArray[np.int32]
    series: dict[str, Float]
    starts: tuple[int, ...]
    snapshots: Iterator[Snapshot]
    cells: dict[str, NDArray[np.intp]]
    borrowed: dict[str, NDArray[np.intp]]

    def rows_of(self, name: str) -> NDArray[np.int32]:
        """Return the row of a variable's series for each pixel (y, x); −1 for none."""
        rows: NDArray[np.int32] = self.series_id[[name in group for group in self.groups].index(True)]
        return rows


def read_block(
    stack: Stack,
    grid: GeoBox,
    needs: Needs,
    days: Sequence[date],
    *,
    smap_resampling: SmapResampling,
    wanted: NDArray[np.bool_] | None = None,
    picked: Picked | None = None,
) -> Block:
    """Read one tile, or some pixels of it, for maps of some days; data that they share are read once.

    Data of a day are used only in blocks that are marked as valued on that day.

    Parameters
    ----------
    stack
        An open stack.
    grid
        The tile, a window of the stack's fine lattice.
    needs
        Needs of the model.
    days
        The days of the maps, in order.
    smap_resampling
        ``nearest`` gives every pixel its SMAP cell's value, ``bilinear`` interpolates between cell centres.
    wanted
        Pixels (y, x) that are mapped; by default all.
    picked
        The only pixels to read, in place of `wanted`: their values are those of the whole tile, of shape (1, n).
    """
    pixels = _Pixels(grid=grid, picked=picked)
    used = {use.group.name: use for use in uses(stack, grid, needs, days)}
    found = {name: look_up(stack, *use) for name, use in used.items()}
    fields = {
        name: _read_field(stack, used[group.name], found[group.name], name, needs, days)
        for name, group in ((name, stack.group_of(name)) for name in needs.variables)
        if group.kind not in FINE_GROUPS
    }
    groups = needs.series_groups
    series_id, places = _series_cells(pixels, [[fields[name] for name in group] for group in groups], wanted)
    place = {
        name: of_group[fields[name].group.name]
        for group, of_group in zip(groups, places, strict=True)
        for name in group
    }
    first, last = needs.series_days(days[0])[0], needs.series_days(days[-1])[-1]
    series = {name: fields[name].on(first, last, place[name]) for name in needs.series}
    cells = {name: field.cells_of(pixels, wanted) for name, field in fields.items()}
    observations = _Observations(stack, found, pixels, [name for name in needs.snapshot if name not in fields])
    return Block(
        groups=groups,
        series_id=series_id,
        series={name: np.ascontiguousarray(values.T) for name, (values, _, _) in series.items()},
        starts=tuple((needs.series_days(day)[0] - first).days for day in days),
        snapshots=(_snapshot(day, observations, fields, place, needs, smap_resampling) for day in days),
        cells=cells,
        borrowed={name: fields[name].borrowed(own) for name, own in cells.items()},
    )


@dataclass(frozen=True, kw_only=True)
class _Pixels:
    """Pixels to read: all of a grid, or picked ones as a row."""

    grid: GeoBox
    picked: Picked | None

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of every field that is read."""
        return (self.grid.shape.y, self.grid.shape.x) if self.picked is None else (1, self.picked[0].size)

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values of these pixels, given those of the whole grid."""
        return values if self.picked is None else values[self.picked][None]

    def cells(self, lattice: GeoBox) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the row and column of the cell that each pixel lies in; −1 off the lattice."""
        rows, cols = nearest_cells(self.grid, lattice)
        return self.of(rows), self.of(cols)

    def positions(self, lattice: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the position of each pixel in cells of a lattice."""
        rows, cols = fractional_cells(self.grid, lattice)
        return self.of(rows), self.of(cols)


@dataclass(frozen=True, kw_only=True)
class _Field:
    """A coarse variable on consecutive days from `first` on, in a window of its lattice; arrays (time, row, col)."""

    group: Group
    window: Window
    first: date
    values: Float
    gaps: Float
    gap_filled: NDArray[np.bool_]

    def on(self, first: date, last: date, places: NDArray[np.intp]) -> tuple[Float, Float, NDArray[np.bool_]]:
        """Return values, days to the observation and gap-filled cells, (days, places), for some cells of the window."""
        days = slice((first - self.first).days, (last - self.first).days + 1)

        def cells(part: NDArray[Any]) -> NDArray[Any]:
            return part[days].reshape(-1, part[0].size)[:, places]

        return cells(self.values), cells(self.gaps), cells(self.gap_filled)

    def cells_of(self, pixels: _Pixels, wanted: NDArray[np.bool_] | None) -> NDArray[np.intp]:
        """Return the cells of the lattice, counted along its rows, that pixels lie in."""
        rows, cols = pixels.cells(self.group.lattice)
        inside = rows >= 0 if wanted is None else (rows >= 0) & wanted
        held = np.zeros(self.values.shape[1:], bool)
        held[rows[inside] - self.window[0].start, cols[inside] - self.window[1].start] = True
        row, col = np.nonzero(held)
        index: NDArray[np.intp] = (row + self.window[0].start) * self.group.lattice.shape.x + col + self.window[1].start
        return index

    def borrowed(self, cells: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return those of some cells that are gap-filled on any day."""
        row, col = np.divmod(cells, self.group.lattice.shape.x)
        filled: NDArray[np.bool_] = np.any(self.gap_filled, axis=0)
        found: NDArray[np.intp] = cells[filled[row - self.window[0].start, col - self.window[1].start]]
        return found

    def to_pixels(self, pixels: _Pixels, day: date, resampling: SmapResampling) -> tuple[Float, NDArray[np.bool_]]:
        """Return the day's value of every pixel, NaN off the lattice, and whether its cell is gap-filled."""
        today = (day - self.first).days
        values, filled = self.values[today], self.gap_filled[today]
        top, left = self.window[0].start, self.window[1].start
        gap_filled = np.zeros(pixels.shape, bool)
        if filled.any() or resampling == "nearest":
            rows, cols = pixels.cells(self.group.lattice)
            on_lattice = rows >= 0
            index = np.where(on_lattice, rows - top, 0), np.where(on_lattice, cols - left, 0)
            gap_filled = filled[index] & on_lattice if filled.any() else gap_filled
            if resampling == "nearest":
                return np.where(on_lattice, values[index], np.float32(np.nan)), gap_filled
        y, x = pixels.positions(self.group.lattice)
        sampled = bilinear(values, y - top, x - left)
        height, width = self.group.lattice.shape
        if not (y.min() >= 0 and x.min() >= 0 and y.max() < height and x.max() < width):
            sampled[~((y >= 0) & (x >= 0) & (y < height) & (x < width))] = np.nan
        return sampled, gap_filled


def _read_field(stack: Stack, use: Use, found: Availability, name: str, needs: Needs, days: Sequence[date]) -> _Field:
    """Read a coarse variable and interpolate it on the maps' own days."""
    start = use.days[0]
    packed = stack.read_packed_days(name, use.window, start, use.days[-1])
    for k, values in enumerate(packed):
        found.hide(values, use.window, start + timedelta(days=k), VARIABLES[name].nodata)
    kind = use.group.kind
    first, last = needs.own_days(kind, days[0])[0], needs.own_days(kind, days[-1])[-1]
    own = np.arange((first - start).days, (last - start).days + 1)
    values, gaps = interpolate_series(VARIABLES[name].unpack(packed), own, SEARCH_DAYS.get(kind, 0))
    values, gap_filled = fill_gaps(values)
    return _Field(group=use.group, window=use.window, first=first, values=values, gaps=gaps, gap_filled=gap_filled)


def _series_cells(
    pixels: _Pixels, groups: Sequence[Sequence[_Field]], wanted: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int32], list[dict[str, NDArray[np.intp]]]]:
    """Enumerate the distinct combinations of cells, for each group of fields.

    Returns
    -------
    series_id
        The one of each pixel (group, y, x), −1 for none.
    places
        For each group, by lattice the cell of every combination, counted along the rows of the field's window.
    """
    lattices = {field.group.name: field for group in groups for field in group}
    on = np.ones(pixels.shape, bool) if wanted is None else wanted.copy()
    cell = {}
    for name, field in lattices.items():
        rows, cols = pixels.cells(field.group.lattice)
        on &= rows >= 0
        width = np.int64(field.values.shape[2])
        cell[name] = (rows - field.window[0].start) * width + (cols - field.window[1].start)
    found = []
    for group in groups:
        sizes = {field.group.name: field.values[0].size for field in group}
        found.append(_combinations({name: cell[name] for name in sizes}, sizes, on))
    return np.stack([series_id for series_id, _ in found]), [places for _, places in found]


def _combinations(
    cell: Mapping[str, NDArray[np.int64]], sizes: Mapping[str, int], on: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], dict[str, NDArray[np.intp]]]:
    """Enumerate the distinct combinations of the cells of some lattices, of which each has a number of cells."""
    key = np.zeros(on.shape, np.int64)
    for name, of_pixels in cell.items():
        key *= sizes[name]
        key += of_pixels
    key[~on] = -1
    # Neighbours share cells, so there are far fewer runs of one key to sort than pixels.
    flat = key.ravel()
    runs = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    distinct, which = np.unique(flat[runs], return_inverse=True)
    none = int(distinct[0] == -1)
    series_id = np.repeat((which - none).astype(np.int32), np.diff(runs, append=flat.size)).reshape(on.shape)
    remainder = distinct[none:]
    places = {}
    for name, size in reversed([*sizes.items()]):
        remainder, places[name] = np.divmod(remainder, size)
    return series_id, places


class _Observations:
    """Fine variables of some pixels; an observation that successive days share is read once."""

    def __init__(self, stack: Stack, found: Mapping[str, Availability], pixels: _Pixels, names: Sequence[str]) -> None:
        self.pixels = pixels
        self._found = {name: found[stack.group_of(name).name] for name in names}
        self._window = window = fine_window(pixels.grid, stack)
        self._read = read = partial(_read_marked, stack, self._found)

        @lru_cache(_OBSERVATIONS if pixels.picked is None else None)
        def whole(name: str, day: date) -> Packed:
            return pixels.of(read(window, name, day))

        self._whole = whole
        self._static = {
            name: pixels.of(read(window, name, None)) for name in names if not self._found[name].group.temporal
        }

    def on(self, day: date) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.uint8]]]:
        """Return all variables on a day, and by group the age of the oldest of their observations."""
        fine, ages = dict(self._static), dict[str, NDArray[np.uint8]]()
        for name, found in self._found.items():
            if found.group.temporal:
                kind, reach = found.group.kind, SEARCH_DAYS[found.group.kind]
                near = [other for other in found.observed if abs((other - day).days) <= reach]
                if near:
                    read = partial(self._part, name)
                    fine[name], age = interpolate_days(read, near, day, reach, self.pixels.shape, VARIABLES[name])
                else:
                    fine[name], age = np.full(self.pixels.shape, np.nan, np.float32), np.full(self.pixels.shape, NEVER)
                ages[kind] = np.maximum(ages[kind], age) if kind in ages else age
        return fine, ages

    def _part(self, name: str, day: date, part: Window) -> Packed:
        """Return a part of an observation; of a whole tile the part alone is read."""
        if self.pixels.picked is not None:
            return self._whole(name, day)[part]
        rows, cols = (
            slice(one.start + by.start, one.stop + by.start) for one, by in zip(part, self._window, strict=True)
        )
        return self._whole(name, day) if (rows, cols) == self._window else self._read((rows, cols), name, day)


def _read_marked(
    stack: Stack, found: Mapping[str, Availability], window: Window, name: str, day: date | None
) -> Packed:
    """Read packed values of a window, missing in blocks that are not marked as valued."""
    packed = stack.read_packed(name, window, day)
    found[name].hide(packed, window, day, VARIABLES[name].nodata)
    return packed


def _snapshot(
    day: date,
    observations: _Observations,
    fields: Mapping[str, _Field],
    places: Mapping[str, NDArray[np.intp]],
    needs: Needs,
    resampling: SmapResampling,
) -> Snapshot:
    fine, ages = observations.on(day)
    gap_filled = np.zeros(observations.pixels.shape, bool)
    for name in (name for name in needs.snapshot if name in fields):
        fine[name], filled = fields[name].to_pixels(observations.pixels, day, resampling)
        gap_filled |= filled
    own = needs.series_days(day)
    series = {name: fields[name].on(own[0], own[-1], places[name]) for name in needs.series}
    return Snapshot(
        day=day,
        fine=fine,
        ages=ages,
        gap_filled=gap_filled,
        series_gap_filled=tuple(
            np.any([series[name][2].any(0) for name in group], axis=0) for group in needs.series_groups
        ),
        lst_filled=(series["lst"][1] > 0).mean(0, dtype=np.float32) if "lst" in series else None,
        surface_temperature=series["lst"][0][-1] if "lst" in series else None,
    )
