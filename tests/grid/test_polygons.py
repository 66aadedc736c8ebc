"""Files of polygons as people have them: one reader for areas of interest and zones."""

from __future__ import annotations

import json
import logging
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely

from mmnet_maps.analysis.zone_io import read_zones
from mmnet_maps.errors import RequestError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.polygons import listed, plain_polygons, read_features

A, B = shapely.box(-119.5, 47.0, -119.4, 47.1), shapely.box(-119.3, 47.0, -119.2, 47.1)
RING = [[-119.5, 47.0], [-119.5, 47.1], [-119.4, 47.1], [-119.4, 47.0], [-119.5, 47.0]]
READERS = [read_aoi, read_zones]
DEGREES = 'GEOGCS["GCS_WGS_1984",DATUM["D_WGS_1984",SPHEROID["WGS_1984",6378137,298.257223563]],PRIMEM["Greenwich",0],UNIT["Degree",0.0174532925199433]]'  # noqa: E501


def write(path: Path, *polygons: Any, crs: str | None = "EPSG:4326", **columns: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of no CRS
        pyogrio.raw.write(
        path, geometry=shapely.to_wkb(np.array(polygons, object)), fields=np.array(list(columns), object),
        field_data=[np.array(values) for values in columns.values()], geometry_type="Polygon", crs=crs,
    )  # fmt: skip
    return path


def write_json(path: Path, *features: dict[str, Any], **more: Any) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **more}))
    return path


def feature(polygon: Any, **more: Any) -> dict[str, Any]:
    geometry = None if polygon is None else shapely.geometry.mapping(polygon)
    return {"type": "Feature", "properties": {}, "geometry": geometry, **more}


def archive(path: Path, files: dict[str, Path | str]) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        for name, content in files.items():
            out.writestr(name, content if isinstance(content, str) else content.read_bytes())
    return path


def refusal(reader: Any, path: Path, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        reader(path, **options)
    message = str(caught.value)
    assert path.name in message
    assert len(message) <= 300
    assert not any(word in message for word in ("\n", "GEOGCS", "LOCAL_CS", "driver explicitly"))
    return message


# ---- geometries ------------------------------------------------------------------------------------------------------


def test_curves_of_esri_json_are_not_lost_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    curve = [[[-119.3, 47.0], {"a": [[-119.3, 47.0], [-119.25, 47.0], 0, 1]}]]
    content = {
        "geometryType": "esriGeometryPolygon",
        "spatialReference": {"wkid": 4326},
        "fields": [{"name": "id", "type": "esriFieldTypeInteger"}],
        "features": [
            {"attributes": {"id": 7}, "geometry": {"rings": [RING]}},
            {"attributes": {"id": 8}, "geometry": {"curveRings": curve}},
        ],
    }
    path = tmp_path / "esri.json"
    path.write_text(json.dumps(content))
    assert "the geometry of feature 2 cannot be read, so part of the area would be missing" in refusal(read_aoi, path)
    assert read_zones(path).ids.tolist() == [7]
    assert "1 of 2 features of esri.json have no geometry and are left out: feature 2" in caplog.text


@pytest.mark.parametrize("reader", READERS)
def test_features_without_a_place_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, reader: Any) -> None:
    empty = feature(shapely.Polygon())
    reader(write_json(tmp_path / "a.geojson", feature(A), feature(None), empty, *[feature(None)] * 9))
    assert (
        "11 of 12 features of a.geojson have no geometry and are left out: feature 2, 3, 4, 5, 6 … and 6 more"
        in caplog.text
    )
    assert "is empty" in refusal(reader, write_json(tmp_path / "b.geojson", feature(None)))


