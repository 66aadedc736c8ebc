"""In situ observations as published (USCRN, ISMN), as one table of daily soil moisture."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.places import read_positions

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

COLUMNS = ("station", "network", "date", "lat", "lon", "elevation", "soil_moisture")
"""Columns of a table of observations (see `read_observations`)."""

MIN_HOURS = 12
"""Least number of hours with a usable value for a daily mean."""

SURFACE_M = (0.0, 0.05)
"""A surface sensor lies entirely between these depths, m."""

_USCRN_NAME = re.compile(r"CRND\d{4}-\d{4}-[A-Z]{2}_(?P<station>.+)\.txt$")
_USCRN_COLUMNS = 28
_DATE, _LON, _LAT, _MOISTURE = 1, 3, 4, 18  # of the 28
_USABLE = frozenset({"G", "C02", "C03"})
_MOVED_DEGREES = 0.02  # positions of a station may be rounded to 0.01

log = logging.getLogger("mmnet_maps")


def read_observations(
    paths: Iterable[str | Path],
    *,
    min_hours: int = MIN_HOURS,
    positions: str | Path | None = None,
    progress: bool = False,
) -> pa.Table:
    """Read daily soil moisture at 0-5 cm from files of NOAA's USCRN and archives of the ISMN, recognised by content.

    Parameters
    ----------
    paths
        USCRN ``daily01`` files or folders of them (also a folder per year), ISMN archives as zip or unpacked.
    min_hours
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
        No path is given, or the package ``ismn`` is needed and not installed.
    """
    import pandas as pd

    tables = [part.to_pandas() for path in paths for part in _read(Path(path), min_hours, progress)]
    if not tables:
        raise RequestError("no observations given; expected USCRN files or ISMN archives")
    rows = pd.concat(tables, ignore_index=True).drop_duplicates()
    if rows.empty:
        raise InputError("no soil moisture at 0 to 5 cm in the observations; give files of surface sensors")
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


def read_ismn(path: str | Path, *, min_hours: int = MIN_HOURS, progress: bool = False) -> pa.Table:
    """Read an archive of the International Soil Moisture Network, zip or unpacked, through the package ``ismn``.

    1. Sensors of soil moisture whose whole depth lies within 0 and 0.05 m are used.
    2. A value is used when it lies within 0 and 1 and its quality flag is ``G`` (good), or holds only ``C02`` (above
       0.60 m³/m³) and ``C03`` (above the saturation of a coarse soil map).
    3. Hours are averaged to days with at least `min_hours` of them. ISMN's times are UTC; a day here is local standard
       time, UTC + round(longitude/15) hours, to match the days of USCRN. Where a time zone does not follow the
       longitude this is an hour off.
    4. Several sensors of a station are averaged day by day.

    Parameters
    ----------
    path
        The zip as downloaded, or the folder with a folder per network. Nothing is written into it.
    min_hours
        Least number of hours with a usable value in a day, 1 to 24.
    progress
        Show a progress bar.

    Returns
    -------
    pyarrow.Table
        See `read_observations`.

    Raises
    ------
    InputError, RequestError
        The archive cannot be read, `min_hours` is not within 1 and 24, or the package ``ismn`` is not installed.

    References
    ----------
    Dorigo et al. (2013), Vadose Zone J. 12, vzj2012.0097 (quality flags); (2021), Hydrol. Earth Syst. Sci. 25, 5749.
    """
    import numpy as np
    import pandas as pd
    from tqdm import tqdm

    if not 1 <= min_hours <= 24:
        raise RequestError(f"{min_hours} is no number of hours of a day; expected 1 to 24")
    days: list[pd.DataFrame] = []
    with _archive(Path(path)) as stations:
        for network, station, sensors in tqdm(stations, desc="stations of the archive", disable=not progress):
            offset = pd.Timedelta(hours=standard_time(station.lon))
            means = [_daily(_hours(sensor, path), offset, min_hours) for sensor in sensors]
            mean = pd.concat(means, axis=1).mean(axis=1)
            days.append(
                pd.DataFrame(
                    {
                        "station": station.name,
                        "network": network,
                        "date": mean.index,
                        "lat": float(station.lat),
                        "lon": float(station.lon),
                        "elevation": float(station.elev) if station.elev > -900 else np.nan,
                        "soil_moisture": mean.to_numpy(),
                    }
                )
            )
    return _as_table(pd.concat(days, ignore_index=True) if days else pd.DataFrame(columns=list(COLUMNS)))


def standard_time(lon: float) -> int:
    """Return the hours from UTC to local standard time, approximated by the longitude in degrees: round(lon/15).

    Examples
    --------
    >>> standard_time(-97.09), standard_time(-117.53), standard_time(0.0)
    (-6, -8, 0)
    """
    return math.floor(lon / 15 + 0.5)


def usable(flag: str) -> bool:
    """Return True if values with this ISMN quality flag, or several joined by commas, are used: `read_ismn`, 2.

    Examples
    --------
    >>> [usable(flag) for flag in ("G", "C03", "C02,C03", "C01", "C03,D05", "")]
    [True, True, True, False, False, False]
    """
    return set(flag.split(",")) <= _USABLE


def _read(path: Path, min_hours: int, progress: bool) -> Iterator[pa.Table]:
    """Yield the tables that one path holds, of either publisher."""
    if not os.path.exists(path):  # unlike Path.exists, raises nothing for a name that is too long
        raise InputError(f"no file or folder {path}; expected USCRN daily01 files or an ISMN archive")
    if path.is_file() and not zipfile.is_zipfile(path):
        yield read_uscrn(path)
        return
    files = sorted(path.rglob("CRND*.txt")) if path.is_dir() else []
    archive = _stm_files(path)
    if not files and not archive:
        raise InputError(
            f"{path} holds neither USCRN daily01 files (CRND….txt) nor files of an ISMN archive "
            "(NETWORK/STATION/….stm); give the folder or zip that does"
        )
    for file in files:
        yield read_uscrn(file)
    if archive:
        yield read_ismn(path, min_hours=min_hours, progress=progress)


def _stm_files(path: Path) -> list[str]:
    """List the data files of an ISMN archive, NETWORK/STATION/….stm, as paths in it."""
    if path.is_dir():
        return sorted(file.relative_to(path).as_posix() for file in path.glob("*/*/*.stm"))
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(name for name in archive.namelist() if re.fullmatch(r"[^/]+/[^/]+/[^/]+\.stm", name))
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a readable zip ({error}); download the archive again") from None


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[list[tuple[str, Any, list[Any]]]]:
    """Yield network, station and surface sensors of an archive, which `ismn` keeps open meanwhile."""
    if find_spec("ismn") is None:
        raise RequestError(
            "ISMN archives need the package ismn, which is not installed: pip install 'mmnet-maps[ismn]'"
        )
    from ismn.interface import ISMN_Interface

    files = _stm_files(path)
    if not files:
        raise InputError(f"{path} holds no NETWORK/STATION/….stm; give an ISMN archive, zip or unpacked")
    # The package writes its list of sensors to disk, and prints to the terminal while it does.
    with tempfile.TemporaryDirectory() as folder:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                found = ISMN_Interface(path, meta_path=folder, temp_root=folder)
            except (OSError, ValueError, KeyError) as error:
                reason = " ".join(str(error).split())
                raise InputError(f"{path} cannot be read as an ISMN archive ({reason}); download it again") from None
        try:
            lost = len(files) - len(found.metadata)
            if lost:
                known = {Path(str(name)).as_posix() for name in found.metadata["file_path", "val"]}
                log.warning(
                    "%s: %d of %d files cannot be read and are left out, the first is %s",
                    *(path, lost, len(files), next(name for name in files if name not in known)),
                )
            yield [
                (network.name, station, sensors)
                for network in found.networks.values()
                for station in network.stations.values()
                if (sensors := [sensor for sensor in station.sensors.values() if _at_the_surface(sensor)])
            ]
        finally:
            found.close_files()


def _at_the_surface(sensor: Any) -> bool:
    top, bottom = sensor.depth.start, sensor.depth.end
    return bool(sensor.variable == "soil_moisture" and SURFACE_M[0] <= top <= bottom <= SURFACE_M[1] + 1e-9)


def _hours(sensor: Any, path: str | Path) -> pd.Series[float]:
    """Read the usable values of a sensor by time in UTC."""
    try:
        data = sensor.read_data()
    except (ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: sensor {sensor.name} cannot be read ({reason}); download the archive again"
        ) from None
    good = data["soil_moisture_flag"].astype(str).map(usable) & data["soil_moisture"].between(0, 1)
    values: pd.Series[float] = data.loc[good, "soil_moisture"]
    return values


def _daily(hours: pd.Series[float], offset: pd.Timedelta, min_hours: int) -> pd.Series[float]:
    """Average by day of local standard time, for days with enough values."""
    import pandas as pd

    groups = hours.groupby((pd.DatetimeIndex(hours.index) + offset).floor("D"))
    return groups.mean()[groups.size() >= min_hours]


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
