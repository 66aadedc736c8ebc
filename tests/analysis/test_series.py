"""Complete daily series at places, compared with the maps of the same places and days."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from batch_world import DAYS
from insitu_files import uscrn
from map_files import DAY, NEXT, grid_at, values_on, write_map
from mmnet_maps import cli
from mmnet_maps.analysis.series import metrics, read_observed, series_for
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.lattice import lonlat
from mmnet_maps.training.observations import read_observations


def test_observations_at_stations_of_the_same_name(tmp_path: Path, corner_stack: Path, model: Path) -> None:
    place = (47.79, -119.29)
    uscrn(tmp_path, "WA_Here_1_N", {DAYS[0]: 0.21, DAYS[2]: 0.25}, lat=place[0], lon=place[1])
    rows = f"Other,{place[0]},{place[1]},{DAYS[1]},0.3\nOther,{place[0]},{place[1]},{DAYS[2]},\n"
    (tmp_path / "s.csv").write_text(f"station,lat,lon,date,soil_moisture\nHere-1-N,{place[0]},{place[1]},,\n{rows}")
    found = series_for(
        points=[str(tmp_path / "s.csv"), "-119.291,47.7901"],
        stack=str(corner_stack),
        model=str(model),
        start=str(DAYS[0]),
        end=str(DAYS[2]),
        observations=read_observations([tmp_path]).to_pandas(),
        quiet=True,
    )
    nan = np.nan
    np.testing.assert_allclose(found["soil_moisture"], [0.21, nan, 0.25, nan, 0.3, nan, nan, nan, nan], atol=1e-6)
    assert found["soil_moisture"].dtype == np.float32
    assert found["soil_moisture_filled"].notna().all()
    assert found["quality"].dtype == np.uint16
    judged = metrics(found)
    assert judged is not None
    assert [(row["station"], row["samples"]) for row in judged["per_station"]] == [("Here-1-N", 2), ("Other", 1)]
    error = found["soil_moisture_estimate"][4] - 0.3
    assert judged["per_station"][1]["bias"] == pytest.approx(error, abs=1e-6)
    assert metrics(found[found["station"] == "-119.291,47.7901"]) is None


def test_observations_of_other_stations_are_refused(tmp_path: Path) -> None:
    uscrn(tmp_path, "WA_Here_1_N", {DAYS[0]: 0.21})
    observations = read_observations([tmp_path]).to_pandas()
    with pytest.raises(InputError, match="the places are called -119,47, the stations Here-1-N"):
        series_for(["-119,47"], observations, source="demo", start=str(DAYS[0]), end=str(DAYS[0]))


def test_observations_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    head = "station,lat,lon,date,soil_moisture\n"
    for rows, message in (
        ("a,47,-119,2021-08-08,0.2\na,47,-119,2021-08-08,0.3\n", "station a has two observations on 2021-08-08"),
        (
            "a,47,-119,8 August,0.2\n",
            "s.csv: date '8 August' of station a cannot be read; expected dates such as 2021-08-08$",
        ),
        ("a,47,-119,8/8/2021,0.2\n", "date '8/8/2021' of station a"),
        ("a,47,-119,2021-08-08,wet\n", "soil_moisture 'wet' of station a cannot be read; expected numbers in m³/m³$"),
        (
            "a,47,-119,2021-08-07,0.2\na,47,-119,2021-08-08T06:00:00,0.2\n",
            "T06:00:00 has a time of day",
        ),
        ("a,47,-119,2021-08-08T00:00:00Z,0.2\n", "00Z has a time of day; expected one row per day"),
    ):
        path.write_text(head + rows)
        with pytest.raises(InputError, match=message):
            read_observed([str(path)])
    assert read_observed(["-119,47"]) is None


def test_observations_without_a_date_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "s.csv").write_text(
        "Station;Lat;Lon;Date;Soil_Moisture\na;47;-119;2021-08-08;0,2\na;47;-119;;0,3\nb;47;-118;;\n"
    )
    found = read_observed([str(tmp_path / "s.csv")])
    assert found is not None
    assert found["soil_moisture"].tolist() == [0.2]
    assert "s.csv: 1 of 2 observations have no date and are left out" in caplog.text
    (tmp_path / "t.csv").write_text("station,lat,lon,soil_moisture\na,47,-119,0.2\n")
    found = read_observed([str(tmp_path / "t.csv")])
    assert found is not None
    assert found.empty
    assert "t.csv: 1 of 1 observations have no date and are left out" in caplog.text


def test_impossible_observations_count_as_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "".join(f"a,47,-119,2021-08-0{day},{value}\n" for day, value in enumerate((0.2, 23.5, "", -9999, 1), 1))
    (tmp_path / "s.CSV").write_text(f"station,lat,lon,date,soil_moisture\n{rows}a,47,-119,2021-08-09 00:00:00,0.3\n")
    found = read_observed([str(tmp_path / "s.CSV")])
    assert found is not None
    assert found["soil_moisture"].tolist() == [0.2, 1, 0.3]
    assert [str(day.date()) for day in found["date"]] == ["2021-08-01", "2021-08-05", "2021-08-09"]
    assert (
        "s.CSV: 2 of 5 observations lie outside 0 to 1 m³/m³, such as 23.5, and are treated as missing" in caplog.text
    )


def test_series_out_of_maps_with_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = grid_at(0, 0, 60, 50)
    for seed, day in enumerate((DAY, NEXT)):
        write_map(tmp_path / "maps", "field", day, grid, seed=seed, synthetic=True, std=True)
    lon, lat = lonlat(grid)
    (tmp_path / "s.csv").write_text(f"station,lat,lon,date,soil_moisture\na,{lat[10, 21]},{lon[10, 21]},{DAY},0.3\n")
    words = ["points", "--points", "s.csv", "--points", f"{lon[5, 6]},{lat[5, 6]}", "--maps", "maps"]
    assert command(monkeypatch, *words, "--out", "s.nc", "--picture", "p.png", "-q") == 0
    told = capsys.readouterr()
    assert "s.nc: 2 places, 4 days, 4 of them with an estimate" in told.out
    assert "median, 1 stations" in told.out
    assert "SYNTHETIC INPUTS" in told.err
    expected = np.array(
        [[values_on(grid, seed)["soil_moisture"][place] for seed in (0, 1)] for place in ((10, 21), (5, 6))]
    )
    with xr.open_dataset("s.nc") as data:
        np.testing.assert_allclose(data["soil_moisture_estimate"], expected, atol=1e-6)
        np.testing.assert_allclose(data["soil_moisture_std"], expected / 8, atol=6e-5)
        np.testing.assert_allclose(data["soil_moisture"][0], [0.3, np.nan])
        assert data.attrs["synthetic"] == 1
    assert Path("p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert command(monkeypatch, *words, "--out", "s2.csv", "--start", str(NEXT), "-q") == 0
    assert pd.read_csv("s2.csv")["date"].tolist() == [str(NEXT)] * 2
    given = Path("s.csv").read_bytes()
    Path("mine.png").write_bytes(b"mine")
    for extra, code, message in (
        (["--out", "s.csv"], 2, "s.csv is the input of --points; give another --out"),
        (["--out", "t.csv", "--picture", "mine.png"], 5, "mine.png was not made by mmnet_maps"),
    ):
        assert command(monkeypatch, *words, *extra) == code
        assert message in capsys.readouterr().err
    assert Path("s.csv").read_bytes() == given
    assert not Path("t.csv").exists()


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mmnet", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_a_file_of_another_kind_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["points", "--points", "-119,47", "--stack", "none.zarr", "--start", "2021-08-08", "--end", "2021-08-08"]
    for extra, code, message in (
        (["--out", "s.txt"], 2, "ends in .csv, .parquet or .nc"),
        (["--out", "s.csv", "--picture", "p.jpg"], 2, "ends in .png"),
        (["--out", "s.csv"], 3, "no stack at none.zarr"),
    ):
        assert command(monkeypatch, *words, *extra) == code
        told = capsys.readouterr().err
        assert message in told
        assert "Traceback" not in told


def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for options, code, message in (
        ([], 2, "give either --samples, or --points"),
        (["--samples", "t", "--points", "-119,47"], 2, "give either --samples, or --points"),
        (["--samples", "t", "--start", "2021-08-08"], 2, "leave out the other options"),
        (["--samples", "t", "--observations", "u"], 2, "leave out the other options"),
        (["--samples", "t" * 300], 3, "no file ttt"),  # too long for a name
        (["--points", "-119,47", "--maps", "m", "--model", "n"], 2, "leave out --model"),
        (
            ["--points", "-119,47", "--stack", "s", "--start", "2021-02-30", "--end", "2021-03-01"],
            2,
            "not in the calendar",
        ),
        (["--points", "-119,47", "--stack", "s", "--observations", "none"], 2, "give the first and the last day"),
        (["--points", "119,47,1", "--maps", "m", "--observations", "none"], 2, "neither LON,LAT in degrees"),
    ):
        assert command(monkeypatch, "points", *options, "--out", "s.csv") == code
        assert message in capsys.readouterr().err
    for given, message in (
        ({"stack": "s", "maps": ["m"]}, "give one of --maps, --stack and --source"),
        ({"stack": "s"}, "the first and the last day"),
        ({"start": "2021-08-08", "end": "2021-08-08"}, "no input given"),
    ):
        with pytest.raises(RequestError, match=message):
            series_for(["-119,47"], **given)  # type: ignore[arg-type]
