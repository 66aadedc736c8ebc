"""Finished maps read as one: folders of COGs with STAC items, single items and COGs, or a Zarr store."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.files import DRIVER_ERRORS, MARK, gdal, read_json
from mmnet_maps.product.layers import LAYERS, Layer
from mmnet_maps.product.stac_item import MEMBERS, PICTURE, fingerprint_of

if TYPE_CHECKING:
    import xarray as xr

    from mmnet_maps.grid.lattice import Window

__all__ = ["Maps", "open_maps"]

log = logging.getLogger(__name__)

Edges = NDArray[np.intp]

_DAY_FOLDER = re.compile(r"\d{8}")
_COG = re.compile(r"(?P<name>.+)_(?P<day>\d{8})(_synthetic)?_(?P<layer>[a-z_]+)")
_STRIP = 1024


class Piece(Protocol):
    """The map of one area or tile on one day."""

    @property
    def name(self) -> str:
        """What it is, for people."""

    @property
    def day(self) -> date:
        """The day that it stands for."""

    @property
    def grid(self) -> GeoBox:
        """Its pixels."""

    @property
    def synthetic(self) -> bool:
        """Whether an input was not an observation."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of its layers."""

    def read(self, layer: str, tops: Edges, lefts: Edges) -> NDArray[Any]:
        """Values (y, x) of cells of its pixels as `Maps.read` gives them; cells lie between these rows and columns."""


