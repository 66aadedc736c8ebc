"""A map of an area from Python: compute it, mask less certain pixels, save it as a GeoTIFF."""

import mmnet_maps as mm

product = mm.downscale_product("-119.60,47.08,-119.50,47.14", "2021-08-08", source="demo").squeeze("time")
quality = product.quality.compute()
stale = (quality & (1 << 3 | 1 << 4)) > 0  # optical or radar seen too long ago, see docs/product.md
moisture = product.soil_moisture.where(~stale)
moisture.rio.to_raster("soil_moisture.tif", compress="deflate")
print(f"{float(moisture.mean()):.3f} m³/m³ on average, {float(stale.mean()):.0%} masked")
