"""Metrics of estimates against observations: R, RMSE, bias, ubRMSE per station, medians, bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

TARGET = "soil_moisture"
"""Column of the observed 0-5 cm soil moisture, m³/m³."""

ESTIMATE = "soil_moisture_estimate"
"""Column of the estimated soil moisture, m³/m³, float32."""

STD = "soil_moisture_std"
"""Column of the standard deviation over the members of a model, m³/m³, float32."""

FILLED = "soil_moisture_filled"
"""Column of the observation where one exists, otherwise the estimate, m³/m³."""

METRICS = ("r", "rmse", "bias", "ubrmse")

MIN_ROWS_FOR_R = 10
"""A correlation from fewer pairs than this is not reported."""


class StationMetrics(TypedDict):
    """Metrics of one station; ``r`` is None where it is not defined."""

    station: str
    samples: int
    r: float | None
    rmse: float
    bias: float
    ubrmse: float


class Report(TypedDict):
    """Metrics per station and their medians over stations."""

    stations: int
    samples: int
    median: dict[str, float | None]
    per_station: list[StationMetrics]


def report(station: NDArray[np.str_], estimate: NDArray[np.floating], observed: NDArray[np.floating]) -> Report:
    """Compute the metrics of each station and the median of each metric over stations.

    Per station: Pearson's R, root mean square error, bias = mean(estimate - observed) and unbiased RMSE,
    ubRMSE² = RMSE² - bias² (Entekhabi et al., 2010, J. Hydrometeorol. 11, 832-840). Rows where either value is NaN
    are left out. Where R is not defined — fewer than 10 rows, or either series is constant — it is None and the
    station is left out of the median of R, but stays in the other medians.

    Parameters
    ----------
    station, estimate, observed
        Shape (n,); soil moisture in m³/m³.

    Returns
    -------
    Report
        Stations in alphabetical order; those without a single pair are left out.

    Raises
    ------
    InputError
        No row has both an estimate and an observation.

    Examples
    --------
    >>> found = report(np.array(["a"] * 3), np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.1, 0.2]))
    >>> found["per_station"][0]["r"] is None, round(found["median"]["bias"], 4)
    (True, 0.0667)
    """
    paired = np.isfinite(estimate) & np.isfinite(observed)
    if not paired.any():
        raise InputError("no row has both an estimate and an observation; check the inputs and soil_moisture for NaN")
    station, estimate, observed = station[paired], estimate[paired], observed[paired]
    per_station = [
        _station_metrics(str(name), estimate[station == name], observed[station == name]) for name in np.unique(station)
    ]
    return {
        "stations": len(per_station),
        "samples": int(paired.sum()),
        "median": {metric: _median(per_station, metric) for metric in METRICS},
        "per_station": per_station,
    }


def fill_observations(rows: pd.DataFrame) -> pd.DataFrame:
    """Add `FILLED` to rows of places and days, and put their columns in the order of a table of series."""
    rows[FILLED] = rows[TARGET].fillna(rows[ESTIMATE])
    series = ("station", "date", "lat", "lon", TARGET, ESTIMATE, STD, FILLED)
    drought = [f"soil_moisture_{name}" for name in ("anomaly", "standardised_anomaly", "percentile")]
    others = ("quality", "smap", *drought, "drought_class", "pr")
    return rows[[*series, *(name for name in others if name in rows)]]


def values_of(per_station: Sequence[StationMetrics], metric: str) -> NDArray[np.float64]:
    """Return one metric by station, NaN where it is None."""
    return np.array([row[metric] for row in per_station], dtype=np.float64)  # type: ignore[literal-required]


def intervals(
    per_station: Sequence[StationMetrics], *, draws: int = 10_000, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Compute bootstrap intervals of the medians over stations (percentile method, stations drawn with replacement).

    Stations, not rows, are drawn because rows of one station are far from independent.

    Returns
    -------
    dict
        Lower and upper end of the central ``level`` interval of each metric's median; a metric that no station has
        is absent.
    """
    random = np.random.default_rng(seed)
    chosen = random.integers(0, len(per_station), (draws, len(per_station)))
    ends: dict[str, tuple[float, float]] = {}
    for metric in METRICS:
        values = values_of(per_station, metric)
        if not np.isfinite(values).any():
            continue
        medians = _draw_medians(values, chosen)
        low, high = np.nanquantile(medians, [(1 - level) / 2, (1 + level) / 2])
        ends[metric] = (float(low), float(high))
    return ends


def format_report(found: Report) -> str:
    """Format a report as a table for the terminal: one line per station, then the medians.

    Examples
    --------
    >>> print(format_report(report(np.array(["a"] * 3), np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.1, 0.2]))))
    station               samples      R    RMSE    bias  ubRMSE
    a                           3      -  0.0816  0.0667  0.0471
    median, 1 stations          3      -  0.0816  0.0667  0.0471
    """
    lines = [f"{'station':<20} {'samples':>8} {'R':>6} {'RMSE':>7} {'bias':>7} {'ubRMSE':>7}"]
    for row in found["per_station"]:
        lines.append(_line(row["station"], row["samples"], [row["r"], row["rmse"], row["bias"], row["ubrmse"]]))
    median = [found["median"][metric] for metric in METRICS]
    lines.append(_line(f"median, {found['stations']} stations", found["samples"], median))
    return "\n".join(lines)


def _line(name: str, samples: int, values: Sequence[float | None]) -> str:
    r, *errors = values
    shown = "-" if r is None else f"{r:.3f}"
    return f"{name:<20} {samples:>8} {shown:>6} " + " ".join(f"{value:>7.4f}" for value in errors)


def _station_metrics(name: str, estimate: NDArray[np.floating], observed: NDArray[np.floating]) -> StationMetrics:
    x, y = estimate.astype(np.float64), observed.astype(np.float64)
    error = x - y
    defined = x.size >= MIN_ROWS_FOR_R and np.ptp(x) > 0 and np.ptp(y) > 0
    return {
        "station": name,
        "samples": int(x.size),
        "r": float(np.corrcoef(x, y)[0, 1]) if defined else None,
        "rmse": float(np.sqrt(np.mean(error**2))),
        "bias": float(error.mean()),
        "ubrmse": float(error.std()),
    }


def _median(per_station: Sequence[StationMetrics], metric: str) -> float | None:
    values = values_of(per_station, metric)
    return float(np.nanmedian(values)) if np.isfinite(values).any() else None


def _draw_medians(values: NDArray[np.float64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the median of each draw, NaN left out; draws without any defined value are dropped."""
    drawn = values[chosen]
    drawn = drawn[np.isfinite(drawn).any(axis=1)]
    return np.asarray(np.nanmedian(drawn, axis=1))
