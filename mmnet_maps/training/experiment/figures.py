"""The figures of an experiment, after the paper's: scatter, importance, series, maps, boxes by network or class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmnet_maps import __version__
from mmnet_maps.metrics import ESTIMATE, METRICS, TARGET, StationMetrics
from mmnet_maps.plots.canvas import write_figure
from mmnet_maps.plots.colours import NETWORK_COLOURS, network_colours
from mmnet_maps.plots.series import StationSeries, series_figure
from mmnet_maps.training.experiment.charts import Pairs, density_figure, importance_figure
from mmnet_maps.training.experiment.config import ExperimentConfig
from mmnet_maps.training.experiment.report import SCENARIOS, Found, read_table, smap_estimates, whole_seeds
from mmnet_maps.training.experiment.run import Run
from mmnet_maps.training.experiment.station_charts import box_figure, grouped_box_figure, map_figure
from mmnet_maps.training.experiment.station_classes import (
    CLIMATES,
    ELEVATION_BANDS,
    TEXTURES,
    climate_group,
    elevation_band,
    soil_texture,
)
from mmnet_maps.training.experiment.text import compared
from mmnet_maps.training.table import Samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_SHOWN = ("r", "ubrmse")
_AT = (0.25, 0.5, 0.75)  # stations of the series, by the rank of their R
_IN_GROUPS, _IN_SERIES = 6, 3  # networks that fit side by side in every class, and on top of each other


def write_figures(
    config: ExperimentConfig, runs: Sequence[Run], found: Sequence[Found], climates: Mapping[str, str], out: Path
) -> list[Path]:
    """Write the figures of finished runs to ``out/figures``; they show the estimates of the first seed.

    Networks and baselines are shown, ablations are not. Where there are more than fit, those with the best median
    ubRMSE are shown beside the first.

    Returns
    -------
    list of Path
        ``{table}_{kind}.png``: scatter, importance; ``{table}_{scenario}_{kind}.png``: boxes, groups, map_r,
        map_ubrmse, series.
    """
    made: dict[str, Figure] = {}
    for table in config.tables:
        by_scenario = {
            scenario: leading(mine, len(NETWORK_COLOURS))
            for scenario in SCENARIOS
            if (mine := compared(config, found, table, scenario))
        }
        if not by_scenario:
            continue
        samples = read_table(runs, table)
        source = f"Estimates: networks of {config.name!r}. Observations and inputs: {table}. mmnet_maps {__version__}."
        scatter: dict[str, dict[str, Pairs]] = {}
        for scenario, mine in by_scenario.items():
            estimates = {one["network"]: _estimates(config, runs, one, samples) for one in mine}
            scatter[scenario] = {one["network"]: _pairs(one, estimates[one["network"]]) for one in mine}
            for kind, figure in _figures(mine, estimates, samples, climates, source).items():
                made[f"{table}_{scenario}_{kind}"] = figure
        title = f"Estimated and observed soil moisture, {table}"
        made[f"{table}_scatter"] = density_figure(scatter, title=title, source=source)
        importance = {one["scenario"]: one["importance"] for mine in by_scenario.values() for one in mine[:1]}
        if all(importance.values()):
            made[f"{table}_importance"] = importance_figure(
                {scenario: {row["name"]: row["share"] for row in rows} for scenario, rows in importance.items()},
                {row["name"] for rows in importance.values() for row in rows if row["kind"] == "series"},
                title=f"What {next(iter(config.networks))} depends on, {table}",
                source=source,
            )
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    return [write_figure(figure, folder / f"{name}.png") for name, figure in made.items()]


Rows = Mapping[str, NDArray[Any]]


def leading(found: Sequence[Found], most: int) -> list[Found]:
    """Choose the first network, SMAP, and as many others as fit by their median ubRMSE, in their order."""
    networks = [one for one in found if one["network"] != "smap"]
    ranked = [*networks[:1], *sorted(networks[1:], key=lambda one: np.nan_to_num(one["median"]["ubrmse"], nan=np.inf))]
    chosen = {one["network"] for one in ranked[:most]} | {"smap"}
    return [one for one in found if one["network"] in chosen]


def _estimates(config: ExperimentConfig, runs: Sequence[Run], one: Found, samples: Samples) -> Rows:
    """Return station, day, observation and estimate of the tested rows, from the first complete seed."""
    table, scenario, network = one["table"], one["scenario"], one["network"]
    if network in config.networks:
        here = [run for run in runs if (run.table, run.scenario) == (table, scenario)]
        mine = [run for run in here if run.network == network and run.facts]
        parts = [run.estimates() for run in whole_seeds(mine, {run.split for run in here})[0]]
    else:
        parts = [*smap_estimates(config, table, scenario, samples).values()]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _pairs(one: Found, rows: Rows) -> Pairs:
    return Pairs(estimate=rows[ESTIMATE], observed=rows[TARGET], median=one["median"], stations=one["stations"])


def _figures(
    found: Sequence[Found],
    estimates: Mapping[str, Rows],
    samples: Samples,
    climates: Mapping[str, str],
    source: str,
) -> dict[str, Figure]:
    """Return the figures of one scenario on one table."""
    names = [row["station"] for row in found[0]["per_station"]]
    of_station = [{row["station"]: row for row in one["per_station"]} for one in found]
    values = {
        one["network"]: {
            metric: np.array([_metrics_of(rows, name)[metric] for name in names], np.float64) for metric in METRICS
        }
        for one, rows in zip(found, of_station, strict=True)
    }
    colours = network_colours(values)
    where = f"{found[0]['table']}, {found[0]['scenario']}"
    lat, lon = np.array([samples.stations[name] for name in names]).T
    made = {"boxes": box_figure(values, title=f"Metrics of {len(names)} stations, {where}", source=source)}
    for metric in _SHOWN:
        if not any(np.isfinite(of[metric]).any() for of in values.values()):
            continue
        made[f"map_{metric}"] = map_figure(
            lon, lat, {name: of[metric] for name, of in values.items()}, metric, title=where, source=source
        )
    groups = _groups(samples, names, climates)
    if groups:
        made["groups"] = grouped_box_figure(
            {one["network"]: values[one["network"]]["ubrmse"] for one in leading(found, _IN_GROUPS)},
            groups,
            "ubrmse",
            title=f"ubRMSE by class of station, {where}",
            source=source,
            order={"climate": CLIMATES, "soil texture": TEXTURES, "elevation": ELEVATION_BANDS},
            colours=colours,
        )
    made["series"] = series_figure(
        _series(found, estimates, samples),
        title=f"Stations at the quartiles of R, {where}",
        source=source,
        colours=colours,
    )
    return made


def _groups(samples: Samples, names: Sequence[str], climates: Mapping[str, str]) -> dict[str, NDArray[np.str_]]:
    """Return the classes of each station, from the table and the list of climates."""
    _, first = np.unique(samples.station, return_index=True)
    row = dict(zip(samples.stations, first, strict=True))
    rows = samples.take(np.array([row[name] for name in names]))
    there = set(samples.table.column_names)
    found: dict[str, NDArray[np.str_]] = {}
    if climates:
        found["climate"] = climate_group(climates.get(name, "") for name in names)
    for name in ("landcover", "region"):
        if name in there:
            found[name.replace("landcover", "land cover")] = np.array(
                [value or "" for value in rows.table[name].to_pylist()], np.str_
            )
    if {"clay", "sand"} <= there:
        clay, sand = rows.possible("clay"), rows.possible("sand")
        found["soil texture"] = soil_texture(np.where(clay + sand > 100, np.nan, clay), sand)  # maps made one by one
    if "elevation" in there:
        found["elevation"] = elevation_band(rows.possible("elevation"))
    return found


def _series(found: Sequence[Found], estimates: Mapping[str, Rows], samples: Samples) -> list[StationSeries]:
    """Return the stations at the quartiles of the first network's R, with estimates of the leading networks."""
    ranked = sorted((row["r"], row["station"]) for row in found[0]["per_station"] if row["r"] is not None)
    if not ranked:
        ranked = [(0.0, row["station"]) for row in found[0]["per_station"]]
    chosen = dict.fromkeys(ranked[round(at * (len(ranked) - 1))][1] for at in _AT)
    first = estimates[found[0]["network"]]
    there = set(samples.table.column_names)
    shown = [one for one in leading(found, _IN_SERIES) if one["network"] != "smap"]
    made = []
    for name in chosen:
        days = first["date"][first["station"] == name]
        here = samples.take(samples.station == name)
        made.append(
            StationSeries(
                name=name,
                days=days,
                observed=first[TARGET][first["station"] == name],
                estimates={one["network"]: _on(days, estimates[one["network"]], name) for one in shown},
                smap=on_days(here.date, here.possible("smap"), days) if "smap" in there else None,
                rain=on_days(here.date, here.series(["pr"], 1)["pr"][:, 0], days) if "pr" in there else None,
                metrics={
                    one["network"]: _metrics_of({row["station"]: row for row in one["per_station"]}, name)
                    for one in shown
                },
            )
        )
    return made


def _metrics_of(rows: Mapping[str, StationMetrics], station: str) -> dict[str, float | None]:
    """Return the metrics of a station, None where the network has no estimate."""
    row: Mapping[str, Any] = rows.get(station, {})
    return {metric: row.get(metric) for metric in METRICS}


def _on(days: NDArray[np.datetime64], rows: Rows, station: str) -> NDArray[np.float32]:
    mine = rows["station"] == station
    return on_days(rows["date"][mine], rows[ESTIMATE][mine], days)


def on_days(dates: NDArray[np.datetime64], values: NDArray[Any], days: NDArray[np.datetime64]) -> NDArray[np.float32]:
    """Return the values of some dates, each once, on other days; NaN where a day has none."""
    import pandas as pd

    return pd.Series(values, index=dates).reindex(days).to_numpy(np.float32)
