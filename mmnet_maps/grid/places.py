"""Points as people write them: ``LON,LAT`` in degrees, or CSV files of stations."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmnet_maps.errors import InputError, RequestError, brief
from mmnet_maps.grid.polygons import listed, shown

if TYPE_CHECKING:
    import pandas as pd

_NUMBERS = ("lat", "lon", "elevation", "soil_moisture")
_COLUMNS = ("station", "date", *_NUMBERS)
_SPELLINGS = {
    "station": ("station", "name"),
    "lat": ("lat", "latitude", "y"),
    "lon": ("lon", "long", "longitude", "lng", "x"),
}
_BESIDE_LETTERS = re.compile(r"[(\[].*|[^a-z]")
_QUOTED = re.compile(r'"[^"]*"')


def place_name(lon: float, lat: float) -> str:
    """Name a place after its position, to 0.1 m.

    Examples
    --------
    >>> place_name(-119.6, 47.0), place_name(-119.123456, 47.12345649)
    ('-119.6,47', '-119.123456,47.123456')
    """
    return ",".join(np.format_float_positional(round(float(one), 6) + 0.0, trim="-") for one in (lon, lat))


def parse_lonlat(text: str) -> tuple[float, float] | None:
    """Return the longitude and latitude that a text gives; None where it is not two numbers.

    Examples
    --------
    >>> parse_lonlat("-119.6,47.0"), parse_lonlat("stations.csv")
    ((-119.6, 47.0), None)
    """
    try:
        lon, lat = map(float, text.split(","))
    except ValueError:
        return None
    return lon, lat


def read_places(given: Sequence[str]) -> pd.DataFrame:
    """Read places from the command line: CSV files with the columns ``station, lat, lon``, or ``LON,LAT`` in degrees.

    Raises
    ------
    RequestError
        A value is neither of the two, a position is not on earth, or a name appears twice.
    InputError
        A file cannot be read or has no such column.
    """
    import pandas as pd

    parts = []
    for text in given:
        if (place := parse_lonlat(text)) is None:
            parts.append(_stations_of(text))
        else:
            lon, lat = place
            parts.append(pd.DataFrame({"station": [place_name(lon, lat)], "lat": [lat], "lon": [lon]}))
    places = pd.concat(parts, ignore_index=True)
    wrong = ~(places["lat"].between(-90, 90) & places["lon"].between(-180, 180))
    if wrong.any():
        one = places[wrong].iloc[0]
        raise RequestError(
            f"point {brief(one['station'])} is at {one['lon']:g},{one['lat']:g}; expected LON,LAT in degrees"
        )
    if places["station"].duplicated().any():
        raise RequestError(f"point {brief(places['station'][places['station'].duplicated()].iloc[0])} is given twice")
    return places


def _stations_of(path: str) -> pd.DataFrame:
    if not os.path.exists(path):  # unlike Path.exists, raises nothing for a text that is too long for a name
        raise RequestError(
            f"{brief(path, 80)!r} is neither LON,LAT in degrees nor a CSV file of stations; give each place its own "
            "--points"
        )
    return read_positions(path).reset_index()[["station", "lat", "lon"]]


def read_table(path: str | Path, *needed: str) -> pd.DataFrame:
    """Read a CSV of stations as spreadsheets write it, every value as text.

    Columns may be separated by commas, semicolons or tabs, with spaces around; numbers may have a decimal comma; names
    of columns may be in capitals, and ``name``, ``latitude``, ``longitude``, ``lng``, ``y`` and ``x`` are understood.

    Parameters
    ----------
    path
        The file.
    *needed
        Columns that it must have.

    Returns
    -------
    pandas.DataFrame
        With the names ``station, lat, lon, elevation, date, soil_moisture`` where the file has these; numbers have a
        decimal point. Missing values are NaN.

    Raises
    ------
    InputError
        It cannot be read, has not the columns needed, or has two for one.
    """
    import pandas as pd

    content = _text(path)
    header = _QUOTED.sub("", next((line for line in content.splitlines() if line.strip()), ""))
    try:
        found: pd.DataFrame = pd.read_csv(
            StringIO(content), sep=max(";\t,", key=header.count), dtype=str, skipinitialspace=True, low_memory=False
        )
    except ValueError as error:
        raise InputError(f"{shown(path)} cannot be read ({brief(error)}); give a CSV of stations") from None
    if not isinstance(found.index, pd.RangeIndex):
        raise InputError(
            f"{shown(path)} has rows with more values than columns; separate columns by semicolons where numbers have "
            "a decimal comma"
        )
    found = found.apply(lambda column: column.str.strip()).dropna(how="all")
    found.columns = pd.Index(_names(list(map(str, found.columns)), path))
    absent = [name for name in needed if name not in found.columns]
    if absent:
        raise InputError(
            f"{shown(path)} has no column {', '.join(absent)} but {brief(listed(found.columns), 80)}; expected the "
            "columns station, lat, lon"
        )
    numbers = [name for name in _NUMBERS if name in found.columns]
    commas, points = (
        any(found[name].str.contains(one, regex=False, na=False).any() for name in numbers) for one in (",", ".")
    )
    if commas and not points:
        found[numbers] = found[numbers].apply(lambda column: column.str.replace(",", "."))
    return found


def _text(path: str | Path) -> str:
    """Return the text of a file in UTF-8 or, as spreadsheets write it, UTF-16 with its mark."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{shown(path)} is not a file; give a CSV of stations")
    try:
        content = Path(path).read_bytes()
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeError as error:
        raise InputError(f"{shown(path)} is not text in UTF-8; save it again as CSV UTF-8") from error
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be read ({error.strerror}); give a CSV of stations") from None


