"""Open services as a source: each product comes from the first service that has it, through the files' machinery."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pydantic import ValidationError

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.lattice import cover
from mmnet_maps.grid.tiles import conus_grid
from mmnet_maps.settings import first_error
from mmnet_maps.sources.base import Cost, Pace, Provenance, Rasters, Revision, SourceDownError, one_grid
from mmnet_maps.sources.files.alignment import Box, degrees, overlap
from mmnet_maps.sources.files.archive import Archive
from mmnet_maps.sources.files.listing import DatedFile, Listing
from mmnet_maps.sources.files.locations import shown
from mmnet_maps.sources.files.received import keeping_blocks
from mmnet_maps.sources.files.stated import Notices
from mmnet_maps.sources.open.choice import Offer, chosen
from mmnet_maps.sources.open.config import Product, load_config
from mmnet_maps.sources.open.finds import Finds
from mmnet_maps.sources.open.kinds import make_service
from mmnet_maps.sources.open.service import EVERYWHERE, Found, Joining, Renewing, Sided
from mmnet_maps.sources.terrain import TERRAIN, with_terrain, with_terrain_of
from mmnet_maps.variables import STATIC_GROUPS, VARIABLES

_MARGIN = 4
"""Cells of a coarse lattice around CONUS."""

_REACH = 0.02
"""Degrees around a window within which files are looked for: means and filters reach beyond its edge."""

_RECEIVED = 6
"""Files of a read that are received at a time, within the limits of their service."""

_GONE = re.compile(r"HTTP response code: (?:404|410)\b")

_ALWAYS = date(1980, 1, 1), date(2039, 12, 31)
"""Days of the releases of static products."""


class OpenSource:
    """Products of open services, by a YAML (schema: `config.OpenConfig`).

    Parameters
    ----------
    path
        The YAML; without it, the packaged ``configs/open.yaml``.

    Raises
    ------
    RequestError
        When the YAML cannot be read, or a key is missing, unknown or out of bounds.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._config = config = load_config(path)
        self._services = {name: make_service(name, service) for name, service in config.services.items()}
        for key, product in config.products.items():
            try:
                self._services[product.service].check(product)
            except ValidationError as error:
                raise RequestError(f"{path}: products.{key}.query.{first_error(error)}") from error
        self._chains = [
            [Offer(key=key, product=config.products[key], service=self._services[config.products[key].service])
             for key in chain]
            for chain in config.use
        ]  # fmt: skip
        self._offers = [chain[0] for chain in self._chains]
        self._finds, self._notices = Finds(), Notices()

    @property
    def name(self) -> str:
        """The YAML's name, and a hash of everything that decides which values are read."""
        return f"{self._config.name}-{self._config.digest}"

    @property
    def pace(self) -> Pace:
        """Reads of several days, because files of a window share what is known of it."""
        return Pace(reads=self._config.reads, fine_days=8)

    def choose(
        self, geobox: GeoBox, days: Mapping[str, Sequence[date]], held: Mapping[str, Provenance], today: date
    ) -> None:
        """Choose the product of each variable; see `mmnet_maps.sources.base.Choosing.choose`."""

        def offer_of(chain: Sequence[Offer]) -> Offer:
            """Return the product to read of a chain."""
            product = chain[0].product
            wanted = [day for day in days.get(product.group, ()) if day <= today]
            if not wanted:
                return chain[0]
            return chosen(chain, wanted, held, lambda offer: self._found(offer, _area(offer, geobox), *_ends(wanted)))

        with ThreadPoolExecutor(self._config.reads) as pool:
            self._offers = list(pool.map(offer_of, self._chains))

    def stop(self) -> None:
        """Send no further requests; make another source to continue."""
        for service in self._services.values():
            service.stop()

    def report(self) -> None:
        """Log how many impossible values were dropped."""
        self._notices.ranges.report()

    def services(self) -> list[tuple[str, ...]]:
        """Return each product in use with its variables, service, login, and alternatives; see `base.Served`."""
        found: list[tuple[str, ...]] = []
        for chain, offer in zip(self._chains, self._offers, strict=True):
            others = " or ".join(other.label for other in chain if other is not offer)
            service = self._config.services[offer.product.service]
            where = f"{offer.product.service}, {urlsplit(service.url).netloc}"
            found.append(
                (offer.key, ", ".join(offer.product.variables), where, offer.service.login(), others or "none")
            )
        return found

    def variables(self) -> Mapping[str, Provenance]:
        """Return the variables in use, with slope and aspect where there is elevation."""
        found = {name: one for offer in self._offers for name, one in offer.product.provenance.items()}
        return with_terrain_of(found)

    def lattice(self, group: str) -> GeoBox:
        """Return the grid of a coarse group, where it covers CONUS.

        Raises
        ------
        InputError
            When no product in use has the group, or several have different grids.
        """
        grids = {offer.key: _around_conus(offer.product) for offer in self._of(group)}
        return one_grid(self._config.name, group, grids)

    def side(self, group: str) -> int | None:
        """Return how many cells of a coarse group, a side, a file holds; see `base.Gathering.side`."""
        sides = [offer.service.side(offer.product) for offer in self._of(group) if isinstance(offer.service, Sided)]
        return max(sides, default=None)

    def days(self, group: str, geobox: GeoBox, start: date, end: date) -> list[date]:
        """Return the days on which a service may have values in the window; every day without a time axis."""
        days = [start + timedelta(days=k) for k in range((end - start).days + 1)]
        if group in STATIC_GROUPS:
            return days
        box, found = _box(geobox), set[date]()
        for offer in self._of(group):
            for one in self._found(offer, box, start, end):
                found.update(day for day in days if _on(one, day))
        return sorted(found)

    def revisions(self, group: str, geobox: GeoBox, days: Sequence[date], today: date) -> list[Revision]:
        """Return the state of what services have of each day over a window, without reading values.

        A day is final when all of it is; where that is not stated, and where there is nothing, some days later.
        """
        box = _box(geobox)
        stamps: list[dict[str, int]] = [{} for _ in days]
        final, known = [True for _ in days], True
        for offer in self._of(group):
            names = self._named(offer)
            try:
                found = self._found(offer, box, days[0], days[-1])
            except SourceDownError as error:
                self._notices.once(offer.key, "revisions", f"{error}; days that were fetched before stay as they are")
                known = False
                continue
            for k, day in enumerate(days):
                there = _of_days(offer.product, found, [day])
                if there:
                    stamps[k].update(dict.fromkeys(names, _stamp(there)))
                old = today - day > timedelta(days=offer.product.settled) or group in STATIC_GROUPS
                final[k] &= all(old if one.final is None else one.final for one in there) if there else old
        return [
            Revision(stamps=one, final=all_final, known=known) for one, all_final in zip(stamps, final, strict=True)
        ]

    def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        """Read the group's variables; see `mmnet_maps.sources.base.Source.read`.

        Raises
        ------
        SourceDownError
            When a service does not answer, or a file of it cannot be read.
        """
        found: Rasters = {}
        for offer in self._of(group):
            try:
                found |= self._again(offer, geobox, days)
            except InputError as error:
                raise SourceDownError(self._blamed(offer, error)) from error
        return found

    def cost(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Cost:
        """Return the cost of `read`, without reading; `days` are those that `days` returns."""
        costs = [
            offer.service.cost(offer.product, list(offer.product.variables), one, geobox)
            for offer in self._of(group)
            for some in self._together(offer, geobox, days)
            for one in self._due(offer, geobox, some)
        ]
        return sum(costs, start=Cost(requests=0, bytes=0, values=0))

    def _of(self, group: str) -> list[Offer]:
        return [offer for offer in self._offers if offer.product.group == group]

    @staticmethod
    def _named(offer: Offer) -> list[str]:
        """Return the variables that a product decides, slope and aspect included."""
        names = list(offer.product.variables)
        return [*names, *(name for name in TERRAIN if name not in names)] if "elevation" in names else names

    def _found(self, offer: Offer, box: Box, first: date, last: date) -> list[Found]:
        if offer.product.group in STATIC_GROUPS:
            first, last = _ALWAYS
        return self._finds.of(offer.key, offer.product, offer.service, box, first, last)

    def _again(self, offer: Offer, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        """Read a product, once more where another signature, or receiving broken files again, may help."""
        try:
            return self._read(offer, geobox, days)
        except InputError:
            if not (isinstance(offer.service, Renewing) and offer.service.renew(offer.product)):
                raise
        return self._read(offer, geobox, days)

    def _read(self, offer: Offer, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        """Read a product, and slope and aspect with elevation; (time, y, x).

        All variables of a day are read before the next day, so that a mask of several bands is received once.
        """
        parts = [self._read_together(offer, geobox, some) for some in self._together(offer, geobox, days)]
        if offer.product.group in STATIC_GROUPS and len(parts) < len(days):  # the same on all days
            parts *= len(days)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _together(self, offer: Offer, geobox: GeoBox, days: Sequence[date]) -> list[Sequence[date]]:
        """Return the days that are read together: of releases each, and one of all where there are no releases."""
        if offer.product.group not in STATIC_GROUPS:
            return [days]
        dated = any(one.first for one in self._found(offer, _box(geobox), days[0], days[-1]))
        return [[day] for day in (days if dated else days[:1])]

    def _read_together(self, offer: Offer, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        """Read a product on some days: of a static one, on one."""
        windows = {name: geobox.pad(1) if name == "elevation" else geobox for name in offer.product.variables}
        archives = {name: self._archive(offer, name, window, days) for name, window in windows.items()}
        values: dict[str, list[NDArray[Any]]] = {name: [] for name in windows}
        for day in days:
            with keeping_blocks():
                for name, archive in archives.items():
                    read = archive.fine if offer.product.fine else archive.coarse
                    values[name].append(read(windows[name], day))
        elevation = values.pop("elevation", None)
        found = {} if elevation is None else with_terrain(elevation, geobox)
        return found | {name: np.stack(layers) for name, layers in values.items()}

    def _archive(self, offer: Offer, name: str, geobox: GeoBox, days: Sequence[date]) -> Archive:
        """Return the files of a variable on a window and some days."""
        due: dict[DatedFile, Found] = {}

        @cache
        def is_usable(file: DatedFile) -> bool:
            """Return whether a file can be used; it is opened just before it is read, while GDAL has its header."""
            return self._usable(archive, name, due[file], file)

        archive = Archive(
            VARIABLES[name],
            offer.product.entries[name],
            lambda: Listing(tuple(self._files(due, offer, name, geobox, days))),
            self._notices,
            is_usable,
        )
        return archive

    def _files(
        self, known: dict[DatedFile, Found], offer: Offer, name: str, geobox: GeoBox, days: Sequence[date]
    ) -> Iterator[DatedFile]:
        """Yield the files of a variable on some days, the newer of two versions first, and note what each is."""
        due = self._due(offer, geobox, days)[::-1]

        def file_of(one: Found) -> DatedFile | None:
            """Return a file, received if need be."""
            return offer.service.file(offer.product, name, one, geobox)

        with ThreadPoolExecutor(_RECEIVED) as pool:
            files = list(pool.map(file_of, due))
        for one, file in zip(due, files, strict=True):
            if file is None:
                self._notices.once(name, "asset", f"{one.key} has no {offer.product.asset_of(name)}; it is left out")
            else:
                known[file] = one
                yield file

    def _due(self, offer: Offer, geobox: GeoBox, days: Sequence[date]) -> list[Found]:
        """Return what a service has on a window and some days, as it is requested."""
        found = self._found(offer, _box(geobox), days[0], days[-1])
        due = [one for one in _of_days(offer.product, found, days) if _meets(one, geobox)]
        return offer.service.joined(due, geobox) if isinstance(offer.service, Joining) else due

    def _usable(self, archive: Archive, name: str, found: Found, file: DatedFile) -> bool:
        """Return whether a file exists and lies where its service says; one that does not is reported and left out."""
        if isinstance(file.path, Path):
            return True
        try:
            lattice = archive.describe(file).lattice
        except InputError as error:
            if not _GONE.search(str(error)):
                raise
            self._notices.once(name, "gone", f"{found.key}: {shown(file.path)} does not exist; it is left out")
            return False
        if found.box != EVERYWHERE and not _holds(degrees(lattice), found.box):
            self._notices.once(
                name, "place", f"{found.key}: {shown(file.path)} does not lie where its item says; it is left out"
            )
            return False
        return True

    def _blamed(self, offer: Offer, error: InputError) -> str:
        """Return an error with its product and service, what to do, and which products are stored with it."""
        problem, _, advice = str(error).partition("; ")
        later = "run the same command again later"
        if not isinstance(error, SourceDownError) and "cannot be read" in problem:
            advice = later
        chain = next(chain for chain in self._chains if offer in chain)
        others = " or ".join(other.label for other in chain if other is not offer)
        instead = f"use {others} for a new stack ('use' in the YAML)" if others else ""
        if not others and advice in ("", later):
            instead = f"give files of {offer.key} (a YAML with 'rest: open')"
        todo = ", or ".join(text for text in (advice, instead) if text)
        beside = " and ".join(other.key for other in self._of(offer.product.group) if other is not offer)
        together = f"; stored only together with {beside}" if beside else ""
        if not others:
            problem = f"{offer.label}: {problem.removeprefix(f'{offer.product.service}: ')}"
        return f"{problem}; {todo}{together}"


def _box(geobox: GeoBox) -> Box:
    """Return the box of longitude and latitude in which files of a window are looked for."""
    west, south, east, north = degrees(geobox)
    if west > east:  # the corners of a sinusoidal grid lie beyond the date line
        west, _, east, _ = degrees(conus_grid())
    return west - _REACH, south - _REACH, east + _REACH, north + _REACH


def _area(offer: Offer, geobox: GeoBox) -> Box:
    """Return the box in which files for an area are looked for: all of CONUS for coarse products, see `revisions`."""
    return _box(geobox if offer.product.fine else _around_conus(offer.product))


def _ends(days: Sequence[date]) -> tuple[date, date]:
    return days[0], days[-1]


def _holds(extent: Box, box: Box) -> bool:
    """Return whether the extent of a file holds the box of its item, but for a tenth of the box on each side.

    Boxes are often those of the first product that a file was made from.
    """
    west, south, east, north = extent
    wide, high = 0.05 + (box[2] - box[0]) / 10, 0.05 + (box[3] - box[1]) / 10
    inside = west - wide <= box[0] and south - high <= box[1] and box[2] <= east + wide and box[3] <= north + high
    return inside or west > east  # across the date line


def _around_conus(product: Product) -> GeoBox:
    assert product.lattice is not None
    whole = product.lattice.geobox
    return whole[cover(conus_grid(), whole, pad=_MARGIN)]


def _on(found: Found, day: date) -> bool:
    """Return whether something may hold a day."""
    return found.first is None or found.last is None or found.first <= day <= found.last


def _of_days(product: Product, found: Sequence[Found], days: Sequence[date]) -> list[Found]:
    """Return what may hold some days: of the releases of a static product, the nearest one and those without a date."""
    if product.group not in STATIC_GROUPS:
        return [one for one in found if any(_on(one, day) for day in days)]
    away = [
        abs((one.first + (one.last - one.first) / 2 - days[0]).days) if one.first and one.last else 0 for one in found
    ]
    nearest = min((far for far, one in zip(away, found, strict=True) if one.first), default=0)
    return [one for far, one in zip(away, found, strict=True) if one.first is None or far == nearest]


def _meets(found: Found, geobox: GeoBox) -> bool:
    """Return whether something with a grid of its own has cells in a window."""
    return found.grid is None or overlap(geobox, found.grid) is not None


def _stamp(found: Sequence[Found]) -> int:
    from zlib import crc32

    return crc32("\n".join(f"{one.key} {one.stamp}" for one in found).encode())
