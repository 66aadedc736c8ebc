#!/bin/sh
# rio-cogeo 7.0.4: a tiled file that is exactly one block wide and taller than a block is said not to be tiled, so that it is no valid COG.
#
# GDAL's COG driver writes a raster of 512 columns and 1024 rows in blocks of 512 x 512. `rio cogeo validate` answers "The file is greater than 512xH or 512xW, but is not tiled", although
# the file states its tiles and LAYOUT=COG; one column more or less and it is valid. The same is said of an overview: a file of 1024 x 2048 pixels has one of 512 x 1024. Code
# that refuses what the validator refuses loses every area of such a width.
# Seen with rasterio 1.4.4 (GDAL 3.10), numpy 2.4.6, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check rio-cogeo==7.0.4 rasterio==1.4.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import rasterio
from rasterio.transform import from_origin
from rio_cogeo.cogeo import cog_validate

found = {}
for width, height in ((511, 1024), (512, 1024), (513, 1024), (1024, 2048)):
    with rasterio.open(
        "map.tif", "w", driver="COG", blocksize=512, width=width, height=height, count=1, dtype="uint16",
        crs="EPSG:5070", transform=from_origin(0, 0, 100, 100),
    ) as data:
        data.write(np.ones((height, width), np.uint16), 1)
    with rasterio.open("map.tif") as data:
        assert data.block_shapes == [(512, 512)]
        assert data.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    valid, faults, _ = cog_validate("map.tif", quiet=True)
    found[width, height] = valid
    print(f"{width} x {height} in blocks of 512 x 512: {'valid' if valid else faults[0]}")
assert found == {(511, 1024): True, (512, 1024): False, (513, 1024): True, (1024, 2048): False}, "changed"
PY
