"""Google Earth Engine as a source: masks, area means and packing run there, and the stack's integers are sent.

Fine products are reduced to the requested grid by the recipe of the training data: mask, area mean of the bands (land
cover: the most frequent class). Coarse ones are requested on their own grids, pixel by pixel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any
from zlib import crc32

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj.enums import WktVersion

from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import cover
from mmnet_maps.grid.tiles import conus_grid
from mmnet_maps.sources.base import Cost, Pace, Provenance, Rasters, Revision, one_grid
from mmnet_maps.sources.earthengine.client import Client, TooMuchError, Traffic
from mmnet_maps.sources.earthengine.config import SMALLEST_SIDE, Product, Selection, load_config
from mmnet_maps.sources.earthengine.expressions import first_image, images_of_year, packed_image
from mmnet_maps.sources.earthengine.requests import PixelRequest, planned
from mmnet_maps.sources.terrain import with_terrain, with_terrain_of
from mmnet_maps.variables import STATIC_GROUPS

_DELAY = timedelta(days=60)
"""How long after a day its images may still appear or be replaced, where they do not state whether they are final."""

_MARGIN = 4
"""Cells of a coarse lattice around CONUS."""

_KNOWN_CRS = {
    # The sphere of the MODIS products, which Earth Engine names by a code of a registry that PROJ does not have.
    "SR-ORG:6974": "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs",
}


@dataclass(frozen=True, kw_only=True)
class _Lattice:
    """A product's own grid where it covers CONUS, and its CRS as Earth Engine names it."""

    geobox: GeoBox
    code: str


@dataclass(frozen=True, kw_only=True)
class _Images:
    """The images of a product on a day.

    Attributes
    ----------
    stamp
        Changes when one is added or replaced.
    final
        Whether all are final; None where they do not state it.
    """

    stamp: int
    final: bool | None


_NONE = _Images(stamp=0, final=None)


