from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from analytic import read_static
from mmnet_maps.errors import InputError
from mmnet_maps.sources.base import Source
from mmnet_maps.sources.demo import world
from mmnet_maps.sources.demo.land import aspect, gradient
from mmnet_maps.sources.demo.world import SyntheticWorld, lattice
from mmnet_maps.variables import FINE_GROUPS, FIRST_DAY, LANDCOVER_CLASSES, STATIC_GROUPS, VARIABLES

WORLD = SyntheticWorld()
TILE = 102_400.0
# Around the corner of four tiles in Grant County, Washington.
CORNER = GeoBox((120, 150), Affine(100, 0, -18 * TILE - 7000, 0, -100, 28 * TILE + 5000), "EPSG:5070")
CLOUDLESS = date(2021, 7, 29)
GRANT = (-120.1, 46.62, -118.97, 47.97)
WET, DRY = date(2021, 8, 8), date(2021, 7, 29)


def window(group: str, bounds: tuple[float, float, float, float] = GRANT) -> GeoBox:
    whole = WORLD.lattice(group)
    west, south, east, north = bounds
    to = Transformer.from_crs(4326, whole.crs.to_wkt(), always_xy=True).transform
    columns, rows = ~whole.affine * np.array(to([west, west, east, east], [south, north, south, north]))
    return whole[int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1]


