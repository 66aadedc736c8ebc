"""Finished reads of points, kept as files until all are done, so that an interrupted command continues."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZlibError  # noqa: N812

import numpy as np
from numpy.typing import NDArray

from mmnet_maps import __version__
from mmnet_maps.errors import InputError
from mmnet_maps.files import replace_file, write_errors
from mmnet_maps.grid.lattice import Window
from mmnet_maps.sources.base import Source, SourceDownError
from mmnet_maps.sources.ranges import OutOfRange
from mmnet_maps.stack.fetch import assign_needed, read_values
from mmnet_maps.stack.needs import Needs
from mmnet_maps.stack.pixel_stack import Packed
from mmnet_maps.stack.point_plan import PointRead
from mmnet_maps.variables import VARIABLES

_BROKEN = (OSError, ValueError, KeyError, EOFError, BadZipFile, ZlibError)


@dataclass
class KeptReads:
    """Finished reads as files: packed values of the needed variables, one file each, named by all that decides them."""

    folder: Path
    sources: Sequence[Source]
    needs: Needs
    ranges: OutOfRange = field(default_factory=OutOfRange)

    def __post_init__(self) -> None:
        self._chosen = assign_needed(self.sources, self.needs)
        origin = [f"{source.name} {getattr(source, 'state', '')}" for source in self.sources]
        provenance = {name: source.variables()[name] for name, source in self._chosen.items()}
        self._origin = f"{__version__} {origin} {provenance} {self.needs.variables}"

    def path(self, read: PointRead) -> Path:
        """Return the file of a read."""
        group = read.request.group
        days = [day.isoformat() for day in read.request.days]
        text = f"{self._origin}\n{group.name} {group.lattice.affine} {group.lattice.crs} {read.request.window} {days}"
        return self.folder / f"{hashlib.sha256(f'{text} {read.windows}'.encode()).hexdigest()}.npz"

    def ensure(self, item: tuple[PointRead, str]) -> None:
        """Carry out a read for a point unless it was kept."""
        read, name = item
        path = self.path(read)
        try:
            with np.load(path, allow_pickle=False) as file:
                dict(file)
        except _BROKEN:
            try:
                found = read_values(read.request, self._chosen, self.ranges)
            except InputError as error:
                kind = SourceDownError if isinstance(error, SourceDownError) else InputError
                raise kind(f"{name}: {error}") from error
            content, packed = io.BytesIO(), dict[str, Any](self._packed(read, found))
            np.savez_compressed(content, **packed)
            with write_errors(path, "finished reads are kept"):
                replace_file(path, content.getvalue())

    def _packed(self, read: PointRead, found: Sequence[Mapping[str, NDArray[Any]]]) -> Packed:
        """Pack the values of a read in the windows of its points, (day, y, x) of each needed variable."""
        group, (top, left) = read.request.group, (part.start for part in read.request.window)
        packed: Packed = {}
        for number, (rows, cols) in enumerate(read.windows):
            inside = slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left)
            shape = len(read.request.days), rows.stop - rows.start, cols.stop - cols.start
            for spec in (VARIABLES[name] for name in group.variables if name in self.needs.variables):
                own = packed[f"{number} {spec.name}"] = np.full(shape, spec.nodata, spec.dtype)
                for k, values in enumerate(found):
                    if spec.name in values:
                        own[k] = spec.pack(values[spec.name][inside])
        return packed

    def load(self, read: PointRead, window: Window) -> Packed:
        """Return the values of a finished read in the window of a point."""
        number = read.windows.index(window)
        names = [name for name in read.request.group.variables if name in self.needs.variables]
        with np.load(self.path(read), allow_pickle=False) as file:
            return {name: file[f"{number} {name}"] for name in names}
