from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import xarray as xr
import yaml
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.warp import reproject

from analytic import read_static
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.positions import pixel_centres
from mmnet_maps.grid.tiles import target_grid, tile_geobox
from mmnet_maps.sources import open_source
from mmnet_maps.sources.base import Source
from mmnet_maps.sources.files.source import FilesSource
from mmnet_maps.variables import VARIABLES, Variable

DAY = date(2021, 8, 8)
GRID = GeoBox((40, 30), Affine(100, 0, -1_800_000, 0, -100, 2_900_000), "EPSG:5070")
REPOSITORY = Path(__file__).parents[3]
REAL = REPOSITORY.parent / "shared/data/rasters"


def write_tif(path: Path, values: NDArray[Any], affine: Affine, crs: str | None, **options: Any) -> str:
    scale = options.pop("scale", None)
    count, (height, width) = (1, values.shape) if values.ndim == 2 else (len(values), values.shape[1:])
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=count,
        dtype=values.dtype,
        crs=crs,
        transform=affine,
        **options,
    ) as image:
        image.write(values.reshape(count, height, width))
        if scale:
            image.scales, image.offsets = (scale[0],) * count, (scale[1],) * count
    return path.name


def source(folder: Path, variables: dict[str, dict[str, Any]], **options: Any) -> FilesSource:
    path = folder / "mine.yaml"
    entries = {name: {"product": f"my {name}", **entry} for name, entry in variables.items()}
    path.write_text(yaml.safe_dump({"name": "mine", "variables": entries, **options}, sort_keys=False))
    return FilesSource(path)


def around(geobox: GeoBox, crs: str, cell: float, margin: int = 5) -> tuple[Affine, tuple[int, int]]:
    """Return a north-up grid in another CRS that covers a grid."""
    x, y = centres_in(geobox, crs)
    left, top = x.min() - margin * cell, y.max() + margin * cell
    shape = math.ceil((top - y.min()) / cell) + margin, math.ceil((x.max() - left) / cell) + margin
    return Affine(cell, 0, left, 0, -cell, top), shape


def centres(affine: Affine, shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] + 0.5
    return affine.c + affine.a * x, affine.f + affine.e * y


def centres_in(geobox: GeoBox, crs: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = pixel_centres(geobox)
    found: tuple[NDArray[np.float64], NDArray[np.float64]] = pyproj.Transformer.from_crs(
        str(geobox.crs), crs, always_xy=True
    ).transform(*np.meshgrid(x, y))
    return found


def test_a_pixel_is_the_mean_of_its_valid_source_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    stored = rng.integers(0, 16000, (200, 150)).astype(np.uint16)
    stored[rng.random(stored.shape) < 0.2] = 65535
    stored[rng.random(stored.shape) < 0.1] = 7
    stored[rng.random(stored.shape) < 0.1] = 60000
    stored[50:55, 50:55] = 65535
    affine = Affine(20, 0, GRID.affine.c, 0, -20, GRID.affine.f)
    file = write_tif(tmp_path / "red.tif", stored, affine, "EPSG:5070", nodata=65535)
    entry = {"files": file, "date": DAY, "scale": 2e-4, "offset": -0.1, "nodata": 7}
    found = source(tmp_path, {"red": entry}).read("optical", GRID, [DAY])["red"]
    physical = stored * 2e-4 - 0.1
    physical[np.isin(stored, (65535, 7)) | (physical > 1.6)] = np.nan
    pieces = physical.reshape(40, 5, 30, 5).swapaxes(1, 2).reshape(40, 30, 25)
    expected = np.nansum(pieces, axis=2) / np.maximum(np.isfinite(pieces).sum(axis=2), 1)
    expected[np.isnan(pieces).all(axis=2)] = np.nan
    assert found.shape == (1, 40, 30)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=2e-6)
    assert np.isnan(found[0, 10, 10])


def test_land_cover_is_the_most_frequent_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    stored = np.repeat(np.repeat(rng.integers(1, 5, (40, 30)), 5, 0), 5, 1).astype(np.uint8)
    mixed = rng.random(stored.shape) < 0.4
    stored[mixed] = rng.integers(1, 6, mixed.sum())
    affine = Affine(20, 0, GRID.affine.c, 0, -20, GRID.affine.f)
    file = write_tif(tmp_path / "cover.tif", stored, affine, "EPSG:5070", nodata=255)
    codes = {1: 11, 2: 22, 3: 31, 4: 42}
    found = source(tmp_path, {"landcover": {"files": file, "codes": codes}}).read("landcover", GRID, [DAY])["landcover"]
    assert found.dtype == np.uint8
    pieces = stored.reshape(40, 5, 30, 5).swapaxes(1, 2).reshape(40, 30, 25)
    counts = np.stack([(pieces == code).sum(axis=2) for code in codes])
    clear = np.sort(counts, axis=0)[-1] > np.sort(counts, axis=0)[-2]
    expected = np.array(list(codes.values()))[counts.argmax(axis=0)]
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[0][clear], expected[clear])


