"""Land cover from a Web Coverage Service: blocks of a coverage's own pixels, by GetCoverage."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Annotated
from urllib.parse import urlencode

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import BaseModel, ConfigDict, Field
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from mmnet_maps.sources.base import Cost, SourceDownError
from mmnet_maps.sources.files.alignment import Box, degrees
from mmnet_maps.sources.files.listing import DatedFile
from mmnet_maps.sources.open.config import Product, ServiceConfig
from mmnet_maps.sources.open.kept import Kept, geotiff
from mmnet_maps.sources.open.service import Found, PublicService

NLCD_GRID = GeoBox((105000, 160000), Affine(30, 0, -2415585, 0, -30, 3314805), "EPSG:5070")
"""The pixels of Annual NLCD: 30 m, their edges 15 m off the multiples of 30, around CONUS."""

BLOCK = 2048
"""Side of a request in pixels: 61 km, 4 MB of codes. Blocks have fixed places, so that windows share them."""


class WcsQuery(BaseModel):
    """The coverage of a Web Coverage Service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    coverage: Annotated[str, Field(min_length=1, description="Name of the coverage.")]
    years: Annotated[tuple[int, int], Field(description="First and last year of its releases.")]


class WcsService(PublicService):
    """Annual NLCD by GetCoverage."""

    def __init__(self, name: str, config: ServiceConfig) -> None:
        super().__init__(name, config)
        self._kept = Kept(name)

    def check(self, product: Product) -> None:
        """Check what a product asks for; a pydantic ValidationError where a key is wrong."""
        WcsQuery.model_validate(product.query)

    def find(self, product: Product, box: Box, first: date, last: date) -> list[Found]:
        """Return the blocks that meet a box, of each year."""
        query = WcsQuery.model_validate(product.query)
        start, end = query.years
        return [
            Found(
                key=f"{query.coverage.rpartition(':')[2]}-{year}-r{rows.start}-c{cols.start}",
                first=date(year, 1, 1),
                last=date(year, 12, 31),
                box=degrees(NLCD_GRID[rows, cols]),
                about=(rows, cols),
            )
            for rows, cols in blocks_of(box)
            for year in range(max(first.year, start), min(last.year, end) + 1)
        ]

    def file(self, product: Product, name: str, found: Found, geobox: GeoBox) -> DatedFile | None:
        """Return a block, downloaded unless it was before; see `service.Service.file`."""
        assert found.first is not None
        block = NLCD_GRID[found.about]
        url = coverage_url(self.url, WcsQuery.model_validate(product.query).coverage, block, found.first.year)
        path = self._kept.get(f"{found.key}.tif", lambda: block_tiff(self.http.get(url).body, block, self.name))
        return DatedFile(path=path, first=found.first, last=found.last)

    def renew(self, product: Product) -> bool:
        """Remove broken files of former runs; see `service.Renewing.renew`."""
        return self._kept.remove_broken()

    def cost(self, product: Product, names: Sequence[str], found: Found, geobox: GeoBox) -> Cost:
        """Return the cost of a block: one byte a pixel."""
        rows, cols = found.about
        if self._kept.holds(f"{found.key}.tif"):
            return Cost(requests=0, bytes=0, values=0)
        return Cost(requests=1, bytes=(rows.stop - rows.start) * (cols.stop - cols.start), values=0)


def blocks_of(box: Box) -> list[tuple[slice, slice]]:
    """Return the blocks of the pixels of NLCD that meet a box in degrees, as rows and columns.

    Examples
    --------
    >>> blocks_of((-119.6, 47.1, -119.5, 47.2))
    [(slice(12288, 14336, None), slice(20480, 22528, None))]
    """
    left, bottom, right, top = transform_bounds("EPSG:4326", str(NLCD_GRID.crs), *box, densify_pts=21)
    corner, size = NLCD_GRID.affine, BLOCK * NLCD_GRID.affine.a
    rows = range(max(0, int((corner.f - top) // size)), int((corner.f - bottom) // size) + 1)
    cols = range(max(0, int((left - corner.c) // size)), int((right - corner.c) // size) + 1)
    height, width = NLCD_GRID.shape.yx
    return [
        (slice(row * BLOCK, min((row + 1) * BLOCK, height)), slice(col * BLOCK, min((col + 1) * BLOCK, width)))
        for row in rows
        for col in cols
        if row * BLOCK < height and col * BLOCK < width
    ]


def coverage_url(service: str, coverage: str, block: GeoBox, year: int) -> str:
    """Return the GetCoverage request for some pixels of a year, in the coverage's own grid.

    Version 1.0.0, because 2.0.1 of the server at ``dmsdata.cr.usgs.gov`` fails on coverages with a time.

    Examples
    --------
    >>> coverage_url("http://h/wcs", "nlcd:lc", NLCD_GRID[:10, :20], 2021).partition("&crs")[2]
    '=EPSG%3A5070&response_crs=EPSG%3A5070&bbox=-2415585%2C3314505%2C-2414985%2C3314805&width=20&height=10&time=2021-01-01T00%3A00%3A00.000Z&format=GeoTIFF'
    """
    query = {
        "service": "WCS",
        "version": "1.0.0",
        "request": "GetCoverage",
        "coverage": coverage,
        "crs": "EPSG:5070",
        "response_crs": "EPSG:5070",
        "bbox": ",".join(f"{edge:.0f}" for edge in block.boundingbox.bbox),
        "width": block.shape.x,
        "height": block.shape.y,
        "time": f"{year}-01-01T00:00:00.000Z",
        "format": "GeoTIFF",
    }
    return f"{service}?{urlencode(query)}"


def block_tiff(body: bytes, block: GeoBox, name: str) -> bytes:
    """Return the pixels of an answer as a GeoTIFF on the exact grid that was requested.

    GeoServer's corner is off by less than a millimetre, so that blocks would not count as adjacent.

    Raises
    ------
    SourceDownError
        When the answer is an error in XML, which comes with status 200, or another grid.
    """
    if body[:2] not in (b"II", b"MM"):
        text = " ".join(body[:2000].decode("utf-8", "replace").split())
        raise SourceDownError(f"{name}: no GeoTIFF came, but {text.rpartition('<ServiceException')[2][:100]!r}")
    try:
        with rasterio.MemoryFile(body) as memory, memory.open() as image:
            corner, shape = image.transform, (image.height, image.width)
            if shape != block.shape.yx or abs(np.subtract(corner[:6], block.affine[:6])).max() > 0.01:
                raise SourceDownError(
                    f"{name}: {shape[0]} × {shape[1]} pixels from {corner.c:g}, {corner.f:g} came; expected "
                    f"{block.shape.y} × {block.shape.x} from {block.affine.c:g}, {block.affine.f:g}"
                )
            return geotiff([image.read(1)], block)
    except RasterioError as error:
        raise SourceDownError(f"{name}: the GeoTIFF that came is broken; run the same command again") from error
