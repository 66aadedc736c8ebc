"""The work of a batch's workers: one tile on some days, and the mosaics of a whole day."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmnet_maps import __version__
from mmnet_maps.errors import InputError, OutputError, RequestError
from mmnet_maps.grid.tiles import Tile
from mmnet_maps.mapping.batch.report import Outcome, item_path, map_version
from mmnet_maps.mapping.commands import fill_command, model_text, place_options
from mmnet_maps.mapping.pipeline import Packed, write_days
from mmnet_maps.mapping.request import Request, open_stack
from mmnet_maps.mapping.smap_consistency import Sums, day_consistency, sum_cells
from mmnet_maps.product.drought import count_classes
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.stack.availability import NotFetchedError, require, require_values

if TYPE_CHECKING:
    from distributed import Worker

    from mmnet_maps.product.zarr_store import RunStore

LOCKS = ".mmnet-batch"
"""Hidden folder of the tiles' locks in an output folder."""

_PATIENCE = 60  # seconds
LATE = "mmnet-late"
"""Topic under which a worker reports to Dask's scheduler that a task exceeded its time limit."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One tile on some days, mapped together by one worker.

    Attributes
    ----------
    request, days
        The request of the tile, and those of its days that are mapped.
    store, place
        The Zarr store, None for none, and the tile's place in it.
    limit
        Seconds after which the worker gives up; None for no limit.
    """

    request: Request
    days: tuple[date, ...]
    store: Path | None
    place: Tile
    limit: float | None = None

    @property
    def tile(self) -> str:
        """Id of the tile."""
        return self.place.id

    def version(self, day: date) -> int:
        """Return the revision of the existing map of a day; 0 without one."""
        return map_version(self.request.run.out, self.tile, day, self.request.synthetic)

    def failure(self, day: date, error: str) -> Outcome:
        """Return the outcome of a day that could not be made; its version is that of the existing map."""
        return Outcome(tile=self.tile, day=day, state="failed", version=self.version(day), error=error)


def run_task(task: Task) -> list[Outcome]:
    """Map one tile on some days, on a worker; existing maps with the same fingerprint are kept.

    Missing or broken inputs fail their own day only.

    Raises
    ------
    RequestError
        The model has changed since the run was started.
    OutputError
        A file cannot be written, or the existing tile is of another area.
    TimeoutError
        Another worker is making the same tile, such as one that the scheduler has lost contact with.
    """
    with _time_limit(task), _tile_lock(task):
        request = task.request
        outcomes: dict[date, Outcome] = {}
        for day in task.days:
            outcomes |= _existing(task, day)
        waiting = request.day_batches([day for day in task.days if day not in outcomes])
        while waiting:
            days = waiting.pop(0)
            request.check_models()
            try:
                outcomes |= _make(task, days)
            except InputError as error:
                if len(days) == 1:
                    outcomes[days[0]] = task.failure(days[0], str(error))
                    continue
                for day in days:  # others may have all inputs; some may be finished
                    outcomes |= _existing(task, day)
                waiting[:0] = [(day,) for day in days if day not in outcomes]
        request.check_models()
        return [outcomes[day] for day in task.days]


@contextmanager
def _tile_lock(task: Task) -> Iterator[None]:
    """Hold the lock of a tile: a task may outlive its command or scheduler."""
    from filelock import Timeout

    from mmnet_maps.files import file_lock

    path = task.request.run.out / LOCKS / f"{task.tile}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = file_lock(path)
        held.acquire(timeout=_PATIENCE)
    except Timeout:
        raise TimeoutError(f"another worker is making {task.tile}, and has been for {_PATIENCE} s") from None
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror}); make room or give another --out") from error
    try:
        yield
    finally:
        held.release()


def _existing(task: Task, day: date) -> dict[date, Outcome]:
    """Return the outcome of a day whose map is current or cannot be made; empty where it is to be made."""
    from mmnet_maps.files import DRIVER_ERRORS
    from mmnet_maps.product.cog import read_band
    from mmnet_maps.product.day_writer import completed, refuse_other_area, remove_day_leftovers

    request, stack = task.request, open_stack(task.request.stack)
    (tile,) = request.tiles
    refuse_other_area(item_path(request.run.out, task.tile, day, request.synthetic), request.recipe.place_id)
    try:
        fingerprint = request.fingerprint(day)
        product = completed(request.run.out, task.tile, day, request.synthetic, fingerprint)
        if product is None:
            require(stack, tile.geobox, request.needs, [day])
            require_values(stack, tile.geobox, request.needs, [day])
            return {}
    except NotFetchedError as error:
        command = fill_command(
            place_options(None, [task.tile]), [day], stack=stack, model=model_text(request.models[0]),
            names=request.needs.variables,
        )  # fmt: skip
        return {day: task.failure(day, str(NotFetchedError.of(error.problem, [day], command)))}
    except InputError as error:
        return {day: task.failure(day, str(error))}
    remove_day_leftovers(request.run.out, task.tile, day, request.synthetic)
    if task.store and not _store(task.store).is_current(task.place, day, fingerprint):
        try:
            packed = {name: read_band(path) for name, path in product.layers.items()}
        except DRIVER_ERRORS:  # unreadable: to be made again
            return {}
        whole = Tile(id=task.tile, rows=slice(None), cols=slice(None), geobox=task.place.geobox)
        _write_to_store(task, fingerprint, whole, day, packed)
    return {day: Outcome(tile=task.tile, day=day, state="kept", version=task.version(day))}


