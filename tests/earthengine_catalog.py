"""Procedural substitutes for the Earth Engine products that the project reads.

Every band is a closed formula of its own pixel centre (native coordinates) and of time, so that a test can compute
what it should get without the server. Smooth parts have wavelengths of 18 km and more: over a 100 m pixel their mean
differs from the value at its centre by less than 2e-4 of the amplitude. Optical, radar and soil bands carry besides a
checkerboard of single native pixels (:data:`CHECKER`) that an area mean takes away and a nearest pixel keeps. Optical
and radar bands are linear in time, so that interpolation between two days is the formula itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np
import pyproj
from numpy.typing import NDArray

Array = NDArray[Any]
Transform = tuple[float, float, float, float, float, float]
Formula = Callable[[Array, Array], Array]

FIRST, LAST = date(2021, 5, 1), date(2021, 9, 30)
DAY_MS = 86_400_000
SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """A native pixel grid: CRS code, ``(a, b, c, d, e, f)`` and size; no shear."""

    crs: str
    transform: Transform
    width: int
    height: int

    def snap(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """Centre of the pixel that holds each point (native coordinates), and whether it is inside."""
        a, _, c, _, e, f = self.transform
        col, row = np.floor((x - c) / a + 1e-6), np.floor((y - f) / e + 1e-6)
        inside = (col >= 0) & (row >= 0) & (col < self.width) & (row < self.height)
        return c + (col + 0.5) * a, f + (row + 0.5) * e, inside


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One band: its type and its formula in stored units; NaN is a masked pixel."""

    dtype: str
    formula: Formula


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One image of a collection, or an image asset.

    ``start`` and ``end`` are milliseconds since 1970, None where the image has no time. ``bounds`` is the lon-lat
    box (west, south, east, north) that ``filterBounds`` compares, None for everywhere.
    """

    index: str
    lattice: Lattice
    layers: dict[str, Layer]
    start: int | None = None
    end: int | None = None
    bounds: tuple[float, float, float, float] | None = None
    properties: dict[str, Any] = field(default_factory=dict)

    @property
    def day(self) -> date:
        """UTC date of ``start``."""
        assert self.start is not None
        return datetime.fromtimestamp(self.start / 1000, UTC).date()

    def stored(self, band: str, x: Array, y: Array, crs: str | None = None) -> NDArray[np.float64]:
        """Stored values of the native pixels that hold these points, NaN where masked or outside."""
        x, y = np.asarray(x, float), np.asarray(y, float)
        if crs is not None and crs != self.lattice.crs:
            x, y = transformer(crs, self.lattice.crs).transform(x, y)
        x, y, inside = self.lattice.snap(x, y)
        layer = self.layers[band]
        values = np.where(inside, layer.formula(x, y), np.nan)
        if layer.dtype[0] != "f":
            return np.rint(values)
        return values.astype(layer.dtype).astype(float)

    def area_mean(
        self,
        band: str,
        x: float,
        y: float,
        size: float,
        crs: str,
        good: Callable[[Scene, Array, Array], Array] | None = None,
        points: int = 60,
    ) -> float:
        """Mean of the native pixels under one square output pixel, by their shares, NaN without a valid one.

        The pixel has its centre at (x, y) and sides of ``size`` in ``crs``. ``good`` takes the scene and native
        points and says which count. Shares come from ``points`` × ``points`` points: an edge is off by 1 / ``points``
        of the pixel at most.
        """
        step = ((np.arange(points) + 0.5) / points - 0.5) * size
        px, py = (a.ravel() for a in np.meshgrid(x + step, y + step))
        nx, ny = transformer(crs, self.lattice.crs).transform(px, py)
        values = self.stored(band, nx, ny)
        valid = np.isfinite(values)
        if good is not None:
            valid &= good(self, nx, ny)
        return float(values[valid].mean()) if valid.any() else float("nan")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A catalogue entry: a collection of scenes."""

    id: str
    scenes: tuple[Scene, ...]

    def on(self, day: date) -> list[Scene]:
        """Scenes whose start lies on this UTC date."""
        return [scene for scene in self.scenes if scene.start is not None and scene.day == day]

    def scene(self, index: str) -> Scene:
        """The scene of this ``system:index``."""
        return next(scene for scene in self.scenes if scene.index == index)


