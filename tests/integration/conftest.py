"""What batches of several modules share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster

from batch_world import fill


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """Inputs for three days at the corner of four tiles."""
    return fill(tmp_path_factory.mktemp("batch") / "s.zarr", model).path


@pytest.fixture(scope="session")
def workers() -> Iterator[list[str]]:
    """The options for two workers that all runs share: to start some for each takes longer than its maps."""
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0") as cluster:
        yield ["--scheduler", cluster.scheduler_address]
