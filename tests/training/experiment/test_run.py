from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest
import yaml

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.model.checkpoint import load_checkpoint
from mmnet_maps.training.experiment.figures import _estimates, _groups
from mmnet_maps.training.experiment.report import read_table, summarise
from mmnet_maps.training.experiment.results import write_results
from mmnet_maps.training.experiment.run import (
    ExperimentConfig,
    Run,
    _execute_alone,
    execute_all,
    plan_runs,
    read_climates,
    read_experiment,
    rows_beside,
    splits_of,
)
from mmnet_maps.training.experiment.text import markdown
from mmnet_maps.training.table import Samples
from processes import descendants, start_interruptible
from station_tables import experiment_values as values
from station_tables import make_table, replace, write_table


@pytest.fixture(scope="module", autouse=True)
def _few_explained_rows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmnet_maps.training.experiment.run._EXPLAINED", 60)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_table(folder / "table.parquet")
    return folder


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return ExperimentConfig.model_validate(values())


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, config: ExperimentConfig, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    write_results(config, execute_all(config, data, folder, quiet=True), folder)
    return folder


def test_every_network_is_trained_on_every_split(config: ExperimentConfig, data: Path, out: Path) -> None:
    runs = plan_runs(config, data, out)
    assert len(runs) == 2 * 2 * (1 + 2 + 3)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert all(run.facts for run in runs)
    assert {run.config.validation for run in runs if run.scenario == "on-site"} == {"time"}
    assert {run.config.validation for run in runs if run.scenario != "on-site"} == {"stations"}
    assert {run.split for run in runs if run.scenario == "cross-region"} == {"west", "middle", "east"}


def pooled(runs: list[Run]) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(run.folder / "estimates.parquet") for run in runs])


def test_the_tables_are_those_of_the_estimates(config: ExperimentConfig, data: Path, out: Path) -> None:
    runs = plan_runs(config, data, out)
    found = json.loads((out / "results.json").read_text())
    assert [(one["scenario"], one["network"]) for one in found] == [
        (scenario, network)
        for scenario in ("on-site", "off-site", "cross-region")
        for network in ("mmnet", "days", "smap")
    ]
    table = pd.read_parquet(data / "table.parquet")
    for one in found:
        assert one["stations"] == 8
        assert bool(one["difference"]) == (one["network"] != "mmnet")
        if one["network"] == "smap" and one["scenario"] != "on-site":
            error = table["smap"] - table["soil_moisture"]
            assert one["median"]["bias"] == pytest.approx(
                error.groupby(table["station"], observed=True).mean().median()
            )
        if one["network"] == "smap":
            continue
        medians = []
        for seed in range(2):
            mine = [
                run for run in runs if (run.scenario, run.network, run.seed) == (one["scenario"], one["network"], seed)
            ]
            rows = pooled(mine)
            assert one["scenario"] == "on-site" or rows.groupby(["station", "date"]).size().max() == 1
            error = rows["soil_moisture_estimate"] - rows["soil_moisture"]
            by_station = error.groupby(rows["station"])
            medians.append(
                {
                    "rmse": (error**2).groupby(rows["station"]).mean().pow(0.5).median(),
                    "bias": by_station.mean().median(),
                    "ubrmse": by_station.std(ddof=0).median(),
                    "r": rows.groupby("station")[["soil_moisture", "soil_moisture_estimate"]]
                    .apply(lambda part: part.corr().iloc[0, 1])
                    .median(),
                }
            )
        for metric, value in pd.DataFrame(medians).mean().items():
            assert one["median"][metric] == pytest.approx(value, abs=1e-5)
            low, high = one["interval_95"][metric]
            assert low <= high
    text = (out / "results.md").read_text()
    assert "## t, off-site" in text
    assert text.count("| days | 2 |") == 3
    assert "0.782 / 0.0672 / 0.0456" in text


