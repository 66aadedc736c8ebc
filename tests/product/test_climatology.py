"""The climatology: equal to a computation by hand, whatever the order in which maps are added; refusals and damage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401  (gives datasets .rio)
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odc.geo.geobox import GeoBox

from map_files import grid_at
from mmnet_maps.errors import InputError, OutputError, RequestError
from mmnet_maps.product.climatology import Climatology, Samples, chunk_file, day_at, slot_of
from mmnet_maps.product.climatology_build import Added, add_maps
from mmnet_maps.product.day_writer import DayWriter, Revision
from mmnet_maps.product.drought import CLASSES, class_names, class_numbers, compare, count_classes, window_days
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.reader import open_maps

MISSING = 65535
GRID = grid_at(50, 60, 6, 9)
YEARS = (2016, 2017, 2018, 2019, 2020, 2021)
NEAR = ((8, 1), (8, 8), (8, 20))
RECIPE = {"weights_sha256": "a" * 64, "smap_resampling": "bilinear", "product_version": 2}


def moisture_of(day: date, grid: GeoBox = GRID, seed: int = 0) -> np.ndarray:
    """Packed values with ties, gaps, and a pixel that never has one."""
    random = np.random.default_rng([day.toordinal(), seed])
    values = random.integers(900, 930, grid.shape).astype(np.uint16)
    values[random.random(grid.shape) < 0.2] = MISSING
    values[0, 0] = MISSING
    return values


def write(
    out: Path,
    day: date,
    *,
    grid: GeoBox = GRID,
    seed: int = 0,
    synthetic: bool = False,
    **recipe: Any,
) -> None:
    about = {"model": "m", "inputs": {}, "synthetic": synthetic, **RECIPE, **recipe}
    revision = Revision(
        name="area", day=day, geobox=grid, layers=["soil_moisture"],
        fingerprint=f"{seed:x}f{day:%Y%m%d}".rjust(64, "0"),
        synthetic=synthetic, properties={f"mmnet:{key}": value for key, value in about.items()},
        tags={key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
        | {"date": str(day)},
    )  # fmt: skip
    with DayWriter(out, revision) as writer:
        rows, cols = (slice(0, size) for size in grid.shape)
        writer.write(rows, cols, {"soil_moisture": moisture_of(day, grid, seed)})
        writer.finish(None)


def days_of(years: Sequence[int]) -> list[date]:
    return [date(year, *near) for year in years for near in NEAR]


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("climatology") / "maps"
    for day in days_of(YEARS):
        write(out, day)
    return out


def build(maps: Path | Sequence[Path], out: Path, **options: Any) -> Added:
    span = {key: options.pop(key) for key in ("start", "end") if key in options}
    return add_maps(open_maps(maps, **span), out, quiet=True, **options)


def by_hand(value: int, others: np.ndarray) -> tuple[float, float, float]:
    """Compare one value with others by ranks and sorting."""
    together = np.sort([*others.tolist(), value])
    ranks = 1 + np.flatnonzero(together == value)
    percentile = 100 * ranks.mean() / (len(together) + 1)
    difference = value - np.mean(others)
    std = np.std(others, ddof=1) if len(others) > 1 and np.ptp(others) else np.nan
    return difference * 1e-4, difference / std, percentile


def expected(day: date, years: Sequence[int], minimum: int, window: int = 15) -> dict[str, np.ndarray]:
    others = [one for one in days_of(years) if one.year != day.year]
    others = [one for one in others if abs((one - day.replace(year=one.year)).days) <= window]
    stack = np.array([moisture_of(one) for one in others])
    mine = moisture_of(day)
    found = np.full((3, *GRID.shape), np.nan)
    for row, col in np.ndindex(*GRID.shape):
        valid = stack[:, row, col] != MISSING
        counted = {one.year for one, there in zip(others, valid, strict=True) if there}
        if mine[row, col] != MISSING and len(counted) >= minimum:
            found[:, row, col] = by_hand(int(mine[row, col]), stack[valid, row, col].astype(float))
    names = ("soil_moisture_anomaly", "soil_moisture_standardised_anomaly", "soil_moisture_percentile")
    return dict(zip(names, found, strict=True))


def test_layers_are_those_computed_by_hand(maps: Path, tmp_path: Path) -> None:
    store = build(maps, tmp_path / "clim.zarr").climatology
    for day in (date(2021, 8, 8), date(2018, 8, 1), date(2016, 8, 20)):
        found, short = Samples(store, store.place(GRID)).compare(moisture_of(day), day)
        for name, values in expected(day, YEARS, 5).items():
            np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
            assert np.isfinite(values).sum() > 20
        assert not short.any()


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.uint16, 4, elements=st.sampled_from([0, 1, 2, 3, 65534, MISSING])),
    st.lists(
        st.lists(arrays(np.uint16, 4, elements=st.sampled_from([0, 1, 2, 65534, MISSING])), max_size=4), max_size=7
    ),
    st.integers(1, 6),
)
def test_any_values_compare_as_by_hand(mine: np.ndarray, years: list[list[np.ndarray]], minimum: int) -> None:
    found, short = compare(mine, years, minimum)
    for k, value in enumerate(mine.tolist()):
        of_years = [[int(one[k]) for one in maps if one[k] != MISSING] for maps in years]
        counted = sum(map(bool, of_years))
        others = np.array([value for one in of_years for value in one], float)
        there = value != MISSING and counted >= minimum
        by_name = dict(zip(found, by_hand(value, others) if there else (np.nan,) * 3, strict=True))
        for name, values in found.items():
            np.testing.assert_allclose(values[k], by_name[name], rtol=1e-6, err_msg=name)
        assert short[k] == (there and counted < 5)


def contents(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


def test_years_may_be_added_in_any_order_and_are_kept(maps: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.zarr", tmp_path / "parts.zarr"
    build(maps, whole)
    assert build(maps, parts, start=date(2019, 1, 1)).written == 9
    added = build(maps, parts, end=date(2018, 12, 31))
    assert (added.written, added.kept) == (9, 0)
    assert contents(parts) == contents(whole)
    stamps = {path: path.stat().st_mtime_ns for path in parts.rglob("*")}
    again = build(maps, parts)
    assert (again.written, again.kept) == (0, 18)
    assert stamps == {path: path.stat().st_mtime_ns for path in parts.rglob("*")}


def test_a_map_made_again_replaces_its_values(maps: Path, tmp_path: Path) -> None:
    day, out = date(2019, 8, 8), tmp_path / "clim.zarr"
    build(maps, out)
    write(tmp_path / "new", day, seed=1)
    added = build(tmp_path / "new", out)
    assert (added.written, added.kept) == (1, 0)
    np.testing.assert_array_equal(added.climatology.read(day, added.climatology.place(GRID)), moisture_of(day, seed=1))


def test_an_interrupted_run_resumes(maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmnet_maps.product import climatology_build

    out, real, calls = tmp_path / "clim.zarr", climatology_build.replace_file, []

    def dies(path: Path, content: bytes, *rest: Any) -> None:
        calls.append(path)
        if len(calls) == 8:
            raise OSError(28, "No space left on device")
        real(path, content, *rest)

    monkeypatch.setattr(climatology_build, "replace_file", dies)
    with pytest.raises(OutputError, match=r"No space .* added before are kept"):
        build(maps, out)
    monkeypatch.setattr(climatology_build, "replace_file", real)
    assert len(Climatology(out).marks) == 3
    assert build(maps, out).kept == 3
    build(maps, tmp_path / "whole.zarr")
    assert contents(out) == contents(tmp_path / "whole.zarr")


def test_damage_is_found_on_reading(maps: Path, tmp_path: Path) -> None:
    store = build(maps, tmp_path / "clim.zarr").climatology
    day = date(2019, 8, 8)
    rows, cols = store.place(GRID)
    file = chunk_file(store.path, "soil_moisture", day, rows.start // 1024, cols.start // 1024)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    for damaged in (bytes(content), content[:20], None):
        file.unlink() if damaged is None else file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged or was changed; run mmnet climatology again"):
            store.read(day, (rows, cols))


def test_the_store_opens_in_xarray(maps: Path, tmp_path: Path) -> None:
    store = build(maps, tmp_path / "clim.zarr").climatology
    with xr.open_zarr(store.path / "2019", chunks=None, decode_coords="all") as year:
        rows, cols = store.place(GRID)
        values = year["soil_moisture"].sel(day=1 + slot_of(date(2019, 8, 8)))[rows, cols]
        np.testing.assert_allclose(
            values, LAYERS["soil_moisture"].unpack(moisture_of(date(2019, 8, 8))), rtol=1e-6, equal_nan=True
        )
        assert year.rio.crs.to_epsg() == 5070
        assert float(values.x[0]) == GRID.affine.c + 50


def test_tiles_and_windows_over_their_borders(tmp_path: Path) -> None:
    """Maps of four neighbouring grids, read over the corner of four tiles, are one map; beyond there is nothing."""
    whole = grid_at(0, 0, 2100, 2100)
    day = date(2020, 2, 29)
    probe = build_store(tmp_path, whole, day)
    rows, cols = probe.place(whole)
    corner = -(-rows.start // 1024) * 1024 - rows.start, -(-cols.start // 1024) * 1024 - cols.start
    box = whole[corner[0] - 5 : corner[0] + 7, corner[1] - 6 : corner[1] + 8]
    expected_values = moisture_of(day, whole)[corner[0] - 5 : corner[0] + 7, corner[1] - 6 : corner[1] + 8]
    np.testing.assert_array_equal(probe.read(day, probe.place(box)), expected_values)
    assert (probe.read(day, (slice(-9, -2), slice(-7, 3))) == MISSING).all()
    assert (probe.read(date(2020, 3, 1), probe.place(box)) == MISSING).all()


def build_store(folder: Path, grid: GeoBox, day: date) -> Climatology:
    write(folder / "maps", day, grid=grid)
    return build(folder / "maps", folder / "clim.zarr").climatology


def test_pixels_are_those_of_the_window(maps: Path, tmp_path: Path) -> None:
    store = build(maps, tmp_path / "clim.zarr").climatology
    picked = np.array([1, 5, 2]), np.array([8, 0, 2])
    samples = Samples(store, store.place(GRID), picked)
    for day in (date(2021, 8, 8), date(2021, 8, 20)):
        whole, _ = Samples(store, store.place(GRID)).compare(moisture_of(day), day)
        some, _ = samples.compare(moisture_of(day)[picked], day)
        for name, values in whole.items():
            np.testing.assert_array_equal(some[name], values[picked])


def test_few_years_are_refused_or_flagged(maps: Path, tmp_path: Path) -> None:
    out, day = tmp_path / "clim.zarr", date(2021, 8, 8)
    store = build(maps, out, start=date(2018, 1, 1), end=date(2020, 12, 31)).climatology
    assert "3 years: a map is compared with the other years, at least 5 of them" in store.advice()[0]
    with pytest.raises(InputError, match=r"in 3 other years \(2018, 2019, 2020\); expected at least 5: add maps"):
        store.require(day)
    allowed = build(maps, out, start=date(2018, 1, 1), end=date(2020, 12, 31), minimum_years=3)
    assert (allowed.written, allowed.kept) == (0, 9)
    allowed.climatology.require(day)
    found, short = Samples(allowed.climatology, allowed.climatology.place(GRID)).compare(moisture_of(day), day)
    np.testing.assert_array_equal(short, np.isfinite(found["soil_moisture_percentile"]))
    for name, values in expected(day, (2018, 2019, 2020), 3).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_window_is_that_of_the_store(maps: Path, tmp_path: Path) -> None:
    store = build(maps, tmp_path / "clim.zarr", window=8).climatology
    assert [one.day for one in store.around(date(2021, 8, 8))[2019]] == [1, 8]
    found, _ = Samples(store, store.place(GRID)).compare(moisture_of(date(2021, 8, 8)), date(2021, 8, 8))
    for name, values in expected(date(2021, 8, 8), YEARS, 5, window=8).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
    assert 2021 not in store.around(date(2021, 8, 8))


@given(st.dates(date(2015, 1, 1), date(2039, 12, 31)), st.integers(2015, 2039), st.integers(0, 91))
def test_windows_are_whole_and_around_the_same_calendar_day(day: date, year: int, window: int) -> None:
    days = window_days(day, year, window)
    assert len(days) == 2 * window + 1
    assert all(b - a == timedelta(days=1) for a, b in pairwise(days))
    leap_day = (day.month, day.day) == (2, 29)
    assert days[window] == (date(year, 2, 29 if year % 4 == 0 else 28) if leap_day else day.replace(year=year))


def test_a_window_over_new_year_belongs_to_its_middle(tmp_path: Path) -> None:
    for day in (date(2017, 12, 28), date(2018, 1, 4), date(2018, 12, 30)):
        write(tmp_path / "maps", day)
    store = build(tmp_path / "maps", tmp_path / "clim.zarr").climatology
    assert store.around(date(2021, 1, 2)) == {
        2018: [date(2017, 12, 28), date(2018, 1, 4)], 2019: [date(2018, 12, 30)]
    }  # fmt: skip


@given(st.dates(date(2015, 1, 1), date(2039, 12, 31)))
def test_every_day_has_its_place(day: date) -> None:
    assert day_at(day.year, slot_of(day)) == day
    assert day_at(2019, 59) is None


def test_other_models_and_kinds_are_refused(maps: Path, tmp_path: Path) -> None:
    out = tmp_path / "clim.zarr"
    build(maps, out)
    write(tmp_path / "other", date(2015, 8, 8), weights_sha256="b" * 64)
    with pytest.raises(RequestError, match=r"weights_sha256 bbbbbbbbbbbb, not aaaaaaaaaaaa; percentiles across models"):
        build(tmp_path / "other", out)
    with pytest.raises(RequestError, match=r"area on 2015-08-08 and area on 2016-08-01 differ in weights_sha256"):
        build([tmp_path / "other", maps], tmp_path / "both.zarr")
    write(tmp_path / "synthetic", date(2015, 8, 8), synthetic=True)
    with pytest.raises(RequestError, match=r"made from synthetic inputs, those of the climatology .* from real inputs"):
        build(tmp_path / "synthetic", out)
    coarse = GeoBox((5, 5), GRID.affine * GRID.affine.scale(2), GRID.crs)
    with pytest.raises(RequestError, match=r"other pixels than the climatology"):
        Climatology(out).place(coarse)


def test_what_is_no_climatology_is_refused(maps: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no climatology at .*; make one with: mmnet climatology MAPS --out"):
        Climatology(tmp_path / "none.zarr")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "zarr.json").write_text("{}")
    with pytest.raises(InputError, match=r"is no climatology; expected a store that mmnet climatology has made"):
        build(maps, tmp_path / "mine")


def test_the_fingerprint_changes_with_what_is_compared(maps: Path, tmp_path: Path) -> None:
    out, day = tmp_path / "clim.zarr", date(2021, 8, 8)
    first = build(maps, out, end=date(2020, 12, 31)).climatology.fingerprint(GRID, day)
    assert build(maps, out).climatology.fingerprint(GRID, day) == first  # its own year is left out
    assert Climatology(out).fingerprint(GRID, date(2020, 8, 8)) != first
    write(tmp_path / "new", date(2019, 8, 8), seed=1)
    assert build(tmp_path / "new", out).climatology.fingerprint(GRID, day) != first
    build(maps, out)
    assert build(maps, out).climatology.fingerprint(GRID, day) == first
    assert build(maps, out, window=14).climatology.fingerprint(GRID, day) != first


def test_classes_of_packed_percentiles() -> None:
    layer = LAYERS["soil_moisture_percentile"]
    at = np.array([*CLASSES.values()])
    assert class_names(layer.unpack(layer.pack(at))) == list(CLASSES)
    above = layer.unpack((layer.pack(at) + 1).astype(np.uint16))
    assert class_names(above) == ["none", "D0", "D1", "D2", "D3"]
    assert class_numbers(np.array([np.nan])).tolist() == [-1]
    counts = count_classes(layer.pack(np.array([1, 1, 7, 50, np.nan])))
    assert counts == {"none": 1, "D0": 0, "D1": 0, "D2": 1, "D3": 0, "D4": 2}
