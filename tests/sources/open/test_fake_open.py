"""The loopback server itself: GDAL reads a procedural file by ranges, and finds what its formula says."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window

from fake_open import FakeOpen, Files
from open_tiff import Tiff

SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"


@pytest.mark.parametrize("crs", ["EPSG:32611", SINUSOIDAL, "EPSG:5070", "EPSG:4326"])
@pytest.mark.parametrize("shape", [(40, 60), (1300, 700)])
@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32"])
def test_gdal_reads_a_procedural_file_by_ranges(crs: str, shape: tuple[int, int], dtype: str) -> None:
    step = 0.001 if crs == "EPSG:4326" else 30.0
    left, top = (-119.0, 47.0) if crs == "EPSG:4326" else (300_000.0, 5_000_000.0)
    transform = Affine(step, 0, left, 0, -step, top)

    def values(x, y):
        return np.where(x < left + 3 * step, np.nan, np.rint((x - left) / step + (top - y) / step) % 100)

    tiff = Tiff(crs, transform, shape, dtype, values, nodata=101, stated=True)
    with FakeOpen() as server:
        server.serve(Files({"/a.tif": tiff}))
        options = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
        with rasterio.Env(**options), rasterio.open(f"/vsicurl/{server.url}/a.tif") as image:
            assert (image.height, image.width) == shape
            assert image.transform.almost_equals(transform, 1e-9)
            assert image.nodata == 101
            assert image.dtypes == (dtype,)
            found = image.read(1, window=Window(10, 5, 40, 30))
        assert all(asked.method == "HEAD" or "range" in asked.headers for asked in server.requests())
    row, col = np.mgrid[5:35, 10:50]
    np.testing.assert_array_equal(found, (col + row + 1) % 100)
