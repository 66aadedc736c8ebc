"""Expressions that Earth Engine evaluates: masks, speckle filter, area means and packing, as in the training data.

Pure functions: each takes the module ``ee`` and builds an expression; none of them sends anything. A selection's bands
carry the names of its variables from the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from functools import lru_cache, partial
from math import ceil, log2
from typing import Any

from odc.geo.geobox import GeoBox
from pyproj import Transformer

from mmnet_maps.grid.tiles import conus_grid
from mmnet_maps.sources.earthengine.config import Selection
from mmnet_maps.sources.terrain import METRES_PER_DEGREE
from mmnet_maps.variables import STATIC_GROUPS, Variable

_DEFAULT_PIXELS, _MOST_PIXELS = 64, 65_535
"""Native pixels that Earth Engine combines in one pixel of the target grid: by default, and the most that it allows."""


def first_image(ee: Any, selection: Selection) -> Any:
    """Build the first image of a collection, with the band of the first variable, whose grid is that of all."""
    return ee.ImageCollection(selection.product.collection).first().select([selection.bands[0]])


def images_of_year(ee: Any, selection: Selection, geobox: GeoBox, year: int) -> Any:
    """Build lists of a collection's images over a window in a year: their times in milliseconds and their properties.

    The properties are those of `Product.final` and the version, which changes when an image is replaced. A list is
    shorter than that of the times where some images do not have the property.
    """
    images = _images(ee, selection, geobox, date(year, 1, 1), date(year, 12, 31))
    names = ("system:time_start", "system:version", *selection.product.final)
    return ee.List([images.aggregate_array(name) for name in names])


def packed_image(ee: Any, selection: Selection, geobox: GeoBox, days: Sequence[date]) -> Any:
    """Build an image with the bands of `Selection.band_types`, packed as in the stack, nodata where missing."""
    images, each = [], _each_scene(ee, selection, geobox)
    for day in days:
        bands = list(selection.band_types([day]))
        images.append(_packed(ee, _physical(ee, selection, geobox, day, each), selection.variables).rename(bands))
    return _side_by_side(images)


def _each_scene(ee: Any, selection: Selection, geobox: GeoBox) -> Any:
    """Build the function that masks and reduces a scene, for all days: `map` builds its function twice at each call."""
    if selection.group in STATIC_GROUPS:
        return None

    def physical(image: Any) -> Any:
        """Build the physical values of a scene."""
        return _reduced(ee, selection, geobox, _masked(ee, selection, ee.Image(image)))

    return ee.CustomFunction.create(physical, "Object", ["Object"])


def _side_by_side(images: Sequence[Any]) -> Any:
    """Put the bands of images in one image, as a balanced tree: the client recurses for each level of an expression."""
    while len(images) > 1:
        pairs = [images[k : k + 2] for k in range(0, len(images), 2)]
        images = [pair[0].addBands(pair[1]) if len(pair) > 1 else pair[0] for pair in pairs]
    return images[0]


def _physical(ee: Any, selection: Selection, geobox: GeoBox, day: date, each: Any) -> Any:
    """Build the physical values of a day at the target's pixels (coarse products: at their own)."""
    product, mask = selection.product, partial(_masked, ee, selection)
    reduce = partial(_reduced, ee, selection, geobox)
    if product.collection is None:
        return reduce(mask(ee.Image(product.release(day))))
    if product.yearly:
        return reduce(mask(_nearest_year(ee, product.collection, day)))
    if selection.group in STATIC_GROUPS:
        # Adjacent tiles on one lattice are joined first: a target pixel across a seam overlaps both.
        tiles = _images(ee, selection, geobox, None, day)
        joined = _over_blank(ee, selection, tiles.map(mask)).mosaic()
        # Tiles elsewhere, as in Alaska, have other lattices than those of CONUS, which share one.
        here = ee.ImageCollection(product.collection).filterBounds(_rectangle(ee, conus_grid()))
        lattice = here.first().select([selection.bands[0]]).projection()
        return reduce(joined.setDefaultProjection(lattice))
    # Scenes have different lattices, which a mosaic does not keep: each is reduced by itself.
    scenes = _images(ee, selection, geobox, day, day)
    layers = _over_blank(ee, selection, ee.ImageCollection(ee.call("Collection.map", scenes, each)))
    if product.fields == 1:
        return layers.mosaic()
    return layers.mean().updateMask(layers.count().gte(product.fields))


def _images(ee: Any, selection: Selection, geobox: GeoBox, start: date | None, end: date) -> Any:
    """Build a product's images over a window, from `start` (None: all) to `end`, both included."""
    product = selection.product
    found = ee.ImageCollection(product.collection)
    if start is not None:
        found = found.filterDate(start.isoformat(), (end + timedelta(days=1)).isoformat())
    if selection.fine:
        found = found.filterBounds(_rectangle(ee, geobox))
    for name, value in product.where.items():
        found = found.filter(ee.Filter.eq(name, value))
    for name, values in product.holds.items():
        for value in values:
            found = found.filter(ee.Filter.listContains(name, value))
    return found.sort("system:time_start")  # a mosaic shows the last on top


def _nearest_year(ee: Any, collection: str, day: date) -> Any:
    """Build the image of the year of a day, or of the nearest year.

    Images of a year begin in January or July; the first of April is nearest to both.
    """
    middle = ee.Date(date(day.year, 4, 1).isoformat()).millis()
    by_distance = ee.ImageCollection(collection).map(
        lambda image: image.set("distance", ee.Number(image.get("system:time_start")).subtract(middle).abs())
    )
    return ee.Image(by_distance.sort("distance").first())


