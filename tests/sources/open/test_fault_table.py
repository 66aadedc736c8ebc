"""The table of faults in docs/how-to/real-inputs.md: exit code, what was stored, and a second run that completes.

Each row is a fetch with the fault, one after it, and one that never met it: of the first, no value is wrong; the stacks
of the other two are the same, byte for byte.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine

from day_files import content
from fake_open import Asked, FakeOpen, Reply, failing
from mmnet_maps.errors import InputError
from mmnet_maps.sources.files import locations
from mmnet_maps.sources.open.source import OpenSource
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import fine_window
from mmnet_maps.stack.store import Stack
from open_catalog import Planetary
from open_scenes import DAYS, GRID, SHIFT, config, demand, scenes, value
from open_tiff import Tiff

pytest.importorskip("pystac_client")

TODAY = date(2021, 7, 28)
ROWS = (Path(__file__).parents[3] / "docs" / "how-to" / "real-inputs.md").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table.

    Attributes
    ----------
    name
        Its first column.
    start, end
        Begin the fault, and mend it; by default `end` removes all faults of the server.
    code
        Exit code of the fetch.
    missing
        Days without a value after it; all of them where it failed before.
    says
        Words that the user sees.
    """

    name: str
    start: Callable[[Planetary], None]
    end: Callable[[Planetary], None] = lambda planetary: planetary.server.faults.clear()
    code: int = 0
    missing: tuple[date, ...] = ()
    says: tuple[str, ...] = ()


def faulty(pattern: str, reply: Reply, times: int = 10**9) -> Callable[[Planetary], None]:
    """Answer requests so."""
    return lambda planetary: planetary.server.faults.append(failing(pattern, reply, times))


def revoked(planetary: Planetary) -> None:
    """Let all signatures expire when a few blocks were sent."""
    seen: list[Asked] = []

    def fault(asked: Asked) -> None:
        if asked.path.startswith("/files"):
            seen.append(asked)
            if len(seen) == 4:
                planetary.tokens.given["hls"].clear()

    planetary.server.faults.append(fault)


def truncated(planetary: Planetary) -> None:
    """Send a part of the first blocks."""
    fault = failing("red.tif", Reply(status=206, body=b"\1" * 1000, headers={"Content-Length": "200000"}), times=1)
    planetary.server.faults.append(
        lambda asked: None if asked.headers.get("range", "bytes=0-").startswith("bytes=0-") else fault(asked)
    )


def without_asset(planetary: Planetary) -> None:
    """Leave out the mask of the second item."""
    del planetary.items["hls"][1]["assets"]["Fmask"]


def again(planetary: Planetary) -> None:
    """Publish the second item once more, as it should be."""
    item, assets = scenes("hls")[1]
    for key, file in assets.items():
        path = f"/files/hls/{item['id']}_{key}_again.tif"
        planetary.files["hls"].add(path, file)
        item["assets"][key] = {"href": f"{planetary.server.url}{path}"}
    planetary.items["hls"][1] = {**item, "collection": "hls"}


def moved(planetary: Planetary) -> None:
    """Place the second file 100 km further north than its item says."""
    file = planetary.files["hls"]._files["/files/hls/hls.20210712_red.tif"]
    assert isinstance(file, Tiff)
    file.transform = Affine(30, 0, 280_000, 0, -30, 5_340_000)


def twice(planetary: Planetary) -> None:
    """List all items twice."""
    planetary.items["hls"] *= 2


def once(planetary: Planetary) -> None:
    """List all items once."""
    planetary.items["hls"] = planetary.items["hls"][: len(DAYS)]


HELD: dict[str, Any] = {}


def empty(planetary: Planetary) -> None:
    """Have no items."""
    HELD["items"], planetary.items = planetary.items, {name: [] for name in SHIFT}


def published(planetary: Planetary) -> None:
    """Have the items after all."""
    planetary.items = HELD["items"]


def hanging(planetary: Planetary) -> None:
    """Answer no request for blocks."""

    def reply() -> Reply:
        planetary.server.hang(20)
        return Reply(status=500)

    planetary.server.faults.append(failing("red.tif", reply))


