"""Commands whose lines are checked before anything is imported: inputs, outputs, and options given twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmnet_maps.errors import OutputError, RequestError
from mmnet_maps.resources import packaged

if TYPE_CHECKING:
    PathType = click.ParamType[str]
else:  # not generic at run time before click 8.2
    PathType = click.ParamType

_CLOSED = ("zarr.json", ".zgroup", ".zattrs", "model.json")
"""Files that make a folder a Zarr store or a checkpoint, in which nobody else writes."""


class Input(PathType):
    """A file, folder or store that a command reads; also a name or bounds in place of one."""

    name = "input"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text; an empty one is refused, because Python takes it for the current folder."""
        if not str(value).strip():
            self.fail(f"it is empty; expected {param.metavar if param else 'a path'}", param, ctx)
        return str(value)


class OutputFile(PathType):
    """A file that a command writes.

    Attributes
    ----------
    endings
        Allowed endings of the name, each with its dot.
    marks
        Texts that every such file of ours holds, such as names of columns or keys; an existing file without them is
        not ours. None where the writer decides itself.
    """

    name = "output file"

    def __init__(self, *endings: str, marks: tuple[str, ...] | None = None) -> None:
        self.endings = endings
        self.marks = marks

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text; a folder and a name with another ending are refused."""
        *others, last = self.endings
        endings = f"{', '.join(others)} or {last}" if others else last
        kind = "a picture" if self.endings == (".png",) else "a file"
        if os.path.isdir(value) or not str(value).lower().endswith(self.endings):
            wrong = "is a folder" if os.path.isdir(value) else f"is not the name of {kind}"
            where = f"{param.opts[0]}: " if param else ""
            raise RequestError(f"{where}{str(value) or 'an empty name'} {wrong}; expected one that ends in {endings}")
        return str(value)

    def refuse_foreign(self, path: Path) -> None:
        """Refuse to replace a file that no such command has made, or a picture that belongs to a map."""
        if self.marks is None or not os.path.lexists(path):
            return
        from mmnet_maps.files import holds, is_ours, refuse_foreign

        refuse_foreign(path, lambda file: holds(file, *self.marks or ()))
        item = path.with_suffix(".json")
        if path.suffix == ".png" and item.exists() and is_ours(item):
            raise OutputError(f"{path} is the picture of the map {item.name}; give another name")


class OutputFolder(PathType):
    """A folder or store that a command makes or adds to.

    Attributes
    ----------
    whole
        Whether the folder belongs to the command as a whole, as a checkpoint or a store does; no input may lie in it.
    """

    name = "output folder"

    def __init__(self, *, whole: bool = False) -> None:
        self.whole = whole

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text; an empty one is refused, because Python takes it for the current folder."""
        if not str(value).strip():
            self.fail(f"it is empty; expected {param.metavar if param else 'a folder'}", param, ctx)
        return str(value)


HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Settings of commands that are typed themselves."""


class RequiredDays(click.Option):
    """The option ``--date`` of a command that needs days, in this spelling or as ``--start``."""


INPUT = Input()
PICTURE = OutputFile(".png", marks=("mmnet_maps",))


class Command(click.Command):
    """A command that checks its line as a whole before it runs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the line; refuse options given twice, and outputs that would replace an input or a foreign file."""
        refuse_repeats(self, ctx, args)
        rest = super().parse_args(ctx, args)
        days = any(isinstance(param, RequiredDays) for param in self.params)
        if days and not (ctx.params["dates"] or ctx.params["start"]):
            raise click.UsageError("no day is given; give --date, or --start and --end", ctx)
        refuse_outputs(self, ctx)
        return rest


class Group(Command, click.Group):
    """A group of such commands."""

    command_class = Command


def command(name: str, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function."""
    return click.command(name, cls=Command, **settings)


def group(name: str, **settings: Any) -> Callable[[Callable[..., Any]], Group]:
    """Make a group of commands of a function."""
    return click.group(name, cls=Group, **settings)


def refuse_repeats(command: click.Command, ctx: click.Context, args: list[str]) -> None:
    """Refuse an option that takes one value but was given twice, of which click would use the last.

    Raises
    ------
    click.UsageError
        When there is one.
    """
    _, _, order = command.make_parser(ctx).parse_args(args=list(args))
    for param, times in Counter(order).items():
        if times == 1 or not isinstance(param, click.Option) or param.multiple or param.count:
            continue
        if not param.is_flag or param.secondary_opts:  # -q -q is harmless
            raise click.UsageError(f"{'/'.join(param.opts)} is given {times} times; give it once", ctx)


def refuse_outputs(command: click.Command, ctx: click.Context) -> None:
    """Refuse outputs that would replace or damage an input of the same command or a foreign file.

    Raises
    ------
    RequestError
        When an output is an input, lies in a store or checkpoint that is one, or holds one.
    OutputError
        When a file exists that this software did not make.
    """
    inputs = list(_given(command, ctx, (Input,)))
    if any(param.name == "stack" for param in command.params) and os.environ.get("MMNET_STACK"):
        inputs.append(("MMNET_STACK", INPUT, os.environ["MMNET_STACK"]))
    for option, kind, value in _given(command, ctx, (OutputFile, OutputFolder)):
        for name, _, read in inputs:
            refuse_clash(option, kind, value, name, read)
        if isinstance(kind, OutputFile):
            kind.refuse_foreign(Path(value))


def _given(
    command: click.Command, ctx: click.Context, kinds: tuple[type[PathType], ...]
) -> Iterator[tuple[str, PathType, str]]:
    """Yield the option, the type and each value of the parameters of some types."""
    for param in command.params:
        values = ctx.params.get(param.name or "")
        if isinstance(param.type, kinds) and values:
            option = param.metavar if isinstance(param, click.Argument) else param.opts[0]
            for value in values if isinstance(values, tuple) else (values,):
                yield str(option), param.type, value


def refuse_clash(option: str, kind: PathType, value: str, name: str, read: str) -> None:
    """Refuse an output that is an input, lies in a closed one, or is a folder replaced as a whole that holds one.

    Raises
    ------
    RequestError
        When it is one of these.
    """
    found, target = _existing(read), Path(os.path.realpath(value))
    if found is None:
        return
    if target == found or (os.path.exists(target) and os.path.samefile(target, found)):
        raise RequestError(f"{option} {value} is the input of {name}; give another {option}")
    if found in target.parents and any(os.path.exists(found / mark) for mark in _CLOSED):
        raise RequestError(f"{option} {value} lies in {read}, the input of {name}; give another {option}")
    if isinstance(kind, OutputFolder) and kind.whole and target in found.parents:
        raise RequestError(f"{option} {value} holds {read}, the input of {name}; give another {option}")


def _existing(read: str) -> Path | None:
    """Return the real path of an input, also of a packaged one; None where it is no path."""
    places = [os.path.expanduser(read), *(str(packaged(kind) / read) for kind in ("models", "examples"))]
    return next((Path(os.path.realpath(path)) for path in places if os.path.exists(path)), None)
