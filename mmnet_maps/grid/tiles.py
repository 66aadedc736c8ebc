"""Target grids, the lattice of 1024 × 1024 pixel tiles, and the tiles and pixels of a grid."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox, geobox_union_conservative
from odc.geo.gridspec import GridSpec

from mmnet_maps.errors import RequestError, brief
from mmnet_maps.grid.area import Area
from mmnet_maps.grid.lattice import Window
from mmnet_maps.grid.mask import known_crs, outline_in, prepared_outline
from mmnet_maps.grid.polygons import place_crs
from mmnet_maps.grid.positions import SNAP, origin

_PIXELS_AN_HOUR = 1024**2 / 2.8 * 3600  # on two cores, see README.md
DEFAULT_CRS = "EPSG:5070"
DEFAULT_RESOLUTION = 100.0
TILE_PIXELS = 1024
MOST_PIXELS = 2_000_000_000
"""Pixels of a map of an area; CONUS has 1.4 billion at 100 m."""

_TILES = GridSpec(DEFAULT_CRS, (TILE_PIXELS, TILE_PIXELS), DEFAULT_RESOLUTION)
_FIRST_COLUMN, _LAST_ROW = 24, 31
_COLUMNS, _ROWS = 47, 30
# Rows and columns of the tiles that touch the 48 states or their coastal waters (boundaries: U.S. Census, TIGER/Line).
_CONUS = (
    "1:3-8 2:3-13,43-44 3:3-24,43-45 4:2-31,43-46 5:2-32,41-46 6:1-34,39-45 7:1-34,38-44 8:1-34,37-44 "
    "9:0-34,36-44 10:1-43 11:1-42 12:1-41 13:1-41 14:1-41 15:1-41 16:2-41 17:2-41 18:2-40 19:3-39 20:6-38 "
    "21:8-38 22:10-12,14-37 23:15-38 24:15-31,33-38 25:16-17,19-25,27-30,36-39 26:19-24,36-39 "
    "27:20-23,37-39 28:20-22,38-39 29:36-39"
)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """The part of a grid that lies in one tile of 1024 × 1024 pixels.

    Attributes
    ----------
    id
        ``h{col:02d}v{row:02d}``, counted from the north-west corner of CONUS.
    rows, cols
        Rows and columns of the grid.
    geobox
        Their GeoBox.
    """

    id: str
    rows: slice
    cols: slice
    geobox: GeoBox


def _rounded_up(number: float) -> str:
    """Return a number rounded up to two digits."""
    digit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / digit) * digit:g}"


def target_grid(area: Area, *, resolution: float = DEFAULT_RESOLUTION, crs: str = DEFAULT_CRS) -> GeoBox:
    """Return the smallest grid that covers an area.

    Its pixel edges lie on multiples of the resolution from the origin of the CRS.

    Parameters
    ----------
    area
        The area of interest.
    resolution
        Pixel size in the units of `crs`: 1 m to 10 km, or 0.00001 to 0.1 degrees.
    crs
        Any projected or geographic CRS that pyproj can read.

    Returns
    -------
    GeoBox
        North up.

    Raises
    ------
    RequestError
        The CRS is unknown or cannot show the area, the resolution is out of bounds, or the grid is larger than
        `MOST_PIXELS`.

    Examples
    --------
    >>> from mmnet_maps.grid.area import read_aoi
    >>> grid = target_grid(read_aoi("-119.6,47.0,-119.2,47.3"))
    >>> grid.shape, grid.boundingbox.left % 100
    (Shape2d(x=378, y=398), 0.0)
    """
    checked = place_crs(known_crs(crs), "the map grid")
    unit = checked.axis_info[0].unit_conversion_factor
    low, high = (1.0, 1e4) if checked.is_projected else (math.radians(1e-5), math.radians(0.1))
    if not (math.isfinite(resolution) and low <= resolution * unit * (1 + 1e-9) and resolution * unit <= high):
        raise RequestError(
            f"resolution {resolution:g} is not usable with {brief(crs, 60)}; expected {low / unit:g} to "
            f"{high / unit:g} {checked.axis_info[0].unit_name}s"
        )
    outline = outline_in(area, checked)
    left, bottom, right, top = (bound / resolution for bound in outline.bounds)
    if not all(math.isfinite(bound) for bound in (left, bottom, right, top)):
        raise RequestError(
            f"{brief(crs, 60)} cannot show the area {area.name}; expected a CRS for the conterminous United States"
        )
    # An edge within SNAP of a line counts as on it. odc-geo's GeoBox.from_bbox(tol=SNAP) finds the same pixels, but the
    # corner of a grid in degrees differs in its last bit.
    first_col, first_row = math.floor(left + SNAP), math.ceil(top - SNAP)
    cols = max(math.ceil(right - SNAP) - first_col, 1)
    rows = max(first_row - math.floor(bottom + SNAP), 1)
    if cols * rows > MOST_PIXELS:
        coarser = resolution * math.sqrt(cols * rows / MOST_PIXELS)
        raise RequestError(
            f"{area.name} has {cols * rows / 1e9:,.1f} billion pixels at resolution {resolution:g}, about "
            f"{cols * rows / _PIXELS_AN_HOUR:,.0f} hours of computing a day; expected at most {MOST_PIXELS / 1e9:g} "
            f"billion: give --resolution {_rounded_up(coarser)} or more, or a smaller --aoi"
        )
    return _aligned(first_col, first_row, (rows, cols), resolution, crs)


def _aligned(col: int, row: int, shape: tuple[int, int], resolution: float, crs: Any) -> GeoBox:
    """Return the grid whose upper left corner is `col` pixels right of and `row` pixels above the origin of the CRS."""
    return GeoBox(shape, Affine(resolution, 0.0, col * resolution, 0.0, -resolution, row * resolution), crs)


def conus_grid() -> GeoBox:
    """Return the default grid of all of CONUS: 47 × 30 tiles, 48128 × 30720 pixels of 100 m, EPSG:5070.

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
    """Return the tile of the default grid with an id from ``h00v00`` to ``h46v29``.

    Raises
    ------
    RequestError
        The tile does not exist.

    Examples
    --------
    >>> tile_geobox("h06v02").boundingbox
    BoundingBox(left=-1843200.0, bottom=2969600.0, right=-1740800.0, top=3072000.0, crs=CRS('EPSG:5070'))
    """
    found = re.fullmatch(r"h(\d\d)v(\d\d)", tile_id)
    col, row = (int(found[1]), int(found[2])) if found else (-1, -1)
    if not (0 <= col < _COLUMNS and 0 <= row < _ROWS):
        raise RequestError(f"tile {tile_id!r} does not exist; expected h00v00 to h{_COLUMNS - 1}v{_ROWS - 1}, or conus")
    return _TILES.tile_geobox((col - _FIRST_COLUMN, _LAST_ROW - row))


