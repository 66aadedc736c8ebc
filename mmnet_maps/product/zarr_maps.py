"""Maps as a Zarr store, as ``mmnet batch --zarr`` or xarray with rioxarray write them."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.product.layers import LAYERS, Layer
from mmnet_maps.product.stac_item import recipe_of

if TYPE_CHECKING:
    import xarray as xr

_CF = ("Conventions", "title", "source", "history", "references", "comment")
_STRIP = 1024  # rows read at once


@dataclass(frozen=True, kw_only=True)
class ZarrMap:
    """One day of a Zarr store; see `reader.DayMap`."""

    name: str
    day: date
    grid: GeoBox
    synthetic: bool
    data: xr.Dataset
    index: int
    recipe: Mapping[str, str]
    fingerprint: str

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of its layers."""
        return tuple(name for name in LAYERS if name in self.data)

    @property
    def tags(self) -> dict[str, str]:
        """How it was made, from the attributes of the store; those of CF follow from them."""
        return {key: value for key, value in self.data.attrs.items() if isinstance(value, str) and key not in _CF}

    def read(self, layer: str, tops: NDArray[np.intp], lefts: NDArray[np.intp]) -> NDArray[Any]:
        """Return a layer on cells between these rows and columns, read in strips to bound memory."""
        lines = max(_STRIP * (len(tops) - 1) // int(tops[-1] - tops[0]), 1)
        parts = []
        for start in range(0, len(tops) - 1, lines):
            edges = tops[start : start + lines + 1]
            window = slice(edges[0], edges[-1]), slice(lefts[0], lefts[-1])
            try:
                values = self.data[layer][self.index, *window].to_numpy()
            except (OSError, ValueError, RuntimeError) as error:
                raise InputError(f"{self.name}: {layer} on {self.day} cannot be read ({error})") from error
            parts.append(_cells(values, edges[:-1] - edges[0], lefts[:-1] - lefts[0], LAYERS[layer]))
        found: NDArray[Any] = np.concatenate(parts)
        return found


def _cells(values: NDArray[Any], tops: NDArray[np.intp], lefts: NDArray[np.intp], about: Layer) -> NDArray[Any]:
    """Return the mean over each cell's valid pixels, given its first row and column; of flags its first pixel."""
    if about.nodata is None or (len(tops), len(lefts)) == values.shape:
        return values[np.ix_(tops, lefts)]
    known = np.isfinite(values)
    total, count = (
        np.add.reduceat(np.add.reduceat(part, tops, 0), lefts, 1)
        for part in (np.where(known, values, 0.0).astype(np.float64), known.astype(np.int64))
    )
    means: NDArray[np.float32] = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    return means


def maps_of_store(path: Path, days: Container[date]) -> Iterable[ZarrMap]:
    """Return the maps of a store on these days.

    Raises
    ------
    InputError
        When it cannot be opened, has no georeference, or holds links.
    RequestError
        When it holds no maps.
    """
    import pandas as pd
    import xarray as xr
    from odc.geo.xr import xr_coords  # noqa: F401  (registers .odc)

    for folder, below, names in os.walk(path):
        for name in (*below, *names):
            if os.path.islink(entry := os.path.join(folder, name)):
                raise InputError(f"{entry} is a link, which is not followed; copy the whole store")
    try:
        data = xr.open_zarr(path, chunks=None, consolidated=False, decode_coords="all")
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not a Zarr store that xarray opens ({error})") from error
    if "soil_moisture" not in data or data["soil_moisture"].dims != ("time", "y", "x"):
        raise RequestError(
            f"{path} holds no maps; expected soil_moisture (time, y, x), as mmnet batch --zarr writes it; "
            "give a stack of inputs with --stack"
        )
    grid = data["soil_moisture"].odc.geobox
    if grid is None or grid.crs is None:
        raise InputError(f"{path} has no georeference; expected a CF grid mapping, as mmnet_maps writes")
    synthetic = str(data.attrs.get("synthetic", "")).lower() in ("1", "true")
    for index, day in enumerate(pd.DatetimeIndex(data["time"].to_numpy()).date):
        if day in days:
            yield ZarrMap(
                name=path.stem,
                day=day,
                grid=grid,
                synthetic=synthetic,
                data=data,
                index=index,
                recipe=recipe_of(data.attrs),
                fingerprint=sha256(data["issue"][index].to_numpy().tobytes()).hexdigest() if "issue" in data else "",
            )
