"""Real layouts of NetCDF and HDF5, in small files that each test writes; expected cells and days are worked by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pyproj
import pytest
import rasterio
import xarray as xr
from affine import Affine
from numpy.typing import NDArray

from mmnet_maps.errors import InputError
from mmnet_maps.sources.files.description import Raster, RasterSpec
from mmnet_maps.sources.files.rasters import describe, read_window

SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"
LAMBERT = {
    "grid_mapping_name": "lambert_conformal_conic",
    "standard_parallel": [25.0, 60.0],
    "latitude_of_projection_origin": 42.5,
    "longitude_of_central_meridian": -100.0,
    "false_easting": 0.0,
    "false_northing": 0.0,
}
EASE = {
    "grid_mapping_name": "lambert_cylindrical_equal_area",
    "longitude_of_central_meridian": 0.0,
    "standard_parallel": 30.0,
    "false_easting": 0.0,
    "false_northing": 0.0,
}


def write(
    path: Path,
    axes: dict[str, tuple[Any, dict[str, Any]]],
    values: NDArray[Any] | None = None,
    attributes: dict[str, Any] | None = None,
    others: dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]] | None = None,
) -> Path:
    """Write a variable v along axes, each with its coordinates and their attributes, and other variables."""
    with netCDF4.Dataset(path, "w") as file:
        for name, (coordinates, about) in axes.items():
            file.createDimension(name, len(coordinates))
            coordinate = file.createVariable(name, np.asarray(coordinates).dtype, (name,))
            coordinate.setncatts(about)
            coordinate.set_auto_maskandscale(False)
            coordinate[:] = coordinates
        shape = [len(coordinates) for coordinates, _ in axes.values()]
        values = np.arange(np.prod(shape)).reshape(shape).astype("f4") if values is None else values
        attributes = dict(attributes or {})
        options = {"fill_value": attributes.pop("_FillValue")} if "_FillValue" in attributes else {}
        variable = file.createVariable("v", values.dtype, tuple(axes), **options)
        variable.setncatts(attributes)
        variable.set_auto_maskandscale(False)
        variable[:] = values
        for name, (dims, data, about) in (others or {}).items():
            if "nv" in dims and "nv" not in file.dimensions:
                file.createDimension("nv", 2)
            other = file.createVariable(name, np.asarray(data).dtype, dims)
            other.setncatts(about)
            other[...] = data
    return path


def metres(coordinates: Any, unit: str = "m") -> tuple[Any, dict[str, Any]]:
    return coordinates, {"units": unit}


def lonlat(lon: Any, lat: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    return {"lat": (lat, {"units": "degrees_north"}), "lon": (lon, {"units": "degrees_east"})}


def spec(path: Path, **fields: Any) -> RasterSpec:
    return RasterSpec(path=path, key="pr", **fields)


def whole(raster: Raster, day: date | None = None) -> NDArray[Any]:
    height, width = raster.lattice.shape
    return read_window(raster, slice(0, height), slice(0, width), day)[0]


def affine(raster: Raster) -> tuple[float, ...]:
    found: Affine = raster.lattice.affine
    return found.c, found.a, found.f, found.e


@pytest.mark.parametrize(
    ("unit", "size"), [("m", 1.0), ("km", 1000.0), ("1000 m", 1000.0), ("US survey foot", 0.3048006)]
)
def test_axes_in_any_length_are_those_of_the_projection(tmp_path: Path, unit: str, size: float) -> None:
    x, y = np.array([-1000.0, 0, 1000, 2000]) / size, np.array([2000.0, 1000, 0]) / size
    axes = {"y": metres(y, unit), "x": metres(x, unit)}
    others = {"lcc": ((), np.int32(0), LAMBERT)}
    raster = describe(spec(write(tmp_path / "a.nc", axes, attributes={"grid_mapping": "lcc"}, others=others)))
    assert affine(raster) == pytest.approx((-1500, 1000, 2500, -1000), rel=1e-6)


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ("rad", r"x is in rad, but its CRS, Lambert .* is in metre; warp the file to a map projection"),
        ("degrees_east", r"x is in degrees_east, but its CRS, Lambert .* is in metre; give the CRS of these"),
    ],
)
def test_angles_on_a_projection_are_refused(tmp_path: Path, unit: str, words: str) -> None:
    axes = {"y": metres([0.02, 0.01, 0.0], unit), "x": metres([0.0, 0.01, 0.02], unit)}
    path = write(tmp_path / "a.nc", axes, attributes={"grid_mapping": "g"}, others={"g": ((), np.int32(0), LAMBERT)})
    with pytest.raises(InputError, match=words) as caught:
        describe(spec(path))
    assert len(str(caught.value)) <= 300


def test_float32_coordinates_of_one_second_are_even(tmp_path: Path) -> None:
    """Of two neighbouring tiles the lines meet, though float32 holds a longitude of 119 degrees to 0.03 cells only."""
    left = describe(spec(write(tmp_path / "a.nc", lonlat(*seconds(0)))))
    right = describe(spec(write(tmp_path / "b.nc", lonlat(*seconds(700)))))
    assert left.lattice.affine.a == 1 / 3600
    assert left.lattice.affine.c == pytest.approx(-119.585 - 0.5 / 3600, abs=0.002 / 3600)
    assert (right.lattice.affine.c - left.lattice.affine.c) * 3600 == pytest.approx(700, abs=0.01)
    irregular = np.cumsum(np.linspace(1, 1.4, 50)).astype("f4")
    with pytest.raises(InputError, match="lon is not evenly spaced; expected a regular grid; warp the file"):
        describe(spec(write(tmp_path / "c.nc", lonlat(irregular, [2.0, 1.0]))))
    coarse = (100 + np.arange(20) * 1e-5).astype("f4")
    with pytest.raises(InputError, match="lon is not evenly spaced"):
        describe(spec(write(tmp_path / "d.nc", lonlat(coarse, [2.0, 1.0]))))


def seconds(first: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    lon = (-119.585 + (first + np.arange(700)) / 3600).astype("f4")
    return lon, (47.11 - np.arange(500) / 3600).astype("f4")


def test_columns_from_the_east_and_longitudes_from_0_to_360(tmp_path: Path) -> None:
    """A world of 30 degrees from Greenwich on: v is the longitude of the cell in degrees east of Greenwich."""
    lon = np.arange(0.0, 360, 30)
    values = np.broadcast_to(lon, (2, 12)).astype("f4")
    east = describe(spec(write(tmp_path / "east.nc", lonlat(lon[::-1], [15.0, -15]), values[:, ::-1])))
    west = describe(spec(write(tmp_path / "west.nc", lonlat(lon, [15.0, -15]), values)))
    for raster in (east, west):
        assert affine(raster) == (-195, 30, 30, -30)
        np.testing.assert_array_equal(whole(raster)[0, 0], [*range(180, 360, 30), *range(0, 180, 30)])
        np.testing.assert_array_equal(read_window(raster, slice(0, 1), slice(5, 8), None)[0][0, 0], [330, 0, 30])
    part = describe(spec(write(tmp_path / "part.nc", lonlat([240.0, 241, 242], [41.0, 40]))))
    assert affine(part)[:2] == (-120.5, 1)


@pytest.mark.parametrize(
    ("others", "mapping", "cell", "note"),
    [
        ({"lon_bnds": (("lon", "nv"), [[-100.25, -100.0]], {})}, {}, 0.25, "as wide as its bounds: 0.25 degrees_east"),
        ({}, {"GeoTransform": "-100.25 0.25 0 42.25 0 -0.5"}, 0.25, "its size 0.25 is that of GeoTransform"),
        ({}, {}, 0.5, "taken to be square: 0.5 degrees_east"),
    ],
)
def test_one_column(tmp_path: Path, others: dict[str, Any], mapping: dict[str, str], cell: float, note: str) -> None:
    axes = lonlat([-100.125], [42.0, 41.5, 41.0])
    axes["lon"][1].update({"bounds": "lon_bnds"} if others else {})
    others = others | {"crs": ((), np.int32(0), {"spatial_ref": pyproj.CRS(4326).to_wkt(), **mapping})}
    asked = spec(write(tmp_path / "a.nc", axes, attributes={"grid_mapping": "crs"}, others=others), variable="v")
    assert affine(describe(asked)) == (-100.125 - cell / 2, cell, 42.25, -0.5)
    assert len(asked.notes) == 1
    assert note in asked.notes[0]


def test_a_single_cell_without_bounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lon and lat are one cell without bounds.*; take a larger subset"):
        describe(spec(write(tmp_path / "a.nc", lonlat([-100.0], [42.0]))))


def test_bounds_decide_where_coordinates_are_corners(tmp_path: Path) -> None:
    axes = lonlat([-100.0, -99, -98], [42.0, 41])
    axes["lon"][1]["bounds"] = "lon_bnds"
    bounds = {"lon_bnds": (("lon", "nv"), [[-100.0, -99], [-99, -98], [-98, -97]], {})}
    asked = spec(write(tmp_path / "a.nc", axes, others=bounds))
    assert affine(describe(asked))[:2] == (-100, 1)
    assert asked.notes == ["lon is not the middle of its bounds; the bounds are used"]


def test_packed_coordinates_are_unpacked(tmp_path: Path) -> None:
    axes = {
        "y": (np.array([4, 3, 2], "i2"), {"units": "m", "scale_factor": 30.0, "add_offset": 15.0}),
        "x": (np.array([0, 1], "i2"), {"units": "m", "scale_factor": 30.0, "add_offset": 15.0}),
    }
    assert affine(describe(spec(write(tmp_path / "a.nc", axes), crs="EPSG:32611"))) == (0, 30, 150, -30)


def days_since(start: str, numbers: Any, **about: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    return {"time": (np.asarray(numbers), {"units": f"days since {start}", **about}), **lonlat([1.0, 2], [2.0, 1])}


@pytest.mark.parametrize(
    ("start", "numbers", "calendar", "days", "steps"),
    [
        # 2021-08-08 is 7890 days of our calendar after 2000-01-01, 7885 days without leap days, 7777 of 30-day months.
        ("2000-01-01", [7890], "julian", [date(2021, 8, 8)], (0,)),
        ("2000-01-01", [7890.5], "proleptic_gregorian", [date(2021, 8, 8)], (0,)),
        ("2000-01-01", [7884], "noleap", [date(2021, 8, 8)], (0,)),
        ("2000-01-01", [21 * 360 + 7 * 30 + 7], "360_day", [date(2021, 8, 8)], (0,)),
        ("2021-02-01", [27, 28, 29, 30], "360_day", [date(2021, 2, 28), date(2021, 3, 1)], (0, 3)),
        ("2020-02-01", [27, 28, 29], "365_day", [date(2020, 2, 28), date(2020, 3, 1), date(2020, 3, 2)], (0, 1, 2)),
        ("2021-01-01", [0.0, np.nan, 2.0], "standard", [date(2021, 1, 1), date(2021, 1, 3)], (0, 2)),
    ],
)
def test_calendars(
    tmp_path: Path, start: str, numbers: Any, calendar: str, days: list[date], steps: tuple[int, ...]
) -> None:
    asked = spec(write(tmp_path / "a.nc", days_since(start, numbers, calendar=calendar)))
    raster = describe(asked)
    assert raster.days == tuple(days)
    assert raster.steps == steps
    assert bool(asked.notes) == (len(steps) < len(numbers))
    np.testing.assert_array_equal(whole(raster, days[-1])[0], 4 * steps[-1] + np.arange(4).reshape(2, 2))


def test_an_unreadable_calendar_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", days_since("2000-01-01", [1, 2], calendar="lunisolar"))
    with pytest.raises(
        InputError, match=r"time has the calendar 'lunisolar' and the units 'days since 2000-01-01'"
    ) as e:
        describe(spec(path))
    assert len(str(e.value)) <= 300
    path = write(tmp_path / "b.nc", {"time": ([2454101.5, 2454132.5], {"units": "day"}), **lonlat([1.0, 2], [2.0, 1])})
    with pytest.raises(InputError, match=r"time has the calendar 'standard' and the units 'day'"):
        describe(spec(path))


def test_a_time_axis_without_a_day_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", days_since("2021-02-01", [28, 29], calendar="360_day"))
    with pytest.raises(InputError, match="no step of time is a day"):
        describe(spec(path))


def test_a_scalar_time_states_the_day(tmp_path: Path) -> None:
    time = {"time": ((), 7890.0, {"units": "days since 2000-01-01"})}
    raster = describe(spec(write(tmp_path / "a.nc", lonlat([1.0, 2], [2.0, 1]), others=time)))
    assert raster.days == (date(2021, 8, 8),)
    assert whole(raster, date(2021, 8, 8)).shape == (1, 2, 2)
    time["time"][2]["calendar"] = "lunisolar"
    asked = spec(write(tmp_path / "b.nc", lonlat([1.0, 2], [2.0, 1]), others=time))
    assert describe(asked).days is None
    assert "lunisolar" in asked.notes[0]


def test_values_outside_the_valid_range_are_missing(tmp_path: Path) -> None:
    attributes = {"valid_range": np.array([1, 200], "u1"), "_Unsigned": "true"}
    stored = np.array([[0, 1], [-56, -1]], "i1")  # 200 and 255 as unsigned bytes
    raster = describe(spec(write(tmp_path / "a.nc", lonlat([1.0, 2], [2.0, 1]), stored, attributes)))
    found, missing = read_window(raster, slice(0, 2), slice(0, 2), None)
    np.testing.assert_array_equal(found[0], [[0, 1], [200, 255]])
    np.testing.assert_array_equal(missing[0], [[True, False], [False, True]])


def test_the_crs_of_the_yaml_replaces_that_of_the_file(tmp_path: Path) -> None:
    axes = {"y": metres([2000.0, 1000]), "x": metres([0.0, 1000])}
    wrong = {"lcc": ((), np.int32(0), {**LAMBERT, "standard_parallel": [25.0, 45.0]})}
    path = write(tmp_path / "a.nc", axes, attributes={"grid_mapping": "lcc"}, others=wrong)
    right = "+proj=lcc +lat_1=25 +lat_2=60 +lat_0=42.5 +lon_0=-100 +ellps=WGS84 +units=m"
    asked = spec(path, crs=right)
    assert describe(asked).lattice.crs == right
    assert asked.notes == [
        f"the CRS {right[:59]}… of the sources YAML replaces the file's own, Lambert Conic Conformal (2SP) "
        "(25, 45, 42.5, -100, 0, 0)"
    ]
    same = spec(path, crs=pyproj.CRS.from_cf(wrong["lcc"][2]).to_wkt())
    assert describe(same).lattice.crs != right
    assert same.notes == []
    with pytest.raises(InputError, match=r"crs in the sources YAML is nonsense, .*; correct it"):
        describe(spec(path, crs="nonsense"))


def smap_subset(path: Path, *, attached: bool, shape: tuple[int, int] = (3, 4), more: bool = False) -> Path:
    """Write SPL4SMGP as Harmony cuts it: the array in a group, x and y at the root, linked to them or not."""
    with h5py.File(path, "w") as file:
        for name, count, sign in (("y", shape[0], -1), ("x", shape[1], 1)):
            file[name] = sign * 9000.0 * np.arange(count)
            file[name].make_scale(name)
            file[name].attrs.update({"units": "m", "standard_name": f"projection_{name}_coordinate"})
        if more:
            file["easting"] = np.arange(shape[1])
        values = np.arange(np.prod(shape), dtype="f4").reshape(shape)
        array = file.create_dataset("Geophysical_Data/sm_surface", data=values)
        array.attrs["grid_mapping"] = "EASE2_global_projection"
        file.create_dataset("EASE2_global_projection", data=b"").attrs.update(EASE)
        if attached:
            array.dims[0].attach_scale(file["y"])
            array.dims[1].attach_scale(file["x"])
    return path


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("shape", [(3, 4), (3, 3)])
def test_coordinates_of_the_root_belong_to_an_array_in_a_group(
    tmp_path: Path, *, attached: bool, shape: tuple[int, int]
) -> None:
    asked = spec(smap_subset(tmp_path / "a.h5", attached=attached, shape=shape), variable="Geophysical_Data/sm_surface")
    raster = describe(asked)
    assert affine(raster) == (-4500, 9000, 4500, -9000)
    assert raster.lattice.crs is not None
    assert raster.lattice.crs.proj.equals("EPSG:6933")
    np.testing.assert_array_equal(whole(raster)[0].ravel(), np.arange(np.prod(shape)))
    # Of a square, nothing states which side is y; of any other array its length does.
    assert bool(asked.notes) == (not attached and shape == (3, 3))


def test_ambiguous_coordinates_are_refused(tmp_path: Path) -> None:
    path = smap_subset(tmp_path / "a.h5", attached=False, more=True)
    with pytest.raises(InputError, match=r"easting and x have the same length, and nothing states which"):
        describe(spec(path, variable="Geophysical_Data/sm_surface"))


def test_coordinates_of_the_parent_group(tmp_path: Path) -> None:
    """VNP21A1D: XDim and YDim lie in the grid's group, the field in its child."""
    grid = "HDFEOS/GRIDS/VIIRS_Grid_Daily_1km_LST21"
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group(grid)
        array = group.create_dataset("Data Fields/LST_1KM", data=np.full((2, 3), 15500, "u2"))
        for k, (name, values) in enumerate((("YDim", [1000.0, 0]), ("XDim", [0.0, 1000, 2000]))):
            group[name] = values
            group[name].make_scale(name)
            array.dims[k].attach_scale(group[name])
    raster = describe(spec(tmp_path / "a.h5", variable=f"{grid}/Data Fields/LST_1KM", crs=SINUSOIDAL))
    assert affine(raster) == (-500, 1000, 1500, -1000)
    assert (whole(raster) == 15500).all()


