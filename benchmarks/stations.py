"""Read the inputs of stations for some days from loopback services: values, time, requests and bytes against the plan.

    python benchmarks/stations.py --stations 100 --days 365 --kill
    python benchmarks/stations.py --stations 300 --days 2557 --plan
    python benchmarks/stations.py --source earthengine --stations 100 --days 365

Clients, catalogues, listings, tokens and ranges of bytes are real; pixels are constants or cheap formulas, because
computing them would be the time of the service. The open services run in a process of their own; all values that are
read of them are compared with the formulas. `--plan` prints the dry run alone. `--kill` kills the reading process in
the middle and starts another one, which continues. `--wait` is the time of an answer with pixels of Earth Engine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests"), str(ROOT)]

from loopback import metered, serve, serving  # noqa: E402
from measure import Cost  # noqa: E402
from mmnet_maps.grid.tiles import conus_grid, pixel_of  # noqa: E402
from mmnet_maps.mapping.points_estimate import format_points_estimate  # noqa: E402
from mmnet_maps.mapping.request import needs_of  # noqa: E402
from mmnet_maps.model.checkpoint import load_checkpoint  # noqa: E402
from mmnet_maps.sources.base import Source  # noqa: E402
from mmnet_maps.stack.needs import Needs  # noqa: E402
from mmnet_maps.stack.pixels import choose_for_points, point_stacks, read_pixel  # noqa: E402
from mmnet_maps.stack.point_estimate import PointsEstimate, estimate_points  # noqa: E402
from mmnet_maps.stack.point_plan import Point  # noqa: E402
from mmnet_maps.variables import VARIABLES  # noqa: E402
from station_services import serve_everything, stations  # noqa: E402
from station_values import Checked  # noqa: E402

FIRST = date(2018, 1, 1)

USE = ["smap", "hls", "sentinel1", "lst", "weather", "elevation", "landcover", "soil"]
"""Products of the open services."""

KINDS = ("requests", "again", "bytes")


def serve_stations(last: date, port: int) -> None:
    """Serve the open services at a port; 0 for a free one."""
    from fake_open import FakeOpen

    with FakeOpen(port) as server:
        serve_everything(server, last + timedelta(days=90))
        serve(server, USE)


@dataclass
class Sent:
    """What a server sent: requests, those of them that were sent again, and bytes by group; its processor seconds."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: {kind: Counter() for kind in KINDS})
    seconds: float = 0.0

    def add(self, found: Mapping[str, Any]) -> None:
        """Add what was sent since the last call."""
        for kind in KINDS:
            self.counts[kind].update(found[kind])
        self.seconds += found["seconds"]


@contextmanager
def earth_engine(folder: Path, last: date, wait: float) -> Iterator[tuple[Source, Callable[[], Sent]]]:
    """Serve Earth Engine with constant pixels; yield a source, and what was sent since the last call."""
    import earthengine_catalog as world

    world.FIRST, world.LAST = FIRST - timedelta(days=90), last + timedelta(days=90)
    world.days.__defaults__ = world.FIRST, 1
    world.bounds_of = lambda lattice: None  # scenes of Landsat and radar are everywhere
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

    def sent() -> Sent:
        log, server.log[:] = list(server.log), []
        found = Sent()
        for one in log:
            name = "pixels" if one.is_pixels else "listings"
            found.add({"requests": [name], "again": {}, "bytes": {name: one.sent}, "seconds": 0.0})
        return found

    with service.FakeEarthEngine(workers=2) as server, service.offline():
        yield EarthEngineSource(config(folder, server)), sent