@lru_cache(maxsize=64)
def parsed(crs: str) -> pyproj.CRS:
    """A CRS by code or WKT; SR-ORG:6974 is the MODIS sinusoidal grid."""
    return pyproj.CRS.from_user_input(SINUSOIDAL if crs == "SR-ORG:6974" else crs)


@lru_cache(maxsize=64)
def transformer(source: str, target: str) -> pyproj.Transformer:
    """Transformer between two CRS codes, x before y."""
    return pyproj.Transformer.from_crs(parsed(source), parsed(target), always_xy=True)


def bounds_of(lattice: Lattice) -> tuple[float, float, float, float]:
    """Lon-lat box (west, south, east, north) around a lattice."""
    a, _, c, _, e, f = lattice.transform
    box = (c, f + e * lattice.height, c + a * lattice.width, f)
    west, south, east, north = transformer(lattice.crs, "EPSG:4326").transform_bounds(*box)
    return west, south, east, north


def millis(day: date, hours: float = 0.0) -> int:
    """Milliseconds since 1970 of a UTC date and hour."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000 + hours * 3_600_000)


def days_since_first(time: float) -> float:
    """Days, with fraction, from the first day of the catalogue to ``time`` in milliseconds."""
    return (time - millis(FIRST)) / DAY_MS


def days(start: date = FIRST, step: int = 1) -> Iterator[date]:
    """Every ``step``-th date from ``start`` to the last day of the catalogue."""
    while start <= LAST:
        yield start
        start += timedelta(step)


Answer = TypeVar("Answer")


def remembered(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Keep a thread's last four answers: the bands of a scene ask with the same arrays, one after the other."""
    memory = threading.local()

    def ask(x: Array, y: Array, *rest: float) -> Answer:
        known: list[tuple[Array, Array, tuple[float, ...], Answer]] = getattr(memory, "known", [])
        for old_x, old_y, old_rest, answer in known:
            if old_x is x and old_y is y and old_rest == rest:
                return answer
        fresh = function(x, y, *rest)
        memory.known = [(x, y, rest, fresh), *known[:3]]
        return fresh

    return ask


@remembered
def turns(x: Array, y: Array, length: float) -> tuple[Array, Array, Array]:
    """Sine and cosine of x, cosine of y, as parts of a wavelength."""
    east, north = 2 * np.pi * x / length, 2 * np.pi * y / length
    return np.sin(east), np.cos(east), np.cos(north)


def wave(x: Array, y: Array, length: float, phase: float = 0.0) -> Array:
    """sin(2π x / length + phase) · cos(2π y / length); separable, so that row and column vectors are enough."""
    sine, cosine, north = turns(x, y, length)
    return (sine * np.cos(phase) + cosine * np.sin(phase)) * north


@remembered
def checker(x: Array, y: Array, pixel: float) -> Array:
    """+1 and -1 on alternate native pixels."""
    return (1 - 2 * (np.floor(x / pixel) % 2)) * (1 - 2 * (np.floor(y / pixel) % 2))


# ---- optical ----------------------------------------------------------------------------------------------------

REFLECTANCE = {"B2": 0.05, "B3": 0.08, "B4": 0.10, "B5": 0.30, "B6": 0.24, "B7": 0.16}
CHECKER = {"reflectance": 0.003, "backscatter": 1.5, "soil": 0.02}
"""Amplitude of the checkerboard; of soil, a share of the value."""
TILE_STEP = 0.01
"""Reflectance that the zone 11 tile lies above the zone 10 tile, so that the overlap shows which is on top."""
CLOUD, ADJACENT, SHADOW = 2, 4, 8
"""Fmask bits of HLS."""
LANDSAT_CLEAR = 21824
OVERCAST = FIRST + timedelta(16)
"""Acquisition day on which HLS sees nothing but cloud."""
SKY_LENGTH = (24_000.0, 18_000.0)


