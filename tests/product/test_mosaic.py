"""Mosaics: the tiles of a day read as one map, anywhere the folder is moved to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from mmnet_maps.errors import InputError, OutputError
from mmnet_maps.grid.tiles import conus_grid, tile_geobox, tiles
from mmnet_maps.product.day_writer import DayWriter, Revision
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.mosaic import finished_tiles, write_mosaics

DAY = date(2021, 8, 8)
IDS = ("h06v03", "h07v02", "h07v03")  # around a corner that has no tile
NAMES = ("soil_moisture", "quality", "smap")
Values = dict[str, NDArray[np.uint16]]


def values_of(tile: str, names: Iterable[str] = NAMES) -> Values:
    """Waves with noise, quality of all bits; a quarter of the tile is nodata."""
    rng = np.random.default_rng(IDS.index(tile))
    wave = 2000 + 1000 * np.sin(np.arange(1024) / 150)
    made = {name: (wave + rng.integers(0, 500, (1024, 1024))).astype(np.uint16) for name in names}
    for name in {"soil_moisture", "soil_moisture_std"} & set(made):
        made[name][:512, :512] = 65535
    if "quality" in made:
        made["quality"] = rng.integers(0, 2048, (1024, 1024)).astype(np.uint16)
    return made


def produce(out: Path, tile: str, values: Values, *, synthetic: bool = False, licence: str = "CC0-1.0") -> None:
    revision = Revision(
        name=tile,
        day=DAY,
        geobox=tile_geobox(tile),
        layers=tuple(values),
        synthetic=synthetic,
        tags={"model": "net"},
        properties={"mmnet:model": "net", "mmnet:licences": ["CC BY-NC 4.0", licence], "mmnet:synthetic": synthetic},
        fingerprint=f"f00d{tile}",
    )
    with DayWriter(out, revision) as writer:
        writer.write(slice(0, 1024), slice(0, 1024), values)
        writer.finish(None)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiles of a day."""
    out = tmp_path_factory.mktemp("tiles")
    for tile in IDS:
        produce(out, tile, values_of(tile))
    return out / "20210808"


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "20210808", copy_function=os.link))


def whole(name: str) -> NDArray[np.uint16]:
    """The expected mosaic."""
    fill = 1 if LAYERS[name].nodata is None else 65535
    found = np.full((2048, 2048), fill, np.uint16)
    for tile, rows, cols in zip(IDS, (1024, 0, 1024), (0, 1024, 1024)):
        found[rows : rows + 1024, cols : cols + 1024] = values_of(tile)[name]
    return found


def make(folder: Path, synthetic: bool = False) -> dict[str, Path]:
    stem = f"mosaic_20210808{'_synthetic' if synthetic else ''}_"
    return {path.stem.removeprefix(stem): path for path in write_mosaics(folder, DAY, synthetic=synthetic)}


def test_names_values_and_georeference(folder: Path) -> None:
    found = make(folder)
    assert [path.name for path in found.values()] == [f"mosaic_20210808_{name}.vrt" for name in NAMES]
    for name, path in found.items():
        layer = LAYERS[name]
        with rasterio.open(path) as data:
            np.testing.assert_array_equal(data.read(1), whole(name))
            assert data.crs.to_epsg() == 5070
            assert data.transform == tile_geobox("h06v02").affine
            assert (data.dtypes, data.nodata) == (("uint16",), layer.nodata)
            assert (data.scales, data.offsets, data.units) == ((layer.scale,), (0.0,), (layer.units,))
            assert data.descriptions == (layer.long_name,)
            assert data.block_shapes == [(512, 512)]
            with rasterio.open(folder / f"h06v03_20210808_{name}.tif") as tile:
                statistics = {key for key in tile.tags(1) if key.startswith("STATISTICS_")}
                assert data.tags(1) == {key: text for key, text in tile.tags(1).items() if key not in statistics}


def test_xarray_masks_and_scales(folder: Path) -> None:
    found = make(folder)
    with rioxarray.open_rasterio(found["soil_moisture"], mask_and_scale=True) as opened:
        packed = whole("soil_moisture")
        np.testing.assert_allclose(opened[0], np.where(packed == 65535, np.nan, packed * 0.0001), atol=1e-7)
        assert opened.attrs["units"] == "m3 m-3"
    with rioxarray.open_rasterio(found["quality"], mask_and_scale=True) as opened:
        np.testing.assert_array_equal(opened[0], whole("quality"))


def test_its_tags_are_those_that_all_tiles_share(kept: Path, folder: Path) -> None:
    with rasterio.open(make(folder)["smap"]) as data:
        tags = data.tags()
    assert tags.pop("MMNET_MOSAIC")
    assert tags == {"model": "net", "licences": '["CC BY-NC 4.0", "CC0-1.0"]', "synthetic": "false"}
    item = json.loads((folder / "h07v02_20210808.json").read_text())
    item["properties"]["mmnet:licences"] = ["CC0-1.0"]
    (folder / "h07v02_20210808.json").unlink()  # linked to the kept one
    (folder / "h07v02_20210808.json").write_text(json.dumps(item))
    with rasterio.open(make(folder)["smap"]) as data:
        assert "licences" not in data.tags()


