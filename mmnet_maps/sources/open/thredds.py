"""gridMET from a THREDDS server: windows and days cut out there by its NetCDF Subset Service."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import groupby
from threading import Lock
from typing import Annotated
from urllib.parse import urlencode

import numpy as np
from odc.geo.geobox import GeoBox
from pydantic import BaseModel, ConfigDict, Field

from mmnet_maps.grid.lattice import window_of
from mmnet_maps.sources.base import Cost, SourceDownError
from mmnet_maps.sources.files.alignment import Box
from mmnet_maps.sources.files.listing import DatedFile
from mmnet_maps.sources.open.config import Product, ServiceConfig
from mmnet_maps.sources.open.http import RefusedError
from mmnet_maps.sources.open.kept import Kept
from mmnet_maps.sources.open.service import Found, PublicService

_VALUES = 250_000
"""Values of a request that joins months: the server reads them day by day, so that more would take minutes."""

_MONTHS = 6
"""Parts that are joined: a stack is read by fewer months, which neighbouring reads share."""

_HEADER = 2700
"""Bytes of a NetCDF file besides its numbers, about: gridMET states twenty attributes and five notes."""

_SLICE = re.compile(r"last_(permanent|provisional)_slice\s+\"?(\d+)")


class ThreddsQuery(BaseModel):
    """The dataset of a THREDDS server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, Field(description="Path of an aggregation in the NetCDF Subset Service, with {asset}.")]
    names: Annotated[dict[str, str], Field(description="Name of the variable in the aggregation of each asset.")]
    status: Annotated[
        str | None,
        Field(
            description="Path of the attributes of a year's file, with {year}, which state the last permanent and the "
            "last provisional day; default: nothing states them."
        ),
    ] = None


