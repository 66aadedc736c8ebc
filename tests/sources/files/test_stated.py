"""What files state of their units and missing values, and what the YAML puts in its place; values worked by hand."""

from __future__ import annotations

import logging
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
import yaml
import zarr
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.sources.files.source import FilesSource
from mmnet_maps.sources.files.stated import time_method
from mmnet_maps.variables import VARIABLES

DAY = date(2021, 8, 8)
GRID = GeoBox((3, 4), Affine(100, 0, -1_800_000, 0, -100, 2_900_000), "EPSG:5070")
AXES = {"time": [np.datetime64(DAY, "ns")], "lat": 47.5 - np.arange(3) / 24, "lon": -119.5 + np.arange(4) / 24}
RAIN = np.array([[0, 3, 0, 3]] * 3, np.float32)


def source(folder: Path, **variables: dict[str, Any]) -> FilesSource:
    path = folder / "mine.yaml"
    entries = {name: {"product": "P", **entry} for name, entry in variables.items()}
    path.write_text(yaml.safe_dump({"name": "mine", "variables": entries}))
    return FilesSource(path)


def read(made: FilesSource, name: str) -> NDArray[Any]:
    return made.read("weather", made.lattice("weather"), [DAY])[name][0]


def netcdf(path: Path, values: NDArray[Any], **stated: Any) -> None:
    fields = {"v": (("time", "lat", "lon"), np.broadcast_to(values, (1, 3, 4)), stated)}
    xr.Dataset(fields, AXES).to_netcdf(path, encoding={"v": {"_FillValue": None}} if "_FillValue" not in stated else {})


def image(path: Path, values: NDArray[Any], units: str | None = None, scale: float = 1, **options: Any) -> None:
    size = {"height": 3, "width": 4, "count": 1, "dtype": values.dtype, "crs": "EPSG:5070", "transform": GRID.affine}
    with rasterio.open(path, "w", driver="GTiff", **size, **options) as file:
        file.write(values, 1)
        file.scales = (scale,)
        if units:
            file.units = (units,)


def zarr_rain(path: Path, version: int, values: NDArray[Any] = RAIN, **options: Any) -> None:
    """Write rain as zarr alone writes it: without the attribute _FillValue."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    axes = {
        "time": (np.array([0]), {"units": f"days since {DAY}"}),
        "lat": (AXES["lat"], {"units": "degrees_north"}),
        "lon": (AXES["lon"], {"units": "degrees_east"}),
        "pr": (values[None], {"units": "mm", **options.pop("attributes", {})}),
    }
    for name, (numbers, attributes) in axes.items():
        dims = ["time", "lat", "lon"] if name == "pr" else [name]
        more = (options if name == "pr" else {}) | ({"dimension_names": dims} if version == 3 else {})
        array = group.create_array(name, shape=numbers.shape, dtype=numbers.dtype, chunks=numbers.shape, **more)
        array[...] = numbers
        array.attrs.update(attributes | ({"_ARRAY_DIMENSIONS": dims} if version == 2 else {}))


@pytest.mark.parametrize("kind", ["netCDF", "zarr", "image"])
@pytest.mark.parametrize(
    ("name", "units", "stated", "expected"),
    [
        ("pr", "kg m-2 s-1", 12 / 86400, 12),
        ("vpd", "hPa", 8, 0.8),
        ("vs", "km h-1", 10.8, 3),
        ("tmmx", "degC", 31, 304.15),
    ],
)
def test_stated_units_are_converted(
    tmp_path: Path, kind: str, name: str, units: str, stated: float, expected: float
) -> None:
    values = np.full((3, 4), stated, np.float32)
    if kind == "image":
        image(tmp_path / "a.tif", values, units)
        entry: dict[str, Any] = {"files": "a.tif", "date": DAY}
    else:
        netcdf(tmp_path / "a.nc", values, units=units)
        entry = {"files": "a.nc"}
        if kind == "zarr":
            with xr.open_dataset(tmp_path / "a.nc") as dataset:
                dataset.to_zarr(tmp_path / "a.zarr", consolidated=False)
            entry = {"files": "a.zarr"}
    np.testing.assert_allclose(read(source(tmp_path, **{name: entry}), name), expected, rtol=1e-6)


def test_units_of_hdf4_are_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attributes of HDF4 go the same way: the real MOD11A1 tile states K."""
    from mmnet_maps.sources.files import hdf4

    sd = pytest.importorskip("pyhdf.SD", reason="pyhdf is not installed")
    archive = sd.SD(str(tmp_path / "a.hdf"), sd.SDC.WRITE | sd.SDC.CREATE)
    dataset = archive.create("LST", sd.SDC.FLOAT32, (3, 4))
    dataset[:] = np.full((3, 4), 31, np.float32)
    dataset.units = "degC"
    dataset.endaccess()
    archive.end()
    monkeypatch.setattr(hdf4, "grid_of", lambda text, shape: (GRID.affine, "EPSG:5070"))
    made = source(tmp_path, lst={"files": "a.hdf", "date": DAY, "variable": "LST"})
    np.testing.assert_allclose(made.read("lst", made.lattice("lst"), [DAY])["lst"], 304.15, rtol=1e-6)


