"""Estimate how long the runs of an experiment take, before they start."""

from __future__ import annotations

from collections.abc import Sequence

from mmnet_maps.training.config import TrainConfig
from mmnet_maps.training.experiment.config import Baseline, Lstm, Trees

_MICROSECONDS = {"mmnet": 300, "mlp": 24, "transformer": 450, "mlp_full": 16, "transformer_full": 480}
"""For a row of a step of training, 11 steps, width 128 and one core of the machine of ``docs/log.md``."""

_LSTM = 0.056  # µs for a row, a step and a unit
_TREES = 0.88  # µs for a row and a tree
_FIXED = 6.0  # s to read and encode tables, to test and to write


def core_seconds(config: TrainConfig, baseline: Baseline | None, rows: int) -> float:
    """Return roughly the seconds of one core that a run takes; a training that stops early takes less.

    Parameters
    ----------
    config, baseline
        The training, and what is fitted in place of the network.
    rows
        Number of rows to train on.

    Examples
    --------
    >>> from mmnet_maps.training.experiment.config import Trees
    >>> round(core_seconds(TrainConfig.model_construct(), Trees(kind="trees", max_iter=100), rows=100_000), 1)
    14.8
    """
    if isinstance(baseline, Trees):
        return _FIXED + 1e-6 * _TREES * rows * baseline.rows * baseline.max_iter
    epochs = config.max_epochs if baseline is None or isinstance(baseline, Lstm) else 0
    passes = rows * config.epoch_fraction * epochs * config.networks
    if isinstance(baseline, Lstm):
        return _FIXED + 1e-6 * _LSTM * passes * config.steps * baseline.hidden
    size = config.steps / 11 * config.d_model / 128
    branches = {group.branch for group in config.series_groups or ()}
    kind = "mlp" if branches and "transformer" not in branches else config.architecture
    return _FIXED + 1e-6 * _MICROSECONDS[kind] * passes * size


def describe(runs: Sequence[tuple[float, float | None]], workers: int) -> str:
    """Describe how long the unfinished runs will take; finished ones correct the estimate for this machine.

    Parameters
    ----------
    runs
        Estimated and, where finished, measured seconds of each run.
    workers
        Number of processes.

    Examples
    --------
    >>> describe([(60, None), (60, None)], workers=2)
    '2 runs, about 1 minute with 2 processes'
    >>> describe([(60, 120), (600, None)], workers=1)
    '2 runs, 1 of them finished already, about 20 minutes for the others with 1 process'
    """
    measured = [(wanted, took) for wanted, took in runs if took is not None]
    slower = sum(took for _, took in measured) / sum(wanted for wanted, _ in measured) if measured else 1.0
    left = slower * sum(wanted for wanted, took in runs if took is None) / workers
    minutes = max(1, round(left / 60))
    done = f", {len(measured)} of them finished already" if measured else ""
    if len(measured) == len(runs):
        return f"{len(runs)} runs{done}"
    others = " for the others" if measured else ""
    return (
        f"{len(runs)} runs{done}, about {minutes} minute{'s' * (minutes > 1)}{others} with {workers} "
        f"process{'es' * (workers > 1)}"
    )
