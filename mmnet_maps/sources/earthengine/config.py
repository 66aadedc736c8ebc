"""The YAML of Earth Engine products: collections, bands, masks and scales."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from odc.geo.geobox import GeoBox
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmnet_maps.resources import packaged
from mmnet_maps.settings import read_model
from mmnet_maps.sources.base import Provenance
from mmnet_maps.sources.earthengine.client import HIGH_VOLUME, LOOPBACK
from mmnet_maps.sources.files.config import Smooth
from mmnet_maps.variables import FINE_GROUPS, STATIC_GROUPS, VARIABLES, Variable

SMALLEST_SIDE = 16
"""Side, in pixels, of a grid that is not split any further."""


class Product(BaseModel):
    """A product of the catalogue: where its variables are, and how they are masked and scaled."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    collection: Annotated[str | None, Field(description="Collection of images by day, or of adjacent tiles.")] = None
    image: Annotated[str | None, Field(description="A single image.")] = None
    yearly: Annotated[bool, Field(description="The collection has an image a year; the nearest year is used.")] = False
    releases: Annotated[dict[int, str], Field(description="One image per year; the nearest year is used.")] = {}
    resolution: Annotated[
        float, Field(gt=0, description="Size of the pixels in metres: how many are averaged; not above the true size.")
    ] = 10.0
    bands: Annotated[dict[str, str], Field(min_length=1, description="Band of each variable.")]
    scale: Annotated[float, Field(description="Factor applied to the stored numbers.")] = 1.0
    offset: Annotated[float, Field(description="Added after scaling.")] = 0.0
    clear: Annotated[dict[str, tuple[int, ...]], Field(description="Bits of a band that must be zero.")] = {}
    where: Annotated[dict[str, str], Field(description="Properties that an image must have.")] = {}
    holds: Annotated[
        dict[str, tuple[str, ...]], Field(description="Properties of an image that are lists, and required entries.")
    ] = {}
    keep: Annotated[dict[str, tuple[float, float]], Field(description="Values outside this range are masked.")] = {}
    smooth: Annotated[Smooth | None, Field(description="Speckle filter.")] = None
    fields: Annotated[int, Field(ge=1, description="Images required for the mean of a day.")] = 1
    final: Annotated[
        dict[str, str],
        Field(description="Properties of an image that is final; default: images are final after sixty days."),
    ] = {}
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
            raise ValueError(f"{', '.join(self.bands)} belong to different groups; list them as separate products")
        if self.group not in STATIC_GROUPS and not self.collection:
            raise ValueError(f"{', '.join(self.bands)} change from day to day; give a collection")
        if self.yearly and (self.group not in STATIC_GROUPS or not self.collection):
            raise ValueError("yearly is for collections of variables without days, such as landcover")
        return self

    @property
    def group(self) -> str:
        """Stack group of its variables."""
        return VARIABLES[next(iter(self.bands))].group

    @property
    def dated(self) -> bool:
        """True where a day decides which image is read."""
        return self.group not in STATIC_GROUPS or self.yearly or bool(self.releases)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids in the catalogue."""
        single = self.collection or self.image
        return (single,) if single else tuple(self.releases.values())

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides which values are read."""
        return self.model_dump(mode="json", exclude={"final", "resolution"})

    def release(self, day: date) -> str:
        """Return the id of the image to use on a day: the only one, or that of the nearest year."""
        return self.image or self.releases[min(self.releases, key=lambda year: abs(year - day.year))]


