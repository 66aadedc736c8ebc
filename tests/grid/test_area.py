from __future__ import annotations

import json
import re
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyogrio
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from mmnet_maps.errors import RequestError
from mmnet_maps.grid.area import CONUS_EXTENT, FIRST_DAY, parse_days, read_aoi, transform_geometry
from mmnet_maps.grid.area_names import file_name
from mmnet_maps.resources import packaged

FIELD = shapely.Polygon([(-119.5, 47.0), (-119.2, 47.05), (-119.3, 47.3)])
HOLED = shapely.Polygon(
    [(-120, 47), (-119, 47), (-119, 48), (-120, 48)], [[(-119.7, 47.3), (-119.3, 47.3), (-119.5, 47.6)]]
)


with np.errstate(invalid="ignore"):
    NOT_A_NUMBER = shapely.Polygon([(-119, 46), (-118, np.nan), (-118, 47)])
    INFINITE = shapely.Polygon([(-119, 46), (-118, np.inf), (-118, 47)])


def write_geojson(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def feature(geometry: shapely.Geometry) -> dict[str, Any]:
    return {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(geometry)}


def write_vector(path: Path, geometries: list[shapely.Geometry], crs: str | None, **options: Any) -> Path:
    pyogrio.raw.write(
        path,
        np.array([shapely.to_wkb(geometry) for geometry in geometries], object),
        [np.arange(len(geometries))],
        ["id"],
        geometry_type=options.pop("geometry_type", geometries[0].geom_type),
        crs=crs,
        **options,
    )
    return path


def refusal(aoi: Any) -> str:
    with pytest.raises(RequestError) as caught:
        read_aoi(aoi)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) <= 300
    return message


@pytest.mark.parametrize("wrap", ["geometry", "feature", "collection", "geometry collection", "bom"])
def test_every_kind_of_geojson_gives_the_polygon(tmp_path: Path, wrap: str) -> None:
    geometry = dict(shapely.geometry.mapping(HOLED))
    content = {
        "geometry": geometry,
        "bom": geometry,
        "feature": feature(HOLED),
        "collection": {"type": "FeatureCollection", "features": [feature(HOLED), {**feature(HOLED), "geometry": None}]},
        "geometry collection": {"type": "GeometryCollection", "geometries": [geometry]},
    }[wrap]
    path = tmp_path / "North field (2).geojson"
    path.write_text(json.dumps(content), encoding="utf-8-sig" if wrap == "bom" else "utf-8")
    area = read_aoi(path)
    assert area.name == "North_field_2"
    assert area.notice is None
    assert area.geometry.equals(HOLED)


def test_several_features_become_one_area(tmp_path: Path) -> None:
    parts = [
        shapely.box(-119.5, 47, -119.3, 47.2),
        shapely.box(-119.4, 47.1, -119.2, 47.3),
        shapely.box(-110, 40, -109, 41),
    ]
    path = write_geojson(
        tmp_path / "a.geojson", {"type": "FeatureCollection", "features": [feature(part) for part in parts]}
    )
    area = read_aoi(str(path))
    assert area.geometry.geom_type == "MultiPolygon"
    assert area.geometry.area == pytest.approx(0.04 + 0.04 - 0.01 + 1.0)


@pytest.mark.parametrize("name", ["fields.gpkg", "fields.shp", "fields.fgb", "fields.geojson"])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4269", "EPSG:5070", "EPSG:32611", "EPSG:2927"])
def test_files_of_many_kinds_and_crs_give_the_same_area(tmp_path: Path, name: str, crs: str) -> None:
    moved = transform_geometry(FIELD, "OGC:CRS84", crs)
    path = tmp_path / name
    if name.endswith(".geojson"):
        epsg = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{crs[5:]}"}}
        write_geojson(path, {"type": "FeatureCollection", "crs": epsg, "features": [feature(moved)]})
    else:
        write_vector(path, [moved], crs)
    area = read_aoi(path)
    assert area.name == "fields"
    # Straight edges of a projected file lie some metres from straight edges in longitude and latitude.
    assert area.geometry.hausdorff_distance(FIELD) < 1e-3
    corners = shapely.get_coordinates(FIELD)
    assert shapely.distance(area.geometry, shapely.points(corners)).max() < 1e-7


