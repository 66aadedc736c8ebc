"""Commands that messages propose: complete, and quoted for the shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmnet_maps.grid.tiles import DEFAULT_CRS, DEFAULT_RESOLUTION

if TYPE_CHECKING:
    from mmnet_maps.stack.store import Stack

YAML = "SOURCES.yaml"
"""Stands for the file of sources that a stack was filled from, whose name is not known."""


_RANGES = 4  # of days that a command names each


def fill_command(place: str, days: Sequence[date], *, stack: Stack, model: str, names: Iterable[str]) -> str:
    """Return the command that fetches what the maps of some days need.

    Parameters
    ----------
    place
        From `place_options`.
    days
        Days of the maps. Where they are more than a few ranges, all days between the first and the last are fetched.
    stack
        The stack to fill.
    model
        The model of the maps.
    names
        Variables that the model needs; their origin in the stack gives the source.
    """
    runs = runs_of(days)
    few = 1 < len(runs) <= _RANGES
    span = day_options(days) if few else f"--start {runs[0][0]} --end {runs[-1][-1]}"
    options = f"{grid_options(stack)} --source {source_of(stack, names)} --model {quote(model)}"
    return f"mmnet stack {place} {span}{options} --out {quote(stack.path)}"


def place_options(aoi: Any, tiles: Sequence[str] | str | None = None) -> str:
    """Return the option that gives an area or tiles.

    Examples
    --------
    >>> place_options("my fields.gpkg"), place_options((-119.6, 47.0, -119.2, 47.3)), place_options(None, ["h06v03"])
    ("--aoi 'my fields.gpkg'", '--aoi -119.6,47.0,-119.2,47.3', '--tiles h06v03')
    """
    if tiles is not None:
        return f"--tiles {quote(tiles if isinstance(tiles, str) else ','.join(tiles))}"
    if aoi is None:
        return "--aoi …"
    if isinstance(aoi, str | Path):
        return f"--aoi {quote(aoi)}"
    return f"--aoi {','.join(str(float(edge)) for edge in getattr(aoi, 'bounds', aoi))}"


def day_options(days: Iterable[date]) -> str:
    """Return the options that give some days, each run of them as a range.

    Examples
    --------
    >>> day_options([date(2021, 8, 1), date(2021, 8, 2), date(2021, 8, 7)])
    '--date 2021-08-01/2021-08-02 --date 2021-08-07'
    """
    return " ".join(f"--date {run[0]}{f'/{run[-1]}' if len(run) > 1 else ''}" for run in runs_of(days))


def runs_of(days: Iterable[date]) -> list[list[date]]:
    """Return runs of successive days, ascending."""
    runs: list[list[date]] = []
    for day in sorted(set(days)):
        if runs and (day - runs[-1][-1]).days == 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return runs


def grid_options(stack: Stack) -> str:
    """Return the options of a stack's grid, empty for the default one, otherwise with a space before."""
    resolution, code = abs(stack.target.affine.a), stack.target.crs.to_epsg() if stack.target.crs else None
    options = f" --resolution {resolution:g}" if resolution != DEFAULT_RESOLUTION else ""
    return options + (f" --crs EPSG:{code}" if code and f"EPSG:{code}" != DEFAULT_CRS else "")


def source_of(stack: Stack, names: Iterable[str]) -> str:
    """Return the source that a stack was filled from; one described by a file is called ``SOURCES.yaml``."""
    kinds = {entry.source for name, entry in stack.provenance.items() if name in set(names)}
    return kinds.pop() if len(kinds) == 1 and kinds <= {"demo", "earthengine"} else YAML


def model_text(folder: Path) -> str:
    """Return a checkpoint's folder, or the name of a packaged one, as ``--model`` takes it."""
    from mmnet_maps.resources import packaged

    return folder.name if folder == (packaged("models") / folder.name).absolute() else str(folder)


def quote(text: str | Path) -> str:
    """Quote a word for the shell."""
    return shlex.quote(str(text))
