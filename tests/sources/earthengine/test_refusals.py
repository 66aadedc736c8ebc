"""What Earth Engine answers where it refuses, in its own words, and what becomes of it."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from odc.geo.geobox import GeoBox

from earthengine_setup import SOLE, config
from fake_earthengine import FakeEarthEngine, Fault
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.lattice import cover
from mmnet_maps.sources.earthengine.expressions import _side_by_side
from mmnet_maps.sources.earthengine.source import EarthEngineSource

ee = pytest.importorskip("ee")

DAY = date(2021, 7, 12)

TOO_MUCH = [
    "User memory limit exceeded.",
    "Output of image computation is too large (6 bands for 851968 pixels = 126.8 MiB > 80.0 MiB).\n"
    "If this is a reduction, try specifying a larger 'tileScale' parameter.",
    "Execution failed; out of memory.",
    "Earth Engine memory capacity exceeded.",
    "Computed value is too large.",
    "Request payload size exceeds the limit: 10485760 bytes.",
    "Total request size (61341696 bytes) must be less than or equal to 50331648 bytes.",
    "Computation timed out.",
]
CAP = (
    "Your usage exceeded the custom quota for 'earthengine.googleapis.com/daily_eecu_usage_time', which is adjustable "
    "by your administrator in the Google Cloud console: https://console.cloud.google.com/quotas/?project=_."
)


def weather(source: EarthEngineSource) -> GeoBox:
    lattice = source.lattice("weather")
    return lattice[cover(SOLE, lattice, pad=2)]


@pytest.mark.parametrize("message", TOO_MUCH)
def test_a_request_that_is_too_much_is_split(tmp_path: Path, server: FakeEarthEngine, message: str) -> None:
    source = EarthEngineSource(config(tmp_path, server))
    box, days = weather(source), [date(2021, 6, 1) + timedelta(days=k) for k in range(8)]
    expected = source.read("weather", box, days)
    server.reset()
    large = "20210601"  # in the request of all days and of the first half
    server.faults.append(
        Fault(kind="status", code=400, message=message, times=None, when=lambda b: {large, "20210604"} <= _days(b))
    )
    found = source.read("weather", box, days)
    assert [len(_days(request.body)) for request in server.pixel_requests()] == [8, 4, 2, 2, 4]
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def _days(body: dict) -> set[str]:
    """Return the days in the names of a request's bands."""
    text = str(body)
    return {day for day in (f"202106{k:02d}" for k in range(1, 31)) if f"pr_{day}" in text}


def test_a_crowded_server_is_asked_twice_before_the_request_is_split(tmp_path: Path, server: FakeEarthEngine) -> None:
    source = EarthEngineSource(config(tmp_path, server))
    box, days = weather(source), [date(2021, 6, 1), date(2021, 6, 2)]
    expected = source.read("weather", box, days)
    server.reset()
    server.faults.append(Fault(kind="status", code=503, message="Earth Engine memory capacity exceeded.", times=2))
    found = source.read("weather", box, days)
    assert [len(_days(request.body)) for request in server.pixel_requests()] == [2, 2, 1, 1]
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("code", [429, 403, 400])
def test_a_daily_limit_ends_the_fetch_at_once(tmp_path: Path, server: FakeEarthEngine, code: int) -> None:
    source = EarthEngineSource(config(tmp_path, server))
    box = weather(source)
    server.faults.append(Fault(kind="status", code=code, message=CAP, times=None))
    with pytest.raises(InputError, match=r"own daily limit .*fetched data are kept; run the same command again tomorr"):
        source.read("weather", box, [DAY])
    assert server.count() == 1


def test_a_limit_a_minute_is_waited_for(tmp_path: Path, server: FakeEarthEngine) -> None:
    source = EarthEngineSource(config(tmp_path, server))
    box = weather(source)
    message = (
        "Quota exceeded for quota metric 'Number of read requests' and limit 'Number of read requests per minute per "
        "user' of service 'earthengine.googleapis.com' for consumer 'project_number:1'."
    )
    server.faults.append(Fault(kind="status", code=429, message=message))
    source.read("weather", box, [DAY])
    assert server.count() == 2


# ---- signing in ------------------------------------------------------------------------------------------------------

NOT_ENABLED = (
    "Google Earth Engine API has not been used in project 1 before or it is disabled. Enable it by visiting "
    "https://console.developers.google.com/apis/api/earthengine.googleapis.com/overview?project=1 then retry."
)


