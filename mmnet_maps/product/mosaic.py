"""Mosaics: a GDAL VRT per layer over the finished tiles of a day, which opens them as one map."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from mmnet_maps.errors import OutputError, RequestError
from mmnet_maps.files import read_json, refuse_foreign, remove_sidecars, write_whole
from mmnet_maps.grid.tiles import DEFAULT_CRS, TILE_PIXELS, grid_of_tiles, tile_geobox
from mmnet_maps.product.layers import LAYERS, Layer
from mmnet_maps.product.quality import FLAG_MASKS
from mmnet_maps.product.stac_item import fingerprint_of, inside, sizes_of

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

    from mmnet_maps.grid.tiles import Tile

MOSAIC_MARK = "MMNET_MOSAIC"
"""The metadata item that identifies a mosaic of this software: a hash of its tiles."""

_OVERVIEWS = "2 4 8 16 32 64 128"
_BLOCK = 512
_TYPES = {"uint16": "UInt16", "int16": "Int16"}  # GDAL's names

Finished = dict[str, dict[str, Any]]


def write_mosaics(folder: Path, day: date, *, synthetic: bool) -> list[Path]:
    """Write a mosaic of each layer over the finished tiles of a day: ``mosaic_{YYYYMMDD}[_synthetic]_{layer}.vrt``.

    A mosaic spans the smallest rectangle of whole tiles and refers to them by relative names, so that the folder can be
    moved. Without a tile it reads as nodata, quality as 1 (outside the area of interest). The same tiles give the same
    bytes. The mosaic of a layer that no tile has is removed.

    Parameters
    ----------
    folder
        The folder of the day, with the tiles and their items.
    day, synthetic
        The tiles to show; real and synthetic maps do not mix.

    Returns
    -------
    list of Path
        The mosaics, in the order of `layers.LAYERS`.

    Raises
    ------
    OutputError
        When a file of such a name exists that this software did not make, or one cannot be written.
    InputError
        As `finished_items`.
    """
    items = finished_items(folder, day, synthetic=synthetic)
    made: dict[Path, str] = {}
    for name, layer in LAYERS.items():
        path = folder / f"mosaic_{_stamp(day, synthetic)}_{name}.vrt"
        tiles = {tile: item for tile, item in items.items() if name in item["assets"]}
        if tiles:
            refuse_foreign(path, ours=_is_mosaic)
            made[path] = _mosaic(layer, tiles)
        elif path.exists() and _is_mosaic(path):
            try:
                remove_sidecars(path)
                path.unlink()
            except OSError as error:
                raise OutputError(
                    f"cannot remove {path}, which no tile belongs to: {error.strerror}; remove it by hand"
                ) from error
    for path, text in made.items():
        write_whole(path, text)
    return list(made)


def finished_tiles(folder: Path, day: date, *, synthetic: bool, layer: str) -> list[tuple[GeoBox, Path]]:
    """Return grid and file of one layer of each finished tile of a day, row by row from the north-west.

    A tile is finished when its STAC item and all files listed there exist, with the listed sizes.

    Parameters
    ----------
    folder
        The folder of the day.
    day, synthetic
        The tiles to return.
    layer
        A name from `layers.LAYERS`.
    """
    items = finished_items(folder, day, synthetic=synthetic)
    found = {tile: folder / _file(item, layer) for tile, item in items.items() if layer in item["assets"]}
    return [(tile.geobox, found[tile.id]) for tile in grid_of_tiles(list(found))[1]] if found else []


def finished_items(folder: Path, day: date, *, synthetic: bool) -> Finished:
    """Return the STAC items of the finished tiles of a day by tile id; parameters as in `finished_tiles`.

    Raises
    ------
    InputError
        When an item lists a file that does not lie in the folder.
    """
    found: Finished = {}
    for path in sorted(folder.glob(f"h??v??_{_stamp(day, synthetic)}.json")):
        with suppress(OSError):  # a tile being exchanged has no item, or not all files
            tile, item = path.name[:6], read_json(path)
            sizes = sizes_of(item)
            if fingerprint_of(item) is None or not sizes or not _is_whole_tile(tile, item):
                continue
            files = {key: inside(folder, _file(item, key), folder) for key in sizes}
            if all(file.stat().st_size == sizes[key] for key, file in files.items()):
                found[tile] = item
    return found


def _stamp(day: date, synthetic: bool) -> str:
    return f"{day:%Y%m%d}{'_synthetic' if synthetic else ''}"


def _file(item: Mapping[str, Any], key: str) -> str:
    return str(item["assets"][key].get("href", "")).removeprefix("./")


def _is_whole_tile(tile: str, item: Mapping[str, Any]) -> bool:
    """Return whether an item belongs to a tile; the file of an area may have the same name."""
    try:
        geobox = tile_geobox(tile)
    except RequestError:
        return False
    about: Mapping[str, Any] = item["properties"]
    expected = {
        "proj:code": DEFAULT_CRS,
        "proj:shape": list(geobox.shape),
        "proj:transform": list(geobox.affine)[:6],
    }
    return expected.items() <= about.items()


def _is_mosaic(path: Path) -> bool:
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314  (a file of the user's own folder; entities are not resolved)
    except (OSError, ElementTree.ParseError):
        return False
    return any(entry.get("key") == MOSAIC_MARK for entry in root.iterfind("./Metadata/MDI"))


def _mosaic(layer: Layer, items: Finished) -> str:
    """Return the XML of one layer's mosaic."""
    from rasterio.crs import CRS

    from mmnet_maps.product import cog

    grid, tiles = grid_of_tiles(list(items))
    root = ElementTree.Element("VRTDataset", rasterXSize=str(grid.shape.x), rasterYSize=str(grid.shape.y))
    # This axis mapping is GDAL's for coordinates in the order x, y, whatever the authority defines.
    _add(root, "SRS", CRS.from_user_input(DEFAULT_CRS).to_wkt(), dataAxisToSRSAxisMapping="1,2")
    a = grid.affine
    _add(root, "GeoTransform", ", ".join(repr(float(number)) for number in (a.c, a.a, a.b, a.f, a.d, a.e)))
    _metadata(root, {**_common(items.values()), MOSAIC_MARK: _fingerprint(layer, items)})
    blocks = {"blockXSize": str(_BLOCK), "blockYSize": str(_BLOCK)}
    band = _add(root, "VRTRasterBand", None, dataType=_TYPES[layer.dtype], band="1", **blocks)
    _add(band, "Description", layer.long_name)
    if layer.nodata is None:
        # GDAL reads a hidden nodata value where there is no tile; it does not mean missing.
        _add(band, "NoDataValue", str(FLAG_MASKS["outside_area"]))
        _add(band, "HideNoDataValue", "1")
    else:
        _add(band, "NoDataValue", str(layer.nodata))
    _add(band, "UnitType", layer.units)
    _add(band, "Offset", "0")
    _add(band, "Scale", repr(layer.scale))
    _add(band, "ColorInterp", "Gray")
    _metadata(band, cog.band_tags(layer))
    for tile in tiles:
        _source(band, layer, tile, _file(items[tile.id], layer.name))
    # Computed on reading from the overviews of the tiles. With `resampling` on the sources instead, GDAL 3.10 reads
    # values other than the tiles' means.
    _add(root, "OverviewList", _OVERVIEWS, resampling=layer.overview.upper())
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, name: str, text: str | None, **attributes: str) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, name, attributes)
    child.text = text
    return child


