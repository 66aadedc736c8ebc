"""The product: its layers, quality bits and attributes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.variables import LANDCOVER_CLASSES

if TYPE_CHECKING:
    import xarray as xr

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of the product, as it is written: uint16.

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

    @property
    def fill(self) -> int:
        """What pixels hold that no map covers: nodata, or the flag for outside the area."""
        return 1 << QUALITY_BITS["outside_area"] if self.nodata is None else self.nodata

    def pack(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Pack physical values of any shape to uint16, NaN to nodata."""
        if self.nodata is None:
            return values.astype(np.uint16, copy=False)
        missing = np.isnan(values)
        steps = np.rint(np.where(missing, 0.0, values) / self.scale)
        return np.where(missing, self.nodata, np.clip(steps, 0, self.nodata - 1)).astype(np.uint16)

    def unpack(self, packed: NDArray[np.uint16]) -> NDArray[Any]:
        """Physical values, float32 with NaN for nodata, as whoever opens the file has them; flags as they are."""
        if self.nodata is None:
            return packed
        values = packed * np.float32(self.scale)
        values[packed == self.nodata] = np.nan
        return values


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
            name="soil_moisture_std",
            long_name="standard deviation of surface soil moisture over ensemble members",
            units="m3 m-3",
            scale=0.0001,
            nodata=65535,
            overview="average",
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
"""The layers of a product by name; ``soil_moisture_std`` is there where an ensemble was asked for."""

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

_PARTICLE_DENSITY = 2.65
_OLD_DAYS = {"optical": 16, "sar": 12}
_BACKSCATTER = {"vv": (-20.0, -5.0), "vh": (-30.0, -10.0)}  # dB, what the training data kept (released code)
_LST_SHARE = 0.5
_FREEZING = 273.15


