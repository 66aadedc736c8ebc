"""The commands as users type them: what they print, where they leave files, how they refuse."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest
import shapely
import torch

from analytic import AnalyticSource, make_model
from map_files import DAY as MAP_DAY
from map_files import grid_at, write_map
from mmnet_maps import cli
from mmnet_maps.grid.area import LONLAT, read_aoi, transform_geometry
from mmnet_maps.grid.tiles import target_grid, touched_tiles
from mmnet_maps.mapping.request import needs_of
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand

AREA = "-119.60,47.10,-119.55,47.13"
DAY = "2021-08-08"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    from mmnet_maps import load_model

    area = read_aoi(AREA)
    grid = target_grid(area)
    path = tmp_path_factory.mktemp("inputs") / "s.zarr"
    needs = needs_of(load_model(model).spec)
    days = [date.fromisoformat(DAY)]
    fetch(
        path, [AnalyticSource()], Demand(grid=grid, tiles=touched_tiles(area, grid), needs=needs, days=days), quiet=True
    )
    return path


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``mmnet …``."""
    monkeypatch.setattr(sys, "argv", ["mmnet", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def geojson(path: Path, geometry: object) -> Path:
    path.write_text(shapely.to_geojson(geometry) if isinstance(geometry, shapely.Geometry) else json.dumps(geometry))
    return path


def test_the_map_command_says_where_the_maps_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, model: Path, tmp_path: Path
) -> None:
    words = ["map", "--aoi", AREA, "--date", DAY, "--stack", inputs, "--model", model, "--out", tmp_path / "maps", "-q"]
    code, out, err = run(capsys, monkeypatch, *words)
    assert code == 0, err
    named = [Path(text) for text in re.findall(r"\S+\.(?:tif|png)", out)]
    assert {path.name for path in named} == {"aoi_20210808_soil_moisture.tif", "aoi_20210808.png"}
    assert all(path.exists() for path in named)
    assert {path.name for path in (tmp_path / "maps" / "20210808").iterdir()} == {
        "aoi_20210808_soil_moisture.tif",
        "aoi_20210808_quality.tif",
        "aoi_20210808_smap.tif",
        "aoi_20210808.json",
        "aoi_20210808.png",
        "catalog.json",
    }
    assert "thermometer" in err  # the stand-in is told


def test_the_stack_command_fills_as_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    asked: list[tuple[object, ...]] = []

    def fill(aoi: object, days: object, **options: object) -> str:
        asked.append((aoi, days, options))
        return "what it would take"

    monkeypatch.setattr("mmnet_maps.mapping.fill.fill_stack", fill)
    base = ("stack", "--start", DAY, "--source", "demo", "--out", "s.zarr")
    assert run(capsys, monkeypatch, *base, "--aoi", AREA, "-q") == (0, "s.zarr\n", "")
    assert run(capsys, monkeypatch, *base, "--tiles", "h06v03, h06v04", "--dry-run")[1] == "what it would take\n"
    rest = {"source": "demo", "stack": "s.zarr", "model": None, "resolution": None, "crs": None}
    assert asked == [
        (AREA, f"{DAY}/{DAY}", {**rest, "tiles": None, "dry_run": False, "quiet": True}),
        (None, f"{DAY}/{DAY}", {**rest, "tiles": ("h06v03", "h06v04"), "dry_run": True, "quiet": False}),
    ]
    refused(*run(capsys, monkeypatch, *base), 2, "either --aoi or --tiles")
    refused(*run(capsys, monkeypatch, *base, "--aoi", AREA, "--tiles", "h06v03"), 2, "either --aoi or --tiles")
    refused(*run(capsys, monkeypatch, "stack", "--aoi", AREA), 2, "Missing option '--start'")
    refused(
        *run(capsys, monkeypatch, "stack", "--aoi", AREA, "info", "s.zarr"),
        2,
        "--aoi comes before info; options of info must",
    )
    assert len(asked) == 2


def test_a_stack_is_looked_at(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, tmp_path: Path
) -> None:
    words = ("stack", "info", inputs, "--json", tmp_path / "s.json", "--png", tmp_path / "s.png")
    code, out, err = run(capsys, monkeypatch, *words, "--start", "2021-08-01", "--end", DAY, "--aoi", AREA)
    assert (code, err) == (0, "")
    assert "2021-08-01 to 2021-08-08" in out
    assert "never fetched" in out
    assert len(json.loads((tmp_path / "s.json").read_text())["availability"]["days"]) == 8
    assert (tmp_path / "s.png").stat().st_size > 10_000
    assert run(capsys, monkeypatch, "stack", "info", inputs)[0] == 0
    refused(*run(capsys, monkeypatch, "stack", "info", "none.zarr"), 3, "no stack at none.zarr")
    refused(*run(capsys, monkeypatch, "stack", "info", inputs, "--end", DAY), 2, "--end is given without --start")


def test_a_stack_is_checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, model: Path
) -> None:
    base = ("stack", "check", inputs, "--model", model, "--aoi", AREA)
    code, out, err = run(capsys, monkeypatch, *base, "--date", DAY)
    assert (code, err) == (0, "")
    assert f"{DAY}  can run: " in out
    assert "lst: closed formula (trained on thermometer)" in out
    command = out.splitlines()[-1].removeprefix("next: mmnet ")
    assert command == f"map --aoi {AREA} --date {DAY} --stack {inputs} --model {model}"
    assert run(capsys, monkeypatch, *command.split(), "-q", "--out", "made")[0] == 0

    code, out, err = run(capsys, monkeypatch, *base, "--date", f"{DAY}/2021-08-10")
    assert (code, err) == (3, "")
    gaps = [line for line in out.splitlines() if line.startswith("missing")]
    assert [line.split()[1] for line in gaps] == ["smap", "weather"]
    assert all("no map of 2021-08-09 to 2021-08-10" in line for line in gaps)
    assert out.splitlines()[-1].startswith(f"next: mmnet stack --aoi {AREA} --start 2021-08-09 --end 2021-08-10")
    code, out, _ = run(capsys, monkeypatch, "stack", "check", inputs, "--model", model, "--date", DAY)
    assert code == 0
    assert "all that was fetched" in out
    refused(*run(capsys, monkeypatch, *base, "--date", "nonsense"), 2, "malformed")


