"""Names and sizes of the networks, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Architecture = Literal["mmnet", "mlp", "transformer", "mlp_full", "transformer_full"]

Branch = Literal["transformer", "mlp", "water"]
"""The network of a group of series: the paper's Transformer, an MLP over all steps, or one with stores of water too."""

WATER_SERIES = (("eto", "identity"), ("pr", "log1p"))
"""Names and encodings of the first series of a group whose branch is ``water``."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a network.

    Attributes
    ----------
    snapshot, series, steps
        Encoded snapshot columns, encoded series columns, and steps of a series.
    groups
        Encoded columns and branch of each group of series, for MMNet; empty for the paper's one Transformer over all.
    step_days, series_scales
        Days of each step, and mean and standard deviation of each encoded series, for a branch that computes in
        physical units.
    d_model, heads, layers, feedforward, dropout, positional_base
        Width, attention heads, encoder layers, feedforward width, dropout rate, base of the positional table.
    networks
        Number of networks side by side, whose estimates are averaged.
    """

    snapshot: int
    series: int
    steps: int
    groups: tuple[tuple[int, Branch], ...] = ()
    step_days: tuple[int, ...] = ()
    series_scales: tuple[tuple[float, float], ...] = ()
    d_model: int = 128
    heads: int = 16
    layers: int = 1
    feedforward: int = 256
    dropout: float = 0.2
    positional_base: float = 1000
    networks: int = 1
