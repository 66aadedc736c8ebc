"""A user's own rasters as a source: GeoTIFF, NetCDF, Zarr, in any CRS and on any grid, described by a YAML file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError
from mmnet_maps.sources.base import Provenance, Rasters, Revision
from mmnet_maps.sources.files.alignment import aligned, spanning
from mmnet_maps.sources.files.archive import UNKNOWN, Archive
from mmnet_maps.sources.files.config import load_sources
from mmnet_maps.sources.files.listing import listed
from mmnet_maps.sources.files.received import keeping_blocks
from mmnet_maps.sources.files.stated import Notices
from mmnet_maps.sources.terrain import TERRAIN, with_terrain, with_terrain_of
from mmnet_maps.variables import FINE_GROUPS, STATIC_GROUPS, VARIABLES


class FilesSource:
    """Rasters that a YAML file names (schema: `mmnet_maps.sources.files.config.SourcesConfig`).

    Fine variables become area means (land cover: the class of the largest area) of their valid pixels on the requested
    grid; where a file is coarser than that grid, it is interpolated bilinearly (land cover: nearest). Coarse variables
    stay on the files' own lattice. Where several files of a day overlap, the first with a value is used; of a pattern,
    the last by name. Several fields a day become one value where enough are valid: the sum of amounts, the extreme of
    ``tmmx`` and ``tmmn``, else the mean. Slope and aspect are computed from the averaged elevation where they are not
    listed.

    Folders are listed once, on first use: make another source to see later changes.

    Parameters
    ----------
    path
        The YAML file.

    Raises
    ------
    RequestError
        When the YAML cannot be read, or a key is missing, unknown or out of bounds.
    """

    def __init__(self, path: str | Path) -> None:
        self._config, self._folder = load_sources(path)
        self._notices = Notices()
        self._archives = {
            name: Archive(VARIABLES[name], entry, partial(listed, name, entry, self._folder), self._notices)
            for name, entry in self._config.variables.items()
        }

    @property
    def name(self) -> str:
        """The YAML's name, and a hash of its content and the folder: not of the files, see `revisions`."""
        folder = self._folder if isinstance(self._folder, str) else self._folder.resolve()
        content = self._config.model_dump_json(exclude_defaults=True)
        return f"{self._config.name}-{hashlib.sha256(f'{content} {folder}'.encode()).hexdigest()[:8]}"

    @cached_property
    def state(self) -> str:
        """A hash of the names, sizes and times of all local files, and of what folders state of others."""
        stamps = [f"{name} {stamp}" for name, one in self._archives.items() for stamp in one.listed_stamps()]
        return hashlib.sha256("\n".join(stamps).encode()).hexdigest()

    @property
    def rest(self) -> str | None:
        """The source of variables that are not listed, as for `sources.open_source`; None for none."""
        return self._config.rest

    def variables(self) -> Mapping[str, Provenance]:
        """Return the listed variables, with slope and aspect where there is elevation."""
        found = {
            name: Provenance(source="files", product=entry.product, version=entry.version, licence=entry.licence)
            for name, entry in self._config.variables.items()
        }
        return with_terrain_of(found)

    def lattice(self, group: str) -> GeoBox:
        """Return the grid of the files of a coarse group, north up.

        Raises
        ------
        InputError
            When the group is not listed, or its files do not share one grid.
        """
        lattices = [
            (name, file, lattice)
            for name, archive in self._group(group).items()
            for file, lattice in archive.lattices()
        ]
        if not lattices:
            raise InputError(
                f"no variable of the group {group} in the sources {self._config.name}; expected one; add it"
            )
        _, first, found = lattices[0]
        for name, file, lattice in lattices[1:]:
            if not aligned(lattice, found):
                raise InputError(
                    f"{name}: {file} lies on another grid than {first}; expected one grid for all files of the group "
                    f"{group}; list the others in a sources YAML of their own"
                )
            found = spanning((found, lattice))
        return found

    def days(self, group: str, geobox: GeoBox, start: date, end: date) -> list[date]:
        """Return the days with a file whose grid meets the window; for a group without a time axis every day.

        Raises
        ------
        InputError
            When a file is broken, nothing states its day, or a pattern matches no file.
        """
        if group in STATIC_GROUPS:
            return [date.fromordinal(day) for day in range(start.toordinal(), end.toordinal() + 1)]
        found: set[date] = set()
        for archive in self._group(group).values():
            found |= archive.days(geobox, start, end, found)
        return sorted(found)

    def revisions(self, group: str, geobox: GeoBox, days: Sequence[date], today: date) -> list[Revision]:
        """Return the state of the files of each day; they count as final, and are looked at by every fetch."""
        found: list[dict[str, int]] = [{} for _ in days]
        known = [True for _ in days]
        for name, archive in self._group(group).items():
            for k, (stamps, stamp) in enumerate(zip(found, archive.revisions(geobox, days), strict=True)):
                if stamp == UNKNOWN:
                    known[k] = False
                elif stamp is not None:
                    names = (name, *TERRAIN) if name == "elevation" else (name,)
                    stamps.update({each: stamp for each in names if each == name or each not in self._archives})
        return [Revision(stamps=stamps, known=one) for stamps, one in zip(found, known, strict=True)]

    def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        """Read the group's variables; see `mmnet_maps.sources.base.Source.read`."""
        archives = self._group(group)
        if group not in FINE_GROUPS:
            return {name: np.stack([archive.coarse(geobox, day) for day in days]) for name, archive in archives.items()}
        found: Rasters = {}
        if "elevation" in archives and not set(TERRAIN) <= set(archives):
            elevation = archives.pop("elevation")
            with keeping_blocks():
                found = with_terrain([elevation.fine(geobox.pad(1), day) for day in days], geobox)
        values: dict[str, list[NDArray[Any]]] = {name: [] for name in archives}
        for day in days:
            with keeping_blocks():  # of a mask of several bands
                for name, archive in archives.items():
                    values[name].append(archive.fine(geobox, day))
        return found | {name: np.stack(layers) for name, layers in values.items()}

    def report(self) -> None:
        """Log how many impossible values were dropped; see `mmnet_maps.sources.base.Reporting.report`."""
        self._notices.ranges.report()

    def _group(self, group: str) -> dict[str, Archive]:
        return {name: archive for name, archive in self._archives.items() if VARIABLES[name].group == group}