def test_zoomed_out_it_shows_means_and_flags(folder: Path) -> None:
    found = make(folder)
    packed = whole("soil_moisture")
    for factor in (2, 8, 64):
        size = 2048 // factor
        blocks = np.where(packed == 65535, np.nan, packed).reshape(size, factor, size, factor)
        empty = np.isnan(blocks).all(axis=(1, 3))
        mean = np.nanmean(np.where(empty[:, None, :, None], 65535, blocks), axis=(1, 3))
        level = int(np.log2(factor)) - 1
        with rasterio.open(found["soil_moisture"]) as data:
            assert factor in data.overviews(1)
            asked = data.read(1, out_shape=(size, size), resampling=Resampling.average)
            plain = data.read(1, out_shape=(size, size))
        with rasterio.open(found["soil_moisture"], overview_level=level) as data:
            overview = data.read(1)
        for read in (asked, overview):
            assert np.abs(read - mean).max() <= 1.5
        # GDAL ignores the mosaic's overviews for a plain read and reads single pixels of the tiles' overviews.
        assert (np.abs(plain - mean) <= 500).mean() > 0.99
        for read in (asked, overview, plain):
            assert (read[: size // 2, : size // 2] == 65535).all()
        with rasterio.open(found["quality"], overview_level=level) as data:
            quality = data.read(1)
        assert (quality[: size // 2, : size // 2] == 1).all()
        pixels = whole("quality").reshape(size, factor, size, factor)
        assert (quality[:, None, :, None] == pixels).any(axis=(1, 3)).all()


def test_a_window_can_be_read_at_any_size(folder: Path) -> None:
    with rasterio.open(make(folder)["quality"]) as data:
        odd = data.read(1, window=Window(100, 100, 1911, 1877), out_shape=(301, 299))
    assert (odd[:140, :140] == 1).all()
    assert odd.max() < 2048


def test_the_folder_can_be_moved(folder: Path, tmp_path: Path) -> None:
    found = make(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    with rasterio.open(moved / found["smap"].name) as data:
        np.testing.assert_array_equal(data.read(1), whole("smap"))
    assert str(tmp_path) not in (moved / found["smap"].name).read_text()


def test_the_same_tiles_give_the_same_bytes(kept: Path, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in sorted(kept.iterdir(), reverse=True):
        os.link(path, other / path.name)
    assert [path.read_bytes() for path in make(folder).values()] == [path.read_bytes() for path in make(other).values()]
    before = make(folder)["smap"].read_bytes()
    (folder / "h06v03_20210808.json").unlink()
    assert make(folder)["smap"].read_bytes() != before


def test_only_finished_tiles_are_shown(folder: Path) -> None:
    (folder / "h07v03_20210808.json").unlink()
    tif = folder / "h07v02_20210808_smap.tif"
    tif.unlink()
    bare = {"properties": json.loads((folder / "h06v03_20210808.json").read_text())["properties"]}
    bare["properties"]["proj:transform"] = list(tile_geobox("h08v02").affine)[:6]
    for text in ("{}", "not json", '{"properties": 3}', json.dumps(bare)):
        (folder / "h08v02_20210808.json").write_text(text)
        with rasterio.open(make(folder)["smap"]) as data:
            np.testing.assert_array_equal(data.read(1), values_of("h06v03")["smap"])
    tif.write_bytes(b"torn")
    assert finished_tiles(folder, DAY, synthetic=False, layer="smap") == [
        (tile_geobox("h06v03"), folder / "h06v03_20210808_smap.tif")
    ]


def test_a_tile_that_points_elsewhere_is_refused(folder: Path) -> None:
    path = folder / "h06v03_20210808.json"
    item = json.loads(path.read_text())
    path.unlink()  # a hard link
    shutil.copy(folder / "h06v03_20210808_smap.tif", folder.parent / "secret.tif")
    for href in ("../secret.tif", str(folder.parent / "secret.tif"), "https://example.org/a.tif"):
        item["assets"]["smap"]["href"] = href
        path.write_text(json.dumps(item))
        with pytest.raises(InputError, match="which does not lie in .*; not read"):
            make(folder)
    del item["assets"]["smap"]["href"]
    path.write_text(json.dumps(item))
    assert len(finished_tiles(folder, DAY, synthetic=False, layer="smap")) == len(IDS) - 1  # counts as unfinished


@pytest.mark.parametrize("name", ["h06v04", "h99v99", "habvcd"])
def test_an_area_with_a_name_like_a_tile_is_not_a_tile(folder: Path, name: str) -> None:
    before = [path.read_bytes() for path in make(folder).values()]
    for path in folder.glob("h06v03_*"):
        text = path.name.replace("h06v03", name)
        if path.suffix == ".json":
            (folder / text).write_text(path.read_text().replace("h06v03", name))
        else:
            os.link(path, folder / text)
    assert [path.read_bytes() for path in make(folder).values()] == before


def test_finished_tiles_are_in_the_order_of_the_grid(folder: Path) -> None:
    found = finished_tiles(folder, DAY, synthetic=False, layer="quality")
    assert found == [
        (tile_geobox(tile), folder / f"{tile}_20210808_quality.tif") for tile in ("h07v02", "h06v03", "h07v03")
    ]
    assert finished_tiles(folder, DAY, synthetic=False, layer="soil_moisture_std") == []
    assert finished_tiles(folder, DAY, synthetic=True, layer="quality") == []


def test_a_layer_of_some_tiles_covers_those(folder: Path) -> None:
    produce(folder.parent, "h06v03", values_of("h06v03", (*NAMES, "soil_moisture_std")))
    found = make(folder)
    assert list(found) == ["soil_moisture", "soil_moisture_std", "quality", "smap"]
    with rasterio.open(found["soil_moisture_std"]) as data:
        assert data.shape == (1024, 1024)
    produce(folder.parent, "h06v03", values_of("h06v03"))
    assert "soil_moisture_std" not in make(folder)
    assert not found["soil_moisture_std"].exists()


def test_synthetic_and_real_tiles_do_not_mix(folder: Path) -> None:
    produce(folder.parent, "h06v03", values_of("h06v03", ["smap"]), synthetic=True)
    found = make(folder, synthetic=True)
    assert [path.name for path in found.values()] == ["mosaic_20210808_synthetic_smap.vrt"]
    with rasterio.open(found["smap"]) as data:
        assert data.shape == (1024, 1024)
    with rasterio.open(make(folder)["smap"]) as data:
        assert data.shape == (2048, 2048)


@pytest.mark.filterwarnings("ignore:statistics")  # stats(), which rasterio advises, keeps nothing
def test_statistics_and_overviews_of_an_earlier_mosaic_are_removed(folder: Path) -> None:
    path = make(folder)["soil_moisture"]
    before = path.read_bytes()
    with rasterio.open(path) as data:
        data.statistics(1, approx=True)
    assert path.read_bytes() != before  # GDAL keeps those of a VRT in the file itself
    make(folder)
    assert path.read_bytes() == before
    overviews = path.with_name(f"{path.name}.ovr")
    overviews.write_bytes(b"of these tiles")
    make(folder)
    assert overviews.exists()
    (folder / f"{IDS[0]}_20210808.json").unlink()
    make(folder)
    assert not overviews.exists()


def test_without_tiles_there_is_no_mosaic(folder: Path, tmp_path: Path) -> None:
    found = make(folder)
    for path in found.values():
        path.with_name(f"{path.name}.aux.xml").write_text("statistics")
    mine = folder / "mosaic_20210808_soil_moisture_std.vrt"
    mine.write_text("<VRTDataset/>")
    for path in folder.glob("*.json"):
        path.unlink()
    assert make(folder) == {}
    assert sorted(folder.glob("mosaic_*")) == [mine]
    (tmp_path / "empty").mkdir()
    assert make(tmp_path / "empty") == {}
    assert make(tmp_path / "none") == {}


def test_a_mosaic_that_cannot_be_removed_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(folder)
    for path in folder.glob("*.json"):
        path.unlink()

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(OutputError, match=r"cannot remove .*_soil_moisture\.vrt.*Permission denied"):
        make(folder)


@pytest.mark.parametrize(
    "text", ["<VRTDataset/>", "not XML mmnet_maps", "<VRTDataset><SRS>MMNET_MOSAIC</SRS></VRTDataset>"]
)
def test_foreign_files_are_never_overwritten(folder: Path, text: str) -> None:
    foreign = folder / "mosaic_20210808_smap.vrt"
    foreign.write_text(text)
    with pytest.raises(OutputError, match=r"mosaic_20210808_smap\.vrt was not made by mmnet_maps"):
        make(folder)
    assert foreign.read_text() == text
    assert not (folder / "mosaic_20210808_quality.vrt").exists()


def test_all_of_conus_is_one_mosaic(kept: Path, tmp_path: Path) -> None:
    tile, item = "h06v03", json.loads((kept / "h06v03_20210808.json").read_text())
    ids = [one.id for one in tiles(conus_grid())][::-1][:854]
    for one in ids:
        item["properties"]["proj:transform"] = list(tile_geobox(one).affine)[:6]
        (tmp_path / f"{one}_20210808.json").write_text(json.dumps(item).replace(tile, one))
        for name in NAMES:
            os.link(kept / f"{tile}_20210808_{name}.tif", tmp_path / f"{one}_20210808_{name}.tif")
    found = make(tmp_path)
    with rasterio.open(found["soil_moisture"]) as data:
        left, top = (ids[400][k : k + 2] for k in (1, 4))
        col, row = (
            round(part)
            for part in ~data.transform
            * (tile_geobox(f"h{left}v{top}").affine.c, tile_geobox(f"h{left}v{top}").affine.f)
        )
        part = data.read(1, window=Window(col, row, 600, 700))
    np.testing.assert_array_equal(part, values_of(tile)["soil_moisture"][:700, :600])
