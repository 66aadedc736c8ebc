"""The synthetic world's soil moisture: a water balance that rain fills and evapotranspiration empties.

Arrays are (day, place); days are proleptic ordinals.
"""

from __future__ import annotations

from datetime import date

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.sources.demo.noise import Field
from mmnet_maps.sources.demo.weather import Climate, day_of_year, weather

# The water balance is that of 101 stations of NOAA USCRN on average; see docs/decisions/0019-demo-water-balance.md.
RESPONSE = 0.003
"""Soil moisture that a millimetre of rain adds to the top 5 cm, m³/m³."""
DRYING = 60.0
"""Reference evapotranspiration that reduces what rain added to 1/e, mm."""
CAPACITY, DRAINED, ROOM = 0.25, 0.3, 0.40
"""Added moisture above which water drains, the share of the excess that drains in a day, and its limit, m³/m³."""
RESIDUAL, RESIDUAL_OF_CLAY = 0.054, 0.0011
"""Soil moisture after a drought where the soil has 21 % clay, and its increase per percent, m³/m³."""
WATERED = 0.095
"""Soil moisture that irrigation adds to growing fields on average, m³/m³."""

_BLOCK = 4096  # places computed at once
_SPIN_UP_MONTHS = 3


def soil_moisture(climate: Climate, days: NDArray[np.int64], seed: int) -> Field:
    """Return soil moisture of the top 5 cm without irrigation, m³/m³: `water_balance` of the weather.

    It starts dry three months before the month of the day, so that a value depends on its place and date alone.
    """
    result = np.empty((len(days), len(climate.x)), np.float32)
    months = [date.fromordinal(int(day)).replace(day=1) for day in days]
    starts = np.array([_months_before(month, _SPIN_UP_MONTHS).toordinal() for month in months], np.int64)
    first = int(starts.min())
    span = np.arange(first, int(days.max()) + 1)
    for place in range(0, len(climate.x), _BLOCK):
        block = slice(place, place + _BLOCK)
        part = climate.part(block)
        drive = weather(part, span, seed)
        for start in np.unique(starts):
            chosen = starts == start
            run = slice(int(start) - first, int(days[chosen].max()) + 1 - first)
            moisture = water_balance(drive.pr[run], drive.eto[run], part.clay)
            result[chosen, block] = moisture[days[chosen] - start]
    return result


def cell_moisture(climate: Climate, days: NDArray[np.int64], seed: int) -> Field:
    """Return soil moisture of a square kilometre with its irrigated fields, m³/m³."""
    result: Field = soil_moisture(climate, days, seed)
    result += np.float32(WATERED) * climate.watered(day_of_year(days))
    return result


def water_balance(pr: Field, eto: Field, clay: Field) -> Field:
    """Run the water balance over days (first axis) for places (last axis).

    What rain adds drains quickly above `CAPACITY` and dries exponentially with the evapotranspiration since.

    Parameters
    ----------
    pr, eto
        Precipitation and reference evapotranspiration, mm per day.
    clay
        Percent.

    Returns
    -------
    ndarray
        Soil moisture at each day's end, m³/m³.
    """
    residual = np.maximum(RESIDUAL + RESIDUAL_OF_CLAY * (clay - 21), 0.02).astype(np.float32)
    kept = np.exp(-eto / np.float32(DRYING))
    added = np.zeros(pr.shape[1:], np.float32)
    result = np.empty(pr.shape, np.float32)
    for day in range(len(pr)):
        added = np.minimum(added + np.float32(RESPONSE) * pr[day], np.float32(ROOM))
        added -= np.float32(DRAINED) * np.maximum(added - np.float32(CAPACITY), 0)
        added *= kept[day]
        result[day] = residual + added
    return result


def _months_before(day: date, months: int) -> date:
    count = day.year * 12 + day.month - 1 - months
    return date(count // 12, count % 12 + 1, 1)
