"""Overviews of the Zarr store of a run: means of a day's pixels in groups below the store, for zoomed-out views.

Each group, ``overview_4``, ``overview_16`` …, has the store's layers at a quarter of the resolution before it. They are
written day by day after the tiles, by one process, with a mark at the end: a hash of the marks of the day's tiles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr.api.asynchronous
from numpy.typing import NDArray

from mmnet_maps.errors import OutputError
from mmnet_maps.files import fast_zarr
from mmnet_maps.grid.tiles import TILE_PIXELS
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.zarr_grid import DAMAGE, run_to_end
from mmnet_maps.product.zarr_store import CHUNK_OF_OVERVIEWS, ISSUE, RunStore, overview_grids

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

    Levels = Sequence[tuple[int, Any, NDArray[Any], NDArray[Any]]]

_FIRST = 4
_BLOCK = _FIRST * CHUNK_OF_OVERVIEWS  # pixels along a side of what one chunk of the first overviews covers


def write_overviews(path: Path, day: date) -> bool:
    """Write the overviews of a day from its tiles, unless they are those of the same tiles.

    A mean is over all pixels with a value; of quality the pixel right and below the middle is kept.

    Parameters
    ----------
    path, day
        The store of a run, and one of its days; nothing else writes this day meanwhile.

    Returns
    -------
    bool
        Whether they were written.

    Raises
    ------
    OutputError
        When there is no such store, or they cannot be written or do not read back.
    """
    store = RunStore(path)
    try:
        return run_to_end(_write(path, store.grid, store.layers, store.days.index(day)))
    except OSError as error:
        raise OutputError(
            f"cannot write the overviews of {day} to {path} ({error.strerror}); make room or give another --out"
        ) from error
    except DAMAGE as error:
        raise OutputError(
            f"the overviews of {day} in {path} cannot be made ({error}); run again, and check the disk if it recurs"
        ) from error


async def _write(path: Path, grid: GeoBox, layers: Sequence[str], index: int) -> bool:
    root: Any = await zarr.api.asynchronous.open_group(path, mode="r+", zarr_format=3)
    with fast_zarr():
        fine = {name: await root.getitem(name) for name in (*layers, ISSUE)}
    groups = [await root.getitem(name) for name, _ in overview_grids(grid)]
    coarse = [{name: await group.getitem(name) for name in layers} for group in groups]
    mark = await groups[0].getitem(ISSUE)
    tiles = np.asarray(await fine[ISSUE].getitem(index))
    current = np.frombuffer(hashlib.sha256(tiles.tobytes()).digest()[:8], "<u8")[0] if tiles.any() else np.uint64(0)
    if await mark.getitem(index) == current:
        return False
    await mark.setitem(index, np.uint64(0))
    for name in layers:
        levels = [level[name] for level in coarse]
        await (_flags if LAYERS[name].nodata is None else _means)(fine[name], levels, index, tiles, LAYERS[name].fill)
    await mark.setitem(index, current)
    return True


async def _means(fine: Any, levels: Sequence[Any], index: int, tiles: NDArray[np.uint64], _: int) -> None:
    """Write means over 4 × 4 pixels block by block, and the coarser ones from their sums."""
    shape = tuple(side // _FIRST**2 for side in fine.shape[1:])
    total, count = np.zeros(shape), np.zeros(shape, np.uint32)
    for rows, cols in _blocks(fine.shape[1:]):
        values = await _read(fine, index, rows, cols, tiles, np.nan)
        known = np.isfinite(values)
        sums, counts = _sum(np.where(known, values, np.float32(0)), np.float64), _sum(known, np.uint32)
        await _put(levels[0], index, (rows, cols), _FIRST, _ratio(sums, counts))
        if levels[1:]:
            window = tuple(slice(side.start // _FIRST**2, side.stop // _FIRST**2) for side in (rows, cols))
            total[window], count[window] = _sum(sums, np.float64), _sum(counts, np.uint32)
    for level in levels[1:]:
        await _put(level, index, tuple(slice(0, side) for side in total.shape), 1, _ratio(total, count))
        if level is not levels[-1]:
            total, count = _sum(total, np.float64), _sum(count, np.uint32)


async def _flags(fine: Any, levels: Sequence[Any], index: int, tiles: NDArray[np.uint64], fill: int) -> None:
    """Write one of the pixels of each cell."""
    found = [np.full(level.shape[1:], fill, np.uint16) for level in levels[1:]]
    for rows, cols in _blocks(fine.shape[1:]):
        values = await _read(fine, index, rows, cols, tiles, fill)
        await _put(levels[0], index, (rows, cols), _FIRST, values[2::4, 2::4])
        for number, array in enumerate(found, 2):
            factor = _FIRST**number
            window = tuple(slice(side.start // factor, side.stop // factor) for side in (rows, cols))
            array[window] = values[factor // 2 :: factor, factor // 2 :: factor]
    for level, array in zip(levels[1:], found, strict=True):
        await _put(level, index, tuple(slice(0, side) for side in array.shape), 1, array)


def _blocks(shape: Sequence[int]) -> list[tuple[slice, slice]]:
    """Return windows of whole tiles; the last of a row or column may be smaller."""
    rows, cols = ([slice(at, min(at + _BLOCK, side)) for at in range(0, side, _BLOCK)] for side in shape)
    return [(row, col) for row in rows for col in cols]


async def _read(
    fine: Any, index: int, rows: slice, cols: slice, tiles: NDArray[np.uint64], fill: float
) -> NDArray[Any]:
    """Return a window of a layer, without reading where no tile has been written."""
    places = tuple(slice(side.start // TILE_PIXELS, side.stop // TILE_PIXELS) for side in (rows, cols))
    if not tiles[places].any():
        return np.full((rows.stop - rows.start, cols.stop - cols.start), fill, fine.dtype)
    return np.asarray(await fine.getitem((index, rows, cols)))


async def _put(level: Any, index: int, window: tuple[slice, ...], factor: int, values: NDArray[Any]) -> None:
    """Write a window, given in pixels finer by a factor, and read it back."""
    at = (index, *(slice(side.start // factor, side.stop // factor) for side in window))
    await level.setitem(at, values)
    found = np.asarray(await level.getitem(at))
    if not np.array_equal(found, values, equal_nan=values.dtype.kind == "f"):
        raise ValueError(f"{level.path} did not read back as it was written")


def _sum(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return sums over 4 × 4 cells."""
    rows = values.reshape(-1, _FIRST, values.shape[1]).sum(axis=1, dtype=dtype)
    found: NDArray[Any] = rows[:, 0::4] + rows[:, 1::4] + rows[:, 2::4] + rows[:, 3::4]
    return found


def _ratio(total: NDArray[np.float64], count: NDArray[np.uint32]) -> NDArray[np.float32]:
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
