#!/bin/sh
# pyhdf 0.11.7: sds[row, column] of an unsigned 16- or 32-bit dataset is always 1, whatever is stored.
#
# One number is read by indexing with whole numbers, as in numpy. For uint8 and int16 this gives the stored number; for uint16 and uint32, the types
# of MODIS temperature and many other packed products, it gives 1, without an error or a warning. Slices and get() are right. Whoever
# looks up a single pixel reads 1 x 0.02 K.
# Seen with numpy 2.4.6, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check pyhdf==0.11.7 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
from pyhdf.SD import SD, SDC

kinds = {"uint8": SDC.UINT8, "int16": SDC.INT16, "uint16": SDC.UINT16, "uint32": SDC.UINT32}
file = SD("numbers.hdf", SDC.WRITE | SDC.CREATE)
for name, kind in kinds.items():
    dataset = file.create(name, kind, (2, 3))
    dataset[:] = np.arange(100, 106, dtype=name).reshape(2, 3)
    dataset.endaccess()
file.end()
file = SD("numbers.hdf")
found = {}
for name in kinds:
    dataset = file.select(name)
    found[name] = int(dataset[1, 2]), int(dataset[1:2, 2:3][0, 0]), int(dataset.get()[1, 2])
    print(f"{name:7} stored 105: sds[1, 2] = {found[name][0]}, sds[1:2, 2:3] = {found[name][1]}, get() = {found[name][2]}")
assert found["uint8"] == found["int16"] == (105, 105, 105)
assert found["uint16"] == found["uint32"] == (1, 105, 105), "changed: unsigned numbers are read right"
PY
