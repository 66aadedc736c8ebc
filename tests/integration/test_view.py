"""The viewer in a headless browser, where one is installed, and its server."""

from __future__ import annotations

import http.client
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import psutil
import pytest

pytest.importorskip("panel", reason="panel is not installed")

from analytic import AnalyticSource
from batch_world import CORNER, DAYS
from map_files import values_on, write_map
from mmnet_maps.analysis.viewer.server import view
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid, tiles
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, Needs
from processes import start_interruptible

GRID = target_grid(read_aoi(CORNER))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Without these Chromium contacts Google at every start.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack that gives the rain."""
    needs = Needs(snapshot=("smap",), series=("pr",), steps=1, includes_day=True)
    path = tmp_path_factory.mktemp("viewed") / "s.zarr"
    return fetch(
        path, [AnalyticSource()], Demand(grid=GRID, tiles=tiles(GRID), needs=needs, days=DAYS), quiet=True
    ).path


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("viewed") / "maps"
    for number, day in enumerate(DAYS):
        write_map(out, "corner", day, GRID, seed=number, std=True, synthetic=True)
    return out


@contextmanager
def serving(*words: str | Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run ``mmnet view`` in a process of its own until Ctrl-C; give the address of the page."""
    program = [sys.executable, "-c", "from mmnet_maps.cli import main; main()", "view", *words, "--no-browser"]
    with start_interruptible(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert address, (line, process.communicate(timeout=10))
        wait_until_up(address[0])
        yield address[0], process
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
        assert err == ""


def wait_until_up(url: str) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection(("127.0.0.1", int(url.rstrip("/").rpartition(":")[2])), timeout=1):
                return
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.fixture(scope="module")
def site(maps: Path, stack: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with serving(maps, "--stack", stack, "--outline", CORNER) as found:
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser on this machine; looked for {', '.join(BROWSERS)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """An open page, the hosts it sent requests to, and the errors and warnings it logged."""

    page: Any
    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def visit(chromium: Any, url: str, width: int = 1280, height: int = 900) -> Iterator[Visit]:
    """Open the page, which must send requests only to its own server and log neither errors nor warnings."""
    context = chromium.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
    found = Visit(context.new_page())
    page = found.page
    page.on("request", lambda one: found.hosts.add(urlsplit(one.url).netloc))
    page.on("websocket", lambda one: found.hosts.add(urlsplit(one.url).netloc))
    page.on("console", lambda one: found.complaints.append(one.text) if one.type in ("error", "warning") else None)
    page.on("pageerror", lambda one: found.complaints.append(str(one)))
    page.on("response", lambda one: found.complaints.append(one.url) if one.status >= 400 else None)
    page.goto(url)
    page.wait_for_function("() => window.Bokeh && Bokeh.documents[0]?.is_idle", timeout=60_000)
    yield found
    assert found.complaints == []
    assert found.hosts - {""} == {urlsplit(url).netloc}  # data: and blob: have no host
    context.close()


def until(page: Any, expression: str) -> None:
    page.wait_for_function(f"() => {expression}", timeout=30_000)


def model(name: str) -> str:
    """Return JavaScript for a bokeh model by its name."""
    return f"Bokeh.documents[0].get_model_by_name('{name}')"


def click_on(page: Any, row: int, col: int) -> None:
    """Click on a pixel of the map where the screen shows it."""
    x, y = GRID.affine * (col + 0.5, row + 0.5)
    box = page.locator(".bk-Figure").first.bounding_box()
    x_range, y_range = f"{model('map')}.x_range", f"{model('map')}.y_range"
    ranges = page.evaluate(f"[{x_range}.start, {x_range}.end, {y_range}.start, {y_range}.end]")
    across, along = (x - ranges[0]) / (ranges[1] - ranges[0]), (ranges[3] - y) / (ranges[3] - ranges[2])
    page.mouse.click(box["x"] + across * box["width"], box["y"] + along * box["height"])


def test_a_click_gives_the_series_with_rain_as_csv(chromium: Any, site: tuple[str, Any], tmp_path: Path) -> None:
    with visit(chromium, site[0]) as found:
        page = found.page
        assert page.title() == "corner: soil moisture"
        page.get_by_text("Synthetic inputs: not an observation.").wait_for()
        click_on(page, 20, 10)
        page.get_by_text("SMAP, 9 km: ").wait_for()
        value = values_on(GRID, len(DAYS) - 1)["soil_moisture"][20, 10]
        page.get_by_text(f"Soil moisture, 0–5 cm: {value:.3f} m³/m³").wait_for()
        until(page, f"{model('series')} != null")
        with page.expect_download() as download:
            page.get_by_text("CSV of the series").click()
        download.value.save_as(tmp_path / "s.csv")
    table = pd.read_csv(tmp_path / "s.csv")
    assert table["date"].tolist() == [str(day) for day in DAYS]
    expected = [values_on(GRID, number)["soil_moisture"][20, 10] for number in range(len(DAYS))]
    np.testing.assert_allclose(table["soil_moisture"], expected, atol=1e-4)
    assert table["precipitation"].notna().all()


def test_days_and_layers_change_what_is_drawn(chromium: Any, site: tuple[str, Any]) -> None:
    with visit(chromium, site[0]) as found:
        page = found.page
        page.locator("select").first.select_option(label="Quality")
        page.get_by_text("no value, unknown land cover").first.wait_for()
        page.locator("select").first.select_option(label="Standard deviation")
        page.get_by_text("Standard deviation (m³/m³)").wait_for()
        page.locator("button.first, button[class*=first]").first.click()  # of the player
        page.get_by_text(f", {DAYS[0]}").first.wait_for()
        page.locator("select").first.select_option(label="Difference between two days")
        page.get_by_text(f"Change from {DAYS[0]} to {DAYS[0]}").wait_for()
        page.locator("button[class*=play]").first.click()
        page.get_by_text(f"Change from {DAYS[0]} to {DAYS[1]}").wait_for(timeout=30_000)
        page.locator("button[class*=pause]").first.click()
        assert page.get_by_text("Difference of soil moisture").is_visible()


def test_the_swipe_moves_by_the_keyboard(chromium: Any, site: tuple[str, Any]) -> None:
    empty = (
        f"(() => {{ const s = {model('map')}.renderers.find(r => r.glyph?.image?.field == 'cut').data_source;"
        "return s.data.cut[0].filter(v => isNaN(v)).length })()"
    )
    with visit(chromium, site[0]) as found:
        page = found.page
        page.get_by_text("Swipe", exact=True).click()
        until(page, f"{empty} > 100")  # a half of the map
        slider = page.get_by_role("slider").last
        slider.focus()
        before = page.evaluate(empty)
        for _ in range(30):
            slider.press("ArrowRight")
        until(page, f"{empty} < {before}")
        assert page.evaluate(f"{model('map')}.center.find(one => one.type == 'Span').location") > GRID.boundingbox.left


def test_a_place_is_typed_and_a_wrong_one_is_refused(chromium: Any, site: tuple[str, Any]) -> None:
    with visit(chromium, site[0]) as found:
        box = found.page.get_by_label("Series at longitude,latitude")
        box.fill("nowhere")
        box.press("Enter")
        found.page.get_by_text("is not a place; expected longitude,latitude").wait_for()
        box.fill(box.get_attribute("placeholder"))
        box.press("Enter")
        found.page.get_by_text("SMAP, 9 km: ").wait_for()
        found.page.get_by_role("alert").wait_for(state="hidden")
        assert not found.page.get_by_role("alert").is_visible()


def test_the_picture_is_downloaded(chromium: Any, site: tuple[str, Any], tmp_path: Path) -> None:
    with visit(chromium, site[0]) as found:
        with found.page.expect_download() as download:
            found.page.get_by_text("PNG of this view").click()
        assert download.value.suggested_filename.endswith(".png")
        download.value.save_as(tmp_path / "m.png")
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")


def test_it_fits_a_phone(chromium: Any, site: tuple[str, Any]) -> None:
    with visit(chromium, site[0], 390, 844) as found:
        page = found.page
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        one, other = (page.locator(".bk-Figure").nth(number).bounding_box() for number in (0, 1))
        assert other["y"] > one["y"] + one["height"]
        assert one["width"] > 300
        click_on(page, 20, 10)
        page.get_by_text("SMAP, 9 km: ").wait_for()


# ---- who can connect, and what is served -----------------------------------------------------------------------------


def test_it_listens_on_the_loopback_interface_alone(site: tuple[str, subprocess.Popen[str]]) -> None:
    process = psutil.Process(site[1].pid)
    listening = [one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    assert set(listening) == {"127.0.0.1"}


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/static/../../../../../etc/passwd",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/static/extensions/panel/../../../../../../../etc/passwd",
        "/static//etc/passwd",
        "/components/panel.config/panel_extension/_globals/etc/passwd",
        "/20210807/corner_20210807_synthetic_soil_moisture.tif",
        "/assets/corner_20210807_synthetic.json",
        "/?path=/etc/passwd",
    ],
)
def test_no_other_file_is_served(site: tuple[str, Any], path: str) -> None:
    host = urlsplit(site[0]).netloc
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request("GET", path)  # libraries would resolve the dots
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert b"root:" not in body
    assert not body.startswith((b"II*", b"{"))
    assert answer.status in ((200,) if path.startswith("/?") else (400, 403, 404))


def test_a_page_of_another_site_is_refused(site: tuple[str, Any]) -> None:
    """Scripts of other sites can reach the ports of this machine; the websocket, which carries all values, refuses."""
    host = urlsplit(site[0]).netloc
    connection = http.client.HTTPConnection(host, timeout=20)
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "bokeh, none",
        "Origin": "http://example.org",
    }
    connection.request("GET", "/ws", headers=headers)
    assert connection.getresponse().status == 403
    connection.close()


def test_errors_are_raised_before_anything_is_served(
    tmp_path: Path, maps: Path, stack: Path, site: tuple[str, Any]
) -> None:
    taken = urlsplit(site[0]).port
    for paths, options, error, message in (
        ([tmp_path], {}, RequestError, "no finished map in"),
        (["https://example.org/maps"], {}, RequestError, "only files of this machine are read"),
        ([maps], {"port": taken}, RequestError, f"port {taken} is not available"),
        ([maps], {"stack": tmp_path}, InputError, "no stack at"),
        ([stack, maps], {}, RequestError, "holds no maps"),
    ):
        with pytest.raises(error, match=message) as caught:
            view(paths, show=False, **options)
        assert "\n" not in str(caught.value)
