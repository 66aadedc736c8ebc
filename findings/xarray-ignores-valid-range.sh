#!/bin/sh
# xarray 2026.9.0: numbers outside valid_range, valid_min and valid_max of a NetCDF file are read as values.
#
# CF says that applications should treat them as missing, and netCDF4-python does, so the same file gives NaN there and a number in xarray. Products that mark fill by the
# range alone (stored 0 or 65535 outside of 7500 to 65530, say) become temperatures. mask_and_scale=True, the default, handles _FillValue and missing_value only; no option
# applies the range.
# Seen with netCDF4 1.7.5.1.post1, numpy 2.4.6, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check xarray==2026.9.0 netCDF4==1.7.5.1.post1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import netCDF4
import numpy as np
import xarray as xr

with netCDF4.Dataset("surface.nc", "w") as file:
    file.createDimension("x", 3)
    variable = file.createVariable("temperature", "u2", ("x",))
    variable.set_auto_maskandscale(False)
    variable.scale_factor, variable.units = 0.02, "K"
    variable.valid_range = np.array([7500, 65530], "u2")
    variable[:] = [15000, 0, 65535]
with netCDF4.Dataset("surface.nc") as file:
    masked = file["temperature"][:].filled(np.nan).tolist()
with xr.open_dataset("surface.nc") as data:
    read = data.temperature.values.round(2).tolist()
print(f"stored 15000, 0, 65535, valid 7500 to 65530: netCDF4 gives {masked}, xarray {read}")
assert np.isnan(masked[1:]).all()
assert read == [300.0, 0.0, 1310.7], "changed: the valid range is applied"
PY
