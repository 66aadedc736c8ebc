"""Every command on the pages and in the help runs, one after the other, on a small area of the demo world.

Those that cannot run here are listed with the reason and the test that runs them instead.
"""

from __future__ import annotations

import re
import shlex
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from rasterio.transform import from_bounds

import insitu_files
from command_line import geojson
from doc_pages import ROOT, commands
from mmnet_maps.cli.commands import mmnet
from mmnet_maps.mapping.pipeline import make_maps

ELSEWHERE = {
    "mmnet view": ("serves until it is stopped", "integration/test_view.py"),
    "mmnet experiment": ("trains for hours", "training/experiment/test_run.py"),
    "mmnet convert": ("reads a file of the authors' code", "model/test_import_released.py"),
}
PAGES_ELSEWHERE = {
    "first-hour.md": "integration/test_first_hour.py",
    "reproduce-the-paper.md": "integration/test_reproduce_paper.py",
}
FIELDS = (-119.62, 47.08, -119.50, 47.14)
STATIONS = {
    f"{name}-1-W": (lat, lon)
    for name, (lat, lon) in zip(
        ("Alpha", "Beta", "Gamma", "Delta", "Epsilon", "Zeta", "Eta", "Theta"),
        [(lat, lon) for lat in (47.10, 47.12) for lon in (-119.60, -119.58, -119.56, -119.53)],
        strict=True,
    )
}
FIRST, DAYS = date(2021, 7, 1), 92
SHELL = {"$today": "2021-08-08", "$ten": "2021-08-01", "$month": "2021-08-01", "$done": "2021-08-07"}


def moisture(day: date, number: int) -> float:
    return 0.12 + 0.02 * number + 0.05 * ((day - FIRST).days % 9) / 9


@pytest.fixture
def folder(tmp_path: Path, demo_cache: Path) -> Path:
    """Return the working folder with the files that the pages suppose a user has."""
    west, south, east, north = FIELDS
    parts = [shapely.box(west, south, -119.56, north), shapely.box(-119.56, south, east, north)]
    for name in ("fields.gpkg", "counties.gpkg"):
        frame = {"geometry": parts, "name": ["west", "east"]}
        write_polygons(tmp_path / name, frame)
    geojson(tmp_path / "grant_county.geojson", shapely.box(*FIELDS))
    days = [FIRST + timedelta(days=k) for k in range(DAYS)]
    table = [(name, lat, lon) for name, (lat, lon) in STATIONS.items()]
    pd.DataFrame(table, columns=["station", "lat", "lon"]).to_csv(tmp_path / "stations.csv", index=False)
    for number, (name, (lat, lon)) in enumerate(STATIONS.items()):
        insitu_files.uscrn(
            tmp_path / "uscrn",
            f"WA_{name.replace('-', '_')}",
            {day: moisture(day, number) for day in days},
            lat=lat,
            lon=lon,
        )
    sensors = [
        insitu_files.Sensor(
            network="SCAN", station=name, lat=lat, lon=lon, elevation=400.0, depth=(0.05, 0.05), instrument="Probe",
            record=lambda when, number=number: (moisture(when.date(), number), "G"),
        )
        for number, (name, (lat, lon)) in enumerate(STATIONS.items())
    ]  # fmt: skip
    insitu_files.write_archive(tmp_path / "ismn.zip", sensors, insitu_files.hours(datetime(2021, 7, 30, tzinfo=UTC), 8))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for name in ("mmnet-uscrn", "mmnet-uscrn-paper"):  # for few stations and rows
        settings = tmp_path / "configs" / f"{name}.yaml"
        text = settings.read_text(encoding="utf-8")
        for key, value in {"batch": 64, "max_epochs": 1, "validation": "none"}.items():
            text = re.sub(rf"(?m)^{key}: \w+", f"{key}: {value}", text)
        settings.write_text(text, encoding="utf-8")
    shutil.copy(tmp_path / "configs" / "mmnet-uscrn.yaml", tmp_path / "train.yaml")
    write_elevation(tmp_path)
    for year in range(2016, 2021):
        make_maps("fields.gpkg", f"{year}-08-08", source="demo", out=f"data/{year}", quiet=True)
    return tmp_path


