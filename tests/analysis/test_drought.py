"""Maps compared while they are read: in windows and steps, over zones, at points and in the viewer."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from shapely.geometry import box, mapping

from map_files import grid_at
from mmnet_maps.analysis.viewer.data import ViewLayer, open_view
from mmnet_maps.analysis.viewer.scale import layer_scale
from mmnet_maps.analysis.viewer.selection import LayerReader
from mmnet_maps.analysis.zones import zonal_statistics
from mmnet_maps.cli.commands import mmnet
from mmnet_maps.errors import RequestError
from mmnet_maps.grid.lattice import lonlat
from mmnet_maps.mapping.usual import compare_layers, samples_on
from mmnet_maps.plots.colours import DROUGHT_COLOURS
from mmnet_maps.product.climatology import Climatology, Samples
from mmnet_maps.product.climatology_build import add_maps
from mmnet_maps.product.compared_maps import ComparedMaps
from mmnet_maps.product.day_writer import DayWriter, Revision
from mmnet_maps.product.drought import CLASSES, class_names, class_numbers
from mmnet_maps.product.layers import DROUGHT, LAYERS
from mmnet_maps.product.reader import open_maps

GRID = grid_at(0, 0, 40, 30)
DAY = date(2021, 8, 8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of seven years, eight days each, and their climatology."""
    root = tmp_path_factory.mktemp("drought")
    for day in (date(year, 8, day) for year in range(2015, 2022) for day in range(4, 12)):
        values = np.random.default_rng(day.toordinal()).integers(1000, 3000, GRID.shape).astype(np.uint16)
        values[:3, :4] = 65535
        quality = np.where(values == 65535, 1, 0).astype(np.uint16)
        revision = Revision(
            name="area", day=day, geobox=GRID, layers=["soil_moisture", "quality"], fingerprint=f"{day:%Y%m%d}" * 8,
            synthetic=False, properties={"mmnet:synthetic": False, "mmnet:model": "m", "mmnet:inputs": {}},
            tags={"date": str(day), "synthetic": "false"},
        )  # fmt: skip
        with DayWriter(root / "maps", revision) as writer:
            writer.write(slice(0, 40), slice(0, 30), {"soil_moisture": values, "quality": quality})
            writer.finish(None)
    add_maps(open_maps(root / "maps"), root / "clim.zarr", quiet=True)
    return root


@pytest.fixture
def compared(root: Path) -> ComparedMaps:
    return ComparedMaps(open_maps(root / "maps", start=date(2021, 8, 7), end=DAY), Climatology(root / "clim.zarr"))


def whole(root: Path, name: str) -> np.ndarray:
    store = Climatology(root / "clim.zarr")
    moisture = open_maps(root / "maps").read("soil_moisture", DAY, (slice(0, 40), slice(0, 30)))
    return Samples(store, store.place(GRID)).compare(LAYERS["soil_moisture"].pack(moisture), DAY)[0][name]