def cloudiness(x: Array, y: Array, time: float) -> Array:
    """Cloud above 0.75, adjacent to cloud above 0.65; the pattern moves from day to day."""
    day = np.floor(days_since_first(time))
    if day == (OVERCAST - FIRST).days:
        return np.ones(np.broadcast_shapes(np.shape(x), np.shape(y)))
    east = np.sin(2 * np.pi * x / SKY_LENGTH[0] + 1.7 * day)
    return east * np.cos(2 * np.pi * y / SKY_LENGTH[1] + 0.9 * day)


@remembered
def sky(x: Array, y: Array, time: float) -> tuple[Array, Array, Array]:
    """Where there is cloud, where cloud is adjacent, where its shadow falls (2 km north-west)."""
    c = cloudiness(x, y, time)
    cloud = c > 0.75
    return cloud, (c > 0.65) & ~cloud, (cloudiness(x + 2000.0, y - 2000.0, time) > 0.75) & ~cloud


def seen(x: Array, y: Array, zone: int, time: float) -> Array:
    """Inside the swath: a slanting west edge that moves by 12 km between acquisitions."""
    edge = SCENE_WEST[zone] + 6000.0 + 12_000.0 * (np.floor(days_since_first(time) / 8) % 2)
    return (x - edge) - 0.05 * (y - 5_130_000.0) > 0


def clear_reflectance(band: str, x: Array, y: Array, zone: int, time: float) -> Array:
    """Reflectance without cloud or checkerboard: what an area mean of clear pixels comes to."""
    k, base = list(REFLECTANCE).index(band), REFLECTANCE[band]
    smooth = base * (1 + 0.25 * wave(x, y, 30_000.0, phase=k))
    return smooth + 0.0002 * (k + 1) * days_since_first(time) + TILE_STEP * (zone - 10)


def reflectance(x: Array, y: Array, band: str, zone: int, time: float) -> Array:
    """Reflectance of a 30 m pixel: bright in clouds, dark in shadows, NaN outside the swath."""
    cloud, _, shadow = sky(x, y, time)
    value = clear_reflectance(band, x, y, zone, time) + CHECKER["reflectance"] * checker(x, y, 30.0)
    value = value + np.float32(0.35) * cloud
    value = np.where(shadow, value * 0.4, value)
    return np.where(seen(x, y, zone, time), value, np.nan)


def fmask(x: Array, y: Array, zone: int, time: float) -> Array:
    """HLS Fmask: cloud, adjacent, shadow; bit 6 (low aerosol) is always set, as in clear pixels of the product."""
    cloud, near, shadow = sky(x, y, time)
    value = 64 + CLOUD * cloud + ADJACENT * near + SHADOW * shadow
    return np.where(seen(x, y, zone, time), value, np.nan)


def landsat_counts(x: Array, y: Array, band: str, zone: int, time: float) -> Array:
    """Stored SR_B* of Landsat: the same reflectance, as (value + 0.2) / 2.75e-5."""
    return np.rint((reflectance(x, y, band, zone, time) + 0.2) / 2.75e-5)


def qa_pixel(x: Array, y: Array, zone: int, time: float) -> Array:
    """Landsat QA_PIXEL: bit 3 cloud, bit 1 dilated cloud, bit 4 shadow; clear is 21824."""
    cloud, near, shadow = sky(x, y, time)
    value = LANDSAT_CLEAR + (8 - 64) * cloud + 2 * near + 16 * shadow
    return np.where(seen(x, y, zone, time), value, np.nan)


SCENE_WEST = {10: 576_000.0, 11: 240_000.0}


def optical_lattice(zone: int) -> Lattice:
    """30 m lattice of the tile in a UTM zone; the two overlap between 120.2° and 119.6° west."""
    return Lattice(
        crs=f"EPSG:326{zone}",
        transform=(30.0, 0.0, SCENE_WEST[zone], 0.0, -30.0, 5_334_000.0),
        width=6000 if zone == 10 else 6800,
        height=6800,
    )


