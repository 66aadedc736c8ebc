"""Batches killed at any moment and started again end with the same files.

The short forms are part of ``make test``; ``make stress`` runs the long one on twelve whole tiles of the demo world.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cache
from hashlib import sha256
from itertools import product
from pathlib import Path

import dask
import psutil
import pytest
import rasterio
import xarray as xr

from batch_world import SPAN, call, command, contents, leftovers, request, run
from mmnet_maps.files import read_json
from mmnet_maps.grid.tiles import TILE_PIXELS
from mmnet_maps.mapping.fill import fill_stack
from processes import descendants, start_interruptible


@pytest.fixture(scope="module")
def request_(stack: Path, model: Path) -> list[str | Path]:
    return request(stack, model)


def regions(root: Path) -> dict[tuple[int, ...], str]:
    """Return a hash of every day and tile that the Zarr store of a run marks as written."""
    found = {}
    for path in root.glob("*.zarr"):
        with xr.open_zarr(path, decode_times=False) as store:
            marks = store["issue"].to_numpy()
            for time_, *place in product(*map(range, marks.shape)):
                if marks[time_, *place]:
                    window = [slice(i * TILE_PIXELS, (i + 1) * TILE_PIXELS) for i in place]
                    layers = [store[name][time_, *window].to_numpy() for name in ("soil_moisture", "quality")]
                    found[time_, *place] = sha256(b"".join(layer.tobytes() for layer in layers)).hexdigest()
    return found


whole_regions = cache(regions)


def final_files(root: Path, start: str, end: str) -> Iterator[Path]:
    """Yield files under their final names; work folders come and go meanwhile."""
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if name.startswith(start) and name.endswith(end))


def assert_whole(root: Path, undisturbed: Path) -> int:
    """Assert that all final files can be read, that checksums of items hold, and that the store equals `undisturbed`.

    Return the number of items.
    """
    count = 0
    assert regions(root).items() <= whole_regions(undisturbed).items()
    for path in root.glob("2*/mosaic_*.vrt"):
        with rasterio.open(path) as data:
            data.read(1, out_shape=(TILE_PIXELS // 4, TILE_PIXELS // 4))
    for path in final_files(root, "h", ".json"):
        item = read_json(path)
        assert item, f"{path} is not whole"
        for asset in item["assets"].values():
            file = path.parent / asset["href"]
            assert asset["file:checksum"] == f"1220{sha256(file.read_bytes()).hexdigest()}", file
        count += 1
    for path in final_files(root, "h", ".tif"):
        with rasterio.open(path) as data:
            data.read(1)
    return count


def started(root: Path) -> set[Path]:
    """Return the maps that were begun, to kill a run in the middle of its work on any machine."""
    return {*root.glob("2*/.h*.partial"), *root.glob("2*/h*.json")}


def wait_for_more(root: Path, process: subprocess.Popen[bytes], before: set[Path], limit: float = 120) -> bool:
    """Wait until a run begins another map; return False when it has ended."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if process.poll() is not None:
            return False
        if started(root) - before:
            return True
        time.sleep(0.01)
    raise AssertionError("the run began no map")


