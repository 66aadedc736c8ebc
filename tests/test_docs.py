"""What the README and the other pages show works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest

from mmnet_maps import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/*/README.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Every ``mmnet …`` line of the pages, with continuation lines joined."""
    found = []
    for page in PAGES:
        for block in blocks(page, r"\w*"):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.split("#")[0].strip()
                if re.match(r"(mmnet|mmnet-map)\s+-?-?\w", words) and "…" not in words:
                    found.append((page.name, words))
    return found


def test_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    shared: dict[str, object] = {}
    for code in blocks(ROOT / "README.md", "python"):
        exec(compile(code, "README.md", "exec"), shared)  # noqa: S102
    out = capsys.readouterr().out
    assert "m3 m-3" in out
    assert "days of weather" in out


def test_the_other_pages_run() -> None:
    for page in PAGES[1:]:
        for name, line in commands():
            if name == page.name and line.startswith("mmnet-map") and "--source demo" in line:  # read by what follows
                cli.mmnet.main(["map", *shlex.split(line)[1:], "-q"], standalone_mode=False)
        for code in blocks(page, "python"):
            shared = {"quality": np.arange(2048, dtype=np.uint16)}
            exec(compile(code, page.name, "exec"), shared)  # noqa: S102
            if page.name == "product.md":
                assert shared["ok"].sum() == 2
                assert shared["usable"].sum() == 256


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_in_the_pages_have_these_options(page: str, line: str) -> None:
    program, *words = shlex.split(line)
    if program == "mmnet-map":
        words.insert(0, "map")
    name, *rest = words
    command = cli.mmnet.commands[name]
    command.make_context(name, rest, resilient_parsing=False)
    assert isinstance(command, click.Command), page


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
