"""The class of the largest area, against polygons that shapely intersects one by one."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
import yaml
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.tiles import tile_geobox
from mmnet_maps.sources.files.largest_class import largest_class
from mmnet_maps.sources.files.source import FilesSource

GRID = tile_geobox("h06v03")[500:512, 500:515]
NLCD = Path(__file__).parents[4] / "shared/data/rasters/nlcd/Annual_NLCD_LndCov_2021_CU_C1V0.tif"


def brute_force(codes: NDArray[Any], lattice: GeoBox, geobox: GeoBox) -> list[list[list[int]]]:
    """Return, for each pixel, the classes whose area is the largest to within 2e-6 of a pixel, lowest code first."""
    transform = pyproj.Transformer.from_crs(geobox.crs.proj, lattice.crs.proj, always_xy=True).transform  # type: ignore[union-attr]
    found = []
    for row in range(geobox.shape.y):
        found.append([])
        for col in range(geobox.shape.x):
            ring = [geobox.affine @ (col + j, row + i) for i, j in ((0, 0), (0, 1), (1, 1), (1, 0))]
            pixel = shapely.Polygon([~lattice.affine @ transform(*corner) for corner in ring])
            left, top, right, bottom = (int(np.floor(edge)) for edge in pixel.bounds)
            areas: dict[int, float] = {}
            for i in range(max(top, 0), min(bottom + 1, codes.shape[0])):
                for j in range(max(left, 0), min(right + 1, codes.shape[1])):
                    area = pixel.intersection(shapely.box(j, i, j + 1, i + 1)).area
                    areas[int(codes[i, j])] = areas.get(int(codes[i, j]), 0.0) + area
            areas.pop(0, None)
            most = max(areas.values(), default=0.0)
            tied = [code for code in sorted(areas) if areas[code] > most - 2e-6 * pixel.area]
            found[-1].append(tied if most > 2e-6 * pixel.area else [0])
    return found


def around(geobox: GeoBox, crs: str, cell: float) -> GeoBox:
    """Return a lattice that leaves a strip of the grid uncovered on its right."""
    transformer = pyproj.Transformer.from_crs(geobox.crs.proj, crs, always_xy=True)  # type: ignore[union-attr]
    left, bottom, right, top = transformer.transform_bounds(*geobox.boundingbox)
    shape = int((top - bottom) / cell) + 3, int(0.9 * (right - left) / cell)
    return GeoBox(shape, Affine(cell, 0, left - 0.4 * cell, 0, -cell, top + 0.7 * cell), crs)


@pytest.mark.parametrize(
    ("crs", "cell"),
    [("EPSG:5070", 30), ("EPSG:5070", 70), ("EPSG:32611", 30), ("EPSG:4326", 0.0003), ("EPSG:32610", 99)],
)
def test_equals_the_areas_of_polygons(crs: str, cell: float) -> None:
    lattice = around(GRID, crs, cell)
    codes = np.random.default_rng(5).choice(np.array([0, 0, 11, 21, 42, 52, 95], np.uint8), lattice.shape)
    found, expected = largest_class(codes, lattice, GRID), brute_force(codes, lattice, GRID)
    assert found.dtype == np.uint8
    assert all(found[i, j] in tied for i, row in enumerate(expected) for j, tied in enumerate(row))
    assert (found == 0).any()
    assert (found > 0).mean() > 0.8


def test_of_equal_areas_the_lowest_code_counts() -> None:
    """A pixel of 4 × 4 cells, half of each class; a cell that is missing decides for the other."""
    grid = GeoBox((1, 3), Affine(100, 0, 0, 0, -100, 0), "EPSG:5070")
    lattice = GeoBox((4, 12), Affine(25, 0, 0, 0, -25, 0), "EPSG:5070")
    codes = np.indices(lattice.shape).sum(axis=0) % 2 * 31 + 21
    codes[0, 0], codes[0, 9] = 0, 0
    assert largest_class(codes.astype(np.uint8), lattice, grid).tolist() == [[52, 21, 21]]


def test_many_cells_are_counted_by_their_centres() -> None:
    """Cells of 2 m below pixels of 100 m: 60 % of each pixel is forest, the lower part is cropland; none is halved."""
    grid = GeoBox((2, 3), Affine(100, 0, 0, 0, -100, 0), "EPSG:5070")
    lattice = GeoBox((100, 150), Affine(2, 0, 0, 0, -2, 0), "EPSG:5070")
    codes = np.where(np.arange(100)[:, None] % 50 < 30, 42, 82).repeat(150, axis=1)
    codes[:50, :50] = 0
    codes[1, 1] = 11
    assert largest_class(codes.astype(np.uint8), lattice, grid).tolist() == [[11, 42, 42], [42, 42, 42]]


def test_pixels_without_a_place_in_the_lattice_are_missing() -> None:
    grid = GeoBox((2, 2), Affine(1e7, 0, -3e8, 0, -1e7, 3e8), "EPSG:5070")
    lattice = GeoBox((3, 3), Affine(30, 0, 0, 0, -30, 0), "EPSG:32611")
    assert not largest_class(np.full((3, 3), 42, np.uint8), lattice, grid).any()


@pytest.mark.skipif(not NLCD.exists(), reason="../shared/data/rasters/nlcd is absent")
def test_a_real_land_cover_window(tmp_path: Path) -> None:
    """Annual NLCD of North Carolina, as cut by others: 32-bit numbers, Albers on WGS 84."""
    text = {"name": "nlcd", "variables": {"landcover": {"files": str(NLCD), "date": date(2021, 7, 1), "product": "P"}}}
    (tmp_path / "nlcd.yaml").write_text(yaml.safe_dump(text))
    grid = GeoBox((16, 18), Affine(100, 0, 1_520_000, 0, -100, 1_580_000), "EPSG:5070")
    found = FilesSource(tmp_path / "nlcd.yaml").read("landcover", grid, [date(2021, 8, 8)])["landcover"][0]
    with rasterio.open(NLCD) as image:
        codes = image.read(1).astype(np.uint8)
        lattice = GeoBox(codes.shape, image.transform, image.crs.to_wkt())
    expected = brute_force(codes, lattice, grid)
    assert all(found[i, j] in tied for i, row in enumerate(expected) for j, tied in enumerate(row))
    assert len(np.unique(found)) >= 6
