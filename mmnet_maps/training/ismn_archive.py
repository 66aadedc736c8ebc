"""Archives of the International Soil Moisture Network: sensors by depth, one value an hour, daily means."""

from __future__ import annotations

import logging
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mmnet_maps.errors import InputError, RequestError, brief, counted

if TYPE_CHECKING:
    import pandas as pd

NOMINAL_M = (0.04, 0.06)
"""Depths that round to 5 cm, m: between them lie sensors at 5 cm and at two inches, 0.0508 m."""

LAYER_M = (0.0, 0.051)
"""A layer between these depths, m, stands for 5 cm where no sensor is at that depth."""

_NAME = re.compile(
    r"[^_]+_(?P<network>[^_]+)_(?P<station>.+)_(?P<variable>[A-Za-z]+|[a-z]+_h)_(?P<top>-?[\d.]+)_(?P<bottom>-?[\d.]+)"
    r"_(?P<instrument>.+)_\d{8}_\d{8}\.stm"
)
_USABLE = frozenset({"G", "C02", "C03"})
_CEOP_COLUMNS = 15  # the other format has a line with the position and then date, time, value, flag, provider's flag
_DAY, _TIME = re.compile(rb"\d{4}/\d\d/\d\d"), "%Y/%m/%d %H:%M"
_MISSING = frozenset({b"nan", b"na", b"null"})
_UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)

_DAILY = ("date", "soil_moisture", "lat", "lon", "elevation")
_STATION = attrgetter("network", "station")
_SENSOR = attrgetter("top", "bottom", "instrument")
_ORDER = attrgetter("network", "station", "top", "bottom", "instrument", "file")

log = logging.getLogger("mmnet_maps")


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """One file of an archive, as its name describes it; depths in m."""

    file: str
    network: str
    station: str
    top: float
    bottom: float
    instrument: str

    @property
    def rank(self) -> int | None:
        """0 at 5 cm, 1 for a layer near the surface, 2 shallower, None elsewhere."""
        if NOMINAL_M[0] <= self.top <= self.bottom <= NOMINAL_M[1]:
            return 0
        if not LAYER_M[0] <= self.top <= self.bottom <= LAYER_M[1]:
            return None
        return 1 if self.top < self.bottom else 2

    @property
    def depth(self) -> str:
        """The depth for messages, such as ``0.05 m`` or ``0-0.05 m``."""
        return f"{self.top:g} m" if self.top == self.bottom else f"{self.top:g}-{self.bottom:g} m"


@dataclass(frozen=True, kw_only=True)
class _Record:
    """The content of one file: its position, and value and flag of every readable line, by time in UTC."""

    lat: float
    lon: float
    elevation: float
    rows: pd.DataFrame


class _Left:
    """Count what is left out of an archive, and why."""

    def __init__(self) -> None:
        self.sensors: Counter[str] = Counter()
        self.files: list[tuple[str, str]] = []  # with the reason
        self.lines: list[str] = []
        self.repeated = self.different = self.mixed = 0

    def report(self, path: Path, sensors: int, files: int) -> None:
        """Log one line for each kind."""
        if self.files:
            log.warning(
                "%s: %d of %d files cannot be read and are left out, the first is %s (%s)",
                *(brief(path.name, 40), len(self.files), files, *self.files[0]),
            )
        if self.lines:
            lines = counted(len(self.lines), "line")
            log.warning("%s: %s cannot be read and left out, the first is %s", path.name, lines, self.lines[0])
        if self.repeated:
            log.warning(
                "%s: %s given again for the same hour, %d of them different; the last value given counts",
                *(path.name, counted(self.repeated, "value"), self.different),
            )
        if self.mixed:
            stations = counted(self.mixed, "station")
            log.warning("%s: sensors of different depths are averaged at %s", path.name, stations)
        if self.sensors:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.sensors.most_common(6))
            log.warning(
                "%s: %d of %d soil moisture sensors left out: %s", path.name, self.sensors.total(), sensors, reasons
            )