@pytest.mark.parametrize("order", ["north up", "south up"])
@pytest.mark.parametrize(
    ("crs", "cell"), [("EPSG:32611", 30), ("EPSG:4326", 0.0004), ("EPSG:32611", 350), ("EPSG:6933", 900)]
)
def test_a_slanted_plane_in_any_crs_and_cell_size_stays_a_plane(
    tmp_path: Path, crs: str, cell: float, order: str
) -> None:
    """The mean over a pixel of a linear field is its value at the centre; so is bilinear interpolation."""
    affine, shape = around(GRID, crs, cell)
    x, y = centres(affine, shape)

    def plane(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return 0.4 + 0.3 * (x - affine.c) / (shape[1] * cell) + 0.4 * (y - affine.f) / (shape[0] * cell)

    values = plane(x, y).astype(np.float32)
    if order == "south up":
        values, affine_there = values[::-1], Affine(cell, 0, affine.c, 0, cell, affine.f - shape[0] * cell)
    else:
        affine_there = affine
    file = write_tif(tmp_path / "clay.tif", values * 50, affine_there, crs)
    found = source(tmp_path, {"clay": {"files": file}}).read("soil", GRID, [DAY])["clay"][0]
    expected = plane(*centres_in(GRID, crs)) * 50
    # One source cell is this much of the range; footprints are whole cells, not slanted pixels.
    step = 50 * 0.4 / min(shape)
    assert np.abs(found - expected).max() < 0.25 * step
    assert np.abs((found - expected).mean()) < 0.05 * step


def test_land_cover_coarser_than_the_grid_is_the_cell_under_the_centre(tmp_path: Path) -> None:
    affine, shape = around(GRID, "EPSG:32611", 1000)
    stored = np.random.default_rng(3).choice(np.array([21, 42, 82], np.uint8), shape)
    file = write_tif(tmp_path / "cover.tif", stored, affine, "EPSG:32611")
    found = source(tmp_path, {"landcover": {"files": file}}).read("landcover", GRID, [DAY])["landcover"][0]
    x, y = centres_in(GRID, "EPSG:32611")
    right, down = (x - affine.c) / 1000, (y - affine.f) / -1000
    clear = np.minimum(np.abs(right - np.round(right)), np.abs(down - np.round(down))) > 0.01
    np.testing.assert_array_equal(found[clear], stored[down.astype(int), right.astype(int)][clear])


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[FilesSource, GeoBox, dict[str, NDArray[Any]]]:
    """Return noise from several files in UTM and degrees, on a grid across the corner of four blocks."""
    folder = tmp_path_factory.mktemp("noisy")
    grid = tile_geobox("h06v03")[480:560, 480:570]
    rng = np.random.default_rng(4)
    utm, utm_shape = around(grid, "EPSG:32611", 30, -20)
    degrees, degrees_shape = around(grid, "EPSG:4326", 0.0012)
    made = source(
        folder,
        {
            "red": {
                "files": write_tif(folder / "r.tif", rng.random(utm_shape, np.float32), utm, "EPSG:32611"),
                "date": DAY,
            },
            "elevation": {
                "files": write_tif(folder / "e.tif", 500 * rng.random(degrees_shape, np.float32), degrees, "EPSG:4326")
            },
            "landcover": {
                "files": write_tif(
                    folder / "l.tif", rng.choice(np.array([11, 21, 52], np.uint8), utm_shape), utm, "EPSG:32611"
                )
            },
        },
    )
    return made, grid, read_static(made, grid, [DAY]) | made.read("optical", grid, [DAY])


@settings(deadline=None, max_examples=12)
@given(st.data())
def test_a_window_equals_the_same_part_of_the_whole(
    noisy: tuple[FilesSource, GeoBox, dict[str, NDArray[Any]]], data: st.DataObject
) -> None:
    made, grid, whole = noisy
    top, left = data.draw(st.integers(0, 79)), data.draw(st.integers(0, 89))
    part = slice(top, data.draw(st.integers(top + 1, 80))), slice(left, data.draw(st.integers(left + 1, 90)))
    found = read_static(made, grid[part], [DAY]) | made.read("optical", grid[part], [DAY])
    assert found.keys() == whole.keys() == {"elevation", "slope", "aspect", "landcover", "red"}
    for name, values in found.items():
        np.testing.assert_array_equal(values, whole[name][(slice(None), *part)], err_msg=name)


@pytest.mark.parametrize("part", [np.s_[22:23, 0:34], np.s_[24:67, 0:36], np.s_[23:59, 84:87]])
def test_rows_that_lie_aslant_in_a_file_are_those_of_the_whole(
    noisy: tuple[FilesSource, GeoBox, dict[str, NDArray[Any]]], part: tuple[slice, slice]
) -> None:
    made, grid, whole = noisy
    found = made.read("optical", grid[part], [DAY])["red"]
    np.testing.assert_array_equal(found, whole["red"][(slice(None), *part)])


def test_slope_and_aspect_are_computed_from_the_elevation(tmp_path: Path) -> None:
    wide = GRID.pad(10)
    x, y = centres(Affine(25, 0, wide.affine.c, 0, -25, wide.affine.f), (240, 200))
    elevation = 800 + 0.1 * (x - x.min()) + 0.2 * (y - y.min())
    file = write_tif(
        tmp_path / "z.tif",
        elevation.astype(np.float32),
        Affine(25, 0, wide.affine.c, 0, -25, wide.affine.f),
        "EPSG:5070",
    )
    made = source(tmp_path, {"elevation": {"files": file, "licence": "mine"}})
    assert made.variables()["slope"] == made.variables()["elevation"]
    assert made.variables()["slope"].licence == "mine"
    found = made.read("terrain", GRID, [DAY])
    assert list(found) == ["elevation", "slope", "aspect"]
    np.testing.assert_allclose(found["slope"], math.degrees(math.atan(math.hypot(0.1, 0.2))), atol=0.02)
    # Downhill is to the south-west.
    np.testing.assert_allclose(found["aspect"], 180 + math.degrees(math.atan2(0.1, 0.2)), atol=0.1)
    geographic = target_grid(read_aoi("-119.6,47.21,-119.59,47.22"), resolution=0.001, crs="EPSG:4326")
    lon, _ = centres(Affine(0.0005, 0, -119.61, 0, -0.0005, 47.23), (60, 60))
    tilt = 500 + 111_320 * 0.1 * (lon + 119.61) * math.cos(math.radians(47.215))
    file = write_tif(
        tmp_path / "g.tif", tilt.astype(np.float32), Affine(0.0005, 0, -119.61, 0, -0.0005, 47.23), "EPSG:4326"
    )
    found = source(tmp_path, {"elevation": {"files": file}}).read("terrain", geographic, [DAY])
    np.testing.assert_allclose(found["slope"], math.degrees(math.atan(0.1)), atol=0.02)
    np.testing.assert_allclose(found["aspect"], 270, atol=0.1)
    file = write_tif(
        tmp_path / "s.tif",
        np.full((60, 60), 3, np.float32),
        Affine(200, 0, -1_801_000, 0, -200, 2_901_000),
        "EPSG:5070",
    )
    own = source(tmp_path, {"elevation": {"files": file, "units": "ft"}, "slope": {"files": file}})
    found = own.read("terrain", GRID, [DAY])
    assert np.allclose(found["slope"], 3)
    np.testing.assert_allclose(found["elevation"], 3 * 0.3048, rtol=1e-5)
    assert not found["aspect"].any()


def test_adjacent_files_and_the_nearest_release(tmp_path: Path) -> None:
    values = np.random.default_rng(5).uniform(1, 60, (200, 150)).astype(np.float32)
    affine = Affine(20, 0, GRID.affine.c, 0, -20, GRID.affine.f)
    whole = write_tif(tmp_path / "whole.tif", values, affine, "EPSG:5070")
    west = write_tif(tmp_path / "west.tif", values[:, :75], affine, "EPSG:5070")
    east = write_tif(tmp_path / "east.tif", values[:, 75:], affine @ Affine.translation(75, 0), "EPSG:5070")
    other = write_tif(tmp_path / "other.tif", np.full_like(values, 5), affine, "EPSG:5070")
    one = source(tmp_path, {"clay": {"files": whole}}).read("soil", GRID, [DAY])["clay"]
    np.testing.assert_array_equal(
        one, source(tmp_path, {"clay": {"files": [west, east]}}).read("soil", GRID, [DAY])["clay"]
    )
    releases = source(tmp_path, {"clay": {"dates": {date(2016, 7, 1): other, date(2021, 7, 1): [west, east]}}})
    np.testing.assert_array_equal(one, releases.read("soil", GRID, [DAY])["clay"])
    assert np.allclose(releases.read("soil", GRID, [date(2018, 6, 1)])["clay"], 5)
    assert releases.days("soil", GRID, DAY, DAY) == [DAY]


def test_days_of_fine_files_are_those_that_meet_the_window(tmp_path: Path) -> None:
    values = np.full((100, 100), 0.3, np.float32)
    here = write_tif(tmp_path / "here.tif", values, Affine(100, 0, GRID.affine.c, 0, -100, GRID.affine.f), "EPSG:5070")
    far = write_tif(tmp_path / "far.tif", values, Affine(100, 0, 0, 0, -100, 2_000_000), "EPSG:5070")
    days = {date(2021, 8, 1): far, DAY: [far, here], date(2021, 8, 16): here}
    made = source(tmp_path, {"red": {"dates": days}, "nir": {"files": here, "date": date(2021, 8, 9)}})
    assert made.days("optical", GRID, date(2021, 8, 1), date(2021, 8, 15)) == [DAY, date(2021, 8, 9)]
    assert made.days("sar", GRID, date(2021, 8, 1), date(2021, 8, 15)) == []
    found = made.read("optical", GRID, [DAY, date(2021, 8, 9)])
    assert np.isfinite(found["red"][0]).all()
    assert np.isnan(found["red"][1]).all()
    assert np.isnan(found["nir"][0]).all()
    assert np.allclose(found["nir"][1], 0.3)


WEATHER_DAYS = [date(2021, 8, 6), date(2021, 8, 7), date(2021, 8, 8)]


def weather_file(folder: Path, kind: str) -> tuple[str, NDArray[np.float64]]:
    """Write three days of vapour pressure deficit in Pa, stored as publishers do; return physical values, north up."""
    rng = np.random.default_rng(6)
    lat, lon = 49.4 - np.arange(60) / 24, -124.75 + np.arange(80) / 24
    values = np.round(rng.uniform(0, 4000, (3, 60, 80)))
    values[1, 4, 5] = np.nan
    stored = xr.DataArray(
        values,
        dims=("day", "lat", "lon"),
        coords={"day": np.array(WEATHER_DAYS, "datetime64[ns]"), "lat": lat, "lon": lon},
        name="vpd_pa",
    )
    if kind == "ascending latitude":
        stored = stored.isel(lat=slice(None, None, -1))
    if kind == "longitude from 0":
        stored = stored.assign_coords(lon=lon + 360)
    if kind == "other order":
        stored = stored.transpose("lon", "day", "lat")
    if kind == "one level":
        stored = stored.expand_dims(level=[2.0], axis=1)
    path = folder / ("vpd.zarr" if kind == "zarr" else "vpd.nc")
    encoding = {"vpd_pa": {"dtype": "int16", "scale_factor": 0.5, "add_offset": 1000.0, "_FillValue": -9999}}
    if kind == "zarr":
        stored.to_dataset().to_zarr(path, zarr_format=3, consolidated=False, encoding=encoding)
    elif kind == "netCDF 3":
        stored.to_netcdf(path, encoding=encoding, format="NETCDF3_64BIT", engine="scipy")
    else:
        stored.to_netcdf(path, encoding=encoding)
    return path.name, values


@pytest.mark.parametrize(
    "kind",
    ["descending latitude", "ascending latitude", "longitude from 0", "other order", "one level", "netCDF 3", "zarr"],
)
def test_coarse_files_stay_on_their_own_lattice(tmp_path: Path, kind: str) -> None:
    file, values = weather_file(tmp_path, kind)
    made = source(tmp_path, {"vpd": {"files": file, "units": "Pa"}})
    lattice = made.lattice("weather")
    assert lattice.shape == (60, 80)
    assert lattice.crs == "EPSG:4326"
    corner = -124.75 - 0.5 / 24, 49.4 + 0.5 / 24
    np.testing.assert_allclose((lattice.affine.c, lattice.affine.f), corner, atol=1e-9)
    np.testing.assert_allclose((lattice.affine.a, lattice.affine.e), (1 / 24, -1 / 24), atol=1e-12)
    assert made.days("weather", lattice[3:9, 2:8], date(2021, 8, 7), date(2021, 8, 20)) == WEATHER_DAYS[1:]
    found = made.read("weather", lattice[3:9, 2:8], WEATHER_DAYS[:2])["vpd"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values[:2, 3:9, 2:8] / 1000, rtol=1e-6)
    whole = made.read("weather", lattice, WEATHER_DAYS)["vpd"]
    np.testing.assert_array_equal(found, whole[:2, 3:9, 2:8])
    assert np.isnan(whole).sum() == 1


def test_fields_of_a_day_are_averaged_where_half_are_valid(tmp_path: Path) -> None:
    values = np.random.default_rng(7).uniform(0.1, 0.4, (16, 5, 6))
    values[:4, 0, 0] = np.nan
    values[:5, 0, 1] = np.nan
    times = np.datetime64("2021-08-07T01:30", "ns") + np.arange(16) * np.timedelta64(3, "h")
    crs = pyproj.CRS("EPSG:6933")
    dataset = xr.Dataset(
        {
            "sm_surface": (("time", "y", "x"), values, {"grid_mapping": "ease"}),
            "other": (("time", "y", "x"), values * 2),
            "ease": ((), 0, crs.to_cf()),
        },
        coords={"time": times, "y": 5_000_000 - 9000.0 * np.arange(5), "x": -9_000_000 + 9000.0 * np.arange(6)},
    )
    dataset.to_netcdf(tmp_path / "smap.nc")
    made = source(tmp_path, {"smap": {"files": "smap.nc", "variable": "sm_surface"}})
    lattice = made.lattice("smap")
    assert lattice.crs == "EPSG:6933"
    found = made.read("smap", lattice, [date(2021, 8, 7), date(2021, 8, 8)])["smap"]
    expected = values.reshape(2, 8, 5, 6).mean(axis=1)
    expected[0, 0, 0] = values[4:8, 0, 0].mean()
    expected[0, 0, 1] = np.nan
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_coarse_geotiffs_with_their_own_scale_and_two_bands(tmp_path: Path) -> None:
    stored = np.random.default_rng(8).integers(12000, 17000, (2, 20, 20)).astype(np.uint16)
    stored[1, 3, 4] = 0
    sinusoidal = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"
    affine = Affine(926.6254, 0, -9_000_000, 0, -926.6254, 5_200_000)
    file = write_tif(tmp_path / "lst.tif", stored, affine, sinusoidal, scale=(0.02, 0.0), nodata=0)
    made = source(tmp_path, {"lst": {"files": file, "date": DAY, "band": 2}})
    lattice = made.lattice("lst")
    found = made.read("lst", lattice[2:9, 1:12], [DAY])["lst"]
    expected = stored[1, 2:9, 1:12] * 0.02
    expected[1, 3] = np.nan
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    bare = source(tmp_path, {"lst": {"files": file, "date": DAY, "scale": 1.0, "offset": -13000, "units": "degC"}})
    assert np.isfinite(bare.read("lst", lattice, [DAY])["lst"]).mean() == pytest.approx(
        ((stored[0] >= 13000 - 53.15) & (stored[0] <= 13000 + 96.85)).mean(), abs=1e-9
    )


def test_only_the_window_is_read(tmp_path: Path) -> None:
    """Read a window of a sparse file of 100 GB, which no memory could hold."""
    path = tmp_path / "huge.tif"
    affine = Affine(10, 0, -2_400_000, 0, -10, 3_200_000)
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True, "bigtiff": "yes"}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=160_000,
        width=160_000,
        count=1,
        dtype="float32",
        crs="EPSG:5070",
        transform=affine,
        **options,
    ) as image:
        start = int((3_200_000 - 2_900_000) / 10), int((2_400_000 - 1_800_000) / 10)
        window = rasterio.windows.Window(start[1], start[0], 300, 400)
        image.write(np.full((1, 400, 300), 25, np.float32), window=window)
    found = source(tmp_path, {"sand": {"files": "huge.tif"}}).read("soil", GRID, [DAY])["sand"]
    np.testing.assert_allclose(found, 25)


