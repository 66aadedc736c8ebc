"""Splits of stations and days into training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import RequestError

NEIGHBOUR_KM = 25.0
"""Stations closer than this share a fold, because they share a SMAP cell or its neighbours, and the weather."""

EARTH_RADIUS_KM = 6371.0

Scenario = Literal["on-site", "off-site", "cross-region"]

REGIONS = ("west", "middle", "east")

BORDERS = (-104.0, -91.0)
"""Longitudes between which a station lies in the middle region, degrees."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """A division of a table's rows.

    Attributes
    ----------
    scenario, name
        Scenario of the paper, and the split's name in it: the test year, fold or region.
    train, test
        Rows to train on, including those for early stopping, and rows to test on, bool (n,).
    """

    scenario: Scenario
    name: str
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]

    @property
    def validation(self) -> Literal["stations", "time"]:
        """Rows that early stopping uses, to match the test: later days, or other stations."""
        return "time" if self.scenario == "on-site" else "stations"


def on_site(date: NDArray[np.datetime64], years: int) -> list[Split]:
    """Train on some years, test on the next at the same stations: one split per year with `years` years before it.

    Examples
    --------
    >>> days = np.array(["2019-06-01", "2020-06-01", "2021-06-01"], "datetime64[D]")
    >>> [(split.name, split.train.tolist()) for split in on_site(days, years=1)]
    [('2020', [True, False, False]), ('2021', [False, True, False])]
    """
    present = sorted({int(year) + 1970 for year in np.unique(date.astype("datetime64[Y]").astype(np.int64))})
    found = []
    for year in present:
        if not set(range(year - years, year)) <= set(present):
            continue
        train, test = year_split(date, train=range(year - years, year), test=range(year, year + 1))
        found.append(Split(scenario="on-site", name=str(year), train=train, test=test))
    if not found:
        raise RequestError(f"no year follows {years} years to train on; the samples hold {present}: use fewer years")
    return found


def off_site(station: NDArray[np.str_], stations: Mapping[str, tuple[float, float]], folds: int) -> list[Split]:
    """Train on the stations of all folds but one, test on the stations of that fold (`station_folds`)."""
    fold_of = station_folds(stations, folds)
    fold = np.array([fold_of[str(name)] for name in station])
    return [Split(scenario="off-site", name=f"fold{k}", train=fold != k, test=fold == k) for k in range(folds)]


def cross_region(longitude: NDArray[np.floating], borders: tuple[float, float]) -> list[Split]:
    """Train on two of the regions west, middle and east, test on the third.

    Parameters
    ----------
    longitude
        Degrees, (n,).
    borders
        Longitudes: west lies west of the first; east lies on or east of the second.

    Raises
    ------
    RequestError
        A region has no row.

    Examples
    --------
    >>> [split.test.tolist() for split in cross_region(np.array([-110.0, -95.0, -80.0]), (-104, -91))]
    [[True, False, False], [False, True, False], [False, False, True]]
    """
    region = np.searchsorted(np.asarray(borders), longitude, side="right")
    found = [
        Split(scenario="cross-region", name=name, train=region != k, test=region == k) for k, name in enumerate(REGIONS)
    ]
    empty = [split.name for split in found if not split.test.any()]
    if empty:
        raise RequestError(
            f"no sample in the region {empty[0]}; the borders are {borders[0]:g} and {borders[1]:g} degrees: move them"
        )
    return found


def station_folds(stations: Mapping[str, tuple[float, float]], k: int = 5) -> dict[str, int]:
    """Assign each station to a fold, by one fixed rule that depends on the positions alone.

    1. Stations within 25 km of each other, directly or through others, form one cluster (great-circle distance).
    2. Clusters are ordered from west to east by mean longitude; ties by mean latitude, then by first name.
    3. They are dealt in turn to folds 0, 1, …, k - 1, 0, 1, ….

    So every fold samples the whole east-west gradient of aridity (and the West, Middle and East regions, which are
    bands of longitude), and no test station has a neighbour in training. The rule is deterministic.

    Parameters
    ----------
    stations
        Latitude and longitude in degrees, by station.
    k
        Number of folds, at least 2.

    Returns
    -------
    dict
        The fold, 0 to ``k - 1``, of each station.

    Raises
    ------
    RequestError
        ``k`` is below 2, or there are fewer clusters than folds.

    Examples
    --------
    >>> sites = {"a": (40.0, -110.0), "b": (40.1, -110.1), "c": (35.0, -100.0), "d": (41.0, -80.0)}
    >>> station_folds(sites, k=2)
    {'a': 0, 'b': 0, 'c': 1, 'd': 0}
    """
    if k < 2:
        raise RequestError(f"{k} is too few folds; expected at least 2")
    names = sorted(stations)
    position = np.array([stations[name] for name in names], dtype=np.float64).reshape(-1, 2)
    cluster = _clusters(position)
    if cluster.size == 0 or cluster.max() + 1 < k:
        count = cluster.max() + 1 if cluster.size else 0
        raise RequestError(
            f"{count} groups of stations more than {NEIGHBOUR_KM:g} km apart do not fill {k} folds; use fewer folds"
        )
    middle = np.array([position[cluster == c].mean(axis=0) for c in range(cluster.max() + 1)])
    order = sorted(range(len(middle)), key=lambda c: (middle[c, 1], middle[c, 0], c))
    fold_of_cluster = {c: place % k for place, c in enumerate(order)}
    return {name: fold_of_cluster[int(c)] for name, c in zip(names, cluster, strict=True)}


def validation_stations(stations: Mapping[str, tuple[float, float]], fraction: float, seed: int) -> frozenset[str]:
    """Choose stations to hold out of training for early stopping, about ``fraction`` of them.

    The rule is that of `station_folds` with ``round(1 / fraction)`` folds; ``seed`` selects the fold that is held out,
    so that several seeds try several sets of stations.

    Examples
    --------
    >>> sites = {"a": (40.0, -110.0), "c": (35.0, -100.0), "d": (41.0, -80.0), "e": (41.0, -70.0)}
    >>> sorted(validation_stations(sites, fraction=0.5, seed=1))
    ['c', 'e']
    """
    k = max(2, round(1 / fraction))
    folds = station_folds(stations, k)
    return frozenset(name for name, fold in folds.items() if fold == seed % k)


def near(stations: Mapping[str, tuple[float, float]], others: Mapping[str, tuple[float, float]]) -> frozenset[str]:
    """Select other stations that have the name of one of `stations` or lie within 25 km of one; latitude, longitude, °.

    Examples
    --------
    >>> sorted(near({"a": (40.0, -110.0)}, {"a": (41.0, -110.0), "b": (40.1, -110.1), "c": (40.0, -111.0)}))
    ['a', 'b']
    """
    if not stations or not others:
        return frozenset()
    position = np.array([*stations.values(), *others.values()], dtype=np.float64)
    away = distance_km(position)[: len(stations), len(stations) :].min(axis=0)
    return frozenset(name for name, km in zip(others, away, strict=True) if km <= NEIGHBOUR_KM or name in stations)


def year_split(
    date: NDArray[np.datetime64], *, train: range, test: range
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Select the rows of the training years and of the test years; two masks of shape (n,).

    Raises
    ------
    RequestError
        The years overlap, or one of the two sets has no rows.

    Examples
    --------
    >>> days = np.array(["2019-06-01", "2020-06-01", "2021-06-01"], "datetime64[D]")
    >>> train, test = year_split(days, train=range(2019, 2021), test=range(2021, 2022))
    >>> train.tolist(), test.tolist()
    ([True, True, False], [False, False, True])
    """
    if set(train) & set(test):
        raise RequestError(f"training years {list(train)} and test years {list(test)} overlap")
    year = date.astype("datetime64[Y]").astype(np.int64) + 1970
    chosen = np.isin(year, list(train)), np.isin(year, list(test))
    for name, years, mask in (("training", train, chosen[0]), ("test", test, chosen[1])):
        if not mask.any():
            raise RequestError(
                f"no samples in the {name} years {list(years)}; the samples hold {sorted(set(year.tolist()))}"
            )
    return chosen


