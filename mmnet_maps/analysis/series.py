"""Complete daily series at places: observations, estimates of every day, and their uncertainty."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from mmnet_maps import __version__
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.places import parse_lonlat, read_places
from mmnet_maps.metrics import ESTIMATE, METRICS, STD, TARGET, Report, fill_observations, report
from mmnet_maps.settings import MapOptions

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("mmnet_maps")

_NINETY = 1.6449  # of the normal distribution: half the width of its central 90 %, in standard deviations
_DRAWN = 8  # stations of a picture


def series_for(
    points: Sequence[str],
    observations: pd.DataFrame | None = None,
    *,
    start: str | None = None,
    end: str | None = None,
    maps: Sequence[str] = (),
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
    if sum(map(bool, (maps, options.get("stack"), options.get("source")))) > 1:
        raise RequestError("give one of --maps, --stack and --source")
    if not (start and end) and not maps:
        raise RequestError("give the first and the last day: --start 2021-07-29 --end 2021-08-08")
    observed = read_observed(points, observations)
    return series_at(read_places(points), _days(start, end), observed, maps=list(maps) or None, quiet=quiet, **options)


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
        left out, with a notice.

    Raises
    ------
    InputError
        A file cannot be read, a date is invalid or has a time of day, or a station has two values on a day.
    """
    import pandas as pd

    parts = [
        _observed(path, table)
        for path in points
        if parse_lonlat(path) is None and {"date", TARGET} <= set((table := _read_csv(path)).columns)
    ]
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


def _read_csv(path: str) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}); give a CSV of stations") from None


def _observed(path: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return the observations of a CSV of places, as `read_observed` does."""
    import pandas as pd

    try:
        days = pd.to_datetime(table["date"], format="ISO8601", utc=True).dt.tz_localize(None)
        values = pd.to_numeric(table[TARGET])
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: {reason}; expected dates such as 2021-08-08 and numbers in m³/m³") from None
    text = table["date"].fillna("").str.strip()
    timed = text.str.contains("[T ]") & ~text.str.fullmatch(r"\S+[T ]00:00(:00(\.0+)?)?")
    if timed.any():
        raise InputError(
            f"{path}: date {text[timed].iloc[0]} has a time of day; expected one row per day, with dates such as "
            "2021-08-08: average the hours of each day"
        )
    wrong = values.notna() & ~values.between(0, 1)
    if wrong.any():
        log.warning(
            "%s: %d of %d observations lie outside 0 to 1 m³/m³, such as %g, and are treated as missing",
            path, wrong.sum(), values.notna().sum(), values[wrong].iloc[0],
        )  # fmt: skip
    return table.assign(**{"date": days, TARGET: values.mask(wrong)})[["station", "date", TARGET]].dropna()


def draw_series(series: pd.DataFrame, path: str | Path) -> Path:
    """Draw up to eight stations, those of most observations first: observed, estimated, 90 % interval, SMAP, rain.

    Raises
    ------
    InputError
        No place has a value.
    OutputError, RequestError
        The picture cannot be written, or its name does not end in .png.
    """
    from mmnet_maps.plots.canvas import write_figure
    from mmnet_maps.training.experiment.charts import StationSeries, series_figure

    about = series.attrs
    model = str(about.get("model", "map"))
    counts = series.groupby("station")[[TARGET, ESTIMATE]].count()
    counts = counts[counts.any(axis=1)].sort_values([TARGET, ESTIMATE], ascending=False, kind="stable")
    if counts.empty:
        raise InputError("no place has an estimate or an observation, so there is nothing to draw")
    drawn = []
    for name in counts.index[:_DRAWN]:
        mine = series[series["station"] == name]
        estimate, std, observed = (mine[column].to_numpy(np.float32) for column in (ESTIMATE, STD, TARGET))
        found = metrics(mine)
        drawn.append(
            StationSeries(
                name=str(name),
                days=mine["date"].to_numpy().astype("datetime64[D]"),
                observed=observed,
                estimates={model: estimate},
                band=(estimate - _NINETY * std, estimate + _NINETY * std) if np.isfinite(std).any() else None,
                smap=mine["smap"].to_numpy(np.float32) if "smap" in mine else None,
                rain=mine["pr"].to_numpy(np.float32) if "pr" in mine else None,
                metrics={model: {key: found["per_station"][0][key] for key in METRICS}} if found else {},  # type: ignore[literal-required]
            )
        )
    source = f"Estimates: {_origin(about)}. {about.get('software', f'mmnet_maps {__version__}')}."
    rest = len(counts) - len(drawn)
    title = "Soil moisture day by day" + (f": {len(drawn)} of {len(counts)} places" if rest else "")
    figure = series_figure(drawn, title=title, source=source)
    if about.get("synthetic"):
        _watermark(figure)
    return write_figure(figure, Path(path))


def _origin(about: Any) -> str:
    """Return the origin of the estimates, for a line of text."""
    if "model" not in about:
        return f"maps of {about.get('maps', 'mmnet_maps')}"
    inputs = "; ".join(dict.fromkeys(about.get("inputs", {}).values())) or about.get("samples", "")
    return f"{about['model']} from {inputs}" if inputs else str(about["model"])


def _watermark(figure: Any) -> None:
    """Write words across each panel, so that cropping does not remove them."""
    from mmnet_maps.product.picture import WATERMARK

    for axes in figure.axes:
        if axes.get_title(loc="left"):  # not the rain's
            axes.text(
                0.5, 0.5, WATERMARK.replace("\n", " · "), transform=axes.transAxes, ha="center", va="center",
                fontsize=15, fontweight="bold", color="#222222", alpha=0.2, zorder=10,
            )  # fmt: skip
