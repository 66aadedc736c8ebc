"""One day of one area on disk: COGs, members, a picture and a STAC item, whole or not at all.

All files are made in a hidden staging folder beside the final names, read back, and only then moved into place. The
STAC item is moved last and is the mark of completion: while files are exchanged there is no item, so the files that an
item lists always belong together. An interrupted exchange is rolled back; if the process is killed in those
milliseconds, the day has no item and counts as unfinished.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import OutputError, bytes_text
from mmnet_maps.files import (
    DRIVER_ERRORS,
    MARK,
    is_ours,
    nearest_existing,
    read_attributes,
    read_json,
    read_tags,
    refuse_foreign,
    remove_leftovers,
    sidecars,
    staging_folder,
    sync,
    write_errors,
    write_whole,
)
from mmnet_maps.product.cog import CogWriter
from mmnet_maps.product.day_names import DayNames
from mmnet_maps.product.layers import DRAWN, LAYERS
from mmnet_maps.product.member_store import MembersWriter
from mmnet_maps.product.stac_item import (
    MEMBERS,
    PICTURE,
    build_item,
    fingerprint_of,
    lists_members,
    sizes_of,
    version_of,
)
from mmnet_maps.resources import cores

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One revision of a day's map: everything but its values.

    Attributes
    ----------
    name, day, synthetic
        Parts of the file names.
    geobox
        The grid, north up.
    layers
        Names from ``layers.LAYERS``.
    tags
        GeoTIFF tags of every layer, and attributes of the members.
    properties, links
        Properties of the STAC item, and its links to other than catalogues.
    fingerprint
        Hash of everything that determines the values; `completed` compares it.
    members
        Number of ensemble members to keep; 0 for no store of members.
    """

    name: str
    day: date
    synthetic: bool
    geobox: GeoBox
    layers: Sequence[str]
    tags: Mapping[str, str]
    properties: Mapping[str, Any]
    fingerprint: str
    members: int = 0
    links: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class DayProduct:
    """The finished files of one day.

    Attributes
    ----------
    day, folder
        The day and the folder that holds its files.
    layers, item
        Layer name to COG, and the STAC item.
    picture, members
        The picture and the Zarr store of the ensemble members, None where there is none.
    why_empty
        Why no pixel has a value, as the end of a sentence; None where one has.
    """

    day: date
    folder: Path
    layers: dict[str, Path]
    item: Path
    picture: Path | None
    members: Path | None = None
    why_empty: str | None = None

    @classmethod
    def of(cls, names: DayNames, layers: Sequence[str], *, picture: bool, members: bool) -> DayProduct:
        """Return the product with these layers under the names of its day."""
        return cls(
            day=names.day,
            folder=names.folder,
            layers={layer: names.layer(layer) for layer in layers},
            item=names.item,
            picture=names.picture if picture else None,
            members=names.members if members else None,
        )


def check_target(
    out: Path,
    name: str,
    day: date,
    synthetic: bool,
    layers: Sequence[str],
    *,
    members: bool = False,
    area: str | None = None,
) -> None:
    """Check, before anything is computed, that the files of a day can be written; nothing is created.

    Parameters
    ----------
    out
        Output root.
    name, day, synthetic, layers
        As in `Revision`.
    members
        Whether a store of ensemble members will be written.
    area
        Property ``mmnet:area`` of the item, see `refuse_other_area`.

    Raises
    ------
    OutputError
        When the folder cannot be written, a file of that name exists that this software did not make, or the existing
        map is of another area.
    """
    names = DayNames.of(out, name, day, synthetic)
    with write_errors(names.folder, "nothing was computed"):
        folder = nearest_existing(names.folder)
        if not folder.is_dir():
            raise OutputError(f"cannot write to {names.folder}: {folder} is a file, not a folder; give another --out")
        with tempfile.TemporaryFile(dir=folder):
            pass
        targets = [*(names.layer(layer) for layer in layers), names.item, names.picture]
        for path in [*targets, names.members] if members else targets:
            refuse_foreign(path)
    refuse_other_area(names.item, area)


def refuse_other_area(path: Path, area: str | None) -> None:
    """Refuse to replace the map of another area or grid that has the same name.

    Parameters
    ----------
    path
        The STAC item about to be written; it may be missing, or be from a version that did not state its area.
    area
        Its property ``mmnet:area``; None where it has none.

    Raises
    ------
    OutputError
        When the existing item states another area.
    """
    item = read_json(path) if path.is_file() else {}
    if fingerprint_of(item) is None or item["properties"].get("mmnet:area", area) == area:
        return
    corners = item.get("bbox")
    where = f" ({', '.join(f'{edge:.4f}' for edge in corners)})" if isinstance(corners, list) else ""
    raise OutputError(
        f"{path} is the map of another area or grid{where}, which would be replaced; give another --out, another "
        "name for the area's file, or delete that item"
    )


