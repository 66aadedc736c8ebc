"""The commands: thin, with imports where they are used, so that ``--help`` answers at once."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mmnet_maps import __version__
from mmnet_maps.errors import InputError, MMNetError, RequestError, TilesFailedError

if TYPE_CHECKING:
    from datetime import date

INTERRUPTED = 130

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_AREA = "FILE|W,S,E,N"
_AREA_HELP = "Polygons: GeoJSON, GeoPackage, Shapefile, or bounds in degrees."
_AOI = click.option("--aoi", required=True, metavar=_AREA, help=_AREA_HELP)
_STORE = click.argument("store", metavar="STORE")
_MODEL = click.option("--model", metavar="FOLDER|NAME", help="Checkpoint folder, or the name of a packaged one.")
_MODELS = click.option(
    "--model",
    multiple=True,
    metavar="FOLDER|NAME",
    help="Checkpoint folder, or the name of a packaged one; repeated for an ensemble.",
)
_NAMED_MODEL = click.option(
    "--model", required=True, metavar="FOLDER|NAME", help="Checkpoint folder, or the name of a packaged one."
)
_QUIET = click.option("--quiet", "-q", is_flag=True, help="No progress bars.")
_DEBUG = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
_SAMPLES = click.option("--samples", required=True, metavar="PARQUET", help="Table of station samples.")
_DEVICE = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where the network runs.")
_PRECISION = click.option(
    "--precision", type=click.Choice(["float32", "bfloat16"]), help="Of products of matrices.  [default: float32]"
)
_THREADS = click.option("--threads", type=click.IntRange(1), help="Processor cores for the network.  [default: all]")


_DRAWS = click.option(
    "--uncertainty", type=int, default=0, metavar="N", help="Members of Monte Carlo dropout.  [default: 0]"
)


@click.group(context_settings=_HELP)
@click.version_option(__version__, prog_name="mmnet_maps")
def mmnet() -> None:
    """Surface soil moisture at 100 m with MMNet: maps, inputs and models."""


@mmnet.command("map")
@_AOI
@click.option(
    "--date", "dates", required=True, multiple=True, metavar="DAY|DAY/DAY", help="Day or range; may be repeated."
)
@click.option("--stack", metavar="STORE", help="Stack that holds the inputs (see mmnet stack).")
@click.option("--source", metavar="earthengine|YAML|demo", help="Where inputs come from, kept in a cache.")
@_MODELS
@click.option("--out", metavar="FOLDER", help="Output folder.  [default: maps]")
@click.option("--resolution", type=float, metavar="SIZE", help="Pixel size in units of the CRS.  [default: 100]")
@click.option("--crs", metavar="CRS", help="Coordinate reference system.  [default: EPSG:5070]")
@click.option(
    "--smap-resampling", type=click.Choice(["bilinear", "nearest"]), help="SMAP to pixels.  [default: bilinear]"
)
@click.option(
    "--uncertainty",
    type=int,
    metavar="N",
    help="Also map the standard deviation over N Monte Carlo dropout members.  [default: 0]",
)
@click.option("--members/--no-members", default=None, help="Keep the members themselves, as Zarr.")
@_DEVICE
@_PRECISION
@_THREADS
@click.option(
    "--config", metavar="YAML", help="Settings for all of the above.  [default: mmnet.yaml, where there is one]"
)
@_QUIET
@_DEBUG
def map_command(aoi: str, dates: tuple[str, ...], quiet: bool, debug: bool, **options: Any) -> None:
    """Make soil moisture maps of an area.

    \b
    mmnet-map --aoi grant_county.geojson --date 2021-08-08
    mmnet-map --aoi fields.gpkg --date 2021-07-29/2021-08-08 --stack stack.zarr --out maps
    """  # noqa: D301  (click wants the backspace itself, so that the examples keep their lines)
    from mmnet_maps.mapping.pipeline import make_maps

    made = make_maps(aoi, list(dates), quiet=quiet, **options)
    for product in made.products:
        click.echo(f"{product.day}  {product.layers['soil_moisture']}")
        click.echo(f"            {product.picture}")
    if made.overview:
        click.echo(f"together    {made.overview}")


@mmnet.group("stack", invoke_without_command=True, subcommand_metavar="[info|check STORE …]")
@click.option("--aoi", metavar=_AREA, help=f"{_AREA_HELP} Either this or --tiles.")
@click.option("--tiles", metavar="ID,ID…", help="Whole tiles of the default grid, such as h06v03,h06v04.")
@click.option("--start", metavar="DAY", help="First day to be mapped.  [required]")
@click.option("--end", metavar="DAY", help="Last day to be mapped.  [default: --start]")
@click.option("--source", metavar="earthengine|YAML|demo", help="Where inputs come from.  [required]")
@click.option("--out", metavar="STORE", help="The stack; continued where it exists.  [required]")
@_MODEL
@click.option("--resolution", type=float, metavar="SIZE", help="Pixel size in units of the CRS.  [default: 100]")
@click.option("--crs", metavar="CRS", help="Coordinate reference system.  [default: EPSG:5070]")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched, and fetch nothing.")
@_QUIET
@_DEBUG
@click.pass_context
def stack_command(
    context: click.Context,
    /,
    aoi: str | None,
    tiles: str | None,
    start: str | None,
    end: str | None,
    source: str | None,
    out: str | None,
    dry_run: bool,
    quiet: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Bring the inputs for maps of an area and some days into a stack, or look at one.

    What the series and the interpolation in time need before and after the days comes along. An interrupted run
    continues where it stopped.

    \b
    mmnet stack --aoi fields.gpkg --start 2021-07-29 --end 2021-08-08 --source sources.yaml --out stack.zarr
    mmnet stack info stack.zarr
    mmnet stack check stack.zarr --date 2021-08-08
    """  # noqa: D301  (see map_command)
    if context.invoked_subcommand:
        _refuse_options_before(context)
        return
    for name, value in (("--start", start), ("--source", source), ("--out", out)):
        if value is None:
            raise click.UsageError(f"Missing option '{name}'", context)
    if (aoi is None) == (tiles is None):
        raise RequestError("give either --aoi or --tiles, the area or the tiles of the default grid to fill")
    from mmnet_maps.mapping.request import fill_stack

    ids = tuple(tile.strip() for tile in tiles.split(",")) if tiles is not None else None
    days = f"{start}/{end or start}"
    done = fill_stack(aoi, days, source=source, stack=out, tiles=ids, dry_run=dry_run, quiet=quiet, **options)
    click.echo(done if dry_run else out)


