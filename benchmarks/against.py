"""Compare the working tree with another revision, both measured in turn on the same tiles of the demo world.

Everything runs in child processes, by the command line where there is a command for it. Each revision fills a stack of
its own, because the format of stacks may differ; the inputs of one tile are compared.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from measure import Code, Cost, measured

HERE = Path(__file__).parent
ROOT = HERE.parent
COUNTY = ROOT / "examples" / "grant_county.geojson"
DAY = date(2021, 8, 8)
HOME = "h06v03"
TILES = [HOME, *(tile for v in range(2, 6) for h in range(5, 9) if (tile := f"h{h:02d}v{v:02d}") != HOME)]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured: tiles of the two batches, tiles of the stages, members, rounds."""

    tiles: int = 16
    few: int = 4
    staged: int = 4
    members: int = 20
    rounds: int = 3


QUICK = Sizes(tiles=3, few=1, staged=2, members=2, rounds=1)

ROWS = {
    "read": ("read, core-s a tile", "core_s"),
    "series": ("series branch, core-s a tile", "core_s"),
    "pixel": ("pixel branch, core-s a tile", "core_s"),
    "map": ("a map from stack to files, core-s a tile", "core_s"),
    "write": ("  of which is left for writing", "core_s"),
    "members": ("a tile with {members} members, core-s", "core_s"),
    "members wall": ("a tile with {members} members, s", "wall"),
    "county": ("mmnet-map of Grant County, s", "wall"),
    "county cores": ("mmnet-map of Grant County, core-s", "core_s"),
    "county memory": ("mmnet-map of Grant County, peak MB", "peak_mb"),
    "batch": ("mmnet batch, {tiles} tiles, two workers, s", "wall"),
    "further wall": ("a further tile of it, s", "wall"),
    "further": ("a further tile of it, core-s", "core_s"),
    "further user": ("  of which user", "user"),
    "further system": ("  of which system", "system"),
    "batch memory": ("mmnet batch, peak MB of a worker", "peak_mb"),
}


def archived(revision: str, folder: Path) -> Code:
    """Unpack the code of a revision into a folder of its own, once."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--short", f"{revision}^{{commit}}"], capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"--against {revision}: no such revision in {ROOT}; expected a commit, a tag or a branch")
    name = found.stdout.strip()
    target = folder / f"against-{name}"
    if not target.exists():
        packed = subprocess.run([*git, "archive", name], capture_output=True, check=True).stdout
        partial = folder / f"against-{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            tar.extractall(partial, filter="data")
        partial.rename(target)
    return Code(name=name, folder=target, stack=folder / f"against-{name}.zarr")


def working_tree(folder: Path) -> Code:
    """Return the code that lies around this file."""
    return Code(name="now", folder=ROOT, stack=folder / "bench.zarr")


def check_code(code: Code, folder: Path) -> None:
    """Make sure that children of a revision run its code, not an installed one."""
    _, text = measured([sys.executable, "-c", "import mmnet_maps; print(mmnet_maps.__file__)"], code, folder)
    if code.folder.resolve() not in Path(text.strip()).resolve().parents:
        raise SystemExit(f"{code.name}: Python runs {text.strip()}, not the code in {code.folder}")


def fill(code: Code, tiles: Sequence[str], folder: Path, days: int = 1) -> None:
    """Fill the stack of a revision: tiles on the day, its first days of the home tile, and Grant County.

    A note beside the stack says what was fetched, because asking the stack takes as long as reading it.
    """
    note = code.stack.with_suffix(".filled.json")
    done = set(json.loads(note.read_text(encoding="utf-8"))) if note.exists() and code.stack.exists() else set()
    span = [str(DAY + timedelta(k)) for k in range(days)]
    for what, where, names in (
        ("tiles", ["--tiles", ",".join(tiles), "--start", span[0]], {f"{tile} {span[0]}" for tile in tiles}),
        ("days", ["--tiles", HOME, "--start", span[0], "--end", span[-1]], {f"{HOME} {day}" for day in span}),
        ("Grant County", ["--aoi", str(COUNTY), "--start", span[0]], {f"county {span[0]}"}),
    ):
        if not names <= done:
            print(f"{code.name}: filling {code.stack} with {what} of the demo world …", flush=True)
            measured(code.mmnet("stack", *where, "--source", "demo", "--out", str(code.stack), "-q"), code, folder)
            done |= names
            note.write_text(json.dumps(sorted(done)), encoding="utf-8")


def batch(code: Code, tiles: Sequence[str], folder: Path, *options: str, workers: int = 2) -> Cost:
    """Run `mmnet batch` of one day into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    given = ["--tiles", ",".join(tiles), "--stack", str(code.stack), "--out", str(folder / "maps")]
    command = code.mmnet("batch", "--date", str(DAY), *given, "--workers", str(workers), "-q", *options)
    return measured(command, code, folder)[0]


