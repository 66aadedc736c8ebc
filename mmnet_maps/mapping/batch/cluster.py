"""Dask clusters: connect to one or start workers, and run work on it with retries."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmnet_maps import __version__
from mmnet_maps.errors import MMNetError, RequestError, TilesFailedError
from mmnet_maps.files import write_whole
from mmnet_maps.mapping.batch.forks import METHOD, start_preloading, stop_preloading
from mmnet_maps.mapping.batch.worker import LATE, refuse_threads, version_and_missing

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

_LEAST_MEMORY = 100_000_000

log = logging.getLogger("mmnet_maps")

_DASHBOARD = 8787
_CHECK_EVERY, _CONNECT, _CLOSE = 5, 8, 30  # seconds
_WITHOUT_WORKERS = 60
"""Seconds without a worker on this machine after which a run gives up."""

_LOST = "the Dask scheduler is gone; finished maps are kept: start it again and run the same command, which continues"


@contextmanager
def connect(scheduler: str | None, workers: int, memory_limit: int | None) -> Iterator[Client]:
    """Give a client of a scheduler, or of workers started on this machine, which end with it.

    Parameters
    ----------
    scheduler
        Address of a running scheduler; None to start workers.
    workers, memory_limit
        Number of workers to start, and the memory of each in bytes (None: an equal share).

    Raises
    ------
    RequestError
        No scheduler answers.
    TilesFailedError
        The scheduler is lost.
    """
    import dask
    from distributed import Client, utils

    if scheduler is not None:
        with _connected(scheduler) as client, client.as_current(), _lost_scheduler(client):
            _log_dashboard(client)
            yield client
        return
    start_preloading()
    utils._forkserver_preload_set = True  # else Dask would choose what is imported there, and import it here as well
    settings = {
        "distributed.worker.multiprocessing-method": METHOD,
        # Tasks that wait on a worker would be blamed for its death, so none does.
        "distributed.scheduler.allowed-failures": 0,
        "distributed.scheduler.worker-saturation": 1.0,
        # By default each process examines itself fifty to a hundred times a second.
        "distributed.admin.tick.interval": "500ms",
        "distributed.worker.profile.interval": "100ms",
        # Torch and caches keep memory, so a paused worker would never resume.
        **{f"distributed.worker.memory.{what}": False for what in ("target", "spill", "pause")},
    }
    with dask.config.set(settings):
        cluster = _local_cluster(workers, memory_limit)
        try:
            with Client(cluster) as client, _keep_workers(cluster, workers):
                _log_dashboard(client)
                yield client
        finally:
            _close(cluster)
            stop_preloading()


def _local_cluster(workers: int, memory_limit: int | None) -> LocalCluster:
    """Start workers on this machine."""
    from distributed import LocalCluster

    from mmnet_maps.mapping.batch.dashboard import offer_dashboard

    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=memory_limit or "auto",
        host="127.0.0.1",
        dashboard_address=f"127.0.0.1:{_dashboard_port()}",
        scheduler_kwargs={"dashboard": False},
        silence_logs=logging.CRITICAL,
    )
    offer_dashboard(cluster)
    return cluster


def _dashboard_port() -> int:
    """Return Dask's usual port if it is free, else 0 for any: Dask would try it, warn, and leave a socket open."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", _DASHBOARD))
        except OSError:
            return 0
    return _DASHBOARD


def _close(cluster: LocalCluster) -> None:
    """Close a cluster; a worker that is just starting may block that for ever or fail it, and the maps are done."""
    try:
        cluster.close(timeout=_CLOSE)
    except (TimeoutError, AssertionError, RuntimeError, OSError):
        log.debug("Dask did not close its workers", exc_info=True)


def _connected(scheduler: str) -> Client:
    """Return a client of a running scheduler.

    Raises
    ------
    RequestError
        None answers within some seconds, or something else does.
    """
    import dask
    from dask.utils import parse_timedelta
    from distributed import Client

    seconds = min(_CONNECT, parse_timedelta(dask.config.get("distributed.comm.timeouts.connect")))
    try:
        return Client(scheduler, timeout=seconds, set_as_default=False)  # a client that fails would stay the default
    except (OSError, ValueError, MemoryError, RuntimeError) as error:  # MemoryError: a server of another kind answers
        raise RequestError(
            f"no Dask scheduler answers at {scheduler} within {seconds:g} s; expected the address of a running one, "
            "such as tcp://host:8786: check that it runs, and that no firewall is between"
        ) from error


