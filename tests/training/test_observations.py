"""Observations read from published files, compared with an independent computation of the same days."""

from __future__ import annotations

import math
import re
import shutil
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
from mmnet_maps.training.ismn_archive import standard_time
from mmnet_maps.training.observations import COLUMNS, read_ismn, read_observations, read_uscrn

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
    sensor(0.10, 13, (0.0508, 0.0508), "Hydraprobe-B"),
    sensor(0.90, 0, (0.0, 0.05), "Layer"),
    sensor(0.30, 0, (0.05, 0.05), "CS655", **EAST),
    sensor(0.90, 0, (0.05, 0.10), "Deeper"),
    sensor(0.90, 0, (0.10, 0.10), "Deep"),
    sensor(0.90, 0, (-0.10, 0.05), "Above"),
    Sensor(**(SENSOR_TS := {**EAST, "depth": (0.05, 0.05)}), instrument="CS655", record=record(0.9, 0), variable="ts"),
]
TIMES = hours(START, 8)
PLACES = {("SCAN", "AdamsRanch"): SENSORS[:2], ("TxSON", "CR200-1"): SENSORS[3:4]}


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
    path = write_archive(tmp_path / "a", [*SENSORS[:2], SENSORS[3]], TIMES)
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
    deep = write_archive(tmp_path / "deep", SENSORS[4:7], TIMES)
    assert read_ismn(deep).num_rows == 0
    with pytest.raises(InputError, match="no daily soil moisture at 0 to 5 cm in the observations"):
        read_observations([deep])
    (tmp_path / "cut.zip").write_bytes(write_archive(tmp_path / "b.zip", SENSORS[:1], TIMES).read_bytes()[:900])
    with pytest.raises(InputError, match=r"cut\.zip does not have a name"):
        read_observations([tmp_path / "cut.zip"])
    with pytest.raises(RequestError, match="25 is no number of hours of a day"):
        read_ismn(path, min_hours=25)


@pytest.mark.parametrize("kind", ["header_values", "ceop_sep"])
def test_the_package_ismn_reads_the_same_values(tmp_path: Path, kind: str) -> None:
    from ismn.filehandlers import DataFile

    path = write_archive(tmp_path / "a", SENSORS[3:4], hours(START, 2), kind)
    (file,) = path.rglob("*.stm")
    known = DataFile(path, file.relative_to(path))
    data = known.read_data()
    good = data["soil_moisture_flag"].isin(["G", "C02", "C03", "C02,C03"])
    local = (data.index[good] - timedelta(hours=7)).floor("D")
    means = data["soil_moisture"][good].groupby(local).mean()
    table = read_ismn(path, min_hours=1).to_pandas()
    assert table["soil_moisture"].to_list() == pytest.approx(means.to_list(), rel=1e-6)
    assert table["lat"][0] == known.metadata["latitude"].val


# Files of one station at 90° west, whose day begins at 6 UTC, with a constant value each.
HERE = {"network": "SCAN", "station": "Ephrata", "lat": 47.11, "lon": -90.0, "elevation": 390.0, "variable": "sm"}
DAYS = hours(START + timedelta(hours=6), 2)


def at(depth: tuple[float, float], value: float, instrument: str = "Hydraprobe", **place) -> Sensor:
    return Sensor(depth=depth, instrument=instrument, record=lambda _: (value, "G"), **(HERE | place))


