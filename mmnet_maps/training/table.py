"""Station samples: one checked table for training, evaluation and predictions at stations."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError, OutputError, brief
from mmnet_maps.metrics import TARGET
from mmnet_maps.model.features import encode_series, encode_snapshot
from mmnet_maps.training.released_csv import read_released_csv
from mmnet_maps.training.table_rows import dated, is_text
from mmnet_maps.variables import LANDCOVER_CLASSES, VARIABLES

if TYPE_CHECKING:
    import pyarrow as pa

    from mmnet_maps.model.spec import Profile

POSSIBLE_TARGET = (0.0, 1.0)
"""Possible range of the observed soil moisture, m³/m³."""

IDENTITY = ("station", "date", "lat", "lon")
"""Columns that every table of samples has, with or without a target."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Station-days, one row each, in the file's order.

    Attributes
    ----------
    table : pyarrow.Table
        All columns as they were read: ``station``, ``date``, ``lat``, ``lon``, the snapshot variables in physical
        units (land cover as a class name) and one list column per series variable, oldest day first.
    name : str
        Name of the table in messages, usually its path.
    """

    table: pa.Table
    name: str = "samples"

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def station(self) -> NDArray[np.str_]:
        """Station of each row, shape (n,), as text."""
        return np.asarray(self._plain("station").to_pylist(), dtype=np.str_)

    @cached_property
    def date(self) -> NDArray[np.datetime64]:
        """Day of each row as ``datetime64[D]``, shape (n,)."""
        return np.asarray(self._plain("date").to_numpy(zero_copy_only=False), dtype="datetime64[D]")

    @cached_property
    def target(self) -> NDArray[np.float32]:
        """Observed soil moisture, m³/m³, float32, shape (n,); NaN where missing or impossible.

        Raises
        ------
        InputError
            The table has no such column, or it holds no possible value.
        """
        values = self.numbers(TARGET)
        possible = _within(values, TARGET, self.name, POSSIBLE_TARGET, "m³/m³")
        if mostly_above(values):
            median = np.nanmedian(values)
            raise InputError(f"{self.name}: most values of '{TARGET}' are above 1 (median {median:g}); give m³/m³")
        return possible

    @cached_property
    def stations(self) -> dict[str, tuple[float, float]]:
        """Latitude and longitude in degrees of each station, sorted by name."""
        names, first = np.unique(self.station, return_index=True)
        lat, lon = self.numbers("lat")[first], self.numbers("lon")[first]
        return {str(name): (float(y), float(x)) for name, y, x in zip(names, lat, lon, strict=True)}

    def snapshot(self, names: Iterable[str]) -> dict[str, NDArray[np.float32] | NDArray[np.str_]]:
        """Snapshot variables by name, each of shape (n,).

        Parameters
        ----------
        names
            Variables wanted. ``doy`` is the day of the year (1-366) of ``date``, ``latitude`` and ``longitude`` are
            ``lat`` and ``lon``; every other name is a column.

        Returns
        -------
        dict
            float32 in physical units, NaN where missing or outside the variable's possible range; ``landcover`` as
            class names, ``""`` where missing.

        Raises
        ------
        InputError
            A column is missing, is not numeric, holds an unknown class, or lies entirely outside its possible range.
        """
        return {name: self._snapshot(name) for name in names}

    def series(self, names: Iterable[str], days: int, needed: int | None = None) -> dict[str, NDArray[np.float32]]:
        """Series variables by name, each float32 of shape (n, days), oldest day first; NaN where missing.

        The last ``days`` values of each list are used, so a table may hold longer series than a model needs. It may
        hold shorter ones, of at least ``needed`` days: older values are then missing.

        Raises
        ------
        InputError
            A column is missing, is not a list of numbers, or its lists differ in length or are shorter than ``needed``
            (default: ``days``).
        """
        return {name: self._series(name, days, days if needed is None else needed) for name in names}

    def stored_series(self, name: str) -> NDArray[np.float32]:
        """Return a series variable as stored, float32 of shape (n, days), oldest day first; NaN where missing.

        Raises
        ------
        InputError
            The column is missing, is not a list of numbers, or its lists differ in length.
        """
        import pyarrow as pa

        column = self._plain(name)
        kind = column.type
        is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)
        if not (is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))):
            raise InputError(f"{self.name}: column '{name}' holds {kind}, expected lists of numbers, one value per day")
        present = column.is_valid().to_numpy(zero_copy_only=False)
        filled = column.drop_null()
        values = filled.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        length = _common_length(filled, values.size)
        if length is None:
            raise InputError(
                f"{self.name}: column '{name}' holds lists of several lengths; expected the same number of days in each"
            )
        series = np.full((len(column), length), np.nan, np.float32)
        series[present] = values.reshape(len(filled), length)
        return series

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> Samples:
        """Return the rows of a boolean mask, or of indices in their order."""
        return Samples(table=self.table.take(np.flatnonzero(rows) if rows.dtype == np.bool_ else rows), name=self.name)

    def _plain(self, name: str) -> pa.Array:
        """Return one column as a single array without dictionary encoding."""
        import pyarrow as pa

        if name not in self.table.column_names:
            present = ", ".join(self.table.column_names)
            present = present if len(present) <= 100 else f"{present[:100]}…"
            raise InputError(
                f"{self.name} has no column '{name}' (it has {present}); add it, or use a model without it"
            )
        column = self.table.column(name).combine_chunks()
        if isinstance(
            column, pa.ChunkedArray
        ):  # a table without chunks or with several, depending on the pyarrow version
            column = pa.concat_arrays(column.chunks) if column.chunks else pa.array([], type=column.type)
        return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column

    def numbers(self, name: str) -> NDArray[np.float32]:
        """Return a numeric column as stored, float32, shape (n,); NaN where missing.

        Raises
        ------
        InputError
            The column is missing or not numeric.
        """
        import pyarrow as pa

        column = self._plain(name)
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise InputError(f"{self.name}: column '{name}' holds {column.type}, expected numbers")
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float32)

    def possible(self, name: str) -> NDArray[np.float32]:
        """Return a numeric column as a network sees it: `numbers`, with NaN where physically impossible."""
        return _possible(self.numbers(name), name, self.name)

    def _snapshot(self, name: str) -> NDArray[np.float32] | NDArray[np.str_]:
        if name == "doy":
            return day_of_year(self.date)
        if name == "landcover":
            return self._landcover()
        column = {"latitude": "lat", "longitude": "lon"}.get(name, name)
        return self.possible(column)

    def _landcover(self) -> NDArray[np.str_]:
        column = self._plain("landcover")
        if not is_text(column.type) and column.null_count < len(column):
            raise InputError(f"{self.name}: column 'landcover' holds {column.type}, expected names of classes")
        classes = np.asarray(["" if value is None else value for value in column.to_pylist()], "U")
        unknown = sorted(set(classes.tolist()) - set(LANDCOVER_CLASSES) - {""})
        if unknown:
            expected = ", ".join(LANDCOVER_CLASSES)
            raise InputError(f"{self.name}: landcover '{unknown[0]}' is not a class name, expected one of {expected}")
        return classes

    def _series(self, name: str, days: int, needed: int) -> NDArray[np.float32]:
        stored = self.stored_series(name)
        length = stored.shape[1]
        if length < needed and self._plain(name).null_count < len(self):
            raise InputError(
                f"{self.name}: column '{name}' holds lists of {length} days, "
                f"expected at least {needed} days in every row"
            )
        kept = min(length, days)
        series = np.full((len(self), days), np.nan, np.float32)
        series[:, days - kept :] = stored[:, length - kept :]
        return _possible(series, name, self.name)


def read_samples(path: str | Path, *, target: bool = True) -> Samples:
    """Read and check a table of station samples (Parquet, or a CSV of the authors' released code).

    Parameters
    ----------
    path
        A Parquet file with one row per station-day: ``station, date, lat, lon``, the snapshot variables, one list
        column per series variable and, when ``target``, ``soil_moisture``. A file named ``.csv`` is read by
        `released_csv.read_released_csv`.
    target
        Require observed soil moisture. Without it, rows can only be predicted.

    Returns
    -------
    Samples
        All rows and columns, as stored. Variables are checked when a model asks for them.

    Raises
    ------
    InputError
        The file does not exist, is not Parquet, has no rows or not all columns, or a station or date is missing.
    """
    import pyarrow.parquet as pq

    require_samples(path, target=target)
    if _is_csv(path):
        table = read_released_csv(path)
        _require_columns(path, table.column_names, target)
    else:
        with _readable(path):
            table = pq.read_table(path)
    if not table.num_rows:
        raise InputError(f"{path} holds no rows; expected one row per station and day")
    return Samples(table=dated(table, path), name=str(path))


def require_samples(path: str | Path, *, target: bool = True) -> None:
    """Refuse a file that is no table of samples by its schema alone, which costs little before torch is imported.

    Raises
    ------
    InputError
        As `read_samples`.
    """
    import pyarrow.parquet as pq

    if not os.path.isfile(path):
        raise InputError(f"no file {brief(path)}; expected a Parquet table of station samples")
    if not _is_csv(path):
        with _readable(path):
            names = pq.read_schema(path).names
        _require_columns(path, names, target)


def _is_csv(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".csv"


@contextlib.contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """Turn what pyarrow raises into one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        reason = str(error).splitlines()[0][:100]
        raise InputError(
            f"{path} is not a readable Parquet table ({reason}); give a table of station samples"
        ) from None


def _require_columns(path: str | Path, names: Sequence[str], target: bool) -> None:
    needed = (*IDENTITY, TARGET) if target else IDENTITY
    absent = [name for name in needed if name not in names]
    if absent:
        raise InputError(
            f"{path} has no column {', '.join(absent)}; expected the columns {', '.join(needed)} and the inputs"
        )
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InputError(f"{path} has the column '{twice[0]}' twice; remove one")


def write_samples(table: pa.Table, path: str | Path) -> None:
    """Write a table of samples as Parquet; the file appears whole or not at all, missing folders are created.

    Raises
    ------
    OutputError
        It cannot be written; an existing file is unchanged.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, partial)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror or error}; give a file in a writable folder") from None


def encode(samples: Samples, profile: Profile) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Encode each row for a network, before standardisation, exactly as a map's pixels are encoded.

    Parameters
    ----------
    samples
        A table whose series end on the day of the row.
    profile
        Features and days of the network.

    Returns
    -------
    tuple of numpy.ndarray
        Snapshot (n, columns) and series (n, steps, columns), float32; NaN where an input is missing.

    Raises
    ------
    InputError
        The table has no column for a required input, or holds one in the wrong form.
    """
    columns, days = inputs(samples, profile)
    return encode_snapshot(columns, profile.snapshot), encode_series(days, profile.series, profile.windows)


def inputs(
    samples: Samples, profile: Profile
) -> tuple[dict[str, NDArray[np.float32] | NDArray[np.str_]], dict[str, NDArray[np.float32]]]:
    """Return the columns that features are made from, (n,), and the series, (n, days); for parameters see `encode`.

    Values older than the days that the model requires may be missing from the table.
    """
    after = 0 if profile.includes_day else 1
    names = [feature.name for feature in profile.series]
    days = samples.series(names, profile.days + after, profile.needed_days + after)
    wanted = [feature.name for feature in profile.snapshot]
    absent = {name for name in profile.may_lack if name not in samples.table.column_names}
    columns = samples.snapshot(name for name in wanted if name not in absent)
    nothing = np.full(len(samples), np.nan, np.float32)
    return (
        {name: columns.get(name, nothing) for name in wanted},
        {name: values[:, : profile.days] for name, values in days.items()},
    )


def day_of_year(date: NDArray[np.datetime64]) -> NDArray[np.float32]:
    """Day of the year, 1-366, as float32, of any shape.

    Examples
    --------
    >>> day_of_year(np.array(["2020-01-01", "2020-12-31", "2021-12-31"], "datetime64[D]"))
    array([  1., 366., 365.], dtype=float32)
    """
    days = date.astype("datetime64[D]")
    return np.asarray((days - days.astype("datetime64[Y]")).astype(np.int64) + 1, dtype=np.float32)


def mostly_above(values: NDArray[np.floating]) -> bool:
    """Return True if most observations are above 1, so that they are percent and not m³/m³."""
    with np.errstate(invalid="ignore"):
        return bool(2 * np.count_nonzero(values > 1) > np.count_nonzero(values >= 0))


def _common_length(lists: pa.Array, values: int) -> int | None:
    """Return the common length of all lists (0 without lists), or None where they differ."""
    if not len(lists):
        return 0
    lengths = np.unique(np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False)))
    assert values == 0 or lengths.size > 1 or values == lengths[0] * len(lists)
    return int(lengths[0]) if lengths.size == 1 else None


def _possible(values: NDArray[np.float32], name: str, table: str) -> NDArray[np.float32]:
    """Replace physically impossible values by NaN, as in a stack; refuse a column that holds nothing else."""
    variable = VARIABLES.get(name)
    if variable is None:
        return values
    return _within(values, name, table, (variable.valid_min, variable.valid_max), variable.units)


def _within(
    values: NDArray[np.float32], name: str, table: str, possible: tuple[float, float], units: str
) -> NDArray[np.float32]:
    low, high = possible
    with np.errstate(invalid="ignore"):
        good = (values >= low) & (values <= high)
    if np.isfinite(values).any() and not good.any():
        raise InputError(
            f"{table}: no value of '{name}' lies within {low:g} to {high:g} {units} "
            f"(its median is {np.nanmedian(values):g}); give it in {units}"
        )
    return np.where(good, values, np.float32(np.nan))