@contextmanager
def _keep_workers(cluster: LocalCluster, workers: int) -> Iterator[None]:
    """Restore workers that the nanny has given up on, because they died too often."""
    over = threading.Event()

    def restore() -> None:
        """Scale the cluster to its number of workers again and again."""
        while not over.wait(_CHECK_EVERY):
            cluster.scale(workers)

    watcher = threading.Thread(target=restore, name="mmnet-workers", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextmanager
def _lost_scheduler(client: Client) -> Iterator[None]:
    """Raise TilesFailedError when the scheduler is gone, whichever call notices."""
    try:
        yield
    except (CancelledError, OSError) as error:
        if client.status == "running":  # another error
            raise
        raise TilesFailedError(_LOST) from error


def _log_dashboard(client: Client) -> None:
    log.info("Dask dashboard: %s", client.dashboard_link)


def parse_memory(memory_limit: str | None) -> int | None:
    """Return a size such as ``3GB`` in bytes.

    Raises
    ------
    RequestError
        The text is not a size, or no worker can start in so little.
    """
    from dask.utils import parse_bytes

    if memory_limit is None:
        return None
    try:
        size = int(parse_bytes(memory_limit))
    except (ValueError, OverflowError) as error:
        raise RequestError(f"--memory-limit {memory_limit!r} is not a size; expected one such as 3GB") from error
    if size < _LEAST_MEMORY:
        raise RequestError(f"--memory-limit {memory_limit!r} is too little for a worker; expected 100MB or more")
    return size


def check_workers(client: Client, root: Path, inputs: Sequence[Path], time_limit: float | None = None) -> None:
    """Check that the workers of a scheduler started elsewhere see the same folders and run the same version.

    Parameters
    ----------
    client
        A client of the scheduler.
    root
        The output folder.
    inputs
        Files of the stack and of the models.
    time_limit
        Limit of a task, which ends the whole process of its worker; so no worker may run a second task beside it.

    Raises
    ------
    RequestError
        A worker does not.
    """
    if client.cluster is not None:
        return
    if not client.nthreads():
        log.info("the scheduler has no worker yet; waiting for one")
    client.wait_for_workers(1)
    for worker, threads in client.nthreads().items():
        refuse_threads(worker, threads, time_limit)
    token = root / f".{secrets.token_hex(8)}.partial"
    write_whole(token, "is this folder shared?")
    try:
        answers: dict[str, tuple[str, list[Path]]] = client.run(version_and_missing, [token, *inputs])
    finally:
        token.unlink(missing_ok=True)
    for worker, (version, missing) in answers.items():
        if version != __version__:
            raise RequestError(f"worker {worker} runs mmnet_maps {version}, this is {__version__}; install the same")
        if missing:
            where = root if missing[0] == token else missing[0]
            raise RequestError(f"worker {worker} does not see {where}; give a path that all machines share")


@dataclass(frozen=True, kw_only=True)
class Work:
    """A unit of work: its unique name, the function to call, and its size for the progress bar."""

    name: Hashable
    call: Callable[[], Any]
    size: int = 1


def run_all(
    client: Client,
    work: Sequence[Work],
    retries: int,
    done: Callable[[Work, Any, int], None],
    failed: Callable[[Work, str, int], None],
) -> None:
    """Run work in order, two units per worker at a time, and retry what fails.

    Parameters
    ----------
    client
        A client of the cluster.
    work
        The units.
    retries
        Number of retries of a unit.
    done, failed
        Called when a unit ends, with its result or the reason of its failure, and the number of tries.

    Raises
    ------
    MMNetError
        A worker raises one, which ends the run, or the scheduler is lost.
    """
    run = secrets.token_hex(8)
    waiting = [*reversed(work)]
    running: dict[Future[Any], Work] = {}
    tried: Counter[Hashable] = Counter()

    def submit() -> None:
        """Submit as many units as there is room for."""
        room = 2 * max(1, len(client.nthreads())) - len(running) if waiting else 0
        for _ in range(min(room, len(waiting))):
            one = waiting.pop()
            tried[one.name] += 1
            key = f"{run}-{one.name}-{tried[one.name]}"
            running[client.submit(one.call, key=key, pure=False)] = one

    try:
        submit()
        while running:
            for future in _ended(client, [*running]):
                one = running.pop(future)
                if future.status == "finished":
                    done(one, future.result(), tried[one.name])
                elif isinstance(error := future.exception(), MMNetError):
                    raise error
                elif tried[one.name] <= retries:
                    waiting.append(one)
                else:
                    failed(one, _reason(client, future, error), tried[one.name])
            submit()
    finally:
        with suppress(OSError):  # the scheduler may be gone
            client.cancel([*running], force=True)


def _ended(client: Client, running: Sequence[Future[Any]]) -> list[Future[Any]]:
    """Wait until one or more futures have ended, and return them.

    Raises
    ------
    TilesFailedError
        The scheduler is lost, or this machine has had no worker for long. Elsewhere new workers may join.
    """
    from distributed import wait

    since = time.monotonic()
    while True:
        try:
            return list(wait(running, timeout=_CHECK_EVERY, return_when="FIRST_COMPLETED").done)
        except CancelledError:
            raise TilesFailedError(_LOST) from None
        except TimeoutError:
            if client.cluster is None or client.nthreads():
                since = time.monotonic()
            elif time.monotonic() - since > _WITHOUT_WORKERS:
                raise TilesFailedError(
                    "the workers died again and again, and none is left; finished maps are kept: run the same "
                    "command, which continues"
                ) from None


def _reason(client: Client, future: Future[Any], error: BaseException | None) -> str:
    """Return the reason of a failure, one line."""
    from distributed import KilledWorker

    if not isinstance(error, KilledWorker):
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    late = [event for _, event in client.get_events(LATE) or () if event["key"] == str(future.key)]
    if late:
        return f"it took longer than {late[-1]['limit']:g} s, the limit for one task"
    return "its worker ended while it was made: over its memory limit (--memory-limit), or killed"
