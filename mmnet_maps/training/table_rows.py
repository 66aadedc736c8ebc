"""Stations and days of a table's rows: of kinds that are understood, and none missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmnet_maps.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


def dated(table: pa.Table, path: str | Path) -> pa.Table:
    """Return the table after checking its stations and dates."""
    import pyarrow as pa

    kind = table.schema.field("date").type
    if not (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
        raise InputError(f"{path}: column 'date' holds {kind}, expected dates")
    for name in ("station", "date"):
        if table.column(name).null_count:
            raise InputError(f"{path}: {table.column(name).null_count} rows have no {name}; remove them")
    _require_days(table.column("date"), path)
    station = table.column("station")
    if not (is_text(station.type) or pa.types.is_integer(station.type)):
        raise InputError(f"{path}: column 'station' holds {station.type}, expected names")
    if "" in station.unique().to_pylist():
        raise InputError(f"{path}: some rows have the empty name '' in column 'station'; name or remove them")
    return table


def _require_days(dates: pa.ChunkedArray, path: str | Path) -> None:
    """Refuse times of day, of which nobody knows which day they belong to at the station."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_timestamp(dates.type):
        return
    local = pc.local_timestamp(dates) if dates.type.tz else dates
    day = pc.floor_temporal(local, unit="day")
    if not pc.all(pc.equal(local, day)).as_py():
        first = local.filter(pc.not_equal(local, day))[0].as_py()
        raise InputError(f"{path}: column 'date' holds times such as {first}; expected days of local standard time")


def is_text(kind: pa.DataType) -> bool:
    """Return True for a column of texts, also of texts stored once each."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
