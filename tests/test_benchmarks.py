"""The comparison of `benchmarks/bench.py --against`: its arithmetic, its children, and the stages that it calls."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import against
import daily
import route
import stages
from against import QUICK, ROWS, archived, check_code, compared, printed, route_of, table, working_tree
from batch_world import CORNER, DAYS
from measure import Code, Cost, Stages, measured
from mmnet_maps.grid.tiles import conus_tiles
from mmnet_maps.mapping.batch.plan import plan_batch
from mmnet_maps.mapping.pipeline import map_tile

ROOT = Path(__file__).parents[1]


def cost(value: float) -> Cost:
    return Cost(wall=value, user=2 * value, system=value / 2, peak_mb=100 * value)


def test_a_further_tile_is_the_difference_over_their_number() -> None:
    further = cost(16).less(cost(4), 12)
    assert (further.wall, further.user, further.system, further.core_s) == (1, 2, 0.5, 2.5)
    assert further.peak_mb == 1600


def test_ratios_are_those_of_the_rounds_and_the_rows_their_medians() -> None:
    rounds = [
        {"old": dict.fromkeys(ROWS, cost(before)), "now": dict.fromkeys(ROWS, cost(now))}
        for before, now in ((8, 2), (9, 3), (5, 1))
    ]
    heading, *rows = table(rounds, ["old", "now"], QUICK)
    assert heading == ["", "old", "now", "ratio", "of the rounds"]
    assert {tuple(row[3:]) for row in rows} == {("4.00", "3.00–5.00")}
    by_title = {row[0]: row[1:3] for row in rows}
    assert by_title["read, core-s a tile"] == ["20", "5"]
    assert by_title["mmnet batch, 3 tiles, two workers, s"] == ["8", "2"]
    assert by_title["mmnet batch, peak MB of a worker"] == ["800", "200"]
    assert len({len(line) for line in printed([heading, *rows]).splitlines()}) == 1


def test_a_child_is_measured_with_what_it_starts(tmp_path: Path) -> None:
    code = Code(name="this", folder=ROOT, stack=tmp_path / "s.zarr")
    inner = "import time; start = time.process_time()\nwhile time.process_time() - start < 0.3: pass"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}]); print('done')"
    found, text = measured([sys.executable, "-c", outer], code, tmp_path / "work")
    assert text == "done\n"
    assert found.core_s >= 0.3
    assert found.peak_mb > 5
    with pytest.raises(SystemExit, match=r"this: raise SystemExit\('no'\) ended with 1\nno"):
        measured([sys.executable, "-c", "raise SystemExit('no')"], code, tmp_path / "work")


def test_stages_are_summed() -> None:
    found = Stages()
    for _ in range(2):
        with found.stage("busy"):
            start = time.process_time()
            while time.process_time() - start < 0.05:
                pass
    assert [*found.costs] == ["busy"]
    assert found.costs["busy"].core_s >= 0.1 - 2e-3
    assert found.costs["busy"].wall >= 0.1


def test_the_first_tile_warms_and_is_not_counted() -> None:
    calls: list[tuple[str, str]] = []

    def called(name: str) -> object:
        return lambda request, *_: calls.append((name, request))

    fake = SimpleNamespace(
        requests=lambda stack, out, tiles, days, members=0: [f"{tile} {members} {len(days)}" for tile in tiles],
        **{name: called(name) for name in ("read", "series", "pixel", "write")},
    )
    given = fake, "s.zarr", date(2021, 8, 8), ["a", "b", "c"]
    assert [*stages.measure_steps(*given)] == ["read", "series", "pixel"]
    assert [*stages.measure_maps(*given, members=5, days=3)] == ["map", "members", "days"]
    assert calls == [
        *((name, f"{tile} 0 1") for tile in "abc" for name in ("read", "series", "pixel")),
        *(("write", f"{tile} 0 1") for tile in "abc"),
        ("write", "a 5 1"),
        ("write", "a 0 3"),
    ]


def test_the_route_of_this_revision_makes_the_map(tmp_path: Path, corner_stack: Path, model: Path) -> None:
    """Its calls are those of the pipeline: whoever changes them changes `benchmarks/route.py` too."""
    batch = plan_batch(CORNER, DAYS, stack=corner_stack, model=model, out=tmp_path / "maps", name="corner")
    request = batch.requests[0]
    part = route.read(request, DAYS[0])
    route.pixel(request, part, route.series(request, part))
    seen = route.inputs(part)
    assert {values.size for values in seen.values()} <= {1, seen["inside"].size}
    assert {"smap", "series of pr", "inside"} <= set(seen)
    route.write(request, DAYS[:2])
    expected = map_tile(request, request.tiles[0], DAYS[0])["soil_moisture"]
    assert np.isfinite(expected).any()
    assert len([*(tmp_path / "maps").glob("*/*_soil_moisture.tif")]) == 2


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the history")
def test_a_revision_is_unpacked_and_runs_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "repository"
    (home / "mmnet_maps").mkdir(parents=True)
    (home / "mmnet_maps" / "__init__.py").write_text("old = True\n")
    git = ["git", "-C", str(home), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(against, "ROOT", home)
    code = archived("HEAD", tmp_path)
    assert code.folder == tmp_path / f"against-{code.name}"
    assert (code.folder / "mmnet_maps" / "__init__.py").read_text() == "old = True\n"
    assert archived("HEAD", tmp_path) == code
    check_code(code, tmp_path / "work")
    shutil.rmtree(code.folder / "mmnet_maps")
    with pytest.raises(SystemExit, match="not the code in"):
        check_code(code, tmp_path / "work")
    with pytest.raises(SystemExit, match="--against nothing: no such revision"):
        archived("nothing", tmp_path)


def test_each_revision_is_measured_by_its_own_route(tmp_path: Path) -> None:
    assert route_of(working_tree(tmp_path)) == ROOT / "benchmarks" / "route.py"
    oldest = Code(name="old", folder=tmp_path, stack=tmp_path / "s.zarr")
    assert route_of(oldest) == ROOT / "benchmarks" / "route_of_one_folder.py"


def test_inputs_that_differ_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside = np.array([True, True, True, False])
    first = {"inside": inside, "smap": np.array([1, 2, 3, 4]), "lst": np.array([1.0, np.nan, 3.0, 4.0])}
    second = {"inside": inside, "smap": np.array([1, 2, 9, 9]), "lst": first["lst"] * (1 + 1e-9), "ph": inside}
    for name, arrays in (("a", first), ("b", second)):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    compared([str(tmp_path / "a.npz"), str(tmp_path / "b.npz")])
    assert json.loads(capsys.readouterr().out) == {"ph": 1.0, "smap": pytest.approx(1 / 3)}


def test_conus_is_all_its_tiles() -> None:
    assert len(conus_tiles()) == daily.CONUS_TILES
    assert set(daily.CONUS_BLOCK) <= set(conus_tiles())
    assert len(daily.CONUS_BLOCK) == 40
    assert daily.CONUS_BLOCK[:16] == against.TILES


def test_a_machine_with_a_gpu_waits_for_the_slower_part() -> None:
    parts = {"map": cost(4), "series": cost(1), "pixel": cost(1)}
    found = daily.with_gpu(parts)
    assert found["cores_s"] == pytest.approx(5 / 16)
    assert found["conus_s"] == pytest.approx(869 * 5 / 16)
    assert found["gpu_busy"] == pytest.approx(daily.GPU_S / (5 / 16))


def test_days_in_a_row_are_compared_with_single_days() -> None:
    assert daily.days_in_a_row({"days": cost(7), "map": cost(2)}, 10) == pytest.approx(0.35)
