"""A stack for the commands."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from analytic import AnalyticSource
from command_line import AREA, DAY
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid, touched_tiles
from mmnet_maps.mapping.request import needs_of
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    from mmnet_maps import load_model

    area = read_aoi(AREA)
    grid = target_grid(area)
    path = tmp_path_factory.mktemp("inputs") / "s.zarr"
    needs = needs_of(load_model(model).spec)
    days = [date.fromisoformat(DAY)]
    fetch(
        path, [AnalyticSource()], Demand(grid=grid, tiles=touched_tiles(area, grid), needs=needs, days=days), quiet=True
    )
    return path
