"""The members of one day's ensemble as a Zarr store, written window by window and read back."""

from __future__ import annotations

import asyncio
import warnings
import zlib
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import zarr.api.asynchronous
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from mmnet_maps.errors import OutputError

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

T = TypeVar("T")

ARRAY = "soil_moisture_members"
"""Name of the array (member, y, x) in a store."""

ATTRIBUTES: dict[str, Any] = {
    "long_name": "members of surface soil moisture, not clipped",
    "units": "m3 m-3",
    "grid_mapping": "spatial_ref",
}
"""CF attributes of that array."""

_BLOCK = 512
_DAMAGE = (ValueError, RuntimeError)  # what zarr and its codecs raise on broken chunks


class MembersWriter:
    """Write the members of one day window by window.

    Chunks that hold nothing but NaN take no space. Not for several threads at once.

    Parameters
    ----------
    path
        Folder of the store to make.
    count
        Number of members.
    geobox
        The grid, north up, with a CRS.
    tags
        Attributes of the store.

    Raises
    ------
    OSError
        From any method, when the files cannot be written or read.
    """

    def __init__(self, path: Path, *, count: int, geobox: GeoBox, tags: Mapping[str, str]) -> None:
        self.path = path
        self._sums: dict[tuple[int, int, int, int], int] = {}
        self._array = run_to_end(_create(path, count, geobox, tags))

    def write(self, rows: slice, cols: slice, values: NDArray[np.float32]) -> None:
        """Write one window, (member, rows, cols); windows do not overlap, pixels in none are NaN."""
        values = np.where(np.isnan(values), np.float32(np.nan), values)  # one NaN of many, that of the fill value
        run_to_end(self._array.setitem((slice(None), rows, cols), values))
        self._sums[rows.start, rows.stop, cols.start, cols.stop] = zlib.crc32(values.data)

    def finish(self) -> None:
        """Read every window back.

        Raises
        ------
        OutputError
            When the store holds anything else than was written.
        """
        try:
            same = all(self._checksum(*key) == sum_ for key, sum_ in self._sums.items())
        except _DAMAGE:
            same = False
        if not same:
            raise OutputError(
                f"{self.path.name} did not read back as it was written; check the disk and the memory of this machine "
                "and run again"
            )

    def _checksum(self, top: int, bottom: int, left: int, right: int) -> int:
        values = run_to_end(self._array.getitem((slice(None), slice(top, bottom), slice(left, right))))
        return zlib.crc32(np.ascontiguousarray(values).data)


async def _create(path: Path, count: int, geobox: GeoBox, tags: Mapping[str, str]) -> Any:
    """Make the store with its coordinates; the array of the members is empty."""
    root = await zarr.api.asynchronous.create_group(
        store=path,
        zarr_format=3,
        attributes={**tags, "Conventions": "CF-1.11", "title": "Members of surface soil moisture at field scale"},
    )
    numbers = np.arange(1, count + 1, dtype=np.int32)
    await create_coordinate(root, "member", numbers, {"long_name": "member of the ensemble", "units": "1"})
    await create_grid(root, geobox)
    array = await root.create_array(
        ARRAY,
        shape=(count, *geobox.shape),
        chunks=(1, _BLOCK, _BLOCK),
        dtype="float32",
        fill_value=np.nan,
        compressors=BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
        dimension_names=("member", "y", "x"),
        attributes={**ATTRIBUTES, "coordinates": "spatial_ref"},  # so that xarray has it as one without being asked
    )
    await consolidate(path)
    return array


async def create_coordinate(root: Any, name: str, values: NDArray[Any], attributes: Mapping[str, Any]) -> None:
    """Write a coordinate, one chunk, along the dimension of its name; a scalar has none."""
    dims = (name,) * values.ndim
    await root.create_array(name, data=values, chunks=values.shape, dimension_names=dims, attributes=dict(attributes))


async def create_grid(root: Any, geobox: GeoBox) -> None:
    """Write the coordinates ``y`` and ``x`` of the pixel centres, and ``spatial_ref`` as GDAL and rioxarray have it."""
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


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run what zarr does until all of it has ended, also on an error or Ctrl-C.

    In zarr's own loop the other chunks of a window would still be written after the call was left, and make the store's
    folder again after it was removed. The thread is there because a notebook has a loop running in the main one.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
