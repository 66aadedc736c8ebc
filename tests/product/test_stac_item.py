"""STAC items: valid by their schemas, and complete for readers of catalogues."""

from __future__ import annotations

import copy
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
from jsonschema import Draft7Validator
from odc.geo.geobox import GeoBox
from pystac.errors import STACValidationError
from pystac.validation.stac_validator import GetSchemaError

from mmnet_maps import __version__
from mmnet_maps.grid.tiles import tile_geobox
from mmnet_maps.product.day_writer import DayWriter, Revision
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.quality import QUALITY_BITS
from mmnet_maps.product.stac_item import EXTENSIONS
from stac_schemas import validate

PROPERTIES = {
    "mmnet:model": "net",
    "mmnet:inputs": {"smap": "SPL3SMP_E"},
    "mmnet:licences": [],
    "mmnet:synthetic": False,
}


def make(out: Path, box: GeoBox, layers: tuple[str, ...] = tuple(LAYERS), members: int = 0) -> Path:
    def picture(_: object, path: Path) -> None:
        path.write_bytes(b"\x89PNG ... Software\0mmnet_maps ...")

    revision = Revision(
        name="h06v03",
        day=date(2021, 8, 8),
        geobox=box,
        layers=layers,
        synthetic=False,
        tags={"model": "net"},
        properties=PROPERTIES,
        fingerprint="f00d",
        members=members,
    )
    with DayWriter(out, revision) as writer:
        values = {name: np.full(box.shape, 3000, np.uint16) for name in layers}
        kept = np.full((members, *box.shape), 0.3, np.float32) if members else None
        writer.write(slice(0, box.shape.y), slice(0, box.shape.x), values, kept)
        return writer.finish(picture).item


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def item(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return content(make(tmp_path_factory.mktemp("maps"), tile_geobox("h06v03")[:8, :8], members=2))


def test_an_item_is_valid_with_all_its_extensions(item: dict[str, Any]) -> None:
    checked = validate(item)
    assert len(checked) == 1 + len(EXTENSIONS)
    assert set(EXTENSIONS.values()) == set(item["stac_extensions"]) < set(checked)
    assert set(item["assets"]) == {*LAYERS, "picture", "members"}


@pytest.mark.parametrize("crs", ["EPSG:4326", "ESRI:102039", "+proj=laea +lat_0=40 +lon_0=-100 +datum=WGS84 +units=m"])
def test_items_on_other_grids_are_valid(tmp_path: Path, crs: str) -> None:
    degrees = crs == "EPSG:4326"
    box = GeoBox.from_bbox(
        (-100, 40, -99.9, 40.1) if degrees else (0, 0, 900, 900), crs=crs, resolution=0.01 if degrees else 90
    )
    made = content(make(tmp_path, box, ("soil_moisture", "quality")))
    validate(made)
    assert made["properties"].get("gsd") == (None if degrees else 90.0)


BREAKS: dict[str, Any] = {
    "item/v": lambda item: item.pop("geometry"),
    "item.json": lambda item: item["properties"].update(datetime="yesterday"),
    "projection": lambda item: item["properties"].update({"proj:code": 5070}),
    "raster": lambda item: item["assets"]["smap"]["bands"][0].update({"raster:scale": "tiny"}),
    "file": lambda item: item["assets"]["smap"].update({"file:size": "large"}),
    "classification": lambda item: item["assets"]["quality"].update({"classification:bitfields": []}),
    "version": lambda item: item["properties"].update(version=2),
    "processing": lambda item: item["properties"].update({"processing:software": "mmnet_maps 0.1.0"}),
}


@pytest.mark.parametrize("part", BREAKS)
def test_a_broken_item_is_not_valid(item: dict[str, Any], part: str) -> None:
    broken = copy.deepcopy(item)
    BREAKS[part](broken)
    with pytest.raises(STACValidationError) as error:
        validate(broken)
    assert part.split("/")[0].removesuffix(".json") in str(error.value).split("schema at ")[1].splitlines()[0]


def test_a_missing_schema_is_never_fetched(item: dict[str, Any]) -> None:
    strange = {**item, "stac_extensions": ["https://stac-extensions.github.io/eo/v2.0.0/schema.json"]}
    with pytest.raises(GetSchemaError, match="not among the schemas"):
        validate(strange)


def test_the_bits_follow_the_classification_extension(item: dict[str, Any]) -> None:
    """The schema checks assets, not their bands, so its definition is applied to the band here."""
    schema = json.loads(
        (Path(__file__).parents[1] / "schemas" / "classification-v2.0.0.json").read_text(encoding="utf-8")
    )
    fields = Draft7Validator({"$ref": "#/definitions/fields", "definitions": schema["definitions"]})
    band = item["assets"]["quality"]["bands"][0]
    fields.validate(band)
    assert len(band["classification:bitfields"]) == len(QUALITY_BITS)
    band = copy.deepcopy(band)
    band["classification:bitfields"][3]["classes"][0]["value"] = "no"
    assert not fields.is_valid(band)


def test_processing_and_sample_distance(item: dict[str, Any]) -> None:
    properties = item["properties"]
    assert properties["processing:software"] == {"mmnet_maps": __version__}
    assert properties["processing:level"] == "L4"
    assert properties["gsd"] == 100.0


def test_links_lead_to_the_catalog_of_the_day_and_to_the_collection(item: dict[str, Any]) -> None:
    assert item["collection"] == "mmnet-maps"
    assert {link["rel"]: link["href"] for link in item["links"]} == {
        "root": "../collection.json",
        "collection": "../collection.json",
        "parent": "./catalog.json",
    }


def test_an_item_reads_without_the_catalogs(tmp_path: Path) -> None:
    path = make(tmp_path, tile_geobox("h06v03")[:8, :8], ("soil_moisture", "quality"))
    read = pystac.Item.from_file(str(path))
    assert read.collection_id == "mmnet-maps"
    assert Path(read.assets["soil_moisture"].get_absolute_href() or "").is_file()
