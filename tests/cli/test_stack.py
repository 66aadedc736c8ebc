"""``mmnet stack``, ``stack info`` and ``stack check`` as users type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import AREA, DAY, assert_refused, run


def test_the_stack_command_fills_as_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    asked: list[tuple[object, ...]] = []

    def fill(aoi: object, days: object, **options: object) -> str:
        asked.append((aoi, days, options))
        return "what it would take"

    monkeypatch.setattr("mmnet_maps.mapping.fill.fill_stack", fill)
    base = ("stack", "--start", DAY, "--source", "demo", "--out", "s.zarr")
    assert run(capsys, monkeypatch, *base, "--aoi", AREA, "-q") == (0, "s.zarr\n", "")
    tiles = ("--tiles", "h06v03, h06v04", "--dry-run", "--refresh", "--no-verify")
    assert run(capsys, monkeypatch, *base, *tiles)[1] == "what it would take\n"
    rest = {"source": "demo", "stack": "s.zarr", "model": None, "resolution": None, "crs": None}
    assert asked == [
        (AREA, [DAY], {**rest, "tiles": None, "dry_run": False, "refresh": False, "verify": True, "quiet": True}),
        (
            None,
            [DAY],
            {**rest, "tiles": ("h06v03", "h06v04"), "dry_run": True, "refresh": True, "verify": False, "quiet": False},
        ),
    ]
    assert_refused(*run(capsys, monkeypatch, *base), 2, "either --aoi or --tiles")
    assert_refused(*run(capsys, monkeypatch, *base, "--aoi", AREA, "--tiles", "h06v03"), 2, "either --aoi or --tiles")
    assert_refused(*run(capsys, monkeypatch, "stack", "--aoi", AREA), 2, "no day is given; give --date, or --start")
    assert_refused(*run(capsys, monkeypatch, *base, "--aoi", AREA, "--date", DAY), 2, "days are given twice")
    assert_refused(
        *run(capsys, monkeypatch, "stack", "--aoi", AREA, "info", "s.zarr"),
        2,
        "--aoi comes before info; options of info must",
    )
    assert len(asked) == 2


def test_a_stack_is_looked_at(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, tmp_path: Path
) -> None:
    words = ("stack", "info", inputs, "--json", tmp_path / "s.json", "--png", tmp_path / "s.png")
    code, out, err = run(capsys, monkeypatch, *words, "--start", "2021-08-01", "--end", DAY, "--aoi", AREA)
    assert (code, err) == (0, "")
    assert "2021-08-01 to 2021-08-08" in out
    assert "never fetched" in out
    assert len(json.loads((tmp_path / "s.json").read_text())["availability"]["days"]) == 8
    assert (tmp_path / "s.png").stat().st_size > 10_000
    assert run(capsys, monkeypatch, "stack", "info", inputs)[0] == 0
    assert_refused(*run(capsys, monkeypatch, "stack", "info", "none.zarr"), 3, "no stack at none.zarr")
    assert_refused(
        *run(capsys, monkeypatch, "stack", "info", inputs, "--end", DAY), 2, "--end is given without --start"
    )


def test_a_stack_is_checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, model: Path
) -> None:
    base = ("stack", "check", inputs, "--model", model, "--aoi", AREA)
    code, out, err = run(capsys, monkeypatch, *base, "--date", DAY)
    assert (code, err) == (0, "")
    assert f"{DAY}  can run: " in out
    assert "lst: closed formula (trained on thermometer)" in out
    command = out.splitlines()[-1].removeprefix("next: mmnet ")
    assert command == f"map --aoi {AREA} --date {DAY} --stack {inputs} --model {model}"
    assert run(capsys, monkeypatch, *command.split(), "-q", "--out", "made")[0] == 0

    code, out, err = run(capsys, monkeypatch, *base, "--date", f"{DAY}/2021-08-10")
    assert (code, err) == (3, "")
    gaps = [line for line in out.splitlines() if line.startswith("missing")]
    assert [line.split()[1] for line in gaps] == ["smap", "weather"]
    assert all("no map of 2021-08-09 to 2021-08-10" in line for line in gaps)
    command = f"mmnet stack --aoi {AREA} --start 2021-08-09 --end 2021-08-10 --source SOURCES.yaml --model {model}"
    assert out.splitlines()[-1] == f"next: {command} --out {inputs}"
    code, out, _ = run(capsys, monkeypatch, "stack", "check", inputs, "--model", model, "--date", DAY)
    assert code == 0
    assert "all that was fetched" in out
    assert_refused(*run(capsys, monkeypatch, *base, "--date", "nonsense"), 2, "malformed")
