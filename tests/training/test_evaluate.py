from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmnet_maps.errors import InputError, OutputError, RequestError
from mmnet_maps.metrics import ESTIMATE, STD, format_report, report
from mmnet_maps.model.checkpoint import Checkpoint, check_golden, save_checkpoint
from mmnet_maps.model.engine import Engine
from mmnet_maps.model.features import standardise
from mmnet_maps.training.calibration import judge
from mmnet_maps.training.evaluate import (
    evaluate_samples,
    format_evaluation,
    predict_samples,
    prediction,
    recalibrate,
    write_predictions,
    write_report,
)
from mmnet_maps.training.table import Samples, encode
from mmnet_maps.training.train import train
from station_tables import make_table, replace, small_config, write_table


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    trained = train(Samples(table=make_table()), small_config(), progress=False)
    return save_checkpoint(tmp_path_factory.mktemp("models") / "small", trained.spec, trained.network)


def test_predictions_equal_the_network_on_hand_standardised_inputs(checkpoint: Checkpoint) -> None:
    import torch

    samples, spec = Samples(table=make_table(days=12)), checkpoint.spec
    snapshot, series = encode(samples, spec)
    with torch.inference_mode():
        expected = checkpoint.network(
            torch.from_numpy(standardise(snapshot, spec.snapshot_mean, spec.snapshot_std)),
            torch.from_numpy(standardise(series, spec.series_mean, spec.series_std)),
        ).numpy()
    np.testing.assert_allclose(predict_samples(Engine(checkpoint, device="cpu"), samples), expected, atol=1e-5)


def test_a_residual_is_added_to_its_variable(checkpoint: Checkpoint, tmp_path: Path) -> None:
    samples, spec = Samples(table=make_table(days=5)), checkpoint.spec
    residual = spec.model_copy(update={"target": spec.target.model_copy(update={"residual_of": "smap"})})
    other = save_checkpoint(tmp_path / "residual", residual, checkpoint.network)
    expected = predict_samples(Engine(checkpoint, device="cpu"), samples) + samples.numbers("smap")
    np.testing.assert_allclose(predict_samples(Engine(other, device="cpu"), samples), expected, atol=1e-6)


def test_evaluation_is_prediction_then_report(checkpoint: Checkpoint) -> None:
    samples = Samples(table=make_table(days=12))
    assert evaluate_samples(Engine(checkpoint, device="cpu"), samples) == report(
        samples.station, predict_samples(Engine(checkpoint, device="cpu"), samples), samples.target
    )


def test_predictions_keep_the_table_and_need_no_target(checkpoint: Checkpoint, tmp_path: Path) -> None:
    table = make_table(days=12).drop_columns(["soil_moisture"])
    smap = table["smap"].to_pylist()
    smap[7] = None
    table = replace(table, "smap", pa.array(smap, pa.float32()))
    count = write_predictions(
        Engine(checkpoint, device="cpu"), write_table(tmp_path / "in.parquet", table), tmp_path / "new" / "out.parquet"
    )
    written = pq.read_table(tmp_path / "new" / "out.parquet")
    assert written.drop_columns([ESTIMATE]).equals(pq.read_table(tmp_path / "in.parquet"))
    assert written.schema.field(ESTIMATE).type == pa.float32()
    estimate = written[ESTIMATE].to_numpy()
    assert np.flatnonzero(np.isnan(estimate)).tolist() == [7]
    assert count == table.num_rows - 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.parquet"]


def test_predicting_again_replaces_the_column(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = write_table(tmp_path / "in.parquet", make_table(days=3))
    write_predictions(Engine(checkpoint, device="cpu"), source, tmp_path / "once.parquet")
    write_predictions(Engine(checkpoint, device="cpu"), tmp_path / "once.parquet", tmp_path / "twice.parquet")
    assert pq.read_table(tmp_path / "twice.parquet").equals(pq.read_table(tmp_path / "once.parquet"))


def test_predictions_that_cannot_be_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = write_table(tmp_path / "in.parquet", make_table(days=3))
    before = source.read_bytes()
    with pytest.raises(RequestError, match="is the input; give another file"):
        write_predictions(Engine(checkpoint, device="cpu"), source, tmp_path / "." / "in.parquet")
    for out in (source / "out.parquet", tmp_path):  # below a file; a folder
        with pytest.raises(OutputError, match="cannot write") as error:
            write_predictions(Engine(checkpoint, device="cpu"), source, out)
        assert "\n" not in str(error.value)
    assert source.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]
    assert not list(tmp_path.parent.glob("*.part"))


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        write_report(report(np.array(["a"]), np.array([0.2]), np.array([0.3])), tmp_path)


