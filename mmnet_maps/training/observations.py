"""In situ observations as published (USCRN, ISMN), as one table of daily soil moisture."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.places import read_positions
from mmnet_maps.training.ismn_archive import archive_files, daily_values
from mmnet_maps.training.ismn_archive import standard_time as standard_time  # its former place

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

COLUMNS = ("station", "network", "date", "lat", "lon", "elevation", "soil_moisture")
"""Columns of a table of observations (see `read_observations`)."""

MIN_HOURS = 12
"""Least number of hours with a usable value for a daily mean."""

_USCRN_NAME = re.compile(r"CRND\d{4}-\d{4}-[A-Z]{2}_(?P<station>.+)\.txt$")
_USCRN_COLUMNS = 28
_DATE, _LON, _LAT, _MOISTURE = 1, 3, 4, 18  # of the 28
_MOVED_DEGREES = 0.02  # positions of a station may be rounded to 0.01


def read_observations(
    paths: Iterable[str | Path],
    *,
    min_hours: int = MIN_HOURS,
    shallow: bool = False,
    positions: str | Path | None = None,
    progress: bool = False,
) -> pa.Table:
    """Read daily soil moisture at 5 cm from files of NOAA's USCRN and archives of the ISMN, recognised by content.

    Parameters
    ----------
    paths
        USCRN ``daily01`` files or folders of them (also a folder per year), ISMN archives as zip or unpacked.
    min_hours, shallow
        See `read_ismn`.
    positions
        A CSV with the columns ``station, lat, lon`` in degrees and, where known, ``elevation`` in m, in place of the
        positions in the files: those of USCRN are rounded to 0.01°, about a kilometre.
    progress
        Show a progress bar while archives are read.

    Returns
    -------
    pyarrow.Table
        One row per station and day with an observation, sorted: ``station``, ``network``, ``date`` (date32; the day is
        local standard time), ``lat``, ``lon`` (degrees, float64), ``elevation`` (m, float32, null where not known),
        ``soil_moisture`` (m³/m³, float32, within 0 and 1). A station's position is that of its last day. A name that
        two networks use is prefixed with the network, as in ``SCAN:Adams-Ranch``.

    Raises
    ------
    InputError
        A path does not exist, holds neither of the two, or is broken; a station has two values on a day, or two places.
    RequestError
        No path is given.
    """
    import pandas as pd

    tables = [part.to_pandas() for path in paths for part in _read(Path(path), min_hours, shallow, progress)]
    if not tables:
        raise RequestError("no observations given; expected USCRN files or ISMN archives")
    rows = pd.concat(tables, ignore_index=True).drop_duplicates()
    if rows.empty:
        raise InputError(
            "no daily soil moisture at 0 to 5 cm in the observations; give files of surface sensors, or try "
            "--shallow or fewer --min-hours"
        )
    networks = rows.groupby("station")["network"].nunique()
    shared = rows["station"].isin(networks.index[networks > 1])
    rows.loc[shared, "station"] = rows["network"] + ":" + rows["station"]
    rows = rows.sort_values(["station", "date"], kind="stable")
    twice = rows.duplicated(["station", "date"], keep=False)
    if twice.any():
        one, other = rows[twice].head(2).to_dict("records")
        raise InputError(
            f"station {one['station']} has two values on {one['date']}, {one['soil_moisture']:.3f} and "
            f"{other['soil_moisture']:.3f} m³/m³; give each day of a station once"
        )
    return _as_table(_placed(rows, positions))


def read_uscrn(path: str | Path) -> pa.Table:
    """Read one file of NOAA's U.S. Climate Reference Network, product ``daily01``, as published.

    Fixed width, 28 columns, -9999 and -99 where missing; days are local standard time. The station's name is the one
    in the name of the file: ``CRND0103-2021-OK_Stillwater_2_W.txt`` holds ``Stillwater-2-W``.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    pyarrow.Table
        See `read_observations`; days without a value at 5 cm are left out, elevation is null.

    Raises
    ------
    InputError
        The file cannot be read, has another name, or a line does not have the 28 columns.

    References
    ----------
    Diamond et al. (2013), Bull. Amer. Meteor. Soc. 94, 485-498; Bell et al. (2013), J. Hydrometeorol. 14, 977-988.
    """
    import numpy as np
    import pandas as pd

    path = Path(path)
    name = _USCRN_NAME.search(path.name)
    if name is None:
        raise InputError(
            f"{path} does not have a name such as CRND0103-2021-OK_Stillwater_2_W.txt, which names the station; give "
            "the file as NOAA publishes it"
        )
    lines = _uscrn_lines(path)
    try:
        date = pd.to_datetime([line[_DATE] for line in lines], format="%Y%m%d")
        lon, lat, moisture = (np.array([line[k] for line in lines], np.float64) for k in (_LON, _LAT, _MOISTURE))
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} holds a wrong number or day ({reason}); download the file again") from None
    if 2 * np.count_nonzero(moisture > 1) > np.count_nonzero(moisture >= 0):
        raise InputError(
            f"{path}: most values of soil moisture at 5 cm are above 1, such as {moisture.max():g}; expected m³/m³: "
            "download the file again"
        )
    rows = pd.DataFrame(
        {
            "station": name["station"].replace("_", "-"),
            "network": "USCRN",
            "date": date,
            "lat": lat,
            "lon": lon,
            "elevation": np.nan,
            "soil_moisture": moisture,
        }
    )
    return _as_table(rows)


def _uscrn_lines(path: Path) -> list[list[str]]:
    """Read the lines of a file of USCRN, each as its 28 columns."""
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a USCRN daily01 file") from None
    for number, line in enumerate(lines, 1):
        if len(line) != _USCRN_COLUMNS:
            raise InputError(
                f"{path}: line {number} has {len(line)} columns, expected {_USCRN_COLUMNS}; the file may be "
                "incomplete: download it again"
            )
    return lines


def read_ismn(
    path: str | Path, *, min_hours: int = MIN_HOURS, shallow: bool = False, progress: bool = False
) -> pa.Table:
    """Read an archive of the International Soil Moisture Network: its ``.stm`` files, of either format.

    1. At each station the sensors at 5 cm are used, that is at 0.04 to 0.06 m, such as those of SCAN at two inches;
       where there is none with a daily value, layers within 0 and 0.051 m; where there is no such layer either, and
       `shallow`, sensors above them. What is left out is logged.
    2. A value is used when it lies within 0 and 1 and its quality flag is ``G`` (good), or holds only ``C02`` (above
       0.60 m³/m³) and ``C03`` (above the saturation of a coarse soil map). Of several values of one time the last one
       counts; several times within an hour are averaged first.
    3. Hours are averaged to days with at least `min_hours` of them. ISMN's times are UTC; a day here is local standard
       time, UTC + round(longitude/15) hours, to match the days of USCRN. Where a time zone does not follow the
       longitude this is an hour off.
    4. Several sensors of a station are averaged day by day.

    Parameters
    ----------
    path
        The zip as downloaded, or a folder; folders per network are not needed. Nothing is written into it.
    min_hours
        Least number of hours with a usable value in a day, 1 to 24.
    shallow
        Use sensors shallower than 0.04 m, such as at 0.025 m, at stations that have no other.
    progress
        Show a progress bar.

    Returns
    -------
    pyarrow.Table
        See `read_observations`.

    Raises
    ------
    InputError, RequestError
        No file of the archive can be read, or `min_hours` is not within 1 and 24.

    References
    ----------
    Dorigo et al. (2013), Vadose Zone J. 12, vzj2012.0097 (quality flags); (2021), Hydrol. Earth Syst. Sci. 25, 5749.
    """
    rows = daily_values(Path(path), min_hours=min_hours, shallow=shallow, progress=progress)
    return _as_table(rows)


def _read(path: Path, min_hours: int, shallow: bool, progress: bool) -> Iterator[pa.Table]:
    """Yield the tables that one path holds, of either publisher."""
    if not os.path.exists(path):  # unlike Path.exists, raises nothing for a name that is too long
        raise InputError(f"no file or folder {path}; expected USCRN daily01 files or an ISMN archive")
    if path.is_file() and not zipfile.is_zipfile(path):
        yield read_uscrn(path)
        return
    files = sorted(path.rglob("CRND*.txt")) if path.is_dir() else []
    archive = archive_files(path)
    if not files and not archive:
        raise InputError(
            f"{path} holds neither USCRN daily01 files (CRND….txt) nor files of an ISMN archive "
            "(….stm); give the folder or zip that does"
        )
    for file in files:
        yield read_uscrn(file)
    if archive:
        yield read_ismn(path, min_hours=min_hours, shallow=shallow, progress=progress)


def _placed(rows: pd.DataFrame, positions: str | Path | None) -> pd.DataFrame:
    """Give all days of a station one position: the last one, or that of a CSV."""
    place = rows.groupby("station")[["lat", "lon", "elevation"]].last()
    places = rows.groupby("station")[["lat", "lon"]]
    spread = (places.max() - places.min()).max(axis=1)
    known = read_positions(positions) if positions is not None else None
    if known is not None:
        absent = sorted(set(place.index) - set(known.index))
        if absent:
            raise InputError(f"{positions} has no row for {', '.join(absent[:5])}; add the position of every station")
        place = known.loc[place.index].assign(elevation=lambda found: found["elevation"].fillna(place["elevation"]))
    elif (spread > _MOVED_DEGREES).any():
        name = spread.idxmax()
        raise InputError(
            f"station {name} is at two places {spread.max():.2f}° apart; are these two stations? rename one, or give "
            "the position in a CSV (--positions)"
        )
    return rows.drop(columns=["lat", "lon", "elevation"]).merge(place, left_on="station", right_index=True)


def _as_table(rows: pd.DataFrame) -> pa.Table:
    """Return rows with a possible value as a table of observations."""
    import pandas as pd
    import pyarrow as pa

    rows = rows[pd.to_numeric(rows["soil_moisture"]).between(0, 1)]
    text, degrees, number = pa.string(), pa.float64(), pa.float32()
    types = dict(zip(COLUMNS, (text, text, pa.date32(), degrees, degrees, number, number), strict=True))
    return pa.table({name: pa.array(rows[name], types[name], from_pandas=True) for name in COLUMNS})
