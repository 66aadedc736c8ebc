"""The product of an area as a lazy xarray dataset, one Dask task per tile and day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from mmnet_maps.grid.tiles import Tile, tiles
from mmnet_maps.mapping.pipeline import map_tile
from mmnet_maps.mapping.request import Request, describe, prepare
from mmnet_maps.product.layers import attributes
from mmnet_maps.product.member_store import ARRAY as MEMBERS
from mmnet_maps.product.member_store import ATTRIBUTES
from mmnet_maps.settings import MapOptions

if TYPE_CHECKING:
    import xarray as xr


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
        ``"earthengine"``, a sources YAML or ``"demo"``, in place of a stack; fetched inputs are kept in a cache.
        Without either: ``$MMNET_STACK``, the settings file, Earth Engine if you are signed in, otherwise the demo
        world.
    model
        Folder of a checkpoint, or the name of a packaged one (default ``mmnet-uscrn``); a list is an ensemble, whose
        mean is mapped.
    resolution, crs
        Pixel size in units of the coordinate reference system, and that system (default 100 m, EPSG:5070).
    smap_resampling
        ``"bilinear"`` between SMAP cell centres (default), or ``"nearest"``.
    uncertainty
        Monte Carlo dropout members for a standard deviation (default 0: none; several models always have one).
    members
        True to add the members themselves, not clipped, as ``soil_moisture_members`` (time, member, y, x).
    device
        ``"auto"`` (default), ``"cpu"`` or ``"cuda"``.
    precision
        ``"float32"`` (default), or ``"bfloat16"`` for the products of matrices, with about three digits.
    climatology
        Path of a climatology (``mmnet climatology``) to compare the maps with.
    threads
        Processor cores for the network (default: all).
    config
        YAML file with any of these settings (default ``mmnet.yaml``, if it exists).

    Returns
    -------
    xarray.Dataset
        Dask-backed (time, y, x): ``soil_moisture`` and ``smap`` float32 in m³/m³, NaN where nodata; ``quality`` uint16,
        see `quality.QUALITY_BITS`; with members ``soil_moisture_std``, and with a climatology
        ``soil_moisture_anomaly``, ``soil_moisture_standardised_anomaly`` and ``soil_moisture_percentile``, see
        `product.drought`. One chunk is one tile.

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


def lazy(request: Request) -> xr.Dataset:
    """Build the product of a request as a Dask-backed dataset; each process loads the model once."""
    import dask.array as da
    import rioxarray  # noqa: F401  (gives arrays .rio)
    import xarray as xr
    from dask.delayed import delayed
    from odc.geo.xr import xr_coords

    touched = {tile.id for tile in request.tiles}
    compute = delayed(map_tile, pure=False)
    _ = request.engine  # refuses what cannot run before anything is computed
    count = request.members

    def chunk(tile: Tile, layers: Any, name: str) -> Any:
        """Return one layer of one tile, which is constant where the area does not touch the tile."""
        shape = (count, *tile.geobox.shape) if name == MEMBERS else tile.geobox.shape
        outside = np.array(1, np.uint16) if name == "quality" else np.array(np.nan, np.float32)
        if layers is None:
            return da.full(shape, outside, dtype=outside.dtype, chunks=shape)
        return da.from_delayed(layers[name], shape, dtype=outside.dtype)

    names = [*request.layers, *([MEMBERS] if request.recipe.members else [])]
    mosaics: dict[str, list[da.Array]] = {name: [] for name in names}
    for day in request.days:
        rows: dict[int, list[tuple[Tile, Any]]] = {}
        for tile in tiles(request.grid):
            layers = compute(request, tile, day) if tile.id in touched else None
            rows.setdefault(tile.rows.start, []).append((tile, layers))
        for name in names:
            mosaics[name].append(da.block([[chunk(*part, name) for part in row] for row in rows.values()]))
    product = xr.Dataset(
        {
            name: (("time", "member", "y", "x") if name == MEMBERS else ("time", "y", "x"), da.stack(days))
            for name, days in mosaics.items()
        },
        coords={"time": np.array(request.days, "datetime64[ns]"), **xr_coords(request.grid, dims=("y", "x"))},
    )
    if request.recipe.members:
        product = product.assign_coords(member=np.arange(1, count + 1))
        product[MEMBERS].attrs = dict(ATTRIBUTES)
        product[MEMBERS].encoding["_FillValue"] = np.float32(np.nan)
    return attributes(product, describe(request))
