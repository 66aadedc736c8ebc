"""Intervals from the errors at held-out stations, and their coverage at other held-out stations (split conformal)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.metrics import ESTIMATE, TARGET
from mmnet_maps.training.calibration import LEVELS


def half_width(station: NDArray[np.str_], error: NDArray[np.floating], level: float) -> float:
    """Return the half-width of an interval that holds a share of the errors, every station with the same weight.

    As for one more station that is exchangeable with these, the share is enlarged by (n + 1)/n for n stations.

    Parameters
    ----------
    station, error
        Shape (n,); errors in m³/m³, without NaN.
    level
        Nominal coverage, %.

    Examples
    --------
    >>> half_width(np.array(["a", "a", "a", "b"]), np.array([0.1, -0.2, 0.3, 0.4]), 50)
    0.4
    """
    _, which, count = np.unique(station, return_inverse=True, return_counts=True)
    size = np.abs(error)
    order = np.argsort(size, kind="stable")
    share = np.cumsum(1 / (count.size * count[which][order]))
    wanted = min(level / 100 * (count.size + 1) / count.size, 1.0)
    return float(size[order][min(np.searchsorted(share, wanted - 1e-9), size.size - 1)])


def coverage(by_split: Mapping[str, Mapping[str, NDArray[Any]]]) -> dict[str, dict[str, float]]:
    """Judge intervals of constant width about the estimates of each split, from the errors of the other splits.

    Parameters
    ----------
    by_split
        ``station``, observation and estimate of the tested rows, by split; no station is in two.

    Returns
    -------
    dict
        By nominal coverage (%), the share of observations (%) of each station that its interval holds; and under
        ``width``, the mean width of the intervals, m³/m³. Empty where there are fewer than two splits with errors.
    """
    errors: dict[str, tuple[NDArray[np.str_], NDArray[np.floating]]] = {}
    for split, rows in by_split.items():
        error = rows[ESTIMATE] - rows[TARGET]
        if np.isfinite(error).any():
            errors[split] = (rows["station"][np.isfinite(error)], error[np.isfinite(error)])
    if len(errors) < 2:
        return {}
    found: dict[str, dict[str, float]] = {"width": {}}
    for level in LEVELS:
        shares, widths = dict[str, float](), []
        for split, (station, error) in errors.items():
            others = [pair for other, pair in errors.items() if other != split]
            radius = half_width(
                np.concatenate([one for one, _ in others]), np.concatenate([off for _, off in others]), level
            )
            widths.append(2 * radius)
            for name in np.unique(station):
                shares[str(name)] = 100 * float((np.abs(error[station == name]) <= radius).mean())
        found[str(level)] = shares
        found["width"][str(level)] = float(np.mean(widths))
    return found
