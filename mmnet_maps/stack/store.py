"""The stack: native rasters of one area in one Zarr store, each product on its own grid, with a commit mark per block.

Layout: one Zarr group per source grid, arrays (time, y, x), packed integers whose nodata is the fill value. The time
axis is fixed (daily, `FIRST_DAY` to `LAST_DAY`) and the fine arrays span the whole tile lattice, so that days and areas
can be added in any order; chunks that were never written take no space. ``fetched`` (time, block_y, block_x) holds the
commit marks: 0 never fetched, 1 fetched and found empty, else a checksum of the block's data. It is written last.
``revision`` of the same shape says which state of the inputs a block was read from (`sources.base.Revision`).
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from filelock import FileLock
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.files import fast_zarr
from mmnet_maps.grid.lattice import Window
from mmnet_maps.sources.base import Provenance, Rasters
from mmnet_maps.stack.layout import VERSION, lattice_from
from mmnet_maps.variables import FIRST_DAY, LAST_DAY, VARIABLES

_DAMAGE = (ValueError, RuntimeError, OSError, zlib.error)  # raised by zarr and its codecs on broken chunks
_BLOCK_BY_BLOCK = b"blocks without a mark are not read"
"""Part of a fingerprint where some blocks of a day have a mark: software of 2026-11 and before read the others too."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group of a stack: its lattice, block size in cells, and variables."""

    name: str
    lattice: GeoBox
    block: int
    variables: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Usual group of its variables (see `variables`); not `name` where a product has a grid of its own."""
        return VARIABLES[self.variables[0]].group

    @property
    def temporal(self) -> bool:
        """True if the group has a time axis."""
        return self.kind != "static"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-self.lattice.shape.y // self.block), -(-self.lattice.shape.x // self.block)

    def blocks(self, window: Window) -> Window:
        """Return the blocks that a window of cells touches."""
        rows, cols = window
        return (
            slice(rows.start // self.block, -(-rows.stop // self.block)),
            slice(cols.start // self.block, -(-cols.stop // self.block)),
        )

    def whole_blocks(self, window: Window) -> Window:
        """Return the window rounded out to whole blocks, clipped to the lattice."""
        return self.cells(self.blocks(window))

    def cells(self, blocks: Window) -> Window:
        """Return the cells of a window of blocks, clipped to the lattice."""
        height, width = self.lattice.shape
        rows, cols = blocks
        return (
            slice(rows.start * self.block, min(rows.stop * self.block, height)),
            slice(cols.start * self.block, min(cols.stop * self.block, width)),
        )


def hide_blocks(group: Group, values: NDArray[Any], window: Window, valued: NDArray[np.bool_], missing: float) -> None:
    """Set cells of blocks that are not marked as valued to missing, in place.

    Parameters
    ----------
    group
        The group.
    values
        Values of `window` (y, x).
    window
        Cells of the group.
    valued
        For each block that the window touches, whether it holds a value by its mark.
    missing
        The value that means missing.
    """
    rows, cols = window
    top, left = (part.start for part in group.blocks(window))
    for i, j in np.add(np.argwhere(~valued), (top, left)):
        values[
            max(i * group.block - rows.start, 0) : (i + 1) * group.block - rows.start,
            max(j * group.block - cols.start, 0) : (j + 1) * group.block - cols.start,
        ] = missing


def day_index(day: date) -> int:
    """Return the position of a day on the time axis.

    Raises
    ------
    RequestError
        The day lies before or after the axis.
    """
    if not FIRST_DAY <= day <= LAST_DAY:
        raise RequestError(f"day {day} is off the stack's time axis, {FIRST_DAY} to {LAST_DAY}; choose a day within it")
    return (day - FIRST_DAY).days


class Stack:
    """An open stack, read-only unless opened with ``writable=True``.

    Parameters
    ----------
    path
        Folder of the Zarr store.
    writable
        Allow `write`; the caller holds the store's writer lock (`lock`).

    Raises
    ------
    InputError
        There is no stack at `path`, or one of another version.
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
        lattice = lattice_from(reference, group[variables[0]].shape[-2:])
        return Group(name=name, lattice=lattice, block=int(group.attrs["block"]), variables=variables)

    def _read_root(self) -> tuple[dict[str, Provenance], GeoBox]:
        """Return the provenance of each variable, and the fine lattice, of which maps are windows."""
        table: Mapping[str, Any] = self._root.attrs["provenance"]
        target = self._root.attrs["target"]
        return {name: Provenance(**fields) for name, fields in table.items()}, lattice_from(target, target["shape"])

    @property
    def sources(self) -> list[str]:
        """Names of the sources of the last complete fetch."""
        return list(self._root.attrs.get("sources", []))

    def record_sources(self, names: Sequence[str]) -> None:
        """Store the names of the sources of a complete fetch."""
        self._root.attrs["sources"] = list(names)

    def group_of(self, variable: str) -> Group:
        """Return the group that holds a variable.

        Raises
        ------
        InputError
            The stack has no such variable.
        """
        if variable not in self._where:
            raise InputError(
                f"the stack {self.path} has no {variable}; it holds {', '.join(sorted(self._where))}; "
                "build one from sources that have it"
            )
        return self.groups[self._where[variable]]

    def _array(self, name: str) -> Any:
        """Return an array by its path, opened once; a read-only stack uses a reader in Rust, twice as fast."""
        if name not in self._arrays:
            with self._reader():
                self._arrays[name] = self._root[name]
        return self._arrays[name]

    def marks(self, group: Group, window: Window, days: Sequence[date]) -> NDArray[np.uint32]:
        """Read the commit marks of the blocks in a window, (day, block_y, block_x); without a time axis one entry."""
        return self._of_blocks("fetched", group, window, days)

    def revisions(self, group: Group, window: Window, days: Sequence[date]) -> NDArray[np.uint32]:
        """Read the revisions that blocks were read from, as `marks`; 0 where unknown."""
        try:
            return self._of_blocks("revision", group, window, days)
        except KeyError:  # a stack of older software
            return np.zeros_like(self.marks(group, window, days))

    def _of_blocks(self, name: str, group: Group, window: Window, days: Sequence[date]) -> NDArray[np.uint32]:
        array = self._array(f"{group.name}/{name}")
        rows, cols = group.blocks(window)
        index = [day_index(day) for day in days]
        if group.temporal and not index:
            return np.zeros((0, rows.stop - rows.start, cols.stop - cols.start), np.uint32)
        try:
            if not group.temporal:
                return np.asarray(array[rows, cols])[None]
            span: NDArray[np.uint32] = np.asarray(array[min(index) : max(index) + 1, rows, cols])
        except _DAMAGE as error:
            raise self._damaged(f"{group.name}/{name}", error) from error
        found: NDArray[np.uint32] = span[np.array(index) - min(index)]
        return found

    def _damaged(self, where: str, error: Exception) -> InputError:
        return InputError(f"the stack {self.path} is damaged in {where} ({error}); delete the store and fetch it again")

    def read(self, variable: str, window: Window, day: date | None = None) -> NDArray[Any]:
        """Read one variable in a window of its group's lattice; only blocks that are marked as valued have values.

        Returns
        -------
        ndarray (y, x)
            float32 in the units of `variables`, NaN where missing or never fetched; land cover uint8, 0 where missing.

        Raises
        ------
        InputError
            A chunk of the store is damaged.
        """
        group, spec = self.group_of(variable), VARIABLES[variable]
        packed = self.read_packed(variable, window, day)
        hide_blocks(group, packed, window, self.marks(group, window, [day] if day else [])[0] > 1, spec.nodata)
        return spec.unpack(packed)

    def read_days(self, variable: str, window: Window, first: date, last: date) -> NDArray[np.float32]:
        """Read all days from first to last at once, (day, y, x), as `read` does."""
        group, spec = self.group_of(variable), VARIABLES[variable]
        packed = self.read_packed_days(variable, window, first, last)
        days = [first + timedelta(days=k) for k in range(len(packed))]
        for values, marks in zip(packed, self.marks(group, window, days), strict=True):
            hide_blocks(group, values, window, marks > 1, spec.nodata)
        return spec.unpack(packed)

    def read_packed(self, variable: str, window: Window, day: date | None = None) -> NDArray[np.integer]:
        """Read the integers of a variable as stored, whatever the marks say (see `read`)."""
        index = day_index(day) if self.group_of(variable).temporal and day else None
        return self._values(variable, window, index, f" on {day}" if day else "")

    def read_packed_days(self, variable: str, window: Window, first: date, last: date) -> NDArray[np.integer]:
        """Read the integers of all days from first to last, (day, y, x), as stored, whatever the marks say."""
        return self._values(variable, window, slice(day_index(first), day_index(last) + 1), f" on {first} to {last}")

    def _values(self, variable: str, window: Window, days: int | slice | None, when: str) -> NDArray[np.integer]:
        name = self.group_of(variable).name
        try:
            array = self._array(f"{name}/{variable}")
            return np.asarray(array[window] if days is None else array[days, *window])
        except _DAMAGE as error:
            raise self._damaged(f"{name}/{variable}{when}", error) from error

    def write(self, name: str, window: Window, day: date, rasters: Rasters, revision: int = 0) -> None:
        """Write all variables of a group in a window of whole blocks, then the marks.

        Blocks that hold other data lose their marks first, so that a killed write leaves none that is half new.

        Parameters
        ----------
        name
            Group name.
        window
            Whole blocks (see `Group.whole_blocks`).
        day
            The day; ignored for ``static``.
        rasters
            Physical values (y, x) per variable; absent variables have no values on that day.
        revision
            Revision of the inputs (`sources.base.Revision.number`); 0 where there is none.
        """
        group = self.groups[name]
        packed = {variable: VARIABLES[variable].pack(values) for variable, values in sorted(rasters.items())}
        marks = self._marks_of(group, window, packed)
        fetched, where = self._array(f"{name}/fetched"), self._index(group, group.blocks(window), day)
        before = np.asarray(fetched[where])
        if not np.array_equal(before, marks):
            if before.any():
                fetched[where] = np.where(before == marks, before, 0)
            for variable in group.variables if packed else ():
                self._array(f"{name}/{variable}")[self._index(group, window, day)] = packed.get(
                    variable, VARIABLES[variable].nodata
                )
        self.record_revision(name, window, day, revision)
        fetched[where] = marks

    def record_revision(self, name: str, window: Window, day: date, revision: int) -> None:
        """Record the revision of the inputs of whole blocks on a day."""
        group = self.groups[name]
        if revision:
            self._array(f"{name}/revision")[self._index(group, group.blocks(window), day)] = revision

    @staticmethod
    def _index(group: Group, window: Window, day: date) -> tuple[int | slice, ...]:
        return (day_index(day), *window) if group.temporal else window

    @staticmethod
    def _marks_of(group: Group, window: Window, packed: Mapping[str, NDArray[np.integer]]) -> NDArray[np.uint32]:
        """Return the marks of the blocks of a window: 1, or a checksum of all variables with a value."""
        checksums = np.zeros(tuple(part.stop - part.start for part in group.blocks(window)), np.uint32)
        for variable, values in packed.items():
            for i, j in np.ndindex(checksums.shape):
                part = values[i * group.block : (i + 1) * group.block, j * group.block : (j + 1) * group.block]
                if (part != VARIABLES[variable].nodata).any():
                    checksums[i, j] = zlib.crc32(np.ascontiguousarray(part).tobytes(), int(checksums[i, j]))
        return np.maximum(checksums, 1)

    def fingerprint(self, uses: Iterable[tuple[Group, Window, Sequence[date]]]) -> str:
        """Hash everything that a product reads: lattices, provenance and the marks of the blocks and days it uses."""
        digest = hashlib.sha256(json.dumps(self._root.attrs["provenance"], sort_keys=True).encode())
        for group, window, days in uses:
            digest.update(f"{group.name} {group.lattice.affine} {group.lattice.crs} {window} {list(days)}".encode())
            marks = self.marks(group, window, days)
            digest.update(marks.tobytes())
            if ((marks == 0).any(axis=(1, 2)) & (marks > 1).any(axis=(1, 2))).any():
                digest.update(_BLOCK_BY_BLOCK)
        return digest.hexdigest()


def lock(path: str | Path) -> FileLock:
    """Return the lock that a writer of the store at `path` holds: one writer at a time."""
    path = Path(path)
    return FileLock(path.with_name(f".{path.name}.lock"))
