"""The STAC item of a model: valid, true to its files, and enough to compute the network's inputs."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import torch
from pystac.errors import STACValidationError

from mmnet_maps.errors import RequestError
from mmnet_maps.model.checkpoint import load_checkpoint, save_checkpoint
from mmnet_maps.model.features import COMPUTED, Feature, encode_series, encode_snapshot, standardise
from mmnet_maps.model.indices import INDICES
from mmnet_maps.model.mlm_item import OLDEST_TORCH, mlm_name, model_item, write_model_item
from mmnet_maps.model.saved import read_saved
from mmnet_maps.model.spec import ModelSpec, Target
from mmnet_maps.resources import find_model, packaged
from mmnet_maps.variables import VARIABLES
from stac_schemas import validate

PACKAGED = sorted(path.parent.name for path in packaged("models").glob("*/model.json"))


def spec_with(name: str = "m", **changes: Any) -> ModelSpec:
    snapshot = (
        Feature(name="aspect", encoding="half_cosine"),
        Feature(name="landcover", encoding="onehot", classes=("forest", "pasture")),
        Feature(name="latitude", encoding="identity"),
    )
    series = (Feature(name="smap_series", encoding="identity"), Feature(name="pr", encoding="log1p"))
    given: dict[str, Any] = {
        "name": name,
        "architecture": "mmnet",
        "d_model": 8,
        "heads": 2,
        "feedforward": 8,
        "snapshot": snapshot,
        "series": series,
        "steps": 3,
        "includes_day": False,
        "snapshot_mean": (0.5, 0.25, 0.5, 40.0),
        "snapshot_std": (2.0, 0.5, 0.0, 4.0),
        "series_mean": (0.25, 1.0),
        "series_std": (0.125, 2.0),
    }
    return ModelSpec(**(given | changes))


def saved(folder: Path, spec: ModelSpec) -> Path:
    return save_checkpoint(folder, spec, spec.network()).path


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "stac.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_items_are_valid_and_current(name: str) -> None:
    folder = find_model(name)
    item = read(folder)
    assert item == model_item(folder), "write it again: mmnet_maps.model.mlm_item.write_model_item(folder)"
    assert [address.split("/")[-3] for address in validate(item)] == ["item-spec", "mlm", "file"]
    assert item["properties"]["license"] == "Apache-2.0"
    assert pystac.Item.from_dict(item).ext.mlm.input[1].input.shape == [-1, *golden(folder)["series"].shape[1:]]


def golden(folder: Path) -> dict[str, Any]:
    with np.load(folder / "golden.npz") as archive:
        return dict(archive)


def test_an_item_with_a_fault_is_not_valid() -> None:
    item = read(find_model("mmnet-uscrn"))
    for fault in ({"mlm:name": "m"}, {"mlm:framework_version": ">=2.4"}, {"mlm:input": [{"name": "snapshot"}]}):
        with pytest.raises(STACValidationError):
            validate({**item, "properties": item["properties"] | fault})


@pytest.mark.parametrize("name", PACKAGED)
def test_files_and_parameters_are_those_of_the_folder(name: str) -> None:
    checkpoint = load_checkpoint(name)
    item = read(checkpoint.path)
    assert {asset["href"] for asset in item["assets"].values()} == {
        f"./{path.name}" for path in checkpoint.path.iterdir() if path.name != "stac.json"
    }
    for key, asset in item["assets"].items():
        data = (checkpoint.path / asset["href"]).read_bytes()
        stated = None if key == "card" else (len(data), f"1220{hashlib.sha256(data).hexdigest()}")
        assert stated == ((asset["file:size"], asset["file:checksum"]) if "file:size" in asset else None)
    parameters = sum(parameter.numel() for parameter in checkpoint.network.parameters())
    assert item["properties"]["mlm:total_parameters"] == parameters
    assert item["properties"]["mmnet:fingerprint"] == checkpoint.fingerprint


def test_the_item_is_no_part_of_the_model(tmp_path: Path) -> None:
    packaged_model, _ = read_saved("mmnet-uscrn")
    copy = Path(shutil.copytree(packaged_model.path, tmp_path / "copy"))
    (copy / "stac.json").unlink()
    assert read_saved(copy)[0].fingerprint == packaged_model.fingerprint
    assert write_model_item(copy).read_bytes() == (packaged_model.path / "stac.json").read_bytes()


def columns(bands: list[dict[str, str]], shape: tuple[int, ...]) -> dict[str, Any]:
    """Numbers for every band of an item, within their possible ranges."""
    draw = np.random.default_rng(5)
    found: dict[str, Any] = {}
    for band in bands:
        name = band["name"]
        if name == "landcover":
            found[name] = draw.choice(np.array([21, 31, 41, 52, 71, 81, 82, 95], np.uint8), shape)
        elif name in VARIABLES:
            known = VARIABLES[name]
            found[name] = draw.uniform(known.valid_min, known.valid_max, shape).astype(np.float32)
        else:
            assert name in (*COMPUTED, *INDICES)
            found[name] = draw.uniform(1, 40, shape).astype(np.float32)
    return found


def compute(described: dict[str, Any], values: dict[str, Any]) -> Any:
    """Compute a network's input from an item alone, with numpy."""
    functions = {name: getattr(np, name) for name in ("log1p", "sin", "cos", "isin", "pi")}
    encoded = [
        values[band] if isinstance(band, str) else eval(band["expression"], {**functions, **values})  # noqa: S307
        for band in described["bands"]
    ]
    scaled = [
        (np.asarray(column, np.float64) - scaling["mean"]) / scaling["stddev"]
        for column, scaling in zip(encoded, described["value_scaling"], strict=True)
    ]
    return np.stack(scaled, axis=-1)


