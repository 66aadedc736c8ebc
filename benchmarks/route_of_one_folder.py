"""The stages of a map in revisions up to 7efbd7e, when all modules lay in one folder; see `route.py`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
from mmnet_maps.batch_plan import plan_batch
from mmnet_maps.predict import read_parts, write_days


def requests(stack: str, out: str, tiles: Sequence[str], days: Sequence[date], members: int = 0) -> list[Any]:
    """Return a job a tile, in the order of the tiles, with its engine loaded."""
    batch = plan_batch(
        None,
        [day.isoformat() for day in days],
        tiles=list(tiles),
        stack=stack,
        out=out,
        uncertainty=members,
        device="cpu",
        threads=1,
    )
    by_tile = {job.area.name: job for job in batch.jobs}
    _ = batch.jobs[0].engine
    return [by_tile[tile] for tile in tiles]


def read(job: Any, day: date) -> Any:
    """Read a tile and day from the stack."""
    (part,) = read_parts(job, job.pieces, [day])
    return part


def series(job: Any, part: Any) -> Any:
    """Run the branch of the series."""
    return [group[0] for group in job.engine.encode_in_groups(part.block.series, part.block.starts)]


def pixel(job: Any, part: Any, terms: Any) -> None:
    """Run the branch of the pixels."""
    job.engine.predict(part.columns, terms, part.pair)


def write(job: Any, days: Sequence[date]) -> None:
    """Make maps from the stack to their files."""
    for together in job.spells(days):
        write_days(job, together, quiet=True, pictures=False)


def inputs(part: Any) -> dict[str, np.ndarray]:
    """Return what the network sees of a tile: columns by pixel, and sums of the series over all days by pixel."""
    ids = part.pair.astype(np.intp)
    sums = {f"series of {name}": values.sum(1)[ids] for name, values in part.block.series.items()}
    return {"inside": ids >= 0, **part.columns, **sums}
