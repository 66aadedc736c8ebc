"""The pages of the documentation, and the commands that stand on them and in the help."""

from __future__ import annotations

import re
from pathlib import Path

from mmnet_maps.cli.commands import mmnet

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/*/README.md")])


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language, a regular expression."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Return every ``mmnet …`` line of pages and help, with continuation lines joined, each with its page before it."""
    texts = [(page.name, block) for page in PAGES for block in blocks(page, r"\w*")]
    texts += [(f"mmnet {name} --help", str(command.help)) for name, command in mmnet.commands.items()]
    found = []
    for page, text in texts:
        for line in text.replace("\\\n", " ").splitlines():
            words = line.split("#")[0].strip()
            if re.match(r"(mmnet|mmnet-map)\s+-?-?\w", words) and "…" not in words:
                found.append((page, words))
    return found
