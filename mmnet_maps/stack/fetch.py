"""From sources into a stack: plan what is missing, read it, write it, mark it."""

from __future__ import annotations

import logging
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import Timeout
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError, OutputError
from mmnet_maps.grid.lattice import Window
from mmnet_maps.grid.tiles import Tile
from mmnet_maps.sources.base import Charged, Cost, Pace, Rasters, Source, Stoppable
from mmnet_maps.stack.reader import Needs, fine_window, uses
from mmnet_maps.stack.store import Group, Stack, create, lock
from mmnet_maps.variables import FINE_GROUPS, VARIABLES

log = logging.getLogger("mmnet_maps")

Item = TypeVar("Item")
Result = TypeVar("Result")

# Days in one read, which a source can share work between: a matter of memory. Fine groups are observed on few of them.
_PACE = Pace(reads=min(4, os.cpu_count() or 1), fine_days=16)
_COARSE_DAYS, _VALUES = 48, 60_000_000


@dataclass(frozen=True, kw_only=True)
class Request:
    """One read and write: a window of whole blocks of a group on some days."""

    group: Group
    window: Window
    days: tuple[date, ...]

    @property
    def cells(self) -> int:
        """Values to be read, over all variables and days."""
        rows, cols = self.window
        return int(rows.stop - rows.start) * int(cols.stop - cols.start) * len(self.days) * len(self.group.variables)


def assign(sources: Sequence[Source]) -> dict[str, Source]:
    """The source of every variable: the first in order that has it."""
    chosen: dict[str, Source] = {}
    for source in sources:
        for name in source.variables():
            chosen.setdefault(name, source)
    return chosen


def _of_needs(sources: Sequence[Source], needs: Needs) -> dict[str, Source]:
    """As `assign`; InputError for a variable that is needed and that no source has."""
    chosen = assign(sources)
    for name in needs.variables:
        if name not in chosen:
            raise InputError(
                f"no source gives {name}, which the model needs; they have {', '.join(sorted(chosen))}; "
                "add it to the source's YAML, or 'rest: demo' there to try things out"
            )
    return chosen


def open_or_create(path: str | Path, sources: Sequence[Source], target: GeoBox) -> None:
    """Create the stack if there is none at `path`, with room for all that the sources have.

    Raises
    ------
    InputError
        When a store is there that lacks what the sources would put into it.
    OutputError
        When it cannot be created.
    """
    chosen = assign(sources)
    if Path(path).exists():
        _check_products(Stack(path), chosen)
        return
    groups: dict[str, tuple[GeoBox, list[str]]] = {}
    for name, source in chosen.items():
        kind = VARIABLES[name].group
        lattice = target if kind in FINE_GROUPS else source.lattice(kind)
        key = kind if kind not in groups or groups[kind][0] == lattice else f"{kind}_{source.name}"
        groups.setdefault(key, (lattice, []))[1].append(name)
    create(path, target, groups, {name: source.variables()[name] for name, source in chosen.items()})


def _check_products(stack: Stack, chosen: Mapping[str, Source]) -> None:
    """InputError where a store holds another product than the sources would put into it."""
    for name, source in chosen.items():
        known = stack.provenance.get(name)
        if known != source.variables()[name]:
            raise InputError(
                f"the stack {stack.path} holds {name} from {known.product if known else 'nowhere'}, the source gives "
                f"{source.variables()[name].product}"
                f"{' made in another way' if known and known.product == source.variables()[name].product else ''}; "
                "choose another --out or delete the stack"
            )


def plan(
    stack: Stack,
    grid: GeoBox,
    pieces: Sequence[Tile],
    needs: Needs,
    days: Sequence[date],
    today: date,
    *,
    pace: Pace = _PACE,
    again: bool = False,
) -> list[Request]:
    """What is missing in a stack for maps of `pieces` of `grid` on `days`, in a stable order.

    A request of a fine group never spans two tiles. Days that have not come yet are not asked for. Days on which a part
    was found empty are asked again with `again`, and otherwise as long as their products may still appear (`pace`).
    """
    wanted: dict[str, tuple[Group, list[Window], set[date]]] = {}
    for day in days:
        for group, window, around in uses(stack, grid, needs, day):
            fine = group.kind in FINE_GROUPS
            windows = [fine_window(tile.geobox, stack) for tile in pieces] if fine else [window]
            wanted.setdefault(group.name, (group, windows, set()))[2].update(around)
    return [
        request
        for group, windows, around in wanted.values()
        for window in windows
        for request in _missing(
            stack,
            group,
            group.whole_blocks(window),
            sorted(day for day in around if day <= today),
            date.min if again else today - pace.delay + timedelta(days=1),
            pace.fine_days,
        )
    ]


def _lacking(
    stack: Stack,
    sources: Sequence[Source],
    grid: GeoBox,
    pieces: Sequence[Tile],
    needs: Needs,
    days: Sequence[date],
    today: date,
) -> list[Request]:
    """The plan at the pace of some sources; what was found empty is asked again where they have changed."""
    changed = stack.sources not in ([], [source.name for source in sources])
    return plan(stack, grid, pieces, needs, days, today, pace=_pace(sources), again=changed)


