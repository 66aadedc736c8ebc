"""What Earth Engine is likely to charge, in EECU-hours, and how much of a month's quota that is.

The price is not known in advance. It is estimated from the native pixels that a request combines, at a rate that is an
assumption, not a measurement: a core handles some million values a second, and a filter of 7 × 7 pixels costs several
times a mean. ``MMNET_LIVE=1 pytest -m live -s`` prints what two typical requests do cost.
"""

from __future__ import annotations

from odc.geo.geobox import GeoBox

from mmnet_maps.sources.earthengine.config import Selection
from mmnet_maps.sources.earthengine.expressions import metres

TIERS = {"Community": 150, "Contributor": 1_000, "Partner": 100_000}
"""EECU-hours a month that a noncommercial project may use (Earth Engine, "Noncommercial tiers", since 2026-04-27)."""

SECONDS = 0.45
"""EECU-seconds for a million native pixels of a band: a guess."""

SMOOTHED = 4.0
"""What a native pixel with the speckle filter costs, in native pixels without."""

DOUBT = 2.5
"""Factor by which the estimate may be off, in either direction."""


def eecu_hours(selection: Selection, geobox: GeoBox, values: int) -> float:
    """Estimate the EECU-hours that computing some values of a selection on a grid takes."""
    product = selection.product
    across = metres(geobox) / product.resolution if selection.fine and selection.resampling == "mean" else 1.0
    native = values * max(across, 1.0) ** 2 * product.fields
    return native * (SMOOTHED if product.smooth else 1.0) * SECONDS / 1e6 / 3600


def price_rows(hours: float) -> list[tuple[str, ...]]:
    """Return a table that compares an estimate with the quotas of the tiers.

    Examples
    --------
    >>> for row in price_rows(2.4):
    ...     print(*row, sep=" | ")
    tier of Earth Engine | EECU-hours a month | this fetch
    Community | 150 | 0.6 to 4 %
    Contributor | 1,000 | 0.1 to 0.6 %
    Partner | 100,000 | less than 0.1 %
    """
    rows = ((tier, f"{quota:,}", _share(hours / quota)) for tier, quota in TIERS.items())
    return [("tier of Earth Engine", "EECU-hours a month", "this fetch"), *rows]


def price_text(hours: float) -> str:
    """Return an estimate in words, with how it was got.

    Examples
    --------
    >>> price_text(2.4)  # doctest: +ELLIPSIS
    'perhaps 1 to 6 EECU-hours (0.45 EECU-seconds for a million native pixels, ...
    """
    return (
        f"perhaps {_two_digits(hours / DOUBT)} to {_two_digits(hours * DOUBT)} EECU-hours ({SECONDS:g} EECU-seconds "
        f"for a million native pixels, {SMOOTHED:g} times as much with the speckle filter; a guess, not measured: "
        "Earth Engine reports the price only afterwards)"
    )


def _share(part: float) -> str:
    """Return the part of a month's quota that an estimate may take."""
    low, high = part / DOUBT, part * DOUBT
    if low > 1:
        return f"{_two_digits(low)} to {_two_digits(high)} months"
    if high < 0.001:
        return "less than 0.1 %"
    return f"{_two_digits(100 * low)} to {_two_digits(100 * high)} %"


def _two_digits(number: float) -> str:
    """Return a number to two digits, to one below ten.

    Examples
    --------
    >>> _two_digits(0.096), _two_digits(3.4), _two_digits(34.6), _two_digits(4980)
    ('0.1', '3', '35', '5,000')
    """
    digits = 1 if number < 10 else 2
    rounded = float(f"{number:.{digits}g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"
