"""What changes with the files of a day: sizes and times, masks, the YAML; and only for windows that they may reach."""

from __future__ import annotations

import os
from datetime import date
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import fsspec
import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
import yaml
from affine import Affine
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import conus_grid, target_grid, tiles
from mmnet_maps.sources.files.source import FilesSource
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, Needs, uses
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import VARIABLES

DAY, NEXT = date(2021, 8, 8), date(2021, 8, 9)
TILE = conus_grid()[2048:3072, 6144:7168]
SCENES = {"pattern": "B04_{date:%Y%m%d}.tif"}


def describe(folder: Path, variables: dict[str, dict[str, Any]]) -> Path:
    entries = {name: {"product": f"my {name}", **entry} for name, entry in variables.items()}
    (folder / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "variables": entries}))
    return folder / "mine.yaml"


def stamps(path: Path, name: str = "red", day: date = DAY, place: GeoBox = TILE) -> dict[str, int]:
    """Return the stamps of a variable's group on a day, by a source that looks at its files now."""
    (found,) = FilesSource(path).revisions(VARIABLES[name].group, place, [day], day)
    assert found.final
    return dict(found.stamps)


def write(path: Path, text: str, second: int = 0) -> None:
    """Write a file with a given time; nothing here opens it."""
    path.write_text(text)
    os.utime(path, (1_600_000_000 + second,) * 2)


def write_tif(path: Path, shape: tuple[int, int], affine: Affine, value: float) -> None:
    height, width = shape
    options = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "float32", "crs": "EPSG:5070"}
    with rasterio.open(path, "w", transform=affine, **options) as image:
        image.write(np.full((1, height, width), value, np.float32))


def test_a_day_changes_with_the_size_or_time_of_its_own_files(tmp_path: Path) -> None:
    path = describe(tmp_path, {"red": SCENES})
    write(tmp_path / "B04_20210808.tif", "one")
    write(tmp_path / "B04_20210809.tif", "one")
    first, second = stamps(path), stamps(path, day=NEXT)
    write(tmp_path / "B04_20210809.tif", "longer")
    assert stamps(path) == first
    assert stamps(path, day=NEXT) != second
    write(tmp_path / "B04_20210808.tif", "two", 1)
    assert stamps(path) != first
    write(tmp_path / "B04_20210808.tif", "one")
    assert stamps(path) == first
    (tmp_path / "B04_20210808.tif").unlink()
    assert stamps(path) == {}
    assert stamps(path, "red", date(2021, 8, 10)) == {}


def test_a_yearly_file_counts_for_all_its_days_and_a_mask_for_its_file(tmp_path: Path) -> None:
    mask = {"replace": {"B04": "Fmask"}, "bits": [1]}
    path = describe(tmp_path, {"pr": {"pattern": "pr_{date:%Y}.nc"}, "red": {**SCENES, "mask": mask}})
    for name in ("pr_2021.nc", "pr_2022.nc", "B04_20210808.tif", "Fmask_20210808.tif"):
        write(tmp_path / name, "one")
    days = [DAY, NEXT, date(2022, 1, 1)]
    before, red = [stamps(path, "pr", day) for day in days], stamps(path)
    write(tmp_path / "pr_2021.nc", "two", 1)
    after = [stamps(path, "pr", day) for day in days]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, False, True]
    write(tmp_path / "Fmask_20210808.tif", "two", 1)
    assert stamps(path) != red


def test_another_description_changes_the_days_of_that_variable_alone(tmp_path: Path) -> None:
    write(tmp_path / "B04_20210808.tif", "one")
    before = stamps(describe(tmp_path, {"red": SCENES, "nir": SCENES}))
    after = stamps(describe(tmp_path, {"red": {**SCENES, "nodata": 0}, "nir": SCENES}))
    assert before["red"] != after["red"]
    assert before["nir"] == after["nir"]
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "B04_20210808.tif").rename(moved / "B04_20210808.tif")
    assert stamps(describe(moved, {"red": SCENES, "nir": SCENES})) == before


def test_files_of_other_tiles_do_not_count(tmp_path: Path) -> None:
    path = describe(tmp_path, {"red": {"pattern": "B04_{tile}_{date:%Y%m%d}.tif"}})
    corner = {"here": (TILE.affine.c, TILE.affine.f), "there": (TILE.affine.c + 3e5, TILE.affine.f)}
    for tile, (left, top) in corner.items():
        write_tif(tmp_path / f"B04_{tile}_20210808.tif", (10, 10), Affine(30, 0, left, 0, -30, top), 0)
    before = stamps(path)
    write(tmp_path / "B04_there_20210809.tif", "never opened")
    assert stamps(path, day=NEXT) == {}
    os.utime(tmp_path / "B04_there_20210808.tif", (1, 1))
    assert stamps(path) == before
    os.utime(tmp_path / "B04_here_20210808.tif", (1, 1))
    assert stamps(path) != before