BAD_AREAS = {
    "missing": ("none.geojson", 2, "none.geojson"),
    "nobody's": ("~no-such-user/a.geojson", 2, "cannot be opened"),
    "empty": ({"type": "FeatureCollection", "features": []}, 2, "no polygon|empty|no feature"),
    "not json": ("text.geojson", 2, "text.geojson"),
    "self-crossing": (shapely.Polygon([(-119, 47), (-118, 48), (-118, 47), (-119, 48)]), 2, "cross|invalid|valid"),
    "outside": (shapely.box(10, 50, 11, 51), 2, "conterminous"),
    "point": (shapely.Point(-119, 47), 2, "mmnet points"),
    "line": (shapely.LineString([(-119, 47), (-118, 47)]), 2, "mmnet points"),
    "swapped": (shapely.box(47.0, -119.6, 47.3, -119.3), 2, "swapped|latitude"),
}


@pytest.mark.parametrize("kind", BAD_AREAS)
def test_a_wrong_area_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    what, expected, message = BAD_AREAS[kind]
    Path("text.geojson").write_text("nonsense")
    aoi = what if isinstance(what, str) else geojson(tmp_path / "area.geojson", what)
    code, out, err = run(capsys, monkeypatch, "map", "--aoi", aoi, "--date", DAY)
    refused(code, out, err, expected, message)


def refused(code: int, out: str, err: str, expected: int, message: str) -> None:
    assert code == expected, err
    assert out == ""
    assert re.fullmatch(r"error: .+\n", err), err
    assert re.search(message, err, re.IGNORECASE), err
    assert not Path("maps").exists()


@pytest.mark.parametrize(
    ("day", "message"),
    [
        ("2021-13-01", "2021-13-01"),
        ("yesterday", "yesterday"),
        ("2021-08-08/2021-08-01", "2021-08-08/2021-08-01|before|reversed"),
        (str(date.today() + timedelta(days=3)), "future|today"),
        ("2014-01-01", "2014-01-01"),
        ("", "date|day"),
    ],
)
def test_a_wrong_date_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, day: str, message: str
) -> None:
    refused(*run(capsys, monkeypatch, "map", "--aoi", AREA, "--date", day), 2, message)


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    base = ("map", "--aoi", AREA, "--date", DAY)
    refused(*run(capsys, monkeypatch, *base, "--no-such"), 2, "--no-such.*see mmnet map --help")
    refused(*run(capsys, monkeypatch, "map", "--date", DAY), 2, "--aoi")
    refused(*run(capsys, monkeypatch, *base, "--resolution", "-1"), 2, "resolution")
    refused(*run(capsys, monkeypatch, *base, "--crs", "EPSG:1"), 2, "EPSG:1")
    refused(*run(capsys, monkeypatch, *base, "--source", "earthengines"), 2, "earthengines.*demo, earthengine")
    refused(*run(capsys, monkeypatch, *base, "--source", "none.yaml"), 2, "none.yaml")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused_before_anything_is_fetched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "cache"))
    refused(*run(capsys, monkeypatch, "map", "--aoi", AREA, "--date", DAY, "--device", "cuda"), 2, "no GPU")
    assert not (tmp_path / "cache").exists()