def hls() -> Dataset:
    """NASA/HLS/HLSL30/v002: both tiles every 8 days, 20 seconds apart."""
    scenes = []
    for day in days(step=8):
        for zone, tile in ((10, "T10TGT"), (11, "T11TLN")):
            start = millis(day, 18.8) + 20_000 * (zone - 10)
            layers = {
                band: Layer(dtype="f4", formula=partial(reflectance, band=band, zone=zone, time=start))
                for band in REFLECTANCE
            }
            layers["Fmask"] = Layer(dtype="u1", formula=partial(fmask, zone=zone, time=start))
            scenes.append(
                Scene(
                    index=f"{tile}_{day:%Y%m%d}T185000",
                    lattice=optical_lattice(zone),
                    layers=layers,
                    start=start,
                    end=start + 20_000,
                    bounds=bounds_of(optical_lattice(zone)),
                    properties={"CLOUD_COVERAGE": 6, "SPATIAL_RESOLUTION": 30},
                )
            )
    return Dataset(id="NASA/HLS/HLSL30/v002", scenes=tuple(scenes))


def landsat() -> Dataset:
    """LANDSAT/LC08/C02/T1_L2: one scene a zone every 16 days, seven days apart."""
    scenes = []
    for zone, row, first in ((10, "045027", FIRST), (11, "043027", FIRST + timedelta(7))):
        for day in days(first, 16):
            start = millis(day, 18.8)
            layers = {
                f"SR_{band}": Layer(dtype="u2", formula=partial(landsat_counts, band=band, zone=zone, time=start))
                for band in REFLECTANCE
            }
            layers["QA_PIXEL"] = Layer(dtype="u2", formula=partial(qa_pixel, zone=zone, time=start))
            scenes.append(
                Scene(
                    index=f"LC08_{row}_{day:%Y%m%d}",
                    lattice=optical_lattice(zone),
                    layers=layers,
                    start=start,
                    bounds=bounds_of(optical_lattice(zone)),
                    properties={"SPACECRAFT_ID": "LANDSAT_8", "PROCESSING_LEVEL": "L2SP"},
                )
            )
    return Dataset(id="LANDSAT/LC08/C02/T1_L2", scenes=tuple(sorted(scenes, key=lambda scene: scene.index)))


# ---- radar ------------------------------------------------------------------------------------------------------

BACKSCATTER = {"VV": -12.0, "VH": -18.0}
FOREIGN = 7.0
"""dB by which images of other modes or polarisations are too high, so that one that slips in is noticed."""


def smooth_backscatter(band: str, x: Array, y: Array, zone: int, time: float) -> Array:
    """Backscatter in dB without the checkerboard: what an area mean in dB comes to."""
    k = list(BACKSCATTER).index(band)
    return BACKSCATTER[band] + 1.8 * wave(x, y, 25_000.0, phase=k) + 0.01 * days_since_first(time) + 0.5 * (zone - 10)


def backscatter(x: Array, y: Array, band: str, zone: int, time: float, extra: float = 0.0) -> Array:
    """Backscatter of a 10 m pixel, dB."""
    return smooth_backscatter(band, x, y, zone, time) + (CHECKER["backscatter"] * checker(x, y, 10.0) + extra)