def test_feet_in_an_image_become_metres(tmp_path: Path) -> None:
    image(tmp_path / "z.tif", np.full((3, 4), 1000, np.float32), "US survey foot".replace(" ", "_"))
    found = source(tmp_path, elevation={"files": "z.tif"}).read("terrain", GRID, [DAY])["elevation"]
    np.testing.assert_allclose(found, 1000 * 1200 / 3937, rtol=1e-6)


@pytest.mark.parametrize("units", ["kg kg-1", "W m-2", "rain units", "mm2"])
def test_units_that_do_not_fit_are_refused(tmp_path: Path, units: str) -> None:
    netcdf(tmp_path / "a.nc", RAIN, units=units)
    with pytest.raises(InputError, match=r"pr: .*a\.nc: units .*; expected mm day-1 .*'units: mm day-1'") as caught:
        read(source(tmp_path, pr={"files": "a.nc"}), "pr")
    assert len(str(caught.value)) < 300
    np.testing.assert_array_equal(read(source(tmp_path, pr={"files": "a.nc", "units": "mm"}), "pr"), RAIN)


@pytest.mark.parametrize("units", ["", "none", "N/A", "mm", "MM", "mm/day", "mm of water"])
def test_units_that_state_nothing_else_leave_the_values(
    tmp_path: Path, units: str, caplog: pytest.LogCaptureFixture
) -> None:
    netcdf(tmp_path / "a.nc", RAIN, units=units)
    with caplog.at_level(logging.WARNING, "mmnet_maps"):
        np.testing.assert_array_equal(read(source(tmp_path, pr={"files": "a.nc"}), "pr"), RAIN)
    assert not caplog.records


def test_the_yaml_overrides_units_with_one_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    netcdf(tmp_path / "a.nc", RAIN, units="m")
    made = source(tmp_path, pr={"files": "a.nc", "units": "mm"})
    with caplog.at_level(logging.WARNING, "mmnet_maps"):
        for _ in range(3):
            np.testing.assert_array_equal(read(made, "pr"), RAIN)
        read(source(tmp_path, pr={"files": "a.nc", "units": "metres"}), "pr")  # the same in other words
    (text,) = [record.getMessage() for record in caplog.records]
    assert "units 'mm' of the sources YAML" in text
    assert "'m'" in text


def test_a_scale_of_the_yaml_is_not_combined_with_units_of_the_file(tmp_path: Path) -> None:
    """Who converted by scale must not be converted twice."""
    netcdf(tmp_path / "a.nc", np.full((3, 4), 800, np.float32), units="Pa")
    with pytest.raises(
        InputError, match=r"states the units 'Pa', and the sources YAML another scale or offset.*'units: "
    ):
        read(source(tmp_path, vpd={"files": "a.nc", "scale": 0.001}), "vpd")
    for entry in ({"scale": 0.001, "units": "kPa"}, {"scale": 1, "offset": 0}, {"scale": 0.1, "units": "daPa"}):
        found = read(source(tmp_path, vpd={"files": "a.nc", **entry}), "vpd")
        np.testing.assert_allclose(found, 0.8, rtol=1e-6)


