"""What the site shows of the repository beyond docs/: pages and files are read where they lie, links to them follow."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from os.path import normpath, relpath
from pathlib import Path, PurePosixPath
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SHOWN = ("configs/*.yaml", "examples/*.yaml", "examples/*.py", "benchmarks/*.py")
_LINK = re.compile(r"(?<=\]\()([^()\s#:]+)(?=[#)])")  # the path of a Markdown link, without an address or anchor


def outside() -> dict[str, Path]:
    """Files outside docs/ by the page that shows them."""
    pages = {"changelog.md": ROOT / "CHANGELOG.md"}
    pages |= {f"models/{card.parent.name}.md": card for card in sorted(ROOT.glob("models/*/README.md"))}
    pages |= {f"files/{path.relative_to(ROOT)}.md": path for pattern in SHOWN for path in sorted(ROOT.glob(pattern))}
    return pages


def on_config(config: MkDocsConfig) -> None:
    """Put pages in the place of the patterns of the navigation."""
    inside = (path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md"))
    names = sorted([*outside(), *inside], key=lambda name: name.removesuffix(".md"))

    def expand(entry: Any) -> Any:
        if isinstance(entry, list):
            return [expand(item) for item in entry]
        if isinstance(entry, dict):
            return {title: expand(item) for title, item in entry.items()}
        return [name for name in names if fnmatch(name, entry)] if "*" in entry else entry

    config.nav = expand(config.nav)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the files outside docs/."""
    for name, path in outside().items():
        files.append(File.generated(config, name, abs_src_path=str(path)))


def on_page_read_source(page: Page, config: MkDocsConfig) -> str | None:
    """Show what is not Markdown as a block of code."""
    path = Path(str(page.file.abs_src_path))
    if path.suffix == ".md":
        return None
    return f"# {path.relative_to(ROOT)}\n\n````{path.suffix[1:]}\n{path.read_text(encoding='utf-8')}````\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that hold in the repository into links that hold on the site; leave others for MkDocs to judge."""
    pages = {relpath(str(file.abs_src_path), ROOT): file.src_uri for file in files if file.abs_src_path}
    here = PurePosixPath(relpath(str(page.file.abs_src_path), ROOT)).parent
    start = str(PurePosixPath(page.file.src_uri).parent)

    def follow(link: re.Match[str]) -> str:
        target = pages.get(normpath(here / link[1]))
        return link[1] if target is None else relpath(target, start)

    return _LINK.sub(follow, markdown)


class Keywords(griffe.Extension):
    """Signatures name the keywords that ``**options: Unpack[SomeTypedDict]`` stands for, so that their types are shown.

    griffe's own extension for this takes their descriptions from the dictionary; here they are in the docstrings.
    """

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Put the keywords in the place of the parameter."""
        text = func.docstring.value if func.docstring else ""
        for parameter in [one for one in func.parameters if f"**{one.name}\n" not in text]:  # described as a whole
            match parameter.annotation:
                case griffe.ExprSubscript(canonical_path="typing.Unpack", slice=griffe.Expr() as options):
                    del func.parameters[parameter.name]
                    for name, field in func.modules_collection[options.canonical_path].attributes.items():
                        func.parameters.add(
                            griffe.Parameter(
                                name,
                                annotation=field.annotation,
                                kind=griffe.ParameterKind.keyword_only,
                                default="None",  # left out and None are the same
                            )
                        )
                    self._type(func)

    def _type(self, func: griffe.Function) -> None:
        """Give each parameter its own type: griffe gives all names that share a description that of the first."""
        for section in func.docstring.parsed if func.docstring else ():
            if isinstance(section, griffe.DocstringSectionParameters):
                for described in section.value:
                    if described.name in func.parameters:
                        described.annotation = func.parameters[described.name].annotation