@pytest.mark.parametrize("name", [*PACKAGED, "odd"])
def test_inputs_computed_from_the_item_are_those_of_the_network(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "odd", spec_with()) if name == "odd" else find_model(name)
    spec, properties = read_saved(folder)[0].spec, read(folder)["properties"]
    snapshot, series = properties["mlm:input"]
    assert snapshot["input"]["shape"] == [-1, len(spec.snapshot_mean)]
    assert series["input"]["shape"] == [-1, spec.steps, len(spec.series_mean)]
    values = columns(properties["bands"], (500,))
    given = values if name == "odd" else values | {"landcover": np.full(500, 41, np.uint8)}
    if name == "odd":
        given["landcover"] = np.resize(np.array([41, 81], np.uint8), 500)
    wanted = standardise(encode_snapshot(given, spec.snapshot), spec.snapshot_mean, spec.snapshot_std)
    np.testing.assert_allclose(compute(snapshot, given), wanted, rtol=2e-4, atol=2e-5)
    steps = columns(properties["bands"], (50, spec.steps))
    steps |= {"smap_series": steps["smap"]} if name == "odd" else {}
    wanted = standardise(encode_series(steps, spec.series), spec.series_mean, spec.series_std)
    np.testing.assert_allclose(compute(series, steps), wanted, rtol=2e-4, atol=2e-5)


def test_output_and_shapes_are_those_of_the_network() -> None:
    checkpoint = load_checkpoint("mmnet-uscrn")
    properties = read(checkpoint.path)["properties"]
    (output,) = properties["mlm:output"]
    given = [torch.zeros(4, *one["input"]["shape"][1:]) for one in properties["mlm:input"]]
    with torch.inference_mode():
        assert checkpoint.network(*given).shape == (4, *output["result"]["shape"][1:])
    assert "post_processing_function" not in output


def test_a_saved_model_has_an_item(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", spec_with(target=Target(residual_of="smap"), step_days=(5, 2, 1)))
    item = read(folder)
    validate(item)
    assert item["properties"]["mlm:name"] == "model-m"
    assert item["properties"]["license"] == "other"
    assert sorted(item["assets"]) == ["specification", "weights"]
    assert item["properties"]["mlm:output"][0]["post_processing_function"]["expression"] == "soil_moisture + smap"
    assert (
        "Means of 5, 2, 1 days, oldest first, the last of them the day before"
        in (item["properties"]["mlm:input"][1]["description"])
    )
    (folder / "README.md").write_text("Weights: CC-BY-4.0.\n", encoding="utf-8")
    again = read(saved(folder, spec_with()))
    assert again["properties"]["license"] == "CC-BY-4.0"
    assert again["assets"]["card"]["href"] == "./README.md"


@pytest.mark.parametrize("name", ["m", "7", "a-", "mmnet-uscrn", "9.x_", "ab", "abc"])
def test_every_name_of_a_model_is_valid_in_the_extension(name: str) -> None:
    item = read(find_model("mmnet-uscrn"))
    assert validate({**item, "properties": item["properties"] | {"mlm:name": mlm_name(spec_with(name))}})


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"model\.json cannot be read"):
        write_model_item(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.checkout
def test_the_oldest_torch_is_the_package_s() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    needed = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    assert f"torch>={OLDEST_TORCH.removesuffix('.0')}" in needed
