"""From request to product: lazy equals eager, tiled equals whole, and both equal the plain network pixel by pixel."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shlex
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from threading import Event
from typing import Any

import netCDF4
import numpy as np
import pytest
import rasterio
import rioxarray
import shapely
import torch
import xarray as xr

import mmnet_maps as mm
from analytic import GROUPS, AnalyticSource, make_model
from mmnet_maps.cli.stack import stack_command
from mmnet_maps.errors import InputError, OutputError, RequestError
from mmnet_maps.grid.area import read_aoi, transform_geometry
from mmnet_maps.grid.lattice import lonlat, window_of
from mmnet_maps.grid.polygons import LONLAT
from mmnet_maps.grid.tiles import Tile, conus_grid, target_grid, touched_tiles
from mmnet_maps.mapping.lazy import lazy
from mmnet_maps.mapping.pipeline import compute_layers, make_maps, map_tile, read_parts, write_days
from mmnet_maps.mapping.request import Request, needs_of, prepare
from mmnet_maps.product.day_writer import DayProduct
from mmnet_maps.product.layers import LAYERS
from mmnet_maps.product.quality import QUALITY_BITS
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand
from mmnet_maps.stack.store import Stack

AREA = "-119.60,47.74,-119.40,47.90"  # over the edge between h06v02 and h06v03
DAYS = ["2021-08-07", "2021-08-09"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A stack for `AREA` and `DAYS` with all that any of the test models needs."""
    area = read_aoi(AREA)
    grid = target_grid(area)
    needs = needs_of(mm.load_model(model).spec)
    needs = dataclasses.replace(needs, series=(*needs.series, "smap"))  # what the transformers want
    path = tmp_path_factory.mktemp("inputs") / "s.zarr"
    days = [date.fromisoformat(day) for day in DAYS]
    fetch(
        path, [AnalyticSource()], Demand(grid=grid, tiles=touched_tiles(area, grid), needs=needs, days=days), quiet=True
    )
    return path


@pytest.fixture
def job(inputs: Path, model: Path) -> Request:
    return prepare(AREA, DAYS, stack=inputs, model=model, quiet=True)


@pytest.fixture
def write(inputs: Path, model: Path) -> Callable[..., list[DayProduct]]:
    """Write the maps of `AREA` to a folder."""

    def maps(out: Path, days: Any = DAYS, **options: Any) -> list[DayProduct]:
        return make_maps(AREA, days, quiet=True, out=out, **({"stack": inputs, "model": model} | options)).products

    return maps


def bit(quality: np.ndarray, name: str) -> np.ndarray:
    return (quality >> QUALITY_BITS[name] & 1).astype(bool)


def test_downscale_is_lazy_and_georeferenced(inputs: Path, model: Path) -> None:
    sm = mm.downscale(AREA, DAYS, stack=inputs, model=model)
    assert sm.chunks is not None
    assert sm.dims == ("time", "y", "x")
    assert sm.dtype == np.float32
    assert sm.rio.crs.to_epsg() == 5070
    assert sm.rio.transform() == target_grid(read_aoi(AREA)).affine
    assert sm.attrs["units"] == "m3 m-3"
    assert sm.attrs["standard_name"] == "volume_fraction_of_condensed_water_in_soil"
    assert list(sm.time.values) == list(np.array(DAYS, "datetime64[ns]"))
    values = sm.compute()
    assert float(values.min()) >= 0
    assert float(values.max()) <= 0.7
    assert np.isfinite(values).any(("y", "x")).all()


def test_other_formats_know_what_is_missing(tmp_path: Path, inputs: Path, model: Path) -> None:
    """GeoTIFFs have a nodata tag, NetCDF files a fill value, and flags of the variable's own type (CF 3.5)."""
    product = mm.downscale_product(AREA, DAYS[0], stack=inputs, model=model)
    product["soil_moisture"].isel(time=0).rio.to_raster(tmp_path / "a.tif")
    product["quality"].isel(time=0).rio.to_raster(tmp_path / "q.tif")
    with rasterio.open(tmp_path / "a.tif") as moisture, rasterio.open(tmp_path / "q.tif") as quality:
        assert np.isnan(moisture.nodata)
        assert quality.nodata is None
    product.to_netcdf(tmp_path / "a.nc")
    with netCDF4.Dataset(tmp_path / "a.nc") as data:
        assert np.isnan(data["soil_moisture"].getncattr("_FillValue"))
        assert data["quality"].dtype == data["quality"].getncattr("flag_masks").dtype == np.uint16
        assert "_FillValue" not in data["quality"].ncattrs()


