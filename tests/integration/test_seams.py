"""Tiles leave no seams: an area over a corner of four tiles equals itself, in one piece and tile by tile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from mmnet_maps.grid.area import transform_geometry
from mmnet_maps.grid.polygons import LONLAT
from mmnet_maps.grid.tiles import Tile, tile_geobox
from mmnet_maps.mapping.pipeline import Layers, map_tile
from mmnet_maps.mapping.request import Request, prepare
from mmnet_maps.product.layers import LAYERS

HALF = 3000.0  # m, so that 30 pixels lie on either side of both edges


@pytest.fixture(scope="module")
def job(demo_cache: Path) -> Request:
    corner = tile_geobox("h07v02").boundingbox
    x, y = corner.left, corner.bottom
    # Ten metres inside the pixels' edges, which reprojection moves slightly.
    reach = HALF - 10
    box = shapely.segmentize(shapely.box(x - reach, y - reach, x + reach, y + reach), 1000)
    return prepare(transform_geometry(box, "EPSG:5070", LONLAT), "2021-08-08", source="demo", quiet=True)


@pytest.fixture(scope="module")
def tiled(job: Request) -> Layers:
    assert job.grid.shape == (60, 60)
    assert [tile.id for tile in job.tiles] == ["h06v02", "h07v02", "h06v03", "h07v03"]
    found: Layers = {}
    for tile in job.tiles:
        assert tile.geobox.shape == (30, 30)
        for name, values in map_tile(job, tile, job.days[0]).items():
            found.setdefault(name, np.zeros(job.grid.shape, values.dtype))[tile.rows, tile.cols] = values
    return found


def test_one_piece_and_tile_by_tile_agree_on_every_pixel(job: Request, tiled: Layers) -> None:
    everything = slice(0, 60)
    one = Tile(id="all", rows=everything, cols=everything, geobox=job.grid)
    whole = map_tile(replace(job, tiles=(one,)), one, job.days[0])
    assert set(whole) == set(tiled) == {"soil_moisture", "quality", "smap"}
    np.testing.assert_array_equal(whole["quality"], tiled["quality"])
    for name in ("soil_moisture", "smap"):
        assert np.isfinite(whole[name]).mean() > 0.9
        steps = [LAYERS[name].pack(layers[name]).astype(int) for layers in (whole, tiled)]
        assert np.abs(steps[0] - steps[1]).max() <= 1


def steps_on_and_beside_the_seam(moisture: NDArray[np.float32], axis: int) -> tuple[float, float]:
    """Return the mean step across the seam, and of the ten rows or columns on either side, whose land is alike."""
    steps = np.moveaxis(np.abs(np.diff(moisture, axis=axis)), axis, 0)
    return float(np.nanmean(steps[29])), float(np.nanmean(np.concatenate([steps[19:29], steps[30:40]])))


def test_there_is_no_step_across_a_seam(tiled: Layers) -> None:
    for axis in (0, 1):
        on, beside = steps_on_and_beside_the_seam(tiled["soil_moisture"], axis)
        assert on <= 1.5 * beside


def test_a_step_would_be_seen(tiled: Layers) -> None:
    moisture = tiled["soil_moisture"].copy()
    moisture[:, 30:] += 0.02
    on, beside = steps_on_and_beside_the_seam(moisture, 1)
    assert on > 1.5 * beside


def test_the_seams_are_not_all_water(tiled: Layers, tmp_path: Path) -> None:
    moisture = tiled["soil_moisture"]
    for series_id in (moisture[29:31], moisture[:, 29:31]):
        assert np.isfinite(series_id).mean() > 0.9
        assert np.nanstd(series_id) > 0.001
