"""A small batch for tests: an area at the corner of four tiles, and the command run on it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import date
from io import StringIO
from pathlib import Path

import pytest

from analytic import AnalyticSource
from mmnet_maps import cli
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid, touched_tiles
from mmnet_maps.mapping.request import needs_of
from mmnet_maps.model.checkpoint import load_checkpoint
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand
from mmnet_maps.stack.store import Stack
from processes import start_interruptible

CORNER = "-119.3135,47.7767,-119.2735,47.8067"
TILES = ("h06v02", "h07v02", "h06v03", "h07v03")
DAYS = (date(2021, 8, 7), date(2021, 8, 8), date(2021, 8, 9))
SPAN = "2021-08-07/2021-08-09"


def fill(path: Path, model: Path, days: Sequence[date] = DAYS, source: AnalyticSource | None = None) -> Stack:
    """Fill a stack with the inputs for maps of the corner, from closed formulas."""
    area = read_aoi(CORNER)
    grid = target_grid(area)
    needs = needs_of(load_checkpoint(model).spec)
    return fetch(
        path,
        [source or AnalyticSource()],
        Demand(grid=grid, tiles=touched_tiles(area, grid), needs=needs, days=days),
        quiet=True,
    )


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of ``mmnet batch``."""
    return [sys.executable, "-c", "from mmnet_maps.cli import main; main()", "batch", *map(str, arguments)]


def run(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run ``mmnet batch`` in a process of its own to its end; none of its processes outlives it."""
    pipe = subprocess.PIPE
    with start_interruptible(command(*arguments), stdout=pipe, stderr=pipe, text=True) as process:
        out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(command(*arguments), process.returncode, out, err)


def request(stack: Path, model: Path) -> list[str | Path]:
    """Return the options of a batch of the corner on three days."""
    return ["--aoi", CORNER, "--date", SPAN, "--stack", stack, "--model", model, "--name", "corner", "-q"]


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``mmnet batch`` in this process."""
    words = ["mmnet", "batch", *map(str, arguments)]
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
    ):
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            cli.main()
    return subprocess.CompletedProcess(words, int(end.value.code or 0), out.getvalue(), err.getvalue())


def contents(root: Path) -> dict[str, str]:
    """Return a hash of every file of the product by its path, without reports, which hold times, and hidden files."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] != "reports" and not _hidden(path.relative_to(root))
    }


def leftovers(root: Path) -> list[Path]:
    """Return hidden files and folders, other than the locks."""
    return [path for path in root.rglob(".*") if path.name not in (".mmnet-batch", ".mmnet-batch.lock")]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
