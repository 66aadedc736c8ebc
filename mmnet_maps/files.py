"""Write files whole or not at all, and know which files are ours: once, for every writer."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from glob import escape
from mmap import ACCESS_READ, mmap
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Any

import rasterio
from rasterio._err import CPLE_BaseError  # what rasterio.shutil.copy raises; rasterio.errors has no name for it
from rasterio.errors import RasterioError

from mmnet_maps.errors import OutputError

if TYPE_CHECKING:
    from filelock import FileLock

DRIVER_ERRORS = (OSError, RasterioError, CPLE_BaseError)
"""Errors of the system, rasterio and GDAL when a file cannot be read or written."""

MARK = "MMNET_FINGERPRINT"
"""The GeoTIFF tag and Zarr attribute that identify files of this software."""

LOCK = "lock"
"""Name of the file that holds a work folder (see `claim`)."""

_SOFTWARE = b"mmnet_maps"
_SIDECARS = (".aux.xml", ".ovr", ".ovr.aux.xml", ".msk", ".msk.aux.xml", ".msk.ovr")
_TRIES = 10
_OPENING = Lock()
_NEARLY_FULL = 64 << 20  # bytes; GDAL removes a file that it could not finish, so that some are free again
_CACHE = 256 << 20  # bytes; the default is a twentieth of the memory


def gdal() -> AbstractContextManager[Any]:
    """Return the GDAL environment of the product's files: messages go to the log, no side files are read or made."""
    env: AbstractContextManager[Any] = rasterio.Env(
        GDAL_PAM_ENABLED=False, GDAL_CACHEMAX=_CACHE, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"
    )
    return env


@contextmanager
def fast_zarr() -> Iterator[None]:
    """Open arrays that zarr reads through Rust; one thread at a time, because the setting is process-wide."""
    import zarr

    with _OPENING, zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        yield


def read_tags(path: Path) -> dict[str, str]:
    """Return the tags of a GeoTIFF.

    Raises
    ------
    DRIVER_ERRORS
        When it cannot be read.
    """
    with gdal(), rasterio.open(path) as data:
        tags: dict[str, str] = data.tags()
        return tags


def read_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of a Zarr store, empty where the folder holds none.

    Raises
    ------
    OSError
        When there is no folder or it cannot be read.
    """
    with suppress(KeyError, TypeError, ValueError):
        return dict(json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"])
    return {}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, empty where the file holds none.

    Raises
    ------
    OSError
        When there is no file or it cannot be read.
    """
    with suppress(ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def is_ours(path: Path) -> bool:
    """Return whether a GeoTIFF, Zarr store, STAC item or PNG was written by this software.

    A GeoTIFF carries the tag and a store the attribute ``MMNET_FINGERPRINT``, an item the property
    ``mmnet:fingerprint``, any other file, such as a PNG, the text ``mmnet_maps`` in its first 2 KiB. A folder of
    another kind or an unreadable file is not ours.
    """
    try:
        if path.suffix == ".tif":
            return MARK in read_tags(path)
        if path.suffix == ".zarr":
            return MARK in read_attributes(path)
        if path.suffix == ".json":
            properties = read_json(path).get("properties")
            return isinstance(properties, dict) and properties.get("mmnet:fingerprint") is not None
        with path.open("rb") as file:
            return _SOFTWARE in file.read(2048)
    except DRIVER_ERRORS:
        return False


def holds(path: Path, *marks: str) -> bool:
    """Return whether a file holds all these texts, such as the columns of a table or the keys of a report.

    A folder and an unreadable file hold none.
    """
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            return all(content.find(mark.encode()) >= 0 for mark in marks)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def refuse_foreign(path: Path, ours: Callable[[Path], bool] = is_ours) -> None:
    """Refuse to overwrite a file that this software did not make.

    Parameters
    ----------
    path
        The file about to be written; it may be missing.
    ours
        Decides whether an existing file is ours.

    Raises
    ------
    OutputError
        When there is a file that is not ours.
    """
    if os.path.exists(path) and not ours(path):
        raise OutputError(
            f"{path} was not made by mmnet_maps and is never overwritten; move it away or give another output"
        )


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a small file so that it appears whole or not at all, text as UTF-8; missing folders are made.

    A file that already holds exactly this is left alone; the `sidecars` of one that is replaced are removed.

    Raises
    ------
    OutputError
        When it cannot be written; an existing file is unchanged.
    """
    content = data.encode() if isinstance(data, str) else data
    with write_errors(path, "what was there before is unchanged"):
        remove_leftovers(path.parent, f".{escape(path.name)}.*.partial")
        if path.is_file() and path.read_bytes() == content:
            return
        replace_file(path, content, sidecars(path))


def replace_file(path: Path, content: bytes, outdated: Sequence[Path] = ()) -> None:
    """Write a file beside its final name, flush it to the disk and rename it; missing folders are made.

    Parameters
    ----------
    path, content
        The file and what it will hold.
    outdated
        Files to remove before the renaming: a killed process must not leave those of the old file beside the new one.

    Raises
    ------
    OSError
        When it cannot be written; an existing file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_TRIES):
        hidden = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        if file := claim(hidden):
            break
    else:  # no other process took it: files cannot be created here, as in /proc
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            for found in outdated:
                found.unlink(missing_ok=True)
            os.replace(hidden, path)
        finally:
            with suppress(OSError):
                hidden.unlink(missing_ok=True)


