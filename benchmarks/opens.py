"""Which software opens which of our files, for the table in docs/how-to/use.md.

    python benchmarks/opens.py make FOLDER     write one of each, with this project
    ANY_PYTHON benchmarks/opens.py try FOLDER  try what is installed in that Python; needs nothing of this project

Every answer is a comparison of values: a file that opens with other values counts as not opened.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

STORE, LAYER = "run.zarr", "soil_moisture"
TIF, MOSAIC = "20210808/h06v03_20210808_soil_moisture.tif", "20210808/mosaic_20210808_soil_moisture.vrt"
ORIGIN, POINT = (-1843200.0, 2969600.0), (700, 300)  # of the tile h06v03; a pixel with a value


def make(folder: Path) -> None:
    """Write a tile of one day in every format."""
    from datetime import date

    import numpy as np

    from mmnet_maps.grid.tiles import grid_of_tiles
    from mmnet_maps.product.day_writer import DayWriter, Revision
    from mmnet_maps.product.export import export_maps
    from mmnet_maps.product.layers import LAYERS
    from mmnet_maps.product.mosaic import write_mosaics
    from mmnet_maps.product.reader import open_maps
    from mmnet_maps.product.stac_catalog import write_catalog
    from mmnet_maps.product.zarr_overviews import write_overviews
    from mmnet_maps.product.zarr_store import RunStore, create_store

    day, (grid, (tile,)) = date(2021, 8, 8), grid_of_tiles(["h06v03"])
    moisture = np.linspace(500, 4500, 1 << 20).astype(np.uint16).reshape(1024, 1024)
    moisture[:200] = 65535
    layers = {LAYER: moisture, "quality": np.full((1024, 1024), 8, np.uint16), "smap": moisture}
    about: dict[str, Any] = {"model": "net", "licences": [], "synthetic": False}
    revision = Revision(
        name=tile.id,
        day=day,
        geobox=grid,
        layers=tuple(layers),
        synthetic=False,
        tags={"model": "net", "date": str(day)},
        properties={f"mmnet:{key}": value for key, value in about.items()},
        fingerprint="f00d" * 16,
    )
    with DayWriter(folder, revision) as writer:
        writer.write(slice(0, 1024), slice(0, 1024), layers)
        writer.finish(None)
    write_mosaics(folder / "20210808", day, synthetic=False)
    write_catalog(folder, [day])
    create_store(folder / STORE, grid=grid, days=[day], layers=list(layers), tags=about)
    RunStore(folder / STORE).write(tile, day, layers, "f00d" * 16)
    write_overviews(folder / STORE, day)
    for out in ("v2.zarr", "maps.nc"):
        export_maps(open_maps(folder / STORE), folder / out)
    values = LAYERS[LAYER].unpack(moisture)
    expected = {"pixel": float(values[POINT]), "missing": int(np.isnan(values).sum())}
    (folder / "expected.json").write_text(json.dumps(expected))


def _zarr(folder: Path, name: str, array: str) -> str:
    return f'ZARR:"{folder / name}":/{array}:0'


def _check(folder: Path, pixel: float, transform: Any, code: Any, missing: int | None = None) -> bool:
    expected = json.loads((folder / "expected.json").read_text())
    return (
        abs(pixel - expected["pixel"]) < 1e-3
        and (transform[2], transform[5]) == ORIGIN
        and int(code) == 5070
        and missing in (None, expected["missing"])
    )


def _rasterio(folder: Path, name: str, factor: int = 1) -> bool:
    import rasterio

    with rasterio.open(name) as data:
        values = data.read(1, masked=True)
        pixel = float(values[POINT[0] // factor, POINT[1] // factor]) * data.scales[0] + data.offsets[0]
        missing = None if factor > 1 else int(values.mask.sum())
        return _check(folder, pixel, data.transform, data.crs.to_epsg(), missing)


def _gdal(folder: Path, name: str, factor: int = 1) -> bool:
    from osgeo import gdal

    gdal.UseExceptions()
    data = gdal.Open(name)
    band = data.GetRasterBand(1)
    pixel = band.ReadAsArray()[POINT[0] // factor, POINT[1] // factor] * (band.GetScale() or 1)
    at = data.GetGeoTransform()
    return _check(folder, float(pixel), (0, 0, at[0], 0, 0, at[3]), data.GetSpatialRef().GetAuthorityCode(None))


def _gdal_overviews(folder: Path) -> bool:
    from osgeo import gdal

    gdal.UseExceptions()
    root = gdal.OpenEx(str(folder / STORE), gdal.OF_MULTIDIM_RASTER).GetRootGroup()
    return bool(root.OpenMDArray(LAYER).GetOverviewCount() == 1)


def _array(folder: Path, array: Any) -> bool:
    values = array.squeeze().to_numpy()
    missing = int((values != values).sum())
    return _check(folder, float(values[POINT]), array.rio.transform(), array.rio.crs.to_epsg(), missing)


def _rioxarray_file(folder: Path) -> bool:
    import rioxarray

    return _array(folder, rioxarray.open_rasterio(folder / TIF, mask_and_scale=True))


def _xarray(folder: Path, name: str, *, conventions: bool = False) -> bool:
    import rioxarray  # noqa: F401
    import xarray as xr

    path = folder / name
    data = xr.open_dataset(path) if path.suffix == ".nc" else xr.open_zarr(path)
    array = data[LAYER]
    if conventions:  # neither coordinates nor the grid mapping of CF
        array = array.drop_vars(["x", "y", "spatial_ref"])
        array.encoding.pop("grid_mapping", None)
        array.attrs.pop("grid_mapping", None)
    return _array(folder, array)


def _netcdf4(folder: Path) -> bool:
    import netCDF4

    with netCDF4.Dataset(folder / "maps.nc") as data:
        flags = data["quality"].getncattr("flag_masks").dtype == data["quality"].dtype
        transform = [float(word) for word in data["spatial_ref"].GeoTransform.split()]
        return bool(flags) and _check(
            folder, float(data[LAYER][0][POINT]), (0, 0, transform[0], 0, 0, transform[3]), 5070
        )


def _odc_stac(folder: Path) -> bool:
    import odc.stac
    import pystac

    item = pystac.Item.from_file(str(folder / "20210808/h06v03_20210808.json"))
    array = odc.stac.load([item], bands=[LAYER])[LAYER]
    pixel = float(array.to_numpy()[0][POINT]) * 0.0001  # odc-stac does not scale
    return _check(folder, pixel, array.odc.geobox.affine, array.odc.geobox.crs.to_epsg())


def tries(folder: Path) -> dict[str, dict[str, Callable[[], bool]]]:
    """Return by package what is tried."""
    files = {
        "GeoTIFF": (str(folder / TIF), 1),
        "mosaic": (str(folder / MOSAIC), 1),
        "NetCDF": (f'NETCDF:"{folder / "maps.nc"}":{LAYER}', 1),
    }
    files |= {
        "run store": (_zarr(folder, STORE, LAYER), 1),
        "its overviews as arrays": (_zarr(folder, STORE, f"overview_4/{LAYER}"), 4),
    }
    files |= {"Zarr v2": (_zarr(folder, "v2.zarr", LAYER), 1)}

    def all_of(function: Callable[..., bool]) -> dict[str, Callable[[], bool]]:
        return {
            kind: lambda name=name, factor=factor: function(folder, name, factor)
            for kind, (name, factor) in files.items()
        }

    return {
        "gdal": {**all_of(_gdal), "its overviews as overviews": lambda: _gdal_overviews(folder)},
        "rasterio": all_of(_rasterio),
        "rioxarray": {
            "GeoTIFF": lambda: _rioxarray_file(folder),
            "run store by GeoZarr alone": lambda: _xarray(folder, STORE, conventions=True),
        },
        "xarray": {
            "run store": lambda: _xarray(folder, STORE),
            "Zarr v2": lambda: _xarray(folder, "v2.zarr"),
            "NetCDF": lambda: _xarray(folder, "maps.nc"),
        },
        "netCDF4": {"NetCDF": lambda: _netcdf4(folder)},
        "odc-stac": {"STAC item": lambda: _odc_stac(folder)},
    }


def version_of(package: str) -> str | None:
    """Return the version of a package, with GDAL's where it brings it along; None where it is not installed."""
    try:
        if package == "gdal":
            from osgeo import gdal

            return str(gdal.__version__)
        found = version(package)
        if package == "rasterio":
            import rasterio

            found += f" (GDAL {rasterio.__gdal_version__})"
    except (ImportError, PackageNotFoundError):
        return None
    return found


def attempt(folder: Path) -> dict[str, dict[str, str]]:
    """Return by package and version what opens: ``yes``, or why not."""
    found: dict[str, dict[str, str]] = {}
    for package, kinds in tries(folder).items():
        known = version_of(package)
        if known is None:
            continue
        answers = found.setdefault(f"{package} {known}", {})
        for kind, function in kinds.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    answers[kind] = "yes" if function() else "other values"
            except Exception as error:  # noqa: BLE001  (any failure of other software is an answer)
                answers[kind] = f"no: {' '.join(str(error).split())[:90]}"
    return found


if __name__ == "__main__":
    action, where = sys.argv[1], Path(sys.argv[2]).resolve()
    if action == "make":
        make(where)
    else:
        print(json.dumps(attempt(where), indent=1))
