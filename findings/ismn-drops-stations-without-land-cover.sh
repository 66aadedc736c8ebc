#!/bin/sh
# ismn 1.5.4: a station whose static_variables.csv has no line of land cover is left out of the archive, with its data.
#
# The file beside the measurements describes soil, climate and land cover of the station. Archives exist in which lines are absent. The collection
# of metadata fails for the station, writes an ERROR to a log file in the archive, and goes on; the interface then lists the other stations. Nothing is
# raised or printed, so a user counts fewer stations than files and may not notice.
# Seen with numpy 2.4.6, pandas 3.1.1, Python 3.11.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check ismn==1.5.4 numpy==2.4.6 pandas==3.1.1
cd "$work"
"$work/venv/bin/python" - <<'PY'
from datetime import datetime, timedelta
from pathlib import Path

from ismn.interface import ISMN_Interface

STATIC = """quantity_name;unit;depth_from[m];depth_to[m];value;description;quantity_source_name
clay fraction;% weight;0.00;0.30;21.0;;HWSD
sand fraction;% weight;0.00;0.30;43.0;;HWSD
silt fraction;% weight;0.00;0.30;36.0;;HWSD
organic carbon;% weight;0.00;0.30;0.91;;HWSD
saturation;m^3/m^3;0.00;0.30;0.46;;HWSD
climate classification;;;;Bsk;;koeppen_geiger_2007
land cover classification;;;;130;;CCI_landcover_2000
"""
whole = STATIC.splitlines(keepends=True)
for station, static in {"Whole": whole, "NoLandCover": whole[:-1]}.items():
    folder = Path("archive/NET", station)
    folder.mkdir(parents=True)
    hours = [datetime(2021, 8, 1) + timedelta(hours=k) for k in range(48)]
    rows = [f"NET NET {station} 47.11 -119.58 390.0 0.05 0.05 Probe"] + [f"{hour:%Y/%m/%d %H:%M} 0.2000 G M" for hour in hours]
    (folder / f"NET_NET_{station}_sm_0.050000_0.050000_Probe_20210801_20210803.stm").write_text("\n".join(rows) + "\n")
    (folder / f"NET_NET_{station}_static_variables.csv").write_text("".join(static))
archive = ISMN_Interface("archive", parallel=False)
stations = sorted(station for network in archive.collection.networks.values() for station in network.stations)
print(f"stations in the archive: NoLandCover, Whole; stations that ismn lists: {', '.join(stations)}")
assert stations == ["Whole"], "changed: a station without land cover is kept"
PY
