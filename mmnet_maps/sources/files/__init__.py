"""Read inputs from raster files that a YAML file lists."""
