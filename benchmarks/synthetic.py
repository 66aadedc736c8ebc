"""Measure the throughput of the synthetic world on one 1024 × 1024 tile at 100 m.

python benchmarks/synthetic.py
"""

from __future__ import annotations

import time
from datetime import date

from mmnet_maps.grid.tiles import tile_geobox
from mmnet_maps.sources.demo.world import SyntheticWorld
from mmnet_maps.variables import STATIC_GROUPS

WORLD = SyntheticWorld()


def main() -> None:
    grid = tile_geobox("h06v03")
    observed = [(group, count) for group in ("optical", "sar") for count in (1, 4)]
    for group, count in [*((group, 1) for group in STATIC_GROUPS), *observed]:
        days = [date(2021, 8, 8)]
        if group not in STATIC_GROUPS:
            days = WORLD.days(group, grid, date(2021, 7, 1), date(2021, 8, 8))[-count:]
        WORLD.read(group, grid, days)
        started = time.perf_counter()
        layers = WORLD.read(group, grid, days)
        seconds = time.perf_counter() - started
        pixels = grid.shape[0] * grid.shape[1] * len(days) / 1e6
        print(
            f"{group:9} {len(days)} day(s)  {seconds:5.2f} s  {pixels / seconds:6.1f} Mpx/s, {len(layers)} layers:"
            f" {pixels * len(layers) / seconds:6.1f} Mpx/s per layer"
        )


if __name__ == "__main__":
    main()
