"""Where inputs come from: native rasters of a window, on the product's own grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from mmnet_maps.errors import RequestError

if TYPE_CHECKING:
    from mmnet_maps.sources.base import Source


def open_source(spec: str) -> tuple[Source, ...]:
    """Open what ``--source`` names.

    Parameters
    ----------
    spec
        ``demo`` for the synthetic world, ``earthengine`` for Google Earth Engine, or the path of a YAML file: one that
        lists rasters (see ``examples/zion.yaml``), or one that lists products of Earth Engine (see
        ``configs/earthengine.yaml``).

    Returns
    -------
    tuple of Source
        In order of preference: a variable comes from the first one that has it.

    Raises
    ------
    RequestError
        When there is no such source, or something in the YAML is wrong.

    Examples
    --------
    >>> [source.name for source in open_source("demo")]
    ['demo']
    """
    from mmnet_maps.sources.demo.world import SyntheticWorld
    from mmnet_maps.sources.earthengine.source import EarthEngineSource
    from mmnet_maps.sources.files.source import FilesSource

    if spec == "demo":
        return (SyntheticWorld(),)
    if spec == "earthengine":
        return (EarthEngineSource(),)
    if not Path(spec).exists() and Path(spec).suffix not in (".yaml", ".yml"):
        raise RequestError(
            f"source {spec!r} is not known; expected demo, earthengine, or the path of a YAML file that lists rasters"
        )
    if _names_products(spec):
        return (EarthEngineSource(spec),)
    files = FilesSource(spec)
    return (files, SyntheticWorld()) if files.rest == "demo" else (files,)


def _names_products(path: str) -> bool:
    """Whether a YAML lists products of Earth Engine rather than rasters; what cannot be read is left to others."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(values, dict) and "products" in values
