"""Map many tiles on many days with Dask."""
