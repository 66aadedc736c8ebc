"""Skill between neighbouring stations: how much of the difference within a SMAP cell an estimate explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.metrics import ESTIMATE, TARGET
from mmnet_maps.training.splits import distance_km, near

SMAP_CELL_KM = 9.0

_DAYS = 30  # that both stations of a pair need


class PairSkill(TypedDict):
    """Observed and estimated difference of two stations on their common days, first minus second.

    ``observed`` and ``estimated`` are differences of the means, m³/m³; ``r`` is the correlation of the daily
    differences about these means, NaN where one is constant, and ``explained`` the share of the observed ones' variance
    that the estimated ones explain: 1 - var(estimated - observed) / var(observed), negative where an estimate of no
    difference would be better.
    """

    first: str
    second: str
    km: float
    days: int
    observed: float
    estimated: float
    r: float
    explained: float


def neighbours(stations: Mapping[str, tuple[float, float]]) -> list[tuple[str, str, float]]:
    """List the pairs of stations within 25 km and their distances in km, the nearest first.

    Parameters
    ----------
    stations
        Latitude and longitude in degrees, by station.

    Examples
    --------
    >>> sites = {"a": (40.0, -110.0), "b": (40.0, -110.1), "c": (35.0, -100.0)}
    >>> [(one, two, round(km, 1)) for one, two, km in neighbours(sites)]
    [('a', 'b', 8.5)]
    """
    found = [
        (one, two, float(distance_km(np.array([stations[one], stations[two]]))[0, 1]))
        for one, two in combinations(sorted(stations), 2)
        if near({one: stations[one]}, {two: stations[two]})
    ]
    return sorted(found, key=lambda pair: pair[2])


def pair_skill(pair: tuple[str, str, float], rows: Mapping[str, NDArray[Any]]) -> PairSkill | None:
    """Compare the differences of a pair; None where the two have fewer than 30 common days.

    Parameters
    ----------
    pair
        Names and distance, see `neighbours`.
    rows
        ``station``, ``date``, observation and estimate of each row, each station-day once.
    """
    import pandas as pd

    frame = pd.DataFrame({name: rows[name] for name in ("station", "date", TARGET, ESTIMATE)}).dropna()
    one, two = (frame[frame["station"] == name].set_index("date")[[TARGET, ESTIMATE]] for name in pair[:2])
    off = (one - two).dropna().astype(np.float64)
    if len(off) < _DAYS:
        return None
    observed, estimated = (off[name].to_numpy() for name in (TARGET, ESTIMATE))
    varies = observed.std() > 0 and estimated.std() > 0
    left = np.var(estimated - observed) / np.var(observed) if observed.std() > 0 else np.nan
    return {
        "first": pair[0],
        "second": pair[1],
        "km": pair[2],
        "days": len(off),
        "observed": float(observed.mean()),
        "estimated": float(estimated.mean()),
        "r": float(np.corrcoef(observed, estimated)[0, 1]) if varies else np.nan,
        "explained": float(1 - left),
    }


def mean_skill(by_seed: Sequence[PairSkill]) -> PairSkill:
    """Average the skill of one pair over seeds."""
    one = by_seed[0]
    return {
        **one,
        "estimated": float(np.mean([each["estimated"] for each in by_seed])),
        "r": float(np.mean([each["r"] for each in by_seed])),
        "explained": float(np.mean([each["explained"] for each in by_seed])),
    }


def level_explained(pairs: Sequence[PairSkill]) -> float:
    """Compute the share of the pairs' squared differences of means that the estimates explain.

    Examples
    --------
    >>> one = dict(first="a", second="b", km=2.0, days=30, observed=0.1, estimated=0.05, r=0.5, explained=0.2)
    >>> level_explained([one])
    0.75
    """
    observed = np.array([pair["observed"] for pair in pairs])
    left = observed - np.array([pair["estimated"] for pair in pairs])
    return float(1 - (left**2).sum() / (observed**2).sum())