@stack_command.command("info")
@_STORE
@click.option("--start", metavar="DAY", help="First day of the table.  [default: 31 days, the last ones with maps]")
@click.option("--end", metavar="DAY", help="Last day of the table.  [default: --start]")
@click.option("--aoi", metavar=_AREA, help="Area of the table and the picture.  [default: all that was ever fetched]")
@click.option("--json", "json_path", metavar="FILE", help="Write all of it to a file as well.")
@click.option("--png", metavar="FILE", help="Draw the table and the layers of its last day with all inputs.")
@_DEBUG
def stack_info_command(
    store: str, start: str | None, end: str | None, aoi: str | None, json_path: str | None, png: str | None, debug: bool
) -> None:
    """Say what is in a stack: groups, days, provenance, sizes, and which variable is there on which day.

    \b
    mmnet stack info stack.zarr --start 2021-07-29 --end 2021-08-08 --png stack.png
    """  # noqa: D301  (see map_command)
    from pathlib import Path

    from mmnet_maps.grid.area import parse_days, read_aoi
    from mmnet_maps.stack.inventory import take_inventory
    from mmnet_maps.stack.inventory_plot import draw_inventory, format_inventory, write_inventory
    from mmnet_maps.stack.store import Stack

    if end and not start:
        raise RequestError("--end is given without --start; give both, or neither for the last 31 days")
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
@_STORE
@click.option("--model", default="mmnet-uscrn", show_default=True, metavar="FOLDER|NAME", help="The model to be run.")
@click.option(
    "--date", "dates", required=True, multiple=True, metavar="DAY|DAY/DAY", help="Day or range; may be repeated."
)
@click.option("--aoi", metavar=_AREA, help="Area to be mapped.  [default: all that the stack has blocks for]")
@_DEBUG
def stack_check_command(store: str, model: str, dates: tuple[str, ...], aoi: str | None, debug: bool) -> int:
    """Say whether a model can run on a stack, what lacks, and what to type next.

    Ends with 0 when all days can run and with 3 when something lacks.

    \b
    mmnet stack check stack.zarr --model mmnet-uscrn --date 2021-07-29/2021-08-08
    """  # noqa: D301  (see map_command)
    from mmnet_maps.mapping.check import check_stack

    text, able = check_stack(store, model, list(dates), aoi)
    click.echo(text)
    return 0 if able else InputError.exit_code


