"""Services whose answers cost little to make, for measuring many stations: real protocols, constant pixels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from shapely.geometry import Point, Polygon

import earthengine_catalog as world
from fake_open import Asked, FakeOpen, Reply, Tokens
from mmnet_maps.sources.files.alignment import degrees
from open_catalog import Item, _landing, stac_item
from open_routes import Earthdata, Thredds, Tiles, Wcs
from open_tiff import SIDE, Tiff

LAND = Polygon([(-122, 48), (-95, 48), (-84, 44), (-75, 43), (-70, 44), (-77, 36), (-82, 31), (-90, 31), (-97, 28),
                (-105, 31), (-116, 34), (-122, 39)])  # fmt: skip
"""The conterminous United States, roughly, well inside its borders."""

MODIS_TILES = [(v, h) for v, first, last in ((4, 8, 13), (5, 7, 12), (6, 8, 10)) for h in range(first, last + 1)]


def stations(count: int) -> list[tuple[float, float]]:
    """Return longitude and latitude of stations that are spread evenly over the country, as those of USCRN are."""
    found: list[tuple[float, float]] = []
    k = 0
    while len(found) < count:
        k += 1
        place = -122 + 52 * (k * 0.7548776662 % 1), 28 + 20 * (k * 0.5698402910 % 1)
        if LAND.contains(Point(place)):
            found.append(place)
    return found


class ConstantTiff(Tiff):
    """A GeoTIFF whose pixels are all the same number."""

    def _block(self, index: int) -> bytes:
        return _constant(self.dtype.str, float(self.values(np.zeros(1), np.zeros(1)).item()))


@lru_cache(maxsize=64)
def _constant(dtype: str, value: float) -> bytes:
    return np.full((SIDE, SIDE), value, dtype).tobytes()


class Scenes:
    """A STAC API of the whole country and any days: Landsat every 16 days, Sentinel-1 every 12, Terra daily.

    Scenes of Landsat and Sentinel-1 lie in squares of one and two degrees; those of MODIS in its tiles.
    """

    def __init__(self, server: FakeOpen, page: int = 250) -> None:
        self._url, self._page, self.tokens = server.url, page, Tokens()
        server.serve(self, self.tokens)

    def answer(self, asked: Asked, server: FakeOpen) -> Reply | None:
        """Answer a request; None for a path of another service."""
        if asked.path == "/stac":
            return Reply.of_json(_landing(server.url))
        if asked.path == "/stac/search":
            body = asked.json
            items, start = _items(self._url, body["collections"][0], tuple(body["bbox"]), body["datetime"]), 0
            start = int(body.get("token", 0))
            stop = start + min(self._page, body["limit"])
            more = {**body, "token": str(stop)}
            links = [{"rel": "next", "href": f"{server.url}/stac/search", "method": "POST", "body": more}]
            features = items[start:stop]
            return Reply.of_json(
                {"type": "FeatureCollection", "features": features, "links": links if stop < len(items) else []}
            )
        if found := re.fullmatch(r"/files/([^/]+)/[^_]+_(-?\d+)_(-?\d+)_\d+_(\w+)\.tif", asked.path):
            if not self.tokens.valid(found[1], asked):
                return Reply(body=b"<Error/>", status=403)
            return Reply(body=_file(found[1], int(found[2]), int(found[3]), found[4]))
        return None


BANDS = {
    "hls2-l30": {**dict.fromkeys(("B02", "B03", "B04", "B05", "B06", "B07"), ("int16", 1500.0)), "Fmask": ("uint8", 0)},
    "sentinel-1-rtc": {"vv": ("float32", 0.1), "vh": ("float32", 0.02)},
    "modis-11A1-061": {"LST_Day_1km": ("uint16", 15000.0), "QC_Day": ("uint8", 0)},
}
"""Type and value of each asset."""

EVERY = {"hls2-l30": (16, 1, "HLS.L30"), "sentinel-1-rtc": (12, 2, "S1A"), "modis-11A1-061": (1, 0, "MOD11A1.")}
"""Days between scenes, degrees of a scene, and the beginning of an id."""


@lru_cache(maxsize=512)
def _items(url: str, collection: str, box: tuple[float, ...], days: str) -> list[Item]:
    first, last = (datetime.fromisoformat(text).date() for text in days.split("/"))
    (every, size, name), (west, south, east, north) = EVERY[collection], box
    found = []
    for a, b, extent in _places(size, west, south, east, north):
        for k in range((last - first).days + 1):
            day = first + timedelta(days=k)
            if (day.toordinal() + 3 * a + 5 * b) % every:
                continue
            began = int(datetime(day.year, day.month, day.day, 17, tzinfo=UTC).timestamp() * 1000)
            properties = {"sar:instrument_mode": "IW", "sar:polarizations": ["VV", "VH"]} if size == 2 else {}
            item = stac_item(f"{name}_{a}_{b}_{day:%Y%m%d}", extent, began, **properties)
            for asset in BANDS[collection]:
                item["assets"][asset] = {"href": f"{url}/files/{collection}/{item['id']}_{asset}.tif"}
            found.append(item)
    return found


def _places(
    size: int, west: float, south: float, east: float, north: float
) -> Iterator[tuple[int, int, tuple[float, ...]]]:
    """Yield the numbers of the places of scenes that meet a box, and their boxes."""
    if size == 0:
        for v, h in MODIS_TILES:
            left, bottom, right, top = degrees(_modis(v, h))
            if left <= east and west <= right and bottom <= north and south <= top:
                yield v, h, (left, bottom, right, top)
        return
    for a in range(int(west // size), int(east // size) + 1):
        for b in range(int(south // size), int(north // size) + 1):
            yield a, b, (a * size, b * size, (a + 1) * size, (b + 1) * size)


def _modis(v: int, h: int) -> GeoBox:
    a, _, c, _, e, f = world.LST_LATTICE.transform
    return GeoBox((1200, 1200), Affine(a, 0, c + h * 1200 * a, 0, e, f + v * 1200 * e), world.SINUSOIDAL)


@lru_cache(maxsize=4096)
def _file(collection: str, a: int, b: int, asset: str) -> Tiff:
    (_, size, _), (dtype, value) = EVERY[collection], BANDS[collection][asset]

    def values(x: Any, y: Any) -> Any:
        return np.full(np.broadcast(x, y).shape, value)

    if size == 0:
        grid = _modis(a, b)
        return ConstantTiff(world.SINUSOIDAL, grid.affine, (1200, 1200), dtype, values)
    crs = f"EPSG:{32601 + int((a + 0.5) * size + 180) // 6}"
    project = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    left, bottom, right, top = project.transform_bounds(a * size, b * size, (a + 1) * size, (b + 1) * size)
    cell = 30 if size == 1 else 10
    affine = Affine(cell, 0, left // cell * cell, 0, -cell, top // cell * cell)
    shape = round((top - bottom) / cell) + 1, round((right - left) / cell) + 1
    return ConstantTiff(crs, affine, shape, dtype, values)


def serve_everything(server: FakeOpen, last: date) -> None:
    """Serve all open services over the whole country until a day."""
    Scenes(server)
    corners = {(lat, lon) for lat in range(24, 50) for lon in range(-126, -66)}
    server.serve(Earthdata(), Thredds(last=last), Wcs(), Tiles(corners=corners))
