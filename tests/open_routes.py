"""Answers of open services from closed formulas: THREDDS, Earthdata (catalogue, OPeNDAP, login), WCS, and tiles.

`fake_open.FakeOpen` serves them. Values follow from place and day alone.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from scipy.io import netcdf_file

from fake_open import Asked, FakeOpen, Reply
from open_tiff import Tiff


def wave(x: NDArray[Any], y: NDArray[Any], day: date | None, phase: float) -> NDArray[np.float64]:
    """Return numbers from −1 to 1 by place (any units, about a period per 20 of them) and day."""
    shift = 0 if day is None else day.toordinal() * 0.37
    return np.sin(x * 0.31 + phase + shift) * np.cos(y * 0.29 - phase)


# -- gridMET at a THREDDS server

GRIDMET_LON = -124.76666663333334 + np.arange(1386) / 24
GRIDMET_LAT = 49.4 - np.arange(585) / 24

GRIDMET: dict[str, tuple[str, float, float, float, str]] = {
    # asset: name in the aggregation, scale, offset, lowest and width of the numbers stored, units
    "pet": ("daily_mean_reference_evapotranspiration_grass", 0.1, 0.0, 10, "mm"),
    "etr": ("daily_mean_reference_evapotranspiration_alfalfa", 0.1, 0.0, 20, "mm"),
    "pr": ("precipitation_amount", 0.1, 0.0, 0, "mm"),
    "sph": ("daily_mean_specific_humidity", 1e-5, 0.0, 300, "kg/kg"),
    "srad": ("daily_mean_shortwave_radiation_at_surface", 0.1, 0.0, 1500, "W m-2"),
    "vpd": ("daily_mean_vapor_pressure_deficit", 0.01, 0.0, 50, "kPa"),
    "vs": ("daily_mean_wind_speed", 0.1, 0.0, 10, "m/s"),
    "tmmx": ("daily_maximum_temperature", 0.1, 220.0, 700, "K"),
    "tmmn": ("daily_minimum_temperature", 0.1, 210.0, 650, "K"),
}


GRIDMET_ATTRIBUTES = {
    "Conventions": "CF-1.6",
    "geospatial_bounds_crs": "EPSG:4326",
    "geospatial_bounds": "POLYGON((-124.7666666333333 49.400000000000000, -67.058333300000015 49.400000000000000, "
    "-67.058333300000015 25.066666666666666, -124.7666666333333 25.066666666666666, -124.7666666333333 49.4))",
    **{f"geospatial_{axis}_{kind}": "0.041666666666666664" for axis in ("lat", "lon") for kind in
       ("min", "max", "units", "resolution")},
    "author": "a person of a university, with the address of their electronic mail",
    "date": "01 January 2021",
    **{f"note{number}": "A sentence about the projection, the article to cite, slices that are provisional or early, "
       "and the hour at which a day of this data set ends, as long as they are there." for number in range(1, 6)},
    "History": "Translated to CF-1.0 Conventions by Netcdf-Java CDM (CFGridWriter2)\n"
    "Original Dataset = agg_met_pr_1979_CurrentYear_CONUS.nc; Translation Date = 2021-08-08T00:00:00.000Z",
}  # fmt: skip
"""Attributes as many and as long as those of the files that the service writes, about."""


def gridmet_stored(asset: str, lon: NDArray[Any], lat: NDArray[Any], day: date, revised: int = 0) -> NDArray[np.int16]:
    """Return the numbers of a day as stored, (lat, lon): sea (32767) west of 124° W."""
    lowest = GRIDMET[asset][3]
    x, y = np.meshgrid(lon, lat)
    found = np.rint(lowest + 60 * (1 + wave(x * 8, y * 8, day, len(asset))) + revised)
    return np.where(x < -124, 32767, found).astype(np.int16)


@dataclass
class Thredds:
    """The NetCDF Subset Service of gridMET, and the attributes of a year's files."""

    last: date = date(2021, 12, 31)
    permanent: int = 365
    provisional: int = 365
    states: bool = True
    revised: dict[date, int] = field(default_factory=dict)

    def answer(self, asked: Asked, server: FakeOpen) -> Reply | None:
        """Answer a request; None for a path of another service."""
        if found := re.fullmatch(r"/thredds/dodsC/MET/pr/pr_(\d{4})\.nc\.das", asked.path):
            return self._attributes(int(found[1]))
        found = re.fullmatch(r"/thredds/ncss/agg_met_(\w+)_1979_CurrentYear_CONUS\.nc(/dataset\.xml)?", asked.path)
        if not found:
            return None
        if found[1] not in GRIDMET:
            return Reply(body=b"no such dataset", status=404)
        if found[2]:
            span = f"<TimeSpan><begin>1979-01-01T00:00:00Z</begin><end>{self.last}T00:00:00Z</end></TimeSpan>"
            return Reply(body=f"<gridDataset>{span}</gridDataset>".encode())
        return self._subset(found[1], asked.query)

    def _attributes(self, year: int) -> Reply:
        stated = (
            f'String last_permanent_slice "{self.permanent}";\nString last_provisional_slice "{self.provisional}";'
            if self.states and year == self.last.year
            else ""
        )
        return Reply(body=f"Attributes {{\nNC_GLOBAL {{\n{stated}\n}}\n}}".encode())

    def _subset(self, asset: str, query: Mapping[str, str]) -> Reply:
        name, scale, offset, _, units = GRIDMET[asset]
        if query["var"] != name or query["accept"] != "netcdf":
            return Reply(body=b"NetCDF: HDF error", status=400)
        first, last = (date.fromisoformat(query[f"time_{end}"][:10]) for end in ("start", "end"))
        last = min(last, self.last)
        if first > last:
            return Reply(body=b"Requested time range is outside of the dataset", status=400)
        # Every cell that the box touches, as the server decides it.
        west, south, east, north = (float(query[side]) for side in ("west", "south", "east", "north"))
        lon = GRIDMET_LON[(west < GRIDMET_LON + 1 / 48) & (east > GRIDMET_LON - 1 / 48)]
        lat = GRIDMET_LAT[(south < GRIDMET_LAT + 1 / 48) & (north > GRIDMET_LAT - 1 / 48)]
        days = [first + timedelta(days=k) for k in range((last - first).days + 1)]
        values = np.stack([gridmet_stored(asset, lon, lat, day, self.revised.get(day, 0)) for day in days])
        body = io.BytesIO()
        with netcdf_file(body, "w") as file:
            for dim, values_of, unit in (
                ("day", None, ""),
                ("lat", lat, "degrees_north"),
                ("lon", lon, "degrees_east"),
            ):
                numbers = [(day - date(1900, 1, 1)).days for day in days] if values_of is None else values_of
                file.createDimension(dim, len(numbers))
                axis = file.createVariable(dim, "d", (dim,))
                axis[:] = numbers
                axis.units = unit or "days since 1900-01-01 00:00:00"
            data = file.createVariable(name, "h", ("day", "lat", "lon"))
            data[:] = values
            data.units, data.scale_factor, data.add_offset = units, scale, offset
            data._FillValue = np.int16(32767)
            data.long_name = data.standard_name = data.description = name
            data.dimensions_ = "lon lat time"
            data.grid_mapping, data.coordinate_system = "crs", "WGS84,EPSG:4326"
            for key, text in GRIDMET_ATTRIBUTES.items():
                setattr(file, key, text)
            file.flush()
            return Reply(body=body.getvalue(), kind="application/x-netcdf")


