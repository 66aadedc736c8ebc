"""Values outside the valid range of their variable: refused where they are all that there is, else counted."""

from __future__ import annotations

import logging
from collections import Counter
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.variables import NLCD_CODES, VARIABLES, Variable

log = logging.getLogger("mmnet_maps")

_FEW = 16  # values that say nothing about all of a product


class OutOfRange:
    """Values that were dropped because they are impossible, counted by variable; threads may share it."""

    def __init__(self) -> None:
        self._lock, self._dropped, self._seen = Lock(), Counter[str](), Counter[str]()

    def check(self, variable: Variable, values: NDArray[Any], where: str) -> None:
        """Count the values, NaN (land cover 0) where missing, that lie outside the variable's range.

        Raises
        ------
        InputError
            When 16 or more values are all outside, and not all the same, as a fill value that nobody states would be.
        """
        seen = values[values != 0] if variable.dtype == "uint8" else values[np.isfinite(values)]
        if variable.dtype == "uint8":
            outside = seen[~np.isin(seen, NLCD_CODES)]
        else:
            outside = seen[(seen < variable.valid_min) | (seen > variable.valid_max)]
        self.add(variable, outside, seen.size, where)

    def add(self, variable: Variable, outside: NDArray[Any], seen: int, where: str) -> None:
        """Count the values of some that lie outside; errors as `check`."""
        if seen >= _FEW and outside.size == seen and outside.min() != outside.max():
            raise InputError(_refusal(variable, outside, where))
        with self._lock:
            self._dropped[variable.name] += int(outside.size)
            self._seen[variable.name] += int(seen)

    def report(self) -> None:
        """Log once a variable how many values were dropped since the last report."""
        with self._lock:
            dropped, seen = self._dropped, self._seen
            self._dropped, self._seen = Counter(), Counter()
        for name, count in dropped.items():
            if count:
                of = f"{count:,} of {seen[name]:,}"
                if VARIABLES[name].dtype == "uint8":
                    log.warning("%s: %s codes are not codes of NLCD", name, of)
                else:
                    log.warning("%s: %s values outside %s were dropped", name, of, _range(VARIABLES[name]))


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
