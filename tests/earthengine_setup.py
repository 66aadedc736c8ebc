"""The packaged sources YAML of Earth Engine, pointed at a loopback server, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from earthengine_catalog import Dataset
from fake_earthengine import FakeEarthEngine
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid
from mmnet_maps.resources import packaged

SOLE = target_grid(read_aoi("-119.68,47.05,-119.60,47.09"))
"""62 × 57 pixels where the two optical tiles overlap."""


def config(folder: Path, server: FakeEarthEngine, **changes: Any) -> Path:
    """Write the packaged YAML with some keys changed."""
    values = yaml.safe_load((packaged("configs") / "earthengine.yaml").read_text())
    path = folder / "ee.yaml"
    path.write_text(yaml.safe_dump({**values, "url": server.url, "deadline": 30, **changes}))
    return path


def using(folder: Path, server: FakeEarthEngine | None, product: str) -> Path:
    """Write the packaged YAML with another product in use for its variables; without a server, for the real service."""
    values = yaml.safe_load((packaged("configs") / "earthengine.yaml").read_text())
    values["use"] = [product, *values["use"]]
    path = folder / "ee.yaml"
    path.write_text(yaml.safe_dump(values | ({"url": server.url, "deadline": 30} if server else {})))
    return path


@contextmanager
def served(server: FakeEarthEngine, dataset: Dataset, **changes: Any) -> Iterator[None]:
    """Let a server have another version of a dataset for a while."""
    known = server.datasets
    server.datasets = {**known, dataset.id: replace(dataset, **changes)}
    try:
        yield
    finally:
        server.datasets = known
