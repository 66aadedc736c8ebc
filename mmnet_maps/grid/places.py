"""Points as people write them: ``LON,LAT`` in degrees, or CSV files of stations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmnet_maps.errors import InputError, RequestError

if TYPE_CHECKING:
    import pandas as pd


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
        raise RequestError(f"point {one['station']} is at {one['lon']:g},{one['lat']:g}; expected LON,LAT in degrees")
    if places["station"].duplicated().any():
        raise RequestError(f"point {places['station'][places['station'].duplicated()].iloc[0]} is given twice")
    return places


def _stations_of(path: str) -> pd.DataFrame:
    if not os.path.exists(path):  # unlike Path.exists, raises nothing for a text that is too long for a name
        shown = path if len(path) <= 80 else f"{path[:80]}…"
        raise RequestError(
            f"{shown!r} is neither LON,LAT in degrees nor a CSV file of stations; give each place its own --points"
        )
    return read_positions(path).reset_index()[["station", "lat", "lon"]]


def read_positions(path: str | Path) -> pd.DataFrame:
    """Read the stations of a CSV, by name: ``lat`` and ``lon`` in degrees, ``elevation`` in m or NaN.

    Raises
    ------
    InputError
        It cannot be read, has no such columns or no rows, or a station has no name, no position or two.
    """
    import pandas as pd

    try:
        found = pd.read_csv(path, dtype={"station": str})
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}); give a CSV of stations") from None
    absent = [name for name in ("station", "lat", "lon") if name not in found.columns]
    if absent:
        raise InputError(f"{path} has no column {', '.join(absent)}; expected the columns station, lat, lon")
    if found.empty:
        raise InputError(f"{path} has no row below its header; expected one per station")
    unnamed = found["station"].fillna("").str.strip() == ""
    if unnamed.any():
        raise InputError(f"{path}: row {unnamed.argmax() + 1} has no station; give it a name")
    found = found.set_index("station").reindex(columns=["lat", "lon", "elevation"])
    numbers: pd.DataFrame = found.apply(pd.to_numeric, errors="coerce")
    places = numbers[["lat", "lon"]].reset_index().drop_duplicates()
    twice = places[places["station"].duplicated()]
    numbers = numbers[~numbers.index.duplicated()]
    bad = ~(numbers["lat"].between(-90, 90) & numbers["lon"].between(-180, 180))
    if bad.any():
        raise InputError(f"{path}: station {bad.idxmax()} has no position in degrees; correct it")
    if not twice.empty:
        name, lat, lon = twice.iloc[0]
        first = numbers.loc[name]
        raise InputError(
            f"{path}: station {name} is at {first['lon']:.6f},{first['lat']:.6f} and at {lon:.6f},{lat:.6f}; give it "
            "one position"
        )
    return numbers