@pytest.mark.parametrize("path", ["discovery", "algorithms"])
@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (
            Fault(kind="status", code=403, message=NOT_ENABLED),
            RequestError,
            "sign-in .*Enable it by.*check the p",
        ),
        (
            Fault(kind="status", code=401, message="Who?"),
            RequestError,
            r"refuses the sign-in \(Who\?\); ch",
        ),
        (Fault(kind="status", code=404, message="Nothing."), RequestError, "sign.in .*; "),
        (Fault(kind="html", code=200), (InputError, RequestError), "sign.* in to Earth Engine"),
        (Fault(kind="status", code=503), InputError, "signing in to Earth Engine: no answer .*503 The service is curr"),
        (Fault(kind="drop"), InputError, "signing in to Earth Engine: no answer .*connection"),
    ],
)
def test_a_sign_in_that_fails_is_one_line(
    tmp_path: Path, server: FakeEarthEngine, path: str, fault: Fault, kind: type[Exception], words: str
) -> None:
    ee.Reset()  # the list of algorithms is read once a process
    source = EarthEngineSource(config(tmp_path, server, retries=2))
    server.faults.append(replace(fault, path=path, times=None))
    with pytest.raises(kind, match=words) as caught:
        source.lattice("weather")
    assert "\n" not in str(caught.value)
    server.reset()
    assert source.lattice("weather") is not None  # nothing is left of it


@pytest.mark.parametrize("path", ["discovery", "algorithms"])
def test_a_sign_in_is_tried_again_where_it_may_succeed(tmp_path: Path, server: FakeEarthEngine, path: str) -> None:
    ee.Reset()
    source = EarthEngineSource(config(tmp_path, server))
    server.faults.append(Fault(kind="status", path=path, code=503, times=2))
    assert source.lattice("weather") is not None


@pytest.mark.parametrize("path", ["discovery", "algorithms"])
def test_a_service_that_hangs_at_the_sign_in_is_given_up(tmp_path: Path, server: FakeEarthEngine, path: str) -> None:
    ee.Reset()
    source = EarthEngineSource(config(tmp_path, server, deadline=0.5))
    server.faults.append(Fault(kind="hang", path=path, times=None))
    began = time.monotonic()
    with pytest.raises(InputError, match=r"signing in to Earth Engine: no answer within 0.5 s; .*raise 'deadline'"):
        source.lattice("weather")
    assert time.monotonic() - began < 10


def test_a_list_of_deprecated_products_that_hangs_is_not_waited_for(
    tmp_path: Path, server: FakeEarthEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmnet_maps.sources.earthengine.client._CATALOGUE_WAIT", 0.3)
    server.faults.append(Fault(kind="hang", path="catalog.json", times=None))

    def fetch_list() -> dict:
        return dict(urlopen(f"{server.url}/catalog.json").headers)  # noqa: S310 - of this server

    monkeypatch.setattr(ee.deprecation, "_FetchDataCatalogStac", fetch_list)
    source = EarthEngineSource(config(tmp_path, server))
    with pytest.warns(UserWarning, match="Unable to initialize deprecated assets"):
        assert source.lattice("weather") is not None


def test_every_computation_carries_a_tag(tmp_path: Path, server: FakeEarthEngine) -> None:
    source = EarthEngineSource(config(tmp_path, server))
    source.read("weather", weather(source), [DAY])
    bodies = [request.body for request in server.log if request.method == "POST"]
    assert len(bodies) == 3  # the grid, the list of images, the pixels
    assert {body["workloadTag"] for body in bodies} == {"mmnet-maps"}


# ---- long and odd requests -------------------------------------------------------------------------------------------


def test_a_long_series_is_one_request(tmp_path: Path, server: FakeEarthEngine) -> None:
    source = EarthEngineSource(config(tmp_path, server))
    lattice = source.lattice("lst")
    box = lattice[cover(SOLE, lattice)]
    days = [date(2021, 5, 1) + timedelta(days=k) for k in range(150)]
    found = source.read("lst", box, days)["lst"]
    assert server.count() == 1
    for k in (0, 149):
        np.testing.assert_array_equal(found[k], source.read("lst", box, [days[k]])["lst"][0])


def test_a_thousand_days_can_be_sent() -> None:
    images = [ee.Image(k).rename([f"smap_{k}"]) for k in range(1024)]
    sent = str(ee.serializer.encode(_side_by_side(images)))
    assert sent.count("'Image.addBands'") == 1023


def test_a_grid_without_a_code_is_sent_as_the_wkt_that_earth_engine_documents(
    tmp_path: Path, server: FakeEarthEngine
) -> None:
    source = EarthEngineSource(config(tmp_path, server))
    middle = "+proj=laea +lat_0=47.07 +lon_0=-119.64 +datum=WGS84 +units=m"
    grid = GeoBox.from_bbox((-800, -800, 800, 800), middle, resolution=100)
    found = source.read("terrain", grid, [DAY])
    sent = server.pixel_requests()[0].body["grid"]
    assert sent["crsWkt"].startswith("PROJCS[")
    assert np.isfinite(found["elevation"]).all()