def test_json_fg_places_are_read(tmp_path: Path) -> None:
    """The place of JSON-FG, in its own CRS: UTM zone 11 N, false easting 500 km at -117 degrees."""
    place = {
        "type": "Polygon",
        "coordinates": [[[500000, 5200000], [510000, 5200000], [510000, 5210000], [500000, 5200000]]],
    }
    path = tmp_path / "fg.json"
    path.write_text(
        json.dumps(
            {
                "type": "Feature", "conformsTo": ["http://www.opengis.net/spec/json-fg-1/0.2/conf/core"],
                "coordRefSys": "http://www.opengis.net/def/crs/EPSG/0/32611", "geometry": None, "place": place,
                "time": None, "properties": {"id": 1},
            }
        )
    )  # fmt: skip
    area = read_aoi(path).geometry
    assert area.bounds[0] == pytest.approx(-117, abs=1e-6)
    assert area.bounds[1] == pytest.approx(46.95, abs=0.01)
    shapely.testing.assert_geometries_equal(
        read_zones(path).to_crs("OGC:CRS84")[0].bounds, area.bounds
    ) if False else None
    np.testing.assert_allclose(shapely.bounds(read_zones(path).to_crs("OGC:CRS84"))[0], area.bounds, atol=1e-6)


def test_curves_become_lines(tmp_path: Path) -> None:
    """A circle of 0.1 degrees."""
    circle = "CURVEPOLYGON(CIRCULARSTRING(-119.5 47,-119.4 47.1,-119.3 47,-119.4 46.9,-119.5 47))"
    path = tmp_path / "c.csv"
    path.write_text(f'id,WKT\n1,"{circle}"\n')
    for found in (read_aoi(path).geometry, read_zones(path).polygons[0]):
        assert found.area == pytest.approx(np.pi * 0.01, rel=2e-3)


@pytest.mark.parametrize("wkt", ["POLYGON ZM", "POLYGON M", "POLYGON Z", "MULTIPOLYGON ZM"])
def test_heights_and_measures_are_dropped(tmp_path: Path, wkt: str) -> None:
    more = " 5" * (len(wkt.split()[1]))
    ring = f"(({', '.join(f'{x} {y}{more}' for x, y in RING)}))"
    (tmp_path / "m.csv").write_text(f'id,WKT\n1,"{wkt} {f"({ring})" if "MULTI" in wkt else ring}"\n')
    for found in (read_aoi(tmp_path / "m.csv").geometry, read_zones(tmp_path / "m.csv").polygons[0]):
        assert found.equals(A)
        assert not found.has_z
        assert shapely.get_num_coordinates(found) == 5


@pytest.mark.parametrize("reader", READERS)
def test_collections_and_open_rings_are_read(tmp_path: Path, reader: Any) -> None:
    ring = {"type": "Polygon", "coordinates": [RING[:-1]]}
    other = shapely.geometry.mapping(B)
    whole = {"type": "GeometryCollection", "geometries": [ring, {"type": "GeometryCollection", "geometries": [other]}]}
    path = write_json(tmp_path / "a.geojson", {"type": "Feature", "properties": {"id": 3}, "geometry": whole})
    found = read_aoi(path).geometry if reader is read_aoi else read_zones(path).polygons[0]
    assert found.equals(shapely.MultiPolygon([A, B]))
    path = write_json(tmp_path / "b.geojson", feature(A), feature(shapely.GeometryCollection([A, shapely.Point(1, 2)])))
    assert "is a GeometryCollection; expected polygons: use `mmnet points`" in refusal(reader, path)


@pytest.mark.parametrize("reader", READERS)
def test_flat_polygons_are_refused(tmp_path: Path, reader: Any) -> None:
    flat = shapely.Polygon([(-119.5, 47), (-119.4, 47), (-119.45, 47), (-119.5, 47)])
    huge = shapely.Polygon([(0, 0), (1e200, 1e300), (1e300, 0), (0, 1e300)])
    for one in (flat, huge):
        assert "is not a valid polygon" in refusal(reader, write_json(tmp_path / "flat.geojson", feature(one)))


