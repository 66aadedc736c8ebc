"""The exceptions: each message is one plain line, and each class has the exit code of the commands."""

from __future__ import annotations


class MMNetError(Exception):
    """An error that the user sees as one line instead of a traceback.

    The message states the problem, the value, what was expected and what to do.
    """

    exit_code = 1


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
