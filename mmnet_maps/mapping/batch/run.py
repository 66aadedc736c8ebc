"""Many tiles on many days on a Dask cluster: run, resume, report.

One task is one tile and the days that share its series. Whatever decides what is left to do lies beside the products: a
tile and day is done when its STAC item carries the fingerprint that it would get now. So nothing needs to be remembered
between runs, and the same command continues after any interruption.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmnet_maps import __version__
from mmnet_maps.errors import MMNetError, OutputError, RequestError, TilesFailedError
from mmnet_maps.files import write_whole
from mmnet_maps.mapping.batch.plan import Batch, cores, default_workers
from mmnet_maps.mapping.batch.report import Outcome, Report, write_report
from mmnet_maps.mapping.batch.worker import LATE, Task, finish_day, run_task, sees
from mmnet_maps.mapping.request import describe
from mmnet_maps.product.qgis import write_styles
from mmnet_maps.product.stac_catalog import check_catalog, write_catalog

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

log = logging.getLogger("mmnet_maps")

_LOOK_EVERY, _CLOSE = 5, 30  # seconds
_ALONE = 60
"""Seconds without a worker on this machine after which nothing is waited for any more."""

_LOST = (
    "the Dask scheduler is gone; what was finished is kept: start it again and run the same command, which continues"
)


def run_batch(
    batch: Batch,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    memory_limit: str | None = None,
    retries: int = 2,
    time_limit: float | None = None,
    quiet: bool = False,
) -> Report:
    """Make all that is not there yet, on a Dask cluster.

    Parameters
    ----------
    batch
        From `plan_batch`.
    scheduler
        Address of a running Dask scheduler, such as ``tcp://host:8786``, whose workers see stack, model and output
        under the same paths; without one, workers are started on this machine.
    workers
        How many are started (default: one a core, fewer where there is not 2 GiB of memory for each).
    memory_limit
        Memory of each, such as ``"3GB"``; a worker that takes more is replaced (default: an equal share).
    retries
        How often a task is tried again after a fault that may pass.
    time_limit
        Seconds for one task, a tile and the days mapped with it; no limit by default.
    quiet
        No progress bar.

    Returns
    -------
    Report
        Which is also written to ``ROOT/reports``, first when the run begins; `Report.failed` tells what could not be
        made.

    Raises
    ------
    RequestError
        When an option is wrong, or the workers of a scheduler do not see what this process sees.
    OutputError
        When another run is writing to the same folder, or something cannot be written.
    TilesFailedError
        When the scheduler is lost.
    """
    if scheduler is not None and (workers or memory_limit):
        raise RequestError("with --scheduler workers are started elsewhere; leave --workers and --memory-limit out")
    day_batches = batch.jobs[0].day_batches(batch.days)
    count = min(workers or default_workers(), len(day_batches) * len(batch.jobs))
    threads = batch.jobs[0].run.threads or (max(1, cores() // count) if scheduler is None else None)
    limit = _bytes(memory_limit)
    with _alone_in(batch.root):
        check_catalog(batch.root, batch.days)
        _prepare_store(batch)
        report = Report.begin(
            name=batch.name,
            root=batch.root,
            days=batch.days,
            tiles=tuple(batch.places),
            about={**describe(batch.jobs[0]), "stack": str(batch.jobs[0].stack)},
        )
        write_report(report)  # so that its plan is known while it runs, and if it is killed
        with _reported(report), _cluster(scheduler, count, limit) as client:
            if scheduler is not None:
                _look_around(client, batch)
            _map_all(client, tasks_of(batch, threads, time_limit), report, retries, quiet)
            _finish_days(client, batch, report, retries)
            write_catalog(batch.root, batch.days)
            write_styles(batch.root)
    return report


def tasks_of(batch: Batch, threads: int | None = None, limit: float | None = None) -> list[Task]:
    """The run's tasks in a stable order: the first days of all tiles, then the next.

    `threads` is how many cores each may use, `limit` how many seconds it may take; None for as many as there are.
    """
    first = batch.jobs[0]
    return [
        Task(job=job, days=days, store=batch.store, place=batch.places[job.area.name], limit=limit)
        for days in first.day_batches(batch.days)
        for job in (replace(job, run=replace(job.run, threads=threads)) for job in batch.jobs)
    ]


def _prepare_store(batch: Batch) -> None:
    """Make the run's store; one with other attributes, as of another model, is ours and made anew."""
    from mmnet_maps.product.zarr_store import RunStore, create_store

    if batch.store is None:
        return
    layers, tags = batch.jobs[0].layers, describe(batch.jobs[0])
    if batch.store.exists():
        found = RunStore(batch.store)
        if not found.matches(batch.grid, batch.days, layers):
            raise RequestError(
                f"{batch.store} was made for other tiles, days or layers; give this run another --name, or delete it"
            )
        if found.has(tags):
            return
        try:
            batch.store.rename(batch.store.with_name(f".{batch.store.name}.old.partial"))  # create_store removes it
        except OSError as error:
            raise OutputError(f"cannot replace {batch.store} ({error.strerror}); delete it by hand") from error
    create_store(batch.store, grid=batch.grid, days=batch.days, layers=layers, tags=tags)


