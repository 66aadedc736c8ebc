"""Definitions of drought layers: how a map is compared with the maps of other years at the same time of year.

The values behind a pixel of a map of day D are those of the pixel on all days within `window` days of the same calendar
day (28 February for 29 February in common years) in every other year. The year of D is left out, so that its maps have
the same percentile before and after they are added to the climatology. Missing values are left out; a year without any
value in its window does not count as a year.

With n such values, b of them below the map's value x and t equal to it:

- anomaly: x less their mean; standardised: divided by their standard deviation (n - 1), missing where that is 0;
- percentile: 100 (b + 1 + t / 2) / (n + 2), the Weibull plotting position rank / (N + 1) of x among the N = n + 1
  values including itself, ties at their middle rank (Weibull 1939; Makkonen 2006, https://doi.org/10.1175/JAM2349.1).

Drought classes are those of the U.S. Drought Monitor (Svoboda et al. 2002,
https://doi.org/10.1175/1520-0477-83.8.1181): the driest 30, 20, 10, 5 and 2 %.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.product.layers import DROUGHT, LAYERS

CLASSES = {"D0": 30.0, "D1": 20.0, "D2": 10.0, "D3": 5.0, "D4": 2.0}
"""Drought classes of the U.S. Drought Monitor, and the highest percentile of each."""

FEW_YEARS = 5
"""Number of years below which the quality flag ``short_climatology`` is set."""

ENOUGH = 48
"""Number of values from which the lowest percentile, 100 / (n + 2), is in class D4."""

WINDOW = 15
"""Days before and after the calendar day, unless the climatology says otherwise."""

_MOISTURE = LAYERS["soil_moisture"]
_HALF_STEP = LAYERS["soil_moisture_percentile"].scale / 2


def window_days(day: date, year: int, window: int) -> list[date]:
    """Return the days of a year's window around a calendar day, which may reach into its neighbours.

    Examples
    --------
    >>> [str(day) for day in window_days(date(2020, 2, 29), 2019, 1)]
    ['2019-02-27', '2019-02-28', '2019-03-01']
    """
    leap = (day.month, day.day) == (2, 29)
    middle = date(year, 2, 28) + timedelta(days=_is_leap(year)) if leap else day.replace(year=year)
    return [middle + timedelta(days=k) for k in range(-window, window + 1)]


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def compare(
    moisture: NDArray[np.uint16], years: Iterable[Iterable[NDArray[np.uint16]]], minimum_years: int
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_]]:
    """Compare a map with those of other years; one of them is in memory at a time.

    Parameters
    ----------
    moisture
        Soil moisture as files hold it, of any shape.
    years
        Maps in the same form, year by year.
    minimum_years
        Pixels with values in fewer years get none.

    Returns
    -------
    layers
        `layers.DROUGHT` by name, float32, NaN where missing.
    short
        Where there is a percentile from fewer than `FEW_YEARS` years.
    """
    missing, shape = _MOISTURE.nodata, moisture.shape
    below, equal, count, years_seen = (np.zeros(shape, np.uint16) for _ in range(4))
    total, squares = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for maps in years:
        seen = np.zeros(shape, bool)
        for values in maps:
            valid = values != missing
            known = np.where(valid, values, np.uint16(0))
            below += (known < moisture) & valid
            equal += values == moisture
            count += valid
            seen |= valid
            total += known
            squares += np.square(known, dtype=np.int64)
        years_seen += seen
    there = (moisture != missing) & (years_seen >= max(minimum_years, 1))
    n, x = count.astype(np.int64), moisture.astype(np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = x - total / n
        std = np.sqrt((n * squares - total * total) / (n * (n - 1)))  # exact under the root: integers
        found = {
            "soil_moisture_anomaly": difference * _MOISTURE.scale,
            "soil_moisture_standardised_anomaly": np.where(std > 0, difference / std, np.nan),
            "soil_moisture_percentile": 100 * (below + 1 + equal / 2) / (n + 2),
        }
    layers = {name: np.where(there, found[name], np.nan).astype(np.float32) for name in DROUGHT}
    return layers, there & (years_seen < FEW_YEARS)


def class_numbers(percentile: NDArray[Any]) -> NDArray[np.int8]:
    """Return drought classes of percentiles: 1 for D0 to 5 for D4, 0 for none, -1 where the percentile is NaN.

    Examples
    --------
    >>> class_numbers(np.array([50, 30, 20.1, 2, np.nan], np.float32)).tolist()
    [0, 1, 1, 5, -1]
    """
    limits = np.array([*CLASSES.values()][::-1]) + _HALF_STEP  # percentiles are read back in float32
    numbers = len(CLASSES) - np.searchsorted(limits, np.nan_to_num(percentile, nan=100.0))
    return np.where(np.isnan(percentile), -1, numbers).astype(np.int8)


def count_classes(packed: NDArray[np.uint16]) -> dict[str, int]:
    """Count the pixels of each drought class, and of ``none``, in percentiles as files hold them."""
    numbers = class_numbers(LAYERS["soil_moisture_percentile"].unpack(packed))
    counts = np.bincount(numbers[numbers >= 0].ravel(), minlength=len(CLASSES) + 1).tolist()
    return dict(zip(["none", *CLASSES], counts, strict=True))


def class_names(percentile: NDArray[Any]) -> list[str]:
    """Return drought classes by name: ``D0`` to ``D4``, ``none``, and an empty text where the percentile is NaN."""
    names = ["none", *CLASSES, ""]
    return [names[number] for number in class_numbers(percentile).tolist()]
