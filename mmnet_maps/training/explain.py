"""Feature importance: expected gradients, summed by variable and by day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.model.checkpoint import Checkpoint
from mmnet_maps.model.features import Feature, encoded_columns, fill_steps, standardise
from mmnet_maps.training.table import Samples, encode

ROWS = 2500
"""Default number of rows that are explained."""

BASELINES = 20
"""Rows of the table that each of them is compared with."""

_STEPS = 4  # of the integral: shares are within 0.5 % of those with 12, see docs/training.md
_BATCH = 1024  # evaluations of the network at once


class VariableShare(TypedDict):
    """Importance of one variable: mean absolute attribution in m³/m³, and its share in % of all variables' sum."""

    name: str
    kind: Literal["snapshot", "series"]
    mean_absolute: float
    share: float


class DayShare(TypedDict):
    """Importance of one step of the series, all variables summed; the share in % is of all steps' sum.

    ``days_before`` is how many days before the estimate its last day, usually its only one, lies.
    """

    days_before: int
    mean_absolute: float
    share: float


class Importance(TypedDict):
    """The result of `explain_samples`, which ``mmnet explain --out`` writes.

    ``expectation`` is the mean estimate over the baselines. The attributions of a row should sum to its estimate minus
    that mean; ``incompleteness`` is the mean absolute deviation from this. Both are in m³/m³. ``by_day`` holds
    the mean absolute attribution (m³/m³) of each series variable on each day, the days in the order of ``days``.
    """

    model: str
    rows: int
    baselines: int
    seed: int
    expectation: float
    incompleteness: float
    variables: list[VariableShare]
    days: list[DayShare]
    by_day: dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class _Attributions:
    """Attributions of n rows by variable, m³/m³.

    Attributes
    ----------
    snapshot_names
        Snapshot variables, and the one that the output is added to.
    snapshot
        Shape (n, variables).
    series
        Shape (n, steps, variables).
    expectation, incompleteness
        See `Importance`.
    baselines
        Rows that each row is compared with.
    """

    snapshot_names: list[str]
    snapshot: NDArray[np.float64]
    series: NDArray[np.float64]
    expectation: float
    incompleteness: float
    baselines: int


def explain_samples(
    checkpoint: Checkpoint, samples: Samples, *, rows: int = ROWS, seed: int = 0, progress: bool = True
) -> Importance:
    """Compute how much each variable and each day of the series matters in a model's estimates for a table.

    Expected gradients (Erion et al., 2021, Nat. Mach. Intell. 3, 620-631; the method of SHAP's GradientExplainer) of
    rows that are spread evenly over stations and days, compared with other rows of the table. For each row the columns
    of a variable (classes of land cover, sine and cosine, days) are summed with their signs, then the absolute value
    is taken, then the mean over rows.

    Parameters
    ----------
    checkpoint
        The model. The variable that its output is added to is one of the snapshot variables.
    samples
        A table with the model's inputs, preferably the one it was trained on; no target is needed. Rows with a missing
        input are left out.
    rows
        How many rows are explained, at least 2; all where the table has fewer.
    seed
        Decides which rows are explained and compared with each other.
    progress
        Show a progress bar.

    Returns
    -------
    Importance
        Variables by importance, the most important first; days from the oldest on.

    Raises
    ------
    RequestError
        `rows` is below 2.
    InputError
        The table has no column for an input, has fewer than 2 complete rows, or all of them get the same estimate.
    """
    if rows < 2:
        raise RequestError(f"{rows} rows cannot be explained; expected at least 2, such as {ROWS}")
    spec = checkpoint.spec
    found = _attributions(checkpoint, samples, rows, np.random.default_rng(seed), progress)
    days = np.abs(found.series.sum(2)).mean(0)
    by_day = np.abs(found.series).mean(0)  # (steps, variables)
    last = 0 if spec.includes_day else 1
    shares = 100 * days / max(days.sum(), np.finfo(float).tiny)
    return {
        "model": spec.name,
        "rows": len(found.snapshot),
        "baselines": found.baselines,
        "seed": seed,
        "expectation": found.expectation,
        "incompleteness": found.incompleteness,
        "variables": _variable_shares(found.snapshot_names, found.snapshot, spec.series, found.series.sum(1)),
        "days": [
            {"days_before": spec.days - stop + last, "mean_absolute": float(days[k]), "share": float(shares[k])}
            for k, (_, stop) in enumerate(spec.windows)
        ],
        "by_day": {
            name: by_day[:, k].tolist() for k, name in enumerate(dict.fromkeys(feature.name for feature in spec.series))
        },
    }


