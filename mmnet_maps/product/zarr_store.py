"""One batch run as a Zarr store: all its tiles and days, written by several processes at once.

Layout: arrays (time, y, x), one shard a tile and day, and ``issue`` (time, tile_y, tile_x), which says what is there: 0
nothing, else the first 64 bits of the product's fingerprint. It is written last. The store is made with all its
metadata first; later only shards and marks are written, each by one process, each file whole or not at all (zarr
writes beside the final name and renames).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import zarr.api.asynchronous
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from zarr.codecs import BloscCodec

from mmnet_maps.errors import OutputError
from mmnet_maps.files import sync
from mmnet_maps.grid.tiles import DEFAULT_CRS, TILE_PIXELS, Tile, tiles
from mmnet_maps.product.layers import LAYERS, QUALITY_BITS, array_attributes, global_attributes
from mmnet_maps.product.member_store import consolidate, create_coordinate, create_grid, run_to_end
from mmnet_maps.stack.store import default_reader

__all__ = ["ISSUE", "RunStore", "create_store"]

ISSUE = "issue"
"""Name of the array of marks."""

_VERSION = "mmnet_run_store_version"
_EPOCH = date(1970, 1, 1)
_CHUNK = 256
_DAMAGE = (ValueError, RuntimeError)  # what zarr and its codecs raise on broken chunks
# What GeoZarr builds on; the identifiers are those of the conventions' first release, v0.1.
_CONVENTIONS = [
    {
        "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
        "uuid": uuid,
        "name": name,
        "description": description,
    }
    for name, uuid, description in (
        (
            "proj",
            "f17cb550-5864-4468-aeb7-f3180cfb622f",
            "Coordinate reference system information for geospatial data",
        ),
        ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
    )
]


def create_store(
    path: str | Path, *, grid: GeoBox, days: Sequence[date], layers: Sequence[str], tags: Mapping[str, Any]
) -> None:
    """Create the store of a run, empty but for its metadata and coordinates; it appears whole or not at all.

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
        What the product says of itself, as `layers.global_attributes` takes it.

    Raises
    ------
    OutputError
        When something is there already or the folder cannot be written.
    """
    path = Path(path)
    assert str(grid.crs) == DEFAULT_CRS, "a run store lies on the default grid"
    assert len(tiles(grid)) * TILE_PIXELS**2 == grid.shape.x * grid.shape.y, "a run store is made of whole tiles"
    assert list(days) == sorted(set(days)), "days ascend"
    assert days, "a run has days"
    if path.exists():
        raise OutputError(f"{path} is there already; choose another --out or delete it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}.*.partial"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        try:
            run_to_end(_create(scratch / "store", grid, days, layers, tags))
            os.rename(scratch / "store", path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot create the store {path} ({error.strerror}); choose a writable --out") from error


class RunStore:
    """The open store of a run, to be asked and written region by region; a region is one tile on one day.

    Several processes and threads may write at once, as long as no two write the same region.

    Parameters
    ----------
    path
        Folder of a store that `create_store` made.

    Attributes
    ----------
    path, grid, days, layers
        As it was created.

    Raises
    ------
    OutputError
        When there is no such store, or one of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with default_reader():
                self._attributes, self._arrays, times = run_to_end(_open(self.path))
            attributes = self._attributes
            found = attributes.get(_VERSION)
            self.days = tuple(_EPOCH + timedelta(days=int(number)) for number in times)
            self.layers = tuple(name for name in LAYERS if name in self._arrays)
            shape = self._arrays[self.layers[0]].shape[1:]
            self.grid = GeoBox(shape, Affine(*attributes["spatial:transform"]), attributes["proj:code"])
        except (OSError, KeyError, IndexError, TypeError, *_DAMAGE) as error:
            raise OutputError(f"{self.path} is not the store of a batch run; give another --out") from error
        if found != 1:
            raise OutputError(f"{self.path} is the store of another version ({found!r}); give another --out")
        self._times = {day: index for index, day in enumerate(self.days)}

    def matches(self, grid: GeoBox, days: Sequence[date], layers: Sequence[str]) -> bool:
        """Whether `create_store` would make a store of the same grid, days and layers, in whatever order."""
        return self.grid == grid and self.days == tuple(days) and set(self.layers) == set(layers)

    def has(self, tags: Mapping[str, Any]) -> bool:
        """Whether `create_store` would give the store these attributes."""
        return global_attributes(tags).items() <= self._attributes.items()

    def is_current(self, tile: Tile, day: date, fingerprint: str) -> bool:
        """Whether a region is there, whole, with this fingerprint.

        Parameters
        ----------
        tile, day
            The region.
        fingerprint
            Of the product, hexadecimal.
        """
        try:
            mark = run_to_end(self._arrays[ISSUE].getitem(self._region(tile, day)))
        except (OSError, *_DAMAGE):
            return False
        return bool(mark == _mark(fingerprint))

    def write(self, tile: Tile, day: date, layers: Mapping[str, NDArray[Any]], fingerprint: str) -> None:
        """Write one region, read it back, and mark it; what was there before is gone first.

        Parameters
        ----------
        tile, day
            The region; `tile` is one of `tiles.tiles` of the store's grid.
        layers
            All layers, (1024, 1024): float32 in the units of ``layers.LAYERS`` with NaN where there is no value;
            ``quality`` uint16.
        fingerprint
            Of the product, hexadecimal; `is_current` compares its first 64 bits.

        Raises
        ------
        OutputError
            When the files cannot be written or do not read back as they were written; the region then counts as not
            there.
        """
        assert set(layers) == set(self.layers), (list(layers), self.layers)
        region = self._region(tile, day)
        window = (region[0], tile.rows, tile.cols)
        try:
            for name in (ISSUE, *self.layers):
                self._remove(name, region)
            same = run_to_end(self._write(region, window, layers, fingerprint))
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
        """Position of a region among the shards."""
        assert tile.geobox == self.grid[tile.rows, tile.cols], f"tile {tile.id} was cut from another grid"
        assert tile.geobox.shape == (TILE_PIXELS, TILE_PIXELS), f"tile {tile.id} is not whole"
        return self._times[day], tile.rows.start // TILE_PIXELS, tile.cols.start // TILE_PIXELS

    def _file(self, name: str, region: tuple[int, int, int]) -> Path:
        return self.path / name / str(self._arrays[name].metadata.encode_chunk_key(region))

    def _remove(self, name: str, region: tuple[int, int, int]) -> None:
        """Remove a shard or mark, and what a killed writer left beside it; zarr would read a broken one to write it."""
        file = self._file(name, region)
        file.unlink(missing_ok=True)
        for leftover in file.parent.glob(f"{file.name}.*.partial"):
            leftover.unlink(missing_ok=True)

    async def _write(
        self,
        region: tuple[int, int, int],
        window: tuple[int, slice, slice],
        layers: Mapping[str, NDArray[Any]],
        fingerprint: str,
    ) -> bool:
        """Write and compare all layers, then the mark; False, and no mark, where one did not read back."""
        for name, values in layers.items():
            array = self._arrays[name]
            assert (values.shape, values.dtype) == ((TILE_PIXELS, TILE_PIXELS), array.dtype), name
            if values.dtype.kind == "f":
                values = np.where(np.isnan(values), np.float32(np.nan), values)  # one NaN of many, the fill value's
            await array.setitem(window, values)
            try:
                found = await array.getitem(window)
            except _DAMAGE:
                return False
            if found.tobytes() != values.tobytes():
                return False
            file = self._file(name, region)
            if file.exists():  # nothing but fill values is no file
                sync(file)  # before it is marked, so that a mark holds after a power cut too
        await self._arrays[ISSUE].setitem(region, _mark(fingerprint))
        return True


