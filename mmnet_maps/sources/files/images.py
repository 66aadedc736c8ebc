"""GeoTIFF and other images, read with GDAL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from mmnet_maps.sources.files.description import Raster, RasterError, RasterSpec, lattice_of
from mmnet_maps.sources.files.locations import GDAL_OPTIONS, GDAL_REMOTE_OPTIONS, gdal_path
from mmnet_maps.sources.files.received import kept_blocks


@contextmanager
def _image(spec: RasterSpec) -> Iterator[Any]:
    import rasterio

    options = GDAL_REMOTE_OPTIONS if isinstance(spec.path, str) else GDAL_OPTIONS
    with rasterio.Env(**options):
        if isinstance(spec.path, str) and (kept := kept_blocks()) is not None:
            yield kept.image(spec.path, lambda: rasterio.open(gdal_path(spec.path)))
            return
        with rasterio.open(gdal_path(spec.path)) as image:
            yield image


@lru_cache(maxsize=256)
def _text(crs: Any) -> str:
    """Return a CRS as text: its EPSG code, which is searched for, else WKT."""
    return str(crs.to_string())


def describe_image(spec: RasterSpec) -> Raster:
    """Describe a band of an image that GDAL reads; RasterError where it is rotated, unlocated or complex."""
    with _image(spec) as image:
        if spec.band > image.count:
            raise RasterError(f"no band {spec.band}; expected at most {image.count}; correct band in the sources YAML")
        dtype = image.dtypes[spec.band - 1]
        if dtype.startswith("complex"):
            raise RasterError(
                f"band {spec.band} holds complex numbers ({dtype}); expected real ones; write its magnitude or phase "
                "to a file of its own"
            )
        crs = _text(image.crs) if image.crs else None
        affine, south_up = image.transform, image.transform.e > 0
        if (affine.b, affine.d) != (0, 0) or affine.a <= 0 or affine == Affine.identity():
            raise RasterError("its grid is rotated or has no georeference; expected a north-up grid; warp it")
        if south_up:
            affine = Affine(affine.a, 0, affine.c, 0, -affine.e, affine.f + image.height * affine.e)
        lattice, first = lattice_of(spec, (image.height, image.width), affine, crs)
        nodata = image.nodatavals[spec.band - 1]
        return Raster(
            spec=spec,
            lattice=lattice,
            first=first,
            days=None,
            scale=image.scales[spec.band - 1],
            offset=image.offsets[spec.band - 1],
            nodata=() if nodata is None else (float(nodata),),
            dims=("y", "x"),
            south_up=south_up,
            units=image.units[spec.band - 1] or "",
        )


def read_image(raster: Raster, rows: slice, cols: slice, *, own_nodata: bool) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read a window of a band as stored, and its mask, (1, y, x); without `own_nodata`, only a mask band counts.

    The mask may leave out numbers that mean missing, which `rasters.read_window` compares.
    """
    from rasterio.enums import MaskFlags
    from rasterio.windows import Window

    if isinstance(path := raster.spec.path, str) and (blocks := kept_blocks()) is not None:
        kept = blocks.window(path, raster.spec.band, rows, cols, lambda: _image(raster.spec))
        if kept is not None:
            return kept[None], np.zeros((1, *kept.shape), bool)
    with _image(raster.spec) as image:
        masked = own_nodata or MaskFlags.nodata not in image.mask_flag_enums[raster.spec.band - 1]
        found = image.read(raster.spec.band, window=Window.from_slices(rows, cols), masked=masked)
    if not masked:
        return found[None], np.zeros((1, *found.shape), bool)
    return found.data[None], np.ma.getmaskarray(found)[None]
