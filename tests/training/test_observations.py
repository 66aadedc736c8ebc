"""Observations read from published files, compared with an independent computation of the same days."""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu_files import Sensor, hours, uscrn, uscrn_line, write_archive
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.training import observations as insitu
from mmnet_maps.training.observations import COLUMNS, read_ismn, read_observations, read_uscrn, standard_time

SHARED = Path(__file__).parents[3] / "shared" / "data" / "stations"
START = datetime(2021, 6, 1)


def days(count: int, start: date = date(2021, 6, 1)) -> list[date]:
    return [start + timedelta(days=k) for k in range(count)]


def test_a_uscrn_file(tmp_path: Path) -> None:
    path = uscrn(tmp_path, "OK_Stillwater_2_W", dict(zip(days(4), (0.25, -99.0, 0.0, 0.31), strict=True)))
    table = read_uscrn(path)
    assert table.to_pylist() == [
        {
            "station": "Stillwater-2-W",
            "network": "USCRN",
            "date": day,
            "lat": 36.12,
            "lon": -97.09,
            "elevation": None,
            "soil_moisture": pytest.approx(value),
        }
        for day, value in ((days(4)[0], 0.25), (days(4)[2], 0.0), (days(4)[3], 0.31))
    ]
    assert tuple(table.column_names) == COLUMNS
    assert table.schema.field("date").type == pa.date32()
    assert table.schema.field("soil_moisture").type == pa.float32()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (uscrn_line(date(2021, 1, 1), 0.2) + "53926 20210102  2.622", "line 2 has 3 columns, expected 28"),
        (uscrn_line(date(2021, 1, 1), 0.2).replace("20210101", "20211301"), "holds a wrong number or day"),
        (uscrn_line(date(2021, 1, 1), 0.2).replace(" 0.200", " 0.2x0"), "holds a wrong number or day"),
        ("\u00b0", "cannot be read"),
    ],
)
def test_a_broken_uscrn_file_is_refused_in_a_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "CRND0103-2021-OK_Stillwater_2_W.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_uscrn(path)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not SHARED.exists(), reason="the real station data are not there")
def test_the_real_uscrn_files_hold_the_observations_of_the_real_table() -> None:
    found = read_observations([SHARED / "uscrn_daily01_raw"])
    names = ["Spokane-17-SSW", "Stillwater-2-W"]
    assert pc.unique(found["station"]).to_pylist() == names
    known = pq.read_table(SHARED / "daily_2015_2022.parquet", columns=["station", "date", "soil_moisture"]).to_pandas()
    known = known[known["station"].isin(names) & known["soil_moisture"].notna()]
    known = {(row.station, row.date): row.soil_moisture for row in known.itertuples() if row.date.year == 2021}
    assert {(row["station"], row["date"]): row["soil_moisture"] for row in found.to_pylist()} == known


# A hydraprobe whose values tell hour and day, with holes and flags that follow from the hour, and its neighbours.
FLAGS = ("G", "C03", "C02,C03", "C02", "G", "D03", "C03,D05", "C01", "M", "G", "G", "G", "G")