@mmnet.group("batch", invoke_without_command=True, subcommand_metavar="[status ROOT]")
@click.option("--tiles", metavar="conus|ID,ID…", help="Whole tiles of the default grid, such as h06v03,h06v04, or all.")
@click.option("--aoi", metavar=_AREA, help=f"{_AREA_HELP} Its tiles, as far as they lie in it.")
@click.option(
    "--date",
    "dates",
    multiple=True,
    metavar="DAY|DAY/DAY|latest",
    help="Day or range; latest: the newest one with all inputs; may be repeated.",
)
@click.option("--start", metavar="DAY", help="First day, in place of --date.")
@click.option("--end", metavar="DAY", help="Last day.  [default: --start]")
@click.option("--stack", metavar="STORE", help="Stack that holds the inputs (see mmnet stack).  [required]")
@_MODELS
@click.option("--out", metavar="ROOT", help="Output folder.  [default: maps]")
@click.option("--name", metavar="NAME", help="Of report and Zarr store.  [default: after area or tiles]")
@click.option("--zarr/--no-zarr", "store", default=True, help="Whether a Zarr store is written beside the COGs.")
@click.option("--uncertainty", type=int, metavar="N", help="As for mmnet map.  [default: 0]")
@click.option("--smap-resampling", type=click.Choice(["bilinear", "nearest"]), help="As for mmnet map.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and what it would take, measured on one tile.")
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler.  [default: workers on this machine]")
@click.option("--workers", type=click.IntRange(1), help="How many on this machine.  [default: one a core]")
@click.option("--memory-limit", metavar="SIZE", help="Memory of each worker, such as 3GB.  [default: an equal share]")
@click.option("--retries", type=click.IntRange(0), default=2, show_default=True, help="After faults that may pass.")
@click.option(
    "--time-limit", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="For one tile.  [default: none]"
)
@_DEVICE
@_PRECISION
@_THREADS
@click.option("--config", metavar="YAML", help="Settings, as for mmnet map.")
@_QUIET
@_DEBUG
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
    debug: bool,
    **options: Any,
) -> int:
    """Make maps of many tiles on many days, on this machine or a Dask cluster.

    Whatever is there already, made from the same inputs by the same model, is left: the same command continues an
    interrupted run, and makes anew what late or revised inputs change. Ends with 4 when some tiles failed.

    \b
    mmnet batch --tiles h06v03,h07v03 --start 2021-08-01 --end 2021-08-10 --stack stack.zarr --out maps
    mmnet batch --tiles conus --date latest --stack conus.zarr --out /data/daily
    mmnet batch status maps
    """  # noqa: D301  (see map_command)
    if context.invoked_subcommand:
        _refuse_options_before(context)
        return 0
    given = [*dates, *([f"{start}/{end or start}"] if start else [])]
    if not given or (end and not start):
        raise click.UsageError("give --date, or --start and --end", context)
    if find_spec("distributed") is None:
        raise RequestError(
            "mmnet batch needs Dask's distributed, which is not installed: pip install 'mmnet-maps[batch]'"
        )
    from mmnet_maps.mapping.batch.plan import dry_run as plan_text
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
    click.echo(format_report(report))
    click.echo(report_path(report))
    return TilesFailedError.exit_code if report.failed else 0


@batch_command.command("status")
@click.argument("root", metavar="ROOT")
@click.option("--json", "json_path", metavar="FILE", help="Write all of it to a file as well.")
@_DEBUG
def batch_status_command(root: str, json_path: str | None, debug: bool) -> int:
    """Say which tiles of which days are done, failed and missing; ends with 4 when not all are done."""
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


