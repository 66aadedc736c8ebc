"""The two scenarios of the paper that the shipped model's card reports.

off-site: 5 folds of stations (`splits.station_folds`), each fold tested by networks trained on the other four; rows are
pooled per station over the folds, so every station is tested once a seed.
on-site: trained on 2019-2020, tested on 2021 at the same stations.

Each run (scenario, fold, seed) holds rows out of its training part for early stopping: stations off-site, the last days
on-site. No test row is seen by a scaler, by early stopping or by the choice of an epoch. Finished runs are kept as JSON
lines in the output folder, so the same command continues after an interruption.

    python benchmarks/scenarios.py --samples SAMPLES.parquet --config configs/mmnet-uscrn.yaml --out build/scenarios
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mmnet_maps.checkpoint import save_checkpoint
from mmnet_maps.engine import Engine
from mmnet_maps.evaluate import METRICS, StationMetrics, evaluate_samples, intervals
from mmnet_maps.samples import Samples, read_samples
from mmnet_maps.splits import station_folds, year_split
from mmnet_maps.train import TrainConfig, read_config, train

FOLDS = 5
TRAIN_YEARS, TEST_YEARS = range(2019, 2021), range(2021, 2022)

Scenario = Literal["off-site", "on-site"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One network to train and test."""

    scenario: Scenario
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """Unique, and good as a folder's name."""
        return f"{self.scenario}-fold{self.fold}-seed{self.seed}"


def runs(seeds: int) -> list[Run]:
    """All runs in a fixed order, seed by seed, so that an interrupted series holds whole seeds."""
    every: list[Run] = []
    for seed in range(seeds):
        every.append(Run(scenario="on-site", fold=0, seed=seed))
        every += [Run(scenario="off-site", fold=fold, seed=seed) for fold in range(FOLDS)]
    return every


def split(samples: Samples, run: Run) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows to train on (validation included) and rows to test on."""
    if run.scenario == "on-site":
        return year_split(samples.date, train=TRAIN_YEARS, test=TEST_YEARS)
    folds = station_folds(samples.stations, FOLDS)
    test = np.array([folds[str(name)] == run.fold for name in samples.station])
    return ~test, test


def execute(samples: Samples, config: TrainConfig, run: Run, out: Path) -> dict[str, Any]:
    """Train and test one network, through a checkpoint and the engine as a map does: a line of the log."""
    started = time.perf_counter()
    training, test = split(samples, run)
    validation = "stations" if run.scenario == "off-site" else "time"
    chosen = config.model_copy(update={"validation": validation, "seed": run.seed, "name": run.name})
    trained = train(samples.take(training), chosen, progress=False)
    checkpoint = save_checkpoint(out / "models" / run.name, trained.spec, trained.network)
    found = evaluate_samples(Engine(checkpoint, device="cpu"), samples.take(test))
    return {
        "run": run.name,
        "epochs": trained.spec.training["epochs"],
        "seconds": round(time.perf_counter() - started, 1),
        "history": trained.history,
        "per_station": found["per_station"],
    }


def execute_all(samples: Samples, config: TrainConfig, seeds: int, out: Path) -> dict[str, dict[str, Any]]:
    """Lines of all runs by name; those that the log holds for this configuration and table are not run again."""
    out.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(f"{config.model_dump_json()} {len(samples)} {samples.target.sum():.6f}".encode()).hexdigest()[
        :12
    ]
    log = out / "runs.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    done = {line["run"]: line for line in lines if line["key"] == key}
    for run in tqdm(runs(seeds), desc="runs", unit="run"):
        if run.name not in done:
            done[run.name] = {"key": key, **execute(samples, config, run, out)}
            with log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(done[run.name]) + "\n")
    return done


def summarise(lines: dict[str, dict[str, Any]], seeds: int) -> dict[str, Any]:
    """Medians over stations of each seed, their mean and spread over seeds, and bootstrap intervals over stations.

    For the interval, each station's metrics are first averaged over seeds.
    """
    summary: dict[str, Any] = {}
    for scenario in ("off-site", "on-site"):
        by_seed = []
        for seed in range(seeds):
            mine = [run.name for run in runs(seeds) if run.scenario == scenario and run.seed == seed]
            by_seed.append([row for name in mine for row in lines[name]["per_station"]])
        medians = {metric: [_median(rows, metric) for rows in by_seed] for metric in METRICS}
        ends = intervals(_mean_over_seeds(by_seed))
        summary[scenario] = {
            "stations": len(by_seed[0]),
            "samples": sum(row["samples"] for row in by_seed[0]),
            "seeds": seeds,
            "epochs": [lines[run.name]["epochs"] for run in runs(seeds) if run.scenario == scenario],
            "median": {metric: float(np.mean(values)) for metric, values in medians.items()},
            "per_seed": medians,
            "interval_95": {metric: list(ends[metric]) for metric in METRICS},
        }
    return summary


def markdown(summary: dict[str, Any]) -> str:
    """The table of the model card."""
    rows = ["| scenario | stations | samples | R | RMSE | bias | ubRMSE |", "|---|---|---|---|---|---|---|"]
    for scenario, found in summary.items():
        cells = []
        for metric in METRICS:
            low, high = found["interval_95"][metric]
            digits = 3 if metric == "r" else 4
            cells.append(f"{found['median'][metric]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
        rows.append(f"| {scenario} | {found['stations']} | {found['samples']} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _median(rows: list[StationMetrics], metric: str) -> float:
    return float(np.nanmedian(_values(rows, metric)))


def _values(rows: list[StationMetrics], metric: str) -> NDArray[np.float64]:
    """One metric by row, NaN where None."""
    return np.array([row[metric] for row in rows], dtype=np.float64)  # type: ignore[literal-required]


def _mean_over_seeds(by_seed: list[list[StationMetrics]]) -> list[StationMetrics]:
    """Per station the mean of each metric over seeds; R is None where any seed has none."""
    of_station: dict[str, list[StationMetrics]] = {}
    for rows in by_seed:
        for row in rows:
            of_station.setdefault(row["station"], []).append(row)
    merged: list[StationMetrics] = []
    for rows in of_station.values():
        mean = {metric: float(_values(rows, metric).mean()) for metric in METRICS}
        defined = None if np.isnan(mean["r"]) else mean["r"]
        merged.append({**rows[0], "r": defined, "rmse": mean["rmse"], "bias": mean["bias"], "ubrmse": mean["ubrmse"]})
    return merged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, required=True, help="table of samples (Parquet)")
    parser.add_argument("--config", type=Path, required=True, help="training configuration (YAML)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the log, the networks and the summary")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    lines = execute_all(read_samples(given.samples), read_config(given.config), given.seeds, given.out)
    summary = summarise(lines, given.seeds)
    (given.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    (given.out / "summary.md").write_text(markdown(summary), encoding="utf-8")
    print(markdown(summary))
    for scenario, found in summary.items():
        print(scenario, "per seed:", {m: [round(v, 4) for v in values] for m, values in found["per_seed"].items()})


if __name__ == "__main__":
    main()
