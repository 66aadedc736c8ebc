"""A STAC catalog of each day and one collection of all days, from the items on disk.

A CONUS day has up to 869 items. Its catalog lists them and stores their summaries; the collection is made from the
catalogs alone, without reading items.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from mmnet_maps.errors import OutputError
from mmnet_maps.files import read_json, refuse_foreign, write_whole
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.stac_item import (
    COLLECTION,
    EXTENSIONS,
    LEVEL,
    MEMBERS,
    PICTURE,
    describe_asset,
    fingerprint_of,
)

log = logging.getLogger(__name__)

_STAC_VERSION = "1.1.0"
_SUMMARISED: Mapping[str, tuple[type, ...]] = {
    "gsd": (int, float),
    "proj:code": (str,),
    "mmnet:model": (str,),
    "mmnet:software": (str,),
    "mmnet:synthetic": (bool,),
    "mmnet:licences": (str,),
}
"""Summarised properties, and what their values are; a property is one value or a list."""

_DESCRIPTION = (
    "Daily maps of surface soil moisture (0-5 cm, m3/m3) by MMNet, a network that brings SMAP to a finer grid with "
    "optical, radar, weather, terrain and soil data. One catalog a UTC day, one item an area or tile."
)
_INVENTED = " Items with mmnet:synthetic true are made from invented inputs: they are not observations."


def check_catalog(out: Path, days: Iterable[date]) -> None:
    """Check, before anything is computed, that `write_catalog` overwrites no foreign file; nothing is created.

    Raises
    ------
    OutputError
        When ``collection.json``, or the ``catalog.json`` of one of the days, exists and was not made by this software.
    """
    refuse_foreign(out / "collection.json", ours=lambda path: _is_collection(_content(path)))
    for day in days:
        refuse_foreign(_folder(out, day) / "catalog.json", ours=lambda path: _is_catalog(_content(path)))


def write_catalog(out: Path, days: Iterable[date]) -> Path:
    """Write the catalogs of some days, and the collection of all days that have one.

    Only the items of these days are read. The same items give the same bytes. The catalog of a day without items is
    removed, and so is the collection of an output folder without catalogs. Not for two processes in one folder at once:
    days just added by one of them may be missing until the next call.

    Parameters
    ----------
    out
        Output root, with one folder per day.
    days
        The days whose items were written or removed.

    Returns
    -------
    Path
        The collection, ``collection.json`` in `out`.

    Raises
    ------
    OutputError
        When a file of that name exists that this software did not make, an item cannot be read, or the files cannot
        be written.
    """
    chosen = sorted(set(days))
    check_catalog(out, chosen)
    for day in chosen:
        path = _folder(out, day) / "catalog.json"
        _put(path, _day_catalog(day, read_items(path.parent)))
    path = out / "collection.json"
    _put(path, _collection(_catalogs(out)))
    return path


def _folder(out: Path, day: date) -> Path:
    return out / f"{day:%Y%m%d}"


def _put(path: Path, content: dict[str, Any] | None) -> None:
    """Write a file whole, or remove it where it would list nothing."""
    if content is not None:
        write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot remove {path}, which would list nothing: {error.strerror}; remove it by hand"
        ) from error


def _content(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty where it holds none or cannot be read."""
    with suppress(OSError):
        return read_json(path)
    return {}


def _is_collection(content: Mapping[str, Any]) -> bool:
    return content.get("type") == "Collection" and content.get("id") == COLLECTION


def _is_catalog(content: Mapping[str, Any]) -> bool:
    return content.get("type") == "Catalog" and "mmnet:items" in content


