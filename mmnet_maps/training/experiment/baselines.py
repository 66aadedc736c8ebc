"""Baselines that a network is compared with: boosted trees, an LSTM, and a regression on season and rain.

`fit` trains one on the rows and inputs of a network and returns a function that estimates the rows of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmnet_maps.errors import RequestError
from mmnet_maps.model.features import encoded_columns, fill_steps, standardise
from mmnet_maps.model.spec import ModelSpec
from mmnet_maps.training.config import TrainConfig
from mmnet_maps.training.experiment.config import Baseline, Lstm, Trees
from mmnet_maps.training.table import Samples, day_of_year, encode
from mmnet_maps.training.train import train

Estimator = Callable[[Samples], NDArray[np.float32]]
"""Estimate soil moisture, m³/m³, float32 (n,), for the rows of a table."""

MEMORIES = (0.8, 0.9, 0.95, 0.98)
"""Shares of the rain index that are left after a day; the regression uses all, and so has a memory of its own."""

RAIN_DAYS = 60
"""Days of rain in the index, where the table has as many."""

_BLOCK = 4096  # rows of an LSTM at once, to bound memory
_HARMONICS = (1, 2)  # of the year
_STATION_ROWS = 100  # that a regression for one station needs


def fit(baseline: Baseline, tables: Sequence[Samples], config: TrainConfig) -> Estimator:
    """Fit a baseline.

    Parameters
    ----------
    baseline
        Its kind and settings.
    tables
        Training rows, as `train.train` uses them.
    config
        Inputs, seed and, for the LSTM, training of the network beside it.
    """
    if isinstance(baseline, Trees):
        return _fit_trees(baseline, tables, config)
    if isinstance(baseline, Lstm):
        return _fit_lstm(baseline, tables, config)
    return _fit_climatology(tables)


def _fit_trees(baseline: Trees, tables: Sequence[Samples], config: TrainConfig) -> Estimator:
    """Fit gradient-boosted trees to the flattened inputs; missing values are left to the trees."""
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError:
        raise RequestError(
            "the baseline trees needs scikit-learn, which is not installed; run: pip install '.[train]'"
        ) from None
    inputs = np.concatenate([_flat(table, config) for table in tables])
    target = np.concatenate([table.target for table in tables])
    random = np.random.default_rng(config.seed)
    rows = np.isfinite(target) & (random.random(target.size) < baseline.rows)
    settings = baseline.model_dump(exclude={"kind", "rows"})
    trees = HistGradientBoostingRegressor(early_stopping=False, random_state=config.seed, **settings)
    trees.fit(inputs[rows], target[rows])
    return lambda samples: np.asarray(trees.predict(_flat(samples, config)), np.float32)


def _flat(samples: Samples, config: TrainConfig) -> NDArray[np.float32]:
    """Return the encoded snapshot and all steps of the series side by side, (n, columns)."""
    snapshot, series = encode(samples, config)
    return np.concatenate([snapshot, series.reshape(len(samples), -1)], axis=1)


class _Lstm(nn.Module):
    """An LSTM over the steps of the series, with the snapshot beside the series in every step."""

    def __init__(self, spec: ModelSpec, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(len(spec.snapshot_mean) + len(spec.series_mean), hidden, batch_first=True)
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(hidden, 1)

    def forward(self, snapshot: Tensor, series: Tensor) -> Tensor:
        """Return the estimates (n,) of standardised snapshot (n, columns) and series (n, steps, columns)."""
        beside = snapshot[:, None].expand(-1, series.shape[1], -1)  # (n, steps, columns)
        outputs, _ = self.lstm(torch.cat([series, beside], dim=2))
        found: Tensor = self.head(self.dropout(outputs[:, -1])).squeeze(1)
        return found


def _fit_lstm(baseline: Lstm, tables: Sequence[Samples], config: TrainConfig) -> Estimator:
    """Train an LSTM as a network is trained."""
    trained = train(tables, config, build=partial(_Lstm, hidden=baseline.hidden), progress=False)
    spec, network = trained.spec, trained.network.eval()
    optional = np.isin(encoded_columns(spec.snapshot), spec.may_lack)

    @torch.inference_mode()
    def estimate(samples: Samples) -> NDArray[np.float32]:
        """Return the estimates of the rows, m³/m³."""
        snapshot, series = encode(samples, config)
        snapshot = standardise(snapshot, spec.snapshot_mean, spec.snapshot_std)
        snapshot[:, optional] = np.nan_to_num(snapshot[:, optional])
        series = standardise(series, spec.series_mean, spec.series_std)
        fill_steps(series, spec.windows)
        blocks = zip(*(torch.split(torch.from_numpy(part), _BLOCK) for part in (snapshot, series)), strict=True)
        return np.asarray(torch.cat([network(*block) for block in blocks]))

    return estimate


def _fit_climatology(tables: Sequence[Samples]) -> Estimator:
    """Fit a regression on season and rain to all rows, and one of its own to each station of the training rows."""
    inputs = np.concatenate([_season_and_rain(table) for table in tables])
    target = np.concatenate([table.target for table in tables])
    station = np.concatenate([table.station for table in tables])
    whole = np.isfinite(inputs).all(axis=1) & np.isfinite(target)
    inputs, target, station = inputs[whole], target[whole], station[whole]
    everywhere = _regress(inputs, target)
    here = {
        str(name): _regress(inputs[rows], target[rows])
        for name in np.unique(station)
        if (rows := station == name).sum() >= _STATION_ROWS
    }

    def estimate(samples: Samples) -> NDArray[np.float32]:
        weights = np.array([here.get(str(name), everywhere) for name in samples.station]).reshape(len(samples), -1)
        return np.asarray((_season_and_rain(samples) * weights).sum(axis=1), np.float32)

    return estimate


def _regress(inputs: NDArray[np.float64], target: NDArray[np.floating]) -> NDArray[np.float64]:
    weights, *_ = np.linalg.lstsq(inputs, target.astype(np.float64), rcond=None)
    return np.asarray(weights)


def _season_and_rain(samples: Samples) -> NDArray[np.float64]:
    """Return 1, the harmonics of the year, and rain indices of several memories, (n, columns)."""
    angle = 2 * np.pi * day_of_year(samples.date).astype(np.float64) / 365.25
    season = [part(k * angle) for k in _HARMONICS for part in (np.sin, np.cos)]
    rain = samples.series(["pr"], RAIN_DAYS, needed=1)["pr"]
    indices = [np.log1p(rain_index(rain, memory)) for memory in MEMORIES]
    return np.stack([np.ones(len(samples)), *season, *indices], axis=1)


def rain_index(rain: NDArray[np.floating], memory: float) -> NDArray[np.float64]:
    """Compute the antecedent precipitation index (Kohler and Linsley, 1951) from days of rain (n, days), oldest first.

    The index of a day is the day's rain plus a share, `memory`, of the index of the day before; missing days count as
    dry.

    Examples
    --------
    >>> rain_index(np.array([[8.0, 0.0, 1.0]]), memory=0.5)
    array([3.])
    """
    left = memory ** np.arange(rain.shape[1])[::-1]
    return np.asarray(np.nan_to_num(rain.astype(np.float64)) @ left)
