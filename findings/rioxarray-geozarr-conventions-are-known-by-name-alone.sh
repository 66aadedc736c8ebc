#!/bin/sh
# rioxarray 0.23.0: a GeoZarr convention counts as declared only where its "name" ends in a colon ("proj:"); uuid and addresses are not looked at.
#
# An entry of `zarr_conventions` carries a uuid, addresses of its schema and text, and a name. Writers that follow the text of version 0.1 name it "proj" and "spatial", others give no name,
# since the uuid identifies the convention; GDAL 3.13 goes by the uuid. rioxarray then ignores `proj:code` and `spatial:transform` without a word: the array has no CRS, and its
# transform comes from elsewhere or is the identity. A writer has to declare each convention under both names. Needs Python 3.12 or later (PYTHON=python3.12); xarray 2026.9.0, rasterio 1.5.0.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check rioxarray==0.23.0 xarray==2026.9.0 rasterio==1.5.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import rioxarray  # noqa: F401
import xarray as xr

UUIDS = {"proj": "f17cb550-5864-4468-aeb7-f3180cfb622f", "spatial": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4"}


def crs_of(entries):
    attributes = {
        "zarr_conventions": entries,
        "proj:code": "EPSG:32611",
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": [100.0, 0.0, 300000.0, 0.0, -100.0, 5200000.0],
    }
    array = xr.DataArray(np.zeros((4, 5), "f4"), dims=("y", "x"), attrs=attributes)
    return array.rio.crs and array.rio.crs.to_string(), tuple(array.rio.transform())[:6]


found = {
    "uuid alone": crs_of([{"uuid": one} for one in UUIDS.values()]),
    "uuid and name proj": crs_of([{"uuid": one, "name": name} for name, one in UUIDS.items()]),
    "uuid and name proj:": crs_of([{"uuid": one, "name": f"{name}:"} for name, one in UUIDS.items()]),
    "name proj: alone": crs_of([{"name": f"{name}:"} for name in UUIDS]),
}
for declared, seen in found.items():
    print(f"declared by {declared}: CRS {seen[0]}, transform {seen[1]}")
read = ("EPSG:32611", (100.0, 0.0, 300000.0, 0.0, -100.0, 5200000.0))
assert found["uuid and name proj:"] == found["name proj: alone"] == read
assert found["uuid alone"][0] is None
assert found["uuid and name proj"][0] is None
PY