@pytest.mark.parametrize(
    ("depths", "shallow", "value", "left"),
    [
        ([(0.0508, 0.0508)], False, 0.1, ""),
        ([(0.04, 0.06), (0.0, 0.051)], False, 0.1, "1 of 2 soil moisture sensors left out: 1 beside one nearer"),
        ([(0.0, 0.05), (0.025, 0.025)], True, 0.1, "1 of 2 soil moisture sensors left out: 1 beside one nearer"),
        ([(0.0254, 0.0254), (0.1016, 0.1016)], True, 0.1, "1 of 2 .* left out: 1 deeper than 5.1 cm"),
        ([(0.0254, 0.0254), (0.1016, 0.1016)], False, None, r"2 of 2 .* left out: 1 at 0.0254 m \(--shallow uses them"),
        ([(0.0, 0.10), (-0.05, -0.05)], True, None, "2 of 2 .* left out: 1 above the ground, 1 deeper than 5.1 cm"),
        ([(0.05, 0.05), (0.0508, 0.0508)], False, 0.15, ""),  # both are nominally at 5 cm: the mean of .1 and .2
        ([(0.0, 0.05), (0.02, 0.05)], False, 0.15, "sensors of different depths are averaged at 1 station"),
    ],
)
def test_which_sensors_stand_for_five_centimetres(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, depths: list, shallow: bool, value: float | None, left: str
) -> None:
    sensors = [at(depth, 0.1 * (k + 1)) for k, depth in enumerate(depths)]
    found = read_ismn(write_archive(tmp_path / "a", sensors, DAYS), shallow=shallow)["soil_moisture"].to_pylist()
    assert found == ([] if value is None else pytest.approx([value] * 2))
    assert re.search(left, caplog.text) if left else not caplog.text


