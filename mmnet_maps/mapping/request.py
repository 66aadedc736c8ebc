"""A request for maps with everything decided, before anything is computed."""

from __future__ import annotations

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
from mmnet_maps.grid.mask import holds_a_centre
from mmnet_maps.grid.tiles import Tile, target_grid, touched_tiles
from mmnet_maps.mapping.commands import fill_command, place_options
from mmnet_maps.mapping.recipe import Recipe
from mmnet_maps.mapping.usual import check_comparable, open_climatology, refuse_no_overlap
from mmnet_maps.model.saved import SavedModel, check_ensemble, count_members, days_at_once, read_saved
from mmnet_maps.model.spec import SPEC, WEIGHTS
from mmnet_maps.product.layers import DROUGHT, LAYERS
from mmnet_maps.product.stac_item import recipe_of
from mmnet_maps.resources import find_model
from mmnet_maps.settings import MapOptions, MapSettings, settle
from mmnet_maps.sources.base import Provenance
from mmnet_maps.stack.availability import NotFetchedError
from mmnet_maps.stack.needs import Demand, Needs, uses
from mmnet_maps.stack.resolve import open_inputs
from mmnet_maps.stack.store import Stack

if TYPE_CHECKING:
    from mmnet_maps.model.engine import Engine
    from mmnet_maps.model.spec import ModelSpec, Profile

log = logging.getLogger("mmnet_maps")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run that decide no value: where maps are written, and what the networks run on."""

    out: Path = Path("maps")
    device: str = "auto"
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """Maps of an area on some days, with everything decided before anything is computed.

    Attributes
    ----------
    recipe
        Everything that decides the values, including grid and area.
    days
        Days to map.
    tiles
        Tiles of the grid that the area touches.
    touched
        Whether the area is too small to hold a pixel centre, so that the pixels it touches are mapped.
    models
        Folders of the recipe's checkpoints.
    needs
        Variables and days that the models need.
    stack
        Folder of a stack that holds them.
    run
        Options that decide no value.
    climatology
        Folder of the climatology that the maps are compared with; None for none.
    """

    recipe: Recipe
    days: tuple[date, ...]
    tiles: tuple[Tile, ...]
    touched: bool
    models: tuple[Path, ...]
    needs: Needs
    stack: Path
    run: RunOptions
    climatology: Path | None = None

    @property
    def area(self) -> Area:
        """The area of the recipe."""
        return self.recipe.area

    @property
    def grid(self) -> GeoBox:
        """The grid of the recipe."""
        return self.recipe.grid

    @property
    def engine(self) -> Engine:
        """The engine of the checkpoints, loaded once a process, when it is first used: torch takes a second to import.

        Raises
        ------
        RequestError
            When a checkpoint has changed since the request was made, or the device is unavailable.
        """
        self.check_models()
        return load_engine(self.models, self.run, draws=self.recipe.draws, precision=self.recipe.precision)

    @property
    def saved(self) -> tuple[SavedModel, ...]:
        """The checkpoints without their networks, read again when their files have changed."""
        return _saved(self.models, _stamps(self.models))

    @property
    def spec(self) -> ModelSpec:
        """The specification of the checkpoints; they have the same inputs."""
        return self.saved[0].spec

    def check_models(self) -> None:
        """Raise RequestError if a checkpoint has changed since the request was made."""
        if fingerprints(self.saved) != self.recipe.checkpoints:
            raise RequestError(
                f"the model in {', '.join(map(str, self.models))} was changed during the run; finished maps are kept: "
                "run again to make all of them with the new model"
            )

    @property
    def members(self) -> int:
        """Number of networks behind the standard deviation; 0 if there is none."""
        return count_members([model.spec.networks for model in self.saved], self.recipe.draws)

    @property
    def networks(self) -> int:
        """Number of networks that run: those of the checkpoints, and the members drawn from them."""
        return sum(model.spec.networks + self.recipe.draws for model in self.saved)

    @property
    def layers(self) -> list[str]:
        """Names of the product's layers."""
        without = set() if self.climatology else {*DROUGHT}
        return [name for name in LAYERS if name not in without and (name != "soil_moisture_std" or self.members)]

    def day_batches(self, days: Sequence[date], most: int | None = None) -> list[tuple[date, ...]]:
        """Group days to be mapped together, because their series overlap and they share observations.

        The terms kept of a series take memory for every day and network: the more members, the fewer days, unless
        `most` gives their number.
        """
        if len(days) < 2:
            return [(day,) for day in days]
        most = most or days_at_once(self.networks, self.spec.d_model)
        batches: list[list[date]] = []
        for day in days:
            if batches and len(batches[-1]) < most and (day - batches[-1][-1]).days < self.needs.steps:
                batches[-1].append(day)
            else:
                batches.append([day])
        return [tuple(batch) for batch in batches]

    @cached_property
    def products(self) -> dict[str, str]:
        """The product behind each input."""
        return {name: provenance.product for name, provenance in self._provenance.items()}

    @cached_property
    def synthetic(self) -> bool:
        """Whether any input is synthetic."""
        return any(provenance.synthetic for provenance in self._provenance.values())

    @cached_property
    def licences(self) -> list[str]:
        """Licences of the inputs."""
        return sorted({provenance.licence for provenance in self._provenance.values()})

    @property
    def _provenance(self) -> dict[str, Provenance]:
        provenance = open_stack(self.stack).provenance
        return {name: provenance[name] for name in self.needs.variables}

    @property
    def overview(self) -> Path:
        """Path of the picture of all days together."""
        mark = "_synthetic" if self.synthetic else ""
        return self.run.out / f"{self.area.name}_{self.days[0]:%Y%m%d}_{self.days[-1]:%Y%m%d}{mark}.png"

    def substitutes(self) -> dict[str, str]:
        """Return the inputs that come from another product than in training, see `substitutes`."""
        return substitutes(self.spec.inputs, self.products)

    def inputs_fingerprint(self, day: date) -> str:
        """Hash all stack blocks that a map of `day` may read, and the maps that it is compared with."""
        stack = open_stack(self.stack)
        found = stack.fingerprint(use for tile in self.tiles for use in uses(stack, tile.geobox, self.needs, [day]))
        if self.climatology is None:
            return found
        return f"{found}+{open_climatology(self.climatology).fingerprint(self.grid, day)}"

    @property
    def map_recipe(self) -> dict[str, str]:
        """Properties that other maps must share with these to be compared with them."""
        return recipe_of(describe_model(self))

    def check_climatology(self, *, synthetic: bool | None = None) -> None:
        """Refuse a climatology that the maps cannot be compared with, see `usual.check_comparable`."""
        if self.climatology is not None:
            check_comparable(self.climatology, self.days, self.map_recipe, synthetic)

    def fingerprint(self, day: date) -> str:
        """Hash everything that decides the values of one day's product."""
        return self.recipe.fingerprint(day, self.inputs_fingerprint(day))


