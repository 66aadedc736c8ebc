"""Sign in to Earth Engine and send one request at a time, retried where an error is transient."""

from __future__ import annotations

import io
import json
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import BoundedSemaphore, Event, Lock
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError, RequestError, brief

Answer = TypeVar("Answer")

HIGH_VOLUME = "https://earthengine-highvolume.googleapis.com"
REQUEST_BYTES = 48 << 20
"""Limit of one request, uncompressed and with a byte of mask for each value."""

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 64.0  # seconds
_HEADER_BYTES = 1 << 18  # names of 1024 bands and more
_TRANSIENT = (429, 500, 502, 503, 504)
_TOO_MUCH = re.compile(
    r"memory limit|out of memory|capacity exceeded|timed? ?out|too large|request size|payload size", re.IGNORECASE
)
_SPENT = re.compile(r"daily_eecu_usage_time|custom quota|\bper day\b|daily limit", re.IGNORECASE)
_CATALOGUE_WAIT = 20.0
"""Seconds that signing in waits for the public list of deprecated products, which the client reads without a limit."""

WORKLOAD_TAG = "mmnet-maps"
"""Label of all computations, by which Cloud Monitoring lists what they used."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class TooMuchError(Exception):
    """A request is larger than Earth Engine computes at once; its parts may succeed."""


class _TransientError(Exception):
    """An error that another try may not meet.

    Attributes
    ----------
    wait
        The pause that the service demands, in seconds.
    large
        True where a smaller request may succeed, if another try does not.
    """

    def __init__(self, reason: str, *, wait: float | None = None, large: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.large = wait, large


@dataclass
class Traffic:
    """Requests for pixels so far, requests sent again, and bytes received."""

    requests: int = 0
    repeated: int = 0
    bytes: int = 0


class Client:
    """A signed-in session, which starts with the first request.

    Parameters
    ----------
    project
        Google Cloud project that is charged.
    url
        Endpoint; on the loopback interface there is no sign-in.
    concurrency
        Concurrent requests.
    deadline
        Seconds before a request times out.
    retries
        Further tries after a transient error.
    """

    def __init__(
        self, *, project: str | None, url: str | None, concurrency: int, deadline: float, retries: int
    ) -> None:
        self._project, self._url = project, url or HIGH_VOLUME
        self._deadline, self._retries = deadline, retries
        self._turn, self._starting, self._started = BoundedSemaphore(concurrency), Lock(), False
        self._stopped = Event()
        self.traffic, self._counting = Traffic(), Lock()

    def stop(self) -> None:
        """Send no further requests; those under way end."""
        self._stopped.set()

    def info(self, make: Callable[[Any], Any], label: str) -> Any:
        """Return ``getInfo`` of an Earth Engine object.

        Parameters
        ----------
        make
            Makes the object from the module ``ee``.
        label
            Name of the request in errors.

        Raises
        ------
        InputError
            When Earth Engine refuses, or all tries fail.
        """
        ee = self.start()
        try:
            return self._retried(lambda: make(ee).getInfo(), label)
        except TooMuchError as error:
            raise _too_slow(error) from error

    def pixels(self, image: Any, geobox: GeoBox, crs: Mapping[str, str], dtypes: Mapping[str, str], label: str) -> Any:
        """Compute an image on a grid.

        Parameters
        ----------
        image
            Bands as in `dtypes`, without masked pixels, which would be sent as 0.
        geobox
            The grid; at most `REQUEST_BYTES`.
        crs
            Its CRS in Earth Engine's terms.
        dtypes
            NumPy type of each band.
        label
            Name of the request in errors.

        Returns
        -------
        ndarray (y, x)
            Structured, one field per band.

        Raises
        ------
        TooMuchError
            When a smaller grid may succeed.
        InputError
            When Earth Engine refuses, or all tries fail.
        """
        ee = self.start()
        affine, shape = geobox.affine, geobox.shape
        request = {
            "expression": image,
            "fileFormat": "NPY",
            "grid": {
                **crs,
                "affineTransform": {
                    "scaleX": affine.a, "shearX": 0, "translateX": affine.c,
                    "shearY": 0, "scaleY": affine.e, "translateY": affine.f,
                },
                "dimensions": {"width": int(shape.x), "height": int(shape.y)},
            },
        }  # fmt: skip

        def send() -> NDArray[Any]:
            """Send the request once and count it."""
            with self._counting:
                self.traffic.requests += 1
            body = ee.data.computePixels(request)
            with self._counting:
                self.traffic.bytes += len(body)
            return _decode(body, (shape.y, shape.x), dtypes)

        return self._retried(send, label)

    def start(self) -> Any:
        """Sign in if that has not been done yet, and return the module ``ee``.

        Raises
        ------
        RequestError
            When the client is not installed, or there are no valid credentials.
        """
        try:
            import ee
        except ImportError as error:
            raise RequestError(
                "the package earthengine-api is not installed; source earthengine needs it; "
                "run pip install '.[earthengine]'"
            ) from error
        with self._starting:
            if not self._started:
                self._sign_in(ee)
                self._started = True
        return ee

    def _sign_in(self, ee: Any) -> None:
        from googleapiclient.errors import InvalidJsonError

        credentials: Any = "persistent"
        project = self._project or _project_of_environment()
        if urlsplit(self._url).hostname in LOOPBACK:
            credentials, project = None, project or "local"
        ee.data.setMaxRetries(0)  # the client's own retries ignore Retry-After and are silent

        def initialise() -> None:
            """Sign in once; ValueError where the service does not describe itself."""
            nonlocal credentials
            if credentials and (key := _service_account_key()):
                credentials = ee.ServiceAccountCredentials(None, key_file=key)
            try:
                with _impatient():
                    ee.Initialize(credentials, url=self._url, project=project)
            except (AttributeError, InvalidJsonError) as error:  # a web page in place of the service's description
                raise ValueError(f"no description of the service at {self._url}") from error
            ee.data.setDefaultWorkloadTag(WORKLOAD_TAG)

        # The public setDeadline sends requests, so before signing in it cannot be used, and discovery could hang.
        ee.data._get_state().deadline_ms = self._deadline * 1000
        try:
            self._retried(initialise, "signing in to Earth Engine")
        except TooMuchError as error:
            raise _too_slow(error) from error
        except InputError as error:
            if isinstance(error.__cause__, _TransientError):
                raise
            cause = error.__cause__ or error
            reason = _reason(cause).rstrip(".")
            if _response(cause) is not None:
                raise RequestError(
                    f"Earth Engine refuses the sign-in ({brief(reason, 150)}); check the project "
                    "(EARTHENGINE_PROJECT, or 'project' in the sources YAML), or use --source open"
                ) from error
            raise RequestError(
                f"cannot sign in to Earth Engine ({brief(reason, 60)}); run 'earthengine authenticate' or set "
                "GOOGLE_APPLICATION_CREDENTIALS to a service account's key, with the project in EARTHENGINE_PROJECT "
                "or as 'project' in the sources YAML; or use --source open"
            ) from error

    def _retried(self, send: Callable[[], Answer], label: str) -> Answer:
        """Send until there is an answer, with exponential back-off; what is perhaps too large is tried twice."""
        large, began = 0, time.monotonic()
        for attempt in range(self._retries + 1):
            try:
                with self._turn:
                    if self._stopped.is_set():
                        raise InputError(f"{label}: not sent, because the fetch was stopped")
                    return _classified(send, label)
            except _TransientError as error:
                large += error.large
                if large == 2:
                    slow = isinstance(error.__cause__, TimeoutError)
                    reason = f"no answer within {self._deadline:g} s" if slow else str(error)
                    raise TooMuchError(f"{label}: {reason}") from error
                if attempt == self._retries:
                    raise InputError(
                        f"{label}: no answer from Earth Engine in {attempt + 1} attempts and "
                        f"{time.monotonic() - began:.0f} s ({error}); fetched data are kept; "
                        "run the same command again later"
                    ) from error
                # Half of the wait is random, so that requests that failed together are not sent again together.
                pause = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**attempt) * random.uniform(0.5, 1)  # noqa: S311
                self._stopped.wait(max(pause, min(_LONGEST_WAIT, error.wait or 0)))
                with self._counting:
                    self.traffic.repeated += 1
        raise AssertionError


def _classified(send: Callable[[], Answer], label: str) -> Answer:
    """Send once; classify an error as transient, too large, or permanent."""
    import ee
    from google.auth.exceptions import GoogleAuthError, TransportError
    from googleapiclient.errors import Error as ApiError
    from httplib2 import HttpLib2Error

    try:
        return send()
    except (ee.EEException, ApiError) as error:
        raise _refusal(error, label) from error
    except TransportError as error:
        raise _TransientError(f"no connection: {error}") from error
    except GoogleAuthError as error:
        raise InputError(f"{label}: Earth Engine does not accept the credentials: {error}") from error
    except (OSError, HttpLib2Error) as error:
        reason = f"connection: {brief(error, 80)}" if str(error) else type(error).__name__
        raise _TransientError(reason, large=isinstance(error, TimeoutError)) from error
    except (ValueError, EOFError) as error:  # a body that is not the requested array
        raise _TransientError(f"unreadable answer: {' '.join(str(error).split())[:120]}") from error


def _refusal(error: Exception, label: str) -> Exception:
    """Classify an error that the service answers; the client passes those of signing in on as they come."""
    response = _response(error)
    status, reason = int(getattr(response, "status", 0)), _reason(error)
    if _SPENT.search(reason):
        return InputError(
            f"the project's own daily limit of Earth Engine is used up ({brief(reason, 90)}); fetched data are kept; "
            "run the same command again tomorrow, or raise the limit in the Cloud console"
        )
    large = bool(_TOO_MUCH.search(reason))
    if status in _TRANSIENT:
        wait = str(response.get("retry-after", "")) if response is not None else ""
        return _TransientError(
            f"{status} {brief(reason, 160)}", wait=float(wait) if wait.isdigit() else None, large=large
        )
    if large:
        return TooMuchError(f"{label}: {reason}")
    if "too many input pixels" in reason.lower():  # in one pixel of the answer, so that a split does not help
        return InputError(
            f"{label}: its pixels are smaller than the sources YAML states ({brief(reason.split('.', 2)[-1], 80)}); "
            "give the product their size in metres as 'resolution'"
        )
    return InputError(f"{label}: Earth Engine refuses the request: {reason.rstrip('.')}")


def _response(error: BaseException) -> Any:
    """Return the response of the service behind an error; None where there was none."""
    found = getattr(error, "resp", None)
    return getattr(error.__context__, "resp", None) if found is None else found


def _reason(error: BaseException) -> str:
    """Return what an error says, without the address and the repetitions of googleapiclient."""
    return str(getattr(error, "reason", None) or error).strip()


@contextmanager
def _impatient() -> Iterator[None]:
    """Limit the time of connections for which the client sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_CATALOGUE_WAIT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _too_slow(error: TooMuchError) -> InputError:
    return InputError(f"{error}; run the same command again later, or raise 'deadline' in the sources YAML")


