"""Many tiles on many days on a Dask cluster: run, resume, report.

One task is one tile and the days that share its series. Whatever decides what is left to do lies beside the products: a
tile and day is done when its STAC item carries the fingerprint that it would get now. So nothing needs to be remembered
between runs, and the same command continues after any interruption.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmnet_maps.batch_plan import Batch, cores, default_workers
from mmnet_maps.batch_report import Outcome, Report, write_report
from mmnet_maps.batch_worker import LATE, Task, finish_day, run_task
from mmnet_maps.catalog import check_catalog, write_catalog
from mmnet_maps.errors import MMNetError, OutputError, RequestError, TilesFailedError
from mmnet_maps.job import describe
from mmnet_maps.style import write_styles

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger("mmnet_maps")


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
        Which is also written to ``ROOT/reports``; `Report.failed` tells what could not be made.

    Raises
    ------
    OutputError
        When another run is writing to the same folder, or something cannot be written.
    TilesFailedError
        When the scheduler is lost.
    """
    count = workers or default_workers()
    threads = batch.jobs[0].threads or (max(1, cores() // count) if scheduler is None else None)
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
        try:
            with _cluster(scheduler, count, memory_limit) as client:
                _run(client, tasks_of(batch, threads, time_limit), report, retries, quiet)
                _finish_days(client, batch, report)
            report.end("done")
        except KeyboardInterrupt:
            report.end("interrupted")
            raise
        except MMNetError as error:
            report.end(f"stopped: {error}")
            raise
        finally:
            with suppress(OutputError):  # it would hide what went wrong
                write_report(report)
    return report


def _prepare_store(batch: Batch) -> None:
    from mmnet_maps.run_store import RunStore, create_store

    if batch.store is None:
        return
    layers = batch.jobs[0].layers
    if not batch.store.exists():
        create_store(batch.store, grid=batch.grid, days=batch.days, layers=layers, tags=describe(batch.jobs[0]))
    elif not RunStore(batch.store).matches(batch.grid, batch.days, layers):
        raise RequestError(
            f"{batch.store} was made for other tiles or layers; give this run another --name, or delete the store"
        )


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
        note.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": started}), "utf-8")
        yield
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
def _cluster(scheduler: str | None, workers: int, memory_limit: str | None) -> Iterator[Client]:
    """A client of the given scheduler, or of workers started here that end with it."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=20)
        except (OSError, ValueError) as error:
            raise RequestError(
                f"no Dask scheduler answers at {scheduler}; expected an address such as tcp://host:8786"
            ) from error
        with client:
            _say_where(client)
            yield client
        return
    # No task waits on a worker, where it would be counted among those that made it die.
    settings = {"distributed.scheduler.allowed-failures": 0, "distributed.scheduler.worker-saturation": 1.0}
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=memory_limit or "auto",
            host="127.0.0.1",
            dashboard_address=f"127.0.0.1:{_free_port()}",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        _say_where(client)
        yield client


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


def _run(client: Client, tasks: Sequence[Task], report: Report, retries: int, quiet: bool) -> None:
    """Run tasks, a few more at a time than there are workers; what may pass is tried again."""
    from distributed import as_completed
    from tqdm import tqdm

    waiting: list[Task] = list(reversed(tasks))
    running: dict[str, Task] = {}
    attempts: Counter[tuple[str, date]] = Counter()
    with tqdm(total=sum(len(task.days) for task in tasks), unit="map", desc=report.name, disable=quiet) as bar:
        done = as_completed()

        def submit() -> None:
            while waiting and len(running) < 2 * max(1, len(client.nthreads())):
                task = waiting.pop()
                attempts[task.tile, task.days[0]] += 1
                key = f"{task.tile}-{task.days[0]}-{task.days[-1]}-{attempts[task.tile, task.days[0]]}-{id(report)}"
                future = client.submit(run_task, task, key=key, pure=False)
                running[key] = task
                done.add(future)

        try:
            submit()
            for future in done:
                task = running.pop(str(future.key))
                outcomes = _result(client, future, task)
                tried = attempts[task.tile, task.days[0]]
                if outcomes is None and tried <= retries:
                    waiting.append(task)
                else:
                    outcomes = outcomes or _failed(client, future, task, tried)
                    report.add(outcomes, tried)
                    bar.update(len(outcomes))
                    if report.failed:
                        bar.set_postfix(failed=len(report.failed), refresh=False)
                submit()
        finally:
            client.cancel([*done.futures], force=True)


def tasks_of(batch: Batch, threads: int | None = None, limit: float | None = None) -> list[Task]:
    """The run's tasks in a stable order: the first days of all tiles, then the next.

    `threads` is how many cores each may use, `limit` how many seconds it may take; None for as many as there are.
    """
    first = batch.jobs[0]
    models = tuple(checkpoint.fingerprint for checkpoint in first.engine.checkpoints)
    return [
        Task(job=job, days=days, models=models, store=batch.store, place=batch.places[job.area.name], limit=limit)
        for days in first.spells(batch.days)
        for job in (replace(job, threads=threads) for job in batch.jobs)
    ]


def _result(client: Client, future: Future[Any], task: Task) -> list[Outcome] | None:
    """What became of a task; None where the fault may pass.

    Raises
    ------
    MMNetError
        Where it makes no sense to go on.
    """
    if future.status == "finished":
        return list(future.result())
    if future.status in ("cancelled", "lost"):
        raise TilesFailedError(
            "the Dask scheduler is gone; what was finished is kept: start it again and run the same command"
        )
    error = future.exception()
    if isinstance(error, MMNetError):
        raise error
    return None


def _failed(client: Client, future: Future[Any], task: Task, tried: int) -> list[Outcome]:
    text = f"{_why(client, future.exception(), task)}; tried {tried} time{'s' * (tried > 1)}"
    return [Outcome(tile=task.tile, day=day, state="failed", error=text) for day in task.days]


def _why(client: Client, error: BaseException | None, task: Task) -> str:
    from distributed import KilledWorker

    if not isinstance(error, KilledWorker):
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    late = [event for _, event in client.get_events(LATE) or () if event["tile"] == task.tile]
    if late:
        return f"it took longer than {task.limit:g} s, the limit for one task"
    return "its worker ended while it was made: out of memory, or killed"


def _finish_days(client: Client, batch: Batch, report: Report) -> None:
    """What is made of all tiles of a day together, and the catalogue."""
    days = [day for day in batch.days if (batch.root / f"{day:%Y%m%d}").is_dir()]
    finish = partial(finish_day, batch.root, synthetic=batch.synthetic, stack=batch.jobs[0].stack)
    for day, future in [(day, client.submit(finish, day, pure=False)) for day in days]:
        report.closure[day] = future.result()
    write_catalog(batch.root, batch.days)
    write_styles(batch.root)
