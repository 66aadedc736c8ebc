"""Where inputs come from: native rasters of a window, on the product's own grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmnet_maps.errors import RequestError

if TYPE_CHECKING:
    from mmnet_maps.sources.base import Source


def open_source(spec: str) -> tuple[Source, ...]:
    """Open what ``--source`` names.

    Parameters
    ----------
    spec
        ``demo`` for the synthetic world, or the path of a YAML file that lists rasters (see ``examples/zion.yaml``).

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
    from mmnet_maps.sources.files import FilesSource
    from mmnet_maps.sources.synthetic import SyntheticWorld

    if spec == "demo":
        return (SyntheticWorld(),)
    if spec == "earthengine":
        raise RequestError(
            "source earthengine is not in this version; use --source with a YAML of your own rasters, or --source demo"
        )
    if not Path(spec).exists() and Path(spec).suffix not in (".yaml", ".yml"):
        raise RequestError(f"source {spec!r} is not known; expected demo or the path of a YAML file that lists rasters")
    files = FilesSource(spec)
    return (files, SyntheticWorld()) if files.rest == "demo" else (files,)
