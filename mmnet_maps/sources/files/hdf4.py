"""HDF4 files of MODIS, read with pyhdf: the GDAL that rasterio ships cannot read them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

MAGIC = b"\x0e\x03\x13\x01"
"""The first bytes of an HDF4 file."""

SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R={radius} +units=m +no_defs"


def describe_hdf4(path: Path, variable: str | None) -> tuple[tuple[int, int], Affine, str, dict[str, Any]]:
    """Return shape, geotransform, CRS and attributes of a grid.

    Raises
    ------
    ImportError
        Without pyhdf.
    ValueError
        When it is not an HDF-EOS grid on the sinusoidal projection, or has no such variable.
    OSError
        When it cannot be read.
    """
    archive = _open(path)
    try:
        dataset = _select(archive, variable)
        shape = tuple(dataset.info()[2])
        if len(shape) != 2:
            raise ValueError(f"{variable} has the shape {shape}; expected rows and columns")
        text = "".join(
            value for name, value in sorted(archive.attributes().items()) if name.startswith("StructMetadata")
        )
        affine, crs = grid_of(text, shape)
        return shape, affine, crs, dataset.attributes()
    finally:
        archive.end()


def read_hdf4(path: Path, variable: str | None, rows: slice, cols: slice) -> NDArray[Any]:
    """Read a window of a grid as stored, (y, x)."""
    archive = _open(path)
    try:
        dataset = _select(archive, variable)
        size = rows.stop - rows.start, cols.stop - cols.start
        return np.asarray(dataset.get(start=(rows.start, cols.start), count=size))
    finally:
        archive.end()


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
        raise ValueError(f"no variable {variable}; expected one of {', '.join(known)}; name it as 'variable'")
    return archive.select(variable)


def grid_of(text: str, shape: tuple[int, int]) -> tuple[Affine, str]:
    """Return geotransform and CRS of the grid with a shape in the StructMetadata of HDF-EOS.

    Raises
    ------
    ValueError
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
            raise ValueError(f"its projection is {fields.get('Projection')}; expected GCTP_SNSOID")
        left, top = map(float, fields["UpperLeftPointMtrs"].split(","))
        right, bottom = map(float, fields["LowerRightMtrs"].split(","))
        radius = float(fields["ProjParams"].split(",")[0])
        affine = Affine((right - left) / shape[1], 0, left, 0, (bottom - top) / shape[0], top)
        return affine, SINUSOIDAL.format(radius=radius)
    raise ValueError(f"no grid of {shape[0]} × {shape[1]} cells in its metadata; expected an HDF-EOS grid")
