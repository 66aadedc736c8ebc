"""The straight line: area and days → grid → stack → features → engine → product → files, top to bottom."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import date
from functools import partial
from operator import itemgetter
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import lonlat
from mmnet_maps.grid.mask import area_mask
from mmnet_maps.grid.tiles import Tile, tiles
from mmnet_maps.mapping.request import Request, describe, open_stack, prepare, source_line, title
from mmnet_maps.product.layers import LAYERS, Mask, QualityFlags, attributes, compose, unknown_cover
from mmnet_maps.product.member_store import ARRAY as MEMBERS
from mmnet_maps.product.member_store import ATTRIBUTES
from mmnet_maps.settings import MapOptions
from mmnet_maps.stack.reader import Block, Picked, Snapshot, read_block
from mmnet_maps.variables import VARIABLES

if TYPE_CHECKING:
    import xarray as xr

    from mmnet_maps.model.engine import SeriesTerms
    from mmnet_maps.model.spec import ModelSpec
    from mmnet_maps.product.day_writer import DayProduct, DayWriter

log = logging.getLogger("mmnet_maps")

Layers = dict[str, NDArray[Any]]
Packed = dict[str, NDArray[np.uint16]]
T = TypeVar("T")

_OUTSIDE: Layers = {"quality": np.array(1, np.uint16)}


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
        ``"earthengine"``, a sources YAML or ``"demo"``, instead of a stack; what it gives is kept in a cache. Without
        either: ``$MMNET_STACK``, the settings file, Earth Engine where somebody is signed in, else the demo world.
    model
        Folder of a checkpoint, or the name of a packaged one (default ``mmnet-uscrn``); a list is an ensemble, whose
        mean is mapped.
    resolution, crs
        Pixel size in units of the coordinate reference system, and that system (default 100 m, EPSG:5070).
    smap_resampling
        ``"bilinear"`` between SMAP cell centres (default), or ``"nearest"``.
    uncertainty
        Monte Carlo dropout members for a standard deviation (default 0: none; several models have one anyway).
    members
        True for the members themselves, not clipped, as ``soil_moisture_members`` (time, member, y, x).
    device
        ``"auto"`` (default), ``"cpu"`` or ``"cuda"``.
    precision
        ``"float32"`` (default), or ``"bfloat16"`` for the products of matrices, with about three digits.
    threads
        Processor cores for the network (default: all).
    config
        YAML file with any of these settings (default ``mmnet.yaml``, where there is one).

    Returns
    -------
    xarray.Dataset
        Dask-backed (time, y, x): ``soil_moisture`` and ``smap`` float32 in m³/m³, NaN where nodata; ``quality`` uint16,
        see `layers.QUALITY_BITS`; with members ``soil_moisture_std`` as well. One chunk is one tile; nothing is
        computed before it is asked for.

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


def mapped(
    request: Request, pieces: Iterable[Tile], days: Sequence[date], stop: Event | None = None
) -> Iterator[tuple[Tile, date, Layers]]:
    """Compute tiles and days: `computed` of `read_parts`, the route of the data from the stack to the product.

    While a tile is computed the next one is read. Three are in memory at most: one being read, one waiting, one being
    computed, about 70 MB each.

    Parameters
    ----------
    request
        The request.
    pieces, days
        Tiles and days, in order; at most as many days as in one of `request.Request.day_batches`.
    stop
        Once it is set, what is being computed ends with `engine.StoppedError`.

    Yields
    ------
    tile, day, layers
        Tile by tile and day by day; layers as `layers.compose`, arrays (y, x) of the tile.
    """
    for part, layers in computed(request, read_parts(request, pieces, days), stop):
        yield part.tile, part.snapshot.day, layers


def computed(request: Request, parts: Iterator[Part], stop: Event | None = None) -> Iterator[tuple[Part, Layers]]:
    """What parts come to, each read while the one before is computed; errors and layers as `mapped`.

    What depends on the series alone is computed for all days of a block at its first.
    """
    engine, block = request.engine, None
    groups: Iterable[list[SeriesTerms]] = ()
    for part in ahead(parts):
        fine, shape = part.snapshot.fine, part.inside.shape
        if part.block is not block:
            block, groups = part.block, ()  # the last one's make room
            groups = engine.encode_in_groups(block.series, block.starts, stop)
            groups = [*groups] if len(block.starts) > 1 else groups
        terms = map(itemgetter(part.number), groups)
        found = engine.predict(part.columns, terms, part.series_id, keep_members=request.recipe.members, stop=stop)
        layers = compose(
            found.estimate.reshape(shape),
            fine["smap"],
            std=None if found.std is None else found.std.reshape(shape),
            inside=part.inside,
            unknown=part.unknown,
            bulk_density=VARIABLES["bulk_density"].unpack(fine["bulk_density"]) if "bulk_density" in fine else None,
            evidence=_quality_flags(request, part, found.outside.reshape(shape)),
        )
        if found.members is not None:
            layers[MEMBERS] = found.members.reshape(-1, *shape)
        yield part, layers


@dataclass(frozen=True, kw_only=True)
class Part:
    """One tile on one day, or some pixels of it, read.

    Attributes
    ----------
    tile, inside, unknown
        The tile; its pixels (y, x) in the area; those with a land cover that the model does not know.
    block, snapshot, number
        What the tile's maps are made from, this day's, and which of the block's days it is.
    columns, pair
        The same as `engine.Engine.predict` takes it, (pixels,); no pair outside and on unknown land cover.
    """

    tile: Tile
    inside: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    block: Block
    snapshot: Snapshot
    number: int
    columns: Layers
    series_id: NDArray[np.int32]


def read_parts(request: Request, pieces: Iterable[Tile], days: Sequence[date]) -> Iterator[Part]:
    """Read tiles, each day in turn."""
    stack = open_stack(request.stack)
    for tile in pieces:
        inside = area_mask(request.area, tile.geobox, touched=request.touched)
        block = read_block(
            stack, tile.geobox, request.needs, days, smap_resampling=request.recipe.smap_resampling, wanted=inside
        )
        yield from _parts(request, tile, inside, block)


def read_pixels(request: Request, tile: Tile, picked: Picked, days: Sequence[date]) -> Iterator[Part]:
    """Read some pixels of a tile, each day in turn, as `read_parts` reads all; arrays are (1, n)."""
    block = read_block(
        open_stack(request.stack),
        tile.geobox,
        request.needs,
        days,
        smap_resampling=request.recipe.smap_resampling,
        picked=picked,
    )
    yield from _parts(request, tile, np.ones_like(block.series_id, bool), block, picked)


def _parts(request: Request, tile: Tile, inside: Mask, block: Block, picked: Picked | None = None) -> Iterator[Part]:
    spec = request.engine.spec
    classes = next((feature.classes for feature in spec.snapshot if feature.name == "landcover"), ())
    place = _place(spec, tile, picked)
    for number, snapshot in enumerate(block.snapshots):
        unknown = unknown_cover(snapshot.fine["landcover"], classes)
        yield Part(
            tile=tile,
            inside=inside,
            unknown=unknown,
            block=block,
            snapshot=snapshot,
            number=number,
            columns={
                **{name: values.ravel() for name, values in snapshot.fine.items()},
                **place,
                "doy": np.array([snapshot.day.timetuple().tm_yday], np.float32),
            },
            series_id=np.where(unknown, np.int32(-1), block.series_id).ravel(),
        )


def ahead(items: Iterator[T], stop: Event | None = None) -> Generator[T]:
    """The same items, each made in another thread while the one before is used.

    When it is left early `stop` is set, so that the item under way need not be waited for.
    """
    end = object()
    with ThreadPoolExecutor(1) as pool:
        try:
            waiting = pool.submit(next, items, end)
            while (item := waiting.result()) is not end:
                waiting = pool.submit(next, items, end)
                yield item  # type: ignore[misc]
        finally:
            if stop is not None:
                stop.set()


def map_tile(request: Request, tile: Tile, day: date) -> Layers:
    """Compute all layers of one tile of one day, as `mapped`."""
    return next(layers for _, _, layers in mapped(request, [tile], [day]))


def _quality_flags(request: Request, part: Part, outside: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Quality bits of every pixel, its own and those of its pair."""
    snapshot = part.snapshot
    pairs = QualityFlags(
        lst_filled=snapshot.lst_filled,
        surface_temperature=snapshot.surface_temperature,
        gap_filled=snapshot.series_gap_filled,
    ).bits(snapshot.lst_filled.shape)
    pixels = QualityFlags(
        ages=snapshot.ages,
        backscatter={name: snapshot.fine[name] for name in ("vv", "vh") if name in snapshot.fine},
        gap_filled=snapshot.gap_filled,
        outside_training=outside,
        synthetic=request.synthetic,
    ).bits(part.inside.shape)
    pixels |= np.append(pairs, np.uint16(0))[part.block.series_id]  # without a pair: the last
    return pixels