def conus_tiles() -> list[str]:
    """Return the ids of the tiles of the default grid that touch the 48 states or their coastal waters.

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
    """Return the smallest window of the default grid that holds the given whole tiles, and these tiles in it.

    ``conus`` stands for all of `conus_tiles`.

    Raises
    ------
    RequestError
        A tile does not exist, or none is given.

    Examples
    --------
    >>> grid, chosen = grid_of_tiles(["h06v03", "h07v02"])
    >>> grid.shape, [tile.id for tile in chosen]
    (Shape2d(x=2048, y=2048), ['h07v02', 'h06v03'])
    """
    wanted = {text.strip() for text in ids} - {""}
    if "conus" in wanted:
        wanted = (wanted - {"conus"}) | set(conus_tiles())
    boxes = [tile_geobox(one) for one in wanted]
    if not boxes:
        raise RequestError("no tile is given; expected conus, or ids such as h06v03,h06v04")
    grid = geobox_union_conservative(boxes)
    return grid, tuple(tile for tile in tiles(grid) if tile.id in wanted)


def pixel_of(grid: GeoBox, lon: float, lat: float) -> GeoBox:
    """Return the pixel of a grid that holds a point, as a window of one pixel.

    Raises
    ------
    RequestError
        The point is not on the grid.

    Examples
    --------
    >>> pixel_of(conus_grid(), -119.3, 47.1).shape
    Shape2d(x=1, y=1)
    """
    row, col = (int(index) for index in pixels_of(grid, np.array(lon), np.array(lat)))
    if row < 0:
        raise RequestError(f"longitude {lon}, latitude {lat} is not on the grid; expected a place on it, in degrees")
    return grid[row : row + 1, col : col + 1]


def pixels_of(
    grid: GeoBox, lon: NDArray[np.float64], lat: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the row and column of the pixel that holds each of some points; both are −1 off the grid.

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
    """Group pixels of a grid by the square of `size` pixels that they lie in, from the north-west; skip those at −1.

    Yields
    ------
    which : ndarray (n,)
        Indices of the pixels in one square.
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
        A grid whose pixel edges lie on multiples of its resolution, such as one of `target_grid`.

    Returns
    -------
    tuple of Tile
        Together they hold each pixel of the grid once.

    Examples
    --------
    >>> from mmnet_maps.grid.area import read_aoi
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
    """Cover a grid with whole blocks of `size` × `size` pixels that are pinned to the origin of the CRS.

    Values that are computed on whole blocks and then cropped do not depend on the window.

    Yields
    ------
    block : GeoBox
        A whole block; it may reach beyond the grid.
    there, here : tuple of slice
        The shared pixels: their rows and columns in the grid, and in the block.

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
    """Cut `count` pixels at multiples of `size` from the origin, where the first is pixel `first`."""
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


def touched_tiles(area: Area, grid: GeoBox) -> tuple[Tile, ...]:
    """Return the tiles of a grid that an area touches, in the order of `tiles`."""
    import shapely

    outline = prepared_outline(area, grid)
    return tuple(
        tile for tile in tiles(grid) if shapely.intersects(outline, shapely.box(*tile.geobox.boundingbox.bbox))
    )


def stack_lattice(grid: GeoBox) -> GeoBox:
    """Return the lattice of whole tiles for a stack behind maps on `grid`: all of CONUS for the default grid.

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
