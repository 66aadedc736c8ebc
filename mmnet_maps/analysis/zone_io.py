"""Read zones from files of polygons, and write tables of their statistics."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import RequestError, brief
from mmnet_maps.files import refuse_foreign, write_whole
from mmnet_maps.grid.polygons import (
    EXPECTED,
    LONLAT,
    Features,
    check_degrees,
    first_flaw,
    listed,
    objects,
    place_crs,
    polygon_parts,
    read_features,
    shown,
)

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

_IDS = ("zone", "id", "name")
_LAYER = "zones"
_COLUMNS = ["zone", "date", "mean", "median", "std", "p10", "p90", "valid_share", "pixels", "area_ha"]  # first columns
_REAL = (float, np.floating)
_EDGE_METRES = 1000.0
_FARTHEST_METRES = 3e7  # from the origin of a projection; the earth is 4e7 m around
EDGE_DEGREES = 0.01
"""Longer edges in longitude and latitude are split, so that they bend; about 1 km."""


@dataclass(frozen=True, kw_only=True)
class Zones:
    """Polygons with names.

    Attributes
    ----------
    name
        A title: the file's name.
    ids
        Names of the zones (zone,), text or numbers, each once.
    polygons
        Valid shapely polygons and multipolygons (zone,).
    crs
        Of the polygons, x (or longitude) first.
    """

    name: str
    ids: NDArray[Any]
    polygons: NDArray[Any]
    crs: Any = LONLAT

    def to_crs(self, crs: Any) -> NDArray[Any]:
        """Return the polygons (zone,) in another CRS, long edges bent; empty where the CRS cannot show them."""
        import pyproj
        import shapely

        given, wanted = pyproj.CRS.from_user_input(self.crs), pyproj.CRS.from_user_input(crs)
        if given.equals(wanted, ignore_axis_order=True):
            return self.polygons
        edge = _EDGE_METRES / given.axis_info[0].unit_conversion_factor if given.is_projected else EDGE_DEGREES
        found = moved(shapely.segmentize(self.polygons, edge), given, wanted)
        found[~np.isfinite(shapely.bounds(found)).all(1)] = shapely.Polygon()
        torn = ~shapely.is_valid(found)  # slivers, whose edges cross after rounding
        found[torn] = shapely.buffer(found[torn], 0)
        return found

    def _refuse(self, wrong: NDArray[np.bool_], why: str) -> None:
        """Raise a RequestError that names the first wrong zone, if there are any."""
        if wrong.any():
            more = f" ({wrong.sum()} of {len(wrong)} zones are like that)" if wrong.sum() > 1 else ""
            raise RequestError(f"zone {brief(self.ids[wrong][0], 40)} of {self.name} {why}{more}")


def moved(geometries: NDArray[Any], source: Any, target: Any) -> NDArray[Any]:
    """Return geometries in another CRS, x (or longitude) first; infinite where it cannot show them."""
    import pyproj
    import shapely

    move = pyproj.Transformer.from_crs(source, target, always_xy=True)
    found: NDArray[Any] = shapely.transform(geometries, lambda xy: np.column_stack(move.transform(xy[:, 0], xy[:, 1])))
    return found


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_zones(given: Any, *, id_column: str | None = None) -> Zones:
    """Read zones.

    Parameters
    ----------
    given
        A vector file (GeoJSON, GeoPackage, Shapefile or anything else pyogrio reads), or an object with
        ``__geo_interface__`` that is a collection of features, such as a GeoDataFrame. Coordinates are longitude and
        latitude unless it has a CRS. Features without a geometry are left out, with a warning.
    id_column
        The attribute that names the zones; by default the first of ``zone``, ``id`` and ``name`` (in any case) that all
        zones have and no two share, otherwise they are numbered from 1.

    Returns
    -------
    Zones
        In the order of the file.

    Raises
    ------
    RequestError
        The file cannot be read or has no such column, or a zone is not a valid polygon, or has no name or a name twice.
    """
    if hasattr(given, "__geo_interface__"):
        name, features = "the zones", _read_interface(given)
    else:
        path = Path(given)
        features = read_features(path, lambda field: field == id_column or (not id_column and field.lower() in _IDS))
        name = brief(path.name, 60)
    there = features.located(name)
    if not there.any():
        raise RequestError(f"{name} is empty; expected polygons")
    if id_column is not None and id_column not in features.columns:
        raise RequestError(f"{name} has no column {brief(id_column, 40)!r}; it has {listed(features.fields)}")
    ids = _names(name, {key: values[there] for key, values in features.columns.items()}, id_column, int(there.sum()))
    zones = Zones(name=name, ids=ids, polygons=features.geometries[there], crs=features.crs or LONLAT)
    return _checked(zones, features.crs)


def _read_interface(given: Any) -> Features:
    """Read an object with ``__geo_interface__``, with all its columns."""
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    content = given.__geo_interface__
    if content.get("type") != "FeatureCollection":
        raise RequestError(f"zones are a {content.get('type')}; expected a collection of features, or a file")
    features = content["features"]
    try:
        polygons = objects(shape(one["geometry"]) if one["geometry"] else None for one in features)
    except (ShapelyError, ValueError, TypeError, KeyError, IndexError) as error:
        raise RequestError(f"the zones hold a geometry that cannot be read: {brief(error)}; {EXPECTED}") from error
    names = dict.fromkeys(key for one in features for key in one["properties"] or {})
    columns = {key: objects((one["properties"] or {}).get(key) for one in features) for key in names}
    lost = np.zeros(len(polygons), bool)
    crs = getattr(given, "crs", None)
    return Features(geometries=polygons, lost=lost, columns=columns, fields=tuple(map(str, columns)), crs=crs)


def _names(title: str, columns: dict[str, NDArray[Any]], id_column: str | None, count: int) -> NDArray[Any]:
    """Return the names of the zones from a column, or numbers from 1."""
    import pandas as pd

    if id_column is not None:
        ids = _plain(columns[id_column])
        missing, twice, rounded = _unnamed(ids), pd.Series(ids).duplicated().to_numpy(), _rounded(ids)
        if missing.any():
            count = int(missing.sum())
            zones = f"{count} zones of {title} have" if count > 1 else f"1 zone of {title} has"
            raise RequestError(f"{zones} no {id_column}; name every zone, or give another --id")
        if rounded.any():
            raise RequestError(
                f"{title} has {id_column} {ids[rounded][0]:.0f}, a number too long to be kept exactly; store it as "
                "text, or give another --id"
            )
        if twice.any():
            raise RequestError(
                f"{title} has {brief(id_column, 40)} {brief(ids[twice][0], 40)} more than once; give another --id, or "
                "merge the parts of a zone first, as QGIS does by Dissolve"
            )
        return ids
    for wanted in _IDS:
        for key, values in columns.items():
            ids = _plain(values) if key.lower() == wanted else np.empty(0)
            if len(ids) and not (_unnamed(ids) | _rounded(ids) | pd.Series(ids).duplicated().to_numpy()).any():
                return ids
    log.warning("zones of %s are numbered from 1 in the order of the file; --id COLUMN names them", title)
    return np.arange(1, count + 1)


def _unnamed(ids: NDArray[Any]) -> NDArray[np.bool_]:
    import pandas as pd

    return np.array([pd.isna(one) or not str(one).strip() for one in ids], bool)


def _rounded(ids: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which numbers may have lost digits: whole ones read as real numbers, as beside a missing one."""
    exact = {True: 2.0**24, False: 2.0**53}  # whole numbers below are exact, in single and in double precision
    real = [isinstance(one, _REAL) and abs(float(one)) >= exact[isinstance(one, np.float32)] for one in ids]
    return np.array(real, np.bool_)


