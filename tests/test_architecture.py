"""Imports point one way, so that each part can be read, tested and replaced by itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import mmnet_maps

PACKAGE = Path(mmnet_maps.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

DATA_SIDE = {
    "aoi",
    "block",
    "catalog",
    "closure",
    "cog",
    "coverage",
    "fetch",
    "figure_sheet",
    "figures",
    "grid",
    "inventory",
    "inventory_picture",
    "readiness",
    "maps",
    "members",
    "picture",
    "product",
    "run_store",
    "series_files",
    "sources",
    "stac",
    "stack",
    "station_classes",
    "station_figures",
    "style",
    "variables",
    *("view_data", "view_page", "view_picture", "view_series", "viewer"),
    "vrt",
    "write",
    "zone_files",
    "zones",
    "zones_picture",
}
MODEL_SIDE = {"network", "spec", "checkpoint", "folded", "engine"}
TRAINING = {
    *("train", "samples", "splits", "evaluate", "experiment", "experiment_figures", "experiment_report"),
    *("explain", "reliability", "charts"),
    *("insitu", "released_csv", "sampling", "samples_check", "samples_picture", "station_series"),
}
RASTERS = {"xarray", "rioxarray", "dask", "rasterio", "zarr", "ee", "odc"}

MAY_IMPORT = {
    "errors": set(),
    "variables": set(),
    "packaged": set(),
    "aoi": {"errors", "packaged"},
    "cells": {"errors"},
    "grid": {"aoi", "cells", "errors"},
    "settings": {"errors"},
    "config": {"errors", "variables", "grid"},
    "sources": {"errors", "variables", "aoi", "cells", "grid", "config", "packaged", "sources"},
    "stack": {"errors", "variables", "cells", "sources"},
    "block": {"errors", "variables", "cells", "stack"},
    "fetch": {"errors", "variables", "cells", "grid", "stack", "block", "sources"},
    "insitu": {"errors"},
    "released_csv": {"errors"},
    "points": {"errors", "variables", "grid", "sources", "stack", "block", "fetch"},
    "inputs": {"block", "fetch", "grid", "settings", "sources", "stack"},
    "features": {"errors", "variables"},
    "network": {"errors"},
    "spec": {"errors", "features", "network", "packaged"},
    "checkpoint": {"errors", "features", "network", "packaged", "spec"},
    "folded": {"features", "network", "spec"},
    "engine": {"errors", "variables", "features", "folded", "checkpoint", "network"},
    "product": {"variables"},
    "cog": {"errors", "product", ""},
    "stac": {"errors", "product", ""},
    "members": {"errors"},
    "write": {"cog", "errors", "members", "product", "stac", ""},
    "vrt": {"cog", "errors", "grid", "product", "stac", "write", ""},
    "maps": {"cells", "cog", "errors", "product", "stac", "write"},
    "view_data": {"cells", "errors", "inventory", "maps", "product", "stack", "variables"},
    "view_series": {"errors", "stack", "style", "view_data"},
    "view_picture": {"picture", ""},
    "closure": {"cells", "cog", "errors", "grid", "product", "stac", "stack", "vrt", "write", ""},
    "run_store": {"errors", "grid", "members", "product", "stack", "write"},
    "catalog": {"errors", "product", "stac", "write", ""},
    "style": {"product", "write", ""},
    "inventory": {"aoi", "block", "cells", "grid", "stack", "variables"},
    "readiness": {
        *("aoi", "block", "cells", "checkpoint", "errors", "features", "grid", "inventory", "job", "stack"),
        "variables",
    },
    "inventory_picture": {
        *("block", "cells", "errors", "inventory", "picture", "stack", "style", "variables", "write", ""),
    },
    "picture": {"errors", "product", "style", "variables", "write", ""},
    "coverage": set(),
    "zone_files": {"aoi", "errors", "write"},
    "zones": {"cells", "coverage", "errors", "maps", "product", "zone_files"},
    "zones_picture": {"figure_sheet", "picture", "product", "style", "zone_files", ""},
    "series_files": {"errors", "product", "variables", "write"},
    "station_classes": {"errors"},
    "figure_sheet": {"errors", "write", ""},
    "figures": {"errors", "figure_sheet", "style"},
    "station_figures": {"errors", "figure_sheet"},
    "explain": {"checkpoint", "errors", "features", "samples"},
    "reliability": {"errors"},
    "charts": {"errors", "explain", "reliability", "style", "write", ""},
}
"""What each module may import of the package; the others may import anything but what their side forbids."""


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions; relative ones made absolute."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(["mmnet_maps", *path.relative_to(PACKAGE).parts[:-1]])
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            name = ".".join([*parent, *([node.module] if node.module else [])])
            found |= {f"{name}.{alias.name}" for alias in node.names} if name == "mmnet_maps" else {name}
    return found


def own(names: set[str]) -> set[str]:
    """The parts of the package among imported names; "" for what the package itself defines."""
    inside = {name.split(".")[1] for name in names if name.startswith("mmnet_maps.")}
    return {name if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists() else "" for name in inside}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_before_it(path: Path) -> None:
    name, found = layer(path), imports(path)
    outside = {item.split(".")[0] for item in found}
    if name in MAY_IMPORT:
        assert own(found) <= MAY_IMPORT[name], name
    if name in DATA_SIDE:
        assert "torch" not in outside
    if name in MODEL_SIDE | {"features"}:
        assert not RASTERS & outside
    if name not in TRAINING | {"cli"}:
        assert not TRAINING & own(found), "inference never imports training"


def test_the_table_names_modules_that_are_there() -> None:
    assert set(MAY_IMPORT) | DATA_SIDE | MODEL_SIDE | TRAINING <= {layer(path) for path in MODULES}


def test_public_names_are_sorted_and_there() -> None:
    names = list(mmnet_maps.__all__)
    assert names == sorted(names)
    assert all(hasattr(mmnet_maps, name) for name in names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mmnet_maps.nothing


def test_one_version_everywhere() -> None:
    root = Path(__file__).parents[1]
    for name, pattern in (("pyproject.toml", r'^version = "(.+)"'), ("CITATION.cff", r"^version: (.+)")):
        assert re.search(pattern, (root / name).read_text(), re.MULTILINE)[1] == mmnet_maps.__version__
    assert f"## {mmnet_maps.__version__}" in (root / "CHANGELOG.md").read_text()
