"""Reads for the inputs of many points: each coarse cell and each pixel once, whatever the number of points in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby

from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import Window
from mmnet_maps.sources.base import Gathering, Source
from mmnet_maps.stack.availability import cut_days
from mmnet_maps.stack.needs import Needs, Use, uses
from mmnet_maps.stack.plan import Request
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FINE_GROUPS

_DAYS = {"weather": 1830}
"""Most days of one read: of weather five years, which services cut out at once."""

_YEAR = 460
"""Most days of other reads: a year of maps with the days before and after that it needs."""

_VALUES = 16_000_000
"""Most values of one read; memory bounds them."""

_AREA = 16
"""Points whose coarse cells lie in the same square of so many cells are read together, if a source states no other."""


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
class PointRead:
    """A read for some points, and the windows of its cells that they use.

    Of a group without a time axis, each day stands for the values of its year.
    """

    request: Request
    windows: tuple[Window, ...]


@dataclass(frozen=True, kw_only=True)
class PointReads:
    """The reads of a point, by group, ascending."""

    point: Point
    windows: Mapping[str, Window]
    reads: Mapping[str, Sequence[PointRead]]

    @property
    def all_reads(self) -> list[PointRead]:
        """The reads of all groups."""
        return [read for reads in self.reads.values() for read in reads]


@dataclass
class _Area:
    """Cells of a group that are read together, and the days."""

    use: Use
    rows: slice
    cols: slice
    days: set[date] = field(default_factory=set)
    windows: list[Window] = field(default_factory=list)

    def add(self, use: Use) -> None:
        """Add cells and days."""
        rows, cols = use.window
        self.rows = slice(min(self.rows.start, rows.start), max(self.rows.stop, rows.stop))
        self.cols = slice(min(self.cols.start, cols.start), max(self.cols.stop, cols.stop))
        self.days.update(use.days)
        if use.window not in self.windows:
            self.windows.append(use.window)

    def reads(self) -> list[PointRead]:
        """Return the reads, in order of their days: one of all years for a group without a time axis."""
        group, days = self.use.group, sorted(self.days)
        cells = (self.rows.stop - self.rows.start) * (self.cols.stop - self.cols.start) * len(group.variables)
        most = max(1, min(_DAYS.get(group.kind, _YEAR), _VALUES // cells))
        return [
            PointRead(
                request=Request(group=group, window=(self.rows, self.cols), days=tuple(span)),
                windows=tuple(self.windows),
            )
            for span in (cut_days(days, most) if group.temporal else [days])
        ]


def plan_points(
    stack: Stack, points: Sequence[Point], needs: Needs, today: date, sources: Iterable[Source] = ()
) -> list[PointReads]:
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
    sources
        The sources, which may state how coarse cells are best read together (`base.Gathering`).

    Raises
    ------
    RequestError
        A day is too near the start of the time axis.
    InputError
        An input does not cover a point.
    """
    used = [_uses(stack, point, needs, today) for point in points]
    gathering = [source for source in sources if isinstance(source, Gathering)]

    def square(use: Use) -> tuple[str, int, int]:
        """Return what uses that are read together have in common: a pixel, or a square of coarse cells."""
        group, row, col = use.group, use.window[0].start, use.window[1].start
        if group.kind in FINE_GROUPS:
            return group.name, row, col
        side = max((side for source in gathering if (side := source.side(group.kind))), default=0)
        if not side:
            return group.name, row // _AREA, col // _AREA
        place = group.lattice.affine  # from the origin of the CRS, as tiles of products are
        return group.name, (round(place.f / place.e) + row) // side, (round(place.c / place.a) + col) // side

    areas: dict[tuple[str, int, int], _Area] = {}
    for use in (use for of_point in used for use in of_point):
        areas.setdefault(square(use), _Area(use, *use.window)).add(use)
    reads = {key: area.reads() for key, area in areas.items()}
    return [
        PointReads(
            point=point,
            windows={use.group.name: use.window for use in of_point},
            reads={
                use.group.name: [read for read in reads[square(use)] if not own.isdisjoint(read.request.days)]
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
