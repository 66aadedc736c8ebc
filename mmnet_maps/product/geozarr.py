"""The grid of an array in a Zarr store as attributes of the GeoZarr conventions, under every name software looks for.

The conventions' own text (v0.1) calls them ``proj`` and ``spatial``; rioxarray 0.23 finds only ``proj:`` and
``spatial:``, their earlier names; GDAL 3.13 looks for the identifiers, which both share. So each is declared twice.
They stand on every array of pixels and not on the group: rioxarray does not look for an array's attributes in its
group, and GDAL 3.13.3 crashes where a group has them and also coordinates of one dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

_ROOT = "github.com/zarr-conventions"


def _convention(name: str, uuid: str, description: str, repository: str, version: str) -> dict[str, str]:
    raw = _ROOT.replace("github.com", "raw.githubusercontent.com")
    return {
        "schema_url": f"https://{raw}/{repository}/refs/tags/{version}/schema.json",
        "spec_url": f"https://{_ROOT}/{repository}/blob/{version}/README.md",
        "uuid": uuid,
        "name": name,
        "description": description,
    }


_PROJ = "f17cb550-5864-4468-aeb7-f3180cfb622f", "Coordinate reference system information for geospatial data"
_SPATIAL = "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"
_MULTISCALES = "d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets"
_CONVENTIONS = [
    _convention("proj", *_PROJ, "proj", "v0.1"),
    _convention("spatial", *_SPATIAL, "spatial", "v0.1"),
    _convention("proj:", *_PROJ, "geo-proj", "v1"),
    _convention("spatial:", *_SPATIAL, "spatial", "v1"),
]


def georeference(grid: GeoBox) -> dict[str, Any]:
    """Return the grid as attributes of an array (…, y, x)."""
    assert grid.crs is not None
    code = grid.crs.to_epsg()
    return {
        "zarr_conventions": list(_CONVENTIONS),
        **({"proj:code": f"EPSG:{code}"} if code else {"proj:wkt2": grid.crs.to_wkt()}),
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": _transform(grid),
        "spatial:shape": list(grid.shape),
        "spatial:bbox": [float(bound) for bound in grid.boundingbox.bbox],
        "spatial:registration": "pixel",
    }


def multiscales(grids: Sequence[tuple[str, GeoBox]]) -> dict[str, Any]:
    """Return the attributes of a group whose arrays have overviews in groups below it.

    Parameters
    ----------
    grids
        Name and grid of each of these groups. The arrays of the group itself are no part of the layout, because a
        layout names groups or arrays below.
    """
    layout = [
        {"asset": name, "spatial:transform": _transform(grid), "spatial:shape": list(grid.shape)}
        for name, grid in grids
    ]
    return {
        "zarr_conventions": [_convention("multiscales", *_MULTISCALES, "multiscales", "v0.1")],
        "multiscales": {"layout": layout, "resampling_method": "average"},
    }


def _transform(grid: GeoBox) -> list[float]:
    return [float(number) for number in tuple(grid.affine)[:6]]
