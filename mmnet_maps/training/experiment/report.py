"""Summary of an experiment: metrics of every network, and tables beside the paper's numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.metrics import ESTIMATE, METRICS, TARGET, StationMetrics, intervals, report, values_of
from mmnet_maps.training.experiment.config import ExperimentConfig
from mmnet_maps.training.experiment.run import Run, by_network, splits_of
from mmnet_maps.training.table import Samples, read_samples

PAPER: dict[tuple[str, str], tuple[float, float, float]] = {
    ("on-site", "mmnet"): (0.8216, 0.0425, 0.0395),
    ("on-site", "mlp"): (0.749, 0.0457, 0.0396),
    ("on-site", "transformer"): (0.719, 0.0632, 0.0481),
    ("on-site", "mlp_full"): (0.774, 0.0461, 0.0430),
    ("on-site", "transformer_full"): (0.760, 0.0485, 0.0451),
    ("off-site", "mmnet"): (0.782, 0.0672, 0.0456),
    ("off-site", "mlp"): (0.704, 0.0717, 0.0501),
    ("off-site", "transformer"): (0.724, 0.0697, 0.0545),
    ("off-site", "mlp_full"): (0.769, 0.0671, 0.0461),
    ("off-site", "transformer_full"): (0.750, 0.0702, 0.0497),
    ("cross-region", "mmnet"): (0.727, 0.0759, 0.0527),
    ("cross-region", "mlp"): (0.646, 0.0805, 0.0559),
    ("cross-region", "transformer"): (0.682, 0.0764, 0.0570),
    ("cross-region", "mlp_full"): (0.719, 0.0761, 0.0536),
    ("cross-region", "transformer_full"): (0.665, 0.0845, 0.0550),
    ("cross-region", "smap"): (0.708, 0.0741, 0.0535),
}
"""R, RMSE and ubRMSE (m³/m³), medians over stations, from Tables 3 to 7 of Xu et al. (2025), by scenario and
architecture; pooled over years, except on-site MLP and Transformer, which are means of yearly medians (MMNet's means
are .846, .0395, .0333). ``smap`` is SMAP Level-4 itself, at all stations."""

SCENARIOS = ("on-site", "off-site", "cross-region")

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
    median over stations of the metric minus the first network's, with its interval, empty for the first;
    ``importance`` each variable's share in the estimates of the first seed, averaged over splits, empty where these
    were not explained.
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
    per_station: list[StationMetrics]


def summarise(config: ExperimentConfig, runs: Sequence[Run]) -> list[Found]:
    """Compute the metrics of every table, scenario and network with a complete seed, in their order.

    Where a table has SMAP, the metrics of SMAP itself on the same rows come last, as the network ``smap``.
    """
    found: list[Found] = []
    first: dict[tuple[str, str], list[StationMetrics]] = {}
    finished = by_network([*runs])
    for table in config.tables:
        for scenario in SCENARIOS:
            for network in config.networks:
                mine = finished.get((table, scenario, network), [])
                wanted = {run.split for run in runs if (run.table, run.scenario) == (table, scenario)}
                by_seed = whole_seeds(mine, wanted)
                if not by_seed:
                    continue
                estimates = [{run.split: run.estimates() for run in mine} for mine in by_seed]
                facts = [run.facts or {} for mine in by_seed for run in mine]
                one = _found(table, scenario, network, estimates, facts)
                reference = first.setdefault((table, scenario), one["per_station"])
                if reference is not one["per_station"]:
                    one["difference"] = _difference(one["per_station"], reference)
                found.append(one)
            if (table, scenario) in first:
                smap = _smap(config, table, scenario, read_table(runs, table))
                if smap:
                    smap["difference"] = _difference(smap["per_station"], first[table, scenario])
                    found.append(smap)
    return found


def read_table(runs: Sequence[Run], table: str) -> Samples:
    """Read the samples of one of the tables."""
    return read_samples(next(run.samples for run in runs if run.table == table))


def _smap(config: ExperimentConfig, table: str, scenario: str, samples: Samples) -> Found | None:
    """Evaluate SMAP itself as an estimate of the tested rows; None where the table has no SMAP."""
    if "smap" not in samples.table.column_names:
        return None
    return _found(table, scenario, "smap", [smap_estimates(config, table, scenario, samples)], [])


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
) -> Found:
    """Compute the metrics of estimates by seed and split."""
    pooled, by_split = [], dict[str, list[dict[str, float]]]()
    for parts in by_seed:
        for split, part in parts.items():
            by_split.setdefault(split, []).append(_median(_report(part)))
        pooled.append(_report({key: np.concatenate([part[key] for part in parts.values()]) for key in _KEYS}))
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
        "epochs": [fact["epochs"] for fact in facts],
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
        "per_station": stations,
    }


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


_KEYS = ("station", TARGET, ESTIMATE)


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


def _difference(rows: Sequence[StationMetrics], reference: Sequence[StationMetrics]) -> dict[str, list[float]]:
    """Compute the median over stations of the metric minus the reference's, and the ends of its interval."""
    other = {row["station"]: row for row in reference}
    pairs = [(row, other[row["station"]]) for row in rows if row["station"] in other]
    off = [
        _metrics(row, {metric: float(values_of([row], metric)[0] - values_of([than], metric)[0]) for metric in METRICS})
        for row, than in pairs
    ]
    ends = intervals(off)
    return {metric: [_median(off)[metric], *ends[metric]] for metric in _PAPER_METRICS if metric in ends}


