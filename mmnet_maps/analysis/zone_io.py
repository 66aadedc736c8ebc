"""Polygons that are zones as files have them, and tables of their statistics."""

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

from mmnet_maps.errors import OutputError, RequestError
from mmnet_maps.files import write_whole
from mmnet_maps.grid.area import LONLAT

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

_IDS = ("zone", "id", "name")
_LAYER = "zones"
_OURS = ["zone", "date", "mean", "median", "std", "p10", "p90", "valid_share", "pixels", "area_ha"]  # first columns
_EDGE_METRES = 1000.0
EDGE_DEGREES = 0.01
"""Edges in longitude and latitude are bent at this distance, about 1 km."""


@dataclass(frozen=True, kw_only=True)
class Zones:
    """Polygons with names.

    Attributes
    ----------
    name
        What they are, for people: the file's name.
    ids
        Their names (zone,), text or numbers, each once.
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
        """The polygons (zone,) in another CRS, long edges bent as they are there; empty where it cannot show them."""
        import pyproj
        import shapely

        given, wanted = pyproj.CRS.from_user_input(self.crs), pyproj.CRS.from_user_input(crs)
        if given.equals(wanted, ignore_axis_order=True):
            return self.polygons
        edge = _EDGE_METRES / given.axis_info[0].unit_conversion_factor if given.is_projected else EDGE_DEGREES
        found = moved(shapely.segmentize(self.polygons, edge), given, wanted)
        found[~np.isfinite(shapely.bounds(found)).all(1)] = shapely.Polygon()
        torn = ~shapely.is_valid(found)  # slivers: rounding may let edges cross that nearly touched
        found[torn] = shapely.buffer(found[torn], 0)
        return found

    def _refuse(self, wrong: NDArray[np.bool_], why: str) -> None:
        if wrong.any():
            more = f" ({wrong.sum()} of {len(wrong)} zones are like that)" if wrong.sum() > 1 else ""
            raise RequestError(f"zone {self.ids[wrong][0]} of {self.name} {why}{more}")


def moved(geometries: NDArray[Any], source: Any, target: Any) -> NDArray[Any]:
    """Geometries with their vertices in another CRS, x (or longitude) first; infinite where it cannot show them."""
    import pyproj
    import shapely

    move = pyproj.Transformer.from_crs(source, target, always_xy=True)
    found: NDArray[Any] = shapely.transform(geometries, lambda xy: np.column_stack(move.transform(xy[:, 0], xy[:, 1])))
    return found


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_zones(given: Any, *, id_column: str | None = None) -> Zones:
    """Read polygons that are zones.

    Parameters
    ----------
    given
        A vector file (GeoJSON, GeoPackage, Shapefile or anything else pyogrio reads), or an object with
        ``__geo_interface__`` that is a collection of features, such as a GeoDataFrame. Coordinates are longitude and
        latitude unless it says otherwise. Features without a geometry are left out, with a notice.
    id_column
        The attribute that names the zones; by default the first of ``zone``, ``id`` and ``name`` (in any case) that
        all have and no two share, else they are numbered from 1.

    Returns
    -------
    Zones
        In the order of the file.

    Raises
    ------
    RequestError
        When it cannot be read, has no such column, or a zone has no name, the name of another, or is no valid polygon.
    """
    if hasattr(given, "__geo_interface__"):
        name, polygons, columns, crs = _of_features(given)
    else:
        name, polygons, columns, crs = _of_file(given, id_column)
    there = np.array([polygon is not None and not polygon.is_empty for polygon in polygons], bool)
    if not there.any():
        raise RequestError(f"{name} is empty; expected polygons")
    if not there.all():
        log.warning("%d of %d features of %s have no geometry and are left out", (~there).sum(), len(there), name)
    ids = _named(name, {key: values[there] for key, values in columns.items()}, id_column, int(there.sum()))
    zones = Zones(name=name, ids=ids, polygons=polygons[there], crs=crs or LONLAT)
    _check(zones)
    return zones


def _of_features(given: Any) -> tuple[str, NDArray[Any], dict[str, NDArray[Any]], Any]:
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


def _of_file(given: str | Path, id_column: str | None) -> tuple[str, NDArray[Any], dict[str, NDArray[Any]], Any]:
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
    """An array of objects, whatever they are."""
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _named(name: str, columns: dict[str, NDArray[Any]], id_column: str | None, count: int) -> NDArray[Any]:
    import pandas as pd

    if id_column is not None:
        if id_column not in columns:
            raise RequestError(f"{name} has no column {id_column!r}; it has {', '.join(columns) or 'none'}")
        ids = columns[id_column]
        missing, twice = pd.isna(ids), pd.Series(ids).duplicated().to_numpy()
        if missing.any():
            raise RequestError(f"{missing.sum()} zones of {name} have no {id_column}; give each one, or another --id")
        if twice.any():
            raise RequestError(
                f"{name} has {id_column} {ids[twice][0]} more than once; give another --id, or merge them"
            )
        return _plain(ids)
    for wanted in _IDS:
        for key, ids in columns.items():
            if key.lower() == wanted and not pd.isna(ids).any() and not pd.Series(ids).duplicated().any():
                return _plain(ids)
    log.warning("zones of %s are numbered from 1 in its order; --id COLUMN names them", name)
    return np.arange(1, count + 1)


def _plain(ids: NDArray[Any]) -> NDArray[Any]:
    """Names as whole numbers where they are, else as text."""
    if all(isinstance(one, int | np.integer) for one in ids):
        return ids.astype(np.int64)
    return _objects([str(one) for one in ids])


def _check(zones: Zones) -> None:
    import shapely

    kinds = np.array([one.geom_type for one in zones.polygons])
    flat = ~np.isin(kinds, ["Polygon", "MultiPolygon"])
    if flat.any():
        zones._refuse(flat, f"is a {kinds[flat][0]}; expected polygons: use `mmnet points` for points, or buffer them")
    coordinates, index = shapely.get_coordinates(zones.polygons, return_index=True)
    wrong = np.isin(np.arange(len(kinds)), index[~np.isfinite(coordinates).all(1)])
    zones._refuse(wrong, "has coordinates that are not finite numbers; repair the file")
    invalid = ~shapely.is_valid(zones.polygons)
    if invalid.any():
        reason = shapely.is_valid_reason(zones.polygons[invalid][0])
        zones._refuse(invalid, f"is not a valid polygon: {reason}; repair it with shapely.make_valid or buffer(0)")


# ---- writing ---------------------------------------------------------------------------------------------------------


def check_target(path: str | Path, zones: str | Path | None = None) -> Path:
    """The path that statistics go to, once it is known that they may.

    Parameters
    ----------
    path
        What was asked for.
    zones
        The file that the zones come from.

    Raises
    ------
    RequestError
        When its ending is none of ``.csv``, ``.parquet`` and ``.gpkg``, it is a folder, or the file of the zones.
    OutputError
        When a GeoPackage is there that holds anything else.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet", ".gpkg") or os.path.isdir(path):
        raise RequestError(
            f"statistics are to be written to {path}; give a file whose name ends in .csv, .parquet or .gpkg"
        )
    source = os.path.expanduser(zones) if zones is not None else ""
    if os.path.exists(path) and os.path.exists(source) and path.samefile(source):
        raise RequestError(f"{path} is the file of the zones; give another --out")
    if path.suffix == ".gpkg" and os.path.exists(path) and not _is_ours(path):
        raise OutputError(f"{path} was not made by mmnet_maps and is never overwritten; move it away")
    return path


def _is_ours(path: Path) -> bool:
    """Whether a GeoPackage has the layer and the columns of `write_statistics`, and no other layer."""
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        layers = [name for name, _ in pyogrio.list_layers(path)]
        return layers == [_LAYER] and list(pyogrio.read_info(path)["fields"][: len(_OURS)]) == _OURS
    except (DataLayerError, DataSourceError):
        return False


def write_statistics(table: pd.DataFrame, path: str | Path, zones: Zones) -> None:
    """Write statistics as CSV, Parquet or GeoPackage, by the name of the file; it appears whole or not at all.

    Parameters
    ----------
    table
        As `zones.zonal_statistics` gives it.
    path
        ``.csv``, ``.parquet``, or ``.gpkg``: the same rows, each with its polygon in the CRS that it came in, as layer
        ``zones``.
    zones
        The zones of the table.

    Raises
    ------
    RequestError, OutputError
        As `check_target`, or when it cannot be written.
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
