"""What the services of `station_services` hold at a station, by closed formulas alone: the columns of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

import open_routes as routes
from mmnet_maps.stack.needs import Needs
from mmnet_maps.variables import VARIABLES
from open_values import TOLERANCE, WEATHER, landcover, tiles
from station_services import BANDS, EVERY
from world_values import SOIL

CONSTANTS = {
    **dict.fromkeys(("blue", "green", "red", "nir", "swir1", "swir2"), 1e-4 * BANDS["hls2-l30"]["B04"][1]),
    "vv": 10 * np.log10(BANDS["sentinel-1-rtc"]["vv"][1]),
    "vh": 10 * np.log10(BANDS["sentinel-1-rtc"]["vh"][1]),
    "lst": 0.02 * BANDS["modis-11A1-061"]["LST_Day_1km"][1],
}
NEAR = 1.0
"""Degrees beyond a scene's square within which its file, a rectangle in a UTM zone, may reach."""

Bounds = tuple[float, float, float]
"""Lowest and highest possible value, NaN where undecided, and the tolerance of both."""


@dataclass
class Checked:
    """Values that were compared, those of them that no formula decides, and the largest difference, by column."""

    values: dict[str, int] = field(default_factory=dict)
    undecided: dict[str, int] = field(default_factory=dict)
    worst: dict[str, float] = field(default_factory=dict)

    def add(self, pixel: GeoBox, days: Sequence[date], columns: Mapping[str, NDArray[Any]], needs: Needs) -> None:
        """Compare the columns of a station with the formulas; AssertionError where one is off."""
        for name, found in columns.items():
            expected = cache(_expected(name, pixel))  # the series of adjacent days share most of theirs
            bounds = np.array([[*map(expected, of_row)] for of_row in rows(name, days, needs)])
            low, high, tolerance = np.moveaxis(bounds.reshape(*found.shape, 3), -1, 0)
            sure = np.isfinite(low) & np.isfinite(high)
            off = np.maximum(low - found, found - high)
            assert (off <= tolerance)[sure].all(), (name, pixel.affine, found[sure], low[sure], high[sure])
            self.values[name] = self.values.get(name, 0) + found.size
            self.undecided[name] = self.undecided.get(name, 0) + int((~sure).sum())
            self.worst[name] = max(self.worst.get(name, 0.0), float(off[sure].max(initial=0.0)))


def rows(name: str, days: Sequence[date], needs: Needs) -> Iterator[Sequence[date]]:
    """Yield the days of the values of each row of a column: its own day, or those of its series."""
    for day in days:
        yield needs.series_days(day) if name in needs.series else [day]


def _expected(name: str, pixel: GeoBox) -> Callable[[date], Bounds]:
    """Return the expected value of a column on a day."""
    if name in ("optical_age", "sar_age"):
        every, size, _ = EVERY["hls2-l30" if name == "optical_age" else "sentinel-1-rtc"]
        return lambda day: (*_ages(pixel, day, every, size), 0.0)
    step = 0.51 * VARIABLES[name].scale
    if name in CONSTANTS:
        return lambda day: (CONSTANTS[name], CONSTANTS[name], step + 1e-4)
    if name == "smap":
        return lambda day: (*_smap(pixel, day), step + 1e-4)
    if name == "landcover":
        return lambda day: (*[float(landcover(pixel, day.year)[0, 0])] * 2, 0.0)
    if VARIABLES[name].group == "weather":
        return lambda day: (*[_weather(WEATHER.get(name, name), pixel, day)] * 2, step + 1e-4)
    value = float(tiles(SOIL.get(name, name), pixel)[0, 0])
    return lambda day: (value, value, step + TOLERANCE[name])


@lru_cache(maxsize=16)
def _place(pixel: GeoBox, crs: str) -> tuple[float, float]:
    """Return the middle of a pixel in another CRS."""
    a = pixel.affine
    x, y = pyproj.Transformer.from_crs("EPSG:5070", crs, always_xy=True).transform(a.c + a.a / 2, a.f + a.e / 2)
    return float(x), float(y)


def _ages(pixel: GeoBox, day: date, every: int, size: int) -> tuple[int, int]:
    """Return the least and most days to the nearest scene: of any square nearby, and of that which holds the pixel."""
    lon, lat = _place(pixel, "OGC:CRS84")

    def age(a: int, b: int) -> int:
        ago = (day.toordinal() + 3 * a + 5 * b) % every
        return min(ago, every - ago)

    near = [
        age(a, b)
        for a in range(int((lon - NEAR) // size), int((lon + NEAR) // size) + 1)
        for b in range(int((lat - NEAR) // size), int((lat + NEAR) // size) + 1)
    ]
    return min(near), age(int(lon // size), int(lat // size))


def _weather(asset: str, pixel: GeoBox, day: date) -> float:
    """Return the value of the cell of gridMET that holds a pixel; NaN within a few metres of an edge of cells."""
    lon, lat = _place(pixel, "OGC:CRS84")
    col, row = (lon - routes.GRIDMET_LON[0]) * 24, (routes.GRIDMET_LAT[0] - lat) * 24
    if max(abs(abs(part - round(part)) - 0.5) < 1e-3 for part in (col, row)):
        return np.nan
    _, scale, offset, _, _ = routes.GRIDMET[asset]
    cell = routes.GRIDMET_LON[[round(col)]], routes.GRIDMET_LAT[[round(row)]]
    return float(routes.gridmet_stored(asset, *cell, day)[0, 0]) * scale + offset


def _smap(pixel: GeoBox, day: date) -> tuple[float, float]:
    """Interpolate between the four cells around a pixel; a missing one has the value of its left or right neighbour."""
    x, y = _place(pixel, "EPSG:6933")
    col, row = (x - routes.EASE_LEFT) / routes.EASE_CELL - 0.5, (routes.EASE_TOP - y) / routes.EASE_CELL - 0.5
    cols, first = np.arange(int(col) - 1, int(col) + 3), np.arange(int(row), int(row) + 2)
    fields = np.mean([routes.smap_values(first, cols, day, step) for step in range(8)], axis=0, dtype=float)
    gap = cols % 13 == 0
    found = []
    for side in (-1, 1):
        filled = np.where(gap, np.roll(fields, -side, axis=1), fields)[:, 1:3]
        right, down = col - int(col), row - int(row)
        across = filled @ [1 - right, right]
        found.append(float(across @ [1 - down, down]))
    return min(found), max(found)
