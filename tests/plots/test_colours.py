"""Colours darken evenly; scales are round and contain most values."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from mmnet_maps.plots.colours import COLOURS, LAND_COVER, NETWORK_COLOURS, scale_range
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


# Colours as seen without one kind of cones, from linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
VISION = {
    "all cones": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array([[0.41246, 0.35758, 0.18044], [0.21267, 0.71515, 0.07217], [0.01933, 0.11919, 0.95030]])  # of linear RGB


def cielab(colour: str, vision: list[list[float]]) -> np.ndarray:
    """L*, a* and b* of an sRGB colour under D65, as a kind of eyes sees it."""
    linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)])
    ratio = XYZ @ np.clip(np.array(vision) @ linear, 0, 1) / XYZ.sum(axis=1)
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_networks_differ_in_colour_with_any_colour_vision(vision: str) -> None:
    seen = [cielab(colour, VISION[vision]) for colour in NETWORK_COLOURS]
    nearest = min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2))
    assert nearest > 15  # six times what is just noticeable


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
