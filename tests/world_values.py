"""What a stack of the procedural world holds, by the closed formulas alone: for every source that serves that world."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from functools import lru_cache
from typing import Any

import numpy as np

import earthengine_catalog as world
from mmnet_maps.grid.lattice import lonlat
from mmnet_maps.stack.needs import Needs, uses
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import VARIABLES

HLS, LANDSAT = "NASA/HLS/HLSL30/v002", "LANDSAT/LC08/C02/T1_L2"

HALF = 50.0  # metres from the centre of a pixel to its edge
OPTICAL = {"blue": "B2", "green": "B3", "red": "B4", "nir": "B5", "swir1": "B6", "swir2": "B7"}
SOIL = {"clay": "clay", "sand": "sand", "bulk_density": "bd"}


def centres(geobox: Any) -> tuple[np.ndarray, np.ndarray]:
    x = geobox.affine.c + geobox.affine.a * (np.arange(geobox.shape.x) + 0.5)
    y = geobox.affine.f + geobox.affine.e * (np.arange(geobox.shape.y) + 0.5)
    return np.meshgrid(x, y)


def verify(
    stack: Stack,
    grid: Any,
    needs: Needs,
    days: list[date],
    values: Callable[[str, Any, date], tuple[np.ndarray, np.ndarray, float]] | None = None,
) -> dict[str, tuple[int, float]]:
    """Compare everything that maps of a grid may read; return the number of values and the largest difference.

    `values` are those to expect, by default `expected`.
    """
    values = values or expected
    checked: dict[str, tuple[int, float]] = {}
    for group, window, around in uses(stack, grid, needs, days):
        geobox = group.lattice[window]
        for day in around if group.temporal else [days[0]]:
            for name in group.variables:
                found = stack.read(name, window, day)
                low, high, tolerance = values(name, geobox, day)
                sure = np.isfinite(low) & np.isfinite(high)
                nothing = np.isneginf(low)
                assert np.isfinite(found[sure].astype(float)).all(), (name, day)
                if found.dtype != np.uint8:
                    assert np.isnan(found[nothing]).all(), (name, day)
                there = sure & np.isfinite(found.astype(float))
                off = np.maximum(low - found, found - high)[there]
                worst = float(off.max(initial=0.0))
                assert worst <= tolerance, (name, day, worst)
                count, before = checked.get(name, (0, 0.0))
                checked[name] = count + int(sure.sum() + nothing.sum()), max(before, worst)
    return checked


def expected(name: str, geobox: Any, day: date, optics: str = HLS) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the lowest and highest possible value, and the tolerance of both.

    NaN: undecided, as on the edge of a cloud; minus infinity: missing.
    """
    step = 0.51 * VARIABLES[name].scale
    x, y = centres(geobox)
    kind = VARIABLES[name].group
    if name == "smap":
        fields = world.SMAP_FIELDS.get(day, 8)
        value = world.smap_daily(x, y, day) + 0.004 * ((fields - 1) / 2 - 3.5)
        value = np.where((x < world.SMAP_SEA) | (fields < 4) | absent(day), -np.inf, value)
        return value, value, step + 1e-5
    if kind == "weather":
        value = np.where(absent(day), -np.inf, world.weather(x, y, name, day))
        value = np.where(np.isnan(value), -np.inf, value)
        return value, value, step + 1e-4
    if name == "lst":
        good = (world.lst_quality(x, y, day).astype(int) & 0b1010) == 0
        value = np.where(good & ~absent(day), world.lst_counts(x, y, day) * 0.02, -np.inf)
        return value, value, step + 1e-4
    if kind == "optical":
        return (*optical(name, geobox, day, optics), step + 0.0025)
    if kind == "sar":
        return (*radar(name, geobox, day), step + 0.02)
    return static(name, geobox, day)


def absent(day: date) -> np.ndarray:
    return np.array(not world.FIRST <= day <= world.LAST)


