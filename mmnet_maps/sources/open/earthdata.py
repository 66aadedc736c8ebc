"""Granules of NASA's Earthdata: found in its catalogue (CMR), cut to a window by its OPeNDAP servers (Hyrax)."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
from odc.geo.geobox import GeoBox
from pydantic import BaseModel, ConfigDict, Field

from mmnet_maps.grid.lattice import Window
from mmnet_maps.sources.base import Cost, SourceDownError
from mmnet_maps.sources.files.alignment import Box, degrees, overlap
from mmnet_maps.sources.files.listing import DatedFile
from mmnet_maps.sources.open.config import Product, ServiceConfig
from mmnet_maps.sources.open.http import Http
from mmnet_maps.sources.open.kept import Kept, geotiff
from mmnet_maps.sources.open.login import LOGIN, EarthdataHttp, found_login
from mmnet_maps.sources.open.service import EVERYWHERE, TILE, Found, side_of

_PAGE = 2000
"""Granules in an answer of the catalogue: its limit."""

_HEADER, _LAYER = 6000, 3000
"""Bytes of a NetCDF 4 file and of each of its variables besides the numbers, about: dimensions and attributes."""


class EarthdataQuery(BaseModel):
    """The product that is looked up in the catalogue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    collection: Annotated[str, Field(min_length=1, description="Short name of the collection.")]
    version: Annotated[str, Field(min_length=1, description="Its version, as the catalogue writes it.")]
    opendap: Annotated[
        str,
        Field(
            pattern=r"^https?://",
            description="Address at the OPeNDAP server, with {collection} and {granule}, of granules whose entry in "
            "the catalogue names none.",
        ),
    ] = "https://opendap.earthdata.nasa.gov/collections/{collection}/granules/{granule}"