def test_reading_needs_no_more_of_a_file_than_the_window(tmp_path: Path) -> None:
    """Whatever lies outside the window may be damaged."""
    values = np.random.default_rng(9).uniform(1, 50, (2000, 2000)).astype(np.float32)
    affine = Affine(100, 0, GRID.affine.c, 0, -100, GRID.affine.f)
    write_tif(tmp_path / "a.tif", values, affine, "EPSG:5070", blockysize=16)
    path = tmp_path / "a.tif"
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    made = source(tmp_path, {"clay": {"files": "a.tif"}})
    np.testing.assert_allclose(made.read("soil", GRID, [DAY])["clay"][0], values[:40, :30], rtol=1e-5)
    below = GeoBox((10, 10), Affine(100, 0, GRID.affine.c, 0, -100, GRID.affine.f - 190_000), "EPSG:5070")
    with pytest.raises(InputError, match=r"clay: .*a\.tif cannot be read"):
        made.read("soil", below, [DAY])


def test_everything_outside_the_files_is_missing(tmp_path: Path) -> None:
    file = write_tif(
        tmp_path / "a.tif", np.full((5, 5), 30, np.float32), Affine(100, 0, 0, 0, -100, 2_000_000), "EPSG:5070"
    )
    cover = write_tif(
        tmp_path / "b.tif", np.full((5, 5), 42, np.uint8), Affine(100, 0, 0, 0, -100, 2_000_000), "EPSG:5070"
    )
    found = read_static(source(tmp_path, {"clay": {"files": file}, "landcover": {"files": cover}}), GRID, [DAY])
    assert np.isnan(found["clay"]).all()
    assert not found["landcover"].any()


