"""The synthetic world's weather: moving lows that bring rain, and the variables derived from them.

Everything is a function of position and day. Arrays are (day, place); days are proleptic ordinals.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from mmnet_maps.sources.demo.geography import LonLat, projected
from mmnet_maps.sources.demo.land import Ground, aridity
from mmnet_maps.sources.demo.noise import (
    Coordinates,
    Field,
    Positions,
    moving_noise,
    ramp,
    spline_taps,
    value_noise,
)

NODE = 64e3
"""Pitch in metres of the pinned lattice on which the state of the atmosphere is kept."""

STEPS = 4
"""Times per day at which moving systems are sampled."""

EAST, NORTH = 640e3, -90e3
"""Distance that systems move in a day, m."""


@dataclass(frozen=True, kw_only=True)
class System:
    """A pressure system at a given place and time, not from noise.

    Attributes
    ----------
    start, end
        First and last ordinal day; the strength rises from 0 and falls to 0 smoothly.
    path
        Position at start and end, degrees.
    radius
        m
    strength
        Added to the state of the atmosphere (unit variance); negative for a high.
    moisture
        Rain at its centre, mm per day.
    """

    start: float
    end: float
    path: tuple[LonLat, LonLat]
    radius: float
    strength: float
    moisture: float = 0.0

    def shape(self, x: Coordinates, y: Coordinates, time: Coordinates) -> NDArray[np.float64]:
        """Return the share of its strength at places and times that broadcast together, 0 beyond its radius."""
        (ax, ay), (bx, by) = projected(self.path)
        t = np.clip((time - self.start) / (self.end - self.start), 0, 1)
        life = np.clip(8 * t * (1 - t), 0, 1)
        distance2 = (x - ax - t * (bx - ax)) ** 2 + (y - ay - t * (by - ay)) ** 2
        result: NDArray[np.float64] = life * np.clip(1 - distance2 / self.radius**2, 0, None) ** 2
        return result


def _ordinal(year: int, month: int, day: int) -> float:
    return float(date(year, month, day).toordinal())


# A summer drought of the Columbia Basin under a high, ended by a low from the Pacific that brings about 20 mm: for
# demonstrations of a county that dries and is wetted.
SYSTEMS = (
    System(
        start=_ordinal(2021, 7, 8),
        end=_ordinal(2021, 8, 5),
        path=((-119.4, 47.4), (-118.8, 47.2)),
        radius=900e3,
        strength=-2.6,
    ),
    System(
        start=_ordinal(2021, 8, 4) + 0.5,
        end=_ordinal(2021, 8, 9),
        path=((-125.0, 46.2), (-114.0, 46.9)),
        radius=360e3,
        strength=1.6,
        moisture=8.5,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Climate:
    """The climate at places (one-dimensional arrays), which determines their weather.

    Attributes
    ----------
    x, y
        EPSG:5070, m.
    lon, lat
        Degrees.
    elevation, rain, temperature
        m; mm per year; °C, annual mean.
    sand, clay
        Percent.
    irrigable
        Share of irrigable land.
    """

    x: Coordinates
    y: Coordinates
    lon: Coordinates
    lat: Coordinates
    elevation: Field
    rain: Field
    temperature: Field
    sand: Field
    clay: Field
    irrigable: Field

    @classmethod
    def of(cls, places: Positions, at: Ground) -> Climate:
        """Return the climate of one-dimensional places whose ground is known."""
        return cls(
            x=places.x,
            y=places.y,
            lon=at.lon,
            lat=at.lat,
            elevation=at.base,
            rain=at.rain,
            temperature=at.temperature,
            sand=np.clip(at.sand, 12, 90),
            clay=np.clip(at.clay, 3, 52),
            irrigable=at.irrigable,
        )

    def green(self, doy: NDArray[np.int64]) -> Field:
        """Return the NDVI of a square kilometre, (day, place), from natural and irrigated vegetation."""
        lush = ramp(aridity(self.rain, self.temperature), 0.1, 1.1)
        shift = np.clip(3 * (9 - self.temperature), -45, 40)
        day = doy[:, None].astype(np.float32)
        end = 170 + 115 * lush - 0.4 * shift
        season = ramp(day - shift, 85, 130) * ramp(day - end, 35, -15)
        wild = 0.12 + 0.22 * lush + (0.15 + 0.35 * lush) * season
        crops = 0.18 + 0.50 * growing(day)
        result: Field = (wild + 0.5 * self.irrigable * np.maximum(crops - wild, 0)).astype(np.float32)
        return result

    def watered(self, doy: NDArray[np.int64]) -> Field:
        """Return the share of a square kilometre that is irrigated, (day, place)."""
        result: Field = np.float32(0.5) * self.irrigable * growing(doy[:, None].astype(np.float32))
        return result

    def part(self, chosen: slice | NDArray[np.bool_]) -> Climate:
        """Return some of the places."""
        return Climate(**{name: value[chosen] for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Sky:
    """The state of the atmosphere at places and days.

    Attributes
    ----------
    lift
        Rain of the passing systems, as a share of the climate's mean.
    moisture
        Rain of the placed systems, mm per day.
    cloud
        Share of the sky covered.
    warmth, wind
        Unit-variance anomalies.
    """

    lift: Field
    moisture: Field
    cloud: Field
    warmth: Field
    wind: Field


@dataclass(frozen=True, kw_only=True)
class Weather:
    """Daily weather, in the units of `variables`, and the cloud cover behind it."""

    eto: Field
    etr: Field
    pr: Field
    sph: Field
    srad: Field
    vpd: Field
    vs: Field
    tmmx: Field
    tmmn: Field
    cloud: Field


def sky(x: Coordinates, y: Coordinates, days: NDArray[np.int64], seed: int) -> Sky:
    """Return the atmosphere at places, interpolated from the pinned lattice around them."""
    i, wx = spline_taps(x / NODE)
    j, wy = spline_taps(y / NODE)
    i0, j0 = int(i.min()), int(j.min())
    width, height = int(i.max()) - i0 + 4, int(j.max()) - j0 + 4
    node_x = np.tile(np.arange(i0, i0 + width) * NODE, height)
    node_y = np.repeat(np.arange(j0, j0 + height) * NODE, width)
    weights = np.stack([wy[b] * wx[a] for b in range(4) for a in range(4)], axis=1)
    columns = np.stack([(j - j0 + b) * width + i - i0 + a for b in range(4) for a in range(4)], axis=1)
    rows = np.arange(0, 16 * len(x) + 1, 16)
    matrix = csr_array((weights.ravel(), columns.ravel(), rows), shape=(len(x), width * height))
    nodes = _sky_nodes(node_x, node_y, days, seed)
    return Sky(**{name: np.ascontiguousarray((matrix @ value.T).T) for name, value in vars(nodes).items()})


def _sky_nodes(x: Coordinates, y: Coordinates, days: NDArray[np.int64], seed: int) -> Sky:
    """Return the atmosphere at lattice nodes: noise that drifts with the west wind, and the placed systems."""
    times = (days[:, None] + (np.arange(STEPS) + 0.5) / STEPS).ravel()[:, None]
    # Ordinals are large: days from 2015 keep the digits of the drifting coordinates.
    elapsed = times - date(2015, 1, 1).toordinal()
    east, north = x - EAST * elapsed, y - NORTH * elapsed
    u, v = (0.8 * east + 0.6 * north) / 950e3, (0.8 * north - 0.6 * east) / 720e3
    state = moving_noise(u, v, elapsed / 3.0, seed + 101)
    state += 0.55 * moving_noise(u * 2.3 + 0.4, v * 2.3 + 0.7, elapsed / 1.6, seed + 102)
    state *= np.float32(1 / np.hypot(1, 0.55))
    moisture = np.zeros_like(state)
    for system in SYSTEMS:
        if times[-1, 0] > system.start and times[0, 0] < system.end:
            shape = system.shape(x, y, times)
            state += (system.strength * shape).astype(np.float32)
            moisture += (system.moisture * shape).astype(np.float32)
    lift = 3.3 * np.maximum(state - 0.45, 0) ** 1.5

    def daily(values: NDArray[np.floating]) -> Field:
        result: Field = values.reshape(len(days), STEPS, -1).mean(axis=1, dtype=np.float32)
        return result

    slow_x, slow_y = (x - 0.4 * EAST * elapsed) / 1500e3, (y + 0.3 * NORTH * elapsed) / 1200e3
    return Sky(
        lift=daily(lift),
        moisture=daily(moisture),
        cloud=daily(1 / (1 + np.exp(-2.1 * (state - 0.25)))),
        warmth=daily(moving_noise(slow_x, slow_y, elapsed / 4.5, seed + 103) - 0.35 * np.clip(state, -2, 2)),
        wind=daily(moving_noise(u * 1.4, v * 1.4, elapsed / 1.3, seed + 104)),
    )


def rain(climate: Climate, air: Sky, days: NDArray[np.int64], seed: int) -> Field:
    """Return daily precipitation, mm: the climate's mean × the systems' lift × cells drawn out along their path.

    Winters are wet along the Pacific, summers on the plains.
    """
    phase = np.cos(2 * np.pi * (day_of_year(days)[:, None] - 15) / 365.25).astype(np.float32)
    seasonal = 1 + phase * (
        0.75 * ramp(climate.lon, -112, -119) - 0.35 * ramp(climate.lon, -112, -104) * ramp(climate.lon, -84, -92)
    )
    seasonal[...] = np.maximum(seasonal, 0.12)
    texture = np.float32(0.50) * _cells(climate, days, 75e3, seed + 111)
    texture += np.float32(0.28) * _cells(climate, days, 36e3, seed + 112)
    cells = np.exp(texture - np.float32(0.16))
    amount = (climate.rain / np.float32(365.25) * seasonal * air.lift + air.moisture) * cells
    result: Field = np.where(amount > 0.25, np.minimum(amount, 300), 0).astype(np.float32)
    return result


def _cells(climate: Climate, days: NDArray[np.int64], size: float, seed: int) -> Field:
    along = (climate.x * 0.87 + climate.y * -0.5) / (2.2 * size)
    across = (climate.y * 0.87 + climate.x * 0.5) / size
    return value_noise(along, across, (days[:, None] * 8 + seed))


def weather(climate: Climate, days: NDArray[np.int64], seed: int) -> Weather:
    """Return all daily weather at places."""
    air = sky(climate.x, climate.y, days, seed)
    doy = day_of_year(days)[:, None].astype(np.float32)
    pr = rain(climate, air, days, seed)
    wet = ramp(pr, 0, 6)
    extra, latitude = extraterrestrial(doy, climate.lat), climate.lat.astype(np.float32)
    srad = extra * (0.75 + 2e-5 * climate.elevation) * (1 - 0.62 * air.cloud * (0.7 + 0.3 * wet))
    swing = 0.48 * (latitude - 12) * (1 - 0.35 * ramp(climate.lon, -121, -124))
    winter = np.cos(2 * np.pi * (doy - 20) / 365.25)
    mean = climate.temperature - swing * winter + (2.8 + 0.8 * winter) * air.warmth
    dry = ramp(climate.rain, 900, 200)
    half = (4.2 + 3.6 * dry + 1.2 * air.warmth) * (1.15 - 0.75 * air.cloud)
    half = np.maximum(half, 1.2)
    high, low = np.minimum(mean + half - 1.6 * wet, 48.5), np.minimum(mean - half, 36.0)
    depression = np.maximum(1.0 + (9.0 + 0.12 * np.maximum(mean, 0)) * dry * (1 - 0.75 * wet) - 2 * air.cloud, 0)
    dew = low - depression
    actual = vapour_pressure(dew)
    saturated = 0.5 * (vapour_pressure(high) + vapour_pressure(low))
    vs = np.clip(2.5 + 0.8 * air.wind + 0.9 * air.cloud + 0.0003 * climate.elevation, 0.6, 14)
    pressure: Field = np.float32(101.3) * (1 - climate.elevation * np.float32(0.0065 / 293)) ** np.float32(5.26)
    grass, alfalfa = reference_evapotranspiration(high, low, actual, srad, extra, vs, pressure)
    single = {
        "eto": grass,
        "etr": alfalfa,
        "pr": pr,
        "sph": 0.622 * actual / (pressure - 0.378 * actual),
        "srad": srad,
        "vpd": np.maximum(saturated - actual, 0),
        "vs": vs,
        "tmmx": high + 273.15,
        "tmmn": low + 273.15,
        "cloud": air.cloud,
    }
    return Weather(**{name: np.asarray(value, np.float32) for name, value in single.items()})


def reference_evapotranspiration(
    high: Field, low: Field, actual: Field, srad: Field, extra: Field, vs: Field, pressure: Field
) -> tuple[Field, Field]:
    """Compute grass and alfalfa reference evapotranspiration, mm per day (ASCE standardised, Allen et al. 2005).

    Parameters
    ----------
    high, low
        Daily extremes of air temperature, °C.
    actual
        Vapour pressure, kPa.
    srad, extra
        Solar radiation at the ground and above the air, W/m².
    vs
        Wind at 10 m, m/s.
    pressure
        kPa
    """
    mean, wind = 0.5 * (high + low), vs * np.float32(0.748)
    slope = 4098 * vapour_pressure(mean) / (mean + 237.3) ** 2
    psychrometric = 0.000665 * pressure
    clear = np.clip(srad / (0.75 * extra + 1), 0.3, 1.0)
    emitted = 4.903e-9 * (mean + 273.16) ** 4
    longwave = emitted * (0.34 - 0.14 * np.sqrt(actual)) * (1.35 * clear - 0.35)
    net = 0.77 * srad * 0.0864 - longwave
    deficit = 0.5 * (vapour_pressure(high) + vapour_pressure(low)) - actual
    results = []
    for numerator, denominator in ((900, 0.34), (1600, 0.38)):
        top = 0.408 * slope * net + psychrometric * numerator / (mean + 273) * wind * deficit
        results.append(np.clip(top / (slope + psychrometric * (1 + denominator * wind)), 0, 25).astype(np.float32))
    return results[0], results[1]


def vapour_pressure(celsius: Field) -> Field:
    """Return the saturation vapour pressure over water, kPa (Tetens, as in FAO-56 eq. 11).

    Examples
    --------
    >>> round(float(vapour_pressure(np.float32(20.0))), 3)
    2.338
    """
    result: Field = np.float32(0.6108) * np.exp(np.float32(17.27) * celsius / (celsius + np.float32(237.3)))
    return result


def extraterrestrial(doy: Field, lat: Coordinates) -> Field:
    """Return the daily mean solar radiation above the atmosphere, W/m² (FAO-56 eqs. 21–25)."""
    phi = np.radians(lat).astype(np.float32)
    angle = np.float32(2 * np.pi / 365) * doy
    declination = 0.409 * np.sin(angle - 1.39)
    sunset = np.arccos(np.clip(-np.tan(phi) * np.tan(declination), -1, 1))
    day = sunset * np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.sin(sunset)
    result: Field = (1361 / np.pi * (1 + 0.033 * np.cos(angle)) * day).astype(np.float32)
    return result


def surface_temperature(climate: Climate, drive: Weather, moisture: Field, green: Field) -> Field:
    """Return daytime land surface temperature, K: the warmest air, and the sun's heating of dry and bare ground."""
    bare = np.clip(1 - 1.15 * green, 0.0, 1.0)
    dry = np.clip(1 - moisture / 0.42, 0.1, 1.0)
    heating = drive.srad * (0.012 + 0.070 * bare * dry)
    local = np.float32(1.1) * value_noise(climate.x / 5e3, climate.y / 5e3, 77)
    result: Field = np.clip(drive.tmmx + heating + local, 225, 365).astype(np.float32)
    return result


def growing(doy: Field) -> Field:
    """Return the growth of irrigated crops, 0 to 1, on days of the year."""
    result: Field = ramp(doy, 110, 175) * ramp(doy, 275, 235)
    return result


def day_of_year(days: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the day of the year, 1 to 366, of ordinals."""
    return np.array([date.fromordinal(int(day)).timetuple().tm_yday for day in days], np.int64)
