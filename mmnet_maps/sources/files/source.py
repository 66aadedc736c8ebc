"""A user's own rasters as a source: GeoTIFF, NetCDF, Zarr, in any CRS and on any grid, described by a YAML file."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import Window, cover
from mmnet_maps.grid.tiles import pinned_blocks
from mmnet_maps.sources.base import Provenance, Rasters
from mmnet_maps.sources.files.config import Mask, load_sources
from mmnet_maps.sources.files.decode import clear, daily_mean, physical, smoothed
from mmnet_maps.sources.files.listing import DatedFile, Listing, listed
from mmnet_maps.sources.files.locations import replaced, shown
from mmnet_maps.sources.files.mosaic import aligned, families, meet, metres, overlap, same, spanning
from mmnet_maps.sources.files.rasters import Raster, RasterSpec, describe, read_window
from mmnet_maps.sources.terrain import terrain
from mmnet_maps.variables import FINE_GROUPS, VARIABLES, Variable

# rasterio silences this of the arrays that it warps, but in several threads not always.
warnings.filterwarnings("ignore", message="Dataset has no geotransform", module="rasterio.warp")

_BLOCK, _PIXELS = 256, 4_000_000
"""Pixels a side of what is warped at once, and how many of a file's pixels may lie under it: a matter of memory."""

_DERIVED = ("slope", "aspect")

Part = tuple[Raster, date]
"""A file and the day, or release, that is read of it."""


