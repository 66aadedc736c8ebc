"""The cell below each pixel, compared with pyproj pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyproj
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.grid import lattice as cells
from mmnet_maps.grid import positions
from mmnet_maps.grid.lattice import cover, fractional_cells, lonlat, nearest_cells
from mmnet_maps.grid.positions import origin
from mmnet_maps.grid.tiles import conus_grid, tile_geobox
from product_grids import EASE2, GRIDMET, SINUSOIDAL

WORLD = GeoBox((1800, 3600), Affine(0.1, 0, -180, 0, -0.1, 90), "EPSG:4326")
LATTICES = {"gridmet": GRIDMET, "ease2": EASE2, "sinusoidal": SINUSOIDAL, "world": WORLD}


def aligned(crs: str, resolution: float, col: int, row: int, shape: tuple[int, int]) -> GeoBox:
    """Return a grid whose upper left corner is `col`, `row` pixels right and down from the origin of the CRS."""
    return GeoBox(shape, Affine(resolution, 0, col * resolution, 0, -resolution, -row * resolution), crs)


TILES = {
    "north-west": tile_geobox("h02v01"),
    "centre": tile_geobox("h23v15"),
    "south-east": tile_geobox("h41v26"),
    "utm": aligned("EPSG:32611", 30.0, 10000, -173000, (1024, 1024)),
    "degrees": aligned("EPSG:4326", 0.001, -119600, -47600, (1024, 1024)),
}


def exact(grid: GeoBox, lattice: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns, in cells, of all pixel centres; NaN where the CRS has no such point."""
    a, b = grid.affine, lattice.affine
    col, row = origin(grid)
    i, j = np.arange(grid.shape.y) + 0.5, np.arange(grid.shape.x) + 0.5
    # Equal to the package's to the last bit: a centre on a cell's edge may belong to either side of it.
    x = a.c + j * a.a if col is None else (col + j) * a.a
    y = a.f + i * a.e if row is None else (i - row) * a.e
    x, y = np.meshgrid(x, y)
    if grid.crs != lattice.crs:
        x, y = pyproj.Transformer.from_crs(str(grid.crs), str(lattice.crs), always_xy=True).transform(x, y)
    rows, cols = (y - b.f) / b.e, (x - b.c) / b.a
    return np.where(np.isfinite(rows), rows, np.nan), np.where(np.isfinite(cols), cols, np.nan)


def assert_cells_agree(grid: GeoBox, lattice: GeoBox, within: float = 1e-4) -> np.ndarray:
    """Compare both kinds of cells with pyproj, pixel by pixel, and return the mask of pixels in the lattice."""
    rows, cols = exact(grid, lattice)
    for found, expected in zip(fractional_cells(grid, lattice), (rows, cols), strict=True):
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=0, atol=within)
    down, right = np.floor(rows), np.floor(cols)
    inside = (down >= 0) & (down < lattice.shape.y) & (right >= 0) & (right < lattice.shape.x)
    row, col = nearest_cells(grid, lattice)
    assert row.dtype == col.dtype == np.int32
    other = (row != np.where(inside, down, -1)) | (col != np.where(inside, right, -1))
    metres = lattice.affine.a * (1.0 if lattice.crs.projected else 111_320.0)
    to_edge = np.minimum(*(np.abs(part[other] - np.round(part[other])) for part in (rows, cols))) * metres
    assert (to_edge < 1).all()
    assert other.sum() <= 3
    return inside


def assert_degrees_agree(grid: GeoBox) -> None:
    expected = exact(grid, GeoBox((1, 1), Affine.identity(), "EPSG:4326"))[::-1]
    for found, degrees in zip(lonlat(grid), expected, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(found), np.isnan(degrees))
        rounding = np.spacing(np.abs(found)) / 2
        known = ~np.isnan(degrees)
        assert (np.abs(found - degrees)[known] <= 1e-6 + rounding[known]).all()