def _plain(ids: NDArray[Any]) -> NDArray[Any]:
    """Return names as whole numbers if all are (1001.0 is, as shapefiles hold them), otherwise as text.

    Missing names and real numbers too long to be exact stay as they are.
    """
    if any(_unnamed(ids)) or any(_rounded(ids)):
        return objects(ids)
    if all(isinstance(one, int | np.integer) or (isinstance(one, _REAL) and float(one).is_integer()) for one in ids):
        return np.array([int(one) for one in ids], np.int64)
    return objects(str(one) for one in ids)


def _checked(zones: Zones, stated: Any) -> Zones:
    """Return zones as polygons; `stated` is the CRS of their file, None for none.

    Raises
    ------
    RequestError
        A zone is not a valid polygon, or the coordinates cannot be those of the CRS.
    """
    import shapely

    if flaw := first_flaw(zones.polygons):
        zones._refuse(*flaw)
    collections = shapely.get_type_id(zones.polygons) == shapely.GeometryType.GEOMETRYCOLLECTION
    polygons = zones.polygons.copy()
    polygons[collections] = [shapely.union_all(polygon_parts(one)) for one in polygons[collections]]
    crs = place_crs(stated, zones.name)
    check_degrees(tuple(shapely.total_bounds(polygons)), zones.name, stated)
    beyond = np.zeros(len(polygons), bool)
    if crs.is_projected:  # before anything that takes time with the size
        beyond = np.abs(shapely.bounds(polygons)).max(1) * crs.axis_info[0].unit_conversion_factor > _FARTHEST_METRES
    beyond[~beyond] = ~np.isfinite(shapely.bounds(moved(polygons[~beyond], crs, LONLAT))).all(1)
    zones._refuse(beyond, f"has coordinates outside its coordinate system {crs.name}; check the file's CRS")
    return replace(zones, polygons=polygons)


