"""Daily series at a point with its standard deviation, without making a map: as NetCDF and as a table."""

import mmnet_maps as mm
from mmnet_maps.analysis.series_io import write_series

places = [(-119.55, 47.11)]  # longitude, latitude; or a table with the columns station, lat, lon
series = mm.at_points(places, "2021-08-02/2021-08-08", source="demo", uncertainty=20)
# For many points give stack="stack.zarr", filled by mmnet stack: from a source, every point is fetched separately.
write_series(series, "points.nc")  # or .csv, .parquet
print(series.set_index("date")[["soil_moisture_estimate", "soil_moisture_std", "smap", "pr"]].round(3))
