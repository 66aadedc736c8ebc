"""Products in the layout of the agencies, found by patterns: small files, and values computed by hand."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import rasterio
import xarray as xr
import yaml
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy.ndimage import generic_filter

import mmnet_maps
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.sources.files import decode, rasters
from mmnet_maps.sources.files.labelled import EASE_9KM
from mmnet_maps.sources.files.source import FilesSource

DAY = date(2021, 8, 8)
GRID = GeoBox((40, 30), Affine(100, 0, -1_800_000, 0, -100, 2_900_000), "EPSG:5070")
CORNER = Affine(20, 0, GRID.affine.c, 0, -20, GRID.affine.f)
SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"
TILE = 1111950.5197665
CELL = TILE / 1200
REPOSITORY = Path(__file__).parents[3]


def write_tif(
    path: Path, values: NDArray[Any], affine: Affine = CORNER, crs: str = "EPSG:5070", **options: Any
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = values.shape
    size = {"height": height, "width": width, "count": 1, "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=affine, **size, **options) as image:
        image.write(values, 1)


def source(place: Path, /, variables: dict[str, dict[str, Any]], **options: Any) -> FilesSource:
    path = place / "mine.yaml"
    entries = {name: {"product": f"my {name}", **entry} for name, entry in variables.items()}
    path.write_text(yaml.safe_dump({"name": "mine", "variables": entries, **options}, sort_keys=False))
    return FilesSource(path)


def pieces(values: NDArray[Any]) -> NDArray[Any]:
    """Return the 25 pixels of 20 m in each pixel of the grid."""
    return values.reshape(40, 5, 30, 5).swapaxes(1, 2).reshape(40, 30, 25)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that collects the names of opened files, in order."""
    names: list[str] = []
    image, labelled = rasters.describe_image, rasters.describe_labelled

    def noting(describe: Any, spec: Any) -> Any:
        names.append(str(spec.path).rpartition("/")[2])
        return describe(spec)

    monkeypatch.setattr(rasters, "describe_image", partial(noting, image))
    monkeypatch.setattr(rasters, "describe_labelled", partial(noting, labelled))
    return names


HLS = "HLS.L30.{tile}.{date:%Y%jT%H%M%S}.v2.0.B04.tif"
FMASK = {"replace": {"B04": "Fmask"}, "bits": [1, 3]}


def write_hls(folder: Path, tile: str, day: date, affine: Affine = CORNER, seed: int = 0) -> NDArray[np.float64]:
    """Write band 4 and Fmask of a granule; return its reflectance, NaN where not clear."""
    rng = np.random.default_rng(seed)
    stored = rng.integers(100, 6000, (200, 150)).astype(np.int16)
    stored[rng.random(stored.shape) < 0.05] = -9999
    fmask = rng.integers(0, 64, stored.shape).astype(np.uint8)
    fmask[:5, :5], fmask[7, 7] = 2, 255
    name = f"HLS.L30.{tile}.{day:%Y%j}T184421.v2.0"
    write_tif(folder / f"{name}.B04.tif", stored, affine, nodata=-9999)
    write_tif(folder / f"{name}.Fmask.tif", fmask, affine, nodata=255)
    cloudy = (fmask >> 1 & 1 == 1) | (fmask >> 3 & 1 == 1)
    return np.where((stored == -9999) | cloudy, np.nan, stored * 1e-4)


def test_hls_bands_are_averaged_where_fmask_is_clear(tmp_path: Path) -> None:
    expected = write_hls(tmp_path, "T11TKN", DAY)
    write_hls(tmp_path, "T11TKN", date(2021, 8, 16))
    made = source(tmp_path, {"red": {"pattern": HLS, "scale": 1e-4, "mask": FMASK}})
    assert made.days("optical", GRID, date(2021, 8, 1), date(2021, 8, 31)) == [DAY, date(2021, 8, 16)]
    found = made.read("optical", GRID, [DAY])["red"][0]
    parts = pieces(expected)
    assert np.isnan(found[0, 0])
    assert np.isnan(parts[0, 0]).all()
    good = np.isfinite(parts).any(axis=2)
    np.testing.assert_allclose(found[good], np.nanmean(parts[good], axis=1), rtol=0, atol=1e-6)
    assert np.isnan(found[~good]).all()


