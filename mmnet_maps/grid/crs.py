"""Coordinate reference systems: a short name for messages, in place of WKT, and which spellings mean the same."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import brief

_LONGEST = 60
"""Most characters of a name: a message may hold two."""

_TOLERANCE = 0.01
"""Coordinates in two spellings of a CRS differ by less than this share of a cell."""

_SHARES = np.array([0.1, 0.37, 0.64, 0.9])
"""Where, along either side of a grid, points are compared."""

_NAMELESS = ("unknown", "unnamed", "undefined", "")


def crs_name(crs: Any) -> str:
    """Return a short name of a CRS: its code, its PROJ string, or its name and parameters; never WKT.

    Parameters
    ----------
    crs
        A text that pyproj reads, a CRS of odc-geo or pyproj, or None.

    Examples
    --------
    >>> import pyproj
    >>> crs_name("EPSG:5070"), crs_name(pyproj.CRS("EPSG:5070").to_wkt()), crs_name(None)
    ('EPSG:5070', 'EPSG:5070', 'no CRS')
    >>> crs_name(pyproj.CRS("+proj=lcc +lat_1=25 +lat_2=60 +lat_0=42.5 +lon_0=-100").to_wkt())
    'Lambert Conic Conformal (2SP) (42.5, -100, 25, 60, 0, 0)'
    """
    return "no CRS" if crs is None else _named(str(crs))


def same_crs(one: Any, other: Any, grid: GeoBox) -> bool:
    """Return True where two CRSs mean the same coordinates on a grid, however they are spelled.

    EPSG codes, WKT of either version, PROJ strings and CF attributes of one CRS differ in names, order of axes, and in
    whether the datum is named or only its ellipsoid: a few points of the grid decide. The results are kept.

    Parameters
    ----------
    one, other
        CRSs as text, or of odc-geo or pyproj.
    grid
        A grid whose coordinates may be meant in either.

    Examples
    --------
    >>> from mmnet_maps.grid.tiles import conus_grid
    >>> same_crs("EPSG:5070", "+proj=aea +lat_0=23 +lon_0=-96 +lat_1=29.5 +lat_2=45.5 +ellps=GRS80", conus_grid())
    True
    >>> same_crs("EPSG:5070", "EPSG:6933", conus_grid())
    False
    """
    if one is other or str(one) == str(other):
        return True
    a = grid.affine
    return _same(str(one), str(other), (a.c, a.f, a.a, a.e, *grid.shape.yx))


@lru_cache(maxsize=4096)
def _same(one: str, other: str, grid: tuple[float, ...]) -> bool:
    import pyproj

    left, top, width, height, rows, cols = grid
    x, y = (part.ravel() for part in np.meshgrid(left + width * cols * _SHARES, top + height * rows * _SHARES))
    try:
        there = pyproj.Transformer.from_crs(one, other, always_xy=True).transform(x, y)
    except pyproj.exceptions.ProjError:
        return False
    distance = np.maximum(abs(there[0] - x) / abs(width), abs(there[1] - y) / abs(height))
    known = np.isfinite(distance)
    return bool(known.any() and distance[known].max() <= _TOLERANCE)


@lru_cache(maxsize=256)
def _named(crs: str) -> str:
    import pyproj

    if "[" not in crs:
        return brief(crs.removesuffix(" +type=crs").removesuffix(" +no_defs"), _LONGEST)
    try:
        found = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError:
        return "an unreadable CRS"
    name = found.name if found.name.lower() not in _NAMELESS else ""
    # PROJ compares a CRS without a name with all that it knows, which takes seconds.
    code = found.to_authority(min_confidence=100) if name else None
    if code:
        return ":".join(code)
    operation = found.coordinate_operation
    if operation is None:
        return brief(name or f"an unnamed {found.type_name}", _LONGEST)
    numbers = ", ".join(f"{parameter.value:.10g}" for parameter in operation.params)
    return brief(f"{name or operation.method_name} ({numbers})", _LONGEST)
