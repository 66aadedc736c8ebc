"""Interpolation in time, gap filling and bilinear sampling."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmnet_maps.errors import InputError
from mmnet_maps.stack.interpolate import NEVER, fill_gaps, interpolate_days, interpolate_series
from mmnet_maps.variables import VARIABLES

DAY = date(2021, 8, 8)
VV = VARIABLES["vv"]

observations = st.lists(st.integers(-40, 40), unique=True, max_size=8)
packed = st.one_of(st.just(VV.nodata), st.integers(-32767, 32767))


@given(observations, arrays(np.int16, (8, 3), elements=packed), st.integers(1, 35))
def test_interpolation_equals_numpy_interp(offsets: list[int], table: np.ndarray, reach: int) -> None:
    days = [DAY + timedelta(days=k) for k in offsets]
    held = {day: table[k] for k, day in enumerate(days)}

    def read(day: date) -> np.ndarray:
        return held[day][None]

    if not any(abs(k) <= reach for k in offsets):
        with pytest.raises(InputError, match="no observation within"):
            interpolate_days(read, days, DAY, reach, VV)
        return
    value, age = (found[0] for found in interpolate_days(read, days, DAY, reach, VV))
    assert value.dtype == np.float32
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


def plain_series(values: np.ndarray, own: range, reach: int) -> np.ndarray:
    """Interpolate physical values (day, …) cell by cell."""
    found = np.full((len(own), *values.shape[1:]), np.nan, np.float32)
    for k, day in enumerate(own):
        for place in np.ndindex(values.shape[1:]):
            seen = [d for d in range(len(values)) if abs(d - day) <= reach and not np.isnan(values[(d, *place)])]
            before, after = (
                max((d for d in seen if d <= day), default=None),
                min((d for d in seen if d > day), default=None),
            )
            if before is None or after is None:
                if seen:
                    found[(k, *place)] = values[(before if after is None else after, *place)]
                continue
            first, second = values[(before, *place)], values[(after, *place)]
            share = np.float32(day - before) / (np.float32(day - before) + np.float32(after - day))
            found[(k, *place)] = (second - first) * share + first
    return found


@given(
    st.sampled_from(["vv", "lst", "pr"]),
    arrays(np.int16, (23, 2, 3), elements=st.one_of(packed, st.just(VV.nodata))),
    st.tuples(st.integers(0, 22), st.integers(1, 23)),
    st.integers(0, 30),
)
def test_a_series_is_interpolated_cell_by_cell_to_the_last_bit(
    name: str, table: np.ndarray, span: tuple[int, int], reach: int
) -> None:
    own = range(span[0], min(sum(span), 23))
    values = interpolate_series(table, own, reach, VARIABLES[name])
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, plain_series(VARIABLES[name].unpack(table), own, reach))


def test_no_more_is_read_than_is_needed() -> None:
    holes = np.full((4, 5), VV.pack(np.array(1.0)))
    holes[1:3, 2] = VV.nodata
    kept = holes.copy()
    read: list[int] = []

    def observation(day: date) -> np.ndarray:
        read.append((day - DAY).days)
        return holes if read[-1] == -1 else np.full((4, 5), VV.pack(np.array(9.0)))

    days = [DAY + timedelta(days=k) for k in (-9, -5, -1, 2, 6)]
    value, age = interpolate_days(observation, days, DAY, 10, VV)
    assert read == [-1, -5, 2]
    np.testing.assert_array_equal(holes, kept)
    np.testing.assert_allclose(value, np.where(holes == VV.nodata, 9, 1 + 8 / 3), rtol=1e-6)
    np.testing.assert_array_equal(age, np.where(holes == VV.nodata, 2, 1))


@given(
    arrays(np.float32, (2, 6, 7), elements=st.one_of(st.just(float("nan")), st.floats(0, 1, width=32))),
    arrays(bool, (6, 7)),
)
def test_gaps_are_filled_with_the_nearest_valid_cell_within_two(window: np.ndarray, some: np.ndarray) -> None:
    """Cells of the window that were not read have no values."""
    cells = np.where(some, window, np.nan)
    kept = np.flatnonzero(some)
    filled = window.reshape(2, -1)[:, kept]
    gap_filled = fill_gaps(filled, kept, (6, 7))
    expected = np.zeros(filled.shape, bool)
    for t, k in np.ndindex(filled.shape):
        r, c = divmod(int(kept[k]), 7)
        if not np.isnan(cells[t, r, c]):
            assert filled[t, k] == cells[t, r, c]
            continue
        near = [
            ((i - r) ** 2 + (j - c) ** 2, cells[t, i, j])
            for i in range(max(r - 2, 0), min(r + 3, 6))
            for j in range(max(c - 2, 0), min(c + 3, 7))
            if not np.isnan(cells[t, i, j])
        ]
        if not near:
            assert np.isnan(filled[t, k])
            continue
        expected[t, k] = True
        closest = min(distance for distance, _ in near)
        assert filled[t, k] in [value for distance, value in near if distance == closest]
    np.testing.assert_array_equal(gap_filled, expected)
