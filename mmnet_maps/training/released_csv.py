"""The CSV tables of the authors' released code, as tables of samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmnet_maps.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

LAGS = 10
"""Days before the day itself in a series of these tables."""

_TEXT = {"ID": "station", "Network": "network", "Domain": "region", "LC_name": "landcover"}
_NUMBERS = {
    "Latitude": "lat",
    "Longitude": "lon",
    "VWC_5": "soil_moisture",
    "SMAP": "smap",
    "bd": "bulk_density",
    "VV": "vv",
    "VH": "vh",
} | {
    name: name
    for name in (
        *("elevation", "slope", "aspect", "clay", "sand", "ndvi", "evi", "ndwi", "lswi", "nsdsi"),
        *("cr", "dpsvim", "pol", "rvim", "vvvh"),
    )
}
_SERIES = {name: name for name in ("eto", "etr", "pr", "sph", "srad", "vpd", "vs")} | {
    "LST": "lst",
    "SMAP": "smap_series",
}
_REQUIRED = ("ID", "Latitude", "Longitude", "Date")
_REGIONS = {"W": "west", "M": "middle", "E": "east"}
_LST_SCALE = 0.02  # K per raw MODIS number


def read_released_csv(path: str | Path) -> pa.Table:
    """Read a CSV of the released code (github.com/YXu556/MMNet, 2025) into the form of a table of samples.

    Names become those used here, ``LST`` and its lags become K (they are raw MODIS numbers, K/0.02), ``LC_name`` a
    class name in lower case, ``Domain`` a region. A variable with lags, ``pr_10`` … ``pr_1``, becomes a list of 11 days
    with the day's own value last. Derived columns (``DoY``, ``Year``, ``…_normalized``) and unknown ones are left out.
    The released code counts lags in rows, so a series reaches further back where days are missing. The file has at
    least the columns ``ID, Latitude, Longitude, Date``.

    Returns
    -------
    pyarrow.Table
        ``station``, ``date`` (date32) and the file's other columns, in its order of rows; numbers float32, null
        where missing, ``lat`` and ``lon`` float64, series fixed-size lists of 11 float32, NaN where missing.

    Raises
    ------
    InputError
        The file is not such a CSV: a column is missing or of another kind, or some lags of a variable are missing.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    read = {**dict.fromkeys((*_TEXT, "Date"), pa.string()), **dict.fromkeys((*_NUMBERS, *_SERIES), pa.float64())}
    read |= {f"{name}_{lag}": pa.float64() for name in _SERIES for lag in range(1, LAGS + 1)}
    options = csv.ConvertOptions(column_types=read, strings_can_be_null=True)
    try:
        found = csv.read_csv(path, convert_options=options)
        absent = [name for name in _REQUIRED if name not in found.column_names]
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not a CSV of the released code ({str(error).splitlines()[0]}); expected its columns, "
            f"{', '.join(_REQUIRED)}, VWC_5 and the inputs"
        ) from None
    if absent:
        raise InputError(
            f"{path} has no column {', '.join(absent)}; expected the columns of the released code's tables"
        )
    columns = {_TEXT[name]: found[name] for name in _TEXT if name in found.column_names}
    if "landcover" in columns:
        columns["landcover"] = pc.utf8_lower(pc.utf8_trim_whitespace(columns["landcover"]))
    if "region" in columns:
        columns["region"] = _regions(columns["region"], path)
    try:
        columns["date"] = pc.strptime(found["Date"], format="%Y%m%d", unit="s").cast(pa.date32())
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{path}: column Date holds a value that is not a day ({error}); give days as YYYYMMDD"
        ) from None
    for name, new in _NUMBERS.items():
        if name in found.column_names:
            columns[new] = found[name].cast(pa.float64() if new in ("lat", "lon") else pa.float32())
    for name, new in _SERIES.items():
        if (series := _series(found, name, path)) is not None:
            columns[new] = series
    return pa.table(columns)


def _series(found: pa.Table, name: str, path: str | Path) -> pa.Array | None:
    """Return a variable's lags and own day as lists, oldest first; None where it has no lags."""
    import numpy as np
    import pyarrow as pa

    names = [*(f"{name}_{lag}" for lag in range(LAGS, 0, -1)), name]
    present = [column for column in names if column in found.column_names]
    if not set(present) - {name}:
        return None
    if len(present) < len(names):
        absent = next(column for column in names if column not in present)
        raise InputError(f"{path} has {present[0]} but no {absent}; expected {name} and {name}_{LAGS} to {name}_1")
    days = np.stack([found[column].to_numpy() for column in names], axis=1)
    if name == "LST":
        days = days * _LST_SCALE
    return pa.FixedSizeListArray.from_arrays(pa.array(days.ravel().astype(np.float32)), len(names))


def _regions(domain: pa.ChunkedArray, path: str | Path) -> pa.Array:
    import pyarrow as pa

    names = domain.to_pylist()
    unknown = sorted({name for name in names if name is not None} - set(_REGIONS))
    if unknown:
        raise InputError(f"{path}: Domain '{unknown[0]}' is not known; expected W, M or E")
    return pa.array([_REGIONS.get(name) for name in names], pa.string())
