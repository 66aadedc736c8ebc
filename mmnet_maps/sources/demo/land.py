"""The synthetic world's ground: terrain, water, climate, soils, land cover and fields, all by position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.sources.demo.geography import (
    IRRIGATED,
    OUTLINE,
    RANGES,
    WATERS,
    Line,
    annual_rain,
    base_elevation,
)
from mmnet_maps.sources.demo.noise import (
    Coordinates,
    Field,
    Positions,
    ramp,
    spline_noise,
    spline_sum,
    spline_taps,
    uniform,
)

NODE = 400.0
"""Pitch in metres of the lattice, pinned to the origin of EPSG:5070, on which the smooth part of the ground is kept."""

_FAR = 20e3
_TOWN_CELL = 15e3


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The smooth part of the ground at some places.

    Attributes
    ----------
    lon, lat
        Degrees, float64.
    base
        Elevation without its finest relief, m.
    rough
        Amplitude of that finest relief, m.
    shore
        Distance to the nearest mapped river or lake, m; negative in the water.
    coast
        Distance to the sea, m; negative at sea.
    creek, creek_width
        Tributaries run where ``|creek| < creek_width``.
    rain, temperature
        Annual precipitation, mm, and mean temperature, °C.
    irrigable, town
        Shares in [0, 1] of irrigable land and of built-up land (≤ 0 outside towns).
    clay, sand
        Percent.
    """

    lon: Coordinates
    lat: Coordinates
    base: Field
    rough: Field
    shore: Field
    coast: Field
    creek: Field
    creek_width: Field
    rain: Field
    temperature: Field
    irrigable: Field
    town: Field
    clay: Field
    sand: Field

    @property
    def aridity(self) -> Field:
        """Precipitation over potential evapotranspiration (a linear function of temperature)."""
        return aridity(self.rain, self.temperature)


class LazyGround(Ground):
    """The ground with each field computed on first use: groups of the world differ in those that they need.

    Parameters
    ----------
    compute
        Returns the field of a name.
    """

    _compute: Callable[[str], NDArray[Any]]

    def __init__(self, compute: Callable[[str], NDArray[Any]]) -> None:
        vars(self)["_compute"] = compute

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name not in Ground.__dataclass_fields__:
            raise AttributeError(name)
        found: NDArray[Any] = vars(self).setdefault(name, self._compute(name))
        return found

    def inner(self) -> LazyGround:
        """Return the ground without the outermost rows and columns."""
        return LazyGround(lambda name: getattr(self, name)[1:-1, 1:-1])


class GroundNodes:
    """The ground on the nodes around some places, for interpolation between them."""

    def __init__(self, places: Positions, seed: int, margin: float = 2400.0) -> None:
        self.i0, i1 = _span(places.x, margin)
        self.j0, j1 = _span(places.y, margin)
        nodes = Positions(
            x=np.arange(self.i0, i1, dtype=np.float64)[None, :] * NODE,
            y=np.arange(self.j0, j1, dtype=np.float64)[:, None] * NODE,
        )
        self._ground = ground(nodes, seed)

    def at(self, places: Positions) -> LazyGround:
        """Interpolate by a cubic B-spline, which leaves no creases in slopes."""
        i, wx = spline_taps(places.x / NODE)
        j, wy = spline_taps(places.y / NODE)
        i, j = i - self.i0, j - self.j0
        return LazyGround(lambda name: spline_sum(getattr(self._ground, name), i, j, wx, wy))

    @property
    def lonlat(self) -> tuple[Coordinates, Coordinates]:
        """Longitude and latitude of the nodes, degrees."""
        return self._ground.lon, self._ground.lat

    def clipped(self, places: Positions) -> Positions:
        """Move places beyond the nodes to the nearest place that the nodes reach."""
        rows, columns = self._ground.base.shape
        return Positions(
            x=np.clip(places.x, (self.i0 + 1) * NODE, (self.i0 + columns - 3) * NODE),
            y=np.clip(places.y, (self.j0 + 1) * NODE, (self.j0 + rows - 3) * NODE),
        )


