#!/bin/sh
# pyogrio 0.13.0 (GDAL 3.12.4): a GeoJSON file that states a CRS which GDAL does not know is read as longitude and latitude.
#
# The member "crs" of older GeoJSON may name a code or link to a definition. A name that is not known (EPSG:0) and any link are dropped without an error or a warning, and the
# layer is EPSG:4326, although the file says that it is not: coordinates of -1800000, 2900000 in metres become degrees. A known name (EPSG:5070) is honoured.
# Seen with numpy 2.4.6, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check pyogrio==0.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import json
from pathlib import Path

import pyogrio

stated = {
    "EPSG:5070": {"type": "name", "properties": {"name": "EPSG:5070"}},
    "EPSG:0": {"type": "name", "properties": {"name": "EPSG:0"}},
    "a link": {"type": "link", "properties": {"href": "albers.prj", "type": "ogcwkt"}},
}
found = {}
for name, crs in stated.items():
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [-1800000, 2900000]}}
    Path("area.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    found[name] = pyogrio.raw.read("area.geojson")[0]["crs"]
    print(f"the file states {name}: read as {found[name]}")
assert found["EPSG:5070"] == "EPSG:5070"
assert found["EPSG:0"] == found["a link"] == "EPSG:4326", "changed: an unknown CRS is not taken for degrees"
PY
