"""The range of inputs seen in training, and which pixels and series lie outside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mmnet_maps.model.features import Feature, by_column, onehot_table
from mmnet_maps.model.fused import scratch
from mmnet_maps.model.spec import ModelSpec


class TrainingRange:
    """The lowest and highest encoded inputs of a model's training, on a device.

    Nothing lies outside where ``model.json`` states no range.
    """

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        self._series: list[Tensor] | None = None
        self._numeric: list[Tensor] | None = None  # the middle of each column's range, and 1 / half its width
        self._strange_codes = torch.zeros(256, dtype=torch.bool, device=device)
        if spec.series_range is not None:
            self._series = [end.to(device) for end in limits(spec.series_range)]
        if spec.snapshot_range is not None:
            low, high = limits(spec.snapshot_range)
            numeric = [k for k, feature in enumerate(by_column(spec.snapshot)) if feature.encoding != "onehot"]
            ends = [end[numeric, None].double() for end in (low, high)]
            self._numeric = [part.float().to(device) for part in ((ends[0] + ends[1]) / 2, 2 / (ends[1] - ends[0]))]
            self._strange_codes = _strange_codes(spec.snapshot, low, high).to(device)

    def outside_series(self, x: Tensor, columns: Sequence[int]) -> Tensor:
        """Mark encoded series (steps, n, columns), of some columns, with a value outside the range: bool (steps, n)."""
        if self._series is None:
            return torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        low, high = self._series
        return ((x < low[columns]) | (x > high[columns])).any(2)

    def outside_snapshot(self, x: Tensor, codes: Tensor | None) -> Tensor:
        """Mark pixels with an encoded numeric input (columns, n) or a land cover code outside the range: bool (n,)."""
        if self._numeric is None:
            return torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
        middle, scale = self._numeric  # arithmetic, NaN counting as the middle: comparisons take four times as long
        from_middle = torch.sub(x, middle, out=scratch("range", x.shape, x)).mul_(scale).abs_()
        found = from_middle.nan_to_num_(nan=0.0).amax(0) > 1
        return found if codes is None else found.logical_or_(torch.index_select(self._strange_codes, 0, codes))


def _strange_codes(features: Sequence[Feature], low: Tensor, high: Tensor) -> Tensor:
    """Mark land cover codes whose one-hot columns lie outside the range, bool (256,)."""
    found = torch.zeros(256, dtype=torch.bool)
    columns = by_column(features)
    for feature in (feature for feature in features if feature.encoding == "onehot"):
        place = [k for k, owner in enumerate(columns) if owner is feature]
        table = onehot_table(feature)
        found |= ((table < low[place]) | (table > high[place])).any(1)
    return found


def limits(ranges: ArrayLike) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest value, float32 (columns,) each, of ranges (columns, 2) seen in training.

    Both are widened by 1e-6 of the larger magnitude, for rounding.
    """
    ends = np.asarray(ranges, np.float64)
    slack = 1e-6 * np.abs(ends).max(axis=1)
    low, high = (ends[:, 0] - slack).astype(np.float32), (ends[:, 1] + slack).astype(np.float32)
    return torch.from_numpy(low), torch.from_numpy(high)
