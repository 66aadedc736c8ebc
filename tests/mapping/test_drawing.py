"""Pictures drawn by another process are those of this one, with the same errors."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shapely

import day_files
from mmnet_maps.errors import OutputError
from mmnet_maps.mapping import drawing as drawing_
from mmnet_maps.mapping.drawing import drawing
from mmnet_maps.product.picture import DayPicture, draw


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of `draw` but the path; on any machine another process draws."""
    monkeypatch.setattr(drawing_, "cores", lambda: 2)
    box = day_files.grid(30, 40)
    with day_files.writer(tmp_path / "maps", box) as writer:
        writer.write(slice(0, 30), slice(0, 40), day_files.packed(30, 40))
        layers = writer.finish(None).layers
    area = shapely.box(-120.80, 47.13, -120.76, 47.155)
    days = [DayPicture(day=day_files.DAY, layers=layers)]
    return {"days": days, "area": area, "title": "Grant", "source": "inputs", "synthetic": True}


@pytest.fixture
def children() -> Callable[[], list[Any]]:
    """Return a function that lists the child processes since the test began; other tests leave some."""
    before = {child.pid for child in multiprocessing.active_children()}
    return lambda: [child for child in multiprocessing.active_children() if child.pid not in before]


def test_another_process_draws_the_same(
    tmp_path: Path, picture: dict[str, Any], children: Callable[[], list[Any]]
) -> None:
    draw(tmp_path / "here.png", **picture)
    with drawing(apart=True) as draw_apart:
        (process,) = children()
        draw_apart(tmp_path / "apart.png", **picture)
        assert process.is_alive()
    assert not process.is_alive()
    assert (tmp_path / "apart.png").read_bytes() == (tmp_path / "here.png").read_bytes()


def test_its_errors_are_raised_here_and_the_next_picture_is_drawn(tmp_path: Path, picture: dict[str, Any]) -> None:
    (tmp_path / "foreign.png").write_bytes(b"by hand")
    with drawing(apart=True) as draw_apart:
        with pytest.raises(OutputError, match="not made by mmnet_maps"):
            draw_apart(tmp_path / "foreign.png", **picture)
        draw_apart(tmp_path / "next.png", **picture)
    assert (tmp_path / "next.png").exists()


def test_a_killed_process_is_made_up_for(
    tmp_path: Path, picture: dict[str, Any], children: Callable[[], list[Any]]
) -> None:
    with drawing(apart=True) as draw_apart:
        (process,) = children()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        draw_apart(tmp_path / "a.png", **picture)
    assert (tmp_path / "a.png").exists()


def test_an_interrupt_ends_it(
    tmp_path: Path, picture: dict[str, Any], monkeypatch: pytest.MonkeyPatch, children: Callable[[], list[Any]]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with drawing(apart=True) as draw_apart:
        monkeypatch.setattr("multiprocessing.connection.Connection.recv", interrupted)
        with pytest.raises(KeyboardInterrupt):
            draw_apart(tmp_path / "a.png", **picture)
        assert not children()


def test_without_need_there_is_no_process(children: Callable[[], list[Any]]) -> None:
    with drawing(apart=False) as drawn:
        assert drawn is draw
        assert not children()
