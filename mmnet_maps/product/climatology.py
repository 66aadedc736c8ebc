"""A climatology: soil moisture of finished maps by year and day of the year, in one Zarr store.

Layout: a group for each year with ``soil_moisture`` (day, y, x), packed as in the files, one chunk for each tile and
day, and ``mark`` (day, tile_y, tile_x). A year has 366 days, so that a calendar day has one place in all of them. The
grid is that of stacks (`tiles.stack_lattice`): all of CONUS for the default grid, whatever part of it has maps. A mark
holds 32 bits of the fingerprint of the map and the checksum of the chunk, and is written last: without it, there is no
map. Maps of further years, tiles and days may thus be added in any order.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np
from affine import Affine
from numcodecs import Blosc
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError, RequestError, counted
from mmnet_maps.files import read_attributes
from mmnet_maps.grid.crs import crs_name
from mmnet_maps.grid.lattice import window_of
from mmnet_maps.grid.tiles import TILE_PIXELS
from mmnet_maps.product.drought import ENOUGH, FEW_YEARS, compare, window_days
from mmnet_maps.product.layers import LAYERS

if TYPE_CHECKING:
    from mmnet_maps.grid.lattice import Window

Packed = NDArray[np.uint16]
Picked = tuple[NDArray[np.intp], NDArray[np.intp]]

VERSION = "mmnet_climatology_version"
MARK, VALUES = "mark", "soil_moisture"
DAYS = 366
BLOSC = Blosc(cname="zstd", clevel=1, shuffle=Blosc.SHUFFLE)

_FILL = LAYERS[VALUES].fill
_KEPT = 4096  # maps whose values at some pixels are kept


class Climatology:
    """An open climatology; what is added to it later is not seen.

    Parameters
    ----------
    path
        Folder of the store.

    Attributes
    ----------
    path, grid
        The folder; the grid, whole tiles.
    window, minimum_years
        Days before and after the calendar day, and years needed (`drought.compare`).
    recipe
        What all its maps have in common (`reader.DayMap.recipe`).
    synthetic
        Whether its maps are made from synthetic inputs.

    Raises
    ------
    InputError
        When there is no such store, or it has another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            attributes = read_attributes(self.path)
        except OSError as error:
            raise InputError(f"no climatology at {path}; make one with: mmnet climatology MAPS --out {path}") from error
        if attributes.get(VERSION) != 1:
            found = "another version" if VERSION in attributes else "no climatology"
            raise InputError(f"{path} is {found}; expected a store that mmnet climatology has made")
        self.window, self.minimum_years = int(attributes["window"]), int(attributes["minimum_years"])
        self.recipe: Mapping[str, str] = attributes["recipe"]
        self.synthetic = bool(attributes["synthetic"])
        grid = attributes["grid"]
        self.grid = GeoBox(tuple(grid["shape"]), Affine(*grid["transform"]), grid["crs"])

    @cached_property
    def marks(self) -> dict[date, NDArray[np.uint64]]:
        """Marks (tile_y, tile_x) by day, ascending; days without any map are left out."""
        found = {}
        tiles = tuple(size // TILE_PIXELS for size in self.grid.shape)
        for folder in sorted(self.path.iterdir()):
            if re.fullmatch(r"\d{4}", folder.name):
                for file in (folder / MARK / "c").glob("*/0/0"):
                    day = day_at(int(folder.name), int(file.parts[-3]))
                    marks = np.frombuffer(file.read_bytes(), "<u8").reshape(tiles)
                    if day is not None and marks.any():
                        found[day] = marks
        return dict(sorted(found.items()))

    @property
    def years(self) -> list[int]:
        """Years with maps, ascending."""
        return sorted({day.year for day in self.marks})

    def around(self, day: date) -> dict[int, list[date]]:
        """Return the days with maps that a map of a day is compared with, by year; its own year is left out."""
        if not self.marks:
            return {}
        years = range(min(self.years) - 1, max(self.years) + 2)
        windows = {year: window_days(day, year, self.window) for year in years if year != day.year}
        found = {year: [one for one in days if one in self.marks] for year, days in windows.items()}
        return {year: days for year, days in found.items() if days}

    def describe(self) -> str:
        """Return how maps are compared with it."""
        return f"{2 * self.window + 1} days of the year in other years, at least {self.minimum_years} of them"

    def advice(self) -> list[str]:
        """Return what a user should know of the years and the number of maps."""
        found = []
        if len(self.years) <= self.minimum_years:
            found.append(
                f"{counted(len(self.years), 'year')}: a map is compared with the other years, at least "
                f"{self.minimum_years} of them; add further years, or allow fewer with --min-years"
            )
        most = max((sum(map(len, self.around(day).values())) for day in self.marks), default=0)
        if 0 < most < ENOUGH:
            found.append(
                f"a map is compared with {most} others at most: the lowest percentile is {100 / (most + 2):.1f}; class "
                f"D4 needs {ENOUGH} of them"
            )
        return found

    def require(self, day: date) -> None:
        """Refuse a day that has maps in too few other years.

        Raises
        ------
        InputError
            When it does.
        """
        years = self.around(day)
        if len(years) < self.minimum_years:
            found = f"{counted(len(years), 'other year')} ({', '.join(map(str, years)) or 'none'})"
            raise InputError(
                f"{self.path} has maps within {self.window} days of {day:%d %B} in {found}; expected at least "
                f"{self.minimum_years}: add maps with mmnet climatology, or allow fewer with its option --min-years; "
                f"percentiles from fewer than {FEW_YEARS} years are flagged"
            )

    def refuse_others(self, recipe: Mapping[str, str], synthetic: bool | None) -> None:
        """Refuse maps that are not comparable with those of the store.

        Parameters
        ----------
        recipe
            What the maps have in common, see `stac_item.recipe_of`.
        synthetic
            Whether they are made from synthetic inputs; None where it is not known yet.

        Raises
        ------
        RequestError
            When they are of another model or kind.
        """
        theirs = self.recipe
        both = [key for key in recipe if key in theirs and recipe[key] != theirs[key]]
        if both:
            found = "; ".join(f"{key} {recipe[key][:12]}, not {theirs[key][:12]}" for key in both)
            raise RequestError(
                f"the maps differ from those of the climatology {self.path}: {found}; percentiles across models mean "
                "nothing: use a climatology of maps made in the same way"
            )
        if synthetic not in (None, self.synthetic):
            kinds = ["real inputs", "synthetic inputs"]
            raise RequestError(
                f"the maps are made from {kinds[not self.synthetic]}, those of the climatology {self.path} from "
                f"{kinds[self.synthetic]}; use one of the same kind"
            )

    def has_maps(self, geobox: GeoBox) -> bool:
        """Return whether there is any map on a window of the lattice; pixels of another kind are refused."""
        rows, cols = self._tiles(geobox)
        return any(marks[rows, cols].any() for marks in self.marks.values())

    def fingerprint(self, geobox: GeoBox, day: date) -> str:
        """Hash everything of the climatology that decides the layers of a day on a window of its lattice."""
        tiles = self._tiles(geobox)
        digest = hashlib.sha256(json.dumps([self.window, self.minimum_years]).encode())
        for year, days in self.around(day).items():
            for one in days:
                digest.update(f"{year} {one} ".encode() + self.marks[one][tiles].tobytes())
        return digest.hexdigest()

    def bytes_read(self, geobox: GeoBox, day: date) -> int:
        """Return the bytes that comparing a day on a window of its lattice reads, without compression."""
        tiles = self._tiles(geobox)
        maps = sum(int(np.count_nonzero(self.marks[one][tiles])) for days in self.around(day).values() for one in days)
        return maps * TILE_PIXELS**2 * np.dtype(np.uint16).itemsize

    def _tiles(self, geobox: GeoBox) -> Window:
        """Return the rows and columns of the tiles under a window of the lattice; none where it is off the grid."""
        rows, cols = (
            slice(max(part.start // TILE_PIXELS, 0), max(-(-part.stop // TILE_PIXELS), 0))
            for part in self.place(geobox)
        )
        return rows, cols

    def place(self, geobox: GeoBox) -> Window:
        """Return the rows and columns of a window of the lattice, which may lie beyond the grid.

        Raises
        ------
        RequestError
            When the pixels are others.
        """
        a, b = geobox.affine, self.grid.affine
        col, row = round((a.c - b.c) / b.a), round((a.f - b.f) / b.e)
        moved = GeoBox(geobox.shape, b * Affine.translation(col, row), self.grid.crs)
        try:
            window_of(geobox, moved)
        except InputError as error:
            mine, theirs = (f"{a.a:g} in {crs_name(geobox.crs)}", f"{b.a:g} in {crs_name(self.grid.crs)}")
            raise RequestError(
                f"the maps have other pixels than the climatology {self.path}: {mine}, not {theirs}; use the same CRS "
                "and resolution, or a climatology of such maps"
            ) from error
        return slice(row, row + geobox.shape.y), slice(col, col + geobox.shape.x)

    def read(self, day: date, window: Window) -> Packed:
        """Return the packed values (y, x) of a day, nodata where there is no map and beyond the grid.

        Raises
        ------
        InputError
            When they are damaged.
        """
        rows, cols = window
        found = np.full((rows.stop - rows.start, cols.stop - cols.start), _FILL, np.uint16)
        for row, into_rows, of_rows in _parts(rows, self.grid.shape.y):
            for col, into_cols, of_cols in _parts(cols, self.grid.shape.x):
                if day in self.marks and (tile := self._tile(day, row, col)) is not None:
                    found[into_rows, into_cols] = tile[of_rows, of_cols]
        return found

    def _tile(self, day: date, row: int, col: int) -> Packed | None:
        """Return the values of one tile; None where all are missing."""
        if not self.marks[day][row, col]:
            return None
        content = b""
        file = chunk_file(self.path, VALUES, day, row, col)
        with suppress(FileNotFoundError):
            content = file.read_bytes()
        if checksum(content) != int(self.marks[day][row, col]) & 0xFFFFFFFF:
            raise InputError(
                f"{file} is damaged or was changed; run mmnet climatology again, and if this recurs delete "
                f"{self.path / str(day.year)} first"
            )
        if not content:
            return None
        return np.frombuffer(BLOSC.decode(content), "<u2").reshape(TILE_PIXELS, TILE_PIXELS)


class Samples:
    """The maps of a climatology on a window of its lattice, or on some pixels of it; values at pixels are kept.

    Parameters
    ----------
    climatology
        The maps.
    window
        Its rows and columns in the climatology's grid (`Climatology.place`).
    picked
        Rows and columns in it; None for all pixels.

    Attributes
    ----------
    shape
        Shape of the arrays that are compared.
    """

    def __init__(self, climatology: Climatology, window: Window, picked: Picked | None = None) -> None:
        self._climatology, self._window, self._picked = climatology, window, picked
        whole = tuple(part.stop - part.start for part in window)
        self.shape = whole if picked is None else picked[0].shape
        self._kept: dict[date, Packed] = {}

    def compare(self, moisture: Packed, day: date) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_]]:
        """Compare packed soil moisture of a day (y, x), or (pixels,), with the other years; see `drought.compare`."""
        years = self._climatology.around(day).values()
        return compare(moisture, (map(self._read, days) for days in years), self._climatology.minimum_years)

    def _read(self, day: date) -> Packed:
        if self._picked is None:
            return self._climatology.read(day, self._window)
        if day not in self._kept:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[day] = self._climatology.read(day, self._window)[self._picked]
        return self._kept[day]


def _parts(part: slice, size: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield the tiles under a part of a side: number, pixels of the part, pixels of the tile.

    Examples
    --------
    >>> list(_parts(slice(1000, 1030), 2048))
    [(0, slice(0, 24, None), slice(1000, 1024, None)), (1, slice(24, 30, None), slice(0, 6, None))]
    """
    for number in range(max(part.start, 0) // TILE_PIXELS, -(-min(part.stop, size) // TILE_PIXELS)):
        start = number * TILE_PIXELS
        low, high = max(part.start, start), min(part.stop, start + TILE_PIXELS)
        yield number, slice(low - part.start, high - part.start), slice(low - start, high - start)


def slot_of(day: date) -> int:
    """Return the place of a day in its year, counted from 0; 1 March is at 60 in every year.

    Examples
    --------
    >>> slot_of(date(2019, 3, 1)), slot_of(date(2020, 3, 1)), slot_of(date(2020, 12, 31))
    (60, 60, 365)
    """
    return (day.replace(year=2000) - date(2000, 1, 1)).days


def day_at(year: int, slot: int) -> date | None:
    """Return the day at a place in a year; None for 29 February in a common year."""
    day = date(2000, 1, 1) + timedelta(days=slot)
    with suppress(ValueError):
        return day.replace(year=year)
    return None


def chunk_file(path: Path, name: str, day: date, row: int = 0, col: int = 0) -> Path:
    """Return the file of a chunk: of the values of a tile, or of the marks of a day."""
    return path / str(day.year) / name / "c" / str(slot_of(day)) / str(row) / str(col)


def checksum(content: bytes) -> int:
    """Return the CRC-32C of a chunk's file, 0 for none."""
    return int(google_crc32c.value(content))
