"""Measure the speed of maps on this machine, on the demo world; all numbers of docs/benchmarks.md come from here.

python benchmarks/bench.py [--quick] [--json FILE]                  this code beside the machine's limits
python benchmarks/bench.py --against REV [--quick] [--json FILE]    a revision and this code in turn, as ratios

The code of REV, the stacks and the maps go into one folder, build by default. The first run fills the stacks, five
minutes and 2 GB each, three times as much without --against; later ones use them again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from against import DAY, HERE, HOME, QUICK, ROOT, TILES, Sizes, compare, fill, stages, working_tree
from daily import CONUS_BLOCK, by_cores, conus_day, days_in_a_row, reading, with_gpu
from measure import Code, measured


def describe() -> str:
    """Return processor, cores and commit of this run."""
    commit = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    name = names[0].split(":")[1].strip() if names else platform.machine()
    return f"{name}, {cores} cores, {commit.stdout.strip()}"


def machine(code: Code, folder: Path) -> dict[str, float]:
    """Measure the limits of the machine."""
    command = [sys.executable, str(HERE / "limits.py"), str(folder)]
    found = json.loads(measured(command, code, folder / "work")[1])
    cores = int(found["cores"])
    for threads in sorted({1, cores}):
        print(
            f"{threads} of {cores} cores: matrix products {found[f'float32_gflop_s_{threads}']:.0f} GFLOP/s, bfloat16 "
            f"{found[f'bfloat16_gflop_s_{threads}']:.0f}; memory copy {found[f'memory_gb_s_{threads}']:.1f} GB/s"
        )
    print(f"  writing to disk {found['disk_gb_s']:.2f} GB/s", flush=True)
    return dict(found)


def this_code(folder: Path, quick: bool) -> dict[str, Any]:
    """Measure this code alone: parts of a tile, the engine, a day of CONUS, cores, threads and days."""
    code, work = working_tree(folder), folder / "bench-work"
    tiles, few, days = (TILES[:4], 1, 2) if quick else (CONUS_BLOCK, 8, 10)
    fill(code, tiles, work, days)
    parts = stages(code, work / "stages", tiles[: 2 if quick else 5], "--days", str(days))
    for name, cost in parts.items():
        print(f"{name}: {cost.user:.2f} core-s user, {cost.system:.2f} system, {cost.wall:.2f} s", flush=True)
    found: dict[str, Any] = {
        "stages": {name: cost.as_dict() for name, cost in parts.items()},
        "days_in_a_row": days_in_a_row(parts, days),
        "with_gpu": with_gpu(parts),
        "reading": reading(code, work, tiles[:8], (1, 2) if quick else (1, 2, 4)),
        "cores": by_cores(code, work, tiles[: 3 if quick else 12], 1 if quick else 4),
        "conus": conus_day(code, work, tiles, few),
    }
    engine = work / "engine.json"
    command = [sys.executable, str(HERE / "engine_speed.py"), str(code.stack), HOME, str(DAY), str(engine)]
    print(measured([*command, *(["--quick"] if quick else [])], code, work)[1], flush=True)
    return found | {"engine": json.loads(engine.read_text(encoding="utf-8"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="REV", help="compare with this revision")
    parser.add_argument("--rounds", type=int, default=Sizes.rounds, help="how often each revision is measured")
    parser.add_argument("--folder", type=Path, default=ROOT / "build", help="where code, stacks and maps are kept")
    parser.add_argument("--json", type=Path, help="write the numbers to a file")
    parser.add_argument("--quick", action="store_true", help="few tiles, days and members, one round")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": describe()}
    print(found["machine"])
    found["limits"] = machine(working_tree(folder), folder)
    if options.against:
        sizes = QUICK if options.quick else Sizes(rounds=options.rounds)
        found["comparison"] = compare(options.against, folder, sizes)
    else:
        found |= this_code(folder, options.quick)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
