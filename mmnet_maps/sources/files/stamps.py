"""Stamps of files, which change when a file does: size and time, or what a server states; no file is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mmnet_maps.sources.files.listing import DatedFile
from mmnet_maps.sources.files.locations import Place, remote_errors, stamp_of

UNKNOWN = "?"
"""The stamp of a file of which it is not known whether it exists: its server or file system does not answer."""


class Stamps:
    """Looks each file up once, and only when it is asked about."""

    def __init__(self) -> None:
        self._known: dict[Place, str | None] = {}

    def of(self, file: DatedFile) -> str | None:
        """Return the stamp of a listed file; None where it does not exist. Listing a folder gives most of them."""
        return file.stamp or self.at(file.path)

    def at(self, place: Place) -> str | None:
        """Return the stamp of a path or URL.

        Returns
        -------
        str or None
            None where nothing exists there, "" where the server states nothing, `UNKNOWN` where it does not answer.
        """
        if place not in self._known:
            self._known[place] = _of_url(place) if isinstance(place, str) else _of_path(place)
        return self._known[place]


def _of_path(path: Path) -> str | None:
    try:
        status = path.stat()
        if not path.is_dir():
            return f"{status.st_size} {status.st_mtime_ns}"
        found = list(_tree(path))  # a Zarr store: rewriting a chunk does not change the folder's own time
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return UNKNOWN
    return f"{len(found)} {sum(one.st_size for one in found)} {max((one.st_mtime_ns for one in found), default=0)}"


def _tree(folder: Path) -> Iterator[os.stat_result]:
    """Yield the status of all files below a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _tree(Path(entry.path))
            else:
                yield entry.stat()


def _of_url(url: str) -> str | None:
    """Return what the server states of a URL; of a Zarr store, of its metadata."""
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(url)
        if path.rstrip("/").endswith(".zarr"):
            names = [f"{path.rstrip('/')}/{name}" for name in ("zarr.json", ".zmetadata", ".zgroup")]
            path = next((name for name in names if system.exists(name)), path)
        stated = system.info(path)
    except ImportError:
        return ""
    except FileNotFoundError as error:
        return None if _is_gone(error) else UNKNOWN
    except remote_errors():
        return UNKNOWN
    return stamp_of(stated)


def _is_gone(error: FileNotFoundError) -> bool:
    """Return whether a server stated that a file does not exist; fsspec gives the same error where none answers."""
    cause = error.__cause__
    return cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in (404, 410)
