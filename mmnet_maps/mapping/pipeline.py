"""The route of a map: area and days → grid → inputs in a stack → engine → layers → files.

Read `make_maps` first, then `write_days`, in which three stages run at once: while one part of a map is computed, the
next one is read and the previous one is written.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import cover, lonlat
from mmnet_maps.grid.mask import area_mask
from mmnet_maps.grid.tiles import Tile
from mmnet_maps.mapping.apart import EngineApart, Other
from mmnet_maps.mapping.borrowed import Borrowed
from mmnet_maps.mapping.kept_models import keep_models, model_links
from mmnet_maps.mapping.no_value import Tally, sentence, why_in_files
from mmnet_maps.mapping.prefetch import abreast, ahead
from mmnet_maps.mapping.request import Request, describe, open_stack, prepare, source_line, title
from mmnet_maps.mapping.usual import compare_layers, samples_on
from mmnet_maps.product import picture
from mmnet_maps.product.layers import LAYERS, compose
from mmnet_maps.product.member_store import ARRAY as MEMBERS
from mmnet_maps.product.picture_panels import Cells
from mmnet_maps.product.quality import Mask, QualityFlags, unknown_cover
from mmnet_maps.resources import cores
from mmnet_maps.settings import MapOptions
from mmnet_maps.stack.availability import Picked
from mmnet_maps.stack.reader import Block, Snapshot, read_block

if TYPE_CHECKING:
    from mmnet_maps.model.spec import ModelSpec
    from mmnet_maps.product.climatology import Samples
    from mmnet_maps.product.day_writer import DayProduct, DayWriter
    from mmnet_maps.stack.store import Stack

log = logging.getLogger("mmnet_maps")

Layers = dict[str, NDArray[Any]]
Packed = dict[str, NDArray[Any]]

_MOST_READERS = 4  # tiles read at once; each takes .3 s of a core, and the network on a GPU a tenth of that


@dataclass(frozen=True, kw_only=True)
class MadeMaps:
    """Finished maps: one product per day, in order, and the picture of all days together, if there are several."""

    products: list[DayProduct]
    overview: Path | None


def make_maps(
    aoi: Any, dates: Any, *, quiet: bool = False, other: Other | None = None, **options: Unpack[MapOptions]
) -> MadeMaps:
    """Make the maps of an area on some days and write them; finished maps with the same fingerprint are kept.

    Parameters
    ----------
    aoi, dates, **options
        As `lazy.downscale_product`.
    out
        Output folder.
    quiet
        No progress bar.
    other
        A process that computes beside this one.

    Raises
    ------
    RequestError
        When area, dates, model or an option are wrong.
    InputError
        When inputs are missing or broken.
    OutputError
        When the folder cannot be written or holds a file of the same name that is not ours.
    """
    from mmnet_maps.product.qgis import write_styles
    from mmnet_maps.product.stac_catalog import write_catalog

    request = prepare(aoi, dates, quiet=quiet, **options)  # area, days → grid, tiles → recipe → inputs in a stack
    _check_targets(request)
    products = _finished(request)
    missing = [day for day in request.days if day not in products]
    engine = EngineApart(other, request) if other and "torch" not in sys.modules else None
    if other and missing:
        Thread(target=picture.import_matplotlib).start()  # while the other process imports torch
    for days in request.day_batches(missing):
        products |= write_days(request, days, quiet=quiet, engine=engine, pictures=True)  # read → engine → files
    made = [products[day] for day in request.days]
    overview = _draw_overview(request, made) if len(made) > 1 else None
    for product in made:
        if product.why_empty:
            log.warning(sentence(request.area.name, product.day, product.why_empty))
    keep_models(request.run.out, request.saved)
    write_catalog(request.run.out, request.days)
    write_styles(request.run.out)
    return MadeMaps(products=made, overview=overview)


def write_days(
    request: Request,
    days: Sequence[date],
    *,
    quiet: bool = False,
    engine: EngineApart | None = None,
    pictures: bool = False,
    also: Callable[[Tile, date, Packed, str], None] | None = None,
) -> dict[date, DayProduct]:
    """Make and write the products of some days together.

    Parameters
    ----------
    request
        From `request.prepare`.
    days
        At most as many as in one of `request.Request.day_batches`.
    quiet
        No progress bar.
    engine
        See `compute_layers`.
    pictures
        Draw a picture of each day.
    also
        Called with every tile, day, packed layers and fingerprint before the day's product is complete.

    Raises
    ------
    InputError
        When inputs are damaged, or were changed while they were read.
    OutputError
        When something cannot be written.
    """
    from tqdm import tqdm

    span = " … ".join(map(str, days[:: len(days) - 1 or 1]))
    stop = Event()
    with (
        ExitStack() as opened,
        tqdm(total=len(request.tiles) * len(days), unit="tile", desc=span, disable=quiet) as bar,
    ):
        writers = {day: opened.enter_context(_writer(request, day)) for day in days}
        tallies = {day: Tally() for day in days}
        parts = read_parts(request, request.tiles, days)
        results = opened.enter_context(closing(ahead(compute_layers(request, parts, stop, engine), stop)))
        for part, layers in results:
            packed = {name: LAYERS[name].pack(values) for name, values in layers.items() if name in LAYERS}
            writers[part.day].write(part.tile.rows, part.tile.cols, packed, layers.get(MEMBERS))
            _count(request, tallies[part.day], part, layers)
            if also is not None:
                also(part.tile, part.day, packed, writers[part.day].revision.fingerprint)
            bar.update()
        made = {day: _finish(request, writer, day, pictures) for day, writer in writers.items()}
    return {day: replace(product, why_empty=tallies[day].why()) for day, product in made.items()}


def _count(request: Request, tally: Tally, part: Part, layers: Layers) -> None:
    """Add a part to the tally of its map."""
    from mmnet_maps.model.features import required

    tally.count(layers["quality"], layers["soil_moisture"])
    if not tally.valued:
        fine = {name: part.snapshot.fine[name] for name in required(request.spec.snapshot)}
        tally.count_inputs(fine, part.block, part.number, part.inside & ~part.unknown, request.needs)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Inputs of one tile on one day, or of some of its pixels.

    Attributes
    ----------
    tile, inside, unknown
        The tile; its pixels (y, x) in the area; those with a land cover that the model does not know.
    block, snapshot, number
        Inputs of the tile on all days that are mapped together, those of this day, and its position among the days.
    columns, series_id
        Arguments of `engine.Engine.predict`, (pixels,) and (groups, pixels); no series cell outside and on unknown land
        cover.
    picked
        Rows and columns of the pixels in the tile; None where all are computed.
    """

    tile: Tile
    inside: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    block: Block
    snapshot: Snapshot
    number: int
    columns: Layers
    series_id: NDArray[np.int32]
    picked: Picked | None = None

    @property
    def day(self) -> date:
        """The day of the map."""
        return self.snapshot.day