def no_crs(folder: Path) -> dict[str, Any]:
    return {"files": write_tif(folder / "a.tif", np.ones((5, 5), np.float32), Affine(100, 0, 0, 0, -100, 2e6), None)}


def rotated(folder: Path) -> dict[str, Any]:
    return {
        "files": write_tif(folder / "a.tif", np.ones((5, 5), np.float32), Affine(100, 9, 0, 9, -100, 2e6), "EPSG:5070")
    }


def garbage(folder: Path) -> dict[str, Any]:
    (folder / "a.tif").write_bytes(b"II*\x00 and nothing more")
    return {"files": "a.tif"}


def broken_netcdf(folder: Path) -> dict[str, Any]:
    file, _ = weather_file(folder, "descending latitude")
    (folder / file).write_bytes((folder / file).read_bytes()[:2000])
    return {"files": file}


def no_such_band(folder: Path) -> dict[str, Any]:
    return no_crs(folder) | {"crs": "EPSG:5070", "band": 2}


def no_such_variable(folder: Path) -> dict[str, Any]:
    return {"files": weather_file(folder, "descending latitude")[0], "variable": "rain"}


def two_variables(folder: Path) -> dict[str, Any]:
    field = (("lat", "lon"), np.zeros((4, 4)))
    axes = {"lat": np.arange(40.0, 44), "lon": np.arange(-100.0, -96)}
    xr.Dataset({"a": field, "b": field}, axes).to_netcdf(folder / "a.nc")
    return {"files": "a.nc"}