class EarthEngineSource:
    """Products of the Earth Engine catalogue; it signs in with the first request.

    Parameters
    ----------
    path
        A sources YAML (schema: `config.EarthEngineConfig`); without it, the packaged ``configs/earthengine.yaml``.

    Raises
    ------
    RequestError
        When the YAML cannot be read, or a key is missing, unknown or out of bounds.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._config = config = load_config(path)
        self._client = Client(
            project=config.project,
            url=config.url,
            concurrency=config.concurrency,
            deadline=config.deadline,
            retries=config.retries,
        )
        self._lattices: dict[str, _Lattice] = {}
        self._listed: dict[tuple[Any, ...], dict[date, _Images]] = {}
        self._locks: dict[tuple[Any, ...], Lock] = {}

    @property
    def name(self) -> str:
        """The YAML's name, and a hash of everything that decides which values are read."""
        return f"{self._config.name}-{self._config.digest}"

    @property
    def pace(self) -> Pace:
        """As many reads at a time as requests, each of one day, because a fine day is a request."""
        return Pace(reads=self._config.concurrency, fine_days=1)

    @property
    def traffic(self) -> Traffic:
        """Requests sent and bytes received so far."""
        return self._client.traffic

    def stop(self) -> None:
        """Send no further requests; make another source to continue."""
        self._client.stop()

    def variables(self) -> Mapping[str, Provenance]:
        """Return the variables of the products in use, with slope and aspect where there is elevation."""
        found = {name: selection.provenance for selection in self._config.selections for name in selection.names}
        return with_terrain_of(found)

    def lattice(self, group: str) -> GeoBox:
        """Return the native grid of a coarse group, where it covers CONUS.

        Raises
        ------
        InputError
            When no product in use has the group, or several have different grids.
        """
        grids = {selection.key: self._lattice(selection).geobox for selection in self._selections(group)}
        return one_grid(self._config.name, group, grids)

    def days(self, group: str, geobox: GeoBox, start: date, end: date) -> list[date]:
        """Return the days (UTC) with an image over the window; for a group without a time axis every day."""
        if group in STATIC_GROUPS:
            return [start + timedelta(days=k) for k in range((end - start).days + 1)]
        return sorted({day for each in self._selections(group) for day in self._days_of(each, geobox, start, end)})

    def revisions(self, group: str, geobox: GeoBox, days: Sequence[date], today: date) -> list[Revision]:
        """Return the state of the images of each day over a window: one request for each product and year.

        A day is final when all its images are; where they do not state it, and without images, sixty days later.
        """
        if group in STATIC_GROUPS:
            return [Revision(stamps=dict.fromkeys(self.variables(), 0)) for _ in days]
        stamps: list[dict[str, int]] = [{} for _ in days]
        final = [True for _ in days]
        for selection in self._selections(group):
            listed = self._listing(selection, geobox, days[0], days[-1])
            for k, day in enumerate(days):
                images = listed.get(day, _NONE)
                if images is not _NONE:
                    stamps[k].update(dict.fromkeys(selection.names, images.stamp))
                final[k] &= today - day > _DELAY if images.final is None else images.final
        return [Revision(stamps=one, final=known) for one, known in zip(stamps, final, strict=True)]

    def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        """Read the group's variables; see `mmnet_maps.sources.base.Source.read`."""
        found: Rasters = {}
        for selection in self._selections(group):
            shape = (len(days), *selection.grid(geobox).shape)
            packed = {each.name: np.full(shape, each.nodata, each.dtype) for each in selection.variables}
            for request in self._requests(selection, geobox, days):
                self._fill(packed, days, request)
            if not selection.product.dated:
                for values_of_days in packed.values():
                    values_of_days[1:] = values_of_days[0]
            values = {each.name: each.unpack(packed.pop(each.name)) for each in selection.variables}
            if "elevation" in values:
                found |= with_terrain(values.pop("elevation"), geobox)
            found |= values
        assert all(values.shape == (len(days), *geobox.shape) for values in found.values())
        return found

    def cost(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Cost:
        """Return the cost of `read`, without reading; `days` are those that `days` returns."""
        costs = (
            request.cost()
            for selection in self._selections(group)
            for request in self._requests(selection, geobox, days)
        )
        return sum(costs, start=Cost(requests=0, bytes=0, values=0))

    def _selections(self, group: str) -> list[Selection]:
        return [selection for selection in self._config.selections if selection.group == group]

    def _lattice(self, selection: Selection) -> _Lattice:
        """Return a coarse product's own grid, which its first image states."""
        if selection.key not in self._lattices:
            label = selection.label
            described = self._client.info(partial(first_image, selection=selection), label)
            band = (described or {}).get("bands", [{}])[0]
            if not {"crs", "crs_transform", "dimensions"} <= band.keys():
                raise InputError(f"{label}: the collection is empty or its images have no grid; check its id")
            (a, b, c, d, e, f), (width, height) = band["crs_transform"], band["dimensions"]
            if b or d or a <= 0 or e >= 0:
                raise InputError(f"{label}: its grid is rotated or south up; expected rows from the north")
            whole = GeoBox((height, width), Affine(a, 0, c, 0, e, f), _KNOWN_CRS.get(band["crs"], band["crs"]))
            window = cover(conus_grid(), whole, pad=_MARGIN)
            self._lattices[selection.key] = _Lattice(geobox=whole[window], code=band["crs"])
        return self._lattices[selection.key]

    def _days_of(self, selection: Selection, geobox: GeoBox, start: date, end: date) -> list[date]:
        """Return the days with an image of a product."""
        return [day for day in self._listing(selection, geobox, start, end) if start <= day <= end]

    def _listing(self, selection: Selection, geobox: GeoBox, start: date, end: date) -> dict[date, _Images]:
        """Return the images of a product in some years by day; each year and window is listed once, for all threads."""
        window = geobox if selection.fine else None
        found: dict[date, _Images] = {}
        for year in range(start.year, end.year + 1):
            key = (selection.key, window, year)
            with self._locks.setdefault(key, Lock()):
                if key not in self._listed:
                    images = partial(images_of_year, selection=selection, geobox=geobox, year=year)
                    lists = self._client.info(images, f"{selection.label}, {year}")
                    self._listed[key] = _by_day(selection.product, *lists)
            found |= self._listed[key]
        return found

    def _requests(self, selection: Selection, geobox: GeoBox, days: Sequence[date]) -> Iterator[PixelRequest]:
        """Plan the requests for some days, without those on which the product has no image."""
        if selection.group not in STATIC_GROUPS:
            listed = set(self._days_of(selection, geobox, days[0], days[-1]))
            days = [day for day in days if day in listed]
        elif not selection.product.dated:
            days = days[:1]
        return planned(selection, geobox, tuple(days), self._config.side)

    def _fill(self, packed: Rasters, days: Sequence[date], request: PixelRequest) -> None:
        """Send a request and store its answer; split it where it is too much for Earth Engine."""
        selection, geobox = request.selection, request.geobox
        image = packed_image(self._client.start(), selection, geobox, request.days)
        try:
            found = self._client.pixels(image, geobox, self._crs(request), request.bands, request.label)
        except TooMuchError as error:
            if request.smallest:
                raise InputError(
                    f"{error}; a grid of {SMALLEST_SIDE} pixels is too much for Earth Engine; run the same command "
                    f"again later{', or set resampling: nearest in the sources YAML' if selection.fine else ''}"
                ) from error
            for part in request.split():
                self._fill(packed, days, part)
            return
        for day in request.days:
            for name in selection.names:
                packed[name][days.index(day)][request.window] = found[f"{name}_{day:%Y%m%d}"]

    def _crs(self, request: PixelRequest) -> dict[str, str]:
        """Return the CRS of a request in Earth Engine's terms."""
        if not request.selection.fine:
            code = self._lattice(request.selection).code
            return {"crsCode": code} if re.fullmatch(r"[A-Z-]+:\d+", code) else {"crsWkt": code}
        crs = request.geobox.crs
        assert crs is not None
        epsg = crs.to_epsg()
        # Earth Engine documents WKT of version 1 only.
        return {"crsCode": f"EPSG:{epsg}"} if epsg else {"crsWkt": crs.to_wkt(version=WktVersion.WKT1_GDAL)}


def _by_day(product: Product, times: list[float], *properties: list[Any]) -> dict[date, _Images]:
    """Return images by day (UTC), ascending, from their times and the properties of `expressions.images_of_year`."""
    known = [values if len(values) == len(times) else [None for _ in times] for values in properties]
    wanted, days = tuple(product.final.values()), dict[date, list[tuple[Any, ...]]]()
    for image in sorted(zip(times, *known, strict=True), key=repr):
        days.setdefault(datetime.fromtimestamp(image[0] / 1e3, UTC).date(), []).append(image)
    found = {}
    for day, images in sorted(days.items()):
        stated = [tuple(values) for _, _, *values in images]
        unstated = not wanted or any(None in values for values in stated)
        final = None if unstated else all(values == wanted for values in stated)
        found[day] = _Images(stamp=crc32(repr(images).encode()), final=final)
    return found
