"""What a worker of a batch does: one tile on some days, and what is made of a whole day."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmnet_maps import __version__
from mmnet_maps.errors import InputError, OutputError
from mmnet_maps.grid.tiles import Tile
from mmnet_maps.mapping.batch.report import Outcome, item_path, read_properties
from mmnet_maps.mapping.pipeline import Packed, write_days
from mmnet_maps.mapping.request import Request, open_stack
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.stack.availability import require, require_values

if TYPE_CHECKING:
    from distributed import Worker

LOCKS = ".mmnet-batch"
"""The hidden folder of the tiles' locks in an output folder."""

_PATIENCE = 60  # seconds
LATE = "mmnet-late"
"""The topic under which a worker tells Dask's scheduler that a task took longer than its limit."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker does at one go: one tile, some days.

    Attributes
    ----------
    job, days
        The tile and the days.
    store, place
        The Zarr store, None for none, and where the tile lies in it.
    limit
        Seconds after which the worker gives up; None for no limit.
    """

    job: Request
    days: tuple[date, ...]
    store: Path | None
    place: Tile
    limit: float | None = None

    @property
    def tile(self) -> str:
        """Id of the tile."""
        return self.place.id

    def item(self, day: date) -> dict[str, Any]:
        """Properties of the item that is there for a day; empty without one."""
        return read_properties(item_path(self.job.run.out, self.tile, day, self.job.synthetic))

    def version(self, day: date) -> int:
        """Number of the issue that is there for a day; 0 without one."""
        return int(self.item(day).get("version", 0))

    def failure(self, day: date, error: str) -> Outcome:
        """The outcome of a day that could not be made; its version is that of an earlier issue that is still there."""
        return Outcome(tile=self.tile, day=day, state="failed", version=self.version(day), error=error)


def run_task(task: Task) -> list[Outcome]:
    """Map one tile on some days, on a worker; what is there with the same fingerprint is left.

    Inputs that lack or are broken make the day fail, not the others.

    Raises
    ------
    RequestError
        When the model has changed since the run was started.
    OutputError
        When something cannot be written, or the tile is there for another area.
    TimeoutError
        When another worker is making the same tile, as one that the scheduler has lost sight of.
    """
    with _watched(task), _alone_with(task):
        job = task.job
        outcomes: dict[date, Outcome] = {}
        for day in task.days:
            outcomes |= _settled(task, day)
        waiting = job.day_batches([day for day in task.days if day not in outcomes])
        while waiting:
            days = waiting.pop(0)
            _ = job.engine  # raises if the model has changed
            try:
                outcomes |= _made(task, days)
            except InputError as error:
                if len(days) == 1:
                    outcomes[days[0]] = task.failure(days[0], str(error))
                    continue
                for day in days:  # the others may have what they need; some may be finished
                    outcomes |= _settled(task, day)
                waiting[:0] = [(day,) for day in days if day not in outcomes]
        _ = job.engine
        return [outcomes[day] for day in task.days]


@contextmanager
def _alone_with(task: Task) -> Iterator[None]:
    """Hold the lock of a tile: a task may still run somewhere after its command or scheduler is gone."""
    from filelock import FileLock, Timeout

    path = task.job.run.out / LOCKS / f"{task.tile}.lock"
    held = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=_PATIENCE)
    except Timeout:
        raise TimeoutError(f"another worker is making {task.tile}, and has been for {_PATIENCE} s") from None
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror}); make room or give another --out") from error
    try:
        yield
    finally:
        held.release()