def completed(out: Path, name: str, day: date, synthetic: bool, fingerprint: str) -> DayProduct | None:
    """Find the finished product of a day.

    It is finished when its item carries `fingerprint` and every file listed in the item has the listed size and, for a
    COG, the same fingerprint. Of the members, a folder, only the fingerprint is compared.

    Parameters
    ----------
    out
        Output root.
    name, day, synthetic, fingerprint
        As in `Revision`.

    Returns
    -------
    DayProduct or None
        None where the day has yet to be made, or made again.
    """
    names = DayNames.of(out, name, day, synthetic)
    try:
        item = read_json(names.item)
        sizes = sizes_of(item)
        if fingerprint_of(item) != fingerprint or not sizes:
            return None
        layers = [key for key in sizes if key != PICTURE]
        product = DayProduct.of(names, layers, picture=PICTURE in sizes, members=lists_members(item))
        whole = (
            all(_file(names, key).stat().st_size == size for key, size in sizes.items())
            and all(read_tags(path).get(MARK) == fingerprint for path in product.layers.values())
            and (product.members is None or read_attributes(product.members).get(MARK) == fingerprint)
        )
    except DRIVER_ERRORS:
        return None
    return product if whole else None


def _file(names: DayNames, key: str) -> Path:
    """Return the final path of an asset of the item."""
    return {PICTURE: names.picture, MEMBERS: names.members}.get(key) or names.layer(key)


def remove_day_leftovers(out: Path, name: str, day: date, synthetic: bool) -> None:
    """Remove hidden files that killed processes left beside the finished product of a day."""
    names = DayNames.of(out, name, day, synthetic)
    remove_leftovers(names.folder, names.staging)
    with suppress(OSError):
        names.previous_item.unlink(missing_ok=True)


