"""What the viewer shows, maps or a stack of inputs, behind one interface: layers that are read by window and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import RequestError
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.reader import Maps, open_maps
from mmnet_maps.variables import FINE_GROUPS, VARIABLES

if TYPE_CHECKING:
    from mmnet_maps.grid.lattice import Window
    from mmnet_maps.stack.inventory import Contents
    from mmnet_maps.stack.store import Stack

_STRIP = 1024  # rows of the fine lattice that are read at once

UNITS = {
    "1": "",
    "m3 m-3": "m³/m³",
    "degree": "°",
    "g cm-3": "g/cm³",
    "kg kg-1": "kg/kg",
    "m s-1": "m/s",
    "mm day-1": "mm/day",
    "percent": "%",
    "W m-2": "W/m²",
}
"""Units as people write them, where they differ from UDUNITS."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How a layer is named on the page.

    Attributes
    ----------
    name, title, units
        The layer, a phrase for it, and its units as people write them.
    flags
        Whether its values are sums of flags (`layers.QUALITY_BITS`), or land cover classes, not to be averaged.
    moisture
        Whether it is soil moisture, which has one colour scale everywhere.
    """

    name: str
    title: str
    units: str
    flags: bool = False
    moisture: bool = False


class Viewable(Protocol):
    """What can be looked at."""

    @property
    def title(self) -> str:
        """What it is, in a few words."""

    @property
    def synthetic(self) -> bool:
        """Whether any of it is not an observation."""

    @property
    def days(self) -> Sequence[date]:
        """Days that can be chosen."""

    @property
    def opening(self) -> date:
        """The day that is shown first."""

    @property
    def grid(self) -> GeoBox:
        """Its pixels."""

    @property
    def shown(self) -> Sequence[Shown]:
        """The layers that can be chosen."""

    def read(self, layer: str, day: date, window: Window, *, step: int = 1) -> NDArray[Any]:
        """Values as `reader.Maps.read` gives them."""


class ViewedMaps:
    """Finished maps."""

    def __init__(self, maps: Maps) -> None:
        self.maps = maps
        self.title, self.synthetic, self.days, self.grid = maps.title, maps.synthetic, maps.days, maps.grid
        self.opening = self.days[-1]
        titles = {
            "soil_moisture": "Soil moisture, 0–5 cm",
            "soil_moisture_std": "Standard deviation",
            "quality": "Quality",
            "smap": "SMAP, 9 km",
        }
        self.shown = tuple(
            Shown(
                name=name,
                title=titles[name],
                units=UNITS.get(LAYERS[name].units, LAYERS[name].units),
                flags=LAYERS[name].nodata is None,
                moisture=name in ("soil_moisture", "smap"),
            )
            for name in maps.layers
        )
        self.read = maps.read


class ViewedStack:
    """The inputs in a stack, every variable brought to the fine pixels by nearest neighbour."""

    synthetic: bool

    def __init__(self, stack: Stack) -> None:
        from mmnet_maps.stack.inventory import in_order, survey

        self.stack = stack
        self.title = f"inputs in {stack.path.name}"
        self.synthetic = any(one.synthetic for one in stack.provenance.values())
        contents = [survey(stack, group) for group in in_order(stack.groups.values())]
        self.days = tuple(sorted({day for one in contents for day in one.days}))
        if not self.days:
            raise RequestError(f"{stack.path} holds no days yet; fill it with mmnet stack")
        temporal = [set(one.days) for one in contents if one.group.temporal and one.days]
        self.opening = max(set.intersection(*temporal), default=self.days[-1])
        self.grid = stack.target[_reached(stack, contents)]
        self.shown = tuple(
            Shown(
                name=name,
                title=VARIABLES[name].long_name,
                units=UNITS.get(VARIABLES[name].units, VARIABLES[name].units),
                flags=name == "landcover",
                moisture=name == "smap",
            )
            for one in contents
            if one.filled.any()
            for name in one.group.variables
        )

    def read(self, layer: str, day: date, window: Window, *, step: int = 1) -> NDArray[Any]:
        """Values as `reader.Maps.read` gives them."""
        from mmnet_maps.grid.lattice import nearest_cells

        rows, cols = window
        shape = (-(-(rows.stop - rows.start) // step), -(-(cols.stop - cols.start) // step))
        affine = self.grid.affine * Affine.translation(cols.start, rows.start) * Affine.scale(step)
        coarse = GeoBox(shape, affine, self.grid.crs)
        lattice = self.stack.group_of(layer).lattice
        cover = layer == "landcover"
        found = np.full(shape, 0 if cover else np.nan, np.uint16 if cover else np.float32)
        row, col = nearest_cells(coarse, lattice)
        for start in range(0, shape[0], max(_STRIP // step, 1)):  # a strip at a time, so that memory stays bounded
            strip = slice(start, start + max(_STRIP // step, 1))
            rows_, cols_ = row[strip], col[strip]
            inside = rows_ >= 0
            if inside.any():
                top, left = int(rows_[inside].min()), int(cols_[inside].min())
                part = (slice(top, int(rows_.max()) + 1), slice(left, int(cols_.max()) + 1))
                values = self.stack.read(layer, part, day)
                found[strip][inside] = values[rows_[inside] - top, cols_[inside] - left]
        return found


def _reached(stack: Stack, contents: Sequence[Contents]) -> Window:
    """The window of a stack's fine lattice around all that it holds: of the fine groups, else of the coarse ones."""
    from mmnet_maps.grid.lattice import cover
    from mmnet_maps.stack.inventory import around_blocks

    filled = [one for one in contents if one.filled.any()]
    fine = [one for one in filled if one.group.kind in FINE_GROUPS]
    windows = []
    for one in fine or filled:
        rows, cols = (
            slice(part.start * one.group.block, min(part.stop * one.group.block, size))
            for part, size in zip(around_blocks(one.filled), one.group.lattice.shape, strict=True)
        )
        windows.append(cover(one.group.lattice[rows, cols], stack.target))
    return (
        slice(min(rows.start for rows, _ in windows), max(rows.stop for rows, _ in windows)),
        slice(min(cols.start for _, cols in windows), max(cols.stop for _, cols in windows)),
    )


def open_view(paths: Sequence[str | Path]) -> Viewable:
    """Open maps or a stack to be looked at.

    Parameters
    ----------
    paths
        What `reader.open_maps` takes, or the folder of one stack.

    Raises
    ------
    RequestError, InputError
        As `reader.open_maps` and `store.Stack`.
    """
    if len(paths) == 1 and _is_stack(Path(paths[0])):
        from mmnet_maps.stack.store import Stack

        return ViewedStack(Stack(paths[0]))
    return ViewedMaps(open_maps(paths))


def _is_stack(path: Path) -> bool:
    import json

    try:
        content = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        return "mmnet_stack_version" in content["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
