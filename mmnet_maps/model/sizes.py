"""Names and sizes of the networks, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Architecture = Literal["mmnet", "mlp", "transformer", "mlp_full", "transformer_full"]

Branch = Literal["transformer", "mlp"]
"""The network of a group of series: the paper's Transformer, or a small MLP over all steps."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a network.

    Attributes
    ----------
    snapshot, series, steps
        Encoded snapshot columns, encoded series columns, and steps of a series.
    groups
        Encoded columns and branch of each group of series, for MMNet; empty for the paper's one Transformer over all.
    d_model, heads, layers, feedforward, dropout, positional_base
        Width, attention heads, encoder layers, feedforward width, dropout rate, base of the positional table.
    """

    snapshot: int
    series: int
    steps: int
    groups: tuple[tuple[int, Branch], ...] = ()
    d_model: int = 128
    heads: int = 16
    layers: int = 1
    feedforward: int = 256
    dropout: float = 0.2
    positional_base: float = 1000
