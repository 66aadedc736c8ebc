"""Colours darken evenly; scales are round and contain most values."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from mmnet_maps.plots.colours import COLOURS, LAND_COVER, scale_range
from mmnet_maps.variables import LANDCOVER_CLASSES


def lightness(colour: str) -> float:
    """CIE L* of an sRGB colour (IEC 61966-2-1, CIE 15)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    y = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return float(116 * np.cbrt(y) - 16) if y > (6 / 29) ** 3 else y * (29 / 3) ** 3


def test_colours_darken_evenly_from_dry_to_wet() -> None:
    steps = -np.diff([lightness(colour) for colour in COLOURS])
    assert steps.min() > 5
    assert steps.max() < 1.5 * steps.min()
    assert to_rgb(COLOURS[0])[0] > to_rgb(COLOURS[0])[2]  # dry is sandy
    assert to_rgb(COLOURS[-1])[2] > to_rgb(COLOURS[-1])[0]  # wet is blue


def test_every_class_of_land_cover_has_a_colour_of_its_own() -> None:
    assert set(LANDCOVER_CLASSES) < set(LAND_COVER)
    assert len(set(LAND_COVER.values())) == len(LAND_COVER)


@given(st.lists(st.floats(0, 0.875, width=32), min_size=1, max_size=50))
def test_scale_ranges(values: list[float]) -> None:
    low, high = scale_range([np.array([*values, np.nan], np.float32)])
    assert high - low >= 0.1 - 1e-9
    for end in (low, high):
        assert abs(end / 0.05 - round(end / 0.05)) < 1e-6
    assert low >= 0
    inner = np.percentile(np.array(values, np.float32), [2, 98])
    assert low <= inner[0] + 1e-6
    assert high >= inner[1] - 1e-6
