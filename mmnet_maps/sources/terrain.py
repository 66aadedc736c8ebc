"""Slope and aspect from elevation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.positions import pixel_centres
from mmnet_maps.sources.base import Provenance, Rasters

METRES_PER_DEGREE = 111_320.0

TERRAIN = ("slope", "aspect")
"""Variables computed from elevation."""


def with_terrain_of(found: Mapping[str, Provenance]) -> dict[str, Provenance]:
    """Add slope and aspect to the variables of a source where it has elevation and not them."""
    derived = dict.fromkeys(TERRAIN, found["elevation"]) if "elevation" in found else {}
    return {**found, **{name: one for name, one in derived.items() if name not in found}}


def slope_aspect(
    elevation: NDArray[np.floating], resolution: float, width: float | NDArray[np.floating] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute slope and aspect by Horn's 3 × 3 weighted differences (Horn, 1981, Proc. IEEE 69, 14-47).

    Parameters
    ----------
    elevation
        Metres, (y + 2, x + 2): the window with a margin of one pixel, north up.
    resolution
        Pixel height in metres.
    width
        Pixel width in metres, where it differs from the height: a number, or one per row as (y, 1).

    Returns
    -------
    slope, aspect : ndarray of float32, (y, x)
        Degrees. Aspect is the direction of steepest descent, clockwise from the grid's north, in [0, 360); 0 where
        flat. NaN where any of the nine elevations is.

    Examples
    --------
    >>> east_facing = np.tile([300.0, 200.0, 100.0], (3, 1))
    >>> slope, aspect = slope_aspect(east_facing, 100.0)
    >>> slope.item(), aspect.item()
    (45.0, 90.0)
    """
    z = elevation.astype(np.float64)
    west = z[:-2, :-2] + 2 * z[1:-1, :-2] + z[2:, :-2]
    east = z[:-2, 2:] + 2 * z[1:-1, 2:] + z[2:, 2:]
    north = z[:-2, :-2] + 2 * z[:-2, 1:-1] + z[:-2, 2:]
    south = z[2:, :-2] + 2 * z[2:, 1:-1] + z[2:, 2:]
    # The centre has no weight, but where it is missing the slope is too.
    eastward = (east - west) / (8 * (resolution if width is None else width)) + 0 * z[1:-1, 1:-1]
    northward = (north - south) / (8 * resolution)
    slope = np.degrees(np.arctan(np.hypot(eastward, northward))).astype(np.float32)
    aspect = (np.degrees(np.arctan2(-eastward, -northward)) % 360).astype(np.float32)
    aspect[(slope == 0) | (aspect == 360)] = 0
    return slope, aspect


def terrain(elevation: NDArray[np.floating], geobox: GeoBox) -> dict[str, NDArray[np.float32]]:
    """Return ``slope`` and ``aspect`` (see `slope_aspect`) of a grid in any CRS.

    On a geographic grid a degree is 111.32 km, times the cosine of the row's latitude eastward.

    Parameters
    ----------
    elevation
        Metres, (y + 2, x + 2): the grid with a margin of one pixel.
    geobox
        The grid.
    """
    height, width = abs(geobox.affine.e), geobox.affine.a
    assert geobox.crs is not None
    if geobox.crs.geographic:
        latitude, _ = pixel_centres(geobox)
        across = width * METRES_PER_DEGREE * np.cos(np.radians(latitude))[:, None]
        slope, aspect = slope_aspect(elevation, height * METRES_PER_DEGREE, across)
    else:
        unit = geobox.crs.proj.axis_info[0].unit_conversion_factor
        slope, aspect = slope_aspect(elevation, height * unit, width * unit)
    return dict(zip(TERRAIN, (slope, aspect), strict=True))


def with_terrain(elevation: Iterable[NDArray[np.float32]], geobox: GeoBox) -> Rasters:
    """Return elevation without its margin, slope and aspect of some days, each (time, y, x).

    Parameters
    ----------
    elevation
        Metres, for each day (y + 2, x + 2): the grid with a margin of one pixel.
    geobox
        The grid.
    """
    layers = [{"elevation": layer[1:-1, 1:-1], **terrain(layer, geobox)} for layer in elevation]
    return {name: np.stack([layer[name] for layer in layers]) for name in layers[0]}
