"""Inputs at points, by the code that reads those of maps, so that a model is trained on the inputs it will see."""

from __future__ import annotations

import logging
import tempfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import RequestError
from mmnet_maps.grid.tiles import conus_grid, pixel_of
from mmnet_maps.sources.base import Source, SourceDownError
from mmnet_maps.stack.fetch import (
    assign_needed,
    choose_products,
    not_fetched,
    open_or_create,
    report_dropped,
    stopping,
)
from mmnet_maps.stack.fields import SmapResampling
from mmnet_maps.stack.in_order import in_order
from mmnet_maps.stack.kept_reads import KeptReads
from mmnet_maps.stack.needs import Needs
from mmnet_maps.stack.pixel_stack import Held, Packed, PixelStack
from mmnet_maps.stack.plan import pace
from mmnet_maps.stack.point_plan import Point, PointRead, PointReads, plan_points
from mmnet_maps.stack.products import title_of
from mmnet_maps.stack.reader import read_block
from mmnet_maps.stack.store import Stack

log = logging.getLogger("mmnet_maps")

_AHEAD = 8
"""Reads that wait for each one under way."""


def sample(
    sources: Sequence[Source],
    points: Iterable[tuple[float, float]],
    days: Sequence[date],
    needs: Needs,
    *,
    smap_resampling: SmapResampling = "bilinear",
    today: date | None = None,
) -> dict[str, NDArray[Any]]:
    """Read a model's inputs at points: those of the pixel of the default grid that holds each point, as on a map.

    Parameters
    ----------
    sources
        In order of preference (`sources.open_source`).
    points
        Longitude and latitude, degrees.
    days
        Days of the samples.
    needs
        Needs of the model (`request.needs_of`).
    smap_resampling, today
        As for maps.

    Returns
    -------
    dict of str to ndarray
        One row for each point and day, by point: ``point`` int64, counted from 0, ``date`` datetime64[D];
        snapshot variables float32, NaN missing (``landcover`` NLCD code, uint8, 0 missing); series variables float32
        (rows, steps), oldest day first, named ``…_series`` where a snapshot variable has that name;
        ``optical_age`` and ``sar_age``, days to the nearest observation, uint8, 255 for none, if the model uses
        them.

    Raises
    ------
    RequestError
        A point is outside the default grid.
    InputError
        A source does not have a variable or cannot be read.
    """
    found: list[dict[str, NDArray[Any]]] = []
    wanted = [_point(number, place, days) for number, place in enumerate(points)]
    choose_for_points(sources, wanted, needs, today=today)
    for number, of_year, stack in point_stacks(sources, wanted, needs, today=today):
        rows = read_pixel(stack, wanted[number].pixel, of_year, needs, smap_resampling=smap_resampling)
        place = {"point": np.full(len(of_year), number), "date": np.array(of_year, "datetime64[D]")}
        found.append({**place, **rows})
    return {name: np.concatenate([rows[name] for rows in found]) for name in (found[0] if found else ())}


def _point(number: int, place: tuple[float, float], days: Sequence[date]) -> Point:
    name = f"point {number}"
    try:
        return Point(name=name, pixel=pixel_of(conus_grid(), *place), days=tuple(sorted(set(days))))
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from error


def choose_for_points(
    sources: Sequence[Source], points: Sequence[Point], needs: Needs, *, today: date | None = None
) -> None:
    """Let sources with several products for a variable choose one for all points: what can be had at the first."""
    if points:
        days = sorted({day for point in points for day in point.days})
        choose_products(sources, points[0].pixel, needs, days, today or date.today())


def point_stacks(
    sources: Sequence[Source],
    points: Sequence[Point],
    needs: Needs,
    *,
    folder: Path | None = None,
    wanted: Sequence[int] | None = None,
    today: date | None = None,
) -> Generator[tuple[int, list[date], PixelStack], None, None]:
    """Read the inputs of points from sources, several reads at a time, as stacks in memory.

    Reads are planned for all points (`plan_points`), so that coarse cells are read once for all points in them, and
    carried out in the order of the points. A service that is down stops only the groups that need it: where finished
    reads are kept, the error is raised when the others are done.

    Parameters
    ----------
    sources, needs, today
        As `sample`; products are chosen already (`choose_for_points`).
    points
        The points, each with at least one day.
    folder
        Where finished reads are kept and found again; None to keep them only until all points are done.
    wanted
        Indices of the points to read, ascending; None for all. The others are planned for, so that the reads of these
        stay the same.

    Yields
    ------
    number, days, stack
        Index of a point, ascending; its days of a year, ascending; the stack, of which the pixel is a window.

    Raises
    ------
    RequestError
        A day is too near the start of the time axis.
    InputError
        A source does not have a variable or cannot be read; the message names the point.
    OutputError
        A read cannot be kept.
    """
    today, chosen = today or date.today(), assign_needed(sources, needs)
    with template_of(sources) as template:
        kept = KeptReads(folder or template.path.parent / "reads", sources, needs)
        plans = plan_points(template, points, needs, today, chosen.values())
        wanted = range(len(points)) if wanted is None else wanted
        reads, done, reading = pace(chosen.values()).reads, dict[int, bool](), _Reading(kept, chosen)
        with ThreadPoolExecutor(reads) as pool, stopping(sources):  # stopped before the pool waits for its reads
            finished = in_order(pool, _each_once(plans, wanted), reading, ahead=_AHEAD * reads)
            for k in wanted:
                mine = {id(read) for read in plans[k].all_reads}
                while not done.keys() >= mine:
                    (read, _), succeeded = next(finished)
                    done[id(read)] = succeeded
                if not all(done[one] for one in mine):
                    deque(finished if folder else (), maxlen=0)  # carry out the others, which are kept
                    raise not_fetched(reading.down) from next(iter(reading.down.values()))
                for days, stack in _stacks_of(template, plans[k], kept):
                    yield k, days, stack
        report_dropped(chosen.values(), kept.ranges)