def open_stack(path: Path) -> Stack:
    """Open the stack at a path, once a process, and again when it was replaced."""
    try:
        status = (path / "zarr.json").stat()
    except OSError:
        return Stack(path)  # raises with the reason
    return _stack(path, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=4)
def _stack(path: Path, modified: int, inode: int) -> Stack:
    return Stack(path)


def substitutes(trained: Mapping[str, str], products: Mapping[str, str]) -> dict[str, str]:
    """Return the inputs that come from another product than in training, each with both products.

    An index goes by the products of its bands.
    """
    from mmnet_maps.model.indices import INDICES

    found = {}
    for name, product in trained.items():
        parts = INDICES[name].bands if name in INDICES else (name,)
        mine = " and ".join(dict.fromkeys(products[part] for part in parts if part in products))
        if mine and mine != product:
            found[name] = f"{mine} (trained on {product})"
    return found


def prepare(aoi: Any, dates: Any, *, quiet: bool = False, **options: Unpack[MapOptions]) -> Request:
    """Decide everything about some maps and make sure that their inputs exist; see `lazy.downscale_product`."""
    settings = settle(options)
    area = read_aoi(aoi)
    days = parse_days(dates)
    grid = target_grid(area, resolution=settings.resolution, crs=settings.crs)
    request = draft_request(settings, area, grid, touched_tiles(area, grid), days)
    request.check_climatology()
    if request.climatology:
        refuse_no_overlap(request.climatology, [grid])
    demand = Demand(grid=grid, tiles=request.tiles, needs=request.needs, days=days)
    if settings.stack is None:
        _ = request.engine  # refuses what cannot run before anything is fetched
    try:
        request = replace(request, stack=open_inputs(settings, demand, quiet=quiet))
    except NotFetchedError as error:
        command = fill_command(
            place_options(aoi), error.days, stack=Stack(str(settings.stack)), model=settings.model[0],
            names=request.needs.variables,
        )  # fmt: skip
        raise NotFetchedError.of(error.problem, error.days, command) from error
    request.check_climatology(synthetic=request.synthetic)
    log_notices(request)
    return request


