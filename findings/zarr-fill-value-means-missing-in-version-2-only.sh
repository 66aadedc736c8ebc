#!/bin/sh
# zarr 3.1.6 with xarray 2026.9.0: the same arrays are read with opposite meanings in Zarr version 2 and 3.
#
# xarray takes the fill value of a version 2 array for CF's _FillValue, and that of a version 3 array for nothing. Two surprises follow from
# what zarr writes by default. Version 2: create_array without a fill value states 0, so every true 0 (no rain) is read as missing. Version 3: a packed uint16 array whose
# fill_value is 65535, its nodata, but which has no _FillValue attribute reads chunks that were never written as the number 65535
# (with a scale factor, as a plausible 6.5535). Nothing warns. The option use_zarr_fill_value_as_mask=False of open_zarr settles the first.
# Seen with numpy 2.4.6, dask 2026.8.0, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check zarr==3.1.6 xarray==2026.9.0 numpy==2.4.6 dask==2026.8.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import xarray as xr
import zarr

found = {}
for version in (2, 3):
    store = f"version{version}.zarr"
    group = zarr.open_group(store, mode="w", zarr_format=version)
    names = {"dimension_names": ["x"]} if version == 3 else {"attributes": {"_ARRAY_DIMENSIONS": ["x"]}}
    rain = group.create_array("rain", shape=(4,), chunks=(2,), dtype="float32", **names)
    packed = group.create_array("packed", shape=(4,), chunks=(2,), dtype="uint16", fill_value=65535, **names)
    rain[:] = [0, 3, 0, 3]
    packed[:2] = [0, 3]
    with xr.open_zarr(store, consolidated=False) as data:
        found[version] = data.rain.values.tolist(), data.packed.values.tolist()
    print(f"version {version}: rain of 0, 3, 0, 3 is read as {found[version][0]}; packed 0, 3 and two never written as {found[version][1]}")
assert np.isnan(found[2][0][0]) and np.isnan(found[2][1][2:]).all(), "changed in version 2"
assert found[3] == ([0, 3, 0, 3], [0, 3, 65535, 65535]), "changed in version 3"
PY