def uneven(folder: Path) -> dict[str, Any]:
    axes = {"lat": [40.0, 41, 43, 44], "lon": np.arange(-100.0, -96)}
    xr.Dataset({"a": (("lat", "lon"), np.zeros((4, 4)))}, axes).to_netcdf(folder / "a.nc")
    return {"files": "a.nc"}


def levels(folder: Path) -> dict[str, Any]:
    axes = {"lat": np.arange(40.0, 44), "lon": np.arange(-100.0, -96)}
    xr.Dataset({"a": (("depth", "lat", "lon"), np.zeros((3, 4, 4)))}, axes).to_netcdf(folder / "a.nc")
    return {"files": "a.nc"}


def unplaced(folder: Path) -> dict[str, Any]:
    axes = {"y": np.arange(4.0), "x": np.arange(4.0)}
    xr.Dataset({"a": (("y", "x"), np.zeros((4, 4)))}, axes).to_netcdf(folder / "a.nc")
    return {"files": "a.nc"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: {"files": "nowhere.tif"}, "nowhere.tif cannot be read: No such file"),
        (lambda _: {"files": "nowhere.zarr"}, "nowhere.zarr cannot be read: No such file"),
        (no_crs, "states no CRS; expected one; give it as 'crs'"),
        (rotated, "rotated"),
        (garbage, "cannot be read"),
        (broken_netcdf, "cannot be read"),
        (no_such_band, "no band 2; expected at most 1"),
        (no_such_variable, "no variable rain; expected one of vpd_pa"),
        (two_variables, "several variables: a, b; expected one"),
        (uneven, "lat is not evenly spaced"),
        (levels, "dimension depth of length 3"),
        (unplaced, "states no CRS"),
    ],
)
def test_broken_files_are_reported_in_one_line(
    tmp_path: Path, make: Callable[[Path], dict[str, Any]], words: str
) -> None:
    entry = make(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        source(tmp_path, {"vpd": {**entry, "date": DAY}}).lattice("weather")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"vpd: {tmp_path / entry['files']}")
    with pytest.raises(InputError, match=words):
        source(tmp_path, {"clay": entry}).read("soil", GRID, [DAY])


