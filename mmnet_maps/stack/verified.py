"""Read the variables of a stack as stored; each block is verified against its own checksum, once a run."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.grid.lattice import Window
from mmnet_maps.stack import checksums
from mmnet_maps.stack.blocks import Group, Place, day_index
from mmnet_maps.stack.chunks import Chunks
from mmnet_maps.variables import VARIABLES

Packed = NDArray[np.integer]

DAMAGE = (ValueError, RuntimeError, OSError, zlib.error)
"""Errors of zarr and its codecs on broken chunks."""

_KEPT, _REMEMBERED = 64 << 20, 100_000  # bytes of checksums kept; verified blocks remembered


class VerifiedValues:
    """Values of the variables of a stack. Threads may share it.

    Parameters
    ----------
    chunks
        Returns the chunks of an array by group and name.
    is_marked
        Whether a block is marked as valued on a day. Others are not used, whatever they hold.
    damaged
        Returns the error for a part of the stack, given where it is, what is wrong, and the name of the array of which
        a file cannot be decoded, if that is the fault.
    """

    def __init__(
        self,
        chunks: Callable[[Group, str], Chunks],
        is_marked: Callable[[Group, Place, date | None], bool],
        damaged: Callable[[str, object, str | None], Exception],
    ) -> None:
        self._chunks, self._is_marked, self._damaged = chunks, is_marked, damaged
        self._expected: dict[tuple[str, date | None], NDArray[np.uint32]] = {}
        self._bytes = 0
        self._verified: set[tuple[str, date | None, Place]] = set()

    def forget(self) -> None:
        """Verify all blocks again, with checksums read again."""
        self._expected.clear()
        self._verified.clear()
        self._bytes = 0

    def window(self, group: Group, variable: str, window: Window, days: Sequence[date | None]) -> Packed:
        """Read a window of a variable on some days, (day, y, x), or on None without a time axis."""
        spec = VARIABLES[variable]
        shape = (len(days), *(part.stop - part.start for part in window))
        values: Packed = np.full(shape, spec.nodata, spec.dtype)
        for k, day in enumerate(days):
            for place, inner, outer in group.cut(window):
                block = self.block(group, variable, place, day)
                if block is not None:
                    values[k][outer] = block[inner]
        return values

    def block(self, group: Group, variable: str, place: Place, day: date | None) -> Packed | None:
        """Read a block of a variable, not to be changed; None where nothing is stored."""
        values = self._stored(group, variable, place, day)
        if group.verified and not self._agrees(group, variable, place, day, values):
            self._expected.clear()  # another process may have rewritten the block
            values = self._stored(group, variable, place, day)
            if not self._agrees(group, variable, place, day, values):
                x, y = group.centre(*place)
                where = f"block {place[0]}/{place[1]} of {group.name} near {x:.2f},{y:.2f}"
                raise self._damaged(f"{variable}{_on(day)}, {where}", "not the data of its checksum", None)
        return values

    def checksums(self, group: Group, day: date | None) -> NDArray[np.uint32]:
        """Read the checksums of all blocks, (variable, block_y, block_x); 0 where there are none."""
        found = self._expected.get((group.name, day))  # other threads may clear the table
        if found is None:
            stored = self._read(group, checksums.NAME, day, 0, 0, 0)
            found = np.zeros((len(group.variables), *group.shape), np.uint32)
            if stored is not None:
                found[...] = stored
            if self._bytes > _KEPT:
                self._expected.clear()
                self._bytes = 0
            self._expected[group.name, day] = found
            self._bytes += found.nbytes
        return found

    def _agrees(self, group: Group, variable: str, place: Place, day: date | None, values: Packed | None) -> bool:
        """Compare a block with its checksum, once; one without a mark is not used, whatever it holds."""
        key = variable, day, place
        if key in self._verified:
            return True
        known = int(self.checksums(group, day)[group.variables.index(variable), *place])
        if known:
            packed = values
            if packed is None:
                rows, cols = group.cells_of(place)
                spec = VARIABLES[variable]
                packed = np.full((rows.stop - rows.start, cols.stop - cols.start), spec.nodata, spec.dtype)
            if checksums.checksum(variable, day, place, packed) == known:
                if len(self._verified) > _REMEMBERED:
                    self._verified.clear()
                self._verified.add(key)
                return True
        return not self._is_marked(group, place, day)

    def _stored(self, group: Group, variable: str, place: Place, day: date | None) -> Packed | None:
        values = self._read(group, variable, day, *place)
        if values is None:
            return None
        rows, cols = group.cells_of(place)
        return values[: rows.stop - rows.start, : cols.stop - cols.start]

    def _read(self, group: Group, name: str, day: date | None, *place: int) -> Packed | None:
        try:
            lead = () if day is None else (day_index(day),)
            return self._chunks(group, name).read(*lead, *place)
        except DAMAGE as error:
            where = f"{group.name}/{name}{_on(day) if name in VARIABLES else ''}"
            raise self._damaged(where, error, name) from error


def _on(day: date | None) -> str:
    return f" on {day}" if day else ""
