"""Statistics of a layer's stored values, gathered window by window, under the names for which GDAL and QGIS look."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Statistics:
    """Count, extremes and sums of whole numbers; exact, so the order and size of windows do not matter."""

    count: int = 0
    minimum: int = 0
    maximum: int = 0
    total: int = 0
    squares: int = 0

    def add(self, values: NDArray[Any]) -> None:
        """Add integers of at most 16 bits, of any shape, none of them nodata."""
        if not values.size:
            return
        low, high = int(values.min()), int(values.max())
        self.minimum = min(self.minimum, low) if self.count else low
        self.maximum = max(self.maximum, high) if self.count else high
        wide = values.ravel().astype(np.int64)
        self.count += wide.size
        self.total += int(wide.sum())
        self.squares += int(wide @ wide)

    def tags(self, pixels: int) -> dict[str, str]:
        """Return the band metadata of a raster of so many pixels; the standard deviation is that of the population.

        Examples
        --------
        >>> statistics = Statistics()
        >>> statistics.add(np.array([1, 2, 3, 4], np.uint16))
        >>> statistics.tags(8)
        {'STATISTICS_VALID_PERCENT': '50.0', 'STATISTICS_MINIMUM': '1', 'STATISTICS_MAXIMUM': '4',
         'STATISTICS_MEAN': '2.5', 'STATISTICS_STDDEV': '1.118033988749895'}
        """
        tags = {"STATISTICS_VALID_PERCENT": repr(100 * self.count / pixels)}
        if not self.count:
            return tags
        return tags | {
            "STATISTICS_MINIMUM": str(self.minimum),
            "STATISTICS_MAXIMUM": str(self.maximum),
            "STATISTICS_MEAN": repr(self.total / self.count),
            "STATISTICS_STDDEV": repr(math.sqrt(self.count * self.squares - self.total**2) / self.count),
        }