def test_the_figures_are_written(out: Path) -> None:
    kinds = ("boxes", "map_r", "map_ubrmse", "groups", "series")
    scenarios = ("on-site", "off-site", "cross-region")
    expected = {f"t_{scenario}_{kind}.png" for scenario in scenarios for kind in kinds}
    expected |= {"t_scatter.png", "t_importance.png"}
    assert {path.name for path in (out / "figures").iterdir()} == expected
    for path in (out / "figures").iterdir():
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_first_network_is_explained(config: ExperimentConfig, data: Path, out: Path) -> None:
    runs = plan_runs(config, data, out)
    assert {(run.network, run.seed) for run in runs if run.explained} == {("mmnet", 0)}
    for one in summarise(config, runs):
        if one["network"] != "mmnet":
            assert one["importance"] == []
            continue
        shares = {row["name"]: row["share"] for row in one["importance"]}
        assert sum(shares.values()) == pytest.approx(100)
        mine = [run for run in runs if run.explained and run.scenario == one["scenario"]]
        of_smap = [
            row["share"]
            for run in mine
            for row in (run.facts or {})["importance"]["variables"]
            if row["name"] == "smap"
        ]
        assert len(of_smap) == len(mine)
        assert shares["smap"] == pytest.approx(np.mean(of_smap))


def test_smap_is_judged_and_drawn_on_the_rows_that_are_tested(config: ExperimentConfig, data: Path, out: Path) -> None:
    runs = plan_runs(config, data, out)
    samples = read_table(runs, "t")
    for one in summarise(config, runs):
        if one["network"] == "smap":
            rows = _estimates(config, runs, one, samples)
            assert len(rows["station"]) == one["samples"]
            tested = pooled(
                [run for run in runs if (run.scenario, run.network, run.seed) == (one["scenario"], "days", 0)]
            )
            assert sorted(zip(rows["station"], rows["date"].astype(str), strict=True)) == sorted(
                zip(tested["station"], tested["date"].astype(str), strict=True)
            )


def test_a_station_that_one_network_estimates_nothing_at(tmp_path: Path) -> None:
    table = make_table()
    there = np.asarray(table["smap"]).copy()
    there[np.array(table["station"].to_pylist()) == "S03"] = np.nan
    write_table(tmp_path / "table.parquet", replace(table, "smap", pa.array(there)))
    networks = {"mmnet": {"architecture": "mmnet", "may_lack": ["smap"]}}
    config = ExperimentConfig.model_validate(values(networks=networks, seeds=1))
    for run in plan_runs(config, tmp_path, tmp_path / "out"):
        if run.scenario == "off-site":
            _execute_alone(config, run)
    written = write_results(config, plan_runs(config, tmp_path, tmp_path / "out"), tmp_path / "out")
    found = json.loads(written[0].read_text())
    assert {one["stations"] for one in found if one["network"] == "mmnet"} == {8}
    assert {one["stations"] for one in found if one["network"] == "smap"} == {7}


