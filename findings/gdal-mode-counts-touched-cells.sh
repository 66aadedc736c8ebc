#!/bin/sh
# GDAL 3.10.3 (rasterio 1.4.4): Resampling.mode returns the class of most cells that a pixel touches, not that of most area.
#
# A pixel 100 m wide lies over cells 30 m wide: 5 m of the first, 30 m of each of the next three, 5 m of the last. Class 82 covers 60 m,
# class 41 covers 40 m, in three pieces of which two are 5 m wide. Each touched cell counts as one, so the mode is 41. The mean (Resampling.average) of the
# same call weighs cells by area, as the indicator of class 82 shows: 0.6. On a real 30 m land cover map brought to 100 m, 9 % of the pixels
# are not the class of the largest area. GDAL 3.12.2 (rasterio 1.5.2, Python 3.12) weighs the mode by area too: 82. The same code gives other maps there.
# Seen with numpy 2.4.6, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject

cells = np.repeat(np.array([[41, 41, 82, 82, 41]], np.uint8), 4, axis=0)
grids = {"src_transform": from_origin(-25, 120, 30, 30), "dst_transform": from_origin(0, 120, 100, 120), "src_crs": "EPSG:5070", "dst_crs": "EPSG:5070"}
mode, share = np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.float32)
reproject(cells, mode, resampling=Resampling.mode, **grids)
reproject((cells == 82).astype(np.float32), share, resampling=Resampling.average, **grids)
print(f"GDAL {rasterio.__gdal_version__}: class 82 covers {share[0, 0]:.2f} of the pixel, the mode is {mode[0, 0]}")
assert abs(share[0, 0] - 0.6) < 1e-6
assert mode[0, 0] == 41, "changed: the mode weighs cells by area"
PY
