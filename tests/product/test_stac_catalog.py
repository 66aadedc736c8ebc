"""Catalogues of the days and the collection: valid, complete, reproducible, read by other software."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import odc.stac
import pystac
import pytest
import rioxarray
from odc.geo.geobox import GeoBox
from pystac.errors import STACValidationError

from mmnet_maps.errors import OutputError
from mmnet_maps.grid.tiles import tile_geobox
from mmnet_maps.product.day_writer import DayWriter, Revision
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.reader import open_maps
from mmnet_maps.product.stac_catalog import check_catalog, write_catalog
from mmnet_maps.product.stac_item import build_item
from stac_schemas import validate

DAY, NEXT = date(2021, 8, 8), date(2021, 8, 9)
NAMES = ("soil_moisture", "quality")


def write_day(
    out: Path, name: str, box: GeoBox, value: int, day: date = DAY, fingerprint: str = "f00d", **properties: Any
) -> Path:
    """A map with one packed value of soil moisture, nodata in its first row."""
    about = {"mmnet:model": "net", "mmnet:licences": ["CC BY-NC 4.0", "free"], "mmnet:synthetic": False} | properties
    revision = Revision(
        name=name,
        day=day,
        geobox=box,
        layers=NAMES,
        synthetic=about["mmnet:synthetic"],
        tags={},
        properties=about,
        fingerprint=fingerprint,
    )
    with DayWriter(out, revision) as writer:
        moisture = np.full(box.shape, value, np.uint16)
        quality = np.full(box.shape, 8, np.uint16)
        moisture[0], quality[0] = 65535, 2
        values = {"soil_moisture": moisture, "quality": quality}
        writer.write(slice(0, box.shape.y), slice(0, box.shape.x), values)
        return writer.finish(None).item


def neighbours() -> tuple[GeoBox, GeoBox]:
    """Pieces of 64 × 64 pixels of two tiles, side by side."""
    return tile_geobox("h06v03")[100:164, -64:], tile_geobox("h07v03")[100:164, :64]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def links(path: Path, relation: str) -> list[str]:
    return [link["href"] for link in read(path)["links"] if link["rel"] == relation]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiles on the first day, one on the second."""
    out = tmp_path_factory.mktemp("maps")
    west, east = neighbours()
    write_day(out, "h06v03", west, 1000)
    write_day(out, "h07v03", east, 3000, **{"mmnet:model": "other"})
    write_day(out, "h06v03", west, 2000, NEXT)
    assert write_catalog(out, [NEXT, DAY]) == out / "collection.json"
    return out


@pytest.fixture
def maps(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "maps"))


