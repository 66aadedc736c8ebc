"""Variables, days and blocks of a stack that maps need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import RequestError
from mmnet_maps.grid.crs import crs_name
from mmnet_maps.grid.lattice import Window, cover, window_of
from mmnet_maps.grid.tiles import Tile, stack_lattice
from mmnet_maps.stack.blocks import Group
from mmnet_maps.stack.interpolate import FILL_CELLS
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FINE_GROUPS, FIRST_DAY, LAST_DAY, SEARCH_DAYS, STATIC_GROUPS, VARIABLES

PAD = FILL_CELLS + 1
"""Coarse cells read around a window: gap filling looks two cells further, and bilinear sampling one more."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Stored variables that a model needs, and the days of its series.

    Attributes
    ----------
    snapshot, series
        Names of variables.
    groups
        The variables of `series` by the branch of the model that reads them, each in one group; by default all in one.
    steps
        Days of the series.
    includes_day
        Whether the day of the map is the last of them.
    valued
        On this many of the last days of the series every variable must have a value, or there is no estimate; None
        for all. Earlier days may be empty.
    """

    snapshot: tuple[str, ...]
    series: tuple[str, ...]
    steps: int
    includes_day: bool
    valued: int | None = None
    groups: tuple[tuple[str, ...], ...] = ()

    @property
    def series_groups(self) -> tuple[tuple[str, ...], ...]:
        """The variables of the series, by group."""
        return self.groups or (self.series,)

    @property
    def variables(self) -> tuple[str, ...]:
        """All variables, once each."""
        return tuple(dict.fromkeys((*self.snapshot, *self.series)))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Usual groups of the variables (see `variables`)."""
        return tuple(dict.fromkeys(VARIABLES[name].group for name in self.variables))

    def series_days(self, day: date) -> list[date]:
        """Return the days of the series of a map of `day`, oldest first."""
        last = day if self.includes_day else day - timedelta(days=1)
        return [last - timedelta(days=k) for k in reversed(range(self.steps))]

    def own_days(self, kind: str, day: date) -> list[date]:
        """Return the days for which a map of `day` uses a value of this kind; its own for one without a time axis."""
        if kind in STATIC_GROUPS:
            return [day]
        series = self.series_days(day) if any(VARIABLES[name].group == kind for name in self.series) else []
        snapshot = [day] if any(VARIABLES[name].group == kind for name in self.snapshot) else []
        return sorted({*series, *snapshot})

    def valued_days(self, kind: str, day: date) -> list[date]:
        """Return those of `own_days` that need a value."""
        recent = {day, *self.series_days(day)[-(self.valued or self.steps) :]}
        return [own for own in self.own_days(kind, day) if own in recent]

    def days(self, kind: str, day: date) -> list[date]:
        """Return the days whose observations may enter a map of `day`: its own and the search window around them."""
        if kind in STATIC_GROUPS:
            return [day]
        reach = SEARCH_DAYS.get(kind, 0)
        own = self.own_days(kind, day)
        return [own[0] + timedelta(days=k) for k in range(-reach, (own[-1] - own[0]).days + reach + 1)]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Maps whose inputs a stack is to hold.

    Attributes
    ----------
    grid, tiles
        Grid of the maps, a window of the fine lattice, and those of its tiles that are mapped.
    needs, days
        Needs of the model, and the days to map.
    lattice
        Fine lattice of a new stack; by default whole tiles around the grid, see `tiles.stack_lattice`.
    """

    grid: GeoBox
    tiles: Sequence[Tile]
    needs: Needs
    days: Sequence[date]
    lattice: GeoBox | None = None

    @property
    def target(self) -> GeoBox:
        """Fine lattice of a new stack."""
        return self.lattice or stack_lattice(self.grid)


class Use(NamedTuple):
    """Part of a group that maps may read: a window of its lattice, and days."""

    group: Group
    window: Window
    days: list[date]


def uses(stack: Stack, grid: GeoBox, needs: Needs, days: Sequence[date]) -> list[Use]:
    """Return, per group, the window and all days that maps of a grid on some days may read.

    Raises
    ------
    RequestError
        The grid is not a window of the stack's fine lattice, or a day is too near the start of the time axis.
    InputError
        The stack has no such variable or does not cover the grid.
    """
    return [
        Use(group, _window(group, grid, stack), days_around(needs, group.kind, days))
        for group in groups_of(stack, needs, min(days))
    ]


def days_around(needs: Needs, kind: str, days: Sequence[date]) -> list[date]:
    """Return the days whose observations may enter maps of some days: those of `Needs.days` of each, on the axis."""
    around = [(day - days[0]).days for day in needs.days(kind, days[0])]  # the same around every day
    found = np.unique(np.add.outer([day.toordinal() for day in days], around))
    return days_on_axis(map(date.fromordinal, found.tolist()))


def groups_of(stack: Stack, needs: Needs, day: date) -> list[Group]:
    """Return the groups that maps of `day` and later days may read.

    Raises
    ------
    RequestError
        The day is too near the start of the time axis.
    InputError
        The stack has no such variable.
    """
    groups = {group.name: group for group in (stack.group_of(name) for name in needs.variables)}
    first = min(needs.own_days(group.kind, day)[0] for group in groups.values() if group.temporal)
    if first < FIRST_DAY:
        raise RequestError(
            f"a map of {day} needs inputs from {first} on, stacks begin on {FIRST_DAY}; choose a day "
            f"{(FIRST_DAY - first).days} or more days later"
        )
    return list(groups.values())


def days_on_axis(days: Iterable[date]) -> list[date]:
    """Return the days that lie on the time axis of stacks, ascending, once each."""
    return sorted({day for day in days if FIRST_DAY <= day <= LAST_DAY})


def _window(group: Group, grid: GeoBox, stack: Stack) -> Window:
    if group.kind in FINE_GROUPS:
        return fine_window(grid, stack)
    return cover(grid, group.lattice, pad=PAD)


def fine_window(grid: GeoBox, stack: Stack) -> Window:
    """Return the rows and columns of the stack's fine lattice that a grid spans.

    Raises
    ------
    RequestError
        The grid is not a window of it.
    """
    target = stack.target
    if grid.crs != target.crs or abs(grid.affine.a - target.affine.a) > 1e-9:
        raise RequestError(
            f"the stack {stack.path} is on {crs_name(target.crs)} at {target.affine.a:g}, the map is on "
            f"{crs_name(grid.crs)} at {grid.affine.a:g}; leave out --crs and --resolution, or build a stack with them"
        )
    return window_of(grid, target)
