"""What the tests of open services share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_open import FakeOpen
from mmnet_maps.sources.open import http


@pytest.fixture
def server() -> Iterator[FakeOpen]:
    """A loopback server without services."""
    with FakeOpen() as fake:
        yield fake


@pytest.fixture(autouse=True)
def _own_login(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's logins and received files away, and do not wait between tries unless a service demands it.

    Live tests use the logins.
    """
    if request.node.get_closest_marker("live"):
        return
    for name in ("EARTHDATA_TOKEN", "EARTHDATA_USERNAME", "EARTHDATA_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(http, "_FIRST_WAIT", 0.01)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which are recorded in place of waiting."""
    found: list[float] = []

    class Event(http.Event):
        def wait(self, timeout: float | None = None) -> bool:
            found.append(timeout or 0)
            return False

    monkeypatch.setattr(http, "Event", Event)
    return found
