"""Fetched and valued blocks, and data without a mark of their own block, which no map may use."""

from __future__ import annotations

import random
import shutil
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytic import LATTICES, source_of
from mmnet_maps.grid.tiles import conus_grid, tiles
from mmnet_maps.stack.availability import Availability, Picked, fetched_days, look_up, look_up_blocks
from mmnet_maps.stack.blocks import Group, day_index
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.inventory import take_inventory
from mmnet_maps.stack.needs import Demand, Needs, uses
from mmnet_maps.stack.pixels import read_pixel
from mmnet_maps.stack.reader import Block, read_block
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import VARIABLES

DAY = date(2021, 8, 8)
NEEDS = Needs(snapshot=("smap", "red", "vv", "clay"), series=("pr", "lst"), steps=2, includes_day=True)
GRID = conus_grid()[3600:3616, 6276:6436]
"""Across an edge of fine blocks (column 6400) and one of blocks of surface temperature."""
UNMARKED = {
    "optical": [DAY - timedelta(days=k) for k in (1, 4, 7)],
    "lst": [DAY - timedelta(days=k) for k in range(-16, 18)],
    "soil": [DAY],
}
"""Days on which a block of each group loses its mark; the second one of the map's window."""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    path = tmp_path_factory.mktemp("availability") / "full.zarr"
    demand = Demand(grid=GRID, tiles=tiles(GRID), needs=NEEDS, days=[DAY])
    return fetch(path, [source_of(NEEDS)], demand, quiet=True)


def second_block(stack: Stack, name: str) -> tuple[Group, tuple[slice, slice]]:
    """Return the last column of blocks under the map, as blocks."""
    use = next(use for use in uses(stack, GRID, NEEDS, [DAY]) if use.group.name == name)
    rows, cols = use.group.blocks(use.window)
    assert cols.stop - cols.start == 2
    return use.group, (rows, slice(cols.start + 1, cols.stop))


def copy_without_marks(full: Stack, path: Path, *, without_data: bool) -> Stack:
    """Copy a stack and remove the marks of a block on some days, and its data too where wanted."""
    shutil.copytree(full.path, path)
    stack = Stack(path, writable=True)
    for name, days in UNMARKED.items():
        group, blocks = second_block(full, name)
        for day in days:
            index = (day_index(day),) if group.temporal else ()
            stack._array(f"{name}/fetched")[*index, *blocks] = 0
            for variable in group.variables if without_data else ():
                stack._array(f"{name}/{variable}")[*index, *group.cells(blocks)] = VARIABLES[variable].nodata
    return Stack(path)


@pytest.fixture(scope="module")
def unmarked(full: Stack) -> Stack:
    """A stack as a killed write may leave it: data in a block without its mark."""
    return copy_without_marks(full, full.path.with_name("unmarked.zarr"), without_data=False)


@pytest.fixture(scope="module")
def never_written(full: Stack) -> Stack:
    return copy_without_marks(full, full.path.with_name("never.zarr"), without_data=True)


def contents(block: Block) -> dict[str, np.ndarray]:
    """Return all arrays of a block with one day."""
    (snapshot,) = block.snapshots
    arrays = {"series_id": block.series_id[0], **{f"series {name}": values for name, values in block.series.items()}}
    arrays |= {f"fine {name}": values for name, values in snapshot.fine.items()}
    arrays |= {f"age {name}": values for name, values in snapshot.ages.items()}
    arrays["series_gap_filled"] = snapshot.series_gap_filled[0]
    return arrays | {name: getattr(snapshot, name) for name in ("gap_filled", "lst_filled")}


def differing(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name, values in one.items() if not np.array_equal(values, other[name], equal_nan=True)} - {
        name for name in one if one[name].dtype == bool and (one[name] == other[name]).all()
    }


PICKED = np.arange(16), np.arange(16) * 10
WINDOWS = {"tile": np.s_[:, :], "across the edge": np.s_[3:9, 110:140], "second block": np.s_[:, 130:]}


