"""The synthetic world: inputs of every kind for any place and day, made up by position, and never observations."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.sources.base import Provenance, Rasters
from mmnet_maps.sources.demo.cover import Cover, Fields, cover, greenness, survey
from mmnet_maps.sources.demo.land import NODE, Ground, GroundNodes, ground
from mmnet_maps.sources.demo.noise import Field, Positions, ramp, spline_noise, spline_sum, spline_taps
from mmnet_maps.sources.demo.scenes import (
    BANDS,
    LANDSAT,
    Orbit,
    backscatter,
    cloudy,
    illumination,
    radar_orbit,
    reflectance,
    speckle,
)
from mmnet_maps.sources.demo.weather import (
    Climate,
    day_of_year,
    sky,
    soil_moisture,
    surface_temperature,
    weather,
)
from mmnet_maps.variables import FINE_GROUPS, FIRST_DAY, VARIABLES

_SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"
_MODIS = 926.625433055833
_EASE = 9008.055210146
_WEATHER = ("eto", "etr", "pr", "sph", "srad", "vpd", "vs", "tmmx", "tmmn")
_SLOW_NODE = 9600.0  # pitch of the pinned lattice of cloud cover and soil moisture under fine scenes, m
_DEGREE = 111_320.0  # metres in a degree of latitude
_BAND_NODES = 36_000  # nodes of the ground held by one worker
_BLOCK_PIXELS = 65_536  # pixels treated at once, so that intermediates stay in cache


@dataclass(frozen=True, kw_only=True)
class Block:
    """A run of rows of a fine window and all that its scenes share.

    Attributes
    ----------
    rows
        Rows of the window.
    places, ground, cover, fields
        Where, on what ground, under what cover, among which fields.
    elevation
        m
    east, north
        Rise over run of the terrain to the east and north.
    """

    rows: slice
    places: Positions
    ground: Ground
    cover: Cover
    fields: Fields
    elevation: Field
    east: Field
    north: Field


@dataclass(frozen=True, kw_only=True)
class Job:
    """One read of a fine group: its days and arrays, and the slow fields of those days on a pinned lattice.

    Attributes
    ----------
    days, result
        Ordinals, and the arrays to fill.
    i0, j0
        First node's column and row.
    cloud, moisture
        (day, row, column) at the nodes: share of the sky covered, and soil moisture, m³/m³.
    """

    days: NDArray[np.int64]
    result: Rasters
    i0: int
    j0: int
    cloud: Field
    moisture: Field

    @classmethod
    def of(cls, days: NDArray[np.int64], result: Rasters, places: Positions | None, seed: int) -> Job:
        """Prepare a read; without `places` the slow fields stay empty."""
        if places is None:
            nothing = np.zeros((len(days), 0, 0), np.float32)
            return cls(days=days, result=result, i0=0, j0=0, cloud=nothing, moisture=nothing)
        (i0, i1), (j0, j1) = _node_span(places.x), _node_span(places.y)
        shape = (len(days), j1 - j0, i1 - i0)
        nodes = Positions(
            x=np.tile(np.arange(i0, i1) * _SLOW_NODE, j1 - j0), y=np.repeat(np.arange(j0, j1) * _SLOW_NODE, i1 - i0)
        )
        climate = Climate.of(nodes, ground(nodes, seed))
        return cls(
            days=days,
            result=result,
            i0=i0,
            j0=j0,
            cloud=sky(nodes.x, nodes.y, days, seed).cloud.reshape(shape),
            moisture=soil_moisture(climate, days, seed).reshape(shape),
        )

    def sample(self, table: Field, places: Positions) -> Field:
        """A slow field of one day at pixels."""
        i, wx = spline_taps(places.x / _SLOW_NODE)
        j, wy = spline_taps(places.y / _SLOW_NODE)
        result: Field = spline_sum(table, i - self.i0, j - self.j0, wx, wy)
        return result


@dataclass(frozen=True)
class SyntheticWorld:
    """A deterministic, seamless continent like CONUS, as a source.

    Any window gives the same values at the same place. Fine groups come on any grid; coarse groups on the lattices
    of gridMET (``weather``), SMAP Level 4 (``smap``) and MODIS (``lst``), with NaN at sea. Acquisitions begin on
    2015-01-01 and have no end.

    Parameters
    ----------
    seed
        Which world.

    Examples
    --------
    >>> SyntheticWorld().variables()["smap"].synthetic
    True
    """

    seed: int = 2021

    @property
    def name(self) -> str:
        """``"demo"``."""
        return "demo"

    def variables(self) -> Mapping[str, Provenance]:
        """All variables, each marked as synthetic."""
        provenance = Provenance(
            source="demo",
            product="synthetic world (not an observation)",
            version=f"1-{self.seed}",
            licence="Apache-2.0",
            synthetic=True,
        )
        return dict.fromkeys(VARIABLES, provenance)

    def lattice(self, group: str) -> GeoBox:
        """The whole native grid of ``weather``, ``smap`` or ``lst``."""
        return lattice(group)

    def days(self, group: str, geobox: GeoBox, start: date, end: date) -> list[date]:
        """Days of the group from `start` to `end`: daily, or those on which a strip crosses the window."""
        start = max(start, FIRST_DAY)
        span = [start + timedelta(days=k) for k in range((end - start).days + 1)]
        if group not in ("optical", "sar"):
            return span
        edge = _places(geobox, edge=True)
        ranges: dict[Orbit, tuple[float, float]] = {}
        result = []
        for day in span:
            orbit = LANDSAT if group == "optical" else radar_orbit(day.toordinal())
            if orbit not in ranges:
                strips = orbit.strips(edge.x, edge.y)
                ranges[orbit] = float(strips.min()), float(strips.max())
            if orbit.seen(*ranges[orbit], day.toordinal()):
                result.append(day)
        return result

    def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        """All variables of a group on the days; see `Source.read`."""
        ordinals = np.array([day.toordinal() for day in days], np.int64)
        if group in FINE_GROUPS:
            return self._read_fine(group, geobox, ordinals)
        return self._read_coarse(group, geobox, ordinals)

    def _read_coarse(self, group: str, geobox: GeoBox, days: NDArray[np.int64]) -> Rasters:
        names = {"weather": _WEATHER, "smap": ("smap",), "lst": ("lst",)}[group]
        result = {name: np.full((len(days), *geobox.shape), np.nan, np.float32) for name in names}
        everywhere = _places(geobox)
        inside = np.isfinite(everywhere.x) & (np.abs(everywhere.x) < 2.8e6) & (np.abs(everywhere.y - 1.75e6) < 1.8e6)
        rows, columns = np.nonzero(inside)
        for start in range(0, len(rows), 32_768):
            some = slice(start, start + 32_768)
            r, c = rows[some], columns[some]
            places = Positions(x=everywhere.x[r, c], y=everywhere.y[r, c])
            at = ground(places, self.seed)
            land = at.coast > 0
            if group == "lst":
                land &= at.shore > -2000
            if not land.any():
                continue
            climate = Climate.of(places, at).part(land)
            for name, values in self._cells(group, climate, days).items():
                result[name][:, r[land], c[land]] = values
        return result

    def _cells(self, group: str, climate: Climate, days: NDArray[np.int64]) -> dict[str, Field]:
        if group == "smap":
            return {"smap": soil_moisture(climate, days, self.seed)}
        drive = weather(climate, days, self.seed)
        if group == "weather":
            return {name: getattr(drive, name) for name in _WEATHER}
        moisture = soil_moisture(climate, days, self.seed)
        values = surface_temperature(climate, drive, moisture, climate.green(day_of_year(days)))
        places = Positions(x=climate.x, y=climate.y)
        for k, day in enumerate(days):
            values[k, cloudy(places, drive.cloud[k], int(day), self.seed)] = np.nan
        return {"lst": values}

    def _read_fine(self, group: str, geobox: GeoBox, days: NDArray[np.int64]) -> Rasters:
        names = [name for name, variable in VARIABLES.items() if variable.group == group]
        result: Rasters = {
            name: np.full((len(days), *geobox.shape), np.nan, np.float32) for name in names if name != "landcover"
        }
        if group == "static":
            result["landcover"] = np.zeros((len(days), *geobox.shape), np.uint8)
        scene = {"static": self._static, "optical": self._optical, "sar": self._sar}[group]
        wide, steps = _places(geobox.pad(1)), _steps(geobox)
        job = Job.of(days, result, None if group == "static" else wide, self.seed)

        def work(band: slice) -> None:
            for block in self._blocks(wide, band, steps):
                scene(block, job)

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(work, _bands(wide)))
        return result

    def _blocks(self, wide: Positions, band: slice, steps: tuple[Field, float]) -> Iterator[Block]:
        """Blocks of a band of rows of the window that `wide` surrounds by one pixel."""
        nodes = GroundNodes(wide.rows(band.start, band.stop + 2), self.seed)
        fields = survey(nodes, self.seed)
        rows = max(4, _BLOCK_PIXELS // wide.shape[1])
        for start in range(band.start, band.stop, rows):
            stop = min(start + rows, band.stop)
            padded = wide.rows(start, stop + 2)
            at = nodes.at(padded)
            elevation = self._elevation(padded, at)
            east, north = gradient(elevation, (steps[0][start:stop], steps[1]))
            inner = at.inner()
            places = padded.inner()
            yield Block(
                rows=slice(start, stop),
                places=places,
                ground=inner,
                cover=cover(inner, places, fields, self.seed),
                fields=fields,
                elevation=elevation[1:-1, 1:-1],
                east=east,
                north=north,
            )

    def _elevation(self, places: Positions, at: Ground) -> Field:
        fine = np.abs(spline_noise(places, 800.0, self.seed + 51))
        fine += np.float32(0.35) * spline_noise(places, 330.0, self.seed + 52)
        fine -= np.float32(0.8)
        fine *= at.rough
        fine *= ramp(at.shore, 0, 500)
        fine += at.base
        fine[at.coast < 0] = 0
        return fine

    def _static(self, block: Block, job: Job) -> None:
        at, texture, rows, result = block.ground, block.cover.texture, block.rows, job.result
        result["elevation"][:, rows] = block.elevation
        result["landcover"][:, rows] = block.cover.code
        steepness = np.hypot(block.east, block.north)
        result["slope"][:, rows] = np.degrees(np.arctan(steepness))
        result["aspect"][:, rows] = aspect(block.east, block.north)
        sand = np.clip(at.sand + np.float32(1.6) * texture, 12, 90)
        clay = np.clip(at.clay - np.float32(0.9) * texture, 3, np.minimum(52, 97 - sand))
        dense = 1.36 + 0.0022 * sand - 0.0012 * clay - 0.10 * ramp(at.aridity, 0.6, 1.3) + np.float32(0.012) * texture
        sea = at.coast < 0
        for name, values in (("sand", sand), ("clay", clay), ("bulk_density", np.clip(dense, 1.1, 1.62))):
            values[sea] = np.nan
            result[name][:, rows] = values

    def _optical(self, block: Block, job: Job) -> None:
        strips = LANDSAT.strips(block.places.x, block.places.y)
        for k, day in enumerate(job.days):
            unseen = np.abs(LANDSAT.offset(strips, int(day))) > LANDSAT.reach
            if unseen.all():
                continue
            cloud = job.sample(job.cloud[k], block.places)
            unseen |= cloudy(block.places, cloud, int(day), self.seed)
            if unseen.all():
                continue
            doy = _doy(int(day))
            moisture = self._moisture(block, job, k)
            light = illumination(block.east, block.north, block.ground.lat, doy)
            green = greenness(block.ground, block.cover, block.fields, doy)
            wetness = ramp(moisture, 0.04, 0.42)
            bands = reflectance(green, block.cover.code, wetness, block.ground.sand, light, block.cover.texture)
            for name in BANDS:
                bands[name][unseen] = np.nan
                job.result[name][k, block.rows] = bands[name]

    def _sar(self, block: Block, job: Job) -> None:
        for k, day in enumerate(job.days):
            orbit = radar_orbit(int(day))
            offset = orbit.offset(orbit.strips(block.places.x, block.places.y), int(day))
            unseen = np.abs(offset) > orbit.reach
            if unseen.all():
                continue
            doy = _doy(int(day))
            green = greenness(block.ground, block.cover, block.fields, doy)
            moisture = self._moisture(block, job, k)
            pair = backscatter(green, block.cover.code, moisture, offset, block.east, block.cover.texture)
            for name, values, grain in zip(("vv", "vh"), pair, speckle(block.places, int(day), self.seed), strict=True):
                values += grain
                values[unseen] = np.nan
                job.result[name][k, block.rows] = values

    def _moisture(self, block: Block, job: Job, k: int) -> Field:
        """Soil moisture at pixels, m³/m³: the water balance, more of it in hollows and clay, and irrigation."""
        moisture = job.sample(job.moisture[k], block.places)
        at, day = block.ground, int(job.days[k])
        moisture *= 1.22 - 0.28 * ramp(np.abs(at.creek), 0, 0.9) + 0.006 * (at.clay - 20)
        moisture *= 1 + np.float32(0.02) * block.cover.texture
        farmed = block.cover.part >= 0
        watered = block.fields.water(day, _doy(day))[block.cover.part[farmed]]
        moisture[farmed] = np.maximum(moisture[farmed], watered)
        return np.clip(moisture, 0.02, 0.52)


@cache
def lattice(group: str) -> GeoBox:
    """The native grid of a coarse group.

    Examples
    --------
    >>> lattice("weather").shape, lattice("smap").shape
    (Shape2d(x=1386, y=585), Shape2d(x=3856, y=1624))
    """
    if group == "weather":
        cell = 1 / 24
        corner = Affine.translation(-124.766667 - cell / 2, 49.4 + cell / 2)
        return GeoBox((585, 1386), corner * Affine.scale(cell, -cell), "EPSG:4326")
    if group == "smap":
        corner = Affine.translation(-17367530.4451615, 7314540.8306386)
        return GeoBox((1624, 3856), corner * Affine.scale(_EASE, -_EASE), "EPSG:6933")
    if group == "lst":
        # The global grid's corner is (−180°, 90°), 43 200 × 21 600 cells; kept is 24–50.5° N, from 104° W at
        # 24° N to 60° W.
        left, top, width, height = 8_400, 4_740, 8_100, 3_180
        corner = Affine.translation((left - 21_600) * _MODIS, (10_800 - top) * _MODIS)
        return GeoBox((height, width), corner * Affine.scale(_MODIS, -_MODIS), _SINUSOIDAL)
    raise InputError(f"The synthetic world has no coarse group {group!r}; it has weather, smap and lst.")


def gradient(elevation: Field, step: tuple[Field, float]) -> tuple[Field, Field]:
    """Rise over run to the east and north by Horn's (1981) 3 × 3 weights.

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
    """Direction of steepest descent, degrees clockwise from north in [0, 360); 0 where flat.

    Examples
    --------
    >>> aspect(np.float32([0, -1, 1, 0]), np.float32([-1, 0, 0, 0])).tolist()
    [0.0, 90.0, 270.0, 0.0]
    """
    angle: Field = np.degrees(np.arctan2(-east, -north)) % np.float32(360)
    angle[(east == 0) & (north == 0)] = 0
    angle[angle >= 360] = 0
    return angle


