"""Soil moisture of one field through a week: the mean of its pixels, day by day, as CSV."""

import shapely

import mmnet_maps as mm

field = shapely.Point(-119.53, 47.12).buffer(0.01)  # longitude, latitude: about 800 m around a point
sm = mm.downscale(field, "2021-08-02/2021-08-08", source="demo")  # give stack="stack.zarr" for real inputs
table = sm.mean(("y", "x")).to_series().round(4)
table.to_csv("field.csv")
print(table)
