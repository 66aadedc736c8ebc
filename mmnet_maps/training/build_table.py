"""Training tables: in situ observations joined with the inputs of maps at the stations."""

from __future__ import annotations

import json
import logging
import shutil
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mmnet_maps.errors import InputError, OutputError, RequestError
from mmnet_maps.files import kept_beside
from mmnet_maps.grid.area import parse_days
from mmnet_maps.mapping.points_estimate import format_points_estimate
from mmnet_maps.model.features import Feature, encode_snapshot
from mmnet_maps.model.indices import INDICES
from mmnet_maps.sources import open_source
from mmnet_maps.sources.base import Source
from mmnet_maps.stack.fields import SmapResampling
from mmnet_maps.stack.needs import Needs
from mmnet_maps.stack.point_estimate import estimate_points
from mmnet_maps.stack.store import Stack
from mmnet_maps.training.observations import MIN_HOURS, read_observations
from mmnet_maps.training.splits import BORDERS, REGIONS
from mmnet_maps.training.station_inputs import StationInputs
from mmnet_maps.training.table import write_samples
from mmnet_maps.variables import FIRST_DAY, LANDCOVER_CLASSES

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

METADATA = b"mmnet_maps"
"""Key of the Parquet schema's metadata under which a table records, as JSON, what it was made from."""

_CLASS_OF = {code: name for name, codes in LANDCOVER_CLASSES.items() for code in codes}
_NO_OBSERVATION = 255  # as an age in days

log = logging.getLogger("mmnet_maps")


class InputOptions(TypedDict, total=False):
    """Where the inputs of a table come from, and on which days: as for maps.

    Attributes
    ----------
    source, stack
        One of the two.
    start, end
        First and last day of the rows.
    smap_resampling
        See `reader.SmapResampling`.
    """

    source: str | None
    stack: str | Path | None
    start: str | None
    end: str | None
    smap_resampling: SmapResampling


def make_samples(
    observations: Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path | None = None,
    config: str | Path | None = None,
    positions: str | Path | None = None,
    min_hours: int = MIN_HOURS,
    shallow: bool = False,
    quiet: bool = False,
    **inputs: Unpack[InputOptions],
) -> pa.Table:
    """Read observations, sample the inputs at their stations, and write the table: ``mmnet samples``.

    Parameters
    ----------
    observations, positions, min_hours, shallow
        See `observations.read_observations`.
    out
        The Parquet file; it appears whole or not at all. Until then the stations that a source has answered are kept
        in a hidden folder beside it, so that the same command continues after an interruption.
    model, config
        Checkpoint or training configuration that defines inputs and days; one of the two.
    quiet
        No progress bar.
    **inputs
        See `InputOptions`.

    Returns
    -------
    pyarrow.Table
        The table that was written, see `build_samples`.

    Raises
    ------
    RequestError, InputError, OutputError
    """
    out, source = _writable(Path(out)), inputs.get("source")
    needs, (start, end) = _needs(model, config), _period(inputs)
    opened = _opened(source, inputs.get("stack"))
    table = read_observations(
        observations, min_hours=min_hours, shallow=shallow, positions=positions, progress=not quiet
    )
    parts = kept_beside(out) if source else None  # a stack is read quickly
    made = build_samples(
        *(table, opened, needs),
        start=start,
        end=end,
        smap_resampling=inputs.get("smap_resampling", "bilinear"),
        parts=parts,
        progress=not quiet,
    )
    write_samples(made, out)
    if parts:
        shutil.rmtree(parts, ignore_errors=True)
    return made


def estimate_samples(
    observations: Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path | None = None,
    config: str | Path | None = None,
    positions: str | Path | None = None,
    min_hours: int = MIN_HOURS,
    shallow: bool = False,
    quiet: bool = False,
    **inputs: Unpack[InputOptions],
) -> str:
    """Describe what `make_samples` with the same arguments would still read from a source; nothing is written.

    Raises
    ------
    RequestError, InputError
    """
    needs, period = _needs(model, config), _period(inputs)
    opened = _opened(inputs.get("source"), inputs.get("stack"))
    if isinstance(opened, Stack):
        raise RequestError("a table from a stack sends no requests; leave out --dry-run, or give --source")
    table = read_observations(
        observations, min_hours=min_hours, shallow=shallow, positions=positions, progress=not quiet
    )
    needs, rows = _wanted(table, needs, *period)
    wanted = StationInputs(origin=opened, needs=needs, smap_resampling=inputs.get("smap_resampling", "bilinear"))
    points = wanted.points(_by_station(rows))
    wanted.choose(points)
    folder = kept_beside(Path(out))
    return format_points_estimate(estimate_points(opened, list(points.values()), needs, folder=folder))


