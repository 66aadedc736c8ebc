from __future__ import annotations

import math
from datetime import date

import numpy as np
import pytest

from mmnet_maps.sources.demo.land import ground
from mmnet_maps.sources.demo.moisture import soil_moisture, water_balance
from mmnet_maps.sources.demo.noise import Positions
from mmnet_maps.sources.demo.weather import (
    Climate,
    day_of_year,
    extraterrestrial,
    reference_evapotranspiration,
    sky,
    vapour_pressure,
    weather,
)

SEED = 2021
# Grant County, Iowa and Georgia, in EPSG:5070.
PLACES = Positions(
    x=np.array([-1_770_000.0, 190_000.0, 1_120_000.0]), y=np.array([2_830_000.0, 2_120_000.0, 1_170_000.0])
)
CLIMATE = Climate.of(PLACES, ground(PLACES, SEED))


def test_the_water_balance_equals_a_slow_scalar_bucket() -> None:
    days = np.array([date(2021, 8, 8).toordinal(), date(2021, 6, 3).toordinal()])
    found = soil_moisture(CLIMATE, days, SEED)
    for k, (day, first) in enumerate(((date(2021, 8, 8), date(2021, 5, 1)), (date(2021, 6, 3), date(2021, 3, 1)))):
        span = np.arange(first.toordinal(), day.toordinal() + 1)
        drive = weather(CLIMATE, span, SEED)
        for place in range(3):
            clay = float(CLIMATE.clay[place])
            water = 0.0
            for step in range(len(span)):
                water = min(water + 0.003 * float(drive.pr[step, place]), 0.4)
                water -= 0.3 * max(0.0, water - 0.25)
                water *= math.exp(-float(drive.eto[step, place]) / 60)
            expected = max(0.054 + 0.0011 * (clay - 21), 0.02) + water
            assert found[k, place] == pytest.approx(expected, abs=1e-5)


def test_ten_millimetres_of_rain_and_the_drying_after_them_are_those_of_stations() -> None:
    """Medians over 101 stations: .033 m³/m³ on the wettest day, and to 1/e in 16 days (quartiles 11 to 24)."""
    pr, eto = np.zeros((60, 1), np.float32), np.full((60, 1), 4.0, np.float32)
    pr[10] = 10
    course = water_balance(pr, eto, np.array([21.0], np.float32))[:, 0]
    assert course[10] - course[9] == pytest.approx(0.033, abs=0.006)
    assert 11 <= np.argmax(course[10:] - course[9] < (course[10] - course[9]) / np.e) <= 24


def test_systems_move_on_and_change_without_a_jump() -> None:
    x = np.arange(-2.0e6, 2.0e6, 40e3)
    y = np.full_like(x, 2.0e6)
    days = np.arange(date(2020, 3, 1).toordinal(), date(2020, 3, 31).toordinal())
    cloud = sky(x, y, days, SEED).cloud
    steps = np.abs(np.diff(cloud, axis=0)).mean()
    strangers = np.abs(cloud[:-8] - cloud[8:]).mean()
    assert steps < strangers
    # The pattern of one day is found again to the east on the next.
    shift = 16  # 640 km
    carried = np.corrcoef(cloud[:-1, :-shift].ravel(), cloud[1:, shift:].ravel())[0, 1]
    stayed = np.corrcoef(cloud[:-1].ravel(), cloud[1:].ravel())[0, 1]
    assert carried > stayed + 0.2


def test_wet_days_are_dull_cool_and_humid() -> None:
    days = np.arange(date(2020, 5, 1).toordinal(), date(2020, 9, 1).toordinal())
    air = weather(CLIMATE, days, SEED)
    wet, dry = air.pr[:, 1] > 3, air.pr[:, 1] == 0
    assert wet.sum() > 5
    assert dry.sum() > 20
    assert air.srad[wet, 1].mean() < 0.75 * air.srad[dry, 1].mean()
    assert air.vpd[wet, 1].mean() < 0.6 * air.vpd[dry, 1].mean()
    assert air.tmmx[wet, 1].mean() < air.tmmx[dry, 1].mean() - 2
    assert (air.tmmn < air.tmmx).all()


def test_a_year_brings_about_the_rain_of_the_climate() -> None:
    days = np.arange(date(2016, 1, 1).toordinal(), date(2021, 1, 1).toordinal())
    for place in range(3):
        climate = CLIMATE.part(slice(place, place + 1))
        total = float(weather(climate, days, SEED).pr.sum()) / 5
        assert total == pytest.approx(float(climate.rain[0]), rel=0.45)


def test_reference_evapotranspiration_is_that_of_the_published_example() -> None:
    # FAO-56 example 18 (Brussels, 6 July): 3.9 mm a day from 21.5/12.3 °C, 1.409 kPa, 22.07 MJ/m², 2.78 m/s at 10 m.
    numbers = [21.5, 12.3, 1.409, 22.07 / 0.0864, 41.09 / 0.0864, 2.78, 100.1]
    arrays = [np.array([number], np.float32) for number in numbers]
    grass, alfalfa = reference_evapotranspiration(*arrays)
    assert grass[0] == pytest.approx(3.9, abs=0.05)
    assert alfalfa[0] > grass[0]


def test_sun_and_vapour_are_those_of_the_published_tables() -> None:
    # FAO-56 annex 2: 32.2 MJ/m²/day on 3 September at 20° S; 3.168 kPa at 25 °C.
    extra = extraterrestrial(np.array([246.0], np.float32), np.array([-20.0]))
    assert extra[0] * 0.0864 == pytest.approx(32.2, abs=0.15)
    assert vapour_pressure(np.float32(25)) == pytest.approx(3.168, abs=0.002)


def test_days_of_the_year() -> None:
    days = np.array([date(2020, 12, 31).toordinal(), date(2021, 1, 1).toordinal()])
    assert day_of_year(days).tolist() == [366, 1]
