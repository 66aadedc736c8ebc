"""What only a run on Earth Engine can settle: each check returns one line; tests run them on the loopback too."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import ee
import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.lattice import cover, lonlat
from mmnet_maps.grid.tiles import target_grid
from mmnet_maps.sources.earthengine.source import EarthEngineSource
from mmnet_maps.variables import FINE_GROUPS

DAY = date(2021, 7, 12)
PLACE = target_grid(read_aoi("-119.68,47.05,-119.60,47.09"))
SQUARE = GeoBox((512, 512), PLACE.affine, PLACE.crs)
HLS, S1, DEM = "NASA/HLS/HLSL30/v002", "COPERNICUS/S1_GRD", "USGS/3DEP/10m_collection"

Check = Callable[[EarthEngineSource], str]


def raw(image: Any, geobox: GeoBox, crs: str) -> NDArray[Any]:
    """Return the pixels of an image with one band on a grid."""
    a = geobox.affine
    transform = {"scaleX": a.a, "scaleY": a.e, "translateX": a.c, "translateY": a.f}
    size = {"width": geobox.shape.x, "height": geobox.shape.y}
    grid = {"crsCode": crs, "affineTransform": transform, "dimensions": size}
    pixels = ee.data.computePixels({"expression": image, "fileFormat": "NUMPY_NDARRAY", "grid": grid})
    (name,) = pixels.dtype.names
    return np.asarray(pixels[name], float)


def native(scene: Any, size: int) -> tuple[GeoBox, str]:
    """Return a window of a scene's own grid in the place, whose corner lies on multiples of 300 m, and its CRS."""
    band = scene.projection().getInfo()
    a, _, _, _, e, _ = band["transform"]
    code, (longitude, latitude) = band["crs"], (values.mean() for values in lonlat(PLACE))
    x, y = Transformer.from_crs("EPSG:4326", code, always_xy=True).transform(longitude, latitude)
    return GeoBox((size, size), Affine(a, 0, x // 300 * 300, 0, e, y // 300 * 300), code), code


def scene_of(collection: str, day: date, days: int, band: str) -> Any:
    """Return a band of the first scene over the middle of the place from a day on."""
    longitude, latitude = (float(values.mean()) for values in lonlat(PLACE))
    found = ee.ImageCollection(collection).filterDate(day.isoformat(), (day + timedelta(days)).isoformat())
    found = found.filterBounds(ee.Geometry.Point([longitude, latitude]))
    if collection == S1:
        found = found.filter(ee.Filter.listContains("transmitterReceiverPolarisation", "VH"))
    return ee.Image(found.first()).select([band])


def sinusoidal(source: EarthEngineSource) -> str:
    """SR-ORG:6974 as crsCode of computePixels."""
    lattice = source.lattice("lst")
    values = source.read("lst", lattice[cover(PLACE, lattice, pad=20)], [DAY])["lst"]
    return f"{np.isfinite(values).mean():.0%} of the cells have a temperature, {describe(values)} K"


def smap_grid(source: EarthEngineSource) -> str:
    """The grid of SMAP in the catalogue."""
    lattice = source.lattice("smap")
    return f"{lattice.crs}, {lattice.resolution.x:.6g}, from {lattice.affine.c:.6g}, {lattice.affine.f:.6g}"


def fill_of_reflectance(source: EarthEngineSource) -> str:
    """Whether the fill value of HLS is masked."""
    return outside(scene_of(HLS, DAY - timedelta(16), 32, "B4"), 30)


def fill_of_elevation(source: EarthEngineSource) -> str:
    """Whether the fill value of 3DEP is masked, at the Pacific coast."""
    coast = target_grid(read_aoi("-124.9,46.9,-124.5,47.3"))
    values = raw(ee.ImageCollection(DEM).select(["elevation"]).mosaic().unmask(-5555, False), coast, "EPSG:5070")
    return f"{(values == -5555).mean():.0%} masked, lowest other value {values[values != -5555].min(initial=0):g}"


def outside(scene: Any, size: int) -> str:
    """Describe what a scene holds outside its footprint: its corners."""
    box, code = native(scene, 64)
    wide = GeoBox((64, 64), box.affine * Affine.translation(-3200, -3200) * Affine.scale(100), box.crs)
    values = raw(scene.unmask(-5, False), wide, code)
    return f"{(values == -5).mean():.0%} masked, lowest other value {values[values != -5].min(initial=0):g}"


def blending(source: EarthEngineSource) -> str:
    """What a mosaic makes of an image that covers its pixels in part."""
    half = ee.ImageCollection([ee.Image.constant(0.0), ee.Image.constant(1.0).mask(ee.Image.constant(0.5))]).mosaic()
    value = raw(half, PLACE[:1, :1], "EPSG:5070").item()
    return f"1 with mask 0.5 over 0 is {value:g} ({'not blended' if value in (0, 1) else 'blended, as we assume'})"


def part_masks(source: EarthEngineSource) -> str:
    """Which masks reduceResolution leaves."""
    scene = scene_of(HLS, DAY - timedelta(16), 32, "B4")
    holed = scene.updateMask(scene.multiply(1000).toInt().mod(2).eq(0))
    values = raw(holed.reduceResolution(ee.Reducer.mean(), False, 64).mask(), PLACE, "EPSG:5070")
    return f"masks of a mean over holes are {describe(values)}, {len(np.unique(values))} different ones"


def convolution(source: EarthEngineSource) -> str:
    """Whether the filter runs on native pixels before the mean."""
    smooth = scene_of(S1, DAY - timedelta(16), 32, "VV").convolve(ee.Kernel.gaussian(3, 1, "pixels"))
    box, code = native(smooth, 60)
    fine = raw(smooth, box, code)
    coarse = GeoBox((6, 6), box.affine * Affine.scale(10), box.crs)
    mean = raw(smooth.reduceResolution(ee.Reducer.mean(), False, 512), coarse, code)
    blocks = fine.reshape(6, 10, 6, 10).mean(axis=(1, 3))
    return f"the mean of filtered native pixels differs by {np.abs(blocks - mean).max():.2g} dB at most from ours"


def long_series(source: EarthEngineSource) -> str:
    """How many days of one product fit in one request."""
    lattice = source.lattice("lst")
    box = lattice[cover(PLACE, lattice, pad=20)]
    days = [date(2021, 5, 1) + timedelta(k) for k in range(150)]
    before = source.traffic.requests
    found = source.read("lst", box, days)["lst"]
    return f"150 days took {source.traffic.requests - before} request(s), {np.isfinite(found).mean():.0%} of the values"


def other_crs(source: EarthEngineSource) -> str:
    """Whether a grid is accepted whose CRS is given as WKT 1."""
    laea = "+proj=laea +lat_0=47.07 +lon_0=-119.64 +datum=WGS84 +units=m"
    values = source.read("terrain", GeoBox.from_bbox((-500, -500, 500, 500), laea, resolution=100), [DAY])["elevation"]
    return f"accepted, elevation {describe(values)} m"


def price_of_reflectance(source: EarthEngineSource) -> str:
    """EECU-seconds of a request for HLS of 512 × 512 pixels."""
    return price(source, "optical", source.days("optical", SQUARE, DAY - timedelta(16), DAY)[-1:])


def price_of_backscatter(source: EarthEngineSource) -> str:
    """EECU-seconds of a request for Sentinel-1 of 512 × 512 pixels."""
    return price(source, "sar", source.days("sar", SQUARE, DAY - timedelta(16), DAY)[-1:])


def price(source: EarthEngineSource, group: str, days: list[date]) -> str:
    """Compare the price of a request with the estimate of the dry run."""
    guess = source.cost(group, SQUARE, days).eecu_hours * 3600
    profile = io.StringIO()
    with ee.profilePrinting(profile):
        source.read(group, SQUARE, days)
    spent = sum(float(found) for found in re.findall(r"^\s*(\d+\.\d+)", profile.getvalue(), re.MULTILINE))
    return f"{spent:.3g} EECU-seconds, guessed {guess:.3g}"


def describe(values: NDArray[Any]) -> str:
    """Return lowest and highest value."""
    known = values[np.isfinite(values)]
    return f"{known.min():.4g} to {known.max():.4g}" if known.size else "none"


CHECKS: dict[str, Check] = {
    "SR-ORG:6974 in computePixels": sinusoidal,
    "grid of SMAP": smap_grid,
    "fill of HLS": fill_of_reflectance,
    "fill of 3DEP": fill_of_elevation,
    "mosaic over part masks": blending,
    "masks of reduceResolution": part_masks,
    "convolve before reduce": convolution,
    "a long series": long_series,
    "a CRS as WKT 1": other_crs,
    "price of HLS": price_of_reflectance,
    "price of Sentinel-1": price_of_backscatter,
}


def other_product(source: EarthEngineSource, group: str, name: str) -> str:
    """Describe the values of a variable, as read from a product of choice."""
    box = SQUARE[:64, :64]
    if group not in FINE_GROUPS:
        lattice = source.lattice(group)
        box = lattice[cover(PLACE, lattice, pad=20)]
    values = source.read(group, box, [DAY])[name].astype(float)
    known = np.isfinite(values) & (values != 0)
    return f"{source.variables()[name].product}: {describe(values)}, {known.mean():.0%} known"
