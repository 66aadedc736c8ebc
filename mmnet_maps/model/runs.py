"""Runs of neighbouring pixels below the same cells, so that what depends on cells alone is computed once a run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def runs_of(series_id: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.intp]]:
    """Return the series cells (groups, runs) of runs of pixels below the same cells, and the run of each pixel.

    Examples
    --------
    >>> cells, runs = runs_of(np.array([[4, 4, 4, 5], [7, 7, 8, 8]]))
    >>> cells.tolist(), runs.tolist()
    ([[4, 4, 5], [7, 8, 8]], [0, 0, 1, 2])
    """
    count = series_id.shape[1]
    begins = np.ones(count, bool)
    np.logical_or.reduce(series_id[:, 1:] != series_id[:, :-1], axis=0, out=begins[1:])
    starts = np.flatnonzero(begins)
    return series_id[:, starts], np.repeat(np.arange(starts.size), np.diff(starts, append=count))
