"""The picture of series at places: observed, estimated with its 90 % interval, SMAP and rain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmnet_maps.analysis.series import metrics
from mmnet_maps.errors import InputError
from mmnet_maps.metrics import ESTIMATE, METRICS, STD, TARGET
from mmnet_maps.plots.canvas import SOFTWARE, watermark, write_figure
from mmnet_maps.plots.series import StationSeries, series_figure

if TYPE_CHECKING:
    import pandas as pd

_NINETY = 1.6449
"""Half the width of the central 90 % of a normal distribution, in standard deviations."""
_MOST_STATIONS = 8


def draw_series(series: pd.DataFrame, path: str | Path) -> Path:
    """Draw up to eight stations, those with most observations first.

    Parameters
    ----------
    series
        See `series.series_at`.
    path
        The PNG.

    Raises
    ------
    InputError
        No place has a value.
    OutputError, RequestError
        The picture cannot be written, or its name does not end in .png.
    """
    about = series.attrs
    counts = series.groupby("station")[[TARGET, ESTIMATE]].count()
    counts = counts[counts.any(axis=1)].sort_values([TARGET, ESTIMATE], ascending=False, kind="stable")
    if counts.empty:
        raise InputError("no place has an estimate or an observation, so there is nothing to draw")
    names = counts.index[:_MOST_STATIONS]
    model = str(about.get("model", "map"))
    drawn = [_station(series[series["station"] == name], str(name), model) for name in names]
    subset = f": {len(drawn)} of {len(counts)} places" if len(drawn) < len(counts) else ""
    source = f"Estimates: {_origin(about)}. {about.get('software', SOFTWARE)}."
    figure = series_figure(drawn, title=f"Soil moisture day by day{subset}", source=source)
    if about.get("synthetic"):
        width, height = figure.get_size_inches()
        for axes in figure.axes:
            if axes.get_title(loc="left"):  # the axes of rain have none
                watermark(axes, width, height / len(drawn) / 2)
    return write_figure(figure, Path(path))


def _station(rows: pd.DataFrame, name: str, model: str) -> StationSeries:
    """Return the series of one station as `series_figure` draws it."""
    estimate, std, observed = (rows[column].to_numpy(np.float32) for column in (ESTIMATE, STD, TARGET))
    found = metrics(rows)
    return StationSeries(
        name=name,
        days=rows["date"].to_numpy().astype("datetime64[D]"),
        observed=observed,
        estimates={model: estimate},
        band=(estimate - _NINETY * std, estimate + _NINETY * std) if np.isfinite(std).any() else None,
        smap=rows["smap"].to_numpy(np.float32) if "smap" in rows else None,
        rain=rows["pr"].to_numpy(np.float32) if "pr" in rows else None,
        metrics={model: {key: found["per_station"][0][key] for key in METRICS}} if found else {},  # type: ignore[literal-required]
    )


def _origin(about: Mapping[Any, Any]) -> str:
    """Return the origin of the estimates, for the line of sources."""
    if "model" not in about:
        return f"maps of {about.get('maps', 'mmnet_maps')}"
    inputs = "; ".join(dict.fromkeys(about.get("inputs", {}).values())) or about.get("samples", "")
    return f"{about['model']} from {inputs}" if inputs else str(about["model"])
