"""The request: an area, from any vector file, bounds or geometry, and days."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmnet_maps.errors import RequestError, brief
from mmnet_maps.grid.area_names import file_name, name_of_geometry
from mmnet_maps.grid.polygons import (
    LONLAT,
    check_degrees,
    first_flaw,
    listed,
    located,
    objects,
    place_crs,
    plain_polygons,
    polygon_parts,
    read_features,
    shown,
)
from mmnet_maps.resources import packaged
from mmnet_maps.variables import FIRST_DAY

if TYPE_CHECKING:
    from shapely.geometry import MultiPolygon, Polygon
    from shapely.geometry.base import BaseGeometry

CONUS_EXTENT = (-125.0, 24.0, -66.5, 49.6)
"""West, south, east, north of the conterminous United States, degrees."""

EXAMPLE = "grant_county.geojson"

_SEGMENT_METRES = 1000.0
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, kw_only=True)
class Area:
    """An area of interest.

    Attributes
    ----------
    name
        Stem of output file names, see `area_names`.
    geometry
        A valid polygon or multipolygon in longitude and latitude (EPSG:4326), inside CONUS.
    notice
        One line for the user, for example that the packaged example is used.
    """

    name: str
    geometry: Polygon | MultiPolygon
    notice: str | None = None


def read_aoi(aoi: str | Path | BaseGeometry | Sequence[float]) -> Area:
    """Read an area of interest.

    Parameters
    ----------
    aoi
        A vector file (GeoJSON, GeoPackage, Shapefile or anything else pyogrio reads; several features become one
        area), ``"west,south,east,north"`` as text or as four numbers, or a shapely (multi)polygon. Coordinates are
        longitude and latitude unless the file states another CRS.

    Returns
    -------
    Area
        Named after the file, or after its bounds.

    Raises
    ------
    RequestError
        The file does not exist or holds no valid polygon, or the area is not inside CONUS.

    Examples
    --------
    >>> area = read_aoi("-119.6,47.0,-119.2,47.3")
    >>> area.name, area.geometry.bounds
    ('aoi_119.6W_47N_119.2W_47.3N', (-119.6, 47.0, -119.2, 47.3))
    """
    from shapely.geometry.base import BaseGeometry

    if isinstance(aoi, BaseGeometry):
        return _area("", [aoi], None, "the geometry")
    if isinstance(aoi, str) and (numbers := _numbers(aoi)) is not None:
        return _from_bounds(numbers, aoi)
    if isinstance(aoi, str | Path):
        return _from_file(aoi)
    try:
        numbers = [float(value) for value in aoi]
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"area of interest {shown(repr(aoi))} is not understood; expected a file, west,south,east,north "
            "or a shapely polygon"
        ) from error
    return _from_bounds(numbers, ",".join(f"{value:g}" for value in numbers))


def _numbers(text: str) -> list[float] | None:
    try:
        return [float(part) for part in text.split(",")] if "," in text else None
    except ValueError:
        return None


def _from_bounds(numbers: Sequence[float], text: str) -> Area:
    from shapely.geometry import box

    text = shown(text)
    if len(numbers) != 4:
        raise RequestError(f"bounds {text} hold {len(numbers)} numbers; expected west,south,east,north in degrees")
    if not all(math.isfinite(value) for value in numbers):
        raise RequestError(f"bounds {text} are not all finite; expected west,south,east,north in degrees")
    west, south, east, north = numbers
    if west >= east or south >= north:
        raise RequestError(f"bounds {text} are reversed or empty; expected west < east and south < north in degrees")
    return _area("", [box(west, south, east, north)], None, f"bounds {text}")


def _from_file(aoi: str | Path) -> Area:
    path, notice = _locate(aoi)
    polygons = plain_polygons(path)
    if polygons is not None:
        return _area(file_name(path.stem), polygons, "EPSG:4326", shown(aoi), notice)
    features = read_features(path)
    if features.lost.any():
        raise RequestError(
            f"{shown(aoi)}: the geometry of feature {listed(np.flatnonzero(features.lost) + 1)} cannot be read, so "
            "part of the area would be missing; turn curves into lines, as a GeoPackage or a shapefile has them"
        )
    features.located(path.name)
    return _area(file_name(path.stem), features.geometries, features.crs, shown(aoi), notice)


def _locate(aoi: str | Path) -> tuple[Path, str | None]:
    """Return the file of an area, or the packaged example with a notice."""
    path = os.path.expanduser(aoi)  # unlike the methods of Path, these raise nothing
    if os.path.exists(path):
        return Path(path), None
    if path == EXAMPLE:
        notice = f"{EXAMPLE} is not in this folder: using the packaged example outline of Grant County"
        return packaged("examples") / EXAMPLE, notice
    raise RequestError(
        f"area of interest {shown(aoi)!r} does not exist; expected a vector file such as area.geojson, "
        "or bounds as west,south,east,north"
    )


def _area(name: str, geometries: Iterable[BaseGeometry | None], crs: Any, what: str, notice: str | None = None) -> Area:
    """Check the geometries, join them and transform them to longitude and latitude; without a name, give one."""
    import shapely

    every = objects(geometries)
    there = np.flatnonzero(located(every))
    every = shapely.force_2d(every[there])
    if not len(every):
        raise RequestError(f"{what} is empty; expected at least one polygon")
    if flaw := first_flaw(every):
        wrong, why = flaw
        which = f"{what}: feature {there[wrong][0] + 1}" if len(every) > 1 else what
        raise RequestError(f"{which} {why}")
    polygons = [polygon for one in every for polygon in polygon_parts(one) or ()]
    joined = shapely.union_all(_to_lonlat(polygons, crs, what))
    _check_place(joined.bounds, what, crs)
    if not joined.is_valid:
        raise RequestError(f"{what} is invalid in longitude and latitude: {shapely.is_valid_reason(joined)}")
    assert isinstance(joined, shapely.Polygon | shapely.MultiPolygon)
    return Area(name=name or name_of_geometry(joined), geometry=joined, notice=notice)


def _to_lonlat(polygons: list[BaseGeometry], crs: Any, what: str) -> list[BaseGeometry]:
    import shapely

    given = place_crs(crs, what)
    if given.equals(place_crs(None, what), ignore_axis_order=True):
        return polygons
    moved = [transform_geometry(polygon, given, LONLAT) for polygon in polygons]
    if not all(np.isfinite(shapely.get_coordinates(polygon)).all() for polygon in moved):
        raise RequestError(f"{what} has coordinates outside its coordinate system {given.name}; check the file's CRS")
    if not given.is_projected:
        return moved
    # Straight edges of a projected file bend in longitude and latitude. The check bounds the number of segments.
    _check_place(tuple(shapely.total_bounds(moved)), what, crs)
    length = _SEGMENT_METRES / given.axis_info[0].unit_conversion_factor
    return [transform_geometry(shapely.segmentize(polygon, length), given, LONLAT) for polygon in polygons]


def transform_geometry(geometry: BaseGeometry, source: Any, target: Any) -> BaseGeometry:
    """Move the vertices of a geometry from one CRS to another, x (or longitude) first in both.

    Vertices that the target CRS cannot represent become infinite. Edges stay straight, so densify them first.
    """
    import pyproj
    import shapely

    move = pyproj.Transformer.from_crs(source, target, always_xy=True)
    return shapely.transform(geometry, lambda xy: np.column_stack(move.transform(xy[:, 0], xy[:, 1])))


def _check_place(bounds: tuple[float, float, float, float], what: str, crs: Any) -> None:
    if _inside_conus(*bounds):
        return
    left, bottom, right, top = bounds
    spans = f"{what} spans {left:.6g} to {right:.6g} by {bottom:.6g} to {top:.6g}"
    if _inside_conus(bottom, left, top, right):
        raise RequestError(f"{spans}: latitude and longitude are swapped; expected longitude (x) first")
    if _inside_conus(left - 360, bottom, right - 360, top):
        raise RequestError(f"{spans}: longitudes count from 0 to 360; expected −180 to 180: subtract 360")
    check_degrees(bounds, what, crs)
    west, south, east, north = CONUS_EXTENT
    raise RequestError(
        f"{spans}: outside the conterminous United States; expected longitude {west:g} to {east:g} "
        f"and latitude {south:g} to {north:g}: clip the area"
    )


def _inside_conus(left: float, bottom: float, right: float, top: float) -> bool:
    west, south, east, north = CONUS_EXTENT
    return west <= left and right <= east and south <= bottom and top <= north


def parse_days(texts: Any, *, today: date | None = None) -> tuple[date, ...]:
    """Read the days of a request.

    Parameters
    ----------
    texts
        A day or a sequence of days: ``"YYYY-MM-DD"``, an inclusive range ``"YYYY-MM-DD/YYYY-MM-DD"``, a
        `datetime.date`, a pandas timestamp or a NumPy datetime.
    today
        The last day that is allowed; by default the computer's date.

    Returns
    -------
    tuple of date
        Sorted, each day once.

    Raises
    ------
    RequestError
        A day is malformed, in the future or before 2015, or a range runs backwards.

    Examples
    --------
    >>> [str(day) for day in parse_days(["2021-08-08", "2021-07-29/2021-07-31"])]
    ['2021-07-29', '2021-07-30', '2021-07-31', '2021-08-08']
    """
    last = today or date.today()
    single = isinstance(texts, str | date) or not isinstance(texts, Iterable)
    spans = [_span(text) for text in ([texts] if single else texts)]
    if not spans:
        raise RequestError("no day is given; expected YYYY-MM-DD or a range YYYY-MM-DD/YYYY-MM-DD")
    if (day := min(start for start, _ in spans)) < FIRST_DAY:
        raise RequestError(f"day {day} is too early; expected {FIRST_DAY} or later, when SMAP was in orbit")
    if (day := max(end for _, end in spans)) > last:
        raise RequestError(f"day {day} is in the future; expected {last} or earlier")
    days = {start + timedelta(step) for start, end in spans for step in range((end - start).days + 1)}
    return tuple(sorted(days))


def _span(text: Any) -> tuple[date, date]:
    """Return the first and the last day of a text such as ``2021-07-29/2021-08-08``, or of one day."""
    if not isinstance(text, str):
        return (_as_date(text),) * 2
    shown_text = brief(text, 60)
    parts = text.strip().split("/")
    if len(parts) > 2 or not all(_DAY.fullmatch(part) for part in parts):
        raise RequestError(f"date {shown_text!r} is malformed; expected YYYY-MM-DD or a range YYYY-MM-DD/YYYY-MM-DD")
    try:
        first, last = (date.fromisoformat(part) for part in (parts[0], parts[-1]))
    except ValueError as error:
        raise RequestError(f"date {shown_text!r} is not in the calendar: {error}; expected YYYY-MM-DD") from error
    if last < first:
        raise RequestError(f"date range {shown_text!r} runs backwards; expected the earlier day first: {last}/{first}")
    return first, last


def _as_date(value: Any) -> date:
    try:
        day = np.datetime64(value, "D").item()
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"date {brief(repr(value), 60)} is not a day; expected YYYY-MM-DD or a datetime.date"
        ) from error
    if not isinstance(day, date):
        raise RequestError(f"date {brief(repr(value), 60)} is not a day; expected YYYY-MM-DD or a datetime.date")
    return day