def read_parts(
    request: Request, tiles: Iterable[Tile], days: Sequence[date], readers: int | None = None
) -> Iterator[Part]:
    """Read tiles, each day in turn; at the end, log which coarse variables have values from neighbouring cells.

    On machines with many cores several tiles are read at once, at most `_MOST_READERS` (see `abreast`).
    """
    stack, smap_resampling = open_stack(request.stack), request.recipe.smap_resampling

    def of_tile(tile: Tile) -> Iterator[Part]:
        inside = area_mask(request.area, tile.geobox, touched=request.touched)
        block = read_block(stack, tile.geobox, request.needs, days, smap_resampling=smap_resampling, wanted=inside)
        yield from _parts(request, tile, inside, block)

    borrowed = Borrowed(stack)
    for part in abreast(map(of_tile, tiles), readers or min(_MOST_READERS, max(1, cores() // 4))):
        if part.number == 0:
            borrowed.add(part.block)
        yield part
    borrowed.report()


def read_pixels(request: Request, stack: Stack, tile: Tile, picked: Picked, days: Sequence[date]) -> Iterator[Part]:
    """Read some pixels of a tile of a stack, each day in turn; arrays are (1, n)."""
    resampling = request.recipe.smap_resampling
    block = read_block(stack, tile.geobox, request.needs, days, smap_resampling=resampling, picked=picked)
    yield from _parts(request, tile, np.ones(block.series_id.shape[1:], bool), block, picked)


def _parts(request: Request, tile: Tile, inside: Mask, block: Block, picked: Picked | None = None) -> Iterator[Part]:
    spec = request.spec
    classes = next((feature.classes for feature in spec.snapshot if feature.name == "landcover"), ())
    place = _place(spec, tile, picked)
    unknown, series_id = np.zeros(0, bool), block.series_id
    for number, snapshot in enumerate(block.snapshots):
        if number == 0:  # land cover is the same on all days
            unknown = unknown_cover(snapshot.fine["landcover"], classes)
            series_id = np.where(unknown, np.int32(-1), block.series_id).reshape(len(block.groups), -1)
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
            series_id=series_id,
            picked=picked,
        )


def _place(spec: ModelSpec, tile: Tile, picked: Picked | None) -> Layers:
    """Return the features that follow from the place."""
    if not {"latitude", "longitude"} & {feature.name for feature in spec.snapshot}:
        return {}
    longitude, latitude = (part if picked is None else part[picked] for part in lonlat(tile.geobox))
    return {"longitude": longitude.ravel(), "latitude": latitude.ravel()}


def compute_layers(
    request: Request, parts: Iterator[Part], stop: Event | None = None, other: EngineApart | None = None
) -> Iterator[tuple[Part, Layers]]:
    """Run the engine on each part and compose its layers, prefetching the next part.

    Parts take about 70 MB each. Three are in memory at most: one being read, one waiting, one being computed; where
    several tiles are read at once, two and as many as are read. What depends on the series alone is computed on the
    first day of a tile, for all its days.

    Parameters
    ----------
    request
        The request.
    parts
        From `read_parts` or `read_pixels`, in their order.
    stop
        Once it is set, the computation ends with `prediction.StoppedError`.
    other
        An engine in another process; None for that of the request.

    Yields
    ------
    part, layers
        Layers as `layers.compose`, arrays (y, x) of the tile, and the members where they are kept.
    """
    terms: Sequence[Any] = []  # by day, for the same engine
    samples: Samples | None = None
    for part in ahead(parts):
        engine = other or request.engine  # the first time torch is imported, while the next part is read
        if part.number == 0:
            terms = []  # frees those of the previous tile
            terms = engine.encode_days(part.block.series, part.block.starts, stop)
            if request.climatology is not None:
                samples = samples_on(request.climatology, part.tile.geobox, part.picked)
        found = engine.predict(
            part.columns, terms[part.number], part.series_id, keep_members=request.recipe.members, stop=stop
        )
        fine, shape = part.snapshot.fine, part.inside.shape
        layers = compose(
            found.estimate.reshape(shape),
            fine["smap"],
            std=None if found.std is None else found.std.reshape(shape),
            inside=part.inside,
            unknown=part.unknown,
            bulk_density=part.snapshot.physical("bulk_density") if "bulk_density" in fine else None,
            flags=_quality_flags(request, part, found.outside.reshape(shape)),
        )
        if samples is not None:
            layers |= compare_layers(samples, layers, part.day)
        if found.members is not None:
            layers[MEMBERS] = found.members.reshape(-1, *shape)
        yield part, layers


def map_tile(request: Request, tile: Tile, day: date) -> Layers:
    """Compute all layers of one tile on one day."""
    return next(layers for _, layers in compute_layers(request, read_parts(request, [tile], [day])))


def _quality_flags(request: Request, part: Part, outside: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Return the quality bits of every pixel: its own and those of its series cells."""
    snapshot = part.snapshot
    bits = QualityFlags(
        ages=snapshot.ages,
        backscatter={name: snapshot.physical(name) for name in ("vv", "vh") if name in snapshot.fine},
        gap_filled=snapshot.gap_filled,
        outside_training=outside,
        synthetic=request.synthetic,
    ).bits(part.inside.shape)
    for names, rows, filled in zip(part.block.groups, part.block.series_id, snapshot.series_gap_filled, strict=True):
        lst = (snapshot.lst_filled, snapshot.surface_temperature) if "lst" in names else (None, None)
        of_cells = QualityFlags(lst_filled=lst[0], surface_temperature=lst[1], gap_filled=filled).bits(filled.shape)
        bits |= np.append(of_cells, np.uint16(0))[rows]  # row -1 takes the 0 at the end
    return bits


def _check_targets(request: Request) -> None:
    """Make sure, before anything is computed, that all files can be written."""
    from mmnet_maps.files import refuse_foreign
    from mmnet_maps.product.day_writer import check_target
    from mmnet_maps.product.stac_catalog import check_catalog

    out, name, synthetic, recipe = request.run.out, request.area.name, request.synthetic, request.recipe
    check_catalog(out, request.days)
    for day in request.days:
        check_target(out, name, day, synthetic, request.layers, members=recipe.members, area=recipe.place_id)
    if len(request.days) > 1:
        refuse_foreign(request.overview)


def _finished(request: Request) -> dict[date, DayProduct]:
    """Find the products that were already made by the same recipe from the same inputs."""
    from mmnet_maps.files import DRIVER_ERRORS
    from mmnet_maps.product.day_writer import completed

    found = {}
    for day in request.days:
        product = completed(request.run.out, request.area.name, day, request.synthetic, request.fingerprint(day))
        if product is not None:
            log.info("%s exists, made from the same inputs by the same model: kept", product.item)
            with suppress(*DRIVER_ERRORS):
                product = replace(product, why_empty=why_in_files(product))
            found[day] = product
    return found


def _writer(request: Request, day: date) -> DayWriter:
    from mmnet_maps.product.day_writer import DayWriter, Revision

    about = describe(request)
    tags = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    inputs = request.inputs_fingerprint(day)
    tags |= {"date": day.isoformat(), "stack_fingerprint": inputs}
    revision = Revision(
        name=request.area.name,
        day=day,
        synthetic=request.synthetic,
        geobox=request.grid,
        layers=request.layers,
        tags=tags,
        properties={f"mmnet:{key}": value for key, value in about.items()} | {"mmnet:area": request.recipe.place_id},
        fingerprint=request.recipe.fingerprint(day, inputs),
        members=request.members if request.recipe.members else 0,
        links=model_links(request.saved),
    )
    return DayWriter(request.run.out, revision)


def _finish(request: Request, writer: DayWriter, day: date, pictures: bool) -> DayProduct:
    """Complete the product of a day, unless its inputs or its model were changed in the meantime."""
    request.check_models()
    if request.fingerprint(day) != writer.revision.fingerprint:
        raise InputError(
            f"the stack {request.stack} was changed while the map of {day} was made from it; nothing of that day was "
            "kept: run again"
        )
    return writer.finish(partial(_draw_day, request, day) if pictures else None)


def _draw_day(request: Request, day: date, layers: dict[str, Path], path: Path) -> None:
    _draw(request, {day: layers}, path)


def _draw_overview(request: Request, made: Sequence[DayProduct]) -> Path:
    """Draw all days together on one colour scale, unless the picture is newer than all of them."""
    path = request.overview
    newest = max(product.item.stat().st_mtime_ns for product in made)
    if not path.exists() or path.stat().st_mtime_ns < newest:
        _draw(request, {product.day: product.layers for product in made}, path)
    return path


def _draw(request: Request, days: Mapping[date, dict[str, Path]], path: Path) -> None:
    stack = open_stack(request.stack)
    lattice = stack.group_of("smap").lattice
    window = cover(request.grid, lattice)
    transform, crs = lattice[window].affine, str(lattice.crs)
    picture.draw(
        path,
        [
            picture.DayPicture(
                day=day,
                layers=layers,
                cells=Cells(values=stack.read("smap", window, day), transform=transform, crs=crs),
            )
            for day, layers in days.items()
        ],
        request.area.geometry,
        title=title(request),
        source=source_line(request),
        synthetic=request.synthetic,
    )
