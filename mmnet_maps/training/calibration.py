"""Calibration of a model's standard deviations: coverage of intervals, and the factor that corrects it."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from mmnet_maps.errors import InputError

LEVELS = (50, 80, 90, 95)
"""Central intervals whose coverage is judged, %."""

BINS = 10
"""Number of bins of the histogram of PIT values, and of the spread."""


class SpreadBin(TypedDict):
    """Rows of similar spread: root mean squares of standard deviations and of errors, m³/m³."""

    spread: float
    error: float


class Calibration(TypedDict):
    """Fit of normal distributions about the estimates to the observations.

    Attributes
    ----------
    coverage
        Share of observations (%) within the central interval, by its nominal probability (%).
    pit
        Shares (%) of the values of the predictive distribution function at the observations, in 10 bins from 0 to 1:
        10 each when calibrated; high ends mean intervals that are too narrow, a slope a bias.
    crps
        Mean continuous ranked probability score, m³/m³; lower is better.
    spread_error
        Ten bins from the smallest spread to the largest, equally filled: where the spread predicts the error, both
        are similar in each bin.
    """

    coverage: dict[str, float]
    pit: list[float]
    crps: float
    spread_error: list[SpreadBin]


class Reliability(TypedDict):
    """Calibration of standard deviations, as given and as recalibrated.

    Attributes
    ----------
    std_factor
        The factor on the given standard deviations, see `std_factor`.
    """

    stations: int
    samples: int
    std_factor: float
    given: Calibration
    recalibrated: Calibration


def judge(
    station: NDArray[np.str_],
    observed: NDArray[np.floating],
    estimate: NDArray[np.floating],
    std: NDArray[np.floating],
) -> Reliability:
    """Compare normal distributions about estimates with observations, every station with the same weight.

    Rows of a station are far from independent: most of the error at a station not seen in training is an offset
    that all of its days share. So all stations have the same weight, however many rows they have.

    Parameters
    ----------
    station, observed, estimate, std
        Shape (n,); soil moisture in m³/m³. Rows where a value is NaN are left out.

    Returns
    -------
    Reliability
        Calibration of the standard deviations as given, and multiplied by the factor.

    Raises
    ------
    InputError
        No row has all values, or a standard deviation among them is 0.
    """
    whole = np.isfinite(observed) & np.isfinite(estimate) & np.isfinite(std)
    if not whole.any():
        raise InputError("no row has an observation, an estimate and a standard deviation; check the inputs for NaN")
    y, mean, spread = (values[whole].astype(np.float64) for values in (observed, estimate, std))
    if not spread.min() > 0:
        raise InputError(
            f"{int((spread <= 0).sum())} of {spread.size} standard deviations are 0, because the members do not "
            "differ there: the model has no dropout; give one that has"
        )
    weight = _station_weights(station[whole])
    factor = std_factor(y, mean, spread, weight)
    return {
        "stations": int(np.unique(station[whole]).size),
        "samples": int(whole.sum()),
        "std_factor": factor,
        "given": _calibration(y, mean, spread, weight),
        "recalibrated": _calibration(y, mean, factor * spread, weight),
    }


def std_factor(
    observed: NDArray[np.float64],
    estimate: NDArray[np.float64],
    std: NDArray[np.float64],
    weight: NDArray[np.float64],
) -> float:
    """Return the factor on standard deviations under which the observations are most likely.

    The weighted likelihood of normal distributions is largest at the root of the weighted mean of z², z = (observed -
    estimate) / std (Laves et al., 2020, Proc. MIDL, 393-412). It uses all rows; a factor that corrects the coverage of
    a single interval would use its ends alone.

    Parameters
    ----------
    observed, estimate, std, weight
        Shape (n,); weights sum to 1.

    Examples
    --------
    >>> std_factor(np.array([0.2, 0.0]), np.array([0.1, 0.1]), np.array([0.05, 0.05]), np.array([0.5, 0.5]))
    2.0
    """
    return float(np.sqrt(np.sum(weight * ((observed - estimate) / std) ** 2)))


def conformal_factor(
    station: NDArray[np.str_],
    observed: NDArray[np.floating],
    estimate: NDArray[np.floating],
    std: NDArray[np.floating],
    level: float = 0.9,
) -> float:
    """Return the factor on standard deviations under which a central interval holds its share at stations not seen.

    Split conformal prediction with whole stations as the units that are exchanged, since the days of one share most of
    their error: of n stations, the interval is to hold ``level`` (n + 1) / n of the observations, each station with the
    same weight, and not ``level``, which the next station would reach only with infinitely many.

    Parameters
    ----------
    station, observed, estimate, std
        Shape (n,), without NaN, at stations that the model was not trained on.
    level
        Share of the observations.

    Examples
    --------
    >>> found = conformal_factor(np.array(["a", "b"]), np.array([0.1, 0.3]), np.zeros(2), np.ones(2), level=0.5)
    >>> round(found * float(ndtri(0.75)), 6)  # with two stations, three quarters are to be held, so both
    0.3
    """
    weight = _station_weights(station)
    distance = np.abs(np.asarray(observed, np.float64) - estimate) / std
    order = np.argsort(distance, kind="stable")
    asked = min(1.0, level * (1 + 1 / np.unique(station).size))
    place = int(np.searchsorted(np.cumsum(weight[order]), asked - 1e-9))
    return float(distance[order][min(place, order.size - 1)] / ndtri(0.5 + level / 2))


def normal_crps(
    observed: NDArray[np.float64], estimate: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the continuous ranked probability score of normal distributions, in the observations' units, (n,).

    Closed form of Gneiting et al. (2005, Mon. Weather Rev. 133, 1098-1118, eq. 5).

    Examples
    --------
    >>> normal_crps(np.zeros(1), np.zeros(1), np.ones(1)).round(4)
    array([0.2337])
    """
    z = (observed - estimate) / std
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return np.asarray(std * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi)))


