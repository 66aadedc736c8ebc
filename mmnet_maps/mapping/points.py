"""The product at points, day by day: computed on their pixels alone, or read from finished maps."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date
from itertools import compress, groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon
from tqdm import tqdm

from mmnet_maps import __version__
from mmnet_maps.errors import InputError, RequestError, counted
from mmnet_maps.grid.area import Area, parse_days
from mmnet_maps.grid.places import place_name
from mmnet_maps.grid.tiles import Tile, conus_grid, pixel_groups, pixels_of
from mmnet_maps.mapping.no_value import Tally
from mmnet_maps.mapping.pipeline import Part, compute_layers, read_pixels
from mmnet_maps.mapping.request import Request, describe, draft_request, open_stack
from mmnet_maps.mapping.usual import check_comparable, compare_layers, samples_on
from mmnet_maps.metrics import ESTIMATE
from mmnet_maps.product.drought import class_names
from mmnet_maps.product.layers import DROUGHT, LAYERS
from mmnet_maps.product.quality import FLAG_MASKS
from mmnet_maps.product.reader import open_maps
from mmnet_maps.settings import MapOptions, MapSettings, settle
from mmnet_maps.sources import open_source
from mmnet_maps.stack.availability import Picked, fetched_at
from mmnet_maps.stack.pixels import choose_for_points, point_stacks
from mmnet_maps.stack.point_plan import Point
from mmnet_maps.stack.store import Stack

if TYPE_CHECKING:
    import pandas as pd

    from mmnet_maps.product.climatology import Samples

RAIN = "pr"

_ROWS = 500_000  # pixels × days × networks whose terms of the series are kept, 256 bytes each
_MOST_DAYS = 100

log = logging.getLogger("mmnet_maps")


@dataclass(frozen=True, kw_only=True, eq=False)
class PointSeries:
    """The product at n points on some days.

    Attributes
    ----------
    days
        The days.
    values
        Layers as `layers.compose`, and ``pr`` if the model uses the day's, (n, days).
    missing
        Where there were no inputs or no map, bool (n, days).
    reason
        Why points are missing, as the end of a sentence.
    about
        Description of the product (`request.describe`).
    """

    days: tuple[date, ...]
    values: dict[str, NDArray[Any]]
    missing: NDArray[np.bool_]
    reason: str
    about: dict[str, Any]

    @classmethod
    def empty(
        cls, names: Sequence[str], count: int, days: Sequence[date], flag: str, reason: str, about: dict[str, Any]
    ) -> PointSeries:
        """Make a series without values, to be filled; its quality is `flag`."""
        shape = (count, len(days))
        fill = {"quality": np.uint16(FLAG_MASKS[flag])}
        values = {name: np.full(shape, fill.get(name, np.float32(np.nan))) for name in names}
        return cls(days=tuple(days), values=values, missing=np.ones(shape, bool), reason=reason, about=about)


def at_points(
    places: pd.DataFrame | Sequence[tuple[float, float]],
    dates: Any = None,
    *,
    maps: str | Path | Sequence[str | Path] | None = None,
    parts: Path | None = None,
    quiet: bool = False,
    **options: Unpack[MapOptions],
) -> pd.DataFrame:
    """Return daily soil moisture at points: the values of the maps at their pixels, without making maps.

    Parameters
    ----------
    places
        A table with ``station, lat, lon`` in degrees, or pairs of longitude and latitude.
    dates
        A day, an inclusive range ``"2021-07-29/2021-08-08"``, or a sequence of these; with `maps`, of their days
        (default: all).
    maps
        Finished maps to read (`reader.open_maps`), in place of a stack or source and a model.
    climatology
        Climatology to compare the values with (``mmnet climatology``), also those of finished maps.
    parts
        Folder in which what was read from a source is kept and found again, so that an interrupted call continues;
        None to keep nothing.
    quiet
        No progress bar.
    stack, source, model, uncertainty, smap_resampling, device, precision, threads, config
        As `lazy.downscale_product`. A source reads each coarse cell once, whatever the number of points in it.

    Returns
    -------
    pandas.DataFrame
        One row per place and day, place by place: ``station, date, lat, lon``, ``soil_moisture_estimate``,
        ``soil_moisture_std`` (NaN without an ensemble) and ``smap`` in m³/m³, float32, NaN as on a map;
        with a climatology ``soil_moisture_anomaly``, ``soil_moisture_standardised_anomaly`` and
        ``soil_moisture_percentile``, see `product.drought`, and ``drought_class``, ``D0`` to ``D4`` or ``none``;
        ``quality``, uint16, see `layers.QUALITY_BITS`: bit 0 off the maps, bit 2 where the stack was not filled; and
        ``pr``, the day's rain in mm, if a model was run that uses it. Layers that the maps do not have are left out.
        ``attrs`` describe the product.

    Raises
    ------
    RequestError, InputError
        Places, days, model or an option are wrong; no point has inputs or a map, or something cannot be read.

    Examples
    --------
    >>> at_points([(-119.6, 47.1)], "2021-07-29/2021-08-08", stack="stack.zarr")  # doctest: +SKIP
    """
    table = as_table(places)
    if maps is not None:
        climatology = options.pop("climatology", None)
        if wrong := sorted(name for name, value in options.items() if value not in (None, ())):
            raise RequestError(f"maps hold finished estimates; leave out {', '.join(wrong)}")
        found = _from_maps(maps, dates, table, None if climatology is None else Path(climatology), quiet=quiet)
    else:
        found = _from_inputs(settle(options), dates, table, parts=parts, quiet=quiet)
    _log_missing(table["station"].tolist(), found)
    return _rows(table, found)


def as_table(places: pd.DataFrame | Sequence[tuple[float, float]]) -> pd.DataFrame:
    """Return the places as a table; places without a name are named by their position."""
    import pandas as pd

    if isinstance(places, pd.DataFrame):
        return places
    return pd.DataFrame(
        [(place_name(lon, lat), float(lat), float(lon)) for lon, lat in places], columns=["station", "lat", "lon"]
    )


def _from_inputs(
    settings: MapSettings, dates: Any, table: pd.DataFrame, *, parts: Path | None, quiet: bool
) -> PointSeries:
    """Compute the product from a stack or from a source."""
    if settings.stack is None and settings.source is None:
        raise RequestError("no input given; expected finished maps (--maps), a stack (--stack) or a source (--source)")
    stack = None if settings.stack is None else Stack(settings.stack)
    request = draft(settings, dates)
    request.check_climatology(synthetic=None if stack is None else _is_synthetic(request, stack))
    if stack is None:
        return _from_source(request, str(settings.source), table, parts=parts, quiet=quiet)
    for name in request.needs.variables:
        stack.group_of(name)  # raises if the stack does not have it
    lon, lat = (table[name].to_numpy(np.float64) for name in ("lon", "lat"))
    request = replace(request, stack=stack.path.absolute())
    return _from_stack(request, open_stack(request.stack), lon, lat, quiet=quiet)


def _is_synthetic(request: Request, stack: Stack) -> bool:
    return replace(request, stack=stack.path.absolute()).synthetic


def draft(settings: MapSettings, dates: Any) -> Request:
    """Make a request for points, without a stack."""
    nowhere, no_grid = Area(name="points", geometry=MultiPolygon()), conus_grid()[:1, :1]
    request = draft_request(settings, nowhere, no_grid, (), parse_days(dates))
    return replace(request, recipe=replace(request.recipe, members=False))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Group:
    """Points of one tile on some days: their indices, their pixels, the days, and which (day, point) have inputs."""

    tile: Tile
    which: NDArray[np.intp]
    picked: Picked
    days: tuple[date, ...]
    fetched: NDArray[np.bool_]


def _from_stack(
    request: Request, stack: Stack, lon: NDArray[np.float64], lat: NDArray[np.float64], *, quiet: bool
) -> PointSeries:
    """Compute the product from a stack, tile by tile: each chunk is decoded once, the engine runs on pixels.

    Area, grid and tiles of the request are not used, and of its stack only what describes it.
    """
    rows, cols = pixels_of(stack.target, lon, lat)
    found = _without_inputs(request, len(rows), describe(request))
    column = {day: k for k, day in enumerate(request.days)}
    groups: dict[str, _Group] = {}

    def parts() -> Iterator[Part]:
        for group in _groups(request, stack, rows, cols):
            groups[group.tile.id] = group
            yield from read_pixels(request, stack, group.tile, group.picked, group.days)

    count = int((rows >= 0).sum()) * len(request.days)
    with _progress(count, quiet) as bar:
        for part, layers in compute_layers(request, parts()):
            group = groups[part.tile.id]
            fetched = group.fetched[part.number]
            here = group.which[fetched], column[part.day]
            found.missing[here] = False
            layers |= {name: _last(part, name, request.needs.steps) for name in _rain(request)}
            for name, values in found.values.items():
                values[here] = layers[name][0, fetched]
            bar.update(group.which.size)
        bar.update(count - bar.n)  # points without inputs
    return found


def _groups(request: Request, stack: Stack, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> Iterator[_Group]:
    """Group the points that have inputs by tile and day batch."""
    number = 0
    for which, window in pixel_groups(stack.target, rows, cols):
        box = stack.target[window]
        picked = rows[which] - window[0].start, cols[which] - window[1].start
        most = max(request.engine.days_at_once, min(_MOST_DAYS, _ROWS // (which.size * request.networks)))
        for days in request.day_batches(request.days, most):
            fetched = fetched_at(stack, box, picked, request.needs, days)
            able, on = np.any(fetched, axis=0), np.any(fetched, axis=1)
            if able.any():
                number += 1
                yield _Group(
                    tile=Tile(id=str(number), rows=window[0], cols=window[1], geobox=box),
                    which=which[able],
                    picked=(picked[0][able], picked[1][able]),
                    days=tuple(compress(days, on)),
                    fetched=fetched[on][:, able],
                )


def _rain(request: Request) -> list[str]:
    return [RAIN] if RAIN in request.needs.series and request.needs.includes_day else []


def _last(part: Part, name: str, steps: int) -> NDArray[np.float32]:
    """Return the last value of a series, that of the day itself, for every pixel."""
    last = part.block.series[name][:, part.block.starts[part.number] + steps - 1]
    return np.append(last, np.float32(np.nan))[part.block.rows_of(name)]  # row -1 takes the NaN at the end


def _from_source(request: Request, source: str, table: pd.DataFrame, *, parts: Path | None, quiet: bool) -> PointSeries:
    """Compute the product from a source, point by point, through stacks of one pixel."""
    found = _without_inputs(request, len(table), {"synthetic": False})
    column = {day: k for k, day in enumerate(request.days)}
    rows, points = points_of(request, table)
    bar = tqdm(total=len(table), initial=len(table) - len(points), unit="point", desc="points", disable=quiet)
    sources = open_source(source)
    choose_for_points(sources, points, request.needs)
    stacks = point_stacks(sources, points, request.needs, folder=parts)
    with bar, closing(stacks):
        for number, of_years in groupby(stacks, key=itemgetter(0)):
            k = rows[number]
            lon, lat = (table[name].to_numpy(np.float64)[k : k + 1] for name in ("lon", "lat"))
            for _, days, stack in of_years:
                one = _from_stack(replace(request, stack=stack.path, days=tuple(days)), stack, lon, lat, quiet=True)
                columns = [column[day] for day in days]
                found.missing[k, columns] = one.missing[0]
                for layer, values in one.values.items():
                    found.values[layer][k, columns] = values[0]
                found.about.update(one.about)
            bar.update()
    return found


def points_of(request: Request, table: pd.DataFrame) -> tuple[list[int], list[Point]]:
    """Return the rows of a table of places that lie on the default grid, and their pixels with the request's days."""
    rows, cols = pixels_of(conus_grid(), *(table[name].to_numpy(np.float64) for name in ("lon", "lat")))
    on = np.flatnonzero(rows >= 0).tolist()
    days = tuple(sorted(set(request.days)))
    return on, [
        Point(
            name=f"point {table['station'].iloc[k]}",
            pixel=conus_grid()[int(rows[k]) : int(rows[k]) + 1, int(cols[k]) : int(cols[k]) + 1],
            days=days,
        )
        for k in on
    ]