def _opened(source: str | None, stack: str | Path | None) -> Sequence[Source] | Stack:
    """Open the source or the stack; RequestError unless one of them is given."""
    if (source is None) == (stack is None):
        raise RequestError("give either a source (--source) or a stack (--stack) that the inputs are read from")
    return Stack(stack) if stack is not None else open_source(str(source))


def _period(inputs: InputOptions) -> tuple[date | None, date | None]:
    """Return the first and the last day."""
    start, end = (parse_days(day)[0] if day is not None else None for day in (inputs.get("start"), inputs.get("end")))
    return start, end


def _writable(out: Path) -> Path:
    """Return the path of the table, in a folder that exists; refuse another kind of file."""
    if out.suffix != ".parquet" or out.is_dir():
        raise RequestError(f"the table cannot be written to {out}; give a file whose name ends in .parquet")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}; give a file in a writable folder") from None
    return out


def build_samples(
    observations: pa.Table,
    inputs: Sequence[Source] | Stack,
    needs: Needs,
    *,
    start: date | None = None,
    end: date | None = None,
    smap_resampling: SmapResampling = "bilinear",
    parts: Path | None = None,
    progress: bool = False,
) -> pa.Table:
    """Join observations with a model's inputs at the stations, by the code that makes maps.

    A series holds calendar days, with or without observations, and ends on the day itself, also for a model that uses
    the days before it. Inputs are those of the 100 m pixel that holds the station and of the coarse cells above it.
    Missing values stay in the table as NaN; training leaves such rows out.

    Parameters
    ----------
    observations
        A table from `observations.read_observations`.
    inputs
        Sources in order of preference, or a stack. Stations and days that a stack was not filled for are left out,
        with a notice; so are stations outside the conterminous United States.
    needs
        Variables and days (`request.needs_of`).
    start, end
        First and last day of the rows (default: of the observations, as far back as stacks reach).
    smap_resampling
        As for maps.
    parts
        Folder in which finished stations are kept and found again; None to keep none.
    progress
        Show a progress bar.

    Returns
    -------
    pyarrow.Table
        One row per station and day with an observation, sorted by both. The schema's metadata names the product
        behind each variable. Columns:

        - ``station, network, region`` (west of 104° W, middle, east of 91° W), ``date``, ``lat``, ``lon``;
        - ``soil_moisture`` (m³/m³), snapshot variables in physical units, and every index that their bands allow,
          float32; ``landcover`` is a class name, null where it is water, ice or missing;
        - series as fixed-size lists of float32, oldest day first (``smap_series`` for SMAP);
        - ``optical_age``, ``sar_age``: days to the nearest observation, null where there is none.

    Raises
    ------
    RequestError
        No observation lies in the period.
    InputError
        No station lies where inputs exist, or a source does not have an input or cannot be read.
    """
    needs, rows = _wanted(observations, needs, start, end)
    wanted = StationInputs(origin=inputs, needs=needs, smap_resampling=smap_resampling)
    made = _sample_stations(rows, wanted, parts, progress)
    _report_omissions(rows, made, wanted)
    return made.replace_schema_metadata({METADATA: json.dumps(wanted.record).encode()})


def _wanted(observations: pa.Table, needs: Needs, start: date | None, end: date | None) -> tuple[Needs, pd.DataFrame]:
    """Return what a table needs, series that end on the day itself, and the observations of its period."""
    needs = replace(needs, steps=needs.steps + (not needs.includes_day), includes_day=True)
    return needs, _rows_between(observations, start or FIRST_DAY + timedelta(days=needs.steps - 1), end)


def _by_station(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(name): station for name, station in rows.groupby("station")}


def _sample_stations(rows: pd.DataFrame, inputs: StationInputs, parts: Path | None, progress: bool) -> pa.Table:
    """Return the rows of all stations with inputs; stations that an interrupted run has finished are not sampled."""
    import pyarrow as pa

    stations = _by_station(rows)
    points = inputs.points(stations)
    inputs.choose(points)
    paths = {name: parts / f"{inputs.digest(station)}.parquet" for name, station in stations.items()} if parts else {}
    found = {name: part for name, path in paths.items() if (part := _kept(path)) is not None}
    with tqdm(total=len(stations), initial=len(found), desc="stations", disable=not progress) as bar:
        for name, days, columns in inputs.at(points, found.keys(), parts):
            station = stations[name]
            found[name] = _rows(station[station["date"].isin(days)], columns, inputs.needs)
            if parts:
                write_samples(found[name], paths[name])
            bar.update()
    if not found:
        raise InputError(
            f"none of the {len(stations)} stations and their days has inputs; the stations must lie in the "
            "conterminous United States and, where a stack is given, it must be filled there (see mmnet stack)"
        )
    return pa.concat_tables([found[name] for name in stations if name in found])


