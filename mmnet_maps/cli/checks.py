"""Checks of a command line before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from mmnet_maps.errors import RequestError

if TYPE_CHECKING:
    from datetime import date


def require(package: str, user: str, install: str | None = None) -> None:
    """Make sure that an optional package is installed."""
    if find_spec(package) is None:
        name = f"'{install}'" if install else package
        raise RequestError(f"{user} needs the package {package}, which is not installed: pip install {name}")


def require_tables() -> None:
    """Make sure that tables of samples can be read and written."""
    require("pyarrow", "a table of samples")


def require_options(context: click.Context, *options: str) -> None:
    """Make sure that options are given which only the group itself requires, not its subcommands."""
    for option in options:
        if not context.params[option.removeprefix("--")]:
            raise click.UsageError(f"Missing option '{option}'", context)


def refuse_options_before(context: click.Context) -> None:
    """Refuse options of a group before one of its subcommands, which would not see them."""
    for option in context.command.params:
        if option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            command = context.invoked_subcommand
            raise RequestError(f"{option.opts[0]} comes before {command}; options of {command} must come after it")


def ends(start: str | None, end: str | None) -> tuple[date | None, date | None]:
    """Parse the first and the last day, each if it is given."""
    from mmnet_maps.grid.area import parse_days

    for name, day in (("--start", start), ("--end", end)):
        if day and "/" in day:
            raise RequestError(f"{name} {day} is a range; expected one day, such as 2021-08-08: use --start and --end")
    if start and end:
        days = parse_days(f"{start}/{end}")
        return days[0], days[-1]
    return (parse_days(start)[0] if start else None), (parse_days(end)[0] if end else None)