def everything(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_all_that_is_written_is_valid(written: Path) -> None:
    files = sorted(written.rglob("*.json"))
    assert len(files) == 3 + 2 + 1
    for path in files:
        assert len(validate(read(path))) == {"collection.json": 4, "catalog.json": 1}.get(path.name, 7)


def test_pystac_would_write_the_same(written: Path) -> None:
    for path in written.rglob("c*.json"):
        kind = pystac.Collection if path.name == "collection.json" else pystac.Catalog
        found = read(path)
        again = kind.from_dict(found).to_dict(include_self_link=False, transform_hrefs=False)
        root, *others = found.pop("links")
        assert root["rel"] == "root"  # which pystac replaces by the object itself
        assert [link for link in again.pop("links") if link["rel"] != "root"] == others
        assert again == found


def test_a_broken_collection_or_catalog_is_not_valid(written: Path) -> None:
    collection, catalog = read(written / "collection.json"), read(written / "20210808" / "catalog.json")
    for broken in (
        {**collection, "license": None},
        {**collection, "extent": {}},
        {**collection, "providers": [{"name": "mmnet_maps", "processing:level": 4, "roles": ["processor"]}]},
        {key: value for key, value in catalog.items() if key != "description"},
    ):
        with pytest.raises(STACValidationError):
            validate(broken)


def test_extent_summaries_and_assets_of_the_collection(written: Path) -> None:
    collection = read(written / "collection.json")
    west, east = (read(written / "20210808" / f"h0{number}v03_20210808.json")["bbox"] for number in (6, 7))
    assert collection["extent"] == {
        "spatial": {"bbox": [[west[0], min(west[1], east[1]), east[2], max(west[3], east[3])]]},
        "temporal": {"interval": [["2021-08-08T00:00:00Z", "2021-08-09T23:59:59Z"]]},
    }
    assert collection["summaries"] == {
        "gsd": [100.0],
        "proj:code": ["EPSG:5070"],
        "mmnet:model": ["net", "other"],
        "mmnet:synthetic": [False],
        "mmnet:licences": ["CC BY-NC 4.0", "free"],
    }
    assert set(collection["item_assets"]) == {*LAYERS, "picture", "members"}
    item = read(written / "20210808" / "h06v03_20210808.json")
    own = {"href", "file:size", "file:checksum"}
    for key, asset in item["assets"].items():
        assert {name: value for name, value in asset.items() if name not in own} == collection["item_assets"][key]
    assert "not observations" not in collection["description"]
    assert collection["mmnet:items"] == 3
    assert [read(written / day / "catalog.json")["mmnet:items"] for day in ("20210808", "20210809")] == [2, 1]


def test_the_collection_declares_synthetic_inputs(maps: Path) -> None:
    write_day(maps, "demo", neighbours()[0], 500, **{"mmnet:synthetic": True})
    collection = read(write_catalog(maps, [DAY]))
    assert "they are not observations" in collection["description"]
    assert collection["summaries"]["mmnet:synthetic"] == [False, True]


def test_a_plain_walk_finds_all_items_and_their_files(written: Path) -> None:
    collection = pystac.Collection.from_file(str(written / "collection.json"))
    found = list(collection.get_items(recursive=True))
    assert [item.id for item in found] == ["h06v03_20210808", "h07v03_20210808", "h06v03_20210809"]
    for item in found:
        assert item.get_collection() is item.get_root() is collection
        assert set(item.assets) == set(NAMES)
        assert all(Path(asset.get_absolute_href() or "").is_file() for asset in item.assets.values())
    assert [child.title for child in collection.get_children()] == ["2021-08-08", "2021-08-09"]


@pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning")  # odc-geo calls it
def test_odc_stac_loads_two_tiles_as_one_map(written: Path) -> None:
    collection = pystac.Collection.from_file(str(written / "collection.json"))
    found = [item for item in collection.get_items(recursive=True) if item.id.endswith("20210808")]
    data = odc.stac.load(found, bands=list(NAMES))
    west, _ = neighbours()
    assert data.sizes == {"time": 1, "y": 64, "x": 128}
    assert data.odc.geobox.crs.to_epsg() == 5070
    assert (data.odc.geobox.affine, data.soil_moisture.dtype) == (west.affine, np.uint16)
    expected = np.full((64, 128), 1000, np.uint16)
    expected[:, 64:] = 3000
    expected[0] = 65535
    np.testing.assert_array_equal(data.soil_moisture[0], expected)
    assert data.soil_moisture.attrs["nodata"] == 65535
    assert (data.quality[0, 0] == 2).all()
    assert (data.quality[0, 1:] == 8).all()


def test_rioxarray_opens_an_asset_in_physical_units(written: Path) -> None:
    collection = pystac.Collection.from_file(str(written / "collection.json"))
    item = collection.get_item("h07v03_20210808", recursive=True)
    assert item is not None
    with rioxarray.open_rasterio(item.assets["soil_moisture"].get_absolute_href(), mask_and_scale=True) as data:
        assert np.isnan(data[0, 0]).all()
        np.testing.assert_allclose(data[0, 1:], 0.3, atol=1e-6)
        assert (data.attrs["units"], data.rio.crs.to_epsg()) == ("m3 m-3", 5070)


def test_the_same_items_give_the_same_bytes(maps: Path) -> None:
    before = everything(maps)
    write_catalog(maps, [DAY])
    write_catalog(maps, iter([NEXT, NEXT]))
    write_catalog(maps, [])
    assert everything(maps) == before
    for path in maps.rglob("c*.json"):
        path.unlink()
    for day in (NEXT, DAY):  # the order of writing does not matter
        write_catalog(maps, [day])
    assert everything(maps) == before


def test_only_the_items_of_the_given_days_are_read(maps: Path) -> None:
    (maps / "20210809" / "h06v03_20210809.json").write_text("{}")
    before = read(maps / "collection.json")
    assert read(write_catalog(maps, [DAY])) == before


def test_hidden_and_foreign_files_are_not_items(maps: Path) -> None:
    folder = maps / "20210808"
    before = everything(maps)
    shutil.copy(folder / "h06v03_20210808.json", folder / ".h06v03_20210808.previous.json")
    (folder / "notes.json").write_text('{"type": "Feature", "properties": {}}')
    (folder / "list.json").write_text("[1]")
    (maps / "drafts").mkdir()
    shutil.copy(folder / "catalog.json", maps / "drafts")
    (maps / "99999999").mkdir()
    shutil.copy(folder / "catalog.json", maps / "99999999")
    write_catalog(maps, [DAY])
    after = everything(maps)
    assert {path: after[path] for path in before} == before


def test_a_day_without_items_loses_its_catalog_and_an_empty_folder_the_collection(maps: Path) -> None:
    for path in (maps / "20210809").glob("h06v03*"):
        path.unlink()
    write_catalog(maps, [NEXT])
    assert links(maps / "collection.json", "child") == ["./20210808/catalog.json"]
    assert not (maps / "20210809" / "catalog.json").exists()
    shutil.rmtree(maps / "20210808")
    write_catalog(maps, [DAY])
    assert not (maps / "collection.json").exists()
    write_catalog(maps / "not" / "yet", [DAY])
    assert not (maps / "not").exists()


@pytest.mark.parametrize("name", ["collection.json", "20210808/catalog.json"])
@pytest.mark.parametrize("foreign", ["mine", '{"type": "Catalog", "id": "mine"}', "folder"])
def test_foreign_files_are_never_overwritten(maps: Path, name: str, foreign: str) -> None:
    path = maps / name
    path.unlink()
    if foreign == "folder":
        path.mkdir()
    else:
        path.write_text(foreign)
    write_day(maps, "h07v03", neighbours()[1], 4000, NEXT)
    before = everything(maps)
    for call in (check_catalog, write_catalog):
        with pytest.raises(OutputError, match=r"was not made by mmnet_maps.*another output"):
            call(maps, [NEXT, DAY])
    assert everything(maps) == before
    check_catalog(maps / "elsewhere", [DAY])
    assert not (maps / "elsewhere").exists()


def test_an_item_that_cannot_be_read_is_one_line(maps: Path) -> None:
    (maps / "20210808" / "h08v03_20210808.json").mkdir()
    with pytest.raises(OutputError, match=r"cannot read .*h08v03_20210808\.json: Is a directory"):
        write_catalog(maps, [DAY])


def test_names_in_any_script_reach_every_reader(tmp_path: Path) -> None:
    west, east = neighbours()
    names = ("Zürich", "北京")
    items = [write_day(tmp_path, name, box, 1000) for name, box in zip(names, (west, east), strict=True)]
    write_catalog(tmp_path, [DAY])
    assert links(tmp_path / "20210808/catalog.json", "item") == [f"./{name}_20210808.json" for name in names]
    catalog = pystac.Collection.from_file(tmp_path / "collection.json")
    found = {item.id: item.assets["soil_moisture"].get_absolute_href() for item in catalog.get_items(recursive=True)}
    assert sorted(found) == [f"{name}_20210808" for name in names]
    assert all(href is not None and Path(href).is_file() for href in found.values())
    assert open_maps(tmp_path).names == names
    assert pystac.Item.from_file(items[1]).id == "北京_20210808"


def test_damaged_items_and_catalogs_are_left_out_and_named(maps: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = read(maps / "collection.json")
    item, other = maps / "20210808/h06v03_20210808.json", maps / "20210809/catalog.json"
    whole = read(item)
    for change in (
        {"bbox": None},
        {"bbox": [1, 2, "3", 4]},
        {"properties": whole["properties"] | {"gsd": "100 m"}},
        {"properties": whole["properties"] | {"mmnet:licences": [{"name": "free"}]}},
    ):
        item.write_text(json.dumps(whole | change))
        write_catalog(maps, [DAY])
        assert links(maps / "20210808/catalog.json", "item") == ["./h07v03_20210808.json"]
        assert f"{item} is a damaged STAC item" in caplog.text
        caplog.clear()
    item.write_text(json.dumps(whole))
    other.write_text(json.dumps(read(other) | {"mmnet:summaries": [], "mmnet:items": None}))
    write_catalog(maps, [DAY])
    assert read(maps / "collection.json") == before


def test_an_item_that_is_being_exchanged_is_skipped(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (maps / "20210808" / "gone_20210808.json").symlink_to(maps / "nowhere.json")
    before = read(maps / "collection.json")
    assert read(write_catalog(maps, [DAY])) == before


def fill(out: Path, days: Sequence[date], count: int, template: dict[str, Any]) -> None:
    for day in days:
        (out / f"{day:%Y%m%d}").mkdir(parents=True)
        for number in range(count):
            text = json.dumps({**template, "id": f"t{number:03d}_{day:%Y%m%d}"}, indent=2)
            (out / f"{day:%Y%m%d}" / f"t{number:03d}_{day:%Y%m%d}.json").write_text(text)


def test_a_conus_day_beside_a_year_of_days(tmp_path: Path) -> None:
    layer = tmp_path / "t_soil_moisture.tif"
    layer.write_bytes(b"")
    template = build_item(
        "t",
        day=DAY,
        geobox=tile_geobox("h06v03"),
        files=dict.fromkeys(LAYERS, layer),
        version=1,
        fingerprint="f00d",
        properties={"mmnet:model": "net"},
    )
    out = tmp_path / "maps"
    fill(out, [DAY], 854, template)
    write_catalog(out, [DAY])
    catalog = out / "20210808" / "catalog.json"
    for number in range(1, 365):
        folder = out / f"{datetime(2022, 1, 1, tzinfo=UTC) + timedelta(days=number):%Y%m%d}"
        folder.mkdir()
        shutil.copy(catalog, folder)
    start = time.perf_counter()
    collection = read(write_catalog(out, [DAY]))
    seconds = time.perf_counter() - start
    assert collection["mmnet:items"] == 854 * 365
    assert links(catalog, "item") == [f"./t{number:03d}_20210808.json" for number in range(854)]
    assert len(links(out / "collection.json", "child")) == 365
    assert seconds < 30, "usually below 2 s"
