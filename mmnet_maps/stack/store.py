"""The stack: native rasters of one area in one Zarr store, each product on its own grid, with a commit mark per block.

Layout: one Zarr group per source grid, arrays (time, y, x), packed integers whose nodata is the fill value. The time
axis is fixed (daily, `FIRST_DAY` to `LAST_DAY`) and the fine arrays span the whole tile lattice, so that days and areas
can be added in any order; chunks that were never written take no space. ``fetched`` (time, block_y, block_x) holds the
commit marks: 0 never fetched, 1 fetched and found empty, else a checksum of the block's data. It is written last.
``revision`` of the same shape says which state of the inputs a block was read from (`sources.base.Revision`).
Whoever reads a block verifies it against its own checksum (`checksums`), once a run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.files import fast_zarr, file_lock
from mmnet_maps.grid.lattice import Window
from mmnet_maps.sources.base import Rasters
from mmnet_maps.stack import checksums
from mmnet_maps.stack.blocks import Group, Place, day_index, hide_blocks
from mmnet_maps.stack.chunks import Chunks
from mmnet_maps.stack.kept_blocks import KeptBlocks
from mmnet_maps.stack.kept_days import KeptDays
from mmnet_maps.stack.layout import VERSION
from mmnet_maps.stack.metadata import BROKEN, read_groups, read_root
from mmnet_maps.stack.verified import DAMAGE, VerifiedValues
from mmnet_maps.variables import VARIABLES

if TYPE_CHECKING:
    from filelock import FileLock

_BLOCK_BY_BLOCK = b"blocks without a mark are not read"
"""Part of a fingerprint where some blocks of a day have a mark: software of 2026-11 and before read the others too."""


class DamagedError(InputError):
    """Part of a stack is damaged; `lost` names the array of which a file cannot be decoded, if that is the fault."""

    def __init__(self, message: str, lost: str | None = None) -> None:
        super().__init__(message)
        self.lost = lost


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
            if os.path.lexists(self.path):
                raise InputError(f"no stack at {self.path}, which is something else; give another path") from error
            raise InputError(f"no stack at {self.path}; build one with: mmnet stack --out {self.path} …") from error
        except (*BROKEN, OSError) as error:
            raise InputError(
                f"{self.path} is not a readable stack ({_short(error)}); delete it and build it again"
            ) from error
        found = self._root.attrs.get("mmnet_stack_version")
        if found != VERSION:
            raise InputError(
                f"{self.path} is not a stack of version {VERSION} (mmnet_stack_version is {_short(repr(found))}); "
                "build it again"
            )
        try:
            self.groups = read_groups(self._root)
            self.provenance, self.target = read_root(self._root.attrs, self.groups)
        except BROKEN as error:
            raise InputError(f"{self.path} is a damaged stack ({_short(error)}); build it again") from error
        self._where = {v: group.name for group in self.groups.values() for v in group.variables}
        self._arrays: dict[str, Any] = {}
        self._days: dict[str, KeptDays] = {}
        self._chunks: dict[str, Chunks] = {}
        self._values = VerifiedValues(self._chunks_of, self._is_valued, self._damaged)
        self.kept_blocks = KeptBlocks(self.read_block)
        self._reader = nullcontext if writable else fast_zarr

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
            try:
                with self._reader():
                    self._arrays[name] = self._root[name]
            except BROKEN as error:
                raise InputError(f"{self.path} is a damaged stack ({name}: {_short(error)}); build it again") from error
        return self._arrays[name]

    def marks(self, group: Group, window: Window, days: Sequence[date]) -> NDArray[np.uint32]:
        """Read the commit marks of the blocks in a window, (day, block_y, block_x); without a time axis one entry."""
        return self._of_blocks("fetched", group, window, days)

    def revisions(self, group: Group, window: Window, days: Sequence[date]) -> NDArray[np.uint32]:
        """Read the revisions that blocks were read from, as `marks`; 0 where unknown."""
        if "revision" not in self._root[group.name]:  # a stack of older software
            return np.zeros_like(self.marks(group, window, days))
        return self._of_blocks("revision", group, window, days)

    def _of_blocks(self, name: str, group: Group, window: Window, days: Sequence[date]) -> NDArray[np.uint32]:
        where, blocks = f"{group.name}/{name}", group.blocks(window)
        try:
            chunks = self._chunks_of(group, name)
            parts: Sequence[NDArray[np.integer] | None]
            if not group.temporal:
                parts = [chunks.read(0, 0)]
            else:
                kept = self._days.setdefault(where, KeptDays(chunks, self.path / where))
                parts = kept.read([day_index(day) for day in days])
        except DAMAGE as error:
            raise self._damaged(where, error, lost=name) from error
        found = np.zeros((len(parts), *(part.stop - part.start for part in blocks)), np.uint32)
        for out, part in zip(found, parts, strict=True):
            if part is not None:
                out[...] = part[blocks]
        return found

    def _damaged(self, where: str, why: object, lost: str | None = None) -> DamagedError:
        return DamagedError(
            f"the stack {self.path} is damaged in {where} ({_short(why)}); repair it with: "
            f"mmnet stack --aoi … --start … --source … --out {self.path}",
            lost,
        )

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
        group = self.group_of(variable)
        values: NDArray[np.integer] = self._values.window(group, variable, window, [day if group.temporal else None])[0]
        return values

    def read_packed_days(self, variable: str, window: Window, first: date, last: date) -> NDArray[np.integer]:
        """Read the integers of all days from first to last, (day, y, x), as stored, whatever the marks say."""
        days = [first + timedelta(days=k) for k in range((last - first).days + 1)]
        return self._values.window(self.group_of(variable), variable, window, days)

    def read_block(self, variable: str, place: Place, day: date | None) -> NDArray[np.integer] | None:
        """Read the integers of one block as stored, not to be changed; None where nothing is stored."""
        return self._values.block(self.group_of(variable), variable, place, day)

    def _chunks_of(self, group: Group, name: str) -> Chunks:
        where = f"{group.name}/{name}"
        if where not in self._chunks:
            try:
                self._chunks[where] = Chunks(self._array(where), self.path / where, temporal=group.temporal)
            except ValueError as error:
                raise InputError(
                    f"{self.path} is a damaged stack ({where}: {_short(error)}); build it again"
                ) from error
        return self._chunks[where]

    def _is_valued(self, group: Group, place: Place, day: date | None) -> bool:
        """Find whether a block is marked as valued."""
        return bool(self.marks(group, group.cells_of(place), [day] if day else [])[0, 0, 0] > 1)

    def write(self, name: str, window: Window, day: date, rasters: Rasters, revision: int = 0) -> None:
        """Write all variables of a group in a window of whole blocks, then their checksums, then the marks.

        Blocks that hold other data lose their marks first, so that a killed write leaves none that is half new.

        Parameters
        ----------
        name
            Group name.
        window
            Whole blocks (see `Group.whole_blocks`).
        day
            The day; ignored for a group without a time axis.
        rasters
            Physical values (y, x) per variable; absent variables have no values on that day.
        revision
            Revision of the inputs (`sources.base.Revision.number`); 0 where there is none.

        Raises
        ------
        DamagedError
            A file that holds the blocks beside others cannot be decoded.
        """
        group = self.groups[name]
        packed = {variable: VARIABLES[variable].pack(values) for variable, values in sorted(rasters.items())}
        fetched, where = self._array(f"{name}/fetched"), self._index(group, group.blocks(window), day)
        before = np.asarray(fetched[where])
        marks = self._new_marks(group, window, day, packed, before)
        if not np.array_equal(before, marks):
            if before.any():
                fetched[where] = np.where(before == marks, before, 0)
            for variable in group.variables if packed else ():
                self._store(group, variable, window, day, packed.get(variable, VARIABLES[variable].nodata))
            self._record_checksums(group, window, day, packed)
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

    def _store(
        self, group: Group, variable: str, window: Window, day: date, values: NDArray[np.integer] | float
    ) -> None:
        """Write the integers of a variable; `DamagedError` where a file holds other blocks and cannot be decoded."""
        try:
            self._array(f"{group.name}/{variable}")[self._index(group, window, day)] = values
        except OSError:  # no space, or no access
            raise
        except DAMAGE as error:
            when = f" on {day}" if group.temporal else ""
            raise self._damaged(f"{group.name}/{variable}{when}", error, lost=variable) from error

    def _new_marks(
        self,
        group: Group,
        window: Window,
        day: date,
        packed: Mapping[str, NDArray[np.integer]],
        before: NDArray[np.uint32],
    ) -> NDArray[np.uint32]:
        """Return the marks of the blocks of a window: 1, or a checksum of all variables with a value.

        That checksum does not depend on the variables' names. A block that holds the same numbers of another variable
        gets one that does; a block that holds the same data already keeps its mark.
        """
        marks = np.zeros(before.shape, np.uint32)
        names = np.zeros(before.shape, np.uint32)
        for variable, values in packed.items():
            for place, part in checksums.cut(values, group.block, (0, 0)):
                if (part != VARIABLES[variable].nodata).any():
                    marks[place] = zlib.crc32(np.ascontiguousarray(part).tobytes(), int(marks[place]))
                    names[place] = zlib.crc32(variable.encode(), int(names[place]))
        marks, named = np.maximum(marks, 1), np.maximum(marks ^ names, 2)
        alike = (before > 1) & ((before == marks) | (before == named))
        if not (group.verified and packed and alike.any()):
            return marks
        stored = self._values.checksums(group, day if group.temporal else None)[:, *group.blocks(window)]
        same = ((stored == self._sums(group, window, day, packed)) | (stored == 0)).all(axis=0)
        return np.where(alike, np.where(same, before, np.where(before == marks, named, marks)), marks)

    def _sums(
        self, group: Group, window: Window, day: date, packed: Mapping[str, NDArray[np.integer]]
    ) -> NDArray[np.uint32]:
        """Return the checksum of each variable in whole blocks, (variable, block_y, block_x)."""
        blocks = group.blocks(window)
        first, shape = (blocks[0].start, blocks[1].start), tuple(part.stop - part.start for part in window)
        sums = np.zeros((len(group.variables), *(part.stop - part.start for part in blocks)), np.uint32)
        for k, variable in enumerate(group.variables):
            spec = VARIABLES[variable]
            values = packed[variable] if variable in packed else np.full(shape, spec.nodata, spec.dtype)
            for place, part in checksums.cut(values, group.block, first):
                of = day if group.temporal else None
                sums[k, place[0] - first[0], place[1] - first[1]] = checksums.checksum(variable, of, place, part)
        return sums

    def _record_checksums(
        self, group: Group, window: Window, day: date, packed: Mapping[str, NDArray[np.integer]]
    ) -> None:
        """Write the checksum of each variable in whole blocks; without any value there is nothing to verify."""
        self._values.forget()
        if group.verified and packed:
            lead = (day_index(day),) if group.temporal else ()
            sums = self._sums(group, window, day, packed)
            self._array(f"{group.name}/{checksums.NAME}")[*lead, :, *group.blocks(window)] = sums

    def clear_marks(self, group: Group, window: Window, day: date) -> None:
        """Remove the marks of blocks, so that their data are not used; they count as never fetched."""
        self._values.forget()
        if self.marks(group, window, [day]).any():
            self._array(f"{group.name}/fetched")[self._index(group, group.blocks(window), day)] = 0

    def discard(self, group: Group, name: str, window: Window, day: date) -> None:
        """Remove the file of an array that holds a block, with the marks of all blocks whose data it holds."""
        on = (day_index(day),) if group.temporal else ()
        if name not in group.variables:  # a file of marks or checksums holds all blocks of the day
            for one in ("fetched", "revision", checksums.NAME):
                shutil.rmtree(self.path.joinpath(group.name, one, "c", *map(str, on)), ignore_errors=True)
            self._values.forget()
            return
        array = self._array(f"{group.name}/{name}")
        size = (array.shards or array.chunks)[-2:]
        place = tuple(part.start // step for part, step in zip(window, size, strict=True))
        rows, cols = (slice(k * step, (k + 1) * step) for k, step in zip(place, size, strict=True))
        self.clear_marks(group, (rows, cols), day)
        (self.path / group.name / name / array.metadata.encode_chunk_key((*on, *place))).unlink(missing_ok=True)

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


def _short(why: object) -> str:
    """Shorten a reason: libraries quote all metadata."""
    text = " ".join(str(why).split()) or type(why).__name__
    return text if len(text) <= 90 else f"{text[:90]} …"


def lock(path: str | Path) -> FileLock:
    """Return the lock that a writer of the store at `path` holds: one writer at a time; errors as `files.file_lock`."""
    path = Path(path)
    return file_lock(path.with_name(f".{path.name}.lock"))
