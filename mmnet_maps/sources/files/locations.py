"""Where a file lies: a path, or a URL that GDAL or fsspec reads; what may be shown of it, and listing a folder."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

Place = Path | str
"""A local path, or the URL of something elsewhere."""

_VSI = {"s3": "/vsis3/", "gs": "/vsigs/", "https": "/vsicurl/https://", "http": "/vsicurl/http://"}
_URL = re.compile(r"\b(?:s3|gs|https?)://[^\s'\"<>,;)]+")
_FOREIGN_ERRORS = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)

GDAL_OPTIONS = {
    "GDAL_CACHEMAX": 256,
    "GDAL_HTTP_CONNECTTIMEOUT": 30,
    "GDAL_HTTP_MAX_RETRY": 4,
    "GDAL_HTTP_RETRY_DELAY": 1,
}
"""GDAL keeps 256 MB of blocks in place of a share of the machine, and tries again what a busy server refuses."""

GDAL_REMOTE_OPTIONS = {**GDAL_OPTIONS, "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


def is_url(text: str) -> bool:
    """Whether a path is one of s3://, gs://, https:// or http://.

    Examples
    --------
    >>> is_url("s3://bucket/a.tif"), is_url("C:/a.tif"), is_url("a.tif")
    (True, False, False)
    """
    return text.partition("://")[0].lower() in _VSI and "://" in text


def join(folder: Place, text: str) -> Place:
    """A path or URL seen from a folder.

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
    """A place with some texts in it replaced; None where it holds none of them.

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
    """The ending of a file name in small letters, with its dot."""
    path = PurePosixPath(urlsplit(place).path) if isinstance(place, str) else place
    return path.suffix.lower()


def shown(place: Place) -> str:
    """What a message may say of a place: a URL without user, password and query.

    Examples
    --------
    >>> shown("https://me:secret@host/a.tif?signature=abc")
    'https://host/a.tif'
    """
    if isinstance(place, Path):
        return str(place)
    parts = urlsplit(place)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def told(error: BaseException) -> str:
    """What a library says, on one line and without credentials."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return _URL.sub(lambda found: shown(found[0]), text)


def gdal_path(place: Place) -> str:
    """What GDAL calls a place.

    Examples
    --------
    >>> gdal_path("gs://bucket/a.tif"), gdal_path("https://host/a.tif")
    ('/vsigs/bucket/a.tif', '/vsicurl/https://host/a.tif')
    """
    if isinstance(place, Path):
        return str(place)
    scheme, _, rest = place.partition("://")
    return _VSI[scheme.lower()] + rest


def remote_errors() -> tuple[type[Exception], ...]:
    """What is raised where a folder or file cannot be reached, also by those clients of URLs that are loaded."""
    found: list[type[Exception]] = [OSError, ValueError]
    for module, name in _FOREIGN_ERRORS:
        foreign = getattr(sys.modules.get(module), name, None)
        if foreign is not None:
            found.append(foreign)
    return tuple(found)


@dataclass(frozen=True)
class Entry:
    """Something in a folder: its name, whether it is a folder, and a word that changes when its content does."""

    name: str
    folder: bool
    stamp: str


def list_folder(folder: Place, wanted: Callable[[str], bool]) -> Iterator[Entry]:
    """What lies in a folder and has a wanted name.

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
                    except FileNotFoundError:  # a link to nowhere
                        continue
                    yield Entry(entry.name, entry.is_dir(), f"{status.st_size} {status.st_mtime_ns}")
        return
    import fsspec

    system, path = fsspec.core.url_to_fs(folder)
    found: list[dict[str, Any]] = system.ls(path, detail=True)
    for item in found:
        name = urlsplit(item["name"]).path.rstrip("/").rpartition("/")[2]
        if wanted(name):
            stamp = " ".join(str(item.get(key)) for key in ("size", "ETag", "etag", "LastModified", "updated"))
            yield Entry(name, item.get("type") == "directory" or item["name"].endswith("/"), stamp)
