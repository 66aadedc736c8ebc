"""The pictures of the viewer in these pages, rebuilt from the demo world: ``make screenshots``.

Needs Chromium (or Chrome) on the PATH, and playwright.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
WORK, IMAGES = ROOT / "build" / "screenshots", ROOT / "docs" / "images"
AOI = ROOT / "examples" / "grant_county.geojson"
DAYS = ["2021-07-30", "2021-08-08"]
PLACE = "-119.53,47.10"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]


def mmnet(*words: str | Path) -> list[str]:
    return [sys.executable, "-c", "from mmnet_maps.cli import main; main()", *map(str, words)]


def make_maps() -> tuple[Path, Path]:
    """Ten days of Grant County with standard deviations, and their stack; what is there already is kept."""
    stack, maps = WORK / "demo.zarr", WORK / "maps"
    first, last = DAYS
    subprocess.run(
        mmnet("stack", "--aoi", AOI, "--start", first, "--end", last, "--source", "demo", "--out", stack), check=True
    )
    subprocess.run(
        mmnet("map", "--aoi", AOI, "--date", f"{first}/{last}", "--stack", stack, "--uncertainty", 20, "--out", maps),
        check=True,
    )
    return maps, stack


def shoot(page: Page, url: str, name: str, *steps: tuple[str, str]) -> None:
    """Open the viewer, ask for the series at a place, take further steps, and keep what is seen."""
    page.goto(url)
    page.wait_for_function("() => window.Bokeh && Bokeh.documents[0]?.is_idle", timeout=60_000)
    box = page.get_by_label("Series at longitude,latitude")
    box.fill(PLACE)
    box.press("Enter")
    page.get_by_text("Soil moisture, 0–5 cm: ").wait_for()
    for kind, text in steps:
        if kind == "layer":
            page.locator("select").first.select_option(label=text)
        else:
            page.get_by_text(text, exact=True).first.click()
    page.wait_for_timeout(2500)  # until all is drawn
    page.screenshot(path=IMAGES / f"{name}.png", full_page=True)
    print(IMAGES / f"{name}.png")


def main() -> None:
    maps, stack = make_maps()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("screenshots need Chromium on the PATH")
    words = mmnet("view", maps, "--stack", stack, "--outline", AOI, "--no-browser")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found, "the viewer says where its page is"
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser, args=FLAGS)
            desk = chromium.new_page(viewport={"width": 1280, "height": 860})
            shoot(desk, found[0], "view")
            shoot(desk, found[0], "view_swipe", ("click", "Swipe"))
            shoot(desk, found[0], "view_quality", ("layer", "Quality"))
            shoot(chromium.new_page(viewport={"width": 390, "height": 844}), found[0], "view_phone")
            chromium.close()
        server.send_signal(signal.SIGINT)


if __name__ == "__main__":
    main()
