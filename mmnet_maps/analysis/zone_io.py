"""Read zones from files of polygons, and write tables of their statistics."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import RequestError
from mmnet_maps.files import refuse_foreign, write_whole
from mmnet_maps.grid.area import LONLAT

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

_IDS = ("zone", "id", "name")
_LAYER = "zones"
_COLUMNS = ["zone", "date", "mean", "median", "std", "p10", "p90", "valid_share", "pixels", "area_ha"]  # first columns
_EDGE_METRES = 1000.0
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
            raise RequestError(f"zone {self.ids[wrong][0]} of {self.name} {why}{more}")


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
        name, polygons, columns, crs = _read_features(given)
    else:
        name, polygons, columns, crs = _read_file(given, id_column)
    there = np.array([polygon is not None and not polygon.is_empty for polygon in polygons], bool)
    if not there.any():
        raise RequestError(f"{name} is empty; expected polygons")
    if not there.all():
        log.warning("%d of %d features of %s have no geometry and are left out", (~there).sum(), len(there), name)
    ids = _names(name, {key: values[there] for key, values in columns.items()}, id_column, int(there.sum()))
    zones = Zones(name=name, ids=ids, polygons=polygons[there], crs=crs or LONLAT)
    _check(zones)
    return zones


def _read_features(given: Any) -> tuple[str, NDArray[Any], dict[str, NDArray[Any]], Any]:
    from shapely.geometry import shape

    content = given.__geo_interface__
    if content.get("type") != "FeatureCollection":
        raise RequestError(f"zones are a {content.get('type')}; expected a collection of features, or a file")
    features = content["features"]
    polygons = _objects([shape(one["geometry"]) if one["geometry"] else None for one in features])
    columns = {
        key: _objects([(one["properties"] or {}).get(key) for one in features])
        for key in dict.fromkeys(key for one in features for key in one["properties"] or {})
    }
    return "the zones", polygons, columns, getattr(given, "crs", None)


def _read_file(given: str | Path, id_column: str | None) -> tuple[str, NDArray[Any], dict[str, NDArray[Any]], Any]:
    import pyogrio
    import shapely
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, GeometryError

    path = Path(os.path.expanduser(given))  # unlike the methods of Path, these raise nothing
    if not os.path.exists(path) or (os.path.isdir(path) and path.suffix != ".gdb"):
        what = "is a folder" if os.path.exists(path) else "does not exist"
        raise RequestError(f"{path} {what}; expected a file of polygons, such as fields.gpkg")
    try:
        layers = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
        if len(layers) > 1:
            raise RequestError(
                f"{path} holds {len(layers)} layers ({', '.join(layers)}); save the one you mean as its own file"
            )
        layer = layers[0] if layers else None
        fields = [str(name) for name in pyogrio.read_info(path, layer=layer)["fields"]]
        wanted = [name for name in fields if name == id_column or (not id_column and name.lower() in _IDS)]
        meta, _, wkb, values = pyogrio.raw.read(path, layer=layer, columns=wanted, force_2d=True)
        polygons = shapely.from_wkb(wkb if wkb is not None else [])
    except (DataLayerError, DataSourceError, FeatureError, GeometryError, shapely.errors.GEOSException) as error:
        reason = " ".join(str(error).split(";")[0].split()).rstrip(".")
        raise RequestError(
            f"{path} cannot be read: {reason}; expected polygons as GeoJSON, GeoPackage or Shapefile"
        ) from error
    if id_column and not wanted:
        raise RequestError(f"{path} has no column {id_column!r}; it has {', '.join(fields) or 'none'}")
    return path.name, _objects(list(polygons)), dict(zip(meta["fields"], values, strict=True)), meta["crs"]


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    """Return a 1-D array of objects."""
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _names(title: str, columns: dict[str, NDArray[Any]], id_column: str | None, count: int) -> NDArray[Any]:
    """Return the names of the zones from a column, or numbers from 1."""
    import pandas as pd

    if id_column is not None:
        if id_column not in columns:
            raise RequestError(f"{title} has no column {id_column!r}; it has {', '.join(columns) or 'none'}")
        ids = columns[id_column]
        missing, twice = pd.isna(ids), pd.Series(ids).duplicated().to_numpy()
        if missing.any():
            raise RequestError(f"{missing.sum()} zones of {title} have no {id_column}; give each one, or another --id")
        if twice.any():
            raise RequestError(
                f"{title} has {id_column} {ids[twice][0]} more than once; give another --id, or merge them"
            )
        return _plain(ids)
    for wanted in _IDS:
        for key, ids in columns.items():
            if key.lower() == wanted and not pd.isna(ids).any() and not pd.Series(ids).duplicated().any():
                return _plain(ids)
    log.warning("zones of %s are numbered from 1 in the order of the file; --id COLUMN names them", title)
    return np.arange(1, count + 1)


def _plain(ids: NDArray[Any]) -> NDArray[Any]:
    """Return names as whole numbers if all are, otherwise as text."""
    if all(isinstance(one, int | np.integer) for one in ids):
        return ids.astype(np.int64)
    return _objects([str(one) for one in ids])


def _check(zones: Zones) -> None:
    """Raise a RequestError for zones that are not valid polygons."""
    import shapely

    kinds = np.array([one.geom_type for one in zones.polygons])
    flat = ~np.isin(kinds, ["Polygon", "MultiPolygon"])
    if flat.any():
        zones._refuse(flat, f"is a {kinds[flat][0]}; expected polygons: use `mmnet points` for points, or buffer them")
    coordinates, index = shapely.get_coordinates(zones.polygons, return_index=True)
    wrong = np.isin(np.arange(len(kinds)), index[~np.isfinite(coordinates).all(1)])
    zones._refuse(wrong, "has coordinates that are not finite; repair the file")
    invalid = ~shapely.is_valid(zones.polygons)
    if invalid.any():
        reason = shapely.is_valid_reason(zones.polygons[invalid][0])
        zones._refuse(invalid, f"is not a valid polygon: {reason}; repair it with shapely.make_valid or buffer(0)")


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
            f"statistics cannot be written to {path}; give a file whose name ends in .csv, .parquet or .gpkg"
        )
    source = os.path.expanduser(zones) if zones is not None else ""
    if os.path.exists(path) and os.path.exists(source) and path.samefile(source):
        raise RequestError(f"{path} is the file of the zones; give another --out")
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