@mmnet.group("samples", invoke_without_command=True, subcommand_metavar="[check TABLE]")
@click.option(
    "--observations",
    multiple=True,
    metavar="PATH",
    help="USCRN daily01 files or a folder of them, ISMN archive as zip or folder; may be repeated.  [required]",
)
@click.option("--source", metavar="earthengine|YAML|demo", help="Where inputs come from; either this or --stack.")
@click.option("--stack", metavar="STORE", help="Stack that holds the inputs at the stations (see mmnet stack).")
@click.option("--model", metavar="FOLDER|NAME", help="Model whose inputs and days are wanted; either this or --config.")
@click.option("--config", metavar="YAML", help="Training configuration that says them, as for mmnet train.")
@click.option("--start", metavar="DAY", help="First day.  [default: of the observations]")
@click.option("--end", metavar="DAY", help="Last day.  [default: of the observations]")
@click.option(
    "--positions",
    metavar="CSV",
    help="station, lat, lon: better positions than those in the files, which USCRN rounds.",
)
@click.option(
    "--min-hours",
    type=click.IntRange(1, 24),
    default=12,
    show_default=True,
    help="Hours with a usable value that a day of an ISMN archive needs.",
)
@click.option(
    "--smap-resampling",
    type=click.Choice(["bilinear", "nearest"]),
    default="bilinear",
    show_default=True,
    help="As for mmnet map.",
)
@click.option("--out", metavar="PARQUET", help="The table.  [required]")
@_QUIET
@_DEBUG
@click.pass_context
def samples_command(
    context: click.Context,
    /,
    observations: tuple[str, ...],
    out: str | None,
    quiet: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Build a table of station samples from observations and inputs at the stations, or look at one.

    \b
    mmnet samples --observations uscrn/ --stack stack.zarr --model mmnet-uscrn --out samples.parquet
    mmnet samples --observations ismn.zip --source earthengine --config train.yaml --out samples.parquet
    mmnet samples check samples.parquet --picture samples.png
    """  # noqa: D301  (see map_command)
    if context.invoked_subcommand:
        _refuse_options_before(context)
        return
    for name, value in (("--observations", observations), ("--out", out)):
        if not value:
            raise click.UsageError(f"Missing option '{name}'", context)
    _require_tables()
    from mmnet_maps.training.build_table import make_samples

    made = make_samples(observations, out or "", quiet=quiet, **options)
    stations = len(set(made["station"].to_pylist()))
    click.echo(f"{out}: {made.num_rows} rows, {stations} stations; look at it with: mmnet samples check {out}")


@samples_command.command("check")
@click.argument("table", metavar="TABLE")
@click.option("--picture", metavar="PNG", help="Draw a map of the stations and the days of each.")
@_DEBUG
def samples_check_command(table: str, picture: str | None, debug: bool) -> int:
    """Say what is in a table of samples and what is wrong with it: duplicates, gaps, units, ranges, missing inputs.

    Ends with 3 when it is to be corrected before training.

    \b
    mmnet samples check samples.parquet --picture samples.png
    """  # noqa: D301  (see map_command)
    _require_tables()
    from mmnet_maps.training.table import read_samples
    from mmnet_maps.training.table_check import check_samples, format_check
    from mmnet_maps.training.table_plot import draw_samples

    found = check_samples(read_samples(table, target=False))
    click.echo(format_check(found))
    if picture:
        draw_samples(found, picture)
        click.echo(picture)
    return InputError.exit_code if found.problems else 0


@mmnet.command("train")
@click.option(
    "--samples",
    required=True,
    multiple=True,
    metavar="PARQUET",
    help="Table of station samples; may be given several times.",
)
@click.option(
    "--config", required=True, metavar="YAML", help="What to train and how, such as configs/mmnet-uscrn.yaml."
)
@click.option("--seed", type=click.IntRange(0), help="Seed, in place of the one in the configuration.")
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the new checkpoint.")
@_QUIET
@_DEBUG
def train_command(samples: tuple[str, ...], config: str, seed: int | None, out: str, quiet: bool, debug: bool) -> None:
    """Train a network on station samples."""
    _require_tables()
    from mmnet_maps.training.train import train_checkpoint

    click.echo(train_checkpoint(samples, config, out, seed=seed, progress=not quiet).path)


@mmnet.command("experiment")
@click.argument("config", metavar="CONFIG.YAML")
@click.option("--data", required=True, metavar="FOLDER", help="Folder of the tables that the configuration names.")
@click.option("--out", required=True, metavar="FOLDER", help="What the runs leave, tables and figures.")
@click.option("--workers", type=click.IntRange(1), help="Processes, of one thread each.  [default: one a core]")
@_QUIET
@_DEBUG
def experiment_command(config: str, data: str, out: str, workers: int | None, quiet: bool, debug: bool) -> None:
    """Train and test several networks in the paper's scenarios; the same command continues after an interruption."""
    _require_tables()
    from mmnet_maps.mapping.batch.plan import cores
    from mmnet_maps.training.experiment.results import write_results
    from mmnet_maps.training.experiment.run import execute_all, read_experiment

    settings = read_experiment(config)
    runs = execute_all(settings, data, out, workers=workers or cores(), quiet=quiet)
    for path in write_results(settings, runs, out):
        click.echo(path)


@mmnet.command("points")
@click.option(
    "--points",
    multiple=True,
    metavar="CSV|LON,LAT",
    help="Places: a CSV with station, lat, lon and, where something was observed, a row a day with date and "
    "soil_moisture; or degrees; may be repeated. With --maps, --stack or --source.",
)
@click.option(
    "--maps",
    multiple=True,
    metavar="PATH",
    help="Finished maps: output folder of mmnet-map or mmnet batch, STAC item, COG or Zarr store; may be repeated.",
)
@click.option("--stack", metavar="STORE", help="Stack whose inputs the model is run on, at the points alone.")
@click.option("--source", metavar="earthengine|YAML|demo", help="Where inputs come from, in place of a stack; slow.")
@click.option("--start", metavar="DAY", help="First day.  [default: of the maps]")
@click.option("--end", metavar="DAY", help="Last day.  [default: of the maps]")
@click.option(
    "--observations",
    multiple=True,
    metavar="PATH",
    help="USCRN files or ISMN archive with what was measured at stations of these names; may be repeated.",
)
@click.option("--samples", metavar="PARQUET", help="Table of station samples, in place of all of these.")
@_MODEL
@click.option("--uncertainty", type=int, metavar="N", help="Standard deviation over N drawn members, such as 20.")
@click.option("--out", required=True, metavar="CSV|PARQUET|NC", help="One row a place and day.")
@click.option("--picture", metavar="PNG", help="Draw the series as well.")
@_QUIET
@_DEBUG
def points_command(
    samples: str | None,
    observations: tuple[str, ...],
    out: str,
    picture: str | None,
    quiet: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Daily series at stations or fields: observed, estimated, standard deviation, quality, gaps filled.

    Values are those of the maps at the pixels that hold the points; from a stack no maps are made for that. With
    observations the metrics of each station are printed.

    \b
    mmnet points --points stations.csv --stack stack.zarr --start 2021-07-29 --end 2021-08-08 --out series.csv
    mmnet points --points -119.6,47.1 --maps maps --out field.nc --picture field.png
    mmnet points --samples samples.parquet --model models/mine --uncertainty 20 --out series.csv
    """  # noqa: D301  (see map_command)
    from mmnet_maps.analysis.series_io import check_target, write_series
    from mmnet_maps.plots.canvas import check_picture

    check_target(out, [*options["points"], *observations, samples or ""])
    if picture:
        check_picture(picture)
    if samples or observations or out.endswith(".parquet"):
        _require_tables()
    from mmnet_maps.analysis.series import draw_series, metrics, series_for
    from mmnet_maps.metrics import format_report

    if bool(samples) == bool(options["points"]):
        raise RequestError("give either --samples, or --points with --maps, --stack or --source")
    if samples:
        from mmnet_maps.training.gap_fill import fill_samples

        model, uncertainty = options.pop("model"), options.pop("uncertainty")
        if observations or any(options.values()):
            raise RequestError("--samples brings inputs, days and observations with it; leave out the other options")
        series = fill_samples(samples, model=model, uncertainty=uncertainty)
    else:
        from mmnet_maps.training.observations import read_observations

        observed = read_observations(observations).to_pandas() if observations else None
        series = series_for(observations=observed, quiet=quiet, **options)
    write_series(series, out)
    days = series["soil_moisture_estimate"].notna().sum()
    click.echo(f"{out}: {series['station'].nunique()} places, {len(series)} days, {days} of them with an estimate")
    if found := metrics(series):
        click.echo(format_report(found))
    if picture:
        click.echo(draw_series(series, picture))


@mmnet.command("zones")
@click.option("--zones", required=True, metavar="FILE", help="Polygons: GeoJSON, GeoPackage, Shapefile.")
@click.option(
    "--maps",
    "paths",
    required=True,
    multiple=True,
    metavar="PATH",
    help="Output folder of mmnet-map or mmnet batch, STAC item, COG or Zarr store; may be repeated.",
)
@click.option("--start", metavar="DAY", help="First day.  [default: all]")
@click.option("--end", metavar="DAY", help="Last day.  [default: all]")
@click.option("--id", "id_column", metavar="COLUMN", help="Names the zones.  [default: zone, id or name, or numbers]")
@click.option(
    "--layer",
    type=click.Choice(["soil_moisture", "soil_moisture_std", "smap"]),
    default="soil_moisture",
    show_default=True,
    help="What the statistics are of.",
)
@click.option("--picture", metavar="PNG", help="Draw the means as well.")
@click.option("--out", required=True, metavar="CSV|PARQUET|GPKG", help="One row a zone and day.")
@_QUIET
@_DEBUG
def zones_command(
    zones: str,
    paths: tuple[str, ...],
    start: str | None,
    end: str | None,
    id_column: str | None,
    layer: str,
    picture: str | None,
    out: str,
    quiet: bool,
    debug: bool,
) -> None:
    """Statistics of maps over fields, watersheds or counties: mean, median, spread, percentiles, share with a value.

    Each pixel counts by the area of it that lies in the zone.

    \b
    mmnet zones --zones fields.gpkg --maps maps --out zones.csv --picture zones.png
    """  # noqa: D301  (see map_command)
    if find_spec("exactextract") is None:
        raise RequestError("mmnet zones needs exactextract, which is not installed: pip install 'mmnet-maps[zones]'")
    if out.endswith(".parquet"):
        _require_tables()
    from mmnet_maps.analysis.zone_io import check_target, read_zones, write_statistics
    from mmnet_maps.analysis.zones import zonal_statistics
    from mmnet_maps.analysis.zones_plot import draw_zones
    from mmnet_maps.plots.canvas import check_picture
    from mmnet_maps.product.reader import open_maps

    check_target(out, zones)
    if picture:
        check_picture(picture)
    first, last = _ends(start, end)
    polygons = read_zones(zones, id_column=id_column)
    maps = open_maps(paths, start=first, end=last)
    table = zonal_statistics(maps, polygons, layer=layer, quiet=quiet)
    write_statistics(table, out, polygons)
    found = int(table["mean"].notna().sum())
    click.echo(f"{out}: {len(polygons.ids)} zones, {len(maps.days)} days, {found} of {len(table)} rows with a value")
    if picture:
        drawn = draw_zones(table, polygons, picture, layer=layer, title=maps.title, synthetic=maps.synthetic)
        click.echo(drawn)


@mmnet.command("predict")
@_SAMPLES
@_NAMED_MODEL
@click.option("--out", required=True, metavar="PARQUET", help="The table with soil_moisture_estimate added.")
@_DRAWS
@_DEVICE
@_DEBUG
def predict_command(samples: str, model: str, out: str, uncertainty: int, device: str | None, debug: bool) -> None:
    """Estimate soil moisture for station samples; no target column is needed.

    With --uncertainty, soil_moisture_std is added as well.
    """
    _require_tables()
    from mmnet_maps.model.checkpoint import load_checkpoint
    from mmnet_maps.model.engine import Engine
    from mmnet_maps.training.evaluate import write_predictions

    engine = Engine(load_checkpoint(model), device=device or "auto", draws=uncertainty)
    count = write_predictions(engine, samples, out)
    click.echo(f"{out}: {count} rows with an estimate")


@mmnet.command("evaluate")
@click.option("--samples", metavar="PARQUET", help="Table of station samples.")
@_NAMED_MODEL
@click.option(
    "--parity", is_flag=True, help="Deviation of every precision and device from the plain network in float64."
)
@click.option("--json", "json_path", metavar="FILE", help="Write the metrics to a file as well.")
@_DRAWS
@click.option("--picture", metavar="FILE.png", help="Draw how far the standard deviations can be trusted.")
@_DEVICE
@_QUIET
@_DEBUG
def evaluate_command(
    samples: str | None,
    model: str,
    parity: bool,
    json_path: str | None,
    uncertainty: int,
    picture: str | None,
    device: str | None,
    quiet: bool,
    debug: bool,
) -> None:
    """R, RMSE, bias (estimate - observed) and ubRMSE per station, and their medians; or how exact the engine is.

    With --uncertainty the standard deviations over the members are judged as well.
    """
    if parity == (samples is not None) or (parity and (json_path or device or uncertainty)):
        raise RequestError("give either --samples, with --json, --uncertainty and --device as you like, or --parity")
    if picture and not uncertainty:
        raise RequestError("--picture shows the uncertainty; give --uncertainty as well, such as --uncertainty 20")
    if parity:
        from mmnet_maps.model.checkpoint import load_checkpoint
        from mmnet_maps.training.parity import format_parity
        from mmnet_maps.training.parity import parity as deviations

        click.echo(format_parity(list(deviations(load_checkpoint(model), quiet=quiet))))
        return
    assert samples is not None
    _require_tables()
    from mmnet_maps.model.checkpoint import load_checkpoint
    from mmnet_maps.model.engine import Engine
    from mmnet_maps.training.evaluate import evaluate_samples, format_evaluation, write_report
    from mmnet_maps.training.table import read_samples

    engine = Engine(load_checkpoint(model), device=device or "auto", draws=uncertainty)
    found = evaluate_samples(engine, read_samples(samples))
    click.echo(format_evaluation(found))
    if json_path:
        write_report(found, json_path)
    if picture:
        from pathlib import Path

        from mmnet_maps.training.plots import draw_reliability

        draw_reliability(found["uncertainty"], Path(picture), model=engine.spec.name)


@mmnet.command("recalibrate")
@_SAMPLES
@_NAMED_MODEL
@click.option(
    "--uncertainty", type=int, default=20, show_default=True, metavar="N", help="Members of Monte Carlo dropout."
)
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the recalibrated copy.")
@_DEVICE
@_DEBUG
def recalibrate_command(samples: str, model: str, uncertainty: int, out: str, device: str | None, debug: bool) -> None:
    """Scale a model's standard deviations so that they fit its errors at stations it was not trained on.

    A copy is written that differs by std_factor in model.json alone; maps made with it have the scaled deviations.
    """
    _require_tables()
    from mmnet_maps.model.checkpoint import load_checkpoint
    from mmnet_maps.model.engine import Engine
    from mmnet_maps.training.calibration import format_reliability
    from mmnet_maps.training.evaluate import recalibrate
    from mmnet_maps.training.table import read_samples

    engine = Engine(load_checkpoint(model), device=device or "auto", draws=uncertainty)
    copy, judged = recalibrate(engine, read_samples(samples), out)
    click.echo(format_reliability(judged))
    click.echo(f"{copy.path}  std_factor {copy.spec.target.std_factor:.4g}")


@mmnet.command("explain")
@_SAMPLES
@_NAMED_MODEL
@click.option("--out", required=True, metavar="FILE.json", help="Where the attributions go.")
@click.option("--picture", metavar="FILE.png", help="Draw them as well.")
@click.option("--rows", type=click.IntRange(2), default=2500, show_default=True, help="How many rows are explained.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides which rows.")
@_QUIET
@_DEBUG
def explain_command(
    samples: str, model: str, out: str, picture: str | None, rows: int, seed: int, quiet: bool, debug: bool
) -> None:
    """Say how much each variable and each day of the series counts in a model's estimates.

    \b
    mmnet explain --samples samples.parquet --model mmnet-uscrn --out importance.json --picture importance.png
    """  # noqa: D301  (see map_command)
    import json
    from pathlib import Path

    _require_tables()
    if find_spec("captum") is None:
        raise RequestError("mmnet explain needs the package captum, which is not installed: pip install captum")
    from mmnet_maps.files import write_whole
    from mmnet_maps.model.checkpoint import load_checkpoint
    from mmnet_maps.training.explain import explain_samples, format_importance
    from mmnet_maps.training.plots import draw_importance
    from mmnet_maps.training.table import read_samples

    table = read_samples(samples, target=False)
    found = explain_samples(load_checkpoint(model), table, rows=rows, seed=seed, progress=not quiet)
    click.echo(format_importance(found))
    write_whole(Path(out), json.dumps(found, indent=1, allow_nan=False) + "\n")
    if picture:
        draw_importance(found, Path(picture))


@mmnet.command("view")
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option("--stack", metavar="STORE", help="Stack with the rain for the series at a place.")
@click.option("--outline", metavar=_AREA, help="Polygons drawn over the map.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port on this machine.  [default: 5006 or a free one]")
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open the page.")
@_DEBUG
def view_command(
    paths: tuple[str, ...], stack: str | None, outline: str | None, port: int | None, browser: bool, debug: bool
) -> None:
    """Look at maps in the browser: folders of maps, STAC items, COGs, a Zarr store, or a stack.

    The page is for this machine alone; Ctrl-C ends it.

    \b
    mmnet view maps
    mmnet view maps --stack stack.zarr --outline grant_county.geojson
    """  # noqa: D301  (see map_command)
    from mmnet_maps.analysis.viewer.server import view

    view(paths, stack=stack, outline=outline, port=port, show=browser)


@mmnet.command("convert")
@click.argument("pth", metavar="MODEL.PTH")
@click.option("--scalers", required=True, metavar="FOLDER", help="Holds static_mean_std.npy and dynamic_mean_std.npy.")
@click.option(
    "--profile",
    type=click.Choice(["released", "paper"]),
    default="released",
    show_default=True,
    help="Inputs it was trained with.",
)
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the new checkpoint.")
@_DEBUG
def convert_command(pth: str, scalers: str, profile: str, out: str, debug: bool) -> None:
    """Bring a checkpoint of the authors' released code into the format used here."""
    from mmnet_maps.model.import_released import convert

    convert(pth, scalers, profile, out)
    click.echo(out)


def _refuse_options_before(context: click.Context) -> None:
    """RequestError where options of a group stand before one of its commands, which would not see them."""
    for name in context.params:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise RequestError(
                f"--{name.replace('_', '-')} stands before {context.invoked_subcommand}; what belongs to "
                f"{context.invoked_subcommand} comes after it"
            )


def _ends(start: str | None, end: str | None) -> tuple[date | None, date | None]:
    """The first and the last day, where they are given."""
    from mmnet_maps.grid.area import parse_days

    for name, day in (("--start", start), ("--end", end)):
        if day and "/" in day:
            raise RequestError(f"{name} {day} is a range; expected one day, such as 2021-08-08: use --start and --end")
    if start and end:
        days = parse_days(f"{start}/{end}")
        return days[0], days[-1]
    return (parse_days(start)[0] if start else None), (parse_days(end)[0] if end else None)


def _require_tables() -> None:
    if find_spec("pyarrow") is None:
        raise RequestError("tables of samples need the package pyarrow, which is not installed: pip install pyarrow")


def main() -> None:
    """Entry point of ``mmnet``."""
    _run(mmnet)


def map_main() -> None:
    """Entry point of ``mmnet-map``."""
    _run(map_command, "mmnet-map")


def _run(command: click.Command, name: str | None = None) -> None:
    """Run a command; notices go to standard error, an error is one line and the exit code that belongs to it."""
    notices = logging.StreamHandler()
    notices.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("mmnet_maps")
    logger.addHandler(notices)
    logger.setLevel(logging.INFO)
    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = RequestError.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "mmnet"
        code = _fail(f"{error.format_message().rstrip('.')}; see {where} --help", RequestError.exit_code)
    except MMNetError as error:
        if "--debug" in sys.argv:
            raise
        code = _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = _fail("interrupted; what was finished is kept, the same command continues", INTERRUPTED)
    finally:
        logger.removeHandler(notices)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> int:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code
