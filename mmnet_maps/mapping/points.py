"""The product at points, day by day: by the engine on their pixels alone, or out of finished maps."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon
from tqdm import tqdm

from mmnet_maps import __version__
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.area import Area, parse_days
from mmnet_maps.grid.places import place_name
from mmnet_maps.grid.tiles import Tile, conus_grid, pixel_groups, pixels_of
from mmnet_maps.mapping.pipeline import Part, compute_layers, read_pixels
from mmnet_maps.mapping.request import Request, describe, draft_request, open_stack
from mmnet_maps.metrics import ESTIMATE
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.quality import FLAG_MASKS
from mmnet_maps.product.reader import Maps, open_maps
from mmnet_maps.settings import MapOptions, settle
from mmnet_maps.sources import open_source
from mmnet_maps.sources.base import Source
from mmnet_maps.stack.availability import Picked, fetched_at
from mmnet_maps.stack.pixels import pixel_stacks
from mmnet_maps.stack.store import Stack

if TYPE_CHECKING:
    import pandas as pd

RAIN = "pr"

Floats = NDArray[np.float64]
Values = dict[str, NDArray[Any]]

_ROWS = 500_000  # whose terms of the series are kept: pixels times days times networks, 256 bytes each
_MOST_DAYS = 100

log = logging.getLogger("mmnet_maps")


def at_points(
    places: pd.DataFrame | Sequence[tuple[float, float]],
    dates: Any = None,
    *,
    maps: str | Path | Sequence[str | Path] | None = None,
    quiet: bool = False,
    **options: Unpack[MapOptions],
) -> pd.DataFrame:
    """Soil moisture day by day at points: what the maps say at their pixels, without making maps.

    Parameters
    ----------
    places
        A table with ``station, lat, lon`` in degrees, or pairs of longitude and latitude.
    dates
        A day, an inclusive range ``"2021-07-29/2021-08-08"``, or a sequence of these; with `maps`, of their days
        (default: all).
    maps
        Finished maps whose values are wanted (`reader.open_maps`), in place of a stack or source and a model.
    quiet
        No progress bar.
    stack, source, model, uncertainty, smap_resampling, device, precision, threads, config
        As `lazy.downscale_product`. From a source every point is fetched by itself; a stack is read much faster.

    Returns
    -------
    pandas.DataFrame
        One row a place and day, place by place: ``station, date, lat, lon``, ``soil_moisture_estimate``,
        ``soil_moisture_std`` (without an ensemble NaN) and ``smap`` in m³/m³, float32, NaN as on a map;
        ``quality``, uint16, see `quality.QUALITY_BITS`: bit 0 off the maps, bit 2 where the stack was not filled; and
        ``pr``, the day's rain in mm, where a model was run that uses it. Layers that maps lack are left out. ``attrs``
        say what it was made from.

    Raises
    ------
    RequestError
        When places, days, model or an option are wrong.
    InputError
        When no point has inputs or a map, or something cannot be read.

    Examples
    --------
    >>> at_points([(-119.6, 47.1)], "2021-07-29/2021-08-08", stack="stack.zarr")  # doctest: +SKIP
    """
    where = _table(places)
    lon, lat = where["lon"].to_numpy(np.float64), where["lat"].to_numpy(np.float64)
    if maps is not None:
        if wrong := sorted(name for name, value in options.items() if value not in (None, ())):
            raise RequestError(f"maps hold finished estimates; leave out {', '.join(wrong)}")
        asked = None if dates is None else parse_days(dates)
        opened = open_maps(maps) if asked is None else open_maps(maps, start=asked[0], end=asked[-1])
        days = tuple(day for day in opened.days if asked is None or day in asked)
        values, without = from_maps(opened, lon, lat, days, quiet=quiet)
        about: dict[str, Any] = {
            "maps": opened.title,
            "software": f"mmnet_maps {__version__}",
            "synthetic": opened.synthetic,
        }
        lacking = "lie outside the maps"
    else:
        request, sources = _job(dates, options)
        days = request.days
        if sources is None:
            values, without = from_stack(request, lon, lat, quiet=quiet)
            about = describe(request)
        else:
            values, without, about = from_sources(request, sources, where, quiet=quiet)
        lacking = (
            "have no inputs: they lie outside of the area and days that the stack was filled for (see mmnet stack)"
        )
    _tell(where["station"].tolist(), without, lacking, bool(about["synthetic"]))
    return _rows(where, days, values, about)


def _table(places: pd.DataFrame | Sequence[tuple[float, float]]) -> pd.DataFrame:
    """Places as a table, those without a name by their position."""
    import pandas as pd

    if isinstance(places, pd.DataFrame):
        return places
    return pd.DataFrame(
        [(place_name(lon, lat), float(lat), float(lon)) for lon, lat in places], columns=["station", "lat", "lon"]
    )


def _job(dates: Any, options: MapOptions) -> tuple[Request, Sequence[Source] | None]:
    """What is to be computed, from a stack, or from sources."""
    settings = settle(options)
    if settings.stack is None and settings.source is None:
        raise RequestError(
            "nothing is said of where the values come from; give finished maps (--maps), a stack (--stack) or a source "
            "(--source)"
        )
    stack = Stack(settings.stack) if settings.stack is not None else None
    area, nowhere = Area(name="points", geometry=MultiPolygon()), conus_grid()[:1, :1]  # points have neither
    request = draft_request(settings, area, nowhere, (), parse_days(dates))
    request = replace(request, recipe=replace(request.recipe, members=False))
    if stack is None:
        return request, open_source(str(settings.source))
    for name in request.needs.variables:
        stack.group_of(name)
    return replace(request, stack=stack.path.absolute()), None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Group:
    """Points of one tile on some days: which ones, their pixels in it, and which days (day, point) have inputs."""

    tile: Tile
    which: NDArray[np.intp]
    picked: Picked
    days: tuple[date, ...]
    there: NDArray[np.bool_]


def from_stack(request: Request, lon: Floats, lat: Floats, *, quiet: bool = False) -> tuple[Values, NDArray[np.bool_]]:
    """Compute the product at points from a stack, tile by tile: each chunk is decoded once.

    Parameters
    ----------
    request
        What is computed; its area, grid and tiles are not looked at.
    lon, lat
        Degrees, (n,).
    quiet
        No progress bar.

    Returns
    -------
    values : dict of ndarray (n, days)
        The request's layers as `layers.compose`, and ``pr`` where the model uses the day's.
    without : ndarray of bool (n, days)
        Where there were no inputs.
    """
    stack = open_stack(request.stack)
    rows, cols = pixels_of(stack.target, lon, lat)
    found = _nothing([*request.layers, *_rain(request)], (len(rows), len(request.days)), "input_missing")
    without = np.ones((len(rows), len(request.days)), bool)
    column = {day: k for k, day in enumerate(request.days)}
    groups: dict[str, _Group] = {}

    def parts() -> Iterator[Part]:
        for group in _groups(request, stack, rows, cols):
            groups[group.tile.id] = group
            yield from read_pixels(request, group.tile, group.picked, group.days)

    count = int((rows >= 0).sum()) * len(request.days)
    with tqdm(total=count, unit="row", unit_scale=True, desc="points", disable=quiet) as bar:
        for part, layers in compute_layers(request, parts()):
            group = groups[part.tile.id]
            there = group.there[part.number]
            here = group.which[there], column[part.day]
            without[here] = False
            layers |= {name: _last(part, name, request.needs.steps) for name in _rain(request)}
            for name, values in found.items():
                values[here] = layers[name][0, there]
            bar.update(group.which.size)
        bar.update(count - bar.n)  # those without inputs
    return found, without


def _groups(request: Request, stack: Stack, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> Iterator[_Group]:
    """Points by tile and spell of days, those that have inputs."""
    networks = len(request.models) * (1 + request.recipe.draws)
    number = 0
    for which, window in pixel_groups(stack.target, rows, cols):
        box = stack.target[window]
        picked = rows[which] - window[0].start, cols[which] - window[1].start
        most = max(request.engine.days_at_once, min(_MOST_DAYS, _ROWS // (which.size * networks)))
        for days in request.day_batches(request.days, most):
            there = fetched_at(stack, box, picked, request.needs, days)
            able, on = np.any(there, axis=0), np.any(there, axis=1)
            if able.any():
                number += 1
                yield _Group(
                    tile=Tile(id=str(number), rows=window[0], cols=window[1], geobox=box),
                    which=which[able],
                    picked=(picked[0][able], picked[1][able]),
                    days=tuple(compress(days, on)),
                    there=there[on][:, able],
                )


def _rain(request: Request) -> list[str]:
    return [RAIN] if RAIN in request.needs.series and request.needs.includes_day else []


def _last(part: Part, name: str, steps: int) -> NDArray[np.float32]:
    """The last value of a series, that of the day itself, for every pixel."""
    series_id, series = part.block.series_id, part.block.series[name]
    last = series[:, part.block.starts[part.number] + steps - 1]
    return np.append(last, np.float32(np.nan))[series_id]  # without a pair: the last


def from_sources(
    request: Request, sources: Sequence[Source], places: pd.DataFrame, *, quiet: bool = False
) -> tuple[Values, NDArray[np.bool_], dict[str, Any]]:
    """As `from_stack`, through a stack of one pixel for each place, and what the product says of itself."""
    found = _nothing([*request.layers, *_rain(request)], (len(places), len(request.days)), "input_missing")
    without = np.ones((len(places), len(request.days)), bool)
    column = {day: k for k, day in enumerate(request.days)}
    about: dict[str, Any] = {"synthetic": False}
    for k, (name, lat, lon) in enumerate(
        tqdm([*places[["station", "lat", "lon"]].itertuples(index=False)], unit="point", disable=quiet)
    ):
        if pixels_of(conus_grid(), lon, lat)[0] < 0:
            continue
        try:
            for days, _, stack in pixel_stacks(sources, (lon, lat), request.days, request.needs):
                here = replace(request, stack=stack.path, days=tuple(days))
                values, none = from_stack(here, np.array([lon]), np.array([lat]), quiet=True)
                columns = [column[day] for day in days]
                without[k, columns] = none[0]
                for layer, part in values.items():
                    found[layer][k, columns] = part[0]
                about = describe(here)
        except InputError as error:
            raise InputError(f"point {name}: {error}") from error
    return found, without, about


def from_maps(
    maps: Maps, lon: Floats, lat: Floats, days: Sequence[date], *, quiet: bool = False
) -> tuple[Values, NDArray[np.bool_]]:
    """The layers of finished maps at points, tile by tile of their grid and day by day; see `from_stack`."""
    if "soil_moisture" not in maps.layers:
        raise RequestError(f"{maps.title} holds {', '.join(maps.layers)}; expected maps of soil_moisture")
    if not days:
        raise RequestError(f"{maps.title} has none of the days; it has {maps.days[0]} to {maps.days[-1]}")
    rows, cols = pixels_of(maps.grid, lon, lat)
    found = _nothing(maps.layers, (len(rows), len(days)), "outside_area")
    groups = [*pixel_groups(maps.grid, rows, cols)]
    count = int((rows >= 0).sum()) * len(days)
    with tqdm(total=count, unit="row", unit_scale=True, desc="points", disable=quiet) as bar:
        for column, day in enumerate(days):
            for which, window in groups:
                picked = rows[which] - window[0].start, cols[which] - window[1].start
                for name, values in found.items():
                    values[which, column] = maps.read(name, day, window)[picked]
                bar.update(which.size)
    outside = FLAG_MASKS["outside_area"]
    return found, found["quality"] == outside if "quality" in found else np.isnan(found["soil_moisture"])


def _nothing(names: Sequence[str], shape: tuple[int, int], why: str) -> Values:
    """What is said of points without inputs."""
    flag = np.uint16(FLAG_MASKS[why])
    return {name: np.full(shape, flag if name == "quality" else np.float32(np.nan)) for name in names}


def _tell(names: Sequence[str], without: NDArray[np.bool_], lacking: str, synthetic: bool) -> None:
    """Say which points have no values, and that inputs are synthetic."""
    never = np.all(without, axis=1)
    if never.all():
        raise InputError(f"all of the {len(names)} points {lacking}; check that they are LON,LAT in degrees")
    if never.any():
        lost = [name for name, none in zip(names, never, strict=True) if none]
        shown = ", ".join(lost[:5]) + (", …" if len(lost) > 5 else "")
        log.warning("%d of %d points %s; their rows are empty: %s", len(lost), len(names), lacking, shown)
    if rest := int(without[~never].sum()):
        log.warning("%d rows of the other points are empty for the same reason", rest)
    if synthetic:
        log.warning(
            "SYNTHETIC INPUTS: these values are of an invented world, not observations. For real ones give --stack or "
            "--source with real inputs, or --maps made from them."
        )


def _rows(where: pd.DataFrame, days: Sequence[date], values: Values, about: dict[str, Any]) -> pd.DataFrame:
    """One row a place and day."""
    every = where[["station", "lat", "lon"]].loc[where.index.repeat(len(days))].reset_index(drop=True)
    every.insert(1, "date", np.tile(np.array(days, "datetime64[s]"), len(where)))
    every[ESTIMATE] = values["soil_moisture"].ravel()
    every["soil_moisture_std"] = np.float32(np.nan)
    for name in (*LAYERS, RAIN):
        if name in values and name != "soil_moisture":
            every[name] = values[name].ravel()
    every.attrs.update(about)
    return every
