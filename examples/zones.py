"""Statistics of fields: the maps' mean, spread and percentiles in each polygon on each day, as CSV, and a picture."""

import json
from pathlib import Path

from shapely.geometry import box, mapping

import mmnet_maps as mm
from mmnet_maps.analysis.zone_io import read_zones, write_statistics
from mmnet_maps.analysis.zones import zonal_statistics
from mmnet_maps.analysis.zones_plot import draw_zones
from mmnet_maps.product.reader import open_maps

fields = [
    {"type": "Feature", "properties": {"name": name}, "geometry": mapping(box(west, south, west + 0.02, south + 0.013))}
    for row, south in zip("CBA", (47.085, 47.105, 47.125), strict=True)
    for name, west in ((f"{row}1", -119.59), (f"{row}2", -119.56), (f"{row}3", -119.53))
]
Path("fields.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": fields}))  # or fields.gpkg …

product = mm.downscale_product("-119.60,47.08,-119.50,47.14", "2021-08-02/2021-08-08", source="demo")
product.to_zarr("moses_lake.zarr", mode="w", consolidated=False)  # or use the output folder of mmnet-map
maps, zones = open_maps("moses_lake.zarr"), read_zones("fields.geojson")
table = zonal_statistics(maps, zones)
write_statistics(table, "zones.csv", zones)
draw_zones(table, zones, "zones.png", layer="soil_moisture", title=maps.title, synthetic=maps.synthetic)
print(table[table["date"] == "2021-08-08"].set_index("zone")[["mean", "p10", "p90", "valid_share"]].round(3))
