"""Every variable once: name, units, valid range, group and packing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Aggregation = Literal["mean", "mode"]
Daily = Literal["mean", "sum", "max", "min"]


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One stored variable, in physical units and as it is packed in a stack.

    Attributes
    ----------
    name, long_name, units
        Short name, descriptive name, and UDUNITS units (``"1"`` where dimensionless).
    group
        The stack group that usually holds it: ``terrain``, ``landcover``, ``soil``, ``optical``, ``sar``, ``smap``,
        ``weather`` or ``lst``.
    valid_min, valid_max
        Range of physically possible values; values outside are missing.
    scale, offset
        ``physical = packed * scale + offset``.
    dtype, nodata
        Packed type and the packed value that means missing.
    aggregation
        Reduction of a product's own pixels to one 100 m pixel.
    daily
        Reduction of the fields of a day to one value: the mean of a state, the sum of amounts, or an extreme.
    amount
        Units of amounts that files may hold in place of a rate, such as ``"mm"`` for ``"mm day-1"``; a day sums them.
    standard_name
        CF standard name, where one exists.
    """

    name: str
    long_name: str
    units: str
    group: str
    valid_min: float
    valid_max: float
    scale: float = 1.0
    offset: float = 0.0
    dtype: Literal["int16", "uint8"] = "int16"
    nodata: int = -32768
    aggregation: Aggregation = "mean"
    daily: Daily = "mean"
    amount: str | None = None
    standard_name: str | None = None

    def pack(self, values: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.integer]:
        """Pack physical values of any shape; NaN and values outside the valid range become ``nodata``.

        Examples
        --------
        >>> VARIABLES["smap"].pack(np.array([0.25, np.nan, 3.0], np.float32)).tolist()
        [2500, -32768, -32768]
        """
        if self.dtype == "uint8":
            return np.where((values >= self.valid_min) & (values <= self.valid_max), values, self.nodata).astype(
                np.uint8
            )
        with np.errstate(invalid="ignore"):
            good = (values >= self.valid_min) & (values <= self.valid_max)
        steps = np.rint((np.where(good, values, 0.0) - self.offset) / self.scale)
        return np.where(good, steps, self.nodata).astype(np.int16)

    def unpack(self, packed: NDArray[np.integer]) -> NDArray[Any]:
        """Return physical values as float32, NaN where missing; land-cover codes stay uint8, 0 where missing.

        Examples
        --------
        >>> VARIABLES["smap"].unpack(np.array([2500, -32768], np.int16))
        array([0.25,  nan], dtype=float32)
        """
        if self.dtype == "uint8":
            return packed.astype(np.uint8, copy=False)
        values = self.scaled(packed.astype(np.float32))
        values[packed == self.nodata] = np.nan
        return values

    def physical(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return packed values as `unpack` does, and floats, which are physical already, as they are."""
        return values if values.dtype.kind == "f" else self.unpack(values)

    def scaled(self, steps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale packed values, which may lie between whole numbers, to physical ones, in place."""
        steps *= np.float32(self.scale)
        if self.offset:
            steps += np.float32(self.offset)
        return steps


_TABLE = (
    Variable(
        name="elevation",
        long_name="surface elevation",
        units="m",
        group="terrain",
        valid_min=-120.0,
        valid_max=4500.0,
        scale=0.2,
        standard_name="surface_altitude",
    ),
    Variable(
        name="slope", long_name="terrain slope", units="degree", group="terrain", valid_min=0, valid_max=90, scale=0.01
    ),
    Variable(
        name="aspect",
        long_name="terrain aspect, clockwise from north, 0 where flat",
        units="degree",
        group="terrain",
        valid_min=0,
        valid_max=360,
        scale=0.1,
    ),
    Variable(
        name="landcover",
        long_name="NLCD land cover code",
        units="1",
        group="landcover",
        valid_min=11,
        valid_max=95,
        dtype="uint8",
        nodata=0,
        aggregation="mode",
    ),
    Variable(
        name="clay",
        long_name="clay content, 0-5 cm",
        units="percent",
        group="soil",
        valid_min=0,
        valid_max=100,
        scale=0.01,
    ),
    Variable(
        name="sand",
        long_name="sand content, 0-5 cm",
        units="percent",
        group="soil",
        valid_min=0,
        valid_max=100,
        scale=0.01,
    ),
    Variable(
        name="bulk_density",
        long_name="bulk density, 0-5 cm",
        units="g cm-3",
        group="soil",
        valid_min=0.05,
        valid_max=2.65,
        scale=0.0001,
    ),
    *(
        Variable(
            name=name,
            long_name=f"surface reflectance, {text}",
            units="1",
            group="optical",
            valid_min=-0.2,
            valid_max=1.6,
            scale=0.0001,
        )
        for name, text in (
            ("blue", "blue"),
            ("green", "green"),
            ("red", "red"),
            ("nir", "near infrared"),
            ("swir1", "shortwave infrared, 1.6 um"),
            ("swir2", "shortwave infrared, 2.2 um"),
        )
    ),
    Variable(name="vv", long_name="backscatter, VV", units="dB", group="sar", valid_min=-30, valid_max=10, scale=0.001),
    Variable(name="vh", long_name="backscatter, VH", units="dB", group="sar", valid_min=-32, valid_max=10, scale=0.001),
    Variable(
        name="smap",
        long_name="SMAP surface soil moisture, daily mean",
        units="m3 m-3",
        group="smap",
        valid_min=0.0,
        valid_max=0.9,
        scale=0.0001,
        standard_name="volume_fraction_of_condensed_water_in_soil",
    ),
    Variable(
        name="eto",
        long_name="grass reference evapotranspiration",
        units="mm day-1",
        daily="sum",
        amount="mm",
        group="weather",
        valid_min=0,
        valid_max=30,
        scale=0.001,
    ),
    Variable(
        name="etr",
        long_name="alfalfa reference evapotranspiration",
        units="mm day-1",
        daily="sum",
        amount="mm",
        group="weather",
        valid_min=0,
        valid_max=32,
        scale=0.001,
    ),
    Variable(
        name="pr",
        long_name="precipitation",
        units="mm day-1",
        daily="sum",
        amount="mm",
        group="weather",
        valid_min=0,
        valid_max=650,
        scale=0.02,
        standard_name="lwe_precipitation_rate",
    ),
    Variable(
        name="sph",
        long_name="specific humidity",
        units="kg kg-1",
        group="weather",
        valid_min=0,
        valid_max=0.032,
        scale=1e-6,
        standard_name="specific_humidity",
    ),
    Variable(
        name="srad",
        long_name="downwelling shortwave radiation",
        units="W m-2",
        amount="J m-2",
        group="weather",
        valid_min=0,
        valid_max=500,
        scale=0.02,
        standard_name="surface_downwelling_shortwave_flux_in_air",
    ),
    Variable(
        name="vpd",
        long_name="vapour pressure deficit",
        units="kPa",
        group="weather",
        valid_min=0,
        valid_max=15,
        scale=0.001,
        standard_name="water_vapor_saturation_deficit_in_air",
    ),
    Variable(
        name="vs",
        long_name="wind speed",
        units="m s-1",
        group="weather",
        valid_min=0,
        valid_max=32,
        scale=0.001,
        standard_name="wind_speed",
    ),
    Variable(
        name="tmmx",
        long_name="daily maximum air temperature",
        group="weather",
        valid_min=220,
        valid_max=330,
        standard_name="air_temperature",
        units="K",
        daily="max",
        scale=0.01,
        offset=300.0,
    ),
    Variable(
        name="tmmn",
        long_name="daily minimum air temperature",
        group="weather",
        valid_min=210,
        valid_max=320,
        standard_name="air_temperature",
        units="K",
        daily="min",
        scale=0.01,
        offset=300.0,
    ),
    Variable(
        name="lst",
        long_name="daytime land surface temperature",
        group="lst",
        valid_min=220,
        valid_max=370,
        standard_name="surface_temperature",
        units="K",
        scale=0.01,
        offset=300.0,
    ),
)

VARIABLES: dict[str, Variable] = {variable.name: variable for variable in _TABLE}
"""All stored variables by name."""

FIRST_DAY, LAST_DAY = date(2015, 1, 1), date(2039, 12, 31)
"""Time axis of stacks. Maps begin with it: SMAP has observed since 2015."""

STATIC_GROUPS = ("terrain", "landcover", "soil")
"""Groups without a time axis, each from a service of its own."""

FINE_GROUPS = (*STATIC_GROUPS, "optical", "sar")
"""Groups on the target grid; all other groups stay on their product's own coarse grid."""

SEARCH_DAYS = {"optical": 32, "sar": 24, "lst": 16}
"""Search window: days before and after within which an observation fills a day (other groups: the day itself)."""

NLCD_CODES = (11, 12, 21, 22, 23, 24, 31, 41, 42, 43, 51, 52, 71, 72, 73, 74, 81, 82, 90, 95)
"""All land cover codes of NLCD."""

LANDCOVER_CLASSES: dict[str, tuple[int, ...]] = {
    "shrubland": (51, 52),
    "grassland": (71, 72),
    "barren": (31,),
    "wetland": (90, 95),
    "forest": (41, 42, 43),
    "developed": (21, 22, 23, 24),
    "cropland": (82,),
    "pasture": (81,),
}
"""The paper's eight classes and their NLCD codes, in the released code's order; water, ice and others have no class."""
