"""``mmnet samples`` and ``samples check`` as users type them."""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path

import pytest

from command_line import DAY, assert_refused, run


def test_a_table_of_samples_is_built_and_checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, model: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    from insitu_files import uscrn

    days = {date.fromisoformat(DAY) + timedelta(days=k): 0.2 + 0.01 * k for k in range(-2, 3)}
    uscrn(tmp_path / "uscrn", "WA_Ephrata_1_N", days, lat=47.11, lon=-119.57)
    base = ("samples", "--observations", tmp_path / "uscrn", "--out", "t.parquet")
    code, out, err = run(capsys, monkeypatch, *base, "--stack", inputs, "--model", model, "-q")
    assert (code, out) == (
        0,
        "t.parquet: 1 row, 1 station; check it with: mmnet samples check t.parquet\n",
    ), err
    assert "4 days of the other stations are left out" in err
    made = pq.read_table("t.parquet")
    assert (made["station"].to_pylist(), made["date"].to_pylist()) == (["Ephrata-1-N"], [date.fromisoformat(DAY)])

    code, out, err = run(capsys, monkeypatch, "samples", "check", "t.parquet", "--picture", "t.png")
    assert (code, err) == (0, "")
    assert re.search(r"^input    .*\bsmap\b.*: closed formula$", out, re.MULTILINE)
    assert out.endswith("no problem found\nt.png\n")
    assert Path("t.png").stat().st_size > 10_000
    pq.write_table(made.take([0, 0]), "twice.parquet")
    code, out, err = run(capsys, monkeypatch, "samples", "check", "twice.parquet")
    assert (code, err) == (3, "")
    assert "problem  1 rows repeat a station and day" in out

    assert_refused(*run(capsys, monkeypatch, *base, "--model", model), 2, "either a source")
    assert_refused(*run(capsys, monkeypatch, "samples", "--out", "t.parquet"), 2, "Missing option '--observations'")
    assert_refused(
        *run(capsys, monkeypatch, "samples", "--out", "o.parquet", "check", "t.parquet"), 2, "--out comes before check"
    )
    assert_refused(*run(capsys, monkeypatch, *base, "--source", "demo"), 2, "either a model")
    assert_refused(*run(capsys, monkeypatch, "samples", "check", "none.parquet"), 3, "no file none.parquet")


def test_the_reads_of_a_source_are_estimated_and_then_carried_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    from insitu_files import uscrn

    uscrn(tmp_path / "uscrn", "WA_Ephrata_1_N", {date.fromisoformat(DAY): 0.2}, lat=47.11, lon=-119.57)
    asked = ("--source", "demo", "--model", model, "-q")
    table = ("samples", "--observations", tmp_path / "uscrn", "--out", "d.parquet", *asked)
    series = ("points", "--points=-119.57,47.11", "--start", DAY, "--end", DAY, "--out", "d.csv", *asked)
    for command, made in ((table, "d.parquet"), (series, "d.csv")):
        code, out, err = run(capsys, monkeypatch, *command, "--dry-run")
        assert code == 0, err
        assert re.search(r"^weather +synthetic world .* 1 +local$", out, re.MULTILINE)
        assert not list(Path().glob(f"*{made}*"))
        assert run(capsys, monkeypatch, *command)[0] == 0
        assert [path.name for path in Path().glob(f"*{made}*")] == [made]
    assert_refused(*run(capsys, monkeypatch, *series[:-5], "--stack", "s", "--dry-run"), 2, "leave out --dry-run")
    assert_refused(
        *run(capsys, monkeypatch, *table[:-5], "--stack", "s.zarr", "--model", model, "--dry-run"), 3, "no stack at"
    )
