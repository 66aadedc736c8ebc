"""Evaluation of a model at stations: predictions for a table of samples, their metrics, and recalibration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, cast

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import RequestError
from mmnet_maps.files import write_whole
from mmnet_maps.metrics import ESTIMATE, STD, Report, format_report, report
from mmnet_maps.model.features import encoded_columns
from mmnet_maps.training.calibration import Calibration, Reliability, format_reliability, judge
from mmnet_maps.training.table import Samples, inputs, read_samples, write_samples

if TYPE_CHECKING:
    from mmnet_maps.model.checkpoint import Checkpoint
    from mmnet_maps.model.engine import Engine
    from mmnet_maps.model.prediction import Prediction


class EvaluationReport(Report):
    """Metrics as ``mmnet evaluate --json`` writes them, with a judgement of standard deviations where they exist."""

    uncertainty: NotRequired[Reliability]


def prediction(engine: Engine, samples: Samples) -> Prediction:
    """Estimate each row of a table, with the standard deviation where the engine has members.

    Parameters
    ----------
    engine
        The model; its features decide which columns are needed.
    samples
        The table; no target is needed.

    Returns
    -------
    Prediction
        m³/m³, float32, shape (n,), in the table's order; NaN where a required input is missing.

    Raises
    ------
    InputError
        The table has no column for a required input, or holds one in the wrong form.
    """
    spec = engine.spec
    columns, series = inputs(samples, spec)
    average = dict(zip(encoded_columns(spec.snapshot), spec.snapshot_mean, strict=True))
    for name in spec.may_lack:
        columns[name] = np.nan_to_num(columns[name].astype(np.float32), nan=average[name])
    if spec.target.residual_of is not None:
        columns[spec.target.residual_of] = samples.numbers(spec.target.residual_of)
    [terms] = engine.encode_days(series)
    return engine.predict(columns, terms, np.arange(len(samples)))


def predict_samples(engine: Engine, samples: Samples) -> NDArray[np.float32]:
    """Return only the estimates of `prediction`."""
    return prediction(engine, samples).estimate


def evaluate_samples(engine: Engine, samples: Samples) -> EvaluationReport:
    """Predict a table that holds observations and report the metrics; see `prediction` and `report`.

    For an engine with members the calibration of the standard deviations is reported too, see `calibration.judge`.
    """
    found = prediction(engine, samples)
    made = cast(EvaluationReport, report(samples.station, found.estimate, samples.target))
    if found.std is not None:
        made["uncertainty"] = judge(samples.station, samples.target, found.estimate, found.std)
    return made


def recalibrate(engine: Engine, samples: Samples, out: str | Path) -> tuple[Checkpoint, Reliability]:
    """Write a copy of a model whose ``std_factor`` fits a table of observations; its weights are the same.

    Parameters
    ----------
    engine
        One model with members drawn from it.
    samples
        Observations at stations that the model was not trained on: its errors at training stations are smaller.
    out
        Folder of the copy, as for `checkpoint.save_checkpoint`. The basis of the factor is kept under ``training``.

    Returns
    -------
    Checkpoint
        The copy, as loaded.
    Reliability
        The calibration that the factor is from.

    Raises
    ------
    RequestError
        The engine has no members.
    InputError
        See `prediction` and `calibration.judge`.
    OutputError
        The copy cannot be written.
    """
    (checkpoint,) = engine.checkpoints
    found = prediction(engine, samples)
    if found.std is None:
        raise RequestError(
            "a recalibration needs members, otherwise there is no spread to scale; give --uncertainty 20"
        )
    judged = judge(samples.station, samples.target, found.estimate, found.std)
    factor = checkpoint.spec.target.std_factor * judged["std_factor"]
    return save_factor(out, checkpoint, factor, judged, judged["recalibrated"], engine.members), judged


def save_factor(
    out: str | Path, checkpoint: Checkpoint, factor: float, found: Reliability, reached: Calibration, members: int
) -> Checkpoint:
    """Write a copy of a checkpoint with another ``std_factor``, and the basis of that factor under ``training``.

    Parameters
    ----------
    out
        Folder of the copy, as for `checkpoint.save_checkpoint`.
    checkpoint, factor
        The model and its new factor.
    found, reached, members
        The calibration that the factor is from, the coverage that it reaches, and the number of members drawn.
    """
    from mmnet_maps.model.checkpoint import read_golden, save_checkpoint

    spec = checkpoint.spec
    basis = {
        "samples": found["samples"],
        "stations": found["stations"],
        "members": members,
        "coverage": {**reached["coverage"]},
    }
    changed = spec.model_copy(
        update={
            "target": spec.target.model_copy(update={"std_factor": factor}),
            "training": spec.training | {"std_factor": basis},
        }
    )
    return save_checkpoint(out, changed, checkpoint.network, read_golden(checkpoint))


def write_predictions(engine: Engine, source: str | Path, out: str | Path) -> int:
    """Write a copy of a table of samples with the column ``soil_moisture_estimate`` added (float32, m³/m³).

    For an engine with members their standard deviation is added as ``soil_moisture_std``. Every other column, the order
    of rows and all Parquet types are kept; ``soil_moisture`` is not needed. A row with a missing input gets
    NaN. The file appears whole or not at all.

    Returns
    -------
    int
        How many rows have an estimate.

    Raises
    ------
    RequestError
        ``out`` is the input itself.
    InputError
        The table cannot be read or has no column for an input of the model.
    OutputError
        ``out`` cannot be written.
    """
    import pyarrow as pa

    source, out = Path(source), Path(out)
    if out.exists() and source.exists() and out.samefile(source):
        raise RequestError(f"{out} is the input; give another file for the predictions")
    samples = read_samples(source, target=False)
    found = prediction(engine, samples)
    table = samples.table
    for name, values in ((ESTIMATE, found.estimate), (STD, found.std)):
        if values is None:
            continue
        field, column = pa.field(name, pa.float32()), pa.array(values, pa.float32())
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), field, column)
        else:
            table = table.append_column(field, column)
    write_samples(table, out)
    return int(np.isfinite(found.estimate).sum())


def write_report(found: Report, out: str | Path) -> None:
    """Write a report as JSON, with null for an undefined R; the file appears whole or not at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    write_whole(Path(out), json.dumps(found, indent=1, allow_nan=False) + "\n")


def format_evaluation(found: EvaluationReport) -> str:
    """Format the metrics, and the judgement of the standard deviations where there is one, for the terminal."""
    text = format_report(found)
    return f"{text}\n\n{format_reliability(found['uncertainty'])}" if "uncertainty" in found else text