def _settled(task: Task, day: date) -> dict[date, Outcome]:
    """The outcome of a day whose product is there, or cannot be made; empty where it is to be made."""
    from mmnet_maps.files import DRIVER_ERRORS
    from mmnet_maps.product.cog import read_band
    from mmnet_maps.product.day_writer import completed, remove_day_leftovers

    job, stack = task.job, open_stack(task.job.stack)
    (piece,) = job.tiles
    item = task.item(day)
    if item.get("mmnet:area", job.recipe.place_id) != job.recipe.place_id:
        raise OutputError(
            f"{job.run.out} holds {task.tile} on {day} of another area, which would be lost; give another --out"
        )
    try:
        fingerprint = job.fingerprint(day)
        product = completed(job.run.out, task.tile, day, job.synthetic, fingerprint)
        if product is None:
            require(stack, piece.geobox, job.needs, [day])
            require_values(stack, piece.geobox, job.needs, [day])
            return {}
    except InputError as error:
        return {day: task.failure(day, str(error))}
    remove_day_leftovers(job.run.out, task.tile, day, job.synthetic)
    if task.store and not _store(task.store).is_current(task.place, day, fingerprint):
        try:
            packed = {name: read_band(path) for name, path in product.layers.items()}
        except DRIVER_ERRORS:  # it has rotted: to be made anew
            return {}
        whole = Tile(id=task.tile, rows=slice(None), cols=slice(None), geobox=task.place.geobox)
        _put(task, fingerprint, whole, day, packed)
    return {day: Outcome(tile=task.tile, day=day, state="kept", version=task.version(day))}


def _made(task: Task, days: tuple[date, ...]) -> dict[date, Outcome]:
    """Make the products of some days of a tile."""
    job, started = task.job, time.perf_counter()
    pixels: Counter[date] = Counter()
    prints = {day: job.fingerprint(day) for day in days} if task.store else {}

    def also(piece: Tile, day: date, packed: Packed) -> None:
        pixels[day] += int(np.count_nonzero(packed["soil_moisture"] != LAYERS["soil_moisture"].nodata))
        if task.store:
            _put(task, prints[day], piece, day, packed)

    made = write_days(job, days, quiet=True, pictures=False, also=also)
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
        )
        for day, product in made.items()
    }


def _store(path: Path) -> Any:
    from mmnet_maps.product.zarr_store import RunStore

    return RunStore(path)


def _put(task: Task, fingerprint: str, piece: Tile, day: date, packed: Packed) -> None:
    """Write a piece of the tile, and nodata around it, to the run's store: the values that the COGs hold."""
    assert task.store is not None
    layers = {}
    for name, values in packed.items():
        layer = LAYERS[name]
        full = np.full(task.place.geobox.shape, layer.fill, np.uint16)
        full[piece.rows, piece.cols] = values
        layers[name] = layer.unpack(full)
    _store(task.store).write(task.place, day, layers, fingerprint)


@contextmanager
def _watched(task: Task) -> Iterator[None]:
    """End this worker's process when the task takes longer than its limit: nothing else stops a read that hangs.

    Dask starts another one in its place.
    """
    if task.limit is None:
        yield
        return
    from distributed import get_worker

    done, worker = threading.Event(), get_worker()
    late = {"key": str(worker.get_current_task()), "limit": task.limit}
    timer = threading.Timer(task.limit, _give_up, [late, worker, done])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        done.set()
        timer.cancel()


def _give_up(late: dict[str, Any], worker: Worker, done: threading.Event) -> None:
    worker.log_event(LATE, late)
    if not done.wait(1):  # so that the message gets out
        os._exit(1)


def finish_day(root: Path, day: date, *, synthetic: bool, stack: Path) -> dict[str, Any]:
    """Write the mosaics of a day, and compare its map with SMAP, whose figures are returned.

    Where SMAP cannot be read the figures are an ``error``: the maps are there all the same.
    """
    from mmnet_maps.mapping.smap_consistency import close_day
    from mmnet_maps.product.mosaic import write_mosaics

    folder = root / f"{day:%Y%m%d}"
    write_mosaics(folder, day, synthetic=synthetic)
    try:
        return close_day(folder, day, open_stack(stack), synthetic=synthetic)
    except InputError as error:
        return {"error": str(error)}


def sees(paths: Sequence[Path]) -> tuple[str, list[Path]]:
    """The version of this software, and which of some files are not there."""
    return __version__, [path for path in paths if not path.exists()]
