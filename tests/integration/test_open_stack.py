"""`mmnet stack --source open` from loopback services: values agree with the closed formulas, and maps run on them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path

import pytest
import rasterio
import yaml

from fake_open import FakeOpen
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid, touched_tiles
from mmnet_maps.mapping.fill import fill_stack
from mmnet_maps.mapping.pipeline import make_maps
from mmnet_maps.mapping.request import needs_of
from mmnet_maps.model.checkpoint import load_checkpoint as load_model
from mmnet_maps.product.quality import FLAG_MASKS
from mmnet_maps.resources import packaged
from mmnet_maps.sources.open.source import OpenSource
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.stack.store import Stack
from open_catalog import Planetary
from open_routes import Earthdata, Thredds, Tiles, Wcs
from open_setup import loopback_config
from open_values import Expectation
from world_values import LANDSAT, expected, verify

pytest.importorskip("pystac_client")

AREA, DAY = "-119.68,47.05,-119.66,47.06", date(2021, 7, 12)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeOpen]:
    with FakeOpen() as running:
        Planetary(running)
        running.serve(Thredds(), Earthdata(), Wcs(), Tiles())
        yield running


@pytest.mark.slow
def test_a_stack_of_landsat_agrees_with_the_formulas(tmp_path: Path, server: FakeOpen) -> None:
    path = tmp_path / "open.yaml"
    path.write_text(yaml.safe_dump(loopback_config(server, ["landsat"])))
    grid = target_grid(area := read_aoi(AREA))
    needs = Needs(snapshot=("red", "nir"), series=(), steps=1, includes_day=True)
    demand = Demand(grid=grid, tiles=touched_tiles(area, grid), needs=needs, days=[DAY])
    stack = fetch(tmp_path / "s.zarr", [OpenSource(path)], demand, quiet=True)
    checked = verify(stack, grid, needs, [DAY], partial(expected, optics=LANDSAT))
    assert all(count > 0 for count, _ in checked.values())


@pytest.mark.slow
def test_a_stack_from_open_services_agrees_with_the_formulas_and_can_be_mapped(
    tmp_path: Path, server: FakeOpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EARTHDATA_TOKEN", "token-1")
    use = yaml.safe_load((packaged("configs") / "open.yaml").read_text())["use"]
    path = tmp_path / "open.yaml"
    path.write_text(yaml.safe_dump(loopback_config(server, use)))
    options = {"source": path, "stack": tmp_path / "s.zarr", "quiet": True}
    planned = str(fill_stack(AREA, DAY, dry_run=True, **options))
    for words in ("planetary-computer", "earthdata", "EARTHDATA_TOKEN", "no login", "landsat (planetary-computer)"):
        assert words in planned
    assert "token-1" not in planned
    stack = Stack(fill_stack(AREA, DAY, **options))
    grid, needs = target_grid(read_aoi(AREA)), needs_of(load_model("mmnet-uscrn").spec)
    checked = verify(stack, grid, needs, [DAY], Expectation())
    assert set(needs.variables) <= set(checked)
    assert all(count > 0 for count, _ in checked.values())
    (product,) = make_maps(AREA, DAY, stack=tmp_path / "s.zarr", out=tmp_path / "maps", quiet=True).products
    with rasterio.open(product.layers["soil_moisture"]) as image:
        mapped = image.read(1) != image.nodata
    with rasterio.open(product.layers["quality"]) as image:
        quality = image.read(1)
    assert mapped.mean() > 0.5
    assert not (quality & FLAG_MASKS["synthetic"]).any()
    assert "Sentinel-1 RTC, gamma0" in product.item.read_text()
