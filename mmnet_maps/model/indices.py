"""Spectral and backscatter indices: bands, formula and source of each, once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_SMALL = 1e-6


@dataclass(frozen=True, kw_only=True)
class Index:
    """A spectral or backscatter index: its bands, its formula over tensors of them in that order, and its source."""

    name: str
    bands: tuple[str, ...]
    formula: Callable[..., Tensor]
    source: str


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    import torch

    divisor = torch.nn.functional.hardshrink(denominator, _SMALL)  # 0 where small; a mask takes three times as long
    return torch.nan_to_num_(numerator / divisor, nan=math.nan, posinf=math.nan, neginf=math.nan)


INDICES: dict[str, Index] = {
    index.name: index
    for index in (
        Index(
            name="ndvi",
            bands=("nir", "red"),
            formula=lambda nir, red: _ratio(nir - red, nir + red),
            source="Rouse et al. (1974)",
        ),
        Index(
            name="evi",
            bands=("nir", "red", "blue"),
            formula=lambda nir, red, blue: _ratio(2.5 * (nir - red), nir + 6 * red - 7.5 * blue + 1),
            source="Huete et al. (2002)",
        ),
        Index(
            name="ndwi",
            bands=("green", "nir"),
            formula=lambda green, nir: _ratio(green - nir, green + nir),
            source="McFeeters (1996)",
        ),
        Index(
            name="lswi",
            bands=("nir", "swir1"),
            formula=lambda nir, swir1: _ratio(nir - swir1, nir + swir1),
            source="Xiao et al. (2004)",
        ),
        Index(
            name="nsdsi",
            bands=("swir1", "swir2"),
            formula=lambda swir1, swir2: _ratio(swir1 - swir2, swir1),
            source="Yue et al. (2019)",
        ),
        Index(
            name="cr",
            bands=("vv", "vh"),
            formula=lambda vv, vh: _ratio(vv, vh),
            source="Xu et al. (2025), cross ratio of backscatter in dB",
        ),
        Index(
            name="dpsvim",
            bands=("vv", "vh"),
            formula=lambda vv, vh: (vv * vv + vh * vh) / 32,
            source="Xu et al. (2025), dual-polarisation vegetation index of backscatter in dB",
        ),
        Index(
            name="pol",
            bands=("vv", "vh"),
            formula=lambda vv, vh: _ratio(vv + vh, vv - vh),
            source="Xu et al. (2025), polarisation of backscatter in dB",
        ),
        Index(
            name="rvim",
            bands=("vv", "vh"),
            formula=lambda vv, vh: _ratio(4 * vh, vv + vh),
            source="Xu et al. (2025), radar vegetation index of backscatter in dB",
        ),
        Index(
            name="vvvh",
            bands=("vv", "vh"),
            formula=lambda vv, vh: vv - vh,
            source="Xu et al. (2025), difference of backscatter in dB",
        ),
    )
}
"""All indices by name; reflectance as a fraction, backscatter in dB; NaN where a denominator is within 1e-6 of 0."""
