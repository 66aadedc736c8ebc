"""Bring inputs from sources into a stack: plan what is missing, read it, write it, mark it."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from filelock import Timeout
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError, OutputError, counted
from mmnet_maps.sources.base import (
    Charged,
    Choosing,
    Cost,
    Provenance,
    Rasters,
    Reporting,
    Revision,
    Source,
    SourceDownError,
    Stoppable,
)
from mmnet_maps.sources.ranges import OutOfRange
from mmnet_maps.stack.in_order import in_order
from mmnet_maps.stack.layout import complete, create
from mmnet_maps.stack.needs import Demand, Needs, days_around
from mmnet_maps.stack.plan import Plan, Request, Share, pace, plan, revisions, shares
from mmnet_maps.stack.products import check_products, products_of, title_of
from mmnet_maps.stack.repair import Damage, clear, find_damage
from mmnet_maps.stack.store import Stack, lock
from mmnet_maps.variables import FINE_GROUPS, VARIABLES

log = logging.getLogger("mmnet_maps")


def assign(sources: Sequence[Source]) -> dict[str, Source]:
    """Return the source of every variable: the first in order that has it."""
    chosen: dict[str, Source] = {}
    for source in sources:
        for name in source.variables():
            chosen.setdefault(name, source)
    return chosen


def assign_needed(sources: Sequence[Source], needs: Needs) -> dict[str, Source]:
    """Assign sources to variables; InputError if no source has a needed one."""
    chosen = assign(sources)
    for name in needs.variables:
        if name not in chosen:
            raise InputError(
                f"no source gives {name}, which the model needs; they give {', '.join(sorted(chosen))}; "
                "add it to the source's YAML, or 'rest: open' there ('rest: demo' to try things out)"
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
        check_products(Stack(path), chosen)
        return
    groups: dict[str, tuple[GeoBox, list[str]]] = {}
    for name, source in chosen.items():
        kind = VARIABLES[name].group
        lattice = target if kind in FINE_GROUPS else source.lattice(kind)
        key = kind if kind not in groups or groups[kind][0] == lattice else f"{kind}_{source.name}"
        groups.setdefault(key, (lattice, []))[1].append(name)
    create(path, target, groups, {name: source.variables()[name] for name, source in chosen.items()})


def choose_products(
    sources: Sequence[Source],
    place: GeoBox,
    needs: Needs,
    days: Sequence[date],
    today: date,
    held: Mapping[str, Provenance] | None = None,
) -> None:
    """Let sources with several products for a variable choose one for some days: what is held, else available."""
    if choosing := [source for source in sources if isinstance(source, Choosing)]:
        around = {kind: days_around(needs, kind, days) for kind in needs.kinds}
        with stopping(sources):
            for source in choosing:
                source.choose(place, around, held or {}, today)


def _held(path: Path) -> Mapping[str, Provenance]:
    """Return the provenance of what a stack holds, if there is one."""
    return Stack(path).provenance if os.path.exists(path) else {}  # False for a name that is too long


def fetch(
    path: str | Path,
    sources: Sequence[Source],
    demand: Demand,
    *,
    today: date | None = None,
    refresh: bool = False,
    quiet: bool = False,
    verify: bool = False,
) -> Stack:
    """Bring all inputs of some maps into the stack at `path`, creating it if there is none.

    Blocks that are marked as fetched are skipped unless their inputs were revised since, so an interrupted run
    continues and a repeated one does nothing. Values whose inputs are gone are kept.

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
    refresh
        Ask about days that were final too, and read all days again that are not final.
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
    path, today = Path(path), today or date.today()
    choose_products(sources, demand.grid, demand.needs, demand.days, today, _held(path))
    chosen = assign_needed(sources, demand.needs)
    damage: list[Damage] = []
    if os.path.exists(path):  # False for a name that is too long
        stack = Stack(path)
        check_products(stack, chosen)
        damage = find_damage(stack, demand, quiet=quiet) if verify else []
        with stopping(sources):
            if not damage and not plan(stack, demand, today, chosen, refresh=refresh):
                return stack
    with _writing(path), stopping(sources):
        open_or_create(path, sources, demand.target)
        complete(path)
        stack = Stack(path, writable=True)
        clear(stack, damage)
        _run(stack, plan(stack, demand, today, chosen, refresh=refresh), chosen, today, quiet)
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
    known
        False where a service did not answer: bytes and cost are then of no use.
    """

    group: str
    products: tuple[str, ...]
    reads: int
    days: int
    first: date
    last: date
    bytes: int
    cost: Cost | None
    known: bool = True


def estimate(
    path: str | Path,
    sources: Sequence[Source],
    demand: Demand,
    *,
    today: date | None = None,
    refresh: bool = False,
) -> list[Estimate]:
    """Estimate, per group, the reads of `fetch` with the same arguments; no values are read and nothing is written.

    Sources are asked only for their grids, the days that they have data on, and what was revised.
    """
    choose_products(sources, demand.grid, demand.needs, demand.days, today or date.today(), _held(Path(path)))
    chosen = assign_needed(sources, demand.needs)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(path) if Path(path).exists() else Path(folder, "empty.zarr")
        open_or_create(place, sources, demand.target)
        stack = Stack(place)
        found_again = plan(stack, demand, today or date.today(), chosen, refresh=refresh)
        found_again.report()
        requests = found_again.requests
        costing = Costing(chosen)
        with ThreadPoolExecutor(pace(sources).reads) as pool:
            found = list(in_order(pool, requests, costing, ahead=len(requests)))
    estimates = []
    for name, several in groupby(found, key=lambda item: item[0].group.name):
        items = list(several)
        days = sorted({day for request, _ in items for day in request.days})
        costs = [cost for _, (_, cost) in items if cost is not None]
        estimates.append(
            Estimate(
                group=name,
                products=products_of(items[0][0].group, chosen),
                reads=len(items),
                days=len(days),
                first=days[0],
                last=days[-1],
                bytes=sum(size for _, (size, _) in items),
                cost=sum_costs(costs) if costs else None,
                known=name not in costing.unknown,
            )
        )
    return estimates


def not_fetched(down: Mapping[str, SourceDownError]) -> InputError:
    """Return the error that names the groups whose services are down, and the reason of the first."""
    (name, first), *others = down.items()
    return InputError("; also ".join([f"not all inputs were fetched: {name}: {first}", *dict(others)]))


class Costing:
    """Costs of requests. Threads may share it.

    A group whose service does not answer is logged once and not asked about again.

    Parameters
    ----------
    chosen
        Source of each variable.

    Attributes
    ----------
    unknown
        Names of the groups whose service did not answer.
    """

    def __init__(self, chosen: Mapping[str, Source]) -> None:
        self.unknown: set[str] = set()
        self._chosen, self._lock = chosen, Lock()

    def __call__(self, request: Request) -> tuple[int, Cost | None]:
        """Return the bytes that a request would store, and its cost at services, None where none is involved."""
        group, (rows, cols) = request.group, request.window
        if group.name in self.unknown:
            return 0, None
        cells = (rows.stop - rows.start) * (cols.stop - cols.start)
        size, costs = 0, []
        try:
            for (source, kind, names), days in _due(request, self._chosen):
                size += cells * len(days) * sum(np.dtype(VARIABLES[name].dtype).itemsize for name in names)
                if isinstance(source, Charged):
                    costs.append(source.cost(kind, group.lattice[request.window], days))
        except SourceDownError as error:
            with self._lock:
                if group.name not in self.unknown:
                    log.warning("%s: no estimate, because %s", group.name, error)
                self.unknown.add(group.name)
            return 0, None
        charged = any(isinstance(self._chosen[name], Charged) for name in group.variables)
        return size, sum_costs(costs) if charged else None  # no request where a service has no day


def sum_costs(costs: Sequence[Cost]) -> Cost:
    """Add up costs."""
    return sum(costs, start=Cost(requests=0, bytes=0, values=0))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Hold the store's writer lock, with a warning if another run holds it; OutputError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    except OSError as error:
        raise OutputError(
            f"cannot write the stack {path} ({error.strerror or error}); finished blocks are kept: free some space or "
            "choose another place, and run the same command again"
        ) from error


def _run(stack: Stack, found: Plan, chosen: Mapping[str, Source], today: date, quiet: bool) -> None:
    """Record what is settled, and carry out the requests group by group, with a progress bar for each group.

    A service that is down stops only the groups that need it; the error is raised when the others are done.
    """
    found.report()
    for group, window, day, number in found.settled:
        stack.record_revision(group.name, window, day, number)
    reads, ranges = pace(chosen.values()).reads, OutOfRange()
    read = partial(_read, chosen=chosen, today=today, ranges=ranges)
    kept: dict[str, set[date]] = {}
    down: dict[str, SourceDownError] = {}
    with ThreadPoolExecutor(reads) as pool, stopping(chosen.values()):
        for group, several in groupby(found.requests, key=lambda request: request.group):
            of_group, title = list(several), title_of(group, chosen)
            try:
                _fill(stack, title, of_group, in_order(pool, of_group, read, ahead=reads), kept, quiet)
            except SourceDownError as error:
                log.error("%s: %s", title, error)
                down[group.name] = error
    report_dropped(chosen.values(), ranges)
    for name, days in kept.items():
        log.warning("%s: the inputs of %s are gone; the stack keeps their values", name, counted(len(days), "day"))
    if down:
        raise not_fetched(down) from next(iter(down.values()))


def _fill(
    stack: Stack,
    title: str,
    requests: Sequence[Request],
    results: Iterable[tuple[Request, list[tuple[Rasters, Revision | None]]]],
    kept: dict[str, set[date]],
    quiet: bool,
) -> None:
    """Write what the requests of a group give, and note in `kept` the days of variables whose inputs are gone."""
    from tqdm import tqdm

    total = sum(request.cells for request in requests)
    with tqdm(total=total, unit="px", unit_scale=True, desc=title, disable=quiet) as bar:
        for request, rasters_of_days in results:
            bar.set_postfix_str(str(request.days[0]) if request.group.temporal else "", refresh=False)
            for day, (rasters, revision) in zip(request.days, rasters_of_days, strict=True):
                held = _without_inputs(stack, request, day, rasters, revision)
                for gone in held:
                    kept.setdefault(gone, set()).add(day)
                stack.write(request.group.name, request.window, day, rasters | held, revision.number if revision else 0)
            bar.update(request.cells)


def report_dropped(sources: Iterable[Source], ranges: OutOfRange) -> None:
    """Log how many values were out of range, and how many each source dropped before that."""
    ranges.report()
    for source in {id(source): source for source in sources}.values():
        if isinstance(source, Reporting):
            source.report()


def _without_inputs(stack: Stack, request: Request, day: date, rasters: Rasters, revision: Revision | None) -> Rasters:
    """Return the values that a stack holds of variables whose inputs are gone, where reading gave none."""

    def valued(name: str, values: NDArray[Any]) -> bool:
        return bool((VARIABLES[name].pack(values) != VARIABLES[name].nodata).any())

    group, window = request.group, request.window
    gone = [name for name in group.variables if name not in revision.stamps] if revision else []
    names = [name for name in gone if name not in rasters or not valued(name, rasters[name])]
    if not names or not (stack.marks(group, window, [day]) > 1).any():
        return {}
    held = {name: stack.read(name, window, day) for name in names}
    return {name: values for name, values in held.items() if valued(name, values)}


@contextmanager
def stopping(sources: Iterable[Source]) -> Iterator[None]:
    """Stop the sources on any error or interruption, so that reads under way end soon."""
    with ExitStack() as on_error:
        for source in {id(source): source for source in sources}.values():
            if isinstance(source, Stoppable):
                on_error.callback(source.stop)
        yield
        on_error.pop_all()


def _read(
    request: Request, chosen: Mapping[str, Source], today: date, ranges: OutOfRange
) -> list[tuple[Rasters, Revision | None]]:
    """Read the values and revisions of a request's days."""
    asked = revisions(request.group, request.window, request.days, chosen, today)
    known: Sequence[Revision | None] = asked or [None for _ in request.days]
    return list(zip(read_values(request, chosen, ranges), known, strict=True))


def read_values(request: Request, chosen: Mapping[str, Source], ranges: OutOfRange) -> list[Rasters]:
    """Read the values of each day of a request: of the variables that may have any on it."""
    group = request.group
    found: list[Rasters] = [{} for _ in request.days]
    for (source, kind, names), days in _due(request, chosen):
        rasters = source.read(kind, group.lattice[request.window], days)
        for name in names:
            where = f"{source.variables()[name].product} on {days[0]}{f' to {days[-1]}' if len(days) > 1 else ''}"
            ranges.check(VARIABLES[name], rasters[name], where)
        for k, day in enumerate(days):
            found[request.days.index(day)].update({name: rasters[name][k] for name in names})
    return found


def _due(request: Request, chosen: Mapping[str, Source]) -> Iterator[tuple[Share, list[date]]]:
    """Yield how the variables of a request are read, each share with the days on which its source may have data."""
    group = request.group
    for share in shares(group, chosen):
        days = list(request.days)
        if group.temporal:
            observed = set(share.source.days(share.kind, group.lattice[request.window], days[0], days[-1]))
            days = [day for day in days if day in observed]
        if days:
            yield share, days
