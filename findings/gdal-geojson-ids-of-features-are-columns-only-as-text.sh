#!/bin/sh
# pyogrio 0.13.0 (GDAL 3.12.4): the id of a GeoJSON feature becomes a column "id" if it is a text, and no column if it is a number.
#
# RFC 7946 allows both. The same layer of fields keeps its names with "id": "17" and loses them with "id": 17, where they only appear as feature ids (FIDs), which are asked for
# separately. FIDs are unique: of the ids 5, 5, 6 the second becomes 1. Tables joined by such ids later do not match.
# Seen with numpy 2.4.6, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check pyogrio==0.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import json
import warnings
from pathlib import Path

import pyogrio

warnings.filterwarnings("ignore", category=RuntimeWarning)
found = {}
for ids in (("17", "18", "19"), (17, 18, 19), (5, 5, 6)):
    features = [{"type": "Feature", "id": one, "properties": {"crop": "wheat"}, "geometry": {"type": "Point", "coordinates": [0, 0]}} for one in ids]
    Path("fields.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    layer, fids, _, columns = pyogrio.raw.read("fields.geojson", return_fids=True)
    found[ids] = layer["fields"].tolist(), fids.tolist()
    print(f"ids {ids}: columns {found[ids][0]}, FIDs {found[ids][1]}")
assert found["17", "18", "19"] == (["id", "crop"], [0, 1, 2])
assert found[17, 18, 19] == (["crop"], [17, 18, 19]), "changed: numbers become a column too"
assert found[5, 5, 6][1] == [5, 1, 6]
PY
