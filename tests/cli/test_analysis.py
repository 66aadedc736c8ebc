"""Commands for finished maps: they load no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import shapely

from command_line import geojson
from map_files import DAY as MAP_DAY
from map_files import grid_at, write_map
from mmnet_maps.grid.area import transform_geometry
from mmnet_maps.grid.polygons import LONLAT


@pytest.mark.parametrize("command", ["points", "zones"])
def test_finished_maps_are_read_without_torch(tmp_path: Path, command: str) -> None:
    grid = grid_at(0, 0, 40, 40)
    write_map(tmp_path / "maps", "h06v03", MAP_DAY, grid)
    outline = transform_geometry(shapely.box(*grid.boundingbox.bbox), "EPSG:5070", LONLAT)
    geojson(tmp_path / "zones.geojson", outline)
    places = {"points": f"{outline.centroid.x},{outline.centroid.y}", "zones": "zones.geojson"}
    words = ["mmnet", command, f"--{command}", places[command], "--maps", "maps", "--out", "found.csv", "-q"]
    code = (
        f"import sys; sys.argv = {words}\n"
        "from mmnet_maps import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(Path("found.csv").read_text().splitlines()) == 2
