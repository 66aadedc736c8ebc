"""Measure the coverage of stated intervals at held-out stations, and the factor that calibrates them.

Reads the off-site networks of `mmnet experiment`, one per fold, and draws members of each for the rows of its own fold.
The factor on the standard deviations (`calibration.conformal_factor`) is fitted to all folds but one and judged on that
one, so that no station judges a factor that it helped to fit; the factor fitted to all folds is that of a model trained
on all stations.

    python benchmarks/offsite_coverage.py configs/experiment.yaml --data TABLES --out build/experiment \
        --table multimodal --network mmnet_uscrn --seed 1 --members 20 --json build/coverage.json \
        --into models/mmnet-uscrn
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from mmnet_maps.files import write_whole
from mmnet_maps.model.checkpoint import load_checkpoint
from mmnet_maps.model.engine import Engine
from mmnet_maps.training.calibration import conformal_factor, judge
from mmnet_maps.training.evaluate import prediction, save_factor
from mmnet_maps.training.experiment.run import plan_runs, read_experiment, splits_of
from mmnet_maps.training.table import read_samples


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    for name in ("--data", "--out", "--table", "--network"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seed", type=int, default=0, help="seed of the networks")
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("--into", type=Path, help="checkpoint that receives the std_factor")
    chosen = parser.parse_args()
    config = read_experiment(chosen.config)
    wanted = (chosen.table, chosen.network, "off-site", chosen.seed)
    runs = [
        run
        for run in plan_runs(config, chosen.data, chosen.out)
        if (run.table, run.network, run.scenario, run.seed) == wanted
    ]
    if not runs or any(run.facts is None for run in runs):
        parser.error("not all folds of that network are finished as the configuration says; run the experiment first")
    folder = {run.split: run.folder / "model" for run in runs}
    samples = read_samples(Path(chosen.data, config.tables[chosen.table].samples))
    found: dict[str, Any] = {}
    for split in splits_of(config, chosen.table, samples):
        if split.scenario == "off-site":
            engine = Engine(load_checkpoint(folder[split.name]), device="cpu", draws=chosen.members)
            tested = samples.take(split.test)
            found[split.name] = (tested, prediction(engine, tested))
    together, factor_of_all = judge(*joined(found, found)), conformal_factor(*joined(found, found))
    held_out = []
    for name in found:
        factor = conformal_factor(*joined(found, [other for other in found if other != name]))
        station, observed, estimate, std = joined(found, [name])
        held_out.append((station, observed, estimate, factor * std))
    recalibrated = judge(*(np.concatenate(parts) for parts in zip(*held_out, strict=True)))
    numbers = {
        "members": chosen.members,
        "samples": together["samples"],
        "stations": together["stations"],
        "std_factor": factor_of_all,
        "given": together["given"],
        "off_site": recalibrated["given"],
    }
    if chosen.json:
        write_whole(chosen.json, json.dumps(numbers, indent=1) + "\n")
    for name in ("given", "off_site"):
        print(name, {level: round(share, 1) for level, share in numbers[name]["coverage"].items()})
    print("factor", round(numbers["std_factor"], 3))
    if chosen.into:
        model = load_checkpoint(chosen.into)
        save_factor(chosen.into, model, factor_of_all, together, recalibrated["given"], chosen.members)


def joined(found: dict[str, Any], names: Any) -> tuple[Any, Any, Any, Any]:
    """Station, observation, estimate and standard deviation of the rows of some folds."""
    chosen = [found[name] for name in names]
    return (
        np.concatenate([samples.station for samples, _ in chosen]),
        np.concatenate([samples.target for samples, _ in chosen]),
        np.concatenate([made.estimate for _, made in chosen]),
        np.concatenate([made.std for _, made in chosen]),
    )


if __name__ == "__main__":
    main()
