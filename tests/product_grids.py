"""The grids of real coarse products."""

from __future__ import annotations

from affine import Affine
from odc.geo.geobox import GeoBox

GRIDMET = GeoBox((585, 1386), Affine(1 / 24, 0, -124.7875, 0, -1 / 24, 49.4208333), "EPSG:4326")


EASE2 = GeoBox(
    (1624, 3856), Affine(9008.055210146, 0, -17367530.4451615, 0, -9008.055210146, 7314540.8306386), "EPSG:6933"
)


SINUSOIDAL = GeoBox(
    (21600, 43200),
    Affine(926.625433055833, 0, -20015109.354, 0, -926.625433055833, 10007554.677),
    "+proj=sinu +R=6371007.181 +units=m",
)
