"""Items made in other threads."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Lock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnet_maps.errors import InputError
from mmnet_maps.mapping.prefetch import abreast, ahead


def test_ahead_keeps_order_works_ahead_by_one_and_passes_errors_on() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for k in range(5):
            made.append(k)
            yield k
        raise InputError("broken")

    taken = []

    def take() -> None:
        for item in ahead(items()):
            taken.append(item)
            assert len(made) <= item + 2

    with pytest.raises(InputError, match="broken"):
        take()
    assert taken == made == [0, 1, 2, 3, 4]
    closed = ahead(items())
    assert next(closed) == 0
    closed.close()
    assert len(made) <= 7


def test_leaving_early_does_not_wait_for_what_is_under_way() -> None:
    stop, seen = Event(), []

    def items() -> Iterator[int]:
        yield 0
        seen.append(stop.wait(30))
        yield 1

    left = ahead(items(), stop)
    assert next(left) == 0
    left.close()
    assert seen == [True]


@given(st.lists(st.integers(0, 3), max_size=8), st.integers(1, 4))
def test_abreast_keeps_order_and_bounds_what_waits(lengths: list[int], count: int) -> None:
    lock, made, used = Lock(), 0, 0

    def source(number: int, length: int) -> Iterator[tuple[int, int]]:
        nonlocal made
        for k in range(length):
            with lock:
                made += 1
                assert made - used <= count + 1  # those that wait, and the one in use
            yield number, k

    found = []
    for item in abreast((source(*pair) for pair in enumerate(lengths)), count):
        found.append(item)
        with lock:
            used = len(found)
    assert found == [(number, k) for number, length in enumerate(lengths) for k in range(length)]


@pytest.mark.parametrize("count", [1, 3])
def test_abreast_passes_an_error_on_in_its_turn_and_begins_nothing_more(count: int) -> None:
    begun: list[int] = []

    def source(number: int) -> Iterator[int]:
        begun.append(number)
        if number == 2:
            raise InputError("broken")
        yield number

    taken: list[int] = []
    with pytest.raises(InputError, match="broken"):
        taken.extend(abreast(map(source, range(100)), count))
    assert taken == [0, 1]
    assert len(begun) <= 2 + count


def test_leaving_abreast_early_ends_its_threads() -> None:
    begun: list[int] = []

    def source(number: int) -> Iterator[int]:
        begun.append(number)
        yield number

    left = abreast(map(source, range(100)), 3)
    assert next(left) == 0
    left.close()
    assert len(begun) <= 4
