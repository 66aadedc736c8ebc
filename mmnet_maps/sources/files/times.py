"""Time axes: the moment of each step as a day of our calendar, from any calendar of the CF conventions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import brief
from mmnet_maps.sources.files.attributes import numbers, text_of
from mmnet_maps.sources.files.description import RasterError

# AppEEARS writes `units = "days since 2000-01-01 00:00:00"` and `calendar = "julian"` on the time of its NetCDF files,
# and counts the days of our calendar: step 7890 is 2021-08-08. cftime labels it 2021-08-08 too, of the Julian calendar:
# both calendars have the same leap years from 1901 to 2099. Converting the label would be wrong by 13 days, and
# counting from before 1900-02-29, a day of the Julian calendar only, by one.
_CALENDARS = {"julian": "proleptic_gregorian", "": "standard"}


def is_time(name: str, attributes: Mapping[str, Any], size: int) -> bool:
    """Return True for a coordinate of time: by its units, or by its name where its steps must be distinguished."""
    if " since " in text_of(attributes, "units"):
        return True
    names = name.lower(), text_of(attributes, "standard_name"), text_of(attributes, "axis")
    return size > 1 and bool({"time", "T"} & set(names))


def moments(name: str, values: NDArray[Any], attributes: Mapping[str, Any]) -> list[datetime | None]:
    """Return the moment of each step.

    Parameters
    ----------
    name, values, attributes
        The time coordinate as stored.

    Returns
    -------
    list
        In the calendar's own year, month and day; None where the step is missing or our calendar has no such day, as 30
        February of ``360_day``.

    Raises
    ------
    RasterError
        When the calendar or the units are unknown.

    Examples
    --------
    >>> moments("time", np.array([59.0, 60.25]), {"units": "days since 2021-01-01", "calendar": "360_day"})
    [None, datetime.datetime(2021, 3, 1, 6, 0)]
    """
    import cftime

    calendar, units = text_of(attributes, "calendar"), text_of(attributes, "units")
    values = np.ravel(values)
    fill = [numbers(attributes.get(key, "")) for key in ("_FillValue", "missing_value")]
    known = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    for stated in fill:
        # A Zarr array has the fill value 0 where nobody states one, and 0 days since a date is a day.
        known &= ~np.isin(values, [] if stated is None else stated[stated != 0])
    counted = _CALENDARS.get(calendar.lower(), calendar.lower())
    found: list[datetime | None] = [None] * values.size
    try:
        dates: Any = np.atleast_1d(cftime.num2date(values[known], units, counted)) if known.any() else []
    except (ValueError, OverflowError, TypeError) as error:
        raise RasterError(
            f"{name} has the calendar {brief(calendar or 'standard', 30)!r} and the units {brief(units, 40)!r}; "
            "expected a calendar of CF and units such as 'days since 2000-01-01'; correct these attributes"
        ) from error
    for step, date in zip(np.flatnonzero(known).tolist(), dates, strict=True):
        try:
            found[step] = datetime(date.year, date.month, date.day, date.hour, date.minute, date.second)
        except ValueError:  # not a day of our calendar
            continue
    return found


def middle(first: datetime | None, moment: datetime | None, last: datetime | None) -> datetime | None:
    """Return the middle of the period that a moment stands for; the moment where that is unknown or over a day.

    Hours are often named after their end, so that the last of a day bears the date of the next.

    Examples
    --------
    >>> hour = [datetime(2021, 8, 8, 23), datetime(2021, 8, 9), datetime(2021, 8, 9)]
    >>> middle(*hour), middle(None, hour[1], None)
    (datetime.datetime(2021, 8, 8, 23, 30), datetime.datetime(2021, 8, 9, 0, 0))
    """
    if first is None or moment is None or last is None or not first <= moment <= last:
        return moment
    return first + (last - first) / 2 if last - first <= timedelta(days=1) else moment