def test_edges_of_a_projected_file_stay_straight_in_its_projection(tmp_path: Path) -> None:
    square = shapely.box(-1_800_000, 2_800_000, -1_700_000, 2_900_000)
    area = read_aoi(write_vector(tmp_path / "square.gpkg", [square], "EPSG:5070"))
    back = transform_geometry(area.geometry, "OGC:CRS84", "EPSG:5070")
    assert back.hausdorff_distance(square) < 0.1


def test_height_is_dropped_and_a_table_beside_the_layer_is_no_matter(tmp_path: Path) -> None:
    path = write_vector(tmp_path / "a.gpkg", [shapely.force_3d(FIELD, 300.0)], "EPSG:4326", geometry_type="Polygon Z")
    pyogrio.raw.write(
        path, None, [np.arange(2)], ["style"], geometry_type=None, layer="layer_styles", append=True, driver="GPKG"
    )
    area = read_aoi(path)
    assert not area.geometry.has_z
    assert area.geometry.equals(FIELD)


def test_bounds_and_shapely_geometries() -> None:
    for aoi in ("-119.5,47,-119.25,47.5", " -119.5, 47, -119.25, 47.5", (-119.5, 47, -119.25, 47.5)):
        area = read_aoi(aoi)
        assert area.name == "aoi_119.5W_47N_119.25W_47.5N"
        assert area.geometry.bounds == (-119.5, 47, -119.25, 47.5)
    assert read_aoi(HOLED).geometry.equals(HOLED)


def test_areas_without_a_file_have_names_of_their_own() -> None:
    bounds = ["-119.5,47,-119.25,47.5", "-119.5,47,-119.25,47.4", "-119.5,47,-119.25,47.50001"]
    west, south, east, north = -119.5, 47.0, -119.25, 47.5
    shapes = [
        shapely.Polygon([(west, south), (east, south), (east, north)]),
        shapely.Polygon([(west, south), (east, south), (west, north)]),
    ]
    names = [read_aoi(one).name for one in (*bounds, *shapes)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"aoi_119\.5W_47N_119\.25W_47\.[45]N(_[0-9a-f]{6})?", name) for name in names)
    assert read_aoi(shapely.box(west, south, east, north)).name == names[0]


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("fields", "fields"),
        ("grant county.v2", "grant_county_v2"),
        ("Zürich", "Zürich"),
        ("Zu\u0308rich", "Zürich"),  # decomposed, as macOS writes it
        ("北京", "北京"),
        ("Ñ", "Ñ"),
        ("हिन्दी", "हिन्दी"),
        ("closure", "closure_area"),
        ("closure_north", "closure_north"),
        ("🌽", "aoi_119.5W_47N_119.25W_47.5N"),
    ],
)
def test_names_of_files_stay_readable(tmp_path: Path, stem: str, name: str) -> None:
    field = shapely.box(-119.5, 47.0, -119.25, 47.5)
    assert read_aoi(write_geojson(tmp_path / f"{stem}.geojson", feature(field))).name == name


def test_long_names_are_cut_and_stay_distinct() -> None:
    one, other = file_name("北" * 80 + "一"), file_name("北" * 80 + "二")
    assert one != other
    assert one.startswith("北" * 50)
    assert max(len(name.encode()) for name in (one, other)) <= 160


def test_the_packaged_example_stands_in_with_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    area = read_aoi("grant_county.geojson")
    assert area.name == "grant_county"
    assert area.notice is not None
    assert "packaged example" in area.notice
    write_geojson(tmp_path / "grant_county.geojson", feature(FIELD))
    own = read_aoi("grant_county.geojson")
    assert own.notice is None
    assert own.geometry.equals(FIELD)
    assert "does not exist" in refusal("elsewhere/grant_county.geojson")


def test_the_example_is_a_small_faithful_outline() -> None:
    path = packaged("examples") / "grant_county.geojson"
    outline = read_aoi(path).geometry
    corners = shapely.get_coordinates(outline)
    assert len(corners) <= 60
    np.testing.assert_array_equal(corners, np.round(corners, 3))
    area = pyproj.Geod(ellps="GRS80").geometry_area_perimeter(shapely.segmentize(outline, 0.01))[0]
    assert abs(area) / 1e6 == pytest.approx(7230, rel=0.01)


def test_the_example_follows_the_census_outline() -> None:
    path = Path(__file__).parents[3] / "shared/data/aoi/grant_county_wa.geojson"
    if not path.exists():
        pytest.skip("the full outline of Grant County is not at hand")
    full, small = read_aoi(path).geometry, read_aoi("grant_county.geojson").geometry
    assert full.symmetric_difference(small).area / full.area < 0.02


