"""The command line as users type it, run in this process."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import shapely

from mmnet_maps import cli

AREA = "-119.60,47.10,-119.55,47.13"
DAY = "2021-08-08"


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str, str]:
    """Run ``mmnet …``; return exit code, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["mmnet", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def geojson(path: Path, geometry: object) -> Path:
    """Write a geometry, or any JSON, to a file."""
    path.write_text(shapely.to_geojson(geometry) if isinstance(geometry, shapely.Geometry) else json.dumps(geometry))
    return path


def assert_refused(code: int, out: str, err: str, expected: int, message: str) -> None:
    """Assert that a command printed one line of error with this message, and made nothing."""
    assert code == expected, err
    assert out == ""
    assert re.fullmatch(r"error: .+\n", err), err
    assert re.search(message, err, re.IGNORECASE), err
    assert not Path("maps").exists()
