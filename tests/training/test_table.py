from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnet_maps.errors import InputError
from mmnet_maps.model.features import Encoding, Feature
from mmnet_maps.model.spec import Profile
from mmnet_maps.training.table import Samples, day_of_year, encode, read_samples
from station_tables import make_table, replace, write_table

REAL = Path(__file__).parents[3] / "shared" / "data" / "stations" / "samples_multimodal_2019_2021.parquet"


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return make_table()


@pytest.fixture(scope="module")
def samples(table: pa.Table) -> Samples:
    return Samples(table=table)


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_read_keeps_rows_columns_and_types(tmp_path: Path, table: pa.Table) -> None:
    read = read_samples(write_table(tmp_path / "t.parquet", table))
    assert read.table.equals(pq.read_table(tmp_path / "t.parquet"))
    assert len(read) == table.num_rows
    assert read.table.schema.field("note").type == pa.int16()


def test_identity_columns(samples: Samples, table: pa.Table) -> None:
    assert samples.station.tolist() == table["station"].to_pylist()
    assert samples.date.astype(object).tolist() == table["date"].to_pylist()
    assert samples.stations["S03"] == (33.0, -106.0)
    assert list(samples.stations) == sorted(samples.stations)
    np.testing.assert_array_equal(samples.target, table["soil_moisture"].to_numpy())


def test_snapshot_takes_columns_dates_and_positions(samples: Samples, table: pa.Table) -> None:
    columns = samples.snapshot(["smap", "landcover", "doy", "latitude", "longitude"])
    np.testing.assert_array_equal(columns["smap"], table["smap"].to_numpy())
    assert columns["landcover"].tolist() == table["landcover"].to_pylist()
    assert columns["doy"].tolist() == [day.timetuple().tm_yday for day in table["date"].to_pylist()]
    np.testing.assert_array_equal(columns["latitude"], table["lat"].to_numpy())
    assert columns["longitude"].dtype == np.float32


@given(st.dates())
def test_day_of_year_is_the_calendars(date: object) -> None:
    assert day_of_year(np.array([date], "datetime64[D]"))[0] == date.timetuple().tm_yday  # type: ignore[attr-defined]


@pytest.mark.parametrize("steps", [1, 5, 11])
def test_series_are_the_last_steps(samples: Samples, table: pa.Table, steps: int) -> None:
    expected = np.array([row[-steps:] for row in table["pr"].to_pylist()], np.float32)
    np.testing.assert_array_equal(samples.series(["pr"], steps)["pr"], expected)


def test_plain_lists_and_doubles_are_read_too(samples: Samples, table: pa.Table) -> None:
    lists = replace(table, "pr", pa.array(table["pr"].to_pylist(), pa.list_(pa.float64())))
    np.testing.assert_array_equal(Samples(table=lists).series(["pr"], 4)["pr"], samples.series(["pr"], 4)["pr"])


def test_a_slice_of_a_table_reads_its_own_series(table: pa.Table, samples: Samples) -> None:
    part = Samples(table=table.slice(7, 30))
    np.testing.assert_array_equal(part.series(["pr"], 5)["pr"], samples.series(["pr"], 5)["pr"][7:37])


def test_missing_values_are_nan_where_they_are(table: pa.Table) -> None:
    lists = table["pr"].to_pylist()
    lists[3], lists[5] = None, [*lists[5][:-1], None]
    smap = table["smap"].to_pylist()
    smap[8] = None
    holed = replace(table, "pr", pa.array(lists, pa.list_(pa.float32(), 11)))
    holed = Samples(table=replace(holed, "smap", pa.array(smap, pa.float32())))
    gaps = np.isnan(holed.series(["pr"], 11)["pr"])
    assert gaps[3].all()
    assert np.argwhere(gaps[5]).tolist() == [[10]]
    assert gaps.sum() == 12
    assert np.flatnonzero(np.isnan(holed.snapshot(["smap"])["smap"])).tolist() == [8]


def test_impossible_values_are_missing(table: pa.Table) -> None:
    smap = table["smap"].to_numpy().copy()
    smap[4] = -9999
    found = Samples(table=replace(table, "smap", pa.array(smap))).snapshot(["smap"])["smap"]
    assert np.flatnonzero(np.isnan(found)).tolist() == [4]


def test_wrong_units_are_refused(table: pa.Table) -> None:
    celsius = pc.subtract(table["lst"].combine_chunks().flatten(), 273.15).cast(pa.float32())
    wrong = Samples(table=replace(table, "lst", pa.FixedSizeListArray.from_arrays(celsius, 11)), name="t.parquet")
    with pytest.raises(InputError) as error:
        wrong.series(["lst"], 11)
    assert "no value of 'lst' lies within 220 to 370 K" in one_line(error)