def ground(places: Positions, seed: int) -> Ground:
    """Return the ground at places, from the atlas and noise.

    Parameters
    ----------
    places
        Places in EPSG:5070.
    seed
        The world.
    """
    lon, lat = lonlat(places)
    warp_x = 1100 * spline_noise(places, 11e3, seed + 1) + 420 * spline_noise(places, 3.6e3, seed + 2)
    warp_y = 1100 * spline_noise(places, 11e3, seed + 3) + 420 * spline_noise(places, 3.6e3, seed + 4)
    warped = Positions(x=places.x + warp_x, y=places.y + warp_y)
    mountains = _kernel_sum(RANGES, warped)
    smooth = base_elevation(lon, lat)
    rough, relief, creek = _relief(places, warped, mountains, smooth, seed)
    shore, valley, cut = _waters(warped, seed)
    coast = np.clip(_outline_distance(places), -60e3, 60e3) + 3 * (warp_x + warp_y)
    lowered = 1 - valley
    base = (smooth + (mountains + relief) * lowered - cut) * ramp(coast, 0, 6e4) ** np.float32(0.5)
    # No peak rises above 4300 m.
    base = np.clip(base, 0, 2800) + 1500 * np.tanh(np.maximum(base - 2800, 0) / 1500)
    rain = annual_rain(lon, lat) * (1 + mountains / 1400 + 0.1 * spline_noise(places, 45e3, seed + 5))
    temperature = 27 - 0.72 * (lat - 25) - 4.5 * ramp(lon, -112, -97) * ramp(lat, 33, 46) - 0.0055 * base
    lakes = spline_noise(places, 15e3, seed + 6)
    creek_width = 0.008 * ramp(rain, 350, 800) - 0.004 + 0.05 * ramp(lakes, 1.45, 2.2)
    sand = 46 + 11 * spline_noise(places, 90e3, seed + 7) + 6 * spline_noise(places, 14e3, seed + 8)
    sand += 9 * ramp(rain, 600, 200)
    clay = 24 + 6 * spline_noise(places, 70e3, seed + 9) - 0.3 * (sand - 46) - 4 * ramp(rain, 600, 200)
    irrigable = np.clip(_kernel_sum(IRRIGATED, warped) * 2.2, 0, 1) * ramp(
        spline_noise(places, 11e3, seed + 10), -1.3, -0.1
    )
    single = (base, rough * (0.25 + 0.75 * lowered), shore, coast, creek, creek_width, rain, temperature, irrigable)
    names = ("base", "rough", "shore", "coast", "creek", "creek_width", "rain", "temperature", "irrigable")
    values = {name: np.asarray(value, np.float32) for name, value in zip(names, single, strict=True)}
    town = _towns(places, seed)
    return Ground(lon=lon, lat=lat, town=town, clay=clay.astype(np.float32), sand=sand.astype(np.float32), **values)


def aridity(rain: Field, temperature: Field) -> Field:
    """Return annual precipitation, mm, over potential evapotranspiration, a linear function of temperature, °C."""
    result: Field = (rain / np.maximum(60 * temperature + 360, 120)).astype(np.float32)
    return result


def surface_elevation(places: Positions, at: Ground, seed: int) -> Field:
    """Return the elevation at places, m: that of the ground and the finest relief."""
    fine = np.abs(spline_noise(places, 800.0, seed + 51))
    fine += np.float32(0.35) * spline_noise(places, 330.0, seed + 52)
    fine -= np.float32(0.8)
    fine *= at.rough
    fine *= ramp(at.shore, 0, 500)
    fine += at.base
    fine[at.coast < 0] = 0
    return fine


def gradient(elevation: Field, step: tuple[Field, float]) -> tuple[Field, Field]:
    """Return rise over run to the east and north by Horn's (1981) 3 × 3 weights.

    Parameters
    ----------
    elevation
        (rows + 2, columns + 2), m.
    step
        Metres east per column (one per row, or one for all), and north per row (negative where north is up).
    """
    z = elevation
    two = np.float32(2)
    across: Field = z[:-2] + two * z[1:-1] + z[2:]
    down: Field = z[:, :-2] + two * z[:, 1:-1] + z[:, 2:]
    east = (across[:, 2:] - across[:, :-2]) / (np.float32(8) * step[0])
    north = (down[2:] - down[:-2]) * np.float32(1 / (8 * step[1]))
    return east, north


def aspect(east: Field, north: Field) -> Field:
    """Return the direction of steepest descent, degrees clockwise from north in [0, 360); 0 where flat.

    Examples
    --------
    >>> aspect(np.float32([0, -1, 1, 0]), np.float32([-1, 0, 0, 0])).tolist()
    [0.0, 90.0, 270.0, 0.0]
    """
    angle: Field = np.degrees(np.arctan2(-east, -north)) % np.float32(360)
    angle[(east == 0) & (north == 0)] = 0
    angle[angle >= 360] = 0
    return angle


def lonlat(places: Positions) -> tuple[Coordinates, Coordinates]:
    """Return longitude and latitude in degrees of places in EPSG:5070."""
    x, y = np.broadcast_arrays(places.x, places.y)
    lon, lat = transformer(5070, 4326)(x, y)
    return np.asarray(lon, np.float64), np.asarray(lat, np.float64)


@cache
def transformer(source: int, target: int) -> Callable[..., Any]:
    """Return the transformation of x and y (longitude first) between two EPSG codes."""
    from pyproj import Transformer

    return Transformer.from_crs(source, target, always_xy=True).transform


