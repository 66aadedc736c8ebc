"""Files in the form of published observations: USCRN daily01, and ISMN archives in both of their formats."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Literal

Format = Literal["header_values", "ceop_sep"]

_STATIC = """\
quantity_name;unit;depth_from[m];depth_to[m];value;description;quantity_source_name
clay fraction;% weight;0.00;0.30;21.0;;HWSD
sand fraction;% weight;0.00;0.30;43.0;;HWSD
silt fraction;% weight;0.00;0.30;36.0;;HWSD
organic carbon;% weight;0.00;0.30;0.91;;HWSD
saturation;m^3/m^3;0.00;0.30;0.46;;HWSD
climate classification;;;;Dfa;;koeppen_geiger_2007
land cover classification;;;;130;;CCI_landcover_2000
land cover classification;;;;130;;CCI_landcover_2005
land cover classification;;;;130;;CCI_landcover_2010
"""


def uscrn_line(day: date, moisture: float, lat: float = 36.12, lon: float = -97.09) -> str:
    """Format one line of daily01, with usual values in the other columns."""
    return (
        f"53926 {day:%Y%m%d}  2.622 {lon:7.2f} {lat:7.2f}     2.1     0.2     1.2     0.8    23.0     3.51 C "
        f"    1.0    -0.3     0.3    93.1    70.1    86.2 {moisture:7.3f}   0.440   0.458 -99.000   0.429 "
        "    3.9     4.2     5.4     8.3     9.9\n"
    )


def uscrn(folder: Path, name: str, moisture: dict[date, float], **place: float) -> Path:
    """Write a file of daily01 with the days' soil moisture at 5 cm."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"CRND0103-2021-{name}.txt"
    path.write_text("".join(uscrn_line(day, value, **place) for day, value in moisture.items()))
    return path


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """One sensor of a station; `record` gives value and quality flag of an hour in UTC, or None for no line."""

    network: str
    station: str
    lat: float
    lon: float
    elevation: float
    depth: tuple[float, float]
    instrument: str
    record: Callable[[datetime], tuple[float, str] | None]
    variable: str = "sm"

    def file(self, hours: Sequence[datetime], kind: Format) -> tuple[str, str]:
        """Return path in the archive and text."""
        top, bottom = self.depth
        place = f"{self.lat:10.5f} {self.lon:11.5f} {self.elevation:8.2f}"
        first, last = hours[0], hours[-1]
        name = (
            f"{self.network}_{self.network}_{self.station}_{self.variable}_{top:.6f}_{bottom:.6f}_{self.instrument}"
            f"_{first:%Y%m%d}_{last:%Y%m%d}.stm"
        )
        lines = []
        for hour in hours:
            entry = self.record(hour)
            if entry is None:
                continue
            value, flag = entry
            if kind == "header_values":
                lines.append(f"{hour:%Y/%m/%d %H:%M} {value:10.4f} {flag} M")
            else:
                who = f"{self.network} {self.network} {self.station}"
                stamp = f"{hour:%Y/%m/%d %H:%M}"
                lines.append(f"{stamp} {stamp} {who} {place} {top:5.2f} {bottom:5.2f} {value:9.4f} {flag} M")
        if kind == "header_values":
            head = f"{self.network} {self.network} {self.station} {place} {top:.4f} {bottom:.4f} {self.instrument}"
            lines.insert(0, head)
        return f"{self.network}/{self.station}/{name}", "\n".join(lines) + "\n"


def hours(first: datetime, days: int) -> list[datetime]:
    """List every hour of some days, UTC."""
    return [first + timedelta(hours=k) for k in range(24 * days)]


def write_archive(
    path: Path, sensors: Sequence[Sensor], times: Sequence[datetime], kind: Format = "header_values"
) -> Path:
    """Write an archive: a zip where the name ends in .zip, otherwise an unpacked folder."""
    files = dict(sensor.file(times, kind) for sensor in sensors)
    for sensor in sensors:
        static = f"{sensor.network}_{sensor.network}_{sensor.station}_static_variables.csv"
        files[f"{sensor.network}/{sensor.station}/{static}"] = _STATIC
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(name, text)
            archive.writestr("ISMN_qualityflags_description.txt", "G good\n")
        return path
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path
