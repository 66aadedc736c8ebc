"""Measure the speed of the engine beside the plain network and the limits of this machine, in one run.

python benchmarks/bench.py [--json FILE] [--stack STORE] [--quick]

The inputs are the demo world: tile h06v03 for ten days and the fifteen tiles around it for one, kept in
build/bench.zarr (about five minutes and 2 GB the first time). The engine runs without a mask, and all pixels are
counted; from the stack to COGs only pixels with a value are counted, which are all but water.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch

from mmnet_maps.grid.area import LONLAT, transform_geometry
from mmnet_maps.grid.tiles import conus_tiles, tile_geobox
from mmnet_maps.mapping.fill import fill_stack
from mmnet_maps.mapping.pipeline import Part, ahead, compute_layers, read_parts
from mmnet_maps.mapping.request import Request, prepare
from mmnet_maps.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mmnet_maps.model.engine import Engine
from mmnet_maps.training.parity import plain_inputs

HOME, DAY = "h06v03", date(2021, 8, 8)
TILES = [HOME, *(t for t in (f"h{h:02d}v{v:02d}" for v in range(2, 6) for h in range(5, 9)) if t != HOME)]
PLAIN_BATCHES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
CONUS_TILES = len(conus_tiles())
MPX = 1e6


def best(run: Callable[[], Any], times: int = 3) -> float:
    """Return the seconds of the fastest of several runs."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def area(tiles: Iterable[str]) -> Any:
    """Return the tiles as one polygon in longitude and latitude, a metre smaller so that it touches no neighbour."""
    boxes = [shapely.box(*tile_geobox(tile).boundingbox.bbox) for tile in tiles]
    return transform_geometry(shapely.segmentize(shapely.union_all(boxes).buffer(-1), 1000), "EPSG:5070", LONLAT)


def days(count: int) -> list[str]:
    return [str(DAY + timedelta(days=k)) for k in range(count)]


def fill(stack: Path, quick: bool) -> None:
    span = f"{days(10)[0]}/{days(10)[-1]}"
    fill_stack(area([HOME]), span, stack=stack, source="demo")
    for tile in TILES[:4] if quick else TILES:
        fill_stack(area([tile]), str(DAY), stack=stack, source="demo")


def request_for(stack: Path, tiles: Iterable[str], count: int = 1, **options: Any) -> Request:
    return prepare(area(tiles), days(count), stack=stack, quiet=True, **options)


def machine(times: int) -> dict[str, float]:
    """Measure the peak of float32 matrix products, GFLOP/s, and of copying memory, GB/s read and written."""
    a = torch.randn(3072, 3072)
    out = torch.empty_like(a)
    big, copy = torch.ones(2**27), torch.empty(2**27)
    return {
        "matmul_gflop_s": 2 * 3072**3 / best(lambda: torch.mm(a, a, out=out), times) / 1e9,
        "memory_gb_s": 2 * big.nbytes / best(lambda: copy.copy_(big), times) / 1e9,
    }


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