def _relief(
    places: Positions, warped: Positions, mountains: Field, smooth: Field, seed: int
) -> tuple[Field, Field, Field]:
    """Return valleys of four orders, each weaker on the floors of the larger ones, as running water forms them.

    Returns the amplitude of still finer relief, the relief in m, and the noise whose zeros are the valley lines.
    """
    size = 70 + 0.6 * mountains + 110 * ramp(smooth, 900, 1600)
    size *= 0.55 + 0.45 * ramp(smooth, 50, 350)
    size = np.minimum(size * (1 + 0.35 * spline_noise(places, 80e3, seed + 11)), 800)
    creek = spline_noise(warped, 26e3, seed + 12)
    # A power below one cuts the valleys into flat uplands.
    first = (creek * creek + 0.002) ** np.float32(0.36)
    second = np.sqrt(spline_noise(warped, 10e3, seed + 13) ** 2 + 0.004)
    third = np.sqrt(spline_noise(warped, 4.2e3, seed + 14) ** 2 + 0.006)
    fourth = np.abs(spline_noise(warped, 1.9e3, seed + 15))
    height = 0.62 * first + 0.42 * second * np.minimum(1.3 * first + 0.12, 1)
    height += 0.32 * third * np.minimum(1.5 * first * second + 0.15, 1)
    height += 0.20 * fourth * np.minimum(2 * first * second * third + 0.12, 1)
    relief = 1.4 * size * (np.minimum(height, 0.6 * height + 0.6) - 0.80)
    rough = 0.10 * size * np.minimum(0.2 + first * second, 1.2)
    return rough.astype(np.float32), relief.astype(np.float32), creek


def _waters(warped: Positions, seed: int) -> tuple[Field, Field, Field]:
    """Return distance to the shore, m; closeness to a valley floor in [0, 1]; depth of the valley, m."""
    shape, bounds = warped.shape, _bounds(warped)
    shore = np.full(shape, _FAR)
    valley, cut = np.zeros(shape), np.zeros(shape)
    ragged = np.clip(1 + 0.4 * spline_noise(warped, 5.5e3, seed + 16), 0.45, 2)
    for line in WATERS:
        if not line.within(bounds, _FAR + 1.5 * line.width):
            continue
        # Interpolation by a cubic B-spline adds pitch²/3 to a squared distance.
        distance2 = np.maximum(line.distance2(warped.x, warped.y) - NODE**2 / 3, 0)
        np.minimum(shore, (distance2 - line.width**2) / (2 * line.width), out=shore)
        floor = line.width * 1.15 + 60
        wide = floor + float(np.clip(22 * line.value, 1200, 8000))
        near = 1 - ramp(np.sqrt(distance2) * ragged, floor, wide)
        np.maximum(valley, near, out=valley)
        np.maximum(cut, near * line.value, out=cut)
    return shore.astype(np.float32), valley.astype(np.float32), cut.astype(np.float32)


def _kernel_sum(lines: tuple[Line, ...], places: Positions) -> Field:
    """Return the sum of the lines' values, each falling smoothly to 0 at 2.2 half-widths."""
    total, bounds = np.zeros(places.shape), _bounds(places)
    for line in lines:
        reach = 2.2 * line.width
        if line.within(bounds, reach):
            total += line.value * np.clip(1 - line.distance2(places.x, places.y) / reach**2, 0, None) ** 3
    return total.astype(np.float32)


def _outline_distance(places: Positions) -> Field:
    """Return the distance to the coast, m, positive on land, from a coarse pinned lattice (the coast is a sketch)."""
    pitch = 16e3
    i, wx = spline_taps(places.x / pitch)
    j, wy = spline_taps(places.y / pitch)
    i0, j0 = int(i.min()), int(j.min())
    x = np.arange(i0, int(i.max()) + 4, dtype=np.float64)[None, :] * pitch
    y = np.arange(j0, int(j.max()) + 4, dtype=np.float64)[:, None] * pitch
    distance = np.sqrt(Line(points=(*OUTLINE, OUTLINE[0]), width=1.0).distance2(x, y))
    signed = np.where(_on_land(x, y), distance, -distance).astype(np.float32)
    result: Field = spline_sum(signed, i - i0, j - j0, wx, wy)
    return result


def _on_land(x: Coordinates, y: Coordinates) -> NDArray[np.bool_]:
    from shapely import Polygon, contains_xy

    from mmnet_maps.sources.demo.geography import projected

    x, y = np.broadcast_arrays(x, y)
    result: NDArray[np.bool_] = contains_xy(Polygon(projected(OUTLINE)), x, y)
    return result


def _towns(places: Positions, seed: int) -> Field:
    """Return cones of built-up density: a town at a hashed place in four of ten cells of a 15 km lattice."""
    best = np.full(places.shape, -1.0)
    i, j = np.floor(places.x / _TOWN_CELL), np.floor(places.y / _TOWN_CELL)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            a, b = i + di, j + dj
            east = (a + uniform(a, b, seed + 21)) * _TOWN_CELL
            north = (b + uniform(a, b, seed + 22)) * _TOWN_CELL
            size = uniform(a, b, seed + 23)
            radius = 400 + 4000 * np.maximum(size - 0.6, 0) ** 2 * 6
            density = 1 - np.sqrt((places.x - east) ** 2 + (places.y - north) ** 2) / radius
            np.maximum(best, np.where(size > 0.6, density, -1.0), out=best)
    return np.asarray(best, np.float32)


def _span(values: Coordinates, margin: float) -> tuple[int, int]:
    return int(np.floor((values.min() - margin) / NODE)) - 1, int(np.ceil((values.max() + margin) / NODE)) + 3


def _bounds(places: Positions) -> tuple[float, float, float, float]:
    return float(places.x.min()), float(places.y.min()), float(places.x.max()), float(places.y.max())
