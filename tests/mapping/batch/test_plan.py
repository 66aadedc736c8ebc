"""The plan of a batch: tiles, days, requests, the newest day, and the estimate."""

from __future__ import annotations

import shutil
from datetime import date, datetime, time, timedelta, tzinfo
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_world import CORNER, DAYS, SPAN, TILES
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.mask import area_mask
from mmnet_maps.grid.tiles import conus_tiles, grid_of_tiles, tile_geobox
from mmnet_maps.mapping.batch.estimate import dry_run
from mmnet_maps.mapping.batch.plan import _areas_of_tiles, newest_day, plan_batch
from mmnet_maps.mapping.batch.run import tasks_of
from mmnet_maps.stack.store import Stack


@pytest.fixture
def stack(corner_stack: Path) -> Path:
    return corner_stack


def test_an_area_is_cut_into_its_tiles(tmp_path: Path, stack: Path, model: Path) -> None:
    batch = plan_batch(CORNER, SPAN, stack=stack, model=model, out=tmp_path / "maps", name="corner")
    assert sorted(batch.places) == sorted(TILES)
    assert batch.days == DAYS
    assert batch.grid == grid_of_tiles(TILES)[0]
    assert batch.store == tmp_path / "maps/corner_20210807_20210809.zarr"
    for request in batch.requests:
        (tile,) = request.tiles
        assert request.grid == tile_geobox(request.area.name)
        assert request.grid[tile.rows, tile.cols] == tile.geobox
        assert max(tile.geobox.shape) < 30
    assert not (tmp_path / "maps").exists()


def test_tasks_come_in_a_stable_order(tmp_path: Path, stack: Path, model: Path) -> None:
    batch = plan_batch(CORNER, SPAN, stack=stack, model=model, out=tmp_path)
    tasks = tasks_of(batch, threads=1, limit=9)
    assert [task.tile for task in tasks] == list(batch.places)
    assert {task.days for task in tasks} == {DAYS}
    assert {(task.request.run.threads, task.limit) for task in tasks} == {(1, 9)}


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(conus_tiles()))
def test_a_whole_tile_is_an_area_that_holds_all_its_pixels(tile: str) -> None:
    places = grid_of_tiles([tile])[1]
    (area,) = _areas_of_tiles(places)
    assert area_mask(area, places[0].geobox).all()


def test_tiles_by_name(tmp_path: Path, stack: Path, model: Path) -> None:
    batch = plan_batch(None, "2021-08-08", tiles="h06v03, h07v03", stack=stack, model=model, out=tmp_path)
    assert batch.name.startswith("tiles-")
    assert sorted(batch.places) == ["h06v03", "h07v03"]
    one = plan_batch(None, "2021-08-08", tiles="h07v03", stack=stack, model=model, out=tmp_path)
    assert one.name == "h07v03"
    whole = plan_batch(None, "2021-08-08", tiles="conus", stack=stack, model=model, out=tmp_path, store=False)
    assert (whole.name, len(whole.requests), whole.store) == ("conus", 869, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "demo"}, "give --stack STORE"),
        ({"tiles": "h06v03"}, "either --aoi or --tiles"),
        ({"resolution": 30.0}, "default grid"),
        ({"members": True, "uncertainty": 3}, "without members"),
        ({"name": "../elsewhere"}, "cannot be part of a file name"),
    ],
)
def test_wrong_requests(
    stack: Path, model: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], message: str
) -> None:
    given_stack = {} if "source" in options else {"stack": stack}
    with pytest.raises(RequestError, match=message):
        plan_batch(CORNER, SPAN, model=model, **given_stack, **options)


def test_an_estimate_is_measured_and_writes_nothing(tmp_path: Path, stack: Path, model: Path) -> None:
    batch = plan_batch(CORNER, SPAN, stack=stack, model=model, out=tmp_path / "maps")
    text = dry_run(batch, workers=2)
    assert "12 maps: 4 tiles on 3 days, 2021-08-07 to 2021-08-09" in text
    assert "0 exist, 12 do not" in text
    assert "on 3 days: " in text
    assert "with 2 workers" in text
    assert list(tmp_path.iterdir()) == []


def test_an_estimate_without_inputs(tmp_path: Path, stack: Path, model: Path) -> None:
    batch = plan_batch(CORNER, "2022-08-07", stack=stack, model=model, out=tmp_path / "maps")
    assert "nothing could be measured" in dry_run(batch)


def test_the_newest_day_is_the_last_with_every_input(
    tmp_path: Path, stack: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = plan_batch(CORNER, SPAN, stack=stack, model=model, out=tmp_path)
    grids, needs = [one.tiles[0].geobox for one in batch.requests], batch.requests[0].needs
    assert newest_day(Stack(stack), grids, needs, date(2021, 8, 20)) == DAYS[-1]
    assert newest_day(Stack(stack), grids, needs, DAYS[1]) == DAYS[1]
    shutil.copytree(stack, tmp_path / "late.zarr")
    late = Stack(tmp_path / "late.zarr", writable=True)
    weather = late.group_of("pr")
    height, width = weather.lattice.shape
    filled = late.marks(weather, (slice(0, height), slice(0, width)), [DAYS[1]])[0] > 0
    rows, cols = (slice(k.min() * weather.block, (k.max() + 1) * weather.block) for k in np.nonzero(filled))
    window = weather.whole_blocks((rows, cols))
    shape = weather.lattice[window].shape
    missing = {name: np.full(shape, np.nan, np.float32) for name in weather.variables}
    for day in DAYS[1:]:  # weather ends two days before the other inputs, as where it is published late
        late.write("weather", window, day, missing)
    assert newest_day(late, grids, needs, date(2021, 8, 20)) == DAYS[0]
    assert newest_day(late, grids, needs, date(2023, 1, 1)) == DAYS[0]  # however long ago
    monkeypatch.setattr("mmnet_maps.mapping.batch.plan.FIRST_DAY", date(2021, 6, 1))
    with pytest.raises(InputError, match=r"no day up to 2021-08-01 .*: smap none, optical 2021-08-01, sar") as error:
        newest_day(late, grids, needs, date(2021, 8, 1))
    assert len(str(error.value)) - len(str(late.path)) < 250


def test_latest_is_resolved(tmp_path: Path, stack: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Today(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.combine(DAYS[-1] + timedelta(days=2), time(), tz)

    monkeypatch.setattr("mmnet_maps.mapping.batch.plan.datetime", Today)
    assert plan_batch(CORNER, ["latest"], stack=stack, model=model, out=tmp_path).days == DAYS[-1:]
    assert plan_batch(CORNER, ["latest", "2021-08-07"], stack=stack, model=model, out=tmp_path).days == (
        DAYS[0],
        DAYS[-1],
    )
