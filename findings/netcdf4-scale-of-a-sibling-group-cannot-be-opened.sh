#!/bin/sh
# netCDF4 1.7.5.1.post1 and h5netcdf 1.8.2: a valid HDF5 file whose dimension scale lies in a sibling group cannot be opened.
#
# HDF5 lets any dataset be the scale of a dimension, wherever it lies; products cut by services carry the coordinates of one group for the arrays of another. NetCDF allows dimensions of
# the group itself and of those above it. netCDF4 fails with "'NoneType' object has no attribute 'dimensions'" where the group of the scale sorts after that of the
# array (with the names exchanged it opens), h5netcdf with another AttributeError or a KeyError: neither names the file, the variable or the reason, and netCDF4 reads no other variable of the
# file either. h5py reads all of it.
# Seen with h5py 3.16.0, numpy 2.4.6, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check netCDF4==1.7.5.1.post1 h5netcdf==1.8.2 h5py==3.16.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import h5netcdf
import h5py
import netCDF4
import numpy as np

with h5py.File("moisture.h5", "w") as file:
    file["geolocation/y"] = np.arange(3.0)
    file["geolocation/y"].make_scale("y")
    file["fields/moisture"] = np.full(3, 0.2)
    file["fields/moisture"].dims[0].attach_scale(file["geolocation/y"])
found = {}
for name, read in (("netCDF4", netCDF4.Dataset), ("h5netcdf", lambda path: h5netcdf.File(path, "r")["fields/moisture"].dimensions)):
    try:
        read("moisture.h5")
    except Exception as error:
        found[name] = type(error).__name__
        print(f"{name}: {type(error).__name__}: {error}")
with h5py.File("moisture.h5") as file:
    scale = file["fields/moisture"].dims[0][0]
    print(f"h5py: moisture {file['fields/moisture'][:].tolist()}, its scale is {scale.name} {scale[:].tolist()}")
assert found["netCDF4"] == "AttributeError" and found["h5netcdf"] in ("AttributeError", "KeyError"), "changed: the file is read or refused in words"
PY
