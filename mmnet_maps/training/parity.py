"""Deviation of the engine from the plain network in float64, in every precision and on every device of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mmnet_maps.grid.tiles import tile_geobox
from mmnet_maps.mapping.pipeline import read_parts
from mmnet_maps.mapping.request import prepare
from mmnet_maps.model.checkpoint import Checkpoint, read_golden
from mmnet_maps.model.engine import PRECISIONS, Engine
from mmnet_maps.model.features import (
    encode_series,
    encode_snapshot,
    encoded_columns,
    fill_steps,
    standardise,
    used_columns,
)
from mmnet_maps.variables import VARIABLES

TILE, DAY = "h06v03", "2021-08-08"
"""A tile of the demo world with shrubland, fields, towns and water, and a day after rain."""

_PIXELS = 20_000


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """Absolute deviation from the plain network in float64, in the units of the target."""

    device: str
    precision: str
    inputs: str
    count: int
    mean: float
    p999: float
    largest: float


def parity(checkpoint: Checkpoint, *, quiet: bool = False) -> Iterator[Deviation]:
    """Compare every mode of the engine with the reference, on the golden inputs and on a tile of the demo world.

    Parameters
    ----------
    checkpoint
        The model; its golden inputs are compared if it has any.
    quiet
        No progress bar while the tile is fetched.

    Yields
    ------
    Deviation
        By device and precision, over a sample of 20 000 of the tile's pixels.
    """
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    modes = [(device, precision) for device in devices for precision in PRECISIONS]
    golden = read_golden(checkpoint)
    if golden is not None:
        exact = reference(checkpoint, *golden)
        for device, precision in modes:
            found = Engine(checkpoint, device=device, precision=precision).predict_standardised(*golden)
            yield _deviation(device, precision, "golden", found, exact)
    request = prepare(tile_geobox(TILE).geographic_extent.geom, DAY, source="demo", model=checkpoint.path, quiet=quiet)
    part = next(read_parts(request, [tile for tile in request.tiles if tile.id == TILE], request.days))
    rows = np.flatnonzero(part.series_id[0] >= 0)
    rows = np.sort(np.random.default_rng(0).choice(rows, min(_PIXELS, rows.size), replace=False))
    exact = reference(checkpoint, *plain_inputs(checkpoint, part.columns, part.block.series, part.series_id, rows))
    for device, precision in modes:
        engine = Engine(checkpoint, device=device, precision=precision)
        found = engine.predict(part.columns, engine.encode_series(part.block.series)[0], part.series_id).estimate[rows]
        if residual := checkpoint.spec.target.residual_of:
            found = found - part.columns[residual][rows]
        yield _deviation(device, precision, f"tile {TILE}", found, exact)


def plain_inputs(
    checkpoint: Checkpoint,
    columns: Mapping[str, NDArray[Any]],
    series: Mapping[str, NDArray[np.float32]],
    series_id: NDArray[np.integer],
    rows: NDArray[np.integer],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the inputs of the plain network for some pixels: standardised snapshot and series, one copy per pixel.

    Parameters
    ----------
    checkpoint
        The model.
    columns, series, series_id
        Arguments of `Engine.predict` and `Engine.encode_series`.
    rows
        Indices of the pixels.
    """
    spec = checkpoint.spec
    used = {name: columns[name] for name in used_columns(columns, spec.snapshot)}
    picked = {
        name: VARIABLES[name].unpack(values[rows])
        if values.dtype == np.int16
        else np.broadcast_to(values, (1,)).repeat(len(rows))
        if values.size == 1
        else values[rows]
        for name, values in used.items()
    }
    every = encoded_columns(spec.series)
    days = np.empty((len(rows), spec.steps, len(every)), np.float32)
    for features, of_group in zip(
        spec.feature_groups, np.broadcast_to(series_id, (len(spec.feature_groups), series_id.shape[-1])), strict=True
    ):
        place = [every.index(column) for column in encoded_columns(features)]
        days[..., place] = encode_series(series, features, spec.windows)[of_group[rows]]
    days = standardise(days, spec.series_mean, spec.series_std)
    fill_steps(days, spec.windows)
    return standardise(encode_snapshot(picked, spec.snapshot), spec.snapshot_mean, spec.snapshot_std), days


def reference(
    checkpoint: Checkpoint, snapshot: NDArray[np.float32], series: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Run the plain network in float64, row by row."""
    network: nn.Module = checkpoint.spec.network().double().eval()
    network.load_state_dict(checkpoint.network.state_dict())
    with torch.inference_mode():
        blocks = zip(
            torch.split(torch.from_numpy(snapshot), 512), torch.split(torch.from_numpy(series), 512), strict=True
        )
        parts = [network(s.double(), x.double()) for s, x in blocks]
    found: NDArray[np.float64] = torch.cat(parts).numpy()
    return found


def _deviation(
    device: str, precision: str, inputs: str, found: NDArray[np.float32], exact: NDArray[np.float64]
) -> Deviation:
    """Summarise the deviation; a NaN in one of both counts as infinite."""
    difference = np.abs(found - exact)
    difference[np.isnan(found) != np.isnan(exact)] = np.inf
    difference = difference[~np.isnan(difference)]
    return Deviation(
        device=device,
        precision=precision,
        inputs=inputs,
        count=difference.size,
        mean=float(difference.mean()),
        p999=float(np.quantile(difference, 0.999)),
        largest=float(difference.max()),
    )


def format_parity(deviations: Sequence[Deviation]) -> str:
    """Format the deviations as a table for the terminal.

    Examples
    --------
    >>> mode = {"device": "cpu", "precision": "float32", "inputs": "golden"}
    >>> print(format_parity([Deviation(**mode, count=64, mean=1e-8, p999=1e-7, largest=2e-7)]))
    deviation from the plain network in float64
    device  precision  inputs            count      mean   99.9 %   largest
    cpu     float32    golden               64   1.0e-08  1.0e-07   2.0e-07
    """
    lines = [
        "deviation from the plain network in float64",
        f"{'device':<7} {'precision':<10} {'inputs':<14} {'count':>8} {'mean':>9} {'99.9 %':>8} {'largest':>9}",
    ]
    lines += [
        f"{d.device:<7} {d.precision:<10} {d.inputs:<14} {d.count:>8} {d.mean:>9.1e} {d.p999:>8.1e} {d.largest:>9.1e}"
        for d in deviations
    ]
    return "\n".join(lines)