def _each_once(plans: Sequence[PointReads], wanted: Iterable[int]) -> Iterable[tuple[PointRead, str]]:
    """Return each read of some points once, with the name of the first point that needs it."""
    found: dict[int, tuple[PointRead, str]] = {}
    for plan in (plans[k] for k in wanted):
        for read in plan.all_reads:
            found.setdefault(id(read), (read, plan.point.name))
    return found.values()


class _Reading:
    """Carries out reads, and says which succeed: none of a group whose service was found to be down."""

    def __init__(self, kept: KeptReads, chosen: Mapping[str, Source]) -> None:
        self._kept, self._chosen = kept, chosen
        self.down: dict[str, SourceDownError] = {}

    def __call__(self, item: tuple[PointRead, str]) -> bool:
        group = item[0].request.group
        if group.name in self.down and not self._kept.path(item[0]).exists():
            return False
        try:
            self._kept.ensure(item)
        except SourceDownError as error:
            if self.down.setdefault(group.name, error) is error:
                log.error("%s: %s", title_of(group, self._chosen), error)
            return False
        return True


@contextmanager
def template_of(sources: Sequence[Source]) -> Iterator[Stack]:
    """Make an empty stack with the groups of some sources, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "groups.zarr")
        open_or_create(path, sources, conus_grid())
        yield Stack(path)


def _stacks_of(template: Stack, plan: PointReads, kept: KeptReads) -> Iterator[tuple[list[date], PixelStack]]:
    """Yield the days of each year of a point, and a stack of its inputs with the land cover of that year."""
    groups, windows = template.groups, plan.windows
    loaded = {
        name: [(read.request.days, kept.load(read, windows[name])) for read in reads]
        for name, reads in plan.reads.items()
    }
    always = {
        name: Held.of(groups[name], windows[name], parts) for name, parts in loaded.items() if groups[name].temporal
    }
    for days in plan.point.years:
        static = {
            name: Held.of(groups[name], windows[name], [own])
            for name, parts in loaded.items()
            if not groups[name].temporal and (own := _of_year(parts, days[0].year))
        }
        yield days, PixelStack(template, always | static)


def _of_year(parts: Sequence[tuple[Sequence[date], Packed]], year: int) -> tuple[Sequence[date], Packed] | None:
    """Return the day of a year, and its values; None where it was not read."""
    for days, values in parts:
        for k, day in enumerate(days):
            if day.year == year:
                return [day], {name: found[k : k + 1] for name, found in values.items()}
    return None


def read_pixel(
    stack: Stack, pixel: GeoBox, days: Sequence[date], needs: Needs, *, smap_resampling: SmapResampling = "bilinear"
) -> dict[str, NDArray[Any]]:
    """Read a model's inputs at one pixel of a stack that holds them: the columns of `sample`, one row for each day.

    Parameters
    ----------
    stack
        An open stack.
    pixel
        One pixel of its fine lattice (`tiles.pixel_of`).
    days
        Days of the samples, in order.
    needs, smap_resampling
        As `sample`.
    """
    block = read_block(stack, pixel, needs, days, smap_resampling=smap_resampling)
    snapshots = list(block.snapshots)
    columns: dict[str, NDArray[Any]] = {}
    for name in needs.snapshot:
        columns[name] = np.array([snapshot.physical(name)[0, 0] for snapshot in snapshots])
    for kind in snapshots[0].ages:
        columns[f"{kind}_age"] = np.array([snapshot.ages[kind][0, 0] for snapshot in snapshots])
    for name, series in block.series.items():
        row = int(block.rows_of(name)[0, 0])
        windows = [series[row, start : start + needs.steps] for start in block.starts]
        columns[f"{name}_series" if name in columns else name] = (
            np.stack(windows) if row >= 0 else np.full((len(days), needs.steps), np.nan, np.float32)
        )
    return columns
