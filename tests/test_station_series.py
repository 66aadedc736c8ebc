"""Complete daily series, against the model's own predictions and against the map of the same places and days."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyproj import Transformer

from batch_world import CORNER, DAYS, fill
from insitu_files import uscrn
from mmnet_maps import cli
from mmnet_maps.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mmnet_maps.engine import Engine
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.evaluate import predict_samples
from mmnet_maps.predict import downscale_product
from mmnet_maps.samples import Samples
from mmnet_maps.station_series import fill_gaps, read_places, samples_for, write_series
from mmnet_maps.train import train
from station_tables import make_table, small_config, write_table


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    trained = train(Samples(table=make_table()), small_config(validation="none", max_epochs=1), progress=False)
    return save_checkpoint(tmp_path_factory.mktemp("models") / "small", trained.spec, trained.network, trained.golden)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    return fill(tmp_path_factory.mktemp("series") / "s.zarr", model).path


def test_gaps_become_days_and_observations_stay(checkpoint: Checkpoint) -> None:
    table = make_table(days=30)
    kept = np.random.default_rng(1).random(len(table)) < 0.6
    samples = Samples(table=table).take(kept)
    engine = Engine(checkpoint, device="cpu")
    found = fill_gaps(engine, samples)
    for name in samples.stations:
        mine, there = found[found["station"] == name], samples.station == name
        days = samples.date[there]
        expected = np.arange(days.min(), days.max() + 1)
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


def test_a_series_is_what_the_maps_say_at_its_pixel(stack: Path, model: Path) -> None:
    maps = downscale_product(CORNER, "2021-08-07/2021-08-09", stack=stack, model=model, quiet=True).compute()
    valid = np.isfinite(maps["soil_moisture"].to_numpy()).all(0)
    rows, cols = (index[:: max(1, len(index) // 7)] for index in np.nonzero(valid))

    lon, lat = Transformer.from_crs("EPSG:5070", "EPSG:4326", always_xy=True).transform(
        maps.x.to_numpy()[cols], maps.y.to_numpy()[rows]
    )
    points = [f"{x!r},{y!r}" for x, y in zip(lon.tolist(), lat.tolist(), strict=True)]
    engine = Engine(load_checkpoint(model), device="cpu", draws=3)
    samples = samples_for(engine, points=points, stack=str(stack), start="2021-08-07", end="2021-08-09", quiet=True)
    found = fill_gaps(engine, samples)
    assert len(found) == 3 * len(points)
    for k in range(len(points)):
        mine = found[np.isclose(found["lon"], lon[k]) & np.isclose(found["lat"], lat[k])]
        expected = maps["soil_moisture"].to_numpy()[:, rows[k], cols[k]]
        np.testing.assert_allclose(mine["soil_moisture_estimate"].clip(0, 1), expected, atol=1e-5)
        assert (mine["soil_moisture_std"] > 0).all()
        assert mine["soil_moisture"].isna().all()


def test_observations_at_stations_of_the_same_name(tmp_path: Path, stack: Path, model: Path) -> None:
    place = (47.79, -119.29)
    uscrn(tmp_path, "WA_Here_1_N", {DAYS[0]: 0.21, DAYS[2]: 0.25}, lat=place[0], lon=place[1])
    (tmp_path / "s.csv").write_text(f"station,lat,lon\nHere-1-N,{place[0]},{place[1]}\n")
    engine = Engine(load_checkpoint(model), device="cpu")
    samples = samples_for(
        engine,
        points=[str(tmp_path / "s.csv")],
        stack=str(stack),
        start="2021-08-07",
        end="2021-08-09",
        observations=[str(tmp_path)],
        quiet=True,
    )
    found = fill_gaps(engine, samples)
    np.testing.assert_allclose(found["soil_moisture"], [0.21, np.nan, 0.25], atol=1e-6)
    assert found["soil_moisture_filled"].notna().all()


def test_the_command_writes_series_and_picture(
    tmp_path: Path, checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path / "t.parquet")
    words = ["mmnet", "points", "--samples", table, "--model", checkpoint.path, "--uncertainty", 3]
    for out in ("a.csv", "sub/b.parquet"):
        monkeypatch.setattr(sys, "argv", [str(word) for word in [*words, "--out", out, "--picture", "p.png"]])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code, capsys.readouterr().err
    assert "8 places, 480 days, 480 of them with an estimate" in capsys.readouterr().out
    text, binary = pd.read_csv("a.csv", parse_dates=["date"]), pd.read_parquet("sub/b.parquet")
    pd.testing.assert_frame_equal(text, binary, check_dtype=False, atol=5.1e-5)
    assert (binary["soil_moisture_std"] > 0).all()
    assert binary["soil_moisture"].notna().all()
    assert Path("p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_options_that_do_not_go_together(checkpoint: Checkpoint, tmp_path: Path) -> None:
    engine = Engine(checkpoint, device="cpu")
    for options, message in (
        ({}, "give either --samples, or --points"),
        ({"samples": "t", "points": ["-119,47"]}, "give either --samples, or --points"),
        ({"samples": "t", "start": "2021-08-08"}, "leave the other options out"),
        ({"points": ["-119,47"]}, "either a stack"),
        ({"points": ["-119,47"], "stack": "s"}, "the first and the last day"),
    ):
        with pytest.raises(RequestError, match=message):
            samples_for(engine, **options)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"ends in .csv or .parquet"):
        write_series(fill_gaps(engine, Samples(table=make_table(days=1))), tmp_path / "s.txt")


def test_places(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("station,lat,lon,more\n7,47.0,-119.0,x\n")
    (tmp_path / "no.csv").write_text("name\n7\n")
    found = read_places([str(tmp_path / "s.csv"), "-119.25,47.5"])
    assert found.to_dict("list") == {"station": ["7", "-119.25,47.5"], "lat": [47.0, 47.5], "lon": [-119.0, -119.25]}
    for given, kind, message in (
        (["47.5,-119.25"], RequestError, "expected LON,LAT"),
        (["none.csv"], RequestError, "neither LON,LAT in degrees nor a CSV"),
        (["-119,47", "-119,47"], RequestError, "given twice"),
        ([str(tmp_path / "no.csv")], InputError, "lacks station, lat, lon"),
    ):
        with pytest.raises(kind, match=message):
            read_places(given)
