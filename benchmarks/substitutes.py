"""What a substitute of an input does to an estimate: maps of the demo world with one input changed at a time.

    python benchmarks/substitutes.py --model mmnet-uscrn --days 2021-06-01,2021-08-08

prints, for each change and day, the mean and the root mean square of the differences in m³/m³.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import mmnet_maps as mm
from mmnet_maps.grid.area import parse_days, read_aoi
from mmnet_maps.grid.tiles import target_grid, touched_tiles
from mmnet_maps.mapping.request import needs_of
from mmnet_maps.model.checkpoint import load_checkpoint
from mmnet_maps.sources.demo.world import SyntheticWorld
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, fine_window, uses
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FINE_GROUPS

AREA = "-119.70,47.00,-119.45,47.15"
BANDS = ("blue", "green", "red", "nir", "swir1", "swir2")
LCMAP = {21: 22, 22: 22, 23: 22, 24: 22, 41: 42, 42: 42, 43: 42, 51: 71, 52: 71, 71: 71, 72: 71, 81: 82, 82: 82, 95: 90}
"""Codes of NLCD as they come back from the legend of LCMAP, which has one class of grass and shrub, one of cropland."""

Values = NDArray[Any]


class Change(NamedTuple):
    """A change of some variables of one group; `values` also has the days before the map's."""

    name: str
    variables: tuple[str, ...]
    group: str
    values: Callable[[Values, int], Values]


def changes() -> Iterator[Change]:
    """Yield the changes, each about as large as a substitute makes it."""
    for kelvin in (1, 2, 5):
        yield Change(f"LST +{kelvin} K", ("lst",), "lst", lambda v, _, by=kelvin: v + np.float32(by))
    for decibel in (1, 2, -1):
        yield Change(f"VV, VH {decibel:+} dB", ("vv", "vh"), "sar", lambda v, _, by=decibel: v + np.float32(by))
    yield Change("legend of LCMAP", ("landcover",), "landcover", lambda v, _: _legend(v))
    for share in (0.8, 1.2):
        yield Change(
            f"rain of 7 days x {share}",
            ("pr",),
            "weather",
            lambda v, ago, by=share: v * np.float32(by) if ago < 7 else v,
        )
    yield Change("vpd, eto x 1.05", ("vpd", "eto"), "weather", lambda v, _: v * np.float32(1.05))
    yield Change("srad x 1.05", ("srad",), "weather", lambda v, _: v * np.float32(1.05))
    yield Change("SMAP +0.02", ("smap",), "smap", lambda v, _: v + np.float32(0.02))
    yield Change("reflectance +0.005", BANDS, "optical", lambda v, _: v + np.float32(0.005))
    yield Change("elevation +2 m", ("elevation",), "terrain", lambda v, _: v + np.float32(2))
    yield Change("clay +3 points", ("clay",), "soil", lambda v, _: v + np.float32(3))


def _legend(codes: Values) -> Values:
    found = codes.copy()
    for code, merged in LCMAP.items():
        found[codes == code] = merged
    return found


def demand_of(model: str, day: date) -> Demand:
    """Return the maps of a day."""
    grid = target_grid(area := read_aoi(AREA))
    needs = needs_of(load_checkpoint(model).spec)
    return Demand(grid=grid, tiles=touched_tiles(area, grid), needs=needs, days=parse_days(day))


def change_stack(path: Path, demand: Demand, change: Change) -> None:
    """Rewrite the values that a change concerns."""
    stack, last = Stack(path, writable=True), demand.days[-1]
    for group, window, days in uses(stack, demand.grid, demand.needs, demand.days):
        if group.kind != change.group:
            continue
        fine = group.kind in FINE_GROUPS
        for part in [fine_window(tile.geobox, stack) for tile in demand.tiles] if fine else [window]:
            blocks = group.whole_blocks(part)
            for day in days if group.temporal else days[-1:]:
                if stack.marks(group, blocks, [day]).all():
                    held = {name: stack.read(name, blocks, day) for name in group.variables}
                    for name in set(change.variables) & set(held):
                        held[name] = change.values(held[name], abs((last - day).days))
                    stack.write(group.name, blocks, day, held, 0)


def estimates(path: Path, model: str, day: date) -> Values:
    """Return the soil moisture of a day."""
    return np.asarray(mm.downscale(AREA, day, stack=path, model=model, quiet=True)[0])


def main() -> None:
    """Print the differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mmnet-uscrn")
    parser.add_argument("--days", default="2021-06-01,2021-08-08")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        for day in map(date.fromisoformat, options.days.split(",")):
            demand, whole, changed = demand_of(options.model, day), Path(folder, "a.zarr"), Path(folder, "b.zarr")
            shutil.rmtree(whole, ignore_errors=True)
            fetch(whole, [SyntheticWorld()], demand, quiet=True)
            base = estimates(whole, options.model, day)
            print(f"{day} mean {np.nanmean(base):.3f}", flush=True)
            for change in changes():
                shutil.rmtree(changed, ignore_errors=True)
                shutil.copytree(whole, changed)
                change_stack(changed, demand, change)
                away = estimates(changed, options.model, day) - base
                rms = np.sqrt(np.nanmean(away**2))
                print(f"{day} {change.name}: mean {np.nanmean(away):+.4f}, rms {rms:.4f}", flush=True)


if __name__ == "__main__":
    main()
