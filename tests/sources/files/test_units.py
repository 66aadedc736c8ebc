"""Units as published files spell them; factors from the definitions of the units."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from mmnet_maps.sources.files.units import Conversion, conversion, states_units
from mmnet_maps.variables import VARIABLES


@pytest.mark.parametrize(
    ("name", "text", "stated", "own"),
    [
        ("tmmx", "degC", 25.0, 298.15),
        ("tmmx", "degrees C", 25.0, 298.15),  # Daymet
        ("tmmx", "deg_C", 25.0, 298.15),
        ("tmmx", "C", 25.0, 298.15),  # the coulomb to UDUNITS
        ("tmmn", "Celsius", -40.0, 233.15),
        ("tmmn", "degF", -40.0, 233.15),
        ("lst", "Kelvin", 300.0, 300.0),
        ("vpd", "hPa", 15.0, 1.5),
        ("vpd", "mb", 15.0, 1.5),  # the millibarn to UDUNITS
        ("vpd", "Pa", 1500.0, 1.5),
        ("srad", "MJ m-2 day-1", 8.64, 100.0),
        ("srad", "W/m2", 100.0, 100.0),
        ("srad", "W m**-2", 100.0, 100.0),
        ("vs", "km h-1", 36.0, 10.0),
        ("vs", "mph", 100.0, 44.704),
        ("vs", "knots", 1.0, 1852 / 3600),
        ("pr", "kg m-2 s-1", 1 / 86400, 1.0),
        ("pr", "kg m**-2 s**-1", 1 / 86400, 1.0),
        ("pr", "mm/hr", 1.0, 24.0),
        ("pr", "m s-1", 1e-3 / 86400, 1.0),
        ("pr", "inch/day", 1.0, 25.4),
        ("elevation", "ft", 1000.0, 304.8),
        ("elevation", "US_survey_foot", 3937.0, 1200.0),
        ("elevation", "US survey foot", 3937.0, 1200.0),  # GDAL
        ("vpd", "kpa", 1.5, 1.5),
        ("pr", "mm/(3 hour)", 1.0, 8.0),
        ("elevation", "metre", 7.0, 7.0),
        ("clay", "g kg-1", 250.0, 25.0),
        ("clay", "1", 0.25, 25.0),
        ("clay", "%", 25.0, 25.0),
        ("bulk_density", "kg m-3", 1300.0, 1.3),
        ("bulk_density", "cg/cm³", 130.0, 1.3),  # SoilGrids
        ("sph", "g/kg", 6.0, 0.006),
        ("smap", "cm^3/cm^3", 0.25, 0.25),
        ("smap", "percent", 25.0, 0.25),
        ("red", "reflectance", 0.25, 0.25),
        ("red", "unitless", 0.25, 0.25),
        ("slope", "radian", 3.141592653589793, 180.0),
        ("aspect", "Degrees", 90.0, 90.0),
    ],
)
def test_published_spellings_convert_to_the_units_of_the_variable(
    name: str, text: str, stated: float, own: float
) -> None:
    found = conversion(text, VARIABLES[name])
    assert stated * found.factor + found.offset == pytest.approx(own, rel=1e-9)
    assert not found.amount


@pytest.mark.parametrize(
    ("name", "text", "stated", "own"),
    [
        ("pr", "mm", 12.0, 12.0),
        ("pr", "kg m-2", 12.0, 12.0),
        ("pr", "m of water equivalent", 0.012, 12.0),  # ERA5
        ("eto", "inches", 0.5, 12.7),
        ("srad", "J m**-2", 8.64e6, 100.0),  # ERA5
        ("srad", "kW h m-2", 2.4, 100.0),
    ],
)
def test_amounts_are_known_as_amounts(name: str, text: str, stated: float, own: float) -> None:
    """An amount is the share of a day: the shares are summed."""
    found = conversion(text, VARIABLES[name])
    assert stated * found.factor == pytest.approx(own, rel=1e-9)
    assert found.amount
    assert found.offset == 0


def test_units_that_are_the_variables_own_change_nothing() -> None:
    for variable in VARIABLES.values():
        assert conversion(variable.units, variable) == Conversion()
    assert conversion("mm", VARIABLES["pr"]) == Conversion(amount=True)
    assert conversion("kg m-2", VARIABLES["eto"]) == Conversion(amount=True)
    assert conversion("linear", VARIABLES["vv"]) == Conversion(decibels=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tmmx", "kPa"),
        ("vs", "m"),
        ("pr", "mm2"),
        ("slope", "percent"),  # a rise over a run: 100 percent are 45 degrees
        ("red", "degree"),
        ("smap", "kg kg-1"),  # by mass: needs the bulk density
        ("sph", "m3 m-3"),
        ("elevation", "Pa"),
        ("vpd", "days since 2000-01-01"),
        ("red", "DN"),
        ("vv", "1"),  # dB or power
        ("srad", "W m-2 sr-1"),
        ("pr", "furlongs per fortnight" * 20),
    ],
)
def test_units_of_another_kind_and_unknown_ones_are_refused(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"units .* expected ") as caught:
        conversion(text, VARIABLES[name])
    assert len(str(caught.value)) < 150
    assert VARIABLES[name].units in str(caught.value)


def test_texts_that_state_no_units() -> None:
    assert not any(map(states_units, ("", " ", "none", "None", "N/A", "unknown")))
    assert all(map(states_units, ("1", "mm", "unitless")))


def test_threads_may_convert_at_once() -> None:
    conversion.cache_clear()
    jobs = [(text, VARIABLES["pr"]) for text in ("mm", "kg m-2 s-1", "mm/hr", "inch/day")] * 25
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: conversion.__wrapped__(*job), jobs))
    assert found == [conversion(*job) for job in jobs]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mm 3h-1", "a number before a later unit"),  # 3 per hour to UDUNITS
        ("kg m-2/3h", "a number before a later unit"),
        ("Mm", "are 1e.09 mm day-1, which cannot be meant"),
    ],
)
def test_units_that_cannot_be_meant_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conversion(text, VARIABLES["pr"])
