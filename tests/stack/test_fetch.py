"""From sources into a stack: complete, resumable, recorded."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from odc.geo.geobox import GeoBox

from analytic import AnalyticSource, source_of
from mmnet_maps.errors import InputError, OutputError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import conus_grid, target_grid, tiles
from mmnet_maps.sources.base import Rasters
from mmnet_maps.stack.availability import require, require_values
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.in_order import in_order
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.stack.plan import plan
from mmnet_maps.stack.store import Stack, lock
from mmnet_maps.variables import STATIC_GROUPS

DAY = date(2021, 8, 8)
NEEDS = Needs(snapshot=("smap", "red", "vv", "landcover"), series=("pr", "lst"), steps=3, includes_day=True)
GRID = target_grid(read_aoi("-119.60,47.10,-119.55,47.13"))


def fill(path: Path, sources: Sequence[AnalyticSource], days: Sequence[date] = (DAY,), grid: GeoBox = GRID) -> Stack:
    return fetch(path, sources, Demand(grid=grid, tiles=tiles(grid), needs=NEEDS, days=list(days)), quiet=True)


@pytest.fixture
def source() -> AnalyticSource:
    """A fresh source of the needed variables alone, which makes small stacks."""
    return source_of(NEEDS)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A complete stack; tests that write take a copy."""
    return fill(tmp_path_factory.mktemp("filled") / "s.zarr", [source_of(NEEDS)])


@pytest.fixture
def copy(filled: Stack, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled.path, tmp_path / "s.zarr"))


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_fetching_twice_reads_nothing_more(copy: Path, source: AnalyticSource) -> None:
    require(Stack(copy), GRID, NEEDS, [DAY])
    before = contents(copy)
    fill(copy, [source])
    assert source.reads == []
    assert contents(copy) == before


def test_the_second_day_reads_only_what_is_new(copy: Path, source: AnalyticSource) -> None:
    fill(copy, [source], [DAY, date(2021, 8, 9)])
    read = dict(source.reads)
    assert read["weather"] == (date(2021, 8, 9),)
    assert not set(read) & set(STATIC_GROUPS)
    assert set(read) <= {"weather", "smap", "optical", "sar", "lst"}


@pytest.fixture(scope="module")
def whole(filled: Stack) -> dict[str, bytes]:
    """Files of an undisturbed fetch."""
    return contents(filled.path)


@pytest.mark.parametrize("reads", [1, 4, 9, 11])
def test_an_interrupted_fetch_continues_to_the_same_store(tmp_path: Path, reads: int, whole: dict[str, bytes]) -> None:
    class Dying(AnalyticSource):
        def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
            if len(self.reads) >= reads:
                raise KeyboardInterrupt
            return super().read(group, geobox, days)

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "s.zarr", [Dying(without=source_of(NEEDS).without)])
    fill(tmp_path / "s.zarr", [source_of(NEEDS)])
    assert contents(tmp_path / "s.zarr") == whole


def test_no_day_after_today_is_requested(tmp_path: Path, source: AnalyticSource) -> None:
    fetch(
        tmp_path / "s.zarr",
        [source],
        Demand(grid=GRID, tiles=tiles(GRID), needs=NEEDS, days=[DAY]),
        today=DAY,
        quiet=True,
    )
    assert max(day for _, days in source.reads for day in days) <= DAY
    source.reads.clear()
    fill(tmp_path / "s.zarr", [source])
    assert min(day for _, days in source.reads for day in days) > DAY


def test_variables_come_from_the_first_source_that_has_them(tmp_path: Path) -> None:
    first = AnalyticSource(name="first", without=tuple(n for n in NEEDS.variables if n not in ("red", "pr")))
    second = AnalyticSource(name="second", synthetic=True)
    stack = fill(tmp_path / "s.zarr", [first, second])
    provenance = stack.provenance
    assert not provenance["red"].synthetic
    assert not provenance["pr"].synthetic
    assert provenance["vv"].synthetic
    assert provenance["lst"].synthetic
    require(stack, GRID, NEEDS, [DAY])


