"""Zonal statistics against shapely's areas pixel by pixel, and their sums."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyogrio
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps import cli
from mmnet_maps.analysis import zones
from mmnet_maps.analysis.zone_io import Zones, check_target, read_zones, write_statistics
from mmnet_maps.analysis.zones import zonal_statistics
from mmnet_maps.analysis.zones_plot import draw_zones
from mmnet_maps.errors import OutputError, RequestError
from mmnet_maps.files import holds
from mmnet_maps.product.day_writer import DayWriter, Revision
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.reader import Maps

Float = NDArray[np.floating[Any]]
DAY = date(2021, 8, 7)
LEFT, TOP = -1_870_000.0, 2_930_000.0
STATISTICS = ["mean", "median", "std", "p10", "p90", "valid_share", "pixels", "area_ha"]


@dataclass
class OneMap:
    """A map in memory."""

    day: date
    grid: GeoBox
    values: dict[str, Float]
    name: str = "area"
    synthetic: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.values)

    def read(self, layer: str, tops: np.ndarray, lefts: np.ndarray) -> Float:
        return self.values[layer][tops[0] : tops[-1], lefts[0] : lefts[-1]]


def grid_of(height: int, width: int, crs: str = "EPSG:5070") -> GeoBox:
    left, top, size = (-119.5, 47.5, 0.01) if crs == "EPSG:4326" else (LEFT, TOP, 100.0)
    bounds = (left, top - height * size, left + width * size, top)
    return GeoBox.from_bbox(bounds, crs=crs, shape=(height, width), tight=True)


def field(height: int, width: int, seed: int = 0, missing: float = 0.2) -> Float:
    """Return soil moisture as files hold it, some of it missing."""
    rng = np.random.default_rng(seed)
    values = rng.integers(500, 5000, (height, width)) * 0.0001
    values[rng.random((height, width)) < missing] = np.nan
    return values


def maps_of(*days: Float | dict[str, Float], crs: str = "EPSG:5070", synthetic: bool = False) -> Maps:
    parts = []
    for k, some_zones in enumerate(days):
        layers = some_zones if isinstance(some_zones, dict) else {"soil_moisture": some_zones}
        grid = grid_of(*layers["soil_moisture"].shape, crs=crs)
        parts.append(OneMap(DAY + timedelta(k), grid, layers, synthetic=synthetic))
    return Maps(parts)


def zones_of(*polygons: Any, crs: Any = "EPSG:5070") -> Zones:
    shapes = np.empty(len(polygons), object)
    shapes[:] = polygons
    return Zones(name="fields", ids=np.arange(len(polygons)) + 10, polygons=shapes, crs=crs)


def on_map(polygon: Any) -> Any:
    """Move a polygon in pixels from the upper left corner to its place on the map."""
    return shapely.transform(polygon, lambda xy: np.array([LEFT, TOP]) + xy * [100.0, -100.0])


def by_hand(values: Float, polygon: Any, grid: GeoBox) -> dict[str, float]:
    """Compute statistics weighted by the area of the intersection with every pixel."""
    rows, cols = np.indices(values.shape)
    a = grid.affine
    pixels = shapely.box(a.c + cols * a.a, a.f + (rows + 1) * a.e, a.c + (cols + 1) * a.a, a.f + rows * a.e)
    weights = shapely.area(shapely.intersection(pixels, polygon))
    there = np.isfinite(values) & (weights > 0)
    v, w = values[there], weights[there]
    found = {"valid_share": w.sum() / polygon.area, "pixels": w.sum() / 1e4, "area_ha": polygon.area / 1e4}
    if not w.size:
        return found | dict.fromkeys(STATISTICS[:5], np.nan)
    mean = np.average(v, weights=w)
    found |= {"mean": mean, "std": np.sqrt(np.average((v - mean) ** 2, weights=w))}
    for name, share in (("median", 0.5), ("p10", 0.1), ("p90", 0.9)):
        # Coverage is exact to about 1e-6, so shares this near to a step count as on it.
        low = np.quantile(v, share - 1e-6, weights=w, method="inverted_cdf")
        high = -np.quantile(-v, 1 - share - 1e-6, weights=w, method="inverted_cdf")
        found[name] = (low + high) / 2
    return found


def assert_by_hand(maps: Maps, layers: Sequence[Float], some_zones: Zones) -> None:
    found = zonal_statistics(maps, some_zones, quiet=True)
    expected = [by_hand(values, one, maps.grid) for one in some_zones.polygons for values in layers]
    for name in STATISTICS:
        np.testing.assert_allclose(found[name], [one[name] for one in expected], atol=2e-6, rtol=1e-6, err_msg=name)


SHAPES = {
    "circle": shapely.Point(9.3, 7.7).buffer(4.1),
    "hole": shapely.Point(10, 10).buffer(6).difference(shapely.Point(10, 10).buffer(2.5)),
    "two parts": shapely.MultiPolygon([shapely.box(1.2, 1.1, 3.3, 4), shapely.box(10.5, 3, 12, 17.7)]),
    "within a pixel": shapely.box(5.2, 6.3, 5.4, 6.9),
    "along pixels": shapely.box(3, 4, 9, 7),
    "over the edge": shapely.box(-5, 15.5, 4.5, 30),
    "sliver": shapely.Polygon([(0.5, 0.5), (19.5, 19.4), (19.5, 19.5)]),
}


def test_statistics_are_those_of_intersections_by_shapely(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [field(20, 23, seed) for seed in range(3)]
    some_zones = zones_of(*map(on_map, SHAPES.values()))
    maps = maps_of(*layers)
    assert_by_hand(maps, layers, some_zones)
    whole = zonal_statistics(maps, some_zones, quiet=True)
    monkeypatch.setattr(zones, "_BLOCK", 8)
    monkeypatch.setattr(zones, "_CELLS", 50)
    pd.testing.assert_frame_equal(zonal_statistics(maps, some_zones, quiet=True), whole)


@st.composite
def polygons(draw: st.DrawFn) -> Any:
    """Triangles, quadrangles and more, some with a hole, some reaching over the edge of the map."""
    number = st.floats(-2, 14).map(lambda value: round(value, 2))
    points = draw(st.lists(st.tuples(number, number), min_size=3, max_size=8))
    hull = shapely.MultiPoint(points).convex_hull
    if draw(st.booleans()):
        hull = hull.difference(shapely.Point(draw(number), draw(number)).buffer(draw(st.floats(0.5, 3))))
    return hull


@settings(max_examples=60, deadline=None)
@given(st.lists(polygons(), min_size=1, max_size=4), st.integers(0, 50))
def test_random_polygons(shapes: list[Any], seed: int) -> None:
    shapes = [one for one in shapes if one.geom_type in ("Polygon", "MultiPolygon") and one.area > 0.01]
    if not any(one.intersects(shapely.box(0.01, 0.01, 11.99, 9.99)) for one in shapes):
        return
    values = field(10, 12, seed)
    assert_by_hand(maps_of(values), [values], zones_of(*map(on_map, shapes)))


def test_values_count_as_files_hold_them() -> None:
    values = field(20, 23)
    exact = values + np.random.default_rng(0).uniform(-4.9e-5, 4.9e-5, values.shape)  # as in a Zarr store
    some_zones = zones_of(*map(on_map, SHAPES.values()))
    expected = zonal_statistics(maps_of(values), some_zones, quiet=True)
    pd.testing.assert_frame_equal(zonal_statistics(maps_of(exact), some_zones, quiet=True), expected)


def test_ties_give_the_middle() -> None:
    values = np.arange(1, 5).reshape(2, 2) / 10.0
    found = zonal_statistics(maps_of(values), zones_of(on_map(shapely.box(0, 0, 2, 2))), quiet=True).iloc[0]
    np.testing.assert_allclose(found[["median", "p10", "p90"]].astype(float), [0.25, 0.1, 0.4], atol=1e-9)
    np.testing.assert_allclose(found["std"], values.std(), atol=1e-9)


def test_the_whole_map_is_its_mean() -> None:
    values = field(30, 40)
    found = zonal_statistics(maps_of(values), zones_of(on_map(shapely.box(0, 0, 40, 30))), quiet=True).iloc[0]
    valid = values[np.isfinite(values)]
    assert found["pixels"] == valid.size
    np.testing.assert_allclose(found["valid_share"], valid.size / values.size)
    np.testing.assert_allclose(found["mean"], np.nanmean(values), atol=1e-9)
    expected = np.quantile(valid, [0.5, 0.1, 0.9], method="averaged_inverted_cdf")
    np.testing.assert_allclose(found[["median", "p10", "p90"]].astype(float), expected, atol=1e-9)


@pytest.mark.parametrize("cut", [3.0, 7.31, 12.5])
def test_parts_add_up(cut: float) -> None:
    maps = maps_of(field(20, 20))
    whole = SHAPES["circle"]
    parts = [whole.intersection(shapely.box(-99, -99, cut, 99)), whole.intersection(shapely.box(cut, -99, 99, 99))]
    parts = [one for one in parts if not one.is_empty]
    found = zonal_statistics(maps, zones_of(*map(on_map, [whole, *parts])), quiet=True)
    one, rest = found.iloc[0], found.iloc[1:]
    np.testing.assert_allclose(rest["pixels"].sum(), one["pixels"], rtol=1e-6)
    np.testing.assert_allclose(np.average(rest["mean"], weights=rest["pixels"]), one["mean"], atol=1e-7)
    np.testing.assert_allclose(rest["area_ha"].sum(), one["area_ha"])


def test_the_order_of_zones_does_not_matter() -> None:
    maps = maps_of(field(20, 23), field(20, 23, 1))
    some_zones = zones_of(*map(on_map, SHAPES.values()))
    order = np.random.default_rng(0).permutation(len(SHAPES))
    turned = Zones(name="turned", ids=some_zones.ids[order], polygons=some_zones.polygons[order], crs=some_zones.crs)
    expected = zonal_statistics(maps, some_zones, quiet=True)
    found = zonal_statistics(maps, turned, quiet=True)
    assert list(found["zone"].unique()) == list(turned.ids)
    pd.testing.assert_frame_equal(found.sort_values(["zone", "date"], ignore_index=True), expected)


def test_other_layers_are_averaged_beside() -> None:
    values = field(20, 23)
    smap, std = field(20, 23, 1, missing=0), field(20, 23, 2, missing=0)
    smap[:5] = np.nan
    polygon = on_map(SHAPES["circle"])
    maps = maps_of({"soil_moisture": values, "soil_moisture_std": std, "smap": smap})
    found = zonal_statistics(maps, zones_of(polygon), quiet=True).iloc[0]
    for name, layer in (("smap", smap), ("soil_moisture_std", std)):
        shown = np.where(np.isfinite(values), layer, np.nan)
        np.testing.assert_allclose(found[name], by_hand(shown, polygon, maps.grid)["mean"], atol=2e-6)
    alone = zonal_statistics(maps, zones_of(polygon), layer="smap", quiet=True)
    np.testing.assert_allclose(alone["median"], by_hand(smap, polygon, maps.grid)["median"], atol=2e-6)
    assert "soil_moisture_std" not in alone
    with pytest.raises(RequestError, match="no statistics of 'smap' in these maps; expected one of soil_moisture"):
        zonal_statistics(maps_of(values), zones_of(polygon), layer="smap")


def test_pixels_of_maps_in_degrees_count_by_their_area() -> None:
    values = np.repeat(np.linspace(0.1, 0.4, 400).round(4)[:, None], 4, axis=1)  # wetter to the south
    polygon = shapely.box(-119.492, 43.504, -119.465, 47.5)
    found = zonal_statistics(maps_of(values, crs="EPSG:4326"), zones_of(polygon, crs="EPSG:4326"), quiet=True).iloc[0]
    latitude = 47.5 - 0.01 * (np.arange(400) + 0.5)
    covered = np.cos(np.radians(latitude)) * np.minimum(1, np.arange(400, 0, -1) - 0.4)
    np.testing.assert_allclose(found["mean"], np.average(values[:, 0], weights=covered), atol=1e-4)
    assert abs(found["mean"] - np.average(values[:, 0], weights=covered > 0)) > 1e-3
    area, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shapely.segmentize(polygon, 0.001))
    np.testing.assert_allclose(found["area_ha"], abs(area) / 1e4, rtol=1e-5)
    np.testing.assert_allclose(found["valid_share"], 1, rtol=1e-6)


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:2926"])  # of metres, and of feet
def test_pixels_of_a_conformal_crs_count_by_their_true_area(crs: str) -> None:
    move = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    left, bottom, right, top = move.transform_bounds(-121.5, 45.6, -119.5, 49)
    size = (top - bottom) / 300
    grid = GeoBox.from_bbox((left, bottom, right, top), crs=crs, resolution=size)
    left, bottom, right, top = grid.boundingbox.bbox
    values = np.repeat(np.linspace(0.1, 0.4, grid.shape.y).round(4)[:, None], grid.shape.x, axis=1)
    polygon = shapely.box(left + 5.3 * size, bottom + 4.4 * size, right - 8 * size, top - 3.5 * size)
    maps = Maps([OneMap(DAY, grid, {"soil_moisture": values})])
    found = zonal_statistics(maps, zones_of(polygon, crs=crs), quiet=True).iloc[0]
    back = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    on_earth = shapely.transform(
        shapely.segmentize(polygon, size / 10), lambda xy: np.column_stack(back.transform(*xy.T))
    )
    area, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(on_earth)
    np.testing.assert_allclose(found["area_ha"], abs(area) / 1e4, rtol=1e-5)
    np.testing.assert_allclose(found["valid_share"], 1, rtol=1e-5)
    if crs == "EPSG:3857":
        latitude = back.transform(np.full(len(values), left), top - size * (np.arange(len(values)) + 0.5))[1]
        rows = np.clip(np.arange(len(values)) - 3.5 + 1, 0, 1) * np.clip(
            (top - size * np.arange(len(values)) - bottom - 4.4 * size) / size, 0, 1
        )
        e2 = 0.00669438
        scale = (1 - e2 * np.sin(np.radians(latitude)) ** 2) ** 2 / (1 - e2) / np.cos(np.radians(latitude)) ** 2
        np.testing.assert_allclose(found["mean"], np.average(values[:, 0], weights=rows / scale), atol=1e-5)


def test_zones_in_another_crs_have_the_same_place() -> None:
    values = [field(60, 60), field(60, 60, 1)]
    polygon = shapely.segmentize(on_map(shapely.box(4.2, 5.1, 50.5, 55.3)), 10)
    expected = zonal_statistics(maps_of(*values), zones_of(polygon), quiet=True)
    for crs in ("EPSG:4326", "EPSG:32611"):
        move = pyproj.Transformer.from_crs("EPSG:5070", crs, always_xy=True)
        moved = shapely.transform(polygon, lambda xy: np.column_stack(move.transform(*xy.T)))  # noqa: B023
        found = zonal_statistics(maps_of(*values), zones_of(moved, crs=crs), quiet=True)
        pd.testing.assert_frame_equal(found, expected, atol=1e-6, rtol=1e-6)


def test_long_edges_bend_with_their_crs() -> None:
    """Parallels are curves on the map: a rectangle in degrees holds the pixels between its parallels."""
    maps = maps_of(field(1200, 1200, missing=0))
    move = pyproj.Transformer.from_crs("EPSG:5070", "EPSG:4326", always_xy=True)
    left, bottom, right, top = move.transform_bounds(*maps.grid.boundingbox.bbox)
    box = shapely.box(left + 0.45 * (right - left), bottom - 1, right + 1, top - 0.5 * (top - bottom))
    found = zonal_statistics(maps, zones_of(box, crs="EPSG:4326"), quiet=True).iloc[0]
    x, y = maps.grid.affine * (np.indices((1200, 1200))[::-1].reshape(2, -1) + 0.5)
    lon, lat = move.transform(x, y)
    inside = shapely.contains_xy(box, lon, lat).sum()
    assert inside > 100_000
    np.testing.assert_allclose(found["pixels"], inside, atol=30)


def test_zones_without_maps_are_rows_without_values(caplog: pytest.LogCaptureFixture) -> None:
    values = field(20, 20)
    values[:10] = np.nan
    some_zones = zones_of(
        *map(on_map, [shapely.box(50, 50, 60, 60), shapely.box(0, 12, 5, 15), shapely.box(2, 2, 5, 5)])
    )
    with caplog.at_level(logging.WARNING, "mmnet_maps"):
        found = zonal_statistics(maps_of(values, synthetic=True), some_zones, quiet=True)
    np.testing.assert_array_equal(found["mean"].notna(), [False, True, False])
    np.testing.assert_array_equal(found["valid_share"][[0, 2]], 0)
    np.testing.assert_array_equal(found["pixels"][[0, 2]], 0)
    assert found["synthetic"].all()
    assert (
        "no value on any day for 2 of 3 zones, which lie outside the maps or where these have none: 10, 12"
        in caplog.text
    )
    assert "synthetic" in caplog.text
    far = Zones(name="far", ids=some_zones.ids[:1], polygons=some_zones.polygons[:1], crs="EPSG:5070")
    with pytest.raises(RequestError, match="the zone of far does not touch the maps; they span -1.865e.06 to .* check"):
        zonal_statistics(maps_of(values), far, quiet=True)


# ---- files -----------------------------------------------------------------------------------------------------------


def geojson(path: Path, *geometries: Any, **columns: Sequence[Any]) -> Path:
    """Write a file of features in longitude and latitude."""
    features = [
        {
            "type": "Feature",
            "properties": {key: values[k] for key, values in columns.items()},
            "geometry": None if one is None else shapely.geometry.mapping(one),
        }
        for k, one in enumerate(geometries)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


A, B = shapely.box(-119.5, 47.0, -119.4, 47.1), shapely.box(-119.3, 47.0, -119.2, 47.1)


def test_names_of_zones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = geojson(tmp_path / "a.geojson", A, B, name=["x", "y"], crop=["corn", "corn"], number=[3, 4])
    assert read_zones(path).ids.tolist() == ["x", "y"]
    assert read_zones(path, id_column="number").ids.tolist() == [3, 4]
    assert not caplog.text
    path = geojson(tmp_path / "b.geojson", A, B, Name=["x", "x"])
    assert read_zones(path).ids.tolist() == [1, 2]
    assert "numbered from 1" in caplog.text
    with pytest.raises(RequestError, match="b.geojson has Name x more than once"):
        read_zones(path, id_column="Name")
    with pytest.raises(RequestError, match="has no column 'field'; it has Name"):
        read_zones(path, id_column="field")
    path = geojson(tmp_path / "c.geojson", A, B, code=["x", None])
    with pytest.raises(RequestError, match="1 zone of c.geojson has no code"):
        read_zones(path, id_column="code")


def test_invalid_zones_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bow = shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    for shapes, message in (
        ([A, bow, bow], r"zone y of z.geojson is not a valid polygon: Self-inter.*\(2 of 3 zones are like that\)"),
        ([A, shapely.Point(-119, 47)], "zone y of z.geojson is a Point; expected polygons: use `mmnet points`"),
        ([shapely.LineString([(0, 0), (1, 1)])], "is a LineString"),
        ([None], "is empty; expected polygons"),
        ([], "is empty; expected polygons"),
    ):
        path = geojson(tmp_path / "z.geojson", *shapes, name=["x", "y", "z"])
        with pytest.raises(RequestError, match=message):
            read_zones(path)
    path = geojson(tmp_path / "some.geojson", A, None, B, name=["x", "y", "z"])
    assert read_zones(path).ids.tolist() == ["x", "z"]
    assert "1 of 3 features of some.geojson have no geometry and are left out" in caplog.text
    (tmp_path / "no.txt").write_text("nothing")
    for name, message in (("no.txt", "cannot be read"), ("none.gpkg", "does not exist"), (".", "is a folder")):
        with pytest.raises(RequestError, match=message):
            read_zones(tmp_path / name)
    for layer in ("a", "b"):
        write_polygons(tmp_path / "two.gpkg", layer, append=layer == "b")
    with pytest.raises(RequestError, match=r"holds 2 layers \(a, b\)"):
        read_zones(tmp_path / "two.gpkg")


def write_polygons(path: Path, layer: str, append: bool = False) -> None:
    pyogrio.raw.write(
        path, geometry=shapely.to_wkb(np.array([A])), field_data=[], fields=[], layer=layer, driver="GPKG",
        crs="EPSG:4326", geometry_type="Polygon", append=append,
    )  # fmt: skip


def test_objects_with_a_geo_interface_are_read() -> None:
    features = [
        {"type": "Feature", "properties": {"id": number}, "geometry": shapely.geometry.mapping(on_map(SHAPES[name]))}
        for number, name in ((7, "circle"), (5, "hole"))
    ]
    frame = SimpleNamespace(crs="EPSG:5070", __geo_interface__={"type": "FeatureCollection", "features": features})
    maps = maps_of(field(20, 23))
    found = zonal_statistics(maps, frame, quiet=True)
    assert found["zone"].tolist() == [7, 5]
    expected = zonal_statistics(maps, zones_of(on_map(SHAPES["circle"]), on_map(SHAPES["hole"])), quiet=True)
    pd.testing.assert_frame_equal(found.drop(columns="zone"), expected.drop(columns="zone"))
    with pytest.raises(RequestError, match="are a Polygon; expected a collection"):
        read_zones(A)


@pytest.mark.parametrize("crs", ["OGC:CRS84", "EPSG:5070"])
def test_a_geopackage_holds_rows_and_polygons(tmp_path: Path, crs: str) -> None:
    some_zones = zones_of(*map(on_map, SHAPES.values()))
    polygons_ = some_zones.to_crs(crs)
    some_zones = Zones(name="fields", ids=np.array(list(SHAPES), object), polygons=polygons_, crs=crs)
    table = zonal_statistics(maps_of(field(20, 23), field(20, 23, 1)), some_zones, quiet=True)
    path = tmp_path / "new" / "z.gpkg"
    write_statistics(table, path, some_zones)
    write_statistics(table, path, some_zones)  # over its own
    assert holds(path, "valid_share", "area_ha")
    assert [name for name, _ in pyogrio.list_layers(path)] == ["zones"]
    meta, _, wkb, columns = pyogrio.raw.read(path)
    assert pyproj.CRS(meta["crs"]) == pyproj.CRS("EPSG:4326" if crs == "OGC:CRS84" else crs)
    found = pd.DataFrame(dict(zip(meta["fields"], columns, strict=True)))
    pd.testing.assert_frame_equal(found, table, check_dtype=False)
    shapes = shapely.from_wkb(wkb)
    assert shapely.equals(shapes, np.repeat(polygons_, 2)).all()


def test_foreign_files_are_kept(tmp_path: Path) -> None:
    write_polygons(tmp_path / "fields.gpkg", "fields")
    write_polygons(tmp_path / "zones.gpkg", "zones")
    (tmp_path / "folder.csv").mkdir()
    for path, zones_, kind, message in (
        ("z.txt", None, RequestError, "ends in .csv, .parquet or .gpkg"),
        ("fields.gpkg", None, OutputError, "was not made by mmnet_maps"),
        ("zones.gpkg", None, OutputError, "was not made by mmnet_maps"),
        ("folder.csv", None, RequestError, "ends in .csv, .parquet or .gpkg"),
        ("fields.gpkg", "fields.gpkg", RequestError, "is the file of the zones"),
    ):
        with pytest.raises(kind, match=message):
            check_target(tmp_path / path, tmp_path / zones_ if zones_ else None)


# ---- command and picture ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with the maps of two days."""
    out = tmp_path_factory.mktemp("maps")
    for k in range(2):
        values = field(60, 50, k)
        layers = {"soil_moisture": values, "quality": np.zeros(values.shape), "smap": np.full(values.shape, 0.2)}
        revision = Revision(
            name="area", day=DAY + timedelta(k), geobox=grid_of(60, 50), layers=list(layers), synthetic=True,
            tags={}, properties={"mmnet:synthetic": True}, fingerprint="f",
        )  # fmt: skip
        with DayWriter(out, revision) as writer:
            rows, cols = (slice(0, size) for size in values.shape)
            writer.write(rows, cols, {name: LAYERS[name].pack(layer) for name, layer in layers.items()})
            writer.finish(None)
    return out


