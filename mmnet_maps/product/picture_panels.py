"""What the picture of a map shows: layers read where they are seen, on a local grid, and the place of the detail."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.warp import reproject, transform_bounds
from rasterio.windows import Window, from_bounds

from mmnet_maps.plots.maps import Box, local_projection

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

_PIXELS = 1400
"""Most pixels that are read across a panel."""

_NARROWEST, _WIDEST = 0.55, 8.0
_DETAIL_METRES = 15_000.0


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Values (y, x) in m³/m³ on the local grid, NaN where nodata, and their mean before they were resampled to it."""

    values: NDArray[np.float32]
    box: Box
    mean: float


@dataclass(frozen=True, kw_only=True)
class Cells:
    """SMAP on its own grid: values (y, x) in m³/m³, NaN where nodata, the affine transform, and the CRS."""

    values: NDArray[np.float32]
    transform: rasterio.Affine
    crs: str


def to_local(area: BaseGeometry) -> tuple[CRS, BaseGeometry]:
    """Return an equal-area projection about the centre of an area in longitude and latitude, and the area in it."""
    import shapely
    from pyproj import Transformer

    west, south, east, north = area.bounds
    text = local_projection(area.bounds)
    transformer = Transformer.from_crs("OGC:CRS84", text, always_xy=True)
    dense = shapely.segmentize(area, max((east - west), (north - south)) / 50)
    outline: BaseGeometry = shapely.transform(
        dense, lambda points: np.column_stack(transformer.transform(points[:, 0], points[:, 1]))
    )
    return CRS.from_string(text), outline


def pixel_metres(path: Path) -> float:
    """Return the height of a pixel of a raster on the ground."""
    with rasterio.open(path) as data:
        metres: float = data.res[1] * (111_320.0 if data.crs.is_geographic else data.crs.linear_units_factor[1])
        return metres


def view_of(bounds: Box, pixel: float) -> Box:
    """Return the box of the panels: the area with a margin for its border pixels, wide enough for a heading."""
    left, bottom, right, top = bounds
    pad = max(0.015 * max(right - left, top - bottom), 1.5 * pixel)
    width, height = right - left + 2 * pad, top - bottom + 2 * pad
    width, height = max(width, _NARROWEST * height), max(height, width / _WIDEST)
    x, y = (left + right) / 2, (bottom + top) / 2
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def read_panel(path: Path, crs: CRS, box: Box, pixels: int = _PIXELS) -> Panel:
    """Read a layer in a box, decimated to what can be seen, and resample it to a local grid `pixels` across."""
    values, transform, source_crs = _read_decimated(path, crs, box)
    left, bottom, right, top = box
    size = max(right - left, top - bottom) / pixels
    height, width = (max(1, math.ceil((top - bottom) / size)), max(1, math.ceil((right - left) / size)))
    shown = np.full((height, width), np.nan, np.float32)
    reproject(
        values,
        shown,
        src_transform=transform,
        src_crs=source_crs,
        src_nodata=np.nan,
        dst_transform=from_origin(left, top, size, size),
        dst_crs=crs,
        dst_nodata=np.nan,
        resampling=Resampling.average,  # where a pixel is smaller than the layer's, its value
    )
    mean = float(np.mean(values[np.isfinite(values)])) if np.isfinite(values).any() else math.nan
    return Panel(values=shown, box=(left, top - height * size, left + width * size, top), mean=mean)


def in_cells(panel: Panel, cells: Cells, crs: CRS) -> Panel:
    """Return a panel with the value of the cell that each pixel lies in, wherever the panel has a value."""
    left, bottom, right, top = panel.box
    rows, cols = panel.values.shape
    shown = np.full((rows, cols), np.nan, np.float32)
    reproject(
        cells.values,
        shown,
        src_transform=cells.transform,
        src_crs=CRS.from_user_input(cells.crs),
        src_nodata=np.nan,
        dst_transform=from_origin(left, top, (right - left) / cols, (top - bottom) / rows),
        dst_crs=crs,
        dst_nodata=np.nan,
        resampling=Resampling.nearest,
    )
    shown[np.isnan(panel.values)] = np.nan
    return replace(panel, values=shown)


def _read_decimated(path: Path, crs: CRS, box: Box) -> tuple[NDArray[np.float32], rasterio.Affine, CRS]:
    """Read what a layer holds in a box of another projection, at most `_PIXELS` wide, with its transform and CRS."""
    with rasterio.open(path) as data:
        bounds = transform_bounds(crs, data.crs, *box)
        (top_row, end_row), (first_col, end_col) = from_bounds(*bounds, data.transform).toranges()
        first = max(0, math.floor(first_col)), max(0, math.floor(top_row))
        last = min(data.width, math.ceil(end_col)), min(data.height, math.ceil(end_row))
        window = Window(*first, last[0] - first[0], last[1] - first[1])
        shrink = max(1.0, max(window.width, window.height) / _PIXELS)
        shape = (max(1, round(window.height / shrink)), max(1, round(window.width / shrink)))
        stored = data.read(1, window=window, out_shape=shape, masked=True, resampling=Resampling.average)
        values = stored.astype(np.float32).filled(np.nan) * np.float32(data.scales[0])
        transform = data.window_transform(window) * rasterio.Affine.scale(
            window.width / shape[1], window.height / shape[0]
        )
        return values, transform, data.crs


def detail_box(panel: Panel) -> Box | None:
    """Return the box where a map varies most within about a kilometre; None for areas too small for a detail."""
    left, bottom, right, top = panel.box
    rows, cols = panel.values.shape
    size = (right - left) / cols
    side = min(_DETAIL_METRES, max(right - left, top - bottom) / 3)
    count = round(side / size)
    if side < 2_000 or count > min(rows, cols):
        return None
    valid = np.isfinite(panel.values)
    weight = valid.astype(np.float64)
    values = np.where(valid, panel.values, 0.0).astype(np.float64)
    near = max(3, round(1_000 / size))
    around = sums_around(values, near) / np.maximum(sums_around(weight, near), 1)
    rough = _window_sums(np.where(valid, (values - around) ** 2, 0.0), count)
    share = _window_sums(weight, count) / count**2
    enough = share >= min(0.95, share.max())
    row, col = np.unravel_index(np.argmax(np.where(enough, rough, -1.0)), rough.shape)
    x, y = left + float(col) * size, top - float(row) * size
    return x, y - count * size, x + count * size, y


def sums_around(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the sum of count × count pixels around each pixel, mirrored at the edges."""
    before = count // 2
    return _window_sums(np.pad(values, (before, count - 1 - before), "symmetric"), count)


def _window_sums(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the sums of all windows of count × count, by their upper left pixel."""
    sums = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    found: NDArray[np.float64] = (
        sums[count:, count:] - sums[:-count, count:] - sums[count:, :-count] + sums[:-count, :-count]
    )
    return found
