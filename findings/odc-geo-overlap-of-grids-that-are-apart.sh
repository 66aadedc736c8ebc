#!/bin/sh
# odc-geo 0.5.3: GeoBox.overlap_roi of two grids that do not overlap may select pixels.
#
# The method returns the window of one grid that another grid covers. For a grid to the left of (or above) it, at a distance of less
# than its own width, the result is slice(0, -5): numpy reads a negative end as "from the end", so the window is not empty but half
# of the grid. To the right (or below) the result is slice(15, 10), which happens to be empty. A caller that pastes `array[roi]` gets
# the values of places that the other grid does not cover, without an error. The docstring promises a slice that shares pixels with
# the other grid; it does not say that callers must test for an overlap first. Seen with numpy 2.3.4, affine 2.4.0, pyproj 3.7.2, shapely 2.1.2, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check odc-geo==0.5.3 numpy==2.3.4 affine==2.4.0 pyproj==3.7.2 shapely==2.1.2
"$work/venv/bin/python" - <<'PY'
import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox


def grid(left):
    return GeoBox((10, 10), Affine(1, 0, left, 0, -1, 0), "EPSG:5070")


values = np.arange(100).reshape(10, 10)
for left in (-15, 15):
    roi = grid(0).overlap_roi(grid(left))
    print(f"grid 0..10, other {left}..{left + 10}: window {roi}, selects {values[roi].shape[1]} of 10 columns")
assert values[grid(0).overlap_roi(grid(-15))].shape == (10, 5), "changed: grids that are apart no longer select pixels"
assert values[grid(0).overlap_roi(grid(15))].size == 0
PY
