"""Satellite views of the synthetic world: swaths, clouds, reflectance and backscatter."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.sources.demo.noise import Coordinates, Field, Positions, ramp, spline_noise, white


@dataclass(frozen=True, kw_only=True)
class Orbit:
    """Parallel strips across EPSG:5070, each seen on one day of a cycle.

    Attributes
    ----------
    heading
        Angle of the strips from the y axis, degrees.
    spacing, width
        Distance between neighbouring strips and their width, m.
    cycle
        Days between two passes.
    step
        Days between a strip and its western neighbour.
    """

    heading: float
    spacing: float
    width: float
    cycle: int
    step: int

    def strips(self, x: Coordinates, y: Coordinates) -> Coordinates:
        """Return the position across the strips, whose middles lie at whole numbers."""
        angle = np.radians(self.heading)
        result: Coordinates = (x * np.cos(angle) + y * np.sin(angle)) / self.spacing
        return result

    def offset(self, strips: Coordinates, day: int) -> Field:
        """Return the distance from the middle of the strip of a day, in strips; pixels beyond `reach` are not seen."""
        inverse = pow(self.step, -1, self.cycle)
        remainder = (day % self.cycle) * inverse % self.cycle
        turns = (strips - remainder) / self.cycle
        result: Field = ((turns - np.rint(turns)) * self.cycle).astype(np.float32)
        return result

    @property
    def reach(self) -> float:
        """Half a strip's width, in strips."""
        return self.width / self.spacing / 2

    def seen(self, low: float, high: float, day: int) -> bool:
        """Return True if a strip of a day touches the positions from `low` to `high`."""
        strips = np.arange(np.ceil(low - self.reach), np.floor(high + self.reach) + 1)
        return bool((strips * self.step % self.cycle == day % self.cycle).any())


LANDSAT = Orbit(heading=-12.0, spacing=150e3, width=185e3, cycle=8, step=7)
"""Two satellites in turn: each strip every 8 days."""

SENTINEL_1 = Orbit(heading=14.0, spacing=200e3, width=250e3, cycle=12, step=5)
"""One satellite: each strip every 12 days."""

_SENTINEL_1_PAIR = Orbit(heading=14.0, spacing=200e3, width=250e3, cycle=6, step=5)


def radar_orbit(day: int) -> Orbit:
    """Return the radar's strips on a day: every 6 days while two satellites fly (until 2021-12-23), then every 12."""
    return _SENTINEL_1_PAIR if day <= date(2021, 12, 23).toordinal() else SENTINEL_1


# Reflectance of dry soil, green leaves and water in blue, green, red, nir, swir1, swir2, and the share of a soil's
# reflectance that wetness removes.
_SOIL = (0.105, 0.145, 0.190, 0.232, 0.315, 0.275)
_LEAF = (0.028, 0.068, 0.034, 0.430, 0.195, 0.085)
_WATER = (0.055, 0.060, 0.042, 0.022, 0.010, 0.006)
_DARKENING = (0.42, 0.44, 0.46, 0.48, 0.62, 0.66)
_BUILT_GREY = (0.135, 0.150, 0.165, 0.200, 0.225, 0.205)
BANDS = ("blue", "green", "red", "nir", "swir1", "swir2")


def cloudy(places: Positions, cloud: Field, day: int, seed: int) -> NDArray[np.bool_]:
    """Return the mask of clouds that hide the ground at the overpass, for a share of covered sky."""
    shape = spline_noise(places, 24e3, seed + 211 + 8 * day)
    shape += np.float32(0.6) * spline_noise(places, 7e3, seed + 212 + 8 * day)
    shape += np.float32(0.35) * spline_noise(places, 2.1e3, seed + 213 + 8 * day)
    result: NDArray[np.bool_] = shape > (np.float32(0.56) - cloud) * np.float32(4.2)
    return result


