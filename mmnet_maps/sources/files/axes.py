"""Axes of labelled files: from coordinates, in any unit and precision, to the edge and the step of regular cells."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.grid.crs import crs_name
from mmnet_maps.sources.files.attributes import numbers, text_of, unsigned
from mmnet_maps.sources.files.description import RasterError, RasterSpec, notice

_EVEN = 0.01
"""Steps that differ by less than this share are equal."""

_ROUNDING = 0.05
"""Coordinates, whatever their type, may be rounded by this share of a cell."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The cells along an axis, as a file states them.

    Attributes
    ----------
    name, units
        Of the coordinate variable.
    centres
        Coordinates, (n,).
    resolved
        The smallest difference that the stored coordinates resolve.
    bounds
        Edges of each cell, (n, 2); None where none are stated.
    """

    name: str
    units: str
    centres: NDArray[np.float64]
    resolved: float
    bounds: NDArray[np.float64] | None


def axis_of(name: str, values: NDArray[Any], attributes: Mapping[str, Any], bounds: NDArray[Any] | None) -> Axis:
    """Return an axis from a coordinate variable as stored, packed or not, and its bounds, packed alike."""
    scale, offset = (
        float(found[0]) if (found := numbers(attributes.get(key, ""))) is not None and found.size else default
        for key, default in (("scale_factor", 1.0), ("add_offset", 0.0))
    )

    def unpacked(stored: NDArray[Any]) -> NDArray[np.float64]:
        return unsigned(stored, attributes, stored.dtype).astype(np.float64) * scale + offset

    resolved = float(np.spacing(abs(values).max())) if values.dtype.kind == "f" and values.size else 1.0
    if values.dtype.kind not in "iuf" or (values.dtype.kind == "f" and not np.isfinite(values).all()):
        raise RasterError(f"{name} holds {values.dtype} or gaps; expected the numbers of a regular grid; mend the file")
    edges = None
    if bounds is not None and bounds.shape == (values.size, 2) and bounds.dtype.kind in "iuf":
        edges = unpacked(bounds)
    return Axis(
        name=name,
        units=text_of(attributes, "units"),
        centres=unpacked(values),
        resolved=resolved * abs(scale),
        bounds=edges,
    )


def cells(spec: RasterSpec, axis: Axis) -> tuple[float, float] | None:
    """Return the outer edge of the first cell and the step, negative where coordinates fall, in the file's units.

    Bounds decide where the coordinates are not in the middle of them. None for a single cell without bounds.

    Raises
    ------
    RasterError
        When the cells are not regular.

    Examples
    --------
    >>> third = np.array([-119.5847, -119.5844, -119.5842], np.float32)
    >>> edge, step = cells(RasterSpec(path="a.nc", key="pr"), axis_of("lon", third - 1e-4, {}, None))
    Traceback (most recent call last):
    mmnet_maps.sources.files.description.RasterError: lon is not evenly spaced; expected a regular grid; warp the file
    """
    middle = None if axis.bounds is None else axis.bounds.mean(axis=1)
    if axis.centres.size == 1:
        if axis.bounds is None or middle is None:
            return None
        size = float(abs(np.diff(axis.bounds[0]))[0])
        if not size > 0:
            return None
        notice(spec, f"{axis.name} is one cell, as wide as its bounds: {size:.6g} {axis.units}".rstrip())
        return float(middle[0]) - size / 2, size
    first, step = _line(axis.name, axis.centres, axis.resolved)
    if middle is not None and axis.bounds is not None:
        sizes = abs(np.diff(axis.bounds, axis=1))
        away = float(np.mean(middle - axis.centres))
        filled = abs(sizes - abs(step)).max() <= _ROUNDING * abs(step)
        if filled and abs(away) > _ROUNDING * abs(step) and np.ptp(middle - axis.centres) <= _ROUNDING * abs(step):
            notice(spec, f"{axis.name} is not the middle of its bounds; the bounds are used")
            first += away
    return first - step / 2, step


def single(spec: RasterSpec, axis: Axis, size: float) -> tuple[float, float]:
    """Return edge and step of a single cell that is as wide as the other axis' cells, with a notice."""
    notice(spec, f"{axis.name} is one cell without bounds; it is taken to be square: {size:.6g} {axis.units}".rstrip())
    return float(axis.centres[0]) - size / 2, size


