"""Noise by position: the same value at the same place, in any window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Field = NDArray[np.float32]
Coordinates = NDArray[np.float64]

# Random lattice values are uniform; these factors give the interpolated noise about unit variance.
_SPLINE_SCALE = np.float32(3.61)
_VALUE_SCALE = np.float32(2.2)


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Places in metres whose coordinates broadcast to `shape`.

    Attributes
    ----------
    x, y
        Float64: (1, width) and (height, 1) on a north-up grid, else both of the full shape.
    """

    x: Coordinates
    y: Coordinates

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a field at these places."""
        return np.broadcast_shapes(self.x.shape, self.y.shape)

    @property
    def separable(self) -> bool:
        """Return True if x varies along the columns only and y along the rows only."""
        return self.x.ndim == 2 and self.x.shape[0] == 1 and self.y.shape[1] == 1

    def rows(self, start: int, stop: int) -> Positions:
        """Return the places of the rows from `start` up to `stop`."""
        return Positions(x=self.x if self.separable else self.x[start:stop], y=self.y[start:stop])

    def inner(self) -> Positions:
        """Return the places without the outermost rows and columns."""
        if self.separable:
            return Positions(x=self.x[:, 1:-1], y=self.y[1:-1])
        return Positions(x=self.x[1:-1, 1:-1], y=self.y[1:-1, 1:-1])


def mix(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Scramble 32-bit integers in place: a bijection in which every bit depends on every other.

    Xor-shift-multiply finaliser with the constants of Wellons' search (hash prospector, public domain).
    """
    values ^= values >> np.uint32(16)
    values *= np.uint32(0x7FEB352D)
    values ^= values >> np.uint32(15)
    values *= np.uint32(0x846CA68B)
    values ^= values >> np.uint32(16)
    return values


def hashed(i: ArrayLike, j: ArrayLike, seed: ArrayLike) -> NDArray[np.uint32]:
    """Hash integer lattice indices (any sign) and seeds, broadcast together, to 32 random bits each.

    Examples
    --------
    >>> bool(hashed(3, -4, 1)[0] == hashed([2, 3], -4, 1)[1])
    True
    """
    columns = _bits(i) * np.uint32(0x9E3779B1) + mix(_bits(seed) * np.uint32(0xC2B2AE3D) + np.uint32(0x27D4EB2F))
    return mix(mix(columns) + _bits(j) * np.uint32(0x85EBCA77))


def uniform(i: ArrayLike, j: ArrayLike, seed: ArrayLike) -> Field:
    """Return uniform numbers in [0, 1) for lattice indices, float32."""
    result = (hashed(i, j, seed) >> np.uint32(8)).astype(np.float32)
    result *= np.float32(2.0**-24)
    return result


def white(places: Positions, cell: float, seed: int) -> Field:
    """Return nearly normal white noise of unit variance, one draw per `cell` × `cell` metres of the lattice."""
    bits = hashed(np.floor(places.x / cell), np.floor(places.y / cell), seed)
    total = (bits & np.uint32(0xFFFF)).astype(np.float32)
    total += bits >> np.uint32(16)
    total -= np.float32(65535.0)
    total *= np.float32(1 / 26755.0)
    return total


def value_noise(u: ArrayLike, v: ArrayLike, seed: ArrayLike) -> Field:
    """Return smooth noise of unit variance at lattice coordinates (float64); seeds may differ from place to place."""
    u, v = np.asarray(u, np.float64), np.asarray(v, np.float64)
    i, j = np.floor(u), np.floor(v)
    fu, fv = fade((u - i).astype(np.float32)), fade((v - j).astype(np.float32))
    upper = uniform(i, j, seed)
    upper += fu * (uniform(i + 1, j, seed) - upper)
    lower = uniform(i, j + 1, seed)
    lower += fu * (uniform(i + 1, j + 1, seed) - lower)
    upper += fv * (lower - upper)
    upper -= np.float32(0.5)
    upper *= _VALUE_SCALE * np.float32(2.0)
    return upper


def moving_noise(u: ArrayLike, v: ArrayLike, t: ArrayLike, seed: int) -> Field:
    """Return smooth noise of about unit variance in two lattice coordinates and time."""
    t = np.asarray(t, np.float64)
    k = np.floor(t)
    weight = fade((t - k).astype(np.float32))
    before, after = value_noise(u, v, hashed(k, 7, seed)), value_noise(u, v, hashed(k + 1, 7, seed))
    result: Field = before + weight * (after - before)
    result *= np.float32(1.16)
    return result


