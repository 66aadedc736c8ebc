"""Chunks read straight from their files, against zarr."""

from __future__ import annotations

from contextlib import suppress
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, GzipCodec

from mmnet_maps.grid.tiles import conus_grid
from mmnet_maps.sources.base import Provenance
from mmnet_maps.stack.blocks import day_index
from mmnet_maps.stack.chunks import Chunks
from mmnet_maps.stack.layout import create
from mmnet_maps.stack.store import DamagedError, Stack
from mmnet_maps.variables import VARIABLES

DAY = date(2021, 8, 8)
LATTICE = conus_grid()[:1100, :1300]  # the last blocks and shards lie across its edges
PROVENANCE = Provenance(source="files", product="random", version="1", licence="CC0-1.0", synthetic=False)
WINDOWS = [
    (slice(0, 1100), slice(0, 1300)),
    (slice(255, 257), slice(1023, 1025)),
    (slice(700, 1100), slice(1280, 1300)),
    (slice(3, 4), slice(5, 6)),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Make a stack with random values, two blocks of which have none, written block by block."""
    groups = {"landcover": (LATTICE, ["landcover"]), "optical": (LATTICE, ["red"])}
    create(tmp_path / "s.zarr", LATTICE, groups, {"landcover": PROVENANCE, "red": PROVENANCE})
    stack, random = Stack(tmp_path / "s.zarr", writable=True), np.random.default_rng(0)
    for name, variable, high in (("landcover", "landcover", 96), ("optical", "red", 1)):
        values = (random.random(LATTICE.shape) * high).astype(np.float32)
        values[256:512, 512:768] = values[1024:, 1280:] = np.nan
        for _, _, window in stack.groups[name].cut(WINDOWS[0]):
            stack.write(name, window, DAY, {variable: values[window]})
    return tmp_path / "s.zarr"


def by_zarr(path: Path, variable: str) -> NDArray[np.integer]:
    group = Stack(path).group_of(variable)
    array = zarr.open_array(path / group.name / variable, mode="r")
    assert isinstance(array, zarr.Array)
    return np.asarray(array[day_index(DAY)] if group.temporal else array[:])


@pytest.mark.parametrize("variable", ["landcover", "red"])
def test_every_window_is_as_zarr_reads_it(path: Path, variable: str) -> None:
    whole = by_zarr(path, variable)
    assert (whole != VARIABLES[variable].nodata).mean() > 0.8
    for rows, cols in WINDOWS:
        found = Stack(path).read_packed(variable, (rows, cols), DAY)
        assert found.dtype == whole.dtype
        np.testing.assert_array_equal(found, whole[rows, cols])


def test_stacks_of_before_are_in_zstd_and_read_alike(path: Path) -> None:
    """Only the codec of the chunks differs; marks and checksums are of the values."""
    whole = by_zarr(path, "red")
    array = zarr.open_array(path / "optical/red", mode="r")
    assert isinstance(array, zarr.Array)
    zarr.create_array(
        path / "optical/red",
        shape=array.shape,
        chunks=array.chunks,
        shards=array.shards,
        dtype="int16",
        fill_value=array.fill_value,
        compressors=BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
        overwrite=True,
    )[day_index(DAY)] = whole
    (file, *_) = sorted((path / f"optical/red/c/{day_index(DAY)}/0").iterdir())
    assert b"\x28\xb5\x2f\xfd" in file.read_bytes()  # the magic number of zstd
    for window in WINDOWS:
        np.testing.assert_array_equal(Stack(path).read_packed("red", window, DAY), whole[window])


def test_absent_chunks_and_files_are_none(path: Path) -> None:
    array = zarr.open_array(path / "optical/red", mode="r")
    chunks, day = Chunks(array, path / "optical/red", temporal=True), day_index(DAY)
    assert chunks.read(day, 1, 2) is None
    assert chunks.read(day + 1, 0, 0) is None
    assert (found := chunks.read(day, 4, 0)) is not None
    assert found.shape == (256, 256)
    assert not found.flags.writeable


def test_any_byte_of_a_shard_may_be_wrong(path: Path) -> None:
    """No damage gives other values than before without an error, and none ends the process."""
    file = path / f"optical/red/c/{day_index(DAY)}/0/0"
    whole, data, random = by_zarr(path, "red"), file.read_bytes(), np.random.default_rng(1)
    for number in range(120):
        broken = bytearray(data)
        # Headers of chunks and the index are hit as often as the data.
        at = int(random.choice([random.integers(len(data)), random.integers(16), len(data) - random.integers(1, 300)]))
        broken[at] ^= int(random.integers(1, 256))
        file.write_bytes(broken[: int(random.integers(len(data)))] if number % 4 == 0 else broken)
        with suppress(DamagedError):
            np.testing.assert_array_equal(Stack(path).read_packed("red", WINDOWS[0], DAY), whole)


def test_other_codecs_are_refused(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a", shape=(4, 8, 8), chunks=(1, 8, 8), dtype="int16", compressors=GzipCodec(), fill_value=0
    )
    with pytest.raises(ValueError, match="its chunks are encoded by .*GzipCodec"):
        Chunks(array, tmp_path / "a", temporal=True)
