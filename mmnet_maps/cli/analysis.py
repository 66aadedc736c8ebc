"""Commands for finished maps: series at points, statistics of zones, the viewer."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import click

from mmnet_maps.cli.checks import check_request, ends, period, requested_days, require, require_tables
from mmnet_maps.cli.command import INPUT, OutputFile, OutputFolder, command
from mmnet_maps.cli.options import AREA, DEBUG, DRY_RUN, MODEL, NOTHING_TO_QUIET, QUIET, SHALLOW, days, picture, setting
from mmnet_maps.errors import RequestError, counted

DROUGHT = (
    "soil_moisture_anomaly",
    "soil_moisture_standardised_anomaly",
    "soil_moisture_percentile",
)  # `layers.DROUGHT`

if TYPE_CHECKING:
    import pandas as pd

    from mmnet_maps.product.reader import Maps

SERIES = OutputFile(".csv", ".parquet", ".nc", marks=("soil_moisture_estimate",))
STATISTICS = OutputFile(".csv", ".parquet", ".gpkg", marks=("valid_share", "area_ha"))
CLIMATOLOGY = setting("climatology", help="Climatology to compare values with, also those of finished maps.")
_OF_SAMPLES = "--samples includes inputs, days and observations; leave out the other options"


@command("points")
@click.option(
    "--points",
    type=INPUT,
    multiple=True,
    metavar="CSV|LON,LAT",
    help="Places: degrees, or a CSV with station, lat, lon and, for observations, a row per day with date and "
    "soil_moisture; may be repeated. With --maps, --stack or --source.",
)
@click.option(
    "--maps",
    type=INPUT,
    multiple=True,
    metavar="PATH",
    help="Finished maps: output folder of mmnet-map or mmnet batch, STAC item, COG or Zarr store; may be repeated.",
)
@setting("stack", help="Stack to read inputs from; the model runs only at the points.")
@setting("source", help="Source of the inputs, in place of a stack.")
@days("Days, in place of --start and --end.", "First day.  [default: of the maps]", "Last day.  [default: of the maps]")
@click.option(
    "--observations",
    type=INPUT,
    multiple=True,
    metavar="PATH",
    help="USCRN files or an ISMN archive with observations at stations of these names; may be repeated.",
)
@SHALLOW
@click.option("--samples", type=INPUT, metavar="PARQUET", help="Table of station samples, in place of all of these.")
@MODEL
@setting("uncertainty")
@CLIMATOLOGY
@click.option("--out", type=SERIES, required=True, metavar="CSV|PARQUET|NC", help="One row per place and day.")
@picture("Also draw the series.")
@DRY_RUN
@QUIET
@DEBUG
def points_command(
    samples: str | None,
    observations: tuple[str, ...],
    shallow: bool,
    dates: tuple[str, ...],
    out: str,
    picture: str | None,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Write daily series at stations or fields: observed, estimated, standard deviation, quality, gap-filled.

    Values are those of the maps at the pixels that hold the points; from a stack they are computed without making
    maps. With observations the metrics of each station are printed.

    \b
    mmnet points --points stations.csv --stack stack.zarr --start 2021-07-29 --end 2021-08-08 --out series.csv
    mmnet points --points -119.6,47.1 --maps maps --out field.nc --picture field.png
    mmnet points --samples samples.parquet --model models/mine --uncertainty 20 --out series.csv
    """  # noqa: D301  (see map_command)
    options["start"], options["end"] = period(dates, options["start"], options["end"])
    if bool(samples) == bool(options["points"]):
        raise RequestError("give either --samples, or --points with --maps, --stack or --source")
    points = options.pop("points")
    if dry_run and not options["source"]:
        raise RequestError("only a source is sent requests; leave out --dry-run, or give --points with --source")
    if not samples:
        from mmnet_maps.analysis.series import check_request as check_series

        check_series(**options)
        if not options["maps"]:
            check_request(options, dates=requested_days((), options["start"], options["end"], required=False))
    from mmnet_maps.analysis.series_io import check_target, write_series
    from mmnet_maps.files import kept_beside
    from mmnet_maps.plots.canvas import check_picture

    check_target(out, [*points, *observations, samples or ""])
    check_picture(picture)
    parts = kept_beside(Path(out)) if options["source"] else None
    if dry_run:
        click.echo(_estimate(points, parts, **options))
        return
    if samples or observations or out.endswith(".parquet"):
        require_tables()
    if samples:
        if observations or shallow:
            raise RequestError(_OF_SAMPLES)
        series = _filled(samples, **options)
    else:
        from mmnet_maps.analysis.series import series_for

        series = series_for(points, _observed(points, observations, shallow), parts=parts, quiet=quiet, **options)
    write_series(series, out)
    if parts:
        rmtree(parts, ignore_errors=True)
    _report(series, out, picture)