def later_block(date: NDArray[np.datetime64], fraction: float) -> NDArray[np.bool_]:
    """Select the rows on the last ``fraction`` of the distinct days, shape (n,), for early stopping of a forecast.

    Examples
    --------
    >>> later_block(np.array(["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-03"], "datetime64[D]"), 0.3).tolist()
    [False, False, True, True]
    """
    days = np.unique(date)
    held = max(1, round(fraction * days.size))
    return date > days[-held - 1] if held < days.size else np.ones(date.shape, np.bool_)


def _clusters(position: NDArray[np.float64]) -> NDArray[np.int64]:
    """Form single-link clusters of positions (n, 2) in degrees, numbered by first member."""
    near = distance_km(position) <= NEIGHBOUR_KM
    label = np.arange(len(position))
    for _ in range(len(position)):  # labels spread along chains, one link per iteration
        spread = np.where(near, label[None, :], len(position)).min(axis=1, initial=len(position))
        if np.array_equal(spread, label):
            break
        label = spread
    return np.unique(label, return_inverse=True)[1]


def distance_km(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute great-circle distances (haversine) between positions (n, 2) of latitude and longitude in degrees."""
    lat, lon = np.radians(position).T
    half_lat = np.sin((lat[:, None] - lat) / 2) ** 2
    half_lon = np.sin((lon[:, None] - lon) / 2) ** 2
    chord = half_lat + np.cos(lat)[:, None] * np.cos(lat) * half_lon
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(chord, 0, 1))))
