"""The blocks of a remote GeoTIFF that a read needs: the requests and bytes of it, from the header alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import Window, cover
from mmnet_maps.grid.tiles import pinned_blocks
from mmnet_maps.sources.files.alignment import block_side
from mmnet_maps.sources.files.locations import GDAL_REMOTE_OPTIONS, Place, gdal_path, redacted, shown
from mmnet_maps.sources.files.received import BlockGrid, absent_parts
from mmnet_maps.sources.files.strips import Strip
from mmnet_maps.variables import FINE_GROUPS, Variable

HEADER = 16_384
"""Bytes of the first request of GDAL for a file."""


_PIECE = 16_384
"""Bytes by which GDAL exceeds a run of blocks that it receives alone, in whole pieces of this size."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A GeoTIFF's grid and blocks.

    Attributes
    ----------
    lattice
        Its grid.
    blocks
        Its blocks.
    block
        Mean bytes of a block as stored.
    """

    lattice: GeoBox
    blocks: BlockGrid
    block: float


def layout(place: Place, size: int) -> Layout:
    """Return the layout of a GeoTIFF whose file has some bytes.

    Raises
    ------
    InputError
        When its header cannot be read.
    """
    import rasterio

    try:
        with rasterio.Env(**GDAL_REMOTE_OPTIONS), rasterio.open(gdal_path(place)) as image:
            rows, cols = image.block_shapes[0]
            blocks = BlockGrid(height=image.height, width=image.width, rows=rows, cols=cols)
            lattice = GeoBox((image.height, image.width), image.transform, image.crs.to_string())
    except rasterio.errors.RasterioError as error:
        raise InputError(f"{shown(place)} cannot be read ({redacted(error)})") from None
    return Layout(lattice=lattice, blocks=blocks, block=max(0, size - HEADER) / (blocks.down * blocks.across))


def cost_of(there: Layout, geobox: GeoBox, variable: Variable, *, pad: int) -> tuple[int, float]:
    """Return the requests and bytes of reading a window, without the header, as `received.Received` reads it.

    Every block is received once; GDAL joins those of a row.

    Parameters
    ----------
    there
        The file.
    geobox
        The window; of a fine variable on the target grid, else on the product's lattice.
    variable, pad
        The variable, and the cells that its resampling needs around a window.
    """
    requests, alone, held = 0, 0, set[tuple[int, int]]()
    for window in _windows(there.lattice, geobox, variable, pad):
        for rows, cols in absent_parts(there.blocks.below(*window), held):
            down, across = rows.stop - rows.start, cols.stop - cols.start
            requests += 1 if across == there.blocks.across else down
            alone += down == 1
            held |= {(row, col) for row in range(rows.start, rows.stop) for col in range(cols.start, cols.stop)}
    return requests, len(held) * there.block + alone * _PIECE


def _windows(lattice: GeoBox, geobox: GeoBox, variable: Variable, pad: int) -> Iterator[Window]:
    """Yield the windows of a file that are read one after another."""
    if variable.group not in FINE_GROUPS:
        with suppress(InputError):
            yield cover(geobox, lattice)
        return
    for block, _, (rows, _) in pinned_blocks(geobox, block_side(lattice, geobox)):
        with suppress(InputError):
            yield Strip.of(lattice, block, rows, variable, pad).cells
