"""Overviews of a run's store: means of pixels, exact beside missing ones, current or marked as missing."""

from __future__ import annotations

import errno
import os
from datetime import date
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401  (datasets answer .odc)
import pytest
import rioxarray  # noqa: F401  (datasets answer .rio)
import xarray as xr
import zarr.storage
from numpy.typing import NDArray

from mmnet_maps.errors import OutputError
from mmnet_maps.grid.tiles import conus_grid, grid_of_tiles
from mmnet_maps.product import zarr_overviews
from mmnet_maps.product.zarr_overviews import write_overviews
from mmnet_maps.product.zarr_store import RunStore, create_store, overview_grids

DAYS = (date(2021, 8, 8), date(2021, 8, 10))
LAYERS = ("soil_moisture", "quality")
GRID, TILES = grid_of_tiles(["h06v03", "h08v03"])  # between them is a tile that is not written
CORNER = np.array([[1000, 1000, 65535, 65535], [1000, 65535, 65535, 4000]], np.uint16)


def packed(seed: int) -> dict[str, NDArray[np.uint16]]:
    """Values with holes of many shapes, and a corner in which a mean of means would be off."""
    rng = np.random.default_rng(seed)
    moisture = rng.integers(0, 6000, (1024, 1024)).astype(np.uint16)
    moisture[rng.random((1024, 1024)) < 0.5] = 65535
    moisture[rng.integers(0, 1024, 30), :] = 65535
    moisture[:4, :4] = 65535
    moisture[:2, :4] = CORNER
    return {"soil_moisture": moisture, "quality": rng.integers(0, 2048, (1024, 1024)).astype(np.uint16)}


def create(path: Path) -> RunStore:
    create_store(path, grid=GRID, days=DAYS, layers=LAYERS, tags={"model": "net"})
    store = RunStore(path)
    for number, tile in enumerate(TILES):
        store.write(tile, DAYS[1], packed(number), f"{number + 1:02x}" * 32)
    return store


def exact(factor: int) -> NDArray[np.float32]:
    """Return means of the stored integers, by another way than the code: sums of whole numbers, cell by cell."""
    whole = np.full(GRID.shape, 65535, np.int64)
    for number, tile in enumerate(TILES):
        whole[tile.rows, tile.cols] = packed(number)["soil_moisture"]
    cells = whole.reshape(GRID.shape.y // factor, factor, GRID.shape.x // factor, factor).transpose(0, 2, 1, 3)
    cells = cells.reshape(*cells.shape[:2], -1)
    count = (cells != 65535).sum(-1)
    total = np.where(cells == 65535, 0, cells).sum(-1)
    return np.where(count, total / np.maximum(count, 1) * 1e-4, np.nan).astype(np.float32)


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three levels on a small grid, in chunks that do not divide it."""
    monkeypatch.setattr("mmnet_maps.product.zarr_store._SMALLEST", 48)


@pytest.mark.usefixtures("levels")
def test_they_are_means_of_all_pixels(tmp_path: Path) -> None:
    create(tmp_path / "a.zarr")
    assert write_overviews(tmp_path / "a.zarr", DAYS[1])
    assert [name for name, _ in overview_grids(GRID)] == ["overview_4", "overview_16", "overview_64"]
    quality = np.ones(GRID.shape, np.uint16)
    for number, tile in enumerate(TILES):
        quality[tile.rows, tile.cols] = packed(number)["quality"]
    for name, grid in overview_grids(GRID):
        factor = int(name.removeprefix("overview_"))
        with xr.open_zarr(tmp_path / "a.zarr", group=name, decode_coords="all") as data:
            assert data.odc.geobox == grid
            assert data.rio.crs.to_epsg() == 5070
            np.testing.assert_allclose(data["soil_moisture"][1], exact(factor), rtol=1e-6)
            assert np.array_equal(data["quality"][1], quality[factor // 2 :: factor, factor // 2 :: factor])
            assert np.isnan(data["soil_moisture"][0]).all()
            assert (data["quality"][0] == 1).all()
            if factor == 4:
                assert float(data["soil_moisture"][1, 0, 0]) == pytest.approx(0.1750)  # of 1000, 1000, 1000, 4000


@pytest.mark.usefixtures("levels")
def test_they_are_written_once_and_again_after_a_revision(tmp_path: Path) -> None:
    store = create(tmp_path / "a.zarr")
    assert write_overviews(tmp_path / "a.zarr", DAYS[1])
    before = content(tmp_path)
    assert not write_overviews(tmp_path / "a.zarr", DAYS[1])
    assert not write_overviews(tmp_path / "a.zarr", DAYS[0])  # no tile of that day has been written
    assert content(tmp_path) == before
    store.write(TILES[0], DAYS[1], packed(7), "77" * 32)
    assert write_overviews(tmp_path / "a.zarr", DAYS[1])
    store.write(TILES[0], DAYS[1], packed(0), "01" * 32)
    assert write_overviews(tmp_path / "a.zarr", DAYS[1])
    assert content(tmp_path) == before


@pytest.mark.parametrize("problem", ["full", "damaged"])
def test_what_fails_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    create(tmp_path / "a.zarr")
    real = zarr.storage._local._put

    def broken(path: Path, value: object, *rest: object, **more: object) -> object:
        if "overview_4/quality" in path.as_posix():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, value, *rest, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        if problem == "full":
            patch.setattr(zarr.storage._local, "_put", broken)
        else:
            patch.setattr(zarr_overviews.np, "array_equal", lambda *_, **__: False)
        with pytest.raises(OutputError, match="No space left" if problem == "full" else "did not read back"):
            write_overviews(tmp_path / "a.zarr", DAYS[1])
    assert write_overviews(tmp_path / "a.zarr", DAYS[1])
    create(tmp_path / "b.zarr")
    write_overviews(tmp_path / "b.zarr", DAYS[1])
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


def test_conus_is_seen_at_once_from_afar() -> None:
    name, grid = overview_grids(conus_grid())[-1]
    assert name == "overview_64"
    assert max(grid.shape) < 1024  # a few chunks
