"""Calibration of standard deviations, compared with scipy, numerical integration and draws that are calibrated."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from mmnet_maps.errors import InputError
from mmnet_maps.training.calibration import (
    BINS,
    LEVELS,
    conformal_factor,
    format_reliability,
    judge,
    normal_crps,
    std_factor,
)

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def draws(scale: float, rows: int = 4000, seed: int = 0) -> Rows:
    """Make four stations whose errors are `scale` times the standard deviations."""
    random = np.random.default_rng(seed)
    station = np.repeat(["a", "b", "c", "d"], rows)
    estimate = random.uniform(0.1, 0.4, station.size)
    std = random.uniform(0.01, 0.08, station.size)
    return station, estimate + scale * std * random.standard_normal(station.size), estimate, std


@settings(deadline=None, max_examples=30)
@given(st.floats(-0.5, 0.9), st.floats(0, 0.6), st.floats(0.005, 0.3))
def test_the_score_equals_its_integral(observed: float, mean: float, std: float) -> None:
    """Compare with the definition, the integral of (F(x) - 1[x >= y])² (Matheson & Winkler, 1976)."""
    below = integrate.quad(lambda x: stats.norm.cdf(x, mean, std) ** 2, min(mean - 12 * std, observed), observed)[0]
    above = integrate.quad(lambda x: stats.norm.sf(x, mean, std) ** 2, observed, max(mean + 12 * std, observed))[0]
    found = normal_crps(np.array([observed]), np.array([mean]), np.array([std]))[0]
    assert found == pytest.approx(below + above, abs=1e-6)


def test_the_factor_is_the_most_likely_one() -> None:
    station, observed, estimate, std = draws(1.7, rows=50)
    weight = np.random.default_rng(1).dirichlet(np.ones(station.size))

    def surprise(factor: float) -> float:
        return float(-np.sum(weight * stats.norm.logpdf(observed, estimate, factor * std)))

    best = optimize.minimize_scalar(surprise, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-8}).x
    assert std_factor(observed, estimate, std, weight) == pytest.approx(best, rel=1e-5)


def test_a_conformal_interval_holds_its_share_at_the_next_station() -> None:
    """Split conformal prediction promises it for any errors that stations share, however few the stations are."""
    draw = np.random.default_rng(5)
    held = []
    for _ in range(400):
        level = draw.exponential(0.05, 10)  # of ten stations; the last is not among those that the factor is from
        error = level[:, None] + draw.normal(0, 0.001, (10, 20))
        station = np.repeat([f"s{k}" for k in range(9)], 20)
        factor = conformal_factor(station, error[:9].ravel(), np.zeros(180), np.full(180, 0.03))
        held.append(np.abs(error[9]) <= factor * 0.03 * stats.norm.ppf(0.95))
    assert 0.88 < np.mean(held) < 0.97
    rows = np.array(["a", "b", "b", "b"])  # a station counts once, however many rows it has
    assert conformal_factor(rows, np.array([4.0, 1, 2, 3]), np.zeros(4), np.ones(4), 0.3) == pytest.approx(
        3 / stats.norm.ppf(0.65)
    )


@settings(deadline=None, max_examples=25)
@given(st.floats(0.2, 12), st.integers(0, 1000))
def test_draws_are_calibrated_once_the_factor_is_applied(scale: float, seed: int) -> None:
    found = judge(*draws(scale, seed=seed))
    assert found["std_factor"] == pytest.approx(scale, rel=0.04)
    after = found["recalibrated"]
    for level in LEVELS:
        assert after["coverage"][str(level)] == pytest.approx(level, abs=2.5)
        within = 100 * (2 * stats.norm.cdf(stats.norm.ppf(0.5 + level / 200) / scale) - 1)
        assert found["given"]["coverage"][str(level)] == pytest.approx(within, abs=2.5)
    assert after["pit"] == pytest.approx([10] * BINS, abs=2)
    for row in after["spread_error"]:
        assert row["error"] == pytest.approx(row["spread"], rel=0.15)
    assert after["crps"] <= found["given"]["crps"] + 1e-4


def test_too_narrow_a_spread_shows_at_the_ends_and_a_bias_at_one() -> None:
    station, observed, estimate, std = draws(4)
    pit = judge(station, observed, estimate, std)["given"]["pit"]
    assert min(pit[0], pit[-1]) > 25 > 2 * max(pit[1:-1])
    pit = judge(station, observed, estimate + 0.2, std)["given"]["pit"]
    assert pit[0] > 60 > 10 > pit[-1]


def test_coverage_and_pit_equal_scipys_by_hand() -> None:
    station, observed, estimate, std = draws(2, rows=40)
    found = judge(station, observed, estimate, std)["given"]
    for level in LEVELS:
        low, high = stats.norm.interval(level / 100, estimate, std)
        assert found["coverage"][str(level)] == pytest.approx(100 * np.mean((observed >= low) & (observed <= high)))
    shares = np.bincount((10 * stats.norm.cdf(observed, estimate, std)).astype(int), minlength=10) / station.size
    assert found["pit"] == pytest.approx(100 * shares)
    assert sum(found["pit"]) == pytest.approx(100)


def test_stations_weigh_the_same_whatever_their_rows() -> None:
    """Repeating the rows of a station changes nothing; the factor is the root mean over stations of its mean z²."""
    station, observed, estimate, std = draws(1, rows=200)
    observed[station == "d"] += 0.1
    once = judge(station, observed, estimate, std)
    again = [np.concatenate([values, np.tile(values[station == "d"], 9)]) for values in (observed, estimate, std)]
    repeated = judge(np.concatenate([station, np.tile(station[station == "d"], 9)]), *again)
    assert (once["stations"], once["samples"], repeated["samples"]) == (4, 800, 2600)
    assert repeated["std_factor"] == pytest.approx(once["std_factor"])
    for key in ("given", "recalibrated"):
        assert repeated[key]["coverage"] == pytest.approx(once[key]["coverage"])
        assert repeated[key]["pit"] == pytest.approx(once[key]["pit"])
        assert repeated[key]["crps"] == pytest.approx(once[key]["crps"])
    z = (observed - estimate) / std
    by_station = [np.mean(z[station == name] ** 2) for name in "abcd"]
    assert once["std_factor"] == pytest.approx(np.sqrt(np.mean(by_station)))


def test_bins_of_spread_are_equally_filled_and_in_order() -> None:
    station, observed, estimate, std = draws(1.5, rows=25)
    bins = judge(station, observed, estimate, std)["given"]["spread_error"]
    order = np.argsort(std)
    for row, part in zip(bins, np.split(order, BINS), strict=True):
        assert row["spread"] == pytest.approx(np.sqrt(np.mean(std[part] ** 2)))
        assert row["error"] == pytest.approx(np.sqrt(np.mean((observed - estimate)[part] ** 2)))
    few = judge(*(values[:3] for values in (station, observed, estimate, std)))
    assert len(few["given"]["spread_error"]) == 3


def test_rows_without_all_values_do_not_count() -> None:
    station, observed, estimate, std = draws(1, rows=20)
    for values in (observed, estimate, std):
        holed = values.copy()
        holed[:20] = np.nan
        parts = [holed if other is values else other for other in (observed, estimate, std)]
        assert judge(station, *parts) == judge(station[20:], observed[20:], estimate[20:], std[20:])
    with pytest.raises(InputError, match="no row has"):
        judge(station, np.full(80, np.nan), estimate, std)
    std[7] = 0
    with pytest.raises(InputError, match="1 of 80 standard deviations are 0"):
        judge(station, observed, estimate, std)


def test_the_text_and_the_json_hold_it_all() -> None:
    found = judge(*draws(3))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    text = format_reliability(found)
    assert f"{found['recalibrated']['coverage']['90']:.1f} %" in text
    assert len(text.splitlines()) == 3 + len(LEVELS)
