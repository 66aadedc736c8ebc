from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.features import geometry_mask

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.area import Area, read_aoi, transform_geometry
from mmnet_maps.grid.lattice import cover, fractional_cells, lonlat, nearest_cells, window_of
from mmnet_maps.grid.mask import area_mask, holds_a_centre
from mmnet_maps.grid.positions import pixel_centres
from mmnet_maps.grid.tiles import (
    MOST_PIXELS,
    TILE_PIXELS,
    conus_grid,
    pinned_blocks,
    pixel_groups,
    pixel_of,
    pixels_of,
    stack_lattice,
    target_grid,
    tile_geobox,
    tiles,
    touched_tiles,
)
from product_grids import EASE2, GRIDMET, SINUSOIDAL

LATTICES = {"gridmet": GRIDMET, "ease2": EASE2, "sinusoidal": SINUSOIDAL}

HOLED = Area(
    name="holed",
    geometry=shapely.Polygon(
        [(-119.6, 47.0), (-119.2, 47.05), (-119.3, 47.3), (-119.45, 47.1)],
        [[(-119.35, 47.1), (-119.28, 47.08), (-119.3, 47.2)]],
    ),
)


@st.composite
def areas(draw: st.DrawFn) -> Area:
    """Draw blobs around a point in CONUS, some with a hole."""
    lon, lat = draw(st.floats(-120, -72)), draw(st.floats(30, 45))
    radius = draw(st.floats(0.002, 0.2))
    angles = np.linspace(0, 2 * np.pi, draw(st.integers(3, 9)), endpoint=False)
    stretch = np.array([draw(st.floats(0.3, 1.0)) for _ in angles])
    ring = np.column_stack([lon + radius * stretch * np.cos(angles), lat + radius * stretch * np.sin(angles)])
    hole = [0.5 * (ring - [lon, lat]) + [lon, lat]] if draw(st.booleans()) else []
    return Area(name="blob", geometry=shapely.Polygon(ring, hole))


@st.composite
def windows(draw: st.DrawFn, shape: tuple[int, int]) -> tuple[slice, slice]:
    parts = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        parts.append(slice(start, draw(st.integers(start + 1, size))))
    return parts[0], parts[1]