def write_elevation(folder: Path) -> None:
    """Write a raster of an own and the YAML that names it."""
    west, south, east, north = FIELDS
    shape = 50, 60
    transform = from_bounds(west - 0.1, south - 0.1, east + 0.1, north + 0.1, shape[1], shape[0])
    grid = {"height": shape[0], "width": shape[1], "count": 1, "dtype": "float32", "crs": "EPSG:4326"}
    with rasterio.open(folder / "elevation.tif", "w", driver="GTiff", transform=transform, **grid) as file:
        file.write(np.full((1, *shape), 400, np.float32))
    text = "name: own\nrest: demo\nvariables:\n  elevation: {files: elevation.tif, product: own survey}\n"
    (folder / "sources.yaml").write_text(text, encoding="utf-8")


def write_polygons(path: Path, frame: dict[str, list[object]]) -> None:
    import pyogrio

    pyogrio.raw.write(
        path, shapely.to_wkb(frame["geometry"]), [pd.array(frame["name"]).to_numpy()], ["name"],
        geometry_type="Polygon", crs="EPSG:4326", driver="GPKG",
    )  # fmt: skip


def stand_in(line: str, workers: list[str]) -> list[str]:
    """Return the words of a command on the small area, from the demo world, in the working folder."""
    line = re.sub(r"--tiles \S+", "--aoi fields.gpkg", line).replace("--source earthengine", "--source demo")
    line = re.sub(r"(?<= )/data/", "data/", line)
    program, *words = [SHELL.get(word, word) for word in shlex.split(line)]
    if program == "mmnet-map":
        words.insert(0, "map")
        if "models/mine" in words:
            words += ["--out", "mine"]  # a climatology refuses maps of two models
    if words[0] == "batch" and "status" not in words:
        if "--scheduler" in words:
            where = words.index("--scheduler")
            del words[where : where + 2]
        words += [] if "--dry-run" in words else workers
    if "sources.yaml" in words:  # another source than that of the stack
        words[words.index("stack.zarr")] = "own.zarr"
    stores = sorted(map(str, Path("daily").glob("*.zarr")))
    return [stores[0] if word == "daily/tiles_20210801_20210808.zarr" else word for word in words]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning")  # of odc-geo
def test_every_command_runs_or_is_listed(folder: Path, workers: list[str]) -> None:
    mmnet.main(["stack", "--aoi", "fields.gpkg", "--start", "2021-07-01", "--end", "2021-09-30", "--source", "demo",
                    "--out", "stack.zarr", "-q"], standalone_mode=False)  # fmt: skip
    seen, failed, listed = set(), [], set()
    for page, line in commands():
        prefix = " ".join(line.split()[:2])
        if page in PAGES_ELSEWHERE or prefix in ELSEWHERE:
            listed |= {page, prefix}
            continue
        words = stand_in(line, workers)
        if tuple(words) in seen:
            continue
        seen.add(tuple(words))
        try:
            mmnet.main([*words], standalone_mode=False)
        except (Exception, SystemExit) as error:  # noqa: BLE001  (all that fail are named)
            failed.append(f"{page}: {line}: {type(error).__name__} {error}")
        for name in ("unseen", "multimodal", "weather", "build/tables/multimodal", "build/tables/weather"):
            if Path("samples.parquet").exists() and not Path(f"{name}.parquet").exists():
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy("samples.parquet", f"{name}.parquet")
    assert not failed, "\n".join(failed)
    assert listed >= {*ELSEWHERE, *PAGES_ELSEWHERE}, "the lists hold what no page has"
    for test in [*PAGES_ELSEWHERE.values(), *(name for _, name in ELSEWHERE.values())]:
        assert (ROOT / "tests" / test).exists()