def other_group(path: Path) -> dict[str, str]:
    with h5py.File(path / "a.h5", "w") as file:
        array = file.create_dataset("A/v", data=np.zeros((2, 2)))
        for k, name in enumerate(("y", "x")):
            file[f"B/{name}"] = [1.0, 0.0]
            file[f"B/{name}"].make_scale(name)
            array.dims[k].attach_scale(file[f"B/{name}"])
    return {"path": "a.h5", "variable": "A/v"}


def complex_numbers(path: Path) -> dict[str, str]:
    with h5py.File(path / "a.h5", "w") as file:
        file["v"] = np.ones((2, 2), "c8")
    return {"path": "a.h5", "variable": "v"}


def complex_image(path: Path) -> dict[str, str]:
    options = {"width": 2, "height": 2, "count": 1, "dtype": "complex64", "crs": "EPSG:5070"}
    with rasterio.open(path / "a.tif", "w", driver="GTiff", transform=Affine(30, 0, 0, 0, -30, 0), **options) as image:
        image.write(np.ones((1, 2, 2), "c8"))
    return {"path": "a.tif"}


def foreign_crs(path: Path) -> dict[str, str]:
    options = {"width": 2, "height": 2, "count": 1, "dtype": "uint8", "crs": 'LOCAL_CS["site",UNIT["metre",1]]'}
    with rasterio.open(path / "a.tif", "w", driver="GTiff", transform=Affine(30, 0, 0, 0, -30, 0), **options) as image:
        image.write(np.ones((1, 2, 2), "u1"))
    return {"path": "a.tif"}


