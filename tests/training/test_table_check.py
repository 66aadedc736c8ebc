"""Findings of a check in correct tables and in tables with faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mmnet_maps.errors import InputError
from mmnet_maps.training.build_table import METADATA
from mmnet_maps.training.table import Samples, read_samples
from mmnet_maps.training.table_check import check_samples, format_check
from station_tables import make_table, replace

REAL = Path(__file__).parents[3] / "shared" / "data" / "stations" / "samples_multimodal_2019_2021.parquet"


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return make_table().drop_columns(["lst"])  # whose days are drawn anew for every row


def of(table: pa.Table):
    return check_samples(Samples(table=table, name="t.parquet"))


def test_a_good_table(table: pa.Table) -> None:
    found = of(table)
    assert found.problems == found.notices == ()
    text = format_check(found)
    assert text.startswith("t.parquet: 480 rows, 8 stations, 2020-11-15 to 2021-01-13; soil moisture in m³/m³\n")
    assert text.endswith("no problem found")
    assert [one.name for one in found.variables] == ["soil_moisture", "smap", "landcover", "elevation", "pr"]


def test_stations_as_pandas_sums_them_up(table: pa.Table) -> None:
    holed = table.take(np.flatnonzero(np.arange(480) % 60 != 7).tolist()).to_pandas()
    smap = holed["smap"].copy()
    smap[::5] = np.nan
    holed = table.take(np.flatnonzero(np.arange(480) % 60 != 7).tolist())
    holed = replace(holed, "smap", pa.array(smap, pa.float32()))
    frame = holed.to_pandas()
    for one in of(holed).stations:
        rows = frame[frame["station"] == one.station]
        assert (one.rows, one.first, one.last) == (59, rows["date"].min(), rows["date"].max())
        assert (one.gap_days, one.longest_gap) == (1, 1)
        moisture = rows["soil_moisture"]
        assert (one.mean, one.minimum, one.maximum) == pytest.approx((moisture.mean(), moisture.min(), moisture.max()))
        assert one.incomplete == pytest.approx(rows["smap"].isna().mean())
        assert (one.lat, one.lon) == (rows["lat"].iloc[0], rows["lon"].iloc[0])


def test_variables_as_numpy_sums_them_up(table: pa.Table) -> None:
    rain = np.stack(table["pr"].to_numpy()).copy()
    rain[3, 2], rain[4, 5], rain[5, 0] = np.nan, -9999, -1
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rain.ravel()), 11)
    found = next(one for one in of(replace(table, "pr", lists)).variables if one.name == "pr")
    good = rain[(rain >= 0) & (rain <= 650)]
    assert (found.minimum, found.median, found.maximum) == (good.min(), np.median(good), good.max())
    assert found.missing == pytest.approx(1 / rain.size)
    assert found.impossible == pytest.approx(2 / rain.size)
    assert (found.units, found.days) == ("mm day-1", 11)


def test_problems_are_reported(table: pa.Table) -> None:
    frame = table.to_pandas()
    lat = frame["lat"].to_numpy().copy()
    lat[60:70] += 0.5
    lost = frame["lat"].to_numpy().copy()
    lost[61] = np.nan
    celsius = pa.array(np.full(480, 20.0), pa.float32())
    cases = {
        "2 rows repeat a station and day, the first S00 on 2020-11-15": pa.concat_tables([table, table.slice(0, 2)]),
        "station S01 is at several places, 0.50° apart": replace(table, "lat", pa.array(lat)),
        "1 rows have no position in degrees, the first of station S01": replace(table, "lat", pa.array(lost)),
        "no value of smap lies within 0 to 0.9 m3 m-3 (its median is 20); give it in m3 m-3": replace(
            table, "smap", celsius
        ),
        "no value of soil_moisture lies within 0 to 1 m3 m-3 (its median is 20)": replace(
            table, "soil_moisture", celsius
        ),
        "no row has an observed soil_moisture": table.drop_columns(["soil_moisture"]),
    }
    for message, wrong in cases.items():
        found = of(wrong)
        assert any(text.startswith(message) for text in found.problems), (message, found.problems)
        assert format_check(found).endswith("correct it before training")
    with pytest.raises(InputError, match="'jungle' is not a class name"):
        of(replace(table, "landcover", pa.array(["jungle"] * 480)))


def test_notices_are_reported(table: pa.Table) -> None:
    frame = table.to_pandas()
    constant = np.where(frame["station"] == "S03", 0.508, frame["smap"]).astype(np.float32)
    some = np.where(np.arange(480) == 9, -1, frame["smap"]).astype(np.float32)
    about = {METADATA: b'{"synthetic": true, "inputs": {"smap": "an invented world"}}'}
    cases = {
        "smap is 0.508 on all days at S03: no correlation is defined there": replace(table, "smap", pa.array(constant)),
        "smap: 0.2 % of the values are impossible and count as missing": replace(table, "smap", pa.array(some)),
        "0.2 % of the rows miss an input": replace(table, "smap", pa.array(some)),
        "1 stations have gaps, the longest of 3 days at S00": pa.concat_tables([table.slice(0, 9), table.slice(12)]),
        "SYNTHETIC INPUTS": table.replace_schema_metadata(about),
    }
    for message, odd in cases.items():
        found = of(odd)
        assert any(text.startswith(message) for text in found.notices), (message, found.notices)
        assert found.problems == ()
    assert "input    smap: an invented world" in format_check(of(table.replace_schema_metadata(about)))


def test_series_that_count_rows_are_reported(table: pa.Table) -> None:
    """With days removed, series that count calendar days still agree; series that count rows do not."""
    keep = np.flatnonzero(np.arange(480) % 60 % 7 != 3)
    holed = table.take(pa.array(keep))
    assert not [text for text in of(holed).notices if text.startswith("pr: ")]
    frame = holed.to_pandas()
    last = frame["pr"].map(lambda days: days[-1])
    rows = pd.concat([last.groupby(frame["station"]).shift(k) for k in range(10, -1, -1)], axis=1).to_numpy(np.float32)
    by_row = replace(holed, "pr", pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 11))
    by_row = by_row.filter(pc.is_valid(pa.array(rows[:, 0], from_pandas=True)))
    assert [text for text in of(by_row).notices if "counted in rows instead of days" in text]


def test_an_unordered_table_is_the_same_table(table: pa.Table) -> None:
    order = np.random.default_rng(3).permutation(480)
    mixed, straight = of(table.take(pa.array(order))), of(table)
    assert format_check(mixed) == format_check(straight)


@pytest.mark.skipif(not REAL.exists(), reason="the real station samples are not there")
def test_the_real_table() -> None:
    found = check_samples(read_samples(REAL))
    assert found.problems == ()
    assert len(found.stations) == 48
    assert "smap is 0.508 on all days at Cape-Charles-5-ENE: no correlation is defined there" in found.notices


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [("pr", [], pa.list_(pa.float32())), ("pr", None, pa.list_(pa.float32())), ("region", 1, None)],
)
def test_columns_without_a_value_are_checked_too(name: str, value: object, kind: pa.DataType | None) -> None:
    table = make_table(days=12)
    odd = replace(table, name, pa.array([value] * len(table), kind)).replace_schema_metadata({"mmnet_maps": "[1]"})
    assert "soil moisture in m³/m³" in format_check(check_samples(Samples(table=odd)))
