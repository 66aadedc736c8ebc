from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from mmnet_maps.errors import RequestError
from mmnet_maps.sources.files.config import Mask, Smooth, SourcesConfig, VariableFiles, load_sources
from mmnet_maps.variables import VARIABLES

RED = {"files": "red.tif", "date": "2021-08-08", "product": "P"}


def write(place: Path, /, **changes: Any) -> Path:
    values = {"name": "mine", "variables": {"red": RED}, **changes}
    path = place / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(RequestError) as caught:
        load_sources(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_one_path_or_several_and_days(tmp_path: Path) -> None:
    config, folder = load_sources(
        write(
            tmp_path,
            folder="rasters",
            variables={
                "red": RED,
                "blue": {"dates": {date(2021, 8, 8): "a.tif", "2021-08-16": ["b.tif", "c.tif"]}, "product": "P"},
                "landcover": {"files": ["a.tif", "b.tif"], "codes": {1: 11}, "nodata": 255, "product": "P"},
            },
        )
    )
    assert folder == tmp_path / "rasters"
    assert config.variables["red"].files == ("red.tif",)
    assert config.variables["red"].date == date(2021, 8, 8)
    assert config.variables["blue"].dates == {date(2021, 8, 8): ("a.tif",), date(2021, 8, 16): ("b.tif", "c.tif")}
    assert config.variables["landcover"].nodata == (255.0,)


def test_the_folder_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, folder="${MY_RASTERS}/2021")
    monkeypatch.delenv("MY_RASTERS", raising=False)
    assert "export MY_RASTERS=" in refusal(path)
    monkeypatch.setenv("MY_RASTERS", "/data")
    assert load_sources(path)[1] == Path("/data/2021")
    monkeypatch.setenv("MY_RASTERS", "relative")
    assert load_sources(path)[1] == tmp_path / "relative/2021"


