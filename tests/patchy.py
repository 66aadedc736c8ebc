"""A stack with every kind of gap: clouds, days never fetched, days without a product."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from analytic import AnalyticSource
from mmnet_maps.grid.area import Area, read_aoi
from mmnet_maps.grid.tiles import target_grid, touched_tiles
from mmnet_maps.sources.base import Rasters
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.stack.store import Stack

DAY = date(2021, 8, 8)
NEEDS = Needs(snapshot=("smap", "red", "vv", "landcover"), series=("pr", "lst"), steps=3, includes_day=True)
HERE, THERE = read_aoi("-119.60,47.10,-119.55,47.13"), read_aoi("-118.20,46.30,-118.12,46.34")


def later(count: int) -> date:
    return DAY + timedelta(days=count)


class Patchy(AnalyticSource):
    """A source with clouds over the north half of each window on some days, no late radar, and no SMAP on one day."""

    def days(self, group: str, geobox: GeoBox, start: date, end: date) -> list[date]:
        found = super().days(group, geobox, start, end)
        if group == "sar":
            return [day for day in found if day <= later(-20)]
        return [day for day in found if group != "smap" or day != later(2)]

    def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        rasters = super().read(group, geobox, days)
        if group == "optical":
            for k, day in enumerate(days):
                if day.toordinal() % 2:
                    rasters["red"][k, : geobox.shape.y // 2] = np.nan
                if day > later(-3):
                    rasters["red"][k] = np.nan
        return rasters


def fill(path: Path, source: AnalyticSource, area: Area, days: Sequence[date], today: date | None = None) -> Stack:
    grid = target_grid(area)
    return fetch(
        path,
        [source],
        Demand(grid=grid, tiles=touched_tiles(area, grid), needs=NEEDS, days=list(days)),
        today=today,
        quiet=True,
    )


def patchy_stack(path: Path, source: Patchy) -> Stack:
    """Fill two areas on different days; after the second day nothing is fetched."""
    fill(path, source, HERE, [DAY, later(2)], today=later(4))
    return fill(path, source, THERE, [later(6)], today=later(6))
