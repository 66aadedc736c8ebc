"""The main command as a newcomer runs it, without inputs, in any folder; and the files that it leaves."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

import mmnet_maps as mm
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.lattice import nearest_cells
from mmnet_maps.grid.mask import area_mask
from mmnet_maps.grid.tiles import target_grid
from mmnet_maps.mapping.pipeline import make_maps
from mmnet_maps.product.layers import LAYERS as ALL_LAYERS
from mmnet_maps.product.quality import QUALITY_BITS
from mmnet_maps.sources.demo.world import SyntheticWorld
from mmnet_maps.stack.store import Stack

AREA = "-119.55,47.00,-119.25,47.16"  # Moses Lake and the fields around it
DAYS = ("2021-07-29", "2021-08-08")
LAYERS = {name: ALL_LAYERS[name] for name in ("soil_moisture", "quality", "smap")}


def command(*words: str, cwd: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run ``mmnet …`` in a process of its own."""
    environment = {**os.environ, "MMNET_CACHE": str(cache)}
    environment.pop("MMNET_STACK", None)
    program = [sys.executable, "-c", "from mmnet_maps.cli import main; main()"]
    return subprocess.run([*program, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("newcomer")


@pytest.fixture(scope="module")
def maps(folder: Path, demo_cache: Path) -> dict[str, dict[str, Path]]:
    """Return the files by day and layer, made by the command from an area and dates alone."""
    done = command("map", "--aoi", AREA, "--date", DAYS[0], "--date", DAYS[1], cwd=folder, cache=demo_cache)
    assert done.returncode == 0, done.stderr
    assert "SYNTHETIC" in done.stderr
    assert "--stack" in done.stderr
    found: dict[str, dict[str, Path]] = {}
    for day in DAYS:
        stem = f"aoi_119.55W_47N_119.25W_47.16N_{day.replace('-', '')}_synthetic"
        base = folder / "maps" / day.replace("-", "")
        found[day] = {name: base / f"{stem}_{name}.tif" for name in LAYERS} | {
            "item": base / f"{stem}.json",
            "picture": base / f"{stem}.png",
        }
        assert {path.name for path in base.iterdir()} == {"catalog.json"} | {path.name for path in found[day].values()}
    return found


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as data:
        values = data.read(1, masked=True)
        return np.ma.filled(values.astype(np.float32) * data.scales[0], np.nan)


def test_every_file_says_that_its_inputs_are_synthetic(maps: dict[str, dict[str, Path]]) -> None:
    for files in maps.values():
        with rasterio.open(files["soil_moisture"]) as data:
            tags = " ".join(f"{key}={value}" for key, value in data.tags().items()).lower()
            assert "synthetic" in tags
        properties = json.loads(files["item"].read_text())["properties"]
        assert properties["mmnet:synthetic"] is True
        with rasterio.open(files["quality"]) as data:
            quality = data.read(1)
        inside = quality & 1 == 0
        assert (quality[inside] >> QUALITY_BITS["synthetic"] & 1 == 1).all()


def test_the_rasters_are_valid_and_on_the_grid(maps: dict[str, dict[str, Path]]) -> None:
    mask = area_mask(read_aoi(AREA), target_grid(read_aoi(AREA)))
    for files in maps.values():
        for name, layer in LAYERS.items():
            valid, errors, warnings = cog_validate(files[name], strict=True, quiet=True)
            assert valid, (errors, warnings)
            with rasterio.open(files[name]) as data:
                assert data.crs.to_epsg() == 5070
                assert data.res == (100.0, 100.0)
                assert all(edge % 100 == 0 for edge in data.bounds)
                assert data.dtypes == ("uint16",)
                assert data.scales == (layer.scale,)
                assert (data.units[0] or "1") == layer.units
                assert data.descriptions[0]
                assert data.nodata == layer.nodata
                assert {"model", "weights_sha256", "software"} <= {key.lower() for key in data.tags()}
        moisture = read(files["soil_moisture"])
        assert np.isnan(moisture[~mask]).all()
        assert np.nanmin(moisture) >= 0
        assert np.nanmax(moisture) <= 0.7
        assert np.isfinite(moisture[mask]).mean() > 0.8


def test_rain_makes_it_wetter(maps: dict[str, dict[str, Path]]) -> None:
    dry, wet = (read(maps[day]["soil_moisture"]) for day in DAYS)
    assert np.nanmean(wet) > np.nanmean(dry) + 0.02
    assert np.nanmean(read(maps[DAYS[1]]["smap"])) > np.nanmean(read(maps[DAYS[0]]["smap"])) + 0.02


def test_smap_cell_edges_do_not_show(maps: dict[str, dict[str, Path]], demo_cache: Path) -> None:
    lattice = Stack(demo_cache / f"{SyntheticWorld().name}-conus-100m.zarr").groups["smap"].lattice
    row, col = nearest_cells(target_grid(read_aoi(AREA)), lattice)
    for day in DAYS:
        moisture = read(maps[day]["soil_moisture"])
        steps = [np.abs(np.diff(moisture, axis=axis)) for axis in (0, 1)]
        edges = [np.diff(row, axis=0) != 0, np.diff(col, axis=1) != 0]
        on = np.nanmean(np.concatenate([step[edge] for step, edge in zip(steps, edges, strict=True)]))
        off = np.nanmean(np.concatenate([step[~edge] for step, edge in zip(steps, edges, strict=True)]))
        assert on <= 1.5 * off


def test_the_map_has_detail_that_smap_has_not(maps: dict[str, dict[str, Path]]) -> None:
    files = maps[DAYS[0]]
    assert np.nanstd(read(files["soil_moisture"])) > 1.5 * np.nanstd(read(files["smap"]))


def test_the_picture_is_a_picture(maps: dict[str, dict[str, Path]]) -> None:
    from matplotlib.image import imread

    for files in maps.values():
        height, width, _ = imread(files["picture"]).shape
        assert height > 300
        assert width > 900


def test_the_python_api_gives_the_same(
    maps: dict[str, dict[str, Path]], demo_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMNET_CACHE", str(demo_cache))
    sm = mm.downscale(AREA, DAYS, source="demo", quiet=True).compute()
    for k, day in enumerate(DAYS):
        np.testing.assert_allclose(read(maps[day]["soil_moisture"]), sm[k], atol=5.1e-5, equal_nan=True)


def test_the_second_run_keeps_all_maps_and_reports_it(
    maps: dict[str, dict[str, Path]],
    folder: Path,
    demo_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stamps = {path: path.stat().st_mtime_ns for files in maps.values() for path in files.values()}
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MMNET_CACHE", str(demo_cache))
    with caplog.at_level(logging.INFO):
        make_maps(AREA, DAYS, quiet=True)
    assert caplog.text.count("kept") == 2
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_the_packaged_example_is_found_in_any_folder(tmp_path: Path) -> None:
    area = read_aoi("grant_county.geojson")
    assert area.name == "grant_county"
    assert area.notice
    assert re.search("example", area.notice)
