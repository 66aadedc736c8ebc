"""What is refused first: cheap checks come before work, and messages name options as they are typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from command_line import DAY, assert_refused, run


def test_points_that_are_none_are_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("points", "--points", "nonsense", "--maps", "nowhere", "--out", "s.csv")
    assert_refused(*run(capsys, monkeypatch, *words), 2, "'nonsense' is neither LON,LAT in degrees nor a CSV")


def test_options_before_a_subcommand_have_their_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refused(*run(capsys, monkeypatch, "batch", "--date", DAY, "status", "x"), 2, "--date comes before status")
    assert_refused(*run(capsys, monkeypatch, "batch", "--no-zarr", "status", "x"), 2, "--zarr comes before status")


def test_a_picture_is_checked_before_the_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (
        ("explain", "--samples", "no.parquet", "--model", "mmnet-uscrn", "--out", "i.json", "--picture", "i.pdf"),
        ("evaluate", "--samples", "no.parquet", "--model", "mmnet-uscrn", "--uncertainty", "2", "--picture", "i.pdf"),
        ("samples", "check", "no.parquet", "--picture", "i.pdf"),
        ("stack", "info", "no.zarr", "--png", "i.pdf"),
    ):
        assert_refused(*run(capsys, monkeypatch, *words), 2, "i.pdf is not the name of a picture")


def test_what_does_not_exist_is_refused_before_torch_is_imported() -> None:
    Path("list.yaml").write_text("seed: x")
    Path("bad").mkdir()
    Path("bad", "model.json").write_text('{"format": 2}')
    table = ("--samples", "no.parquet", "--model", "mmnet-uscrn")
    lines = [
        ["train", "--samples", "no.parquet", "--config", "no.yaml", "--out", "m"],
        ["train", "--samples", "no.parquet", "--config", "list.yaml", "--out", "m"],
        ["predict", *table, "--out", "e.parquet"],
        ["evaluate", *table],
        ["evaluate", "--parity", "--model", "bad"],
        ["recalibrate", *table, "--out", "m"],
        ["explain", *table, "--out", "e.json"],
        ["samples", "--observations", "no", "--source", "demo", "--model", "mmnet-uscrn", "--out", "t.parquet"],
        ["samples", "check", "no.parquet"],
        ["experiment", "no.yaml", "--data", ".", "--out", "o"],
        ["convert", "no.pth", "--scalers", ".", "--out", "o"],
    ]
    code = (
        "import sys\n"
        "from mmnet_maps import cli\n"
        f"for words in {lines}:\n"
        "    sys.argv = ['mmnet', *words]\n"
        "    try: cli.main()\n"
        "    except SystemExit as end: assert end.code in (2, 3), words\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: "] * len(lines)