def read(source: Source, points: Sequence[Point], needs: Needs, folder: Path, checked: Checked | None) -> int:
    """Read everything, compare it, and print each tenth station; return the number of rows."""
    done = rows = 0
    for number, days, stack in point_stacks([source], points, needs, folder=folder):
        columns = read_pixel(stack, points[number].pixel, days, needs)
        rows += len(days)
        if checked:
            checked.add(points[number].pixel, days, columns, needs)
        if number >= done:
            print(number + 1, flush=True)
            done = number + max(1, len(points) // 10)
    return rows


def read_open(yaml: str, points: Sequence[Point], needs: Needs, folder: Path) -> None:
    """Read everything from open services, and print what was compared."""
    from mmnet_maps.sources.open.source import OpenSource

    rows = read(OpenSource(yaml), points, needs, folder, checked := Checked())
    print(f"{rows} rows")
    for name, count in checked.values.items():
        print(f"{name}: {count} values, {checked.undecided[name]} undecided, at most {checked.worst[name]:.2g} off")


def run_child(command: Sequence[str], stop_at: int | None, url: str) -> tuple[Cost, Sent, int]:
    """Run a command that prints numbers of stations, kill it at one of them.

    Returns
    -------
    cost, sent, code
        What it took, what was sent, and its exit code.
    """
    began, sent = time.perf_counter(), Sent()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        sent.add(metered(url))  # often, because the server remembers each request until then
        number, text = int(line) if line.strip().isdigit() else 0, line.rstrip()
        if number:
            text += f" ({', '.join(f'{name} {count}' for name, count in sorted(sent.counts['requests'].items()))})"
        print(f"  {time.perf_counter() - began:.0f} s: {text}", flush=True)
        if stop_at and number >= stop_at:
            child.kill()
            break
    child.stdout.close()
    _, status, used = os.wait4(child.pid, 0)
    wall, child.returncode = time.perf_counter() - began, os.waitstatus_to_exitcode(status)
    sent.add(metered(url))
    cost = Cost(wall=wall, user=used.ru_utime, system=used.ru_stime, peak_mb=used.ru_maxrss / 1e3)
    return cost, sent, child.returncode


def report(sent: Sent, plan: PointsEstimate | None, stations: int) -> None:
    """Print what was sent, against the plan of each group."""
    planned = {item.group: item.cost for item in plan.groups if item.cost} if plan else {}
    requests, again, sizes = (sent.counts[kind] for kind in KINDS)
    for name, count in sorted(requests.items()):
        line = f"  {name:10} {count:8} requests, {count / stations:8.1f} a station, {sizes[name] / 1e6:10.1f} MB"
        if name in planned:
            cost = planned[name]
            line += f", {count / cost.requests:.3f} and {sizes[name] / cost.bytes:.3f} of the plan"
        print(f"{line}; {again[name]} sent again")
    if planned:
        count, size = (sum(of[name] for name in planned) for of in (requests, sizes))
        print(f"  together {count} requests, {count / sum(one.requests for one in planned.values()):.3f} of the plan; "
              f"{size / 1e9:.1f} GB, {size / sum(one.bytes for one in planned.values()):.3f}", flush=True)  # fmt: skip


def dry_run(source: Source, points: Sequence[Point], needs: Needs) -> PointsEstimate:
    """Estimate the reads, and print the estimate."""
    choose_for_points([source], points, needs)
    began = time.time()
    found = estimate_points([source], points, needs)
    print(format_points_estimate(found))
    print(f"the dry run took {time.time() - began:.0f} s", flush=True)
    return found


def run_open(args: argparse.Namespace, points: Sequence[Point], needs: Needs, folder: Path) -> None:
    """Plan, and read in processes of their own."""
    import yaml

    from mmnet_maps.sources.open.source import OpenSource
    from open_routes import Earthdata

    os.environ |= {
        "EARTHDATA_TOKEN": Earthdata().tokens[0], "MMNET_CACHE": str(folder / "cache"), "NETRC": str(folder / "none")
    }  # fmt: skip
    command, given = [sys.executable, __file__], [f"--{key}={getattr(args, key)}" for key in
                                                  ("stations", "days", "model", "groups")]  # fmt: skip
    config = folder / "open.yaml"
    port = 0
    if config.exists():  # of an earlier run: finished reads are those of a server at the same address
        known = yaml.safe_load(config.read_text(encoding="utf-8"))
        port = urlsplit(known["services"]["earthdata"]["url"]).port
    with serving([*command, *given, f"--port={port}", "--serve"]) as server:
        config.write_text(yaml.safe_dump(server["config"]), encoding="utf-8")
        plan = dry_run(OpenSource(config), points, needs)
        print(f"the dry run sent {sum(metered(server['url'], forget=True)['requests'].values())} requests", flush=True)
        if args.plan:
            return
        reading = [*command, *given, f"--read={config}", f"--folder={folder / 'parts'}"]
        total = Sent()
        for stop_at in [len(points) // 2, None] if args.kill else [None]:
            cost, sent, code = run_child(reading, stop_at, server["url"])
            print(f"ended with {code} after {cost.wall:.0f} s, {cost.user:.0f} + {cost.system:.0f} "
                  f"core-s, {cost.peak_mb:.0f} MB; the server {sent.seconds:.0f} core-s")  # fmt: skip
            report(sent, None, len(points))
            total.add({**sent.counts, "seconds": sent.seconds})
            if code and not stop_at:
                raise SystemExit(f"reading failed; finished reads are in {folder}")
        print("in all:")
        report(total, plan, len(points))
    kept = list((folder / "parts").iterdir())
    print(f"  {len(kept)} finished reads kept, {sum(path.stat().st_size for path in kept) / 1e6:.1f} MB")


def run_earth_engine(args: argparse.Namespace, points: Sequence[Point], needs: Needs, folder: Path) -> None:
    """Plan and read in this process."""
    with earth_engine(folder, points[0].days[-1], args.wait) as (source, sent):
        plan = dry_run(source, points, needs)
        sent()
        if args.plan:
            return
        began, used = time.time(), resource.getrusage(resource.RUSAGE_SELF)
        rows = read(source, points, needs, folder / "parts", None)
        use = resource.getrusage(resource.RUSAGE_SELF)
        print(f"{rows} rows, {time.time() - began:.0f} s; {use.ru_utime - used.ru_utime:.0f} + "
              f"{use.ru_stime - used.ru_stime:.0f} core-s and {use.ru_maxrss // 1024} MB with the server")  # fmt: skip
        report(found := sent(), None, len(points))
        if plan.cost:
            print(f"  {found.counts['requests']['pixels'] / plan.cost.requests:.3f} of the planned requests")


def of_groups(model: str, groups: Sequence[str]) -> Needs:
    """Return what a model needs of some groups."""
    needs = needs_of(load_checkpoint(model).spec)
    snapshot, series = (
        tuple(name for name in names if VARIABLES[name].group in groups) for names in (needs.snapshot, needs.series)
    )
    return replace(needs, snapshot=snapshot, series=series, groups=())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=("open", "earthengine"), default="open")
    parser.add_argument("--stations", type=int, default=100)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--model", default="mmnet-uscrn")
    parser.add_argument("--groups", default="smap,weather,lst,optical,sar,terrain,landcover,soil", help="with commas")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--kill", action="store_true", help="kill the reading process in the middle, and continue")
    parser.add_argument("--keep", type=Path, help="folder of finished reads, with which the same command continues")
    parser.add_argument("--wait", type=float, default=0.1)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    days = tuple(FIRST + timedelta(days=k) for k in range(args.days))
    if args.serve:
        return serve_stations(days[-1], args.port)
    needs = of_groups(args.model, args.groups.split(","))
    points = [
        Point(name=f"station {k}", pixel=pixel_of(conus_grid(), *place), days=days)
        for k, place in enumerate(stations(args.stations))
    ]
    if args.read:
        return read_open(args.read, points, needs, args.folder)
    run = run_open if args.source == "open" else run_earth_engine
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
        return run(args, points, needs, args.keep)
    with tempfile.TemporaryDirectory() as name:
        run(args, points, needs, Path(name))


if __name__ == "__main__":
    main()
