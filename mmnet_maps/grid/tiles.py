"""Grids: from an area to a target grid, its tiles, its mask, and the cells of coarse lattices under its pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import RequestError
from mmnet_maps.grid.area import LONLAT, Area, parse_days, read_aoi, transform_geometry
from mmnet_maps.grid.lattice import (
    SNAP,
    Window,
    cover,
    fractional_cells,
    lines,
    lonlat,
    nearest_cells,
    origin,
    pixel_centres,
    window_of,
)

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

__all__ = [
    "DEFAULT_CRS",
    "DEFAULT_RESOLUTION",
    "TILE_PIXELS",
    "Area",
    "Tile",
    "Window",
    "area_mask",
    "conus_grid",
    "conus_tiles",
    "cover",
    "fractional_cells",
    "grid_of_tiles",
    "holds_a_centre",
    "lonlat",
    "nearest_cells",
    "parse_days",
    "pinned_blocks",
    "pixel_centres",
    "pixel_of",
    "read_aoi",
    "stack_lattice",
    "target_grid",
    "tile_geobox",
    "tiles",
    "touched_tiles",
    "window_of",
]

DEFAULT_CRS = "EPSG:5070"
DEFAULT_RESOLUTION = 100.0
TILE_PIXELS = 1024

_FIRST_COLUMN, _LAST_ROW = 24, 31
_COLUMNS, _ROWS = 47, 30
# Rows and columns of the tiles that touch the 48 states and their coastal waters (boundaries: U.S. Census, TIGER/Line).
_CONUS = (
    "1:3-8 2:3-13,43-44 3:3-24,43-45 4:2-31,43-46 5:2-32,41-46 6:1-34,39-45 7:1-34,38-44 8:1-34,37-44 "
    "9:0-34,36-44 10:1-43 11:1-42 12:1-41 13:1-41 14:1-41 15:1-41 16:2-41 17:2-41 18:2-40 19:3-39 20:6-38 "
    "21:8-38 22:10-12,14-37 23:15-38 24:15-31,33-38 25:16-17,19-25,27-30,36-39 26:19-24,36-39 "
    "27:20-23,37-39 28:20-22,38-39 29:36-39"
)
_EDGE_DEGREES = 0.01
_BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A piece of a grid that lies in one 1024 × 1024 pixel tile of the lattice.

    Attributes
    ----------
    id
        ``h{col:02d}v{row:02d}``, counted from the north-west corner of CONUS.
    rows, cols
        Where the piece lies in the grid that was cut.
    geobox
        The piece itself.
    """

    id: str
    rows: slice
    cols: slice
    geobox: GeoBox


def target_grid(area: Area, *, resolution: float = DEFAULT_RESOLUTION, crs: str = DEFAULT_CRS) -> GeoBox:
    """The smallest grid that covers an area, its pixel edges on multiples of the resolution from the CRS's origin.

    Parameters
    ----------
    area
        The area of interest.
    resolution
        Pixel size in the units of `crs`: 1 m to 10 km, or the like in degrees.
    crs
        Anything pyproj knows as a projected or geographic CRS.

    Returns
    -------
    GeoBox
        North up.

    Raises
    ------
    RequestError
        When the CRS is unknown or cannot show the area, or the resolution is out of bounds.

    Examples
    --------
    >>> grid = target_grid(read_aoi("-119.6,47.0,-119.2,47.3"))
    >>> grid.shape, grid.boundingbox.left % 100
    (Shape2d(x=378, y=398), 0.0)
    """
    checked = _check_crs(crs)
    unit = checked.axis_info[0].unit_conversion_factor
    low, high = (1.0, 1e4) if checked.is_projected else (math.radians(1e-5), math.radians(0.1))
    if not (math.isfinite(resolution) and low <= resolution * unit * (1 + 1e-9) and resolution * unit <= high):
        raise RequestError(
            f"resolution {resolution:g} is not usable with {crs}; expected {low / unit:g} to {high / unit:g} "
            f"{checked.axis_info[0].unit_name}s"
        )
    outline = _outline(area, checked)
    left, bottom, right, top = (bound / resolution for bound in outline.bounds)
    if not all(math.isfinite(bound) for bound in (left, bottom, right, top)):
        raise RequestError(f"{crs} cannot show the area {area.name}; expected a CRS for the conterminous United States")
    # An edge within a thousandth of a pixel of a line is on it: reprojection moves by less.
    first_col, first_row = math.floor(left + SNAP), math.ceil(top - SNAP)
    cols = max(math.ceil(right - SNAP) - first_col, 1)
    rows = max(first_row - math.floor(bottom + SNAP), 1)
    return _aligned(first_col, first_row, (rows, cols), resolution, crs)


