"""What a model depends on: expected gradients, summed by variable and by day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.model.checkpoint import Checkpoint
from mmnet_maps.model.features import Feature, encoded_columns, fill_steps, standardise
from mmnet_maps.training.table import Samples, encode

ROWS = 2500
"""Rows that are explained unless another number is asked for."""

BASELINES = 20
"""Rows of the table that each of them is held against."""

_STEPS = 4  # of the integral: shares are within 0.5 % of those with 12, see docs/training.md
_BATCH = 1024  # evaluations of the network at once


class VariableShare(TypedDict):
    """How much one variable counts: mean absolute attribution in m³/m³, and its share in % of all variables' sum."""

    name: str
    kind: Literal["snapshot", "series"]
    mean_absolute: float
    share: float


class DayShare(TypedDict):
    """How much the series of one step count, all variables summed; the share in % is of all steps' sum.

    ``days_before`` is how many days before the estimate its last day, usually its only one, lies.
    """

    days_before: int
    mean_absolute: float
    share: float


class Importance(TypedDict):
    """What `explain_samples` finds, and ``mmnet explain --out`` writes.

    ``expectation`` is the mean estimate over the baselines, ``incompleteness`` the mean absolute error of what expected
    gradients promise, that the attributions of a row sum up to its estimate less that mean; m³/m³. ``by_day`` holds
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


def explain_samples(
    checkpoint: Checkpoint, samples: Samples, *, rows: int = ROWS, seed: int = 0, progress: bool = True
) -> Importance:
    """How much each variable and each day of the series counts in a model's estimates for a table.

    Expected gradients (Erion et al., 2021, Nat. Mach. Intell. 3, 620-631; what SHAP's GradientExplainer computes) of
    rows that are spread evenly over stations and days, held against other rows of the table. Of each row the columns of
    a variable (classes of land cover, sine and cosine, days) are summed with their signs, then the absolute value is
    taken, and of that the mean over rows.

    Parameters
    ----------
    checkpoint
        The model. What its output is a residual of counts with the snapshot variables.
    samples
        A table with the model's inputs, best the one it was trained on; no target is needed. Rows with a missing
        input are left out.
    rows
        How many rows are explained, at least 2; all where the table has fewer.
    seed
        Decides which rows are explained and held against each other.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Importance
        Variables from the one that counts most to the one that counts least; days from the oldest on.

    Raises
    ------
    RequestError
        Fewer than 2 rows are asked for.
    InputError
        The table lacks an input of the model, has fewer than 2 complete rows, or all of them get the same estimate.
    """
    if rows < 2:
        raise RequestError(f"An explanation of {rows} rows is asked for, expected at least 2, such as {ROWS}.")
    spec, random = checkpoint.spec, np.random.default_rng(seed)
    snapshot, series, added = _inputs(checkpoint, samples)
    order = _complete_in_order(samples, snapshot, series, added)
    chosen = _evenly(order, min(rows, order.size), random)
    against = np.stack([random.permutation(_evenly(order, min(BASELINES, order.size), random)) for _ in chosen])
    of_snapshot, of_series = expected_gradients(
        checkpoint.network, snapshot, series, chosen, against, progress=progress
    )
    estimate = _estimates(checkpoint.network, snapshot, series, np.concatenate([chosen, against.ravel()]))
    promised = estimate[: chosen.size] - estimate[chosen.size :].reshape(against.shape).mean(1)
    incompleteness = np.abs(of_snapshot.sum(1) + of_series.sum((1, 2)) - promised).mean()

    by_snapshot = _by_variable(of_snapshot, spec.snapshot)  # (n, variables)
    by_series = _by_variable(of_series, spec.series)  # (n, steps, variables)
    snapshot_names = list(dict.fromkeys(feature.name for feature in spec.snapshot))
    expectation = estimate[chosen.size :].mean()
    if spec.target.residual_of is not None:
        # It is added to the output as it is, so that its expected gradient is what it differs by.
        if spec.target.residual_of not in snapshot_names:
            snapshot_names.append(spec.target.residual_of)
            by_snapshot = np.column_stack([by_snapshot, np.zeros(chosen.size)])
        place = snapshot_names.index(spec.target.residual_of)
        by_snapshot[:, place] += added[chosen] - added[against].mean(1)
        expectation += added[against].mean()
    variables = _variable_shares(snapshot_names, by_snapshot, spec.series, by_series.sum(1))
    days = np.abs(by_series.sum(2)).mean(0)
    matrix = np.abs(by_series).mean(0)  # (steps, variables)
    last = 0 if spec.includes_day else 1
    shares = 100 * days / max(days.sum(), np.finfo(float).tiny)
    return {
        "model": spec.name,
        "rows": int(chosen.size),
        "baselines": int(against.shape[1]),
        "seed": seed,
        "expectation": float(expectation),
        "incompleteness": float(incompleteness),
        "variables": variables,
        "days": [
            {"days_before": spec.days - stop + last, "mean_absolute": float(days[k]), "share": float(shares[k])}
            for k, (_, stop) in enumerate(spec.windows)
        ],
        "by_day": {
            name: matrix[:, k].tolist() for k, name in enumerate(dict.fromkeys(feature.name for feature in spec.series))
        },
    }


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
    """Attributions of some rows: their integrated gradients from each of their baselines, and the mean of these.

    The integral along the straight line from a baseline to a row is taken by Gauss and Legendre's rule (captum), so
    that no random number but the choice of baselines is involved, and a linear network's attributions are exact.
    captum's own GradientShap is not used: it draws the baselines of two inputs apart from each other, and from numpy's
    global random numbers.

    Parameters
    ----------
    network
        Called as ``network(snapshot, series) -> (n,)``, in evaluation mode.
    snapshot, series
        Standardised inputs (n, columns) and (n, days, columns).
    chosen
        Rows to explain, (m,).
    against
        For each of them its baselines, (m, k).
    steps
        Of the integral.
    progress
        Whether to show a progress bar.

    Returns
    -------
    tuple of ndarray
        float64 (m, columns) and (m, days, columns) in the units of the output; with the sum over all columns and days
        the estimate of a row less the mean of its baselines'.
    """
    from captum.attr import IntegratedGradients

    width, (days, columns) = snapshot.shape[1], series.shape[1:]

    def joined(x: Tensor) -> Tensor:
        """The network of snapshot and series in one row; either may go unused, as a Transformer's snapshot does."""
        found: Tensor = network(x[:, :width], x[:, width:].reshape(-1, days, columns))
        return found

    x = torch.from_numpy(np.concatenate([snapshot, series.reshape(len(series), -1)], axis=1))
    method = IntegratedGradients(joined)
    found = []
    pairs = against.shape[1]
    size = max(1, _BATCH // (pairs * steps))
    with tqdm(total=chosen.size, desc="explaining", unit="row", disable=not progress) as bar:
        for start in range(0, chosen.size, size):
            part = slice(start, start + size)
            rows = x[torch.from_numpy(chosen[part])]
            each = method.attribute(
                rows.repeat_interleave(pairs, 0), baselines=x[torch.from_numpy(against[part].ravel())], n_steps=steps
            )
            found.append(each.detach().reshape(len(rows), pairs, -1).double().mean(1))  # (rows, all columns)
            bar.update(len(rows))
    whole = torch.cat(found).numpy()
    return whole[:, :width], whole[:, width:].reshape(-1, days, columns)


def format_importance(found: Importance) -> str:
    """Shares as a table for the terminal, the variable that counts most first."""
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
    """Standardised snapshot and series, and what is added to the network's output, (n,)."""
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
    """Rows with all inputs, by station and day."""
    whole = np.all([np.isfinite(part.reshape(len(samples), -1)).all(1) for part in parts], axis=0)
    if whole.sum() < 2:
        raise InputError(
            f"{samples.name}: {whole.sum()} of {len(samples)} rows have all inputs of the model, expected at least 2; "
            "check the inputs for NaN"
        )
    order: NDArray[np.intp] = np.lexsort((samples.date, samples.station))
    return np.asarray(order[whole[order]])


def _evenly(order: NDArray[np.intp], count: int, random: np.random.Generator) -> NDArray[np.intp]:
    """So many of the rows, one drawn from each of as many equal stretches."""
    places = (np.arange(count) + random.random(count)) * (order.size / count)
    return np.asarray(order[places.astype(np.intp)])


def _estimates(
    network: nn.Module, snapshot: NDArray[np.float32], series: NDArray[np.float32], rows: NDArray[np.integer]
) -> NDArray[np.float64]:
    """The network's output for some rows, each computed once."""
    used, place = np.unique(rows, return_inverse=True)
    parts = (torch.split(torch.from_numpy(values[used]), _BATCH) for values in (snapshot, series))
    with torch.inference_mode():
        once: NDArray[np.float64] = torch.cat([network(s, x) for s, x in zip(*parts, strict=True)]).double().numpy()
    return np.asarray(once[place])


def _by_variable(attributions: NDArray[np.float64], features: Sequence[Feature]) -> NDArray[np.float64]:
    """Attributions (..., columns) summed over the columns of a variable: (..., variables)."""
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
