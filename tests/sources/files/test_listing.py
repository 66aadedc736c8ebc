from __future__ import annotations

import os
import string
import sys
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnet_maps.errors import InputError
from mmnet_maps.sources.files.config import VariableFiles
from mmnet_maps.sources.files.listing import Listing, listed, matching, stated_by
from mmnet_maps.sources.files.locations import gdal_path, redacted, shown

LITERALS = st.text(string.ascii_letters + "._-+()$^[]", max_size=8)
FORMATS = st.sampled_from(("%Y%m%d", "%Y%j", "%Y-%m-%dT%H%M%S", "%Y.%m.%d", "%Y%jT%H%M%S", "%Y%m", "%Y"))


def period(folder: Path, pattern: str) -> list[tuple[date | None, date | None]]:
    return [(file.first, file.last) for file in matching("red", pattern, folder)]


@given(LITERALS, FORMATS, LITERALS, st.datetimes(datetime(1000, 1, 1)))
def test_a_name_built_from_a_pattern_states_its_parts(before: str, form: str, after: str, when: datetime) -> None:
    stated = stated_by(f"{before}{{date:{form}}}{after}*?", f"{before}{when.strftime(form)}{after}xy")
    assert stated is not None
    assert "".join(value for _, value in stated) == "".join(
        when.strftime(f"%{code}").zfill(4 if code == "Y" else 0) for code, _ in stated
    )


@given(st.text(max_size=12), st.text(max_size=12).filter(lambda text: "/" not in text))
def test_literal_text_matches_only_itself(literal: str, other: str) -> None:
    literal = "".join(letter for letter in literal if letter not in "{}*?/%")
    assert stated_by(literal, literal) == []
    assert (stated_by(literal, other) == []) == (other == literal)


@given(st.dates(date(2000, 1, 1), date(2029, 12, 31)), FORMATS)
def test_the_period_of_a_file_holds_its_day(tmp_path_factory: pytest.TempPathFactory, day: date, form: str) -> None:
    folder = tmp_path_factory.mktemp("listed")
    (folder / f"a_{day.strftime(form)}_b.tif").touch()
    ((first, last),) = period(folder, f"a_{{date:{form}}}_*.tif")
    assert first is not None
    assert last is not None
    assert first <= day <= last
    if "%d" in form or "%j" in form:
        assert first == last
    else:
        assert (first - timedelta(days=1)).strftime(form) < day.strftime(form) < (last + timedelta(1)).strftime(form)


def test_folder_names_may_hold_parts_of_the_date(tmp_path: Path) -> None:
    for name in ("2021/08/a_08.tif", "2021/08/a_31.tif", "2021/09/a_31.tif", "2021/08/b_09.tif", "2021/x/a_01.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = matching("red", "{date:%Y}/{date:%m}/a_{date:%d}.tif", tmp_path)
    assert sorted(file.first for file in found if file.first) == [date(2021, 8, 8), date(2021, 8, 31)]
    (tmp_path / "2021/08/c_20210801.tif").touch()
    (tmp_path / "2021/08/c_20200801.tif").touch()
    assert period(tmp_path, "{date:%Y}/*/c_{date:%Y%m%d}.tif") == [(date(2021, 8, 1), date(2021, 8, 1))]


def test_a_folder_is_listed_once_and_broken_links_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a_20210808.tif", "a_20210809.tif", "other.txt"):
        (tmp_path / name).touch()
    (tmp_path / "link.txt").symlink_to(tmp_path / "nowhere")
    calls: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (calls.append(str(path)), scandir(path))[1])
    assert len(matching("red", f"{tmp_path}/a_{{date:%Y%m%d}}.tif", Path("elsewhere"))) == 2
    assert calls == [str(tmp_path)]


@given(st.lists(st.dates(date(2021, 1, 1), date(2021, 3, 1)), min_size=1), st.integers(0, 60), st.integers(0, 60))
def test_days_of_a_listing_are_those_between(days: list[date], start: int, length: int) -> None:
    entry = VariableFiles(dates=dict.fromkeys(days, ("a.tif",)), product="P")
    listing: Listing = listed("red", entry, Path("."))
    first = date(2021, 1, 1) + timedelta(days=start)
    last = first + timedelta(days=length)
    assert listing.days(first, last) == sorted({day for day in days if first <= day <= last})


def test_the_newest_version_of_a_pattern_comes_first(tmp_path: Path) -> None:
    for version in ("001", "003", "002"):
        (tmp_path / f"SMAP_20210808_{version}.h5").touch()
    entry = VariableFiles(pattern="SMAP_{date:%Y%m%d}_*.h5", product="P")
    assert [str(file.path)[-6:-3] for file in listed("smap", entry, tmp_path).files] == ["003", "002", "001"]


def test_a_pattern_without_files_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"red: the pattern a_\{date:%Y\}\.tif matches no file in .*; expected at least one; correct"
    ):
        matching("red", "a_{date:%Y}.tif", tmp_path)


def test_a_missing_package_is_reported_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=r"cannot be listed .*pip install '\.\[remote\]'") as caught:
        matching("red", "s3://me:hunter2@bucket/a/*.tif", Path("."))
    assert "hunter2" not in str(caught.value)


def test_places_in_gdals_notation_and_in_messages() -> None:
    assert gdal_path("s3://bucket/a.tif") == "/vsis3/bucket/a.tif"
    assert gdal_path("http://host/a.tif?x=1") == "/vsicurl/http://host/a.tif?x=1"
    assert gdal_path(Path("/a/b.tif")) == "/a/b.tif"
    assert shown("http://me@host:81/a.tif?x=1#y") == "http://host:81/a.tif"
    error = OSError("no '/vsicurl/https://me:hunter2@host/a.tif?key=s3cret',\n url=URL('http://u:p@h/b?q=1')")
    assert redacted(error) == "no '/vsicurl/https://host/a.tif', url=URL('http://h/b')"
