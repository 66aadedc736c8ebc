"""Files that were received by a former run and have been damaged since: they are received again, the others are not."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from odc.geo.geobox import GeoBox

from fake_open import FakeOpen, Reply, failing
from mmnet_maps.errors import InputError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.lattice import cover
from mmnet_maps.grid.tiles import target_grid
from mmnet_maps.sources.open.source import OpenSource
from mmnet_maps.variables import FINE_GROUPS
from open_routes import Earthdata, Thredds, Wcs
from open_setup import loopback_source

DAYS = [date(2021, 7, 30), date(2021, 7, 31)]
PATHS = {"smap": "/opendap", "weather": "/ncss/.*nc$", "landcover": "/wcs"}


@pytest.fixture
def services(server: FakeOpen, monkeypatch: pytest.MonkeyPatch) -> FakeOpen:
    server.serve(Thredds(), Earthdata(), Wcs())
    monkeypatch.setenv("EARTHDATA_TOKEN", Earthdata().tokens[-1])
    return server


def read(source: OpenSource, product: str) -> dict[str, np.ndarray]:
    """Read a product around a place."""
    window = target_grid(read_aoi("-119.68,47.05,-119.66,47.06"))
    if product not in FINE_GROUPS:
        lattice: GeoBox = source.lattice(product)
        window = lattice[cover(window, lattice, pad=2)]
    return source.read(product, window, DAYS)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("left", [0, 0.5])
@pytest.mark.parametrize("product", PATHS)
def test_a_damaged_file_is_received_again(services: FakeOpen, tmp_path: Path, product: str, left: float) -> None:
    first = read(loopback_source(services, tmp_path, [product]), product)
    kept = sorted(path for path in (tmp_path / "cache" / "open").rglob("*.*") if path.is_file())
    assert kept
    whole = kept[0].read_bytes()
    kept[0].write_bytes(whole[: int(left * len(whole))])
    services.log.clear()
    again = read(loopback_source(services, tmp_path, [product]), product)
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
    assert len(services.requests(PATHS[product])) == 1
    assert kept[0].read_bytes() == whole


def test_files_are_kept_where_the_service_is_down(services: FakeOpen, tmp_path: Path) -> None:
    read(loopback_source(services, tmp_path, ["smap"]), "smap")
    kept = sorted((tmp_path / "cache" / "open").rglob("*.tif"))
    kept[0].unlink()
    services.faults.append(failing("/opendap", Reply(status=404)))
    with pytest.raises(InputError, match=r"smap \(earthdata\): .* is refused \(404"):
        read(loopback_source(services, tmp_path, ["smap"], retries=0), "smap")
    assert all(path.exists() for path in kept[1:])