def sidecars(path: Path) -> list[Path]:
    """Return the files that GDAL and QGIS have kept beside a raster: its statistics, overviews and mask.

    They describe the file of that name as it was, and are out of date when it is replaced.
    """
    return [found for end in _SIDECARS if (found := path.with_name(path.name + end)).is_file()]


def remove_sidecars(path: Path) -> None:
    """Remove the `sidecars` of a file; errors as `Path.unlink`."""
    for found in sidecars(path):
        found.unlink(missing_ok=True)


@contextmanager
def write_errors(path: Path, kept: str) -> Iterator[None]:
    """Turn errors of the system, rasterio and GDAL into one line.

    Parameters
    ----------
    path
        What is being written, for the message.
    kept
        What a failure leaves, for the message.

    Raises
    ------
    OutputError
        In place of any of `DRIVER_ERRORS`.
    """
    try:
        yield
    except DRIVER_ERRORS as error:
        raise OutputError(
            f"cannot write {path}: {_reason(error, path)}; {kept}; make room or give another --out"
        ) from error


def _reason(error: BaseException, path: Path) -> str:
    """Return why a write failed; GDAL loses the system's error number, so a nearly full disk is looked for."""
    if isinstance(error, OSError) and error.errno is not None:  # the `errno` of GDAL's own errors is not the system's
        return os.strerror(error.errno)
    with suppress(OSError):
        if shutil.disk_usage(nearest_existing(path)).free < _NEARLY_FULL:
            return os.strerror(errno.ENOSPC)
    return " ".join(str(error).split())


def nearest_existing(path: Path) -> Path:
    """Return the path itself or the nearest folder above it that exists."""
    return next(at for at in (path, *path.absolute().parents) if at.exists())


def kept_beside(out: Path) -> Path:
    """Return the hidden folder beside an output in which finished parts are kept until the output is written."""
    return out.with_name(f".{out.name}.parts")


def sync(path: Path) -> None:
    """Flush a file, or a folder's names, to the disk."""
    if sys.platform == "win32":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def claim(path: Path, *, own: bool = True) -> IO[bytes] | None:
    """Open a file, creating it if need be, and hold it; the system releases it when the process ends, however.

    Parameters
    ----------
    path
        The file.
    own
        Whether this process has named it. Only then is it claimed on a file system without locks, where what another
        process is writing looks like what a dead one has left.

    Returns
    -------
    file or None
        None where another process holds it or has just removed it.
    """
    with suppress(FileNotFoundError), ExitStack() as stack:
        file = stack.enter_context(path.open("ab"))
        try:
            if sys.platform == "win32":
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            held = False
        except OSError:
            held = own
        if held:
            stack.pop_all()
            return file
    return None


def file_lock(path: Path) -> FileLock:
    """Return a lock, not yet held, on a file that is made here if need be.

    filelock takes a place where no file can be made, as in ``/proc``, for a lock that another process holds.

    Raises
    ------
    OSError
        When the file cannot be made.
    """
    from filelock import FileLock

    with path.open("ab"):
        return FileLock(path)


@contextmanager
def staging_folder(folder: Path, stem: str) -> Iterator[Path]:
    """Make a hidden folder ``.{stem}.*.partial``, hold it while the block runs, and remove it.

    `remove_leftovers` removes those of killed processes.
    """
    with ExitStack() as stack:
        lock = None
        while lock is None:  # another process may mistake a folder without a lock for a leftover
            work = Path(tempfile.mkdtemp(prefix=f".{stem}.", suffix=".partial", dir=folder))
            stack.callback(shutil.rmtree, work, ignore_errors=True)
            lock = claim(work / LOCK)
        stack.enter_context(lock)
        yield work


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove the hidden files and work folders of killed processes: those that nobody holds."""
    for left in folder.glob(pattern):
        with suppress(OSError):
            lock = claim(left / LOCK if left.is_dir() else left, own=False)
            if lock is not None:
                with lock:
                    if left.is_dir():
                        shutil.rmtree(left, ignore_errors=True)
                    else:
                        left.unlink()