@pytest.mark.parametrize(
    ("aoi", "words"),
    [
        ("nowhere.gpkg", "does not exist"),
        ("-119.5,47,-119.2", "3 numbers"),
        ("-119.2,47,-119.5,47.3", "reversed"),
        ("-119.5,47.3,-119.2,47", "reversed"),
        ("-119.5,47,-119.5,47.3", "empty"),
        ("-119.5,nan,-119.2,47", "not all finite"),
        ("47,-119.5,47.3,-119.2", "swapped"),
        ("240.5,47,240.8,47.3", "subtract 360"),
        ("-1800000,2800000,-1790000,2810000", "projected"),
        ("-156,19,-155,20", "outside the conterminous United States"),
        ("-120,47,-119,50.5", "expected longitude -125 to -66.5 and latitude 24 to 49.6"),
        (("a", 1, 2, 3), "not understood"),
        (7, "not understood"),
        ("x" * 5000, "does not exist"),
        ("", "area of interest '' does not exist"),
        ("-119.5 47 -119.2 47.3", "or bounds as west,south,east,north"),
        ("179,47,-179,48", "reversed"),
        ("-119.5,47,-119.2,95", "outside the conterminous United States"),
        ("1e300,47,2e300,48", "these look like projected coordinates but no CRS is stated"),
    ],
)
def test_wrong_requests_are_told_in_one_line(aoi: Any, words: str) -> None:
    assert words in refusal(aoi)


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        (shapely.Point(-119, 47), "mmnet points"),
        (shapely.LineString([(-119, 47), (-118, 48)]), "mmnet points"),
        (shapely.GeometryCollection([FIELD, shapely.Point(-119, 47)]), "mmnet points"),
        (shapely.Polygon(), "empty"),
        (shapely.GeometryCollection(), "empty"),
        (shapely.Polygon([(-119, 46), (-118, 47), (-118, 46), (-119, 47)]), "Self-intersection at -118.5, 46.5"),
        (NOT_A_NUMBER, "not finite"),
        (INFINITE, "not finite"),
        (shapely.Polygon([(-119, 46), (-118, 46), (-117, 46)]), "not a valid polygon"),
        (shapely.Polygon([(47, -119.5), (47.3, -119.5), (47.3, -119.2)]), "swapped"),
    ],
)
def test_wrong_geometries_are_told_in_one_line(tmp_path: Path, geometry: shapely.Geometry, words: str) -> None:
    assert words in refusal(geometry)
    path = write_geojson(tmp_path / "a.geojson", feature(geometry))
    message = refusal(path)
    assert words in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.geojson", "", "is an empty file"),
        ("a.geojson", '{"type": "Polygon", "coordinates"', "cannot be read: JSON parsing error"),
        (
            "a.geojson",
            '{"type": "Polygon", "coordinates": [[[1]]]}',
            "cannot be read: Failed to read GeoJSON data; expected polygons",
        ),
        (
            "a.geojson",
            '{"type": "Polygon", "coordinates": 3}',
            "cannot be read: Failed to read GeoJSON data; expected polygons",
        ),
        ("a.geojson", '{"type": "Polygon"}', "Missing 'coordinates' member"),
        ("a.geojson", '{"type": "FeatureCollection"}', "Missing 'features' member"),
        ("a.geojson", '{"type": "FeatureCollection", "features": []}', "empty"),
        ("a.geojson", '{"type": "Feature", "geometry": null}', "empty"),
        ("a.geojson", '{"hello": 1}', "cannot be read: not recognized"),
        ("a.geojson", "[" * 100_000, "cannot be read: not recognized"),
        ("a.geojson", '{"type": "Polygon", "coordinates": ' + "[" * 100_000 + "]" * 100_000 + "}", "nesting too deep"),
        ("a.geojson", "\xff\xfe", "cannot be read: not recognized"),
        (
            "a.geojson",
            '{"type": "Polygon", "crs": {"type": "link"}, "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}',
            "names no CRS",
        ),
        ("a.gpkg", "no database", "cannot be read: not recognized"),
        ("a.shp", "x", "has no .shx beside it; copy all files of the shapefile"),
        ("a.zip", "PK", "is not a whole zip archive"),
        ("a.txt", "hello", "cannot be read: not recognized"),
    ],
)
def test_unreadable_files_are_told_in_one_line(tmp_path: Path, name: str, content: str, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode("latin-1"))
    assert words in refusal(path)