def test_lazy_equals_eager_and_any_chunking(job: Request) -> None:
    product = lazy(job)
    whole = product.compute()
    for tile in job.tiles:
        eager = map_tile(job, tile, job.days[1])
        for name in job.layers:
            np.testing.assert_array_equal(eager[name], whole[name].values[1, tile.rows, tile.cols])
    part = product.isel(time=1, y=slice(40, 121), x=slice(17, 90))
    rechunked = part.chunk(y=13, x=29).compute(scheduler="synchronous")
    for name in job.layers:
        np.testing.assert_array_equal(rechunked[name], whole[name].isel(time=1, y=slice(40, 121), x=slice(17, 90)))


def test_tiled_equals_whole(job: Request) -> None:
    assert len(job.tiles) == 2
    shape = job.grid.shape
    whole = map_tile(
        job, Tile(id="all", rows=slice(0, shape[0]), cols=slice(0, shape[1]), geobox=job.grid), job.days[0]
    )
    tiled = lazy(job).isel(time=0).compute()
    np.testing.assert_allclose(whole["soil_moisture"], tiled["soil_moisture"], atol=1e-6, equal_nan=True)
    np.testing.assert_array_equal(whole["quality"], tiled["quality"])
    np.testing.assert_array_equal(whole["smap"], tiled["smap"])


@pytest.mark.parametrize(
    ("architecture", "groups"), [("mmnet", None), ("mmnet", GROUPS), ("mlp", None), ("transformer_full", None)]
)
def test_every_pixel_equals_the_plain_network(inputs: Path, tmp_path: Path, architecture: str, groups: Any) -> None:
    """Features by hand from the closed formula's packed values, through the plain forward pass in float64."""
    model = make_model(tmp_path / "m", architecture, groups=groups)
    job = prepare(AREA, DAYS[1], stack=inputs, model=model, smap_resampling="nearest")
    tile = job.tiles[1]
    found = map_tile(job, tile, job.days[0])
    pixels = np.argwhere(np.isfinite(found["soil_moisture"]))[::307]
    assert len(pixels) > 5
    checkpoint = mm.load_model(model)
    network = checkpoint.network.double()
    for row, col in pixels:
        snapshot, series = features_by_hand(job, tile, row, col, checkpoint.spec)
        with torch.inference_mode():
            expected = network(torch.from_numpy(snapshot)[None], torch.from_numpy(series)[None]).item()
        assert abs(found["soil_moisture"][row, col] - np.clip(expected, 0, 1)) <= 1e-5
    checkpoint.network.float()