def test_nodata_of_an_image_that_is_a_legal_value(tmp_path: Path) -> None:
    image(tmp_path / "a.tif", RAIN, nodata=0)
    entry = {"files": "a.tif", "date": DAY}
    with pytest.raises(
        InputError, match=r"pr: .*a\.tif marks 0 as missing, which is a legal value \(0 to 650"
    ) as caught:
        read(source(tmp_path, pr=entry), "pr")
    assert "'nodata: []'" in str(caught.value)
    assert "'nodata: [0]'" in str(caught.value)
    np.testing.assert_array_equal(read(source(tmp_path, pr={**entry, "nodata": []}), "pr"), RAIN)
    rain = np.where(RAIN == 0, np.nan, RAIN)
    np.testing.assert_array_equal(read(source(tmp_path, pr={**entry, "nodata": [0]}), "pr"), rain)
    np.testing.assert_array_equal(read(source(tmp_path, pr={**entry, "valid": [0.1, 650]}), "pr"), rain)


@pytest.mark.parametrize("mark", ["_FillValue", "missing_value"])
def test_nodata_of_a_netcdf_file_that_is_a_legal_value(tmp_path: Path, mark: str) -> None:
    netcdf(tmp_path / "a.nc", RAIN, units="mm", **{mark: np.float32(0)})
    with pytest.raises(InputError, match=r"pr: .*a\.nc marks 0 as missing"):
        read(source(tmp_path, pr={"files": "a.nc"}), "pr")
    np.testing.assert_array_equal(read(source(tmp_path, pr={"files": "a.nc", "nodata": []}), "pr"), RAIN)
    # Where the number does not occur, there is nothing to decide.
    netcdf(tmp_path / "a.nc", RAIN + 1, units="mm", **{mark: np.float32(0)})
    np.testing.assert_array_equal(read(source(tmp_path, pr={"files": "a.nc"}), "pr"), RAIN + 1)


def test_nodata_of_the_yaml_replaces_that_of_the_file(tmp_path: Path) -> None:
    values = np.array([[-99, 3, 7, 9]] * 3, np.float32)
    for write, entry in (
        (lambda: image(tmp_path / "a.tif", values, nodata=9), {"files": "a.tif", "date": DAY, "nodata": [7]}),
        (lambda: netcdf(tmp_path / "a.nc", values, _FillValue=np.float32(9)), {"files": "a.nc", "nodata": 7}),
    ):
        write()
        np.testing.assert_array_equal(read(source(tmp_path, pr=entry), "pr")[0], [np.nan, 3, np.nan, 9])


def test_nodata_of_the_yaml_keeps_the_mask_band_of_an_image(tmp_path: Path) -> None:
    image(tmp_path / "a.tif", RAIN)
    mask = np.ones((3, 4), bool)
    mask[0, 0] = False
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.write_mask(mask)
    for nodata in ({}, {"nodata": []}):
        found = read(source(tmp_path, pr={"files": "a.tif", "date": DAY, **nodata}), "pr")
        np.testing.assert_array_equal(found, np.where(mask, RAIN, np.nan))


