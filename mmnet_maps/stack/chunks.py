"""Chunks of the arrays of a stack, decoded one by one straight from their files.

zarr reads a window through an event loop and a pool of threads, which takes several times as long as decoding the few
chunks that it holds.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc, zstd
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

Integers = NDArray[np.integer]

_PLACE = struct.Struct("<QQ")  # offset and size of a chunk in its shard
_ABSENT = (1 << 64) - 1
_HEADER = struct.Struct("<4xI4xI")  # of Blosc: bytes decoded and encoded


class Chunks:
    """The chunks of one array of a stack. Threads may share it.

    Parameters
    ----------
    array
        The open Zarr array, with a time axis first or without one.
    folder
        Its folder.
    temporal
        Whether there is a time axis; a chunk holds one day.

    Raises
    ------
    ValueError
        The array is not encoded as `layout` does it.
    """

    def __init__(self, array: Any, folder: Path, *, temporal: bool) -> None:
        codecs, self._side = tuple(array.metadata.codecs), (1, 1)
        self._sharded = array.shards is not None
        if self._sharded:
            self._side = tuple(size // step for size, step in zip(array.shards[-2:], array.chunks[-2:], strict=True))
            codecs = _in_shards(codecs)
        kinds = [*map(type, codecs)]
        if kinds not in ([BytesCodec, BloscCodec], [BytesCodec, ZstdCodec]):
            raise ValueError(f"its chunks are encoded by {codecs}")
        self._decode = self._from_blosc if kinds[1] is BloscCodec else zstd.decompress
        self.shape: tuple[int, ...] = array.chunks[1:] if temporal else array.chunks
        self._dtype: np.dtype[Any] = np.dtype(array.dtype).newbyteorder("<")
        self._size = int(np.prod(self.shape)) * self._dtype.itemsize
        self._folder = f"{folder}/c"

    def read(self, *place: int) -> Integers | None:
        """Return a chunk, not to be changed, without the time axis; None where nothing is stored.

        Parameters
        ----------
        *place
            Position of the chunk along each axis of the array.

        Raises
        ------
        ValueError, RuntimeError, OSError
            It cannot be read or decoded.
        """
        *lead, row, col = place
        rows, cols = self._side
        try:
            with open("/".join(map(str, (self._folder, *lead, row // rows, col // cols))), "rb", buffering=0) as file:
                encoded = _of_shard(file, rows, cols, row, col) if self._sharded else file.readall()
        except FileNotFoundError:
            return None
        if encoded is None:
            return None
        return np.frombuffer(self._decode(encoded), self._dtype).reshape(self.shape)

    def _from_blosc(self, encoded: bytes) -> bytes:
        """Decode a chunk whose header has the right sizes: Blosc believes it."""
        if len(encoded) < 16 or _HEADER.unpack_from(encoded) != (self._size, len(encoded)):
            raise ValueError(f"{len(encoded)} bytes are not a chunk")
        decoded: bytes = blosc.decompress(encoded)
        return decoded


def _in_shards(codecs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the codecs of the chunks of shards."""
    if [*map(type, codecs)] == [ShardingCodec]:
        index = [*map(type, codecs[0].index_codecs)]
        if index == [BytesCodec, Crc32cCodec] and codecs[0].to_dict()["configuration"]["index_location"] == "end":
            return tuple(codecs[0].codecs)
    raise ValueError(f"its shards are encoded by {codecs}")


def _of_shard(file: io.FileIO, rows: int, cols: int, row: int, col: int) -> bytes | None:
    """Read a chunk of a shard by its index, which stands at the end with a checksum; None for an absent one."""
    size = rows * cols * _PLACE.size
    file.seek(-size - 4, io.SEEK_END)
    found = file.read(size + 4)
    index = found[:size]
    if google_crc32c.value(index) != int.from_bytes(found[size:], "little"):
        raise ValueError("the index of a shard is damaged")
    start, length = _PLACE.unpack_from(index, (row % rows * cols + col % cols) * _PLACE.size)
    if start == _ABSENT:
        return None
    file.seek(start)
    return file.read(length)
