"""Locations of files: paths, and URLs that GDAL or fsspec reads; listing folders; messages without credentials."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from mmnet_maps.errors import brief

Place = Path | str
"""A local path, or a URL."""

_VSI = {"s3": "/vsis3/", "gs": "/vsigs/", "https": "/vsicurl/https://", "http": "/vsicurl/http://"}
_URL = re.compile(r"\b(?:s3|gs|https?)://[^\s'\"<>,;)]+")
_WKT = re.compile(r"\b([A-Z_]{4,})\[.*\]")
_FOREIGN_ERRORS = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)

SLOWEST = 1000
"""Bytes per second: a server that sends less for as long as it may be silent is given up like one that is silent."""

GDAL_OPTIONS = {
    "GDAL_CACHEMAX": 256,
    "GDAL_HTTP_CONNECTTIMEOUT": 30,
    "GDAL_HTTP_LOW_SPEED_LIMIT": SLOWEST,
    "GDAL_HTTP_LOW_SPEED_TIME": 60,  # seconds
    "GDAL_MAX_RAW_BLOCK_CACHE_SIZE": 64 << 20,  # bytes; beyond it blocks are no longer received row by row
    "GDAL_HTTP_MAX_RETRY": 4,
    "GDAL_HTTP_RETRY_DELAY": 1,
}
"""GDAL caches 256 MB of blocks, not a share of the machine's memory, retries requests that a server refuses,
and gives up a server that sends nothing, or too slowly, for a minute."""

GDAL_REMOTE_OPTIONS = {
    **GDAL_OPTIONS,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "CPL_VSIL_CURL_CACHE_SIZE": 64 << 20,  # bytes: blocks of other reads push out headers that are still needed
}


class SignedUrl(str):
    """A URL whose files are opened with a signature that expires.

    It is equal to the plain URL and shows as that, so that what is cached by its name outlives a signature.

    Parameters
    ----------
    url
        The URL without its signature.
    sign
        Returns the signature of now, the query of the URL.
    """

    _sign: Callable[[], str]

    def __new__(cls, url: str, sign: Callable[[], str]) -> SignedUrl:
        """Keep the URL and how it is signed."""
        found = super().__new__(cls, url)
        found._sign = sign
        return found

    @property
    def signed(self) -> str:
        """The URL to open now."""
        query = self._sign()
        return f"{self}{'&' if '?' in self else '?'}{query}" if query else str(self)


def is_url(text: str) -> bool:
    """Return True for s3://, gs://, https:// and http:// URLs.

    Examples
    --------
    >>> is_url("s3://bucket/a.tif"), is_url("C:/a.tif"), is_url("a.tif")
    (True, False, False)
    """
    return text.partition("://")[0].lower() in _VSI and "://" in text


def join(folder: Place, text: str) -> Place:
    """Return a path or URL relative to a folder.

    Examples
    --------
    >>> join("s3://bucket/hls/", "a.tif"), join("s3://bucket", "https://host/b.tif")
    ('s3://bucket/hls/a.tif', 'https://host/b.tif')
    """
    if is_url(text):
        return text
    if isinstance(folder, str):
        return f"{folder.rstrip('/')}/{text}"
    return folder / text


def replaced(place: Place, texts: Mapping[str, str]) -> Place | None:
    """Return a place with texts in it replaced; None where it holds none of them.

    Examples
    --------
    >>> replaced("https://host/HLS.B04.tif", {"B03": "Fmask", "B04": "Fmask"})
    'https://host/HLS.Fmask.tif'
    """
    found = str(place)
    for old, new in texts.items():
        found = found.replace(old, new)
    if texts and found == str(place):
        return None
    return found if isinstance(place, str) else Path(found)


def suffix(place: Place) -> str:
    """Return the extension of a file name in lower case, with its dot."""
    path = PurePosixPath(urlsplit(place).path) if isinstance(place, str) else place
    return path.suffix.lower()


def shown(place: Place) -> str:
    """Return a place for messages: a URL without user, password and query.

    Examples
    --------
    >>> shown("https://me:secret@host/a.tif?signature=abc")
    'https://host/a.tif'
    """
    if isinstance(place, Path):
        return str(place)
    parts = urlsplit(place)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def redacted(error: BaseException) -> str:
    """Return the beginning of a library's message on one line, without credentials and WKT.

    Examples
    --------
    >>> redacted(ValueError('Invalid projection: PROJCS["NAD83",GEOGCS["NAD83"]]: unknown'))
    'Invalid projection: PROJCS[…]: unknown'
    """
    text = " ".join(str(error).split()).rstrip(".").removeprefix("CURL error: ") or type(error).__name__
    return brief(_WKT.sub(r"\1[…]", _URL.sub(lambda found: shown(found[0]), text)))


def some(names: Iterable[str]) -> str:
    """Return the first of some names, for messages.

    Examples
    --------
    >>> some(["red", "nir"]), some(f"band_{k}" for k in range(40))
    ('one of red, nir', 'one of band_0, band_1, band_2, band_3, band_4, band_5 and 34 others')
    """
    first: list[str] = []
    others = list(names)
    while others and (not first or len(", ".join([*first, others[0]])) <= 60) and len(first) < 6:
        first.append(others.pop(0))
    return f"one of {', '.join(first) or 'none'}" + (f" and {len(others)} others" if others else "")


def gdal_path(place: Place) -> str:
    """Return a place in GDAL's notation.

    Examples
    --------
    >>> gdal_path("gs://bucket/a.tif"), gdal_path("https://host/a.tif")
    ('/vsigs/bucket/a.tif', '/vsicurl/https://host/a.tif')
    """
    if isinstance(place, Path):
        return str(place)
    scheme, _, rest = (place.signed if isinstance(place, SignedUrl) else place).partition("://")
    return _VSI[scheme.lower()] + rest


def remote_errors() -> tuple[type[Exception], ...]:
    """Return the errors of folders and files that cannot be reached, those of loaded URL clients included."""
    found: list[type[Exception]] = [OSError, ValueError]
    for module, name in _FOREIGN_ERRORS:
        foreign = getattr(sys.modules.get(module), name, None)
        if foreign is not None:
            found.append(foreign)
    return tuple(found)


@dataclass(frozen=True)
class Entry:
    """An entry of a folder: its name, True for a folder, and a stamp that changes with a file ("": not stated)."""

    name: str
    folder: bool
    stamp: str


def list_folder(folder: Place, wanted: Callable[[str], bool]) -> Iterator[Entry]:
    """Yield the entries of a folder with a wanted name.

    Raises
    ------
    OSError, ImportError, or one of `remote_errors`
        When it cannot be listed.
    """
    if isinstance(folder, Path):
        with os.scandir(folder) as entries:
            for entry in entries:
                if wanted(entry.name):
                    try:
                        status = entry.stat()
                    except FileNotFoundError:  # a broken link
                        continue
                    stamp = "" if entry.is_dir() else f"{status.st_size} {status.st_mtime_ns}"
                    yield Entry(entry.name, entry.is_dir(), stamp)
        return
    import fsspec

    system, path = fsspec.core.url_to_fs(folder)
    system.invalidate_cache(path)
    found: list[dict[str, Any]] = system.ls(path, detail=True)
    for item in found:
        name = urlsplit(item["name"]).path.rstrip("/").rpartition("/")[2]
        if wanted(name):
            yield Entry(name, item.get("type") == "directory" or item["name"].endswith("/"), stamp_of(item))


def stamp_of(stated: Mapping[str, Any]) -> str:
    """Return what a server states of a file that changes when it does; "" for nothing."""
    keys = ("size", "ETag", "etag", "LastModified", "Last-Modified", "updated", "Content-MD5")
    return " ".join(str(stated[key]) for key in keys if stated.get(key))
