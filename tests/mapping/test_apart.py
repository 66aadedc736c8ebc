"""What another process computes is what this one would, with the same errors."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import psutil
import pytest

from batch_world import CORNER, DAYS
from mmnet_maps.errors import RequestError
from mmnet_maps.mapping import apart
from mmnet_maps.mapping.apart import EndedError, EngineApart, Other, other_process
from mmnet_maps.mapping.pipeline import compute_layers, read_parts
from mmnet_maps.mapping.request import Request, prepare
from mmnet_maps.model.prediction import StoppedError


def start() -> Iterator[Other]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart, "cores", lambda: 2)  # on any machine
        with other_process() as found:
            assert found is not None
            yield found


other = pytest.fixture(start)
shared = pytest.fixture(start, scope="module")  # by tests that do not end it


@pytest.fixture
def job(corner_stack: Path, model: Path) -> Request:
    return prepare(CORNER, DAYS, stack=corner_stack, model=model, uncertainty=2, members=True, quiet=True)


def test_it_computes_the_same(shared: Other, job: Request) -> None:
    """Of every tile on every day; the terms of a tile serve for all days."""
    engine, count = EngineApart(shared, job), 0
    for part, layers in compute_layers(job, read_parts(job, job.tiles, job.days), None, engine):
        here = dict(compute_layers_of(job, part.tile))[part.day]
        assert layers.keys() == here.keys()
        for name in here:
            np.testing.assert_array_equal(layers[name], here[name], err_msg=name)
        count += 1
    assert count == len(job.tiles) * len(job.days) > 1


def compute_layers_of(job: Request, tile: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the days of a tile with their layers, computed here."""
    for part, layers in compute_layers(job, read_parts(job, [tile], job.days)):
        yield part.day, layers


def test_a_model_that_cannot_run_is_refused_here(shared: Other, job: Request, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(job.models[0], folder)
    text = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(text | {"d_model": 2 * text["d_model"]}))
    engine = EngineApart(shared, replace(job, models=(folder,)))
    with pytest.raises(RequestError, match=r"weights\.safetensors"):
        engine.encode_days({})


def test_a_cancelled_computation_ends_it(other: Other, job: Request) -> None:
    stop = Event()
    stop.set()
    process = psutil.Process(other._process.pid)
    process.suspend()  # it does not answer
    with pytest.raises(StoppedError):
        EngineApart(other, job).encode_days({}, stop=stop)
    assert not process.is_running()


def test_a_killed_process_is_reported(other: Other, job: Request) -> None:
    os.kill(other._process.pid, signal.SIGKILL)
    with pytest.raises(EndedError, match="has ended, by an error shown above or for want of memory"):
        EngineApart(other, job).encode_days({})


def test_an_interrupt_ends_it(other: Other, job: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    process = psutil.Process(other._process.pid)
    monkeypatch.setattr("multiprocessing.connection.Connection.recv", interrupted)
    with pytest.raises(KeyboardInterrupt):
        EngineApart(other, job).encode_days({})
    assert not process.is_running()


def test_it_ends_when_its_parent_is_killed(other: Other) -> None:
    """Its end of the pipe is the only other one, so that it reads the end of the file."""
    other._pipe.close()
    assert other._process.wait(60) == 0


def test_on_one_core_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "cores", lambda: 1)
    with other_process() as none:
        assert none is None
