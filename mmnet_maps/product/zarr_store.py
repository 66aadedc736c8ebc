"""One batch run as a Zarr store: all its tiles and days, written by several processes at once.

Layout: arrays (time, y, x) with one shard per tile and day, and ``issue`` (time, tile_y, tile_x), the commit marks: the
first 64 bits of the product's fingerprint, 0 where nothing was written. A mark is written last. The store is created
with all its metadata; later only shards and marks are written, each by one process, each file whole or not at all.
Shards are encoded here from the packed values, because zarr's own codec takes much longer, and read back through zarrs.
Groups ``overview_…`` hold means of the pixels, which `zarr_overviews.write_overviews` writes after the tiles of a day.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from glob import escape
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr.api.asynchronous
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import OutputError
from mmnet_maps.files import fast_zarr, remove_leftovers, replace_file, staging_folder
from mmnet_maps.grid.tiles import DEFAULT_CRS, TILE_PIXELS, Tile, tiles
from mmnet_maps.product.geozarr import georeference, multiscales
from mmnet_maps.product.layers import LAYERS, Layer, array_attributes, global_attributes
from mmnet_maps.product.zarr_grid import (
    BLOSC,
    COMPRESSOR,
    DAMAGE,
    consolidate,
    create_coordinate,
    create_grid,
    run_to_end,
)

__all__ = ["CHUNK_OF_OVERVIEWS", "ISSUE", "RunStore", "create_store", "overview_grids"]

ISSUE = "issue"
"""Name of the array of marks."""

_VERSION = "mmnet_run_store_version"
_EPOCH = date(1970, 1, 1)
_CHUNK = 256
CHUNK_OF_OVERVIEWS = 512
"""Pixels along a side of a chunk of an overview."""
_SMALLEST = 256  # pixels along the longer side of the smallest overview, at least


def overview_grids(grid: GeoBox) -> list[tuple[str, GeoBox]]:
    """Return name and grid of the overviews of a store: every fourth power of the pixel, down to some hundred pixels.

    Examples
    --------
    >>> from mmnet_maps.grid.tiles import conus_grid
    >>> [(name, tuple(grid.shape)) for name, grid in overview_grids(conus_grid())]
    [('overview_4', (7680, 12032)), ('overview_16', (1920, 3008)), ('overview_64', (480, 752))]
    """
    factors = [4**power for power in range(1, 1 + int(math.log(max(grid.shape) / _SMALLEST, 4) + 1e-9))]
    return [(f"overview_{factor}", grid.zoom_out(factor)) for factor in factors]


def create_store(
    path: str | Path, *, grid: GeoBox, days: Sequence[date], layers: Sequence[str], tags: Mapping[str, Any]
) -> None:
    """Create the store of a run with its metadata and coordinates, without values; it appears whole or not at all.

    Parameters
    ----------
    path
        Folder of the new Zarr store.
    grid
        A window of whole tiles of the default grid (`tiles.grid_of_tiles`).
    days
        The days, ascending.
    layers
        Names from ``layers.LAYERS``.
    tags
        Metadata of the product, as for `layers.global_attributes`.

    Raises
    ------
    OutputError
        When something exists under that name or the folder cannot be written.
    """
    path = Path(path)
    assert str(grid.crs) == DEFAULT_CRS, "a run store lies on the default grid"
    assert len(tiles(grid)) * TILE_PIXELS**2 == grid.shape.x * grid.shape.y, "a run store is made of whole tiles"
    assert list(days) == sorted(set(days)), "days ascend"
    assert days, "a run has days"
    if path.exists():
        raise OutputError(f"{path} already exists; choose another --out or delete it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, f".{escape(path.name)}.*.partial")
        with staging_folder(path.parent, path.name) as staging:
            run_to_end(_create(staging / "store", grid, days, layers, tags))
            os.rename(staging / "store", path)
    except OSError as error:
        raise OutputError(f"cannot create the store {path} ({error.strerror}); choose a writable --out") from error


class RunStore:
    """The open store of a run, written region by region; a region is one tile on one day.

    Several processes and threads may write at once, as long as no two write the same region.

    Parameters
    ----------
    path
        Folder of a store that `create_store` made.

    Attributes
    ----------
    path, grid, days, layers
        As at its creation.

    Raises
    ------
    OutputError
        When there is no such store, or it has another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with fast_zarr():
                self._attributes, self._arrays, times = run_to_end(_open(self.path))
            attributes = self._attributes
            found = attributes.get(_VERSION)
            self.days = tuple(_EPOCH + timedelta(days=int(number)) for number in times)
            self.layers = tuple(name for name in LAYERS if name in self._arrays)
            layer = self._arrays[self.layers[0]]
            about = {**attributes, **layer.attrs}  # stores of 0.1.0 have the grid on the group alone
            self.grid = GeoBox(layer.shape[1:], Affine(*about["spatial:transform"]), about["proj:code"])
        except (OSError, KeyError, IndexError, TypeError, *DAMAGE) as error:
            raise OutputError(f"{self.path} is not the store of a batch run; give another --out") from error
        if found != 1:
            raise OutputError(f"{self.path} is the store of another version ({found!r}); give another --out")
        self._times = {day: index for index, day in enumerate(self.days)}

    def matches(self, grid: GeoBox, days: Sequence[date], layers: Sequence[str]) -> bool:
        """Return whether `create_store` would make a store of the same grid, days and layers, in any order."""
        return self.grid == grid and self.days == tuple(days) and set(self.layers) == set(layers)

    def has(self, tags: Mapping[str, Any]) -> bool:
        """Return whether `create_store` would give the store these attributes."""
        return _attributes(self.grid, tags).items() <= self._attributes.items()

    def is_current(self, tile: Tile, day: date, fingerprint: str) -> bool:
        """Return whether a region was written whole with this fingerprint (hexadecimal)."""
        try:
            return self._file(ISSUE, self._region(tile, day)).read_bytes() == _mark(fingerprint)
        except OSError:
            return False

    def write(self, tile: Tile, day: date, layers: Mapping[str, NDArray[Any]], fingerprint: str) -> None:
        """Write one region, read it back and mark it; its earlier mark and shards are removed first.

        Parameters
        ----------
        tile, day
            The region; `tile` is one of `tiles.tiles` of the store's grid.
        layers
            All layers, packed (1024, 1024).
        fingerprint
            Fingerprint of the product, hexadecimal; `is_current` compares its first 64 bits.

        Raises
        ------
        OutputError
            When the files cannot be written or do not read back as they were written; the region is then unmarked.
        """
        assert set(layers) == set(self.layers), (list(layers), self.layers)
        region = self._region(tile, day)
        try:
            for name in (ISSUE, *self.layers):
                self._remove(name, region)
            same = run_to_end(self._write(region, (region[0], tile.rows, tile.cols), layers))
            if same:
                replace_file(self._file(ISSUE, region), _mark(fingerprint))
        except OSError as error:
            raise OutputError(
                f"cannot write tile {tile.id} on {day} to {self.path} ({error.strerror}); make room or give another "
                "--out"
            ) from error
        if not same:
            raise OutputError(
                f"tile {tile.id} on {day} in {self.path} did not read back as it was written; check the disk and the "
                "memory of this machine and run again"
            )

    def _region(self, tile: Tile, day: date) -> tuple[int, int, int]:
        """Return the position of a region among the shards."""
        assert tile.geobox == self.grid[tile.rows, tile.cols], f"tile {tile.id} was cut from another grid"
        assert tile.geobox.shape == (TILE_PIXELS, TILE_PIXELS), f"tile {tile.id} is not whole"
        return self._times[day], tile.rows.start // TILE_PIXELS, tile.cols.start // TILE_PIXELS

    def _file(self, name: str, region: tuple[int, int, int]) -> Path:
        return self.path / name / str(self._arrays[name].metadata.encode_chunk_key(region))

    def _remove(self, name: str, region: tuple[int, int, int]) -> None:
        """Remove a shard or mark and leftovers of killed writers."""
        file = self._file(name, region)
        file.unlink(missing_ok=True)
        remove_leftovers(file.parent, f".{escape(file.name)}.*.partial")

    async def _write(
        self,
        region: tuple[int, int, int],
        window: tuple[int, slice, slice],
        layers: Mapping[str, NDArray[Any]],
    ) -> bool:
        """Write all layers and compare them; return False if one did not read back.

        Not in the main thread, in which Blosc would use threads of its own, and give other bytes each time.
        """
        for name, values in layers.items():
            layer, file = LAYERS[name], self._file(name, region)
            assert (values.shape, values.dtype) == ((TILE_PIXELS, TILE_PIXELS), np.dtype(layer.dtype)), name
            if shard := _shard(layer, values):
                replace_file(file, shard)
            try:
                found = await self._arrays[name].getitem(window)
            except DAMAGE:
                return False
            expected = layer.unpack(np.ascontiguousarray(values))
            if found.dtype != expected.dtype or not np.array_equal(found.view(np.uint8), expected.view(np.uint8)):
                return False
        return True


