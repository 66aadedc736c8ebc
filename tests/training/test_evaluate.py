from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmnet_maps.errors import InputError, OutputError, RequestError
from mmnet_maps.model.checkpoint import Checkpoint, check_golden, save_checkpoint
from mmnet_maps.model.engine import Engine
from mmnet_maps.model.features import standardise
from mmnet_maps.training.calibration import judge
from mmnet_maps.training.evaluate import (
    ESTIMATE,
    STD,
    evaluate_samples,
    format_report,
    intervals,
    predict_samples,
    prediction,
    recalibrate,
    report,
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


def estimates(seed: int = 0, stations: int = 5, rows: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    station = np.repeat([f"S{i}" for i in range(stations)], rows)
    observed = random.uniform(0.05, 0.4, station.size)
    return station, (observed + random.normal(0.02, 0.04, station.size)).astype(np.float32), observed


def test_metrics_equal_closed_formulas() -> None:
    time = np.arange(1000) / 1000 * 2 * np.pi
    observed = 0.25 + 0.1 * np.sin(time)
    estimate = 0.27 + 0.05 * np.sin(time + np.pi / 3)  # bias .02, amplitude half, R = cos 60 degrees
    row = report(np.full(1000, "a"), estimate, observed)["per_station"][0]
    unbiased = np.sqrt((0.1**2 + 0.05**2 - 2 * 0.1 * 0.05 * 0.5) / 2)
    assert row["r"] == pytest.approx(0.5)
    assert row["bias"] == pytest.approx(0.02)
    assert row["ubrmse"] == pytest.approx(unbiased)
    assert row["rmse"] == pytest.approx(np.hypot(0.02, unbiased))


@given(st.integers(0, 1000))
def test_metrics_equal_scipys_for_each_station(seed: int) -> None:
    station, estimate, observed = estimates(seed)
    found = report(station, estimate, observed)
    for row in found["per_station"]:
        mine = station == row["station"]
        assert row["r"] == pytest.approx(stats.pearsonr(estimate[mine], observed[mine]).statistic)
        assert row["rmse"] ** 2 == pytest.approx(row["bias"] ** 2 + row["ubrmse"] ** 2)
    for metric in ("r", "rmse", "bias", "ubrmse"):
        assert found["median"][metric] == np.median([row[metric] for row in found["per_station"]])  # type: ignore[literal-required]


def test_a_report_has_the_documented_keys_and_survives_json(tmp_path: Path) -> None:
    found = report(*estimates())
    write_report(found, tmp_path / "r.json")
    read = json.loads((tmp_path / "r.json").read_text())
    assert read == found
    assert list(read) == ["stations", "samples", "median", "per_station"]
    assert list(read["median"]) == ["r", "rmse", "bias", "ubrmse"]
    assert list(read["per_station"][0]) == ["station", "samples", "r", "rmse", "bias", "ubrmse"]
    assert (read["stations"], read["samples"]) == (5, 200)


def test_a_station_without_r_is_left_out_of_the_median_of_r_alone(tmp_path: Path) -> None:
    station, estimate, observed = estimates(stations=4)
    whole = report(station[:120], estimate[:120], observed[:120])
    constant = np.where(station == "S3", np.float32(0.9), estimate)
    found = report(station, constant, observed)
    assert found["per_station"][3]["r"] is None
    assert found["median"]["r"] == whole["median"]["r"]
    assert found["median"]["rmse"] > whole["median"]["rmse"]
    write_report(found, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["per_station"][3]["r"] is None
    assert "S3                         40      -" in format_report(found)


def test_fewer_than_ten_rows_have_no_r_ten_have() -> None:
    station, estimate, observed = estimates(stations=1)
    assert report(station[:9], estimate[:9], observed[:9])["median"]["r"] is None
    assert report(station[:10], estimate[:10], observed[:10])["median"]["r"] is not None


def test_rows_without_a_pair_do_not_count() -> None:
    station, estimate, observed = estimates(stations=2)
    estimate[:40] = np.nan
    observed[45] = np.nan
    found = report(station, estimate, observed)
    assert (found["stations"], found["samples"]) == (1, 39)
    with pytest.raises(InputError, match="no row has both"):
        report(station[:40], estimate[:40], observed[:40])


def test_intervals_hold_the_median_and_shrink_with_more_stations() -> None:
    few, many = (report(*estimates(stations=count)) for count in (10, 160))
    narrow, wide = intervals(many["per_station"]), intervals(few["per_station"])
    for metric, (low, high) in narrow.items():
        assert low <= many["median"][metric] <= high
        assert high - low < wide[metric][1] - wide[metric][0]
    assert intervals(many["per_station"]) == narrow
    assert intervals(many["per_station"], level=0.5)["r"][0] > narrow["r"][0]


def test_intervals_of_the_median_cover_as_stated() -> None:
    """The order-statistics interval of a median (binomial) is an independent check of the bootstrap's ends."""
    rows = report(*estimates(stations=101))["per_station"]
    low, high = intervals(rows)["rmse"]
    ranked = np.sort([row["rmse"] for row in rows])
    ends = stats.binom.ppf([0.025, 0.975], 101, 0.5).astype(int)
    assert ranked[ends[0] - 2] <= low <= ranked[ends[0] + 2]
    assert ranked[ends[1] - 2] <= high <= ranked[ends[1] + 2]


def test_intervals_without_any_r() -> None:
    station, estimate, observed = estimates(stations=3, rows=5)
    assert set(intervals(report(station, estimate, observed)["per_station"])) == {"rmse", "bias", "ubrmse"}


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
    with pytest.raises(RequestError, match="is the input itself"):
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
        write_report(report(*estimates()), tmp_path)


def test_the_spread_of_predictions_is_that_of_drawn_networks(checkpoint: Checkpoint) -> None:
    """Twelve members, more than are held at once, one by one as plain networks."""
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
    assert format_report(found).startswith(format_report(plain).splitlines()[0])
    assert "within the 90 % interval" in format_report(found)


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
