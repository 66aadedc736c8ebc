from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.places import read_places, read_positions


def test_places(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("station,lat,lon,more\n7,47.0,-119.0,x\n")
    (tmp_path / "no.csv").write_text("who\n7\n")
    found = read_places([str(tmp_path / "s.csv"), "-119.25,47.5"])
    assert found.to_dict("list") == {"station": ["7", "-119.25,47.5"], "lat": [47.0, 47.5], "lon": [-119.0, -119.25]}
    near = read_places(["-119.60001,47.1", "-119.60002,47.1", "-119.0,-0.0"])
    assert near["station"].tolist() == ["-119.60001,47.1", "-119.60002,47.1", "-119,0"]
    for places, kind, message in (
        (["47.5,-119.25"], RequestError, "expected LON,LAT"),
        (["none.csv"], RequestError, "neither LON,LAT in degrees nor a CSV"),
        (["-119.1,47.1 " * 40], RequestError, "neither LON,LAT .*; give each place its own --points"),
        (["~nouser/x" + "y" * 300], RequestError, "neither LON,LAT"),
        (["-119,47", "-119,47"], RequestError, "given twice"),
        ([str(tmp_path / "no.csv")], InputError, "has no column station, lat, lon"),
    ):
        with pytest.raises(kind, match=message):
            read_places(places)


POSITIONS = {"a, b": (47.125, -119.25), "c": (46.5, -120.0), "7": (47.0, -119.0)}


@given(
    st.sampled_from([",", ";", "\t", ", ", " ; "]),
    st.booleans(),
    st.sampled_from(["Lat", "LAT", " latitude", "Latitude (deg)", "y", "lat."]),
    st.sampled_from(["lon.", "LNG", "Long", "longitude", "X", "Lon [°]"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
)
@settings(max_examples=20, deadline=None)
def test_tables_as_spreadsheets_write_them(
    separator: str, comma: bool, lat: str, lon: str, encoding: str, end: str
) -> None:
    def number(value: float) -> str:
        text = f"{value:g}".replace(".", "," if comma else ".")
        return f'"{text}"' if "," in text and "," in separator else text

    rows = [["Station" if comma else "name", lat, lon, "notes"]]
    rows += [[f'"{name}"', number(y), number(x), "Café"] for name, (y, x) in POSITIONS.items()]
    text = end.join([*(separator.join(row) for row in rows), separator.strip(" ") * 3, ""])
    with TemporaryDirectory() as folder:
        path = Path(folder, "s.csv")
        path.write_bytes(text.encode(encoding))
        found = read_positions(path)
    assert {name: (row["lat"], row["lon"]) for name, row in found.iterrows()} == POSITIONS


def test_tables_that_cannot_be_understood(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    for content, message in (
        (b"station,lat,lon\na,47,125,-119,25\n", "more values than columns; separate columns by semicolons"),
        (b"station,lat,lon\na,47,-119\nb,47,-119,5,6\n", "cannot be read .*Expected 3 fields in line 3, saw 5"),
        (b"station,lat,Latitude,lat,lon\n", "has no row|2 columns for lat"),
        (b"station,latitude,Latitude,lon\na,47,47,-119\n", "has 2 columns for lat; keep one"),
        (b"station,Station,lat,lon\na,b,47,-119\n", "has 2 columns for station; keep one"),
        (b"station;lat;lon\na;1.047,5;-119\n", "station a has no position in degrees"),
        (b"station,x,y\na,500000,5200000\n", "station a has no position in degrees"),
        (b"station,lat,lon\nCaf\xe9,47,-119\n", "is not text in UTF-8; save it again"),
        (b"", "cannot be read"),
        (b"\n\n", "cannot be read"),
        (b"station lat lon\na 47 -119\n", "has no column station, lat, lon but station lat lon"),
        (
            b",".join(b"c%d" % k for k in range(99)),
            "has no column station, lat, lon but c0, c1, c2, c3, c4 … and 94 more",
        ),
        (b"station,lat,lon\n", "has no row below its header"),
        (b"station,lat,lon\na,47,-119\n ,47,-119\n", "row 2 has no station"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_positions(path)
        assert len(str(caught.value)) <= 300
    path.write_text("x,y,station,lat,lon\n500000,5200000,a,47,-119\n")  # positions by their own names first
    assert read_positions(path).loc["a", ["lat", "lon"]].tolist() == [47, -119]
    with pytest.raises(InputError, match="is not a file"):
        read_positions(tmp_path)
