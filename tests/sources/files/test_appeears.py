"""An order at AppEEARS, read by `examples/appeears.yaml`: its names and layout, and values computed by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import netCDF4
import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer

from mmnet_maps.sources.files.labelled import EASE_9KM
from mmnet_maps.sources.files.source import FilesSource
from mmnet_maps.stack.needs import Needs
from mmnet_maps.stack.pixels import sample
from mmnet_maps.variables import VARIABLES

EXAMPLE = Path(__file__).parents[3] / "examples" / "appeears.yaml"
DAYS = [date(2021, 8, 7), date(2021, 8, 8)]
GRID = GeoBox((6, 5), Affine(90, 0, 300_060, 0, -90, 5_220_000), "EPSG:32611")  # three by three pixels of HLS in each
CELL = 926.625433055833
SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"
LST_GRID = GeoBox((7, 8), Affine(CELL, 0, -9_000 * CELL, 0, -CELL, 5_650 * CELL), SINUSOIDAL)
SMAP_WINDOW = EASE_9KM[300:304, 700:705]


class Layer(NamedTuple):
    """Stored numbers (time, y, x) on a grid, their times, and what AppEEARS states of them."""

    product: str
    name: str
    grid: GeoBox
    zone: str
    times: list[datetime]
    values: NDArray[Any]
    nodata: float
    scale: float


def layers() -> dict[str, Layer]:
    """Return an order: two days of HLS in one UTM zone, MOD11A1, and eight fields a day of SMAP."""
    rng = np.random.default_rng(7)
    noon = [datetime(day.year, day.month, day.day) for day in DAYS]
    fine = GeoBox((18, 15), Affine(30, 0, 300_060, 0, -30, 5_220_000), "EPSG:32611")
    found = {}
    for band in ("B02", "B03", "B04", "B05", "B06", "B07"):
        stored = rng.integers(100, 6000, (2, 18, 15)).astype(np.int16)
        stored[:, 4, 4] = -9999
        found[band] = Layer("HLSL30.020", band, fine, "_11N", noon, stored, -9999, 1e-4)
    fmask = rng.choice(np.array([0, 2, 8, 32, 64, 255], np.uint8), (2, 18, 15), p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    found["Fmask"] = Layer("HLSL30.020", "Fmask", fine, "_11N", noon, fmask, 255, 1)
    lst = rng.integers(13000, 16000, (2, *LST_GRID.shape)).astype(np.uint16)
    lst[:, 0, 0] = 0
    quality = rng.choice(np.array([0, 1, 2, 8, 17, 65], np.uint8), lst.shape)
    found["LST_Day_1km"] = Layer("MOD11A1.061", "LST_Day_1km", LST_GRID, "", noon, lst, 0, 0.02)
    found["QC_Day"] = Layer("MOD11A1.061", "QC_Day", LST_GRID, "", noon, quality, 255, 1)
    times = [start + timedelta(hours=1.5 + 3 * k) for start in noon for k in range(8)]
    moisture = rng.uniform(0.05, 0.4, (16, *SMAP_WINDOW.shape)).astype(np.float32)
    moisture[:4, 0, 0] = -9999
    moisture[:5, 0, 1] = -9999
    name = "Geophysical_Data_sm_surface"
    found[name] = Layer("SPL4SMGP.008", name, SMAP_WINDOW, "", times, moisture, -9999, 1)
    return found


def write_images(folder: Path, order: Mapping[str, Layer], *, times: bool) -> None:
    """Write a GeoTIFF for each layer and time; names have the time of day, as SMAP's always do, where `times`."""
    for layer in order.values():
        height, width = layer.grid.shape
        size = {"height": height, "width": width, "count": 1, "dtype": layer.values.dtype, "nodata": layer.nodata}
        place = {"crs": layer.grid.crs.to_wkt(), "transform": layer.grid.affine}
        code = "%Y%j%H%M%S" if times or "sm_surface" in layer.name else "%Y%j"
        for time, values in zip(layer.times, layer.values, strict=True):
            name = f"{layer.product}_{layer.name}_doy{time:{code}}_aid0001{layer.zone}.tif"
            with rasterio.open(folder / name, "w", driver="GTiff", **size, **place) as image:
                image.write(values, 1)