def features_by_hand(job: Request, tile: Tile, row: int, col: int, spec: object) -> tuple[np.ndarray, np.ndarray]:
    stack = Stack(job.stack)
    day = job.days[0]
    y = round((conus_grid().affine.f - tile.geobox.affine.f) / 100) + row
    x = round((tile.geobox.affine.c - conus_grid().affine.c) / 100) + col
    longitude, latitude = (values[row, col].astype(float) for values in lonlat(tile.geobox))

    def fine(name: str) -> float:
        def on(when: date | None) -> float:
            return float(stack.read(name, (slice(y, y + 1), slice(x, x + 1)), when)[0, 0])

        if not stack.group_of(name).temporal:
            return on(None)
        seen = [(k, on(date.fromordinal(day.toordinal() + k))) for k in range(-32, 33)]
        known = [(k, value) for k, value in seen if not np.isnan(value)]
        return float(np.interp(0, *zip(*known)))

    def coarse(name: str, when: date) -> float:
        group = stack.group_of(name)
        if group.name == "lst":
            centre = (x + 0.5) * 100 + conus_grid().affine.c, conus_grid().affine.f - (y + 0.5) * 100
        else:
            centre = longitude, latitude
        i = int((group.lattice.affine.f - centre[1]) / group.lattice.affine.a)
        j = int((centre[0] - group.lattice.affine.c) / group.lattice.affine.a)
        days = [date.fromordinal(when.toordinal() + k) for k in (range(-16, 17) if group.name == "lst" else (0,))]
        block = np.stack([stack.read(name, (slice(i - 2, i + 3), slice(j - 2, j + 3)), d) for d in days])
        column = block[:, :, 2] if not np.isnan(block[:, :, 2]).all() else block[:, :, 1]
        known = [(k - len(days) // 2, value) for k, value in enumerate(column[:, 2]) if not np.isnan(value)]
        return float(np.interp(0, *zip(*known)))

    vv, vh, nir, red = fine("vv"), fine("vh"), fine("nir"), fine("red")
    code = int(stack.read("landcover", (slice(y, y + 1), slice(x, x + 1)))[0, 0])
    onehot = [
        1.0 if (name, code) in (("shrubland", 52), ("cropland", 82)) else 0.0 for name in spec.snapshot[6].classes
    ]
    turn = 2 * np.pi * day.timetuple().tm_yday / 365.25
    snapshot = [coarse("smap", day), (nir - red) / (nir + red), vv / vh, fine("elevation"), fine("clay")]
    snapshot += [fine("bulk_density"), *onehot, np.sin(turn), np.cos(turn), latitude]
    days = [date.fromordinal(day.toordinal() + k) for k in range(-3, 1)]
    names = ["pr", "vpd", "lst", *(["smap"] if len(spec.series) == 4 else [])]
    series = np.array([[coarse(name, when) for name in names] for when in days])
    series[:, 0] = np.log1p(series[:, 0])
    scale = np.array(spec.snapshot_std), np.array(spec.series_std)
    return (
        (np.array(snapshot) - spec.snapshot_mean) / scale[0],
        (series - np.array(spec.series_mean)) / scale[1],
    )


def test_quality_says_why(job: Request) -> None:
    product = lazy(job).isel(time=1).compute()
    quality, moisture = product["quality"].values, product["soil_moisture"].values
    inside = shapely.box(*(float(text) for text in AREA.split(",")))
    longitude, latitude = lonlat(job.grid)
    expected = shapely.contains_xy(inside, longitude, latitude)
    assert (bit(quality, "outside_area") != expected).mean() > 0.9
    assert (quality[bit(quality, "outside_area")] == 1).all()
    nodata = bit(quality, "outside_area") | bit(quality, "unknown_land_cover") | bit(quality, "input_missing")
    np.testing.assert_array_equal(np.isnan(moisture), nodata)
    assert bit(quality, "unknown_land_cover").any()
    assert bit(quality, "lst_filled").any()
    assert not bit(quality, "synthetic").any()
    column = np.rint(job.grid.coordinates["x"].values / 100 - 0.5).astype(int)
    unseen = bit(quality, "input_missing")
    assert unseen[:, column % 7 == 0].sum() == unseen.sum() > 0


def test_a_residual_is_added_to_its_variable(inputs: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "residual"
    shutil.copytree(model, folder)
    text = json.loads((folder / "model.json").read_text())
    text["target"]["residual_of"] = "smap"
    (folder / "model.json").write_text(json.dumps(text))
    plain = lazy(prepare(AREA, DAYS[0], stack=inputs, model=model)).compute()
    added = lazy(prepare(AREA, DAYS[0], stack=inputs, model=folder)).compute()
    clipped = bit(added["quality"].values, "clipped") | bit(plain["quality"].values, "clipped")
    difference = (added["soil_moisture"] - plain["soil_moisture"] - plain["smap"]).where(~clipped)
    assert float(np.abs(difference).max()) < 1e-6
    assert int(np.isfinite(difference).sum()) > 1000


def test_files_equal_the_arrays_and_the_second_run_keeps_them(
    job: Request, write: Callable[..., list[DayProduct]], tmp_path: Path
) -> None:
    written = write(tmp_path / "maps")
    assert (tmp_path / "maps/aoi_119.6W_47.74N_119.4W_47.9N_20210807_20210809.png").stat().st_size > 50_000
    product = lazy(job).compute()
    for k, day in enumerate(written):
        for name, layer in ((name, LAYERS[name]) for name in job.layers):
            with rasterio.open(day.layers[name]) as data:
                np.testing.assert_array_equal(data.read(1), layer.pack(product[name].values[k]))
        with rioxarray.open_rasterio(day.layers["soil_moisture"], mask_and_scale=True) as opened:
            np.testing.assert_allclose(opened[0], product["soil_moisture"][k], atol=5.1e-5, equal_nan=True)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "maps").rglob("*") if path.is_file()}
    assert [day.item for day in write(tmp_path / "maps")] == [day.item for day in written]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert {path for path in (tmp_path / "maps").rglob("*") if path.is_file()} == set(stamps)


def test_the_same_request_gives_the_same_bytes(write: Callable[..., list[DayProduct]], tmp_path: Path) -> None:
    (first,), (second,) = (write(tmp_path / folder, DAYS[0]) for folder in "ab")
    for name in first.layers:
        assert first.layers[name].read_bytes() == second.layers[name].read_bytes()


def test_another_model_makes_the_map_again(write: Callable[..., list[DayProduct]], tmp_path: Path) -> None:
    (first,) = write(tmp_path / "maps", DAYS[0])
    assert json.loads(first.item.read_text())["properties"]["version"] == "1"
    other = make_model(tmp_path / "other", name="other")
    (again,) = write(tmp_path / "maps", DAYS[0], model=other)
    assert again.item == first.item
    properties = json.loads(again.item.read_text())["properties"]
    assert properties["version"] == "2"
    assert properties["mmnet:model"] == "other"


def test_a_second_area_does_not_replace_the_maps_of_the_first(inputs: Path, model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"stack": inputs, "model": model, "out": tmp_path / "maps", "quiet": True}
    for name, south in {"north": 47.80, "south": 47.79}.items():
        outline = shapely.box(-119.50, south, -119.49, south + 0.005)
        (tmp_path / name).mkdir()
        (tmp_path / name / "fields.geojson").write_text(shapely.to_geojson(outline))
    request = prepare(tmp_path / "north/fields.geojson", DAYS[0], **options)
    first = write_days(request, request.days, quiet=True)[request.days[0]].item
    before = first.read_bytes()
    with pytest.raises(
        OutputError, match=r"fields_20210807.json is the map of another area .*another --out"
    ) as refused:
        make_maps(tmp_path / "south/fields.geojson", DAYS[0], **options)
    assert len(str(refused.value)) - len(str(first)) < 200
    assert first.read_bytes() == before


def test_a_foreign_picture_of_all_days_is_not_overwritten(
    write: Callable[..., list[DayProduct]], tmp_path: Path
) -> None:
    overview = tmp_path / "aoi_119.6W_47.74N_119.4W_47.9N_20210807_20210809.png"
    overview.write_text("mine")
    with pytest.raises(OutputError, match="never overwritten"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [overview.name]


def test_an_area_without_a_pixel_centre_takes_the_pixels_it_touches(inputs: Path, model: Path) -> None:
    field = shapely.box(-119.50005, 47.80005, -119.50001, 47.80008)
    sm = mm.downscale(field, DAYS[0], stack=inputs, model=model).compute()
    assert 1 <= int(np.isfinite(sm).sum()) <= 4


def test_a_tile_that_is_touched_but_holds_no_pixel(inputs: Path, model: Path) -> None:
    edge = next(tile for tile in prepare(AREA, DAYS[0], stack=inputs, model=model).tiles if tile.id == "h06v03")
    top = shapely.box(*edge.geobox.boundingbox.bbox).bounds[3]
    corner = shapely.box(-1_760_000, top - 20, -1_750_000, top + 3_000)  # 20 m into the tile: above all its centres
    area = transform_geometry(shapely.segmentize(corner, 100), "EPSG:5070", LONLAT)
    job = prepare(area, DAYS[0], stack=inputs, model=model)
    assert {tile.id for tile in job.tiles} == {"h06v02", "h06v03"}
    product = lazy(job).isel(time=0).compute()
    assert (product["quality"].values[-1] == 1).all()
    assert int(np.isfinite(product["soil_moisture"]).sum()) > 1000


def test_a_job_computes_the_same_in_another_folder_after_travelling(
    inputs: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(inputs.parent)
    job = prepare(AREA, DAYS[0], stack=inputs.name, model=os.path.relpath(model), quiet=True)
    tile, day = job.tiles[0], job.days[0]
    here = map_tile(job, tile, day)
    monkeypatch.chdir(tmp_path)
    there = map_tile(pickle.loads(pickle.dumps(job)), tile, day)
    for name in job.layers:
        np.testing.assert_array_equal(here[name], there[name])


def test_a_model_that_changed_on_disk_is_another_request(inputs: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    before = prepare(AREA, DAYS[0], stack=inputs, model=folder, quiet=True)
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text.replace('"name": "random"', '"name": "another"'))
    with pytest.raises(RequestError, match="was changed during the run"):
        map_tile(before, before.tiles[0], before.days[0])
    after = prepare(AREA, DAYS[0], stack=inputs, model=folder, quiet=True)
    assert after.fingerprint(after.days[0]) != before.fingerprint(before.days[0])
    assert lazy(after).attrs["model"] == "another"


def test_substitutes_are_reported(job: Request) -> None:
    assert job.substitutes() == {
        "lst": "closed formula (trained on thermometer)",
        "cr": "closed formula (trained on another radar)",
    }
    assert json.loads(lazy(job).attrs["stand_ins"]) == job.substitutes()


def test_the_command_that_a_message_proposes_is_complete(inputs: Path, model: Path, tmp_path: Path) -> None:
    mine, area = tmp_path / "my stack.zarr", tmp_path / "my fields.geojson"
    mine.symlink_to(inputs)
    area.write_text(shapely.to_geojson(shapely.box(-119.50, 47.80, -119.49, 47.805)))
    days = [*DAYS, "2021-08-20", "2021-08-22/2021-08-23"]
    with pytest.raises(InputError, match=r"needed for the map of 3 days from 2021-08-20 to 2021-08-23; fetch") as error:
        prepare(area, days, stack=mine, model=model, quiet=True)
    text = str(error.value)
    words = shlex.split(text.split("fetch it with: ")[1])
    assert words[:2] == ["mmnet", "stack"]
    params = stack_command.make_context("stack", words[2:]).params
    given = {name: str(params[name]) for name in ("aoi", "source", "model", "out")}
    assert (params["start"], params["dates"]) == (None, ("2021-08-20", "2021-08-22/2021-08-23"))
    assert given == {
        "aoi": str(area),
        "source": "SOURCES.yaml",
        "model": str(model),
        "out": str(mine),
    }
    assert len(text) - sum(text.count(str(path)) * len(str(path)) for path in (mine, area, model)) < 240


def test_refusals(inputs: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="both a stack .* and a source"):
        prepare(AREA, DAYS, stack=inputs, source="demo")
    with pytest.raises(RequestError, match="smap_resampling"):
        prepare(AREA, DAYS, stack=inputs, model=model, smap_resampling="cubic")  # type: ignore[typeddict-item]
    with pytest.raises(InputError, match="no stack at"):
        prepare(AREA, DAYS, stack=tmp_path / "none", model=model)
    with pytest.raises(InputError, match="needed for the map of 2021-08-20"):
        prepare(AREA, "2021-08-20", stack=inputs, model=model)
    thin = make_model(tmp_path / "thin")
    text = json.loads((thin / "model.json").read_text())
    text["snapshot"][4]["name"] = "sand"
    (thin / "model.json").write_text(json.dumps(text))
    assert prepare(AREA, DAYS, stack=inputs, model=thin).needs.snapshot.count("sand") == 1


def test_an_interrupted_map_stops_the_engine(
    write: Callable[..., list[DayProduct]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stops = []
    original = compute_layers

    def spy(job: Request, parts: object, stop: Event, other: object) -> object:
        stops.append(stop)
        return original(job, parts, stop)  # type: ignore[arg-type]

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmnet_maps.mapping.pipeline.compute_layers", spy)
    monkeypatch.setattr("mmnet_maps.product.day_writer.DayWriter.write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "maps")
    assert [stop.is_set() for stop in stops] == [True]
    assert not list((tmp_path / "maps").rglob("*.tif"))


def test_days_that_share_their_series_are_mapped_together(job: Request) -> None:
    def day_batches(*days: int) -> list[list[int]]:
        return [[day.day for day in spell] for spell in job.day_batches([date(2021, 8, day) for day in days])]

    assert day_batches(1, 2, 4, 8, 11, 20) == [[1, 2, 4], [8, 11], [20]]  # series of four days
    assert day_batches(*range(1, 26)) == [[*range(1, 11)], [*range(11, 21)], [*range(21, 26)]]
    many = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, draws=99))  # terms of a hundred networks
    assert len(many.day_batches([date(2021, 8, day) for day in (1, 2)])) == 2
    assert job.day_batches([]) == []


def test_days_together_equal_each_alone(job: Request) -> None:
    assert job.day_batches(job.days) == [job.days]
    for part, layers in compute_layers(job, read_parts(job, job.tiles, job.days)):
        alone = map_tile(job, part.tile, part.day)
        for name in job.layers:
            np.testing.assert_allclose(layers[name], alone[name], atol=1e-6, err_msg=name)


def test_tiles_read_at_once_are_as_one_after_the_other(job: Request) -> None:
    tiles = job.tiles * 3
    alone, together = (list(read_parts(job, tiles, job.days, readers)) for readers in (1, 3))
    for one, other in zip(alone, together, strict=True):
        assert (one.tile, one.day, one.number) == (other.tile, other.day, other.number)
        np.testing.assert_array_equal(one.series_id, other.series_id)
        for name, values in one.columns.items():
            np.testing.assert_array_equal(values, other.columns[name], err_msg=name)
        for name, values in one.block.series.items():
            np.testing.assert_array_equal(values, other.block.series[name], err_msg=name)


def test_a_map_without_a_value_says_why(
    inputs: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bounds, days = "-119.50,47.80,-119.49,47.805", [date(2021, 8, 7)]
    area = read_aoi(bounds)
    shutil.copytree(inputs, tmp_path / "s.zarr")
    stack = Stack(tmp_path / "s.zarr", writable=True)
    group = stack.group_of("clay")
    window = group.whole_blocks(window_of(target_grid(area), group.lattice))
    values = {name: AnalyticSource().value(name, group.lattice[window], days[0]) for name in group.variables}
    stack.write(group.name, window, days[0], values | {"clay": np.full_like(values["clay"], np.nan)})
    options: dict[str, Any] = {"stack": stack.path, "model": model, "out": tmp_path / "maps", "quiet": True}
    (made,) = write_days(prepare(bounds, days, **options), days, quiet=True).values()
    with rasterio.open(made.layers["quality"]) as data:
        quality = data.read(1)
    inside, missing = int((quality != 1).sum()), int(bit(quality, "input_missing").sum())
    assert 0 < missing <= inside
    assert made.why_empty is not None
    assert made.why_empty.startswith(f"{missing:,} of {inside:,}: an input is missing (clay in {missing:,}")
    make_maps(bounds, days, **options)  # keeps it
    assert (
        f"no pixel of {area.name} on 2021-08-07 has a value: {missing:,} of {inside:,}: an input is missing"
        in caplog.text
    )


def test_an_uncertainty_adds_a_layer_and_leaves_the_estimate(job: Request, inputs: Path, model: Path) -> None:
    plain = lazy(job).isel(time=0).compute()
    product = mm.downscale_product(
        AREA, DAYS[0], stack=inputs, model=model, uncertainty=6, members=True, quiet=True, threads=1
    )
    assert product.attrs["members"] == 6
    found = product.isel(time=0).compute()
    np.testing.assert_allclose(found["soil_moisture"], plain["soil_moisture"], atol=1e-6)
    members = found["soil_moisture_members"]
    assert members.dims == ("member", "y", "x")
    assert members.sizes["member"] == 6
    np.testing.assert_allclose(members.std("member", ddof=1), found["soil_moisture_std"], atol=1e-6)
    np.testing.assert_array_equal(np.isnan(found["soil_moisture_std"]), np.isnan(plain["soil_moisture"]))
    assert float(found["soil_moisture_std"].mean()) > 1e-4
    assert found["soil_moisture_std"].attrs["units"] == "m3 m-3"
    assert product.rio.crs.to_epsg() == 5070


def test_an_ensemble_maps_the_mean_and_says_so(inputs: Path, model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", name="other", seed=8)
    product = mm.downscale_product(AREA, DAYS[0], stack=inputs, model=[model, other], quiet=True)
    assert product.attrs["model"] == "random, other"
    assert "soil_moisture_std" in product
    with pytest.raises(RequestError, match="given twice"):
        prepare(AREA, DAYS[0], stack=inputs, model=[model, model], quiet=True)
    with pytest.raises(RequestError, match="no members to keep; give --uncertainty"):
        prepare(AREA, DAYS[0], stack=inputs, model=model, members=True, quiet=True)
    with pytest.raises(RequestError, match="at least 2 members"):
        prepare(AREA, DAYS[0], stack=inputs, model=model, uncertainty=1, quiet=True)


def test_members_are_kept_as_zarr_beside_the_maps(
    write: Callable[..., list[DayProduct]], inputs: Path, model: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"uncertainty": 3, "members": True}
    (day,) = write(tmp_path, DAYS[0], **options)
    assert day.members == tmp_path / "20210807" / "aoi_119.6W_47.74N_119.4W_47.9N_20210807_members.zarr"
    expected = mm.downscale_product(AREA, DAYS[0], stack=inputs, model=model, quiet=True, **options).isel(time=0)
    with xr.open_zarr(day.members) as store:
        np.testing.assert_allclose(store["soil_moisture_members"], expected["soil_moisture_members"], atol=1e-6)
        np.testing.assert_array_equal(store["x"], expected["x"])
    assert write(tmp_path, DAYS[0], **options) == [day]
    (without,) = write(tmp_path, DAYS[0], uncertainty=3)
    assert without.members is None
    assert not day.members.exists()
    with rasterio.open(without.layers["soil_moisture_std"]) as data:
        assert data.tags()["members"] == "3"
