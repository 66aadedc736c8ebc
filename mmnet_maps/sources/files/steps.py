"""How many fields a whole day has, by the times in the files of that day and of days near it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Set
from datetime import date, timedelta

from mmnet_maps.errors import InputError
from mmnet_maps.sources.files.daily import whole_day
from mmnet_maps.sources.files.description import Raster
from mmnet_maps.sources.files.listing import DatedFile, Listing, seconds_of
from mmnet_maps.sources.files.locations import shown

_DAY = 86400

_NEAR = 3
"""Days before and after a day whose fields show its time step."""


class Steps:
    """The time steps of the files of a variable.

    The file of a day alone does not show them: it may be the one that is incomplete.

    Parameters
    ----------
    listing
        The files.
    describe
        Opens a file; descriptions are cached.
    """

    def __init__(self, listing: Listing, describe: Callable[[DatedFile], Raster]) -> None:
        self._listing, self._describe = listing, describe
        self._known: dict[tuple[date, frozenset[int]], int | None] = {}

    def whole(self, own: Set[int], day: date) -> int | None:
        """Return the number of fields in a whole day; None where no time step is known.

        Parameters
        ----------
        own
            The seconds of the day of the fields that it has.
        day
            The day.
        """
        key = day, frozenset(own)
        if key not in self._known:
            self._known[key] = whole_day(sorted(own), self._axes(day)) if own else None
        return self._known[key]

    def _axes(self, day: date) -> Iterator[list[int]]:
        """Yield the times, in seconds, of the fields near a day: by the names of files, by file, and by day."""
        by_day = self._listing.by_day
        days = self._listing.around(day, _NEAR)
        yield [
            there.toordinal() * _DAY + second
            for there in days
            for file in by_day[there]
            if (second := seconds_of(file.time)) is not None
        ]
        reach = timedelta(days=_NEAR)
        for file in self._listing.undecided(day - reach, day + reach):
            yield self._times(file, day)
        for there in days:
            files = by_day[there]
            lone: set[int] = set()
            for file in files[:1] if files[0].time else files:
                times = self._times(file, there)
                if len(times) > 1:
                    yield times
                lone.update(times if len(times) == 1 else ())
            if len(lone) > 2:
                yield sorted(lone)

    def _times(self, file: DatedFile, day: date) -> list[int]:
        """Return the times of a file's steps: those of the days near a day if it has some, else all."""
        try:
            raster = self._describe(file)
        except InputError:  # refused where its own day is read
            return []
        moments, middle = raster.moments, day.toordinal() * _DAY
        start, end = (bisect_left(moments, middle + days * _DAY) for days in (-_NEAR, _NEAR + 1))
        near = list(moments[start:end])
        return near if len(near) > 2 else list(moments)


def refuse_hours_before(file: DatedFile, raster: Raster) -> None:
    """Refuse a file with an hour of the day before those of its name, as bounds of time state it.

    Raises
    ------
    InputError
        When it has one: the hour would be lost, or counted on the wrong day.
    """
    days = raster.steps_of
    before = file.first and file.first - timedelta(days=1)
    if before in days and (file.time or len(days) > 1):
        raise InputError(
            f"{raster.spec.key}: {shown(file.path)} holds an hour of {before} by its bounds of time, the day before "
            "its name; put * in place of the date in 'pattern', so that the time axes of the files state their days"
        )
