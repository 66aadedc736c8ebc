from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnet_maps.sources.terrain import slope_aspect


@given(st.floats(0, 360, exclude_max=True), st.floats(0.5, 60), st.sampled_from([10.0, 100.0]))
def test_a_plane_has_its_slope_and_faces_downhill(aspect: float, slope: float, resolution: float) -> None:
    y, x = np.mgrid[0:6, 0:7] * resolution
    down = np.tan(np.radians(slope))
    # North is towards smaller rows: moving towards the aspect lowers the surface.
    elevation = 1000 - down * (x * np.sin(np.radians(aspect)) - y * np.cos(np.radians(aspect)))
    found_slope, found_aspect = slope_aspect(elevation, resolution)
    assert found_slope.shape == found_aspect.shape == (4, 5)
    np.testing.assert_allclose(found_slope, slope, rtol=1e-4)
    turn = (found_aspect - aspect + 180) % 360 - 180
    np.testing.assert_allclose(turn, 0, atol=1e-2)
    assert ((found_aspect >= 0) & (found_aspect < 360)).all()


def test_flat_ground_faces_nowhere() -> None:
    slope, aspect = slope_aspect(np.full((5, 5), 300.0), 100.0)
    assert not slope.any()
    assert not aspect.any()
    assert slope.dtype == aspect.dtype == np.float32


def test_narrow_pixels_steepen_the_eastward_slope() -> None:
    elevation = np.tile([300.0, 200.0, 100.0], (3, 1))
    slope, aspect = slope_aspect(elevation, 100.0, np.array([[50.0]]))
    assert slope.item() == pytest.approx(np.degrees(np.arctan(2)))
    assert aspect.item() == 90


def test_a_missing_elevation_leaves_its_neighbours_missing() -> None:
    elevation = np.random.default_rng(0).normal(size=(7, 7))
    elevation[3, 3] = np.nan
    slope, aspect = slope_aspect(elevation, 100.0)
    expected = np.zeros((5, 5), bool)
    expected[1:4, 1:4] = True
    np.testing.assert_array_equal(np.isnan(slope), expected)
    np.testing.assert_array_equal(np.isnan(aspect), expected)
