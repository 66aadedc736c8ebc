"""The files of one variable: which of them hold a day, on which grids they lie, and their values on a window."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import date
from functools import cached_property
from pathlib import PurePosixPath
from threading import Lock
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.grid.tiles import pinned_blocks
from mmnet_maps.sources.files.alignment import (
    Box,
    block_side,
    degrees,
    empty,
    families,
    meet,
    missing,
    overlap,
    same,
)
from mmnet_maps.sources.files.config import RasterEntry
from mmnet_maps.sources.files.daily import reduced
from mmnet_maps.sources.files.decode import in_range, read_fields, smoothed
from mmnet_maps.sources.files.description import Raster, RasterSpec
from mmnet_maps.sources.files.listing import DatedFile, Listing, seconds_of
from mmnet_maps.sources.files.locations import replaced, shown
from mmnet_maps.sources.files.rasters import describe
from mmnet_maps.sources.files.stamps import UNKNOWN as NO_ANSWER
from mmnet_maps.sources.files.stamps import Stamps
from mmnet_maps.sources.files.stated import Notices, scaling
from mmnet_maps.sources.files.steps import Steps, refuse_hours_before
from mmnet_maps.sources.files.strips import Strip
from mmnet_maps.variables import FINE_GROUPS, SEARCH_DAYS, STATIC_GROUPS, Variable


class Part(NamedTuple):
    """A file, the day or release to read from it, and the seconds of the day of its fields, where they are known.

    `named` is True where the time is that of the file's name.
    """

    raster: Raster
    day: date
    times: tuple[int, ...] = ()
    named: bool = False


UNKNOWN = -1
"""The revision of days whose files cannot be looked up now."""

_KEPT = "days that were fetched before stay as they are"


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
    lists
        Lists its files, on first use.
    notices
        Where what users should know about the files is reported.
    usable
        Whether a file can be used, when its day is needed; default: all can.
    """

    def __init__(
        self,
        variable: Variable,
        entry: RasterEntry,
        lists: Callable[[], Listing],
        notices: Notices,
        usable: Callable[[DatedFile], bool] = lambda file: True,
    ) -> None:
        self._variable, self._name, self._entry, self._lists = variable, variable.name, entry, lists
        self._notices, self._pattern, self._usable = notices, getattr(entry, "pattern", None), usable
        self._lock, self._stamps = Lock(), Stamps()
        self._listing: Listing | None = None
        self._grids: dict[str, GeoBox] = {}
        self._recipe = crc32(entry.model_dump_json(exclude_defaults=True).encode())
        self._revisions: dict[tuple[date | None, frozenset[str | None] | None], int | None] = {}
        self._tiles: dict[date | None, dict[str | None, list[DatedFile]]] = {}
        self._near: dict[GeoBox, frozenset[str | None]] = {}

    @property
    def listing(self) -> Listing:
        """Its files."""
        with self._lock:
            self._listing = self._listing or self._lists()
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

    def revisions(self, geobox: GeoBox, days: Sequence[date]) -> list[int | None]:
        """Return, for each day, a number that changes with its entry in the YAML and the files that may hold the day.

        Files count by their names alone: no file is opened but one of each {tile}. Without {tile} a file counts for
        every window.

        Returns
        -------
        list of int or None
            None for a day without a file; `UNKNOWN` where files cannot be looked up, or none is left at all. That is
            no error, because nothing may have to be read.
        """
        try:
            _ = self.listing
        except InputError as error:
            reason = str(error).removeprefix(f"{self._name}: ").partition("; expected")[0]
            self._notices.once(self._name, "revisions", f"{reason}; {_KEPT}")
            return [UNKNOWN for _ in days]
        fine, static = self._variable.group in FINE_GROUPS, self._variable.group in STATIC_GROUPS
        near = self._tiles_near(geobox) if fine and self._boxes else None
        found = []
        for day in [None for _ in days] if static else days:
            if (day, near) not in self._revisions:
                tiles = self._by_tile(day)
                self._revisions[day, near] = self._revision(
                    file for tile in (tiles if near is None else near) for file in tiles.get(tile, ())
                )
            found.append(self._revisions[day, near])
        return found

    def listed_stamps(self) -> Iterator[str]:
        """Yield, for each file, its path and what changes with it; of a URL only what listing its folder showed."""
        for file in self.listing.files:
            yield f"{file.path} {file.stamp if isinstance(file.path, str) else self._stamps.of(file)}"

    def _revision(self, files: Iterable[DatedFile]) -> int | None:
        stamps = []
        for file in files:
            stamp, mask = self._stamps.of(file), self._entry.mask and replaced(file.path, self._entry.mask.replace)
            beside = self._stamps.at(mask) if mask else ""
            if NO_ANSWER in (stamp, beside):
                self._notices.once(self._name, "revisions", f"{shown(file.path)} cannot be looked up now; its {_KEPT}")
                return UNKNOWN
            if stamp is not None:
                stamps.append(f"{PurePosixPath(shown(file.path)).name} {stamp} {beside}")
        return crc32("\n".join(sorted(stamps)).encode(), self._recipe) if stamps else None

    def _by_tile(self, day: date | None) -> dict[str | None, list[DatedFile]]:
        """Return, by the tile in their names, the files that may hold a day; None for all files."""
        if day not in self._tiles:
            found: dict[str | None, list[DatedFile]] = {}
            for file in self.listing.files if day is None else self.listing.on(day):
                found.setdefault(file.tile, []).append(file)
            self._tiles[day] = found
        return self._tiles[day]

    def _tiles_near(self, geobox: GeoBox) -> frozenset[str | None]:
        """Return the tiles of the pattern whose boxes of longitude and latitude meet that of a window."""
        if geobox not in self._near:
            west, south, east, north = degrees(geobox)
            self._near[geobox] = frozenset(
                tile
                for tile, (left, bottom, right, top) in self._boxes.items()
                if left <= east and west <= right and bottom <= north and south <= top
            )
        return self._near[geobox]

    @cached_property
    def _boxes(self) -> dict[str, Box]:
        """The box of longitude and latitude of each {tile}, with the cells around it that windows beside it need."""
        oldest = {file.tile: file for file in self.listing.files if file.tile}  # the newest may be incomplete
        return {tile: degrees(self._lattice(file).pad(self._entry.reach)) for tile, file in oldest.items()}

    def fine(self, geobox: GeoBox, day: date) -> NDArray[Any]:
        """Return a fine variable on a window of the target grid, (y, x).

        GDAL approximates coordinates over the window that it warps: pinned blocks make the values independent of the
        window. They also bound the memory that fine files need.
        """
        found = empty(self._variable, geobox.shape.yx)
        parts = [Part(part.raster, part.day) for part in self._parts(geobox, day, self._entry.reach)]
        for lattice, together in families((part.raster.lattice, part) for part in parts):
            for block, there, here in pinned_blocks(geobox, block_side(lattice, geobox)):
                gaps = missing(found[there])
                rows, cols = here
                values = self._resampled(lattice, together, block, rows) if gaps.any() else None
                if values is not None:
                    found[there][gaps] = values[:, cols][gaps]
        return found

    def coarse(self, geobox: GeoBox, day: date) -> NDArray[Any]:
        """Return a coarse variable on a window of its lattice, (y, x); files of different times are fields of a day."""
        parts = self._parts(geobox, day)
        whole = None if self._passes else self._steps.whole({time for part in parts for time in part.times}, day)
        if whole is None and not self._passes:
            parts = self._versions(parts, day)
        found = self._assembled(geobox, parts)
        if found is None:
            return empty(self._variable, geobox.shape.yx)
        if whole is None and parts[0].named and not self._entry.fields and not self._passes:
            whole = len(found[0]) + 1  # one of an unknown number of hours
        return self._of_day(*found, parts[0].raster, day, whole)

    def describe(self, file: DatedFile) -> Raster:
        """Return the description of a file, which is opened on first use."""
        entry = self._entry
        spec = RasterSpec(
            path=file.path,
            key=self._name,
            variable=entry.variable,
            band=entry.band,
            crs=entry.crs,
            scale=entry.scale,
            offset=entry.offset,
            valid=entry.valid,
            mask=file.mask,
        )
        refuse_hours_before(file, raster := describe(spec))
        for note in raster.spec.notes:
            self._notices.once(self._name, note, f"{shown(file.path).rpartition('/')[2]}: {note}")
        key = self._grid_key(file)
        if key is not None and not same(raster.lattice, self._grids.setdefault(key, raster.lattice)):
            raise InputError(
                f"{self._name}: {shown(file.path)} lies on another grid than other files of the pattern "
                f"{self._pattern}; expected one grid; put {{tile}} in place of the part of the names that files on one "
                "grid share"
            )
        return raster

    def _grid_key(self, file: DatedFile) -> str | None:
        """Return a key that files on the same grid share; None where the grid is unknown until a file is opened."""
        coarse = self._variable.group not in FINE_GROUPS
        return "" if file.tile is None and self._pattern and coarse else file.tile

    def _lattice(self, file: DatedFile) -> GeoBox:
        key = self._grid_key(file)
        known = None if key is None else self._grids.get(key)
        return self.describe(file).lattice if known is None else known

    def _meets(self, file: DatedFile, geobox: GeoBox, pad: int = 0) -> bool:
        return self._usable(file) and meet(geobox, self._lattice(file), pad)

    def _days_in(self, file: DatedFile, geobox: GeoBox, pad: int = 0) -> Collection[date]:
        """Return the days on a file's time axis where it meets a window, ascending, else none."""
        if file.tile is not None and not self._meets(file, geobox, pad):
            return ()
        raster = self.describe(file)
        if raster.days is None:
            raise InputError(
                f"{self._name}: {shown(file.path)} has no time axis; expected its day in the sources YAML; give it as "
                "'date', list the files under 'dates', or put it in a 'pattern'"
            )
        return raster.steps_of.keys() if self._meets(file, geobox, pad) else ()

    def _parts(self, geobox: GeoBox, day: date, pad: int = 0) -> list[Part]:
        """Return the files to read for a day on a window."""
        listing = self.listing
        if self._variable.group in STATIC_GROUPS:
            chosen = self._releases(geobox, day, pad)
        else:
            chosen = [(file, day) for file in listing.by_day.get(day, []) if self._meets(file, geobox, pad)]
            undecided = listing.undecided(day, day)
            chosen += [(file, day) for file in undecided if day in self._days_in(file, geobox, pad)]
        return [_part(self.describe(file), release, seconds_of(file.time)) for file, release in chosen]

    def _releases(self, geobox: GeoBox, day: date, pad: int) -> list[tuple[DatedFile, date]]:
        """Return the files of the release nearest to a day, tile by tile."""
        tiles: dict[str | None, list[tuple[DatedFile, date]]] = {}
        for file in self.listing.files:
            days: Sequence[date] = (file.release,) if file.release else ()
            if not days and self._meets(file, geobox, pad):
                days = self.describe(file).days or (date.min,)
            tiles.setdefault(file.tile, []).extend((file, release) for release in sorted(set(days)))
        found = []
        for dated in filter(None, tiles.values()):
            nearest = min((release for _, release in dated), key=lambda release: abs((release - day).days))
            found += [(file, release) for file, release in dated if release == nearest]
        return [(file, release) for file, release in found if self._meets(file, geobox, pad)]

    def _resampled(self, lattice: GeoBox, parts: Sequence[Part], block: GeoBox, rows: slice) -> NDArray[Any] | None:
        """Return physical values on rows of a block, (y, x); None where no file meets them."""
        try:
            strip = Strip.of(lattice, block, rows, self._variable, self._entry.reach)
        except InputError:
            return None
        found = self._assembled(lattice[strip.cells], parts)
        if found is None:
            return None
        values = self._of_day(*found, parts[0].raster, parts[0].day)
        return strip.reprojected(smoothed(values, self._entry.smooth) if self._entry.smooth else values)

    @cached_property
    def _steps(self) -> Steps:
        return Steps(self.listing, self.describe)

    @property
    def _passes(self) -> bool:
        """Whether observations come when satellites pass, not at a time step."""
        return self._variable.group in {*FINE_GROUPS, *SEARCH_DAYS}

    def _of_day(
        self,
        fields: NDArray[Any],
        covered: NDArray[np.integer],
        raster: Raster,
        day: date,
        whole: int | None = None,
    ) -> NDArray[Any]:
        """Reduce the fields of a day, of which `covered` counts those of each cell; a whole day has `whole`."""
        if fields.dtype == np.uint8:
            return np.asarray(fields[0])
        settled = scaling(raster, self._entry, self._variable, self._notices)
        if settled.doubt and len(fields) > 1:
            raise InputError(
                f"{self._name}: {settled.doubt}, which contradict each other; expected sums in units such as "
                f"{self._variable.amount or self._variable.units}; add the right 'units' to the sources YAML"
            )
        least: int | NDArray[np.integer] = self._entry.fields or 0
        if self._passes:
            least = least or (covered + 1) // 2
        elif whole is None:
            # One field of no known step is a daily value; of several, nobody knows how many are absent.
            least = least or (1 if len(fields) == 1 else len(fields) + 1)
        else:
            complete = settled.daily != "mean" or self._variable.group == "weather"
            least = least or (whole if complete else (whole + 1) // 2)
            if settled.daily == "sum" and len(fields) > whole:
                least = len(fields) + 1
        if isinstance(least, int) and len(fields) < least:
            self._note_fields(len(fields), whole, least, raster, day)
        values = reduced(fields, settled.daily, covered if whole is None else whole, least)
        if len(fields) == 1:
            return values
        return in_range(values, self._entry, self._variable, self._notices, shown(raster.spec.path))

    def _note_fields(self, count: int, whole: int | None, least: int, raster: Raster, day: date) -> None:
        where = shown(raster.spec.path)
        if whole is None:
            why = f"{where} and other files hold {count} fields of no known time step"
        elif count > whole and count < least:
            why = f"{where} and other files hold {count} fields, and a whole day {whole} by its time step"
        else:
            why = f"{where} and other files hold {count} of the {least} fields that a day needs"
        todo = "add the files of the other times, or set 'fields' in the sources YAML"
        self._notices.once(self._name, "fields", f"{day} is missing: {why}; {todo}")

    def _versions(self, parts: list[Part], day: date) -> list[Part]:
        """Return files of one field each as versions of one field, the first on top: no time step is known."""
        lone = [part for part in parts if len(part.times) == 1 and not part.named]
        if len(lone) < len(parts) or len({part.times for part in lone}) < 2:
            return parts
        self._notices.once(
            self._name,
            "versions",
            f"{day} has files of different times, of which {shown(parts[0].raster.spec.path)} is used; if they are "
            "fields of a day, add %H to the pattern in the sources YAML",
        )
        return [part._replace(times=parts[0].times) for part in parts]

    def _assembled(self, geobox: GeoBox, parts: Sequence[Part]) -> tuple[NDArray[Any], NDArray[np.integer]] | None:
        """Join files on a window of their cells: fields of one time are adjacent, the first with a value on top.

        Returns
        -------
        fields, covered : ndarray, (field, y, x) and (y, x)
            Physical values by time, and the number of fields of files that cover a cell; None where no file meets the
            window.
        """
        fields: dict[int, NDArray[Any]] = {}
        covers: dict[int, NDArray[np.bool_]] = {}
        several = len({time for part in parts for time in part.times}) > 1
        for part in parts:
            try:
                shared = overlap(geobox, part.raster.lattice)
            except InputError as error:
                raise InputError(
                    f"{self._name}: {shown(part.raster.spec.path)}: {error}; list files of another grid in a YAML of "
                    "their own"
                ) from error
            if shared is None:
                continue
            (rows, cols), window = shared
            known = [fields[time] for time in part.times or fields if time in fields]
            if len(known) >= max(1, len(part.times)) and not any(missing(field[rows, cols]).any() for field in known):
                continue
            values = read_fields(
                part.raster, window, part.day, self._entry, self._variable, self._notices, several=several
            )
            for time, value in zip(part.times or range(len(values)), values, strict=True):
                if time not in fields:
                    fields[time] = empty(self._variable, geobox.shape.yx)
                    covers[time] = np.zeros(geobox.shape.yx, bool)
                there = fields[time][rows, cols]
                gaps = missing(there)
                there[gaps] = value[gaps]
                covers[time][rows, cols] = True
        if not fields:
            return None
        order = sorted(fields)
        covered = np.sum([covers[time] for time in order], axis=0)
        return np.stack([fields[time] for time in order]) if len(order) > 1 else fields[order[0]][None], covered


def _part(raster: Raster, day: date, named: int | None) -> Part:
    """Return a file with the times of its fields of a day: from its time axis, or the one in its name."""
    places = raster.steps_of.get(day) or (raster.steps_of[raster.days[0]] if raster.days else ())
    times = tuple(raster.seconds[place] for place in places)
    if len(times) < 2 and named is not None:
        return Part(raster, day, (named,), named=True)
    return Part(raster, day, times)
