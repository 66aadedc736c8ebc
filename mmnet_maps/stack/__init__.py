"""Store inputs on their native grids and read them for tiles or pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmnet_maps.stack.store import Stack

__all__ = ["Stack"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that the parts of this room that need no Zarr stay quick to import."""
    if name != "Stack":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mmnet_maps.stack.store import Stack

    return Stack
