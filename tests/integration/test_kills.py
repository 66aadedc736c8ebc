"""A fetch that is killed at any moment, and started again, ends with the same store."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import zarr
from processes import start_interruptible

from analytic import AnalyticSource
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid, tiles
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.stack.store import Stack

GRID = target_grid(read_aoi("-119.62,47.00,-119.20,47.30"))
DAYS = [date(2021, 8, 7), date(2021, 8, 8)]
SUMMER = slice(*((date(2021, month, 1) - date(2015, 1, 1)).days for month in (4, 12)))
NEEDS = Needs(snapshot=("smap", "red", "vv", "landcover"), series=("pr", "lst"), steps=4, includes_day=True)


def run(path: str) -> None:
    """What the killed process does: fetch, and say what it has done."""
    write = Stack.write

    def told(*arguments: object) -> None:
        write(*arguments)
        print("wrote", flush=True)

    Stack.write = told
    print("ready", flush=True)
    fetch(path, [AnalyticSource()], Demand(grid=GRID, tiles=tiles(GRID), needs=NEEDS, days=DAYS), quiet=True)


def arrays(path: Path) -> tuple[int, dict[str, np.ndarray]]:
    """How many blocks of a store hold something, and the arrays of that summer, cut to the rectangle around these."""
    stack, root, found, blocks = Stack(path), zarr.open_group(path, mode="r"), {}, 0
    for group in stack.groups.values():
        marked = root[f"{group.name}/fetched"]
        marks = np.asarray(marked[SUMMER] if marked.ndim == 3 else marked)
        found[f"{group.name} marks"] = marks
        there = marks.reshape(-1, *marks.shape[-2:]) > 1  # (day or one, rows, cols)
        for day in np.flatnonzero(there.any(axis=(1, 2))):
            blocks += int(there[day].sum())
            rows, cols = np.nonzero(there[day].any(axis=1))[0], np.nonzero(there[day].any(axis=0))[0]
            cells = tuple(slice(k.min() * group.block, (k.max() + 1) * group.block) for k in (rows, cols))
            index = (SUMMER.start + int(day), *cells) if marks.ndim == 3 else cells
            for variable in group.variables:
                found[f"{group.name} {variable} {day}"] = np.asarray(root[f"{group.name}/{variable}"][index])
    return blocks, found


@pytest.mark.slow
@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.stress)])
def test_kills_change_nothing(tmp_path: Path, kills: int) -> None:
    moments = random.Random(5)
    command = [sys.executable, "-c", f"import test_kills; test_kills.run({str(tmp_path / 's.zarr')!r})"]
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    for _ in range(kills):
        environment = {"PYTHONPATH": ":".join(paths), "PATH": "/usr/bin:/bin"}
        with start_interruptible(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(1 + moments.randrange(6))]
            time.sleep(moments.uniform(0.0, 0.03))
            process.kill()
        assert lines == ["ready\n", *["wrote\n"] * (len(lines) - 1)]
    killed, _ = arrays(tmp_path / "s.zarr")
    for name in ("s.zarr", "whole.zarr"):
        fetch(
            tmp_path / name,
            [AnalyticSource()],
            Demand(grid=GRID, tiles=tiles(GRID), needs=NEEDS, days=DAYS),
            quiet=True,
        )
    (_, found), (blocks, expected) = arrays(tmp_path / "s.zarr"), arrays(tmp_path / "whole.zarr")
    assert 0 < killed < blocks, "the kills came before the first block or after the last"
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert not [path.name for path in tmp_path.iterdir() if "tmp" in path.name]