def every(geobox: GeoBox, step: int) -> GeoBox:
    rows, columns = geobox.shape
    return GeoBox((rows // step, columns // step), geobox.affine * Affine.scale(step), geobox.crs)


def windows(rows: int, columns: int) -> st.SearchStrategy[tuple[slice, slice]]:
    def run(size: int) -> st.SearchStrategy[slice]:
        ends = st.tuples(st.integers(0, size - 1), st.integers(1, size))
        return ends.filter(lambda e: e[0] < e[1]).map(lambda e: slice(*e))

    return st.tuples(run(rows), run(columns))


@pytest.fixture(scope="module")
def parents() -> dict[str, dict[str, NDArray[np.generic]]]:
    return {group: WORLD.read(group, CORNER, observed(group)) for group in FINE_GROUPS}


def observed(group: str) -> list[date]:
    if group in STATIC_GROUPS:
        return [WET]
    return WORLD.days(group, CORNER, date(2021, 7, 24), date(2021, 8, 10))[:3]


def assert_same(child: NDArray[np.generic], parent: NDArray[np.generic]) -> None:
    np.testing.assert_allclose(child, parent, rtol=0, atol=2e-5 * max(1.0, float(np.nanmax(np.abs(parent), initial=1))))


def test_it_is_a_source_whose_every_variable_is_declared_synthetic() -> None:
    assert isinstance(WORLD, Source)
    assert WORLD.name == "demo"
    assert set(WORLD.variables()) == set(VARIABLES)
    for provenance in WORLD.variables().values():
        assert provenance.synthetic
        assert provenance.source == "demo"
        assert provenance.licence == "Apache-2.0"
        assert "not an observation" in provenance.product


@settings(max_examples=12, deadline=None)
@given(windows(120, 150))
def test_any_fine_window_equals_its_parent(
    parents: dict[str, dict[str, NDArray[np.generic]]], chosen: tuple[slice, slice]
) -> None:
    for group, parent in parents.items():
        child = WORLD.read(group, CORNER[chosen], observed(group))
        assert set(child) == {name for name, variable in VARIABLES.items() if variable.group == group}
        for name, values in child.items():
            assert_same(values, parent[name][(slice(None), *chosen)])


@settings(max_examples=8, deadline=None)
@given(windows(14, 14), st.sampled_from(["weather", "smap", "lst"]))
def test_any_coarse_window_equals_its_parent(chosen: tuple[slice, slice], group: str) -> None:
    whole = window(group)[:14, :14]
    days = [DRY, WET]
    parent, child = WORLD.read(group, whole, days), WORLD.read(group, whole[chosen], days)
    for name, values in child.items():
        assert values.dtype == np.float32
        assert_same(values, parent[name][(slice(None), *chosen)])


def test_tall_windows_are_seamless_between_workers() -> None:
    tall = GeoBox((1500, 40), Affine(100, 0, -1_800_000, 0, -100, 2_900_000), "EPSG:5070")
    whole = read_static(WORLD, tall, [WET])
    parts = [read_static(WORLD, tall[k : k + 300], [WET]) for k in range(0, 1500, 300)]
    for name, values in whole.items():
        assert_same(np.concatenate([part[name] for part in parts], axis=1), values)


@pytest.mark.parametrize("crs", ["EPSG:32611", "EPSG:4326"])
def test_other_grids_agree_at_the_same_place(crs: str) -> None:
    scale = 100.0 if crs == "EPSG:32611" else 0.001
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(-119.4, 47.1)
    other = GeoBox((30, 40), Affine(scale, 0, x, 0, -scale, y), crs)
    values = read_static(WORLD, other, [WET])
    to = Transformer.from_crs(crs, 5070, always_xy=True).transform
    for row, column in [(0, 0), (12, 31), (29, 39)]:
        east, north = to(*(other.affine * (column + 0.5, row + 0.5)))
        pixel = GeoBox((1, 1), Affine(100, 0, east - 50, 0, -100, north + 50), "EPSG:5070")
        here = read_static(WORLD, pixel, [WET])
        for name in ("elevation", "clay", "sand", "bulk_density"):
            assert values[name][0, row, column] == pytest.approx(here[name][0, 0, 0], rel=1e-4)
        assert values["landcover"][0, row, column] == here["landcover"][0, 0, 0]


def test_two_worlds_of_a_seed_agree_and_of_another_differ() -> None:
    first, second = (SyntheticWorld(seed=s).read("terrain", CORNER[:20, :20], [WET])["elevation"] for s in (2021, 2021))
    other = SyntheticWorld(seed=5).read("terrain", CORNER[:20, :20], [WET])["elevation"]
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).mean() > 1


PLACES = {
    "desert": (-114.5, 33.2),
    "rockies": (-106.0, 39.5),
    "maize": (-93.5, 42.0),
    "south": (-84.0, 33.0),
    "coast": (-124.1, 46.2),
    "lake": (-87.0, 43.5),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("group", [*FINE_GROUPS, "weather", "smap", "lst"])
def test_values_lie_in_the_valid_ranges_everywhere(place: str, group: str) -> None:
    lon, lat = PLACES[place]
    if group in FINE_GROUPS:
        x, y = Transformer.from_crs(4326, 5070, always_xy=True).transform(lon, lat)
        grid = GeoBox((60, 60), Affine(100, 0, x // 100 * 100, 0, -100, y // 100 * 100), "EPSG:5070")
    else:
        grid = window(group, (lon - 0.2, lat - 0.2, lon + 0.2, lat + 0.2))
    days = [date(2016, 1, 20), date(2019, 7, 15), date(2030, 10, 3)]
    if group in ("optical", "sar"):
        days = [WORLD.days(group, grid, day, day + timedelta(days=12))[0] for day in days]
    for name, values in WORLD.read(group, grid, days).items():
        variable = VARIABLES[name]
        assert values.shape == (3, *grid.shape)
        if name == "landcover":
            known = {11, 12, *(code for codes in LANDCOVER_CLASSES.values() for code in codes)}
            assert set(np.unique(values).tolist()) <= known
            continue
        seen = values[np.isfinite(values)]
        assert ((seen >= variable.valid_min) & (seen <= variable.valid_max)).all(), name


def test_coarse_groups_are_missing_far_at_sea() -> None:
    sea = (-126.5, 40.0, -126.0, 40.4)
    for group in ("smap", "lst"):
        assert np.isnan(WORLD.read(group, window(group, sea), [WET])[group]).all()
    whole = WORLD.lattice("weather")
    assert np.isnan(WORLD.read("weather", whole[250:253, 0:3], [WET])["pr"]).all()


def test_lattices_are_those_of_the_products() -> None:
    weather, smap, lst = (lattice(group) for group in ("weather", "smap", "lst"))
    assert weather.affine * (0.5, 0.5) == pytest.approx((-124.766667, 49.4))
    assert smap.affine * (3856, 1624) == pytest.approx((17367530.4451615, -7314540.8306386), abs=1e-2)
    # The sinusoidal grid is 43 200 cells around the equator.
    cell = 2 * np.pi * 6371007.181 / 43_200
    assert lst.affine.a == pytest.approx(cell, rel=1e-9)
    assert lst.affine.c / cell == pytest.approx(round(lst.affine.c / cell), abs=1e-4)
    assert lst.affine.f / cell == pytest.approx(round(lst.affine.f / cell), abs=1e-4)
    for lon, lat in [(-124.7, 48.4), (-124.0, 40.0), (-80.1, 25.2), (-67.3, 44.9), (-97.2, 26.0)]:
        for grid in (weather, smap, lst):
            to = Transformer.from_crs(4326, grid.crs.to_wkt(), always_xy=True).transform
            column, row = ~grid.affine * to(lon, lat)
            assert 0 < column < grid.shape[1]
            assert 0 < row < grid.shape[0]
    with pytest.raises(InputError, match="no coarse group 'soil'"):
        lattice("soil")


def test_it_rains_on_grant_county_between_the_two_days_and_not_before() -> None:
    days = [DRY - timedelta(days=14) + timedelta(days=k) for k in range(25)]
    pr = WORLD.read("weather", window("weather"), days)["pr"].mean(axis=(1, 2))
    smap = WORLD.read("smap", window("smap"), days)["smap"]
    before = days.index(DRY)
    assert pr[:before].sum() < 1.0
    assert 10 < pr[before:].sum() < 60
    # The rain adds about 0.03 m³/m³ per 10 mm, and part of it has dried.
    assert (smap[-1] - smap[before]).min() > 0.02
    assert np.median(smap[-1] - smap[before]) == pytest.approx(0.003 * pr[before:].sum(), rel=0.4)
    # Levels and range of stations in dry climates: medians of the 5th and 95th percentile .03 to .05 and .14 to .22.
    assert smap.min() > 0.02
    assert smap.max() < 0.25


def test_smap_is_the_mean_of_the_soil_moisture_that_the_satellites_see() -> None:
    for corner in ((-119.55, 47.15), (-119.15, 47.75)):  # irrigated fields, and sagebrush
        whole = WORLD.lattice("smap")
        to = Transformer.from_crs(4326, whole.crs.to_wkt(), always_xy=True).transform
        column, row = (int(value) for value in ~whole.affine * to(*corner))
        cell = whole[row : row + 1, column : column + 1]
        fine = GeoBox((90, 90), cell.affine * Affine.scale(1 / 90), cell.crs)
        for day in (DRY, WET):
            seen = moisture(fine, day)
            assert seen.mean() == pytest.approx(WORLD.read("smap", cell, [day])["smap"].item(), abs=0.025)


def moisture(grid: GeoBox, day: date) -> NDArray[np.float32]:
    """Return the soil moisture behind a scene, of ground that is no water."""
    wide = world._places(grid.pad(1))
    job = world.Job.of(np.array([day.toordinal()]), {}, wide, WORLD.seed)
    blocks = list(WORLD._blocks(wide, slice(0, grid.shape.y), world._steps(grid)))
    return np.concatenate([WORLD._moisture(block, job, 0)[block.cover.code != 11] for block in blocks])


def test_a_day_of_smap_does_not_depend_on_the_days_read_with_it() -> None:
    cell = window("smap")[3:4, 4:5]
    alone = WORLD.read("smap", cell, [WET])["smap"]
    among = WORLD.read("smap", window("smap")[1:6, 2:9], [date(2021, 6, 30), DRY, WET, date(2021, 9, 2)])["smap"]
    assert_same(alone[0, 0, 0], among[2, 2, 2])


def test_fine_scenes_are_seen_on_the_listed_days_and_have_gaps() -> None:
    start, end = date(2021, 7, 1), date(2021, 8, 30)
    for group, name, cycle in (("optical", "red", 8), ("sar", "vv", 6)):
        announced = WORLD.days(group, CORNER, start, end)
        assert 61 / cycle - 2 <= len(announced) <= 2 * (61 / cycle + 1)
        everything = [start + timedelta(days=k) for k in range(24)]
        values = WORLD.read(group, every(CORNER, 8), everything)[name]
        held = [day for day, scene in zip(everything, values, strict=True) if np.isfinite(scene).any()]
        assert held
        assert set(held) <= set(announced)
    scenes = WORLD.read("optical", every(CORNER, 4), WORLD.days("optical", CORNER, date(2021, 2, 1), end))["red"]
    share = np.isnan(scenes).mean(axis=(1, 2))
    assert share.max() > 0.9
    assert share.min() < 0.1


def test_strips_cut_a_wide_window() -> None:
    wide = GeoBox((4, 400), Affine(2000, 0, -2_000_000, 0, -2000, 2_800_000), "EPSG:5070")
    vv = WORLD.read("sar", wide, [date(2021, 8, 3)])["vv"][0]
    assert 0.1 < np.isnan(vv).mean() < 0.95
    assert date(2021, 8, 3) in WORLD.days("sar", wide, date(2021, 8, 3), date(2021, 8, 3))


def test_nothing_was_acquired_before_2015() -> None:
    assert WORLD.days("smap", CORNER, date(2014, 12, 20), date(2015, 1, 2)) == [FIRST_DAY, date(2015, 1, 2)]
    assert WORLD.days("optical", CORNER, date(2014, 1, 1), date(2014, 12, 31)) == []


def test_slopes_of_a_plane() -> None:
    row, column = np.mgrid[0:5, 0:6].astype(np.float32)
    plane = 3 * column * 100 - 4 * (-row) * 100  # rises 3 to the east and falls 4 to the north
    east, north = gradient(plane, (np.full((3, 1), 100, np.float32), -100.0))
    np.testing.assert_allclose(east, 3, rtol=1e-6)
    np.testing.assert_allclose(north, -4, rtol=1e-6)
    # Downhill is to the west and north.
    np.testing.assert_allclose(aspect(east, north), 360 - np.degrees(np.arctan2(3, 4)), rtol=1e-5)


def test_grant_county_holds_what_the_place_is_known_for() -> None:
    to = Transformer.from_crs(4326, 5070, always_xy=True)
    west, south, east, north = to.transform_bounds(-119.9, 46.75, -119.0, 47.3)
    shape = int((north - south) / 200), int((east - west) / 200)
    grid = GeoBox(shape, Affine(200, 0, west, 0, -200, north), "EPSG:5070")
    static = read_static(WORLD, grid, [WET])
    codes, counts = np.unique(static["landcover"], return_counts=True)
    share = dict(zip(codes.tolist(), (counts / counts.sum()).tolist(), strict=True))
    assert share[52] > 0.25
    assert share[82] > 0.15
    assert share[81] > 0.03
    assert 0.005 < share[11] < 0.08
    assert 250 < np.median(static["elevation"]) < 700
    scenes = WORLD.read("optical", grid, WORLD.days("optical", grid, date(2021, 7, 20), date(2021, 8, 2)))
    ndvi = np.nanmax((scenes["nir"] - scenes["red"]) / (scenes["nir"] + scenes["red"]), axis=0)
    cover = static["landcover"][0]
    assert np.nanmedian(ndvi[cover == 52]) < 0.25
    assert np.nanpercentile(ndvi[cover == 82], 75) > 0.6
