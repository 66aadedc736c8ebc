"""Filling a stack: what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmnet_maps.errors import RequestError
from mmnet_maps.mapping.fill import fill_stack


@pytest.mark.parametrize(("option", "value"), [("resolution", 250.0), ("crs", "EPSG:6350")])
def test_tiles_have_no_other_resolution_or_crs(tmp_path: Path, option: str, value: Any) -> None:
    with pytest.raises(RequestError, match="--tiles names tiles of the default grid, 100 m in EPSG:5070.*--resolution"):
        fill_stack(None, "2021-08-08", tiles="h06v03", stack=tmp_path / "s.zarr", source="demo", **{option: value})
    assert not (tmp_path / "s.zarr").exists()