def write_netcdf(folder: Path, order: Mapping[str, Layer]) -> None:
    """Write a NetCDF file for each product, with a time axis in the calendar julian that counts days of ours."""
    pixels = {"HLSL30.020": "30m", "MOD11A1.061": "1km", "SPL4SMGP.008": "9km"}
    for product, pixel in pixels.items():
        mine = [layer for layer in order.values() if layer.product == product]
        first = mine[0]
        with netCDF4.Dataset(folder / f"{product}_{pixel}_aid0001{first.zone}.nc", "w") as file:
            file.Conventions = "CF-1.6"
            affine, (height, width) = first.grid.affine, first.grid.shape
            axes = {
                "time": [(time - datetime(2000, 1, 1)) / timedelta(days=1) for time in first.times],
                "ydim": affine.f + affine.e * (np.arange(height) + 0.5),
                "xdim": affine.c + affine.a * (np.arange(width) + 0.5),
            }
            for name, axis in axes.items():
                file.createDimension(name, len(axis))
                made = file.createVariable(name, "f8", (name,))
                made.units, made[:] = "m", axis
            file["time"].setncatts(
                {"units": "days since 2000-01-01 00:00:00", "calendar": "julian", "standard_name": "time"}
            )
            for name, axis in (("ydim", "y"), ("xdim", "x")):
                file[name].standard_name = f"projection_{axis}_coordinate"
            crs = file.createVariable("crs", "i1")
            crs.setncatts(
                {name: value for name, value in CRS(first.grid.crs.to_wkt()).to_cf().items() if name != "crs_wkt"}
            )
            for layer in mine:
                field = file.createVariable(
                    layer.name, layer.values.dtype, ("time", "ydim", "xdim"), fill_value=layer.nodata
                )
                field.set_auto_maskandscale(False)
                field.grid_mapping = "crs"
                if layer.scale != 1:
                    field.scale_factor, field.add_offset = layer.scale, 0.0
                field[:] = layer.values


def expected_reflectance(order: Mapping[str, Layer], band: str) -> NDArray[np.float64]:
    """Return the means of clear pixels, of three by three each."""
    stored, fmask = order[band].values, order["Fmask"].values
    clear = (stored != -9999) & (fmask & 2 == 0) & (fmask & 8 == 0)
    values = np.where(clear, stored * 1e-4, np.nan)
    return np.nanmean(values.reshape(2, 6, 3, 5, 3).swapaxes(2, 3).reshape(2, 6, 5, 9), axis=-1)


def expected_temperature(order: Mapping[str, Layer]) -> NDArray[np.float64]:
    stored, quality = order["LST_Day_1km"].values, order["QC_Day"].values
    return np.where((stored > 0) & (quality & 0b1010 == 0), stored * 0.02, np.nan)


def expected_smap(order: Mapping[str, Layer]) -> NDArray[np.float64]:
    """Return the means of the day's eight fields where four of them have a value."""
    fields = order["Geophysical_Data_sm_surface"].values.astype(np.float64).reshape(2, 8, *SMAP_WINDOW.shape)
    known = np.where(fields == -9999, np.nan, fields)
    return np.where(np.isfinite(known).sum(axis=1) >= 4, np.nanmean(known, axis=1), np.nan)


def example(folder: Path, *, netcdf: bool) -> FilesSource:
    """Return the example; of the order as NetCDF, with the entries that stand in its comments."""
    text = EXAMPLE.read_text()
    if not netcdf:
        return FilesSource(EXAMPLE)
    above = text[: text.index("variables:")]
    below = re.findall(r"^#\|(.*)$", text, re.MULTILINE)
    content = yaml.safe_load("\n".join([above, "variables:", *below]))
    path = folder / "netcdf.yaml"
    path.write_text(yaml.safe_dump(content))
    return FilesSource(path)