def lazy(request: Request) -> xr.Dataset:
    """The request's product as a Dask-backed dataset, one task a tile and day; the model is loaded once a process."""
    import dask.array as da
    import rioxarray  # noqa: F401  (arrays answer .rio)
    import xarray as xr
    from dask.delayed import delayed
    from odc.geo.xr import xr_coords

    compute = delayed(map_tile, pure=False)
    wanted = {tile.id for tile in request.tiles}
    outside = {name: _OUTSIDE.get(name, np.array(np.nan, np.float32)) for name in request.layers}
    lead: dict[str, tuple[int, ...]] = dict.fromkeys(outside, ())
    if request.recipe.members:
        outside[MEMBERS], lead[MEMBERS] = np.array(np.nan, np.float32), (request.engine.members,)
    stacked: dict[str, list[Any]] = {name: [] for name in outside}
    for day in request.days:
        rows: dict[int, list[dict[str, Any]]] = {}
        for tile in tiles(request.grid):
            layers = compute(request, tile, day) if tile.id in wanted else None
            rows.setdefault(tile.rows.start, []).append(
                {
                    name: da.full(shape, fill, dtype=fill.dtype, chunks=shape)
                    if layers is None
                    else da.from_delayed(layers[name], shape, dtype=fill.dtype)
                    for name, fill in outside.items()
                    for shape in [(*lead[name], *tile.geobox.shape)]
                }
            )
        for name, days in stacked.items():
            days.append(da.block([[piece[name] for piece in row] for row in rows.values()]))
    coords = xr_coords(request.grid, dims=("y", "x"))
    times = np.array(request.days, dtype="datetime64[ns]")
    product = xr.Dataset(
        {name: (("time", *["member"] * len(lead[name]), "y", "x"), da.stack(days)) for name, days in stacked.items()},
        coords={"time": times, **coords},
    )
    if request.recipe.members:
        product = product.assign_coords(member=np.arange(1, request.engine.members + 1))
        product[MEMBERS].attrs = dict(ATTRIBUTES)
    return attributes(product, describe(request))