@contextmanager
def _reported(report: Report) -> Iterator[None]:
    """Write the report at the end, however it comes; a fault of its own does not hide what went wrong before."""
    try:
        yield
    except BaseException as error:
        report.end("interrupted" if isinstance(error, KeyboardInterrupt) else f"stopped: {error}")
        with suppress(OutputError):
            write_report(report)
        raise
    report.end("done")
    write_report(report)


@contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    """Hold the lock of an output folder; the system drops it when the process ends, however it ends."""
    from filelock import FileLock, Timeout

    held, note = FileLock(root / ".mmnet-batch.lock"), root / ".mmnet-batch.json"
    try:
        root.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except Timeout:
        raise OutputError(
            f"another batch is writing to {root} ({_running(note)}); wait for it to end or give another --out"
        ) from None
    except OSError as error:
        raise OutputError(f"cannot write to {root} ({error.strerror}); give another --out") from error
    try:
        if note.exists():
            log.warning("an earlier batch in %s ended without finishing (%s); it is continued", root, _running(note))
        started = datetime.now(UTC).isoformat("T", "seconds")
        write_whole(note, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": started}))
        yield
        with suppress(OSError):
            note.unlink(missing_ok=True)
    finally:
        held.release()


def _running(note: Path) -> str:
    try:
        about = json.loads(note.read_text(encoding="utf-8"))
        return f"process {about['pid']} on {about['host']} since {about['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it left no note of itself"


@contextmanager
def _cluster(scheduler: str | None, workers: int, memory_limit: int | None) -> Iterator[Client]:
    """A client of the given scheduler, or of workers started here that end with it."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler)
        except (OSError, ValueError) as error:
            raise RequestError(
                f"no Dask scheduler answers at {scheduler}; expected an address such as tcp://host:8786"
            ) from error
        with client, _lost_scheduler(client):
            _say_where(client)
            yield client
        return
    settings = {
        # No task waits on a worker, where it would be counted among those that made it die.
        "distributed.scheduler.allowed-failures": 0,
        "distributed.scheduler.worker-saturation": 1.0,
        # Torch and caches keep memory: a worker that is paused for it would never go on.
        **{f"distributed.worker.memory.{what}": False for what in ("target", "spill", "pause")},
    }
    with dask.config.set(settings):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=memory_limit or "auto",
            host="127.0.0.1",
            dashboard_address=f"127.0.0.1:{_free_port()}",
            silence_logs=logging.CRITICAL,
        )
        try:
            with Client(cluster) as client, _kept_at(cluster, workers):
                _say_where(client)
                yield client
        finally:
            with suppress(TimeoutError):  # a worker that died while it started may block it for ever
                cluster.close(timeout=_CLOSE)


@contextmanager
def _kept_at(cluster: LocalCluster, workers: int) -> Iterator[None]:
    """Replace workers that are lost for good: Dask starts one again that dies, but not one that dies too often."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_EVERY):
            cluster.scale(workers)

    watcher = threading.Thread(target=look, name="mmnet-workers", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextmanager
def _lost_scheduler(client: Client) -> Iterator[None]:
    """Say plainly that the scheduler is gone, whichever call finds out."""
    try:
        yield
    except (CancelledError, OSError) as error:
        if client.status == "running":  # it is something else
            raise
        raise TilesFailedError(_LOST) from error


def _say_where(client: Client) -> None:
    log.info("Dask dashboard: %s", client.dashboard_link)


def _free_port() -> int:
    """8787, where people look for Dask's dashboard, or any other where that one is taken."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 8787))
        except OSError:
            return 0
    return 8787


def _bytes(memory_limit: str | None) -> int | None:
    from dask.utils import parse_bytes

    if memory_limit is None:
        return None
    try:
        return int(parse_bytes(memory_limit))
    except ValueError as error:
        raise RequestError(f"--memory-limit {memory_limit!r} is no size; expected one such as 3GB") from error


def _look_around(client: Client, batch: Batch) -> None:
    """Make sure that the workers of a foreign scheduler see the same files and run the same version."""
    if not client.nthreads():
        log.info("the scheduler has no worker yet; waiting for one")
    client.wait_for_workers(1)
    token = batch.root / f".{secrets.token_hex(8)}.partial"
    write_whole(token, "is this folder shared?")
    try:
        paths = [token, batch.jobs[0].stack / "zarr.json", *(model / "model.json" for model in batch.jobs[0].models)]
        answers: dict[str, tuple[str, list[Path]]] = client.run(sees, paths)
    finally:
        token.unlink(missing_ok=True)
    for worker, (version, missing) in answers.items():
        if version != __version__:
            raise RequestError(f"worker {worker} runs mmnet_maps {version}, this is {__version__}; install the same")
        if missing:
            where = batch.root if missing[0] == token else missing[0]
            raise RequestError(f"worker {worker} does not see {where}; give a path that all machines share")


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Something for a worker: what tells it apart, the function to call, and what the bar counts."""

    name: Hashable
    call: Callable[[], Any]
    size: int = 1


def _map_all(client: Client, tasks: Sequence[Task], report: Report, retries: int, quiet: bool) -> None:
    """Run all tasks; what cannot be made is reported, and the rest goes on."""
    from tqdm import tqdm

    by_name = {(task.tile, task.days): task for task in tasks}
    work = [_Work(name=name, call=partial(run_task, task), size=len(task.days)) for name, task in by_name.items()]
    with tqdm(total=sum(one.size for one in work), unit="map", desc=report.name, disable=quiet) as bar:

        def done(one: _Work, outcomes: list[Outcome], tried: int) -> None:
            report.add(outcomes, tried)
            bar.update(one.size)
            if report.failures:
                bar.set_postfix(failed=report.failures, refresh=False)

        def failed(one: _Work, why: str, tried: int) -> None:
            task = by_name[one.name]  # type: ignore[index]
            text = f"{why}; tried {tried} time{'s' * (tried > 1)}"
            done(one, [task.failure(day, text) for day in task.days], tried)

        _run(client, work, retries, done, failed)


def _finish_days(client: Client, batch: Batch, report: Report, retries: int) -> None:
    """What is made of all tiles of a day together."""
    finish = partial(finish_day, batch.root, synthetic=batch.synthetic, stack=batch.jobs[0].stack)
    days = [day for day in batch.days if (batch.root / f"{day:%Y%m%d}").is_dir()]

    def done(one: _Work, figures: dict[str, Any], tried: int) -> None:
        report.closure[date.fromisoformat(str(one.name))] = figures

    def failed(one: _Work, why: str, tried: int) -> None:
        done(one, {"error": why}, tried)

    _run(client, [_Work(name=str(day), call=partial(finish, day)) for day in days], retries, done, failed)


def _run(
    client: Client,
    work: Sequence[_Work],
    retries: int,
    done: Callable[[_Work, Any, int], None],
    failed: Callable[[_Work, str, int], None],
) -> None:
    """Run work in order, a few more at a time than there are workers; what may pass is tried again.

    Raises
    ------
    MMNetError
        What a worker raises of these: it makes no sense to go on. Without the scheduler as well.
    """
    run = secrets.token_hex(8)
    waiting = [*reversed(work)]
    running: dict[Future[Any], _Work] = {}
    tried: Counter[Hashable] = Counter()

    def submit() -> None:
        """Hand out what there is room for."""
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
                    failed(one, _why(client, future, error), tried[one.name])
            submit()
    finally:
        with suppress(OSError):  # the scheduler may be gone
            client.cancel([*running], force=True)


def _ended(client: Client, running: Sequence[Future[Any]]) -> list[Future[Any]]:
    """Wait until one or more have ended.

    Raises
    ------
    TilesFailedError
        The scheduler is lost, or all workers of this machine have been gone for long. Elsewhere new ones may come.
    """
    from distributed import wait

    since = time.monotonic()
    while True:
        try:
            return list(wait(running, timeout=_LOOK_EVERY, return_when="FIRST_COMPLETED").done)
        except CancelledError:
            raise TilesFailedError(_LOST) from None
        except TimeoutError:
            if client.cluster is None or client.nthreads():
                since = time.monotonic()
            elif time.monotonic() - since > _ALONE:
                raise TilesFailedError(
                    "the workers died again and again, and none is left; what was finished is kept: run the same "
                    "command, which continues"
                ) from None


def _why(client: Client, future: Future[Any], error: BaseException | None) -> str:
    from distributed import KilledWorker

    if not isinstance(error, KilledWorker):
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    late = [event for _, event in client.get_events(LATE) or () if event["key"] == str(future.key)]
    if late:
        return f"it took longer than {late[-1]['limit']:g} s, the limit for one task"
    return "its worker ended while it was made: over its memory limit (--memory-limit), or killed"
