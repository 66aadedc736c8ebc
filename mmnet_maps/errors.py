"""The exceptions, each with the exit code of the commands, and how messages write numbers and foreign texts."""

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


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number and its noun, in the plural unless it is one.

    Examples
    --------
    >>> counted(1, "place"), counted(0, "day"), counted(12345, "map"), counted(2, "entry", "entries")
    ('1 place', '0 days', '12,345 maps', '2 entries')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def number_text(number: float) -> str:
    """Return a large number with three digits; below 100 000 in full.

    Examples
    --------
    >>> number_text(0), number_text(61_440), number_text(783_212_000), number_text(34e9)
    ('0', '61,440', '783 million', '34 billion')
    """
    if number < 1e5:
        return f"{number:,.0f}"
    return _scaled(number / 1e6, ["million", "billion", "trillion"])


def bytes_text(number: float) -> str:
    """Return a number of bytes with three digits and a unit.

    Examples
    --------
    >>> bytes_text(0), bytes_text(254_544_400_000), bytes_text(61_440)
    ('0 bytes', '255 GB', '61.4 kB')
    """
    return _scaled(number, ["bytes", "kB", "MB", "GB", "TB", "PB"])


def _scaled(number: float, units: list[str]) -> str:
    """Return a number with three digits in the largest unit that it reaches; each is 1000 times the one before."""
    place = 0
    while number >= 999.5 and place < len(units) - 1:
        number /= 1000
        place += 1
    return f"{number:.0f} {units[place]}" if number >= 999.5 else f"{number:.3g} {units[place]}"


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