def sentinel1() -> Dataset:
    """COPERNICUS/S1_GRD: ascending passes in zone 11 and descending ones in zone 10, each every 6 days.

    Every fifth zone 11 pass has an IW image in VV alone and an EW image besides, both too high by :data:`FOREIGN`.
    """
    scenes = []
    for zone, first, hours, way in ((11, FIRST, 1.9, "ASCENDING"), (10, FIRST + timedelta(3), 14.3, "DESCENDING")):
        lattice = Lattice(
            crs=f"EPSG:326{zone}",
            transform=(10.0, 0.0, SCENE_WEST[zone], 0.0, -10.0, 5_340_000.0),
            width=18_000 if zone == 10 else 20_400,
            height=21_000,
        )
        for k, day in enumerate(days(first, 6)):
            kinds: list[tuple[str, list[str], float]] = [("IW", ["VV", "VH"], 0.0)]
            if zone == 11 and k % 5 == 0:
                kinds += [("IW", ["VV"], FOREIGN), ("EW", ["VV", "VH"], FOREIGN)]
            for nth, (mode, bands, extra) in enumerate(kinds):
                start = millis(day, hours) + 25_000 * nth
                formula = partial(backscatter, zone=zone, time=start, extra=extra)
                layers = {band: Layer(dtype="f8", formula=partial(formula, band=band)) for band in bands}
                layers["angle"] = Layer(dtype="f4", formula=lambda x, y: 38.0 + (x - 500_000.0) * 1e-5 + 0 * y)
                scenes.append(
                    Scene(
                        index=f"S1A_{mode}_GRDH_1S{'DV' if len(bands) == 2 else 'SV'}_{day:%Y%m%d}_Z{zone}_{nth}",
                        lattice=lattice,
                        layers=layers,
                        start=start,
                        end=start + 25_000,
                        bounds=bounds_of(lattice),
                        properties={
                            "instrumentMode": mode,
                            "transmitterReceiverPolarisation": bands,
                            "orbitProperties_pass": way,
                            "relativeOrbitNumber_start": 64 if zone == 11 else 13,
                            "platform_number": "A",
                            "resolution_meters": 10,
                        },
                    )
                )
    return Dataset(id="COPERNICUS/S1_GRD", scenes=tuple(sorted(scenes, key=lambda scene: (scene.start, scene.index))))


# ---- coarse series ----------------------------------------------------------------------------------------------

SMAP_LATTICE = Lattice(
    crs="EPSG:4326",
    transform=(0.09881422924901186, 0.0, -180.0, 0.0, -0.09881422924901186, 84.97869985415024),
    width=3643,
    height=1720,
)
SMAP_FIELDS = {FIRST + timedelta(50): 3, FIRST + timedelta(51): 5}
"""Days with fewer than eight 3-hourly fields, and how many; these are the first of the day."""
SMAP_SEA = -124.2
"""West of this longitude SMAP is masked."""


def smap_daily(x: Array, y: Array, day: date) -> Array:
    """Mean of the day's eight fields of ``sm_surface``, m3/m3; x and y in degrees."""
    return 0.22 + 0.08 * wave(x, y, 3.0) + 0.0006 * (day - FIRST).days


def sm_surface(x: Array, y: Array, day: date, nth: int) -> Array:
    """The ``nth`` 3-hourly field of a day: the mean plus 0.004 × (nth - 3.5)."""
    return np.where(x < SMAP_SEA, np.nan, smap_daily(x, y, day) + 0.004 * (nth - 3.5))


def smap() -> Dataset:
    """NASA/SMAP/SPL4SMGP/008: eight fields a day, at 01:30, 04:30, … UTC; other bands than sm_surface are wetter."""
    scenes = []
    for day in days():
        for nth in range(SMAP_FIELDS.get(day, 8)):
            start = millis(day, 1.5 + 3 * nth)
            field_ = partial(sm_surface, day=day, nth=nth)
            scenes.append(
                Scene(
                    index=f"{day:%Y%m%d}_{3 * nth + 1:02d}30",
                    lattice=SMAP_LATTICE,
                    layers={
                        "sm_surface": Layer(dtype="f4", formula=field_),
                        "sm_rootzone": Layer(dtype="f4", formula=lambda x, y, f=field_: f(x, y) + 0.1),
                    },
                    start=start,
                    end=start + 3 * 3_600_000,
                )
            )
    return Dataset(id="NASA/SMAP/SPL4SMGP/008", scenes=tuple(scenes))