def test_values_of_a_mask_that_mark_valid_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values, scene = rng.random((200, 150), np.float32), rng.integers(0, 12, (200, 150)).astype(np.uint8)
    write_tif(tmp_path / "2021/08/B8A_20210808.tif", values)
    write_tif(tmp_path / "2021/08/SCL_20210808.tif", scene)
    entry = {
        "pattern": "{date:%Y}/{date:%m}/B8A_{date:%Y%m%d}.tif",
        "mask": {"replace": {"B8A": "SCL"}, "values": [4, 5, 7]},
    }
    found = source(tmp_path, {"nir": entry}).read("optical", GRID, [DAY])["nir"][0]
    parts = pieces(np.where(np.isin(scene, (4, 5, 7)), values.astype(np.float64), np.nan))
    good = np.isfinite(parts).any(axis=2)
    np.testing.assert_allclose(found[good], np.nanmean(parts[good], axis=1), atol=1e-6)


def test_only_files_of_the_day_and_the_tile_are_opened(tmp_path: Path, opened: list[str]) -> None:
    far = Affine(20, 0, GRID.affine.c + 1_000_000, 0, -20, GRID.affine.f)
    days = [date(2021, 6, 1) + timedelta(days=8 * k) for k in range(20)]
    for day in days:
        for tile, affine in (("T11TKN", CORNER), ("T15TUF", far)):
            write_hls(tmp_path, tile, day, affine)
    made = source(tmp_path, {"red": {"pattern": HLS, "scale": 1e-4, "mask": FMASK}})
    assert made.days("optical", GRID, days[0], days[-1]) == days
    assert len(opened) == 2, "one file of each tile says where it lies"
    opened.clear()
    assert np.isfinite(made.read("optical", GRID, [days[4]])["red"]).any()
    assert sorted(opened) == [f"HLS.L30.T11TKN.{days[4]:%Y%j}T184421.v2.0.{band}.tif" for band in ("B04", "Fmask")]
    opened.clear()
    untiled = source(tmp_path, {"red": {"pattern": HLS.replace("{tile}", "*"), "scale": 1e-4}})
    assert untiled.days("optical", GRID, days[2], days[3]) == days[2:4]
    assert {name.split(".")[3][:7] for name in opened} <= {f"{day:%Y%j}" for day in days[2:4]}


