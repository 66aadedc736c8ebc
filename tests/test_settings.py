"""Settings: their sources, in order; their one declaration; and files that are wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_origin, get_type_hints

import click
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmnet_maps.cli.map import map_command
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.mapping.lazy import downscale_product
from mmnet_maps.resources import packaged
from mmnet_maps.settings import MapOptions, MapSettings, first_error, read_model, require_stack, settle


def test_a_fresh_install_uses_the_demo_world() -> None:
    assert settle({}) == MapSettings()


def test_the_call_beats_the_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mmnet.yaml").write_text("source: files.yaml\nout: here\nresolution: 50\n")
    assert settle({}).source == "files.yaml"
    assert settle({}).out == "here"
    assert settle({"out": Path("there")}).out == "there"
    assert settle({"resolution": None}).resolution == 50
    monkeypatch.setenv("MMNET_STACK", "mine.zarr")
    assert (settle({}).stack, settle({}).source) == ("mine.zarr", None)
    assert (settle({"source": "demo"}).stack, settle({"source": "demo"}).source) == (None, "demo")
    assert (settle({"stack": "other"}).stack, settle({"stack": "other"}).source) == ("other", None)


def test_nothing_falls_back_to_the_demo_world_where_inputs_are_configured() -> None:
    Path("mmnet.yaml").write_text("stack: stack.zarr\n")
    assert settle({}).source is None
    Path("mmnet.yaml").write_text("stack: stack.zarr\nsource: demo\n")
    with pytest.raises(RequestError, match="mmnet.yaml names both a stack and a source; keep the one"):
        settle({})
    assert settle({"source": "s.yaml"}) == MapSettings(source="s.yaml")


def test_the_variable_that_names_a_missing_stack_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_stack(settle({}))
    with pytest.raises(InputError, match="no stack at s.zarr; build one with: mmnet stack --out s.zarr"):
        require_stack(settle({"stack": "s.zarr"}))
    monkeypatch.setenv("MMNET_STACK", "s.zarr")
    with pytest.raises(InputError, match="no stack at s.zarr, which MMNET_STACK names; correct or unset the variable"):
        require_stack(settle({}))
    Path("s.zarr").mkdir()
    Path("s.zarr", "zarr.json").touch()
    require_stack(settle({}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resolution: -5", "mmnet.yaml resolution: .*greater than 0, not -5"),
        ("resolutoin: 5", "mmnet.yaml resolutoin: .*the settings are stack, source"),
        ("- a\n- b", "the settings mmnet.yaml: found a list; expected lines of 'key: value'"),
        ("a: [", "cannot read the settings mmnet.yaml"),
        ("model: 5", "mmnet.yaml model: Input should be a valid tuple, not 5"),
        ("model: {a: 1}", "mmnet.yaml model: Input should be a valid tuple"),
        ("model: [a, 1]", "mmnet.yaml model.1: Input should be a valid string, not 1"),
        ("out: a\nstack: b\nout: c", "line 3: out stands in line 1 already; expected a YAML file"),
        ("out: {a: 1,\n a: 2}", "line 2: a stands in line 1 already"),
        ("out: {a: 1, a: 2}", "line 1: a stands in line 1 already"),
        ("out: " + "[" * 5000, "cannot read the settings mmnet.yaml: its lists or keys are nested too deeply"),
        ("out: 2021-13-45", "line 1: 2021-13-45 is no timestamp"),
        ("out: !!bool maybe", "line 1: maybe is no bool"),
        ("out: " + "9" * 5000, r"line 1: 9+… is no int"),
        (f"out: !!float {'x' * 900}", "line 1: x+… is no float"),
        ("resolution: " + "x" * 900, "mmnet.yaml resolution: Input should be a valid number"),
        ("? [a]\n: b", "line 1: found unhashable key"),
        ("model: !!python/object/apply:os.system ['true']", "cannot read the settings"),
    ],
)
def test_wrong_files_are_refused_in_one_line(text: str, message: str) -> None:
    Path("mmnet.yaml").write_text(text)
    with pytest.raises(RequestError, match=message) as error:
        settle({})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300


def test_merged_keys_are_not_given_twice() -> None:
    Path("mmnet.yaml").write_text("<<: {out: a, stack: b}\nout: c\n")
    assert (settle({}).out, settle({}).stack) == ("c", "b")


def test_a_named_file_must_exist() -> None:
    with pytest.raises(RequestError, match="cannot read the settings none.yaml"):
        settle({"config": "none.yaml"})


def test_the_options_of_the_command_line_are_the_settings() -> None:
    options = {one.name: one for one in map_command.params if isinstance(one, click.Option)}
    assert [name for name in options if name in MapSettings.model_fields] == [*MapSettings.model_fields]
    assert set(options) - set(MapSettings.model_fields) == {
        "aoi",
        "config",
        "dates",
        "debug",
        "end",
        "quiet",
        "start",
        "version",
    }
    given = map_command.make_context("map", ["--aoi", "a", "--date", "2021-08-08"]).params
    for name, field in MapSettings.model_fields.items():
        assert str(options[name].help).startswith(str(field.description))
        assert given[name] in (None, ()), "a default of the option would override the settings file"


def test_the_keywords_of_the_functions_are_the_settings() -> None:
    keywords = get_type_hints(MapOptions)
    assert list(keywords) == [*MapSettings.model_fields, "config"]
    for name, field in MapSettings.model_fields.items():
        if get_origin(field.annotation) is Literal:
            assert keywords[name] == field.annotation | None
    documented = str(downscale_product.__doc__).split("Returns")[0]
    for name in set(keywords) - {"out"}:  # a lazy product has no files
        assert re.search(rf"^    (\w+, )*{name}(, \w+)*$", documented, re.MULTILINE), name


def test_the_file_in_configs_is_the_schema() -> None:
    path = packaged("configs") / "map.yaml"
    lines = []
    for name, field in MapSettings.model_fields.items():
        default = MapSettings().model_dump(mode="json", include={name})
        unset = default[name] is None
        lines.append(f"# {field.description}\n" + (f"# {name}:\n" if unset else yaml.safe_dump(default)))
    assert path.read_text().split("\n\n", 1)[1] == "".join(lines)
    assert settle({"config": path}) == settle({})


def test_an_empty_file_changes_nothing() -> None:
    Path("mmnet.yaml").write_text("# nothing\n")
    assert settle({}) == MapSettings()


class Pixel(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: float = Field(gt=0)
    names: dict[str, int] = {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size: -1", "size: Input should be greater than 0, not -1; see the keys of pixel.yaml"),
        ("size: -1\nnames: {a: b}", "size: Input should be greater than 0, not -1 (and 1 more); see"),
        ("size: 1\ncolour: red", "colour: Extra inputs are not permitted; see"),
        ("size: 1\nnames: {2: 1}", "names.2: Input should be a valid string, not 2; see"),
        ("size: [1, 2]", "size: Input should be a valid number; see"),
        ("", "size: Field required; see"),
        ("hello", "found a str; expected lines of 'key: value'"),
        ("a: [", "cannot read the pixel "),
        ("\x00", "cannot read the pixel "),
    ],
)
def test_a_fault_in_a_file_is_one_line_with_key_value_and_advice(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RequestError) as error:
        read_model(path, Pixel, "pixel", see="pixel.yaml")
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unreadable_file_is_reported_with_the_reason(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(RequestError, match=f"cannot read the pixel .*: {reason}"):
            read_model(path, Pixel, "pixel")


def test_a_fault_of_the_whole_has_no_key() -> None:
    with pytest.raises(ValidationError) as error:
        Pixel.model_validate("hello")
    assert first_error(error.value).startswith("Input should be a valid dictionary")
