"""The library of grids, odc-geo, imported without Dask."""

from __future__ import annotations

import sys


def import_without_dask() -> None:
    """Import odc.geo in a process that has no use for Dask, which takes a fifth of a second to import.

    odc.geo imports it to recognise its arrays among coordinates, and does without where it cannot be imported.
    """
    if "dask" in sys.modules or "odc.geo" in sys.modules:
        return
    sys.modules["dask"] = None  # type: ignore[assignment]  # cannot be imported
    try:
        import odc.geo.geobox  # noqa: F401
    finally:
        del sys.modules["dask"]
