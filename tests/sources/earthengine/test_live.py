"""Checks on Earth Engine itself (``MMNET_LIVE=1 pytest -m live``), one printed line each; and on the loopback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("ee")

from earthengine_live import CHECKS, other_product
from earthengine_setup import config, using
from fake_earthengine import FakeEarthEngine
from mmnet_maps.sources.earthengine.source import EarthEngineSource

OTHERS = {"landcover_annual": ("landcover", "landcover"), "lst_good": ("lst", "lst"), "lst_viirs": ("lst", "lst")}


@pytest.mark.live
@pytest.mark.parametrize("name", CHECKS)
def test_on_earth_engine(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = EarthEngineSource()
    source.lattice("smap")  # sign in
    line = CHECKS[name](source)
    assert line
    with capsys.disabled():
        print(f"\n{name}: {line}")


@pytest.mark.live
@pytest.mark.parametrize("product", OTHERS)
def test_other_products_on_earth_engine(tmp_path: Path, product: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = other_product(EarthEngineSource(using(tmp_path, None, product)), *OTHERS[product])
    assert line
    with capsys.disabled():
        print(f"\n{product}: {line}")


EXPECTED = {
    "SR-ORG:6974 in computePixels": "of the cells have a temperature",
    "grid of SMAP": "EPSG:4326, 0.0988",
    "fill of HLS": "masked, lowest other value 0",
    "fill of 3DEP": "100% masked",
    "mosaic over part masks": "is 0.5 .blended",
    "masks of reduceResolution": "masks of a mean over holes are 0",
    "convolve before reduce": r"differs by 0\.0\d+ dB at most",
    "a long series": "150 days took 1 request",
    "a CRS as WKT 1": "accepted, elevation",
    "price of HLS": "2.5 EECU-seconds, guessed",
    "price of Sentinel-1": "2.5 EECU-seconds, guessed",
}


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "price of Sentinel-1"])
def test_on_the_loopback(tmp_path: Path, server: FakeEarthEngine, name: str) -> None:
    source = EarthEngineSource(config(tmp_path, server))
    source.lattice("smap")
    line = CHECKS[name](source)
    assert "\n" not in line
    assert re.search(EXPECTED[name], line), line


@pytest.mark.parametrize("product", OTHERS)
def test_other_products_on_the_loopback(tmp_path: Path, server: FakeEarthEngine, product: str) -> None:
    line = other_product(EarthEngineSource(using(tmp_path, server, product)), *OTHERS[product])
    assert "known" in line
    assert "none" not in line