def daily_values(path: Path, *, min_hours: int, shallow: bool, progress: bool) -> pd.DataFrame:
    """Read the daily soil moisture near the surface of each station: `observations.read_ismn`.

    Returns
    -------
    pandas.DataFrame
        ``network, station, date, soil_moisture, lat, lon, elevation``, a row per station and day.

    Raises
    ------
    InputError, RequestError
        No file of the archive can be read, or `min_hours` is not within 1 and 24.
    """
    import pandas as pd
    from tqdm import tqdm

    if not 1 <= min_hours <= 24:
        raise RequestError(f"{min_hours} is no number of hours of a day; expected 1 to 24")
    left = _Left()
    found: list[pd.DataFrame] = []
    with ExitStack() as stack:
        names, read = _open(path, stack)
        sensors = [sensor for name in names if (sensor := _sensor(name, left)) is not None]
        stations = [list(group) for _, group in groupby(sorted(sensors, key=_ORDER), key=_STATION)]
        for group in tqdm(stations, desc="stations of the archive", disable=not progress):
            days = _station_days(group, read, min_hours, shallow, left)
            if days is not None:
                found.append(days.assign(network=group[0].network, station=group[0].station))
    left.report(path, len(sensors), len(names))
    if left.files and not found:
        raise InputError(f"{path} cannot be read as an ISMN archive ({brief(left.files[0][1])}); download it again")
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["network", "station", *_DAILY])


def archive_files(path: Path) -> list[str]:
    """List the data files (``.stm``) of a folder or a zip, at any depth, as paths in it.

    Raises
    ------
    InputError
        The zip cannot be read.
    """
    with ExitStack() as stack:
        return _open(path, stack)[0]


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


def _open(path: Path, stack: ExitStack) -> tuple[list[str], Callable[[str], bytes]]:
    """Return the names of the data files of an archive and the function that reads one."""
    if path.is_dir():
        found = sorted(file.relative_to(path).as_posix() for file in path.rglob("*.stm") if file.is_file())
        return _data_files(found), lambda name: (path / name).read_bytes()
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a readable zip ({error}); download the archive again") from None
    return _data_files(sorted(archive.namelist())), archive.read


def _data_files(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".stm") and not PurePosixPath(name).name.startswith("._")]


def _sensor(name: str, left: _Left) -> Sensor | None:
    """Return the soil moisture sensor that a file's name describes; None for another variable or another name."""
    path = PurePosixPath(name)
    match = _NAME.fullmatch(path.name)
    try:
        top, bottom = (float(match[key]) for key in ("top", "bottom")) if match else (math.nan, math.nan)
    except ValueError:
        match = None
    if match is None:
        left.files.append((name, "its name is not the one ISMN gives"))
        return None
    if match["variable"] != "sm":
        return None
    folder = path.parts[-3] if len(path.parts) >= 3 else ""  # NETWORK/STATION/FILE: the name has no underscores
    return Sensor(
        file=name,
        network=folder if folder.replace("_", "-") == match["network"] else match["network"],
        station=match["station"],
        top=top,
        bottom=bottom,
        instrument=match["instrument"],
    )


def _station_days(
    sensors: list[Sensor], read: Callable[[str], bytes], min_hours: int, shallow: bool, left: _Left
) -> pd.DataFrame | None:
    """Return the daily values of a station, from its sensors of the best rank that has any; None without values."""
    import pandas as pd

    chosen: pd.DataFrame | None = None
    for rank in (0, 1, 2, None):
        group = [sensor for sensor in sensors if sensor.rank == rank]
        if rank is None or chosen is not None or (rank == 2 and not shallow):
            left.sensors.update(_why(sensor, chosen is not None) for sensor in group)
            continue
        means, depths = [], set()
        place: _Record | None = None
        for (top, bottom, _), files in groupby(group, key=_SENSOR):  # a sensor may have several files
            records = [record for sensor in files if (record := _read(sensor, read, left)) is not None]
            mean = _daily(records, min_hours, left) if records else None
            if mean is not None:
                means.append(mean)
                depths.add((round(top, 2), round(bottom, 2)))
                place = place or records[0]
        if place is not None:
            left.mixed += len(depths) > 1
            mean = pd.concat(means, axis=1).mean(axis=1)
            chosen = pd.DataFrame({"date": mean.index, "soil_moisture": mean.to_numpy()}).assign(
                lat=place.lat, lon=place.lon, elevation=place.elevation
            )
    return chosen


