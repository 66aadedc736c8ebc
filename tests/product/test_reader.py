"""Finished maps read as one: the same values, whatever their format and the windows read."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (registers .rio)
import xarray as xr
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from map_files import DAY, NEXT, ORIGIN, OUTSIDE, grid_at, values_on, write_map
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.tiles import DEFAULT_CRS
from mmnet_maps.product import reader
from mmnet_maps.product.reader import Maps, open_maps
from mmnet_maps.product.stac_item import inside


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two areas on two days; they overlap by a strip."""
    out = tmp_path_factory.mktemp("maps") / "maps"
    for day, seed in ((DAY, 0), (NEXT, 1)):
        write_map(out, "west", day, grid_at(10, 20, 300, 200), seed=seed)
        write_map(out, "east", day, grid_at(60, 190, 280, 250), seed=seed)
    return out


def whole(maps: Maps) -> tuple[slice, slice]:
    return slice(0, maps.grid.shape.y), slice(0, maps.grid.shape.x)


def test_areas_lie_on_one_grid(root: Path) -> None:
    maps = open_maps(root)
    assert maps.days == (DAY, NEXT)
    assert maps.layers == ("soil_moisture", "quality", "smap")
    assert maps.grid == grid_at(10, 20, 330, 420)
    assert (maps.synthetic, maps.names, maps.title) == (False, ("east", "west"), "2 areas or tiles")
    found = maps.read("soil_moisture", NEXT, whole(maps))
    expected = values_on(maps.grid, 1)["soil_moisture"]
    expected[:50, 200:] = expected[300:, :170] = np.nan  # in neither area
    np.testing.assert_allclose(found, expected, atol=5.1e-5)
    quality = maps.read("quality", NEXT, whole(maps))
    assert (quality[:50, 200:] == OUTSIDE).all()
    np.testing.assert_array_equal(quality[50:, 200:], values_on(maps.grid, 1)["quality"][50:, 200:])


Opened = tuple[Maps, np.ndarray]


@pytest.fixture(scope="module")
def opened(root: Path) -> Opened:
    """The maps, and their soil moisture with a margin of 200 pixels."""
    maps = open_maps(root)
    return maps, np.pad(maps.read("soil_moisture", DAY, whole(maps)), 200, constant_values=np.nan)


@given(top=st.integers(-40, 340), left=st.integers(-40, 430), height=st.integers(1, 90), width=st.integers(1, 90))
@settings(max_examples=60, deadline=None)
def test_a_window_is_a_window_of_the_whole(opened: Opened, top: int, left: int, height: int, width: int) -> None:
    maps, full = opened
    found = maps.read("soil_moisture", DAY, (slice(top, top + height), slice(left, left + width)))
    np.testing.assert_array_equal(found, full[top + 200 : top + 200 + height, left + 200 : left + 200 + width])


