"""The converter compared with the released layout, written a second time in numpy from its description."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mmnet_maps.errors import OutputError, RequestError
from mmnet_maps.model.checkpoint import check_golden, load_checkpoint
from mmnet_maps.model.engine import Engine
from mmnet_maps.model.import_released import convert

CLASSES = ("shrubland", "grassland", "barren", "wetland", "forest", "developed", "cropland", "pasture")
CODES = (52, 71, 31, 90, 42, 23, 82, 81)
COLUMNS = ("latitude", "longitude", "elevation", "slope", "clay", "bulk_density", "sand", "smap")
WEATHER = ("eto", "etr", "pr", "sph", "srad", "vpd", "vs")
SIZES = {"released": (28, 8, 11), "paper": (25, 7, 10)}
Scalers = tuple[NDArray[Any], NDArray[Any]]


def reference(state: dict[str, NDArray[Any]], s: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Run the published network in evaluation mode, float64: s (n, features), x (n, steps, variables)."""

    def linear(v: NDArray[Any], name: str) -> NDArray[Any]:
        return v @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def batchnorm(v: NDArray[Any], name: str) -> NDArray[Any]:
        scale = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + 1e-5)
        return (v - state[f"{name}.running_mean"]) * scale + state[f"{name}.bias"]

    def layernorm(v: NDArray[Any], name: str) -> NDArray[Any]:
        centred = v - v.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * state[f"{name}.weight"]
            + state[f"{name}.bias"]
        )

    def hidden(v: NDArray[Any], lin: str, bn: str) -> NDArray[Any]:
        return np.maximum(batchnorm(linear(v, lin), bn), 0)

    def attention(v: NDArray[Any], name: str) -> NDArray[Any]:
        n, steps, width = v.shape
        qkv = v @ state[f"{name}.in_proj_weight"].T + state[f"{name}.in_proj_bias"]
        q, k, w = (part.reshape(n, steps, 16, width // 16).swapaxes(1, 2) for part in np.split(qkv, 3, axis=-1))
        scores = np.exp(q @ k.swapaxes(2, 3) / math.sqrt(width // 16))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ w
        return linear(mixed.swapaxes(1, 2).reshape(n, steps, width), f"{name}.out_proj")

    for i in (0, 4, 8):
        s = hidden(s, f"encoder_s.{i}", f"encoder_s.{i + 1}")
    for i in range(3):
        x = hidden(x, f"encoder_d.{i}.lin", f"encoder_d.{i}.bn")
    x = layernorm(x, "inlayernorm") + positions(x.shape[1])[: x.shape[1]]
    layer = "transformerencoder.layers.0"
    x = layernorm(x + attention(x, f"{layer}.self_attn"), f"{layer}.norm1")
    x = layernorm(x + linear(np.maximum(linear(x, f"{layer}.linear1"), 0), f"{layer}.linear2"), f"{layer}.norm2")
    x = layernorm(x, "transformerencoder.norm").mean(axis=1)
    both = hidden(np.concatenate([s, x], axis=1), "fusion.0", "fusion.1")
    both = hidden(hidden(both, "decoder.0", "decoder.1"), "decoder.4", "decoder.5")
    return linear(both, "decoder.8")[:, 0]


def positions(steps: int) -> NDArray[Any]:
    """Return the positional table: base 1000; row 0 zeros, row k position k - 1."""
    table = np.zeros((steps + 1, 128))
    for row in range(1, steps + 1):
        for column in range(128):
            angle = (row - 1) / 1000 ** (2 * (column // 2) / 128)
            table[row, column] = math.cos(angle) if column % 2 else math.sin(angle)
    return table


def random_state(profile: str, seed: int = 0) -> dict[str, torch.Tensor]:
    snapshot, series, steps = SIZES[profile]
    draw = np.random.default_rng(seed)
    state: dict[str, torch.Tensor] = {}

    def add(name: str, values: NDArray[Any]) -> None:
        state[name] = torch.from_numpy(np.asarray(values, np.float32))

    def linear(name: str, inputs: int, outputs: int) -> None:
        add(f"{name}.weight", draw.normal(0, math.sqrt(2 / inputs), (outputs, inputs)))
        add(f"{name}.bias", draw.normal(0, 0.1, outputs))

    def norm(name: str, width: int, *, batch: bool) -> None:
        add(f"{name}.weight", draw.uniform(0.5, 1.5, width))
        add(f"{name}.bias", draw.normal(0, 0.1, width))
        if batch:
            add(f"{name}.running_mean", draw.normal(0, 0.3, width))
            add(f"{name}.running_var", draw.uniform(0.5, 2, width))
            state[f"{name}.num_batches_tracked"] = torch.tensor(1234)

    def stack(name: str, *widths: int) -> None:
        for i in range(len(widths) - 1):
            linear(f"{name}.{4 * i}", widths[i], widths[i + 1])
            norm(f"{name}.{4 * i + 1}", widths[i + 1], batch=True)

    stack("encoder_s", snapshot, 32, 64, 128)
    for i, (inputs, outputs) in enumerate([(series, 32), (32, 64), (64, 128)]):
        linear(f"encoder_d.{i}.lin", inputs, outputs)
        norm(f"encoder_d.{i}.bn", outputs, batch=True)
    norm("inlayernorm", 128, batch=False)
    add("position_enc.pe", positions(steps))
    layer = "transformerencoder.layers.0"
    add(f"{layer}.self_attn.in_proj_weight", draw.normal(0, 0.15, (384, 128)))
    add(f"{layer}.self_attn.in_proj_bias", draw.normal(0, 0.1, 384))
    linear(f"{layer}.self_attn.out_proj", 128, 128)
    linear(f"{layer}.linear1", 128, 256)
    linear(f"{layer}.linear2", 256, 128)
    for name in (f"{layer}.norm1", f"{layer}.norm2", "transformerencoder.norm"):
        norm(name, 128, batch=False)
    stack("fusion", 256, 128)
    stack("decoder", 128, 64, 32)
    linear("decoder.8", 32, 1)
    return state


def physical(n: int, steps: int) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Draw inputs in the units of a stack: bands, degrees, NLCD codes, kelvin."""
    draw = np.random.default_rng(5)
    low_high = {
        "latitude": (25, 49),
        "longitude": (-124, -67),
        "elevation": (0, 3000),
        "slope": (0, 40),
        "aspect": (0, 360),
        "clay": (2, 60),
        "bulk_density": (0.8, 1.7),
        "sand": (5, 90),
        "smap": (0.02, 0.5),
        "vv": (-19, -11),
        "vh": (-28, -20),
    }
    low_high |= dict.fromkeys(("blue", "green", "red"), (0.02, 0.1)) | dict.fromkeys(
        ("nir", "swir1", "swir2"), (0.2, 0.5)
    )
    snapshot: dict[str, NDArray[Any]] = {k: draw.uniform(*v, n).astype(np.float32) for k, v in low_high.items()}
    snapshot["landcover"] = draw.choice(np.array(CODES, np.uint8), n)
    snapshot["doy"] = draw.integers(1, 367, n)
    series = {name: draw.uniform(0, 10, (n, steps)).astype(np.float32) for name in WEATHER}
    series["lst"] = draw.uniform(260, 330, (n, steps)).astype(np.float32)
    return snapshot, series


def released_table(
    profile: str, snapshot: dict[str, NDArray[Any]], series: dict[str, NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Convert inputs to those in the released code's tables: its order, its indices, raw MODIS numbers."""
    b = {name: values.astype(np.float64) for name, values in snapshot.items()}
    onehot = [(snapshot["landcover"] == code).astype(np.float64) for code in CODES]
    place = [
        np.cos((b["doy"] - 1) / 365 * np.pi),
        *(b[name] for name in COLUMNS[:4]),
        np.cos(b["aspect"] / 360 * np.pi),
    ]
    indices = {
        "ndvi": (b["nir"] - b["red"]) / (b["nir"] + b["red"]),
        "evi": 2.5 * (b["nir"] - b["red"]) / (b["nir"] + 6 * b["red"] - 7.5 * b["blue"] + 1),
        "ndwi": (b["green"] - b["nir"]) / (b["green"] + b["nir"]),
        "lswi": (b["nir"] - b["swir1"]) / (b["nir"] + b["swir1"]),
        "nsdsi": (b["swir1"] - b["swir2"]) / b["swir1"],
        "cr": b["vv"] / b["vh"],
        "dpsvim": (b["vv"] ** 2 + b["vh"] ** 2) / 32,
        "pol": (b["vv"] + b["vh"]) / (b["vv"] - b["vh"]),
        "rvim": 4 * b["vh"] / (b["vv"] + b["vh"]),
        "vvvh": b["vv"] - b["vh"],
    }
    weather = [series[name].astype(np.float64) for name in WEATHER]
    if profile == "paper":
        indices = {name: values for name, values in indices.items() if name not in ("nsdsi", "rvim", "vvvh")}
        weather.pop(1)
    columns = [*onehot, *place, *(b[name] for name in COLUMNS[4:]), *indices.values()]
    return np.stack(columns, axis=1), np.stack([*weather, series["lst"].astype(np.float64) / 0.02], axis=2)


def write_release(folder: Path, profile: str, scalers: Scalers | None = None, **saved: Any) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    snapshot, series, _ = SIZES[profile]
    static, dynamic = scalers or (np.ones((2, snapshot)), np.ones((2, series)))
    np.save(folder / "static_mean_std.npy", static)
    np.save(folder / "dynamic_mean_std.npy", dynamic)
    content = {"model_state": random_state(profile), "criterion": torch.nn.MSELoss()} | saved
    torch.save(content, folder / "model_best.pth")
    return folder / "model_best.pth", folder


@pytest.mark.parametrize("batch_axis", [False, True])
@pytest.mark.parametrize("profile", ["released", "paper"])
def test_outputs_equal_the_published_network(tmp_path: Path, profile: str, batch_axis: bool) -> None:
    n, steps = 300, SIZES[profile][2]
    snapshot, series = physical(n, steps)
    s, x = released_table(profile, snapshot, series)
    scalers = (np.stack([s.mean(0), s.std(0)]), np.stack([x.mean((0, 1)), x.std((0, 1))]))
    state = random_state(profile)
    expected = reference(
        {name: tensor.double().numpy() for name, tensor in state.items()},
        (s - scalers[0][0]) / scalers[0][1],
        (x - scalers[1][0]) / scalers[1][1],
    )
    assert expected.std() > 0.1
    if batch_axis:
        state["position_enc.pe"] = state["position_enc.pe"].unsqueeze(0)
    pth, scalers_dir = write_release(tmp_path / "release", profile, scalers, model_state=state)
    model = convert(pth, scalers_dir, profile, tmp_path / "mine")

    engine = Engine(model, device="cpu")
    estimate = engine.predict(snapshot, engine.encode_series(series)[0], np.arange(n)).estimate
    assert np.abs(estimate - expected).max() <= 1e-5

    names = np.array(CLASSES)[[CODES.index(code) for code in snapshot["landcover"]]]
    by_name = engine.predict(snapshot | {"landcover": names}, engine.encode_series(series)[0], np.arange(n)).estimate
    np.testing.assert_array_equal(by_name, estimate)


def test_the_specification_is_in_physical_units(tmp_path: Path) -> None:
    static, dynamic = np.full((2, 28), 3.0), np.array([[1.0] * 7 + [14_750.0], [2.0] * 7 + [550.0]])
    convert(*write_release(tmp_path / "r", "released", (static, dynamic)), "released", tmp_path / "mine")
    model = load_checkpoint(tmp_path / "mine")
    spec = model.spec
    assert spec.name == "mine"
    assert spec.series_mean == pytest.approx((*[1.0] * 7, 295.0))
    assert spec.series_std == pytest.approx((*[2.0] * 7, 11.0))
    assert spec.snapshot_mean == (3.0,) * 28
    assert (spec.snapshot_range, spec.series_range) == (None, None)
    assert spec.snapshot[0].classes == CLASSES
    assert (spec.steps, spec.includes_day) == (11, True)
    fed = {feature.name for feature in (*spec.snapshot, *spec.series)} - {"doy", "latitude", "longitude"}
    assert set(spec.inputs) == fed
    assert check_golden(model) == 0.0


class Evil:
    """An object that leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def refusal(pth: Path, scalers: Path, profile: str, out: Path) -> str:
    with pytest.raises(RequestError) as caught:
        convert(pth, scalers, profile, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    return str(caught.value)


@pytest.mark.parametrize("place", ["criterion", "model_state", "whole", "plain"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, place: str) -> None:
    mark = tmp_path / "executed"
    pth, scalers = write_release(tmp_path / "r", "released")
    if place == "whole":
        torch.save(Evil(mark), pth)
    elif place == "plain":
        pth.write_bytes(pickle.dumps(Evil(mark)))
    else:
        write_release(tmp_path / "r", "released", **{place: Evil(mark)})
    assert "nothing was run" in refusal(pth, scalers, "released", tmp_path / "mine")
    assert not mark.exists()


def test_another_loss_is_refused_and_stays_so(tmp_path: Path) -> None:
    """The one class that is allowed is allowed for this one file."""
    pth, scalers = write_release(tmp_path / "r", "released", criterion=torch.nn.L1Loss())
    assert "MSELoss" in refusal(pth, scalers, "released", tmp_path / "mine")
    assert torch.nn.MSELoss not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"state_dict": {}}, "state_dict"),
        ({"model_state": {}, "criterion": None, "epoch": 3}, "epoch"),
        ({}, "nothing"),
        ([1, 2], "list"),
        ({"model_state": [torch.zeros(1)], "criterion": None}, "dict of tensors"),
        ({"model_state": {"a": 1}, "criterion": None}, "dict of tensors"),
        ({"model_state": {}, "criterion": None}, "has no"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, content: Any, word: str) -> None:
    pth, scalers = write_release(tmp_path / "r", "released")
    torch.save(content, pth)
    assert word in refusal(pth, scalers, "released", tmp_path / "mine")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda state: state.pop("fusion.0.bias"), "has no 'fusion.0.bias'"),
        (lambda state: state.update(extra=torch.zeros(2)), "unknown 'extra'"),
        (lambda state: state.update({"position_enc.pe": torch.zeros(11, 128)}), "position_enc.pe"),
        (lambda state: state.update({"decoder.8.bias": torch.zeros(2)}), "decoder.8.bias"),
        (lambda state: state["encoder_d.1.bn.running_var"].fill_(torch.nan), "NaN"),
        (lambda state: state.update({"decoder.8.bias": torch.zeros(1, dtype=torch.float16)}), "float16"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: Callable[..., object], word: str) -> None:
    state = random_state("released")
    change(state)
    pth, scalers = write_release(tmp_path / "r", "released", model_state=state)
    assert word in refusal(pth, scalers, "released", tmp_path / "mine")


@pytest.mark.parametrize("length", [0, 1, 100, 50_000, -20])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    pth, scalers = write_release(tmp_path / "r", "released")
    pth.write_bytes(pth.read_bytes()[:length])
    assert "model_best.pth" in refusal(pth, scalers, "released", tmp_path / "mine")


def test_missing_files_and_profiles_are_named(tmp_path: Path) -> None:
    pth, scalers = write_release(tmp_path / "r", "released")
    assert "'best'" in refusal(pth, scalers, "best", tmp_path / "mine")
    assert "28" in refusal(pth, write_release(tmp_path / "p", "paper")[1], "released", tmp_path / "mine")
    assert "snapshot columns" in refusal(pth, tmp_path / "p", "paper", tmp_path / "mine")
    assert "no.pth" in refusal(tmp_path / "no.pth", scalers, "released", tmp_path / "mine")
    assert "name" in refusal(pth, scalers, "released", tmp_path / "my model!")
    (scalers / "dynamic_mean_std.npy").unlink()
    assert "dynamic_mean_std.npy" in refusal(pth, scalers, "released", tmp_path / "mine")


@pytest.mark.parametrize(
    "scaler",
    [
        np.ones(28),
        np.ones((28, 2)),
        np.ones((2, 27)),
        np.ones((2, 28), np.int64),
        np.full((2, 28), np.nan),
        -np.ones((2, 28)),
        np.full((2, 28), {}, dtype=object),
    ],
)
def test_scalers_that_make_no_sense_are_refused(tmp_path: Path, scaler: NDArray[Any]) -> None:
    pth, folder = write_release(tmp_path / "r", "released", (scaler, np.ones((2, 8))))
    assert "static_mean_std.npy" in refusal(pth, folder, "released", tmp_path / "mine")


def test_scalers_in_other_files_are_refused(tmp_path: Path) -> None:
    pth, folder = write_release(tmp_path / "r", "released")
    path = folder / "static_mean_std.npy"
    mark = tmp_path / "executed"
    with path.open("wb") as file:
        np.savez(file, a=np.ones((2, 28)))
    archive = path.read_bytes()
    for data in (archive, b"", b"mean,std", pickle.dumps(Evil(mark)), b"PK\x03\x04broken"):
        path.write_bytes(data)
        assert "static_mean_std.npy" in refusal(pth, folder, "released", tmp_path / "mine")
    assert not mark.exists()


def test_a_foreign_folder_is_not_overwritten(tmp_path: Path) -> None:
    pth, folder = write_release(tmp_path / "r", "released")
    with pytest.raises(OutputError, match=r"model_best\.pth|static_mean_std\.npy|dynamic_mean_std\.npy"):
        convert(pth, folder, "released", folder)
    assert pth.exists()
