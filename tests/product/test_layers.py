"""Layers: packing and porosity."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from mmnet_maps.product.layers import LAYERS, porosity


def test_porosity() -> None:
    np.testing.assert_allclose(porosity(np.array([0.0, 2.65, 1.325], np.float32)), [1, 0, 0.5], atol=1e-6)


@given(st.floats(0, 6.5, width=32))
@example(3.388349771499634)  # almost in the middle between two steps
def test_packing_takes_the_nearest_step(value: float) -> None:
    """Half a step is exact but for the two roundings of float32, of the scale and of the quotient."""
    layer = LAYERS["soil_moisture"]
    packed = layer.pack(np.array([value, np.nan], np.float32))
    assert packed.dtype == np.uint16
    steps = Fraction(value) / Fraction("0.0001")
    assert abs(int(packed[0]) - steps) <= Fraction(1, 2) + steps * ((1 + Fraction(1, 2**24)) ** 2 - 1)
    assert packed[1] == layer.nodata


def test_unpacked_values_are_packed_as_they_were() -> None:
    layer = LAYERS["soil_moisture"]
    steps = np.arange(65536).astype(np.uint16)
    np.testing.assert_array_equal(layer.pack(layer.unpack(steps)), steps)


@given(st.floats(-10, 100, width=32))
def test_no_number_is_packed_as_nodata(value: float) -> None:
    assert LAYERS["smap"].pack(np.array([value], np.float32))[0] < 65535
