"""``mmnet samples``: build a table of station samples, and check one."""

from __future__ import annotations

from typing import Any

import click

from mmnet_maps.cli.checks import period, refuse_options_before, require_options, require_tables
from mmnet_maps.cli.command import INPUT, OutputFile, group
from mmnet_maps.cli.options import DEBUG, DRY_RUN, NOTHING_TO_QUIET, QUIET, SHALLOW, days, picture, setting
from mmnet_maps.errors import InputError, counted
from mmnet_maps.resources import find_model
from mmnet_maps.sources import check_source


@group("samples", invoke_without_command=True, subcommand_metavar="[check TABLE]")
@click.option(
    "--observations",
    type=INPUT,
    multiple=True,
    metavar="PATH",
    help="USCRN daily01 files or a folder of them, or an ISMN archive (zip or folder); may be repeated.  [required]",
)
@setting("source", help="Source of the inputs; either this or --stack.")
@setting("stack", help="Stack that holds the inputs at the stations (see mmnet stack).")
@setting("model", multiple=False, help="Model that defines the inputs and days; either this or --config.")
@click.option("--config", type=INPUT, metavar="YAML", help="Training configuration that defines the inputs and days.")
@days(
    "Days, in place of --start and --end.",
    "First day.  [default: of the observations]",
    "Last day.  [default: of the observations]",
)
@click.option(
    "--positions",
    type=INPUT,
    metavar="CSV",
    help="station, lat, lon: more exact positions than those in the files, which USCRN rounds.",
)
@click.option(
    "--min-hours",
    type=click.IntRange(1, 24),
    default=12,
    show_default=True,
    help="Hours with a usable value that a day of an ISMN archive needs.",
)
@SHALLOW
@setting("smap_resampling", default="bilinear")
@click.option(
    "--out", type=OutputFile(".parquet", marks=("mmnet_maps",)), metavar="PARQUET", help="The table.  [required]"
)
@DRY_RUN
@QUIET
@DEBUG
@click.pass_context
def samples_command(
    context: click.Context,
    /,
    observations: tuple[str, ...],
    dates: tuple[str, ...],
    out: str | None,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Build a table of station samples from observations and inputs at the stations, or check a table.

    \b
    mmnet samples --observations uscrn/ --stack stack.zarr --model mmnet-uscrn --out samples.parquet
    mmnet samples --observations ismn.zip --source earthengine --config train.yaml --out samples.parquet
    mmnet samples --observations ismn.zip --source earthengine --config train.yaml --out samples.parquet --dry-run
    mmnet samples check samples.parquet --picture samples.png
    """  # noqa: D301  (see map_command)
    if context.invoked_subcommand:
        refuse_options_before(context)
        return
    require_options(context, "--observations", "--out")
    require_tables()
    options["start"], options["end"] = period(dates, options["start"], options["end"])
    if options["model"] is not None:
        find_model(options["model"])
    if options["source"] is not None:
        check_source(options["source"])
    from mmnet_maps.training.build_table import estimate_samples, make_samples

    if dry_run:
        click.echo(estimate_samples(observations, out or "", quiet=quiet, **options))
        return
    made = make_samples(observations, out or "", quiet=quiet, **options)
    stations = counted(len(set(made["station"].to_pylist())), "station")
    click.echo(f"{out}: {counted(made.num_rows, 'row')}, {stations}; check it with: mmnet samples check {out}")


@samples_command.command("check")
@click.argument("table", type=INPUT, metavar="TABLE")
@picture("Draw a map of the stations and the days of each.")
@NOTHING_TO_QUIET
@DEBUG
def samples_check_command(table: str, picture: str | None) -> int:
    """Check a table of samples: its contents, and any duplicates, gaps, units, ranges and missing inputs to correct.

    Ends with exit code 3 if something must be corrected before training.

    \b
    mmnet samples check samples.parquet --picture samples.png
    """  # noqa: D301  (see map_command)
    require_tables()
    from mmnet_maps.plots.canvas import check_picture
    from mmnet_maps.training.table import read_samples
    from mmnet_maps.training.table_check import check_samples, format_check
    from mmnet_maps.training.table_plot import draw_samples

    check_picture(picture)
    found = check_samples(read_samples(table, target=False))
    click.echo(format_check(found))
    if picture:
        draw_samples(found, picture)
        click.echo(picture)
    return InputError.exit_code if found.problems else 0
