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
from mmnet_maps.sources.files.alignment import Box
from mmnet_maps.sources.files.listing import DatedFile
from mmnet_maps.sources.open.blocks import HEADER, Layout, cost_of, layout
from mmnet_maps.sources.open.config import Product, ServiceConfig
from mmnet_maps.sources.open.http import RefusedError
from mmnet_maps.sources.open.service import Found, PublicService
from mmnet_maps.variables import VARIABLES


class TilesQuery(BaseModel):
    """The tiles of a product."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, Field(description="Path of a tile; see `tile_path`.")]


class TilesService(PublicService):
    """Tiles whose addresses follow from their place."""

    def __init__(self, name: str, config: ServiceConfig) -> None:
        super().__init__(name, config)
        self._lock = Lock()
        self._sizes: dict[str, int | None] = {}
        self._layouts: dict[str, Layout] = {}
        self._estimated: set[str] = set()

    def check(self, product: Product) -> None:
        """Check what a product asks for; a pydantic ValidationError where a key is wrong."""
        _query(product)

    def find(self, product: Product, box: Box, first: date, last: date) -> list[Found]:
        """Return the tiles that a box meets and that exist: there are none of the sea."""
        asset = product.asset_of(next(iter(product.variables)))
        found = []
        for south, west in tile_corners(box):
            path = tile_path(_query(product).path, asset, south, west)
            if self._size(path) is not None:
                found.append(
                    Found(key=path, first=None, last=None, box=(west, south, west + 1, south + 1), about=(south, west))
                )
        return found

    def file(self, product: Product, name: str, found: Found, geobox: GeoBox) -> DatedFile | None:
        """Return the address of a tile; see `service.Service.file`."""
        path = tile_path(_query(product).path, product.asset_of(name), *found.about)
        return DatedFile(path=f"{self.url}/{path}")

    def cost(self, product: Product, names: Sequence[str], found: Found, geobox: GeoBox) -> Cost:
        """Return the cost of the blocks in a window, by the headers of the tiles; see `service.Service.cost`."""
        requests, size = 0, 0.0
        for name in names:
            path = tile_path(_query(product).path, product.asset_of(name), *found.about)
            window = geobox.pad(1) if name == "elevation" else geobox
            more, received = cost_of(self._layout(path), window, VARIABLES[name], pad=product.entries[name].reach)
            if more:
                new, first = self._is_new(path), name == names[0]  # of the first, `find` asked whether it exists
                requests, size = requests + more + (2 + first) * new, size + received + HEADER * new
        return Cost(requests=requests, bytes=round(size), values=0, ranges=requests)

    def _size(self, path: str) -> int | None:
        """Return the bytes of a tile; None where there is none."""
        with self._lock:
            if path not in self._sizes:
                try:
                    answer = self.http.send("HEAD", f"{self.url}/{path}")
                    self._sizes[path] = int(answer.headers.get("Content-Length", 0))
                except RefusedError as error:
                    if error.status not in (404, 410):
                        raise
                    self._sizes[path] = None
            return self._sizes[path]

    def _layout(self, path: str) -> Layout:
        """Return the layout of a tile, by its header."""
        size = self._size(path) or 0
        with self._lock:
            if path not in self._layouts:
                self._layouts[path] = layout(f"{self.url}/{path}", size)
            return self._layouts[path]

    def _is_new(self, path: str) -> bool:
        """Return whether a tile is estimated for the first time: GDAL keeps its header."""
        with self._lock:
            new = path not in self._estimated
            self._estimated.add(path)
            return new


def _query(product: Product) -> TilesQuery:
    return TilesQuery.model_validate(product.query)


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
