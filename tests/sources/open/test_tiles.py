"""3DEP and POLARIS: tiles of one degree that GDAL reads by ranges; means, seams, and faults."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pyproj
import pytest
import yaml
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from analytic import read_static
from fake_open import FakeOpen, Reply, failing
from mmnet_maps.errors import InputError
from mmnet_maps.grid.tiles import conus_grid
from mmnet_maps.sources.base import SourceDownError
from mmnet_maps.sources.files import locations
from mmnet_maps.sources.open.source import OpenSource
from open_routes import Tiles, tile_values
from open_setup import loopback_config, loopback_source

DAY = date(2021, 8, 8)
SOIL = {"clay": "clay", "sand": "sand", "bulk_density": "bd"}


@pytest.fixture(autouse=True)
def _fast_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let GDAL give up soon."""
    monkeypatch.setitem(locations.GDAL_REMOTE_OPTIONS, "GDAL_HTTP_RETRY_DELAY", 0.05)


def grid(size: int = 30, lon: float = -119.0, lat: float = 47.0) -> GeoBox:
    """A window of the target grid around a place: by default the corner of four tiles."""
    x, y = pyproj.Transformer.from_crs("OGC:CRS84", "EPSG:5070", always_xy=True).transform(lon, lat)
    whole = conus_grid()
    row, col = round((whole.affine.f - y) / 100), round((x - whole.affine.c) / 100)
    half = size // 2
    return whole[row - half : row + half, col - half : col + half]


def places(geobox: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitude and latitude of the pixels' centres."""
    x = geobox.affine.c + (np.arange(geobox.shape.x) + 0.5) * 100
    y = geobox.affine.f - (np.arange(geobox.shape.y) + 0.5) * 100
    return pyproj.Transformer.from_crs("EPSG:5070", "OGC:CRS84", always_xy=True).transform(*np.meshgrid(x, y))


def check(found: NDArray[np.float32], kind: str, geobox: GeoBox, tolerance: float) -> None:
    """Compare with the formula at the centre, which is the mean of a pixel to second order; strips are missing."""
    lon, lat = places(geobox)
    away = lon * 100 % 7  # missing below 0.5; a pixel is 0.13 wide and its rows are oblique
    inside, outside = (away > 0.25) & (away < 0.3), (away > 0.8) & (away < 6.7)
    assert np.isnan(found[inside]).all()
    np.testing.assert_allclose(found[outside], tile_values(kind, lon, lat)[outside], rtol=0, atol=tolerance)
    assert outside.mean() > 0.5


def test_elevation_and_terrain_are_seamless_at_the_corner_of_four_tiles(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Tiles())
    source = loopback_source(server, tmp_path, ["elevation"])
    geobox = grid()
    found = source.read("terrain", geobox, [DAY])
    assert set(found) == {"elevation", "slope", "aspect"}
    check(found["elevation"][0], "elevation", geobox, 0.05)
    assert len(server.requests(method="HEAD", pattern="3dep")) <= 8  # one a tile, and GDAL's own
    assert all("range" in one.headers for one in server.requests(method="GET"))
    assert np.nanmax(found["slope"]) < 5
    assert found["elevation"].min() != -999999


def test_soil_of_the_three_properties(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Tiles())
    source = loopback_source(server, tmp_path, ["soil"])
    geobox = grid(20)
    found = source.read("soil", geobox, [DAY])
    assert set(found) == set(SOIL)
    for name, kind in SOIL.items():
        check(found[name][0], kind, geobox, {"clay": 0.03, "sand": 0.03, "bulk_density": 2e-4}[name])


def test_values_do_not_depend_on_the_window(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Tiles())
    source = loopback_source(server, tmp_path, ["elevation"])
    geobox = grid(40)
    whole = source.read("terrain", geobox, [DAY])["elevation"][0]
    part = source.read("terrain", geobox[7:20, 11:30], [DAY])["elevation"][0]
    np.testing.assert_array_equal(part, whole[7:20, 11:30])


def test_a_tile_that_does_not_exist_is_sea(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Tiles(corners={(47, -120), (46, -120)}))
    source = loopback_source(server, tmp_path, ["soil"])
    geobox = grid(20)
    lon, _ = places(geobox)
    found = source.read("soil", geobox, [DAY])["clay"][0]
    assert np.isnan(found[lon > -118.998]).all()
    assert np.isfinite(found[lon < -119.002]).any()


def test_a_bucket_that_became_requester_pays_is_named(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Tiles(refused=True))
    source = loopback_source(server, tmp_path, ["elevation"])
    with pytest.raises(InputError, match=r"elevation \(usgs-3dep\): .*USGS_13_n4\dw1\d\d\.tif is refused \(403"):
        source.read("terrain", grid(), [DAY])


def test_the_message_names_what_to_do_and_what_is_not_stored(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Tiles())
    server.faults.append(failing("polaris", Reply(status=503)))
    config = loopback_config(server, ["elevation", "soil", "sand"], retries=0)
    soil = config["products"]["soil"]
    for key, names in (("sand", ["sand"]), ("soil", ["clay", "bulk_density"])):
        config["products"][key] = {**soil, "variables": {name: SOIL[name] for name in names}}
    (tmp_path / "open.yaml").write_text(yaml.safe_dump(config))
    source = OpenSource(tmp_path / "open.yaml")
    assert source.read("terrain", grid(10, -119.5, 47.5), [DAY])
    with pytest.raises(SourceDownError) as caught:
        source.read("soil", grid(10, -119.5, 47.5), [DAY])
    problem, todo, together = str(caught.value).split("; ")
    assert problem.startswith("soil (duke-polaris): no answer from http://")
    assert todo == "run the same command again later, or give files of soil (a YAML with 'rest: open')"
    assert together == "stored only together with sand"


def test_a_busy_bucket_is_asked_again(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Tiles())
    server.faults.append(failing("3dep", Reply(status=503), times=2))
    source = loopback_source(server, tmp_path, ["elevation"])
    geobox = grid(10, -119.5, 47.5)
    found = source.read("terrain", geobox, [DAY])["elevation"][0]
    assert np.isfinite(found).all()
    check(found, "elevation", geobox, 0.05)


def test_the_estimate_is_what_is_received(server: FakeOpen, tmp_path: Path) -> None:
    server.serve(Tiles())
    source = loopback_source(server, tmp_path, ["soil"])
    geobox = conus_grid()[3840:4096, 6912:7168]
    cost = source.cost("soil", geobox, [DAY])
    server.log.clear()
    source.read("soil", geobox, [DAY])
    received = sum(size for _, _, size in server.log)
    assert abs(cost.bytes / received - 1) < 0.1
    assert cost.requests == len(server.log) + 2 * 12 + 4  # headers, and which tiles exist: known from the estimate


@pytest.mark.live
def test_the_tiles_themselves() -> None:
    """A hundred pixels of 3DEP and POLARIS in Grant County."""
    source = OpenSource()
    window = grid(10, -119.5, 47.1)
    found = read_static(source, window, [DAY])
    print({name: (float(np.nanmin(values)), float(np.nanmax(values))) for name, values in found.items()})
    assert all(np.isfinite(values).all() for values in found.values())
