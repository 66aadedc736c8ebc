"""The STAC item of one day: building it, and reading it back; `stac_catalog` lists the items of many days."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps import __version__
from mmnet_maps.errors import InputError
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.quality import QUALITY_BITS

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox
    from pyproj import Transformer

PICTURE, MEMBERS = "picture", "members"
"""Asset keys of the picture and the ensemble members; every other asset is a layer."""

COLLECTION = "mmnet-maps"
"""Id of the collection of all items."""

RECIPE = ("weights_sha256", "smap_resampling", "product_version")
"""Properties that maps must share to be compared: networks, resampling of SMAP, version of the product."""

LEVEL = "L4"
"""Processing level: model output derived from measurements."""

EXTENSIONS = {
    name: f"https://stac-extensions.github.io/{name}/v{version}/schema.json"
    for name, version in {
        "projection": "2.0.0",
        "raster": "2.0.0",
        "file": "2.1.0",
        "classification": "2.0.0",
        "version": "1.2.0",
        "processing": "1.1.0",
    }.items()
}
"""Addresses of the schemas of the STAC extensions in use, by name."""

_PROCESSING = {
    "processing:level": LEVEL,
    "processing:lineage": "Estimated by the network mmnet:model from the inputs that mmnet:inputs lists.",
    "processing:software": {"mmnet_maps": __version__},
}
_LINKS = {"root": "../collection.json", "collection": "../collection.json", "parent": "./catalog.json"}


def build_item(
    name: str,
    *,
    day: date,
    geobox: GeoBox,
    files: Mapping[str, Path],
    version: int,
    fingerprint: str,
    properties: Mapping[str, Any],
    links: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Build a STAC 1.1 item as a dict.

    It contains no time of writing, so that the same run gives the same bytes. Its links lead to the day's catalog
    beside it and to the collection in the folder above, which `stac_catalog.write_catalog` writes.

    Parameters
    ----------
    name
        The item's id.
    day
        The UTC day of the map.
    geobox
        The grid of the layers; its outline is the footprint.
    files
        Finished files by layer name, ``"picture"`` or ``"members"``; the item lists them as files beside itself.
    version, fingerprint
        Number of the revision, from 1, and the hash of everything that determines the values.
    properties, links
        Further properties and links.
    """
    import pystac
    from pystac.utils import datetime_to_str

    start = datetime.combine(day, time(), UTC)
    ring = _ring(geobox)
    west_south, east_north = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
    item = pystac.Item(
        id=name,
        geometry={"type": "Polygon", "coordinates": [ring.tolist()]},
        bbox=[*west_south, *east_north],
        datetime=start,
        properties={
            **properties,
            "start_datetime": datetime_to_str(start),
            "end_datetime": datetime_to_str(start + timedelta(days=1, seconds=-1)),
            "version": str(version),
            "mmnet:fingerprint": fingerprint,
            **_PROCESSING,
            **_grid_properties(geobox),
        },
        stac_extensions=list(EXTENSIONS.values()),
        collection=COLLECTION,
    )
    for key, path in files.items():
        item.add_asset(key, pystac.Asset.from_dict(_asset(key, path)))
    for relation, target in _LINKS.items():
        item.add_link(pystac.Link(relation, target, "application/json"))
    item.add_links([pystac.Link.from_dict(dict(link)) for link in links])
    return item.to_dict(include_self_link=False, transform_hrefs=False)


def describe_asset(key: str) -> dict[str, Any]:
    """Return the parts of an asset that are the same in every item: title, type, roles and, of a layer, its band.

    Parameters
    ----------
    key
        A name from ``layers.LAYERS``, ``"picture"`` or ``"members"``.

    Examples
    --------
    >>> describe_asset("picture")
    {'title': 'picture', 'type': 'image/png', 'roles': ['overview']}
    """
    if key == MEMBERS:
        return {
            "title": "members of the ensemble, not clipped",
            "type": "application/vnd+zarr",
            "roles": ["data"],
        }
    if key == PICTURE:
        return {"title": "picture", "type": "image/png", "roles": ["overview"]}
    layer = LAYERS[key]
    band: dict[str, Any] = {
        "name": key,
        "description": layer.long_name,
        "data_type": layer.dtype,
        "unit": layer.units,
        "raster:sampling": "area",
        "raster:scale": layer.scale,
        "raster:offset": 0.0,
    }
    if layer.nodata is None:
        band["classification:bitfields"] = [_bitfield(name, bit) for name, bit in QUALITY_BITS.items()]
    else:
        band["nodata"] = layer.nodata
    return {
        "title": layer.long_name,
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "roles": ["quality"] if layer.nodata is None else ["data"],
        "bands": [band],
    }


