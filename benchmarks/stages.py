"""Measure the steps of a map or whole maps, tile by tile, in one process with one thread of the engine; prints JSON.

python benchmarks/stages.py ROUTE STACK DAY TILE TILE… [--maps [--members N] [--days N] | --inputs FILE]

ROUTE is the `route.py` of the revision that PYTHONPATH names: what a step is called may change, what it is does not.
Steps and maps are measured in processes of their own, because one would profit from what the other has read. The first
tile warms imports, files and memory, and is not measured but with `--members` and `--days`.
"""

from __future__ import annotations

import argparse
import json
import runpy
import tempfile
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from measure import NOTHING, Cost, Stages


def measure_steps(route: SimpleNamespace, stack: str, day: date, tiles: list[str]) -> dict[str, Cost]:
    """Measure `read`, `series` and `pixel` per tile."""
    with tempfile.TemporaryDirectory() as out:
        requests, stages = route.requests(stack, out, tiles, [day]), Stages()
        for number, request in enumerate(requests):
            if number == 1:
                stages = Stages()
            with stages.stage("read"):
                part = route.read(request, day)
            with stages.stage("series"):
                terms = route.series(request, part)
            with stages.stage("pixel"):
                route.pixel(request, part, terms)
    return {name: cost.less(NOTHING, len(tiles) - 1) for name, cost in stages.costs.items()}


def measure_maps(
    route: SimpleNamespace, stack: str, day: date, tiles: list[str], *, members: int = 0, days: int = 0
) -> dict[str, Cost]:
    """Measure `map`, from the stack to files, per tile; `members` and `days` are those of one tile."""
    with tempfile.TemporaryDirectory() as out:
        requests, stages = route.requests(stack, f"{out}/maps", tiles, [day]), Stages()
        for number, request in enumerate(requests):
            with stages.stage("map" if number else "warm"):
                route.write(request, [day])
        found = {"map": stages.costs["map"].less(NOTHING, len(tiles) - 1)}
        if members:
            (request,) = route.requests(stack, f"{out}/members", tiles[:1], [day], members)
            with stages.stage("members"):
                route.write(request, [day])
            found["members"] = stages.costs["members"]
        if days:
            together = [day + timedelta(k) for k in range(days)]
            (request,) = route.requests(stack, f"{out}/days", tiles[:1], together)
            with stages.stage("days"):
                route.write(request, together)
            found["days"] = stages.costs["days"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("route")
    parser.add_argument("stack")
    parser.add_argument("day", type=date.fromisoformat)
    parser.add_argument("tiles", nargs="+")
    parser.add_argument("--maps", action="store_true", help="measure whole maps in place of their steps")
    parser.add_argument("--members", type=int, default=0, help="also map with so many Monte Carlo members")
    parser.add_argument("--days", type=int, default=0, help="also map so many days together")
    parser.add_argument("--inputs", type=Path, help="only save the inputs of the first tile to this file")
    options = parser.parse_args()
    route = SimpleNamespace(**runpy.run_path(options.route))
    if options.inputs:
        with tempfile.TemporaryDirectory() as out:
            (request,) = route.requests(options.stack, out, options.tiles[:1], [options.day])
            np.savez(options.inputs, **route.inputs(route.read(request, options.day)))
        return
    given = route, options.stack, options.day, options.tiles
    maps = {"members": options.members, "days": options.days}
    found = measure_maps(*given, **maps) if options.maps else measure_steps(*given)
    print(json.dumps({name: cost.as_dict() for name, cost in found.items()}))


if __name__ == "__main__":
    main()
