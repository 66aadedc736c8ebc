from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmnet_maps import cli
from mmnet_maps.errors import InputError
from mmnet_maps.model.checkpoint import Checkpoint, save_checkpoint
from mmnet_maps.model.engine import Engine
from mmnet_maps.training.build_table import METADATA
from mmnet_maps.training.evaluate import predict_samples
from mmnet_maps.training.gap_fill import fill_gaps
from mmnet_maps.training.table import Samples
from mmnet_maps.training.train import train
from station_tables import make_table, small_config, write_table


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    trained = train(Samples(table=make_table()), small_config(validation="none", max_epochs=1), progress=False)
    return save_checkpoint(tmp_path_factory.mktemp("models") / "small", trained.spec, trained.network, trained.golden)


def test_gaps_become_days_and_observations_stay(checkpoint: Checkpoint) -> None:
    table = make_table(days=30)
    kept = np.random.default_rng(1).random(len(table)) < 0.6
    samples = Samples(table=table).take(kept)
    engine = Engine(checkpoint, device="cpu")
    found = fill_gaps(engine, samples)
    for name in samples.stations:
        mine, there = found[found["station"] == name], samples.station == name
        days = samples.date[there]
        expected = np.arange(days.min(), days.max() + np.timedelta64(1, "D"))
        np.testing.assert_array_equal(mine["date"].to_numpy().astype("datetime64[D]"), expected)
        place = np.searchsorted(expected, days)
        estimate = np.full(len(expected), np.nan, np.float32)
        estimate[place] = predict_samples(engine, samples)[there]
        np.testing.assert_allclose(mine["soil_moisture_estimate"], estimate, atol=1e-6)
        np.testing.assert_array_equal(mine["soil_moisture"].to_numpy()[place], samples.target[there])
        assert mine["soil_moisture"].notna().sum() == there.sum()
    assert found["soil_moisture_std"].isna().all()
    seen = found["soil_moisture"].notna()
    np.testing.assert_array_equal(found.loc[seen, "soil_moisture_filled"], found.loc[seen, "soil_moisture"])
    np.testing.assert_array_equal(found.loc[~seen, "soil_moisture_filled"], found.loc[~seen, "soil_moisture_estimate"])


def test_a_station_twice_on_a_day_is_refused(checkpoint: Checkpoint) -> None:
    samples = Samples(table=make_table(days=3)).take(np.array([0, 1, 1]))
    with pytest.raises(InputError, match="station S00 has two rows on 2020-11-16"):
        fill_gaps(Engine(checkpoint, device="cpu"), samples)


def test_smap_rain_and_origin_of_the_table_are_kept(checkpoint: Checkpoint) -> None:
    table = make_table(days=4)
    made = table.replace_schema_metadata({METADATA: json.dumps({"synthetic": True, "inputs": {"pr": "rain"}})})
    found = fill_gaps(Engine(checkpoint, device="cpu"), Samples(table=made, name="some/t.parquet"))
    np.testing.assert_allclose(found["smap"], table["smap"].to_numpy())
    np.testing.assert_allclose(found["pr"], np.stack(table["pr"].to_numpy())[:, -1])
    assert found.attrs["synthetic"] is True
    assert (found.attrs["model"], found.attrs["samples"], found.attrs["inputs"]) == (
        "small",
        "t.parquet",
        {"pr": "rain"},
    )


def test_the_command_writes_series_and_picture(
    tmp_path: Path, checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path / "t.parquet")
    words = ["mmnet", "points", "--samples", str(table), "--model", str(checkpoint.path), "--uncertainty", "3"]
    for out, *picture in (["a.csv", "--picture", "p.png"], ["sub/b.parquet"]):
        monkeypatch.setattr(sys, "argv", [*words, "--out", out, *picture])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code, capsys.readouterr().err
    assert "8 places, 480 days, 480 of them with an estimate" in capsys.readouterr().out
    text, binary = pd.read_csv("a.csv", parse_dates=["date"]), pd.read_parquet("sub/b.parquet")
    pd.testing.assert_frame_equal(text, binary, check_dtype=False, atol=5.1e-5)
    assert (binary["soil_moisture_std"] > 0).all()
    assert binary["soil_moisture"].notna().all()
    assert Path("p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
