"""Contents and faults of a table of samples, reported before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.metrics import TARGET
from mmnet_maps.model.indices import INDICES
from mmnet_maps.training.build_table import METADATA
from mmnet_maps.training.table import POSSIBLE_TARGET, Samples, mostly_above
from mmnet_maps.variables import VARIABLES

if TYPE_CHECKING:
    import pandas as pd

MOVED_DEGREES = 0.02
"""Rows of one station that lie further apart than this belong to two stations."""

_CONSTANT = (TARGET, "smap")  # a value that is the same every day at a station is not a measurement


@dataclass(frozen=True, kw_only=True)
class VariableCheck:
    """One input, or the target, over all rows (and days of a series).

    Attributes
    ----------
    name, units
        See `variables`; indices have the units ``"1"``.
    days
        Days of a series; 0 for a snapshot variable.
    minimum, median, maximum
        Of the possible values; NaN where there is no such value, and for land cover.
    missing, impossible
        Shares of values that are missing, and that lie outside the possible range and are treated as missing.
    """

    name: str
    units: str
    days: int
    minimum: float
    median: float
    maximum: float
    missing: float
    impossible: float


@dataclass(frozen=True, kw_only=True)
class StationCheck:
    """One station.

    Attributes
    ----------
    station, region, lat, lon
        Name and position in degrees; region "" where the table has none.
    rows, first, last
        Number of rows, and their first and last day.
    gap_days, longest_gap
        Days without a row between first and last, and the longest run of them.
    mean, minimum, maximum
        Observed soil moisture, m³/m³; NaN without observations.
    incomplete
        Share of rows with a missing input; training leaves them out.
    """

    station: str
    region: str
    lat: float
    lon: float
    rows: int
    first: date
    last: date
    gap_days: int
    longest_gap: int
    mean: float
    minimum: float
    maximum: float
    incomplete: float


@dataclass(frozen=True, kw_only=True)
class SamplesCheck:
    """The findings of `check_samples`.

    Attributes
    ----------
    samples
        The table.
    variables, stations
        In the table's order; stations by name.
    problems, notices
        One line each: faults of the table, and remarks on it.
    about
        What `build_table.build_samples` recorded in the table (software, inputs, synthetic); empty for others.
    """

    samples: Samples
    variables: tuple[VariableCheck, ...]
    stations: tuple[StationCheck, ...]
    problems: tuple[str, ...]
    notices: tuple[str, ...]
    about: dict[str, Any]


def check_samples(samples: Samples) -> SamplesCheck:
    """Look for duplicates, gaps, wrong units, impossible and missing values, series that do not follow the calendar.

    Parameters
    ----------
    samples
        A table from `table.read_samples`.

    Raises
    ------
    InputError
        A column is of the wrong form: an unknown land cover class, a series that is not a list of numbers.
    """
    import pandas as pd

    rows = pd.DataFrame(
        {
            "station": samples.station,
            "day": samples.date.astype(np.int64),
            "lat": samples.numbers("lat"),
            "lon": samples.numbers("lon"),
            TARGET: samples.numbers(TARGET).astype(np.float64) if TARGET in samples.table.column_names else np.nan,
        }
    )
    problems = list(_wrong_rows(rows, samples))
    notices: list[str] = []
    variables: list[VariableCheck] = []
    incomplete = np.zeros(len(rows), bool)
    order = np.lexsort((rows["day"], rows["station"]))
    for name in _checked(samples):
        values, possible = _values(samples, name)
        variables.append(_variable(name, values, possible))
        found = variables[-1]
        if found.impossible == 1 - found.missing > 0:
            problems.append(_wrong_units(name, values))
        elif name == TARGET and mostly_above(values):
            problems.append(f"most values of {name} are above 1 (their median is {np.nanmedian(values):g}); give m³/m³")
        elif found.impossible:
            notices.append(f"{name}: {_percent(found.impossible)} of the values are impossible and count as missing")
        if name != TARGET:
            incomplete |= ~possible.reshape(len(rows), -1).all(axis=1)
        if values.ndim == 2 and values.size and (broken := _broken_windows(values[order], rows.iloc[order])):
            notices.append(
                f"{name}: {_percent(broken)} of the series do not continue those of the station's previous row; are "
                "they counted in rows instead of days?"
            )
        if name in _CONSTANT:
            notices += _constants(name, np.where(possible, values, np.nan), rows)
    rows["incomplete"] = incomplete
    stations = tuple(_stations(rows, samples))
    about = _about(samples)
    return SamplesCheck(
        samples=samples,
        variables=tuple(variables),
        stations=stations,
        problems=tuple(problems),
        notices=(*_of_all(stations, about), *notices),
        about=about,
    )


def format_check(found: SamplesCheck) -> str:
    """Format the findings for the terminal: variables, stations, notices, problems."""
    variables: list[tuple[str, ...]] = [("variable", "units", "days", "min", "median", "max", "missing", "impossible")]
    for item in found.variables:
        numbers = (_number(value) for value in (item.minimum, item.median, item.maximum))
        shares = (_percent(item.missing), _percent(item.impossible))
        variables.append((item.name, item.units, str(item.days or ""), *numbers, *shares))
    stations: list[tuple[str, ...]] = [
        ("station", "region", "rows", "first", "last", "gaps", "longest", "mean", "min", "max", "incomplete")
    ]
    for one in found.stations:
        moisture = (f"{value:.3f}" for value in (one.mean, one.minimum, one.maximum))
        days = (str(one.rows), str(one.first), str(one.last), f"{one.gap_days} d", f"{one.longest_gap} d")
        stations.append((one.station, one.region, *days, *moisture, _percent(one.incomplete)))
    days_of = [day for one in found.stations for day in (one.first, one.last)]
    head = (
        f"{found.samples.name}: {len(found.samples)} rows, {len(found.stations)} stations, {min(days_of)} to "
        f"{max(days_of)}; soil moisture in m³/m³"
    )
    named: dict[str, list[str]] = {}
    for name, product in found.about.get("inputs", {}).items():
        named.setdefault(product, []).append(name)
    products = [f"input    {', '.join(names)}: {product}" for product, names in named.items()]
    lines = [
        head,
        "",
        *_table(variables, left=2),
        "",
        *_table(stations, left=2),
        *([""] if products else []),
        *products,
    ]
    lines += ["", *(f"notice   {text}" for text in found.notices), *(f"problem  {text}" for text in found.problems)]
    return "\n".join([*lines, "no problem found" if not found.problems else "correct it before training"])


def _about(samples: Samples) -> dict[str, Any]:
    """Return what `build_table.build_samples` recorded; nothing for a table of others, or a damaged record."""
    try:
        about = json.loads((samples.table.schema.metadata or {}).get(METADATA, b"{}"))
    except ValueError:
        return {}
    return about if isinstance(about, dict) and isinstance(about.get("inputs", {}), dict) else {}


def _checked(samples: Samples) -> list[str]:
    """Return the columns to check: the target and every possible input of a model."""
    known = {*VARIABLES, *INDICES, "smap_series", TARGET}
    return [name for name in samples.table.column_names if name in known]


def _values(samples: Samples, name: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return a column as stored, (n,) or (n, days), and a mask of its possible values."""
    import pyarrow as pa

    if name == "landcover":
        classes = samples.snapshot([name])[name]
        return classes, classes != ""
    kind = samples.table.schema.field(name).type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        values = samples.stored_series(name)
    else:
        values = samples.numbers(name)
    low, high = _range(name)
    with np.errstate(invalid="ignore"):
        return values, (values >= low) & (values <= high)


