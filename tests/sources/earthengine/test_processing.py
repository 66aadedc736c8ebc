"""Masks, fill values, order of scenes and choice of images on Earth Engine, where its behaviour could spoil values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

import earthengine_catalog as world
from analytic import read_static
from earthengine_catalog import Lattice, Layer, Scene
from earthengine_setup import SOLE, config, served
from fake_earthengine import FakeEarthEngine, Fault, Grid, Projection, ServiceError, sampling
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.lattice import cover, lonlat
from mmnet_maps.grid.tiles import target_grid, tiles
from mmnet_maps.sources.base import Provenance
from mmnet_maps.sources.demo.world import SyntheticWorld
from mmnet_maps.sources.earthengine.config import load_config
from mmnet_maps.sources.earthengine.expressions import native_pixels
from mmnet_maps.sources.earthengine.source import EarthEngineSource
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.variables import VARIABLES
from world_values import centres

pytest.importorskip("ee")

DAY = date(2021, 7, 12)
HLS, DEM = "NASA/HLS/HLSL30/v002", "USGS/3DEP/10m_collection"
ANNUAL = "projects/sat-io/open-datasets/USGS/ANNUAL_NLCD/LANDCOVER"


def using(tmp_path: Path, server: FakeEarthEngine, **other: str) -> EarthEngineSource:
    """Return a source in which some products are replaced by others."""
    return EarthEngineSource(config(tmp_path, server, use=[other.get(name, name) for name in load_config().use]))


# ---- masks and fill values -------------------------------------------------------------------------------------------


def test_a_pixel_that_is_clear_in_part_is_not_blended_with_the_scene_below(source: EarthEngineSource) -> None:
    grid = target_grid(read_aoi("-119.95,46.85,-119.80,47.0"))
    found = source.read("optical", grid, [DAY])["red"][0]
    x, y = centres(grid)
    off = []
    for scene in world.catalog()[HLS].on(DAY):
        zone = int(scene.lattice.crs[-2:])
        ux, uy = world.transformer("EPSG:5070", scene.lattice.crs).transform(x, y)
        off.append(np.abs(found - world.clear_reflectance("B4", ux, uy, zone, scene.start)))
    # Each pixel comes from one of two scenes, which differ by 0.01; a mean of few native pixels is 0.003 off at most.
    nearer = np.minimum(*off)
    assert 0.3 < np.isfinite(nearer).mean() <= 1
    assert all((one[np.isfinite(one)] < 0.003).mean() > 0.05 for one in off)
    assert np.nanmax(nearer) < 0.0035


def test_fill_values_are_masked_before_the_mean(source: EarthEngineSource, server: FakeEarthEngine) -> None:
    def holed(x: NDArray, y: NDArray, formula: world.Formula, pixel: float, fill: float) -> NDArray:
        return np.where(np.floor(x / pixel) % 4 == 0, fill, formula(x, y))

    def with_fill(dataset: str, band: str, pixel: float, fill: float) -> tuple[Scene, ...]:
        return tuple(
            replace(scene, layers=scene.layers | {band: Layer(
                dtype="f4", formula=partial(holed, formula=scene.layers[band].formula, pixel=pixel, fill=fill)
            )})
            for scene in world.catalog()[dataset].scenes
        )  # fmt: skip

    lon, lat = lonlat(SOLE)
    with served(server, world.catalog()[DEM], scenes=with_fill(DEM, "elevation", world.ELEVATION_STEP, -999_999)):
        found = source.read("terrain", SOLE, [DAY])["elevation"][0]
    np.testing.assert_allclose(found, world.elevation(lon.astype(float), lat.astype(float)), atol=3)
    whole = source.read("optical", SOLE, [DAY])["red"][0]
    for fill in (-9999.0, -0.9999):
        with served(server, world.catalog()[HLS], scenes=with_fill(HLS, "B4", 30.0, fill)):
            found = source.read("optical", SOLE, [DAY])["red"][0]
        both = np.isfinite(found) & np.isfinite(whole)
        assert both.mean() > 0.5
        assert (both != np.isfinite(whole)).mean() < 0.02  # at the edges of clouds
        np.testing.assert_allclose(found[both], whole[both], atol=0.006)


# ---- native pixels ---------------------------------------------------------------------------------------------------


def test_as_many_native_pixels_are_combined_as_the_resolution_needs(
    source: EarthEngineSource, server: FakeEarthEngine
) -> None:
    source.read("optical", SOLE, [DAY])
    read_static(source, SOLE, [DAY])
    limits = {}
    for request in server.pixel_requests():
        values = request.body["expression"]["values"]
        (limit,) = set(re.findall(r"'maxPixels': {('constantValue'|'valueReference'): '?(\d+)'?}", str(values)))
        known = limit[1] if "constant" in limit[0] else values[limit[1]]["constantValue"]
        limits[source.variables()[_first(request.body)].product] = int(known)
    assert limits == {"HLS Landsat HLSL30": 64, "3DEP 10 m": 512, "NLCD": 64, "POLARIS": 64}


def _first(body: dict) -> str:
    return next(name for name in VARIABLES if f"{name}_2021" in str(body["expression"]))


@pytest.mark.parametrize("place", [(-124.5, 48.9), (-120, 33), (-96, 49), (-96, 25), (-81, 25), (-67, 47)])
@pytest.mark.parametrize("size", [100, 500])
def test_the_limit_is_enough_all_over_conus(place: tuple[float, float], size: int) -> None:
    x, y = world.transformer("EPSG:4326", "EPSG:5070").transform(*place)
    grid = Grid("EPSG:5070", (size, 0, x, 0, -size, y), 20, 20)
    target = GeoBox((20, 20), Affine(*grid.transform), "EPSG:5070")
    utm = f"EPSG:326{int((place[0] + 180) // 6) + 1}"
    arc = 1 / 3600
    for metres, code, step in (
        (30, utm, 30), (10, utm, 10), (30, "EPSG:5070", 30), (30, "EPSG:4326", arc), (10, "EPSG:4269", arc / 3)
    ):  # fmt: skip
        native = Projection(code, (step, 0, 0, 0, -step, 0))
        sampling(grid, native, native_pixels(metres, target), False)  # raises where they are too many
        with pytest.raises(ServiceError, match="Too many input pixels"):
            sampling(grid, native, native_pixels(metres, target) // 16, False)


def test_a_resolution_that_is_too_coarse_is_reported_with_its_key(tmp_path: Path, server: FakeEarthEngine) -> None:
    source = EarthEngineSource(config(tmp_path, server))
    message = "Image.reduceResolution: Too many input pixels per output pixel. Found 229, but maxPixels allows only 64."
    server.faults.append(Fault(kind="status", code=400, message=message))
    with pytest.raises(InputError, match=r"3DEP.*Found 229, but maxPixels allows only 64.*'resolution'"):
        source.read("terrain", SOLE, [DAY])
    assert server.count() == 1


# ---- which images ----------------------------------------------------------------------------------------------------


def test_a_tile_outside_conus_does_not_change_the_elevation(source: EarthEngineSource, server: FakeEarthEngine) -> None:
    expected = source.read("terrain", SOLE, [DAY])
    dem = world.catalog()[DEM]
    alaska = Scene(
        index="USGS_13_n62w150",
        lattice=Lattice(crs="EPSG:3338", transform=(55.0, 0.0, 180_000.0, 0.0, -55.0, 1.3e6), width=900, height=900),
        layers={"elevation": Layer(dtype="f4", formula=lambda x, y: 0 * x + 0 * y + 500)},
        start=world.millis(date(2014, 1, 1)),
        bounds=(-150.0, 61.0, -149.0, 62.0),
    )  # fmt: skip
    with served(server, dem, scenes=(alaska, *dem.scenes)):
        found = source.read("terrain", SOLE, [DAY])
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_the_newest_tile_is_on_top(source: EarthEngineSource, server: FakeEarthEngine) -> None:
    expected = source.read("terrain", SOLE, [DAY])["elevation"]
    dem = world.catalog()[DEM]
    newer = tuple(
        replace(
            scene,
            index=f"{scene.index}_2023",
            start=world.millis(date(2023, 1, 1)),
            layers={"elevation": Layer(dtype="f4", formula=lambda x, y: world.elevation(x, y) + 7)},
        )
        for scene in dem.scenes
    )
    with served(server, dem, scenes=(*newer, *dem.scenes)):
        found = source.read("terrain", SOLE, [DAY])["elevation"]
    np.testing.assert_allclose(found, expected + 7, atol=0.3)


def test_the_last_scene_of_a_day_is_on_top_whatever_their_order(
    source: EarthEngineSource, server: FakeEarthEngine
) -> None:
    hls = world.catalog()[HLS]
    expected = source.read("optical", SOLE, [DAY])
    with served(server, hls, scenes=hls.scenes[::-1]):
        found = source.read("optical", SOLE, [DAY])
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize(("year", "used"), [(2010, 2015), (2018, 2018), (2021, 2021), (2030, 2023)])
@pytest.mark.parametrize("begins", [1, 7])
def test_annual_land_cover_is_that_of_the_nearest_year(
    tmp_path: Path, server: FakeEarthEngine, year: int, used: int, begins: int
) -> None:
    source = using(tmp_path, server, landcover="landcover_annual")
    annual = world.catalog()[ANNUAL]
    scenes = tuple(replace(scene, start=world.millis(date(scene.day.year, begins, 1))) for scene in annual.scenes)
    x, y = centres(SOLE)
    with served(server, annual, scenes=scenes[::-1]):
        for day in (date(year, 1, 1), date(year, 12, 31)):
            found = source.read("landcover", SOLE, [day])["landcover"][0]
            assert (found == world.landcover_class(x, y, used)).mean() > 0.6
    assert source.variables()["landcover"].product == "Annual NLCD"


def test_fill_of_annual_land_cover_is_missing(tmp_path: Path, server: FakeEarthEngine) -> None:
    source = using(tmp_path, server, landcover="landcover_annual")
    grid = GeoBox((6, 40), Affine(100, 0, world.ANNUAL_COAST - 2000, 0, -100, 2_900_000), "EPSG:5070")
    found = source.read("landcover", grid, [DAY])["landcover"][0]
    assert not found[:, :19].any()
    assert set(np.unique(found[:, 20:])) <= set(world.LANDCOVER_CODES)


def test_only_a_collection_without_days_can_be_yearly(tmp_path: Path, server: FakeEarthEngine) -> None:
    for product in (
        {"collection": "a", "yearly": True, "bands": {"smap": "a"}, "product": "x"},
        {"image": "a", "yearly": True, "bands": {"landcover": "a"}, "product": "x"},
    ):
        with pytest.raises(RequestError, match="yearly is for collections of variables without days"):
            EarthEngineSource(config(tmp_path, server, use=["one"], products={"one": product}))


# ---- surface temperature ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("product", "kept"), [("lst", (0, 65)), ("lst_good", (0,))])
def test_surface_temperature_of_other_quality_is_dropped_by_option(
    tmp_path: Path, server: FakeEarthEngine, product: str, kept: tuple[int, ...]
) -> None:
    source = using(tmp_path, server, lst=product)
    lattice = source.lattice("lst")
    box = lattice[cover(target_grid(read_aoi("-120.5,46.5,-118.5,48.0")), lattice)]
    found = source.read("lst", box, [DAY])["lst"][0]
    quality = world.lst_quality(*centres(box), DAY)
    np.testing.assert_array_equal(np.isfinite(found), np.isin(quality, kept))
    assert {0, 65, 73, 2} == set(np.unique(quality))


def test_surface_temperature_of_viirs(tmp_path: Path, server: FakeEarthEngine) -> None:
    source = using(tmp_path, server, lst="lst_viirs")
    lattice = source.lattice("lst")
    box = lattice[cover(target_grid(read_aoi("-120.5,46.5,-118.5,48.0")), lattice)]
    found = source.read("lst", box, [DAY])["lst"][0]
    x, y = centres(box)
    quality = world.viirs_quality(x, y, DAY)
    expected = np.where(np.isin(quality, (768, 1)), world.viirs_kelvin(x, y, DAY), np.nan)
    assert {768, 1, 33, 2} == set(np.unique(quality))
    np.testing.assert_allclose(found, expected, atol=0.51 * VARIABLES["lst"].scale + 1e-4)
    assert source.variables()["lst"].product == "VNP21A1D"


# ---- in a stack ------------------------------------------------------------------------------------------------------


class _Granules(SyntheticWorld):
    """SMAP as its files have it: on the EASE grid."""

    def variables(self) -> Mapping[str, Provenance]:
        known = super().variables()
        return known | {"smap": replace(known["smap"], source="files", product="SMAP L4 SPL4SMGP", synthetic=False)}


@pytest.mark.parametrize("first", ["earthengine", "files"])
def test_smap_of_earth_engine_and_of_files_are_never_mixed(
    tmp_path: Path, source: EarthEngineSource, first: str
) -> None:
    needs = Needs(snapshot=("smap",), series=("pr",), steps=1, includes_day=True)
    demand = Demand(grid=SOLE, tiles=tiles(SOLE), needs=needs, days=[DAY])
    grids = ["WGS 84, 0.09881 degrees", "WGS 84 / NSIDC EASE-Grid 2.0 Global, 9008 m"]
    sources: list[EarthEngineSource | _Granules] = [source, _Granules()]
    if first == "files":
        sources, grids = sources[::-1], grids[::-1]
    fetch(tmp_path / "s.zarr", sources[:1], demand, quiet=True)
    message = f"SMAP L4 SPL4SMGP, .* SMAP L4 SPL4SMGP on another grid .{grids[1]}; the stack has {grids[0]}.; choose an"
    with pytest.raises(InputError, match=message):
        fetch(tmp_path / "s.zarr", sources[1:], demand, quiet=True)
