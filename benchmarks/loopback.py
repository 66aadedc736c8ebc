"""A loopback server of the open services in a process of its own, which counts what it sends.

Its cost is not the product's, and it outlives a client that is killed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

GROUPS = {
    "/files/hls2": "optical", "/files/sentinel": "sar", "/files/modis": "lst", "/opendap": "smap", "/wcs": "landcover",
    "/3dep": "terrain", "/polaris": "soil", "/thredds/ncss": "weather",
}  # fmt: skip
"""The group whose values a path holds; other requests search catalogues and sign addresses."""


def group_of(path: str) -> str:
    """Return the group of a request."""
    return next((name for start, name in GROUPS.items() if path.startswith(start) and path[-4:] != ".xml"), "other")


@dataclass
class Meter:
    """Answers, at ``/meter``, what the server sent since the last answer, and the processor seconds that it took.

    `again` counts the requests among them that were answered before, but for their signatures; with ``?forget`` in the
    path, those that come later are compared with each other alone.
    """

    seconds: float = 0.0
    known: set[int] = field(default_factory=set)

    def answer(self, asked: Any, server: Any) -> Any:
        """Answer a request; None for a path of another service."""
        from fake_open import Reply

        if asked.path != "/meter":
            return None
        log, server.log = server.log, []
        requests, again, sent = Counter[str](), Counter[str](), Counter[str]()
        for one, _, size in log:
            group = group_of(one.path)
            query = sorted(item for item in one.query.items() if item[0] not in ("se", "sig"))
            identity = hash((one.method, one.path, str(query), one.headers.get("range"), one.body))
            requests[group], sent[group] = requests[group] + 1, sent[group] + size
            again[group] += identity in self.known
            self.known.add(identity)
        if "forget" in asked.query:
            self.known.clear()
        seconds, self.seconds = time.process_time() - self.seconds, time.process_time()
        return Reply.of_json({"requests": requests, "again": again, "bytes": sent, "seconds": seconds})


def serve(server: Any, use: list[Any]) -> None:
    """Print the addresses of a server as the YAML of a source of some products, and serve until the input ends."""
    from open_setup import loopback_config

    server.serve(Meter())
    print(json.dumps({"url": server.url, "config": loopback_config(server, use)}), flush=True)
    sys.stdin.read()


@contextmanager
def serving(command: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Start a command that calls `serve`; return the server's address and the YAML of a source; end it at last."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        try:
            yield json.loads(child.stdout.readline())
        finally:
            child.stdin.close()


def metered(url: str, *, forget: bool = False) -> dict[str, Any]:
    """Return what a server sent since the last call; forget it, so that none of it counts as sent again."""
    with urllib.request.urlopen(f"{url}/meter{'?forget=' if forget else ''}") as answer:  # noqa: S310 (loopback)
        found: dict[str, Any] = json.load(answer)
    return found
