"""Complete daily series at places: what was observed, what a model says of every day, and how sure it is."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps import __version__
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.training.build_table import METADATA
from mmnet_maps.training.evaluate import ESTIMATE, METRICS, STD, Report, prediction, report
from mmnet_maps.training.table import TARGET, Samples, read_samples

if TYPE_CHECKING:
    import pandas as pd

    from mmnet_maps.model.engine import Engine

log = logging.getLogger("mmnet_maps")

FILLED = "soil_moisture_filled"
"""The observation where there is one, else the estimate, m³/m³."""

_COLUMNS = ("station", "date", "lat", "lon", TARGET, ESTIMATE, STD, FILLED)
_BESIDE = ("quality", "smap", "pr")
_NINETY = 1.6449  # of the normal distribution: half the width of its central 90 %, in standard deviations
_DRAWN = 8  # stations of a picture


def fill_gaps(engine: Engine, samples: Samples) -> pd.DataFrame:
    """Every day of every station, from its first row to its last.

    Parameters
    ----------
    engine
        The model; with members, the standard deviation comes along.
    samples
        Rows with a model's inputs, with or without observations.

    Returns
    -------
    pandas.DataFrame
        One row a station and day, sorted: ``station, date, lat, lon, soil_moisture`` (observed, NaN where it was not),
        ``soil_moisture_estimate``, ``soil_moisture_std`` (NaN without members), both NaN where an input is missing or
        the table has no row, and ``soil_moisture_filled``; m³/m³, float32; ``smap`` and ``pr``, the day's rain in mm,
        where the table has them. ``attrs`` name the model and the table.

    Raises
    ------
    InputError
        The table lacks an input of the model, or has a station twice on a day.
    """
    import pandas as pd

    found = prediction(engine, samples)
    observed = TARGET in samples.table.column_names
    rows = pd.DataFrame(
        {
            "station": samples.station,
            "date": samples.date.astype("datetime64[s]"),
            TARGET: samples.target if observed else np.float32(np.nan),
            ESTIMATE: found.estimate,
            STD: found.std if found.std is not None else np.float32(np.nan),
        }
    )
    there = set(samples.table.column_names)
    if "smap" in there:
        rows["smap"] = samples.possible("smap")
    if "pr" in there:
        rows["pr"] = samples.series(["pr"], 1)["pr"][:, 0]
    twice = rows.duplicated(["station", "date"])
    if twice.any():
        one = rows[twice].iloc[0]
        raise InputError(
            f"{samples.name}: station {one['station']} has two rows on {one['date']:%Y-%m-%d}; keep one of each day"
        )
    parts = []
    for name, mine in rows.groupby("station"):
        days = pd.date_range(mine["date"].min(), mine["date"].max(), name="date")
        lat, lon = samples.stations[str(name)]
        parts.append(mine.set_index("date").reindex(days).assign(station=name, lat=lat, lon=lon).reset_index())
    whole = _filled(pd.concat(parts, ignore_index=True))
    about = json.loads((samples.table.schema.metadata or {}).get(METADATA, b"{}"))
    whole.attrs = {
        "model": engine.spec.name,
        "samples": Path(samples.name).name,
        "software": f"mmnet_maps {__version__}",
        "synthetic": bool(about.get("synthetic")),
        "inputs": about.get("inputs", {}),
    }
    return whole


def _filled(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns in their order, with the one that takes either."""
    rows[FILLED] = rows[TARGET].fillna(rows[ESTIMATE])
    return rows[[*_COLUMNS, *(name for name in _BESIDE if name in rows)]]


