"""Collections of a STAC API, whose assets GDAL reads in parts, signed by the rule of the service."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from functools import partial
from threading import Lock
from typing import Annotated, Any
from zlib import crc32

from odc.geo.geobox import GeoBox
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mmnet_maps.errors import InputError, RequestError, counted
from mmnet_maps.sources.base import Cost, SourceDownError
from mmnet_maps.sources.files.alignment import Box
from mmnet_maps.sources.files.listing import DatedFile
from mmnet_maps.sources.files.locations import Place, SignedUrl, is_url, redacted
from mmnet_maps.sources.open.blocks import HEADER, Layout, cost_of, layout
from mmnet_maps.sources.open.config import Product, ServiceConfig
from mmnet_maps.sources.open.service import Found, PublicService, side_of
from mmnet_maps.sources.open.tokens import Tokens
from mmnet_maps.variables import VARIABLES

log = logging.getLogger("mmnet_maps")

_PAGE = 250  # items of one answer

_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError)
"""Errors of reading JSON that is not what a catalogue should send."""


class StacQuery(BaseModel):
    """The collection of a STAC API, and which of its items are in use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    collection: Annotated[str, Field(min_length=1, description="Id of the collection.")]
    ids: Annotated[str, Field(description="Pattern of the ids of items in use, with * and ?.")] = "*"
    where: Annotated[
        dict[str, Annotated[tuple[Any, ...], BeforeValidator(lambda v: v if isinstance(v, list | tuple) else (v,))]],
        Field(description="Properties that an item must have: a value, or a list of allowed ones."),
    ] = {}
    holds: Annotated[
        dict[str, tuple[Any, ...]], Field(description="Lists among the properties, and values that they must contain.")
    ] = {}


