"""What is refused first: cheap checks come before work, and messages name options as they are typed."""

from __future__ import annotations

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