def test_missing_inputs_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, model: Path, tmp_path: Path
) -> None:
    base = ("map", "--aoi", AREA, "--model", model)
    refused(*run(capsys, monkeypatch, *base, "--date", DAY, "--stack", "none.zarr"), 3, "no stack at none.zarr")
    refused(*run(capsys, monkeypatch, *base, "--date", "2021-08-20", "--stack", inputs), 3, "2021-08-20.*mmnet stack")
    thin = tmp_path / "thin.zarr"
    shutil.copytree(inputs, thin)
    metadata = thin / "zarr.json"
    content = json.loads(metadata.read_text())
    for name in list(content["consolidated_metadata"]["metadata"]):
        if name == "weather/vpd":
            del content["consolidated_metadata"]["metadata"][name]
    metadata.write_text(json.dumps(content))
    shutil.rmtree(thin / "weather" / "vpd")
    refused(*run(capsys, monkeypatch, *base, "--date", DAY, "--stack", thin), 3, "has no vpd")


def test_a_wrong_model_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, tmp_path: Path
) -> None:
    def with_model(model: object, message: str) -> None:
        words = ("map", "--aoi", AREA, "--date", DAY, "--stack", inputs, "--model", model)
        refused(*run(capsys, monkeypatch, *words), 2, message)

    with_model("no-such-model", "no-such-model.*mmnet-uscrn")
    cut = make_model(tmp_path / "cut")
    weights = (cut / "weights.safetensors").read_bytes()
    (cut / "weights.safetensors").write_bytes(weights[:-10])
    with_model(cut, "weights")
    changed = make_model(tmp_path / "changed")
    (changed / "weights.safetensors").write_bytes(weights[:-4] + bytes(4))
    with_model(changed, "sha256|hash|tampered|changed")
    pickle = make_model(tmp_path / "pickle")
    (pickle / "weights.safetensors").write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n")
    with_model(pickle, "weights|pickle|safetensors")


def test_outputs_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, model: Path, tmp_path: Path
) -> None:
    base = ("map", "--aoi", AREA, "--date", DAY, "--stack", inputs, "--model", model, "-q", "--out")
    (tmp_path / "file").write_text("mine")
    code, out, err = run(capsys, monkeypatch, *base, tmp_path / "file")
    assert (code, out) == (5, "")
    assert "file" in err
    foreign = tmp_path / "out" / "20210808" / "aoi_20210808_soil_moisture.tif"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("somebody's")
    code, out, err = run(capsys, monkeypatch, *base, tmp_path / "out")
    assert (code, out) == (5, "")
    assert str(foreign) in err
    assert foreign.read_text() == "somebody's"
    assert [path.name for path in foreign.parent.iterdir()] == [foreign.name]


def test_interrupting_ends_with_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, model: Path, tmp_path: Path
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmnet_maps.mapping.pipeline.compute_layers", interrupt)
    words = ["map", "--aoi", AREA, "--date", DAY, "--stack", inputs, "--model", model, "--out", tmp_path / "maps", "-q"]
    code, out, err = run(capsys, monkeypatch, *words)
    assert (code, out) == (130, "")
    assert "interrupted" in err
    assert [path for path in (tmp_path / "maps").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["train", "predict", "evaluate", "recalibrate", "explain", "samples"])
