"""Tensors in, predictions out: a checkpoint's network over many pixels that share few series."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmnet_maps.checkpoint import Checkpoint
from mmnet_maps.errors import RequestError
from mmnet_maps.network import MMNet

DEVICES = ("auto", "cpu", "cuda")


class Engine:
    """Runs a checkpoint's network.

    MMNet fuses late, so its temporal branch depends on the series cell alone and runs once a cell, not once a pixel;
    the other architectures read their cell's series pixel by pixel.

    Parameters
    ----------
    checkpoint
        The model.
    device
        ``auto``, ``cpu`` or ``cuda``; ``auto`` takes CUDA where there is one.
    batch
        Rows at a time; a matter of memory, not of the result.

    Raises
    ------
    RequestError
        When the device is unknown, or CUDA is asked for and absent.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "auto", batch: int = 8_192) -> None:
        if device not in DEVICES:
            raise RequestError(f"There is no device {device!r}; use one of {', '.join(DEVICES)}.")
        if device == "cuda" and not torch.cuda.is_available():
            raise RequestError("Device 'cuda' is asked for, but torch finds no GPU; use --device cpu.")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.checkpoint = checkpoint
        self.device = torch.device(device)
        self.batch = batch
        self._network = copy.deepcopy(checkpoint.network).to(self.device).eval()

    def predict(
        self, snapshot: NDArray[np.float32], series: NDArray[np.float32], cell: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Output of the network for each pixel.

        Parameters
        ----------
        snapshot
            Standardised features, float32 (n, columns).
        series
            Standardised series, float32 (cells, steps, columns), oldest step first.
        cell
            For each pixel its row of `series`, (n,); negative where it has none.

        Returns
        -------
        ndarray, float32 (n,)
            In the units of the target, not clipped, without what the target may be a residual of; NaN where any
            feature of the pixel or any value of its series is not finite, or it has no cell.
        """
        complete = np.asarray(np.isfinite(series).all(axis=(1, 2)))  # (cells,)
        rows = np.flatnonzero(np.isfinite(snapshot).all(axis=1) & (cell >= 0))
        rows = rows[complete[cell[rows]]]
        estimate = np.full(len(snapshot), np.nan, np.float32)
        if rows.size == 0:
            return estimate
        used, index = np.unique(cell[rows], return_inverse=True)
        with torch.inference_mode():
            temporal = self._temporal(series[used])
            for start in range(0, rows.size, self.batch):
                part = slice(start, start + self.batch)
                s = torch.from_numpy(snapshot[rows[part]]).to(self.device)
                t = temporal[torch.from_numpy(index[part]).to(self.device)]
                estimate[rows[part]] = self._head(s, t).cpu().numpy()
        return estimate

    def _temporal(self, series: NDArray[np.float32]) -> Tensor:
        """Per cell what the head needs: MMNet's temporal embedding (cells, d_model), else the series themselves."""
        if not isinstance(self._network, MMNet):
            return torch.from_numpy(series).to(self.device)
        batch = max(1, self.batch // series.shape[1])
        parts = [
            self._network.encode_series(torch.from_numpy(series[start : start + batch]).to(self.device))
            for start in range(0, len(series), batch)
        ]
        return torch.cat(parts)

    def _head(self, s: Tensor, t: Tensor) -> Tensor:
        if isinstance(self._network, MMNet):
            return self._network.fuse(self._network.encode_snapshot(s), t)
        estimate: Tensor = self._network(s, t)
        return estimate
