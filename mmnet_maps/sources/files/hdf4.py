"""HDF4 files of MODIS, read with pyhdf: the GDAL that rasterio ships cannot read them."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from mmnet_maps.sources.files.attributes import packing, text_of
from mmnet_maps.sources.files.description import Raster, RasterError, RasterSpec, lattice_of
from mmnet_maps.sources.files.locations import some

MAGIC = b"\x0e\x03\x13\x01"
"""The first bytes of an HDF4 file."""

_TYPES = {5: "f4", 6: "f8", 20: "i1", 21: "u1", 22: "i2", 23: "u2", 24: "i4", 25: "u4"}
"""Types of numbers by their codes in HDF4."""

SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R={radius} +units=m +no_defs"


def describe_hdf4(spec: RasterSpec) -> Raster:
    """Describe a grid.

    Raises
    ------
    ImportError
        Without pyhdf.
    RasterError
        When it is not an HDF-EOS grid on the sinusoidal projection, or has no such variable.
    OSError
        When it cannot be read.
    """
    assert isinstance(spec.path, Path)
    archive = _open(spec.path)
    try:
        dataset = _select(archive, spec.variable)
        _, _, shape, code, _ = dataset.info()
        attributes = dataset.attributes()
        if not isinstance(shape, list) or len(shape) != 2:
            raise RasterError(
                f"{spec.variable} has the shape {shape}; expected rows and columns; name another 'variable'"
            )
        if code not in _TYPES:
            raise RasterError(
                f"{spec.variable} holds text; expected numbers; name another 'variable' in the sources YAML"
            )
        text = "".join(
            value for name, value in sorted(archive.attributes().items()) if name.startswith("StructMetadata")
        )
    finally:
        archive.end()
    affine, crs = grid_of(text, (shape[0], shape[1]))
    packed = packing(spec, attributes, np.dtype(_TYPES[code]))
    if packed["offset"] != spec.offset:  # HDF4 has physical = scale * (stored - offset).
        packed["offset"] *= -packed["scale"]
    lattice, first = lattice_of(spec, (shape[0], shape[1]), affine, crs)
    return Raster(
        spec=spec,
        lattice=lattice,
        first=first,
        days=None,
        dims=("y", "x"),
        units=text_of(attributes, "units"),
        **packed,
    )


def read_hdf4(raster: Raster, rows: slice, cols: slice, day: date | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read a window of a grid as stored, (1, y, x); none of it is marked as missing."""
    assert isinstance(raster.spec.path, Path)
    archive = _open(raster.spec.path)
    try:
        dataset = _select(archive, raster.spec.variable)
        size = rows.stop - rows.start, cols.stop - cols.start
        # pyhdf's indexing converts a single unsigned number of 16 or 32 bits to 1; get does not.
        stored = np.asarray(dataset.get(start=(rows.start, cols.start), count=size))[None]
    finally:
        archive.end()
    return stored, np.zeros(stored.shape, bool)


def _open(path: Path) -> Any:
    from pyhdf.error import HDF4Error
    from pyhdf.SD import SD

    try:
        return SD(str(path))
    except HDF4Error as error:
        raise OSError(f"it is not an HDF4 file: {error}") from error


def _select(archive: Any, variable: str | None) -> Any:
    known = sorted(archive.datasets())
    if variable not in known:
        raise RasterError(f"no variable {variable}; expected {some(known)}; name it as 'variable' in the sources YAML")
    return archive.select(variable)


def grid_of(text: str, shape: tuple[int, int]) -> tuple[Affine, str]:
    """Return geotransform and CRS of the grid with a shape in the StructMetadata of HDF-EOS.

    Raises
    ------
    RasterError
        When no grid has the shape, or it is not on the sinusoidal projection.

    Examples
    --------
    >>> affine, crs = grid_of(
    ...     "GROUP=GRID_1 XDim=2 YDim=2 UpperLeftPointMtrs=(0.0,20.0) LowerRightMtrs=(20.0,0.0) "
    ...     "Projection=GCTP_SNSOID ProjParams=(6371007.181000,0,0) END_GROUP=GRID_1", (2, 2))
    >>> affine.a, affine.f, crs
    (10.0, 20.0, '+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs')
    """
    for grid in re.split(r"\bGROUP=GRID_\d+", text)[1:]:
        fields = {key: value.strip("()") for key, value in re.findall(r"(\w+)=(\([^)]*\)|\S+)", grid)}
        if (int(fields.get("YDim", 0)), int(fields.get("XDim", 0))) != shape:
            continue
        if fields.get("Projection") != "GCTP_SNSOID":
            raise RasterError(
                f"its projection is {fields.get('Projection')}; expected GCTP_SNSOID, the sinusoidal one; "
                "reproject the file to a GeoTIFF"
            )
        left, top = map(float, fields["UpperLeftPointMtrs"].split(","))
        right, bottom = map(float, fields["LowerRightMtrs"].split(","))
        radius = float(fields["ProjParams"].split(",")[0])
        affine = Affine((right - left) / shape[1], 0, left, 0, (bottom - top) / shape[0], top)
        return affine, SINUSOIDAL.format(radius=radius)
    raise RasterError(
        f"no grid of {shape[0]} × {shape[1]} cells in its metadata; expected an HDF-EOS grid; convert it to a GeoTIFF"
    )
