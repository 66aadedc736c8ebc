"""A fetch that is killed at any moment and started again ends with the same store."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import zarr

from analytic import source_of
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid, tiles
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.stack.store import Stack
from processes import start_interruptible

GRID = target_grid(read_aoi("-119.62,47.00,-119.20,47.30"))
DAYS = [date(2021, 8, 7), date(2021, 8, 8)]
SUMMER = slice(*((date(2021, month, 1) - date(2015, 1, 1)).days for month in (4, 12)))
NEEDS = Needs(snapshot=("smap", "red", "vv", "landcover"), series=("pr", "lst"), steps=4, includes_day=True)


def run(path: str) -> None:
    """Fetch in the process that is killed; each write waits for a line from the test."""
    write = Stack.write

    def write_when_asked(*arguments: object) -> None:
        sys.stdin.readline()
        write(*arguments)
        print("wrote", flush=True)

    Stack.write = write_when_asked  # type: ignore[method-assign, assignment]
    print("ready", flush=True)
    demand = Demand(grid=GRID, tiles=tiles(GRID), needs=NEEDS, days=DAYS)
    fetch(path, [source_of(NEEDS)], demand, quiet=True)


def arrays(path: Path) -> tuple[int, dict[str, np.ndarray]]:
    """Count the blocks that hold values, and read the arrays of that summer, cut to a rectangle around them."""
    stack, root, found, blocks = Stack(path), zarr.open_group(path, mode="r"), {}, 0
    for group in stack.groups.values():
        marked = root[f"{group.name}/fetched"]
        marks = np.asarray(marked[SUMMER] if marked.ndim == 3 else marked)
        found[f"{group.name} marks"] = marks
        valued = marks.reshape(-1, *marks.shape[-2:]) > 1  # (day or one, rows, cols)
        for day in np.flatnonzero(valued.any(axis=(1, 2))):
            blocks += int(valued[day].sum())
            rows, cols = np.nonzero(valued[day].any(axis=1))[0], np.nonzero(valued[day].any(axis=0))[0]
            cells = tuple(slice(k.min() * group.block, (k.max() + 1) * group.block) for k in (rows, cols))
            index = (SUMMER.start + int(day), *cells) if marks.ndim == 3 else cells
            for variable in group.variables:
                found[f"{group.name} {variable} {day}"] = np.asarray(root[f"{group.name}/{variable}"][index])
    return blocks, found


@pytest.mark.slow
@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.stress)])
def test_kills_change_nothing(tmp_path: Path, kills: int) -> None:
    moments = random.Random(5)
    code = f"import test_kills; test_kills.run({str(tmp_path / 's.zarr')!r})"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    for _ in range(kills):
        with start_interruptible(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join(filter(None, paths)), "PATH": "/usr/bin:/bin"},
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "ready\n"
            for _ in range(moments.randrange(6)):
                print(file=process.stdin, flush=True)
                assert process.stdout.readline() == "wrote\n"
            print(file=process.stdin, flush=True)
            time.sleep(moments.uniform(0.0, 0.03))  # before, within or after one more write, and never further
            process.kill()
    killed, _ = arrays(tmp_path / "s.zarr")
    demand = Demand(grid=GRID, tiles=tiles(GRID), needs=NEEDS, days=DAYS)
    for name in ("s.zarr", "whole.zarr"):
        fetch(tmp_path / name, [source_of(NEEDS)], demand, quiet=True)
    (_, found), (blocks, expected) = arrays(tmp_path / "s.zarr"), arrays(tmp_path / "whole.zarr")
    assert 0 < killed < blocks, "the kills came before the first block or after the last"
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert not [path.name for path in tmp_path.iterdir() if "tmp" in path.name]
