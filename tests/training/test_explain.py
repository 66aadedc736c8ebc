"""Expected gradients compared with closed forms, and their summary by variable and day."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mmnet_maps.model.features import standardise
from mmnet_maps.training.explain import Importance, expected_gradients, explain_samples, format_importance
from mmnet_maps.training.table import Samples, encode, read_samples
from mmnet_maps.training.train import train
from station_tables import make_table, replace, small_config

STATIONS = Path(__file__).parents[3] / "shared" / "data" / "stations"


class Linear(nn.Module):
    """A weight for every column and day."""

    def __init__(self, of_snapshot: np.ndarray, of_series: np.ndarray) -> None:
        super().__init__()
        self.of_snapshot, self.of_series = torch.from_numpy(of_snapshot), torch.from_numpy(of_series)

    def forward(self, s: Tensor, x: Tensor) -> Tensor:
        return s @ self.of_snapshot + (x * self.of_series).sum((1, 2)) + 0.3


class Product(nn.Module):
    """One snapshot column times the last day of one series column."""

    def forward(self, s: Tensor, x: Tensor) -> Tensor:
        return s[:, 0] * x[:, -1, 0]


def numbers(seed: int, n: int = 30) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(0, 1, (n, 4)).astype(np.float32), random.normal(0, 1, (n, 5, 3)).astype(np.float32)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_attributions_of_a_linear_network_are_exact(seed: int, steps: int) -> None:
    snapshot, series = numbers(seed)
    w, v = (values[0] for values in numbers(seed + 1))
    chosen = np.arange(0, 30, 3)
    against = np.broadcast_to(np.arange(30), (10, 30))
    of_snapshot, of_series = expected_gradients(Linear(w, v), snapshot, series, chosen, against, steps=steps)
    np.testing.assert_allclose(of_snapshot, w * (snapshot[chosen] - snapshot.mean(0)), atol=1e-5)
    np.testing.assert_allclose(of_series, v * (series[chosen] - series.mean(0)), atol=1e-5)


def test_each_row_has_its_own_baselines_and_both_inputs_come_from_the_same() -> None:
    """For a product s x, a baseline (a, b) attributes (s - a)(x + b) / 2 to s: the integral along a straight line."""
    snapshot, series = numbers(3)
    chosen, against = np.array([4, 9]), np.array([[1, 2], [7, 0]])
    of_snapshot, of_series = expected_gradients(Product(), snapshot, series, chosen, against)
    s, x = snapshot[:, 0], series[:, -1, 0]
    for k in range(2):
        pairs = [((s[chosen[k]] - s[b]) * (x[chosen[k]] + x[b]) / 2) for b in against[k]]
        assert of_snapshot[k, 0] == pytest.approx(np.mean(pairs), abs=1e-6)
        pairs = [((x[chosen[k]] - x[b]) * (s[chosen[k]] + s[b]) / 2) for b in against[k]]
        assert of_series[k, -1, 0] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert not of_snapshot[:, 1:].any()
    assert not of_series[:, :-1].any()


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples(table=make_table())


@pytest.fixture(scope="module")
def checkpoint(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    trained = train(samples, small_config(max_epochs=6, learning_rate=0.01), progress=False)
    return save_checkpoint(tmp_path_factory.mktemp("models") / "small", trained.spec, trained.network)


@pytest.fixture(scope="module")
def found(checkpoint: Checkpoint, samples: Samples) -> Importance:
    return explain_samples(checkpoint, samples, progress=False)


def standardised(checkpoint: Checkpoint, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    spec = checkpoint.spec
    snapshot, series = encode(samples, spec)
    return (
        standardise(snapshot, spec.snapshot_mean, spec.snapshot_std),
        standardise(series, spec.series_mean, spec.series_std),
    )


def test_attributions_sum_to_the_estimate_minus_its_expectation(checkpoint: Checkpoint, samples: Samples) -> None:
    snapshot, series = standardised(checkpoint, samples)
    chosen, against = np.arange(0, 480, 60), np.random.default_rng(0).integers(0, 480, (8, 6))
    with torch.inference_mode():
        estimate = checkpoint.network(torch.from_numpy(snapshot), torch.from_numpy(series)).numpy()
    promised = estimate[chosen] - estimate[against].mean(1)
    errors = []
    for steps in (6, 500):
        parts = expected_gradients(checkpoint.network, snapshot, series, chosen, against, steps=steps)
        errors.append(np.abs(parts[0].sum(1) + parts[1].sum((1, 2)) - promised).max())
    assert errors[1] < 0.001 < errors[0] < 0.05 < np.abs(promised).max()


def test_shares_add_up_and_columns_of_a_variable_are_one(found: Importance) -> None:
    named = {(row["kind"], row["name"]): row for row in found["variables"]}
    assert set(named) == {
        ("snapshot", "smap"), ("snapshot", "landcover"), ("snapshot", "doy"), ("series", "pr"), ("series", "lst"),
    }  # fmt: skip
    assert sum(row["share"] for row in found["variables"]) == pytest.approx(100)
    assert sum(row["share"] for row in found["days"]) == pytest.approx(100)
    shares = [row["share"] for row in found["variables"]]
    assert shares == sorted(shares, reverse=True)
    total = sum(row["mean_absolute"] for row in found["variables"])
    for row in found["variables"]:
        assert row["share"] == pytest.approx(100 * row["mean_absolute"] / total)
    assert [row["days_before"] for row in found["days"]] == [4, 3, 2, 1, 0]
    assert {name: len(days) for name, days in found["by_day"].items()} == {"pr": 5, "lst": 5}
    for name, days in found["by_day"].items():
        assert sum(days) >= named["series", name]["mean_absolute"] > 0, "signs of days may only take away"


def test_a_hand_count_from_the_attributions(checkpoint: Checkpoint, samples: Samples) -> None:
    """Compare every row with every row, so that nothing is random, and compute the sums by hand."""
    few = samples.take(np.array([5, 130, 250, 400]))
    found = explain_samples(checkpoint, few, rows=4, progress=False)
    assert (found["rows"], found["baselines"]) == (4, 4)
    order = np.lexsort((few.date, few.station))
    parts = expected_gradients(
        checkpoint.network, *standardised(checkpoint, few), order, np.broadcast_to(order, (4, 4))
    )
    classes = [k for k, feature in enumerate(checkpoint.spec.snapshot) for _ in feature.columns]
    expected = {"landcover": np.abs(parts[0][:, np.array(classes) == 1].sum(1)).mean()}
    expected["pr"] = np.abs(parts[1][:, :, 0].sum(1)).mean()
    got = {row["name"]: row["mean_absolute"] for row in found["variables"]}
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-5)
    for k, row in enumerate(found["days"]):
        assert row["mean_absolute"] == pytest.approx(np.abs(parts[1][:, k].sum(1)).mean(), rel=1e-5)
    np.testing.assert_allclose(found["by_day"]["lst"], np.abs(parts[1][:, :, 1]).mean(0), rtol=1e-5)


def test_one_seed_repeats_and_another_takes_other_rows(checkpoint: Checkpoint, samples: Samples) -> None:
    a, again, b = (explain_samples(checkpoint, samples, rows=40, seed=seed, progress=False) for seed in (1, 1, 2))
    assert a == again
    assert a["variables"] != b["variables"]


@pytest.mark.slow
def test_seeds_agree_within_one_percent(checkpoint: Checkpoint) -> None:
    """Explain half of the rows of a table, so that seeds explain different ones."""
    many = Samples(table=make_table(days=200))
    one, other = (explain_samples(checkpoint, many, rows=len(many) // 2, seed=seed, progress=False) for seed in (1, 2))
    assert one["rows"] == len(many) / 2
    shares = [{(row["kind"], row["name"]): row["share"] for row in found["variables"]} for found in (one, other)]
    assert shares[0] == pytest.approx(shares[1], abs=1)
    assert shares[0] != shares[1]
    days = [[row["share"] for row in found["days"]] for found in (one, other)]
    assert days[0] == pytest.approx(days[1], abs=2)


def test_incomplete_rows_are_left_out(checkpoint: Checkpoint, samples: Samples) -> None:
    smap = samples.numbers("smap").copy()
    smap[:450] = np.nan
    holed = Samples(table=replace(samples.table, "smap", pa.array(smap)))
    found = explain_samples(checkpoint, holed, progress=False)
    assert found["rows"] == 30
    assert found == explain_samples(checkpoint, samples.take(np.arange(450, 480)), progress=False)
    smap[:479] = np.nan
    with pytest.raises(InputError, match="1 of 480 rows"):
        explain_samples(checkpoint, Samples(table=replace(samples.table, "smap", pa.array(smap))), progress=False)


def test_tables_and_numbers_that_explain_nothing(checkpoint: Checkpoint, samples: Samples) -> None:
    with pytest.raises(RequestError, match="1 rows cannot be explained; expected at least 2"):
        explain_samples(checkpoint, samples, rows=1, progress=False)
    with pytest.raises(InputError, match="rows of the table are alike"):
        explain_samples(checkpoint, samples.take(np.zeros(9, np.intp)), progress=False)


@pytest.mark.parametrize("architecture", ["mlp", "transformer", "transformer_full"])
def test_inputs_that_a_network_ignores_have_no_importance(samples: Samples, tmp_path: Path, architecture: str) -> None:
    trained = train(samples, small_config(architecture=architecture, max_epochs=1), progress=False)
    model = save_checkpoint(tmp_path / "m", trained.spec, trained.network)
    found = explain_samples(model, samples, rows=20, progress=False)
    kinds = {row["kind"]: 0.0 for row in found["variables"]}
    for row in found["variables"]:
        kinds[row["kind"]] += row["share"]
    assert (kinds["snapshot"] == 0) == (architecture == "transformer")
    if architecture == "mlp":
        assert [row["share"] for row in found["days"]] == pytest.approx([0, 0, 0, 0, 100])


@pytest.mark.parametrize("name", ["smap", "elevation"])
def test_the_variable_that_the_output_is_added_to_has_its_full_importance(
    checkpoint: Checkpoint, samples: Samples, tmp_path: Path, name: str
) -> None:
    """With a network whose output is 0, only the variable that it is added to matters; exact, as it is linear."""
    spec = checkpoint.spec
    other = spec.model_copy(update={"target": spec.target.model_copy(update={"residual_of": name})})
    network = spec.network().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    found = explain_samples(save_checkpoint(tmp_path / "m", other, network), samples, rows=480, progress=False)
    shares = {row["name"]: row for row in found["variables"]}
    assert shares[name]["share"] == pytest.approx(100)
    assert shares[name]["kind"] == "snapshot"
    values = samples.numbers(name)
    about = np.abs(values[:, None] - values[None, :].mean(1)).mean()
    assert shares[name]["mean_absolute"] == pytest.approx(about, rel=0.05)
    assert found["expectation"] == pytest.approx(values.mean(), rel=0.05)
    assert sum(row["share"] for row in found["days"]) == 0


def test_a_missing_optional_variable_is_treated_as_average(tmp_path: Path) -> None:
    samples = Samples(table=make_table().drop_columns(["smap"]))
    config = small_config(may_lack=("smap",), max_epochs=1, validation="none")
    trained = train(samples, config, progress=False)
    model = save_checkpoint(tmp_path / "m", trained.spec, trained.network)
    found = explain_samples(model, samples, rows=20, progress=False)
    shares = {row["name"]: row["share"] for row in found["variables"]}
    assert shares["smap"] == 0
    assert sum(shares.values()) == pytest.approx(100)


def test_the_text_and_the_json_hold_it_all(found: Importance) -> None:
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    lines = format_importance(found).splitlines()
    assert lines[1].split()[0] == found["variables"][0]["name"]
    assert lines[-1] == "expected gradients of 480 rows against 20 others each"
    assert len(lines) == 1 + 5 + 2 + 5 + 2


@pytest.mark.slow
@pytest.mark.skipif(not STATIONS.exists(), reason="needs the station data, which are not part of the project")
def test_the_shipped_model_responds_to_rain_first() -> None:
    table = read_samples(STATIONS / "samples_multimodal_2019_2021.parquet")
    found = explain_samples(load_checkpoint("mmnet-uscrn"), table, rows=60, progress=False)
    assert (found["variables"][0]["kind"], found["variables"][0]["name"]) == ("series", "pr")
    assert found["incompleteness"] < 0.01
