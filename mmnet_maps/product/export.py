"""Finished maps as NetCDF, GeoTIFFs, or a Zarr store that older software opens."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from glob import escape
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmnet_maps import __version__
from mmnet_maps.errors import OutputError
from mmnet_maps.files import DRIVER_ERRORS, MARK, remove_leftovers, remove_sidecars, staging_folder
from mmnet_maps.product.layers import LAYERS, attributes

if TYPE_CHECKING:
    import xarray as xr

    from mmnet_maps.product.reader import Maps

_CHUNK = 512


def export_maps(maps: Maps, out: str | Path) -> list[Path]:
    """Write all days and layers of some maps in another format, which the ending of the name decides.

    Parameters
    ----------
    maps
        From `reader.open_maps`.
    out
        ``.nc``: a NetCDF file; ``.zarr``: a Zarr store of version 2 without shards; otherwise a folder of one
        cloud-optimised GeoTIFF per day and layer. Nothing that exists is replaced.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    OutputError
        When one of them exists or cannot be written.
    InputError
        When a map cannot be read.
    """
    out = Path(out)
    if out.suffix not in (".nc", ".zarr"):
        return [_geotiff(maps, out, day, layer) for day in maps.days for layer in maps.layers]
    with _new(out) as path:
        data = dataset(maps)
        if out.suffix == ".nc":
            encoding = {"zlib": True, "complevel": 1, "chunksizes": _chunks(data)}
            data.to_netcdf(path, encoding=dict.fromkeys(maps.layers, encoding))
        else:
            from numcodecs import Blosc

            encoding = {"chunks": _chunks(data), "compressors": (Blosc(cname="zstd", clevel=1),)}
            data.to_zarr(path, zarr_format=2, encoding=dict.fromkeys(maps.layers, encoding))
    return [out]


def dataset(maps: Maps) -> xr.Dataset:
    """Return maps as a Dask-backed dataset (time, y, x), as `mmnet_maps.downscale_product` does.

    Examples
    --------
    >>> from mmnet_maps.product.reader import open_maps
    >>> dataset(open_maps("maps"))["soil_moisture"].mean("time")    # doctest: +SKIP
    """
    import dask.array as da
    import rioxarray  # noqa: F401  (gives arrays .rio)
    import xarray as xr
    from dask.delayed import delayed
    from odc.geo.xr import xr_coords

    def day_of(layer: str, day: date) -> Any:
        """Return a layer of a day as a lazy array."""
        flags = LAYERS[layer].nodata is None
        parts = [
            [
                da.from_delayed(
                    delayed(maps.read)(layer, day, (rows, cols)),
                    (rows.stop - rows.start, cols.stop - cols.start),
                    dtype=np.uint16 if flags else np.float32,
                )
                for cols in _parts(maps.grid.shape.x)
            ]
            for rows in _parts(maps.grid.shape.y)
        ]
        return da.block(parts)

    layers = {layer: (("time", "y", "x"), da.stack([day_of(layer, day) for day in maps.days])) for layer in maps.layers}
    coords = {"time": np.array(maps.days, "datetime64[ns]"), **xr_coords(maps.grid, dims=("y", "x"))}
    about: dict[str, Any] = _tags(maps)
    if "inputs" in about:
        about["inputs"] = json.loads(about["inputs"])
    return attributes(xr.Dataset(layers, coords=coords), about)


def _tags(maps: Maps) -> dict[str, str]:
    """Return what all maps have in common: model, inputs, licences."""
    return {**maps.tags, "synthetic": json.dumps(maps.synthetic), "exported_by": f"mmnet_maps {__version__}"}


def _parts(side: int) -> list[slice]:
    """Cut a side of the grid into parts of whole chunks, counted from its first pixel."""
    return [slice(at, min(at + 2 * _CHUNK, side)) for at in range(0, side, 2 * _CHUNK)]


def _chunks(data: xr.Dataset) -> tuple[int, int, int]:
    return 1, min(_CHUNK, data.sizes["y"]), min(_CHUNK, data.sizes["x"])


def _geotiff(maps: Maps, folder: Path, day: date, layer: str) -> Path:
    """Write one layer of a day, tile by tile."""
    from mmnet_maps.product.cog import CogWriter

    name = maps.names[0] if len(maps.names) == 1 else folder.resolve().name
    out = folder / f"{name}_{day:%Y%m%d}{'_synthetic' * maps.synthetic}_{layer}.tif"
    tags = {**_tags(maps), "date": str(day)}
    tags[MARK] = hashlib.sha256(json.dumps(tags, sort_keys=True).encode()).hexdigest()
    with _new(out) as path:
        writer = CogWriter(path, layer=LAYERS[layer], geobox=maps.grid, tags=tags)
        try:
            for rows, cols in product(_parts(maps.grid.shape.y), _parts(maps.grid.shape.x)):
                writer.write(rows, cols, LAYERS[layer].pack(maps.read(layer, day, (rows, cols))))
            writer.finish()
        finally:
            writer.close()
    return out


@contextmanager
def _new(out: Path) -> Iterator[Path]:
    """Yield a hidden path beside a new file or store, which gets its name when the block has succeeded."""
    if os.path.lexists(out):
        raise OutputError(f"{out} already exists; give another --out or delete it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out.parent, f".{escape(out.name)}.*.partial")
        with staging_folder(out.parent, out.name) as staging:
            yield staging / out.name
            remove_sidecars(out)  # of a deleted file of that name, whose statistics GDAL would report
            os.rename(staging / out.name, out)
    except DRIVER_ERRORS as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise OutputError(f"cannot write {out} ({reason}); make room or give another --out") from error
