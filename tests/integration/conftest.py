"""Fixtures shared by the tests of batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster


@pytest.fixture(scope="session")
def stack(corner_stack: Path) -> Path:
    return corner_stack


@pytest.fixture(scope="session")
def workers() -> Iterator[list[str]]:
    """Return the options for two workers that all runs share; starting them takes longer than the maps of a run."""
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0") as cluster:
        yield ["--scheduler", cluster.scheduler_address]