def _range(name: str) -> tuple[float, float]:
    if name == TARGET:
        return POSSIBLE_TARGET
    variable = VARIABLES.get(name.removesuffix("_series"))
    return (variable.valid_min, variable.valid_max) if variable else (-np.inf, np.inf)


def _units(name: str) -> str:
    variable = VARIABLES.get("smap" if name == TARGET else name.removesuffix("_series"))
    return variable.units if variable else "1"


def _variable(name: str, values: NDArray[Any], possible: NDArray[np.bool_]) -> VariableCheck:
    if name == "landcover":
        missing = float((~possible).mean())
        low = middle = high = np.nan
        impossible = 0.0
    elif not values.size:  # series of no days
        missing, impossible = 1.0, 0.0
        low = middle = high = np.nan
    else:
        present = ~np.isnan(values)
        missing, impossible = float((~present).mean()), float((present & ~possible).mean())
        good = values[possible]
        low, middle, high = (good.min(), np.median(good), good.max()) if good.size else (np.nan,) * 3
    return VariableCheck(
        name=name,
        units=_units(name),
        days=values.shape[1] if values.ndim == 2 else 0,
        minimum=float(low),
        median=float(middle),
        maximum=float(high),
        missing=missing,
        impossible=impossible,
    )


def _wrong_units(name: str, values: NDArray[np.floating]) -> str:
    low, high = _range(name)
    return (
        f"no value of {name} lies within {low:g} to {high:g} {_units(name)} (its median is {np.nanmedian(values):g}); "
        f"give it in {_units(name)}"
    )