def test_windows_and_steps(root: Path, compared: ComparedMaps, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compared.layers == ("soil_moisture", *DROUGHT, "quality")
    for name in DROUGHT:
        values = whole(root, name)
        np.testing.assert_array_equal(compared.read(name, DAY, (slice(2, 21), slice(1, 30))), values[2:21, 1:30])
        padded = np.full((40, 32), np.nan)
        padded[:, :30] = values
        cells = padded.reshape(10, 4, 8, 4)
        for block in (1024, 8):
            monkeypatch.setattr("mmnet_maps.product.compared_maps._BLOCK", block)
            found = compared.read(name, DAY, (slice(0, 40), slice(0, 32)), step=4)
            np.testing.assert_allclose(found, np.nanmean(cells, (1, 3)), rtol=1e-5, atol=1e-6)


def test_shares_of_drought_classes_are_those_of_the_pixels(root: Path, compared: ComparedMaps, tmp_path: Path) -> None:
    lon, lat = lonlat(GRID)
    inner = box(float(lon[30, 5]), float(lat[30, 5]), float(lon[5, 25]), float(lat[5, 25]))
    (tmp_path / "z.geojson").write_text(
        json.dumps({"type": "Feature", "properties": {"name": "all"}, "geometry": mapping(inner.buffer(0.05))})
    )
    table = zonal_statistics(compared, tmp_path / "z.geojson", layer="soil_moisture_percentile", quiet=True)
    row = table[table["date"] == str(DAY)].iloc[0]
    values = whole(root, "soil_moisture_percentile")
    numbers = class_numbers(values[np.isfinite(values)])
    assert row["pixels"] == pytest.approx(numbers.size, rel=1e-6)
    shares = [float(np.mean(numbers == number)) for number in range(6)]
    assert row[["none", "d0", "d1", "d2", "d3", "d4"]].tolist() == pytest.approx(shares, abs=1e-4)
    assert min(shares) > 0
    assert row["mean"] == pytest.approx(np.nanmean(values), abs=0.01)
    anomaly = zonal_statistics(compared, tmp_path / "z.geojson", layer="soil_moisture_anomaly", quiet=True)
    mean = anomaly[anomaly["date"] == str(DAY)].iloc[0]
    assert mean["mean"] == pytest.approx(np.nanmean(whole(root, "soil_moisture_anomaly")), abs=1e-4)
    assert mean["p10"] < 0 < mean["p90"]
    assert "d0" not in anomaly


@pytest.fixture
def few(root: Path, tmp_path: Path) -> ComparedMaps:
    """Return the map of a day compared with the maps of three years."""
    added = add_maps(
        open_maps(root / "maps", start=date(2018, 1, 1)), tmp_path / "few.zarr", minimum_years=3, quiet=True
    )
    return ComparedMaps(open_maps(root / "maps", start=DAY, end=DAY), added.climatology)


def test_percentiles_from_few_years_are_flagged_as_in_maps(
    root: Path, few: ComparedMaps, compared: ComparedMaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = (slice(0, 40), slice(0, 30))
    monkeypatch.setattr("mmnet_maps.product.compared_maps._BLOCK", 16)
    own = open_maps(root / "maps").read("quality", DAY, everything)
    layers = {"quality": own, "soil_moisture": few.read("soil_moisture", DAY, everything)}
    short = compare_layers(samples_on(few.climatology.path, GRID), layers, DAY)["quality"]
    np.testing.assert_array_equal(few.read("quality", DAY, everything), short)
    np.testing.assert_array_equal(short == 2048, np.isfinite(few.read("soil_moisture_percentile", DAY, everything)))
    cells = few.read("quality", DAY, (slice(0, 40), slice(0, 32)), step=4)
    assert cells[0, 0] == 1  # outside, as it is in its file
    assert (cells.ravel()[1:] == 2048).all()
    np.testing.assert_array_equal(compared.read("quality", DAY, everything), own)  # seven years


def test_zones_state_the_share_from_few_years(few: ComparedMaps, compared: ComparedMaps, tmp_path: Path) -> None:
    lon, lat = lonlat(GRID)
    field = box(float(lon[30, 5]), float(lat[30, 5]), float(lon[5, 25]), float(lat[5, 25]))
    (tmp_path / "z.geojson").write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": mapping(field)}))

    def share(maps: ComparedMaps) -> list[float]:
        table = zonal_statistics(maps, tmp_path / "z.geojson", layer="soil_moisture_percentile", quiet=True)
        return table["short_climatology"].tolist()

    assert share(few) == [1.0]
    assert share(compared) == [0.0, 0.0]
    assert "short_climatology" not in zonal_statistics(few, tmp_path / "z.geojson", quiet=True)


def run(*words: str | Path) -> None:
    mmnet.main([str(word) for word in words], standalone_mode=False)


def test_the_commands(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lon, lat = (float(part[20, 15]) for part in lonlat(GRID))
    clim = ("--climatology", root / "clim.zarr")
    days = ("--start", "2021-08-07", "--end", DAY)
    run("climatology", root / "maps", "--out", tmp_path / "again.zarr", "-q")
    assert "7 years with maps, 2015 to 2021, 56 days" in capsys.readouterr().out
    for name in ("series.csv", "series.nc"):
        run("points", "--points", f"{lon},{lat}", "--maps", root / "maps", *days, *clim, "--out", tmp_path / name, "-q")
    expected = {name: float(whole(root, name)[20, 15]) for name in DROUGHT}
    row = pd.read_csv(tmp_path / "series.csv", keep_default_na=False).iloc[1]
    assert row["drought_class"] == class_names(np.array([expected["soil_moisture_percentile"]]))[0]
    with xr.open_dataset(tmp_path / "series.nc") as series:
        assert "drought_class" not in series
        assert series["soil_moisture_percentile"].attrs["units"] == "percent"
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-4)
            assert float(series[name][0, 1]) == pytest.approx(value, rel=1e-5)
    field = box(lon - 0.01, lat - 0.01, lon + 0.01, lat + 0.01)
    (tmp_path / "z.geojson").write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": mapping(field)}))
    out = ("--out", tmp_path / "zones.csv", "--picture", tmp_path / "zones.png", "-q")
    zones = ("zones", "--zones", tmp_path / "z.geojson", "--maps", root / "maps", *days, *clim)
    for layer in DROUGHT:
        run(*zones, "--layer", layer, *out)
    run(*zones, "--layer", "soil_moisture_percentile", *out)
    assert {"none", "d4"} <= set(pd.read_csv(tmp_path / "zones.csv"))


def test_the_viewer_shows_classes_in_their_colours(root: Path) -> None:
    reader = LayerReader(open_view([root / "maps"], root / "clim.zarr"))
    layer = reader.layers["soil_moisture_percentile"]
    assert (layer.title, layer.units) == ("Percentile and drought class", "%")
    scale = layer_scale(layer)
    at = np.array([*CLASSES.values(), 50, np.nan], np.float32)
    encoded = scale.encode(at)
    assert [scale.colours[int(k)] for k in encoded[:5]] == [*DROUGHT_COLOURS.values()]
    assert scale.names[int(encoded[5])] == "no drought"
    assert np.isnan(encoded[6])
    assert "D4: 2 % and below" in scale.legend(0, 1)
    low, high = reader.limits("soil_moisture_anomaly")
    assert low == -high
    assert layer_scale(ViewLayer(name=DROUGHT[0], title="Anomaly", units="m³/m³")).classes is None


def test_the_page_opens_with_percentiles(root: Path) -> None:
    pytest.importorskip("panel")
    from mmnet_maps.analysis.viewer.page import Page

    page = Page(open_view([root / "maps"], root / "clim.zarr"))
    for name in DROUGHT:
        page.controls.layer.value = name
        page.change()
    drawn = page.maps.source.data["image"][0]
    assert np.nanmax(drawn) == 5
    assert "D0" in page.controls.legend.object
    assert page.picture().getvalue().startswith(b"\x89PNG")
    page.select(*(GRID.affine * (15.5, 20.5)))
    assert "Percentile and drought class" in page.controls.summary.object


def test_a_stack_is_not_compared(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text(json.dumps({"attributes": {"mmnet_stack_version": 1}}))
    with pytest.raises(RequestError, match="holds inputs, not maps to compare"):
        open_view([tmp_path], "clim.zarr")
