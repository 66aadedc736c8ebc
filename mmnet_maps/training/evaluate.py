"""How good a model is at stations: predictions for a table of samples, metrics per station, medians, intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.files import write_whole
from mmnet_maps.model.features import encoded_columns
from mmnet_maps.training.calibration import Calibration, Reliability, format_reliability, judge
from mmnet_maps.training.table import Samples, inputs, read_samples, write_samples

if TYPE_CHECKING:
    from mmnet_maps.model.checkpoint import Checkpoint
    from mmnet_maps.model.engine import Engine, Prediction

ESTIMATE = "soil_moisture_estimate"
"""The column that `write_predictions` adds, m³/m³, float32."""

STD = "soil_moisture_std"
"""The column that it adds for an engine with members: standard deviation over them, m³/m³, float32."""

MIN_ROWS_FOR_R = 10
"""A correlation from fewer pairs than this is not reported."""

METRICS = ("r", "rmse", "bias", "ubrmse")


class StationMetrics(TypedDict):
    """Metrics of one station; ``r`` is None where it is not defined."""

    station: str
    samples: int
    r: float | None
    rmse: float
    bias: float
    ubrmse: float


class Report(TypedDict):
    """Metrics per station and their medians over stations, as ``mmnet evaluate --json`` writes them.

    ``uncertainty``, where standard deviations were asked for, judges them.
    """

    stations: int
    samples: int
    median: dict[str, float | None]
    per_station: list[StationMetrics]
    uncertainty: NotRequired[Reliability]


def report(station: NDArray[np.str_], estimate: NDArray[np.floating], observed: NDArray[np.floating]) -> Report:
    """Metrics of each station and the median of each metric over stations.

    Per station: Pearson's R, root mean square error, bias = mean(estimate - observed) and unbiased RMSE,
    ubRMSE² = RMSE² - bias² (Entekhabi et al., 2010, J. Hydrometeorol. 11, 832-840). Rows where either value is NaN
    are left out. Where R is not defined — fewer than 10 rows, or either series is constant — it is None and the
    station is left out of the median of R, but stays in the other medians.

    Parameters
    ----------
    station, estimate, observed
        Shape (n,); soil moisture in m³/m³.

    Returns
    -------
    Report
        Stations in alphabetical order; those without a single pair are left out.

    Raises
    ------
    InputError
        No row has both an estimate and an observation.

    Examples
    --------
    >>> found = report(np.array(["a"] * 3), np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.1, 0.2]))
    >>> found["per_station"][0]["r"] is None, round(found["median"]["bias"], 4)
    (True, 0.0667)
    """
    paired = np.isfinite(estimate) & np.isfinite(observed)
    if not paired.any():
        raise InputError("no row has both an estimate and an observation; check the inputs and soil_moisture for NaN")
    station, estimate, observed = station[paired], estimate[paired], observed[paired]
    per_station = [
        _station_metrics(str(name), estimate[station == name], observed[station == name]) for name in np.unique(station)
    ]
    return {
        "stations": len(per_station),
        "samples": int(paired.sum()),
        "median": {metric: _median(per_station, metric) for metric in METRICS},
        "per_station": per_station,
    }


def intervals(
    per_station: Sequence[StationMetrics], *, draws: int = 10_000, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of the medians over stations (percentile method, stations drawn with replacement).

    Stations, not rows, are drawn because rows of one station are far from independent.

    Returns
    -------
    dict
        Lower and upper end of the central ``level`` interval of each metric's median; a metric that no station has
        is absent.
    """
    random = np.random.default_rng(seed)
    chosen = random.integers(0, len(per_station), (draws, len(per_station)))
    ends: dict[str, tuple[float, float]] = {}
    for metric in METRICS:
        values = _values(per_station, metric)
        if not np.isfinite(values).any():
            continue
        medians = _draw_medians(values, chosen)
        low, high = np.nanquantile(medians, [(1 - level) / 2, (1 + level) / 2])
        ends[metric] = (float(low), float(high))
    return ends


def prediction(engine: Engine, samples: Samples) -> Prediction:
    """What a model says of each row of a table, with the standard deviation where the engine has members.

    Parameters
    ----------
    engine
        The model; its features say which columns are needed.
    samples
        The table; no target is needed.

    Returns
    -------
    Prediction
        m³/m³, float32, shape (n,), in the table's order; NaN where an input is missing that a row may not lack.

    Raises
    ------
    InputError
        The table lacks an input that it may not lack, or holds one in the wrong form.
    """
    spec = engine.spec
    columns, series = inputs(samples, spec)
    average = dict(zip(encoded_columns(spec.snapshot), spec.snapshot_mean, strict=True))
    for name in spec.may_lack:
        columns[name] = np.nan_to_num(columns[name].astype(np.float32), nan=average[name])
    if spec.target.residual_of is not None:
        columns[spec.target.residual_of] = samples.numbers(spec.target.residual_of)
    groups = (terms for [terms] in engine.encode_in_groups(series))
    return engine.predict(columns, groups, np.arange(len(samples)))


