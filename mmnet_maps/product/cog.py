"""One layer of a product as a cloud-optimised GeoTIFF, written window by window and read back."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.windows import Window

from mmnet_maps.errors import OutputError
from mmnet_maps.files import gdal
from mmnet_maps.product.layers import Layer
from mmnet_maps.product.quality import FLAG_MASKS

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


_BLOCK = 512


class CogWriter:
    """Write one layer window by window, then turn it into a COG.

    The windows go to a plain GeoTIFF beside `path`, so that only the current windows are in memory; `finish` makes the
    COG from it. The same windows give the same bytes. Not for several threads at once.

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
        self._path, self._layer, self._geobox = path, layer, geobox
        self._plain = path.with_suffix(".plain.tif")
        self._sums: dict[tuple[int, int, int, int], int] = {}
        self._unfilled = 0
        self._raster = self._create(tags)

    def write(self, rows: slice, cols: slice, values: NDArray[np.uint16]) -> None:
        """Write one packed window (rows, cols); windows do not overlap, pixels in no window hold `Layer.fill`."""
        key = (rows.start, rows.stop, cols.start, cols.stop)
        assert not any(_overlap(key, other) for other in self._sums), f"window {key} overlaps an earlier one"
        with gdal():
            self._raster.write(values, 1, window=_window(key))
        self._sums[key] = _checksum(values)
        self._unfilled += int(np.count_nonzero(values != self._layer.fill))

    def finish(self) -> None:
        """Make the COG and read every value back.

        Raises
        ------
        OutputError
            When the file is not a valid COG or holds other values than were written.
        """
        self.close()
        with gdal():
            # DEFLATE, not ZSTD: every build of GDAL reads it. Higher levels take twice as long for 2 % less.
            rasterio.shutil.copy(
                self._plain,
                self._path,
                driver="COG",
                blocksize=_BLOCK,
                compress="DEFLATE",
                level=1,
                predictor="YES" if self._layer.overview == "average" else "NO",
                overviews="IGNORE_EXISTING",
                overview_resampling=self._layer.overview.upper(),
                bigtiff="IF_SAFER",
            )
        self._plain.unlink()
        self._verify()

    def close(self) -> None:
        """Close the plain GeoTIFF; the files stay."""
        with gdal():
            self._raster.close()

    def _create(self, tags: Mapping[str, str]) -> Any:
        """Create the plain tiled GeoTIFF, in which every pixel reads as `Layer.fill`."""
        layer = self._layer
        height, width = self._geobox.shape
        with gdal():
            raster = rasterio.open(
                self._plain,
                "w",
                driver="GTiff",
                height=height,
                width=width,
                count=1,
                dtype="uint16",
                crs=_crs(self._geobox),
                transform=self._geobox.affine,
                nodata=layer.nodata,
                tiled=True,
                blockxsize=_BLOCK,
                blockysize=_BLOCK,
                sparse_ok=layer.nodata is not None,
                bigtiff="IF_SAFER",
            )
            raster.scales, raster.offsets = (layer.scale,), (0.0,)
            raster.set_band_unit(1, layer.units)
            raster.set_band_description(1, layer.long_name)
            raster.update_tags(**tags)
            raster.update_tags(1, **band_tags(layer))
            if layer.nodata is None:
                for strip in _strips(height, width):
                    raster.write(np.full((strip.height, width), self._layer.fill, np.uint16), 1, window=strip)
        return raster

    def _verify(self) -> None:
        from rio_cogeo.cogeo import cog_validate

        with gdal():
            valid, faults, warnings = cog_validate(self._path, strict=True, quiet=True)
        if not valid:
            found = "; ".join([*faults, *warnings])
            raise OutputError(f"{self._path.name} is not a valid COG: {found}; run again, and report it if it recurs")
        with gdal(), rasterio.open(self._path) as data:
            same = (
                data.shape == tuple(self._geobox.shape)
                and data.crs == _crs(self._geobox)
                and data.transform.almost_equals(self._geobox.affine)
                and data.nodata == self._layer.nodata
                and all(_checksum(data.read(1, window=_window(key))) == sum_ for key, sum_ in self._sums.items())
                and _count_other(data, self._layer.fill) == self._unfilled
            )
        if not same:
            raise OutputError(
                f"{self._path.name} did not read back as it was written; check the disk and the memory of this machine "
                "and run again"
            )


def read_band(path: Path) -> NDArray[np.uint16]:
    """Return the packed values (y, x) of a layer.

    Raises
    ------
    DRIVER_ERRORS
        When it cannot be read.
    """
    with gdal(), rasterio.open(path) as data:
        values: NDArray[np.uint16] = data.read(1)
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


def _checksum(values: NDArray[np.uint16]) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data)


def _count_other(data: Any, value: int) -> int:
    """Return how many pixels of the first band differ from a value, read strip by strip."""
    return sum(int(np.count_nonzero(data.read(1, window=strip) != value)) for strip in _strips(data.height, data.width))
