"""What a worker of a batch does: one tile on some days, and what is made of a whole day."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmnet_maps.batch_report import Outcome
from mmnet_maps.block import require, require_values
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid import Tile
from mmnet_maps.job import Job
from mmnet_maps.predict import Packed, write_days
from mmnet_maps.product import LAYERS
from mmnet_maps.stack import Stack

if TYPE_CHECKING:
    from distributed import Worker

LATE = "mmnet-late"
"""The topic under which a worker tells Dask's scheduler that a task took longer than its limit."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker does at one go: one tile, some days.

    Attributes
    ----------
    job, days
        The tile and the days.
    models
        Fingerprints of the checkpoints that the run was started with.
    store, place
        The Zarr store, None for none, and where the tile lies in it.
    limit
        Seconds after which the worker gives up; None for no limit.
    """

    job: Job
    days: tuple[date, ...]
    models: tuple[str, ...]
    store: Path | None
    place: Tile
    limit: float | None = None

    @property
    def tile(self) -> str:
        """Id of the tile."""
        return self.place.id


def run_task(task: Task) -> list[Outcome]:
    """Map one tile on some days, on a worker; what is there with the same fingerprint is left.

    Inputs that lack or are broken make the day fail, not the others.

    Raises
    ------
    RequestError
        When the model has changed since the run was started.
    OutputError
        When something cannot be written.
    """
    with _watched(task):
        job = task.job
        found = tuple(checkpoint.fingerprint for checkpoint in job.engine.checkpoints)
        if found != task.models:
            raise RequestError(
                f"the model in {', '.join(map(str, job.models))} was changed while the batch ran; tiles that were made "
                "before it are kept, run again to make all of them with the new one"
            )
        outcomes: dict[date, Outcome] = {}
        waiting: list[tuple[date, ...]] = []
        for day in task.days:
            outcomes |= _kept(task, day)
        waiting = job.spells([day for day in task.days if day not in outcomes])
        while waiting:
            days = waiting.pop(0)
            try:
                outcomes |= _made(task, days)
            except InputError as error:
                if len(days) > 1:  # the others may have what they need
                    waiting[:0] = [(day,) for day in days]
                else:
                    outcomes[days[0]] = Outcome(tile=task.tile, day=days[0], state="failed", error=str(error))
        return [outcomes[day] for day in task.days]


def _kept(task: Task, day: date) -> dict[date, Outcome]:
    """The outcome of a day whose product is there; empty where it is not."""
    from mmnet_maps.cog import read_band
    from mmnet_maps.stac import read_item, version_of
    from mmnet_maps.write import completed

    job = task.job
    try:
        fingerprint = job.fingerprint(day)
    except InputError as error:
        return {day: Outcome(tile=task.tile, day=day, state="failed", error=str(error))}
    product = completed(job.out, task.tile, day, job.synthetic, fingerprint)
    if product is None:
        return {}
    if task.store and not _store(task.store).is_current(task.place, day, fingerprint):
        packed = {name: read_band(path) for name, path in product.layers.items()}
        whole = Tile(id=task.tile, rows=slice(None), cols=slice(None), geobox=task.place.geobox)
        _put(task, fingerprint, whole, day, packed)
    version = version_of(read_item(product.item))
    return {day: Outcome(tile=task.tile, day=day, state="kept", version=version)}


def _made(task: Task, days: tuple[date, ...]) -> dict[date, Outcome]:
    """Make the products of some days of a tile."""
    from mmnet_maps.stac import read_item, version_of
    from mmnet_maps.write import check_target

    job, started = task.job, time.perf_counter()
    stack, tile = Stack(job.stack), job.pieces[0]
    for day in days:
        require(stack, tile.geobox, job.needs, [day])
        require_values(stack, tile.geobox, job.needs, [day])
        check_target(job.out, task.tile, day, job.synthetic, job.layers)
    pixels: Counter[date] = Counter()
    prints = {day: job.fingerprint(day) for day in days}

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
            version=version_of(read_item(product.item)),
            pixels=pixels[day],
            bytes=sum(path.stat().st_size for path in product.layers.values()),
            seconds=seconds,
        )
        for day, product in made.items()
    }


def _store(path: Path) -> Any:
    from mmnet_maps.run_store import RunStore

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

    done = threading.Event()
    timer = threading.Timer(task.limit, _give_up, [task, get_worker(), done])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        done.set()
        timer.cancel()


def _give_up(task: Task, worker: Worker, done: threading.Event) -> None:
    worker.log_event(LATE, {"tile": task.tile, "limit": task.limit})
    if not done.wait(1):  # so that the message gets out
        os._exit(1)


def finish_day(root: Path, day: date, *, synthetic: bool, stack: Path) -> dict[str, Any]:
    """Write the mosaics of a day, and compare its map with SMAP, whose figures are returned."""
    from mmnet_maps.closure import close_day
    from mmnet_maps.vrt import write_mosaics

    folder = root / f"{day:%Y%m%d}"
    write_mosaics(folder, day, synthetic=synthetic)
    return close_day(folder, day, Stack(stack), synthetic=synthetic)
