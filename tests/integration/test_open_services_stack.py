"""A stack from the loopback services other than STAC: filled, resumed, and its young days fetched again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from fake_open import FakeOpen, Reply, failing
from mmnet_maps.errors import InputError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.lattice import cover
from mmnet_maps.grid.tiles import target_grid, touched_tiles
from mmnet_maps.sources.open import http
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.stack.store import Stack
from open_routes import GRIDMET_LAT, GRIDMET_LON, Earthdata, Thredds, Wcs, gridmet_stored, smap_values
from open_setup import loopback_source

pytest.importorskip("earthaccess")

AREA, DAY = "-119.68,47.05,-119.64,47.08", date(2021, 8, 3)
NEEDS = Needs(snapshot=("smap", "landcover"), series=("pr", "vpd"), steps=5, includes_day=True)
USE = ["smap", "weather", "landcover"]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpen]:
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EARTHDATA_TOKEN", "token-1")
    monkeypatch.setattr(http, "_FIRST_WAIT", 0.01)
    with FakeOpen() as fake:
        yield fake


def demand() -> Demand:
    grid = target_grid(area := read_aoi(AREA))
    return Demand(grid=grid, tiles=touched_tiles(area, grid), needs=NEEDS, days=[DAY])


def rain(stack: Stack, day: date, revised: int = 0) -> None:
    """Compare the rain of a day around the area with the formula."""
    group = stack.group_of("pr")
    row, col = np.abs(GRIDMET_LAT - 47.06).argmin(), np.abs(GRIDMET_LON + 119.66).argmin()
    lattice = group.lattice
    top = round((GRIDMET_LAT[row] + 1 / 48 - lattice.affine.f) / lattice.affine.e)
    left = round((GRIDMET_LON[col] - 1 / 48 - lattice.affine.c) / lattice.affine.a)
    found = stack.read("pr", (slice(top, top + 1), slice(left, left + 1)), day)
    stored = gridmet_stored("pr", GRIDMET_LON[col : col + 1], GRIDMET_LAT[row : row + 1], day, revised)
    np.testing.assert_allclose(found, np.maximum(stored * 0.1, 0), atol=0.011)  # the stack packs rain in 0.02 mm


def test_a_stack_is_filled_resumed_and_complete(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Thredds(), Earthdata(), Wcs())
    server.faults.append(failing(r"agg_met_vpd.*\.nc$", Reply(status=403, body=b"no"), times=1))
    with pytest.raises(InputError, match="northwest-knowledge"):
        fetch(tmp_path / "s.zarr", [loopback_source(server, tmp_path, USE)], demand(), quiet=True)
    before = len(server.requests("opendap|wcs|ncss"))
    assert before
    stack = fetch(tmp_path / "s.zarr", [loopback_source(server, tmp_path, USE)], demand(), quiet=True)
    for k in range(5):
        rain(stack, DAY - timedelta(days=k))
    lattice = stack.group_of("smap").lattice
    window = cover(demand().grid, lattice)
    corner = (
        round((7314540.8306386 - lattice.affine.f) / 9008.055210146),
        round((lattice.affine.c + 17367530.4451615) / 9008.055210146),
    )
    rows, cols = (np.arange(part.start, part.stop) + first for part, first in zip(window, corner, strict=True))
    fields = [smap_values(rows, cols, DAY, step) for step in range(8)]
    expected = np.mean(np.where(np.array(fields) == -9999, np.nan, fields), axis=0)
    assert np.isfinite(expected).any()
    np.testing.assert_allclose(stack.read("smap", window, DAY), expected, atol=6e-5)
    server.log.clear()
    fetch(tmp_path / "s.zarr", [loopback_source(server, tmp_path, USE)], demand(), quiet=True)
    assert not [one for one in server.requests("opendap|wcs|CONUS.nc$") if not one.path.endswith("xml")]


def test_young_days_of_the_weather_are_fetched_again_when_they_change_state(server: FakeOpen, tmp_path: Path) -> None:
    service = Thredds(last=date(2021, 8, 5), permanent=200, provisional=date(2021, 8, 1).timetuple().tm_yday)
    server.serve(service, Earthdata(), Wcs())
    path, days = tmp_path / "s.zarr", [DAY - timedelta(days=k) for k in range(5)]
    stack = fetch(path, [loopback_source(server, tmp_path, USE)], demand(), today=date(2021, 8, 6), quiet=True)
    for day in days:
        rain(stack, day)
    service.revised = {date(2021, 8, 1): 9, date(2021, 8, 3): 4}
    # 1 August is permanent now, 2 and 3 August are provisional.
    service.permanent, service.provisional = 213, 220
    server.log.clear()
    stack = fetch(path, [loopback_source(server, tmp_path, USE)], demand(), today=date(2021, 8, 20), quiet=True)
    for day in days:
        rain(stack, day, service.revised.get(day, 0))
    assert server.requests("ncss.*nc$")
    server.log.clear()
    fetch(path, [loopback_source(server, tmp_path, USE)], demand(), today=date(2021, 8, 20), quiet=True)
    assert not server.requests("ncss.*nc$")
