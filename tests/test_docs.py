"""The examples in the README, the other pages and the help work as they are written."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise

import click
import numpy as np
import pytest

from doc_pages import PAGES, ROOT, blocks, commands
from mmnet_maps.cli.checks import refuse_options_before
from mmnet_maps.cli.commands import mmnet


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
                mmnet.main(["map", *shlex.split(line)[1:], "-q"], standalone_mode=False)
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
    command: click.Command = mmnet
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


def test_options_in_the_text_exist() -> None:
    """An option that a page names in its text, alone or with a command, belongs to one of our commands."""
    options = [option for command in every_command(mmnet) for option in command.params]
    ours = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    assert "--no-zarr" in ours
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        named = [word for code in re.findall(r"`((?:--|mmnet)[^`]+)`", text) for word in code.split()]
        unknown = {word.rstrip(",") for word in named if re.match(r"--[a-z]", word)} - ours - {"--nthreads"}  # Dask's
        assert page.name in ("benchmarks.md", "log.md") or unknown == set(), page.name


def every_command(command: click.Command) -> list[click.Command]:
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return [command, *(one for each in inner for one in every_command(each))]


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
