"""The process around a command: environment variables, standard output, and errors that nobody expected."""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import traceback
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

import click

from mmnet_maps.errors import brief

log = logging.getLogger("mmnet_maps")

_LAYOUT = "SELECT value FROM metadata WHERE key LIKE 'DATABASE.LAYOUT.VERSION.M%' ORDER BY key"


def mend_environment() -> None:
    """Ignore environment variables that would make a library fail, with a notice where values depend on them.

    ``MPLBACKEND`` chooses how figures are shown, which is never done here. ``PROJ_DATA`` and ``PROJ_LIB`` without the
    database of coordinate systems, or with an older one, as other software sets them, give way to rasterio's own data.
    """
    os.environ["MPLBACKEND"] = "agg"
    for name in ("PROJ_DATA", "PROJ_LIB"):
        if given := os.environ.get(name):
            own, found = _layout(_own_data()), _layout(given)
            if own and not (found and found[0] == own[0] and found[1] >= own[1]):
                log.warning("%s=%s has no proj.db as rasterio needs it and is ignored; unset it", name, brief(given))
                del os.environ[name]


def _own_data() -> str:
    """Return the folder of PROJ's data inside rasterio, where rasterio brings its own; the folder may be missing."""
    found = find_spec("rasterio")
    return str(Path(found.origin).parent / "proj_data") if found and found.origin else ""


def _layout(folders: str) -> tuple[int, int] | None:
    """Return the version of PROJ's database in a list of folders; None where there is none that can be read."""
    for folder in folders.split(os.pathsep):
        path = Path(folder, "proj.db")
        if path.is_file():
            try:
                with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
                    (major,), (minor,) = database.execute(_LAYOUT).fetchall()
                    return int(major), int(minor)
            except (sqlite3.Error, ValueError):
                return None
    return None


def of_output(error: OSError) -> bool:
    """Return whether an error arose from writing to the terminal, as on a full disk behind ``>``.

    Standard output is closed then, so that Python does not try again at its end.
    """
    *_, last = traceback.extract_tb(error.__traceback__)
    if last.name != click.echo.__name__:
        return False
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)
    return True


def report_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an error that nobody expected in one line; for `sys.excepthook`."""
    ours = [frame for frame in traceback.extract_tb(trace) if f"{os.sep}mmnet_maps{os.sep}" in frame.filename]
    where = f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else ""
    click.echo(
        f"error: unexpected {kind.__name__}{where}: {brief(error) or 'no message'}; this is a fault of mmnet_maps: "
        "please report it with the command; --debug shows the traceback",
        err=True,
    )
