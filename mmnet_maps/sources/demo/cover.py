"""The synthetic world's land cover: fields on a survey grid, towns, and natural vegetation with its seasons."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.sources.demo.land import Ground, GroundNodes, transformer
from mmnet_maps.sources.demo.noise import Coordinates, Field, Positions, ramp, spline_noise, uniform

QUARTER = 804.672
"""A quarter section's side, m (half a mile)."""

_METRES = 111_320.0
_BAND = 48  # quarter sections between the survey's correction lines (24 miles)
_PIVOT = 0.497  # a centre pivot's radius (400 m) as a share of the quarter section

# Per crop: NLCD code, NDVI before and at its peak, day of green-up and of senescence.
_CROPS = np.array(
    [
        (81, 0.36, 0.80, 92, 298),  # alfalfa
        (82, 0.15, 0.85, 168, 262),  # maize
        (82, 0.15, 0.82, 150, 246),  # potatoes
        (82, 0.17, 0.78, 96, 192),  # irrigated wheat
        (82, 0.32, 0.66, 118, 290),  # orchard
        (82, 0.13, 0.20, 100, 200),  # fallow
        (81, 0.28, 0.66, 100, 280),  # hay
        (82, 0.14, 0.60, 98, 182),  # dryland wheat
    ],
    np.float32,
)
_IRRIGATED_SHARES = np.cumsum([0.25, 0.25, 0.16, 0.18, 0.08, 0.06, 0.02])
_RAINFED_SHARES = np.cumsum([0.03, 0.42, 0.0, 0.06, 0.02, 0.09, 0.20])
_DRYLAND_SHARES = np.cumsum([0.02, 0.0, 0.0, 0.08, 0.0, 0.34, 0.10])

