"""NetCDF, HDF5 and Zarr files, whose dimensions have names and coordinates, read with xarray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.sources.files.attributes import numbers, packing, text_of, unsigned
from mmnet_maps.sources.files.axes import Axis, axis_of, cells, factor, single
from mmnet_maps.sources.files.description import Raster, RasterError, RasterSpec, chosen_crs, lattice_of, notice
from mmnet_maps.sources.files.locations import some, suffix
from mmnet_maps.sources.files.times import is_time, middle, moments

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


_WHOLE = 500_000
"""Values of a window of all steps that are read, and remembered, at once."""


@contextmanager
def _open(spec: RasterSpec, *, above: bool = False) -> Iterator[list[Any]]:
    """Open the group of a variable and, with `above`, those that it lies in; remote files are read in parts.

    Yields
    ------
    list of xarray.Dataset
        From the variable's own group to the root.
    """
    import xarray as xr

    group = _group(spec)
    options: dict[str, Any] = {
        "mask_and_scale": False,
        "decode_times": False,
        "decode_timedelta": False,
        "decode_coords": False,
        "cache": False,
    }
    with ExitStack() as stack:
        if suffix(spec.path) == ".zarr":
            source, options["engine"] = spec.path, "zarr"
            options["consolidated"] = False
        elif isinstance(spec.path, str):
            import fsspec
            import h5netcdf  # noqa: F401

            source, options["engine"] = stack.enter_context(fsspec.open(spec.path, "rb")), "h5netcdf"
            options["phony_dims"] = "access"
        else:
            source, options["engine"] = spec.path, "netcdf4"
        groups = [group, *("/".join(group.split("/")[:-k]) for k in range(1, group.count("/") + 2))] if group else [""]
        found: list[Any] = []
        try:
            for name in groups if above else groups[:1]:
                try:
                    found.append(stack.enter_context(xr.open_dataset(source, group=name or None, **options)))
                except FileNotFoundError:  # a folder above a group of Zarr need not be a group
                    if not found:
                        raise
        except AttributeError as error:
            # netCDF4 finds only dimensions of the groups that a variable lies in (netCDF4 1.7, Dataset.__init__).
            if "dimensions" not in str(error):
                raise
            raise RasterError(
                "its variables have dimensions of another group, which the NetCDF library does not find; copy the "
                "variable and its coordinates to a file of their own"
            ) from error
        yield found


def _group(spec: RasterSpec) -> str:
    return (spec.variable or "").rpartition("/")[0].strip("/")


def _pick(dataset: Any, spec: RasterSpec) -> Any:
    if spec.variable:
        name = spec.variable.rpartition("/")[2]
        if name not in dataset.variables:
            where = f" in the group {_group(spec)}" if _group(spec) else ""
            raise RasterError(
                f"no variable {name}{where}; expected {some(map(str, dataset.data_vars))}; correct 'variable' in the "
                "sources YAML"
            )
        return dataset[name]
    fields = _fields(dataset)
    if len(fields) != 1:
        found = f"several variables: {some(fields).removeprefix('one of ')}" if fields else "no variable with y and x"
        raise RasterError(f"{found}; expected one; name it as 'variable' in the sources YAML")
    return dataset[fields[0]]


def _fields(dataset: Any) -> list[Any]:
    """Return the names of the variables that may be rasters: coordinates and their bounds are none."""
    others = {
        name
        for array in dataset.variables.values()
        for name in [text_of(array.attrs, "bounds"), *text_of(array.attrs, "coordinates").split()]
    }
    return [name for name, array in dataset.data_vars.items() if array.ndim >= 2 and name not in others]


def describe_labelled(spec: RasterSpec) -> Raster:
    """Describe a variable of a NetCDF, HDF5 or Zarr file; RasterError where it is no regular grid of numbers."""
    with _open(spec, above=bool(_group(spec))) as levels:
        array = _pick(levels[0], spec)
        if array.dtype.kind not in "iufb":
            kind = "complex or compound numbers" if array.dtype.kind in "cV" else f"{array.dtype}, not numbers"
            raise RasterError(f"{array.name} holds {kind}; expected real numbers; write those needed to a variable")
        stated, fill = _fill(array, spec)
        attributes = {**array.attrs, "_FillValue": "" if stated is None else stated}
        described: dict[str, Any] = {
            "spec": spec,
            "units": text_of(attributes, "units"),
            "cell_methods": text_of(attributes, "cell_methods"),
            "fill": None if spec.flags else fill,
            **packing(spec, attributes, unsigned(np.empty(0, array.dtype), attributes, array.dtype).dtype),
        }
        if _on_ease_grid(array, spec):
            lattice, _ = lattice_of(spec, EASE_9KM.shape.yx, EASE_9KM.affine, "EPSG:6933")
            return Raster(lattice=lattice, days=None, dims=("one",) * (array.ndim - 2) + ("y", "x"), **described)
        coordinates = _coordinates(levels, array)
        dims = _kinds(spec, levels, array, coordinates)
        x, y = (coordinates[array.dims[dims.index(kind)]] for kind in ("x", "y"))
        described.update(_located(spec, levels, array, x, y))
        times = coordinates[array.dims[dims.index("time")]] if "time" in dims else _scalar_time(levels[0], array)
        return Raster(dims=dims, **described, **_days(spec, times, single="time" not in dims))


@dataclass(frozen=True)
class _Coordinate:
    """A coordinate variable as stored, and the group that it lies in."""

    name: str
    variable: Any
    level: Any

    @property
    def kind(self) -> str | None:
        """``time``, ``y``, ``x``, or None."""
        attributes = self.variable.attrs
        if is_time(self.name, attributes, self.variable.size):
            return "time"
        names = {self.name.lower(), text_of(attributes, "standard_name").lower()}
        for axis, known in (("x", _X), ("y", _Y)):
            if names & set(known) or text_of(attributes, "axis") == axis.upper():
                return axis
        return None


def _coordinates(levels: Sequence[Any], array: Any) -> dict[Any, _Coordinate]:
    """Return the coordinates of an array's dimensions, from its own group or the nearest above."""
    found: dict[Any, _Coordinate] = {}
    for dim in array.dims:
        for level in levels:
            along = [
                _Coordinate(str(name), variable, level)
                for name, variable in level.variables.items()
                if variable.ndim == 1 and dim in (name, *variable.dims) and variable.size == array.sizes[dim]
            ]
            named = [coordinate for coordinate in along if coordinate.name == dim]
            placed = [coordinate for coordinate in along if coordinate.kind]
            chosen = [coordinate for coordinate in named if coordinate.kind] or (placed if len(placed) == 1 else named)
            if chosen:
                found[dim] = chosen[0]
                break
    return found


