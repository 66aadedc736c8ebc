"""The ensemble members of one day as a Zarr store, written window by window and read back."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr.api.asynchronous
from numpy.typing import NDArray

from mmnet_maps.errors import OutputError
from mmnet_maps.product.geozarr import georeference
from mmnet_maps.product.zarr_grid import (
    COMPRESSOR,
    DAMAGE,
    consolidate,
    create_coordinate,
    create_grid,
    one_nan,
    run_to_end,
)

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

ARRAY = "soil_moisture_members"
"""Name of the array (member, y, x) in a store."""

ATTRIBUTES: dict[str, Any] = {
    "long_name": "members of surface soil moisture, not clipped",
    "units": "m3 m-3",
    "grid_mapping": "spatial_ref",
}
"""CF attributes of that array."""

_BLOCK = 512


class MembersWriter:
    """Write the members of one day window by window.

    Chunks of NaN alone take no space. Not for several threads at once.

    Parameters
    ----------
    path
        Folder of the new store.
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
        """Write one window (member, rows, cols); windows do not overlap, pixels in no window are NaN."""
        values = one_nan(values)
        run_to_end(self._array.setitem((slice(None), rows, cols), values))
        self._sums[rows.start, rows.stop, cols.start, cols.stop] = zlib.crc32(values.data)

    def finish(self) -> None:
        """Read every window back.

        Raises
        ------
        OutputError
            When the store holds other values than were written.
        """
        try:
            same = all(self._checksum(*key) == sum_ for key, sum_ in self._sums.items())
        except DAMAGE:
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
    """Create the store with its coordinates and return the array of the members, which is empty."""
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
        compressors=COMPRESSOR,
        dimension_names=("member", "y", "x"),
        # Named as a coordinate so that xarray reads it as one.
        attributes={**ATTRIBUTES, **georeference(geobox), "coordinates": "spatial_ref"},
    )
    await consolidate(path)
    return array
