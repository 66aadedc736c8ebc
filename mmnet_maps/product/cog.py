"""One layer of a product as a cloud-optimised GeoTIFF, written window by window and read back."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.windows import Window

from mmnet_maps.errors import OutputError
from mmnet_maps.files import DRIVER_ERRORS, gdal
from mmnet_maps.product.layers import Layer
from mmnet_maps.product.quality import FLAG_MASKS
from mmnet_maps.product.statistics import Statistics

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


_BLOCK = 512
_IN_MEMORY = 2 * _BLOCK  # pixels along a side of the largest raster that is collected in memory: a tile, 2 MiB
_PLAIN = {"driver": "GTiff", "tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "bigtiff": "IF_SAFER"}


class CogWriter:
    """Write one layer window by window, then turn it into a COG.

    The windows of a tile or less are collected in memory, others in a plain GeoTIFF beside `path`, so that only the
    current ones are in memory; `finish` makes the COG from it. The same windows give the same bytes. Not for several
    threads at once.

    Parameters
    ----------
    path
        The new COG.
    layer
        Packing, names and units, written as scale, offset, unit and description of the band.
    geobox
        The grid, north up, with a CRS.
    tags
        GeoTIFF tags.

    Raises
    ------
    DRIVER_ERRORS
        From any method, when the files cannot be written.
    """

    def __init__(self, path: Path, *, layer: Layer, geobox: GeoBox, tags: Mapping[str, str]) -> None:
        self._path, self._layer, self._geobox, self._crs = path, layer, geobox, _crs(geobox)
        self._plain = MemoryFile() if max(geobox.shape) <= _IN_MEMORY else path.with_suffix(".plain.tif")
        self._sums: dict[tuple[int, int, int, int], int] = {}
        self._unfilled, self._statistics = 0, Statistics()
        with gdal():
            self._raster = self._create(tags)

    def write(self, rows: slice, cols: slice, values: NDArray[Any]) -> None:
        """Write one packed window (rows, cols); windows do not overlap, pixels in no window hold `Layer.fill`."""
        key = (rows.start, rows.stop, cols.start, cols.stop)
        assert not any(_overlap(key, other) for other in self._sums), f"window {key} overlaps an earlier one"
        with gdal():
            self._raster.write(values[np.newaxis], [1], window=_window(key))  # rasterio copies an array (y, x)
        self._sums[key] = _checksum(values)
        filled = values != self._layer.fill
        count = int(np.count_nonzero(filled))
        self._unfilled += count
        if self._layer.nodata is not None:
            self._statistics.add(values if count == values.size else values[filled])

    def finish(self) -> None:
        """Make the COG and read every value back.

        Raises
        ------
        OutputError
            When the file is not a COG or holds other values than were written.
        """
        overview = self._layer.overview
        with gdal():
            for factor in _overviews(self._geobox):  # one by one from the pixels; in one call GDAL averages averages
                self._raster.build_overviews([factor], Resampling[overview])
            if self._layer.nodata is not None:
                self._raster.update_tags(1, **self._statistics.tags(math.prod(self._geobox.shape)))
            # DEFLATE, not ZSTD: every build of GDAL reads it. Higher levels take up to twice as long for 2 % less.
            rasterio.shutil.copy(
                self._raster,
                self._path,
                driver="COG",
                blocksize=_BLOCK,
                compress="DEFLATE",
                level=1,
                predictor="YES" if overview == "average" else "NO",
                overviews="FORCE_USE_EXISTING",
                bigtiff="IF_SAFER",
            )
            self.close()
            if isinstance(self._plain, Path):
                self._plain.unlink()
            self._verify()

    def close(self) -> None:
        """Close the raster that collects the windows; files stay."""
        with gdal():
            self._raster.close()
            if isinstance(self._plain, MemoryFile):
                self._plain.close()

    def discard(self) -> None:
        """Close it, whatever state it is in, when its files are of no use any more."""
        with suppress(*DRIVER_ERRORS):
            self.close()

    def _create(self, tags: Mapping[str, str]) -> Any:
        """Create the raster that collects the windows, in which every pixel reads as `Layer.fill`."""
        layer = self._layer
        height, width = self._geobox.shape
        sparse = layer.nodata is not None
        # Not GDAL's driver for arrays: COGs from it do not state how their overviews were made (GDAL 3.12).
        create = self._plain.open if isinstance(self._plain, MemoryFile) else partial(rasterio.open, self._plain, "w")
        raster = create(
            height=height,
            width=width,
            count=1,
            dtype=layer.dtype,
            crs=self._crs,
            transform=self._geobox.affine,
            nodata=layer.nodata,
            sparse_ok=sparse,
            **_PLAIN,
        )
        raster.scales, raster.offsets = (layer.scale,), (0.0,)
        raster.set_band_unit(1, layer.units)
        raster.set_band_description(1, layer.long_name)
        raster.update_tags(**tags)
        raster.update_tags(1, **band_tags(layer))
        if not sparse:
            for strip in _strips(height, width):
                raster.write(np.full((strip.height, width), layer.fill, layer.dtype), 1, window=strip)
        return raster

    def _verify(self) -> None:
        """Compare the file with what was written; rio-cogeo's validation, a test, takes longer than all of this."""
        layer = self._layer
        with rasterio.open(self._path) as data:
            cog = (
                data.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG"
                and data.block_shapes == [(_BLOCK, _BLOCK)]
                and len(data.overviews(1)) == len(_overviews(self._geobox))
            )
            if not cog:
                raise OutputError(f"{self._path.name} is not a COG; run again, and report it if it recurs")
            same = (
                data.shape == tuple(self._geobox.shape)
                and data.crs == self._crs
                and data.transform.almost_equals(self._geobox.affine)
                and data.nodata == layer.nodata
                and all(_checksum(data.read(1, window=_window(key))) == sum_ for key, sum_ in self._sums.items())
                and (self._covers_all() or _count_other(data, layer.fill) == self._unfilled)
            )
        if not same:
            raise OutputError(
                f"{self._path.name} did not read back as it was written; check the disk and the memory of this machine "
                "and run again"
            )

    def _covers_all(self) -> bool:
        """Return whether every pixel lies in a window; windows do not overlap."""
        height, width = self._geobox.shape
        return sum((bottom - top) * (right - left) for top, bottom, left, right in self._sums) == height * width


