"""Read features from files of polygons: one reader for areas of interest and for zones."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import RequestError, brief

if TYPE_CHECKING:
    import pyproj
    from shapely.geometry.base import BaseGeometry

log = logging.getLogger(__name__)

LONLAT = "OGC:CRS84"
"""Longitude first, on the datum of EPSG:4326."""

EXPECTED = "expected polygons as GeoJSON, GeoPackage or Shapefile"

_POLYGONS = ("Polygon", "MultiPolygon")
_IN_ZIP = (".shp", ".gpkg", ".gdb", ".fgb", ".geojson", ".kml", ".gml", ".json")
_LONGEST = 100
_MOST = 5


@dataclass(frozen=True, kw_only=True)
class Features:
    """The features of a file.

    Attributes
    ----------
    geometries
        Shapely geometries (feature,) in x and y, longitude first; None where a feature has none or one that cannot be
        read. Curves become lines of short segments, open rings are closed.
    lost
        Which features have a geometry in the file that cannot be read (feature,), such as a curve in Esri JSON.
    columns
        The requested columns, values (feature,) by name.
    fields
        Names of all columns.
    crs
        As the file states it, None where it states none.
    """

    geometries: NDArray[Any]
    lost: NDArray[np.bool_]
    columns: dict[str, NDArray[Any]]
    fields: tuple[str, ...]
    crs: Any

    def located(self, name: str) -> NDArray[np.bool_]:
        """Return which features have a geometry that is not empty (feature,), with a warning if only some have."""
        found = located(self.geometries)
        if found.any() and not found.all():
            log.warning(
                "%d of %d features of %s have no geometry and are left out: feature %s",
                (~found).sum(), len(found), shown(name), listed(np.flatnonzero(~found) + 1),
            )  # fmt: skip
        return found


def shown(text: Any) -> str:
    """Return a path or a text for a message, of a long one the end.

    Examples
    --------
    >>> shown("fields.gpkg"), len(shown("x" * 5000))
    ('fields.gpkg', 101)
    """
    text = " ".join(str(text).split())
    return text if len(text) <= _LONGEST else f"…{text[-_LONGEST:]}"


def listed(names: Iterable[Any]) -> str:
    """Return names for a message, of many the first.

    Examples
    --------
    >>> listed([]), listed("abc"), listed(range(9))
    ('none', 'a, b, c', '0, 1, 2, 3, 4 … and 4 more')
    """
    every = [brief(name, 24) for name in names]
    more = f" … and {len(every) - _MOST} more" if len(every) > _MOST else ""
    return f"{', '.join(every[:_MOST]) or 'none'}{more}"


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_features(given: str | Path, wanted: Callable[[str], bool] = lambda name: False) -> Features:
    """Read the features of a vector file: GeoJSON, GeoPackage, Shapefile, or anything else that pyogrio reads.

    Parameters
    ----------
    given
        The file; a zipped one may lie in folders of the archive. Of a file with several layers none is chosen.
    wanted
        Decides by name which columns are read.

    Raises
    ------
    RequestError
        The file does not exist, cannot be read, or has no layer of geometries or several.
    """
    path = _existing(given)
    import pyogrio
    import shapely
    from pyogrio.errors import CRSError, DataLayerError, DataSourceError, FeatureError, GeometryError

    try:
        with warnings.catch_warnings():  # GDAL's notes; what is wrong with a geometry is checked later
            warnings.simplefilter("ignore")
            source, layer = _layer(path)
            info = pyogrio.read_info(source, layer=layer)
            fields = tuple(str(name) for name in info["fields"])
            columns = [name for name in fields if wanted(name)]
            meta, fids, wkb, values = pyogrio.raw.read(
                source, layer=layer, columns=columns, force_2d=True, return_fids=True
            )
            geometries = shapely.from_wkb(wkb, on_invalid="fix")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{shown(path)} holds text that is not in the encoding it states, UTF-8; "
            "for a shapefile correct the .cpg file beside it, such as to CP1252, or remove it"
        ) from error
    except (CRSError, UnboundLocalError) as error:  # the second from pyogrio 0.13, of a CRS that it cannot write
        raise _unknown_crs(path) from error
    except (DataLayerError, DataSourceError, FeatureError, GeometryError, shapely.errors.GEOSException) as error:
        raise RequestError(f"{shown(path)} cannot be read: {_reason(error, path)}; {EXPECTED}") from error
    if meta["crs"] is None and path.suffix.lower() == ".shp" and _has_prj(path):
        raise _unknown_crs(path)
    found = dict(zip((str(name) for name in meta["fields"]), values, strict=True))
    key = str(info.get("fid_column") or "")  # the column fid of a GeoPackage, OBJECTID of a geodatabase
    if key and key not in fields:
        fields, found = (*fields, key), {**found, **({key: fids} if wanted(key) else {})}
    features = Features(
        geometries=objects(geometries),
        lost=np.zeros(len(geometries), bool),
        columns=found,
        fields=fields,
        crs=meta["crs"],
    )
    return _with_json(features, path, wanted) if path.suffix.lower() in (".geojson", ".json") else features


def plain_polygons(path: Path) -> NDArray[Any] | None:
    """Return the polygons (feature,) of a GeoJSON file in longitude and latitude, read without GDAL.

    They are those of `read_features`, in a fraction of the time that loading pyogrio takes, with pandas and pyarrow.

    Returns
    -------
    ndarray or None
        None for any file that needs GDAL, or about which something is to be said.
    """
    import shapely

    if path.suffix.lower() not in (".geojson", ".json") or not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
        if '"crs"' in text or '"GeometryCollection"' in text:
            return None
        content = shapely.from_geojson(text)
    except (OSError, ValueError, shapely.errors.GEOSException):
        return None
    found = [content] if content.geom_type in _POLYGONS else shapely.get_parts(content)
    plain = len(found) > 0 and all(one.geom_type in _POLYGONS and not (one.is_empty or one.has_z) for one in found)
    return objects(found) if plain else None


def _with_json(features: Features, path: Path, wanted: Callable[[str], bool]) -> Features:
    """Add what a JSON file holds and GDAL passes over: geometries of other kinds, numbers as ids, unknown CRS."""
    text = path.read_bytes()
    missing = np.array([one is None for one in features.geometries], bool)
    numbered = b'"id"' in text and "id" not in features.fields
    if not (missing.any() or numbered or b'"crs"' in text):
        return features
    content = _content(text)
    members = [one for one in content.get("features", [content]) if isinstance(one, dict)]
    crs = _legacy_crs(content, path) or features.crs
    if len(members) != len(missing):
        return replace(features, crs=crs)
    lost = missing & np.array([bool(one.get("geometry")) for one in members], bool)
    ids = [one.get("id") for one in members]
    if not numbered or not ids or not all(type(one) is int and abs(one) < 1 << 62 for one in ids):
        return replace(features, crs=crs, lost=lost)
    columns = {**features.columns, **({"id": np.array(ids)} if wanted("id") else {})}
    return replace(features, crs=crs, lost=lost, columns=columns, fields=(*features.fields, "id"))


def objects(values: Iterable[Any]) -> NDArray[Any]:
    """Return values as a 1-D array of objects."""
    every = list(values)
    found = np.empty(len(every), object)
    found[:] = every
    return found


def _existing(given: str | Path) -> Path:
    """Return the path of a file or a file geodatabase."""
    path = Path(os.path.expanduser(given))
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened: {reason}"
        raise RequestError(f"{shown(path)} {what}; expected a file of polygons, such as fields.gpkg") from error
    if stat.S_ISDIR(mode) and path.suffix.lower() != ".gdb":
        raise RequestError(f"{shown(path)} is a folder; expected a file of polygons, such as fields.gpkg")
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise RequestError(f"{shown(path)} is not a regular file; expected a file of polygons, such as fields.gpkg")
    if stat.S_ISREG(mode) and not path.stat().st_size:
        raise RequestError(f"{shown(path)} is an empty file; {EXPECTED}")
    if path.suffix.lower() == ".shp" and not any(path.with_suffix(end).exists() for end in (".shx", ".SHX")):
        raise RequestError(
            f"{shown(path)} has no .shx beside it; copy all files of the shapefile: .shp, .shx, .dbf, .prj"
        )
    return path


def _has_prj(path: Path) -> bool:
    """Return whether a shapefile states a CRS, be it one that GDAL does not know."""
    try:
        return bool(path.with_suffix(".prj").read_bytes().strip())
    except OSError:
        return False


def _unknown_crs(path: Path) -> RequestError:
    return RequestError(
        f"{shown(path)} states a coordinate system that GDAL does not know; expected one such as EPSG:5070: assign it "
        "again, for a shapefile as a new .prj"
    )


def _layer(path: Path) -> tuple[str | Path, str]:
    """Return what pyogrio opens, and the one layer of geometries in it."""
    import pyogrio
    from pyogrio.errors import DataSourceError

    source: str | Path = path
    try:
        found = pyogrio.list_layers(path)
    except DataSourceError:
        if path.suffix.lower() != ".zip":
            raise
        source = f"/vsizip/{path}/{_member(path)}"
        found = pyogrio.list_layers(source)
    layers = [str(name) for name, kind in found if kind is not None]
    if not layers:
        raise RequestError(f"{shown(path)} holds no layer of geometries; {EXPECTED}")
    if len(layers) > 1:
        raise RequestError(
            f"{shown(path)} holds {len(layers)} layers ({listed(layers)}); save the one you mean as its own file"
        )
    return source, layers[0]


def _member(path: Path) -> str:
    """Return the name of the one vector file in a zip archive whose files lie in folders."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
    except (zipfile.BadZipFile, OSError) as error:
        raise RequestError(f"{shown(path)} is not a whole zip archive ({error}); download or zip it again") from error
    stems = {re.sub(r"(?i)(\.gdb)/.*", r"\1", name) for name in names}
    for endings in (_IN_ZIP[:-1], _IN_ZIP[-1:]):  # .json may be a description of the data
        found = sorted(name for name in stems if name.lower().endswith(endings))
        if len(found) > 1:
            raise RequestError(
                f"{shown(path)} holds {len(found)} vector files ({listed(found)}); unpack it and give one of them"
            )
        if found:
            return found[0]
    raise RequestError(f"{shown(path)} holds no vector file ({listed(names)}); unpack it")