def test_take_by_mask_and_by_index(samples: Samples) -> None:
    mask = samples.station == "S02"
    assert set(samples.take(mask).station) == {"S02"}
    assert len(samples.take(mask)) == mask.sum()
    chosen = samples.take(np.array([9, 2]))
    assert chosen.date.tolist() == [samples.date[9].item(), samples.date[2].item()]


def test_an_impossible_target_is_missing_and_one_in_percent_is_refused(table: pa.Table) -> None:
    moisture = np.asarray(table["soil_moisture"]).copy()
    moisture[:2] = -9999, 1.2
    column = table.column_names.index("soil_moisture")
    holed = Samples(table=table.set_column(column, "soil_moisture", pa.array(moisture)))
    assert np.isnan(holed.target).tolist() == [True, True] + [False] * (len(table) - 2)
    percent = Samples(
        table=table.set_column(column, "soil_moisture", pa.array(100 * moisture[2:].repeat(2)[: len(table)]))
    )
    with pytest.raises(InputError, match="no value of 'soil_moisture' lies within 0 to 1 m³/m³"):
        percent.target  # noqa: B018


def profile(classes: tuple[str, ...], rain: Encoding, **more: Any) -> Profile:
    return Profile(
        architecture="mmnet",
        snapshot=(Feature(name="landcover", encoding="onehot", classes=classes),),
        series=(Feature(name="pr", encoding=rain),),
        **{"includes_day": True, **more},
    )


@pytest.mark.parametrize("includes_day", [True, False])
def test_steps_of_several_days_may_be_missing_from_a_table(
    samples: Samples, table: pa.Table, includes_day: bool
) -> None:
    last = None if includes_day else -1
    long = profile(("pasture",), "identity", steps=4, step_days=(6, 4, 1, 1), includes_day=includes_day)
    _, series = encode(samples, long)
    rain = np.array(table["pr"].to_pylist(), np.float32)[:, :last]
    assert rain.shape[1] == (11 if includes_day else 10)
    oldest = rain[:, -12:-6]  # of its six days, those that there are
    np.testing.assert_allclose(series[:, 0, 0], oldest.mean(1), rtol=1e-6)
    np.testing.assert_allclose(series[:, 1, 0], rain[:, -6:-2].mean(1), rtol=1e-6)
    np.testing.assert_array_equal(series[:, 2:, 0], rain[:, -2:])
    short = Samples(table=samples.table.set_column(samples.table.column_names.index("pr"), "pr", last_days(table, 3)))
    _, series = encode(short, long)
    assert np.isnan(series[:, :2]).all()
    with pytest.raises(InputError, match="lists of 3 days, expected at least 4 days"):
        encode(short, profile(("pasture",), "identity", steps=4))


def last_days(table: pa.Table, days: int) -> pa.Array:
    return pa.array([row[-days:] for row in table["pr"].to_pylist()], pa.list_(pa.float32(), days))


def test_encode_matches_a_hand_calculation(samples: Samples, table: pa.Table) -> None:
    snapshot, series = encode(samples, profile(("pasture", "grassland"), "log1p", steps=10, includes_day=False))
    row = table.slice(65, 1).to_pylist()[0]
    assert row["landcover"] == "pasture"
    assert snapshot[65].tolist() == [1, 0]
    np.testing.assert_allclose(series[65, :, 0], np.log1p(row["pr"][:10]), rtol=1e-6)


def test_a_class_that_the_model_does_not_list_is_missing(samples: Samples) -> None:
    snapshot, _ = encode(samples, profile(("grassland",), "identity", steps=2))
    np.testing.assert_array_equal(np.isnan(snapshot[:, 0]), samples.snapshot(["landcover"])["landcover"] == "pasture")


def test_a_table_without_target_is_read_when_none_is_needed(tmp_path: Path, table: pa.Table) -> None:
    path = write_table(tmp_path / "t.parquet", table.drop_columns(["soil_moisture"]))
    assert len(read_samples(path, target=False)) == table.num_rows
    with pytest.raises(InputError, match="has no column soil_moisture"):
        read_samples(path)


def test_broken_files(tmp_path: Path, table: pa.Table) -> None:
    (tmp_path / "text.parquet").write_text("station,date\n")
    whole = write_table(tmp_path / "whole.parquet", table).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.parquet").write_bytes(b"")
    for name in ("text", "cut", "none"):
        with pytest.raises(InputError, match="not a readable Parquet table") as error:
            read_samples(tmp_path / f"{name}.parquet")
        one_line(error)
    for path in (tmp_path / "absent.parquet", tmp_path):
        with pytest.raises(InputError, match="no file"):
            read_samples(path)