def sparse(geobox: GeoBox, step: int) -> GeoBox:
    """Return a grid of pixels `step` times as wide."""
    a = geobox.affine
    shape = (geobox.shape.y // step, geobox.shape.x // step)
    return GeoBox(shape, Affine(a.a * step, 0, a.c, 0, a.e * step, a.f), geobox.crs)


def densified(area: Area, crs: Any) -> shapely.Geometry:
    return transform_geometry(shapely.segmentize(area.geometry, 0.003), "OGC:CRS84", crs)


@settings(deadline=None, max_examples=60)
@given(
    areas(), st.sampled_from([("EPSG:5070", 100.0), ("EPSG:32613", 30.0), ("EPSG:4326", 0.001), ("EPSG:2227", 328.0)])
)
def test_the_target_grid_is_the_smallest_aligned_one(area: Area, where: tuple[str, float]) -> None:
    crs, resolution = where
    grid = target_grid(area, resolution=resolution, crs=crs)
    edges = np.array([grid.boundingbox.left, grid.boundingbox.right, grid.boundingbox.bottom, grid.boundingbox.top])
    np.testing.assert_allclose(edges / resolution, np.round(edges / resolution), rtol=0, atol=1e-6)
    assert (grid.affine.a, grid.affine.e) == (resolution, -resolution)
    left, bottom, right, top = densified(area, crs).bounds
    gaps = np.array([left - edges[0], edges[1] - right, bottom - edges[2], edges[3] - top]) / resolution
    assert (gaps > -2e-3).all()
    assert (gaps < 1).all()


def test_a_projected_file_on_pixel_edges_gets_no_rim() -> None:
    square = shapely.segmentize(shapely.box(-1_800_000, 2_800_000, -1_700_000, 2_900_000), 1000)
    area = read_aoi(transform_geometry(square, "EPSG:5070", "OGC:CRS84"))
    grid = target_grid(area)
    assert grid.boundingbox.bbox == (-1_800_000, 2_800_000, -1_700_000, 2_900_000)
    assert area_mask(area, grid).all()


def test_curved_edges_are_covered() -> None:
    """The northern edge of wide bounds rises above the line between its corners."""
    area = read_aoi("-124,40,-70,49")
    top = target_grid(area).boundingbox.top
    corners = transform_geometry(area.geometry, "OGC:CRS84", "EPSG:5070")
    middle = transform_geometry(shapely.Point(-96, 40), "OGC:CRS84", "EPSG:5070")
    assert corners.bounds[3] <= top < corners.bounds[3] + 100
    assert target_grid(area).boundingbox.bottom <= middle.y < corners.bounds[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crs": "EPSG:0"}, "not known"),
        ({"crs": "nonsense"}, "not known"),
        ({"crs": "EPSG:4978"}, "not a map grid"),
        ({"crs": "EPSG:5703"}, "not a map grid"),
        ({"crs": "IAU_2015:30100"}, "the map grid has the coordinate system .*, which cannot be turned into longitude"),
        ({"crs": "W" * 2000}, "is not known"),
        ({"resolution": 0.0}, "expected 1 to 10000 metres"),
        ({"resolution": -100.0}, "resolution -100"),
        ({"resolution": float("nan")}, "resolution nan"),
        ({"resolution": float("inf")}, "resolution inf"),
        ({"resolution": 1e5}, "resolution 100000"),
        ({"crs": "EPSG:4326"}, "expected 1e-05 to 0.1 degrees"),
    ],
)
def test_wrong_grids_are_refused_in_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        target_grid(HOLED, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_a_crs_that_cannot_show_the_area() -> None:
    with pytest.raises(RequestError, match="cannot show the area holed"):
        target_grid(HOLED, crs="+proj=gnom +lat_0=-47 +lon_0=61")


@settings(deadline=None, max_examples=30)
@given(areas())
def test_the_mask_holds_the_pixels_whose_centre_is_inside(area: Area) -> None:
    grid = target_grid(area)
    x = grid.affine.c + 100 * (np.arange(grid.shape.x) + 0.5)
    y = grid.affine.f - 100 * (np.arange(grid.shape.y) + 0.5)
    outline = densified(area, "EPSG:5070")
    centres, boundary = shapely.points(*np.meshgrid(x, y)), outline.boundary
    shapely.prepare([outline, boundary])
    expected = shapely.contains(outline, centres)
    # Two densifications differ by centimetres: leave out centres that close to the outline.
    clear = ~shapely.dwithin(boundary, centres, 0.1)
    mask = area_mask(area, grid)
    np.testing.assert_array_equal(mask[clear], expected[clear])
    assert holds_a_centre(area, grid) == mask.any()


@settings(deadline=None, max_examples=30)
@given(areas(), st.booleans(), st.data())
def test_the_mask_of_a_window_is_the_window_of_the_mask(area: Area, touched: bool, data: st.DataObject) -> None:
    grid = target_grid(area, resolution=250.0, crs="EPSG:32614")
    window = data.draw(windows((grid.shape.y, grid.shape.x)))
    whole = area_mask(area, grid, touched=touched)
    np.testing.assert_array_equal(area_mask(area, grid[window], touched=touched), whole[window])


def test_a_hole_is_left_out_and_rasterio_agrees() -> None:
    grid = target_grid(HOLED)
    outline = densified(HOLED, "EPSG:5070")
    burnt = geometry_mask([outline], (grid.shape.y, grid.shape.x), grid.affine, invert=True)
    mask = area_mask(HOLED, grid)
    assert (mask != burnt).mean() < 1e-4
    assert mask.sum() * 1e4 == pytest.approx(outline.area, rel=0.01)
    filled = Area(name="filled", geometry=shapely.Polygon(HOLED.geometry.exterior))
    assert area_mask(filled, grid).sum() > mask.sum() + 1000


def test_an_area_without_a_centre_takes_the_pixels_it_touches() -> None:
    # A 40 m square on the corner of four pixels and a thin one in a single pixel.
    corner = shapely.box(-1_800_020, 2_800_020 - 40, -1_799_980, 2_800_020)
    sliver = shapely.box(-1_800_090, 2_800_010, -1_800_070, 2_800_040)
    for shape, count in ((corner, 4), (sliver, 1)):
        area = Area(name="tiny", geometry=transform_geometry(shape, "EPSG:5070", "OGC:CRS84"))
        grid = target_grid(area)
        assert not holds_a_centre(area, grid)
        assert not area_mask(area, grid).any()
        assert area_mask(area, grid, touched=True).sum() == count


def test_conus_and_its_tiles() -> None:
    grid = conus_grid()
    assert grid.boundingbox.bbox == (-2457600.0, 204800.0, 2355200.0, 3276800.0)
    cut = tiles(grid)
    assert len(cut) == len({tile.id for tile in cut}) == 47 * 30
    assert (cut[0].id, cut[1].id, cut[-1].id) == ("h00v00", "h01v00", "h46v29")
    assert all(tile.geobox == tile_geobox(tile.id) for tile in cut[::101])


@given(st.integers(0, 46), st.integers(0, 29))
def test_ids_follow_the_formula(col: int, row: int) -> None:
    box = tile_geobox(f"h{col:02d}v{row:02d}").boundingbox
    assert (np.floor(box.left / 102400) + 24, 31 - np.floor(box.bottom / 102400)) == (col, row)
    assert (box.right - box.left, box.top - box.bottom) == (102400, 102400)


def test_grant_county_lies_in_its_tiles() -> None:
    ids = [tile.id for tile in tiles(target_grid(read_aoi("-120.043,46.626,-118.974,47.962")))]
    assert ids == ["h06v02", "h07v02", "h06v03", "h07v03", "h06v04", "h07v04"]


@pytest.mark.parametrize("tile_id", ["h47v00", "h00v30", "h1v1", "12", "", "h-1v00", "h00v00 "])
def test_unknown_tiles_are_refused(tile_id: str) -> None:
    with pytest.raises(RequestError, match="h00v00 to h46v29"):
        tile_geobox(tile_id)


@given(
    st.integers(-40000, 40000),
    st.integers(-40000, 40000),
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from([100.0, 30.0, 0.001, 12.5]),
)
def test_tiles_partition_any_aligned_grid(col: int, row: int, ny: int, nx: int, resolution: float) -> None:
    crs = "EPSG:4326" if resolution < 1 else "EPSG:5070"
    grid = GeoBox((ny, nx), Affine(resolution, 0, col * resolution, 0, -resolution, row * resolution), crs)
    count = np.zeros((ny, nx), int)
    cut = tiles(grid)
    assert len({tile.id for tile in cut}) == len(cut)
    assert [tile.id for tile in cut] == [tile.id for tile in sorted(cut, key=lambda t: (t.rows.start, t.cols.start))]
    for tile in cut:
        count[tile.rows, tile.cols] += 1
        assert tile.geobox == grid[tile.rows, tile.cols]
        assert window_of(tile.geobox, grid) == (tile.rows, tile.cols)
        for start, stop in (
            (col + tile.cols.start, col + tile.cols.stop - 1),
            (-row + tile.rows.start, -row + tile.rows.stop - 1),
        ):
            assert start // TILE_PIXELS == stop // TILE_PIXELS
    assert (count == 1).all()


def test_a_window_elsewhere_is_no_window() -> None:
    grid = conus_grid()
    box = grid[10:20, 10:20]
    moved = GeoBox(box.shape, Affine(100, 0, box.affine.c + 50, 0, -100, box.affine.f), box.crs)
    coarser = GeoBox(box.shape, Affine(200, 0, box.affine.c, 0, -200, box.affine.f), box.crs)
    other = GeoBox(box.shape, box.affine, "EPSG:32611")
    for window, parent in ((moved, grid), (coarser, grid), (other, grid), (box, grid[:15]), (box, grid[12:])):
        with pytest.raises(InputError, match="not part of the grid"):
            window_of(window, parent)


@pytest.mark.parametrize("name", LATTICES)
def test_nearest_cells_agree_with_pyproj_point_by_point(name: str) -> None:
    lattice = LATTICES[name]
    grid = sparse(tile_geobox("h06v03"), 93)
    row, col = nearest_cells(grid, lattice)
    move = pyproj.Transformer.from_crs("EPSG:5070", str(lattice.crs), always_xy=True)
    for i in range(0, grid.shape.y, 3):
        for j in range(0, grid.shape.x, 3):
            x, y = move.transform(*(grid.affine @ (j + 0.5, i + 0.5)))
            right, down = ~lattice.affine @ (x, y)
            assert (row[i, j], col[i, j]) == (np.floor(down), np.floor(right))


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(sorted(LATTICES)), st.sampled_from(["h00v10", "h20v05", "h46v29", "h06v02"]), st.data())
def test_cells_do_not_depend_on_the_window(name: str, tile_id: str, data: st.DataObject) -> None:
    whole = tile_geobox(tile_id)[:600, 300:700]
    window = data.draw(windows((600, 400)))
    for function in (fractional_cells, nearest_cells):
        for all_cells, cells in zip(
            function(whole, LATTICES[name]), function(whole[window], LATTICES[name]), strict=True
        ):
            np.testing.assert_array_equal(cells, all_cells[window])
    for all_degrees, degrees in zip(lonlat(whole), lonlat(whole[window]), strict=True):
        np.testing.assert_array_equal(degrees, all_degrees[window])