# ---- writing ---------------------------------------------------------------------------------------------------------


def check_target(path: str | Path, zones: str | Path | None = None) -> Path:
    """Return the path to write statistics to, after checking it.

    Parameters
    ----------
    path
        The requested path.
    zones
        The file that the zones were read from.

    Raises
    ------
    RequestError
        The name does not end in ``.csv``, ``.parquet`` or ``.gpkg``, or it is a folder or the file of the zones.
    OutputError
        An existing GeoPackage was not made by `write_statistics`.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet", ".gpkg") or os.path.isdir(path):
        raise RequestError(
            f"statistics cannot be written to {shown(path)}; give a file whose name ends in .csv, .parquet or .gpkg"
        )
    source = os.path.expanduser(zones) if zones is not None else ""
    if os.path.exists(path) and os.path.exists(source) and path.samefile(source):
        raise RequestError(f"{shown(path)} is the file of the zones; give another --out")
    if path.suffix == ".gpkg":
        refuse_foreign(path, _is_statistics)
    return path


def _is_statistics(path: Path) -> bool:
    """Return whether a GeoPackage has the layer and the columns of `write_statistics`, and no other layer."""
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        layers = [name for name, _ in pyogrio.list_layers(path)]
        return layers == [_LAYER] and list(pyogrio.read_info(path)["fields"][: len(_COLUMNS)]) == _COLUMNS
    except (DataLayerError, DataSourceError):
        return False


def write_statistics(table: pd.DataFrame, path: str | Path, zones: Zones) -> None:
    """Write statistics as CSV, Parquet or GeoPackage, by the ending of the file; it appears whole or not at all.

    Parameters
    ----------
    table
        The table of `zones.zonal_statistics`.
    path
        ``.csv``, ``.parquet``, or ``.gpkg``: the same rows, each with its polygon in its original CRS, as layer
        ``zones``.
    zones
        The zones of the table.

    Raises
    ------
    RequestError, OutputError
        See `check_target`, or the file cannot be written.
    """
    path = check_target(path)
    if path.suffix == ".csv":
        write_whole(path, table.to_csv(index=False, date_format="%Y-%m-%d", float_format="%.4f", lineterminator="\n"))
        return
    out = BytesIO()
    if path.suffix == ".parquet":
        table.to_parquet(out, index=False)
    else:
        _write_geopackage(table, out, zones)
    write_whole(path, out.getvalue())


def _write_geopackage(table: pd.DataFrame, out: BytesIO, zones: Zones) -> None:
    import pandas as pd
    import pyogrio
    import pyproj
    import shapely

    wkb = shapely.to_wkb(zones.polygons)
    columns = {str(name): column.to_numpy() for name, column in table.items()}
    columns["date"] = columns["date"].astype("datetime64[D]")
    pyogrio.raw.write(
        out,
        geometry=wkb[pd.Index(zones.ids).get_indexer(table["zone"])],
        field_data=list(columns.values()),
        fields=list(columns),
        crs="EPSG:4326" if zones.crs == LONLAT else pyproj.CRS.from_user_input(zones.crs).to_wkt(),
        layer=_LAYER,
        driver="GPKG",
        geometry_type="MultiPolygon",
        promote_to_multi=True,
    )