def _shard(layer: Layer, values: NDArray[Any]) -> bytes:
    """Encode a region as a shard of Zarr v3: its chunks in physical units, then their places with a checksum.

    Chunks of fill values alone are left out; a shard without any is empty, and is not stored.
    """
    side = TILE_PIXELS // _CHUNK
    places = np.full((side * side, 2), np.iinfo(np.uint64).max, "<u8")  # offset and size; no such chunk
    chunks, at = [], 0
    for number, (row, col) in enumerate(np.ndindex(side, side)):
        packed = values[row * _CHUNK : (row + 1) * _CHUNK, col * _CHUNK : (col + 1) * _CHUNK]
        if (packed != layer.fill).any():
            chunk = BLOSC.encode(np.ascontiguousarray(layer.unpack(packed)))
            chunks.append(chunk)
            places[number] = at, len(chunk)
            at += len(chunk)
    if not chunks:
        return b""
    index = places.tobytes()
    return b"".join([*chunks, index, google_crc32c.value(index).to_bytes(4, "little")])


def _mark(fingerprint: str) -> bytes:
    """Return the first 64 bits of a fingerprint; 0, one in 2^64, would mean that nothing was written."""
    return (int(fingerprint[:16], 16) or 1).to_bytes(8, "little")


async def _open(path: Path) -> tuple[dict[str, Any], dict[str, Any], NDArray[np.int32]]:
    root = await zarr.api.asynchronous.open_group(path, mode="r+", zarr_format=3)
    arrays = {name: array async for name, array in root.arrays()}
    return dict(root.attrs), arrays, np.asarray(await arrays["time"].getitem(slice(None)), np.int32)


