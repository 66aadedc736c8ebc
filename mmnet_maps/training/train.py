"""Training: from a table of station samples to a checkpoint."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from mmnet_maps.errors import InputError, RequestError, counted
from mmnet_maps.metrics import Report, report
from mmnet_maps.model.checkpoint import Checkpoint, save_checkpoint
from mmnet_maps.model.features import encoded_columns, fill_steps, standardise
from mmnet_maps.model.network import networks_of
from mmnet_maps.model.spec import ModelSpec, Profile
from mmnet_maps.training.config import TrainConfig, read_config
from mmnet_maps.training.splits import later_block, validation_stations
from mmnet_maps.training.table import Samples, encode, read_samples

GOLDEN_ROWS = 64
_WARM_UP = 50  # steps
_WEAK_R = 0.3
_VALIDATION_ROWS = 4096  # per block, to bound memory

log = logging.getLogger("mmnet_maps")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network, its specification, and the course of the training.

    Attributes
    ----------
    spec
        The specification, with scalers and ranges from the training rows alone.
    network
        In evaluation mode, with the weights of the best epoch (the last one, if no row was held out).
    history
        One entry per epoch: ``epoch`` (from 1), ``loss`` (training MSE, with dropout) and, where rows are held out,
        ``validation`` (their MSE).
    golden
        Standardised snapshot and series of some training rows, for `save_checkpoint`.
    """

    spec: ModelSpec
    network: nn.Module
    history: list[dict[str, float]]
    golden: tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Encoded complete rows, before standardisation."""

    snapshot: NDArray[np.float32]
    series: NDArray[np.float32]
    target: NDArray[np.float32]
    station: NDArray[np.str_]
    held_out: NDArray[np.bool_]


def train_checkpoint(
    samples: Sequence[str | Path],
    config: str | Path,
    out: str | Path,
    *,
    seed: int | None = None,
    progress: bool = True,
) -> Checkpoint:
    """Read samples, train a network and write its checkpoint: ``mmnet train``.

    `samples` are files of one or several tables; `seed` replaces the configuration's.

    Raises
    ------
    RequestError, InputError, OutputError
        The configuration, the samples, or the folder to write is at fault.
    """
    settings = read_config(config)
    if seed is not None:
        settings = settings.model_copy(update={"seed": seed})
    trained = train([read_samples(path) for path in samples], settings, progress=progress)
    if weak := weakness(trained, settings):
        log.warning("%s", weak)
    return save_checkpoint(out, trained.spec, trained.network, trained.golden)


def weakness(trained: Trained, config: TrainConfig) -> str | None:
    """Return a warning about a model that can hardly be of use: trained for few steps, or of low R; None otherwise."""
    steps = len(trained.history) * _steps(int(str(trained.spec.training["samples"])), config)
    found = trained.spec.training.get("metrics")
    r = found["r"] if isinstance(found, dict) else math.inf
    signs = (
        [f"it was trained for {counted(steps, 'step')}, fewer than its warm-up of {_WARM_UP}"]
        if steps < _WARM_UP
        else []
    )
    if not isinstance(r, float | int) or r < _WEAK_R:
        signs.append(f"its median R at held-out stations is {'undefined' if r is None else f'{r:.2f}'}")
    if not signs:
        return None
    return f"{config.name} is a weak model: {' and '.join(signs)}; give more samples or epochs, or a smaller batch"


def train(
    samples: Samples | Sequence[Samples],
    config: TrainConfig,
    *,
    build: Callable[[ModelSpec], nn.Module] = ModelSpec.network,
    progress: bool = True,
) -> Trained:
    """Train a network on station samples.

    Rows with a missing target or a missing required input are left out, and their number is kept in the
    specification. Means, standard deviations and ranges come from the training rows alone. Each epoch draws a share
    of them; the loss is the mean squared error, the optimiser Adam with a cosine from ``learning_rate`` to 0; a running
    average of the weights is evaluated on the held-out rows after each epoch, and its best state is kept. Several
    ``networks`` are trained each for itself, with batches of its own. The same samples, configuration and number of
    threads give the same weights on the same processor.

    Parameters
    ----------
    samples
        With ``soil_moisture``, m³/m³; rows of several tables have the same weight, and stations of one name are one.
    config
        Inputs, network and training.
    build
        Build the network; by default, that of the configuration's architecture.
    progress
        Show a progress bar.

    Raises
    ------
    InputError
        The table has no column for an input, or too few complete rows are left.
    RequestError
        There are too few stations to hold some out.
    """
    tables = [samples] if isinstance(samples, Samples) else [*samples]
    rows = _complete_rows(tables, config)
    spec = _specify(rows, sum(len(table) for table in tables), config)
    training, validation = (_tensors(rows, spec, ~rows.held_out), _tensors(rows, spec, rows.held_out))
    station = torch.from_numpy(np.unique(rows.station[~rows.held_out], return_inverse=True)[1])

    torch.manual_seed(config.seed)
    network = build(spec)
    for one in networks_of(network):
        _start(one, spec, float(training[2].mean()))
    best, history = _fit(network, (*training, station), validation, config, progress)
    found = _held_out_metrics(best, validation, rows.station[rows.held_out])
    spec = spec.model_copy(update={"training": spec.training | {"epochs": _best_epoch(history)} | found})
    every = max(1, len(training[2]) // GOLDEN_ROWS)
    golden = tuple(part[::every][:GOLDEN_ROWS].numpy() for part in training[:2])
    return Trained(spec=spec, network=best, history=history, golden=(golden[0], golden[1]))


def _complete_rows(tables: Sequence[Samples], config: TrainConfig) -> _Rows:
    parts = [_complete(table, config) for table in tables]
    snapshot, series = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    kept = [part[2] for part in parts]
    held_out = _held_out(kept, config) if len(snapshot) else np.zeros(0, np.bool_)
    if (~held_out).sum() < config.batch:
        raise InputError(
            f"{', '.join(table.name for table in tables)}: {(~held_out).sum()} of {sum(map(len, tables))} rows are "
            f"complete and not held out, expected at least one batch of {config.batch}; give more samples or a smaller "
            "batch"
        )
    return _Rows(
        snapshot=snapshot,
        series=series,
        target=np.concatenate([table.target for table in kept]),
        station=np.concatenate([table.station for table in kept]),
        held_out=held_out,
    )


def _complete(samples: Samples, config: TrainConfig) -> tuple[NDArray[np.float32], NDArray[np.float32], Samples]:
    """Return the complete rows of a table: encoded, and as they are."""
    snapshot, series = encode(samples, config)
    step = [stop - start == 1 for start, stop in config.windows]
    column = [name not in config.may_lack for name in encoded_columns(config.snapshot)]
    complete = (
        np.isfinite(snapshot[:, column]).all(axis=1)
        & np.isfinite(series[:, step]).all(axis=(1, 2))
        & np.isfinite(samples.target)
    )
    return snapshot[complete], series[complete], samples.take(complete)


def _held_out(tables: Sequence[Samples], config: TrainConfig) -> NDArray[np.bool_]:
    """Select rows for early stopping that match the use of the model: other stations, or later days."""
    station = np.concatenate([table.station for table in tables])
    if config.validation == "stations":
        places = {name: place for table in reversed(tables) for name, place in table.stations.items()}
        try:
            held = validation_stations(places, config.validation_fraction, config.seed)
        except RequestError:
            raise RequestError(
                f"{len(places)} stations are too few to hold {config.validation_fraction:g} of them out; give a larger "
                "validation_fraction, up to 0.5, or validation: time or none"
            ) from None
        return np.isin(station, sorted(held))
    if config.validation == "time":
        return later_block(np.concatenate([table.date for table in tables]), config.validation_fraction)
    return np.zeros(len(station), np.bool_)


def _specify(rows: _Rows, count: int, config: TrainConfig) -> ModelSpec:
    """Make the specification, with statistics per encoded column over the training rows."""
    kept = ~rows.held_out
    statistics: dict[str, Any] = {}
    for kind, values in (("snapshot", rows.snapshot[kept]), ("series", rows.series[kept])):
        column = values.reshape(-1, values.shape[-1]).astype(np.float64)  # (rows [* steps], columns)
        column[:, ~np.isfinite(column).any(axis=0)] = 0  # optional, and missing from all rows
        low, high = np.nanmin(column, axis=0), np.nanmax(column, axis=0)
        statistics[f"{kind}_mean"] = np.nanmean(column, axis=0).tolist()
        statistics[f"{kind}_std"] = np.where(low == high, 0.0, np.nanstd(column, axis=0)).tolist()
        statistics[f"{kind}_range"] = list(zip(low.tolist(), high.tolist(), strict=True))
    settings = config.model_dump(mode="json")
    own = {key: settings[key] for key in TrainConfig.model_fields if key not in ModelSpec.model_fields}
    return ModelSpec(
        name=config.name,
        **{key: getattr(config, key) for key in Profile.model_fields},
        networks=config.networks,
        d_model=config.d_model,
        heads=config.heads,
        feedforward=config.feedforward,
        dropout=config.dropout,
        inputs=config.inputs,
        training={
            "samples": int(kept.sum()),
            "stations": len(np.unique(rows.station[kept])),
            "held_out_samples": int(rows.held_out.sum()),
            "incomplete_samples": count - len(kept),
            "config": own,
        },
        **statistics,
    )


def _tensors(rows: _Rows, spec: ModelSpec, chosen: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor]:
    """Return standardised snapshot (n, columns), standardised series (n, steps, columns), and target (n,)."""
    series = standardise(rows.series[chosen], spec.series_mean, spec.series_std)
    fill_steps(series, spec.windows)
    snapshot = standardise(rows.snapshot[chosen], spec.snapshot_mean, spec.snapshot_std)
    return (
        torch.from_numpy(np.nan_to_num(snapshot, copy=False)),  # NaN only in optional variables
        torch.from_numpy(series),
        torch.from_numpy(rows.target[chosen]),
    )


@torch.no_grad()
def _start(network: nn.Module, spec: ModelSpec, mean: float) -> None:
    """Set the initial output to the mean of the target, and zero the weights of columns that are constant in training.

    A land cover class that no station has is 0 in every row, so its random initial weights would never change and
    would shift every pixel of that class.
    """
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    linears[-1].bias.fill_(mean)
    constant = torch.tensor(spec.snapshot_std) == 0  # (columns,)
    first = getattr(network, "encoder_s", None) or getattr(network, "encoder", None)
    if first is not None:
        first[0].weight[:, : len(constant)][:, constant] = 0


def _fit(
    network: nn.Module,
    training: tuple[Tensor, Tensor, Tensor, Tensor],
    validation: tuple[Tensor, Tensor, Tensor],
    config: TrainConfig,
    progress: bool,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train, and return the best averaged network, in evaluation mode, and the history.

    `training` holds snapshot, series, target and station.
    """
    count = len(training[2])
    steps = _steps(count, config)
    optimiser = torch.optim.Adam(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _rate(steps * config.max_epochs))
    average = copy.deepcopy(network).eval()
    best, lowest, waited = copy.deepcopy(average), math.inf, 0
    history: list[dict[str, float]] = []
    done = 0
    networks = networks_of(network)
    bar = tqdm(total=steps * config.max_epochs, desc="training", unit="step", disable=not progress)
    with bar:
        for epoch in range(1, config.max_epochs + 1):
            losses = []
            for batches in zip(*(_batches(count, config.batch, steps) for _ in networks), strict=True):
                optimiser.zero_grad()
                loss = 0.0
                for one, batch in zip(networks, batches, strict=True):
                    own = _loss(one, tuple(part[batch] for part in training), config)
                    own.backward()  # type: ignore[no-untyped-call]
                    loss += float(own.detach()) / len(networks)
                optimiser.step()
                schedule.step()
                _average(average, network, min(config.averaging, done / (10 + done)))
                done += 1
                losses.append(loss)
                bar.update()
            history.append({"epoch": epoch, "loss": float(np.mean(losses))})
            if not len(validation[2]):
                best = average
                continue
            score = float(nn.functional.mse_loss(_apply(average, validation), validation[2]))
            history[-1]["validation"] = score
            bar.set_postfix(validation_rmse=f"{math.sqrt(score):.4f}")
            if score < lowest:
                best, lowest, waited = copy.deepcopy(average), score, 0
            else:
                waited += 1
            if waited >= config.patience:
                break
    return best, history


