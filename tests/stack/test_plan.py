"""Inputs that arrive late, are replaced or vanish: what is read again, and what becomes of the stack."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import zarr
from odc.geo.geobox import GeoBox

from analytic import LATTICES, AnalyticSource, source_of
from mmnet_maps.errors import InputError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import conus_grid, target_grid, tiles
from mmnet_maps.sources.base import Cost, Revision
from mmnet_maps.stack.blocks import Group, day_index
from mmnet_maps.stack.fetch import _without_inputs, estimate, fetch
from mmnet_maps.stack.needs import Demand, Needs, uses
from mmnet_maps.stack.plan import Request, revisions
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import VARIABLES

DAY = date(2021, 8, 8)
TODAY = DAY + timedelta(days=10)
NEEDS = Needs(snapshot=("smap",), series=("pr", "tmmx"), steps=3, includes_day=True)
GRID = target_grid(read_aoi("-119.60,47.10,-119.55,47.13"))


@dataclass
class Changing(AnalyticSource):
    """A source whose inputs change: their state by variable and day, 0 by default, None where there is none."""

    state: dict[tuple[str, date], int | None] = field(default_factory=dict)
    touched: dict[tuple[str, date], int] = field(default_factory=dict)
    final: bool = True
    known: bool = True
    asked: list[tuple[str, tuple[date, ...], GeoBox]] = field(default_factory=list)

    def names(self, group: str) -> list[str]:
        return [name for name in self.variables() if VARIABLES[name].group == group]

    def revisions(self, group: str, geobox: GeoBox, days: Sequence[date], today: date) -> list[Revision]:
        self.asked.append((group, tuple(days), geobox))
        found = []
        for day in days:
            there = [name for name in self.names(group) if self.state.get((name, day), 0) is not None]
            stamps = {name: (self.state.get((name, day)) or 0) + self.touched.get((name, day), 0) for name in there}
            found.append(Revision(stamps=stamps, final=self.final, known=self.known))
        return found

    def days(self, group: str, geobox: GeoBox, start: date, end: date) -> list[date]:
        found = super().days(group, geobox, start, end)
        return [day for day in found if any(self.state.get((n, day), 0) is not None for n in self.names(group))]

    def value(self, name: str, geobox: GeoBox, day: date) -> np.ndarray:
        state = self.state.get((name, day), 0)
        values = super().value(name, geobox, day)
        return values * np.nan if state is None else values + 10 * state * VARIABLES[name].scale


@dataclass
class Service(Changing):
    """The same at a service, where questions cost requests."""

    def cost(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Cost:
        return Cost(requests=len(days), bytes=0, values=0)


def fill(path: Path, source: AnalyticSource, today: date = TODAY, *, refresh: bool = False) -> Stack:
    demand = Demand(grid=GRID, tiles=tiles(GRID), needs=NEEDS, days=[DAY])
    return fetch(path, [source], demand, today=today, refresh=refresh, quiet=True)


def changing(kind: type[Changing] = Changing, **options: object) -> Changing:
    return kind(without=source_of(NEEDS).without, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("plan") / "s.zarr", changing()).path


@pytest.fixture
def copy(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "s.zarr"))


def value(stack: Stack, name: str, day: date = DAY) -> float:
    """Return the mean of a variable over what maps read, NaN where there is none."""
    (window,) = (use.window for use in uses(stack, GRID, NEEDS, [DAY]) if name in use.group.variables)
    with np.errstate(invalid="ignore"):
        found = stack.read(name, window, day)
    return float(found.mean()) if np.isfinite(found).any() else np.nan


def rain(path: Path, day: date) -> float:
    return value(Stack(path), "pr", day)


def fingerprint(path: Path, day: date) -> str:
    """Return the fingerprint of the inputs that maps of a day read."""
    stack = Stack(path)
    return stack.fingerprint(uses(stack, GRID, NEEDS, [day]))


def test_a_replaced_day_is_read_again_and_only_its_maps_are_due(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mmnet_maps")
    early = DAY - timedelta(days=2)
    values, prints = ({day: of(copy, day) for day in (early, DAY)} for of in (rain, fingerprint))
    source = changing(state={("pr", DAY): 3})
    demand = Demand(grid=GRID, tiles=tiles(GRID), needs=NEEDS, days=[DAY])
    assert [(one.group, one.days) for one in estimate(copy, [source], demand, today=TODAY)] == [("weather", 1)]
    fill(copy, source)
    assert source.reads == [("weather", (DAY,))]
    assert rain(copy, DAY) == pytest.approx(values[DAY] + 30 * VARIABLES["pr"].scale, abs=1e-3)
    assert rain(copy, early) == values[early]
    assert fingerprint(copy, early) == prints[early]
    assert fingerprint(copy, DAY) != prints[DAY]
    assert "pr, tmmx: 1 day revised since they were fetched" in caplog.text
    source.reads.clear()
    fill(copy, source)
    assert source.reads == []


def test_equal_data_of_a_touched_file_are_read_once_and_keep_their_maps(copy: Path) -> None:
    before = fingerprint(copy, DAY)
    source = changing(touched={("pr", DAY): 1})
    fill(copy, source)
    assert source.reads == [("weather", (DAY,))]
    assert fingerprint(copy, DAY) == before
    source.reads.clear()
    fill(copy, source)
    assert source.reads == []


def test_a_day_that_was_found_empty_comes_in_when_it_is_published(tmp_path: Path) -> None:
    late = changing(state={("smap", DAY): None})
    assert np.isnan(value(fill(tmp_path / "s.zarr", late), "smap"))
    late.reads.clear()
    fill(tmp_path / "s.zarr", late)
    assert late.reads == []
    late.state.clear()
    assert np.isfinite(value(fill(tmp_path / "s.zarr", late), "smap"))
    assert late.reads == [("smap", (DAY,))]


@pytest.mark.parametrize("names", [["smap"], ["pr"], ["pr", "tmmx"]])
def test_values_whose_inputs_are_gone_are_kept(copy: Path, names: list[str], caplog: pytest.LogCaptureFixture) -> None:
    before, mark = {name: value(Stack(copy), name) for name in ("smap", "pr", "tmmx")}, fingerprint(copy, DAY)
    source = changing(state=dict.fromkeys([(name, DAY) for name in names]))
    stack = fill(copy, source)
    assert {name: value(stack, name) for name in before} == before
    assert fingerprint(copy, DAY) == mark
    for name in names:
        assert f"{name}: the inputs of 1 day are gone; the stack keeps their values" in caplog.text
    caplog.clear()
    fill(copy, source)
    assert caplog.text == ""
    back = changing(state={(names[0], DAY): 2})
    assert value(fill(copy, back), names[0]) == pytest.approx(
        before[names[0]] + 20 * VARIABLES[names[0]].scale, abs=1e-3
    )


def test_days_whose_inputs_cannot_be_looked_up_stay_as_they_are(copy: Path) -> None:
    source = changing(known=False, state={("pr", DAY): 3})
    before = rain(copy, DAY)
    fill(copy, source)
    assert source.reads == []
    assert rain(copy, DAY) == before
    source.known = True
    fill(copy, source)
    assert rain(copy, DAY) == pytest.approx(before + 30 * VARIABLES["pr"].scale, abs=1e-3)


def test_values_that_were_read_are_kept_although_their_inputs_seemed_gone(copy: Path) -> None:
    """Only the stack's value of the variable without a new one is kept."""
    stack = Stack(copy)
    (window,) = (use.window for use in uses(stack, GRID, NEEDS, [DAY]) if "pr" in use.group.variables)
    group = stack.group_of("pr")
    window = group.whole_blocks(window)
    shape = tuple(part.stop - part.start for part in window)
    rasters = {"pr": np.full(shape, 4, np.float32), "tmmx": np.full(shape, np.nan, np.float32)}
    request = Request(group=group, window=window, days=(DAY,))
    assert list(_without_inputs(stack, request, DAY, rasters, Revision(stamps={}))) == ["tmmx"]
    assert _without_inputs(stack, request, DAY, rasters, Revision(stamps={"pr": 1, "tmmx": 1})) == {}


