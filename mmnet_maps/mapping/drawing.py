"""A process that draws pictures: it imports matplotlib, a second of work, while maps are computed."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from mmnet_maps.errors import MMNetError
from mmnet_maps.files import DRIVER_ERRORS
from mmnet_maps.product.picture import draw
from mmnet_maps.resources import collect_rarely, cores

Draw = Callable[..., None]
"""Draws a picture as `picture.draw` does."""


@contextmanager
def drawing(apart: bool) -> Iterator[Draw]:
    """Yield a function that draws: `picture.draw`, or one that has another process call it.

    Parameters
    ----------
    apart
        Whether to start the process. Like every process that is spawned, it imports the main module of this one.
    """
    if not apart or cores() == 1:
        yield draw
        return
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,), daemon=True)
    ours = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C ends this process, and thereby that one
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, ours)
    there.close()

    def stop() -> None:
        process.terminate()
        process.join()

    def draw_apart(*args: Any, **options: Any) -> None:
        """Draw in the other process; in this one if that was killed."""
        try:
            with ExitStack() as interrupted:
                interrupted.callback(stop)  # before the files that it writes are removed
                here.send((args, options))
                error = here.recv()
                interrupted.pop_all()
        except (EOFError, OSError):  # the process was killed
            draw(*args, **options)
            return
        if error is not None:
            raise error

    try:
        yield draw_apart
    finally:
        stop()
        here.close()


def serve(requests: Connection) -> None:
    """Draw what comes through a pipe and answer with the error or None, until the other end is closed."""
    from mmnet_maps.plots.canvas import png, sheet

    collect_rarely()
    png(sheet(1.0, "", ""))  # imports what a figure needs
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            args, options = requests.recv()
            try:
                draw(*args, **options)
            except (MMNetError, *DRIVER_ERRORS) as error:
                requests.send(error)
            else:
                requests.send(None)
