"""Bilinear sampling of coarse fields."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmnet_maps.stack.bilinear import Bilinear


def sample(field: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    window, shape = (slice(0, field.shape[0]), slice(0, field.shape[1])), np.atleast_2d(rows).shape
    located = Bilinear(rows.reshape(shape), cols.reshape(shape), window, (10**6, 10**6))
    return located.sample(field).reshape(rows.shape)


def test_bilinear_is_exact_on_a_plane_and_renormalises() -> None:
    row, col = np.mgrid[0:5, 0:6]
    plane = (2.0 * (row + 0.5) - 0.5 * (col + 0.5)).astype(np.float32)
    rows, cols = np.array([[1.2, 3.9], [0.5, 4.5]]), np.array([[2.7, 1.0], [0.5, 5.5]])
    np.testing.assert_allclose(sample(plane, rows, cols), 2.0 * rows - 0.5 * cols, atol=1e-5)
    plane[2, 2] = np.nan
    assert sample(plane, np.array([2.5]), np.array([1.5]))[0] == plane[2, 1]
    assert np.isnan(sample(plane, np.array([2.5]), np.array([2.5]))[0])
    three = [plane[1, 1], plane[1, 2], plane[2, 1]]
    np.testing.assert_allclose(sample(plane, np.array([2.0]), np.array([2.0]))[0], np.mean(three), rtol=1e-6)


def test_a_large_row_of_pixels_is_sampled_as_each_alone() -> None:
    field = np.arange(12, dtype=np.float32).reshape(3, 4)
    rows, cols = np.linspace(0.6, 2.4, 140_000)[None], np.linspace(0.6, 3.4, 140_000)[None]
    found = sample(field, rows, cols)
    np.testing.assert_array_equal(found[:, ::9999], sample(field, rows[:, ::9999], cols[:, ::9999]))


positions = st.floats(-2, 8, width=32)


@given(
    arrays(np.float32, (5, 6), elements=st.one_of(st.just(float("nan")), st.floats(0, 0.5, width=32))),
    st.lists(st.tuples(positions, positions), min_size=1, max_size=12),
)
def test_a_sampled_value_does_not_depend_on_the_positions_beside_it(
    field: np.ndarray, places: list[tuple[float, float]]
) -> None:
    """Values depend on place and day, never on the window: to the last bit."""
    rows, cols = (np.array(index)[None] for index in zip(*places, strict=True))
    together = sample(field, rows, cols)
    for k in range(len(places)):
        np.testing.assert_array_equal(sample(field, rows[:, k : k + 1], cols[:, k : k + 1])[0], together[:, k])
    beyond = sample(field, np.append(rows, [[-9.0]], axis=1), np.append(cols, [[0.0]], axis=1))
    np.testing.assert_array_equal(beyond[:, :-1], together)