def test_the_files_of_one_sensor_are_one_sensor(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a", [at((0.05, 0.05), 0.1)], DAYS[:30])  # a day, and 6 hours of the next one
    write_archive(path, [at((0.05, 0.05), 0.4)], DAYS[30:])  # its other 18 hours
    assert read_ismn(path, min_hours=24)["soil_moisture"].to_pylist() == pytest.approx([0.1, (0.1 + 3 * 0.4) / 4])


def rewritten(tmp_path: Path, change) -> Path:
    """Write an archive of two days of 0.1 m³/m³ whose lines below the first are changed."""
    path = write_archive(tmp_path / "a", [at((0.05, 0.05), 0.1)], DAYS)
    (file,) = path.rglob("*.stm")
    head, *lines = file.read_text().splitlines()
    file.write_bytes("\n".join([head, *change(lines)]).encode("latin-1"))
    return path


@pytest.mark.parametrize(
    ("change", "days", "message"),
    [
        # 8 hours a day, each twice: not 16 hours
        (
            lambda lines: 2 * [*lines[:8], *lines[24:32]],
            [],
            "16 values given again for the same hour, 0 of them different",
        ),
        # the first 12 hours re-sent as 0.3: the mean of 12 hours of each
        (
            lambda lines: [*lines, *(line.replace("0.1000", "0.3000") for line in lines[:12])],
            [0.2, 0.1],
            "12 values given again for the same hour, 12 of them different; the last value given counts",
        ),
        # 12 of 24 hours twice as often: half hours of 0.1 and 0.5 are one hour of 0.3
        (
            lambda lines: [*lines, *(x.replace(":00 ", ":30 ").replace("0.1000", "0.5000") for x in lines[:12])],
            [0.2, 0.1],
            "",
        ),
        # 6 hours each twice as half hours are 6 hours
        (lambda lines: [*lines[:6], *(line.replace(":00 ", ":30 ") for line in lines[:6])], [], "without a day of 12"),
        (
            lambda lines: [*lines[:-1], lines[-1][:13]],
            [0.1, 0.1],
            "1 line cannot be read and left out, the first is .*line 49",
        ),
        (lambda lines: [lines[0].replace(" G", " 7 G"), *lines[1:]], [0.1, 0.1], "1 line cannot be read.*line 2"),
        (lambda lines: [lines[0].replace("/06/", "/13/"), *lines[1:]], [0.1, 0.1], "1 line cannot be read.*line 2"),
        (lambda lines: [line.replace("0.1000", "0.1x") for line in lines], None, "none of its lines can be read"),
        (lambda lines: [line.replace("0.1000", "15.10") for line in lines], [], "with values above 1, so not in m³/m³"),
        (lambda lines: [line.replace(" G", " X1") for line in lines], [], "without a day of 12 usable hours"),
        (lambda lines: [line.replace(" M", " \u00df") for line in lines], [0.1, 0.1], ""),
        (lambda lines: [line + "\r" for line in lines], [0.1, 0.1], ""),
        (lambda lines: [*lines[:24], *(x.replace("0.1000 G", "NaN M") for x in lines[24:])], [0.1], ""),
        (lambda lines: [], None, "none of its lines can be read"),
    ],
)
def test_lines_that_are_odd(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change, days: list[float] | None, message: str
) -> None:
    path = rewritten(tmp_path, change)
    if days is None:
        with pytest.raises(InputError, match=message) as error:
            read_ismn(path)
        assert len(str(error.value)) <= 300
        return
    assert read_ismn(path)["soil_moisture"].to_pylist() == pytest.approx(days)
    assert re.search(message, caplog.text) if message else not caplog.text
    assert all(len(line.getMessage()) <= 300 for line in caplog.records)


@pytest.mark.parametrize("head", ["SCAN SCAN Ephrata here 47.11 -90.0 390", "SCAN SCAN E -9999 -9999 390", ""])
def test_a_file_without_a_position_is_left_out(tmp_path: Path, head: str) -> None:
    path = write_archive(tmp_path / "a", [at((0.05, 0.05), 0.1)], DAYS)
    (file,) = path.rglob("*.stm")
    file.write_text("\n".join([head, *file.read_text().splitlines()[1:]]))
    with pytest.raises(InputError, match="cannot be read as an ISMN archive .*(position|first line)"):
        read_ismn(path)


@pytest.mark.parametrize("static", [None, "", "quantity_name;unit\n", "a,b\n1,2\n", "\x00"])
def test_the_table_of_static_variables_is_not_needed(tmp_path: Path, static: str | None) -> None:
    path = write_archive(tmp_path / "a", [at((0.05, 0.05), 0.1)], DAYS)
    (table,) = path.rglob("*.csv")
    table.unlink() if static is None else table.write_text(static)
    assert read_ismn(path).num_rows == 2


@pytest.mark.parametrize("where", ["Ephrata", ".", "an archive/of mine/SCAN/Ephrata"])
def test_folders_of_an_archive_have_any_level(tmp_path: Path, where: str) -> None:
    path = write_archive(tmp_path / "a", [at((0.05, 0.05), 0.1)], DAYS)
    (file,) = path.rglob("*.stm")
    (tmp_path / "b" / where).mkdir(parents=True)
    file.rename(tmp_path / "b" / where / file.name)
    zipped = shutil.make_archive(str(tmp_path / "c"), "zip", tmp_path / "b")
    for archive in (tmp_path / "b", Path(zipped)):
        table = read_observations([archive])
        assert set(zip(*(table[name].to_pylist() for name in ("network", "station")), strict=True)) == {
            ("SCAN", "Ephrata")
        }


def test_names_of_networks_and_stations_are_those_of_folder_and_file(tmp_path: Path) -> None:
    path = write_archive(
        tmp_path / "a", [at((0.05, 0.05), 0.1, network="BIEBRZA-S-1", station="Las_Ari\u00f1as")], DAYS
    )
    (path / "BIEBRZA-S-1").rename(path / "BIEBRZA_S-1")
    table = read_ismn(path)
    assert {*table["network"].to_pylist(), *table["station"].to_pylist()} == {"BIEBRZA_S-1", "Las_Ari\u00f1as"}


@given(st.floats(-180, 180))
def test_standard_time_is_within_half_an_hour_of_the_sun(lon: float) -> None:
    assert abs(standard_time(lon) - lon / 15) <= 0.5


def test_paths_are_recognised_by_their_content(tmp_path: Path) -> None:
    zipped = write_archive(tmp_path / "ismn.zip", SENSORS[:2], TIMES)
    uscrn(tmp_path / "uscrn" / "2021", "WA_Spokane_17_SSW", {date(2021, 6, 1): 0.2})
    mixed = write_archive(tmp_path / "mixed", SENSORS[3:4], TIMES)
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
