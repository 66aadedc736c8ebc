from __future__ import annotations

import pyproj
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from mmnet_maps.grid.crs import crs_name, same_crs

ALBERS = GeoBox((20, 30), Affine(30, 0, -1_800_000, 0, -30, 2_900_000), "EPSG:5070")
DEGREES = GeoBox((20, 30), Affine(1 / 3600, 0, -120, 0, -1 / 3600, 47), "EPSG:4326")
ELLIPSOID = {
    "grid_mapping_name": "latitude_longitude",
    "semi_major_axis": 6378137.0,
    "inverse_flattening": 298.257223563,
}
SPHERE = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"


@pytest.mark.parametrize(
    ("one", "other", "grid"),
    [
        ("EPSG:5070", pyproj.CRS(5070).to_wkt("WKT1_GDAL"), ALBERS),
        ("EPSG:5070", "+proj=aea +lat_0=23 +lon_0=-96 +lat_1=29.5 +lat_2=45.5 +datum=NAD83", ALBERS),
        ("EPSG:4326", "OGC:CRS84", DEGREES),
        ("EPSG:4326", "+proj=longlat +datum=WGS84", DEGREES),
        ("EPSG:4326", pyproj.CRS.from_cf(ELLIPSOID).to_wkt(), DEGREES),
        (SPHERE, rasterio.CRS.from_string(SPHERE).to_wkt(), ALBERS),
    ],
)
def test_spellings_of_a_crs_are_the_same(one: str, other: str, grid: GeoBox) -> None:
    assert same_crs(one, other, grid)
    assert same_crs(other, one, grid)


@pytest.mark.parametrize(
    ("one", "other", "grid"),
    [
        ("EPSG:5070", "+proj=aea +lat_0=23 +lon_0=-96 +lat_1=29.5 +lat_2=45 +datum=NAD83", ALBERS),
        ("EPSG:32611", "EPSG:32612", ALBERS),
        ("EPSG:4326", "EPSG:4267", DEGREES),  # NAD27 is about 90 m away, three cells of one second
        ("EPSG:5070", "IAU_2015:30110", ALBERS),  # the Moon
    ],
)
def test_other_crs_are_not(one: str, other: str, grid: GeoBox) -> None:
    assert not same_crs(one, other, grid)


def test_names_are_short_and_never_wkt() -> None:
    nameless = pyproj.CRS("+proj=lcc +lat_1=25 +lat_2=45 +lat_0=42.5 +lon_0=-100 +units=m")
    assert crs_name(nameless.to_wkt()) == "Lambert Conic Conformal (2SP) (42.5, -100, 25, 45, 0, 0)"
    assert crs_name(ALBERS.crs) == "EPSG:5070"
    assert crs_name(pyproj.CRS(4326).to_wkt()) == "EPSG:4326"
    assert crs_name('PROJCS["broken') == "an unreadable CRS"
    assert len(crs_name("+proj=lcc " * 50)) <= 60
