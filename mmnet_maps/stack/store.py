"""The stack: native rasters of one area in one Zarr store, each product on its own grid, with a commit mark per block.

Layout: one Zarr group per source grid, arrays (time, y, x), packed integers whose nodata is the fill value. The time
axis is fixed (daily, `EPOCH` to `LAST_DAY`) and the fine arrays span the whole tile lattice, so that any day and any
area goes in anywhere; what was never written takes no space. ``fetched`` (time, block_y, block_x) says what is there:
0 never fetched, 1 looked at and found empty, else a checksum of the block's data. It is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from affine import Affine
from filelock import FileLock
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from zarr.codecs import BloscCodec

from mmnet_maps.errors import InputError, OutputError, RequestError
from mmnet_maps.files import fast_zarr
from mmnet_maps.grid.lattice import Window
from mmnet_maps.sources.base import Provenance, Rasters
from mmnet_maps.variables import FINE_GROUPS, VARIABLES

VERSION = 1
EPOCH = date(2015, 1, 1)
LAST_DAY = date(2039, 12, 31)
_DAYS = (LAST_DAY - EPOCH).days + 1
_DAMAGE = (ValueError, RuntimeError, OSError, zlib.error)  # what zarr and its codecs raise on broken chunks
_FINE_BLOCK, _COARSE_BLOCK, _TILE = 256, 64, 1024


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group of a stack: its lattice, block size in cells, and the variables it holds."""

    name: str
    lattice: GeoBox
    block: int
    variables: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The usual group of its variables (`variables`); other than `name` where a product has a grid of its own."""
        return VARIABLES[self.variables[0]].group

    @property
    def temporal(self) -> bool:
        """Whether the group has a time axis."""
        return self.kind != "static"

    def blocks(self, window: Window) -> Window:
        """The blocks that a window of cells touches."""
        rows, cols = window
        return (
            slice(rows.start // self.block, -(-rows.stop // self.block)),
            slice(cols.start // self.block, -(-cols.stop // self.block)),
        )

    def whole_blocks(self, window: Window) -> Window:
        """The window rounded out to whole blocks, clipped to the lattice."""
        height, width = self.lattice.shape
        rows, cols = self.blocks(window)
        return (
            slice(rows.start * self.block, min(rows.stop * self.block, height)),
            slice(cols.start * self.block, min(cols.stop * self.block, width)),
        )


def day_index(day: date) -> int:
    """Position of a day on the time axis."""
    if not EPOCH <= day <= LAST_DAY:
        raise RequestError(f"day {day} is off the stack's time axis, {EPOCH} to {LAST_DAY}; choose a day within it")
    return (day - EPOCH).days


class Stack:
    """An open stack; read only unless opened with ``writable=True``.

    Parameters
    ----------
    path
        Folder of the Zarr store.
    writable
        Hold the store's writer lock and allow `write`.

    Raises
    ------
    InputError
        When there is no stack at `path`, or one of another version.
    """

    def __init__(self, path: str | Path, *, writable: bool = False) -> None:
        self.path = Path(path)
        try:
            self._root: Any = zarr.open_group(self.path, mode="r+" if writable else "r", zarr_format=3)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(f"no stack at {self.path}; build one with: mmnet stack --out {self.path} …") from error
        except (ValueError, KeyError) as error:
            raise InputError(f"{self.path} is not a readable stack ({error}); build it again") from error
        found = self._root.attrs.get("mmnet_stack_version")
        if found != VERSION:
            raise InputError(
                f"{self.path} is not a stack of version {VERSION} (mmnet_stack_version is {found!r}); build it again"
            )
        try:
            self.groups = {name: self._read_group(name) for name in sorted(self._root.group_keys())}
            self.provenance, self.target = self._read_root()
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"{self.path} is a damaged stack ({error!r}); build it again") from error
        self._where = {v: group.name for group in self.groups.values() for v in group.variables}
        self._arrays: dict[str, Any] = {}
        self._reader = nullcontext if writable else fast_zarr

    def _read_group(self, name: str) -> Group:
        group = self._root[name]
        reference = group["spatial_ref"].attrs
        variables = tuple(sorted(key for key in group.array_keys() if key in VARIABLES))
        lattice = _lattice(reference, group[variables[0]].shape[-2:])
        return Group(name=name, lattice=lattice, block=int(group.attrs["block"]), variables=variables)

    def _read_root(self) -> tuple[dict[str, Provenance], GeoBox]:
        """Where each variable comes from, and the fine lattice, of which maps are windows."""
        table: Mapping[str, Any] = self._root.attrs["provenance"]
        target = self._root.attrs["target"]
        return {name: Provenance(**fields) for name, fields in table.items()}, _lattice(target, target["shape"])

    @property
    def sources(self) -> list[str]:
        """Names of the sources that were asked last, with all that was wanted of them."""
        return list(self._root.attrs.get("sources", []))

    def record_sources(self, names: Sequence[str]) -> None:
        """Remember the sources that have been asked."""
        self._root.attrs["sources"] = list(names)

    def group_of(self, variable: str) -> Group:
        """The group that holds a variable.

        Raises
        ------
        InputError
            When the stack has no such variable.
        """
        if variable not in self._where:
            raise InputError(
                f"the stack {self.path} has no {variable}; it holds {', '.join(sorted(self._where))}; "
                "build one from sources that have it"
            )
        return self.groups[self._where[variable]]

    def _array(self, name: str) -> Any:
        """An array by its path, opened once; what only reads does so through a reader in Rust, twice as fast."""
        if name not in self._arrays:
            with self._reader():
                self._arrays[name] = self._root[name]
        return self._arrays[name]

    def marks(self, group: Group, window: Window, days: Sequence[date]) -> NDArray[np.uint32]:
        """Commit marks (day, block_y, block_x) of the blocks in a window; for ``static`` one entry, whatever `days`."""
        fetched = self._array(f"{group.name}/fetched")
        rows, cols = group.blocks(window)
        index = [day_index(day) for day in days]
        if group.temporal and not index:
            return np.zeros((0, rows.stop - rows.start, cols.stop - cols.start), np.uint32)
        try:
            if not group.temporal:
                return np.asarray(fetched[rows, cols])[None]
            span: NDArray[np.uint32] = np.asarray(fetched[min(index) : max(index) + 1, rows, cols])
        except _DAMAGE as error:
            raise self._damaged(f"{group.name}/fetched", error) from error
        marks: NDArray[np.uint32] = span[np.array(index) - min(index)]
        return marks

    def _damaged(self, where: str, error: Exception) -> InputError:
        return InputError(f"the stack {self.path} is damaged in {where} ({error}); delete the store and fetch it again")

    def read(self, variable: str, window: Window, day: date | None = None) -> NDArray[Any]:
        """One variable in a window of its group's lattice.

        Returns
        -------
        ndarray (y, x)
            float32 in the units of `variables`, NaN where missing or never fetched; land cover uint8, 0 where missing.

        Raises
        ------
        InputError
            When a chunk of the store is damaged.
        """
        return VARIABLES[variable].unpack(self.read_packed(variable, window, day))

    def read_packed(self, variable: str, window: Window, day: date | None = None) -> NDArray[np.integer]:
        """As `read`, but the integers as they are stored."""
        index = day_index(day) if self.group_of(variable).temporal and day else None
        return self._values(variable, window, index, f" on {day}" if day else "")

    def read_days(self, variable: str, window: Window, first: date, last: date) -> NDArray[np.float32]:
        """As `read`, all days from first to last at once: (day, y, x)."""
        days = slice(day_index(first), day_index(last) + 1)
        packed = self._values(variable, window, days, f" on {first} to {last}")
        return VARIABLES[variable].unpack(packed)

    def _values(self, variable: str, window: Window, days: int | slice | None, when: str) -> NDArray[np.integer]:
        name = self.group_of(variable).name
        try:
            array = self._array(f"{name}/{variable}")
            return np.asarray(array[window] if days is None else array[days, *window])
        except _DAMAGE as error:
            raise self._damaged(f"{name}/{variable}{when}", error) from error

    def write(self, name: str, window: Window, day: date, rasters: Rasters) -> None:
        """Write all of a group's variables in a window of whole blocks, then the marks.

        Parameters
        ----------
        name
            Group name.
        window
            Whole blocks (see `Group.whole_blocks`).
        day
            The day; ignored for ``static``.
        rasters
            Physical values (y, x) per variable; variables that are absent here have nothing on that day.
        """
        group = self.groups[name]
        rows, cols = window
        checksums = np.zeros(tuple(s.stop - s.start for s in group.blocks(window)), np.uint32)
        for variable, values in sorted(rasters.items()):
            packed = VARIABLES[variable].pack(values)
            nodata = VARIABLES[variable].nodata
            target = self._array(f"{name}/{variable}")
            region = (day_index(day), rows, cols) if group.temporal else (rows, cols)
            target[region] = packed
            for i, j in np.ndindex(checksums.shape):
                part = packed[i * group.block : (i + 1) * group.block, j * group.block : (j + 1) * group.block]
                if (part != nodata).any():
                    checksums[i, j] = zlib.crc32(np.ascontiguousarray(part).tobytes(), int(checksums[i, j]))
        block_rows, block_cols = group.blocks(window)
        marks = np.maximum(checksums, 1)
        where = (day_index(day), block_rows, block_cols) if group.temporal else (block_rows, block_cols)
        self._array(f"{name}/fetched")[where] = marks

    def fingerprint(self, uses: Iterable[tuple[Group, Window, Sequence[date]]]) -> str:
        """Hash of everything a product reads: lattices, provenance and the marks of the blocks and days it uses."""
        digest = hashlib.sha256(json.dumps(self._root.attrs["provenance"], sort_keys=True).encode())
        for group, window, days in uses:
            digest.update(f"{group.name} {group.lattice.affine} {group.lattice.crs} {window} {list(days)}".encode())
            digest.update(self.marks(group, window, days).tobytes())
        return digest.hexdigest()


def lock(path: str | Path) -> FileLock:
    """The lock that a writer of the store at `path` holds: one writer at a time."""
    path = Path(path)
    return FileLock(path.with_name(f".{path.name}.lock"))


def create(
    path: str | Path,
    target: GeoBox,
    groups: Mapping[str, tuple[GeoBox, Sequence[str]]],
    provenance: Mapping[str, Provenance],
) -> None:
    """Create an empty stack; it appears whole or not at all.

    Parameters
    ----------
    path
        Folder of the new Zarr store.
    target
        The fine lattice, of which maps are windows.
    groups
        Lattice and variables of each group; fine groups lie on `target`.
    provenance
        Where each variable comes from.

    Raises
    ------
    OutputError
        When something is there already or the folder cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise OutputError(f"{path} is there already; choose another --out or delete it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            root = zarr.create_group(scratch, zarr_format=3, overwrite=True)
            root.attrs.update(
                {
                    "Conventions": "CF-1.11",
                    "title": "Co-registered inputs of MMNet, each on its own grid",
                    "mmnet_stack_version": VERSION,
                    "target": {**_georeference(target), "shape": list(target.shape)},
                    "provenance": {name: asdict(entry) for name, entry in sorted(provenance.items())},
                }
            )
            for name, (lattice, variables) in groups.items():
                _create_group(root, name, lattice, variables)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
                zarr.consolidate_metadata(scratch)
            scratch.chmod(0o755)
            os.rename(scratch, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot create the stack {path} ({error.strerror}); choose a writable --out") from error


def _create_group(root: zarr.Group, name: str, lattice: GeoBox, variables: Sequence[str]) -> None:
    kind = VARIABLES[variables[0]].group
    fine, temporal = kind in FINE_GROUPS, kind != "static"
    block = _FINE_BLOCK if fine else _COARSE_BLOCK
    height, width = lattice.shape
    group = root.create_group(name, attributes={"block": block})
    lead, day, names = ((_DAYS,), (1,), ("time",)) if temporal else ((), (), ())
    for variable in variables:
        spec = VARIABLES[variable]
        group.create_array(
            variable,
            shape=(*lead, height, width),
            chunks=(*day, block, block),
            shards=(*day, _TILE, _TILE) if fine else None,
            dtype=spec.dtype,
            fill_value=spec.nodata,
            compressors=BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
            dimension_names=(*names, "y", "x"),
            attributes=_attributes(variable),
        )
    blocks = (-(-height // block), -(-width // block))
    group.create_array(
        "fetched",
        shape=(*lead, *blocks),
        chunks=(*day, *blocks),
        dtype="uint32",
        fill_value=0,
        dimension_names=(*names, "block_y", "block_x"),
        attributes={"long_name": "commit mark: 0 never fetched, 1 nothing there, else checksum of the block"},
    )
    _create_coordinates(group, lattice, temporal)


def _attributes(variable: str) -> dict[str, Any]:
    spec = VARIABLES[variable]
    attributes: dict[str, Any] = {"long_name": spec.long_name, "units": spec.units, "grid_mapping": "spatial_ref"}
    if spec.standard_name:
        attributes["standard_name"] = spec.standard_name
    if spec.dtype == "int16":
        attributes |= {"scale_factor": spec.scale, "add_offset": spec.offset, "_FillValue": spec.nodata}
    return attributes


def _create_coordinates(group: zarr.Group, lattice: GeoBox, temporal: bool) -> None:
    affine, crs = lattice.affine, lattice.crs
    assert crs is not None
    geographic = bool(crs.geographic)
    for axis, size, start, step in (
        ("y", lattice.shape[0], affine.f, affine.e),
        ("x", lattice.shape[1], affine.c, affine.a),
    ):
        kind = (
            {"y": "latitude", "x": "longitude"}
            if geographic
            else {"y": "projection_y_coordinate", "x": "projection_x_coordinate"}
        )[axis]
        units = {"latitude": "degrees_north", "longitude": "degrees_east"}.get(kind, "m")
        array = group.create_array(
            axis,
            shape=(size,),
            chunks=(size,),
            dtype="float64",
            dimension_names=(axis,),
            attributes={"standard_name": kind, "units": units, "axis": axis.upper()},
        )
        array[:] = start + step * (np.arange(size) + 0.5)
    if temporal:
        time = group.create_array(
            "time",
            shape=(_DAYS,),
            chunks=(_DAYS,),
            dtype="int32",
            dimension_names=("time",),
            attributes={
                "standard_name": "time",
                "units": f"days since {EPOCH}",
                "calendar": "proleptic_gregorian",
                "axis": "T",
            },
        )
        time[:] = np.arange(_DAYS, dtype=np.int32)
    reference = group.create_array("spatial_ref", shape=(), dtype="int32", dimension_names=())
    reference.attrs.update({**crs.proj.to_cf(), **_georeference(lattice)})


def _georeference(lattice: GeoBox) -> dict[str, str]:
    """CRS and affine the way GDAL and rioxarray write them."""
    affine, crs = lattice.affine, lattice.crs
    assert crs is not None
    numbers = (affine.c, affine.a, affine.b, affine.f, affine.d, affine.e)
    return {"crs_wkt": crs.to_wkt(), "GeoTransform": " ".join(repr(float(number)) for number in numbers)}


def _lattice(georeference: Mapping[str, Any], shape: Sequence[int]) -> GeoBox:
    c, a, b, f, d, e = (float(text) for text in georeference["GeoTransform"].split())
    return GeoBox((shape[0], shape[1]), Affine(a, b, c, d, e, f), georeference["crs_wkt"])
