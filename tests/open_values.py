"""What a stack of the loopback open services holds, by the closed formulas alone, for all of its variables."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter

import earthengine_catalog as world
import open_routes as routes
import world_values
from mmnet_maps.variables import VARIABLES
from world_values import HLS, OPTICAL, SOIL, centres, over

RADAR = "COPERNICUS/S1_GRD"
WEATHER = {"eto": "pet"}
"""Names of gridMET where they are others."""
REACH = 100.0
"""Metres around the centre of a pixel within which a scene is all clear, or all clouded, for a certain value."""
TOLERANCE = {"elevation": 0.05, "clay": 0.03, "sand": 0.03, "bulk_density": 2e-4}

Array = NDArray[Any]
Bounds = tuple[Array, Array, float]
Served = Callable[[world.Scene], bool]


def every_scene(scene: world.Scene) -> bool:
    """Serve all scenes."""
    return True


def few_passes(scene: world.Scene) -> bool:
    """Serve each of two Landsat tiles every 16 days, 8 days apart, and one orbit of Sentinel-1 every 12 days."""
    ago, east = (scene.day - world.FIRST).days, scene.lattice.crs.endswith("11")
    if "Fmask" in scene.layers:
        return ago % 16 == (0 if east else 8)
    return east and ago % 12 == 0


class Expectation:
    """Return the lowest and highest possible value of a variable on a grid and day, and the tolerance of both.

    NaN: undecided, as on the edge of a cloud; minus infinity: missing.

    Parameters
    ----------
    served
        Which optical and radar scenes the services have.
    """

    def __init__(self, served: Served = every_scene) -> None:
        self._served = served

    def __call__(self, name: str, geobox: Any, day: date) -> Bounds:
        kind, step = VARIABLES[name].group, 0.51 * VARIABLES[name].scale
        if name == "lst":
            return world_values.expected(name, geobox, day)
        if kind in ("optical", "sar"):
            low, high = self._scenes(name, kind, geobox, day)
            return low, high, step + (0.0025 if kind == "optical" else 0.02)
        if kind == "weather":
            value = gridmet(WEATHER.get(name, name), geobox, day)
            return value, value, step + 1e-4
        if name == "smap":
            value = smap(geobox, day)
            return value, value, step + 1e-5
        if name == "landcover":
            value = landcover(geobox, day.year)
            return value, value, 0.0
        if name in TOLERANCE:
            value = tiles(SOIL.get(name, name), geobox)
            return value, value, step + TOLERANCE[name]
        value = terrain(name, geobox)
        return value, value, step + (0.01 if name == "slope" else 1.0)

    def _scenes(self, name: str, kind: str, geobox: Any, day: date) -> tuple[Array, Array]:
        """Return the bounds of an optical or radar variable: the last scene of a day is on top."""
        low = np.full(geobox.shape, -np.inf)
        high, dataset = low, HLS if kind == "optical" else RADAR
        for scene in world.catalog()[dataset].on(day):
            both = kind == "optical" or len(scene.properties["transmitterReceiverPolarisation"]) == 2
            if not (self._served(scene) and both and scene.properties.get("instrumentMode", "IW") == "IW"):
                continue
            zone, (x, y) = int(scene.lattice.crs[-2:]), places(geobox, scene.lattice.crs)
            if kind == "optical":
                value = world.clear_reflectance(OPTICAL[name], x, y, zone, scene.start)
            else:
                value = world.smooth_backscatter(name.upper(), x, y, zone, scene.start)
            low, high = over(low, high, value, *clear(dataset, scene.index, geobox))
        return low, high


@lru_cache(maxsize=8)
def places(geobox: Any, crs: str) -> tuple[Array, Array]:
    """Return the centres of the pixels of a grid in another CRS."""
    x, y = pyproj.Transformer.from_crs("EPSG:5070", crs, always_xy=True).transform(*centres(geobox))
    return x, y


@lru_cache(maxsize=2)
def clear(dataset: str, index: str, geobox: Any) -> tuple[Array, Array]:
    """Return where all around a pixel, and where any of it, is seen and free of cloud in a scene."""
    scene = world.catalog()[dataset].scene(index)
    x, y = places(geobox, scene.lattice.crs)
    every, some = np.ones(geobox.shape, bool), np.zeros(geobox.shape, bool)
    for east in (-REACH, 0, REACH):
        for north in (-REACH, 0, REACH):
            if dataset == HLS:
                good = (np.nan_to_num(scene.stored("Fmask", x + east, y + north), nan=8).astype(int) & 0b1010) == 0
            else:
                good = scene.lattice.snap(x + east, y + north)[2]
            every &= good
            some |= good
    return every, some


def gridmet(asset: str, geobox: Any, day: date) -> Array:
    """Return what gridMET has in its cells."""
    x, y = centres(geobox)
    lon = routes.GRIDMET_LON[np.rint((x[0] - routes.GRIDMET_LON[0]) * 24).astype(int)]
    lat = routes.GRIDMET_LAT[np.rint((routes.GRIDMET_LAT[0] - y[:, 0]) * 24).astype(int)]
    stored = routes.gridmet_stored(asset, lon, lat, day)
    _, scale, offset, _, _ = routes.GRIDMET[asset]
    return np.where(stored == 32767, -np.inf, stored * scale + offset)


def smap(geobox: Any, day: date) -> Array:
    """Return the mean of the eight fields of a day."""
    x, y = centres(geobox)
    cols = np.floor((x[0] - routes.EASE_LEFT) / routes.EASE_CELL).astype(int)
    rows = np.floor((routes.EASE_TOP - y[:, 0]) / routes.EASE_CELL).astype(int)
    fields = np.array([routes.smap_values(rows, cols, day, step) for step in range(8)], float)
    return np.where(fields[0] == -9999, -np.inf, fields.mean(axis=0))


def landcover(geobox: Any, year: int) -> Array:
    """Return the class of the largest area, NaN where it is not clear which; 0 where there is none.

    Classes change at multiples of 90 and 150 metres, off by half of a native pixel: a pixel holds parts of up to three
    by two of their blocks.
    """
    affine, (height, width) = geobox.affine, geobox.shape
    east, wide = _spans(affine.c + 100.0 * np.arange(width), 90.0, 3)
    south, high = _spans(affine.f - 100.0 * np.arange(1, height + 1), 150.0, 2)
    parts = []
    for k in range(3):
        for n in range(2):
            codes = routes.nlcd_codes(east[k] * 90.0, south[n] * 150.0, year)
            parts.append((codes, np.where(codes == 250, 0, high[n][:, None] * wide[k][None, :])))
    areas = [sum(np.where(codes == other, area, 0) for other, area in parts) for codes, _ in parts]
    best = np.max(areas, axis=0)
    value = np.zeros(geobox.shape)
    for (codes, _), area in zip(parts, areas, strict=True):
        value = np.where(area == best, codes, value)
    rival = np.max([np.where(codes == value, 0, area) for (codes, _), area in zip(parts, areas, strict=True)], axis=0)
    value = np.where(best > 0, value, 0.0)
    return np.where((best > 0) & (best - rival < 50.0), np.nan, value)


def _spans(starts: Array, size: float, most: int) -> tuple[list[Array], list[Array]]:
    """Return the numbers of the blocks that intervals of 100 m meet, and the metres of each."""
    first = np.floor((starts + 15) / size)
    numbers = [first + k for k in range(most)]
    metres = [
        np.clip(np.minimum(starts + 100, (number + 1) * size - 15) - np.maximum(starts, number * size - 15), 0, None)
        for number in numbers
    ]
    return numbers, metres


def tiles(kind: str, geobox: Any) -> Array:
    """Return a value of tiles: missing in strips, undecided at their edges."""
    lon, lat = places(geobox, "OGC:CRS84")
    across = 0.14  # hundredths of a degree: half of a pixel's diagonal, and a native pixel
    there = lon * 100 % 7
    strip = (there > across) & (there < 0.5 - across)
    free = (there > 0.5 + across) & (there < 7 - across)
    middle, half = routes.TILES[kind]
    value = middle + half * routes.wave(lon * 40, lat * 40, None, len(kind))
    return np.where(free, value, np.where(strip, -np.inf, np.nan))


def terrain(name: str, geobox: Any) -> Array:
    """Return slope or aspect where all pixels around have an elevation, undecided elsewhere."""
    z = tiles("elevation", geobox)
    known = minimum_filter(np.isfinite(z), 3, mode="constant", cval=False)
    z = np.where(np.isfinite(z), z, 0)
    east, north = np.gradient(z, 100.0, axis=1), -np.gradient(z, 100.0, axis=0)
    if name == "slope":
        return np.where(known, np.degrees(np.arctan(np.hypot(east, north))), np.nan)
    aspect = np.degrees(np.arctan2(-east, -north)) % 360
    return np.where(known & (np.hypot(east, north) > 0.01) & (aspect > 3) & (aspect < 357), aspect, np.nan)