def test_cells_of_a_geographic_grid_do_not_depend_on_the_window() -> None:
    grid = target_grid(HOLED, resolution=0.00123, crs="EPSG:4269")
    rows, cols = fractional_cells(grid, EASE2)
    rows_there, cols_there = fractional_cells(grid[37:91, 11:77], EASE2)
    np.testing.assert_array_equal(rows_there, rows[37:91, 11:77])
    np.testing.assert_array_equal(cols_there, cols[37:91, 11:77])


def test_nearest_cells_are_the_floor_of_the_positions_and_minus_one_outside() -> None:
    grid = sparse(conus_grid()[12000:15000, :3000], 10)
    lattice = GRIDMET[:260]
    rows, cols = fractional_cells(grid, lattice)
    row, col = nearest_cells(grid, lattice)
    inside = (rows >= 0) & (rows < 260) & (cols >= 0) & (cols < 1386)
    assert 0 < inside.mean() < 1
    np.testing.assert_array_equal(row, np.where(inside, np.floor(rows), -1))
    np.testing.assert_array_equal(col, np.where(inside, np.floor(cols), -1))


def test_points_the_lattice_cannot_show_have_no_cell() -> None:
    antipode = GeoBox((10, 10), Affine(1e6, 0, -5e6, 0, -1e6, 5e6), "+proj=gnom +lat_0=-40 +lon_0=80")
    rows, cols = fractional_cells(conus_grid()[:2, :2], antipode)
    assert np.isnan(rows).all()
    assert np.isnan(cols).all()
    assert (nearest_cells(conus_grid()[:2, :2], antipode)[0] == -1).all()
    with pytest.raises(InputError, match="outside"):
        cover(conus_grid()[:2, :2], antipode)