class FilesSource:
    """Rasters that a YAML file names (schema: `mmnet_maps.sources.files.config.SourcesConfig`).

    Fine variables become area means (land cover: the most frequent class) of their valid pixels on the grid asked
    for; where a file is coarser than that grid, it is interpolated bilinearly (land cover: nearest). Coarse variables
    stay on the files' own lattice. Where several files of a day lie side by side, the first with a value counts, of a
    pattern the last by name. Of several fields a day the mean is taken where enough are valid. Slope and aspect follow
    from the averaged elevation where they are not listed.

    Folders are listed when something is first asked for, and again whenever the name is. A file is opened when its
    day is asked for, and not even then where the pattern states its tile and that is known to lie elsewhere.

    Parameters
    ----------
    path
        The YAML file.

    Raises
    ------
    RequestError
        When the YAML cannot be read or something in it is not allowed.
    """

    def __init__(self, path: str | Path) -> None:
        self._config, self._folder = load_sources(path)
        self._lock = Lock()
        self._listings: dict[str, Listing] = {}
        self._tiles: dict[tuple[str, str], GeoBox] = {}

    @property
    def name(self) -> str:
        """The YAML's name and a hash of its content, the folder, and the files' names, sizes and times of change."""
        with self._lock:
            self._listings.clear()
            self._tiles.clear()
        folder = self._folder if isinstance(self._folder, str) else self._folder.resolve()
        digest = hashlib.sha256(f"{self._config.model_dump_json()} {folder}".encode())
        for name in self._config.variables:
            for file in self._listing(name).files:
                if file.stamp:
                    digest.update(f"{file.path} {file.stamp}".encode())
        return f"{self._config.name}-{digest.hexdigest()[:8]}"

    @property
    def rest(self) -> str | None:
        """Where variables come from that are not listed: ``"demo"``, or None for nowhere."""
        return self._config.rest

    def variables(self) -> Mapping[str, Provenance]:
        """The listed variables, and slope and aspect where elevation is listed and they are not."""
        found = {
            name: Provenance(source="files", product=entry.product, version=entry.version, licence=entry.licence)
            for name, entry in self._config.variables.items()
        }
        if "elevation" in found:
            for name in _DERIVED:
                found.setdefault(name, found["elevation"])
        return found

    def lattice(self, group: str) -> GeoBox:
        """The grid of the files of a coarse group, north up.

        Raises
        ------
        InputError
            When the group is not listed, or its files do not share one grid.
        """
        first: tuple[str, GeoBox] | None = None
        found: GeoBox | None = None
        for name in self._listed(group):
            for what, lattice in self._lattices(name):
                if found is None or first is None:
                    first, found = (what, lattice), lattice
                elif not aligned(lattice, found):
                    raise InputError(
                        f"{name}: {what} lies on another grid than {first[0]}; the cells of all files of the group "
                        f"{group} must be those of one grid: list the others in a sources YAML of their own"
                    )
                else:
                    found = spanning((found, lattice))
        if found is None:
            raise InputError(f"the sources {self._config.name} list no variable of the group {group}; add one")
        return found

    def days(self, group: str, geobox: GeoBox, start: date, end: date) -> list[date]:
        """The days with a file whose grid meets the window; for ``static`` every day.

        Raises
        ------
        InputError
            When a file is broken, nothing says which day it is of, or a pattern matches no file.
        """
        if group == "static":
            return [date.fromordinal(day) for day in range(start.toordinal(), end.toordinal() + 1)]
        found: set[date] = set()
        for name in self._listed(group):
            listing = self._listing(name)
            for day in listing.days(start, end):
                if day not in found and any(self._meets(name, file, geobox) for file in listing.by_day[day]):
                    found.add(day)
            for file in listing.undecided(start, end):
                found.update(day for day in self._days(name, file, geobox) if start <= day <= end)
        return sorted(found)

    def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        """Read the group's variables; see `mmnet_maps.sources.base.Source.read`."""
        names = self._listed(group)
        if group not in FINE_GROUPS:
            return {name: np.stack([self._coarse(name, geobox, day) for day in days]) for name in names}
        found: Rasters = {}
        if "elevation" in names and not set(_DERIVED) <= set(names):
            margins = [self._fine("elevation", geobox.pad(1), day) for day in days]
            layers = [{"elevation": margin[1:-1, 1:-1], **terrain(margin, geobox)} for margin in margins]
            found = {name: np.stack([layer[name] for layer in layers]) for name in layers[0]}
        for name in names:
            if name not in found or name in _DERIVED:
                found[name] = np.stack([self._fine(name, geobox, day) for day in days])
        return found

    def _listed(self, group: str) -> list[str]:
        return [name for name in self._config.variables if VARIABLES[name].group == group]

    def _listing(self, name: str) -> Listing:
        with self._lock:
            if name not in self._listings:
                self._listings[name] = listed(name, self._config.variables[name], self._folder)
            return self._listings[name]

    def _describe(self, name: str, file: DatedFile) -> Raster:
        entry = self._config.variables[name]
        raster = describe(RasterSpec(path=file.path, key=name, variable=entry.variable, band=entry.band, crs=entry.crs))
        word = self._word(name, file)
        if word is not None and not same(raster.lattice, self._tiles.setdefault((name, word), raster.lattice)):
            raise InputError(
                f"{name}: {shown(file.path)} lies on another grid than others of the pattern {entry.pattern}; put "
                "{tile} there in place of the part of the names that files on one grid share"
            )
        return raster

    def _word(self, name: str, file: DatedFile) -> str | None:
        """What files of a variable on the same grid share; None where that is not known before they are opened."""
        entry = self._config.variables[name]
        return "" if file.tile is None and entry.pattern and VARIABLES[name].group not in FINE_GROUPS else file.tile

    def _lattice(self, name: str, file: DatedFile) -> GeoBox:
        word = self._word(name, file)
        known = None if word is None else self._tiles.get((name, word))
        return self._describe(name, file).lattice if known is None else known

    def _lattices(self, name: str) -> Iterator[tuple[str, GeoBox]]:
        """The distinct grids of a variable, each with a file that lies on it."""
        words = set()
        for file in self._listing(name).files:
            word = self._word(name, file)
            if word is None or word not in words:
                yield shown(file.path), self._lattice(name, file)
                words.add(word)

    def _meets(self, name: str, file: DatedFile, geobox: GeoBox, pad: int = 0) -> bool:
        return meet(geobox, self._lattice(name, file), pad)

    def _days(self, name: str, file: DatedFile, geobox: GeoBox, pad: int = 0) -> list[date]:
        """The days on its time axis of a file that meets a window."""
        if file.tile is not None and not self._meets(name, file, geobox, pad):
            return []
        days = self._describe(name, file).days
        if days is None:
            raise InputError(
                f"{name}: {shown(file.path)} has no time axis; give its day as 'date', list the files under 'dates', "
                "or state the day in a 'pattern', in the sources YAML"
            )
        return sorted(set(days)) if self._meets(name, file, geobox, pad) else []

    def _parts(self, name: str, geobox: GeoBox, day: date, pad: int = 0) -> list[tuple[Part, str]]:
        """The files to read for a day on a window, each with the time of day it states."""
        listing = self._listing(name)
        if VARIABLES[name].group == "static":
            chosen = self._releases(name, geobox, day, pad)
        else:
            chosen = [(file, day) for file in listing.by_day.get(day, []) if self._meets(name, file, geobox, pad)]
            undecided = listing.undecided(day, day)
            chosen += [(file, day) for file in undecided if day in self._days(name, file, geobox, pad)]
        return [((self._describe(name, file), there), file.time) for file, there in chosen]

    def _releases(self, name: str, geobox: GeoBox, day: date, pad: int) -> list[tuple[DatedFile, date]]:
        """Of a variable without days, the files of the nearest release, tile by tile."""
        tiles: dict[str | None, list[tuple[DatedFile, date]]] = {}
        for file in self._listing(name).files:
            days: Sequence[date] = (file.release,) if file.release else ()
            if not days and self._meets(name, file, geobox, pad):
                days = self._describe(name, file).days or (date.min,)
            tiles.setdefault(file.tile, []).extend((file, release) for release in sorted(set(days)))
        found = []
        for dated in filter(None, tiles.values()):
            nearest = min((release for _, release in dated), key=lambda release: abs((release - day).days))
            found += [(file, release) for file, release in dated if release == nearest]
        return [(file, release) for file, release in found if self._meets(name, file, geobox, pad)]

    def _fine(self, name: str, geobox: GeoBox, day: date) -> NDArray[Any]:
        """One fine variable on a window of the target grid.

        GDAL approximates coordinates over whatever window it warps: pinned blocks make the values independent of it.
        They also bound the memory that fine files take.
        """
        variable = VARIABLES[name]
        found = _empty(variable, geobox.shape.yx)
        parts = [part for part, _ in self._parts(name, geobox, day, self._reach(name))]
        for lattice, together in families((raster.lattice, (raster, release)) for raster, release in parts):
            for block, there, here in pinned_blocks(geobox, _side(lattice, geobox)):
                gaps = _missing(found[there])
                values = self._resample(name, lattice, together, block) if gaps.any() else None
                if values is not None:
                    found[there][gaps] = values[here][gaps]
        return found

    def _reach(self, name: str) -> int:
        """How far beyond a window its values depend on a file's cells."""
        smooth = self._config.variables[name].smooth
        return 2 + (smooth.radius if smooth else 0)

    def _resample(self, name: str, lattice: GeoBox, parts: Sequence[Part], geobox: GeoBox) -> NDArray[Any] | None:
        """Physical values on a grid; None where no file meets it."""
        from rasterio.warp import Resampling, reproject

        variable, smooth = VARIABLES[name], self._config.variables[name].smooth
        try:
            window = cover(geobox, lattice, pad=self._reach(name))
        except InputError:
            return None
        fields = self._assembled(name, lattice[window], parts)
        if fields is None:
            return None
        values = self._of_day(name, fields)
        if smooth:
            values = smoothed(values, smooth)
        mean, coarse = (
            (Resampling.average, Resampling.bilinear)
            if variable.aggregation == "mean"
            else (Resampling.mode, Resampling.nearest)
        )
        nodata = 0 if variable.dtype == "uint8" else np.nan
        found = _empty(variable, geobox.shape.yx)
        assert geobox.crs is not None
        assert lattice.crs is not None
        reproject(
            values,
            found,
            src_transform=lattice[window].affine,
            src_crs=lattice.crs.to_wkt(),
            dst_transform=geobox.affine,
            dst_crs=geobox.crs.to_wkt(),
            src_nodata=nodata,
            dst_nodata=nodata,
            resampling=coarse if metres(lattice) > metres(geobox) else mean,
        )
        return found

    def _coarse(self, name: str, geobox: GeoBox, day: date) -> NDArray[Any]:
        """One coarse variable on a window of its lattice; files of different times of a day are fields of it."""
        times: dict[str, list[Part]] = {}
        for part, time in self._parts(name, geobox, day):
            times.setdefault(time, []).append(part)
        fields = [self._assembled(name, geobox, parts) for _, parts in sorted(times.items())]
        there = [field for field in fields if field is not None]
        return self._of_day(name, np.concatenate(there)) if there else _empty(VARIABLES[name], geobox.shape.yx)

    def _of_day(self, name: str, fields: NDArray[Any]) -> NDArray[Any]:
        return fields[0] if fields.dtype == np.uint8 else daily_mean(fields, self._config.variables[name].fields)

    def _assembled(self, name: str, geobox: GeoBox, parts: Sequence[Part]) -> NDArray[Any] | None:
        """Physical values of files side by side on a window of their cells, (field, y, x); None where none meets it."""
        variable = VARIABLES[name]
        found: NDArray[Any] | None = None
        for raster, day in parts:
            try:
                shared = overlap(geobox, raster.lattice)
            except InputError as error:
                raise InputError(
                    f"{name}: {shown(raster.spec.path)}: {error}; list files of another grid in a YAML of their own"
                ) from error
            if shared is None:
                continue
            (rows, cols), there = shared
            if found is not None and not _missing(found[:, rows, cols]).any():
                continue
            values = self._fields(raster, there, day)
            if found is None:
                found = _empty(variable, (len(values), *geobox.shape))
            elif len(values) > len(found):
                found = np.concatenate([found, _empty(variable, (len(values) - len(found), *geobox.shape))])
            part = found[: len(values), rows, cols]
            gaps = _missing(part)
            part[gaps] = values[gaps]
        return found

    def _fields(self, raster: Raster, window: Window, day: date) -> NDArray[Any]:
        """The fields of a day in the units of `variables`, (field, y, x), missing where masked or out of range."""
        entry, variable = self._config.variables[raster.spec.key], VARIABLES[raster.spec.key]
        if raster.days is not None and day not in raster.days:
            if len(set(raster.days)) != 1:
                raise InputError(
                    f"{variable.name}: {shown(raster.spec.path)} holds {raster.days[0]} to {raster.days[-1]}, not "
                    f"{day}; correct 'date', 'dates' or 'pattern' in the sources YAML"
                )
            day = raster.days[0]  # the YAML's day counts, not that of the file
        stored, missing = read_window(raster, *window, day)
        for value in entry.nodata:
            missing |= stored == value
        if entry.mask:
            missing |= ~_kept(raster, entry.mask, window, day)
        if variable.dtype == "uint8":
            stored, missing = stored[:1], missing[:1]
        return physical(stored, missing, (raster.scale, raster.offset), entry, variable)