def _from_maps(paths: Any, dates: Any, table: pd.DataFrame, climatology: Path | None, *, quiet: bool) -> PointSeries:
    """Read the layers of finished maps, tile by tile of their grid and day by day, and compare them."""
    wanted = None if dates is None else parse_days(dates)
    maps = open_maps(paths) if wanted is None else open_maps(paths, start=wanted[0], end=wanted[-1])
    days = [day for day in maps.days if wanted is None or day in wanted]
    if "soil_moisture" not in maps.layers:
        raise RequestError(f"{maps.title} holds {', '.join(maps.layers)}; expected maps of soil_moisture")
    if not days:
        raise RequestError(f"{maps.title} has none of the days; it has {maps.days[0]} to {maps.days[-1]}")
    rows, cols = pixels_of(maps.grid, table["lon"].to_numpy(np.float64), table["lat"].to_numpy(np.float64))
    about = {"maps": maps.title, "software": f"mmnet_maps {__version__}", "synthetic": maps.synthetic}
    layers = dict.fromkeys((*maps.layers, *(DROUGHT if climatology else ())))
    found = PointSeries.empty([*layers], len(rows), days, "outside_area", "lie outside the maps", about)
    groups = [
        (which, window, (rows[which] - window[0].start, cols[which] - window[1].start))
        for which, window in pixel_groups(maps.grid, rows, cols)
    ]
    with _progress(int((rows >= 0).sum()) * len(days), quiet) as bar:
        for column, day in enumerate(days):
            for which, window, picked in groups:
                for name in maps.layers:
                    found.values[name][which, column] = maps.read(name, day, window)[picked]
                bar.update(which.size)
    if climatology is not None:
        check_comparable(climatology, days, maps.recipe(), maps.synthetic)
        for which, window, picked in groups:
            _compare(found, which, samples_on(climatology, maps.grid[window], picked))
    if "quality" in found.values:
        found.missing[:] = found.values["quality"] == FLAG_MASKS["outside_area"]
    else:
        found.missing[:] = np.isnan(found.values["soil_moisture"])
    return found


