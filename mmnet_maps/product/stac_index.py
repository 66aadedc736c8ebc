"""The items of a day as one table: a stac-geoparquet file, which is searched without opening the items."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from mmnet_maps.files import holds, refuse_foreign, write_errors, write_whole
from mmnet_maps.product.stac_catalog import read_items

INDEX = "items.parquet"
"""Name of the table in the folder of a day."""


def check_index(out: Path, days: Iterable[date]) -> None:
    """Check, before anything is computed, that `write_index` overwrites no foreign file.

    Raises
    ------
    OutputError
        When ``items.parquet`` of one of the days exists and was not made by this software.
    """
    for day in days:
        refuse_foreign(_path(out, day), ours=lambda path: holds(path, "mmnet:fingerprint"))


def write_index(out: Path, days: Iterable[date]) -> None:
    """Write the items of some days, a table a day, beside the items; the same items give the same bytes.

    Only the items of these days are read. Programs read the tables of all days as one: ``maps/*/items.parquet``. The
    table of a day without items is removed.

    Parameters
    ----------
    out
        Output root, with one folder per day.
    days
        The days whose items were written or removed.

    Raises
    ------
    OutputError
        When a file of that name exists that this software did not make, or a file cannot be read or written.
    """
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

    chosen = sorted(set(days))
    check_index(out, chosen)
    for day in chosen:
        path = _path(out, day)
        items = list(read_items(path.parent).values())
        with write_errors(path, "what was there before is unchanged"), tempfile.TemporaryDirectory() as scratch:
            if items:
                table = Path(scratch, INDEX)
                to_parquet(parse_stac_items_to_arrow(items), table)
                write_whole(path, table.read_bytes())
            else:
                path.unlink(missing_ok=True)


def _path(out: Path, day: date) -> Path:
    return out / f"{day:%Y%m%d}" / INDEX
