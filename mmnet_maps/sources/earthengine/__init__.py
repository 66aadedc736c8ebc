"""Read inputs from Google Earth Engine."""
