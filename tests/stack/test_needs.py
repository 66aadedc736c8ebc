"""Variables, days and blocks that maps need."""

from __future__ import annotations

from datetime import date

import pytest
from odc.geo.geobox import GeoBox

from analytic import source_of
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid, tiles
from mmnet_maps.stack.availability import require
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, Needs, uses
from mmnet_maps.stack.store import Stack

DAY = date(2021, 8, 8)
NEEDS = Needs(
    snapshot=("smap", "red", "vv", "landcover", "clay"), series=("pr", "lst", "smap"), steps=4, includes_day=True
)


@pytest.fixture(scope="module")
def grid() -> GeoBox:
    return target_grid(read_aoi("-119.51,47.09,-119.50,47.10"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, grid: GeoBox) -> Stack:
    demand = Demand(grid=grid, tiles=tiles(grid), needs=NEEDS, days=[DAY])
    return fetch(tmp_path_factory.mktemp("needs") / "s.zarr", [source_of(NEEDS)], demand, quiet=True)


def test_needs_know_their_days() -> None:
    assert NEEDS.series_days(DAY) == [date(2021, 8, 5), date(2021, 8, 6), date(2021, 8, 7), DAY]
    before = Needs(snapshot=("red",), series=("pr", "lst"), steps=2, includes_day=False)
    assert before.series_days(DAY) == [date(2021, 8, 6), date(2021, 8, 7)]
    assert before.days("weather", DAY) == [date(2021, 8, 6), date(2021, 8, 7)]
    assert before.days("lst", DAY)[0] == date(2021, 7, 21)
    assert before.days("lst", DAY)[-1] == date(2021, 8, 23)
    assert before.days("optical", DAY)[0] == date(2021, 7, 7)
    assert len(before.days("optical", DAY)) == 65
    assert before.days("soil", DAY) == [DAY]
    assert NEEDS.variables == ("smap", "red", "vv", "landcover", "clay", "pr", "lst")
    assert NEEDS.days("smap", DAY) == NEEDS.series_days(DAY)


def test_missing_inputs_are_named(stack: Stack, grid: GeoBox) -> None:
    require(stack, grid, NEEDS, [DAY])
    with pytest.raises(InputError, match="has no .* for 2021-06-2.*needed for the map of 2021-06-30"):
        require(stack, grid, NEEDS, [date(2021, 6, 30)])
    other = target_grid(read_aoi("-100.1,40.0,-100.0,40.1"))
    with pytest.raises(InputError, match="has no .*in this area"):
        require(stack, other, NEEDS, [DAY])
    with pytest.raises(RequestError, match="leave out --crs and --resolution"):
        uses(stack, target_grid(read_aoi("-119.6,47.0,-119.5,47.1"), resolution=50), NEEDS, [DAY])


def test_days_before_the_axis_are_refused_or_left_out(stack: Stack, grid: GeoBox) -> None:
    with pytest.raises(
        RequestError, match="needs inputs from 2014-12-31 on, stacks begin on 2015-01-01; choose a day 1"
    ):
        uses(stack, grid, NEEDS, [date(2015, 1, 3)])
    days = [day for _, _, around in uses(stack, grid, NEEDS, [date(2015, 1, 4)]) for day in around]
    assert min(days) == date(2015, 1, 1)