# -- Earthdata: the catalogue, OPeNDAP, and the login

EASE_CELL, EASE_LEFT, EASE_TOP = 9008.055210146, -17367530.4451615, 7314540.8306386
TILE_SIDE = 1111950.5197665


def smap_values(rows: NDArray[Any], cols: NDArray[Any], day: date, step: int) -> NDArray[np.float32]:
    """Return a 3-hourly field of SMAP L4, (row, col); -9999 in every 13th column of the global grid."""
    values = 0.25 + 0.1 * wave(cols[None, :], rows[:, None], day, step / 8)
    return np.where(cols[None, :] % 13 == 0, -9999, values).astype(np.float32)


def lst_stored(rows: NDArray[Any], cols: NDArray[Any], day: date, phase: float) -> NDArray[np.uint16]:
    """Return temperatures as stored (K / 0.02), (row, col) of the global grid; 0 in every 17th row."""
    values = np.rint(15250 + 250 * wave(cols[None, :] / 3, rows[:, None] / 3, day, phase))
    return np.where(rows[:, None] % 17 == 0, 0, values).astype(np.uint16)


def lst_quality(rows: NDArray[Any], cols: NDArray[Any], day: date) -> NDArray[np.uint16]:
    """Return quality flags, (row, col) of the global grid: 0, 1, 2 and 9 in turn."""
    turn = (rows[:, None] // 5 + cols[None, :] // 7 + day.toordinal()) % 4
    return np.array([0, 1, 2, 9], np.uint16)[turn]


SMAP_PATH = "/Geophysical_Data/sm_surface"
LST_PATHS = {
    "MOD11A1": (
        "/MODIS_Grid_Daily_1km_LST/Data_Fields/LST_Day_1km",
        "/MODIS_Grid_Daily_1km_LST/Data_Fields/QC_Day",
        0.0,
    ),
    "VNP21A1D": (
        "/HDFEOS/GRIDS/VIIRS_Grid_Daily_1km_LST21/Data_Fields/LST_1KM",
        "/HDFEOS/GRIDS/VIIRS_Grid_Daily_1km_LST21/Data_Fields/QC",
        0.5,
    ),
}


ATTRIBUTES = {
    "long_name": "a variable of a granule of NASA, without its true name",
    "standard_name": "a_variable",
    "units": "1",
    "missing_value": np.float32(1e15),
    "valid_min": np.float32(-1e15),
    "valid_max": np.float32(1e15),
}
"""Attributes such as granules state for each variable."""


def login_of(server: FakeOpen) -> str:
    """The address of the login: at another host name than the data."""
    return server.url.replace("127.0.0.1", "localhost")


@dataclass
class Earthdata:
    """NASA's catalogue, OPeNDAP server and login.

    Attributes
    ----------
    user, password
        The one account.
    tokens
        Tokens that are accepted; a login gives the last one.
    absent
        Days without granules.
    tiles
        Of MODIS and VIIRS.
    page
        Granules in an answer of the catalogue.
    by_redirect
        Whether data without a token redirect to the login, or are refused with 401.
    names_servers
        Whether the catalogue names the OPeNDAP server of each granule.
    """

    user: str = "somebody"
    password: str = "correct horse"  # noqa: S105
    tokens: list[str] = field(default_factory=lambda: ["token-1"])
    absent: set[date] = field(default_factory=set)
    tiles: tuple[str, ...] = ("h08v04", "h09v04", "h10v04")
    page: int = 2000
    by_redirect: bool = True
    names_servers: bool = True

    def answer(self, asked: Asked, server: FakeOpen) -> Reply | None:
        """Answer a request; None for a path of another service."""
        if asked.path == "/cmr/search/granules.umm_json":
            return self._catalogue(asked, server.url)
        if asked.path == "/api/users/find_or_create_token":
            if not self._is_known(asked):
                return Reply(body=b'{"error":"invalid_credentials"}', status=401)
            token = {"access_token": self.tokens[-1], "token_type": "Bearer", "expiration_date": "12/31/2026"}
            return Reply(body=json.dumps(token).encode(), kind="application/json")
        if asked.path == "/oauth/authorize":
            return Reply(body=b"<html>Earthdata Login: user, password</html>", kind="text/html")
        if found := re.fullmatch(r"/opendap/(?:C1-NASA/SC:)?(.+)\.dap\.nc4", asked.path):
            given = asked.headers.get("authorization", "").removeprefix("Bearer ")
            if given not in self.tokens:
                if self.by_redirect:
                    return Reply(
                        status=302, headers={"Location": f"{login_of(server)}/oauth/authorize?response_type=code"}
                    )
                return Reply(body=b"the token has expired", status=401)
            return self._window(found[1], asked.query["dap4.ce"])
        return None

    def _is_known(self, asked: Asked) -> bool:
        basic = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return asked.headers.get("authorization") == f"Basic {basic}"

    def names(self, collection: str, first: date, last: date) -> list[tuple[str, datetime]]:
        """Return the granules of a collection and their beginnings, in order."""
        found = []
        for k in range((last - first).days + 1):
            day = first + timedelta(days=k)
            if day in self.absent:
                continue
            noon = datetime(day.year, day.month, day.day)
            if collection == "SPL4SMGP":
                for step in range(8):
                    moment = noon + timedelta(hours=3 * step)
                    stamp = moment + timedelta(minutes=90)
                    found.append((f"SMAP_L4_SM_gph_{stamp:%Y%m%dT%H%M%S}_Vv8010_001", moment))
            else:
                version = {"MOD11A1": "061", "VNP21A1D": "002"}[collection]
                found += [(f"{collection}.A{day:%Y%j}.{tile}.{version}.{day:%Y%j}120000", noon) for tile in self.tiles]
        return found

    def _catalogue(self, asked: Asked, url: str) -> Reply:
        query = asked.query
        first, last = (date.fromisoformat(end[:10]) for end in query["temporal"].split(","))
        names = self.names(query["short_name"], first - timedelta(days=1), last)
        start = int(asked.headers.get("cmr-search-after", "0"))
        some = names[start : start + min(self.page, int(query["page_size"]))]
        items = []
        for name, moment in some:
            links = [
                {"URL": f"{url}/opendap/{name}", "Type": "USE SERVICE API", "Subtype": "OPENDAP DATA"},
                {"URL": f"{url}/data/{name}.h5", "Type": "GET DATA"},
            ]
            links = links if self.names_servers else links[1:]
            umm = {
                "GranuleUR": f"SC:{name}",
                "DataGranule": {"Identifiers": [{"Identifier": f"{name}.h5", "IdentifierType": "ProducerGranuleId"}]},
                "TemporalExtent": {"RangeDateTime": {"BeginningDateTime": f"{moment.isoformat()}Z"}},
                "RelatedUrls": links,
            }
            items.append({"meta": {"collection-concept-id": "C1-NASA"}, "umm": umm})
        more = {"CMR-Search-After": str(start + len(some))} if start + len(some) < len(names) else {}
        return Reply(body=json.dumps({"hits": len(names), "items": items}).encode(), headers=more)

    def _window(self, name: str, expression: str) -> Reply:
        import h5netcdf

        body = io.BytesIO()
        with h5netcdf.File(body, "w") as file:  # with dimensions and attributes, which make up most of a small file
            for part in expression.split(";"):
                found = re.fullmatch(r"(/[^\[]+)\[(\d+):1:(\d+)\]\[(\d+):1:(\d+)\]", part)
                if not found:
                    return Reply(body=f"syntax error: {part}".encode(), status=400)
                rows, cols = (np.arange(int(found[k]), int(found[k + 1]) + 1) for k in (2, 4))
                values = self._values(name, found[1], rows, cols)
                if values is None:
                    return Reply(body=f"no such variable: {found[1]}".encode(), status=400)
                for axis, size in (("y", rows.size), ("x", cols.size)):
                    if axis not in file.dimensions:
                        file.dimensions[axis] = size
                stated = {**ATTRIBUTES, "fullnamepath": found[1], "origname": found[1].rpartition("/")[2]}
                file.create_variable(found[1], ("y", "x"), data=values).attrs.update(stated)
        return Reply(body=body.getvalue(), kind="application/x-netcdf;ver=4")

    def _values(self, name: str, path: str, rows: NDArray[Any], cols: NDArray[Any]) -> NDArray[Any] | None:
        if found := re.match(r"SMAP_L4_SM_gph_(\d{8})T(\d\d)", name):
            day = datetime.strptime(found[1], "%Y%m%d").date()
            return smap_values(rows, cols, day, int(found[2]) // 3) if path == SMAP_PATH else None
        found = re.match(r"(\w+)\.A(\d{7})\.h(\d\d)v(\d\d)", name)
        assert found
        day = datetime.strptime(found[2], "%Y%j").date()
        field_path, quality_path, phase = LST_PATHS[found[1]]
        rows, cols = rows + int(found[4]) * 1200, cols + int(found[3]) * 1200
        if path == field_path:
            return lst_stored(rows, cols, day, phase)
        return lst_quality(rows, cols, day) if path == quality_path else None


# -- land cover at a Web Coverage Service

CODES = np.array([11, 21, 31, 41, 42, 52, 71, 81, 82, 90], np.uint8)


def nlcd_codes(x: NDArray[Any], y: NDArray[Any], year: int) -> NDArray[np.uint8]:
    """Return land cover, (y, x), at the middle of pixels of 30 m in EPSG:5070; 250 means missing."""
    turn = (np.floor(x / 90)[None, :] + 3 * np.floor(y / 150)[:, None] + year).astype(int)
    return np.where(turn % 23 == 0, 250, CODES[turn % len(CODES)]).astype(np.uint8)


@dataclass
class Wcs:
    """Annual NLCD at a GeoServer, whose corner is off by a little."""

    legend: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = lambda codes: codes
    fault: str = ""

    def answer(self, asked: Asked, server: FakeOpen) -> Reply | None:
        """Answer a request; None for a path of another service."""
        if asked.path != "/wcs":
            return None
        if asked.query.get("version") != "1.0.0" or self.fault:
            text = self.fault or "Cannot invoke Object.getClass() because startTime is null"
            xml = f'<?xml version="1.0"?><ServiceExceptionReport><ServiceException>{text}</ServiceException>'
            return Reply(body=xml.encode(), kind="application/vnd.ogc.se_xml")
        query = asked.query
        left, bottom, right, top = (float(edge) for edge in query["bbox"].split(","))
        width, height = int(query["width"]), int(query["height"])
        cell = (right - left) / width
        assert cell == (top - bottom) / height == 30
        x, y = left + (np.arange(width) + 0.5) * 30, top - (np.arange(height) + 0.5) * 30
        codes = self.legend(nlcd_codes(x, y, int(query["time"][:4])))
        return Reply(body=geotiff(codes, Affine(30, 0, left + 3e-5, 0, -30, top - 2e-5), "EPSG:5070", 250))


def geotiff(values: NDArray[Any], affine: Affine, crs: str, nodata: float | None = None, **options: Any) -> bytes:
    """Return a GeoTIFF of one band."""
    size = {"height": values.shape[0], "width": values.shape[1], "count": 1, "dtype": values.dtype}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", crs=crs, transform=affine, nodata=nodata, **size, **options) as image:
            image.write(values, 1)
        return bytes(memory.read())


# -- tiles of one degree


TILES: dict[str, tuple[float, float]] = {"elevation": (500, 200), "clay": (20, 8), "sand": (45, 10), "bd": (1.4, 0.05)}
"""Middle and half the range of what tiles hold."""


def tile_values(kind: str, lon: NDArray[Any], lat: NDArray[Any]) -> NDArray[np.float64]:
    """Return the values of a kind of tile by place; NaN in a strip of longitude."""
    middle, half = TILES[kind]
    values = middle + half * wave(lon * 40, lat * 40, None, len(kind))
    return np.where((lon * 100 % 7 < 0.5) & (lat == lat), np.nan, values)


@dataclass
class Tiles:
    """3DEP with 6 cells around each tile, and POLARIS; there are none of the sea."""

    corners: set[tuple[int, int]] = field(default_factory=lambda: {(47, -120), (47, -119), (46, -120), (46, -119)})
    refused: bool = False
    sides: dict[str, int] = field(default_factory=lambda: {"3dep": 10800, "polaris": 3600})

    def answer(self, asked: Asked, server: FakeOpen) -> Reply | None:
        """Answer a request; None for a path of another service."""
        if found := re.fullmatch(r"/3dep/n(\d\d)w(\d\d\d)/USGS_13_n\1w\2\.tif", asked.path):
            kind, south, west, pad, crs = "elevation", int(found[1]) - 1, -int(found[2]), 6, "EPSG:4269"
            side, nodata = self.sides["3dep"], -999999.0
        elif found := re.fullmatch(r"/polaris/(\w+)/mean/0_5/lat(\d\d)\d\d_lon(-\d+)-\d+\.tif", asked.path):
            kind, south, west, pad, crs = found[1], int(found[2]), int(found[3]), 0, "EPSG:4326"
            side, nodata = self.sides["polaris"], -9999.0
        else:
            return None
        if self.refused:
            return Reply(body=b"<Error><Code>AccessDenied</Code></Error>", status=403)
        if (south, west) not in self.corners:
            return Reply(body=b"NoSuchKey", status=404)
        affine = Affine(1 / side, 0, west - pad / side, 0, -1 / side, south + 1 + pad / side)
        shape = (side + 2 * pad, side + 2 * pad)
        return Reply(body=Tiff(crs, affine, shape, "float32", partial(tile_values, kind), nodata=nodata, stated=True))
