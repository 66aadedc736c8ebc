"""A stack from the loopback open services: every value agrees with the closed formulas."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from fake_open import FakeOpen
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid, touched_tiles
from mmnet_maps.mapping.request import needs_of
from mmnet_maps.model.checkpoint import load_checkpoint as load_model
from mmnet_maps.resources import packaged
from mmnet_maps.sources import open_source
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, Needs
from open_catalog import Planetary, config_text
from world_values import LANDSAT, verify

pytest.importorskip("pystac_client")

AREA, DAY = "-119.68,47.05,-119.64,47.08", date(2021, 7, 12)


@pytest.fixture(scope="module")
def planetary() -> Iterator[Planetary]:
    with FakeOpen() as server:
        yield Planetary(server)


def needs_of_stac() -> Needs:
    """The variables that a STAC API has, two days of weather being enough."""
    needs = needs_of(load_model("mmnet-uscrn").spec)
    have = {"blue", "green", "red", "nir", "swir1", "swir2", "vv", "vh", "lst"}
    return Needs(
        snapshot=tuple(name for name in needs.snapshot if name in have),
        series=("lst",),
        steps=5,
        includes_day=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("optics", ["hls", "landsat"])
def test_a_stack_from_a_stac_api_agrees_with_the_formulas(tmp_path: Path, planetary: Planetary, optics: str) -> None:
    text = (packaged("configs") / "open.yaml").read_text()
    config = tmp_path / "open.yaml"
    config.write_text(config_text(text, planetary.server, use=[optics, "sentinel1", "lst"]))
    grid = target_grid(area := read_aoi(AREA))
    demand = Demand(grid=grid, tiles=touched_tiles(area, grid), needs=needs_of_stac(), days=[DAY])
    stack = fetch(tmp_path / "s.zarr", open_source(str(config)), demand, quiet=True)
    checked = verify(stack, grid, demand.needs, [DAY], LANDSAT if optics == "landsat" else "NASA/HLS/HLSL30/v002")
    assert set(checked) >= set(demand.needs.variables)
    assert all(count > 0 for count, _ in checked.values())