def _rectangle(ee: Any, geobox: GeoBox) -> Any:
    """Build the rectangle in degrees around a grid."""
    return ee.Geometry.Rectangle(list(_degrees(geobox)), "EPSG:4326", False)


@lru_cache(maxsize=64)
def _degrees(geobox: GeoBox) -> tuple[float, ...]:
    """Return west, south, east and north of a grid in degrees; PROJ takes some milliseconds for it."""
    to_degrees = Transformer.from_crs(geobox.crs, "EPSG:4326", always_xy=True)
    return tuple(to_degrees.transform_bounds(*geobox.boundingbox.bbox))


def _over_blank(ee: Any, selection: Selection, images: Any) -> Any:
    """Put an empty image below a collection's images, so that a day without any gives an empty answer, not an error."""
    return ee.ImageCollection([_blank(ee, tuple(selection.names))]).merge(images)


@lru_cache(maxsize=64)
def _blank(ee: Any, names: tuple[str, ...]) -> Any:
    """Build an image without values, the same object for all days."""
    return ee.Image.constant([0.0] * len(names)).toFloat().rename(list(names)).updateMask(0)


def _masked(ee: Any, selection: Selection, image: Any) -> Any:
    """Mask, scale and smooth a product's variables in its own pixels."""
    product = selection.product
    bands = image.select(selection.bands, selection.names)
    for band, bits in product.clear.items():
        bands = bands.updateMask(image.select(band).toInt().bitwiseAnd(sum(1 << bit for bit in bits)).eq(0))
    if product.scale != 1:
        bands = bands.multiply(product.scale)
    if product.offset:
        bands = bands.add(product.offset)
    if product.keep:
        kept = [product.keep.get(each.name, (each.valid_min, each.valid_max)) for each in selection.variables]
        bands = _within(ee, bands, kept)
    if product.smooth:
        bands = _smoothed(bands, ee.Kernel.gaussian(product.smooth.radius, product.smooth.sigma, "pixels"))
    return bands.toFloat()  # images of one collection must have one type


def _reduced(ee: Any, selection: Selection, geobox: GeoBox, bands: Any) -> Any:
    """Reduce fine products to the target's pixels: mean or mode, or the pixel below each centre."""
    if not selection.fine:
        return bands
    if selection.resampling == "nearest":  # of the product's own pixels, not of a pyramid's
        return bands.reproject(bands.select([0]).projection())
    mode = selection.variables[0].aggregation == "mode"
    reducer = ee.Reducer.mode() if mode else ee.Reducer.mean()
    reduced = bands.reduceResolution(reducer, False, native_pixels(selection.product.resolution, geobox)).toFloat()
    # The mask is now the part of a pixel that valid ones cover, by which a mosaic would blend it with what lies below.
    reduced = reduced.mask(reduced.mask().gt(0))
    return reduced.round() if mode else reduced


def native_pixels(resolution: float, geobox: GeoBox) -> int:
    """Return how many native pixels of a size in metres Earth Engine may combine in one pixel of a grid.

    Enough for pixels that are rotated against each other and overlap the edges, rounded up to a power of two. Requests
    with a limit far above the need run out of memory, by Earth Engine's documentation.

    Examples
    --------
    >>> from affine import Affine
    >>> grid = GeoBox((1, 1), Affine(100, 0, 0, 0, -100, 0), "EPSG:5070")
    >>> native_pixels(30, grid), native_pixels(10, grid), native_pixels(0.1, grid)
    (64, 512, 65535)
    """
    across = 1.5 * metres(geobox) / resolution + 2
    needed: int = 2 ** ceil(log2(across**2))
    return min(max(needed, _DEFAULT_PIXELS), _MOST_PIXELS)


def metres(geobox: GeoBox) -> float:
    """Return the size of a grid's pixels in metres."""
    size = float(max(abs(geobox.resolution.x), abs(geobox.resolution.y)))
    return size * METRES_PER_DEGREE if geobox.crs is not None and geobox.crs.geographic else size


def _smoothed(bands: Any, kernel: Any) -> Any:
    """Convolve the valid pixels with a kernel; masked pixels stay masked and have no weight."""
    valid = bands.mask()
    return bands.unmask(0).convolve(kernel).divide(valid.convolve(kernel)).updateMask(valid)


def _within(ee: Any, bands: Any, ranges: Sequence[tuple[float, float]]) -> Any:
    """Mask, band by band, the values outside a range."""
    low, high = (_constant(ee, tuple(float(ends[k]) for ends in ranges)) for k in (0, 1))
    return bands.updateMask(bands.gte(low).And(bands.lte(high)))


@lru_cache(maxsize=64)
def _constant(ee: Any, values: tuple[float, ...]) -> Any:
    """Build an image of constants, the same object for all days."""
    return ee.Image.constant(list(values))


def _packed(ee: Any, image: Any, variables: Sequence[Variable]) -> Any:
    """Pack physical values as the integers of the stack.

    Earth Engine sends masked pixels as 0, so they are set to the stack's nodata here, outside an image's footprint too.
    """
    image = _within(ee, image, [(variable.valid_min, variable.valid_max) for variable in variables])
    if variables[0].dtype == "uint8":
        return image.unmask(variables[0].nodata, False).toUint8()
    steps = image.subtract(_constant(ee, tuple(float(variable.offset) for variable in variables)))
    steps = steps.divide(_constant(ee, tuple(float(variable.scale) for variable in variables))).round()
    return steps.unmask(variables[0].nodata, False).toInt16()
