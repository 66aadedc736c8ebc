"""Which share of every pixel polygons cover, exactly, by exactextract (Baston, 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from exactextract import exact_extract
from exactextract.feature import Feature, FeatureSource
from exactextract.raster import NumPyRasterSource
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox


def coverage(
    polygons: Sequence[bytes], grid: GeoBox
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Share of each pixel of a grid that lies in each polygon.

    Parameters
    ----------
    polygons
        As WKB, valid, in the grid's CRS; they may reach beyond the grid or lie outside.
    grid
        North up.

    Returns
    -------
    polygon, pixel, fraction : ndarray
        One entry for every pair that overlaps: place in `polygons`, ascending; place in the grid, row by row; share of
        the pixel's area, above 0 to 1.

    Examples
    --------
    >>> import shapely
    >>> grid = GeoBox.from_bbox((0, 0, 300, 200), crs="EPSG:5070", resolution=100)
    >>> _, pixel, fraction = coverage([shapely.box(50, 100, 175, 500).wkb], grid)
    >>> pixel.tolist(), fraction.tolist()
    ([0, 1], [0.5, 0.75])
    """
    left, bottom, right, top = grid.boundingbox.bbox
    # Of the values nothing is asked, so an array of one byte, repeated, will do.
    nothing = NumPyRasterSource(np.broadcast_to(np.uint8(0), tuple(grid.shape)), left, bottom, right, top)
    found = [
        (one["properties"]["cell_id"], one["properties"]["coverage"])
        for one in exact_extract(nothing, _Polygons(polygons), ["cell_id", "coverage"])
    ]
    polygon = np.repeat(np.arange(len(found)), [len(pixel) for pixel, _ in found])
    pixel = np.concatenate([np.empty(0, np.int64), *(pixel for pixel, _ in found)])
    fraction = np.concatenate([np.empty(0), *(fraction for _, fraction in found)])
    there = fraction > 0
    return polygon[there], pixel[there], fraction[there]


class _Polygons(FeatureSource):  # type: ignore[misc]
    """Polygons as they are: the package's own sources write and read each as GeoJSON text."""

    def __init__(self, polygons: Sequence[bytes]) -> None:
        super().__init__()
        self._polygons = polygons

    def count(self) -> int:
        return len(self._polygons)

    def srs_wkt(self) -> None:
        return None

    def __iter__(self) -> Iterator[_Polygon]:
        return map(_Polygon, self._polygons)


class _Polygon(Feature):  # type: ignore[misc]
    def __init__(self, polygon: bytes) -> None:
        super().__init__()
        self._polygon = polygon

    def geometry(self) -> bytes:
        return self._polygon

    def fields(self) -> list[Any]:
        return []