def write_maps(request: Request, *, quiet: bool = False) -> list[DayProduct]:
    """Make and write the product of every day of a request; finished products with the same fingerprint are kept.

    Of several days a picture that shows them together on one colour scale is drawn beside their folders.

    Parameters
    ----------
    request
        From `request.prepare`.
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
    from mmnet_maps.files import refuse_foreign
    from mmnet_maps.product.day_writer import check_target, completed
    from mmnet_maps.product.qgis import write_styles
    from mmnet_maps.product.stac_catalog import check_catalog, write_catalog

    check_catalog(request.run.out, request.days)
    for day in request.days:
        check_target(
            request.run.out, request.area.name, day, request.synthetic, request.layers, members=request.recipe.members
        )
    if len(request.days) > 1:
        refuse_foreign(request.overview)
    there = {
        day: completed(request.run.out, request.area.name, day, request.synthetic, request.fingerprint(day))
        for day in request.days
    }
    for product in filter(None, there.values()):
        log.info("%s is there already, made from the same inputs by the same model: kept", product.item)
    new: dict[date, DayProduct] = {}
    for days in request.day_batches([day for day, product in there.items() if product is None]):
        new |= write_days(request, days, quiet=quiet)
    done = [there[day] or new[day] for day in request.days]
    if len(done) > 1 and not _is_newer(request.overview, [product.item for product in done]):
        _draw(request, {product.day: product.layers for product in done}, request.overview)
    write_catalog(request.run.out, request.days)
    write_styles(request.run.out)
    return done


def _is_newer(path: Path, others: Sequence[Path]) -> bool:
    return path.exists() and path.stat().st_mtime_ns >= max(other.stat().st_mtime_ns for other in others)


def write_days(
    request: Request,
    days: Sequence[date],
    *,
    quiet: bool = False,
    pictures: bool = True,
    also: Callable[[Tile, date, Packed], None] | None = None,
) -> dict[date, DayProduct]:
    """Make the products of some days together: what one tile has to be read, computed and written runs at once.

    Parameters
    ----------
    request, quiet
        As `write_maps`.
    days
        At most as many as in one of `request.Request.day_batches`.
    pictures
        Whether a picture of each day is drawn.
    also
        Called with every tile, day and packed layers before the day's product is there.

    Raises
    ------
    InputError
        When inputs are damaged, or were changed while they were read.
    OutputError
        When something cannot be written.
    """
    from tqdm import tqdm

    with (
        ExitStack() as open_days,
        tqdm(
            total=len(request.tiles) * len(days),
            unit="tile",
            desc=" … ".join(map(str, days[:: len(days) - 1 or 1])),
            disable=quiet,
        ) as bar,
    ):
        writers = {day: open_days.enter_context(_writer(request, day)) for day in days}
        stop = Event()
        results = open_days.enter_context(closing(ahead(mapped(request, request.tiles, days, stop), stop)))
        for tile, day, layers in results:
            packed = {name: LAYERS[name].pack(values) for name, values in layers.items() if name in LAYERS}
            writers[day].write(tile.rows, tile.cols, packed, layers.get(MEMBERS))
            if also is not None:
                also(tile, day, packed)
            bar.update()
        done = {}
        for day, writer in writers.items():
            _ = request.engine  # raises if the model has changed
            if request.fingerprint(day) != writer.revision.fingerprint:
                raise InputError(
                    f"the stack {request.stack} was changed while the map of {day} was made from it; nothing of that "
                    "day was kept: run again"
                )
            done[day] = writer.finish(partial(_draw_day, request, day) if pictures else None)
        return done


def _writer(request: Request, day: date) -> DayWriter:
    from mmnet_maps.product.day_writer import DayWriter, Revision

    about = describe(request)
    tags = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    tags |= {"date": day.isoformat(), "stack_fingerprint": request.inputs_fingerprint(day)}
    revision = Revision(
        name=request.area.name,
        day=day,
        synthetic=request.synthetic,
        geobox=request.grid,
        layers=request.layers,
        tags=tags,
        properties={f"mmnet:{key}": value for key, value in about.items()} | {"mmnet:area": request.recipe.place_id},
        fingerprint=request.fingerprint(day),
        members=request.engine.members if request.recipe.members else 0,
    )
    return DayWriter(request.run.out, revision)


def _draw_day(request: Request, day: date, layers: dict[str, Path], path: Path) -> None:
    _draw(request, {day: layers}, path)


def _draw(request: Request, days: Mapping[date, dict[str, Path]], path: Path) -> None:
    from mmnet_maps.product.picture import DayPicture, draw

    draw(
        path,
        [DayPicture(day=day, layers=layers) for day, layers in days.items()],
        request.area.geometry,
        title=title(request),
        source=source_line(request),
        synthetic=request.synthetic,
    )


def _place(spec: ModelSpec, tile: Tile, picked: Picked | None) -> Layers:
    """The features that follow from the place."""
    if not {"latitude", "longitude"} & {feature.name for feature in spec.snapshot}:
        return {}
    longitude, latitude = (part if picked is None else part[picked] for part in lonlat(tile.geobox))
    return {"longitude": longitude.ravel(), "latitude": latitude.ravel()}
