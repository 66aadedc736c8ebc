"""Statistics of maps over polygons such as fields, watersheds and counties, every pixel weighted by its covered area.

The table of `zonal_statistics` has one row per zone and day, zones in their order:

``zone``, ``date``
    The name of the zone; the day.
``mean``, ``median``, ``std``, ``p10``, ``p90``
    Of the values in the zone, in the units of the layer, each as files hold it (m³/m³ to 0.0001). A percentile is the
    value that this share of the area with a value does not exceed, or the mean of two such values, as in a field of
    two whole pixels. ``std`` is the spread of values within the zone, not the uncertainty of the mean. NaN where no
    pixel has a value.
``valid_share``
    Share of the zone's area that has a value, 0 to 1; the area beyond the maps has none.
``pixels``
    Number of pixels with a value, partly covered ones counted by their share.
``area_ha``
    Area of the whole zone on the ellipsoid, hectares; NaN for a zone so far away that the maps' CRS cannot show it.
``soil_moisture_std``
    For soil moisture, where the maps have it: mean of the layer. The uncertainty of ``mean`` is no larger, and equal to
    it where the members of the ensemble rise and fall together all over the zone.
``smap``
    For soil moisture, where the maps have it: mean of SMAP over the pixels that have soil moisture.
``none``, ``d0`` to ``d4``
    For percentiles: share of the area with a value in each drought class (`drought.CLASSES`), 0 to 1.
``short_climatology``
    For anomalies and percentiles, where the maps have quality: share of the area with a value that has the flag of this
    name, 0 to 1.
``synthetic``
    Whether any of the maps was made from synthetic inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.analysis.areas import is_equal_area, pixel_areas, polygon_areas
from mmnet_maps.analysis.zone_io import Zones, read_zones
from mmnet_maps.errors import RequestError, counted
from mmnet_maps.grid.polygons import listed
from mmnet_maps.product.drought import CLASSES, class_numbers
from mmnet_maps.product.layers import DROUGHT, LAYERS, Layer
from mmnet_maps.product.quality import FLAG_MASKS
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
_PERCENTILE = "soil_moisture_percentile"
_SHORT = "short_climatology"
_CLASS_COLUMNS = ("none", *(name.lower() for name in CLASSES))
_BLOCK = 1024  # pixels along a side of a block
_CELLS = 2_000_000  # combinations of zone and pixel in memory
_TIE = 1e-6  # coverage has the precision of float32


def zonal_statistics(
    maps: Maps, zones: Zones | Any, *, layer: str = "soil_moisture", quiet: bool = False
) -> pd.DataFrame:
    """Compute statistics of maps over zones; each pixel is weighted by its area inside the zone.

    Areas are those on the ellipsoid, whatever the CRS of the maps. The coverage of pixels by zones is computed once for
    all days. Blocks of the maps are read one by one, each once per day; for zones that reach over several blocks areas
    are summed by value, so memory is bounded whatever the size of the zones.

    Parameters
    ----------
    maps
        The maps, see `reader.open_maps`.
    zones
        The zones, or anything that `read_zones` accepts.
    layer
        A layer of the maps other than ``quality``; see `compared_maps.ComparedMaps` for `layers.DROUGHT`.
    quiet
        Hide the progress bar.

    Returns
    -------
    pandas.DataFrame
        One row per zone and day; the columns are described in `mmnet_maps.analysis.zones`.

    Raises
    ------
    RequestError
        The maps do not have the layer, or none of the zones touches them.
    InputError
        A map cannot be read.

    Examples
    --------
    >>> from mmnet_maps.product.reader import open_maps
    >>> zonal_statistics(open_maps("maps"), "fields.gpkg")  # doctest: +SKIP
    """
    zones = zones if isinstance(zones, Zones) else read_zones(zones)
    beside = _layers_beside(maps, layer)
    polygons = zones.to_crs(maps.grid.crs)
    chunks, last = _plan(polygons, maps.grid)
    if not chunks:
        count = len(last)
        some = f"none of the {count} zones of {zones.name} touches"
        one = f"the zone of {zones.name} does not touch"
        raise RequestError(f"{some if count > 1 else one} the maps; {_extents(zones, maps.grid)}")
    tally = _Tally(LAYERS[layer], beside, len(last), len(maps.days))
    _add_up(tally, maps, polygons, chunks, last, quiet)
    return _table(zones, maps, tally, polygon_areas(polygons, maps.grid))


def _add_up(
    tally: _Tally, maps: Maps, polygons: NDArray[Any], chunks: Sequence[_Chunk], last: Numbers, quiet: bool
) -> None:
    """Read the maps block by block and add them to the tally."""
    from tqdm import tqdm

    from mmnet_maps.analysis.coverage import coverage

    grid = maps.grid
    equal = is_equal_area(grid)
    with tqdm(total=len(chunks) * len(maps.days), desc="zones", unit="block", disable=quiet) as bar:
        for number, chunk in enumerate(chunks):
            place, pixel, fraction = coverage(chunk.polygons(polygons), grid[chunk.window])
            area = fraction * pixel_areas(grid[chunk.window], equal)[pixel]
            for k, day in enumerate(maps.days):
                values = {name: maps.read(name, day, chunk.window).ravel()[pixel] for name in tally.layers}
                tally.add(k, chunk.zones, place, values, fraction, area)
                tally.finish(k, last == number)
                bar.update()


def _layers_beside(maps: Maps, layer: str) -> tuple[str, ...]:
    """Return the layers that accompany the statistics of a layer: their means, or of quality the share of a flag.

    Raises
    ------
    RequestError
        The maps do not have the layer.
    """
    continuous = [name for name in maps.layers if LAYERS[name].nodata is not None]
    if layer not in continuous:
        raise RequestError(f"no statistics of {layer!r} in these maps; expected one of {', '.join(continuous)}")
    if layer in DROUGHT:
        return ("quality",) if "quality" in maps.layers else ()
    return tuple(name for name in _BESIDE if name in continuous) if layer == "soil_moisture" else ()


@dataclass(frozen=True)
class _Chunk:
    """Zones whose coverage is computed together, and the window of the grid around their parts in a block."""

    zones: Numbers
    window: Window

    def polygons(self, polygons: NDArray[Any]) -> list[bytes]:
        import shapely

        return list(shapely.to_wkb(polygons[self.zones]))


def _plan(polygons: NDArray[Any], grid: GeoBox) -> tuple[list[_Chunk], Numbers]:
    """Return the chunks, block by block, and for every zone the last chunk it belongs to, -1 where none."""
    boxes = _boxes(polygons, grid)
    by_block: dict[tuple[int, int], list[int]] = {}
    for zone, (top, bottom, left, right) in enumerate(boxes.tolist()):
        if top < bottom and left < right:
            for row in range(top // _BLOCK, -(-bottom // _BLOCK)):
                for col in range(left // _BLOCK, -(-right // _BLOCK)):
                    by_block.setdefault((row, col), []).append(zone)
    chunks: list[_Chunk] = []
    last = np.full(len(boxes), -1)
    for (row, col), members in sorted(by_block.items()):
        here = np.array(members)
        corner = np.array([row, row, col, col]) * _BLOCK
        inside = np.clip(boxes[here], corner, corner + _BLOCK)
        size = (inside[:, 1] - inside[:, 0]) * (inside[:, 3] - inside[:, 2])
        group = np.cumsum(size) // _CELLS
        for one in np.unique(group):
            mine = group == one
            (top, _, left, _), (_, bottom, _, right) = inside[mine].min(0).tolist(), inside[mine].max(0).tolist()
            last[here[mine]] = len(chunks)
            chunks.append(_Chunk(here[mine], (slice(top, bottom), slice(left, right))))
    return chunks, last


def _boxes(polygons: NDArray[Any], grid: GeoBox) -> Numbers:
    """Return the rows and columns of the grid that each polygon may touch: first and end of each (zone, 4)."""
    import shapely

    bounds = shapely.bounds(polygons)
    to_pixels = ~grid.affine
    (left, bottom), (right, top) = (to_pixels * (bounds[:, k], bounds[:, k + 1]) for k in (0, 2))
    height, width = grid.shape
    edges = np.nan_to_num(np.column_stack([np.floor(top), np.ceil(bottom), np.floor(left), np.ceil(right)]))
    clipped: Floats = np.clip(edges, 0, [height, height, width, width])
    return clipped.astype(np.int64)


def _extents(zones: Zones, grid: GeoBox) -> str:
    """Return the extents of zones and maps as text, for an error."""
    import pyproj
    import shapely

    move = pyproj.Transformer.from_crs(grid.crs, zones.crs, always_xy=True)
    spans = (shapely.total_bounds(zones.polygons), move.transform_bounds(*grid.boundingbox.bbox))
    theirs, ours = (f"{left:.6g} to {right:.6g} by {low:.6g} to {high:.6g}" for left, low, right, high in spans)
    return f"they span {theirs}, the maps {ours}: check the CRS of the zones, longitude (x) first, and --maps"


class _Tally:
    """Sums by zone and day, and areas by value for the zones that are not finished."""

    def __init__(self, layer: Layer, beside: Sequence[str], zones: int, days: int) -> None:
        self._layer = layer
        self.layers = (layer.name, *beside)
        self._lowest = int(np.iinfo(layer.dtype).min)
        self.pixels, self.area = np.zeros((zones, days)), np.zeros((zones, days))
        self.found = {name: np.full((zones, days), np.nan) for name in ("mean", "std", *_QUANTILES)}
        if layer.name == _PERCENTILE:
            self.found |= {name: np.full((zones, days), np.nan) for name in _CLASS_COLUMNS}
        self._beside = {name: (np.zeros((zones, days)), np.zeros((zones, days))) for name in beside}
        self._open = [(np.empty(0, np.int64), np.empty(0)) for _ in range(days)]

    def add(
        self,
        day: int,
        zones: Numbers,
        place: Numbers,
        values: Mapping[str, NDArray[Any]],
        fraction: Floats,
        area: Floats,
    ) -> None:
        """Add the pixels of a chunk on a day.

        Parameters
        ----------
        day
            Index of the day.
        zones
            The zones of the chunk.
        place, values, fraction, area
            For every combination of zone and pixel: the zone's index in `zones`, the values of the layers, the covered
            share of the pixel, and its area, m².
        """
        there = np.isfinite(values[self._layer.name])
        place, area = place[there], area[there]

        def total(weights: Floats) -> Floats:
            return np.bincount(place, weights, len(zones)).astype(np.float64)

        self.pixels[zones, day] += total(fraction[there])
        self.area[zones, day] += total(area)
        for name, (sums, areas) in self._beside.items():
            mine = values[name][there]
            if name == "quality":
                mine = (mine & FLAG_MASKS[_SHORT] > 0).astype(np.float32)
            good = np.isfinite(mine)
            sums[zones, day] += total(np.where(good, mine * area, 0.0))
            areas[zones, day] += total(np.where(good, area, 0.0))
        keys, held = self._open[day]
        more = zones[place] << 16 | self._layer.pack(values[self._layer.name][there]).astype(np.int64) - self._lowest
        self._open[day] = _by_key(np.concatenate([keys, more]), np.concatenate([held, area]))

    def finish(self, day: int, finished: NDArray[np.bool_]) -> None:
        """Turn areas by value into statistics of a day for the finished zones, a mask (zone,)."""
        keys, areas = self._open[day]
        done = finished[keys >> 16]
        self._open[day] = keys[~done], areas[~done]
        zone, starts = np.unique(keys[done] >> 16, return_index=True)
        values = ((keys[done] & 0xFFFF) + self._lowest) * self._layer.scale
        for name, of_zones in _statistics(values, areas[done], starts).items():
            self.found[name][zone, day] = of_zones
        if self._layer.name == _PERCENTILE and starts.size:
            numbers, total = class_numbers(values), np.add.reduceat(areas[done], starts)
            for number, name in enumerate(_CLASS_COLUMNS):
                self.found[name][zone, day] = np.add.reduceat(areas[done] * (numbers == number), starts) / total

    def means(self) -> dict[str, Floats]:
        """Return the means of the other layers (zone, day), NaN where there are none."""
        with np.errstate(invalid="ignore"):
            means = {name: sums / areas for name, (sums, areas) in self._beside.items()}
        return {_SHORT if name == "quality" else name: values for name, values in means.items()}


def _by_key(keys: Numbers, areas: Floats) -> tuple[Numbers, Floats]:
    """Sort keys and sum the areas of equal ones; areas are above 0."""
    if keys.size and np.ptp(keys) < 4 * keys.size:  # few large zones: a table of all keys is quicker than sorting
        sums: Floats = np.bincount(keys - keys.min(), areas).astype(np.float64)
        there = np.flatnonzero(sums)
        return there + keys.min(), sums[there]
    order = np.argsort(keys, kind="stable")
    keys, areas = keys[order], areas[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[starts], np.add.reduceat(areas, starts) if starts.size else areas


def _statistics(values: Floats, areas: Floats, starts: Numbers) -> dict[str, Floats]:
    """Compute area-weighted statistics of runs of ascending values.

    Parameters
    ----------
    values, areas
        The runs one after the other; areas above 0.
    starts
        The index where each run begins.
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
    """Return the table of statistics; `areas` are those of the whole zones, m²."""
    import pandas as pd

    with np.errstate(invalid="ignore"):
        share = np.nan_to_num(np.minimum(tally.area / areas[:, None], 1.0))
    if maps.synthetic:
        log.warning("an input of these maps is synthetic: the statistics do not describe any real place or day")
    empty = (tally.pixels == 0).all(1)
    if empty.any():
        log.warning(
            "no value on any day for %d of %s, which lie outside the maps or where these have none: %s",
            empty.sum(), counted(len(empty), "zone"), listed(zones.ids[empty]),
        )  # fmt: skip
    shape = tally.pixels.shape
    columns = {
        **{name: tally.found[name] for name in ("mean", "median", "std", "p10", "p90")},
        "valid_share": share,
        "pixels": tally.pixels,
        "area_ha": np.broadcast_to(np.where(areas > 0, areas / 1e4, np.nan)[:, None], shape),
        **tally.means(),
        **{name: tally.found[name] for name in _CLASS_COLUMNS if name in tally.found},
    }
    return pd.DataFrame(
        {
            "zone": np.repeat(zones.ids, shape[1]),
            "date": np.tile(np.array(maps.days, "datetime64[s]"), shape[0]),
            **{name: values.ravel() for name, values in columns.items()},
            "synthetic": maps.synthetic,
        }
    )
