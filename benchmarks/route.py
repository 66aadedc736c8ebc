"""The stages of a map as this revision calls them, for `stages.py`, which measures each revision by its own copy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from mmnet_maps.mapping.batch.plan import plan_batch
from mmnet_maps.mapping.pipeline import Part, read_parts, write_days
from mmnet_maps.mapping.request import Request


def requests(
    stack: str,
    out: str,
    tiles: Sequence[str],
    days: Sequence[date],
    members: int = 0,
    model: str | Path = "mmnet-uscrn",
) -> list[Request]:
    """Return a request a tile, as a worker of a batch gets it, in the order of the tiles, with its engine loaded."""
    batch = plan_batch(
        None,
        list(days),
        tiles=list(tiles),
        stack=stack,
        out=out,
        model=model,
        uncertainty=members,
        device="cpu",
        threads=1,
    )
    by_tile = {request.area.name: request for request in batch.requests}
    _ = batch.requests[0].engine
    return [by_tile[tile] for tile in tiles]


def read(request: Request, day: date) -> Part:
    """Read a tile and day from the stack."""
    (part,) = read_parts(request, request.tiles, [day])
    return part


def series(request: Request, part: Part) -> Any:
    """Run the branch of the series."""
    return request.engine.encode_series(part.block.series, part.block.starts)[0]


def pixel(request: Request, part: Part, terms: Any) -> None:
    """Run the branch of the pixels."""
    request.engine.predict(part.columns, terms, part.series_id)


def write(request: Request, days: Sequence[date]) -> None:
    """Make maps from the stack to their files."""
    for together in request.day_batches(days):
        write_days(request, together, quiet=True)


def inputs(part: Part) -> dict[str, np.ndarray]:
    """Return what the network sees of a tile: columns by pixel, and sums of the series over all days by pixel."""
    inside = part.series_id[0] >= 0
    rows = {name: np.where(inside, part.block.rows_of(name).ravel(), -1) for name in part.block.series}
    sums = {f"series of {name}": values.sum(1)[rows[name]] for name, values in part.block.series.items()}
    return {"inside": inside, **part.columns, **sums}