async def _create(
    path: Path, grid: GeoBox, days: Sequence[date], layers: Sequence[str], tags: Mapping[str, Any]
) -> None:
    root = await zarr.api.asynchronous.create_group(
        store=path, zarr_format=3, attributes={**_attributes(grid, tags), _VERSION: 1}
    )
    await _create_layers(root, grid, days, layers, TILE_PIXELS)
    about = {"long_name": "first 64 bits of the fingerprint of a tile and day, 0 where nothing is", "units": "1"}
    tiles_of_grid = grid.shape.y // TILE_PIXELS, grid.shape.x // TILE_PIXELS
    await _create_marks(root, (len(days), *tiles_of_grid), ("time", "tile_y", "tile_x"), about)
    about = {"long_name": "hash of the marks of the tiles that a day's overviews are from, 0 for none", "units": "1"}
    for number, (name, coarse) in enumerate(overview_grids(grid)):
        group = await root.create_group(name)
        await _create_layers(group, coarse, days, layers, None)
        if number == 0:
            await _create_marks(group, (len(days),), ("time",), about)
    await consolidate(path)


def _attributes(grid: GeoBox, tags: Mapping[str, Any]) -> dict[str, Any]:
    return {**global_attributes(tags), **multiscales(overview_grids(grid))}


async def _create_marks(root: Any, shape: Sequence[int], dims: Sequence[str], about: Mapping[str, str]) -> None:
    await root.create_array(
        ISSUE,
        shape=shape,
        chunks=(1,) * len(shape),
        dtype="uint64",
        fill_value=0,
        compressors=None,
        dimension_names=dims,
        attributes=about,
    )


async def _create_layers(
    root: Any, grid: GeoBox, days: Sequence[date], layers: Sequence[str], shard: int | None
) -> None:
    """Create the layers of a grid in a group, with their coordinates; without shards in chunks of overviews."""
    times = np.array([(day - _EPOCH).days for day in days], np.int32)
    about = {
        "standard_name": "time",
        "long_name": "UTC day",
        "axis": "T",
        "units": f"days since {_EPOCH}",
        "calendar": "proleptic_gregorian",
    }
    await create_coordinate(root, "time", times, about)
    await create_grid(root, grid)
    for name in LAYERS:
        if name not in layers:
            continue
        flags = LAYERS[name].nodata is None
        attributes = array_attributes(name) | georeference(grid)
        attributes["coordinates"] = "spatial_ref"  # so that xarray reads it as a coordinate
        if flags:
            attributes["flag_masks"] = attributes["flag_masks"].tolist()
        chunk = _CHUNK if shard else CHUNK_OF_OVERVIEWS
        await root.create_array(
            name,
            shape=(len(days), *grid.shape),
            shards=(1, shard, shard) if shard else None,
            chunks=(1, chunk, chunk),
            dtype="uint16" if flags else "float32",
            fill_value=LAYERS[name].fill if flags else np.nan,
            compressors=COMPRESSOR,
            dimension_names=("time", "y", "x"),
            attributes=attributes,
        )