def _mark(fingerprint: str) -> np.uint64:
    """The first 64 bits; one fingerprint in 2^64 begins with the zeros that mean nothing is there."""
    return np.uint64(int(fingerprint[:16], 16) or 1)


async def _open(path: Path) -> tuple[dict[str, Any], dict[str, Any], NDArray[np.int32]]:
    root = await zarr.api.asynchronous.open_group(path, mode="r+", zarr_format=3)
    arrays = {name: array async for name, array in root.arrays()}
    return dict(root.attrs), arrays, np.asarray(await arrays["time"].getitem(slice(None)), np.int32)


async def _create(
    path: Path, grid: GeoBox, days: Sequence[date], layers: Sequence[str], tags: Mapping[str, Any]
) -> None:
    root = await zarr.api.asynchronous.create_group(
        store=path, zarr_format=3, attributes={**global_attributes(tags), **_georeference(grid), _VERSION: 1}
    )
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
        attributes = array_attributes(name) | {"coordinates": "spatial_ref"}  # so that xarray has it as one
        if flags:
            attributes["flag_masks"] = attributes["flag_masks"].tolist()
        await root.create_array(
            name,
            shape=(len(days), *grid.shape),
            shards=(1, TILE_PIXELS, TILE_PIXELS),
            chunks=(1, _CHUNK, _CHUNK),
            dtype="uint16" if flags else "float32",
            fill_value=1 << QUALITY_BITS["outside_area"] if flags else np.nan,
            compressors=BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
            dimension_names=("time", "y", "x"),
            attributes=attributes,
        )
    await root.create_array(
        ISSUE,
        shape=(len(days), grid.shape.y // TILE_PIXELS, grid.shape.x // TILE_PIXELS),
        chunks=(1, 1, 1),
        dtype="uint64",
        fill_value=0,
        compressors=None,
        dimension_names=("time", "tile_y", "tile_x"),
        attributes={
            "long_name": "first 64 bits of the fingerprint of a tile and day, 0 where nothing is",
            "units": "1",
        },
    )
    await consolidate(path)


def _georeference(grid: GeoBox) -> dict[str, Any]:
    """The grid in the words of the Zarr conventions ``proj`` and ``spatial``, for all arrays of the group."""
    return {
        "zarr_conventions": _CONVENTIONS,
        "proj:code": DEFAULT_CRS,
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": [float(number) for number in tuple(grid.affine)[:6]],
        "spatial:shape": list(grid.shape),
        "spatial:bbox": [float(bound) for bound in grid.boundingbox.bbox],
        "spatial:registration": "pixel",
    }
