"""Distinct combinations of coarse cells."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from analytic import LATTICES
from mmnet_maps.stack.blocks import Group
from mmnet_maps.stack.cells import Cells, combinations

SHAPE = (5, 7)
WINDOW = (slice(3, 7), slice(2, 8))
cells_of_pixels = arrays(np.int32, SHAPE, elements=st.integers(-1, 5))


def cells(name: str, of_pixels: np.ndarray, wanted: np.ndarray) -> Cells:
    group = Group(name=name, lattice=LATTICES[name], block=64, variables=({"weather": "pr"}.get(name, name),))
    known = wanted & (of_pixels >= 0)
    used = np.unique(of_pixels[known])
    rows = np.where(known, np.searchsorted(used, of_pixels), -1).astype(np.int32)
    return Cells(group=group, window=WINDOW, of_pixels=of_pixels, used=used, rows=rows)


@given(st.lists(cells_of_pixels, min_size=3, max_size=3), arrays(bool, SHAPE), st.booleans())
def test_combinations_are_distinct_and_those_of_the_pixels(
    planes: list[np.ndarray], wanted: np.ndarray, everywhere: bool
) -> None:
    if everywhere:
        planes = [np.abs(plane) for plane in planes]
    weather, lst, smap = (cells(name, *part) for name, *part in zip(LATTICES, planes, [wanted] * 3, strict=False))
    groups = [[weather], [lst, smap], [lst]]
    rows, places = combinations(groups)
    on = wanted & np.all([plane >= 0 for plane in planes], axis=0)
    for group, of_group, found in zip(groups, rows, places, strict=True):
        assert of_group.dtype == np.int32
        np.testing.assert_array_equal(of_group >= 0, on)
        table = np.stack([part.used[place] for part, place in zip(group, found, strict=True)], axis=1)
        assert len(np.unique(table, axis=0)) == len(table)
        assert np.unique(of_group[on]).tolist() == list(range(len(table)))
        for part, column in zip(group, table.T, strict=True):
            np.testing.assert_array_equal(column[of_group[on]], part.of_pixels[on])


@given(arrays(bool, (4, 6)), st.integers(1, 3))
def test_cells_around_those_used(used: np.ndarray, distance: int) -> None:
    group = Group(name="lst", lattice=LATTICES["lst"], block=64, variables=("lst",))
    below = Cells(
        group=group, window=WINDOW, of_pixels=np.zeros((1, 1), np.int32), used=np.flatnonzero(used),
        rows=np.zeros((1, 1), np.int32),
    )  # fmt: skip
    expected = [
        r * 6 + c
        for r, c in np.ndindex(used.shape)
        if used[max(r - distance, 0) : r + distance + 1, max(c - distance, 0) : c + distance + 1].any()
    ]
    assert below.around(distance).tolist() == expected
    row, col = np.divmod(below.used, 6)
    width = group.lattice.shape.x
    np.testing.assert_array_equal(below.on_lattice(below.used), (row + 3) * width + col + 2)
