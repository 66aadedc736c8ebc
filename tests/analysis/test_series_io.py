"""Series written to files and read back; NetCDF follows CF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cf_checker import faults
from mmnet_maps.analysis.series_io import check_target, to_dataset, write_series
from mmnet_maps.errors import InputError, OutputError, RequestError
from mmnet_maps.files import holds
from mmnet_maps.product.quality import QUALITY_BITS

ABOUT = {"model": "net", "inputs": {"smap": "SPL4"}, "software": "mmnet_maps 0", "synthetic": True, "members": 3}


@pytest.fixture
def series() -> pd.DataFrame:
    """Return two places; the second has no row on the first day."""
    rows = pd.DataFrame(
        {
            "station": ["b", "b", "b", "a", "a"],
            "date": pd.to_datetime(["2021-08-07", "2021-08-08", "2021-08-09", "2021-08-08", "2021-08-09"]),
            "lat": [47.1234567] * 3 + [46.5] * 2,
            "lon": [-119.1234567] * 3 + [-120.0] * 2,
            "soil_moisture": np.array([0.2, np.nan, 0.3, np.nan, 0.1], np.float32),
            "soil_moisture_estimate": np.array([0.25, 0.26, np.nan, 0.1, 0.2], np.float32),
            "soil_moisture_std": np.array([0.01, 0.01, np.nan, 0.02, 0.02], np.float32),
            "soil_moisture_filled": np.array([0.2, 0.26, 0.3, 0.1, 0.1], np.float32),
            "quality": np.array([1024, 1024, 4, 1032, 1024], np.uint16),
            "smap": np.array([0.21, 0.22, 0.23, 0.2, np.nan], np.float32),
            "pr": np.array([0, 1.25, 3, 0, 0], np.float32),
        }
    )
    rows.attrs = ABOUT
    return rows


def test_csv_and_parquet_are_read_as_they_were(tmp_path: Path, series: pd.DataFrame) -> None:
    for name in ("a.csv", "new/b.parquet"):
        write_series(series, tmp_path / name)
        assert holds(tmp_path / name, "soil_moisture_estimate")  # by which it is known as ours
    text = pd.read_csv(tmp_path / "a.csv", parse_dates=["date"])
    pd.testing.assert_frame_equal(text, series, check_dtype=False, atol=5.1e-5, check_flags=False)
    np.testing.assert_allclose(text["lat"], series["lat"], rtol=0, atol=5.1e-7)
    binary = pd.read_parquet(tmp_path / "new/b.parquet")
    pd.testing.assert_frame_equal(binary, series, check_dtype=False)
    assert binary.dtypes[4:].tolist() == series.dtypes[4:].tolist()


def test_netcdf_is_a_table_of_places_and_days(tmp_path: Path, series: pd.DataFrame) -> None:
    write_series(series, tmp_path / "a.nc")
    assert holds(tmp_path / "a.nc", "soil_moisture_estimate")
    with xr.open_dataset(tmp_path / "a.nc") as data:
        assert dict(data.sizes) == {"station": 2, "time": 3}
        assert data["station_name"].to_numpy().tolist() == ["b", "a"]
        assert data["station_name"].attrs["cf_role"] == "timeseries_id"
        assert data.attrs["featureType"] == "timeSeries"
        assert data.attrs["synthetic"] == 1
        assert data.attrs["source"] == "model net from SPL4"
        assert "synthetic" in data.attrs["comment"]
        data = data.swap_dims(station="station_name")
        for _, row in series.iterrows():
            mine = data.sel(station_name=row["station"], time=row["date"])
            assert (mine["lat"], mine["lon"]) == (row["lat"], row["lon"])
            for name in series.columns[4:]:
                np.testing.assert_array_equal(mine[name], row[name], err_msg=name)
        absent = data.sel(station_name="a", time="2021-08-07")
        assert absent["quality"] == 1
        assert np.isnan(absent["soil_moisture_estimate"])
        assert data["soil_moisture_estimate"].attrs["units"] == "m3 m-3"
        assert data["quality"].dtype == data["quality"].attrs["flag_masks"].dtype == np.uint16
        assert data["quality"].attrs["flag_meanings"].split() == list(QUALITY_BITS)


def test_netcdf_passes_the_cf_checker(tmp_path: Path, series: pd.DataFrame) -> None:
    write_series(series, tmp_path / "a.nc")
    assert faults(tmp_path / "a.nc") == {}


def test_the_same_series_give_the_same_bytes(tmp_path: Path, series: pd.DataFrame) -> None:
    for ending in ("csv", "parquet", "nc"):
        for name in ("a", "b"):
            write_series(series, tmp_path / f"{name}.{ending}")
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 6


def test_missing_columns_stay_missing(series: pd.DataFrame) -> None:
    data = to_dataset(series.drop(columns=["quality", "smap", "pr"]))
    assert not {"quality", "smap", "pr"} & set(data)


def test_two_places_of_one_name_are_not_merged(series: pd.DataFrame) -> None:
    series.loc[series["station"] == "a", "station"] = "b"
    with pytest.raises(InputError, match=r"station b is at -119\.123457,47\.123457 and elsewhere; give each place"):
        to_dataset(series)


def test_inputs_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("station,lat,lon\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "s.csv")
    with pytest.raises(RequestError, match="s.csv is one of the inputs of the series; give another --out"):
        check_target(tmp_path / "s.csv", ["-119,47", "x" * 300, tmp_path / "link.csv"])
    check_target(tmp_path / "new.csv", [tmp_path / "s.csv"])


def test_unwritable_files_give_one_line(tmp_path: Path, series: pd.DataFrame) -> None:
    with pytest.raises(RequestError, match=r"ends in .csv, .parquet or .nc"):
        check_target("s.txt")
    (tmp_path / "file").write_text("")
    for ending in ("csv", "parquet", "nc"):
        with pytest.raises(OutputError, match="cannot write .*what was there before is unchanged"):
            write_series(series, tmp_path / "file" / f"s.{ending}")