def _kept(raster: Raster, mask: Mask, window: Window, day: date) -> NDArray[np.bool_]:
    """Which pixels of a window the mask beside a file leaves in, (field, y, x).

    Raises
    ------
    InputError
        When the mask is not there, broken, or on another grid.
    """
    spec = raster.spec
    path = replaced(spec.path, mask.replace)
    if path is None:
        raise InputError(
            f"{spec.key}: {shown(spec.path)} holds none of {', '.join(mask.replace)}, which mask.replace in the "
            "sources YAML names; correct it"
        )
    beside = describe(RasterSpec(path=path, key=spec.key, variable=mask.variable, band=mask.band, crs=spec.crs))
    if not same(beside.lattice, raster.lattice):
        raise InputError(
            f"{spec.key}: the mask {shown(path)} lies on another grid than {shown(spec.path)}; give one of the same "
            "grid in the sources YAML"
        )
    # What the mask's file calls missing is a number like any other: 0 is the best quality in MODIS.
    stored, _ = read_window(beside, *window, day)
    try:
        return clear(stored, mask)
    except ValueError as error:
        raise InputError(f"{spec.key}: the mask {shown(path)}: {error}") from error


def _empty(variable: Variable, shape: tuple[int, ...]) -> NDArray[Any]:
    if variable.dtype == "uint8":
        return np.zeros(shape, np.uint8)
    return np.full(shape, np.nan, np.float32)


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = values == 0 if values.dtype == np.uint8 else np.isnan(values)
    return missing


def _side(lattice: GeoBox, geobox: GeoBox) -> int:
    """Pixels a side of the blocks in which a grid is warped, a power of two."""
    side, cells = _BLOCK, metres(geobox) / metres(lattice)
    while side > 1 and (side * cells) ** 2 > _PIXELS:
        side //= 2
    return side
