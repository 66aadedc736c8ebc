"""Prose is plain English: no banned word, and docstrings of functions begin with a verb."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = sorted((ROOT / "mmnet_maps").rglob("*.py"))
PROSE = sorted(
    [
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "Makefile", "mkdocs.yml")),
        *(path for path in ROOT.glob("docs/**/*.md") if path.name != "log.md"),
        *ROOT.glob("models/*/README.md"),
        *ROOT.glob("configs/*.yaml"),
        *ROOT.glob("examples/*"),
    ]
)

BANNED = re.compile(
    r"\b(tells?|told|lack(s|ing|ed)?|anew|reckon(s|ed)?|counts? up|comes? along|nowhere to be had|may pass"
    r"|handing out|asked for|the rest)\b",
    re.IGNORECASE,
)
NO_VERB = re.compile(r"(What|Whether|Which|How|As|The same|Same|Those|Of|Where|When|All|Every|Each|A|An|The)\b")
"""First words of docstrings that describe instead of saying what the function does."""


def functions(path: Path) -> list[tuple[str, str]]:
    """Name and docstring of every function of a module that has one; properties describe a value."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
            decorators = {ast.unparse(one).split("(")[0].split(".")[-1] for one in node.decorator_list}
            if not decorators & {"property", "cached_property"}:
                found.append((f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", text))
    return found


@pytest.mark.parametrize("path", [*CODE, *PROSE], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_banned_word(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [f"{number}: {line}" for number, line in enumerate(lines, 1) if BANNED.search(line)] == []


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    assert [
        f"{name}: {text.splitlines()[0]}" for path in CODE for name, text in functions(path) if NO_VERB.match(text)
    ] == []


def test_the_pattern_finds_what_is_banned() -> None:
    assert BANNED.search("what it lacks is told")
    assert NO_VERB.match("What a map reads.")
    assert not BANNED.search("may_lack: [smap]")
    assert not NO_VERB.match("Return the days of a map.")