def _rows_between(observations: pa.Table, first: date, last: date | None) -> pd.DataFrame:
    """Return the observations from a first to a last day."""
    rows: pd.DataFrame = observations.to_pandas()
    rows = rows[(rows["date"] >= first) & (rows["date"] <= (last or date.max))]
    if rows.empty:
        days = observations["date"].to_pylist()
        raise RequestError(
            f"no observation lies between {first} and {last or 'today'}; the observations reach from {min(days)} to "
            f"{max(days)}: choose another --start and --end"
        )
    return rows


def _kept(path: Path | None) -> pa.Table | None:
    """Return the rows of a station that an interrupted run has left; None where it left none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path is None or not path.is_file():
        return None
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError):
        return None


def region(lon: float) -> str:
    """Return the paper's region at a longitude in degrees.

    Examples
    --------
    >>> region(-117.5), region(-104.0), region(-91.0)
    ('west', 'middle', 'east')
    """
    return REGIONS[bisect(BORDERS, lon)]


def _needs(model: str | Path | None, config: str | Path | None) -> Needs:
    from mmnet_maps.mapping.request import needs_of
    from mmnet_maps.model.spec import read_spec
    from mmnet_maps.training.config import read_config

    if (model is None) == (config is None):
        raise RequestError(
            "give either a model (--model) or a training configuration (--config) that defines inputs and days"
        )
    return needs_of(read_spec(model) if model is not None else read_config(config or ""))


def _rows(station: pd.DataFrame, columns: Mapping[str, NDArray[Any]], needs: Needs) -> pa.Table:
    """Join the observations of a station with the inputs of the same days (`build_samples`)."""
    import pyarrow as pa

    found: dict[str, pa.Array] = {
        "station": pa.array(station["station"], pa.string()),
        "network": pa.array(station["network"], pa.string()),
        "region": pa.array([region(lon) for lon in station["lon"]], pa.string()),
        "date": pa.array(station["date"], pa.date32()),
        "lat": pa.array(station["lat"], pa.float64()),
        "lon": pa.array(station["lon"], pa.float64()),
        "soil_moisture": pa.array(station["soil_moisture"], pa.float32()),
    }
    for name in needs.snapshot:
        if name == "landcover":
            found[name] = pa.array([_CLASS_OF.get(int(code)) for code in columns[name]], pa.string())
        else:
            found[name] = pa.array(columns[name].astype(np.float32))
    found |= {name: pa.array(values) for name, values in _indices(columns, needs)}
    for name in needs.series:
        values = columns[f"{name}_series" if name in needs.snapshot else name]
        column = "smap_series" if name == "smap" else name
        found[column] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel().astype(np.float32)), needs.steps)
    for name in ("optical_age", "sar_age"):
        if name in columns:
            found[name] = pa.array(columns[name], pa.uint8(), mask=columns[name] == _NO_OBSERVATION)
    return pa.table(found)


def _indices(columns: Mapping[str, NDArray[Any]], needs: Needs) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Compute every index whose bands are among the inputs."""
    for name, index in INDICES.items():
        if set(index.bands) <= set(needs.snapshot):
            bands = {band: columns[band] for band in index.bands}
            yield name, encode_snapshot(bands, [Feature(name=name, encoding="identity")])[:, 0]


def _report_omissions(rows: pd.DataFrame, made: pa.Table, inputs: StationInputs) -> None:
    """Log which stations and days were left out, and that inputs are synthetic."""
    wanted, present = set(rows["station"]), set(made["station"].to_pylist())
    lost = sorted(wanted - present)
    if lost:
        log.warning(
            "%d of %d stations have no inputs and are left out: %s",
            *(len(lost), len(wanted), ", ".join(lost[:5]) + (", …" if len(lost) > 5 else "")),
        )
    missing = int(rows["station"].isin(present).sum()) - made.num_rows
    if missing:
        log.warning("%d days of the other stations are left out: the stack was not filled for them", missing)
    if inputs.record["synthetic"]:
        log.warning(
            "SYNTHETIC INPUTS: this table joins observations with an invented world; a model trained on it is "
            "useless for real places. For real inputs give --source open, earthengine or CONFIG.yaml, or --stack STORE."
        )