def markdown(config: ExperimentConfig, found: Sequence[Found]) -> str:
    """Format the metrics in Markdown, one table per table of samples and scenario, beside the paper's numbers."""
    lines = [f"# {config.name}", ""]
    for table in config.tables:
        for scenario in SCENARIOS:
            mine = [one for one in found if (one["table"], one["scenario"]) == (table, scenario)]
            if mine:
                lines += [f"## {table}, {scenario}", "", *_table(config, mine), ""]
    return "\n".join(lines)


def _table(config: ExperimentConfig, found: Sequence[Found]) -> list[str]:
    first = found[0]
    name = next(iter(config.networks))
    splits = ", ".join(first["by_split"])
    lines = [
        f"{first['stations']} stations, {first['samples']} station-days, {first['seeds']} "
        f"seed{'s' * (first['seeds'] > 1)}, tested on {splits}.",
        "",
        f"| network | R | RMSE | bias | ubRMSE | R minus {name}'s | ubRMSE minus {name}'s | paper: R / RMSE / ubRMSE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        cells = [_cell(one["median"][metric], one["interval_95"].get(metric), metric) for metric in METRICS]
        for metric in ("r", "ubrmse"):
            values = one["difference"].get(metric)
            cells.append(_cell(values[0], values[1:], metric, sign="+") if values else "")
        known = one["network"] in config.networks
        what = config.training_of(one["table"], one["network"]).architecture if known else one["network"]
        paper = PAPER.get((one["scenario"], what))
        yearly = "*" if one["scenario"] == "on-site" and what in ("mlp", "transformer") else ""
        cells.append(f"{paper[0]:.3f} / {paper[1]:.4f} / {paper[2]:.4f}{yearly}" if paper else "")
        lines.append(f"| {one['network']} | {' | '.join(cells)} |")
    if first["scenario"] == "on-site":
        lines += ["", "\\* Mean of yearly medians; the other numbers are pooled over the years tested."]
    return lines


def _cell(value: float, ends: Sequence[float] | None, metric: str, sign: str = "") -> str:
    form = f"{sign}.3f" if metric == "r" else f"{sign}.4f"
    if math.isnan(value):
        return "–"
    return f"{value:{form}}" + (f" [{ends[0]:{form}}, {ends[1]:{form}}]" if ends else "")