BUSY = b'{"statusCode": 429, "message": "Rate limit is exceeded. Try again in 23 seconds."}'
PAYS = b"<Error><Code>AccessDenied</Code><Message>Requester pays</Message></Error>"
TABLE = (
    Row(name='429, "try again in 23 seconds"', start=faulty("/stac/search|/token/", Reply(status=429, body=BUSY), 2)),
    Row(name="signatures expire in mid-run", start=revoked),
    Row(
        name="403: the bucket became requester-pays",
        start=faulty("/files/hls", Reply(status=403, body=PAYS)),
        code=3,
        missing=tuple(DAYS),
        says=("403", "cannot be read", "landsat (planet)"),
    ),
    Row(name="a truncated range", start=truncated),
    Row(
        name="an item without its asset",
        start=without_asset,
        end=again,
        missing=(DAYS[1],),
        says=("1 item without all assets left out", "hls.20210712 has no Fmask"),
    ),
    Row(
        name="a file that lies elsewhere than its item says",
        start=moved,
        end=again,
        missing=(DAYS[1],),
        says=("hls.20210712", "does not lie where its item says"),
    ),
    Row(name="items that are listed twice", start=twice, end=once),
    Row(
        name="nothing for a month, and no other product",
        start=empty,
        end=published,
        missing=tuple(DAYS),
        says=("nothing from 2021-06-02 to 2021-07-28 in this area", "hls (planet) stays in use; landsat"),
    ),
    Row(
        name="a service that hangs",
        start=hanging,
        code=3,
        missing=tuple(DAYS),
        says=("red.tif cannot be read", "run the same command again later"),
    ),
)


@pytest.fixture
def planetary() -> Iterator[Planetary]:
    with FakeOpen() as server:
        yield Planetary(server, collections={name: lambda name=name: scenes(name) for name in SHIFT})


def fetched(path: Path, planetary: Planetary, folder: Path) -> tuple[int, str]:
    """Fetch into a stack by a new source; return the exit code, and the error."""
    source = OpenSource(config(planetary, folder, retries=2, deadline=1))
    try:
        fetch(path, [source], demand(DAYS), today=TODAY, quiet=True)
    except InputError as error:
        return error.exit_code, str(error)
    return 0, ""


def stored(path: Path) -> dict[date, float]:
    """Return the value of each day; NaN where all are missing. No pixel of a day has another."""
    stack = Stack(path)
    found = {}
    for day in DAYS:
        values = stack.read("red", fine_window(GRID, stack), day)
        there = values[np.isfinite(values)]
        assert there.size in (0, values.size)
        assert np.ptp(there) == 0 if there.size else True
        found[day] = float(there[0]) if there.size else np.nan
    return found


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_fault_stores_nothing_wrong_and_the_second_run_completes(
    row: Row,
    planetary: Planetary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pauses: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(locations.GDAL_REMOTE_OPTIONS, "GDAL_HTTP_LOW_SPEED_TIME", 1)
    monkeypatch.setitem(locations.GDAL_REMOTE_OPTIONS, "GDAL_HTTP_MAX_RETRY", 1)
    monkeypatch.setitem(locations.GDAL_REMOTE_OPTIONS, "GDAL_HTTP_RETRY_DELAY", 0.1)
    caplog.set_level(logging.WARNING)
    row.start(planetary)
    code, error = fetched(tmp_path / "s.zarr", planetary, tmp_path)
    assert code == row.code
    assert all(words in caplog.text + error for words in row.says)
    assert "SECRET" not in caplog.text + error
    assert max(pauses, default=0) == (23.0 if row.name.startswith("429") else 0)
    for day, found in stored(tmp_path / "s.zarr").items():
        assert found == pytest.approx(np.nan if day in row.missing else value(day), abs=6e-5, nan_ok=True)
    row.end(planetary)
    assert fetched(tmp_path / "s.zarr", planetary, tmp_path) == (0, "")
    assert fetched(tmp_path / "whole.zarr", planetary, tmp_path) == (0, "")
    assert content(tmp_path / "s.zarr") == content(tmp_path / "whole.zarr")
    assert stored(tmp_path / "s.zarr") == pytest.approx({day: value(day) for day in DAYS}, abs=6e-5)


def test_a_hole_of_half_a_year_is_filled_from_the_other_product_for_good(
    planetary: Planetary, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late = [day + timedelta(days=180) for day in DAYS]
    for name in SHIFT:
        for item, day in zip(planetary.items[name], late, strict=True):
            item["properties"]["datetime"] = f"{day}T18:48:00Z"
    held, planetary.items["hls"] = planetary.items["hls"], []
    path = tmp_path / "s.zarr"
    for used in (True, False):
        stack = fetch(path, [OpenSource(config(planetary, tmp_path))], demand(late), today=late[-1], quiet=True)
        assert stack.provenance["red"].product == "landsat"
        assert ("landsat (planet) is used instead of hls (planet)" in caplog.text) == used
        caplog.clear()
        found = content(path)
        planetary.items["hls"] = held  # published after all: the stack keeps to the other product
    fetch(path, [OpenSource(config(planetary, tmp_path))], demand(late), today=late[-1], quiet=True)
    assert content(path) == found


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_the_table_of_the_docs_has_the_row(row: Row) -> None:
    (line,) = [line for line in ROWS.splitlines() if line.startswith(f"| {row.name} |")]
    assert f"| {row.code} |" in line
