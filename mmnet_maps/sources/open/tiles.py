"""Rasters in tiles of one degree at public addresses, of which GDAL reads only the parts that it needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import date
from threading import Lock
from typing import Annotated

from odc.geo.geobox import GeoBox
from pydantic import BaseModel, ConfigDict, Field

from mmnet_maps.sources.base import Cost
from mmnet_maps.sources.files.alignment import Box, degrees
from mmnet_maps.sources.files.listing import DatedFile
from mmnet_maps.sources.open.config import Product, ServiceConfig
from mmnet_maps.sources.open.http import Http, RefusedError
from mmnet_maps.sources.open.service import Found

_BLOCK = 512
"""Side of the blocks in the tiles, in cells: GDAL requests whole ones."""

_AGAIN = 1.6
"""How often GDAL requests a block, on average: reads side by side share some."""

_BESIDE = 128
"""Pixels around a window whose heights are read too, because slopes at its edge need the next ones."""


class TilesQuery(BaseModel):
    """The tiles of a product."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, Field(description="Path of a tile; see `tile_path`.")]
    cells: Annotated[float, Field(gt=0, description="Cells along a degree, for estimates.")]
    bytes: Annotated[float, Field(gt=0, description="Bytes of a cell as they are sent, compressed, for estimates.")] = 2


class TilesService:
    """Tiles whose addresses follow from their place.

    Parameters
    ----------
    name
        Its name in the YAML.
    config
        The service.
    """

    def __init__(self, name: str, config: ServiceConfig) -> None:
        self.http = Http(name, concurrency=config.concurrency, deadline=config.deadline, retries=config.retries)
        self._url = config.url.rstrip("/")
        self._lock = Lock()
        self._there: dict[str, bool] = {}

    def check(self, product: Product) -> None:
        """Check what a product asks for; a pydantic ValidationError where a key is wrong."""
        TilesQuery.model_validate(product.query)

    def find(self, product: Product, box: Box, first: date, last: date) -> list[Found]:
        """Return the tiles that a box meets and that exist: there are none of the sea."""
        asset = product.asset_of(next(iter(product.variables)))
        found = []
        for south, west in tile_corners(box):
            path = tile_path(TilesQuery.model_validate(product.query).path, asset, south, west)
            if self._exists(path):
                found.append(
                    Found(key=path, first=None, last=None, box=(west, south, west + 1, south + 1), about=(south, west))
                )
        return found

    def file(self, product: Product, name: str, found: Found, geobox: GeoBox) -> DatedFile | None:
        """Return the address of a tile; see `service.Service.file`."""
        path = tile_path(TilesQuery.model_validate(product.query).path, product.asset_of(name), *found.about)
        return DatedFile(path=f"{self._url}/{path}")

    def cost(self, product: Product, names: Sequence[str], found: Found, geobox: GeoBox) -> Cost:
        """Return the requests for the blocks of a tile in a window: GDAL joins those of a row, about."""
        west, south, east, north = degrees(geobox.pad(_BESIDE) if "elevation" in names else geobox)
        left, bottom, right, top = found.box
        wide, high = min(east, right) - max(west, left), min(north, top) - max(south, bottom)
        if wide <= 0 or high <= 0:
            return Cost(requests=0, bytes=0, values=0)
        query = TilesQuery.model_validate(product.query)
        across, down = (part * query.cells / _BLOCK + 0.5 for part in (wide, high))
        blocks = _AGAIN * across * down * len(names)
        return Cost(
            requests=2 * len(names) + math.ceil(blocks / 2), bytes=int(blocks * _BLOCK**2 * query.bytes), values=0
        )

    def login(self) -> str:
        """Return that none is needed."""
        return "no login"

    def stop(self) -> None:
        """Send no further requests."""
        self.http.stop()

    def _exists(self, path: str) -> bool:
        with self._lock:
            if path not in self._there:
                try:
                    self.http.send("HEAD", f"{self._url}/{path}")
                    self._there[path] = True
                except RefusedError as error:
                    if error.status not in (404, 410):
                        raise
                    self._there[path] = False
            return self._there[path]


def tile_corners(box: Box) -> Iterator[tuple[int, int]]:
    """Yield south and west, in degrees, of the tiles that a box meets.

    Examples
    --------
    >>> list(tile_corners((-120.2, 47.1, -119.8, 47.3)))
    [(47, -121), (47, -120)]
    """
    west, south, east, north = box
    for lat in range(math.floor(south), math.ceil(north)):
        for lon in range(math.floor(west), math.ceil(east)):
            yield lat, lon


def tile_path(template: str, asset: str, south: int, west: int) -> str:
    """Return the path of a tile.

    Parameters
    ----------
    template
        With ``{south}``, ``{north}``, ``{west}``, ``{east}`` and, west of Greenwich counted upwards, ``{west_of}``, in
        whole degrees, each with a format such as ``{north:02d}``, and with ``{asset}``.
    asset
        Of the variable.
    south, west
        Corner of the tile, in degrees.

    Examples
    --------
    >>> tile_path("n{north:02d}w{west_of:03d}/USGS_13_n{north:02d}w{west_of:03d}.tif", "", 47, -99)
    'n48w099/USGS_13_n48w099.tif'
    >>> tile_path("{asset}/mean/0_5/lat{south}{north}_lon{west}{east}.tif", "clay", 47, -120)
    'clay/mean/0_5/lat4748_lon-120-119.tif'
    """
    return template.format(asset=asset, south=south, north=south + 1, west=west, east=west + 1, west_of=-west)