def _kinds(spec: RasterSpec, levels: Sequence[Any], array: Any, coordinates: dict[Any, _Coordinate]) -> tuple[str, ...]:
    """Return the kind of each dimension; dimensions without coordinates get those of their length.

    Files of HDF5 need not link an array to its coordinates: SMAP L4 cut by NSIDC or Harmony has the array in a group
    and x and y at the root.
    """
    kinds = {dim: coordinates[dim].kind if dim in coordinates else None for dim in array.dims}
    open_dims = [dim for dim in array.dims if kinds[dim] is None and array.sizes[dim] > 1]
    wanted = [kind for kind in ("y", "x") if kind not in kinds.values()]
    chosen = (
        _by_length(levels, wanted, [array.sizes[dim] for dim in open_dims]) if len(wanted) == len(open_dims) else []
    )
    if len(chosen) == 2 and chosen[0].variable.size == chosen[1].variable.size:
        notice(spec, f"{array.name} does not state which dimension is y; rows are taken to be y, as in any image")
    elif len(chosen) == 2 and chosen[0].variable.size != array.sizes[open_dims[0]]:
        chosen.reverse()
    for dim, coordinate in zip(open_dims, chosen, strict=False):
        coordinates[dim], kinds[dim] = coordinate, coordinate.kind
    found = tuple(kinds[dim] or ("one" if array.sizes[dim] == 1 else "") for dim in array.dims)
    for dim, kind in zip(array.dims, found, strict=True):
        if not kind or (kind != "one" and found.count(kind) > 1):
            raise RasterError(
                f"{array.name} has the dimension {dim} of length {array.sizes[dim]}, which is neither y, x nor time; "
                "expected a coordinate variable for it; write the layer needed to a file of its own"
            )
    if not {"y", "x"} <= set(found):
        raise RasterError(
            f"{array.name} has the dimensions {', '.join(map(str, array.dims))}; expected y and x with coordinates; "
            "name another 'variable' in the sources YAML"
        )
    return found


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


def _by_length(levels: Sequence[Any], kinds: Sequence[str], lengths: Sequence[int]) -> list[_Coordinate]:
    """Return coordinates of some kinds and lengths from the nearest group that holds any; none unless all are found."""
    for level in levels:
        near = [
            _Coordinate(str(name), variable, level) for name, variable in level.variables.items() if variable.ndim == 1
        ]
        near = [coordinate for coordinate in near if coordinate.kind in kinds and coordinate.variable.size in lengths]
        if not near:
            continue
        found = [[coordinate for coordinate in near if coordinate.kind == kind] for kind in kinds]
        for several in found:
            if len(several) > 1:
                names = " and ".join(coordinate.name for coordinate in several)
                raise RasterError(
                    f"{names} have the same length, and nothing states which is the coordinate; expected one; "
                    "write the variable with its coordinates to a file of its own"
                )
        chosen = [several[0] for several in found if several]
        complete = len(chosen) == len(kinds) and sorted(one.variable.size for one in chosen) == sorted(lengths)
        return chosen if complete else []
    return []


