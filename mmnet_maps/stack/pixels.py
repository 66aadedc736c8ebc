"""Inputs at points, by the code that reads those of maps, so that a model is trained on the inputs it will see."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import RequestError
from mmnet_maps.grid.tiles import conus_grid, pixel_of, tiles
from mmnet_maps.sources.base import Source
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.fields import SmapResampling
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.stack.reader import read_block
from mmnet_maps.stack.store import Stack


def sample(
    sources: Sequence[Source],
    points: Iterable[tuple[float, float]],
    days: Sequence[date],
    needs: Needs,
    *,
    smap_resampling: SmapResampling = "bilinear",
    today: date | None = None,
    quiet: bool = True,
) -> dict[str, NDArray[Any]]:
    """Read a model's inputs at points: those of the pixel of the default grid that holds each point, as on a map.

    Parameters
    ----------
    sources
        In order of preference (`sources.open_source`).
    points
        Longitude and latitude, degrees.
    days
        Days of the samples.
    needs
        Needs of the model (`request.needs_of`).
    smap_resampling, today, quiet
        As for maps.

    Returns
    -------
    dict of str to ndarray
        One row for each point and day, by point: ``point`` int64, counted from 0, ``date`` datetime64[D];
        snapshot variables float32, NaN missing (``landcover`` NLCD code, uint8, 0 missing); series variables float32
        (rows, steps), oldest day first, named ``…_series`` where a snapshot variable has that name;
        ``optical_age`` and ``sar_age``, days to the nearest observation, uint8, 255 for none, if the model uses
        them.

    Raises
    ------
    RequestError
        A point is outside the default grid.
    InputError
        A source does not have a variable or cannot be read.
    """
    found: list[dict[str, NDArray[Any]]] = []
    for number, point in enumerate(points):
        try:
            pixels = pixel_stacks(sources, point, days, needs, today=today, quiet=quiet)
            for of_year, pixel, stack in pixels:
                rows = read_pixel(stack, pixel, of_year, needs, smap_resampling=smap_resampling)
                place = {"point": np.full(len(of_year), number), "date": np.array(of_year, "datetime64[D]")}
                found.append({**place, **rows})
        except RequestError as error:
            raise RequestError(f"point {number}: {error}") from error
    return {name: np.concatenate([rows[name] for rows in found]) for name in (found[0] if found else ())}


def pixel_stacks(
    sources: Sequence[Source],
    point: tuple[float, float],
    days: Iterable[date],
    needs: Needs,
    *,
    today: date | None = None,
    quiet: bool = True,
) -> Iterator[tuple[list[date], GeoBox, Stack]]:
    """Fetch the inputs of some days at a point into stacks of its one pixel, one per year because land cover is annual.

    Parameters and errors are those of `sample`.

    Yields
    ------
    days, pixel, stack
        The days of a year, ascending; the pixel, which is the whole fine lattice of the stack; the stack, which is
        deleted before the next is made.
    """
    pixel = pixel_of(conus_grid(), *point)
    for _, year in groupby(sorted(set(days)), key=lambda day: day.year):
        of_year = list(year)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "point.zarr")
            demand = Demand(grid=pixel, tiles=tiles(pixel), needs=needs, days=of_year, lattice=pixel)
            yield of_year, pixel, fetch(path, sources, demand, today=today, quiet=quiet)


def read_pixel(
    stack: Stack, pixel: GeoBox, days: Sequence[date], needs: Needs, *, smap_resampling: SmapResampling = "bilinear"
) -> dict[str, NDArray[Any]]:
    """Read a model's inputs at one pixel of a stack that holds them: the columns of `sample`, one row for each day.

    Parameters
    ----------
    stack
        An open stack.
    pixel
        One pixel of its fine lattice (`tiles.pixel_of`).
    days
        Days of the samples, in order.
    needs, smap_resampling
        As `sample`.
    """
    block = read_block(stack, pixel, needs, days, smap_resampling=smap_resampling)
    snapshots = list(block.snapshots)
    columns: dict[str, NDArray[Any]] = {}
    for name in needs.snapshot:
        columns[name] = np.array([snapshot.physical(name)[0, 0] for snapshot in snapshots])
    for kind in snapshots[0].ages:
        columns[f"{kind}_age"] = np.array([snapshot.ages[kind][0, 0] for snapshot in snapshots])
    for name, series in block.series.items():
        row = int(block.rows_of(name)[0, 0])
        windows = [series[row, start : start + needs.steps] for start in block.starts]
        columns[f"{name}_series" if name in columns else name] = (
            np.stack(windows) if row >= 0 else np.full((len(days), needs.steps), np.nan, np.float32)
        )
    return columns
