"""Units that files and the YAML state, converted to those of `variables` by UDUNITS."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mmnet_maps.variables import Variable

LINEAR = "linear"
"""Units of backscatter as power, which is converted to dB by 10·log₁₀."""

_SILENT = {"", "none", "null", "nan", "n/a", "na", "not applicable", "not available", "unknown", "undefined"}
"""Texts that state no units."""

_ONE = {"unitless", "dimensionless", "no unit", "no units", "no_unit", "-", "fraction", "ratio", "reflectance", "unity"}
_SPELLINGS = dict.fromkeys(_ONE, "1") | {
    **dict.fromkeys(("c", "deg c", "deg. c", "degree c", "degrees c", "degrees celsius", "celcius"), "degC"),
    **dict.fromkeys(("f", "deg f", "deg. f", "degree f", "degrees f", "degrees fahrenheit"), "degF"),
    **dict.fromkeys(("deg k", "degree k", "degrees k", "degrees kelvin"), "K"),
    **dict.fromkeys(("kph", "kmh", "kmph"), "km/hour"),
    **dict.fromkeys(("us survey foot", "us survey feet", "foot_us"), "US_survey_foot"),
    **dict.fromkeys(("wh/m2", "wh m-2", "wh/m^2", "wh m**-2"), "W hour m-2"),
    "kpa": "kPa",
    "mb": "millibar",
    "mph": "mile/hour",
    "mps": "m/s",
    "pct": "percent",
}
"""Spellings of published files that UDUNITS does not know or reads as something else (``C`` is the coulomb)."""

_WATER = re.compile(r"\s*(?:\bof (?:liquid )?water(?: equivalent)?|\bw\.?\s?e\.?|\blwe\b)\s*", re.IGNORECASE)
_MASS, _VOLUME = re.compile(r"\b[kmc]?g\b"), re.compile(r"m(?:\^|\*\*)?3\b")
_FRACTIONS = ((_MASS, _VOLUME), (_VOLUME, _MASS))
_INNER_NUMBER = re.compile(r"[\s/]\d+(?:\.\d+)?\s*[A-Za-z]")
"""A number before a later unit, such as ``mm 3h-1``: UDUNITS reads 3 per hour where per three hours is meant."""

_ABSURD = 1e9
"""No published units convert by so much: ``Mm`` is a megametre."""

_DECIBELS = {"db", "decibel", "decibels"}


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """From stated units to a variable's own: ``own = stated * factor + offset``.

    Attributes
    ----------
    amount
        The stated units are those of an amount: what the fields of a day hold is summed.
    decibels
        10·log₁₀ is applied after `factor` and `offset`.
    """

    factor: float = 1.0
    offset: float = 0.0
    amount: bool = False
    decibels: bool = False


def states_units(text: str) -> bool:
    """Return True where a text states units.

    Examples
    --------
    >>> states_units("mm"), states_units("1"), states_units("none")
    (True, True, False)
    """
    return text.strip().casefold() not in _SILENT


@lru_cache(maxsize=1024)
def conversion(text: str, variable: Variable) -> Conversion:
    """Return the conversion from stated units to those of a variable.

    Water may be stated by its mass, 1 kg m-2 being 1 mm. Angles and plain numbers do not convert to each other, nor do
    fractions of mass and of volume.

    Raises
    ------
    ValueError
        When the units are unknown, or do not convert to those of the variable.

    Examples
    --------
    >>> from mmnet_maps.variables import VARIABLES
    >>> conversion("hPa", VARIABLES["vpd"]).factor
    0.1
    >>> conversion("kg m-2", VARIABLES["pr"])
    Conversion(factor=1.0, offset=0.0, amount=True, decibels=False)
    """
    own, wrong = variable.units, f"units {_short(text)} do not convert to {variable.units}"
    if own == "dB":
        if text.strip().casefold() not in _DECIBELS | {LINEAR}:
            raise ValueError(f"units {_short(text)} are unknown for backscatter; expected dB or {LINEAR}")
        return Conversion(decibels=text.strip().casefold() == LINEAR)
    stated, wanted = _parsed(text, own), _parsed(own, own)
    if variable.amount == "mm" and any(map(stated.is_convertible, ("kg m-2", "kg m-2 s-1"))):
        stated = stated / _parsed("1000 kg m-3", own)
    amount = variable.amount is not None and stated.is_convertible(variable.amount)
    if amount:
        wanted = wanted * _parsed("day", own)
    # UDUNITS takes the radian for 1, so that percent would become degrees; and so it does fractions of mass and volume.
    angles = ("rad" in stated.definition) != ("rad" in wanted.definition)
    fractions = stated.is_dimensionless() and any(a.search(text) and b.search(own) for a, b in _FRACTIONS)
    if not stated.is_convertible(wanted) or angles or fractions:
        raise ValueError(f"{wrong}; expected {own} or units that convert to it")
    zero, one = float(stated.convert(0.0, wanted)), float(stated.convert(1.0, wanted))
    factor = one - zero
    if factor >= _ABSURD:
        raise ValueError(f"units {_short(text)} are {factor:g} {own}, which cannot be meant; expected {own}")
    return Conversion(factor=1.0 if math.isclose(factor, 1, rel_tol=1e-9) else factor, offset=zero, amount=amount)


def _parsed(text: str, own: str) -> Any:
    """Return units as cf_units has them; ValueError where they are unknown."""
    import cf_units

    plain = _WATER.sub(" ", text.strip()).strip()
    if _INNER_NUMBER.search(plain):
        raise ValueError(
            f"units {_short(text)} have a number before a later unit, which may be meant in two ways; expected {own}, "
            "or a form such as mm/(3 hour)"
        )
    spelled = _SPELLINGS.get(plain.casefold(), plain)
    # Published files write "Kelvin", "MM" or "Degrees".
    for spelling in (spelled, spelled.lower()):
        try:
            with cf_units.suppress_errors():
                units = cf_units.Unit(spelling)
        except ValueError:
            continue
        if not (units.is_unknown() or units.is_no_unit() or units.is_time_reference()):
            return units
    raise ValueError(f"units {_short(text)} are unknown; expected {own} or units that convert to it")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