@settings(deadline=None, max_examples=40)
@given(
    areas(),
    st.sampled_from(sorted(LATTICES)),
    st.integers(0, 3),
    st.sampled_from([("EPSG:5070", 100.0), ("EPSG:32613", 900.0), ("EPSG:4326", 0.01)]),
)
def test_cover_holds_every_nearest_cell(area: Area, name: str, pad: int, where: tuple[str, float]) -> None:
    lattice = LATTICES[name]
    grid = target_grid(area, crs=where[0], resolution=where[1])
    window = cover(grid, lattice, pad)
    for cells, part, size in zip(nearest_cells(grid, lattice), window, lattice.shape, strict=True):
        assert 0 <= part.start < part.stop <= size
        assert part.start <= max(cells.min() - pad, 0)
        assert part.stop >= min(cells.max() + 1 + pad, size)
        # No wider than the pixels' edges ask for: half a pixel, along both axes, beyond the outermost centres.
        step = sum(np.abs(np.diff(cells, axis=axis)).max(initial=1) for axis in (0, 1))
        assert part.start >= cells.min() - pad - 1 - step
        assert part.stop <= cells.max() + 2 + pad + step


def test_cover_outside_the_lattice_is_refused() -> None:
    with pytest.raises(InputError, match="lies outside the inputs' grid") as caught:
        cover(tile_geobox("h06v02"), GRIDMET[500:])
    assert "\n" not in str(caught.value)


