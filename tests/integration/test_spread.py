"""The spread of the engine's members against textbook Monte Carlo dropout, on real station samples."""

from __future__ import annotations

import copy
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmnet_maps.model.checkpoint import Checkpoint, load_checkpoint
from mmnet_maps.model.engine import Engine
from mmnet_maps.model.features import fill_steps, standardise
from mmnet_maps.model.network import GaussianDropout, networks_of
from mmnet_maps.training.table import encode, inputs, read_samples

REAL = Path(__file__).parents[3] / "shared" / "data" / "stations" / "samples_multimodal_2019_2021.parquet"
PASSES = 99  # in turn by the networks of the model
MEMBERS = 400  # all rows share the draws, so their number decides how exact the spread is: 1 / sqrt(2 * 400) = 3.5 %


def textbook(checkpoint: Checkpoint, snapshot: np.ndarray, series: np.ndarray) -> np.ndarray:
    """Fresh noise for every row, step and unit in every pass, with BatchNorm at rest (Gal & Ghahramani, 2016).

    Each pass is of one of the networks, in turn.
    """
    network = copy.deepcopy(checkpoint.network).eval()
    for module in network.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.train()
            module.self_attn.eval()  # noise on attention probabilities is left off
        elif isinstance(module, GaussianDropout):
            module.train()
    torch.manual_seed(0)
    s, x = torch.from_numpy(snapshot), torch.from_numpy(series)
    with torch.inference_mode():
        return torch.stack([one(s, x) for one, _ in zip(cycle(networks_of(network)), range(PASSES))]).numpy()


def common(passes: np.ndarray, networks: int) -> float:
    """Return the standard deviation of the mean over all rows, between the passes of a network."""
    return float(np.mean([passes[k::networks].mean(1).std() for k in range(networks)]))


@pytest.mark.skipif(not REAL.exists(), reason="needs the station samples, which do not come with the package")
def test_members_spread_like_textbook_monte_carlo_dropout() -> None:
    checkpoint = load_checkpoint("mmnet-uscrn")
    spec = checkpoint.spec
    table = read_samples(REAL)
    samples = table.take(np.random.default_rng(0).choice(len(table), 300, replace=False))
    snapshot, series = encode(samples, spec)
    steps = standardise(series, spec.series_mean, spec.series_std)
    fill_steps(steps, spec.windows)  # the table holds eleven days
    drawn = textbook(checkpoint, standardise(snapshot, spec.snapshot_mean, spec.snapshot_std), steps)
    engine = Engine(checkpoint, device="cpu", draws=MEMBERS)
    columns, days = inputs(samples, spec)
    found = engine.predict(columns, engine.encode_series(days)[0], np.arange(len(samples)), keep_members=True)
    assert found.std is not None
    assert found.members is not None
    expected, spread = drawn.std(0, ddof=1), found.std / spec.target.std_factor
    # No steps share a layer in this network, so one draw for all rows spreads each row as a fresh one does.
    assert 0.9 < np.median(spread / expected) < 1.1
    assert np.corrcoef(spread, expected)[0, 1] > 0.7
    assert np.abs(found.members.mean(0) - drawn.mean(0)).mean() < 0.2 * expected.mean()
    # Members are coherent: they differ in the mean over all rows too, where fresh noise averages out.
    assert common(found.members, spec.networks) > 5 * common(drawn, spec.networks)