def corners(geobox: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield points all over the pixels of a grid, the edges of their neighbours included."""
    x, y = centres(geobox)
    for dx in np.linspace(-1.6 * HALF, 1.6 * HALF, 7):
        for dy in np.linspace(-1.6 * HALF, 1.6 * HALF, 7):
            yield x + dx, y + dy


@lru_cache(maxsize=4)
def seen(dataset: str, index: str, geobox: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return where all of a pixel and its surroundings, and where any of it, is free of cloud in a scene."""
    scene = world.catalog()[dataset].scene(index)
    every, some = np.ones(geobox.shape, bool), np.zeros(geobox.shape, bool)
    for px, py in corners(geobox):
        if "Fmask" in scene.layers:
            good = (np.nan_to_num(scene.stored("Fmask", px, py, "EPSG:5070"), nan=8).astype(int) & 0b1010) == 0
        elif "QA_PIXEL" in scene.layers:
            good = (np.nan_to_num(scene.stored("QA_PIXEL", px, py, "EPSG:5070"), nan=1).astype(int) & 0b11111) == 0
        else:
            good = np.isfinite(scene.stored("VV", px, py, "EPSG:5070"))
        every &= good
        some |= good
    return every, some


def optical(name: str, geobox: Any, day: date, product: str = HLS) -> tuple[np.ndarray, np.ndarray]:
    low = np.full(geobox.shape, -np.inf)
    high = low.copy()
    for scene in world.catalog()[product].on(day):
        zone = int(scene.lattice.crs[-2:])
        every, some = seen(product, scene.index, geobox)
        ux, uy = world.transformer("EPSG:5070", scene.lattice.crs).transform(*centres(geobox))
        value = world.clear_reflectance(OPTICAL[name], ux, uy, zone, scene.start)
        low, high = over(low, high, value, every, some)
    return low, high


def radar(name: str, geobox: Any, day: date) -> tuple[np.ndarray, np.ndarray]:
    low = np.full(geobox.shape, -np.inf)
    high = low.copy()
    for scene in world.catalog()["COPERNICUS/S1_GRD"].on(day):
        both = len(scene.properties["transmitterReceiverPolarisation"]) == 2
        if scene.properties["instrumentMode"] != "IW" or not both:
            continue
        zone = int(scene.lattice.crs[-2:])
        every, some = seen("COPERNICUS/S1_GRD", scene.index, geobox)
        ux, uy = world.transformer("EPSG:5070", scene.lattice.crs).transform(*centres(geobox))
        value = world.smooth_backscatter(name.upper(), ux, uy, zone, scene.start)
        low, high = over(low, high, value, every, some)
    return low, high


def over(
    low: np.ndarray, high: np.ndarray, value: np.ndarray, every: np.ndarray, some: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put a scene on top: certain where all of a pixel is seen, undecided where a part is."""
    unsure = np.where(some, np.nan, 0.0)
    return (np.where(every, value, low + unsure), np.where(every, value, high + unsure))


def static(name: str, geobox: Any, day: date) -> tuple[np.ndarray, np.ndarray, float]:
    lon, lat = lonlat(geobox)
    if name in SOIL:
        value = world.smooth_soil(SOIL[name], lon, lat)
        return value, value, 0.008 * float(value.max())
    if name == "landcover":
        around = [world.landcover_class(px, py, 2021) for px, py in corners(geobox)]
        same = np.all([one == around[0] for one in around], axis=0)
        value = np.where(same, around[0], np.nan)
        return value, value, 0.0
    z = world.elevation(lon.astype(float), lat.astype(float))
    if name == "elevation":
        return z, z, 0.3
    east, north = np.gradient(z, 100.0, axis=1), -np.gradient(z, 100.0, axis=0)
    inner = np.zeros(z.shape, bool)
    inner[1:-1, 1:-1] = True
    if name == "slope":
        value = np.where(inner, np.degrees(np.arctan(np.hypot(east, north))), np.nan)
        return value, value, 0.3
    steep = np.hypot(east, north) > 0.03
    value = np.degrees(np.arctan2(-east, -north)) % 360
    plain = inner & steep & (value > 10) & (value < 350)
    value = np.where(plain, value, np.nan)
    return value, value, 6.0