# NDVI of natural and built cover at rest and at its peak, green-up and senescence at 9 °C.
_COVER_SEASONS: dict[int, tuple[float, float, float, float]] = {
    11: (-0.15, -0.12, 100, 250),
    12: (0.0, 0.02, 150, 250),
    21: (0.24, 0.50, 105, 280),
    22: (0.20, 0.42, 105, 280),
    23: (0.16, 0.32, 105, 280),
    24: (0.12, 0.20, 105, 280),
    31: (0.07, 0.11, 100, 180),
    41: (0.33, 0.84, 120, 288),
    42: (0.60, 0.74, 110, 290),
    43: (0.46, 0.80, 118, 288),
    52: (0.15, 0.34, 92, 168),
    71: (0.17, 0.52, 100, 205),
    81: (0.28, 0.62, 98, 280),
    82: (0.15, 0.60, 120, 240),
    90: (0.38, 0.80, 115, 285),
    95: (0.26, 0.70, 120, 275),
}
_SEASONS = np.zeros((256, 4), np.float32)
for _code, _season in _COVER_SEASONS.items():
    _SEASONS[_code] = _season


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The quarter sections of a window, as tables with one row per section and four parts to each.

    Attributes
    ----------
    i0, j0, width
        First section's column and row, and the number of columns.
    kind
        (sections,) 0 wild, 1 circle, 2 whole, 3 north and south halves, 4 west and east halves, 5 quarters.
    crop, irrigated, draw
        (sections × 4,) row of the crop table, whether irrigated, a random number of the part.
    warmth
        (sections × 4,) annual temperature, °C.
    seasons
        NDVI by day of the year, for the days computed so far.
    """

    i0: int
    j0: int
    width: int
    kind: NDArray[np.uint8]
    crop: NDArray[np.uint8]
    irrigated: NDArray[np.bool_]
    draw: Field
    warmth: Field
    seasons: dict[int, Field] = field(default_factory=dict, repr=False)

    def ndvi(self, doy: int) -> Field:
        """Return the NDVI of every part on a day of the year."""
        if doy not in self.seasons:
            self.seasons[doy] = self._ndvi(doy)
        return self.seasons[doy]

    def _ndvi(self, doy: int) -> Field:
        row = _CROPS[self.crop]
        shift = 24 * (self.draw - np.float32(0.5)) + np.clip(3.0 * (9 - self.warmth), -45, 30)
        peak = row[:, 2] - np.float32(0.12) * (self.draw * 7 % 1)
        value = season(doy, row[:, 1], peak, row[:, 3] + shift, row[:, 4] + shift * np.float32(0.5))
        # Alfalfa is cut every five weeks while it grows.
        phase = ((doy + 35 * self.draw) / 35) % 1
        cut = (self.crop == 0) & (doy > 135) & (doy < 285)
        result: Field = np.where(cut, value - np.float32(0.4) * np.maximum(1 - phase * 2.2, 0), value)
        return result.astype(np.float32)

    def water(self, day: int, doy: int) -> Field:
        """Return the soil moisture that irrigation adds in every part on a day, m³/m³."""
        growing = self.irrigated & (self.ndvi(doy) > 0.3) & (self.crop != 5)
        # Fields are watered in turn, each on every fourth day, and dry in between.
        turn = (self.draw * np.float32(64) + np.float32(day % 4 / 4)) % np.float32(1)
        result: Field = (np.float32(0.125) - np.float32(0.09) * turn) * growing
        return result


@dataclass(frozen=True, kw_only=True)
class Cover:
    """Land cover of a block: NLCD code (0: none), part of a field (−1: no field), and the fine noise behind both."""

    code: NDArray[np.uint8]
    part: NDArray[np.int32]
    texture: Field


def season(doy: float, rest: Field, peak: Field, greenup: Field, senescence: Field) -> Field:
    """Return NDVI by a double logistic that rises around `greenup` and falls around `senescence` (days of the year)."""
    up = 1 / (1 + np.exp(np.clip((greenup - np.float32(doy)) * np.float32(1 / 8), -30, 30)))
    down = 1 / (1 + np.exp(np.clip((np.float32(doy) - senescence) * np.float32(1 / 9), -30, 30)))
    result: Field = rest + (peak - rest) * up * down
    return result


def sections(lon: Coordinates, lat: Coordinates) -> tuple[Coordinates, Coordinates]:
    """Return survey coordinates in quarter sections; columns start again at every correction line."""
    v = lat * (_METRES / QUARTER)
    band = np.floor(v / _BAND)
    first = int(band.min())
    cosine = np.cos(np.radians(np.arange(first, int(band.max()) + 1) * (_BAND * QUARTER / _METRES)))
    return lon * (_METRES / QUARTER) * cosine[(band - first).astype(np.int64)], v


def survey(nodes: GroundNodes, seed: int) -> Fields:
    """Decide the fields of all sections around the nodes."""
    u, v = sections(*nodes.lonlat)
    i0, j0 = int(np.floor(u.min())), int(np.floor(v.min()))
    i, j = np.arange(i0, int(np.floor(u.max())) + 1), np.arange(j0, int(np.floor(v.max())) + 1)
    centre_lat = np.broadcast_to((j[:, None] + 0.5) * (QUARTER / _METRES), (len(j), len(i)))
    cosine = np.cos(np.radians(j // _BAND * (_BAND * QUARTER / _METRES)))
    centre_lon = (i[None, :] + 0.5) * QUARTER / _METRES / cosine[:, None]
    x, y = transformer(4326, 5070)(centre_lon, centre_lat)
    at = nodes.at(nodes.clipped(Positions(x=x, y=y)))
    a, b = i[None, :], j[:, None]
    irrigated, kind = _kinds(at, a, b, seed)
    part = np.arange(4)
    draw = uniform(a[:, :, None] * 4 + part, b[:, :, None], seed + 33)
    chance = uniform(a[:, :, None] * 4 + part, b[:, :, None], seed + 34)
    moist = (at.rain > 480)[:, :, None]
    crop = np.where(
        irrigated[:, :, None],
        np.searchsorted(_IRRIGATED_SHARES, chance),
        np.where(moist, np.searchsorted(_RAINFED_SHARES, chance), np.searchsorted(_DRYLAND_SHARES, chance)),
    )
    return Fields(
        i0=i0,
        j0=j0,
        width=len(i),
        kind=kind.ravel(),
        crop=np.minimum(crop, len(_CROPS) - 1).astype(np.uint8).ravel(),
        irrigated=np.repeat(irrigated.ravel(), 4),
        draw=draw.ravel(),
        warmth=np.repeat(at.temperature.ravel(), 4),
    )


def _kinds(
    at: Ground, a: NDArray[np.int64], b: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Decide for each section if it is irrigated, and its layout."""
    flat = ramp(at.rough, 12, 5)
    chance, layout = uniform(a, b, seed + 31), uniform(a, b, seed + 32)
    dry_share = 0.88 * at.irrigable * flat
    rain_share = 0.85 * flat * ramp(at.rain, 280, 420) * (1 - 0.85 * ramp(at.rain, 950, 1250))
    rain_share *= ramp(at.temperature, 2, 5)
    irrigated = chance < dry_share
    farmed = chance < dry_share + (1 - dry_share) * rain_share
    pivots = np.where(at.rain < 750, 0.66, 0.08)
    rectangles = 2 + np.minimum(4 * (layout - pivots) / (1 - pivots), 3).astype(np.uint8)
    plain = 2 + (4 * layout).astype(np.uint8)
    kind = np.where(irrigated, np.where(layout < pivots, 1, rectangles), np.where(farmed, plain, 0))
    return irrigated, kind.astype(np.uint8)


