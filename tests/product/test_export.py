"""Maps in other formats: the same values and georeference, whole or not at all, and what opens what."""

from __future__ import annotations

import errno
import importlib.metadata
import os
from datetime import date
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr

from cf_checker import faults
from day_files import packed, produce
from mmnet_maps.cli.commands import mmnet
from mmnet_maps.errors import InputError, OutputError
from mmnet_maps.product import export
from mmnet_maps.product.export import export_maps
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.reader import open_maps

SHAPE = (1500, 700)  # two tiles, neither whole
TAGS = {"model": "net", "inputs": '{"smap": "L4"}', "licences": '["CC BY-NC 4.0"]'}
PROPERTIES = {"mmnet:model": "net", "mmnet:synthetic": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("maps")
    for day in (8, 9):
        tags = {**TAGS, "date": f"2021-08-0{day}"}
        produce(out, packed(*SHAPE, seed=day), None, day=date(2021, 8, day), tags=tags, properties=PROPERTIES)
    return out


@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
def test_every_value_is_the_same(made: Path, tmp_path: Path, name: str) -> None:
    maps = open_maps(made)
    assert export_maps(maps, tmp_path / name) == [tmp_path / name]
    opened = xr.open_dataset(tmp_path / name) if name == "a.nc" else xr.open_zarr(tmp_path / name)
    with opened as data:
        assert [str(day)[:10] for day in data["time"].to_numpy()] == ["2021-08-08", "2021-08-09"]
        assert data["soil_moisture"].rio.transform() == maps.grid.affine
        assert data["soil_moisture"].rio.crs.to_epsg() == 5070
        assert (data.attrs["model"], data.attrs["licences"]) == ("net", '["CC BY-NC 4.0"]')
        for k, day in enumerate((8, 9)):
            for layer, values in packed(*SHAPE, seed=day).items():
                np.testing.assert_array_equal(data[layer][k], LAYERS[layer].unpack(values))


def test_netcdf_passes_the_cf_checker(made: Path, tmp_path: Path) -> None:
    export_maps(open_maps(made, end=date(2021, 8, 8)), tmp_path / "a.nc")
    found = faults(tmp_path / "a.nc")
    assert 3 not in found, found
    with netCDF4.Dataset(tmp_path / "a.nc") as data:
        assert data["quality"].getncattr("flag_masks").dtype == np.uint16
        assert np.isnan(data["smap"].getncattr("_FillValue"))


def test_the_source_names_model_and_inputs(made: Path, tmp_path: Path) -> None:
    export_maps(open_maps(made), tmp_path / "m.nc")
    with xr.open_dataset(tmp_path / "m.nc") as data:
        assert (data.attrs["source"], data.attrs["inputs"]) == ("model net from L4", '{"smap": "L4"}')


def test_the_zarr_store_is_of_version_2(made: Path, tmp_path: Path) -> None:
    export_maps(open_maps(made), tmp_path / "a.zarr")
    array = zarr.open_array(tmp_path / "a.zarr" / "soil_moisture", mode="r")
    assert array.metadata.zarr_format == 2
    assert array.shards is None


def test_geotiffs_are_maps_again(made: Path, tmp_path: Path) -> None:
    found = export_maps(open_maps(made), tmp_path / "tifs")
    assert [path.name for path in found[:3]] == [
        f"grant_20210808_{name}.tif" for name in ("soil_moisture", "quality", "smap")
    ]
    with rasterio.open(found[0]) as data:
        np.testing.assert_array_equal(data.read(1), packed(*SHAPE, seed=8)["soil_moisture"])
        assert data.tags()["licences"] == '["CC BY-NC 4.0"]'
        assert (data.tags()["date"], data.tags()["synthetic"]) == ("2021-08-08", "false")
    again = open_maps(found)
    assert again.layers == ("soil_moisture", "quality", "smap")
    assert again.grid == open_maps(made).grid


def test_statistics_of_a_deleted_file_are_removed(made: Path, tmp_path: Path) -> None:
    first = export_maps(open_maps(made, end=date(2021, 8, 8)), tmp_path)[0]
    with rasterio.open(first) as data:
        tags = data.tags(1)
    kept = first.with_name(f"{first.name}.aux.xml")
    kept.write_text(
        '<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MAXIMUM">1</MDI></Metadata>'
        "</PAMRasterBand></PAMDataset>"
    )
    for path in tmp_path.glob("*.tif"):
        path.unlink()
    assert export_maps(open_maps(made, end=date(2021, 8, 8)), tmp_path)[0] == first
    assert not kept.exists()
    with rasterio.open(first) as data:
        assert data.tags(1) == tags


def test_the_command(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mmnet.main(["export", str(made), "--date", "2021-08-09", "--out", str(tmp_path / "t")], standalone_mode=False)
    assert [Path(line).name[:14] for line in capsys.readouterr().out.splitlines()] == ["grant_20210809"] * 3


@pytest.mark.parametrize("name", ["a.nc", "a.zarr", "folder"])
def test_nothing_is_replaced_and_nothing_left_in_part(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(export.os, "rename", full)
        with pytest.raises(OutputError, match="No space left"):
            export_maps(open_maps(made), tmp_path / name)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    written = export_maps(open_maps(made), tmp_path / name)
    before = written[0].stat()
    with pytest.raises(OutputError, match="already exists"):
        export_maps(open_maps(made), tmp_path / name)
    assert written[0].stat() == before


@pytest.mark.parametrize("name", ["a.nc", "folder"])
def test_a_damaged_map_fails_the_export(made: Path, tmp_path: Path, name: str) -> None:
    maps = produce(tmp_path / "m", packed(600, 600), None, properties=PROPERTIES)
    file = next(path for path in maps.folder.glob("*_smap.tif"))
    data = file.read_bytes()
    file.write_bytes(data[:2000] + bytes(len(data) - 2000))
    with pytest.raises(InputError, match="cannot be read"):
        export_maps(open_maps(tmp_path / "m"), tmp_path / name)
    assert not (tmp_path / "a.nc").exists()


# What does not open with the versions that the project is tested with; see the table in docs/how-to/use.md.
NOT_BEFORE_GDAL_3_13 = {"run store"}
NOT_BEFORE_GDAL_3_12 = {"its overviews as arrays"}


@pytest.mark.checkout
def test_other_software_opens_what_the_docs_say(tmp_path: Path) -> None:
    import opens

    opens.make(tmp_path)
    found = opens.attempt(tmp_path)
    assert {name.split()[0] for name in found} >= {"rasterio", "rioxarray", "xarray", "netCDF4", "odc-stac"}
    gdal = tuple(map(int, rasterio.__gdal_version__.split(".")[:2]))
    closed = (NOT_BEFORE_GDAL_3_13 if gdal < (3, 13) else set()) | (NOT_BEFORE_GDAL_3_12 if gdal < (3, 12) else set())
    rioxarray = tuple(map(int, importlib.metadata.version("rioxarray").split(".")[:2]))
    for name, answers in found.items():
        package = name.split()[0]
        for kind, answer in answers.items():
            opened = not (package == "rasterio" and kind in closed)
            opened &= not (kind == "run store by GeoZarr alone" and rioxarray < (0, 23))
            assert (answer == "yes") == opened, (name, kind, answer)
