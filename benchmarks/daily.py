"""Measure what a day of CONUS takes on this machine, and how it changes with cores, threads and days in a row."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from against import DAY, HERE, TILES, batch
from measure import Code, Cost, measured

CONUS_TILES = 869  # `mmnet_maps.grid.tiles.conus_tiles`, which a test compares
CONUS_BLOCK = [*TILES, *(tile for v in range(2, 7) for h in range(5, 13) if (tile := f"h{h:02d}v{v:02d}") not in TILES)]
GPU_S = 0.018  # seconds of a tile on an NVIDIA H100, docs/log.md
GPU_CORES = 16


class MemoryWatch:
    """Samples the memory of the processes that this one has started, and how many tiles are finished."""

    def __init__(self, maps: Path, every: float = 0.5) -> None:
        self.maps, self.every = maps, every
        self.seen: list[tuple[int, float]] = []  # finished tiles, MB of the largest process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        import psutil

        while not self._over.wait(self.every):
            sizes = [0]
            for process in psutil.Process().children(recursive=True):
                try:
                    sizes.append(process.memory_info().rss)
                except psutil.Error:  # it has ended
                    continue
            self.seen.append((len([*self.maps.glob(f"{DAY:%Y%m%d}/h*.json")]), max(sizes) / 1e6))

    def quarters(self, tiles: int) -> list[float]:
        """Return the largest process, MB, while each quarter of the tiles was made."""
        parts = [[mb for done, mb in self.seen if tiles * k <= 4 * done < tiles * (k + 1)] for k in range(4)]
        return [round(max(part, default=0.0)) for part in parts]


def folder_bytes(folder: Path, pattern: str) -> int:
    """Return the bytes of the files below a folder whose names match."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def conus_day(code: Code, folder: Path, tiles: Sequence[str], few: int) -> dict[str, Any]:
    """Extrapolate a day of CONUS from some tiles with two workers: minutes, core-hours, bytes, memory."""
    start = batch(code, tiles[:few], folder / "few")
    maps = folder / "many" / "maps"
    with MemoryWatch(maps) as watch:
        many = batch(code, tiles, folder / "many")
    further = many.less(start, len(tiles) - few)
    store = sum(folder_bytes(path, "*") for path in maps.glob("*.zarr"))
    cogs = folder_bytes(maps, "*.tif")
    found = {
        "tiles": len(tiles),
        "seconds": many.wall,
        "further_tile": further.as_dict(),
        "conus_minutes": (many.wall + (CONUS_TILES - len(tiles)) * further.wall) / 60,
        "conus_core_minutes": (many.core_s + (CONUS_TILES - len(tiles)) * further.core_s) / 60,
        "cog_bytes_a_tile": cogs / len(tiles),
        "zarr_bytes_a_tile": store / len(tiles),
        "conus_gb": CONUS_TILES * (cogs + store) / len(tiles) / 1e9,
        "worker_mb": many.peak_mb,
        "worker_mb_by_quarter": watch.quarters(len(tiles)),
    }
    print(
        f"a day of CONUS, {CONUS_TILES} tiles, extrapolated from {len(tiles)} with two workers: "
        f"{found['conus_minutes']:.1f} min, {found['conus_core_minutes']:.0f} core-minutes, "
        f"{found['conus_gb']:.1f} GB\n"
        f"  a further tile: {further.wall:.2f} s, {further.user:.2f} core-s user and {further.system:.2f} system\n"
        f"  largest worker {many.peak_mb:.0f} MB; by quarter of the tiles {found['worker_mb_by_quarter']} MB",
        flush=True,
    )
    return found


def by_cores(code: Code, folder: Path, tiles: Sequence[str], few: int) -> dict[str, float]:
    """Measure tiles a minute of `mmnet batch` with one and with two workers, start and end left out."""
    found = {}
    for workers in (1, 2):
        costs = [batch(code, tiles[:count], folder / "cores", workers=workers) for count in (few, len(tiles))]
        found[f"tiles_a_minute_{workers}"] = 60 / costs[1].less(costs[0], len(tiles) - few).wall
    one, two = found.values()
    print(f"mmnet batch: {one:.1f} tiles a minute with one worker, {two:.1f} with two ({two / one:.2f} x)", flush=True)
    return found


def reading(code: Code, folder: Path, tiles: Sequence[str], threads: Sequence[int]) -> dict[int, float]:
    """Measure how many tiles a second are read by some threads of one process."""
    command = [sys.executable, str(HERE / "reading.py"), str(code.stack), str(DAY), ",".join(tiles)]
    text = measured([*command, *map(str, threads)], code, folder)[1]
    found = {int(count): rate for count, rate in json.loads(text).items()}
    print("read, tiles a second by threads:", ", ".join(f"{n}: {rate:.2f}" for n, rate in found.items()), flush=True)
    return found


def days_in_a_row(parts: dict[str, Cost], days: int) -> float:
    """Return what several days of a tile together cost, of so many single days, in core-seconds."""
    share = parts["days"].core_s / (days * parts["map"].core_s)
    print(
        f"{days} days of one tile: {parts['days'].core_s:.2f} core-s together, {share:.2f} of {days} single days "
        f"({parts['map'].core_s:.2f} each)",
        flush=True,
    )
    return share


def with_gpu(parts: dict[str, Cost]) -> dict[str, float]:
    """Extrapolate a machine of sixteen cores with a GPU: the cores read and write, the GPU computes.

    Nothing of it is measured together. Cores are taken to scale, the GPU's time is that of the log, and reading,
    computing and writing to overlap, so that the slowest of them decides.
    """
    cores = (parts["map"].core_s - parts["series"].core_s - parts["pixel"].core_s) / GPU_CORES
    seconds = max(cores, GPU_S)
    found = {"cores_s": cores, "gpu_s": GPU_S, "gpu_busy": GPU_S / seconds, "conus_s": CONUS_TILES * seconds}
    print(
        f"extrapolated to {GPU_CORES} such cores with a GPU: {cores:.3f} s of the cores and {GPU_S:.3f} s of the GPU a "
        f"tile, which is busy {100 * found['gpu_busy']:.0f} % of the time; CONUS {found['conus_s']:.0f} s",
        flush=True,
    )
    return found
