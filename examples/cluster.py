"""Maps from a Dask cluster: its workers compute the tiles and days of a lazy array and write them to a Zarr store."""

import xarray as xr
from dask.distributed import Client, LocalCluster

import mmnet_maps as mm


def main():
    product = mm.downscale_product("-119.60,47.08,-119.50,47.14", "2021-08-02/2021-08-08", source="demo", threads=1)
    # Two processes on this machine. For another cluster use Client("tcp://scheduler:8786"); stack and store must be
    # where all its workers can reach them.
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        product.to_zarr("moses_lake.zarr", mode="w", consolidated=False)
    means = xr.open_zarr("moses_lake.zarr", consolidated=False).soil_moisture.mean(("y", "x"))
    print(means.to_series().round(4))


if __name__ == "__main__":  # every worker imports this file
    main()