def test_pixel_centres_and_lonlat_agree_with_pyproj() -> None:
    grid = sparse(tile_geobox("h06v03"), 211)
    y, x = pixel_centres(grid)
    np.testing.assert_allclose(x, grid.affine.c + grid.affine.a * (np.arange(len(x)) + 0.5))
    np.testing.assert_allclose(y, grid.affine.f + grid.affine.e * (np.arange(len(y)) + 0.5))
    lon, lat = lonlat(grid)
    expected = pyproj.Transformer.from_crs(5070, 4326, always_xy=True).transform(*np.meshgrid(x, y))
    np.testing.assert_allclose(lon, expected[0], atol=1e-5)
    np.testing.assert_allclose(lat, expected[1], atol=1e-5)
    assert lon.dtype == lat.dtype == np.float32


def test_threads_may_share_an_area_and_a_grid() -> None:
    """Two threads that shared a prepared geometry, or a PROJ object of old pyproj, crashed the process."""
    angles = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    radius = 0.5 + 0.1 * np.sin(40 * angles)
    ring = np.column_stack([-119.5 + radius * np.cos(angles), 47.2 + 0.7 * radius * np.sin(angles)])
    area = Area(name="star", geometry=shapely.Polygon(ring))
    grid = target_grid(area)
    windows = [grid[row : row + 100, col : col + 300] for row in range(0, 700, 100) for col in range(0, 600, 300)]
    masks = [area_mask(area, window) for window in windows]
    for fresh in range(3):
        again = Area(name=f"star{fresh}", geometry=area.geometry)
        with ThreadPoolExecutor(8) as pool:
            found = list(
                pool.map(lambda window, area=again: (area_mask(area, window), nearest_cells(window, EASE2)), windows)
            )
        for (mask, cells), expected, window in zip(found, masks, windows, strict=True):
            np.testing.assert_array_equal(mask, expected)
            np.testing.assert_array_equal(cells, nearest_cells(window, EASE2))


def test_touched_tiles_are_those_with_a_part_of_the_area() -> None:
    diagonal = Area(name="d", geometry=shapely.LineString([(-120.5, 46.2), (-118.0, 48.3)]).buffer(0.02))
    grid = target_grid(diagonal)
    touched = {tile.id for tile in touched_tiles(diagonal, grid)}
    with_pixels = {tile.id for tile in tiles(grid) if area_mask(diagonal, tile.geobox).any()}
    assert with_pixels <= touched < {tile.id for tile in tiles(grid)}


