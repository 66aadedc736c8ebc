"""Read the inputs of stations for some days from the loopback services of the tests: time, requests and bytes.

    python benchmarks/stations.py --source open --stations 100 --days 365
    python benchmarks/stations.py --source earthengine --stations 100 --days 365
    python benchmarks/stations.py --source open --stations 300 --days 2557 --plan

Clients, catalogues, listings, tokens and ranges of bytes are real; pixels are constants or cheap formulas, because
computing them would be the time of the service. `--plan` prints the dry run alone. `--wait` is the time of an answer
with pixels of Earth Engine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from mmnet_maps.grid.tiles import conus_grid, pixel_of
from mmnet_maps.mapping.points_estimate import format_points_estimate
from mmnet_maps.mapping.request import needs_of
from mmnet_maps.model.checkpoint import load_checkpoint
from mmnet_maps.sources.base import Source
from mmnet_maps.stack.needs import Needs
from mmnet_maps.stack.pixels import choose_for_points, point_stacks, read_pixel
from mmnet_maps.stack.point_estimate import estimate_points
from mmnet_maps.stack.point_plan import Point
from mmnet_maps.variables import VARIABLES
from station_services import serve_everything, stations

FIRST = date(2018, 1, 1)

USE = ["smap", "hls", "sentinel1", "lst", "weather", "elevation", "landcover", "soil"]
"""Products of the open services."""

Log = Callable[[], list[tuple[str, int]]]
"""Returns the service and the bytes of each request so far."""


@contextmanager
def open_services(folder: Path, last: date) -> Iterator[tuple[Source, Log]]:
    """Serve the open services."""
    from fake_open import FakeOpen
    from mmnet_maps.sources.open.source import OpenSource
    from open_routes import Earthdata
    from open_setup import loopback_config

    os.environ.update(
        EARTHDATA_TOKEN=Earthdata().tokens[0], MMNET_CACHE=str(folder / "cache"), NETRC=str(folder / "none")
    )

    with FakeOpen() as server:
        serve_everything(server, last + timedelta(days=90))
        path = folder / "open.yaml"
        path.write_text(yaml.safe_dump(loopback_config(server, USE)))
        yield OpenSource(path), lambda: [(_service(asked.path), sent) for asked, _, sent in list(server.log)]


def _service(path: str) -> str:
    """Return the part of a path that names its service and kind."""
    return re.sub(r"/(scenes/[^/]+|[^/]+).*", r"\1", path)


@contextmanager
def earth_engine(folder: Path, last: date, wait: float) -> Iterator[tuple[Source, Log]]:
    """Serve Earth Engine with constant pixels."""
    import earthengine_catalog as world

    world.FIRST, world.LAST = FIRST - timedelta(days=90), last + timedelta(days=90)
    import fake_earthengine as service
    from earthengine_setup import config
    from mmnet_maps.sources.earthengine.source import EarthEngineSource

    def constants(body: bytes) -> Any:
        names = dict.fromkeys(
            re.findall(r'"([a-z][a-z0-9_]*_20\d{6})"', body if isinstance(body, str) else body.decode())
        )
        shape = json.loads(body)["grid"]["dimensions"]
        kinds = [(name, "u1" if name.startswith("landcover") else "<i2") for name in names]
        found = np.zeros((shape["height"], shape["width"]), kinds)
        for name in names:
            found[name] = 42 if name.startswith("landcover") else 100
        return found

    route = service.FakeEarthEngine._route

    def slow(self: Any, request: Any, spoil: Any) -> Any:
        time.sleep(wait if request.is_pixels else 0)
        return route(self, request, spoil)

    service.pixels_of_catalog, service.FakeEarthEngine._route = constants, slow  # type: ignore[attr-defined,method-assign]

    with service.FakeEarthEngine(workers=2) as server, service.offline():
        yield (
            EarthEngineSource(config(folder, server)),
            lambda: [("pixels" if one.is_pixels else "listings", one.sent) for one in list(server.log)],
        )


def measure(source: Source, log: Log, points: Sequence[Point], needs: Needs, folder: Path) -> None:
    """Read everything and print what it took."""
    before, began, used = len(log()), time.time(), resource.getrusage(resource.RUSAGE_SELF)
    columns: dict[str, Any] = {}
    done = rows = 0
    for number, days, stack in point_stacks([source], points, needs, folder=folder):
        columns = read_pixel(stack, points[number].pixel, days, needs)
        rows += len(days)
        if number >= done:
            print(f"  {number + 1} stations after {time.time() - began:.0f} s", file=sys.stderr, flush=True)
            done = number + 10
    use, wall = resource.getrusage(resource.RUSAGE_SELF), time.time() - began
    requests, received = Counter[str](), Counter[str]()
    for name, sent in log()[before:]:
        requests[name] += 1
        received[name] += sent
    print(f"{len(points)} stations, {rows} rows, {wall:.0f} s; {use.ru_utime - used.ru_utime:.0f} + "
          f"{use.ru_stime - used.ru_stime:.0f} core-s with the server; {use.ru_maxrss // 1024} MB with it")  # fmt: skip
    for name, count in requests.most_common():
        print(f"  {name:28} {count:8} requests, {count / len(points):8.1f} a station, {received[name] / 1e6:10.1f} MB")
    kept = list(folder.iterdir())
    print(f"  {len(kept)} finished reads kept, {sum(path.stat().st_size for path in kept) / 1e6:.1f} MB")
    finite = {name: float(np.isfinite(values.astype(float)).mean()) for name, values in columns.items()}
    print("  values of the last station:", ", ".join(f"{name} {share:.0%}" for name, share in finite.items()))


def of_groups(model: str, groups: Sequence[str]) -> Needs:
    """Return what a model needs of some groups."""
    needs = needs_of(load_checkpoint(model).spec)
    snapshot, series = (
        tuple(name for name in names if VARIABLES[name].group in groups) for names in (needs.snapshot, needs.series)
    )
    return replace(needs, snapshot=snapshot, series=series, groups=())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=("open", "earthengine"), default="open")
    parser.add_argument("--stations", type=int, default=100)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--model", default="mmnet-uscrn")
    parser.add_argument("--groups", default="smap,weather,lst,optical,sar,static", help="groups to read, with commas")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--wait", type=float, default=0.1)
    args = parser.parse_args()
    needs, last = of_groups(args.model, args.groups.split(",")), FIRST + timedelta(days=args.days - 1)
    days = tuple(FIRST + timedelta(days=k) for k in range(args.days))
    points = [
        Point(name=f"station {k}", pixel=pixel_of(conus_grid(), *place), days=days)
        for k, place in enumerate(stations(args.stations))
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        serving = open_services(folder, last) if args.source == "open" else earth_engine(folder, last, args.wait)
        with serving as (source, log):
            choose_for_points([source], points, needs)
            began = time.time()
            found = estimate_points([source], points, needs)
            print(format_points_estimate(found))
            print(f"the dry run took {time.time() - began:.0f} s and {len(log())} requests", flush=True)
            if not args.plan:
                measure(source, log, points, needs, folder / "parts")


if __name__ == "__main__":
    main()
