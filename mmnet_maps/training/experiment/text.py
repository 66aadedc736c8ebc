"""The results of an experiment in Markdown: who is ahead, and tables beside the paper's numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mmnet_maps.metrics import METRICS
from mmnet_maps.training.calibration import LEVELS
from mmnet_maps.training.experiment.config import ExperimentConfig
from mmnet_maps.training.experiment.pairs import SMAP_CELL_KM, level_explained
from mmnet_maps.training.experiment.report import SCENARIOS, Found, difference
from mmnet_maps.training.experiment.station_classes import CLIMATES, climate_group
from mmnet_maps.training.splits import NEIGHBOUR_KM

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

_SHOWN = ("r", "rmse", "ubrmse")

_CLIMATE_STATIONS = 10


def markdown(config: ExperimentConfig, found: Sequence[Found], climates: Mapping[str, str] | None = None) -> str:
    """Format the results: who is ahead, metrics per table of samples and scenario, ablations, coverage, neighbours.

    `climates` are Köppen-Geiger classes by station, for the coverage by climate.
    """
    lines = [f"# {config.name}", "", *_ahead(config, found)]
    for table in config.tables:
        for scenario in SCENARIOS:
            mine = compared(config, found, table, scenario)
            if mine:
                lines += [f"## {table}, {scenario}", "", *_table(config, mine), ""]
        lines += [*_ablations(config, found, table), *_coverage(compared(config, found, table, "off-site"), climates)]
        lines += _within(compared(config, found, table, "off-site"))
    return "\n".join(lines)


def compared(config: ExperimentConfig, found: Sequence[Found], table: str, scenario: str) -> list[Found]:
    """Select the networks, baselines and SMAP of a scenario, without ablations."""
    known = {*config.networks, "smap"}
    return [one for one in found if (one["table"], one["scenario"]) == (table, scenario) and one["network"] in known]


def _ahead(config: ExperimentConfig, found: Sequence[Found]) -> list[str]:
    """Say who is best in each scenario, and who is level with it."""
    lines = [
        "Best median, and in brackets those that are level with it: the 95 % interval of the paired difference over "
        "stations includes 0.",
        "",
        "| table, scenario | R | RMSE | ubRMSE |",
        "|---|---|---|---|",
    ]
    start = len(lines)
    for table in config.tables:
        for scenario in SCENARIOS:
            mine = compared(config, found, table, scenario)
            if len(mine) > 1:
                cells = [_best(mine, metric) for metric in ("r", "rmse", "ubrmse")]
                lines.append(f"| {table}, {scenario} | {' | '.join(cells)} |")
    return [*lines, ""] if len(lines) > start else []


def _best(found: Sequence[Found], metric: str) -> str:
    sign = -1 if metric == "r" else 1
    ranked = sorted(
        (one for one in found if not math.isnan(one["median"][metric])), key=lambda one: sign * one["median"][metric]
    )
    if not ranked:
        return "–"
    best = ranked[0]
    level = []
    for one in ranked[1:]:
        off = difference(one["per_station"], best["per_station"]).get(metric)
        if off and off[1] <= 0 <= off[2]:
            level.append(f"{one['network']} {_cell(one['median'][metric], None, metric)}")
    return f"**{best['network']}** {_cell(best['median'][metric], None, metric)}" + (
        f" ({', '.join(level)})" if level else ""
    )


def _table(config: ExperimentConfig, found: Sequence[Found]) -> list[str]:
    first = found[0]
    name = first["network"]
    splits = ", ".join(first["by_split"])
    lines = [
        f"{first['stations']} stations, {first['samples']} station-days, tested on {splits}.",
        "",
        f"| network | seeds | R | RMSE | bias | ubRMSE | R minus {name}'s | ubRMSE minus {name}'s | "
        "paper: R / RMSE / ubRMSE |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        cells = [_cell(one["median"][metric], one["interval_95"].get(metric), metric) for metric in METRICS]
        for metric in ("r", "ubrmse"):
            values = one["difference"].get(metric)
            cells.append(_cell(values[0], values[1:], metric, sign="+") if values else "")
        what = _architecture(config, one)
        paper = PAPER.get((one["scenario"], what))
        yearly = "*" if one["scenario"] == "on-site" and what in ("mlp", "transformer") else ""
        cells.append(f"{paper[0]:.3f} / {paper[1]:.4f} / {paper[2]:.4f}{yearly}" if paper else "")
        seeds = "" if one["network"] == "smap" else str(one["seeds"])
        lines.append(f"| {one['network']} | {seeds} | {' | '.join(cells)} |")
    if first["scenario"] == "on-site":
        lines += ["", "\\* Mean of yearly medians; the other numbers are pooled over the years tested."]
    return lines


def _architecture(config: ExperimentConfig, one: Found) -> str:
    """Return the name under which the paper's numbers are listed; a baseline has none."""
    if one["network"] not in config.networks or config.networks[one["network"]].baseline is not None:
        return one["network"]
    return config.training_of(one["table"], one["network"]).architecture


