"""The Earth Engine source against a loopback service whose pixels follow closed formulas."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from odc.geo.geobox import GeoBox

import earthengine_catalog as world
from analytic import read_static
from earthengine_catalog import Layer
from earthengine_setup import SOLE, config
from fake_earthengine import FakeEarthEngine, Fault
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.lattice import cover, lonlat
from mmnet_maps.grid.tiles import target_grid, tiles
from mmnet_maps.resources import packaged
from mmnet_maps.sources import open_source
from mmnet_maps.sources.earthengine.client import signed_in
from mmnet_maps.sources.earthengine.source import EarthEngineSource, load_config
from mmnet_maps.stack.availability import require_values
from mmnet_maps.stack.fetch import estimate, fetch
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.stack.pixels import sample
from mmnet_maps.stack.reader import read_block
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FINE_GROUPS, STATIC_GROUPS, VARIABLES
from world_values import centres

pytest.importorskip("ee")

DAY = date(2021, 7, 12)  # seen by HLS; VV of zone 11 is from a day before
RADAR = date(2021, 6, 30)  # with images of other modes and polarisations, too high
NEEDS = Needs(
    snapshot=("smap", "red", "vv", "landcover", "elevation"), series=("pr", "lst"), steps=3, includes_day=True
)
# Without radar, whose smoothed 10 m pixels cost the loopback service more than everything else.
SOME = Needs(snapshot=("smap", "red", "landcover"), series=("pr", "lst"), steps=2, includes_day=True)


def window(source: EarthEngineSource, group: str) -> GeoBox:
    lattice = source.lattice(group)
    return lattice[cover(SOLE, lattice, pad=2)]


def tolerance(name: str) -> float:
    """Return half a step of the packing, plus the rounding of float32."""
    return 0.51 * VARIABLES[name].scale + 1e-5


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "fields"), [(DAY, 8), (world.FIRST + timedelta(50), 3), (world.FIRST + timedelta(51), 5)]
)
def test_smap_is_the_mean_of_the_day_where_half_of_it_is_there(
    source: EarthEngineSource, day: date, fields: int
) -> None:
    box = window(source, "smap")
    found = source.read("smap", box, [day])["smap"][0]
    expected = world.smap_daily(*centres(box), day) + 0.004 * ((fields - 1) / 2 - 3.5)
    np.testing.assert_allclose(found, expected if fields >= 4 else np.nan, atol=tolerance("smap"))


def test_weather_is_read_on_its_own_grid_day_by_day(source: EarthEngineSource) -> None:
    box, days = window(source, "weather"), [DAY + timedelta(days=k) for k in range(-3, 3)]
    found = source.read("weather", box, days)
    assert set(found) == set(world.WEATHER)
    for name, values in found.items():
        for day, layer in zip(days, values, strict=True):
            expected = world.weather(*centres(box), name, day)
            np.testing.assert_allclose(layer, expected, atol=tolerance(name), err_msg=f"{name} {day}")


def test_values_without_a_date_are_read_once_for_all_years(source: EarthEngineSource, server: FakeEarthEngine) -> None:
    box, days = SOLE[20:22, 20:22], [date(year, 7, 12) for year in (2016, 2019, 2021)]
    apart = [read_static(source, box, [day]) for day in days]
    server.reset()
    planned = [sum(source.cost(group, box, some).requests for group in STATIC_GROUPS) for some in (days, days[:1])]
    found = read_static(source, box, days)
    assert [server.count()] * 2 == planned
    for name, values in found.items():
        np.testing.assert_array_equal(values, np.concatenate([one[name] for one in apart]), err_msg=name)
    assert (found["landcover"][0] != found["landcover"][2]).any()


def test_a_request_opens_a_thousand_images_at_most(source: EarthEngineSource) -> None:
    lattice, days = source.lattice("smap"), [world.FIRST + timedelta(days=k) for k in range(300)]
    listed = source.days("smap", lattice[:1, :1], days[0], days[-1])
    cost = source.cost("smap", lattice[:1, :1], listed)
    assert cost.requests == -(-8 * len(listed) // 1024)  # eight images a day


def test_a_new_variable_needs_only_its_definition_and_a_product(
    tmp_path: Path, server: FakeEarthEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gust = replace(VARIABLES["vs"], name="gust", long_name="wind gust", group="gusts")
    monkeypatch.setitem(VARIABLES, "gust", gust)
    product = {"collection": "IDAHO_EPSCOR/GRIDMET", "bands": {"gust": "vs"}, "product": "gridMET"}
    source = EarthEngineSource(config(tmp_path, server, use=["gusts"], products={"gusts": product}))
    assert list(source.variables()) == ["gust"]
    box = window(source, "gusts")
    assert source.days("gusts", box, DAY, DAY) == [DAY]
    (found,) = source.read("gusts", box, [DAY])["gust"]
    np.testing.assert_allclose(found, world.weather(*centres(box), "vs", DAY), atol=tolerance("vs"))


def test_surface_temperature_is_masked_by_its_quality(source: EarthEngineSource) -> None:
    lattice = source.lattice("lst")
    box = lattice[cover(target_grid(read_aoi("-120.5,46.5,-118.5,48.0")), lattice)]
    x, y = centres(box)
    for day, found in zip(
        [DAY, DAY + timedelta(days=1)], source.read("lst", box, [DAY, DAY + timedelta(days=1)])["lst"]
    ):
        quality = world.lst_quality(x, y, day)
        expected = np.where((quality.astype(int) & 0b1010) == 0, world.lst_counts(x, y, day) * 0.02, np.nan)
        assert 0.1 < np.isnan(expected).mean() < 0.9
        np.testing.assert_allclose(found, expected, atol=tolerance("lst"))


def top(dataset: str, day: date, band: str, x: float, y: float, size: float, **options: Any) -> float:
    """Return the area mean of a pixel from the last image of a day with a value."""
    value = np.nan
    for scene in world.catalog()[dataset].on(day):
        if band in scene.layers and scene.properties.get("instrumentMode", "IW") == "IW":
            if dataset == "COPERNICUS/S1_GRD" and len(scene.properties["transmitterReceiverPolarisation"]) < 2:
                continue
            mine = scene.area_mean(band, x, y, size, "EPSG:5070", **options)
            value = value if np.isnan(mine) else mine
    return value


def clear(scene: world.Scene, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.nan_to_num(scene.stored("Fmask", x, y), nan=255).astype(int) & 0b1010) == 0


def some_pixels(count: int) -> list[tuple[int, int]]:
    draw = np.random.default_rng(3)
    return [(int(draw.integers(SOLE.shape.y)), int(draw.integers(SOLE.shape.x))) for _ in range(count)]


@pytest.mark.parametrize("product", ["hls", "landsat8"])
def test_reflectance_is_the_area_mean_of_clear_pixels(tmp_path: Path, server: FakeEarthEngine, product: str) -> None:
    if product == "landsat8":
        names = [product if name == "hls" else name for name in load_config().use]
        source, day = EarthEngineSource(config(tmp_path, server, use=names)), date(2021, 7, 11)
    else:
        source, day = EarthEngineSource(config(tmp_path, server)), DAY
    assert source.days("optical", SOLE, day, day) == [day]
    found = source.read("optical", SOLE, [day])
    x, y = centres(SOLE)
    seen = 0
    for place in some_pixels(25):
        for name, band in load_config().products[product].bands.items():
            if product == "hls":
                value = top("NASA/HLS/HLSL30/v002", day, band, x[place], y[place], 100, good=clear)
            else:
                value = top(
                    "LANDSAT/LC08/C02/T1_L2", day, band, x[place], y[place], 100,
                    good=lambda scene, a, b: (
                                np.nan_to_num(scene.stored("QA_PIXEL", a, b), nan=1).astype(int) & 0b11111
                            )
                            == 0,
                ) * 2.75e-5 - 0.2  # fmt: skip
            np.testing.assert_allclose(found[name][0][place], value, atol=1e-3, err_msg=f"{name} {place}")
            seen += bool(np.isfinite(value))
    assert seen > 50


def test_backscatter_of_the_right_images_is_smoothed_and_averaged_in_decibels(source: EarthEngineSource) -> None:
    found = source.read("sar", SOLE, [RADAR])
    x, y = centres(SOLE)
    kinds = {
        (scene.properties["instrumentMode"], len(scene.properties["transmitterReceiverPolarisation"]))
        for scene in world.catalog()["COPERNICUS/S1_GRD"].on(RADAR)
    }
    assert kinds == {("IW", 2), ("IW", 1), ("EW", 2)}  # two of them too high, and not to be used
    for place in some_pixels(8):
        for name, band in (("vv", "VV"), ("vh", "VH")):
            expected = top("COPERNICUS/S1_GRD", RADAR, band, x[place], y[place], 100)
            np.testing.assert_allclose(found[name][0][place], expected, atol=0.1, err_msg=f"{name} {place}")


def test_terrain_soil_and_land_cover(source: EarthEngineSource) -> None:
    found = read_static(source, SOLE, [date(2021, 6, 1)])
    x, y = centres(SOLE)
    lon, lat = lonlat(SOLE)
    np.testing.assert_allclose(found["elevation"][0], world.elevation(lon, lat), atol=0.5)
    east, north = (np.gradient(world.elevation(lon, lat), 100.0, axis=axis) for axis in (1, 0))
    inner = np.s_[1:-1, 1:-1]
    np.testing.assert_allclose(found["slope"][0][inner], np.degrees(np.arctan(np.hypot(east, north)))[inner], atol=0.15)
    for name, key in (("clay", "clay"), ("sand", "sand"), ("bulk_density", "bd")):
        np.testing.assert_allclose(found[name][0], world.smooth_soil(key, lon, lat), rtol=4e-3, err_msg=name)
    inside = np.ones(SOLE.shape, bool)
    for dx, dy in ((-50, -50), (-50, 50), (50, -50), (50, 50)):  # pixels within one block of the land cover
        inside &= world.landcover_class(x + dx, y + dy, 2021) == world.landcover_class(x, y, 2021)
    assert inside.mean() > 0.5
    np.testing.assert_array_equal(found["landcover"][0][inside], world.landcover_class(x, y, 2021)[inside])


def test_elevation_has_no_seams_between_tiles(source: EarthEngineSource) -> None:
    grid = target_grid(read_aoi("-119.01,46.99,-118.99,47.01"))  # four tiles meet in the middle
    lon, lat = lonlat(grid)
    found = source.read("terrain", grid, [DAY])["elevation"][0]
    np.testing.assert_allclose(found, world.elevation(lon.astype(float), lat.astype(float)), atol=0.3)


def test_the_nearest_release_of_the_land_cover_is_used(source: EarthEngineSource) -> None:
    old, new = (source.read("landcover", SOLE, [day])["landcover"][0] for day in (date(2018, 7, 1), date(2022, 7, 1)))
    x, y = centres(SOLE)
    assert (old == world.landcover_class(x, y, 2019)).mean() > 0.6
    assert (new == world.landcover_class(x, y, 2021)).mean() > 0.6


def test_nearest_takes_the_pixel_under_each_centre(tmp_path: Path, server: FakeEarthEngine) -> None:
    source = EarthEngineSource(config(tmp_path, server, resampling="nearest"))
    found = source.read("optical", SOLE, [DAY])["red"][0]
    x, y = centres(SOLE)
    expected = np.full(SOLE.shape, np.nan)
    for scene in world.catalog()["NASA/HLS/HLSL30/v002"].on(DAY):
        values = scene.stored("B4", x, y, "EPSG:5070")
        fmask = np.nan_to_num(scene.stored("Fmask", x, y, "EPSG:5070"), nan=8).astype(int)
        good = np.isfinite(values) & ((fmask & 0b1010) == 0)
        expected[good] = values[good]
    close = np.isclose(found, expected, atol=tolerance("red"), equal_nan=True)
    assert close.mean() > 0.995  # a centre on an edge of pixels may fall to either side


# ---- requests --------------------------------------------------------------------------------------------------------


def test_requests_and_bytes_are_those_estimated(tmp_path: Path, server: FakeEarthEngine) -> None:
    path = config(tmp_path, server, side=128, concurrency=3)
    demand = Demand(grid=SOLE, tiles=tiles(SOLE), needs=SOME, days=[DAY])
    estimated = estimate(tmp_path / "s.zarr", [EarthEngineSource(path)], demand)
    assert not (tmp_path / "s.zarr").exists()
    assert not server.count()
    source = EarthEngineSource(path)
    fetch(tmp_path / "s.zarr", [source], demand, quiet=True)
    costs = [item.cost for item in estimated if item.cost]
    assert sum(cost.requests for cost in costs) == source.traffic.requests == server.count()
    assert source.traffic.bytes == server.bytes_sent()
    assert sum(cost.bytes for cost in costs) == pytest.approx(server.bytes_sent(), rel=0.001)
    assert estimate(tmp_path / "s.zarr", [EarthEngineSource(path)], demand) == []
    server.reset()
    fetch(tmp_path / "s.zarr", [EarthEngineSource(path)], demand, quiet=True)
    assert not server.count()


def test_concurrent_requests_are_limited_by_the_config(tmp_path: Path, server: FakeEarthEngine) -> None:
    corner = target_grid(
        read_aoi("-119.3135,47.7767,-119.2735,47.8067")
    )  # of four tiles, each with requests of its own
    needs = Needs(snapshot=("landcover",), series=("pr",), steps=1, includes_day=True)
    source = EarthEngineSource(config(tmp_path, server, concurrency=3, use=["landcover", "weather"]))
    server.reset()
    server.faults.append(Fault(kind="delay", seconds=0.3, times=None))  # long enough to see who asks meanwhile
    fetch(tmp_path / "s.zarr", [source], Demand(grid=corner, tiles=tiles(corner), needs=needs, days=[DAY]), quiet=True)
    assert server.peak == 3
    server.reset()


def test_a_sample_at_a_pixel_centre_is_the_pixel_of_the_stack(tmp_path: Path, server: FakeEarthEngine) -> None:
    source = EarthEngineSource(config(tmp_path, server, side=128))  # as above: the service has these answers already
    stack = fetch(
        tmp_path / "s.zarr", [source], Demand(grid=SOLE, tiles=tiles(SOLE), needs=SOME, days=[DAY]), quiet=True
    )
    block = read_block(stack, SOLE, SOME, [DAY], smap_resampling="bilinear")
    snapshot = next(block.snapshots)
    lon, lat = lonlat(SOLE)
    place = (20, 30)
    rows = sample([source], [(float(lon[place]), float(lat[place]))], [DAY], SOME)
    for name in SOME.snapshot:
        expected = snapshot.fine[name][place]
        expected = VARIABLES[name].unpack(np.asarray(expected)) if expected.dtype == np.int16 else expected
        np.testing.assert_array_equal(rows[name][0], expected, err_msg=name)
    for name in SOME.series:
        np.testing.assert_array_equal(rows[name][0], block.series[name][block.series_id[0][place]])


def test_radar_at_a_pixel_centre_is_that_of_a_small_window(source: EarthEngineSource) -> None:
    lon, lat = lonlat(SOLE)
    needs = Needs(snapshot=("vv", "vh"), series=("pr",), steps=1, includes_day=True)
    rows = sample([source], [(float(lon[20, 30]), float(lat[20, 30]))], [RADAR], needs)
    window = source.read("sar", SOLE[17:24, 27:34], [RADAR])
    for name in needs.snapshot:
        assert np.isfinite(rows[name][0])
        expected = VARIABLES[name].unpack(VARIABLES[name].pack(window[name][0]))[3, 3]
        np.testing.assert_array_equal(rows[name][0], expected, err_msg=name)


TRANSIENT = {
    "too many requests for a while": Fault(kind="status", code=429, times=3),
    "too many requests, come back in a second": Fault(kind="status", code=429, retry_after="1"),
    "unavailable for a while": Fault(kind="status", code=503, times=3),
    "a slow answer": Fault(kind="delay", seconds=0.3),
    "a dropped connection": Fault(kind="drop", times=2),
    "a truncated answer": Fault(kind="truncate", times=2),
    "half an answer": Fault(kind="short", times=2),
    "an HTML page, 200": Fault(kind="html", code=200, times=2),
    "an HTML page, 502": Fault(kind="html", code=502, times=2),
    "over the memory limit": Fault(kind="memory", pixels=900, times=None),
    "another type": Fault(kind="dtype"),
    "another name": Fault(kind="band"),
}
PERMANENT = {
    "too many requests forever": (Fault(kind="status", code=429, times=None), "no answer .* 7 attempts.*429"),
    "unavailable forever": (Fault(kind="status", code=503, times=None), "no answer .* 7 attempts.*503"),
    "never connected": (Fault(kind="drop", times=None), "no answer .* 7 attempts.*connection"),
    "HTML forever": (Fault(kind="html", code=200, times=None), "no answer .* 7 attempts.*unreadable"),
    "refused": (Fault(kind="status", code=403, message="No access."), "refuses the request: No access"),
    "wrong": (Fault(kind="status", code=400, message="Image.select: no band."), "the request: Image.select: no band"),
    "never enough memory": (
        Fault(kind="status", code=400, message="User memory limit exceeded.", times=None),
        "memory limit.*16 pixels is too much",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_transient_fault_changes_nothing(source: EarthEngineSource, server: FakeEarthEngine, name: str) -> None:
    expected = source.read("optical", SOLE, [DAY])
    fault = TRANSIENT[name]
    server.faults.append(replace(fault))
    began = time.monotonic()
    found = source.read("optical", SOLE, [DAY])
    for variable, values in expected.items():
        # A split request has another grid, which changes a mean by at most a step of the packing.
        step = 2 * VARIABLES[variable].scale if fault.kind == "memory" else 0
        np.testing.assert_allclose(found[variable], values, rtol=0, atol=1.01 * step)
    assert server.count() >= 2
    if fault.retry_after:
        assert time.monotonic() - began >= 1


@pytest.mark.parametrize("name", PERMANENT)
def test_a_permanent_fault_stops_with_its_cause_and_stores_nothing(
    tmp_path: Path, source: EarthEngineSource, server: FakeEarthEngine, name: str
) -> None:
    fault, words = PERMANENT[name]
    server.faults.append(replace(fault))
    began = time.monotonic()
    with pytest.raises(InputError, match=f"^NASA/SMAP/SPL4SMGP/008 .products.smap.collection.*{words}") as caught:
        fetch(tmp_path / "s.zarr", [source], Demand(grid=SOLE, tiles=tiles(SOLE), needs=NEEDS, days=[DAY]), quiet=True)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 10
    stack = Stack(tmp_path / "s.zarr")
    for group in stack.groups.values():
        assert not stack.marks(group, group.whole_blocks(cover(SOLE, group.lattice)), [DAY]).any()


def test_a_cloudy_month_is_missing_and_not_requested_again(tmp_path: Path, server: FakeEarthEngine) -> None:
    path, known = config(tmp_path, server), server.datasets
    hls = known["NASA/HLS/HLSL30/v002"]
    overcast = replace(hls, scenes=tuple(scene for scene in hls.scenes if scene.day == world.OVERCAST))
    needs = Needs(snapshot=("red",), series=("pr",), steps=1, includes_day=True)
    demand = Demand(grid=SOLE, tiles=tiles(SOLE), needs=needs, days=[world.OVERCAST + timedelta(days=9)])
    try:
        server.datasets = {**known, hls.id: overcast}
        source = EarthEngineSource(path)
        assert source.days("optical", SOLE, date(2021, 3, 1), date(2021, 7, 1)) == [world.OVERCAST]
        stack = fetch(tmp_path / "s.zarr", [source], demand, quiet=True)
        assert any("red_20210517" in str(request.body) for request in server.pixel_requests())
        with pytest.raises(InputError, match="no value of .*red"):
            require_values(stack, SOLE, needs, demand.days)
        server.reset()
        fetch(tmp_path / "s.zarr", [EarthEngineSource(path)], demand, quiet=True)
        assert not server.count()
    finally:
        server.datasets = known


def test_a_missing_asset_names_its_key(tmp_path: Path, server: FakeEarthEngine) -> None:
    products = {name: dict(entry) for name, entry in yaml.safe_load(
        (packaged("configs") / "earthengine.yaml").read_text())["products"].items()}  # fmt: skip
    products["smap"]["collection"] = "NASA/SMAP/SPL4SMGP/001"
    source = EarthEngineSource(config(tmp_path, server, products=products))
    with pytest.raises(InputError, match=r"SPL4SMGP/001 \(products.smap.collection in .*not found"):
        source.lattice("smap")


def test_a_day_that_is_published_late_is_requested_again(tmp_path: Path, server: FakeEarthEngine) -> None:
    path, known = config(tmp_path, server), server.datasets
    smap = known["NASA/SMAP/SPL4SMGP/008"]
    early = replace(smap, scenes=tuple(scene for scene in smap.scenes if scene.day < DAY))
    needs = Needs(snapshot=("smap",), series=("pr",), steps=1, includes_day=True)
    demand = Demand(grid=SOLE, tiles=tiles(SOLE), needs=needs, days=[DAY])
    today = DAY + timedelta(days=2)
    try:
        server.datasets = {**known, smap.id: early}
        stack = fetch(tmp_path / "s.zarr", [EarthEngineSource(path)], demand, today=today, quiet=True)
        with pytest.raises(InputError, match="no value of smap"):
            require_values(stack, SOLE, needs, [DAY])
    finally:
        server.datasets = known
    server.reset()
    stack = fetch(tmp_path / "s.zarr", [EarthEngineSource(path)], demand, today=today, quiet=True)
    require_values(stack, SOLE, needs, [DAY])
    assert server.count() == 1
    later = DAY + timedelta(days=200)
    for _ in range(2):
        server.reset()
        fetch(tmp_path / "s.zarr", [EarthEngineSource(path)], demand, today=later, quiet=True)
    assert not server.log  # a day that is still empty after so long stays empty


def test_images_are_read_again_when_they_are_replaced_until_they_are_final(
    tmp_path: Path, server: FakeEarthEngine
) -> None:
    path, known = config(tmp_path, server), server.datasets
    needs = Needs(snapshot=("smap",), series=("pr",), steps=1, includes_day=True)
    demand = Demand(grid=SOLE, tiles=tiles(SOLE), needs=needs, days=[DAY])
    weather = known["IDAHO_EPSCOR/GRIDMET"]

    def asked(age: int, rain: float, version: int, **properties: str) -> tuple[int, int, float]:
        """Return the requests for pixels and for lists of images, and the stored rain, after a fetch at some age."""
        layer = Layer(dtype="f4", formula=lambda x, y: np.full_like(x, rain))
        scenes = tuple(
            replace(scene, layers={**scene.layers, "pr": layer}, properties={"system:version": version, **properties})
            if scene.day == DAY
            else scene
            for scene in weather.scenes
        )
        server.reset()
        server.datasets = {**known, weather.id: replace(weather, scenes=scenes)}
        source, today = EarthEngineSource(path), DAY + timedelta(days=age)
        stack = fetch(tmp_path / "s.zarr", [source], demand, today=today, quiet=True)
        group = stack.group_of("pr")
        found = stack.read("pr", cover(SOLE, group.lattice), DAY)
        lists = sum("AggregateFeatureCollection.array" in str(request.body) for request in server.log)
        return server.count(), lists, round(float(found.mean()), 2)

    try:
        pixels, _, rain = asked(2, 3.0, 1, status="early")
        assert (pixels, rain) == (2, 3.0)
        assert asked(3, 3.0, 1, status="early") == (0, 2, 3.0)  # one list for each product and year
        assert asked(4, 5.0, 2, status="early") == (1, 2, 5.0)
        assert asked(40, 6.0, 3, status="permanent") == (1, 2, 6.0)
        assert asked(41, 7.0, 4, status="permanent") == (0, 1, 6.0)  # SMAP may still change, weather is final
        assert asked(70, 7.0, 4, status="permanent") == (0, 1, 6.0)
        assert asked(71, 7.0, 4, status="permanent") == (0, 0, 6.0)
    finally:
        server.datasets = known


def test_images_that_do_not_state_it_are_final_after_sixty_days(tmp_path: Path, server: FakeEarthEngine) -> None:
    source = EarthEngineSource(config(tmp_path, server))
    box, days = window(source, "smap"), [DAY, DAY + timedelta(days=1)]
    found = source.revisions("smap", box, days, DAY + timedelta(days=61))
    assert [one.final for one in found] == [True, False]
    assert found[0].stamps["smap"] != found[1].stamps["smap"]
    assert [one.final for one in source.revisions("weather", box, days, DAY)] == [True, True]
    beyond = source.revisions("smap", box, [date(2030, 1, 1)], DAY)
    assert (beyond[0].stamps, beyond[0].final) == ({}, False)


def test_what_is_final_does_not_change_the_recipe(tmp_path: Path, server: FakeEarthEngine) -> None:
    before = EarthEngineSource(config(tmp_path, server))
    products = yaml.safe_load((packaged("configs") / "earthengine.yaml").read_text())["products"]
    assert products["weather"].pop("final") == {"status": "permanent"}
    products["hls"]["resolution"] = 20
    after = EarthEngineSource(config(tmp_path, server, products=products))
    assert (after.name, after.variables()) == (before.name, before.variables())


def test_values_of_another_recipe_are_not_added_to_a_stack(tmp_path: Path, server: FakeEarthEngine) -> None:
    smallest = Needs(snapshot=("smap", "landcover"), series=("pr",), steps=1, includes_day=True)
    demand = Demand(grid=SOLE, tiles=tiles(SOLE), needs=smallest, days=[DAY])
    fetch(tmp_path / "s.zarr", [EarthEngineSource(config(tmp_path, server))], demand, quiet=True)
    other = EarthEngineSource(config(tmp_path, server, resampling="nearest"))
    with pytest.raises(InputError, match="made in another way; choose another --out"):
        fetch(tmp_path / "s.zarr", [other], demand, quiet=True)


def test_many_days_come_in_one_answer_and_are_split_when_too_large(
    source: EarthEngineSource, server: FakeEarthEngine
) -> None:
    box, days = window(source, "weather"), [date(2021, 6, 1) + timedelta(days=k) for k in range(48)]
    expected = source.read("weather", box, days)
    assert server.count() == 1
    server.faults.append(
        Fault(
            kind="status",
            code=400,
            message="User memory limit exceeded.",
            times=None,
            when=lambda body: str(body).count("2021-") > 2 * 20,
        )
    )
    server.log.clear()
    found = source.read("weather", box, days)
    assert server.count() == 3
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_a_listing_that_takes_too_long_is_reported(source: EarthEngineSource, server: FakeEarthEngine) -> None:
    server.faults.append(
        Fault(kind="status", path="value:compute", code=400, message="Computation timed out.", times=None)
    )
    with pytest.raises(InputError, match="Computation timed out.*raise 'deadline'"):
        source.days("optical", SOLE, DAY, DAY)


def test_a_stopped_fetch_ends_soon_and_keeps_finished_blocks(
    tmp_path: Path, source: EarthEngineSource, server: FakeEarthEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmnet_maps.sources.earthengine.client._FIRST_WAIT", 30.0)
    server.faults.append(Fault(kind="status", code=503, times=None, when=lambda body: "red_20210704" in str(body)))
    server.faults.append(
        Fault(kind="status", code=400, message="Wrong.", when=lambda body: "red_20210712" in str(body))
    )
    began = time.monotonic()
    with pytest.raises(InputError, match="400|Wrong"):
        fetch(tmp_path / "s.zarr", [source], Demand(grid=SOLE, tiles=tiles(SOLE), needs=NEEDS, days=[DAY]), quiet=True)
    assert time.monotonic() - began < 20
    group = Stack(tmp_path / "s.zarr").groups["smap"]
    assert (Stack(tmp_path / "s.zarr").marks(group, cover(SOLE, group.lattice), [DAY]) > 1).all()


# ---- configuration and signing in ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use": ["smap", "nonsense"]}, "use names nonsense"),
        ({"concurrency": 0}, "concurrency: .*greater than or equal to 1"),
        ({"colour": 1}, "colour: Extra inputs"),
        ({"url": "https://example.com"}, "is not Google's; credentials are sent to"),
        ({"products": {"smap": {"bands": {"smap": "a"}, "product": "x"}}}, "one of collection, image and releases"),
        ({"products": {"smap": {"image": "a", "bands": {"smop": "a"}, "product": "x"}}}, "unknown variable smop"),
        ({"products": {"smap": {"image": "a", "bands": {"smap": "a"}, "product": "x"}}}, "give a collection"),
    ],
)
def test_an_invalid_yaml_names_the_key(
    tmp_path: Path, server: FakeEarthEngine, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        EarthEngineSource(config(tmp_path, server, **change))


def test_a_yaml_of_products_opens_earth_engine(tmp_path: Path, server: FakeEarthEngine) -> None:
    (found,) = open_source(str(config(tmp_path, server)))
    (default,) = open_source("earthengine")
    assert isinstance(found, EarthEngineSource)
    assert found.name == default.name
    assert found.variables().keys() == VARIABLES.keys()
    other = EarthEngineSource(config(tmp_path, server, resampling="nearest"))
    assert other.name != found.name


def test_without_credentials_the_error_explains_how_to_sign_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not signed_in()
    source = EarthEngineSource()
    with pytest.raises(RequestError, match=r"earthengine authenticate.*EARTHENGINE_PROJECT"):
        source.lattice("smap")
    (tmp_path / "key.json").write_text('{"type": "service_account"}')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    assert not signed_in()
    with pytest.raises(RequestError, match=r"cannot sign in to Earth Engine.*earthengine authenticate"):
        EarthEngineSource().lattice("smap")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    (tmp_path / ".config" / "earthengine").mkdir(parents=True)
    (tmp_path / ".config" / "earthengine" / "credentials").write_text('{"refresh_token": "x", "project": "mine"}')
    assert signed_in()


def test_a_broken_sign_in_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    stored = tmp_path / ".config" / "earthengine" / "credentials"
    stored.parent.mkdir(parents=True)
    monkeypatch.setenv("EARTHENGINE_PROJECT", "mine")
    with pytest.raises(RequestError, match=r"EARTHENGINE_PROJECT is set, but \S+ does not exist.*--source demo"):
        signed_in()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "gone.json")
    with pytest.raises(RequestError, match="GOOGLE_APPLICATION_CREDENTIALS is gone.json, which is no file"):
        signed_in()
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    monkeypatch.delenv("EARTHENGINE_PROJECT")
    for text, message in (("{", "holds no credentials"), ("[]", "holds no credentials"), ("{}", "names no project")):
        stored.write_text(text)
        with pytest.raises(RequestError, match=message):
            signed_in()
    monkeypatch.setenv("EARTHENGINE_PROJECT", "mine")
    assert signed_in()
    monkeypatch.setattr("mmnet_maps.sources.earthengine.client.find_spec", lambda _: None)
    with pytest.raises(RequestError, match="client is missing"):
        signed_in()


@pytest.mark.live
def test_the_real_service() -> None:
    """Check grid, bands and values of every product in use; needs an account, see docs/inputs.md."""
    source = EarthEngineSource()
    for group in ("smap", "weather", "lst"):
        lattice = source.lattice(group)
        box = lattice[cover(SOLE, lattice)]
        assert np.isfinite(next(iter(source.read(group, box, [DAY]).values()))).any(), group
    for group in FINE_GROUPS:
        days = source.days(group, SOLE, DAY - timedelta(days=16), DAY)
        assert any(np.isfinite(v.astype(float)).any() for v in source.read(group, SOLE, days[-1:]).values()), group
