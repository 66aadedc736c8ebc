"""``mmnet stack``: fill a stack, list its contents, check it for a model."""

from __future__ import annotations

from typing import Any

import click

from mmnet_maps.cli.checks import check_request, period, refuse_options_before, requested_days, require_options
from mmnet_maps.cli.command import INPUT, OutputFolder, RequiredDays, group
from mmnet_maps.cli.options import (
    AREA,
    AREA_HELP,
    DEBUG,
    MODEL,
    NOTHING_TO_QUIET,
    QUIET,
    STORE,
    days,
    json_option,
    picture,
    setting,
)
from mmnet_maps.errors import InputError, RequestError


@group("stack", invoke_without_command=True, subcommand_metavar="[info|check STORE …]")
@click.option("--aoi", type=INPUT, metavar=AREA, help=f"{AREA_HELP} Either this or --tiles.")
@click.option(
    "--tiles", metavar="conus|ID,ID…", help="Tiles of the default grid, such as h06v03,h06v04; conus for all."
)
@days("Day or range to be mapped; may be repeated.  [required]")
@setting("source", help="Source of the inputs.  [required]")
@setting(
    "out", type=OutputFolder(whole=True), metavar="STORE", help="The stack; an existing one is extended.  [required]"
)
@MODEL
@setting("resolution")
@setting("crs")
@click.option("--dry-run", is_flag=True, help="Estimate what would be fetched, and fetch nothing.")
@click.option("--refresh", is_flag=True, help="Fetch all days again that are not final, and ask about final ones too.")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Compare stored data with their checksums and fetch damaged ones again; takes as long as reading them.",
)
@QUIET
@DEBUG
@click.pass_context
def stack_command(
    context: click.Context,
    /,
    aoi: str | None,
    tiles: str | None,
    dates: tuple[str, ...],
    start: str | None,
    end: str | None,
    out: str | None,
    dry_run: bool,
    refresh: bool,
    verify: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Fetch the inputs for maps of an area and some days into a stack, or inspect a stack.

    Days needed before and after, for time series and interpolation, are fetched too. After an interruption the same
    command continues. Run again later, it also fetches days whose inputs arrived late or were revised.

    \b
    mmnet stack --aoi fields.gpkg --start 2021-07-29 --end 2021-08-08 --source sources.yaml --out stack.zarr
    mmnet stack info stack.zarr
    mmnet stack check stack.zarr --date 2021-08-08
    """  # noqa: D301  (see map_command)
    if context.invoked_subcommand:
        refuse_options_before(context)
        return
    wanted = requested_days(dates, start, end)
    require_options(context, "--source", "--out")
    if (aoi is None) == (tiles is None):
        raise RequestError("give either --aoi or --tiles, the area or the tiles of the default grid to fill")
    check_request(options, aoi=aoi, dates=wanted, stack=False)
    from mmnet_maps.mapping.fill import fill_stack

    ids = tuple(tile.strip() for tile in tiles.split(",")) if tiles is not None else None
    options |= {"stack": out, "tiles": ids, "dry_run": dry_run, "refresh": refresh, "verify": verify, "quiet": quiet}
    done = fill_stack(aoi, wanted, **options)
    click.echo(done if dry_run else out)


@stack_command.command("info")
@STORE
@days(
    "Days of the table, in place of --start and --end.",
    "First day of the table.  [default: the last 31 days with maps]",
    "Last day of the table.  [default: --start]",
)
@click.option(
    "--aoi", type=INPUT, metavar=AREA, help="Area of the table and the picture.  [default: all that was ever fetched]"
)
@json_option("stack", "groups", "availability")
@picture("Draw the table and the layers of its last day with all inputs.", option="--png", metavar="FILE")
@NOTHING_TO_QUIET
@DEBUG
def stack_info_command(
    store: str,
    dates: tuple[str, ...],
    start: str | None,
    end: str | None,
    aoi: str | None,
    json_path: str | None,
    png: str | None,
) -> None:
    """List the contents of a stack: groups, days, provenance, sizes, and the variables available on each day.

    \b
    mmnet stack info stack.zarr --start 2021-07-29 --end 2021-08-08 --png stack.png
    """  # noqa: D301  (see map_command)
    from pathlib import Path

    from mmnet_maps.grid.area import parse_days, read_aoi

    first, last = period(dates, start, end)
    wanted = requested_days((), first, last, required=False)
    from mmnet_maps.plots.canvas import check_picture
    from mmnet_maps.stack.inventory import take_inventory
    from mmnet_maps.stack.inventory_plot import draw_inventory
    from mmnet_maps.stack.inventory_text import format_inventory, write_inventory
    from mmnet_maps.stack.store import Stack

    check_picture(png)
    found = take_inventory(Stack(store), parse_days(wanted) if wanted else None, read_aoi(aoi) if aoi else None)
    click.echo(format_inventory(found))
    if json_path:
        write_inventory(found, Path(json_path))
        click.echo(json_path)
    if png:
        draw_inventory(found, Path(png))
        click.echo(png)


@stack_command.command("check")
@STORE
@setting("model", multiple=False, default="mmnet-uscrn", help="The model to be run.  [default: mmnet-uscrn]")
@days(kind=RequiredDays)
@click.option(
    "--aoi", type=INPUT, metavar=AREA, help="Area to be mapped.  [default: all that the stack has blocks for]"
)
@NOTHING_TO_QUIET
@DEBUG
def stack_check_command(
    store: str, model: str, dates: tuple[str, ...], start: str | None, end: str | None, aoi: str | None
) -> int:
    """Check that a stack has everything a model needs, and suggest the next command.

    Ends with exit code 0 if all days can be mapped and 3 if something is missing.

    \b
    mmnet stack check stack.zarr --model mmnet-uscrn --date 2021-07-29/2021-08-08
    """  # noqa: D301  (see map_command)
    wanted = requested_days(dates, start, end)
    check_request({"stack": store, "model": model}, aoi=aoi, dates=wanted)
    from mmnet_maps.mapping.check import check_stack

    text, able = check_stack(store, model, wanted, aoi)
    click.echo(text)
    return 0 if able else InputError.exit_code
