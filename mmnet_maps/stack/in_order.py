"""Work in several threads with results in order, which ends soon when a part of it fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    pool: ThreadPoolExecutor, items: Iterable[Item], function: Callable[[Item], Result], *, ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Apply a function in the threads of a pool and yield the results in order, at most `ahead` computed in advance.

    If one item fails, the generator does not wait for others: it yields those already done, then raises the error.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()

    def results(left: int) -> Iterator[tuple[Item, Result]]:
        """Yield results until `left` items are waiting."""
        while len(waiting) > left:
            if failed := _first_done_or_failed([future for _, future in waiting]):
                yield from ((item, one.result()) for item, one in waiting if _succeeded(one))
                failed.result()
            yield waiting[0][0], waiting[0][1].result()
            waiting.popleft()

    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            yield from results(ahead)
        yield from results(0)
    finally:
        for _, future in waiting:
            future.cancel()


def _first_done_or_failed(futures: Sequence[Future[Result]]) -> Future[Result] | None:
    """Wait until the first is done or any has failed; return the first that has failed."""
    while True:
        failed = next((one for one in futures if one.done() and not _succeeded(one)), None)
        if failed or futures[0].done():
            return failed
        wait([future for future in futures if not future.done()], return_when=FIRST_COMPLETED)


def _succeeded(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
