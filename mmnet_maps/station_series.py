"""Complete daily series at places: what was observed, what a model says of every day, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps import __version__
from mmnet_maps.errors import InputError, OutputError, RequestError
from mmnet_maps.evaluate import ESTIMATE, STD, prediction
from mmnet_maps.samples import TARGET, Samples, read_samples, write_samples
from mmnet_maps.write import write_whole

if TYPE_CHECKING:
    import pandas as pd

    from mmnet_maps.engine import Engine
    from mmnet_maps.sources.base import Source
    from mmnet_maps.stack import Stack

FILLED = "soil_moisture_filled"
"""The observation where there is one, else the estimate, m³/m³."""

_COLUMNS = ("station", "date", "lat", "lon", TARGET, ESTIMATE, STD, FILLED)
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
        the table has no row, and ``soil_moisture_filled``; m³/m³, float32.

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
    whole = pd.concat(parts, ignore_index=True)
    whole[FILLED] = whole[TARGET].fillna(whole[ESTIMATE])
    return whole[list(_COLUMNS)]


def samples_for(
    engine: Engine,
    *,
    samples: str | None = None,
    points: Sequence[str] = (),
    stack: str | None = None,
    source: str | None = None,
    start: str | None = None,
    end: str | None = None,
    observations: Sequence[str] = (),
    quiet: bool = False,
) -> Samples:
    """What ``mmnet points`` is given: a table, or places and days whose inputs are read.

    Parameters
    ----------
    engine
        The model.
    samples
        A table of samples, in place of all the others.
    points, stack, source, start, end, observations, quiet
        See `read_places`, `samples_at`.

    Raises
    ------
    RequestError, InputError
        Options do not go together, or something cannot be read.
    """
    from mmnet_maps.aoi import parse_days
    from mmnet_maps.insitu import read_observations
    from mmnet_maps.sources import open_source
    from mmnet_maps.stack import Stack

    if bool(samples) == bool(points):
        raise RequestError("give either --samples, or --points with --stack or --source and days")
    if samples:
        if stack or source or start or end or observations:
            raise RequestError("--samples brings inputs, days and observations along; leave the other options out")
        return read_samples(samples, target=False)
    if (stack is None) == (source is None):
        raise RequestError("give either a stack (--stack) or a source (--source), which the inputs are taken from")
    if not start or not end:
        raise RequestError("give the first and the last day: --start 2021-07-29 --end 2021-08-08")
    places = read_places(points)
    measured = read_observations(observations).to_pandas() if observations else None
    inputs = Stack(stack) if stack is not None else open_source(str(source))
    return samples_at(places, inputs, engine, parse_days(f"{start}/{end}"), observations=measured, quiet=quiet)


def samples_at(
    places: pd.DataFrame,
    inputs: Sequence[Source] | Stack,
    engine: Engine,
    days: Sequence[date],
    *,
    observations: pd.DataFrame | None = None,
    quiet: bool = False,
) -> Samples:
    """A model's inputs at some places on every one of some days.

    Parameters
    ----------
    places
        ``station, lat, lon`` (degrees).
    inputs
        Sources in order of preference, or a stack.
    engine
        The model.
    days
        The days, ascending.
    observations
        As `insitu.read_observations` gives them, as a frame: what was measured at stations of these names.
    quiet
        No progress bar.

    Raises
    ------
    InputError
        No place has inputs, or one cannot be read.
    """
    import pandas as pd
    import pyarrow as pa

    from mmnet_maps.job import needs_of
    from mmnet_maps.sampling import build_samples

    every = places.merge(pd.DataFrame({"date": list(days)}), how="cross")
    if observations is None:
        every[TARGET] = np.float32(np.nan)
    else:
        every = every.merge(observations[["station", "date", TARGET]], on=["station", "date"], how="left")
    table = pa.Table.from_pandas(every.assign(network="", elevation=np.float32(np.nan)), preserve_index=False)
    made = build_samples(table, inputs, needs_of(engine.spec), start=days[0], end=days[-1], progress=not quiet)
    return Samples(table=made, name="the inputs at the places")


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

    parts = []
    for text in given:
        try:
            lon, lat = (float(number) for number in text.split(","))
        except ValueError:
            parts.append(_places_of(text))
        else:
            parts.append(pd.DataFrame({"station": [f"{lon:g},{lat:g}"], "lat": [lat], "lon": [lon]}))
    places = pd.concat(parts, ignore_index=True)
    wrong = ~(places["lat"].between(-90, 90) & places["lon"].between(-180, 180))
    if wrong.any():
        one = places[wrong].iloc[0]
        raise RequestError(f"point {one['station']} is at {one['lon']:g},{one['lat']:g}; expected LON,LAT in degrees")
    if places["station"].duplicated().any():
        raise RequestError(f"point {places['station'][places['station'].duplicated()].iloc[0]} is given twice")
    return places


def _places_of(path: str) -> pd.DataFrame:
    from mmnet_maps.insitu import read_positions

    if not Path(path).exists():
        raise RequestError(f"{path!r} is neither LON,LAT in degrees nor a CSV file of stations")
    return read_positions(path).reset_index()[["station", "lat", "lon"]]


def write_series(series: pd.DataFrame, path: str | Path) -> None:
    """Write series as CSV or Parquet, by the name of the file; it appears whole or not at all.

    Raises
    ------
    RequestError
        Another ending.
    OutputError
        It cannot be written.
    """
    import pyarrow as pa

    path = Path(path)
    if path.suffix == ".parquet":
        write_samples(pa.Table.from_pandas(series, preserve_index=False), path)
    elif path.suffix == ".csv":
        text = series.to_csv(index=False, date_format="%Y-%m-%d", float_format="%.4f", lineterminator="\n")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}; give a file in a writable folder") from None
        write_whole(path, text)
    else:
        raise RequestError(f"the series are to be written to {path}; give a file whose name ends in .csv or .parquet")


def draw_series(series: pd.DataFrame, samples: Samples, path: str | Path, *, model: str) -> Path:
    """Draw up to eight stations, those of most observations first: observed, estimated, 90 % interval, SMAP, rain.

    Raises
    ------
    OutputError, RequestError
        The picture cannot be written, or is not to be a PNG.
    """
    from mmnet_maps.evaluate import METRICS, report
    from mmnet_maps.figure_sheet import write_figure
    from mmnet_maps.figures import StationSeries, series_figure

    most = series.groupby("station")[TARGET].count().sort_values(ascending=False, kind="stable").index[:_DRAWN]
    there = set(samples.table.column_names)
    drawn = []
    for name in most:
        mine = series[series["station"] == name]
        here = samples.take(samples.station == name)
        days = mine["date"].to_numpy().astype("datetime64[D]")
        estimate, std, observed = (mine[column].to_numpy(np.float32) for column in (ESTIMATE, STD, TARGET))
        metrics: dict[str, Any] = {}
        if (np.isfinite(observed) & np.isfinite(estimate)).any():
            (row,) = report(np.full(len(mine), name), estimate, observed)["per_station"]
            metrics[model] = {metric: row[metric] for metric in METRICS}  # type: ignore[literal-required]
        drawn.append(
            StationSeries(
                name=str(name),
                days=days,
                observed=observed,
                estimates={model: estimate},
                band=(estimate - _NINETY * std, estimate + _NINETY * std) if np.isfinite(std).any() else None,
                smap=on_days(here.date, here.numbers("smap"), days) if "smap" in there else None,
                rain=on_days(here.date, here.series(["pr"], 1)["pr"][:, 0], days) if "pr" in there else None,
                metrics=metrics,
            )
        )
    source = f"Estimates: {model}. Observations and inputs: {samples.name}. mmnet_maps {__version__}."
    return write_figure(series_figure(drawn, title="Soil moisture day by day", source=source), Path(path))


def on_days(dates: NDArray[np.datetime64], values: NDArray[Any], days: NDArray[np.datetime64]) -> NDArray[np.float32]:
    """Values of some dates, each once, on other days; NaN where there is none."""
    import pandas as pd

    return pd.Series(values, index=dates).reindex(days).to_numpy(np.float32)
