"""NetCDF, HDF5 and Zarr files, whose dimensions have names and coordinates, read with xarray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.sources.files.description import Raster, RasterSpec, lattice_of
from mmnet_maps.sources.files.locations import suffix

_X = ("x", "lon", "longitude", "projection_x_coordinate", "xdim", "easting")
_Y = ("y", "lat", "latitude", "projection_y_coordinate", "ydim", "northing")
_DEGREES = ("lon", "longitude", "lat", "latitude")

EASE_9KM = GeoBox(
    (1624, 3856),
    Affine(9008.055210146, 0, -17367530.4451615, 0, -9008.055210146, 7314540.8306386),
    "EPSG:6933",
)
"""The grid of SMAP L4, whose files do not describe it in CF terms."""

_EASE_GROUPS = ("Geophysical_Data", "Analysis_Data", "Forecast_Data")


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


def describe_labelled(spec: RasterSpec) -> Raster:
    """Describe a variable of a NetCDF, HDF5 or Zarr file."""
    with _open(spec) as dataset:
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
        days: tuple[date, ...] | None = None
        seconds: tuple[int, ...] = ()
        if "time" in dims:
            times = array.coords[array.dims[dims.index("time")]].values
            days = tuple(times.astype("datetime64[D]").tolist())
            seconds = tuple(((times - times.astype("datetime64[D]")) // np.timedelta64(1, "s")).tolist())
        shape, affine = (y.size, x.size), Affine(width, 0, left, 0, height, top)
        lattice = lattice_of(shape, affine, _crs(dataset, array, x) or spec.crs)
        return replace(_raster(spec, array, lattice, days=days, dims=dims, south_up=south_up), seconds=seconds)


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
    stated, fill = _fill(array, spec)
    marks = [value for value in (stated, attributes.get("missing_value")) if value is not None]
    nodata = [_unsigned(np.ravel(value), array).astype(float) for value in marks]
    return Raster(
        spec=spec,
        lattice=lattice,
        days=days,
        scale=float(np.ravel(attributes.get("scale_factor", 1.0))[0]),
        offset=float(np.ravel(attributes.get("add_offset", 0.0))[0]),
        nodata=tuple(value for values in nodata for value in values.tolist()),
        dims=dims,
        south_up=south_up,
        fill=fill,
        units=str(attributes.get("units", "")),
        cell_methods=str(attributes.get("cell_methods", "")),
    )


def _fill(array: Any, spec: RasterSpec) -> tuple[Any, float | None]:
    """Return the stated fill value, which means missing, else None; and that of Zarr, where 0 is only its default.

    xarray takes the fill value of a Zarr v2 array for ``_FillValue``, and ignores that of v3.
    """
    stated = array.attrs.get("_FillValue")
    version3 = "serializer" in array.encoding
    if suffix(spec.path) != ".zarr" or (version3 and stated is not None):
        return stated, None
    fill = array.encoding.get("fill_value") if version3 else stated
    packed = {"scale_factor", "add_offset"} & set(array.attrs)
    return (None, 0.0) if fill == 0 and (version3 or not packed) else (fill, None)


def _unsigned(values: NDArray[Any], array: Any) -> NDArray[Any]:
    """Return unsigned numbers that netCDF 3 stores as signed as unsigned; others unchanged."""
    if str(array.attrs.get("_Unsigned", "")).lower() == "true" and values.dtype.kind == "i":
        return values.astype(array.dtype).view(f"u{array.dtype.itemsize}")
    return values


def _on_ease_grid(array: Any, spec: RasterSpec) -> bool:
    group = (spec.variable or "").strip("/").partition("/")[0]
    return bool(group in _EASE_GROUPS and array.shape[-2:] == EASE_9KM.shape and set(array.shape[:-2]) <= {1})


def read_labelled(raster: Raster, rows: slice, cols: slice, day: date | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read a window of a variable as stored, (step, y, x); none of it is marked as missing."""
    with _open(raster.spec) as dataset:
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