def test_days_that_are_not_final_are_read_again_at_once_with_refresh(tmp_path: Path) -> None:
    source = changing(Service, final=False)
    path = fill(tmp_path / "s.zarr", source).path
    source.reads.clear()
    source.asked.clear()
    fill(path, source)
    assert source.reads == []
    assert {group for group, _, _ in source.asked} == {"smap", "weather"}
    fill(path, source, refresh=True)
    assert {group for group, _ in source.reads} == {"smap", "weather"}
    source.reads.clear()
    source.final = True
    fill(path, source)  # records that the days are final, without reading them
    assert source.reads == []
    source.asked.clear()
    source.state[("pr", DAY)] = 1
    fill(path, source)
    assert source.asked == []
    fill(path, source, refresh=True)
    assert source.reads == [("weather", (DAY,))]


def as_older_software_made_it(path: Path) -> None:
    for folder in path.glob("*/revision"):
        shutil.rmtree(folder)
    zarr.consolidate_metadata(path)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_older_stacks_are_compared_with_their_files_once(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mmnet_maps")
    as_older_software_made_it(copy)
    before, source = fingerprint(copy, DAY), changing()
    fill(copy, source)
    assert {group for group, _ in source.reads} == {"smap", "weather"}
    assert (
        "smap: 3 days read again, because the stack does not record what" in caplog.text or "smap: 1 day" in caplog.text
    )
    assert fingerprint(copy, DAY) == before
    source.reads.clear()
    fill(copy, source)
    assert source.reads == []


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize(("age", "reads"), [(91, 0), (80, 2)])
def test_a_service_is_not_asked_about_old_days_of_older_stacks(copy: Path, age: int, reads: int) -> None:
    as_older_software_made_it(copy)
    source = changing(Service)
    fill(copy, source, DAY + timedelta(days=age))
    assert len(source.reads) == reads


def test_an_interrupted_refresh_is_repaired_by_the_next_run(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = changing(state={("pr", DAY): 3, ("tmmx", DAY): 3})
    whole = fill(Path(shutil.copytree(copy, tmp_path / "whole.zarr")), source)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Stack, "record_revision", die)
        with pytest.raises(KeyboardInterrupt):
            fill(copy, source)
    assert np.isnan(value(Stack(copy), "pr"))
    fill(copy, source)
    assert value(Stack(copy), "pr") == value(whole, "pr")
    assert fingerprint(copy, DAY) == fingerprint(whole.path, DAY)


def test_damaged_revisions_are_repaired(copy: Path) -> None:
    before, source = fingerprint(copy, DAY), changing()
    for file in (copy / f"weather/revision/c/{day_index(DAY)}").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(InputError, match="damaged in weather/revision"):
        fill(copy, source)
    demand = Demand(grid=GRID, tiles=tiles(GRID), needs=NEEDS, days=[DAY])
    fetch(copy, [source], demand, today=TODAY, verify=True, quiet=True)
    assert source.reads == [("weather", (DAY,))]
    assert fingerprint(copy, DAY) == before
    fill(copy, source)
    assert len(source.reads) == 1


def test_blocks_have_one_revision_whatever_the_window() -> None:
    optical = Group(name="optical", lattice=conus_grid(), block=256, variables=("red",))
    smap = Group(name="smap", lattice=LATTICES["smap"], block=64, variables=("smap",))
    source = Changing()
    for group, place in ((optical, conus_grid()[2048:3072, 6144:7168]), (smap, LATTICES["smap"])):
        source.asked.clear()
        for window in ((slice(2048, 2304), slice(6144, 6656)), (slice(2304, 3072), slice(6656, 7168))):
            revisions(group, window, [DAY], {"smap": source, "red": source}, TODAY)
        assert {geobox for _, _, geobox in source.asked} == {place}
