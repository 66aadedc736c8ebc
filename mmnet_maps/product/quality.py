"""Quality flags: every bit of the quality layer, and the rule that sets it.

A new bit is a name in `QUALITY_BITS` and a rule in `QualityFlags.bits`, for a flag of the inputs, or in `combine`, for
one of the estimate. The tags of COGs, the attributes of Zarr stores, STAC items, QGIS styles and the viewer follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.variables import LANDCOVER_CLASSES

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]

QUALITY_BITS: dict[str, int] = {
    "outside_area": 0,
    "unknown_land_cover": 1,
    "input_missing": 2,
    "optical_old": 3,
    "sar_old": 4,
    "lst_filled": 5,
    "coarse_borrowed": 6,
    "outside_training": 7,
    "clipped": 8,
    "frozen": 9,
    "synthetic": 10,
    "short_climatology": 11,
}
"""Bit positions of the quality layer."""

FLAG_MASKS: dict[str, int] = {name: 1 << bit for name, bit in QUALITY_BITS.items()}
"""Value of each flag alone."""

NO_VALUE = ("outside_area", "unknown_land_cover", "input_missing")
"""Flags under which soil moisture is nodata, the decisive one first; every other flag qualifies a value."""

_OLD_DAYS = {"optical": 16, "sar": 12}
_BACKSCATTER = {"vv": (-20.0, -5.0), "vh": (-30.0, -10.0)}  # dB, range kept in the training data (released code)
_LST_SHARE = 0.5
_FREEZING = 273.15  # K


def flags_in(value: int) -> list[str]:
    """Return the names of the flags that a value of the quality layer holds.

    >>> flags_in(0b1000010000)
    ['sar_old', 'frozen']
    """
    return [name for name, mask in FLAG_MASKS.items() if value & mask]


@dataclass(frozen=True, kw_only=True)
class QualityFlags:
    """Conditions of the inputs that qualify an estimate; arrays of one shape, None or absent where not known.

    Attributes
    ----------
    ages
        Days to the nearest observation, for ``optical`` and ``sar``; a large number where there is none.
    backscatter
        ``vv`` and ``vh`` in dB, where the model uses them.
    lst_filled
        Share of the series' days without an observed surface temperature.
    surface_temperature
        K on the last day of the series: the map's day, or the day before it for models that do not use the day itself.
    gap_filled
        Where a coarse input comes from a neighbouring cell.
    outside_training
        Where an input lies outside the range or classes of the training data.
    synthetic
        Whether any input is synthetic.
    """

    ages: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    backscatter: Mapping[str, Float] = field(default_factory=dict)
    lst_filled: Float | None = None
    surface_temperature: Float | None = None
    gap_filled: Mask | None = None
    outside_training: Mask | None = None
    synthetic: bool = False

    def bits(self, shape: tuple[int, ...]) -> NDArray[np.uint16]:
        """Return the quality bits of these conditions, in the shape of the arrays."""
        found: list[tuple[str, Mask | None]] = [
            *((f"{kind}_old", age > _OLD_DAYS[kind]) for kind, age in self.ages.items()),
            *(("sar_old", _is_outside(values, _BACKSCATTER[name])) for name, values in self.backscatter.items()),
            ("lst_filled", None if self.lst_filled is None else self.lst_filled > _LST_SHARE),
            ("frozen", None if self.surface_temperature is None else self.surface_temperature < _FREEZING),
            ("coarse_borrowed", self.gap_filled),
            ("outside_training", self.outside_training),
        ]
        quality = np.full(shape, FLAG_MASKS["synthetic"] if self.synthetic else 0, np.uint16)
        for name, flag in found:
            if flag is not None:
                _set(quality, name, flag)
        return quality


def combine(
    inputs: NDArray[np.uint16], estimate: Float, top: Float, *, inside: Mask, unknown: Mask
) -> NDArray[np.uint16]:
    """Return the quality layer of an estimate: the flags of its inputs and its own.

    Parameters
    ----------
    inputs
        From `QualityFlags.bits`.
    estimate, top
        Soil moisture before clipping, NaN where an input is missing, and the largest value it may have; m³/m³.
    inside
        Pixels of the area of interest; others hold ``outside_area`` alone.
    unknown
        Pixels with a land cover unknown to the model, from `unknown_cover`.
    """
    quality = inputs.copy()
    _set(quality, "unknown_land_cover", unknown)
    _set(quality, "input_missing", np.isnan(estimate) & ~unknown)
    _set(quality, "clipped", (estimate < 0) | (estimate > top))
    quality[~inside] = FLAG_MASKS["outside_area"]
    return quality


def unknown_cover(landcover: NDArray[np.uint8], known_classes: Sequence[str]) -> Mask:
    """Return where the land cover is unknown to a model; missing land cover, 0, is not.

    Parameters
    ----------
    landcover
        NLCD codes, 0 where missing.
    known_classes
        Land cover classes of the model; without any, only water and ice (11, 12) are unknown.
    """
    table = np.zeros(256, bool)
    codes = [code for name in known_classes for code in LANDCOVER_CLASSES[name]]
    if codes:
        table[1:] = True
        table[codes] = False
    else:
        table[[11, 12]] = True
    unknown: Mask = table[landcover]
    return unknown


def _is_outside(values: Float, limits: tuple[float, float]) -> Mask:
    low, high = limits
    outside: Mask = (values < low) | (values > high)
    return outside


def _set(quality: NDArray[np.uint16], name: str, where: Mask) -> None:
    quality |= where * np.uint16(FLAG_MASKS[name])
