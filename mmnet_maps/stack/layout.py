"""An empty stack: its groups, arrays, attributes and coordinates."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from zarr.codecs import BloscCodec

from mmnet_maps.errors import OutputError
from mmnet_maps.sources.base import Provenance
from mmnet_maps.stack import checksums
from mmnet_maps.variables import FINE_GROUPS, FIRST_DAY, LAST_DAY, STATIC_GROUPS, VARIABLES

VERSION = 1
_DAYS = (LAST_DAY - FIRST_DAY).days + 1
_FINE_BLOCK, _COARSE_BLOCK = 256, 64

TILE = 1024
"""Side of a tile of the fine lattice, in cells: a shard of the fine arrays."""

_COMPRESSOR = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
"""Decodes more than twice as fast as zstd, in which stacks of 2026-11 and before are, for a fifth more bytes."""

_BLOCK_ARRAYS = {
    "fetched": "commit mark: 0 never fetched, 1 nothing there, else checksum of the block",
    "revision": "revision of the inputs that the block was read from: 0 unknown; odd where they are final",
}
"""The small arrays with one number for each block and day, and what they hold."""


def create(
    path: str | Path,
    target: GeoBox,
    groups: Mapping[str, tuple[GeoBox, Sequence[str]]],
    provenance: Mapping[str, Provenance],
) -> None:
    """Create an empty stack, whole or not at all.

    Parameters
    ----------
    path
        Folder of the new Zarr store.
    target
        The fine lattice, of which maps are windows.
    groups
        Lattice and variables of each group; fine groups lie on `target`.
    provenance
        Provenance of each variable.

    Raises
    ------
    OutputError
        The path exists already, or the folder cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise OutputError(f"{path} exists already; choose another --out or delete it")
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
                    "target": {**georeference(target), "shape": list(target.shape)},
                    "provenance": {name: asdict(entry) for name, entry in sorted(provenance.items())},
                }
            )
            for name, (lattice, variables) in groups.items():
                _create_group(root, name, lattice, variables)
            _consolidate(scratch)
            scratch.chmod(0o755)
            os.rename(scratch, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot create the stack {path} ({error.strerror}); choose a writable --out") from error


def _create_group(root: zarr.Group, name: str, lattice: GeoBox, variables: Sequence[str]) -> None:
    kind = VARIABLES[variables[0]].group
    fine, temporal = kind in FINE_GROUPS, kind not in STATIC_GROUPS
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
            shards=(*day, TILE, TILE) if fine else None,
            dtype=spec.dtype,
            fill_value=spec.nodata,
            compressors=_COMPRESSOR,
            dimension_names=(*names, "y", "x"),
            attributes=_attributes(variable),
        )
    for array in _BLOCK_ARRAYS:
        _create_block_array(group, array, variables[0])
    blocks = group["fetched"].shape[-2:]  # type: ignore[union-attr]
    group.create_array(
        checksums.NAME,
        shape=(*lead, len(variables), *blocks),
        chunks=(*day, len(variables), *blocks),
        dtype="uint32",
        fill_value=0,
        dimension_names=(*names, "block_variable", "block_y", "block_x"),
        attributes={"long_name": "checksum of a block of each variable, 0 never fetched", "of": sorted(variables)},
    )
    _create_coordinates(group, lattice, temporal)


def _create_block_array(group: zarr.Group, name: str, variable: str) -> None:
    """Create one of the small arrays of a group that has the variable already."""
    *time, height, width = group[variable].shape  # type: ignore[union-attr]
    block = int(str(group.attrs["block"]))
    blocks = (-(-height // block), -(-width // block))
    group.create_array(
        name,
        shape=(*time, *blocks),
        chunks=(*(1 for _ in time), *blocks),
        dtype="uint32",
        fill_value=0,
        dimension_names=(*("time" for _ in time), "block_y", "block_x"),
        attributes={"long_name": _BLOCK_ARRAYS[name]},
    )


def complete(path: Path) -> None:
    """Add the small arrays that older software did not make; the caller holds the writer lock.

    Readers see an array once it is in the consolidated metadata of the root, which are written last.
    """
    root = zarr.open_group(path, mode="r+", zarr_format=3, use_consolidated=False)
    seen = zarr.open_group(path, mode="r", zarr_format=3)
    missing = [(key, name) for key, group in seen.groups() for name in _BLOCK_ARRAYS if name not in group.array_keys()]
    for key, name in missing:
        group = root[key]
        assert isinstance(group, zarr.Group)
        if name not in group.array_keys():
            _create_block_array(group, name, next(one for one in group.array_keys() if one in VARIABLES))
    if missing:
        _consolidate(path)


def _consolidate(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(path)


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
                "units": f"days since {FIRST_DAY}",
                "calendar": "proleptic_gregorian",
                "axis": "T",
            },
        )
        time[:] = np.arange(_DAYS, dtype=np.int32)
    reference = group.create_array("spatial_ref", shape=(), dtype="int32", dimension_names=())
    reference.attrs.update({**crs.proj.to_cf(), **georeference(lattice)})


def georeference(lattice: GeoBox) -> dict[str, str]:
    """Return CRS and affine as GDAL and rioxarray write them."""
    affine, crs = lattice.affine, lattice.crs
    assert crs is not None
    numbers = (affine.c, affine.a, affine.b, affine.f, affine.d, affine.e)
    return {"crs_wkt": crs.to_wkt(), "GeoTransform": " ".join(repr(float(number)) for number in numbers)}


def lattice_from(attributes: Mapping[str, Any], shape: Sequence[int]) -> GeoBox:
    """Return the lattice that `georeference` describes."""
    c, a, b, f, d, e = (float(text) for text in attributes["GeoTransform"].split())
    if not attributes["crs_wkt"] or not np.isfinite((a, b, c, d, e, f)).all() or not a * e:
        raise ValueError("the grid has no CRS or no extent")
    height, width = (int(size) for size in shape)
    return GeoBox((height, width), Affine(a, b, c, d, e, f), attributes["crs_wkt"])
