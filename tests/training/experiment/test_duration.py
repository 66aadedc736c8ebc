from __future__ import annotations

import pytest

from mmnet_maps.resources import packaged
from mmnet_maps.training.experiment.config import Trees, read_experiment
from mmnet_maps.training.experiment.duration import core_seconds, describe

CONFIGS = packaged("configs")
ROWS = {"multimodal": 46_824, "weather": 200_068}


def test_estimates_follow_rows_and_epochs() -> None:
    config = read_experiment(CONFIGS / "experiment.yaml").training_of("multimodal", "mmnet")
    none, once, twice = (core_seconds(config, None, rows) for rows in (0, 100_000, 200_000))
    assert twice - none == pytest.approx(2 * (once - none))
    longer = config.model_copy(update={"max_epochs": 2 * config.max_epochs})
    assert core_seconds(longer, None, 100_000) - none == pytest.approx(2 * (once - none))
    committee = config.model_copy(update={"networks": 3})
    assert core_seconds(committee, None, 100_000) - none == pytest.approx(3 * (once - none))
    few = Trees(kind="trees", rows=0.5)
    assert core_seconds(config, few, 200_000) == core_seconds(config, Trees(kind="trees"), 100_000)


def test_a_slower_machine_corrects_the_estimate() -> None:
    assert describe([(60.0, 180.0), (600.0, None)], workers=3).startswith(
        "2 runs, 1 of them finished already, about 10 "
    )
    assert describe([(60.0, 90.0)], workers=1) == "1 runs, 1 of them finished already"


def test_the_stated_experiment_fits_in_90_minutes_of_two_cores() -> None:
    config = read_experiment(CONFIGS / "experiment.yaml")
    splits = {"multimodal": {"on-site": 1, "off-site": 5, "cross-region": 3}}
    splits["weather"] = {**splits["multimodal"], "on-site": 2}
    total = 0.0
    for table, scenarios in splits.items():
        for network, entry in config.networks.items():
            rows = int(0.8 * ROWS[table]) + sum(ROWS[other] for other in config.also(table, network))
            one = core_seconds(config.training_of(table, network), entry.baseline, rows)
            for scenario, count in scenarios.items():
                if config.wanted(table, scenario, network):  # type: ignore[arg-type]
                    ablations = len(config.ablated(table, scenario, network))  # type: ignore[arg-type]
                    total += one * count * config.seeds_of(network) * (1 + ablations)
    assert 30 < total / 2 / 60 < 90
