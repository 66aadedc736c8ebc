"""Inputs of a model at stations, from a stack or from sources."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps import __version__
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.tiles import conus_grid, pixel_of
from mmnet_maps.sources.base import Provenance, Source
from mmnet_maps.stack.availability import fetched_days
from mmnet_maps.stack.fetch import assign
from mmnet_maps.stack.fields import SmapResampling
from mmnet_maps.stack.needs import Needs
from mmnet_maps.stack.pixels import choose_for_points, point_stacks, read_pixel
from mmnet_maps.stack.point_plan import Point
from mmnet_maps.stack.store import Stack

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class StationInputs:
    """The inputs of a table: their origin, the variables and days needed, and how SMAP is resampled."""

    origin: Sequence[Source] | Stack
    needs: Needs
    smap_resampling: SmapResampling

    @cached_property
    def provenance(self) -> dict[str, Provenance]:
        """Origin of each variable; InputError where one is unavailable."""
        names = self.needs.variables
        if isinstance(self.origin, Stack):
            for name in names:
                self.origin.group_of(name)
            return {name: self.origin.provenance[name] for name in names}
        chosen = assign(self.origin)
        return {name: chosen[name].variables()[name] for name in names if name in chosen}

    @property
    def record(self) -> dict[str, Any]:
        """Origin of the table, for its metadata."""
        return {
            "software": f"mmnet_maps {__version__}",
            "inputs": {name: entry.product for name, entry in self.provenance.items()},
            "synthetic": any(entry.synthetic for entry in self.provenance.values()),
            "smap_resampling": self.smap_resampling,
        }

    @cached_property
    def _state(self) -> str:
        """The stack, or the sources and the state of their files."""
        if isinstance(self.origin, Stack):
            return str(self.origin.path)
        return str([f"{source.name} {getattr(source, 'state', '')}" for source in self.origin])

    def digest(self, station: pd.DataFrame) -> str:
        """Hash everything that decides the rows of a station."""
        settings = f"{__version__} {self._state} {self.provenance} {self.needs} {self.smap_resampling}"
        return hashlib.sha256(f"{settings}\n{station.to_csv(index=False)}".encode()).hexdigest()

    def points(self, stations: Mapping[str, pd.DataFrame]) -> dict[str, Point]:
        """Return the pixels and days of stations, by name; those off the grid are left out."""
        grid = self.origin.target if isinstance(self.origin, Stack) else conus_grid()
        pixels = {name: pixel for name, rows in stations.items() if (pixel := _pixel(grid, rows)) is not None}
        return {
            name: Point(name=f"station {name}", pixel=pixel, days=tuple(stations[name]["date"]))
            for name, pixel in pixels.items()
        }

    def choose(self, points: Mapping[str, Point]) -> None:
        """Let sources with several products for a variable choose one for all stations."""
        if not isinstance(self.origin, Stack):
            choose_for_points(self.origin, list(points.values()), self.needs)

    def at(
        self, points: Mapping[str, Point], skip: Collection[str], parts: Path | None
    ) -> Iterator[tuple[str, list[date], Mapping[str, NDArray[Any]]]]:
        """Yield stations with inputs, in order: name, days with inputs, columns of these days.

        Parameters
        ----------
        points
            Pixels and days by name.
        skip
            Stations that are not wanted. They are planned for like the others, so that the same reads are found again.
        parts
            Folder in which finished reads are kept and found again; None to keep none.
        """
        if isinstance(self.origin, Stack):
            for name, point in points.items():
                if name not in skip and (days := self._fetched(self.origin, point)):
                    yield name, days, self._columns(self.origin, point, days)
            return
        names = list(points)
        wanted = [k for k, name in enumerate(names) if name not in skip]
        stacks = point_stacks(self.origin, list(points.values()), self.needs, wanted=wanted, folder=parts)
        for number, of_years in groupby(stacks, key=itemgetter(0)):
            point = points[names[number]]
            columns = [self._columns(stack, point, days) for _, days, stack in of_years]
            joined = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
            yield names[number], list(point.days), joined

    def _fetched(self, stack: Stack, point: Point) -> list[date]:
        """Return the days of a station that a stack was filled for."""
        try:
            return fetched_days(stack, point.pixel, self.needs, point.days)
        except InputError as error:
            raise InputError(f"{point.name}: {error}") from error

    def _columns(self, stack: Stack, point: Point, days: Sequence[date]) -> dict[str, NDArray[Any]]:
        """Return the columns of a station's days; an error names the station."""
        try:
            return read_pixel(stack, point.pixel, days, self.needs, smap_resampling=self.smap_resampling)
        except InputError as error:
            raise InputError(f"{point.name}: {error}") from error


def _pixel(grid: GeoBox, station: pd.DataFrame) -> GeoBox | None:
    """Return the pixel of a grid that a station lies in; None off the grid."""
    try:
        return pixel_of(grid, float(station["lon"].iloc[0]), float(station["lat"].iloc[0]))
    except RequestError:
        return None
