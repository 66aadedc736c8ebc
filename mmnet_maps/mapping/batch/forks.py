"""The process that workers on this machine are forked from: it imports once what all of them need."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver
from typing import Any

METHOD = "forkserver" if sys.platform == "linux" else "spawn"
"""How workers are started. Elsewhere than on Linux, a fork breaks libraries of the system."""

_MODULES = [
    "mmnet_maps.mapping.batch.preloaded",
    "mmnet_maps.cli",
    "mmnet_maps.mapping.batch.worker",
    "mmnet_maps.mapping.smap_consistency",
    "mmnet_maps.model.engine",
    "mmnet_maps.product.day_writer",
    "mmnet_maps.product.zarr_store",
    "distributed.nanny",
    "pystac",
    "zarrs",
]

# The arrays of a tile are of some MB each. By default glibc returns such an array to the system when it is freed, and
# the system clears other memory for the next one, more than a second a tile. Here the memory of one tile is kept for
# the next, and all threads share it. 32 MiB is the highest threshold of older versions of glibc.
_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")},
}


def start_preloading() -> None:
    """Start the process, once; it imports in the background, and ends with this one at the latest.

    It starts no threads, and none of the libraries does while it is imported.
    """
    if METHOD != "forkserver":
        return
    multiprocessing.set_forkserver_preload(_MODULES)
    before = dict(os.environ)
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in before})
    try:
        forkserver.ensure_running()
    finally:
        for name in _ENVIRONMENT.keys() - before.keys():
            del os.environ[name]


def stop_preloading() -> None:
    """End the process and wait for it, so that what its workers, which have ended, took is accounted to this one."""
    if METHOD == "forkserver":
        server: Any = vars(forkserver)["_forkserver"]  # there is no public way
        if server._forkserver_pid is not None:
            os.kill(server._forkserver_pid, signal.SIGKILL)  # by itself it takes a quarter of a second to end
        server._stop()
