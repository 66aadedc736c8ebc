from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from mmnet_maps.sources.demo.noise import (
    Positions,
    fade,
    hashed,
    mix,
    moving_noise,
    ramp,
    spline_noise,
    spline_taps,
    uniform,
    value_noise,
    white,
)


def places(rows: int, columns: int, step: float = 100.0) -> Positions:
    return Positions(x=-1.9e6 + step * np.arange(columns)[None, :], y=2.9e6 - step * np.arange(rows)[:, None])


def spread_out(axes: Positions) -> Positions:
    x, y = np.broadcast_arrays(axes.x, axes.y)
    return Positions(x=x.copy(), y=y.copy())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 50), st.integers(1, 14), st.sampled_from([150.0, 800.0, 26e3]))
def test_rows_of_noise_equal_the_whole(start: int, count: int, wavelength: float) -> None:
    whole = places(64, 40)
    expected = spline_noise(whole, wavelength, 3)[start : start + count]
    np.testing.assert_array_equal(spline_noise(whole.rows(start, start + count), wavelength, 3), expected)


@pytest.mark.parametrize("wavelength", [170.0, 5e3])
def test_grids_scattered_places_and_sparse_places_agree(wavelength: float) -> None:
    axes = places(20, 30, 900.0)
    on_grid = spline_noise(axes, wavelength, 5)
    np.testing.assert_allclose(spline_noise(spread_out(axes), wavelength, 5), on_grid, atol=2e-6)
    few = Positions(x=spread_out(axes).x[::7, ::9].ravel(), y=spread_out(axes).y[::7, ::9].ravel())
    np.testing.assert_allclose(spline_noise(few, wavelength, 5), on_grid[::7, ::9].ravel(), atol=2e-6)


def test_spline_weights_are_those_of_the_cubic_b_spline() -> None:
    basis = BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)
    u = np.array([3.1, 3.5, 3.999])
    first, weights = spline_taps(u)
    for tap in range(4):
        np.testing.assert_allclose(weights[tap], basis(u - (first + tap)), atol=1e-6)


def test_noise_has_about_zero_mean_and_unit_variance() -> None:
    wide = places(300, 300, 3000.0)
    random = np.random.default_rng(0).uniform(-1e5, 1e5, (3, 200_000))
    for values in (
        spline_noise(wide, 2900.0, 1),
        white(wide, 100.0, 1),
        value_noise(random[0], random[1], 1),
        moving_noise(random[0], random[1], random[2], 1),
    ):
        assert abs(float(values.mean())) < 0.02
        assert float(values.std()) == pytest.approx(1, abs=0.06)


def test_hash_bits_are_balanced_and_seeds_unrelated() -> None:
    i, j = np.arange(400)[None, :], np.arange(-200, 200)[:, None]
    bits = np.unpackbits(hashed(i, j, 9).view(np.uint8))
    assert bits.mean() == pytest.approx(0.5, abs=0.002)
    for other in (uniform(i, j, 10), uniform(i + 1, j, 9), uniform(i, j + 1, 9)):
        assert abs(np.corrcoef(uniform(i, j, 9).ravel(), other.ravel())[0, 1]) < 0.01
    assert len(np.unique(mix(np.arange(100_000, dtype=np.uint32)))) == 100_000


def test_moving_noise_is_continuous_in_time() -> None:
    u, v = np.linspace(0, 40, 500), np.linspace(3, 9, 500)
    step = np.abs(moving_noise(u, v, 4.999, 2) - moving_noise(u, v, 5.001, 2)).max()
    assert step < 0.01
    assert np.abs(moving_noise(u, v, 4.0, 2) - moving_noise(u, v, 6.0, 2)).max() > 0.5


def test_steps_end_flat() -> None:
    edge = np.array([0, 1e-3, 0.5, 1 - 1e-3, 1], np.float32)
    np.testing.assert_allclose(fade(edge), [0, 0, 0.5, 1, 1], atol=1e-5)
    np.testing.assert_allclose(ramp(edge * 10, 0, 10), [0, 3e-6, 0.5, 1, 1], atol=1e-5)
    assert ramp(np.array([-5.0, 50.0]), 0, 10).tolist() == [0, 1]


def test_inner_places_drop_the_rim() -> None:
    for grid in (places(5, 6), spread_out(places(5, 6))):
        assert grid.inner().shape == (3, 4)
        assert grid.inner().x.min() == grid.x[0, 1]
