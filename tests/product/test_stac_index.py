"""The table of a day's items: equal to the items, the same bytes again, read by other software."""

from __future__ import annotations

import errno
import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import geopandas
import pyarrow.dataset
import pyarrow.parquet
import pytest
from stac_geoparquet.arrow import stac_table_to_items

from mmnet_maps.errors import OutputError
from mmnet_maps.grid.tiles import tile_geobox
from mmnet_maps.product.stac_catalog import read_items
from mmnet_maps.product.stac_index import INDEX, check_index, write_index
from mmnet_maps.product.stac_item import build_item

DAY, NEXT = date(2021, 8, 7), date(2021, 8, 8)
LINK = {"rel": "derived_from", "href": "../models/m_3f2a/stac.json", "type": "application/geo+json", "mlm:name": "m"}


def write_item(out: Path, tile: str, day: date = DAY, layers: tuple[str, ...] = ("soil_moisture", "quality")) -> Path:
    folder = out / f"{day:%Y%m%d}"
    folder.mkdir(parents=True, exist_ok=True)
    files = {layer: folder / f"{tile}_{day:%Y%m%d}_{layer}.tif" for layer in layers}
    for path in files.values():
        path.write_bytes(path.name.encode())
    item = build_item(
        f"{tile}_{day:%Y%m%d}",
        day=day,
        geobox=tile_geobox(tile),
        files=files,
        version=1,
        fingerprint="f00d",
        properties={"mmnet:inputs": {"smap": "SPL4"}, "mmnet:stand_ins": {}, "mmnet:synthetic": False},
        links=[LINK],
    )
    path = folder / f"{item['id']}.json"
    path.write_text(json.dumps(item), encoding="utf-8")
    return path


def plain(value: Any) -> Any:
    """Return JSON as a table holds it: without null and empty objects, times parsed, tuples of numbers as lists."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if one is not None and one != {}}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, str) and value.startswith("20") and value.endswith("Z"):
        return datetime.fromisoformat(value)
    return value


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_item(tmp_path, "h06v02")
    write_item(tmp_path, "h06v03", layers=("soil_moisture",))
    write_item(tmp_path, "h06v03", NEXT)
    write_index(tmp_path, [DAY, NEXT])
    return tmp_path


def test_the_table_holds_the_items(out: Path) -> None:
    for day, count in ((DAY, 2), (NEXT, 1)):
        folder = out / f"{day:%Y%m%d}"
        found = [plain(item) for item in stac_table_to_items(pyarrow.parquet.read_table(folder / INDEX))]
        assert found == [plain(item) for item in read_items(folder).values()]
        assert len(found) == count


def test_other_software_reads_one_day_and_all(out: Path) -> None:
    one = geopandas.read_parquet(out / "20210807" / INDEX)
    assert list(one["id"]) == ["h06v02_20210807", "h06v03_20210807"]
    assert one.crs.to_epsg() in (4326, None) or one.crs.to_string() == "OGC:CRS84"
    item = next(iter(read_items(out / "20210807").values()))
    assert list(one.geometry[0].bounds) == item["bbox"]
    everything = pyarrow.dataset.dataset(sorted(map(str, out.glob("*/items.parquet"))))
    assert everything.count_rows() == 3
    days = everything.to_table(columns=["id", "datetime"]).to_pydict()["datetime"]
    assert [moment.date() for moment in days] == [DAY, DAY, NEXT]


def test_the_same_items_give_the_same_bytes(out: Path) -> None:
    table = out / "20210807" / INDEX
    before, stamp = table.read_bytes(), table.stat().st_mtime_ns
    write_index(out, [DAY])
    assert (table.read_bytes(), table.stat().st_mtime_ns) == (before, stamp)
    table.unlink()
    write_index(out, [DAY])
    assert table.read_bytes() == before


def test_a_day_without_items_has_no_table(out: Path) -> None:
    for path in (out / "20210807").glob("*.json"):
        path.unlink()
    write_index(out, [DAY, date(2021, 8, 9)])
    assert not (out / "20210807" / INDEX).exists()
    assert (out / "20210808" / INDEX).exists()
    assert not (out / "20210809").exists()


def test_a_full_disk_leaves_the_table_of_before(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(table: Any, path: Path) -> None:
        path.write_bytes(b"PAR1")
        raise OSError(errno.ENOSPC, "No space left on device")

    before = (out / "20210807" / INDEX).read_bytes()
    write_item(out, "h07v03")
    monkeypatch.setattr("stac_geoparquet.arrow.to_parquet", full)
    with pytest.raises(OutputError, match="No space left on device; what was there before is unchanged"):
        write_index(out, [DAY])
    assert (out / "20210807" / INDEX).read_bytes() == before


def test_a_foreign_table_is_never_overwritten(out: Path) -> None:
    foreign = out / "20210808" / INDEX
    foreign.write_bytes(b"PAR1 of mine")
    for act in (check_index, write_index):
        with pytest.raises(OutputError, match="was not made by mmnet_maps"):
            act(out, [DAY, NEXT])
    assert foreign.read_bytes() == b"PAR1 of mine"
