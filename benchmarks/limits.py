"""Measure the limits of this machine: matrix products, copying memory and writing to disk; prints JSON.

python benchmarks/limits.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def best(run: Callable[[], Any], times: int = 3) -> float:
    """Return the seconds of the fastest of several runs."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def matrix_peak(precision: torch.dtype) -> float:
    """Measure products of matrices, GFLOP/s."""
    a = torch.randn(3072, 3072).to(precision)
    out = torch.empty_like(a)
    return 2 * 3072**3 / best(lambda: torch.mm(a, a, out=out)) / 1e9


def disk(folder: Path) -> float:
    """Measure writing a file of 512 MB until it is on the disk, GB/s."""
    block, path = os.urandom(2**24), folder / "limits.partial"

    def write() -> None:
        with path.open("wb") as file:
            for _ in range(32):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())

    try:
        return 32 * len(block) / best(write, 2) / 1e9
    finally:
        path.unlink(missing_ok=True)


def limits(folder: Path) -> dict[str, float]:
    """Measure all limits, with one core and with all."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: dict[str, float] = {"cores": cores, "disk_gb_s": disk(folder)}
    for threads in sorted({1, cores}):
        torch.set_num_threads(threads)
        big, copy = torch.ones(2**27), torch.empty(2**27)
        found |= {
            f"float32_gflop_s_{threads}": matrix_peak(torch.float32),
            f"bfloat16_gflop_s_{threads}": matrix_peak(torch.bfloat16),
            f"memory_gb_s_{threads}": 2 * big.nbytes / best(lambda: copy.copy_(big)) / 1e9,  # noqa: B023
        }
    return found


if __name__ == "__main__":
    print(json.dumps({name: round(value, 2) for name, value in limits(Path(sys.argv[1])).items()}))