def _located(spec: RasterSpec, levels: Sequence[Any], array: Any, x: _Coordinate, y: _Coordinate) -> dict[str, Any]:
    """Return ``lattice``, ``first``, ``south_up`` and ``from_east`` of a `Raster`."""
    mapping = _grid_mapping(levels, array, x)
    crs = _crs(spec, mapping, x)
    axes = [_axis(coordinate) for coordinate in (x, y)]
    found = [cells(spec, axis) for axis in axes]
    stated = numbers(mapping.get("GeoTransform", "")) if None in found else None
    if stated is not None and stated.size == 6:
        for k, (edge, step) in enumerate(((stated[0], stated[1]), (stated[3], stated[5]))):
            if found[k] is None:
                notice(spec, f"{axes[k].name} is one cell; its size {abs(step):.6g} is that of GeoTransform")
                found[k] = float(edge), float(step)
    for k in (0, 1):
        other = found[1 - k]
        if found[k] is None and other is not None:
            found[k] = single(spec, axes[k], abs(other[1]))
    if found[0] is None or found[1] is None:
        raise RasterError(
            f"{axes[0].name} and {axes[1].name} are one cell without bounds, so its size is unknown; expected bounds "
            "or a GeoTransform; take a larger subset"
        )
    chosen = chosen_crs(spec, crs)
    factors = [factor(spec, axis, chosen) for axis in axes]
    left, width = (part * factors[0] for part in found[0])
    top, height = (part * factors[1] for part in found[1])
    shape = y.variable.size, x.variable.size
    south_up, from_east = height > 0, width < 0
    if south_up:
        top, height = top + height * shape[0], -height
    if from_east:
        left, width = left + width * shape[1], -width
    lattice, first = lattice_of(spec, shape, Affine(width, 0, left, 0, height, top), crs)
    return {"lattice": lattice, "first": first, "south_up": south_up, "from_east": from_east}


def _axis(coordinate: _Coordinate) -> Axis:
    bounds = coordinate.level.variables.get(text_of(coordinate.variable.attrs, "bounds"))
    return axis_of(
        coordinate.name,
        coordinate.variable.values,
        coordinate.variable.attrs,
        None if bounds is None else bounds.values,
    )


def _grid_mapping(levels: Sequence[Any], array: Any, x: _Coordinate) -> dict[str, Any]:
    """Return the attributes of an array's grid mapping; without one, of the only one near, unless x is in degrees."""
    name = text_of(array.attrs, "grid_mapping").partition(" ")[0].strip(":")
    for level in levels:
        if name and name in level.variables:
            return dict(level.variables[name].attrs)
    for level in () if _in_degrees(x) else levels:
        found = [variable.attrs for variable in level.variables.values() if "grid_mapping_name" in variable.attrs]
        if found:
            return dict(found[0]) if len(found) == 1 else {}
    return {}


def _crs(spec: RasterSpec, mapping: dict[str, Any], x: _Coordinate) -> str | None:
    """Return the CRS that a file states, as text; None where it states none, or where the YAML states another."""
    import pyproj

    text = text_of(mapping, "crs_wkt") or text_of(mapping, "spatial_ref")
    if text:
        return text
    if "grid_mapping_name" in mapping:
        try:
            return _from_cf(json.dumps(mapping, default=lambda value: np.asarray(value).tolist()))
        except (pyproj.exceptions.CRSError, KeyError, TypeError) as error:
            if spec.crs:
                return None
            raise RasterError(
                f"its grid mapping {text_of(mapping, 'grid_mapping_name')[:40]} is incomplete; expected the attributes "
                "of the CF conventions; give its CRS as 'crs' in the sources YAML"
            ) from error
    return "EPSG:4326" if _in_degrees(x) else None


def _in_degrees(x: _Coordinate) -> bool:
    attributes = x.variable.attrs
    named = {x.name.lower(), text_of(attributes, "standard_name")} & set(_DEGREES)
    return bool(named) or text_of(attributes, "units") in ("degrees_east", "degree_east")


@lru_cache(maxsize=256)
def _from_cf(mapping: str) -> str:
    """Return the WKT of a grid mapping, given as JSON: an ellipsoid of its own takes PROJ a third of a second."""
    import pyproj

    return str(pyproj.CRS.from_cf(json.loads(mapping)).to_wkt())


