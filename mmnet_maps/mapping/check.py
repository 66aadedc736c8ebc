"""Whether a model can run on a stack on some days, and what lacks."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.area import Area
from mmnet_maps.grid.lattice import Window, cover
from mmnet_maps.grid.tiles import TILE_PIXELS, touched_tiles
from mmnet_maps.stack.inventory import (
    _SMALLEST,
    Mask,
    Scope,
    area_grid,
    area_scope,
    around_blocks,
    availability,
    in_order,
    is_near,
    marks_around,
    survey,
)
from mmnet_maps.stack.reader import Needs, uses
from mmnet_maps.stack.store import Group, Stack
from mmnet_maps.variables import FINE_GROUPS, SEARCH_DAYS


@dataclass(frozen=True, kw_only=True)
class Lack:
    """Something that is not there, in one plain line, and the days that cannot be mapped for it."""

    what: str
    days: tuple[date, ...]
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """Whether a model can run on a stack.

    Attributes
    ----------
    days
        The days that were asked for.
    lacks
        What is not there; empty where every day can run.
    quality
        For each day that can run, per group the share of pixels (of coarse groups: cells) with a value, of the variable
        with the fewest, and the mean age of observations in days.
    rim
        Share of the fetched fine blocks that was left out, as coarse inputs were never fetched for them: blocks are
        whole, and reach beyond the area they were fetched for. 0 where an area was given.
    """

    days: tuple[date, ...]
    lacks: tuple[Lack, ...]
    quality: Mapping[date, Mapping[str, tuple[float, float]]]
    rim: float = 0.0

    @property
    def able(self) -> list[date]:
        """The days that can run."""
        unable = {day for lack in self.lacks for day in lack.days}
        return [day for day in self.days if day not in unable]


@dataclass(frozen=True, kw_only=True)
class _Reach:
    """The part of a stack that maps of an area read: blocks per group, and the pieces that they come from."""

    tiles: list[GeoBox]
    blocks: dict[str, Mask]
    rim: float = 0.0
    groups: dict[str, Group] = field(default_factory=dict)


def check(stack: Stack, needs: Needs, days: Sequence[date], area: Area | None = None) -> Check:
    """Whether maps of some days can be made from a stack: all that `reader.require` and `reader.require_values` ask.

    Parameters
    ----------
    stack
        An open stack.
    needs
        What the model needs.
    days
        The days of the maps.
    area
        The area to be mapped; by default all fine blocks that were ever fetched.

    Raises
    ------
    RequestError
        When a day is too near to the beginning of the time axis.
    InputError
        When the store is damaged, or does not reach over the area.
    """
    days = tuple(days)
    there = {name for group in stack.groups.values() for name in group.variables}
    absent = [name for name in needs.variables if name not in there]
    lacks = []
    if absent:
        what = f"the stack has no {', '.join(absent)}, which the model needs"
        lacks.append(Lack(what=what, days=days, remedy="sources"))
    known = replace(
        needs,
        snapshot=tuple(name for name in needs.snapshot if name in there),
        series=tuple(name for name in needs.series if name in there),
    )
    if set(known.kinds) <= {"static"}:
        return Check(days=days, lacks=tuple(lacks), quality={})
    reach = _reach(stack, known, days, area)
    if not reach.tiles:
        lacks.append(Lack(what="there is no place with both fine and coarse inputs", days=days, remedy="fetch"))
        return Check(days=days, lacks=tuple(lacks), quality={})
    for group in in_order(reach.groups.values()):
        lacks += _lacks(stack, known, days, group, reach.blocks[group.name])
    found = Check(days=days, lacks=tuple(lacks), quality={}, rim=reach.rim)
    return replace(found, quality=_quality(stack, known, found.able, reach, area))


def _reach(stack: Stack, needs: Needs, days: Sequence[date], area: Area | None) -> _Reach:
    if area:
        grid = area_grid(stack, area)
        pieces = [tile.geobox for tile in touched_tiles(area, grid)]
        return _reached(pieces, [uses(stack, piece, needs, days[0]) for piece in pieces])
    groups = {group.name: group for group in (stack.group_of(name) for name in needs.variables)}
    fetched = {name: survey(stack, group).fetched for name, group in groups.items()}
    fine = [name for name, group in groups.items() if group.kind in FINE_GROUPS]
    coarse = {name for name in groups if name not in fine and fetched[name].any()}
    ever = np.logical_or.reduce([fetched[name] for name in fine]) if fine else np.zeros((0, 0), bool)
    if not ever.any():
        return _reached([], [])
    kept: list[GeoBox] = []
    parts: list[list[tuple[Group, Window, list[date]]]] = []

    def go(window: Window, size: int) -> None:
        """Keep what is complete; cut the rest into quarters, down to pieces that matter no more."""
        here = ever[groups[fine[0]].blocks(window)]
        if not here.any():
            return
        used = uses(stack, stack.target[window], needs, days[0])
        found = [fetched[g.name][g.blocks(part)] for g, part, _ in used if g.name in coarse]
        if here.all() and all(there.all() for there in found):
            kept.append(stack.target[window])
            parts.append(used)
        elif size > _SMALLEST and all(there.any() for there in found):
            rows, cols = window
            for top in range(rows.start, rows.stop, size // 2):
                for left in range(cols.start, cols.stop, size // 2):
                    go((slice(top, top + size // 2), slice(left, left + size // 2)), size // 2)

    for row, col in sorted({(int(i), int(j)) for i, j in np.argwhere(ever) * groups[fine[0]].block // TILE_PIXELS}):
        top, left = row * TILE_PIXELS, col * TILE_PIXELS
        go((slice(top, top + TILE_PIXELS), slice(left, left + TILE_PIXELS)), TILE_PIXELS)
    pixels = int(ever.sum()) * groups[fine[0]].block ** 2
    rim = 1 - sum(piece.shape.x * piece.shape.y for piece in kept) / pixels
    return replace(_reached(kept, parts), rim=rim)


def _reached(pieces: list[GeoBox], used: list[list[tuple[Group, Window, list[date]]]]) -> _Reach:
    found = _Reach(tiles=pieces, blocks={})
    for part in used:
        for group, window, _ in part:
            found.groups[group.name] = group
            if group.name not in found.blocks:
                shape = [-(-size // group.block) for size in group.lattice.shape]
                found.blocks[group.name] = np.zeros(shape, bool)
            found.blocks[group.name][group.blocks(window)] = True
    return found


def _lacks(stack: Stack, needs: Needs, days: Sequence[date], group: Group, blocks: Mask) -> Iterator[Lack]:
    """What a group lacks in some blocks: days never fetched, and days without a value."""
    reach = SEARCH_DAYS.get(group.kind, 0)
    own = {day: [day] if not group.temporal else needs.own_days(group.kind, day) for day in days}
    valued = {day: [day] if not group.temporal else needs.valued_days(group.kind, day) for day in days}
    wanted = sorted({day for many in own.values() for day in many})
    window = around_blocks(blocks)
    here = blocks[window]
    marks = {
        day: mark[here] for day, mark in marks_around(stack, Scope(group=group, blocks=blocks), wanted, reach).items()
    }
    unfetched = {day for day in wanted if day not in marks or not marks[day].all()}
    filled = [day for day, mark in marks.items() if (mark > 1).any()]
    needed = {day for many in valued.values() for day in many}
    empty = {day for day in needed - unfetched if not is_near(day, filled, reach)}
    names = f"{group.name} ({', '.join(name for name in group.variables if name in needs.variables)})"
    if unfetched:
        affected = tuple(day for day in days if unfetched & set(own[day]))
        most = max(int((marks[day] == 0).sum()) if day in marks else int(here.sum()) for day in unfetched)
        extent = "" if most == here.sum() else f" in up to {most} of {int(here.sum())} blocks"
        when = f" for {spans(unfetched)}" if group.temporal else ""
        yield Lack(what=f"{names} was never fetched{when}{extent}", days=affected, remedy="fetch")
    if empty:
        affected = tuple(day for day in days if empty & set(valued[day]))
        near = f" within {reach} days of" if reach else " on"
        when = f"{near} {spans(empty)}" if group.temporal else ""
        yield Lack(what=f"{names} holds no value{when}", days=affected, remedy="other days")


def _quality(
    stack: Stack, needs: Needs, days: Sequence[date], reach: _Reach, area: Area | None
) -> dict[date, dict[str, tuple[float, float]]]:
    quality: dict[date, dict[str, tuple[float, float]]] = {day: {} for day in days}
    for group in in_order(reach.groups.values()) if days else ():
        own = {day: [day] if not group.temporal else needs.own_days(group.kind, day) for day in days}
        wanted = sorted({day for many in own.values() for day in many})
        scope = area_scope(stack, group, area) if area else _pieces_scope(group, reach)
        names = [name for name in group.variables if name in needs.variables]
        found = availability(stack, scope, names, wanted).values()
        for day in days:
            index = [wanted.index(other) for other in own[day]]
            share = min(float(one.usable[index].mean()) for one in found)
            ages = [float(one.age[index].mean()) for one in found]
            quality[day][group.name] = (share, max(ages))
    return quality


def _pieces_scope(group: Group, reach: _Reach) -> Scope:
    """The cells under the pieces, without those that are only borrowed from."""
    blocks = np.zeros_like(reach.blocks[group.name])
    if group.kind in FINE_GROUPS:
        return Scope(group=group, blocks=reach.blocks[group.name])
    cells = np.zeros(group.lattice.shape, bool)
    for piece in reach.tiles:
        window = cover(piece, group.lattice)
        cells[window] = True
        blocks[group.blocks(window)] = True
    return Scope(group=group, blocks=blocks, inside=lambda part: cells[part])


def spans(days: Iterable[date]) -> str:
    """Days as people write them.

    >>> spans([date(2021, 8, 1), date(2021, 8, 2), date(2021, 8, 3), date(2021, 8, 7)])
    '2021-08-01 to 2021-08-03, 2021-08-07'
    """
    runs: list[list[date]] = []
    for day in sorted(days):
        if runs and (day - runs[-1][-1]).days == 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return ", ".join(texts if len(texts) <= 6 else [*texts[:4], f"… {len(texts) - 5} more …", texts[-1]])


def check_stack(path: str | Path, model: str | Path, dates: Any, aoi: str | None = None) -> tuple[str, bool]:
    """What `mmnet stack check` tells, and whether all days can run.

    Parameters
    ----------
    path, model
        The stack, and a checkpoint folder or the name of a packaged one.
    dates
        As `area.parse_days` takes them.
    aoi
        As `area.read_aoi` takes it; by default all that the stack has fine blocks for.

    Raises
    ------
    RequestError
        When the model, a date or the area is wrong.
    InputError
        When there is no stack, or it does not reach over the area.
    """
    from mmnet_maps.grid.area import parse_days, read_aoi
    from mmnet_maps.mapping.request import needs_of
    from mmnet_maps.model.checkpoint import load_checkpoint

    stack, days = Stack(path), parse_days(dates)
    area = read_aoi(aoi) if aoi else None
    spec = load_checkpoint(model).spec
    needs = needs_of(spec)
    found = check(stack, needs, days, area)
    lines = [f"{spec.name} on {path}, {spans(days)}, {aoi or 'all that was fetched'}"]
    if found.rim:
        lines.append(f"left out: the rim, {_percent(found.rim)} of the fetched blocks, without coarse inputs")
    lines += [f"lacks  {lack.what}: no map of {spans(lack.days)}" for lack in found.lacks]
    for day in days:
        lines.append(f"{day}  {_verdict(found.quality[day]) if day in found.quality else 'cannot run'}")
    lines += _products(stack, needs, spec.inputs)
    lines.append(f"next: {_next(found, stack, str(model), aoi)}")
    return "\n".join(lines), not found.lacks


def _verdict(quality: Mapping[str, tuple[float, float]]) -> str:
    parts = []
    for name, (share, age) in quality.items():
        old = f" ({age:.1f} days old)" if age > 0 else ""
        parts.append(f"{name} {_percent(share)}{old}")
    return "can run: " + ", ".join(parts)


def _percent(share: float) -> str:
    """A share that is neither whole nor nothing is never shown as if it were."""
    return f"{min(max(round(share * 100), 1), 99)} %" if 0 < share < 1 else f"{share:.0%}".replace("%", " %")


def _products(stack: Stack, needs: Needs, trained: Mapping[str, str]) -> list[str]:
    """What the map command tells of the inputs: that they are synthetic, or other products than in training."""
    from mmnet_maps.mapping.request import substitutes

    mine = {name: stack.provenance[name] for name in needs.variables if name in stack.provenance}
    if any(entry.synthetic for entry in mine.values()):
        return ["SYNTHETIC INPUTS: maps will show an invented world, not observations"]
    others = substitutes(trained, {name: entry.product for name, entry in mine.items()})
    told = "; ".join(f"{name}: {products}" for name, products in others.items())
    return [f"other products than in training: {told}"] if others else []


def _next(found: Check, stack: Stack, model: str, aoi: str | None) -> str:
    """The command to type."""
    area, store = f"--aoi {shlex.quote(aoi)}" if aoi else "--aoi …", shlex.quote(str(stack.path))
    days = found.able if not found.lacks or not any(lack.remedy == "fetch" for lack in found.lacks) else []
    remedies = {lack.remedy for lack in found.lacks}
    if "sources" in remedies:
        return (
            f"build a stack from sources that have all: mmnet stack {area} --start {found.days[0]} "
            f"--end {found.days[-1]} --source … --out NEW.zarr"
        )
    if "fetch" in remedies:
        lacking = [day for lack in found.lacks if lack.remedy == "fetch" for day in lack.days]
        chosen = f" --model {shlex.quote(model)}"
        narrower = (
            "" if aoi or "blocks" not in "".join(lack.what for lack in found.lacks) else "; or check one area: --aoi"
        )
        return (
            f"mmnet stack {area} --start {min(lacking)} --end {max(lacking)} --source …{chosen} --out {store}{narrower}"
        )
    if not days:
        return "choose other days or another source: the inputs of these days hold no value in this area"
    runs = "".join(f" --date {text.replace(' to ', '/')}" for text in spans(days).split(", "))
    return f"mmnet map {area}{runs} --stack {store} --model {shlex.quote(model)}"