def test_a_product_with_its_own_grid_has_its_own_group(tmp_path: Path) -> None:
    class Shifted(AnalyticSource):
        def lattice(self, group: str) -> GeoBox:
            return super().lattice(group)[10:-10, 10:-10]

    rain = Shifted(name="rain", without=tuple(name for name in AnalyticSource().variables() if name != "pr"))
    stack = fill(tmp_path / "s.zarr", [rain, AnalyticSource()])
    assert stack.group_of("pr").lattice != stack.group_of("vpd").lattice
    assert stack.group_of("pr").kind == stack.group_of("vpd").kind == "weather"
    require(stack, GRID, NEEDS, [DAY])


def test_a_variable_that_no_source_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no source gives vv"):
        fill(tmp_path / "s.zarr", [AnalyticSource(without=("vv",))])
    assert not (tmp_path / "s.zarr").exists()


def test_another_product_is_not_added_to_the_same_store(copy: Path) -> None:
    with pytest.raises(InputError, match="holds .* from closed formula"):
        fill(copy, [source_of(NEEDS, synthetic=True)])


def test_on_a_full_disk_finished_blocks_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    write = Stack.write
    count = 0

    def full(self: Stack, *args: object) -> None:
        nonlocal count
        count += 1
        if count > 3:
            raise OSError(28, "No space left on device")
        write(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Stack, "write", full)
    with pytest.raises(OutputError, match="No space left on device.*run the same command again"):
        fill(tmp_path / "s.zarr", [source_of(NEEDS)])
    monkeypatch.setattr(Stack, "write", write)
    fill(tmp_path / "s.zarr", [source_of(NEEDS)])
    assert contents(tmp_path / "s.zarr") == whole


def test_a_request_never_spans_two_tiles(filled: Stack) -> None:
    """The stack holds one tile only."""
    grid = conus_grid()[3000:3200, 6200:6300]
    assert len(tiles(grid)) == 2
    requests = plan(filled, Demand(grid=grid, tiles=tiles(grid), needs=NEEDS, days=[DAY]), date.today()).requests
    fine = [request for request in requests if request.group.kind == "optical"]
    assert fine
    for request in fine:
        assert request.window[0].start // 1024 == (request.window[0].stop - 1) // 1024


def test_a_complete_store_is_not_opened_for_writing(
    filled: Stack, source: AnalyticSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmnet_maps.stack.fetch.lock", None)
    assert fill(filled.path, [source]).path == filled.path


def test_a_read_is_bounded_in_values_not_in_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmnet_maps.stack.plan._VALUES", 40_000)
    source = AnalyticSource()
    fill(tmp_path / "s.zarr", [source])
    most = {group: max(len(days) for name, days in source.reads if name == group) for group in ("lst", "weather")}
    assert most == {"lst": 3, "weather": 1}  # of blocks of 64 x 64: nine days, three of them observed; nine variables
    monkeypatch.undo()
    fill(tmp_path / "whole.zarr", [AnalyticSource()])
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "whole.zarr")


@pytest.mark.parametrize(("group", "message"), [("smap", "smap on 2021-08-08"), ("sar", "vv within 24 days of")])
def test_an_input_that_is_empty_everywhere_is_named(tmp_path: Path, filled: Stack, group: str, message: str) -> None:
    class Blind(AnalyticSource):
        def days(self, kind: str, geobox: GeoBox, start: date, end: date) -> list[date]:
            return [] if kind == group else super().days(kind, geobox, start, end)

    stack = fill(tmp_path / "s.zarr", [Blind(without=source_of(NEEDS).without)])
    require(stack, GRID, NEEDS, [DAY])
    with pytest.raises(InputError, match=f"no value of {message}.*nothing could be mapped for 2021-08-08"):
        require_values(stack, GRID, NEEDS, [DAY])
    require_values(filled, GRID, NEEDS, [DAY])


