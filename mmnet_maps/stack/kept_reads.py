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
from mmnet_maps.sources.base import Source
from mmnet_maps.sources.ranges import OutOfRange
from mmnet_maps.stack.fetch import assign_needed, read_values
from mmnet_maps.stack.needs import Needs
from mmnet_maps.stack.pixel_stack import Packed
from mmnet_maps.stack.plan import Request
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

    def path(self, read: Request) -> Path:
        """Return the file of a read."""
        lattice = read.group.lattice
        days = [day.isoformat() for day in read.days]
        text = f"{self._origin}\n{read.group.name} {lattice.affine} {lattice.crs} {read.window} {days}"
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.npz"

    def ensure(self, item: tuple[Request, str]) -> None:
        """Carry out a read for a point unless it was kept."""
        read, name = item
        path = self.path(read)
        try:
            self._load(path)
        except _BROKEN:
            try:
                found = read_values(read, self._chosen, self.ranges)
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
            content, packed = io.BytesIO(), dict[str, Any](self._packed(read, found))
            np.savez_compressed(content, **packed)
            with write_errors(path, "finished reads are kept"):
                replace_file(path, content.getvalue())

    def _packed(self, read: Request, found: Sequence[Mapping[str, NDArray[Any]]]) -> Packed:
        """Pack the values of a read, (day, y, x) of each needed variable."""
        shape = len(read.days), *(part.stop - part.start for part in read.window)
        packed: Packed = {}
        for spec in (VARIABLES[name] for name in read.group.variables if name in self.needs.variables):
            packed[spec.name] = np.full(shape, spec.nodata, spec.dtype)
            for k, values in enumerate(found):
                if spec.name in values:
                    packed[spec.name][k] = spec.pack(values[spec.name])
        return packed

    def load(self, read: Request) -> Packed:
        """Return the values of a finished read."""
        return self._load(self.path(read))

    @staticmethod
    def _load(path: Path) -> Packed:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