def _check_crs(crs: str) -> Any:
    import pyproj

    try:
        checked = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        raise RequestError(f"CRS {crs!r} is not known; expected one such as EPSG:5070 or EPSG:32611") from error
    if not (checked.is_projected or checked.is_geographic) or len(checked.axis_info) != 2:
        raise RequestError(f"CRS {crs} is not a map grid; expected a projected or geographic CRS such as EPSG:5070")
    return checked


def _aligned(col: int, row: int, shape: tuple[int, int], resolution: float, crs: Any) -> GeoBox:
    """The grid whose upper left corner is `col`, `row` pixels right and up from the origin of the CRS."""
    from affine import Affine

    return GeoBox(shape, Affine(resolution, 0.0, col * resolution, 0.0, -resolution, row * resolution), crs)


def _outline(area: Area, crs: Any) -> BaseGeometry:
    """The area in a CRS, its edges densified so that they bend as straight edges in longitude and latitude do."""
    return _outline_of_thread(area, crs, get_ident())


@lru_cache(maxsize=16)
def _outline_of_thread(area: Area, crs: Any, thread: int) -> BaseGeometry:
    """One geometry a thread: a prepared one builds its index when it is first asked, which two threads must not do."""
    import shapely

    outline = transform_geometry(shapely.segmentize(area.geometry, _EDGE_DEGREES), LONLAT, crs)
    shapely.prepare(outline)
    return outline


def conus_grid() -> GeoBox:
    """The default grid of the whole of CONUS: 47 × 30 tiles, 48128 × 30720 pixels of 100 m, EPSG:5070.

    Examples
    --------
    >>> conus_grid().shape
    Shape2d(x=48128, y=30720)
    """
    return _aligned(
        -_FIRST_COLUMN * TILE_PIXELS,
        (_LAST_ROW + 1) * TILE_PIXELS,
        (_ROWS * TILE_PIXELS, _COLUMNS * TILE_PIXELS),
        DEFAULT_RESOLUTION,
        DEFAULT_CRS,
    )


def tile_geobox(tile_id: str) -> GeoBox:
    """The whole tile of the default grid with an id from ``h00v00`` to ``h46v29``.

    Raises
    ------
    RequestError
        When there is no such tile.

    Examples
    --------
    >>> tile_geobox("h06v02").boundingbox
    BoundingBox(left=-1843200.0, bottom=2969600.0, right=-1740800.0, top=3072000.0, crs=CRS('EPSG:5070'))
    """
    found = re.fullmatch(r"h(\d\d)v(\d\d)", tile_id)
    col, row = (int(found[1]), int(found[2])) if found else (-1, -1)
    if not (0 <= col < _COLUMNS and 0 <= row < _ROWS):
        raise RequestError(f"tile {tile_id!r} does not exist; expected h00v00 to h{_COLUMNS - 1}v{_ROWS - 1}, or conus")
    return conus_grid()[
        row * TILE_PIXELS : (row + 1) * TILE_PIXELS,
        col * TILE_PIXELS : (col + 1) * TILE_PIXELS,
    ]


def conus_tiles() -> list[str]:
    """Ids of the tiles of the default grid that touch CONUS or its coastal waters.

    Examples
    --------
    >>> ids = conus_tiles()
    >>> len(ids), ids[0], ids[-1]
    (869, 'h03v01', 'h39v29')
    """
    return [
        f"h{col:02d}v{int(row):02d}"
        for row, spans in (line.split(":") for line in _CONUS.split())
        for first, last in (span.split("-") for span in spans.split(","))
        for col in range(int(first), int(last) + 1)
    ]


def grid_of_tiles(ids: Sequence[str]) -> tuple[GeoBox, tuple[Tile, ...]]:
    """The smallest window of the default grid that holds some whole tiles, and these tiles of it.

    ``conus`` stands for all of `conus_tiles`.

    Raises
    ------
    RequestError
        When there is no such tile, or none is given.

    Examples
    --------
    >>> grid, pieces = grid_of_tiles(["h06v03", "h07v02"])
    >>> grid.shape, [tile.id for tile in pieces]
    (Shape2d(x=2048, y=2048), ['h07v02', 'h06v03'])
    """
    wanted = {text.strip() for text in ids} - {""}
    if "conus" in wanted:
        wanted = (wanted - {"conus"}) | set(conus_tiles())
    boxes = [tile_geobox(one).boundingbox for one in wanted]
    if not boxes:
        raise RequestError("no tile is given; expected conus, or ids such as h06v03,h06v04")
    west, south = min(box.left for box in boxes), min(box.bottom for box in boxes)
    east, north = max(box.right for box in boxes), max(box.top for box in boxes)
    size = DEFAULT_RESOLUTION
    grid = _aligned(
        round(west / size),
        round(north / size),
        (round((north - south) / size), round((east - west) / size)),
        size,
        DEFAULT_CRS,
    )
    return grid, tuple(tile for tile in tiles(grid) if tile.id in wanted)


