"""Interpolation in time, borrowing, sampling, and one tile of one day."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odc.geo.geobox import GeoBox

from analytic import LATTICES, AnalyticSource
from mmnet_maps.aoi import read_aoi
from mmnet_maps.block import Needs, bilinear, borrow, interpolate_days, read_block, require, uses
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.fetch import fetch
from mmnet_maps.grid import conus_grid, lonlat, target_grid, tiles
from mmnet_maps.stack import Stack
from mmnet_maps.variables import VARIABLES

DAY = date(2021, 8, 8)
NEEDS = Needs(
    snapshot=("smap", "red", "vv", "landcover", "clay"), series=("pr", "lst", "smap"), steps=4, includes_day=True
)

observations = st.lists(st.integers(-40, 40), unique=True, max_size=8)
values = arrays(np.float32, (8, 3), elements=st.one_of(st.just(float("nan")), st.floats(-1, 1, width=32)))


@given(observations, values, st.integers(1, 35))
def test_interpolation_equals_numpy_interp(offsets: list[int], table: np.ndarray, reach: int) -> None:
    days = [DAY + timedelta(days=k) for k in offsets]
    held = {day: table[k] for k, day in enumerate(days)}
    if not any(abs(k) <= reach for k in offsets):
        with pytest.raises(InputError, match="no observation within"):
            interpolate_days(held.__getitem__, days, DAY, reach)
        return
    value, age = interpolate_days(held.__getitem__, days, DAY, reach)
    for pixel in range(3):
        near = [(k, held[day][pixel]) for k, day in zip(offsets, days) if abs(k) <= reach]
        seen = sorted((k, what) for k, what in near if not np.isnan(what))
        if not seen:
            assert np.isnan(value[pixel])
            assert np.isinf(age[pixel])
            continue
        when, what = zip(*seen)
        np.testing.assert_allclose(value[pixel], np.interp(0, when, what), atol=1e-6)
        assert age[pixel] == min(abs(k) for k in when)


@given(arrays(np.float32, (2, 6, 7), elements=st.one_of(st.just(float("nan")), st.floats(0, 1, width=32))))
def test_borrowing_takes_the_nearest_valid_cell_within_two(cells: np.ndarray) -> None:
    filled, lent = borrow(cells)
    expected_lent = np.zeros((6, 7), bool)
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
        expected_lent[r, c] = True
        closest = min(distance for distance, _ in near)
        assert filled[t, r, c] in [value for distance, value in near if distance == closest]
    np.testing.assert_array_equal(lent, expected_lent)


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
    return fetch(path, [AnalyticSource()], conus_grid(), grid, tiles(grid), NEEDS, [DAY], quiet=True)


@pytest.fixture(scope="module")
def grid() -> GeoBox:
    return target_grid(read_aoi("-119.62,47.00,-119.38,47.20"))


def test_a_block_holds_the_formula(stack: Stack, grid: GeoBox) -> None:
    source = AnalyticSource()
    block = read_block(stack, grid, NEEDS, DAY, smap_resampling="nearest")
    clay = source.value("clay", grid, DAY)
    np.testing.assert_allclose(block.fine["clay"], clay, atol=VARIABLES["clay"].scale)
    assert block.fine["landcover"].dtype == np.uint8
    assert DAY.toordinal() % 3 == 1
    before, after = (source.value("red", grid, DAY + timedelta(days=k)) for k in (-1, 2))
    np.testing.assert_allclose(block.fine["red"], before + (after - before) / 3, atol=2e-4, equal_nan=True)
    assert (block.ages["optical"][~np.isnan(before)] == 1).all()
    assert block.series["pr"].shape[0] == 4
    assert block.groups == {"pr": "weather", "lst": "lst", "smap": "smap"}
    assert set(np.unique(block.filled)) == {0.75, 1.0}  # one day of four observed; a cell in seven never


@pytest.mark.parametrize("variable", ["pr", "smap"])
def test_every_pixel_finds_the_cell_it_lies_in(stack: Stack, grid: GeoBox, variable: str) -> None:
    block = read_block(stack, grid, NEEDS, DAY, smap_resampling="nearest")
    group = block.groups[variable]
    lattice = LATTICES[group]
    longitude, latitude = lonlat(grid)
    whole = AnalyticSource().value(variable, lattice[:, :], DAY)
    row = np.floor((lattice.affine.f - latitude.astype(float)) / lattice.affine.a).astype(int)
    col = np.floor((longitude.astype(float) - lattice.affine.c) / lattice.affine.a).astype(int)
    found = block.series[variable][-1][block.cells[group]]
    same = np.abs(found - whole[row, col]) <= VARIABLES[variable].scale
    assert same.mean() > 0.999


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_a_window_of_a_block_is_the_block_of_a_window(stack: Stack, grid: GeoBox, resampling: str) -> None:
    whole = read_block(stack, grid, NEEDS, DAY, smap_resampling=resampling)  # type: ignore[arg-type]
    window = np.s_[57:123, 31:130]
    part = read_block(stack, grid[window], NEEDS, DAY, smap_resampling=resampling)  # type: ignore[arg-type]
    for name, values in part.fine.items():
        np.testing.assert_array_equal(values, whole.fine[name][window], err_msg=name)
    for name in ("pr", "lst", "smap"):
        group = whole.groups[name]
        np.testing.assert_array_equal(
            part.series[name][:, *part.cells[group]], whole.series[name][:, *whole.cells[group]][:, *window]
        )
    np.testing.assert_array_equal(part.borrowed, whole.borrowed[window])
    np.testing.assert_array_equal(part.filled, whole.filled[window])
    np.testing.assert_array_equal(part.ages["sar"], whole.ages["sar"][window])


def test_what_lacks_is_named(stack: Stack, grid: GeoBox) -> None:
    require(stack, grid, NEEDS, [DAY])
    with pytest.raises(InputError, match="lacks .* for 2021-06-2.*needed for the map of 2021-06-30"):
        require(stack, grid, NEEDS, [date(2021, 6, 30)])
    other = target_grid(read_aoi("-100.1,40.0,-100.0,40.1"))
    with pytest.raises(InputError, match="lacks .*in this area"):
        require(stack, other, NEEDS, [DAY])
    with pytest.raises(RequestError, match="leave out --crs and --resolution"):
        uses(stack, target_grid(read_aoi("-119.6,47.0,-119.5,47.1"), resolution=50), NEEDS, DAY)


def test_pixels_beyond_a_coarse_lattice_are_missing_not_made_up(tmp_path: Path, grid: GeoBox) -> None:
    """The lattice ends in the middle of the map."""
    longitude, _ = lonlat(grid)
    col = int((-119.5 - LATTICES["smap"].affine.c) / LATTICES["smap"].affine.a)
    edge = LATTICES["smap"].affine.c + col * LATTICES["smap"].affine.a

    class Cut(AnalyticSource):
        def lattice(self, group: str) -> GeoBox:
            return super().lattice(group)[:, :col] if group == "smap" else super().lattice(group)

    stack = fetch(tmp_path / "s.zarr", [Cut()], conus_grid(), grid, tiles(grid), NEEDS, [DAY], quiet=True)
    beyond = longitude > edge + 1e-4
    inside = longitude < edge - 1e-4
    assert beyond.any()
    for resampling in ("nearest", "bilinear"):
        block = read_block(stack, grid, NEEDS, DAY, smap_resampling=resampling)  # type: ignore[arg-type]
        assert np.isnan(block.fine["smap"][beyond]).all()
        assert np.isfinite(block.fine["smap"][inside]).all()
        assert np.isnan(block.series["smap"][:, *block.cells["smap"]][:, beyond]).all()


def test_days_before_the_axis_are_refused_or_left_out(stack: Stack, grid: GeoBox) -> None:
    with pytest.raises(
        RequestError, match="needs inputs from 2014-12-31 on, stacks begin on 2015-01-01; choose a day 1"
    ):
        uses(stack, grid, NEEDS, date(2015, 1, 3))
    days = [day for _, _, around in uses(stack, grid, NEEDS, date(2015, 1, 4)) for day in around]
    assert min(days) == date(2015, 1, 1)
