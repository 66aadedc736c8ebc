"""A map request with everything decided, before anything is computed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from odc.geo.geobox import GeoBox

from mmnet_maps import __version__
from mmnet_maps.errors import RequestError
from mmnet_maps.grid.area import Area, parse_days, read_aoi
from mmnet_maps.grid.tiles import Tile, grid_of_tiles, holds_a_centre, stack_lattice, target_grid, touched_tiles
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.settings import MapOptions, MapSettings, settle
from mmnet_maps.sources import open_source
from mmnet_maps.stack.fetch import Estimate, estimate, fetch
from mmnet_maps.stack.reader import Needs, SmapResampling, uses
from mmnet_maps.stack.resolve import open_inputs
from mmnet_maps.stack.store import Stack

if TYPE_CHECKING:
    from mmnet_maps.model.checkpoint import Checkpoint
    from mmnet_maps.model.engine import Engine
    from mmnet_maps.model.spec import Profile

PRODUCT_VERSION = 2

log = logging.getLogger("mmnet_maps")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A map request with everything decided: what is computed depends on nothing else.

    Attributes
    ----------
    area, grid, tiles
        The area, its pixels, and the tiles of the grid that it touches.
    days
        Days to map.
    models
        Folders of the checkpoints; several are an ensemble.
    stack
        Folder of the inputs, which hold all that is needed.
    out
        Output folder, for `write_maps`.
    needs
        What the model needs of the stack.
    smap_resampling
        How the SMAP field is brought to the pixels.
    touched
        Whether the area is too small to hold a pixel centre, so that the pixels it touches are mapped.
    draws
        Monte Carlo dropout members drawn from each checkpoint.
    members
        Whether the members themselves are kept.
    precision, device, threads
        How the networks are run (see `engine.Engine`).
    """

    area: Area
    grid: GeoBox
    tiles: tuple[Tile, ...]
    days: tuple[date, ...]
    models: tuple[Path, ...]
    stack: Path
    out: Path
    needs: Needs
    smap_resampling: SmapResampling
    touched: bool = False
    draws: int = 0
    members: bool = False
    precision: str = "float32"
    device: str = "auto"
    threads: int | None = None

    @property
    def engine(self) -> Engine:
        """The engine of the checkpoints, loaded once a process, and again when their files have changed."""
        stamps = tuple(
            (folder / name).stat().st_mtime_ns
            for folder in self.models
            for name in ("model.json", "weights.safetensors")
        )
        return _engine(self.models, stamps, self.device, self.precision, self.draws, self.threads)

    @property
    def layers(self) -> list[str]:
        """Names of the product's layers."""
        return [name for name in LAYERS if name != "soil_moisture_std" or self.engine.members]

    def day_batches(self, days: Sequence[date], most: int | None = None) -> list[tuple[date, ...]]:
        """Days to be mapped together, because their series overlap and they share observations.

        What is kept of a series takes memory for every day and network, so there are fewer days the more members,
        unless `most` days are said to be few enough.
        """
        most = most or self.engine.days_at_once
        day_batches: list[list[date]] = []
        for day in days:
            if day_batches and len(day_batches[-1]) < most and (day - day_batches[-1][-1]).days < self.needs.steps:
                day_batches[-1].append(day)
            else:
                day_batches.append([day])
        return [tuple(spell) for spell in day_batches]

    @cached_property
    def area_id(self) -> str:
        """Hash of the area and the grid: products of one name with another are of another area."""
        parts = [str(self.grid.crs), tuple(self.grid.affine), tuple(self.grid.shape), self.area.geometry.wkb_hex]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @cached_property
    def products(self) -> dict[str, str]:
        """The product behind each input of this map."""
        provenance = open_stack(self.stack).provenance
        return {name: provenance[name].product for name in self.needs.variables}

    @cached_property
    def synthetic(self) -> bool:
        """Whether any input is synthetic."""
        provenance = open_stack(self.stack).provenance
        return any(provenance[name].synthetic for name in self.needs.variables)

    @property
    def overview(self) -> Path:
        """The picture of all days together."""
        mark = "_synthetic" if self.synthetic else ""
        return self.out / f"{self.area.name}_{self.days[0]:%Y%m%d}_{self.days[-1]:%Y%m%d}{mark}.png"

    def substitutes(self) -> dict[str, str]:
        """Inputs that come from another product than in training, and which; an index by the product of its bands."""
        return substitutes(self.engine.spec.inputs, self.products)

    def inputs_fingerprint(self, day: date) -> str:
        """Hash of all stack blocks that a map of `day` may read."""
        stack = open_stack(self.stack)
        return stack.fingerprint(use for tile in self.tiles for use in uses(stack, tile.geobox, self.needs, day))

    def fingerprint(self, day: date) -> str:
        """Hash of checkpoint, grid, area, inputs and options of one day's product: the same hash, the same product."""
        parts = [
            PRODUCT_VERSION,
            [checkpoint.fingerprint for checkpoint in self.engine.checkpoints],
            self.draws,
            self.members,
            self.precision,
            str(self.grid.crs),
            tuple(self.grid.affine),
            tuple(self.grid.shape),
            self.area.geometry.wkb_hex,
            self.smap_resampling,
            day.isoformat(),
            self.inputs_fingerprint(day),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def open_stack(path: Path) -> Stack:
    """The stack at a path, opened once a process, and again when another one is there."""
    try:
        status = (path / "zarr.json").stat()
    except OSError:
        return Stack(path)  # which says what is wrong
    return _stack(path, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=4)
def _stack(path: Path, modified: int, inode: int) -> Stack:
    return Stack(path)


def substitutes(trained: Mapping[str, str], products: Mapping[str, str]) -> dict[str, str]:
    """Inputs that come from another product than in training, and which; an index by the product of its bands."""
    from mmnet_maps.model.features import INDICES

    found = {}
    for name, product in trained.items():
        parts = INDICES[name].bands if name in INDICES else (name,)
        mine = " and ".join(dict.fromkeys(products[part] for part in parts if part in products))
        if mine and mine != product:
            found[name] = f"{mine} (trained on {product})"
    return found


def prepare(aoi: Any, dates: Any, *, quiet: bool = False, **options: Unpack[MapOptions]) -> Job:
    """Read the request, load the model, and see to it that the inputs are there; parameters as `downscale_product`."""
    settings = settle(options)
    area = read_aoi(aoi)
    days = parse_days(dates)
    grid = target_grid(area, resolution=settings.resolution, crs=settings.crs)
    job = job_without_inputs(settings, area, grid, touched_tiles(area, grid), days)
    job = replace(job, stack=open_inputs(settings, grid, job.tiles, job.needs, days, quiet=quiet))
    tell(job)
    return job


def job_without_inputs(
    settings: MapSettings, area: Area, grid: GeoBox, pieces: tuple[Tile, ...], days: tuple[date, ...]
) -> Job:
    """A job whose stack is still to be found; a model that cannot run is told here."""
    models = tuple(_load(model).path.absolute() for model in settings.model)
    job = Job(
        area=area,
        grid=grid,
        tiles=pieces,
        days=days,
        models=models,
        stack=Path(),
        out=Path(settings.out),
        needs=needs_of(_load(models[0]).spec),
        smap_resampling=settings.smap_resampling,
        touched=not holds_a_centre(area, grid),
        draws=settings.uncertainty,
        members=settings.members,
        precision=settings.precision,
        device=settings.device,
        threads=settings.threads,
    )
    engine = job.engine
    if job.members and not engine.members:
        raise RequestError("members are asked for, but there are none; ask for an uncertainty, or give several models")
    return job


def fill_stack(
    aoi: Any,
    dates: Any,
    *,
    tiles: Sequence[str] | str | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    **options: Unpack[MapOptions],
) -> Path | str:
    """Bring what maps of an area and some days need from a source into the stack at `stack`, creating it if need be.

    Parameters
    ----------
    aoi, dates, quiet, source, model, resolution, crs
        As `downscale_product`.
    tiles
        Ids of tiles of the default grid, in place of an area; text is split at commas.
    dry_run
        Only say what it would take.
    stack
        The store to fill.

    Returns
    -------
    Path or str
        The stack; of a dry run a table.
    """
    out, source = options.pop("stack", None), options.get("source")
    if out is None or source is None:
        raise RequestError("a stack is filled from a source into a store: both are needed")
    if (aoi is None) == (tiles is None):
        raise RequestError("give either an area of interest (--aoi) or tiles (--tiles), to say where the stack is for")
    settings, days = settle(options), parse_days(dates)
    if tiles is None:
        area = read_aoi(aoi)
        grid = target_grid(area, resolution=settings.resolution, crs=settings.crs)
        pieces = touched_tiles(area, grid)
    else:
        grid, pieces = grid_of_tiles(tiles.split(",") if isinstance(tiles, str) else tiles)
    needs = needs_of(_load(settings.model[0]).spec)
    request = Path(out), open_source(str(source)), stack_lattice(grid), grid, pieces, needs, days
    return format_estimates(estimate(*request)) if dry_run else fetch(*request, quiet=quiet).path


def format_estimates(estimates: Sequence[Estimate]) -> str:
    """A table for people: what fetching would take."""
    if not estimates:
        return "nothing is missing: the stack holds all that is needed"
    rows = [("group", "from", "days", "reads", "stored, packed", "requests", "received")]
    for item in estimates:
        days = f"{item.days}, {item.first} to {item.last}" if item.days > 1 else "1"
        asked = (str(item.cost.requests), _megabytes(item.cost.bytes)) if item.cost else ("", "")
        rows.append((item.group, ", ".join(item.products), days, str(item.reads), _megabytes(item.bytes), *asked))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    table = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    costs = [item.cost for item in estimates if item.cost]
    total = f"together {_megabytes(sum(item.bytes for item in estimates))} to be stored, packed; less on disk"
    if costs:
        total += (
            f"; {sum(cost.requests for cost in costs)} requests to Earth Engine, "
            f"{_megabytes(sum(cost.bytes for cost in costs))} received, {sum(cost.values for cost in costs) / 1e6:.1f} "
            "million values computed there: that is what the project's quota of EECU-hours pays for; Earth Engine "
            "tells the price only afterwards"
        )
    return "\n".join([*table, total])


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def describe(job: Job) -> dict[str, Any]:
    """What a product says of itself: model, inputs, licences, software."""
    checkpoints = job.engine.checkpoints
    provenance = open_stack(job.stack).provenance
    used = [provenance[name] for name in job.needs.variables]
    return {
        "model": ", ".join(checkpoint.spec.name for checkpoint in checkpoints),
        "weights_sha256": ", ".join(checkpoint.sha256 for checkpoint in checkpoints),
        **({"members": job.engine.members} if job.engine.members else {}),
        **({"precision": job.precision} if job.precision != "float32" else {}),
        "software": f"mmnet_maps {__version__}",
        "smap_resampling": job.smap_resampling,
        "synthetic": job.synthetic,
        "inputs": job.products,
        "stand_ins": job.substitutes(),
        "licences": sorted({entry.licence for entry in used}),
        "reference": "Xu et al. (2025), JGR: Machine Learning and Computation, 2, e2025JH000639",
    }


def title(job: Job) -> str:
    """A title for pictures."""
    return job.area.name.replace("_", " ").title()


def source_line(job: Job) -> str:
    """The source line of pictures: model, inputs, software."""
    inputs = "; ".join(dict.fromkeys(job.products.values()))
    model = ", ".join(checkpoint.spec.name for checkpoint in job.engine.checkpoints)
    return f"Model {model} (MMNet, Xu et al. 2025). Inputs: {inputs}. mmnet_maps {__version__}."


def needs_of(spec: Profile) -> Needs:
    """What a model needs of a stack; SMAP and land cover are always needed, for the product's layers and masks."""
    from mmnet_maps.model.features import required

    return Needs(
        snapshot=tuple(dict.fromkeys((*required(spec.snapshot), "smap", "landcover"))),
        series=required(spec.series),
        steps=spec.days,
        includes_day=spec.includes_day,
        valued=spec.needed_days,
    )


def _load(model: str | Path) -> Checkpoint:
    from mmnet_maps.model.checkpoint import load_checkpoint

    return load_checkpoint(model)


@lru_cache(maxsize=4)
def _engine(
    models: tuple[Path, ...], stamps: tuple[int, ...], device: str, precision: str, draws: int, threads: int | None
) -> Engine:
    from mmnet_maps.model.engine import Engine

    checkpoints = [_load(model) for model in models]
    return Engine(*checkpoints, device=device, precision=precision, draws=draws, threads=threads)


def tell(job: Job) -> None:
    """Say what a user should know before looking at the map."""
    if job.area.notice:
        log.warning(job.area.notice)
    if job.synthetic:
        log.warning(
            "SYNTHETIC INPUTS: this map shows an invented world, not observations. For real inputs give --source "
            "earthengine or --source CONFIG.yaml, or --stack STORE (see mmnet stack), or set MMNET_STACK."
        )
    elif job.substitutes():
        log.warning("Other products than in training: %s", "; ".join(f"{k}: {v}" for k, v in job.substitutes().items()))
