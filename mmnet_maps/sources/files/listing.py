"""The files of a variable by day, from their names alone: no file is opened here."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property, lru_cache

from mmnet_maps.errors import InputError
from mmnet_maps.sources.files.config import DATE_CODES, VariableFiles
from mmnet_maps.sources.files.locations import Entry, Place, is_url, join, list_folder, redacted, remote_errors, shown

_PARTS = re.compile(r"(\{[^{}]*\}|\*|\?)")


@dataclass(frozen=True, kw_only=True)
class DatedFile:
    """A file, and what its name or the YAML states about it.

    Attributes
    ----------
    path
        Its path or URL.
    first, last
        The days it may hold: the same day where one is stated, None where nothing is stated.
    time
        The time of day in its name.
    tile
        The part of its name that all files on the same grid share; None where each may have its own grid.
    stamp
        Changes when the file does; empty where listing its folder did not show it (see `stamps`).
    mask
        The file of the mask beside it, where the mask is not found by its name.
    """

    path: Place
    first: date | None = None
    last: date | None = None
    time: str = ""
    tile: str | None = None
    stamp: str = ""
    mask: Place | None = None

    @property
    def release(self) -> date | None:
        """The middle of the days it may hold."""
        return self.first + (self.last - self.first) // 2 if self.first and self.last else None


@dataclass(frozen=True)
class Listing:
    """The files of a variable, by day where the day is stated."""

    files: tuple[DatedFile, ...]
    by_day: dict[date, list[DatedFile]] = field(init=False, default_factory=dict)
    others: list[DatedFile] = field(init=False, default_factory=list)
    _days: list[date] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        for file in self.files:
            if file.first and file.first == file.last:
                self.by_day.setdefault(file.first, []).append(file)
            else:
                self.others.append(file)
        self._days.extend(sorted(self.by_day))

    def days(self, start: date, end: date) -> list[date]:
        """Return the stated days from `start` to `end`, both included."""
        return self._days[bisect_left(self._days, start) : bisect_right(self._days, end)]

    def around(self, day: date, count: int) -> list[date]:
        """Return `count` stated days before and after a day, itself, and the oldest day and that of the most files."""
        place = bisect_left(self._days, day)
        near = self._days[max(0, place - count) : place + count + 1]
        return sorted({*near, *self._typical})

    @cached_property
    def _typical(self) -> list[date]:
        return [self._days[0], max(self._days, key=lambda day: len(self.by_day[day]))] if self._days else []

    def on(self, day: date) -> list[DatedFile]:
        """Return the files that may hold a day, by their names."""
        return [*self.by_day.get(day, []), *self.undecided(day, day)]

    def undecided(self, start: date, end: date) -> list[DatedFile]:
        """Return the files that may hold days from `start` to `end`; only their content decides."""
        return [
            file
            for file in self.others
            if file.first is None or file.last is None or (file.first <= end and start <= file.last)
        ]


def listed(name: str, entry: VariableFiles, folder: Place) -> Listing:
    """List the files that a YAML names for a variable.

    Raises
    ------
    InputError
        When a folder cannot be listed, or a pattern matches no file.
    """
    if entry.pattern:
        # Last by name first: of two versions of a granule, the newer one.
        files = sorted(matching(name, entry.pattern, folder), key=lambda file: str(file.path), reverse=True)
        return Listing(tuple(files))
    dated = {entry.date: entry.files} if entry.files else entry.dates
    return Listing(
        tuple(
            DatedFile(path=path, first=day, last=day)
            for day, paths in dated.items()
            for path in (join(folder, text) for text in paths)
        )
    )


def matching(name: str, pattern: str, folder: Place) -> list[DatedFile]:
    """List the files that match a pattern.

    Parameters
    ----------
    name
        The variable, named in errors.
    pattern
        A valid pattern of `mmnet_maps.sources.files.config.VariableFiles`.
    folder
        The folder that it is relative to.

    Raises
    ------
    InputError
        When a folder cannot be listed, or no file matches.
    """
    root, segments = _split(pattern, folder)
    files, seen = [], ""
    for path, parts, entry in _walk(name, root, segments, []):
        seen = entry.name
        file = _dated(path, parts, entry.stamp)
        if file is not None:
            files.append(file)
    if not files:
        hint = f" ({seen} matches, but states no date)" if seen else ""
        raise InputError(
            f"{name}: the pattern {shown(pattern) if is_url(pattern) else pattern} matches no file in "
            f"{shown(folder)}{hint}; expected at least one; correct pattern or folder in the sources YAML"
        )
    return files


def _split(pattern: str, folder: Place) -> tuple[Place, list[str]]:
    """Return the deepest folder without wildcards, and the parts of the pattern below it."""
    head = ""
    if is_url(pattern):
        scheme, _, rest = pattern.partition("://")
        host, _, pattern = rest.partition("/")
        head = f"{scheme}://{host}"
    elif pattern.startswith("/"):
        head = "/"
    segments = [part for part in pattern.split("/") if part]
    fixed = next((k for k, part in enumerate(segments[:-1]) if _PARTS.search(part)), len(segments) - 1)
    root = join(folder, head) if head else folder
    for part in segments[:fixed]:
        root = join(root, part)
    return root, segments[fixed:]


def _walk(
    name: str, folder: Place, segments: list[str], parts: list[tuple[str, str]]
) -> Iterator[tuple[Place, list[tuple[str, str]], Entry]]:
    """Yield everything below a folder that matches, with the parts of its path; each folder is listed once."""
    segment, *below = segments
    try:
        entries = list(list_folder(folder, lambda text: stated_by(segment, text) is not None))
    except ImportError as error:
        raise InputError(
            f"{name}: {shown(folder)} cannot be listed ({redacted(error)}); run pip install '.[remote]'"
        ) from None
    except remote_errors() as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else redacted(error)
        raise InputError(
            f"{name}: {shown(folder)} cannot be listed ({reason}); correct folder or pattern in the sources YAML"
        ) from (None if isinstance(folder, str) else error)
    for entry in entries:
        path, stated = join(folder, entry.name), [*parts, *(stated_by(segment, entry.name) or ())]
        if not below:
            yield path, stated, entry
        elif entry.folder:
            yield from _walk(name, path, below, stated)


def stated_by(segment: str, text: str) -> list[tuple[str, str]] | None:
    """Return the parts of date and tile in a file or folder name; None where it does not match.

    Examples
    --------
    >>> stated_by("pr_{date:%Y}.nc", "pr_2021.nc")
    [('Y', '2021')]
    >>> stated_by("*.{tile}.{date:%Y%j}.tif", "B04.T11TKN.2021220.tif")
    [('tile', 'T11TKN'), ('Y', '2021'), ('j', '220')]
    """
    expression, keys = _compiled(segment)
    found = expression.fullmatch(text)
    return None if found is None else list(zip(keys, found.groups(), strict=True))


@lru_cache(maxsize=256)
def _compiled(segment: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    keys: list[str] = []
    expression = ""
    for part in _PARTS.split(segment):
        if part == "*":
            expression += ".*"
        elif part == "?":
            expression += "."
        elif part == "{tile}":
            keys.append("tile")
            expression += "(.+)"
        elif part.startswith("{date:"):
            for literal, code in re.findall(r"([^%]*)(?:%(.))?", part[len("{date:") : -1]):
                expression += re.escape(literal)
                if code:
                    keys.append(code)
                    expression += f"({DATE_CODES[code]})"
        else:
            expression += re.escape(part)
    return re.compile(expression, re.DOTALL), tuple(keys)


def seconds_of(time: str) -> int | None:
    """Return the second of the day of a time in a file's name, HH, HHMM or HHMMSS; None where there is none.

    Examples
    --------
    >>> seconds_of("0130"), seconds_of("")
    (5400, None)
    """
    if not time:
        return None
    hours, minutes, seconds = (int(f"{time:0<6}"[start : start + 2]) for start in (0, 2, 4))
    return hours * 3600 + minutes * 60 + seconds


def _dated(path: Place, parts: list[tuple[str, str]], stamp: str) -> DatedFile | None:
    """Return a file with the date and tile of its path; None where they are contradictory or no date."""
    stated: dict[str, str] = {}
    tiles = []
    for key, value in parts:
        if key == "tile":
            tiles.append(value)
        elif stated.setdefault(key, value) != value:
            return None
    try:
        first, last = _period(stated)
    except ValueError:
        return None
    time = "".join(stated.get(key, "") for key in "HMS")
    return DatedFile(path=path, first=first, last=last, time=time, tile="/".join(tiles) or None, stamp=stamp)


def _period(stated: dict[str, str]) -> tuple[date | None, date | None]:
    if "Y" not in stated:
        return None, None
    year = int(stated["Y"])
    if "j" in stated:
        day = date(year, 1, 1) + timedelta(days=int(stated["j"]) - 1)
        if day.year != year:
            raise ValueError(f"{year} has no day {stated['j']}")
        return day, day
    if "m" not in stated:
        return date(year, 1, 1), date(year, 12, 31)
    month = int(stated["m"])
    if "d" in stated:
        day = date(year, month, int(stated["d"]))
        return day, day
    return date(year, month, 1), date(year, month, monthrange(year, month)[1])
