"""Grids of files: which have the same cells, the grid that spans several, the overlap of two, and reprojection."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.grid.crs import crs_name, same_crs
from mmnet_maps.grid.lattice import Window, cover
from mmnet_maps.sources.files.largest_class import largest_class
from mmnet_maps.sources.terrain import METRES_PER_DEGREE
from mmnet_maps.variables import Variable

_TOLERANCE = 0.01
"""Largest distance, in cells, between the lines of two grids that count as the same."""

_BLOCK, _PIXELS = 256, 4_000_000
"""Side, in pixels, of the blocks that are warped, and the most pixels of a file below one: they bound the memory."""

Item = TypeVar("Item")

Box = tuple[float, float, float, float]
"""West, south, east and north, degrees."""


def _offset(lattice: GeoBox, base: GeoBox) -> tuple[int, int] | None:
    """Return rows and columns from the corner of `base` to that of `lattice`; None where their cells differ."""
    a, b = lattice.affine, base.affine
    row, col = (a.f - b.f) / b.e, (a.c - b.c) / b.a
    drift = abs(a.e / b.e - 1) * lattice.shape.y, abs(a.a / b.a - 1) * lattice.shape.x
    if max(abs(row - round(row)) + drift[0], abs(col - round(col)) + drift[1]) > _TOLERANCE:
        return None
    return (round(row), round(col)) if same_crs(lattice.crs, base.crs, base) else None


def _cells(grid: GeoBox) -> str:
    a = grid.affine
    return f"cells of {a.a:g} from {a.c:.10g}, {a.f:.10g} ({crs_name(grid.crs)})"


def aligned(one: GeoBox, other: GeoBox) -> bool:
    """Return True where two grids have the same cells where they meet.

    Examples
    --------
    >>> from mmnet_maps.grid.tiles import conus_grid
    >>> aligned(conus_grid()[5:8, 40:50], conus_grid()), aligned(conus_grid().zoom_out(2), conus_grid())
    (True, False)
    """
    return _offset(one, other) is not None and _offset(other, one) is not None


def same(one: GeoBox, other: GeoBox) -> bool:
    """Return True where two grids are the same, to within the tolerance."""
    return one.shape == other.shape and _offset(one, other) == (0, 0)


def spanning(lattices: Iterable[GeoBox]) -> GeoBox:
    """Return the smallest grid that holds several aligned grids, with the cells of the first.

    Examples
    --------
    >>> from mmnet_maps.grid.tiles import conus_grid
    >>> spanning([conus_grid()[5:8, 40:50], conus_grid()[:2, 48:60]]) == conus_grid()[:8, 40:60]
    True
    """
    base, *others = lattices
    top, left, bottom, right = 0, 0, base.shape.y, base.shape.x
    for lattice in others:
        offset = _offset(lattice, base)
        assert offset is not None, "grids to span are aligned"
        row, col = offset
        top, left = min(top, row), min(left, col)
        bottom, right = max(bottom, row + lattice.shape.y), max(right, col + lattice.shape.x)
    return GeoBox((bottom - top, right - left), base.affine @ Affine.translation(left, top), base.crs)


def families(items: Iterable[tuple[GeoBox, Item]]) -> list[tuple[GeoBox, list[Item]]]:
    """Group items on aligned grids, in order; each group comes with the grid that spans it."""
    groups: list[list[tuple[GeoBox, Item]]] = []
    for lattice, item in items:
        for group in groups:
            if aligned(lattice, group[0][0]):
                group.append((lattice, item))
                break
        else:
            groups.append([(lattice, item)])
    return [(spanning(lattice for lattice, _ in group), [item for _, item in group]) for group in groups]


def overlap(geobox: GeoBox, lattice: GeoBox) -> tuple[Window, Window] | None:
    """Return the overlap of two aligned grids as a window of each; None where they are apart.

    Raises
    ------
    InputError
        When they are not aligned.

    Examples
    --------
    >>> from mmnet_maps.grid.tiles import conus_grid
    >>> overlap(conus_grid()[5:8, 40:50], conus_grid()[:7, 45:])
    ((slice(0, 2, None), slice(5, 10, None)), (slice(5, 7, None), slice(0, 5, None)))
    """
    offset = _offset(geobox, lattice)
    if offset is None:
        raise InputError(f"{_cells(lattice)}; expected those{_cells(geobox).removeprefix('cells')}")
    shared = []
    for first, size, whole in zip(offset, geobox.shape, lattice.shape, strict=True):
        start, stop = max(first, 0), min(first + size, whole)
        if start >= stop:
            return None
        shared.append((slice(start - first, stop - first), slice(start, stop)))
    (rows, their_rows), (cols, their_cols) = shared
    return (rows, cols), (their_rows, their_cols)


@lru_cache(maxsize=65536)
def meet(geobox: GeoBox, lattice: GeoBox, pad: int) -> bool:
    """Return True where a grid meets another, in any CRS, or lies within `pad` of its cells."""
    try:
        cover(geobox, lattice.pad(pad) if pad else lattice)
    except InputError:
        return False
    return True


@lru_cache(maxsize=4096)
def degrees(geobox: GeoBox) -> Box:
    """Return west, south, east and north of a grid."""
    from rasterio.warp import transform_bounds

    box: Box = transform_bounds(str(geobox.crs), "EPSG:4326", *geobox.boundingbox.bbox)
    return box


def metres(geobox: GeoBox) -> float:
    """Return the cell height in metres, to compare grids."""
    crs: Any = geobox.crs
    unit = METRES_PER_DEGREE if crs.geographic else crs.proj.axis_info[0].unit_conversion_factor
    return float(abs(geobox.affine.e) * unit)


def block_side(lattice: GeoBox, geobox: GeoBox) -> int:
    """Return the side, in pixels of `geobox`, of the blocks to reproject from `lattice`: a power of two."""
    side, cells = _BLOCK, metres(geobox) / metres(lattice)
    while side > 1 and (side * cells) ** 2 > _PIXELS:
        side //= 2
    return side


def empty(variable: Variable, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return an array of missing values: NaN, or 0 of land cover."""
    if variable.dtype == "uint8":
        return np.zeros(shape, np.uint8)
    return np.full(shape, np.nan, np.float32)


def missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which values are missing: NaN, or 0 of land cover."""
    found: NDArray[np.bool_] = values == 0 if values.dtype == np.uint8 else np.isnan(values)
    return found


def reprojected(values: NDArray[Any], lattice: GeoBox, geobox: GeoBox, variable: Variable) -> NDArray[Any]:
    """Bring the values of a lattice to a grid in any CRS.

    Parameters
    ----------
    values
        On the lattice, (y, x).
    lattice, geobox
        The lattice, and the grid.
    variable
        Its aggregation decides: the mean, or the class of the largest area, of the valid cells below a pixel; where
        cells are larger than pixels, bilinear interpolation or the nearest cell.

    Returns
    -------
    ndarray (y, x)
        On the grid, missing where no valid cell contributes.
    """
    from rasterio.warp import Resampling, reproject

    coarse, classes = metres(lattice) > metres(geobox), variable.aggregation == "mode"
    if classes and not coarse:
        return largest_class(values, lattice, geobox)
    finer_or_coarser = (Resampling.average, Resampling.nearest if classes else Resampling.bilinear)
    nodata = 0 if variable.dtype == "uint8" else np.nan
    found = empty(variable, geobox.shape.yx)
    assert geobox.crs is not None
    assert lattice.crs is not None
    reproject(
        values,
        found,
        src_transform=lattice.affine,
        src_crs=lattice.crs.to_wkt(),
        dst_transform=geobox.affine,
        dst_crs=geobox.crs.to_wkt(),
        src_nodata=nodata,
        dst_nodata=nodata,
        resampling=finer_or_coarser[coarse],
        SRC_FILL_RATIO_HEURISTICS="NO",  # GDAL would split rows that lie aslant, and approximate each part by itself
    )
    return found