def _reason(error: Exception, path: Path) -> str:
    """Return the words of GDAL that say something, in one line."""
    text = " ".join(str(error).split()).replace(f"/vsizip/{path}", str(path)).replace(f"'{path}' ", "")
    parts = [part.strip().rstrip(".") for part in text.split(";")]
    useful = [
        part for part in parts if not part.startswith(("It might help", "Layer schema", "Failed to read GeoJSON"))
    ]
    return brief("; ".join(useful or parts[:1]))


def _content(text: bytes) -> dict[str, Any]:
    """Return the object in a GeoJSON file; empty for lines of features."""
    try:
        content = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _legacy_crs(content: dict[str, Any], path: Path) -> Any:
    """Return the CRS that a GeoJSON file of the time before RFC 7946 names; GDAL takes unknown ones for degrees."""
    member = content.get("crs")
    if member is None:
        return None
    try:
        return member["properties"]["name"]
    except (TypeError, KeyError) as error:
        raise RequestError(
            f'{shown(path)} has a "crs" member that names no CRS ({brief(member, 60)}); remove it if '
            "coordinates are longitude and latitude, or name one such as EPSG:5070"
        ) from error


# ---- checking --------------------------------------------------------------------------------------------------------


def located(geometries: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which geometries are there and not empty."""
    return np.array([one is not None and not one.is_empty for one in geometries], bool)


def polygon_parts(geometry: BaseGeometry) -> list[BaseGeometry] | None:
    """Return the polygons and multipolygons of a geometry, those within collections too; None where it has others."""
    if geometry.is_empty:
        return []
    if geometry.geom_type in _POLYGONS:
        return [geometry]
    if geometry.geom_type != "GeometryCollection":
        return None
    parts = [polygon_parts(one) for one in geometry.geoms]  # type: ignore[attr-defined]
    return None if None in parts else [one for part in parts if part for one in part]


def first_flaw(geometries: NDArray[Any]) -> tuple[NDArray[np.bool_], str] | None:
    """Return which geometries are no valid polygons and what the first of them is; None where all are valid.

    Parameters
    ----------
    geometries
        Shapely geometries (feature,), none of them missing.

    Returns
    -------
    (ndarray of bool (feature,), str) or None
        The text follows a name: "is a Point; expected …".
    """
    import shapely

    other = np.array([polygon_parts(one) is None for one in geometries], bool)
    if other.any():
        kind = geometries[other][0].geom_type
        return other, f"is a {kind}; expected polygons: use `mmnet points` for points, or buffer points and lines"
    coordinates, index = shapely.get_coordinates(geometries, return_index=True)
    infinite = np.isin(np.arange(len(geometries)), index[~np.isfinite(coordinates).all(1)])
    if infinite.any():
        return infinite, "has coordinates that are not finite numbers; repair the file"
    with np.errstate(over="ignore", invalid="ignore"):  # of coordinates such as 1e300
        invalid = ~shapely.is_valid(geometries)
        reasons = shapely.is_valid_reason(geometries[invalid][:1])
    if invalid.any():
        reason = brief(re.sub(r"\[(\S+) (\S+)\]", r" at \1, \2", reasons[0]), 80)
        return invalid, f"is not a valid polygon: {reason}; repair it with shapely.make_valid or buffer(0)"
    return None


def place_crs(crs: Any, what: str) -> pyproj.CRS:
    """Return a CRS of places on earth that can be turned into longitude and latitude; by default it is these.

    Raises
    ------
    RequestError
        The CRS is unknown, is one of a building site or an image, or belongs to another body than the earth.
    """
    import pyproj

    expected = "expected one such as EPSG:5070"
    try:
        found = pyproj.CRS.from_user_input(LONLAT if crs is None else crs)
    except pyproj.exceptions.CRSError as error:
        raise RequestError(f"{what} names an unknown coordinate system: {brief(crs, 60)}; {expected}") from error
    name = found.name[:40]
    if not (found.is_projected or found.is_geographic):
        raise RequestError(
            f"{what} has the coordinate system {name!r} ({found.type_name}), which has no place on earth; {expected}: "
            "transform the file, or correct its CRS"
        )
    try:
        pyproj.Transformer.from_crs(found, LONLAT, always_xy=True)
    except pyproj.exceptions.ProjError as error:
        raise RequestError(
            f"{what} has the coordinate system {name!r}, which cannot be turned into longitude and latitude; "
            f"{expected}: transform the file, or correct its CRS"
        ) from error
    return found


def check_degrees(bounds: Sequence[float], what: str, crs: Any) -> None:
    """Refuse coordinates that cannot be longitude and latitude where a file states these or no CRS.

    Parameters
    ----------
    bounds
        Left, bottom, right, top.
    what
        Names the file.
    crs
        The CRS that the file states, or None.

    Raises
    ------
    RequestError
        They lie beyond 360 degrees.
    """
    left, bottom, right, top = bounds
    if max(abs(left), abs(right)) <= 360 and max(abs(bottom), abs(top)) <= 360:
        return
    if crs is not None and not place_crs(crs, what).is_geographic:
        return
    stated = "no CRS is stated" if crs is None else "longitude and latitude are stated (GeoJSON's default)"
    raise RequestError(
        f"{what} spans {left:.6g} to {right:.6g} by {bottom:.6g} to {top:.6g}: these look like projected coordinates "
        f"but {stated}; give a file that states its CRS, as a .prj does"
    )
