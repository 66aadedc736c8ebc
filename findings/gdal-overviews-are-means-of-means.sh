#!/bin/sh
# GDAL 3.10.3 (rasterio 1.4.4): the second overview level of a COG with nodata is not the mean of the pixels below it.
#
# With OVERVIEW_RESAMPLING=AVERAGE each level is computed from the one before it, and every valid pixel of that one counts alike, even if it stands for one
# pixel and its neighbour for four. Beside nodata, such as the edge of an area of interest, twelve pixels of 1000 and one of 4000 (mean 1231) become 1750 two
# levels up. Zoomed-out maps and statistics from overviews are off along every edge; the pixels themselves are right. Levels that are built in one call
# of build_overviews each ([2], then [4]) are all computed from the pixels; the COG driver keeps them with OVERVIEWS=FORCE_USE_EXISTING.
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
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.shutil import copy
from rasterio.transform import from_origin

none = 65535
values = np.full((1024, 1024), none, np.uint16)
values[:4, :4] = 1000
values[2:4, 2:4] = [[none, none], [none, 4000]]
with MemoryFile() as memory:
    with memory.open(driver="GTiff", height=1024, width=1024, count=1, dtype="uint16", nodata=none, crs="EPSG:5070", transform=from_origin(0, 0, 100, 100)) as image:
        image.write(values, 1)
    copy(memory.name, "map.tif", driver="COG", OVERVIEW_RESAMPLING="AVERAGE", OVERVIEW_COUNT=2)
with rasterio.open("map.tif", overview_level=1) as image:
    second = int(image.read(1)[0, 0])
with MemoryFile() as memory:
    with memory.open(driver="GTiff", height=1024, width=1024, count=1, dtype="uint16", nodata=none, crs="EPSG:5070", transform=from_origin(0, 0, 100, 100)) as image:
        image.write(values, 1)
        for factor in (2, 4):
            image.build_overviews([factor], Resampling.average)
        copy(image, "own.tif", driver="COG", OVERVIEWS="FORCE_USE_EXISTING")
with rasterio.open("own.tif", overview_level=1) as image:
    own = int(image.read(1)[0, 0])
mean = values[:4, :4][values[:4, :4] != none].mean()
print(f"mean of the 13 valid pixels: {mean:.0f}; second overview level: {second}; built in a call of its own: {own}")
assert own == 1231
assert second == 1750, "changed: overviews weigh pixels by what they stand for"
PY