def _loss(network: nn.Module, rows: tuple[Tensor, ...], config: TrainConfig) -> Tensor:
    """Return the loss for rows of snapshot, series, target and station; the history of some of them is hidden."""
    snapshot, series, target, station = rows
    if config.hide_history:
        hidden = torch.rand(len(series), 1, 1) < config.hide_history
        several = torch.tensor([stop - start > 1 for start, stop in config.windows]).unsqueeze(1)  # (steps, 1)
        series = series.masked_fill(hidden & several, 0.0)
    return station_loss(network(snapshot, series) - target, station, config.station_mean_weight)


def _steps(count: int, config: TrainConfig) -> int:
    """Return the number of steps of an epoch over a number of training rows."""
    return max(1, int(count * config.epoch_fraction) // config.batch)


def station_loss(error: Tensor, station: Tensor, mean_weight: float) -> Tensor:
    """Compute the mean squared error, with weight `mean_weight` for each station's mean error in the batch.

    Parameters
    ----------
    error
        Estimate minus observation, (n,).
    station
        Station numbers from 0, (n,).
    mean_weight
        1 gives the plain mean squared error.

    Examples
    --------
    >>> error, station = torch.tensor([1.0, 3.0, -1.0, -1.0]), torch.tensor([0, 0, 1, 1])
    >>> [station_loss(error, station, weight).item() for weight in (1.0, 0.0)]
    [3.0, 0.5]
    """
    count = torch.bincount(station).clamp(min=1)
    mean = (error.new_zeros(len(count)).index_add(0, station, error) / count)[station]
    return torch.mean((error - mean) ** 2 + mean_weight * mean**2)


def _rate(total: int) -> Callable[[int], float]:
    """Return the factor on the learning rate by step: a linear warm-up, then a cosine to 0 at ``total``."""

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))

    return factor


