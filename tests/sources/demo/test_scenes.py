from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnet_maps.sources.demo.cover import QUARTER, season, sections
from mmnet_maps.sources.demo.geography import WATERS, Line, annual_rain, base_elevation, projected
from mmnet_maps.sources.demo.noise import Positions
from mmnet_maps.sources.demo.scenes import (
    BANDS,
    LANDSAT,
    SENTINEL_1,
    Orbit,
    backscatter,
    cloudy,
    illumination,
    radar_orbit,
    reflectance,
    speckle,
)


@given(st.integers(-30, 30), st.integers(735_000, 760_000), st.sampled_from([LANDSAT, SENTINEL_1]))
def test_a_strip_is_seen_once_in_a_cycle(strip: int, day: int, orbit: Orbit) -> None:
    middle = np.array([float(strip)])
    seen = [d for d in range(day, day + orbit.cycle) if abs(orbit.offset(middle, d)[0]) < 1e-3]
    assert [d % orbit.cycle for d in seen] == [strip * orbit.step % orbit.cycle]


@given(st.floats(-20, 20), st.floats(0, 9), st.integers(735_000, 735_100), st.sampled_from([LANDSAT, SENTINEL_1]))
def test_a_window_is_seen_when_a_place_in_it_is(low: float, size: float, day: int, orbit: Orbit) -> None:
    places = np.linspace(low, low + size, 400)
    found = (np.abs(orbit.offset(places, day)) <= orbit.reach).any()
    near_edge = np.abs(np.abs(orbit.offset(places[[0, -1]], day)) - orbit.reach).min() < 1e-3
    assert near_edge or orbit.seen(low, low + size, day) == found


def test_neighbouring_strips_overlap_and_the_pair_of_radars_ends() -> None:
    assert LANDSAT.reach > 0.5
    assert SENTINEL_1.reach > 0.5
    assert radar_orbit(date(2021, 12, 23).toordinal()).cycle == 6
    assert radar_orbit(date(2021, 12, 24).toordinal()).cycle == 12


def scene(green: float, code: int, wetness: float = 0.2) -> dict[str, np.ndarray]:
    grid = np.ones((1, 1), np.float32)
    return reflectance(
        grid * np.float32(green), np.full((1, 1), code, np.uint8), grid * wetness, grid * 50, grid, 0 * grid
    )


@pytest.mark.parametrize("green", [0.15, 0.4, 0.8])
@pytest.mark.parametrize("wetness", [0.0, 0.9])
def test_bands_give_back_the_ndvi_they_were_made_from(green: float, wetness: float) -> None:
    bands = scene(green, 71, wetness)
    assert set(bands) == set(BANDS)
    assert (bands["nir"] - bands["red"]) / (bands["nir"] + bands["red"]) == pytest.approx(green, abs=1e-4)


def test_wet_soil_is_darker_most_of_all_in_the_shortwave_infrared_and_water_is_dark() -> None:
    dry, wet, water = scene(0.12, 52, 0.0), scene(0.12, 52, 1.0), scene(-0.1, 11)
    ratio = {name: float(wet[name][0, 0] / dry[name][0, 0]) for name in BANDS}
    assert all(value < 0.75 for value in ratio.values())
    assert ratio["swir2"] < ratio["red"]
    assert water["nir"] < 0.05


def test_moist_ground_is_bright_and_leaves_hide_it() -> None:
    code, flat = np.full((1, 2), 52, np.uint8), np.zeros((1, 2), np.float32)
    moisture = np.array([[0.05, 0.40]], np.float32)
    bare = backscatter(flat + np.float32(0.1), code, moisture, flat, flat, flat)
    leafy = backscatter(flat + np.float32(0.8), code, moisture, flat, flat, flat)
    for k in range(2):
        rise_bare, rise_leafy = np.diff(bare[k])[0, 0], np.diff(leafy[k])[0, 0]
        assert rise_bare > 3
        assert 0 < rise_leafy < 0.7 * rise_bare
    assert leafy[1][0, 0] > bare[1][0, 0] + 2
    water = backscatter(flat, np.full((1, 2), 11, np.uint8), moisture, flat, flat, flat)
    assert water[0].max() < -17


def test_slopes_to_the_sun_are_bright() -> None:
    rise, level, lat = np.array([0.3], np.float32), np.zeros(1, np.float32), np.array([47.0])
    assert illumination(level, level, lat, 200) == pytest.approx(1.0)
    assert illumination(level, rise, lat, 200) > 1 > illumination(level, -rise, lat, 200)  # facing south, north
    assert illumination(-rise, level, lat, 200) > 1  # facing east, in the morning


def test_clouds_cover_about_the_share_of_the_sky_and_speckle_is_small() -> None:
    places = Positions(x=np.arange(0, 1e6, 2500)[None, :], y=np.arange(0, 1e6, 2500)[:, None])
    shares = [
        cloudy(places, np.full(places.shape, cloud, np.float32), 737_000, 1).mean() for cloud in (0.02, 0.5, 0.98)
    ]
    assert shares[0] < 0.08
    assert 0.3 < shares[1] < 0.6
    assert shares[2] > 0.9
    vv, vh = speckle(places, 737_000, 1)
    assert vv.std() == pytest.approx(0.42, abs=0.02)
    assert abs(np.corrcoef(vv.ravel(), vh.ravel())[0, 1]) < 0.02


def test_seasons_rise_and_fall() -> None:
    value = [float(season(doy, *np.float32([0.2, 0.8, 120, 250]))) for doy in (20, 120, 185, 250, 340)]
    assert value == pytest.approx([0.2, 0.5, 0.8, 0.5, 0.2], abs=0.02)


def test_sections_are_half_a_mile_square() -> None:
    lat = np.array([47.0, 47.0, 47.0 + QUARTER / 111_320])
    lon = np.array([-119.0, -119.0 + QUARTER / 111_320 / np.cos(np.radians(47.0)), -119.0])
    u, v = sections(lon, lat)
    assert u[1] - u[0] == pytest.approx(1, abs=0.02)
    assert v[2] - v[0] == pytest.approx(1)


def test_distances_to_lines_and_the_atlas() -> None:
    (ax, ay), (bx, by) = projected(((-100.0, 40.0), (-98.0, 40.0)))
    line = Line(points=((-100.0, 40.0), (-98.0, 40.0)), width=1.0)
    beyond = np.array([ax - 3000 * (bx - ax) / np.hypot(bx - ax, by - ay)])
    behind = np.array([ay - 3000 * (by - ay) / np.hypot(bx - ax, by - ay)])
    assert line.distance2(beyond, behind)[0] == pytest.approx(9e6, rel=1e-6)
    assert line.within((ax - 2e5, ay - 10, ax - 1e5, ay + 10), 1.01e5)
    assert not line.within((ax - 2e5, ay - 10, ax - 1e5, ay + 10), 0.99e5)
    assert all(river.width > 0 for river in WATERS)
    lon, lat = np.array([-119.5, -105.5, -92.0, -122.7]), np.array([47.2, 39.0, 33.0, 47.5])
    rain, height = annual_rain(lon, lat), base_elevation(lon, lat)
    assert rain[0] < 400 < 1000 < rain[2]
    assert rain[3] > 800
    assert height[1] > 1500 > 700 > height[0]
