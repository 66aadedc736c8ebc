"""Checksums of blocks, one per variable and day, so that damaged, lost or exchanged data are not used.

The array ``checksums`` of a group, ([time,] block_variable, block_y, block_x) uint32, is written after the data of a
block and before its mark. Stacks of 2026-11 and before do not have it; they are read unverified.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import date

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.stack.blocks import Place

NAME = "checksums"
"""Name of the array of a group."""


def checksum(variable: str, day: date | None, place: Place, packed: NDArray[np.integer]) -> int:
    """Return the checksum of a block, never 0; equal data of another variable, day or place have another one.

    Examples
    --------
    >>> block = np.zeros((2, 2), np.int16)
    >>> checksum("pr", date(2021, 8, 8), (0, 0), block) == checksum("pr", date(2021, 8, 9), (0, 0), block)
    False
    """
    seed = zlib.crc32(f"{variable} {day} {place[0]} {place[1]}".encode())
    return max(zlib.crc32(np.ascontiguousarray(packed).data, seed), 1)


def cut(packed: NDArray[np.integer], block: int, first: Place) -> Iterator[tuple[Place, NDArray[np.integer]]]:
    """Cut values (y, x) of whole blocks, the first of which is at `first`, into blocks; yield each with its place."""
    for i in range(-(-packed.shape[0] // block)):
        for j in range(-(-packed.shape[1] // block)):
            part = packed[i * block : (i + 1) * block, j * block : (j + 1) * block]
            yield (first[0] + i, first[1] + j), part
