"""Two small products of one variable from a STAC API, whose scenes have one value each: what faults are tried on."""

from __future__ import annotations

from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from affine import Affine

import earthengine_catalog as world
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid, touched_tiles
from mmnet_maps.stack.needs import Demand, Needs
from open_catalog import Entry, Planetary, stac_item
from open_tiff import Tiff

AREA = "-119.68,47.05,-119.66,47.06"
GRID = target_grid(read_aoi(AREA))
DAYS = [date(2021, 7, 4), date(2021, 7, 12), date(2021, 7, 20)]
SHIFT = {"landsat": 0.05, "hls": 0.0}


def value(day: date, product: str = "hls") -> float:
    """The red reflectance of a day, the same everywhere."""
    return round(0.1 + 0.001 * (day - DAYS[0]).days + SHIFT[product], 4)


def constant(x: Any, y: Any, number: float) -> Any:
    return 0 * x + 0 * y + number


def scenes(product: str, days: list[date] = DAYS) -> list[Entry]:
    """A scene a day, of one value, in the middle of a tile of zone 11."""
    lattice = world.Lattice(
        crs="EPSG:32611", transform=(30.0, 0.0, 280_000.0, 0.0, -30.0, 5_240_000.0), width=1500, height=1600
    )
    grid = ("EPSG:32611", Affine(*lattice.transform), (lattice.height, lattice.width))
    return [
        (
            stac_item(f"{product}.{day:%Y%m%d}", world.bounds_of(lattice), world.millis(day, 18.8)),
            {
                "red": Tiff(*grid, "int16", partial(constant, number=round(value(day, product) / 1e-4))),
                "Fmask": Tiff(*grid, "uint8", partial(constant, number=64)),
            },
        )
        for day in days
    ]


def config(planetary: Planetary, folder: Path, **service: Any) -> Path:
    """A YAML of two products of the same variable, tried in order."""
    url = planetary.server.url
    planet = {"kind": "stac", "url": f"{url}/stac", "token": f"{url}/token/{{collection}}", "retries": 1, **service}
    products = {
        name: {
            "service": "planet",
            "query": {"collection": name},
            "variables": {"red": "red"},
            "scale": 1e-4,
            "nodata": -9999,
            "mask": {"asset": "Fmask", "bits": [1, 3]},
            "product": name,
        }
        for name in SHIFT
    }
    path = folder / "open.yaml"
    values = {"name": "t", "services": {"planet": planet}, "products": products, "use": [["hls", "landsat"]]}
    path.write_text(yaml.safe_dump(values))
    return path


def demand(days: list[date], *more: str) -> Demand:
    needs = Needs(snapshot=("red", *more), series=(), steps=1, includes_day=True)
    return Demand(grid=GRID, tiles=touched_tiles(read_aoi(AREA), GRID), needs=needs, days=days)
