"""Google Earth Engine as a source: masks, area means and packing are done there, only the stack's integers come over.

Fine products are reduced to the grid that is asked for by the recipe of the training data: mask, area mean of the bands
(land cover: the most frequent class). Coarse ones are asked for on their own grids, pixel by pixel.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, partial
from math import ceil
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pyproj import Transformer

from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import cover
from mmnet_maps.grid.tiles import conus_grid
from mmnet_maps.resources import packaged
from mmnet_maps.settings import read_model
from mmnet_maps.sources.base import Cost, Pace, Provenance, Rasters
from mmnet_maps.sources.earthengine.client import HIGH_VOLUME, LOOPBACK, REQUEST_BYTES, Client, TooMuchError
from mmnet_maps.sources.files.config import Smooth
from mmnet_maps.sources.terrain import terrain
from mmnet_maps.variables import FINE_GROUPS, VARIABLES

_BANDS = 1024  # of one request
_SMALLEST = 16  # side of a grid that is not split any further
_NATIVE_PIXELS = 65_535  # to one pixel of the target grid; the most that Earth Engine allows
_DELAY = timedelta(days=60)  # until when a product may still appear
_MARGIN = 4  # cells of a coarse lattice around CONUS
_KNOWN_CRS = {
    # The sphere of the MODIS products, which Earth Engine names by a code of a registry that PROJ does not have.
    "SR-ORG:6974": "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs",
}


class Product(BaseModel):
    """Where variables are in the catalogue, and what is done to them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    collection: Annotated[str | None, Field(description="Images by day, or side by side.")] = None
    image: Annotated[str | None, Field(description="One image.")] = None
    releases: Annotated[dict[int, str], Field(description="One image for a year; the nearest counts.")] = {}
    bands: Annotated[dict[str, str], Field(min_length=1, description="Band of each variable.")]
    scale: Annotated[float, Field(description="Multiplies the stored numbers.")] = 1.0
    offset: Annotated[float, Field(description="Is added after scale.")] = 0.0
    clear: Annotated[dict[str, tuple[int, ...]], Field(description="Bits of a band that must be zero.")] = {}
    where: Annotated[dict[str, str], Field(description="Properties that an image must have.")] = {}
    holds: Annotated[dict[str, tuple[str, ...]], Field(description="Lists that must hold these.")] = {}
    keep: Annotated[dict[str, tuple[float, float]], Field(description="Range outside which a value is masked.")] = {}
    smooth: Annotated[Smooth | None, Field(description="Speckle filter.")] = None
    fields: Annotated[int, Field(ge=1, description="Images that a day's mean needs.")] = 1
    product: Annotated[str, Field(min_length=1, description="Name of the product.")]
    version: str = "not stated"
    licence: str = "not stated"

    @model_validator(mode="after")
    def _check(self) -> Product:
        if sum(map(bool, (self.collection, self.image, self.releases))) != 1:
            raise ValueError("give one of collection, image and releases")
        unknown = [name for name in (*self.bands, *self.keep) if name not in VARIABLES]
        if unknown:
            raise ValueError(f"unknown variable {unknown[0]}; expected some of {', '.join(VARIABLES)}")
        groups = {VARIABLES[name].group for name in self.bands}
        if len(groups) > 1 or len({VARIABLES[name].dtype for name in self.bands}) > 1:
            raise ValueError(f"{', '.join(self.bands)} belong to different groups; make products of their own")
        if self.group != "static" and not self.collection:
            raise ValueError(f"{', '.join(self.bands)} change from day to day: give a collection")
        return self

    @property
    def group(self) -> str:
        """Stack group of its variables."""
        return VARIABLES[next(iter(self.bands))].group


