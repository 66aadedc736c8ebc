"""The products that sources give, named for people and compared with those that a stack holds: they are never mixed."""

from __future__ import annotations

from collections.abc import Mapping

from mmnet_maps.errors import InputError, MMNetError, brief
from mmnet_maps.sources.base import Source
from mmnet_maps.stack.blocks import Group
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FINE_GROUPS, VARIABLES


def check_products(stack: Stack, chosen: Mapping[str, Source]) -> None:
    """Raise InputError if a store holds other products than the sources give."""
    wrong = [name for name, source in chosen.items() if stack.provenance.get(name) != source.variables()[name]]
    if not wrong:
        return
    name = next((name for name in wrong if VARIABLES[name].group not in FINE_GROUPS), wrong[0])
    known, given = stack.provenance.get(name), chosen[name].variables()[name]
    how = ""
    if known and known.product == given.product:
        how = _other_grid(stack, name, chosen[name]) or " made in another way"
    raise InputError(
        f"the stack {stack.path} holds {name} from {known.product if known else 'nowhere'}, the source gives "
        f"{given.product}{how}; choose another --out or delete the stack"
    )


def products_of(group: Group, chosen: Mapping[str, Source]) -> tuple[str, ...]:
    """Return the products behind the variables of a group, once each."""
    return tuple(dict.fromkeys(chosen[name].variables()[name].product for name in group.variables))


def title_of(group: Group, chosen: Mapping[str, Source]) -> str:
    """Return a group with its products, for people."""
    return f"{group.name} ({', '.join(products_of(group, chosen))})"


def _other_grid(stack: Stack, name: str, source: Source) -> str:
    """Say how the grid of a coarse product differs from the stack's; nothing where it does not, or is not known now."""
    mine, kind = stack.group_of(name).lattice, VARIABLES[name].group
    try:
        other = mine if kind in FINE_GROUPS else source.lattice(kind)
    except MMNetError:
        return ""
    if other == mine:
        return ""
    texts = [
        f"{brief(grid.crs.proj.name, 40)}, {grid.resolution.x:.4g} {'degrees' if grid.crs.geographic else 'm'}"
        for grid in (other, mine)
        if grid.crs is not None
    ]
    return f" on another grid ({'; the stack has '.join(texts)})"
