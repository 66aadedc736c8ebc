"""Read the metadata of a stack, and refuse those that no stack has; chunks are verified when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import zarr
from odc.geo.geobox import GeoBox

from mmnet_maps.sources.base import Provenance
from mmnet_maps.stack import checksums
from mmnet_maps.stack.blocks import Group
from mmnet_maps.stack.layout import lattice_from
from mmnet_maps.variables import FINE_GROUPS, FIRST_DAY, LAST_DAY, VARIABLES

BROKEN = (AttributeError, LookupError, TypeError, ValueError, RuntimeError, OverflowError)
"""Errors of zarr, PROJ and this module on metadata that are damaged."""


def read_groups(root: Any) -> dict[str, Group]:
    """Return the groups of a stack; any of `BROKEN` where arrays or attributes are not those of a stack."""
    names = sorted(root.group_keys())
    if not names:
        raise ValueError("it has no groups")
    return {name: _read_group(root[name], name) for name in names}


def _read_group(group: Any, name: str) -> Group:
    arrays: dict[str, zarr.Array[Any]] = dict(group.arrays())
    variables = tuple(sorted(key for key in arrays if key in VARIABLES))
    if not variables:
        raise ValueError(f"{name} has no variable")
    found = Group(
        name=name,
        lattice=lattice_from(arrays["spatial_ref"].attrs, arrays[variables[0]].shape[-2:]),
        block=int(group.attrs["block"]),
        variables=variables,
        verified=checksums.NAME in arrays,
    )
    for variable in variables:
        spec = VARIABLES[variable]
        _expect(arrays[variable], found, variable, (*found.lattice.shape,), spec.dtype, spec.nodata)
    for array, lead in (("fetched", ()), ("revision", ()), (checksums.NAME, (len(variables),))):
        if array == "fetched" or array in arrays:
            _expect(arrays[array], found, array, (*lead, *found.shape), "uint32", 0)
    if found.verified and tuple(arrays[checksums.NAME].attrs["of"]) != variables:  # type: ignore[arg-type]
        raise ValueError(f"{name}/{checksums.NAME} is of other variables")
    return found


def _expect(array: zarr.Array[Any], found: Group, name: str, shape: tuple[int, ...], dtype: str, nodata: int) -> None:
    """Raise ValueError if an array is not laid out as `layout` does it."""
    where = f"{found.name}/{name}"
    chunk = (found.block, found.block) if name in VARIABLES else shape
    days, lead = (LAST_DAY - FIRST_DAY).days + 1, int(found.temporal)
    if array.shape[lead:] != shape or (lead and array.shape[0] < days):
        raise ValueError(f"{where} has the shape {array.shape}, expected {(days,) * lead + shape}")
    if array.chunks != (1,) * lead + chunk:
        raise ValueError(f"{where} has chunks of {array.chunks}, expected {(1,) * lead + chunk}")
    if array.dtype != dtype or array.fill_value != nodata:
        raise ValueError(f"{where} holds {array.dtype} filled with {array.fill_value}, expected {dtype}, {nodata}")


def read_root(attributes: Mapping[str, Any], groups: Mapping[str, Group]) -> tuple[dict[str, Provenance], GeoBox]:
    """Return the provenance of each variable, and the fine lattice; any of `BROKEN` where they are damaged."""
    target = lattice_from(attributes["target"], attributes["target"]["shape"])
    for group in groups.values():
        if group.kind in FINE_GROUPS and group.lattice != target:
            raise ValueError(f"{group.name} is not on the stack's target grid")
    if not _is_list_of_text(attributes.get("sources", [])):
        raise TypeError("sources is not a list of names")
    return {name: _provenance(name, dict(entry)) for name, entry in attributes["provenance"].items()}, target


def _provenance(name: str, entry: Mapping[str, Any]) -> Provenance:
    for field in fields(Provenance):
        kind = bool if field.name == "synthetic" else str
        if field.name in entry and not isinstance(entry[field.name], kind):
            raise TypeError(f"provenance of {name}: {field.name} is {entry[field.name]!r}")
    return Provenance(**entry)


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, str) for one in value)