class StacService(PublicService):
    """A STAC API."""

    def __init__(self, name: str, config: ServiceConfig) -> None:
        super().__init__(name, config)
        self._tokens = Tokens(self.http, config.token) if config.token else None
        self._opening, self._measuring = Lock(), Lock()
        self._layouts: dict[Any, Layout] = {}
        self._opened: set[tuple[str, str]] = set()
        self._client: Any = None

    def check(self, product: Product) -> None:
        """Check what a product asks for; a pydantic ValidationError where a key is wrong."""
        StacQuery.model_validate(product.query)

    def find(self, product: Product, box: Box, first: date, last: date) -> list[Found]:
        """Return the items in a box and some days, each once; see `service.Service.find`."""
        from pystac_client.exceptions import APIError

        query = StacQuery.model_validate(product.query)
        try:
            search = self._open().search(
                collections=[query.collection],
                bbox=box,
                datetime=f"{first}T00:00:00Z/{last}T23:59:59Z",
                limit=_PAGE,
                max_items=None,
            )
            items = list(_items(search.pages_as_dicts()))
        except (APIError, *_MALFORMED) as error:
            raise SourceDownError(
                f"{self.http.name}: the search of {query.collection} failed ({redacted(error)}); run the same command "
                "again later"
            ) from None
        found = self._understood(items, query)
        self._leave_out(product, found)
        return [one for _, one in sorted(found.items()) if one.first and first <= one.first <= last]

    def _understood(self, items: Sequence[Any], query: StacQuery) -> dict[str, Found]:
        """Return the items in use by their ids, each once; report those that are no STAC items."""
        found: dict[str, Found] = {}
        broken: list[str] = []
        for item in items:
            try:
                if _wanted(item, query):
                    found[item["id"]] = _found(item)
            except _MALFORMED as error:
                name = item.get("id") if isinstance(item, dict) else item
                broken.append(f"{name}: {redacted(error)}")
        if broken:
            log.warning("%s: %s that cannot be read left out (%s)", self.name, counted(len(broken), "item"), broken[0])
        return found

    def _leave_out(self, product: Product, found: dict[str, Found]) -> None:
        """Remove items without the assets of all variables, which would mix days, and report them."""
        assets = {product.asset_of(name) for name in product.entries}
        assets |= {entry.mask.asset for entry in product.entries.values() if entry.mask and entry.mask.asset}
        partial_ones = {key: sorted(assets - one.about.keys()) for key, one in found.items()}
        partial_ones = {key: absent for key, absent in partial_ones.items() if absent}
        for key in partial_ones:
            del found[key]
        if partial_ones:
            key, absent = next(iter(partial_ones.items()))
            log.warning(
                "%s: %s without all assets left out (%s has no %s)",
                self.name, counted(len(partial_ones), "item"), key, ", ".join(absent),
            )  # fmt: skip

    def side(self, product: Product) -> int:
        """Return the cells, a side, of a file; see `service.Sided.side`."""
        return side_of(product)

    def file(self, product: Product, name: str, found: Found, geobox: GeoBox) -> DatedFile | None:
        """Return the address of an asset; see `service.Service.file`."""
        entry = product.entries[name]
        path = self._address(product, found, product.asset_of(name))
        mask = entry.mask.asset if entry.mask else None
        beside = self._address(product, found, mask) if mask else None
        if path is None or (mask and beside is None):
            return None
        return DatedFile(path=path, first=found.first, last=found.last, time=found.time, stamp=found.stamp, mask=beside)

    def renew(self, product: Product) -> bool:
        """Ask for another signature on the next read; see `service.Renewing.renew`."""
        if self._tokens:
            self._tokens.forget(product.query["collection"])
        return self._tokens is not None

    def cost(self, product: Product, names: Sequence[str], found: Found, geobox: GeoBox) -> Cost:
        """Return the cost of reading some assets; see `service.Service.cost`.

        The header of one file is read for each place, and of one file for each asset.
        """
        entries = [product.entries[name] for name in names]
        assets = dict.fromkeys(product.asset_of(name) for name in names)
        masks = {entry.mask.asset for entry in entries if entry.mask and entry.mask.asset}
        assets |= dict.fromkeys(sorted(masks))
        place = self._layout(product, found, next(iter(assets)), tuple(round(edge, 3) for edge in found.box))
        requests, size = 0, 0.0
        for asset in assets:
            there = replace(place, block=self._layout(product, found, asset, asset).block)
            more, received = cost_of(there, geobox, VARIABLES[names[0]], pad=max(entry.reach for entry in entries))
            if not more and asset in masks:
                continue  # a mask is opened where there are values
            with self._opening:
                new = (found.key, asset) not in self._opened
                self._opened.add((found.key, asset))
            requests, size = requests + more + 2 * new, size + received + HEADER * new
        return Cost(requests=requests, bytes=round(size), values=0, ranges=requests)

    def _layout(self, product: Product, found: Found, asset: str, alike: Any) -> Layout:
        """Return the layout of an asset, or of another that is like it."""
        key = product.query["collection"], alike
        with self._measuring:
            if key not in self._layouts:
                address = self._address(product, found, asset)
                assert isinstance(address, str)
                url = address.signed if isinstance(address, SignedUrl) else address
                answer = self.http.get(url, headers={"Range": "bytes=0-0"})
                size = answer.headers.get("Content-Range", "").rpartition("/")[2]
                try:
                    self._layouts[key] = layout(address, int(size) if size.isdigit() else 0)
                except InputError as error:
                    raise SourceDownError(f"{self.name}: {error}") from None
            return self._layouts[key]

    def _address(self, product: Product, found: Found, asset: str) -> Place | None:
        href: str | None = found.about.get(asset)
        if href is None or self._tokens is None:
            return href
        return SignedUrl(href, partial(self._tokens.of, product.query["collection"]))

    def _open(self) -> Any:
        """Return the client, which is made on first use and sends its requests by `Http`."""
        with self._opening:
            if self._client is None:
                try:
                    from pystac_client import Client
                    from pystac_client.stac_api_io import StacApiIO
                except ImportError as error:
                    raise RequestError(
                        "the package pystac-client is not installed; source open needs it; run pip install '.[open]'"
                    ) from error

                http = self.http

                class Polite(StacApiIO):
                    """Sends requests as all others to the service are sent."""

                    def request(
                        self,
                        href: str,
                        method: str | None = None,
                        headers: dict[str, str] | None = None,
                        parameters: dict[str, Any] | None = None,
                    ) -> str:
                        """Send a request."""
                        body = {"json": parameters} if method == "POST" else {"params": parameters}
                        text = http.send(method or "GET", href, headers=headers, **body).body.decode()
                        if parameters and not isinstance(json.loads(text).get("features"), list):
                            raise ValueError("the answer is no list of items")  # the client would take it for none
                        return text

                self._client = Client.open(self.url, stac_io=Polite(max_retries=None))
            return self._client


def _items(pages: Iterable[dict[str, Any]]) -> Iterator[Any]:
    """Yield the items of the pages of a search; ValueError where a page follows itself."""
    seen = set()
    for page in pages:
        yield from page["features"]
        following = json.dumps([link for link in page.get("links", []) if link["rel"] == "next"], sort_keys=True)
        if following in seen:
            raise ValueError("its pages come again and again")
        seen.add(following)


def _wanted(item: dict[str, Any], query: StacQuery) -> bool:
    """Return whether an item is one of those in use."""
    properties = item["properties"]
    return (
        fnmatchcase(item["id"], query.ids)
        and all(properties.get(key) in allowed for key, allowed in query.where.items())
        and all(set(values) <= set(properties.get(key) or ()) for key, values in query.holds.items())
    )


def _found(item: dict[str, Any]) -> Found:
    """Return what an item states about itself."""
    properties = item["properties"]
    moment = datetime.fromisoformat(properties.get("start_datetime") or properties["datetime"]).astimezone(UTC)
    # Only addresses: a catalogue must not make GDAL open a file of this machine.
    assets = {key: asset["href"] for key, asset in item["assets"].items() if is_url(asset["href"])}
    west, south, east, north = item["bbox"] if len(item["bbox"]) == 4 else (*item["bbox"][:2], *item["bbox"][3:5])
    stated = (item["id"], properties.get("updated") or properties.get("created"), sorted(assets.items()))
    return Found(
        key=item["id"],
        first=moment.date(),
        last=moment.date(),
        box=(west, south, east, north),
        stamp=f"{crc32(json.dumps(stated).encode()):08x}",
        about=assets,
    )
