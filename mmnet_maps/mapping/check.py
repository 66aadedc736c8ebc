"""Check that a stack has everything a model needs on some days."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.area import Area
from mmnet_maps.grid.lattice import Window, cover
from mmnet_maps.grid.tiles import TILE_PIXELS, touched_tiles
from mmnet_maps.mapping.commands import YAML, day_options, fill_command, grid_options, place_options, quote, runs_of
from mmnet_maps.stack.availability import Mask, blocks_of_grids
from mmnet_maps.stack.blocks import Group
from mmnet_maps.stack.inventory import Scope, area_grid, area_scope, daily_shares, in_order, look_around, survey
from mmnet_maps.stack.needs import Needs, uses
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FINE_GROUPS, SEARCH_DAYS, STATIC_GROUPS

_SMALLEST = 16  # pixels


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A missing input, in one plain line, the days that cannot be mapped because of it, and the remedy."""

    text: str
    days: tuple[date, ...]
    remedy: Literal["sources", "fetch", "other days"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """Result of checking that a model can run on a stack.

    Attributes
    ----------
    days
        The days that were checked.
    gaps
        Missing inputs; empty if every day can run.
    quality
        For each day that can run, per group the share of pixels (of coarse groups: cells) with a value, of the variable
        with the fewest, and the mean age of observations in days.
    rim
        Share of the fetched fine blocks that was left out, because coarse inputs were never fetched for them: blocks
        are whole, and reach beyond the area they were fetched for. 0 for a given area.
    """

    days: tuple[date, ...]
    gaps: tuple[Gap, ...]
    quality: Mapping[date, Mapping[str, tuple[float, float]]]
    rim: float = 0.0

    @property
    def able(self) -> list[date]:
        """Days that can run."""
        unable = {day for gap in self.gaps for day in gap.days}
        return [day for day in self.days if day not in unable]


@dataclass(frozen=True, kw_only=True)
class _Reach:
    """Part of a stack that maps of an area read: grids of the maps, and the blocks (y, x) of each group."""

    grids: list[GeoBox]
    blocks: dict[str, tuple[Group, Mask]]
    rim: float = 0.0


def check(stack: Stack, needs: Needs, days: Sequence[date], area: Area | None = None) -> Check:
    """Check that maps of some days pass `availability.require` and `availability.require_values`.

    Parameters
    ----------
    stack
        An open stack.
    needs
        Needs of the model.
    days
        The days of the maps.
    area
        The area to map; by default all fine blocks that were ever fetched.

    Raises
    ------
    RequestError
        A day is too near the start of the time axis.
    InputError
        The store is damaged, or does not cover the area.
    """
    days = tuple(days)
    present = {name for group in stack.groups.values() for name in group.variables}
    absent = [name for name in needs.variables if name not in present]
    gaps = []
    if absent:
        text = f"the stack has no {', '.join(absent)}, which the model needs"
        gaps.append(Gap(text=text, days=days, remedy="sources"))
    known = replace(
        needs,
        snapshot=tuple(name for name in needs.snapshot if name in present),
        series=tuple(name for name in needs.series if name in present),
        groups=(),
    )
    if set(known.kinds) <= set(STATIC_GROUPS):
        return Check(days=days, gaps=tuple(gaps), quality={})
    reach = _reach(stack, known, days, area)
    if not reach.grids:
        gaps.append(Gap(text="no place has both fine and coarse inputs", days=days, remedy="fetch"))
        return Check(days=days, gaps=tuple(gaps), quality={})
    for group in in_order(group for group, _ in reach.blocks.values()):
        gaps += _gaps(stack, known, days, group, reach.blocks[group.name][1])
    found = Check(days=days, gaps=tuple(gaps), quality={}, rim=reach.rim)
    return replace(found, quality=_quality(stack, known, found.able, reach, area))


def _reach(stack: Stack, needs: Needs, days: Sequence[date], area: Area | None) -> _Reach:
    if area:
        grids, rim = [tile.geobox for tile in touched_tiles(area, area_grid(stack, area))], 0.0
    else:
        grids, rim = _complete_grids(stack, needs, days[0])
    return _Reach(grids=grids, blocks=blocks_of_grids(stack, grids, needs, days[0]), rim=rim)


def _complete_grids(stack: Stack, needs: Needs, day: date) -> tuple[list[GeoBox], float]:
    """Find grids that cover all places with fine and coarse inputs, and the share of the fine blocks left out."""
    groups = {group.name: group for group in (stack.group_of(name) for name in needs.variables)}
    fetched = {name: survey(stack, group).fetched for name, group in groups.items()}
    fine = [name for name, group in groups.items() if group.kind in FINE_GROUPS]
    coarse = {name for name in groups if name not in fine and fetched[name].any()}
    ever = np.logical_or.reduce([fetched[name] for name in fine]) if fine else np.zeros((0, 0), bool)
    if not ever.any():
        return [], 0.0
    kept: list[GeoBox] = []

    def divide(window: Window, size: int) -> None:
        """Keep a complete window; cut others into quarters, down to a size that no longer matters."""
        here = ever[groups[fine[0]].blocks(window)]
        if not here.any():
            return
        used = uses(stack, stack.target[window], needs, [day])
        found = [fetched[group.name][group.blocks(part)] for group, part, _ in used if group.name in coarse]
        if here.all() and all(blocks.all() for blocks in found):
            kept.append(stack.target[window])
        elif size > _SMALLEST and all(blocks.any() for blocks in found):
            rows, cols = window
            for top in range(rows.start, rows.stop, size // 2):
                for left in range(cols.start, cols.stop, size // 2):
                    divide((slice(top, top + size // 2), slice(left, left + size // 2)), size // 2)

    block = groups[fine[0]].block
    for row, col in sorted({(int(i), int(j)) for i, j in np.argwhere(ever) * block // TILE_PIXELS}):
        top, left = row * TILE_PIXELS, col * TILE_PIXELS
        divide((slice(top, top + TILE_PIXELS), slice(left, left + TILE_PIXELS)), TILE_PIXELS)
    return kept, 1 - sum(grid.shape.x * grid.shape.y for grid in kept) / (int(ever.sum()) * block**2)


def _gaps(stack: Stack, needs: Needs, days: Sequence[date], group: Group, blocks: Mask) -> Iterator[Gap]:
    """Yield the gaps of a group in some blocks: days never fetched, and days without a value."""
    own = {day: needs.own_days(group.kind, day) for day in days}
    found = look_around(stack, group, blocks, [other for others in own.values() for other in others]).among(blocks)
    unfetched = {day: found.unfetched(needs, day) for day in days}
    never = {other for others in unfetched.values() for other in others}
    empty = {day: [other for other in found.empty(needs, day) if other not in never] for day in days}
    names = f"{group.name} ({', '.join(name for name in group.variables if name in needs.variables)})"
    if never:
        rows, count = [found.row[day] for day in never if day in found.row], int(blocks.sum())
        most = count if len(rows) < len(never) else max(int((~found.fetched[row]).sum()) for row in rows)
        extent = "" if most == count else f" in up to {most} of {count} blocks"
        when = f" for {spans(never)}" if group.temporal else ""
        affected = tuple(day for day in days if unfetched[day])
        yield Gap(text=f"{names} was never fetched{when}{extent}", days=affected, remedy="fetch")
    if any(empty.values()):
        near = f" within {SEARCH_DAYS[group.kind]} days of" if group.kind in SEARCH_DAYS else " on"
        when = f"{near} {spans({other for others in empty.values() for other in others})}" if group.temporal else ""
        affected = tuple(day for day in days if empty[day])
        yield Gap(text=f"{names} holds no value{when}", days=affected, remedy="other days")


def _quality(
    stack: Stack, needs: Needs, days: Sequence[date], reach: _Reach, area: Area | None
) -> dict[date, dict[str, tuple[float, float]]]:
    quality: dict[date, dict[str, tuple[float, float]]] = {day: {} for day in days}
    for group in in_order(group for group, _ in reach.blocks.values()) if days else ():
        own = {day: needs.own_days(group.kind, day) for day in days}
        wanted = sorted({day for many in own.values() for day in many})
        scope = area_scope(stack, group, area) if area else _scope_of_grids(group, reach)
        names = [name for name in group.variables if name in needs.variables]
        found = daily_shares(stack, scope, names, wanted).values()
        for day in days:
            index = [wanted.index(other) for other in own[day]]
            share = min(float(one.usable[index].mean()) for one in found)
            ages = [float(one.age[index].mean()) for one in found]
            quality[day][group.name] = (share, max(ages))
    return quality


def _scope_of_grids(group: Group, reach: _Reach) -> Scope:
    """Return the cells under the grids, without those that only fill gaps of neighbours."""
    if group.kind in FINE_GROUPS:
        return Scope(group=group, blocks=reach.blocks[group.name][1])
    blocks, cells = np.zeros(group.shape, bool), np.zeros(group.lattice.shape, bool)
    for grid in reach.grids:
        window = cover(grid, group.lattice)
        cells[window] = True
        blocks[group.blocks(window)] = True
    return Scope(group=group, blocks=blocks, inside=lambda part: cells[part])


def spans(days: Iterable[date]) -> str:
    """Write days as ranges.

    >>> spans([date(2021, 8, 1), date(2021, 8, 2), date(2021, 8, 3), date(2021, 8, 7)])
    '2021-08-01 to 2021-08-03, 2021-08-07'
    """
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs_of(days)]
    return ", ".join(texts if len(texts) <= 6 else [*texts[:4], f"… {len(texts) - 5} more …", texts[-1]])


def check_stack(path: str | Path, model: str | Path, dates: Any, aoi: str | None = None) -> tuple[str, bool]:
    """Return the report of `mmnet stack check`, and whether all days can run.

    Parameters
    ----------
    path, model
        The stack, and a checkpoint folder or the name of a packaged one.
    dates
        Days as for `area.parse_days`.
    aoi
        Area as for `area.read_aoi`; by default all fine blocks of the stack.

    Raises
    ------
    RequestError
        The model, a date or the area is wrong.
    InputError
        There is no stack, or it does not cover the area.
    """
    from mmnet_maps.grid.area import parse_days, read_aoi
    from mmnet_maps.mapping.request import needs_of
    from mmnet_maps.model.saved import read_saved

    stack, days = Stack(path), parse_days(dates)
    area = read_aoi(aoi) if aoi else None
    spec = read_saved(model)[0].spec
    needs = needs_of(spec)
    found = check(stack, needs, days, area)
    lines = [f"{spec.name} on {path}, {spans(days)}, {aoi or 'all that was fetched'}"]
    if found.rim:
        lines.append(f"left out: the rim, {_percent(found.rim)} of the fetched blocks, without coarse inputs")
    lines += [f"missing  {gap.text}: no map of {spans(gap.days)}" for gap in found.gaps]
    for day in days:
        lines.append(f"{day}  {_verdict(found.quality[day]) if day in found.quality else 'cannot run'}")
    lines += _products(stack, needs, spec.inputs)
    lines.append(f"next: {_next(found, stack, needs, str(model), aoi)}")
    return "\n".join(lines), not found.gaps


def _verdict(quality: Mapping[str, tuple[float, float]]) -> str:
    parts = []
    for name, (share, age) in quality.items():
        old = f" ({age:.1f} days old)" if age > 0 else ""
        parts.append(f"{name} {_percent(share)}{old}")
    return "can run: " + ", ".join(parts)


def _percent(share: float) -> str:
    """Format a share; one that is neither 0 nor 1 is never rounded to 0 % or 100 %."""
    return f"{min(max(round(share * 100), 1), 99)} %" if 0 < share < 1 else f"{share:.0%}".replace("%", " %")


def _products(stack: Stack, needs: Needs, trained: Mapping[str, str]) -> list[str]:
    """Return the notice of the map command about its inputs: synthetic, or other products than in training."""
    from mmnet_maps.mapping.request import substitutes

    mine = {name: stack.provenance[name] for name in needs.variables if name in stack.provenance}
    if any(entry.synthetic for entry in mine.values()):
        return ["SYNTHETIC INPUTS: maps will show an invented world, not observations"]
    others = substitutes(trained, {name: entry.product for name, entry in mine.items()})
    listed = "; ".join(f"{name}: {products}" for name, products in others.items())
    return [f"other products than in training: {listed}"] if others else []


def _next(found: Check, stack: Stack, needs: Needs, model: str, aoi: str | None) -> str:
    """Return the next command to type."""
    area, store = place_options(aoi), quote(stack.path)
    remedies = {gap.remedy for gap in found.gaps}
    if "sources" in remedies:
        return (
            f"build a stack from sources that have all: mmnet stack {area} --start {found.days[0]} "
            f"--end {found.days[-1]} --source {YAML} --model {quote(model)} --out NEW.zarr"
        )
    if "fetch" in remedies:
        missing = [day for gap in found.gaps if gap.remedy == "fetch" for day in gap.days]
        partly = any("blocks" in gap.text for gap in found.gaps)
        command = fill_command(area, missing, stack=stack, model=model, names=needs.variables)
        return f"{command}{'; or check one area: --aoi' * (partly and not aoi)}"
    days = found.able
    if not days:
        return "choose other days or another source: the inputs of these days hold no value in this area"
    return f"mmnet map {area} {day_options(days)}{grid_options(stack)} --stack {store} --model {quote(model)}"
