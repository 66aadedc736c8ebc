"""The protocol of services: what they have of a product, and the files of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol, runtime_checkable

from odc.geo.geobox import GeoBox

from mmnet_maps.sources.base import Cost
from mmnet_maps.sources.files.alignment import Box
from mmnet_maps.sources.files.listing import DatedFile
from mmnet_maps.sources.open.config import Product, ServiceConfig
from mmnet_maps.sources.open.http import Http

EVERYWHERE: Box = (-180.0, -90.0, 180.0, 90.0)

TILE = 1200
"""Rows and columns of a tile of MODIS and VIIRS at 1 km."""


def side_of(product: Product) -> int:
    """Return the cells, a side, of a file of a coarse product: of a tile of the sinusoidal grid, else all of them."""
    assert product.lattice is not None
    shape = product.lattice.shape
    return max(shape) if any(size % TILE for size in shape) else TILE


@dataclass(frozen=True, kw_only=True)
class Found:
    """One thing that a service has of a product: an item of a catalogue, a granule, a subset that a server makes.

    Attributes
    ----------
    key
        Its name at the service, unique, without secrets; of two versions the newer one is the last by name.
    first, last
        The days it may hold; the same day where it holds one; None for releases without a date.
    box
        Where it may hold values: west, south, east, north, in degrees.
    grid
        The part of the product's lattice that it holds, where that is known: boxes of its tiles are much larger.
    time
        The time of day (UTC) of its field, HHMMSS, where it holds one.
    stamp
        Changes when it is replaced.
    final
        Whether the publisher is done with it; None where that is not stated, and its age decides.
    about
        What the service needs to read it.
    """

    key: str
    first: date | None
    last: date | None
    box: Box = EVERYWHERE
    grid: GeoBox | None = None
    time: str = ""
    stamp: str = ""
    final: bool | None = None
    about: Any = None


class Service(Protocol):
    """A service of products, over one protocol. Threads share it."""

    def check(self, product: Product) -> None:
        """Check the keys of `Product.query`; a pydantic ValidationError where one is missing, unknown or wrong."""
        ...

    def find(self, product: Product, box: Box, first: date, last: date) -> list[Found]:
        """Return what there is of a product in a box and some days, both included; no values are received.

        Raises
        ------
        SourceDownError
            When the service does not answer or refuses.
        """
        ...

    def file(self, product: Product, name: str, found: Found, geobox: GeoBox) -> DatedFile | None:
        """Return the file of a variable: an address that GDAL reads in parts, or a local file, downloaded if need be.

        Parameters
        ----------
        product, name
            The product, and the variable.
        found
            From `find`.
        geobox
            The window to be read; a file may hold more.

        Returns
        -------
        DatedFile or None
            None where it has no file of this variable, which is reported.

        Raises
        ------
        SourceDownError
            When it cannot be received.
        """
        ...

    def cost(self, product: Product, names: Sequence[str], found: Found, geobox: GeoBox) -> Cost:
        """Return the cost of reading some variables on a window; only headers of files may be read for it."""
        ...

    def login(self) -> str:
        """Return how the service knows the user, for people, such as "no login"; no secret, and no request."""
        ...

    def stop(self) -> None:
        """Send no further requests."""
        ...


class PublicService:
    """The requests of a service without a login.

    Parameters
    ----------
    name
        Its name in the YAML.
    config
        The service.
    """

    def __init__(self, name: str, config: ServiceConfig) -> None:
        self.name, self.url, self.http = name, config.url.rstrip("/"), Http(name, config)

    def login(self) -> str:
        """Return that none is needed."""
        return "no login"

    def stop(self) -> None:
        """Send no further requests."""
        self.http.stop()


@runtime_checkable
class Sided(Protocol):
    """A service of files or granules, of which a request costs the same for a few cells as for many."""

    def side(self, product: Product) -> int:
        """Return the cells, a side, of a file or granule of a coarse product."""
        ...


@runtime_checkable
class Joining(Protocol):
    """A service that cuts out any number of days at once."""

    def joined(self, found: Sequence[Found], geobox: GeoBox) -> list[Found]:
        """Join what one request can bring for a window."""
        ...


@runtime_checkable
class NeedsLogin(Protocol):
    """A service that sends files only to users whom it knows."""

    def missing(self) -> str:
        """Return what the user must do before anything can be received; empty where a login is at hand."""
        ...


@runtime_checkable
class Renewing(Protocol):
    """A service whose files cannot be read any more after some time, or that keeps them in a folder."""

    def renew(self, product: Product) -> bool:
        """Prepare another try after a file of a product could not be read; False where it would end as the first."""
        ...
