"""What the tests of the Earth Engine source share: a loopback service, and the packaged products on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from earthengine_setup import config
from fake_earthengine import FakeEarthEngine, offline
from mmnet_maps.sources.earthengine.source import EarthEngineSource


@pytest.fixture(scope="module")
def service() -> Iterator[FakeEarthEngine]:
    """The loopback service of a module."""
    with FakeEarthEngine() as running, offline():
        yield running


@pytest.fixture
def server(service: FakeEarthEngine, monkeypatch: pytest.MonkeyPatch) -> FakeEarthEngine:
    """The loopback service without faults and log; the client does not wait between tries."""
    service.reset()
    monkeypatch.setattr("mmnet_maps.sources.earthengine.client._FIRST_WAIT", 0.005)
    return service


@pytest.fixture
def source(tmp_path: Path, server: FakeEarthEngine) -> EarthEngineSource:
    """The packaged products at the loopback service."""
    return EarthEngineSource(config(tmp_path, server))
