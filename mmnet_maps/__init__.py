"""Daily 100 m surface soil moisture maps of the conterminous United States with MMNet."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmnet_maps.mapping.lazy import downscale, downscale_product
    from mmnet_maps.mapping.points import at_points
    from mmnet_maps.model.checkpoint import load_checkpoint as load_model

__version__ = "0.2.0"

# rasterio suppresses this warning about the arrays that it warps, but not always where several threads warp, as those
# that read files and those that draw do.
warnings.filterwarnings("ignore", message="Dataset has no geotransform", module="rasterio.warp")
__all__ = ["__version__", "at_points", "downscale", "downscale_product", "load_model"]

_HOMES = {
    "at_points": ("mapping.points", "at_points"),
    "downscale": ("mapping.lazy", "downscale"),
    "downscale_product": ("mapping.lazy", "downscale_product"),
    "load_model": ("model.checkpoint", "load_checkpoint"),
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import mmnet_maps`` and the command line's help stay quick."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)