def test_without_pyarrow_tables_are_refused_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("mmnet_maps.cli.checks.find_spec", lambda _: None)
    words = {
        "train": ["--config", "c", "--out", "o"],
        "predict": ["--model", "m", "--out", "o"],
        "evaluate": ["--model", "m"],
        "recalibrate": ["--model", "m", "--out", "o"],
        "explain": ["--model", "m", "--out", "o"],
        "samples": ["--observations", "o", "--out", "t.parquet"],
    }
    table = [] if name == "samples" else ["--samples", "s"]
    code, out, err = run(capsys, monkeypatch, name, *table, *words[name])
    refused(code, out, err, 2, "pip install pyarrow")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--samples", "s", "--parity"],
        ["--parity", "--json", "j"],
        ["--parity", "--device", "cpu"],
        ["--parity", "--uncertainty", 9],
    ],
)
def test_evaluate_takes_samples_or_parity(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    code, out, err = run(capsys, monkeypatch, "evaluate", "--model", "mmnet-uscrn", *words)
    refused(code, out, err, 2, "either --samples")


def test_an_uncertainty_is_mapped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, model: Path, tmp_path: Path
) -> None:
    words = ["map", "--aoi", AREA, "--date", DAY, "--stack", inputs, "--model", model, "--out", tmp_path / "made"]
    words += ["--uncertainty", 3, "--precision", "bfloat16", "--threads", 1, "-q"]
    code, _, _ = run(capsys, monkeypatch, *words)
    assert code == 0
    assert len(list((tmp_path / "made").rglob("*_soil_moisture_std.tif"))) == 1
    code, out, err = run(capsys, monkeypatch, *words[:-7], "--uncertainty=-3")
    refused(code, out, err, 2, "uncertainty")


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mmnet", "map", "--aoi", "none.geojson", "--date", DAY, "--debug"])
    with pytest.raises(cli.RequestError, match=r"none\.geojson"):
        cli.main()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['mmnet-map', '--help']\n"
        "from mmnet_maps import cli\n"
        "try: cli.map_main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'xarray', 'dask', 'rasterio', 'zarr', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--aoi" in done.stdout
    assert "grant_county.geojson" in done.stdout