class EarthdataService:
    """Collections of gridded granules.

    An asset is the path of a variable in DAP4, such as ``/Geophysical_Data/sm_surface``; that of a mask becomes band 2.

    Parameters
    ----------
    name
        Its name in the YAML.
    config
        The service: ``url`` is that of the catalogue.
    """

    def __init__(self, name: str, config: ServiceConfig) -> None:
        self.catalogue = Http(name, config)
        self.http = EarthdataHttp(name, config)
        self._name, self._url, self._kept = name, config.url.rstrip("/"), Kept(name)
        self._login = config.token or LOGIN

    def check(self, product: Product) -> None:
        """Check what a product asks for; a pydantic ValidationError where a key is wrong."""
        EarthdataQuery.model_validate(product.query)

    def find(self, product: Product, box: Box, first: date, last: date) -> list[Found]:
        """Return the granules that begin on some days, the newest version of each."""
        wanted = EarthdataQuery.model_validate(product.query)
        query = {
            "short_name": wanted.collection,
            "version": wanted.version,
            "bounding_box": ",".join(f"{edge:.4f}" for edge in box),
            "temporal": f"{first}T00:00:00Z,{last}T23:59:59Z",
            "page_size": _PAGE,
            "sort_key": "start_date",
        }
        newest: dict[tuple[date, str, Box], Found] = {}
        for item in self._items(query):
            found = self._granule(product, item)
            if found.first and first <= found.first <= last:
                key = found.first, found.time, found.box
                if key not in newest or newest[key].key < found.key:
                    newest[key] = found
        return list(newest.values())

    def side(self, product: Product) -> int:
        """Return the cells, a side, of a granule; see `service.Sided.side`."""
        return side_of(product)

    def file(self, product: Product, name: str, found: Found, geobox: GeoBox) -> DatedFile | None:
        """Return a window of a granule as a GeoTIFF, received unless it was before; see `service.Service.file`."""
        entry, grid = product.entries[name], found.grid
        assert grid is not None
        inside, lattice = _shared(geobox, grid)
        paths = [product.asset_of(name), *([entry.mask.asset] if entry.mask and entry.mask.asset else [])]
        url = window_url(found.about, paths, inside)

        def make() -> bytes:
            """Receive the window."""
            return window_tiff(self.http.get(url).body, paths, lattice, f"{self._name}: {found.key}")

        path = self._kept.get(_file_name(name, found, lattice), make)
        masked = path if len(paths) > 1 else None
        return DatedFile(path=path, first=found.first, last=found.last, time=found.time, mask=masked)

    def cost(self, product: Product, names: Sequence[str], found: Found, geobox: GeoBox) -> Cost:
        """Return the cost of the windows that are not there yet: four bytes a value."""
        assert found.grid is not None
        _, lattice = _shared(geobox, found.grid)
        due = [name for name in names if not self._kept.holds(_file_name(name, found, lattice))]
        layers = sum(1 + bool((mask := product.entries[name].mask) and mask.asset) for name in due)
        size = len(due) * _HEADER + layers * (_LAYER + lattice.shape.y * lattice.shape.x * 4)
        return Cost(requests=len(due), bytes=size, values=0)

    def login(self) -> str:
        """Return whether a login of NASA Earthdata is at hand, and where."""
        found = found_login(self._login)
        return f"NASA Earthdata login, found in {found}" if found else "NASA Earthdata login (free), not found"

    def missing(self) -> str:
        """Return what the user must do first: find a login; see `service.NeedsLogin.missing`."""
        if found_login(self._login) or sys.stdin.isatty():  # a terminal prompts for it
            return ""
        return (
            "no NASA Earthdata login was found; make a free account at https://urs.earthdata.nasa.gov and put it into "
            "EARTHDATA_TOKEN or ~/.netrc"
        )

    def renew(self, product: Product) -> bool:
        """Remove broken windows of former runs; see `service.Renewing.renew`."""
        return self._kept.remove_broken()

    def stop(self) -> None:
        """Send no further requests."""
        self.catalogue.stop()
        self.http.stop()

    def _items(self, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the entries of the catalogue, page by page."""
        after, received = "", 0
        while True:
            answer = self.catalogue.get(
                f"{self._url}/search/granules.umm_json",
                params=query,
                headers={"CMR-Search-After": after} if after else {},
            )
            try:
                found = json.loads(answer.body)
                items, hits = list(found["items"]), int(found["hits"])
            except (KeyError, TypeError, ValueError) as error:
                raise SourceDownError(
                    f"{self._name}: the catalogue's answer lists no granules ({type(error).__name__}); run the same "
                    "command again later"
                ) from error
            yield from items
            received, after = received + len(items), answer.headers.get("CMR-Search-After", "")
            if received >= hits:
                return
            if not items or not after:
                raise SourceDownError(
                    f"{self._name}: the catalogue lists {received} of {hits} granules; run the same command again later"
                )

    def _granule(self, product: Product, item: dict[str, Any]) -> Found:
        """Return a granule from its entry in the catalogue."""
        assert product.lattice is not None
        try:
            umm = item["umm"]
            began = umm["TemporalExtent"]["RangeDateTime"]["BeginningDateTime"]
            moment = datetime.fromisoformat(began).astimezone(UTC)
            stated = [
                one["Identifier"]
                for one in umm.get("DataGranule", {}).get("Identifiers", [])
                if one["IdentifierType"] == "ProducerGranuleId"
            ]
            key = re.sub(r"\.(?:h5|hdf|nc4?)$", "", (stated or [umm["GranuleUR"]])[0])
            addresses = [link["URL"] for link in umm["RelatedUrls"] if _is_opendap(link)]
            if not addresses:
                rule = EarthdataQuery.model_validate(product.query).opendap
                addresses = [rule.format(collection=item["meta"]["collection-concept-id"], granule=umm["GranuleUR"])]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SourceDownError(
                f"{self._name}: an entry of the catalogue has no {error}; run the same command again later"
            ) from error
        tile = re.search(r"\.h(\d\d)v(\d\d)\.", key)
        whole = product.lattice.geobox
        rows, cols = (
            (slice(int(tile[k]) * TILE, (int(tile[k]) + 1) * TILE) for k in (2, 1)) if tile else (slice(None),) * 2
        )
        return Found(
            key=key,
            first=moment.date(),
            last=moment.date(),
            box=degrees(whole[rows, cols]) if tile else EVERYWHERE,
            grid=whole[rows, cols],
            time="" if tile else f"{moment:%H%M%S}",
            about=re.sub(r"\.(?:html|dmr|dap(?:\.nc4)?)$", "", addresses[0]),
        )


def _is_opendap(link: dict[str, str]) -> bool:
    return link.get("Type") == "USE SERVICE API" and "opendap" in f"{link.get('Subtype', '')} {link['URL']}".lower()


def _shared(geobox: GeoBox, grid: GeoBox) -> tuple[Window, GeoBox]:
    """Return the rows and columns of a granule in a window that it meets, and their grid."""
    shared = overlap(geobox, grid)
    assert shared is not None
    return shared[1], grid[shared[1]]


def _file_name(name: str, found: Found, lattice: GeoBox) -> str:
    """Return the name of a window: of the granule, and of the corner and size of its part."""
    corner = f"{lattice.affine.c:.0f}_{lattice.affine.f:.0f}_{lattice.shape.y}x{lattice.shape.x}"
    return f"{name}-{found.key}-{corner}.tif"


def window_url(address: str, paths: Sequence[str], window: Window) -> str:
    """Return the request for a window of some variables of a granule, as NetCDF 4 by DAP4.

    Examples
    --------
    >>> window_url("http://h/a.h5", ["/Geophysical_Data/sm_surface"], (slice(10, 20), slice(3, 4)))
    'http://h/a.h5.dap.nc4?dap4.ce=/Geophysical_Data/sm_surface%5B10%3A1%3A19%5D%5B3%3A1%3A3%5D'
    """
    ranges = "".join(f"[{part.start}:1:{part.stop - 1}]" for part in window)
    return f"{address}.dap.nc4?dap4.ce={quote(';'.join(f'{path}{ranges}' for path in paths), safe='/')}"


def window_tiff(body: bytes, paths: Sequence[str], lattice: GeoBox, label: str) -> bytes:
    """Return a window of some variables as the bands of a GeoTIFF, in order and as stored.

    The servers send numbers without a grid that GDAL or xarray would understand; their place is that of the request.

    Raises
    ------
    SourceDownError
        When a variable is absent, or not of the window's size.
    """
    import h5py

    try:
        with h5py.File(io.BytesIO(body), "r") as file:
            bands = [np.asarray(file[path]) for path in paths]
    except (OSError, KeyError, ValueError) as error:
        raise SourceDownError(
            f"{label}: no NetCDF file with {paths[0]} came ({type(error).__name__}); run the same command again later"
        ) from error
    for path, band in zip(paths, bands, strict=True):
        if band.shape != lattice.shape.yx:
            raise SourceDownError(
                f"{label}: {path} came with {band.shape}; expected {lattice.shape.yx}; run the same command again later"
            )
    common = np.result_type(*bands)
    return geotiff([band.astype(common, copy=False) for band in bands], lattice)