def test_ordinary_fill_values_are_missing_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Landsat Collection 2: 0 is the lowest valid reflectance, -0.2. NLCD, HLS, POLARIS: outside of the range."""
    cases: tuple[tuple[str, NDArray[Any], float, dict[str, Any], float], ...] = (
        ("red", np.array([[0, 20000, 0, 20000]] * 3, np.uint16), 0, {"scale": 2.75e-5, "offset": -0.2}, 0.35),
        ("nir", np.array([[0, 3000, 0, 3000]] * 3, np.uint16), 0, {"scale": 1e-4}, 0.3),  # Sentinel-2
        ("swir1", np.array([[-9999, 3000, -9999, 3000]] * 3, np.int16), -9999, {"scale": 1e-4}, 0.3),
        ("vv", np.array([[0, -12, 0, -12]] * 3, np.float32), 0, {}, -12),
        ("vh", np.array([[0, 0.01, 0, 0.01]] * 3, np.float32), 0, {"units": "linear"}, -20),
        ("clay", np.array([[-9999, 30, -9999, 30]] * 3, np.float32), -9999, {}, 30),
        ("landcover", np.array([[0, 82, 0, 82]] * 3, np.uint8), 0, {}, 82),
        # The last numbers of packed integers would be 0.3277 and 0.65535 here.
        ("red", np.array([[32767, 3000, 32767, 3000]] * 3, np.int16), 32767, {"scale": 1e-5}, 0.03),
        ("nir", np.array([[65535, 3000, 65535, 3000]] * 3, np.uint16), 65535, {"scale": 1e-5}, 0.03),
    )
    with caplog.at_level(logging.WARNING, "mmnet_maps"):
        for name, values, nodata, entry, expected in cases:
            image(tmp_path / "a.tif", values, nodata=nodata)
            made = source(tmp_path, **{name: {"files": "a.tif", "date": DAY, **entry}})
            found = made.read(VARIABLES[name].group, GRID, [DAY])[name][0]
            absent = found == 0 if name == "landcover" else np.isnan(found)
            assert absent[:, ::2].all(), name
            np.testing.assert_allclose(found[:, 1::2], expected, rtol=1e-5, err_msg=name)
    assert not caplog.records


@pytest.mark.parametrize("version", [2, 3])
def test_the_default_fill_value_of_zarr_states_nothing(
    tmp_path: Path, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    zarr_rain(tmp_path / "a.zarr", version)
    made = source(tmp_path, pr={"files": "a.zarr"})
    with caplog.at_level(logging.WARNING, "mmnet_maps"):
        for _ in range(2):
            np.testing.assert_array_equal(read(made, "pr"), RAIN)
    (text,) = [record.getMessage() for record in caplog.records]
    assert "pr: 0 is read as a value" in text
    assert "'nodata: [0]'" in text
    found = read(source(tmp_path, pr={"files": "a.zarr", "nodata": [0]}), "pr")
    np.testing.assert_array_equal(found, np.where(RAIN == 0, np.nan, RAIN))


@pytest.mark.parametrize("version", [2, 3])
def test_a_fill_value_that_somebody_chose_is_missing(tmp_path: Path, version: int) -> None:
    """xarray ignores the fill value of Zarr v3: parts that were never written would be numbers."""
    zarr_rain(tmp_path / "a.zarr", version, np.where(RAIN == 0, np.float32(500), RAIN), fill_value=500)
    with pytest.raises(InputError, match=r"pr: .*a\.zarr marks 500 as missing, which is a legal value"):
        read(source(tmp_path, pr={"files": "a.zarr"}), "pr")
    zarr_rain(tmp_path / "a.zarr", version, np.where(RAIN == 0, np.float32(900), RAIN), fill_value=900)
    found = read(source(tmp_path, pr={"files": "a.zarr"}), "pr")
    np.testing.assert_array_equal(found, np.where(RAIN == 0, np.nan, RAIN))
    packed = np.array([[0, 30, 0, 30]] * 3, np.int16)
    zarr_rain(tmp_path / "a.zarr", 2, packed, attributes={"scale_factor": 0.1}, fill_value=0)
    with pytest.raises(InputError, match=r"pr: .*a\.zarr marks 0 as missing"):
        read(source(tmp_path, pr={"files": "a.zarr"}), "pr")


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("time: sum", "sum"),
        ("area: time: mean", "mean"),
        ("time: maximum within days", "maximum"),
        ("area: mean", ""),
        ("", ""),
        ("day: Mean (comment: time: sum)", "mean"),
    ],
)
def test_the_method_over_time(text: str, method: str) -> None:
    assert time_method(text) == method
