"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from analytic import AnalyticSource, make_model
from mmnet_maps.errors import MMNetError

pytest.register_assert_rewrite("command_line")

# The tests also run on an installed package, from a copy of this folder beside one of pyproject.toml.
IN_CHECKOUT = (Path(__file__).parents[1] / "mmnet_maps").is_dir()
OF_THE_CHECKOUT = (
    *("test_architecture.py", "test_benchmarks.py", "test_docs.py", "test_docs_site.py", "test_examples.py"),
    *("test_language.py", "test_serve.py", "integration/test_install.py", "integration/test_first_hour.py"),
    *("integration/test_docs_commands.py", "integration/test_zion.py", "sources/files/test_appeears.py"),
    "sources/open/test_fault_table.py",
)
"""Modules that test documentation, examples, benchmarks and the build: files that are not in the package."""

collect_ignore = [] if IN_CHECKOUT else [*OF_THE_CHECKOUT]

# A busy machine must not fail a test: how long an example takes is no property that is tested.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.fixture
def source() -> AnalyticSource:
    """A fresh analytic source."""
    return AnalyticSource()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that use a real service or take an hour, unless their variable is set, and those of missing files."""
    for mark, variable, reason in (
        ("live", "MMNET_LIVE", "uses the services themselves"),
        ("stress", "MMNET_STRESS", "takes up to an hour: make stress"),
    ):
        if os.environ.get(variable) != "1":
            for item in items:
                if mark in item.keywords:
                    item.add_marker(pytest.mark.skip(reason=f"{reason}; set {variable}=1"))
    for item in items:
        if "checkout" in item.keywords and not IN_CHECKOUT:
            item.add_marker(pytest.mark.skip(reason="tests a file of the source folder, which is not here"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the modules that are left out."""
    if not IN_CHECKOUT:
        terminalreporter.write_line(f"not in the source folder, left out: {', '.join(OF_THE_CHECKOUT)}")


@pytest.fixture(autouse=True)
def _own_folders(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> None:
    """Keep the user's cache, settings and environment away from the tests."""
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    signed_in_by = ("GOOGLE_APPLICATION_CREDENTIALS", "EARTHENGINE_PROJECT", "GOOGLE_CLOUD_PROJECT")
    for name in ("MMNET_STACK", *(() if request.node.get_closest_marker("live") else signed_in_by)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("mmnet_maps.stack.resolve.signed_in", lambda: False)
    monkeypatch.setenv("MPLBACKEND", "agg")  # commands set these two
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for disks: only a power cut shows whether files were flushed."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


_MESSAGES: list[str] = []


def _remember(self: MMNetError, message: str = "", init: Callable[..., None] = MMNetError.__init__) -> None:
    init(self, message)
    _MESSAGES.append(str(self))


MMNetError.__init__ = _remember  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _short_messages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hold every message of an error to 300 characters without coordinate systems in WKT, wherever it is raised."""
    _MESSAGES.clear()
    yield
    base = re.escape(str(tmp_path_factory.getbasetemp()))
    for message in _MESSAGES:
        plain = re.sub(rf"{base}(/[^/\s]*)?", "tmp", message)
        assert len(plain) <= 300, f"{len(plain)} characters: {plain}"
        assert not re.search(r"(GEOGCS|GEOGCRS|PROJCS|PROJCRS)\[|Traceback", plain), plain


@pytest.fixture(scope="session")
def demo_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the cache folder of all tests, so that the demo world is fetched once for an area and day."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMNET_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small MMNet with random weights."""
    return make_model(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="session")
def corner_stack(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """Inputs for three days at the corner of four tiles."""
    from batch_world import fill

    return fill(tmp_path_factory.mktemp("corner") / "s.zarr", model).path


@pytest.fixture(scope="session")
def workers() -> Iterator[list[str]]:
    """Return the options for two workers that all runs share; starting them takes longer than the maps of a run."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0") as cluster:
        yield ["--scheduler", cluster.scheduler_address]
