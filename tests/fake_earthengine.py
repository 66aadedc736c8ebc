"""A loopback Earth Engine service for tests: the real client talks to it, procedural products answer.

A test needs only ``with FakeEarthEngine() as server, connected(server): ...``. The expression graph is
evaluated as on Earth Engine: lazily, band by band, on the requested grid; ``reduceResolution``, ``reproject``
and ``resample`` evaluate their input on its own grid. A function that is not known here answers HTTP 400 with its name.
As a program, ``python tests/fake_earthengine.py PORT_FILE`` serves the catalogue until it is ended.
"""

from __future__ import annotations

import builtins
import io
import json
import keyword
import math
import re
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import ee
import numpy as np
import pyproj.exceptions
import scipy.ndimage
import shapely
import shapely.geometry
from numpy.typing import NDArray

from earthengine_catalog import Dataset, Scene, catalog, parsed, transformer

Array = NDArray[Any]
Raster = tuple[Array, Array]
"""Values and mask: True or False, or a part of 1 where a pixel is covered in part, as below ``reduceResolution``."""

MAX_BYTES = 48 * 2**20
MAX_SIDE = 32_768
MAX_BANDS = 1024
MAX_COLLECTION = 5000
METRES_PER_DEGREE = 111_319.49079327358
TILE = 64
"""Side of what is computed at once: the native pixels below it fit in a processor's cache."""


class ServiceError(Exception):
    """An error that the service answers: HTTP code, gRPC status and message."""

    def __init__(self, message: str, code: int = 400, status: str = "INVALID_ARGUMENT", retry_after: str | None = None):
        super().__init__(message)
        self.code, self.status, self.retry_after = code, status, retry_after


# ---- grids ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Projection:
    """CRS code or WKT and ``(a, b, c, d, e, f)``; without shear."""

    crs: str = "EPSG:4326"
    transform: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def __post_init__(self) -> None:
        if self.transform[1] or self.transform[3]:
            raise ServiceError("fake: sheared transforms are not modelled")

    @property
    def scale(self) -> float:
        """Nominal pixel size in metres."""
        return abs(self.transform[0]) * (METRES_PER_DEGREE if crs_of(self.crs).is_geographic else 1.0)

    def at_scale(self, metres: float) -> Projection:
        """The same CRS with square pixels of this size, north up."""
        size = metres / METRES_PER_DEGREE if crs_of(self.crs).is_geographic else metres
        return Projection(self.crs, (size, 0.0, 0.0, 0.0, -size, 0.0))

    def grid(self, col: int, row: int, width: int, height: int) -> Grid:
        """A window of this projection's pixels."""
        a, b, c, d, e, f = self.transform
        return Grid(self.crs, (a, b, c + col * a, d, e, f + row * e), width, height)


@dataclass(frozen=True)
class Grid(Projection):
    """A requested pixel grid."""

    width: int = 0
    height: int = 0

    def window_in(self, whole: Grid) -> tuple[slice, slice] | None:
        """Rows and columns of another grid that are this one, None where it does not lie in that."""
        a, _, c, _, e, f = self.transform
        wide, _, left, _, high, top = whole.transform
        if (self.crs, a, e) != (whole.crs, wide, high):
            return None
        col, row = (c - left) / a, (f - top) / e
        first, start = round(col), round(row)
        if max(abs(col - first), abs(row - start)) > 1e-6 or min(first, start) < 0:
            return None
        if first + self.width > whole.width or start + self.height > whole.height:
            return None
        return slice(start, start + self.height), slice(first, first + self.width)

    def padded(self, pad: int) -> Grid:
        """The grid with ``pad`` more pixels on every side."""
        return self.grid(-pad, -pad, self.width + 2 * pad, self.height + 2 * pad)


UNPROJECTED = Projection()


def crs_of(code: str) -> pyproj.CRS:
    """The CRS of a code or WKT, or the service's refusal."""
    try:
        return parsed(code)
    except pyproj.exceptions.CRSError:
        raise ServiceError(f"The CRS of a map projection could not be parsed: {code[:80]}.") from None


@lru_cache(maxsize=256)
def same_crs(one: str, other: str) -> bool:
    """Whether two codes mean one CRS."""
    return one == other or crs_of(one) == crs_of(other)


def hat_weights(points: Array, nodes: Array) -> Array:
    """Matrix (point, node) of linear interpolation between increasing nodes."""
    k = np.clip(np.searchsorted(nodes, points, side="right") - 1, 0, len(nodes) - 2)
    share = (points - nodes[k]) / (nodes[k + 1] - nodes[k])
    weights = np.zeros((len(points), len(nodes)))
    weights[np.arange(len(points)), k] = 1 - share
    weights[np.arange(len(points)), k + 1] = share
    return weights


