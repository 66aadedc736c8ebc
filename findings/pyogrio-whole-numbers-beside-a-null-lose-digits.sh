#!/bin/sh
# pyogrio 0.13.0 (GDAL 3.12.4): whole numbers of 64 bits are read as float64 where one feature has none, and lose their last digits.
#
# A column of ids such as 1152921504606846977 (2**60 + 1) is read exactly as long as every feature has one. A single null makes the whole column float64: the same id is read as
# 1152921504606846976, without a warning, so two neighbouring ids may become one.
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

number = 2**60 + 1
found = {}
for name, numbers in (("all there", [number, 7]), ("one is null", [number, None])):
    features = [{"type": "Feature", "properties": {"field": one}, "geometry": {"type": "Point", "coordinates": [0, 0]}} for one in numbers]
    Path("fields.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    _, _, _, (column,) = pyogrio.raw.read("fields.geojson")
    found[name] = int(column[0])
    print(f"{name}: {column.dtype}, first id {found[name]}")
assert found["all there"] == number
assert found["one is null"] == number - 1, "changed: digits are kept"
PY
