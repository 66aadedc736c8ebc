"""The plan of a fetch from a STAC API against what the server sends."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import yaml

from analytic import AnalyticSource
from fake_open import FakeOpen
from mmnet_maps.errors import bytes_text
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid, touched_tiles
from mmnet_maps.mapping.fill import format_estimates
from mmnet_maps.resources import packaged
from mmnet_maps.sources.open.source import OpenSource
from mmnet_maps.stack.fetch import estimate, fetch
from mmnet_maps.stack.needs import Demand, Needs
from open_catalog import Planetary, config_text, hls, radar, temperature

pytest.importorskip("pystac_client")

AREA = "-119.68,47.05,-119.66,47.06"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("product", "collection", "make", "variables", "day"),
    [
        ("hls", "hls2-l30", hls, ("red", "nir"), date(2021, 5, 5)),
        ("sentinel1", "sentinel-1-rtc", radar, ("vv", "vh"), date(2021, 5, 3)),
        ("lst", "modis-11A1-061", temperature, ("lst",), date(2021, 5, 9)),
    ],
)
def test_requests_and_bytes_are_those_of_the_plan(tmp_path: Path, product, collection, make, variables, day) -> None:
    with FakeOpen() as server:
        Planetary(server, collections={collection: make})
        text = config_text((packaged("configs") / "open.yaml").read_text(), server, use=[product])
        (tmp_path / "o.yaml").write_text(yaml.safe_dump(yaml.safe_load(text)))
        grid = target_grid(area := read_aoi(AREA))
        needs = Needs(snapshot=variables, series=(), steps=1, includes_day=True)
        demand = Demand(grid=grid, tiles=touched_tiles(area, grid), needs=needs, days=[day])
        (planned,) = estimate(tmp_path / "s.zarr", [OpenSource(tmp_path / "o.yaml")], demand)
        assert f"{planned.cost.requests} requests" in format_estimates([planned])
        before = len(server.log)
        fetch(tmp_path / "s.zarr", [OpenSource(tmp_path / "o.yaml")], demand, quiet=True)
        files = [(asked, sent) for asked, _, sent in server.log[before:] if asked.path.startswith("/files")]
    assert planned.cost.requests == pytest.approx(len(files), rel=0.05)
    assert planned.cost.bytes == pytest.approx(sum(sent for _, sent in files), rel=0.05)


def test_a_service_that_is_down_leaves_its_groups_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with FakeOpen() as server:
        Planetary(server, collections={"hls2-l30": hls})
        text = config_text((packaged("configs") / "open.yaml").read_text(), server, use=["hls"])
        (tmp_path / "o.yaml").write_text(yaml.safe_dump(yaml.safe_load(text)))
    grid = target_grid(area := read_aoi(AREA))
    needs = Needs(snapshot=("red", "clay"), series=(), steps=1, includes_day=True)
    demand = Demand(grid=grid, tiles=touched_tiles(area, grid), needs=needs, days=[date(2021, 5, 5), date(2021, 5, 6)])
    sources = [OpenSource(tmp_path / "o.yaml"), AnalyticSource()]
    found = estimate(tmp_path / "s.zarr", sources, demand)
    assert {item.group: item.known for item in found} == {"optical": False, "soil": True}
    assert sum("optical: no estimate" in message for message in caplog.messages) == 1
    table, total = format_estimates(found), format_estimates(found).splitlines()[-1]
    assert table.count("unknown") == 3
    stored = next(item.bytes for item in found if item.known)
    assert total.startswith(
        f"in total without optical, whose services do not answer, {bytes_text(stored)} to be stored"
    )
