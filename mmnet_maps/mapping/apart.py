"""A process beside this one that computes: it imports torch while this one opens and reads."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from threading import Event
from typing import TYPE_CHECKING, Any

from mmnet_maps.errors import MMNetError
from mmnet_maps.resources import cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmnet_maps.mapping.request import Request
    from mmnet_maps.model.prediction import Prediction

_SCRIPT = """
from mmnet_maps.resources import collect_rarely
collect_rarely()  # before anything is imported
from mmnet_maps.mapping.served import serve
serve()
"""


class EndedError(MMNetError):
    """The other process was killed, or ended with an error that it has printed."""


class Other:
    """The other process, as seen from here; `served` is what runs there."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._pipe = Connection(ours.detach())
            command = [sys.executable, "-P", "-c", _SCRIPT, str(theirs.fileno())]
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C ends this process, which ends it
            try:
                self._process = subprocess.Popen(  # noqa: S603
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
                )
            finally:
                signal.signal(signal.SIGINT, handler)

    def call(self, name: str, *args: Any, stop: Event | None = None, **options: Any) -> Any:
        """Return what the function of this name in `served` returns; its errors are raised here.

        When the wait for the answer is interrupted, the process is ended before anything else happens.

        Raises
        ------
        StoppedError
            `stop` was set.
        EndedError
            There is no such process any more.
        """
        try:
            with ExitStack() as interrupted:
                interrupted.callback(self.end)
                self._pipe.send((name, args, options))
                while not self._pipe.poll(0.1):
                    if stop is not None and stop.is_set():
                        from mmnet_maps.model.prediction import StoppedError

                        raise StoppedError
                error, found = self._pipe.recv()
                interrupted.pop_all()
        except (EOFError, OSError):
            raise EndedError(
                "the process that computes the map has ended, by an error shown above or for want of memory; "
                "finished maps are kept: free some memory and run again"
            ) from None
        if error is not None:
            raise error
        return found

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()


class EngineApart:
    """The steps of `engine.Engine` that a map takes, in the other process."""

    def __init__(self, other: Other, request: Request) -> None:
        recipe, run = request.recipe, request.run
        self._call = other.call
        self._loading = (request.models, run.device, recipe.precision, recipe.draws, run.threads)

    def encode_days(
        self, series: Mapping[str, NDArray[np.float32]], starts: Sequence[int] = (0,), stop: Event | None = None
    ) -> Sequence[int]:
        """Have the terms of each map computed, which stay there; returns the maps' numbers."""
        self._call("encode_days", self._loading, series, starts, stop=stop)
        return range(len(starts))

    def predict(
        self,
        columns: Mapping[str, NDArray[Any]],
        terms: int,
        series_id: NDArray[np.integer],
        *,
        keep_members: bool = False,
        stop: Event | None = None,
    ) -> Prediction:
        """Estimate the target of each pixel, as `engine.Engine.predict`."""
        found: Prediction = self._call("predict", columns, terms, series_id, keep_members=keep_members, stop=stop)
        return found


@contextmanager
def other_process() -> Iterator[Other | None]:
    """Start a process that computes, and end it; None where there is but one core, and on Windows."""
    if cores() == 1 or os.name != "posix":
        yield None
        return
    other = Other()
    try:
        yield other
    finally:
        other.end()
