"""Files side by side: which grids have the same cells, the grid that spans several, and what a window takes of each."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeVar

from affine import Affine
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import Window, cover
from mmnet_maps.sources.terrain import METRES_PER_DEGREE

_TOLERANCE = 0.01
"""Grids are the same where their lines are nowhere further apart than this share of a cell."""

Item = TypeVar("Item")


def _offset(lattice: GeoBox, base: GeoBox) -> tuple[int, int] | None:
    """Rows and columns from the corner of `base` to that of `lattice`; None where their cells are not the same."""
    a, b = lattice.affine, base.affine
    if lattice.crs != base.crs:
        return None
    row, col = (a.f - b.f) / b.e, (a.c - b.c) / b.a
    drift = abs(a.e / b.e - 1) * lattice.shape.y, abs(a.a / b.a - 1) * lattice.shape.x
    if max(abs(row - round(row)) + drift[0], abs(col - round(col)) + drift[1]) > _TOLERANCE:
        return None
    return round(row), round(col)


def aligned(one: GeoBox, other: GeoBox) -> bool:
    """Whether two grids have the same cells where they meet.

    Examples
    --------
    >>> from mmnet_maps.grid.tiles import conus_grid
    >>> aligned(conus_grid()[5:8, 40:50], conus_grid()), aligned(conus_grid().zoom_out(2), conus_grid())
    (True, False)
    """
    return _offset(one, other) is not None and _offset(other, one) is not None


def same(one: GeoBox, other: GeoBox) -> bool:
    """Whether two grids are the same."""
    return one.shape == other.shape and _offset(one, other) == (0, 0)


def spanning(lattices: Iterable[GeoBox]) -> GeoBox:
    """The smallest grid with the cells of the first that holds all of some aligned grids.

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
        assert offset is not None, "only aligned grids are spanned"
        row, col = offset
        top, left = min(top, row), min(left, col)
        bottom, right = max(bottom, row + lattice.shape.y), max(right, col + lattice.shape.x)
    return GeoBox((bottom - top, right - left), base.affine @ Affine.translation(left, top), base.crs)


def families(items: Iterable[tuple[GeoBox, Item]]) -> list[tuple[GeoBox, list[Item]]]:
    """Put together what lies on aligned grids, in order, each group with the grid that spans it."""
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
    """What two aligned grids share, as a window of either; None where they are apart.

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
        raise InputError(
            f"cells of {lattice.affine.a:g} from {lattice.affine.c:.10g}, {lattice.affine.f:.10g} ({lattice.crs}) are "
            f"not those of {geobox.affine.a:g} from {geobox.affine.c:.10g}, {geobox.affine.f:.10g} ({geobox.crs})"
        )
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
    """Whether a grid meets another, in any CRS, or comes within `pad` of its cells."""
    try:
        cover(geobox, lattice.pad(pad) if pad else lattice)
    except InputError:
        return False
    return True


def metres(geobox: GeoBox) -> float:
    """Cell height in metres, to compare grids by."""
    crs: Any = geobox.crs
    unit = METRES_PER_DEGREE if crs.geographic else crs.proj.axis_info[0].unit_conversion_factor
    return float(abs(geobox.affine.e) * unit)