def test_coordinates_of_geojson_are_kept_to_the_last_bit(tmp_path: Path) -> None:
    """Fingerprints of maps hold them."""
    angles = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    star = np.random.default_rng(0).uniform(0.1, 1, 500)[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
    polygon = shapely.Polygon(star + np.array([-100, 40]))
    assert read_aoi(write_json(tmp_path / "a.geojson", feature(polygon))).geometry.wkb == polygon.wkb


# ---- coordinate systems ----------------------------------------------------------------------------------------------


LUNAR = DEGREES.replace("WGS_1984", "Moon").replace("6378137,298.257223563", "1737400,0")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("prj", "message"),
    [
        (
            'LOCAL_CS["site plan",UNIT["metre",1]]',
            "the coordinate system 'site plan' (Engineering CRS), which has no place",
        ),
        (
            'ENGCRS["dam",EDATUM["x"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]',
            "that GDAL does not know",
        ),
        (LUNAR, "'GCS_Moon', which cannot be turned into longitude and latitude"),
        ("PROJCS[broken", "that GDAL does not know; expected one such as EPSG:5070: assign it again"),
        ("nonsense", "that GDAL does not know"),
        (DEGREES.replace("GCS_WGS", "GCS_W\xff"), "that GDAL does not know"),  # pyogrio fails of itself
        ("", None),
    ],
)
def test_coordinate_systems_of_other_places(tmp_path: Path, reader: Any, prj: str, message: str | None) -> None:
    path = write(tmp_path / "a.shp", A, name=["x"])
    path.with_suffix(".prj").write_bytes(prj.encode("latin-1"))
    if message is None:
        reader(path)
    else:
        assert message in refusal(reader, path)


@pytest.mark.parametrize("reader", READERS)
def test_feet_without_a_crs_are_named(tmp_path: Path, reader: Any) -> None:
    feet = shapely.box(1950030, 40438, 1952570, 43396)
    message = refusal(reader, write(tmp_path / "a.shp", feet, crs=None, name=["x"]))
    assert "spans 1.95003e+06 to 1.95257e+06 by 40438 to 43396" in message
    assert "look like projected coordinates but no CRS is stated; give a file that states its CRS" in message
    message = refusal(reader, write_json(tmp_path / "a.geojson", feature(feet)))
    assert "but longitude and latitude are stated (GeoJSON's default)" in message


@pytest.mark.parametrize("size", [1e8, 1e12, 1e300])
def test_huge_zones_are_refused_at_once(tmp_path: Path, size: float) -> None:
    path = write(tmp_path / "a.gpkg", A, shapely.box(-size, -size, size, size), crs="EPSG:3857", id=[1, 2])
    assert "zone 2 of a.gpkg has coordinates outside its coordinate system" in refusal(read_zones, path)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_archives_with_folders_are_read(tmp_path: Path) -> None:
    write(tmp_path / "huc.shp", A, B, HUC12=["170200150101", "020200150102"])
    parts = {f.name: f for f in tmp_path.glob("huc.*")}
    deep = {f"WBD/Shape/{name}": file for name, file in parts.items()}
    mac = {f"__MACOSX/WBD/Shape/._{name}": "x" for name in parts}
    for files in (parts, deep, deep | mac | {"read me.pdf": "x", "about.json": "{}"}):
        path = archive(tmp_path / "WBD.zip", files)
        assert read_zones(path, id_column="HUC12").ids.tolist() == ["170200150101", "020200150102"]
        assert read_aoi(path).geometry.equals(shapely.MultiPolygon([A, B]))
    two = deep | {f"WBD/Shape/other{name[3:]}": file for name, file in parts.items()}
    message = refusal(read_aoi, archive(tmp_path / "two.zip", two))
    assert "holds 2 vector files (WBD/Shape/huc.shp, WBD/Shape/other.shp); unpack it" in message
    message = refusal(read_aoi, archive(tmp_path / "outer.zip", {"in/WBD.zip": tmp_path / "WBD.zip"}))
    assert "holds no vector file (in/WBD.zip)" in message


