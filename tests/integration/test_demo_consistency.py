"""The demo world is plausible: in Grant County the bundled model's map agrees with SMAP, and both rise with rain.

To check other weights, run this file and read the figures that it prints::

    MMNET_DEMO_MODEL=models/mine pytest -s tests/integration/test_demo_consistency.py

The figures are those of a map with a pixel for each 1.8 km; the ones of the map at 100 m are in `docs/decisions`.
"""

from __future__ import annotations

import os
from datetime import date, timedelta

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from analytic import read_static
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.lattice import cover
from mmnet_maps.grid.mask import area_mask
from mmnet_maps.grid.tiles import target_grid
from mmnet_maps.model.checkpoint import load_checkpoint
from mmnet_maps.model.engine import Engine
from mmnet_maps.model.features import required
from mmnet_maps.sources.base import Rasters
from mmnet_maps.sources.demo.world import SyntheticWorld

WORLD = SyntheticWorld()
PARTS = 5  # pixels across a SMAP cell
DRY, WET = date(2021, 7, 29), date(2021, 8, 8)  # the days of `make map`
Values = NDArray[np.float32]


@pytest.fixture(scope="module")
def grids() -> tuple[GeoBox, GeoBox, NDArray[np.bool_]]:
    """Return the SMAP cells around the county, their parts, and the cells that lie in it by half or more."""
    area = read_aoi("grant_county.geojson")
    lattice = WORLD.lattice("smap")
    cells = lattice[cover(target_grid(area), lattice)]
    parts = GeoBox((PARTS * cells.shape.y, PARTS * cells.shape.x), cells.affine * Affine.scale(1 / PARTS), cells.crs)
    return cells, parts, means(area_mask(area, parts).astype(np.float32)) >= 0.5


def means(values: Values) -> Values:
    rows, columns = values.shape
    found: Values = np.nanmean(values.reshape(rows // PARTS, PARTS, columns // PARTS, PARTS), axis=(1, 3))
    return found


def nearest_in_time(values: Values, offsets: NDArray[np.int64]) -> Values:
    """Return, for each pixel of (day, y, x), the value nearest in time."""
    found = np.full(values.shape[1:], np.nan, np.float32)
    for k in np.argsort(-np.abs(offsets), kind="stable"):
        found = np.where(np.isnan(values[k]), found, values[k])
    return found


def observed(group: str, parts: GeoBox, day: date) -> Rasters:
    days = WORLD.days(group, parts, day - timedelta(16), day + timedelta(16))
    offsets = np.array([(other - day).days for other in days])
    return {name: nearest_in_time(values, offsets) for name, values in WORLD.read(group, parts, days).items()}


def compared(grids: tuple[GeoBox, GeoBox, NDArray[np.bool_]], day: date) -> tuple[Values, Values]:
    """Return SMAP and the mean of the model's map in the cells of the county."""
    cells, parts, inside = grids
    engine = Engine(load_checkpoint(os.environ.get("MMNET_DEMO_MODEL", "mmnet-uscrn")), device="cpu")
    spec, count = engine.spec, parts.shape.x * parts.shape.y
    last = day if spec.includes_day else day - timedelta(1)
    past = [last - timedelta(k) for k in reversed(range(spec.days))]
    lst = WORLD.read("lst", parts, past)["lst"]
    filled = np.array([nearest_in_time(lst, np.arange(len(past)) - k) for k in range(len(past))])
    smap = WORLD.read("smap", cells, [day, *past])["smap"].repeat(PARTS, 1).repeat(PARTS, 2)
    coarse = {**WORLD.read("weather", parts, past), "lst": filled, "smap": smap[1:]}
    static = {name: values[0] for name, values in read_static(WORLD, parts, [day]).items()}
    fine = {**static, **observed("optical", parts, day), **observed("sar", parts, day), "smap": smap[0]}
    columns = {name: fine[name].ravel() for name in required(spec.snapshot)}
    columns["doy"] = np.array([day.timetuple().tm_yday], np.float32)
    series = {name: np.ascontiguousarray(coarse[name].reshape(-1, count).T) for name in required(spec.series)}
    [terms] = engine.encode_days(series)
    water = columns["landcover"] == 11
    found = engine.predict(columns, terms, np.where(water, -1, np.arange(count))).estimate.reshape(parts.shape)
    return means(smap[0])[inside], means(found)[inside]


def test_the_map_agrees_with_smap_and_both_rise_with_rain(
    grids: tuple[GeoBox, GeoBox, NDArray[np.bool_]],
) -> None:
    levels = []
    for day in (DRY, WET):
        smap, mapped = compared(grids, day)
        assert len(smap) > 80
        bias, r = float((mapped - smap).mean()), float(np.corrcoef(mapped, smap)[0, 1])
        print(f"{day}: SMAP {smap.mean():.3f}, map {mapped.mean():.3f}, bias {bias:+.3f} m³/m³, R {r:.2f}")
        levels.append((smap.mean(), mapped.mean()))
        assert abs(bias) <= 0.03
        assert r >= 0.7
    assert levels[1][0] > levels[0][0] + 0.03
    assert levels[1][1] > levels[0][1] + 0.03
