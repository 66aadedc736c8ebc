"""Fine variables of a tile on consecutive days: blocks decoded where they are needed, and interpolated in time."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.stack.availability import look_up
from mmnet_maps.stack.blocks import Group, Place
from mmnet_maps.stack.cells import Pixels
from mmnet_maps.stack.interpolate import NEVER, Packed, Side, held_side, interpolate_sides, nearest
from mmnet_maps.stack.needs import Use, fine_window
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import SEARCH_DAYS, VARIABLES

_BLOCKS = 512  # of 128 kB: those that successive days of a tile share
_DAY, _SPAN = (
    timedelta(days=1),
    timedelta(days=100),
)  # at most so long the same sides serve: gaps are less than 255 days

_Index = tuple[Any, Any]


@dataclass(frozen=True)
class _Piece:
    """Pixels in one block: where they are in the block, and where in the tile."""

    cut: _Index
    into: _Index


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """Observations of a block before and after a day, which are the same until `last`."""

    day: date
    last: date
    before: Side | None
    after: Side | None


class Observations:
    """Fine variables of some pixels on some days; data that successive days share are read and combined once.

    Parameters
    ----------
    stack, used
        The stack, and what the maps use of its groups.
    pixels
        The pixels.
    names
        The variables.
    days
        The days of the maps, in order.
    """

    def __init__(
        self, stack: Stack, used: Mapping[str, Use], pixels: Pixels, names: Sequence[str], days: Sequence[date]
    ) -> None:
        self._stack, self.shape, self._days = stack, pixels.shape, days
        groups = {group.name: group for group in map(stack.group_of, names)}
        self._found = {name: look_up(stack, *used[name]) for name in groups}
        self._pieces = {name: _pieces(pixels, stack, group) for name, group in groups.items()}
        self._sides: dict[tuple[str, Place], _Sides] = {}
        self._observed = {
            (name, place): self._found[name].observed_in(place) for name in groups for place in self._pieces[name]
        }
        self._held: dict[tuple[str, Place, date | None], Packed | None] = {}
        self._most = 0 if len(days) == 1 else _BLOCKS if pixels.picked is None else sys.maxsize
        self._static = {name: self._unchanging(name) for name in names if not stack.group_of(name).temporal}
        self._temporal = [name for name in names if stack.group_of(name).temporal]

    def on(self, day: date) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.uint8]]]:
        """Return all variables on a day, and by kind of group the age of the oldest of their observations.

        Variables are packed where all observations of the tile within reach lie on one side of the day.
        """
        fine, ages = dict(self._static), dict[str, NDArray[np.uint8]]()
        for name in self._temporal:
            group = self._stack.group_of(name)
            age = ages.setdefault(group.kind, np.zeros(self.shape, np.uint8))
            fine[name] = self._interpolated(name, group, day, age)
        return fine, ages

    def _unchanging(self, name: str) -> Packed:
        spec, group = VARIABLES[name], self._stack.group_of(name)
        values: Packed = np.full(self.shape, spec.nodata, spec.dtype)
        for place, piece in self._pieces[group.name].items():
            block = self._read(name, place, None) if self._observed[group.name, place] else None
            if block is not None:
                values[piece.into] = block
        return values

    def _interpolated(self, name: str, group: Group, day: date, ages: NDArray[np.uint8]) -> NDArray[Any]:
        """Interpolate a variable on a day, and raise `ages` to those of its observations."""
        spec, reach = VARIABLES[name], SEARCH_DAYS[group.kind]
        gaps = [(other - day).days for other in self._found[group.name].observed]
        earlier, later = any(-reach <= gap <= 0 for gap in gaps), any(0 < gap <= reach for gap in gaps)
        packed = earlier != later
        values: NDArray[Any] = np.empty(self.shape, spec.dtype if packed else np.float32)
        for place, piece in self._pieces[group.name].items():
            around = self._around(name, group, place, day)
            before, after = around.before if earlier else None, around.after if later else None
            if before is None and after is None:
                values[piece.into], ages[piece.into] = spec.nodata if packed else np.nan, NEVER
                continue
            given = before, after, (day - around.day).days, reach
            value, age = held_side(*given, spec.nodata) if packed else interpolate_sides(*given, spec)
            values[piece.into] = value
            ages[piece.into] = np.maximum(ages[piece.into], age)
        return values

    def _around(self, name: str, group: Group, place: Place, day: date) -> _Sides:
        """Return the observations of a block around a day."""
        key, nodata, reach = (name, place), VARIABLES[name].nodata, timedelta(days=SEARCH_DAYS[group.kind])
        known = self._sides.get(key)
        if known and known.day <= day <= known.last:
            return known
        observed = self._observed[group.name, place]
        last = min(self._days[-1], day + _SPAN, *(other - _DAY for other in observed if other > day))
        since, older = day - reach, list[tuple[NDArray[np.uint8], Packed]]()
        if known and since <= known.day <= day:
            since = known.day + _DAY
            if known.before is not None:
                older = [(known.before.later((day - known.day).days), known.before.value)]
        newer = [other for other in reversed(observed) if since <= other <= day]
        before: Iterable[tuple[int | NDArray[np.uint8], Packed | None]]
        before = chain((((day - other).days, self._read(name, place, other)) for other in newer), older)
        following = [other for other in observed if day < other <= last + reach]
        after = (((other - day).days, self._read(name, place, other)) for other in following)
        found = _Sides(day=day, last=last, before=nearest(before, nodata), after=nearest(after, nodata))
        if len(self._days) > 1:
            self._sides[key] = found
        return found

    def _read(self, name: str, place: Place, day: date | None) -> Packed | None:
        """Read the pixels in a block; the last ones read are kept."""
        key = name, place, day
        if key in self._held:
            return self._held[key]
        block = self._stack.read_block(name, place, day)
        if block is not None:
            block = block[self._pieces[self._stack.group_of(name).name][place].cut]
        if self._most and day:
            if len(self._held) >= self._most:
                del self._held[next(iter(self._held))]
            self._held[key] = block
        return block


def _pieces(pixels: Pixels, stack: Stack, group: Group) -> dict[Place, _Piece]:
    """Return the pixels in each block."""
    window = fine_window(pixels.grid, stack)
    if pixels.picked is None:
        return {place: _Piece(inner, outer) for place, inner, outer in group.cut(window)}
    rows, cols = (index + part.start for index, part in zip(pixels.picked, window, strict=True))
    number = rows // group.block * group.shape[1] + cols // group.block
    order = np.argsort(number, kind="stable")
    found = {}
    for own in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        place = int(rows[own[0]]) // group.block, int(cols[own[0]]) // group.block
        found[place] = _Piece((rows[own] % group.block, cols[own] % group.block), (0, own))
    return found
