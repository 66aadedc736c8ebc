"""The example server: tiles and series of finished maps on loopback, in a choice of units."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from io import BytesIO
from pathlib import Path

import matplotlib.image
import pytest
import rasterio
import rasterio.features
import rasterio.warp
import requests

from day_files import grid, packed, produce
from mmnet_maps.product.climatology_build import add_maps
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.reader import open_maps

morecantile = pytest.importorskip("morecantile", reason="the example needs pip install '.[serve]'")
SCRIPT = Path(__file__).parents[1] / "examples" / "serve.py"
SHAPE, PLACE = (300, 400), (200, 150)
GRID = grid(*SHAPE)
ROW, COL = PLACE
(LON,), (LAT,) = rasterio.warp.transform("EPSG:5070", "EPSG:4326", *([n] for n in GRID.affine @ (COL + 0.5, ROW + 0.5)))
RING = [[LON - 0.02, LAT - 0.01], [LON + 0.02, LAT - 0.01], [LON, LAT + 0.01], [LON - 0.02, LAT - 0.01]]
FIELD = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [RING]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("served")
    for day in (7, 8):
        about = {"mmnet:model": "net", "mmnet:synthetic": False}
        produce(out, packed(*SHAPE, seed=day), None, day=date(2021, 8, day), properties=about)
    return out


@contextmanager
def serving(*words: str | Path) -> Iterator[str]:
    """Run the example as a user does, until the block ends; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = subprocess.Popen([sys.executable, SCRIPT, *words, "--port", str(port)], stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert child.poll() is None, "it ended"
            try:
                requests.get(f"{address}/openapi.json", timeout=600)
                break
            except requests.ConnectionError:
                time.sleep(0.2)
        yield address
    finally:
        child.terminate()
        child.wait()


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    with serving(folder) as address:
        yield address


@pytest.mark.parametrize(("units", "factor"), [("m3m3", 1), ("percent", 100), ("mm", 50)])
def test_series_in_a_choice_of_units(folder: Path, server: str, units: str, factor: float) -> None:
    found = requests.get(f"{server}/point", params={"lon": LON, "lat": LAT, "units": units}, timeout=600).json()
    values = {
        f"2021-08-0{day}": LAYERS["soil_moisture"].unpack(packed(*SHAPE, seed=day)["soil_moisture"]) for day in (7, 8)
    }
    assert found == pytest.approx({day: float(of_day[PLACE]) * factor for day, of_day in values.items()}, rel=1e-6)
    means = requests.post(f"{server}/polygon", params={"units": units}, json=FIELD, timeout=600).json()
    inside = rasterio.features.geometry_mask(
        rasterio.warp.transform_geom("EPSG:4326", "EPSG:5070", [FIELD["geometry"]]), SHAPE, GRID.affine, invert=True
    )
    for day, of_day in values.items():
        assert means[day]["valid_share"] == pytest.approx(1)
        assert means[day]["mean"] == pytest.approx(of_day[inside].mean() * factor, rel=0.02)


def test_a_place_outside_has_no_value(server: str) -> None:
    found = requests.get(f"{server}/point", params={"lon": -100, "lat": 40}, timeout=600).json()
    assert found == {"2021-08-07": None, "2021-08-08": None}


def test_tiles_are_coloured_pictures(server: str) -> None:
    query = {"date": "2021-08-08", "unscale": "true", "rescale": "0,0.5", "colormap_name": "ylgnbu"}
    at = morecantile.tms.get("WebMercatorQuad").tile(LON, LAT, 9)
    address = f"{server}/map/tiles/WebMercatorQuad/{at.z}/{at.x}/{at.y}.png"
    found = requests.get(address, params=query, timeout=600)
    assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
    picture = matplotlib.image.imread(BytesIO(found.content), format="png")
    assert picture.shape == (256, 256, 4)
    assert 0 < (picture[..., 3] > 0).sum() < 256 * 256  # the area, and around it nothing
    info = requests.get(f"{server}/map/info", params={"date": "2021-08-08"}, timeout=600).json()
    assert info["scales"] == [0.0001]


@pytest.mark.parametrize(
    ("query", "status"),
    [({"date": "2021-08-01"}, 404), ({"date": "2021-08-08", "layer": "../../x"}, 422), ({"date": "../etc"}, 422)],
)
def test_nothing_else_is_served(server: str, query: dict[str, str], status: int) -> None:
    assert requests.get(f"{server}/map/info", params=query, timeout=600).status_code == status


def test_errors_are_for_people(server: str) -> None:
    found = requests.get(f"{server}/point", params={"lon": 0, "lat": 0, "units": "percentile"}, timeout=600)
    assert (found.status_code, found.json()["detail"]) == (
        400,
        "these maps have no layer soil_moisture_percentile, only soil_moisture, quality, smap; start with "
        "--climatology",
    )


def test_percentiles_among_other_years(tmp_path: Path) -> None:
    """Series of maps that have no percentiles are compared with a climatology; by hand: the ranks of the values."""
    days = [date(year, 8, day) for year in range(2016, 2022) for day in (7, 8)]
    values = {day: packed(*SHAPE, seed=day.toordinal()) for day in days}
    for day, layers in values.items():
        about = {"mmnet:model": "net", "mmnet:synthetic": False}
        produce(tmp_path / "maps", layers, None, day=day, properties=about, fingerprint=f"{day:%Y%m%d}" * 8)
    add_maps(open_maps(tmp_path / "maps"), tmp_path / "clim.zarr", quiet=True)
    with serving(tmp_path / "maps", "--climatology", tmp_path / "clim.zarr") as server:
        query = {"lon": LON, "lat": LAT, "units": "percentile"}
        found = requests.get(f"{server}/point", params=query, timeout=600).json()
        means = requests.post(f"{server}/polygon", params={"units": "percentile"}, json=FIELD, timeout=600).json()
    here = {day: int(layers["soil_moisture"][PLACE]) for day, layers in values.items()}
    for day, mine in here.items():
        others = [value for one, value in here.items() if one.year != day.year]
        below, equal = sum(value < mine for value in others), others.count(mine)
        assert found[str(day)] == pytest.approx(100 * (below + 1 + equal / 2) / (len(others) + 2), rel=1e-6)
        assert means[str(day)]["mean"] == pytest.approx(50, abs=5)
    assert len(set(found.values())) > 1
