"""Maps beside station observations: series, metrics and a picture. The observations are MADE UP: use your own."""

import pandas as pd

import mmnet_maps as mm
from mmnet_maps.analysis.series import metrics, series_for
from mmnet_maps.analysis.series_io import write_series
from mmnet_maps.analysis.series_plot import draw_series
from mmnet_maps.metrics import format_report

product = mm.downscale_product("-119.60,47.08,-119.50,47.14", "2021-07-29/2021-08-08", source="demo")
product.to_zarr("moses_lake.zarr", mode="w", consolidated=False)  # or use the output folder of mmnet-map

made_up = {  # station: latitude, longitude, soil moisture day by day in m³/m³
    "made-up A": (47.12, -119.53, [0.09, 0.09, 0.08, 0.08, 0.08, 0.08, 0.08, 0.13, 0.15, 0.18, 0.2]),
    "made-up B": (47.1, -119.57, [0.13, 0.13, 0.12, 0.12, 0.12, None, 0.11, 0.14, 0.14, 0.17, 0.19]),
}
days = pd.date_range("2021-07-29", "2021-08-08")
tables = [
    pd.DataFrame({"station": name, "lat": lat, "lon": lon, "date": days, "soil_moisture": values})
    for name, (lat, lon, values) in made_up.items()
]
pd.concat(tables).to_csv("observations.csv", index=False)  # the format that mmnet points --points reads

series = series_for(points=["observations.csv"], maps=["moses_lake.zarr"])
write_series(series, "series.csv")
draw_series(series, "series.png")
print("The observations are made up, so these metrics say nothing of the model:")
print(format_report(metrics(series)))