class EarthEngineConfig(BaseModel):
    """The sources YAML of Earth Engine; ``configs/earthengine.yaml`` is the packaged one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    project: str | None = None
    url: Annotated[str | None, Field(description="Another endpoint than that for many requests.")] = None
    resampling: Literal["mean", "nearest"] = "mean"
    concurrency: Annotated[int, Field(ge=1, le=40)] = 10
    deadline: Annotated[float, Field(gt=0)] = 180.0
    retries: Annotated[int, Field(ge=0, le=20)] = 6
    side: Annotated[int, Field(ge=_SMALLEST, le=4096)] = 512
    use: Annotated[tuple[str, ...], Field(min_length=1)]
    products: dict[str, Product]

    @model_validator(mode="after")
    def _check(self) -> EarthEngineConfig:
        address = urlsplit(self.url or HIGH_VOLUME)
        google = address.scheme == "https" and (address.hostname or "").endswith(".googleapis.com")
        if not google and address.hostname not in LOOPBACK:
            raise ValueError(f"url {self.url} is not Google's; credentials go to https://….googleapis.com alone")
        for name in self.use:
            if name not in self.products:
                raise ValueError(f"use names {name}, which is not among the products {', '.join(self.products)}")
        return self


def load_config(path: str | Path | None = None) -> EarthEngineConfig:
    """Read a sources YAML of Earth Engine; the packaged one where no path is given.

    Raises
    ------
    RequestError
        When it cannot be read, or something in it is not allowed.
    """
    path = Path(path) if path else packaged("configs") / "earthengine.yaml"
    return read_model(path, EarthEngineConfig, "sources", see="configs/earthengine.yaml")


@dataclass(frozen=True, kw_only=True)
class _Lattice:
    """A product's own grid: whole, the part of it that covers CONUS, and its CRS as Earth Engine names it."""

    geobox: GeoBox
    code: str


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """One request: a product on some days in a window, whose rows and columns of what is asked for are `there`."""

    key: str
    days: tuple[date, ...]
    geobox: GeoBox
    there: tuple[slice, slice]