def _filled(samples: str, *, model: Any, uncertainty: Any, **others: Any) -> pd.DataFrame:
    """Return the series of a table of samples; refuse options that it does not need."""
    if any(others.values()):
        raise RequestError(_OF_SAMPLES)
    from mmnet_maps.training.gap_fill import fill_samples

    return fill_samples(samples, model=model, uncertainty=uncertainty)


def _report(series: pd.DataFrame, out: str, picture: str | None) -> None:
    """Print what was written and the metrics of the stations, and draw the series."""
    from mmnet_maps.analysis.series import metrics
    from mmnet_maps.analysis.series_plot import draw_series
    from mmnet_maps.metrics import format_report

    days = series["soil_moisture_estimate"].notna().sum()
    places, rows = counted(series["station"].nunique(), "place"), counted(len(series), "day")
    click.echo(f"{out}: {places}, {rows}, {days} of them with an estimate")
    if found := metrics(series):
        click.echo(format_report(found))
    if picture:
        click.echo(draw_series(series, picture))


def _estimate(
    points: tuple[str, ...], parts: Path | None, *, start: str | None, end: str | None, maps: Any, **options: Any
) -> str:
    """Describe what series would still read from a source; `maps` are not given with one."""
    from mmnet_maps.grid.places import read_places
    from mmnet_maps.mapping.points_estimate import estimate_at_points

    return estimate_at_points(read_places(points), requested_days((), start, end), parts=parts, **options)


def _observed(points: tuple[str, ...], observations: tuple[str, ...], shallow: bool) -> Any:
    """Read the observations, if any, after refusing wrong places."""
    from mmnet_maps.grid.places import read_places

    read_places(points)
    if not observations:
        return None
    from mmnet_maps.training.observations import read_observations

    return read_observations(observations, shallow=shallow).to_pandas()


@command("zones")
@click.option("--zones", required=True, type=INPUT, metavar="FILE", help="Polygons: GeoJSON, GeoPackage, Shapefile.")
@click.option(
    "--maps",
    "paths",
    required=True,
    type=INPUT,
    multiple=True,
    metavar="PATH",
    help="Output folder of mmnet-map or mmnet batch, STAC item, COG or Zarr store; may be repeated.",
)
@days("Days, in place of --start and --end.", "First day.  [default: all]", "Last day.  [default: all]")
@click.option(
    "--id", "id_column", metavar="COLUMN", help="Column with the zones' names.  [default: zone, id or name, or numbers]"
)
@click.option(
    "--layer",
    type=click.Choice(["soil_moisture", "soil_moisture_std", "smap", *DROUGHT]),
    default="soil_moisture",
    show_default=True,
    help="Layer of the statistics.",
)
@CLIMATOLOGY
@picture("Also draw the means.")
@click.option("--out", type=STATISTICS, required=True, metavar="CSV|PARQUET|GPKG", help="One row per zone and day.")
@QUIET
@DEBUG
def zones_command(
    zones: str,
    paths: tuple[str, ...],
    dates: tuple[str, ...],
    start: str | None,
    end: str | None,
    id_column: str | None,
    layer: str,
    climatology: str | None,
    picture: str | None,
    out: str,
    quiet: bool,
) -> None:
    """Compute statistics of maps over fields, watersheds or counties: mean, median, spread, percentiles, valid share.

    Each pixel is weighted by its area in the zone. Of percentiles also the share of the area in each drought class.

    \b
    mmnet zones --zones fields.gpkg --maps maps --out zones.csv --picture zones.png
    mmnet zones --zones counties.gpkg --maps maps --layer soil_moisture_percentile --out drought.csv
    """  # noqa: D301  (see map_command)
    require("exactextract", "mmnet zones", ".[zones]")
    if out.endswith(".parquet"):
        require_tables()
    from mmnet_maps.analysis.zone_io import check_target, read_zones, write_statistics
    from mmnet_maps.plots.canvas import check_picture

    check_target(out, zones)
    check_picture(picture)
    first, last = ends(*period(dates, start, end))
    polygons = read_zones(zones, id_column=id_column)
    from mmnet_maps.analysis.zones import zonal_statistics
    from mmnet_maps.analysis.zones_plot import draw_zones
    from mmnet_maps.product.reader import open_maps

    maps = _compared(open_maps(paths, start=first, end=last), climatology)
    table = zonal_statistics(maps, polygons, layer=layer, quiet=quiet)
    write_statistics(table, out, polygons)
    found = int(table["mean"].notna().sum())
    shown = counted(len(polygons.ids), "zone"), counted(len(maps.days), "day"), counted(len(table), "row")
    click.echo(f"{out}: {shown[0]}, {shown[1]}, {found} of {shown[2]} with a value")
    if picture:
        drawn = draw_zones(table, polygons, picture, layer=layer, title=maps.title, synthetic=maps.synthetic)
        click.echo(drawn)


