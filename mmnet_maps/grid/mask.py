"""The pixels of a grid that belong to an area."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import RequestError
from mmnet_maps.grid.area import Area, transform_geometry
from mmnet_maps.grid.polygons import LONLAT, shown
from mmnet_maps.grid.positions import lines, pixel_centres

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

_EDGE_DEGREES = 0.01
_BLOCK = 64


def known_crs(crs: str) -> Any:
    """Return the pyproj CRS of a map grid.

    Raises
    ------
    RequestError
        The CRS is unknown, or neither projected nor geographic with two axes.
    """
    import pyproj

    try:
        checked = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        raise RequestError(f"CRS {shown(crs)!r} is not known; expected one such as EPSG:5070 or EPSG:32611") from error
    if not (checked.is_projected or checked.is_geographic) or len(checked.axis_info) != 2:
        raise RequestError(
            f"CRS {shown(crs)} is not a map grid; expected a projected or geographic CRS such as EPSG:5070"
        )
    return checked


@lru_cache(maxsize=16)
def outline_in(area: Area, crs: Any) -> BaseGeometry:
    """Return the outline of an area in a CRS; edges follow the straight lines in longitude and latitude.

    Calls and threads share it, so it must not be prepared: use `prepared_outline` for many queries.
    """
    import shapely

    return transform_geometry(shapely.segmentize(area.geometry, _EDGE_DEGREES), LONLAT, crs)


def prepared_outline(area: Area, grid: GeoBox) -> BaseGeometry:
    """Return a new copy of an area's outline in the CRS of a grid, prepared for many queries in one thread.

    GEOS keeps the state of a query in a prepared geometry, so that two threads that share one crash the process.
    """
    import shapely

    outline = shapely.force_2d(outline_in(area, known_crs(str(grid.crs))))  # a copy
    shapely.prepare(outline)
    return outline


def holds_a_centre(area: Area, grid: GeoBox) -> bool:
    """Return True if the centre of any pixel of a grid lies in an area.

    If none does, the area takes the pixels it touches: call this once, with the whole grid, and pass
    ``touched=not holds_a_centre(area, grid)`` to `area_mask` for every window.
    """
    step = 16 * _BLOCK
    return any(
        area_mask(area, grid[row : row + step, col : col + step]).any()
        for row in range(0, grid.shape.y, step)
        for col in range(0, grid.shape.x, step)
    )


def area_mask(area: Area, geobox: GeoBox, *, touched: bool = False) -> NDArray[np.bool_]:
    """Return the mask of the pixels that belong to an area; the mask of a window is the window of the mask.

    Parameters
    ----------
    area
        The area.
    geobox
        The grid or a window of it.
    touched
        False: the pixels whose centre lies inside the area and not in a hole. True: the pixels that the area overlaps,
        for areas too small to hold a centre (see `holds_a_centre`).

    Returns
    -------
    ndarray of bool, (y, x)

    Examples
    --------
    >>> from mmnet_maps.grid.area import read_aoi
    >>> from mmnet_maps.grid.tiles import target_grid
    >>> area = read_aoi("-119.6,47.0,-119.2,47.3")
    >>> grid = target_grid(area)
    >>> round(float(area_mask(area, grid).mean()), 2)
    0.67
    """
    import shapely

    outline = prepared_outline(area, geobox)
    mask = np.zeros(geobox.shape, bool)
    rows = np.minimum(np.arange(0, geobox.shape.y + _BLOCK, _BLOCK), geobox.shape.y).astype(float)
    cols = np.minimum(np.arange(0, geobox.shape.x + _BLOCK, _BLOCK), geobox.shape.x).astype(float)
    blocks = _boxes(geobox, rows, cols)
    whole, some = shapely.contains_properly(outline, blocks), shapely.intersects(outline, blocks)
    y, x = pixel_centres(geobox)
    for i, j in np.argwhere(some):
        down, right = slice(int(rows[i]), int(rows[i + 1])), slice(int(cols[j]), int(cols[j + 1]))
        if whole[i, j]:
            mask[down, right] = True
        elif touched:
            edges = (np.arange(part.start, part.stop + 1.0) for part in (down, right))
            pixels = _boxes(geobox, *edges)
            mask[down, right] = shapely.intersects(outline, pixels) & ~shapely.touches(outline, pixels)
        else:
            mask[down, right] = shapely.contains_xy(outline, x[None, right], y[down, None])
    return mask


def _boxes(geobox: GeoBox, rows: NDArray[np.floating], cols: NDArray[np.floating]) -> NDArray[Any]:
    """Return the rectangles between the given pixel positions as a 2-D array of polygons."""
    import shapely

    y, x = lines(geobox, rows, axis=0), lines(geobox, cols, axis=1)
    boxes: NDArray[Any] = shapely.box(x[None, :-1], y[1:, None], x[None, 1:], y[:-1, None])
    return boxes
