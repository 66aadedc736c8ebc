"""Blocks of remote images that a read keeps: each is received once, and windows are those of the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray

from fake_open import FakeOpen, Files
from mmnet_maps.sources.files import received
from mmnet_maps.sources.files.description import RasterSpec
from mmnet_maps.sources.files.rasters import describe, read_window
from mmnet_maps.sources.files.received import keeping_blocks

SIDE, BLOCK = 700, 128
VALUES = np.random.default_rng(7).integers(0, 3000, (SIDE, SIDE + 50)).astype("int16")


class Bytes:
    """A file in memory."""

    def __init__(self, path: Path) -> None:
        self._bytes = path.read_bytes()
        self.size = len(self._bytes)

    def read(self, start: int, stop: int) -> bytes:
        return self._bytes[start:stop]


def written(path: Path, *, mask: bool = False, **layout: object) -> Path:
    """Write the values to a GeoTIFF."""
    grid = {"crs": "EPSG:32611", "transform": Affine(30, 0, 3e5, 0, -30, 5.2e6), "height": SIDE, "width": SIDE + 50}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", dtype="int16", count=1, compress="lzw", **grid, **layout) as out,
    ):
        out.write(VALUES, 1)
        if mask:
            out.write_mask(VALUES > 5)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeOpen]:
    """A server of the values in blocks and in strips."""
    blocks = Bytes(written(tmp_path / "b.tif", nodata=0, tiled=True, blockxsize=BLOCK, blockysize=BLOCK))
    strips = Bytes(written(tmp_path / "s.tif", nodata=0))
    with FakeOpen() as running:
        running.serve(Files({"/blocks.tif": blocks, "/strips.tif": strips}))
        yield running


def window(server: FakeOpen, name: str, rows: slice, cols: slice) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    raster = describe(RasterSpec(path=f"{server.url}/{name}.tif", key="red"))
    stored, missing = read_window(raster, rows, cols, None)
    return stored[0], missing[0]


WINDOWS = [(slice(0, 300), slice(0, 290)), (slice(100, 420), slice(200, 600)), (slice(5, 699), slice(0, 750))]


@pytest.mark.parametrize("name", ["blocks", "strips"])
@pytest.mark.parametrize("most", [128 << 20, 100_000])
def test_windows_are_those_of_the_file(server: FakeOpen, monkeypatch: pytest.MonkeyPatch, name: str, most: int) -> None:
    monkeypatch.setattr(received, "_MOST", most)
    with keeping_blocks():
        for rows, cols in [*WINDOWS, *WINDOWS[:1]]:
            stored, missing = window(server, name, rows, cols)
            np.testing.assert_array_equal(stored, VALUES[rows, cols])
            np.testing.assert_array_equal(missing, VALUES[rows, cols] == 0)


def test_each_block_is_received_once(server: FakeOpen) -> None:
    window(server, "blocks", slice(0, 1), slice(0, 1))  # the header
    size = server.reply(server.log[0][0]).body.size
    server.log.clear()
    with keeping_blocks():
        for rows, cols in WINDOWS:
            window(server, "blocks", rows, cols)
    runs = 3 + 2 * 2 + 1 + 6  # 3 rows of 3 blocks; 2 and 3 blocks beside them, 4 below; what is left
    assert len(server.log) <= runs + 4
    assert sum(sent for _, _, sent in server.log) <= size + len(server.log) * 16_384
    kept = len(server.log)
    with keeping_blocks():
        window(server, "blocks", *WINDOWS[2])
    assert len(server.log) > kept  # the end of a context forgets them


def test_an_image_is_opened_once_and_closed_at_the_end(server: FakeOpen, monkeypatch: pytest.MonkeyPatch) -> None:
    images, opened = [], rasterio.open

    def noted(path: str) -> rasterio.DatasetReader:
        images.append(opened(path))
        return images[-1]

    monkeypatch.setattr(rasterio, "open", noted)
    for _ in range(2):
        images.clear()
        with keeping_blocks():
            for rows, cols in WINDOWS:
                window(server, "blocks", rows, cols)
            (image,) = images
            assert not image.closed
        assert image.closed


def test_bands_with_a_mask_of_their_own_are_not_kept(tmp_path: Path) -> None:
    for mask in (True, False):
        with rasterio.open(written(tmp_path / f"{mask}.tif", mask=mask)) as image:
            assert (received._block_grid(image, 1) is None) == mask
