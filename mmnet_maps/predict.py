"""The straight line: area and days → grid → stack → features → engine → product → files, top to bottom."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.block import Block, read_block
from mmnet_maps.cells import lonlat
from mmnet_maps.errors import OutputError
from mmnet_maps.fetch import in_order
from mmnet_maps.grid import Tile, area_mask, tiles
from mmnet_maps.job import Job, describe, engine_of, prepare, source_line, title
from mmnet_maps.product import LAYERS, Evidence, attributes, compose
from mmnet_maps.settings import MapOptions
from mmnet_maps.stack import Stack

if TYPE_CHECKING:
    import xarray as xr

    from mmnet_maps.spec import ModelSpec
    from mmnet_maps.write import DayProduct

log = logging.getLogger("mmnet_maps")

_OUTSIDE: dict[str, NDArray[Any]] = {
    "soil_moisture": np.array(np.nan, np.float32),
    "quality": np.array(1, np.uint16),
    "smap": np.array(np.nan, np.float32),
}

log = logging.getLogger("mmnet_maps")


def downscale_product(aoi: Any, dates: Any, *, quiet: bool = False, **options: Unpack[MapOptions]) -> xr.Dataset:
    """Map an area on some days: all layers of the product, lazily.

    Parameters
    ----------
    aoi
        Polygons: a file (GeoJSON, GeoPackage, Shapefile, …), ``"west,south,east,north"`` in degrees, or a shapely
        geometry in longitude and latitude.
    dates
        A day, an inclusive range ``"2021-07-29/2021-08-08"``, or a sequence of these.
    quiet
        No progress bar while inputs are fetched.
    stack
        Path of a stack that holds the inputs (``mmnet stack``).
    source
        ``"demo"`` or a sources YAML, instead of a stack; what it gives is kept in a cache. Without either:
        ``$MMNET_STACK``, the settings file, and on a fresh install the demo world.
    model
        Folder of a checkpoint, or the name of a packaged one (default ``mmnet-uscrn``).
    resolution, crs
        Pixel size in units of the coordinate reference system, and that system (default 100 m, EPSG:5070).
    smap_resampling
        ``"bilinear"`` between SMAP cell centres (default), or ``"nearest"``.
    device
        ``"auto"`` (default), ``"cpu"`` or ``"cuda"``.
    config
        YAML file with any of these settings (default ``mmnet.yaml``, where there is one).

    Returns
    -------
    xarray.Dataset
        Dask-backed (time, y, x): ``soil_moisture`` and ``smap`` float32 in m³/m³, NaN where nodata; ``quality`` uint16,
        see `product.QUALITY_BITS`. One chunk is one tile; nothing is computed before it is asked for.

    Raises
    ------
    RequestError
        When area, dates, model or an option are wrong.
    InputError
        When inputs are missing or broken.
    """
    return lazy(prepare(aoi, dates, quiet=quiet, **options))


def downscale(aoi: Any, dates: Any, *, quiet: bool = False, **options: Unpack[MapOptions]) -> xr.DataArray:
    """Map the soil moisture (m³/m³) of an area on some days, lazily; parameters as `downscale_product`.

    Returns
    -------
    xarray.DataArray
        (time, y, x) float32, NaN outside the area, on water and where inputs are missing.

    Examples
    --------
    >>> sm = downscale("-119.60,47.10,-119.56,47.13", "2021-08-08", source="demo", quiet=True)
    >>> sm.dims, sm.rio.crs.to_epsg(), sm.attrs["units"]
    (('time', 'y', 'x'), 5070, 'm3 m-3')
    """
    return downscale_product(aoi, dates, quiet=quiet, **options)["soil_moisture"]


def map_tile(job: Job, tile: Tile, day: date) -> dict[str, NDArray[Any]]:
    """Compute all layers of one tile of one day: the route of the data, from the stack to the product.

    Returns
    -------
    dict
        As `product.compose`, arrays (y, x) of the tile.
    """
    from mmnet_maps.features import encode_series, encode_snapshot, standardise

    engine = engine_of(job.model, job.device)
    spec = engine.checkpoint.spec
    inside = area_mask(job.area, tile.geobox, touched=job.touched)
    block = read_block(Stack(job.stack), tile.geobox, job.needs, day, smap_resampling=job.smap_resampling)

    pixels = np.flatnonzero(inside)
    columns = {name: values.ravel()[pixels] for name, values in block.fine.items()}
    columns |= _computed(spec, tile.geobox, day, pixels)
    series, cell = _distinct_series(block, pixels)

    snapshot_encoded = encode_snapshot(columns, spec.snapshot)
    series_encoded = encode_series(series, spec.series)
    estimate = engine.predict(
        standardise(snapshot_encoded, spec.snapshot_mean, spec.snapshot_std),
        standardise(series_encoded, spec.series_mean, spec.series_std),
        cell,
    )
    if spec.target.residual_of:
        estimate += columns[spec.target.residual_of]
    return compose(
        _spread(estimate, pixels, inside, np.nan),
        block.fine["smap"],
        inside=inside,
        landcover=block.fine["landcover"],
        known_classes=next((feature.classes for feature in spec.snapshot if feature.name == "landcover"), ()),
        bulk_density=block.fine.get("bulk_density"),
        evidence=Evidence(
            ages=block.ages,
            backscatter={name: block.fine[name] for name in ("vv", "vh") if name in block.fine},
            lst_filled=block.filled,
            surface_temperature=block.series["lst"][-1][block.cells[block.groups["lst"]]]
            if "lst" in block.series
            else None,
            borrowed=block.borrowed,
            outside_training=_spread(_unusual(spec, snapshot_encoded, series_encoded, cell), pixels, inside, False),
            synthetic=job.synthetic,
        ),
    )


def lazy(job: Job) -> xr.Dataset:
    """The job's product as a Dask-backed dataset, one task a tile and day; the model is loaded once a process."""
    import dask.array as da
    import rioxarray  # noqa: F401  (arrays answer .rio)
    import xarray as xr
    from dask.delayed import delayed
    from odc.geo.xr import xr_coords

    compute = delayed(map_tile, pure=False)
    wanted = {tile.id for tile in job.pieces}
    stacked: dict[str, list[Any]] = {name: [] for name in LAYERS}
    for day in job.days:
        rows: dict[int, list[dict[str, Any]]] = {}
        for tile in tiles(job.grid):
            layers = compute(job, tile, day) if tile.id in wanted else None
            shape = tuple(tile.geobox.shape)
            rows.setdefault(tile.rows.start, []).append(
                {
                    name: da.full(shape, fill, dtype=fill.dtype, chunks=shape)
                    if layers is None
                    else da.from_delayed(layers[name], shape, dtype=fill.dtype)
                    for name, fill in _OUTSIDE.items()
                }
            )
        for name, days in stacked.items():
            days.append(da.block([[piece[name] for piece in row] for row in rows.values()]))
    coords = xr_coords(job.grid, dims=("y", "x"))
    times = np.array(job.days, dtype="datetime64[ns]")
    product = xr.Dataset(
        {name: (("time", "y", "x"), da.stack(days)) for name, days in stacked.items()},
        coords={"time": times, **coords},
    )
    return attributes(product, describe(job))


