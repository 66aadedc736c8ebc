"""What a file states about its numbers, and what the YAML puts in its place: packing, units, method over time."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from threading import Lock

from mmnet_maps.errors import InputError
from mmnet_maps.sources.files.config import RasterEntry
from mmnet_maps.sources.files.description import Raster
from mmnet_maps.sources.files.locations import shown
from mmnet_maps.sources.files.units import Conversion, conversion, states_units
from mmnet_maps.sources.ranges import OutOfRange
from mmnet_maps.variables import Daily, Variable

log = logging.getLogger("mmnet_maps")

_TIMES = {"time", "t", "day", "date", "valid_time", "step"}


class Notices:
    """Notices about the files of a source, each kind once a variable; `ranges` counts impossible values."""

    def __init__(self) -> None:
        self.ranges = OutOfRange()
        self._lock, self._given = Lock(), set[tuple[str, str]]()

    def once(self, variable: str, kind: str, text: str) -> None:
        """Log a text, unless there was one of its kind for the variable."""
        with self._lock:
            given = (variable, kind) in self._given
            self._given.add((variable, kind))
        if not given:
            log.warning("%s: %s", variable, text)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """From stored numbers to the units of a variable: ``stored * scale + offset``, then 10·log₁₀ for `decibels`.

    Attributes
    ----------
    daily
        Reduction of the fields of a day: ``sum`` where they hold amounts.
    doubt
        A contradiction in the file about that, which matters where a day has several fields; else empty.
    """

    scale: float
    offset: float
    decibels: bool
    daily: Daily
    doubt: str = ""


def scaling(raster: Raster, entry: RasterEntry, variable: Variable, notices: Notices) -> Scaling:
    """Decide how stored numbers become values: the YAML has precedence, then the file.

    Raises
    ------
    InputError
        When the file's units are unknown or do not convert, or the YAML rescales numbers whose units would have to be
        converted too.
    """
    scale = raster.scale if entry.scale is None else entry.scale
    offset = raster.offset if entry.offset is None else entry.offset
    if variable.aggregation == "mode":
        return Scaling(scale=scale, offset=offset, decibels=False, daily="mean")
    stated = _stated(raster, entry, variable, notices)
    found = Conversion() if stated is None else stated
    if entry.units is None and (scale, offset) != (raster.scale, raster.offset) and _changes(found):
        raise InputError(
            f"{variable.name}: {shown(raster.spec.path)} states the units {raster.units!r}, and the sources YAML "
            f"another scale or offset; expected the units after scale and offset; add 'units: {variable.units}' or the "
            f"like to {variable.name}"
        )
    method = time_method(raster.cell_methods)
    amount = found.amount
    if stated is None:
        amount = variable.amount is not None and (method == "sum" or (variable.daily == "sum" and not method))
    _note_other_extreme(raster, variable, method, notices)
    doubt = ""
    if entry.units is None and ((method == "sum" and not amount) or (method == "mean" and amount)):
        doubt = f"{shown(raster.spec.path)} states cell_methods 'time: {method}' and the units {raster.units!r}"
    return Scaling(
        scale=scale * found.factor,
        offset=offset * found.factor + found.offset,
        decibels=found.decibels,
        daily="sum" if amount else "mean" if variable.daily == "sum" else variable.daily,
        doubt=doubt,
    )


def _stated(raster: Raster, entry: RasterEntry, variable: Variable, notices: Notices) -> Conversion | None:
    """Return the conversion of the stated units: of the YAML, else of the file; None where there are none."""
    chosen = None if entry.units is None else conversion(entry.units, variable)
    if not states_units(raster.units):
        return chosen
    try:
        found = conversion(raster.units, variable)
    except ValueError as error:
        if chosen is None:
            raise InputError(
                f"{variable.name}: {shown(raster.spec.path)}: {error}; add the right ones to {variable.name} in the "
                f"sources YAML, such as 'units: {variable.units}'"
            ) from error
        found = None
    if chosen is not None and chosen != found:
        notices.once(
            variable.name,
            "units",
            f"the units {entry.units!r} of the sources YAML are used in place of {raster.units!r}, which "
            f"{shown(raster.spec.path)} states",
        )
    return found if chosen is None else chosen


def _changes(found: Conversion) -> bool:
    return found.decibels or (found.factor, found.offset) != (1.0, 0.0)


def _note_other_extreme(raster: Raster, variable: Variable, method: str, notices: Notices) -> None:
    """Report a file of maxima that is read as the day's minimum, and the like."""
    fitting = {"max": ("maximum",), "min": ("minimum",)}.get(variable.daily, ())
    if method in {"maximum", "minimum", "median", "range", "variance", "standard_deviation"} - set(fitting):
        notices.once(
            variable.name,
            "cell_methods",
            f"{shown(raster.spec.path)} states cell_methods 'time: {method}', but {variable.name} is the "
            f"{variable.long_name}; check 'variable' in the sources YAML",
        )


def time_method(cell_methods: str) -> str:
    """Return the method over time that ``cell_methods`` states; empty where there is none.

    Examples
    --------
    >>> time_method("area: mean time: sum (interval: 1 hr)"), time_method("lat: lon: mean")
    ('sum', '')
    """
    found = [
        method
        for names, method in re.findall(r"((?:\w+:\s*)+)(\w+)", re.sub(r"\([^)]*\)", "", cell_methods))
        if _TIMES & set(re.findall(r"\w+", names))
    ]
    return found[-1].lower() if found else ""