@pytest.mark.parametrize("step", [2, 4, 8])
def test_a_coarse_reading_is_the_mean_of_valid_pixels(root: Path, step: int) -> None:
    maps = open_maps(root)
    inner = (slice(64, 256), slice(64, 160))  # of one area alone
    fine = maps.read("soil_moisture", DAY, inner)
    coarse = maps.read("soil_moisture", DAY, inner, step=step)
    squares = fine.reshape(192 // step, step, 96 // step, step)
    assert coarse.shape == (192 // step, 96 // step)
    np.testing.assert_allclose(coarse, np.nanmean(squares, (1, 3)), atol=0.02)  # overviews of overviews are rounded
    assert abs(np.nanmean(coarse) - np.nanmean(fine)) < 1e-3
    assert maps.read("soil_moisture", DAY, whole(maps), step=step).shape == (-(-330 // step), -(-420 // step))
    assert set(np.unique(maps.read("quality", DAY, inner, step=step))) <= set(
        np.unique(maps.read("quality", DAY, inner))
    )


def test_an_item_a_cog_a_day_and_a_collection_are_the_same_maps(root: Path) -> None:
    item = root / "20210808" / "west_20210808.json"
    cog = root / "20210808" / "west_20210808_soil_moisture.tif"
    of_item, of_cog, of_day = open_maps(item), open_maps(cog), open_maps(root / "20210808")
    assert (of_item.grid, of_item.days, of_item.names) == (grid_at(10, 20, 300, 200), (NEXT,), ("west",))
    assert (of_cog.layers, of_cog.names, of_day.days) == (("soil_moisture",), ("west",), (NEXT,))
    with rasterio.open(cog) as data:
        expected = data.read(1, masked=True).astype(np.float32).filled(np.nan) * np.float32(1e-4)
    for maps in (of_item, of_cog):
        np.testing.assert_array_equal(maps.read("soil_moisture", NEXT, whole(maps)), expected)
    (root / "collection.json").write_text('{"type": "Collection"}')
    assert open_maps(root / "collection.json").days == (DAY, NEXT)
    assert open_maps([item, root / "20210808" / "east_20210808.json"]).grid == open_maps(root).grid
    assert open_maps(root, start=NEXT).days == open_maps(root, start=NEXT, end=NEXT).days == (NEXT,)


def test_a_zarr_store_reads_as_the_cogs(tmp_path: Path) -> None:
    grid = grid_at(0, 0, 150, 130)
    out = tmp_path / "maps"
    write_map(out, "a", DAY, grid)
    cogs = open_maps(out)
    _write_store(tmp_path / "s.zarr", grid)
    maps = open_maps(tmp_path / "s.zarr")
    assert (maps.grid, maps.days, maps.layers) == (cogs.grid, cogs.days, cogs.layers)
    for name in maps.layers:
        np.testing.assert_allclose(maps.read(name, DAY, whole(maps)), cogs.read(name, DAY, whole(cogs)), atol=5.1e-5)
    coarse = maps.read("soil_moisture", DAY, (slice(0, 152), slice(0, 132)), step=4)
    fine = np.pad(cogs.read("soil_moisture", DAY, whole(cogs)), ((0, 2), (0, 2)), constant_values=np.nan)
    np.testing.assert_allclose(coarse, np.nanmean(fine.reshape(38, 4, 33, 4), (1, 3)), atol=5.1e-5)


@given(
    top=st.integers(-9, 150),
    left=st.integers(-9, 130),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    step=st.integers(1, 9),
)
@example(top=-2, left=5, height=1, width=9, step=3)  # the only row of cells reaches the map beyond the window's end
@example(top=5, left=-2, height=9, width=1, step=3)
@example(top=-9, left=-9, height=10, width=19, step=6)
@example(top=-4, left=-7, height=2, width=4, step=9)
@example(top=149, left=129, height=4, width=4, step=3)  # the last pixel of the map
@settings(max_examples=60, deadline=None)
def test_cells_of_a_store_are_means_wherever_they_begin(
    store: Opened, top: int, left: int, height: int, width: int, step: int
) -> None:
    maps, full = store
    rows, cols = (-(-size // step) * step for size in (height, width))
    fine = full[top + 100 :, left + 100 :][:rows, :cols]
    fine = np.pad(fine, [(0, rows - fine.shape[0]), (0, cols - fine.shape[1])], constant_values=np.nan)
    squares = fine.reshape(rows // step, step, cols // step, step)
    count = np.isfinite(squares).sum((1, 3))
    expected = np.where(count, np.nansum(squares, (1, 3)) / np.maximum(count, 1), np.nan)
    found = maps.read("soil_moisture", DAY, (slice(top, top + height), slice(left, left + width)), step=step)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """A Zarr store, and its soil moisture with a margin of 100 pixels."""
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    _write_store(path, grid_at(0, 0, 150, 130))
    maps = open_maps(path)
    return maps, np.pad(maps.read("soil_moisture", DAY, whole(maps)), 100, constant_values=np.nan)


def test_a_store_with_a_link_is_refused(tmp_path: Path) -> None:
    _write_store(tmp_path / "s.zarr", grid_at(0, 0, 30, 30))
    (tmp_path / "s.zarr" / "smap").rename(tmp_path / "smap")
    (tmp_path / "s.zarr" / "smap").symlink_to(tmp_path / "smap")
    with pytest.raises(InputError, match="is a link, which is not followed"):
        open_maps(tmp_path / "s.zarr")


def _write_store(path: Path, grid: GeoBox) -> None:
    """Write maps of a day with xarray and rioxarray alone."""
    layers = {name: (("time", "y", "x"), values[None]) for name, values in values_on(grid, 0).items()}
    data = xr.Dataset(layers, {"time": [np.datetime64(DAY)]}).rio.write_crs(DEFAULT_CRS)
    data = data.assign_coords(dict(zip(("y", "x"), _centres(grid), strict=True)))
    data.to_zarr(path, zarr_format=3, consolidated=False)


def _centres(grid: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    a = grid.affine
    return a.f + a.e * (np.arange(grid.shape.y) + 0.5), a.c + a.a * (np.arange(grid.shape.x) + 0.5)


# ---- left out, and refused ---------------------------------------------------------------------------


def test_unfinished_maps_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_map(tmp_path, "a", DAY, grid_at(0, 0, 30, 30))
    write_map(tmp_path, "b", DAY, grid_at(0, 40, 30, 30))
    (tmp_path / "20210807" / "b_20210807_smap.tif").unlink()
    (tmp_path / "20210807" / "notes_1.json").write_text("[1, 2]")
    assert open_maps(tmp_path).names == ("a",)
    assert "1 map left out: not finished" in caplog.text
    assert str(tmp_path / "20210807" / "b_20210807.json") in caplog.text


def test_maps_of_one_place_and_day_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, other = tmp_path / "a", tmp_path / "b"
    for day in (DAY, NEXT):
        write_map(first, "h", day, grid_at(0, 0, 30, 30))
        write_map(first, "beside", day, grid_at(0, 30, 30, 30))
        write_map(other, "h", day, grid_at(0, 0, 30, 30), seed=1)
        write_map(other, "part", day, grid_at(29, 59, 30, 30), seed=1)
    for paths in (
        first,
        [first, first, tmp_path / "b/../a"],
        [other],
        [other / "20210807" / "h_20210807_smap.tif", other / "20210807" / "h_20210807_quality.tif"],
    ):
        open_maps(paths)
        assert not caplog.text
    maps = open_maps([first, other])
    assert f"maps overlap on 2 days, on 2021-08-07: h of {first} and h of {other}; where both" in caplog.text
    read = maps.read("smap", DAY, (slice(0, 30), slice(0, 30)))
    np.testing.assert_allclose(read, values_on(grid_at(0, 0, 30, 30), 0)["smap"], atol=1e-6)
    caplog.clear()
    open_maps([first / "20210807" / "beside_20210807.json", other / "20210807" / "part_20210807.json"])
    assert "maps overlap on 1 day, on 2021-08-07: beside of" in caplog.text


def test_a_damaged_item_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_map(tmp_path, "a", DAY, grid_at(0, 0, 30, 30))
    item = write_map(tmp_path, "a", NEXT, grid_at(0, 0, 30, 30))
    for damage in (item.read_text()[:-10], "", json.dumps(json.loads(item.read_text()) | {"properties": []})):
        item.write_text(damage)
        assert open_maps(tmp_path).days == (DAY,)
        assert f"1 map left out: damaged: {item}" in caplog.text
        caplog.clear()


def test_an_area_called_closure_is_read_and_smap_consistency_is_not(tmp_path: Path) -> None:
    for name in ("closure_fields", "closure"):
        write_map(tmp_path, name, DAY, grid_at(0, 0, 30, 30))
    (tmp_path / "20210808").mkdir()
    (tmp_path / "20210808" / "closure_20210808.json").write_text('{"mmnet:tiles": "f00d", "day": "2021-08-08"}')
    maps = open_maps(tmp_path)
    assert (maps.names, maps.days) == (("closure", "closure_fields"), (DAY,))


def test_real_maps_take_precedence_over_synthetic_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    write_map(tmp_path, "a", DAY, grid_at(0, 0, 30, 30), synthetic=True)
    assert open_maps(tmp_path).synthetic
    write_map(tmp_path, "a", DAY, grid_at(0, 0, 30, 30))
    assert not open_maps(tmp_path).synthetic
    assert "1 synthetic map beside 1 real one left out" in caplog.text


@pytest.mark.parametrize(
    "href",
    ["../../secret.tif", "/etc/passwd", "https://example.org/a.tif", "file:///etc/passwd", "/vsicurl/http://x/a"],
)
def test_an_item_that_points_elsewhere_is_refused(tmp_path: Path, href: str) -> None:
    item = write_map(tmp_path / "maps", "a", DAY, grid_at(0, 0, 30, 30))
    shutil.copy(item.parent / "a_20210807_smap.tif", tmp_path / "secret.tif")
    content = json.loads(item.read_text())
    content["assets"]["smap"]["href"] = href
    item.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"which does not lie in .*maps.*; not read"):
        open_maps(tmp_path / "maps")


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_not(tmp_path: Path) -> None:
    item = write_map(tmp_path / "maps", "a", DAY, grid_at(0, 0, 30, 30))
    file = item.parent / "a_20210807_smap.tif"
    file.rename(tmp_path / "maps" / "elsewhere.tif")
    file.symlink_to(tmp_path / "maps" / "elsewhere.tif")
    assert open_maps(tmp_path / "maps").layers == ("soil_moisture", "quality", "smap")
    file.unlink()
    (tmp_path / "maps" / "elsewhere.tif").rename(tmp_path / "secret.tif")
    file.symlink_to(tmp_path / "secret.tif")
    with pytest.raises(InputError, match="does not lie in"):
        open_maps(tmp_path / "maps")


def test_a_file_other_than_geotiff_is_not_opened_by_another_driver(tmp_path: Path) -> None:
    """A VRT may name any file or address."""
    item = write_map(tmp_path, "a", DAY, grid_at(0, 0, 30, 30))
    file = item.parent / "a_20210807_smap.tif"
    size = file.stat().st_size
    file.write_text("<VRTDataset rasterXSize='30' rasterYSize='30'></VRTDataset>".ljust(size))
    with pytest.raises(InputError, match="cannot be read"):
        open_maps(tmp_path).read("smap", DAY, (slice(0, 30), slice(0, 30)))


def test_maps_of_two_grids_are_refused(tmp_path: Path) -> None:
    write_map(tmp_path, "a", DAY, grid_at(0, 0, 30, 30))
    write_map(tmp_path, "b", DAY, GeoBox((30, 30), ORIGIN * Affine.scale(0.5), DEFAULT_CRS))
    with pytest.raises(RequestError, match="do not lie on one grid; give maps of one grid at a time"):
        open_maps(tmp_path)


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("nothing", RequestError, "does not exist"),
        ("https://example.org/maps", RequestError, "only files of this machine are read"),
        (".", RequestError, "no finished map in"),
        ("a.txt", RequestError, "neither a folder of maps"),
        ("a.json", RequestError, "is no STAC item, catalog or collection"),
        ("a.tif", InputError, "cannot be read"),
        ("s.zarr", RequestError, "holds no maps"),
    ],
)
def test_paths_without_maps_are_refused(tmp_path: Path, path: str, error: type[Exception], message: str) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.tif").write_text("no")
    (tmp_path / "s.zarr").mkdir()
    (tmp_path / "s.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(error, match=message) as caught:
        open_maps(path if "://" in path else tmp_path / path)
    assert "\n" not in str(caught.value)


def test_a_damaged_item_is_reported_in_one_line(tmp_path: Path) -> None:
    item = write_map(tmp_path, "a", DAY, grid_at(0, 0, 30, 30))
    content = json.loads(item.read_text())
    for key, value in (("proj:shape", None), ("proj:shape", [1e400, 2]), ("proj:code", "EPSG:999999")):
        spoiled = content | {"properties": content["properties"] | {key: value}}
        item.write_text(json.dumps(spoiled))
        with pytest.raises(InputError, match="damaged STAC item"):
            open_maps(tmp_path)
    for href in ("a\0b", "x" * 300):
        content["assets"]["smap"]["href"] = href
        item.write_text(json.dumps(content))
        try:
            assert open_maps(tmp_path) is None
        except (InputError, RequestError) as error:
            assert "\n" not in str(error)  # noqa: PT017  (either may come)


def test_a_file_in_a_folder_is_inside(tmp_path: Path) -> None:
    assert inside(tmp_path / "a", "./b.tif", tmp_path) == (tmp_path / "a" / "b.tif").resolve()


@pytest.mark.parametrize(("shift", "together"), [(4.0005, True), (3.9995, True), (4.01, False)])
def test_maps_a_thousandth_of_a_pixel_off_are_read_together(shift: float, together: bool) -> None:
    first = GeoBox((4, 4), Affine(100, 0, 0, 0, -100, 0), "EPSG:5070")
    other = GeoBox((4, 4), first.affine * Affine.translation(shift, 0), "EPSG:5070")
    if together:
        assert reader._union([first, other]) == GeoBox((4, 8), first.affine, "EPSG:5070")
    else:
        with pytest.raises(RequestError, match="do not lie on one grid"):
            reader._union([first, other])
