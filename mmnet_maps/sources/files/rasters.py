"""Raster files of any kind: describe a file, and read a window of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.sources.files.description import Raster, RasterError, RasterSpec
from mmnet_maps.sources.files.hdf4 import MAGIC, describe_hdf4, read_hdf4
from mmnet_maps.sources.files.images import describe_image, read_image
from mmnet_maps.sources.files.labelled import describe_labelled, read_labelled
from mmnet_maps.sources.files.locations import redacted, remote_errors, shown, suffix

_LABELLED = (".nc", ".nc4", ".h5", ".hdf5", ".he5", ".hdf", ".zarr")
_LIBRARY = Lock()
"""Held while the NetCDF and HDF libraries run: they are not safe for threads."""
_BROKEN: tuple[type[Exception], ...] = (KeyError, RuntimeError, TypeError)


def describe(spec: RasterSpec) -> Raster:
    """Open a file and describe it; the description is cached until the file changes.

    Raises
    ------
    InputError
        When the file is absent, broken, or not a regular grid with a CRS.
    """
    return _describe(spec, "" if isinstance(spec.path, str) else _changed(spec, spec.path))


def _changed(spec: RasterSpec, path: Path) -> str:
    try:
        return str(path.stat().st_mtime_ns)
    except OSError as error:
        raise InputError(f"{spec.key}: {path} cannot be read: {error.strerror}; correct the sources YAML") from error


@lru_cache(maxsize=16384)
def _describe(spec: RasterSpec, changed: str) -> Raster:
    with _library_errors(spec):
        if not _labelled(spec):
            return describe_image(spec)
        with _LIBRARY:
            return describe_hdf4(spec) if _is_hdf4(spec) else describe_labelled(spec)


@contextmanager
def _library_errors(spec: RasterSpec) -> Iterator[None]:
    """Raise a library's error as one line about the file, without the cause, which may hold credentials of a URL."""
    try:
        yield
    except ImportError as error:
        extra = "hdf4" if suffix(spec.path) == ".hdf" else "remote"
        raise InputError(
            f"{spec.key}: {shown(spec.path)} needs a package that is not installed ({redacted(error)}); "
            f"run pip install '.[{extra}]'"
        ) from None
    except RasterError as error:
        raise InputError(f"{spec.key}: {shown(spec.path)}: {error}") from None
    except _BROKEN + remote_errors() as error:
        raise InputError(
            f"{spec.key}: {shown(spec.path)} cannot be read ({redacted(error)}); "
            "fetch the file again or correct the sources YAML"
        ) from (None if isinstance(spec.path, str) else error)


def read_window(
    raster: Raster, rows: slice, cols: slice, day: date | None, nodata: tuple[float, ...] | None = None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read a window of a raster, as stored.

    Parameters
    ----------
    raster
        From `describe`.
    rows, cols
        Window of its lattice.
    day
        The day to read, where the file has a time axis.
    nodata
        Stored numbers that mean missing, in place of the file's own; None for those of the file.

    Returns
    -------
    stored, missing : ndarray, (step, y, x)
        Stored numbers, north up, one step for each field of that day, and which of them are missing.

    Raises
    ------
    InputError
        When the file is broken.
    """
    if raster.south_up:
        rows = _from_end(rows, raster.lattice.shape.y)
    own = nodata is None
    parts = [_read(raster, rows, part, day, own_nodata=own) for part in _stored_columns(raster, cols)]
    stored, missing = (
        parts[0] if len(parts) == 1 else (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    )
    for value in raster.nodata if nodata is None else nodata:
        missing |= stored == value
    if raster.valid:
        missing |= ~((stored >= raster.valid[0]) & (stored <= raster.valid[1]))
    if np.issubdtype(stored.dtype, np.floating):
        missing |= ~np.isfinite(stored)
    return (stored[:, ::-1], missing[:, ::-1]) if raster.south_up else (stored, missing)


def _from_end(part: slice, size: int) -> slice:
    return slice(size - part.stop, size - part.start)


def _stored_columns(raster: Raster, cols: slice) -> list[slice]:
    """Return a window's columns, counted from the west as stored: two parts where it crosses the edge of the file."""
    width, start, stop = raster.lattice.shape.x, cols.start + raster.first, cols.stop + raster.first
    if start < width < stop:
        return [slice(start, width), slice(0, stop - width)]
    return [slice(start - width, stop - width) if start >= width else slice(start, stop)]


def _read(
    raster: Raster, rows: slice, cols: slice, day: date | None, *, own_nodata: bool
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    if raster.from_east:
        cols = _from_end(cols, raster.lattice.shape.x)
    with _library_errors(raster.spec):
        if not _labelled(raster.spec):
            stored, missing = read_image(raster, rows, cols, own_nodata=own_nodata)
        else:
            with _LIBRARY:
                read = read_hdf4 if _is_hdf4(raster.spec) else read_labelled
                stored, missing = read(raster, rows, cols, day)
    return (stored[..., ::-1], missing[..., ::-1]) if raster.from_east else (stored, missing)


def _labelled(spec: RasterSpec) -> bool:
    return suffix(spec.path) in _LABELLED


@lru_cache(maxsize=16384)
def _is_hdf4(spec: RasterSpec) -> bool:
    """Return True for HDF4; a file named .hdf is HDF4 or HDF5."""
    if isinstance(spec.path, str) or suffix(spec.path) != ".hdf":
        return False
    with spec.path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC
