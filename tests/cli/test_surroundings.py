"""The process around a command: broken variables, a full disk behind standard output, faults of our own."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import rasterio

from command_line import run
from mmnet_maps import cli
from mmnet_maps.cli.surroundings import mend_environment, report_bug

OWN = Path(rasterio.__file__).parent / "proj_data" / "proj.db"


def missing(_: Path) -> None:
    """Leave the folder empty."""


def same(folder: Path) -> None:
    shutil.copy(OWN, folder / "proj.db")


def damaged(folder: Path) -> None:
    (folder / "proj.db").write_bytes(b"no database")


def version(minor: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "proj.db")) as database:
            database.execute("CREATE TABLE metadata (key TEXT, value TEXT)")
            for key, value in (("MAJOR", 1), ("MINOR", minor)):
                database.execute("INSERT INTO metadata VALUES (?, ?)", (f"DATABASE.LAYOUT.VERSION.{key}", str(value)))
            database.commit()

    return make


@pytest.mark.skipif(not OWN.exists(), reason="rasterio uses the PROJ of the system")
@pytest.mark.parametrize(
    ("make", "kept"), [(missing, False), (damaged, False), (version(0), False), (version(99), True), (same, True)]
)
@pytest.mark.parametrize("name", ["PROJ_DATA", "PROJ_LIB"])
def test_data_of_another_proj_are_ignored(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], None],
    kept: bool,
    name: str,
) -> None:
    Path("proj").mkdir()
    make(Path("proj"))
    monkeypatch.setenv(name, "proj")
    mend_environment()
    assert (name in os.environ) == kept
    assert ("proj has no proj.db" in caplog.text) != kept


def test_a_backend_of_figures_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    mend_environment()
    assert os.environ["MPLBACKEND"] == "agg"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["stack", "--help"]])
def test_a_full_disk_behind_standard_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, err = run(capsys, monkeypatch, *words)
    assert (code, err) == (
        5,
        "error: cannot write to standard output: No space left on device; make room where it goes\n",
    )


def test_a_fault_of_our_own_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("x" * 1000)

    monkeypatch.setattr("mmnet_maps.mapping.batch.report.read_status", broken)
    monkeypatch.setattr(sys, "argv", ["mmnet", "batch", "status", "maps"])
    with pytest.raises(KeyError) as found:
        cli.main()
    assert sys.excepthook is report_bug
    report_bug(found.type, found.value, found.tb)
    err = capsys.readouterr().err
    assert err.startswith("error: unexpected KeyError in batch.py, line ")
    assert err.endswith(
        "…; this is a fault of mmnet_maps: please report it with the command; --debug shows the traceback\n"
    )
    assert len(err) < 300
