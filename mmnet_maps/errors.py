"""The exception tree: one plain line for a person, and the exit code the commands end with."""

from __future__ import annotations


class MMNetError(Exception):
    """Anything that is told to the user as one line instead of a traceback.

    The message says what is wrong, the value, what was expected and what to do next.
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
