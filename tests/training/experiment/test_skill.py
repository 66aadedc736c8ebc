from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mmnet_maps.training.experiment.coverage import coverage, half_width
from mmnet_maps.training.experiment.pairs import level_explained, mean_skill, neighbours, pair_skill
from mmnet_maps.training.experiment.text import _best


def rows(estimate: NDArray[Any], observed: NDArray[Any], station: str) -> dict[str, NDArray[Any]]:
    return {
        "station": np.full(len(observed), station),
        "date": np.arange(len(observed)).astype("datetime64[D]"),
        "soil_moisture": observed.astype(np.float32),
        "soil_moisture_estimate": estimate.astype(np.float32),
    }


def joined(*parts: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def test_pairs_are_those_within_25_km() -> None:
    sites = {"a": (40.0, -100.0), "b": (40.05, -100.0), "c": (40.2, -100.0), "d": (41.0, -100.0)}
    assert [pair[:2] for pair in neighbours(sites)] == [("a", "b"), ("b", "c"), ("a", "c")]
    assert neighbours(sites)[0][2] == pytest.approx(0.05 * np.pi / 180 * 6371)


def test_the_skill_of_a_pair_by_its_definition() -> None:
    random = np.random.default_rng(0)
    one, two = random.uniform(0.1, 0.4, (2, 50))
    half = joined(rows(one / 2 + 0.1, one, "a"), rows(two / 2, two, "b"))  # half of every difference, and an offset
    skill = pair_skill(("a", "b", 3.0), half)
    assert skill is not None
    assert skill["days"] == 50
    assert skill["observed"] == pytest.approx((one - two).mean(), abs=1e-7)
    assert skill["estimated"] == pytest.approx((one - two).mean() / 2 + 0.1, abs=1e-7)
    assert skill["r"] == pytest.approx(1)
    assert skill["explained"] == pytest.approx(0.75, abs=1e-6)
    assert pair_skill(("a", "b", 3.0), {key: values[20:80] for key, values in half.items()}) is None  # 30 - 20 days
    assert mean_skill([skill, {**skill, "r": 0.0}])["r"] == pytest.approx(0.5)
    assert level_explained([skill]) == pytest.approx(1 - (0.1 - skill["observed"] / 2) ** 2 / skill["observed"] ** 2)
    same = joined(rows(one, one, "a"), rows(one, one, "b"))
    alike = pair_skill(("a", "b", 3.0), same)
    assert alike is not None
    assert np.isnan([alike["r"], alike["explained"]]).all()


def test_an_interval_has_its_coverage_at_other_stations() -> None:
    random = np.random.default_rng(1)

    def fold(number: int) -> dict[str, NDArray[Any]]:
        parts = []
        for k in range(100):  # stations differ in size; their errors are alike
            observed = random.uniform(0.1, 0.4, random.integers(5, 30))
            error = random.normal(0, 0.04) + random.normal(0, 0.02, observed.size)
            parts.append(rows(observed + error, observed, f"{number}-{k}"))
        return joined(*parts)

    found = coverage({f"fold{number}": fold(number) for number in range(4)})
    assert len(found["90"]) == 400
    for level in (50, 80, 90, 95):
        assert np.mean([*found[str(level)].values()]) == pytest.approx(level, abs=3)
    assert found["width"]["90"] == pytest.approx(2 * 1.645 * np.hypot(0.04, 0.02), rel=0.1)
    assert coverage({"fold0": fold(0)}) == {}


def test_every_station_has_the_same_weight() -> None:
    station = np.array(["a"] * 99 + ["b"] * 99 + ["c"])
    error = np.array([0.1] * 99 + [0.2] * 99 + [-0.5])
    assert half_width(station, error, 24) == 0.1  # 24 % of four stations are 32 % of these three
    assert half_width(station, error, 49) == 0.2
    assert half_width(station, error, 60) == 0.5
    assert half_width(station, error, 95) == 0.5


def test_the_best_and_those_level_with_it_are_named() -> None:
    def one(name: str, rmse: list[float]) -> Any:
        stations = [
            {"station": f"S{k}", "samples": 20, "r": None, "rmse": value, "bias": 0.0, "ubrmse": value}
            for k, value in enumerate(rmse)
        ]
        median = {"r": np.nan, "rmse": float(np.median(rmse)), "ubrmse": float(np.median(rmse))}
        return {"network": name, "median": median, "per_station": stations}

    near_by = [0.02, 0.05, 0.02, 0.05, 0.02]
    found = [one("far", [0.08] * 5), one("near", near_by), one("best", [0.03] * 5)]
    assert _best(found, "rmse") == "**near** 0.0200 (best 0.0300)"
    assert _best(found[:1] + found[2:], "rmse") == "**best** 0.0300"
    assert _best(found, "r") == "–"
