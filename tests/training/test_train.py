from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from pydantic import ValidationError

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.metrics import report
from mmnet_maps.model.checkpoint import check_golden, load_checkpoint, save_checkpoint
from mmnet_maps.model.engine import Engine
from mmnet_maps.model.features import Feature, encoded_columns, standardise
from mmnet_maps.model.network import networks_of
from mmnet_maps.model.spec import ModelSpec, Profile
from mmnet_maps.resources import packaged
from mmnet_maps.training.evaluate import predict_samples
from mmnet_maps.training.experiment.run import read_experiment
from mmnet_maps.training.splits import later_block, validation_stations
from mmnet_maps.training.table import Samples, encode
from mmnet_maps.training.train import TrainConfig, Trained, read_config, station_loss, train, train_checkpoint, weakness
from station_tables import make_table, replace, small_config, write_table

CONFIGS = packaged("configs")


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples(table=make_table())


@pytest.fixture(scope="module")
def trained(samples: Samples) -> Trained:
    return train(samples, small_config(), progress=False)


def same_weights(a: Trained, b: Trained) -> bool:
    pairs = zip(a.network.state_dict().values(), b.network.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def error_without_history(trained: Trained, samples: Samples) -> float:
    """Return the mean squared error with all steps of several days missing."""
    spec = trained.spec
    snapshot, series = encode(samples, spec)
    steps = standardise(series, spec.series_mean, spec.series_std)
    steps[:, [stop - start > 1 for start, stop in spec.windows]] = 0
    known = standardise(snapshot, spec.snapshot_mean, spec.snapshot_std)
    with torch.inference_mode():
        found = trained.network(torch.from_numpy(known), torch.from_numpy(steps)).numpy()
    return float(np.mean((found - samples.target) ** 2))


def held_rows(samples: Samples, config: TrainConfig) -> np.ndarray:
    names = validation_stations(samples.stations, config.validation_fraction, config.seed)
    return np.isin(samples.station, list(names))


def test_a_seed_gives_one_network_and_another_seed_another(samples: Samples, trained: Trained) -> None:
    torch.rand(3)  # whatever was drawn before
    again = train(samples, small_config(), progress=False)
    assert same_weights(trained, again)
    assert trained.history == again.history
    assert not same_weights(trained, train(samples, small_config(seed=8), progress=False))


def test_a_network_with_groups_of_series_is_trained(samples: Samples, trained: Trained) -> None:
    groups = ({"features": ("pr",), "branch": "transformer"}, {"features": ("lst",), "branch": "mlp"})
    config = small_config(series_groups=groups)
    grouped = train(samples, config, progress=False)
    assert grouped.spec.series_groups == config.series_groups
    assert same_weights(grouped, train(samples, config, progress=False))
    weights = grouped.network.state_dict()
    assert weights["branches.1.encoder.0.weight"].shape == (8, 5)
    columns = encoded_columns(grouped.spec.snapshot)
    assert (weights["encoder_s.0.weight"][:, columns.index("landcover_developed")] == 0).all()


def test_a_progress_bar_changes_nothing(samples: Samples, trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert same_weights(trained, train(samples, small_config(), progress=True))
    assert "training" in capsys.readouterr().err


def test_the_weights_are_averaged(samples: Samples) -> None:
    plain, averaged = (
        train(samples, small_config(averaging=share, max_epochs=1), progress=False) for share in (0.0, 0.98)
    )
    assert not same_weights(plain, averaged)


def test_it_learns_what_can_be_learnt(samples: Samples) -> None:
    config = small_config(
        snapshot=(Feature(name="smap", encoding="identity"),),
        steps=3,
        d_model=32,
        max_epochs=60,
        patience=60,
        epoch_fraction=1.0,
        learning_rate=0.01,
        dropout=0.0,
    )
    rows = held_rows(samples, config)
    estimate = estimates_of(train(samples, config, progress=False), samples)
    found = report(samples.station[rows], estimate[rows], samples.target[rows])["median"]
    assert found["r"] is not None
    assert found["r"] > 0.85


def estimates_of(trained: Trained, samples: Samples) -> np.ndarray:
    from mmnet_maps.model.features import standardise

    spec = trained.spec
    snapshot, series = encode(samples, spec)
    inputs = (
        standardise(snapshot, spec.snapshot_mean, spec.snapshot_std),
        standardise(series, spec.series_mean, spec.series_std),
    )
    with torch.inference_mode():
        found: np.ndarray = trained.network(*(torch.from_numpy(part) for part in inputs)).numpy()
    return found


def test_scalers_and_ranges_come_from_training_rows_alone(samples: Samples, trained: Trained) -> None:
    config = small_config()
    rows = ~held_rows(samples, config)
    snapshot, series = encode(samples, config)
    np.testing.assert_allclose(trained.spec.snapshot_mean, snapshot[rows].mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(trained.spec.snapshot_std, snapshot[rows].std(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(trained.spec.series_mean, series[rows].mean(axis=(0, 1)), rtol=1e-4)
    np.testing.assert_allclose(trained.spec.series_std, series[rows].std(axis=(0, 1)), rtol=1e-4)
    expected = np.stack([series[rows].min(axis=(0, 1)), series[rows].max(axis=(0, 1))], axis=1)
    np.testing.assert_array_equal(np.array(trained.spec.series_range, np.float32), expected)


def test_held_out_targets_do_not_touch_a_fixed_number_of_epochs(samples: Samples) -> None:
    """Only the choice of an epoch may depend on held-out rows: with one epoch there is no choice."""
    config = small_config(max_epochs=1)
    target = samples.target.copy()
    target[held_rows(samples, config)] += 0.1
    changed = Samples(table=replace(samples.table, "soil_moisture", pa.array(target)))
    a, b = (train(table, config, progress=False) for table in (samples, changed))
    assert same_weights(a, b)
    assert a.history[0]["validation"] != b.history[0]["validation"]


def test_the_loss_splits_into_the_courses_and_the_levels_of_stations() -> None:
    random = np.random.default_rng(3)
    error, station = random.normal(0.1, 1, 50), random.choice([0, 2, 5], 50)
    groups = [error[station == number] for number in (0, 2, 5)]
    around = sum(group.size * group.var() for group in groups) / 50
    level = sum(group.size * group.mean() ** 2 for group in groups) / 50
    for weight in (0.0, 0.3, 1.0):
        found = station_loss(torch.tensor(error), torch.tensor(station), weight)
        assert float(found) == pytest.approx(around + weight * level)
    assert float(station_loss(torch.tensor(error), torch.tensor(station), 1.0)) == pytest.approx(np.mean(error**2))


@pytest.mark.parametrize("validation", ["stations", "time", "none"])
def test_held_out_rows_match_the_use(samples: Samples, validation: str) -> None:
    config = small_config(validation=validation, max_epochs=1)
    told = train(samples, config, progress=False).spec.training
    held = {
        "stations": held_rows(samples, config),
        "time": later_block(samples.date, config.validation_fraction),
        "none": np.zeros(len(samples), np.bool_),
    }[validation]
    assert told["held_out_samples"] == held.sum()
    assert told["samples"] == (~held).sum()
    assert told["stations"] == len(set(samples.station[~held]))
    assert ("metrics" in told) == (validation != "none")


def test_the_best_epoch_is_kept_and_patience_ends_the_training(samples: Samples) -> None:
    config = small_config(max_epochs=40, patience=2, learning_rate=0.05, averaging=0.0)
    trained = train(samples, config, progress=False)
    scores = [entry["validation"] for entry in trained.history]
    best = int(np.argmin(scores))
    assert len(scores) in (best + 3, 40)
    assert trained.spec.training["epochs"] == best + 1
    rows = held_rows(samples, config)
    error = estimates_of(trained, samples)[rows] - samples.target[rows]
    assert np.mean(error**2) == pytest.approx(scores[best], rel=1e-4)


def test_without_held_out_rows_every_epoch_is_trained(samples: Samples) -> None:
    trained = train(samples, small_config(validation="none", max_epochs=4, patience=1), progress=False)
    assert [entry["epoch"] for entry in trained.history] == [1, 2, 3, 4]
    assert trained.spec.training["epochs"] == 4


def test_a_class_without_stations_has_no_effect_of_its_own(trained: Trained) -> None:
    columns = list(encoded_columns(trained.spec.snapshot))
    unseen, seen = columns.index("landcover_developed"), columns.index("landcover_pasture")
    weights = trained.network.state_dict()["encoder_s.0.weight"]
    assert trained.spec.snapshot_std[unseen] == 0
    assert trained.spec.snapshot_range is not None
    assert trained.spec.snapshot_range[unseen] == (0, 0)
    assert (weights[:, unseen] == 0).all()
    assert (weights[:, seen] != 0).any()


def test_incomplete_rows_are_left_out_and_counted(samples: Samples) -> None:
    target, smap = samples.target.copy(), samples.numbers("smap").copy()
    target[:5], smap[3:9] = np.nan, np.nan
    holed = replace(replace(samples.table, "soil_moisture", pa.array(target)), "smap", pa.array(smap))
    config = small_config(max_epochs=1, validation="none")
    trained = train(Samples(table=holed), config, progress=False)
    assert trained.spec.training["incomplete_samples"] == 9
    assert trained.spec.training["samples"] == len(samples) - 9
    complete = train(samples.take(np.arange(9, len(samples))), config, progress=False)
    assert same_weights(trained, complete)


@pytest.mark.parametrize("architecture", ["mlp", "transformer", "mlp_full", "transformer_full"])
def test_the_comparison_networks_train_too(samples: Samples, architecture: str, tmp_path: Path) -> None:
    trained = train(samples, small_config(architecture=architecture, max_epochs=1), progress=False)
    assert np.isfinite(estimates_of(trained, samples)).all()


def test_preceding_days_alone(samples: Samples) -> None:
    trained = train(samples, small_config(includes_day=False, steps=10, max_epochs=1), progress=False)
    assert trained.spec.steps == 10
    with pytest.raises(InputError, match="lists of 11 days, expected at least 12"):
        train(samples, small_config(includes_day=False, steps=11, max_epochs=1), progress=False)


@pytest.mark.parametrize("validation", ["stations", "time"])
def test_several_tables_are_as_one(samples: Samples, validation: str) -> None:
    config = small_config(validation=validation, max_epochs=1)
    cut = np.arange(len(samples)) % 3 == 0  # of every station
    parts = [samples.take(cut), samples.take(~cut)]
    joined = Samples(table=pa.concat_tables([part.table for part in parts]))
    assert same_weights(train(parts, config, progress=False), train(joined, config, progress=False))


def test_a_table_may_miss_a_variable_that_another_has(samples: Samples, tmp_path: Path) -> None:
    config = small_config(may_lack=("smap",), max_epochs=1, validation="none")
    without = Samples(table=samples.table.drop_columns(["smap"]))
    with pytest.raises(InputError, match="has no column 'smap'"):
        train([samples, without], small_config(max_epochs=1), progress=False)
    trained = train([samples, without], config, progress=False)
    assert trained.spec.training["samples"] == 2 * len(samples)
    column = encoded_columns(config.snapshot).index("smap")
    assert trained.spec.snapshot_mean[column] == pytest.approx(samples.numbers("smap").mean(dtype=float))
    average = np.full(len(samples), trained.spec.snapshot_mean[column], np.float32)
    filled = Samples(table=replace(samples.table, "smap", pa.array(average)))
    engine = Engine(save_checkpoint(tmp_path / "model", trained.spec, trained.network))
    np.testing.assert_allclose(predict_samples(engine, without), predict_samples(engine, filled), atol=1e-6)
    assert np.isfinite(predict_samples(engine, without)).all()


def test_a_variable_that_no_row_has_has_no_effect(samples: Samples) -> None:
    config = small_config(may_lack=("smap",), max_epochs=1, validation="none")
    trained = train(Samples(table=samples.table.drop_columns(["smap"])), config, progress=False)
    column = encoded_columns(config.snapshot).index("smap")
    assert (trained.spec.snapshot_mean[column], trained.spec.snapshot_std[column]) == (0, 0)
    assert not trained.network.encoder_s[0].weight[:, column].any()


def test_history_may_be_hidden_in_training(samples: Samples) -> None:
    long = {"steps": 4, "step_days": (6, 3, 1, 1), "max_epochs": 8, "validation": "none", "learning_rate": 0.01}
    plain, hidden = (train(samples, small_config(**long, hide_history=share), progress=False) for share in (0.0, 0.5))
    assert error_without_history(hidden, samples) < error_without_history(plain, samples)


WHOLE_BATCHES = {"batch": 480, "epoch_fraction": 1.0, "validation": "none", "averaging": 0.0}


def test_the_networks_of_a_committee_are_trained_as_each_alone(samples: Samples) -> None:
    config = small_config(**WHOLE_BATCHES, max_epochs=3, dropout=0.0)  # without any other draw than the first weights
    two = config.model_copy(update={"networks": 2})

    both = train(samples, two, progress=False)
    first, second = networks_of(both.network)
    losses = []
    for place, one in enumerate((first, second)):

        def alone(spec: ModelSpec, place: int = place) -> torch.nn.Module:
            return networks_of(spec.model_copy(update={"networks": 2}).network())[place]

        found = train(samples, config, build=alone, progress=False)
        losses.append([entry["loss"] for entry in found.history])
        with torch.inference_mode():  # not the weights: a bias before BatchNorm follows rounding alone
            inputs = [torch.from_numpy(part) for part in found.golden]
            torch.testing.assert_close(one(*inputs), found.network(*inputs), atol=1e-5, rtol=0)
    assert [entry["loss"] for entry in both.history] == pytest.approx(np.mean(losses, axis=0), rel=1e-4)
    assert not torch.equal(first.encoder_s[0].weight, second.encoder_s[0].weight)
    assert both.spec.networks == 2
    assert same_weights(both, train(samples, two, progress=False))


def test_a_committee_is_saved_and_loaded(samples: Samples, tmp_path: Path) -> None:
    trained = train(samples, small_config(max_epochs=1, networks=2), progress=False)
    saved = save_checkpoint(tmp_path / "model", trained.spec, trained.network, trained.golden)
    assert len(networks_of(saved.network)) == 2
    assert check_golden(saved) == 0
    assert '"networks": 2' in (tmp_path / "model" / "model.json").read_text()
    alone = train(samples, small_config(max_epochs=1), progress=False)
    assert '"networks"' not in alone.spec.to_json()


def test_too_few_stations_to_hold_some_out(samples: Samples) -> None:
    few = samples.take(np.isin(samples.station, ["S00", "S01", "S02"]))
    with pytest.raises(RequestError, match="3 stations are too few to hold 0.125 of them out; give a larger"):
        train(few, small_config(), progress=False)


def test_nothing_to_train_on(samples: Samples) -> None:
    with pytest.raises(InputError, match="expected at least one batch of 32"):
        train(samples.take(np.arange(20)), small_config(validation="none"), progress=False)
    empty = replace(samples.table, "soil_moisture", pa.array(np.full(len(samples), np.nan, np.float32)))
    with pytest.raises(InputError, match="0 of 480 rows"):
        train(Samples(table=empty), small_config(), progress=False)
    with pytest.raises(RequestError, match="1 stations are too few to hold 0.125 of them out"):
        train(samples.take(samples.station == "S01"), small_config(), progress=False)


def write_config(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump(small_config().model_dump(mode="json") | changes))
    return path


def test_train_checkpoint_writes_the_result_of_train(samples: Samples, trained: Trained, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.parquet", samples.table)
    config = write_config(tmp_path / "c.yaml")
    checkpoint = train_checkpoint([table], config, tmp_path / "model", progress=False)
    np.testing.assert_allclose(
        predict_samples(Engine(checkpoint, device="cpu"), samples), estimates_of(trained, samples), atol=1e-5
    )
    assert check_golden(checkpoint) < 1e-6
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "golden.npz",
        "model.json",
        "stac.json",
        "weights.safetensors",
    ]
    assert checkpoint.spec.training["config"]["seed"] == 0
    other = train_checkpoint([table], config, tmp_path / "other", seed=5, progress=False)
    assert other.spec.training["config"]["seed"] == 5
    assert other.sha256 != checkpoint.sha256


def test_a_configuration_comes_back_from_yaml(tmp_path: Path) -> None:
    assert read_config(write_config(tmp_path / "c.yaml", batch=64)) == small_config(batch=64)


def test_the_shipped_configuration_uses_no_position_and_runs_without_history() -> None:
    config = read_config(CONFIGS / "mmnet-uscrn.yaml")
    names = {feature.name for feature in (*config.snapshot, *config.series)}
    assert not names & {"latitude", "longitude"}
    assert (config.days, config.needed_days) == (60, 11)


SHIPPED = ("mmnet-uscrn", "mmnet-uscrn-paper")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_experiment_trains_the_shipped_models(name: str) -> None:
    config = read_config(CONFIGS / f"{name}.yaml")
    experiment = read_experiment(CONFIGS / "experiment.yaml")
    tried = experiment.training_of("multimodal", {"mmnet-uscrn": "mmnet_uscrn", "mmnet-uscrn-paper": "mmnet"}[name])
    same = {*Profile.model_fields, "d_model", "heads", "feedforward", "learning_rate", "weight_decay", "dropout"}
    if name == "mmnet-uscrn":  # the paper's recipe is tried with fewer epochs
        same |= {"max_epochs", "epoch_fraction", "station_mean_weight", "hide_history", "validation", "batch"}
        same |= {"networks"}
    assert {field: getattr(tried, field) for field in same} == {field: getattr(config, field) for field in same}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_matches_its_configuration(name: str) -> None:
    folder = packaged("models") / name
    config, checkpoint = read_config(CONFIGS / f"{name}.yaml"), load_checkpoint(folder)
    assert set(config.inputs) == {feature.name for feature in (*config.snapshot, *config.series)} - {
        "doy",
        "latitude",
        "longitude",
    }
    assert all(getattr(checkpoint.spec, field) == getattr(config, field) for field in Profile.model_fields)
    told = config.model_dump(mode="json")
    assert checkpoint.spec.training["config"].items() <= told.items()
    assert check_golden(checkpoint) < 1e-5
    assert (folder / "weights.safetensors").stat().st_size <= 2_000_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 1}, "batch: Input should be greater than or equal to 8, not 1"),
        ({"validation": "random"}, "validation: Input should be 'stations', 'time' or 'none', not 'random'"),
        ({"colour": 3}, "colour: Extra inputs"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"heads": 3}, "d_model 16 is not a multiple of heads 3"),
        ({"name": "a/b"}, "name"),
        ({"series": []}, "series"),
    ],
)
def test_configurations_out_of_bounds(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError) as error:
        read_config(write_config(tmp_path / "c.yaml", **changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_configurations_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\nb: 2\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("list", "broken", "binary", "absent"):
        with pytest.raises(RequestError) as error:
            read_config(tmp_path / f"{name}.yaml")
        assert "\n" not in str(error.value)


def test_every_field_of_a_configuration_has_bounds_and_a_sentence() -> None:
    for name in set(TrainConfig.model_fields) - set(TrainConfig.__mro__[1].model_fields):  # type: ignore[attr-defined]
        assert TrainConfig.model_fields[name].description
    with pytest.raises(ValidationError):
        small_config().batch = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("history", "rows", "metrics", "words"),
    [
        (10, 2048, {"r": 0.31}, None),
        (4, 256, {"r": 0.9}, "trained for 4 steps, fewer than its warm-up of 50;"),
        (10, 2048, {"r": 0.09}, "its median R at held-out stations is 0.09;"),
        (10, 2048, {"r": None}, "its median R at held-out stations is undefined;"),
        (
            1,
            256,
            {"r": 0.09},
            "trained for 1 step, fewer than its warm-up of 50 and its median R at held-out stations is",
        ),
        (10, 2048, None, None),
    ],
)
def test_a_weak_model_is_called_so(
    trained: Trained, history: int, rows: int, metrics: dict | None, words: str | None
) -> None:
    config = small_config(batch=256, epoch_fraction=1.0)  # 2048 rows: 8 steps an epoch
    training = {"samples": rows} | ({"metrics": metrics} if metrics else {})
    spec = trained.spec.model_copy(update={"training": training})
    found = weakness(Trained(spec=spec, network=trained.network, history=[{}] * history, golden=trained.golden), config)
    assert found is None if words is None else words in str(found)
