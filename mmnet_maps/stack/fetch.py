"""Bring inputs from sources into a stack: plan what is missing, read it, write it, mark it."""

from __future__ import annotations

import logging
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
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
from mmnet_maps.sources.base import Charged, Cost, Pace, Rasters, Reporting, Source, Stoppable
from mmnet_maps.sources.ranges import OutOfRange
from mmnet_maps.stack.availability import look_up
from mmnet_maps.stack.blocks import Group
from mmnet_maps.stack.layout import create
from mmnet_maps.stack.needs import Demand, Needs, fine_window, uses
from mmnet_maps.stack.repair import Damage, clear, find_damage
from mmnet_maps.stack.store import Stack, lock
from mmnet_maps.variables import FINE_GROUPS, VARIABLES

log = logging.getLogger("mmnet_maps")

Item = TypeVar("Item")
Result = TypeVar("Result")

# Days of one read, between which a source shares work; memory bounds them. Fine groups are observed on few days.
_PACE = Pace(reads=min(4, os.cpu_count() or 1), fine_days=16)
_COARSE_DAYS, _VALUES = 48, 60_000_000


@dataclass(frozen=True, kw_only=True)
class Request:
    """One read and write: a window of whole blocks of a group, on some days."""

    group: Group
    window: Window
    days: tuple[date, ...]

    @property
    def cells(self) -> int:
        """Number of values to read, over all variables and days."""
        rows, cols = self.window
        return int(rows.stop - rows.start) * int(cols.stop - cols.start) * len(self.days) * len(self.group.variables)


def assign(sources: Sequence[Source]) -> dict[str, Source]:
    """Return the source of every variable: the first in order that has it."""
    chosen: dict[str, Source] = {}
    for source in sources:
        for name in source.variables():
            chosen.setdefault(name, source)
    return chosen


def _of_needs(sources: Sequence[Source], needs: Needs) -> dict[str, Source]:
    """Assign sources to variables; InputError if no source has a needed one."""
    chosen = assign(sources)
    for name in needs.variables:
        if name not in chosen:
            raise InputError(
                f"no source gives {name}, which the model needs; they give {', '.join(sorted(chosen))}; "
                "add it to the source's YAML, or 'rest: demo' there to try things out"
            )
    return chosen


