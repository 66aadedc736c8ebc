"""Fine variables on several days, against a plain loop over pixels and against each day alone."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmnet_maps.grid.tiles import conus_grid
from mmnet_maps.sources.base import Provenance
from mmnet_maps.stack.cells import Pixels
from mmnet_maps.stack.interpolate import NEVER, interpolate_days, interpolate_sides, nearest
from mmnet_maps.stack.layout import create
from mmnet_maps.stack.needs import Needs, uses
from mmnet_maps.stack.observations import Observations
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import VARIABLES

DAY = date(2021, 8, 8)
VV = VARIABLES["vv"]
GRID = conus_grid()[200:300, 200:330]  # four blocks
NEEDS = Needs(snapshot=("vv", "vh", "red", "clay"), series=(), steps=1, includes_day=True)
PROVENANCE = Provenance(source="files", product="random", version="1", licence="CC0-1.0", synthetic=False)
OBSERVED = (-40, -30, -26, -25, -9, -3, 0, 1, 7, 8, 20, 33, 47, 160)
DAYS = [DAY + timedelta(days=k) for k in (-1, 0, 1, 2, 3, 4, 8, 9, 24, 25, 31, 60, 61, 140)]

packed = st.one_of(st.just(VV.nodata), st.integers(-32767, 32767))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """Make a stack with observations of random blocks, some of them whole, others with many gaps."""
    path, random = tmp_path_factory.mktemp("stack") / "s.zarr", np.random.default_rng(0)
    lattice = conus_grid()[:512, :512]
    groups = {"soil": ["clay"], "optical": ["red"], "sar": ["vv", "vh"]}
    provenance = {name: PROVENANCE for names in groups.values() for name in names}
    create(path, lattice, {name: (lattice, names) for name, names in groups.items()}, provenance)
    stack = Stack(path, writable=True)
    for name, variables in groups.items():
        for offset in OBSERVED if name != "soil" else (0,):
            for k, (_, _, window) in enumerate(stack.groups[name].cut((slice(0, 512), slice(0, 512)))):
                if random.random() < 0.75 and (k or name != "sar"):  # one block is never observed by radar
                    low, high = VARIABLES[variables[0]].valid_min, VARIABLES[variables[0]].valid_max
                    values = {one: random.uniform(low, high, (256, 256)).astype(np.float32) for one in variables}
                    if random.random() < 0.6:
                        cloud = random.random((256, 256)) < random.choice([0.02, 0.5, 0.99])
                        values = {one: np.where(cloud, np.float32(np.nan), found) for one, found in values.items()}
                    stack.write(name, window, DAY + timedelta(days=offset), values)
    return Stack(path)


def observations(stack: Stack, days: list[date], picked: tuple[np.ndarray, np.ndarray] | None = None) -> Observations:
    used = {use.group.name: use for use in uses(stack, GRID, NEEDS, days)}
    return Observations(stack, used, Pixels(grid=GRID, picked=picked), NEEDS.snapshot, days)


@pytest.mark.parametrize("days", [DAYS, DAYS[:6]], ids=["far", "near"])
def test_days_together_are_as_each_alone(stack: Stack, days: list[date]) -> None:
    together = observations(stack, days)
    for day in days:
        fine, ages = together.on(day)
        alone, ages_alone = observations(stack, [day]).on(day)
        for name, values in alone.items():
            assert fine[name].dtype == values.dtype
            np.testing.assert_array_equal(fine[name], values)
        for kind, age in ages_alone.items():
            np.testing.assert_array_equal(ages[kind], age)


def test_a_day_is_interpolated_from_all_observations_around_it(stack: Stack) -> None:
    window = slice(200, 300), slice(200, 330)
    for day in DAYS:
        fine, ages = observations(stack, [day]).on(day)
        for name, reach in (("vv", 24), ("vh", 24), ("red", 32)):
            days = [DAY + timedelta(days=k) for k in OBSERVED]
            seen = {other: VARIABLES[name].pack(stack.read(name, window, other)) for other in days}
            physical = VARIABLES[name].physical(fine[name])
            if not any(abs((other - day).days) <= reach for other in days):
                assert np.isnan(physical).all()
                continue
            expected, age = interpolate_days(seen.__getitem__, days, day, reach, VARIABLES[name])
            np.testing.assert_array_equal(physical, expected)
            kind = "optical" if name == "red" else "sar"
            np.testing.assert_array_equal(np.maximum(ages[kind], age), ages[kind])
        np.testing.assert_array_equal(VARIABLES["clay"].unpack(fine["clay"]), stack.read("clay", window))


def test_picked_pixels_are_those_of_the_tile(stack: Stack) -> None:
    random = np.random.default_rng(3)
    picked = random.integers(0, 100, 40), random.integers(0, 130, 40)
    some, whole = observations(stack, DAYS, picked), observations(stack, DAYS)
    for day in DAYS:
        for found, expected in zip(some.on(day), whole.on(day), strict=True):
            for name, values in expected.items():
                np.testing.assert_array_equal(found[name], values[picked][None])


def test_blocks_are_read_once_for_days_in_a_row_and_only_where_needed(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    read_block = Stack.read_block

    def counted(self: Stack, *what: object) -> object:
        read.append(what)
        return read_block(self, *what)  # type: ignore[arg-type]

    monkeypatch.setattr(Stack, "read_block", counted)
    together = observations(stack, DAYS[:6])
    for day in DAYS[:6]:
        together.on(day)
    assert len(read) == len(set(read))
    assert len(read) < 0.5 * 4 * 3 * len(OBSERVED)


@given(
    arrays(np.int16, (12, 5), elements=packed),
    st.lists(st.integers(-20, 40), unique=True, min_size=1, max_size=12),
    st.integers(1, 35),
    st.integers(0, 40),
)
def test_sides_serve_until_the_next_observation(table: np.ndarray, offsets: list[int], reach: int, days: int) -> None:
    """Both sides are found for a day; on later days, their gaps are longer and shorter."""
    held = dict(zip(sorted(offsets), table, strict=False))
    days = min([days, *(offset - 1 for offset in offsets if offset > 0)])
    before = nearest([(-k, held[k]) for k in sorted(held, reverse=True) if -reach <= k <= 0], VV.nodata)
    after = nearest([(k, held[k]) for k in sorted(held) if 0 < k <= days + reach], VV.nodata)
    if before is None and after is None:
        return
    value, age = interpolate_sides(before, after, days, reach, VV)
    near = [DAY + timedelta(days=k) for k in held if abs(k - days) <= reach]
    if not near:
        assert np.isnan(value).all()
        assert (age == NEVER).all()
        return
    expected, expected_age = interpolate_days(
        lambda day: held[(day - DAY).days], near, DAY + timedelta(days=days), reach, VV
    )
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(np.broadcast_to(age, value.shape), expected_age)