def _ablations(config: ExperimentConfig, found: Sequence[Found], table: str) -> list[str]:
    """Format the networks without some inputs beside the full ones."""
    if config.ablations is None or config.ablations.table != table:
        return []
    by_name = {one["network"]: one for one in found if (one["table"], one["scenario"]) == (table, "off-site")}
    rows = []
    for network in config.ablations.networks:
        for name in (network, *config.ablations.names(network)):
            one = by_name.get(name)
            if one is None:
                continue
            cells = [_cell(one["median"][metric], None, metric) for metric in _SHOWN]
            for metric in _SHOWN:
                off = one["difference"].get(metric) if name != network else None
                cells.append(_cell(off[0], off[1:], metric, sign="+") if off else "")
            rows.append(f"| {name} | {' | '.join(cells)} |")
    if not rows:
        return []
    return [
        f"## {table}, off-site, without some inputs",
        "",
        "| network | R | RMSE | ubRMSE | R minus the full one's | RMSE minus | ubRMSE minus |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _coverage(found: Sequence[Found], climates: Mapping[str, str] | None) -> list[str]:
    """Format the coverage of intervals of constant width from the errors of the other folds."""
    found = [one for one in found if one["coverage"]]
    if not found:
        return []
    lines = [
        f"## {found[0]['table']}, off-site, coverage",
        "",
        "Intervals of one width about each estimate, from the errors at the stations of the other folds; share of "
        "observations inside (%), every station with the same weight; and of the 90 % interval by climate, for those "
        f"with {_CLIMATE_STATIONS} stations or more.",
        "",
        f"| network | {' | '.join(f'{level} %' for level in LEVELS)} | width of 90 % | 90 % by climate |",
        "|---" * (len(LEVELS) + 3) + "|",
    ]
    for one in found:
        shares = [f"{np.mean([*one['coverage'][str(level)].values()]):.1f}" for level in LEVELS]
        width = f"{one['coverage']['width']['90']:.3f}"
        lines.append(f"| {one['network']} | {' | '.join(shares)} | {width} | {_by_climate(one, climates or {})} |")
    return [*lines, ""]


def _by_climate(one: Found, climates: Mapping[str, str]) -> str:
    shares = one["coverage"]["90"]
    group = climate_group(climates.get(name, "") for name in shares)
    values = np.array([*shares.values()])
    return ", ".join(
        f"{climate} {values[group == climate].mean():.1f}"
        for climate in CLIMATES
        if (group == climate).sum() >= _CLIMATE_STATIONS
    )


def _within(found: Sequence[Found]) -> list[str]:
    """Format the skill at pairs of neighbours."""
    found = [one for one in found if one["pairs"]]
    if not found:
        return []
    pairs = max((one["pairs"] for one in found), key=len)
    heads = [
        f"{pair['first']} − {pair['second']}, {pair['km']:.1f} km, {pair['days']} days: {pair['observed']:+.3f}"
        for pair in pairs
    ]
    lines = [
        f"## {found[0]['table']}, off-site, pairs of neighbours",
        "",
        f"All pairs within {NEIGHBOUR_KM:g} km; a SMAP cell is {SMAP_CELL_KM:g} km wide. A heading gives the observed "
        "difference of the means; a cell the estimated one, the correlation of the daily differences about the means, "
        "and the share of their variance that is explained (negative: worse than no difference). The last column is "
        "the share of the squared differences of the means that is explained, over all pairs.",
        "",
        f"| network | {' | '.join(heads)} | explained |",
        "|---" * (len(heads) + 2) + "|",
    ]
    for one in found:
        by_pair = {(pair["first"], pair["second"]): pair for pair in one["pairs"]}
        cells = []
        for pair in pairs:
            mine = by_pair.get((pair["first"], pair["second"]))
            cells.append(f"{mine['estimated']:+.3f}, {mine['r']:.2f}, {mine['explained']:+.2f}" if mine else "")
        lines.append(f"| {one['network']} | {' | '.join(cells)} | {level_explained(one['pairs']):+.2f} |")
    return [*lines, ""]


def _cell(value: float, ends: Sequence[float] | None, metric: str, sign: str = "") -> str:
    form = f"{sign}.3f" if metric == "r" else f"{sign}.4f"
    if math.isnan(value):
        return "–"
    return f"{value:{form}}" + (f" [{ends[0]:{form}}, {ends[1]:{form}}]" if ends else "")
