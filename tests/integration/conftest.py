"""Fixtures shared by the tests of batches."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_world import request, run


@pytest.fixture(scope="session")
def stack(corner_stack: Path) -> Path:
    return corner_stack


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, stack: Path, model: Path) -> Path:
    """Run a batch undisturbed and return its output, which no test changes."""
    root = tmp_path_factory.mktemp("made") / "maps"
    done = run(*request(stack, model), "--out", root, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "Dask dashboard: http://127.0.0.1:" in done.stderr
    assert "12 maps made" in done.stdout
    return root
