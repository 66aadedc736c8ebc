from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mmnet_maps.errors import RequestError
from mmnet_maps.training.experiment.baselines import MEMORIES, fit, rain_index
from mmnet_maps.training.experiment.config import Climatology, ExperimentConfig, Lstm, Trees, without
from mmnet_maps.training.experiment.results import write_results
from mmnet_maps.training.experiment.run import _execute_alone, plan_runs
from mmnet_maps.training.table import Samples, encode
from station_tables import experiment_values, make_table, replace, small_config, write_table


def test_trees_see_the_flattened_inputs_and_missing_values() -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    table = make_table()
    smap = np.asarray(table["smap"]).copy()
    smap[::3] = np.nan
    samples, config = Samples(table=replace(table, "smap", pa.array(smap))), small_config(may_lack=["smap"])
    made = fit(Trees(kind="trees", max_iter=5, min_samples_leaf=5), [samples, samples], config)(samples)
    snapshot, series = encode(samples, config)
    inputs = np.hstack([snapshot, *(series[:, step] for step in range(config.steps))])
    oracle = HistGradientBoostingRegressor(
        max_iter=5, learning_rate=0.06, min_samples_leaf=5, l2_regularization=1.0, max_features=0.3, random_state=0
    ).fit(np.vstack([inputs, inputs]), np.tile(samples.target, 2))
    np.testing.assert_array_equal(made, oracle.predict(inputs).astype(np.float32))


def test_trees_of_a_share_of_the_rows_follow_the_seed() -> None:
    samples = Samples(table=make_table())
    few = Trees(kind="trees", max_iter=5, min_samples_leaf=5, rows=0.3)
    once, again, other = (fit(few, [samples], small_config(seed=seed))(samples) for seed in (0, 0, 1))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


def test_trees_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(RequestError, match="needs scikit-learn, which is not installed; run: pip install"):
        fit(Trees(kind="trees"), [Samples(table=make_table())], small_config())


def test_the_lstm_learns_and_is_the_same_again() -> None:
    samples = Samples(table=make_table())
    config = small_config(max_epochs=20, validation="none", learning_rate=0.01)
    once, again = (fit(Lstm(kind="lstm", hidden=16), [samples], config)(samples) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert np.std(once - samples.target) < 0.5 * np.std(samples.target)


def test_a_missing_optional_input_of_the_lstm_counts_as_the_mean_of_the_training() -> None:
    samples = Samples(table=make_table())
    made = fit(Lstm(kind="lstm", hidden=4), [samples], small_config(may_lack=["smap"], validation="none"))
    smap = np.asarray(samples.table["smap"])
    none, mean = (
        Samples(table=replace(samples.table, "smap", pa.array(np.full(len(samples), value, np.float32))))
        for value in (np.nan, smap.mean(dtype=np.float64))
    )
    np.testing.assert_allclose(made(none), made(mean), atol=1e-6)
    assert np.isnan(fit(Lstm(kind="lstm"), [samples], small_config(max_epochs=1))(none)).all()  # required there


def test_climatology_is_the_regression_that_made_the_data() -> None:
    table = make_table(days=200, length=60)
    rain = np.stack(table["pr"].to_numpy(zero_copy_only=False))
    day = np.asarray(table["date"]).astype("datetime64[D]")
    angle = 2 * np.pi * ((day - day.astype("datetime64[Y]")).astype(int) + 1) / 365.25
    index = np.zeros(len(rain))
    for k in range(60):
        index = MEMORIES[1] * index + rain[:, k]  # by its recursion
    np.testing.assert_allclose(rain_index(rain, MEMORIES[1]), index, rtol=1e-6)
    level = np.arange(len(rain)) // 200 * 0.01
    wet = 0.2 + 0.02 * np.log1p(index) + 0.03 * np.cos(angle) - 0.01 * np.sin(2 * angle)
    known, alike = (
        Samples(table=replace(table, "soil_moisture", pa.array(target.astype(np.float32))))
        for target in (wet + level, wet)
    )
    made = fit(Climatology(kind="climatology"), [known], small_config())
    np.testing.assert_allclose(made(known), wet + level, atol=1e-4)  # stations of the training have their own
    unknown = Samples(table=replace(table, "station", pa.array([f"new {name}" for name in known.station])))
    np.testing.assert_allclose(fit(Climatology(kind="climatology"), [alike], small_config())(unknown), wet, atol=1e-4)


def entries(**changes: Any) -> dict[str, Any]:
    networks = {
        "days": {"architecture": "mlp_full", "scenarios": ["off-site"]},
        "trees": {"baseline": {"kind": "trees", "max_iter": 3, "min_samples_leaf": 5}},
        "rain": {"baseline": {"kind": "climatology"}, "seeds": 1},
    }
    return experiment_values(networks=networks, seeds=2, **changes)


ABLATIONS = {"table": "t", "networks": ["trees"], "without": {"soil": ["smap"], "heat": ["lst"]}}


def test_baselines_and_ablations_share_rows_and_tables_with_the_networks(tmp_path: Path) -> None:
    write_table(tmp_path / "table.parquet")
    config = ExperimentConfig.model_validate(entries(ablations=ABLATIONS))
    runs = plan_runs(config, tmp_path, tmp_path / "out")
    names = {"days", "trees", "trees-without-soil", "trees-without-heat", "rain"}
    assert {run.network for run in runs if run.scenario == "off-site"} == names
    assert {run.network for run in runs if run.scenario == "on-site"} == {"trees", "rain"}
    assert {run.seed for run in runs if run.network == "rain"} == {0}
    assert len({run.key for run in runs}) == len(runs)
    for run in runs:
        if run.scenario == "off-site":
            _execute_alone(config, run)
    finished = plan_runs(config, tmp_path, tmp_path / "out")
    off_site = [run for run in finished if run.scenario == "off-site"]
    assert all(run.facts for run in off_site)
    dates = {tuple(run.estimates()["date"].astype(str)) for run in off_site if run.split == "fold0"}
    assert len(dates) == 1
    text = write_results(config, finished, tmp_path / "out")[1].read_text()
    assert "## t, off-site, without some inputs" in text
    assert text.count("| trees-without-soil |") == 1
    other = entries(ablations=ABLATIONS)
    other["networks"]["trees"]["baseline"]["max_iter"] = 4
    changed = plan_runs(ExperimentConfig.model_validate(other), tmp_path, tmp_path / "out")
    assert {run.network for run in changed if run.scenario == "off-site" and run.facts is None} == {
        name for name in names if name.startswith("trees")
    }


def test_an_ablation_drops_inputs_groups_and_optional_names() -> None:
    groups = [{"features": ["pr"], "branch": "transformer"}, {"features": ["lst"], "branch": "mlp"}]
    full = small_config(series_groups=groups, may_lack=["smap"])
    left = without(full, ("smap", "lst"))
    assert [feature.name for feature in left.snapshot] == ["landcover", "doy"]
    assert [feature.name for feature in left.series] == ["pr"]
    assert [group.features for group in left.series_groups or ()] == [("pr",)]
    assert left.may_lack == ()
    assert left.model_copy(update={"snapshot": full.snapshot}).d_model == full.d_model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": "v"}, "ablations name 'v', which is not one of the tables"),
        ({"networks": ["cnn"]}, "ablations name 'cnn', which is not one of the networks"),
        ({"without": {"soil": ["clay"]}}, "ablation soil leaves out 'clay', which is no input of trees"),
        ({"without": {"all": ["pr", "lst"]}}, "ablation all of trees: series"),
    ],
)
def test_a_wrong_ablation_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExperimentConfig.model_validate(entries(ablations=ABLATIONS | change))