def _batches(count: int, batch: int, steps: int) -> Iterator[Tensor]:
    """Yield the indices of ``steps`` batches of different rows, in random order."""
    order = torch.randperm(count)
    for step in range(steps):
        yield order[step * batch : (step + 1) * batch]


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the running average, of weights and of batch statistics, towards the network."""
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


@torch.inference_mode()
def _apply(network: nn.Module, rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the estimates, shape (n,), of a network in evaluation mode."""
    blocks = zip(*(torch.split(part, _VALIDATION_ROWS) for part in rows[:2]), strict=True)
    return torch.cat([network(snapshot, series) for snapshot, series in blocks])


def _best_epoch(history: list[dict[str, float]]) -> int:
    """Return the epoch whose weights were kept: the best on held-out rows, else the last."""
    return int(min(history, key=lambda entry: entry.get("validation", -entry["epoch"]))["epoch"])


def _held_out_metrics(
    network: nn.Module, validation: tuple[Tensor, Tensor, Tensor], station: NDArray[np.str_]
) -> dict[str, Any]:
    """Compute median metrics over the held-out rows' stations, as ``metrics``; empty where no row is held out."""
    if not station.size:
        return {}
    found: Report = report(station, _apply(network, validation).numpy(), validation[2].numpy())
    return {"metrics": {"held_out_stations": found["stations"], **found["median"]}}
