"""Grids are imported without Dask, which can be used afterwards."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from mmnet_maps.grid.library import import_without_dask
import_without_dask()
import mmnet_maps.mapping.pipeline
print("dask" in sys.modules)
import dask.array
import odc.geo.xr
from odc.geo._xr_interop import is_dask_collection
print(is_dask_collection(dask.array.zeros(3)))
"""


def test_dask_is_imported_later_where_it_is_used() -> None:
    printed = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "True"]
