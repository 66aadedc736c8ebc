"""The procedural world of `earthengine_catalog` as a STAC API with signed files, as the Planetary Computer has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
from affine import Affine

import earthengine_catalog as world
from fake_open import Asked, FakeOpen, File, Files, Reply, Tokens
from open_tiff import Tiff

BANDS = {"B02": "B2", "B03": "B3", "B04": "B4", "B05": "B5", "B06": "B6", "B07": "B7"}
LANDSAT_BANDS = {"blue": "B2", "green": "B3", "red": "B4", "nir08": "B5", "swir16": "B6", "swir22": "B7"}
MODIS_SIDE = 1200
"""Cells of a tile of MODIS."""
MODIS_TILES = ((4, 8), (4, 9), (4, 10), (5, 8), (5, 9))
"""Vertical and horizontal numbers of the tiles around the north-west."""

Item = dict[str, Any]
Entry = tuple[Item, dict[str, File]]


@dataclass
class Planetary:
    """A STAC API at ``/stac``, its tokens at ``/token``, and its files at ``/files/COLLECTION``.

    Attributes
    ----------
    items
        The items of each collection; tests change them.
    collections
        Makes the items and files of each collection; default: all of the procedural world.
    page
        Items of an answer.
    tokens
        The signatures.
    """

    server: FakeOpen
    collections: Mapping[str, Callable[[], Iterable[Entry]]] | None = None
    page: int = 40
    tokens: Tokens = field(default_factory=Tokens)
    items: dict[str, list[Item]] = field(default_factory=dict)
    files: dict[str, Files] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for collection, make in (COLLECTIONS if self.collections is None else self.collections).items():
            found: list[Item] = []
            self.files[collection] = Files({}, signed=partial(self.tokens.valid, collection))
            for item, assets in make():
                for key, file in assets.items():
                    path = f"/files/{collection}/{item['id']}_{key}.tif"
                    self.files[collection].add(path, file)
                    item["assets"][key] = {"href": f"{self.server.url}{path}", "type": "image/tiff"}
                found.append({**item, "collection": collection})
            self.items[collection] = found
        self.server.serve(self, self.tokens, *self.files.values())

    def answer(self, asked: Asked, server: FakeOpen) -> Reply | None:
        if asked.path == "/stac":
            return Reply.of_json(_landing(server.url))
        if asked.path != "/stac/search":
            return None
        body = asked.json
        (collection,) = body["collections"]
        found = [item for item in self.items.get(collection, []) if _matches(item, body)]
        start = int(body.get("token", 0))
        stop = start + min(self.page, body["limit"])
        links = []
        if stop < len(found):
            next_body = {**body, "token": str(stop)}
            links = [{"rel": "next", "href": f"{server.url}/stac/search", "method": "POST", "body": next_body}]
        return Reply.of_json({"type": "FeatureCollection", "features": found[start:stop], "links": links})


def _landing(url: str) -> dict[str, Any]:
    return {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": "fake",
        "description": "A loopback STAC API",
        "conformsTo": ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"],
        "links": [
            {"rel": "self", "href": f"{url}/stac"},
            {"rel": "root", "href": f"{url}/stac"},
            {"rel": "search", "href": f"{url}/stac/search", "method": "POST", "type": "application/geo+json"},
            {"rel": "search", "href": f"{url}/stac/search", "method": "GET", "type": "application/geo+json"},
        ],
    }


def _matches(item: Item, body: dict[str, Any]) -> bool:
    west, south, east, north = body["bbox"]
    left, bottom, right, top = item["bbox"]
    first, last = (datetime.fromisoformat(text) for text in body["datetime"].split("/"))
    properties = item["properties"]
    start = datetime.fromisoformat(properties.get("start_datetime") or properties["datetime"])
    end = datetime.fromisoformat(properties.get("end_datetime") or properties["datetime"])
    return left <= east and west <= right and bottom <= north and south <= top and start <= last and first <= end


def stac_item(key: str, box: Iterable[float], start: int, end: int | None = None, **properties: Any) -> Item:
    moment, until = (
        datetime.fromtimestamp(time / 1000, UTC).isoformat().replace("+00:00", "Z") for time in (start, end or start)
    )
    times = {"datetime": moment} if end is None else {"datetime": None, "start_datetime": moment, "end_datetime": until}
    west, south, east, north = box
    corners = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": key,
        "bbox": [west, south, east, north],
        "geometry": {"type": "Polygon", "coordinates": [corners]},
        "properties": {**times, "proj:code": "EPSG:None", "updated": "2026-01-01T00:00:00Z", **properties},
        "links": [],
        "assets": {},
    }


def scene_file(
    scene: world.Scene, band: str, dtype: str, convert: Callable[[np.ndarray], np.ndarray], **options: Any
) -> Tiff:
    """A band of a scene as a file."""
    lattice, formula = scene.lattice, scene.layers[band].formula
    return Tiff(
        lattice.crs,
        Affine(*lattice.transform),
        (lattice.height, lattice.width),
        dtype,
        lambda x, y: convert(formula(x, y)),
        **options,
    )


def hls(served: Callable[[world.Scene], bool] = bool) -> Iterator[Entry]:
    """hls2-l30: integers of 1e-4 and −9999, which nothing states."""
    for scene in filter(served, world.catalog()["NASA/HLS/HLSL30/v002"].scenes):
        assert scene.bounds is not None
        assert scene.start is not None
        tile, _, moment = scene.index.partition("_")
        item = stac_item(f"HLS.L30.{tile}.{moment}.v2.0", scene.bounds, scene.start, platform="landsat-8")
        assets: dict[str, File] = {
            key: scene_file(scene, band, "int16", lambda v: v / 1e-4, nodata=-9999) for key, band in BANDS.items()
        }
        assets["Fmask"] = scene_file(scene, "Fmask", "uint8", lambda v: v, nodata=255, stated=True)
        yield item, assets


def landsat() -> Iterator[Entry]:
    """landsat-c2-l2: with an image of an older satellite, whose values are wrong, on every day."""
    for scene in world.catalog()["LANDSAT/LC08/C02/T1_L2"].scenes:
        assert scene.bounds is not None
        assert scene.start is not None
        for name, platform, extra in (("LC08", "landsat-8", 0), ("LE07", "landsat-7", 9000)):
            item = stac_item(f"{name}_L2SP_{scene.index[5:]}_02_T1", scene.bounds, scene.start, platform=platform)
            assets: dict[str, File] = {
                key: scene_file(scene, f"SR_{band}", "uint16", lambda v, e=extra: v + e, stated=True)
                for key, band in LANDSAT_BANDS.items()
            }
            assets["qa_pixel"] = scene_file(scene, "QA_PIXEL", "uint16", lambda v: v, nodata=1, stated=True)
            yield item, assets


def radar(served: Callable[[world.Scene], bool] = bool) -> Iterator[Entry]:
    """sentinel-1-rtc: linear power; images of one polarisation have one asset."""
    for scene in filter(served, world.catalog()["COPERNICUS/S1_GRD"].scenes):
        assert scene.bounds is not None
        assert scene.start is not None
        mode, bands = scene.properties["instrumentMode"], scene.properties["transmitterReceiverPolarisation"]
        item = stac_item(
            f"{scene.index}_rtc",
            scene.bounds,
            scene.start,
            **{"sar:instrument_mode": mode, "sar:polarizations": bands, "platform": "SENTINEL-1A"},
        )
        yield (
            item,
            {
                band.lower(): scene_file(scene, band, "float32", lambda v: 10 ** (v / 10), nodata=-32768, stated=True)
                for band in bands
            },
        )


def temperature() -> Iterator[Entry]:
    """modis-11A1-061: tiles of Terra and Aqua; those of Aqua are 10 K warmer."""
    for scene in world.catalog()["MODIS/061/MOD11A1"].scenes:
        assert scene.start is not None
        assert scene.end is not None
        for vertical, horizontal in MODIS_TILES:
            a, _, c, _, e, f = world.LST_LATTICE.transform
            transform = Affine(a, 0, c + horizontal * MODIS_SIDE * a, 0, e, f + vertical * MODIS_SIDE * e)
            side = world.Lattice(crs=world.SINUSOIDAL, transform=tuple(transform)[:6], width=1200, height=1200)
            for short, platform, extra in (("MOD", "terra", 0), ("MYD", "aqua", 500)):
                key = f"{short}11A1.A{scene.day:%Y%j}.h{horizontal:02d}v{vertical:02d}.061.{scene.day:%Y%j}000000"
                end = scene.end - 1000
                item = stac_item(key, _bounds(side), scene.start, end, platform=platform)
                grid = (world.SINUSOIDAL, transform, (MODIS_SIDE, MODIS_SIDE))
                lst, quality = scene.layers["LST_Day_1km"].formula, scene.layers["QC_Day"].formula
                yield (
                    item,
                    {
                        "LST_Day_1km": Tiff(*grid, "uint16", lambda x, y, e=extra, v=lst: v(x, y) + e, stated=True),
                        "QC_Day": Tiff(*grid, "uint8", quality),
                    },
                )


def _bounds(lattice: world.Lattice) -> tuple[float, float, float, float]:
    """The box of a tile of MODIS, whose corners may lie beyond the globe."""
    a, _, c, _, e, f = lattice.transform
    xs, ys = np.meshgrid(c + a * np.linspace(0, lattice.width, 25), f + e * np.linspace(0, lattice.height, 25))
    lon, lat = world.transformer(world.SINUSOIDAL, "EPSG:4326").transform(xs.ravel(), ys.ravel())
    known = np.isfinite(lon)
    return float(lon[known].min()), float(lat[known].min()), float(lon[known].max()), float(lat[known].max())


COLLECTIONS: dict[str, Callable[[], Iterator[Entry]]] = {
    "hls2-l30": hls,
    "landsat-c2-l2": landsat,
    "sentinel-1-rtc": radar,
    "modis-11A1-061": temperature,
}


def hole(items: list[Item], first: datetime, last: datetime) -> list[Item]:
    """The items outside some time."""
    kept = []
    for item in items:
        properties = item["properties"]
        moment = datetime.fromisoformat(properties.get("start_datetime") or properties["datetime"])
        if not first <= moment <= last + timedelta(days=1):
            kept.append(item)
    return kept


def config_text(text: str, server: FakeOpen, **changes: Any) -> str:
    """The packaged YAML with the addresses of a loopback server; `changes` replace keys at the top."""
    import yaml

    values = yaml.safe_load(text)
    for service in values["services"].values():
        if service["kind"] == "stac":
            service |= {"url": f"{server.url}/stac", "token": f"{server.url}/token/{{collection}}"}
    return yaml.safe_dump(json.loads(json.dumps({**values, **changes}, default=str)), sort_keys=False)
