"""Maps as COGs: output folders with STAC items, single items, single files."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError

from mmnet_maps.errors import InputError, RequestError, counted
from mmnet_maps.files import DRIVER_ERRORS, MARK, gdal, read_json, read_tags
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.stac_item import COLLECTION, MEMBERS, PICTURE, fingerprint_of, inside, recipe_of

log = logging.getLogger(__name__)

_DAY_FOLDER = re.compile(r"\d{8}")
_ITEM = re.compile(r"_\d{8}(_synthetic)?\.json$")
_NAMED = 3  # files that a notice names
_COG = re.compile(r"(?P<name>.+)_(?P<day>\d{8})(_synthetic)?_(?P<layer>[a-z_]+)")


@dataclass(frozen=True, kw_only=True)
class CogMap:
    """Layers of one map as COGs; see `reader.DayMap`."""

    name: str
    day: date
    grid: GeoBox
    synthetic: bool
    files: Mapping[str, Path]
    recipe: Mapping[str, str]
    fingerprint: str

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of its layers."""
        return tuple(self.files)

    @property
    def tags(self) -> dict[str, str]:
        """How it was made, from its first file."""
        path = next(iter(self.files.values()))
        try:
            tags = read_tags(path)
        except DRIVER_ERRORS as error:
            raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}); make the map again") from error
        return {key: value for key, value in tags.items() if key not in (MARK, "AREA_OR_POINT")}

    def read(self, layer: str, tops: NDArray[np.intp], lefts: NDArray[np.intp]) -> NDArray[Any]:
        """Return a layer on cells between these rows and columns, from the overviews where they suffice."""
        import rasterio
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        path, about = self.files[layer], LAYERS[layer]
        try:
            with gdal(), rasterio.open(path, driver="GTiff") as data:
                if data.shape != tuple(self.grid.shape):
                    raise InputError(f"{path} is not on the grid of its STAC item; make the map again")
                values: NDArray[Any] = data.read(
                    1,
                    window=Window.from_slices(*(slice(edges[0], edges[-1]) for edges in (tops, lefts))),
                    out_shape=(len(tops) - 1, len(lefts) - 1),
                    resampling=Resampling.nearest if about.nodata is None else Resampling.average,
                )
        except DRIVER_ERRORS as error:
            raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}); make the map again") from error
        return about.unpack(values)


def maps_in_folder(root: Path, days: Container[date]) -> Iterable[CogMap]:
    """Find the finished maps of an output folder, or of a day's folder in one."""
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and _DAY_FOLDER.fullmatch(path.name))]
    for folder in folders:
        if folder is not root and _day_of(folder.name) not in days:
            continue
        paths = sorted(path for path in folder.glob("*_*.json") if not path.name.startswith("."))
        yield from maps_of_items(paths, root, days)


def maps_of_items(paths: Iterable[Path], root: Path, days: Container[date]) -> list[CogMap]:
    """Return the maps that STAC items describe; unfinished and unreadable ones are left out with a notice.

    Parameters
    ----------
    paths
        JSON files; those that are not items of this software are skipped.
    root
        Folder in which every file of a map must lie.
    days
        The days to open.

    Raises
    ------
    InputError
        When an item is damaged or lists files elsewhere.
    """
    found: list[CogMap] = []
    unfinished: list[Path] = []
    damaged: list[Path] = []
    for path in paths:
        content = read_content(path)
        if fingerprint_of(content) is None:
            if _ITEM.search(path.name) and (not content or content.get("collection") == COLLECTION):
                damaged.append(path)
            continue
        one = _map_of_item(path, content, root)
        if one is None:
            unfinished.append(path)
        elif one.day in days:
            found.append(one)
    for why, left in (("not finished, a file is missing or incomplete", unfinished), ("damaged", damaged)):
        if left:
            log.warning(
                "%s left out: %s: %s; run the command that made it again", counted(len(left), "map"), why, _few(left)
            )
    return found


def _few(paths: Sequence[Path]) -> str:
    more = f", … {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(map(str, paths[:_NAMED])) + more


def read_content(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, empty where the file holds none.

    Raises
    ------
    InputError
        When it cannot be read.
    """
    try:
        return read_json(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); make it readable or move it away") from error


def _map_of_item(path: Path, item: Mapping[str, Any], root: Path) -> CogMap | None:
    """Return the map that an item describes; None where a file is missing or has another size."""
    try:
        about = item["properties"]
        transform, (height, width) = about["proj:transform"], about["proj:shape"]
        day = date.fromisoformat(about["datetime"][:10])
        grid = GeoBox((int(height), int(width)), Affine(*transform[:6]), about.get("proj:code") or about["proj:wkt2"])
        assets = {key: asset for key, asset in item["assets"].items() if key not in (PICTURE, MEMBERS)}
        files = {key: (str(asset["href"]), int(asset["file:size"])) for key, asset in assets.items() if key in LAYERS}
        synthetic = bool(about["mmnet:synthetic"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, CRSError) as error:
        raise InputError(f"{path} is a damaged STAC item ({error}); make the map again") from error
    found = {}
    for key in (name for name in LAYERS if name in files):
        href, size = files[key]
        file = inside(path.parent, href, root)
        if not os.path.isfile(file) or file.stat().st_size != size:
            return None
        found[key] = file
    name = re.sub(r"_\d{8}(_synthetic)?$", "", path.stem)
    if not found:
        return None
    return CogMap(
        name=name,
        day=day,
        grid=grid,
        synthetic=synthetic,
        files=found,
        recipe=recipe_of({key.removeprefix("mmnet:"): value for key, value in about.items()}),
        fingerprint=str(fingerprint_of(item)),
    )


def map_of_file(path: Path) -> CogMap:
    """Return the map of one COG, known by its tags and name.

    Raises
    ------
    InputError
        When it cannot be read.
    RequestError
        When this software did not write it, or it has been renamed.
    """
    import rasterio

    try:
        with gdal(), rasterio.open(path, driver="GTiff") as data:
            tags, shape, affine, crs = data.tags(), data.shape, data.transform, data.crs
    except DRIVER_ERRORS as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())})") from error
    named = _COG.fullmatch(path.stem)
    day = _day_of(tags.get("date", ""))
    if MARK not in tags or not named or named["layer"] not in LAYERS or not day:
        raise RequestError(
            f"{path} is no layer of a map; expected a file written by mmnet_maps under its original name, "
            "…_YYYYMMDD_LAYER.tif"
        )
    return CogMap(
        name=named["name"],
        day=day,
        grid=GeoBox(shape, affine, crs.to_wkt()),
        synthetic=json.loads(tags.get("synthetic", "false")),
        files={named["layer"]: path},
        recipe=recipe_of(tags),
        fingerprint=str(tags[MARK]),
    )


def _day_of(text: str) -> date | None:
    with suppress(ValueError):
        return date.fromisoformat(text)
    return None