def fine_noise(places: Positions, seed: int) -> Field:
    """Return the fine noise behind land cover and soil."""
    noise = spline_noise(places, 1300.0, seed + 41)
    noise += np.float32(0.6) * spline_noise(places, 450.0, seed + 42)
    return noise


def cover(at: Ground, texture: Field, fields: Fields) -> Cover:
    """Return the land cover of a block from its ground, its `fine_noise` and its fields."""
    part = _parts(at, fields)
    code = _wild(at, texture)
    farmed = part >= 0
    code[farmed] = _CROPS[fields.crop[part[farmed]], 0].astype(np.uint8)
    density = at.town + np.float32(0.14) * texture
    built = density > 0.08
    for limit, built_code in ((0.08, 21), (0.32, 22), (0.55, 23), (0.78, 24)):
        code[density > limit] = built_code
    stream = np.abs(at.creek)
    wet = (stream < at.creek_width * np.float32(2.2)) & (at.aridity > 0.5) | (np.abs(at.shore - 90) < 90 + 60 * texture)
    marsh = wet & ~built & (code != 12) & ((at.aridity > 0.45) | (texture > 0.7))
    code[marsh] = np.where(at.aridity[marsh] > 0.75, 90, 95)
    water = (at.shore < 0) | (stream < at.creek_width) | (at.coast < 0)
    code[water] = 11
    part[water | built | marsh] = -1
    return Cover(code=code, part=part, texture=texture)


def _parts(at: Ground, fields: Fields) -> NDArray[np.int32]:
    """Return the row of the fields' tables at each pixel, −1 where there is no field."""
    u, v = sections(at.lon, at.lat)
    i, j = np.floor(u), np.floor(v)
    du, dv = (u - i).astype(np.float32) - np.float32(0.5), (v - j).astype(np.float32) - np.float32(0.5)
    section = ((j - fields.j0) * fields.width + (i - fields.i0)).astype(np.int32)
    kind = fields.kind[section]
    east, north = (du > 0).view(np.uint8), (dv > 0).view(np.uint8)
    part: NDArray[np.int32] = section * np.int32(4)
    part += north * (kind == 3) + east * (kind == 4) + (2 * north + east) * (kind == 5)
    outside = (kind == 0) | ((kind == 1) & (du * du + dv * dv > np.float32(_PIVOT**2)))
    part[outside] = -1
    return part


def _wild(at: Ground, texture: Field) -> NDArray[np.uint8]:
    """Return the NLCD code of natural vegetation, from aridity and warmth, with ragged edges."""
    moisture = at.aridity + np.float32(0.045) * texture
    code = np.full(moisture.shape, 52, np.uint8)
    code[moisture < 0.07] = 31
    code[moisture > 0.40 - 0.06 * (texture > 1.3)] = 71
    forest = moisture > 0.80
    conifers = np.clip(ramp(at.lon, -97, -103) + ramp(at.temperature, 5, 2) + ramp(at.temperature, 15, 18), 0, 1)
    conifers += np.float32(0.25) * texture
    code[forest] = 41
    code[forest & (conifers > 0.3)] = 43
    code[forest & (conifers > 0.55)] = 42
    cold = at.temperature + np.float32(0.5) * texture
    code[cold < -1.0] = 71
    code[cold < -2.5] = 31
    code[cold < -5.0] = 12
    return code


def greenness(at: Ground, block: Cover, fields: Fields, doy: int) -> Field:
    """Return the NDVI of a block on a day of the year."""
    row = _SEASONS[block.code]
    shift = np.clip(np.float32(3.0) * (9 - at.temperature), -45, 40)
    # Shrubs and grass peak lower where less rain falls.
    lush = np.clip(at.aridity * np.float32(1.6), 0.35, 1.0)
    lush = np.where((block.code == 52) | (block.code == 71), lush, np.float32(1.0))
    peak = row[..., 0] + (row[..., 1] - row[..., 0]) * lush
    value = season(doy, row[..., 0], peak, row[..., 2] + shift, row[..., 3] - np.float32(0.4) * shift)
    value += np.float32(0.022) * block.texture
    farmed = block.part >= 0
    value[farmed] = fields.ndvi(doy)[block.part[farmed]] + np.float32(0.012) * block.texture[farmed]
    return value
