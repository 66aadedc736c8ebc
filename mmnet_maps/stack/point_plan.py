"""Reads for the inputs of many points: each coarse cell and each pixel once, whatever the number of points in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby

from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import Window
from mmnet_maps.stack.availability import cut_days
from mmnet_maps.stack.needs import Needs, Use, uses
from mmnet_maps.stack.plan import Request
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FINE_GROUPS

_DAYS = 460
"""Most days of one read: a year of maps with the days before and after that it needs."""

_AREA = 16
"""Points whose coarse cells lie in the same square of so many cells are read together."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A pixel of the default grid and days of maps, ascending; `name` is for errors, such as ``station Ephrata``."""

    name: str
    pixel: GeoBox
    days: tuple[date, ...]

    @property
    def years(self) -> list[list[date]]:
        """The days by year, because land cover is annual."""
        return [list(days) for _, days in groupby(self.days, key=lambda day: day.year)]


@dataclass(frozen=True, kw_only=True)
class PointReads:
    """The reads of a point, by group: ascending, of a group without a time axis one a year."""

    point: Point
    windows: Mapping[str, Window]
    reads: Mapping[str, Sequence[Request]]

    @property
    def all_reads(self) -> list[Request]:
        """The reads of all groups."""
        return [read for reads in self.reads.values() for read in reads]


@dataclass
class _Area:
    """Cells of a group that are read together, and the days."""

    use: Use
    rows: slice
    cols: slice
    days: set[date] = field(default_factory=set)

    def add(self, use: Use) -> None:
        """Add cells and days."""
        rows, cols = use.window
        self.rows = slice(min(self.rows.start, rows.start), max(self.rows.stop, rows.stop))
        self.cols = slice(min(self.cols.start, cols.start), max(self.cols.stop, cols.stop))
        self.days.update(use.days)

    def reads(self) -> list[Request]:
        """Return the reads, in order of their days."""
        group, most = self.use.group, _DAYS if self.use.group.temporal else 1
        return [
            Request(group=group, window=(self.rows, self.cols), days=tuple(days))
            for days in cut_days(sorted(self.days), most)
        ]


def plan_points(stack: Stack, points: Sequence[Point], needs: Needs, today: date) -> list[PointReads]:
    """Plan the reads of some points; those of points that lie close together are the same objects.

    Parameters
    ----------
    stack
        A stack with the groups of the sources, on the default grid.
    points
        The points, each with at least one day.
    needs
        Needs of the model.
    today
        The last day to read.

    Raises
    ------
    RequestError
        A day is too near the start of the time axis.
    InputError
        An input does not cover a point.
    """
    used = [_uses(stack, point, needs, today) for point in points]
    areas: dict[tuple[str, int, int], _Area] = {}
    for use in (use for of_point in used for use in of_point):
        areas.setdefault(_area(use), _Area(use, *use.window)).add(use)
    reads = {key: area.reads() for key, area in areas.items()}
    return [
        PointReads(
            point=point,
            windows={use.group.name: use.window for use in of_point},
            reads={
                use.group.name: [read for read in reads[_area(use)] if not own.isdisjoint(read.days)]
                for use, own in ((use, set(use.days)) for use in of_point)
            },
        )
        for point, of_point in zip(points, used, strict=True)
    ]


def _uses(stack: Stack, point: Point, needs: Needs, today: date) -> list[Use]:
    """Return the cells and days that a point uses: those until today, and of land cover the last day of each year."""
    try:
        found = uses(stack, point.pixel, needs, point.days)
    except InputError as error:
        raise InputError(f"{point.name}: {error}") from error
    kept = []
    for group, window, days in found:
        past = [day for day in days if day <= today]
        kept.append(Use(group, window, past if group.temporal else [*{day.year: day for day in past}.values()]))
    return [use for use in kept if use.days]


def _area(use: Use) -> tuple[str, int, int]:
    """Return what uses that are read together have in common."""
    side = 1 if use.group.kind in FINE_GROUPS else _AREA
    return use.group.name, use.window[0].start // side, use.window[1].start // side