WEATHER = {
    "eto": (5.0, 1.2), "etr": (7.0, 1.6), "pr": (6.0, 4.0), "sph": (0.006, 0.0015), "srad": (280.0, 40.0),
    "vpd": (1.4, 0.5), "vs": (3.5, 1.0), "tmmx": (300.0, 6.0), "tmmn": (285.0, 5.0),
}  # fmt: skip
"""gridMET bands: middle and amplitude."""
WEATHER_NORTH = 49.1
"""North of this latitude gridMET is masked."""
GRIDMET_LATTICE = Lattice(
    crs="EPSG:4326",
    transform=(1 / 24, 0.0, -124.78749996666667, 0.0, -1 / 24, 49.42083333333334),
    width=1386,
    height=585,
)


def weather(x: Array, y: Array, name: str, day: date) -> Array:
    """One gridMET band on one of its days; rain falls every fifth day only."""
    k, n = list(WEATHER).index(name), (day - FIRST).days
    middle, amplitude = WEATHER[name]
    value = middle + amplitude * (wave(x, y, 4.0, phase=k) + 0.25 * np.sin(n / 1.5 + k))
    if name == "pr":
        value = np.maximum(value, 0.5) if n % 5 == 0 else np.zeros_like(value)
    return np.where(y > WEATHER_NORTH, np.nan, value)


def gridmet() -> Dataset:
    """IDAHO_EPSCOR/GRIDMET: one image a day, from 06:00 UTC to 06:00 UTC as on the real service."""
    scenes = [
        Scene(
            index=f"{day:%Y%m%d}",
            lattice=GRIDMET_LATTICE,
            layers={name: Layer(dtype="f4", formula=partial(weather, name=name, day=day)) for name in WEATHER},
            start=millis(day, 6),
            end=millis(day, 30),
            properties={"status": "permanent"},
        )
        for day in days()
    ]
    return Dataset(id="IDAHO_EPSCOR/GRIDMET", scenes=tuple(scenes))


LST_LATTICE = Lattice(
    crs="SR-ORG:6974",
    transform=(926.625433055833, 0.0, -20015109.354, 0.0, -926.625433055833, 10007554.677),
    width=43200,
    height=21600,
)


def lst_kelvin(x: Array, y: Array, day: date) -> Array:
    """Surface temperature where it is observed, K; x and y sinusoidal metres."""
    return 305.0 + 6.0 * wave(x, y, 400_000.0) + 4.0 * np.sin((day - FIRST).days / 1.8)


def lst_observed(x: Array, y: Array, day: date) -> Array:
    """Where the day has a temperature: patches without one drift east by 60 km a day."""
    return wave(x - 60_000.0 * (day - FIRST).days, y, 300_000.0) <= 0.5


def lst_quality(x: Array, y: Array, day: date) -> Array:
    """QC_Day: 2 where nothing was produced; in stripes 65 (other quality), at their core 73 (bit 3 too); else 0."""
    stripes = np.sin(2 * np.pi * y / 90_000.0)
    return np.where(lst_observed(x, y, day), np.where(stripes > 0.9, 73, np.where(stripes > 0.7, 65, 0)), 2)


def lst_counts(x: Array, y: Array, day: date) -> Array:
    """Stored LST_Day_1km, in steps of 0.02 K."""
    return np.where(lst_observed(x, y, day), np.rint(lst_kelvin(x, y, day) / 0.02), np.nan)


def modis() -> Dataset:
    """MODIS/061/MOD11A1: one global image a day."""
    scenes = [
        Scene(
            index=f"{day:%Y_%m_%d}",
            lattice=LST_LATTICE,
            layers={
                "LST_Day_1km": Layer(dtype="u2", formula=partial(lst_counts, day=day)),
                "QC_Day": Layer(dtype="u1", formula=partial(lst_quality, day=day)),
            },
            start=millis(day),
            end=millis(day, 24),
        )
        for day in days()
    ]
    return Dataset(id="MODIS/061/MOD11A1", scenes=tuple(scenes))


def viirs_kelvin(x: Array, y: Array, day: date) -> Array:
    """LST_1KM of VIIRS where it is observed, K: warmer than MODIS, since it is seen later."""
    return np.where(lst_observed(x, y, day), lst_kelvin(x, y, day) + 3.0, np.nan)