def record(level: float, step: int):
    def at(hour: datetime) -> tuple[float, str] | None:
        k = int((hour - START).total_seconds() // 3600)
        if k % 17 == 5 or 60 <= k < 60 + step:
            return None
        return round(level + 0.0005 * k + 0.02 * math.sin(k / 3), 4), FLAGS[k % len(FLAGS)]

    return at


def sensor(level: float, step: int, depth: tuple[float, float], instrument: str, **place) -> Sensor:
    usual = {"network": "SCAN", "station": "AdamsRanch", "lat": 34.25, "lon": -105.42, "elevation": 1850.0}
    return Sensor(depth=depth, instrument=instrument, record=record(level, step), **(usual | place))


EAST = {"network": "TxSON", "station": "CR200-1", "lat": 30.4, "lon": -98.8, "elevation": -9999.0}
SENSORS = [
    sensor(0.20, 9, (0.05, 0.05), "Hydraprobe-A"),
    sensor(0.10, 13, (0.0, 0.05), "Hydraprobe-B"),
    sensor(0.30, 0, (0.05, 0.05), "CS655", **EAST),
    sensor(0.90, 0, (0.05, 0.10), "Deeper"),
    sensor(0.90, 0, (0.10, 0.10), "Deep"),
    sensor(0.90, 0, (-0.10, 0.05), "Above"),
    Sensor(**(SENSOR_TS := {**EAST, "depth": (0.05, 0.05)}), instrument="CS655", record=record(0.9, 0), variable="ts"),
]
TIMES = hours(START, 8)
PLACES = {("SCAN", "AdamsRanch"): SENSORS[:2], ("TxSON", "CR200-1"): SENSORS[2:3]}


def expected(min_hours: int) -> dict[tuple[str, str, date], float]:
    """Compute daily means day by day and sensor by sensor, in plain Python."""
    found: dict[tuple[str, str, date], float] = {}
    for (network, station), sensors in PLACES.items():
        offset = {-105.42: -7, -98.8: -7}[sensors[0].lon]
        means: dict[date, list[float]] = {}
        for one in sensors:
            of_day: dict[date, list[float]] = {}
            for hour in TIMES:
                entry = one.record(hour)
                if entry and entry[1] in ("G", "C02", "C03", "C02,C03"):
                    of_day.setdefault((hour + timedelta(hours=offset)).date(), []).append(entry[0])
            for day, values in of_day.items():
                if len(values) >= min_hours:
                    means.setdefault(day, []).append(sum(values) / len(values))
        found |= {(network, station, day): sum(values) / len(values) for day, values in means.items()}
    return found


@pytest.mark.parametrize("kind", ["header_values", "ceop_sep"])
@pytest.mark.parametrize("name", ["archive.zip", "archive"])
@pytest.mark.parametrize("min_hours", [1, 12, 16])
def test_an_ismn_archive(
    tmp_path: Path, kind: str, name: str, min_hours: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_archive(tmp_path / name, SENSORS, TIMES, kind)
    before = sorted(tmp_path.rglob("*"))
    table = read_ismn(path, min_hours=min_hours)
    found = {(row["network"], row["station"], row["date"]): row["soil_moisture"] for row in table.to_pylist()}
    assert found == pytest.approx(expected(min_hours), rel=1e-6)
    assert len(found) == table.num_rows
    places = {(row["station"], row["lat"], row["lon"], row["elevation"]) for row in table.to_pylist()}
    assert places == {("AdamsRanch", 34.25, -105.42, 1850.0), ("CR200-1", 30.4, -98.8, None)}
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written beside the archive"
    assert capsys.readouterr().out == ""


def test_the_threshold_leaves_out_days_as_the_formula_does() -> None:
    counts = [len(expected(least)) for least in (1, 12, 16, 24)]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 4, "the archive of these tests tells the thresholds apart"


def test_a_truncated_file_is_left_out_with_a_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_archive(tmp_path / "a", SENSORS[:3], TIMES)
    broken = next(path.glob("SCAN/*/*Hydraprobe-B*.stm"))
    broken.write_text("SCAN SCAN")
    table = read_ismn(path)
    assert f"1 of 3 files cannot be read and are left out, the first is SCAN/AdamsRanch/{broken.name}" in caplog.text
    assert set(table["network"].to_pylist()) == {"SCAN", "TxSON"}


def test_archives_of_nothing_are_refused_in_a_line(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a", SENSORS[:1], TIMES)
    next(path.glob("*/*/*.stm")).write_text("SCAN SCAN")
    with pytest.raises(InputError, match="cannot be read") as error:
        read_ismn(path)
    assert "\n" not in str(error.value)
    deep = write_archive(tmp_path / "deep", SENSORS[3:6], TIMES)
    assert read_ismn(deep).num_rows == 0
    with pytest.raises(InputError, match="no soil moisture at 0 to 5 cm in the observations"):
        read_observations([deep])
    (tmp_path / "cut.zip").write_bytes(write_archive(tmp_path / "b.zip", SENSORS[:1], TIMES).read_bytes()[:900])
    with pytest.raises(InputError, match=r"cut\.zip does not have a name"):
        read_observations([tmp_path / "cut.zip"])
    with pytest.raises(RequestError, match="25 is no number of hours of a day"):
        read_ismn(path, min_hours=25)


def test_without_ismn_archives_are_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insitu, "find_spec", lambda _: None)
    with pytest.raises(RequestError, match=r"pip install 'mmnet-maps\[ismn\]'"):
        read_observations([write_archive(tmp_path / "a.zip", SENSORS[:1], TIMES)])


@given(st.floats(-180, 180))
def test_standard_time_is_within_half_an_hour_of_the_sun(lon: float) -> None:
    assert abs(standard_time(lon) - lon / 15) <= 0.5


def test_paths_are_recognised_by_their_content(tmp_path: Path) -> None:
    zipped = write_archive(tmp_path / "ismn.zip", SENSORS[:2], TIMES)
    uscrn(tmp_path / "uscrn" / "2021", "WA_Spokane_17_SSW", {date(2021, 6, 1): 0.2})
    mixed = write_archive(tmp_path / "mixed", SENSORS[2:3], TIMES)
    uscrn(mixed, "OK_Stillwater_2_W", {date(2021, 6, 1): 0.3})
    table = read_observations([zipped, tmp_path / "uscrn", mixed])
    assert pc.unique(table["station"]).to_pylist() == ["AdamsRanch", "CR200-1", "Spokane-17-SSW", "Stillwater-2-W"]
    keys = list(zip(table["station"].to_pylist(), table["date"].to_pylist(), strict=True))
    assert keys == sorted(keys)


def test_a_name_that_two_networks_have_gets_the_network_before_it(tmp_path: Path) -> None:
    other = sensor(0.3, 0, (0.05, 0.05), "CS655", network="SNOTEL", lat=40.0, lon=-110.0)
    table = read_observations([write_archive(tmp_path / "a", [SENSORS[0], other], TIMES)])
    assert pc.unique(table["station"]).to_pylist() == ["SCAN:AdamsRanch", "SNOTEL:AdamsRanch"]


def test_days_given_twice(tmp_path: Path) -> None:
    path = uscrn(tmp_path / "a", "OK_Stillwater_2_W", {date(2021, 6, 1): 0.3})
    assert read_observations([path, path]).num_rows == 1
    other = uscrn(tmp_path / "b", "OK_Stillwater_2_W", {date(2021, 6, 1): 0.4})
    with pytest.raises(InputError, match=r"two values on 2021-06-01, 0\.300 and 0\.400 m³/m³") as error:
        read_observations([path, other])
    assert "\n" not in str(error.value)


def test_a_station_has_one_place(tmp_path: Path) -> None:
    first = uscrn(tmp_path / "a", "OK_Stillwater_2_W", {date(2021, 6, 1): 0.3})
    moved = uscrn(tmp_path / "b", "OK_Stillwater_2_W", {date(2021, 6, 2): 0.3}, lat=36.13)
    assert read_observations([first, moved])["lat"].to_pylist() == [36.13, 36.13]
    away = uscrn(tmp_path / "c", "OK_Stillwater_2_W", {date(2021, 6, 3): 0.3}, lat=36.5)
    with pytest.raises(InputError, match=r"Stillwater-2-W is at two places 0\.38° apart"):
        read_observations([first, away])
    known = tmp_path / "stations.csv"
    known.write_text("station,lon,lat,elevation\nElsewhere,-100,40,\nStillwater-2-W,-97.0914,36.1182,272\n")
    row = read_observations([first, away], positions=known).to_pylist()[1]
    assert (row["date"], row["lat"], row["lon"], row["elevation"]) == (date(2021, 6, 3), 36.1182, -97.0914, 272.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("station,lat\nA,1\n", "has no column lon"),
        ("station,lat,lon\nA,36,-97\n", "no row for Stillwater-2-W"),
        ("station,lat,lon\nStillwater-2-W,136,-97\n", "Stillwater-2-W has no position in degrees"),
        ("station,lat,lon\nStillwater-2-W,x,-97\n", "Stillwater-2-W has no position in degrees"),
        ("", "cannot be read"),
        ("station,lat,lon\n", "has no row below its header"),
        ("station,lat,lon\nStillwater-2-W,36,-97\n ,37,-98\n", "row 2 has no station"),
        (
            "station,lat,lon\nStillwater-2-W,36,-97\nStillwater-2-W,36,-97\nStillwater-2-W,37,-97\n",
            "Stillwater-2-W is at -97.000000,36.000000 and at -97.000000,37.000000; give it one position",
        ),
    ],
)
def test_positions_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = uscrn(tmp_path, "OK_Stillwater_2_W", {date(2021, 6, 1): 0.3})
    (tmp_path / "stations.csv").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_observations([path], positions=tmp_path / "stations.csv")
    assert "\n" not in str(error.value)


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in {
        tmp_path / "none": "no file or folder",
        tmp_path / "empty": "neither USCRN daily01 files .* nor files of an ISMN archive",
    }.items():
        with pytest.raises(InputError, match=message):
            read_observations([path])
    with pytest.raises(RequestError, match="no observations given"):
        read_observations([])


def test_impossible_values_are_left_out(tmp_path: Path) -> None:
    path = uscrn(tmp_path, "OK_Stillwater_2_W", dict(zip(days(4), (0.25, 1.2, -0.1, 1.0), strict=True)))
    np.testing.assert_allclose(read_uscrn(path)["soil_moisture"].to_numpy(), [0.25, 1.0])
