"""The product: its layers, quality bits and attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of the product, as it is written.

    Attributes
    ----------
    name, long_name, units
        File name part, a phrase for people, UDUNITS units.
    scale, nodata
        ``physical = stored * scale``; the stored uint16 value that means missing (None: every value counts).
    overview
        How overviews are made: ``average`` for continuous layers, ``nearest`` for flags.
    """

    name: str
    long_name: str
    units: str
    scale: float
    nodata: int | None
    overview: Literal["average", "nearest"]
    standard_name: str | None = None

    def pack(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Pack physical values of any shape to uint16, NaN to nodata."""
        if self.nodata is None:
            return values.astype(np.uint16, copy=False)
        missing = np.isnan(values)
        steps = np.rint(np.where(missing, 0.0, values) / self.scale)
        return np.where(missing, self.nodata, np.clip(steps, 0, self.nodata - 1)).astype(np.uint16)


LAYERS: dict[str, Layer] = {
    layer.name: layer
    for layer in (
        Layer(
            name="soil_moisture",
            long_name="surface soil moisture, 0-5 cm",
            units="m3 m-3",
            scale=0.0001,
            nodata=65535,
            overview="average",
            standard_name="volume_fraction_of_condensed_water_in_soil",
        ),
        Layer(
            name="quality",
            long_name="quality flags",
            units="1",
            scale=1.0,
            nodata=None,
            overview="nearest",
        ),
        Layer(
            name="smap",
            long_name="SMAP surface soil moisture on the map's grid",
            units="m3 m-3",
            scale=0.0001,
            nodata=65535,
            overview="average",
            standard_name="volume_fraction_of_condensed_water_in_soil",
        ),
    )
}
"""The layers of a product by name."""

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
}
"""Bit positions of the quality layer; where bit 0, 1 or 2 is set, the soil moisture is nodata."""
