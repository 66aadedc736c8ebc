"""Days of random values, written as products."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.files import is_ours
from mmnet_maps.product.day_writer import DayProduct, DayWriter, Revision

DAY = date(2021, 8, 8)


NAMES = ("soil_moisture", "quality", "smap")


Values = dict[str, NDArray[np.uint16]]


def grid(height: int, width: int) -> GeoBox:
    left, top = -1_870_000, 2_930_000
    return GeoBox.from_bbox((left, top - height * 100, left + width * 100, top), crs="EPSG:5070", resolution=100)


def packed(height: int, width: int, seed: int = 0, names: tuple[str, ...] = NAMES) -> Values:
    rng = np.random.default_rng(seed)
    values: Values = {name: rng.integers(300, 4500, (height, width)).astype(np.uint16) for name in names}
    values["soil_moisture"][: height // 3] = 65535
    if "quality" in names:
        values["quality"] = rng.integers(0, 2048, (height, width)).astype(np.uint16)
    return values


def writer(out: Path, box: GeoBox, names: tuple[str, ...] = NAMES, **changes: Any) -> DayWriter:
    fixed: dict[str, Any] = {
        "name": "grant",
        "day": DAY,
        "synthetic": False,
        "tags": {"model": "net", "date": "2021-08-08"},
        "properties": {"mmnet:model": "net", "mmnet:licences": ["CC BY-NC 4.0"]},
        "fingerprint": "f00d",
    }
    return DayWriter(out, Revision(geobox=box, layers=names, **{**fixed, **changes}))


def png(layers: Mapping[str, Path], path: Path) -> None:
    assert all(is_ours(layer) for layer in layers.values())
    path.write_bytes(b"\x89PNG ... Software\0mmnet_maps ...")


def ensemble(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    members = np.random.default_rng(seed).normal(0.2, 0.1, (count, height, width)).astype(np.float32)
    members[:, : height // 3] = np.nan
    return members


def produce(out: Path, values: Values, picture: Any = png, members: int = 0, **changes: Any) -> DayProduct:
    height, width = values["soil_moisture"].shape
    with writer(out, grid(height, width), tuple(values), members=members, **changes) as at:
        kept = ensemble(members, height, width) if members else None
        at.write(slice(0, height), slice(0, width), values, kept)
        return at.finish(picture)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
