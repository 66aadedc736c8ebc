from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmnet_maps.errors import InputError
from mmnet_maps.metrics import format_report, intervals, report
from mmnet_maps.training.evaluate import write_report


def estimates(seed: int = 0, stations: int = 5, rows: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    station = np.repeat([f"S{i}" for i in range(stations)], rows)
    observed = random.uniform(0.05, 0.4, station.size)
    return station, (observed + random.normal(0.02, 0.04, station.size)).astype(np.float32), observed


def test_metrics_equal_closed_formulas() -> None:
    time = np.arange(1000) / 1000 * 2 * np.pi
    observed = 0.25 + 0.1 * np.sin(time)
    estimate = 0.27 + 0.05 * np.sin(time + np.pi / 3)  # bias .02, amplitude half, R = cos 60 degrees
    row = report(np.full(1000, "a"), estimate, observed)["per_station"][0]
    unbiased = np.sqrt((0.1**2 + 0.05**2 - 2 * 0.1 * 0.05 * 0.5) / 2)
    assert row["r"] == pytest.approx(0.5)
    assert row["bias"] == pytest.approx(0.02)
    assert row["ubrmse"] == pytest.approx(unbiased)
    assert row["rmse"] == pytest.approx(np.hypot(0.02, unbiased))


@given(st.integers(0, 1000))
def test_metrics_equal_scipys_for_each_station(seed: int) -> None:
    station, estimate, observed = estimates(seed)
    found = report(station, estimate, observed)
    for row in found["per_station"]:
        mine = station == row["station"]
        assert row["r"] == pytest.approx(stats.pearsonr(estimate[mine], observed[mine]).statistic)
        assert row["rmse"] ** 2 == pytest.approx(row["bias"] ** 2 + row["ubrmse"] ** 2)
    for metric in ("r", "rmse", "bias", "ubrmse"):
        assert found["median"][metric] == np.median([row[metric] for row in found["per_station"]])  # type: ignore[literal-required]


def test_a_report_has_the_documented_keys_and_survives_json(tmp_path: Path) -> None:
    found = report(*estimates())
    write_report(found, tmp_path / "r.json")
    read = json.loads((tmp_path / "r.json").read_text())
    assert read == found
    assert list(read) == ["stations", "samples", "median", "per_station"]
    assert list(read["median"]) == ["r", "rmse", "bias", "ubrmse"]
    assert list(read["per_station"][0]) == ["station", "samples", "r", "rmse", "bias", "ubrmse"]
    assert (read["stations"], read["samples"]) == (5, 200)


def test_a_station_without_r_is_left_out_of_the_median_of_r_alone(tmp_path: Path) -> None:
    station, estimate, observed = estimates(stations=4)
    whole = report(station[:120], estimate[:120], observed[:120])
    constant = np.where(station == "S3", np.float32(0.9), estimate)
    found = report(station, constant, observed)
    assert found["per_station"][3]["r"] is None
    assert found["median"]["r"] == whole["median"]["r"]
    assert found["median"]["rmse"] > whole["median"]["rmse"]
    write_report(found, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["per_station"][3]["r"] is None
    assert "S3                         40      -" in format_report(found)


def test_fewer_than_ten_rows_have_no_r_ten_have() -> None:
    station, estimate, observed = estimates(stations=1)
    assert report(station[:9], estimate[:9], observed[:9])["median"]["r"] is None
    assert report(station[:10], estimate[:10], observed[:10])["median"]["r"] is not None


def test_rows_without_a_pair_do_not_count() -> None:
    station, estimate, observed = estimates(stations=2)
    estimate[:40] = np.nan
    observed[45] = np.nan
    found = report(station, estimate, observed)
    assert (found["stations"], found["samples"]) == (1, 39)
    with pytest.raises(InputError, match="no row has both"):
        report(station[:40], estimate[:40], observed[:40])


def test_intervals_hold_the_median_and_shrink_with_more_stations() -> None:
    few, many = (report(*estimates(stations=count)) for count in (10, 160))
    narrow, wide = intervals(many["per_station"]), intervals(few["per_station"])
    for metric, (low, high) in narrow.items():
        assert low <= many["median"][metric] <= high
        assert high - low < wide[metric][1] - wide[metric][0]
    assert intervals(many["per_station"]) == narrow
    assert intervals(many["per_station"], level=0.5)["r"][0] > narrow["r"][0]


def test_intervals_of_the_median_cover_as_stated() -> None:
    """The order-statistics interval of a median (binomial) is an independent check of the bootstrap's ends."""
    rows = report(*estimates(stations=101))["per_station"]
    low, high = intervals(rows)["rmse"]
    ranked = np.sort([row["rmse"] for row in rows])
    ends = stats.binom.ppf([0.025, 0.975], 101, 0.5).astype(int)
    assert ranked[ends[0] - 2] <= low <= ranked[ends[0] + 2]
    assert ranked[ends[1] - 2] <= high <= ranked[ends[1] + 2]


def test_intervals_without_any_r() -> None:
    station, estimate, observed = estimates(stations=3, rows=5)
    assert set(intervals(report(station, estimate, observed)["per_station"])) == {"rmse", "bias", "ubrmse"}
