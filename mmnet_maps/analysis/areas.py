"""Areas of pixels and polygons on the ellipsoid, whatever their CRS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.analysis.zone_io import EDGE_DEGREES, moved

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

_EQUAL_AREA = "EPSG:6933"  # cylindrical: meridians and parallels stay lines, so pixels stay rectangles
_EDGE_METRES = 1000.0  # longer edges are split, so that they bend
_DISTORTION = 1e-4  # of areas, below which a CRS counts as equal-area


def polygon_areas(polygons: NDArray[Any], grid: GeoBox) -> Floats:
    """Return the area of every polygon in the CRS of a grid, m²."""
    import shapely

    unit = _metres(grid)
    if is_equal_area(grid):
        return np.asarray(shapely.area(polygons) * unit**2)
    edge = _EDGE_METRES / unit if _projected(grid) else EDGE_DEGREES
    return np.asarray(shapely.area(moved(shapely.segmentize(polygons, edge), grid.crs, _EQUAL_AREA)))


def pixel_areas(grid: GeoBox, equal: bool) -> Floats:
    """Return the area of every pixel of a grid, row by row, m²; `equal` is `is_equal_area` of the whole grid."""
    height, width = grid.shape
    if equal:
        return np.full(height * width, abs(grid.affine.a * grid.affine.e) * _metres(grid) ** 2)
    return _true_areas(grid, np.arange(height)[:, None], np.arange(width)).ravel()


def _true_areas(grid: GeoBox, rows: Numbers, cols: Numbers) -> Floats:
    """Return the area on the ellipsoid of pixels at rows and columns that broadcast, m²."""
    import pyproj

    move = pyproj.Transformer.from_crs(grid.crs, _EQUAL_AREA, always_xy=True)
    rows, cols = np.broadcast_arrays(rows, cols)
    to = grid.affine  # north up
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = (
        move.transform(to.c + to.a * (cols + right), to.f + to.e * (rows + down))
        for right, down in ((0, 0), (1, 0), (1, 1), (0, 1))
    )
    return np.asarray(np.abs((cx - ax) * (dy - by) - (dx - bx) * (cy - ay)) / 2)


def is_equal_area(grid: GeoBox) -> bool:
    """Return whether areas in the CRS of a grid are those on the ellipsoid, at 25 pixels all over it."""
    if not _projected(grid):
        return False
    rows, cols = (np.unique(np.linspace(0, size - 1, 5).astype(np.int64)) for size in grid.shape)
    true = _true_areas(grid, rows[:, None], cols)
    drawn = abs(grid.affine.a * grid.affine.e) * _metres(grid) ** 2
    return bool((np.abs(true / drawn - 1) < _DISTORTION).all())


def _projected(grid: GeoBox) -> bool:
    import pyproj

    return bool(pyproj.CRS.from_user_input(grid.crs).is_projected)


def _metres(grid: GeoBox) -> float:
    """Return the unit of a projected CRS, m."""
    import pyproj

    return float(pyproj.CRS.from_user_input(grid.crs).axis_info[0].unit_conversion_factor)
