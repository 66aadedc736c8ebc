"""Zarr stores on a grid: coordinates as CF, GDAL and rioxarray read them, and calls that end before they return."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import zarr.api.asynchronous
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

T = TypeVar("T")

DAMAGE = (ValueError, RuntimeError)
"""Errors that zarr and its codecs raise on broken chunks."""

COMPRESSOR = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")
"""Compression of all arrays of values; level 3 takes two to three times as long for a twelfth less."""

BLOSC = Blosc(cname="zstd", clevel=1, shuffle=Blosc.SHUFFLE)
"""The same for chunks compressed without zarr, whose versions give the settings of a codec in different types."""


async def create_coordinate(root: Any, name: str, values: NDArray[Any], attributes: Mapping[str, Any]) -> None:
    """Write a coordinate in one chunk along the dimension of its name; a scalar has no dimension."""
    dims = (name,) * values.ndim
    await root.create_array(name, data=values, chunks=values.shape, dimension_names=dims, attributes=dict(attributes))


async def create_grid(root: Any, geobox: GeoBox) -> None:
    """Write the pixel centres ``y`` and ``x``, and ``spatial_ref`` as GDAL and rioxarray read it."""
    affine, crs = geobox.affine, geobox.crs
    assert crs is not None
    axes = {entry["axis"].lower(): entry for entry in crs.proj.cs_to_cf()}
    for name, axis in zip(("y", "x"), geobox.dimensions, strict=True):
        await create_coordinate(root, name, geobox.coordinates[axis].values, axes[name])
    transform = " ".join(repr(float(n)) for n in (affine.c, affine.a, affine.b, affine.f, affine.d, affine.e))
    reference = {"long_name": "coordinate reference system", **crs.proj.to_cf(), "GeoTransform": transform}
    await create_coordinate(root, "spatial_ref", np.array(0, np.int32), reference)


async def consolidate(path: Path) -> None:
    """Gather a store's metadata in its root; without it xarray warns on opening."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        await zarr.api.asynchronous.consolidate_metadata(path)


def one_nan(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the values with every NaN in the bits of the fill value, so that chunks of NaN alone are not stored."""
    return np.where(np.isnan(values), np.float32(np.nan), values)


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of zarr and wait until all its tasks have ended, also on an error or Ctrl-C.

    In zarr's own loop the other chunks of a window would still be written after the call has returned, and recreate
    the store's folder after its removal. The thread is needed because a notebook runs a loop in the main thread.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
