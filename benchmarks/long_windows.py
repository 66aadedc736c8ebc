"""Give tables of samples longer series, from a daily table of the same stations.

The tables of the benchmark hold eleven days; a model with a longer look-back needs more. The daily table (Parquet) has
a row per station and day, and a column per series variable; a day without a row is missing (NaN). The days in a table
of samples do not change. Days in both tables are compared, and a difference stops the script.

    python benchmarks/long_windows.py --daily daily.parquet --days 60 --out build/tables a.parquet b.parquet
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmnet_maps.training.table import Samples, read_samples, write_samples

FIRST = np.datetime64("2000-01-01", "D")


def by_day(daily: pa.Table, names: list[str]) -> tuple[dict[str, int], NDArray[np.float32]]:
    """Return the row of each station, and values (station, day since FIRST, variable), NaN where missing."""
    station = np.asarray(daily["station"].to_pylist(), np.str_)
    day = (daily["date"].to_numpy().astype("datetime64[D]") - FIRST).astype(np.int64)
    stations, row = np.unique(station, return_inverse=True)
    values = np.full((len(stations), day.max() + 1, len(names)), np.nan, np.float32)
    for k, name in enumerate(names):
        values[row, day, k] = daily[name].to_numpy()
    return {str(name): number for number, name in enumerate(stations)}, values


def lengthen(
    samples: Samples, row_of: dict[str, int], values: NDArray[np.float32], names: list[str], days: int
) -> pa.Table:
    """Return the table with series of `days` days."""
    unknown = sorted(set(samples.station.tolist()) - set(row_of))
    if unknown:
        raise SystemExit(f"the daily table has no station {unknown[0]}")
    row = np.array([row_of[name] for name in samples.station.tolist()])
    last = (samples.date - FIRST).astype(np.int64)
    back = last[:, None] - np.arange(days - 1, -1, -1)  # (n, days), oldest first
    table = samples.table
    for k, name in enumerate(names):
        there = (back >= 0) & (back < values.shape[1])
        window = np.where(there, values[row[:, None], np.where(there, back, 0), k], np.float32(np.nan))
        known = samples.stored_series(name)
        recent = window[:, -known.shape[1] :]  # a view
        both = np.isfinite(recent) & np.isfinite(known)
        np.testing.assert_allclose(recent[both], known[both], rtol=1e-5, atol=1e-6, err_msg=name)
        recent[:] = known
        column = pa.FixedSizeListArray.from_arrays(pa.array(window.ravel(), pa.float32()), days)
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="+", type=Path)
    parser.add_argument("--daily", required=True, type=Path)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--out", required=True, type=Path, help="folder of the new tables, which keep their names")
    chosen = parser.parse_args()
    daily = pq.read_table(chosen.daily)
    for path in chosen.samples:
        samples = read_samples(path)
        lists = [field.name for field in samples.table.schema if field.name in daily.column_names]
        lists = [name for name in lists if pa.types.is_fixed_size_list(samples.table.schema.field(name).type)]
        made = lengthen(samples, *by_day(daily, lists), lists, chosen.days)
        write_samples(made, chosen.out / path.name)
        print(f"{chosen.out / path.name}: {made.num_rows} rows, {chosen.days} days of {', '.join(lists)}")


if __name__ == "__main__":
    main()
