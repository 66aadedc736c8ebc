"""The recipe of a map: everything that decides its values but the day and the inputs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from datetime import date
from typing import Any

from odc.geo.geobox import GeoBox

from mmnet_maps.grid.area import Area
from mmnet_maps.stack.fields import SmapResampling

PRODUCT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the values of a map, but the day and the inputs.

    An option that changes values is a field here, and nowhere else. All fields are part of the fingerprint, in this
    order: a map is current if its recipe, day and inputs have the fingerprint that it was written with.

    Attributes
    ----------
    product_version
        Raised when the software computes other values from the same inputs.
    checkpoints
        Fingerprints of the checkpoints; several are an ensemble.
    draws
        Monte Carlo dropout members drawn from each checkpoint.
    members
        Whether the members themselves are kept.
    precision
        Of the networks' matrix products (see `engine.Engine`).
    grid
        Pixels of the map.
    area
        Pixels outside this area are nodata; its name does not matter.
    smap_resampling
        How the SMAP field is brought to the pixels.
    """

    product_version: int = PRODUCT_VERSION
    checkpoints: tuple[str, ...]
    draws: int
    members: bool
    precision: str
    grid: GeoBox
    area: Area
    smap_resampling: SmapResampling

    def dump(self) -> list[Any]:
        """Return the values of all fields as JSON can hold them."""
        return [value for field in fields(self) for value in _plain(getattr(self, field.name))]

    def fingerprint(self, day: date, inputs: str) -> str:
        """Hash recipe, day and the fingerprint of the inputs: products with the same hash are the same."""
        return _hash([*self.dump(), day.isoformat(), inputs])

    @property
    def place_id(self) -> str:
        """Hash of grid and area: two products of one name with different hashes are of different areas."""
        return _hash([*_plain(self.grid), *_plain(self.area)])[:16]


def _plain(value: Any) -> list[Any]:
    if isinstance(value, GeoBox):
        return [str(value.crs), tuple(value.affine), tuple(value.shape)]
    return [value.geometry.wkb_hex] if isinstance(value, Area) else [value]


def _hash(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
