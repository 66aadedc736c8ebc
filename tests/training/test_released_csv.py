"""The released code's tables, compared with pandas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmnet_maps.errors import InputError
from mmnet_maps.model.features import Feature
from mmnet_maps.model.spec import Profile
from mmnet_maps.training.released_csv import read_released_csv
from mmnet_maps.training.table import encode, read_samples
from station_tables import WEATHER, released


def test_columns_become_those_of_samples(tmp_path: Path) -> None:
    frame = released()
    frame.to_csv(tmp_path / "t.csv", index=False)
    samples = read_samples(tmp_path / "t.csv")
    assert samples.station.tolist() == frame["ID"].astype(str).tolist()
    assert [f"{day:%Y%m%d}" for day in samples.date.astype(object)] == frame["Date"].tolist()
    assert samples.table["region"].to_pylist() == ["middle"] * 20 + ["west"] * 20
    assert samples.stations == {"101": pytest.approx((36.12, -97.09)), "102": pytest.approx((47.42, -117.53))}
    np.testing.assert_allclose(samples.target, frame["VWC_5"], rtol=1e-6)
    found = samples.snapshot(["landcover", "bulk_density", "smap", "pol", "vv", "aspect"])
    assert found["landcover"].tolist() == ["grassland"] * 20 + ["cropland"] * 20
    for ours, theirs in {"bulk_density": "bd", "smap": "SMAP", "pol": "pol", "vv": "VV", "aspect": "aspect"}.items():
        np.testing.assert_allclose(found[ours], frame[theirs], rtol=1e-6)
    assert not {"Year", "angle", "DoY_normalized"} & set(samples.table.column_names)


def test_lags_become_days_oldest_first(tmp_path: Path) -> None:
    frame = released()
    frame.to_csv(tmp_path / "t.csv", index=False)
    samples = read_samples(tmp_path / "t.csv")
    names = {**{name: name for name in WEATHER}, "lst": "LST", "smap_series": "SMAP"}
    found = samples.series(list(names), 11)
    for ours, theirs in names.items():
        scale = 0.02 if ours == "lst" else 1.0
        expected = frame[[*(f"{theirs}_{lag}" for lag in range(10, 0, -1)), theirs]] * scale
        np.testing.assert_allclose(found[ours], expected, rtol=1e-6)
    assert pa.types.is_fixed_size_list(samples.table.schema.field("lst").type)


def test_a_missing_value_is_missing_where_it_is(tmp_path: Path) -> None:
    frame = released()
    frame.loc[3, ["pr_10", "SMAP"]] = np.nan
    frame.loc[5, "LC_name"] = None
    frame.to_csv(tmp_path / "t.csv", index=False)
    samples = read_samples(tmp_path / "t.csv")
    profile = Profile(
        architecture="mmnet",
        snapshot=(
            Feature(name="smap", encoding="identity"),
            Feature(name="landcover", encoding="onehot", classes=("grassland", "cropland")),
        ),
        series=(Feature(name="pr", encoding="log1p"),),
        steps=11,
        includes_day=True,
    )
    snapshot, series = encode(samples, profile)
    assert np.argwhere(np.isnan(series)).tolist() == [[3, 0, 0]]
    assert np.argwhere(np.isnan(snapshot)).tolist() == [[3, 0], [5, 1], [5, 2]]


def test_a_variable_without_lags_is_no_series(tmp_path: Path) -> None:
    frame = released()
    frame[[name for name in frame if not name.startswith(("SMAP_", "etr"))]].to_csv(tmp_path / "t.csv", index=False)
    names = read_released_csv(tmp_path / "t.csv").column_names
    assert "smap" in names
    assert not {"smap_series", "etr"} & set(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns=["ID", "Date"]), "has no column ID, Date"),
        (lambda frame: frame.drop(columns="pr_4"), "has pr_10 but no pr_4; expected pr and pr_10 to pr_1"),
        (lambda frame: frame.drop(columns="vs"), "has vs_10 but no vs"),
        (lambda frame: frame.assign(Date="2021-06-01"), "Date holds a value that is not a day"),
        (lambda frame: frame.assign(Domain="S"), "Domain 'S' is not known; expected W, M or E"),
        (lambda frame: frame.assign(SMAP="wet"), "not a CSV of the released code"),
        (lambda frame: frame.drop(columns="VWC_5"), "has no column soil_moisture"),
        (lambda frame: frame.assign(Date=[None, *frame["Date"][1:]]), "1 rows have no date"),
    ],
)
def test_other_tables_are_refused_in_a_line(tmp_path: Path, change, message: str) -> None:
    change(released()).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=message) as error:
        read_samples(tmp_path / "t.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n\x00\xff", b"ID,Date\n1,2,3\n"])
def test_files_that_are_no_tables_are_refused_in_a_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"t\.csv") as error:
        read_samples(tmp_path / "t.csv")
    assert "\n" not in str(error.value)