def format_reliability(found: Reliability) -> str:
    """Format the calibration, as given and recalibrated, as a table for the terminal."""
    columns = (found["given"], found["recalibrated"])
    lines = [f"{'standard deviations':<28} {'given':>8} {'recalibrated':>13}"]
    lines.append(f"{'factor':<28} {1:>8.2f} {found['std_factor']:>13.2f}")
    for level in columns[0]["coverage"]:
        given, recalibrated = (column["coverage"][level] for column in columns)
        lines.append(f"{f'within the {level} % interval':<28} {given:>6.1f} % {recalibrated:>11.1f} %")
    lines.append(f"{'CRPS':<28} {columns[0]['crps']:>8.4f} {columns[1]['crps']:>13.4f}")
    return "\n".join(lines)


def _station_weights(station: NDArray[np.str_]) -> NDArray[np.float64]:
    """Return weights of rows, (n,), that sum to 1, and to the same over each station."""
    _, place, count = np.unique(station, return_inverse=True, return_counts=True)
    return np.asarray(1 / (count.size * count[place]))


def _calibration(
    observed: NDArray[np.float64], estimate: NDArray[np.float64], std: NDArray[np.float64], weight: NDArray[np.float64]
) -> Calibration:
    z = (observed - estimate) / std
    shares, _ = np.histogram(ndtr(z), BINS, (0, 1), weights=weight)
    return {
        "coverage": {
            str(level): float(100 * np.sum(weight * (np.abs(z) <= ndtri(0.5 + level / 200)))) for level in LEVELS
        },
        "pit": (100 * shares).tolist(),
        "crps": float(np.sum(weight * normal_crps(observed, estimate, std))),
        "spread_error": _spread_error(observed - estimate, std, weight),
    }


def _spread_error(error: NDArray[np.float64], std: NDArray[np.float64], weight: NDArray[np.float64]) -> list[SpreadBin]:
    """Form bins of equal weight by spread; with few rows some bins are empty and are left out."""
    order = np.argsort(std, kind="stable")
    middle = np.cumsum(weight[order]) - weight[order] / 2
    bins = np.minimum((middle * BINS).astype(int), BINS - 1)
    found: list[SpreadBin] = []
    for k in np.unique(bins):
        rows = order[bins == k]
        found.append(
            {
                "spread": float(np.sqrt(np.average(std[rows] ** 2, weights=weight[rows]))),
                "error": float(np.sqrt(np.average(error[rows] ** 2, weights=weight[rows]))),
            }
        )
    return found
