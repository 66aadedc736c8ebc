"""Maps and stacks of inputs behind one interface: layers that are read by window and step."""

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
from mmnet_maps.files import read_attributes
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.reader import Maps, open_maps
from mmnet_maps.variables import FINE_GROUPS, VARIABLES

if TYPE_CHECKING:
    from mmnet_maps.grid.lattice import Window
    from mmnet_maps.stack.inventory import Contents
    from mmnet_maps.stack.store import Stack

_STRIP = 1024  # rows of the fine lattice read at once

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
"""Units for people, where they differ from UDUNITS."""


def number_format(units: str) -> str:
    """Return bokeh's format for numbers with some units; specific humidity in kg/kg needs five decimals."""
    return "0.00000" if units == "kg/kg" else "0.000"


@dataclass(frozen=True, kw_only=True)
class ViewLayer:
    """A layer of the viewer.

    Attributes
    ----------
    name, title, units
        Its name in the files, its name on the page, and its units for people.
    categorical
        Whether its values are sums of flags (`quality.QUALITY_BITS`) or land cover classes, which have no mean.
    moisture
        Whether it is soil moisture, which has one colour scale everywhere.
    """

    name: str
    title: str
    units: str
    categorical: bool = False
    moisture: bool = False


class Viewable(Protocol):
    """Maps or a stack that the viewer can show."""

    @property
    def title(self) -> str:
        """Its name in a few words."""

    @property
    def synthetic(self) -> bool:
        """Whether any of it is made from synthetic inputs."""

    @property
    def days(self) -> Sequence[date]:
        """The days to choose from, ascending."""

    @property
    def opening(self) -> date:
        """The day shown first."""

    @property
    def grid(self) -> GeoBox:
        """The grid of its pixels."""

    @property
    def layers(self) -> Sequence[ViewLayer]:
        """The layers to choose from."""

    def read(self, layer: str, day: date, window: Window, *, step: int = 1) -> NDArray[Any]:
        """Return the values of a window as `reader.Maps.read` does."""


class ViewedMaps:
    """Finished maps as a `Viewable`."""

    def __init__(self, maps: Maps) -> None:
        self.maps = maps
        self.title, self.synthetic, self.days, self.grid = maps.title, maps.synthetic, maps.days, maps.grid
        self.opening = self.days[-1]
        titles = {
            "soil_moisture": "Soil moisture, 0–5 cm",
            "soil_moisture_std": "Standard deviation",
            "soil_moisture_anomaly": "Anomaly",
            "soil_moisture_standardised_anomaly": "Standardised anomaly",
            "soil_moisture_percentile": "Percentile and drought class",
            "quality": "Quality",
            "smap": "SMAP, 9 km",
        }
        self.layers = tuple(
            ViewLayer(
                name=name,
                title=titles[name],
                units=UNITS.get(LAYERS[name].units, LAYERS[name].units),
                categorical=LAYERS[name].nodata is None,
                moisture=name in ("soil_moisture", "smap"),
            )
            for name in maps.layers
        )
        self.read = maps.read


class ViewedStack:
    """The inputs in a stack as a `Viewable`, every variable resampled to the fine pixels by nearest neighbour."""

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
        self.grid = stack.target[_filled_window(stack, contents)]
        self.layers = tuple(
            ViewLayer(
                name=name,
                title=VARIABLES[name].long_name,
                units=UNITS.get(VARIABLES[name].units, VARIABLES[name].units),
                categorical=name == "landcover",
                moisture=name == "smap",
            )
            for one in contents
            if one.filled.any()
            for name in one.group.variables
        )

    def read(self, layer: str, day: date, window: Window, *, step: int = 1) -> NDArray[Any]:
        """Return the values of a window as `reader.Maps.read` does."""
        from mmnet_maps.grid.lattice import nearest_cells

        rows, cols = window
        shape = (-(-(rows.stop - rows.start) // step), -(-(cols.stop - cols.start) // step))
        affine = self.grid.affine * Affine.translation(cols.start, rows.start) * Affine.scale(step)
        coarse = GeoBox(shape, affine, self.grid.crs)
        lattice = self.stack.group_of(layer).lattice
        cover = layer == "landcover"
        found = np.full(shape, 0 if cover else np.nan, np.uint16 if cover else np.float32)
        row, col = nearest_cells(coarse, lattice)
        for start in range(0, shape[0], max(_STRIP // step, 1)):  # in strips, to bound memory
            strip = slice(start, start + max(_STRIP // step, 1))
            rows_, cols_ = row[strip], col[strip]
            inside = rows_ >= 0
            if inside.any():
                top, left = int(rows_[inside].min()), int(cols_[inside].min())
                part = (slice(top, int(rows_.max()) + 1), slice(left, int(cols_.max()) + 1))
                values = self.stack.read(layer, part, day)
                found[strip][inside] = values[rows_[inside] - top, cols_[inside] - left]
        return found


def _filled_window(stack: Stack, contents: Sequence[Contents]) -> Window:
    """Return the window of the target grid around all filled blocks, those of fine groups if there are any."""
    from mmnet_maps.grid.lattice import cover
    from mmnet_maps.stack.availability import around_blocks

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


def open_view(paths: Sequence[str | Path], climatology: str | Path | None = None) -> Viewable:
    """Open maps or a stack for the viewer.

    Parameters
    ----------
    paths
        Anything that `reader.open_maps` accepts, or the folder of one stack.
    climatology
        Climatology to compare maps with.

    Raises
    ------
    RequestError, InputError
        See `reader.open_maps` and `store.Stack`.
    """
    if len(paths) == 1 and _is_stack(Path(paths[0])):
        from mmnet_maps.stack.store import Stack

        if climatology is not None:
            raise RequestError(f"{paths[0]} holds inputs, not maps to compare; leave out --climatology")
        return ViewedStack(Stack(paths[0]))
    maps = open_maps(paths)
    if climatology is not None:
        from mmnet_maps.product.climatology import Climatology
        from mmnet_maps.product.compared_maps import ComparedMaps

        maps = ComparedMaps(maps, Climatology(climatology))
    return ViewedMaps(maps)


def _is_stack(path: Path) -> bool:
    try:
        return "mmnet_stack_version" in read_attributes(path)
    except OSError:
        return False
