"""Commands for models as users type them: from a table to a model and back."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from command_line import assert_refused, run
from mmnet_maps.resources import packaged


@pytest.mark.parametrize("name", ["train", "predict", "evaluate", "recalibrate", "explain", "samples"])
def test_without_pyarrow_tables_are_refused_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("mmnet_maps.cli.checks.find_spec", lambda _: None)
    words = {
        "train": ["--config", "c", "--out", "o"],
        "predict": ["--model", "m", "--out", "o.parquet"],
        "evaluate": ["--model", "m"],
        "recalibrate": ["--model", "m", "--out", "o"],
        "explain": ["--model", "m", "--out", "o.json"],
        "samples": ["--observations", "o", "--out", "t.parquet"],
    }
    table = [] if name == "samples" else ["--samples", "s"]
    code, out, err = run(capsys, monkeypatch, name, *table, *words[name])
    assert_refused(code, out, err, 2, "pip install pyarrow")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--samples", "s", "--parity"],
        ["--parity", "--json", "j.json"],
        ["--parity", "--device", "cpu"],
        ["--parity", "--uncertainty", 9],
    ],
)
def test_evaluate_takes_samples_or_parity(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    code, out, err = run(capsys, monkeypatch, "evaluate", "--model", "mmnet-uscrn", *words)
    assert_refused(code, out, err, 2, "either --samples")


def test_packaged_configurations_are_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in packaged("configs").glob("*.yaml"):
        assert run(capsys, monkeypatch, "train", "--print-config", path.stem) == (0, path.read_text(), "")
    code, out, err = run(capsys, monkeypatch, "train", "--print-config", "best")
    assert_refused(code, out, err, 2, "'best'; expected one of earthengine, experiment, experiment-to-the-end, map, ")


def test_a_table_of_the_released_code_is_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import yaml

    from station_tables import released, small_config

    released(80).to_csv("t.csv", index=False)
    classes = ("grassland", "cropland")
    snapshot = [{"name": "smap", "encoding": "identity"}, {"name": "pol", "encoding": "identity"}]
    config = small_config(batch=16, max_epochs=1, validation="none").model_dump(mode="json")
    config["snapshot"] = [*snapshot, {"name": "landcover", "encoding": "onehot", "classes": classes}]
    Path("c.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    code, _, err = run(capsys, monkeypatch, "train", "--samples", "t.csv", "--config", "c.yaml", "--out", "m", "-q")
    assert code == 0, err
    code, out, err = run(capsys, monkeypatch, "evaluate", "--samples", "t.csv", "--model", "m")
    assert code == 0, err
    assert "median, 2 stations" in out
    assert run(capsys, monkeypatch, "samples", "check", "t.csv")[0] == 0


def test_a_model_from_a_table_and_back(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq
    import yaml

    from station_tables import make_table, small_config, write_table

    table, config = write_table(tmp_path / "t.parquet"), tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(small_config(max_epochs=2).model_dump(mode="json")))
    words = ("--samples", table, "--config", config, "--seed", 3, "--out", tmp_path / "m", "-q")
    code, out, err = run(capsys, monkeypatch, "train", *words)
    assert (code, out) == (0, f"{tmp_path / 'm'}\n"), err

    blind = write_table(tmp_path / "blind.parquet", make_table().drop_columns(["soil_moisture"]))
    code, out, err = run(
        capsys, monkeypatch, "predict", "--samples", blind, "--model", tmp_path / "m", "--out", "e.parquet"
    )
    assert code == 0, err
    estimates = pq.read_table("e.parquet")
    assert estimates.column_names == [*pq.read_table(blind).column_names, "soil_moisture_estimate"]

    code, out, err = run(
        capsys, monkeypatch, "evaluate", "--samples", table, "--model", tmp_path / "m", "--json", "m.json"
    )
    assert code == 0, err
    metrics = json.loads(Path("m.json").read_text())
    assert set(metrics) == {"stations", "samples", "median", "per_station"}
    assert set(metrics["median"]) == {"r", "rmse", "bias", "ubrmse"}
    observed = pq.read_table(table)["soil_moisture"].to_numpy()
    error = estimates["soil_moisture_estimate"].to_numpy() - observed
    stations = pq.read_table(table)["station"].to_numpy()
    rmse = [float((error[stations == name] ** 2).mean() ** 0.5) for name in sorted(set(stations))]
    assert metrics["median"]["rmse"] == pytest.approx(statistics.median(rmse), rel=1e-4)
    assert "median, 8 stations" in out

    words = ("--samples", table, "--model", tmp_path / "m", "--uncertainty", 3)
    code, out, err = run(capsys, monkeypatch, "evaluate", *words, "--json", "u.json", "--picture", "u.png")
    assert code == 0, err
    assert json.loads(Path("u.json").read_text())["uncertainty"]["stations"] == 8
    assert Path("u.png").read_bytes().startswith(b"\x89PNG")
    assert "within the 90 % interval" in out
    code, out, err = run(capsys, monkeypatch, "evaluate", *words[:4], "--picture", "v.png")
    assert_refused(code, out, err, 2, "--uncertainty 20")
    code, out, err = run(capsys, monkeypatch, "predict", *words[:4], "--uncertainty", 1, "--out", "e.parquet")
    assert_refused(code, out, err, 2, "at least 2 members")

    code, out, err = run(capsys, monkeypatch, "recalibrate", *words, "--out", tmp_path / "n")
    assert code == 0, err
    factor = json.loads((tmp_path / "n" / "model.json").read_text())["target"]["std_factor"]
    assert out.splitlines()[-1] == f"{tmp_path / 'n'}  std_factor {factor:.4g}"

    words = ("--samples", blind, "--model", tmp_path / "m", "--rows", 9, "--seed", 4, "-q")
    code, out, err = run(capsys, monkeypatch, "explain", *words, "--out", "i.json", "--picture", "i.png")
    assert (code, err) == (0, "")
    found = json.loads(Path("i.json").read_text())
    assert (found["rows"], found["seed"]) == (9, 4)
    assert out.splitlines()[1].split()[0] == found["variables"][0]["name"]
    assert Path("i.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("mmnet_maps.cli.checks.find_spec", lambda name: None if name == "captum" else name)
    code, out, err = run(capsys, monkeypatch, "explain", *words, "--out", "i.json")
    assert_refused(code, out, err, 2, "pip install captum")