def _make(task: Task, days: tuple[date, ...]) -> dict[date, Outcome]:
    """Make the maps of some days of a tile."""
    request, started = task.request, time.perf_counter()
    pixels: dict[date, int] = {}
    sums: dict[date, tuple[str, Sums]] = {}
    drought: dict[date, dict[str, int]] = {}

    def also(tile: Tile, day: date, packed: Packed, fingerprint: str) -> None:
        """Count the pixels, sum them by cell of SMAP, and write them to the store as well; the task has one tile."""
        moisture = packed["soil_moisture"]
        pixels[day] = int(np.count_nonzero(moisture != LAYERS["soil_moisture"].nodata))
        if request.climatology is not None:
            drought[day] = count_classes(packed["soil_moisture_percentile"])
        sums[day] = fingerprint, sum_cells(moisture, tile.geobox, open_stack(request.stack))
        if task.store:
            _write_to_store(task, fingerprint, tile, day, packed)

    made = write_days(request, days, quiet=True, also=also)
    seconds = (time.perf_counter() - started) / len(days)
    return {
        day: Outcome(
            tile=task.tile,
            day=day,
            state="made",
            version=task.version(day),
            pixels=pixels[day],
            bytes=sum(path.stat().st_size for path in product.layers.values()),
            seconds=seconds,
            why_empty=product.why_empty,
            drought=drought.get(day),
            sums=sums[day],
        )
        for day, product in made.items()
    }


def _store(path: Path) -> RunStore:
    """Open the run's store, once a process, and again when it was replaced."""
    status = (path / "zarr.json").stat()
    return _opened(path, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=1)
def _opened(path: Path, modified: int, inode: int) -> RunStore:
    from mmnet_maps.product.zarr_store import RunStore

    return RunStore(path)


def _write_to_store(task: Task, fingerprint: str, part: Tile, day: date, packed: Packed) -> None:
    """Write a part of the tile, and nodata around it, to the run's store: the values that the COGs hold."""
    assert task.store is not None
    whole: Packed = {}
    for name, values in packed.items():
        whole[name] = np.full(task.place.geobox.shape, LAYERS[name].fill, LAYERS[name].dtype)
        whole[name][part.rows, part.cols] = values
    _store(task.store).write(task.place, day, whole, fingerprint)


@contextmanager
def _time_limit(task: Task) -> Iterator[None]:
    """End this worker's process when the task exceeds its time limit; nothing else stops a read that hangs.

    Dask starts another worker in its place.

    Raises
    ------
    RequestError
        The process may run other tasks, which would end too.
    """
    if task.limit is None:
        yield
        return
    from distributed import get_worker

    done, worker = threading.Event(), get_worker()
    refuse_threads(worker.address, worker.state.nthreads, task.limit)
    late = {"key": str(worker.get_current_task()), "limit": task.limit}
    timer = threading.Timer(task.limit, _give_up, [late, worker, done])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        done.set()
        timer.cancel()


def refuse_threads(worker: str, threads: int, limit: float | None) -> None:
    """Refuse a time limit on a worker that runs several tasks at once in one process.

    Raises
    ------
    RequestError
        There is a limit, and the worker has more than one thread.
    """
    if limit is not None and threads > 1:
        raise RequestError(
            f"--time-limit ends the process of a worker, but {worker} runs {threads} tasks in one; start the workers "
            "with --nthreads 1, or leave --time-limit out"
        )


def _give_up(late: dict[str, Any], worker: Worker, done: threading.Event) -> None:
    worker.log_event(LATE, late)
    if not done.wait(1):  # time to send the event
        os._exit(1)


def finish_day(
    root: Path,
    day: date,
    *,
    synthetic: bool,
    stack: Path,
    store: Path | None,
    sums: Mapping[str, tuple[str, Sums]],
) -> dict[str, Any]:
    """Write mosaics and overviews of a day, and return the figures of its comparison with SMAP; some sums are known.

    Where SMAP cannot be read they are an ``error``, since the maps are finished all the same.
    """
    from mmnet_maps.product.mosaic import write_mosaics
    from mmnet_maps.product.zarr_overviews import write_overviews

    folder = root / f"{day:%Y%m%d}"
    write_mosaics(folder, day, synthetic=synthetic)
    if store:
        write_overviews(store, day)
    try:
        return day_consistency(folder, day, open_stack(stack), synthetic=synthetic, sums=sums)
    except InputError as error:
        return {"error": str(error)}


def version_and_missing(paths: Sequence[Path]) -> tuple[str, list[Path]]:
    """Return the version of this software on a worker, and those of some files that it cannot see."""
    return __version__, [path for path in paths if not path.exists()]
