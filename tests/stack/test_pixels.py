"""Samples at points equal the maps' pixels."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from odc.geo.geobox import GeoBox

from analytic import AnalyticSource, source_of
from mmnet_maps.errors import RequestError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.lattice import lonlat
from mmnet_maps.grid.tiles import target_grid, tiles
from mmnet_maps.sources.base import Source
from mmnet_maps.sources.demo.world import SyntheticWorld
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.stack.pixels import sample
from mmnet_maps.stack.reader import read_block
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import VARIABLES

DAYS = [date(2021, 8, 6) + timedelta(days=k) for k in range(3)]
NEEDS = Needs(
    snapshot=("smap", "red", "nir", "vv", "landcover", "clay", "slope"),
    series=("pr", "lst", "smap"),
    steps=4,
    includes_day=True,
)


@pytest.fixture(scope="module", params=[source_of(NEEDS), SyntheticWorld()], ids=["closed formula", "demo"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, GeoBox, Stack]:
    """A source, and a stack of it on a small grid."""
    grid = target_grid(read_aoi("-119.30,47.10,-119.28,47.11"))
    path = tmp_path_factory.mktemp("points") / "s.zarr"
    return (
        request.param,
        grid,
        fetch(path, [request.param], Demand(grid=grid, tiles=tiles(grid), needs=NEEDS, days=DAYS), quiet=True),
    )


@pytest.mark.parametrize("resampling", ["bilinear", "nearest"])
def test_a_sample_at_a_pixel_centre_is_the_pixel_of_the_map(
    filled: tuple[Source, GeoBox, Stack], resampling: str
) -> None:
    source, grid, stack = filled
    block = read_block(stack, grid, NEEDS, DAYS, smap_resampling=resampling)
    maps = list(block.snapshots)
    lon, lat = lonlat(grid)
    places = [(0, 0), (3, 7), (grid.shape.y - 1, grid.shape.x - 1)]
    points = [(float(lon[place]), float(lat[place])) for place in places]
    rows = sample([source], points, DAYS, NEEDS, smap_resampling=resampling)
    assert rows["point"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert rows["date"].astype(object).tolist() == DAYS * 3
    for number, place in enumerate(places):
        for k, snapshot in enumerate(maps):
            row = 3 * number + k
            for name in NEEDS.snapshot:
                expected = snapshot.fine[name][place]
                expected = VARIABLES[name].unpack(np.asarray(expected)) if expected.dtype == np.int16 else expected
                np.testing.assert_array_equal(rows[name][row], expected, err_msg=name)
            series_id, start = block.series_id[0][place], block.starts[k]
            for name in NEEDS.series:
                column = "smap_series" if name == "smap" else name
                np.testing.assert_array_equal(rows[column][row], block.series[name][series_id, start : start + 4])
            assert rows["optical_age"][row] == snapshot.ages["optical"][place]
    assert np.isfinite(rows["pr"]).all()


def test_every_year_has_its_own_release_of_the_land_cover() -> None:
    class Changing(AnalyticSource):
        def value(self, name, geobox, day):
            values = super().value(name, geobox, day)
            return np.full_like(values, 42 if day.year < 2020 else 81) if name == "landcover" else values

    days = [date(2018, 7, 1), date(2021, 7, 1)]
    rows = sample([Changing(without=source_of(NEEDS).without)], [(-119.3, 47.1)], days, NEEDS)
    assert rows["landcover"].tolist() == [42, 81]
    assert rows["date"].astype(object).tolist() == days


def test_a_point_elsewhere_is_named() -> None:
    few = Needs(snapshot=("smap",), series=("pr",), steps=1, includes_day=True)
    with pytest.raises(RequestError, match=r"point 1: longitude 10.0, latitude 50.0 is not on the grid"):
        sample([source_of(few)], [(-119.3, 47.1), (10.0, 50.0)], DAYS, few)


def test_no_points_give_no_rows() -> None:
    assert sample([AnalyticSource()], [], DAYS, NEEDS) == {}