def _decode(body: bytes, shape: tuple[int, int], dtypes: Mapping[str, str]) -> NDArray[Any]:
    """Decode an answer; ValueError where it is incomplete, or not the requested array."""
    if not body.startswith(b"\x93NUMPY"):
        raise ValueError(f"{len(body)} bytes that are not NumPy data")
    found: NDArray[Any] = np.load(io.BytesIO(body), allow_pickle=False, max_header_size=_HEADER_BYTES)
    fields: Mapping[str, Any] = found.dtype.fields or {}
    given = {name: str(kind[0].newbyteorder("=")) for name, kind in fields.items()}
    if found.shape != shape or given != dict(dtypes):
        raise ValueError(f"{found.shape} {given}; expected {shape} {dict(dtypes)}")
    return found


def signed_in() -> bool:
    """Return True where Earth Engine can be used as it is: the client, credentials and a project are present.

    A service account's key counts only with EARTHENGINE_PROJECT, because it may be meant for other services.

    Raises
    ------
    RequestError
        When a sign-in is configured but cannot work, so that synthetic inputs never stand in for it.
    """
    key, project = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"), os.environ.get("EARTHENGINE_PROJECT")
    stored = os.path.expanduser("~/.config/earthengine/credentials")
    fault = None
    if key and not os.path.isfile(key):
        fault = f"GOOGLE_APPLICATION_CREDENTIALS is {key}, which is no file; correct or unset it"
    elif project and _service_account_key():
        pass
    elif not os.path.exists(stored):
        if not project:
            return False
        fault = f"EARTHENGINE_PROJECT is set, but {stored} does not exist; run 'earthengine authenticate'"
    elif (known := _stored_credentials(stored)) is None:
        fault = f"{stored} holds no credentials; run 'earthengine authenticate'"
    elif not (known.get("project") or _project_of_environment()):
        fault = f"{stored} names no project; set EARTHENGINE_PROJECT or run 'earthengine set_project NAME'"
    if fault is None and find_spec("ee") is None:
        fault = "you are signed in, but the client is missing; run pip install '.[earthengine]'"
    if fault:
        raise RequestError(f"Earth Engine cannot be used: {fault}, or give --source demo for synthetic inputs")
    return True


def _stored_credentials(path: str) -> dict[str, Any] | None:
    try:
        known = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) else None


def _project_of_environment() -> str | None:
    return os.environ.get("EARTHENGINE_PROJECT") or os.environ.get("GOOGLE_CLOUD_PROJECT")


def _service_account_key() -> str | None:
    path = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    try:
        key = json.loads(Path(path).read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError):
        return None
    return path if isinstance(key, dict) and key.get("type") == "service_account" else None
