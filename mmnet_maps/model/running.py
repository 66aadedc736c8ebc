"""The estimate and its spread over networks, which are added one after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmnet_maps.model.fused import scratch
from mmnet_maps.model.prediction import Prediction


class RunningPrediction:
    """Running mean and variance over networks.

    The spread is the sum of squared deviations from the running mean (Welford, 1962, Technometrics 4).
    """

    def __init__(self, rows: int, device: torch.device, *, models: int, members: int, keep_members: bool) -> None:
        self._models, self._members, self._keep = models, members, keep_members and members > 0
        self._estimate = torch.zeros(rows, device=device)
        self._mean, self._spread = torch.zeros((2, rows if members else 0), device=device)
        self._kept = torch.empty((members if self._keep else 0, rows), device=device)
        self.outside = torch.zeros(rows, dtype=torch.bool, device=device)

    def add(self, part: slice, values: Tensor, *, in_estimate: bool, member: int | None) -> None:
        """Add a network's output for some of the rows; members must come in order."""
        if in_estimate:
            self._estimate[part].add_(values, alpha=1 / self._models)
        if member is not None:
            deviation = torch.sub(values, self._mean[part], out=scratch("deviation", values.shape, values))
            self._mean[part].add_(deviation, alpha=1 / (member + 1))
            self._spread[part].addcmul_(deviation, deviation, value=member / (member + 1))
            if self._keep:
                self._kept[member, part] = values

    def prediction(self, rows: NDArray[np.intp], n: int, std_factor: float) -> Prediction:
        """Return the prediction for n pixels, of which `rows` were computed."""
        std = self._spread.div_(max(1, self._members - 1)).sqrt_().mul_(std_factor)
        return Prediction(
            estimate=_placed(self._estimate, rows, n, np.nan),
            std=_placed(std, rows, n, np.nan) if self._members else None,
            members=_placed(self._kept, rows, n, np.nan) if self._keep else None,
            outside=_placed(self.outside, rows, n, False),
        )


def _placed(values: Tensor, rows: NDArray[np.intp], n: int, fill: Any) -> NDArray[Any]:
    """Put values (…, rows) in their places among n, and `fill` elsewhere."""
    found = values.cpu().numpy()
    if len(rows) == n:
        return found
    full = np.full((*found.shape[:-1], n), fill, found.dtype)
    full[..., rows] = found
    return full
