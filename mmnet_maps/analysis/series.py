"""Complete daily series at places: observations, estimates of every day, and their uncertainty."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from mmnet_maps.errors import InputError, RequestError, brief
from mmnet_maps.grid.area import parse_days
from mmnet_maps.grid.places import parse_lonlat, read_places, read_table
from mmnet_maps.grid.polygons import shown
from mmnet_maps.metrics import ESTIMATE, TARGET, Report, fill_observations, report
from mmnet_maps.settings import MapOptions

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("mmnet_maps")


def series_for(
    points: Sequence[str],
    observations: pd.DataFrame | None = None,
    *,
    start: str | None = None,
    end: str | None = None,
    maps: Sequence[str] = (),
    parts: Path | None = None,
    quiet: bool = False,
    **options: Unpack[MapOptions],
) -> pd.DataFrame:
    """Compute the series at places that ``mmnet points`` writes, from maps, a stack or a source.

    Parameters
    ----------
    points
        Places, with observations in their files: see `places.read_places` and `read_observed`.
    observations
        Further observations at stations of the same names, with the columns ``station, date, soil_moisture``.
    start, end
        First and last day; with maps either may be left open.
    maps, stack, source
        Where the values come from, one of the three (`points.at_points`).
    model, uncertainty
        Checkpoint and members drawn from it; not with maps.
    climatology
        Compare the values with those of other years.
    parts
        Where what was read from a source is kept, see `points.at_points`.
    quiet
        No progress bar.

    Returns
    -------
    pandas.DataFrame
        See `series_at`.

    Raises
    ------
    RequestError, InputError
        Options exclude each other, or something cannot be read.
    """
    check_request(start=start, end=end, maps=maps, **options)
    places = read_places(points)
    observed = read_observed(points, observations)
    if observations is not None and not set(observations["station"]) & set(places["station"]):
        names = (brief(", ".join(sorted(set(one["station"]))), 80) for one in (places, observations))
        raise InputError(
            "no observations are of a place: the places are called {}, the stations {}; give places the names of their "
            "stations".format(*names)
        )
    return series_at(places, _days(start, end), observed, maps=list(maps) or None, parts=parts, quiet=quiet, **options)


def check_request(
    *, start: str | None = None, end: str | None = None, maps: Sequence[str] = (), **options: Unpack[MapOptions]
) -> None:
    """Refuse options of `series_for` that are wrong or exclude each other, before anything is read.

    Raises
    ------
    RequestError
        When they do, or a day is invalid.
    """
    if sum(map(bool, (maps, options.get("stack"), options.get("source")))) > 1:
        raise RequestError("give one of --maps, --stack and --source")
    not_for_maps = {name for name, value in options.items() if value is not None} - {"climatology"}
    if maps and (wrong := sorted(f"--{name}" for name in not_for_maps)):
        raise RequestError(f"maps hold finished estimates; leave out {', '.join(wrong)}")
    if not (start and end) and not maps:
        raise RequestError("give the first and the last day: --start 2021-07-29 --end 2021-08-08")
    if days := _days(start, end):
        parse_days(days)


def series_at(
    places: pd.DataFrame, dates: Any = None, observed: pd.DataFrame | None = None, **options: Any
) -> pd.DataFrame:
    """Compute series at places, with the observations there.

    Parameters
    ----------
    places, dates, options
        See `points.at_points`.
    observed
        ``station, date, soil_moisture`` (m³/m³), each station and day once; None for none. Observations at other
        places and on other days are left out.

    Returns
    -------
    pandas.DataFrame
        One row per place and day, place by place: ``station, date, lat, lon, soil_moisture`` (observed),
        ``soil_moisture_estimate``, ``soil_moisture_std``, ``soil_moisture_filled``, all in m³/m³, float32, NaN where
        missing; then ``quality`` (see `quality.QUALITY_BITS`), ``smap`` and ``pr`` where `points.at_points` gives them.
    """
    from mmnet_maps.mapping.points import at_points

    rows = at_points(places, dates, **options)
    about = dict(rows.attrs)
    if observed is None:
        rows[TARGET] = np.float32(np.nan)
    else:
        wanted = observed[["station", "date", TARGET]].astype({"date": rows["date"].dtype, TARGET: np.float32})
        rows = rows.merge(wanted, on=["station", "date"], how="left")
    found = fill_observations(rows)
    found.attrs = about
    return found


def metrics(series: pd.DataFrame) -> Report | None:
    """Compute the metrics of the estimates per station; None where no observation has an estimate."""
    observed, estimate = (series[name].to_numpy(np.float32) for name in (TARGET, ESTIMATE))
    if not (np.isfinite(observed) & np.isfinite(estimate)).any():
        return None
    return report(series["station"].to_numpy(np.str_), estimate, observed)


def _days(start: str | None, end: str | None) -> str | None:
    """Return a range of days; one end may be left open, None where both are."""
    from datetime import date

    from mmnet_maps.variables import FIRST_DAY

    return f"{start or FIRST_DAY}/{end or date.today()}" if start or end else None


def read_observed(points: Sequence[str], observations: pd.DataFrame | None = None) -> pd.DataFrame | None:
    """Read the observations in CSV files of places, and add those from elsewhere.

    Parameters
    ----------
    points
        Places as for `places.read_places`; files with the columns ``date`` and ``soil_moisture`` hold observations.
    observations
        Further ones: ``station, date, soil_moisture``.

    Returns
    -------
    pandas.DataFrame or None
        ``station, date, soil_moisture`` (m³/m³); None where no file holds observations. Values outside 0 and 1 are
        left out, with a notice, and so are those without a date.

    Raises
    ------
    InputError
        A file cannot be read, a date is invalid or has a time of day, or a station has two values on a day.
    """
    import pandas as pd

    parts = []
    for path in points:
        if parse_lonlat(path) is None and TARGET in (table := read_table(path, "station")).columns:
            parts.append(_observed(path, table if "date" in table else table.assign(date=None)))
    if observations is not None:
        parts.append(observations[["station", "date", TARGET]].astype({"date": "datetime64[s]"}))
    if not parts:
        return None
    every = pd.concat(parts, ignore_index=True)
    twice = every.duplicated(["station", "date"])
    if twice.any():
        one = every[twice].iloc[0]
        raise InputError(f"station {one['station']} has two observations on {one['date']:%Y-%m-%d}; keep one")
    return every


def _observed(path: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return the observations of a CSV of places, as `read_observed` does."""
    import pandas as pd

    days = pd.to_datetime(table["date"], format="ISO8601", utc=True, errors="coerce").dt.tz_localize(None)
    values = pd.to_numeric(table[TARGET], errors="coerce")
    for name, read, expected in (("date", days, "dates such as 2021-08-08"), (TARGET, values, "numbers in m³/m³")):
        if (wrong := read.isna() & table[name].notna()).any():
            raise InputError(
                f"{shown(path)}: {name} {brief(table[name][wrong].iloc[0], 40)!r} of station "
                f"{brief(table['station'][wrong].iloc[0], 40)} cannot be read; expected {expected}"
            )
    text = table["date"].fillna("")
    timed = text.str.contains("[T ]") & ~text.str.fullmatch(r"\S+[T ]00:00(:00(\.0+)?)?")
    if timed.any():
        raise InputError(
            f"{shown(path)}: date {brief(text[timed].iloc[0], 40)} has a time of day; expected one row per day, "
            "with dates such as 2021-08-08: average the hours of each day"
        )
    if (undated := values.notna() & days.isna()).any():
        log.warning("%s: %d of %d observations have no date and are left out", path, undated.sum(), values.count())
    wrong = values.notna() & ~values.between(0, 1)
    if wrong.any():
        log.warning(
            "%s: %d of %d observations lie outside 0 to 1 m³/m³, such as %g, and are treated as missing",
            path, wrong.sum(), values.notna().sum(), values[wrong].iloc[0],
        )  # fmt: skip
    return table.assign(**{"date": days, TARGET: values.mask(wrong)})[["station", "date", TARGET]].dropna()