def predict_samples(engine: Engine, samples: Samples) -> NDArray[np.float32]:
    """The estimates of `prediction` alone."""
    return prediction(engine, samples).estimate


def evaluate_samples(engine: Engine, samples: Samples) -> Report:
    """Predict a table that holds observations and report the metrics; see `prediction` and `report`.

    For an engine with members the standard deviations are judged as well, see `calibration.judge`.
    """
    found = prediction(engine, samples)
    made = report(samples.station, found.estimate, samples.target)
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
        Observations at stations that the model was not trained on: its errors at the others are smaller.
    out
        Folder of the copy, as for `checkpoint.save_checkpoint`. What the factor rests on is kept under ``training``.

    Returns
    -------
    Checkpoint
        The copy, as loaded.
    Reliability
        The judgement that the factor is from.

    Raises
    ------
    RequestError
        The engine has no members.
    InputError
        As for `prediction` and `calibration.judge`.
    OutputError
        The copy cannot be written.
    """
    (checkpoint,) = engine.checkpoints
    found = prediction(engine, samples)
    if found.std is None:
        raise RequestError("a recalibration needs members, such as --uncertainty 20, or there is no spread to scale")
    judged = judge(samples.station, samples.target, found.estimate, found.std)
    factor = checkpoint.spec.target.std_factor * judged["std_factor"]
    return save_factor(out, checkpoint, factor, judged, judged["recalibrated"], engine.members), judged


def save_factor(
    out: str | Path, checkpoint: Checkpoint, factor: float, found: Reliability, reached: Calibration, members: int
) -> Checkpoint:
    """Write a copy of a checkpoint with another ``std_factor``, and under ``training`` what that rests on.

    Parameters
    ----------
    out
        Folder of the copy, as for `checkpoint.save_checkpoint`.
    checkpoint, factor
        The model and its new factor.
    found, reached, members
        The judgement that the factor is from, the coverage that it reaches, and the number of members drawn.
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
    of rows and all Parquet types stay as they are; ``soil_moisture`` is not needed. A row with a missing input gets
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
        The table cannot be read or lacks an input of the model.
    OutputError
        ``out`` cannot be written.
    """
    import pyarrow as pa

    source, out = Path(source), Path(out)
    if out.exists() and source.exists() and out.samefile(source):
        raise RequestError(f"{out} is the input itself; give another file for the predictions")
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


def format_report(found: Report) -> str:
    """The report as a table for the terminal: one line per station, then the medians.

    Examples
    --------
    >>> print(format_report(report(np.array(["a"] * 3), np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.1, 0.2]))))
    station               samples      R    RMSE    bias  ubRMSE
    a                           3      -  0.0816  0.0667  0.0471
    median, 1 stations          3      -  0.0816  0.0667  0.0471
    """
    lines = [f"{'station':<20} {'samples':>8} {'R':>6} {'RMSE':>7} {'bias':>7} {'ubRMSE':>7}"]
    for row in found["per_station"]:
        lines.append(_line(row["station"], row["samples"], [row["r"], row["rmse"], row["bias"], row["ubrmse"]]))
    median = [found["median"][metric] for metric in METRICS]
    lines.append(_line(f"median, {found['stations']} stations", found["samples"], median))
    if "uncertainty" in found:
        lines += ["", format_reliability(found["uncertainty"])]
    return "\n".join(lines)


def _line(name: str, samples: int, values: Sequence[float | None]) -> str:
    r, *errors = values
    shown = "-" if r is None else f"{r:.3f}"
    return f"{name:<20} {samples:>8} {shown:>6} " + " ".join(f"{value:>7.4f}" for value in errors)


def _station_metrics(name: str, estimate: NDArray[np.floating], observed: NDArray[np.floating]) -> StationMetrics:
    x, y = estimate.astype(np.float64), observed.astype(np.float64)
    error = x - y
    defined = x.size >= MIN_ROWS_FOR_R and np.ptp(x) > 0 and np.ptp(y) > 0
    return {
        "station": name,
        "samples": int(x.size),
        "r": float(np.corrcoef(x, y)[0, 1]) if defined else None,
        "rmse": float(np.sqrt(np.mean(error**2))),
        "bias": float(error.mean()),
        "ubrmse": float(error.std()),
    }


def _values(per_station: Sequence[StationMetrics], metric: str) -> NDArray[np.float64]:
    """One metric by station, NaN where None."""
    return np.array([row[metric] for row in per_station], dtype=np.float64)  # type: ignore[literal-required]


def _median(per_station: Sequence[StationMetrics], metric: str) -> float | None:
    values = _values(per_station, metric)
    return float(np.nanmedian(values)) if np.isfinite(values).any() else None


def _draw_medians(values: NDArray[np.float64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Median of each draw, NaN left out; a draw without any defined value is NaN."""
    drawn = values[chosen]
    drawn = drawn[np.isfinite(drawn).any(axis=1)]
    return np.asarray(np.nanmedian(drawn, axis=1))