def _places(geobox: GeoBox, *, edge: bool = False) -> Positions:
    """Pixel centres in EPSG:5070, to the centimetre so that windows agree; with `edge`, of the outermost pixels."""
    rows, columns = geobox.shape
    a, b, c, d, e, f = geobox.affine[:6]
    if b == 0 and d == 0 and geobox.crs is not None and geobox.crs.epsg == 5070:
        x = a * (np.arange(columns) + 0.5) + c
        y = e * (np.arange(rows) + 0.5) + f
        return Positions(x=np.round(x, 2)[None, :], y=np.round(y, 2)[:, None])
    if edge:
        around = [(k, j) for k in (0, rows - 1) for j in range(columns)]
        around += [(k, j) for k in range(rows) for j in (0, columns - 1)]
        row, column = np.array(around, np.float64).T + 0.5
    else:
        row, column = np.meshgrid(np.arange(rows) + 0.5, np.arange(columns) + 0.5, indexing="ij")
    assert geobox.crs is not None, "every grid of the product has a CRS"
    x, y = geobox.crs.transformer_to_crs("EPSG:5070")(a * column + b * row + c, d * column + e * row + f)
    return Positions(x=np.round(x, 2), y=np.round(y, 2))


def _steps(geobox: GeoBox) -> tuple[Field, float]:
    """Metres east per column, one for each row, and metres north per row."""
    assert geobox.crs is not None, "every grid of the product has a CRS"
    a, e, f = geobox.affine.a, geobox.affine.e, geobox.affine.f
    rows = geobox.shape[0]
    if geobox.crs.geographic:
        latitude = np.radians(e * (np.arange(rows) + 0.5) + f)
        return (a * _DEGREE * np.cos(latitude)).astype(np.float32)[:, None], e * _DEGREE
    metre = geobox.crs.proj.axis_info[0].unit_conversion_factor
    return np.full((rows, 1), a * metre, np.float32), e * metre


def _bands(wide: Positions) -> list[slice]:
    """Runs of rows of the window inside `wide`, each with ground enough for one worker and no more."""
    rows = wide.shape[0] - 2
    extent_x, extent_y = float(np.ptp(wide.x)) / NODE + 1, float(np.ptp(wide.y)) / NODE + 1
    nodes = extent_x * extent_y / rows
    high = int(np.clip(max(_BAND_NODES / nodes, min(64 * rows / extent_y, 2e6 / nodes)), 1, rows))
    return [slice(start, min(start + high, rows)) for start in range(0, rows, high)]


def _node_span(values: NDArray[np.float64]) -> tuple[int, int]:
    return int(np.floor(values.min() / _SLOW_NODE)) - 1, int(np.floor(values.max() / _SLOW_NODE)) + 3


def _doy(day: int) -> int:
    return date.fromordinal(day).timetuple().tm_yday