def test_wrong_crs_and_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    crs = {"type": "name", "properties": {"name": "EPSG:0"}}
    assert "unknown coordinate system" in refusal(write_geojson(tmp_path / "a.geojson", {**feature(FIELD), "crs": crs}))
    crs = {"type": "name", "properties": {"name": "EPSG:5070"}}
    far = shapely.box(1e12, 1e12, 2e12, 2e12)
    assert "check the file's CRS" in refusal(write_geojson(tmp_path / "b.geojson", {**feature(far), "crs": crs}))
    huge = shapely.box(-1e7, -1e7, 1e7, 1e7)
    assert "outside" in refusal(write_geojson(tmp_path / "b.geojson", {**feature(huge), "crs": crs}))
    assert "folder" in refusal(tmp_path)
    path = write_vector(tmp_path / "two.gpkg", [FIELD], "EPSG:4326", layer="one")
    write_vector(path, [FIELD], "EPSG:4326", layer="other", append=True)
    assert "2 layers (one, other)" in refusal(path)
    projected = transform_geometry(FIELD, "OGC:CRS84", "EPSG:5070")
    assert "projected" in refusal(write_geojson(tmp_path / "c.geojson", feature(projected)))


@given(
    st.floats(CONUS_EXTENT[0], CONUS_EXTENT[2] - 1),
    st.floats(CONUS_EXTENT[1], CONUS_EXTENT[3] - 1),
    st.floats(1e-4, 1),
    st.floats(1e-4, 1),
)
def test_bounds_round_trip(west: float, south: float, width: float, height: float) -> None:
    bounds = (west, south, west + width, south + height)
    assert read_aoi(",".join(map(repr, bounds))).geometry.bounds == bounds


DAYS = st.dates(FIRST_DAY, date(2024, 12, 31))


@given(st.lists(st.tuples(DAYS, st.integers(0, 40)), min_size=1, max_size=5))
def test_days_are_the_union_of_the_ranges(ranges: list[tuple[date, int]]) -> None:
    today = date(2025, 12, 31)
    expected = {first + timedelta(step) for first, length in ranges for step in range(length + 1)}
    texts = [f"{first}/{first + timedelta(length)}" for first, length in ranges]
    days = parse_days(texts, today=today)
    assert list(days) == sorted(expected)
    assert parse_days([str(day) for day in days], today=today) == days
    assert parse_days(pd.DatetimeIndex(days), today=today) == days
    assert parse_days(np.array(days, "datetime64[ns]"), today=today) == days


def test_one_day_in_every_form() -> None:
    forms = [
        "2021-08-08",
        date(2021, 8, 8),
        datetime(2021, 8, 8, 13),
        np.datetime64("2021-08-08T13"),
        pd.Timestamp(2021, 8, 8),
    ]
    assert {parse_days(form) for form in forms} == {(date(2021, 8, 8),)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2021-8-8", "malformed"),
        ("20210808", "malformed"),
        ("yesterday", "malformed"),
        ("y" * 5000, "malformed"),
        ("0001-01-01/9999-12-31", "day 0001-01-01 is too early"),
        ("2021-08-01/9999-12-31", "day 9999-12-31 is in the future"),
        ("", "malformed"),
        ("2021-08-01/2021-08-02/2021-08-03", "malformed"),
        ("2021-08-01/", "malformed"),
        ("2021-02-29", "not in the calendar"),
        ("2021-08-08/2021-07-29", "runs backwards"),
        ("2014-12-31", "too early"),
        ("2021-08-09", "in the future"),
        ("2021-08-01/2021-08-09", "in the future"),
        (pd.NaT, "not a day"),
        ("NaT", "malformed"),
        (np.datetime64("NaT", "D"), "not a day"),
        (3.5, "not a day"),
        (None, "not a day"),
        ([], "no day"),
    ],
)
def test_wrong_days_are_told_in_one_line(text: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        parse_days(text, today=date(2021, 8, 8))
    assert "\n" not in str(caught.value)


def test_transform_geometry_agrees_with_pyproj() -> None:
    moved = transform_geometry(HOLED, "OGC:CRS84", "EPSG:32611")
    corners = shapely.get_coordinates(HOLED)
    x, y = pyproj.Transformer.from_crs(4326, 32611, always_xy=True).transform(corners[:, 0], corners[:, 1])
    np.testing.assert_allclose(shapely.get_coordinates(moved), np.column_stack([x, y]), atol=1e-6)