def multiply_adds(checkpoint: Checkpoint) -> tuple[int, int]:
    """Count multiply-adds of the fused MMNet per pixel and per series cell; one-hot columns cost none."""
    spec = checkpoint.spec
    d, steps, wide = spec.d_model, spec.steps, spec.feedforward
    numeric = sum(len(feature.columns) for feature in spec.snapshot if feature.encoding != "onehot")
    chain = (d // 4) * (d // 2) + (d // 2) * d
    pixel = numeric * (d // 4) + chain + d * d + d * (d // 2) + (d // 2) * (d // 4) + d // 4
    token = len(spec.series_mean) * (d // 4) + chain + spec.layers * (3 * d * d + d * d + 2 * d * wide)
    return pixel, steps * token + spec.layers * 2 * steps * steps * d + d * d


def engine_run(engine: Engine, part: Part) -> Any:
    return engine.predict(part.columns, engine.encode_series(part.block.series, part.block.starts)[0], part.series_id)


def other_architectures(checkpoint: Checkpoint, folder: Path) -> Iterable[Checkpoint]:
    """Yield the comparison networks with random weights and the inputs of the model, spread like soil moisture."""
    for architecture in ("mlp", "mlp_full", "transformer", "transformer_full"):
        spec = checkpoint.spec.model_copy(update={"architecture": architecture, "name": architecture})
        torch.manual_seed(0)
        network = spec.network().eval()
        with torch.inference_mode():
            out = network(
                torch.randn(512, len(spec.snapshot_mean)), torch.randn(512, spec.steps, len(spec.series_mean))
            )
            network.decoder[8].weight *= 0.1 / out.std()
        yield save_checkpoint(folder / architecture, spec, network)


def differences(checkpoint: Checkpoint, part: Part, pixels: int) -> dict[str, float]:
    """Return the largest difference of the engine from the plain network, m³/m³, over the first pixels of a tile."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in (checkpoint, *other_architectures(checkpoint, Path(folder))):
            expected = plain_tile(model, part, pixels)
            estimate = engine_run(Engine(model, device="cpu"), part).estimate[:pixels]
            np.testing.assert_array_equal(np.isnan(estimate), np.isnan(expected))
            found[model.spec.architecture] = float(np.nanmax(np.abs(estimate - expected)))
            say(f"  {model.spec.architecture}: {found[model.spec.architecture]:.1e}")
    return found


def write_tiles(stack: Path, tiles: list[str], count: int, draws: int = 0) -> dict[str, float]:
    """Map from the stack to COGs, written and read back: seconds and peak memory; run it by `apart`."""
    from mmnet_maps.product.cog import CogWriter
    from mmnet_maps.product.layers import LAYERS

    request = request_for(stack, tiles, count, uncertainty=draws)
    chosen = [tile for tile in request.tiles if tile.id in tiles]
    _ = request.engine
    pixels, started = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for batch in request.day_batches(request.days):
            for part, layers in ahead(compute_layers(request, read_parts(request, chosen, batch))):
                pixels += int(np.isfinite(layers["soil_moisture"]).sum())
                for name, values in layers.items():
                    path = Path(folder, f"{part.tile.id}_{part.day}_{name}.tif")
                    writer = CogWriter(path, layer=LAYERS[name], geobox=part.tile.geobox, tags={})
                    writer.write(slice(0, values.shape[0]), slice(0, values.shape[1]), LAYERS[name].pack(values))
                    writer.finish()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "pixels": pixels, "peak_rss_mb": peak_rss_mb()}


def peak_rss_mb() -> float:
    """Return the peak memory of this process; getrusage would include that of its parent before the start."""
    status = Path("/proc/self/status")
    if status.exists():
        return float(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1e3  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def apart(*arguments: Any) -> dict[str, float]:
    """Run `write_tiles` in a new process, so that its peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(write_tiles, arguments)


def say(text: str) -> None:
    print(text, flush=True)


def run(stack: Path, quick: bool) -> dict[str, Any]:
    checkpoint = load_checkpoint("mmnet-uscrn")
    request = request_for(stack, [HOME])
    part = next(read_parts(request, [tile for tile in request.tiles if tile.id == HOME], request.days))
    part.series_id[:] = part.block.series_id.ravel()  # water too
    pixels, pairs = part.series_id.size, len(next(iter(part.block.series.values())))
    assert part.series_id.min() >= 0
    found: dict[str, Any] = {"machine": describe(), "pixels": pixels, "pairs": pairs, **machine(5)}
    say(f"{found['machine']}\ntile {HOME}: {pixels} pixels, {pairs} series cells")
    say(f"float32 matrix peak {found['matmul_gflop_s']:.0f} GFLOP/s, memory copy {found['memory_gb_s']:.0f} GB/s")

    rates = plain(checkpoint, part, 16_384)
    found |= {"plain_mpx_s": rates, "plain_512_mpx_s": rates[512], "plain_best_mpx_s": max(rates.values())}
    say("plain network, Mpx/s by batch: " + ", ".join(f"{batch}: {rate:.4f}" for batch, rate in rates.items()))

    engine = Engine(checkpoint, device="cpu")
    seconds = best(lambda: engine_run(engine, part), 5)
    per_pixel, per_pair = multiply_adds(checkpoint)
    bound = 2 * (per_pixel * pixels + per_pair * pairs) / found["matmul_gflop_s"] / 1e9
    found |= {
        "engine_mpx_s": pixels / seconds / MPX,
        "terms_seconds": best(lambda: engine.encode_series(part.block.series), 3),
        "multiply_adds_per_pixel": per_pixel,
        "multiply_adds_per_pair": per_pair,
        "share_of_peak": bound / seconds,
    }
    found["times_plain_512"] = found["engine_mpx_s"] / rates[512]
    found["times_plain_best"] = found["engine_mpx_s"] / max(rates.values())
    say(
        f"engine: {found['engine_mpx_s']:.3f} Mpx/s, {found['times_plain_512']:.1f} x plain at 512, "
        f"{found['times_plain_best']:.1f} x its best; {found['terms_seconds']:.2f} of {seconds:.2f} s for the series"
    )
    say(
        f"  {per_pixel} multiply-adds per pixel, {per_pair} per series cell: {100 * found['share_of_peak']:.0f} % of "
        "the matrix peak"
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
    found["differences"] = differences(checkpoint, part, 65_536 if quick else pixels)
    found["max_abs_difference"] = max(found["differences"].values())

    found["tiles"] = {}
    for count in (1, 4) if quick else (1, 4, 9, 16):
        tiles = [HOME] * 1 if count == 1 else TILES[:count]
        one = apart(stack, tiles, 1)
        found["tiles"][count] = one
        rate = one["pixels"] / one["seconds"] / MPX
        say(
            f"stack to COGs, {count} tiles: {one['seconds'] / count:.2f} s a tile, {rate:.3f} Mpx/s, "
            f"{one['peak_rss_mb']:.0f} MB at most"
        )
    found["days"] = {}
    for count in (1, 2) if quick else (1, 2, 5, 10):
        one = found["tiles"][1] if count == 1 else apart(stack, [HOME], count)
        found["days"][count] = one
        say(f"stack to COGs, one tile, {count} days: {one['seconds'] / count:.2f} s a day, {one['peak_rss_mb']:.0f} MB")
    tiles = TILES[: 1 if quick else 4]
    found["members_20"] = one = apart(stack, tiles, 1, 20)
    say(
        f"with 20 members, {len(tiles)} tiles: {one['seconds'] / len(tiles):.1f} s a tile, "
        f"{one['peak_rss_mb']:.0f} MB at most"
    )
    most = max(found["tiles"])
    last = found["tiles"][most]
    found |= {
        "end_to_end_mpx_s": last["pixels"] / last["seconds"] / MPX,
        "peak_rss_mb": max(one["peak_rss_mb"] for one in found["tiles"].values()),
        "conus_minutes": CONUS_TILES * last["seconds"] / most / 60,
    }
    say(f"CONUS, {CONUS_TILES} tiles, on this machine: {found['conus_minutes']:.0f} min a day")
    if torch.cuda.is_available():
        found["cuda"] = on_gpu(checkpoint, part)
    return found


def on_gpu(checkpoint: Checkpoint, part: Part) -> dict[str, Any]:
    """Measure the engine on a GPU, and the bus alone for the same bytes."""
    engine = Engine(checkpoint, device="cuda")
    engine_run(engine, part)
    rows, size = part.series_id.size, sum(values.nbytes for values in part.columns.values()) + part.series_id.nbytes
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


def describe() -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{(names or [platform.machine()])[0]}, {cores} cores, torch {torch.__version__}, {commit.stdout.strip()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers to a file")
    parser.add_argument("--stack", type=Path, default=Path("build/bench.zarr"), help="inputs; missing ones are fetched")
    parser.add_argument(
        "--quick", action="store_true", help="one to four tiles, two days, differences on part of a tile"
    )
    options = parser.parse_args()
    fill(options.stack, options.quick)
    found = run(options.stack, options.quick)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