class ThreddsService(PublicService):
    """Aggregations of a THREDDS server, one for each variable, on one grid of latitude and longitude."""

    def __init__(self, name: str, config: ServiceConfig) -> None:
        super().__init__(name, config)
        self._kept = Kept(name)
        self._lock = Lock()
        self._texts: dict[str, str] = {}
        self._planned: set[str] = set()

    def check(self, product: Product) -> None:
        """Check what a product asks for; a pydantic ValidationError where a key is wrong."""
        _query(product)

    def find(self, product: Product, box: Box, first: date, last: date) -> list[Found]:
        """Return the days of the aggregations, in parts of a month in which all have one state."""
        newest = min(self._last_day(product, name) for name in product.variables)
        found = []
        for start, end in _months(first, min(last, newest)):
            days = [start + timedelta(days=k) for k in range((min(end, newest) - start).days + 1)]
            for state, run in groupby(days, lambda day: self._state(product, day, newest)):
                part = list(run)
                key = f"{part[0]:%Y%m%d}-{part[-1]:%Y%m%d}-{state}"
                found.append(
                    Found(key=key, first=part[0], last=part[-1], stamp=state, final=state == "permanent", about=state)
                )
        return found

    def joined(self, found: Sequence[Found], geobox: GeoBox) -> list[Found]:
        """Join permanent days of a small window that follow each other; see `service.Joining.joined`."""
        if len(found) < _MONTHS:
            return list(found)
        rows, cols = geobox.shape.yx
        most = timedelta(days=_VALUES // (rows * cols))
        parts: list[Found] = []
        for one in sorted(found, key=lambda each: each.first or date.min):
            before = parts[-1] if parts else one
            if (
                parts
                and before.final
                and one.final
                and before.first and before.last and one.first and one.last
                and one.first - before.last == timedelta(days=1)
                and one.last - before.first < most
            ):  # fmt: skip
                key = f"{before.first:%Y%m%d}-{one.last:%Y%m%d}-{one.stamp}"
                parts[-1] = replace(before, key=key, last=one.last)
            else:
                parts.append(one)
        return parts

    def file(self, product: Product, name: str, found: Found, geobox: GeoBox) -> DatedFile | None:
        """Return the subset of a variable on a window, received unless it was before; see `service.Service.file`."""
        assert found.first is not None
        assert found.last is not None
        asset = product.asset_of(name)
        variable, first, last = _query(product).names[asset], found.first, found.last
        url = subset_url(self._service(product, name), variable, geobox, first, last)

        def make() -> bytes:
            """Receive the subset."""
            body = self.http.get(url).body
            check_subset(body, variable, geobox, (last - first).days + 1, f"{self.name}: {name}")
            return body

        path = self._kept.get(_file_name(product, asset, found, geobox), make)
        return DatedFile(path=path, first=first, last=last, stamp=found.stamp)

    def renew(self, product: Product) -> bool:
        """Remove broken files of former runs; see `service.Renewing.renew`."""
        return self._kept.remove_broken()

    def cost(self, product: Product, names: Sequence[str], found: Found, geobox: GeoBox) -> Cost:
        """Return the cost of the subsets that are not there yet, each once: two bytes a value."""
        assert found.first is not None
        assert found.last is not None
        files = {_file_name(product, product.asset_of(name), found, geobox) for name in names}
        with self._lock:
            files -= self._planned
            self._planned |= files
        due = sum(not self._kept.holds(file) for file in files)
        days, (rows, cols) = (found.last - found.first).days + 1, geobox.shape.yx
        size = days * rows * cols * 2 + (days + rows + cols) * 8 + _HEADER
        return Cost(requests=due, bytes=due * size, values=0)

    def _service(self, product: Product, name: str) -> str:
        return f"{self.url}/{_query(product).path.format(asset=product.asset_of(name))}"

    def _last_day(self, product: Product, name: str) -> date:
        """Return the newest day of an aggregation, by one request a run."""
        text = self._text(f"{self._service(product, name)}/dataset.xml")
        found = re.search(r"<end>\s*(\d{4}-\d\d-\d\d)", text)
        if not found:
            raise SourceDownError(
                f"{self.name}: the last day of {name} is not stated; expected <end> in dataset.xml; correct the path "
                "in the sources YAML"
            )
        return date.fromisoformat(found[1])

    def _state(self, product: Product, day: date, newest: date) -> str:
        """Return ``permanent``, ``provisional`` or ``early``; ``young`` where the service does not state it.

        Days are permanent about two months after they were; of older ones the service is not asked.
        """
        if newest - day > timedelta(days=product.settled):
            return "permanent"
        slices = self._slices(product, day.year)
        if "permanent" not in slices:
            return "young"
        number = day.timetuple().tm_yday
        if number <= slices["permanent"]:
            return "permanent"
        return "provisional" if number <= slices.get("provisional", 0) else "early"

    def _slices(self, product: Product, year: int) -> dict[str, int]:
        """Return the last permanent and provisional day of a year, counted from 1; empty where that is not stated."""
        status = _query(product).status
        if status is None:
            return {}
        try:
            text = self._text(f"{self.url}/{status.format(year=year)}")
        except RefusedError:
            return {}
        return {kind: int(number) for kind, number in _SLICE.findall(text)}

    def _text(self, url: str) -> str:
        with self._lock:
            if url not in self._texts:
                self._texts[url] = self.http.get(url).body.decode("utf-8", "replace")
            return self._texts[url]


def _query(product: Product) -> ThreddsQuery:
    return ThreddsQuery.model_validate(product.query)


def _months(first: date, last: date) -> Iterator[tuple[date, date]]:
    """Yield the first and last day of the months with any of some days.

    Examples
    --------
    >>> [f"{start} {end}" for start, end in _months(date(2020, 12, 30), date(2021, 1, 2))]
    ['2020-12-01 2020-12-31', '2021-01-01 2021-01-31']
    """
    start = first.replace(day=1)
    while start <= last:
        after = (start + timedelta(days=32)).replace(day=1)
        yield start, after - timedelta(days=1)
        start = after


def _file_name(product: Product, asset: str, found: Found, geobox: GeoBox) -> str:
    """Return the name of a subset; one whose days are not final serves for the day on which it was received."""
    assert product.lattice is not None
    rows, cols = window_of(geobox, product.lattice.geobox)
    place = f"r{rows.start}-{rows.stop}-c{cols.start}-{cols.stop}"
    return f"{asset}-{found.key}{'' if found.final else f'-{date.today():%Y%m%d}'}-{place}.nc"


def subset_url(service: str, variable: str, window: GeoBox, first: date, last: date) -> str:
    """Return the request for a window of a latitude-longitude grid and some days.

    The service sends every cell that the box touches: its sides lie a quarter of a cell within the outermost cells.
    NetCDF 3 is what the server writes; its NetCDF 4 ends in errors of the HDF library.

    Examples
    --------
    >>> grid = GeoBox.from_bbox((-120, 40, -119, 41), "EPSG:4326", resolution=0.5)
    >>> subset_url("http://h/ncss/a.nc", "rain", grid, date(2021, 8, 1), date(2021, 8, 2))
    'http://h/ncss/a.nc?var=rain&north=40.8750000&south=40.1250000&west=-119.8750000&east=-119.1250000&horizStride=1&time_start=2021-08-01T00%3A00%3A00Z&time_end=2021-08-02T00%3A00%3A00Z&timeStride=1&accept=netcdf'
    """
    west, south, east, north = window.boundingbox.bbox
    inside = abs(window.affine.a) / 4
    query = {
        "var": variable,
        "north": f"{north - inside:.7f}",
        "south": f"{south + inside:.7f}",
        "west": f"{west + inside:.7f}",
        "east": f"{east - inside:.7f}",
        "horizStride": 1,
        "time_start": f"{first}T00:00:00Z",
        "time_end": f"{last}T00:00:00Z",
        "timeStride": 1,
        "accept": "netcdf",
    }
    return f"{service}?{urlencode(query)}"


def check_subset(body: bytes, variable: str, window: GeoBox, days: int, label: str) -> None:
    """Make sure that a NetCDF 3 file holds a variable for all cells of a window and all days.

    Raises
    ------
    SourceDownError
        When it does not.
    """
    from scipy.io import netcdf_file

    try:
        with netcdf_file(io.BytesIO(body), mmap=False) as file:
            shape = file.variables[variable].shape
            axes = [np.array(file.variables[name].data, float) for name in ("lat", "lon")]
    except (TypeError, ValueError, KeyError, IndexError, AssertionError) as error:
        raise SourceDownError(
            f"{label}: no NetCDF file with {variable} came ({type(error).__name__}); run the same command again later"
        ) from error
    west, south, east, north = window.boundingbox.bbox
    edge = abs(window.affine.a) * 0.6  # a centre, with some room for its rounding
    covered = all(
        axis.size and axis.min() < low + edge and axis.max() > high - edge
        for axis, low, high in zip(axes, (south, west), (north, east), strict=True)
    )
    if shape != (days, axes[0].size, axes[1].size) or not covered:
        raise SourceDownError(
            f"{label}: a part of the requested cells and {days} days came, {shape}; run the same command again later"
        )
