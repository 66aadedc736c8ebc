from __future__ import annotations

from pathlib import Path

import pytest

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.places import read_places


def test_places(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("station,lat,lon,more\n7,47.0,-119.0,x\n")
    (tmp_path / "no.csv").write_text("name\n7\n")
    found = read_places([str(tmp_path / "s.csv"), "-119.25,47.5"])
    assert found.to_dict("list") == {"station": ["7", "-119.25,47.5"], "lat": [47.0, 47.5], "lon": [-119.0, -119.25]}
    near = read_places(["-119.60001,47.1", "-119.60002,47.1", "-119.0,-0.0"])
    assert near["station"].tolist() == ["-119.60001,47.1", "-119.60002,47.1", "-119,0"]
    for given, kind, message in (
        (["47.5,-119.25"], RequestError, "expected LON,LAT"),
        (["none.csv"], RequestError, "neither LON,LAT in degrees nor a CSV"),
        (["-119.1,47.1 " * 40], RequestError, "neither LON,LAT .*; give each place its own --points"),
        (["~nouser/x" + "y" * 300], RequestError, "neither LON,LAT"),
        (["-119,47", "-119,47"], RequestError, "given twice"),
        ([str(tmp_path / "no.csv")], InputError, "has no column station, lat, lon"),
    ):
        with pytest.raises(kind, match=message):
            read_places(given)