def _missing(
    stack: Stack, group: Group, window: Window, days: Sequence[date], since: date, fine_days: int
) -> Iterator[Request]:
    """What was never fetched, and from the day `since` on what was found empty."""
    if not group.temporal:
        if (stack.marks(group, window, days[:1]) <= (since == date.min)).any():
            yield Request(group=group, window=window, days=(days[-1],))
        return
    marks = stack.marks(group, window, days)
    lacking = [day for day, there in zip(days, marks, strict=True) if (there <= (day >= since)).any()]
    rows, cols = window
    cells = (rows.stop - rows.start) * (cols.stop - cols.start)
    most = max(fine_days, group.block**2 // cells) if group.kind in FINE_GROUPS else _COARSE_DAYS
    size = max(1, min(most, _VALUES // (cells * len(group.variables))))
    for start in range(0, len(lacking), size):
        yield Request(group=group, window=window, days=tuple(lacking[start : start + size]))


def fetch(
    path: str | Path,
    sources: Sequence[Source],
    target: GeoBox,
    grid: GeoBox,
    pieces: Sequence[Tile],
    needs: Needs,
    days: Sequence[date],
    *,
    today: date | None = None,
    quiet: bool = False,
) -> Stack:
    """Bring everything that maps of `grid` on `days` need into the stack at `path`, creating it if there is none.

    Whatever is marked as fetched is left alone, so that an interrupted run continues and a repeated one does nothing.
    When the sources have changed since (a files source is named after its files), what was found empty is asked again.

    Parameters
    ----------
    path
        Folder of the Zarr store.
    sources
        In order of preference: a variable comes from the first source that has it.
    target
        The fine lattice of a new stack.
    grid, pieces
        The map's grid, a window of the fine lattice, and those of its tiles that will be mapped.
    needs, days
        What the model needs, and the days that will be mapped.
    today
        Nothing after this day is asked for (default: the computer's date).
    quiet
        No progress bar.

    Raises
    ------
    InputError
        When no source has a needed variable, or an input is broken.
    OutputError
        When the store cannot be written.
    """
    path = Path(path)
    chosen = _of_needs(sources, needs)
    names = [source.name for source in sources]
    today = today or date.today()
    if path.exists():
        stack = Stack(path)
        _check_products(stack, chosen)
        if stack.sources == names and not _lacking(stack, sources, grid, pieces, needs, days, today):
            return stack
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _writing(path):
            open_or_create(path, sources, target)
            stack = Stack(path, writable=True)
            _run(stack, _lacking(stack, sources, grid, pieces, needs, days, today), chosen, quiet)
            if stack.sources != names:
                stack.record_sources(names)
    except OSError as error:
        raise OutputError(
            f"cannot write the stack {path} ({error.strerror or error}); what was fetched so far is kept: "
            "make room or choose another place, and run the same command again"
        ) from error
    return Stack(path)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What fetching one group would take.

    Attributes
    ----------
    group
        Its name.
    products
        Where its variables come from.
    reads, days, first, last
        Reads of a window, days asked for, and the first and last of them (the same without a time axis).
    bytes
        Size in memory of what would be stored, packed; what is compressed on disk is less.
    cost
        What a service is asked for; None where inputs are at hand.
    """

    group: str
    products: tuple[str, ...]
    reads: int
    days: int
    first: date
    last: date
    bytes: int
    cost: Cost | None


def estimate(
    path: str | Path,
    sources: Sequence[Source],
    target: GeoBox,
    grid: GeoBox,
    pieces: Sequence[Tile],
    needs: Needs,
    days: Sequence[date],
    *,
    today: date | None = None,
) -> list[Estimate]:
    """What `fetch` would do with the same arguments, per group; nothing is read or written.

    Sources are asked for their grids and for the days that they have something on.
    """
    chosen = _of_needs(sources, needs)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(path) if Path(path).exists() else Path(folder, "empty.zarr")
        open_or_create(place, sources, target)
        stack = Stack(place)
        requests = _lacking(stack, sources, grid, pieces, needs, days, today or date.today())
        with ThreadPoolExecutor(_pace(sources).reads) as pool:
            found = list(in_order(pool, requests, partial(_cost, chosen=chosen), ahead=len(requests)))
    estimates = []
    for name, several in groupby(found, key=lambda item: item[0].group.name):
        items = list(several)
        group = items[0][0].group
        asked = sorted({day for request, _ in items for day in request.days})
        costs = [cost for _, (_, cost) in items if cost is not None]
        estimates.append(
            Estimate(
                group=name,
                products=tuple(dict.fromkeys(chosen[v].variables()[v].product for v in group.variables)),
                reads=len(items),
                days=len(asked),
                first=asked[0],
                last=asked[-1],
                bytes=sum(size for _, (size, _) in items),
                cost=_sum(costs) if costs else None,
            )
        )
    return estimates


def _cost(request: Request, chosen: Mapping[str, Source]) -> tuple[int, Cost | None]:
    """Bytes that a request would store, and what it asks of services."""
    rows, cols = request.window
    cells = (rows.stop - rows.start) * (cols.stop - cols.start)
    size, costs = 0, []
    for source, days in _asked(request, chosen):
        mine = [name for name in request.group.variables if chosen[name] is source]
        size += cells * len(days) * sum(np.dtype(VARIABLES[name].dtype).itemsize for name in mine)
        if isinstance(source, Charged):
            costs.append(source.cost(request.group.kind, request.group.lattice[request.window], days))
    return size, _sum(costs) if costs else None


def _sum(costs: Sequence[Cost]) -> Cost:
    """All costs together."""
    return Cost(
        requests=sum(cost.requests for cost in costs),
        bytes=sum(cost.bytes for cost in costs),
        values=sum(cost.values for cost in costs),
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Hold the store's writer lock; say so while another run holds it."""
    held = lock(path)
    try:
        held.acquire(timeout=1)
    except Timeout:
        log.warning("another run is writing %s; waiting for it to end", path)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _run(stack: Stack, requests: Sequence[Request], chosen: Mapping[str, Source], quiet: bool) -> None:
    """Read what is asked for and write it, group by group, with a progress bar for each."""
    from tqdm import tqdm

    reads = _pace(chosen.values()).reads
    with ThreadPoolExecutor(reads) as pool, _stopping(chosen.values()):
        for name, group in groupby(requests, key=lambda request: request.group.name):
            asked = list(group)
            products = dict.fromkeys(
                chosen[variable].variables()[variable].product for variable in asked[0].group.variables
            )
            with tqdm(
                total=sum(request.cells for request in asked),
                unit="px",
                unit_scale=True,
                desc=f"{name} ({', '.join(products)})",
                disable=quiet,
            ) as bar:
                for request, found in in_order(pool, asked, partial(_read, chosen=chosen), ahead=reads):
                    bar.set_postfix_str(str(request.days[0]) if request.group.temporal else "", refresh=False)
                    for day, rasters in zip(request.days, found, strict=True):
                        stack.write(request.group.name, request.window, day, rasters)
                    bar.update(request.cells)


@contextmanager
def _stopping(sources: Iterable[Source]) -> Iterator[None]:
    """When something goes wrong, nothing more is asked for, so that the reads under way end soon."""
    try:
        yield
    except BaseException:
        for source in {id(source): source for source in sources}.values():
            if isinstance(source, Stoppable):
                source.stop()
        raise


def _pace(sources: Iterable[Source]) -> Pace:
    """The most reads at a time, the fewest days in one and the longest delay of some sources."""
    paces = [getattr(source, "pace", _PACE) for source in sources]
    return Pace(
        reads=max(pace.reads for pace in paces),
        fine_days=min(pace.fine_days for pace in paces),
        delay=max(pace.delay for pace in paces),
    )


def in_order(
    pool: ThreadPoolExecutor, items: Iterable[Item], function: Callable[[Item], Result], *, ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Apply a function in a pool's threads and give the results in order, never more than `ahead` before their use.

    When one fails nothing more is waited for: those that are done already are given before the error is raised.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > ahead:
                yield waiting[0][0], _first(waiting)
                waiting.popleft()
        while waiting:
            yield waiting[0][0], _first(waiting)
            waiting.popleft()
    except Exception:
        for item, future in waiting:
            if future.done() and not future.cancelled() and future.exception() is None:
                yield item, future.result()
        raise
    finally:
        for _, future in waiting:
            future.cancel()


def _first(waiting: Iterable[tuple[Any, Future[Result]]]) -> Result:
    """The result of the first, as soon as it is there; an error of any other, when that is there before."""
    futures = [future for _, future in waiting]
    while not futures[0].done():
        wait([future for future in futures if not future.done()], return_when=FIRST_COMPLETED)
        for future in futures:
            if future.done() and future.exception() is not None:
                return future.result()
    return futures[0].result()


def _read(request: Request, chosen: Mapping[str, Source]) -> list[Rasters]:
    """Per day the variables of a group, from whichever sources have them; what was not observed is absent."""
    group = request.group
    found: list[Rasters] = [{} for _ in request.days]
    for source, days in _asked(request, chosen):
        rasters = source.read(group.kind, group.lattice[request.window], days)
        for k, day in enumerate(days):
            mine = {name: rasters[name][k] for name in group.variables if chosen[name] is source}
            found[request.days.index(day)].update(mine)
    return found


def _asked(request: Request, chosen: Mapping[str, Source]) -> Iterator[tuple[Source, list[date]]]:
    """The sources of a request's variables, each with the days on which it may have something."""
    group = request.group
    for source in {id(chosen[name]): chosen[name] for name in group.variables}.values():
        days = list(request.days)
        if group.temporal:
            there = set(source.days(group.kind, group.lattice[request.window], days[0], days[-1]))
            days = [day for day in days if day in there]
        if days:
            yield source, days
