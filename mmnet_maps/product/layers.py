"""The layers of the product: packing, composition and CF attributes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.product.quality import FLAG_MASKS, Float, Mask, combine

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of the product, written as integers.

    Attributes
    ----------
    name, long_name, units
        Part of the file name, a title, UDUNITS units.
    scale, nodata
        ``physical = stored * scale``; the stored value that means missing (None: every value is valid).
    overview
        Resampling of overviews: ``average`` for continuous layers, ``nearest`` for flags.
    standard_name
        CF standard name, None where CF has none.
    dtype
        Type of the stored values.
    """

    name: str
    long_name: str
    units: str
    scale: float
    nodata: int | None
    overview: Literal["average", "nearest"]
    standard_name: str | None = None
    dtype: Literal["uint16", "int16"] = "uint16"

    @property
    def fill(self) -> int:
        """Value of pixels that no map covers: nodata, or the flag for outside the area of interest."""
        return FLAG_MASKS["outside_area"] if self.nodata is None else self.nodata

    def pack(self, values: NDArray[Any]) -> NDArray[Any]:
        """Pack physical values of any shape to the stored type, NaN to nodata."""
        if self.nodata is None:
            return values.astype(self.dtype, copy=False)
        missing, limits = np.isnan(values), np.iinfo(self.dtype)
        low, high = limits.min + (self.nodata == limits.min), limits.max - (self.nodata == limits.max)
        steps = np.rint(np.where(missing, 0.0, values) / self.scale)
        return np.where(missing, self.nodata, np.clip(steps, low, high)).astype(self.dtype)

    def unpack(self, packed: NDArray[Any]) -> NDArray[Any]:
        """Unpack to physical values, float32 with NaN for nodata, as other software does; flags stay as they are."""
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
            name="soil_moisture_anomaly",
            long_name="surface soil moisture less its mean at this time of year in other years",
            units="m3 m-3",
            scale=0.0001,
            nodata=-32768,
            overview="average",
            dtype="int16",
        ),
        Layer(
            name="soil_moisture_standardised_anomaly",
            long_name="anomaly of surface soil moisture in standard deviations at this time of year in other years",
            units="1",
            scale=0.001,
            nodata=-32768,
            overview="average",
            dtype="int16",
        ),
        Layer(
            name="soil_moisture_percentile",
            long_name="percentile of surface soil moisture among the values at this time of year in other years",
            units="percent",
            scale=0.002,
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
"""The layers of a product by name; ``soil_moisture_std`` only with an ensemble, `DROUGHT` only with a climatology."""

DRAWN = ("soil_moisture", "smap")
"""Layers that a picture shows."""

DROUGHT = ("soil_moisture_anomaly", "soil_moisture_standardised_anomaly", "soil_moisture_percentile")
"""Layers that compare a map with those of other years, see `drought`."""

_PARTICLE_DENSITY = 2.65  # g/cm³, quartz


def porosity(bulk_density: Float) -> Float:
    """Return the pore space as a share of the soil's volume, 1 - bulk density / 2.65 g/cm³ (density of quartz).

    Examples
    --------
    >>> porosity(np.array([1.325], np.float32)).tolist()
    [0.5]
    """
    return (1.0 - bulk_density / np.float32(_PARTICLE_DENSITY)).astype(np.float32)


def compose(
    estimate: Float,
    smap: Float,
    *,
    inside: Mask,
    unknown: Mask,
    bulk_density: Float | None,
    flags: NDArray[np.uint16],
    std: Float | None = None,
) -> dict[str, NDArray[Any]]:
    """Compose the layers of one tile from the network's output and its inputs; arrays (y, x).

    Parameters
    ----------
    estimate, smap
        Soil moisture in m³/m³, NaN where an input is missing or the pixel was not computed.
    inside
        Pixels of the area of interest.
    unknown
        Pixels with a land cover unknown to the model.
    bulk_density
        g/cm³, NaN where missing; None where the model uses none.
    flags
        Quality bits of the inputs, from `quality.QualityFlags.bits`.
    std
        Standard deviation over the members of an ensemble, m³/m³; None for none.

    Returns
    -------
    dict
        ``soil_moisture`` float32 clipped to [0, porosity], or [0, 1] without bulk density; ``soil_moisture_std``
        float32, if given; ``quality`` uint16, see `quality.QUALITY_BITS`; ``smap`` float32. NaN where a flag of
        `quality.NO_VALUE` is set (SMAP: outside the area of interest).
    """
    top = np.ones_like(estimate) if bulk_density is None else np.nan_to_num(porosity(bulk_density), nan=1.0)
    mapped = inside & ~unknown
    layers: dict[str, NDArray[Any]] = {
        "soil_moisture": np.where(mapped, np.clip(estimate, 0.0, top), np.float32(np.nan))
    }
    if std is not None:
        layers["soil_moisture_std"] = np.where(mapped, std, np.float32(np.nan))
    layers["quality"] = combine(flags, estimate, top, inside=inside, unknown=unknown)
    layers["smap"] = np.where(inside, smap, np.float32(np.nan))
    return layers


def attributes(product: xr.Dataset, about: Mapping[str, Any]) -> xr.Dataset:
    """Add CF attributes and the product's own metadata to a dataset of the layers.

    Parameters
    ----------
    product
        Variables named as in `LAYERS`, dimensions (time, y, x), with a ``spatial_ref`` coordinate.
    about
        Global attributes; tables become JSON text.

    Returns
    -------
    xarray.Dataset
        The same dataset.
    """
    from pyproj import CRS

    for name in LAYERS:
        if name in product:
            product[name].attrs = array_attributes(name)
            if LAYERS[name].nodata is not None:
                product[name].encoding["_FillValue"] = np.float32(np.nan)  # the nodata tag of `.rio.to_raster`
    product["time"].attrs |= {"standard_name": "time", "axis": "T"}
    product["spatial_ref"].attrs["long_name"] = "coordinate reference system"
    for axis in CRS(product["spatial_ref"].attrs["crs_wkt"]).cs_to_cf():
        coordinate = product[axis["axis"].lower()]
        coordinate.attrs |= axis
        coordinate.encoding["_FillValue"] = None  # otherwise xarray writes one, which CF forbids for coordinates
    product.attrs = global_attributes(about)
    return product


def array_attributes(name: str) -> dict[str, Any]:
    """Return the CF attributes of a layer's array in physical units, beside ``spatial_ref`` and ``quality``.

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
        found["flag_masks"] = np.array(list(FLAG_MASKS.values()), np.uint16)  # CF: of the array's own type
        found["flag_meanings"] = " ".join(FLAG_MASKS)
    return found


def global_attributes(about: Mapping[str, Any]) -> dict[str, str | int]:
    """Return the global attributes of a product: those of CF, then its own metadata; tables become JSON text.

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
