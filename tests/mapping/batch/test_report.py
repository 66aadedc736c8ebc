"""Reports, and the status of an output folder."""

from __future__ import annotations

import json
import time
from datetime import date
from pathlib import Path

import pytest

from mmnet_maps.errors import InputError, OutputError
from mmnet_maps.mapping.batch.report import (
    Outcome,
    Report,
    format_report,
    format_status,
    read_status,
    report_path,
    write_report,
)

DAYS = (date(2021, 8, 7), date(2021, 8, 8))
TILES = ("h06v02", "h06v03", "h07v03")


def report(root: Path, name: str = "corner") -> Report:
    found = Report(name=name, root=root, days=DAYS, tiles=TILES, about={"model": "net", "stack": "s.zarr"})
    found.add([Outcome(tile="h06v02", day=DAYS[0], state="made", version=1, pixels=10, bytes=100, seconds=2.0)], 1)
    found.add([Outcome(tile="h06v02", day=DAYS[1], state="kept", version=2)], 1)
    found.add([Outcome(tile="h06v03", day=day, state="failed", error="the chunk is damaged") for day in DAYS], 3)
    return found


def item(root: Path, tile: str, day: date, version: int = 1) -> None:
    folder = root / f"{day:%Y%m%d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{tile}_{day:%Y%m%d}.json").write_text(
        json.dumps({"properties": {"mmnet:fingerprint": "f00d", "version": str(version)}})
    )


def test_counts_and_failures(tmp_path: Path) -> None:
    found = report(tmp_path)
    assert found.counts() == {
        DAYS[0]: {"made": 1, "failed": 1, "missing": 1},
        DAYS[1]: {"kept": 1, "failed": 1, "missing": 1},
    }
    assert [(one.day, one.tile) for one in found.failed] == [(DAYS[0], "h06v03"), (DAYS[1], "h06v03")]


def test_a_report_is_json(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.smap_consistency[DAYS[0]] = {"bias": 0.01, "ubrmse": 0.02, "r": None}
    with found:
        path = report_path(found)
        assert json.loads(path.read_text())["state"] == "running"
    assert path == tmp_path / "reports/corner_20210807_20210808.json"
    content = json.loads(path.read_text())
    assert content["state"] == "done"
    assert content["counts"]["2021-08-07"]["made"] == 1
    assert [(one["tile"], one["state"], one["tried"]) for one in content["outcomes"]] == [
        ("h06v02", "made", 1),
        ("h06v03", "failed", 3),
        ("h06v02", "kept", 1),
        ("h06v03", "failed", 3),
    ]
    assert content["closure"]["2021-08-07"]["r"] is None


def test_the_table(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.smap_consistency[DAYS[0]] = {"bias": 0.0123, "ubrmse": 0.02, "r": None}
    lines = format_report(found).splitlines()
    assert lines[0].split() == ["day", "made", "kept", "failed", "missing", "bias", "to", "SMAP", "ubRMSE", "R"]
    assert lines[1].split() == ["2021-08-07", "1", "0", "1", "1", "+0.012", "0.020"]
    assert "2021-08-07 h06v03 failed: the chunk is damaged" in lines
    assert lines[-1].startswith("1 map made in 0 s: 10 pixels with a value")


def test_maps_without_a_value_are_named(tmp_path: Path) -> None:
    found = report(tmp_path)
    why = "40 of 40: water, ice or another land cover that the model does not know"
    tiles = [f"h1{k}v03" for k in range(7)]
    found.add([Outcome(tile=tile, day=DAYS[0], state="made", why_empty=why) for tile in tiles], 1)
    text = format_report(found)
    assert f"2021-08-07 h10v03 has no pixel with a value: {why}" in text
    assert "… and 2 more maps without a value, in " in text
    assert json.loads(write_report(found).read_text())["outcomes"][2]["why_empty"] == why


def test_a_damaged_report_is_one_line(tmp_path: Path) -> None:
    path = write_report(report(tmp_path))
    (path.parent / "notes.json").write_text('{"mine": true}')
    assert read_status(tmp_path).failed[DAYS[0]] == ("h06v03",)
    text = path.read_text()
    content = json.loads(text)
    for damage in (
        text[:-20],
        "[]",
        *(
            json.dumps(content | {key: value})
            for key, value in [("days", [3]), ("tiles", 5), ("about", []), ("outcomes", [7])]
        ),
        json.dumps({key: value for key, value in content.items() if key != "started"}),
    ):
        path.write_text(damage)
        with pytest.raises(InputError, match=r"is a damaged report \(.*\); delete it, or run its batch again") as error:
            read_status(tmp_path)
        assert len(str(error.value)) - len(str(path)) < 200


def test_status_compares_reports_with_what_is_there(tmp_path: Path) -> None:
    with report(tmp_path):
        pass
    item(tmp_path, "h06v02", DAYS[0])
    item(tmp_path, "h06v03", DAYS[1])  # made since, by a map of its own
    status = read_status(tmp_path)
    assert status.done == {DAYS[0]: ("h06v02",), DAYS[1]: ("h06v03",)}
    assert status.failed == {DAYS[0]: ("h06v03",), DAYS[1]: ()}
    assert status.missing == {DAYS[0]: ("h07v03",), DAYS[1]: ("h06v02", "h07v03")}
    assert not status.complete
    assert "2021-08-07 h06v03 failed: the chunk is damaged" in format_status(status)
    assert json.loads(json.dumps(status.as_dict()))["2021-08-07"]["failed"] == {"h06v03": "the chunk is damaged"}
    for day in DAYS:
        for tile in TILES:
            item(tmp_path, tile, day)
    assert read_status(tmp_path).complete


def test_a_later_report_counts(tmp_path: Path) -> None:
    write_report(report(tmp_path))
    time.sleep(0.002)
    later = report(tmp_path, "again")
    later.outcomes = [Outcome(tile="h06v03", day=DAYS[0], state="made", version=1)]
    write_report(later)
    assert read_status(tmp_path).failed[DAYS[0]] == ()
    assert read_status(tmp_path).missing[DAYS[0]] == TILES  # nothing is on the disk


def test_a_failed_reissue_is_not_done(tmp_path: Path) -> None:
    found = report(tmp_path)
    found.outcomes = [Outcome(tile="h06v03", day=DAYS[0], state="failed", version=2, error="no")]
    write_report(found)
    item(tmp_path, "h06v03", DAYS[0], version=2)
    assert read_status(tmp_path).failed[DAYS[0]] == ("h06v03",)
    item(tmp_path, "h06v03", DAYS[0], version=3)
    assert read_status(tmp_path).done[DAYS[0]] == ("h06v03",)


def test_maps_of_the_demo_world_do_not_count_for_real_ones(tmp_path: Path) -> None:
    write_report(report(tmp_path))
    folder = tmp_path / "20210807"
    item(tmp_path, "h06v02", DAYS[0])
    (folder / "h06v02_20210807.json").rename(folder / "h06v02_20210807_synthetic.json")
    assert read_status(tmp_path).done[DAYS[0]] == ()


def test_no_batch_has_run(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/notes.json").write_text("[]")
    with pytest.raises(InputError, match="no batch has run"):
        read_status(tmp_path)


@pytest.mark.parametrize(
    ("error", "state"), [(OutputError("no room"), "stopped: no room"), (KeyboardInterrupt(), "interrupted")]
)
def test_a_run_that_ends_early_says_why(tmp_path: Path, error: BaseException, state: str) -> None:
    found = report(tmp_path)
    with pytest.raises(type(error)), found:
        raise error
    assert json.loads(report_path(found).read_text())["state"] == state