def test_invalid_descriptions_are_reported(tmp_path: Path) -> None:
    affine = Affine(0.04, 0, -124, 0, -0.04, 49)
    fine = write_tif(tmp_path / "a.tif", np.ones((9, 9), np.float32), affine, "EPSG:4326")
    other = write_tif(tmp_path / "b.tif", np.ones((9, 9), np.float32), affine @ Affine.translation(0.5, 0), "EPSG:4326")
    file, _ = weather_file(tmp_path, "descending latitude")
    undated = source(tmp_path, {"vpd": {"files": fine}})
    with pytest.raises(InputError, match="no time axis; expected its day"):
        undated.days("weather", GRID, DAY, DAY)
    mixed = source(tmp_path, {"vpd": {"files": fine, "date": DAY}, "pr": {"files": other, "date": DAY}})
    with pytest.raises(InputError, match=r"pr: .*b\.tif lies on another grid than .*a\.tif"):
        mixed.lattice("weather")
    with pytest.raises(InputError, match="no variable of the group smap"):
        mixed.lattice("smap")
    wrong = source(tmp_path, {"vpd": {"dates": {date(2021, 9, 1): file}, "units": "Pa"}})
    with pytest.raises(InputError, match=r"holds 2021-08-06 to 2021-08-08, not 2021-09-01"):
        wrong.read("weather", wrong.lattice("weather"), [date(2021, 9, 1)])