def test_secrets_of_the_environment_reach_no_folder_url_or_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A YAML from somebody else must not send a secret anywhere."""
    for name in ("AWS_SECRET_ACCESS_KEY", "MMNET_RASTERS"):
        monkeypatch.setenv(name, "hunter2")
    for folder, words in (
        ("/data/${AWS_SECRET_ACCESS_KEY}", "AWS_SECRET_ACCESS_KEY, which is not read; expected MMNET_"),
        ("https://example.org/${AWS_SECRET_ACCESS_KEY}", "AWS_SECRET_ACCESS_KEY, which is not read"),
        ("https://example.org/${MMNET_RASTERS}", "variable into a URL; expected variables only in local folders"),
        ("s3://${MMNET_RASTERS}/a", "variable into a URL"),
    ):
        message = refusal(write(tmp_path, folder=folder))
        assert words in message
        assert "hunter2" not in message
    monkeypatch.setenv("MMNET_RASTERS", "s3://bucket?key=hunter2")
    message = refusal(write(tmp_path, folder="${MMNET_RASTERS}/a"))
    assert "variable into a URL" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"name": None}, "name: Field required"),
        ({"name": "a b"}, "name: String should match pattern"),
        ({"rest": "elsewhere"}, "rest: Input should be 'demo', 'open' or 'earthengine', not 'elsewhere'"),
        ({"variables": {}}, "variables"),
        ({"variables": {"rde": RED}}, "unknown variable rde; expected some of elevation"),
        ({"variables": {"red": {**RED, "band": 0}}}, "variables.red.band: Input should be greater than or equal to 1"),
        ({"variables": {"red": {**RED, "bands": 1}}}, "variables.red.bands: Extra inputs are not permitted"),
        ({"variables": {"red": {**RED, "scale": 0}}}, "variables.red: scale is 0"),
        (
            {"variables": {"red": {**RED, "scale": float("nan")}}},
            "variables.red.scale: Input should be a finite number",
        ),
        ({"variables": {"red": {**RED, "date": "August"}}}, "variables.red.date: "),
        ({"variables": {"red": {"product": "P"}}}, "variables.red: give one of files, dates and pattern"),
        ({"variables": {"red": {**RED, "dates": {"2021-08-08": "a.tif"}}}}, "give one of files, dates and pattern"),
        ({"variables": {"red": {"files": "a.tif"}}}, "variables.red.product: Field required"),
        ({"variables": {"red": {**RED, "codes": {1: 11}}}}, "red has no codes"),
        ({"variables": {"red": {**RED, "pattern": "a.tif"}}}, "give one of files, dates and pattern"),
        ({"variables": {"red": {"pattern": "a.tif", "date": "2021-08-08", "product": "P"}}}, "date needs files"),
        *(
            ({"variables": {"red": {"pattern": pattern, "product": "P"}}}, f"variables.red.pattern: {words}")
            for pattern, words in (
                ("{when}.tif", "unknown part {when}; expected {tile} or {date:...} of %Y, %m"),
                ("{date:%b}.tif", "unknown part {date:%b}"),
                ("{date:}.tif", "unknown part {date:}"),
                ("{date:%m%d}.tif", "incomplete date; expected a year"),
                ("{date:%Y%d}.tif", "incomplete date; expected a year"),
                ("{date:%Y%m}/{date:%j}.tif", "incomplete date; expected a year"),
                ("{date:%Y.tif", "unmatched brace"),
                ("**/a.tif", "no file name, or **; expected a file name"),
                ("folder/", "no file name, or **; expected a file name"),
            )
        ),
        ({"variables": {"red": {**RED, "valid": [1, 0]}}}, "valid is not increasing"),
        ({"variables": {"red": {**RED, "mask": {"band": 2}}}}, "give the bits that must be zero, or the values"),
        ({"variables": {"red": {**RED, "mask": {"bits": [-1]}}}}, "variables.red.mask.bits"),
        ({"variables": {"red": {**RED, "smooth": {"radius": 0}}}}, "variables.red.smooth.radius"),
        ({"variables": {"landcover": {**RED, "valid": [11, 95]}}}, "landcover holds classes"),
        ({"variables": {"red": {**RED, "units": "linear"}}}, "red: units 'linear' are unknown; expected 1 or units"),
        (
            {"variables": {"vv": {**RED, "units": "W"}}},
            "vv: units 'W' are unknown for backscatter; expected dB or linear",
        ),
        (
            {"variables": {"red": {**RED, "units": "parsec"}}},
            "red: units 'parsec' do not convert to 1; expected 1 or units that convert to it",
        ),
        (
            {"variables": {"tmmx": {**RED, "units": "kPa"}}},
            "tmmx: units 'kPa' do not convert to K; expected K or units that convert to it",
        ),
        (
            {"variables": {"landcover": {**RED, "codes": {71: 999}}}},
            "landcover: codes names 999, which is no NLCD code",
        ),
        ({"variables": {"landcover": {**RED, "codes": {71: 60}}}}, "landcover: codes names 60, which is no NLCD code"),
        ({"variables": {"landcover": {**RED, "codes": {71: -1}}}}, "landcover: codes names -1, which is no NLCD code"),
        (
            {"variables": {"vv": {**RED, "valid": [20, 90]}}},
            "vv: valid is 20 to 90, where no value is possible; expected some of -30 to 10 dB",
        ),
    ],
)
def test_an_invalid_value_is_reported_with_file_key_and_expectation(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    assert words in refusal(write(tmp_path, **changes))


@pytest.mark.parametrize("text", ["- a\n- b\n", "", "a: [", "\x00", "hello"])
def test_yaml_other_than_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert str(path) in refusal(path)


def test_a_missing_yaml_is_reported(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.yaml")
    assert "Is a directory" in refusal(tmp_path)


PATHS = st.lists(st.text("abc#:- '\"é./", min_size=1, max_size=9), min_size=1, max_size=3).map(tuple)


PATTERNS = st.sampled_from(("a/*_{date:%Y%m%d}.tif", "{tile}.{date:%Y%j}.hdf", "lat*_lon*.tif"))


@st.composite
def entries(draw: st.DrawFn) -> VariableFiles:
    kind = draw(st.sampled_from(("files", "dates", "pattern")))
    masks = st.builds(Mask, replace=st.dictionaries(st.text("a.:"), st.text("b#")), bits=st.just((1, 3)))
    return VariableFiles(
        files=draw(PATHS) if kind == "files" else (),
        dates=draw(st.dictionaries(st.dates(), PATHS, min_size=1, max_size=3)) if kind == "dates" else {},
        date=draw(st.none() | st.dates()) if kind == "files" else None,
        pattern=draw(st.sampled_from(("a/*_{date:%Y%m%d}.tif", "{tile}.{date:%Y%j}.hdf")))
        if kind == "pattern"
        else None,
        mask=draw(st.none() | masks),
        smooth=draw(st.none() | st.builds(Smooth, radius=st.integers(1, 9))),
        fields=draw(st.none() | st.integers(1, 8)),
        scale=draw(st.none() | st.floats(1e-9, 1e9)),
        nodata=tuple(draw(st.lists(st.floats(-1e4, 1e4), max_size=2))),
        product=draw(st.text("ab: #|>-", min_size=1)),
    )


@given(st.dictionaries(st.sampled_from(sorted(set(VARIABLES) - {"landcover"})), entries(), min_size=1, max_size=3))
def test_written_yaml_reads_back(variables: dict[str, VariableFiles]) -> None:
    config = SourcesConfig(name="mine", rest="demo", variables=variables)
    text = yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True))
    assert SourcesConfig.model_validate(yaml.safe_load(text)) == config


def test_every_field_has_one_sentence() -> None:
    models: list[type[BaseModel]] = [SourcesConfig, VariableFiles, Mask, Smooth]
    for model in models:
        assert model.model_config["frozen"]
        assert model.model_config["extra"] == "forbid"
        for name, field in model.model_fields.items():
            assert (field.description or "").endswith("."), name