class DayWriter:
    """Write one day of one area window by window; a context manager.

    Only the current windows are in memory. Leaving the block without `finish`, by an error or Ctrl-C, removes
    everything that was written and keeps an earlier product of the day. Not for several threads at once.

    Parameters
    ----------
    out
        Output root; the day's folder is created in it.
    revision
        What is written, but for the values.

    Raises
    ------
    OutputError
        On entering, when `check_target` fails or there is clearly too little space; later, when the files cannot be
        written or do not read back as they were written.
    """

    def __init__(self, out: Path, revision: Revision) -> None:
        self.revision = revision
        self._out = out
        self._names = DayNames.of(out, revision.name, revision.day, revision.synthetic)
        self._writers: dict[str, CogWriter] = {}
        self._members: MembersWriter | None = None
        self._cleanup = ExitStack()

    def __enter__(self) -> DayWriter:
        self._check()
        names, revision = self._names, self.revision
        with self._write_errors(), ExitStack() as cleanup:
            names.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(names.folder, names.staging)
            self._check_space()
            self._staging = cleanup.enter_context(staging_folder(names.folder, names.stem))
            tags = {**revision.tags, MARK: revision.fingerprint}
            for layer in revision.layers:
                path = self._staged(names.layer(layer))
                self._writers[layer] = CogWriter(path, layer=LAYERS[layer], geobox=revision.geobox, tags=tags)
                cleanup.callback(self._writers[layer].discard)
            if revision.members:
                path = self._staged(names.members)
                self._members = MembersWriter(path, count=revision.members, geobox=revision.geobox, tags=tags)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def write(
        self,
        rows: slice,
        cols: slice,
        values: Mapping[str, NDArray[Any]],
        members: NDArray[np.float32] | None = None,
    ) -> None:
        """Write one window of every layer, and of the members if they are kept.

        Parameters
        ----------
        rows, cols
            The window; the windows of a day do not overlap. Pixels in no window are nodata, with quality bit 0.
        values
            Packed values of every layer (rows, cols).
        members
            (member, rows, cols), NaN where missing.
        """
        assert set(values) == set(self.revision.layers), (list(values), self.revision.layers)
        count = 0 if members is None else len(members)
        assert count == self.revision.members, "members are written when and only when kept"
        with self._write_errors():
            for layer, block in values.items():
                self._writers[layer].write(rows, cols, block)
            if self._members is not None and members is not None:
                self._members.write(rows, cols, members)

    def finish(self, picture: Callable[[dict[str, Path], Path], None] | None) -> DayProduct:
        """Make the COGs, the picture and the item, read them back and move them into place.

        Parameters
        ----------
        picture
            Called with the COGs of `layers.DRAWN`, while the others are finished, and the PNG to write; or None.
        """
        assert self._writers, "a DayWriter is used in a with block"
        names, revision = self._names, self.revision
        layers = {layer: self._staged(names.layer(layer)) for layer in revision.layers}
        files = dict(layers)
        with self._write_errors():
            with ThreadPoolExecutor(cores()) as pool:
                order = sorted(layers, key=lambda layer: layer not in DRAWN)
                finished = pool.map(lambda layer: self._writers[layer].finish(), order)
                if picture is not None:
                    files[PICTURE] = self._staged(names.picture)
                    drawn = zip(filter(DRAWN.__contains__, order), finished, strict=False)
                    picture({layer: layers[layer] for layer, _ in drawn}, files[PICTURE])
                    assert is_ours(files[PICTURE]), "the picture function writes a PNG that names mmnet_maps"
                list(finished)
            if self._members is not None:
                self._members.finish()
                files[MEMBERS] = self._members.path
            item = self._write_item(files)
            self._check()
            self._publish([*files.values(), item])
        self._cleanup.close()
        return DayProduct.of(names, revision.layers, picture=picture is not None, members=revision.members > 0)

    def _check(self) -> None:
        revision = self.revision
        check_target(
            self._out,
            revision.name,
            revision.day,
            revision.synthetic,
            revision.layers,
            members=revision.members > 0,
            area=revision.properties.get("mmnet:area"),
        )

    def _check_space(self) -> None:
        folder, revision = self._names.folder, self.revision
        needed = (2 * len(revision.layers) + 4 * revision.members) * int(np.prod(revision.geobox.shape))
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise OutputError(
                f"too little space in {folder}: {bytes_text(free)} free, {bytes_text(needed)} needed while "
                f"{revision.day} is written; free some or give another --out"
            )

    def _write_errors(self) -> AbstractContextManager[None]:
        kept = "the earlier product of that day is unchanged" if self._names.item.exists() else "nothing of it was kept"
        return write_errors(self._names.folder / self._names.stem, kept)

    def _staged(self, final: Path) -> Path:
        return self._staging / final.name

    def _write_item(self, files: Mapping[str, Path]) -> Path:
        """Write the STAC item of the staged files, with the version after the latest one."""
        names, revision = self._names, self.revision
        earlier = [version_of(read_json(path)) for path in (names.item, names.previous_item) if path.exists()]
        item = build_item(
            names.stem,
            day=names.day,
            geobox=revision.geobox,
            files=files,
            version=1 + max(earlier, default=0),
            fingerprint=revision.fingerprint,
            properties=revision.properties,
            links=revision.links,
        )
        path = self._staged(names.item)
        write_whole(path, json.dumps(item, indent=2, ensure_ascii=False) + "\n")
        return path

    def _publish(self, staged: Sequence[Path]) -> None:
        """Exchange the old files for the staged ones, the item last; on any error the old ones are moved back."""
        names, old = self._names, self._staging / "old"
        for path in staged:
            for part in (path, *path.rglob("*")):
                sync(part)
        old.mkdir()
        with reversible_moves() as move:
            if names.item.exists():
                move(names.item, names.previous_item)
            for path in self._old_files():
                move(path, old / path.name)
            for path in staged:
                move(path, names.folder / path.name)
        sync(names.folder)
        with suppress(OSError):
            names.previous_item.unlink(missing_ok=True)

    def _old_files(self) -> list[Path]:
        """Return the files of earlier revisions with their sidecars, and layers that the new one does not have."""
        names = self._names
        listed = sizes_of(read_json(names.previous_item)) if names.previous_item.exists() else {}
        layers = dict.fromkeys((*self.revision.layers, *(key for key in listed if key in LAYERS)))
        paths = (*(names.layer(layer) for layer in layers), names.picture, names.members)
        ours = [path for path in paths if not path.exists() or is_ours(path)]
        return [found for path in ours for found in (path, *sidecars(path)) if found.exists()]


@contextmanager
def reversible_moves() -> Iterator[Callable[[Path, Path], None]]:
    """Yield a function that renames a file; if the block fails, all its renames are undone, the last one first."""
    with ExitStack() as undo:

        def move(source: Path, target: Path) -> None:
            undo.callback(_move_back, source, target)
            os.replace(source, target)

        yield move
        undo.pop_all()


def _move_back(source: Path, target: Path) -> None:
    if not source.exists():
        os.replace(target, source)
