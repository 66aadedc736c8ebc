"""The exact share of every pixel that polygons cover, by exactextract (Baston, 2018)."""

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
    """Return the share of each pixel of a grid that lies in each polygon.

    Parameters
    ----------
    polygons
        Valid WKB in the grid's CRS; they may reach beyond the grid or lie outside.
    grid
        North up.

    Returns
    -------
    polygon, pixel, fraction : ndarray
        One entry for every polygon and pixel that overlap: index of the polygon, ascending; index of the pixel, row by
        row; covered share of its area, above 0 to 1.

    Examples
    --------
    >>> import shapely
    >>> grid = GeoBox.from_bbox((0, 0, 300, 200), crs="EPSG:5070", resolution=100)
    >>> _, pixel, fraction = coverage([shapely.box(50, 100, 175, 500).wkb], grid)
    >>> pixel.tolist(), fraction.tolist()
    ([0, 1], [0.5, 0.75])
    """
    left, bottom, right, top = grid.boundingbox.bbox
    # The values are not used, so one byte is broadcast.
    raster = NumPyRasterSource(np.broadcast_to(np.uint8(0), tuple(grid.shape)), left, bottom, right, top)
    found = [
        (one["properties"]["cell_id"], one["properties"]["coverage"])
        for one in exact_extract(raster, _Polygons(polygons), ["cell_id", "coverage"])
    ]
    polygon = np.repeat(np.arange(len(found)), [len(pixel) for pixel, _ in found])
    pixel = np.concatenate([np.empty(0, np.int64), *(pixel for pixel, _ in found)])
    fraction = np.concatenate([np.empty(0), *(fraction for _, fraction in found)])
    covered = fraction > 0
    return polygon[covered], pixel[covered], fraction[covered]


class _Polygons(FeatureSource):  # type: ignore[misc]
    """Polygons as WKB; the package's own sources write and read each as GeoJSON text."""

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