def series_for(
    *,
    samples: str | None = None,
    points: Sequence[str] = (),
    maps: Sequence[str] = (),
    stack: str | None = None,
    source: str | None = None,
    model: str | None = None,
    uncertainty: int | None = None,
    start: str | None = None,
    end: str | None = None,
    observations: Sequence[str] = (),
    quiet: bool = False,
) -> pd.DataFrame:
    """What ``mmnet points`` writes: series from a table of samples, or at places from maps, a stack or a source.

    Parameters
    ----------
    samples
        A table of samples, in place of all the others but `model` and `uncertainty`.
    points
        See `read_places`, `read_observed`.
    maps, stack, source
        Where the values come from, one of the three (`points.at_points`).
    model, uncertainty
        Checkpoint and members drawn from it; not with maps.
    start, end
        First and last day; of maps as far as there are any.
    observations
        Files of observations, or archives, at stations of the same names (`observations.read_observations`).
    quiet
        No progress bar.

    Returns
    -------
    pandas.DataFrame
        As `fill_gaps`, with ``quality`` (see `layers.QUALITY_BITS`) where it is not from samples.

    Raises
    ------
    RequestError, InputError
        Options do not go together, or something cannot be read.
    """
    if bool(samples) == bool(points):
        raise RequestError("give either --samples, or --points with --maps, --stack or --source")
    if samples:
        if maps or stack or source or start or end or observations:
            raise RequestError("--samples brings inputs, days and observations along; leave the other options out")
        return fill_gaps(_engine(model, uncertainty), read_samples(samples, target=False))
    if sum(map(bool, (maps, stack, source))) > 1:
        raise RequestError("give one of --maps, --stack and --source, which the values are taken from")
    if not (start and end) and not maps:
        raise RequestError("give the first and the last day: --start 2021-07-29 --end 2021-08-08")
    return series_at(
        read_places(points),
        _days(start, end),
        read_observed(points, observations),
        maps=list(maps) or None,
        stack=stack,
        source=source,
        model=model,
        uncertainty=uncertainty,
        quiet=quiet,
    )


def series_at(
    places: pd.DataFrame, dates: Any = None, observed: pd.DataFrame | None = None, **options: Any
) -> pd.DataFrame:
    """Series at places, with what was observed there.

    Parameters
    ----------
    places, dates, options
        As `points.at_points`.
    observed
        ``station, date, soil_moisture`` (m³/m³), each station and day once; None for none.

    Returns
    -------
    pandas.DataFrame
        As `series_for`; observations at other places and on other days are left out.
    """
    from mmnet_maps.mapping.points import at_points

    rows = at_points(places, dates, **options)
    about = dict(rows.attrs)
    if observed is None:
        rows[TARGET] = np.float32(np.nan)
    else:
        wanted = observed[["station", "date", TARGET]].astype({"date": rows["date"].dtype, TARGET: np.float32})
        rows = rows.merge(wanted, on=["station", "date"], how="left")
    found = _filled(rows)
    found.attrs = about
    return found


def metrics(series: pd.DataFrame) -> Report | None:
    """Metrics of the estimates per station (`evaluate.report`); None where nothing was observed with an estimate."""
    observed, estimate = (series[name].to_numpy(np.float32) for name in (TARGET, ESTIMATE))
    if not (np.isfinite(observed) & np.isfinite(estimate)).any():
        return None
    return report(series["station"].to_numpy(np.str_), estimate, observed)


def _engine(model: str | None, uncertainty: int | None) -> Engine:
    from mmnet_maps.model.checkpoint import load_checkpoint
    from mmnet_maps.model.engine import Engine
    from mmnet_maps.settings import settle

    settings = settle({"model": model, "uncertainty": uncertainty})
    return Engine(*map(load_checkpoint, settings.model), draws=settings.uncertainty)


def _days(start: str | None, end: str | None) -> str | None:
    """A range of days; of what has days of its own one end may be left open."""
    from datetime import date

    from mmnet_maps.grid.area import FIRST_DAY

    return f"{start or FIRST_DAY}/{end or date.today()}" if start or end else None


def read_observed(points: Sequence[str], observations: Sequence[str] = ()) -> pd.DataFrame | None:
    """What was measured: the columns ``date`` and ``soil_moisture`` of CSV files of places, and observations.

    Returns
    -------
    pandas.DataFrame or None
        ``station, date, soil_moisture`` (m³/m³); None where there is nothing of the kind. Values outside 0 and 1 are
        left out, with a notice.

    Raises
    ------
    InputError
        A file cannot be read, a date is none or has a time of day, or a station has two values on a day.
    """
    import pandas as pd

    from mmnet_maps.training.observations import read_observations

    parts = [
        _observed(path, table)
        for path in points
        if _lonlat(path) is None and {"date", TARGET} <= set((table := _read_csv(path)).columns)
    ]
    if observations:
        found = read_observations(observations).to_pandas()
        parts.append(found[["station", "date", TARGET]].astype({"date": "datetime64[s]"}))
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
    """The observations of a CSV of places, as `read_observed`."""
    import pandas as pd

    try:
        days = pd.to_datetime(table["date"], format="ISO8601", utc=True).dt.tz_localize(None)
        values = pd.to_numeric(table[TARGET])
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: {reason}; expected dates as 2021-08-08 and numbers in m³/m³") from None
    text = table["date"].fillna("").str.strip()
    timed = text.str.contains("[T ]") & ~text.str.fullmatch(r"\S+[T ]00:00(:00(\.0+)?)?")
    if timed.any():
        raise InputError(
            f"{path}: date {text[timed].iloc[0]} has a time of day; expected one row a day, with dates as 2021-08-08: "
            "average the hours of a day"
        )
    wrong = values.notna() & ~values.between(0, 1)
    if wrong.any():
        log.warning(
            "%s: %d of %d observations lie outside 0 to 1 m³/m³, such as %g, and count as missing",
            path, wrong.sum(), values.notna().sum(), values[wrong].iloc[0],
        )  # fmt: skip
    return table.assign(**{"date": days, TARGET: values.mask(wrong)})[["station", "date", TARGET]].dropna()