def viirs_quality(x: Array, y: Array, day: date) -> Array:
    """QC: 2 where nothing was produced; in stripes 1 (unreliable), at their core 33 (close to cloud too); else 768."""
    stripes = np.sin(2 * np.pi * y / 70_000.0)
    return np.where(lst_observed(x, y, day), np.where(stripes > 0.9, 33, np.where(stripes > 0.7, 1, 768)), 2)


def viirs() -> Dataset:
    """NASA/VIIRS/002/VNP21A1D: one global image a day."""
    scenes = [
        Scene(
            index=f"{day:%Y_%m_%d}",
            lattice=LST_LATTICE,
            layers={
                "LST_1KM": Layer(dtype="f4", formula=partial(viirs_kelvin, day=day)),
                "QC": Layer(dtype="u2", formula=partial(viirs_quality, day=day)),
            },
            start=millis(day),
            end=millis(day, 24),
        )
        for day in days()
    ]
    return Dataset(id="NASA/VIIRS/002/VNP21A1D", scenes=tuple(scenes))


# ---- static -----------------------------------------------------------------------------------------------------

ELEVATION_STEP = 9.259259259e-05
ELEVATION_OVERLAP = 6
"""Pixels by which a 3DEP tile reaches over its degree on every side."""


def elevation(x: Array, y: Array) -> Array:
    """Metres above sea level; x and y in degrees; the tiles agree where they overlap."""
    return 600.0 + 250.0 * np.sin(2 * np.pi * x / 0.35) * np.cos(2 * np.pi * y / 0.25) + 100.0 * (x + 120.0)


def elevation_tiles() -> Dataset:
    """USGS/3DEP/10m_collection: tiles of one degree, side by side, from 123° to 118° west and 46° to 49° north."""
    scenes = []
    margin = ELEVATION_OVERLAP * ELEVATION_STEP
    for north in (47, 48, 49):
        for west in range(-123, -118):
            scenes.append(
                Scene(
                    index=f"USGS_13_n{north}w{-west}",
                    lattice=Lattice(
                        crs="EPSG:4269",
                        transform=(ELEVATION_STEP, 0.0, west - margin, 0.0, -ELEVATION_STEP, north + margin),
                        width=10800 + 2 * ELEVATION_OVERLAP,
                        height=10800 + 2 * ELEVATION_OVERLAP,
                    ),
                    layers={"elevation": Layer(dtype="f4", formula=elevation)},
                    start=millis(date(2019, 1, 1)),
                    bounds=(west - margin, north - 1 - margin, west + 1 + margin, north + margin),
                )
            )
    return Dataset(id="USGS/3DEP/10m_collection", scenes=tuple(scenes))


LANDCOVER_CODES = np.array([11, 21, 22, 23, 24, 31, 41, 42, 43, 52, 71, 81, 82, 90, 95])
LANDCOVER_BLOCK = 600.0
NLCD_LATTICE = Lattice(
    crs="EPSG:5070", transform=(30.0, 0.0, -2_493_045.0, 0.0, -30.0, 3_310_005.0), width=161_190, height=104_424
)
NLCD_YEARS = (2001, 2004, 2006, 2008, 2011, 2013, 2016, 2019)


def landcover_class(x: Array, y: Array, year: int) -> Array:
    """Class of the 600 m block: the mode of a 100 m pixel that lies inside one block."""
    east = np.floor((x - NLCD_LATTICE.transform[2]) / LANDCOVER_BLOCK).astype(int)
    south = np.floor((NLCD_LATTICE.transform[5] - y) / LANDCOVER_BLOCK).astype(int)
    return LANDCOVER_CODES[(3 * east + 5 * south + year) % len(LANDCOVER_CODES)]


def landcover(x: Array, y: Array, year: int) -> Array:
    """Class of a 30 m pixel: that of its block, but open water (11) in every fifth pixel of every fifth row."""
    col, row = np.floor(x / 30.0), np.floor(y / 30.0)
    return np.where((col % 5 == 0) & (row % 5 == 0), 11, landcover_class(x, y, year))


