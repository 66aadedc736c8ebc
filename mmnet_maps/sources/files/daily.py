"""One value a day from the fields of a day, and how many fields a whole day has."""

from __future__ import annotations

from collections.abc import Iterable
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


def of_field(variable: Variable, daily: Daily) -> Variable:
    """Return a variable with the range of one of several fields of a day, in place of that of a day's value.

    The hottest hour may be above any daily minimum, and rain or sunshine of a day may fall in an hour.

    Examples
    --------
    >>> from mmnet_maps.variables import VARIABLES
    >>> of_field(VARIABLES["srad"], "mean").valid_max, of_field(VARIABLES["tmmn"], "min").valid_max
    (12000, 430)
    """
    width = variable.valid_max - variable.valid_min
    if daily == "max":
        return replace(variable, valid_min=variable.valid_min - width)
    if daily == "min":
        return replace(variable, valid_max=variable.valid_max + width)
    return replace(variable, valid_max=24 * variable.valid_max) if variable.amount and daily == "mean" else variable


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
    parts = np.maximum(count, 1) if daily == "mean" else np.maximum(count, 1) / whole
    return np.where(enough, total / parts, np.nan).astype(np.float32)
