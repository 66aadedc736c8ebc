#!/bin/sh
# pyogrio 0.13.0 (GDAL 3.12.4): a polygon of Esri JSON with a curved edge is read as a feature without geometry.
#
# ArcGIS services and exports give polygons that were drawn with arcs as "curveRings" in place of "rings". The driver knows rings alone: the feature
# comes with its attributes and a geometry of None, without a warning. Centre-pivot fields are circles, so it is just these that vanish from an
# area or a layer of zones. Asking the service for returnTrueCurves=false gives rings.
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

straight = {"rings": [[[0, 0], [0, 10], [10, 10], [10, 0], [0, 0]]]}
curved = {"curveRings": [[[20, 0], {"c": [[30, 0], [25, 5]]}, [20, 0]]]}
features = [{"attributes": {"field": k}, "geometry": shape} for k, shape in ((1, straight), (2, curved))]
layer = {"geometryType": "esriGeometryPolygon", "spatialReference": {"wkid": 4326}, "fields": [{"name": "field", "type": "esriFieldTypeInteger"}], "features": features}
Path("fields.json").write_text(json.dumps(layer))
_, _, geometries, (numbers,) = pyogrio.raw.read("fields.json")
lost = [int(number) for number, geometry in zip(numbers, geometries) if geometry is None]
print(f"GDAL {'.'.join(map(str, pyogrio.__gdal_version__))}: {len(numbers)} features, without geometry: {lost}")
assert lost == [2], "changed: curved rings are read"
PY