def _attributions(
    checkpoint: Checkpoint, samples: Samples, rows: int, random: np.random.Generator, progress: bool
) -> _Attributions:
    """Compute the attributions of some rows of a table, summed over the columns of each variable."""
    spec, network = checkpoint.spec, checkpoint.network
    snapshot, series, added = _inputs(checkpoint, samples)
    order = _complete_in_order(samples, snapshot, series, added)
    chosen = _evenly(order, min(rows, order.size), random)
    against = np.stack([random.permutation(_evenly(order, min(BASELINES, order.size), random)) for _ in chosen])
    of_snapshot, of_series = expected_gradients(network, snapshot, series, chosen, against, progress=progress)
    estimate = _estimates(network, snapshot, series, np.concatenate([chosen, against.ravel()]))
    expected = estimate[: chosen.size] - estimate[chosen.size :].reshape(against.shape).mean(1)
    incompleteness = np.abs(of_snapshot.sum(1) + of_series.sum((1, 2)) - expected).mean()

    by_snapshot = _by_variable(of_snapshot, spec.snapshot)  # (n, variables)
    names = list(dict.fromkeys(feature.name for feature in spec.snapshot))
    expectation = estimate[chosen.size :].mean()
    if spec.target.residual_of is not None:
        # It is added to the output unchanged, so its expected gradient is its difference from the baselines.
        if spec.target.residual_of not in names:
            names.append(spec.target.residual_of)
            by_snapshot = np.column_stack([by_snapshot, np.zeros(chosen.size)])
        by_snapshot[:, names.index(spec.target.residual_of)] += added[chosen] - added[against].mean(1)
        expectation += added[against].mean()
    return _Attributions(
        snapshot_names=names,
        snapshot=by_snapshot,
        series=_by_variable(of_series, spec.series),  # (n, steps, variables)
        expectation=float(expectation),
        incompleteness=float(incompleteness),
        baselines=against.shape[1],
    )