def _wrong_rows(rows: pd.DataFrame, samples: Samples) -> Iterator[str]:
    """Describe duplicates and wrong positions."""
    twice = np.flatnonzero(rows.duplicated(["station", "day"]))
    if twice.size:
        yield (
            f"{twice.size} rows repeat a station and day, the first {samples.station[twice[0]]} on "
            f"{samples.date[twice[0]]}; keep one of each"
        )
    lost = np.flatnonzero(~(rows["lat"].between(-90, 90) & rows["lon"].between(-180, 180)))
    if lost.size:
        yield f"{lost.size} rows have no position in degrees, the first of station {samples.station[lost[0]]}"
    place = rows.groupby("station")[["lat", "lon"]]
    spread = (place.max() - place.min()).max(axis=1)
    for name in spread.index[spread > MOVED_DEGREES]:
        yield f"station {name} is at several places, {spread[name]:.2f}° apart; two stations need two names"
    if not rows[TARGET].between(*POSSIBLE_TARGET).any():
        yield f"no row has an observed {TARGET}; a model cannot be trained on it"


def _broken_windows(series: NDArray[np.float32], rows: pd.DataFrame) -> float:
    """Return the share of series that contradict the previous row of their station on the days in common."""
    station, day = rows["station"].to_numpy(), rows["day"].to_numpy()
    step = np.where(station[1:] == station[:-1], np.diff(day), 0)
    compared = broken = 0
    for lag in range(1, series.shape[1]):
        row = np.flatnonzero(step == lag)
        same = np.isclose(series[row + 1, :-lag], series[row, lag:], rtol=1e-4, atol=1e-6, equal_nan=True)
        compared += row.size
        broken += int((~same.all(axis=1)).sum())
    return broken / compared if compared else 0.0


def _constants(name: str, values: NDArray[np.float32], rows: pd.DataFrame) -> Iterator[str]:
    """Describe stations at which a variable never changes."""
    of = rows.assign(value=values).groupby("station")["value"]
    spread, count, level = of.max() - of.min(), of.count(), of.max()
    for station in spread.index[(spread == 0) & (count >= 10)]:
        yield f"{name} is {level[station]:.3f} on all days at {station}: no correlation is defined there"


def _stations(rows: pd.DataFrame, samples: Samples) -> Iterator[StationCheck]:
    named = "region" in samples.table.column_names
    regions = [str(one or "") for one in samples.table["region"].to_pylist()] if named else [""] * len(rows)
    for name, part in rows.groupby("station"):
        day = np.unique(part["day"])
        between = np.diff(day) - 1
        moisture = part[TARGET].where(part[TARGET].between(*POSSIBLE_TARGET))
        yield StationCheck(
            station=str(name),
            region=regions[part.index[0]],
            lat=float(part["lat"].iloc[0]),
            lon=float(part["lon"].iloc[0]),
            rows=len(part),
            first=_date(day[0]),
            last=_date(day[-1]),
            gap_days=int(between.sum()),
            longest_gap=int(between.max(initial=0)),
            mean=float(moisture.mean()),
            minimum=float(moisture.min()),
            maximum=float(moisture.max()),
            incomplete=float(part["incomplete"].mean()),
        )


def _of_all(stations: tuple[StationCheck, ...], about: dict[str, Any]) -> Iterator[str]:
    """Describe the table as a whole."""
    if about.get("synthetic"):
        yield "SYNTHETIC INPUTS: the inputs are an invented world; a model trained on them is useless for real places"
    gaps = [one for one in stations if one.gap_days]
    if gaps:
        worst = max(gaps, key=lambda one: one.longest_gap)
        yield f"{len(gaps)} stations have gaps, the longest of {worst.longest_gap} days at {worst.station}"
    incomplete = sum(one.incomplete * one.rows for one in stations) / max(1, sum(one.rows for one in stations))
    if incomplete:
        yield f"{_percent(incomplete)} of the rows miss an input and are left out of training by models that use it"


def _date(day: int) -> date:
    found: date = np.datetime64(int(day), "D").item()
    return found


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4g}"


def _percent(share: float) -> str:
    return "0 %" if share == 0 else f"{100 * share:.1f} %" if share >= 0.0005 else "<0.1 %"


def _table(rows: list[tuple[str, ...]], left: int) -> list[str]:
    """Align the columns of rows, the first `left` to the left and the others to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(width) if k < left else text.rjust(width)
            for k, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
