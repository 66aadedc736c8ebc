"""Checks of a command line before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from mmnet_maps.cli.command import OutputFolder, refuse_clash
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


def check_request(
    options: dict[str, Any], *, aoi: str | None = None, dates: Sequence[str] | None = None, stack: bool = True
) -> None:
    """Check what can be checked of a request for maps before torch and the libraries for rasters are imported.

    Parameters
    ----------
    options
        Options of the command, of which the settings of maps are checked.
    aoi, dates
        Area and days, where the command has them; ``latest`` is no day to check.
    stack
        Whether inputs are read from a stack, if there is one.

    Raises
    ------
    RequestError, InputError
        When something is wrong, as the command itself would find later.
    """
    from mmnet_maps.grid.area import parse_days, read_aoi
    from mmnet_maps.resources import find_model
    from mmnet_maps.settings import MapOptions, require_stack, settle
    from mmnet_maps.sources import check_source

    settings = settle(cast(MapOptions, {key: options[key] for key in MapOptions.__annotations__ if key in options}))
    if "out" in options:  # an output or a stack may come from the settings file
        for read in filter(None, (settings.stack, settings.source, *settings.model)):
            refuse_clash("--out", OutputFolder(), settings.out, "the settings", read)
    if given := [day for day in dates or () if day != "latest"]:
        parse_days(given)
    for model in settings.model:
        find_model(model)
    if settings.source is not None:
        check_source(settings.source)
    if stack:
        require_stack(settings)
    if aoi is not None:
        read_aoi(aoi)


def requested_days(dates: Sequence[str], start: str | None, end: str | None, *, required: bool = True) -> list[str]:
    """Return days and ranges in the one spelling that is read further on, from ``--date`` or ``--start`` and ``--end``.

    Raises
    ------
    click.UsageError
        When there are none though they are required, or a last day without a first one.
    RequestError
        When both spellings are given, or the first or the last day is a range.
    """
    _refuse_ranges(start, end)
    _refuse_both(dates, start, end)
    if end and not start:
        raise click.UsageError("--end is given without --start; give both, or --date A/B")
    found = [*dates, *([f"{start}/{end}" if end else start] if start else [])]
    if required and not found:
        raise click.UsageError("no day is given; give --date, or --start and --end")
    return found


def period(dates: Sequence[str], start: str | None, end: str | None) -> tuple[str | None, str | None]:
    """Return first and last day, of which either may be open, from ``--date`` or ``--start`` and ``--end``.

    Raises
    ------
    RequestError
        When both spellings are given, a day is malformed, or the days are not one period.
    """
    from mmnet_maps.grid.area import parse_days

    _refuse_ranges(start, end)
    if not dates:
        return start, end
    _refuse_both(dates, start, end)
    days = parse_days(list(dates))
    if (days[-1] - days[0]).days + 1 != len(days):
        raise RequestError(f"the days of --date are no period ({days[0]} to {days[-1]} with gaps); give one range, A/B")
    return str(days[0]), str(days[-1])


def _refuse_both(dates: Sequence[str], start: str | None, end: str | None) -> None:
    if dates and (start or end):
        raise RequestError("days are given twice; give either --date, or --start and --end")


def _refuse_ranges(start: str | None, end: str | None) -> None:
    for name, day in (("--start", start), ("--end", end)):
        if day and "/" in day:
            raise RequestError(f"{name} {day} is a range; expected one day, such as 2021-08-08: use --date {day}")


def ends(start: str | None, end: str | None) -> tuple[date | None, date | None]:
    """Parse the first and the last day, each if it is given."""
    from mmnet_maps.grid.area import parse_days

    if start and end:
        days = parse_days(f"{start}/{end}")
        return days[0], days[-1]
    return (parse_days(start)[0] if start else None), (parse_days(end)[0] if end else None)
