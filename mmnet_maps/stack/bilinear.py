"""Sample coarse fields between their cell centres, at positions that are located once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.grid.lattice import Window
from mmnet_maps.stack.interpolate import Float

_STRIP = 16_384  # positions


class Bilinear:
    """Positions among the cells of a window, at which fields are sampled.

    Corners that are missing or lie beyond the field are left out and the weights of the others renormalised.

    Parameters
    ----------
    rows, cols
        Positions (y, x) in cells of the lattice, cell centres at whole numbers plus one half.
    window
        The cells of the fields.
    lattice
        Rows and columns of the lattice; there are no values beyond it.
    """

    def __init__(
        self, rows: NDArray[np.float64], cols: NDArray[np.float64], window: Window, lattice: tuple[int, int]
    ) -> None:
        self._shape = rows.shape
        self._width = window[1].stop - window[1].start + 2
        height, width = (part.stop - part.start for part in window)
        step = max(1, _STRIP // max(1, rows.shape[1]))
        # A few rows at a time, so that intermediate results stay in the cache.
        self._strips = [
            _Strip(rows[k : k + step], cols[k : k + step], window, (height, width), lattice)
            for k in range(0, len(rows), step)
        ]
        self._step = step

    def sample(self, values: Float) -> Float:
        """Sample a field (row, col).

        Returns
        -------
        ndarray (y, x)
            float32; NaN where all four corners are missing. A value depends on its position and corners alone, not on
            the positions sampled with it.
        """
        known = np.pad(~np.isnan(values), 1)
        padded = np.where(known, np.pad(values, 1), np.float32(0)).ravel()
        share, whole = known.astype(np.float32).ravel(), bool(known[1:-1, 1:-1].all())
        sampled = np.empty(self._shape, np.float32)
        for k, strip in enumerate(self._strips):
            rows = slice(k * self._step, (k + 1) * self._step)
            strip.sample(padded, None if whole and strip.inner else share, self._width, sampled[rows])
        return sampled


class _Strip:
    """Some rows of positions: upper left corners in the field with a margin, and shares of the way to the others."""

    def __init__(
        self,
        rows: NDArray[np.float64],
        cols: NDArray[np.float64],
        window: Window,
        shape: tuple[int, int],
        lattice: tuple[int, int],
    ) -> None:
        (height, width), (first_row, first_col) = shape, (part.start for part in window)
        row = np.nan_to_num(rows - first_row, nan=-9.0) - 0.5
        col = np.nan_to_num(cols - first_col, nan=-9.0) - 0.5
        top, left = np.floor(row), np.floor(col)
        self.down, self.right = (row - top).astype(np.float32), (col - left).astype(np.float32)
        self.inner = bool(top.min() >= 0 and left.min() >= 0 and top.max() < height - 1 and left.max() < width - 1)
        self.start = np.clip(top, -1, height - 1).astype(np.intp) * (width + 2) + width + 3
        self.start += np.clip(left, -1, width - 1).astype(np.intp)
        self.off: NDArray[np.bool_] | None = None
        on_lattice = rows.min() >= 0 and cols.min() >= 0 and rows.max() < lattice[0] and cols.max() < lattice[1]
        if not (self.inner and on_lattice):
            self.off = (top < -1) | (top >= height) | (left < -1) | (left >= width)
            self.off |= ~((rows >= 0) & (cols >= 0) & (rows < lattice[0]) & (cols < lattice[1]))

    def sample(self, padded: Float, share: Float | None, width: int, total: Float) -> None:
        """Sample the field into `total`, given which of its values are known, None for all four corners everywhere."""
        down, right = self.down, self.right
        up, left = 1 - down, 1 - right
        weight, corners, part = (np.zeros(total.shape, np.float32) for _ in range(3))
        for number, (step, first, second) in enumerate(
            ((0, up, left), (1, up, right), (width, down, left), (width + 1, down, right))
        ):
            portion = first * second
            np.take(padded[step:], self.start, out=part, mode="clip")
            if share is not None:
                known = share[step:][self.start]
                weight += known * portion
                corners += known
            np.multiply(part, portion, out=total if not number else part)
            if number:
                total += part
        if share is not None:
            # Rounded weights of four corners do not add up to 1: dividing by them would depend on the window.
            with np.errstate(invalid="ignore", divide="ignore"):
                np.divide(total, weight, out=total, where=corners < 4)
        if self.off is not None:
            total[self.off] = np.nan
