"""Sources of inputs: native rasters of a window, on the product's own grid."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mmnet_maps.errors import RequestError, brief
from mmnet_maps.settings import read_yaml

if TYPE_CHECKING:
    from mmnet_maps.sources.base import Source


def open_source(spec: str) -> tuple[Source, ...]:
    """Open the source that ``--source`` names.

    Parameters
    ----------
    spec
        ``demo`` for the synthetic world, ``earthengine`` for Google Earth Engine, ``open`` for open services, or the
        path of a YAML file: one that lists rasters (see ``examples/zion.yaml``), products of Earth Engine (see
        ``configs/earthengine.yaml``), or products of open services (see ``configs/open.yaml``).

    Returns
    -------
    tuple of Source
        In order of preference: each variable is read from the first one that has it.

    Raises
    ------
    RequestError
        When the source is unknown, or its YAML cannot be read or is invalid.

    Examples
    --------
    >>> [source.name for source in open_source("demo")]
    ['demo']
    """
    check_source(spec)
    from mmnet_maps.sources.demo.world import SyntheticWorld
    from mmnet_maps.sources.earthengine.source import EarthEngineSource
    from mmnet_maps.sources.files.source import FilesSource
    from mmnet_maps.sources.open.source import OpenSource

    if spec == "demo":
        return (SyntheticWorld(),)
    if spec == "earthengine":
        return (EarthEngineSource(),)
    if spec == "open":
        return (OpenSource(),)
    keys = read_yaml(spec, "sources").keys()
    if "services" in keys:
        return (OpenSource(spec),)
    if "products" in keys:
        return (EarthEngineSource(spec),)
    files = FilesSource(spec)
    return (files, *open_source(files.rest)) if files.rest else (files,)


def check_source(spec: str) -> None:
    """Make sure that a source is known or a file, before anything is imported to read it.

    Raises
    ------
    RequestError
        When it is neither.
    """
    if spec in ("demo", "earthengine", "open"):
        return
    if not os.path.exists(spec) and Path(spec).suffix not in (".yaml", ".yml"):
        raise RequestError(
            f"unknown source {brief(spec)!r}; expected demo, earthengine, open, or the path of a sources YAML; "
            "correct --source"
        )
    if not os.path.isfile(spec):
        raise RequestError(f"no sources YAML {brief(spec)}; correct --source")