def test_thousands_of_files_are_listed_fast_and_their_state_follows_them(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for k in range(4000):
        (folder / f"HLS.L30.T{k % 100:02d}TKN.{2015 + k % 7}{1 + k // 100:03d}T184421.v2.0.B04.tif").touch()
    made = source(tmp_path, {"red": {"pattern": HLS}}, folder="many")
    start = datetime.now()
    state = made.state
    assert (datetime.now() - start).total_seconds() < 2
    assert state == FilesSource(tmp_path / "mine.yaml").state
    (folder / "HLS.L30.T11TKN.2022001T184421.v2.0.B04.tif").touch()
    more = FilesSource(tmp_path / "mine.yaml").state
    assert more != state
    next(folder.iterdir()).write_bytes(b"changed")
    assert FilesSource(tmp_path / "mine.yaml").state not in (state, more)


def test_sentinel_1_is_kept_in_range_and_smoothed_in_decibels(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    decibels = rng.uniform(-24, -3, (200, 150))
    power = (10 ** (decibels / 10)).astype(np.float32)
    power[20, 20] = 0
    name = "S1A_IW_GRDH_1SDV_20210808T135500_20210808T135525_039136_VV.tif"
    write_tif(tmp_path / name, power)
    entry = {
        "pattern": "S1?_IW_GRDH_1SDV_{date:%Y%m%dT%H%M%S}_*_VV.tif",
        "units": "linear",
        "valid": [-20, -5],
        "smooth": {"radius": 3},
    }
    found = source(tmp_path, {"vv": entry}).read("sar", GRID, [DAY])["vv"][0]
    decibels = 10 * np.log10(np.where(power > 0, power, np.nan).astype(np.float64))
    decibels[~((decibels >= -20) & (decibels <= -5))] = np.nan
    offsets = np.arange(-3, 4)
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / 2).ravel()

    def around(values: NDArray[np.float64]) -> float:
        good = np.isfinite(values)
        return float((values[good] * kernel[good]).sum() / kernel[good].sum()) if good[24] else np.nan

    filtered = generic_filter(decibels, around, size=7, mode="constant", cval=np.nan)
    np.testing.assert_allclose(found, np.nanmean(pieces(filtered), axis=2), atol=2e-4)
    raw = source(tmp_path, {"vv": {**entry, "smooth": None}}).read("sar", GRID, [DAY])["vv"][0]
    np.testing.assert_allclose(raw, np.nanmean(pieces(decibels), axis=2), atol=2e-4)


def write_smap(folder: Path, time: datetime, values: NDArray[Any], version: str = "Vv7032_001") -> None:
    """Write a granule in the layout of SPL4SMGP that stores only rows 300 to 303 and columns 700 to 704."""
    path = folder / f"SMAP_L4_SM_gph_{time:%Y%m%dT%H%M%S}_{version}.h5"
    if version.endswith("2"):
        h5py = pytest.importorskip("h5py", reason="h5py is not installed")
        with h5py.File(path, "w") as file:
            field = file.create_dataset(
                "Geophysical_Data/sm_surface", (1624, 3856), "f4", chunks=(29, 241), fillvalue=-9999
            )
            field.attrs["_FillValue"] = np.array([-9999], "f4")
            field[300:304, 700:705] = values
        return
    with netCDF4.Dataset(path, "w") as file:
        for name, size in (("y", 1624), ("x", 3856)):
            file.createDimension(name, size)
            file.createVariable(name, "f8", (name,))[:] = np.arange(float(size))
        options = {"chunksizes": (29, 241), "fill_value": np.float32(-9999)}
        file.createVariable("cell_lat", "f4", ("y", "x"), **options)
        field = file.createGroup("Geophysical_Data").createVariable("sm_surface", "f4", ("y", "x"), **options)
        field.units = "m3 m-3"
        field[300:304, 700:705] = values


@pytest.mark.parametrize("version", ["Vv7032_001", "Vv7032_002"])
def test_smap_l4_is_the_mean_of_at_least_four_of_eight_fields(tmp_path: Path, opened: list[str], version: str) -> None:
    values = np.random.default_rng(3).uniform(0.05, 0.4, (8, 4, 5)).astype(np.float32)
    values[:4, 0, 0] = -9999
    values[:5, 0, 1] = -9999
    for k in range(8):
        write_smap(tmp_path, datetime(2021, 8, 8, 1, 30) + k * timedelta(hours=3), values[k], version)
        if k < 3:
            write_smap(tmp_path, datetime(2021, 8, 9, 1, 30) + k * timedelta(hours=3), values[7], version)
    write_smap(tmp_path, datetime(2021, 8, 8, 1, 30), values[0] + 0.1, "Vv7032_000")
    entry = {
        "pattern": "SMAP_L4_SM_gph_{date:%Y%m%dT%H%M%S}_*.h5",
        "variable": "Geophysical_Data/sm_surface",
        "fields": 4,
    }
    made = source(tmp_path, {"smap": entry})
    assert made.lattice("smap") == EASE_9KM
    assert len(opened) == 1
    bounds = made.lattice("smap").boundingbox
    np.testing.assert_allclose(bounds.bbox, (-17367530.445, -7314540.831, 17367530.445, 7314540.831), atol=0.01)
    window = EASE_9KM[299:304, 700:705]
    assert made.days("smap", window, date(2021, 8, 1), date(2021, 8, 31)) == [DAY, date(2021, 8, 9)]
    found = made.read("smap", window, [DAY, date(2021, 8, 9), date(2021, 8, 10)])["smap"]
    expected = values.astype(np.float64).mean(axis=0)
    expected[0, :2] = values[4:, 0, 0].mean(dtype=np.float64), np.nan
    np.testing.assert_allclose(found[0, 1:], expected, rtol=1e-6)
    assert np.isnan(found[0, 0]).all(), "the row above holds the fill value"
    assert np.isnan(found[1:]).all(), "three fields are too few"


def write_gridmet(path: Path, variable: str, days: list[date], values: NDArray[Any], scale: float) -> None:
    with netCDF4.Dataset(path, "w") as file:
        size = {"day": len(days), "lat": values.shape[1], "lon": values.shape[2]}
        for name, length in size.items():
            file.createDimension(name, length)
        axes = {
            "lat": 49.4 - np.arange(size["lat"]) / 24,
            "lon": -124.766667 + np.arange(size["lon"]) / 24,
            "day": [(day - date(1900, 1, 1)).days for day in days],
        }
        units = {"lat": "degrees_north", "lon": "degrees_east", "day": "days since 1900-01-01 00:00:00"}
        for name, axis in axes.items():
            made = file.createVariable(name, "f8", (name,))
            made.units, made[:] = units[name], axis
        crs = file.createVariable("crs", "u2")
        crs.grid_mapping_name, crs.longitude_of_prime_meridian = "latitude_longitude", 0.0
        crs.semi_major_axis, crs.inverse_flattening = 6378137.0, 298.257223563
        field = file.createVariable(variable, "u2", ("day", "lat", "lon"), fill_value=32767, zlib=True)
        field.set_auto_maskandscale(False)
        field.scale_factor, field.add_offset, field.missing_value = scale, 0.0, np.uint16(32767)
        field.grid_mapping = "crs"
        field[:] = values


def test_gridmet_years_give_their_own_days(tmp_path: Path, opened: list[str]) -> None:
    rng = np.random.default_rng(4)
    stored = {}
    for year in (2019, 2020, 2021):
        days = [date(year, 1, 1) + timedelta(days=k) for k in range(366 if year == 2020 else 365)]
        stored[year] = rng.integers(0, 1500, (len(days), 6, 8)).astype(np.uint16)
        stored[year][:, 2, 3] = 32767
        write_gridmet(tmp_path / f"pr_{year}.nc", "precipitation_amount", days, stored[year], 0.1)
        write_gridmet(tmp_path / f"vpd_{year}.nc", "mean_vapor_pressure_deficit", days, stored[year], 0.01)
    made = source(
        tmp_path,
        {
            "pr": {"pattern": "pr_{date:%Y}.nc", "variable": "precipitation_amount", "units": "mm"},
            "vpd": {"pattern": "vpd_{date:%Y}.nc", "variable": "mean_vapor_pressure_deficit"},
        },
    )
    lattice = made.lattice("weather")
    assert len(opened) == 2
    assert lattice.shape == (6, 8)
    over_new_year = [date(2020, 12, 30), date(2020, 12, 31), date(2021, 1, 1)]
    assert made.days("weather", lattice, over_new_year[0], over_new_year[-1]) == over_new_year
    assert "pr_2019.nc" not in opened
    found = made.read("weather", lattice[1:5, 2:7], over_new_year)
    expected = np.stack([stored[2020][364], stored[2020][365], stored[2021][0]])[:, 1:5, 2:7].astype(np.float64)
    expected[expected == 32767] = np.nan
    np.testing.assert_allclose(found["pr"], expected * 0.1, rtol=1e-6)
    vpd = np.where(expected * 0.01 <= 15, expected * 0.01, np.nan)
    np.testing.assert_allclose(found["vpd"], vpd, rtol=1e-6)
    with xr.open_dataset(tmp_path / "pr_2021.nc") as dataset:
        np.testing.assert_allclose(found["pr"][2], dataset["precipitation_amount"][0, 1:5, 2:7], rtol=1e-6)


MODIS = {"scale": 0.02, "mask": {"replace": {"LST_Day_1km": "QC_Day"}, "bits": [1, 3]}}


def write_modis(folder: Path, h: int, v: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    affine = Affine(CELL, 0, (h - 18) * TILE, 0, -CELL, (9 - v) * TILE)
    stored, quality = (rng.integers(low, high, (1200, 1200)) for low, high in ((13000, 16000), (0, 16)))
    stored[rng.random(stored.shape) < 0.1] = 0
    name = f"MOD11A1.A2021220.h{h:02d}v{v:02d}.061.2021221161632"
    write_tif(folder / f"{name}_LST_Day_1km.tif", stored.astype(np.uint16), affine, SINUSOIDAL, nodata=0)
    write_tif(folder / f"{name}_QC_Day.tif", quality.astype(np.uint8), affine, SINUSOIDAL, nodata=0)
    good = (stored > 0) & (quality & 0b1010 == 0)
    return np.where(good, stored * 0.02, np.nan)


def test_mod11a1_tiles_are_one_grid(tmp_path: Path) -> None:
    west, east = write_modis(tmp_path, 8, 5, 5), write_modis(tmp_path, 9, 5, 6)
    entry = {"pattern": "MOD11A1.A{date:%Y%j}.{tile}.061.*_LST_Day_1km.tif", **MODIS}
    made = source(tmp_path, {"lst": entry})
    lattice = made.lattice("lst")
    assert lattice.shape == (1200, 2400)
    np.testing.assert_allclose(lattice.affine.c, -10 * TILE, atol=1e-3)
    window = lattice[100:110, 1195:1206]
    assert made.days("lst", window, date(2021, 8, 1), date(2021, 8, 31)) == [DAY]
    found = made.read("lst", window, [DAY])["lst"][0]
    np.testing.assert_allclose(found, np.hstack([west, east])[100:110, 1195:1206], rtol=1e-6)
    untiled = source(tmp_path, {"lst": {**entry, "pattern": entry["pattern"].replace("{tile}", "*")}})
    with pytest.raises(
        InputError, match=r"lies on another grid than other files of the pattern .* put {tile} in place"
    ):
        untiled.read("lst", untiled.lattice("lst")[:5, :5], [DAY])


def test_mod11a1_hdf4(tmp_path: Path) -> None:
    sd = pytest.importorskip("pyhdf.SD", reason="pyhdf is not installed")
    stored = np.random.default_rng(7).integers(13000, 16000, (1200, 1200)).astype(np.uint16)
    quality = np.random.default_rng(8).integers(0, 16, (1200, 1200)).astype(np.uint8)
    stored[50, 60] = 0
    path = tmp_path / "MOD11A1.A2021220.h08v05.061.2021221161632.hdf"
    archive = sd.SD(str(path), sd.SDC.WRITE | sd.SDC.CREATE)
    for name, values, kind in (("LST_Day_1km", stored, sd.SDC.UINT16), ("QC_Day", quality, sd.SDC.UINT8)):
        dataset = archive.create(name, kind, values.shape)
        dataset[:] = values
        dataset.endaccess()
    left, top = -10 * TILE, 4 * TILE
    grid = (
        'GROUP=GridStructure\n\tGROUP=GRID_1\n\t\tGridName="MODIS_Grid_Daily_1km_LST"\n\t\tXDim=1200\n\t\tYDim=1200\n'
        f"\t\tUpperLeftPointMtrs=({left:.6f},{top:.6f})\n\t\tLowerRightMtrs=({left + TILE:.6f},{top - TILE:.6f})\n"
        "\t\tProjection=GCTP_SNSOID\n\t\tProjParams=(6371007.181000,0,0,0,0,0,0,0,0,0,0,0,0)\n\tEND_GROUP=GRID_1\n"
    )
    setattr(archive, "StructMetadata.0", grid)
    archive.end()
    entry = {
        "pattern": "MOD11A1.A{date:%Y%j}.{tile}.061.*.hdf",
        "variable": "LST_Day_1km",
        "scale": 0.02,
        "mask": {"variable": "QC_Day", "bits": [1, 3]},
    }
    made = source(tmp_path, {"lst": entry})
    lattice = made.lattice("lst")
    assert lattice.shape == (1200, 1200)
    assert lattice.affine.a == pytest.approx(926.625433, abs=1e-6)
    found = made.read("lst", lattice[48:55, 55:62], [DAY])["lst"][0]
    expected = np.where((stored > 0) & (quality & 0b1010 == 0), stored * 0.02, np.nan)[48:55, 55:62]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(InputError, match=r"no variable LST; expected one of LST_Day_1km, QC_Day; name it"):
        source(tmp_path, {"lst": {**entry, "variable": "LST"}}).lattice("lst")


def test_without_pyhdf_the_package_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyhdf.error", None)
    (tmp_path / "MOD11A1.A2021220.hdf").write_bytes(b"\x0e\x03\x13\x01 and more")
    made = source(tmp_path, {"lst": {"pattern": "MOD11A1.A{date:%Y%j}.hdf", "variable": "LST_Day_1km"}})
    with pytest.raises(InputError, match=r"pip install '\.\[hdf4\]'") as caught:
        made.lattice("lst")
    assert "\n" not in str(caught.value)


def test_land_cover_comes_from_the_nearest_year(tmp_path: Path) -> None:
    for year, code in ((2016, 41), (2019, 52), (2021, 82)):
        write_tif(tmp_path / f"nlcd_{year}_land_cover_l48.tif", np.full((200, 150), code, np.uint8))
    made = source(tmp_path, {"landcover": {"pattern": "nlcd_{date:%Y}_*.tif"}})
    for day, code in ((date(2017, 1, 1), 41), (date(2021, 1, 1), 82), (date(2021, 12, 31), 82), (DAY, 82)):
        assert (made.read("landcover", GRID, [day])["landcover"] == code).all()
    assert (made.read("landcover", GRID, [date(2019, 12, 31)])["landcover"] == 52).all()


def test_an_erdas_img_is_read(tmp_path: Path) -> None:
    size = {"height": 200, "width": 150, "count": 1, "dtype": "uint8", "crs": "EPSG:5070", "transform": CORNER}
    with rasterio.open(tmp_path / "nlcd_2021_x.img", "w", driver="HFA", **size) as image:
        image.write(np.full((200, 150), 82, np.uint8), 1)
    made = source(tmp_path, {"landcover": {"pattern": "nlcd_{date:%Y}_*.img"}})
    assert (made.read("landcover", GRID, [DAY])["landcover"] == 82).all()


def test_tiles_without_a_date_are_a_mosaic_without_seams(tmp_path: Path) -> None:
    """The seam runs through the middle of pixels; none but the tiles around a window are read."""
    values = np.random.default_rng(9).uniform(5, 60, (200, 150)).astype(np.float32)
    write_tif(tmp_path / "whole.tif", values)
    for row, rows in enumerate((slice(0, 98), slice(98, 200))):
        for col, cols in enumerate((slice(0, 73), slice(73, 150))):
            corner = CORNER @ Affine.translation(cols.start, rows.start)
            write_tif(tmp_path / f"polaris/clay/lat{row}_lon{col}.tif", values[rows, cols], corner)
    (tmp_path / "polaris/clay/lat9_lon9.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:1000])
    whole = source(tmp_path, {"clay": {"files": "whole.tif"}}).read("soil", GRID, [DAY])["clay"]
    (tmp_path / "polaris/clay/lat9_lon9.tif").unlink()
    tiled = source(tmp_path, {"clay": {"pattern": "polaris/clay/lat*_lon*.tif"}})
    np.testing.assert_array_equal(tiled.read("soil", GRID, [DAY])["clay"], whole)
    np.testing.assert_array_equal(tiled.read("soil", GRID[17:23, 12:17], [DAY])["clay"], whole[:, 17:23, 12:17])


def test_each_tile_uses_its_nearest_release(tmp_path: Path) -> None:
    east = CORNER @ Affine.translation(75, 0)
    for tile, affine, releases in (("n47w120", CORNER, (2013, 2020)), ("n47w119", east, (2018,))):
        for year in releases:
            name = f"USGS_13_{tile}_{year}0615.tif"
            write_tif(tmp_path / name, np.full((200, 75), year, np.float32), affine)
    made = source(tmp_path, {"elevation": {"pattern": "USGS_13_{tile}_{date:%Y%m%d}.tif"}})
    found = made.read("terrain", GRID, [DAY])["elevation"][0]
    assert (found[:, :15] == 2020).all()
    assert (found[:, 15:] == 2018).all()


def test_invalid_patterns_and_masks_are_reported(tmp_path: Path) -> None:
    write_hls(tmp_path, "T11TKN", DAY)
    made = source(tmp_path, {"red": {"pattern": "S30/{date:%Y%j}.tif"}})
    with pytest.raises(InputError, match=r"red: .*S30 cannot be listed \(No such file or directory\)"):
        made.days("optical", GRID, DAY, DAY)
    for pattern, words in (
        (
            "HLS.S30.*.{date:%Y%j}*.B04.tif",
            r"red: the pattern HLS.S30.* matches no file in .*; expected at least one; correct pattern",
        ),
        ("HLS.L30.T11TKN.{date:%Y%m}*.tif", r"matches no file in .* .HLS.*tif matches, but states no date"),
    ):
        with pytest.raises(InputError, match=words):
            _ = source(tmp_path, {"red": {"pattern": pattern}}).state
    for mask, words in (
        (
            {"replace": {"B05": "Fmask"}, "bits": 1},
            "no mask for .*; expected one of B05 in the path; correct mask.replace",
        ),
        ({"replace": {"B04": "QA"}, "bits": 1}, r"red: .*QA\.tif cannot be read: No such file"),
    ):
        with pytest.raises(InputError, match=words):
            source(tmp_path, {"red": {"pattern": HLS, "mask": mask}}).read("optical", GRID, [DAY])
    write_tif(tmp_path / "HLS.L30.T11TKN.2021220T184421.v2.0.QA.tif", np.zeros((100, 75), np.uint8))
    bad = {"pattern": HLS, "mask": {"replace": {"B04": "QA"}, "bits": 1}}
    with pytest.raises(InputError, match=r"the mask .*QA\.tif lies on another grid"):
        source(tmp_path, {"red": bad}).read("optical", GRID, [DAY])
    write_tif(tmp_path / "HLS.L30.T11TKN.2021220T184421.v2.0.QA.tif", np.zeros((200, 150), np.float32))
    with pytest.raises(InputError, match="float32, which have no bits; expected integers; give values"):
        source(tmp_path, {"red": bad}).read("optical", GRID, [DAY])


class Ranges(SimpleHTTPRequestHandler):
    """Serve files and parts of files, and require a password below /private."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if "private" in self.path and "Authorization" not in self.headers and "key=" not in self.path:
            self.send_error(401)
            return
        if path.is_dir() or not path.exists() or "Range" not in self.headers:
            super().do_GET()
            return
        content = path.read_bytes()
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    root = tmp_path / "served"
    root.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_files_are_read_over_http(tmp_path: Path, server: str) -> None:
    values = np.random.default_rng(10).uniform(1, 60, (200, 150)).astype(np.float32)
    write_tif(tmp_path / "served/soil/clay.tif", values)
    local = source(tmp_path, {"clay": {"files": "served/soil/clay.tif"}}).read("soil", GRID, [DAY])["clay"]
    made = source(tmp_path, {"clay": {"files": f"{server}/soil/clay.tif?key=secret"}})
    np.testing.assert_array_equal(made.read("soil", GRID, [DAY])["clay"], local)
    beside = source(tmp_path, {"clay": {"files": "soil/clay.tif"}}, folder=server)
    np.testing.assert_array_equal(beside.read("soil", GRID, [DAY])["clay"], local)


def test_patterns_and_netcdf_over_http(tmp_path: Path, server: str) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    expected = write_hls(tmp_path / "served/hls", "T11TKN", DAY)
    stored = np.random.default_rng(11).integers(0, 1500, (3, 6, 8)).astype(np.uint16)
    write_gridmet(tmp_path / "served/pr_2021.nc", "precipitation_amount", [DAY, date(2021, 8, 9)], stored[:2], 0.1)
    made = source(
        tmp_path,
        {
            "red": {"pattern": f"hls/{HLS}", "scale": 1e-4, "mask": FMASK},
            "pr": {"pattern": "pr_{date:%Y}.nc", "variable": "precipitation_amount"},
        },
        folder=server,
    )
    assert made.days("optical", GRID, date(2021, 8, 1), date(2021, 8, 31)) == [DAY]
    found = made.read("optical", GRID, [DAY])["red"][0]
    parts = pieces(expected)
    good = np.isfinite(parts).any(axis=2)
    np.testing.assert_allclose(found[good], np.nanmean(parts[good], axis=1), rtol=0, atol=1e-6)
    lattice = made.lattice("weather")
    np.testing.assert_allclose(made.read("weather", lattice, [DAY])["pr"][0], stored[0] * 0.1, rtol=1e-6)


def test_revisions_over_http_follow_what_the_server_states(tmp_path: Path, server: str) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    write_tif(tmp_path / "served/B04_2021220.tif", np.full((200, 150), 30, np.uint16))

    def stamps() -> list[dict[str, int]]:
        """Return the stamps of a pattern and of a URL, by sources that ask now."""
        pattern = source(tmp_path, {"red": {"pattern": "B04_{date:%Y%j}.tif"}}, folder=server)
        listed = source(tmp_path, {"red": {"dates": {DAY: f"{server}/B04_2021220.tif"}}})
        return [dict(made.revisions("optical", GRID, [DAY], DAY)[0].stamps) for made in (pattern, listed)]

    before = stamps()
    assert before == stamps()
    write_tif(tmp_path / "served/B04_2021220.tif", np.full((210, 150), 30, np.uint16))
    for old, new in zip(before, stamps(), strict=True):
        assert old["red"] != new["red"]
    (tmp_path / "served/B04_2021220.tif").rename(tmp_path / "served/B04_2021221.tif")
    assert stamps() == [{}, {}]


@pytest.mark.parametrize("file", ["private/a.tif", "private/a.nc", "private/a.h5"])
def test_credentials_are_not_shown(tmp_path: Path, server: str, file: str) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    host = server.removeprefix("http://")
    entry = {"files": f"http://me:hunter2@{host}/{file}?token=s3cret", "date": DAY}
    with pytest.raises(InputError) as caught:
        source(tmp_path, {"pr": entry}).lattice("weather")
    message = str(caught.value)
    assert "\n" not in message
    assert f"{server}/{file}" in message
    listing = source(tmp_path, {"red": {"pattern": "private/B04_{date:%Y%j}.tif"}}, folder=f"http://me:hunter2@{host}")
    with pytest.raises(InputError, match=r"red: ") as unlisted:
        _ = listing.state
    for text in (message, str(unlisted.value)):
        assert "hunter2" not in text
        assert "s3cret" not in text


MEASURED = """
import resource, sys
from datetime import date
from pathlib import Path
from mmnet_maps.grid.tiles import tile_geobox
from mmnet_maps.sources.files.source import FilesSource
made, day = FilesSource(sys.argv[1]), date(2021, 8, 8)
tile = tile_geobox("h06v03")
values = [made.read(group, tile, [day]) for group in ("optical", "sar")]
assert all((name == "vv") == bool((found < 0).all()) for read in values for name, found in read.items())
status = Path("/proc/self/status")  # getrusage would count the parent before this process began
lines = status.read_text().splitlines() if status.exists() else []
peak = [line.split()[1] for line in lines if line.startswith("VmHWM")]
print(peak[0] if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_huge(path: Path, dtype: str, cell: float, fill: Any) -> None:
    """Write a sparse tiled file of 40 000 × 40 000 pixels, few of which hold a number."""
    size = {"height": 40_000, "width": 40_000, "count": 1, "dtype": dtype, "crs": "EPSG:5070"}
    tiled = {"tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True, "bigtiff": "yes"}
    affine = Affine(cell, 0, GRID.affine.c - 10_000 * cell, 0, -cell, GRID.affine.f + 10_000 * cell)
    with rasterio.open(path, "w", driver="GTiff", transform=affine, **size, **tiled) as image:
        window = rasterio.windows.Window(10_000, 10_000, 310, 410)
        image.write(np.full((1, 410, 310), fill, dtype), window=window)


def test_a_huge_file_is_read_by_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    read = decode.read_window

    def noting(raster: Any, rows: slice, cols: slice, *others: Any) -> Any:
        sizes.append((rows.stop - rows.start) * (cols.stop - cols.start))
        return read(raster, rows, cols, *others)

    monkeypatch.setattr(decode, "read_window", noting)
    write_huge(tmp_path / "red.tif", "int16", 10, 2500)
    write_huge(tmp_path / "mask.tif", "uint8", 10, 1)
    entry = {"files": "red.tif", "date": DAY, "scale": 1e-4, "mask": {"replace": {"red": "mask"}, "values": 1}}
    found = source(tmp_path, {"red": entry}).read("optical", GRID, [DAY])["red"]
    np.testing.assert_allclose(found, 0.25)
    assert 0 < max(sizes) < 4_000_000


def test_a_tile_of_huge_files_needs_little_memory(tmp_path: Path) -> None:
    """Read 102 × 102 km from files of 3 and 6 GB, masked and smoothed, in a separate process."""
    write_huge(tmp_path / "red.tif", "int16", 30, 2500)
    write_huge(tmp_path / "mask.tif", "uint8", 30, 0)
    write_huge(tmp_path / "vv.tif", "float32", 20, -9)
    mask = {"replace": {"red": "mask"}, "bits": [1, 3]}
    source(
        tmp_path,
        {
            "red": {"files": "red.tif", "date": DAY, "scale": 1e-4, "mask": mask},
            "vv": {"files": "vv.tif", "date": DAY, "offset": -8, "smooth": {"radius": 3}},
        },
    )
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "mine.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 700 * 1024


@pytest.mark.checkout
def test_the_examples_of_products_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMNET_RASTERS", "/data")
    made = FilesSource(REPOSITORY / "examples/agency-files.yaml")
    assert set(made.variables()) == set(mmnet_maps.variables.VARIABLES)


def test_yaml_of_patterns_is_checked(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"variables.red.pattern: unknown part {day}; expected {tile}"):
        source(tmp_path, {"red": {"pattern": "{day}.tif"}})
