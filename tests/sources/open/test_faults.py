"""Faults of a STAC API, of signatures and of files: what is read is right, or nothing is, and the user learns why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from affine import Affine

from fake_open import Asked, FakeOpen, Reply, failing
from mmnet_maps.errors import InputError
from mmnet_maps.sources.base import SourceDownError
from mmnet_maps.sources.files import locations
from mmnet_maps.sources.open import http, stac
from mmnet_maps.sources.open.config import ServiceConfig
from mmnet_maps.sources.open.source import OpenSource
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.store import Stack
from open_catalog import Planetary
from open_scenes import DAYS, GRID, SHIFT, config, demand, scenes, value
from open_tiff import Tiff

pytest.importorskip("pystac_client")


@pytest.fixture
def planetary() -> Iterator[Planetary]:
    with FakeOpen() as server:
        yield Planetary(server, collections={name: lambda name=name: scenes(name) for name in SHIFT})


@pytest.fixture
def yaml_path(planetary: Planetary, tmp_path: Path) -> Path:
    return config(planetary, tmp_path)


@pytest.fixture
def source(yaml_path: Path) -> OpenSource:
    return OpenSource(yaml_path)


def read(source: OpenSource, days: list[date] = DAYS) -> dict[date, float]:
    """The one value of each day, NaN where missing."""
    values = source.read("optical", GRID, days)["red"]
    assert all(np.ptp(one[np.isfinite(one)]) < 1e-6 for one in values if np.isfinite(one).any())
    return {day: float(np.nanmax(one)) if np.isfinite(one).any() else np.nan for day, one in zip(days, values)}


def right(days: list[date] = DAYS, product: str = "hls") -> Any:
    return {day: pytest.approx(value(day, product), abs=1e-6) for day in days}


def test_values_days_and_revisions(source: OpenSource, planetary: Planetary, yaml_path: Path) -> None:
    assert source.days("optical", GRID, date(2021, 7, 1), date(2021, 7, 31)) == DAYS
    assert read(source) == right()
    found = source.revisions("optical", GRID, sorted([*DAYS, date(2021, 7, 5)]), date(2021, 7, 25))
    assert [set(one.stamps) for one in found] == [{"red"}, set(), {"red"}, {"red"}]
    assert not any(one.final for one in found)
    later = OpenSource(yaml_path)
    assert [one.final for one in later.revisions("optical", GRID, DAYS, date(2022, 1, 1))] == [True] * 3
    assert len({one.number // 2 for one in found if one.stamps}) == 3
    assert len(planetary.tokens.given["hls"]) == 1  # one signature a collection, not one a file


def test_a_page_after_another(source: OpenSource, planetary: Planetary) -> None:
    planetary.page = 1
    assert read(source) == right()
    assert len(planetary.server.requests("/stac/search")) == len(DAYS)


@pytest.mark.parametrize("path", ["/stac$", "/stac/search", "/token/"])
def test_too_many_requests_are_sent_again_when_the_service_says(
    planetary: Planetary, pauses: list[float], yaml_path: Path, path: str
) -> None:
    source = OpenSource(yaml_path)
    words = b'{"statusCode": 429, "message": "Rate limit is exceeded. Try again in 23 seconds."}'
    planetary.server.faults.append(failing(path, Reply(status=429, body=words), times=1))
    assert read(source) == right()
    assert pauses == [23.0]


def test_retry_after_is_obeyed_and_bounded(planetary: Planetary, pauses: list[float], yaml_path: Path) -> None:
    source = OpenSource(yaml_path)
    busy = Reply(status=503, headers={"Retry-After": "100000"})
    planetary.server.faults.append(failing("/stac/search", busy, times=1))
    assert read(source) == right()
    assert pauses == [120.0]


def test_of_a_service_that_is_down_only_the_first_product_is_tried_again(
    planetary: Planetary, pauses: list[float], tmp_path: Path
) -> None:
    source = OpenSource(config(planetary, tmp_path, retries=3))
    planetary.server.faults.append(failing("/stac", Reply(status=503)))
    for tries in (4, 1):  # of the first product, then of another
        with pytest.raises(SourceDownError, match=f"in {tries} attempt"):
            source.days("optical", GRID, DAYS[0], DAYS[-1])
    assert len(planetary.server.log) in (4, 5)  # a try may end where the server has just closed a connection
    planetary.server.faults[:] = [failing("/token/", Reply(status=503), times=2)]
    assert read(source) == right()  # it is up again, and tried again where it fails


def test_a_signature_is_renewed_before_it_expires(source: OpenSource, planetary: Planetary) -> None:
    planetary.tokens.life = planetary.tokens.stated = 0.0
    with pytest.raises(InputError, match="cannot be read"):
        read(source)
    planetary.tokens.life = planetary.tokens.stated = 3600.0
    assert read(source) == right()
    asked = len(planetary.tokens.given["hls"])
    assert read(source) == right()
    assert len(planetary.tokens.given["hls"]) == asked


def test_a_signature_that_is_refused_in_mid_run_is_renewed(source: OpenSource, planetary: Planetary) -> None:
    assert read(source, DAYS[:1]) == right(DAYS[:1])
    planetary.tokens.given["hls"] = []  # the service revokes it, an hour before its end
    assert read(source, DAYS[1:]) == right(DAYS[1:])


def test_a_bucket_that_refuses_is_named_with_the_alternative_and_no_secret(
    source: OpenSource, planetary: Planetary, caplog: pytest.LogCaptureFixture
) -> None:
    planetary.server.faults.append(failing("/files/hls", Reply(status=403, body=b"<Code>RequesterPays</Code>")))
    with pytest.raises(SourceDownError) as caught:
        read(source)
    text = str(caught.value)
    assert "403" in text
    assert "landsat (planet)" in text
    assert "SECRET" not in text + caplog.text
    assert caught.value.__cause__ is None or "SECRET" not in str(caught.value.__cause__)


@pytest.fixture
def truncated(planetary: Planetary) -> Callable[[int], None]:
    """Truncate the answers to some requests for blocks."""

    def start(times: int) -> None:
        short = Reply(status=206, body=b"\1" * 1000, headers={"Content-Length": "200000"})
        fault = failing("red.tif", short, times=times)
        planetary.server.faults.append(
            lambda asked: None if asked.headers.get("range", "bytes=0-").startswith("bytes=0-") else fault(asked)
        )

    return start


def test_a_truncated_range_is_received_again(source: OpenSource, truncated: Callable[[int], None]) -> None:
    truncated(1)
    assert read(source) == right()


def test_ranges_that_stay_truncated_give_no_value(source: OpenSource, truncated: Callable[[int], None]) -> None:
    truncated(10**9)
    with pytest.raises(InputError, match=r"red\.tif"):
        read(source)


def test_an_item_without_an_asset_is_left_out_and_reported(
    source: OpenSource, planetary: Planetary, caplog: pytest.LogCaptureFixture
) -> None:
    del planetary.items["hls"][1]["assets"]["Fmask"]
    assert source.days("optical", GRID, DAYS[0], DAYS[-1]) == [DAYS[0], DAYS[2]]
    assert read(source, [DAYS[0], DAYS[2]]) == right([DAYS[0], DAYS[2]])
    assert "1 item without all assets left out (hls.20210712 has no Fmask)" in caplog.text


def test_a_file_that_is_gone_is_left_out_and_reported(
    source: OpenSource, planetary: Planetary, caplog: pytest.LogCaptureFixture
) -> None:
    planetary.server.faults.append(failing("20210712_red", Reply(status=404)))
    found = read(source)
    assert np.isnan(found.pop(DAYS[1]))
    assert found == right([DAYS[0], DAYS[2]])
    assert "hls.20210712" in caplog.text
    assert "does not exist" in caplog.text


def test_a_file_with_another_transform_than_its_item_is_left_out_and_reported(
    source: OpenSource, planetary: Planetary, caplog: pytest.LogCaptureFixture
) -> None:
    file = planetary.files["hls"]._files["/files/hls/hls.20210712_red.tif"]
    assert isinstance(file, Tiff)
    file.transform = Affine(30, 0, 280_000, 0, -30, 5_340_000)
    found = read(source)
    assert np.isnan(found.pop(DAYS[1]))
    assert found == right([DAYS[0], DAYS[2]])
    assert "does not lie where its item says" in caplog.text


def test_items_that_are_there_twice_count_once(source: OpenSource, planetary: Planetary) -> None:
    items = planetary.items["hls"]
    file = planetary.files["landsat"]._files["/files/landsat/landsat.20210704_red.tif"]
    planetary.files["hls"].add("/files/hls/old.tif", file)
    assets = {**items[0]["assets"], "red": {"href": f"{planetary.server.url}/files/hls/old.tif"}}
    older = {**items[0], "id": "hls.2021070", "assets": assets}
    planetary.items["hls"] = [*items, *items, older]  # the same scene on two pages, and a former version of it
    assert read(source) == right()


def stored(stack: Stack, day: date) -> Any:
    (row, col) = (part.start for part in stack_window(stack))
    return float(stack.read("red", (slice(row, row + 1), slice(col, col + 1)), day)[0, 0])


def stack_window(stack: Stack) -> Any:
    from mmnet_maps.stack.needs import fine_window

    return fine_window(GRID, stack)


@pytest.mark.parametrize("fault", ["hole", "empty", "down"])
def test_the_next_product_is_used_and_declared_where_the_first_cannot_be_had(
    planetary: Planetary, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    if fault == "hole":  # half a year
        planetary.items["hls"] = planetary.items["hls"][:1]
        days = [date(2021, 11, 20)]
        landsat = planetary.items["landsat"]
        planetary.items["landsat"] = [stac_item_of(item, days[0] + timedelta(k)) for k, item in enumerate(landsat)]
    else:
        days = DAYS[:1]
        if fault == "empty":
            planetary.items["hls"] = []
        else:
            planetary.server.faults.append(
                lambda asked: Reply(status=503) if asked.path == "/stac/search" and b"hls" in asked.body else None
            )
    source = OpenSource(config(planetary, tmp_path, retries=0))
    stack = fetch(tmp_path / "s.zarr", [source], demand(days), quiet=True)
    assert stack.provenance["red"].product == "landsat"
    assert "landsat (planet) is used instead of hls (planet)" in caplog.text
    planetary.server.faults.clear()
    caplog.clear()
    again = OpenSource(config(planetary, tmp_path, retries=0))  # the stack keeps to what it began with
    fetch(tmp_path / "s.zarr", [again], demand(days), quiet=True)
    assert again.variables()["red"].product == "landsat"
    assert not caplog.text


def stac_item_of(item: dict[str, Any], day: date) -> dict[str, Any]:
    """An item on another day."""
    return {**item, "properties": {**item["properties"], "datetime": f"{day}T18:48:00Z"}}


def test_a_product_without_an_alternative_is_reported_empty_but_no_error(
    planetary: Planetary, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    planetary.items = {"hls": [], "landsat": []}
    stack = fetch(tmp_path / "s.zarr", [OpenSource(config(planetary, tmp_path))], demand(DAYS[:1]), quiet=True)
    assert "nothing from 2021-06-02 to 2021-08-05 in this area" in caplog.text
    assert np.isnan(stored(stack, DAYS[0]))


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("where", ["/stac/search", "/token/", "red.tif"])
def test_a_service_that_trickles_is_given_up_like_one_that_hangs(
    planetary: Planetary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, status: int
) -> None:
    monkeypatch.setitem(locations.GDAL_REMOTE_OPTIONS, "GDAL_HTTP_LOW_SPEED_TIME", 1)
    monkeypatch.setitem(locations.GDAL_REMOTE_OPTIONS, "GDAL_HTTP_MAX_RETRY", 0)
    planetary.server.faults.append(failing(where, Reply(body=b" " * 100_000, status=status, pause=0.05)))
    with pytest.raises(SourceDownError) as caught:
        read(OpenSource(config(planetary, tmp_path, deadline=0.5, retries=0)))
    assert ("bytes per second; expected 1000" in str(caught.value)) == (where != "red.tif" and status == 200)
    assert "again later" in str(caught.value)


def test_a_long_answer_may_take_longer_than_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SLOWEST", 0)
    body = bytes(range(30))
    with FakeOpen() as server:
        server.faults.append(failing("/long", Reply(body=body, pause=0.05)))
        service = http.Http("slow", ServiceConfig(kind="tiles", url=server.url, deadline=1, retries=0))
        assert service.get(f"{server.url}/long").body == body


@pytest.mark.parametrize("where", ["/stac/search", "/token/", "red.tif"])
def test_a_service_that_hangs_ends_in_an_error_in_time(
    planetary: Planetary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setitem(locations.GDAL_REMOTE_OPTIONS, "GDAL_HTTP_LOW_SPEED_TIME", 1)
    monkeypatch.setitem(locations.GDAL_REMOTE_OPTIONS, "GDAL_HTTP_MAX_RETRY", 0)

    def hang() -> Reply:
        planetary.server.hang(30)
        return Reply(status=500)

    planetary.server.faults.append(failing(where, hang))
    with pytest.raises(SourceDownError):
        read(OpenSource(config(planetary, tmp_path, deadline=0.5, retries=0)))


def test_a_stopped_source_sends_nothing(source: OpenSource, planetary: Planetary) -> None:
    source.stop()
    with pytest.raises(SourceDownError, match="stopped"):
        read(source)
    assert not planetary.server.log


def test_a_service_that_is_down_stops_only_its_product_and_the_same_command_continues(
    planetary: Planetary, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = config(planetary, tmp_path, retries=0)
    values = yaml.safe_load(path.read_text())
    other = {**values["products"]["landsat"], "variables": {"vv": {"asset": "red", "scale": -100}}, "mask": None}
    values["products"]["sar"] = {key: one for key, one in other.items() if one is not None}
    values["use"].append("sar")
    path.write_text(yaml.safe_dump(values))
    planetary.server.faults.append(failing("/files/hls", Reply(status=500)))
    wanted = demand(DAYS[:1], "vv")
    locations.GDAL_REMOTE_OPTIONS["GDAL_HTTP_MAX_RETRY"] = 0
    try:
        with pytest.raises(InputError, match="not all inputs were fetched: optical") as caught:
            fetch(tmp_path / "s.zarr", [OpenSource(path)], wanted, quiet=True)
    finally:
        locations.GDAL_REMOTE_OPTIONS["GDAL_HTTP_MAX_RETRY"] = locations.GDAL_OPTIONS["GDAL_HTTP_MAX_RETRY"]
    assert caught.value.exit_code == 3
    assert "landsat (planet)" in str(caught.value)
    planetary.server.faults.clear()
    logged = len(planetary.server.log)
    stack = fetch(tmp_path / "s.zarr", [OpenSource(path)], wanted, quiet=True)
    assert stored(stack, DAYS[0]) == pytest.approx(value(DAYS[0]), abs=6e-5)
    after = [asked.path for asked, _, _ in planetary.server.log[logged:]]
    assert not [one for one in after if one.startswith("/files/landsat")]  # radar was complete
    secret = [path for path in tmp_path.rglob("*") if path.is_file() and b"SECRET" in path.read_bytes()]
    assert not secret
    assert "SECRET" not in caplog.text


def test_a_search_that_goes_in_a_circle_ends(source: OpenSource, planetary: Planetary) -> None:
    planetary.page = 1
    answer = planetary.answer

    def first_page_again(asked: Asked, server: FakeOpen) -> Reply | None:
        if asked.path != "/stac/search":
            return answer(asked, server)
        return answer(replace(asked, body=json.dumps({**asked.json, "token": "0"}).encode()), server)

    planetary.answer = first_page_again  # type: ignore[method-assign]
    with pytest.raises(SourceDownError, match="come again and again"):
        source.days("optical", GRID, DAYS[0], DAYS[-1])
    assert len(planetary.server.requests("/stac/search")) == 2


@pytest.mark.parametrize(
    "body", [b'{"code": "Overloaded", "description": "try later"}', b'{"features": null}', b"[]", b"null", b"<html>"]
)
def test_an_answer_without_items_is_not_taken_for_an_empty_one(
    source: OpenSource, planetary: Planetary, tmp_path: Path, body: bytes
) -> None:
    planetary.server.faults.append(failing("/stac/search", Reply(body=body)))
    with pytest.raises(SourceDownError, match="the search of hls failed"):
        source.days("optical", GRID, DAYS[0], DAYS[-1])
    planetary.page, planetary.server.faults[:] = 1, []
    second = [0]

    def later(asked: Asked) -> Reply | None:
        second[0] += asked.path == "/stac/search"
        return Reply(body=body) if asked.path == "/stac/search" and second[0] == 2 else None

    planetary.server.faults.append(later)
    with pytest.raises(SourceDownError, match="the search of hls failed"):
        source.days("optical", GRID, DAYS[0], DAYS[-1])
    assert source.days("optical", GRID, DAYS[0], DAYS[-1]) == DAYS


@pytest.mark.parametrize(
    "change",
    [{"bbox": None}, {"bbox": []}, {"assets": None}, {"properties": {}}, {"properties": {"datetime": "yesterday"}}],
)
def test_an_item_that_is_none_is_left_out_and_reported(
    source: OpenSource, planetary: Planetary, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    planetary.server.faults.append(
        lambda asked: (
            Reply.of_json({"type": "FeatureCollection", "features": broken, "links": []})
            if asked.path == "/stac/search"
            else None
        )
    )
    items = planetary.items["hls"]
    broken = [items[0], {**items[1], **change}, items[2]]
    assert source.days("optical", GRID, DAYS[0], DAYS[-1]) == [DAYS[0], DAYS[2]]
    assert "1 item that cannot be read left out (hls.20210712: " in caplog.text


def test_a_clock_that_is_fast_does_not_ask_for_a_signature_a_file(source: OpenSource, planetary: Planetary) -> None:
    planetary.tokens.stated = -7200.0
    assert read(source) == right()
    assert len(planetary.tokens.given["hls"]) == 1


def test_an_asset_that_is_no_address_is_left_out() -> None:
    hrefs = {"B02": "https://host/a.tif", "B03": "/etc/hostname", "B04": "file:///etc/hostname", "B05": "a.tif"}
    item = {
        "id": "one",
        "bbox": [-120, 47, -119, 48],
        "properties": {"datetime": "2021-08-08T18:40:00Z"},
        "assets": {name: {"href": href} for name, href in hrefs.items()},
    }
    assert stac._found(item).about == {"B02": "https://host/a.tif"}
