"""The results of an experiment as files: ``results.json``, ``results.md`` and figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmnet_maps.files import write_whole
from mmnet_maps.training.experiment.config import ExperimentConfig
from mmnet_maps.training.experiment.figures import write_figures
from mmnet_maps.training.experiment.report import summarise
from mmnet_maps.training.experiment.run import Run, read_climates
from mmnet_maps.training.experiment.text import markdown


def write_results(config: ExperimentConfig, runs: Sequence[Run], out: str | Path) -> list[Path]:
    """Write ``results.json``, ``results.md`` and the figures of the finished runs; return their paths."""
    found = summarise(config, runs)
    climates = read_climates(runs[0].samples.parent / config.stations) if config.stations else {}
    texts = {
        "results.json": json.dumps(_plain(found), indent=1, allow_nan=False) + "\n",
        "results.md": markdown(config, found, climates),
    }
    for name, text in texts.items():
        write_whole(Path(out, name), text)
    return [*(Path(out, name) for name in texts), *write_figures(config, runs, found, climates, Path(out))]


def _plain(found: Any) -> Any:
    """Replace NaN by None, because JSON has no NaN."""
    if isinstance(found, dict):
        return {key: _plain(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_plain(value) for value in found]
    return None if isinstance(found, float) and math.isnan(found) else found
