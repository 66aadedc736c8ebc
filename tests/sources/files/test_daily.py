"""Days from fields of parts of a day: values worked by hand."""

from __future__ import annotations

import logging
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
import yaml
from affine import Affine
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.sources.files.daily import fields_a_day, reduced
from mmnet_maps.sources.files.source import FilesSource

DAY, NEXT = date(2021, 8, 8), date(2021, 8, 9)
HOURS = np.arange("2021-08-08T00", "2021-08-10T00", dtype="datetime64[h]").astype("datetime64[ns]")
LAT, LON = 47.5 - np.arange(3) / 8, -119.5 + np.arange(4) / 8


def source(folder: Path, **variables: dict[str, Any]) -> FilesSource:
    path = folder / "mine.yaml"
    entries = {name: {"product": "P", **entry} for name, entry in variables.items()}
    path.write_text(yaml.safe_dump({"name": "mine", "variables": entries}))
    return FilesSource(path)


def write(path: Path, values: NDArray[Any], times: NDArray[Any] = HOURS, lon: NDArray[Any] = LON, **stated: str) -> str:
    """Write a field for each time, the same in all cells unless `values` has them."""
    values = values.reshape(len(times), 1, 1) if values.ndim == 1 else values
    cells = np.broadcast_to(values, (len(times), 3, len(lon)))
    axes = {"time": times, "lat": LAT, "lon": lon}
    xr.Dataset({"v": (("time", "lat", "lon"), cells.astype(np.float32), stated)}, axes).to_netcdf(path)
    return path.name


def read(made: FilesSource, name: str, day: date = DAY) -> NDArray[Any]:
    return made.read("weather", made.lattice("weather"), [day])[name][0]