def spline_noise(places: Positions, wavelength: float, seed: int) -> Field:
    """Interpolate random lattice values by a cubic B-spline: twice differentiable, without visible axes, unit variance.

    Parameters
    ----------
    places
        Where.
    wavelength
        Distance of the lattice values in metres.
    seed
        Which noise.
    """
    i, wx = spline_taps(places.x / wavelength)
    j, wy = spline_taps(places.y / wavelength)
    i0, j0 = int(i.min()), int(j.min())
    width, height = int(i.max()) - i0 + 4, int(j.max()) - j0 + 4
    size = int(np.prod(places.shape))
    if not places.separable and width * height > 4 * size + 4096:
        return _scattered(i, j, wx, wy, seed)
    table = uniform(np.arange(i0, i0 + width)[None, :], np.arange(j0, j0 + height)[:, None], seed)
    table -= np.float32(0.5)
    table *= np.float32(2.0) * _SPLINE_SCALE
    return spline_sum(table, i - i0, j - j0, wx, wy)


def spline_taps(u: Coordinates) -> tuple[NDArray[np.int64], tuple[Field, Field, Field, Field]]:
    """Return the first of four lattice indices around each coordinate, and the four cubic B-spline weights.

    Examples
    --------
    >>> first, weights = spline_taps(np.array([2.0]))
    >>> first.tolist(), [round(float(w[0]), 4) for w in weights]
    ([1], [0.1667, 0.6667, 0.1667, 0.0])
    """
    whole = np.floor(u)
    f = (u - whole).astype(np.float32)
    g = np.float32(1.0) - f
    sixth = np.float32(1 / 6)
    w0, w3 = g * g * g * sixth, f * f * f * sixth
    w1 = np.float32(2 / 3) - f * f * (np.float32(1.0) - np.float32(0.5) * f)
    w2 = np.float32(1.0) - w0 - w1 - w3
    return whole.astype(np.int64) - 1, (w0, w1, w2, w3)


def spline_sum(table: NDArray[Any], i: NDArray[np.int64], j: NDArray[np.int64], wx: Any, wy: Any) -> NDArray[Any]:
    """Sum a lattice `table` with B-spline taps, first along x and then along y, in the table's precision.

    With i of shape (1, width) and j of (height, 1) the sum is separable and costs four row operations a pixel.
    """
    if i.ndim == 2 and i.shape[0] == 1 and j.shape[1] == 1:
        along: NDArray[Any] = table[:, i[0]] * wx[0]
        for a in range(1, 4):
            along += table[:, i[0] + a] * wx[a]
        rows = j[:, 0]
        result = along.take(rows, axis=0)
        result *= wy[0]
        term = np.empty_like(result)
        for b in range(1, 4):
            along.take(rows + b, axis=0, out=term, mode="clip")
            term *= wy[b]
            result += term
        return result
    flat, width = table.ravel(), table.shape[1]
    start = j * width + i
    result = np.zeros(start.shape, table.dtype)
    for b in range(4):
        along = flat.take(start + b * width) * wx[0]
        for a in range(1, 4):
            along += flat.take(start + (b * width + a)) * wx[a]
        along *= wy[b]
        result += along
    return result


def fade(f: Field) -> Field:
    """Return a quintic step from 0 to 1 with flat ends (Perlin 2002)."""
    inner = f * (f * np.float32(6.0) - np.float32(15.0)) + np.float32(10.0)
    result: Field = f * f * f * inner
    return result


def ramp(values: NDArray[Any], low: float, high: float) -> Field:
    """Return a smooth step: 0 at `low` and beyond, 1 at `high` and beyond; `low` may be the larger.

    Examples
    --------
    >>> ramp(np.array([0.0, 5.0, 10.0], np.float32), 10, 0).tolist()
    [1.0, 0.5, 0.0]
    """
    t = (values - np.float32(low)).astype(np.float32, copy=False)
    t *= np.float32(1 / (high - low))
    np.clip(t, 0.0, 1.0, out=t)
    result: Field = t * t * (np.float32(3.0) - np.float32(2.0) * t)
    return result


def _scattered(i: NDArray[np.int64], j: NDArray[np.int64], wx: Any, wy: Any, seed: int) -> Field:
    """Compute the spline sum of sparse places, for which a table of the lattice would be larger than the places."""
    result = np.zeros(np.broadcast_shapes(i.shape, j.shape), np.float32)
    for b in range(4):
        along = np.zeros_like(result)
        for a in range(4):
            along += ((uniform(i + a, j + b, seed) - np.float32(0.5)) * (np.float32(2.0) * _SPLINE_SCALE)) * wx[a]
        along *= wy[b]
        result += along
    return result


def _bits(values: ArrayLike) -> NDArray[np.uint32]:
    return np.atleast_1d(np.asarray(values)).astype(np.int64).astype(np.uint32)
