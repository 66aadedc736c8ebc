"""Requests to a service: few at a time, repeated where an error is transient, with no secret in a message."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from threading import BoundedSemaphore, Event, Lock
from typing import Any

from mmnet_maps.errors import RequestError, counted
from mmnet_maps.sources.base import SourceDownError
from mmnet_maps.sources.files.locations import SLOWEST, redacted, shown
from mmnet_maps.sources.open.config import ServiceConfig

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 120.0  # seconds
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_TRY_AGAIN = re.compile(r"(?:try|retry)(?: again)? (?:in|after) (\d+(?:\.\d+)?) ?s", re.IGNORECASE)
_WORDS = 300  # bytes of an error's body that are read
_PIECE = 1 << 16  # bytes that are read at a time


class RefusedError(SourceDownError):
    """A service refuses a request for good; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Traffic:
    """Requests sent so far, those of them that were sent again, and bytes received."""

    requests: int = 0
    repeated: int = 0
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The body of an answer, its headers, and the URL that gave it after redirects."""

    body: bytes
    headers: Mapping[str, str]
    url: str


class _TransientError(Exception):
    """An error that another try may not meet; `wait` is the pause that the service demands, in seconds."""

    def __init__(self, reason: str, wait: float = 0) -> None:
        super().__init__(reason)
        self.wait = wait


class Http:
    """The requests to one service; threads share it.

    When all tries of a request failed, further requests are tried once until one is answered: of a service that is
    down, each product is not waited for as long as the first.

    Parameters
    ----------
    name
        The service, named in errors.
    config
        How many requests it takes at a time, how long it may be silent, and how often it is tried again.
    session
        Makes the ``requests.Session``, on first use, where requests need a login; default: a plain one.
    """

    def __init__(
        self,
        name: str,
        config: ServiceConfig,
        session: Callable[[], Any] | None = None,
    ) -> None:
        self.name = name
        self._deadline, self._retries = config.deadline, config.retries
        self._turn, self._stopped = BoundedSemaphore(config.concurrency), Event()
        self._make, self._session, self._starting = session or _plain, None, Lock()
        self.traffic, self._counting = Traffic(), Lock()
        self._down = False

    def stop(self) -> None:
        """Send no further requests; those under way end."""
        self._stopped.set()

    def get(self, url: str, **options: Any) -> Answer:
        """Send a GET request; `options` are those of ``requests`` (params, headers).

        Raises
        ------
        RefusedError
            When the service refuses for good, as with 401, 403 or 404.
        SourceDownError
            When all tries fail.
        """
        return self.send("GET", url, **options)

    def send(self, method: str, url: str, **options: Any) -> Answer:
        """Send a request until there is an answer; errors as `get`."""
        began = time.monotonic()
        for attempt in range(self._retries + 1):
            try:
                with self._turn:
                    if self._stopped.is_set():
                        raise SourceDownError(f"{self.name}: not sent, because the fetch was stopped")
                    answer = self._once(method, url, options)
                self._down = False
                return answer
            except _TransientError as error:
                if attempt == self._retries or self._down:
                    self._down = True
                    raise SourceDownError(
                        f"{self.name}: no answer from {shown(url)} in {counted(attempt + 1, 'attempt')} and "
                        f"{time.monotonic() - began:.0f} s ({error}); run the same command again later"
                    ) from None
                # Half of the wait is random, so that requests that failed together are not sent again together.
                pause = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**attempt) * random.uniform(0.5, 1)  # noqa: S311
                self._stopped.wait(max(pause, min(_LONGEST_WAIT, error.wait)))
                with self._counting:
                    self.traffic.repeated += 1
        raise AssertionError

    def _once(self, method: str, url: str, options: Mapping[str, Any]) -> Answer:
        """Send a request once."""
        import requests
        import urllib3

        with self._counting:
            self.traffic.requests += 1
        try:
            # Streamed, so that the deadline is that of each part of a long answer; `_received` bounds all of them.
            with self.session.request(method, url, timeout=self._deadline, stream=True, **options) as response:
                if response.status_code >= 400:
                    raise self._fault(url, response)
                body = self._received(response.raw)
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            raise _TransientError(_reason(error)) from None
        except requests.RequestException as error:
            raise RefusedError(f"{self.name}: {shown(url)}: {redacted(error)}; check the sources YAML", 0) from None
        with self._counting:
            self.traffic.bytes += len(body)
        stated = response.headers.get("Content-Length", "")
        encoded = method == "HEAD" or response.headers.get("Content-Encoding")
        if stated.isdigit() and not encoded and len(body) != int(stated):
            raise _TransientError(f"{len(body)} of {stated} bytes received")
        return Answer(body=body, headers=response.headers, url=response.url)

    def _received(self, raw: Any) -> bytes:
        """Return a body; _TransientError where less than `SLOWEST` arrives for as long as the service may be silent."""
        parts = [raw.read1(_PIECE, decode_content=True)]
        since, size = time.monotonic(), len(parts[0])
        while part := raw.read1(_PIECE, decode_content=True):
            if (now := time.monotonic()) - since >= self._deadline:
                if size < SLOWEST * (now - since):
                    raise _TransientError(f"it sends {size / (now - since):.0f} bytes per second; expected {SLOWEST}")
                since, size = now, 0
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    def _fault(self, url: str, response: Any) -> Exception:
        """Return the error of a status that is no success."""
        text = response.raw.read1(_WORDS, decode_content=True).decode("utf-8", "replace")
        status, words = response.status_code, redacted(ValueError(text or response.reason or "no reason given"))
        if status in _TRANSIENT:
            return _TransientError(f"{status}: {words}", _demanded(response.headers.get("Retry-After", ""), text))
        return RefusedError(f"{self.name}: {shown(url)} is refused ({status}: {words})", status)

    @property
    def session(self) -> Any:
        """The session, made on first use."""
        with self._starting:
            if self._session is None:
                self._session = self._make()
            return self._session


def _plain() -> Any:
    try:
        import requests
    except ImportError as error:
        raise RequestError(
            "the package requests is not installed; source open needs it; run pip install '.[open]'"
        ) from error
    return requests.Session()


def _reason(error: Exception) -> str:
    """Return why a request failed, without the address, which may hold a token."""
    import requests
    import urllib3

    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
        return "timed out"
    inner: BaseException = error
    while inner.__cause__ or inner.__context__ or (inner.args and isinstance(inner.args[0], BaseException)):
        known = inner.__cause__ or inner.__context__ or inner.args[0]
        if not isinstance(known, BaseException):
            break
        inner = known
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return type(inner).__name__


def _demanded(header: str, text: str) -> float:
    """Return the pause that a service demands, in seconds, by its Retry-After or its words; 0 for none.

    Examples
    --------
    >>> _demanded("7", ""), _demanded("", "Rate limit is exceeded. Try again in 23 seconds."), _demanded("", "")
    (7.0, 23.0, 0.0)
    """
    if header.strip().isdigit():
        return float(header)
    if header:
        try:
            return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
        except ValueError:
            pass
    found = _TRY_AGAIN.search(text)
    return float(found[1]) if found else 0.0
