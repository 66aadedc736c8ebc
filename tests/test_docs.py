"""The examples in the README, the other pages and the help work as they are written."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import pytest

from mmnet_maps import cli
from mmnet_maps.cli.checks import refuse_options_before

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/*/README.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Every ``mmnet …`` line of the pages, with continuation lines joined, and of the help of commands."""
    texts = [(page.name, block) for page in PAGES for block in blocks(page, r"\w*")]
    texts += [(f"mmnet {name} --help", str(command.help)) for name, command in cli.mmnet.commands.items()]
    found = []
    for page, text in texts:
        for line in text.replace("\\\n", " ").splitlines():
            words = line.split("#")[0].strip()
            if re.match(r"(mmnet|mmnet-map)\s+-?-?\w", words) and "…" not in words:
                found.append((page, words))
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


def parsed(words: list[str]) -> list[click.Context]:
    """Parse a command line and the subcommands in it, without running any; one context each."""
    command: click.Command = cli.mmnet
    contexts: list[click.Context] = []
    while True:
        context = command.make_context(command.name or "", words, parent=contexts[-1] if contexts else None)
        contexts.append(context)
        rest = [*context._protected_args, *context.args]
        if not isinstance(command, click.Group) or not rest:
            return contexts
        name, found, words = command.resolve_command(context, rest)
        assert found is not None, name
        command = found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_in_the_pages_have_these_options(page: str, line: str) -> None:
    program, *words = shlex.split(line)
    contexts = parsed(["map", *words] if program == "mmnet-map" else words)
    for outer, inner in pairwise(contexts):
        outer.invoked_subcommand = inner.info_name
        refuse_options_before(outer)
    *_, last = contexts
    assert last.args == [], f"{page}: {line}"
    assert len(contexts) > 1 or not words or words[0].startswith("-"), f"{page}: {line}"


@pytest.mark.parametrize(
    "line",
    ["stack info s.zarr --nonsense", "stack check s.zarr", "batch status", "samples check t --png p", "stack inform s"],
)
def test_a_wrong_subcommand_would_be_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        parsed(shlex.split(line))


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
