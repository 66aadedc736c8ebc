"""Blocks of remote images, kept while a day is read: neighbouring windows share them, and so do bands with one mask."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.grid.lattice import Window

Opened = Callable[[], AbstractContextManager[Any]]

_MOST = 256 << 20
"""Bytes of blocks that one read keeps; of elevation, a row of windows across a tile needs 150 MB."""


@dataclass(frozen=True, kw_only=True)
class BlockGrid:
    """The blocks of an image: its rows and columns, and those of a block."""

    height: int
    width: int
    rows: int
    cols: int

    @property
    def across(self) -> int:
        """Blocks in a row."""
        return -(-self.width // self.cols)

    @property
    def down(self) -> int:
        """Rows of blocks."""
        return -(-self.height // self.rows)

    def below(self, rows: slice, cols: slice) -> Window:
        """Return the rows and columns of the blocks that hold a window of pixels."""
        return (
            slice(rows.start // self.rows, -(-rows.stop // self.rows)),
            slice(cols.start // self.cols, -(-cols.stop // self.cols)),
        )

    def pixels(self, window: Window) -> Window:
        """Return the rows and columns of the pixels of some blocks."""
        rows, cols = window
        return (
            slice(rows.start * self.rows, min(rows.stop * self.rows, self.height)),
            slice(cols.start * self.cols, min(cols.stop * self.cols, self.width)),
        )


def absent_parts(window: Window, held: Container[tuple[int, int]]) -> Iterator[Window]:
    """Yield rectangles of blocks that hold those of a window that are not held, none twice.

    Rows of the same absent blocks are joined, and adjacent blocks of a row.

    Examples
    --------
    >>> list(absent_parts((slice(0, 3), slice(0, 2)), {(2, 0)}))
    [(slice(0, 2, None), slice(0, 2, None)), (slice(2, 3, None), slice(1, 2, None))]
    """
    rows, cols = window

    def runs(row: int) -> list[tuple[int, int]]:
        """Return the first and last column of each run of absent blocks."""
        absent = [col for col in range(cols.start, cols.stop) if (row, col) not in held]
        together = [list(run) for _, run in groupby(enumerate(absent), lambda one: one[1] - one[0])]
        return [(run[0][1], run[-1][1] + 1) for run in together]

    for found, alike in groupby(range(rows.start, rows.stop), runs):
        numbers = list(alike)
        for first, end in found:
            yield slice(numbers[0], numbers[-1] + 1), slice(first, end)


class Received:
    """Blocks that one thread received, as stored; beyond `_MOST` bytes those used longest ago are dropped.

    Parameters
    ----------
    images
        Closes the images that `image` opens.
    """

    def __init__(self, images: ExitStack) -> None:
        self._images, self._opened = images, dict[str, Any]()
        self._grids: dict[tuple[str, int], BlockGrid | None] = {}
        self._blocks: OrderedDict[tuple[str, int, int, int], NDArray[Any]] = OrderedDict()
        self._bytes = 0

    def image(self, path: str, opened: Opened) -> Any:
        """Return an image, which is opened once: opening costs more than reading a few blocks."""
        if path not in self._opened:
            self._opened[path] = self._images.enter_context(opened())
        return self._opened[path]

    def window(self, path: str, band: int, rows: slice, cols: slice, opened: Opened) -> NDArray[Any] | None:
        """Return a window of a band, (y, x); None where it has a mask of its own, which is not kept.

        Parameters
        ----------
        path, band
            The file, and its band.
        rows, cols
            The window.
        opened
            Opens the file with rasterio.
        """
        with ExitStack() as images:
            image = cache(lambda: images.enter_context(opened()))  # opened once, where it is needed at all
            if (path, band) not in self._grids:
                self._grids[path, band] = _block_grid(image(), band)
            grid = self._grids[path, band]
            if grid is None:
                return None
            below = grid.below(rows, cols)
            places = [(row, col) for row in _range(below[0]) for col in _range(below[1])]
            kept = [place for place in places if (path, band, *place) in self._blocks]
            blocks = {place: self._blocks[path, band, *place] for place in kept}
            for part in list(absent_parts(below, blocks)):
                blocks |= _receive(image(), band, grid, part)
        for place in places:
            self._keep((path, band, *place), blocks[place])
        top, left = below[0].start * grid.rows, below[1].start * grid.cols
        whole_rows, whole_cols = grid.pixels(below)
        whole = np.empty((whole_rows.stop - top, whole_cols.stop - left), blocks[places[0]].dtype)
        for (row, col), block in blocks.items():
            y, x = row * grid.rows - top, col * grid.cols - left
            whole[y : y + block.shape[0], x : x + block.shape[1]] = block
        return whole[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]

    def _keep(self, key: tuple[str, int, int, int], block: NDArray[Any]) -> None:
        """Note that a block was used now."""
        if key not in self._blocks:
            self._bytes += block.nbytes
        self._blocks[key] = block
        self._blocks.move_to_end(key)
        while self._bytes > _MOST:
            self._bytes -= self._blocks.popitem(last=False)[1].nbytes


def _block_grid(image: Any, band: int) -> BlockGrid | None:
    """Return the blocks of a band; None where it has a mask besides a number that means missing."""
    from rasterio.enums import MaskFlags

    if {MaskFlags.per_dataset, MaskFlags.alpha} & set(image.mask_flag_enums[band - 1]):
        return None
    rows, cols = image.block_shapes[band - 1]
    return BlockGrid(height=image.height, width=image.width, rows=rows, cols=cols)


def _receive(image: Any, band: int, grid: BlockGrid, part: Window) -> dict[tuple[int, int], NDArray[Any]]:
    """Return the blocks of a part of an image, by row and column."""
    from rasterio.windows import Window as Pixels

    values, (rows, cols) = image.read(band, window=Pixels.from_slices(*grid.pixels(part))), part
    found = {}
    for row in _range(rows):
        for col in _range(cols):
            y, x = (row - rows.start) * grid.rows, (col - cols.start) * grid.cols
            found[row, col] = values[y : y + grid.rows, x : x + grid.cols].copy()
    return found


def _range(part: slice) -> range:
    return range(part.start, part.stop)


_kept: ContextVar[Received | None] = ContextVar("kept", default=None)


def kept_blocks() -> Received | None:
    """Return the blocks that this thread keeps, if it does."""
    return _kept.get()


@contextmanager
def keeping_blocks() -> Iterator[None]:
    """Keep remote images open, and the blocks of them that this thread receives, until the end of the context."""
    with ExitStack() as images:
        token = _kept.set(Received(images))
        try:
            yield
        finally:
            _kept.reset(token)