class EarthEngineConfig(BaseModel):
    """The sources YAML of Earth Engine; ``configs/earthengine.yaml`` is the packaged one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    project: str | None = None
    url: Annotated[str | None, Field(description="Endpoint, in place of the one for high volumes.")] = None
    resampling: Literal["mean", "nearest"] = "mean"
    concurrency: Annotated[int, Field(ge=1, le=40)] = 10
    deadline: Annotated[float, Field(gt=0)] = 180.0
    retries: Annotated[int, Field(ge=0, le=20)] = 6
    side: Annotated[int, Field(ge=SMALLEST_SIDE, le=4096)] = 512
    use: Annotated[tuple[str, ...], Field(min_length=1)]
    products: dict[str, Product]

    @model_validator(mode="after")
    def _check(self) -> EarthEngineConfig:
        address = urlsplit(self.url or HIGH_VOLUME)
        google = address.scheme == "https" and (address.hostname or "").endswith(".googleapis.com")
        if not google and address.hostname not in LOOPBACK:
            raise ValueError(f"url {self.url} is not Google's; credentials are sent to https://….googleapis.com only")
        for name in self.use:
            if name not in self.products:
                raise ValueError(f"use names {name}, which is not among the products {', '.join(self.products)}")
        return self

    @property
    def digest(self) -> str:
        """Hash of everything that decides which values are read."""
        products = {key: self.products[key].recipe for key in self.use}
        return _hash(self.resampling, self.use, products)

    @cached_property
    def selections(self) -> tuple[Selection, ...]:
        """The products in use; each variable comes from the first that has it."""
        names: dict[str, list[str]] = {}
        chosen: set[str] = set()
        for key in dict.fromkeys(self.use):
            new = [name for name in self.products[key].bands if name not in chosen]
            chosen.update(new)
            if new:
                names[key] = new
        return tuple(
            Selection(
                key=key,
                product=self.products[key],
                variables=tuple(VARIABLES[name] for name in new),
                resampling=self.resampling,
                origin=self.name,
            )
            for key, new in names.items()
        )


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A product in use.

    Attributes
    ----------
    key
        Its key in the YAML.
    product
        Its entry in the YAML.
    variables
        The variables read from it; those of an earlier product are left out.
    resampling
        How its pixels are reduced to the target grid.
    origin
        Name of the YAML, for messages.
    """

    key: str
    product: Product
    variables: tuple[Variable, ...]
    resampling: Literal["mean", "nearest"]
    origin: str

    @property
    def names(self) -> list[str]:
        """Names of its variables."""
        return [variable.name for variable in self.variables]

    @property
    def bands(self) -> list[str]:
        """The band of each variable."""
        return [self.product.bands[name] for name in self.names]

    @property
    def group(self) -> str:
        """Stack group of its variables."""
        return self.product.group

    @property
    def fine(self) -> bool:
        """True where it is reduced to the target grid, False where it stays on its own."""
        return self.group in FINE_GROUPS

    @property
    def margin(self) -> int:
        """Pixels read beyond each side of a window, for slope and aspect."""
        return int("elevation" in self.names)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Packed type of its variables, which they share."""
        return np.dtype(self.variables[0].dtype)

    @property
    def label(self) -> str:
        """Its ids and the YAML key that changes them, for messages."""
        product = self.product
        place = "collection" if product.collection else "image" if product.image else "releases"
        return f"{', '.join(product.ids)} (products.{self.key}.{place} in the sources YAML {self.origin})"

    @property
    def provenance(self) -> Provenance:
        """Where its values come from."""
        product = self.product
        return Provenance(
            source="earthengine",
            product=product.product,
            version=product.version,
            licence=product.licence,
            recipe=_hash(self.resampling, product.recipe),
        )

    def grid(self, geobox: GeoBox) -> GeoBox:
        """Return the grid to read for a window: with its margin."""
        return geobox.pad(self.margin) if self.margin else geobox

    def band_types(self, days: Sequence[date]) -> dict[str, str]:
        """Return the bands of a request for some days, in order, and the type of each."""
        return {f"{variable.name}_{day:%Y%m%d}": variable.dtype for day in days for variable in self.variables}


def load_config(path: str | Path | None = None) -> EarthEngineConfig:
    """Read a sources YAML of Earth Engine; without a path, the packaged one.

    Raises
    ------
    RequestError
        When the file cannot be read, or a key is missing, unknown or out of bounds.
    """
    path = Path(path) if path else packaged("configs") / "earthengine.yaml"
    return read_model(path, EarthEngineConfig, "sources", see="configs/earthengine.yaml")


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
