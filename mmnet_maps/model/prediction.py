"""What an engine returns, without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class StoppedError(Exception):
    """The computation was cancelled."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Estimates of a model for some pixels.

    Attributes
    ----------
    estimate
        float32 (n,) in the units of the target, not clipped; NaN where an input is missing or there is no series cell.
    std
        Standard deviation over the members, likewise; None without members.
    members
        float32 (members, n), if requested.
    outside
        Pixels with an input outside the range seen in training, bool (n,).
    """

    estimate: NDArray[np.float32]
    std: NDArray[np.float32] | None
    members: NDArray[np.float32] | None
    outside: NDArray[np.bool_]
