"""Make items in other threads while earlier ones are in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], stop: Event | None = None) -> Generator[T]:
    """Yield the same items, each made in another thread while the one before is in use.

    If the iteration is left early, `stop` is set, so that the next item need not be waited for.
    """
    end = object()
    with ThreadPoolExecutor(1) as pool:
        try:
            waiting = pool.submit(next, items, end)
            while (item := waiting.result()) is not end:
                waiting = pool.submit(next, items, end)
                yield item  # type: ignore[misc]
        finally:
            if stop is not None:
                stop.set()


def abreast(sources: Iterable[Iterator[T]], count: int) -> Generator[T]:
    """Yield the items of several iterators, one iterator after the other, each item as soon as its turn comes.

    The next item of `count` iterators is made at once, in as many threads, and none beyond it, so that no more than
    that many items wait. With one, each is made when it is needed.
    """
    if count == 1:
        for source in sources:
            yield from source
        return
    end, following = object(), iter(sources)
    waiting: deque[tuple[Iterator[T], Future[Any]]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            while True:
                for source in islice(following, count - len(waiting)):
                    waiting.append((source, pool.submit(next, source, end)))
                if not waiting:
                    return
                source, future = waiting.popleft()
                if (item := future.result()) is not end:
                    waiting.appendleft((source, pool.submit(next, source, end)))
                    yield item
        finally:
            for _, future in waiting:
                future.cancel()
