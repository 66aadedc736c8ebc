"""Damaged, lost and exchanged data: noticed where they are read, named, and fetched again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from analytic import AnalyticSource, source_of
from mmnet_maps.errors import InputError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid, tiles
from mmnet_maps.stack.availability import fetched_days
from mmnet_maps.stack.blocks import Group, day_index
from mmnet_maps.stack.checksums import checksum
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.inventory import take_inventory
from mmnet_maps.stack.inventory_text import format_inventory
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.stack.reader import read_block
from mmnet_maps.stack.repair import find_damage
from mmnet_maps.stack.store import Stack

DAY, BEFORE = date(2021, 8, 8), date(2021, 8, 7)
NEEDS = Needs(snapshot=("smap", "red", "landcover"), series=("pr", "srad", "smap"), steps=2, includes_day=True)
GRID = target_grid(read_aoi("-119.60,47.10,-119.55,47.13"))
DEMAND = Demand(grid=GRID, tiles=tiles(GRID), needs=NEEDS, days=[DAY])
D, E = day_index(DAY), day_index(BEFORE)
SEEN = next(date.fromordinal(k) for k in range(DAY.toordinal(), 0, -1) if k % 3 == 0)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch(tmp_path_factory.mktemp("filled") / "s.zarr", [source_of(NEEDS)], DEMAND, quiet=True).path


@pytest.fixture
def path(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "s.zarr"))


def files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def read(path: Path) -> None:
    block = read_block(Stack(path), GRID, NEEDS, [DAY], smap_resampling="nearest")
    list(block.snapshots)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in files(path)}


def deleted(path: Path) -> None:
    shutil.rmtree(path / f"smap/smap/c/{D}")


def days_exchanged(path: Path) -> None:
    folder = path / "smap/smap/c"
    for old, new in ((str(D), "x"), (str(E), str(D)), ("x", str(E))):
        (folder / old).rename(folder / new)


def variable_exchanged(path: Path) -> None:
    shutil.rmtree(path / f"weather/pr/c/{D}")
    shutil.copytree(path / f"weather/srad/c/{D}", path / f"weather/pr/c/{D}")


def truncated(path: Path) -> None:
    for file in files(path / f"optical/red/c/{day_index(SEEN)}"):
        file.write_bytes(file.read_bytes()[:-100])


def no_fine_chunk(path: Path) -> None:
    shutil.rmtree(path / f"optical/red/c/{day_index(SEEN)}")


def static_lost(path: Path) -> None:
    shutil.rmtree(path / "landcover/landcover/c")


def marks_truncated(path: Path) -> None:
    for file in files(path / f"weather/fetched/c/{D}"):
        file.write_bytes(file.read_bytes()[:-5])


def checksums_lost(path: Path) -> None:
    shutil.rmtree(path / f"weather/checksums/c/{D}")


def checksums_truncated(path: Path) -> None:
    for file in files(path / f"weather/checksums/c/{D}"):
        file.write_bytes(file.read_bytes()[:-5])


DAMAGE = [
    (deleted, f"smap on {DAY}, block"),
    (days_exchanged, "smap on 2021-08-0., block"),
    (variable_exchanged, f"pr on {DAY}, block"),
    (truncated, f"optical/red on {SEEN}"),
    (no_fine_chunk, f"red on {SEEN}, block"),
    (static_lost, "landcover, block"),
    (marks_truncated, "weather/fetched"),
    (checksums_lost, f"pr on {DAY}, block"),
    (checksums_truncated, "weather/checksums"),
]


@pytest.mark.parametrize(("harm", "where"), DAMAGE, ids=[harm.__name__ for harm, _ in DAMAGE])
def test_damage_is_named_and_repaired(path: Path, harm: Callable[[Path], None], where: str) -> None:
    whole = contents(path)
    harm(path)
    with pytest.raises(
        InputError, match=rf"damaged in {where}.*repair it .*mmnet stack --aoi .* --out {path}"
    ) as found:
        read(path)
    assert len(str(found.value)) < 300 + len(str(path))
    source = source_of(NEEDS)
    fetch(path, [source], DEMAND, quiet=True, verify=True)
    assert contents(path) == whole
    assert len({group for group, _ in source.reads}) == 1  # the damaged group alone
    read(path)


def test_damage_of_a_variable_that_no_map_reads_is_found(path: Path) -> None:
    for file in files(path / f"weather/srad/c/{D}"):
        file.write_bytes(file.read_bytes()[:-100])
    demand = replace(DEMAND, needs=replace(NEEDS, series=("pr", "smap")))
    found = find_damage(Stack(path), demand)
    assert {(one.group.name, one.lost, one.day) for one in found} == {("weather", "srad", DAY)}


def test_equal_data_of_another_place_day_or_variable_differ() -> None:
    block = np.zeros((64, 64), np.int16)
    of = {
        checksum(name, day, place, block)
        for name in ("pr", "srad")
        for day in (DAY, BEFORE)
        for place in ((0, 0), (0, 1), (1, 0))
    }
    assert len(of) == 12


def test_damage_is_named_by_the_inventory(path: Path) -> None:
    deleted(path)
    with pytest.raises(
        InputError, match=f"damaged in smap on {DAY}, block [0-9]+/[0-9]+ of smap near -1[0-9.]+,[0-9.]+ "
    ):
        take_inventory(Stack(path), [DAY])


def test_a_block_is_verified_once_a_run(path: Path) -> None:
    stack, cell = Stack(path), (slice(80, 82), slice(110, 112))
    assert np.isfinite(stack.read("smap", cell, DAY)).all()
    deleted(path)
    assert np.isnan(stack.read("smap", cell, DAY)).all()
    with pytest.raises(InputError, match="damaged"):
        Stack(path).read("smap", cell, DAY)


def test_stacks_of_before_are_read_unverified(path: Path) -> None:
    metadata = json.loads((path / "zarr.json").read_text())
    for name in ("smap", "weather", "optical", "landcover"):
        shutil.rmtree(path / name / "checksums")
        del metadata["consolidated_metadata"]["metadata"][f"{name}/checksums"]
    (path / "zarr.json").write_text(json.dumps(metadata))
    stack = Stack(path)
    assert not any(group.verified for group in stack.groups.values())
    assert "no checksums" in format_inventory(take_inventory(stack, [DAY]))
    read(path)
    source = source_of(NEEDS)
    fetch(path, [source], replace(DEMAND, days=[DAY, date(2021, 8, 9)]), quiet=True, verify=True)
    assert {day for group, days in source.reads if group == "weather" for day in days} == {date(2021, 8, 9)}
    read(path)


def test_data_of_a_killed_fetch_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between data and mark."""

    def die(self: Stack, group: Group, *_: object) -> None:
        if group.name == "smap":
            raise KeyboardInterrupt

    monkeypatch.setattr(Stack, "_record_checksums", die)
    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path / "k.zarr", [source_of(NEEDS)], DEMAND, quiet=True)
    monkeypatch.undo()
    assert files(tmp_path / "k.zarr/smap/smap/c")
    stack = Stack(tmp_path / "k.zarr")
    assert np.isnan(stack.read("smap", (slice(80, 82), slice(110, 112)), BEFORE)).all()
    assert fetched_days(stack, GRID, NEEDS, [DAY]) == []
    fetch(tmp_path / "k.zarr", [source_of(NEEDS)], DEMAND, quiet=True, verify=True)
    read(tmp_path / "k.zarr")


def test_a_killed_rewrite_leaves_no_mark(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between data and mark: the old mark does not vouch for new data."""
    stack = Stack(path, writable=True)
    group = stack.groups["smap"]
    window = group.whole_blocks((slice(80, 82), slice(110, 112)))
    array = Stack._array

    def die(self: Stack, name: str) -> object:
        if name.endswith("checksums"):
            raise KeyboardInterrupt
        return array(self, name)

    monkeypatch.setattr(Stack, "_array", die)
    with pytest.raises(KeyboardInterrupt):
        stack.write("smap", window, DAY, {"smap": AnalyticSource().value("smap", group.lattice[window], DAY) / 2})
    monkeypatch.undo()
    assert fetched_days(Stack(path), GRID, NEEDS, [DAY]) == []
    assert np.isnan(Stack(path).read("smap", window, DAY)).all()
