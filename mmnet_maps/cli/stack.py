"""``mmnet stack``: fill a stack, list its contents, check it for a model."""

from __future__ import annotations

from typing import Any

import click

from mmnet_maps.cli.checks import refuse_options_before, require_options
from mmnet_maps.cli.command import INPUT, OutputFolder, group
from mmnet_maps.cli.options import AREA, AREA_HELP, DATES, DEBUG, MODEL, QUIET, STORE, json_option, picture, setting
from mmnet_maps.errors import InputError, RequestError


@group("stack", invoke_without_command=True, subcommand_metavar="[info|check STORE …]")
@click.option("--aoi", type=INPUT, metavar=AREA, help=f"{AREA_HELP} Either this or --tiles.")
@click.option(
    "--tiles", metavar="conus|ID,ID…", help="Tiles of the default grid, such as h06v03,h06v04; conus for all."
)
@click.option("--start", metavar="DAY", help="First day to be mapped.  [required]")
@click.option("--end", metavar="DAY", help="Last day to be mapped.  [default: --start]")
@setting("source", help="Source of the inputs.  [required]")
@setting(
    "out", type=OutputFolder(whole=True), metavar="STORE", help="The stack; an existing one is extended.  [required]"
)
@MODEL
@setting("resolution")
@setting("crs")
@click.option("--dry-run", is_flag=True, help="Estimate what would be fetched, and fetch nothing.")
@QUIET
@DEBUG
@click.pass_context
def stack_command(
    context: click.Context,
    /,
    aoi: str | None,
    tiles: str | None,
    start: str | None,
    end: str | None,
    out: str | None,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Fetch the inputs for maps of an area and some days into a stack, or inspect a stack.

    Days needed before and after, for time series and interpolation, are fetched too. After an interruption the same
    command continues.

    \b
    mmnet stack --aoi fields.gpkg --start 2021-07-29 --end 2021-08-08 --source sources.yaml --out stack.zarr
    mmnet stack info stack.zarr
    mmnet stack check stack.zarr --date 2021-08-08
    """  # noqa: D301  (see map_command)
    if context.invoked_subcommand:
        refuse_options_before(context)
        return
    require_options(context, "--start", "--source", "--out")
    if (aoi is None) == (tiles is None):
        raise RequestError("give either --aoi or --tiles, the area or the tiles of the default grid to fill")
    from mmnet_maps.mapping.fill import fill_stack

    ids = tuple(tile.strip() for tile in tiles.split(",")) if tiles is not None else None
    days = f"{start}/{end or start}"
    done = fill_stack(aoi, days, stack=out, tiles=ids, dry_run=dry_run, quiet=quiet, **options)
    click.echo(done if dry_run else out)


@stack_command.command("info")
@STORE
@click.option("--start", metavar="DAY", help="First day of the table.  [default: the last 31 days with maps]")
@click.option("--end", metavar="DAY", help="Last day of the table.  [default: --start]")
@click.option(
    "--aoi", type=INPUT, metavar=AREA, help="Area of the table and the picture.  [default: all that was ever fetched]"
)
@json_option("stack", "groups", "availability")
@picture("Draw the table and the layers of its last day with all inputs.", option="--png", metavar="FILE")
@DEBUG
def stack_info_command(
    store: str, start: str | None, end: str | None, aoi: str | None, json_path: str | None, png: str | None
) -> None:
    """List the contents of a stack: groups, days, provenance, sizes, and the variables available on each day.

    \b
    mmnet stack info stack.zarr --start 2021-07-29 --end 2021-08-08 --png stack.png
    """  # noqa: D301  (see map_command)
    from pathlib import Path

    from mmnet_maps.grid.area import parse_days, read_aoi
    from mmnet_maps.plots.canvas import check_picture
    from mmnet_maps.stack.inventory import take_inventory
    from mmnet_maps.stack.inventory_plot import draw_inventory
    from mmnet_maps.stack.inventory_text import format_inventory, write_inventory
    from mmnet_maps.stack.store import Stack

    if end and not start:
        raise RequestError("--end is given without --start; give both, or neither for the last 31 days")
    check_picture(png)
    days = parse_days(f"{start}/{end or start}") if start else None
    found = take_inventory(Stack(store), days, read_aoi(aoi) if aoi else None)
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
@DATES
@click.option(
    "--aoi", type=INPUT, metavar=AREA, help="Area to be mapped.  [default: all that the stack has blocks for]"
)
@DEBUG
def stack_check_command(store: str, model: str, dates: tuple[str, ...], aoi: str | None) -> int:
    """Check that a stack has everything a model needs, and suggest the next command.

    Ends with exit code 0 if all days can be mapped and 3 if something is missing.

    \b
    mmnet stack check stack.zarr --model mmnet-uscrn --date 2021-07-29/2021-08-08
    """  # noqa: D301  (see map_command)
    from mmnet_maps.mapping.check import check_stack

    text, able = check_stack(store, model, list(dates), aoi)
    click.echo(text)
    return 0 if able else InputError.exit_code
