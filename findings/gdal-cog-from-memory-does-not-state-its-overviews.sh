#!/bin/sh
# GDAL 3.12.2 (rasterio 1.5.2): a COG states how its overviews were made only if they come from a GeoTIFF, not if from a raster in memory.
#
# With OVERVIEWS=FORCE_USE_EXISTING the COG driver writes OVERVIEW_RESAMPLING into the file where the overviews of the source say it, as those of a GeoTIFF do.
# Those of the MEM driver do not, and the creation option OVERVIEW_RESAMPLING is ignored without a message. The same pixels and overviews give other bytes by the way they were
# collected, and checksums of outputs differ. GDAL 3.10.3 (rasterio 1.4.4) states it of neither. A GeoTIFF in /vsimem/ (rasterio's MemoryFile) counts as one on disk.
# Seen with numpy 2.5.5, Python 3.12; needs Python 3.12 or later as python3.12.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.12 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check rasterio==1.5.2 numpy==2.5.5
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.shutil import copy
from rasterio.transform import from_origin

values = np.arange(1024 * 1024, dtype="uint32").reshape(1024, 1024)
grid = {"height": 1024, "width": 1024, "count": 1, "dtype": "uint32", "crs": "EPSG:5070", "transform": from_origin(0, 0, 100, 100)}
files = {}
for driver in ("MEM", "GTiff"):
    with rasterio.open("plain.tif", "w", driver=driver, **grid) as image:
        image.write(values, 1)
        image.build_overviews([2], Resampling.average)
        copy(image, f"{driver}.tif", driver="COG", overviews="FORCE_USE_EXISTING", overview_resampling="AVERAGE")
    with rasterio.open(f"{driver}.tif") as image:
        files[driver] = (image.tags(ns="IMAGE_STRUCTURE").get("OVERVIEW_RESAMPLING"), image.read(1), open(f"{driver}.tif", "rb").read())
    with rasterio.open(f"{driver}.tif", overview_level=0) as image:
        files[driver] += (image.read(1),)
memory, disk = files.values()
print(f"stated: {memory[0]} from MEM, {disk[0]} from GTiff; same pixels: {(memory[1] == disk[1]).all()}; same overview: {(memory[3] == disk[3]).all()}; same bytes: {memory[2] == disk[2]}")
assert (memory[0], disk[0]) == (None, "AVERAGE"), "changed: both state the same"
PY