@command("export")
@click.argument("paths", type=INPUT, nargs=-1, required=True, metavar="PATH…")
@days("Days, in place of --start and --end.", "First day.  [default: all]", "Last day.  [default: all]")
@click.option("--out", required=True, type=OutputFolder(), metavar="FILE.nc|STORE.zarr|FOLDER", help="What to write.")
@NOTHING_TO_QUIET
@DEBUG
def export_command(
    paths: tuple[str, ...], dates: tuple[str, ...], start: str | None, end: str | None, out: str
) -> None:
    """Write maps in another format: NetCDF, a Zarr store of version 2 for older software, or a folder of GeoTIFFs.

    PATH is a folder of maps, a day's folder, a STAC item, a GeoTIFF or a Zarr store. Nothing that exists is replaced.

    \b
    mmnet export daily/tiles_20210801_20210808.zarr --out august.nc
    mmnet export daily/tiles_20210801_20210808.zarr --date 2021-08-08 --out geotiffs
    """  # noqa: D301  (see map_command)
    from mmnet_maps.product.export import export_maps
    from mmnet_maps.product.reader import open_maps

    first, last = ends(*period(dates, start, end))
    for path in export_maps(open_maps(paths, start=first, end=last), out):
        click.echo(path)


def _compared(maps: Maps, climatology: str | None) -> Maps:
    """Return maps with the layers that compare them with a climatology, if there is one."""
    if climatology is None:
        return maps
    from mmnet_maps.product.climatology import Climatology
    from mmnet_maps.product.compared_maps import ComparedMaps

    return ComparedMaps(maps, Climatology(climatology))


@command("view")
@click.argument("paths", type=INPUT, nargs=-1, required=True, metavar="PATH…")
@setting("stack", help="Stack to read rain from, for the series at a point.")
@CLIMATOLOGY
@click.option("--outline", type=INPUT, metavar=AREA, help="Polygons to draw over the map.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port on this machine.  [default: 5006 or a free one]")
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open the page.")
@NOTHING_TO_QUIET
@DEBUG
def view_command(
    paths: tuple[str, ...],
    stack: str | None,
    climatology: str | None,
    outline: str | None,
    port: int | None,
    browser: bool,
) -> None:
    """Explore maps in the browser: folders of maps, STAC items, COGs, a Zarr store, or a stack.

    The page is served to this machine only; Ctrl-C ends it.

    \b
    mmnet view maps
    mmnet view maps --stack stack.zarr --outline grant_county.geojson
    """  # noqa: D301  (see map_command)
    from mmnet_maps.analysis.viewer.server import view

    view(paths, stack=stack, climatology=climatology, outline=outline, port=port, show=browser)