def test_a_file_changed_in_place_is_read_again_and_the_name_stays(tmp_path: Path) -> None:
    affine = Affine(100, 0, GRID.affine.c, 0, -100, GRID.affine.f)
    write_tif(tmp_path / "a.tif", np.full((40, 30), 20, np.float32), affine, "EPSG:5070")
    made = source(tmp_path, {"clay": {"files": "a.tif"}})
    before, state = made.name, made.state
    assert before.startswith("mine-")
    assert np.allclose(made.read("soil", GRID, [DAY])["clay"], 20)
    write_tif(tmp_path / "a.tif", np.full((50, 50), 30, np.float32), affine, "EPSG:5070")
    again = FilesSource(tmp_path / "mine.yaml")
    assert again.name == before
    assert again.state != state
    assert np.allclose(again.read("soil", GRID, [DAY])["clay"], 30)
    assert source(tmp_path, {"clay": {"files": "a.tif", "nodata": 30}}).name != before


def test_a_new_variable_needs_only_its_definition_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    affine = Affine(100, 0, GRID.affine.c, 0, -100, GRID.affine.f)
    file = write_tif(tmp_path / "a.tif", np.full((40, 30), 3, np.float32), affine, "EPSG:5070")
    for group in ("optical", "vegetation"):  # on the target grid, and on the files' own
        index = Variable(
            name="lai", long_name="leaf area index", units="1", group=group, valid_min=0, valid_max=10, scale=0.01
        )
        monkeypatch.setitem(VARIABLES, "lai", index)
        made = source(tmp_path, {"lai": {"files": file, "date": DAY}})
        assert list(made.variables()) == ["lai"]
        grid = GRID if group == "optical" else made.lattice(group)
        assert made.days(group, grid, DAY, DAY) == [DAY]
        np.testing.assert_allclose(made.read(group, grid, [DAY])["lai"], 3)


def test_open_source(tmp_path: Path) -> None:
    (demo,) = open_source("demo")
    assert demo.name == "demo"
    file = write_tif(tmp_path / "a.tif", np.ones((5, 5), np.float32), Affine(100, 0, 0, 0, -100, 2e6), "EPSG:5070")
    entry = {"files": file, "version": "3", "licence": "CC0"}
    made = source(tmp_path, {"clay": entry})
    assert isinstance(made, Source)
    (only,) = open_source(str(tmp_path / "mine.yaml"))
    assert only.variables().keys() == {"clay"}
    provenance = only.variables()["clay"]
    assert (provenance.source, provenance.product, provenance.version) == ("files", "my clay", "3")
    assert not provenance.synthetic
    source(tmp_path, {"clay": entry}, rest="demo")
    first, second = open_source(str(tmp_path / "mine.yaml"))
    assert isinstance(first, FilesSource)
    assert second.name == "demo"
    for spec, words in (
        ("nonsense", "unknown source 'nonsense'; expected demo"),
        ("nowhere.yaml", "no sources YAML nowhere.yaml; correct --source"),
    ):
        with pytest.raises(RequestError, match=words):
            open_source(spec)


