"""Values outside the valid range of their variable: refused where they are all that there is, else counted."""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.variables import NLCD_CODES, VARIABLES, Variable

log = logging.getLogger("mmnet_maps")

_FEW = 16  # values that say nothing about all of a product
_SCENES = ("optical", "sar")
"""Groups whose windows may hold nothing but the noise at a scene's border, or the brightest clouds."""


class OutOfRange:
    """Values that were dropped because they are impossible, counted by variable; threads may share it.

    A product is judged by all its values since the last report, not by those of one window.
    """

    def __init__(self) -> None:
        self._lock, self._dropped, self._seen = Lock(), Counter[str](), Counter[str]()
        self._suspects: dict[tuple[str, float, float], _Suspect] = {}

    def check(self, variable: Variable, values: NDArray[Any], where: str) -> None:
        """Count the values, NaN (land cover 0) where missing, that lie outside the variable's range.

        Raises
        ------
        InputError
            When 16 or more values so far are all outside, and not all the same, as a fill value that nobody states
            would be. Optical and SAR values are never refused.
        """
        seen = values[values != 0] if variable.dtype == "uint8" else values[np.isfinite(values)]
        if variable.dtype == "uint8":
            outside = seen[~np.isin(seen, NLCD_CODES)]
        else:
            outside = seen[(seen < variable.valid_min) | (seen > variable.valid_max)]
        self.add(variable, outside, seen.size, where)

    def add(self, variable: Variable, outside: NDArray[Any], seen: int, where: str) -> None:
        """Count the values of some that lie outside; errors as `check`."""
        key = variable.name, variable.valid_min, variable.valid_max  # the fields of a day have a range of their own
        with self._lock:
            suspect = self._suspects.setdefault(key, _Suspect())
            suspect.add(outside, seen)
            refused = variable.group not in _SCENES and suspect.is_refused
            if not refused:
                self._dropped[variable.name] += int(outside.size)
                self._seen[variable.name] += int(seen)
        if refused:
            raise InputError(_refusal(variable, outside, where))

    def report(self) -> None:
        """Log once a variable how many values were dropped since the last report."""
        with self._lock:
            dropped, seen = self._dropped, self._seen
            self._dropped, self._seen = Counter(), Counter()
            self._suspects.clear()
        for name, count in dropped.items():
            if count:
                of = f"{count:,} of {seen[name]:,}"
                if VARIABLES[name].dtype == "uint8":
                    log.warning("%s: %s codes are not codes of NLCD", name, of)
                else:
                    hint = "; check units, scale and offset" if count == seen[name] else ""
                    log.warning("%s: %s values outside %s were dropped%s", name, of, _range(VARIABLES[name]), hint)


@dataclass
class _Suspect:
    """Values of a variable so far: their number, how many are impossible, the lowest and highest of these."""

    seen: int = 0
    outside: int = 0
    low: float = math.inf
    high: float = -math.inf

    def add(self, outside: NDArray[Any], seen: int) -> None:
        """Add the values of a window."""
        self.seen += int(seen)
        self.outside += int(outside.size)
        if outside.size:
            self.low, self.high = min(self.low, float(outside.min())), max(self.high, float(outside.max()))

    @property
    def is_refused(self) -> bool:
        """Enough values are all impossible, and they differ."""
        return self.seen >= _FEW and self.outside == self.seen and self.low != self.high


def _refusal(variable: Variable, outside: NDArray[Any], where: str) -> str:
    if variable.dtype == "uint8":
        codes = ", ".join(f"{code:g}" for code, _ in Counter(outside.ravel().tolist()).most_common(4))
        return (
            f"no {variable.name} code of {where} is known (most are {codes}); expected codes of NLCD, such as 41, 71 "
            "or 82; map other codes with 'codes' in the sources YAML"
        )
    return (
        f"all {variable.name} values of {where} lie outside {_range(variable)} (median {np.median(outside):.4g}); "
        "check the product's units, scale and offset; the sources YAML can state them"
    )


def _range(variable: Variable) -> str:
    return f"{variable.valid_min:g} to {variable.valid_max:g} {variable.units}".removesuffix(" 1")
