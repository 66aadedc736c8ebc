"""SMAP consistency against loops over pixels and maps with a known answer."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from mmnet_maps.errors import InputError, OutputError
from mmnet_maps.grid.lattice import nearest_cells
from mmnet_maps.grid.tiles import conus_grid, tile_geobox
from mmnet_maps.mapping.smap_consistency import SmapConsistency, compare_with_smap, day_consistency, sum_cells
from mmnet_maps.product.day_writer import DayWriter, Revision
from mmnet_maps.sources.base import Provenance
from mmnet_maps.stack.layout import create
from mmnet_maps.stack.store import Stack

DAY = date(2021, 8, 8)
EASE = GeoBox.from_bbox(
    (-17367530.4451615, -7314540.8306386, 17367530.4451615, 7314540.8306386), "EPSG:6933", shape=(1624, 3856)
)
TILE = tile_geobox("h06v03")
WINDOW = slice(192, 256), slice(576, 704)  # whole blocks of 64 cells around the tile
AREA = TILE[100:400, 200:520]


def smap_field() -> NDArray[np.float32]:
    """SMAP around the tile, m³/m³, in whole steps of its packing; one cell in five is missing."""
    rows, cols = (part.stop - part.start for part in WINDOW)
    values = (np.random.default_rng(1).integers(800, 4000, (rows, cols)) * 0.0001).astype(np.float32)
    values[(np.arange(rows)[:, None] + 2 * np.arange(cols)) % 5 == 0] = np.nan
    return values


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    path = tmp_path_factory.mktemp("stack") / "s.zarr"
    entry = Provenance(source="files", product="test", version="1", licence="CC0-1.0", synthetic=False)
    create(path, conus_grid(), {"smap": (EASE, ["smap"])}, {"smap": entry})
    Stack(path, writable=True).write("smap", WINDOW, DAY, {"smap": smap_field()})
    return Stack(path)


def write(path: Path, geobox: GeoBox, packed: NDArray[np.uint16]) -> tuple[GeoBox, Path]:
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=geobox.shape.y,
        width=geobox.shape.x,
        count=1,
        dtype="uint16",
        nodata=65535,
        crs="EPSG:5070",
        transform=geobox.affine,
    ) as data:
        data.write(packed, 1)
    return geobox, path


def noise(geobox: GeoBox, seed: int = 0) -> NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    packed = rng.integers(500, 4500, geobox.shape).astype(np.uint16)
    packed[rng.random(geobox.shape) < 0.3] = 65535
    return packed


def native(geobox: GeoBox) -> NDArray[np.float32]:
    """SMAP's value in the cell above each pixel."""
    row, col = nearest_cells(geobox, EASE)
    return smap_field()[row - WINDOW[0].start, col - WINDOW[1].start]