def _scalar_time(dataset: Any, array: Any) -> _Coordinate | None:
    """Return the time of an array without an axis of time: a single number that its coordinates name, or ``time``."""
    for name in [*text_of(array.attrs, "coordinates").split(), "time"]:
        variable = dataset.variables.get(name)
        if variable is not None and variable.size == 1 and is_time(name, variable.attrs, 1):
            standard = text_of(variable.attrs, "standard_name")
            if standard in ("", "time"):
                return _Coordinate(name, variable, dataset)
    return None


def _days(spec: RasterSpec, times: _Coordinate | None, *, single: bool) -> dict[str, Any]:
    """Return ``days``, ``seconds`` and ``steps`` of a `Raster`; a single unreadable time states nothing."""
    if times is None:
        return {"days": None}
    try:
        found = _moments(times)
    except RasterError as error:
        if not single:
            raise
        notice(spec, f"{error}; its day is unknown")
        return {"days": None}
    kept: list[tuple[int, datetime]] = [(step, moment) for step, moment in enumerate(found) if moment is not None]
    if len(kept) < len(found):
        notice(
            spec,
            f"{len(found) - len(kept)} of {len(found)} steps of {times.name} are missing or no days of the Gregorian "
            f"calendar ({text_of(times.variable.attrs, 'calendar') or 'standard'}); they are left out",
        )
    if not kept and single:
        return {"days": None}
    if not kept:
        raise RasterError(f"no step of {times.name} is a day; expected the days of its fields; mend its coordinates")
    return {
        "days": tuple(moment.date() for _, moment in kept),
        "seconds": tuple(moment.hour * 3600 + moment.minute * 60 + moment.second for _, moment in kept),
        "steps": tuple(step for step, _ in kept),
    }


def _moments(times: _Coordinate) -> list[datetime | None]:
    """Return the moment of each step of a time axis: the middle of its bounds, where it has any within a day."""
    attributes = times.variable.attrs
    found = moments(times.name, times.variable.values, attributes)
    bounds = times.level.variables.get(text_of(attributes, "bounds"))
    if bounds is None or bounds.shape != (len(found), 2):
        return found
    first, last = (moments(times.name, bounds.values[:, side], attributes) for side in (0, 1))
    return [middle(*step) for step in zip(first, found, last, strict=True)]


def _on_ease_grid(array: Any, spec: RasterSpec) -> bool:
    group = (spec.variable or "").strip("/").partition("/")[0]
    return bool(group in _EASE_GROUPS and array.shape[-2:] == EASE_9KM.shape and set(array.shape[:-2]) <= {1})


def read_labelled(raster: Raster, rows: slice, cols: slice, day: date | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read a window of a variable as stored, (step, y, x); none of it is marked as missing."""
    steps = None
    if raster.days is not None and "time" in raster.dims:
        steps = [raster.steps[place] for place in (raster.steps_of.get(day, ()) if day else ())]
    path, size = raster.spec.path, (rows.stop - rows.start) * (cols.stop - cols.start) * len(raster.steps)
    if steps is not None and isinstance(path, Path) and path.is_file() and size <= _WHOLE:
        window = rows.start, rows.stop, cols.start, cols.stop
        stored = _all_steps(raster, window, path.stat().st_mtime_ns)[steps]
    else:
        stored = _stored(raster, rows, cols, steps)
    return stored, np.zeros(stored.shape, bool)


@lru_cache(maxsize=64)
def _all_steps(raster: Raster, window: tuple[int, int, int, int], changed: int) -> NDArray[Any]:
    """Read all steps of a small window at once: opening a file takes longer than reading a day of it."""
    top, bottom, left, right = window
    return _stored(raster, slice(top, bottom), slice(left, right), None)


def _stored(raster: Raster, rows: slice, cols: slice, steps: list[int] | None) -> NDArray[Any]:
    """Read a window of some steps, or of all."""
    with _open(raster.spec) as levels:
        array = _pick(levels[0], raster.spec)
        picks: dict[str, Any] = {"y": rows, "x": cols, "one": 0, "time": slice(None) if steps is None else steps}
        array = array.isel({name: picks[dim] for name, dim in zip(array.dims, raster.dims, strict=True)})
        order = [name for dim in ("time", "y", "x") for name, kind in _named(array, raster).items() if kind == dim]
        stored = unsigned(array.transpose(*order).values, array.attrs, array.dtype)
    return stored if "time" in raster.dims else stored[None]


def _named(array: Any, raster: Raster) -> dict[Any, str]:
    kept = [dim for dim in raster.dims if dim != "one"]
    return dict(zip(array.dims, kept, strict=True))
