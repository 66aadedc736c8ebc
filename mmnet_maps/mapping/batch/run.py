"""Many tiles on many days on a Dask cluster: run, resume, report.

One task is one tile and a batch of days that share its series. A tile and day is done when its STAC item carries the
fingerprint that it would get now. So the output folder itself decides what is left to do, nothing is remembered between
runs, and the same command continues after any interruption.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmnet_maps.errors import OutputError, RequestError
from mmnet_maps.files import file_lock, write_whole
from mmnet_maps.mapping.batch.cluster import Work, check_workers, connect, parse_memory, run_all
from mmnet_maps.mapping.batch.plan import Batch, default_workers
from mmnet_maps.mapping.batch.report import Outcome, Report, item_path
from mmnet_maps.mapping.batch.worker import Task, finish_day, run_task
from mmnet_maps.mapping.kept_models import keep_models
from mmnet_maps.mapping.request import describe
from mmnet_maps.product.day_writer import refuse_other_area
from mmnet_maps.product.qgis import write_styles
from mmnet_maps.product.stac_catalog import check_catalog, write_catalog
from mmnet_maps.product.stac_index import check_index, write_index
from mmnet_maps.resources import cores

if TYPE_CHECKING:
    from distributed import Client

    from mmnet_maps.mapping.request import Request
    from mmnet_maps.mapping.smap_consistency import Sums

log = logging.getLogger("mmnet_maps")

DaySums = dict[date, dict[str, tuple[str, "Sums"]]]
"""By day and tile, the fingerprint of a map and its sums by cell of SMAP."""

_SUMS = 50_000  # maps of a run whose sums are kept; the later ones are read from their files


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
    """Make all maps of a batch that are missing or outdated, on a Dask cluster.

    Parameters
    ----------
    batch
        See `plan_batch`.
    scheduler
        Address of a running Dask scheduler, such as ``tcp://host:8786``, whose workers see stack, model and output
        under the same paths; without one, workers are started on this machine.
    workers
        Number of workers to start (default: one per core, fewer where there is less than 2 GiB of memory for each).
    memory_limit
        Memory of a worker, such as ``"3GB"``; a worker that exceeds it is replaced (default: an equal share).
    retries
        Number of retries of a task after a transient error.
    time_limit
        Seconds for one task, a tile and the days mapped together; no limit by default.
    quiet
        Hide the progress bar.

    Returns
    -------
    Report
        Also written to ``ROOT/reports`` at the beginning and at the end; `Report.failed` lists the failures.

    Raises
    ------
    RequestError, OutputError, TilesFailedError
        An option is wrong; workers see other files or run another version; another run is writing to the same folder;
        the scheduler is lost.
    """
    if scheduler is not None and (workers or memory_limit):
        raise RequestError("with --scheduler workers are started elsewhere; leave --workers and --memory-limit out")
    _check_time_limit(time_limit)
    _refuse_other_areas(batch)
    first = batch.requests[0]
    count = min(workers or default_workers(), len(first.day_batches(batch.days)) * len(batch.requests))
    threads = first.run.threads or (max(1, cores() // count) if scheduler is None else None)
    limit = parse_memory(memory_limit)
    with _folder_lock(batch.root):
        check_catalog(batch.root, batch.days)
        check_index(batch.root, batch.days)
        _prepare_store(batch)
        _import_meanwhile("stac_geoparquet.arrow")  # which writes the table of items, last
        with _report(batch) as report, connect(scheduler, count, limit) as client:
            check_workers(client, batch.root, _input_files(first), time_limit)
            sums = _map_all(client, tasks_of(batch, threads, time_limit), report, retries, quiet)
            _finish_days(client, batch, report, sums, retries)
            _write_overviews(batch)
    return report


def _import_meanwhile(module: str) -> None:
    """Import in a thread, here while workers start: a third of a second less at the end."""
    threading.Thread(target=import_module, args=(module,), daemon=True).start()


def _write_overviews(batch: Batch) -> None:
    """Write what is of all maps together: the models that made them, catalogues, tables of items, and styles."""
    keep_models(batch.root, batch.requests[0].saved)
    write_catalog(batch.root, batch.days)
    write_index(batch.root, batch.days)
    write_styles(batch.root)


def _refuse_other_areas(batch: Batch) -> None:
    """Refuse a folder with maps of another area, before it is marked as being written to and workers are started."""
    for request in batch.requests:
        for day in batch.days:
            path = item_path(batch.root, request.area.name, day, request.synthetic)
            refuse_other_area(path, request.recipe.place_id)


def _check_time_limit(seconds: float | None) -> None:
    """Raise RequestError unless a timer can wait so long."""
    if seconds is not None and not 0 < seconds <= threading.TIMEOUT_MAX:
        raise RequestError(f"--time-limit {seconds} is out of bounds; expected seconds, such as 600")


def _report(batch: Batch) -> Report:
    first = batch.requests[0]
    about = {**describe(first), "stack": str(first.stack)}
    return Report(name=batch.name, root=batch.root, days=batch.days, tiles=tuple(batch.places), about=about)


def _input_files(request: Request) -> list[Path]:
    climatology = [] if request.climatology is None else [request.climatology / "zarr.json"]
    return [request.stack / "zarr.json", *(model / "model.json" for model in request.models), *climatology]


def tasks_of(batch: Batch, threads: int | None = None, limit: float | None = None) -> list[Task]:
    """Return the run's tasks in a stable order: the first days of all tiles, then the next days.

    Parameters
    ----------
    batch
        The run.
    threads
        Cores for each task; None for all.
    limit
        Seconds for each task; None for no limit.
    """
    requests = [replace(one, run=replace(one.run, threads=threads)) for one in batch.requests]
    return [
        Task(request=request, days=days, store=batch.store, place=batch.places[request.area.name], limit=limit)
        for days in batch.requests[0].day_batches(batch.days)
        for request in requests
    ]


def _prepare_store(batch: Batch) -> None:
    """Create the run's store; one of another model or version is replaced.

    Raises
    ------
    RequestError
        The existing store is of other tiles, days or layers.
    OutputError
        It cannot be replaced or written.
    """
    from mmnet_maps.product.zarr_store import RunStore, create_store

    if batch.store is None:
        return
    layers, tags = batch.requests[0].layers, describe(batch.requests[0])
    aside = batch.store.with_name(f".{batch.store.name}.old.partial")
    if batch.store.exists():
        found = RunStore(batch.store)
        if not found.matches(batch.grid, batch.days, layers):
            raise RequestError(
                f"{batch.store} was made for other tiles, days or layers; give this run another --name, or delete it"
            )
        if found.has(tags):
            return
        shutil.rmtree(aside, ignore_errors=True)  # left by a killed run: the folder is locked
        try:
            batch.store.rename(aside)
        except OSError as error:
            raise OutputError(f"cannot replace {batch.store} ({error.strerror}); delete it by hand") from error
    create_store(batch.store, grid=batch.grid, days=batch.days, layers=layers, tags=tags)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _folder_lock(root: Path) -> Iterator[None]:
    """Hold the lock of an output folder; the system releases it when the process ends, however it ends."""
    from filelock import Timeout

    note = root / ".mmnet-batch.json"
    try:
        root.mkdir(parents=True, exist_ok=True)
        held = file_lock(root / ".mmnet-batch.lock")
        held.acquire(timeout=0)
    except Timeout:
        raise OutputError(
            f"another batch is writing to {root} ({_owner(note)}); wait for it to end or give another --out"
        ) from None
    except OSError as error:
        raise OutputError(f"cannot write to {root} ({error.strerror}); give another --out") from error
    try:
        unfinished = note.exists()
        if unfinished:
            log.warning("an earlier batch in %s ended without finishing (%s); it is continued", root, _owner(note))
        started = datetime.now(UTC).isoformat("T", "seconds")
        write_whole(note, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": started}))
        try:
            yield
        except RequestError:  # refused before anything was made
            if not unfinished:
                note.unlink(missing_ok=True)
            raise
        with suppress(OSError):
            note.unlink(missing_ok=True)
    finally:
        held.release()


def _owner(note: Path) -> str:
    """Return the process that wrote the note of a run, as text."""
    try:
        about = json.loads(note.read_text(encoding="utf-8"))
        return f"process {about['pid']} on {about['host']} since {about['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its process is not known"


def _map_all(client: Client, tasks: Sequence[Task], report: Report, retries: int, quiet: bool) -> DaySums:
    """Run all tasks, and return the sums of the maps that were made; failures are reported and the others go on."""
    from tqdm import tqdm

    sums: DaySums = {}

    by_name = {(task.tile, task.days): task for task in tasks}
    work = [Work(name=name, call=partial(run_task, task), size=len(task.days)) for name, task in by_name.items()]
    with tqdm(total=sum(one.size for one in work), unit="map", desc=report.name, disable=quiet) as bar:

        def done(one: Work, outcomes: list[Outcome], tried: int) -> None:
            """Add outcomes to the report and the progress bar, and keep their sums, each of which takes 4 kB."""
            for outcome in outcomes:
                if outcome.sums and len(report.outcomes) < _SUMS:
                    sums.setdefault(outcome.day, {})[outcome.tile] = outcome.sums
            report.add([replace(outcome, sums=None) for outcome in outcomes], tried)
            bar.update(one.size)
            if report.failures:
                bar.set_postfix(failed=report.failures, refresh=False)

        def failed(one: Work, why: str, tried: int) -> None:
            """Add a failure of every day of the task."""
            task = by_name[one.name]  # type: ignore[index]
            text = f"{why}; tried {tried} time{'s' * (tried > 1)}"
            done(one, [task.failure(day, text) for day in task.days], tried)

        run_all(client, work, retries, done, failed)
    return sums


def _finish_days(client: Client, batch: Batch, report: Report, sums: DaySums, retries: int) -> None:
    """Make mosaics and SMAP figures of every day, from all of its tiles."""
    about: dict[str, Any] = {"synthetic": batch.synthetic, "stack": batch.requests[0].stack, "store": batch.store}
    finish = partial(finish_day, batch.root, **about)
    days = [day for day in batch.days if (batch.root / f"{day:%Y%m%d}").is_dir()]

    def done(one: Work, figures: dict[str, Any], tried: int) -> None:
        """Keep the figures in the report."""
        report.smap_consistency[date.fromisoformat(str(one.name))] = figures

    def failed(one: Work, why: str, tried: int) -> None:
        """Keep the reason in the report."""
        done(one, {"error": why}, tried)

    work = [Work(name=str(day), call=partial(finish, day, sums=sums.get(day, {}))) for day in days]
    run_all(client, work, retries, done, failed)
