"""A small map is kept in a file and compared with the same map made now: a change of values shows here first.

If a change of values is intended (another packaged model, another demo world, another way to resample), look at both
maps, write the file again and mention it in the changelog::

    python tests/integration/test_golden.py

A new version of a library or a new machine is no reason: it may move values by one step of packing at most.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from mmnet_maps.grid.area import transform_geometry
from mmnet_maps.grid.polygons import LONLAT
from mmnet_maps.mapping.pipeline import map_tile
from mmnet_maps.mapping.request import prepare
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.quality import QUALITY_BITS

GOLDEN = Path(__file__).parents[1] / "golden" / "grant_county_20210808.npz"
DAY = "2021-08-08"
LEFT, BOTTOM, PIXELS = -1_771_400, 2_883_600, 128  # fields and a lake in Grant County, in EPSG:5070
NAMES = ("soil_moisture", "quality", "smap")


def make() -> dict[str, NDArray[np.uint16]]:
    """Map 128 × 128 pixels of the demo world with the packaged model, packed as in a file."""
    size = PIXELS * 100
    # Ten metres inside the pixels' edges, which reprojection moves slightly.
    box = shapely.box(LEFT + 10, BOTTOM + 10, LEFT + size - 10, BOTTOM + size - 10)
    area = transform_geometry(shapely.segmentize(box, 1000), "EPSG:5070", LONLAT)
    job = prepare(area, DAY, source="demo", model="mmnet-uscrn", device="cpu", quiet=True)
    (tile,) = job.tiles
    assert job.grid.shape == (PIXELS, PIXELS)
    assert (job.grid.boundingbox.left, job.grid.boundingbox.bottom) == (LEFT, BOTTOM)
    layers = map_tile(job, tile, job.days[0])
    return {name: LAYERS[name].pack(layers[name]) for name in NAMES}


@pytest.fixture(scope="module")
def maps(demo_cache: Path) -> tuple[dict[str, NDArray[np.uint16]], dict[str, NDArray[np.uint16]]]:
    """Return the kept map and the one made now."""
    made = make()
    with np.load(GOLDEN) as kept:
        return {name: kept[name] for name in NAMES}, made


def test_the_map_is_as_it_was(
    maps: tuple[dict[str, NDArray[np.uint16]], dict[str, NDArray[np.uint16]]],
) -> None:
    kept, made = maps
    # An input close to a bound may fall on its other side where a processor rounds differently.
    flipped = kept["quality"] != made["quality"]
    assert flipped.mean() <= 0.001
    for name in ("soil_moisture", "smap"):
        one, other = (values[name][~flipped].astype(int) for values in maps)
        assert np.abs(one - other).max() <= 1, f"{name} changed: {np.abs(one - other).max()} steps of packing"


def test_the_kept_map_holds_what_can_go_wrong(
    maps: tuple[dict[str, NDArray[np.uint16]], dict[str, NDArray[np.uint16]]],
) -> None:
    kept, _ = maps
    assert GOLDEN.stat().st_size < 100_000
    assert all(values.shape == (PIXELS, PIXELS) and values.dtype == np.uint16 for values in kept.values())
    for name in ("unknown_land_cover", "sar_old", "outside_training"):
        assert (kept["quality"] >> QUALITY_BITS[name] & 1).any(), name
    moisture = kept["soil_moisture"]
    assert ((moisture == 65535) == (kept["quality"] & 7 > 0)).all()
    assert np.std(moisture[moisture != 65535]) > 100


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ["MMNET_CACHE"] = cache
        np.savez_compressed(GOLDEN, **make())
    print(f"wrote {GOLDEN}: {GOLDEN.stat().st_size} bytes")
