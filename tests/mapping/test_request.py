"""Requests: what is decided before anything is computed."""

from __future__ import annotations

import dataclasses
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from analytic import AnalyticSource
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid, touched_tiles
from mmnet_maps.mapping.request import Request, RunOptions, needs_of, prepare
from mmnet_maps.model.checkpoint import load_checkpoint
from mmnet_maps.settings import MapSettings
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand

AREA, DAY = "-119.60,47.74,-119.58,47.75", date(2021, 8, 7)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    area = read_aoi(AREA)
    grid = target_grid(area)
    path = tmp_path_factory.mktemp("inputs") / "s.zarr"
    needs = needs_of(load_checkpoint(model).spec)
    fetch(
        path,
        [AnalyticSource()],
        Demand(grid=grid, tiles=touched_tiles(area, grid), needs=needs, days=[DAY]),
        quiet=True,
    )
    return path


def request_with(inputs: Path, model: Path, **options: Any) -> Request:
    return prepare(AREA, DAY, stack=inputs, model=model, quiet=True, **options)


def test_options_that_decide_values_change_the_fingerprint_and_run_options_do_not(inputs: Path, model: Path) -> None:
    plain = request_with(inputs, model)
    run: dict[str, Any] = {"out": "elsewhere", "device": "cpu", "threads": 1}
    assert set(run) == {field.name for field in dataclasses.fields(RunOptions)}
    for name, value in run.items():
        assert request_with(inputs, model, **{name: value}).fingerprint(DAY) == plain.fingerprint(DAY), name
    recipe: list[dict[str, Any]] = [
        {"resolution": 50.0},
        {"crs": "EPSG:6350"},
        {"smap_resampling": "nearest"},
        {"uncertainty": 2},
        {"uncertainty": 2, "members": True},
        {"precision": "bfloat16"},
    ]
    named = {name for options in recipe for name in options}
    assert named | set(run) | {"stack", "source", "model", "climatology"} == set(MapSettings.model_fields)
    changed = dataclasses.replace(plain.recipe, checkpoints=("another",))
    prints = {dataclasses.replace(plain, recipe=changed).fingerprint(DAY), plain.fingerprint(DAY)}
    for options in recipe:
        if {"resolution", "crs"} & set(options):  # of a grid with a lattice of its own, which the stack does not have
            continue
        prints.add(request_with(inputs, model, **options).fingerprint(DAY))
    assert len(prints) == 6
