"""Small arrays of a stack, such as its marks, with one file a day: a file is read again only once it was replaced."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.stack.chunks import Chunks

_Stamp = tuple[int, int, int]

_MOST = 400  # days of an array; those of the finest blocks of CONUS take 20 kB each


class KeptDays:
    """The days of an array (time, y, x) of unsigned integers with one file a day, which writers replace as a whole.

    Every tile of a batch reads nearly the same days as the one before. Threads may share it.

    Parameters
    ----------
    chunks
        Its chunks, one a day.
    folder
        Its folder.
    """

    def __init__(self, chunks: Chunks, folder: Path) -> None:
        self._chunks, self._folder = chunks, f"{folder}/c"
        self._kept: dict[int, tuple[_Stamp, NDArray[np.uint32]]] = {}

    def read(self, days: Sequence[int]) -> list[NDArray[np.uint32] | None]:
        """Return the values (y, x) on some days, None where no file exists; errors as `chunks.Chunks.read`."""
        stamps = {day: self._stamp(day) for day in days}
        found = {day: self._kept.get(day) for day in days}  # another thread may clear the table
        stale = [day for day, stamp in stamps.items() if stamp and (found[day] or (None,))[0] != stamp]
        if len(self._kept) + len(stale) > _MOST:
            self._kept.clear()
        for day in stale:
            values, stamp = self._chunks.read(day, 0, 0), stamps[day]
            found[day] = None
            if values is not None and stamp:  # else it has been removed meanwhile
                self._kept[day] = found[day] = stamp, values.astype(np.uint32, copy=False)
        return [kept[1] if stamps[day] and (kept := found[day]) else None for day in days]

    def _stamp(self, day: int) -> _Stamp | None:
        """Return what changes when the file of a day is replaced; None without one."""
        with suppress(FileNotFoundError):
            status = os.stat(f"{self._folder}/{day}/0/0")
            return status.st_mtime_ns, status.st_ino, status.st_size
        return None