class EarthEngineSource:
    """Products of the Earth Engine catalogue (schema: `EarthEngineConfig`); signed in to when first asked.

    Parameters
    ----------
    path
        A sources YAML; the packaged ``configs/earthengine.yaml`` where left out.

    Raises
    ------
    RequestError
        When the YAML cannot be read or something in it is not allowed.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._config = config = load_config(path)
        self._products = {key: config.products[key] for key in config.use}
        self._client = Client(
            project=config.project,
            url=config.url,
            concurrency=config.concurrency,
            deadline=config.deadline,
            retries=config.retries,
        )
        self._lattices: dict[str, _Lattice] = {}
        self._listed: dict[tuple[Any, ...], list[date]] = {}
        self._locks: dict[tuple[Any, ...], Lock] = {}

    @property
    def name(self) -> str:
        """The YAML's name, and a hash of what is asked for."""
        products = {key: product.model_dump(mode="json") for key, product in self._products.items()}
        return f"{self._config.name}-{_hash(self._config.resampling, self._config.use, products)}"

    @property
    def pace(self) -> Pace:
        """As many reads at a time as requests, of one day each where a day is a request."""
        return Pace(reads=self._config.concurrency, fine_days=1, delay=_DELAY)

    def stop(self) -> None:
        """Ask nothing more; this source is of no use any more, a new one is."""
        self._client.stop()

    @property
    def traffic(self) -> Any:
        """What has been asked so far (`client.Traffic`)."""
        return self._client.traffic

    def variables(self) -> Mapping[str, Provenance]:
        """The variables of the products in use; slope and aspect follow from elevation."""
        found = {}
        for name, key in self._chosen.items():
            product = self._products[key]
            found[name] = Provenance(
                source="earthengine",
                product=product.product,
                version=product.version,
                licence=product.licence,
                recipe=_hash(self._config.resampling, product.model_dump(mode="json")),
            )
        if "elevation" in found:
            found |= {name: found["elevation"] for name in ("slope", "aspect") if name not in found}
        return found

    @cached_property
    def _chosen(self) -> dict[str, str]:
        """Variable: the first product in use that has it."""
        found: dict[str, str] = {}
        for key, product in self._products.items():
            for name in product.bands:
                found.setdefault(name, key)
        return found

    def lattice(self, group: str) -> GeoBox:
        """The product's own grid, as far as it covers CONUS.

        Raises
        ------
        InputError
            When no product in use has the group, or several lie on different grids.
        """
        keys = self._keys(group)
        if not keys:
            raise InputError(f"the sources {self._config.name} use no product of the group {group}; add one to 'use'")
        found = [self._lattice(key) for key in keys]
        if any(other.geobox != found[0].geobox for other in found):
            raise InputError(f"the products {', '.join(keys)} lie on different grids; use one of them for {group}")
        return found[0].geobox

    def _lattice(self, key: str) -> _Lattice:
        if key not in self._lattices:
            product = self._products[key]
            band = next(iter(product.bands.values()))
            what = self._what(key)
            told = self._client.info(lambda ee: ee.ImageCollection(product.collection).first().select([band]), what)
            first = (told or {}).get("bands", [{}])[0]
            if not {"crs", "crs_transform", "dimensions"} <= first.keys():
                raise InputError(f"{what}: the collection is empty or its images have no grid; check its id")
            (a, b, c, d, e, f), (width, height) = first["crs_transform"], first["dimensions"]
            if b or d or a <= 0 or e >= 0:
                raise InputError(f"{what}: its grid is rotated; expected rows from the north")
            whole = GeoBox((height, width), Affine(a, 0, c, 0, e, f), _KNOWN_CRS.get(first["crs"], first["crs"]))
            self._lattices[key] = _Lattice(geobox=whole[cover(conus_grid(), whole, pad=_MARGIN)], code=first["crs"])
        return self._lattices[key]

    def days(self, group: str, geobox: GeoBox, start: date, end: date) -> list[date]:
        """The days (UTC) with an image over the window; for ``static`` every day."""
        if group == "static":
            return [start + timedelta(days=k) for k in range((end - start).days + 1)]
        return sorted({day for key in self._keys(group) for day in self._days_of(key, geobox, start, end)})

    def _days_of(self, key: str, geobox: GeoBox, start: date, end: date) -> list[date]:
        """The days with an image of a product; listed once a year and window, however many reads ask."""
        window = geobox if self._products[key].group in FINE_GROUPS else None
        found: list[date] = []
        for year in range(start.year, end.year + 1):
            asked = (key, window, year)
            with self._locks.setdefault(asked, Lock()):
                if asked not in self._listed:
                    images = partial(self._year, key=key, geobox=geobox, year=year)
                    times = self._client.info(images, f"{self._what(key)}, {year}")
                    self._listed[asked] = sorted({datetime.fromtimestamp(time / 1e3, UTC).date() for time in times})
            found += self._listed[asked]
        return [day for day in found if start <= day <= end]

    def _year(self, ee: Any, key: str, geobox: GeoBox, year: int) -> Any:
        collection = self._collection(ee, key, geobox, date(year, 1, 1), date(year, 12, 31))
        return collection.aggregate_array("system:time_start")

    def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        """Read the group's variables; see `mmnet_maps.sources.base.Source.read`."""
        shape = (len(days), geobox.shape.y, geobox.shape.x)
        found: Rasters = {}
        for key in self._keys(group):
            names = self._names(key)
            grid = self._with_margin(key, geobox)
            packed = {
                name: np.full((len(days), *grid.shape), VARIABLES[name].nodata, VARIABLES[name].dtype) for name in names
            }
            for piece in self._pieces(key, grid, self._there(key, geobox, days)):
                self._fill(packed, days, piece)
            values = {name: VARIABLES[name].unpack(packed.pop(name)) for name in names}
            if "elevation" in names:
                found |= _with_terrain(values.pop("elevation"), geobox)
            found |= values
        assert all(values.shape == shape for values in found.values())
        return found

    def cost(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Cost:
        """What `read` would ask for, without asking; `days` are those that `days` gives."""
        requests = received = values = 0
        for key in self._keys(group):
            for piece in self._pieces(key, self._with_margin(key, geobox), self._there(key, geobox, days)):
                cells = piece.geobox.shape.x * piece.geobox.shape.y * len(piece.days)
                requests += 1
                received += _header_bytes(self._dtypes(piece)) + cells * self._pixel_bytes(key, mask=False)
                values += cells * len(self._names(key))
        return Cost(requests=requests, bytes=received, values=values)

    def _with_margin(self, key: str, geobox: GeoBox) -> GeoBox:
        """What is asked for of a product: a pixel more on every side for slope and aspect."""
        return geobox.pad(1) if "elevation" in self._names(key) else geobox

    def _there(self, key: str, geobox: GeoBox, days: Sequence[date]) -> tuple[date, ...]:
        """Of some days those on which a product has an image."""
        if self._products[key].group == "static":
            return tuple(days)
        there = set(self._days_of(key, geobox, days[0], days[-1]))
        return tuple(day for day in days if day in there)

    def _keys(self, group: str) -> list[str]:
        return [key for key in dict.fromkeys(self._chosen.values()) if self._products[key].group == group]

    def _names(self, key: str) -> list[str]:
        return [name for name in self._products[key].bands if self._chosen[name] == key]

    def _what(self, key: str) -> str:
        """A product for errors: its id, and the key of the YAML that changes it."""
        product = self._products[key]
        place = "collection" if product.collection else "image" if product.image else "releases"
        given = product.collection or product.image or ", ".join(product.releases.values())
        return f"{given} (products.{key}.{place} in the sources YAML {self._config.name})"

    def _pixel_bytes(self, key: str, *, mask: bool) -> int:
        return sum(np.dtype(VARIABLES[name].dtype).itemsize + mask for name in self._names(key))

    def _pieces(self, key: str, geobox: GeoBox, days: tuple[date, ...]) -> Iterator[_Piece]:
        """Requests within the limits: fine products at most `side` pixels a side, many days where there is room."""
        if not days:
            return
        side = self._config.side if self._products[key].group in FINE_GROUPS else max(geobox.shape)
        side += 2 * ("elevation" in self._names(key))  # room for the margin
        most = REQUEST_BYTES // self._pixel_bytes(key, mask=True)
        while side > _SMALLEST and side * side > most:
            side = ceil(side / 2)
        pixels = min(side, geobox.shape.x) * min(side, geobox.shape.y)
        # Area means are work for Earth Engine: many days at once only of windows that are small.
        budget = self._config.side**2 if self._products[key].group in FINE_GROUPS else most
        at_once = max(1, min(_BANDS // len(self._names(key)), budget // pixels))
        for start in range(0, len(days), at_once):
            for there in _cut(geobox.shape, side):
                yield _Piece(key=key, days=days[start : start + at_once], geobox=geobox[there], there=there)

    def _fill(self, packed: Rasters, days: Sequence[date], piece: _Piece) -> None:
        """Ask for a piece; one that is too much is asked for by half its days, and a single day in four parts."""
        names = self._names(piece.key)
        code = self._code(piece)
        what = f"{self._what(piece.key)}, {piece.days[0]}"
        try:
            found = self._client.pixels(self._image(piece), piece.geobox, code, self._dtypes(piece), what)
        except TooMuchError as error:
            if len(piece.days) > 1:
                middle = len(piece.days) // 2
                for half in (piece.days[:middle], piece.days[middle:]):
                    self._fill(packed, days, replace(piece, days=half))
                return
            if max(piece.geobox.shape) <= _SMALLEST:
                fine = self._products[piece.key].group in FINE_GROUPS
                raise InputError(
                    f"{error}; a grid of {_SMALLEST} pixels is too much for Earth Engine: run the same command again "
                    f"later{', or set resampling: nearest in the sources YAML' if fine else ''}"
                ) from error
            rows, cols = piece.there
            for down, right in _cut(piece.geobox.shape, ceil(max(piece.geobox.shape) / 2)):
                part = (
                    slice(rows.start + down.start, rows.start + down.stop),
                    slice(cols.start + right.start, cols.start + right.stop),
                )
                self._fill(packed, days, replace(piece, geobox=piece.geobox[down, right], there=part))
            return
        for day in piece.days:
            for name in names:
                packed[name][days.index(day)][piece.there] = found[f"{name}_{day:%Y%m%d}"]

    def _dtypes(self, piece: _Piece) -> dict[str, str]:
        """The bands of a piece and their types, in order."""
        return {f"{name}_{day:%Y%m%d}": VARIABLES[name].dtype for day in piece.days for name in self._names(piece.key)}

    def _code(self, piece: _Piece) -> dict[str, str]:
        if self._products[piece.key].group not in FINE_GROUPS:
            code = self._lattice(piece.key).code
            return {"crsCode": code} if re.fullmatch(r"[A-Z-]+:\d+", code) else {"crsWkt": code}
        crs = piece.geobox.crs
        assert crs is not None
        epsg = crs.to_epsg()
        return {"crsCode": f"EPSG:{epsg}"} if epsg else {"crsWkt": crs.to_wkt()}

    def _image(self, piece: _Piece) -> Any:
        """The piece's bands, a day after the other, packed as in the stack: nodata where anything is missing."""
        ee = self._client.start()
        product, names = self._products[piece.key], self._names(piece.key)
        images = []
        for day in piece.days:
            if product.collection is None:
                chosen = product.image or product.releases[min(product.releases, key=lambda year: abs(year - day.year))]
                whole = self._reduced(ee, piece.key, self._masked(ee, piece.key, ee.Image(chosen)))
            elif product.group == "static":
                # Tiles that lie side by side on one lattice are joined first: a pixel across a seam has a part in each.
                every = ee.ImageCollection(product.collection)
                tiles = self._collection(ee, piece.key, piece.geobox, None, day)
                joined = self._upon_blank(ee, names, tiles.map(partial(self._masked, ee, piece.key))).mosaic()
                band = product.bands[names[0]]
                joined = joined.setDefaultProjection(every.first().select([band]).projection())
                whole = self._reduced(ee, piece.key, joined)
            else:
                # Scenes lie on lattices of their own, which a mosaic has lost: each is reduced by itself.
                def reduced(image: Any) -> Any:
                    return self._reduced(ee, piece.key, self._masked(ee, piece.key, image))

                scenes = self._collection(ee, piece.key, piece.geobox, day, day)
                layers = self._upon_blank(ee, names, scenes.map(reduced))
                whole = layers.mosaic() if product.fields == 1 else layers.mean()
                if product.fields > 1:
                    whole = whole.updateMask(layers.count().gte(product.fields))
            images.append(_packed(ee, whole, names).rename([f"{name}_{day:%Y%m%d}" for name in names]))
        return ee.Image.cat(images) if len(images) > 1 else images[0]

    def _collection(self, ee: Any, key: str, geobox: GeoBox, start: date | None, end: date) -> Any:
        """A product's images over a window, from `start` (None: all) to `end`, both included."""
        product = self._products[key]
        found = ee.ImageCollection(product.collection)
        if start is not None:
            found = found.filterDate(start.isoformat(), (end + timedelta(days=1)).isoformat())
        if product.group in FINE_GROUPS:
            found = found.filterBounds(ee.Geometry.Rectangle(list(_degrees(geobox)), "EPSG:4326", False))
        for name, value in product.where.items():
            found = found.filter(ee.Filter.eq(name, value))
        for name, values in product.holds.items():
            for value in values:
                found = found.filter(ee.Filter.listContains(name, value))
        return found

    @staticmethod
    def _upon_blank(ee: Any, names: Sequence[str], images: Any) -> Any:
        """The images with an empty one beneath, so that where there is none the answer is empty and not an error."""
        blank = ee.Image.constant([0.0] * len(names)).toFloat().rename(names).updateMask(0)
        return ee.ImageCollection([blank]).merge(images)

    def _masked(self, ee: Any, key: str, image: Any) -> Any:
        """A product's variables in its own pixels: masked, scaled, smoothed."""
        product, names = self._products[key], self._names(key)
        bands = image.select([product.bands[name] for name in names], names)
        for band, bits in product.clear.items():
            bands = bands.updateMask(image.select(band).toInt().bitwiseAnd(sum(1 << bit for bit in bits)).eq(0))
        if product.scale != 1:
            bands = bands.multiply(product.scale)
        if product.offset:
            bands = bands.add(product.offset)
        if product.keep:
            ends = [product.keep.get(name, (VARIABLES[name].valid_min, VARIABLES[name].valid_max)) for name in names]
            bands = _within(ee, bands, ends)
        if product.smooth:
            bands = _smoothed(bands, ee.Kernel.gaussian(product.smooth.radius, product.smooth.sigma, "pixels"))
        return bands.toFloat()  # images of one collection must be of one type

    def _reduced(self, ee: Any, key: str, bands: Any) -> Any:
        """Fine products at the target's pixels: mean or mode, or the pixel beneath the centre."""
        if self._products[key].group not in FINE_GROUPS:
            return bands
        if self._config.resampling == "nearest":  # of the product's own pixels, not of a pyramid's
            return bands.reproject(bands.select([0]).projection())
        mode = VARIABLES[self._names(key)[0]].aggregation == "mode"
        reducer = ee.Reducer.mode() if mode else ee.Reducer.mean()
        return bands.reduceResolution(reducer, False, _NATIVE_PIXELS).toFloat()


def _degrees(geobox: GeoBox) -> tuple[float, float, float, float]:
    """West, south, east and north of a grid."""
    west, south, east, north = Transformer.from_crs(geobox.crs, "EPSG:4326", always_xy=True).transform_bounds(
        *geobox.boundingbox.bbox
    )
    return west, south, east, north


def _smoothed(bands: Any, kernel: Any) -> Any:
    """Convolved with a kernel over the pixels that are there; what is masked stays so and counts for nothing."""
    there = bands.mask()
    return bands.unmask(0).convolve(kernel).divide(there.convolve(kernel)).updateMask(there)


def _within(ee: Any, bands: Any, ends: Sequence[tuple[float, float]]) -> Any:
    """Mask, band by band, what lies outside a range."""
    low, high = ([end[k] for end in ends] for k in (0, 1))
    return bands.updateMask(bands.gte(ee.Image.constant(low)).And(bands.lte(ee.Image.constant(high))))


def _packed(ee: Any, image: Any, names: Sequence[str]) -> Any:
    """Physical values as the integers of the stack.

    Masked pixels come over as 0, so that they are given the stack's nodata here, also beyond an image's footprint.
    """
    variables = [VARIABLES[name] for name in names]
    image = _within(ee, image, [(variable.valid_min, variable.valid_max) for variable in variables])
    if variables[0].dtype == "uint8":
        return image.unmask(variables[0].nodata, False).toUint8()
    steps = image.subtract(ee.Image.constant([variable.offset for variable in variables]))
    steps = steps.divide(ee.Image.constant([variable.scale for variable in variables])).round()
    return steps.unmask(variables[0].nodata, False).toInt16()


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _header_bytes(dtypes: Mapping[str, str]) -> int:
    """What precedes the values of an answer."""
    answer = io.BytesIO()
    np.save(answer, np.empty(0, list(dtypes.items())))
    return answer.tell()


def _cut(shape: Any, side: int) -> Iterator[tuple[slice, slice]]:
    """Windows of at most `side` pixels a side that cover a grid."""
    for top in range(0, shape[0], side):
        for left in range(0, shape[1], side):
            yield slice(top, min(top + side, shape[0])), slice(left, min(left + side, shape[1]))


def _with_terrain(elevation: NDArray[np.float32], geobox: GeoBox) -> Rasters:
    """Elevation, slope and aspect from elevation with a margin of one pixel, (time, y + 2, x + 2)."""
    found = [{"elevation": layer[1:-1, 1:-1], **terrain(layer, geobox)} for layer in elevation]
    return {name: np.stack([layer[name] for layer in found]) for name in found[0]}