def test_a_run_that_is_replaced_has_no_mark(
    tmp_path: Path, config: ExperimentConfig, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = next(run for run in plan_runs(config, data, tmp_path) if run.network == "days" and run.scenario == "off-site")
    _execute_alone(config, run)
    assert "facts" not in run.__dict__ or run.facts

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmnet_maps.training.experiment.run.write_samples", killed)
    with pytest.raises(KeyboardInterrupt):
        _execute_alone(config, run)
    assert not (run.folder / "run.json").exists()


def test_a_station_twice_on_a_day_is_refused_before_the_training(tmp_path: Path, config: ExperimentConfig) -> None:
    table = make_table()
    write_table(tmp_path / "table.parquet", pa.concat_tables([table, table.slice(5, 1)]))
    with pytest.raises(InputError, match="has S00 on 2020-11-20 2 times"):
        plan_runs(config, tmp_path, tmp_path / "out")


def test_a_metric_without_a_value_is_null_and_a_dash(tmp_path: Path, config: ExperimentConfig) -> None:
    write_table(tmp_path / "table.parquet", make_table(days=52, start="2020-11-15"))  # five days of 2021
    one = {"days": {"architecture": "mlp_full"}}
    config = ExperimentConfig.model_validate(values(networks=one, seeds=1))
    runs = [run for run in plan_runs(config, tmp_path, tmp_path / "out") if run.scenario == "on-site"]
    for run in runs:
        _execute_alone(config, run)
    written = write_results(config, plan_runs(config, tmp_path, tmp_path / "out"), tmp_path / "out")
    assert json.loads(written[0].read_text())[0]["median"]["r"] is None
    assert "| days | 1 | – |" in written[1].read_text()


def test_climates_come_from_a_list_of_stations(tmp_path: Path, config: ExperimentConfig, data: Path, out: Path) -> None:
    (tmp_path / "s.csv").write_text("station,koppen\nS00,BSk\nS01,Cfa\nS02,\n")
    climates = read_climates(tmp_path / "s.csv")
    samples = read_table(plan_runs(config, data, out), "t")
    found = _groups(samples, ["S02", "S00", "S07", "S01"], climates)
    assert found["climate"].tolist() == ["", "arid", "", "temperate"]
    assert "climate" not in _groups(samples, ["S02"], {})
    listed = ExperimentConfig.model_validate(values(stations="s.csv"))
    with pytest.raises(InputError, match=r"s\.csv cannot be read .*expected a CSV with the columns station and koppen"):
        plan_runs(listed, data, tmp_path)


def test_differences_are_those_of_each_station(config: ExperimentConfig, data: Path, out: Path) -> None:
    first, second = summarise(config, plan_runs(config, data, out))[:2]
    off = [b["ubrmse"] - a["ubrmse"] for a, b in zip(first["per_station"], second["per_station"], strict=True)]
    assert second["difference"]["ubrmse"][0] == pytest.approx(np.median(off))
    assert second["difference"]["ubrmse"][1] <= np.median(off) <= second["difference"]["ubrmse"][2]


def test_an_interrupted_experiment_continues(config: ExperimentConfig, data: Path, out: Path) -> None:
    runs = plan_runs(config, data, out)
    before = {run.folder: (run.folder / "run.json").stat().st_mtime_ns for run in runs}
    estimates = pooled(runs)
    (runs[3].folder / "run.json").unlink()  # killed before it was finished
    (runs[5].folder / "run.json").write_text("{")
    again = plan_runs(config, data, out)
    assert [run.facts is None for run in again] == [k in (3, 5) for k in range(len(runs))]
    partial = summarise(config, again)
    assert {one["seeds"] for one in partial} == {1, 2}  # a seed is used when all its splits are finished
    done = execute_all(config, data, out, quiet=True)
    after = {run.folder: (run.folder / "run.json").stat().st_mtime_ns for run in done}
    assert {folder for folder in after if after[folder] != before[folder]} == {runs[3].folder, runs[5].folder}
    pd.testing.assert_frame_equal(pooled(done), estimates)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_it_stops_at_once_and_keeps_what_is_finished(tmp_path: Path, data: Path, how: signal.Signals) -> None:
    long = values()
    long["training"].update(max_epochs=1000, patience=1000)
    long["networks"] = {"days": {"architecture": "mlp_full", "max_epochs": 1}, "mmnet": {"architecture": "mmnet"}}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(long))
    words = ["experiment", tmp_path / "e.yaml", "--data", data, "--out", tmp_path / "out", "--workers", "1", "-q"]
    few_explained = "from mmnet_maps.training.experiment import run; run._EXPLAINED = 60"
    command = [sys.executable, "-c", f"{few_explained}; from mmnet_maps.cli import main; main()", *words]
    with start_interruptible(command, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 240
        while not list(tmp_path.rglob("run.json")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        time.sleep(1)  # into the network that would take minutes
        workers = descendants(process)
        assert workers
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
        assert psutil.wait_procs(workers, timeout=60)[1] == []
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert b"interrupted; finished work is kept" in err
        assert b"Traceback" not in err
        assert b"leaked" not in err
    assert re.match(rb"24 runs, about \d+ minutes? with 1 process\n", err)  # before all else
    runs = plan_runs(ExperimentConfig.model_validate(long), data, tmp_path / "out")
    assert any(run.facts for run in runs)


def test_a_change_of_settings_repeats_the_runs_that_depend_on_it(
    config: ExperimentConfig, data: Path, out: Path
) -> None:
    other = values()
    other["networks"]["days"]["dropout"] = 0.1
    runs = plan_runs(ExperimentConfig.model_validate(other), data, out)
    assert {run.network for run in runs if run.facts is None} == {"days"}
    assert {run.network for run in runs if run.facts is not None} == {"mmnet"}
    folds = plan_runs(ExperimentConfig.model_validate(values(folds=3)), data, out)
    assert {run.scenario for run in folds if run.facts is None} == {"off-site"}


def two_tables(**changes: Any) -> dict[str, Any]:
    networks = {"mmnet": {"architecture": "mmnet"}, "more": {"architecture": "mmnet", "also": ["t", "u"]}}
    tables = {name: {"samples": f"{name}.parquet", "on_site_years": 1} for name in ("t", "u")}
    return values(tables=tables, networks=networks, **changes)


def test_rows_of_another_table_are_unrelated_to_the_tested_rows() -> None:
    config = ExperimentConfig.model_validate(two_tables())
    samples = Samples(table=make_table())
    table = make_table(days=90, start="2020-10-25")
    moved = replace(table, "lat", pa.array(np.asarray(table["lat"]) + 0.1))  # 11 km, within the reach of a neighbour
    other = Samples(
        table=replace(moved, "station", pa.array([f"near {name}" for name in table["station"].to_pylist()]))
    )
    for split in splits_of(config, "t", samples):
        tested, allowed = samples.take(split.test), rows_beside(split, samples, other, config.borders)
        chosen = other.take(allowed)
        assert allowed.any()
        assert not allowed.all()
        if split.scenario == "on-site":
            assert chosen.date.max() < tested.date.min()
            assert (allowed == (other.date < tested.date.min())).all()
        elif split.scenario == "off-site":
            assert set(chosen.station) == {f"near {name}" for name in set(samples.station) - set(tested.station)}
        else:
            assert not set(chosen.numbers("lon")) & set(tested.numbers("lon"))


def test_another_table_is_trained_on_and_decides_the_result(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet")
    write_table(tmp_path / "u.parquet", make_table(days=50, seed=3))
    config = ExperimentConfig.model_validate(two_tables(seeds=1))
    runs = plan_runs(config, tmp_path, tmp_path / "out")
    assert {(run.table, run.network, run.also) for run in runs} == {
        ("t", "mmnet", ()),
        ("u", "mmnet", ()),
        ("t", "more", (tmp_path / "u.parquet",)),
        ("u", "more", (tmp_path / "t.parquet",)),
    }
    chosen = [run for run in runs if run.table == "t" and run.scenario == "off-site" and run.split == "fold0"]
    for run in chosen:
        _execute_alone(config, run)
    plain, more = (load_checkpoint(run.folder / "model").spec.training for run in chosen)
    assert more["samples"] > plain["samples"]
    write_table(tmp_path / "u.parquet", make_table(days=50, seed=4))
    again = plan_runs(config, tmp_path, tmp_path / "out")
    assert [run.facts is not None for run in again if run.folder in [one.folder for one in chosen]] == [True, False]


def test_a_validation_of_its_own(data: Path, tmp_path: Path) -> None:
    networks = {"mmnet": {"architecture": "mmnet", "validation": "none"}, "days": {"architecture": "mlp_full"}}
    config = ExperimentConfig.model_validate(values(networks=networks))
    runs = plan_runs(config, data, tmp_path)
    assert {run.config.validation for run in runs if run.network == "mmnet"} == {"none"}
    assert {run.config.validation for run in runs if run.network == "days"} == {"time", "stations"}


def test_nothing_finished_gives_no_table(config: ExperimentConfig, data: Path, tmp_path: Path) -> None:
    runs = plan_runs(config, data, tmp_path)
    assert summarise(config, runs) == []
    assert markdown(config, []).strip() == "# Small"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"networks": {"m": {"architecture": "cnn"}}}, "network m on table t: architecture"),
        ({"networks": {"../m": {"architecture": "mmnet"}}}, "should match pattern"),
        (
            {"networks": {"m": {"architecture": "mmnet", "also": ["v"]}}},
            "network m names 'v', which is not one of the tables",
        ),
        (
            {"networks": {"m": {"architecture": "mmnet", "also": None}}},
            "networks.m.also: Input should be a valid tuple",
        ),
        ({"seeds": 0}, "seeds: Input should be greater than or equal to 1, not 0"),
        ({"more": 1}, "more: Extra inputs"),
        ({"training": {}}, "snapshot: Field required"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump(values(**change)))
    with pytest.raises(RequestError, match=message) as caught:
        read_experiment(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot read the experiment"):
        read_experiment(tmp_path / "none.yaml")
    (tmp_path / "e.yaml").write_text("a: [")
    with pytest.raises(RequestError, match="expected a YAML file"):
        read_experiment(tmp_path / "e.yaml")


def test_regions_and_years_without_rows(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no sample in the region east"):
        plan_runs(ExperimentConfig.model_validate(values(borders=[-104, -60])), data, tmp_path)
    late = values(tables={"t": {"samples": "table.parquet", "on_site_years": 2}})
    with pytest.raises(InputError, match="no table .*table.parquet"):
        plan_runs(ExperimentConfig.model_validate(values()), tmp_path, tmp_path)
    with pytest.raises(RequestError, match="no year follows 2 years to train on"):
        plan_runs(ExperimentConfig.model_validate(late), data, tmp_path)
