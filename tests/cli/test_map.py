"""``mmnet map`` as users type it: its output, its files, its refusals."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest
import shapely
import torch

from analytic import make_model
from command_line import AREA, DAY, assert_refused, geojson, run
from mmnet_maps.stack import checksums


def test_the_map_command_says_where_the_maps_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, model: Path, tmp_path: Path
) -> None:
    words = ["map", "--aoi", AREA, "--date", DAY, "--stack", inputs, "--model", model, "--out", tmp_path / "maps", "-q"]
    code, out, err = run(capsys, monkeypatch, *words)
    assert code == 0, err
    named = [Path(text) for text in re.findall(r"\S+\.(?:tif|png)", out)]
    assert {path.name for path in named} == {
        "aoi_119.6W_47.1N_119.55W_47.13N_20210808_soil_moisture.tif",
        "aoi_119.6W_47.1N_119.55W_47.13N_20210808.png",
    }
    assert all(path.exists() for path in named)
    assert {path.name for path in (tmp_path / "maps" / "20210808").iterdir()} == {
        "aoi_119.6W_47.1N_119.55W_47.13N_20210808_soil_moisture.tif",
        "aoi_119.6W_47.1N_119.55W_47.13N_20210808_quality.tif",
        "aoi_119.6W_47.1N_119.55W_47.13N_20210808_smap.tif",
        "aoi_119.6W_47.1N_119.55W_47.13N_20210808.json",
        "aoi_119.6W_47.1N_119.55W_47.13N_20210808.png",
        "catalog.json",
    }
    assert "thermometer" in err  # the substitute is reported


BAD_AREAS = {
    "missing": ("none.geojson", 2, "none.geojson"),
    "nobody's": ("~no-such-user/a.geojson", 2, "cannot be opened|does not exist"),
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
    assert_refused(code, out, err, expected, message)


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
    assert_refused(*run(capsys, monkeypatch, "map", "--aoi", AREA, "--date", day), 2, message)


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    base = ("map", "--aoi", AREA, "--date", DAY)
    assert_refused(*run(capsys, monkeypatch, *base, "--no-such"), 2, "--no-such.*see mmnet map --help")
    assert_refused(*run(capsys, monkeypatch, "map", "--date", DAY), 2, "--aoi")
    assert_refused(*run(capsys, monkeypatch, *base, "--resolution", "-1"), 2, "resolution")
    assert_refused(*run(capsys, monkeypatch, *base, "--crs", "EPSG:1"), 2, "EPSG:1")
    assert_refused(*run(capsys, monkeypatch, *base, "--source", "earthengines"), 2, "earthengines.*demo, earthengine")
    assert_refused(*run(capsys, monkeypatch, *base, "--source", "none.yaml"), 2, "none.yaml")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused_before_anything_is_fetched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "cache"))
    assert_refused(*run(capsys, monkeypatch, "map", "--aoi", AREA, "--date", DAY, "--device", "cuda"), 2, "no GPU")
    assert not (tmp_path / "cache").exists()


def test_missing_inputs_are_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, model: Path, tmp_path: Path
) -> None:
    base = ("map", "--aoi", AREA, "--model", model)
    assert_refused(*run(capsys, monkeypatch, *base, "--date", DAY, "--stack", "none.zarr"), 3, "no stack at none.zarr")
    assert_refused(
        *run(capsys, monkeypatch, *base, "--date", "2021-08-20", "--stack", inputs), 3, "2021-08-20.*mmnet stack"
    )
    thin = tmp_path / "thin.zarr"
    shutil.copytree(inputs, thin)
    metadata = thin / "zarr.json"
    content = json.loads(metadata.read_text())
    for name in ("vpd", checksums.NAME):  # as in a stack of an earlier version, which has no checksums
        content["consolidated_metadata"]["metadata"].pop(f"weather/{name}")
        shutil.rmtree(thin / "weather" / name)
    metadata.write_text(json.dumps(content))
    assert_refused(*run(capsys, monkeypatch, *base, "--date", DAY, "--stack", thin), 3, "has no vpd")


def test_a_wrong_model_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, tmp_path: Path
) -> None:
    def with_model(model: object, message: str) -> None:
        words = ("map", "--aoi", AREA, "--date", DAY, "--stack", inputs, "--model", model)
        assert_refused(*run(capsys, monkeypatch, *words), 2, message)

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
    foreign = tmp_path / "out" / "20210808" / "aoi_119.6W_47.1N_119.55W_47.13N_20210808_soil_moisture.tif"
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


def test_an_uncertainty_is_mapped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inputs: Path, model: Path, tmp_path: Path
) -> None:
    words = ["map", "--aoi", AREA, "--date", DAY, "--stack", inputs, "--model", model, "--out", tmp_path / "made"]
    words += ["--uncertainty", 3, "--precision", "bfloat16", "--threads", 1, "-q"]
    code, _, _ = run(capsys, monkeypatch, *words)
    assert code == 0
    assert len(list((tmp_path / "made").rglob("*_soil_moisture_std.tif"))) == 1
    code, out, err = run(capsys, monkeypatch, *words[:-7], "--uncertainty=-3")
    assert_refused(code, out, err, 2, "uncertainty")


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run(capsys, monkeypatch, "map", "--aoi", "none.geojson", "--date", DAY, "--debug")
    assert (code, out) == (2, "")
    assert re.search(r"Traceback.*in read_aoi.*\nerror: area of interest 'none.geojson' does not exist", err, re.DOTALL)


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