class Maps:
    """The maps of some days, on one grid that holds them all.

    Parameters
    ----------
    pieces
        The maps, of one CRS and resolution; where two overlap on a day, the first that has a value there counts.

    Attributes
    ----------
    days, layers
        Ascending; in the order of `layers.LAYERS`.
    grid
        The smallest grid that holds all pieces.
    synthetic
        Whether an input of any was not an observation.

    Raises
    ------
    RequestError
        When the pieces are on grids that do not go together.
    """

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._by_day: dict[date, list[Piece]] = {}
        for piece in pieces:
            self._by_day.setdefault(piece.day, []).append(piece)
        every = [piece for mine in self._by_day.values() for piece in mine]
        self.days = tuple(sorted(self._by_day))
        self.layers = tuple(name for name in LAYERS if any(name in piece.layers for piece in every))
        self.grid = _union(every)
        self.synthetic = any(piece.synthetic for piece in every)
        self.names = tuple(dict.fromkeys(piece.name for piece in every))

    @cached_property
    def title(self) -> str:
        """What is shown, in a few words.

        One area or tile by its name, several by their number.
        """
        return self.names[0] if len(self.names) == 1 else f"{len(self.names)} areas or tiles"

    def read(self, layer: str, day: date, window: Window, *, step: int = 1) -> NDArray[Any]:
        """Values of a layer on a day.

        Parameters
        ----------
        layer, day
            Of `layers` and `days`.
        window
            Rows and columns of `grid`; beyond the grid there is nothing.
        step
            Pixels along a side that become one value, by the mean of those that have one (quality: one of them), from
            the overviews where the files have them. The edges of maps within the window then lie to about one step.

        Returns
        -------
        ndarray (y, x)
            Physical values, float32, NaN where there is none; quality uint16, 1 (outside the area) where there is none.

        Raises
        ------
        InputError
            When a file cannot be read.
        """
        about = LAYERS[layer]
        rows, cols = window
        shape = (-(-(rows.stop - rows.start) // step), -(-(cols.stop - cols.start) // step))
        flags = about.nodata is None
        found = np.full(shape, about.fill, np.uint16) if flags else np.full(shape, np.nan, np.float32)
        for piece in self._by_day.get(day, []):
            if layer not in piece.layers:
                continue
            (top, left), (height, width) = self._corner(piece), piece.grid.shape
            into_rows, tops = _overlap(rows, top, height, step)
            into_cols, lefts = _overlap(cols, left, width, step)
            target = found[into_rows, into_cols]
            if target.size:
                values = piece.read(layer, tops, lefts)
                np.copyto(target, values, where=target == about.fill if flags else np.isnan(target))
        return found

    def pieces_on(self, day: date) -> Sequence[tuple[Piece, Window]]:
        """The maps of a day and where they lie in `grid`."""
        found = []
        for piece in self._by_day.get(day, []):
            (top, left), (height, width) = self._corner(piece), piece.grid.shape
            found.append((piece, (slice(top, top + height), slice(left, left + width))))
        return found

    def _corner(self, piece: Piece) -> tuple[int, int]:
        inverse = ~self.grid.affine
        col, row = inverse * (piece.grid.affine.c, piece.grid.affine.f)
        return round(row), round(col)


def _overlap(asked: slice, first: int, count: int, step: int) -> tuple[slice, Edges]:
    """Cells of `step` pixels of what is asked for that a piece reaches, and its pixels between which they lie."""
    low, high = max(asked.start, first), min(asked.stop, first + count)
    if low >= high:
        return slice(0, 0), np.zeros(1, np.intp)
    into = slice((low - asked.start) // step, -(-(high - asked.start) // step))
    edges = asked.start - first + step * np.arange(into.start, into.stop + 1)
    return into, edges.clip(0, count)


def open_maps(paths: str | Path | Sequence[str | Path], *, start: date | None = None, end: date | None = None) -> Maps:
    """Open finished maps to be read as one.

    Parameters
    ----------
    paths
        Each an output folder of ``mmnet-map`` or ``mmnet batch``, the folder of a day in one, a STAC item, catalog or
        collection in those, a COG, or a Zarr store. Only local files are read, and of a folder only what lies in it:
        an item that points elsewhere is refused.
    start, end
        First and last day to be opened (default: all).

    Returns
    -------
    Maps
        Real maps only where there are both real and synthetic ones, with a notice.

    Raises
    ------
    RequestError
        When there is nothing of the kind, or what there is does not go together.
    InputError
        When something cannot be read.

    Examples
    --------
    >>> maps = open_maps("maps")                                    # doctest: +SKIP
    >>> maps.read("soil_moisture", maps.days[0], (slice(0, 500), slice(0, 500)))  # doctest: +SKIP
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    wanted = _Days(start or date.min, end or date.max)
    pieces = [piece for path in given for piece in _open(path, wanted)]
    if not pieces:
        within = "" if start is None and end is None else f" of {start or 'any day'} to {end or 'any day'}"
        raise RequestError(
            f"there is no finished map{within} in {', '.join(map(str, given))}; expected what mmnet-map or mmnet batch "
            "wrote: its output folder, a STAC item, a COG or a Zarr store"
        )
    real = [piece for piece in pieces if not piece.synthetic]
    if real and len(real) < len(pieces):
        log.warning("%d synthetic maps beside %d real ones are left out", len(pieces) - len(real), len(real))
        pieces = real
    return Maps(pieces)


@dataclass(frozen=True)
class _Days:
    first: date
    last: date

    def __contains__(self, day: date | None) -> bool:
        return day is not None and self.first <= day <= self.last


def _open(given: str | Path, wanted: _Days) -> list[Piece]:
    if re.match(r"[a-z][a-z0-9+.-]+://", str(given), re.IGNORECASE):
        raise RequestError(f"{given} is an address; only files of this machine are read: download the maps first")
    path = Path(given)
    if not os.path.exists(path):  # which is not there either where its name is too long
        raise RequestError(f"{path} does not exist; give the output folder of mmnet-map or mmnet batch")
    if path.is_dir():
        return list(_store(path, wanted)) if (path / "zarr.json").is_file() else list(_folder(path, wanted))
    if path.suffix == ".json":
        content = _json(path)
        if fingerprint_of(content) is not None:
            return _of_items([path], path.parent, wanted)
        if content.get("type") in ("Collection", "Catalog"):
            return list(_folder(path.parent, wanted))
        raise RequestError(f"{path} is no STAC item, catalog or collection that mmnet_maps wrote")
    if path.suffix in (".tif", ".tiff"):
        piece = _cog(path)
        return [piece] if piece.day in wanted else []
    raise RequestError(f"{path} is neither a folder of maps, a STAC item, a COG nor a Zarr store")


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error


# ---- folders of COGs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Cogs:
    """Layers of one map as COGs."""

    name: str
    day: date
    grid: GeoBox
    synthetic: bool
    files: Mapping[str, Path]

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.files)

    def read(self, layer: str, tops: Edges, lefts: Edges) -> NDArray[Any]:
        import rasterio
        from rasterio.enums import Resampling
        from rasterio.windows import Window as Pixels

        path, about = self.files[layer], LAYERS[layer]
        try:
            with gdal(), rasterio.open(path, driver="GTiff") as data:
                if data.shape != tuple(self.grid.shape):
                    raise InputError(f"{path} is not on the grid that its item says; make the map again")
                values: NDArray[np.uint16] = data.read(
                    1,
                    window=Pixels.from_slices(*(slice(edges[0], edges[-1]) for edges in (tops, lefts))),
                    out_shape=(len(tops) - 1, len(lefts) - 1),
                    resampling=Resampling.nearest if about.nodata is None else Resampling.average,
                )
        except DRIVER_ERRORS as error:
            raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}); make the map again") from error
        return about.unpack(values)


def _folder(root: Path, wanted: _Days) -> Iterable[Piece]:
    """The maps of an output folder or of a day's folder in one; those that are not finished are left out."""
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and _DAY_FOLDER.fullmatch(path.name))]
    for folder in folders:
        if folder is not root and _day_of(folder.name) not in wanted:
            continue
        paths = sorted(path for path in folder.glob("*_*.json") if not path.name.startswith((".", "closure_")))
        yield from _of_items(paths, root, wanted)


def _day_of(text: str) -> date | None:
    with suppress(ValueError):
        return date.fromisoformat(text)
    return None


def _of_items(paths: Iterable[Path], root: Path, wanted: _Days) -> list[Piece]:
    pieces: list[Piece] = []
    unfinished = 0
    for path in paths:
        content = _json(path)
        if fingerprint_of(content) is None:
            continue
        piece = _of_item(path, content, root)
        if piece is None:
            unfinished += 1
        elif piece.day in wanted:
            pieces.append(piece)
    if unfinished:
        log.warning("%d maps in %s are not finished and left out", unfinished, root)
    return pieces


def _of_item(path: Path, item: Mapping[str, Any], root: Path) -> _Cogs | None:
    """The map that an item describes; None where its files are not all there."""
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
    return _Cogs(name=_name(path.stem), day=day, grid=grid, synthetic=synthetic, files=found) if found else None


def inside(folder: Path, href: str, root: Path) -> Path:
    """The file that a relative name in a folder means, which must lie within a root, links resolved.

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


def _name(stem: str) -> str:
    """Name of the area or tile in the name of an item.

    >>> _name("grant_county_20210808_synthetic")
    'grant_county'
    """
    return re.sub(r"_\d{8}(_synthetic)?$", "", stem)


def _cog(path: Path) -> _Cogs:
    import rasterio

    try:
        with gdal(), rasterio.open(path, driver="GTiff") as data:
            tags, shape, affine, crs = data.tags(), data.shape, data.transform, data.crs
    except DRIVER_ERRORS as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())})") from error
    named = _COG.fullmatch(path.stem)
    if MARK not in tags or not named or named["layer"] not in LAYERS or not _day_of(tags.get("date", "")):
        raise RequestError(
            f"{path} is no layer of a map: expected a file that mmnet_maps wrote under the name that it wrote, "
            "…_YYYYMMDD_LAYER.tif"
        )
    return _Cogs(
        name=named["name"],
        day=date.fromisoformat(tags["date"]),
        grid=GeoBox(shape, affine, crs.to_wkt()),
        synthetic=json.loads(tags.get("synthetic", "false")),
        files={named["layer"]: path},
    )


# ---- Zarr stores -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """One day of a Zarr store."""

    name: str
    day: date
    grid: GeoBox
    synthetic: bool
    data: xr.Dataset
    index: int

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(name for name in LAYERS if name in self.data)

    def read(self, layer: str, tops: Edges, lefts: Edges) -> NDArray[Any]:
        lines = max(_STRIP * (len(tops) - 1) // int(tops[-1] - tops[0]), 1)
        parts = []
        for start in range(0, len(tops) - 1, lines):  # a strip at a time, so that memory stays bounded
            edges = tops[start : start + lines + 1]
            window = slice(edges[0], edges[-1]), slice(lefts[0], lefts[-1])
            try:
                values = self.data[layer][self.index, *window].to_numpy()
            except (OSError, ValueError, RuntimeError) as error:
                raise InputError(f"{self.name}: {layer} on {self.day} cannot be read ({error})") from error
            parts.append(_reduced(values, edges[:-1] - edges[0], lefts[:-1] - lefts[0], LAYERS[layer]))
        found: NDArray[Any] = np.concatenate(parts)
        return found


def _reduced(values: NDArray[Any], tops: Edges, lefts: Edges, about: Layer) -> NDArray[Any]:
    """Means over cells by where they begin, of the pixels that have a value; of flags the first pixel's."""
    if about.nodata is None or (len(tops), len(lefts)) == values.shape:
        return values[np.ix_(tops, lefts)]
    known = np.isfinite(values)
    total, count = (
        np.add.reduceat(np.add.reduceat(part, tops, 0), lefts, 1)
        for part in (np.where(known, values, 0.0).astype(np.float64), known.astype(np.int64))
    )
    means: NDArray[np.float32] = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    return means


def _store(path: Path, wanted: _Days) -> Iterable[Piece]:
    import pandas as pd
    import xarray as xr
    from odc.geo.xr import xr_coords  # noqa: F401  (registers .odc)

    for folder, below, names in os.walk(path):
        for name in (*below, *names):
            if os.path.islink(entry := os.path.join(folder, name)):
                raise InputError(f"{entry} is a link; of a store only what lies in it is read: copy the store")
    try:
        data = xr.open_zarr(path, chunks=None, consolidated=False, decode_coords="all")
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not a Zarr store that xarray opens ({error})") from error
    if "soil_moisture" not in data or data["soil_moisture"].dims != ("time", "y", "x"):
        raise RequestError(
            f"{path} holds no maps: expected soil_moisture (time, y, x), as mmnet batch --zarr writes it; "
            "a stack of inputs goes to --stack"
        )
    grid = data["soil_moisture"].odc.geobox
    if grid is None or grid.crs is None:
        raise InputError(f"{path} does not say where its pixels lie; expected a CF grid mapping, as mmnet_maps writes")
    synthetic = str(data.attrs.get("synthetic", "")).lower() in ("1", "true")
    for index, stamp in enumerate(pd.DatetimeIndex(data["time"].to_numpy())):
        if stamp.date() in wanted:
            yield _Stored(
                name=path.stem, day=stamp.date(), grid=grid, synthetic=synthetic, data=data, index=index
            )  # fmt: skip


# ---- grids -----------------------------------------------------------------------------------------------------------


def _union(pieces: Sequence[Piece]) -> GeoBox:
    first = pieces[0].grid
    a = first.affine
    corners = []
    for grid in dict.fromkeys(piece.grid for piece in pieces):
        b = grid.affine
        col, row = ~a * (b.c, b.f)
        same = grid.crs == first.crs and np.allclose((a.a, a.b, a.d, a.e), (b.a, b.b, b.d, b.e), rtol=1e-9)
        if not same or abs(col - round(col)) > 1e-3 or abs(row - round(row)) > 1e-3:
            raise RequestError(
                f"maps of {first.crs} at {a.a:g} and of {grid.crs} at {b.a:g} do not lie on one grid; give those of "
                "one grid at a time"
            )
        corners.append((round(row), round(col), round(row) + grid.shape.y, round(col) + grid.shape.x))
    top, left = np.min(corners, axis=0)[:2].tolist()
    bottom, right = np.max(corners, axis=0)[2:].tolist()
    return GeoBox((bottom - top, right - left), a * Affine.translation(left, top), first.crs)
