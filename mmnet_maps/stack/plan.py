"""Reads that a stack still needs: days that were never fetched, and days whose inputs were revised since."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import counted
from mmnet_maps.grid.lattice import Window
from mmnet_maps.sources.base import Charged, Pace, Revised, Revision, Source
from mmnet_maps.stack.availability import cut_days
from mmnet_maps.stack.blocks import Group
from mmnet_maps.stack.layout import TILE
from mmnet_maps.stack.needs import Demand, fine_window, uses
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FINE_GROUPS, VARIABLES

log = logging.getLogger("mmnet_maps")

# Days of one read, between which a source shares work; memory bounds them. Fine groups are observed on few days.
_PACE = Pace(reads=min(4, os.cpu_count() or 1), fine_days=16)
_COARSE_DAYS, _VALUES = 48, 60_000_000

_SETTLED = timedelta(days=90)
"""A service is not asked about days of which it is unknown whether they are final if they are older."""

_REVISED = "revised since they were fetched"
_UNRECORDED = "read again, because the stack does not record what they were read from"
_NOT_FINAL = "not final, read again"


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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The reads that a stack needs, in a stable order.

    Attributes
    ----------
    requests
        The reads. One of a fine group never spans two tiles.
    settled
        Days whose inputs have become final without any other change, each with its group, window and revision: only
        that is recorded.
    again
        Days that are read again, by group and reason.
    """

    requests: list[Request] = field(default_factory=list)
    settled: list[tuple[Group, Window, date, int]] = field(default_factory=list)
    again: dict[tuple[str, str], set[date]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.requests or self.settled)

    def report(self) -> None:
        """Log how many days are read again, and why."""
        for (names, reason), days in self.again.items():
            log.info("%s: %s %s", names, counted(len(days), "day"), reason)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Blocks of a group that maps read on some days: their marks and revisions, (day, block_y, block_x)."""

    group: Group
    window: Window
    days: list[date]
    marks: NDArray[np.uint32]
    revisions: NDArray[np.uint32]


def plan(
    stack: Stack, demand: Demand, today: date, chosen: Mapping[str, Source] | None = None, *, refresh: bool = False
) -> Plan:
    """Plan the reads that a stack still needs for some maps.

    Parameters
    ----------
    stack, demand
        The stack, and the maps.
    today
        The last day to fetch.
    chosen
        Source of each variable, which says what was revised; None to find only what was never fetched.
    refresh
        Ask about days that were final too, and read all days again that are not final.
    """
    chosen = chosen or {}
    found, rate = Plan(), pace(chosen.values())
    parts = list(_parts(stack, demand, today))
    with ThreadPoolExecutor(rate.reads) as pool:
        asked = list(pool.map(partial(_ask, chosen=chosen, today=today, refresh=refresh), parts))
    for part, answers in zip(parts, asked, strict=True):
        due = {day for day, marks in zip(part.days, part.marks, strict=True) if not marks.all()}
        names = ", ".join(part.group.variables)
        for k, revision in answers.items():
            day, recorded = part.days[k], part.revisions[k]
            if refresh and not revision.final:
                reason = _NOT_FINAL
            elif not (recorded // 2 != revision.number // 2).any():
                if (recorded != revision.number).any():
                    found.settled.append((part.group, part.window, day, revision.number))
                continue
            else:
                reason = _REVISED if recorded.all() else _UNRECORDED
            due.add(day)
            found.again.setdefault((names, reason), set()).add(day)
        found.requests.extend(_requests(part.group, part.window, sorted(due), rate))
    return found


def _parts(stack: Stack, demand: Demand, today: date) -> Iterator[_Part]:
    """Yield the blocks that maps read: of fine groups tile by tile, of coarse ones at once."""
    for group, window, days in uses(stack, demand.grid, demand.needs, demand.days):
        past = [day for day in days if day <= today]
        if not past:
            continue
        past, fine = past if group.temporal else past[-1:], group.kind in FINE_GROUPS
        for part in [fine_window(tile.geobox, stack) for tile in demand.tiles] if fine else [window]:
            blocks = group.whole_blocks(part)
            spans = list(cut_days(past))
            yield _Part(
                group=group,
                window=blocks,
                days=past,
                marks=np.concatenate([stack.marks(group, blocks, span) for span in spans]),
                revisions=np.concatenate([stack.revisions(group, blocks, span) for span in spans]),
            )


def _ask(part: _Part, chosen: Mapping[str, Source], today: date, refresh: bool) -> dict[int, Revision]:
    """Return the revisions of days that were fetched as a whole, by their index, where they may have changed.

    A service is not asked about days that were final when they were read, nor about old ones of which that is unknown.
    Days whose inputs cannot be looked up now are left out.
    """
    asked = [k for k, marks in enumerate(part.marks) if marks.all()]
    service = any(isinstance(chosen.get(name), Charged) for name in part.group.variables)
    if service and not refresh:
        old = np.array([today - day > _SETTLED or not part.group.temporal for day in part.days])[:, None, None]
        final = (part.revisions % 2 == 1) | (old & (part.revisions == 0))
        asked = [k for k in asked if not final[k].all()]
    found = revisions(part.group, part.window, [part.days[k] for k in asked], chosen, today)
    return {k: revision for k, revision in zip(asked, found, strict=False) if revision.known}


def revisions(
    group: Group, window: Window, days: Sequence[date], chosen: Mapping[str, Source], today: date
) -> list[Revision]:
    """Return the revision of each day of some blocks, over all shares of the group; none if they never change.

    It is that of the tile around a window of a fine group, and of the whole lattice of a coarse one: blocks have the
    same revision whatever the window.
    """
    parts = shares(group, chosen)
    if not days or not any(isinstance(part.source, Revised) for part in parts):
        return []
    place = group.lattice[_around(group, window)] if group.kind in FINE_GROUPS else group.lattice
    stamps: list[dict[str, int]] = [{} for _ in days]
    final, known = [True for _ in days], [True for _ in days]
    for part in parts:
        if not isinstance(part.source, Revised):
            for day in stamps:
                day.update(dict.fromkeys(part.names, 0))
            continue
        for k, revision in enumerate(part.source.revisions(part.kind, place, days, today)):
            stamps[k].update({name: revision.stamps[name] for name in part.names if name in revision.stamps})
            final[k] &= revision.final
            known[k] &= revision.known
    return [
        Revision(stamps=one, final=all_final, known=all_known)
        for one, all_final, all_known in zip(stamps, final, known, strict=True)
    ]


class Share(NamedTuple):
    """The variables of a group that a source gives by one read, and the kind of group by which it knows them."""

    source: Source
    kind: str
    names: list[str]


def shares(group: Group, chosen: Mapping[str, Source]) -> list[Share]:
    """Return how the variables of a group are read: one share a source, in stacks of old software one a kind too."""
    found: dict[tuple[int, str], Share] = {}
    for name in (name for name in group.variables if name in chosen):
        source, kind = chosen[name], VARIABLES[name].group
        found.setdefault((id(source), kind), Share(source, kind, [])).names.append(name)
    return list(found.values())


def _around(group: Group, window: Window) -> Window:
    """Return the window of whole tiles around a window of a fine group, clipped to its lattice."""
    rows, cols = (
        slice(part.start // TILE * TILE, min(-(-part.stop // TILE) * TILE, size))
        for part, size in zip(window, group.lattice.shape, strict=True)
    )
    return rows, cols


def _requests(group: Group, window: Window, days: Sequence[date], rate: Pace) -> Iterator[Request]:
    """Cut the days of a window into requests that fit into memory."""
    rows, cols = window
    cells = (rows.stop - rows.start) * (cols.stop - cols.start)
    most = max(rate.fine_days, group.block**2 // cells) if group.kind in FINE_GROUPS else _COARSE_DAYS
    size = max(1, min(most, _VALUES // (cells * len(group.variables))))
    for start in range(0, len(days), size):
        yield Request(group=group, window=window, days=tuple(days[start : start + size]))


def pace(sources: Iterable[Source]) -> Pace:
    """Combine the paces of sources: the most reads at a time, the fewest days per read."""
    paces = [getattr(source, "pace", _PACE) for source in sources] or [_PACE]
    return Pace(reads=max(one.reads for one in paces), fine_days=min(one.fine_days for one in paces))
