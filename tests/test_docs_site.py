"""The documentation site: builds without a warning, is whole, and asks no other server for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

import mmnet_maps

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("mkdocs", "material", "mkdocstrings"))),
    reason="the site is built by MkDocs: pip install '.[docs]'",
)
OUTSIDE = re.compile(r"(https?:)?//")


@dataclass
class Page(HTMLParser):
    """Where a page's links lead, what it loads, and the anchors that it has."""

    path: Path
    ids: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    loaded: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given and tag != "meta"}
        self.loaded |= {given[name] for name in ("src", "data", "poster") if name in given}
        if "href" in given:
            (self.links if tag == "a" else self.loaded).add(given["href"])  # else <link>: styles, icons, pages ahead


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` builds it."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def navigation(entry: Any) -> Iterator[str]:
    """The pages and patterns of a navigation, flat."""
    if isinstance(entry, str):
        yield entry
    else:
        for item in entry.values() if isinstance(entry, dict) else entry:
            yield from navigation(item)


def test_every_page_of_the_navigation_is_there(site: Path) -> None:
    entries = list(navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert len(entries) > 10
    for entry in entries:
        assert list(site.glob(entry.removesuffix(".md") + ".html")), entry


def test_all_decisions_and_model_cards_are_shown(site: Path) -> None:
    shown = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert {f"decisions/{path.stem}.html" for path in ROOT.glob("docs/decisions/*.md")} <= shown
    assert {f"models/{path.parent.name}.html" for path in ROOT.glob("models/*/README.md")} <= shown


def test_pages_ask_no_other_server(site: Path, pages: dict[Path, Page]) -> None:
    for page in [*pages.values(), Page(site / "404.html")]:
        assert page.loaded, page.path
        assert not [address for address in page.loaded if OUTSIDE.match(address)], page.path
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_links_lead_to_files_and_anchors(site: Path, pages: dict[Path, Page]) -> None:
    broken, followed = [], 0
    for page in pages.values():
        for link in page.links | page.loaded:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (page.path.parent / path).resolve() if path else page.path
            followed += 1
            if not (target.is_file() and target.is_relative_to(site)):
                broken.append(f"{page.path.relative_to(site)}: {link}")
            elif anchor and anchor not in pages[target].ids:
                broken.append(f"{page.path.relative_to(site)}: no such anchor {link}")
    assert followed > 500
    assert not broken


def test_links_to_files_of_the_repository_lead_to_pages_that_show_them(site: Path, pages: dict[Path, Page]) -> None:
    assert "files/configs/earthengine.yaml.html" in pages[site / "inputs.html"].links
    assert "../training.html#results" in pages[site / "models" / "mmnet-uscrn.html"].links
    assert "operations.html" in pages[site / "changelog.html"].links
    assert "landcover" in (site / "files/configs/mmnet-uscrn.yaml.html").read_text(encoding="utf-8")


def test_the_api_page_has_the_public_names(site: Path, pages: dict[Path, Page]) -> None:
    assert {f"mmnet_maps.{name}" for name in mmnet_maps.__all__} <= pages[site / "api.html"].ids


def test_the_api_page_names_the_options_and_their_types(site: Path) -> None:
    text = re.sub(r"<[^>]+>|\s+", "", (site / "api.html").read_text(encoding="utf-8"))
    assert "uncertainty:int|None=None" in text
    assert "crs(str|None" in text  # described together with resolution, a number
    assert "Unpack" not in text
