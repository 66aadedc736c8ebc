"""Estimate what a batch would take, by mapping one of its tiles."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np

from mmnet_maps.errors import InputError, bytes_text, counted, number_text
from mmnet_maps.mapping.batch.plan import Batch, default_workers
from mmnet_maps.mapping.batch.report import item_path
from mmnet_maps.mapping.pipeline import write_days
from mmnet_maps.mapping.request import Request, describe
from mmnet_maps.mapping.usual import open_climatology
from mmnet_maps.resources import cores
from mmnet_maps.stack.availability import look_up, require, require_values
from mmnet_maps.stack.needs import Use, uses
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import VARIABLES

_TRIES = 20  # tiles that are tried until one has its inputs


def dry_run(batch: Batch, *, workers: int | None = None) -> str:
    """Return what a run would do and need, extrapolated from one tile that is mapped in a temporary folder.

    Of the tiles that have their inputs, the one with the most pixels is mapped, on the first batch of days, with the
    cores that one of the workers would have. Nothing is written to the output folder.

    Parameters
    ----------
    batch
        The run.
    workers
        Number of workers (default: see `default_workers`).
    """
    first = batch.requests[0]
    stack = Stack(first.stack)
    total, count = len(batch.requests) * len(batch.days), min(workers or default_workers(), len(batch.requests))
    items = [item_path(batch.root, tile, day, batch.synthetic) for tile in batch.places for day in batch.days]
    existing = sum(item.exists() for item in items)
    requests = sorted(batch.requests, key=_pixels, reverse=True)
    pixels = sum(map(_pixels, requests)) * len(batch.days)
    lines = [
        f"{counted(total, 'map')}: {counted(len(requests), 'tile')} on {counted(len(batch.days), 'day')}, "
        f"{' to '.join(map(str, dict.fromkeys((batch.days[0], batch.days[-1]))))}, {number_text(pixels)} pixels",
        f"from {stack.path} to {batch.root}, model {describe(first)['model']}",
        f"{existing} exist, {total - existing} do not; existing maps are rebuilt only where their inputs, model or "
        "options have changed",
    ]
    days = first.day_batches(batch.days)[0]
    for request in requests[:_TRIES]:
        with suppress(InputError):
            threads = request.run.threads or max(1, cores() // count)
            seconds, written, read = _measure(replace(request, run=replace(request.run, threads=threads)), stack, days)
            share = pixels * (total - existing) / total / (_pixels(request) * len(days))
            return "\n".join(
                [
                    *lines,
                    f"measured on {request.area.name} on {counted(len(days), 'day')}: {seconds:.1f} s, "
                    f"{bytes_text(read)} read (in memory), {bytes_text(written)} written",
                    f"extrapolated: {bytes_text(read * share)} to read, {bytes_text(written * share)} to write as "
                    f"COGs{', about twice that as Zarr' * (batch.store is not None)}, and about "
                    f"{_duration(seconds * share / count / 3600)} with {counted(count, 'worker')} as fast",
                ]
            )
    missing = min(len(requests), _TRIES)
    return "\n".join(
        [
            *lines,
            f"nothing could be measured: {counted(missing, 'tile')} without all inputs; see: mmnet stack check "
            f"{first.stack} --date DAY",
        ]
    )


def _pixels(request: Request) -> int:
    """Return the pixels of the mapped part of a tile, those outside the area included."""
    (tile,) = request.tiles
    return int(np.prod(tile.geobox.shape))


def _duration(hours: float) -> str:
    """Format a duration.

    >>> _duration(0.004), _duration(0.4), _duration(30)
    ('14 s', '24 min', '30.0 h')
    """
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:.1f} h"


def _measure(request: Request, stack: Stack, days: tuple[date, ...]) -> tuple[float, int, int]:
    """Map one tile on some days in a temporary folder; return the seconds, and the bytes written and read.

    What is read are blocks of the stack, and the maps of a climatology that each day is compared with.

    Raises
    ------
    InputError
        An input is missing.
    """
    (tile,) = request.tiles
    require(stack, tile.geobox, request.needs, days)
    require_values(stack, tile.geobox, request.needs, days)
    _ = request.engine  # loaded before the clock starts
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mmnet-probe-") as folder:
        probe = replace(request, days=days, run=replace(request.run, out=Path(folder)))
        made = write_days(probe, days, quiet=True)
        seconds = time.perf_counter() - started
        written = sum(path.stat().st_size for product in made.values() for path in product.layers.values())
    read = sum(_bytes_read(stack, use) for use in uses(stack, tile.geobox, request.needs, days))
    if request.climatology is not None:
        climatology = open_climatology(request.climatology)
        read += sum(climatology.bytes_read(tile.geobox, day) for day in days)
    return seconds, written, read


def _bytes_read(stack: Stack, use: Use) -> int:
    """Return the bytes of the blocks of a window that hold values, over all days and variables, packed."""
    filled = int(look_up(stack, *use).valued[: None if use.group.temporal else 1].sum())
    return filled * use.group.block**2 * sum(np.dtype(VARIABLES[name].dtype).itemsize for name in use.group.variables)