def expected_gradients(
    network: nn.Module,
    snapshot: NDArray[np.float32],
    series: NDArray[np.float32],
    chosen: NDArray[np.integer],
    against: NDArray[np.integer],
    *,
    steps: int = _STEPS,
    progress: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute attributions of some rows: the mean of their integrated gradients from each of their baselines.

    The integral along the straight line from a baseline to a row uses the Gauss-Legendre rule (captum), so the only
    random choice is that of baselines, and the attributions of a linear network are exact. captum's own GradientShap
    is not used: it draws the baselines of two inputs independently, and from numpy's global random numbers.

    Parameters
    ----------
    network
        Called as ``network(snapshot, series) -> (n,)``, in evaluation mode.
    snapshot, series
        Standardised inputs (n, columns) and (n, days, columns).
    chosen
        Rows to explain, (m,).
    against
        The baselines of each row, (m, k).
    steps
        Steps of the integral.
    progress
        Show a progress bar.

    Returns
    -------
    tuple of ndarray
        float64 (m, columns) and (m, days, columns) in the units of the output. Their sum over all columns and days is
        the estimate of a row minus the mean of its baselines' estimates.
    """
    from captum.attr import IntegratedGradients

    width, (days, columns) = snapshot.shape[1], series.shape[1:]
    # One input: a Transformer ignores the snapshot, and captum refuses an input without a gradient.
    method = IntegratedGradients(lambda row: network(row[:, :width], row[:, width:].reshape(-1, days, columns)))
    x = torch.from_numpy(np.concatenate([snapshot, series.reshape(len(series), -1)], axis=1))
    found = []
    baselines = against.shape[1]
    size = max(1, _BATCH // (baselines * steps))
    with tqdm(total=chosen.size, desc="explaining", unit="row", disable=not progress) as bar:
        for start in range(0, chosen.size, size):
            part = slice(start, start + size)
            rows = x[torch.from_numpy(chosen[part])]
            each = method.attribute(
                rows.repeat_interleave(baselines, 0),
                baselines=x[torch.from_numpy(against[part].ravel())],
                n_steps=steps,
            )
            found.append(each.detach().reshape(len(rows), baselines, -1).double().mean(1))  # (rows, all columns)
            bar.update(len(rows))
    whole = torch.cat(found).numpy()
    return whole[:, :width], whole[:, width:].reshape(-1, days, columns)


def format_importance(found: Importance) -> str:
    """Format the shares as a table for the terminal, the most important variable first."""
    lines = [f"{'variable':<16} {'input':<9} {'share':>7} {'m³/m³':>8}"]
    lines += [
        f"{row['name']:<16} {row['kind']:<9} {row['share']:>5.1f} % {row['mean_absolute']:>8.4f}"
        for row in found["variables"]
    ]
    lines += ["", f"{'days before':<16} {'':<9} {'share':>7} {'m³/m³':>8}"]
    lines += [
        f"{row['days_before']:<16} {'':<9} {row['share']:>5.1f} % {row['mean_absolute']:>8.4f}"
        for row in reversed(found["days"])
    ]
    lines.append("")
    lines.append(f"expected gradients of {found['rows']} rows against {found['baselines']} others each")
    return "\n".join(lines)


def _inputs(
    checkpoint: Checkpoint, samples: Samples
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return standardised snapshot and series, and the values added to the network's output, (n,)."""
    spec = checkpoint.spec
    snapshot, series = encode(samples, spec)
    steps = standardise(series, spec.series_mean, spec.series_std)
    fill_steps(steps, spec.windows)
    residual_of = spec.target.residual_of
    plain = standardise(snapshot, spec.snapshot_mean, spec.snapshot_std)
    may_lack = [name in spec.may_lack for name in encoded_columns(spec.snapshot)]
    plain[:, may_lack] = np.nan_to_num(plain[:, may_lack])
    return (
        plain,
        steps,
        np.zeros(len(samples), np.float32) if residual_of is None else samples.numbers(residual_of),
    )


def _complete_in_order(samples: Samples, *parts: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the rows that have all inputs, ordered by station and day."""
    whole = np.all([np.isfinite(part.reshape(len(samples), -1)).all(1) for part in parts], axis=0)
    if whole.sum() < 2:
        raise InputError(
            f"{samples.name}: {whole.sum()} of {len(samples)} rows have all inputs of the model, expected at least 2; "
            "check the inputs for NaN"
        )
    order: NDArray[np.intp] = np.lexsort((samples.date, samples.station))
    return np.asarray(order[whole[order]])


def _evenly(order: NDArray[np.intp], count: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Draw `count` rows, one from each of as many equal stretches."""
    places = (np.arange(count) + random.random(count)) * (order.size / count)
    return np.asarray(order[places.astype(np.intp)])


def _estimates(
    network: nn.Module, snapshot: NDArray[np.float32], series: NDArray[np.float32], rows: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return the network's output for some rows; each is computed once."""
    used, place = np.unique(rows, return_inverse=True)
    parts = (torch.split(torch.from_numpy(values[used]), _BATCH) for values in (snapshot, series))
    with torch.inference_mode():
        once: NDArray[np.float64] = torch.cat([network(s, x) for s, x in zip(*parts, strict=True)]).double().numpy()
    return np.asarray(once[place])


def _by_variable(attributions: NDArray[np.float64], features: Sequence[Feature]) -> NDArray[np.float64]:
    """Sum attributions (..., columns) over the columns of each variable: (..., variables)."""
    owner = [feature.name for feature in features for _ in feature.columns]
    names = dict.fromkeys(owner)
    return np.asarray(attributions @ np.array([[own == name for name in names] for own in owner], np.float64))


def _variable_shares(
    snapshot_names: Sequence[str],
    by_snapshot: NDArray[np.float64],
    series: Sequence[Feature],
    by_series: NDArray[np.float64],
) -> list[VariableShare]:
    size = np.abs(np.concatenate([by_snapshot, by_series], axis=1)).mean(0)
    if not size.sum() > 0:
        raise InputError("no variable changes the estimate: all rows of the table are alike; give rows that differ")
    names = [("snapshot", name) for name in snapshot_names]
    names += [("series", name) for name in dict.fromkeys(feature.name for feature in series)]
    rows: list[VariableShare] = [
        {"name": name, "kind": kind, "mean_absolute": float(value), "share": float(100 * value / size.sum())}  # type: ignore[typeddict-item]
        for (kind, name), value in zip(names, size, strict=True)
    ]
    return sorted(rows, key=lambda row: -row["share"])
