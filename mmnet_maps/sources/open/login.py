"""The sign-in of NASA's Earthdata, with earthaccess: environment, netrc, or a prompt; tokens stay in memory."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mmnet_maps.errors import RequestError
from mmnet_maps.sources.base import SourceDownError
from mmnet_maps.sources.files.locations import shown
from mmnet_maps.sources.open.config import ServiceConfig
from mmnet_maps.sources.open.http import Answer, Http, RefusedError

LOGIN = "https://urs.earthdata.nasa.gov"

_HOW = (
    "set EARTHDATA_TOKEN, or EARTHDATA_USERNAME and EARTHDATA_PASSWORD, or add the machine to ~/.netrc; an account is "
    "free"
)


class EarthdataHttp(Http):
    """Requests that carry a token of Earthdata; the first one signs in.

    An expired token is renewed once, where name and password are known.

    Parameters
    ----------
    name
        The service, named in errors.
    config
        The service; ``token`` is the address of the login where it is not that of NASA.
    """

    def __init__(self, name: str, config: ServiceConfig) -> None:
        super().__init__(name, config, session=self._signed_in)
        self._login = (config.token or LOGIN).rstrip("/")
        self._host = urlsplit(self._login).hostname or ""

    def _once(self, method: str, url: str, options: Mapping[str, Any]) -> Answer:
        """Send a request once, and again with a new token where the first is not accepted."""
        session = self.session
        answer = self._accepted(method, url, options)
        if answer is None:
            self._renew(session)
            answer = self._accepted(method, url, options)
        if answer is None:
            raise SourceDownError(
                f"{self.name}: {shown(url)} asks to sign in although the login was accepted; open {self._login} in a "
                "browser, accept the terms of the data's applications, and run the same command again"
            )
        return answer

    def _accepted(self, method: str, url: str, options: Mapping[str, Any]) -> Answer | None:
        """Return an answer; None where the token is refused, or the answer is the page to sign in."""
        try:
            answer = super()._once(method, url, options)
        except RefusedError as error:
            if error.status == 401:
                return None
            raise
        page = "text/html" in answer.headers.get("Content-Type", "")
        return None if page or urlsplit(answer.url).hostname == self._host else answer

    def _renew(self, refused: Any) -> None:
        """Drop a session, so that the next request makes another; SourceDownError where only the user can help."""
        if os.environ.get("EARTHDATA_TOKEN"):
            raise SourceDownError(
                f"{self.name}: EARTHDATA_TOKEN is not accepted any more; make a new one at {self._login}/profile, or "
                "unset it and give EARTHDATA_USERNAME and EARTHDATA_PASSWORD; then run the same command again"
            )
        with self._starting:
            if self._session is refused:
                self._session = None

    def _signed_in(self) -> Any:
        """Return a session with a token; SourceDownError where there is no login, or it is not accepted."""
        try:
            import requests
            from earthaccess.auth import Auth
            from earthaccess.exceptions import LoginAttemptFailure, LoginStrategyUnavailable
            from earthaccess.system import EDLHostname
        except ImportError as error:
            raise RequestError(
                f"the package earthaccess is not installed; {self.name} needs it; run pip install '.[open]'"
            ) from error
        logging.getLogger("earthaccess").setLevel(logging.CRITICAL + 1)  # it logs what the login service answers
        for way in _ways():
            auth = Auth()
            # Auth takes a host and adds https; the login of a test speaks http.
            auth.system = replace(auth.system, edl_hostname=EDLHostname(self._host))
            auth.EDL_FIND_OR_CREATE_TOKEN_URL = f"{self._login}/api/users/find_or_create_token"
            try:
                auth.login(way)
            except LoginStrategyUnavailable:
                continue
            except LoginAttemptFailure:
                raise SourceDownError(
                    f"{self.name}: {self._host} refuses the name and password of the {way}; correct them: {_HOW}"
                ) from None
            except requests.RequestException as error:
                raise SourceDownError(
                    f"{self.name}: {self._host} cannot be reached to sign in ({type(error).__name__}); run the same "
                    "command again later"
                ) from None
            return auth.get_session()
        raise SourceDownError(f"{self.name}: no login of {self._host} was found; {_HOW}: {self._login}/users/new")


def _ways() -> list[str]:
    """Return the ways to sign in, in earthaccess' terms: a prompt only where somebody can answer."""
    return ["environment", "netrc", *(["interactive"] if sys.stdin is not None and sys.stdin.isatty() else [])]


def found_login(login: str = LOGIN) -> str:
    """Return where a login of Earthdata was found, without signing in; empty for nowhere."""
    if os.environ.get("EARTHDATA_TOKEN"):
        return "EARTHDATA_TOKEN"
    if os.environ.get("EARTHDATA_USERNAME") and os.environ.get("EARTHDATA_PASSWORD"):
        return "EARTHDATA_USERNAME"
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        known = netrc(path).authenticators(urlsplit(login).hostname or "")
    except (OSError, NetrcParseError):
        return ""
    return path.name if known else ""
