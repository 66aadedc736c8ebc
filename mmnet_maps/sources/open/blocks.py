"""The blocks of a remote GeoTIFF that a read needs: the requests and bytes of it, from the header alone."""

from __future__ import annotations

from dataclasses import dataclass

from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import cover
from mmnet_maps.grid.tiles import pinned_blocks
from mmnet_maps.sources.files.alignment import block_side
from mmnet_maps.sources.files.locations import GDAL_REMOTE_OPTIONS, Place, gdal_path, redacted, shown

HEADER = 16_384
"""Bytes of the first request of GDAL for a file."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A GeoTIFF's grid and blocks.

    Attributes
    ----------
    lattice
        Its grid.
    rows, cols
        Rows and columns of a block.
    block
        Mean bytes of a block as stored.
    """

    lattice: GeoBox
    rows: int
    cols: int
    block: float

    @property
    def across(self) -> int:
        """Blocks in a row."""
        return int(-(-self.lattice.shape.x // self.cols))


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
            lattice = GeoBox((image.height, image.width), image.transform, image.crs.to_string())
    except rasterio.errors.RasterioError as error:
        raise InputError(f"{shown(place)} cannot be read ({redacted(error)})") from None
    count = -(-lattice.shape.y // rows) * -(-lattice.shape.x // cols)
    return Layout(lattice=lattice, rows=rows, cols=cols, block=max(0, size - HEADER) / count)


def cost_of(there: Layout, geobox: GeoBox, *, fine: bool, pad: int) -> tuple[int, float]:
    """Return the requests and bytes of reading a window, without the header: GDAL joins the blocks of a row.

    Parameters
    ----------
    there
        The file.
    geobox
        The window; of a fine product on the target grid, else on the product's lattice.
    fine, pad
        Whether it is fine, and the cells that its resampling needs around a window.
    """
    parts = [block for block, _, _ in pinned_blocks(geobox, block_side(there.lattice, geobox))] if fine else [geobox]
    requests, blocks = 0, 0
    for part in parts:
        try:
            rows, cols = cover(part, there.lattice, pad=pad if fine else 0)
        except InputError:
            continue
        down = -(-rows.stop // there.rows) - rows.start // there.rows
        across = -(-cols.stop // there.cols) - cols.start // there.cols
        requests, blocks = requests + (1 if across == there.across else down), blocks + down * across
    return requests, blocks * there.block
