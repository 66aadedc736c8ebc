"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from analytic import AnalyticSource, make_model

# A busy machine must not fail a test: how long an example takes is no property that is tested.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.fixture
def source() -> AnalyticSource:
    """A fresh analytic source."""
    return AnalyticSource()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that ask a real service, or take an hour, run only when somebody asks for them."""
    for mark, variable, reason in (
        ("live", "MMNET_LIVE", "asks Earth Engine itself"),
        ("stress", "MMNET_STRESS", "takes up to an hour: make stress"),
    ):
        if os.environ.get(variable) != "1":
            for item in items:
                if mark in item.keywords:
                    item.add_marker(pytest.mark.skip(reason=f"{reason}; set {variable}=1"))


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees the user's cache, settings or environment."""
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    for name in ("MMNET_STACK", "GOOGLE_APPLICATION_CREDENTIALS", "EARTHENGINE_PROJECT", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("mmnet_maps.stack.resolve.signed_in", lambda: False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small MMNet with random weights."""
    return make_model(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="session")
def corner_stack(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """Inputs for three days at the corner of four tiles."""
    from batch_world import fill

    return fill(tmp_path_factory.mktemp("corner") / "s.zarr", model).path