def test_the_spread_of_predictions_is_that_of_drawn_networks(checkpoint: Checkpoint) -> None:
    """Compare twelve members, more than are held at once, with plain networks one by one."""
    import torch

    from mmnet_maps.model.network import draw_member

    samples, spec = Samples(table=make_table(days=4)), checkpoint.spec
    snapshot, series = encode(samples, spec)
    parts = (
        torch.from_numpy(standardise(snapshot, spec.snapshot_mean, spec.snapshot_std)),
        torch.from_numpy(standardise(series, spec.series_mean, spec.series_std)),
    )
    with torch.inference_mode():
        members = [draw_member(checkpoint.network, checkpoint.seed(k))(*parts).numpy() for k in range(12)]
    found = prediction(Engine(checkpoint, device="cpu", draws=12), samples)
    np.testing.assert_allclose(found.std, np.std(members, axis=0, ddof=1), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.estimate, predict_samples(Engine(checkpoint, device="cpu"), samples), atol=1e-6)


def test_members_are_judged_in_the_report_and_only_then(checkpoint: Checkpoint, tmp_path: Path) -> None:
    samples = Samples(table=make_table(days=12))
    plain = evaluate_samples(Engine(checkpoint, device="cpu"), samples)
    found = evaluate_samples(Engine(checkpoint, device="cpu", draws=4), samples)
    judged = found.pop("uncertainty")
    assert "uncertainty" not in plain
    assert found["median"] == pytest.approx(plain["median"], abs=1e-5)
    made = prediction(Engine(checkpoint, device="cpu", draws=4), samples)
    assert judged == judge(samples.station, samples.target, made.estimate, made.std)
    found["uncertainty"] = judged
    write_report(found, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == found
    assert format_evaluation(found).startswith(format_report(plain).splitlines()[0])
    assert "within the 90 % interval" in format_evaluation(found)


def test_predictions_with_their_spread(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, out = write_table(tmp_path / "in.parquet", make_table(days=3)), tmp_path / "out.parquet"
    write_predictions(Engine(checkpoint, device="cpu", draws=3), source, out)
    written = pq.read_table(out)
    assert written.column_names[-2:] == [ESTIMATE, STD]
    assert written.schema.field(STD).type == pa.float32()
    expected = prediction(Engine(checkpoint, device="cpu", draws=3), Samples(table=make_table(days=3))).std
    np.testing.assert_allclose(written[STD].to_numpy(), expected, rtol=1e-5)


def test_a_recalibrated_copy_has_the_same_weights_and_fitting_spread(checkpoint: Checkpoint, tmp_path: Path) -> None:
    samples, spec = Samples(table=make_table(days=12)), checkpoint.spec
    snapshot, series = encode(samples.take(np.arange(5)), spec)
    halved = spec.model_copy(update={"target": spec.target.model_copy(update={"std_factor": 0.5})})
    model = save_checkpoint(tmp_path / "m", halved, checkpoint.network, (snapshot, series))
    copy, judged = recalibrate(Engine(model, device="cpu", draws=5), samples, tmp_path / "copy")
    assert copy.sha256 == model.sha256
    assert copy.fingerprint != model.fingerprint, "maps of the copy are not taken for maps of the model"
    assert copy.spec.target.std_factor == pytest.approx(0.5 * judged["std_factor"])
    assert check_golden(copy) == 0
    told = copy.spec.training["std_factor"]
    assert isinstance(told, dict)
    assert (told["stations"], told["samples"], told["members"]) == (8, 96, 5)
    changed = {"target": model.spec.target, "training": model.spec.training}
    assert copy.spec.model_copy(update=changed) == model.spec
    again = evaluate_samples(Engine(copy, device="cpu", draws=5), samples)["uncertainty"]
    assert again["std_factor"] == pytest.approx(1, rel=1e-4)
    assert again["given"]["coverage"] == pytest.approx(judged["recalibrated"]["coverage"], abs=1.1)
    with pytest.raises(RequestError, match="needs members"):
        recalibrate(Engine(model, device="cpu"), samples, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_members_that_do_not_differ_cannot_be_judged(checkpoint: Checkpoint, tmp_path: Path) -> None:
    steady = save_checkpoint(tmp_path / "m", checkpoint.spec.model_copy(update={"dropout": 0.0}), checkpoint.network)
    with pytest.raises(InputError, match="no dropout"):
        evaluate_samples(Engine(steady, device="cpu", draws=3), Samples(table=make_table(days=2)))
