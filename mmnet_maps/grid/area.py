"""The request: an area, from any vector file, bounds or geometry, and days."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmnet_maps.errors import RequestError, brief
from mmnet_maps.grid.area_names import file_name, name_of_geometry
from mmnet_maps.resources import packaged
from mmnet_maps.variables import FIRST_DAY

if TYPE_CHECKING:
    from shapely.geometry import MultiPolygon, Polygon
    from shapely.geometry.base import BaseGeometry

CONUS_EXTENT = (-125.0, 24.0, -66.5, 49.6)
"""West, south, east, north of the conterminous United States, degrees."""

EXAMPLE = "grant_county.geojson"

LONLAT = "OGC:CRS84"
"""Longitude first, on the datum of EPSG:4326."""

_SHAPES = ("Polygon", "MultiPolygon", "GeometryCollection", "Point", "MultiPoint", "LineString", "MultiLineString")
_GEOJSON_TYPES = ("Feature", "FeatureCollection", *_SHAPES)
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
            f"area of interest {aoi!r} is not understood; expected a file, west,south,east,north or a shapely polygon"
        ) from error
    return _from_bounds(numbers, ",".join(f"{value:g}" for value in numbers))


def _numbers(text: str) -> list[float] | None:
    try:
        return [float(part) for part in text.split(",")] if "," in text else None
    except ValueError:
        return None


def _from_bounds(numbers: Sequence[float], text: str) -> Area:
    from shapely.geometry import box

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
    geometries, crs = _read_geojson(path) or _read_vector(path)
    return _area(file_name(path.stem), geometries, crs, str(aoi), notice)


def _locate(aoi: str | Path) -> tuple[Path, str | None]:
    try:
        path = Path(aoi).expanduser()
        exists, folder = path.exists(), path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~name without such a user
        raise RequestError(f"area of interest {brief(aoi, 80)!r} cannot be opened: {brief(error)}") from error
    if folder and path.suffix != ".gdb":
        raise RequestError(f"area of interest {aoi} is a folder; expected a file such as area.geojson or area.gpkg")
    if exists:
        return path, None
    if str(path) == EXAMPLE:
        notice = f"{EXAMPLE} is not in this folder: using the packaged example outline of Grant County"
        return packaged("examples") / EXAMPLE, notice
    raise RequestError(
        f"area of interest {aoi} does not exist; expected a vector file such as area.geojson, "
        "or bounds as west,south,east,north"
    )


def _read_geojson(path: Path) -> tuple[list[BaseGeometry], Any] | None:
    """Return the geometries and CRS of a GeoJSON file; None for any other kind of file."""
    import numpy as np
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    if path.suffix.lower() not in (".geojson", ".json"):
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not a GeoJSON file: {error}; expected polygons as GeoJSON") from error
    if not isinstance(content, dict) or content.get("type") not in _GEOJSON_TYPES:
        return None
    try:
        with np.errstate(invalid="ignore"):
            geometries = [shape(member) for member in _members(content) if member is not None]
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, ShapelyError) as error:
        raise RequestError(f"{path} holds a geometry that is not GeoJSON: {error}; expected polygons") from error
    return geometries, _legacy_crs(content, path)


def _members(content: Mapping[str, Any]) -> list[Any]:
    if content["type"] == "FeatureCollection":
        return [feature["geometry"] for feature in content["features"]]
    return [content["geometry"]] if content["type"] == "Feature" else [content]


def _legacy_crs(content: Mapping[str, Any], path: Path) -> Any:
    member = content.get("crs")
    if member is None:
        return None
    try:
        return member["properties"]["name"]
    except (TypeError, KeyError) as error:
        raise RequestError(
            f'{path} has a "crs" member that names no CRS ({str(member)[:80]}); remove it if '
            "coordinates are longitude and latitude, or name one such as EPSG:5070"
        ) from error


def _read_vector(path: Path) -> tuple[list[BaseGeometry], Any]:
    import pyogrio
    import shapely
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, GeometryError

    try:
        layers = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
        if len(layers) > 1:
            raise RequestError(
                f"{path} holds {len(layers)} layers ({', '.join(layers)}); save the one you mean as its own file"
            )
        meta, _, wkb, _ = pyogrio.raw.read(path, layer=layers[0] if layers else None, columns=[], force_2d=True)
        geometries = [shapely.from_wkb(part) for part in (wkb if wkb is not None else ()) if part is not None]
    except (DataLayerError, DataSourceError, FeatureError, GeometryError, shapely.errors.GEOSException) as error:
        raise RequestError(
            f"{path} cannot be read as a vector file: {_line(error)}; expected GeoJSON, GeoPackage or Shapefile"
        ) from error
    return geometries, meta["crs"]


def _area(name: str, geometries: Iterable[BaseGeometry], crs: Any, what: str, notice: str | None = None) -> Area:
    """Check the geometries, join them and transform them to longitude and latitude; without a name, give one."""
    import shapely

    polygons = [polygon for geometry in geometries for polygon in _polygons(geometry, what)]
    if not polygons:
        raise RequestError(f"{what} is empty; expected at least one polygon")
    for polygon in polygons:
        _check_polygon(polygon, what)
    joined = shapely.union_all(_to_lonlat(polygons, crs, what))
    _check_place(joined.bounds, what, crs)
    if not joined.is_valid:
        raise RequestError(f"{what} is invalid in longitude and latitude: {shapely.is_valid_reason(joined)}")
    assert isinstance(joined, shapely.Polygon | shapely.MultiPolygon)
    return Area(name=name or name_of_geometry(joined), geometry=joined, notice=notice)


def _polygons(geometry: BaseGeometry, what: str) -> list[BaseGeometry]:
    import shapely

    if geometry.is_empty:
        return []
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return [shapely.force_2d(geometry)]
    if isinstance(geometry, shapely.GeometryCollection):
        return [polygon for part in geometry.geoms for polygon in _polygons(part, what)]
    raise RequestError(
        f"{what} holds a {geometry.geom_type}; expected polygons: use `mmnet points` for points, "
        "or buffer points and lines to polygons"
    )


def _check_polygon(polygon: BaseGeometry, what: str) -> None:
    import numpy as np
    import shapely

    if not np.isfinite(shapely.get_coordinates(polygon)).all():
        raise RequestError(f"{what} holds coordinates that are not finite numbers; repair the file")
    if not polygon.is_valid:
        reason = re.sub(r"\[(\S+) (\S+)\]", r" at \1, \2", shapely.is_valid_reason(polygon))
        raise RequestError(f"{what} is not a valid polygon: {reason}; repair it with shapely.make_valid or buffer(0)")


def _to_lonlat(polygons: list[BaseGeometry], crs: Any, what: str) -> list[BaseGeometry]:
    import numpy as np
    import pyproj
    import shapely

    if crs is None:
        return polygons
    try:
        given = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        raise RequestError(
            f"{what} names an unknown coordinate system: {str(crs)[:80]}; expected one such as EPSG:5070"
        ) from error
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
    import numpy as np
    import pyproj
    import shapely

    move = pyproj.Transformer.from_crs(source, target, always_xy=True)
    return shapely.transform(geometry, lambda xy: np.column_stack(move.transform(xy[:, 0], xy[:, 1])))


def _check_place(bounds: tuple[float, float, float, float], what: str, crs: Any) -> None:
    if _inside_conus(*bounds):
        return
    left, bottom, right, top = bounds
    shown = f"{what} spans {left:.6g} to {right:.6g} by {bottom:.6g} to {top:.6g}"
    if _inside_conus(bottom, left, top, right):
        raise RequestError(f"{shown}: latitude and longitude are swapped; expected longitude (x) first")
    if _inside_conus(left - 360, bottom, right - 360, top):
        raise RequestError(f"{shown}: longitudes count from 0 to 360; expected −180 to 180: subtract 360")
    if crs is None and (max(abs(left), abs(right)) > 360 or max(abs(bottom), abs(top)) > 90):
        raise RequestError(
            f"{shown}: these look like projected coordinates and no CRS is given; expected longitude and latitude, "
            "or a file that states its CRS"
        )
    west, south, east, north = CONUS_EXTENT
    raise RequestError(
        f"{shown}: outside the conterminous United States; expected longitude {west:g} to {east:g} "
        f"and latitude {south:g} to {north:g}: clip the area"
    )


def _inside_conus(left: float, bottom: float, right: float, top: float) -> bool:
    west, south, east, north = CONUS_EXTENT
    return west <= left and right <= east and south <= bottom and top <= north


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


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
    days = {day for text in ([texts] if single else texts) for day in _expand(text)}
    if not days:
        raise RequestError("no day is given; expected YYYY-MM-DD or a range YYYY-MM-DD/YYYY-MM-DD")
    for day in sorted(days):
        if day < FIRST_DAY:
            raise RequestError(f"day {day} is too early; expected {FIRST_DAY} or later, when SMAP was in orbit")
        if day > last:
            raise RequestError(f"day {day} is in the future; expected {last} or earlier")
    return tuple(sorted(days))


def _expand(text: Any) -> list[date]:
    if not isinstance(text, str):
        return [_as_date(text)]
    parts = text.strip().split("/")
    if len(parts) > 2 or not all(_DAY.fullmatch(part) for part in parts):
        raise RequestError(f"date {text!r} is malformed; expected YYYY-MM-DD or a range YYYY-MM-DD/YYYY-MM-DD")
    try:
        first, last = (date.fromisoformat(part) for part in (parts[0], parts[-1]))
    except ValueError as error:
        raise RequestError(f"date {text!r} is not in the calendar: {error}; expected YYYY-MM-DD") from error
    if last < first:
        raise RequestError(f"date range {text!r} runs backwards; expected the earlier day first: {last}/{first}")
    return [first + timedelta(days=step) for step in range((last - first).days + 1)]


def _as_date(value: Any) -> date:
    import numpy as np

    try:
        day = np.datetime64(value, "D").item()
    except (TypeError, ValueError) as error:
        raise RequestError(f"date {value!r} is not a day; expected YYYY-MM-DD or a datetime.date") from error
    if not isinstance(day, date):
        raise RequestError(f"date {value!r} is not a day; expected YYYY-MM-DD or a datetime.date")
    return day
