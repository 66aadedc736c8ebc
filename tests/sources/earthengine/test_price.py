"""The estimated price of requests, in EECU-hours, and the tiers it is compared with."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from earthengine_setup import config
from fake_earthengine import FakeEarthEngine
from mmnet_maps.mapping.fill import fill_stack, format_estimates
from mmnet_maps.sources.base import Cost
from mmnet_maps.sources.earthengine.config import load_config
from mmnet_maps.sources.earthengine.price import DOUBT, SECONDS, SMOOTHED, TIERS, eecu_hours, price_rows
from mmnet_maps.sources.earthengine.source import EarthEngineSource
from mmnet_maps.stack.fetch import Estimate

pytest.importorskip("ee")

DAY = date(2021, 7, 12)
SQUARE = GeoBox((512, 512), Affine(100, 0, -1_760_000, 0, -100, 2_900_000), "EPSG:5070")


def test_a_price_grows_with_native_pixels_and_the_filter() -> None:
    known = {selection.key: selection for selection in load_config().selections}
    of = {key: eecu_hours(known[key], SQUARE, 3_600_000_000) / SECONDS for key in known}
    assert of["hls"] == pytest.approx((100 / 30) ** 2)
    assert of["sentinel1"] == pytest.approx(100 * SMOOTHED)
    assert of["elevation"] == pytest.approx(100)
    assert of["weather"] == 1  # on its own grid


def test_the_price_of_a_read_is_that_of_its_requests(tmp_path: Path, server: FakeEarthEngine) -> None:
    source = EarthEngineSource(config(tmp_path, server, side=128))
    days = source.days("optical", SQUARE, date(2021, 7, 1), DAY)
    cost = source.cost("optical", SQUARE, days)
    assert cost.requests == 16 * len(days)
    (hls,) = (one for one in load_config().selections if one.key == "hls")
    assert cost.eecu_hours == pytest.approx(eecu_hours(hls, SQUARE, 512 * 512 * 6 * len(days)))


def test_the_tiers_are_compared_with_a_price() -> None:
    def share(hours: float) -> dict[str, str]:
        return {row[0]: row[2] for row in price_rows(hours)[1:]}

    assert list(TIERS) == list(share(1)) == ["Community", "Contributor", "Partner"]
    assert share(2000) == {"Community": "5 to 33 months", "Contributor": "80 to 500 %", "Partner": "0.8 to 5 %"}
    assert share(35)["Community"] == "9 to 58 %"
    assert share(0.001) == dict.fromkeys(TIERS, "less than 0.1 %")


def test_a_dry_run_shows_price_and_tiers(tmp_path: Path, server: FakeEarthEngine) -> None:
    area, store = "-119.68,47.05,-119.64,47.08", tmp_path / "s.zarr"
    text = str(fill_stack(area, DAY, source=config(tmp_path, server), stack=store, dry_run=True))
    (price,) = (line for line in text.splitlines() if "EECU-hours (" in line)
    assert price.startswith("perhaps 0.0")
    assert "a guess, not measured" in price
    assert text.splitlines()[-3].split() == ["Community", "150", *price_rows(0.12)[1][2].split()]
    assert not server.count()


def test_the_price_of_another_service_is_not_that_of_earth_engine() -> None:
    def described(cost: Cost | None) -> str:
        return format_estimates([
            Estimate(group="smap", products=("SMAP",), reads=1, days=1, first=DAY, last=DAY, bytes=9, cost=cost)
        ])  # fmt: skip

    open_service = described(Cost(requests=3, bytes=2000, values=0))
    assert "; 3 requests, 2 kB received" in open_service
    assert "E" not in open_service.replace("SMAP", "")
    assert "request" not in described(None).splitlines()[-1]
    assert "; 1 request to Earth Engine, 5 bytes received, 7 values computed there" in described(
        Cost(requests=1, bytes=5, values=7, eecu_hours=1)
    )
    assert DOUBT > 1
