"""Raster files of any kind: describe a file, and read a window of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.sources.files.hdf4 import MAGIC, describe_hdf4, read_hdf4
from mmnet_maps.sources.files.locations import (
    GDAL_OPTIONS,
    GDAL_REMOTE_OPTIONS,
    Place,
    gdal_path,
    redacted,
    remote_errors,
    shown,
    suffix,
)

_LABELLED = (".nc", ".nc4", ".h5", ".hdf5", ".he5", ".hdf", ".zarr")
_X = ("x", "lon", "longitude", "projection_x_coordinate", "xdim", "easting")
_Y = ("y", "lat", "latitude", "projection_y_coordinate", "ydim", "northing")
_NODATA = ("_FillValue", "missing_value")
_DEGREES = ("lon", "longitude", "lat", "latitude")
_LIBRARY = Lock()
"""Held while the NetCDF and HDF libraries run: they are not safe for threads."""
_BROKEN: tuple[type[Exception], ...] = (KeyError, RuntimeError, TypeError)

EASE_9KM = GeoBox(
    (1624, 3856),
    Affine(9008.055210146, 0, -17367530.4451615, 0, -9008.055210146, 7314540.8306386),
    "EPSG:6933",
)
"""The grid of SMAP L4, whose files do not describe it in CF terms."""

_EASE_GROUPS = ("Geophysical_Data", "Analysis_Data", "Forecast_Data")


@dataclass(frozen=True, kw_only=True)
class RasterSpec:
    """A raster in a file.

    Attributes
    ----------
    path
        The file, the folder of a Zarr store, or the URL of either.
    key
        The variable that it is read for, named in errors.
    variable, band
        Name in a NetCDF, HDF5 or Zarr file; band of any other.
    crs
        The CRS, where the file states none.
    """

    path: Place
    key: str
    variable: str | None = None
    band: int = 1
    crs: str | None = None


@dataclass(frozen=True, kw_only=True)
class Raster:
    """The description of a raster: its grid, days and packing.

    Attributes
    ----------
    lattice
        Its grid, north up; longitudes from −180.
    days
        The day of each step of its time axis; None without a time axis.
    scale, offset
        ``physical = stored * scale + offset``.
    dims
        Dimensions of a labelled array, in order: ``time``, ``y``, ``x``, or ``one`` for a dimension of length 1.
    south_up
        Rows are stored from the south.
    """

    spec: RasterSpec
    lattice: GeoBox
    days: tuple[date, ...] | None
    scale: float
    offset: float
    nodata: tuple[float, ...]
    dims: tuple[str, ...]
    south_up: bool


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
        if _is_hdf4(spec):
            return _describe_hdf4(spec)
        return _describe_labelled(spec) if _labelled(spec) else _describe_image(spec)


@contextmanager
def _library_errors(spec: RasterSpec) -> Iterator[None]:
    """Raise a library's error as one line about the file, without the cause, which may hold credentials of a URL."""
    try:
        yield
    except ImportError as error:
        extra = "hdf4" if suffix(spec.path) == ".hdf" else "remote"
        raise InputError(
            f"{spec.key}: {shown(spec.path)} needs a package that is not installed ({redacted(error)}); "
            f"run pip install 'mmnet-maps[{extra}]'"
        ) from None
    except _BROKEN + remote_errors() as error:
        raise InputError(
            f"{spec.key}: {shown(spec.path)} cannot be read ({redacted(error)}); "
            "fetch the file again or correct the sources YAML"
        ) from (None if isinstance(spec.path, str) else error)