@pytest.mark.parametrize("reader", READERS)
def test_broken_files_give_one_line(tmp_path: Path, reader: Any) -> None:
    whole = write(tmp_path / "whole.fgb", *[A, B] * 40, id=np.arange(80)).read_bytes()
    for length in (10, 200, len(whole) // 2, len(whole) - 20):
        (tmp_path / "cut.fgb").write_bytes(whole[:length])
        refusal(reader, tmp_path / "cut.fgb")
    (tmp_path / "table.csv").write_text("id,name\n1,a\n")
    assert "holds no layer of geometries" in refusal(reader, tmp_path / "table.csv")
    os.mkfifo(tmp_path / "pipe.geojson")
    assert "is not a regular file" in refusal(reader, tmp_path / "pipe.geojson")
    (tmp_path / "empty.gpkg").touch()
    assert "is an empty file" in refusal(reader, tmp_path / "empty.gpkg")
    name = tmp_path / ("long" * 20) / ("name" * 30 + ".gpkg")
    name.parent.mkdir()
    name.write_text("x")
    with pytest.raises(RequestError) as caught:
        reader(name)
    assert len(str(caught.value)) <= 300


def test_a_geopackage_of_a_raster_is_refused(tmp_path: Path) -> None:
    import rasterio

    place = rasterio.transform.from_origin(-119, 47, 0.1, 0.1)
    with rasterio.open(
        tmp_path / "r.gpkg", "w", driver="GPKG", width=8, height=8, count=1, dtype="uint8", crs="EPSG:4326",
        transform=place,
    ) as out:  # fmt: skip
        out.write(np.ones((1, 8, 8), np.uint8))
    for reader in READERS:
        assert "cannot be read: not recognized as being in a supported file format" in refusal(
            reader, tmp_path / "r.gpkg"
        )


def test_text_in_another_encoding_than_stated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.shp", A, name=["x"])
    table = path.with_suffix(".dbf").read_bytes()
    path.with_suffix(".dbf").write_bytes(table.replace(b"x", b"\xe9"))
    path.with_suffix(".cpg").write_text("UTF-8")
    assert read_aoi(path).geometry.equals(A)
    assert "text that is not in the encoding it states" in refusal(read_zones, path)
    path.with_suffix(".cpg").write_text("CP1252")
    assert read_zones(path).ids.tolist() == ["é"]


def test_long_lists_are_short_in_messages(tmp_path: Path) -> None:
    columns = {f"column_{k}": ["x"] for k in range(40)}
    message = refusal(read_zones, write(tmp_path / "a.gpkg", A, **columns), id_column="field")
    assert "it has column_0, column_1, column_2, column_3, column_4 … and 36 more" in message
    assert listed(["x" * 500]) == "x" * 23 + "…"


# ---- names of zones --------------------------------------------------------------------------------------------------


def test_real_numbers_that_are_whole_are_whole_names(tmp_path: Path) -> None:
    for values in ([1001.0, 1002.0], np.array([1001, 1002], np.int32)):
        assert read_zones(write(tmp_path / "a.shp", A, B, ID=values)).ids.tolist() == [1001, 1002]
    assert read_zones(write(tmp_path / "a.gpkg", A, B, id=[1.5, 2.0])).ids.tolist() == ["1.5", "2.0"]
    assert read_zones(write(tmp_path / "b.gpkg", A, B, id=["1001.0", "x"])).ids.tolist() == ["1001.0", "x"]


def test_primary_keys_are_columns(tmp_path: Path) -> None:
    assert read_zones(write(tmp_path / "a.gpkg", A, B, crop=["x", "x"]), id_column="fid").ids.tolist() == [1, 2]
    path = tmp_path / "b.gpkg"
    pyogrio.raw.write(
        path, geometry=shapely.to_wkb(np.array([A, B])), fields=np.array(["id"], object),
        field_data=[np.array([8, 5])], geometry_type="Polygon", crs="EPSG:4326", layer_options={"FID": "id"},
    )  # fmt: skip
    assert sorted(read_zones(path).ids.tolist()) == [5, 8]
    assert "it has column_0, column_1" in refusal(
        read_zones, write(tmp_path / "c.gpkg", A, column_0=["x"], column_1=["x"]), id_column="field"
    )


def test_missing_and_inexact_ids_are_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_json(tmp_path / "a.geojson", *[feature(A, properties={"id": k}) for k in (7, None, 9)])
    assert read_zones(path).ids.tolist() == [1, 2, 3]
    assert "numbered from 1" in caplog.text
    assert "1 zone of a.geojson has no id; name every zone" in refusal(read_zones, path, id_column="id")
    path = write_json(tmp_path / "b.geojson", *[feature(A, properties={"code": k, "id": " "}) for k in "ab"])
    assert "2 zones of b.geojson have no id" in refusal(read_zones, path, id_column="id")
    path = write(tmp_path / "c.gpkg", A, B, id=[1702001501010001.0, 2.0**60])
    assert "a number too long to be kept exactly" in refusal(read_zones, path, id_column="id")
    with caplog.at_level(logging.WARNING):
        assert read_zones(path).ids.tolist() == [1, 2]


@pytest.mark.parametrize("ids", [[0, 1], [9, 4], ["CLU-1", "CLU-2"], [-3, 1]])
def test_ids_of_features_beside_their_properties(tmp_path: Path, ids: list[Any]) -> None:
    features = [feature(one, id=k, properties={"crop": "x"}) for k, one in zip(ids, (A, B), strict=True)]
    path = write_json(tmp_path / "a.geojson", *features)
    for found in (read_zones(path), read_zones(path, id_column="id")):
        assert found.ids.tolist() == ids
        assert found.polygons[0].equals(A)


def test_messages_are_short_whatever_the_names(tmp_path: Path) -> None:
    folder = tmp_path / ("f" * 150)
    long = "n" * 120
    feet = shapely.box(1950030, 40438, 1952570, 43396)
    two = {f"{'folder' * 5}{k}/{'name' * 9}{k}.gpkg": "x" for k in range(9)}
    folder.mkdir()
    for path in (
        write_json(folder / f"{long}.geojson", feature(feet)),
        write_json(folder / f"{long}c.geojson", feature(A), crs={"type": "x" * 900}),
        write_json(folder / f"{long}d.geojson", feature(A), crs={"properties": {"name": "x" * 900}}),
        write_json(folder / f"{long}p.geojson", *[feature(A)] * 3, feature(shapely.Point(1, 2))),
        archive(folder / f"{long}.zip", two),
        archive(folder / f"{long}e.zip", {f"{'a' * 90}{k}.pdf": "x" for k in range(9)}),
        folder / f"{long}none.gpkg",
        folder,
    ):
        for reader in READERS:
            with pytest.raises(RequestError) as caught:
                reader(path)
            assert len(str(caught.value)) <= 300
    with pytest.raises(RequestError) as caught:
        read_zones(write_json(folder / f"{long}.json", feature(A, properties={"c" * 300: "x"})), id_column="z" * 300)
    assert len(str(caught.value)) <= 300


LISTED = '{"type": "FeatureCollection", "features": [%s]}'
CORNERS = "[[[-119.6, 47], [-119.5, 47], [-119.5, 47.1], [-119.6, 47]]]"
POLYGON = f'{{"type": "Polygon", "coordinates": {CORNERS}}}'


@pytest.mark.parametrize(
    "content",
    [
        POLYGON,
        f"\ufeff{POLYGON}",
        f'{{"type": "MultiPolygon", "coordinates": [{CORNERS}, {CORNERS}]}}',
        f'{{"type": "Feature", "properties": {{"crs_of": 1}}, "geometry": {POLYGON}}}',
        LISTED % f'{{"type": "Feature", "properties": null, "geometry": {POLYGON}}}',
    ],
)
def test_plain_geojson_is_read_as_by_gdal(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(content, encoding="utf-8")
    plain, features = plain_polygons(path), read_features(path)
    assert plain is not None
    assert [one.wkb for one in plain] == [one.wkb for one in features.geometries]
    assert features.crs == "EPSG:4326"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\udcff",
        POLYGON[:-9],
        POLYGON.replace("47]", "47, 300]"),
        POLYGON.replace(", [-119.6, 47]]", "]"),
        POLYGON.replace("Polygon", "Point").replace("[[[", "["),
        '{"type": "Polygon", "coordinates": []}',
        '{"type": "FeatureCollection", "features": []}',
        f'{{"type": "Feature", "crs": null, "geometry": {POLYGON}}}',
        f'{{"type": "GeometryCollection", "geometries": [{POLYGON}]}}',
        LISTED % f'{{"type": "Feature", "geometry": {POLYGON}}}, {{"type": "Feature"}}',
    ],
)
def test_other_geojson_is_left_to_gdal(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert plain_polygons(path) is None
    assert plain_polygons(tmp_path / "a.gpkg") is None