def nlcd(release: int, years: tuple[int, ...]) -> Dataset:
    """USGS/NLCD_RELEASES/…_REL/NLCD: one image a year of mapping."""
    scenes = [
        Scene(
            index=str(year),
            lattice=NLCD_LATTICE,
            layers={
                "landcover": Layer(dtype="u1", formula=partial(landcover, year=year)),
                "impervious": Layer(dtype="u1", formula=lambda x, y: 0 * x + 0 * y + 7),
            },
            start=millis(date(year, 1, 1)),
            end=millis(date(year + 1, 1, 1)),
            bounds=(-130.3, 21.7, -63.6, 52.9),
        )
        for year in years
    ]
    return Dataset(id=f"USGS/NLCD_RELEASES/{release}_REL/NLCD", scenes=tuple(scenes))


ANNUAL_YEARS = range(2015, 2024)
ANNUAL_FILL = 250
ANNUAL_COAST = -2_000_000.0
"""West of this easting (EPSG:5070) Annual NLCD holds its fill value instead of a class."""


def annual_code(x: Array, y: Array, year: int) -> Array:
    """Annual NLCD: the classes of NLCD, and its fill value, which is not masked."""
    return np.where(x < ANNUAL_COAST, ANNUAL_FILL, landcover(x, y, year))


def annual_nlcd() -> Dataset:
    """projects/sat-io/open-datasets/USGS/ANNUAL_NLCD/LANDCOVER: one image a year, band b1."""
    scenes = [
        Scene(
            index=f"Annual_NLCD_LndCov_{year}_CU_C1V0",
            lattice=NLCD_LATTICE,
            layers={"b1": Layer(dtype="u1", formula=partial(annual_code, year=year))},
            start=millis(date(year, 1, 1)),
            end=millis(date(year + 1, 1, 1)),
            properties={"year": year},
        )
        for year in ANNUAL_YEARS
    ]
    return Dataset(id="projects/sat-io/open-datasets/USGS/ANNUAL_NLCD/LANDCOVER", scenes=tuple(scenes))


SOIL = {"clay": (18.0, 8.0), "sand": (45.0, 12.0), "bd": (1.4, 0.12)}
"""POLARIS layers: middle and amplitude."""
ARC_SECOND = 1 / 3600
SOIL_LATTICE = Lattice(
    crs="EPSG:4326", transform=(ARC_SECOND, 0.0, -125.0, 0.0, -ARC_SECOND, 50.0), width=212_400, height=93_600
)


def smooth_soil(name: str, x: Array, y: Array) -> Array:
    """Soil property of 0-5 cm without the checkerboard; x and y in degrees."""
    middle, amplitude = SOIL[name]
    return middle + amplitude * wave(x, y, 0.6, phase=list(SOIL).index(name))


def soil(x: Array, y: Array, name: str, deeper: bool = False) -> Array:
    """Soil property of a pixel of one arc-second; the layer below is half as much again."""
    board = checker(x, y, ARC_SECOND)
    return smooth_soil(name, x, y) * (1 + CHECKER["soil"] * board) * (1.5 if deeper else 1.0)


def polaris(name: str) -> Dataset:
    """projects/sat-io/open-datasets/polaris/…_mean: images without a time, such as clay_0_5, band b1."""
    scenes = [
        Scene(
            index=f"{name}_{depth}",
            lattice=SOIL_LATTICE,
            layers={"b1": Layer(dtype="f4", formula=partial(soil, name=name, deeper=depth != "0_5"))},
        )
        for depth in ("0_5", "5_15")
    ]
    return Dataset(id=f"projects/sat-io/open-datasets/polaris/{name}_mean", scenes=tuple(scenes))


@lru_cache(maxsize=1)
def catalog() -> dict[str, Dataset]:
    """All products by id."""
    entries = (
        smap(), hls(), landsat(), sentinel1(), elevation_tiles(), nlcd(2019, NLCD_YEARS), nlcd(2021, (2021,)),
        annual_nlcd(), polaris("clay"), polaris("sand"), polaris("bd"), gridmet(), modis(), viirs(),
    )  # fmt: skip
    return {entry.id: entry for entry in entries}