def read_window(raster: Raster, rows: slice, cols: slice, day: date | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read a window of a raster, as stored.

    Parameters
    ----------
    raster
        From `describe`.
    rows, cols
        Window of its lattice.
    day
        The day to read, where the file has a time axis.

    Returns
    -------
    stored, missing : ndarray, (step, y, x)
        Stored numbers, north up, one step for each field of that day, and which of them the file marks as missing.

    Raises
    ------
    InputError
        When the file is broken.
    """
    if raster.south_up:
        height = raster.lattice.shape.y
        rows = slice(height - rows.stop, height - rows.start)
    with _library_errors(raster.spec):
        if _is_hdf4(raster.spec):
            stored, missing = _read_hdf4(raster, rows, cols)
        else:
            read = _read_labelled if _labelled(raster.spec) else _read_image
            stored, missing = read(raster, rows, cols, day)
    for value in raster.nodata:
        missing |= stored == value
    if np.issubdtype(stored.dtype, np.floating):
        missing |= ~np.isfinite(stored)
    return (stored[:, ::-1], missing[:, ::-1]) if raster.south_up else (stored, missing)


def _labelled(spec: RasterSpec) -> bool:
    return suffix(spec.path) in _LABELLED


@lru_cache(maxsize=16384)
def _is_hdf4(spec: RasterSpec) -> bool:
    """Return True for HDF4; a file named .hdf is HDF4 or HDF5."""
    if isinstance(spec.path, str) or suffix(spec.path) != ".hdf":
        return False
    with spec.path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _describe_hdf4(spec: RasterSpec) -> Raster:
    assert isinstance(spec.path, Path)
    with _LIBRARY:
        shape, affine, crs, attributes = describe_hdf4(spec.path, spec.variable)
    scale = float(attributes.get("scale_factor", 1.0))
    return Raster(
        spec=spec,
        lattice=_lattice(shape, affine, crs),
        days=None,
        scale=scale,
        # HDF4 has physical = scale * (stored - offset).
        offset=-scale * float(attributes.get("add_offset", 0.0)),
        nodata=tuple(float(attributes[key]) for key in ("_FillValue",) if key in attributes),
        dims=("y", "x"),
        south_up=False,
    )


def _read_hdf4(raster: Raster, rows: slice, cols: slice) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    assert isinstance(raster.spec.path, Path)
    with _LIBRARY:
        stored = read_hdf4(raster.spec.path, raster.spec.variable, rows, cols)[None]
    return stored, np.zeros(stored.shape, bool)


@contextmanager
def _image(spec: RasterSpec) -> Iterator[Any]:
    import rasterio

    options = GDAL_REMOTE_OPTIONS if isinstance(spec.path, str) else GDAL_OPTIONS
    with rasterio.Env(**options), rasterio.open(gdal_path(spec.path)) as image:
        yield image


def _describe_image(spec: RasterSpec) -> Raster:
    with _image(spec) as image:
        if spec.band > image.count:
            raise ValueError(f"no band {spec.band}; expected at most {image.count}")
        crs = image.crs.to_string() if image.crs else spec.crs
        affine, south_up = image.transform, image.transform.e > 0
        if (affine.b, affine.d) != (0, 0) or affine.a <= 0 or affine == Affine.identity():
            raise ValueError("its grid is rotated or has no georeference; expected a north-up grid; warp it")
        if south_up:
            affine = Affine(affine.a, 0, affine.c, 0, -affine.e, affine.f + image.height * affine.e)
        return Raster(
            spec=spec,
            lattice=_lattice((image.height, image.width), affine, crs),
            days=None,
            scale=image.scales[spec.band - 1],
            offset=image.offsets[spec.band - 1],
            nodata=(),
            dims=("y", "x"),
            south_up=south_up,
        )


def _read_image(raster: Raster, rows: slice, cols: slice, day: date | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    from rasterio.windows import Window

    with _image(raster.spec) as image:
        found = image.read(raster.spec.band, window=Window.from_slices(rows, cols), masked=True)
    return found.data[None], np.ma.getmaskarray(found)[None]


@contextmanager
def _open(spec: RasterSpec) -> Iterator[Any]:
    """Open a NetCDF, HDF5 or Zarr file with xarray; remote NetCDF is read in parts through fsspec."""
    import xarray as xr

    group = (spec.variable or "").rpartition("/")[0] or None
    options: dict[str, Any] = {"group": group, "mask_and_scale": False, "decode_timedelta": False, "cache": False}
    with ExitStack() as stack:
        if suffix(spec.path) == ".zarr":
            source, engine = spec.path, "zarr"
            options["consolidated"] = False
        elif isinstance(spec.path, str):
            import fsspec
            import h5netcdf  # noqa: F401

            source, engine = stack.enter_context(fsspec.open(spec.path, "rb")), "h5netcdf"
        else:
            source, engine = spec.path, "netcdf4"
        yield stack.enter_context(xr.open_dataset(source, engine=engine, **options))


def _pick(dataset: Any, spec: RasterSpec) -> Any:
    if spec.variable:
        name = spec.variable.rpartition("/")[2]
        if name not in dataset:
            raise ValueError(f"no variable {spec.variable}; expected one of {', '.join(map(str, dataset.data_vars))}")
        return dataset[name]
    fields = [name for name, array in dataset.data_vars.items() if array.ndim >= 2]
    if len(fields) != 1:
        raise ValueError(f"several variables: {', '.join(map(str, fields))}; expected one; name it as 'variable'")
    return dataset[fields[0]]


def _describe_labelled(spec: RasterSpec) -> Raster:
    with _LIBRARY, _open(spec) as dataset:
        array = _pick(dataset, spec)
        if _on_ease_grid(array, spec):
            return _raster(
                spec, array, EASE_9KM, days=None, dims=("one",) * (array.ndim - 2) + ("y", "x"), south_up=False
            )
        dims = tuple(_kind(array, dim) for dim in array.dims)
        if not {"y", "x"} <= set(dims) or len(set(dims) - {"one"}) != len([dim for dim in dims if dim != "one"]):
            raise ValueError(f"unknown dimensions {', '.join(map(str, array.dims))}; expected y, x and time")
        x, y = (array.coords[array.dims[dims.index(axis)]] for axis in ("x", "y"))
        left, width = _axis(x)
        top, height = _axis(y)
        south_up = height > 0
        if south_up:
            top, height = top + height * y.size, -height
        days = None
        if "time" in dims:
            times = array.coords[array.dims[dims.index("time")]].values
            days = tuple(times.astype("datetime64[D]").tolist())
        shape, affine = (y.size, x.size), Affine(width, 0, left, 0, height, top)
        lattice = _lattice(shape, affine, _crs(dataset, array, x) or spec.crs)
        return _raster(spec, array, lattice, days=days, dims=dims, south_up=south_up)


def _raster(
    spec: RasterSpec,
    array: Any,
    lattice: GeoBox,
    *,
    days: tuple[date, ...] | None,
    dims: tuple[str, ...],
    south_up: bool,
) -> Raster:
    attributes = array.attrs
    nodata = [_unsigned(np.ravel(attributes[key]), array).astype(float) for key in _NODATA if key in attributes]
    return Raster(
        spec=spec,
        lattice=lattice,
        days=days,
        scale=float(np.ravel(attributes.get("scale_factor", 1.0))[0]),
        offset=float(np.ravel(attributes.get("add_offset", 0.0))[0]),
        nodata=tuple(value for values in nodata for value in values.tolist()),
        dims=dims,
        south_up=south_up,
    )


def _unsigned(values: NDArray[Any], array: Any) -> NDArray[Any]:
    """Return unsigned numbers that netCDF 3 stores as signed as unsigned; others unchanged."""
    if str(array.attrs.get("_Unsigned", "")).lower() == "true" and values.dtype.kind == "i":
        return values.astype(array.dtype).view(f"u{array.dtype.itemsize}")
    return values


def _on_ease_grid(array: Any, spec: RasterSpec) -> bool:
    group = (spec.variable or "").strip("/").partition("/")[0]
    return bool(group in _EASE_GROUPS and array.shape[-2:] == EASE_9KM.shape and set(array.shape[:-2]) <= {1})


def _read_labelled(
    raster: Raster, rows: slice, cols: slice, day: date | None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    with _LIBRARY, _open(raster.spec) as dataset:
        array = _pick(dataset, raster.spec)
        picks: dict[str, Any] = {"y": rows, "x": cols, "one": 0}
        if raster.days is not None:
            picks["time"] = [step for step, there in enumerate(raster.days) if there == day]
        array = array.isel({name: picks[dim] for name, dim in zip(array.dims, raster.dims, strict=True)})
        order = [name for dim in ("time", "y", "x") for name, kind in _named(array, raster).items() if kind == dim]
        stored = _unsigned(array.transpose(*order).values, array)
    if raster.days is None:
        stored = stored[None]
    return stored, np.zeros(stored.shape, bool)


def _named(array: Any, raster: Raster) -> dict[Any, str]:
    kept = [dim for dim in raster.dims if dim != "one"]
    return dict(zip(array.dims, kept, strict=True))


def _kind(array: Any, dim: Any) -> str:
    if dim in array.coords:
        coord = array.coords[dim]
        if np.issubdtype(coord.dtype, np.datetime64):
            return "time"
        names = {str(dim).lower(), str(coord.attrs.get("standard_name", "")).lower()}
        for axis, known in (("x", _X), ("y", _Y)):
            if names & set(known) or coord.attrs.get("axis") == axis.upper():
                return axis
    if array.sizes[dim] == 1:
        return "one"
    raise ValueError(f"unknown dimension {dim} of length {array.sizes[dim]}; expected y, x and time")


def _axis(coord: Any) -> tuple[float, float]:
    """Return the outer edge and the step of regularly spaced cell centres."""
    values = coord.values.astype(np.float64)
    if values.size < 2:
        raise ValueError(f"{coord.name} holds {values.size} cell; expected at least 2")
    step = (values[-1] - values[0]) / (values.size - 1)
    if not abs(np.diff(values) - step).max() < 0.01 * abs(step):
        raise ValueError(f"{coord.name} is not evenly spaced; expected a regular grid")
    return float(values[0] - step / 2), float(step)


def _crs(dataset: Any, array: Any, x: Any) -> str | None:
    import pyproj

    mapping = array.attrs.get("grid_mapping") or array.encoding.get("grid_mapping")
    if mapping in dataset.variables:
        attributes = dataset[mapping].attrs
        text = attributes.get("crs_wkt") or attributes.get("spatial_ref")
        return str(text or pyproj.CRS.from_cf(attributes).to_wkt())
    geographic = {str(x.name).lower(), x.attrs.get("standard_name")} & set(_DEGREES)
    return "EPSG:4326" if geographic or x.attrs.get("units") in ("degrees_east", "degree_east") else None


def _lattice(shape: tuple[int, int], affine: Affine, crs: str | None) -> GeoBox:
    if crs is None:
        raise ValueError("it states no CRS; expected one; give it as 'crs'")
    lattice = GeoBox(shape, affine, crs)
    if lattice.crs is not None and lattice.crs.geographic and affine.c + shape[1] * affine.a > 180 + affine.a:
        return GeoBox(shape, Affine(affine.a, 0, affine.c - 360, 0, affine.e, affine.f), crs)
    return lattice
