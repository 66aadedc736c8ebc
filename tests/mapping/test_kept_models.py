"""Maps link the items of their networks, and keep the networks beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pystac
import pytest

from analytic import make_model
from batch_world import CORNER, DAYS
from mmnet_maps.errors import OutputError
from mmnet_maps.mapping.kept_models import keep_models
from mmnet_maps.mapping.pipeline import make_maps
from mmnet_maps.model.saved import read_saved
from stac_schemas import validate


def make(out: Path, stack: Path, *models: Path) -> pystac.Item:
    made = make_maps(CORNER, str(DAYS[0]), out=out, stack=stack, model=list(models), quiet=True)
    return pystac.Item.from_file(str(made.products[0].item))


def linked(item: pystac.Item) -> list[pystac.Item]:
    return [pystac.Item.from_file(link.get_absolute_href() or "") for link in item.get_links("derived_from")]


def test_each_network_of_a_map_is_linked_and_kept_whole(tmp_path: Path, corner_stack: Path, model: Path) -> None:
    other = make_model(tmp_path / "other", seed=9)
    (other / "README.md").write_text("Weights: CC-BY-4.0\n", encoding="utf-8")
    item = make(tmp_path / "maps", corner_stack, model, other)
    validate(item.to_dict(include_self_link=False, transform_hrefs=False))
    found = linked(item)
    for path, one, link in zip((model, other), found, item.get_links("derived_from"), strict=True):
        content: dict[str, Any] = one.to_dict(include_self_link=False, transform_hrefs=False)
        validate(content)
        kept = Path(one.self_href).parent
        assert link.extra_fields["mlm:name"] == one.properties["mlm:name"]
        assert {kept / Path(asset.href).name for asset in one.assets.values()} == {*kept.iterdir()} - {
            kept / "stac.json"
        }
        assert read_saved(kept)[0].fingerprint == read_saved(path)[0].fingerprint == one.properties["mmnet:fingerprint"]
    assert [one.properties["license"] for one in found] == ["other", "CC-BY-4.0"]
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "maps/models").rglob("*.json"))


def test_a_map_by_the_kept_model_is_the_same_and_keeps_nothing_twice(
    tmp_path: Path, corner_stack: Path, model: Path
) -> None:
    out = tmp_path / "maps"
    item = make(out, corner_stack, model)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    (kept,) = (out / "models").iterdir()
    assert make(out, corner_stack, kept).properties == item.properties
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()} == before


def test_maps_of_before_are_kept_and_damaged_copies_made_good(tmp_path: Path, corner_stack: Path, model: Path) -> None:
    out = tmp_path / "maps"
    path = Path(make(out, corner_stack, model).self_href)
    (kept,) = (out / "models").iterdir()
    wanted = {file.name: file.read_bytes() for file in kept.iterdir()}
    item = json.loads(path.read_text(encoding="utf-8"))
    item["links"] = [link for link in item["links"] if link["rel"] != "derived_from"]
    path.write_text(json.dumps(item), encoding="utf-8")
    (kept / "weights.safetensors").write_bytes(b"damaged")
    (kept / "stac.json").unlink()
    assert linked(make(out, corner_stack, model)) == []
    assert json.loads(path.read_text(encoding="utf-8")) == item
    assert {file.name: file.read_bytes() for file in kept.iterdir()} == wanted


def test_a_full_disk_leaves_no_item_of_half_a_model(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OutputError("no space")

    monkeypatch.setattr("mmnet_maps.mapping.kept_models.write_whole", full)
    with pytest.raises(OutputError, match="no space"):
        keep_models(tmp_path, [read_saved(model)[0]])
    assert list(tmp_path.rglob("stac.json")) == []
