"""Compare maps with what is usual at the time of year: find and check the climatology, and add its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmnet_maps.errors import RequestError
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.quality import FLAG_MASKS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from mmnet_maps.product.climatology import Climatology, Picked, Samples


def open_climatology(path: Path) -> Climatology:
    """Open the climatology at a path, once a process, and again when maps were added to it."""
    try:
        status = (path / "zarr.json").stat()
    except OSError:
        return _climatology(path, 0, 0)  # raises with the reason
    return _climatology(path, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=4)
def _climatology(path: Path, modified: int, inode: int) -> Climatology:
    from mmnet_maps.product.climatology import Climatology

    return Climatology(path)


def samples_on(path: Path, geobox: GeoBox, picked: Picked | None = None) -> Samples:
    """Return the maps of a climatology on a grid or some pixels of it."""
    from mmnet_maps.product.climatology import Samples

    found = open_climatology(path)
    return Samples(found, found.place(geobox), picked)


def check_comparable(path: Path, days: Sequence[date], recipe: Mapping[str, str], synthetic: bool | None) -> None:
    """Refuse a climatology that maps cannot be compared with.

    Parameters
    ----------
    path
        The climatology.
    days
        Days of the maps.
    recipe
        Of the maps, as `stac_item.recipe_of`.
    synthetic
        Whether an input of the maps is synthetic; None where it is not known yet.

    Raises
    ------
    RequestError
        When it is of another model or kind of maps, or real and synthetic ones would be compared.
    InputError
        When there is none, or it has too few years.
    """
    found = open_climatology(path)
    found.refuse_others(recipe, synthetic)
    for day in days:
        found.require(day)


def compare_layers(samples: Samples, layers: dict[str, NDArray[Any]], day: date) -> dict[str, NDArray[Any]]:
    """Return the drought layers of a map, and its quality, if it has one, with the flag of a short climatology.

    Parameters
    ----------
    samples
        The climatology on the map's pixels.
    layers
        Those of the map, as `layers.compose`.
    day
        Its day.
    """
    shape = layers["soil_moisture"].shape
    packed = LAYERS["soil_moisture"].pack(layers["soil_moisture"]).reshape(samples.shape)
    found, short = samples.compare(packed, day)
    compared: dict[str, NDArray[Any]] = {name: values.reshape(shape) for name, values in found.items()}
    if "quality" in layers:
        flag = np.uint16(FLAG_MASKS["short_climatology"])
        compared["quality"] = (layers["quality"] & ~flag) | short.reshape(shape) * flag
    return compared


def refuse_no_overlap(path: Path, grids: Sequence[GeoBox]) -> None:
    """Refuse maps of other pixels than the climatology, or of which it has none.

    Raises
    ------
    RequestError
        When it does.
    """
    found = open_climatology(path)
    if not any(found.has_maps(grid) for grid in grids):
        raise RequestError(
            f"{found.path} has no maps of this area; add maps of it with mmnet climatology, or leave --climatology out"
        )
