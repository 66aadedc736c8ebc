"""The loopback Earth Engine, through the real client, against closed formulas and rasterio."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from rasterio.warp import Resampling, reproject

from mmnet_maps.variables import VARIABLES

ee = pytest.importorskip("ee")

import earthengine_catalog as products  # noqa: E402 - they need the client
import fake_earthengine  # noqa: E402
from fake_earthengine import FakeEarthEngine, Fault, connected, offline_environment  # noqa: E402

DAY = products.FIRST + timedelta(8)
EAST = (-1_760_000.0, 2_900_000.0)
"""Upper left corner, EPSG:5070, of a window in the zone 11 tile."""
HLS, S1, DEM = "NASA/HLS/HLSL30/v002", "COPERNICUS/S1_GRD", "USGS/3DEP/10m_collection"
NLCD, MOD = "USGS/NLCD_RELEASES/2021_REL/NLCD", "MODIS/061/MOD11A1"
SMAP, GRIDMET = "NASA/SMAP/SPL4SMGP/008", "IDAHO_EPSCOR/GRIDMET"
TILE = products.catalog()[HLS].on(DAY)[1]
OPTICAL = [*products.REFLECTANCE]


@pytest.fixture(scope="module")
def running() -> Iterator[FakeEarthEngine]:
    with FakeEarthEngine() as server, connected(server):
        ee.data.setMaxRetries(0)
        yield server


@pytest.fixture
def server(running: FakeEarthEngine) -> FakeEarthEngine:
    running.reset()
    return running


def pixels(
    image: Any,
    width: int = 24,
    height: int = 20,
    corner: tuple[float, float] = EAST,
    crs: str = "EPSG:5070",
    scale: float = 100.0,
) -> NDArray[Any]:
    affine = {"scaleX": scale, "scaleY": -scale, "translateX": corner[0], "translateY": corner[1]}
    grid = {"crsCode": crs, "affineTransform": affine, "dimensions": {"width": width, "height": height}}
    return ee.data.computePixels({"expression": image, "fileFormat": "NUMPY_NDARRAY", "grid": grid})


def native(
    image: Any, lattice: products.Lattice, col: int, row: int, width: int = 30, height: int = 25
) -> NDArray[Any]:
    a, _, c, _, e, f = lattice.transform
    affine = {"scaleX": a, "scaleY": e, "translateX": c + col * a, "translateY": f + row * e}
    grid = {"crsCode": lattice.crs, "affineTransform": affine, "dimensions": {"width": width, "height": height}}
    return ee.data.computePixels({"expression": image, "fileFormat": "NUMPY_NDARRAY", "grid": grid})


def points(
    width: int = 24, height: int = 20, corner: tuple[float, float] = EAST, scale: float = 100.0
) -> tuple[NDArray[Any], NDArray[Any]]:
    return tuple(
        np.meshgrid(corner[0] + (np.arange(width) + 0.5) * scale, corner[1] - (np.arange(height) + 0.5) * scale)
    )  # type: ignore[return-value]


def load(scene: products.Scene, dataset: str) -> Any:
    return ee.Image(f"{dataset}/{scene.index}")


def clear(image: Any) -> Any:
    """Mask cloud and shadow as the recipe does."""
    return image.updateMask(image.select("Fmask").bitwiseAnd(2 | 8).eq(0)).select(OPTICAL)


def is_clear(scene: products.Scene, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(invalid="ignore"):
        mask = np.nan_to_num(scene.stored("Fmask", x, y)).astype(int)
    return mask & 10 == 0


# ---- the catalogue ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "band", "name", "scale", "offset"),
    [
        (SMAP, "sm_surface", "smap", 1, 0),
        *((HLS, band, name, 1, 0) for band, name in zip(OPTICAL, ("blue", "green", "red", "nir", "swir1", "swir2"))),
        ("LANDSAT/LC08/C02/T1_L2", "SR_B5", "nir", 2.75e-5, -0.2),
        (S1, "VV", "vv", 1, 0),
        (S1, "VH", "vh", 1, 0),
        (DEM, "elevation", "elevation", 1, 0),
        (NLCD, "landcover", "landcover", 1, 0),
        *((f"projects/sat-io/open-datasets/polaris/{band}_mean", "b1", name, 1, 0)
          for band, name in (("clay", "clay"), ("sand", "sand"), ("bd", "bulk_density"))),
        *((GRIDMET, name, name, 1, 0) for name in products.WEATHER),
        (MOD, "LST_Day_1km", "lst", 0.02, 0),
        ("NASA/VIIRS/002/VNP21A1D", "LST_1KM", "lst", 1, 0),
    ],
)  # fmt: skip
def test_values_are_plausible_and_vary_in_space(
    dataset: str, band: str, name: str, scale: float, offset: float
) -> None:
    everywhere = np.random.default_rng(3).uniform([-121.9, 46.4], [-117.9, 48.0], (4000, 2)).T
    scenes = [scene for scene in products.catalog()[dataset].scenes if band in scene.layers]
    values = np.concatenate([s.stored(band, *everywhere, "EPSG:4326") for s in scenes[:: max(1, len(scenes) // 8)]])
    found = values[np.isfinite(values)] * scale + offset
    assert len(found) > 800
    assert found.min() >= VARIABLES[name].valid_min
    assert found.max() <= VARIABLES[name].valid_max
    assert np.ptp(found) > 0 or name == "pr"


def test_every_scene_of_a_product_has_its_own_index() -> None:
    for entry in products.catalog().values():
        assert len({scene.index for scene in entry.scenes}) == len(entry.scenes)


def test_optical_values_are_linear_in_time() -> None:
    x, y = np.array(300_000.0), np.array(5_200_000.0)
    a, b, c = (products.clear_reflectance("B5", x, y, 11, products.millis(DAY + timedelta(k))) for k in (0, 8, 24))
    assert b == pytest.approx(a + (c - a) / 3, abs=1e-12)
    assert c != a


# ---- metadata and collections -----------------------------------------------------------------------------------


def test_an_image_describes_its_bands_and_properties(server: FakeEarthEngine) -> None:
    info = load(TILE, HLS).getInfo()
    assert info["id"] == f"{HLS}/{TILE.index}"
    assert [band["id"] for band in info["bands"]] == [*OPTICAL, "Fmask"]
    assert info["bands"][0] == {
        "id": "B2",
        "data_type": {"type": "PixelType", "precision": "float"},
        "crs": "EPSG:32611",
        "crs_transform": [30, 0, 240000, 0, -30, 5334000],
        "dimensions": [6800, 6800],
    }
    assert info["bands"][-1]["data_type"] == {"type": "PixelType", "precision": "int", "min": 0, "max": 255}
    assert info["properties"]["system:time_start"] == TILE.start
    assert ee.Date(TILE.start).format("YYYY-MM-dd").getInfo() == DAY.isoformat()


def test_dates_and_places_filter(server: FakeEarthEngine) -> None:
    both = ee.ImageCollection(HLS).filterDate(DAY.isoformat(), (DAY + timedelta(9)).isoformat())
    assert both.size().getInfo() == 4
    east = both.filterBounds(ee.Geometry.Rectangle([-119.0, 46.8, -118.5, 47.0]))
    starts = east.aggregate_array("system:time_start").getInfo()
    assert [date.fromtimestamp(start / 1000).month for start in starts] == [5, 5]
    assert len(set(starts)) == 2
    assert both.filterBounds(ee.Geometry.Point([-119.9, 47.0])).size().getInfo() == 4
    albers = ee.Geometry.Rectangle([-1_700_000, 2_850_000, -1_690_000, 2_860_000], "EPSG:5070", False)
    assert both.filterBounds(albers).size().getInfo() == 2
    assert both.filterBounds(ee.Geometry.BBox(-90, 40, -89, 41)).first().getInfo() is None
    day = ee.ImageCollection(SMAP).filterDate(DAY.isoformat(), (DAY + timedelta(1)).isoformat())
    assert day.size().getInfo() == 8
    assert ee.ImageCollection(GRIDMET).filter(ee.Filter.calendarRange(6, 6, "month")).size().getInfo() == 30


def test_modes_and_polarisations_filter_in_both_directions(server: FakeEarthEngine) -> None:
    every = ee.ImageCollection(S1)
    dual = every.filter(ee.Filter.eq("instrumentMode", "IW")).filter(
        ee.Filter.listContains("transmitterReceiverPolarisation", "VH")
    )
    names = dual.aggregate_array("system:index").getInfo()
    assert names == [s.index for s in products.catalog()[S1].scenes if "_IW_" in s.index and "SDV" in s.index]
    assert 0 < len(names) < every.size().getInfo()
    assert every.filter(ee.Filter.inList("instrumentMode", ["EW", "SM"])).size().getInfo() == 6
    either = ee.Filter.Or(
        ee.Filter.eq("instrumentMode", "EW"), ee.Filter.listContains("transmitterReceiverPolarisation", "VH").Not()
    )
    assert every.filter(either).size().getInfo() == 12
    west = ee.Filter.And(ee.Filter.eq("orbitProperties_pass", "DESCENDING"), ee.Filter.gt("system:time_start", 0))
    assert every.filter(west).merge(dual.limit(1)).size().getInfo() == 26


def test_functions_are_mapped_and_properties_follow(server: FakeEarthEngine) -> None:
    collection = ee.ImageCollection(HLS).filterDate(DAY.isoformat(), (DAY + timedelta(1)).isoformat())
    marked = collection.map(lambda image: clear(image).set("day", image.date().format("YYYYMMdd")).set({"two": 2}))
    assert marked.aggregate_array("day").getInfo() == [f"{DAY:%Y%m%d}"] * 2
    assert marked.first().get("two").getInfo() == 2
    info = marked.first().getInfo()
    assert [band["id"] for band in info["bands"]] == OPTICAL
    assert info["properties"]["system:index"] == products.catalog()[HLS].on(DAY)[0].index
    assert "properties" not in collection.first().multiply(2).getInfo()
    listed = collection.toList(5)
    assert ee.Image(listed.get(1)).get("system:index").getInfo() == TILE.index


def test_composites_have_no_projection_until_it_is_set(server: FakeEarthEngine) -> None:
    tiles = ee.ImageCollection(DEM)
    assert tiles.mosaic().projection().getInfo() == {
        "type": "Projection", "crs": "EPSG:4326", "transform": [1, 0, 0, 0, 1, 0],
    }  # fmt: skip
    own = tiles.first().projection()
    assert own.nominalScale().getInfo() == pytest.approx(10.307, abs=0.01)
    info = tiles.mosaic().setDefaultProjection(own).getInfo()
    assert info["bands"][0]["crs"] == "EPSG:4269"
    assert info["bands"][0]["crs_transform"] == pytest.approx(products.catalog()[DEM].scenes[0].lattice.transform)


# ---- pixels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", [*products.catalog()])
def test_native_pixels_are_the_formula(server: FakeEarthEngine, dataset: str) -> None:
    entry = products.catalog()[dataset]
    for scene in (entry.scenes[0], entry.scenes[-1]):
        lattice = scene.lattice
        a, _, c, _, e, f = lattice.transform
        x, y = products.transformer("EPSG:4326", lattice.crs).transform(-119.8, 46.9)
        col, row = int((x - c) // a), int((y - f) // e)
        got = native(load(scene, dataset), lattice, col, row)
        px, py = np.meshgrid(c + (col + np.arange(30) + 0.5) * a, f + (row + np.arange(25) + 0.5) * e)
        assert set(got.dtype.names) == set(scene.layers)
        for name, layer in scene.layers.items():
            assert got.dtype[name] == np.dtype(layer.dtype)
            np.testing.assert_array_equal(got[name], np.nan_to_num(scene.stored(name, px, py)).astype(layer.dtype))


def test_another_grid_takes_the_nearest_pixel_and_masked_ones_are_zero(server: FakeEarthEngine) -> None:
    scene = products.catalog()[MOD].on(DAY)[0]
    got = pixels(load(scene, MOD).select("LST_Day_1km"), 300, 200, scale=1000.0)["LST_Day_1km"]
    want = scene.stored("LST_Day_1km", *points(300, 200, scale=1000.0), "EPSG:5070")
    assert 0.02 < np.isnan(want).mean() < 0.5
    assert (got == np.nan_to_num(want)).mean() > 0.997  # positions between control points are interpolated
    outside = pixels(load(TILE, HLS), corner=(0.0, 1_000_000.0))
    assert not any(outside[name].any() for name in outside.dtype.names)


def test_area_means_are_those_of_rasterio(server: FakeEarthEngine) -> None:
    got = pixels(clear(load(TILE, HLS)).reduceResolution(ee.Reducer.mean(), maxPixels=64), 64, 48)
    a, _, c, _, e, f = TILE.lattice.transform
    corners = products.transformer("EPSG:5070", "EPSG:32611").transform_bounds(
        EAST[0], EAST[1] - 4800, EAST[0] + 6400, EAST[1]
    )
    col, row = int((corners[0] - c) // a) - 3, int((corners[3] - f) // e) - 3
    width, height = int((corners[2] - corners[0]) // a) + 7, int((corners[3] - corners[1]) // a) + 7
    x, y = np.meshgrid(c + (col + np.arange(width) + 0.5) * a, f + (row + np.arange(height) + 0.5) * e)
    good = is_clear(TILE, x, y)
    assert 0.5 < good.mean() < 1
    for band in OPTICAL:
        source = np.where(good, TILE.stored(band, x, y), np.nan)
        want = np.full((48, 64), np.nan)
        reproject(
            source, want, src_transform=Affine(a, 0, c + col * a, 0, e, f + row * e), src_crs="EPSG:32611",
            dst_transform=Affine(100, 0, EAST[0], 0, -100, EAST[1]), dst_crs="EPSG:5070",
            src_nodata=np.nan, dst_nodata=np.nan, resampling=Resampling.average,
        )  # fmt: skip
        both = np.isfinite(want) & (got[band] != 0)
        assert both.mean() > 0.9
        assert (np.isfinite(want) != (got[band] != 0)).mean() < 0.01
        assert np.abs(got[band] - want)[both].max() < 0.0025  # of a checkerboard of ±0.003
        assert np.abs(got[band] - want)[both].mean() < 0.0004


def test_area_means_are_the_smooth_formula_and_nearest_pixels_are_not(server: FakeEarthEngine) -> None:
    x, y = points()
    nx, ny = products.transformer("EPSG:5070", "EPSG:32611").transform(x, y)
    image = clear(load(TILE, HLS))
    mean = pixels(image.reduceResolution(ee.Reducer.mean(), maxPixels=64))
    nearest = pixels(image)
    sure = is_clear(TILE, nx, ny) & (mean["B2"] != 0)
    assert sure.mean() > 0.5
    for band in OPTICAL:
        smooth = products.clear_reflectance(band, nx, ny, 11, TILE.start)
        assert np.abs(mean[band] - smooth)[sure].max() < 0.0015
        assert np.abs(nearest[band] - smooth)[sure].mean() > 0.0029
    at = np.argwhere(sure)[7]
    exact = TILE.area_mean("B5", float(x[tuple(at)]), float(y[tuple(at)]), 100.0, "EPSG:5070", is_clear)
    assert mean["B5"][tuple(at)] == pytest.approx(exact, abs=0.0006)


def test_radar_is_averaged_in_decibels_after_its_filter_on_its_own_grid(server: FakeEarthEngine) -> None:
    scene = next(s for s in products.catalog()[S1].scenes if "_IW_" in s.index and "Z11" in s.index)
    image = load(scene, S1).select(["VV", "VH"])
    nx, ny = products.transformer("EPSG:5070", "EPSG:32611").transform(*points())
    mean = pixels(image.reduceResolution(ee.Reducer.mean(), maxPixels=256))
    filtered = image.convolve(ee.Kernel.gaussian(3, 1))
    smoothed = pixels(filtered.reduceResolution(ee.Reducer.mean(), maxPixels=256))
    for band in ("VV", "VH"):
        smooth = products.smooth_backscatter(band, nx, ny, 11, scene.start)
        assert np.abs(mean[band] - smooth).max() < 0.08
        assert np.abs(smoothed[band] - smooth).max() < 0.005
        assert np.abs(pixels(image)[band] - smooth).min() > 1.4
    own = native(filtered, scene.lattice, 9000, 9000)["VV"]
    board = own - native(image, scene.lattice, 9000, 9000)["VV"]
    assert np.abs(np.abs(board) - 1.5).max() < 0.04
    box = ee.Kernel.fixed(3, 3, [[1, 1, 1], [1, 1, 1], [1, 1, 1]], -1, -1, True)
    boxed = native(image.convolve(box), scene.lattice, 9000, 9000)["VV"] - own
    assert np.abs(np.abs(boxed) - 1.5 / 9).max() < 0.04


def test_elevation_is_continuous_across_tiles(server: FakeEarthEngine) -> None:
    x, y = products.transformer("EPSG:4326", "EPSG:5070").transform(-120.0, 47.0)
    corner = (round(x / 100) * 100 - 1000.0, round(y / 100) * 100 + 1000.0)
    tiles = ee.ImageCollection(DEM)
    own = tiles.first().projection()
    image = tiles.mosaic().setDefaultProjection(own).reduceResolution(ee.Reducer.mean(), maxPixels=512)
    lon, lat = products.transformer("EPSG:5070", "EPSG:4326").transform(*points(20, 20, corner))
    assert lon.min() < -120 < lon.max()
    want = products.elevation(lon, lat)
    np.testing.assert_allclose(pixels(image, 20, 20, corner)["elevation"], want, atol=0.15)
    blocks = pixels(tiles.mosaic().reduceResolution(ee.Reducer.mean(), maxPixels=512), 20, 20, corner)["elevation"]
    assert len(np.unique(np.round(blocks))) < 100
    assert np.abs(blocks - want).max() > 20


def test_land_cover_takes_the_mode(server: FakeEarthEngine) -> None:
    scene = products.catalog()[NLCD].scenes[0]
    image = load(scene, NLCD).select("landcover").reduceResolution(ee.Reducer.mode(), maxPixels=64)
    got = pixels(image, 80, 80)["landcover"]
    x, y = points(80, 80)
    want = products.landcover_class(x, y, 2021)
    inside = np.all(
        [products.landcover_class(x + i, y + j, 2021) == want for i in (-50, 50) for j in (-50, 50)], axis=0
    )
    assert inside.mean() > 0.6
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got[inside], want[inside])
    assert (
        products.landcover(*points(80, 80, scale=30.0), 2019) != products.landcover(*points(80, 80, scale=30.0), 2021)
    ).any()


def test_soil_is_averaged(server: FakeEarthEngine) -> None:
    for name in products.SOIL:
        image = ee.Image(f"projects/sat-io/open-datasets/polaris/{name}_mean/{name}_0_5")
        lon, lat = products.transformer("EPSG:5070", "EPSG:4326").transform(*points())
        smooth = products.smooth_soil(name, lon, lat)
        got = pixels(image.reduceResolution(ee.Reducer.mean(), maxPixels=256))["b1"]
        assert np.abs(got / smooth - 1).max() < 0.008
        assert np.abs(pixels(image)["b1"] / smooth - 1).mean() > 0.015


def test_the_last_image_is_on_top_where_it_is_valid(server: FakeEarthEngine) -> None:
    west, east = (load(scene, HLS) for scene in products.catalog()[HLS].on(DAY))
    corner = products.transformer("EPSG:4326", "EPSG:5070").transform(-120.05, 47.0)
    size = (200, 30, (round(corner[0], -2), round(corner[1], -2)))
    one, other = pixels(clear(west), *size)["B2"], pixels(clear(east), *size)["B2"]
    assert ((one != 0) & (other != 0)).any()
    assert ((one != 0) != (other != 0)).any()
    pair = ee.ImageCollection([clear(west), clear(east)])
    np.testing.assert_array_equal(pixels(pair.mosaic(), *size)["B2"], np.where(other != 0, other, one))
    count = pixels(pair.reduce(ee.Reducer.count()), *size)["B2_count"]
    np.testing.assert_array_equal(count, (one != 0).astype(int) + (other != 0))
    mean = pixels(pair.mean(), *size)["B2"]
    np.testing.assert_allclose(mean, (one + other) / np.maximum(count, 1), rtol=1e-6)
    np.testing.assert_array_equal(pixels(pair.max(), *size)["B2"], np.maximum(one, other))


def test_the_day_of_smap_is_the_mean_of_its_fields(server: FakeEarthEngine) -> None:
    lattice = products.SMAP_LATTICE
    a, _, c, _, e, f = lattice.transform
    lon, lat = np.meshgrid(c + (600 + np.arange(30) + 0.5) * a, f + (380 + np.arange(25) + 0.5) * e)
    for day, expected in ((DAY, 0.0), (min(products.SMAP_FIELDS), 0.004 * -2.5)):
        fields = ee.ImageCollection(SMAP).filterDate(day.isoformat(), (day + timedelta(1)).isoformat())
        image = fields.select("sm_surface").mean().addBands(fields.select("sm_surface").count().rename("n"))
        got = native(image, lattice, 600, 380)
        np.testing.assert_allclose(got["sm_surface"], products.smap_daily(lon, lat, day) + expected, atol=1e-6)
        assert set(np.unique(got["n"])) == {products.SMAP_FIELDS.get(day, 8)}


def test_arithmetic_masks_and_types(server: FakeEarthEngine) -> None:
    scene = products.catalog()["LANDSAT/LC08/C02/T1_L2"].scenes[0]
    image = load(scene, "LANDSAT/LC08/C02/T1_L2")
    raw = native(image, scene.lattice, 3000, 3000)
    counts, qa = raw["SR_B5"].astype(float), raw["QA_PIXEL"].astype(int)
    band = image.select(["SR_B5"], ["nir"])
    scaled = native(band.multiply(2.75e-5).add(-0.2), scene.lattice, 3000, 3000)
    assert scaled.dtype == np.dtype([("nir", "<f8")])
    np.testing.assert_allclose(scaled["nir"], counts * 2.75e-5 - 0.2, rtol=1e-12)
    bit = image.select("QA_PIXEL").bitwiseAnd(1 << 3)
    masked = band.updateMask(bit.eq(0)).unmask(-1)
    np.testing.assert_array_equal(
        native(masked.toInt32(), scene.lattice, 3000, 3000)["nir"], np.where(qa & 8, -1, counts)
    )
    packed = band.divide(3).round().toInt16()
    np.testing.assert_array_equal(
        native(packed, scene.lattice, 3000, 3000)["nir"], np.rint(counts / 3).astype(np.int16)
    )
    both = band.gt(18000).And(band.lte(18500)).Or(bit.neq(0)).Not()
    want = ~(((counts > 18000) & (counts <= 18500)) | (qa & 8 != 0))
    result = native(both, scene.lattice, 3000, 3000)["nir"]
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, want)
    wide = ee.Image.cat([band, ee.Image.constant([1, 2.5]), ee.Image(300).toUint8()]).addBands(band.mask())
    names = ["nir", "constant_0", "constant_1", "constant", "nir_1"]
    assert wide.bandNames().getInfo() == names
    values = native(wide, scene.lattice, 3000, 3000)[0, 0].tolist()
    assert values == (counts[0, 0], 1, 2.5, 255, 1.0)
    limited = native(band.clamp(18000, 18500), scene.lattice, 3000, 3000)["nir"]
    np.testing.assert_array_equal(limited, np.clip(counts, 18000, 18500))
    assert image.select("SR_B[2-4]").bandNames().getInfo() == ["SR_B2", "SR_B3", "SR_B4"]
    assert image.select(0).rename("one").bandNames().getInfo() == ["one"]


def test_unmask_keeps_to_the_footprint_by_default(server: FakeEarthEngine) -> None:
    image = load(TILE, HLS).select("B2")
    west = (TILE.lattice.transform[2] - 300, TILE.lattice.transform[5] - 60_000)
    place = {"width": 30, "height": 4, "corner": west, "crs": "EPSG:32611", "scale": 30.0}
    inside = pixels(image.unmask(-1), **place)["B2"]
    everywhere = pixels(image.unmask(-1, False), **place)["B2"]
    assert not inside[:, :10].any()
    assert (inside[:, 10:] == -1).all()
    assert (everywhere == -1).all()


def test_reproject_and_resample_work_on_the_named_grid(server: FakeEarthEngine) -> None:
    scene = products.catalog()[GRIDMET].on(DAY)[0]
    image = load(scene, GRIDMET).select("tmmx")
    lon, lat = products.transformer("EPSG:5070", "EPSG:4326").transform(*points())
    smooth = products.weather(lon, lat, "tmmx", DAY)
    assert np.abs(pixels(image.resample("bilinear"))["tmmx"] - smooth).max() < 0.02
    assert len(np.unique(pixels(image)["tmmx"])) < 12
    coarse = pixels(image.reproject("EPSG:5070", [1000, 0, 0, 0, -1000, 0]).multiply(1), 20, 20)["tmmx"]
    assert len(np.unique(coarse)) <= 9


def test_clip_masks_what_lies_outside(server: FakeEarthEngine) -> None:
    corner = (-119.5, 47.0)
    shape = ee.Geometry.Polygon([[-119.49, 46.99], [-119.47, 46.99], [-119.47, 46.97], [-119.49, 46.97]])
    got = pixels(ee.Image(1).clip(shape), 40, 40, corner, "EPSG:4326", 0.001)["constant"]
    want = np.zeros((40, 40))
    want[10:30, 10:30] = 1
    np.testing.assert_array_equal(got, want)


# ---- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pixels(ee.Image([1] * 13).toDouble(), 1024, 512), "Total request size (61341696 bytes) must be less"),
        (lambda: pixels(ee.Image(1), 32769, 1), "Pixel grid dimensions (32769x1) must be less than or equal to 32768."),
        (lambda: pixels(ee.Image(1).entropy(ee.Kernel.square(1))), "Image.entropy"),
        (lambda: ee.Image("NASA/NOTHING/1").getInfo(), "Image asset 'NASA/NOTHING/1' not found"),
        (lambda: ee.ImageCollection("NASA/NOTHING").size().getInfo(), "ImageCollection asset 'NASA/NOTHING' not found"),
        (lambda: load(TILE, HLS).select("B99").getInfo(), "Band pattern 'B99' did not match any bands"),
        (lambda: ee.ImageCollection(HLS).filterDate("1999").first().select(0).getInfo(), "Parameter 'input' is"),
        (lambda: ee.ImageCollection(S1).mosaic().getInfo(), "Expected a homogeneous image collection"),
        (lambda: pixels(ee.Image(1), crs="EPSG:1"), "The CRS of a map projection could not be parsed"),
        (
            lambda: pixels(ee.Image(f"{S1}/{products.catalog()[S1].scenes[0].index}").reduceResolution("mean")),
            "Too many input pixels per output pixel.",
        ),
    ],
)  # fmt: skip
def test_invalid_requests_are_refused(server: FakeEarthEngine, make: Any, words: str) -> None:
    with pytest.raises(ee.EEException) as caught:
        make()
    assert words in str(caught.value)
    assert server.log[-1].code in (400, 404)


def test_a_byte_of_mask_counts_for_every_band(server: FakeEarthEngine) -> None:
    side = 4096
    image = ee.Image([1, 2]).toByte()  # 2 bands × 2 bytes × 4096 × 3072 is the limit itself
    assert pixels(image.select(0), 8, 8).shape == (8, 8)
    with pytest.raises(ee.EEException, match="Total request size"):
        pixels(image, side, 3073)


# ---- faults -----------------------------------------------------------------------------------------------------


def ask() -> NDArray[Any]:
    return pixels(ee.Image([7, 8]).toFloat(), 16, 16)


@pytest.mark.parametrize(("code", "wait"), [(429, "3"), (500, None), (503, None)])
def test_status_faults_carry_code_words_and_wait(server: FakeEarthEngine, code: int, wait: str | None) -> None:
    server.faults.append(Fault(kind="status", code=code, message="too bad", retry_after=wait))
    with pytest.raises(ee.EEException, match="too bad") as caught:
        ask()
    reply = caught.value.__context__.resp
    assert (reply.status, reply.get("retry-after")) == (code, wait)
    assert ask().shape == (16, 16)
    assert [request.code for request in server.log] == [code, 200]
    assert server.log[0].faults == ("status",)


def test_connections_drop_and_bodies_are_cut(server: FakeEarthEngine) -> None:
    server.faults.append(Fault(kind="truncate"))
    with pytest.raises(ConnectionError, match="IncompleteRead"):
        ask()
    server.faults[:] = [Fault(kind="short")]
    with pytest.raises(ValueError, match="reshape|buffer|read"):
        ask()
    server.faults[:] = [Fault(kind="drop", times=None)]
    with pytest.raises(ConnectionError):
        ask()
    assert (server.log[-1].code, server.log[-1].sent) == (0, 0)
    server.faults.clear()
    assert ask()["constant_1"].max() == 8


@pytest.mark.parametrize("code", [200, 502])
def test_a_page_instead_of_pixels(server: FakeEarthEngine, code: int) -> None:
    server.faults.append(Fault(kind="html", code=code))
    with pytest.raises((ee.EEException, ValueError)):
        ask()
    assert server.log[-1].code == code


def test_memory_limit_depends_on_the_size(server: FakeEarthEngine) -> None:
    server.faults.append(Fault(kind="memory", pixels=200, times=None))
    with pytest.raises(ee.EEException, match="User memory limit exceeded."):
        ask()
    assert pixels(ee.Image(1), 10, 20).shape == (20, 10)
    assert server.log[-1].size == (20, 10)


def test_other_types_and_names(server: FakeEarthEngine) -> None:
    server.faults += [Fault(kind="dtype"), Fault(kind="band")]
    assert ask().dtype == np.dtype([("constant", "<f8"), ("constant_1", "<f8")])
    assert ask().dtype.names == ("constant_other", "constant_1")
    assert ask().dtype == np.dtype([("constant", "<f4"), ("constant_1", "<f4")])


def test_faults_match_requests_and_delays_add_up(server: FakeEarthEngine) -> None:
    wide = Fault(kind="status", when=lambda body: body["grid"]["dimensions"]["width"] > 100, times=2)
    server.faults += [Fault(kind="delay", seconds=0.2), wide]
    start = time.monotonic()
    assert ask().shape == (16, 16)
    assert time.monotonic() - start > 0.2
    with pytest.raises(ee.EEException):
        pixels(ee.Image(1), 101, 1)
    assert wide.times == 1
    assert server.count() == 2
    assert server.bytes_sent() > 16 * 16 * 8
    assert server.log[0].sent > 2048
    server.faults[:] = [Fault(kind="status", path="value:compute", code=401, message="who?")]
    with pytest.raises(ee.EEException, match="who?"):
        ee.Number(1).add(1).getInfo()
    assert ee.Number(1).add(1).getInfo() == 2


def test_sixteen_concurrent_requests(server: FakeEarthEngine) -> None:
    server.faults.append(Fault(kind="delay", seconds=0.3, times=None))
    images = [ee.Image(k).toInt16() for k in range(16)]
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda image: int(pixels(image, 40, 40)["constant"].max()), images))
    assert got == list(range(16))
    assert server.peak > 8
    assert server.count() == 16


def test_too_many_concurrent_requests_are_refused() -> None:
    with FakeEarthEngine(max_concurrent=1) as server:
        server.faults.append(Fault(kind="delay", path="algorithms", seconds=0.5, times=None))

        def get() -> int:
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            try:
                connection.request("GET", "/v1/projects/p/algorithms")
                return connection.getresponse().status
            finally:
                connection.close()

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(lambda _: get(), range(2))) == [200, 429]


def test_it_runs_in_a_separate_process(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    serving = subprocess.Popen([sys.executable, fake_earthengine.__file__, str(port_file)])
    try:
        for _ in range(200):
            if port_file.exists():
                break
            time.sleep(0.1)
        code = (
            "import ee, json, sys; ee.Initialize(None, url=f'http://127.0.0.1:{sys.argv[1]}', project='p');"
            f"sys.stdout.write(json.dumps(ee.Image('{NLCD}/2021').bandNames().getInfo()))"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, port_file.read_text().strip()],
            env=os.environ | offline_environment(), capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert json.loads(run.stdout) == ["landcover", "impervious"]
    finally:
        serving.terminate()
        serving.wait(10)
