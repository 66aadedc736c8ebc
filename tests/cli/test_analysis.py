"""Commands for finished maps: they load no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import shapely

from command_line import geojson
from map_files import DAY as MAP_DAY
from map_files import grid_at, write_map
from mmnet_maps.grid.area import transform_geometry
from mmnet_maps.grid.polygons import LONLAT


def test_finished_maps_are_read_without_torch(tmp_path: Path) -> None:
    grid = grid_at(0, 0, 40, 40)
    write_map(tmp_path / "maps", "h06v03", MAP_DAY, grid)
    outline = transform_geometry(shapely.box(*grid.boundingbox.bbox), "EPSG:5070", LONLAT)
    geojson(tmp_path / "zones.geojson", outline)
    places = {"points": f"{outline.centroid.x},{outline.centroid.y}", "zones": "zones.geojson"}
    lines = [
        [
            "mmnet",
            command,
            f"--{command}",
            place,
            "--maps",
            "maps",
            "--out",
            f"{command}.csv",
            "--picture",
            f"{command}.png",
        ]
        for command, place in places.items()
    ]
    code = (
        f"import sys\n"
        "from mmnet_maps import cli\n"
        f"for sys.argv in {lines}:\n"
        "    try: cli.main()\n"
        "    except SystemExit as end: assert not end.code\n"
        "    assert 'torch' not in sys.modules, sys.argv[1]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in places:
        assert len(Path(f"{command}.csv").read_text().splitlines()) == 2
        assert f"{command}.png" in done.stdout
