"""Maps with values from a formula, written like those of the commands."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.tiles import DEFAULT_CRS
from mmnet_maps.product.day_writer import DayWriter, Revision
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.quality import FLAG_MASKS

DAY, NEXT = date(2021, 8, 7), date(2021, 8, 8)
ORIGIN = Affine(100.0, 0.0, -1_820_000.0, 0.0, -100.0, 2_984_000.0)
OUTSIDE = FLAG_MASKS["outside_area"]


def grid_at(row: int, col: int, height: int, width: int) -> GeoBox:
    return GeoBox((height, width), ORIGIN * Affine.translation(col, row), DEFAULT_CRS)


def values_on(grid: GeoBox, seed: int) -> dict[str, np.ndarray]:
    """Return layers with holes; with one seed a place has the same value on any grid."""
    row = np.arange(grid.shape.y)[:, None] + round((ORIGIN.f - grid.affine.f) / 100)
    col = np.arange(grid.shape.x)[None] + round((grid.affine.c - ORIGIN.c) / 100)
    steps = (1000 + 7 * row + 3 * col + 131 * seed) % 4000
    hole = (row * 5 + col * 3) % 11 == 0
    moisture = np.where(hole, np.nan, steps * 1e-4).astype(np.float32)
    quality = np.where(hole, FLAG_MASKS["unknown_land_cover"], (steps % 3) << 3).astype(np.uint16)
    smap = (0.15 + 0.05 * seed + 1e-4 * col + 0 * row).astype(np.float32)
    return {"soil_moisture": moisture, "quality": quality, "smap": smap}


def write_map(
    out: Path, name: str, day: date, grid: GeoBox, *, synthetic: bool = False, seed: int = 0, std: bool = False
) -> Path:
    """Write a map as the commands do, and return its item."""
    layers = values_on(grid, seed)
    if std:
        layers["soil_moisture_std"] = layers["soil_moisture"] / 8
    properties = {"mmnet:synthetic": synthetic, "mmnet:model": "m", "mmnet:inputs": {}}
    revision = Revision(
        name=name, day=day, geobox=grid, layers=list(layers), fingerprint=f"{seed:x}f".rjust(64, "0"),
        synthetic=synthetic, properties=properties, tags={"date": str(day), "synthetic": json.dumps(synthetic)},
    )  # fmt: skip
    with DayWriter(out, revision) as writer:
        packed = {name: LAYERS[name].pack(values) for name, values in layers.items()}
        writer.write(slice(0, grid.shape.y), slice(0, grid.shape.x), packed)
        return writer.finish(None).item