def _why(sensor: Sensor, chosen: bool) -> str:
    """Return why a sensor is not used, for the summary."""
    if sensor.rank is None:
        return "above the ground" if sensor.top < 0 else "deeper than 5.1 cm"
    if chosen:
        return "beside one nearer to 5 cm"
    return f"at {sensor.depth} (--shallow uses them)"


def _read(sensor: Sensor, read: Callable[[str], bytes], left: _Left) -> _Record | None:
    """Read the file of a sensor; None where it cannot be read."""
    try:
        return _parse(read(sensor.file), sensor.file, left)
    except _UNREADABLE as error:
        left.files.append((sensor.file, brief(error, 60)))
        return None


def _parse(data: bytes, name: str, left: _Left) -> _Record:
    """Parse a file of either format: "header values", or "CEOP in separate files".

    Raises
    ------
    ValueError
        The file is neither of the two, has no position on earth, or no line that can be read.
    """
    import numpy as np
    import pandas as pd

    lines = [(number, line.split()) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    if not lines:
        raise ValueError("it is empty")
    head = lines[0][1]
    ceop = len(head) == _CEOP_COLUMNS and _DAY.fullmatch(head[0])
    at, value = (7, 12) if ceop else (3, 2)
    expected = {_CEOP_COLUMNS} if ceop else {4, 5}  # the provider's flag may be empty
    try:
        lat, lon, elevation = (float(text) for text in head[at : at + 3])
    except ValueError:
        raise ValueError("no position in its first line") from None
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        raise ValueError(f"position {lat:g},{lon:g} in its first line; expected degrees north and east")
    lines = lines if ceop else lines[1:]
    whole = [len(row) in expected for _, row in lines]
    cells = [row if ok else [b""] * _CEOP_COLUMNS for ok, (_, row) in zip(whole, lines, strict=True)]
    number = pd.to_numeric([row[value].decode("latin-1") for row in cells], errors="coerce")
    missing = np.array([row[value].lower() in _MISSING for row in cells], np.bool_)
    time = pd.to_datetime([b" ".join(row[:2]).decode("latin-1") for row in cells], format=_TIME, errors="coerce")
    readable = np.asarray(time.notna() & (~np.isnan(number) | missing))
    if not readable.any():
        raise ValueError("none of its lines can be read")
    for line, row in (lines[k] for k in np.flatnonzero(~readable)):
        left.lines.append(f"{name} line {line}: {b' '.join(row)[:60].decode('latin-1')!r}")
    rows = pd.DataFrame({"value": number, "flag": [row[value + 1].decode("latin-1") for row in cells]}, index=time)
    return _Record(lat=lat, lon=lon, elevation=elevation if elevation > -900 else math.nan, rows=rows[readable])


def _daily(records: list[_Record], min_hours: int, left: _Left) -> pd.Series[float] | None:
    """Average a sensor's usable hours by day of local standard time, for days with enough of them.

    Of several values of a time the last one given counts. Times within an hour are averaged first.
    """
    import pandas as pd

    rows = pd.concat([record.rows for record in records])
    again = rows.index.duplicated(keep="last")
    if again.any():
        kept = rows["value"][~rows.index.duplicated(keep="last")]
        left.repeated += int(again.sum())
        left.different += int((kept.reindex(rows.index[again]).to_numpy() != rows["value"][again].to_numpy()).sum())
        rows = rows[~again]
    values = rows.loc[rows["flag"].map(usable), "value"]
    if 2 * (values > 1).sum() > len(values):
        left.sensors["with values above 1, so not in m³/m³"] += 1
        return None
    possible = values[values.between(0, 1)]
    hours = possible.groupby(pd.DatetimeIndex(possible.index).floor("h")).mean()
    offset = pd.Timedelta(hours=standard_time(records[0].lon))
    days = hours.groupby((pd.DatetimeIndex(hours.index) + offset).floor("D"))
    mean: pd.Series[float] = days.mean()[days.size() >= min_hours]
    if mean.empty:
        left.sensors[f"without a day of {min_hours} usable hours"] += 1
        return None
    return mean
