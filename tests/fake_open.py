"""A loopback server in place of the open services: procedural files by ranges, a STAC API, tokens, and faults.

A test needs only ``with FakeOpen() as server: ...`` and what it serves: ``server.serve(StacApi(...))``. A service is
any object with ``answer(request) -> Reply | None``; the first that knows a path answers it. Files are procedural: a
GeoTIFF
without compression whose blocks are computed when their bytes are asked for (:class:`Tiff`).
"""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request: method, path, query, headers (names in lower case) and body."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class File(Protocol):
    """Bytes of which parts are asked for."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, stop: int) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer: bytes, or a file that is sent by ranges; all at once, or a byte after each pause, in seconds."""

    body: bytes | File = b""
    status: int = 200
    kind: str = "application/octet-stream"
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: float = 0

    @classmethod
    def of_json(cls, value: Any, status: int = 200, **headers: str) -> Reply:
        """An answer in JSON."""
        return cls(body=json.dumps(value).encode(), status=status, kind="application/json", headers=headers)


class Service(Protocol):
    """What a server answers with."""

    def answer(self, asked: Asked, server: FakeOpen) -> Reply | None: ...


Fault = Callable[[Asked], "Reply | None"]


class FakeOpen:
    """The server; ``with`` starts and stops it.

    Parameters
    ----------
    port
        Its port; default: a free one.

    Attributes
    ----------
    log
        The requests so far, with status and number of bytes sent.
    faults
        Asked before the services: a reply of one of them is sent in place of theirs.
    """

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self.log: list[tuple[Asked, int, int]] = []
        self.faults: list[Fault] = []
        self._services: list[Service] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def serve(self, *services: Service) -> None:
        """Answer with further services."""
        self._services.extend(services)

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeOpen:
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def hang(self, seconds: float = 60) -> None:
        """Wait, but not longer than the server lives: for faults."""
        self._closed.wait(seconds)

    def reply(self, asked: Asked) -> Reply:
        """The answer to a request."""
        for fault in self.faults:
            if (found := fault(asked)) is not None:
                return found
        for service in self._services:
            if (found := service.answer(asked, self)) is not None:
                return found
        return Reply(status=404, body=b"no such path")

    def record(self, asked: Asked, status: int, sent: int) -> None:
        """Log a request."""
        with self._lock:
            self.log.append((asked, status, sent))

    def requests(self, pattern: str = "", method: str | None = None) -> list[Asked]:
        """The requests so far whose path matches an expression."""
        return [one for one, _, _ in self.log if re.search(pattern, one.path) and method in (None, one.method)]


class _Handler(BaseHTTPRequestHandler):
    fake: FakeOpen
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        asked = Asked(
            method=self.command,
            path=urllib.parse.unquote(path),
            query=dict(urllib.parse.parse_qsl(query, keep_blank_values=True)),
            headers={key.lower(): value for key, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("Content-Length", 0))),
        )
        with suppress(BrokenPipeError, ConnectionResetError):
            self._send(asked, self.fake.reply(asked))

    def _send(self, asked: Asked, reply: Reply) -> None:
        status, headers = reply.status, dict(reply.headers)
        if isinstance(reply.body, bytes):
            body = reply.body
        else:
            headers["Accept-Ranges"] = "bytes"
            start, stop = 0, reply.body.size
            if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", "")):
                start, stop = int(wanted[1]), min(int(wanted[2] or stop - 1) + 1, stop)
                status = 206
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{reply.body.size}"
            headers.setdefault("Content-Length", str(max(0, stop - start)))
            body = b"" if asked.method == "HEAD" or stop <= start else reply.body.read(start, stop)
        headers.setdefault("Content-Length", str(len(body)))
        self.send_response(status)
        self.send_header("Content-Type", reply.kind)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        sent = b"" if asked.method == "HEAD" else body
        self.fake.record(asked, status, len(sent))  # before the client can know, so that tests count every request
        for part in (sent[k : k + 1] for k in range(len(sent))) if reply.pause else [sent]:
            self.fake.hang(reply.pause)
            self.wfile.write(part)
        if len(body) < int(headers["Content-Length"]) and asked.method != "HEAD":
            self.close_connection = True  # a truncated answer


def failing(pattern: str, reply: Reply | Callable[[], Reply], times: int = 10**9) -> Fault:
    """A fault: answer the first requests whose path matches an expression with this."""
    left, lock = [times], threading.Lock()

    def fault(asked: Asked) -> Reply | None:
        if not re.search(pattern, asked.path):
            return None
        with lock:
            left[0] -= 1
            if left[0] < 0:
                return None
        return reply() if callable(reply) else reply

    return fault


class Files:
    """Files by path, for those with the right signature or without one."""

    def __init__(
        self, files: Mapping[str, File | Callable[[], File]], *, signed: Callable[[Asked], bool] | None = None
    ):
        self._files, self._signed = dict(files), signed

    def add(self, path: str, file: File | Callable[[], File]) -> None:
        """Serve a further file."""
        self._files[path] = file

    def answer(self, asked: Asked, server: FakeOpen) -> Reply | None:
        found = self._files.get(asked.path)
        if found is None:
            return None
        if self._signed and not self._signed(asked):
            return Reply(status=403, body=b"<Error><Code>AuthenticationFailed</Code></Error>", kind="application/xml")
        return Reply(body=found() if callable(found) else found)


class Tokens:
    """Signatures of collections at ``/token/COLLECTION``, valid for some seconds."""

    def __init__(self, life: float = 3600.0, *, stated: float | None = None):
        self.life, self.stated = life, life if stated is None else stated
        self.given: dict[str, list[tuple[str, float]]] = {}
        self.number = 0
        self._lock = threading.Lock()

    def answer(self, asked: Asked, server: FakeOpen) -> Reply | None:
        if not asked.path.startswith("/token/"):
            return None
        collection, now = asked.path.removeprefix("/token/"), time.time()
        with self._lock:
            given = self.given.setdefault(collection, [])
            self.number += 1
            given.append((f"SECRET{collection}{self.number}", now + self.life))
        end = datetime.fromtimestamp(now + self.stated, UTC).isoformat()
        return Reply.of_json({"msft:expiry": end, "token": f"se={len(given)}&sig={given[-1][0]}"})

    def valid(self, collection: str, asked: Asked) -> bool:
        """Whether a request has a signature of a collection that has not expired."""
        return any(sig == asked.query.get("sig") and time.time() < end for sig, end in self.given.get(collection, ()))
