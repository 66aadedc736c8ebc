"""From an ISMN archive to a map of the paper's model, with the commands of docs/how-to/reproduce-the-paper.md.

The loopback Earth Engine serves the inputs: four stations, two months, tiny trainings.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import yaml

import earthengine_setup
import insitu_files
from command_line import run
from fake_earthengine import FakeEarthEngine, offline
from mmnet_maps.model.features import encoded_columns
from mmnet_maps.model.spec import profile, read_spec
from mmnet_maps.resources import packaged
from mmnet_maps.training.config import read_config
from mmnet_maps.training.experiment.config import read_experiment

pytest.importorskip("ee")

TINY = {"max_epochs": 1, "batch": 32, "d_model": 16, "heads": 2, "feedforward": 16}
PLACES = {"Ephrata": (47.07, -119.64), "Lind": (47.07, -119.25), "Odessa": (47.07, -118.86), "Quincy": (47.07, -120.03)}
START, END = date(2021, 6, 20), date(2021, 8, 19)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeEarthEngine]:
    with FakeEarthEngine() as running, offline():
        yield running


def archive(path: Path) -> Path:
    """Write an archive of ISMN with two networks, whose soil dries for two months."""
    first = datetime(START.year, START.month, START.day, tzinfo=UTC)

    def drying(level: float, when: datetime) -> tuple[float, str]:
        return level * float(np.exp(-(when - first).days / 30)), "G"

    sensors = [
        insitu_files.Sensor(
            network=network,
            station=station,
            lat=lat,
            lon=lon,
            elevation=500.0,
            depth=depth,
            instrument="Hydraprobe",
            record=lambda when, level=0.2 + 0.05 * k: drying(level, when),
        )
        for k, ((station, (lat, lon)), network, depth) in enumerate(
            zip(PLACES.items(), ("SCAN", "SCAN", "USCRN", "USCRN"), ((0.0508, 0.0508), (0.05, 0.05)) * 2, strict=True)
        )
    ]
    return insitu_files.write_archive(path, sensors, insitu_files.hours(first, (END - START).days + 1))


def with_the_year_before(table: pa.Table) -> pa.Table:
    """Append the same rows a year earlier: the loopback service holds one summer, the on-site scenario needs two."""
    dates = table["date"].to_numpy().astype("datetime64[D]") - np.timedelta64(365, "D")
    index = table.schema.get_field_index("date")
    return pa.concat_tables([table, table.set_column(index, table.schema.field(index), pa.array(dates))])


@pytest.mark.slow
def test_the_whole_chain(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: FakeEarthEngine
) -> None:
    source = earthengine_setup.config(tmp_path, server)

    def mmnet(*words: object) -> str:
        code, out, err = run(capsys, monkeypatch, *words)
        assert code == 0, err
        return out

    paper = packaged("configs") / "paper.yaml"
    asked = ("samples", "--observations", archive(tmp_path / "ismn.zip"), "--source", source, "--config", paper)
    asked += ("--out", "data/samples.parquet")
    assert "request" in mmnet(*asked, "--dry-run")
    assert "4 stations" in mmnet(*asked, "-q")
    assert "no problem found" in mmnet("samples", "check", "data/samples.parquet")

    table = pq.read_table("data/samples.parquet")
    assert table.num_rows > 4 * 50
    pq.write_table(with_the_year_before(table), "data/samples.parquet")
    experiment = yaml.safe_load((packaged("configs") / "paper-experiment.yaml").read_text())
    experiment |= {"seeds": 1, "folds": 2, "borders": [-119.7, -119.2]}
    experiment["tables"]["paper"]["on_site_years"] = 1
    experiment["networks"] = {name: experiment["networks"][name] for name in ("mmnet", "mlp")}
    experiment["training"] |= TINY | {"validation": "none"}
    Path("experiment.yaml").write_text(yaml.safe_dump(experiment))
    mmnet("experiment", "experiment.yaml", "--data", "data", "--out", "results", "--workers", 1, "-q")
    assert list(Path("results").glob("*.md"))

    recipe = yaml.safe_load(paper.read_text()) | TINY | {"validation": "none"}
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))
    mmnet("train", "--samples", "data/samples.parquet", "--config", "tiny.yaml", "--out", "models/mine", "-q")
    spec = read_spec("models/mine")
    assert (len(encoded_columns(spec.snapshot)), len(encoded_columns(spec.series)), spec.steps) == (25, 7, 10)

    area, day = "-119.65,47.06,-119.63,47.08", "2021-08-01"
    mmnet("map", "--aoi", area, "--date", day, "--model", "models/mine", "--source", source, "--out", "maps", "-q")
    (made,) = Path("maps").glob("20210801/*_soil_moisture.tif")
    with rasterio.open(made) as image:
        assert (image.read(1) != image.nodata).mean() > 0.4
        assert yaml.safe_load(image.tags().get("stand_ins", "{}")) == {}  # every input is the paper's own
        assert image.tags()["model"] == "mmnet-paper"


def test_the_experiment_trains_the_networks_of_the_papers_configuration() -> None:
    paper, experiment = profile("paper"), read_experiment(packaged("configs") / "paper-experiment.yaml")
    config = read_config(packaged("configs") / "paper.yaml")
    assert set(experiment.networks) == {"mmnet", "mlp", "transformer", "mlp_full", "transformer_full"}
    found = experiment.training_of("paper", "mmnet")
    assert found.model_dump(exclude={"name", "inputs", "validation_fraction"}) == config.model_dump(
        exclude={"name", "inputs", "validation_fraction"}
    )
    assert {name: getattr(config, name) for name in paper} == paper
