"""One value a day from the fields of a day, and how many fields a whole day has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.variables import Daily, Variable

_DAY = 86400


def fields_a_day(times: Iterable[int]) -> int | None:
    """Return the number of fields in a whole day, from the usual step between times in seconds.

    Returns
    -------
    int or None
        At least 1; None where fewer than two times are given, or most steps differ.

    Examples
    --------
    >>> fields_a_day([0, 10800, 21600, 43200]), fields_a_day([0, 3600, 86400])
    (8, None)
    """
    # To the minute: times in fractions of days are inexact.
    minutes = np.unique((np.fromiter(times, np.int64) + 30) // 60)
    steps, counts = np.unique(np.diff(minutes), return_counts=True)
    if not steps.size or 2 * counts.max() <= counts.sum():
        return None
    return max(1, round(_DAY / 60 / float(steps[counts.argmax()])))


def whole_day(own: Sequence[int], axes: Iterable[Sequence[int]]) -> int | None:
    """Return the number of fields in a whole day; more than a day has where it may be incomplete.

    Parameters
    ----------
    own
        The times of a day's fields, in seconds. Eight or more that fill the day evenly are a whole day.
    axes
        Times of fields of that and other days, in seconds; the axis with the shortest step decides.

    Returns
    -------
    int or None
        None where no step is known: two times alone give none, unless the day has one of them only.

    Examples
    --------
    >>> hours = range(0, 86400, 3600)
    >>> whole_day([0, 43200], [hours]), whole_day(hours[::3], [hours]), whole_day([0, 43200], [[0, 43200]])
    (24, 8, None)
    """
    if fields_a_day(own) == len(own) >= 8:
        return len(own)
    least = 3 if len(own) > 1 else 2
    found = [fields_a_day(axis) for axis in (own, *axes) if len(axis) >= least]
    return max(filter(None, found), default=None)


def of_field(variable: Variable, daily: Daily) -> Variable:
    """Return a variable with the range of one of several fields of a day, in place of that of a day's value.

    The hottest hour may be above any daily minimum, rain or sunshine of a day may fall in an hour, and dew or noise of
    a sensor at night is below 0.

    Examples
    --------
    >>> from mmnet_maps.variables import VARIABLES
    >>> of_field(VARIABLES["srad"], "mean").valid_max, of_field(VARIABLES["tmmn"], "min").valid_max
    (12000, 430)
    >>> of_field(VARIABLES["srad"], "mean").valid_min, of_field(VARIABLES["pr"], "sum").valid_min
    (-25.0, 0)
    """
    width = variable.valid_max - variable.valid_min
    if daily == "max":
        return replace(variable, valid_min=variable.valid_min - width)
    if daily == "min":
        return replace(variable, valid_max=variable.valid_max + width)
    if not variable.amount:
        return variable
    # Rain is never below 0, and a small share of the range keeps out numbers such as -9 that mean missing.
    low = variable.valid_min - (0 if variable.name == "pr" else width / (20 if daily == "mean" else 100))
    high = variable.valid_max * (24 if daily == "mean" else 1)
    return replace(variable, valid_min=low, valid_max=high)


def reduced(
    values: NDArray[np.float32], daily: Daily, whole: int | NDArray[np.integer], least: int | NDArray[np.integer]
) -> NDArray[np.float32]:
    """Reduce the fields of a day to its value.

    Parameters
    ----------
    values
        The fields, (field, y, x), NaN where missing.
    daily
        The reduction.
    whole
        Fields of a whole day, for all cells or each. Where the sum of fewer is allowed, missing ones count as the mean
        of the others.
    least
        Valid fields that a value needs.

    Returns
    -------
    ndarray (y, x)
        float32, NaN where fewer than `least` fields are valid.
    """
    if len(values) == 1 and np.all(np.equal(whole, 1)) and np.all(np.less_equal(least, 1)):
        return np.asarray(values[0])
    valid = np.isfinite(values)
    count = valid.sum(axis=0)
    enough = count >= np.maximum(least, 1)
    if daily in ("max", "min"):
        extreme, other = (np.max, -np.inf) if daily == "max" else (np.min, np.inf)
        found = extreme(np.where(valid, values, np.float32(other)), axis=0)
        return np.where(enough, found, np.nan).astype(np.float32)
    total = np.nansum(values, axis=0, dtype=np.float64)
    parts = np.maximum(count, 1) if daily == "mean" else np.minimum(np.maximum(count, 1) / whole, 1)
    return np.where(enough, total / parts, np.nan).astype(np.float32)