def read_places(given: Sequence[str]) -> pd.DataFrame:
    """Places from the command line: CSV files with the columns ``station, lat, lon``, or ``LON,LAT`` in degrees.

    Raises
    ------
    RequestError
        Something is neither, lies nowhere on earth, or a name comes twice.
    InputError
        A file cannot be read or lacks a column.
    """
    import pandas as pd

    from mmnet_maps.mapping.points import place_name

    parts = []
    for text in given:
        if (place := _lonlat(text)) is None:
            parts.append(_places_of(text))
        else:
            lon, lat = place
            parts.append(pd.DataFrame({"station": [place_name(lon, lat)], "lat": [lat], "lon": [lon]}))
    places = pd.concat(parts, ignore_index=True)
    wrong = ~(places["lat"].between(-90, 90) & places["lon"].between(-180, 180))
    if wrong.any():
        one = places[wrong].iloc[0]
        raise RequestError(f"point {one['station']} is at {one['lon']:g},{one['lat']:g}; expected LON,LAT in degrees")
    if places["station"].duplicated().any():
        raise RequestError(f"point {places['station'][places['station'].duplicated()].iloc[0]} is given twice")
    return places


def _lonlat(text: str) -> tuple[float, float] | None:
    """Longitude and latitude, where a text is two numbers."""
    try:
        lon, lat = map(float, text.split(","))
    except ValueError:
        return None
    return lon, lat


def _places_of(path: str) -> pd.DataFrame:
    from mmnet_maps.training.observations import read_positions

    if not os.path.exists(path):  # raises nothing where it is too long for a name, unlike the method
        shown = path if len(path) <= 80 else f"{path[:80]}…"
        raise RequestError(
            f"{shown!r} is neither LON,LAT in degrees nor a CSV file of stations; give each place its own --points"
        )
    return read_positions(path).reset_index()[["station", "lat", "lon"]]


def draw_series(series: pd.DataFrame, path: str | Path) -> Path:
    """Draw up to eight stations, those of most observations first: observed, estimated, 90 % interval, SMAP, rain.

    Raises
    ------
    InputError
        No place has a value.
    OutputError, RequestError
        The picture cannot be written, or is not to be a PNG.
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
    """What the estimates come from, for a line of text."""
    if "model" not in about:
        return f"maps of {about.get('maps', 'mmnet_maps')}"
    inputs = "; ".join(dict.fromkeys(about.get("inputs", {}).values())) or about.get("samples", "")
    return f"{about['model']} from {inputs}" if inputs else str(about["model"])


def _watermark(figure: Any) -> None:
    """Words across a panel that nobody can take away by cropping."""
    from mmnet_maps.product.picture import WATERMARK

    for axes in figure.axes:
        if axes.get_title(loc="left"):  # not the rain's
            axes.text(
                0.5, 0.5, WATERMARK.replace("\n", " · "), transform=axes.transAxes, ha="center", va="center",
                fontsize=15, fontweight="bold", color="#222222", alpha=0.2, zorder=10,
            )  # fmt: skip


def on_days(dates: NDArray[np.datetime64], values: NDArray[Any], days: NDArray[np.datetime64]) -> NDArray[np.float32]:
    """Values of some dates, each once, on other days; NaN where there is none."""
    import pandas as pd

    return pd.Series(values, index=dates).reindex(days).to_numpy(np.float32)
