"""The exceptions: each message is one plain line, and each class has the exit code of the commands."""

from __future__ import annotations

import re

_LONG = re.compile(r"\S{161,}")


def brief(text: object, most: int = 100) -> str:
    """Return a text for a message, such as an error of a library, in one line of at most `most` characters.

    Examples
    --------
    >>> brief("no   space", 6)
    'no sp…'
    """
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


class MMNetError(Exception):
    """An error that the user sees as one line instead of a traceback.

    The message states the problem, the value, what was expected and what to do. Of a path of more than 160 characters
    it shows the beginning and the end.

    Examples
    --------
    >>> len(str(MMNetError("no file " + "x" * 5000)))
    109
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(_LONG.sub(lambda found: f"{found[0][:40]}…{found[0][-60:]}", message))


class RequestError(MMNetError, ValueError):
    """The request is wrong: an area, a date, an option or a checkpoint (exit code 2)."""

    exit_code = 2


class InputError(MMNetError):
    """Inputs are missing or broken: a stack, a raster, a table (exit code 3)."""

    exit_code = 3


class TilesFailedError(MMNetError):
    """Some tiles of a batch failed while the others were made (exit code 4)."""

    exit_code = 4


class OutputError(MMNetError):
    """The output cannot be written (exit code 5)."""

    exit_code = 5
