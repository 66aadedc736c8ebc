"""A whole stack from the loopback Earth Engine: every value agrees with the closed formulas, and maps run on it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import rasterio
import yaml

from fake_earthengine import FakeEarthEngine, offline
from mmnet_maps.errors import bytes_text, counted
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid
from mmnet_maps.mapping.fill import fill_stack
from mmnet_maps.mapping.pipeline import make_maps
from mmnet_maps.mapping.request import needs_of
from mmnet_maps.model.checkpoint import load_checkpoint as load_model
from mmnet_maps.product.quality import FLAG_MASKS
from mmnet_maps.resources import packaged
from mmnet_maps.stack.store import Stack
from world_values import verify

pytest.importorskip("ee")


@pytest.fixture(scope="module")
def server() -> Iterator[FakeEarthEngine]:
    with FakeEarthEngine() as running, offline():
        yield running


@pytest.mark.slow
def test_a_stack_from_earth_engine_agrees_with_the_formulas_and_can_be_mapped(
    tmp_path: Path, server: FakeEarthEngine
) -> None:
    values = yaml.safe_load((packaged("configs") / "earthengine.yaml").read_text())
    config = tmp_path / "ee.yaml"
    config.write_text(yaml.safe_dump({**values, "url": server.url}))
    day, area = date(2021, 7, 12), "-119.68,47.05,-119.64,47.08"
    estimated = str(fill_stack(area, day, source=config, stack=tmp_path / "s.zarr", dry_run=True))
    assert not server.count()
    stack = Stack(fill_stack(area, day, source=config, stack=tmp_path / "s.zarr", quiet=True))
    assert (
        f"{counted(server.count(), 'request')} to Earth Engine, {bytes_text(server.bytes_sent())} received" in estimated
    )
    grid = target_grid(read_aoi(area))
    needs = needs_of(load_model("mmnet-uscrn").spec)
    checked = verify(stack, grid, needs, [day])
    assert set(needs.variables) <= set(checked)
    assert all(count > 0 for count, _ in checked.values())
    (product,) = make_maps(area, day, stack=tmp_path / "s.zarr", out=tmp_path / "maps", quiet=True).products
    assert "synthetic" not in product.item.name
    with rasterio.open(product.layers["soil_moisture"]) as image:
        mapped = image.read(1) != image.nodata
    with rasterio.open(product.layers["quality"]) as image:
        quality = image.read(1)
    assert mapped.mean() > 0.5
    assert not (quality & FLAG_MASKS["synthetic"]).any()
