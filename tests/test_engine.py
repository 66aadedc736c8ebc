from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from mmnet_maps.checkpoint import Checkpoint, ModelSpec, profile
from mmnet_maps.engine import Engine
from mmnet_maps.errors import RequestError

ARCHITECTURES = ("mmnet", "mlp", "transformer", "mlp_full", "transformer_full")


def checkpoint(architecture: str) -> Checkpoint:
    """The released sizes, random weights, and BatchNorm statistics that matter, as after training."""
    spec = ModelSpec(
        name=architecture,
        **(profile("released") | {"architecture": architecture}),
        snapshot_mean=(0.0,) * 28,
        snapshot_std=(1.0,) * 28,
        series_mean=(0.0,) * 8,
        series_std=(1.0,) * 8,
    )
    torch.manual_seed(1)
    network = spec.network()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.02, 0.2)
    with torch.inference_mode():
        spread = network.eval()(torch.randn(500, 28), torch.randn(500, 11, 8)).std()
    network.decoder[8].weight.data *= 0.1 / spread  # outputs spread like soil moisture
    return Checkpoint(spec=spec, network=network, path=Path(), sha256="", fingerprint="")


MODELS = {architecture: checkpoint(architecture) for architecture in ARCHITECTURES}


def inputs(n: int, cells: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    draw = np.random.default_rng(seed)
    snapshot = draw.standard_normal((n, 28), np.float32)
    return snapshot, draw.standard_normal((cells, 11, 8), np.float32), draw.integers(0, cells, n)


def plain(model: Checkpoint, snapshot: NDArray[Any], series: NDArray[Any], cell: NDArray[Any]) -> NDArray[Any]:
    """Every pixel with its own copy of its series, in float64: what the engine must equal."""
    network = checkpoint(model.spec.architecture).network.double()
    with torch.inference_mode():
        return network(torch.from_numpy(snapshot).double(), torch.from_numpy(series[cell]).double()).numpy()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_engine_equals_the_plain_network(architecture: str) -> None:
    model = MODELS[architecture]
    snapshot, series, cell = inputs(3000, 40)
    estimate = Engine(model, device="cpu", batch=700).predict(snapshot, series, cell)
    assert estimate.dtype == np.float32
    expected = plain(model, snapshot, series, cell)
    assert 0.05 < expected.std() < 0.2
    assert np.abs(estimate - expected).max() <= 1e-5


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 300), st.sampled_from(ARCHITECTURES), st.integers(0, 3))
def test_the_batch_size_does_not_matter(batch: int, architecture: str, seed: int) -> None:
    snapshot, series, cell = inputs(211, 17, seed)
    whole = Engine(MODELS[architecture], device="cpu").predict(snapshot, series, cell)
    parts = Engine(MODELS[architecture], device="cpu", batch=batch).predict(snapshot, series, cell)
    assert np.abs(whole - parts).max() <= 1e-6


def test_the_same_call_gives_the_same_bytes() -> None:
    snapshot, series, cell = inputs(500, 30)
    first, second = (Engine(MODELS["mmnet"], device="cpu").predict(snapshot, series, cell) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("architecture", ["mmnet", "mlp_full"])
def test_incomplete_pixels_are_missing_and_leave_the_others_alone(architecture: str) -> None:
    snapshot, series, cell = inputs(400, 20)
    engine = Engine(MODELS[architecture], device="cpu")
    expected = engine.predict(snapshot, series, cell)
    cell[7] = -1
    snapshot[[3, 90], [0, 27]] = np.nan
    snapshot[11, 4] = np.inf
    series[5, 10, 7] = np.nan
    missing = (cell == 5) | np.isin(np.arange(400), [3, 7, 11, 90])
    estimate = engine.predict(snapshot, series, cell)
    np.testing.assert_array_equal(np.isnan(estimate), missing)
    np.testing.assert_allclose(estimate[~missing], expected[~missing], atol=1e-6, rtol=0)


def test_each_cell_that_is_needed_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, series, _ = inputs(900, 50)
    cell = np.repeat([4, 9, 30], 300)
    snapshot[cell == 9, 2] = np.nan
    engine = Engine(MODELS["mmnet"], device="cpu", batch=64)
    seen: list[torch.Tensor] = []
    encode = engine._network.encode_series
    monkeypatch.setattr(engine._network, "encode_series", lambda x: (seen.append(x), encode(x))[1])
    engine.predict(snapshot, series, cell)
    np.testing.assert_array_equal(torch.cat(seen).numpy(), series[[4, 30]])


@pytest.mark.parametrize("cells", [0, 3])
def test_nothing_to_do_is_done(cells: int) -> None:
    engine = Engine(MODELS["mmnet"], device="cpu")
    snapshot, series, _ = inputs(4, 3)
    nowhere = engine.predict(snapshot, series[:cells], np.full(4, -1))
    assert np.isnan(nowhere).all()
    assert engine.predict(snapshot[:0], series[:cells], np.zeros(0, np.int64)).shape == (0,)


def test_the_engine_keeps_a_network_of_its_own() -> None:
    model = checkpoint("mmnet")
    engine = Engine(model, device="cpu")
    snapshot, series, cell = inputs(50, 5)
    expected = engine.predict(snapshot, series, cell)
    model.network.train()(torch.from_numpy(snapshot), torch.from_numpy(series[cell]))
    np.testing.assert_array_equal(engine.predict(snapshot, series, cell), expected)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Engine(MODELS["mlp"]).device == torch.device("cpu")
    with pytest.raises(RequestError, match="no GPU"):
        Engine(MODELS["mlp"], device="cuda")
    with pytest.raises(RequestError, match="'tpu'"):
        Engine(MODELS["mlp"], device="tpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cuda_equals_the_plain_network(architecture: str) -> None:
    model = MODELS[architecture]
    snapshot, series, cell = inputs(3000, 40)
    estimate = Engine(model, device="cuda").predict(snapshot, series, cell)
    assert np.abs(estimate - plain(model, snapshot, series, cell)).max() <= 1e-5
    assert next(model.network.parameters()).device.type == "cpu"