def many_variables(path: Path) -> dict[str, str]:
    write(path / "a.nc", lonlat([1.0, 2], [2.0, 1]), others={f"other_{k}": ((), 0.0, {}) for k in range(90)})
    return {"path": "a.nc", "variable": "w"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (other_group, "its variables have dimensions of another group"),
        (complex_numbers, "v holds complex or compound numbers; expected real numbers"),
        (complex_image, r"band 1 holds complex numbers \(complex64\); expected real ones"),
        (foreign_crs, "which gives no longitude and latitude on the Earth; expected one such as EPSG:5070; give"),
        (many_variables, r"no variable w; expected one of v, other_0, .* and 85 others; correct 'variable'"),
    ],
)
def test_what_is_refused_is_named_in_a_short_line(
    tmp_path: Path, make: Callable[[Path], dict[str, str]], words: str
) -> None:
    fields: dict[str, Any] = make(tmp_path)
    fields["path"] = tmp_path / fields["path"]
    with pytest.raises(InputError, match=words) as caught:
        describe(RasterSpec(key="pr", **fields))
    text = str(caught.value)
    assert len(text) <= 300
    assert "[" not in text.replace(str(tmp_path), "")


def test_a_folder_above_a_group_of_zarr_need_not_be_a_group(tmp_path: Path) -> None:
    dataset = xr.Dataset({"v": (("y", "x"), np.ones((2, 2)))}, {"y": [1.0, 0.0], "x": [0.0, 1.0]})
    dataset.to_zarr(tmp_path / "a.zarr", group="inner", zarr_format=3, consolidated=False)
    (tmp_path / "a.zarr" / "zarr.json").unlink()
    raster = describe(spec(tmp_path / "a.zarr", variable="inner/v", crs="EPSG:5070"))
    assert affine(raster) == (-0.5, 1, 1.5, -1)