def write_maps(job: Job, *, quiet: bool = False) -> list[DayProduct]:
    """Make and write the product of every day of a job; a day whose product is there with the same fingerprint is left.

    Of several days a picture that shows them together on one colour scale is drawn beside their folders.

    Parameters
    ----------
    job
        From `job.prepare`.
    quiet
        No progress bar.

    Returns
    -------
    list of DayProduct
        One a day, in order.

    Raises
    ------
    OutputError
        When the folder cannot be written or holds a file of that name that is not ours.
    """
    from mmnet_maps.write import check_target, completed, is_ours

    for day in job.days:
        check_target(job.out, job.area.name, day, job.synthetic, list(LAYERS))
    if len(job.days) > 1 and job.overview.exists() and not is_ours(job.overview):
        raise OutputError(
            f"{job.overview} was not made by mmnet_maps and is never overwritten; move it away or give another --out"
        )
    done: list[DayProduct] = []
    for day in job.days:
        there = completed(job.out, job.area.name, day, job.synthetic, job.fingerprint(day))
        if there:
            log.info("%s is there already, made from the same inputs by the same model: kept", there.item)
        done.append(there or _write_day(job, day, quiet))
    if len(done) > 1 and not _is_newer(job.overview, [product.item for product in done]):
        _draw(job, {product.day: product.layers for product in done}, job.overview)
    return done