def read_items(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the items of this software in a folder, by file name, in order; damaged ones are named and left out."""
    found = {}
    for path in sorted(folder.glob("[!.]*.json")):  # hidden files are being written or removed
        try:
            item = read_json(path)
        except FileNotFoundError:  # being exchanged for a new revision
            continue
        except OSError as error:
            raise OutputError(f"cannot read {path}: {error.strerror}; make it readable or move it away") from error
        if fingerprint_of(item) is None:
            continue
        if _is_whole(item.get("bbox"), item["properties"]):
            found[path.name] = item
        else:
            log.warning("%s is a damaged STAC item, left out of the catalogue; make the map again", path)
    return found


def _is_whole(box: Any, properties: Any) -> bool:
    """Return whether a bounding box and properties, or summaries of them, are of the right types."""
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(edge, int | float) for edge in box)
        and isinstance(properties, dict)
        and all(isinstance(value, kinds) for key, kinds in _SUMMARISED.items() for value in _values(properties, key))
    )


def _catalogs(out: Path) -> dict[date, dict[str, Any]]:
    """Return the catalogs on disk by day, in order; a damaged one is made from its items."""
    found = {}
    for path in sorted(out.glob("*/catalog.json")):
        if not re.fullmatch(r"\d{8}", path.parent.name) or not _is_catalog(content := _content(path)):
            continue
        with suppress(ValueError):
            day = datetime.strptime(path.parent.name, "%Y%m%d").replace(tzinfo=UTC).date()
            whole = _is_whole(content.get("mmnet:bbox"), content.get("mmnet:summaries"))
            known = (
                content
                if whole and isinstance(content["mmnet:items"], int)
                else _day_catalog(day, read_items(path.parent))
            )
            if known is not None:
                found[day] = known
    return found


def _day_catalog(day: date, items: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    if not items:
        return None
    return {
        "type": "Catalog",
        "stac_version": _STAC_VERSION,
        "id": f"{COLLECTION}-{day:%Y%m%d}",
        "title": day.isoformat(),
        "description": f"Surface soil moisture on {day.isoformat()} (UTC).",
        "mmnet:items": len(items),
        "mmnet:bbox": _union([item["bbox"] for item in items.values()]),
        "mmnet:summaries": _summaries([item["properties"] for item in items.values()]),
        "links": [
            _link("root", "../collection.json"),
            _link("parent", "../collection.json"),
            *(_link("item", f"./{name}", "application/geo+json") for name in items),
        ],
    }


def _collection(catalogs: Mapping[date, Mapping[str, Any]]) -> dict[str, Any] | None:
    if not catalogs:
        return None
    summaries = _summaries([catalog["mmnet:summaries"] for catalog in catalogs.values()])
    first, last = min(catalogs), max(catalogs)
    return {
        "type": "Collection",
        "stac_version": _STAC_VERSION,
        "stac_extensions": [EXTENSIONS[name] for name in ("raster", "classification", "processing")],
        "id": COLLECTION,
        "title": "Daily surface soil moisture by MMNet",
        "description": _DESCRIPTION + (_INVENTED if True in summaries.get("mmnet:synthetic", ()) else ""),
        "keywords": ["soil moisture", "SMAP", "downscaling", "remote sensing", "hydrology"],
        "license": "other",  # those of the inputs, listed in mmnet:licences
        "providers": [
            {
                "name": "mmnet_maps",
                "description": "The software that made the maps; mmnet:inputs of an item names the sources.",
                "roles": ["processor"],
                "processing:level": LEVEL,
            }
        ],
        "extent": {
            "spatial": {"bbox": [_union([catalog["mmnet:bbox"] for catalog in catalogs.values()])]},
            "temporal": {"interval": [[f"{first}T00:00:00Z", f"{last}T23:59:59Z"]]},
        },
        "summaries": summaries,
        "item_assets": {key: describe_asset(key) for key in (*LAYERS, PICTURE, MEMBERS)},
        "mmnet:items": sum(catalog["mmnet:items"] for catalog in catalogs.values()),
        "links": [
            _link("root", "./collection.json"),
            {**_link("about", "https://doi.org/10.1029/2025JH000639", "text/html"), "title": "Xu et al. (2025)"},
            *(
                {**_link("child", f"./{day:%Y%m%d}/catalog.json"), "title": day.isoformat()}
                for day, catalog in catalogs.items()
            ),
        ],
    }


def _link(relation: str, target: str, kind: str = "application/json") -> dict[str, str]:
    return {"rel": relation, "href": target, "type": kind}


def _union(boxes: Sequence[Sequence[float]]) -> list[float]:
    """Return the smallest box [west, south, east, north] around some boxes."""
    west, south, east, north = zip(*boxes, strict=True)
    return [min(west), min(south), max(east), max(north)]


def _summaries(properties: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the distinct values of the summarised properties, sorted."""
    found: dict[str, set[Any]] = {}
    for one in properties:
        for key in _SUMMARISED:
            if key in one:
                found.setdefault(key, set()).update(_values(one, key))
    return {key: sorted(found[key]) for key in _SUMMARISED if key in found}


def _values(properties: Mapping[str, Any], key: str) -> list[Any]:
    """Return the values of a property, which is one value or a list; none where it is missing."""
    value = properties.get(key, [])
    return value if isinstance(value, list) else [value]