def open_or_create(path: str | Path, sources: Sequence[Source], target: GeoBox) -> None:
    """Create the stack if there is none at `path`, with room for all variables of the sources.

    Raises
    ------
    InputError
        The store that exists is for other products or variables.
    OutputError
        The store cannot be created.
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
    """Raise InputError if a store holds other products than the sources give."""
    for name, source in chosen.items():
        known = stack.provenance.get(name)
        if known != source.variables()[name]:
            raise InputError(
                f"the stack {stack.path} holds {name} from {known.product if known else 'nowhere'}, the source gives "
                f"{source.variables()[name].product}"
                f"{' made in another way' if known and known.product == source.variables()[name].product else ''}; "
                "choose another --out or delete the stack"
            )


def plan(stack: Stack, demand: Demand, today: date, *, pace: Pace = _PACE, again: bool = False) -> list[Request]:
    """List the reads that a stack still needs for some maps, in a stable order.

    A request of a fine group never spans two tiles, and none is for a day after today. Days on which a part was found
    empty are requested again with `again`, and otherwise as long as their products may still appear (`pace`).
    """
    requests: list[Request] = []
    for group, window, days in uses(stack, demand.grid, demand.needs, demand.days):
        fine = group.kind in FINE_GROUPS
        for part in [fine_window(tile.geobox, stack) for tile in demand.tiles] if fine else [window]:
            since = date.min if again else today - pace.delay + timedelta(days=1)
            past = [day for day in days if day <= today]
            requests += _missing(stack, group, group.whole_blocks(part), past, since, pace.fine_days)
    return requests


def _missing_from(stack: Stack, sources: Sequence[Source], demand: Demand, today: date) -> list[Request]:
    """Plan at the pace of some sources; if they have changed, days that were found empty are requested again."""
    changed = stack.sources not in ([], [source.name for source in sources])
    return plan(stack, demand, today, pace=_pace(sources), again=changed)


def _missing(
    stack: Stack, group: Group, window: Window, days: Sequence[date], since: date, fine_days: int
) -> Iterator[Request]:
    """Request blocks that were never fetched, and those found empty on or after `since`."""
    found = look_up(stack, group, window, days)
    if not group.temporal:
        since = date.min if since == date.min else date.max  # one release for all days
    missing = [
        day
        for day, fetched, valued in zip(found.days, found.fetched, found.valued, strict=True)
        if not (valued if day >= since else fetched).all()
    ]
    rows, cols = window
    cells = (rows.stop - rows.start) * (cols.stop - cols.start)
    most = max(fine_days, group.block**2 // cells) if group.kind in FINE_GROUPS else _COARSE_DAYS
    size = max(1, min(most, _VALUES // (cells * len(group.variables))))
    if not group.temporal:
        missing, size = missing[-1:], 1
    for start in range(0, len(missing), size):
        yield Request(group=group, window=window, days=tuple(missing[start : start + size]))


def fetch(
    path: str | Path,
    sources: Sequence[Source],
    demand: Demand,
    *,
    today: date | None = None,
    quiet: bool = False,
    verify: bool = False,
) -> Stack:
    """Bring all inputs of some maps into the stack at `path`, creating it if there is none.

    Blocks that are marked as fetched are skipped, so an interrupted run continues and a repeated one does nothing. If
    the sources have changed (a files source is named after its files), days that were found empty are fetched again.

    Parameters
    ----------
    path
        Folder of the Zarr store.
    sources
        In order of preference: a variable comes from the first source that has it.
    demand
        The maps.
    today
        The last day to fetch (default: the computer's date).
    quiet
        Show no progress bar.
    verify
        Read all blocks that the maps read, and fetch damaged ones again.

    Raises
    ------
    InputError
        No source has a needed variable, or an input is broken.
    OutputError
        The store cannot be written.
    """
    path = Path(path)
    chosen = _of_needs(sources, demand.needs)
    names = [source.name for source in sources]
    today = today or date.today()
    damage: list[Damage] = []
    if path.exists():
        stack = Stack(path)
        _check_products(stack, chosen)
        damage = find_damage(stack, demand) if verify else []
        if not damage and stack.sources == names and not _missing_from(stack, sources, demand, today):
            return stack
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _writing(path):
            open_or_create(path, sources, demand.target)
            stack = Stack(path, writable=True)
            clear(stack, damage)
            _run(stack, _missing_from(stack, sources, demand, today), chosen, quiet)
            if stack.sources != names:
                stack.record_sources(names)
    except OSError as error:
        raise OutputError(
            f"cannot write the stack {path} ({error.strerror or error}); finished blocks are kept: free some space or "
            "choose another place, and run the same command again"
        ) from error
    return Stack(path)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Work and size of fetching one group.

    Attributes
    ----------
    group
        Its name.
    products
        Products behind its variables.
    reads, days, first, last
        Number of reads of a window, number of days, and the first and last of them (the same without a time axis).
    bytes
        Size in memory of the packed values to be stored; compressed on disk they take less.
    cost
        Cost at a service; None for local inputs.
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
    path: str | Path, sources: Sequence[Source], demand: Demand, *, today: date | None = None
) -> list[Estimate]:
    """Estimate, per group, the reads of `fetch` with the same arguments; no values are read and nothing is written.

    Sources are asked only for their grids and for the days that they have data on.
    """
    chosen = _of_needs(sources, demand.needs)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(path) if Path(path).exists() else Path(folder, "empty.zarr")
        open_or_create(place, sources, demand.target)
        stack = Stack(place)
        requests = _missing_from(stack, sources, demand, today or date.today())
        with ThreadPoolExecutor(_pace(sources).reads) as pool:
            found = list(in_order(pool, requests, partial(_cost, chosen=chosen), ahead=len(requests)))
    estimates = []
    for name, several in groupby(found, key=lambda item: item[0].group.name):
        items = list(several)
        days = sorted({day for request, _ in items for day in request.days})
        costs = [cost for _, (_, cost) in items if cost is not None]
        estimates.append(
            Estimate(
                group=name,
                products=_products(items[0][0].group, chosen),
                reads=len(items),
                days=len(days),
                first=days[0],
                last=days[-1],
                bytes=sum(size for _, (size, _) in items),
                cost=_sum(costs) if costs else None,
            )
        )
    return estimates


def _products(group: Group, chosen: Mapping[str, Source]) -> tuple[str, ...]:
    """Return the products behind the variables of a group, once each."""
    return tuple(dict.fromkeys(chosen[name].variables()[name].product for name in group.variables))


def _cost(request: Request, chosen: Mapping[str, Source]) -> tuple[int, Cost | None]:
    """Return the bytes that a request would store, and its cost at services."""
    rows, cols = request.window
    cells = (rows.stop - rows.start) * (cols.stop - cols.start)
    size, costs = 0, []
    for source, days in _split_by_source(request, chosen):
        mine = [name for name in request.group.variables if chosen[name] is source]
        size += cells * len(days) * sum(np.dtype(VARIABLES[name].dtype).itemsize for name in mine)
        if isinstance(source, Charged):
            costs.append(source.cost(request.group.kind, request.group.lattice[request.window], days))
    return size, _sum(costs) if costs else None


def _sum(costs: Sequence[Cost]) -> Cost:
    """Add up costs."""
    return Cost(
        requests=sum(cost.requests for cost in costs),
        bytes=sum(cost.bytes for cost in costs),
        values=sum(cost.values for cost in costs),
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Hold the store's writer lock, with a warning if another run holds it."""
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
    """Carry out requests group by group, with a progress bar for each group."""
    from tqdm import tqdm

    reads, ranges = _pace(chosen.values()).reads, OutOfRange()
    read = partial(_read, chosen=chosen, ranges=ranges)
    with ThreadPoolExecutor(reads) as pool, _stopping(chosen.values()):
        for name, several in groupby(requests, key=lambda request: request.group.name):
            of_group = list(several)
            with tqdm(
                total=sum(request.cells for request in of_group),
                unit="px",
                unit_scale=True,
                desc=f"{name} ({', '.join(_products(of_group[0].group, chosen))})",
                disable=quiet,
            ) as bar:
                for request, found in in_order(pool, of_group, read, ahead=reads):
                    bar.set_postfix_str(str(request.days[0]) if request.group.temporal else "", refresh=False)
                    for day, rasters in zip(request.days, found, strict=True):
                        stack.write(request.group.name, request.window, day, rasters)
                    bar.update(request.cells)
    ranges.report()
    for source in {id(source): source for source in chosen.values()}.values():
        if isinstance(source, Reporting):
            source.report()


@contextmanager
def _stopping(sources: Iterable[Source]) -> Iterator[None]:
    """Stop the sources on any error or interruption, so that reads under way end soon."""
    with ExitStack() as on_error:
        for source in {id(source): source for source in sources}.values():
            if isinstance(source, Stoppable):
                on_error.callback(source.stop)
        yield
        on_error.pop_all()


def _pace(sources: Iterable[Source]) -> Pace:
    """Combine the paces of sources: the most reads at a time, the fewest days per read, the longest delay."""
    paces = [getattr(source, "pace", _PACE) for source in sources]
    return Pace(
        reads=max(pace.reads for pace in paces),
        fine_days=min(pace.fine_days for pace in paces),
        delay=max(pace.delay for pace in paces),
    )


def in_order(
    pool: ThreadPoolExecutor, items: Iterable[Item], function: Callable[[Item], Result], *, ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Apply a function in the threads of a pool and yield the results in order, at most `ahead` computed in advance.

    If one item fails, the generator does not wait for others: it yields those already done, then raises the error.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()

    def results(left: int) -> Iterator[tuple[Item, Result]]:
        """Yield results until `left` items are waiting."""
        while len(waiting) > left:
            if failed := _first_done_or_failed([future for _, future in waiting]):
                yield from ((item, one.result()) for item, one in waiting if _succeeded(one))
                failed.result()
            yield waiting[0][0], waiting[0][1].result()
            waiting.popleft()

    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            yield from results(ahead)
        yield from results(0)
    finally:
        for _, future in waiting:
            future.cancel()


def _first_done_or_failed(futures: Sequence[Future[Result]]) -> Future[Result] | None:
    """Wait until the first is done or any has failed; return the first that has failed."""
    while True:
        failed = next((one for one in futures if one.done() and not _succeeded(one)), None)
        if failed or futures[0].done():
            return failed
        wait([future for future in futures if not future.done()], return_when=FIRST_COMPLETED)


def _succeeded(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _read(request: Request, chosen: Mapping[str, Source], ranges: OutOfRange) -> list[Rasters]:
    """Read, per day, the variables of a group from their sources; unobserved ones are absent."""
    group = request.group
    found: list[Rasters] = [{} for _ in request.days]
    for source, days in _split_by_source(request, chosen):
        rasters = source.read(group.kind, group.lattice[request.window], days)
        for name in (name for name in group.variables if chosen[name] is source):
            where = f"{source.variables()[name].product} on {days[0]}{f' to {days[-1]}' if len(days) > 1 else ''}"
            ranges.check(VARIABLES[name], rasters[name], where)
        for k, day in enumerate(days):
            mine = {name: rasters[name][k] for name in group.variables if chosen[name] is source}
            found[request.days.index(day)].update(mine)
    return found


def _split_by_source(request: Request, chosen: Mapping[str, Source]) -> Iterator[tuple[Source, list[date]]]:
    """Yield the sources of a request's variables, each with the days on which it may have data."""
    group = request.group
    for source in {id(chosen[name]): chosen[name] for name in group.variables}.values():
        days = list(request.days)
        if group.temporal:
            observed = set(source.days(group.kind, group.lattice[request.window], days[0], days[-1]))
            days = [day for day in days if day in observed]
        if days:
            yield source, days