@pytest.mark.parametrize("form", ["images", "images with the time of day", "NetCDF"])
def test_an_order_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setenv("MMNET_RASTERS", str(tmp_path))
    order = layers()
    if form == "NetCDF":
        write_netcdf(tmp_path, order)
    else:
        write_images(tmp_path, order, times=form.endswith("day"))
    made = example(tmp_path, netcdf=form == "NetCDF")
    assert made.rest == "open"
    whole = date(2021, 8, 1), date(2021, 8, 31)

    assert made.days("optical", GRID, *whole) == DAYS
    optical = made.read("optical", GRID, DAYS)
    for band, name in (("B02", "blue"), ("B04", "red"), ("B05", "nir"), ("B07", "swir2")):
        expected = expected_reflectance(order, band)
        assert np.isfinite(expected).any()
        np.testing.assert_allclose(optical[name], expected, rtol=0, atol=1e-6, err_msg=name)

    lattice = made.lattice("lst")
    np.testing.assert_allclose(lattice.affine[:6], LST_GRID.affine[:6], rtol=0, atol=1e-3)
    assert made.days("lst", lattice, *whole) == DAYS
    np.testing.assert_allclose(made.read("lst", lattice, DAYS)["lst"], expected_temperature(order), rtol=1e-6)

    lattice = made.lattice("smap")
    np.testing.assert_allclose(lattice.affine[:6], SMAP_WINDOW.affine[:6], rtol=0, atol=1e-3)
    assert made.days("smap", lattice, *whole) == DAYS
    found = made.read("smap", lattice, DAYS)["smap"]
    expected = expected_smap(order)
    assert np.isnan(expected[0, 0, 1])
    assert np.isfinite(expected[0, 0, 0])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_both_forms_of_the_example_list_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMNET_RASTERS", str(tmp_path))
    images, netcdf = (example(tmp_path, netcdf=one).variables() for one in (False, True))
    assert images == netcdf
    assert set(images) == {"smap", "lst", "blue", "green", "red", "nir", "swir1", "swir2"}


def test_an_order_with_a_feature_a_station_gives_samples(tmp_path: Path) -> None:
    """Each feature lies around its own station, far from the others, and has files of its own."""
    needs = Needs(snapshot=("smap",), series=("smap",), steps=1, includes_day=True)
    windows = {"0001": EASE_9KM[300:310, 660:670], "0002": EASE_9KM[320:330, 800:810]}
    rng, values, places = np.random.default_rng(3), {}, []
    for feature, box in windows.items():
        values[feature] = rng.uniform(0.1, 0.3, (8, *box.shape)).astype(np.float32)
        size = {"height": 10, "width": 10, "count": 1, "dtype": "float32", "nodata": -9999}
        for k, field in enumerate(values[feature]):
            time = datetime(DAYS[0].year, DAYS[0].month, DAYS[0].day) + timedelta(hours=1.5 + 3 * k)
            name = f"SPL4SMGP.008_Geophysical_Data_sm_surface_doy{time:%Y%j%H%M%S}_aid{feature}.tif"
            place = {"crs": box.crs.to_wkt(), "transform": box.affine}
            with rasterio.open(tmp_path / name, "w", driver="GTiff", **size, **place) as image:
                image.write(field, 1)
        middle = box.affine * (5.5, 5.5)
        places.append(Transformer.from_crs("EPSG:6933", "EPSG:4326", always_xy=True).transform(*middle))
    order = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    kept = {"name": "order", "folder": str(tmp_path), "variables": {"smap": order["variables"]["smap"]}}
    (tmp_path / "order.yaml").write_text(yaml.safe_dump(kept))
    found = sample([FilesSource(tmp_path / "order.yaml")], places, [DAYS[0]], needs, smap_resampling="nearest")
    expected = [values[feature].mean(axis=0)[5, 5] for feature in windows]
    np.testing.assert_allclose(found["smap"], expected, atol=VARIABLES["smap"].scale)
