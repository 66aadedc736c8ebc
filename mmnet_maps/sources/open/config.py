"""The YAML of open services: which products, from which service, in which order to try."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mmnet_maps.resources import packaged
from mmnet_maps.settings import first_error, read_model
from mmnet_maps.sources.base import Provenance
from mmnet_maps.sources.files.config import Mask, RasterEntry, check_entry
from mmnet_maps.variables import FINE_GROUPS, VARIABLES


class AssetMask(Mask):
    """A raster beside each file that marks its valid pixels."""

    asset: Annotated[
        str | None, Field(description="Asset of the mask; default: the same file, or its name by 'replace'.")
    ] = None


class ServiceEntry(RasterEntry):
    """How the numbers of a variable become values: the keys of a file's entry, and its asset at the service."""

    asset: Annotated[
        str | None,
        Field(description="Name of the variable's file or layer at the service; default: the variable's name."),
    ] = None
    mask: Annotated[AssetMask | None, Field(description="A raster on the same grid that marks valid pixels.")] = None


class ServiceConfig(BaseModel):
    """A service: its kind of access, address, and how politely it is used."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Annotated[Literal["stac", "thredds", "earthdata", "wcs", "tiles"], Field(description="Kind of access.")]
    url: Annotated[str, Field(pattern=r"^https?://", description="Address.")]
    token: Annotated[
        str | None,
        Field(
            pattern=r"^https?://",
            description="Address of the signatures of files, with {collection}; a signature serves a collection.",
        ),
    ] = None
    concurrency: Annotated[int, Field(ge=1, le=16, description="Concurrent requests.")] = 4
    deadline: Annotated[
        float, Field(gt=0, le=600, description="Seconds of silence, or of less than 1 kB/s, before a request failed.")
    ] = 60
    retries: Annotated[int, Field(ge=0, le=10, description="Further tries after a transient error.")] = 5


class Lattice(BaseModel):
    """The whole grid of a coarse product, north up; the part around the conterminous United States is used."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    crs: Annotated[str, Field(description="CRS: a code, PROJ string or WKT.")]
    left: Annotated[float, Field(description="Left edge of the first column.")]
    top: Annotated[float, Field(description="Upper edge of the first row.")]
    cell: Annotated[float, Field(gt=0, description="Side of a cell.")]
    shape: Annotated[tuple[int, int], Field(description="Rows and columns.")]

    @property
    def geobox(self) -> GeoBox:
        """The grid."""
        return GeoBox(self.shape, Affine(self.cell, 0, self.left, 0, -self.cell, self.top), self.crs)


def _own_keys(value: Any) -> Any:
    """Return the entry of each variable as keys and values; a bare text is its asset."""
    if not isinstance(value, dict):
        return value
    return {name: {"asset": own} if isinstance(own, str) else own or {} for name, own in value.items()}


class Product(ServiceEntry):
    """A product of a service; its keys hold for all its variables, each of which may state others."""

    service: Annotated[str, Field(description="The service, by its name under 'services'.")]
    query: Annotated[
        dict[str, Any], Field(description="What is requested from the service; the keys depend on its kind.")
    ]
    variables: Annotated[
        dict[str, dict[str, Any]],
        BeforeValidator(_own_keys),
        Field(min_length=1, description="The asset of each variable, or keys that differ from those of the product."),
    ]
    lattice: Annotated[Lattice | None, Field(description="Grid of a coarse product.")] = None
    settled: Annotated[
        int, Field(ge=0, description="Days after which nothing is added or replaced, unless the service states it.")
    ] = 60

    @cached_property
    def entries(self) -> dict[str, ServiceEntry]:
        """The entry of each variable."""
        shared = {key: getattr(self, key) for key in ServiceEntry.model_fields if key in self.model_fields_set}
        return {name: ServiceEntry.model_validate({**shared, **own}) for name, own in self.variables.items()}

    def asset_of(self, name: str) -> str:
        """Return the asset of a variable."""
        return self.entries[name].asset or name

    @property
    def group(self) -> str:
        """Stack group of its variables."""
        return VARIABLES[next(iter(self.variables))].group

    @property
    def fine(self) -> bool:
        """Whether it is read on the target grid."""
        return self.group in FINE_GROUPS

    @cached_property
    def provenance(self) -> dict[str, Provenance]:
        """The provenance of each variable."""
        recipe = self.model_dump(mode="json", exclude_defaults=True, exclude={"product", "version", "licence"})
        digest = _hash(recipe)
        return {
            name: Provenance(
                source="open", product=entry.product, version=entry.version, licence=entry.licence, recipe=digest
            )
            for name, entry in self.entries.items()
        }

    @model_validator(mode="after")
    def _check(self) -> Product:
        for name in self.variables:
            if name not in VARIABLES:
                raise ValueError(f"unknown variable {name}; expected some of {', '.join(VARIABLES)}")
        groups = sorted({VARIABLES[name].group for name in self.variables})
        if len(groups) > 1:
            raise ValueError(f"variables of several groups ({', '.join(groups)}); expected one; make two products")
        if not self.fine and self.lattice is None:
            raise ValueError(f"no lattice; expected the grid of a product of the group {groups[0]}")
        for name in self.variables:
            try:
                entry = self.entries[name]
            except ValidationError as error:
                raise ValueError(f"variables.{name}: {first_error(error)}") from error
            check_entry(entry, VARIABLES[name])
        return self


class OpenConfig(BaseModel):
    """Products of open services."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="Short name: letters, digits, - and _.")
    ]
    reads: Annotated[int, Field(ge=1, le=16, description="Concurrent reads of windows.")] = 4
    services: Annotated[dict[str, ServiceConfig], Field(min_length=1, description="The services.")]
    products: Annotated[dict[str, Product], Field(min_length=1, description="The products.")]
    use: Annotated[
        tuple[tuple[str, ...], ...],
        BeforeValidator(lambda value: [[one] if isinstance(one, str) else one for one in value]),
        Field(min_length=1, description="The products in use; a list within the list is tried in its order."),
    ]

    @model_validator(mode="after")
    def _check(self) -> OpenConfig:
        for key, product in self.products.items():
            if product.service not in self.services:
                raise ValueError(
                    f"products.{key} names the service {product.service}; expected one of {', '.join(self.services)}"
                )
        held: dict[str, str] = {}
        for chain in self.use:
            for key in chain:
                if key not in self.products:
                    raise ValueError(f"use names {key}; expected one of {', '.join(self.products)}")
                if set(self.products[key].variables) != set(self.products[chain[0]].variables):
                    raise ValueError(f"use: {key} has other variables than {chain[0]}; expected the same ones to try")
            for name in self.products[chain[0]].variables:
                if held.setdefault(name, chain[0]) != chain[0]:
                    raise ValueError(f"use: {name} comes from {held[name]} and from {chain[0]}; expected one of them")
        return self

    @property
    def digest(self) -> str:
        """A hash of everything that decides which values are read."""
        polite = {key: {"concurrency", "deadline", "retries"} for key in self.services}
        exclude: Any = {"name": True, "reads": True, "services": polite}
        return _hash(self.model_dump(mode="json", exclude_defaults=True, exclude=exclude))


def _hash(values: Any) -> str:
    """Return a short hash of values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def load_config(path: str | Path | None) -> OpenConfig:
    """Read the YAML of open services; without a path the packaged one.

    Raises
    ------
    RequestError
        When the file cannot be read, or a key is missing, unknown or out of bounds.
    """
    return read_model(path or packaged("configs") / "open.yaml", OpenConfig, "sources", see="configs/open.yaml")
