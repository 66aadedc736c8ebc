"""The house: public names, one version, tests that mirror the rooms; lint-imports holds the directions of imports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mmnet_maps

ROOT = Path(__file__).parents[1]
ROOMS = {path.parent.relative_to(ROOT / "mmnet_maps") for path in (ROOT / "mmnet_maps").rglob("*.py")}


def test_public_names_are_sorted_and_there() -> None:
    names = list(mmnet_maps.__all__)
    assert names == sorted(names)
    assert all(hasattr(mmnet_maps, name) for name in names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mmnet_maps.nothing


def test_former_places_of_public_names_are_kept() -> None:
    """Scripts of before the rooms import from them."""
    from mmnet_maps.insitu import read_observations
    from mmnet_maps.stack import Stack

    assert read_observations.__module__ == "mmnet_maps.training.observations"
    assert Stack.__module__ == "mmnet_maps.stack.store"
    with pytest.raises(ImportError, match="nothing"):
        from mmnet_maps.stack import nothing  # type: ignore[attr-defined]  # noqa: F401


def test_one_version_everywhere() -> None:
    for name, pattern in (("pyproject.toml", r'^version = "(.+)"'), ("CITATION.cff", r"^version: (.+)")):
        assert re.search(pattern, (ROOT / name).read_text(), re.MULTILINE)[1] == mmnet_maps.__version__
    assert f"## {mmnet_maps.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_folders_of_tests_are_rooms() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert folders - {Path("integration")} <= ROOMS


def test_rooms_hold_no_code_of_their_own() -> None:
    """A name is imported from the module that defines it, but open_source, Stack and the command line."""
    inits = [path for path in (ROOT / "mmnet_maps").rglob("*/__init__.py") if path.parent != ROOT / "mmnet_maps"]
    longer = [path.parent.name for path in inits if len(path.read_text().splitlines()) > 1]
    assert set(longer) <= {"cli", "sources", "stack"}


def test_the_map_of_the_house_names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert [room for room in ROOMS if len(room.parts) == 1 and f"`{room}`" not in page] == []