@pytest.mark.parametrize(
    ("name", "stated", "expected"),
    [
        ("pr", {"units": "kg m-2", "cell_methods": "time: sum"}, 24 * 0.5),
        ("pr", {"units": "mm"}, 24 * 0.5),
        ("pr", {}, 24 * 0.5),
        ("pr", {"cell_methods": "time: sum"}, 24 * 0.5),
        ("pr", {"cell_methods": "area: mean time: mean"}, 0.5),  # then it is in mm day-1
        ("pr", {"units": "mm h-1", "cell_methods": "time: mean"}, 24 * 0.5),
        ("pr", {"units": "mm day-1"}, 0.5),
        ("eto", {"units": "kg m-2"}, 24 * 0.5),
        ("srad", {"units": "J m-2"}, 24 * 0.5 / 86400),
        ("srad", {"units": "W m-2"}, 0.5),
        ("srad", {}, 0.5),
        ("vs", {"units": "m s-1", "cell_methods": "time: point"}, 0.5),
    ],
)
def test_amounts_are_summed_and_rates_averaged(
    tmp_path: Path, name: str, stated: dict[str, str], expected: float
) -> None:
    write(tmp_path / "a.nc", np.full(48, 0.5), **stated)
    found = read(source(tmp_path, **{name: {"files": "a.nc"}}), name)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_yaml_decides_between_amount_and_rate(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", np.full(48, 0.5), units="mm h-1")
    assert read(source(tmp_path, pr={"files": "a.nc", "units": "mm"}), "pr") == pytest.approx(12)
    assert read(source(tmp_path, pr={"files": "a.nc", "units": "mm day-1"}), "pr") == pytest.approx(0.5)


def test_an_hour_named_after_its_end_belongs_to_the_day_before(tmp_path: Path) -> None:
    """NLDAS: the field of 00:00 holds the rain from 23:00 to 24:00, as its bounds state."""
    hour = np.timedelta64(1, "h")
    rain = np.arange(48) // 24 + 1.0
    axes = {"time": ("time", HOURS + hour, {"bounds": "time_bnds"}), "lat": LAT, "lon": LON}
    fields = {
        "v": (("time", "lat", "lon"), np.broadcast_to(rain[:, None, None], (48, 3, 4)).astype("f4"), {"units": "mm"}),
        "time_bnds": (("time", "bnds"), np.stack([HOURS, HOURS + hour], axis=1)),
    }
    encoding = {"time": {"units": "hours since 2021-08-08"}}
    xr.Dataset(fields, axes).to_netcdf(tmp_path / "a.nc", encoding=encoding)
    made = source(tmp_path, pr={"files": "a.nc"})
    assert made.days("weather", made.lattice("weather"), date(2021, 8, 1), date(2021, 8, 31)) == [DAY, NEXT]
    assert (read(made, "pr", DAY) == 24).all()
    assert (read(made, "pr", NEXT) == 48).all()


@pytest.mark.parametrize("hourly", [False, True])
def test_hours_of_the_day_before_the_name_of_a_file(tmp_path: Path, hourly: bool) -> None:
    """Files named after the end of their hours: the first of a day belongs to the day before, the one with 100 mm."""
    hour, ends = np.timedelta64(1, "h"), HOURS
    rain = np.where(ends == np.datetime64("2021-08-09T00"), 100.0, 1.0)
    encoding = {"time": {"units": "hours since 2021-08-01"}}
    for part in np.arange(48).reshape(-1, 1 if hourly else 24):
        axes = {"time": ("time", ends[part], {"bounds": "time_bnds"}), "lat": LAT, "lon": LON}
        values = np.broadcast_to(rain[part][:, None, None], (len(part), 3, 4)).astype("f4")
        bounds = np.stack([ends[part] - hour, ends[part]], axis=1)
        fields = {"v": (("time", "lat", "lon"), values, {"units": "mm"}), "time_bnds": (("time", "bnds"), bounds)}
        name = np.datetime_as_string(ends[part[0]], "h").replace("-", "")
        xr.Dataset(fields, axes).to_netcdf(tmp_path / f"a{name if hourly else name[:8]}.nc", encoding=encoding)
    stated = "a{date:%Y%m%dT%H}.nc" if hourly else "a{date:%Y%m%d}.nc"
    with pytest.raises(InputError, match="an hour of 2021-08-0. by its bounds .*put . in place of the date"):
        read(source(tmp_path, pr={"pattern": stated}), "pr")
    assert (read(source(tmp_path, pr={"pattern": "a*.nc"}), "pr") == 123).all()


def test_temperatures_are_the_extremes_of_the_day(tmp_path: Path) -> None:
    hours = np.arange(48)
    write(tmp_path / "t.nc", 290 + 10 * np.sin((hours - 9) / 24 * 2 * np.pi), units="K", cell_methods="time: mean")
    made = source(tmp_path, tmmx={"files": "t.nc"}, tmmn={"files": "t.nc"})
    for day in (DAY, NEXT):
        np.testing.assert_allclose(read(made, "tmmx", day), 300)
        np.testing.assert_allclose(read(made, "tmmn", day), 280)


def test_the_range_of_a_variable_is_that_of_its_day(tmp_path: Path) -> None:
    """900 W m-2 at noon, 49 °C in Death Valley and 40 mm in an hour are possible, though no daily values are."""
    hours = np.arange(48) % 24
    sun = np.where((hours >= 8) & (hours < 18), 900.0, 0)
    write(tmp_path / "srad.nc", sun, units="W m-2")
    write(tmp_path / "tmmn.nc", np.where(hours == 15, 49.0, 30), units="degC")
    write(tmp_path / "pr.nc", np.where(hours == 15, 40.0, -1e-6), units="kg m-2 h-1")
    made = source(tmp_path, **{name: {"files": f"{name}.nc"} for name in ("srad", "tmmn", "pr")})
    for name, expected in (("srad", 375), ("tmmn", 303.15), ("pr", 40)):
        np.testing.assert_allclose(read(made, name), expected, rtol=1e-6)
    bounded = source(tmp_path, srad={"files": "srad.nc", "valid": [0, 400]})
    np.testing.assert_allclose(read(bounded, "srad"), 375)
    write(tmp_path / "pr.nc", np.linspace(30, 31, 48), units="mm")
    write(tmp_path / "wet.nc", np.where(hours == 15, -9.0, 1), units="mm")
    with pytest.raises(InputError, match="all pr values of .* lie outside 0 to 650"):
        read(source(tmp_path, pr={"files": "wet.nc", "units": "m"}), "pr")
    assert np.isnan(read(source(tmp_path, pr={"files": "pr.nc"}), "pr")).all(), "720 mm a day"


def test_incomplete_days_are_missing_and_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("pr", "tmmx", "vpd"):
        write(tmp_path / f"{name}.nc", np.full(44, 1.0 if name != "tmmx" else 300), HOURS[:44])
    made = source(tmp_path, **{name: {"files": f"{name}.nc"} for name in ("pr", "tmmx", "vpd")})
    with caplog.at_level(logging.WARNING, "mmnet_maps"):
        for _ in range(2):
            found = made.read("weather", made.lattice("weather"), [DAY, NEXT])
    for name, whole in (("pr", 24), ("tmmx", 300), ("vpd", 1)):
        assert (found[name][0] == whole).all()
        assert np.isnan(found[name][1]).all()
        (text,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith(f"{name}: ")]
        assert "2021-08-09 is missing" in text
        assert "20 of the 24 fields" in text
        assert "'fields'" in text
    fewer = source(tmp_path, **{name: {"files": f"{name}.nc", "fields": 20} for name in ("pr", "tmmx", "vpd")})
    assert (read(fewer, "pr", NEXT) == 24).all()  # the missing hours count as the mean of the others
    assert (read(fewer, "tmmx", NEXT) == 300).all()


def test_files_an_hour_apart_are_the_fields_of_a_day(tmp_path: Path) -> None:
    rain = np.random.default_rng(1).integers(0, 8, (24, 3, 4)).astype(np.float32)
    affine = Affine(0.125, 0, -119.5, 0, -0.125, 47.5)
    for hour in range(24):
        for tile, part in (("west", slice(0, 2)), ("east", slice(2, 4))):
            if (hour, tile) != (7, "east"):
                values = rain[hour, :, part]
                with rasterio.open(
                    tmp_path / f"rain_{tile}_20210808{hour:02d}.tif",
                    "w",
                    driver="GTiff",
                    height=3,
                    width=2,
                    count=1,
                    dtype="float32",
                    crs="EPSG:4326",
                    transform=affine @ Affine.translation(part.start, 0),
                ) as image:
                    image.write(values, 1)
    found = read(source(tmp_path, pr={"pattern": "rain_{tile}_{date:%Y%m%d%H}.tif"}), "pr")
    np.testing.assert_allclose(found[:, :2], rain[:, :, :2].sum(axis=0))
    assert np.isnan(found[:, 2:]).all(), "an hour of the east is missing"


def test_one_file_a_field_without_the_hour_in_its_name(tmp_path: Path) -> None:
    """Its time axis has the hour: the files are not versions of one field."""
    times = HOURS[::3]
    for step in range(15):
        name = f"r_{str(times[step])[:10]}_{step}.nc"
        write(tmp_path / name, np.array([1.0 + step % 8]), times[step : step + 1], units="mm")
    made = source(tmp_path, pr={"pattern": "r_{date:%Y-%m-%d}_*.nc"})
    assert (read(made, "pr") == 36).all()
    assert np.isnan(read(made, "pr", NEXT)).all()


def test_an_incomplete_file_is_known_by_those_of_other_days(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One hour, and two hours 12 apart, are 1 and 2 of the 24 that the file of the day before has."""
    for steps in ([24], [24, 36]):
        write(tmp_path / "r_20210808.nc", np.full(24, 1.0), HOURS[:24], units="mm")
        write(tmp_path / "r_20210809.nc", np.full(len(steps), 1.0), HOURS[steps], units="mm")
        made = source(tmp_path, pr={"pattern": "r_{date:%Y%m%d}.nc"})
        assert (read(made, "pr") == 24).all()
        assert np.isnan(read(made, "pr", NEXT)).all()
        assert (
            f"2021-08-09 is missing: {tmp_path}/r_20210809.nc and other files hold {len(steps)} of the 24"
            in caplog.text
        )
    (tmp_path / "r_20210808.nc").unlink()
    made = source(tmp_path, pr={"pattern": "r_{date:%Y%m%d}.nc"})
    assert np.isnan(read(made, "pr", NEXT)).all(), "no step is known"
    assert "hold 2 fields of no known time step" in caplog.text


def test_one_field_of_smap_is_not_a_day(tmp_path: Path) -> None:
    write(tmp_path / "s_20210808.nc", np.full(8, 0.2), HOURS[1:24:3])
    write(tmp_path / "s_20210809.nc", np.full(1, 0.2), HOURS[25:26])
    made = source(tmp_path, smap={"pattern": "s_{date:%Y%m%d}.nc"})
    found = made.read("smap", made.lattice("smap"), [DAY, NEXT])["smap"]
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


def test_a_step_that_changes_within_a_file(tmp_path: Path) -> None:
    """3 mm in each of 8 steps, then 1 mm an hour: 24 mm on both days."""
    times = np.concatenate([HOURS[:24:3], HOURS[24:]])
    write(tmp_path / "a.nc", np.where(np.arange(32) < 8, 3.0, 1.0), times, units="mm")
    made = source(tmp_path, pr={"files": "a.nc"})
    assert (read(made, "pr") == 24).all()
    assert (read(made, "pr", NEXT) == 24).all()


def test_two_versions_of_an_amount_are_not_added(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "v_20210808_early.nc", np.full(1, 8.0), HOURS[:1], units="mm")
    write(tmp_path / "v_20210808_final.nc", np.full(1, 10.0), HOURS[12:13], units="mm")
    assert (read(source(tmp_path, pr={"pattern": "v_{date:%Y%m%d}_*.nc"}), "pr") == 10).all()
    assert "files of different times, of which" in caplog.text
    assert "v_20210808_final.nc is used" in caplog.text


def test_dew_and_noise_at_night_are_part_of_the_day(tmp_path: Path) -> None:
    """10 h of -0.01 mm and 14 h of 0.4 mm are 5.5 mm; 10 h of -0.5 and 14 h of 500 W m-2 are 6995 / 24."""
    night = (np.arange(24) < 6) | (np.arange(24) > 19)
    write(tmp_path / "eto.nc", np.where(night, -0.01, 0.4), HOURS[:24], units="mm")
    write(tmp_path / "srad.nc", np.where(night, -0.5, 500), HOURS[:24], units="W m-2")
    made = source(tmp_path, eto={"files": "eto.nc"}, srad={"files": "srad.nc"})
    np.testing.assert_allclose(read(made, "eto"), 5.5, rtol=1e-6)
    np.testing.assert_allclose(read(made, "srad"), 6995 / 24, rtol=1e-6)
    write(tmp_path / "eto.nc", np.where(night, -9, 0.4), HOURS[:24], units="mm")
    assert np.isnan(read(source(tmp_path, eto={"files": "eto.nc"}), "eto")).all(), "-9 means missing"


def test_an_hour_in_two_files_counts_once(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", np.full(48, 1.0), units="mm")
    write(tmp_path / "b.nc", np.full(6, 5.0), HOURS[20:26], units="mm")
    assert (read(source(tmp_path, pr={"files": ["a.nc", "b.nc"]}), "pr") == 24).all()


def test_adjacent_files_of_unlike_times(tmp_path: Path) -> None:
    """Each cell is judged by the fields of the files that cover it."""
    write(tmp_path / "west.nc", np.full(24, 1.0), HOURS[:24], LON[:2], units="mm")
    write(tmp_path / "east.nc", np.full(20, 1.0), HOURS[:20], LON[2:], units="mm")
    made = source(tmp_path, pr={"pattern": "{tile}.nc"})
    found = read(made, "pr")
    assert (found[:, :2] == 24).all()
    assert np.isnan(found[:, 2:]).all()


def test_contradictory_statements_are_refused_where_they_matter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for stated in ({"units": "mm day-1", "cell_methods": "time: sum"}, {"units": "mm", "cell_methods": "time: mean"}):
        write(tmp_path / "a.nc", np.full(48, 1.0), **stated)
        with pytest.raises(InputError, match=r"pr: .*a\.nc states cell_methods 'time: .*'units'") as caught:
            read(source(tmp_path, pr={"files": "a.nc"}), "pr")
        assert len(str(caught.value)) < 300
        assert (read(source(tmp_path, pr={"files": "a.nc", "units": "mm"}), "pr") == 24).all()
        write(tmp_path / "b.nc", np.full(2, 1.0), HOURS[::24], **stated)
        assert (read(source(tmp_path, pr={"files": "b.nc"}), "pr") == 1).all()
    write(tmp_path / "t.nc", np.full(2, 300.0), HOURS[::24], units="K", cell_methods="time: minimum")
    made = source(tmp_path, tmmx={"files": "t.nc"})
    with caplog.at_level(logging.WARNING, "mmnet_maps"):
        assert (read(made, "tmmx") == 300).all()
    assert "states cell_methods 'time: minimum', but tmmx is the daily maximum" in caplog.text


def test_smap_needs_half_of_its_fields(tmp_path: Path) -> None:
    times = HOURS[::3][:16]
    values = np.full((16, 3, 4), 0.2)
    values[:4, 0, 0] = np.nan
    values[:5, 0, 1] = np.nan
    write(tmp_path / "s.nc", values, times)
    made = source(tmp_path, smap={"files": "s.nc"})
    found = made.read("smap", made.lattice("smap"), [DAY])["smap"][0]
    assert np.argwhere(np.isnan(found)).tolist() == [[0, 1]]
    write(tmp_path / "s.nc", values[8:], times[[0, 1, 2, 8, 9, 10, 11, 12]])
    made = source(tmp_path, smap={"files": "s.nc"})
    read_back = made.read("smap", made.lattice("smap"), [DAY, NEXT])["smap"]
    assert np.isnan(read_back[0]).all(), "three of eight fields"
    assert np.isfinite(read_back[1]).all(), "five of eight fields"


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        (range(0, 48), 24),
        ([0, 1, 2, 5, 6, 7], 24),
        (range(0, 8760, 24), 1),
        (range(0, 8760, 192), 1),
        ([1, 4, 7], 8),
        ([5], None),
        ([], None),
        ([0, 2, 5, 9, 14], None),
    ],
)
def test_fields_of_a_whole_day(hours: list[int], expected: int | None) -> None:
    assert fields_a_day([3600 * hour for hour in hours]) == expected
    assert fields_a_day([3600 * hour + (-1) ** hour for hour in hours]) == expected


def test_reductions() -> None:
    values = np.array([1, 2, np.nan, 5], np.float32)[:, None, None]
    for daily, expected in (("mean", 8 / 3), ("sum", 8 / 3 * 4), ("max", 5), ("min", 1)):
        assert reduced(values, daily, 4, 3)[0, 0] == pytest.approx(expected)  # type: ignore[arg-type]
        assert np.isnan(reduced(values, daily, 4, 4)).all()  # type: ignore[arg-type]
    assert np.isnan(reduced(values[2:3], "mean", 1, 1)).all()


def test_a_mask_that_does_not_hold_the_day_or_its_fields_is_reported(tmp_path: Path) -> None:
    """Rain of one field a day; a mask of one other day alone counts, as such a file of rain would."""
    days = HOURS[::24]  # 8 and 9 August
    entry = {"files": "pr.nc", "mask": {"replace": {"pr": "q"}, "variable": "v", "values": [0]}}
    write(tmp_path / "pr.nc", np.array([3.0, 4.0]), days, units="mm")
    write(tmp_path / "q.nc", np.array([0.0, 1.0]), days)
    assert (read(source(tmp_path, pr=entry), "pr") == 3).all()
    assert np.isnan(read(source(tmp_path, pr=entry), "pr", NEXT)).all()
    write(tmp_path / "q.nc", np.array([0.0]), days[:1])
    assert (read(source(tmp_path, pr=entry), "pr", NEXT) == 4).all()
    write(tmp_path / "q.nc", np.array([0.0, 0.0]), days - np.timedelta64(1, "D"))
    with pytest.raises(InputError, match=r"the mask .*q\.nc does not hold 2021-08-09; .* correct mask"):
        read(source(tmp_path, pr=entry), "pr", NEXT)
    write(tmp_path / "q.nc", np.zeros(48))
    with pytest.raises(InputError, match=r"q\.nc holds 24 fields of 2021-08-08, .*pr\.nc 1; .* correct mask"):
        read(source(tmp_path, pr=entry), "pr")