def pixel_of(grid: GeoBox, lon: float, lat: float) -> GeoBox:
    """The pixel of a grid that holds a point, as a window of one pixel.

    Raises
    ------
    RequestError
        When the point is not on the grid.

    Examples
    --------
    >>> pixel_of(conus_grid(), -119.3, 47.1).shape
    Shape2d(x=1, y=1)
    """
    row, col = (int(index) for index in pixels_of(grid, np.array(lon), np.array(lat)))
    if row < 0:
        raise RequestError(f"longitude {lon}, latitude {lat} is not on the grid; expected a place in it, in degrees")
    return grid[row : row + 1, col : col + 1]


def pixels_of(
    grid: GeoBox, lon: NDArray[np.float64], lat: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of the pixels of a grid that hold some points, of the shape of both; −1 in both off the grid.

    Examples
    --------
    >>> rows, cols = pixels_of(conus_grid(), np.array([-119.3, 10.0]), np.array([47.1, 50.0]))
    >>> rows.tolist(), cols.tolist()
    ([3812, -1], [6977, -1])
    """
    from pyproj import Transformer

    x, y = Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True).transform(lon, lat)
    col, row = ~grid.affine * (np.asarray(x), np.asarray(y))
    on = (col >= 0) & (col < grid.shape.x) & (row >= 0) & (row < grid.shape.y)
    return np.where(on, row, -1).astype(np.intp), np.where(on, col, -1).astype(np.intp)


def pixel_groups(
    grid: GeoBox, rows: NDArray[np.intp], cols: NDArray[np.intp], size: int = TILE_PIXELS
) -> Iterator[tuple[NDArray[np.intp], Window]]:
    """Pixels of a grid by the square of `size` pixels that they lie in, from the north-west; those at −1 in none.

    Yields
    ------
    which : ndarray (n,)
        Which of the pixels.
    window : tuple of slice
        The smallest window of the grid that holds them.

    Examples
    --------
    >>> groups = pixel_groups(conus_grid(), np.array([5, 2000, -1, 9]), np.array([8, 8, -1, 3]))
    >>> for which, (down, right) in groups:
    ...     print(which, down, right)
    [0 3] slice(5, 10, None) slice(3, 9, None)
    [1] slice(2000, 2001, None) slice(8, 9, None)
    """
    square = (rows // size) * (grid.shape.x // size + 1) + cols // size
    order = np.argsort(square, kind="stable")
    order = order[rows[order] >= 0]
    for which in np.split(order, np.flatnonzero(np.diff(square[order])) + 1):
        if which.size:
            yield which, (_span(rows[which]), _span(cols[which]))


def _span(index: NDArray[np.intp]) -> slice:
    return slice(int(index.min()), int(index.max()) + 1)


def tiles(grid: GeoBox) -> tuple[Tile, ...]:
    """Cut a grid along the lattice of 1024 × 1024 pixel tiles, row by row from the north-west.

    Parameters
    ----------
    grid
        A grid whose pixel edges lie on multiples of its resolution, as `target_grid` makes it.

    Returns
    -------
    tuple of Tile
        Together they hold every pixel of the grid once.

    Examples
    --------
    >>> [tile.id for tile in tiles(target_grid(read_aoi("-119.6,47.0,-119.2,47.3")))]
    ['h06v03']
    """
    col, row = _whole_origin(grid)
    return tuple(
        Tile(
            id=f"h{tile_col + _FIRST_COLUMN:02d}v{_LAST_ROW + 1 + tile_row:02d}",
            rows=rows,
            cols=cols,
            geobox=grid[rows, cols],
        )
        for tile_row, rows in _cuts(-row, grid.shape.y, TILE_PIXELS)
        for tile_col, cols in _cuts(col, grid.shape.x, TILE_PIXELS)
    )


def pinned_blocks(grid: GeoBox, size: int) -> Iterator[tuple[GeoBox, Window, Window]]:
    """Whole blocks of `size` × `size` pixels, pinned to the origin of the CRS, that cover a grid.

    What is computed on whole blocks and cropped does not depend on the window that is asked for.

    Yields
    ------
    block : GeoBox
        A whole block; it may reach beyond the grid.
    there, here : tuple of slice
        The pixels they share: rows and columns of the grid, and of the block.

    Examples
    --------
    >>> for block, there, here in pinned_blocks(conus_grid()[250:260, :10], 256):
    ...     print(block.shape, there[0], here[0])
    Shape2d(x=256, y=256) slice(0, 6, None) slice(250, 256, None)
    Shape2d(x=256, y=256) slice(6, 10, None) slice(0, 4, None)
    """
    col, row = _whole_origin(grid)
    for down, rows in _cuts(-row, grid.shape.y, size):
        for right, cols in _cuts(col, grid.shape.x, size):
            block = _aligned(right * size, -down * size, (size, size), grid.affine.a, grid.crs)
            yield block, (rows, cols), (_shift(rows, -row - down * size), _shift(cols, col - right * size))


def _cuts(first: int, count: int, size: int) -> Iterator[tuple[int, slice]]:
    """Cut `count` pixels, the first of which is pixel `first` from the origin, at multiples of `size`."""
    for number in range(first // size, (first + count - 1) // size + 1):
        start = number * size - first
        yield number, slice(max(start, 0), min(start + size, count))


def _shift(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def _whole_origin(geobox: GeoBox) -> tuple[int, int]:
    col, row = origin(geobox)
    assert col is not None, "map grids lie on multiples of their resolution"
    assert row is not None, "map grids lie on multiples of their resolution"
    return col, row


def holds_a_centre(area: Area, grid: GeoBox) -> bool:
    """Whether the centre of any pixel of a grid lies in an area; if none does, it takes the pixels it touches.

    Ask it of the whole grid, once, and pass the answer to `area_mask` for every window.
    """
    step = 16 * _BLOCK
    return any(
        area_mask(area, grid[row : row + step, col : col + step]).any()
        for row in range(0, grid.shape.y, step)
        for col in range(0, grid.shape.x, step)
    )


def area_mask(area: Area, geobox: GeoBox, *, touched: bool = False) -> NDArray[np.bool_]:
    """Which pixels belong to an area; a window's mask is the window of the mask.

    Parameters
    ----------
    area
        The area.
    geobox
        The grid or a window of it.
    touched
        False: the pixels whose centre lies inside the area, not in its holes. True: the pixels the area overlaps,
        for areas too small to hold a centre (see `holds_a_centre`).

    Returns
    -------
    ndarray of bool, (y, x)

    Examples
    --------
    >>> area = read_aoi("-119.6,47.0,-119.2,47.3")
    >>> grid = target_grid(area)
    >>> round(float(area_mask(area, grid).mean()), 2)
    0.67
    """
    import shapely

    outline = _outline(area, _check_crs(str(geobox.crs)))
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
    """Rectangles between the given pixel positions, as a 2-D array of polygons."""
    import shapely

    y, x = lines(geobox, rows, axis=0), lines(geobox, cols, axis=1)
    boxes: NDArray[Any] = shapely.box(x[None, :-1], y[1:, None], x[None, 1:], y[:-1, None])
    return boxes


def touched_tiles(area: Area, grid: GeoBox) -> tuple[Tile, ...]:
    """The tiles of a grid that an area touches, in the order of `tiles`."""
    import shapely

    outline = _outline(area, _check_crs(str(grid.crs)))
    return tuple(
        tile for tile in tiles(grid) if shapely.intersects(outline, shapely.box(*tile.geobox.boundingbox.bbox))
    )


def stack_lattice(grid: GeoBox) -> GeoBox:
    """The lattice of whole tiles that a stack for maps of `grid` lies on: all of CONUS for the default grid.

    Examples
    --------
    >>> stack_lattice(conus_grid()[7:900, 2000:2100]) == conus_grid()
    True
    """
    whole = conus_grid()
    if grid.crs == whole.crs and grid.affine.a == whole.affine.a:
        return whole
    col, row = _whole_origin(grid)
    left, top = col // TILE_PIXELS, -row // TILE_PIXELS
    right, bottom = -(-(col + grid.shape.x) // TILE_PIXELS), -(-(grid.shape.y - row) // TILE_PIXELS)
    return _aligned(
        left * TILE_PIXELS,
        -top * TILE_PIXELS,
        ((bottom - top) * TILE_PIXELS, (right - left) * TILE_PIXELS),
        grid.affine.a,
        grid.crs,
    )
