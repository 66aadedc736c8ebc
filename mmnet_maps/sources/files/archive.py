"""The files of one variable: which of them hold a day, on which grids they lie, and their values on a window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import cover
from mmnet_maps.grid.tiles import pinned_blocks
from mmnet_maps.sources.files.alignment import (
    block_side,
    empty,
    families,
    meet,
    missing,
    overlap,
    reprojected,
    same,
)
from mmnet_maps.sources.files.config import VariableFiles
from mmnet_maps.sources.files.decode import daily_mean, read_fields, smoothed
from mmnet_maps.sources.files.description import Raster, RasterSpec
from mmnet_maps.sources.files.listing import DatedFile, Listing, listed
from mmnet_maps.sources.files.locations import Place, shown
from mmnet_maps.sources.files.rasters import describe
from mmnet_maps.variables import FINE_GROUPS, Variable

Part = tuple[Raster, date]
"""A file, and the day or release to read from it."""

_MARGIN = 2
"""Cells beyond a window that bilinear interpolation at its edge needs."""


class Archive:
    """The files of one variable.

    Folders are listed once. A file is opened when its day is needed, and not even then where the pattern states its
    tile and the tile is known to lie elsewhere.

    Parameters
    ----------
    variable
        The variable.
    entry
        Its entry in the YAML.
    folder
        The folder that file names are relative to.
    """

    def __init__(self, variable: Variable, entry: VariableFiles, folder: Place) -> None:
        self._variable, self._name, self._entry, self._folder = variable, variable.name, entry, folder
        self._lock = Lock()
        self._listing: Listing | None = None
        self._grids: dict[str, GeoBox] = {}

    @property
    def listing(self) -> Listing:
        """Its files."""
        with self._lock:
            if self._listing is None:
                self._listing = listed(self._name, self._entry, self._folder)
            return self._listing

    def lattices(self) -> Iterator[tuple[str, GeoBox]]:
        """Yield the distinct grids of the files, each with a file on it, for messages."""
        keys = set()
        for file in self.listing.files:
            key = self._grid_key(file)
            if key is None or key not in keys:
                yield shown(file.path), self._lattice(file)
                keys.add(key)

    def days(self, geobox: GeoBox, start: date, end: date, known: set[date]) -> set[date]:
        """Return the days from `start` to `end` with a file whose grid meets the window.

        Parameters
        ----------
        geobox
            The window.
        start, end
            First and last day, both included.
        known
            Days that need no check, because another variable has them; they are left out.
        """
        listing = self.listing
        found = {
            day
            for day in listing.days(start, end)
            if day not in known and any(self._meets(file, geobox) for file in listing.by_day[day])
        }
        for file in listing.undecided(start, end):
            found.update(day for day in self._days_in(file, geobox) if start <= day <= end)
        return found - known

    def fine(self, geobox: GeoBox, day: date) -> NDArray[Any]:
        """Return a fine variable on a window of the target grid, (y, x).

        GDAL approximates coordinates over the window that it warps: pinned blocks make the values independent of the
        window. They also bound the memory that fine files need.
        """
        found = empty(self._variable, geobox.shape.yx)
        parts = [part for part, _ in self._parts(geobox, day, self._reach)]
        for lattice, together in families((raster.lattice, (raster, release)) for raster, release in parts):
            for block, there, here in pinned_blocks(geobox, block_side(lattice, geobox)):
                gaps = missing(found[there])
                values = self._resampled(lattice, together, block) if gaps.any() else None
                if values is not None:
                    found[there][gaps] = values[here][gaps]
        return found

    def coarse(self, geobox: GeoBox, day: date) -> NDArray[Any]:
        """Return a coarse variable on a window of its lattice, (y, x); files of different times are fields of a day."""
        times: dict[str, list[Part]] = {}
        for part, time in self._parts(geobox, day):
            times.setdefault(time, []).append(part)
        fields = [self._assembled(geobox, parts) for _, parts in sorted(times.items())]
        found = [field for field in fields if field is not None]
        return self._of_day(np.concatenate(found)) if found else empty(self._variable, geobox.shape.yx)

    def _describe(self, file: DatedFile) -> Raster:
        entry = self._entry
        spec = RasterSpec(path=file.path, key=self._name, variable=entry.variable, band=entry.band, crs=entry.crs)
        raster = describe(spec)
        key = self._grid_key(file)
        if key is not None and not same(raster.lattice, self._grids.setdefault(key, raster.lattice)):
            raise InputError(
                f"{self._name}: {shown(file.path)} lies on another grid than other files of the pattern "
                f"{entry.pattern}; expected one grid; put {{tile}} in place of the part of the names that files on one "
                "grid share"
            )
        return raster

    def _grid_key(self, file: DatedFile) -> str | None:
        """Return a key that files on the same grid share; None where the grid is unknown until a file is opened."""
        coarse = self._variable.group not in FINE_GROUPS
        return "" if file.tile is None and self._entry.pattern and coarse else file.tile

    def _lattice(self, file: DatedFile) -> GeoBox:
        key = self._grid_key(file)
        known = None if key is None else self._grids.get(key)
        return self._describe(file).lattice if known is None else known

    def _meets(self, file: DatedFile, geobox: GeoBox, pad: int = 0) -> bool:
        return meet(geobox, self._lattice(file), pad)

    def _days_in(self, file: DatedFile, geobox: GeoBox, pad: int = 0) -> list[date]:
        """Return the days on a file's time axis where it meets a window, else none."""
        if file.tile is not None and not self._meets(file, geobox, pad):
            return []
        days = self._describe(file).days
        if days is None:
            raise InputError(
                f"{self._name}: {shown(file.path)} has no time axis; expected its day in the sources YAML; give it as "
                "'date', list the files under 'dates', or put it in a 'pattern'"
            )
        return sorted(set(days)) if self._meets(file, geobox, pad) else []

    def _parts(self, geobox: GeoBox, day: date, pad: int = 0) -> list[tuple[Part, str]]:
        """Return the files to read for a day on a window, each with the time of day in its name."""
        listing = self.listing
        if self._variable.group == "static":
            chosen = self._releases(geobox, day, pad)
        else:
            chosen = [(file, day) for file in listing.by_day.get(day, []) if self._meets(file, geobox, pad)]
            undecided = listing.undecided(day, day)
            chosen += [(file, day) for file in undecided if day in self._days_in(file, geobox, pad)]
        return [((self._describe(file), release), file.time) for file, release in chosen]

    def _releases(self, geobox: GeoBox, day: date, pad: int) -> list[tuple[DatedFile, date]]:
        """Return the files of the release nearest to a day, tile by tile."""
        tiles: dict[str | None, list[tuple[DatedFile, date]]] = {}
        for file in self.listing.files:
            days: Sequence[date] = (file.release,) if file.release else ()
            if not days and self._meets(file, geobox, pad):
                days = self._describe(file).days or (date.min,)
            tiles.setdefault(file.tile, []).extend((file, release) for release in sorted(set(days)))
        found = []
        for dated in filter(None, tiles.values()):
            nearest = min((release for _, release in dated), key=lambda release: abs((release - day).days))
            found += [(file, release) for file, release in dated if release == nearest]
        return [(file, release) for file, release in found if self._meets(file, geobox, pad)]

    @property
    def _reach(self) -> int:
        """Cells beyond a window that its values depend on."""
        return _MARGIN + (self._entry.smooth.radius if self._entry.smooth else 0)

    def _resampled(self, lattice: GeoBox, parts: Sequence[Part], geobox: GeoBox) -> NDArray[Any] | None:
        """Return physical values on a grid, (y, x); None where no file meets it."""
        try:
            window = lattice[cover(geobox, lattice, pad=self._reach)]
        except InputError:
            return None
        fields = self._assembled(window, parts)
        if fields is None:
            return None
        values = self._of_day(fields)
        if self._entry.smooth:
            values = smoothed(values, self._entry.smooth)
        return reprojected(values, window, geobox, self._variable)

    def _of_day(self, fields: NDArray[Any]) -> NDArray[Any]:
        return fields[0] if fields.dtype == np.uint8 else daily_mean(fields, self._entry.fields)

    def _assembled(self, geobox: GeoBox, parts: Sequence[Part]) -> NDArray[Any] | None:
        """Join adjacent files on a window of their cells, (field, y, x), the first with a value on top.

        Returns
        -------
        ndarray or None
            Physical values; None where no file meets the window.
        """
        found: NDArray[Any] | None = None
        for raster, day in parts:
            try:
                shared = overlap(geobox, raster.lattice)
            except InputError as error:
                raise InputError(
                    f"{self._name}: {shown(raster.spec.path)}: {error}; list files of another grid in a YAML of their "
                    "own"
                ) from error
            if shared is None:
                continue
            (rows, cols), window = shared
            if found is not None and not missing(found[:, rows, cols]).any():
                continue
            values = read_fields(raster, window, day, self._entry, self._variable)
            if found is None:
                found = empty(self._variable, (len(values), *geobox.shape))
            elif len(values) > len(found):
                more = empty(self._variable, (len(values) - len(found), *geobox.shape))
                found = np.concatenate([found, more])
            part = found[: len(values), rows, cols]
            gaps = missing(part)
            part[gaps] = values[gaps]
        return found