@pytest.mark.parametrize(
    ("window", "picked"),
    [*((window, None) for window in WINDOWS.values()), (WINDOWS["tile"], PICKED)],
    ids=[*WINDOWS, "picked"],
)
def test_data_without_a_mark_of_their_block_are_not_used(
    full: Stack, unmarked: Stack, never_written: Stack, window: tuple[slice, slice], picked: Picked | None
) -> None:
    found, expected, before = (
        contents(read_block(stack, GRID[window], NEEDS, [DAY], smap_resampling="bilinear", picked=picked))
        for stack in (unmarked, never_written, full)
    )
    assert differing(found, expected) == set()
    assert {"fine red", "fine clay", "series lst", "age optical"} <= differing(found, before)


def test_samples_do_not_use_data_without_a_mark(full: Stack, unmarked: Stack, never_written: Stack) -> None:
    found, expected, before = (
        read_pixel(stack, GRID[5:6, 150:151], [DAY], NEEDS) for stack in (unmarked, never_written, full)
    )
    assert differing(found, expected) == set()
    assert {"red", "clay", "lst"} <= differing(found, before)


def test_other_blocks_keep_their_values(full: Stack, unmarked: Stack) -> None:
    window = np.s_[:, :20]  # of other blocks, also of surface temperature
    found, before = (
        contents(read_block(stack, GRID[window], NEEDS, [DAY], smap_resampling="bilinear"))
        for stack in (unmarked, full)
    )
    assert differing(found, before) == set()


def test_the_inventory_and_reads_of_a_stack_agree(unmarked: Stack, never_written: Stack) -> None:
    days = [DAY - timedelta(days=k) for k in range(3)]
    found, expected = (take_inventory(stack, days) for stack in (unmarked, never_written))
    for name in NEEDS.variables:
        for share in ("observed", "interpolated", "missing", "unfetched", "age"):
            np.testing.assert_array_equal(getattr(found.table[name], share), getattr(expected.table[name], share))
        for group, window, around in uses(unmarked, GRID, NEEDS, [DAY]):
            if name in group.variables:
                assert np.array_equal(
                    unmarked.read(name, window, DAY), never_written.read(name, window, DAY), equal_nan=True
                )
                if group.temporal:
                    span = around[0], around[-1]
                    one, other = (stack.read_days(name, window, *span) for stack in (unmarked, never_written))
                    np.testing.assert_array_equal(one, other)


def test_days_are_unfetched_where_a_block_has_no_mark(full: Stack, unmarked: Stack) -> None:
    assert fetched_days(full, GRID, NEEDS, [DAY]) == [DAY]
    assert fetched_days(unmarked, GRID, NEEDS, [DAY]) == []
    assert fetched_days(unmarked, GRID[:, :20], NEEDS, [DAY]) == [DAY]
    group, blocks = second_block(full, "lst")
    own = NEEDS.own_days("lst", DAY)
    found = look_up(unmarked, group, group.cells(blocks), UNMARKED["lst"])
    assert (found.unfetched(NEEDS, DAY), found.empty(NEEDS, DAY)) == (own, own)
    first = np.zeros(group.shape, bool)
    first[blocks[0], blocks[1].start - 1] = True
    found = look_up_blocks(unmarked, group, first, UNMARKED["lst"])
    assert (found.unfetched(NEEDS, DAY), found.empty(NEEDS, DAY)) == ([], [])
    found = look_up_blocks(unmarked, group, ~first, UNMARKED["lst"])
    assert found.unfetched(NEEDS, DAY) == own


@given(st.integers(0, 130), st.integers(1, 90), st.integers(0, 130), st.integers(1, 90), st.randoms())
def test_only_cells_of_blocks_without_values_are_hidden(
    top: int, height: int, left: int, width: int, chance: random.Random
) -> None:
    group = Group(name="lst", lattice=LATTICES["lst"][:250, :250], block=64, variables=("lst",))
    window = slice(top, top + height), slice(left, left + width)
    valued = np.array([chance.random() < 0.5 for _ in range(16)]).reshape(1, 4, 4)
    found = Availability(group=group, days=(DAY,), blocks=(slice(0, 4), slice(0, 4)), fetched=valued, valued=valued)
    values = np.ones((height, width), np.int16)
    found.within(window).hide(values, window, DAY, 0)
    expected = valued[0].repeat(64, 0).repeat(64, 1)[window]
    np.testing.assert_array_equal(values, expected)
    found.hide(values, window, DAY + timedelta(days=1), 0)
    assert not values.any()
