"""Interpolation in time, borrowing, sampling, and one tile of one day."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odc.geo.geobox import GeoBox

from analytic import LATTICES, AnalyticSource
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.lattice import Window, lonlat
from mmnet_maps.grid.tiles import target_grid, tiles
from mmnet_maps.stack.availability import require
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.interpolate import NEVER, bilinear, fill_gaps, interpolate_days, interpolate_series
from mmnet_maps.stack.needs import Demand, Needs, uses
from mmnet_maps.stack.reader import Block, Snapshot, read_block
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import VARIABLES

DAY = date(2021, 8, 8)
NEEDS = Needs(
    snapshot=("smap", "red", "vv", "landcover", "clay"), series=("pr", "lst", "smap"), steps=4, includes_day=True
)

VV = VARIABLES["vv"]

observations = st.lists(st.integers(-40, 40), unique=True, max_size=8)
packed = st.one_of(st.just(VV.nodata), st.integers(-32767, 32767))


@given(observations, arrays(np.int16, (8, 3), elements=packed), st.integers(1, 35))
def test_interpolation_equals_numpy_interp(offsets: list[int], table: np.ndarray, reach: int) -> None:
    days = [DAY + timedelta(days=k) for k in offsets]
    held = {day: table[k] for k, day in enumerate(days)}

    def read(day: date, part: Window) -> np.ndarray:
        return held[day][None][part]

    if not any(abs(k) <= reach for k in offsets):
        with pytest.raises(InputError, match="no observation within"):
            interpolate_days(read, days, DAY, reach, (1, 3), VV)
        return
    value, age = (found[0] for found in interpolate_days(read, days, DAY, reach, (1, 3), VV))
    for pixel in range(3):
        near = [(k, VV.unpack(held[day])[pixel]) for k, day in zip(offsets, days) if abs(k) <= reach]
        seen = sorted((k, what) for k, what in near if not np.isnan(what))
        if not seen:
            assert np.isnan(value[pixel])
            assert age[pixel] == NEVER
            continue
        when, what = zip(*seen)
        np.testing.assert_allclose(value[pixel], np.interp(0, when, what), atol=1e-4)
        assert age[pixel] == min(abs(k) for k in when)


@given(
    arrays(np.int16, (23, 2, 3), elements=packed),
    st.lists(st.integers(0, 22), min_size=1, max_size=6),
    st.integers(0, 30),
)
def test_a_series_is_interpolated_as_each_day_alone(table: np.ndarray, own: list[int], reach: int) -> None:
    days = [DAY + timedelta(days=k) for k in range(23)]
    held = dict(zip(days, table, strict=True))
    values, ages = interpolate_series(VV.unpack(table), np.array(own), reach)
    assert values.dtype == ages.dtype == np.float32
    for k, value, age in zip(own, values, ages, strict=True):
        expected, days_to = interpolate_days(lambda day, part: held[day][part], days, days[k], reach, (2, 3), VV)
        np.testing.assert_allclose(value, expected, atol=1e-4)
        np.testing.assert_array_equal(age, np.where(days_to == NEVER, np.inf, days_to))


def test_no_more_is_read_than_is_needed() -> None:
    """Bytes moved decide the speed: only what is still missing is read of a further day."""
    holes = np.full((4, 5), VV.pack(np.array(1.0)))
    holes[1:3, 2] = VV.nodata
    kept = holes.copy()
    read: list[tuple[int, Window]] = []

    def observation(day: date, part: Window) -> np.ndarray:
        read.append(((day - DAY).days, part))
        return holes[part] if (day - DAY).days == -1 else np.full((4, 5), VV.pack(np.array(9.0)))[part]

    days = [DAY + timedelta(days=k) for k in (-9, -5, -1, 2, 6)]
    value, age = interpolate_days(observation, days, DAY, 10, (4, 5), VV)
    whole = slice(0, 4), slice(0, 5)
    assert read == [(-1, whole), (-5, (slice(1, 3), slice(2, 3))), (2, whole)]
    np.testing.assert_array_equal(holes, kept)
    np.testing.assert_allclose(value, np.where(holes == VV.nodata, 9, 1 + 8 / 3), rtol=1e-6)
    np.testing.assert_array_equal(age, np.where(holes == VV.nodata, 2, 1))


@given(arrays(np.float32, (2, 6, 7), elements=st.one_of(st.just(float("nan")), st.floats(0, 1, width=32))))
def test_gaps_are_filled_with_the_nearest_valid_cell_within_two(cells: np.ndarray) -> None:
    filled, gap_filled = fill_gaps(cells)
    expected = np.zeros(cells.shape, bool)
    for t, r, c in np.ndindex(cells.shape):
        if not np.isnan(cells[t, r, c]):
            assert filled[t, r, c] == cells[t, r, c]
            continue
        near = [
            ((i - r) ** 2 + (j - c) ** 2, cells[t, i, j])
            for i in range(max(r - 2, 0), min(r + 3, 6))
            for j in range(max(c - 2, 0), min(c + 3, 7))
            if not np.isnan(cells[t, i, j])
        ]
        if not near:
            assert np.isnan(filled[t, r, c])
            continue
        expected[t, r, c] = True
        closest = min(distance for distance, _ in near)
        assert filled[t, r, c] in [value for distance, value in near if distance == closest]
    np.testing.assert_array_equal(gap_filled, expected)


def test_bilinear_is_exact_on_a_plane_and_renormalises() -> None:
    row, col = np.mgrid[0:5, 0:6]
    plane = (2.0 * (row + 0.5) - 0.5 * (col + 0.5)).astype(np.float32)
    rows, cols = np.array([[1.2, 3.9], [0.5, 4.5]]), np.array([[2.7, 1.0], [0.5, 5.5]])
    np.testing.assert_allclose(bilinear(plane, rows, cols), 2.0 * rows - 0.5 * cols, atol=1e-5)
    plane[2, 2] = np.nan
    assert bilinear(plane, np.array([2.5]), np.array([2.5]))[0] != bilinear(plane, np.array([2.0]), np.array([2.0]))[0]
    assert np.isnan(bilinear(plane, np.array([2.5]), np.array([2.5]))[0])
    three = [plane[1, 1], plane[1, 2], plane[2, 1]]
    np.testing.assert_allclose(bilinear(plane, np.array([2.0]), np.array([2.0]))[0], np.mean(three), rtol=1e-6)


def test_needs_know_their_days() -> None:
    assert NEEDS.series_days(DAY) == [date(2021, 8, 5), date(2021, 8, 6), date(2021, 8, 7), DAY]
    before = Needs(snapshot=("red",), series=("pr", "lst"), steps=2, includes_day=False)
    assert before.series_days(DAY) == [date(2021, 8, 6), date(2021, 8, 7)]
    assert before.days("weather", DAY) == [date(2021, 8, 6), date(2021, 8, 7)]
    assert before.days("lst", DAY)[0] == date(2021, 7, 21)
    assert before.days("lst", DAY)[-1] == date(2021, 8, 23)
    assert before.days("optical", DAY)[0] == date(2021, 7, 7)
    assert len(before.days("optical", DAY)) == 65
    assert before.days("static", DAY) == [DAY]
    assert NEEDS.variables == ("smap", "red", "vv", "landcover", "clay", "pr", "lst")
    assert NEEDS.days("smap", DAY) == NEEDS.series_days(DAY)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    grid = target_grid(read_aoi("-119.62,47.00,-119.38,47.20"))
    path = tmp_path_factory.mktemp("stack") / "s.zarr"
    return fetch(path, [AnalyticSource()], Demand(grid=grid, tiles=tiles(grid), needs=NEEDS, days=[DAY]), quiet=True)


@pytest.fixture(scope="module")
def grid() -> GeoBox:
    return target_grid(read_aoi("-119.62,47.00,-119.38,47.20"))


def one_day(stack: Stack, grid: GeoBox, resampling: str = "nearest", **options: object) -> tuple[Block, Snapshot]:
    block = read_block(stack, grid, NEEDS, [DAY], smap_resampling=resampling, **options)  # type: ignore[arg-type]
    return block, next(block.snapshots)


def physical(snapshot: Snapshot, name: str) -> np.ndarray:
    values = snapshot.fine[name]
    return VARIABLES[name].unpack(values) if values.dtype == np.int16 else values


def test_a_block_holds_the_formula(stack: Stack, grid: GeoBox) -> None:
    source = AnalyticSource()
    block, snapshot = one_day(stack, grid)
    clay = source.value("clay", grid, DAY)
    assert snapshot.fine["clay"].dtype == np.int16
    np.testing.assert_allclose(physical(snapshot, "clay"), clay, atol=VARIABLES["clay"].scale)
    assert snapshot.fine["landcover"].dtype == np.uint8
    assert DAY.toordinal() % 3 == 1
    before, after = (source.value("red", grid, DAY + timedelta(days=k)) for k in (-1, 2))
    np.testing.assert_allclose(snapshot.fine["red"], before + (after - before) / 3, atol=2e-4, equal_nan=True)
    assert (snapshot.ages["optical"][~np.isnan(before)] == 1).all()
    assert block.series["pr"].shape == (block.series_id.max() + 1, 4)
    assert block.starts == (0,)
    assert set(np.unique(snapshot.lst_filled)) == {0.75, 1.0}  # one day of four observed; a cell in seven never
    assert snapshot.surface_temperature is not None
    np.testing.assert_array_equal(snapshot.surface_temperature, block.series["lst"][:, -1])


@pytest.mark.parametrize("variable", ["pr", "smap"])
def test_every_pixel_finds_the_cell_it_lies_in(stack: Stack, grid: GeoBox, variable: str) -> None:
    block, _ = one_day(stack, grid)
    lattice = LATTICES[stack.group_of(variable).name]
    longitude, latitude = lonlat(grid)
    whole = AnalyticSource().value(variable, lattice[:, :], DAY)
    row = np.floor((lattice.affine.f - latitude.astype(float)) / lattice.affine.a).astype(int)
    col = np.floor((longitude.astype(float) - lattice.affine.c) / lattice.affine.a).astype(int)
    found = block.series[variable][block.series_id, -1]
    same = np.abs(found - whole[row, col]) <= VARIABLES[variable].scale
    assert same.mean() > 0.999


def test_pairs_are_distinct_and_only_of_wanted_pixels(stack: Stack, grid: GeoBox) -> None:
    whole, _ = one_day(stack, grid)
    wanted = np.zeros(grid.shape, bool)
    wanted[40:90, 13:77] = True
    some, _ = one_day(stack, grid, wanted=wanted)
    np.testing.assert_array_equal(some.series_id >= 0, wanted)
    assert np.unique(some.series_id[wanted]).tolist() == list(range(len(some.series["pr"])))
    assert 1 < len(some.series["pr"]) < len(whole.series["pr"])
    for name, values in some.series.items():
        np.testing.assert_array_equal(values[some.series_id[wanted]], whole.series[name][whole.series_id[wanted]])
    distinct = np.concatenate(list(whole.series.values()), axis=1)
    assert len(np.unique(distinct, axis=0)) > 0.8 * len(distinct)  # cells may hold equal values
    none, _ = one_day(stack, grid, wanted=np.zeros(grid.shape, bool))
    assert (none.series_id == -1).all()
    assert none.series["pr"].shape == (0, 4)


def test_days_together_are_as_each_alone(tmp_path: Path, grid: GeoBox) -> None:
    """A gap between them, and static and shared observations read once."""
    days = [DAY, DAY + timedelta(days=1), DAY + timedelta(days=3)]
    stack = fetch(
        tmp_path / "s.zarr",
        [AnalyticSource()],
        Demand(grid=grid, tiles=tiles(grid), needs=NEEDS, days=days),
        quiet=True,
    )
    together = read_block(stack, grid, NEEDS, days, smap_resampling="bilinear")
    assert together.starts == (0, 1, 3)
    for day, start, snapshot in zip(days, together.starts, together.snapshots, strict=True):
        alone = read_block(stack, grid, NEEDS, [day], smap_resampling="bilinear")
        expected = next(alone.snapshots)
        np.testing.assert_array_equal(together.series_id, alone.series_id)
        for name, values in alone.series.items():
            np.testing.assert_array_equal(together.series[name][:, start : start + 4], values)
        assert snapshot.day == day
        for name, values in expected.fine.items():
            np.testing.assert_array_equal(snapshot.fine[name], values)
        for name in ("gap_filled", "series_gap_filled", "lst_filled", "surface_temperature"):
            np.testing.assert_array_equal(getattr(snapshot, name), getattr(expected, name))
        np.testing.assert_array_equal(snapshot.ages["optical"], expected.ages["optical"])


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_a_window_of_a_block_is_the_block_of_a_window(stack: Stack, grid: GeoBox, resampling: str) -> None:
    whole, of_whole = one_day(stack, grid, resampling)
    window = np.s_[57:123, 31:130]
    part, of_part = one_day(stack, grid[window], resampling)
    for name, values in of_part.fine.items():
        np.testing.assert_array_equal(values, of_whole.fine[name][window], err_msg=name)
    for name in ("pr", "lst", "smap"):
        np.testing.assert_array_equal(part.series[name][part.series_id], whole.series[name][whole.series_id[window]])
    for name in ("series_gap_filled", "lst_filled", "surface_temperature"):
        np.testing.assert_array_equal(
            getattr(of_part, name)[part.series_id], getattr(of_whole, name)[whole.series_id[window]]
        )
    np.testing.assert_array_equal(of_part.gap_filled, of_whole.gap_filled[window])
    np.testing.assert_array_equal(of_part.ages["sar"], of_whole.ages["sar"][window])


@pytest.fixture(scope="module")
def coast(tmp_path_factory: pytest.TempPathFactory, grid: GeoBox) -> Stack:
    """Coarse values end within the grid, so that some are borrowed and some are missing; the SMAP lattice ends too."""
    col = int((-119.42 - LATTICES["smap"].affine.c) / LATTICES["smap"].affine.a)

    class Coast(AnalyticSource):
        def lattice(self, group: str) -> GeoBox:
            return super().lattice(group)[:, :col] if group == "smap" else super().lattice(group)

        def value(self, name: str, geobox: GeoBox, day: date) -> np.ndarray:
            values = super().value(name, geobox, day)
            if name in ("pr", "lst"):
                edge = {"pr": -119.60, "lst": -1_770_000}[name]
                values[:, geobox.affine.c + geobox.affine.a * np.arange(geobox.shape.x) > edge] = np.nan
            return values

    path = tmp_path_factory.mktemp("coast") / "s.zarr"
    return fetch(
        path,
        [Coast()],
        Demand(grid=grid, tiles=tiles(grid), needs=NEEDS, days=[DAY, DAY + timedelta(days=1)]),
        quiet=True,
    )


@given(
    st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 9999)), min_size=1, max_size=40),
    st.sampled_from(["nearest", "bilinear"]),
)
@settings(max_examples=15, deadline=None)
def test_picked_pixels_are_those_of_the_whole(
    coast: Stack, grid: GeoBox, places: list[tuple[int, int]], resampling: str
) -> None:
    days = [DAY, DAY + timedelta(days=1)]
    index = np.array(places) % np.array(grid.shape)
    picked = index[:, 0], index[:, 1]
    whole = read_block(coast, grid, NEEDS, days, smap_resampling=resampling)
    some = read_block(coast, grid, NEEDS, days, smap_resampling=resampling, picked=picked)
    assert some.series_id.shape == (1, len(places))
    assert some.starts == whole.starts
    series_id, of_whole = some.series_id[0], whole.series_id[picked]
    np.testing.assert_array_equal(series_id < 0, of_whole < 0)
    on = series_id >= 0
    for name, values in some.series.items():
        np.testing.assert_array_equal(values[series_id[on]], whole.series[name][of_whole[on]], err_msg=name)
    for mine, other in zip(some.snapshots, whole.snapshots, strict=True):
        for name, values in mine.fine.items():
            np.testing.assert_array_equal(values[0], other.fine[name][picked], err_msg=name)
        for kind, ages in mine.ages.items():
            np.testing.assert_array_equal(ages[0], other.ages[kind][picked])
        np.testing.assert_array_equal(mine.gap_filled[0], other.gap_filled[picked])
        for name in ("series_gap_filled", "lst_filled", "surface_temperature"):
            np.testing.assert_array_equal(getattr(mine, name)[series_id[on]], getattr(other, name)[of_whole[on]])


def test_the_coast_has_what_is_to_be_tested(coast: Stack, grid: GeoBox) -> None:
    block, snapshot = one_day(coast, grid)
    assert (block.series_id < 0).any()
    assert snapshot.series_gap_filled.any()
    assert np.isnan(block.series["pr"]).any()


def test_a_large_row_of_pixels_is_sampled_as_each_alone() -> None:
    field = np.arange(12, dtype=np.float32).reshape(3, 4)
    rows, cols = np.linspace(0.6, 2.4, 140_000)[None], np.linspace(0.6, 3.4, 140_000)[None]
    found = bilinear(field, rows, cols)
    np.testing.assert_array_equal(found[:, ::9999], bilinear(field, rows[:, ::9999], cols[:, ::9999]))


def test_what_lacks_is_named(stack: Stack, grid: GeoBox) -> None:
    require(stack, grid, NEEDS, [DAY])
    with pytest.raises(InputError, match="has no .* for 2021-06-2.*needed for the map of 2021-06-30"):
        require(stack, grid, NEEDS, [date(2021, 6, 30)])
    other = target_grid(read_aoi("-100.1,40.0,-100.0,40.1"))
    with pytest.raises(InputError, match="has no .*in this area"):
        require(stack, other, NEEDS, [DAY])
    with pytest.raises(RequestError, match="leave out --crs and --resolution"):
        uses(stack, target_grid(read_aoi("-119.6,47.0,-119.5,47.1"), resolution=50), NEEDS, [DAY])


def test_pixels_beyond_a_coarse_lattice_are_missing_not_made_up(tmp_path: Path, grid: GeoBox) -> None:
    """The lattice ends in the middle of the map."""
    longitude, _ = lonlat(grid)
    col = int((-119.5 - LATTICES["smap"].affine.c) / LATTICES["smap"].affine.a)
    edge = LATTICES["smap"].affine.c + col * LATTICES["smap"].affine.a

    class Cut(AnalyticSource):
        def lattice(self, group: str) -> GeoBox:
            return super().lattice(group)[:, :col] if group == "smap" else super().lattice(group)

    stack = fetch(
        tmp_path / "s.zarr", [Cut()], Demand(grid=grid, tiles=tiles(grid), needs=NEEDS, days=[DAY]), quiet=True
    )
    beyond = longitude > edge + 1e-4
    inside = longitude < edge - 1e-4
    assert beyond.any()
    for resampling in ("nearest", "bilinear"):
        block, snapshot = one_day(stack, grid, resampling)
        assert np.isnan(snapshot.fine["smap"][beyond]).all()
        assert np.isfinite(snapshot.fine["smap"][inside]).all()
        assert (block.series_id[beyond] == -1).all()
        assert (block.series_id[inside] >= 0).all()


def test_days_before_the_axis_are_refused_or_left_out(stack: Stack, grid: GeoBox) -> None:
    with pytest.raises(
        RequestError, match="needs inputs from 2014-12-31 on, stacks begin on 2015-01-01; choose a day 1"
    ):
        uses(stack, grid, NEEDS, [date(2015, 1, 3)])
    days = [day for _, _, around in uses(stack, grid, NEEDS, [date(2015, 1, 4)]) for day in around]
    assert min(days) == date(2015, 1, 1)
