"""Classes to group stations by: USDA soil texture, elevation bands, climate."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmnet_maps.errors import InputError

TEXTURES = (
    "sand",
    "loamy sand",
    "sandy loam",
    "loam",
    "silt loam",
    "silt",
    "sandy clay loam",
    "clay loam",
    "silty clay loam",
    "sandy clay",
    "silty clay",
    "clay",
)
"""The twelve texture classes, coarse to fine."""

ELEVATION_EDGES = (200, 500, 1000, 2000)
"""Edges of the elevation bands, m; an edge belongs to the band above it."""

ELEVATION_BANDS = (
    f"below {ELEVATION_EDGES[0]} m",
    *(f"{low}–{high} m" for low, high in pairwise(ELEVATION_EDGES)),
    f"{ELEVATION_EDGES[-1]} m and above",
)
"""Names of the bands, low to high."""

CLIMATES = ("tropical", "arid", "temperate", "continental", "polar")
"""Main groups of the Köppen-Geiger classification, A to E."""

_DECIMALS = 4  # of a percent, the precision of float32, so that 100 - clay - sand falls exactly on a border


def soil_texture(clay: ArrayLike, sand: ArrayLike) -> NDArray[np.str_]:
    """Classify soils by USDA texture; silt is 100 % minus clay and sand.

    The rules are those of the Soil Survey Manual (Soil Science Division Staff, 2017, USDA Handbook 18, chapter 3). They
    give each point of the triangle one class, its borders included.

    Parameters
    ----------
    clay, sand
        Mass percent of the fine earth, 0 to 100, of one shape or shapes that broadcast.

    Returns
    -------
    numpy.ndarray
        Names from `TEXTURES`, ``""`` where clay or sand is NaN.

    Raises
    ------
    InputError
        A percentage is negative, or clay and sand together exceed 100 %.

    Examples
    --------
    >>> soil_texture([23, 60, 5, np.nan], [36, 20, 92, 40]).tolist()
    ['loam', 'clay', 'sand', '']
    """
    clay, sand = np.broadcast_arrays(np.asarray(clay, np.float64), np.asarray(sand, np.float64))
    clay, sand = clay.round(_DECIMALS), sand.round(_DECIMALS)
    silt = (100.0 - clay - sand).round(_DECIMALS)
    wrong = (clay < 0) | (sand < 0) | (silt < 0)
    if wrong.any():
        raise InputError(
            f"clay {clay[wrong][0]:g} % and sand {sand[wrong][0]:g} % are not a soil; "
            "expected percentages from 0 that add up to 100 or less"
        )
    rules = {
        "sand": (sand > 85) & (silt + 1.5 * clay < 15),
        "loamy sand": (sand >= 70) & (sand <= 91) & (silt + 1.5 * clay >= 15) & (silt + 2 * clay < 30),
        "sandy loam": ((clay >= 7) & (clay < 20) & (sand > 52) & (silt + 2 * clay >= 30))
        | ((clay < 7) & (silt < 50) & (silt + 2 * clay >= 30)),
        "loam": (clay >= 7) & (clay < 27) & (silt >= 28) & (silt < 50) & (sand <= 52),
        "silt loam": ((silt >= 50) & (clay >= 12) & (clay < 27)) | ((silt >= 50) & (silt < 80) & (clay < 12)),
        "silt": (silt >= 80) & (clay < 12),
        "sandy clay loam": (clay >= 20) & (clay < 35) & (silt < 28) & (sand > 45),
        "clay loam": (clay >= 27) & (clay < 40) & (sand > 20) & (sand <= 45),
        "silty clay loam": (clay >= 27) & (clay < 40) & (sand <= 20),
        "sandy clay": (clay >= 35) & (sand > 45),
        "silty clay": (clay >= 40) & (silt >= 40),
        "clay": (clay >= 40) & (sand <= 45) & (silt < 40),
    }
    return np.select(list(rules.values()), list(rules), default="")


def elevation_band(elevation: ArrayLike) -> NDArray[np.str_]:
    """Return the band of `ELEVATION_BANDS` that an elevation in m lies in, ``""`` where it is NaN.

    Examples
    --------
    >>> elevation_band([-3, 200, 2996, np.nan]).tolist()
    ['below 200 m', '200–500 m', '2000 m and above', '']
    """
    elevation = np.asarray(elevation, np.float64)
    names = np.array(ELEVATION_BANDS)[np.digitize(elevation, ELEVATION_EDGES)]
    return np.where(np.isnan(elevation), "", names)


def climate_group(koppen: Iterable[str]) -> NDArray[np.str_]:
    """Return the main group of Köppen-Geiger classes, by their first letter.

    Returns
    -------
    numpy.ndarray
        Names from `CLIMATES`, ``""`` for anything else.

    Examples
    --------
    >>> climate_group(["Cfa", "BSk", ""]).tolist()
    ['temperate', 'arid', '']
    """
    names = dict(zip("ABCDE", CLIMATES, strict=True))
    return np.array([names.get(one[:1], "") for one in koppen], np.str_)
