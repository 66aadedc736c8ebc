"""The examples run, write a result, and are short; the notebook gives the outputs that are stored in it."""

from __future__ import annotations

import os
import runpy
from itertools import zip_longest
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

EXAMPLES = Path(__file__).parents[1] / "examples"
SERVER = EXAMPLES / "serve.py"  # does not end; tests/test_serve.py runs it
SCRIPTS = sorted(set(EXAMPLES.glob("*.py")) - {SERVER})
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
REWRITE = os.environ.get("MMNET_REWRITE_NOTEBOOKS") == "1"


def name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_scripts_run(script: Path, tmp_path: Path) -> None:
    runpy.run_path(str(script), run_name="__main__")
    assert list(tmp_path.iterdir()), "an example writes a result"


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_scripts_are_short(script: Path) -> None:
    assert len(script.read_text(encoding="utf-8").splitlines()) < 30


def executed(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> NotebookNode:
    """Run a notebook in a folder, whatever Jupyter the user has set up; the result holds no time and no path."""
    for variable in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        own = folder / ".jupyter" / variable.lower()
        own.mkdir(parents=True)
        monkeypatch.setenv(variable, str(own))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, startup_timeout=300, record_timing=False, store_widget_state=False)
    made = client.execute(cwd=str(folder))
    made.metadata.language_info = {"name": "python"}
    return made


def texts(cell: NotebookNode) -> list[str]:
    """Return the text that a cell prints to each stream and shows; for a figure only the word."""
    outputs = cell.get("outputs", [])
    found = []
    for stream in ("stdout", "stderr"):
        if printed := "".join(one.text for one in outputs if one.output_type == "stream" and one.name == stream):
            found.append(f"{stream}: {printed}")
    shown = [one.data for one in outputs if one.output_type != "stream"]
    return found + ["figure" if "image/png" in data else data["text/plain"] for data in shown]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks_give_the_outputs_that_are_stored(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = nbformat.read(path, as_version=4)
    made = executed(path, tmp_path, monkeypatch)
    if REWRITE:
        nbformat.write(made, path)
        return
    for cell, now in zip_longest(stored.cells, made.cells):
        assert texts(now) == texts(cell), f"{cell.id}: MMNET_REWRITE_NOTEBOOKS=1 stores the new outputs"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks_hold_nothing_of_the_machine(path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    assert path.stat().st_size < 300_000
    assert set(stored.metadata) == {"kernelspec", "language_info"}
    assert stored.metadata.kernelspec.name == "python3"
    assert stored.metadata.language_info == {"name": "python"}
    said = [text for cell in stored.cells for text in texts(cell)]
    assert said.count("figure") == 2
    assert not [text for text in said if str(Path.home()) in text or "/tmp" in text]  # noqa: S108
    assert not any(cell.metadata for cell in stored.cells)
