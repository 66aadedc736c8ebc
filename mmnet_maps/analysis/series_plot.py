"""The picture of series at places: observed, estimated, 90 % interval, SMAP and rain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmnet_maps import __version__
from mmnet_maps.analysis.series import metrics
from mmnet_maps.errors import InputError
from mmnet_maps.metrics import ESTIMATE, METRICS, STD, TARGET
from mmnet_maps.plots.canvas import watermark, write_figure
from mmnet_maps.plots.series import StationSeries, series_figure

if TYPE_CHECKING:
    import pandas as pd

_NINETY = 1.6449  # of the normal distribution: half the width of its central 90 %, in standard deviations
_DRAWN = 8  # stations of a picture


def draw_series(series: pd.DataFrame, path: str | Path) -> Path:
    """Draw up to eight stations, those of most observations first: observed, estimated, 90 % interval, SMAP, rain.

    Raises
    ------
    InputError
        No place has a value.
    OutputError, RequestError
        The picture cannot be written, or its name does not end in .png.
    """
    about = series.attrs
    model = str(about.get("model", "map"))
    counts = series.groupby("station")[[TARGET, ESTIMATE]].count()
    counts = counts[counts.any(axis=1)].sort_values([TARGET, ESTIMATE], ascending=False, kind="stable")
    if counts.empty:
        raise InputError("no place has an estimate or an observation, so there is nothing to draw")
    drawn = []
    for name in counts.index[:_DRAWN]:
        mine = series[series["station"] == name]
        estimate, std, observed = (mine[column].to_numpy(np.float32) for column in (ESTIMATE, STD, TARGET))
        found = metrics(mine)
        drawn.append(
            StationSeries(
                name=str(name),
                days=mine["date"].to_numpy().astype("datetime64[D]"),
                observed=observed,
                estimates={model: estimate},
                band=(estimate - _NINETY * std, estimate + _NINETY * std) if np.isfinite(std).any() else None,
                smap=mine["smap"].to_numpy(np.float32) if "smap" in mine else None,
                rain=mine["pr"].to_numpy(np.float32) if "pr" in mine else None,
                metrics={model: {key: found["per_station"][0][key] for key in METRICS}} if found else {},  # type: ignore[literal-required]
            )
        )
    source = f"Estimates: {_origin(about)}. {about.get('software', f'mmnet_maps {__version__}')}."
    subset = f": {len(drawn)} of {len(counts)} places" if len(drawn) < len(counts) else ""
    title = f"Soil moisture day by day{subset}"
    figure = series_figure(drawn, title=title, source=source)
    if about.get("synthetic"):
        width, height = figure.get_size_inches()
        for axes in figure.axes:
            if axes.get_title(loc="left"):  # not the rain's
                watermark(axes, width, height / len(drawn) / 2)
    return write_figure(figure, Path(path))


def _origin(about: Any) -> str:
    """Return the origin of the estimates, for a line of text."""
    if "model" not in about:
        return f"maps of {about.get('maps', 'mmnet_maps')}"
    inputs = "; ".join(dict.fromkeys(about.get("inputs", {}).values())) or about.get("samples", "")
    return f"{about['model']} from {inputs}" if inputs else str(about["model"])