def test_a_rewritten_chunk_of_a_zarr_store_counts(tmp_path: Path) -> None:
    store, path = tmp_path / "dem.zarr", describe(tmp_path, {"elevation": {"files": "dem.zarr"}})
    (store / "c/0").mkdir(parents=True)
    write(store / "zarr.json", "{}")
    write(store / "c/0/0", "one")
    before = stamps(path, "elevation")
    assert set(before) == {"elevation", "slope", "aspect"}
    write(store / "c/0/0", "two", 1)
    assert stamps(path, "elevation")["slope"] != before["slope"]
    describe(tmp_path, {"elevation": {"files": "gone.zarr"}})
    assert stamps(path, "elevation") == {}


@pytest.mark.parametrize(
    ("error", "cause", "known"),
    [
        (FileNotFoundError("x"), None, True),
        (FileNotFoundError("x"), HTTPError("x", 404, "Not Found", Message(), None), True),
        (FileNotFoundError("x"), HTTPError("x", 503, "Unavailable", Message(), None), False),
        (FileNotFoundError("x"), TimeoutError(), False),  # so does fsspec for HTTP
        (PermissionError("x"), None, False),
    ],
)
def test_only_a_file_that_its_server_does_not_have_is_gone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: OSError,
    cause: Exception | None,
    known: bool,
) -> None:
    def info(*_: object, **__: object) -> None:
        raise error from cause

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", info)
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url: (fsspec.filesystem("memory"), url))
    path = describe(tmp_path, {"pr": {"files": "https://host/pr.nc"}, "vs": {"files": "https://host/pr.nc"}})
    days = [DAY, NEXT]
    found = FilesSource(path).revisions("weather", TILE, days, DAY)
    assert [one.known for one in found] == [known, known]
    assert [dict(one.stamps) for one in found] == [{}, {}]
    notice = "https://host/pr.nc cannot be looked up now; its days that were fetched before stay as they are"
    assert caplog.messages == ([] if known else [f"pr: {notice}", f"vs: {notice}"])


def test_a_pattern_without_any_file_is_an_error_only_where_a_file_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = FilesSource(describe(tmp_path, {"red": SCENES}))
    assert [one.known for one in source.revisions("optical", TILE, [DAY, NEXT], DAY)] == [False, False]
    assert len(caplog.messages) == 1
    assert "matches no file" in caplog.text
    assert "stay as they are" in caplog.text
    with pytest.raises(InputError, match="matches no file"):
        source.days("optical", TILE, DAY, NEXT)


GRID = target_grid(read_aoi("-119.60,47.10,-119.57,47.12"))


def write_inputs(folder: Path, last: str, rain: float, scene: str, red: float) -> None:
    """Write rain from 1 August on, 5 mm a day but the last, and one scene of reflectance."""
    time = pd.date_range("2021-08-01", last)
    values = np.full((time.size, 20, 20), 5, np.float32)
    values[-1] = rain
    coords = {
        "day": time,
        "lat": ("lat", 47.11 - (np.arange(20) - 10) / 24, {"units": "degrees_north"}),
        "lon": ("lon", -119.585 + (np.arange(20) - 10) / 24, {"units": "degrees_east"}),
    }
    xr.Dataset({"v": (("day", "lat", "lon"), values, {"units": "mm"})}, coords).to_netcdf(folder / "pr_2021.nc")
    write_tif(folder / f"B04_{scene}.tif", GRID.shape, GRID.affine, red)


def test_a_file_that_grows_a_late_scene_and_a_revised_day_come_in(tmp_path: Path) -> None:
    path = describe(tmp_path, {"pr": {"pattern": "pr_{date:%Y}.nc"}, "red": SCENES})
    needs = Needs(snapshot=("red",), series=("pr",), steps=2, includes_day=True)
    demand = Demand(grid=GRID, tiles=tiles(GRID), needs=needs, days=[DAY])

    def values() -> list[float]:
        """Return rain on two days and reflectance on two days, after another fetch."""
        fetch(tmp_path / "s.zarr", [FilesSource(path)], demand, quiet=True)
        stack, found = Stack(tmp_path / "s.zarr"), []
        for name, day in (("pr", 7), ("pr", 8), ("red", 4), ("red", 8)):
            window = next(use.window for use in uses(stack, GRID, needs, [DAY]) if name in use.group.variables)
            values = stack.read(name, window, date(2021, 8, day))
            found.append(round(float(values[np.isfinite(values)].mean()), 4) if np.isfinite(values).any() else np.nan)
        return found

    write_inputs(tmp_path, "2021-08-07", 5, "20210804", 0.1)
    np.testing.assert_equal(values(), [5, np.nan, 0.1, np.nan])
    write_inputs(tmp_path, "2021-08-08", 9, "20210808", 0.2)
    assert values() == [5, 9, 0.1, 0.2]
    write_inputs(tmp_path, "2021-08-08", 12, "20210808", 0.3)
    assert values() == [5, 12, 0.1, 0.3]
