#!/bin/sh
# GDAL 3.10.3 (rasterio 1.4.4) and 3.12.2 (rasterio 1.5.2): one row of a warped image is not always the same row of the whole warped image.
#
# GDAL transforms the ends of a row exactly and those between approximately, to an eighth of a pixel. A destination whose source window would be
# used by less than half is split first, and each part is approximated by itself. A single row on an Albers grid lies aslant in a UTM zone, so its source window is mostly
# unused and the row is split, while the whole is not: with averages of noise from 0 to 1, some rows differ by .004, and beside the edge other pixels
# have a value. Who reads a large image in windows, or only the rows that are needed, gets values that depend on the window. With the warp option
# SRC_FILL_RATIO_HEURISTICS=NO no row differs here.
# Seen with numpy 2.4.6, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import numpy as np
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject

noise = np.random.default_rng(0).random((283, 305), np.float32)
width, height = 256, 32


def warped(first: int, last: int, **options: str) -> np.ndarray:
    found = np.full((last - first, width), np.nan, np.float32)
    reproject(
        noise, found, src_transform=from_origin(286_228, 5_238_068, 30, 30), src_crs="EPSG:32611",
        dst_transform=from_origin(-1_792_000, 2_921_600 - 100 * first, 100, 100), dst_crs="EPSG:5070",
        src_nodata=np.nan, dst_nodata=np.nan, resampling=Resampling.average, **options,
    )
    return found


for options, expected in (({}, 4), ({"SRC_FILL_RATIO_HEURISTICS": "NO"}, 0)):
    whole = warped(0, height, **options)
    differences = [np.nanmax(np.abs(warped(k, k + 1, **options) - whole[k]), initial=0) for k in range(height)]
    differ = sum(difference > 0 for difference in differences)
    print(options, f"{differ} of {height} rows differ, by {max(differences):.4f} at most; {np.isfinite(whole).sum()} pixels have a value")
    assert differ == expected
PY
