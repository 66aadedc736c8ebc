from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine

from mmnet_maps.errors import InputError
from mmnet_maps.sources.files.description import RasterSpec
from mmnet_maps.sources.files.rasters import describe, read_window

DAYS = (date(2021, 8, 7), date(2021, 8, 7), date(2021, 8, 8))


@pytest.fixture
def labelled(tmp_path: Path) -> RasterSpec:
    """Two fields of one day and one of the next, south up."""
    values = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    times = np.array(["2021-08-07T06", "2021-08-07T18", "2021-08-08T06"], "datetime64[ns]")
    axes = {"time": times, "lat": [40.0, 41, 42, 43], "lon": np.arange(-100.0, -95)}
    attributes = {"scale_factor": 0.1, "add_offset": 2.0, "missing_value": np.int16(7)}
    xr.Dataset({"v": (("time", "lat", "lon"), values, attributes)}, axes).to_netcdf(tmp_path / "a.nc")
    return RasterSpec(path=tmp_path / "a.nc", key="pr")


def test_a_labelled_file_is_described_and_read_north_up(labelled: RasterSpec) -> None:
    raster = describe(labelled)
    assert raster.days == DAYS
    assert (raster.scale, raster.offset) == (0.1, 2.0)
    assert raster.lattice.boundingbox.bbox == (-100.5, 39.5, -95.5, 43.5)
    stored, missing = read_window(raster, slice(1, 4), slice(2, 4), DAYS[0])
    values = np.arange(60).reshape(3, 4, 5)[:2, ::-1][:, 1:4, 2:4]
    np.testing.assert_array_equal(stored, values)
    np.testing.assert_array_equal(missing, values == 7)
    assert missing.sum() == 1
    assert read_window(raster, slice(0, 4), slice(0, 5), DAYS[2])[0].shape == (1, 4, 5)


def test_an_image_keeps_its_own_mask(tmp_path: Path) -> None:
    values = np.arange(20, dtype=np.float32).reshape(4, 5)
    values[2, 2] = np.inf
    path = tmp_path / "a.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=4,
        width=5,
        count=1,
        dtype="float32",
        nodata=3,
        crs="EPSG:5070",
        transform=Affine(30, 0, 0, 0, 30, 2e6),
    ) as image:
        image.write(values, 1)
    raster = describe(RasterSpec(path=path, key="clay"))
    assert raster.days is None
    assert raster.lattice.boundingbox.bbox == (0, 2e6, 150, 2e6 + 120)
    stored, missing = read_window(raster, slice(0, 4), slice(1, 5), None)
    np.testing.assert_array_equal(stored[0], values[::-1, 1:])
    np.testing.assert_array_equal(missing[0], ((values == 3) | np.isinf(values))[::-1, 1:])


def test_a_changed_file_is_described_again(labelled: RasterSpec) -> None:
    assert describe(labelled).lattice.shape == (4, 5)
    axes = {"lat": [40.0, 41, 42], "lon": np.arange(-100.0, -95)}
    xr.Dataset({"v": (("lat", "lon"), np.zeros((3, 5)))}, axes).to_netcdf(labelled.path)
    os.utime(labelled.path, ns=(0, 1))
    assert describe(labelled).lattice.shape == (3, 5)
    labelled.path.unlink()
    with pytest.raises(InputError, match=r"pr: .*a\.nc cannot be read: No such file"):
        describe(labelled)


def test_threads_may_read_one_file_at_once(labelled: RasterSpec) -> None:
    raster = describe(labelled)
    expected = read_window(raster, slice(0, 4), slice(0, 5), DAYS[0])[0]
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(read_window, raster, slice(0, 4), slice(0, 5), DAYS[0]) for _ in range(100)]
        assert all(np.array_equal(job.result()[0], expected) for job in jobs)
