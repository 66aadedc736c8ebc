"""Measure the engine beside the plain network and the peak of matrix products, on one tile; prints as it goes.

The engine runs without a mask, and all pixels are counted.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

import route
from limits import best, matrix_peak
from mmnet_maps.mapping.pipeline import Part
from mmnet_maps.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mmnet_maps.model.engine import Engine
from mmnet_maps.model.features import encoded_columns
from mmnet_maps.training.parity import plain_inputs

PLAIN_BATCHES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
MPX = 1e6


def read_tile(stack: str, tile: str, day: date, model: str | Path) -> Part:
    """Read a tile as a model needs it, water too, so that every pixel counts."""
    (request,) = route.requests(stack, "maps", [tile], [day], model=model)
    part = route.read(request, day)
    part.series_id[:] = part.block.series_id.reshape(part.series_id.shape)
    assert part.series_id.min() >= 0
    return part


def plain(checkpoint: Checkpoint, part: Part, pixels: int) -> dict[int, float]:
    """Measure the plain network by batch size, on the first pixels of a tile: Mpx/s."""
    rows = np.arange(pixels)
    s, x = map(torch.from_numpy, plain_inputs(checkpoint, part.columns, part.block.series, part.series_id, rows))
    found = {}
    for batch in PLAIN_BATCHES:

        def run(batch: int = batch) -> None:
            with torch.inference_mode():
                for start in range(0, pixels, batch):
                    checkpoint.network(s[start : start + batch], x[start : start + batch])

        found[batch] = pixels / best(run, 3) / MPX
    return found


def plain_tile(checkpoint: Checkpoint, part: Part, pixels: int) -> np.ndarray:
    """Run the plain network on the first pixels of a tile, in float32, with a copy of the series for each pixel."""
    parts = []
    for start in range(0, pixels, 16_384):
        rows = np.arange(start, min(start + 16_384, pixels))
        s, x = map(torch.from_numpy, plain_inputs(checkpoint, part.columns, part.block.series, part.series_id, rows))
        with torch.inference_mode():
            parts += [checkpoint.network(a, b).numpy() for a, b in zip(s.split(512), x.split(512), strict=True)]
    return np.concatenate(parts)


def multiply_adds(checkpoint: Checkpoint) -> tuple[int, list[int]]:
    """Count multiply-adds of the fused MMNet per pixel and per series cell of each group; one-hot columns cost none."""
    spec = checkpoint.spec
    d, steps, wide = spec.d_model, spec.steps, spec.feedforward
    numeric = sum(len(feature.columns) for feature in spec.snapshot if feature.encoding != "onehot")
    chain = (d // 4) * (d // 2) + (d // 2) * d
    pixel = numeric * (d // 4) + chain + d * d + d * (d // 2) + (d // 2) * (d // 4) + d // 4
    branches = [group.branch for group in spec.series_groups or ()] or ["transformer"]
    cells = []
    for branch, features in zip(branches, spec.feature_groups, strict=True):
        columns = len(encoded_columns(features))
        if branch == "mlp":
            cells.append(steps * columns * (d // 2) + (d // 2) * (d // 4) + (d // 4) * d)
        else:
            token = columns * (d // 4) + chain + spec.layers * (3 * d * d + d * d + 2 * d * wide)
            cells.append(steps * token + spec.layers * 2 * steps * steps * d + d * d)
    return pixel, cells


def engine_run(engine: Engine, part: Part) -> Any:
    return engine.predict(part.columns, engine.encode_series(part.block.series, part.block.starts)[0], part.series_id)


def other_architectures(checkpoint: Checkpoint, folder: Path) -> Iterable[Checkpoint]:
    """Yield the paper's networks with random weights and the inputs of the model, spread like soil moisture."""
    for architecture in ("mmnet", "mlp", "mlp_full", "transformer", "transformer_full"):
        spec = checkpoint.spec.model_copy(
            update={"architecture": architecture, "name": f"random-{architecture}", "series_groups": None}
        )
        torch.manual_seed(0)
        network = spec.network().eval()
        with torch.inference_mode():
            out = network(
                torch.randn(512, len(spec.snapshot_mean)), torch.randn(512, spec.steps, len(spec.series_mean))
            )
            network.decoder[8].weight *= 0.1 / out.std()
        yield save_checkpoint(folder / architecture, spec, network)