def run(*words: str | Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["mmnet", "zones", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out + err


def test_the_command(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    move = pyproj.Transformer.from_crs("EPSG:5070", "EPSG:4326", always_xy=True)
    shapes = [
        shapely.transform(on_map(one), lambda xy: np.column_stack(move.transform(*xy.T))) for one in SHAPES.values()
    ]
    path = geojson(tmp_path / "fields.geojson", *shapes, name=list(SHAPES))
    for out in ("a.csv", "b.parquet", "c.gpkg"):
        drawn = ["--picture", "p.png"] if out == "a.csv" else []
        words = ["--zones", path, "--maps", folder, "--out", out, "-q", *drawn]
        code, said = run(*words, monkeypatch=monkeypatch, capsys=capsys)
        assert code == 0, said
        assert f"{out}: 7 zones, 2 days, 12 of 14 rows with a value" in said
        assert "synthetic" in said
        assert ("\np.png\n" in said) == bool(drawn)
    text, binary = pd.read_csv("a.csv", parse_dates=["date"]), pd.read_parquet("b.parquet")
    pd.testing.assert_frame_equal(text, binary, check_dtype=False, atol=5.1e-5, rtol=0)
    assert pyogrio.read_info("c.gpkg")["features"] == 14
    np.testing.assert_allclose(binary["smap"].dropna(), 0.2, atol=1e-6)
    assert imread("p.png").shape[1] == 1600
    code, said = run(
        "--zones", path, "--maps", folder, "--start", DAY, "--end", DAY, "--out", "d.csv", "-q",
        monkeypatch=monkeypatch, capsys=capsys,
    )  # fmt: skip
    pd.testing.assert_frame_equal(pd.read_csv("d.csv"), pd.read_csv("a.csv").iloc[::2].reset_index(drop=True))


def test_mistakes_give_one_line(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = geojson(tmp_path / "fields.geojson", A, name=["x"])
    Path("mine.png").write_bytes(b"mine")
    for words, code, message in (
        (["--out", "a.txt"], 2, "ends in .csv, .parquet or .gpkg"),
        (["--out", "a.csv", "--id", "crop"], 2, "has no column 'crop'"),
        (["--out", "a.csv"], 2, "the zone of fields.geojson does not touch the maps"),
        (["--out", "a.csv", "--start", "2021-09-01"], 2, "no finished map of 2021-09-01 to any day"),
        (
            ["--out", "a.csv", "--start", "2021-08-08", "--end", "2021-08-07"],
            2,
            "08/2021-08-07' runs backwards",
        ),
        (["--out", "a.csv", "--start", "2021-08-07/2021-08-08"], 2, "--start 2021-08-07/2021-08-08 is a range"),
        (["--out", "a.csv", "--picture", "a.jpg"], 2, "ends in .png"),
        (["--out", "a.csv", "--picture", "mine.png"], 5, "was not made by mmnet_maps"),
        (["--out", "a.csv", "--zones", "x" * 300], 2, "cannot be opened: File name too long"),
        (["--out", "a.csv", "--zones", "~nouser/x"], 2, "does not exist"),
        (["--out", "a.csv", "--layer", "soil_moisture_std"], 2, "no statistics of 'soil_moisture_std'"),
    ):
        zones = [] if "--zones" in words else ["--zones", path]
        got, said = run(*zones, "--maps", folder, *words, "-q", monkeypatch=monkeypatch, capsys=capsys)
        assert got == code
        assert message in said
        assert said.count("error:") == 1
        assert not Path("a.csv").exists()
    monkeypatch.setattr("mmnet_maps.cli.checks.find_spec", lambda name: None)
    code, said = run(
        "--zones", path, "--maps", folder, "--out", "a.csv", monkeypatch=monkeypatch, capsys=capsys
    )  # fmt: skip
    assert code == 2
    assert "pip install '.[zones]'" in said


@pytest.mark.parametrize("count", [1, 9])
def test_the_picture_has_the_colours_of_the_values(tmp_path: Path, count: int) -> None:
    dry, wet, none = (on_map(shapely.box(left, 0, left + 6, 18)) for left in (0, 7, 14))
    values = np.full((20, 20), 0.1)
    values[:, 7:] = 0.3
    values[:, 14:] = np.nan
    some_zones = zones_of(dry, wet, none)
    maps = maps_of(*[values] * count)
    table = zonal_statistics(maps, some_zones, quiet=True)

    def pixels(synthetic: bool, name: str) -> NDArray[Any]:
        path = draw_zones(
            table, some_zones, tmp_path / name, layer="soil_moisture", title="area", synthetic=synthetic
        )  # fmt: skip
        found: NDArray[Any] = imread(path)[..., :3]
        return found

    plain = pixels(False, "a.png")
    seen = np.rint(255 * plain.reshape(-1, 3)).astype(np.int64) @ [1 << 16, 1 << 8, 1]
    assert {0xFCE5BE, 0x192C69, 0xDCDCDC} <= set(np.unique(seen).tolist())  # driest, wettest, no value
    assert not np.array_equal(pixels(True, "b.png"), plain)
    (tmp_path / "mine.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match="was not made by mmnet_maps"):
        pixels(False, "mine.png")
