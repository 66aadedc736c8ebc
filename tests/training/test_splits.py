from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnet_maps.errors import RequestError
from mmnet_maps.training.splits import (
    NEIGHBOUR_KM,
    cross_region,
    later_block,
    off_site,
    on_site,
    station_folds,
    validation_stations,
    year_split,
)

POSITIONS = st.tuples(st.floats(25, 49), st.floats(-124, -67))
# A few base positions with satellites near them, so that chains of neighbours do occur.
NETWORKS = st.lists(
    st.tuples(POSITIONS, st.lists(st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)), max_size=3)),
    min_size=1,
    max_size=9,
).map(
    lambda groups: {
        f"s{number:02d}": (base[0] + dy, base[1] + dx)
        for number, (base, (dy, dx)) in enumerate(
            (base, offset) for base, offsets in groups for offset in [(0.0, 0.0), *offsets]
        )
    }
)


def distance_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Compute distances by the spherical law of cosines; the package uses the haversine."""

    def unit(lat: float, lon: float) -> np.ndarray:
        y, x = math.radians(lat), math.radians(lon)
        return np.array([math.cos(y) * math.cos(x), math.cos(y) * math.sin(x), math.sin(y)])

    p, q = unit(*a), unit(*b)
    return 6371.0 * math.atan2(float(np.linalg.norm(np.cross(p, q))), float(p @ q))


@given(NETWORKS, st.integers(2, 5))
def test_neighbours_share_a_fold_whatever_the_network(stations: dict[str, tuple[float, float]], k: int) -> None:
    try:
        folds = station_folds(stations, k)
    except RequestError:
        return
    assert set(folds) == set(stations)
    assert set(folds.values()) == set(range(k))
    for a, b in itertools.combinations(stations, 2):
        if distance_km(stations[a], stations[b]) < NEIGHBOUR_KM - 1e-6:
            assert folds[a] == folds[b]


@given(NETWORKS, st.randoms())
def test_the_order_of_stations_does_not_matter(stations: dict[str, tuple[float, float]], random: object) -> None:
    shuffled = list(stations.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    try:
        expected = station_folds(stations, 2)
    except RequestError:
        return
    assert station_folds(dict(shuffled), 2) == expected


def test_clusters_are_dealt_from_west_to_east() -> None:
    stations = {f"s{i}": (40.0, -120.0 + 5 * i) for i in range(10)}
    assert station_folds(stations, 5) == {f"s{i}": i % 5 for i in range(10)}


def test_chains_of_neighbours_are_one_cluster() -> None:
    chain = {f"c{i}": (40.0, -100.0 + 0.2 * i) for i in range(6)}  # 17 km apart, 85 km from end to end
    folds = station_folds({**chain, "w": (40.0, -120.0), "e": (40.0, -80.0)}, 3)
    assert folds == {"w": 0, "e": 2} | dict.fromkeys(chain, 1)


def test_too_few_groups_of_stations_are_refused() -> None:
    close = {"a": (40.0, -100.0), "b": (40.01, -100.0)}
    with pytest.raises(RequestError, match="1 groups of stations more than 25 km apart do not fill 2 folds"):
        station_folds(close, 2)
    with pytest.raises(RequestError, match="0 groups"):
        station_folds({}, 2)
    with pytest.raises(RequestError, match="at least 2"):
        station_folds({"a": (40.0, -100.0)}, 1)


def test_validation_stations_are_a_fold_that_the_seed_chooses() -> None:
    stations = {f"s{i:02d}": (40.0, -120.0 + 2 * i) for i in range(24)}
    held = [validation_stations(stations, 0.125, seed) for seed in range(9)]
    assert all(len(names) == 3 for names in held)
    assert frozenset().union(*held[:8]) == set(stations)
    assert held[8] == held[0]


def test_year_split() -> None:
    days = np.arange("2018-12-30", "2022-01-03", dtype="datetime64[D]")
    train, test = year_split(days, train=range(2019, 2021), test=range(2021, 2022))
    assert (train.sum(), test.sum()) == (365 + 366, 365)
    assert days[train].max() < days[test].min()
    with pytest.raises(RequestError, match="overlap"):
        year_split(days, train=range(2019, 2022), test=range(2021, 2022))
    with pytest.raises(RequestError, match="no samples in the test years"):
        year_split(days, train=range(2019, 2021), test=range(2030, 2031))


@given(st.lists(st.integers(0, 400), min_size=2), st.floats(0.01, 0.5))
def test_the_later_block_is_later_than_everything_else(offsets: list[int], fraction: float) -> None:
    days = np.datetime64("2020-01-01") + np.array(offsets)
    held = later_block(days, fraction)
    assert held.any()
    distinct = np.unique(days)
    if distinct.size > 1:
        assert (~held).any()
        assert days[~held].max() < days[held].min()
        assert abs(np.unique(days[held]).size - fraction * distinct.size) <= 1


@given(st.lists(st.floats(-125, -66), min_size=3, max_size=50))
def test_regions_divide_all_rows(longitudes: list[float]) -> None:
    lon = np.array([-110.0, -95.0, -80.0, *longitudes])
    splits = cross_region(lon, (-104, -91))
    assert (sum(split.test.astype(int) for split in splits) == 1).all()
    for split in splits:
        np.testing.assert_array_equal(split.train, ~split.test)
    west, middle, _ = (split.test for split in splits)
    np.testing.assert_array_equal(west, lon < -104)
    np.testing.assert_array_equal(middle, (lon >= -104) & (lon < -91))


def test_each_year_with_enough_years_before_it_is_tested() -> None:
    days = np.array([f"{year}-06-01" for year in range(2016, 2023)], "datetime64[D]")
    splits = on_site(days, years=3)
    assert [split.name for split in splits] == ["2019", "2020", "2021", "2022"]
    assert np.flatnonzero(splits[1].train).tolist() == [1, 2, 3]
    assert np.flatnonzero(splits[1].test).tolist() == [4]
    assert {split.validation for split in splits} == {"time"}


def test_years_with_a_gap_before_them_are_not_tested() -> None:
    years = np.array(["2015-06-01", "2016-06-01", "2019-06-01", "2020-06-01", "2021-06-01"], "datetime64[D]")
    assert [split.name for split in on_site(years, years=2)] == ["2021"]
    with pytest.raises(RequestError, match=r"the samples hold \[2015, 2016, 2019, 2020, 2021\]"):
        on_site(years, years=3)


def test_no_station_is_on_both_sides_of_a_fold() -> None:
    stations = {f"s{k}": (40.0, -120.0 + 3 * k) for k in range(9)}
    station = np.repeat(sorted(stations), 4)
    splits = off_site(station, stations, folds=3)
    assert (sum(split.test.astype(int) for split in splits) == 1).all()
    for split in splits:
        assert not set(station[split.train]) & set(station[split.test])
        assert split.validation == "stations"