def project(grid: Grid, crs: str, cols: Array, rows: Array, step: int = 16) -> tuple[Array, Array]:
    """Coordinates in ``crs`` at every (row, col) of a grid, as row and column vectors where the CRS is the same.

    Large lattices are transformed every ``step`` pixels and interpolated: at 100 m pixels that is 0.05 m off at most.
    """
    a, _, c, _, e, f = grid.transform
    if same_crs(grid.crs, crs):
        return (c + a * cols)[None, :], (f + e * rows)[:, None]
    crs_of(crs)
    move = transformer(grid.crs, crs).transform
    if len(cols) * len(rows) <= 4096:
        return move(*np.meshgrid(c + a * cols, f + e * rows))
    u = np.linspace(cols[0], cols[-1], 2 + len(cols) // step)
    v = np.linspace(rows[0], rows[-1], 2 + len(rows) // step)
    across, down = hat_weights(cols, u), hat_weights(rows, v)
    x, y = move(*np.meshgrid(c + a * u, f + e * v))
    return down @ x @ across.T, down @ y @ across.T


def centres(grid: Grid, crs: str) -> tuple[Array, Array]:
    """Coordinates of the pixel centres in ``crs``."""
    return project(grid, crs, np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)


def pixel_positions(grid: Grid, projection: Projection) -> tuple[Array, Array]:
    """Fractional column and row, in ``projection``, of the grid's pixel centres."""
    x, y = centres(grid, projection.crs)
    a, _, c, _, e, f = projection.transform
    return (x - c) / a, (y - f) / e


# ---- bands, images, collections ---------------------------------------------------------------------------------


def meet(one: Array, other: Array) -> Array:
    """The mask where two masks are valid: the smaller part."""
    return one & other if one.dtype == other.dtype == np.bool_ else np.minimum(one, other)


Pull = Callable[[Grid], Raster]
Inside = Callable[[Grid], Any]


def everywhere(grid: Grid) -> bool:
    """The footprint of what has no edge."""
    return True


@dataclass(frozen=True, eq=False)
class Band:
    """A lazy raster: read on any grid; the last reading is kept for one request and serves windows of it too."""

    name: str
    dtype: np.dtype[Any]
    pull: Pull
    projection: Projection = UNPROJECTED
    size: tuple[int, int] | None = None
    inside: Inside = everywhere
    _last: list[tuple[Grid, Raster]] = field(default_factory=list, repr=False)

    def read(self, grid: Grid) -> Raster:
        """Values and mask (True is valid), both (height, width)."""
        window = grid.window_in(self._last[0][0]) if self._last else None
        if window is None:
            self._last[:] = [(grid, self.pull(grid))]
            return self._last[0][1]
        values, mask = self._last[0][1]
        return values[window], mask[window]

    def derived(self, pull: Pull, **changes: Any) -> Band:
        """A band computed from this one, with its projection and footprint unless changed."""
        return replace(self, pull=pull, _last=[], **changes)

    def renamed(self, name: str) -> Band:
        """The same band, and the same memory, by another name."""
        return replace(self, name=name)

    def info(self) -> dict[str, Any]:
        """As getInfo describes it."""
        kind: dict[str, Any] = {"type": "PixelType"}
        if self.dtype.kind == "f":
            kind["precision"] = "float" if self.dtype.itemsize == 4 else "double"
        else:
            limits = np.iinfo(self.dtype)
            kind |= {"precision": "int", "min": int(limits.min), "max": int(limits.max)}
        size = {"dimensions": list(self.size)} if self.size else {}
        projection = self.projection
        return {
            "id": self.name,
            "data_type": kind,
            "crs": projection.crs,
            "crs_transform": [*projection.transform],
        } | size


@dataclass(frozen=True, eq=False)
class Image:
    """Bands and properties; ``bounds`` is the lon-lat box of its footprint, None where it has no edge."""

    bands: tuple[Band, ...]
    properties: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    bounds: tuple[float, float, float, float] | None = None

    @property
    def names(self) -> list[str]:
        """Band names."""
        return [band.name for band in self.bands]

    def choose(self, selectors: Any) -> list[Band]:
        """Bands by name, regular expression or index."""
        chosen: list[Band] = []
        for selector in selectors if isinstance(selectors, list) else [selectors]:
            if isinstance(selector, str):
                hits = [band for band in self.bands if re.fullmatch(selector, band.name)]
                if not hits:
                    text = f"Image.select: Band pattern '{selector}' did not match any bands."
                    raise ServiceError(f"{text} Available bands: [{', '.join(self.names)}]")
                chosen += hits
            elif -len(self.bands) <= int(selector) < len(self.bands):
                chosen.append(self.bands[int(selector)])
            else:
                raise ServiceError(f"Image.select: Band index {selector} out of bounds.")
        return chosen

    def mapped(self, change: Callable[[Band], Band], keep: bool = True) -> Image:
        """The image with every band changed; arithmetic drops id and properties as the service does."""
        bands = tuple(change(band) for band in self.bands)
        return Image(bands, self.properties if keep else {}, self.id if keep else None, self.bounds)

    def info(self) -> dict[str, Any]:
        """As getInfo describes it."""
        described: dict[str, Any] = {"type": "Image", "bands": [band.info() for band in self.bands]}
        if self.id:
            described |= {"id": self.id, "version": 1}
        return described | ({"properties": dict(self.properties)} if self.properties else {})


@dataclass(frozen=True, eq=False)
class Collection:
    """Images in order."""

    images: tuple[Image, ...]
    id: str | None = None

    def info(self) -> dict[str, Any]:
        """As getInfo describes it."""
        if len(self.images) > MAX_COLLECTION:
            raise ServiceError(f"Collection query aborted after accumulating over {MAX_COLLECTION} elements.")
        described = {"type": "ImageCollection", "bands": [], "features": [image.info() for image in self.images]}
        return described | ({"id": self.id} if self.id else {})


@dataclass(frozen=True)
class Date:
    """Milliseconds since 1970."""

    millis: int


@dataclass(frozen=True)
class DateRange:
    """Half-open interval of milliseconds."""

    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Geometry:
    """A shape in degrees of longitude and latitude, with straight edges there."""

    shape: Any


@dataclass(frozen=True)
class Reducer:
    """Name of a reducer."""

    name: str


@dataclass(frozen=True, eq=False)
class Kernel:
    """Weights (row, col) as a function of the pixel size in metres, because radii may be in metres."""

    weights: Callable[[float], Array]


def scene_image(dataset: Dataset, scene: Scene) -> Image:
    """A catalogue scene as a lazy image; its bands share the native positions of the last grid."""
    lattice = scene.lattice
    located: list[tuple[Grid, tuple[Array, Array, Array]]] = []

    def locate(grid: Grid) -> tuple[Array, Array, Array]:
        if not located or located[0][0] != grid:
            located[:] = [(grid, lattice.snap(*centres(grid, lattice.crs)))]
        return located[0][1]

    def pull(grid: Grid, name: str) -> Raster:
        layer = scene.layers[name]
        x, y, inside = locate(grid)
        if not inside.any():
            return np.zeros((grid.height, grid.width), layer.dtype), np.zeros((grid.height, grid.width), bool)
        values = np.broadcast_to(layer.formula(x, y), (grid.height, grid.width))
        if values.dtype.kind != "f":
            return np.where(inside, values, 0).astype(layer.dtype, copy=False), inside
        mask = inside & ~np.isnan(values)
        return np.where(mask, values, 0.0).astype(layer.dtype, copy=False), mask

    size = (lattice.width, lattice.height)
    projection = Projection(lattice.crs, lattice.transform)
    bands = tuple(
        Band(name, np.dtype(layer.dtype), partial(pull, name=name), projection, size, lambda grid: locate(grid)[2])
        for name, layer in scene.layers.items()
    )
    properties: dict[str, Any] = {"system:index": scene.index, "system:version": 1} | scene.properties
    if scene.start is not None:
        properties["system:time_start"] = scene.start
    if scene.end is not None:
        properties["system:time_end"] = scene.end
    if scene.bounds is not None:
        ring = shapely.geometry.box(*scene.bounds).exterior.coords
        properties["system:footprint"] = {"type": "LinearRing", "coordinates": [list(point) for point in ring]}
    return Image(bands, properties, f"{dataset.id}/{scene.index}", scene.bounds)


# ---- the algorithms ---------------------------------------------------------------------------------------------

ALGORITHMS: dict[str, Callable[..., Any]] = {}
SERVED: set[str] = set()
Service = dict[str, Dataset]


def algorithm(*names: str, served: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function under Earth Engine's names; ``served`` ones take the catalogue first.

    Arguments are named as there, with ``_`` after what Python has taken.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        ALGORITHMS.update(dict.fromkeys(names, function))
        if served:
            SERVED.update(names)
        return function

    return register


def as_image(value: Any) -> Image:
    """An image of what may be a number or a list of numbers."""
    return value if isinstance(value, Image) else constant(value)


def as_millis(value: Any) -> int:
    """Milliseconds of a date, a number or ISO text."""
    if isinstance(value, Date):
        return value.millis
    if isinstance(value, str):
        text = value + {4: "-01-01", 7: "-01"}.get(len(value), "")
        try:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            raise ServiceError(f"Date: Cannot parse date string: {value}.") from None
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    return int(value)


def prop(element: Any, name: str) -> Any:
    """A property of an image, None where it has none."""
    if name == "system:id":
        return element.id
    return element.properties.get(name)


# -- loading, filtering and collections


@algorithm("ImageCollection.load", served=True)
def load_collection(service: Service, id_: str, version: Any = None) -> Collection:
    if id_ not in service:
        raise ServiceError(
            f"ImageCollection.load: ImageCollection asset '{id_}' not found "
            "(does not exist or caller does not have access).",
            404,
            "NOT_FOUND",
        )
    dataset = service[id_]
    return Collection(tuple(scene_image(dataset, scene) for scene in dataset.scenes), id_)


@algorithm("Image.load", served=True)
def load_image(service: Service, id_: str, version: Any = None) -> Image:
    parent, _, index = id_.rpartition("/")
    for scene in service[parent].scenes if parent in service else ():
        if scene.index == index:
            return scene_image(service[parent], scene)
    raise ServiceError(
        f"Image.load: Image asset '{id_}' not found (does not exist or caller does not have access).", 404, "NOT_FOUND"
    )


Predicate = Callable[[Any], bool]


def operand(field_: str | None, value: Any) -> Callable[[Any], Any]:
    """One side of a filter: a property of the element, or a fixed value."""
    if field_ is not None:
        return lambda element: prop(element, field_)
    return lambda element: value


def comparison(name: str, test: Callable[[Any, Any], bool]) -> None:
    """Register a filter of two sides; where a side is missing it does not pass."""

    def make(
        leftField: str | None = None,
        rightValue: Any = None,
        rightField: str | None = None,
        leftValue: Any = None,
    ) -> Predicate:
        left, right = operand(leftField, leftValue), operand(rightField, rightValue)

        def passes(element: Any) -> bool:
            one, other = left(element), right(element)
            return one is not None and other is not None and test(one, other)

        return passes

    ALGORITHMS[f"Filter.{name}"] = make


comparison("equals", lambda left, right: left == right)
comparison("eq", lambda left, right: left == right)
comparison("notEquals", lambda left, right: left != right)
comparison("lessThan", lambda left, right: left < right)
comparison("lessThanOrEquals", lambda left, right: left <= right)
comparison("greaterThan", lambda left, right: left > right)
comparison("greaterThanOrEquals", lambda left, right: left >= right)
comparison("listContains", lambda left, right: right in left)
comparison("inList", lambda left, right: left in right)
comparison("stringContains", lambda left, right: right in left)
comparison("stringStartsWith", lambda left, right: left.startswith(right))
comparison("stringEndsWith", lambda left, right: left.endswith(right))
comparison("dateRangeContains", lambda left, right: left.start <= as_millis(right) < left.end)


@algorithm("Filter.intersects")
def filter_intersects(
    leftField: str | None = None,
    rightValue: Any = None,
    rightField: str | None = None,
    leftValue: Any = None,
    maxError: Any = None,
) -> Predicate:
    """Bounding boxes are compared, in degrees."""
    geometry = rightValue if rightValue is not None else leftValue
    west, south, east, north = geometry.shape.bounds

    def passes(element: Any) -> bool:
        if element.bounds is None:
            return True
        w, s, e, n = element.bounds
        return bool(w <= east and west <= e and s <= north and south <= n)

    return passes


@algorithm("Filter.and")
def filter_and(filters: list[Predicate]) -> Predicate:
    return lambda element: all(passes(element) for passes in filters)


@algorithm("Filter.or")
def filter_or(filters: list[Predicate]) -> Predicate:
    return lambda element: any(passes(element) for passes in filters)


@algorithm("Filter.not")
def filter_not(filter_: Predicate) -> Predicate:
    return lambda element: not filter_(element)


@algorithm("Filter.notNull")
def filter_not_null(properties: list[str]) -> Predicate:
    return lambda element: all(prop(element, name) is not None for name in properties)


@algorithm("Filter.calendarRange")
def filter_calendar(start: int, end: int | None = None, field: str = "day_of_year") -> Predicate:
    last = start if end is None else end

    def passes(element: Any) -> bool:
        moment = datetime.fromtimestamp(prop(element, "system:time_start") / 1000, UTC)
        parts = {"day_of_year": moment.timetuple().tm_yday, "month": moment.month, "year": moment.year}
        part = (parts | {"day_of_month": moment.day, "hour": moment.hour})[field]
        return start <= part <= last if start <= last else part >= start or part <= last

    return passes


@algorithm("Collection.filter")
def collection_filter(collection: Collection, filter_: Predicate) -> Collection:
    return replace(collection, images=tuple(image for image in collection.images if filter_(image)))


@algorithm("Collection.map")
def collection_map(collection: Collection, baseAlgorithm: Callable[[Any], Any], dropNulls: bool = False) -> Collection:
    images = [baseAlgorithm(image) for image in collection.images]
    if not dropNulls and any(image is None for image in images):
        raise ServiceError("Collection.map: A mapped algorithm must return a Feature or Image.")
    return Collection(tuple(image for image in images if image is not None), collection.id)


@algorithm("Collection.iterate")
def collection_iterate(collection: Collection, function: Callable[..., Any], first: Any = None) -> Any:
    for image in collection.images:
        first = function(image, first)
    return first


@algorithm("Collection.first")
def collection_first(collection: Collection) -> Image | None:
    return collection.images[0] if collection.images else None


@algorithm("Collection.size")
def collection_size(collection: Collection) -> int:
    return len(collection.images)


@algorithm("Collection.limit")
def collection_limit(
    collection: Collection, limit: int | None = None, key: str | None = None, ascending: bool = True
) -> Collection:
    images = list(collection.images)
    if key is not None:
        images.sort(key=lambda image: (prop(image, key) is None, prop(image, key) or 0), reverse=not ascending)
    return replace(collection, images=tuple(images[:limit]))


@algorithm("Collection.toList")
def collection_list(collection: Collection, count: int, offset: int = 0) -> list[Image]:
    return list(collection.images[int(offset) : int(offset) + int(count)])


@algorithm("Collection.merge", "ImageCollection.merge")
def collection_merge(collection1: Collection, collection2: Collection) -> Collection:
    images: list[Image] = []
    for side, collection in (("1", collection1), ("2", collection2)):
        for image in collection.images:
            index = f"{side}_{image.properties.get('system:index', len(images))}"
            images.append(replace(image, properties={**image.properties, "system:index": index}))
    return Collection(tuple(images))


@algorithm("Collection.distinct")
def collection_distinct(collection: Collection, properties: Any) -> Collection:
    names = properties if isinstance(properties, list) else [properties]
    first: dict[str, Image] = {}
    for image in collection.images:
        first.setdefault(json.dumps([to_json(prop(image, name)) for name in names]), image)
    return replace(collection, images=tuple(first.values()))


@algorithm("ImageCollection.fromImages")
def from_images(images: list[Any]) -> Collection:
    made = []
    for index, value in enumerate(images):
        image = as_image(value)
        made.append(replace(image, properties={"system:index": str(index), **image.properties}))
    return Collection(tuple(made))


def aggregate(name: str, function: Callable[[list[Any]], Any]) -> None:
    """Register an aggregation over a property; images without it are left out."""

    def run(collection: Collection, property_: str) -> Any:
        values = [prop(image, property_) for image in collection.images]
        return function([value for value in values if value is not None])

    ALGORITHMS[f"AggregateFeatureCollection.{name}"] = run


aggregate("array", list)
aggregate("count", len)
aggregate("min", lambda values: min(values, default=None))
aggregate("max", lambda values: max(values, default=None))
aggregate("first", lambda values: values[0] if values else None)
aggregate("count_distinct", lambda values: len(set(values)))
aggregate("histogram", lambda values: {str(value): values.count(value) for value in sorted(set(values))})


def homogeneous(collection: Collection) -> list[tuple[Band, ...]]:
    """The bands of all images, position by position."""
    first, *others = collection.images
    for image in others:
        if image.names != first.names:
            raise ServiceError(
                "Expected a homogeneous image collection, but an image with incompatible bands was encountered: "
                f"First image type: {len(first.bands)} bands ([{', '.join(first.names)}]). "
                f"Current image type: {len(image.bands)} bands ([{', '.join(image.names)}]). "
                "Some bands might require explicit casts."
            )
    for bands in zip(*(image.bands for image in collection.images), strict=True):
        if len({band.dtype for band in bands}) > 1:
            kinds = ", ".join(sorted({str(band.dtype) for band in bands}))
            raise ServiceError(
                f"Expected a homogeneous image collection, but band '{bands[0].name}' comes as {kinds}. "
                "Some bands might require explicit casts."
            )
    return list(zip(*(image.bands for image in collection.images), strict=True))


def union(bands: Sequence[Band]) -> Inside:
    """The footprint of several bands together."""

    def inside(grid: Grid) -> Any:
        found: Any = False
        for band in bands:
            found = found | band.inside(grid)
        return found

    return inside


@algorithm("ImageCollection.mosaic")
def mosaic(collection: Collection) -> Image:
    """The last valid image of each band is on top, as opaque as its mask; the result has no projection of its own."""

    def composite(bands: tuple[Band, ...]) -> Band:
        dtype = np.result_type(*(band.dtype for band in bands))

        def pull(grid: Grid) -> Raster:
            values, mask = (a.copy() for a in bands[-1].read(grid))
            values = values.astype(dtype, copy=False)
            for band in reversed(bands[:-1]):
                if mask.min() >= 1:
                    break
                below, valid = band.read(grid)
                if mask.dtype != np.bool_:  # a pixel that is covered in part lets the images below show through
                    part, total = valid * (1 - mask), mask + valid * (1 - mask)
                    mixed = (values * mask + below * part) / np.where(total > 0, total, 1)
                    values, mask = np.where(part > 0, mixed, values).astype(dtype), total
                    continue
                fill = (valid > 0) & ~mask
                values[fill] = below[fill]
                mask = np.where(fill, valid, mask)
            return values, mask

        return Band(bands[0].name, dtype, pull, inside=union(bands))

    if not collection.images:
        return Image(())
    return Image(tuple(composite(bands) for bands in homogeneous(collection)))


def reduced_type(how: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Type of a reducer's output."""
    if how == "count":
        return np.dtype("i4")
    if how in ("mean", "median", "stdDev") or (how == "sum" and dtype.kind == "f"):
        return dtype if dtype.kind == "f" else np.dtype("f8")
    return np.result_type(dtype, "i4") if how == "sum" else dtype


def reduce_stack(values: Array, weights: Array, how: str) -> Raster:
    """Reduce (n, …) values over their first axis, valid ones only; mode takes the smaller of two equals.

    A mean weighs by the masks. The mode of a floating band comes out a hair below the value, as from a histogram.
    """
    mask = weights > 0
    count = mask.sum(axis=0)
    some = count > 0
    if how == "count":
        return count, np.ones_like(some)
    if how == "sum":
        return np.where(mask, values, 0).sum(axis=0, dtype="f8" if values.dtype.kind == "f" else "i8"), some
    if how == "mean":
        weight = weights.sum(axis=0, dtype=float)
        return np.where(mask, values * weights, 0).sum(axis=0, dtype="f8") / np.where(some, weight, 1), some
    if how == "mode":
        best, most = np.zeros(mask.shape[1:], values.dtype), np.zeros(mask.shape[1:])
        for code in np.unique(values[mask]):
            votes = ((values == code) * weights).sum(axis=0)
            best[votes > most] = code if code.dtype.kind != "f" else np.nextafter(code, code - 1)
            most = np.maximum(votes, most)
        return best, some
    functions = {"min": np.ma.min, "max": np.ma.max, "median": np.ma.median, "stdDev": np.ma.std}
    if how in functions:
        result = functions[how](np.ma.array(values, mask=~mask), axis=0)
        return np.ma.filled(result, 0), some
    if how in ("first", "last"):
        order = np.argmax(mask, axis=0) if how == "first" else len(mask) - 1 - np.argmax(mask[::-1], axis=0)
        return np.take_along_axis(values, order[None], 0)[0], some
    raise ServiceError(f"unsupported by fake: Reducer.{how}")


def reduce_bands(bands: Sequence[Band], how: str, name: str) -> Band:
    """One band of several, pixel by pixel, on the requested grid."""
    dtype = reduced_type(how, np.result_type(*(band.dtype for band in bands)))

    def pull(grid: Grid) -> Raster:
        rasters = [band.read(grid) for band in bands]
        values, mask = reduce_stack(np.stack([r[0] for r in rasters]), np.stack([r[1] for r in rasters]), how)
        return np.where(mask > 0, values, 0).astype(dtype), mask

    return Band(name, dtype, pull, inside=union(bands))


def reduce_collection(collection: Collection, how: str, suffix: str = "") -> Image:
    if not collection.images:
        return Image(())
    return Image(tuple(reduce_bands(bands, how, bands[0].name + suffix) for bands in homogeneous(collection)))


@algorithm("ImageCollection.reduce")
def collection_reduce(collection: Collection, reducer: Reducer, parallelScale: float = 1) -> Image:
    return reduce_collection(collection, reducer.name, f"_{reducer.name}")


@algorithm("Image.reduce")
def image_reduce(image: Image, reducer: Reducer) -> Image:
    band = reduce_bands(image.bands, reducer.name, reducer.name)
    return replace(image, bands=(replace(band, projection=image.bands[0].projection),))


def register_reducers() -> None:
    def reducer(name: str, **options: Any) -> Reducer:
        return Reducer(name)

    def direct(collection: Collection, name: str) -> Image:
        return reduce_collection(collection, name)

    for name in ("mean", "count", "mode", "max", "min", "sum", "median", "stdDev", "first", "last"):
        ALGORITHMS[f"Reducer.{name}"] = partial(reducer, name=name)
        if name not in ("stdDev", "first", "last"):
            ALGORITHMS[f"reduce.{name}"] = partial(direct, name=name)


register_reducers()


@algorithm("ImageCollection.toBands")
def to_bands(collection: Collection) -> Image:
    return Image(
        tuple(
            band.renamed(f"{image.properties['system:index']}_{band.name}")
            for image in collection.images
            for band in image.bands
        )
    )


# -- bands of an image


@algorithm("Image.constant")
def constant_image(value: Any) -> Image:
    return constant(value)


def constant(value: Any) -> Image:
    """An image of numbers, in the smallest type that holds each."""
    values = value if isinstance(value, list) else [value]

    def band(number: float, name: str) -> Band:
        dtype = np.dtype("f8") if isinstance(number, float) else small_integer(number)

        def pull(grid: Grid) -> Raster:
            shape = grid.height, grid.width
            return np.broadcast_to(dtype.type(number), shape), np.broadcast_to(np.True_, shape)

        return Band(name, dtype, pull)

    names = ["constant"] if len(values) == 1 else [f"constant_{k}" for k in range(len(values))]
    return Image(tuple(band(number, name) for number, name in zip(values, names, strict=True)))


def small_integer(number: int) -> np.dtype[Any]:
    """The smallest integer type that holds a number."""
    for code in ("u1", "i1", "u2", "i2", "u4", "i4"):
        if np.iinfo(code).min <= number <= np.iinfo(code).max:
            return np.dtype(code)
    return np.dtype("i8")


@algorithm("Image.select")
def select(input_: Image, bandSelectors: Any = None, newNames: Any = None) -> Image:
    chosen = input_.choose(bandSelectors) if bandSelectors is not None else list(input_.bands)
    if newNames is None:
        return replace(input_, bands=tuple(chosen))
    return rename(replace(input_, bands=tuple(chosen)), newNames)


@algorithm("Image.rename")
def rename(input_: Image, names: Any) -> Image:
    names = names if isinstance(names, list) else [names]
    if len(names) != len(input_.bands):
        raise ServiceError(
            f"Image.rename: The number of names ({len(names)}) must match the number of bands ({len(input_.bands)})."
        )
    return replace(input_, bands=tuple(band.renamed(name) for band, name in zip(input_.bands, names, strict=True)))


@algorithm("Image.slice")
def image_slice(image: Image, start: int, end: int | None = None) -> Image:
    return replace(image, bands=image.bands[slice(start, end)])


def joined(bands: Sequence[Band], more: Sequence[Band], overwrite: bool = False) -> tuple[Band, ...]:
    """Two groups of bands; a name that is taken gets a number, or its band is replaced."""
    result = list(bands)
    for band in more:
        names = [one.name for one in result]
        if band.name in names and overwrite:
            result[names.index(band.name)] = band
            continue
        name, number = band.name, 0
        while name in names:
            number += 1
            name = f"{band.name}_{number}"
        result.append(band.renamed(name))
    return tuple(result)


@algorithm("Image.addBands")
def add_bands(dstImg: Image, srcImg: Image, names: Any = None, overwrite: bool = False) -> Image:
    target, source = as_image(dstImg), as_image(srcImg)
    more = source.choose(names) if names is not None else source.bands
    return replace(target, bands=joined(target.bands, more, overwrite))


@algorithm("Image.cat")
def image_cat(images: list[Any]) -> Image:
    first, *others = (as_image(image) for image in images)
    for other in others:
        first = replace(first, bands=joined(first.bands, other.bands))
    return first


@algorithm("Image.bandNames")
def band_names(image: Image) -> list[str]:
    return image.names


# -- pixel arithmetic


def pairs(one: Image, other: Image, name: str) -> list[tuple[Band, Band]]:
    """Bands side by side: a single band goes with all, equal names find each other, else by position."""
    a, b = one.bands, other.bands
    if len(a) == 1 or len(b) == 1:
        longer = max(len(a), len(b))
        return list(zip(a * longer if len(a) == 1 else a, b * longer if len(b) == 1 else b, strict=True))
    if len(a) != len(b):
        raise ServiceError(
            f"Image.{name}: Images must contain the same number of bands or have only 1 band. "
            f"Got {len(a)} and {len(b)}."
        )
    if set(one.names) == set(other.names):
        by_name = {band.name: band for band in b}
        return [(band, by_name[band.name]) for band in a]
    return list(zip(a, b, strict=True))


def as_computed(name: str, one: np.dtype[Any], other: np.dtype[Any]) -> np.dtype[Any]:
    """Type in which two bands meet: at least a 32 bit integer; quotients and powers are floating."""
    dtype = np.result_type(one, other)
    if dtype.kind == "f":
        return dtype
    return np.dtype("f8") if name in ("divide", "pow") else np.result_type(dtype, "i4")


def binary(name: str, function: Callable[[Array, Array], Array], flag: bool = False) -> None:
    """Register arithmetic of two images or numbers; ``flag`` for results that are 0 or 1."""

    def combine(one: Band, other: Band, longer: str) -> Band:
        working = as_computed(name, one.dtype, other.dtype)
        dtype = np.dtype("u1") if flag else working

        def pull(grid: Grid) -> Raster:
            (p, p_mask), (q, q_mask) = one.read(grid), other.read(grid)
            mask = meet(p_mask, q_mask)
            with np.errstate(all="ignore"):
                if flag:
                    return function(p, q).view(dtype), mask
                values = function(p.astype(working, copy=False), q.astype(working, copy=False))
            if values.dtype.kind == "f":
                mask = meet(mask, np.isfinite(values))
                if not mask.all():
                    values = np.where(mask, values, 0)
            return values.astype(dtype, copy=False), mask

        base = one if one.projection != UNPROJECTED else other
        return base.derived(pull, name=longer, dtype=dtype, inside=union_or_all(one, other))

    def run(image1: Any, image2: Any) -> Image:
        first, second = as_image(image1), as_image(image2)
        names = (second if len(second.bands) > len(first.bands) else first).names
        together = zip(pairs(first, second, name), names, strict=True)
        return Image(tuple(combine(a, b, longer) for (a, b), longer in together), bounds=first.bounds or second.bounds)

    ALGORITHMS[f"Image.{name}"] = run


def union_or_all(one: Band, other: Band) -> Inside:
    """Footprint of a result of two bands: that of the one which has an edge."""
    return one.inside if other.inside is everywhere else other.inside


def safe_divide(p: Array, q: Array) -> Array:
    """Quotient, 0 where the divisor is 0."""
    if q.all():
        return np.divide(p, q)
    return np.divide(p, q, out=np.zeros(np.broadcast_shapes(p.shape, q.shape), p.dtype), where=q != 0)


for _name, _function in {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": safe_divide, "mod": np.fmod,
    "pow": np.power, "min": np.minimum, "max": np.maximum, "atan2": np.arctan2, "hypot": np.hypot,
    "bitwiseAnd": np.bitwise_and, "bitwiseOr": np.bitwise_or, "bitwiseXor": np.bitwise_xor,
    "bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or,
    "leftShift": np.left_shift, "rightShift": np.right_shift,
}.items():  # fmt: skip
    binary(_name, _function)
for _name, _function in {
    "gt": np.greater, "gte": np.greater_equal, "lt": np.less, "lte": np.less_equal, "eq": np.equal,
    "neq": np.not_equal, "and": np.logical_and, "or": np.logical_or,
}.items():  # fmt: skip
    binary(_name, _function, flag=True)


def unary(name: str, function: Callable[[Array], Array], dtype: str | None = None, keep: bool = False) -> None:
    """Register arithmetic of one image; integers become double where the function needs it."""

    def change(band: Band) -> Band:
        needs_float = function in FLOATING and band.dtype.kind != "f"
        output = np.dtype(dtype or ("f8" if needs_float else band.dtype))

        def pull(grid: Grid) -> Raster:
            values, mask = band.read(grid)
            with np.errstate(all="ignore"):
                values = function(values.astype("f8") if needs_float else values)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                mask = meet(mask, np.isfinite(values))
                values = np.where(mask, values, 0)
            return values.astype(output, copy=False), mask

        return band.derived(pull, dtype=output)

    def run(value: Any) -> Image:
        return as_image(value).mapped(change, keep)

    ALGORITHMS[f"Image.{name}"] = run


def cast(values: Array, dtype: np.dtype[Any]) -> Array:
    """Values as another type: fractions cut off, out of range held at the limit."""
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    if (
        values.dtype.kind != "f"
        and np.iinfo(values.dtype).min >= limits.min
        and np.iinfo(values.dtype).max <= limits.max
    ):
        return values.astype(dtype, copy=False)
    return np.clip(np.trunc(values), float(limits.min), float(limits.max)).astype(dtype)


FLOATING = (np.sqrt, np.exp, np.log, np.log10, np.sin, np.cos, np.tan, np.arctan)
for _name, _function in {
    "abs": np.abs, "round": np.rint, "floor": np.floor, "ceil": np.ceil, "sqrt": np.sqrt, "exp": np.exp, "log": np.log,
    "log10": np.log10, "sin": np.sin, "cos": np.cos, "tan": np.tan, "atan": np.arctan, "bitwiseNot": np.bitwise_not,
    "bitwise_not": np.bitwise_not,
}.items():  # fmt: skip
    unary(_name, _function)
unary("not", np.logical_not, "u1")
for _names, _code in {
    ("toByte", "byte", "toUint8", "uint8"): "u1", ("toInt8", "int8"): "i1", ("toUint16", "uint16"): "u2",
    ("toInt16", "int16", "toShort", "short"): "i2", ("toUint32", "uint32"): "u4",
    ("toInt32", "int32", "toInt", "int"): "i4", ("toLong", "long", "toInt64", "int64"): "i8",
    ("toFloat", "float"): "f4", ("toDouble", "double"): "f8",
}.items():  # fmt: skip
    for _name in _names:
        unary(_name, partial(cast, dtype=np.dtype(_code)), _code, keep=True)


@algorithm("Image.clamp")
def clamp(input_: Image, low: float, high: float) -> Image:
    def change(band: Band) -> Band:
        def pull(grid: Grid) -> Raster:
            values, mask = band.read(grid)
            return np.clip(values, low, high).astype(band.dtype), mask

        return band.derived(pull)

    return input_.mapped(change)


@algorithm("Image.where")
def where(input_: Image, test: Image, value: Image) -> Image:
    condition, other = as_image(test), as_image(value)

    def change(band: Band, when: Band, new: Band) -> Band:
        dtype = np.result_type(band.dtype, new.dtype)

        def pull(grid: Grid) -> Raster:
            (values, mask), (truth, known), (fresh, valid) = band.read(grid), when.read(grid), new.read(grid)
            return np.where((truth != 0) & (known > 0) & (valid > 0), fresh, values).astype(dtype), mask

        return band.derived(pull, dtype=dtype)

    conditions = pairs(input_, condition, "where")
    values = pairs(input_, other, "where")
    bands = [change(a, when, new) for (a, when), (_, new) in zip(conditions, values, strict=True)]
    return replace(input_, bands=tuple(bands))


@algorithm("Image.remap")
def remap(image: Image, from_: list[Any], to: list[Any], defaultValue: Any = None, bandName: Any = None) -> Image:
    band = image.choose(bandName)[0] if bandName is not None else image.bands[0]
    dtype = np.dtype("f8") if any(isinstance(number, float) for number in to) else np.dtype("i4")

    def pull(grid: Grid) -> Raster:
        values, mask = band.read(grid)
        known = np.zeros(values.shape, bool)
        result = np.full(values.shape, defaultValue or 0, dtype)
        for old, new in zip(from_, to, strict=True):
            result[values == old] = new
            known |= values == old
        return result, meet(mask, known) if defaultValue is None else mask

    return replace(image, bands=(band.derived(pull, name="remapped", dtype=dtype),))


# -- masks


def masked_by(band: Band, mask: Band) -> Band:
    """A band where another is valid and not zero; what it covers in part stays so."""

    def pull(grid: Grid) -> Raster:
        (values, valid), (truth, known) = band.read(grid), mask.read(grid)
        return values, meet(meet(valid, known), truth != 0)

    return band.derived(pull)


@algorithm("Image.updateMask")
def update_mask(image: Image, mask: Any) -> Image:
    found = pairs(image, as_image(mask), "updateMask")
    return replace(image, bands=tuple(masked_by(band, one).renamed(band.name) for band, one in found))


@algorithm("Image.selfMask")
def self_mask(image: Image) -> Image:
    return image.mapped(lambda band: masked_by(band, band))


@algorithm("Image.mask")
def image_mask(image: Image, mask: Any = None) -> Image:
    def as_values(band: Band) -> Band:
        def pull(grid: Grid) -> Raster:
            valid = band.read(grid)[1]
            return valid.astype("f4"), np.ones(valid.shape, bool)

        return band.derived(pull, dtype=np.dtype("f4"), inside=everywhere)

    def replaced(band: Band, new: Band) -> Band:
        def pull(grid: Grid) -> Raster:
            (values, _), (truth, known) = band.read(grid), new.read(grid)
            return values, meet(known, truth != 0 if truth.dtype.kind != "f" else np.clip(truth, 0, 1))

        return band.derived(pull)

    if mask is None:
        return image.mapped(as_values, keep=False)
    return replace(image, bands=tuple(replaced(band, one) for band, one in pairs(image, as_image(mask), "mask")))


@algorithm("Image.unmask")
def unmask(input_: Image, value: Any = None, sameFootprint: bool = True) -> Image:
    """Fills within the image's own extent only, unless ``sameFootprint`` is false."""

    def change(band: Band, fill: Band) -> Band:
        dtype = np.result_type(band.dtype, fill.dtype)

        def pull(grid: Grid) -> Raster:
            (values, mask), (new, known) = band.read(grid), fill.read(grid)
            area = band.inside(grid) if sameFootprint else np.True_
            filled = np.where(mask > 0, mask, meet(known, np.broadcast_to(area, known.shape)))
            return np.where(mask > 0, values, new).astype(dtype), filled

        return band.derived(pull, dtype=dtype, inside=band.inside if sameFootprint else everywhere)

    fills = pairs(input_, as_image(0 if value is None else value), "unmask")
    return replace(input_, bands=tuple(change(band, fill) for band, fill in fills))


@algorithm("Image.clip")
def clip(input_: Image, geometry: Geometry) -> Image:
    """Pixels whose centre lies in the geometry; its edges are straight in degrees."""

    def inside(grid: Grid) -> NDArray[np.bool_]:
        lon, lat = np.broadcast_arrays(*centres(grid, "EPSG:4326"))
        return np.asarray(shapely.contains_xy(geometry.shape, lon, lat))

    def change(band: Band) -> Band:
        def pull(grid: Grid) -> Raster:
            values, mask = band.read(grid)
            return values, meet(mask, inside(grid))

        return band.derived(pull, inside=inside)

    return replace(input_.mapped(change), bounds=geometry.shape.bounds)


# -- projections


@algorithm("Projection")
def make_projection(crs: Any, transform: Any = None, transformWkt: Any = None) -> Projection:
    if isinstance(crs, Projection):
        return crs
    crs_of(crs)
    return Projection(crs, tuple(float(number) for number in transform or (1, 0, 0, 0, 1, 0)))


@algorithm("Projection.atScale")
def projection_at_scale(projection: Projection, meters: float) -> Projection:
    return projection.at_scale(meters)


@algorithm("Projection.nominalScale")
def nominal_scale(proj: Projection) -> float:
    return proj.scale


@algorithm("Projection.crs")
def projection_crs(projection: Projection) -> str:
    return projection.crs


@algorithm("Projection.transform")
def projection_transform(projection: Projection) -> list[float]:
    return list(projection.transform)


@algorithm("Image.projection")
def image_projection(image: Image) -> Projection:
    if not image.bands:
        raise ServiceError("Image.projection: The image has no bands.")
    first = image.bands[0].projection
    if any(band.projection != first for band in image.bands):
        raise ServiceError(
            "Image.projection: The bands of the specified image contains different projections. "
            "Use Image.select to pick a single band."
        )
    return first


def chosen_projection(crs: Any, crsTransform: Any, scale: float | None) -> Projection:
    """The projection that crs, crsTransform and scale name together."""
    projection = crs if isinstance(crs, Projection) else Projection(crs)
    if crsTransform is not None:
        return Projection(projection.crs, tuple(float(number) for number in crsTransform))
    return projection.at_scale(scale) if scale is not None else projection


@algorithm("Image.setDefaultProjection")
def set_default_projection(image: Image, crs: Any, crsTransform: Any = None, scale: float | None = None) -> Image:
    projection = chosen_projection(crs, crsTransform, scale)
    return image.mapped(lambda band: replace(band, projection=projection, size=None))


def window(cols: Array, rows: Array, pad: int) -> tuple[int, int, int, int]:
    """First column and row, width and height of the pixels at these positions, with a margin."""
    left, top = math.floor(cols.min()) - pad, math.floor(rows.min()) - pad
    width, height = math.floor(cols.max()) + pad + 1 - left, math.floor(rows.max()) + pad + 1 - top
    if width * height > 100_000_000:
        raise ServiceError(f"Reprojection output too large ({width}x{height} pixels).")
    return left, top, width, height


@algorithm("Image.reproject")
def reproject(image: Image, crs: Any, crsTransform: Any = None, scale: float | None = None) -> Image:
    """Compute pixels on the named grid; the requested grid takes the nearest of them."""
    projection = chosen_projection(crs, crsTransform, scale)

    def change(band: Band) -> Band:
        def pull(grid: Grid) -> Raster:
            cols, rows = pixel_positions(grid, projection)
            left, top, width, height = window(cols, rows, 1)
            values, mask = band.read(projection.grid(left, top, width, height))
            at = np.floor(rows + 1e-6).astype(int) - top, np.floor(cols + 1e-6).astype(int) - left
            return values[at], mask[at]

        return band.derived(pull, projection=projection, size=None)

    return image.mapped(change)


@algorithm("Image.resample")
def resample(image: Image, mode: str = "bilinear") -> Image:
    """Bilinear between the band's own pixels, masked where one of the four is."""
    if mode != "bilinear":
        raise ServiceError(f"unsupported by fake: Image.resample({mode})")

    def change(band: Band) -> Band:
        def pull(grid: Grid) -> Raster:
            cols, rows = np.broadcast_arrays(*pixel_positions(grid, band.projection))
            left, top, width, height = window(cols, rows, 2)
            values, mask = band.read(band.projection.grid(left, top, width, height))
            at = np.stack([rows - 0.5 - top, cols - 0.5 - left])
            smooth = scipy.ndimage.map_coordinates(values.astype("f8"), at, order=1)
            valid = scipy.ndimage.map_coordinates(mask.astype("f8"), at, order=1) > 1 - 1e-6
            return smooth.astype(band.dtype), valid

        return band.derived(pull)

    return image.mapped(change)


@dataclass(frozen=True, eq=False)
class Sampling:
    """The native window below a grid and, per sample and output pixel, a flat index into it."""

    source: Grid
    index: NDArray[np.int32]


@lru_cache(maxsize=32)
def sampling(grid: Grid, projection: Projection, maxPixels: int, bestEffort: bool) -> Sampling:
    """Supersample every output pixel on a square lattice: 1.7 samples a native pixel and side, within 4 and 24 a side.

    Of a checkerboard of ±1, a mean of some 11 native pixels is off by 0.16 at most (0.07 rms), one of 100 by 0.045
    (0.016 rms), against exact shares. More samples are not always better: 2 to a pixel beat with the native grid.
    """
    cols, rows = np.arange(grid.width + 1.0), np.arange(grid.height + 1.0)
    x, y = np.broadcast_arrays(*project(grid, projection.crs, cols, rows, step=8))
    a, _, c, _, e, f = projection.transform
    col, row = (x - c) / a, (y - f) / e
    left, top, width, height = window(col, row, 1)
    across = np.diff(col, axis=1)[:-1], np.diff(row, axis=1)[:-1]
    down = np.diff(col, axis=0)[:, :-1], np.diff(row, axis=0)[:, :-1]
    wide, high = np.abs(across[0]) + np.abs(down[0]), np.abs(across[1]) + np.abs(down[1])
    found = int(((wide + 1) * (high + 1)).max())
    if found > maxPixels and not bestEffort:
        raise ServiceError(
            "Image.reduceResolution: Too many input pixels per output pixel. "
            f"Found {found}, but maxPixels allows only {maxPixels}."
        )
    side = int(np.clip(math.ceil(1.7 * max(wide.max(), high.max())), 4, 24))
    offsets = (np.arange(side) + 0.5) / side
    index = np.empty((side, side, grid.height, grid.width), np.int32)
    for i, v in enumerate(offsets):
        start_col, start_row = col[:-1, :-1] + v * down[0] - left, row[:-1, :-1] + v * down[1] - top
        for j, u in enumerate(offsets):
            at_row = (start_row + u * across[1]).astype(np.int32)
            index[i, j] = at_row * width + (start_col + u * across[0]).astype(np.int32)
    return Sampling(projection.grid(left, top, width, height), index.reshape(side**2, grid.height, grid.width))


def weighted(values: Array, mask: Array, index: NDArray[np.int32], how: str) -> Raster:
    """Reduce the native pixels below each output pixel by their samples and masks; its mask is the part they cover."""
    flat, valid = values.ravel(), mask.ravel()
    full = bool(valid.min() >= 1)
    if how != "mean":
        below = valid.take(index)
        found, some = reduce_stack(flat.take(index), below, how)
        return found, some if full else below.mean(axis=0)
    total = np.zeros(index.shape[1:])
    weight = np.full(index.shape[1:], float(len(index)) if full else 0.0)
    shown = flat if full else np.where(valid > 0, flat * valid, 0)
    for one in index:
        total += shown.take(one)
        if not full:
            weight += valid.take(one)
    return total / np.where(weight > 0, weight, 1), weight > 0 if full else weight / len(index)


@algorithm("Image.reduceResolution")
def reduce_resolution(image: Image, reducer: Reducer, bestEffort: bool = False, maxPixels: int = 64) -> Image:
    """Each band is computed on its own grid; pixels count by their share of the output pixel times their mask.

    The mask of the result is the share that valid pixels cover.
    """
    if reducer.name not in ("mean", "mode", "min", "max"):
        raise ServiceError(f"unsupported by fake: Image.reduceResolution(Reducer.{reducer.name})")
    known: dict[tuple[Grid, Projection], Sampling] = {}

    def change(band: Band) -> Band:
        dtype = reduced_type(reducer.name, band.dtype)

        def pull(grid: Grid) -> Raster:
            key = grid, band.projection
            if key not in known:
                known.clear()
                known[key] = sampling(grid, band.projection, int(maxPixels), bestEffort)
            found = known[key]
            values, mask = weighted(*band.read(found.source), found.index, reducer.name)
            return np.where(mask > 0, values, 0).astype(dtype), mask

        return band.derived(pull, dtype=dtype)

    return image.mapped(change)


# -- neighbourhoods


@algorithm("Kernel.gaussian")
def kernel_gaussian(
    radius: float,
    sigma: float = 1.0,
    units: str = "pixels",
    normalize: bool = True,
    magnitude: float = 1.0,
) -> Kernel:
    def weights(metres: float) -> Array:
        per = metres if units in ("meters", "metres") else 1.0
        reach = np.arange(-math.floor(radius / per), math.floor(radius / per) + 1)
        line = np.exp(-0.5 * (reach * per / sigma) ** 2)
        square = np.outer(line, line)
        return magnitude * (square / square.sum() if normalize else square)

    return Kernel(weights)


@algorithm("Kernel.square")
def kernel_square(radius: float, units: str = "pixels", normalize: bool = True, magnitude: float = 1.0) -> Kernel:
    def weights(metres: float) -> Array:
        side = 2 * math.floor(radius / (metres if units in ("meters", "metres") else 1.0)) + 1
        return np.full((side, side), magnitude / (side**2 if normalize else 1))

    return Kernel(weights)


@algorithm("Kernel.fixed")
def kernel_fixed(
    weights: list[list[float]],
    width: int = -1,
    height: int = -1,
    x: int = -1,
    y: int = -1,
    normalize: bool = False,
) -> Kernel:
    table = np.array(weights, float)
    if table.shape[0] % 2 == 0 or table.shape[1] % 2 == 0:
        raise ServiceError("fake: only kernels with an odd number of rows and columns are modelled")
    return Kernel(lambda metres: table / table.sum() if normalize else table)


def correlate(values: Array, weights: Array) -> Array:
    """Weighted sum around each pixel; in two passes where the weights are a product of a row and a column."""
    u, s, v = np.linalg.svd(weights)
    if len(s) == 1 or s[1] < 1e-12 * s[0]:
        columns = scipy.ndimage.correlate1d(values, u[:, 0] * s[0], axis=0, mode="constant")
        return scipy.ndimage.correlate1d(columns, v[0], axis=1, mode="constant")
    return scipy.ndimage.correlate(values, weights, mode="constant")


@algorithm("Image.convolve")
def convolve(image: Image, kernel: Kernel) -> Image:
    """Convolve on the requested grid; masked where a masked pixel lies under a weight that is not zero."""

    def change(band: Band) -> Band:
        dtype = band.dtype if band.dtype.kind == "f" else np.dtype("f8")

        def pull(grid: Grid) -> Raster:
            weights = kernel.weights(grid.scale)
            pad = max(weights.shape) // 2
            values, part = band.read(grid.padded(pad))
            mask = part > 0
            inner = slice(pad, pad + grid.height), slice(pad, pad + grid.width)
            whole = bool(mask.all())
            if whole and values.min() == values.max():
                level = float(values[0, 0]) * weights.sum()
                shape = grid.height, grid.width
                return np.broadcast_to(dtype.type(level), shape), np.broadcast_to(np.True_, shape)
            known = values if whole else np.where(mask, values, 0)
            smooth = correlate(known.astype("f8", copy=False), weights)[inner]
            if whole:
                return smooth.astype(dtype, copy=False), np.ones(smooth.shape, bool)
            touched = scipy.ndimage.maximum_filter(~mask, footprint=weights != 0)[inner]
            return np.where(touched, 0, smooth).astype(dtype), ~touched

        return band.derived(pull, dtype=dtype)

    return image.mapped(change)


# -- geometries


def in_degrees(shape: Any, crs: Any) -> Geometry:
    """A shape in longitude and latitude; edges are cut in pieces before they are moved."""
    if crs is None or same_crs(crs.crs, "EPSG:4326"):
        return Geometry(shape)
    west, south, east, north = shape.bounds
    fine = shape.segmentize(max(east - west, north - south, 1e-9) / 50)
    move = transformer(crs.crs, "EPSG:4326").transform
    return Geometry(shapely.transform(fine, lambda points: np.column_stack(move(*points.T))))


@algorithm("GeometryConstructors.Point")
def geometry_point(coordinates: list[float], crs: Any = None, geodesic: Any = None) -> Geometry:
    return in_degrees(shapely.geometry.Point(coordinates), crs)


@algorithm("GeometryConstructors.Rectangle", "GeometryConstructors.BBox")
def geometry_rectangle(
    coordinates: Any = None,
    crs: Any = None,
    geodesic: Any = None,
    evenOdd: bool = True,
    west: float = 0.0,
    south: float = 0.0,
    east: float = 0.0,
    north: float = 0.0,
) -> Geometry:
    corners = np.array([west, south, east, north] if coordinates is None else coordinates, float).reshape(-1, 2)
    return in_degrees(shapely.geometry.box(*corners.min(axis=0), *corners.max(axis=0)), crs)


@algorithm("GeometryConstructors.Polygon")
def geometry_polygon(
    coordinates: list[Any],
    crs: Any = None,
    geodesic: Any = None,
    maxError: Any = None,
    evenOdd: bool = True,
) -> Geometry:
    outer, *holes = coordinates
    return in_degrees(shapely.geometry.Polygon(outer, holes), crs)


@algorithm("GeometryConstructors.MultiPolygon")
def geometry_multipolygon(
    coordinates: list[Any],
    crs: Any = None,
    geodesic: Any = None,
    maxError: Any = None,
    evenOdd: bool = True,
) -> Geometry:
    parts = [shapely.geometry.Polygon(outer, holes) for outer, *holes in coordinates]
    return in_degrees(shapely.geometry.MultiPolygon(parts), crs)


@algorithm("Profile.getProfiles")
def profiles(ids: list[str], format_: str = "text") -> str:
    """A profile in the form of the service."""
    return "EECU·s  PeakMem  Count  Description\n 1.500     12k      3  Image.load\n 1.000      2k      1  (plumbing)\n"


@algorithm("Feature")
def feature(geometry: Geometry, metadata: Any = None) -> Geometry:
    return geometry


@algorithm("Image.geometry", "Element.geometry")
def image_geometry(feature: Image, **options: Any) -> Geometry:
    return Geometry(shapely.geometry.box(*(feature.bounds or (-180.0, -90.0, 180.0, 90.0))))


# -- properties, dates, lists


@algorithm("Element.get")
def element_get(object_: Any, property_: str) -> Any:
    return prop(object_, property_)


@algorithm("Element.set")
def element_set(object_: Image, key: str, value: Any) -> Image:
    return replace(object_, properties={**object_.properties, key: value})


@algorithm("Element.setMulti")
def element_set_multi(object_: Image, properties: dict[str, Any]) -> Image:
    return replace(object_, properties={**object_.properties, **properties})


@algorithm("Element.copyProperties", "Image.copyProperties")
def copy_properties(destination: Image, source: Image, properties: Any = None, exclude: Any = None) -> Image:
    """``system:`` properties are copied only by name, as on the service."""
    names = (
        properties if properties is not None else [key for key in source.properties if not key.startswith("system:")]
    )
    copied = {key: source.properties[key] for key in names if key in source.properties and key not in (exclude or ())}
    return replace(destination, properties={**destination.properties, **copied})


@algorithm("Element.propertyNames")
def property_names(element: Image) -> list[str]:
    return list(element.properties)


@algorithm("Image.id")
def image_id(element: Image) -> str:
    return str(prop(element, "system:index"))


@algorithm("Image.date")
def image_date(image: Image) -> Date:
    return Date(as_millis(prop(image, "system:time_start")))


@algorithm("Date")
def make_date(value: Any, timeZone: Any = None) -> Date:
    return Date(as_millis(value))


@algorithm("Date.fromYMD")
def date_from_ymd(year: int, month: int, day: int, timeZone: Any = None) -> Date:
    return Date(round(datetime(year, month, day, tzinfo=UTC).timestamp() * 1000))


@algorithm("Date.millis")
def date_millis(date: Any) -> int:
    return as_millis(date)


@algorithm("Date.advance")
def date_advance(date: Any, delta: float, unit: str, timeZone: Any = None) -> Date:
    spans = {"second": timedelta(seconds=1), "minute": timedelta(minutes=1), "hour": timedelta(hours=1)}
    spans |= {"day": timedelta(days=1), "week": timedelta(weeks=1)}
    if unit.rstrip("s") not in spans:
        raise ServiceError(f"unsupported by fake: Date.advance(unit={unit})")
    return Date(as_millis(date) + round(delta * (spans[unit.rstrip("s")] / timedelta(milliseconds=1))))


@algorithm("Date.format")
def date_format(date: Any, format_: str | None = None, timeZone: Any = None) -> str:
    text = format_ or "YYYY-MM-dd'T'HH:mm:ss"
    moment = datetime.fromtimestamp(as_millis(date) / 1000, UTC)
    for joda, code in (("YYYY", "%Y"), ("yyyy", "%Y"), ("MM", "%m"), ("dd", "%d"), ("DDD", "%j"), ("HH", "%H")):
        text = text.replace(joda, code)
    return moment.strftime(text.replace("mm", "%M").replace("ss", "%S").replace("'", ""))


@algorithm("DateRange")
def make_date_range(start: Any, end: Any = None, timeZone: Any = None) -> DateRange:
    first = as_millis(start)
    return DateRange(first, as_millis(end) if end is not None else first + 1)


@algorithm("List.get")
def list_get(list_: list[Any], index: int) -> Any:
    if not -len(list_) <= index < len(list_):
        raise ServiceError(
            f"List.get: List index must be between 0 and {len(list_)}, or -{len(list_)} and -1. Found {index}."
        )
    return list_[index]


@algorithm("List.size", "List.length")
def list_size(list_: list[Any]) -> int:
    return len(list_)


@algorithm("List.map")
def list_map(list_: list[Any], baseAlgorithm: Callable[[Any], Any], dropNulls: bool = False) -> list[Any]:
    return [baseAlgorithm(value) for value in list_]


@algorithm("List.distinct")
def list_distinct(list_: list[Any]) -> list[Any]:
    return list(dict.fromkeys(list_))


@algorithm("List.sort")
def list_sort(list_: list[Any], keys: Any = None) -> list[Any]:
    return sorted(list_)


@algorithm("List.sequence")
def list_sequence(start: float, end: float, step: float = 1, count: Any = None) -> list[float]:
    return [start + k * step for k in range(int((end - start) // step) + 1)]


@algorithm("Dictionary.get")
def dictionary_get(dictionary: dict[str, Any], key: str, defaultValue: Any = None) -> Any:
    return dictionary.get(key, defaultValue)


@algorithm("If")
def conditional(condition: Any, trueCase: Any = None, falseCase: Any = None) -> Any:
    return trueCase if condition else falseCase


def number_function(name: str, function: Callable[[Any, Any], Any]) -> None:
    """Register arithmetic of two numbers."""
    ALGORITHMS[f"Number.{name}"] = lambda left, right: function(left, right)


ALGORITHMS["Number.abs"] = lambda input_: abs(input_)
number_function("add", lambda left, right: left + right)
number_function("subtract", lambda left, right: left - right)
number_function("multiply", lambda left, right: left * right)
number_function("divide", lambda left, right: left / right if right else 0)


# ---- the expression graph ---------------------------------------------------------------------------------------


def is_taken(name: str) -> bool:
    """Whether Python has a use of its own for an argument's name."""
    return hasattr(builtins, name) or keyword.iskeyword(name)


class Scope:
    """Arguments of the functions being called, and what has been computed with them."""

    def __init__(self, parent: Scope | None = None, arguments: Mapping[str, Any] | None = None):
        self.arguments = {**(parent.arguments if parent else {}), **(arguments or {})}
        self.known: dict[str, Any] = {}


class Evaluator:
    """Evaluates one expression (the client's ``{"values": …, "result": …}``) against a catalogue."""

    def __init__(self, service: Service, expression: Mapping[str, Any]):
        self.service, self.values, self.result = service, expression["values"], expression["result"]

    def run(self) -> Any:
        """The value of the whole expression."""
        return self.look_up(self.result, Scope())

    def look_up(self, key: str, scope: Scope) -> Any:
        if key not in scope.known:
            scope.known[key] = self.evaluate(self.values[key], scope)
        return scope.known[key]

    def evaluate(self, node: Mapping[str, Any], scope: Scope) -> Any:
        ((kind, value),) = node.items()
        if kind == "constantValue":
            return value
        if kind == "integerValue":
            return int(value)
        if kind == "valueReference":
            return self.look_up(value, scope)
        if kind == "argumentReference":
            return scope.arguments[value]
        if kind == "arrayValue":
            return [self.evaluate(one, scope) for one in value["values"]]
        if kind == "dictionaryValue":
            return {key: self.evaluate(one, scope) for key, one in value["values"].items()}
        if kind == "functionDefinitionValue":
            return self.function(value, scope)
        if kind == "functionInvocationValue":
            return self.call(value, scope)
        raise ServiceError(f"unsupported by fake: node {kind}")

    def function(self, definition: Mapping[str, Any], scope: Scope) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            named = dict(zip(definition["argumentNames"], arguments, strict=True))
            return self.look_up(definition["body"], Scope(scope, named))

        return call

    def call(self, invocation: Mapping[str, Any], scope: Scope) -> Any:
        arguments = {key: self.evaluate(node, scope) for key, node in invocation.get("arguments", {}).items()}
        if "functionReference" in invocation:
            return self.look_up(invocation["functionReference"], scope)(*arguments.values())
        name = invocation["functionName"]
        if name not in ALGORITHMS:
            raise ServiceError(f"unsupported by fake: {name}({', '.join(arguments)})")
        for key in ("image", "input", "collection", "image1", "value", "object"):
            if key in arguments and arguments[key] is None and name not in ("Element.set", "Image.unmask"):
                raise ServiceError(f"{name}: Parameter '{key}' is required and may not be null.")
        safe = {f"{key}_" if is_taken(key) else key: value for key, value in arguments.items()}
        try:
            return ALGORITHMS[name](*([self.service] if name in SERVED else []), **safe)
        except TypeError as error:
            if "argument" in str(error):
                raise ServiceError(f"unsupported by fake: {name}: {error}") from error
            raise


def to_json(value: Any) -> Any:
    """A result as value:compute answers it."""
    if isinstance(value, Image | Collection):
        return value.info()
    if isinstance(value, Projection):
        return {"type": "Projection", "crs": value.crs, "transform": list(value.transform)}
    if isinstance(value, Date):
        return {"type": "Date", "value": value.millis}
    if isinstance(value, DateRange):
        return {"type": "DateRange", "dates": [value.start, value.end]}
    if isinstance(value, Geometry):
        return json.loads(shapely.to_geojson(value.shape)) | {"geodesic": False}
    if isinstance(value, list | tuple):
        return [to_json(one) for one in value]
    if isinstance(value, dict):
        return {key: to_json(one) for key, one in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ServiceError(f"unsupported by fake: a result of type {type(value).__name__}")


def requested_grid(request: Mapping[str, Any], band: Band) -> Grid:
    """The grid of a computePixels request; what it leaves out is the first band's own."""
    grid = request.get("grid") or {}
    keys = ("scaleX", "shearX", "translateX", "shearY", "scaleY", "translateY")
    affine, size = grid.get("affineTransform"), grid.get("dimensions") or {}
    transform = tuple(float(affine.get(key, 0.0)) for key in keys) if affine else band.projection.transform
    width, height = (size.get(key, own) for key, own in zip(("width", "height"), band.size or (0, 0), strict=True))
    if not width or not height:
        raise ServiceError("Unable to compute dimensions of an unbounded image; specify a region or dimensions.")
    crs = grid.get("crsCode") or grid.get("crsWkt") or band.projection.crs
    crs_of(crs)
    return Grid(crs, transform, int(width), int(height))


def compute_pixels(image: Any, request: Mapping[str, Any]) -> Array:
    """Pixels of a request as a structured array, masked ones 0, or the service's refusal.

    Tile by tile, so that bands share what they are made of and a request needs little memory.
    """
    if not isinstance(image, Image):
        raise ServiceError("Invalid argument: the expression must evaluate to an image.")
    if request.get("fileFormat", "NPY") not in ("NPY", "NUMPY_NDARRAY"):
        raise ServiceError(f"unsupported by fake: fileFormat {request['fileFormat']}")
    bands = image.choose([re.escape(name) for name in request["bandIds"]]) if request.get("bandIds") else image.bands
    if not bands:
        raise ServiceError("Image has no bands.")
    grid = requested_grid(request, bands[0])
    if max(grid.width, grid.height) > MAX_SIDE:
        raise ServiceError(
            f"Pixel grid dimensions ({grid.width}x{grid.height}) must be less than or equal to {MAX_SIDE}."
        )
    if len(bands) > MAX_BANDS:
        raise ServiceError(f"Number of bands ({len(bands)}) must be less than or equal to {MAX_BANDS}.")
    size = grid.width * grid.height * sum(band.dtype.itemsize + 1 for band in bands)
    if size > MAX_BYTES:
        raise ServiceError(f"Total request size ({size} bytes) must be less than or equal to {MAX_BYTES} bytes.")
    pixels = np.zeros((grid.height, grid.width), [(band.name, band.dtype.newbyteorder("<")) for band in bands])
    for top in range(0, grid.height, TILE):
        for left in range(0, grid.width, TILE):
            part = pixels[top : top + TILE, left : left + TILE]
            tile = grid.grid(left, top, part.shape[1], part.shape[0])
            for band in bands:
                values, mask = band.read(tile)
                part[band.name] = np.where(mask, values, 0)
    return pixels


# ---- the server -------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Fault:
    """One way in which the service misbehaves.

    Attributes
    ----------
    kind
        ``status``: answers ``code`` and ``message`` (with ``retry_after`` where given). ``delay``: waits ``seconds``,
        then goes on. ``drop``: closes the connection without an answer. ``truncate``: half of the body, under the
        full Content-Length. ``short``: half of the body, the Content-Length agrees. ``html``: a page with ``code``.
        ``memory``: refuses more than ``pixels`` pixels, as over the memory limit where ``message`` says nothing else.
        ``dtype``: every band comes as another type. ``band``: the first band comes under another name. ``hang``: no
        answer as long as the server runs.
    path
        Regular expression that the request's path must contain.
    when
        Predicate of the request's JSON body ({} where it has none).
    times
        How many requests it spoils, None for all; only requests that it does spoil are counted.
    """

    kind: Literal["status", "delay", "drop", "truncate", "short", "html", "memory", "dtype", "band", "hang"]
    path: str = "computePixels"
    when: Callable[[dict[str, Any]], bool] | None = None
    times: int | None = 1
    code: int = 503
    message: str = ""
    retry_after: str | None = None
    seconds: float = 0.0
    pixels: int = 0

    def applies(self, path: str, body: dict[str, Any]) -> bool:
        """Whether this rule spoils the request."""
        if self.times == 0 or not re.search(self.path, path):
            return False
        size = (body.get("grid") or {}).get("dimensions") or {}
        if self.kind == "memory" and size.get("width", 0) * size.get("height", 0) <= self.pixels:
            return False
        return self.when is None or self.when(body)


@dataclass(kw_only=True)
class Request:
    """One line of the server's log; ``code`` is 0 and ``sent`` is 0 until it has been answered, or was dropped."""

    method: str
    path: str
    body: dict[str, Any]
    received: int
    code: int = 0
    sent: int = 0
    seconds: float = 0.0
    faults: tuple[str, ...] = ()

    @property
    def is_pixels(self) -> bool:
        """Whether it asks for pixels."""
        return self.path.endswith("image:computePixels")

    @property
    def size(self) -> tuple[int, int]:
        """Requested height and width."""
        size = (self.body.get("grid") or {}).get("dimensions") or {}
        return size.get("height", 0), size.get("width", 0)


@dataclass
class Answer:
    """What goes back; ``announced`` is a Content-Length other than the body's."""

    body: bytes
    kind: str = "application/json"
    code: int = 200
    retry_after: str | None = None
    announced: int | None = None


@lru_cache(maxsize=2)
def shipped(name: str) -> bytes:
    """A file that the client's wheel carries for its own tests."""
    return (Path(ee.__file__).parent / "tests" / name).read_bytes().replace(b"v1alpha", b"v1")


def error_answer(error: ServiceError) -> Answer:
    """The service's JSON form of an error."""
    described = {"error": {"code": error.code, "message": str(error), "status": error.status}}
    return Answer(json.dumps(described).encode(), code=error.code, retry_after=error.retry_after)


class FakeEarthEngine:
    """The service on a loopback port, as a context manager.

    Attributes
    ----------
    url
        What ``ee.Initialize(None, url=..., project="test")`` takes.
    log
        Every request, in order of arrival.
    faults
        Rules; tests append and clear. All delays that match apply, and the first of the others.
    peak
        Most requests at one time.
    max_concurrent
        More at one time are answered 429; None for no limit.
    """

    def __init__(self, datasets: Service | None = None, max_concurrent: int | None = None, workers: int = 2):
        self.datasets = catalog() if datasets is None else datasets
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.max_concurrent = max_concurrent
        self.active = self.peak = 0
        self._lock = threading.Lock()
        self._workers = threading.BoundedSemaphore(workers)
        self._connections: set[Any] = set()
        self._ended = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(), bind_and_activate=False)
        self._http.request_queue_size = 128
        self._http.daemon_threads = True
        self._http.server_bind()
        self._http.server_activate()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> FakeEarthEngine:
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._http.shutdown()
        with self._lock:
            open_now = list(self._connections)
        for connection in open_now:
            with suppress(OSError):
                connection.shutdown(2)
        self._http.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._http.server_port

    def pixel_requests(self) -> list[Request]:
        """The computePixels requests so far."""
        return [request for request in list(self.log) if request.is_pixels]

    def count(self) -> int:
        """How many computePixels requests came in."""
        return len(self.pixel_requests())

    def bytes_sent(self) -> int:
        """Bytes of body that went out in answer to computePixels."""
        return sum(request.sent for request in self.pixel_requests())

    def reset(self) -> None:
        """Forget log, peak and faults."""
        with self._lock:
            self.log.clear()
            self.faults.clear()
            self.peak = 0

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with server._lock:
                    server._connections.add(self.connection)

            def finish(self) -> None:
                with server._lock:
                    server._connections.discard(self.connection)
                with suppress(OSError):
                    super().finish()

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
                """Say nothing: the log is a list."""

            def do_GET(self) -> None:
                server._serve(self, b"")

            def do_POST(self) -> None:
                server._serve(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        return Handler

    def _serve(self, handler: BaseHTTPRequestHandler, raw: bytes) -> None:
        path = urllib.parse.unquote(handler.path.partition("?")[0])
        body = json.loads(raw) if raw else {}
        request = Request(method=handler.command, path=path, body=body, received=len(raw))
        start = time.monotonic()
        with self._lock:
            self.active += 1
            self.peak = max(self.peak, self.active)
            crowded = self.max_concurrent is not None and self.active > self.max_concurrent
            self.log.append(request)
            faults = self._take_faults(path, body)
            request.faults = tuple(fault.kind for fault in faults)
        try:
            answer = self._answer(request, faults, crowded)
            if answer is None:
                handler.close_connection = True
                handler.connection.shutdown(2)
                return
            request.code, request.sent = answer.code, len(answer.body)
            self._send(handler, answer)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True
        finally:
            request.seconds = time.monotonic() - start
            with self._lock:
                self.active -= 1

    def _take_faults(self, path: str, body: dict[str, Any]) -> list[Fault]:
        taken: list[Fault] = []
        for fault in self.faults:
            spoiled = any(one.kind != "delay" for one in taken)
            if (fault.kind != "delay" and spoiled) or not fault.applies(path, body):
                continue
            if fault.times is not None:
                fault.times -= 1
            taken.append(fault)
        return taken

    def _answer(self, request: Request, faults: list[Fault], crowded: bool) -> Answer | None:
        """The answer to a request, None to drop the connection."""
        for fault in faults:
            time.sleep(fault.seconds)
        spoiled = next((fault for fault in faults if fault.kind != "delay"), None)
        try:
            if crowded:
                raise ServiceError(
                    "Too Many Requests: Request was rejected because the request rate or concurrency limit was "
                    "exceeded.",
                    429,
                    "RESOURCE_EXHAUSTED",
                )
            if spoiled is None:
                return self._route(request, None)
            if spoiled.kind == "drop":
                return None
            if spoiled.kind == "status":
                message = spoiled.message or "The service is currently unavailable."
                raise ServiceError(message, spoiled.code, STATUS.get(spoiled.code, "UNKNOWN"), spoiled.retry_after)
            if spoiled.kind == "memory":
                raise ServiceError(spoiled.message or "User memory limit exceeded.")
            if spoiled.kind == "hang":
                self._ended.wait()
                return None
            if spoiled.kind == "html":
                page = b"<!DOCTYPE html><html><title>Error</title><p>That is all we know.</html>"
                return Answer(page, "text/html; charset=UTF-8", spoiled.code)
            answer = self._route(request, spoiled.kind)
            if spoiled.kind in ("truncate", "short"):
                answer.announced = len(answer.body) if spoiled.kind == "truncate" else None
                answer.body = answer.body[: len(answer.body) // 2]
            return answer
        except ServiceError as error:
            return error_answer(error)
        except Exception as error:  # noqa: BLE001 - whatever breaks here must reach the test as text
            return error_answer(ServiceError(f"fake server: {type(error).__name__}: {error}", 400, "INTERNAL"))

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        handler.send_response(answer.code)
        handler.send_header("Content-Type", answer.kind)
        handler.send_header("Content-Length", str(answer.announced or len(answer.body)))
        if answer.retry_after is not None:
            handler.send_header("Retry-After", answer.retry_after)
        handler.end_headers()
        handler.wfile.write(answer.body)
        if answer.announced is not None:
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(2)

    def _route(self, request: Request, spoil: str | None) -> Answer:
        path = request.path
        if path.startswith("/$discovery"):
            return Answer(shipped("cloud_api_discovery_document.json"))
        if path.endswith("/algorithms"):
            return Answer(shipped("algorithms.json"))
        if path.endswith("/value:compute"):
            with self._workers:
                value = Evaluator(self.datasets, request.body["expression"]).run()
                return Answer(json.dumps({"result": to_json(value)}).encode())
        if request.is_pixels:
            with self._workers:
                if self.datasets is catalog():
                    pixels = pixels_of_catalog(json.dumps(request.body, sort_keys=True))
                else:
                    pixels = evaluated_pixels(self.datasets, request.body)
            return Answer(npy(spoiled_pixels(pixels, spoil)), "application/octet-stream")
        raise ServiceError(f"unsupported by fake: {request.method} {path}", 404, "NOT_FOUND")


def evaluated_pixels(datasets: Service, body: Mapping[str, Any]) -> Array:
    """Evaluate a computePixels request."""
    return compute_pixels(Evaluator(datasets, body["expression"]).run(), body)


@lru_cache(maxsize=512)
def pixels_of_catalog(body: str) -> Array:
    """Evaluate a computePixels request against the catalogue, once a session for all servers."""
    pixels = evaluated_pixels(catalog(), json.loads(body))
    pixels.flags.writeable = False
    return pixels


STATUS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


def spoiled_pixels(pixels: Array, spoil: str | None) -> Array:
    """Pixels with another type or another name, where a fault says so."""
    fields = [(name, pixels.dtype[name].str) for name in pixels.dtype.names or ()]
    if spoil == "dtype":
        return pixels.astype([(name, "<f8" if code != "<f8" else "<f4") for name, code in fields])
    if spoil == "band":
        return pixels.astype([(f"{fields[0][0]}_other", fields[0][1]), *fields[1:]], copy=False)
    return pixels


def npy(pixels: Array) -> bytes:
    """The NPY file of an array."""
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    return buffer.getvalue()


# ---- for tests --------------------------------------------------------------------------------------------------


@contextmanager
def offline() -> Iterator[None]:
    """Keep ``ee.Initialize`` from asking the public catalogue for deprecated products; forget the session after."""
    fetch = ee.deprecation._FetchDataCatalogStac
    ee.deprecation._FetchDataCatalogStac = dict
    try:
        yield
    finally:
        ee.deprecation._FetchDataCatalogStac = fetch
        ee.Reset()


@contextmanager
def connected(server: FakeEarthEngine, project: str = "test") -> Iterator[FakeEarthEngine]:
    """The client initialised against a server, and nothing outside."""
    with offline():
        ee.Initialize(None, url=server.url, project=project)
        yield server


def offline_environment() -> dict[str, str]:
    """Environment variables under which another process asks no catalogue either.

    HTTPS goes to a loopback port where nobody listens, so that the request fails at once and the client goes on;
    plain HTTP, and with it this server, is not touched.
    """
    nowhere = "http://127.0.0.1:9"
    return {"HTTPS_PROXY": nowhere, "https_proxy": nowhere, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def serve(port_file: Path) -> None:
    """Serve the catalogue until the process is ended; the port is written to the file once it listens."""
    with FakeEarthEngine() as server:
        draft = port_file.with_name(port_file.name + ".part")
        draft.write_text(f"{server.port}\n")
        draft.replace(port_file)
        threading.Event().wait()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