def reflectance(
    green: Field, code: NDArray[np.uint8], wetness: Field, sand: Field, light: Field, texture: Field
) -> dict[str, Field]:
    """Return surface reflectance by band: a mixture of soil and leaves with the NDVI `green`, as far as it can have it.

    Parameters
    ----------
    green
        NDVI.
    code
        NLCD land cover.
    wetness
        Soil wetness in [0, 1].
    sand
        Percent; sandy soils are brighter.
    light
        Illumination by slope and sun, about 1.
    texture
        Fine noise of about unit variance.
    """
    brightness = np.float32(0.62) + np.float32(0.006) * sand + np.float32(0.035) * texture
    wet = 1 - np.outer(np.array(_DARKENING, np.float32), wetness).reshape(6, *wetness.shape)
    built = ((code >= 22) & (code <= 24)).astype(np.float32)
    soil = [
        (np.float32(_SOIL[k]) * brightness) * wet[k] * (1 - built) + np.float32(_BUILT_GREY[k]) * built
        for k in range(6)
    ]
    red_gain, nir_gain = _LEAF[2] - soil[2], _LEAF[3] - soil[3]
    share = green * (soil[2] + soil[3]) - (soil[3] - soil[2])
    share /= (nir_gain - red_gain) - green * (nir_gain + red_gain)
    np.clip(share, 0, 1, out=share)
    forest = (code >= 41) & (code <= 43) | (code == 90)
    shade = light * np.where(forest, np.float32(0.72), np.float32(1.0))
    water = code == 11
    bands = {}
    for k, name in enumerate(BANDS):
        value = soil[k]
        value += share * (np.float32(_LEAF[k]) - value)
        value *= shade
        value[water] = _WATER[k]
        bands[name] = value
    return bands


def backscatter(
    green: Field, code: NDArray[np.uint8], moisture: Field, offset: Field, slope_east: Field, texture: Field
) -> tuple[Field, Field]:
    """Return VV and VH, dB, before speckle: moist and rough ground is bright; vegetation hides it and depolarises.

    Parameters
    ----------
    green, code, moisture
        NDVI, NLCD land cover, soil moisture m³/m³.
    offset
        Position across the strip (the far side is darker).
    slope_east
        Terrain slope to the east, rise over run (slopes facing the radar are bright).
    texture
        Fine noise of about unit variance, for roughness.
    """
    leaves = np.clip(np.float32(1.2) * (green - np.float32(0.12)), 0, 0.95)
    ground = np.float32(-16.6) + np.float32(17) * moisture + np.float32(0.3) * texture
    vv = ground + leaves * np.float32(0.6) * (np.float32(-10.2) - ground)
    cross = ground - np.float32(8.6)
    vh = cross + leaves * np.float32(0.72) * (np.float32(-15.6) - cross)
    forest, built = (code >= 41) & (code <= 43) | (code == 90), ramp(code, 20.5, 24.5) * (code < 30)
    vv += np.float32(1.6) * forest + np.float32(5.5) * built
    vh += np.float32(2.6) * forest + np.float32(4.5) * built
    tilt = np.clip(np.float32(7) * slope_east, -3, 3) - np.float32(1.1) * offset
    vv += tilt
    vh += tilt * np.float32(0.85)
    water = code == 11
    vv[water] = np.float32(-18.6) + np.float32(0.4) * texture[water]
    vh[water] = np.float32(-27.0) + np.float32(0.4) * texture[water]
    return vv, vh


def speckle(places: Positions, day: int, seed: int) -> tuple[Field, Field]:
    """Return the speckle that remains after averaging to 100 m, dB, for VV and VH."""
    first = np.float32(0.42) * white(places, 100.0, seed + 231 + 8 * day)
    second = np.float32(0.42) * white(places, 100.0, seed + 232 + 8 * day)
    return first, second


def illumination(east: Field, north: Field, lat: Coordinates, doy: int) -> Field:
    """Return light on a slope over light on flat ground at about 10:30, softened as by a topographic correction.

    Parameters
    ----------
    east, north
        Rise over run of the terrain to the east and north.
    lat
        Latitude, degrees.
    doy
        Day of the year.
    """
    declination = np.radians(23.44) * np.sin(2 * np.pi * (doy - 80) / 365.25)
    phi, hour = np.radians(lat.astype(np.float32)), np.radians(-25.0)
    up = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(hour)
    sun_north = np.cos(phi) * np.sin(declination) - np.sin(phi) * np.cos(declination) * np.cos(hour)
    sun_east = -np.cos(declination) * np.sin(hour)
    up = np.maximum(up, 0.2)
    ratio = (1 - east * (sun_east / up) - north * (sun_north / up)) / np.sqrt(1 + east * east + north * north)
    result: Field = np.clip(np.float32(0.4) + np.float32(0.6) * ratio, 0.35, 1.5)
    return result
