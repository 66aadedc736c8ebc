"""One day of one area on disk: COGs, members, a picture and a STAC item, whole or not at all.

Everything is made in a hidden folder beside the final names, read back, and only then moved into place. The STAC item
is moved last and is the mark of completion: while files are exchanged there is no item, so what an item points to is
always one set. If the exchange is interrupted, the earlier files are put back; if the process is killed in those
milliseconds, the day has no item and counts as not made.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from glob import escape
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import OutputError
from mmnet_maps.files import (
    DRIVER_ERRORS,
    LOCK,
    MARK,
    claim,
    is_ours,
    nearest_existing,
    read_attributes,
    read_tags,
    refuse_foreign,
    remove_leftovers,
    sync,
    write_errors,
    write_whole,
)
from mmnet_maps.product.cog import CogWriter
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.member_store import MembersWriter
from mmnet_maps.product.stac_item import (
    MEMBERS,
    PICTURE,
    build_item,
    fingerprint_of,
    lists_members,
    read_item,
    sizes_of,
    version_of,
)

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


@dataclass(frozen=True, kw_only=True)
class DayProduct:
    """The finished files of one day.

    Attributes
    ----------
    day, folder
        The day and the folder that holds its files.
    layers
        Layer name to COG.
    item
        The STAC item.
    picture
        The picture, where one was asked for.
    members
        The Zarr store of the ensemble's members, where they were asked for.
    """

    day: date
    folder: Path
    layers: dict[str, Path]
    item: Path
    picture: Path | None
    members: Path | None = None


def check_target(
    out: Path, name: str, day: date, synthetic: bool, layers: Sequence[str], *, members: bool = False
) -> None:
    """Make sure, before anything is computed, that the files of a day can be written; creates nothing.

    `members` tells whether a store of members is among them.

    Raises
    ------
    OutputError
        When the folder cannot be written, or a file with one of the names is there that this software did not make.
    """
    names = _Names.of(out, name, day, synthetic)
    with write_errors(names.folder, "nothing was computed"):
        there = nearest_existing(names.folder)
        if not there.is_dir():
            raise OutputError(f"cannot write to {names.folder}: {there} is a file, not a folder; give another --out")
        with tempfile.TemporaryFile(dir=there):
            pass
        targets = [*(names.layer(layer) for layer in layers), names.item, names.picture]
        for path in [*targets, names.members] if members else targets:
            refuse_foreign(path)


def completed(out: Path, name: str, day: date, synthetic: bool, fingerprint: str) -> DayProduct | None:
    """Find the finished product of a day.

    It is finished when its item carries `fingerprint` and every file that the item lists is there with the listed
    size and, if it is a COG, the same fingerprint. Of the members, a folder, the fingerprint alone is compared.

    Returns
    -------
    DayProduct or None
        None where the day is still to be made, or to be made again.
    """
    names = _Names.of(out, name, day, synthetic)
    try:
        item = read_item(names.item)
        sizes = sizes_of(item)
        if fingerprint_of(item) != fingerprint or not sizes:
            return None
        layers = {key: names.layer(key) for key in sizes if key != PICTURE}
        files = {**layers, PICTURE: names.picture}
        members = lists_members(item)
        whole = (
            all(files[key].stat().st_size == size for key, size in sizes.items())
            and all(read_tags(path).get(MARK) == fingerprint for path in layers.values())
            and (not members or read_attributes(names.members).get(MARK) == fingerprint)
        )
    except DRIVER_ERRORS:
        return None
    return names.product(layers, picture=PICTURE in sizes, members=members) if whole else None


def remove_day_leftovers(out: Path, name: str, day: date, synthetic: bool) -> None:
    """Remove what killed processes have left hidden beside the finished product of a day."""
    names = _Names.of(out, name, day, synthetic)
    remove_leftovers(names.folder, names.leftovers)
    with suppress(OSError):
        names.aside.unlink(missing_ok=True)


class DayWriter:
    """Write one day of one area window by window; a context manager.

    Only the windows at hand are in memory. Leaving the block without `finish`, by an error or Ctrl-C, removes all that
    was written and leaves an earlier product of the day as it was. Not for several threads at once.

    Parameters
    ----------
    out
        Output root; the day's folder in it is made.
    name, day, synthetic
        What the file names are made of.
    geobox
        The grid, north up.
    layers
        Names from ``layers.LAYERS``.
    tags
        GeoTIFF tags of every layer, and attributes of the members.
    properties
        Properties of the STAC item.
    fingerprint
        Hash of all that decides the values; `completed` compares it.
    members
        Number of members that are kept; 0 for no store of members.

    Raises
    ------
    OutputError
        On entering, when the target is not fit (`check_target`) or there is clearly too little space; later, when
        the files cannot be written or do not read back as they were written.
    """

    def __init__(
        self,
        out: Path,
        *,
        name: str,
        day: date,
        geobox: GeoBox,
        layers: Sequence[str],
        synthetic: bool,
        tags: Mapping[str, str],
        properties: Mapping[str, Any],
        fingerprint: str,
        members: int = 0,
    ) -> None:
        self._names = _Names.of(out, name, day, synthetic)
        self._check = partial(check_target, out, name, day, synthetic, tuple(layers), members=members > 0)
        self._geobox = geobox
        self._layers = tuple(layers)
        self._tags = {**tags, MARK: fingerprint}
        self._properties = dict(properties)
        self.fingerprint = fingerprint
        self._count = members
        self._writers: dict[str, CogWriter] = {}
        self._members: MembersWriter | None = None
        self._work: Path | None = None
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> DayWriter:
        self._check()
        with self._write_errors():
            self._names.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self._names.folder, self._names.leftovers)
            self._check_space()
            try:
                while self._lock is None:  # another process may take a new folder for one that was left
                    self._work = work = Path(
                        tempfile.mkdtemp(prefix=f".{self._names.stem}.", suffix=".partial", dir=self._names.folder)
                    )
                    self._lock = claim(work / LOCK)
                for layer in self._layers:
                    path = work / self._names.layer(layer).name
                    self._writers[layer] = CogWriter(path, layer=LAYERS[layer], geobox=self._geobox, tags=self._tags)
                if self._count:
                    path = work / self._names.members.name
                    self._members = MembersWriter(path, count=self._count, geobox=self._geobox, tags=self._tags)
            except BaseException:
                self._remove()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def write(
        self,
        rows: slice,
        cols: slice,
        values: Mapping[str, NDArray[np.uint16]],
        members: NDArray[np.float32] | None = None,
    ) -> None:
        """Write one window of every layer, and of the members where they are kept.

        Parameters
        ----------
        rows, cols
            The window; the windows of a day do not overlap. Pixels in none are nodata, with quality bit 0.
        values
            Per layer the packed values (rows, cols), uint16.
        members
            (member, rows, cols), NaN where there is none.
        """
        assert set(values) == set(self._layers), (list(values), self._layers)
        assert (0 if members is None else len(members)) == self._count, "members are written when and only when kept"
        with self._write_errors():
            for layer, block in values.items():
                self._writers[layer].write(rows, cols, block)
            if self._members is not None and members is not None:
                self._members.write(rows, cols, members)

    def finish(self, picture: Callable[[dict[str, Path], Path], None] | None) -> DayProduct:
        """Make the COGs, the picture and the item, read all back and move it into place.

        Parameters
        ----------
        picture
            Called with the COGs by layer and the PNG to write; None for no picture.
        """
        assert self._work is not None, "a DayWriter is used in a with block"
        names = self._names
        layers = {layer: self._work / names.layer(layer).name for layer in self._layers}
        files = dict(layers)
        with self._write_errors():
            for layer in self._layers:
                self._writers[layer].finish()
            if self._members is not None:
                self._members.finish()
                files[MEMBERS] = self._members.path
            if picture is not None:
                files[PICTURE] = self._work / names.picture.name
                picture(dict(layers), files[PICTURE])
                assert is_ours(files[PICTURE]), "the picture function writes a PNG that names mmnet_maps"
            item = build_item(
                names.stem,
                day=names.day,
                geobox=self._geobox,
                files=files,
                version=1
                + max((version_of(read_item(at)) for at in (names.item, names.aside) if at.exists()), default=0),
                fingerprint=self.fingerprint,
                properties=self._properties,
            )
            write_whole(self._work / names.item.name, json.dumps(item, indent=2, ensure_ascii=False) + "\n")
            self._check()
            self._publish(tuple(files.values()), self._work)
        self._remove()
        return names.product(
            {layer: names.layer(layer) for layer in layers}, picture=picture is not None, members=self._count > 0
        )

    def _write_errors(self) -> AbstractContextManager[None]:
        kept = "the earlier product of that day is unchanged" if self._names.item.exists() else "nothing of it was kept"
        return write_errors(self._names.folder / self._names.stem, kept)

    def _check_space(self) -> None:
        folder = self._names.folder
        needed = (2 * len(self._layers) + 4 * self._count) * int(np.prod(self._geobox.shape))
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise OutputError(
                f"too little space in {folder}: {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB needed while "
                f"{self._names.day} is written; free some or give another --out"
            )

    def _publish(self, files: Sequence[Path], work: Path) -> None:
        """Exchange the old files for the new ones, the item last; on any error the old ones are put back."""
        names, old = self._names, work / "old"
        item = work / names.item.name
        for path in (*files, item):
            for part in (path, *path.rglob("*")):
                sync(part)
        old.mkdir()
        moves: list[tuple[Path, Path]] = []

        def move(source: Path, target: Path) -> None:
            moves.append((source, target))
            os.replace(source, target)

        try:
            if names.item.exists():
                move(names.item, names.aside)
            for path in self._old_files():
                move(path, old / path.name)
            for path in files:
                move(path, names.folder / path.name)
            move(item, names.item)
        except BaseException:
            for source, target in reversed(moves):
                if not source.exists():
                    os.replace(target, source)
            raise
        sync(names.folder)
        with suppress(OSError):
            names.aside.unlink(missing_ok=True)

    def _old_files(self) -> list[Path]:
        """Files of earlier issues of the day, also of layers that the new one does not have."""
        names = self._names
        listed = sizes_of(read_item(names.aside)) if names.aside.exists() else {}
        layers = dict.fromkeys((*self._layers, *(key for key in listed if key in LAYERS)))
        paths = (*(names.layer(layer) for layer in layers), names.picture, names.members)
        return [path for path in paths if path.exists() and is_ours(path)]

    def _remove(self) -> None:
        for writer in self._writers.values():
            with suppress(*DRIVER_ERRORS):
                writer.close()
        self._writers.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._work is not None:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work = None


@dataclass(frozen=True, kw_only=True)
class _Names:
    """The paths of one day of one area."""

    day: date
    folder: Path
    stem: str

    @classmethod
    def of(cls, out: Path, name: str, day: date, synthetic: bool) -> _Names:
        """Names of a day.

        >>> _Names.of(Path("maps"), "h06v03", date(2021, 8, 8), True).item.as_posix()
        'maps/20210808/h06v03_20210808_synthetic.json'
        """
        if not name or name.startswith(".") or any(sign in name for sign in "/\\\0"):
            raise OutputError(
                f"{name!r} cannot be part of a file name: expected letters, digits, - and _; rename the area's file"
            )
        stem = f"{name}_{day:%Y%m%d}{'_synthetic' if synthetic else ''}"
        return cls(day=day, folder=out / f"{day:%Y%m%d}", stem=stem)

    def layer(self, layer: str) -> Path:
        return self.folder / f"{self.stem}_{layer}.tif"

    @property
    def item(self) -> Path:
        return self.folder / f"{self.stem}.json"

    @property
    def picture(self) -> Path:
        return self.folder / f"{self.stem}.png"

    @property
    def members(self) -> Path:
        return self.folder / f"{self.stem}_members.zarr"

    @property
    def leftovers(self) -> str:
        """Pattern of the hidden work folders."""
        return f".{escape(self.stem)}.*.partial"

    @property
    def aside(self) -> Path:
        """Where the old item lies during an exchange, so that its version is known even if the process is killed."""
        return self.folder / f".{self.stem}.previous.json"

    def product(self, layers: dict[str, Path], *, picture: bool, members: bool) -> DayProduct:
        return DayProduct(
            day=self.day,
            folder=self.folder,
            layers=layers,
            item=self.item,
            picture=self.picture if picture else None,
            members=self.members if members else None,
        )
