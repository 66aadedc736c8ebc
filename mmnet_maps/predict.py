"""The straight line: area and days → grid → stack → features → engine → product → files, top to bottom."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps import __version__
from mmnet_maps.aoi import Area, parse_days, read_aoi
from mmnet_maps.block import Block, Needs, SmapResampling, read_block, uses
from mmnet_maps.errors import RequestError
from mmnet_maps.fetch import fetch, in_order
from mmnet_maps.grid import Tile, area_mask, holds_a_centre, lonlat, stack_lattice, target_grid, tiles, touched_tiles
from mmnet_maps.inputs import open_inputs
from mmnet_maps.product import LAYERS, attributes, compose
from mmnet_maps.settings import MapOptions, settle
from mmnet_maps.sources import open_source
from mmnet_maps.stack import Stack

if TYPE_CHECKING:
    import xarray as xr

    from mmnet_maps.checkpoint import Checkpoint, ModelSpec
    from mmnet_maps.engine import Engine
    from mmnet_maps.write import DayProduct

PRODUCT_VERSION = 1

_OUTSIDE: dict[str, NDArray[Any]] = {
    "soil_moisture": np.array(np.nan, np.float32),
    "quality": np.array(1, np.uint16),
    "smap": np.array(np.nan, np.float32),
}

log = logging.getLogger("mmnet_maps")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A map request with everything decided: what is computed depends on nothing else.

    Attributes
    ----------
    area, grid, pieces
        The area, its pixels, and the tiles of the grid that it touches.
    days
        Days to map.
    model
        Folder of the checkpoint.
    stack
        Folder of the inputs, which hold all that is needed.
    out
        Output folder, for `write_maps`.
    needs
        What the model needs of the stack.
    smap_resampling
        How the SMAP field is brought to the pixels.
    device
        ``auto``, ``cpu`` or ``cuda``.
    """

    area: Area
    grid: GeoBox
    pieces: tuple[Tile, ...]
    days: tuple[date, ...]
    model: Path
    stack: Path
    out: Path
    needs: Needs
    smap_resampling: SmapResampling
    device: str

    @cached_property
    def touched(self) -> bool:
        """Whether the area is too small to hold a pixel centre, so that the pixels it touches are mapped."""
        return not holds_a_centre(self.area, self.grid)

    @cached_property
    def products(self) -> dict[str, str]:
        """The product behind each input of this map."""
        provenance = Stack(self.stack).provenance
        return {name: provenance[name].product for name in self.needs.variables}

    @cached_property
    def synthetic(self) -> bool:
        """Whether any input is synthetic."""
        provenance = Stack(self.stack).provenance
        return any(provenance[name].synthetic for name in self.needs.variables)

    def stand_ins(self) -> dict[str, str]:
        """Inputs that come from another product than in training, and which."""
        trained: dict[str, str] = _engine(self.model, self.device).checkpoint.spec.inputs
        return {
            name: f"{product} (trained on {trained[name]})"
            for name, product in self.products.items()
            if name in trained and trained[name] != product
        }

    def inputs_fingerprint(self, day: date) -> str:
        """Hash of all stack blocks that a map of `day` may read."""
        stack = Stack(self.stack)
        return stack.fingerprint(use for tile in self.pieces for use in uses(stack, tile.geobox, self.needs, day))

    def fingerprint(self, day: date) -> str:
        """Hash of checkpoint, grid, area, inputs and options of one day's product: the same hash, the same product."""
        parts = [
            PRODUCT_VERSION,
            _engine(self.model, self.device).checkpoint.fingerprint,
            str(self.grid.crs),
            tuple(self.grid.affine),
            tuple(self.grid.shape),
            self.area.geometry.wkb_hex,
            self.smap_resampling,
            day.isoformat(),
            self.inputs_fingerprint(day),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def prepare(aoi: Any, dates: Any, *, quiet: bool = False, **options: Unpack[MapOptions]) -> Job:
    """Read the request, load the model, and see to it that the inputs are there; parameters as `downscale_product`."""
    settings = settle(options)
    area = read_aoi(aoi)
    days = parse_days(dates)
    grid = target_grid(area, resolution=settings.resolution, crs=settings.crs)
    pieces = touched_tiles(area, grid)
    checkpoint = _load(settings.model)
    needs = needs_of(checkpoint.spec)
    job = Job(
        area=area,
        grid=grid,
        pieces=pieces,
        days=days,
        model=checkpoint.path,
        stack=open_inputs(settings, grid, pieces, needs, days, quiet=quiet),
        out=Path(settings.out),
        needs=needs,
        smap_resampling=settings.smap_resampling,
        device=settings.device,
    )
    _tell(job)
    return job


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


def fill_stack(aoi: Any, dates: Any, *, quiet: bool = False, **options: Unpack[MapOptions]) -> Path:
    """Bring what maps of an area and some days need from a source into the stack at `stack`, creating it if need be.

    Parameters
    ----------
    aoi, dates, quiet, source, model, resolution, crs
        As `downscale_product`.
    stack
        The store to fill.
    """
    out, source = options.pop("stack", None), options.get("source")
    if out is None or source is None:
        raise RequestError("a stack is filled from a source into a store: both are needed")
    settings = settle(options)
    area, days = read_aoi(aoi), parse_days(dates)
    grid = target_grid(area, resolution=settings.resolution, crs=settings.crs)
    needs = needs_of(_load(settings.model).spec)
    pieces = touched_tiles(area, grid)
    return fetch(out, open_source(str(source)), stack_lattice(grid), grid, pieces, needs, days, quiet=quiet).path


def map_tile(job: Job, tile: Tile, day: date) -> dict[str, NDArray[Any]]:
    """Compute all layers of one tile of one day: the route of the data, from the stack to the product.

    Returns
    -------
    dict
        As `product.compose`, arrays (y, x) of the tile.
    """
    from mmnet_maps.features import encode_series, encode_snapshot, outside, standardise

    engine = _engine(job.model, job.device)
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
    unusual: NDArray[np.bool_] = np.zeros(len(pixels), bool)
    if spec.snapshot_range is not None:
        unusual |= outside(snapshot_encoded, spec.snapshot_range)
    if spec.series_range is not None:
        flat = series_encoded.reshape(-1, series_encoded.shape[-1])
        odd: NDArray[np.bool_] = outside(flat, spec.series_range).reshape(series_encoded.shape[:2])
        unusual |= np.any(odd, axis=1)[cell]

    return compose(
        _spread(estimate, pixels, inside, np.nan),
        block.fine["smap"],
        inside=inside,
        landcover=block.fine["landcover"],
        known_classes=next((feature.classes for feature in spec.snapshot if feature.name == "landcover"), ()),
        bulk_density=block.fine.get("bulk_density"),
        ages=block.ages,
        lst_filled=block.filled,
        surface_temperature=block.series["lst"][-1][block.cells[block.groups["lst"]]]
        if "lst" in block.series
        else None,
        borrowed=block.borrowed,
        outside_training=_spread(unusual, pixels, inside, False),
        synthetic=job.synthetic,
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


def describe(job: Job) -> dict[str, Any]:
    """What a product says of itself: model, inputs, licences, software."""
    checkpoint = _engine(job.model, job.device).checkpoint
    provenance = Stack(job.stack).provenance
    used = [provenance[name] for name in job.needs.variables]
    return {
        "model": checkpoint.spec.name,
        "weights_sha256": checkpoint.sha256,
        "software": f"mmnet_maps {__version__}",
        "smap_resampling": job.smap_resampling,
        "synthetic": job.synthetic,
        "inputs": job.products,
        "stand_ins": job.stand_ins(),
        "licences": sorted({entry.licence for entry in used}),
        "reference": "Xu et al. (2025), JGR: Machine Learning and Computation, 2, e2025JH000639",
    }


def write_maps(job: Job, *, quiet: bool = False) -> list[DayProduct]:
    """Make and write the product of every day of a job; days whose product is there with the same fingerprint are left.

    Parameters
    ----------
    job
        From `prepare`.
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
    from mmnet_maps.write import check_target, completed

    done: list[DayProduct] = []
    for day in job.days:
        check_target(job.out, job.area.name, day, job.synthetic, list(LAYERS))
    for day in job.days:
        there = completed(job.out, job.area.name, day, job.synthetic, job.fingerprint(day))
        if there:
            log.info("%s is there already, made from the same inputs by the same model: kept", there.item)
        done.append(there or _write_day(job, day, quiet))
    return done


def _write_day(job: Job, day: date, quiet: bool) -> DayProduct:
    from tqdm import tqdm

    from mmnet_maps.picture import DayPicture, draw
    from mmnet_maps.write import DayWriter

    about = describe(job)
    tags = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    tags |= {"date": day.isoformat(), "stack_fingerprint": job.inputs_fingerprint(day)}

    def picture(layers: dict[str, Path], path: Path) -> None:
        draw(
            path,
            [DayPicture(day=day, layers=layers)],
            job.area.geometry,
            title=title(job),
            source=source_line(job),
            synthetic=job.synthetic,
        )

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
        return writer.finish(picture)


def computed_tiles(job: Job, day: date) -> Iterator[tuple[Tile, dict[str, NDArray[Any]]]]:
    """The tiles of a day in order, the next one being computed while one is used; never more than three are held."""
    with ThreadPoolExecutor(2) as pool:
        yield from in_order(pool, job.pieces, lambda tile: map_tile(job, tile, day), ahead=2)


def title(job: Job) -> str:
    """A title for pictures."""
    return job.area.name.replace("_", " ").title()


def source_line(job: Job) -> str:
    """The source line of pictures: model, inputs, software."""
    inputs = "; ".join(dict.fromkeys(job.products.values()))
    model = _engine(job.model, job.device).checkpoint.spec.name
    return f"Model {model} (MMNet, Xu et al. 2025). Inputs: {inputs}. mmnet_maps {__version__}."


def needs_of(spec: ModelSpec) -> Needs:
    """What a model needs of a stack; SMAP and land cover are always needed, for the product's layers and masks."""
    from mmnet_maps.features import required

    return Needs(
        snapshot=tuple(dict.fromkeys((*required(spec.snapshot), "smap", "landcover"))),
        series=required(spec.series),
        steps=spec.steps,
        includes_day=spec.includes_day,
    )


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


def _spread(values: NDArray[Any], pixels: NDArray[np.intp], inside: NDArray[np.bool_], fill: Any) -> NDArray[Any]:
    """Put the pixels' values back in their places."""
    full = np.full(inside.size, fill, values.dtype)
    full[pixels] = values
    return full.reshape(inside.shape)


def _load(model: str | Path) -> Checkpoint:
    from mmnet_maps.checkpoint import load_checkpoint

    return load_checkpoint(model)


@cache
def _engine(model: Path, device: str) -> Engine:
    """The engine of a checkpoint, loaded once a process."""
    from mmnet_maps.engine import Engine

    return Engine(_load(model), device)


def _tell(job: Job) -> None:
    """Say what a user should know before looking at the map."""
    if job.area.notice:
        log.warning(job.area.notice)
    if job.synthetic:
        log.warning(
            "SYNTHETIC INPUTS: this map shows an invented world, not observations. For real inputs give --stack STORE "
            "(see mmnet stack), --source CONFIG.yaml, or set MMNET_STACK."
        )
    elif job.stand_ins():
        log.warning("Other products than in training: %s", "; ".join(f"{k}: {v}" for k, v in job.stand_ins().items()))
