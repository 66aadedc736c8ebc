"""Signatures of files: one for each collection, requested when first needed and again before it expires."""

from __future__ import annotations

import json
import time
from datetime import datetime
from threading import Lock

from mmnet_maps.sources.base import SourceDownError
from mmnet_maps.sources.open.http import Http

_MARGIN = 300.0  # seconds before the end of a signature at which it is renewed; a fifth of a shorter life
_LEAST = 60.0  # seconds for which a signature serves, whatever it states: this machine's clock may be fast


class Tokens:
    """The signatures of a service's collections.

    Parameters
    ----------
    http
        The requests to the service.
    url
        Address of a signature, with ``{collection}``.
    """

    def __init__(self, http: Http, url: str) -> None:
        self._http, self._url = http, url
        self._lock, self._known = Lock(), dict[str, tuple[str, float]]()

    def of(self, collection: str) -> str:
        """Return the signature of a collection, a URL's query; one that is refused is to be forgotten.

        Raises
        ------
        SourceDownError
            When the service gives none.
        """
        with self._lock:
            token, until = self._known.get(collection, ("", 0.0))
            if time.time() >= until:
                token, until = self._known[collection] = self._ask(collection)
            return token

    def forget(self, collection: str) -> None:
        """Ask again on the next use, because the service refuses the present one."""
        with self._lock:
            self._known.pop(collection, None)

    def _ask(self, collection: str) -> tuple[str, float]:
        """Return a signature and the time at which it is to be renewed."""
        answer = self._http.get(self._url.format(collection=collection))
        try:
            stated = json.loads(answer.body)
            token, end = str(stated["token"]), datetime.fromisoformat(stated["msft:expiry"]).timestamp()
        except (ValueError, KeyError, TypeError):
            raise SourceDownError(
                f"{self._http.name}: the signature of {collection} cannot be read; expected token and msft:expiry; "
                "correct 'token' of the service in the sources YAML"
            ) from None
        now = time.time()
        return token, max(now + _LEAST, end - min(_MARGIN, max(0.0, end - now) / 5))
