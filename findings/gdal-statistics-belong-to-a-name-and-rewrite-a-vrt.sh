#!/bin/sh
# GDAL 3.10.3 (rasterio 1.4.4): computed statistics are kept for the name of a file, not for its content, and reading a VRT may change it.
#
# Statistics of a GeoTIFF that is open for reading go into map.tif.aux.xml beside it. When another file takes the name map.tif, GDAL reports the old statistics for it, as band
# metadata and as the answer to statistics(), without a look at size, time or content; QGIS stretches the new map by the old range. Statistics of a VRT, also opened for
# reading only, are written into the VRT itself, so its checksum changes by looking at it. Whoever replaces a raster has to remove the sidecar with it.
# Seen with numpy 2.4.6, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import warnings
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

warnings.filterwarnings("ignore")  # of rasterio: statistics() is deprecated, and the VRT has no position


def write(path, value):
    with rasterio.open(path, "w", driver="GTiff", height=4, width=4, count=1, dtype="float32", crs="EPSG:5070", transform=from_origin(0, 400, 100, 100)) as image:
        image.write(np.full((4, 4), value, "float32"), 1)


def maximum(path):
    with rasterio.open(path) as image:
        return image.statistics(1).max


write("map.tif", 1)
first = maximum("map.tif")
write("other.tif", 5)
Path("other.tif").replace("map.tif")
second = maximum("map.tif")
print(f"a map of 1 has the maximum {first:g}; the map of 5 that replaced it has {second:g}; beside it lies {[p.name for p in Path().glob('*.xml')]}")
vrt = Path("mosaic.vrt")
vrt.write_text("""<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Float32" band="1"><SimpleSource>
<SourceFilename relativeToVRT="1">map.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>""")
before = vrt.read_bytes()
maximum(vrt)
print(f"the VRT is the same file after its statistics were read: {vrt.read_bytes() == before}")
assert second == 1, "changed: statistics are compared with the file"
assert vrt.read_bytes() != before, "changed: a VRT that is read stays as it is"
PY
