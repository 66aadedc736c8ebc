"""One tile of a stack, or some pixels of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from analytic import LATTICES, AnalyticSource, source_of
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.lattice import lonlat, nearest_cells
from mmnet_maps.grid.tiles import target_grid, tiles
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.stack.reader import Block, Snapshot, read_block
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import VARIABLES

DAY = date(2021, 8, 8)
NEEDS = Needs(
    snapshot=("smap", "red", "vv", "landcover", "clay"), series=("pr", "lst", "smap"), steps=4, includes_day=True
)
OTHERS = source_of(NEEDS).without


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    grid = target_grid(read_aoi("-119.62,47.00,-119.38,47.20"))
    path = tmp_path_factory.mktemp("stack") / "s.zarr"
    return fetch(path, [source_of(NEEDS)], Demand(grid=grid, tiles=tiles(grid), needs=NEEDS, days=[DAY]), quiet=True)


@pytest.fixture(scope="module")
def grid() -> GeoBox:
    return target_grid(read_aoi("-119.62,47.00,-119.38,47.20"))


def one_day(stack: Stack, grid: GeoBox, resampling: str = "nearest", **options: object) -> tuple[Block, Snapshot]:
    block = read_block(stack, grid, NEEDS, [DAY], smap_resampling=resampling, **options)  # type: ignore[arg-type]
    return block, next(block.snapshots)


def test_a_block_holds_the_formula(stack: Stack, grid: GeoBox) -> None:
    source = AnalyticSource()
    block, snapshot = one_day(stack, grid)
    clay = source.value("clay", grid, DAY)
    assert snapshot.fine["clay"].dtype == np.int16
    np.testing.assert_allclose(snapshot.physical("clay"), clay, atol=VARIABLES["clay"].scale)
    assert snapshot.fine["landcover"].dtype == np.uint8
    assert DAY.toordinal() % 3 == 1
    before, after = (source.value("red", grid, DAY + timedelta(days=k)) for k in (-1, 2))
    np.testing.assert_allclose(snapshot.fine["red"], before + (after - before) / 3, atol=2e-4, equal_nan=True)
    assert (snapshot.ages["optical"][~np.isnan(before)] == 1).all()
    assert block.series["pr"].shape == (block.series_id[0].max() + 1, 4)
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
    found = block.series[variable][block.series_id[0], -1]
    same = np.abs(found - whole[row, col]) <= VARIABLES[variable].scale
    assert same.mean() > 0.999


def test_series_cells_are_distinct_and_only_of_wanted_pixels(stack: Stack, grid: GeoBox) -> None:
    whole, _ = one_day(stack, grid)
    wanted = np.zeros(grid.shape, bool)
    wanted[40:90, 13:77] = True
    some, _ = one_day(stack, grid, wanted=wanted)
    np.testing.assert_array_equal(some.series_id[0] >= 0, wanted)
    assert np.unique(some.series_id[0][wanted]).tolist() == list(range(len(some.series["pr"])))
    assert 1 < len(some.series["pr"]) < len(whole.series["pr"])
    for name, values in some.series.items():
        np.testing.assert_array_equal(values[some.series_id[0][wanted]], whole.series[name][whole.series_id[0][wanted]])
    distinct = np.concatenate(list(whole.series.values()), axis=1)
    assert len(np.unique(distinct, axis=0)) > 0.8 * len(distinct)  # cells may hold equal values
    none, _ = one_day(stack, grid, wanted=np.zeros(grid.shape, bool))
    assert (none.series_id[0] == -1).all()
    assert none.series["pr"].shape == (0, 4)


def test_days_together_are_as_each_alone(tmp_path: Path, grid: GeoBox) -> None:
    """Days with a gap between them; static and shared observations are read once."""
    days = [DAY, DAY + timedelta(days=1), DAY + timedelta(days=3)]
    stack = fetch(
        tmp_path / "s.zarr",
        [source_of(NEEDS)],
        Demand(grid=grid, tiles=tiles(grid), needs=NEEDS, days=days),
        quiet=True,
    )
    together = read_block(stack, grid, NEEDS, days, smap_resampling="bilinear")
    assert together.starts == (0, 1, 3)
    for day, start, snapshot in zip(days, together.starts, together.snapshots, strict=True):
        alone = read_block(stack, grid, NEEDS, [day], smap_resampling="bilinear")
        expected = next(alone.snapshots)
        np.testing.assert_array_equal(together.series_id[0], alone.series_id[0])
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
        np.testing.assert_array_equal(
            part.series[name][part.series_id[0]], whole.series[name][whole.series_id[0][window]]
        )
    for name in ("series_gap_filled", "lst_filled", "surface_temperature"):
        np.testing.assert_array_equal(
            of_cells(of_part, name)[part.series_id[0]], of_cells(of_whole, name)[whole.series_id[0][window]]
        )
    np.testing.assert_array_equal(of_part.gap_filled, of_whole.gap_filled[window])
    np.testing.assert_array_equal(of_part.ages["sar"], of_whole.ages["sar"][window])


@pytest.fixture(scope="module")
def coast(tmp_path_factory: pytest.TempPathFactory, grid: GeoBox) -> Stack:
    """Coarse values end within the grid, so that some are gap-filled and some missing; the SMAP lattice ends too."""
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
        [Coast(without=OTHERS)],
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
    assert some.series_id[0].shape == (1, len(places))
    assert some.starts == whole.starts
    series_id, of_whole = some.series_id[0][0], whole.series_id[0][picked]
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
            np.testing.assert_array_equal(of_cells(mine, name)[series_id[on]], of_cells(other, name)[of_whole[on]])


def of_cells(snapshot: Snapshot, name: str) -> NDArray[Any]:
    """Return values of the series cells of the first group."""
    values = getattr(snapshot, name)
    found: NDArray[Any] = values[0] if isinstance(values, tuple) else values
    return found


def test_groups_of_the_series_have_cells_of_their_own_and_give_each_pixel_the_same_series(
    stack: Stack, grid: GeoBox
) -> None:
    one, of_one = one_day(stack, grid)
    needs = replace(NEEDS, groups=(("pr", "smap"), ("lst",)))
    two = read_block(stack, grid, needs, [DAY], smap_resampling="bilinear")
    (of_two,) = two.snapshots
    for name in NEEDS.series:
        np.testing.assert_array_equal(two.series[name][two.rows_of(name)], one.series[name][one.rows_of(name)])
        assert len(two.series[name]) == two.rows_of(name).max() + 1
    assert len(two.series["lst"]) < len(one.series["lst"])
    filled = [values[rows] for values, rows in zip(of_two.series_gap_filled, two.series_id, strict=True)]
    np.testing.assert_array_equal(filled[0] | filled[1], of_one.series_gap_filled[0][one.series_id[0]])
    for name in ("lst_filled", "surface_temperature"):
        np.testing.assert_array_equal(
            getattr(of_two, name)[two.rows_of("lst")], getattr(of_one, name)[one.series_id[0]]
        )


def test_gap_filled_cells_are_counted_by_variable(coast: Stack, grid: GeoBox) -> None:
    """Rain ends at 119.60° W, so that the next two columns of its lattice are filled in every row of the map."""
    block, _ = one_day(coast, grid)
    rows, cols = nearest_cells(grid, coast.group_of("pr").lattice)
    lattice = LATTICES["weather"]
    edge = lattice.affine.c + lattice.affine.a * np.arange(lattice.shape.x)
    on = np.unique(np.stack([rows.ravel(), cols.ravel()]), axis=1)
    np.testing.assert_array_equal(block.cells["pr"], np.sort(on[0] * lattice.shape.x + on[1]))
    first = int(np.flatnonzero(edge > -119.60)[0])
    filled = on[:, (on[1] >= first) & (on[1] < first + 2)]
    np.testing.assert_array_equal(block.borrowed["pr"], np.sort(filled[0] * lattice.shape.x + filled[1]))
    assert block.borrowed["pr"].size
    assert not block.borrowed["smap"].size


def test_the_coast_has_missing_and_gap_filled_cells(coast: Stack, grid: GeoBox) -> None:
    block, snapshot = one_day(coast, grid)
    assert (block.series_id[0] < 0).any()
    assert snapshot.series_gap_filled[0].any()
    assert np.isnan(block.series["pr"]).any()


def test_pixels_beyond_a_coarse_lattice_are_missing_not_made_up(tmp_path: Path, grid: GeoBox) -> None:
    """The lattice ends in the middle of the map."""
    longitude, _ = lonlat(grid)
    col = int((-119.5 - LATTICES["smap"].affine.c) / LATTICES["smap"].affine.a)
    edge = LATTICES["smap"].affine.c + col * LATTICES["smap"].affine.a

    class Cut(AnalyticSource):
        def lattice(self, group: str) -> GeoBox:
            return super().lattice(group)[:, :col] if group == "smap" else super().lattice(group)

    stack = fetch(
        tmp_path / "s.zarr",
        [Cut(without=OTHERS)],
        Demand(grid=grid, tiles=tiles(grid), needs=NEEDS, days=[DAY]),
        quiet=True,
    )
    beyond = longitude > edge + 1e-4
    inside = longitude < edge - 1e-4
    assert beyond.any()
    for resampling in ("nearest", "bilinear"):
        block, snapshot = one_day(stack, grid, resampling)
        assert np.isnan(snapshot.fine["smap"][beyond]).all()
        assert np.isfinite(snapshot.fine["smap"][inside]).all()
        assert (block.series_id[0][beyond] == -1).all()
        assert (block.series_id[0][inside] >= 0).all()
