"""A GeoTIFF by a closed formula: its header is real, and its blocks are computed when their bytes are asked for."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile

SIDE = 512
"""Side of a block, in pixels."""

Values = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.floating]]
"""Stored values at pixel centres, which come as a row and a column of native coordinates."""

_GEO = {33550: "d", 33922: "d", 34264: "d", 34735: "H", 34736: "d", 34737: "s"}
_SIZES = {"H": (3, 2), "I": (4, 4), "d": (12, 8), "s": (2, 1)}


class Tiff:
    """A GeoTIFF without compression, in blocks of 512 pixels.

    Parameters
    ----------
    crs, transform, shape
        Its grid; rows and columns.
    dtype
        Type of its numbers.
    values
        Its formula; NaN becomes `nodata`.
    nodata
        Written in place of NaN; `stated` says whether the header states it too.
    """

    def __init__(
        self,
        crs: str,
        transform: Affine,
        shape: tuple[int, int],
        dtype: str,
        values: Values,
        *,
        nodata: float = 0,
        stated: bool = False,
    ) -> None:
        self.crs, self.transform, self.shape, self.dtype = crs, transform, shape, np.dtype(dtype)
        self.values, self.nodata, self.stated = values, nodata, stated
        self.across, self.down = -(-shape[1] // SIDE), -(-shape[0] // SIDE)
        self.block = SIDE * SIDE * self.dtype.itemsize

    @property
    def header(self) -> bytes:
        """Everything before the blocks."""
        return _header(self.crs, self.transform, self.shape, self.dtype.str, self.nodata if self.stated else None)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.header) + self.across * self.down * self.block

    def read(self, start: int, stop: int) -> bytes:
        """Some of its bytes."""
        head = len(self.header)
        found = self.header[start:stop]
        first, last = max(0, start - head) // self.block, max(0, stop - head - 1) // self.block
        if stop > head:
            blocks = b"".join(self._block(index) for index in range(first, last + 1))
            found += blocks[max(0, start - head) - first * self.block : stop - head - first * self.block]
        return found

    def _block(self, index: int) -> bytes:
        """A block, remembered for a while: the mask of six bands is read six times."""
        return _remembered(self, index)

    def compute(self, index: int) -> bytes:
        """Compute a block."""
        row, col = divmod(index, self.across)
        t = self.transform
        x = t.c + t.a * (col * SIDE + np.arange(SIDE) + 0.5)
        y = t.f + t.e * (row * SIDE + np.arange(SIDE) + 0.5)
        values = np.broadcast_to(self.values(x[None, :], y[:, None]), (SIDE, SIDE))
        values = np.where(np.isfinite(values), values, self.nodata)
        if self.dtype.kind != "f":
            values = np.rint(values)
        return values.astype(self.dtype).tobytes()


@lru_cache(maxsize=200)
def _remembered(tiff: Tiff, index: int) -> bytes:
    return tiff.compute(index)


@lru_cache(maxsize=4096)
def _header(crs: str, transform: Affine, shape: tuple[int, int], dtype: str, nodata: float | None) -> bytes:
    """The header of a TIFF: what places it is copied from one that GDAL writes."""
    kind = np.dtype(dtype)
    across, down = -(-shape[1] // SIDE), -(-shape[0] // SIDE)
    count = across * down
    tags: list[tuple[int, str, bytes]] = [
        (256, "I", struct.pack("<I", shape[1])),
        (257, "I", struct.pack("<I", shape[0])),
        (258, "H", struct.pack("<H", 8 * kind.itemsize)),
        (259, "H", struct.pack("<H", 1)),
        (262, "H", struct.pack("<H", 1)),
        (277, "H", struct.pack("<H", 1)),
        (322, "I", struct.pack("<I", SIDE)),
        (323, "I", struct.pack("<I", SIDE)),
        (324, "I", bytes(4 * count)),
        (325, "I", struct.pack(f"<{count}I", *[SIDE * SIDE * kind.itemsize] * count)),
        (339, "H", struct.pack("<H", {"u": 1, "i": 2, "f": 3}[kind.kind])),
        *_georeference(crs, transform),
    ]
    if nodata is not None:
        tags.append((42113, "s", f"{nodata:g}\0".encode()))
    tags.sort()
    at = 8 + 2 + 12 * len(tags) + 4
    entries, tail = b"", b""
    offsets_at = 0
    for tag, code, data in tags:
        number, size = _SIZES[code]
        if len(data) <= 4:
            where = data.ljust(4, b"\0")
        else:
            where = struct.pack("<I", at + len(tail))
            if tag == 324:
                offsets_at = len(tail)
            tail += data + b"\0" * (len(data) % 2)
        entries += struct.pack("<HHI", tag, number, len(data) // size) + where
    head = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(tags)) + entries + bytes(4)
    end = len(head) + len(tail)
    offsets = struct.pack(f"<{count}I", *(end + k * SIDE * SIDE * kind.itemsize for k in range(count)))
    if count == 1:
        entry = head.index(struct.pack("<HH", 324, 4))
        return head[: entry + 8] + offsets + head[entry + 12 :] + tail
    return head + tail[:offsets_at] + offsets + tail[offsets_at + len(offsets) :]


@lru_cache(maxsize=256)
def _georeference(crs: str, transform: Affine) -> list[tuple[int, str, bytes]]:
    """The tags with which GDAL writes a CRS and a transform."""
    profile = {"driver": "GTiff", "width": 1, "height": 1, "count": 1, "dtype": "uint8"}
    with MemoryFile() as memory:
        with memory.open(**profile, crs=rasterio.CRS.from_user_input(crs), transform=transform) as file:
            file.write(np.zeros((1, 1, 1), np.uint8))
        raw = bytes(memory.read())
    (at,) = struct.unpack_from("<I", raw, 4)
    (count,) = struct.unpack_from("<H", raw, at)
    found = []
    for k in range(count):
        tag, _, number, where = struct.unpack_from("<HHII", raw, at + 2 + 12 * k)
        if tag in _GEO:
            length = number * _SIZES[_GEO[tag]][1]
            found.append((tag, _GEO[tag], raw[where : where + length]))
    return found
