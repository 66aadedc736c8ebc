"""Find damaged blocks among those that maps read, and clear their marks, so that they are fetched again."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial

from mmnet_maps.errors import counted
from mmnet_maps.grid.lattice import Window
from mmnet_maps.stack import checksums
from mmnet_maps.stack.availability import look_up
from mmnet_maps.stack.blocks import Group
from mmnet_maps.stack.needs import Demand, fine_window, uses
from mmnet_maps.stack.store import DamagedError, Stack
from mmnet_maps.variables import FINE_GROUPS

log = logging.getLogger("mmnet_maps")


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Blocks of a group on a day that cannot be used.

    Attributes
    ----------
    group, window, day
        The blocks, as a window of cells; the day of the map where the group has no time axis.
    lost
        Array whose file cannot be decoded; None where a block is not the data of its checksum. Of ``fetched`` and
        ``checksums`` a file holds all blocks of a day.
    """

    group: Group
    window: Window
    day: date
    lost: str | None = None


def find_damage(stack: Stack, demand: Demand, *, quiet: bool = True) -> list[Damage]:
    """Verify the blocks that maps read, in all variables of their groups; each is read once.

    Variables that no map reads are verified too, because writing into a damaged file fails. A block that was verified
    in this run is not read again. Stacks without checksums show only files that cannot be decoded.
    """
    from tqdm import tqdm

    wanted: list[tuple[Group, Window, Sequence[date]]] = []
    for group, window, days in uses(stack, demand.grid, demand.needs, demand.days):
        parts = [fine_window(tile.geobox, stack) for tile in demand.tiles] if group.kind in FINE_GROUPS else [window]
        wanted += [(group, group.whole_blocks(part), days) for part in parts]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda use: list(_damage(stack, *use)), wanted)
        bar = tqdm(found, total=len(wanted), unit="window", desc="verifying", leave=False, disable=quiet)
        return [one for several in bar for one in several]


def _damage(stack: Stack, group: Group, window: Window, days: Sequence[date]) -> Iterator[Damage]:
    """Yield the damage in a window of blocks."""
    for day in days if group.temporal else days[:1]:
        of = partial(Damage, group=group, day=day)
        try:
            marked = look_up(stack, group, window, [day])
            stack.revisions(group, window, [day])
        except DamagedError:
            yield of(window=window, lost="fetched")
            continue
        for variable in group.variables if marked.observed else ():
            error = _error(stack, variable, window, day)
            if error and error.lost == checksums.NAME:
                yield of(window=window, lost=error.lost)
                break
            if error:
                rows, cols = group.blocks(window)
                for i in range(rows.start, rows.stop):
                    for j in range(cols.start, cols.stop):
                        block = group.cells((slice(i, i + 1), slice(j, j + 1)))
                        if error := _error(stack, variable, block, day):
                            yield of(window=block, lost=error.lost)


def _error(stack: Stack, variable: str, window: Window, day: date) -> DamagedError | None:
    try:
        stack.read_packed(variable, window, day)
    except DamagedError as error:
        return error
    return None


def clear(stack: Stack, damage: Sequence[Damage]) -> None:
    """Clear the marks of damaged blocks, and remove files that cannot be decoded with the marks of all their blocks."""
    if damage:
        groups = sorted({one.group.name for one in damage})
        blocks = counted(len(damage), "damaged block")
        log.warning("fetching %s of %s in %s again", blocks, ", ".join(groups), stack.path)
    for one in sorted(damage, key=lambda one: one.lost != "fetched"):
        if one.lost is None:
            stack.clear_marks(one.group, one.window, one.day)
        else:
            stack.discard(one.group, one.lost, one.window, one.day)
