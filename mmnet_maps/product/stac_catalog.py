"""A STAC catalog of each day and one collection of them all, from the items on disk.

A tile of CONUS is one of 854 items a day, so that nothing can be found by opening files. The catalog of a day lists its
items and keeps what the collection tells of them; the collection is made from the catalogs and reads no item.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from mmnet_maps.errors import OutputError
from mmnet_maps.files import read_json, write_whole
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

_STAC_VERSION = "1.1.0"
_SUMMARISED = ("gsd", "proj:code", "mmnet:model", "mmnet:software", "mmnet:synthetic", "mmnet:licences")
_DESCRIPTION = (
    "Daily maps of surface soil moisture (0-5 cm, m3/m3) by MMNet, a network that brings SMAP to a finer grid with "
    "optical, radar, weather, terrain and soil data. One catalog a UTC day, one item an area or tile."
)
_INVENTED = " Items with mmnet:synthetic true are made from invented inputs: they are not observations."


def check_catalog(out: Path, days: Iterable[date]) -> None:
    """Make sure, before anything is computed, that `write_catalog` would overwrite nothing of others; creates nothing.

    Raises
    ------
    OutputError
        When ``collection.json``, or the ``stac_catalog.json`` of one of the days, is there and was not made by this
        software.
    """
    for path, made in (
        (out / "collection.json", _is_collection),
        *((_folder(out, day) / "catalog.json", _is_catalog) for day in days),
    ):
        if path.exists() and not made(_content(path)):
            raise OutputError(
                f"{path} was not made by mmnet_maps and is never overwritten; move it away or give another --out"
            )


def write_catalog(out: Path, days: Iterable[date]) -> Path:
    """Write the catalogs of some days, and the collection of all days that have one.

    Only the items of these days are read. The same items give the same bytes. A day without items loses its catalog,
    and an output folder without any the collection. Not for two processes in one folder at once: what one of them just
    added may be missing until the next call.

    Parameters
    ----------
    out
        Output root, which holds a folder a day.
    days
        The days whose items were made, remade or removed.

    Returns
    -------
    Path
        The collection, ``collection.json`` in `out`.

    Raises
    ------
    OutputError
        When a file of that name is there that this software did not make, an item cannot be read, or the files cannot
        be written.
    """
    chosen = sorted(set(days))
    check_catalog(out, chosen)
    for day in chosen:
        path = _folder(out, day) / "catalog.json"
        _put(path, _day_catalog(day, _items(path.parent)))
    path = out / "collection.json"
    _put(path, _collection(_catalogs(out)))
    return path


def _folder(out: Path, day: date) -> Path:
    return out / f"{day:%Y%m%d}"


def _put(path: Path, content: dict[str, Any] | None) -> None:
    """Write a file whole, or remove it where there is nothing to tell."""
    if content is not None:
        write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove {path}, which lists nothing any more: {error.strerror}") from error


def _content(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is not one or cannot be read."""
    with suppress(OSError):
        return read_json(path)
    return {}


def _is_collection(content: Mapping[str, Any]) -> bool:
    return content.get("type") == "Collection" and content.get("id") == COLLECTION


def _is_catalog(content: Mapping[str, Any]) -> bool:
    return content.get("type") == "Catalog" and "mmnet:items" in content


def _items(folder: Path) -> dict[str, dict[str, Any]]:
    """The items of this software in a folder, by file name, in order."""
    found = {}
    for path in sorted(folder.glob("[!.]*.json")):  # what is hidden is being written, or is about to be removed
        try:
            item = read_json(path)
        except FileNotFoundError:  # being exchanged for a new issue
            continue
        except OSError as error:
            raise OutputError(f"cannot read {path}: {error.strerror}; make it readable or move it away") from error
        if fingerprint_of(item) is not None:
            found[path.name] = item
    return found


def _catalogs(out: Path) -> dict[date, dict[str, Any]]:
    """The catalogs on disk by day, in order."""
    found = {}
    for path in sorted(out.glob("*/catalog.json")):
        if re.fullmatch(r"\d{8}", path.parent.name) and _is_catalog(content := _content(path)):
            with suppress(ValueError):
                found[datetime.strptime(path.parent.name, "%Y%m%d").replace(tzinfo=UTC).date()] = content
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
        "license": "other",  # that of the inputs, which mmnet:licences lists
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
    """The box around some of [west, south, east, north]."""
    west, south, east, north = zip(*boxes, strict=True)
    return [min(west), min(south), max(east), max(north)]


def _summaries(properties: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The distinct values of some properties, each a value or a list of them, in order."""
    found: dict[str, set[Any]] = {}
    for one in properties:
        for key in _SUMMARISED:
            if key in one:
                found.setdefault(key, set()).update(one[key] if isinstance(one[key], list) else [one[key]])
    return {key: sorted(found[key]) for key in _SUMMARISED if key in found}