@pytest.fixture(scope="module")
def with_a_gap(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A stack without weather on the oldest of three days."""

    class Gap(AnalyticSource):
        def days(self, kind: str, geobox: GeoBox, start: date, end: date) -> list[date]:
            found = super().days(kind, geobox, start, end)
            return [day for day in found if kind != "weather" or day != date(2021, 8, 6)]

    path = tmp_path_factory.mktemp("gap") / "s.zarr"
    return fill(path, [Gap(without=tuple({*source_of(NEEDS).without} - {"eto"}))])


@pytest.mark.parametrize("valued", [1, 2, 3, None])
def test_days_that_need_no_value_may_be_empty(with_a_gap: Stack, valued: int | None) -> None:
    needs = replace(NEEDS, valued=valued)
    require(with_a_gap, GRID, needs, [DAY])
    if valued in (1, 2):
        require_values(with_a_gap, GRID, needs, [DAY])
    else:
        with pytest.raises(InputError, match=r"no value of eto, pr on 2021-08-06 in this area"):
            require_values(with_a_gap, GRID, needs, [DAY])


def test_a_second_writer_waits_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    started = Event()

    def hold() -> None:
        with lock(tmp_path / "s.zarr"):
            started.set()
            time.sleep(1.5)

    other = Thread(target=hold)
    other.start()
    started.wait()
    require(fill(tmp_path / "s.zarr", [source_of(NEEDS)]), GRID, NEEDS, [DAY])
    other.join()
    assert "another run is writing" in caplog.text


def test_in_order_keeps_the_order_and_the_bound() -> None:
    started: list[int] = []

    def square(number: int) -> int:
        started.append(number)
        return number**2

    with ThreadPoolExecutor(2) as pool:
        for item, result in in_order(pool, range(20), square, ahead=3):
            assert result == item**2
            assert len(started) <= item + 4
    assert sorted(started) == list(range(20))
    np.testing.assert_array_equal(np.sort(started), np.arange(20))


def test_in_order_yields_finished_results_before_an_error() -> None:
    over = Event()

    def work(number: int) -> int:
        if number == 3:
            raise InputError("the fourth fails")
        assert number or over.wait(30)
        return number

    with ThreadPoolExecutor(2) as pool:  # one thread is held by the first item, the other works on all further ones
        results = in_order(pool, range(4), work, ahead=4)
        assert [next(results), next(results)] == [(1, 1), (2, 2)]
        with pytest.raises(InputError, match="the fourth fails"):
            next(results)
        over.set()


def test_sources_are_stopped_on_an_error_alone(tmp_path: Path) -> None:
    class Stopping(AnalyticSource):
        stopped = False
        broken = False

        def stop(self) -> None:
            self.stopped = True

        def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
            if self.broken and self.reads:
                raise InputError("broken")
            return super().read(group, geobox, days)

    source = Stopping(without=source_of(NEEDS).without)
    source.broken = True
    with pytest.raises(InputError, match="broken"):
        fill(tmp_path / "s.zarr", [source])
    assert source.stopped
    source.stopped = source.broken = False
    fill(tmp_path / "s.zarr", [source])
    assert not source.stopped


def test_a_place_where_no_file_can_be_made_is_refused_at_once(tmp_path: Path, source: AnalyticSource) -> None:
    """filelock takes ENOENT, what ``/proc`` answers, for a lock that another process holds."""
    with pytest.raises(OutputError, match="cannot write the stack /proc/s.zarr .No such file"):
        fill(Path("/proc/s.zarr"), [source])
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write the stack .*file/s.zarr"):
        fill(tmp_path / "file" / "s.zarr", [source])


def test_a_product_in_other_units_is_refused_and_nothing_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Percent(AnalyticSource):
        def value(self, name: str, geobox: GeoBox, day: date) -> np.ndarray:
            values = super().value(name, geobox, day)
            if name == "pr":
                values[0, 0] = -1
            return values * 100 if name == "smap" else values

    with pytest.raises(InputError, match=r"all smap values of closed formula on .* outside 0 to 0.9 .*check"):
        fill(tmp_path / "s.zarr", [Percent(without=source_of(NEEDS).without)])
    stack = Stack(tmp_path / "s.zarr")
    group = stack.group_of("smap")
    assert not stack.marks(group, group.cells((slice(0, group.shape[0]), slice(0, group.shape[1]))), [DAY]).any()
    fill(tmp_path / "t.zarr", [Percent(without=(*source_of(NEEDS).without, "smap")), source_of(NEEDS)])
    dropped = [text for text in caplog.messages if text.startswith("pr: ") and text.endswith("mm day-1 were dropped")]
    assert len(dropped) == 1
