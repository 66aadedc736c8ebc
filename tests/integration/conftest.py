"""Fixtures shared by the tests of batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster

from batch_world import request, run


@pytest.fixture(scope="session")
def stack(corner_stack: Path) -> Path:
    return corner_stack


@pytest.fixture(scope="session")
def workers() -> Iterator[list[str]]:
    """Return the options for two workers that all runs share; starting them takes longer than the maps of a run."""
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0") as cluster:
        yield ["--scheduler", cluster.scheduler_address]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, stack: Path, model: Path) -> Path:
    """Run a batch undisturbed and return its output, which no test changes."""
    root = tmp_path_factory.mktemp("made") / "maps"
    done = run(*request(stack, model), "--out", root, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "Dask dashboard: http://127.0.0.1:" in done.stderr
    assert "12 maps made" in done.stdout
    return root
