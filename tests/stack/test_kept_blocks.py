"""Blocks kept for neighbouring tiles: never stale, and bounded."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from analytic import LATTICES, AnalyticSource, source_of
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid, tiles
from mmnet_maps.stack.blocks import Group
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.kept_blocks import KeptBlocks
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.stack.reader import read_block
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import VARIABLES

FIRST = date(2021, 8, 1)
GROUP = Group(name="lst", lattice=LATTICES["lst"], block=64, variables=("lst",))
DAYS, BLOCKS = 8, 3

requests = st.tuples(
    st.integers(0, BLOCKS - 1), st.integers(0, DAYS - 1), st.integers(1, DAYS), st.integers(0, DAYS - 1)
)


@given(st.lists(requests, max_size=12), st.sampled_from([0, 3 * 64 * 64 * 2, 1 << 20]))
def test_kept_blocks_are_those_of_the_stack(asked: list[tuple[int, int, int, int]], limit: int) -> None:
    """Between requests a block is rewritten on a day, with another mark; under marks of 0 and 1 there is nothing."""
    marks = np.arange(DAYS * BLOCKS, dtype=np.uint32).reshape(BLOCKS, DAYS) % 5
    read: list[int] = []

    def value(block: int, day: int) -> int:
        return int(marks[block, day]) + 100 * block + 10_000 if marks[block, day] > 1 else VARIABLES["lst"].nodata

    def of_stack(variable: str, place: tuple[int, int], day: date | None) -> np.ndarray | None:
        assert day is not None
        read.append((day - FIRST).days)
        # What an unmarked block holds does not matter.
        found = int(marks[place[1], read[-1]]) + 100 * place[1] + 10_000
        return np.full((64, 64), found, np.int16)

    kept = KeptBlocks(of_stack, limit)
    for block, first, count, rewritten in asked:
        span = slice(first, min(first + count, DAYS))
        for _ in range(2):
            read.clear()
            found = kept.read(GROUP, "lst", (0, block), FIRST + timedelta(days=first), marks[block, span])
            expected = [value(block, day) for day in range(span.start, span.stop)]
            np.testing.assert_array_equal(found, np.broadcast_to(np.array(expected)[:, None, None], found.shape))
        assert not read or not limit or limit < found.nbytes  # the second time, nothing is read
        marks[block, rewritten] = (marks[block, rewritten] + 1) % 7


def test_a_map_after_a_refill_in_the_same_process_has_the_new_values(tmp_path: Path) -> None:
    grid: GeoBox = target_grid(read_aoi("-119.60,47.10,-119.55,47.13"))
    day = date(2021, 8, 8)
    needs = Needs(snapshot=("smap", "landcover"), series=("pr", "lst"), steps=2, includes_day=True)

    path, demand = tmp_path / "s.zarr", Demand(grid=grid, tiles=tiles(grid), needs=needs, days=[day])
    stack = Stack(fetch(path, [source_of(needs)], demand, quiet=True).path)

    def rain() -> np.ndarray:
        return read_block(stack, grid, needs, [day], smap_resampling="nearest").series["pr"]

    before, group = rain(), stack.group_of("pr")
    whole = slice(0, group.lattice.shape.y), slice(0, group.lattice.shape.x)
    writer = Stack(path, writable=True)
    for i, j in np.argwhere(stack.marks(group, whole, [day])[0] > 1).tolist():
        block = group.cells((slice(i, i + 1), slice(j, j + 1)))
        writer.write(group.name, block, day, {"pr": 1.5 * AnalyticSource().value("pr", group.lattice[block], day)})
    np.testing.assert_allclose(rain()[:, -1], 1.5 * before[:, -1], atol=0.02)
    np.testing.assert_array_equal(rain()[:, 0], before[:, 0])
