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
from rasterio.errors import RasterioError

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
        self._old: set[Path] = set()
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
            if path.exists():
                self._old.add(path)
            else:
                write_whole(path, make())
        return path

    def remove_broken(self) -> bool:
        """Remove the files that were there before they were needed and cannot be read; True where there are any.

        Files are written whole, but a disk may lose a part of one.
        """
        broken = [path for path in list(self._old) if not _is_whole(path)]
        for path in broken:
            path.unlink(missing_ok=True)
            self._old.discard(path)
        return bool(broken)


def _is_whole(path: Path) -> bool:
    """Return whether a GeoTIFF or a NetCDF 3 file can be read to its end."""
    from scipy.io import netcdf_file

    try:
        if path.suffix == ".nc":
            with netcdf_file(path, mmap=False):
                return True
        with rasterio.open(path) as image:
            image.read()
    except (RasterioError, OSError, TypeError, ValueError, KeyError, IndexError, AssertionError):
        return False
    return True


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