def _line(name: str, values: NDArray[np.float64], resolved: float) -> tuple[float, float]:
    """Return the first centre and the step of evenly spaced cells; RasterError where they are not.

    A step within the precision of the coordinates is rounded to the shortest number, in the units of the axis or in
    3600ths of them: float32 holds longitudes to 0.03 of a cell of one second.
    """
    count = values.size
    step = float((values[-1] - values[0]) / (count - 1))
    if step and abs(np.diff(values) - step).max() < _EVEN * abs(step):
        return float(values[0]), step
    steps = np.arange(count)
    away = float(abs(values - values[0] - step * steps).max())
    if not away <= max(_ROUNDING * abs(step), resolved) or not resolved <= abs(step) / 2:
        raise RasterError(f"{name} is not evenly spaced; expected a regular grid; warp the file")
    step = _shortest(step, max(resolved, 2 * away) / (count - 1))
    return float(np.mean(values - step * steps)), step


def _shortest(value: float, tolerance: float) -> float:
    """Return the number with the fewest digits, or 3600th of such a number, within a tolerance.

    Examples
    --------
    >>> _shortest(29.99996, 1e-4), _shortest(0.00027779, 1e-7) == 1 / 3600, _shortest(926.6254, 1e-4)
    (30.0, True, 926.6254)
    """
    for digits in range(1, 17):
        for parts in (1, 3600):
            found = float(f"{value * parts:.{digits}g}") / parts
            if abs(found - value) <= tolerance:
                return found
    return value


def factor(spec: RasterSpec, axis: Axis, crs: str) -> float:
    """Return the factor from the units of an axis to those of the CRS: CF allows kilometres on any projection.

    Raises
    ------
    RasterError
        When they are an angle in place of a length, or the other way round.
    """
    wanted, unit, size = _axis_unit(crs)
    if not axis.units or axis.units == "1":
        return 1.0
    known = _unit(axis.units)
    if known is None:
        notice(spec, f"{axis.name} has the units {axis.units[:30]!r}, which are unknown; those of its CRS are assumed")
        return 1.0
    kind, given = known
    if kind != wanted:
        advice = "give the CRS of these coordinates as 'crs' in the sources YAML"
        if kind == "angle" and given == 1:
            advice = "warp the file to a map projection, for example with gdalwarp"
        raise RasterError(f"{axis.name} is in {axis.units[:30]}, but its CRS, {crs_name(crs)}, is in {unit}; {advice}")
    found = given / size
    return 1.0 if math.isclose(found, 1, rel_tol=1e-12) else found


@lru_cache(maxsize=256)
def _axis_unit(crs: str) -> tuple[str, str, float]:
    import pyproj

    found = pyproj.CRS.from_user_input(crs)
    unit = found.axis_info[0]
    return "angle" if found.is_geographic else "length", unit.unit_name, unit.unit_conversion_factor


@lru_cache(maxsize=256)
def _unit(text: str) -> tuple[str, float] | None:
    """Return the kind of a unit, and its size in metres or radians; None where it is unknown.

    Examples
    --------
    >>> _unit("km"), _unit("Meters"), _unit("1000 m"), _unit("US survey foot")[1] > 0.3048, _unit("pixels")
    (('length', 1000.0), ('length', 1.0), ('length', 1000.0), True, None)
    >>> _unit("rad"), _unit("degrees_north")[0]
    (('angle', 1.0), 'angle')
    """
    from pyproj.database import get_units_map

    count, name = re.fullmatch(r"\s*([\d.]+(?:[eE][-+]?\d+)?)?\s*(.*?)\s*", text, re.DOTALL).groups()  # type: ignore[union-attr]
    name = name.lower().replace("meter", "metre").replace("feet", "foot")
    many = float(count) if count else 1.0
    if name in ("rad", "radian", "radians"):
        return "angle", many
    if re.fullmatch(r"°|deg|(?:arc)?degrees?(?:[_ ]?(?:east|north|e|n))?", name):
        return "angle", many * math.pi / 180
    for unit in get_units_map(category="linear").values():
        if name in (unit.name.lower(), unit.name.lower() + "s", (unit.proj_short_name or "").lower() or None):
            return "length", many * float(unit.conv_factor)
    return None