def _compare(found: PointSeries, which: NDArray[np.intp], samples: Samples) -> None:
    """Compare some points with the other years, in place."""
    for column, day in enumerate(found.days):
        here = which, column
        layers = {name: values[here] for name, values in found.values.items() if name not in DROUGHT}
        for name, values in compare_layers(samples, layers, day).items():
            found.values[name][here] = values


def _without_inputs(request: Request, count: int, about: dict[str, Any]) -> PointSeries:
    """Make a series for `count` points that has no values yet."""
    reason = "have no inputs: they lie outside the area and days that the stack was filled for (see mmnet stack)"
    return PointSeries.empty([*request.layers, *_rain(request)], count, request.days, "input_missing", reason, about)


def _progress(count: int, quiet: bool) -> tqdm[Any]:
    return tqdm(total=count, unit="row", unit_scale=True, desc="points", disable=quiet)


def _log_missing(names: Sequence[str], found: PointSeries) -> None:
    """Warn of points without values and of synthetic inputs.

    Raises
    ------
    InputError
        When no point has a value.
    """
    never = np.all(found.missing, axis=1)
    if never.all():
        raise InputError(f"no point has a value: they {found.reason}; check that they are LON,LAT in degrees")
    if never.any():
        lost = [name for name, none in zip(names, never, strict=True) if none]
        shown = ", ".join(lost[:5]) + (", …" if len(lost) > 5 else "")
        log.warning("%d of %d points %s; their rows are empty: %s", len(lost), len(names), found.reason, shown)
    if others := int(found.missing[~never].sum()):
        log.warning("%s of the other points empty for the same reason", counted(others, "row"))
    if "quality" in found.values:
        tally = Tally()
        tally.count(found.values["quality"][~found.missing], found.values["soil_moisture"][~found.missing])
        if why := tally.why():
            log.warning("no row has an estimate: %s", why)
    if found.about["synthetic"]:
        log.warning(
            "SYNTHETIC INPUTS: these values are of an invented world, not observations. For real ones give --stack or "
            "--source with real inputs, or --maps made from them."
        )


def _rows(table: pd.DataFrame, found: PointSeries) -> pd.DataFrame:
    """Return one row per place and day."""
    rows = table[["station", "lat", "lon"]].loc[table.index.repeat(len(found.days))].reset_index(drop=True)
    rows.insert(1, "date", np.tile(np.array(found.days, "datetime64[s]"), len(table)))
    rows[ESTIMATE] = found.values["soil_moisture"].ravel()
    rows["soil_moisture_std"] = np.float32(np.nan)
    for name in (*LAYERS, RAIN):
        if name in found.values and name != "soil_moisture":
            rows[name] = found.values[name].ravel()
    if DROUGHT[-1] in rows:
        rows["drought_class"] = class_names(rows[DROUGHT[-1]].to_numpy())
    rows.attrs.update(found.about)
    return rows
