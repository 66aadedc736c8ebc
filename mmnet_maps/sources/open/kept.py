"""Files that a service makes for a window: received once, whole or not at all, and kept in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import rasterio
from odc.geo.geobox import GeoBox

from mmnet_maps.files import write_whole
from mmnet_maps.resources import cache_folder

_DAYS = 7
"""Files that were made longer ago are removed: an interrupted fetch is resumed sooner, and a stack has the others."""


class Kept:
    """The folder of files that were received from a service; threads share it, and one at a time makes a file.

    Parameters
    ----------
    name
        The service; its folder is made with the first file, in the user's folder of fetched inputs.
    """

    def __init__(self, name: str) -> None:
        self._folder = cache_folder() / "open" / name
        self._locks: dict[str, Lock] = {}
        for path in self._folder.glob("*.*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _DAYS * 86400:
                    path.unlink()

    def holds(self, name: str) -> bool:
        """Return whether a file is there."""
        return (self._folder / name).exists()

    def get(self, name: str, make: Callable[[], bytes]) -> Path:
        """Return a file, whose content is made unless it is there.

        Raises
        ------
        OutputError
            When it cannot be written.
        """
        path = self._folder / name
        with self._locks.setdefault(name, Lock()):
            if not path.exists():
                write_whole(path, make())
        return path


def geotiff(bands: Sequence[Any], geobox: GeoBox) -> bytes:
    """Return a GeoTIFF of bands of one type, each (y, x), on a grid."""
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            crs=str(geobox.crs),
            transform=geobox.affine,
            height=geobox.shape.y,
            width=geobox.shape.x,
            count=len(bands),
            dtype=bands[0].dtype,
            compress="deflate",
        ) as image:
            for number, band in enumerate(bands, 1):
                image.write(band, number)
        return bytes(memory.read())
