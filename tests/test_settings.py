"""Where settings come from, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmnet_maps.errors import RequestError
from mmnet_maps.settings import MapSettings, settle
from mmnet_maps.sources.files.config import to_yaml


def test_a_fresh_install_takes_the_demo_world() -> None:
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resolution: -5", "mmnet.yaml resolution: .*greater than 0, not -5"),
        ("resolutoin: 5", "mmnet.yaml resolutoin: .*the settings are stack, source"),
        ("- a\n- b", "hold a list; expected lines of 'key: value'"),
        ("a: [", "cannot read the settings mmnet.yaml"),
        ("model: !!python/object/apply:os.system ['true']", "cannot read the settings"),
    ],
)
def test_wrong_files_are_told_in_one_line(text: str, message: str) -> None:
    Path("mmnet.yaml").write_text(text)
    with pytest.raises(RequestError, match=message) as error:
        settle({})
    assert "\n" not in str(error.value)


def test_a_named_file_must_be_there() -> None:
    with pytest.raises(RequestError, match="cannot read the settings none.yaml"):
        settle({"config": "none.yaml"})


def test_the_file_in_configs_is_the_schema() -> None:
    path = Path(__file__).parents[1] / "configs" / "map.yaml"
    assert path.read_text().split("\n\n", 1)[1] == to_yaml(MapSettings())
    assert settle({"config": path}) == settle({})


def test_an_empty_file_changes_nothing() -> None:
    Path("mmnet.yaml").write_text("# nothing\n")
    assert settle({}) == MapSettings()
