"""Colours of every picture: the scale of soil moisture, ink and greys, networks, kinds of inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

COLOURS = (
    "#fce5be",
    "#f7ce8a",
    "#dfbb73",
    "#b6ae6d",
    "#8ba06e",
    "#56927d",
    "#198089",
    "#006b95",
    "#00568a",
    "#03417a",
    "#192c69",
)
"""Dry to wet: equal steps of CIELAB lightness from 92 to 20, distinguishable with any colour vision."""

FULL_RANGE = (0.0, 0.5)
"""Range of the colour scale in m³/m³ of a picture without values, and of the layer styles, for every place and day."""

INK, PALE, RULE, NODATA = "#222222", "#555555", "#999999", "#dcdcdc"
"""Text and outlines, secondary text, frames, pixels without a value."""

NETWORK_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#f0e442",
    "#661100",
    "#332288",
)
"""One per network or baseline, in their order (Okabe and Ito; the last two Tol), distinguishable with any colour
vision."""
SMAP_COLOUR = "#8a8a8a"

LAND_COVER = {
    "shrubland": "#cbb77a",
    "grassland": "#e9e5b4",
    "barren": "#b0a89b",
    "wetland": "#74a9b5",
    "forest": "#2f6b38",
    "developed": "#c8393b",
    "cropland": "#a8692c",
    "pasture": "#dcd53e",
    "water, ice": "#4b71a8",
}
"""By the names of `variables.LANDCOVER_CLASSES`; near the colours of NLCD."""

DRY_WET = ("#8c510a", "#bf812d", "#dfc27d", "#f6e8c3", "#f5f5f5", "#c7eae5", "#80cdc1", "#35978f", "#01665e")
"""Drier to wetter than usual, or than on another day."""

DROUGHT_COLOURS = {"D0": "#ffff00", "D1": "#fcd37f", "D2": "#ffaa00", "D3": "#e60000", "D4": "#730000"}
"""Drought classes, in the colours of the U.S. Drought Monitor."""

KIND_COLOURS = {"snapshot": "#b6803a", "series": "#00568a"}
"""Kinds of inputs; they differ in lightness too, so with any colour vision and in grey."""


def dry_to_wet() -> Colormap:
    """Return the colour map of soil moisture."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("dry_to_wet", COLOURS)


def network_colours(names: Iterable[str]) -> dict[str, str]:
    """Return the colour of each network; ``smap`` is grey.

    Raises
    ------
    InputError
        When there are more networks than colours.
    """
    found = dict.fromkeys(names, SMAP_COLOUR)
    networks = [name for name in found if name != "smap"]
    if len(networks) > len(NETWORK_COLOURS):
        raise InputError(f"{len(networks)} networks in one figure; expected {len(NETWORK_COLOURS)} at most")
    return found | dict(zip(networks, NETWORK_COLOURS, strict=False))


def scale_range(values: Sequence[NDArray[np.floating]]) -> tuple[float, float]:
    """Return the range of a colour scale: the middle 96 % of all values, in steps of 0.05 and at least 0.1 wide.

    >>> scale_range([np.array([0.12, 0.33, np.nan], np.float32)])
    (0.1, 0.35)
    """
    valid = np.concatenate([array[np.isfinite(array)] for array in values])
    if not valid.size:
        return FULL_RANGE
    low, high = np.percentile(valid, [2, 98])
    first, last = math.floor(low / 0.05 + 1e-6), math.ceil(high / 0.05 - 1e-6)
    if last - first < 2:
        first, last = max(0, last - 2), max(0, last - 2) + 2
    return round(first * 0.05, 2), round(last * 0.05, 2)


def beyond(values: Sequence[NDArray[np.floating]], limits: tuple[float, float], tolerance: float = 1e-5) -> str:
    """Return the ends at which a colour bar is pointed because values lie beyond its limits.

    >>> beyond([np.array([0.05, 0.2])], (0.1, 0.3))
    'min'
    """
    valid = np.concatenate([array[np.isfinite(array)] for array in values])
    below, above = bool((valid < limits[0] - tolerance).any()), bool((valid > limits[1] + tolerance).any())
    return {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