def test_tables_of_the_wrong_form(tmp_path: Path, table: pa.Table) -> None:
    cases = {
        "holds no rows": table.slice(0, 0),
        "has no column station, lat": table.drop_columns(["station", "lat"]),
        "'date' holds string": replace(table, "date", table["date"].cast(pa.string())),
        "1 rows have no station": replace(
            table, "station", pa.array([None, *table["station"].to_pylist()[1:]], pa.string())
        ),
    }
    for number, (message, wrong) in enumerate(cases.items()):
        with pytest.raises(InputError, match=message) as error:
            read_samples(write_table(tmp_path / f"{number}.parquet", wrong))
        one_line(error)


def test_columns_of_the_wrong_form(table: pa.Table) -> None:
    ragged = [row if place else row[1:] for place, row in enumerate(table["pr"].to_pylist())]
    texts = pa.array(["x"] * table.num_rows)
    cases = [
        ("has no column 'ndvi'", table, lambda s: s.snapshot(["ndvi"])),
        ("'smap' holds string, expected numbers", replace(table, "smap", texts), lambda s: s.snapshot(["smap"])),
        ("landcover 'x' is not a class name", replace(table, "landcover", texts), lambda s: s.snapshot(["landcover"])),
        ("'smap' holds float, expected lists", table, lambda s: s.series(["smap"], 3)),
        ("lists of 11 days, expected at least 12", table, lambda s: s.series(["pr"], 12)),
        (
            "lists of several lengths",
            replace(table, "pr", pa.array(ragged, pa.list_(pa.float32()))),
            lambda s: s.series(["pr"], 5),
        ),
    ]
    for message, wrong, ask in cases:
        with pytest.raises(InputError, match=message) as error:
            ask(Samples(table=wrong))
        one_line(error)


@pytest.mark.skipif(not REAL.exists(), reason="the real station samples are not there")
def test_the_real_table() -> None:
    samples = read_samples(REAL)
    assert (len(samples), len(samples.stations)) == (46_824, 48)
    assert np.isfinite(samples.series(["pr", "lst"], 8)["lst"]).all()
    assert np.isfinite(samples.target).all()


def column(table: pa.Table, name: str, values: Any, kind: pa.DataType | None = None) -> pa.Table:
    return replace(table, name, pa.array([values] * len(table), kind))


NOON = datetime(2021, 1, 2, 5)
FAULTS = {
    "column 'station' holds binary, expected names": ("station", b"\xff", None),
    "column 'station' holds list<": ("station", ["a"], None),
    "column 'station' holds double, expected names": ("station", 1001.0, None),
    "empty name '' in column 'station'": ("station", "", None),
    "column 'date' holds times such as 2021-01-02 05:00:00; expected days": ("date", NOON, pa.timestamp("us")),
    "column 'date' holds times such as 2021-01-01 21:00:00": ("date", NOON, pa.timestamp("us", "America/Los_Angeles")),
    "column 'date' holds string": ("date", "2021-01-01", None),
}


@pytest.mark.parametrize("message", FAULTS)
def test_columns_of_another_kind_are_refused_on_reading(tmp_path: Path, table: pa.Table, message: str) -> None:
    path = write_table(tmp_path / "t.parquet", column(table, *FAULTS[message]))
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read_samples(path)
    assert len(one_line(error)) <= 300


def test_days_may_be_written_as_midnights(tmp_path: Path, table: pa.Table) -> None:
    for zone in (None, "UTC", "America/Los_Angeles"):
        midnight = pa.array([datetime(2021, 1, 2, 8 if zone and "/" in zone else 0)] * len(table))
        dated = replace(table, "date", midnight.cast(pa.timestamp("us", zone)))
        read = read_samples(write_table(tmp_path / "t.parquet", dated))
        assert set(read.date.astype(str)) == {"2021-01-02"}


def test_classes_and_targets_of_another_kind_are_refused(table: pa.Table) -> None:
    with pytest.raises(InputError, match="'landcover' holds int64, expected names of classes"):
        Samples(table=column(table, "landcover", 71)).snapshot(["landcover"])
    percent = np.where(np.arange(len(table)) % 3, 15.0, 0.5).astype(np.float32)  # dry days look like m³/m³
    with pytest.raises(InputError, match=r"most values of 'soil_moisture' are above 1 \(median 15\); give m³/m³"):
        _ = Samples(table=replace(table, "soil_moisture", pa.array(percent))).target


def test_a_table_of_many_columns_is_refused_in_a_short_line(table: pa.Table) -> None:
    wide = table.append_column("x" * 500, pa.array([1] * len(table)))
    with pytest.raises(InputError, match="has no column 'vpd'") as error:
        Samples(table=wide).snapshot(["vpd"])
    assert len(one_line(error)) <= 300


def test_a_column_given_twice_is_refused(tmp_path: Path, table: pa.Table) -> None:
    path = write_table(tmp_path / "t.parquet", table.append_column("smap", table["smap"]))
    with pytest.raises(InputError, match="has the column 'smap' twice"):
        read_samples(path)
