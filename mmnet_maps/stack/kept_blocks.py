"""Decoded blocks of coarse variables, kept for the tiles beside the one that read them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import date, timedelta
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.stack.blocks import Group, Place
from mmnet_maps.variables import VARIABLES

Packed = NDArray[np.integer]

_BYTES = 64 << 20


class KeptBlocks:
    """Blocks on consecutive days, as stored; the least recently used ones are dropped. Threads may share it.

    Blocks are many times as large as the share of them below a tile, so that each is needed by several tiles. Data are
    kept together with the commit marks that they were read under and are read again once these have changed.

    Parameters
    ----------
    read
        Reads a block of a variable on a day, verified; None where nothing is stored.
    limit
        Most bytes to keep.
    """

    def __init__(self, read: Callable[[str, Place, date | None], Packed | None], limit: int = _BYTES) -> None:
        self._read, self._limit = read, limit
        self._kept: OrderedDict[tuple[str, Place], tuple[date, NDArray[np.uint32], Packed]] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    def read(self, group: Group, variable: str, place: Place, first: date, marks: NDArray[np.uint32]) -> Packed:
        """Read one block on consecutive days, missing on days on which it is not marked as valued.

        Parameters
        ----------
        group, variable, place
            The variable, its group, and row and column of the block.
        first
            The first day.
        marks
            The block's mark on each day.

        Returns
        -------
        ndarray (day, y, x)
            Shared with other callers: not to be changed.

        Raises
        ------
        InputError
            The block is damaged on one of the days.
        """
        with self._lock:
            start, known, held = self._kept.get((variable, place), (first, marks[:0], None))
        offset = (start - first).days
        if held is not None and -offset in range(len(known) - len(marks) + 1):
            days = slice(-offset, len(marks) - offset)
            if np.array_equal(known[days], marks):
                with self._lock:
                    if (variable, place) in self._kept:
                        self._kept.move_to_end((variable, place))
                return held[days]
        shape = (len(marks), *(part.stop - part.start for part in group.cells_of(place)))
        values = np.full(shape, VARIABLES[variable].nodata, VARIABLES[variable].dtype)
        stale = marks > 1
        for k in range(max(offset, 0), min(offset + len(known), len(marks)) if held is not None else 0):
            if stale[k] and known[k - offset] == marks[k]:
                assert held is not None
                values[k], stale[k] = held[k - offset], False
        for k in np.flatnonzero(stale).tolist():
            found = self._read(variable, place, first + timedelta(days=k))
            if found is not None:
                values[k] = found
        self._keep((variable, place), (first, marks.copy(), values))
        return values

    def _keep(self, key: tuple[str, Place], entry: tuple[date, NDArray[np.uint32], Packed]) -> None:
        with self._lock:
            old = self._kept.pop(key, None)
            self._kept[key] = entry
            self._bytes += entry[2].nbytes - (0 if old is None else old[2].nbytes)
            while self._bytes > self._limit:
                _, (_, _, values) = self._kept.popitem(last=False)
                self._bytes -= values.nbytes
