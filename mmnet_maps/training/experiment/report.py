"""Summary of an experiment: metrics of every network, with intervals and differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.metrics import ESTIMATE, METRICS, TARGET, StationMetrics, intervals, report, values_of
from mmnet_maps.training.experiment.config import ExperimentConfig
from mmnet_maps.training.experiment.coverage import coverage
from mmnet_maps.training.experiment.pairs import PairSkill, mean_skill, neighbours, pair_skill
from mmnet_maps.training.experiment.run import Run, by_network, splits_of
from mmnet_maps.training.splits import Scenario
from mmnet_maps.training.table import Samples, read_samples

SCENARIOS: tuple[Scenario, ...] = ("on-site", "off-site", "cross-region")

_PAPER_METRICS = ("r", "rmse", "ubrmse")


class Share(TypedDict):
    """Share of a variable in the estimates, %."""

    name: str
    kind: Literal["snapshot", "series"]
    share: float


class Found(TypedDict):
    """Metrics of a network in a scenario on a table.

    ``median`` is over stations, rows pooled over splits, averaged over seeds; ``interval_95`` its bootstrap interval
    over stations, of metrics averaged over seeds; ``by_split`` and ``by_seed`` the medians of each; ``difference`` the
    median over stations of the metric minus the first network's (for an ablation: the full network's), with its
    interval, empty for the first;
    ``coverage``, off-site, see `coverage.coverage`, averaged over seeds; ``pairs``, off-site, the skill within a SMAP
    cell; ``importance`` each variable's share in the estimates of the first seed, averaged over splits, empty where
    these were not explained.
    """

    table: str
    scenario: str
    network: str
    stations: int
    samples: int
    seeds: int
    epochs: list[int]
    seconds: float
    median: dict[str, float]
    interval_95: dict[str, list[float]]
    by_seed: dict[str, list[float]]
    by_split: dict[str, dict[str, float]]
    difference: dict[str, list[float]]
    importance: list[Share]
    coverage: dict[str, dict[str, float]]
    pairs: list[PairSkill]
    per_station: list[StationMetrics]


def summarise(config: ExperimentConfig, runs: Sequence[Run]) -> list[Found]:
    """Compute the metrics of every table, scenario and network with a complete seed, in their order.

    Where a table has SMAP, the metrics of SMAP itself on the same rows come last, as the network ``smap``.
    """
    found: list[Found] = []
    finished = by_network([*runs])
    for table in config.tables:
        samples = read_table(runs, table)
        for scenario in SCENARIOS:
            first: list[StationMetrics] | None = None
            wanted = {run.split for run in runs if (run.table, run.scenario) == (table, scenario)}
            for network in config.networks:
                full: list[StationMetrics] | None = None
                for name in (network, *config.ablated(table, scenario, network)):
                    by_seed = whole_seeds(finished.get((table, scenario, name), []), wanted)
                    if not by_seed:
                        continue
                    estimates = [{run.split: run.estimates() for run in mine} for mine in by_seed]
                    facts = [run.facts or {} for mine in by_seed for run in mine]
                    one = _found(table, scenario, name, estimates, facts, samples)
                    reference = first if name == network else full
                    if reference is not None:
                        one["difference"] = difference(one["per_station"], reference)
                    first = first or one["per_station"]
                    full = full or one["per_station"]
                    found.append(one)
            smap = _smap(config, table, scenario, samples) if first else None
            if smap and first:
                smap["difference"] = difference(smap["per_station"], first)
                found.append(smap)
    return found


def read_table(runs: Sequence[Run], table: str) -> Samples:
    """Read the samples of one of the tables."""
    return read_samples(next(run.samples for run in runs if run.table == table))


def _smap(config: ExperimentConfig, table: str, scenario: str, samples: Samples) -> Found | None:
    """Evaluate SMAP itself as an estimate of the tested rows; None where the table has no SMAP."""
    if "smap" not in samples.table.column_names:
        return None
    return _found(table, scenario, "smap", [smap_estimates(config, table, scenario, samples)], [], samples)


def smap_estimates(
    config: ExperimentConfig, table: str, scenario: str, samples: Samples
) -> dict[str, dict[str, NDArray[Any]]]:
    """Return station, day, observation and SMAP of the tested rows, by split, in the form of `Run.estimates`."""
    splits = [split for split in splits_of(config, table, samples) if split.scenario == scenario]
    return {split.name: _columns(samples.take(split.test)) for split in splits}


def _columns(samples: Samples) -> dict[str, NDArray[Any]]:
    columns = {"station": samples.station, "date": samples.date, TARGET: samples.target}
    return columns | {ESTIMATE: samples.possible("smap")}


def whole_seeds(runs: Sequence[Run], splits: set[str]) -> list[list[Run]]:
    """Group the runs by seed, for the seeds that have all splits."""
    by_seed: dict[int, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, []).append(run)
    return [mine for _, mine in sorted(by_seed.items()) if {run.split for run in mine} == splits]


def _found(
    table: str,
    scenario: str,
    network: str,
    by_seed: Sequence[Mapping[str, Mapping[str, NDArray[Any]]]],
    facts: Sequence[Mapping[str, Any]],
    samples: Samples,
) -> Found:
    """Compute the metrics of estimates by seed and split."""
    pooled, by_split = [], dict[str, list[dict[str, float]]]()
    off_site = scenario == "off-site"
    rows = [{key: np.concatenate([part[key] for part in parts.values()]) for key in _KEYS} for parts in by_seed]
    for parts, together in zip(by_seed, rows, strict=True):
        for split, part in parts.items():
            by_split.setdefault(split, []).append(_median(_report(part)))
        pooled.append(_report(together))
    stations = _mean_over_seeds(pooled)
    ends = intervals(stations)
    medians = [_median(rows) for rows in pooled]
    return {
        "table": table,
        "scenario": scenario,
        "network": network,
        "stations": len(stations),
        "samples": sum(row["samples"] for row in pooled[0]),
        "seeds": len(by_seed),
        "epochs": [fact["epochs"] for fact in facts if "epochs" in fact],
        "seconds": round(sum(fact["seconds"] for fact in facts), 1),
        "median": {metric: float(np.mean([one[metric] for one in medians])) for metric in METRICS},
        "interval_95": {metric: list(ends[metric]) for metric in METRICS if metric in ends},
        "by_seed": {metric: [one[metric] for one in medians] for metric in METRICS},
        "by_split": {
            split: {metric: float(np.mean([one[metric] for one in values])) for metric in METRICS}
            for split, values in sorted(by_split.items())
        },
        "difference": {},
        "importance": _importance(facts),
        "coverage": _mean_coverage([coverage(parts) for parts in by_seed]) if off_site else {},
        "pairs": _pairs(samples, rows) if off_site else [],
        "per_station": stations,
    }


def _mean_coverage(by_seed: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        level: {name: float(np.mean([one[level][name] for one in by_seed])) for name in of_station}
        for level, of_station in by_seed[0].items()
    }


def _pairs(samples: Samples, by_seed: Sequence[Mapping[str, NDArray[Any]]]) -> list[PairSkill]:
    """Compute the skill at each pair of neighbours, averaged over seeds."""
    each = [[pair_skill(pair, rows) for rows in by_seed] for pair in neighbours(samples.stations)]
    return [mean_skill([one for one in skills if one is not None]) for skills in each if all(skills)]


def _importance(facts: Sequence[Mapping[str, Any]]) -> list[Share]:
    """Average shares over splits, the largest first."""
    each = [fact["importance"]["variables"] for fact in facts if "importance" in fact]
    total: dict[tuple[str, Literal["snapshot", "series"]], float] = {}
    for row in (row for rows in each for row in rows):
        key = (row["name"], row["kind"])
        total[key] = total.get(key, 0.0) + row["share"] / len(each)
    return [
        {"name": name, "kind": kind, "share": share}
        for (name, kind), share in sorted(total.items(), key=lambda one: -one[1])
    ]


_KEYS = ("station", "date", TARGET, ESTIMATE)


def _report(rows: Mapping[str, NDArray[Any]]) -> list[StationMetrics]:
    return report(rows["station"], rows[ESTIMATE], rows[TARGET])["per_station"]


def _median(rows: Sequence[StationMetrics]) -> dict[str, float]:
    values = {metric: values_of(rows, metric) for metric in METRICS}
    return {name: float(np.nanmedian(each)) if np.isfinite(each).any() else math.nan for name, each in values.items()}


def _mean_over_seeds(by_seed: Sequence[Sequence[StationMetrics]]) -> list[StationMetrics]:
    """Average each metric of a station over seeds; R is None where it is None for any seed."""
    of_station: dict[str, list[StationMetrics]] = {}
    for rows in by_seed:
        for row in rows:
            of_station.setdefault(row["station"], []).append(row)
    return [
        _metrics(rows[0], {metric: float(values_of(rows, metric).mean()) for metric in METRICS})
        for rows in of_station.values()
    ]


def _metrics(like: StationMetrics, values: Mapping[str, float]) -> StationMetrics:
    return {
        "station": like["station"],
        "samples": like["samples"],
        "r": None if np.isnan(values["r"]) else values["r"],
        "rmse": values["rmse"],
        "bias": values["bias"],
        "ubrmse": values["ubrmse"],
    }


def difference(rows: Sequence[StationMetrics], reference: Sequence[StationMetrics]) -> dict[str, list[float]]:
    """Compute the median over stations of the metric minus the reference's, and the ends of its interval."""
    other = {row["station"]: row for row in reference}
    pairs = [(row, other[row["station"]]) for row in rows if row["station"] in other]
    off = [
        _metrics(row, {metric: float(values_of([row], metric)[0] - values_of([than], metric)[0]) for metric in METRICS})
        for row, than in pairs
    ]
    ends = intervals(off)
    return {metric: [_median(off)[metric], *ends[metric]] for metric in _PAPER_METRICS if metric in ends}