@pytest.fixture
def zion(monkeypatch: pytest.MonkeyPatch) -> FilesSource:
    if not (REAL / "zion").is_dir():
        pytest.skip("the rasters of Zion are absent")
    if not (REPOSITORY / "examples").is_dir():
        pytest.skip("the example of Zion is in the source folder")
    monkeypatch.setenv("ZION_RASTERS", str(REAL / "zion"))
    return FilesSource(REPOSITORY / "examples/zion.yaml")


def test_zion_agrees_with_gdal_warping_the_files_themselves(zion: FilesSource) -> None:
    grid = target_grid(read_aoi(REPOSITORY / "examples/zion.geojson"))
    day = date(2015, 8, 18)
    assert zion.days("optical", grid, date(2015, 7, 1), date(2015, 9, 30)) == [day]
    found = read_static(zion, grid, [day]) | zion.read("optical", grid, [day])
    for name, values in found.items():
        assert values.shape == (1, *grid.shape)
        if name != "landcover":
            variable = VARIABLES[name]
            assert ((values >= variable.valid_min) & (values <= variable.valid_max)).all()
    for name, file, scale, offset, close in (
        ("elevation", "srtm.tif", 1, 0, 10),
        ("nir", "landsat_b5.tif", 2.334e-5, -0.1167, 0.002),
    ):
        warped = np.empty(grid.shape, np.float32)
        with rasterio.open(REAL / "zion" / file) as image:
            reproject(
                rasterio.band(image, 1),
                warped,
                dst_crs="EPSG:5070",
                dst_transform=grid.affine,
                resampling=Resampling.average,
            )
        expected = warped.astype(np.float64) * scale + offset
        difference = np.abs(found[name][0] - expected)
        assert difference.mean() < close / 10
        assert np.quantile(difference, 0.99) < close
    codes, counts = np.unique(found["landcover"], return_counts=True)
    assert set(codes) <= {11, 22, 31, 42, 52, 71, 82, 90}
    assert set(codes[np.argsort(counts)[-2:]]) <= {31, 42, 52}
    red, nir = found["red"], found["nir"]
    forest = found["landcover"] == 42
    ndvi = (nir - red) / (nir + red)
    assert np.median(ndvi[forest]) > np.median(ndvi[found["landcover"] == 31]) + 0.1


def test_a_real_gridmet_day(tmp_path: Path) -> None:
    path = REAL / "gridmet/precipitation_amount_2010-05-22.nc"
    if not path.exists():
        pytest.skip("the gridMET day is absent")
    made = source(tmp_path, {"pr": {"files": str(path), "units": "mm"}})
    lattice = made.lattice("weather")
    day = date(2010, 5, 22)
    assert lattice.shape == (585, 1386)
    assert lattice.affine.a == pytest.approx(1 / 24, rel=1e-5)
    assert made.days("weather", lattice, date(2010, 1, 1), date(2010, 12, 31)) == [day]
    found = made.read("weather", lattice, [day])["pr"][0]
    with xr.open_dataset(path) as dataset:
        expected = dataset["precipitation_amount"].values[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert 0.2 < np.isnan(found).mean() < 0.6


@pytest.mark.parametrize(
    ("name", "low", "high", "message"),
    [
        ("clay", 110, 300, "all clay values of .*wrong.tif lie outside 0 to 100"),
        ("landcover", 1, 9, "no landcover code"),
    ],
)
def test_a_file_of_impossible_values_is_refused_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, low: int, high: int, message: str
) -> None:
    """Clay in g/kg, and classes of another scheme; beside possible values, they are dropped and counted."""
    affine = Affine(100, 0, GRID.affine.c, 0, -100, GRID.affine.f)
    values = np.random.default_rng(0).integers(low, high, tuple(GRID.shape)).astype(np.uint16)
    write_tif(tmp_path / "wrong.tif", values, affine, "EPSG:5070")
    with pytest.raises(InputError, match=message):
        source(tmp_path, {name: {"files": "wrong.tif", "date": DAY}}).read(VARIABLES[name].group, GRID, [DAY])
    values[5:] = 82
    write_tif(tmp_path / "wrong.tif", values, affine, "EPSG:5070")
    partly = source(tmp_path, {name: {"files": "wrong.tif", "date": DAY}})
    partly.read(VARIABLES[name].group, GRID, [DAY])
    partly.report()
    assert f"{name}: {5 * GRID.shape.x} of {GRID.shape.x * GRID.shape.y:,} " in caplog.text