def _is_newer(path: Path, others: Sequence[Path]) -> bool:
    return path.exists() and path.stat().st_mtime_ns >= max(other.stat().st_mtime_ns for other in others)


def _write_day(job: Job, day: date, quiet: bool) -> DayProduct:
    from tqdm import tqdm

    from mmnet_maps.write import DayWriter

    about = describe(job)
    tags = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    tags |= {"date": day.isoformat(), "stack_fingerprint": job.inputs_fingerprint(day)}
    with (
        DayWriter(
            job.out,
            name=job.area.name,
            day=day,
            geobox=job.grid,
            layers=list(LAYERS),
            synthetic=job.synthetic,
            tags=tags,
            properties={f"mmnet:{key}": value for key, value in about.items()},
            fingerprint=job.fingerprint(day),
        ) as writer,
        tqdm(total=len(job.pieces), unit="tile", desc=str(day), disable=quiet) as bar,
    ):
        for tile, layers in computed_tiles(job, day):
            writer.write(tile.rows, tile.cols, {name: LAYERS[name].pack(values) for name, values in layers.items()})
            bar.update()
        return writer.finish(lambda layers, path: _draw(job, {day: layers}, path))


def _draw(job: Job, days: Mapping[date, dict[str, Path]], path: Path) -> None:
    from mmnet_maps.picture import DayPicture, draw

    draw(
        path,
        [DayPicture(day=day, layers=layers) for day, layers in days.items()],
        job.area.geometry,
        title=title(job),
        source=source_line(job),
        synthetic=job.synthetic,
    )


def computed_tiles(job: Job, day: date) -> Iterator[tuple[Tile, dict[str, NDArray[Any]]]]:
    """The tiles of a day in order, the next one being computed while one is used; never more than three are held."""
    with ThreadPoolExecutor(2) as pool:
        yield from in_order(pool, job.pieces, lambda tile: map_tile(job, tile, day), ahead=2)


def _computed(spec: ModelSpec, grid: GeoBox, day: date, pixels: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
    """The features that follow from place and day."""
    columns = {"doy": np.full(len(pixels), day.timetuple().tm_yday, np.float32)}
    if {"latitude", "longitude"} & {feature.name for feature in spec.snapshot}:
        longitude, latitude = lonlat(grid)
        columns |= {"longitude": longitude.ravel()[pixels], "latitude": latitude.ravel()[pixels]}
    return columns


def _distinct_series(block: Block, pixels: NDArray[np.intp]) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.intp]]:
    """Series (cells, steps) of every distinct combination of coarse cells, and for each pixel which one is its own."""
    places: dict[str, NDArray[np.int64]] = {}
    key = np.zeros(len(pixels), np.int64)
    for name in dict.fromkeys(block.groups.values()):
        rows, cols = (index.ravel()[pixels].astype(np.int64) for index in block.cells[name])
        width = next(values.shape[2] for v, values in block.series.items() if block.groups[v] == name)
        height = next(values.shape[1] for v, values in block.series.items() if block.groups[v] == name)
        places[name] = rows * width + cols
        key = key * (height * width) + places[name]
    _, first, cell = np.unique(key, return_index=True, return_inverse=True)
    series = {}
    for variable, values in block.series.items():
        place = places[block.groups[variable]][first]
        series[variable] = np.ascontiguousarray(values.reshape(values.shape[0], -1)[:, place].T)
    return series, cell


def _unusual(
    spec: ModelSpec, snapshot: NDArray[np.float32], series: NDArray[np.float32], cell: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Pixels with an encoded input outside the range seen in training, where the model knows it."""
    from mmnet_maps.features import outside

    found: NDArray[np.bool_] = np.zeros(len(snapshot), bool)
    if spec.snapshot_range is not None:
        found |= outside(snapshot, spec.snapshot_range)
    if spec.series_range is not None:
        steps = outside(series.reshape(-1, series.shape[-1]), spec.series_range).reshape(series.shape[:2])
        found |= np.any(steps, axis=1)[cell]
    return found


def _spread(values: NDArray[Any], pixels: NDArray[np.intp], inside: NDArray[np.bool_], fill: Any) -> NDArray[Any]:
    """Put the pixels' values back in their places."""
    full = np.full(inside.size, fill, values.dtype)
    full[pixels] = values
    return full.reshape(inside.shape)