@pytest.fixture
def transformed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the positions that were transformed exactly, call by call; nothing is kept from other tests."""
    counts: list[int] = []
    located = positions.positions_in

    def counted(geobox: GeoBox, lattice: GeoBox, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        counts.append(np.size(rows))
        return located(geobox, lattice, rows, cols)

    for module in (cells, positions):
        monkeypatch.setattr(module, "positions_in", counted)
    cells._kept_nearest.cache_clear()
    cells._kept_fractional.cache_clear()
    yield counts
    cells._kept_nearest.cache_clear()
    cells._kept_fractional.cache_clear()


@pytest.mark.parametrize("name", ["gridmet", "ease2", "sinusoidal"])
@pytest.mark.parametrize("tile", TILES)
def test_cells_of_a_tile_agree_with_pyproj_pixel_by_pixel(tile: str, name: str) -> None:
    assert_cells_agree(TILES[tile], LATTICES[name], within=1e-6)


@pytest.mark.parametrize("tile", TILES)
def test_degrees_of_a_tile_agree_with_pyproj_pixel_by_pixel(tile: str) -> None:
    assert_degrees_agree(TILES[tile])


def test_pyproj_transforms_few_positions(transformed: list[int]) -> None:
    grid = tile_geobox("h23v15")
    for find in (
        lambda: nearest_cells(grid, EASE2),
        lambda: nearest_cells(grid, SINUSOIDAL),
        lambda: fractional_cells(grid, GRIDMET),
        lambda: lonlat(grid),
    ):
        find()
        assert 0 < sum(transformed) < 0.01 * grid.shape.y * grid.shape.x
        transformed.clear()


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(
        [
            ("EPSG:5070", 100.0, (-30_000, 30_000), (-40_000, 5_000)),
            ("EPSG:32611", 30.0, (-20_000, 60_000), (-200_000, -90_000)),
            ("EPSG:4326", 0.001, (-181_000, 181_000), (-90_200, 90_000)),
            ("EPSG:4269", 0.01, (-13_000, -6_000), (-5_500, -2_000)),
            ("EPSG:3995", 500.0, (-9_000, 9_000), (-9_000, 9_000)),
            ("+proj=sinu +R=6371007.181 +units=m", 463.3, (-43_300, 43_200), (-21_600, 21_600)),
        ]
    ),
    st.sampled_from([0.3, 1.0, 3.0, 10.0, 25.0]),
    st.sampled_from(sorted(LATTICES)),
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.data(),
)
def test_cells_of_any_window_agree_with_pyproj(
    where: tuple[str, float, tuple[int, int], tuple[int, int]],
    wider: float,
    name: str,
    shape: tuple[int, int],
    data: st.DataObject,
) -> None:
    crs, resolution, cols, rows = where
    col, row = (int(data.draw(st.integers(*bounds)) / wider) for bounds in (cols, rows))
    grid = aligned(crs, resolution * wider, col, row, shape)
    assert_cells_agree(grid, LATTICES[name])
    assert_degrees_agree(grid)


@pytest.mark.parametrize(("resolution", "shape"), [(2000.0, (375, 500)), (10000.0, (150, 200))])
def test_cells_under_very_wide_pixels_agree_with_pyproj(resolution: float, shape: tuple[int, int]) -> None:
    grid = aligned("EPSG:5070", resolution, round(-2.3e6 / resolution), round(-3e6 / resolution), shape)
    for lattice in LATTICES.values():
        assert_cells_agree(grid, lattice)
    assert_degrees_agree(grid)


def test_centres_on_the_edges_of_cells_are_where_pyproj_has_them(transformed: list[int]) -> None:
    grid = aligned("EPSG:4269", 0.05, -2400, -900, (300, 400))
    lattice = GeoBox((400, 600), Affine(0.05, 0, -121.025, 0, -0.05, 47.025), "EPSG:4326")
    row, col = nearest_cells(grid, lattice)
    down, right = (np.floor(part) for part in exact(grid, lattice))
    assert len(np.unique(row[:, 0])) > 100
    np.testing.assert_array_equal(row, down)
    np.testing.assert_array_equal(col, right)
    assert sum(transformed) > row.size


def test_a_grid_off_the_origin_agrees_with_pyproj() -> None:
    grid = GeoBox((150, 170), Affine(100, 0, -1234567.8, 0, -100, 2345678.9), "EPSG:5070")
    assert origin(grid) == (None, None)
    for lattice in LATTICES.values():
        assert_cells_agree(grid, lattice, within=1e-6)
    assert_degrees_agree(grid)


def test_cells_jump_at_the_antimeridian(transformed: list[int]) -> None:
    grid = aligned("EPSG:32601", 30.0, 11_000, -223_000, (300, 400))
    inside = assert_cells_agree(grid, WORLD)
    assert 300 * 400 * 0.02 < sum(transformed) < 300 * 400
    assert inside.all()
    _, col = nearest_cells(grid, WORLD)
    assert col.min() < 10
    assert col.max() > 3590
    assert_degrees_agree(grid)


def test_cells_jump_beyond_the_sinusoidal_sheet() -> None:
    """Pyproj continues on the other side of the world there."""
    for resolution, cell in ((500.0, EASE2), (20000.0, WORLD)):
        grid = aligned(
            str(SINUSOIDAL.crs), resolution, round(-1.476e7 / resolution), round(-4.75e6 / resolution), (200, 300)
        )
        assert_cells_agree(grid, cell)
        _, col = nearest_cells(grid, cell)
        assert col.max() - col.min() > 0.9 * cell.shape.x
        assert_degrees_agree(grid)


@pytest.mark.parametrize("resolution", [500.0, 20000.0])
def test_pixels_beyond_the_limb_of_the_earth_have_no_cell(resolution: float) -> None:
    crs = "+proj=ortho +lat_0=40 +lon_0=-100"
    grid = aligned(crs, resolution, round(-4.6e6 / resolution), round(-4.6e6 / resolution), (200, 300))
    rows, cols = fractional_cells(grid, WORLD)
    assert 0 < np.isnan(rows).mean() < 1
    inside = assert_cells_agree(grid, WORLD)
    np.testing.assert_array_equal(inside, np.isfinite(rows) & np.isfinite(cols))
    assert_degrees_agree(grid)


def test_points_that_a_crs_has_not_have_no_cell() -> None:
    antipode = GeoBox((10, 10), Affine(1e6, 0, -5e6, 0, -1e6, 5e6), "+proj=gnom +lat_0=-40 +lon_0=80")
    for grid in (conus_grid()[:2, :2], conus_grid()[:70, :70]):
        assert all(np.isnan(part).all() for part in fractional_cells(grid, antipode))
        assert all((part == -1).all() for part in nearest_cells(grid, antipode))
        with pytest.raises(InputError, match="outside"):
            cover(grid, antipode)


def test_pixels_off_the_lattice_have_no_cell() -> None:
    grid = aligned("EPSG:5070", 1000.0, -2300, -2300, (600, 500))
    inside = assert_cells_agree(grid, GRIDMET[:260])
    assert 0 < inside.mean() < 1
    row, col = nearest_cells(grid, GRIDMET[:260])
    np.testing.assert_array_equal(row == -1, ~inside)
    np.testing.assert_array_equal(col == -1, ~inside)


def test_cells_of_a_lattice_in_the_same_crs_are_exact() -> None:
    grid = tile_geobox("h06v03")
    lattice = GeoBox((300, 400), Affine(700, 0, -2_000_000, 0, -700, 3_000_000), "EPSG:5070")
    inside = assert_cells_agree(grid[:300, :400], lattice, within=0)
    assert inside.any()
    rows, cols = fractional_cells(grid, conus_grid())
    assert (rows[:, 0] == 3 * 1024 + np.arange(1024) + 0.5).all()
    assert (cols == 6 * 1024 + np.arange(1024) + 0.5).all()


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(
        [
            tile_geobox("h06v02")[:600, 300:700],
            aligned("EPSG:4269", 0.00123, -97_017, -38_011, (300, 200)),
            aligned("EPSG:32601", 30.0, 11_000, -223_000, (300, 400)),
            aligned(str(SINUSOIDAL.crs), 20000.0, -776, -233, (200, 300)),
        ]
    ),
    st.sampled_from(sorted(LATTICES)),
    st.data(),
)
def test_a_map_of_a_window_is_the_window_of_the_map(whole: GeoBox, name: str, data: st.DataObject) -> None:
    starts = [data.draw(st.integers(0, size - 1)) for size in whole.shape]
    window = tuple(
        slice(start, data.draw(st.integers(start + 1, size))) for start, size in zip(starts, whole.shape, strict=True)
    )
    lattice = LATTICES[name]
    for everywhere, there in (
        (nearest_cells(whole, lattice), nearest_cells(whole[window], lattice)),
        (fractional_cells(whole, lattice), fractional_cells(whole[window], lattice)),
        (lonlat(whole), lonlat(whole[window])),
    ):
        for of_whole, of_window in zip(everywhere, there, strict=True):
            np.testing.assert_array_equal(of_window, of_whole[window])


@pytest.mark.parametrize("function", [nearest_cells, fractional_cells])
def test_cells_are_found_once_and_are_read_only(function, transformed: list[int]) -> None:
    first = function(conus_grid()[100:200, 40:90], EASE2)
    spent = sum(transformed)
    lattice = GeoBox(EASE2.shape, Affine(*EASE2.affine[:6]), "EPSG:6933")
    again = function(conus_grid()[100:, 40:][:100, :50], lattice)
    assert sum(transformed) == spent > 0
    for one, other in zip(first, again, strict=True):
        assert one is other
        with pytest.raises(ValueError, match="read-only"):
            one[0, 0] = 7


@pytest.mark.parametrize("function", [nearest_cells, fractional_cells])
def test_kept_cells_are_those_of_their_grid_and_lattice(function) -> None:
    grid = aligned("EPSG:5070", 100.0, 0, -20_000, (40, 50))
    moved = aligned("EPSG:5070", 100.0, 300, -20_000, (40, 50))
    wider = aligned("EPSG:5070", 200.0, 0, -10_000, (40, 50))
    elsewhere = aligned("EPSG:6350", 100.0, 200, -20_000, (40, 50))
    pairs = [
        (one, lattice) for one in (grid, moved, wider, elsewhere) for lattice in (GRIDMET, GRIDMET[1:, 1:], SINUSOIDAL)
    ]
    first = [function(*pair) for pair in pairs]
    for pair, found in zip(pairs, first, strict=True):
        again = function(*pair)
        rows, cols = exact(*pair)
        for kept, fresh, expected in zip(found, again, (rows, cols), strict=True):
            np.testing.assert_array_equal(kept, fresh)
            np.testing.assert_allclose(kept, np.floor(expected) if function is nearest_cells else expected, atol=1e-4)


@pytest.mark.parametrize("function", [nearest_cells, fractional_cells])
def test_cells_of_more_than_a_tile_are_not_kept(function, transformed: list[int]) -> None:
    grid = conus_grid()[:1024, :1025]
    first, second = function(grid, conus_grid()), function(grid, conus_grid())
    assert first[0] is not second[0]
    assert not first[0].flags.writeable


def test_threads_may_ask_for_the_same_cells(transformed: list[int]) -> None:
    grid = tile_geobox("h06v03")
    windows = [grid[row : row + 200, col : col + 200] for row in (0, 333) for col in (0, 100, 517)]
    jobs = [(window, lattice) for window in windows for lattice in (EASE2, GRIDMET)] * 4

    def work(job: tuple[GeoBox, GeoBox]) -> list[np.ndarray]:
        return [*nearest_cells(*job), *fractional_cells(*job), *lonlat(job[0])]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(work, jobs))
    cells._kept_nearest.cache_clear()
    cells._kept_fractional.cache_clear()
    for job, found in zip(jobs, together, strict=True):
        for one, other in zip(found, work(job), strict=True):
            np.testing.assert_array_equal(one, other)
