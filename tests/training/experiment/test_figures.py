"""Which networks the figures of an experiment show."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mmnet_maps.training.experiment.figures import leading


def found(**ubrmse: float) -> list[Any]:
    return [{"network": name, "median": {"ubrmse": value}} for name, value in ubrmse.items()]


@pytest.mark.parametrize(
    ("most", "shown"),
    [
        (1, ["mmnet", "smap"]),
        (2, ["mmnet", "trees", "smap"]),
        (3, ["mmnet", "mlp_full", "trees", "smap"]),
        (4, ["mmnet", "mlp", "mlp_full", "trees", "smap"]),
        (9, ["mmnet", "mlp", "mlp_full", "trees", "lstm", "smap"]),
    ],
)
def test_the_first_and_the_best_are_shown_in_their_order(most: int, shown: list[str]) -> None:
    networks = found(mmnet=0.09, mlp=0.05, mlp_full=0.04, trees=0.03, lstm=math.nan, smap=0.02)
    assert [one["network"] for one in leading(networks, most)] == shown