def fingerprint_of(item: Mapping[str, Any]) -> str | None:
    """Return the fingerprint in an item; None where this software did not write it.

    >>> fingerprint_of({"properties": {"mmnet:fingerprint": "3f2a"}})
    '3f2a'
    """
    properties = item.get("properties")
    return properties.get("mmnet:fingerprint") if isinstance(properties, dict) else None


def recipe_of(about: Mapping[str, Any]) -> dict[str, str]:
    """Return the entries of a product's description that are named in `RECIPE`.

    >>> recipe_of({"weights_sha256": "3f2a", "product_version": 2, "model": "net"})
    {'weights_sha256': '3f2a', 'product_version': '2'}
    """
    return {key: str(about[key]) for key in RECIPE if key in about}


def version_of(item: Mapping[str, Any]) -> int:
    """Return the number of the revision in an item, 0 where it has none.

    >>> version_of({"properties": {"version": "2"}}), version_of({})
    (2, 0)
    """
    with suppress(KeyError, TypeError, ValueError):
        return int(item["properties"]["version"])
    return 0


def sizes_of(item: Mapping[str, Any]) -> dict[str, int]:
    """Return the size in bytes of each file of an item, by asset key; empty where this software did not write it.

    The members, a folder, are not among them.
    """
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        return {str(key): int(asset["file:size"]) for key, asset in item["assets"].items() if key != MEMBERS}
    return {}


def lists_members(item: Mapping[str, Any]) -> bool:
    """Return whether an item lists ensemble members.

    >>> lists_members({"assets": {"members": {"href": "./grant_20210808_members.zarr"}}})
    True
    """
    assets = item.get("assets")
    return isinstance(assets, dict) and MEMBERS in assets


def inside(folder: Path, href: str, root: Path) -> Path:
    """Resolve a relative name in a folder, links included, to a file that must lie within a root.

    Raises
    ------
    InputError
        When it does not, or the name is an address or an absolute path.

    Examples
    --------
    >>> inside(Path("maps/20210808"), "../../secret.tif", Path("maps"))
    Traceback (most recent call last):
    ...
    mmnet_maps.errors.InputError: maps/20210808 points to '../../secret.tif', which does not lie in maps; not read
    """
    try:
        file = (folder / href).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder} points to {href!r}, which is no file ({error}); not read") from error
    if "://" in href or Path(href).is_absolute() or not file.is_relative_to(root.resolve()):
        raise InputError(f"{folder} points to {href!r}, which does not lie in {root}; not read")
    return file


def _asset(key: str, path: Path) -> dict[str, Any]:
    href = {"href": f"./{path.name}"}
    if key == MEMBERS:  # a folder, without size and checksum
        return href | describe_asset(key)
    with path.open("rb") as file:
        digest = sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    # 12 20 is the multihash prefix of a SHA-256 of 32 bytes, which the file extension requires.
    facts = {"file:size": path.stat().st_size, "file:checksum": f"1220{digest.hexdigest()}"}
    return href | facts | describe_asset(key)


def _grid_properties(geobox: GeoBox) -> dict[str, Any]:
    """Return the grid as properties; the pixel size ``gsd`` is in metres, and omitted on grids in degrees or feet."""
    from pyproj import CRS

    assert geobox.crs is not None
    crs, code = CRS.from_user_input(str(geobox.crs)), geobox.crs.to_epsg()
    metres = crs.is_projected and crs.axis_info[0].unit_conversion_factor == 1.0
    return {
        **({"gsd": abs(geobox.affine.a)} if metres else {}),
        **({"proj:code": f"EPSG:{code}"} if code else {"proj:wkt2": geobox.crs.to_wkt()}),
        "proj:shape": list(geobox.shape),
        "proj:transform": list(geobox.affine)[:6],
    }


def _bitfield(name: str, bit: int) -> dict[str, Any]:
    return {
        "name": name,
        "offset": bit,
        "length": 1,
        "classes": [{"value": 0, "name": "no"}, {"value": 1, "name": "yes"}],
    }


def _ring(geobox: GeoBox) -> NDArray[np.float64]:
    """Return the outline (n, 2) of a grid in longitude and latitude to 1e-6° (0.1 m), counterclockwise and closed.

    Every edge has 20 segments, because straight edges of a projected grid are curved in degrees.
    """
    height, width = geobox.shape
    along = np.linspace(0.0, 1.0, 20, endpoint=False)
    zero, one = np.zeros_like(along), np.ones_like(along)
    cols = np.r_[zero, along, one, along[::-1] + 0.05, 0.0] * width
    rows = np.r_[along, one, along[::-1] + 0.05, zero, 0.0] * height
    x, y = geobox.affine * (cols, rows)
    return np.round(np.column_stack(_to_lonlat(str(geobox.crs)).transform(x, y)), 6)


@lru_cache
def _to_lonlat(crs: str) -> Transformer:
    from pyproj import Transformer

    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
