"""The synthetic world's atlas: coasts, ranges, waters and climate of a continent like CONUS, from coarse sketches.

Longitudes and latitudes are good to about a tenth of a degree; everything finer is noise by position.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.sources.demo.noise import Coordinates, Field, spline_sum, spline_taps

LonLat = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A ridge, river, lake or region, drawn as a line with a width.

    Attributes
    ----------
    points
        Vertices in degrees.
    width
        Half-width in metres.
    value
        What the line carries, in the unit of its list.
    """

    points: tuple[LonLat, ...]
    width: float
    value: float = 1.0

    def distance2(self, x: Coordinates, y: Coordinates) -> NDArray[np.float64]:
        """Return the squared distance in m² from places in EPSG:5070 to the line."""
        vertices = projected(self.points)
        best = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf)
        ends = pairwise(vertices if len(vertices) > 1 else np.repeat(vertices, 2, axis=0))
        for (ax, ay), (bx, by) in ends:
            dx, dy = bx - ax, by - ay
            length2 = max(dx * dx + dy * dy, 1.0)
            along = np.clip(((x - ax) * dx + (y - ay) * dy) / length2, 0.0, 1.0)
            np.minimum(best, (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2, out=best)
        return best

    def within(self, bounds: tuple[float, float, float, float], reach: float) -> bool:
        """Return True if the line's bounding box comes within `reach` metres of (left, bottom, right, top)."""
        x, y = projected(self.points).T
        left, bottom, right, top = bounds
        return bool(
            x.max() > left - reach and x.min() < right + reach and y.max() > bottom - reach and y.min() < top + reach
        )


@cache
def projected(points: tuple[LonLat, ...]) -> NDArray[np.float64]:
    """Return the vertices (n, 2) in EPSG:5070 metres."""
    from pyproj import Transformer

    lon, lat = np.array(points).T
    return np.stack(Transformer.from_crs(4326, 5070, always_xy=True).transform(lon, lat), axis=1)


OUTLINE: tuple[LonLat, ...] = (
    *((-123.2, 51.0), (-123.0, 49.1), (-122.7, 48.7), (-122.6, 48.0), (-123.3, 48.1), (-124.7, 48.35), (-124.1, 46.9)),
    *((-124.0, 46.2), (-124.05, 44.6), (-124.55, 42.85), (-124.1, 41.5), (-124.35, 40.4), (-123.75, 39.0)),
    *((-122.5, 37.75), (-121.95, 36.6), (-120.65, 35.1), (-120.5, 34.45), (-119.2, 34.1), (-118.4, 33.75)),
    *((-117.25, 32.85), (-116.9, 31.5), (-115.0, 31.7), (-112.5, 29.8), (-109.8, 27.0), (-108.0, 25.0), (-97.6, 24.5)),
    *((-97.2, 26.0), (-97.4, 27.3), (-96.5, 28.35), (-95.0, 29.1), (-94.0, 29.65), (-92.0, 29.55), (-91.0, 29.2)),
    *((-89.3, 29.0), (-89.4, 30.2), (-88.0, 30.35), (-86.3, 30.4), (-85.4, 29.7), (-84.2, 30.05), (-83.0, 29.1)),
    *((-82.7, 27.9), (-81.8, 26.2), (-81.1, 25.15), (-80.3, 25.3), (-80.05, 26.8), (-80.6, 28.3), (-81.3, 29.9)),
    *((-81.3, 31.3), (-80.5, 32.3), (-79.2, 33.2), (-77.9, 33.95), (-76.5, 34.65), (-75.5, 35.25), (-75.95, 36.7)),
    *((-75.1, 38.4), (-74.1, 39.7), (-74.0, 40.5), (-72.5, 40.85), (-71.4, 41.4), (-70.6, 41.5), (-69.95, 41.8)),
    *((-70.65, 42.3), (-70.7, 43.1), (-69.8, 43.8), (-68.2, 44.3), (-67.0, 44.8), (-65.5, 45.3), (-65.0, 51.0)),
)
"""Land: CONUS and enough of its neighbours that no border cuts a tile."""

RANGES: tuple[Line, ...] = (
    Line(
        points=((-121.2, 49.6), (-121.3, 48.3), (-121.6, 46.6), (-121.8, 44.5), (-122.3, 41.2)), width=42e3, value=1150
    ),
    Line(points=((-121.0, 40.2), (-119.6, 38.0), (-118.4, 36.2)), width=42e3, value=1900),
    Line(points=((-123.6, 47.8),), width=28e3, value=1100),
    Line(points=((-123.6, 46.3), (-123.9, 42.5), (-123.3, 40.8), (-122.7, 38.8)), width=28e3, value=500),
    Line(points=((-121.5, 36.5), (-119.5, 34.7), (-117.0, 34.2)), width=24e3, value=900),
    Line(points=((-119.8, 48.7), (-117.6, 48.6), (-116.0, 48.0), (-114.2, 45.7)), width=52e3, value=700),
    Line(points=((-118.8, 44.9), (-117.5, 45.3)), width=38e3, value=900),
    Line(points=((-115.0, 44.2),), width=80e3, value=900),
    Line(points=((-113.9, 49.0), (-112.6, 47.0)), width=42e3, value=900),
    Line(points=((-110.3, 45.3), (-109.6, 43.2)), width=48e3, value=1100),
    Line(points=((-107.3, 44.6), (-107.0, 44.0)), width=26e3, value=1200),
    Line(points=((-111.6, 42.0), (-111.7, 39.4), (-112.5, 37.8)), width=28e3, value=900),
    Line(points=((-111.0, 40.75), (-109.6, 40.75)), width=24e3, value=1100),
    Line(points=((-106.2, 41.2), (-105.8, 39.2), (-105.5, 36.0)), width=46e3, value=1300),
    Line(points=((-107.4, 37.8),), width=60e3, value=1300),
    Line(points=((-111.8, 35.0), (-109.0, 33.6)), width=45e3, value=600),
    Line(points=((-117.2, 38.8),), width=90e3, value=350),
    Line(points=((-115.3, 40.6), (-115.3, 38.5)), width=30e3, value=800),
    Line(points=((-103.7, 44.1),), width=30e3, value=700),
    Line(points=((-94.5, 35.8), (-92.0, 36.2)), width=70e3, value=220),
    Line(points=((-84.0, 35.1), (-81.8, 36.6), (-79.8, 38.6), (-77.0, 41.0)), width=50e3, value=650),
    Line(points=((-74.2, 44.1),), width=48e3, value=550),
    Line(points=((-72.9, 43.0), (-71.4, 44.2), (-69.2, 45.7)), width=42e3, value=450),
    Line(points=((-120.2, 46.81), (-119.35, 46.80)), width=3200, value=430),
    Line(points=((-119.95, 46.99), (-119.45, 46.96)), width=3000, value=170),
    Line(points=((-120.1, 47.33), (-119.55, 47.36)), width=4200, value=300),
)
"""Mountains: half-width and height above the smooth base, m."""

WATERS: tuple[Line, ...] = (
    Line(points=((-117.63, 49.2), (-118.11, 48.6), (-118.35, 47.95), (-118.95, 47.97)), width=650, value=280),
    Line(points=((-118.95, 47.97), (-119.64, 47.99), (-119.83, 48.09), (-119.98, 47.80)), width=380, value=160),
    Line(points=((-119.98, 47.80), (-120.25, 47.60), (-120.30, 47.42), (-120.09, 47.33)), width=380, value=170),
    Line(points=((-120.09, 47.33), (-120.0, 47.2), (-119.985, 46.94)), width=750, value=190),
    Line(points=((-119.985, 46.94), (-119.95, 46.83), (-119.93, 46.66), (-119.72, 46.64)), width=480, value=180),
    Line(
        points=((-119.72, 46.64), (-119.47, 46.69), (-119.27, 46.5), (-119.25, 46.25), (-118.98, 46.06)),
        width=420,
        value=160,
    ),
    Line(
        points=((-118.98, 46.06), (-119.35, 45.93), (-121.18, 45.61), (-122.7, 45.63), (-123.0, 46.1), (-124.0, 46.2)),
        width=750,
        value=150,
    ),
    Line(
        points=((-119.0, 46.2), (-118.0, 46.6), (-117.03, 46.42), (-116.75, 45.4), (-117.0, 44.2)), width=280, value=250
    ),
    Line(
        points=((-117.0, 44.2), (-116.9, 43.7), (-114.45, 42.6), (-112.6, 42.9), (-111.9, 43.6)), width=200, value=120
    ),
    Line(points=((-120.5, 46.6), (-119.8, 46.25), (-119.25, 46.25)), width=120, value=80),
    Line(points=((-119.34, 47.16), (-119.30, 47.11), (-119.36, 47.06)), width=900, value=15),
    Line(points=((-119.31, 47.11), (-119.24, 47.13)), width=450, value=10),
    Line(points=((-119.40, 47.00), (-119.31, 46.99), (-119.27, 47.03)), width=2000, value=15),
    Line(points=((-119.30, 47.62), (-119.18, 47.76), (-119.03, 47.93)), width=700, value=110),
    Line(points=((-119.41, 47.38), (-119.47, 47.50), (-119.34, 47.60)), width=420, value=90),
    Line(points=((-119.27, 47.44), (-119.24, 47.48)), width=420, value=40),
    Line(points=((-119.40, 46.97), (-119.55, 46.88), (-119.93, 46.83)), width=70, value=60),
    Line(points=((-118.9, 47.36), (-119.25, 47.32), (-119.33, 47.16)), width=60, value=35),
    Line(points=((-112.0, 46.5), (-111.2, 47.6), (-108.0, 47.7), (-104.0, 48.0), (-101.5, 47.6)), width=250, value=80),
    Line(
        points=((-101.5, 47.6), (-100.6, 45.8), (-100.3, 44.3), (-98.0, 42.8), (-96.2, 41.2), (-94.6, 39.1)),
        width=350,
        value=60,
    ),
    Line(points=((-94.6, 39.1), (-92.2, 38.6), (-90.2, 38.8)), width=350, value=50),
    Line(points=((-93.2, 45.0), (-91.2, 43.8), (-90.2, 41.6), (-91.3, 40.2), (-90.2, 38.7)), width=500, value=60),
    Line(
        points=(
            (-90.2, 38.7),
            (-89.2, 37.0),
            (-90.0, 35.1),
            (-91.1, 33.0),
            (-91.4, 31.0),
            (-90.1, 29.95),
            (-89.3, 29.0),
        ),
        width=800,
        value=25,
    ),
    Line(
        points=(
            (-80.0, 40.45),
            (-81.7, 39.2),
            (-82.6, 38.4),
            (-84.5, 39.1),
            (-86.0, 38.0),
            (-87.6, 37.9),
            (-89.2, 37.0),
        ),
        width=400,
        value=60,
    ),
    Line(points=((-83.9, 36.0), (-85.3, 35.0), (-87.7, 34.8), (-88.1, 36.5), (-88.6, 37.05)), width=500, value=50),
    Line(
        points=((-106.4, 39.9), (-108.6, 39.1), (-110.0, 38.2), (-111.5, 37.0), (-112.5, 36.2), (-114.7, 36.1)),
        width=180,
        value=500,
    ),
    Line(points=((-114.7, 36.1), (-114.6, 34.8), (-114.5, 33.5), (-114.8, 32.5), (-115.0, 31.7)), width=250, value=120),
    Line(
        points=(
            (-106.6, 37.6),
            (-106.6, 35.1),
            (-107.0, 33.0),
            (-106.4, 31.7),
            (-103.2, 29.1),
            (-101.0, 29.6),
            (-99.5, 27.5),
            (-97.2, 26.0),
        ),
        width=120,
        value=80,
    ),
    Line(
        points=((-105.0, 38.3), (-102.0, 38.1), (-97.3, 37.7), (-95.9, 36.1), (-92.3, 34.7), (-91.1, 33.9)),
        width=180,
        value=40,
    ),
    Line(points=((-104.8, 40.4), (-102.0, 41.0), (-99.0, 40.7), (-96.0, 41.05)), width=180, value=30),
    Line(points=((-122.3, 40.6), (-121.7, 39.0), (-121.5, 38.4), (-122.3, 38.0)), width=180, value=15),
    Line(points=((-119.7, 36.9), (-120.9, 37.2), (-121.5, 38.0)), width=120, value=10),
    Line(points=((-73.6, 43.3), (-73.75, 42.0), (-74.0, 40.7)), width=400, value=60),
    Line(points=((-76.5, 39.3), (-76.3, 38.2), (-76.1, 37.0)), width=9000, value=5),
    Line(points=((-91.0, 46.95), (-88.5, 47.6), (-86.0, 47.2)), width=62e3, value=20),
    Line(points=((-87.2, 42.2), (-87.0, 44.0), (-86.2, 45.4)), width=52e3, value=20),
    Line(points=((-82.2, 43.7), (-82.6, 45.1)), width=60e3, value=20),
    Line(points=((-82.9, 41.75), (-79.4, 42.65)), width=27e3, value=15),
    Line(points=((-79.2, 43.45), (-76.8, 43.6)), width=27e3, value=15),
    Line(points=((-112.6, 41.4), (-112.2, 40.9)), width=20e3, value=10),
    Line(points=((-120.03, 39.08),), width=13e3, value=60),
    Line(points=((-80.8, 26.95),), width=24e3, value=2),
)
"""Rivers and lakes: half-width, and how deep their valleys are cut, m."""

IRRIGATED: tuple[Line, ...] = (
    Line(points=((-119.2, 46.5), (-119.4, 47.0), (-119.6, 47.22)), width=34e3),
    Line(points=((-120.5, 46.5), (-119.9, 46.3)), width=16e3),
    Line(points=((-116.8, 43.7), (-114.5, 42.7), (-112.4, 43.3)), width=38e3),
    Line(points=((-122.0, 39.8), (-121.2, 37.9), (-119.4, 35.6)), width=45e3),
    Line(points=((-115.5, 32.9),), width=32e3),
    Line(points=((-112.3, 33.1),), width=40e3),
    Line(points=((-99.5, 41.5), (-100.8, 38.5), (-101.8, 36.0), (-102.0, 33.8)), width=110e3),
    Line(points=((-106.0, 37.6),), width=32e3),
    Line(points=((-104.4, 40.4), (-103.0, 40.6)), width=40e3),
    Line(points=((-91.0, 35.5), (-90.8, 33.5)), width=45e3),
)
"""Land with canals or wells: half-width."""

_LONGITUDES, _LATITUDES = (-125.0, 2.5), (50.0, -3.0)
_ELEVATION = """
0 4 7 9 13 12 9 8 7 6 5 3 4 4 3 3 2 2 2 2 2 2 3 2
0 2 4 6 12 14 12 9 8 7 5 4 4 4 3 2 2 2 2 1 2 3 3 1
1 3 11 11 16 18 18 15 13 9 6 4 3 3 3 2 2 2 2 2 3 3 2 0
0 4 13 14 16 17 20 20 17 11 7 4 3 2 2 2 3 3 4 4 2 1 0 0
0 1 3 14 17 18 17 21 20 11 7 4 3 2 2 2 2 4 5 1 0 0 0 0
0 0 1 7 9 16 17 17 17 12 7 4 3 2 1 2 3 4 2 0 0 0 0 0
0 0 0 1 3 6 11 14 12 9 6 3 1 1 1 1 1 1 0 0 0 0 0 0
0 0 0 0 2 5 12 13 13 7 3 1 0 0 0 0 0 0 0 0 0 0 0 0
0 0 0 0 1 3 9 12 11 6 1 0 0 0 0 0 0 0 0 0 0 0 0 0
"""
_RAIN = """
25 15 3 5 7 4 3 4 4 4 5 5 6 7 8 8 8 8 8 9 9 10 11 11
25 17 -4 4 9 4 3 4 4 4 4 5 6 7 8 8 8 8 8 9 10 10 11 12
20 14 1 3 4 4 3 4 4 4 5 6 7 8 9 9 9 9 9 10 10 11 12 12
12 9 3 2 3 4 2 3 4 5 6 7 9 9 9 10 10 10 11 11 12 12 12 12
9 6 5 2 2 3 2 3 4 5 6 8 10 11 11 12 12 11 11 11 12 12 12 12
5 4 3 1 1 3 2 3 4 5 6 9 11 13 14 14 14 13 12 12 12 12 12 12
3 3 3 2 1 2 3 3 3 4 5 8 11 14 15 15 13 12 12 12 12 12 12 12
2 2 2 2 1 2 3 3 4 5 6 9 13 15 16 16 15 13 13 13 13 13 13 13
2 2 2 2 2 2 3 3 4 5 6 8 12 14 15 15 14 14 14 14 14 14 14 14
"""


@cache
def _sheet(text: str) -> Field:
    """Parse a table in hundreds into an array (latitude, longitude) in ones."""
    return np.array([[float(word) for word in line.split()] for line in text.split("\n") if line], np.float32) * 100


def base_elevation(lon: Coordinates, lat: Coordinates) -> Field:
    """Return smooth elevation without mountains, m."""
    return _interpolated(_sheet(_ELEVATION), lon, lat)


def annual_rain(lon: Coordinates, lat: Coordinates) -> Field:
    """Return the mean annual precipitation of the lowlands, mm.

    Examples
    --------
    >>> bool(annual_rain(np.array([-119.5]), np.array([47.2]))[0] < 400)
    True
    """
    return np.maximum(_interpolated(_sheet(_RAIN), lon, lat), np.float32(60.0))


def _interpolated(sheet: Field, lon: Coordinates, lat: Coordinates) -> Field:
    """Interpolate the sheet's entries by a cubic B-spline, constant beyond its edge."""
    i, wx = spline_taps(np.clip((lon - _LONGITUDES[0]) / _LONGITUDES[1], 0, sheet.shape[1] - 1.001))
    j, wy = spline_taps(np.clip((lat - _LATITUDES[0]) / _LATITUDES[1], 0, sheet.shape[0] - 1.001))
    result: Field = spline_sum(np.pad(sheet, 2, mode="edge"), i + 2, j + 2, wx, wy)
    return result