def _metadata(parent: ElementTree.Element, entries: Mapping[str, str]) -> None:
    table = _add(parent, "Metadata", None)
    for key, text in sorted(entries.items()):
        _add(table, "MDI", text, key=key)


def _source(band: ElementTree.Element, layer: Layer, tile: Tile, file: str) -> None:
    source = _add(band, "SimpleSource", None)
    _add(source, "SourceFilename", file, relativeToVRT="1")
    _add(source, "SourceBand", "1")
    size = {"xSize": str(TILE_PIXELS), "ySize": str(TILE_PIXELS)}
    # With these properties GDAL opens a tile only to read from it.
    _add(
        source,
        "SourceProperties",
        None,
        RasterXSize=str(TILE_PIXELS),
        RasterYSize=str(TILE_PIXELS),
        DataType=_TYPES[layer.dtype],
        BlockXSize=str(_BLOCK),
        BlockYSize=str(_BLOCK),
    )
    _add(source, "SrcRect", None, xOff="0", yOff="0", **size)
    _add(source, "DstRect", None, xOff=str(tile.cols.start), yOff=str(tile.rows.start), **size)


def _common(items: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the metadata that all tiles share, as tags."""
    first, *others = (item["properties"] for item in items)
    return {
        key.removeprefix("mmnet:"): value if isinstance(value, str) else json.dumps(value)
        for key, value in first.items()
        if key.startswith("mmnet:") and key != "mmnet:fingerprint" and all(one.get(key) == value for one in others)
    }


def _fingerprint(layer: Layer, items: Finished) -> str:
    parts = [
        layer.name,
        [[tile, item["properties"]["mmnet:fingerprint"]] for tile, item in items.items()],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