def county(code: Code, folder: Path) -> Cost:
    """Run `mmnet-map` of Grant County into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    given = ["--aoi", str(COUNTY), "--date", str(DAY), "--stack", str(code.stack), "--out", str(folder / "maps"), "-q"]
    return measured(code.mmnet_map(*given), code, folder)[0]


def route_of(code: Code) -> Path:
    """Return the script that calls the stages of a revision: its own, or that for the oldest layout."""
    own = code.folder / "benchmarks" / "route.py"
    return own if own.exists() else HERE / "route_of_one_folder.py"


def stages(code: Code, folder: Path, tiles: Sequence[str], *options: str) -> dict[str, Cost]:
    """Measure the steps of a map and whole maps with the code of a revision; `write` is what the steps leave."""
    command = [sys.executable, str(HERE / "stages.py"), str(route_of(code)), str(code.stack), str(DAY), *tiles]
    found = {}
    for more in ([], ["--maps", *options]):
        text = measured([*command, *more], code, folder)[1]
        found |= {name: Cost(**values) for name, values in json.loads(text).items()}
    write = found["map"]
    for step in ("read", "series", "pixel"):
        write = write.less(found[step])
    return found | {"write": write}


def differing_inputs(codes: Sequence[Code], folder: Path) -> dict[str, float]:
    """Return the variables of the home tile that differ between two revisions, with their share of the pixels."""
    files = []
    for code in codes:
        files.append(str(folder / f"inputs-{code.name}.npz"))
        command = [sys.executable, str(HERE / "stages.py"), str(route_of(code)), str(code.stack), str(DAY), HOME]
        measured([*command, "--inputs", files[-1]], code, folder)
    script = f"from against import compared; compared({files!r})"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(HERE)!r}); {script}"]
    return dict(json.loads(measured(command, codes[0], folder)[1]))


def compared(files: Sequence[str]) -> None:
    """Print the share of pixels whose inputs differ in two files, by variable; run it in a process of its own."""
    import numpy as np

    first, second = (np.load(file) for file in files)
    inside = first["inside"] & second["inside"]
    found = {}
    for name in sorted({*first} | {*second}):
        if name not in first or name not in second:
            found[name] = 1.0
            continue
        a, b = first[name], second[name]
        a, b = (values[inside] if values.size == inside.size and name != "inside" else values for values in (a, b))
        same = np.isclose(a, b, rtol=1e-6, equal_nan=True) if a.dtype.kind == "f" else a == b
        found[name] = float(1 - same.mean())
    print(json.dumps({name: share for name, share in found.items() if share}))


def one_round(code: Code, sizes: Sizes, folder: Path) -> dict[str, Cost]:
    """Measure all rows of one revision once."""
    many, few = (batch(code, TILES[:count], folder / "batch") for count in (sizes.tiles, sizes.few))
    parts = stages(code, folder / "stages", TILES[: sizes.staged], "--members", str(sizes.members))
    further = many.less(few, sizes.tiles - sizes.few)
    map_ = county(code, folder / "county")
    return {
        **parts,
        "members wall": parts["members"],
        **dict.fromkeys(("county", "county cores", "county memory"), map_),
        **dict.fromkeys(("batch", "batch memory"), many),
        **dict.fromkeys(("further wall", "further", "further user", "further system"), further),
    }


def table(rounds: Sequence[Mapping[str, Mapping[str, Cost]]], names: Sequence[str], sizes: Sizes) -> list[list[str]]:
    """Return the rows of the comparison: medians over rounds, and the median of the rounds' ratios with their range."""
    rows = [["", *names, "ratio", "of the rounds"]]
    for name, (title, figure) in ROWS.items():
        values = [[getattr(one[code][name], figure) for code in names] for one in rounds]
        ratios = sorted(before / now if now > 0 else float("nan") for before, now in values)
        middle = [f"{median(column):.4g}" for column in zip(*values, strict=True)]
        text = title.format(tiles=sizes.tiles, members=sizes.members)
        rows.append([text, *middle, f"{median(ratios):.2f}", f"{ratios[0]:.2f}–{ratios[-1]:.2f}"])
    return rows


def printed(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as a table of text."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    aligned = ([row[0].ljust(widths[0]), *(row[k].rjust(widths[k]) for k in range(1, len(row)))] for row in rows)
    return "\n".join("  ".join(row) for row in aligned)


def compare(revision: str, folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Measure a revision and the working tree in turn, and print the ratios; returns all figures."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    codes = [archived(revision, folder), working_tree(folder)]
    work = folder / "against-work"
    for code in codes:
        check_code(code, work)
        fill(code, TILES[: max(sizes.tiles, sizes.staged)], work)
    different = differing_inputs(codes, work)
    print("inputs that differ, share of pixels:", different or "none", flush=True)
    rounds: list[dict[str, dict[str, Cost]]] = []
    for number in range(sizes.rounds):
        rounds.append({code.name: one_round(code, sizes, work / code.name) for code in codes})
        print(f"\nround {number + 1} of {sizes.rounds}", flush=True)
        print(printed(table(rounds[-1:], [code.name for code in codes], sizes)), flush=True)
    rows = table(rounds, [code.name for code in codes], sizes)
    print(f"\nall rounds, medians\n{printed(rows)}")
    return {
        "against": codes[0].name,
        "inputs_that_differ": different,
        "rounds": [{c: {n: v.as_dict() for n, v in costs.items()} for c, costs in one.items()} for one in rounds],
        "table": rows,
    }
