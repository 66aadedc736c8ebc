#!/bin/sh
# odc-geo 0.5.3: GeoBox.enclosing(extent) of a grid in another CRS may miss cells that the extent covers.
#
# The natural way to find the cells of a coarse lattice in degrees under a tile in a projected CRS is lattice.enclosing(tile.extent).
# `extent` is a polygon of the four corners, and only these are transformed: an edge that is straight in the projected CRS is curved
# in degrees, and cells in the bulge are left out. A tile of 1024 x 1024 pixels of 100 m in EPSG:5070 near its central meridian
# loses the row of 1/24 degree cells along its northern edge, so that pixels there find no cell; nothing warns. Segmentizing the polygon first
# (extent.segmented(...)) gives all cells. The docstring does not say that edges are taken as straight in the lattice's CRS.
# Seen with numpy 2.3.4, affine 2.4.0, pyproj 3.7.2, shapely 2.1.2, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check odc-geo==0.5.3 numpy==2.3.4 affine==2.4.0 pyproj==3.7.2 shapely==2.1.2
"$work/venv/bin/python" - <<'PY'
import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

lattice = GeoBox((600, 1440), Affine(1 / 24, 0, -125, 0, -1 / 24, 50), "EPSG:4326")
to_degrees = Transformer.from_crs(5070, 4326, always_xy=True)
missed = 0
for top in np.arange(1_500_000, 1_600_000, 500):
    tile = GeoBox((1024, 1024), Affine(100, 0, -51_200, 0, -100, top), "EPSG:5070")
    corners, dense = lattice.enclosing(tile.extent), lattice.enclosing(tile.extent.segmented(1000))
    if corners.boundingbox.top < dense.boundingbox.top - 1e-9:
        missed += 1
        _, north = to_degrees.transform(0, top - 50)
        example = f"pixels reach {north:.4f} N, cells by corners end at {corners.boundingbox.top:.4f}, by dense edges at {dense.boundingbox.top:.4f}"
print(f"{missed} of 200 tiles lose a row of cells; {example if missed else 'none'}")
assert missed > 0, "changed: enclosing transforms more than the corners"
PY