def porosity(bulk_density: Float) -> Float:
    """Pore space as a share of the soil's volume, 1 - bulk density / 2.65 g/cm³ (density of quartz).

    Examples
    --------
    >>> porosity(np.array([1.325], np.float32)).tolist()
    [0.5]
    """
    return (1.0 - bulk_density / np.float32(_PARTICLE_DENSITY)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class QualityFlags:
    """What is known of some inputs beyond their values; arrays of one shape, None or absent where nothing is.

    Attributes
    ----------
    ages
        Days to the nearest observation, for ``optical`` and ``sar``; a large number where there is none.
    backscatter
        ``vv`` and ``vh`` in dB, where the model uses them.
    lst_filled
        Share of the series' days without an observed surface temperature.
    surface_temperature
        K on the map's day.
    borrowed
        Where a coarse input comes from a neighbouring cell.
    outside_training
        Where an input lies outside what the model was trained on.
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
        """The quality bits that follow from it, of the shape of the arrays."""
        found: list[tuple[str, Mask | None]] = [
            *((f"{kind}_old", age > _OLD_DAYS[kind]) for kind, age in self.ages.items()),
            *(("sar_old", (values < low) | (values > high)) for values, low, high in self._backscatter()),
            ("lst_filled", None if self.lst_filled is None else self.lst_filled > _LST_SHARE),
            ("frozen", None if self.surface_temperature is None else self.surface_temperature < _FREEZING),
            ("coarse_borrowed", self.gap_filled),
            ("outside_training", self.outside_training),
        ]
        quality = np.full(shape, self.synthetic << QUALITY_BITS["synthetic"], np.uint16)
        for name, flag in found:
            if flag is not None:
                quality |= _bit(name, flag)
        return quality

    def _backscatter(self) -> Iterator[tuple[Float, float, float]]:
        for name, values in self.backscatter.items():
            yield values, *_BACKSCATTER[name]


def _bit(name: str, flag: Mask) -> NDArray[np.uint16]:
    return flag * np.uint16(1 << QUALITY_BITS[name])


def unknown_cover(landcover: NDArray[np.uint8], known_classes: Sequence[str]) -> Mask:
    """Where the land cover is one that a model does not know; a missing one, 0, is not.

    Parameters
    ----------
    landcover
        NLCD codes, 0 where missing.
    known_classes
        The land cover classes of the model; without any, only water and ice (11, 12) are unknown to it.
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


def compose(
    estimate: Float,
    smap: Float,
    *,
    inside: Mask,
    unknown: Mask,
    bulk_density: Float | None,
    evidence: NDArray[np.uint16],
    std: Float | None = None,
) -> dict[str, NDArray[Any]]:
    """The layers of one tile from the network's output and what is known of its inputs; arrays (y, x).

    Parameters
    ----------
    estimate, smap
        Soil moisture in m³/m³, NaN where an input is missing or the pixel was not computed.
    inside
        Pixels of the area.
    unknown
        Pixels with a land cover that the model does not know.
    bulk_density
        g/cm³, NaN where missing; None where the model uses none.
    evidence
        Quality bits that qualify the values.
    std
        Standard deviation over the members of an ensemble, m³/m³; None for none.

    Returns
    -------
    dict
        ``soil_moisture`` float32 clipped to [0, porosity], or [0, 1] without bulk density; ``soil_moisture_std``
        float32, where there is one; ``quality`` uint16, see `QUALITY_BITS`; ``smap`` float32. NaN where bit 0, 1 or 2
        is set (SMAP: bit 0).
    """
    top = np.ones_like(estimate) if bulk_density is None else np.nan_to_num(porosity(bulk_density), nan=1.0)
    flags = {
        "unknown_land_cover": unknown,
        "input_missing": np.isnan(estimate) & ~unknown,
        "clipped": (estimate < 0) | (estimate > top),
    }
    quality = evidence.copy()
    for name, flag in flags.items():
        quality |= _bit(name, flag)
    quality[~inside] = 1 << QUALITY_BITS["outside_area"]
    mapped = inside & ~unknown
    layers = {"soil_moisture": np.where(mapped, np.clip(estimate, 0.0, top), np.float32(np.nan))}
    if std is not None:
        layers["soil_moisture_std"] = np.where(mapped, std, np.float32(np.nan))
    return layers | {"quality": quality, "smap": np.where(inside, smap, np.float32(np.nan))}


def attributes(product: xr.Dataset, about: Mapping[str, Any]) -> xr.Dataset:
    """Give a dataset of the layers its CF attributes, and what the product says of itself.

    Parameters
    ----------
    product
        Variables named as in `LAYERS`, dimensions (time, y, x), with a ``spatial_ref`` coordinate.
    about
        Global attributes; tables become JSON text.

    Returns
    -------
    xarray.Dataset
        The same arrays.
    """
    from pyproj import CRS

    for name in LAYERS:
        if name in product:
            product[name].attrs = array_attributes(name)
    product["time"].attrs |= {"standard_name": "time", "axis": "T"}
    product["spatial_ref"].attrs["long_name"] = "coordinate reference system"
    for axis in CRS(product["spatial_ref"].attrs["crs_wkt"]).cs_to_cf():
        coordinate = product[axis["axis"].lower()]
        coordinate.attrs |= axis
        coordinate.encoding["_FillValue"] = None  # else xarray writes one, which CF forbids for coordinates
    product.attrs = global_attributes(about)
    return product


def array_attributes(name: str) -> dict[str, Any]:
    """CF attributes of a layer's array, in physical units, with ``spatial_ref`` and ``quality`` beside it.

    Examples
    --------
    >>> array_attributes("smap")["units"]
    'm3 m-3'
    """
    layer = LAYERS[name]
    found: dict[str, Any] = {"long_name": layer.long_name, "units": layer.units, "grid_mapping": "spatial_ref"}
    if layer.standard_name:
        found["standard_name"] = layer.standard_name
    if layer.nodata is not None:
        found["ancillary_variables"] = "quality"
    else:
        # CF asks for masks of the array's own type.
        found["flag_masks"] = np.array([1 << bit for bit in QUALITY_BITS.values()], np.uint16)
        found["flag_meanings"] = " ".join(QUALITY_BITS)
    return found


def global_attributes(about: Mapping[str, Any]) -> dict[str, str | int]:
    """Global attributes of a product: those that CF names, then all that it says of itself; tables become JSON text.

    Examples
    --------
    >>> global_attributes({"model": "net", "inputs": {"smap": "SPL3SMP_E", "ndvi": "HLS"}})["source"]
    'model net from SPL3SMP_E; HLS'
    """
    found: dict[str, str | int] = {"Conventions": "CF-1.11", "title": "Surface soil moisture at field scale"}
    if "model" in about:
        inputs = "; ".join(dict.fromkeys(about.get("inputs", {}).values()))
        found["source"] = f"model {about['model']}{' from ' if inputs else ''}{inputs}"
    if "software" in about:
        found["history"] = f"made by {about['software']}"
    if "reference" in about:
        found["references"] = about["reference"]
    if about.get("synthetic"):
        found["comment"] = "An input is synthetic: the values say nothing about any real place or day."
    for key, value in about.items():
        if isinstance(value, int):
            found[key] = int(value)
        else:
            found[key] = value if isinstance(value, str) else json.dumps(value)
    return found
