"""Read one tile of a stack, or some pixels of it: bands interpolated in time, series by distinct coarse cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.stack.availability import Picked
from mmnet_maps.stack.cells import Pixels, cells_below, combinations
from mmnet_maps.stack.fields import Field, OnDay, SmapResampling, marks_of, read_field
from mmnet_maps.stack.interpolate import Float
from mmnet_maps.stack.needs import Needs, uses
from mmnet_maps.stack.observations import Observations
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FINE_GROUPS, VARIABLES


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Inputs of a map of one tile and day other than the series; of picked pixels (y, x) is (1, n).

    Attributes
    ----------
    day
        The day of the map.
    fine
        Variables on the tile's grid, (y, x): float32, NaN missing, or as stored, int16, where values of one observation
        are used as they are, which is half the size (see `physical`); land cover uint8, 0 missing.
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

    def physical(self, name: str) -> NDArray[Any]:
        """Return a variable of `fine` in its units: float32, NaN missing; land cover uint8."""
        return VARIABLES[name].physical(self.fine[name])


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
    pixels = Pixels(grid=grid, picked=picked)
    used = {use.group.name: use for use in uses(stack, grid, needs, days)}
    coarse = [name for name in needs.variables if stack.group_of(name).kind not in FINE_GROUPS]
    lattices = {
        name: cells_below(pixels, used[name].group, used[name].window, wanted)
        for name in dict.fromkeys(stack.group_of(name).name for name in coarse)
    }
    marks = {name: marks_of(stack, used[name]) for name in lattices}
    fields = {
        name: read_field(stack, used[group], marks[group], lattices[group], name, needs, days)
        for name, group in ((name, stack.group_of(name).name) for name in coarse)
    }
    series_id, places = _series_cells(needs.series_groups, fields)
    first, last = needs.series_days(days[0])[0], needs.series_days(days[-1])[-1]
    observations = Observations(stack, used, pixels, [name for name in needs.snapshot if name not in fields], days)
    coarse_on = {name: fields[name].to_pixels(pixels, smap_resampling) for name in needs.snapshot if name in fields}
    return Block(
        groups=needs.series_groups,
        series_id=series_id,
        series={
            name: np.ascontiguousarray(fields[name].values[fields[name].days(first, last)].T[place])
            for name, place in places.items()
        },
        starts=tuple((needs.series_days(day)[0] - first).days for day in days),
        snapshots=(_snapshot(day, observations, coarse_on, fields, places, needs) for day in days),
        cells={name: field.cells.on_lattice(field.cells.used) for name, field in fields.items()},
        borrowed={name: field.borrowed() for name, field in fields.items()},
    )


def _series_cells(
    groups: Sequence[Sequence[str]], fields: Mapping[str, Field]
) -> tuple[NDArray[np.int32], dict[str, NDArray[np.intp]]]:
    """Enumerate the distinct combinations of cells, for each group of variables.

    Returns
    -------
    series_id
        The one of each pixel (group, y, x), −1 for none.
    places
        For each variable the column of its field for every combination.
    """
    lattices = [{fields[name].cells.group.name: fields[name].cells for name in group} for group in groups]
    series_id, found = combinations([[*of_group.values()] for of_group in lattices])
    places: dict[str, NDArray[np.intp]] = {}
    for names, of_group, used in zip(groups, lattices, found, strict=True):
        of_lattice = dict(zip(of_group, used, strict=True))
        places |= {name: fields[name].places(of_lattice[fields[name].cells.group.name]) for name in names}
    return series_id, places


def _snapshot(
    day: date,
    observations: Observations,
    coarse_on: Mapping[str, OnDay],
    fields: Mapping[str, Field],
    places: Mapping[str, NDArray[np.intp]],
    needs: Needs,
) -> Snapshot:
    fine, ages = observations.on(day)
    gap_filled = np.zeros(observations.shape, bool)
    for name, on in coarse_on.items():
        fine[name], filled = on(day)
        gap_filled |= filled
    own = needs.series_days(day)
    of_series = {name: (fields[name], fields[name].days(own[0], own[-1]), place) for name, place in places.items()}
    borrowed = {
        name: np.any(field.gap_filled[days], axis=0, keepdims=True)[0, place]
        for name, (field, days, place) in of_series.items()
    }
    lst_filled = surface_temperature = None
    if "lst" in of_series:
        field, days, place = of_series["lst"]
        lst_filled = (~field.observed[days]).mean(axis=0, dtype=np.float32)[place]
        surface_temperature = field.values[days.stop - 1][place]
    return Snapshot(
        day=day,
        fine=fine,
        ages=ages,
        gap_filled=gap_filled,
        series_gap_filled=tuple(np.any([borrowed[name] for name in group], axis=0) for group in needs.series_groups),
        lst_filled=lst_filled,
        surface_temperature=surface_temperature,
    )
