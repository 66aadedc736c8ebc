"""``mmnet batch``: many tiles on many days, and how far a batch has come."""

from __future__ import annotations

from typing import Any

import click

from mmnet_maps.cli.checks import check_request, refuse_options_before, requested_days, require
from mmnet_maps.cli.command import INPUT, group
from mmnet_maps.cli.options import (
    AREA,
    AREA_HELP,
    CONFIG,
    DEBUG,
    NOTHING_TO_QUIET,
    QUIET,
    WORKERS,
    Number,
    days,
    json_option,
    setting,
)
from mmnet_maps.errors import RequestError, TilesFailedError


@group("batch", invoke_without_command=True, subcommand_metavar="[status ROOT]")
@click.option(
    "--tiles", metavar="conus|ID,ID…", help="Tiles of the default grid, such as h06v03,h06v04; conus for all."
)
@click.option("--aoi", type=INPUT, metavar=AREA, help=f"{AREA_HELP} Its tiles, clipped to it.")
@days("Day or range, or latest for the newest day with all inputs; may be repeated.", metavar="DAY|DAY/DAY|latest")
@setting(
    "stack", help="Stack that holds the inputs (see mmnet stack).  [required, here or as MMNET_STACK or in mmnet.yaml]"
)
@setting("model")
@setting("out", metavar="ROOT")
@click.option("--name", metavar="NAME", help="Name of the report and the Zarr store.  [default: after area or tiles]")
@click.option("--zarr/--no-zarr", "store", default=True, help="Write a Zarr store beside the COGs.  [default: zarr]")
@setting("uncertainty")
@setting("smap_resampling")
@setting("climatology")
@click.option("--dry-run", is_flag=True, help="Estimate the work from one measured tile, and make nothing.")
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler.  [default: workers on this machine]")
@click.option("--workers", type=WORKERS, help="Workers on this machine.  [default: one per core]")
@click.option("--memory-limit", metavar="SIZE", help="Memory of each worker, such as 3GB.  [default: an equal share]")
@click.option(
    "--retries",
    type=click.IntRange(0, 100),
    default=2,
    show_default=True,
    help="Retries of a tile after a transient error.",
)
@click.option(
    "--time-limit",
    type=Number(0, min_open=True),
    metavar="SECONDS",
    help="Limit for one tile.  [default: none]",
)
@setting("device")
@setting("precision")
@setting("threads")
@CONFIG
@QUIET
@DEBUG
@click.pass_context
def batch_command(
    context: click.Context,
    /,
    tiles: str | None,
    aoi: str | None,
    dates: tuple[str, ...],
    start: str | None,
    end: str | None,
    name: str | None,
    store: bool,
    dry_run: bool,
    scheduler: str | None,
    workers: int | None,
    memory_limit: str | None,
    retries: int,
    time_limit: float | None,
    quiet: bool,
    **options: Any,
) -> int:
    """Make maps of many tiles on many days, on this machine or a Dask cluster.

    Finished maps are kept, missing ones made, and those rebuilt whose inputs arrived late or changed; so the same
    command continues an interrupted run. Ends with exit code 4 if some tiles failed.

    \b
    mmnet batch --tiles h06v03,h07v03 --start 2021-08-01 --end 2021-08-10 --stack stack.zarr --out maps
    mmnet batch --tiles conus --date latest --stack conus.zarr --out /data/daily
    mmnet batch status maps
    """  # noqa: D301  (see map_command)
    if context.invoked_subcommand:
        refuse_options_before(context)
        return 0
    given = requested_days(dates, start, end)
    if (aoi is None) == (tiles is None):
        raise RequestError("give either --aoi or --tiles, the area or the tiles of the default grid to map")
    check_request(options, aoi=aoi, dates=given)
    _require_dask(start=not (dry_run or scheduler))
    from mmnet_maps.mapping.batch.estimate import dry_run as plan_text
    from mmnet_maps.mapping.batch.plan import plan_batch
    from mmnet_maps.mapping.batch.report import format_report, report_path
    from mmnet_maps.mapping.batch.run import run_batch

    batch = plan_batch(aoi, given, tiles=tiles, name=name, store=store, **options)
    if dry_run:
        click.echo(plan_text(batch, workers=workers))
        return 0
    report = run_batch(
        batch,
        scheduler=scheduler,
        workers=workers,
        memory_limit=memory_limit,
        retries=retries,
        time_limit=time_limit,
        quiet=quiet,
    )
    click.echo(f"{format_report(report)}\n{report_path(report)}")
    return TilesFailedError.exit_code if report.failed else 0


def _require_dask(*, start: bool) -> None:
    """Make sure that Dask is installed; workers may begin to import while this process imports and plans."""
    require("distributed", "mmnet batch", ".[batch]")
    require("stac_geoparquet", "mmnet batch", ".[batch]")
    from mmnet_maps.mapping.batch.forks import start_preloading

    if start:
        start_preloading()


@batch_command.command("status")
@click.argument("root", type=INPUT, metavar="ROOT")
@json_option("done", "failed", "missing")
@NOTHING_TO_QUIET
@DEBUG
def batch_status_command(root: str, json_path: str | None) -> int:
    """List which tiles are done, failed and missing on each day; ends with exit code 4 unless all are done."""
    import json
    from pathlib import Path

    from mmnet_maps.files import write_whole
    from mmnet_maps.mapping.batch.report import format_status, read_status

    found = read_status(root)
    click.echo(format_status(found))
    if json_path:
        write_whole(Path(json_path), json.dumps(found.as_dict(), indent=1) + "\n")
        click.echo(json_path)
    return 0 if found.complete else TilesFailedError.exit_code
