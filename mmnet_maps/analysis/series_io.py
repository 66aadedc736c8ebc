"""Write series at points as CSV, Parquet, or NetCDF in CF's discrete sampling geometry."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmnet_maps.errors import InputError, OutputError, RequestError, brief
from mmnet_maps.files import write_whole
from mmnet_maps.grid.polygons import shown
from mmnet_maps.product.layers import LAYERS, array_attributes, global_attributes
from mmnet_maps.variables import VARIABLES

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

ENDINGS = (".csv", ".parquet", ".nc")

_LIKE_SOIL_MOISTURE = {
    "soil_moisture": "observed surface soil moisture",
    "soil_moisture_estimate": "estimated surface soil moisture, 0-5 cm",
    "soil_moisture_filled": "observed surface soil moisture, estimated where there is none",
}
_COORDINATES: dict[str, dict[str, Any]] = {
    "station_name": {"long_name": "name of the place", "cf_role": "timeseries_id"},
    "lat": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"},
    "lon": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"},
    "time": {"standard_name": "time", "long_name": "day", "axis": "T", "units_metadata": "leap_seconds: none"},
}


def check_target(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Refuse an output of another kind, or one that is also an input, before any work is done.

    Parameters
    ----------
    path
        The file to write the series to.
    inputs
        Files that the series are made from; anything that is not a file is ignored.

    Raises
    ------
    RequestError
        The name does not end in one of `ENDINGS`, or it is one of the inputs.
    """
    if Path(path).suffix not in ENDINGS or os.path.isdir(path):
        raise RequestError(
            f"the series cannot be written to {shown(path)}; give a file whose name ends in .csv, .parquet or .nc"
        )
    for one in inputs:
        if os.path.exists(path) and os.path.exists(one) and os.path.samefile(path, one):
            raise RequestError(f"{shown(path)} is one of the inputs of the series; give another --out")


def write_series(series: pd.DataFrame, path: str | Path) -> None:
    """Write series as CSV, Parquet or NetCDF, by the ending of the file; it appears whole or not at all.

    Parameters
    ----------
    series
        One row per place and day: ``station, date, lat, lon`` and values (`series.series_for`). Its ``attrs`` become
        global attributes of NetCDF.
    path
        The file. The same series give the same bytes.

    Raises
    ------
    RequestError
        The ending is not one of `ENDINGS`.
    InputError
        Two places have the same name (NetCDF).
    OutputError
        The file cannot be written.
    """
    check_target(path)
    path = Path(path)
    data: bytes | str
    if path.suffix == ".parquet":
        data = _parquet(series)
    elif path.suffix == ".csv":
        data = _csv(series)
    else:
        try:
            data = _netcdf(to_dataset(series))
        except OSError as error:
            raise OutputError(
                f"cannot write {shown(path)}: {error.strerror or brief(error)}; make room for temporary files"
            ) from None
    write_whole(path, data)


def _csv(series: pd.DataFrame) -> str:
    places = {name: series[name].map("{:.6f}".format) for name in ("lat", "lon")}  # 0.1 m
    shown = series.assign(**places)
    return shown.to_csv(index=False, date_format="%Y-%m-%d", float_format="%.4f", lineterminator="\n")


def _parquet(series: pd.DataFrame) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = BytesIO()
    pq.write_table(pa.Table.from_pandas(series, preserve_index=False), out)
    return out.getvalue()


def to_dataset(series: pd.DataFrame) -> xr.Dataset:
    """Convert series to a dataset (station, time): CF's orthogonal multidimensional array representation.

    Parameters
    ----------
    series
        See `write_series`.

    Returns
    -------
    xarray.Dataset
        Each place once, in order, by ``station_name``, and every day that any place has. Where a place has no row for a
        day, values are NaN and ``quality`` has the flag of pixels outside the area.

    Raises
    ------
    InputError
        Two places have the same name.
    """
    import pandas as pd
    import xarray as xr

    positions = series[["station", "lat", "lon"]].drop_duplicates()
    if (twice := positions["station"].duplicated(keep=False)).any():
        name, lat, lon = positions[twice].iloc[0]
        raise InputError(
            f"station {brief(name, 60)} is at {lon:.6f},{lat:.6f} and elsewhere; give each place a name of its own"
        )
    row, names = pd.factorize(series["station"])
    days, column = np.unique(series["date"].to_numpy().astype("datetime64[D]"), return_inverse=True)
    places = series.drop_duplicates("station")
    found = xr.Dataset(
        coords={
            "station_name": ("station", np.array(names, object)),  # coordinates of a dimension are numbers in CF
            "time": ("time", days.astype("datetime64[ns]")),
            "lat": ("station", places["lat"].to_numpy(np.float64)),
            "lon": ("station", places["lon"].to_numpy(np.float64)),
        }
    )
    for name, attributes in _COORDINATES.items():
        found[name].attrs = attributes
    texts = ["station", "date", "lat", "lon", "drought_class"]  # a class follows from the percentile
    for name in series.columns.drop(texts, errors="ignore"):
        given = series[name].to_numpy()
        fill = LAYERS["quality"].fill if name == "quality" else np.nan
        values = np.full((len(names), len(days)), fill, given.dtype)
        values[row, column] = given
        found[name] = ("station", "time"), values, _attributes(name)
    about = {**global_attributes({str(key): value for key, value in series.attrs.items()}), "featureType": "timeSeries"}
    found.attrs = {**about, "title": "Surface soil moisture at points, day by day"}
    return found


def _attributes(name: str) -> dict[str, Any]:
    """Return the CF attributes of a column."""
    if name in LAYERS or name in _LIKE_SOIL_MOISTURE:
        found = array_attributes(name if name in LAYERS and name != "soil_moisture" else "soil_moisture")
        del found["grid_mapping"]
        found.pop("ancillary_variables", None)
        return found | ({"long_name": _LIKE_SOIL_MOISTURE[name]} if name in _LIKE_SOIL_MOISTURE else {})
    variable = VARIABLES[name]
    found = {"long_name": variable.long_name, "units": variable.units}
    return found | ({"standard_name": variable.standard_name} if variable.standard_name else {})


def _netcdf(data: xr.Dataset) -> bytes:
    plain: dict[str, dict[str, Any]] = {name: {"_FillValue": None} for name in ("lat", "lon", "time", "quality")}
    encoding = {name: plain[name] for name in plain if name in data.variables}
    encoding["time"] |= {"units": "days since 1970-01-01", "dtype": "int32"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "series.nc")
        data.to_netcdf(path, engine="netcdf4", encoding=encoding)
        return path.read_bytes()