def running(*arguments: str | Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Start a batch in a process of its own, which does not outlive the test."""
    return start_interruptible(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def assert_gone(processes: Sequence[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive, "workers outlived the command"


def kill_command(
    arguments: Sequence[str | Path],
    root: Path,
    undisturbed: Path,
    times: int,
    moments: random.Random,
    pause: float = 0.5,
) -> int:
    """Run a batch and kill it several times; return the number of runs killed before their end."""
    killed = 0
    for _ in range(times):
        with running(*arguments, "--out", root) as process:
            if wait_for_more(root, process, started(root)):
                time.sleep(moments.uniform(0, pause))
                mine = descendants(process)
                process.kill()
                killed += 1
                assert_gone(mine)
            process.communicate()
        assert_whole(root, undisturbed)
    return killed


def kill_workers(
    arguments: Sequence[str | Path], root: Path, undisturbed: Path, moments: random.Random, pause: float, most: int
) -> int:
    """Run a batch to its end while its workers are killed; return how many were."""
    killed = 0
    with running(*arguments, "--out", root) as process:
        while killed < most and wait_for_more(root, process, started(root), limit=300):
            time.sleep(moments.uniform(0, pause))
            workers = [one for one in descendants(process) if _is_worker(one)]
            if workers:
                moments.choice(workers).kill()
                killed += 1
            assert_whole(root, undisturbed)
        out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, (out.decode(), err.decode())
    return killed


def _is_worker(process: psutil.Process) -> bool:
    """Return whether a process is a worker: on Linux a fork of the server of forks, elsewhere one that was spawned."""
    with suppress(psutil.NoSuchProcess):
        mine, parents = (" ".join(one.cmdline()) for one in (process, process.parent() or process))
        return "spawn_main" in mine or (
            "multiprocessing.forkserver" in mine and "multiprocessing.forkserver" in parents
        )
    return False


@pytest.mark.slow
def test_a_command_that_is_killed_continues(
    tmp_path: Path, request_: list[str | Path], made: Path, workers: list[str]
) -> None:
    root = tmp_path / "maps"
    assert kill_command([*request_, "--workers", "2"], root, made, 3, random.Random(1)) >= 2
    done = call(*request_, "--out", root, *workers)
    assert done.returncode == 0, done.stderr
    assert contents(root) == contents(made)
    assert leftovers(root) == []


@pytest.mark.slow
def test_workers_that_are_killed_are_replaced(tmp_path: Path, request_: list[str | Path], made: Path) -> None:
    root = tmp_path / "maps"
    arguments = [*request_, "--workers", "2", "--retries", "20"]
    assert kill_workers(arguments, root, made, random.Random(2), 0.5, most=3) >= 1
    assert contents(root) == contents(made)
    assert leftovers(root) == []


@pytest.mark.slow
def test_workers_that_die_again_and_again_are_replaced(
    tmp_path: Path,
    request_: list[str | Path],
    made: Path,
    workers: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, over = tmp_path / "maps", threading.Event()
    monkeypatch.setattr("mmnet_maps.mapping.batch.cluster._CHECK_EVERY", 1.0)
    monkeypatch.setattr("mmnet_maps.mapping.batch.cluster._WITHOUT_WORKERS", 10.0)
    others = set(psutil.Process().children(recursive=True))

    def kill_for_a_while() -> None:
        while not started(root) and not over.wait(0.01):
            pass
        end = time.monotonic() + 4
        while time.monotonic() < end and not over.wait(0.1):
            for process in set(psutil.Process().children(recursive=True)) - others:
                if _is_worker(process):
                    process.kill()

    killer = threading.Thread(target=kill_for_a_while)
    killer.start()
    try:
        # Dask gives up a worker that has not come back after this time, for example because it died again.
        with dask.config.set({"distributed.deploy.lost-worker-timeout": "2s"}):
            done = call(*request_, "--out", root, "--workers", "2", "--retries", "50")
    finally:
        over.set()
        killer.join()
    if done.returncode:  # Dask may have given up its workers for good
        assert done.returncode == 4, (done.stdout, done.stderr)
        assert "none is left; finished maps are kept" in done.stderr
        again = call(*request_, "--out", root, *workers)
        assert again.returncode == 0, again.stderr
    assert contents(root) == contents(made)
    assert leftovers(root) == []


@contextmanager
def own_cluster(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a scheduler and a worker; give the address and the scheduler's process."""
    folder.mkdir()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    file = folder / "scheduler.json"
    local = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", *local]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--death-timeout", "10", *local]
    with ExitStack() as processes:
        running_scheduler = processes.enter_context(start_interruptible(scheduler, **quiet))
        end = time.monotonic() + 60
        while not file.exists() or not file.read_text().strip():
            assert time.monotonic() < end
            time.sleep(0.1)
        processes.enter_context(start_interruptible([*worker, "--local-directory", str(folder)], **quiet))
        yield json.loads(file.read_text())["address"], running_scheduler


@pytest.mark.slow
def test_a_scheduler_that_is_killed(tmp_path: Path, request_: list[str | Path], made: Path, workers: list[str]) -> None:
    root = tmp_path / "maps"
    with (
        own_cluster(tmp_path / "cluster") as (address, scheduler),
        running(*request_, "--out", root, "--scheduler", address) as process,
    ):
        assert wait_for_more(root, process, set())
        scheduler.kill()
        _, err = process.communicate(timeout=120)
        assert process.returncode == 4, err.decode()
        assert "the Dask scheduler is gone; finished maps are kept" in err.decode()
    assert_whole(root, made)
    done = call(*request_, "--out", root, *workers)
    assert done.returncode == 0, done.stderr
    assert contents(root) == contents(made)
    assert leftovers(root) == []


@pytest.mark.stress
def test_twelve_tiles_on_three_days_with_everything_killed(tmp_path: Path) -> None:
    ids = ",".join(f"h{h:02d}v{v:02d}" for v in (2, 3, 4) for h in (5, 6, 7, 8))
    stack = Path(os.environ.get("MMNET_STRESS_STACK", tmp_path / "s.zarr"))
    fill_stack(None, SPAN, tiles=ids, stack=stack, source="demo", quiet=True)
    options = ["--tiles", ids, "--date", SPAN, "--stack", stack, "-q", "--retries", "1000"]
    moments = random.Random(3)
    whole, one, two = (tmp_path / name for name in ("whole", "one", "two"))
    before = time.monotonic()
    done = run(*options, "--out", whole, "--workers", "2", timeout=3600)
    assert done.returncode == 0, done.stderr
    print(done.stdout, f"undisturbed: {time.monotonic() - before:.0f} s")
    workers = [*options, "--workers", "2"]
    assert kill_command(workers, one, whole, 20, moments, 4.0) == 20
    print(f"the command was killed 20 times, with {assert_whole(one, whole)} of 36 maps there at last")
    done = run(*workers, "--out", one, timeout=3600)
    assert done.returncode == 0, done.stderr
    assert contents(one) == contents(whole)
    assert leftovers(one) == []
    with (
        own_cluster(tmp_path / "cluster") as (address, scheduler),
        running(*options, "--out", two, "--scheduler", address) as process,
    ):
        assert wait_for_more(two, process, set())
        time.sleep(12)
        scheduler.kill()
        _, err = process.communicate(timeout=120)
        assert process.returncode == 4, err.decode()
    print(f"the scheduler was killed, with {assert_whole(two, whole)} of 36 maps there")
    killed = kill_workers(workers, two, whole, moments, 4.0, most=30)
    print(f"workers were killed {killed} times")
    assert contents(two) == contents(whole)
    assert leftovers(two) == []
