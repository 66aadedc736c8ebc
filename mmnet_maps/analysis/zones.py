"""Statistics of maps over polygons: fields, watersheds, counties; every pixel counts by the area that is covered."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.analysis.zone_io import EDGE_DEGREES, Zones, moved, read_zones
from mmnet_maps.errors import RequestError
from mmnet_maps.product.layers import LAYERS, Layer
from mmnet_maps.product.reader import Maps

if TYPE_CHECKING:
    import pandas as pd
    from odc.geo.geobox import GeoBox

    from mmnet_maps.grid.lattice import Window

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

_QUANTILES = {"median": 0.5, "p10": 0.1, "p90": 0.9}
_BESIDE = ("soil_moisture_std", "smap")
_EQUAL_AREA = "EPSG:6933"  # cylindrical: meridians and parallels stay lines, so pixels stay rectangles
_BLOCK = 1024  # pixels along a side of what is read at once
_CELLS = 2_000_000  # pairs of zone and pixel that are held at once
_EDGE_METRES = 1000.0  # longer edges are bent
_DISTORTION = 1e-4  # of areas: a CRS of less counts as equal-area
_TIE = 1e-6  # coverage has the precision of float32


def zonal_statistics(
    maps: Maps, zones: Zones | Any, *, layer: str = "soil_moisture", quiet: bool = False
) -> pd.DataFrame:
    """Statistics of maps over zones, each pixel with the area of it that lies in the zone as its weight.

    Areas are those on the ellipsoid, whatever the CRS of the maps.
    The part of each pixel that each zone covers is found once for all days. Blocks of the maps are read one by one,
    each once a day; of zones that reach over several what is kept are areas by value, so that memory is bounded
    whatever the zones' size.

    Parameters
    ----------
    maps
        The maps, see `reader.open_maps`.
    zones
        The zones; or what `read_zones` takes.
    layer
        ``soil_moisture``, ``soil_moisture_std`` or ``smap``.
    quiet
        No progress bar.

    Returns
    -------
    pandas.DataFrame
        One row a zone and day, zones in their order:

        ``zone``, ``date``
            The name of the zone; the day.
        ``mean``, ``median``, ``std``, ``p10``, ``p90``
            Of the values of the zone's area, m³/m³, each to 0.0001 as files hold it. A percentile is the value that
            this share of the area with a value does not exceed; where two values do, as in a field of two whole pixels,
            their mean. ``std`` is how much the values differ within the zone, not how uncertain the mean is. NaN where
            no pixel has a value.
        ``valid_share``
            Share of the zone's area that has a value, 0 to 1; beyond the maps there is none.
        ``pixels``
            Sum of the pixels with a value, each as far as it is covered.
        ``area_ha``
            Area of the whole zone on the ellipsoid, hectares; NaN for one so far away that the maps' CRS cannot show
            it.
        ``soil_moisture_std``
            Where the maps have it, and soil moisture is asked for: mean of the layer. The uncertainty of ``mean`` is no
            larger; it is this where members of the ensemble rise and fall together all over the zone.
        ``smap``
            Likewise, mean of SMAP over the pixels that have soil moisture.
        ``synthetic``
            Whether an input of any of the maps was not an observation.

    Raises
    ------
    RequestError
        When the maps lack the layer or none of the zones touches them.
    InputError
        When a map cannot be read.

    Examples
    --------
    >>> from mmnet_maps.product.reader import open_maps
    >>> zonal_statistics(open_maps("maps"), "fields.gpkg")  # doctest: +SKIP
    """
    from tqdm import tqdm

    from mmnet_maps.analysis.coverage import coverage

    zones = zones if isinstance(zones, Zones) else read_zones(zones)
    beside = _layers(maps, layer)
    grid, days = maps.grid, maps.days
    polygons = zones.to_crs(grid.crs)
    jobs, last = _plan(polygons, grid)
    if not jobs:
        raise RequestError(f"none of the {len(last)} zones of {zones.name} touches the maps; {_places(zones, grid)}")
    tally = _Tally(LAYERS[layer], beside, len(last), len(days))
    equal = _equal_area(grid)
    areas = _areas(polygons, grid, equal)
    with tqdm(total=len(jobs) * len(days), desc="zones", unit="block", disable=quiet) as bar:
        for number, job in enumerate(jobs):
            place, pixel, fraction = coverage(job.polygons(polygons), grid[job.window])
            area = fraction * _pixel_areas(grid[job.window], equal)[pixel]
            for k, day in enumerate(days):
                values = {name: maps.read(name, day, job.window).ravel()[pixel] for name in (layer, *beside)}
                tally.add(k, job.zones, place, values, fraction, area)
                tally.finish(k, last == number)
                bar.update()
    return _table(zones, maps, tally, areas)


def _layers(maps: Maps, layer: str) -> tuple[str, ...]:
    """The layers whose means are given beside the statistics of a layer."""
    continuous = [name for name in maps.layers if LAYERS[name].nodata is not None]
    if layer not in continuous:
        raise RequestError(
            f"there are no statistics of {layer!r} in these maps; expected one of {', '.join(continuous)}"
        )
    return tuple(name for name in _BESIDE if name in continuous) if layer == "soil_moisture" else ()


@dataclass(frozen=True)
class _Job:
    """Zones that are covered together, and a window of the grid that holds them within a block."""

    zones: Numbers
    window: Window

    def polygons(self, polygons: NDArray[Any]) -> list[bytes]:
        import shapely

        return list(shapely.to_wkb(polygons[self.zones]))


def _plan(polygons: NDArray[Any], grid: GeoBox) -> tuple[list[_Job], Numbers]:
    """What is to be done, block by block; and for every zone the last job that it has a part in, -1 where none."""
    boxes = _boxes(polygons, grid)
    by_block: dict[tuple[int, int], list[int]] = {}
    for zone, (top, bottom, left, right) in enumerate(boxes.tolist()):
        if top < bottom and left < right:
            for row in range(top // _BLOCK, -(-bottom // _BLOCK)):
                for col in range(left // _BLOCK, -(-right // _BLOCK)):
                    by_block.setdefault((row, col), []).append(zone)
    jobs: list[_Job] = []
    last = np.full(len(boxes), -1)
    for (row, col), members in sorted(by_block.items()):
        here = np.array(members)
        corner = np.array([row, row, col, col]) * _BLOCK
        inside = np.clip(boxes[here], corner, corner + _BLOCK)
        size = (inside[:, 1] - inside[:, 0]) * (inside[:, 3] - inside[:, 2])
        batch = np.cumsum(size) // _CELLS
        for one in np.unique(batch):
            mine = batch == one
            (top, _, left, _), (_, bottom, _, right) = inside[mine].min(0).tolist(), inside[mine].max(0).tolist()
            last[here[mine]] = len(jobs)
            jobs.append(_Job(here[mine], (slice(top, bottom), slice(left, right))))
    return jobs, last


def _boxes(polygons: NDArray[Any], grid: GeoBox) -> Numbers:
    """First and end of the rows and of the columns of the grid that each polygon may touch (zone, 4)."""
    import shapely

    bounds = shapely.bounds(polygons)
    to_pixels = ~grid.affine
    (left, bottom), (right, top) = (to_pixels * (bounds[:, k], bounds[:, k + 1]) for k in (0, 2))
    height, width = grid.shape
    edges = np.nan_to_num(np.column_stack([np.floor(top), np.ceil(bottom), np.floor(left), np.ceil(right)]))
    clipped: Floats = np.clip(edges, 0, [height, height, width, width])
    return clipped.astype(np.int64)


def _areas(polygons: NDArray[Any], grid: GeoBox, equal: bool) -> Floats:
    """Area of every polygon in the CRS of a grid, m²."""
    import shapely

    unit = _metres(grid)
    if equal:
        return np.asarray(shapely.area(polygons) * unit**2)
    edge = _EDGE_METRES / unit if _projected(grid) else EDGE_DEGREES
    return np.asarray(shapely.area(moved(shapely.segmentize(polygons, edge), grid.crs, _EQUAL_AREA)))


def _pixel_areas(grid: GeoBox, equal: bool) -> Floats:
    """Area of the pixels of a grid, row by row, m²."""
    height, width = grid.shape
    if equal:
        return np.full(height * width, abs(grid.affine.a * grid.affine.e) * _metres(grid) ** 2)
    return _true_areas(grid, np.arange(height)[:, None], np.arange(width)).ravel()


def _true_areas(grid: GeoBox, rows: Numbers, cols: Numbers) -> Floats:
    """Area on the ellipsoid of pixels at rows and columns that broadcast, m²."""
    import pyproj

    move = pyproj.Transformer.from_crs(grid.crs, _EQUAL_AREA, always_xy=True)
    rows, cols = np.broadcast_arrays(rows, cols)
    to = grid.affine  # north up
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = (
        move.transform(to.c + to.a * (cols + right), to.f + to.e * (rows + down))
        for right, down in ((0, 0), (1, 0), (1, 1), (0, 1))
    )
    return np.asarray(np.abs((cx - ax) * (dy - by) - (dx - bx) * (cy - ay)) / 2)


def _equal_area(grid: GeoBox) -> bool:
    """Whether areas in the CRS of a grid are those on the ellipsoid, at 25 pixels all over it."""
    if not _projected(grid):
        return False
    rows, cols = (np.unique(np.linspace(0, size - 1, 5).astype(np.int64)) for size in grid.shape)
    true = _true_areas(grid, rows[:, None], cols)
    drawn = abs(grid.affine.a * grid.affine.e) * _metres(grid) ** 2
    return bool((np.abs(true / drawn - 1) < _DISTORTION).all())


def _projected(grid: GeoBox) -> bool:
    import pyproj

    return bool(pyproj.CRS.from_user_input(grid.crs).is_projected)


def _metres(grid: GeoBox) -> float:
    """The unit of a projected CRS, m."""
    import pyproj

    return float(pyproj.CRS.from_user_input(grid.crs).axis_info[0].unit_conversion_factor)


def _places(zones: Zones, grid: GeoBox) -> str:
    import pyproj
    import shapely

    move = pyproj.Transformer.from_crs(grid.crs, zones.crs, always_xy=True)
    spans = (shapely.total_bounds(zones.polygons), move.transform_bounds(*grid.boundingbox.bbox))
    theirs, ours = (f"{left:.6g} to {right:.6g} by {low:.6g} to {high:.6g}" for left, low, right, high in spans)
    return f"they span {theirs}, the maps {ours}: check the CRS of the zones, longitude (x) first, and --maps"


class _Tally:
    """Sums by zone and day, and areas by value of the zones that are not finished."""

    def __init__(self, layer: Layer, beside: Sequence[str], zones: int, days: int) -> None:
        self._layer = layer
        self.pixels, self.area = np.zeros((zones, days)), np.zeros((zones, days))
        self.found = {name: np.full((zones, days), np.nan) for name in ("mean", "std", *_QUANTILES)}
        self._beside = {name: (np.zeros((zones, days)), np.zeros((zones, days))) for name in beside}
        self._open = [(np.empty(0, np.int64), np.empty(0)) for _ in range(days)]

    def add(
        self,
        day: int,
        zones: Numbers,
        place: Numbers,
        values: Mapping[str, NDArray[np.float32]],
        fraction: Floats,
        area: Floats,
    ) -> None:
        """Count the pixels of a job.

        Parameters
        ----------
        day
            Its place among the days.
        zones
            The zones of the job.
        place, values, fraction, area
            Of every pair of zone and pixel: the zone's place in `zones`, what the layers hold there, the share of the
            pixel that is covered, and the area of that, m².
        """
        there = np.isfinite(values[self._layer.name])
        place, area = place[there], area[there]

        def total(weights: Floats) -> Floats:
            return np.bincount(place, weights, len(zones)).astype(np.float64)

        self.pixels[zones, day] += total(fraction[there])
        self.area[zones, day] += total(area)
        for name, (sums, areas) in self._beside.items():
            mine = values[name][there]
            good = np.isfinite(mine)
            sums[zones, day] += total(np.where(good, mine * area, 0.0))
            areas[zones, day] += total(np.where(good, area, 0.0))
        keys, held = self._open[day]
        more = zones[place] << 16 | self._layer.pack(values[self._layer.name][there])
        self._open[day] = _by_key(np.concatenate([keys, more]), np.concatenate([held, area]))

    def finish(self, day: int, finished: NDArray[np.bool_]) -> None:
        """Turn areas by value into statistics for zones (zone,) that are complete."""
        keys, areas = self._open[day]
        done = finished[keys >> 16]
        self._open[day] = keys[~done], areas[~done]
        zone, starts = np.unique(keys[done] >> 16, return_index=True)
        for name, values in _statistics((keys[done] & 0xFFFF) * self._layer.scale, areas[done], starts).items():
            self.found[name][zone, day] = values

    def means(self) -> dict[str, Floats]:
        """Means of the other layers (zone, day), NaN where there are none."""
        with np.errstate(invalid="ignore"):
            return {name: sums / areas for name, (sums, areas) in self._beside.items()}


def _by_key(keys: Numbers, areas: Floats) -> tuple[Numbers, Floats]:
    """Keys ascending, each once, with the sum of its areas, which are above 0."""
    if keys.size and np.ptp(keys) < 4 * keys.size:  # few large zones: a table of all keys is quicker than sorting
        sums: Floats = np.bincount(keys - keys.min(), areas).astype(np.float64)
        there = np.flatnonzero(sums)
        return there + keys.min(), sums[there]
    order = np.argsort(keys, kind="stable")
    keys, areas = keys[order], areas[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[starts], np.add.reduceat(areas, starts) if starts.size else areas


def _statistics(values: Floats, areas: Floats, starts: Numbers) -> dict[str, Floats]:
    """Weighted statistics of runs of ascending values.

    Parameters
    ----------
    values, areas
        The runs one after the other; areas above 0.
    starts
        Where each run begins.
    """
    if not starts.size:
        return {}
    counts = np.diff(starts, append=len(values))
    shares = areas / np.repeat(np.add.reduceat(areas, starts), counts)
    mean = np.add.reduceat(shares * values, starts)
    variance = np.add.reduceat(shares * (values - np.repeat(mean, counts)) ** 2, starts)
    found = {"mean": mean, "std": np.sqrt(variance)}
    reached = np.cumsum(shares)
    before = np.concatenate([[0.0], reached])[starts]
    final = starts + counts - 1
    for name, share in _QUANTILES.items():
        low = np.searchsorted(reached, before + share - _TIE)
        high = np.searchsorted(reached, before + share + _TIE, side="right")
        found[name] = (values[np.clip(low, starts, final)] + values[np.clip(high, starts, final)]) / 2
    return found


def _table(zones: Zones, maps: Maps, tally: _Tally, areas: Floats) -> pd.DataFrame:
    import pandas as pd

    with np.errstate(invalid="ignore"):
        share = np.nan_to_num(np.minimum(tally.area / areas[:, None], 1.0))
    if maps.synthetic:
        log.warning("an input of these maps is synthetic: the statistics say nothing about any real place or day")
    empty = (tally.pixels == 0).all(1)
    if empty.any():
        log.warning(
            "%d of %d zones have no value on any day: they lie outside of the maps, or where these have none",
            empty.sum(), len(empty),
        )  # fmt: skip
    shape = tally.pixels.shape
    columns = {
        **{name: tally.found[name] for name in ("mean", "median", "std", "p10", "p90")},
        "valid_share": share,
        "pixels": tally.pixels,
        "area_ha": np.broadcast_to(np.where(areas > 0, areas / 1e4, np.nan)[:, None], shape),
        **tally.means(),
    }
    return pd.DataFrame(
        {
            "zone": np.repeat(zones.ids, shape[1]),
            "date": np.tile(np.array(maps.days, "datetime64[s]"), shape[0]),
            **{name: values.ravel() for name, values in columns.items()},
            "synthetic": maps.synthetic,
        }
    )
