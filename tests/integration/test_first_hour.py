"""The first hour of a newcomer: the commands of docs/how-to/first-hour.md, in a shell, as they stand there."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import rasterio
import rasterio.warp
import requests

pytest.importorskip("morecantile", reason="the example needs pip install '.[serve]'")
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "first-hour.md"


def shell(script: str) -> str:
    """Run commands in the working folder, up to the first that fails; return what they print."""
    scripts, python = sysconfig.get_path("scripts"), str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": os.pathsep.join([scripts, python, os.environ["PATH"]]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["sh", "-eu", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def served(start: str, *addresses: str) -> list[requests.Response]:
    """Start the server of the page on a free port, and fetch its addresses from it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = shlex.split(start.replace("8000", port))
    child = subprocess.Popen([sys.executable, *words[1:]], stderr=subprocess.DEVNULL)
    try:
        while True:
            assert child.poll() is None, "the server ended"
            try:
                return [requests.get(address.replace("8000", port), timeout=600) for address in addresses]
            except requests.ConnectionError:
                time.sleep(0.2)
    finally:
        child.terminate()
        child.wait()


def percentile_by_hand(x: float, y: float) -> float:
    """Return the percentile of a place on 5 August 2021 from the files of the maps of other years."""

    def values(pattern: str) -> list[int]:
        found = []
        for path in sorted(Path().glob(pattern)):
            with rasterio.open(path) as image:
                found.append(int(image.read(1)[image.index(x, y)]))
        return found

    (mine,) = values("today/20210805/*_soil_moisture.tif")
    others = values("maps/2016*/*_soil_moisture.tif") + values("batch/20[12][7890]*/h*_soil_moisture.tif")
    assert len(others) == 20
    below, equal = sum(value < mine for value in others), others.count(mine)
    return 100 * (below + 1 + equal / 2) / (len(others) + 2)


@pytest.mark.slow
def test_every_block_of_the_page(demo_cache: Path) -> None:
    assert "(docs/how-to/first-hour.md)" in (ROOT / "README.md").read_text(), "a newcomer finds the page"
    Path("examples").symlink_to(ROOT / "examples")
    *made, start, fetch = re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    said = shell("\n".join(made))
    assert "SYNTHETIC" in said
    assert "6 years with maps, 2016 to 2021, 23 days" in said
    (percentiles,) = Path().glob("today/20210805/*_soil_moisture_percentile.tif")
    with rasterio.open(percentiles) as image:
        found = image.read(1, masked=True) * image.scales[0]
        (x,), (y,) = rasterio.warp.transform("EPSG:4326", image.crs, [-119.585], [47.11])
        here = image.index(x, y)
    assert found[here] == pytest.approx(percentile_by_hand(x, y), abs=0.002)
    assert Path("series.csv").read_text().count("\n") == 20
    assert Path("series.png").exists()

    point, tile = served(start, *re.findall(r"'(http.*?)'", fetch))
    assert json.loads(point.text) == {"2021-08-05": pytest.approx(found[here], abs=0.002)}
    assert tile.headers["content-type"] == "image/png"
    Path("tile.png").write_bytes(tile.content)
    picture = matplotlib.image.imread("tile.png")
    assert 0 < np.count_nonzero(picture[..., 3]) < picture[..., 3].size  # the area, and around it nothing
