"""``mmnet climatology``: what is usual at each pixel and time of the year."""

from __future__ import annotations

import click

from mmnet_maps.cli.checks import ends, period
from mmnet_maps.cli.command import INPUT, OutputFolder, command
from mmnet_maps.cli.options import DEBUG, QUIET, days
from mmnet_maps.errors import counted


@command("climatology")
@click.argument("paths", type=INPUT, nargs=-1, required=True, metavar="MAPS…")
@click.option(
    "--out",
    type=OutputFolder(whole=True),
    required=True,
    metavar="STORE",
    help="Climatology to make or to add maps to, such as clim.zarr.",
)
@days("Days, in place of --start and --end.", "First day.  [default: all]", "Last day.  [default: all]")
@click.option(
    "--window",
    type=click.IntRange(0, 91),
    metavar="DAYS",
    help="A day is compared with the days up to so many before and after it in other years.  [default: 15]",
)
@click.option(
    "--min-years",
    "minimum_years",
    type=click.IntRange(1, 100),
    metavar="N",
    help="Years needed for a percentile; fewer than 5 are flagged.  [default: 5]",
)
@QUIET
@DEBUG
def climatology_command(
    paths: tuple[str, ...],
    out: str,
    dates: tuple[str, ...],
    start: str | None,
    end: str | None,
    window: int | None,
    minimum_years: int | None,
    quiet: bool,
) -> None:
    """Collect finished maps of several years, by year and day of the year, for anomalies and percentiles.

    MAPS are output folders of mmnet-map or mmnet batch, or Zarr stores, all of one model. Maps that are in the store
    already are kept: the same command continues an interrupted run, and adds further years later.

    \b
    mmnet climatology /data/2016 /data/2017 /data/2018 /data/2019 /data/2020 --out clim.zarr
    mmnet-map --aoi fields.gpkg --date 2021-08-08 --stack stack.zarr --climatology clim.zarr
    """  # noqa: D301  (see map_command)
    from mmnet_maps.product.climatology_build import add_maps
    from mmnet_maps.product.reader import open_maps

    first, last = ends(*period(dates, start, end))
    maps = open_maps(paths, start=first, end=last)
    added = add_maps(maps, out, window=window, minimum_years=minimum_years, quiet=quiet)
    store = added.climatology
    wrote = counted(added.written, "tile and day", "tiles and days")
    click.echo(f"{out}: {wrote} written, {added.kept:,} kept")
    shown = f"{store.years[0]} to {store.years[-1]}, {counted(len(store.marks), 'day')}"
    click.echo(f"{counted(len(store.years), 'year')} with maps, {shown}; {store.window} days before and after each day")
    for text in store.advice():
        click.echo(text, err=True)