def read_band(path: Path) -> NDArray[Any]:
    """Return the packed values (y, x) of a layer.

    Raises
    ------
    DRIVER_ERRORS
        When it cannot be read.
    """
    with gdal(), rasterio.open(path) as data:
        values: NDArray[Any] = data.read(1)
        return values


def read_smallest(path: Path) -> NDArray[np.uint16]:
    """Return the packed values (y, x) of a layer's smallest overview, of which a mean is nodata only where all are.

    Raises
    ------
    DRIVER_ERRORS
        When it cannot be read.
    """
    with gdal(), rasterio.open(path) as data:
        factor = max(data.overviews(1), default=1)
        values: NDArray[np.uint16] = data.read(1, out_shape=(-(-data.height // factor), -(-data.width // factor)))
        return values


def _crs(geobox: GeoBox) -> CRS:
    assert geobox.crs is not None
    return CRS.from_user_input(geobox.crs.to_epsg() or geobox.crs.to_wkt())


def _overviews(geobox: GeoBox) -> list[int]:
    """Return the factors of the overviews, down to one that fits in a block."""
    blocks = max(geobox.shape) / _BLOCK
    return [2**level for level in range(1, 1 + math.ceil(math.log2(blocks)))] if blocks > 1 else []


def band_tags(layer: Layer) -> dict[str, str]:
    """Return the metadata of a band under the names of the CF conventions."""
    tags = {"long_name": layer.long_name}
    if layer.standard_name:
        tags["standard_name"] = layer.standard_name
    if layer.nodata is None:
        tags["flag_masks"] = " ".join(map(str, FLAG_MASKS.values()))
        tags["flag_meanings"] = " ".join(FLAG_MASKS)
    return tags


def _window(key: tuple[int, int, int, int]) -> Window:
    top, bottom, left, right = key
    return Window(left, top, right - left, bottom - top)


def _strips(height: int, width: int) -> list[Window]:
    return [Window(0, top, width, min(_BLOCK, height - top)) for top in range(0, height, _BLOCK)]


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def _checksum(values: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data)


def _count_other(data: Any, value: int) -> int:
    """Return how many pixels of the first band differ from a value, read strip by strip."""
    return sum(int(np.count_nonzero(data.read(1, window=strip) != value)) for strip in _strips(data.height, data.width))
