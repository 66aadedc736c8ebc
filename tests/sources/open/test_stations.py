"""A station far from the catalogues' world, from the services that `benchmarks/stations.py` measures: each value."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from fake_open import FakeOpen
from mmnet_maps.grid.tiles import conus_grid, pixel_of
from mmnet_maps.mapping.request import needs_of
from mmnet_maps.model.checkpoint import load_checkpoint
from mmnet_maps.stack.pixels import choose_for_points, point_stacks, read_pixel
from mmnet_maps.stack.point_plan import Point
from open_routes import Earthdata
from open_setup import loopback_source
from station_services import serve_everything, stations
from station_values import Checked

pytest.importorskip("earthaccess")

DAYS = (date(2018, 3, 1), date(2018, 3, 2))


@pytest.mark.slow
def test_every_value_of_a_station_is_that_of_the_formulas(
    server: FakeOpen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EARTHDATA_TOKEN", Earthdata().tokens[-1])
    serve_everything(server, date(2018, 6, 30))
    use = ["smap", "hls", "sentinel1", "lst", "weather", "elevation", "landcover", "soil"]
    source, needs = loopback_source(server, tmp_path, use), needs_of(load_checkpoint("mmnet-uscrn").spec)
    place = stations(8)[7]
    points = [Point(name="one", pixel=pixel_of(conus_grid(), *place), days=DAYS)]
    choose_for_points([source], points, needs)
    checked = Checked()
    for number, days, stack in point_stacks([source], points, needs):
        checked.add(points[number].pixel, days, read_pixel(stack, points[number].pixel, days, needs), needs)
    assert {"smap", "red", "vv", "lst", "eto", "elevation", "landcover", "optical_age"} <= checked.values.keys()
    assert sum(checked.undecided.values()) < sum(checked.values.values()) / 10
    smap = read_pixel(stack, points[0].pixel, DAYS[:1], needs)["smap"]
    with pytest.raises(AssertionError, match="smap"):
        checked.add(points[0].pixel, [date(2018, 3, 3)], {"smap": smap}, needs)
