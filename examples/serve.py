"""Serve finished maps over HTTP to this machine: tiles through titiler, series at points and in polygons as JSON.

python examples/serve.py maps --climatology clim.zarr --port 8000, then http://127.0.0.1:8000/docs
"""

from __future__ import annotations

import argparse
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import geopandas as gpd
import numpy as np
import uvicorn
from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from odc.geo import CRS, xy_
from titiler.core.errors import DEFAULT_STATUS_CODES, add_exception_handlers
from titiler.core.factory import TilerFactory

from mmnet_maps.analysis.zones import zonal_statistics
from mmnet_maps.errors import MMNetError
from mmnet_maps.product.climatology import Climatology
from mmnet_maps.product.compared_maps import ComparedMaps
from mmnet_maps.product.reader import Maps, open_maps

Layer = Literal["soil_moisture", "soil_moisture_std", "smap", "quality", "soil_moisture_percentile"]
Units = Literal["m3m3", "percent", "mm", "percentile"]
FACTORS = {"m3m3": 1, "percent": 100, "mm": 50, "percentile": 1}  # mm of water in the upper 5 cm
FOLDER = Path()  # set by main, as is the next
CLIMATOLOGY: Path | None = None
app = FastAPI(title="Soil moisture maps")
add_exception_handlers(app, DEFAULT_STATUS_CODES)


@app.exception_handler(MMNetError)
def wrong_request(_: Request, error: MMNetError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 400)


@cache
def maps() -> Maps:
    found = open_maps(FOLDER)
    return found if CLIMATOLOGY is None else ComparedMaps(found, Climatology(CLIMATOLOGY))


def file_of(date: date, layer: Layer = "soil_moisture") -> str:
    """Return the mosaic of a day, or its only map."""
    found = sorted(FOLDER.glob(f"{date:%Y%m%d}/mosaic_*_{layer}.vrt")) or sorted(
        path for path in FOLDER.glob(f"{date:%Y%m%d}/*_{layer}.tif") if path.stem.endswith(f"{date:%Y%m%d}_{layer}")
        or path.stem.endswith(f"{date:%Y%m%d}_synthetic_{layer}")
    )  # fmt: skip
    if len(found) != 1:
        raise HTTPException(404, f"{len(found)} maps of {layer} on {date}; expected one, or a mosaic")
    return str(found[0])


app.include_router(TilerFactory(path_dependency=file_of, router_prefix="/map").router, prefix="/map")


def layer_in(units: Units) -> str:
    layer = "soil_moisture_percentile" if units == "percentile" else "soil_moisture"
    if layer not in maps().layers:
        known = ", ".join(maps().layers)
        raise HTTPException(400, f"these maps have no layer {layer}, only {known}; start with --climatology")
    return layer


@app.get("/point")
def point(lon: float, lat: float, units: Units = "m3m3") -> dict[str, float | None]:
    """Return the value at a place on every day, None where it is missing."""
    place = xy_(lon, lat)
    x, y = CRS("EPSG:4326").transformer_to_crs(maps().grid.crs)(*place.xy)
    col, row = (int(np.floor(number)) for number in ~maps().grid.affine @ (float(x), float(y)))
    window = slice(row, row + 1), slice(col, col + 1)
    values = {day: float(maps().read(layer_in(units), day, window)[0, 0]) for day in maps().days}
    return {str(day): None if np.isnan(value) else value * FACTORS[units] for day, value in values.items()}


@app.post("/polygon")
def polygon(feature: Annotated[dict[str, Any], Body()], units: Units = "m3m3") -> dict[str, dict[str, float | None]]:
    """Return mean and valid share of a GeoJSON feature with a polygon on every day."""
    zones = gpd.GeoDataFrame.from_features([{"properties": {}, **feature}], crs=4326)
    table = zonal_statistics(maps(), zones, layer=layer_in(units), quiet=True).set_index("date")
    means = (table["mean"] * FACTORS[units]).astype(object).where(table["mean"].notna(), None)
    return {str(day)[:10]: {"mean": means[day], "valid_share": table["valid_share"][day]} for day in table.index}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="output of mmnet-map or mmnet batch")
    parser.add_argument("--climatology", type=Path, help="percentiles of series; tiles show the layers of the maps")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    FOLDER, CLIMATOLOGY = given.folder, given.climatology
    maps()  # fails at once where there is none
    uvicorn.run(app, host="127.0.0.1", port=given.port)