def differences(checkpoint: Checkpoint, stack: str, tile: str, day: date, pixels: int | None) -> dict[str, float]:
    """Return the largest difference of the engine from the plain network, m³/m³, over the first pixels of a tile."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in (checkpoint, *other_architectures(checkpoint, Path(folder))):
            part = read_tile(stack, tile, day, model.path)
            estimate = engine_run(Engine(model, device="cpu"), part).estimate[:pixels]
            expected = plain_tile(model, part, estimate.size)
            np.testing.assert_array_equal(np.isnan(estimate), np.isnan(expected))
            found[model.spec.name] = float(np.nanmax(np.abs(estimate - expected)))
            say(f"  {model.spec.name}: {found[model.spec.name]:.1e}")
    return found


def say(text: str) -> None:
    print(text, flush=True)


def run(stack: str, tile: str, day: date, quick: bool) -> dict[str, Any]:
    """Measure everything of this file; with `quick`, differences are those of some pixels."""
    checkpoint = load_checkpoint("mmnet-uscrn")
    part = read_tile(stack, tile, day, checkpoint.path)
    pixels = part.series_id.shape[1]
    cells = [len(part.block.series[group[0]]) for group in part.block.groups]
    found: dict[str, Any] = {"pixels": pixels, "cells": cells, "matmul_gflop_s": matrix_peak(torch.float32)}
    say(
        f"tile {tile}: {pixels} pixels, {' + '.join(map(str, cells))} series cells; {torch.get_num_threads()} threads, "
        f"matrix products {found['matmul_gflop_s']:.0f} GFLOP/s"
    )

    rates = plain(checkpoint, part, 16_384)
    found |= {"plain_mpx_s": rates, "plain_512_mpx_s": rates[512], "plain_best_mpx_s": max(rates.values())}
    say("plain network, Mpx/s by batch: " + ", ".join(f"{batch}: {rate:.4f}" for batch, rate in rates.items()))

    engine = Engine(checkpoint, device="cpu")
    seconds = best(lambda: engine_run(engine, part), 5)
    per_pixel, per_cell = multiply_adds(checkpoint)
    of_series = sum(each * count for each, count in zip(per_cell, cells, strict=True))
    bound = 2 * (per_pixel * pixels + of_series) / found["matmul_gflop_s"] / 1e9
    found |= {
        "engine_mpx_s": pixels / seconds / MPX,
        "terms_seconds": best(lambda: engine.encode_series(part.block.series), 3),
        "multiply_adds_per_pixel": per_pixel,
        "multiply_adds_per_cell": per_cell,
        "share_of_peak": bound / seconds,
    }
    found["times_plain_512"] = found["engine_mpx_s"] / rates[512]
    found["times_plain_best"] = found["engine_mpx_s"] / max(rates.values())
    say(
        f"engine: {found['engine_mpx_s']:.3f} Mpx/s, {found['times_plain_512']:.1f} x plain at 512, "
        f"{found['times_plain_best']:.1f} x its best; {found['terms_seconds']:.2f} of {seconds:.2f} s for the series"
    )
    say(
        f"  {per_pixel} multiply-adds per pixel, {' + '.join(map(str, per_cell))} per series cell: "
        f"{100 * found['share_of_peak']:.0f} % of the matrix peak"
    )
    half = Engine(checkpoint, device="cpu", precision="bfloat16")
    found["engine_bfloat16_mpx_s"] = pixels / best(lambda: engine_run(half, part), 3) / MPX
    say(f"  bfloat16: {found['engine_bfloat16_mpx_s']:.3f} Mpx/s")
    many = Engine(checkpoint, device="cpu", draws=20)
    found["members_20_seconds"] = best(lambda: engine_run(many, part), 1)
    found["members_20_per_plain_512"] = found["members_20_seconds"] / (pixels / rates[512] / MPX)
    say(
        f"  with 20 Monte Carlo members: {found['members_20_seconds']:.1f} s, "
        f"{found['members_20_per_plain_512']:.2f} of one plain forward at 512"
    )

    say("largest difference from the plain network, m3/m3:")
    found["differences"] = differences(checkpoint, stack, tile, day, 65_536 if quick else None)
    found["max_abs_difference"] = max(found["differences"].values())

    if torch.cuda.is_available():
        found["cuda"] = on_gpu(checkpoint, part)
    return found


def on_gpu(checkpoint: Checkpoint, part: Part) -> dict[str, Any]:
    """Measure the engine on a GPU, and the bus alone for the same bytes."""
    engine = Engine(checkpoint, device="cuda")
    engine_run(engine, part)
    rows, size = part.series_id.shape[1], sum(values.nbytes for values in part.columns.values()) + part.series_id.nbytes
    pinned = torch.empty(size, dtype=torch.uint8).pin_memory()

    def over() -> None:
        pinned.to("cuda", non_blocking=True)
        torch.cuda.synchronize()

    found = {
        "device": torch.cuda.get_device_name(),
        "engine_mpx_s": rows / best(lambda: engine_run(engine, part), 5) / MPX,
        "bytes_per_pixel": size / rows,
        "bus_bound_mpx_s": rows / best(over, 5) / MPX,
    }
    say(f"{found['device']}: {found['engine_mpx_s']:.1f} Mpx/s; the bus alone allows {found['bus_bound_mpx_s']:.0f}")
    return found


if __name__ == "__main__":
    stack_, tile_, day_, out, *flags = sys.argv[1:]
    Path(out).write_text(json.dumps(run(stack_, tile_, date.fromisoformat(day_), "--quick" in flags), indent=1))