@given(st.integers(-40000, 40000), st.integers(-40000, 40000), st.integers(1, 3000), st.integers(1, 3000))
def test_a_stack_lattice_holds_the_grid_in_whole_tiles(left: int, top: int, width: int, height: int) -> None:
    grid = GeoBox((height, width), Affine(30, 0, left * 30, 0, -30, top * 30), "EPSG:32611")
    lattice = stack_lattice(grid)
    window_of(grid, lattice)
    assert lattice.shape.x % TILE_PIXELS == lattice.shape.y % TILE_PIXELS == 0
    assert (lattice.affine.c / 30) % TILE_PIXELS == (lattice.affine.f / 30) % TILE_PIXELS == 0
    assert lattice.shape.x < width + 2 * TILE_PIXELS
    assert lattice.shape.y < height + 2 * TILE_PIXELS


@given(
    st.integers(-3000, 3000),
    st.integers(-3000, 3000),
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from([64, 100, 256]),
    st.sampled_from([(100.0, "EPSG:5070"), (0.001, "EPSG:4326")]),
)
def test_pinned_blocks_cover_a_grid_once(
    col: int, row: int, ny: int, nx: int, size: int, where: tuple[float, str]
) -> None:
    resolution, crs = where
    grid = GeoBox((ny, nx), Affine(resolution, 0, col * resolution, 0, -resolution, row * resolution), crs)
    count = np.zeros((ny, nx), int)
    for block, there, here in pinned_blocks(grid, size):
        count[there] += 1
        assert block.shape == (size, size)
        edges = np.array([block.affine.c, block.affine.f]) / resolution / size
        np.testing.assert_allclose(edges, np.round(edges), rtol=0, atol=1e-9)
        one, other = grid[there], block[here]
        assert one.shape == other.shape
        np.testing.assert_allclose(one.affine, other.affine, rtol=0, atol=1e-9)
    assert (count == 1).all()


def test_pixels_of_points_are_those_of_each() -> None:
    grid = conus_grid()
    random = np.random.default_rng(0)
    lon, lat = random.uniform(-130, -60, 50), random.uniform(20, 52, 50)
    rows, cols = pixels_of(grid, lon, lat)
    for x, y, row, col in zip(lon, lat, rows, cols, strict=True):
        if row < 0:
            assert col == -1
            with pytest.raises(RequestError, match="is not on the grid"):
                pixel_of(grid, x, y)
        else:
            assert window_of(pixel_of(grid, x, y), grid) == (slice(row, row + 1), slice(col, col + 1))
    assert 0 < (rows < 0).sum() < 50


@given(st.lists(st.tuples(st.integers(-1, 400), st.integers(0, 700)), max_size=30), st.sampled_from([1, 64, 512]))
def test_groups_of_pixels_hold_each_once(places: list[tuple[int, int]], size: int) -> None:
    grid = GeoBox((401, 701), Affine(100, 0, 0, 0, -100, 0), "EPSG:5070")
    rows = np.array([row for row, _ in places], np.intp)
    cols = np.array([col if row >= 0 else -1 for row, col in places], np.intp)
    seen: list[int] = []
    for which, window in pixel_groups(grid, rows, cols, size):
        seen += which.tolist()
        for index, part in zip((rows[which], cols[which]), window, strict=True):
            assert (index.min(), index.max() + 1) == (part.start, part.stop)
            assert len(set((index // size).tolist())) == 1
    assert sorted(seen) == np.flatnonzero(rows >= 0).tolist()


def test_a_map_of_billions_of_pixels_is_refused() -> None:
    area = read_aoi("-110,40,-108,41")  # 169 by 111 km
    message = r"has [12]\d\.\d billion pixels at resolution 1, about \d+ hours .* give --resolution 3"
    with pytest.raises(RequestError, match=message) as found:
        target_grid(area, resolution=1)
    better = float(re.search(r"--resolution (\S+)", str(found.value))[1])  # type: ignore[index]
    rows, cols = target_grid(area, resolution=better).shape
    assert 0.9 * MOST_PIXELS < rows * cols <= MOST_PIXELS