@pytest.mark.parametrize("command", ["points", "zones"])
def test_finished_maps_are_read_without_torch(tmp_path: Path, command: str) -> None:
    grid = grid_at(0, 0, 40, 40)
    write_map(tmp_path / "maps", "h06v03", MAP_DAY, grid)
    outline = transform_geometry(shapely.box(*grid.boundingbox.bbox), "EPSG:5070", LONLAT)
    geojson(tmp_path / "zones.geojson", outline)
    places = {"points": f"{outline.centroid.x},{outline.centroid.y}", "zones": "zones.geojson"}
    words = ["mmnet", command, f"--{command}", places[command], "--maps", "maps", "--out", "found.csv", "-q"]
    code = (
        f"import sys; sys.argv = {words}\n"
        "from mmnet_maps import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(Path("found.csv").read_text().splitlines()) == 2


def test_a_table_of_samples_is_built_and_checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, model: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    from insitu_files import uscrn

    days = {date.fromisoformat(DAY) + timedelta(days=k): 0.2 + 0.01 * k for k in range(-2, 3)}
    uscrn(tmp_path / "uscrn", "WA_Ephrata_1_N", days, lat=47.11, lon=-119.57)
    base = ("samples", "--observations", tmp_path / "uscrn", "--out", "t.parquet")
    code, out, err = run(capsys, monkeypatch, *base, "--stack", inputs, "--model", model, "-q")
    assert (code, out) == (
        0,
        "t.parquet: 1 rows, 1 stations; check it with: mmnet samples check t.parquet\n",
    ), err
    assert "4 days of the other stations are left out" in err
    made = pq.read_table("t.parquet")
    assert (made["station"].to_pylist(), made["date"].to_pylist()) == (["Ephrata-1-N"], [date.fromisoformat(DAY)])

    code, out, err = run(capsys, monkeypatch, "samples", "check", "t.parquet", "--picture", "t.png")
    assert (code, err) == (0, "")
    assert re.search(r"^input    .*\bsmap\b.*: closed formula$", out, re.MULTILINE)
    assert out.endswith("no problem found\nt.png\n")
    assert Path("t.png").stat().st_size > 10_000
    pq.write_table(made.take([0, 0]), "twice.parquet")
    code, out, err = run(capsys, monkeypatch, "samples", "check", "twice.parquet")
    assert (code, err) == (3, "")
    assert "problem  1 rows repeat a station and day" in out

    refused(*run(capsys, monkeypatch, *base, "--model", model), 2, "either a source")
    refused(*run(capsys, monkeypatch, "samples", "--out", "t.parquet"), 2, "Missing option '--observations'")
    refused(*run(capsys, monkeypatch, "samples", "--out", "o", "check", "t.parquet"), 2, "--out comes before check")
    refused(*run(capsys, monkeypatch, *base, "--source", "demo"), 2, "either a model")
    refused(*run(capsys, monkeypatch, "samples", "check", "none.parquet"), 3, "no file none.parquet")


def test_a_table_of_the_released_code_is_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import yaml

    from station_tables import released, small_config

    released(80).to_csv("t.csv", index=False)
    classes = ("grassland", "cropland")
    snapshot = [{"name": "smap", "encoding": "identity"}, {"name": "pol", "encoding": "identity"}]
    config = small_config(batch=16, max_epochs=1, validation="none").model_dump(mode="json")
    config["snapshot"] = [*snapshot, {"name": "landcover", "encoding": "onehot", "classes": classes}]
    Path("c.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    code, _, err = run(capsys, monkeypatch, "train", "--samples", "t.csv", "--config", "c.yaml", "--out", "m", "-q")
    assert code == 0, err
    code, out, err = run(capsys, monkeypatch, "evaluate", "--samples", "t.csv", "--model", "m")
    assert code == 0, err
    assert "median, 2 stations" in out
    assert run(capsys, monkeypatch, "samples", "check", "t.csv")[0] == 0


def test_a_model_from_a_table_and_back(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq
    import yaml

    from station_tables import make_table, small_config, write_table

    table, config = write_table(tmp_path / "t.parquet"), tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(small_config(max_epochs=2).model_dump(mode="json")))
    words = ("--samples", table, "--config", config, "--seed", 3, "--out", tmp_path / "m", "-q")
    code, out, err = run(capsys, monkeypatch, "train", *words)
    assert (code, out) == (0, f"{tmp_path / 'm'}\n"), err

    blind = write_table(tmp_path / "blind.parquet", make_table().drop_columns(["soil_moisture"]))
    code, out, err = run(
        capsys, monkeypatch, "predict", "--samples", blind, "--model", tmp_path / "m", "--out", "e.parquet"
    )
    assert code == 0, err
    estimates = pq.read_table("e.parquet")
    assert estimates.column_names == [*pq.read_table(blind).column_names, "soil_moisture_estimate"]

    code, out, err = run(
        capsys, monkeypatch, "evaluate", "--samples", table, "--model", tmp_path / "m", "--json", "m.json"
    )
    assert code == 0, err
    metrics = json.loads(Path("m.json").read_text())
    assert set(metrics) == {"stations", "samples", "median", "per_station"}
    assert set(metrics["median"]) == {"r", "rmse", "bias", "ubrmse"}
    observed = pq.read_table(table)["soil_moisture"].to_numpy()
    error = estimates["soil_moisture_estimate"].to_numpy() - observed
    stations = pq.read_table(table)["station"].to_numpy()
    rmse = [float((error[stations == name] ** 2).mean() ** 0.5) for name in sorted(set(stations))]
    assert metrics["median"]["rmse"] == pytest.approx(statistics.median(rmse), rel=1e-4)
    assert "median, 8 stations" in out

    words = ("--samples", table, "--model", tmp_path / "m", "--uncertainty", 3)
    code, out, err = run(capsys, monkeypatch, "evaluate", *words, "--json", "u.json", "--picture", "u.png")
    assert code == 0, err
    assert json.loads(Path("u.json").read_text())["uncertainty"]["stations"] == 8
    assert Path("u.png").read_bytes().startswith(b"\x89PNG")
    assert "within the 90 % interval" in out
    code, out, err = run(capsys, monkeypatch, "evaluate", *words[:4], "--picture", "v.png")
    refused(code, out, err, 2, "--uncertainty 20")
    code, out, err = run(capsys, monkeypatch, "predict", *words[:4], "--uncertainty", 1, "--out", "e.parquet")
    refused(code, out, err, 2, "at least 2 members")

    code, out, err = run(capsys, monkeypatch, "recalibrate", *words, "--out", tmp_path / "n")
    assert code == 0, err
    factor = json.loads((tmp_path / "n" / "model.json").read_text())["target"]["std_factor"]
    assert out.splitlines()[-1] == f"{tmp_path / 'n'}  std_factor {factor:.4g}"

    words = ("--samples", blind, "--model", tmp_path / "m", "--rows", 9, "--seed", 4, "-q")
    code, out, err = run(capsys, monkeypatch, "explain", *words, "--out", "i.json", "--picture", "i.png")
    assert (code, err) == (0, "")
    found = json.loads(Path("i.json").read_text())
    assert (found["rows"], found["seed"]) == (9, 4)
    assert out.splitlines()[1].split()[0] == found["variables"][0]["name"]
    assert Path("i.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("mmnet_maps.cli.checks.find_spec", lambda name: None if name == "captum" else name)
    code, out, err = run(capsys, monkeypatch, "explain", *words, "--out", "i.json")
    refused(code, out, err, 2, "pip install captum")