def pack(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    return np.where(np.isnan(values), 65535, np.rint(np.nan_to_num(values) / 0.0001)).astype(np.uint16)


def assert_same(one: SmapConsistency, other: SmapConsistency) -> None:
    for name in ("row", "col", "longitude", "latitude", "soil_moisture", "smap", "share"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.as_dict() == other.as_dict()


def test_it_equals_a_loop_over_pixels(stack: Stack, tmp_path: Path) -> None:
    packed = noise(AREA)
    found = compare_with_smap(stack, [write(tmp_path / "a.tif", AREA, packed)], DAY)

    to_ease = Transformer.from_crs("EPSG:5070", "EPSG:6933", always_xy=True)
    values: dict[tuple[int, int], list[float]] = defaultdict(list)
    box, edge, cell = AREA.boundingbox, EASE.boundingbox, EASE.affine.a
    for i in range(AREA.shape.y):
        for j in range(AREA.shape.x):
            if packed[i, j] != 65535:
                x, y = to_ease.transform(box.left + (j + 0.5) * 100, box.top - (i + 0.5) * 100)
                key = math.floor((edge.top - y) / cell), math.floor((x - edge.left) / cell)
                values[key].append(packed[i, j] * 0.0001)
    assert list(zip(found.row.tolist(), found.col.tolist(), strict=True)) == sorted(values)
    pairs = []
    to_map = Transformer.from_crs("EPSG:6933", "EPSG:5070", always_xy=True)
    to_degrees = Transformer.from_crs("EPSG:6933", "EPSG:4326", always_xy=True)
    for k, key in enumerate(sorted(values)):
        assert found.soil_moisture[k] == pytest.approx(math.fsum(values[key]) / len(values[key]), abs=1e-12)
        left, top = edge.left + key[1] * cell, edge.top - key[0] * cell
        outline = shapely.segmentize(shapely.box(left, top - cell, left + cell, top), cell / 50)
        area = shapely.transform(outline, lambda xy: np.column_stack(to_map.transform(*xy.T))).area
        assert found.share[k] == pytest.approx(len(values[key]) * 1e4 / area, rel=1e-4)
        centre = to_degrees.transform(left + cell / 2, top - cell / 2)
        assert (found.longitude[k], found.latitude[k]) == pytest.approx(centre, abs=1e-9)
        native = float(smap_field()[key[0] - WINDOW[0].start, key[1] - WINDOW[1].start])
        np.testing.assert_allclose(found.smap[k], native, atol=1e-7)
        if len(values[key]) * 1e4 / area >= 0.5 and not math.isnan(native):
            pairs.append((math.fsum(values[key]) / len(values[key]), native))
    assert 1 < len(pairs) < len(values)
    off = [one - other for one, other in pairs]
    bias = sum(off) / len(off)
    assert found.n == len(pairs)
    assert found.bias == pytest.approx(bias, abs=1e-7)
    assert found.rmse == pytest.approx(math.sqrt(sum(d * d for d in off) / len(off)), abs=1e-7)
    assert found.ubrmse == pytest.approx(math.sqrt(sum((d - bias) ** 2 for d in off) / len(off)), abs=1e-7)
    assert found.r == pytest.approx(np.corrcoef(np.transpose(pairs))[0, 1], abs=1e-6)


def cut(
    geobox: GeoBox, packed: NDArray[np.uint16], rows: Sequence[int], cols: Sequence[int], folder: Path
) -> Iterator[tuple[GeoBox, Path]]:
    for top, bottom in pairwise(rows):
        for left, right in pairwise(cols):
            yield write(folder / f"{top}_{left}.tif", geobox[top:bottom, left:right], packed[top:bottom, left:right])


def packed_in(path: Path) -> NDArray[np.uint16]:
    with rasterio.open(path) as data:
        values: NDArray[np.uint16] = data.read(1)
    return values


def test_it_does_not_matter_how_a_map_is_cut(stack: Stack, tmp_path: Path) -> None:
    packed = noise(AREA)
    whole = compare_with_smap(stack, [write(tmp_path / "a.tif", AREA, packed)], DAY)
    parts = list(cut(AREA, packed, [0, 37, 180, 300], [0, 101, 320], tmp_path))
    assert_same(whole, compare_with_smap(stack, iter(parts), DAY))
    assert_same(whole, compare_with_smap(stack, parts[::-1], DAY))
    for known in (parts[:2], parts):
        summed = [(grid, sum_cells(packed_in(path), grid, stack)) for grid, path in known]
        assert_same(whole, compare_with_smap(stack, [*summed, *parts[len(known) :]], DAY))


def test_a_map_over_several_tiles_is_read_tile_by_tile(stack: Stack, tmp_path: Path) -> None:
    corner = tile_geobox("h07v03").boundingbox
    row, col = (round(part) for part in (~conus_grid().affine * (corner.left, corner.top))[::-1])
    area = conus_grid()[row - 90 : row + 110, col - 80 : col + 70]
    packed = noise(area)
    whole = compare_with_smap(stack, [write(tmp_path / "a.tif", area, packed)], DAY)
    assert_same(whole, compare_with_smap(stack, list(cut(area, packed, [0, 90, 200], [0, 80, 150], tmp_path)), DAY))


def test_a_map_equal_to_smap_is_consistent(stack: Stack, tmp_path: Path) -> None:
    found = compare_with_smap(stack, [write(tmp_path / "a.tif", AREA, pack(native(AREA)))], DAY)
    assert found.n > 5
    np.testing.assert_allclose(found.soil_moisture, found.smap, atol=1e-7)
    assert found.bias == pytest.approx(0, abs=1e-7)
    assert found.rmse == pytest.approx(0, abs=1e-7)
    assert found.r == pytest.approx(1, abs=1e-9)
    report = found.as_dict()
    assert (report["bias"], report["rmse"], report["ubrmse"], report["r"]) == (0, 0, 0, 1)


def test_bias_is_map_less_smap(stack: Stack, tmp_path: Path) -> None:
    found = compare_with_smap(stack, [write(tmp_path / "a.tif", AREA, pack(native(AREA) + 0.03))], DAY)
    assert found.bias == pytest.approx(0.03, abs=1e-6)
    assert found.rmse == pytest.approx(0.03, abs=1e-6)
    assert found.ubrmse == pytest.approx(0, abs=1e-6)


def test_cells_less_than_half_covered_are_listed_but_not_compared(stack: Stack, tmp_path: Path) -> None:
    values = native(AREA)
    row, col = nearest_cells(AREA, EASE)
    whole = [
        (r, c)
        for r in range(row.min() + 1, row.max())
        for c in range(col.min() + 1, col.max())
        if not np.isnan(values[(row == r) & (col == c)][0])
    ]
    packed = np.full(AREA.shape, 65535, np.uint16)
    shares = (0.4, 0.6, 1.0)
    for (r, c), share in zip(whole, shares):
        i, j = np.nonzero((row == r) & (col == c))
        kept = np.arange(i.size) < share * i.size
        packed[i[kept], j[kept]] = pack(values)[i[kept], j[kept]]
    found = compare_with_smap(stack, [write(tmp_path / "a.tif", AREA, packed)], DAY)
    assert list(zip(found.row, found.col)) == whole[:3]
    np.testing.assert_allclose(found.share, shares, atol=0.015)
    assert found.share.max() <= 1
    assert found.n == 2


@pytest.mark.parametrize("what", ["one cell", "constant"])
def test_an_undefined_correlation_is_null(stack: Stack, tmp_path: Path, what: str) -> None:
    packed = np.full(AREA.shape, 2123, np.uint16)
    if what == "one cell":
        row, col = nearest_cells(AREA, EASE)
        values = native(AREA)
        inner = (row > row.min()) & (row < row.max()) & (col > col.min()) & (col < col.max()) & ~np.isnan(values)
        i, j = np.argwhere(inner)[0]
        packed[(row != row[i, j]) | (col != col[i, j])] = 65535
    found = compare_with_smap(stack, [write(tmp_path / "a.tif", AREA, packed)], DAY)
    assert found.n == 1 if what == "one cell" else found.n > 5
    assert found.r is None
    assert found.bias is not None
    np.testing.assert_array_equal(found.soil_moisture, 2123 * 0.0001)


def test_where_smap_or_the_map_is_missing_nothing_is_compared(stack: Stack, tmp_path: Path) -> None:
    empty = np.full(AREA.shape, 65535, np.uint16)
    nothing = {"n": 0, "bias": None, "rmse": None, "ubrmse": None, "r": None}
    other_day = compare_with_smap(stack, [write(tmp_path / "a.tif", AREA, noise(AREA))], date(2021, 8, 9))
    no_map = compare_with_smap(stack, [write(tmp_path / "b.tif", AREA, empty)], DAY)
    for found in (other_day, no_map, compare_with_smap(stack, [], DAY)):
        assert found.as_dict().items() >= nothing.items()
    assert len(other_day.row) > 5
    assert not len(no_map.row)


def test_the_report_is_json_without_nan(stack: Stack, tmp_path: Path) -> None:
    report = compare_with_smap(stack, [write(tmp_path / "a.tif", AREA, noise(AREA))], DAY).as_dict()
    text = json.dumps(report, allow_nan=False)
    assert json.loads(text) == report
    assert (report["day"], report["units"], report["least_share"]) == ("2021-08-08", "m3 m-3", 0.5)
    cells = report["cells"]
    assert len({len(column) for column in cells.values()}) == 1
    assert None in cells["smap"]
    assert all(round(value, 5) == value for value in cells["soil_moisture"])


def test_a_file_of_another_map_is_refused(stack: Stack, tmp_path: Path) -> None:
    _, path = write(tmp_path / "a.tif", AREA, noise(AREA))
    with pytest.raises(InputError, match="not on the expected grid"):
        compare_with_smap(stack, [(AREA.translate_pix(1, 0), path)], DAY)
    with pytest.raises(InputError, match="cannot be read"):
        compare_with_smap(stack, [(AREA, tmp_path / "none.tif")], DAY)
    wider = GeoBox(AREA.shape, AREA.affine * AREA.affine.scale(2), AREA.crs)
    with pytest.raises(InputError, match="resolution"):
        compare_with_smap(stack, [(AREA, path), (wider, path)], DAY)


def test_a_day_is_compared_over_its_finished_tiles(stack: Stack, tmp_path: Path) -> None:
    packed = pack(native(TILE) + 0.01)
    everything = slice(0, 1024)
    revision = Revision(
        name="h06v03",
        day=DAY,
        geobox=TILE,
        layers=["soil_moisture"],
        synthetic=False,
        tags={},
        properties={},
        fingerprint="f00d",
    )
    with DayWriter(tmp_path, revision) as writer:
        writer.write(everything, everything, {"soil_moisture": packed})
        writer.finish(None)
    found = day_consistency(tmp_path / "20210808", DAY, stack, synthetic=False)
    whole = compare_with_smap(
        stack, [(TILE, tmp_path / "20210808" / "h06v03_20210808_soil_moisture.tif")], DAY
    ).as_dict()
    assert found == {key: value for key, value in whole.items() if key != "cells"}
    kept = tmp_path / "20210808/closure_20210808.json"
    assert json.loads(kept.read_text())["cells"] == whole["cells"]
    os.utime(kept, ns=(1, 1))
    assert day_consistency(tmp_path / "20210808", DAY, stack, synthetic=False) == found
    assert kept.stat().st_mtime_ns == 1
    assert found["n"] > 50
    assert (found["bias"], found["r"]) == (0.01, 1)
    assert day_consistency(tmp_path / "20210808", DAY, stack, synthetic=True)["n"] == 0
    kept.unlink()
    sums = sum_cells(packed, TILE, stack)
    for fingerprint, wrong in (("f00d", 0), ("beef", 1)):  # sums of another map are not used
        known = {"h06v03": (fingerprint, sums + wrong)}
        assert day_consistency(tmp_path / "20210808", DAY, stack, synthetic=False, sums=known) == found
    kept.write_text("mine")
    with pytest.raises(OutputError, match="was not made by mmnet_maps"):
        day_consistency(tmp_path / "20210808", DAY, stack, synthetic=False)