def draft_request(
    settings: MapSettings, area: Area, grid: GeoBox, tiles: tuple[Tile, ...], days: tuple[date, ...]
) -> Request:
    """Make a request whose stack is still to be found; a missing or damaged model is refused here."""
    models = tuple(find_model(model).absolute() for model in settings.model)
    saved = _saved(models, _stamps(models))
    check_ensemble(saved, settings.uncertainty)
    if settings.members and not settings.uncertainty and len(models) == 1:
        raise RequestError("no members to keep; give --uncertainty N or several models")
    recipe = Recipe(
        checkpoints=fingerprints(saved),
        draws=settings.uncertainty,
        members=settings.members,
        precision=settings.precision,
        grid=grid,
        area=area,
        smap_resampling=settings.smap_resampling,
    )
    return Request(
        recipe=recipe,
        days=days,
        tiles=tiles,
        touched=not holds_a_centre(area, grid),
        models=models,
        needs=needs_of(saved[0].spec),
        stack=Path(),
        run=RunOptions(out=Path(settings.out), device=settings.device, threads=settings.threads),
        climatology=None if settings.climatology is None else Path(settings.climatology).absolute(),
    )


def describe_model(request: Request) -> dict[str, Any]:
    """Describe what decides the values beside the inputs."""
    models = request.saved
    return {
        "model": ", ".join(model.spec.name for model in models),
        "weights_sha256": ", ".join(model.sha256 for model in models),
        "smap_resampling": request.recipe.smap_resampling,
        "product_version": request.recipe.product_version,
    }


def describe(request: Request) -> dict[str, Any]:
    """Describe a product: model, inputs, licences, software."""
    return {
        **describe_model(request),
        **({"members": request.members} if request.members else {}),
        **({"precision": request.recipe.precision} if request.recipe.precision != "float32" else {}),
        "software": f"mmnet_maps {__version__}",
        **({"climatology": open_climatology(request.climatology).describe()} if request.climatology else {}),
        "synthetic": request.synthetic,
        "inputs": request.products,
        "stand_ins": request.substitutes(),
        "licences": request.licences,
        "reference": "Xu et al. (2025), JGR: Machine Learning and Computation, 2, e2025JH000639",
    }


def title(request: Request) -> str:
    """Return the title of pictures."""
    return request.area.name.replace("_", " ").title()


def source_line(request: Request) -> str:
    """Return the source line of pictures: model, inputs, software."""
    inputs = "; ".join(dict.fromkeys(request.products.values()))
    model = ", ".join(model.spec.name for model in request.saved)
    return f"Model {model} (MMNet, Xu et al. 2025). Inputs: {inputs}. mmnet_maps {__version__}."


def needs_of(spec: Profile) -> Needs:
    """Return what a model needs of a stack; SMAP and land cover are always needed, for layers and masks."""
    from mmnet_maps.model.features import required

    return Needs(
        snapshot=tuple(dict.fromkeys((*required(spec.snapshot), "smap", "landcover"))),
        series=required(spec.series),
        groups=tuple(required(features) for features in spec.feature_groups),
        steps=spec.days,
        includes_day=spec.includes_day,
        valued=spec.needed_days,
    )


def load_engine(models: tuple[Path, ...], run: RunOptions, *, draws: int, precision: str) -> Engine:
    """Load the engine of some checkpoints, once a process, and again when their files have changed."""
    return _engine(models, _stamps(models), run.device, precision, draws, run.threads)


@lru_cache(maxsize=4)
def _engine(
    models: tuple[Path, ...], stamps: tuple[int, ...], device: str, precision: str, draws: int, threads: int | None
) -> Engine:
    from mmnet_maps.model.checkpoint import load_checkpoint
    from mmnet_maps.model.engine import Engine

    checkpoints = [load_checkpoint(model) for model in models]
    return Engine(*checkpoints, device=device, precision=precision, draws=draws, threads=threads)


@lru_cache(maxsize=4)
def _saved(models: tuple[Path, ...], stamps: tuple[int, ...]) -> tuple[SavedModel, ...]:
    return tuple(read_saved(model)[0] for model in models)


def _stamps(models: tuple[Path, ...]) -> tuple[int, ...]:
    return tuple((folder / name).stat().st_mtime_ns for folder in models for name in (SPEC, WEIGHTS))


def fingerprints(models: Sequence[SavedModel]) -> tuple[str, ...]:
    """Return the fingerprints of some checkpoints."""
    return tuple(model.fingerprint for model in models)


def log_notices(request: Request) -> None:
    """Warn of what a user should know before looking at the map."""
    if request.area.notice:
        log.warning(request.area.notice)
    if request.synthetic:
        log.warning(
            "SYNTHETIC INPUTS: this map shows an invented world, not observations. For real inputs give --source "
            "open, earthengine or CONFIG.yaml, or --stack STORE (see mmnet stack), or set MMNET_STACK."
        )
    elif found := request.substitutes():
        log.warning("Other products than in training: %s", "; ".join(f"{k}: {v}" for k, v in found.items()))
