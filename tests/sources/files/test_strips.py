"""Rows of a block: bit by bit the values of the whole block, though fewer cells are read."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.lattice import cover
from mmnet_maps.grid.tiles import conus_grid, pinned_blocks, pixel_of
from mmnet_maps.sources.files.alignment import block_side, reprojected
from mmnet_maps.sources.files.strips import Strip
from mmnet_maps.variables import VARIABLES

PLACES = {"EPSG:32611": (-119.0, 47.0), "EPSG:32618": (-75.0, 43.0), "EPSG:4269": (-99.0, 33.0)}


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from([("EPSG:32611", 30.0), ("EPSG:32618", 20.0), ("EPSG:4269", 1 / 3600), ("EPSG:4269", 0.002)]),
    name=st.sampled_from(["red", "landcover"]),
    east=st.floats(-1, 1),
    north=st.floats(-1, 1),
    count=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_rows_have_the_values_of_the_whole_block(
    kind: tuple[str, float], name: str, east: float, north: float, count: int, seed: int
) -> None:
    (crs, cell), variable, draw = kind, VARIABLES[name], np.random.default_rng(seed)
    lon, lat = PLACES[crs]
    pixel = pixel_of(conus_grid(), lon + east, lat + north)
    x, y = pyproj.Transformer.from_crs("EPSG:5070", crs, always_xy=True).transform(pixel.affine.c, pixel.affine.f)
    half = 1500
    corner = Affine(cell, 0, (x // cell - half) * cell, 0, -cell, (y // cell + half) * cell)
    lattice = GeoBox((2 * half, 2 * half), corner, crs)
    ((block, _, here),) = pinned_blocks(pixel, block_side(lattice, pixel))
    rows = slice(here[0].start, min(here[0].start + count, block.shape.y))
    whole = cover(block, lattice, pad=2)
    values = draw.choice([0, 41, 42], [part.stop - part.start for part in whole]).astype(np.uint8)
    if name == "red":
        values = np.where(values == 0, np.nan, draw.normal(size=values.shape)).astype(np.float32)
    expected = reprojected(values, lattice[whole], block, variable)[rows]
    strip = Strip.of(lattice, block, rows, variable, 2)
    inner = tuple(
        slice(part.start - every.start, part.stop - every.start) for part, every in zip(strip.cells, whole, strict=True)
    )
    np.testing.assert_array_equal(strip.reprojected(values[inner]), expected)
    fewer = name == "red" and cell in (30.0, 20.0, 1 / 3600)
    assert (strip.cells != strip.whole) == fewer
    if fewer:
        assert values[inner].size < 0.4 * values.size


def test_rows_off_the_lattice_are_an_error() -> None:
    from mmnet_maps.errors import InputError

    lattice = GeoBox((100, 100), Affine(30, 0, 500_000, 0, -30, 5_200_000), "EPSG:32611")
    ((block, _, here),) = pinned_blocks(pixel_of(conus_grid(), -119.0, 33.0), 256)
    with pytest.raises(InputError):
        Strip.of(lattice, block, here[0], VARIABLES["red"], 2)