def _names(given: list[str], path: str | Path) -> list[str]:
    """Return the names of columns as the package has them: ``Longitude (deg)`` is lon."""
    plain = [name.strip().lower() for name in given]
    found = [low if low in _COLUMNS else name.strip() for name, low in zip(given, plain, strict=True)]
    letters = [_BESIDE_LETTERS.sub("", name) for name in plain]
    for name, others in _SPELLINGS.items():
        used = next((other for other in others if other in letters), "")
        if letters.count(used) > 1 and used:
            raise InputError(f"{shown(path)} has {letters.count(used)} columns for {name}; keep one")
        if used:
            found[letters.index(used)] = name
    for name in _COLUMNS:
        if found.count(name) > 1:
            raise InputError(f"{shown(path)} has {found.count(name)} columns for {name}; keep one")
    return found


def read_positions(path: str | Path) -> pd.DataFrame:
    """Read the stations of a CSV, by name: ``lat`` and ``lon`` in degrees, ``elevation`` in m or NaN.

    Raises
    ------
    InputError
        It cannot be read, has no such columns or no rows, or a station has no name, no position or two.
    """
    import pandas as pd

    found = read_table(path, "station", "lat", "lon")
    if found.empty:
        raise InputError(f"{shown(path)} has no row below its header; expected one per station")
    unnamed = found["station"].fillna("") == ""
    if unnamed.any():
        raise InputError(f"{shown(path)}: row {found.index[unnamed][0] + 1} has no station; give it a name")
    found = found.set_index("station").reindex(columns=["lat", "lon", "elevation"])
    numbers: pd.DataFrame = found.apply(pd.to_numeric, errors="coerce")
    places = numbers[["lat", "lon"]].reset_index().drop_duplicates()
    twice = places[places["station"].duplicated()]
    numbers = numbers[~numbers.index.duplicated()]
    bad = ~(numbers["lat"].between(-90, 90) & numbers["lon"].between(-180, 180))
    if bad.any():
        raise InputError(f"{shown(path)}: station {brief(bad.idxmax(), 60)} has no position in degrees; correct it")
    if not twice.empty:
        name, lat, lon = twice.iloc[0]
        first = numbers.loc[name]
        raise InputError(
            f"{shown(path)}: station {brief(name, 60)} is at {first['lon']:.6f},{first['lat']:.6f} and at "
            f"{lon:.6f},{lat:.6f}; give it one position"
        )
    return numbers
