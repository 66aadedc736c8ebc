"""``mmnet map``, which is also ``mmnet-map``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

from mmnet_maps import __version__
from mmnet_maps.cli.checks import check_request, requested_days
from mmnet_maps.cli.command import HELP, RequiredDays, command
from mmnet_maps.cli.options import AOI, CONFIG, DEBUG, QUIET, days, setting


@command("map", context_settings=HELP)
@AOI
@days(kind=RequiredDays)
@setting("stack")
@setting("source")
@setting("model")
@setting("out")
@setting("resolution")
@setting("crs")
@setting("smap_resampling")
@setting("uncertainty")
@setting("members")
@setting("device")
@setting("precision")
@setting("climatology")
@setting("threads")
@CONFIG
@click.version_option(__version__, prog_name="mmnet_maps")
@QUIET
@DEBUG
def map_command(
    aoi: str, dates: tuple[str, ...], start: str | None, end: str | None, quiet: bool, **options: Any
) -> None:
    """Make soil moisture maps of an area.

    \b
    mmnet-map --aoi grant_county.geojson --date 2021-08-08
    mmnet-map --aoi fields.gpkg --date 2021-07-29/2021-08-08 --stack stack.zarr --out maps
    """  # noqa: D301  (click needs the backslash, so that the examples keep their lines)
    from mmnet_maps.mapping.apart import other_process

    with ExitStack() as started:
        # That of `mmnet-map` was started before anything was imported.
        other = click.get_current_context().obj or started.enter_context(other_process())
        wanted = requested_days(dates, start, end)
        check_request(options, aoi=aoi, dates=wanted)
        from mmnet_maps.grid.library import import_without_dask

        import_without_dask()
        from mmnet_maps.mapping.pipeline import make_maps

        made = make_maps(aoi, wanted, quiet=quiet, other=other, **options)
    for product in made.products:
        click.echo(f"{product.day}  {product.layers['soil_moisture']}")
        click.echo(f"            {product.picture}")
    if made.overview:
        click.echo(f"together    {made.overview}")
